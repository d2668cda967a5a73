"""Whatever becomes of a packet, the last thing that its trace says is where it went or why it went no further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pktsim.kernel.case import CaseRun
from pktsim.kernel.explain import Explainer
from pktsim.netfilter.opcodes import TraceKind
from tests.live.case_strategies import decisions, tell
from tests.live.conversations import TELLERS
from tests.live.flow_cases import Teller
from tests.live.test_random_flows import DECISIONS

pytestmark = pytest.mark.slow

#: What handlers in Python take over, and say what comes of it in records of their own.
HANDED_OVER = (
    "answered with ICMP",
    "not answered with",
    "tells nobody here anything",
    "the ICMP error is not heeded",
    "rejected (",
    "to the transport layer",
    "waits for its other fragments",
    "waits for the link-layer address",
    "is cut into fragments",
    "answered: ",
    "answered later",
    "nothing is learnt from it",
    "the neighbour table has it",
    "the address known is kept",
)


def ends(case: Mapping[str, Any]) -> list[str]:
    """The last words about each packet that say neither where it went nor why it did not."""
    run = CaseRun(case)
    explainer = Explainer()
    explainer.attach(run.node)
    for step in case["steps"]:
        run.take(step)
    last = {visit.pkt_id: visit.steps[-1] for visit in explainer.visits}
    return [
        step.text
        for step in last.values()
        if step.kind not in (TraceKind.TX, TraceKind.DROP)
        and not (step.kind is TraceKind.UPCALL and step.text.startswith(HANDED_OVER))
    ]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(decided=decisions)
def test_with_random_rules(decided: Any) -> None:
    assert ends(tell(*decided).case) == []


@pytest.mark.parametrize("tell_one", TELLERS.values(), ids=TELLERS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(decided=DECISIONS)
def test_with_random_conversations(tell_one: Teller, decided: tuple[bytes, list[bytes]]) -> None:
    assert ends(tell_one(*decided).case) == []
