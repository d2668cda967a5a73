"""Which endpoints a node may use, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.cluster.topology import HintGates, categorize_endpoints

ZONE_A = {"topology.kubernetes.io/zone": "a"}


@dataclass(frozen=True)
class Ep:
    text: str
    is_local: bool = False
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone_hints: frozenset[str] = frozenset()
    node_hints: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Port:
    uses_cluster_endpoints: bool = True
    uses_local_endpoints: bool = False
    hints_annotation: str = ""


def ending(text: str, *, local: bool = False) -> Ep:
    return Ep(text, local, ready=False, serving=True, terminating=True)


def down(text: str, *, local: bool = False) -> Ep:
    return Ep(text, local, ready=False, serving=False)


def hinted(text: str, *zones: str, local: bool = False) -> Ep:
    return Ep(text, local, zone_hints=frozenset(zones))


def meant(text: str, node: str, zone: str) -> Ep:
    return Ep(text, zone_hints=frozenset(zone), node_hints=frozenset(node))


ALL_GATES = HintGates(service_traffic_distribution=True, prefer_same_traffic_distribution=True)
CLUSTER, BOTH = Port(), Port(uses_local_endpoints=True)
LOCAL = Port(uses_cluster_endpoints=False, uses_local_endpoints=True)
HINTS = Port(hints_annotation="Auto")


@dataclass(frozen=True)
class Case:
    endpoints: tuple[Ep, ...]
    port: Port = CLUSTER
    cluster: str = ""
    local: str = ""
    reachable: str | None = None  # as cluster
    usable: bool = True
    labels: dict[str, str] = field(default_factory=lambda: ZONE_A)
    gates: HintGates = field(default=HintGates())


CASES = {
    "ready ones only": Case((Ep("x"), down("y"), ending("z")), cluster="x"),
    "none": Case((down("x"),), usable=False),
    "terminating as a last resort": Case((down("x"), ending("y")), cluster="y"),
    "local of both": Case((Ep("x"), Ep("y", True)), BOTH, cluster="xy", local="y"),
    "local policy alone": Case((Ep("x"), Ep("y", True)), LOCAL, local="y", reachable="y"),
    "local policy, none here": Case((Ep("x"),), LOCAL, reachable=""),
    "local policy, none anywhere": Case((down("x"), down("y", local=True)), LOCAL, reachable="", usable=False),
    "local fallback though others are ready": Case(
        (Ep("x"), ending("y", local=True)), BOTH, cluster="x", local="y", reachable="xy"
    ),
    "no local fallback beside a ready one": Case(
        (Ep("x", True), ending("y", local=True)), BOTH, cluster="x", local="x"
    ),
    "hints": Case((hinted("x", "a"), hinted("y", "b"), hinted("z", "a", "b")), HINTS, cluster="xz"),
    "hints without annotation": Case((hinted("x", "a"), hinted("y", "b")), CLUSTER, cluster="xy"),
    "hints disabled": Case((hinted("x", "a"), hinted("y", "b")), Port(hints_annotation="Disabled"), cluster="xy"),
    "hints with any other word": Case(
        (hinted("x", "a"), hinted("y", "b")), Port(hints_annotation="DISABLED"), cluster="x"
    ),
    "one endpoint without a hint": Case((hinted("x", "a"), Ep("y")), HINTS, cluster="xy"),
    "an endpoint without a hint that is not ready": Case((hinted("x", "a"), down("y")), HINTS, cluster="x"),
    "no hint for this zone": Case((hinted("x", "b"), hinted("y", "c")), HINTS, cluster="xy"),
    "node without a zone": Case((hinted("x", "a"), hinted("y", "b")), HINTS, cluster="xy", labels={}),
    "hints and local policy": Case(
        (hinted("x", "a"), hinted("y", "b", local=True)),
        Port(uses_local_endpoints=True, hints_annotation="Auto"),
        cluster="x",
        local="y",
        reachable="xy",
    ),
    "hints switched off by their gate": Case(
        (hinted("x", "a"), hinted("y", "b")), HINTS, cluster="xy", gates=HintGates(topology_aware_hints=False)
    ),
    "hints without annotation by traffic distribution": Case(
        (hinted("x", "a"), hinted("y", "b")), CLUSTER, cluster="x", gates=HintGates(service_traffic_distribution=True)
    ),
    "own node": Case((meant("x", "n", "a"), meant("y", "m", "a")), cluster="x", gates=ALL_GATES),
    "own zone where no endpoint is on the node": Case(
        (meant("x", "k", "b"), meant("y", "m", "a")), cluster="y", gates=ALL_GATES
    ),
    "neither": Case((meant("x", "k", "b"), meant("y", "m", "c")), cluster="xy", gates=ALL_GATES),
    "one without a node hint": Case((meant("x", "n", "a"), hinted("y", "a")), cluster="xy", gates=ALL_GATES),
}


@pytest.mark.parametrize("name", CASES)
def test_choice(name: str) -> None:
    case = CASES[name]
    found = categorize_endpoints(case.endpoints, case.port, case.labels, case.gates, "n")
    assert "".join(one.text for one in found.cluster) == case.cluster
    assert "".join(one.text for one in found.local) == case.local
    reachable = case.cluster if case.reachable is None else case.reachable
    assert "".join(sorted(one.text for one in found.reachable)) == reachable
    assert found.any_usable is case.usable


endpoints = st.lists(
    st.builds(
        Ep,
        text=st.text("abcdef", min_size=1, max_size=3),
        is_local=st.booleans(),
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
        zone_hints=st.frozensets(st.sampled_from("ab"), max_size=2),
    ),
    max_size=8,
    unique_by=lambda one: one.text,
)
ports = st.builds(
    Port,
    uses_cluster_endpoints=st.booleans(),
    uses_local_endpoints=st.booleans(),
    hints_annotation=st.sampled_from(["", "Auto"]),
)


@given(endpoints, ports)
def test_reachable_is_the_union_without_repetition(several: list[Ep], port: Port) -> None:
    found = categorize_endpoints(several, port, ZONE_A)
    texts = [one.text for one in found.reachable]
    assert len(texts) == len(set(texts))
    assert set(texts) == {one.text for one in (*found.cluster, *found.local)}
    assert all(one.is_local for one in found.local)
    assert found.any_usable or not texts
