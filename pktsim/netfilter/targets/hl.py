"""``-j HL``: change the hop limit (net/netfilter/xt_HL.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Family, Target


class HlMode(enum.StrEnum):
    """What is done; the option's ending."""

    SET = "set"
    DEC = "dec"
    INC = "inc"


@dataclass(frozen=True, slots=True)
class HlTarget(Target):
    """To, down or up by ``hop_limit``."""

    extension: ClassVar[str] = "HL"
    tables: ClassVar[frozenset[str]] = frozenset({"mangle"})

    mode: HlMode
    hop_limit: int

    def options_text(self) -> str:
        return f" --hl-{self.mode.value} {self.hop_limit}"


def _build(given: Given) -> HlTarget:
    for mode in HlMode:
        if f"hl-{mode.value}" in given:
            return HlTarget(mode, given.get(f"hl-{mode.value}"))
    raise BadValue("HL: one of --hl-set, --hl-dec, --hl-inc must be specified")


_OPTIONS = ("hl-set", "hl-dec", "hl-inc")

EXTENSIONS = (
    Extension(
        "HL",
        _build,
        (
            Option("hl-set", number(0, 255), excludes=_OPTIONS),
            Option("hl-dec", number(1, 255), excludes=_OPTIONS),
            Option("hl-inc", number(1, 255), excludes=_OPTIONS),
        ),
        Family.IPV6,
    ),
)
