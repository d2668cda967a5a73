"""Scripts with what they expect, Linux's own selftests among them, on the running kernel: it does so, as we do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pktsim.kernel.case import CaseRun
from tests.kernel import case_scripts
from tests.live.differential import difference
from tests.live.kernel_case import Workbench
from tests.netfilter import selftest_cases, selftest_more_cases
from tests.netfilter.case_script import Expected, Outcome, check_counters, check_step

SCRIPTS = selftest_cases.SCRIPTS | selftest_more_cases.SCRIPTS | case_scripts.SCRIPTS

#: Of these only what they expect is looked at, not all that can be seen.
EXPECTATIONS_ONLY = {
    "dnat_clash": "a socket is told a port that was drawn",
    "icmp6_related_made_here": "the filter table counts multicast listener reports, which leave when they like",
    "icmp6_related_through_masquerade": "likewise",
    "tcp_unreplied": "time passes while an entry lives, and what is left of its timeout is rounded",
}


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


def looks_at_entries(expected: Expected) -> bool:
    return bool(expected.state or expected.has or expected.lacks or expected.entries is not None)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_kernel_does_what_the_case_says(name: str, bench: Workbench) -> None:
    script = SCRIPTS[name]()
    with bench.run(script.case) as run:
        for number, (step, expected) in enumerate(zip(script.case["steps"], script.expected, strict=True)):
            result = run.take(step)
            outcome = Outcome(
                emitted=[(one["interface"], bytes.fromhex(one["frame"])) for one in result["emitted"]],
                sockets=result.get("sockets", []),
                rules={rule: packets for rule, (packets, _) in result.get("rules", {}).items()},
                entries=run.final()["conntrack"] if looks_at_entries(expected) else [],
            )
            check_step(script, number, outcome)
        check_counters(script, {rule: packets for rule, (packets, _) in run.node.counters().items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in EXPECTATIONS_ONLY])
def test_kernel_and_ours_agree(name: str, bench: Workbench) -> None:
    case = SCRIPTS[name]().case
    ours = CaseRun(case)
    ours.run()
    assert difference(case, ours, bench) == ""
