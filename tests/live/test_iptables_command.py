"""``iptables`` commands one after the other: exit status, rules and counters are the real tool's, for both families."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from pktsim.errors import RulesetSyntaxError
from pktsim.netfilter.iptables_command import run_command
from pktsim.netfilter.iptables_text import parse_save, print_save
from pktsim.netfilter.ruleset import Family
from tests import tools
from tests.live import netns

pytestmark = pytest.mark.slow

#: What is loaded first: counters that are not 0, chains that refer to each other, an empty one.
BEFORE = """*filter
:INPUT ACCEPT [3:300]
:FORWARD DROP [4:400]
:OUTPUT ACCEPT [5:500]
:A - [0:0]
:B - [0:0]
:EMPTY - [0:0]
[1:10] -A INPUT -j A
[2:20] -A INPUT -p tcp -m tcp --dport 80 -j ACCEPT
[3:30] -A INPUT -p tcp -m tcp --dport 80 -j ACCEPT
[4:40] -A A -p udp -j B
[5:50] -A A -j RETURN
[6:60] -A B -i eth0 -j DROP
COMMIT
"""
#: Each begins from there.
SEQUENCES: dict[str, tuple[str, ...]] = {
    "append": ("-A INPUT -p udp -j DROP", "-A A -j B", "--append B -j ACCEPT", "-A NONE -j ACCEPT", "-A INPUT -j NONE"),
    "append-loop": ("-A B -j A", "-I A -j A", "-A B -j INPUT"),
    "append-wrong": (
        "-A INPUT 1 -j ACCEPT", "-A INPUT --dport 80 -j ACCEPT", "-A INPUT -p tcp --dport 99999 -j ACCEPT",
        "-A INPUT -o eth0 -j ACCEPT", "-A OUTPUT -i eth0 -j ACCEPT", "-A INPUT -j ACCEPT -j DROP", "-A", "-A INPUT -m",
        "-A INPUT -p nonsense", "-A INPUT -m nonsense", "-A INPUT --nonsense", "-A INPUT word",
    ),
    "insert": (
        "-I INPUT -j DROP", "-I INPUT 2 -j ACCEPT", "-I INPUT 6 -p udp", "-I INPUT 99 -p udp", "-I INPUT 0 -p udp",
        "-I INPUT x -p udp", "-I NONE -j DROP", "--insert A 1 -j DROP",
    ),
    "delete": (
        "-D INPUT -p tcp -m tcp --dport 80 -j ACCEPT", "-D INPUT 1", "-D INPUT 9", "-D INPUT 0", "-D INPUT -p icmp",
        "-D INPUT -p tcp --dport 80 -j ACCEPT", "-D INPUT -p tcp --dport 80 -j ACCEPT", "-D NONE 1", "-D INPUT",
        "--delete A 2",
    ),
    "replace": (
        "-R INPUT 2 -p udp -j DROP", "-R INPUT 9 -j DROP", "-R INPUT 0 -j DROP", "-R INPUT -j DROP",
        "-R NONE 1 -j DROP", "--replace A 1 -j DROP",
    ),
    "check": (
        "-C INPUT -p tcp -m tcp --dport 80 -j ACCEPT", "-C INPUT -p tcp --dport 80 -j DROP", "-C NONE -j DROP",
        "-C INPUT -j A", "-C INPUT -g A",
    ),
    "new": (
        "-N C", "-N C", "-N INPUT", "-N ACCEPT", "-N RETURN", "-N -x", "-N aname-of-28-characters-123456",
        "-N aname-of-29-characters-1234567", "-N", "--new-chain D", "-A C -j D", "-A C -j ACCEPT", "-N !x", "-N MARK",
    ),
    "delete-chain": ("-X EMPTY", "-X A", "-X NONE", "-X INPUT", "-F B", "-X B", "-F A", "-X B", "-X A", "-F", "-X"),
    "delete-chains": ("-X", "-F INPUT", "-X", "-F", "-X"),
    "rename": (
        "-E A C", "-E B C", "-E NONE D", "-E INPUT D", "-E B ACCEPT", "-E B", "-E EMPTY B2", "--rename-chain B2 EMPTY",
    ),
    "policy": (
        "-P INPUT DROP", "-P INPUT QUEUE", "-P INPUT RETURN", "-P INPUT REJECT", "-P A DROP", "-P NONE DROP",
        "-P INPUT", "-P FORWARD ACCEPT", "-P OUTPUT drop", "--policy OUTPUT DROP", "-P INPUT ACCEPT -j DROP",
    ),
    "flush": ("-F A", "-F NONE", "-F INPUT 1", "-F", "--flush"),
    "zero": ("-Z INPUT 2", "-Z A", "-Z NONE", "-Z INPUT 9", "-Z INPUT 0", "-Z", "--zero"),
    "list-rules": ("-S", "-S INPUT", "-S INPUT 2", "-S INPUT 9", "-S NONE", "-S A", "--list-rules EMPTY"),
    "tables": (
        "-t nat -A POSTROUTING -j MASQUERADE", "-t nat -S", "-t nat -A INPUT -j MASQUERADE", "-t nonsense -S",
        "-t mangle -A FORWARD -p tcp -j TTL", "-t mangle -N X", "-t mangle -S", "-t raw -P PREROUTING DROP",
        "-t raw -S", "-t nat -P POSTROUTING DROP",
    ),
    "several-commands": ("-A INPUT -j DROP -D INPUT 1", "-F -X", "-L -F", "-P INPUT DROP -A INPUT", "", "-j ACCEPT"),
    "goto": ("-A INPUT -g A", "-A INPUT -g ACCEPT", "-A INPUT -g NONE", "-A INPUT -j A -g B"),
}  # fmt: skip


class Tool:
    """The real tool in a namespace that has nothing else."""

    def __init__(self, name: str, family: Family) -> None:
        self.name = name
        self.tool = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"

    def run(self, words: Sequence[str], *, stdin: str = "", end: str = "") -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", self.name, f"{self.tool}{end}", *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)

    def saved(self) -> str:
        """The filter table, without comments."""
        text = self.run(["-c", "-t", "filter"], end="-save").stdout
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def rules(saved: str) -> str:
    """Without the counters of policies: the tool sets all of them to 0 whenever it changes a table."""
    return re.sub(r"^(:\S+ \S+) \[\d+:\d+\]$", r"\1", saved, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def namespace(_live_machine: None) -> Iterator[str]:
    tools.need("ip", "iptables-legacy", "ip6tables-legacy")
    name = f"{netns.PREFIX}-{os.getpid()}-command"
    tools.run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        tools.run("ip", "netns", "del", name)


@pytest.mark.parametrize("family", list(Family), ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_commands_do_what_the_tool_does(namespace: str, family: Family, name: str) -> None:
    tool = Tool(namespace, family)
    for table in ("nat", "mangle", "raw"):
        for words in (["-F"], ["-X"]):
            assert tool.run(["-t", table, *words]).returncode == 0
    assert tool.run(["-t", "raw", "-P", "PREROUTING", "ACCEPT"]).returncode == 0
    assert tool.run(["-c"], stdin=BEFORE, end="-restore").returncode == 0
    ruleset = parse_save(BEFORE, family)
    for line in SEQUENCES[name]:
        words = shlex.split(line)
        theirs = tool.run(words)
        if theirs.returncode:
            with pytest.raises(RulesetSyntaxError):
                run_command(ruleset, words)
            continue
        outcome = run_command(ruleset, words)
        ruleset = outcome.ruleset
        assert outcome.output == theirs.stdout, line
        assert rules(print_save(ruleset, tables=["filter"], counters=True)) == rules(tool.saved()), line
