"""``-m statistic``: by chance, or every n-th packet (net/netfilter/xt_statistic.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, choice, number
from pktsim.netfilter.ruleset import Match

#: ``probability`` of what always matches.
PROBABILITY_ONE = 1 << 31


@dataclass(frozen=True, slots=True)
class StatisticRandomMatch(Match):
    """``--mode random``: matches in ``probability`` of 2**31 cases, as the kernel stores it."""

    extension: ClassVar[str] = "statistic"

    probability: int
    inverted: bool = False

    def options_text(self) -> str:
        return f" --mode random{' !' if self.inverted else ''} --probability {self.probability / PROBABILITY_ONE:.11f}"


@dataclass(frozen=True, slots=True)
class StatisticNthMatch(Match):
    """``--mode nth``: one packet in ``every``, the first time after ``packet`` more of them have come by."""

    extension: ClassVar[str] = "statistic"

    every: int
    packet: int = 0
    inverted: bool = False

    def options_text(self) -> str:
        return f" --mode nth{' !' if self.inverted else ''} --every {self.every} --packet {self.packet}"


def _read_probability(text: str, _context: Context) -> int:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadValue(f"bad probability {text!r}", "write a number from 0 to 1")
    # lround(): halves away from zero. The product is exact, 2**31 being a power of two.
    return int(value * PROBABILITY_ONE + 0.5)


def _build(given: Given) -> StatisticRandomMatch | StatisticNthMatch:
    if given.get("mode") == "random":
        if "probability" not in given:
            raise BadValue("statistic: --probability must be specified in random mode")
        return StatisticRandomMatch(given.get("probability"), "probability" in given.inverted)
    if "every" not in given:
        raise BadValue("statistic: --every and --packet must be specified in nth mode")
    every, packet = given.get("every"), given.get("packet")
    if packet >= every:
        raise BadValue("statistic: --packet must be less than --every")
    return StatisticNthMatch(every, packet, "every" in given.inverted)


EXTENSIONS = (
    Extension(
        "statistic",
        _build,
        (
            Option("mode", choice("random", "nth", ignore_case=False), mandatory=True),
            Option("probability", _read_probability, invertible=True, excludes=("every", "packet")),
            Option("every", number(1), invertible=True, requires=("packet",)),
            Option("packet", number(), requires=("every",)),
        ),
    ),
)
