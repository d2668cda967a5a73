"""Targets that are rare enough to be written in Python; importing this registers them with the lowering.

Called as matches are; true lets the packet go on to the next rule, false drops it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from pktsim._fastpath import checksum_adjust
from pktsim.netfilter.lower import Builder, Pending, PythonMatch
from pktsim.netfilter.lower_extensions import target
from pktsim.netfilter.opcodes import Hook, Op
from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.targets.audit import AuditTarget
from pktsim.netfilter.targets.checksum import ChecksumTarget
from pktsim.netfilter.targets.classify import ClassifyTarget
from pktsim.netfilter.targets.dscp import DscpTarget
from pktsim.netfilter.targets.hl import HlMode, HlTarget
from pktsim.netfilter.targets.idletimer import IdletimerTarget
from pktsim.netfilter.targets.nflog import NflogTarget
from pktsim.netfilter.targets.tcpmss import TcpmssTarget
from pktsim.netfilter.targets.tos import TosTarget
from pktsim.netfilter.targets.trace import TraceTarget
from pktsim.netfilter.targets.ttl import TtlMode, TtlTarget
from pktsim.netfilter.uncommon_matches import tcp_options
from pktsim.wire.frame import ip_addresses


def _python(builder: Builder, function: PythonMatch) -> Iterable[Pending]:
    return (Pending(Op.PYTHON_TARGET, a=builder.call(function)),)


@target(NflogTarget, TraceTarget, ChecksumTarget, AuditTarget, IdletimerTarget)
def _observes(_target: Target, _builder: Builder) -> Iterable[Pending]:
    """They tell somebody, or fill in a checksum that an offload left out; here checksums are always filled in."""
    return (Pending(Op.LOG),)


@target(ClassifyTarget)
def _classify(target: ClassifyTarget, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_CLASSIFY.c."""

    def act(_datapath: Any, packet: Any, _hook: int) -> bool:
        packet.priority = target.major << 16 | target.minor
        return True

    return _python(builder, act)


def replace_bytes(data: bytes, at: int, new: bytes) -> bytes:
    """An IPv4 header with ``new`` at ``at`` (even offset and length), its checksum mended."""
    old = data[at : at + len(new)]
    (check,) = struct.unpack_from(">H", data, 10)
    mended = bytearray(data)
    mended[at : at + len(new)] = new
    struct.pack_into(">H", mended, 10, checksum_adjust(check, old, new))
    return bytes(mended)


def _set_tos(data: bytes, tos: int) -> bytes:
    if data[0] >> 4 == 4:
        return replace_bytes(data, 0, bytes((data[0], tos)))
    return bytes((data[0] & 0xF0 | tos >> 4, (tos & 0xF) << 4 | data[1] & 0xF)) + data[2:]


def _tos_of(data: bytes) -> int:
    return data[1] if data[0] >> 4 == 4 else (data[0] << 4 | data[1] >> 4) & 0xFF


