"""How each extension is lowered to rows; importing this fills ``lower.MATCHES`` and ``lower.TARGETS``.

Each function names the kernel file whose semantics its rows have.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from pktsim.fidelity import approximated
from pktsim.netfilter.lower import (
    MATCHES,
    TARGETS,
    Builder,
    MatchLowering,
    Pending,
    address16,
    interface32,
    masked16,
    nat_range,
)
from pktsim.netfilter.matches.addrtype import AddrtypeMatch
from pktsim.netfilter.matches.comment import CommentMatch
from pktsim.netfilter.matches.connmark import ConnmarkMatch
from pktsim.netfilter.matches.conntrack import ConntrackMatch, Direction, StateMatch
from pktsim.netfilter.matches.icmp import IcmpMatch
from pktsim.netfilter.matches.icmp6 import Icmp6Match
from pktsim.netfilter.matches.mark import MarkMatch
from pktsim.netfilter.matches.multiport import MultiportMatch
from pktsim.netfilter.matches.physdev import PhysdevMatch
from pktsim.netfilter.matches.recent import RecentMatch
from pktsim.netfilter.matches.sctp import SctpMatch
from pktsim.netfilter.matches.statistic import StatisticNthMatch, StatisticRandomMatch
from pktsim.netfilter.matches.tcp import TcpMatch
from pktsim.netfilter.matches.udp import UdpMatch
from pktsim.netfilter.opcodes import NatFlag, Op
from pktsim.netfilter.recent import Recent
from pktsim.netfilter.ruleset import Family, MaskedAddress, Match, Target
from pktsim.netfilter.targets.connmark import ConnmarkTarget, Shift
from pktsim.netfilter.targets.ct import CtTarget, NotrackTarget, Zone
from pktsim.netfilter.targets.dnat import DnatTarget
from pktsim.netfilter.targets.log import LogTarget
from pktsim.netfilter.targets.mark import MarkTarget
from pktsim.netfilter.targets.masquerade import MasqueradeTarget
from pktsim.netfilter.targets.netmap import NetmapTarget
from pktsim.netfilter.targets.nfqueue import NfqueueTarget
from pktsim.netfilter.targets.queue import QueueTarget
from pktsim.netfilter.targets.redirect import RedirectTarget
from pktsim.netfilter.targets.reject import Reject6Target, RejectTarget
from pktsim.netfilter.targets.snat import SnatTarget
from pktsim.netfilter.targets.tee import TeeTarget
from pktsim.netfilter.values import NatRange, PortRange

approximated(
    "netfilter.log",
    "LOG, NFLOG, TRACE, AUDIT and IDLETIMER count and let the packet go on; nothing is written (the explanation of a "
    "packet says that it met them)",
    source="net/netfilter/nf_log.c",
)

approximated(
    "netfilter.tee",
    "what answers a copy that TEE made (REJECT, an ICMP error) is sent when the original packet has gone on; Linux "
    "sends it before",
    source="net/ipv4/netfilter/nf_dup_ipv4.c",
)

_WHOLE_SHIFT = 32

F = TypeVar("F", bound=MatchLowering)


def match(*types: type[Match]) -> Callable[[F], F]:
    def register(function: F) -> F:
        for type_ in types:
            MATCHES[type_] = function
        return function

    return register


def target(*types: type[Target]) -> Callable[[F], F]:
    def register(function: F) -> F:
        for type_ in types:
            TARGETS[type_] = function
        return function

    return register


def _ports(ports: PortRange | None) -> tuple[int, int]:
    return (0, 65535) if ports is None else (ports.first, ports.last)


@match(CommentMatch)
def _comment(_match: CommentMatch, _builder: Builder) -> Iterable[Pending]:
    return ()


@match(TcpMatch)
def _tcp(match: TcpMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_tcpudp.c tcp_mt; it looks at the header even when nothing is asked, for the hot drop."""
    inverted = (
        match.src_ports_inverted
        | match.dst_ports_inverted << 1
        | match.flags_inverted << 2
        | match.option_inverted << 3
    )
    data = struct.pack(
        "=4H4B",
        *_ports(match.src_ports),
        *_ports(match.dst_ports),
        match.option,
        match.flags_mask,
        match.flags_set,
        inverted,
    )
    yield Pending(Op.TCP, a=builder.constant(data))


@match(UdpMatch)
def _udp(match: UdpMatch, builder: Builder) -> Iterable[Pending]:
    inverted = match.src_ports_inverted | match.dst_ports_inverted << 1
    data = struct.pack("=4H2B", *_ports(match.src_ports), *_ports(match.dst_ports), inverted, 0)
    yield Pending(Op.UDP, a=builder.constant(data))


