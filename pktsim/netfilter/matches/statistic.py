"""``-m statistic``: by chance, or every n-th packet (net/netfilter/xt_statistic.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class StatisticRandomMatch(Match):
    """``--mode random``: matches in ``probability`` of 2**31 cases, as the kernel stores it."""

    probability: int
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class StatisticNthMatch(Match):
    """``--mode nth``: one packet in ``every``, the first time after ``packet`` more of them have come by."""

    every: int
    packet: int = 0
    inverted: bool = False
