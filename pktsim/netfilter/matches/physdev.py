"""``-m physdev``: the bridge ports a bridged packet came in and goes out by (net/netfilter/xt_physdev.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Extension, Given, Option, interface
from pktsim.netfilter.ruleset import Family, Match, Rule


@dataclass(frozen=True, slots=True)
class PhysdevMatch(Match):
    """Names may end in ``+``; ``None`` means not said, for the questions as well (``False``: asked with ``!``)."""

    extension: ClassVar[str] = "physdev"

    physdev_in: str | None = None
    physdev_in_inverted: bool = False
    is_in: bool | None = None
    physdev_out: str | None = None
    physdev_out_inverted: bool = False
    is_out: bool | None = None
    is_bridged: bool | None = None

    def options_text(self) -> str:
        text = _question("physdev-is-in", self.is_in)
        if self.physdev_in is not None:
            text += f"{' !' if self.physdev_in_inverted else ''} --physdev-in {self.physdev_in}"
        text += _question("physdev-is-out", self.is_out)
        if self.physdev_out is not None:
            text += f"{' !' if self.physdev_out_inverted else ''} --physdev-out {self.physdev_out}"
        return text + _question("physdev-is-bridged", self.is_bridged)

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        asks_out = self.physdev_out is not None or self.is_out is not None
        if asks_out and self.is_bridged is not True and "OUTPUT" in hooks:
            return "physdev: the port of the way out is known for bridged packets only"
        return ""


def _question(option: str, wanted: bool | None) -> str:
    if wanted is None:
        return ""
    return f" --{option}" if wanted else f" ! --{option}"


def _build(given: Given) -> PhysdevMatch:
    if not given.values:
        raise BadValue("physdev: at least one option is required")

    def asked(option: str) -> bool | None:
        return option not in given.inverted if option in given else None

    return PhysdevMatch(
        given.get("physdev-in"),
        "physdev-in" in given.inverted,
        asked("physdev-is-in"),
        given.get("physdev-out"),
        "physdev-out" in given.inverted,
        asked("physdev-is-out"),
        asked("physdev-is-bridged"),
    )


EXTENSIONS = (
    Extension(
        "physdev",
        _build,
        (
            Option("physdev-in", interface, invertible=True),
            Option("physdev-out", interface, invertible=True),
            Option("physdev-is-in", invertible=True),
            Option("physdev-is-out", invertible=True),
            Option("physdev-is-bridged", invertible=True),
        ),
    ),
)