@match(SctpMatch)
def _sctp(match: SctpMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_sctp.c."""
    if match.chunk_match is not None:
        raise builder.refuse("match sctp --chunk-types")
    inverted = match.src_ports_inverted | match.dst_ports_inverted << 1
    data = struct.pack("=4H2B", *_ports(match.src_ports), *_ports(match.dst_ports), inverted, 0)
    yield Pending(Op.SCTP, a=builder.constant(data))


@match(MarkMatch)
def _mark(match: MarkMatch, _builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.MARK, match.inverted, match.value, match.mask)


@match(ConnmarkMatch)
def _connmark(match: ConnmarkMatch, builder: Builder) -> Iterable[Pending]:
    """xt_connmark.c: without a connection it does not match, inverted or not."""
    builder.needs_conntrack = True
    yield Pending(Op.CT_EXISTS)
    yield Pending(Op.CONNMARK, match.inverted, match.value, match.mask)


@match(ConntrackMatch)
def _conntrack(match: ConntrackMatch, builder: Builder) -> Iterable[Pending]:
    """xt_conntrack.c: the states first; everything else needs an entry."""
    builder.needs_conntrack = True
    if match.states is not None:
        yield Pending(Op.CTSTATE, match.states_inverted, match.states)
    others: list[Pending] = []
    if match.direction is not None:
        others.append(Pending(Op.CT_DIR, a=int(match.direction is Direction.REPLY)))
    addresses: tuple[tuple[MaskedAddress | None, bool], ...] = (
        (match.orig_src, match.orig_src_inverted),
        (match.orig_dst, match.orig_dst_inverted),
        (match.reply_src, match.reply_src_inverted),
        (match.reply_dst, match.reply_dst_inverted),
    )
    for side, (address, inverted) in enumerate(addresses):
        if address is not None:
            others.append(Pending(Op.CT_ADDR, inverted, builder.constant(masked16(address)), side))
    if match.protocol is not None:
        others.append(Pending(Op.CT_PROTO, match.protocol_inverted, match.protocol))
    ports: tuple[tuple[PortRange | None, bool], ...] = (
        (match.orig_src_port, match.orig_src_port_inverted),
        (match.orig_dst_port, match.orig_dst_port_inverted),
        (match.reply_src_port, match.reply_src_port_inverted),
        (match.reply_dst_port, match.reply_dst_port_inverted),
    )
    for side, (port, inverted) in enumerate(ports):
        if port is not None:
            others.append(Pending(Op.CT_PORT, inverted, 0, side, port.first, max(port.first, port.last)))
    if match.statuses is not None:
        others.append(Pending(Op.CT_STATUS, match.statuses_inverted, match.statuses))
    if match.expires is not None:
        others.append(Pending(Op.CT_EXPIRE, match.expires_inverted, *(min(s, 0x7FFFFFFF) for s in match.expires)))
    if others:
        yield Pending(Op.CT_EXISTS)
        yield from others


@match(StateMatch)
def _state(match: StateMatch, builder: Builder) -> Iterable[Pending]:
    builder.needs_conntrack = True
    yield Pending(Op.CTSTATE, match.inverted, match.states)


@match(AddrtypeMatch)
def _addrtype(match: AddrtypeMatch, _builder: Builder) -> Iterable[Pending]:
    flags = match.src_inverted | match.dst_inverted << 1 | match.limit_iface_in << 2 | match.limit_iface_out << 3
    yield Pending(Op.ADDRTYPE, False, match.src_types, match.dst_types, flags)


@match(StatisticRandomMatch)
def _random(match: StatisticRandomMatch, builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.STATISTIC_RANDOM, match.inverted, min(match.probability, 0x7FFFFFFF), builder.place())


@match(StatisticNthMatch)
def _nth(match: StatisticNthMatch, builder: Builder) -> Iterable[Pending]:
    """xt_statistic.c: a counter that starts at --packet, and matches when it comes round to 0."""
    slot = builder.nth_slots
    builder.nth_slots += 1
    # statistic_mt_check: "master_p->count = info->u.nth.count", and every is stored less one
    start = (match.every - match.packet - 1) % match.every
    yield Pending(Op.STATISTIC_NTH, match.inverted, match.every - 1, slot, start)


@match(MultiportMatch)
def _multiport(match: MultiportMatch, builder: Builder) -> Iterable[Pending]:
    data = b"".join(struct.pack("=2H", ports.first, ports.last) for ports in match.ports)
    sides = {"SOURCE": 1, "DESTINATION": 2, "EITHER": 3}[match.side.name]
    yield Pending(Op.MULTIPORT, match.inverted, builder.constant(data), len(match.ports), sides)


@match(IcmpMatch)
def _icmp(match: IcmpMatch, _builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.ICMP, match.inverted, match.icmp_type, match.first_code, match.last_code)


@match(Icmp6Match)
def _icmp6(match: Icmp6Match, _builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.ICMP, match.inverted, match.icmp_type, match.first_code, match.last_code)


@match(RecentMatch)
def _recent(match: RecentMatch, builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.PYTHON, match.inverted, builder.call(Recent(match)))


@match(PhysdevMatch)
def _physdev(match: PhysdevMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_physdev.c."""
    wanted = inverted = 0
    for bit, asked in ((1, match.is_in), (2, match.is_out), (4, match.is_bridged)):
        if asked is not None:
            wanted |= bit
            inverted |= 0 if asked else bit
    if wanted:
        yield Pending(Op.PHYSDEV, False, wanted, inverted)
    if match.physdev_in is not None:
        data = builder.constant(interface32(match.physdev_in))
        yield Pending(Op.PHYSDEV, match.physdev_in_inverted, 0, 0, 1, data)
    if match.physdev_out is not None:
        data = builder.constant(interface32(match.physdev_out))
        yield Pending(Op.PHYSDEV, match.physdev_out_inverted, 0, 0, 2, data)


# ------------------------------------------------------------------------------------------------------------- targets


@target(MarkTarget)
def _set_mark(target: MarkTarget, _builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.SET_MARK, a=target.mask, b=target.value)


@target(ConnmarkTarget)
def _set_connmark(target: ConnmarkTarget, builder: Builder) -> Iterable[Pending]:
    if target.shift_bits == _WHOLE_SHIFT:
        raise builder.refuse("target CONNMARK with a shift by 32 bits, which C does not define")
    builder.needs_conntrack = True
    shift = target.shift_bits if target.shift is Shift.LEFT else -target.shift_bits
    yield Pending(Op.SET_CONNMARK, shift, int(target.mode), target.ctmask, target.value, target.nfmask)


@target(NotrackTarget)
def _notrack(_target: NotrackTarget, _builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.NOTRACK)


@target(CtTarget)
def _ct(target: CtTarget, builder: Builder) -> Iterable[Pending]:
    # xt_ct_tg_check: --notrack alone does not ask for connection tracking
    builder.needs_conntrack |= not target.notrack
    if target.helper:
        raise builder.refuse(f"target CT --helper {target.helper}")
    if target.timeout:
        raise builder.refuse(f"target CT --timeout {target.timeout}")
    if target.notrack:
        yield Pending(Op.NOTRACK)
        return
    # NF_CT_ZONE_DIR_ORIG 1, _REPL 2 (include/net/netfilter/nf_conntrack_zones.h). Whichever is said, or none, the
    # packet has a template then. Which events of its connection are told does not matter: nobody listens.
    zones = ((target.zone, 3), (target.zone_orig, 1), (target.zone_reply, 2))
    zone, direction = next(((zone, way) for zone, way in zones if zone is not None), (Zone(0), 3))
    yield Pending(Op.CT_ZONE, False, zone.number, direction, int(zone.from_mark))


@target(LogTarget)
def _log(_target: LogTarget, _builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.LOG)


@target(NfqueueTarget)
def _nfqueue(target: NfqueueTarget, _builder: Builder) -> Iterable[Pending]:
    """net/netfilter/nf_queue.c: no program listens here."""
    yield Pending(Op.QUEUE, a=int(target.bypass))


@target(QueueTarget)
def _queue(_target: QueueTarget, _builder: Builder) -> Iterable[Pending]:
    """net/netfilter/nf_queue.c: ``NF_QUEUE`` without a number is queue 0."""
    yield Pending(Op.QUEUE, a=0)


@target(TeeTarget)
def _tee(target: TeeTarget, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_TEE.c."""
    device = target.out_interface.encode().ljust(16, b"\0")
    yield Pending(Op.TEE, a=builder.constant(address16(target.gateway) + device))


@target(RejectTarget)
def _reject(target: RejectTarget, _builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.REJECT, a=int(target.reject_with))


@target(Reject6Target)
def _reject6(target: Reject6Target, _builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.REJECT, a=int(target.reject_with))


def _range(range_: NatRange, builder: Builder) -> int:
    """The pool offset of a range; whoever maps addresses needs connection tracking."""
    builder.needs_conntrack = True
    flags = NatFlag(0)
    if range_.random:
        flags |= NatFlag.PROTO_RANDOM
    if range_.random_fully:
        flags |= NatFlag.PROTO_RANDOM_FULLY
    if range_.persistent:
        flags |= NatFlag.PERSISTENT
    addresses = (range_.addresses.first, range_.addresses.last) if range_.addresses is not None else None
    ports = (range_.ports.first, range_.ports.last) if range_.ports is not None else None
    return builder.constant(nat_range(addresses, ports, base_port=range_.base_port, flags=int(flags)))


@target(DnatTarget)
def _dnat(target: DnatTarget, builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.DNAT, a=_range(target.range, builder))


@target(SnatTarget)
def _snat(target: SnatTarget, builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.SNAT, a=_range(target.range, builder))


@target(MasqueradeTarget)
def _masquerade(target: MasqueradeTarget, builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.MASQUERADE, a=_range(target.range, builder))


@target(RedirectTarget)
def _redirect(target: RedirectTarget, builder: Builder) -> Iterable[Pending]:
    yield Pending(Op.REDIRECT, a=_range(target.range, builder))


@target(NetmapTarget)
def _netmap(target: NetmapTarget, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_NETMAP.c: the range from the network's first to its last address."""
    width = 32 if builder.family is Family.IPV4 else 128
    low = int(target.to.address)
    high = low | (~int(target.to.mask) & ((1 << width) - 1))
    builder.needs_conntrack = True
    kind = IPv4Address if builder.family is Family.IPV4 else IPv6Address
    yield Pending(Op.NETMAP, a=builder.constant(nat_range((kind(low), kind(high)), None)))
