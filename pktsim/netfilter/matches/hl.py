"""``-m hl``: the hop limit (net/netfilter/xt_hl.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Family, Match


class HlComparison(enum.StrEnum):
    """How it is compared; the option's ending."""

    EQ = "eq"
    LT = "lt"
    GT = "gt"


@dataclass(frozen=True, slots=True)
class HlMatch(Match):
    """``inverted`` is possible with ``EQ`` only."""

    extension: ClassVar[str] = "hl"

    comparison: HlComparison
    hop_limit: int
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --hl-{self.comparison.value} {self.hop_limit}"


def _build(given: Given) -> HlMatch:
    for one in HlComparison:
        option = f"hl-{one.value}"
        if option in given:
            return HlMatch(one, given.get(option), option in given.inverted)
    raise BadValue("hl: one of --hl-eq, --hl-lt, --hl-gt must be specified")


_OPTIONS = ("hl-eq", "hl-lt", "hl-gt")

EXTENSIONS = (
    Extension(
        "hl",
        _build,
        (
            Option("hl-eq", number(0, 255), aliases=("hl",), invertible=True, excludes=_OPTIONS),
            Option("hl-lt", number(0, 255), excludes=_OPTIONS),
            Option("hl-gt", number(0, 255), excludes=_OPTIONS),
        ),
        Family.IPV6,
    ),
)
