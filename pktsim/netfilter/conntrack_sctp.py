"""SCTP as connection tracking sees it: the states of an association, the chunks that matter, and which state follows.

Follows net/netfilter/nf_conntrack_proto_sctp.c of Linux 6.18 (``sctp_conntracks``). Earlier versions had more heartbeat
states for the further paths, and took no notice of cookies in the unexpected direction (collision of two INITs).

Verification tags and timeouts are the engine's, ``includes/conntrack_sctp.pxi``, which holds this grid in a compact
form; a test holds the two equal.
"""

from __future__ import annotations

import enum
from typing import Final


class SctpState(enum.IntEnum):
    """State of an association; index of the grid's last dimension."""

    NONE = 0
    CLOSED = 1  # also: INIT seen
    COOKIE_WAIT = 2  # INIT_ACK seen
    COOKIE_ECHOED = 3  # COOKIE_ECHO seen
    ESTABLISHED = 4  # COOKIE_ACK seen
    SHUTDOWN_SENT = 5  # SHUTDOWN of the side that began seen
    SHUTDOWN_RECD = 6  # SHUTDOWN of the other side seen
    SHUTDOWN_ACK_SENT = 7
    HEARTBEAT_SENT = 8  # the first chunk seen was a heartbeat: a further path of a multihomed association
    INVALID = 9  # no state: the packet cannot belong here


class SctpEvent(enum.IntEnum):
    """The chunks that change states (RFC 9260 section 3.2), in the grid's order. All others leave it as it is."""

    INIT = 0
    INIT_ACK = 1
    ABORT = 2
    SHUTDOWN = 3
    SHUTDOWN_ACK = 4
    ERROR = 5
    COOKIE_ECHO = 6
    COOKIE_ACK = 7
    SHUTDOWN_COMPLETE = 8
    HEARTBEAT = 9
    HEARTBEAT_ACK = 10


#: Chunk type on the wire of each event.
CHUNK_TYPES: Final[dict[SctpEvent, int]] = {
    SctpEvent.INIT: 1,
    SctpEvent.INIT_ACK: 2,
    SctpEvent.ABORT: 6,
    SctpEvent.SHUTDOWN: 7,
    SctpEvent.SHUTDOWN_ACK: 8,
    SctpEvent.ERROR: 9,
    SctpEvent.COOKIE_ECHO: 10,
    SctpEvent.COOKIE_ACK: 11,
    SctpEvent.SHUTDOWN_COMPLETE: 14,
    SctpEvent.HEARTBEAT: 4,
    SctpEvent.HEARTBEAT_ACK: 5,
}

_CL = SctpState.CLOSED
_CW = SctpState.COOKIE_WAIT
_CE = SctpState.COOKIE_ECHOED
_ES = SctpState.ESTABLISHED
_SS = SctpState.SHUTDOWN_SENT
_SR = SctpState.SHUTDOWN_RECD
_SA = SctpState.SHUTDOWN_ACK_SENT
_HS = SctpState.HEARTBEAT_SENT
_IV = SctpState.INVALID

#: ``GRID[direction][event][state]`` is the state that follows (direction: conntrack_tcp.Direction).
GRID: Final[tuple[tuple[tuple[SctpState, ...], ...], ...]] = (
    (  # packets of the side that began
        # NONE, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS
        (_CL, _CL, _CW, _CE, _ES, _CL, _CL, _SA, _CW),  # INIT: also over an association that is shutting down
        (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _CL),  # INIT_ACK
        (_CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL),  # ABORT
        (_CL, _CL, _CW, _CE, _SS, _SS, _SR, _SA, _CL),  # SHUTDOWN
        (_SA, _CL, _CW, _CE, _ES, _SA, _SA, _SA, _SA),  # SHUTDOWN_ACK: first of all, out of the blue (section 8.4)
        # NONE, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS
        (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _CL),  # ERROR
        (_CL, _CL, _CE, _CE, _ES, _SS, _SR, _SA, _CL),  # COOKIE_ECHO
        (_CL, _CL, _CW, _ES, _ES, _SS, _SR, _SA, _CL),  # COOKIE_ACK: after a collision the originator may send it
        (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _CL, _CL),  # SHUTDOWN_COMPLETE
        (_HS, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),  # HEARTBEAT
        (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),  # HEARTBEAT_ACK
    ),
    (  # packets of the side that answers
        # NONE, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS
        (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _IV),  # INIT
        (_IV, _CW, _CW, _CE, _ES, _SS, _SR, _SA, _IV),  # INIT_ACK
        (_IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _IV),  # ABORT
        (_IV, _CL, _CW, _CE, _SR, _SS, _SR, _SA, _IV),  # SHUTDOWN
        (_IV, _CL, _CW, _CE, _ES, _SA, _SA, _SA, _IV),  # SHUTDOWN_ACK
        # NONE, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS
        (_IV, _CL, _CW, _CL, _ES, _SS, _SR, _SA, _IV),  # ERROR: a stale cookie
        (_IV, _CL, _CE, _CE, _ES, _SS, _SR, _SA, _IV),  # COOKIE_ECHO: after a collision the answering side may send it
        (_IV, _CL, _CW, _ES, _ES, _SS, _SR, _SA, _IV),  # COOKIE_ACK
        (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _CL, _IV),  # SHUTDOWN_COMPLETE
        (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),  # HEARTBEAT
        (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _ES),  # HEARTBEAT_ACK
    ),
)


def next_state(direction: int, event: SctpEvent, state: SctpState) -> SctpState:
    """The grid's cell."""
    return GRID[direction][event][state]
