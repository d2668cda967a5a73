"""Matches that are rare enough to be written in Python; importing this registers them with the lowering.

Each is called by the engine as ``(datapath, packet, hook) -> bool`` before ``!`` is applied, looks at bytes only, and
keeps what it must remember in ``datapath.context``. ``HotDrop`` is raised for a packet too broken to look at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from pktsim.fidelity import approximated
from pktsim.netfilter.conncount import CountedList, counted
from pktsim.netfilter.hot_drop import HotDrop
from pktsim.netfilter.lower import Builder, Pending, PythonMatch
from pktsim.netfilter.lower_extensions import match
from pktsim.netfilter.matches.ah import AhMatch
from pktsim.netfilter.matches.connbytes import ConnbytesDirection, ConnbytesMatch, ConnbytesMode
from pktsim.netfilter.matches.connlimit import ConnlimitMatch
from pktsim.netfilter.matches.dscp import DscpMatch
from pktsim.netfilter.matches.esp import EspMatch
from pktsim.netfilter.matches.hl import HlMatch
from pktsim.netfilter.matches.iprange import IprangeMatch
from pktsim.netfilter.matches.ipv6header import Ipv6HeaderBit, Ipv6headerMatch
from pktsim.netfilter.matches.length import LengthMatch
from pktsim.netfilter.matches.limit import LimitMatch
from pktsim.netfilter.matches.mac import MacMatch
from pktsim.netfilter.matches.owner import OwnerMatch
from pktsim.netfilter.matches.pkttype import PkttypeMatch
from pktsim.netfilter.matches.rpfilter import RpfilterMatch
from pktsim.netfilter.matches.string import StringMatch
from pktsim.netfilter.matches.tcpmss import TcpmssMatch
from pktsim.netfilter.matches.tos import TosMatch
from pktsim.netfilter.matches.ttl import TtlMatch
from pktsim.netfilter.matches.u32 import U32Match, U32Op
from pktsim.netfilter.opcodes import NO_FILE, NO_SOCKET, Op, RouteType
from pktsim.netfilter.values import AddressRange
from pktsim.wire.frame import (
    IPPROTO_AH,
    IPPROTO_DSTOPTS,
    IPPROTO_ESP,
    IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS,
    IPPROTO_NONE,
    IPPROTO_ROUTING,
    ip_addresses,
    ipv6_extension_size,
)

#: ``lo``: where what is looked up comes from, if it is not for a packet that has come in.
_LOOPBACK_IFINDEX = 1
_COMPARISONS = {"eq": 0, "lt": 1, "gt": 2}
NS_PER_S = 1_000_000_000
#: ``XT_LIMIT_SCALE``: what ``LimitMatch.average`` counts in.
LIMIT_SCALE = 10_000


def _python(builder: Builder, function: PythonMatch, *, inverted: bool) -> Iterable[Pending]:
    return (Pending(Op.PYTHON, inverted, builder.call(function)),)


@match(TtlMatch)
def _ttl(match: TtlMatch, _builder: Builder) -> Iterable[Pending]:
    return (Pending(Op.TTL, match.inverted, _COMPARISONS[match.comparison.value], match.ttl),)


@match(HlMatch)
def _hl(match: HlMatch, _builder: Builder) -> Iterable[Pending]:
    return (Pending(Op.TTL, match.inverted, _COMPARISONS[match.comparison.value], match.hop_limit),)


@match(DscpMatch)
def _dscp(match: DscpMatch, _builder: Builder) -> Iterable[Pending]:
    return (Pending(Op.DSCP, match.inverted, match.dscp),)


@match(LengthMatch)
def _length(match: LengthMatch, _builder: Builder) -> Iterable[Pending]:
    return (Pending(Op.LENGTH, match.inverted, match.first, match.last),)


_IPV6_HEADERS = {
    IPPROTO_HOPOPTS: Ipv6HeaderBit.HOP_BY_HOP,
    IPPROTO_ROUTING: Ipv6HeaderBit.ROUTING,
    IPPROTO_FRAGMENT: Ipv6HeaderBit.FRAGMENT,
    IPPROTO_ESP: Ipv6HeaderBit.ESP,
    IPPROTO_AH: Ipv6HeaderBit.AUTHENTICATION,
    IPPROTO_NONE: Ipv6HeaderBit.NONE,
    IPPROTO_DSTOPTS: Ipv6HeaderBit.DESTINATION_OPTIONS,
}


def _ipv6_headers(data: bytes) -> int | None:
    """``Ipv6HeaderBit``s of what is there; ``None`` if a header is cut short: that matches nothing, inverted or not."""
    kind, at, found = data[6], 40, 0
    while kind in _IPV6_HEADERS:
        bit = _IPV6_HEADERS[kind]
        if bit == Ipv6HeaderBit.NONE:
            return found | bit
        if len(data) - at < 2:
            return None
        found |= bit
        if bit == Ipv6HeaderBit.ESP:
            return found
        kind, at = data[at], at + ipv6_extension_size(kind, data[at + 1])
        if at > len(data):
            break
    return found if kind in (IPPROTO_ESP, IPPROTO_NONE) else found | Ipv6HeaderBit.PROTOCOL


@match(Ipv6headerMatch)
def _ipv6header(match: Ipv6headerMatch, builder: Builder) -> Iterable[Pending]:
    """net/ipv6/netfilter/ip6t_ipv6header.c; with ``soft``, inverted means none of them."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        found = _ipv6_headers(packet.data)
        if found is None:
            return False
        if match.soft:
            return found & match.headers == (0 if match.inverted else match.headers)
        return (found == match.headers) != match.inverted

    return _python(builder, test, inverted=False)


