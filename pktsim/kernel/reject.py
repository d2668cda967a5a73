"""``-j REJECT``: the answer to a refused packet (net/ipv4/netfilter/nf_reject_ipv4.c, net/ipv6/…/nf_reject_ipv6.c)."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pktsim._fastpath import Packet
from pktsim.kernel.addrconf import ANY6, is_multicast6
from pktsim.kernel.exthdr import skip_headers
from pktsim.kernel.icmp import NO_WAY_BACK, TO_MANY, About, IcmpType, Unreach
from pktsim.kernel.icmp6 import Icmp6Type, Unreach6, about6
from pktsim.kernel.ip import IP_OFFSET_MASK
from pktsim.kernel.netdev import AF_INET
from pktsim.kernel.transport import build_ip
from pktsim.netfilter.opcodes import NO_SOCKET, Hook, RouteType
from pktsim.netfilter.targets.reject import Reject6With, RejectWith
from pktsim.wire.checksum import checksum, pseudo_header_sum, transport_checksum
from pktsim.wire.frame import (
    IPPROTO_AH,
    IPPROTO_DCCP,
    IPPROTO_ESP,
    IPPROTO_GRE,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
)

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns

_UNREACH_CODES: Final = {
    RejectWith.ICMP_NET_UNREACHABLE: Unreach.NET,
    RejectWith.ICMP_HOST_UNREACHABLE: Unreach.HOST,
    RejectWith.ICMP_PROT_UNREACHABLE: Unreach.PROTOCOL,
    RejectWith.ICMP_PORT_UNREACHABLE: Unreach.PORT,
    RejectWith.ICMP_NET_PROHIBITED: Unreach.NET_ANO,
    RejectWith.ICMP_HOST_PROHIBITED: Unreach.HOST_ANO,
    RejectWith.ICMP_ADMIN_PROHIBITED: Unreach.PKT_FILTERED,
}

_UNREACH6_CODES: Final = {
    Reject6With.ICMP6_NO_ROUTE: Unreach6.NOROUTE,
    Reject6With.ICMP6_ADM_PROHIBITED: Unreach6.ADM_PROHIBITED,
    Reject6With.ICMP6_ADDR_UNREACHABLE: Unreach6.ADDR_UNREACH,
    Reject6With.ICMP6_PORT_UNREACHABLE: Unreach6.PORT_UNREACH,
    Reject6With.ICMP6_POLICY_FAIL: Unreach6.POLICY_FAIL,
    Reject6With.ICMP6_REJECT_ROUTE: Unreach6.REJECT_ROUTE,
}

_TCP_HEADER: Final = 20
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
#: AH, ESP, SCTP have other integrity checks, UDP-Lite and DCCP partial checksums.
_UNCHECKED_PROTOCOLS: Final = frozenset((IPPROTO_AH, IPPROTO_ESP, IPPROTO_SCTP, IPPROTO_UDPLITE, IPPROTO_DCCP))

#: Why the refused is not told so, as the trace says it.
_LATER: Final = "it is a later fragment"
_BROKEN: Final = "its checksum is wrong"


def reject(netns: Netns, packet: Packet, reject_with: int, hook: int) -> None:
    """Answer a packet that a rule refused; the packet itself is the caller's to discard."""
    if packet.family != AF_INET:
        if reject_with == Reject6With.TCP_RESET:
            _send_reset6(netns, packet)
        else:
            _send_unreach6(netns, packet, _UNREACH6_CODES[Reject6With(reject_with)])
        return
    kind = RejectWith(reject_with)
    if kind == RejectWith.TCP_RESET:
        _send_reset(netns, packet, hook)
    else:
        _send_unreach(netns, packet, _UNREACH_CODES[kind], hook)


