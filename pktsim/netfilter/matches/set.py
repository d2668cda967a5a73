"""``-m set``: membership of an ipset (net/netfilter/xt_set.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U64_MAX, BadValue, Context, Extension, Given, Option, number, string
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

    extension: ClassVar[str] = "set"

    name: str
    sides: tuple[SetSide, ...]
    inverted: bool = False
    return_nomatch: bool = False
    update_counters: bool = True
    update_subcounters: bool = True
    packets: CounterCondition | None = None
    bytes: CounterCondition | None = None

    def set_names(self) -> tuple[str, ...]:
        """The sets that the kernel holds for this rule."""
        return (self.name,)

    def options_text(self) -> str:
        text = f"{' !' if self.inverted else ''} --match-set {self.name} {','.join(side.value for side in self.sides)}"
        if self.return_nomatch:
            text += " --return-nomatch"
        if not self.update_counters:
            text += " ! --update-counters"
        if not self.update_subcounters:
            text += " ! --update-subcounters"
        return text + _condition_text("packets", self.packets) + _condition_text("bytes", self.bytes)


#: ``IPSET_DIM_MAX``: as many words as ``--match-set`` takes.
MAX_SIDES = 6

#: ``IPSET_MAXNAMELEN`` less the final NUL.
LONGEST_SET_NAME = 31


def _condition_text(what: str, condition: CounterCondition | None) -> str:
    if condition is None:
        return ""
    return f"{' !' if condition.inverted else ''} --{what}-{condition.comparison.value} {condition.value}"


def read_sides(text: str, _context: Context) -> tuple[SetSide, ...]:
    """``src`` and ``dst``, comma-separated, one for each dimension."""
    sides: list[SetSide] = []
    for part in text.split(","):
        if part[:3] not in ("src", "dst"):
            raise BadValue(f"bad set direction {part!r}", "use a comma-separated list of src and dst")
        sides.append(SetSide(part[:3]))
    if len(sides) > MAX_SIDES:
        raise BadValue("too many set directions", f"use at most {MAX_SIDES}")
    return tuple(sides)


def _condition(given: Given, what: str) -> CounterCondition | None:
    said = [one for one in Comparison if f"{what}-{one.value}" in given]
    if not said:
        return None
    if len(said) > 1:
        raise BadValue(f"set: only one of --{what}-eq, --{what}-lt and --{what}-gt is allowed")
    option = f"{what}-{said[0].value}"
    return CounterCondition(said[0], given.get(option), option in given.inverted)


def _build(given: Given) -> SetMatch:
    name, sides = given.get("match-set")
    return SetMatch(
        name,
        sides,
        "match-set" in given.inverted,
        "return-nomatch" in given,
        "update-counters" not in given.inverted,
        "update-subcounters" not in given.inverted,
        _condition(given, "packets"),
        _condition(given, "bytes"),
    )


EXTENSIONS = (
    Extension(
        "set",
        _build,
        (
            Option(
                "match-set", string(LONGEST_SET_NAME), read_sides, aliases=("set",), invertible=True, mandatory=True
            ),
            Option("return-nomatch"),
            Option("update-counters", invertible=True),
            Option("update-subcounters", invertible=True),
            *(
                Option(f"{what}-{one.value}", number(0, U64_MAX), invertible=one is Comparison.EQ)
                for what in ("packets", "bytes")
                for one in Comparison
            ),
        ),
    ),
)