@match(PkttypeMatch)
def _pkttype(match: PkttypeMatch, _builder: Builder) -> Iterable[Pending]:
    return (Pending(Op.PKTTYPE, match.inverted, int(match.packet_type)),)


@match(TosMatch)
def _tos(match: TosMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_dscp.c tos_mt."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        tos = data[1] if data[0] >> 4 == 4 else (data[0] << 4 | data[1] >> 4) & 0xFF
        return tos & match.mask == match.value

    return _python(builder, test, inverted=match.inverted)


def _in_range(address: bytes, wanted: AddressRange) -> bool:
    return wanted.first.packed <= address <= wanted.last.packed


@match(IprangeMatch)
def _iprange(match: IprangeMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_iprange.c: both ranges must hold."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        src, dst = ip_addresses(packet.data)
        if match.src is not None and _in_range(src, match.src) == match.src_inverted:
            return False
        return match.dst is None or _in_range(dst, match.dst) != match.dst_inverted

    return _python(builder, test, inverted=False)


@match(MacMatch)
def _mac(match: MacMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_mac.c: no Ethernet header (a local packet, lo) is no match, inverted or not."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        frame: bytes = packet.frame
        if packet.local or len(frame) - len(packet.data) < 14:
            return False
        return (frame[6:12] == match.source) != match.inverted

    return _python(builder, test, inverted=False)


@match(OwnerMatch)
def _owner(match: OwnerMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_owner.c: what no socket sent has no owner."""
    if match.supplementary_groups:
        raise builder.refuse("match owner --suppl-groups")

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        if not packet.local or packet.uid == NO_SOCKET:
            # "(info->match ^ info->invert) == 0": only rules whose every condition is inverted match
            conditions = (
                (match.uids is not None, match.uids_inverted),
                (match.gids is not None, match.gids_inverted),
                (match.socket_exists is not None, match.socket_exists is False),
            )
            return all(inverted for said, inverted in conditions if said)
        if match.socket_exists is False:
            return False
        if packet.uid == NO_FILE:
            # nobody has the kernel's own sockets open: "((info->match ^ info->invert) & (UID | GID)) == 0"
            return (match.uids is None or match.uids_inverted) and (match.gids is None or match.gids_inverted)
        if match.uids is not None and (match.uids[0] <= packet.uid <= match.uids[1]) == match.uids_inverted:
            return False
        return match.gids is None or (match.gids[0] <= packet.gid <= match.gids[1]) != match.gids_inverted

    return _python(builder, test, inverted=False)


class _Limit:
    """net/netfilter/xt_limit.c: a bucket of tokens per rule, full at first."""

    __slots__ = ("_cap_ns", "_cost_ns")

    def __init__(self, match: LimitMatch) -> None:
        # The kernel counts credits per jiffy; a nanosecond of waiting is our credit.
        self._cost_ns = match.average * NS_PER_S // LIMIT_SCALE
        self._cap_ns = self._cost_ns * match.burst

    def prepare(self, context: Any) -> None:
        """Loading the table anew fills the bucket."""
        context.limits.pop(self, None)

    def __call__(self, datapath: Any, _packet: Any, _hook: int) -> bool:
        buckets: dict[object, tuple[int, int]] = datapath.context.limits
        now_ns: int = datapath.now_ns
        credit_ns, then_ns = buckets.get(self, (self._cap_ns, now_ns))
        credit_ns = min(credit_ns + now_ns - then_ns, self._cap_ns)
        enough = credit_ns >= self._cost_ns
        buckets[self] = (credit_ns - self._cost_ns if enough else credit_ns, now_ns)
        return enough


@match(LimitMatch)
def _limit(match: LimitMatch, builder: Builder) -> Iterable[Pending]:
    return _python(builder, _Limit(match), inverted=False)


def _transport(packet: Any) -> bytes | None:
    """From the transport header on; ``None`` in later fragments."""
    offset: int = packet.transport_offset
    return packet.data[offset:] if offset else None


@match(EspMatch)
@match(AhMatch)
def _spi(match: EspMatch | AhMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_esp.c, net/ipv4/netfilter/ipt_ah.c."""
    at, least = (0, 8) if isinstance(match, EspMatch) else (4, 12)

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data = _transport(packet)
        if data is None:
            return False
        if len(data) < least:
            raise HotDrop
        return match.first <= int.from_bytes(data[at : at + 4], "big") <= match.last

    return _python(builder, test, inverted=match.inverted)


def tcp_options(tcp: bytes) -> Iterable[tuple[int, int, int]]:
    """The options of a TCP header: (kind, offset, length), stopping where they no longer make sense."""
    end = min((tcp[12] >> 4) * 4, len(tcp))
    at = 20
    while at < end:
        kind = tcp[at]
        if kind < 2:
            at += 1
            continue
        length = tcp[at + 1] if at + 1 < end else 0
        if length < 2:
            at += 1
            continue
        if at + length <= end:
            yield kind, at, length
        at += length


@match(TcpmssMatch)
def _tcpmss(match: TcpmssMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_tcpmss.c: without the option it matches if inverted."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        tcp = _transport(packet)
        if tcp is None or len(tcp) < 20 or (tcp[12] >> 4) * 4 < 20 or len(tcp) < (tcp[12] >> 4) * 4:
            raise HotDrop
        for kind, at, length in tcp_options(tcp):
            if kind == 2 and length == 4:
                mss = int.from_bytes(tcp[at + 2 : at + 4], "big")
                return (match.first <= mss <= match.last) != match.inverted
        return match.inverted

    return _python(builder, test, inverted=False)


approximated(
    "netfilter.match.string",
    "the pattern is looked for in the packet as a whole; Linux's bm (not kmp) does not find one that two fragments of "
    "a datagram share, as long as these are still apart in memory",
    source="lib/ts_bm.c bm_find, net/core/skbuff.c skb_find_text",
)


@match(StringMatch)
def _string(match: StringMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_string.c: the pattern lies between the offsets, counted from the network header.

    Since Linux 6.6 its end as well: ``skb_find_text`` looks at where the first one ends, and for no second one.
    """
    pattern = match.pattern.lower() if match.ignore_case else match.pattern

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        if match.ignore_case:
            data = data.lower()
        at = data.find(pattern, match.first)
        return at != -1 and at + len(pattern) <= match.last

    return _python(builder, test, inverted=match.inverted)


@match(U32Match)
def _u32(match: U32Match, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_u32.c u32_match_it: whatever lies outside the packet is no match."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        for one in match.tests:
            origin, position = 0, one.position
            if position + 4 > len(data):
                return False
            (value,) = struct.unpack_from(">I", data, position)
            for step, number in one.steps:
                if step is U32Op.AND:
                    value &= number
                elif step is U32Op.LEFT_SHIFT:
                    value = value << number & 0xFFFFFFFF
                elif step is U32Op.RIGHT_SHIFT:
                    value >>= number
                else:
                    origin += value
                    position = number
                    if origin + position + 4 > len(data):
                        return False
                    (value,) = struct.unpack_from(">I", data, origin + position)
            if not any(low <= value <= high for low, high in one.ranges):
                return False
        return True

    return _python(builder, test, inverted=match.inverted)


@match(ConnbytesMatch)
def _connbytes(match: ConnbytesMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_connbytes.c: no match, inverted or not, without accounting; an average of no packets is 0."""
    builder.needs_conntrack = builder.needs_accounting = True
    first, second = {
        ConnbytesDirection.ORIGINAL: (1, 0),
        ConnbytesDirection.REPLY: (0, 1),
        ConnbytesDirection.BOTH: (1, 1),
    }[match.direction]

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        entry = packet.conntrack
        if entry is None or entry["acct"] is None:
            return False
        packets, size, reply_packets, reply_size = entry["acct"]
        packets, size = first * packets + second * reply_packets, first * size + second * reply_size
        if match.mode is ConnbytesMode.PACKETS:
            value = packets
        elif match.mode is ConnbytesMode.BYTES:
            value = size
        else:
            value = size // packets if packets else 0
        return (value >= match.first and (value <= match.last or not match.last)) != match.inverted

    return _python(builder, test, inverted=False)


@match(ConnlimitMatch)
def _connlimit(match: ConnlimitMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_connlimit.c: how many connections of an address or network the rule has seen that are there."""
    builder.needs_conntrack = True
    identity = object()

    def test(datapath: Any, packet: Any, _hook: int) -> bool:
        new, status = counted(datapath, packet)
        address = ip_addresses(packet.data)[match.by_destination]
        bits = 8 * len(address)
        mask = (1 << bits) - (1 << bits - match.prefix_length)
        key = (identity, int.from_bytes(address, "big") & mask, new.zone)
        connections = datapath.context.connections.setdefault(key, CountedList())
        return bool((connections.add(datapath, new, status) > match.limit) != match.upto)

    return _python(builder, test, inverted=False)


@match(RpfilterMatch)
def _rpfilter(match: RpfilterMatch, builder: Builder) -> Iterable[Pending]:
    """net/ipv4/netfilter/ipt_rpfilter.c, net/ipv6/netfilter/ip6t_rpfilter.c: is the way back to the source this one?"""

    def test4(datapath: Any, packet: Any, source: bytes, destination: bytes) -> bool:
        to_all = destination == b"\xff\xff\xff\xff"
        if source == bytes(4) and (to_all or destination[:3] == b"\xe0\0\0"):
            return True
        asked = bytes(4) if to_all or destination[0] & 0xF0 == 0xE0 else destination
        mark = packet.mark if match.valid_mark else 0
        route_type, oif, *_ = datapath.route(source, saddr=asked, mark=mark, iif=_LOOPBACK_IFINDEX)
        if route_type == RouteType.LOCAL:
            if not match.accept_local:
                return False
            return match.loose or datapath.address_type(source, packet.in_ifindex) == RouteType.LOCAL
        return bool(route_type == RouteType.UNICAST and (match.loose or oif == packet.in_ifindex))

    def test6(datapath: Any, packet: Any, source: bytes, destination: bytes) -> bool:
        if source == bytes(16) or source[0] == 0xFF:
            return True  # not forwarded anyway; a way to every group by every device
        mark = packet.mark if match.valid_mark else 0
        device: int = packet.in_ifindex
        link_local = source[0] == 0xFE and source[1] & 0xC0 == 0x80
        asked = b"" if destination[0] == 0xFF else destination
        bound = device if link_local else 0
        route_type, oif, *_ = datapath.route(source, saddr=asked, mark=mark, ifindex=bound, iif=_LOOPBACK_IFINDEX)
        if route_type == RouteType.LOCAL:
            return match.accept_local
        return bool(route_type == RouteType.UNICAST and (match.loose or oif == device))

    def test(datapath: Any, packet: Any, _hook: int) -> bool:
        if packet.looped:
            return True
        source, destination = ip_addresses(packet.data)
        return (test4 if len(source) == 4 else test6)(datapath, packet, source, destination)

    return _python(builder, test, inverted=match.invert)