def _checksum_wrong(data: bytes) -> bool:
    """``nf_reject_verify_csum`` and ``nf_ip_checksum``: what is not whole is not answered.

    Every protocol that is not excepted is taken to have a checksum over all of its payload, whatever it is.
    """
    header_length = (data[0] & 15) * 4
    segment = data[header_length : int.from_bytes(data[2:4], "big")]
    protocol = data[9]
    if not _has_checksum(protocol, segment):
        return False
    initial = 0
    if protocol in (IPPROTO_TCP, IPPROTO_UDP):
        initial = pseudo_header_sum(data[12:16], data[16:20], protocol, len(segment))
    # The kernel sums from the IP header on, whose own sum is all ones, so that a payload that sums to zero is good;
    # it is not if options have been written into it and its checksum not mended yet.
    return checksum(data[: int.from_bytes(data[2:4], "big")], initial) not in (0, 0xFFFF)


def _checksum6_wrong(data: bytes) -> bool:
    """``nf_reject_v6_csum_ok``, inverted: over IPv6 the pseudo-header counts in for every protocol."""
    found = skip_headers(data)
    if found is None or found.offset >= len(data) or found.fragment_offset:
        return True
    segment = data[found.offset :]
    if not _has_checksum(found.protocol, segment):
        return False
    return checksum(segment, pseudo_header_sum(data[8:24], data[24:40], found.protocol, len(segment))) != 0


def _has_checksum(protocol: int, segment: bytes) -> bool:
    """``nf_reject_verify_csum``."""
    if protocol in _UNCHECKED_PROTOCOLS:
        return False
    if protocol == IPPROTO_UDP and segment[6:8] == b"\0\0":
        return False
    return protocol != IPPROTO_GRE or bool(segment and segment[0] & 0x80)


def _about(netns: Netns, packet: Packet, hook: int) -> About:
    about = About.of(packet)
    if hook != Hook.PREROUTING or about.route_type:
        return about
    # nf_reject_fill_skb_dst: before routing, the packet gets the route to its sender; 0.0.0.0 is this host
    sender = about.packet[12:16]
    route_type = netns.datapath.address_type(sender) if any(sender) else RouteType.LOCAL
    unicast = about.unicast and route_type not in (RouteType.BROADCAST, RouteType.MULTICAST)
    return replace(about, route_type=route_type, unicast=unicast, input_route=False)


def _send_unreach(netns: Netns, packet: Packet, code: int, hook: int) -> None:
    """``nf_send_unreach``."""
    data = packet.data
    if int.from_bytes(data[6:8], "big") & IP_OFFSET_MASK:
        netns.icmp.unanswered(packet.pkt_id, IcmpType.DEST_UNREACH, code, _LATER)
    elif not packet.checksum_verified and _checksum_wrong(data):
        netns.icmp.unanswered(packet.pkt_id, IcmpType.DEST_UNREACH, code, _BROKEN)
    else:
        netns.icmp.error(_about(netns, packet, hook), IcmpType.DEST_UNREACH, code)


def _send_reset(netns: Netns, packet: Packet, hook: int) -> None:
    """``nf_send_reset``."""
    data = packet.data
    header_length = (data[0] & 15) * 4
    segment = data[header_length : int.from_bytes(data[2:4], "big")]
    later = bool(int.from_bytes(data[6:8], "big") & IP_OFFSET_MASK)
    # what has been found right before is not known to be so any more once it is forwarded (skb_forward_csum)
    known = packet.checksum_verified and hook in (Hook.PREROUTING, Hook.INPUT)
    broken = not known and _checksum_wrong(data)
    unanswered = _no_reset(data[9], segment, later=later) or (_BROKEN if broken else "")
    about = _about(netns, packet, hook)
    if not unanswered and about.route_type in (RouteType.BROADCAST, RouteType.MULTICAST):
        unanswered = TO_MANY
    if unanswered:
        _without_reset(netns, packet, unanswered)
        return
    saddr, daddr = data[16:20], data[12:16]
    reply = build_ip(
        saddr, daddr, IPPROTO_TCP, _reset(saddr, daddr, segment), ttl=netns.sysctls.number("net.ipv4.ip_default_ttl"),
        ip_id=0, df=True,
    )  # fmt: skip
    mark = packet.mark if netns.sysctls.number("net.ipv4.fwmark_reflect") else 0
    if not netns.way_back(daddr, saddr, mark):
        # also for what does not take that route
        _without_reset(netns, packet, NO_WAY_BACK)
        return
    _answer(netns, packet, reply, mark)


