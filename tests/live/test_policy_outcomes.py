"""Both traffic policies, wherever endpoints are: the running kernel does what OUTCOMES.md says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pktsim.netfilter.ruleset import Family
from tests.cluster.policy_outcomes import COMBINATIONS, Combination
from tests.live.kernel_case import Workbench
from tests.live.kernel_outcomes import compare
from tests.live.mirror import mirror


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.name)
@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_outcomes(tmp_path: Path, bench: Workbench, combination: Combination, family: Family) -> None:
    directory = combination.write(tmp_path / "v4")
    if family is Family.IPV6:
        directory = mirror(directory, tmp_path / "v6")
    sent, difference = compare(directory, bench, (family,))
    assert not difference, f"{difference}\n{sent} packets were sent"
    assert sent >= 20
