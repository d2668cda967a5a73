"""OUTCOMES.md says what the rules do."""

from __future__ import annotations

from tests.cluster.policy_outcomes import DOCUMENT, Combination, outcomes, tables


def test_document_is_what_the_rules_do() -> None:
    assert DOCUMENT.read_text() == tables(), "run python -m tests.cluster.policy_outcomes"


def test_external_policy_local_without_a_local_endpoint() -> None:
    """Dropped for others; to pods the policy does not apply (KUBE-EXT-: "pod traffic for ...")."""
    cells = outcomes(Combination("Local", "Cluster", ("remote",)))
    for destination in ("node port", "load balancer IP", "external IP"):
        assert cells[destination, "outside"] == "dropped"
        assert cells[destination, "pod"] == "remote"
    assert cells["cluster IP", "pod"] == "remote"


def test_ending_endpoints_are_used_when_no_ready_one_is_left() -> None:
    cells = outcomes(Combination("Local", "Local", ("ending local", "remote")))
    assert cells["load balancer IP", "outside"] == "ending local"
    assert cells["cluster IP", "pod"] == "ending local"
    cells = outcomes(Combination("Cluster", "Cluster", ("local", "ending local")))
    assert cells["load balancer IP", "outside"] == "local*"


def test_no_endpoints_refuse() -> None:
    cells = outcomes(Combination("Cluster", "Cluster", ()))
    assert {text for (_, sender), text in cells.items() if sender != "node"} == {"refused"}
