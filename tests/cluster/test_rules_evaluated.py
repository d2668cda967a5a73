"""How many rules a kernel looks at for a packet: the same with and without the engine's index."""

from __future__ import annotations

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.walk import Passage, Walk
from pktsim.netfilter import lower, programs
from pktsim.netfilter.opcodes import TraceKind
from tests.cluster.test_alive import CLIENT, WEB, pod


def services(number: int) -> str:
    return "".join(
        f"\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{one:04}}}\n"
        f"spec: {{clusterIP: 172.30.{one // 200 + 1}.{one % 200 + 1}, selector: {{app: web}}, "
        "ports: [{port: 80, targetPort: 8080}]}"
        for one in range(number)
    )


def passages(number: int) -> list[Passage]:
    cluster = Cluster(2)
    cluster.apply(WEB + CLIENT + pod("one") + services(number))
    walk = cluster.trace_to("default/client", "172.30.0.1:80")
    assert walk.delivered
    return walk.passages


@pytest.mark.slow
def test_counted_with_the_index_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    indexed = passages(30)
    programs._SHARED.clear()
    monkeypatch.setattr(lower, "DISPATCH_MIN", 10**9)
    one_by_one = passages(30)
    programs._SHARED.clear()
    assert [one.rules_evaluated for one in indexed] == [one.rules_evaluated for one in one_by_one]
    for one in one_by_one:
        looked_at = [step for step in one.steps if step.kind is TraceKind.RULE and step.rule and step.rule.rule]
        assert one.rules_evaluated == len(looked_at)


@pytest.mark.slow
def test_a_first_packet_pays_for_every_service_and_later_ones_do_not() -> None:
    few, many = passages(10), passages(110)
    first, *later = [other.rules_evaluated - one.rules_evaluated for one, other in zip(few, many, strict=True)]
    # KUBE-SERVICES of nat is walked up to the service's rule, and web comes last by name
    assert first == 100
    assert 0 in later
    text = "\n".join(Walk(passages=few).lines())
    assert f"rules evaluated: {few[0].rules_evaluated}" in text
