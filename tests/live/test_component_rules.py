"""What components of a cluster write: read, saved and done as by the running kernel and its tools."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from pktsim.kernel.case import CaseRun
from pktsim.netfilter.iptables_text import parse_save, print_save
from pktsim.netfilter.ruleset import Family
from tests import tools
from tests.live import netns
from tests.live.case_worlds import WORLD4, node_of
from tests.live.component_rules import COMPONENTS
from tests.live.differential import difference
from tests.live.ipset_cases import step
from tests.live.kernel_case import Workbench

pytestmark = pytest.mark.slow

#: Packets of each case.
STEPS = 24


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


@pytest.mark.parametrize("name", COMPONENTS)
def test_packets_go_where_the_running_kernel_sends_them(bench: Workbench, name: str) -> None:
    component = COMPONENTS[name]
    rng = random.Random(name)
    case: dict[str, Any] = {
        "name": name,
        **node_of(WORLD4.topology),
        "sysctls": dict[str, str](),
        "iptables": component.iptables,
        "steps": [step(rng, WORLD4) for _ in range(STEPS)],
    }
    if component.ipsets:
        case["ipsets"] = component.ipsets
    run = CaseRun(case)
    for one in case["steps"]:
        run.take(one)
    found = difference(case, run, bench)
    assert not found, found


@pytest.mark.usefixtures("_live_machine")
@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_the_save_tool_prints_what_we_print(name: str, backend: str) -> None:
    tools.need("ip", "ipset", f"iptables-{backend}-restore")
    component = COMPONENTS[name]
    ours = parse_save(component.iptables, Family.IPV4)
    namespace = f"{netns.PREFIX}-{os.getpid()}-parts"
    tools.run("ip", "netns", "add", namespace)

    def run(*command: str, given: str = "") -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", namespace, *command], input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    try:
        if component.ipsets:
            run("ipset", "restore", given=component.ipsets)
        run(f"iptables-{backend}-restore", given=component.iptables)
        for table in ours.tables:
            saved = run(f"iptables-{backend}-save", "-t", table.name)
            theirs = re.sub(r"^#.*\n", "", saved, flags=re.MULTILINE)
            if backend == "legacy":
                assert print_save(ours, tables=[table.name]) == theirs
            else:  # it orders chains as they were made, and says some things in other words
                again = parse_save(theirs, Family.IPV4).table(table.name)
                assert again is not None
                there = {chain.name: chain.rules for chain in again.chains}
                assert there == {chain.name: chain.rules for chain in table.chains if chain.name in there}
                assert all(chain.name in there for chain in table.chains if chain.rules)
    finally:
        tools.run("ip", "netns", "del", namespace)