@target(TosTarget)
def _tos(target: TosTarget, builder: Builder) -> Iterable[Pending]:
    def act(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        tos = _tos_of(data)
        new = tos & ~target.mask & 0xFF ^ target.value
        if new != tos:
            packet.set_data(_set_tos(data, new))
            if data[0] >> 4 == 6:
                packet.header_rewritten()
        return True

    return _python(builder, act)


@target(DscpTarget)
def _dscp(target: DscpTarget, builder: Builder) -> Iterable[Pending]:
    def act(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        tos = _tos_of(data)
        new = tos & 3 | target.dscp << 2
        if new != tos:
            packet.set_data(_set_tos(data, new))
            if data[0] >> 4 == 6:
                packet.header_rewritten()
        return True

    return _python(builder, act)


def _moved(old: int, mode: str, by: int) -> int:
    if mode == "set":
        return by
    return min(old + by, 255) if mode == "inc" else max(old - by, 0)


@target(TtlTarget)
def _ttl(target: TtlTarget, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_HL.c."""
    mode = {TtlMode.SET: "set", TtlMode.INC: "inc", TtlMode.DEC: "dec"}[target.mode]

    def act(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        new = _moved(data[8], mode, target.ttl)
        if new != data[8]:
            packet.set_data(replace_bytes(data, 8, bytes((new, data[9]))))
        return True

    return _python(builder, act)


@target(HlTarget)
def _hl(target: HlTarget, builder: Builder) -> Iterable[Pending]:
    mode = {HlMode.SET: "set", HlMode.INC: "inc", HlMode.DEC: "dec"}[target.mode]

    def act(_datapath: Any, packet: Any, _hook: int) -> bool:
        data: bytes = packet.data
        new = _moved(data[7], mode, target.hop_limit)
        if new != data[7]:
            packet.set_data(data[:7] + bytes((new,)) + data[8:])
            packet.header_rewritten()
        return True

    return _python(builder, act)


@target(TcpmssTarget)
def _tcpmss(target: TcpmssTarget, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_TCPMSS.c: never raises an MSS; without the option it adds one, but not above the default."""

    def act(datapath: Any, packet: Any, hook: int) -> bool:
        data: bytes = packet.data
        offset: int = packet.transport_offset
        tcp = data[offset:] if offset else b""
        header = (tcp[12] >> 4) * 4 if len(tcp) >= 20 else 0
        if not offset:
            return True
        packet.linear = True
        if header < 20 or len(tcp) < header:
            return False
        v4 = data[0] >> 4 == 4
        mss = target.mss if target.mss is not None else _path_mss(datapath, packet, data, hook, v4=v4)
        if mss is None:
            return True
        for kind, at, length in tcp_options(tcp):
            if kind == 2 and length == 4:
                old = int.from_bytes(tcp[at + 2 : at + 4], "big")
                if old > mss:
                    packet.set_data(_with_mss(data, offset, at, mss))
                return True
        # "There is data after the header so the option can't be added", and no room above 15 words
        if len(tcp) > header or header >= 60:
            return True
        default = 536 if v4 else 1220
        packet.set_data(_add_mss(data, offset, header, min(mss, default), v4=v4))
        return True

    return _python(builder, act)


def _path_mss(datapath: Any, packet: Any, data: bytes, hook: int, *, v4: bool) -> int | None:
    """``--clamp-mss-to-pmtu``: the smaller of the way out's and the way back's MTU, less the headers."""
    src, dst = ip_addresses(data)
    forth = datapath.route(dst, mark=packet.mark)[4]
    back = datapath.route(src)[4] if hook != Hook.OUTPUT else forth
    least = min(mtu for mtu in (forth, back) if mtu) if forth or back else 0
    header = 40 if v4 else 60
    return least - header if least > header else None


def _with_mss(data: bytes, offset: int, at: int, mss: int) -> bytes:
    where = offset + at + 2
    new = struct.pack(">H", mss)
    (check,) = struct.unpack_from(">H", data, offset + 16)
    mended = bytearray(data)
    old = bytes(mended[where : where + 2])
    mended[where : where + 2] = new
    # also at an odd offset, where that makes the checksum wrong: tcpmss_mangle_packet does not look
    struct.pack_into(">H", mended, offset + 16, checksum_adjust(check, old, new))
    return bytes(mended)


def _add_mss(data: bytes, offset: int, header: int, mss: int, *, v4: bool) -> bytes:
    option = struct.pack(">BBH", 2, 4, mss)
    # The new option goes in front of the others.
    grown = data[: offset + 20] + option + data[offset + 20 :]
    (check,) = struct.unpack_from(">H", data, offset + 16)
    old_words = bytes(6) + struct.pack(">H", len(data) - offset) + data[offset + 12 : offset + 14]
    head = bytes(((header + 4) // 4 << 4 | data[offset + 12] & 0xF, data[offset + 13]))
    new_words = option + bytes(2) + struct.pack(">H", len(grown) - offset) + head
    mended = bytearray(grown)
    mended[offset + 12 : offset + 14] = head
    struct.pack_into(">H", mended, offset + 16, checksum_adjust(check, old_words, new_words))
    if v4:
        return replace_bytes(bytes(mended), 2, struct.pack(">H", len(mended)))
    struct.pack_into(">H", mended, 4, len(mended) - 40)
    return bytes(mended)
