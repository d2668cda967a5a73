"""What is lowered chain by chain does to packets what is lowered whole, and counts it on the same rules."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktsim.clock import Clock
from pktsim.errors import RulesetSyntaxError
from pktsim.kernel.netns import Netns
from pktsim.netfilter.lower import Lowered, compile_table
from pktsim.netfilter.matches.udp import UdpMatch
from pktsim.netfilter.opcodes import LinkKind, TableId
from pktsim.netfilter.relower import relower
from pktsim.netfilter.ruleset import (
    BUILTIN_CHAINS,
    Chain,
    Counters,
    Family,
    HeaderMatch,
    Jump,
    MaskedAddress,
    Rule,
    Ruleset,
    Table,
    Target,
    Verdict,
    VerdictTarget,
)
from pktsim.netfilter.values import PortRange
from pktsim.rng import SeededChoices
from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, mac_from_text

MAC, FAR = "02:00:00:00:00:01", "02:ff:00:00:00:01"
#: More chains than relower wants to see changed at once.
NAMES = tuple(f"C{number:02}" for number in range(40))
ADDRESSES = tuple(f"10.1.0.{number}" for number in range(1, 13))
PORTS = (53, 80, 443)
SEEN: set[str] = set()


def rule(address: int | None, port: int | None, target: Target | None) -> Rule:
    header = HeaderMatch(
        dst=None if address is None else MaskedAddress(ip_address(ADDRESSES[address]), ip_address("255.255.255.255")),
        protocol=None if port is None else 17,
    )
    return Rule(header, () if port is None else (UdpMatch(dst_ports=PortRange(port, port)),), target)


@st.composite
def chain(draw: st.DrawFn, name: str) -> Chain:
    """A chain that leads only to chains of higher names, so to no circle."""
    later = [other for other in NAMES if other > name] if name in NAMES else list(NAMES)
    targets: list[Target | None] = [None, VerdictTarget(Verdict.ACCEPT), VerdictTarget(Verdict.DROP)]
    targets += [VerdictTarget(Verdict.RETURN)] if name in NAMES else []
    jumps = [Jump(other, goto) for other in later for goto in (False, True)]
    chosen = st.sampled_from([*targets, *jumps]) if jumps else st.sampled_from(targets)
    one = st.builds(rule, st.none() | st.integers(0, len(ADDRESSES) - 1), st.none() | st.sampled_from(PORTS), chosen)
    run = st.lists(st.builds(rule, st.integers(0, len(ADDRESSES) - 1), st.none(), chosen), min_size=8, max_size=12)
    rules = draw(st.lists(one, max_size=4)) + (draw(run) if draw(st.integers(0, 3)) == 0 else [])
    return Chain(name, tuple(rules), Verdict.ACCEPT if name not in NAMES else None)


@st.composite
def table(draw: st.DrawFn) -> Table:
    builtin = BUILTIN_CHAINS["raw"]
    return Table("raw", Family.IPV4, tuple(draw(chain(name)) for name in (*builtin, *NAMES)))


@st.composite
def edit(draw: st.DrawFn) -> list[Chain]:
    names = draw(st.lists(st.sampled_from(("PREROUTING", *NAMES)), min_size=1, max_size=3, unique=True))
    return [draw(chain(name)) for name in names]


def node(lowered: Lowered) -> Netns:
    netns = Netns("n", clock=Clock(), choices=SeededChoices(0))
    netns.link_add("eth0", LinkKind.WIRE, mac=MAC)
    netns.address_add("eth0", "10.0.0.1/24")
    netns.load_ruleset(Ruleset(Family.IPV4, (lowered.table,)), [lowered])
    return netns


def counted(lowered: Lowered) -> dict[tuple[str, int], tuple[int, int]]:
    """What some packets are counted by."""
    netns = node(lowered)
    source = ip_from_text("10.0.0.2")
    for address in ADDRESSES:
        for port in PORTS:
            daddr = ip_from_text(address)
            packet = build.ipv4(source, daddr, 17, build.udp(source, daddr, 1000, port, b"x"))
            frame = build.ethernet(mac_from_text(MAC), mac_from_text(FAR), build.ETH_P_IP, packet)
            netns.receive(netns.devices.named("eth0").ifindex, frame)
    pairs = netns.counters(Family.IPV4, TableId.RAW)
    found = {}
    for one, pair in zip(lowered.sources, pairs, strict=True):
        if one.chain:
            found[one.chain, one.number] = pair
        else:
            assert pair == (0, 0)
    return found


def with_chains(old: Table, chains: list[Chain]) -> Table:
    new = {one.name: one for one in chains}
    return replace(old, chains=tuple(new.get(one.name, one) for one in old.chains))


@settings(max_examples=40, deadline=None)
@given(table(), st.lists(edit(), min_size=1, max_size=4))
def test_relowered_is_lowered(first: Table, edits: list[list[Chain]]) -> None:
    lowered, now = compile_table(first), first
    for chains in edits:
        now = with_chains(now, chains)
        whole = compile_table(now)
        again = relower(lowered, now)
        SEEN.add("whole" if again is None else "relowered")
        lowered = again or whole
        assert lowered.table == now
        assert lowered.needs_conntrack == whole.needs_conntrack
        assert counted(lowered) == counted(whole)


def test_both_ways_were_taken() -> None:
    """The property above says nothing if nothing was ever relowered."""
    assert "relowered" in SEEN


def simple(*chains: Chain) -> Table:
    return Table("raw", Family.IPV4, (Chain("PREROUTING", (Rule(target=Jump("A")),), Verdict.ACCEPT), *chains))


A, B = Chain("A", (Rule(target=Jump("B")),)), Chain("B", (Rule(),))


def test_a_chain_that_grows_moves_and_its_callers_follow() -> None:
    old = compile_table(simple(A, B))
    new = relower(old, simple(A, Chain("B", (Rule(), rule(0, 53, None), Rule()))))
    assert new is not None
    assert new.image is not None
    assert old.image is not None
    assert new.image.placed["B"].row > old.image.placed["B"].row
    assert new.image.placed["A"] is old.image.placed["A"]
    assert counted(new)["B", 3] == counted(new)["A", 1] != (0, 0)


def test_a_chain_that_goes_while_somebody_leads_there_is_an_error() -> None:
    assert relower(compile_table(simple(A, B)), simple(A)) is None
    with pytest.raises(RulesetSyntaxError, match="no chain B"):
        compile_table(simple(A))


def test_a_circle_is_left_to_the_whole() -> None:
    circle = simple(A, Chain("B", (Rule(target=Jump("A")),)))
    assert relower(compile_table(simple(A, B)), circle) is None
    with pytest.raises(RulesetSyntaxError, match="jumps to itself"):
        compile_table(circle)


def test_counters_of_untouched_chains_survive() -> None:
    netns = node(compile_table(simple(A, B)))
    frame = build.ethernet(
        mac_from_text(MAC), mac_from_text(FAR), build.ETH_P_IP, build.ipv4(b"\x0a\0\0\2", b"\x0a\1\0\1", 99, b"x" * 8)
    )
    netns.receive(netns.devices.named("eth0").ifindex, frame)
    seen = netns.ruleset().tables[0]
    assert seen.chain("A").rules[0].counters == Counters(1, 28)
    assert netns.ruleset().tables[0] is seen
    netns.load_ruleset(Ruleset(Family.IPV4, (with_chains(seen, [Chain("B", (Rule(), Rule()))]),)))
    after = netns.ruleset().tables[0]
    assert after.chain("A") is seen.chain("A")
    assert [one.counters for one in after.chain("B").rules] == [Counters(), Counters()]
    netns.receive(netns.devices.named("eth0").ifindex, frame)
    assert netns.ruleset().tables[0].chain("A").rules[0].counters == Counters(2, 56)
