"""The real tools read what we print and print the same again; what they refuse, we refuse.

Each test has a network namespace of its own. Extensions whose kernel module this machine lacks are left out, by name.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings

from pktsim.netfilter.iptables_text import parse_save, print_save
from pktsim.netfilter.ruleset import Family, Ruleset
from tests import tools
from tests.live import netns
from tests.netfilter.rule_cases import CASES, Case
from tests.property.strategies import rulesets

pytestmark = [pytest.mark.live, pytest.mark.slow]

_PREFIX = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class Tables:
    """The tables of a network namespace that has nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def restore(self, family: Family, text: str, *, backend: str = "legacy") -> subprocess.CompletedProcess[str]:
        """``iptables-restore -c``."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, f"{_PREFIX[family]}-{backend}-restore", "-c"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            errors="surrogateescape",
        )

    def save(self, family: Family, table: str, *, backend: str = "legacy") -> str:
        """``iptables-save -c`` of one table, without comments."""
        tool = f"{_PREFIX[family]}-{backend}-save"
        text = tools.run("ip", "netns", "exec", self.name, tool, "-c", "-t", table)
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    """One for the module: tables are replaced as a whole each time."""
    tools.need("ip", "iptables-legacy-restore", "ip6tables-legacy-restore")
    if reason := netns.why_not():
        tools.missing(reason)
    name = f"{netns.PREFIX}-{os.getpid()}-text"
    tools.run("ip", "netns", "add", name)
    try:
        yield Tables(name)
    finally:
        tools.run("ip", "netns", "del", name)


def _lacks_module(stderr: str) -> bool:
    return bool(re.search(r"missing kernel module|is not supported|Couldn't load|revision .* not supported", stderr))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(ruleset=rulesets())
def test_the_save_tool_prints_what_we_print(tables: Tables, ruleset: Ruleset) -> None:
    for table in ruleset.tables:
        text = print_save(Ruleset(ruleset.family, (table,)), counters=True)
        done = tables.restore(ruleset.family, text)
        assume(not _lacks_module(done.stderr))
        assert done.returncode == 0, f"{done.stderr}\n{text}"
        assert tables.save(ruleset.family, table.name) == text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_tools_agree_with_the_table_of_cases(tables: Tables, case: Case) -> None:
    assert tables.restore(case.family, f"*{case.table}\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n").returncode == 0
    done = tables.restore(case.family, "\n".join([f"*{case.table}", *case.given, "COMMIT", ""]))
    if case.saved is None:
        assert done.returncode != 0
        return
    if _lacks_module(done.stderr):
        tools.missing(done.stderr.splitlines()[0])
    assert done.returncode == 0, done.stderr
    saved = tables.save(case.family, case.table)
    assert tuple(line.split("] ", 1)[1] for line in saved.splitlines() if "] -A " in line) == case.saved
    assert print_save(parse_save(saved, case.family), counters=True) == saved
