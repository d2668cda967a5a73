"""The real nft lists what it is given as we do, and so it does with what it has listed, if it can read that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pktsim.errors import RulesetSyntaxError
from pktsim.netfilter.nft_print import Printer
from pktsim.netfilter.nft_text import parse_ruleset
from tests import tools
from tests.live import netns
from tests.live.nft_strategies import nft_text
from tests.netfilter import nft_mismatches
from tests.netfilter.nft_conflicts import CONFLICTS, HEAD, NO_CONFLICTS
from tests.netfilter.nft_rules import RULES

pytestmark = [pytest.mark.live, pytest.mark.slow]

SETS = Path(__file__).parents[1] / "netfilter" / "sets.nft"


class Nft:
    """The rulesets of a network namespace that has nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def listed(self, text: str) -> str:
        """``nft list ruleset`` after ``nft -f``."""
        found, complaint = self.listed_if_read(text)
        assert not complaint, complaint
        return found

    def listed_if_read(self, text: str) -> tuple[str, str]:
        """``nft list ruleset`` after ``nft -f``, or why nft did not take the text."""
        inside = ("ip", "netns", "exec", self.name, "nft")
        script = "flush ruleset\n" + text
        done = subprocess.run([*inside, "-f", "-"], input=script, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return "", done.stderr
        return tools.run(*inside, "list", "ruleset"), ""


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


def test_protocols_that_contradict_each_other(nft: Nft) -> None:
    for family, rule, place, names in CONFLICTS:
        command = f"add rule {family} t c {rule}"
        _, said = nft.listed_if_read(HEAD.format(family=family) + command)
        line = len(HEAD.splitlines()) + 2  # behind what flushes
        assert f":{line}:{command.index(place) + 1}-" in said
        assert f"Error: conflicting protocols specified: {names}" in said
    for family, rule in NO_CONFLICTS:
        nft.listed(f"{HEAD.format(family=family)}add rule {family} t c {rule}")


def test_what_is_not_of_the_type_of_the_set(nft: Nft) -> None:
    for rule in nft_mismatches.MISMATCHES:
        _, said = nft.listed_if_read(f"{nft_mismatches.HEAD}add rule inet t c {rule}")
        assert "Error: datatype mismatch" in said, rule
    for rule in nft_mismatches.MATCHES:
        nft.listed(f"{nft_mismatches.HEAD}add rule inet t c {rule}")


def test_random_rulesets(nft: Nft) -> None:
    """Also what nft has listed is read and listed as nft does it, where it can read that itself.

    It not always can: a transport header's field that stands behind ``meta l4proto icmp`` is listed as one of ICMP's,
    ``th dport`` as ``icmp checksum``, which is of another type than the set that it is looked up in.
    """
    read_again: list[bool] = []

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.binary(min_size=24, max_size=24), max_size=25))
    @example([bytes.fromhex("000069000200000000007400000000000000000000000000")])
    def alike(rules: list[bytes]) -> None:
        text = nft_text(rules)
        listed = nft.listed(text)
        assert ours(text) == listed
        again, complaint = nft.listed_if_read(listed)
        read_again.append(not complaint)
        if not complaint:
            assert ours(listed) == again
        else:
            with pytest.raises(RulesetSyntaxError):
                ours(listed)

    alike()
    assert read_again.count(True) > 30
