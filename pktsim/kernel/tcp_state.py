"""TCP's states, and which state follows which event (RFC 9293 section 3.3.2), as a grid.

The grid says the next state only. What is sent on the way is the business of whoever reports the event. It follows
Linux 6.18 (net/ipv4/tcp.c new_state[], tcp_input.c tcp_fin and tcp_rcv_state_process).
"""

from __future__ import annotations

from enum import IntEnum


class TcpState(IntEnum):
    """Linux's numbers (include/net/tcp_states.h), which ``ss`` and conntrack tools print too."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


class Event(IntEnum):
    """What moves a connection that exists from one state to another."""

    SYN_ACK = 0  # in SYN_SENT: an acceptable SYN-ACK came
    SYN = 1  # in SYN_SENT: a SYN without ACK came (simultaneous open)
    ACK_OF_SYN = 2  # our SYN is acknowledged after SYN_RECV
    CLOSE = 3  # the process will not send any more
    FIN = 4  # the peer's FIN, everything before it received
    ACK_OF_FIN = 5  # our FIN is acknowledged
    ABORT = 6  # RST either way, time-out, fatal ICMP error


_ES = TcpState.ESTABLISHED
_SS = TcpState.SYN_SENT
_SR = TcpState.SYN_RECV
_F1 = TcpState.FIN_WAIT1
_F2 = TcpState.FIN_WAIT2
_TW = TcpState.TIME_WAIT
_CL = TcpState.CLOSE
_CW = TcpState.CLOSE_WAIT
_LA = TcpState.LAST_ACK
_LI = TcpState.LISTEN
_CG = TcpState.CLOSING

#: Rows are states, columns are events; the same state again where the event means nothing (a second FIN, a second
#: close).
NEXT_STATE: dict[TcpState, tuple[TcpState, ...]] = {
    #     SYN_ACK SYN  ACK_OF_SYN CLOSE FIN ACK_OF_FIN ABORT
    _ES: (_ES, _ES, _ES, _F1, _CW, _ES, _CL),
    _SS: (_ES, _SR, _SS, _CL, _SS, _SS, _CL),  # a close before the SYN-ACK sends nothing at all
    _SR: (_SR, _SR, _ES, _F1, _CW, _SR, _CL),
    _F1: (_F1, _F1, _F1, _F1, _CG, _F2, _CL),
    _F2: (_F2, _F2, _F2, _F2, _TW, _F2, _CL),
    _TW: (_TW, _TW, _TW, _TW, _TW, _TW, _CL),
    _CL: (_CL, _CL, _CL, _CL, _CL, _CL, _CL),
    _CW: (_CW, _CW, _CW, _LA, _CW, _CW, _CL),
    _LA: (_LA, _LA, _LA, _LA, _LA, _CL, _CL),
    _LI: (_LI, _LI, _LI, _CL, _LI, _LI, _CL),
    _CG: (_CG, _CG, _CG, _CG, _CG, _TW, _CL),
}

#: A close in these states sends a FIN (TCP_ACTION_FIN); in SYN_RECV it is queued behind the handshake.
FIN_ON_CLOSE = frozenset({_ES, _SR, _CW})
#: A SYN has been exchanged both ways: sequence numbers of both sides are known.
SYNCHRONIZED = frozenset(TcpState) - {_SS, _LI, _CL}
#: The process may still send.
CAN_SEND = frozenset({_ES, _CW})
#: The peer's FIN has come.
GOT_FIN = frozenset({_CW, _LA, _CG, _TW, _CL})


def next_state(state: TcpState, event: Event) -> TcpState:
    return NEXT_STATE[state][event]
