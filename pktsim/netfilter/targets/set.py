"""``-j SET``: add to or delete from an ipset, or take a mark from it (net/netfilter/xt_set.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.matches.set import LONGEST_SET_NAME, SetSide, read_sides
from pktsim.netfilter.option import U32_MAX, BadValue, Extension, Given, Option, number, string
from pktsim.netfilter.ruleset import Family, Rule, Target


@dataclass(frozen=True, slots=True)
class SetElement:
    """A set, and where each dimension of the element is taken from."""

    name: str
    sides: tuple[SetSide, ...]

    def __str__(self) -> str:
        return f"{self.name} {','.join(side.value for side in self.sides)}"


@dataclass(frozen=True, slots=True)
class SetTarget(Target):
    """``exist`` renews an element that is there; ``timeout_s`` is the added one's, ``None`` for the set's own."""

    extension: ClassVar[str] = "SET"

    add: SetElement | None = None
    delete: SetElement | None = None
    map: SetElement | None = None
    exist: bool = False
    timeout_s: int | None = None
    map_mark: bool = False
    map_prio: bool = False
    map_queue: bool = False

    def set_names(self) -> tuple[str, ...]:
        """The sets that the kernel holds for this rule."""
        return tuple(one.name for one in (self.add, self.delete, self.map) if one is not None)

    def options_text(self) -> str:
        text = "" if self.add is None else f" --add-set {self.add}"
        if self.exist:
            text += " --exist"
        if self.timeout_s is not None:
            text += f" --timeout {self.timeout_s}"
        if self.delete is not None:
            text += f" --del-set {self.delete}"
        if self.map is not None:
            text += f" --map-set {self.map}"
        for what, said in (("mark", self.map_mark), ("prio", self.map_prio), ("queue", self.map_queue)):
            if said:
                text += f" --map-{what}"
        return text

    def allowed_tables(self) -> frozenset[str]:
        return frozenset({"mangle"}) if self.map is not None else frozenset()

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if (self.map_prio or self.map_queue) and hooks - {"FORWARD", "OUTPUT", "POSTROUTING"}:
            return "SET: --map-prio and --map-queue work in FORWARD, OUTPUT and POSTROUTING only"
        return ""


def _element(given: Given, option: str) -> SetElement | None:
    return SetElement(*given.get(option)) if option in given else None


def _build(given: Given) -> SetTarget:
    if not given.values.keys() & {"add-set", "del-set", "map-set"}:
        raise BadValue("SET: one of --add-set, --del-set, --map-set must be specified")
    if "map-set" in given and not given.values.keys() & {"map-mark", "map-prio", "map-queue"}:
        raise BadValue("SET: --map-set needs --map-mark, --map-prio or --map-queue")
    return SetTarget(
        _element(given, "add-set"),
        _element(given, "del-set"),
        _element(given, "map-set"),
        "exist" in given,
        given.get("timeout"),
        "map-mark" in given,
        "map-prio" in given,
        "map-queue" in given,
    )


EXTENSIONS = (
    Extension(
        "SET",
        _build,
        (
            Option("add-set", string(LONGEST_SET_NAME), read_sides),
            Option("del-set", string(LONGEST_SET_NAME), read_sides),
            Option("exist", requires=("add-set",)),
            Option("timeout", number(0, U32_MAX - 1), requires=("add-set",)),
            Option("map-set", string(LONGEST_SET_NAME), read_sides),
            Option("map-mark", requires=("map-set",)),
            Option("map-prio", requires=("map-set",)),
            Option("map-queue", requires=("map-set",)),
        ),
    ),
)
