"""Whole restore files in odd shapes: taken or refused, and with what result, as by the real tool, --noflush too."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

from pktsim.errors import RulesetSyntaxError
from pktsim.netfilter.iptables_text import print_save, restore
from pktsim.netfilter.ruleset import Family, Ruleset
from tests import tools
from tests.live import netns

pytestmark = pytest.mark.slow

#: What is loaded before.
BEFORE: Final = """*filter
:INPUT DROP [5:500]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:A - [0:0]
:B - [0:0]
[1:2] -A INPUT -j A
[3:4] -A A -s 1.1.1.1
COMMIT
*mangle
:INPUT ACCEPT [0:0]
COMMIT
"""
CASES: Final[dict[str, str]] = {
    "no COMMIT": "*filter\n-A INPUT\n",
    "commit lower": "*filter\n-A INPUT\ncommit\n",
    "commit trailing blank": "*filter\n-A INPUT\nCOMMIT \n",
    "COMMIT x": "*filter\n-A INPUT\nCOMMITx\n",
    "leading blank": "*filter\n -A INPUT\nCOMMIT\n",
    "leading tab": "*filter\n\t-A INPUT\nCOMMIT\n",
    "comment in table": "*filter\n# hello\n-A INPUT\nCOMMIT\n",
    "comment indented": "*filter\n  # hello\n-A INPUT\nCOMMIT\n",
    "empty lines": "\n\n*filter\n\n-A INPUT\n\nCOMMIT\n\n",
    "crlf": "*filter\r\n-A INPUT\r\nCOMMIT\r\n",
    "before table": "-A INPUT\n*filter\nCOMMIT\n",
    "two tables": "*filter\n-A INPUT\nCOMMIT\n*mangle\n-A INPUT -j MARK --set-mark 1\nCOMMIT\n",
    "second table without commit": "*filter\n-A INPUT\n*mangle\nCOMMIT\n",
    "same table twice": "*filter\n-A INPUT\nCOMMIT\n*filter\n-A OUTPUT\nCOMMIT\n",
    "no such table": "*nope\nCOMMIT\n",
    "table blank": "* filter\nCOMMIT\n",
    "table trailing": "*filter x\nCOMMIT\n",
    "chain policy counters": "*filter\n:INPUT DROP [7:8]\nCOMMIT\n",
    "chain bad counters": "*filter\n:INPUT DROP [7]\nCOMMIT\n",
    "chain bad counters 2": "*filter\n:INPUT DROP 7:8\nCOMMIT\n",
    "chain bad counters 3": "*filter\n:INPUT DROP [x:y]\nCOMMIT\n",
    "chain user twice": "*filter\n:U - [0:0]\n:U - [0:0]\nCOMMIT\n",
    "chain user policy": "*filter\n:U ACCEPT [0:0]\nCOMMIT\n",
    "chain builtin dash": "*filter\n:INPUT - [0:0]\nCOMMIT\n",
    "chain no policy": "*filter\n:U\nCOMMIT\n",
    "chain blank": "*filter\n: U - [0:0]\nCOMMIT\n",
    "chain bad policy": "*filter\n:INPUT REJECT [0:0]\nCOMMIT\n",
    "chain lower policy": "*filter\n:INPUT drop [0:0]\nCOMMIT\n",
    "chain named as target": "*filter\n:MARK - [0:0]\nCOMMIT\n",
    "chain named ACCEPT": "*filter\n:ACCEPT - [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n",
    "chain quote": '*filter\n:"my chain" - [0:0]\nCOMMIT\n',
    "chain dash": "*filter\n:-x - [0:0]\nCOMMIT\n",
    "chain bang": "*filter\n:!x - [0:0]\nCOMMIT\n",
    "chain counters user": "*filter\n:U - [5:6]\nCOMMIT\n",
    "redeclare existing": "*filter\n:A - [0:0]\n-A A -s 2.2.2.2\nCOMMIT\n",
    "undeclared user chain": "*filter\n-A A -s 2.2.2.2\nCOMMIT\n",
    "jump undeclared": "*filter\n-A INPUT -j A\nCOMMIT\n",
    "jump later declared": "*filter\n-A INPUT -j L\n:L - [0:0]\nCOMMIT\n",
    "insert": "*filter\n-I INPUT -s 3.3.3.3\n-I INPUT 2 -s 4.4.4.4\nCOMMIT\n",
    "insert 3": "*filter\n-I INPUT 3 -s 3.3.3.3\nCOMMIT\n",
    "replace": "*filter\n-R INPUT 1 -s 3.3.3.3\nCOMMIT\n",
    "delete num": "*filter\n-D INPUT 1\nCOMMIT\n",
    "delete spec": "*filter\n-D INPUT -j A\nCOMMIT\n",
    "delete missing": "*filter\n-D INPUT -s 9.9.9.9\nCOMMIT\n",
    "new chain": "*filter\n-N U\n-A U\nCOMMIT\n",
    "new chain twice": "*filter\n-N U\n-N U\nCOMMIT\n",
    "new chain existing": "*filter\n-N A\nCOMMIT\n",
    "flush all": "*filter\n-F\nCOMMIT\n",
    "flush one": "*filter\n-F A\nCOMMIT\n",
    "delete chains": "*filter\n-F\n-X\nCOMMIT\n",
    "delete chain B": "*filter\n-X B\nCOMMIT\n",
    "delete chain A": "*filter\n-X A\nCOMMIT\n",
    "rename": "*filter\n-E A C\nCOMMIT\n",
    "rename to existing": "*filter\n-E A B\nCOMMIT\n",
    "policy": "*filter\n-P INPUT ACCEPT\n-P FORWARD DROP\nCOMMIT\n",
    "policy user": "*filter\n-P A DROP\nCOMMIT\n",
    "zero": "*filter\n-Z\nCOMMIT\n",
    "zero one": "*filter\n-Z INPUT 1\nCOMMIT\n",
    "list": "*filter\n-S\nCOMMIT\n",
    "check": "*filter\n-C INPUT -j A\nCOMMIT\n",
    "rule counters": "*filter\n[7:8] -A INPUT -s 5.5.5.5\nCOMMIT\n",
    "rule counters I": "*filter\n[7:8] -I INPUT -s 5.5.5.5\nCOMMIT\n",
    "rule counters no blank": "*filter\n[7:8]-A INPUT -s 5.5.5.5\nCOMMIT\n",
    "rule counters bad": "*filter\n[7] -A INPUT\nCOMMIT\n",
    "rule counters open": "*filter\n[7:8 -A INPUT\nCOMMIT\n",
    "rule counters big": "*filter\n[18446744073709551615:1] -A INPUT\nCOMMIT\n",
    "rule counters and -c": "*filter\n[7:8] -A INPUT -c 1 2\nCOMMIT\n",
    "-c": "*filter\n-A INPUT -c 1 2\nCOMMIT\n",
    "-t": "*filter\n-A INPUT -t filter\nCOMMIT\n",
    "--table": "*filter\n-A INPUT --table nat\nCOMMIT\n",
    "-w": "*filter\n-A INPUT -w\nCOMMIT\n",
    "two commands": "*filter\n-A INPUT -D INPUT 1\nCOMMIT\n",
    "quoted chain": '*filter\n-A "INPUT" -m comment --comment "a b"\nCOMMIT\n',
    "quote in word": '*filter\n-A INPUT -m comment --comment a"b c"d\nCOMMIT\n',
    "quote unclosed": '*filter\n-A INPUT -m comment --comment "a b\nCOMMIT\n',
    "single quotes": "*filter\n-A INPUT -m comment --comment 'a b'\nCOMMIT\n",
    "backslash outside": "*filter\n-A INPUT -m comment --comment a\\ b\nCOMMIT\n",
    "backslash newline": "*filter\n-A INPUT -m comment \\\n --comment b\nCOMMIT\n",
    "escape in quotes": '*filter\n-A INPUT -m comment --comment "a\\"b\\\\c\\nd"\nCOMMIT\n',
    "empty comment": '*filter\n-A INPUT -m comment --comment ""\nCOMMIT\n',
    "utf8": '*filter\n-A INPUT -m comment --comment "ünï"\nCOMMIT\n',
    "loop": "*filter\n:X - [0:0]\n:Y - [0:0]\n-A X -j Y\n-A Y -j X\n-A INPUT -j X\nCOMMIT\n",
    "loop unreachable": "*filter\n:X - [0:0]\n:Y - [0:0]\n-A X -j Y\n-A Y -j X\nCOMMIT\n",
    "self jump": "*filter\n:X - [0:0]\n-A X -j X\n-A INPUT -j X\nCOMMIT\n",
    "jump builtin": "*filter\n-A INPUT -j OUTPUT\nCOMMIT\n",
    "goto": "*filter\n:X - [0:0]\n-A INPUT -g X\nCOMMIT\n",
    "text after last commit": "*filter\nCOMMIT\nhello\n",
    "nul": '*filter\n-A INPUT -m comment --comment "a\\0b"\nCOMMIT\n',
    "error in second table": "*mangle\n-A INPUT -j MARK --set-mark 5\nCOMMIT\n*filter\n-A INPUT --bad\nCOMMIT\n",
    "comment of 255": f"*filter\n-A INPUT -m comment --comment {'x' * 255}\nCOMMIT\n",
    "comment of 256": f"*filter\n-A INPUT -m comment --comment {'x' * 256}\nCOMMIT\n",
    "word of 1024": f"*filter\n-A INPUT -m comment --comment {'x' * 1024}\nCOMMIT\n",
    "chain of 28": f"*filter\n:{'c' * 28} - [0:0]\nCOMMIT\n",
    "chain of 29": f"*filter\n:{'c' * 29} - [0:0]\nCOMMIT\n",
    "many words": f"*filter\n-A INPUT {'-m mark --mark 1 ' * 80}\nCOMMIT\n",
    "long line": f"*filter\n-A INPUT {' ' * 10240}\nCOMMIT\n",
}


@pytest.fixture(scope="module")
def namespace(_live_machine: None) -> Iterator[str]:
    tools.need("ip", "iptables-legacy-restore", "iptables-legacy-save")
    name = f"{netns.PREFIX}-{os.getpid()}-files"
    tools.run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        tools.run("ip", "netns", "del", name)


def _run(namespace: str, tool: str, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = ["ip", "netns", "exec", namespace, tool, *words]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)


def _saved(namespace: str) -> str:
    """Both tables; the tool sets the counters of policies to 0 whenever it changes a table."""
    text = "".join(_run(namespace, "iptables-legacy-save", "-c", "-t", name).stdout for name in ("filter", "mangle"))
    return _rules("".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")))


def _rules(text: str) -> str:
    return re.sub(r"^(:\S+ \S+) \[\d+:\d+\]$", r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("noflush", [False, True], ids=["flush", "noflush"])
@pytest.mark.parametrize("name", CASES)
def test_files_are_restored_as_by_the_tool(namespace: str, name: str, noflush: bool) -> None:
    for verb in ("-F", "-X"):
        _run(namespace, "iptables-legacy", "-t", "mangle", verb)
    assert _run(namespace, "iptables-legacy-restore", "-c", given=BEFORE).returncode == 0
    options = ["-c", "--noflush"] if noflush else ["-c"]
    theirs = _run(namespace, "iptables-legacy-restore", *options, given=CASES[name])
    before = restore(Ruleset(Family.IPV4), BEFORE)
    if theirs.returncode:
        with pytest.raises(RulesetSyntaxError):
            restore(before, CASES[name], noflush=noflush)
        return
    ours = restore(before, CASES[name], noflush=noflush)
    assert _rules(print_save(ours, counters=True)) == _saved(namespace)
