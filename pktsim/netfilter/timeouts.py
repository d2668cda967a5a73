"""How long connection tracking entries live without traffic: one row per state, with the setting that changes it.

Values of Linux 6.18 (the ``*_timeouts`` arrays in net/netfilter/nf_conntrack_proto_*.c). The engine starts every
namespace with them; ``net.netfilter.NAME`` is the sysctl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pktsim.netfilter.conntrack_sctp import SctpState
from pktsim.netfilter.conntrack_tcp import TcpState
from pktsim.netfilter.opcodes import Sysctl


@dataclass(frozen=True, slots=True)
class Timeout:
    """One timeout: the engine's setting, the sysctl's name below ``net.netfilter.``, and its default in seconds."""

    sysctl: Sysctl
    name: str
    default_s: int


#: TCP, by the state that a packet led to.
TCP: Final[dict[TcpState, Timeout]] = {
    TcpState.SYN_SENT: Timeout(Sysctl.CT_TIMEOUT_TCP_SYN_SENT, "nf_conntrack_tcp_timeout_syn_sent", 120),
    TcpState.SYN_RECV: Timeout(Sysctl.CT_TIMEOUT_TCP_SYN_RECV, "nf_conntrack_tcp_timeout_syn_recv", 60),
    TcpState.ESTABLISHED: Timeout(Sysctl.CT_TIMEOUT_TCP_ESTABLISHED, "nf_conntrack_tcp_timeout_established", 432_000),
    TcpState.FIN_WAIT: Timeout(Sysctl.CT_TIMEOUT_TCP_FIN_WAIT, "nf_conntrack_tcp_timeout_fin_wait", 120),
    TcpState.CLOSE_WAIT: Timeout(Sysctl.CT_TIMEOUT_TCP_CLOSE_WAIT, "nf_conntrack_tcp_timeout_close_wait", 60),
    TcpState.LAST_ACK: Timeout(Sysctl.CT_TIMEOUT_TCP_LAST_ACK, "nf_conntrack_tcp_timeout_last_ack", 30),
    TcpState.TIME_WAIT: Timeout(Sysctl.CT_TIMEOUT_TCP_TIME_WAIT, "nf_conntrack_tcp_timeout_time_wait", 120),
    TcpState.CLOSE: Timeout(Sysctl.CT_TIMEOUT_TCP_CLOSE, "nf_conntrack_tcp_timeout_close", 10),
}
#: SYN_SENT2 has no setting of its own.
TCP_SYN_SENT2_S: Final = 120
#: Instead of the state's, if that is longer: after ``tcp_max_retrans`` equal ACKs, or with a closed window.
TCP_MAX_RETRANS: Final = Timeout(Sysctl.CT_TIMEOUT_TCP_MAX_RETRANS, "nf_conntrack_tcp_timeout_max_retrans", 300)
#: Instead of the state's, if that is longer: while data is not acknowledged, or only one side has been heard.
TCP_UNACKNOWLEDGED: Final = Timeout(
    Sysctl.CT_TIMEOUT_TCP_UNACKNOWLEDGED, "nf_conntrack_tcp_timeout_unacknowledged", 300
)

SCTP: Final[dict[SctpState, Timeout]] = {
    SctpState.CLOSED: Timeout(Sysctl.CT_TIMEOUT_SCTP_CLOSED, "nf_conntrack_sctp_timeout_closed", 10),
    SctpState.COOKIE_WAIT: Timeout(Sysctl.CT_TIMEOUT_SCTP_COOKIE_WAIT, "nf_conntrack_sctp_timeout_cookie_wait", 3),
    SctpState.COOKIE_ECHOED: Timeout(
        Sysctl.CT_TIMEOUT_SCTP_COOKIE_ECHOED, "nf_conntrack_sctp_timeout_cookie_echoed", 3
    ),
    SctpState.ESTABLISHED: Timeout(Sysctl.CT_TIMEOUT_SCTP_ESTABLISHED, "nf_conntrack_sctp_timeout_established", 210),
    SctpState.SHUTDOWN_SENT: Timeout(
        Sysctl.CT_TIMEOUT_SCTP_SHUTDOWN_SENT, "nf_conntrack_sctp_timeout_shutdown_sent", 3
    ),
    SctpState.SHUTDOWN_RECD: Timeout(
        Sysctl.CT_TIMEOUT_SCTP_SHUTDOWN_RECD, "nf_conntrack_sctp_timeout_shutdown_recd", 3
    ),
    SctpState.SHUTDOWN_ACK_SENT: Timeout(
        Sysctl.CT_TIMEOUT_SCTP_SHUTDOWN_ACK_SENT, "nf_conntrack_sctp_timeout_shutdown_ack_sent", 3
    ),
    SctpState.HEARTBEAT_SENT: Timeout(
        Sysctl.CT_TIMEOUT_SCTP_HEARTBEAT_SENT, "nf_conntrack_sctp_timeout_heartbeat_sent", 30
    ),
}

#: UDP and UDP-Lite: before both sides have been heard for more than two seconds, and after (UDP-Lite: at once).
UDP: Final = Timeout(Sysctl.CT_TIMEOUT_UDP, "nf_conntrack_udp_timeout", 30)
UDP_STREAM: Final = Timeout(Sysctl.CT_TIMEOUT_UDP_STREAM, "nf_conntrack_udp_timeout_stream", 120)
ICMP: Final = Timeout(Sysctl.CT_TIMEOUT_ICMP, "nf_conntrack_icmp_timeout", 30)
ICMPV6: Final = Timeout(Sysctl.CT_TIMEOUT_ICMPV6, "nf_conntrack_icmpv6_timeout", 30)
#: GRE: before and after an answer.
GRE: Final = Timeout(Sysctl.CT_TIMEOUT_GRE, "nf_conntrack_gre_timeout", 30)
GRE_STREAM: Final = Timeout(Sysctl.CT_TIMEOUT_GRE_STREAM, "nf_conntrack_gre_timeout_stream", 180)
#: Every other protocol.
GENERIC: Final = Timeout(Sysctl.CT_TIMEOUT_GENERIC, "nf_conntrack_generic_timeout", 600)

ALL: Final[tuple[Timeout, ...]] = (
    *TCP.values(),
    TCP_MAX_RETRANS,
    TCP_UNACKNOWLEDGED,
    *SCTP.values(),
    UDP,
    UDP_STREAM,
    ICMP,
    ICMPV6,
    GRE,
    GRE_STREAM,
    GENERIC,
)
