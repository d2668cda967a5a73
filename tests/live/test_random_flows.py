"""Random conversations on pktsim and on the running kernel: frames, connections and counters agree after each packet.

The examples are few, so that the whole file takes under half a minute; ``PKTSIM_LIVE_EXAMPLES=500`` draws so many of
each kind. For long runs: ``python -m tests.live.long_run --kind tcp_conversation --examples 20000 --seed 1``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from tests.live.conversations import TELLERS
from tests.live.differential import NondeterministicError, difference
from tests.live.flow_cases import Teller
from tests.live.kernel_case import Workbench

pytestmark = pytest.mark.slow

#: How many of each kind; a conversation takes longer the more of it waits for the kernel's timers.
EXAMPLES = {
    "tcp_conversation": 100,
    "sctp_conversation": 100,
    "icmp_conversation": 60,
    "fragment_conversation": 30,
    "stray_packets": 100,
}
if wanted := os.environ.get("PKTSIM_LIVE_EXAMPLES"):
    EXAMPLES = dict.fromkeys(TELLERS, int(wanted))

#: What decides a conversation: its settings, and each of its packets.
DECISIONS = st.tuples(
    st.binary(min_size=16, max_size=16), st.lists(st.binary(min_size=24, max_size=24), min_size=1, max_size=14)
)


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench(keep=8) as made:
        yield made


@pytest.mark.parametrize("kind", TELLERS)
def test_the_running_kernel_does_the_same(bench: Workbench, kind: str) -> None:
    @settings(
        max_examples=EXAMPLES[kind],
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    @given(decided=DECISIONS)
    def told_twice(decided: tuple[bytes, list[bytes]]) -> None:
        story = TELLERS[kind](*decided)
        try:
            found = difference(story.case, story.run, bench)
        except NondeterministicError as error:
            event(f"decided by the kernel's chance: {error}")
            return
        assert not found, f"{found}\n{story.case['sysctls']}\n{story.rules}"

    told_twice()


@pytest.mark.parametrize("tell", TELLERS.values(), ids=TELLERS)
@given(decided=DECISIONS)
@settings(max_examples=10)
def test_the_same_decisions_tell_the_same_story(tell: Teller, decided: tuple[bytes, list[bytes]]) -> None:
    first, second = tell(*decided), tell(*decided)
    assert first.case == second.case
    assert [step.emitted for step in first.run.steps] == [step.emitted for step in second.run.steps]
