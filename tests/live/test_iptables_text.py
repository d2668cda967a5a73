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

from pktsim.netfilter.iptables_text import print_save
from pktsim.netfilter.ruleset import Family, Ruleset
from tests import tools
from tests.property.strategies import rulesets

pytestmark = [pytest.mark.live, pytest.mark.slow]

_PREFIX = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class Namespace:
    """A network namespace in which rules can be loaded."""

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

    def empty(self, family: Family) -> None:
        """Load empty tables."""
        for table in ("filter", "mangle", "nat", "raw"):
            assert self.restore(family, f"*{table}\nCOMMIT\n").returncode == 0


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """One for the module: tables are replaced as a whole each time."""
    tools.need("ip", "iptables-legacy-restore", "ip6tables-legacy-restore")
    if os.geteuid() != 0:
        tools.missing("needs root")
    name = f"pkt-text-{os.getpid()}"
    tools.run("ip", "netns", "add", name)
    try:
        yield Namespace(name)
    finally:
        tools.run("ip", "netns", "del", name)


def _lacks_module(stderr: str) -> bool:
    return bool(re.search(r"missing kernel module|is not supported|Couldn't load|revision .* not supported", stderr))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(ruleset=rulesets())
def test_the_save_tool_prints_what_we_print(namespace: Namespace, ruleset: Ruleset) -> None:
    for table in ruleset.tables:
        text = print_save(Ruleset(ruleset.family, (table,)), counters=True)
        done = namespace.restore(ruleset.family, text)
        assume(not _lacks_module(done.stderr))
        assert done.returncode == 0, f"{done.stderr}\n{text}"
        assert namespace.save(ruleset.family, table.name) == text
