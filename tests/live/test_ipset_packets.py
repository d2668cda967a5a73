"""Packets and sets, on pktsim and on the running kernel: which rules match, marks, counters, what is added."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pktsim.kernel.case import CaseRun
from tests.live.differential import difference
from tests.live.ipset_cases import case_of
from tests.live.kernel_case import Workbench

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PKTSIM_LIVE_EXAMPLES", "60"))


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_the_running_kernel_finds_the_same(bench: Workbench, seed: int) -> None:
    case = case_of(seed)
    run = CaseRun(case)
    for step in case["steps"]:
        run.take(step)
    found = difference(case, run, bench)
    assert not found, f"{found}\n{case['ipsets']}\n{case.get('iptables') or case.get('ip6tables')}"
