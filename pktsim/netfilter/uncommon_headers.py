"""Matches and targets on header fields that are rare enough to be written in Python: IPv6 extension headers, ECN, TCP
options; importing this registers them with the lowering. See ``uncommon_matches`` for how the engine calls them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from pktsim._fastpath import checksum_adjust
from pktsim.netfilter.hot_drop import HotDrop
from pktsim.netfilter.lower import Builder, Pending, PythonMatch
from pktsim.netfilter.lower_extensions import match, target
from pktsim.netfilter.matches.ah import Ah6Match
from pktsim.netfilter.matches.ecn import EcnMatch
from pktsim.netfilter.matches.eui64 import Eui64Match
from pktsim.netfilter.matches.frag import FragMatch
from pktsim.netfilter.matches.ip6opts import DstMatch, HbhMatch, OptionsMatch
from pktsim.netfilter.matches.ipcomp import IpcompMatch
from pktsim.netfilter.matches.rt import RtMatch
from pktsim.netfilter.opcodes import Op
from pktsim.netfilter.targets.ecn import EcnTarget
from pktsim.netfilter.targets.tcpoptstrip import TcpoptstripTarget
from pktsim.wire.frame import (
    IPPROTO_AH,
    IPPROTO_DSTOPTS,
    IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS,
    IPPROTO_ROUTING,
    IPV6_EXTENSIONS,
    ipv6_extension_size,
)

_NOP = 1
_ECE, _CWR = 0x40, 0x80


def _python(builder: Builder, function: PythonMatch, *, inverted: bool = False) -> Iterable[Pending]:
    return (Pending(Op.PYTHON, inverted, builder.call(function)),)


def find_header(data: bytes, wanted: int) -> int | None:
    """Where an IPv6 extension header begins (``ipv6_find_hdr``); ``None`` if there is none.

    Raises:
        HotDrop: The chain of headers is cut short.
    """
    kind, at = data[6], 40
    while True:
        found = kind == wanted
        if kind not in IPV6_EXTENSIONS:
            return None
        if at + (4 if kind in (IPPROTO_FRAGMENT, IPPROTO_ROUTING) else 2) > len(data):
            raise HotDrop
        if found:
            return at
        if kind == IPPROTO_FRAGMENT and int.from_bytes(data[at + 2 : at + 4], "big") & 0xFFF8:
            return None
        kind, at = data[at], at + ipv6_extension_size(kind, data[at + 1])


@match(FragMatch)
def _frag(match: FragMatch, builder: Builder) -> Iterable[Pending]:
    """net/ipv6/netfilter/ip6t_frag.c."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        at = find_header(data, IPPROTO_FRAGMENT)
        if at is None:
            return False
        if at + 8 > len(data):
            raise HotDrop
        offset, identification = struct.unpack_from(">HI", data, at + 2)
        if (match.first <= identification <= match.last) == match.id_inverted:
            return False
        if match.reserved_zero and (data[at + 1] or offset & 6):
            return False
        if match.is_first and offset & ~7:
            return False
        return not (match.more and not offset & 1) and not (match.is_last and offset & 1)

    return _python(builder, test)


def _after(data: bytes, kind: int, least: int) -> tuple[int, int] | None:
    """Where a header begins and how long it says it is; ``None`` if it is not there.

    Raises:
        HotDrop: Not all of it is there.
    """
    at = find_header(data, kind)
    if at is None:
        return None
    if at + least > len(data):
        raise HotDrop
    length = ipv6_extension_size(kind, data[at + 1])
    if len(data) - at < length:
        raise HotDrop
    return at, length


