"""Hypothesis strategies for rules, tables and rulesets that the kernel would load: legal by construction.

Where an extension may stand depends on the table, on the hooks from which its rule can be reached, and on the rule's
protocol. So each chain of the user's is first given the hooks from which it *may* be reached, jumps go only to chains
that may be reached from at least as many (and never back), and each rule picks among what is legal for that.

What needs an object outside of the tables (an ipset, an nfacct counter) is left out unless asked for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hypothesis import assume
from hypothesis import strategies as st

from pktsim.netfilter.catalogue import find_match
from pktsim.netfilter.matches.addrtype import AddrType, AddrtypeMatch
from pktsim.netfilter.matches.ah import Ah6Match, AhMatch
from pktsim.netfilter.matches.bpf import BpfInstruction, BpfMatch
from pktsim.netfilter.matches.comment import CommentMatch
from pktsim.netfilter.matches.connbytes import ConnbytesDirection, ConnbytesMatch, ConnbytesMode
from pktsim.netfilter.matches.connlabel import ConnlabelMatch
from pktsim.netfilter.matches.connlimit import ConnlimitMatch
from pktsim.netfilter.matches.connmark import ConnmarkMatch
from pktsim.netfilter.matches.conntrack import ConntrackMatch, Direction, StateMatch
from pktsim.netfilter.matches.cpu import CpuMatch
from pktsim.netfilter.matches.devgroup import DevgroupMatch
from pktsim.netfilter.matches.dscp import DscpMatch
from pktsim.netfilter.matches.ecn import EcnMatch
from pktsim.netfilter.matches.esp import EspMatch
from pktsim.netfilter.matches.frag import FragMatch
from pktsim.netfilter.matches.hashlimit import SCALE, HashlimitMatch
from pktsim.netfilter.matches.hl import HlComparison, HlMatch
from pktsim.netfilter.matches.icmp import IcmpMatch
from pktsim.netfilter.matches.icmp6 import Icmp6Match
from pktsim.netfilter.matches.ip6opts import DstMatch, HbhMatch
from pktsim.netfilter.matches.iprange import IprangeMatch
from pktsim.netfilter.matches.ipv6header import Ipv6headerMatch
from pktsim.netfilter.matches.length import LengthMatch
from pktsim.netfilter.matches.limit import LIMIT_SCALE, LimitMatch
from pktsim.netfilter.matches.mac import MacMatch
from pktsim.netfilter.matches.mark import MarkMatch
from pktsim.netfilter.matches.multiport import PROTOCOLS as PORT_PROTOCOLS
from pktsim.netfilter.matches.multiport import MultiportMatch, MultiportSide
from pktsim.netfilter.matches.nfacct import NfacctMatch
from pktsim.netfilter.matches.owner import OwnerMatch
from pktsim.netfilter.matches.physdev import PhysdevMatch
from pktsim.netfilter.matches.pkttype import PacketType, PkttypeMatch
from pktsim.netfilter.matches.quota import QuotaMatch
from pktsim.netfilter.matches.recent import RecentAction, RecentMatch
from pktsim.netfilter.matches.rpfilter import RpfilterMatch
from pktsim.netfilter.matches.rt import RtMatch
from pktsim.netfilter.matches.sctp import ChunkMatch, SctpMatch
from pktsim.netfilter.matches.set import SetMatch, SetSide
from pktsim.netfilter.matches.socket import SocketMatch
from pktsim.netfilter.matches.statistic import PROBABILITY_ONE, StatisticNthMatch, StatisticRandomMatch
from pktsim.netfilter.matches.string import StringMatch
from pktsim.netfilter.matches.tcp import TcpFlag, TcpMatch
from pktsim.netfilter.matches.tcpmss import TcpmssMatch
from pktsim.netfilter.matches.time import LATEST_DATE_S, LATEST_DAYTIME_S, TimeMatch
from pktsim.netfilter.matches.tos import TosMatch
from pktsim.netfilter.matches.ttl import TtlComparison, TtlMatch
from pktsim.netfilter.matches.u32 import U32Match, U32Op, U32Test
from pktsim.netfilter.matches.udp import UdpMatch
from pktsim.netfilter.opcodes import CtStateBit, CtStatus
from pktsim.netfilter.option import prefix_mask
from pktsim.netfilter.ruleset import (
    BUILTIN_CHAINS,
    Chain,
    Counters,
    Family,
    HeaderMatch,
    Jump,
    MaskedAddress,
    Match,
    Rule,
    Ruleset,
    Table,
    Target,
    Verdict,
    VerdictTarget,
)
from pktsim.netfilter.targets.audit import AuditTarget
from pktsim.netfilter.targets.checksum import ChecksumTarget
from pktsim.netfilter.targets.classify import ClassifyTarget
from pktsim.netfilter.targets.connmark import ConnmarkMode, ConnmarkTarget, Shift
from pktsim.netfilter.targets.ct import CtTarget, NotrackTarget, Zone
from pktsim.netfilter.targets.dnat import DnatTarget
from pktsim.netfilter.targets.dscp import DscpTarget
from pktsim.netfilter.targets.ecn import EcnTarget
from pktsim.netfilter.targets.hl import HlMode, HlTarget
from pktsim.netfilter.targets.log import LogTarget
from pktsim.netfilter.targets.mark import MarkTarget
from pktsim.netfilter.targets.masquerade import MasqueradeTarget
from pktsim.netfilter.targets.netmap import NetmapTarget
from pktsim.netfilter.targets.nflog import NflogTarget
from pktsim.netfilter.targets.nfqueue import NfqueueTarget
from pktsim.netfilter.targets.redirect import RedirectTarget
from pktsim.netfilter.targets.reject import Reject6Target, Reject6With, RejectTarget, RejectWith
from pktsim.netfilter.targets.set import SetElement, SetTarget
from pktsim.netfilter.targets.snat import SnatTarget
from pktsim.netfilter.targets.tcpmss import TcpmssTarget
from pktsim.netfilter.targets.tcpoptstrip import TcpoptstripTarget
from pktsim.netfilter.targets.tee import TeeTarget
from pktsim.netfilter.targets.tos import TosTarget
from pktsim.netfilter.targets.tproxy import TproxyTarget
from pktsim.netfilter.targets.trace import TraceTarget
from pktsim.netfilter.targets.ttl import TtlMode, TtlTarget
from pktsim.netfilter.values import Address, AddressRange, NatRange, PortRange

ICMP, TCP, UDP, DCCP, GRE, ESP, AH, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 47, 50, 51, 58, 132, 136

booleans = st.booleans()
u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.one_of(st.sampled_from([0, 1, 0x4000, 0x8000, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
ports = st.one_of(st.sampled_from([0, 53, 80, 443, 30080, 65535]), u16)
interfaces = st.sampled_from(["lo", "eth0", "eth1", "cali+", "cni0", "flannel.1", "veth12345678901"])
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
comments = st.one_of(printable, st.text(st.sampled_from("aé→\"\\' !-"), max_size=20))


@dataclass(frozen=True)
class Place:
    """Where a rule stands."""

    family: Family
    table: str
    hooks: frozenset[str]
    objects: bool = False  # whether ipsets and nfacct counters may be named


def addresses(family: Family) -> st.SearchStrategy[Address]:
    """Any address, the well-known ones among them."""
    if family is Family.IPV4:
        return st.one_of(
            st.sampled_from(["10.244.1.2", "172.30.0.1", "192.168.0.1", "127.0.0.1", "0.0.0.0"]).map(IPv4Address),
            st.integers(0, 2**32 - 1).map(IPv4Address),
        )
    return st.one_of(
        st.sampled_from(["fd00::1", "::", "::1", "::ffff:10.0.0.1", "::10.0.0.1", "2001:db8:0:0:1::1"]).map(
            IPv6Address
        ),
        st.integers(0, 2**128 - 1).map(IPv6Address),
    )


def _bits(family: Family) -> int:
    return 32 if family is Family.IPV4 else 128


@st.composite
def masked_addresses(draw: st.DrawFn, family: Family, *, shortest: int = 0, any_mask: bool = True) -> MaskedAddress:
    """An address stored masked, by a prefix or (with ``any_mask``) by any mask."""
    bits = 32 if family is Family.IPV4 else 128
    address = int(draw(addresses(family)))
    if any_mask and draw(st.integers(0, 9)) == 0:
        mask = draw(st.integers(1, 2**bits - 1))
    else:
        mask = int(prefix_mask(draw(st.one_of(st.just(bits), st.integers(shortest, bits))), family))
    if family is Family.IPV4:
        return MaskedAddress(IPv4Address(address & mask), IPv4Address(mask))
    return MaskedAddress(IPv6Address(address & mask), IPv6Address(mask))


@st.composite
def port_ranges(draw: st.DrawFn) -> PortRange:
    """One port or a range, but not all of them, which is the same as nothing said."""
    first, last = sorted((draw(ports), draw(ports)))
    if draw(booleans) or (first, last) == (0, 65535):
        last = first
    return PortRange(first, last)


@st.composite
def address_ranges(draw: st.DrawFn, family: Family) -> AddressRange:
    """One address or a range."""
    first, last = sorted((draw(addresses(family)), draw(addresses(family))), key=int)
    return AddressRange(first, first) if draw(booleans) else AddressRange(first, last)


def _said(draw: st.DrawFn, values: st.SearchStrategy[PortRange]) -> tuple[PortRange | None, bool]:
    return (draw(values), draw(booleans)) if draw(booleans) else (None, False)


# Matches


@st.composite
def conntrack_matches(draw: st.DrawFn, family: Family) -> ConntrackMatch:
    """At least one condition."""
    said: dict[str, object] = {}
    conditions = {
        "states": st.integers(1, 0x1FF).map(lambda bits: bits & sum(CtStateBit)).filter(bool),
        "protocol": st.sampled_from([TCP, UDP, ICMP, SCTP, 99]),
        "statuses": st.integers(0, 15).map(lambda bits: bits & (CtStatus.CONFIRMED * 2 - 1)),
        "expires": st.tuples(st.integers(0, 1000), st.integers(1000, 0xFFFFFFFF)),
        **{f"{way}_{side}_port": port_ranges() for way in ("orig", "reply") for side in ("src", "dst")},
        **{
            f"{way}_{side}": st.builds(
                MaskedAddress, addresses(family), st.integers(0, 32).map(lambda length: prefix_mask(length, family))
            )
            for way in ("orig", "reply")
            for side in ("src", "dst")
        },
    }
    chosen = draw(st.lists(st.sampled_from(sorted(conditions)), min_size=1, max_size=4, unique=True))
    for name in chosen:
        said[name] = draw(conditions[name])
        said[f"{name}_inverted"] = draw(booleans)
    if draw(booleans):
        said["direction"] = draw(st.sampled_from(Direction))
    return ConntrackMatch(**said)  # type: ignore[arg-type]


@st.composite
def tcp_matches(draw: st.DrawFn) -> TcpMatch:
    """Anything that ``-m tcp`` takes."""
    source, destination = _said(draw, port_ranges()), _said(draw, port_ranges())
    option = draw(st.integers(0, 255))
    option_inverted = bool(option) and draw(booleans)
    if not draw(booleans):
        return TcpMatch(*source, *destination, option, option_inverted)
    mask, value = draw(st.integers(1, 0x3F)), draw(st.integers(0, 0x3F))
    return TcpMatch(*source, *destination, option, option_inverted, mask, value, draw(booleans))


@st.composite
def udp_matches(draw: st.DrawFn) -> UdpMatch:
    """Anything that ``-m udp`` takes."""
    return UdpMatch(*_said(draw, port_ranges()), *_said(draw, port_ranges()))


@st.composite
def sctp_matches(draw: st.DrawFn) -> SctpMatch:
    """Ports, and chunk types without flags."""
    match = SctpMatch(*_said(draw, port_ranges()), *_said(draw, port_ranges()))
    if not draw(booleans):
        return match
    types = draw(st.lists(st.sampled_from([0, 1, 2, 3, 6, 14, 64, 193]), max_size=4, unique=True))
    return SctpMatch(
        match.src_ports,
        match.src_ports_inverted,
        match.dst_ports,
        match.dst_ports_inverted,
        draw(st.sampled_from(ChunkMatch)),
        tuple(sorted(types)),
        (),
        draw(booleans),
    )


@st.composite
def multiport_matches(draw: st.DrawFn) -> MultiportMatch:
    """Up to 15 ports, a range counting as two."""
    ranges: list[PortRange] = []
    for one in draw(st.lists(port_ranges(), min_size=1, max_size=7)):
        ranges.append(one)
    return MultiportMatch(draw(st.sampled_from(MultiportSide)), tuple(ranges), draw(booleans))


@st.composite
def addrtype_matches(draw: st.DrawFn, place: Place) -> AddrtypeMatch:
    """Types and limits that the family and the hooks allow."""
    legal = [one for one in AddrType if one < AddrType.PROHIBIT or place.family is Family.IPV4]
    if place.family is Family.IPV6:
        legal = [one for one in legal if one not in (AddrType.BROADCAST, AddrType.BLACKHOLE)]
    types = st.lists(st.sampled_from(legal), min_size=1, max_size=3).map(lambda some: int(sum(set(some))))
    source = draw(st.one_of(st.just(0), types))
    destination = draw(types) if not source else draw(st.one_of(st.just(0), types))
    limit = draw(st.sampled_from(["", "", "in", "out"]))
    return AddrtypeMatch(
        source,
        bool(source) and draw(booleans),
        destination,
        bool(destination) and draw(booleans),
        limit == "in" and not place.hooks & {"POSTROUTING", "OUTPUT"},
        limit == "out" and not place.hooks & {"PREROUTING", "INPUT"},
    )


@st.composite
def recent_matches(draw: st.DrawFn, family: Family) -> RecentMatch:
    """The list's name says how many stamps it keeps, so that no two rules disagree about it."""
    action = draw(st.sampled_from(RecentAction))
    mask = prefix_mask(32 if family is Family.IPV4 else 128, family)
    inverted, by_destination = draw(booleans), draw(booleans)
    if action in (RecentAction.SET, RecentAction.REMOVE):
        return RecentMatch(action, mask, "DEFAULT", inverted, by_destination=by_destination)
    seconds = draw(st.integers(0, 10800))
    hitcount = draw(st.integers(0, 8))
    return RecentMatch(
        action,
        mask,
        f"hits-{family.name}-{hitcount}",
        inverted,
        seconds,
        bool(seconds) and draw(booleans),
        hitcount,
        draw(booleans),
        by_destination,
    )


