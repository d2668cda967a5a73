"""``-m ttl``: the time to live (net/netfilter/xt_hl.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Family, Match


class TtlComparison(enum.StrEnum):
    """How it is compared; the option's ending."""

    EQ = "eq"
    LT = "lt"
    GT = "gt"


@dataclass(frozen=True, slots=True)
class TtlMatch(Match):
    """``inverted`` is possible with ``EQ`` only."""

    extension: ClassVar[str] = "ttl"

    comparison: TtlComparison
    ttl: int
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --ttl-{self.comparison.value} {self.ttl}"


def _build(given: Given) -> TtlMatch:
    for one in TtlComparison:
        option = f"ttl-{one.value}"
        if option in given:
            return TtlMatch(one, given.get(option), option in given.inverted)
    raise BadValue("ttl: one of --ttl-eq, --ttl-lt, --ttl-gt must be specified")


_OPTIONS = ("ttl-eq", "ttl-lt", "ttl-gt")

EXTENSIONS = (
    Extension(
        "ttl",
        _build,
        (
            Option("ttl-eq", number(0, 255), aliases=("ttl",), invertible=True, excludes=_OPTIONS),
            Option("ttl-lt", number(0, 255), excludes=_OPTIONS),
            Option("ttl-gt", number(0, 255), excludes=_OPTIONS),
        ),
        Family.IPV4,
    ),
)