@match(Ah6Match)
def _ah(match: Ah6Match, builder: Builder) -> Iterable[Pending]:
    """net/ipv6/netfilter/ip6t_ah.c."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        place = _after(data, IPPROTO_AH, 12)
        if place is None:
            return False
        at, length = place
        reserved, index = struct.unpack_from(">HI", data, at + 2)
        if (match.first <= index <= match.last) == match.inverted:
            return False
        if match.length and (match.length == length) == match.length_inverted:
            return False
        return not (match.reserved_zero and reserved)

    return _python(builder, test)


@match(RtMatch)
def _rt(match: RtMatch, builder: Builder) -> Iterable[Pending]:
    """net/ipv6/netfilter/ip6t_rt.c."""
    wanted = [address.packed for address in match.addresses]

    def addresses_match(found: list[bytes]) -> bool:
        if not match.not_strict:
            return found == wanted
        rest = iter(found)
        return all(address in rest for address in wanted)

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        place = _after(data, IPPROTO_ROUTING, 4)
        if place is None:
            return False
        at, length = place
        kind, left = data[at + 2], data[at + 3]
        if match.segments is not None:
            low, high = match.segments
            if (low <= left <= high) == match.segments_inverted:
                return False
        if match.length is not None and (match.length == length) == match.length_inverted:
            return False
        if match.type is not None and (match.type == kind) == match.type_inverted:
            return False
        if match.reserved_zero and any(data[at + 4 : at + 8]):
            return False
        if not wanted:
            return True
        return addresses_match([data[at + 8 + n : at + 24 + n] for n in range(0, (length - 8) // 16 * 16, 16)])

    return _python(builder, test)


def _options_match(wanted: tuple[tuple[int, int | None], ...], data: bytes, at: int, left: int) -> bool:
    """Whether the options are these in this order; what follows them does not matter."""
    for number, (kind, length) in enumerate(wanted):
        if left < 1 or at >= len(data) or data[at] != kind:
            return False
        size = 1
        if kind:
            if left < 2 or at + 1 >= len(data):
                return False
            if length not in (None, 255, data[at + 1]):
                return False
            size = data[at + 1] + 2
        if (at > len(data) - size or left < size) and number < len(wanted) - 1:
            return False
        at += size
        left -= size
    return True


@match(HbhMatch, DstMatch)
def _options(match: OptionsMatch, builder: Builder) -> Iterable[Pending]:
    """net/ipv6/netfilter/ip6t_hbh.c."""
    kind = IPPROTO_HOPOPTS if isinstance(match, HbhMatch) else IPPROTO_DSTOPTS

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        place = _after(data, kind, 2)
        if place is None:
            return False
        at, length = place
        if match.length is not None and (match.length == length) == match.length_inverted:
            return False
        return not match.options or _options_match(match.options, data, at + 2, length - 2)

    return _python(builder, test)


@match(Eui64Match)
def _eui64(_match: Eui64Match, builder: Builder) -> Iterable[Pending]:
    """net/ipv6/netfilter/ip6t_eui64.c."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data, frame = packet.data, packet.frame
        if packet.local or len(frame) - len(data) < 14:
            return False
        mac: bytes = frame[6:12]
        return bool(data[16:24] == bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:6])

    return _python(builder, test)


@match(EcnMatch)
def _ecn(match: EcnMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_ecn.c."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        tos = data[1] if data[0] >> 4 == 4 else (data[0] << 4 | data[1] >> 4) & 0xFF
        if match.ect is not None and (tos & 3 == match.ect) == match.ect_inverted:
            return False
        if match.ece is None and match.cwr is None:
            return True
        offset: int = packet.transport_offset
        if not offset or len(data) < offset + 20:
            return False
        flags = data[offset + 13]
        if match.ece is not None and (flags & _ECE != 0) != match.ece:
            return False
        return match.cwr is None or (flags & _CWR != 0) == match.cwr

    return _python(builder, test)


@match(IpcompMatch)
def _ipcomp(match: IpcompMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_ipcomp.c."""

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        offset: int = packet.transport_offset
        if not offset:
            return False
        data: bytes = packet.data
        if len(data) < offset + 4:
            raise HotDrop
        return match.first <= int.from_bytes(data[offset + 2 : offset + 4], "big") <= match.last

    return _python(builder, test, inverted=match.inverted)


@target(EcnTarget)
def _remove_ecn(_target: EcnTarget, builder: Builder) -> Iterable[Pending]:
    """net/ipv4/netfilter/ipt_ECN.c set_ect_tcp."""

    def act(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        offset = (data[0] & 15) * 4
        if len(data) < offset + 20:
            return False
        old = data[offset + 12 : offset + 14]
        new = bytes((old[0], old[1] & ~(_ECE | _CWR)))
        if new != old:
            mended = bytearray(data)
            mended[offset + 12 : offset + 14] = new
            (check,) = struct.unpack_from(">H", data, offset + 16)
            struct.pack_into(">H", mended, offset + 16, checksum_adjust(check, old, new))
            packet.set_data(bytes(mended))
        return True

    return (Pending(Op.PYTHON_TARGET, a=builder.call(act)),)


@target(TcpoptstripTarget)
def _tcpoptstrip(target: TcpoptstripTarget, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_TCPOPTSTRIP.c."""
    kinds = frozenset(target.kinds)

    def act(_datapath: Any, packet: Any, _hook: int) -> bool:
        offset: int = packet.transport_offset
        if not offset:
            return True
        packet.linear = True
        data: bytes = packet.data
        tcp = bytearray(data[offset:])
        if len(tcp) < 20 or not 20 <= (end := (tcp[12] >> 4) * 4) <= len(tcp):
            return False
        (check,) = struct.unpack_from(">H", tcp, 16)
        at = 20
        while at < end - 1:  # the last byte is never looked at
            size = 1 if tcp[at] <= _NOP or at + 1 >= len(tcp) or tcp[at + 1] == 0 else tcp[at + 1]
            if at + size > end:
                break
            if tcp[at] in kinds:
                for place in range(at, at + size):
                    old, new = bytes((0, tcp[place])), bytes((0, _NOP))
                    if place % 2 == 0:
                        old, new = old[::-1], new[::-1]
                    check = checksum_adjust(check, old, new)
                    tcp[place] = _NOP
            at += size
        struct.pack_into(">H", tcp, 16, check)
        packet.set_data(data[:offset] + bytes(tcp))
        return True

    return (Pending(Op.PYTHON_TARGET, a=builder.call(act)),)
