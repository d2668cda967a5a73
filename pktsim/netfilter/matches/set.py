"""``-m set``: membership of an ipset (net/netfilter/xt_set.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match


class SetSide(enum.StrEnum):
    """Where one dimension of an element is taken from."""

    SRC = "src"
    DST = "dst"


class Comparison(enum.StrEnum):
    """How a set element's counter is compared; the option's ending."""

    EQ = "eq"
    LT = "lt"
    GT = "gt"


@dataclass(frozen=True, slots=True)
class CounterCondition:
    """``--packets-eq 5`` and the like; ``inverted`` is possible with ``EQ`` only."""

    comparison: Comparison
    value: int
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class SetMatch(Match):
    """``sides`` has one entry for each dimension of the set."""

    name: str
    sides: tuple[SetSide, ...]
    inverted: bool = False
    return_nomatch: bool = False
    update_counters: bool = True
    update_subcounters: bool = True
    packets: CounterCondition | None = None
    bytes: CounterCondition | None = None
