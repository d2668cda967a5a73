"""Whatever arrives, the engine neither crashes nor raises, sends nothing broken that came in whole, and traces truly.

``tests/fuzz/engine.py`` does the same for hours, and under AddressSanitizer.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktsim.errors import PktsimError, UnsupportedFeature
from pktsim.netfilter.opcodes import Event
from pktsim.netfilter.programs import lower_table
from pktsim.netfilter.ruleset import Chain, Family, Rule, Ruleset, Table
from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, IPPROTO_UDP, ethernet, ipv4, udp
from tests.fuzz.frames import ADDRESSES4, ADDRESSES6, BEHIND, MACS, NODE_MAC, FrameSource
from tests.fuzz.rules import Rules, draw
from tests.fuzz.world import Run, check_conntrack, make_space
from tests.property import frame_strategies as frames
from tests.property import strategies as rule_strategies

addresses4, addresses6 = st.sampled_from(ADDRESSES4), st.sampled_from(ADDRESSES6)
for_the_node = st.builds(
    lambda dst, packet: ethernet(dst, MACS[4], ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6, packet),
    st.sampled_from(MACS[:3]),
    frames.ipv4_packets(addresses4, addresses4) | frames.ipv6_packets(addresses6, addresses6),
)
arrivals = st.lists(
    st.tuples(
        st.sampled_from((*BEHIND, "cni0", "lo", "flannel.1")),
        st.binary(max_size=120) | for_the_node | frames.mutated(for_the_node),
    ),
    max_size=12,
)


def steps(run: Run, count: int) -> None:
    for _ in range(count):
        run.step()


@given(seed=st.integers(0, 2**16), arriving=arrivals)
def test_any_bytes_are_survived(seed: int, arriving: list[tuple[str, bytes]]) -> None:
    space = make_space(random.Random(seed), draw(seed % 8), trace=True)
    for name, frame in arriving:
        space.receive(space.devices.named(name).ifindex, frame)
    space.clock.run_for(10 * 10**9)
    space.datapath.take_trace()


@pytest.mark.slow
@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), valid=st.booleans())
def test_flows_come_out_whole_and_the_trace_changes_nothing(seed: int, valid: bool) -> None:
    run = Run(random.Random(seed), valid=valid)
    steps(run, 100)
    run.finish()


def runnable(table: Table) -> Table:
    """The table without the rules that the engine's lowering refuses by name."""

    def runs(chain: Chain, rule: Rule) -> bool:
        others = [replace(one, rules=(rule,) if one is chain else ()) for one in table.chains]
        try:
            lower_table(replace(table, chains=tuple(others)))
        except PktsimError:
            return False
        return True

    kept = (replace(chain, rules=tuple(rule for rule in chain.rules if runs(chain, rule))) for chain in table.chains)
    return replace(table, chains=tuple(kept))


@pytest.mark.slow
@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), ruleset=rule_strategies.rulesets())
def test_any_rules_are_survived(seed: int, ruleset: Ruleset) -> None:
    tables = tuple(runnable(table) for table in ruleset.tables)
    other = Family.IPV6 if ruleset.family == Family.IPV4 else Family.IPV4
    rules = Rules((Ruleset(ruleset.family, tables), Ruleset(other, ())), "")
    run = Run(random.Random(seed), valid=False, rules=rules)
    with contextlib.suppress(UnsupportedFeature):  # some rules are refused only when such a packet comes
        steps(run, 60)
        run.finish()


# --- the harness itself


A, B = ip_from_text("203.0.113.9"), ip_from_text("10.1.1.1")


def test_the_harness_sees_frames_go_through() -> None:
    run = Run(random.Random(3), valid=True)
    flows = 0
    for _ in range(10):
        steps(run, 30)
        flows += check_conntrack(run.plain)
    assert run.sent > 50
    assert flows > 0
    run.finish()


def test_the_harness_finds_a_bad_checksum() -> None:
    space = make_space(random.Random(1), draw(1), trace=False)
    space.check = True
    whole = ethernet(NODE_MAC, NODE_MAC, ETH_P_IP, ipv4(A, B, IPPROTO_UDP, udp(A, B, 1, 2, b"x")))
    space.process([(Event.TX, 1, 2, whole)])
    with pytest.raises(AssertionError, match=r"bad \(.*\) checksum"):
        space.process([(Event.TX, 1, 2, whole[:-1] + b"y")])


def test_the_harness_finds_two_worlds_that_differ() -> None:
    run = Run(random.Random(1), valid=True)
    run.traced.sysctl_set("net.ipv4.ip_forward", 1 - run.plain.sysctl("net.ipv4.ip_forward"))
    with pytest.raises(AssertionError):
        steps(run, 300)


def test_frames_are_the_same_for_the_same_seed() -> None:
    first, second = (FrameSource(random.Random(5)) for _ in range(2))
    assert [first.next() for _ in range(200)] == [second.next() for _ in range(200)]
