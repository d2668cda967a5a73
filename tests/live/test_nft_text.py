"""The real nft lists what it is given as we do, and what it lists itself it reads again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktsim.netfilter.nft_print import Printer
from pktsim.netfilter.nft_text import parse_ruleset
from tests import tools
from tests.live import netns
from tests.live.nft_strategies import nft_text
from tests.netfilter.nft_rules import RULES

pytestmark = [pytest.mark.live, pytest.mark.slow]

SETS = Path(__file__).parents[1] / "netfilter" / "sets.nft"


class Nft:
    """The rulesets of a network namespace that has nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def listed(self, text: str) -> str:
        """``nft list ruleset`` after ``nft -f``."""
        inside = ("ip", "netns", "exec", self.name, "nft")
        tools.run(*inside, "flush", "ruleset")
        done = subprocess.run([*inside, "-f", "-"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return tools.run(*inside, "list", "ruleset")


@pytest.fixture(scope="module")
def nft() -> Iterator[Nft]:
    tools.need("ip", "nft")
    if reason := netns.why_not():
        tools.missing(reason)
    name = f"{netns.PREFIX}-{os.getpid()}-nft"
    tools.run("ip", "netns", "add", name)
    try:
        yield Nft(name)
    finally:
        tools.run("ip", "netns", "delete", name)


def ours(text: str) -> str:
    """What we list."""
    ruleset = parse_ruleset(text, ifindex=lambda name: int(name == "lo"))
    return Printer(lambda ifindex: "lo" if ifindex == 1 else "").ruleset(ruleset)


def test_each_rule_that_is_on_file(nft: Nft) -> None:
    text = ""
    for number, (family, kind, hook, rule, _) in enumerate(RULES):
        head = f"type {kind} hook {hook} priority 5; policy accept;"
        text += f"table {family} t{number} {{\n\tchain x {{\n\t}}\n\n\tchain c {{\n\t\t{head}\n\t\t{rule}\n\t}}\n}}\n"
    assert nft.listed(text) == ours(text)


def test_sets_and_objects(nft: Nft) -> None:
    text = SETS.read_text(encoding="utf-8")
    assert nft.listed(text) == ours(text) == text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=24, max_size=24), max_size=25))
def test_random_rulesets(nft: Nft, rules: list[bytes]) -> None:
    text = nft_text(rules)
    listed = nft.listed(text)
    assert ours(text) == listed
    assert nft.listed(listed) == listed
