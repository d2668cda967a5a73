"""``-m quota``: so many bytes, and then no more (net/netfilter/xt_quota.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U64_MAX, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class QuotaMatch(Match):
    """Matches until ``quota`` bytes have matched; the first packet that is too long uses it all up."""

    extension: ClassVar[str] = "quota"

    quota: int
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --quota {self.quota}"


def _build(given: Given) -> QuotaMatch:
    return QuotaMatch(given.get("quota"), "quota" in given.inverted)


EXTENSIONS = (Extension("quota", _build, (Option("quota", number(0, U64_MAX), invertible=True, mandatory=True),)),)