@st.composite
def limit_matches(draw: st.DrawFn) -> LimitMatch:
    """Rates that the tool prints as they were written."""
    count, seconds = draw(
        st.sampled_from(
            [(1, 1), (5, 1), (7, 1), (100, 1), (10000, 1), (1, 60), (4, 60), (1, 3600), (3, 3600), (2, 86400)]
        )
    )
    average = LIMIT_SCALE * seconds // count
    # What the bucket holds must fit into 32 bits.
    return LimitMatch(average, draw(st.integers(1, min(10000, 0xFFFFFFFF * 10 // (average * 32)))))


@st.composite
def time_matches(draw: st.DrawFn) -> TimeMatch:
    """Any time."""
    dates = st.integers(1, LATEST_DATE_S)
    times = st.integers(0, LATEST_DAYTIME_S)
    start, stop = draw(times), draw(times)
    months, weeks = (
        draw(st.lists(st.integers(1, last), min_size=1, unique=True).map(lambda days: sum(1 << day for day in days)))
        for last in (31, 7)
    )
    return TimeMatch(
        draw(dates), draw(dates), start, stop, months, weeks, draw(booleans), start > stop and draw(booleans)
    )


@st.composite
def u32_matches(draw: st.DrawFn) -> U32Match:
    """One or two tests."""
    shifts = st.tuples(st.sampled_from([U32Op.LEFT_SHIFT, U32Op.RIGHT_SHIFT]), st.integers(0, 31))
    step = st.one_of(st.tuples(st.sampled_from([U32Op.AND, U32Op.AT]), u32), shifts)
    test = st.builds(
        U32Test,
        u32,
        st.lists(step, max_size=4).map(tuple),
        st.lists(st.tuples(u32, u32), min_size=1, max_size=4).map(tuple),
    )
    return U32Match(tuple(draw(st.lists(test, min_size=1, max_size=2))), draw(booleans))


@st.composite
def string_matches(draw: st.DrawFn) -> StringMatch:
    """Text or bytes."""
    pattern = draw(st.one_of(printable.map(str.encode), st.binary(max_size=20)).filter(bool))
    first, last = sorted((draw(u16), draw(u16)))
    return StringMatch(pattern, draw(st.sampled_from(["bm", "kmp"])), draw(booleans), first, last, draw(booleans))


@st.composite
def physdev_matches(draw: st.DrawFn, hooks: frozenset[str]) -> PhysdevMatch:
    """At least one condition; where packets of the node itself pass, none about the way out."""
    out = "OUTPUT" not in hooks
    question = st.sampled_from([None, True, False])
    name_in = draw(st.one_of(st.none(), interfaces))
    name_out = draw(st.one_of(st.none(), interfaces)) if out else None
    match = PhysdevMatch(
        name_in,
        name_in is not None and draw(booleans),
        draw(question),
        name_out,
        name_out is not None and draw(booleans),
        draw(question) if out else None,
        draw(question),
    )
    return PhysdevMatch(is_in=True) if match == PhysdevMatch() else match


@st.composite
def owner_matches(draw: st.DrawFn) -> OwnerMatch:
    """At least one condition."""
    ids = st.one_of(st.none(), st.tuples(st.integers(0, 1000), st.integers(1000, 2**32 - 2)), st.just((0, 0)))
    uids, gids, socket = draw(ids), draw(ids), draw(st.sampled_from([None, True, False]))
    if uids is None and gids is None and socket is None:
        socket = True
    return OwnerMatch(
        uids,
        uids is not None and draw(booleans),
        gids,
        gids is not None and draw(booleans),
        socket,
        gids is not None and draw(booleans),
    )


@functools.lru_cache(None)
def matches(place: Place, protocol: int | None) -> st.SearchStrategy[Match]:
    """Any match that a rule at ``place`` with ``-p protocol`` (``None``: none, or an inverted one) may have."""
    family, hooks = place.family, place.hooks
    some: list[st.SearchStrategy[Match]] = [
        st.builds(CommentMatch, comments),
        conntrack_matches(family),
        st.builds(StateMatch, st.sampled_from([1, 2, 4, 8, 256, 15, 271]), booleans),
        st.builds(MarkMatch, u32, u32, booleans),
        st.builds(ConnmarkMatch, u32, u32, booleans),
        addrtype_matches(place),
        st.builds(StatisticRandomMatch, st.integers(0, PROBABILITY_ONE), booleans),
        st.builds(
            lambda every, packet, inverted: StatisticNthMatch(every, packet % every, inverted),
            st.integers(1, 0xFFFFFFFF),
            u32,
            booleans,
        ),
        recent_matches(family),
        limit_matches(),
        physdev_matches(hooks),
        st.builds(IprangeMatch, address_ranges(family), booleans, address_ranges(family), booleans),
        st.builds(IprangeMatch, dst=address_ranges(family), dst_inverted=booleans),
        st.builds(LengthMatch, u16, u16, booleans),
        st.builds(DscpMatch, st.integers(0, 63), booleans),
        st.builds(TosMatch, u8, u8, booleans),
        u32_matches(),
        st.builds(PkttypeMatch, st.sampled_from(PacketType), booleans),
        string_matches(),
        st.builds(
            lambda a, b, mode, way, inverted: ConnbytesMatch(
                min(a, b), max(a, b, 1), mode, way, inverted and a != b and max(a, b) > 1
            ),
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**64 - 1),
            st.sampled_from(ConnbytesMode),
            st.sampled_from(ConnbytesDirection),
            booleans,
        ),
        st.builds(ConnlimitMatch, u32, st.integers(0, 32), booleans, booleans),
        st.builds(QuotaMatch, st.integers(0, 2**64 - 1), booleans),
        st.builds(ConnlabelMatch, st.integers(0, 127), booleans, booleans),
        st.builds(CpuMatch, u8, booleans),
        st.builds(EcnMatch, st.none(), st.none(), st.integers(0, 3), booleans),
        time_matches(),
        st.builds(
            BpfMatch,
            st.sampled_from(
                [(BpfInstruction(6, 0, 0, 1),), (BpfInstruction(48, 0, 0, 9), BpfInstruction(22, 0, 0, 0))]
            ),
        ),
        st.builds(
            lambda average, above, burst, mode: HashlimitMatch(
                f"{place.family.name}-{average}-{burst}-{''.join(sorted(mode))}",
                average,
                above,
                burst,
                mode,
                src_length=_bits(place.family),
                dst_length=_bits(place.family),
                expire_ms=1000 if average <= SCALE else 60_000,
                longest=_bits(place.family),
            ),
            st.sampled_from([SCALE // 5, SCALE // 100, SCALE, SCALE * 60 // 7]),
            booleans,
            st.integers(1, 1000),
            st.frozensets(st.sampled_from(["srcip", "dstip", "srcport", "dstport"])),
        ),
    ]
    if not hooks & {"OUTPUT", "POSTROUTING"}:
        some.append(st.builds(DevgroupMatch, st.tuples(u32, u32), booleans))
    if family is Family.IPV4:
        some.append(
            st.sampled_from(TtlComparison).flatmap(
                lambda one: st.builds(
                    TtlMatch, st.just(one), u8, booleans if one is TtlComparison.EQ else st.just(False)
                )
            )
        )
    else:
        some.append(
            st.sampled_from(HlComparison).flatmap(
                lambda one: st.builds(HlMatch, st.just(one), u8, booleans if one is HlComparison.EQ else st.just(False))
            )
        )
        some.append(st.builds(Ipv6headerMatch, st.integers(1, 255), booleans, booleans))
        some.append(
            st.builds(
                FragMatch,
                st.integers(1, 9),
                st.integers(9, 99),
                booleans,
                st.none(),
                st.just(False),
                booleans,
                booleans,
            )
        )
        some.append(st.builds(RtMatch, st.integers(0, 9), booleans, st.tuples(st.just(0), u8), booleans, u8, booleans))
        spi = st.integers(1, 1000), st.integers(1000, 2**32 - 1)
        some.append(st.builds(Ah6Match, *spi, booleans, st.integers(1, 1000), booleans, booleans))
        # what ip6tables calls PAD0 has no length
        option = st.one_of(
            st.tuples(u8, st.none()), st.tuples(st.integers(1, 255), st.integers(0, 254)), st.just((0, None))
        )
        options = st.lists(option, max_size=4).map(tuple)
        some += [st.builds(kind, u8, booleans, options) for kind in (HbhMatch, DstMatch)]
    if hooks <= {"PREROUTING", "INPUT", "FORWARD"}:
        some.append(st.builds(MacMatch, st.binary(min_size=6, max_size=6), booleans))
    if hooks <= {"PREROUTING", "INPUT"}:
        some.append(st.builds(SocketMatch, booleans, booleans, booleans))
    if hooks <= {"OUTPUT", "POSTROUTING"}:
        some.append(owner_matches())
    if hooks <= {"PREROUTING"} and place.table in ("raw", "mangle"):
        some.append(st.builds(RpfilterMatch, booleans, booleans, booleans, booleans))
    by_protocol: dict[int, list[st.SearchStrategy[Match]]] = {
        TCP: [
            tcp_matches(),
            tcp_matches(),
            st.builds(TcpmssMatch, st.integers(0, 1460), st.integers(1460, 65535), booleans),
        ],
        UDP: [udp_matches(), udp_matches()],
        SCTP: [sctp_matches(), sctp_matches()],
        ESP: [st.builds(EspMatch, st.integers(1, 1000), st.integers(1000, 2**32 - 1), booleans)],
    }
    if family is Family.IPV4:
        by_protocol[ICMP] = [
            st.builds(IcmpMatch, st.integers(0, 254), st.just(0), st.just(0xFF), booleans),
            st.builds(
                lambda kind, code, inverted: IcmpMatch(kind, code, code, inverted), st.integers(0, 254), u8, booleans
            ),
            st.builds(IcmpMatch, st.just(0xFF), st.just(0), st.just(0xFF), booleans),
        ]
        by_protocol[AH] = [st.builds(AhMatch, st.integers(1, 1000), st.integers(1000, 2**32 - 1), booleans)]
    else:
        by_protocol[ICMPV6] = [
            st.builds(Icmp6Match, u8, st.just(0), st.just(0xFF), booleans),
            st.builds(lambda kind, code, inverted: Icmp6Match(kind, code, code, inverted), u8, u8, booleans),
        ]
    if protocol in PORT_PROTOCOLS:
        some.append(multiport_matches())
    if place.objects:
        sides = st.lists(st.sampled_from(SetSide), min_size=1, max_size=3).map(tuple)
        some.append(st.builds(SetMatch, st.sampled_from(["cali40all-ipam-pools", "s"]), sides, booleans, booleans))
        some.append(st.builds(NfacctMatch, st.sampled_from(["ct_state_invalid_dropped_pkts", "a b"])))
    own = by_protocol.get(protocol or 0, [])
    return st.one_of(st.one_of(*own), st.one_of(*some)) if own else st.one_of(*some)


# Targets


@st.composite
def nat_ranges(
    draw: st.DrawFn,
    family: Family,
    protocol: int | None,
    *,
    addressed: bool,
    fully: bool,
    persistent: bool,
    shift: bool,
) -> NatRange:
    """What a NAT target may be told; ports only with a protocol that has them."""
    found = draw(address_ranges(family)) if addressed else None
    said: PortRange | None = None
    if protocol in (ICMP, TCP, UDP, DCCP, SCTP) and draw(booleans):
        said = draw(port_ranges())
        if addressed and draw(booleans):
            found = None
    base = (
        draw(st.integers(1, 65535))
        if shift and said is not None and said.first < said.last and draw(booleans)
        else None
    )
    return NatRange(found, said, base, draw(booleans), fully and draw(booleans), persistent and draw(booleans))


@st.composite
def connmark_targets(draw: st.DrawFn) -> ConnmarkTarget:
    """Any of the three modes."""
    mode = draw(st.sampled_from(ConnmarkMode))
    bits = draw(st.sampled_from([0, 0, 0, 1, 16, 31]))
    shift = draw(st.sampled_from(Shift)) if bits else Shift.LEFT
    if mode is ConnmarkMode.SET:
        return ConnmarkTarget(mode, draw(u32), draw(u32), shift=shift, shift_bits=bits)
    return ConnmarkTarget(mode, 0, draw(u32), draw(u32), shift, bits)


@st.composite
def ct_targets(draw: st.DrawFn) -> CtTarget:
    """Without helpers and time-outs, which are objects outside of the tables."""
    zone = draw(st.one_of(st.none(), st.builds(Zone, st.integers(1, 65535)), st.just(Zone(0, from_mark=True))))
    which = draw(st.sampled_from(["zone", "zone_orig", "zone_reply"]))
    if draw(booleans):
        return CtTarget(notrack=True)
    return CtTarget(ctevents=draw(st.integers(0, 0x3FF)), expevents=draw(st.integers(0, 1)), **{which: zone})  # type: ignore[arg-type]


@functools.lru_cache(None)
def targets(place: Place, protocol: int | None, reachable: tuple[str, ...]) -> st.SearchStrategy[Target | None]:
    """Any target for a rule at ``place``; ``reachable`` are the chains it may jump to."""
    family, table, hooks = place.family, place.table, place.hooks
    verdicts = [Verdict.ACCEPT, Verdict.RETURN] if table == "nat" else list(Verdict)
    some: list[st.SearchStrategy[Target | None]] = [
        st.none(),
        st.builds(VerdictTarget, st.sampled_from(verdicts)),
        st.builds(MarkTarget, u32, u32),
        connmark_targets(),
        st.builds(
            LogTarget,
            printable.map(lambda text: text[:29]),
            st.integers(0, 7),
            st.integers(0, 63).map(lambda bits: bits & 0x2F),
        ),
        st.builds(NflogTarget, u16, printable, st.one_of(st.none(), u32), st.just(0), u16),
        st.builds(
            lambda first, last, *flags: NfqueueTarget(first, last, flags[0], first != last and flags[1]),
            st.integers(0, 100),
            st.integers(100, 65534),
            booleans,
            booleans,
        ),
        st.builds(NfqueueTarget, u16.map(lambda one: one)).map(lambda one: NfqueueTarget(one.first, one.first)),
        st.builds(TeeTarget, addresses(family).filter(int), st.just("")),
        st.builds(AuditTarget, st.sampled_from(["accept", "drop", "reject"])),
    ]
    if reachable:
        jumps = st.builds(Jump, st.sampled_from(reachable), booleans)
        some += [jumps, jumps]
    if table == "nat":
        if hooks <= {"PREROUTING", "OUTPUT"}:
            some.append(
                st.builds(
                    DnatTarget, nat_ranges(family, protocol, addressed=True, fully=False, persistent=True, shift=True)
                )
            )
            some.append(
                st.builds(
                    RedirectTarget,
                    nat_ranges(family, protocol, addressed=False, fully=False, persistent=False, shift=False),
                )
            )
        if hooks <= {"POSTROUTING", "INPUT"}:
            some.append(
                st.builds(
                    SnatTarget, nat_ranges(family, protocol, addressed=True, fully=True, persistent=True, shift=False)
                )
            )
        if hooks <= {"POSTROUTING"}:
            some.append(
                st.builds(
                    MasqueradeTarget,
                    nat_ranges(family, protocol, addressed=False, fully=True, persistent=False, shift=False),
                )
            )
        some.append(st.builds(NetmapTarget, masked_addresses(family, any_mask=False)))
    if table == "filter" and hooks <= {"INPUT", "FORWARD", "OUTPUT"}:
        if family is Family.IPV4:
            kinds = [one for one in RejectWith if one is not RejectWith.TCP_RESET or protocol == TCP]
            some.append(st.builds(RejectTarget, st.sampled_from(kinds)))
        else:
            kinds6 = [one for one in Reject6With if one is not Reject6With.TCP_RESET or protocol == TCP]
            some.append(st.builds(Reject6Target, st.sampled_from(kinds6)))
    if table == "raw":
        some += [ct_targets(), st.just(NotrackTarget()), st.just(TraceTarget())]
    if table == "mangle":
        some += [st.builds(TosTarget, u8, u8), st.builds(DscpTarget, st.integers(0, 63)), st.just(ChecksumTarget())]
        if family is Family.IPV4:
            some.append(st.builds(lambda mode, by: TtlTarget(mode, by), st.sampled_from(TtlMode), st.integers(1, 255)))
        else:
            some.append(st.builds(lambda mode, by: HlTarget(mode, by), st.sampled_from(HlMode), st.integers(1, 255)))
        if protocol == TCP:
            stripped = st.sets(st.integers(2, 255), min_size=1, max_size=5)
            some.append(st.builds(TcpoptstripTarget, stripped.map(lambda some: tuple(sorted(some)))))
            if family is Family.IPV4:
                some.append(st.just(EcnTarget()))
        if hooks <= {"PREROUTING"} and protocol in (TCP, UDP):
            some.append(st.builds(TproxyTarget, ports, addresses(family), u32, u32))
    if hooks <= {"FORWARD", "OUTPUT", "POSTROUTING"}:
        some.append(st.builds(ClassifyTarget, u16, u16))
    if place.objects:
        element = st.builds(SetElement, st.just("s"), st.just((SetSide.SRC, SetSide.DST)))
        some.append(
            st.builds(SetTarget, element, st.none(), st.none(), booleans, st.one_of(st.none(), st.integers(0, 100)))
        )
    return st.one_of(*some)


# Rules, chains, tables


def _reads_back(found: list[Match], family: Family) -> bool:
    """Whether the tool reads what it prints of these matches.

    A kind of match that is named again keeps its place before the kinds that were named meanwhile, so of options that
    are called alike (``--mark`` of mark and of connmark) the tool takes theirs, and complains that it is used twice.
    """
    options: dict[str, set[str]] = {}
    for one in found:
        extension = find_match(one.extension, family)
        assert extension is not None
        own = set(extension.by_name())
        if one.extension in options:
            meanwhile = list(options)[list(options).index(one.extension) + 1 :]
            if any(own & options[other] for other in meanwhile):
                return False
        options[one.extension] = own
    return True


@st.composite
def rules(draw: st.DrawFn, place: Place, reachable: tuple[str, ...], *, builtin: bool) -> Rule:
    """A rule that is legal at ``place``."""
    family = place.family
    protocol = draw(
        st.sampled_from(
            [None, TCP, TCP, UDP, UDP, SCTP, ICMP if family is Family.IPV4 else ICMPV6, ESP, AH, GRE, 4, 200]
        )
    )
    if family is Family.IPV6 and protocol == AH:
        protocol = TCP
    protocol_inverted = protocol is not None and draw(st.integers(0, 7)) == 0
    known = None if protocol_inverted else protocol
    found: list[Match] = draw(st.lists(matches(place, known), max_size=3))
    assume(_reads_back(found, family))
    target = draw(
        targets(
            place, protocol if protocol in (ICMP, TCP, UDP, DCCP, SCTP) and not protocol_inverted else known, reachable
        )
    )
    if known == TCP and place.table == "mangle" and draw(st.integers(0, 5)) == 0:
        found.append(TcpMatch(flags_mask=TcpFlag.SYN | TcpFlag.RST, flags_set=TcpFlag.SYN))
        clamp = not place.hooks & {"PREROUTING", "INPUT"} and draw(booleans)
        target = TcpmssTarget(None if clamp else draw(st.integers(0, 1460)))

    def optional(values: st.SearchStrategy[MaskedAddress]) -> tuple[MaskedAddress | None, bool]:
        return (draw(values), draw(booleans)) if draw(st.integers(0, 2)) == 0 else (None, False)

    src, src_inverted = optional(masked_addresses(family, shortest=1))
    dst, dst_inverted = optional(masked_addresses(family, shortest=1))
    may_in = not (builtin and place.hooks & {"OUTPUT", "POSTROUTING"})
    may_out = not (builtin and place.hooks & {"PREROUTING", "INPUT"})
    in_interface = draw(st.one_of(st.none(), st.none(), interfaces)) if may_in else None
    out_interface = draw(st.one_of(st.none(), st.none(), interfaces)) if may_out else None
    fragment = family is Family.IPV4 and draw(st.integers(0, 9)) == 0
    header = HeaderMatch(
        src,
        src_inverted,
        dst,
        dst_inverted,
        in_interface,
        in_interface is not None and draw(booleans),
        out_interface,
        out_interface is not None and draw(booleans),
        protocol,
        protocol_inverted,
        fragment,
        fragment and draw(booleans),
    )
    counters = Counters(draw(st.integers(0, 2**40)), draw(st.integers(0, 2**63)))
    return Rule(header, tuple(found), target, counters)


_CHAIN_NAMES = (
    "A",
    "B0",
    "DOCKER-USER",
    "KUBE-SEP-AAAAAAAAAAAAAAAA",
    "KUBE-SERVICES",
    "cali-from-wl-dispatch",
    "z_1.2:3",
)


@st.composite
def tables(draw: st.DrawFn, family: Family, name: str, *, objects: bool = False) -> Table:
    """A table with up to four chains of the user's and a few rules in each chain."""
    builtin = BUILTIN_CHAINS[name]
    user = draw(st.lists(st.sampled_from(_CHAIN_NAMES), max_size=4, unique=True))
    allowed: dict[str, frozenset[str]] = {chain: frozenset({chain}) for chain in builtin}
    for chain in user:
        allowed[chain] = frozenset(draw(st.lists(st.sampled_from(builtin), min_size=1, unique=True)))
    order = [*builtin, *user]
    found: dict[str, Chain] = {}
    for at, chain in enumerate(order):
        later = tuple(one for one in order[at + 1 :] if one in user and allowed[chain] <= allowed[one])
        place = Place(family, name, allowed[chain], objects)
        some = draw(st.lists(rules(place, later, builtin=chain in builtin), max_size=3))
        policy: Verdict | None = None
        counters = Counters()
        if chain in builtin:
            policy = Verdict.ACCEPT if name == "nat" else draw(st.sampled_from([Verdict.ACCEPT, Verdict.DROP]))
            counters = Counters(draw(st.integers(0, 2**40)), draw(st.integers(0, 2**63)))
        found[chain] = Chain(chain, tuple(some), policy, counters)
    return Table(name, family, tuple(found[chain] for chain in [*builtin, *sorted(user)]))


@st.composite
def rulesets(draw: st.DrawFn, *, objects: bool = False) -> Ruleset:
    """One to three tables of one family."""
    family = draw(st.sampled_from(Family))
    names = draw(st.lists(st.sampled_from(["filter", "mangle", "nat", "raw"]), min_size=1, max_size=3, unique=True))
    return Ruleset(family, tuple(draw(tables(family, name, objects=objects)) for name in sorted(names)))
