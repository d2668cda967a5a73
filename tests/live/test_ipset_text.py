"""``ipset`` commands one after the other: what tool and kernel refuse we refuse, and the sets are the same."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from pktsim.errors import PktsimError
from pktsim.netfilter.ipset import IpSets
from pktsim.netfilter.ipset_text import run_ipset, save_text
from tests import tools
from tests.live import netns
from tests.live.ipset_strategies import command

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PKTSIM_LIVE_EXAMPLES", "25"))
COMMANDS = 24


@pytest.fixture(scope="module")
def namespace(_live_machine: None) -> Iterator[str]:
    tools.need("ip", "ipset")
    name = f"{netns.PREFIX}-{os.getpid()}-ipset"
    tools.run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        tools.run("ip", "netns", "del", name)


def _ipset(namespace: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = ["ip", "netns", "exec", namespace, "ipset", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _comparable(saved: str) -> list[str]:
    """Without what the kernel draws or changes by itself: the hash's seed and size, and what is left of time-outs.

    The tool sometimes prints an uninitialised prefix length behind a bitmask.
    """
    lines = []
    for line in saved.splitlines():
        text = re.sub(r" initval \S+| hashsize \d+|(?<= bitmask )(\S+?)/\d+", r"\1", line)
        lines.append(re.sub(r" timeout ([1-9]\d*)", " timeout N", text) if line.startswith("add") else text)
    return sorted(lines)


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_commands_do_what_the_tool_does(namespace: str, seed: int) -> None:
    rng = random.Random(seed)
    for verb in ("flush", "destroy"):  # flushed, lists of sets do not hold these any more
        assert _ipset(namespace, [verb]).returncode == 0
    sets, kinds, done = IpSets(), dict[str, str](), list[str]()
    for _ in range(COMMANDS):
        words = command(rng, kinds)
        theirs = _ipset(namespace, words)
        done.append(" ".join(words))
        try:
            run_ipset(sets, words)
            refusal = ""
        except PktsimError as error:
            refusal = str(error)
        said = f"\n{chr(10).join(done)}\nipset: {theirs.stderr.strip() or 'fine'}\nours: {refusal or 'fine'}"
        assert bool(refusal) == bool(theirs.returncode), said
    assert _comparable(save_text(sets, 0)) == _comparable(_ipset(namespace, ["save"]).stdout), "\n".join(done)
