"""What netfilter draws at random: our draws and a kernel's recorded ones come from the same distribution.

A recording is a summary of samples: how many, how many of them differ, the least and the greatest. For each there is
the law that it is said to follow (uniform over a range, or a rate); the recording is held to the law, and so are we, in
more depth because our samples are all here. Draws are seeded: a run has the same ones as the last.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from pktsim.kernel.case import CaseRun
from pktsim.rng import SeededChoices
from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import FrameView
from tests.netfilter.case_script import NODE_MAC, PEER_MAC, SERVER, Script
from tests.netfilter.selftest_cases import nat, table

RECORDED: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "netfilter-distributions.json").read_text())
CLASHES: Final[dict[str, Any]] = RECORDED["masquerade-clash-new-port-by-source-port"]

#: What chance alone may do: a right law is refused once in 10,000 times.
UNLIKELY: Final = 1e-4
BINS: Final = 8
#: The chi-square distribution with ``BINS - 1`` degrees of freedom exceeds this with that probability.
CHI_SQUARE: Final = 29.88
#: A normal variable is farther than that from its mean with that probability.
SIGMAS: Final = 3.89


@dataclass(frozen=True, slots=True)
class Law:
    """How a source port, or an ICMP identifier, is chosen for flows that all have the same one.

    Attributes:
        rule: Of POSTROUTING.
        port: What all flows have.
        low: The least that may be drawn.
        high: The greatest.
        keeps: The first flow keeps its own, which is free.
        icmp: The flows are pings.
    """

    rule: str
    port: int
    low: int
    high: int
    keeps: bool = False
    icmp: bool = False


_MASQUERADE: Final = "-A POSTROUTING -o out -j MASQUERADE"
_SNAT: Final = "-A POSTROUTING -o out -p udp -j SNAT --to-source 10.2.0.1"
_CLASS: Final = {500: (1, 511), 511: (1, 511), 512: (600, 1023), 700: (600, 1023), 1023: (600, 1023)}
LAWS: Final[dict[str, Law]] = {
    **{f"clash/{port}": Law(_MASQUERADE, int(port), *_CLASS.get(int(port), (1024, 65535)), True) for port in CLASHES},
    "snat-range-20000-30000": Law(f"{_SNAT}:20000-30000", 4000, 20000, 30000),
    "snat-range-containing-port": Law(f"{_SNAT}:3000-5000", 4000, 3000, 5000, True),
    "snat-range-containing-port-random": Law(f"{_SNAT}:3000-5000 --random", 4000, 3000, 5000),
    "snat-random": Law(f"{_SNAT} --random", 4000, 1024, 65535),
    "masquerade-random": Law(f"{_MASQUERADE} --random", 4000, 1024, 65535),
    "masquerade-random-fully": Law(f"{_MASQUERADE} --random-fully", 4000, 1024, 65535),
    "masquerade-random-fully-low-port": Law(f"{_MASQUERADE} --random-fully", 500, 1, 511),
    "masquerade-icmp-id-clash": Law(_MASQUERADE, 77, 0, 65535, True, icmp=True),
}


def recorded(name: str) -> dict[str, int]:
    """A recording; what is counted beside the draws is 0 where it is not counted."""
    found = CLASHES[name.removeprefix("clash/")] if name.startswith("clash/") else RECORDED[name]
    return {"unchanged": 0, **found}


def flows(run: CaseRun, law: Law, count: int) -> list[int]:
    """Send the first packets of so many clients' flows; what their sources became."""
    near, far = mac_from_text(NODE_MAC["in"]), mac_from_text(PEER_MAC["in"])
    ifindex, server, drawn = run.node.devices.named("in").ifindex, ip_from_text(SERVER), []
    left: list[bytes] = []
    run.node.devices.named("out").carry = left.append
    for number in range(count):
        client = bytes((10, 1, 1 + number // 250, 1 + number % 250))
        if law.icmp:
            packet = build.ipv4(client, server, 1, build.icmp(8, 0, law.port << 16 | 1, b"data"))
        else:
            packet = build.ipv4(client, server, 17, build.udp(client, server, law.port, 53, b"data"))
        run.node.receive(ifindex, build.ethernet(near, far, 0x0800, packet))
        frame = FrameView(left.pop())
        assert not left
        drawn.append(int.from_bytes(frame.frame[38:40], "big") if law.icmp else frame.sport)
    return drawn


def ours(law: Law, count: int, seed: int) -> list[int]:
    return flows(CaseRun(Script("draws", "Nothing.", nat(law.rule)).case, SeededChoices(seed)), law, count)


def chi_square(values: Sequence[int], law: Law) -> float:
    """How far values are from uniform over the law's range, in ``BINS`` bins."""
    size = law.high - law.low + 1
    bounds = [law.low + size * number // BINS for number in range(BINS + 1)]
    total = 0.0
    for low, high in itertools.pairwise(bounds):
        expected = len(values) * (high - low) / size
        total += (sum(low <= value < high for value in values) - expected) ** 2 / expected
    return total


def likely_bounds(low: int, high: int, count: int, law: Law) -> bool:
    """Whether ``count`` draws of the law may well have these extremes."""
    size = law.high - law.low + 1
    gaps = low - law.low, law.high - high
    return min(gaps) >= 0 and all((1 - gap / size) ** count >= UNLIKELY for gap in gaps)


def test_every_recording_has_a_law() -> None:
    names = {f"clash/{port}" for port in CLASHES} | set(RECORDED)
    assert names == {*LAWS, "statistic-random", "masquerade-clash-new-port-by-source-port"}


@pytest.mark.parametrize("name", LAWS)
def test_the_recording_follows_the_law(name: str) -> None:
    law, found = LAWS[name], recorded(name)
    assert found["distinct"] == found["samples"], "no two flows have the same"
    assert found["unchanged"] <= law.keeps
    assert likely_bounds(found["min"], found["max"], found["samples"], law)


@pytest.mark.parametrize("name", LAWS)
def test_our_draws_follow_it_too(name: str) -> None:
    law, found = LAWS[name], recorded(name)
    together: list[int] = []
    for seed in range(4):
        # of a clash, only the flows that found their own taken are in the recording
        clashed = law.keeps and not found["unchanged"]
        values = ours(law, found["samples"] + clashed, seed)
        assert (values[0] == law.port) == law.keeps
        assert len(set(values[clashed:])) == found["distinct"]
        del values[: int(law.keeps)]
        assert likely_bounds(min(values), max(values), len(values), law)
        together += values
    assert chi_square(together, law) < CHI_SQUARE


@pytest.mark.parametrize("law", [LAWS["clash/500"], LAWS["clash/700"]], ids=["low", "middle"])
def test_small_classes_are_used_up(law: Law) -> None:
    drawn: set[int] = set()
    for seed in range(30):
        drawn |= set(ours(law, 150, seed))
    assert drawn == {*range(law.low, law.high + 1)}


@pytest.mark.parametrize("values", [[40000] * 100, [*range(1024, 33000, 160)]], ids=["one", "the-lower-half"])
def test_other_laws_are_noticed(values: list[int]) -> None:
    law = LAWS["snat-random"]
    assert chi_square(values, law) > CHI_SQUARE
    assert not likely_bounds(600, 65000, 200, law)
    assert not likely_bounds(1024, 60000, 200, law)


def test_rates_of_statistic_random() -> None:
    found = RECORDED["statistic-random"]
    rules = [f"-A FORWARD -m statistic --mode random --probability {p}" for p in ("0.33333333349", "0.50000000000")]
    script = Script("rates", "Nothing.", table("filter", *rules, "-A FORWARD"))
    run = CaseRun(script.case, SeededChoices(1))
    assert flows(run, Law("", 4000, 0, 0), found["packets"]) == [4000] * found["packets"]
    counted = {name: pair[0] for name, pair in run.rule_counters().items()}
    count = found["packets"]
    for number, (key, rate) in enumerate((("p=1/3", 1 / 3), ("p=1/2", 1 / 2)), start=1):
        deviation = math.sqrt(count * rate * (1 - rate))
        ours_counted = counted[f"filter/FORWARD/{number}"]
        assert abs(found[key] - count * rate) < SIGMAS * deviation
        assert abs(ours_counted - count * rate) < SIGMAS * deviation
        assert abs(ours_counted - found[key]) < SIGMAS * deviation * math.sqrt(2)
    assert counted["filter/FORWARD/3"] == found["all"] == count
