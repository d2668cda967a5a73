"""TCP as connection tracking sees it: the states of a flow, what a packet is, and which state follows.

Follows net/netfilter/nf_conntrack_proto_tcp.c of Linux 6.18 (``tcp_conntracks``). The grid has changed over time: early
versions ignored a SYN/ACK of the originator (it is invalid now) and did not let the answering side reopen a flow in
TIME_WAIT.

The node stands between the two ends and sees packets that may still be lost, so its states are guesses about both. What
a grid cannot say (ignored packets remembered, RST and window checks, timeouts) is in the engine,
``includes/conntrack_tcp.pxi``, which holds this grid in a compact form; a test holds the two equal.
"""

from __future__ import annotations

import enum
from typing import Final


class Direction(enum.IntEnum):
    """Which side of a flow sent a packet; index of the grid's first dimension."""

    ORIGINAL = 0
    REPLY = 1


class TcpState(enum.IntEnum):
    """State of a flow; index of the grid's last dimension. The last two are no states but fates of the packet."""

    NONE = 0  # no packet yet
    SYN_SENT = 1  # SYN seen
    SYN_RECV = 2  # SYN/ACK seen
    ESTABLISHED = 3  # ACK seen
    FIN_WAIT = 4  # FIN seen
    CLOSE_WAIT = 5  # ACK seen after a FIN
    LAST_ACK = 6  # FIN of the other side seen
    TIME_WAIT = 7  # last ACK seen
    CLOSE = 8  # RST seen
    SYN_SENT2 = 9  # SYN of the answering side seen: simultaneous open
    IGNORE = 10  # the packet may be valid and passes, the flow stays as it is
    INVALID = 11  # the packet cannot belong here


class TcpEvent(enum.IntEnum):
    """What a packet's flags make it; index of the second dimension. RST goes before SYN, then FIN, then ACK."""

    SYN = 0
    SYNACK = 1
    FIN = 2
    ACK = 3
    RST = 4
    NONE = 5  # none of the above: no valid combination, kept out before the grid is asked


#: Bits of ``Entry.flags`` (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
FLAG_WINDOW_SCALE: Final = 0x01  # this side sent the option
FLAG_SACK_PERM: Final = 0x02
FLAG_CLOSE_INIT: Final = 0x04  # this side sent the first FIN
FLAG_BE_LIBERAL: Final = 0x08  # do not look at this side's windows
FLAG_DATA_UNACKNOWLEDGED: Final = 0x10
FLAG_MAXACK_SET: Final = 0x20  # this side has sent an ACK

_NO = TcpState.NONE
_SS = TcpState.SYN_SENT
_SR = TcpState.SYN_RECV
_ES = TcpState.ESTABLISHED
_FW = TcpState.FIN_WAIT
_CW = TcpState.CLOSE_WAIT
_LA = TcpState.LAST_ACK
_TW = TcpState.TIME_WAIT
_CL = TcpState.CLOSE
_S2 = TcpState.SYN_SENT2
_IG = TcpState.IGNORE
_IV = TcpState.INVALID

#: ``GRID[direction][event][state]`` is the state that follows.
GRID: Final[tuple[tuple[tuple[TcpState, ...], ...], ...]] = (
    (  # packets of the side that began
        # A SYN in the middle of a flow may come from a client that started anew while the entry is of its former life;
        # the server's answer will tell (IGNORE). After the end it begins a new flow (RFC 9293 section 3.6.1).
        # _NO, _SS, _SR, _ES, _FW, _CW, _LA, _TW, _CL, _S2
        (_SS, _SS, _IG, _IG, _IG, _IG, _IG, _SS, _SS, _S2),  # SYN
        # Only the second half of a simultaneous open has the originator send one, perhaps twice.
        (_IV, _IV, _SR, _IV, _IV, _IV, _IV, _IV, _IV, _SR),  # SYN/ACK
        # No FIN before the other side has answered. The FIN that follows a FIN is the other side's or a repetition.
        # _NO, _SS, _SR, _ES, _FW, _CW, _LA, _TW, _CL, _S2
        (_IV, _IV, _FW, _FW, _LA, _LA, _LA, _TW, _CL, _IV),  # FIN
        # First packet: a flow from before the node looked (tcp_loose). In LAST_ACK it is the last one, unless it is a
        # challenge ACK (RFC 5961), which the engine knows by what it ignored before.
        (_ES, _IV, _ES, _ES, _CW, _CW, _TW, _TW, _CL, _IV),  # ACK
        # _NO, _SS, _SR, _ES, _FW, _CW, _LA, _TW, _CL, _S2
        (_IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL),  # RST
        (_IV, _IV, _IV, _IV, _IV, _IV, _IV, _IV, _IV, _IV),  # none
    ),
    (  # packets of the side that answers
        # Crossing SYNs are a simultaneous open; after the end the sides may change roles.
        # _NO, _SS, _SR, _ES, _FW, _CW, _LA, _TW, _CL, _S2
        (_IV, _S2, _IV, _IV, _IV, _IV, _IV, _SS, _IV, _S2),  # SYN
        # Once answered it is a repetition, or answers a SYN that was ignored.
        (_IV, _SR, _IG, _IG, _IG, _IG, _IG, _IG, _IG, _SR),  # SYN/ACK
        # _NO, _SS, _SR, _ES, _FW, _CW, _LA, _TW, _CL, _S2
        (_IV, _IV, _FW, _FW, _LA, _LA, _LA, _TW, _CL, _IV),  # FIN
        # An ACK to a SYN: the server still has a connection of which the node knows nothing.
        (_IV, _IG, _SR, _ES, _CW, _CW, _TW, _TW, _CL, _IG),  # ACK
        # _NO, _SS, _SR, _ES, _FW, _CW, _LA, _TW, _CL, _S2
        (_IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL),  # RST
        (_IV, _IV, _IV, _IV, _IV, _IV, _IV, _IV, _IV, _IV),  # none
    ),
)


def next_state(direction: Direction, event: TcpEvent, state: TcpState) -> TcpState:
    """The grid's cell; ``IGNORE`` and ``INVALID`` say what to do with the packet instead."""
    return GRID[direction][event][state]