def _no_reset(protocol: int, segment: bytes, *, later: bool) -> str:
    """Why a segment, or what of one a ``later`` fragment has, is not answered with a reset; empty if it is."""
    if later:
        return _LATER
    if protocol != IPPROTO_TCP:
        return "it is no TCP segment"
    if len(segment) < _TCP_HEADER:
        return "its TCP header is cut short"
    return "it is one itself" if segment[13] & _RST else ""


def _without_reset(netns: Netns, packet: Packet, why: str) -> None:
    if netns.explainer is not None:
        netns.explainer.unanswered(netns, packet.pkt_id, "a TCP reset", why)


def _reset(saddr: bytes, daddr: bytes, segment: bytes) -> bytes:
    """``nf_reject_ip_tcphdr_put``: the reset that answers a segment, from ``saddr`` to ``daddr``."""
    sport, dport, seq, ack, offset, flags = struct.unpack("!HHIIBB", segment[:14])
    if flags & _ACK:
        numbers = struct.pack("!II", ack, 0)
        answer_flags = _RST
    else:
        covered = len(segment) - (offset >> 4) * 4 + bool(flags & _SYN) + bool(flags & _FIN)
        numbers = struct.pack("!II", 0, (seq + covered) & 0xFFFFFFFF)
        answer_flags = _RST | _ACK
    answer = struct.pack("!HH", dport, sport) + numbers + struct.pack("!BBHHH", 5 << 4, answer_flags, 0, 0, 0)
    return answer[:16] + transport_checksum(saddr, daddr, IPPROTO_TCP, answer).to_bytes(2, "big") + answer[18:]


def _answer(netns: Netns, packet: Packet, reply: bytes, mark: int) -> None:
    netns.datapath.conntrack_closing(packet)
    if packet.phys_in_ifindex:
        # Sent straight back out of the bridge port, so that the source MAC is the destination's and not ours; also
        # where br_netfilter has passed the packet up to the host (nf_bridge_info_exists).
        frame = packet.frame
        netns.transmit(packet.phys_in_ifindex, frame[6:12] + frame[0:6] + frame[12:14] + reply)
        return
    # only nf_reject_ip_tcphdr_put leaves the checksum to the device
    partial = packet.family == AF_INET
    netns.local_out(reply, mark=mark, uid=NO_SOCKET, related=packet, checksum_partial=partial)


def _send_unreach6(netns: Netns, packet: Packet, code: int) -> None:
    """``nf_send_unreach6``."""
    if not packet.checksum_verified and _checksum6_wrong(packet.data):
        netns.icmp.unanswered(packet.pkt_id, Icmp6Type.DEST_UNREACH, code, _BROKEN)
    else:
        netns.icmp6.error(about6(packet), Icmp6Type.DEST_UNREACH, code)


def _send_reset6(netns: Netns, packet: Packet) -> None:
    """``nf_send_reset6``, which looks at a checksum whoever has found it right before."""
    data = packet.data
    saddr, daddr = data[24:40], data[8:24]
    if ANY6 in (saddr, daddr) or is_multicast6(saddr) or is_multicast6(daddr):
        _without_reset(netns, packet, "it is not from one host to one host")
        return
    found = skip_headers(data)
    if found is None:
        _without_reset(netns, packet, "its headers are cut short")
        return
    segment = data[found.offset :]
    later = bool(found.fragment_offset)
    unanswered = _no_reset(found.protocol, segment, later=later) or (_BROKEN if _checksum6_wrong(data) else "")
    if unanswered:
        _without_reset(netns, packet, unanswered)
        return
    mark = packet.mark if netns.sysctls.number("net.ipv6.fwmark_reflect") else 0
    try:
        route = netns.route_output(daddr, saddr=saddr, mark=mark)
    except OSError:
        _without_reset(netns, packet, NO_WAY_BACK)
        return
    reply = build_ip(
        saddr, daddr, IPPROTO_TCP, _reset(saddr, daddr, segment), ttl=netns.hop_limit(route.ifindex), flow_label=0
    )
    _answer(netns, packet, reply, mark)
