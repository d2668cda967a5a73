"""Rules in odd spellings: the real tool takes what we take, and saves it in the words in which we print it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from pktsim.errors import PktsimError, RulesetSyntaxError
from pktsim.netfilter.iptables_text import parse_save, print_save
from pktsim.netfilter.ruleset import Family
from tests import tools
from tests.live import netns
from tests.live.rule_line_strategies import Lines

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PKTSIM_LIVE_EXAMPLES", "600"))
#: In one test, so that a failure says which.
AT_ONCE = 100
_LACKS_MODULE = re.compile(r"missing kernel module|is not supported|Couldn't load|revision .* not supported|Can't find")
#: Known, and of no use to anybody: see the comments.
_KNOWN = re.compile(
    r"--tcp-flags NONE"  # TCPMSS looks at flags that are not compared
    r"|--hel\S* "  # it prints its help and does nothing, or a helper that no module has
    r"|-j CT .*--timeo"  # that of nfct
    r"|--weekdays \d\d|--to\S* \S+/\d\d\d?\b|/33\b|--(hbh|dst)-opts \S*256|--oif \w{16}"  # comes to something
)


@pytest.fixture(scope="module")
def namespace(_live_machine: None) -> Iterator[str]:
    tools.need("ip", "iptables-legacy-restore", "ip6tables-legacy-restore")
    name = f"{netns.PREFIX}-{os.getpid()}-lines"
    tools.run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        tools.run("ip", "netns", "del", name)


def _run(namespace: str, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ip", "netns", "exec", namespace, *command],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        errors="surrogateescape",
    )


def _difference(namespace: str, lines: Lines) -> str:
    text = lines.text()
    tool = "iptables" if lines.family is Family.IPV4 else "ip6tables"
    theirs = _run(namespace, f"{tool}-legacy-restore", "--wait", "60", given=text)
    if _KNOWN.search(text) or _LACKS_MODULE.search(theirs.stderr):
        return ""
    saved = ""
    if theirs.returncode == 0:
        whole = _run(namespace, f"{tool}-legacy-save", "-c", "-t", lines.table).stdout
        saved = "".join(line for line in whole.splitlines(keepends=True) if not line.startswith("#"))
    try:
        ours = print_save(parse_save(text, lines.family), counters=True)
    except RulesetSyntaxError as error:
        return f"we refuse it: {error}" if saved else ""
    except PktsimError:
        return ""  # by name: not modelled
    if not saved:
        return f"the tool refuses it: {theirs.stderr.strip()}"
    return "" if ours == saved else f"the tool saves\n{saved}\nand we\n{ours}"


@pytest.mark.parametrize("first", range(0, EXAMPLES, AT_ONCE))
def test_lines_are_read_and_saved_as_by_the_tool(namespace: str, first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        lines = Lines(seed)
        found = _difference(namespace, lines)
        assert not found, f"seed {seed}, {lines.family.name}\n{lines.text()}\n{found}"
