"""What an ICMP error means to a socket.

Source: net/ipv4/icmp.c icmp_err_convert[], net/ipv6/icmp.c icmpv6_err_convert, Linux 6.18. A *fatal* error ends a
connection attempt and is reported to any connected socket; the others may mend themselves.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pktsim.kernel.transport import IPV6_HEADER, IpPacket, parse_ip
from pktsim.wire.frame import IPPROTO_ICMP, IPPROTO_ICMPV6

_DEST_UNREACH, _TIME_EXCEEDED, _PARAMETER_PROBLEM = 3, 11, 12
_FRAG_NEEDED = 4
_V6_DEST_UNREACH, _V6_PACKET_TOO_BIG, _V6_TIME_EXCEEDED, _V6_PARAMETER_PROBLEM = 1, 2, 3, 4

#: By code of "destination unreachable": (errno, fatal).
_UNREACHABLE: tuple[tuple[int, bool], ...] = (
    (errno.ENETUNREACH, False),  # 0 network
    (errno.EHOSTUNREACH, False),  # 1 host
    (errno.ENOPROTOOPT, True),  # 2 protocol
    (errno.ECONNREFUSED, True),  # 3 port
    (errno.EMSGSIZE, False),  # 4 fragmentation needed
    (errno.EOPNOTSUPP, False),  # 5 source route failed
    (errno.ENETUNREACH, True),  # 6 network unknown
    (errno.EHOSTDOWN, True),  # 7 host unknown
    (errno.ENONET, True),  # 8 host isolated
    (errno.ENETUNREACH, True),  # 9 network prohibited
    (errno.EHOSTUNREACH, True),  # 10 host prohibited
    (errno.ENETUNREACH, False),  # 11 network, for the type of service
    (errno.EHOSTUNREACH, False),  # 12 host, for the type of service
    (errno.EHOSTUNREACH, True),  # 13 administratively prohibited
    (errno.EHOSTUNREACH, True),  # 14 precedence violation
    (errno.EHOSTUNREACH, True),  # 15 precedence cut-off
)
_V6_UNREACHABLE: tuple[tuple[int, bool], ...] = (
    (errno.ENETUNREACH, False),  # 0 no route
    (errno.EACCES, True),  # 1 administratively prohibited
    (errno.EHOSTUNREACH, False),  # 2 not a neighbour
    (errno.EHOSTUNREACH, False),  # 3 address
    (errno.ECONNREFUSED, True),  # 4 port
    (errno.EACCES, True),  # 5 source address failed policy
    (errno.EACCES, True),  # 6 reject route
)


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP error taken apart.

    Attributes:
        quoted: The beginning of the packet that it is about, as it was sent.
        errno: What a process is told.
        fatal: It will not mend itself.
        packet_too_big: It is about the path MTU, which ``mtu`` then is (0 from routers that do not say).
        route_gone: Network or host unreachable: a retransmission may be tried sooner (RFC 6069).
    """

    quoted: IpPacket
    errno: int
    fatal: bool
    packet_too_big: bool = False
    mtu: int = 0
    route_gone: bool = False


def _quoted(data: bytes) -> IpPacket | None:
    """Parse a packet of which only the beginning is there."""
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        offset = (data[0] & 15) * 4
        if offset < 20 or len(data) < offset + 8:
            return None
        return IpPacket(data, data[12:16], data[16:20], data[9], offset, len(data), data[1], data[8])
    if data[0] >> 4 != 6 or len(data) < IPV6_HEADER + 8:
        return None
    # Cut short as it is, its length field would be refused: put in what is there.
    return parse_ip(data[:4] + (len(data) - IPV6_HEADER).to_bytes(2, "big") + data[6:])


def parse_icmp_error(packet: bytes) -> IcmpError | None:
    """Read an ICMP or ICMPv6 message; ``None`` if it is no error, or none that sockets hear of."""
    outer = parse_ip(packet)
    if outer is None or len(outer.payload) < 8:
        return None
    message = outer.payload
    kind, code = message[0], message[1]
    quoted = _quoted(message[8:])
    if quoted is None:
        return None
    if outer.protocol == IPPROTO_ICMP:
        if kind == _DEST_UNREACH and code < len(_UNREACHABLE):
            number, fatal = _UNREACHABLE[code]
            if code == _FRAG_NEEDED:
                return IcmpError(quoted, number, fatal, True, int.from_bytes(message[6:8], "big"))
            return IcmpError(quoted, number, fatal, route_gone=code <= 1)
        if kind == _TIME_EXCEEDED:
            return IcmpError(quoted, errno.EHOSTUNREACH, False)
        if kind == _PARAMETER_PROBLEM:
            return IcmpError(quoted, errno.EPROTO, True)
    elif outer.protocol == IPPROTO_ICMPV6:
        if kind == _V6_DEST_UNREACH:
            if code < len(_V6_UNREACHABLE):
                number, fatal = _V6_UNREACHABLE[code]
                return IcmpError(quoted, number, fatal, route_gone=code == 0)
            return IcmpError(quoted, errno.EPROTO, True)
        if kind == _V6_PACKET_TOO_BIG:
            return IcmpError(quoted, errno.EMSGSIZE, False, True, int.from_bytes(message[4:8], "big"))
        if kind == _V6_TIME_EXCEEDED:
            return IcmpError(quoted, errno.EHOSTUNREACH, False)
        if kind == _V6_PARAMETER_PROBLEM:
            return IcmpError(quoted, errno.EPROTO, True)
    return None
