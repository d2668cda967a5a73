"""``-m socket``: whether a socket of this node would take the packet; importing this registers it with the lowering.

Source: net/netfilter/xt_socket.c, net/ipv4/netfilter/nf_socket_ipv4.c, net/ipv6/netfilter/nf_socket_ipv6.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pktsim.netfilter.lower import Builder, Pending
from pktsim.netfilter.lower_extensions import match
from pktsim.netfilter.matches.socket import SocketMatch
from pktsim.netfilter.opcodes import CtInfo, CtStatus, Op
from pktsim.wire.frame import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, ip_addresses

#: ICMP messages that quote a packet: errors, source quench and redirects (icmp_is_err).
_ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})

#: protocol, address and port of the peer, address and port here
_Asked = tuple[int, bytes, int, bytes, int]


def _port(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _quoted4(icmp: bytes) -> _Asked | None:
    """``extract_icmp4_fields``: the quoted packet was sent from here."""
    if len(icmp) < 8 or icmp[0] not in _ICMP_ERRORS or len(icmp) < 28:
        return None
    inner = icmp[8:]
    ports = (inner[0] & 15) * 4
    if inner[9] not in (IPPROTO_TCP, IPPROTO_UDP) or len(inner) < ports + 4:
        return None
    return inner[9], inner[16:20], _port(inner, ports + 2), inner[12:16], _port(inner, ports)


def _quoted6(icmp: bytes) -> _Asked | None:
    """``extract_icmp6_fields``; types above 127 are no errors."""
    if len(icmp) < 8 or icmp[0] & 0x80 or len(icmp) < 48:
        return None
    inner = icmp[8:]
    if inner[6] not in (IPPROTO_TCP, IPPROTO_UDP) or len(inner) < 44:
        return None
    return inner[6], inner[24:40], _port(inner, 42), inner[8:24], _port(inner, 40)


def socket_question(packet: Any) -> _Asked | None:
    """Whose socket is looked for: that of the packet, of the packet it quotes, or of the flow that NAT hides."""
    data: bytes = packet.data
    offset: int = packet.transport_offset
    v4 = data[0] >> 4 == 4
    protocol: int = packet.protocol
    transport = data[offset:] if offset else b""
    if protocol in (IPPROTO_TCP, IPPROTO_UDP):
        if len(transport) < (20 if protocol == IPPROTO_TCP else 8):
            return None
        src, dst = ip_addresses(data)
        found: _Asked | None = (protocol, src, _port(transport, 0), dst, _port(transport, 2))
    elif protocol == (IPPROTO_ICMP if v4 else IPPROTO_ICMPV6):
        found = _quoted4(transport) if v4 else _quoted6(transport)
    else:
        return None
    if found is None or not v4:
        return found
    # an answer to a flow of ours that is still as NAT left it belongs to the socket that sent the original
    reply = CtInfo.RELATED_REPLY if protocol == IPPROTO_ICMP else CtInfo.ESTABLISHED_REPLY
    if packet.ctinfo == reply:
        entry = packet.conntrack
        if entry is not None and entry["status"] & CtStatus.SRC_NAT_DONE:
            source, _, sport, _ = entry["orig"]
            found = (*found[:3], source, sport)
    return found


@match(SocketMatch)
def _socket(match: SocketMatch, builder: Builder) -> Iterable[Pending]:
    def test(datapath: Any, packet: Any, _hook: int) -> bool:
        asked = socket_question(packet)
        found = None if asked is None else datapath.context.find_socket(*asked, packet.in_ifindex)
        if found is None:
            return False
        if found.wildcard and found.full and not match.no_wildcard:
            return False
        if match.transparent and not found.transparent:
            return False
        if match.restore_mark and found.full:
            packet.mark = found.mark
        return True

    builder.needs_whole = True
    return (Pending(Op.PYTHON, False, builder.call(test)),)
