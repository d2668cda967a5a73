"""``-m ah``: the Authentication Header of IPv4 (net/ipv4/netfilter/ipt_ah.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, Extension, Given, Option, number_range
from pktsim.netfilter.ruleset import Family, Match


@dataclass(frozen=True, slots=True)
class AhMatch(Match):
    """Security parameter indexes from ``first`` to ``last``, both included."""

    extension: ClassVar[str] = "ah"
    protocols: ClassVar[frozenset[int]] = frozenset({51})

    first: int = 0
    last: int = U32_MAX
    inverted: bool = False

    def options_text(self) -> str:
        if self.first == 0 and self.last == U32_MAX:
            return ""
        text = f"{' !' if self.inverted else ''} --ahspi {self.first}"
        return text if self.first == self.last else f"{text}:{self.last}"


def _build(given: Given) -> AhMatch:
    first, last = given.get("ahspi", (0, U32_MAX))
    return AhMatch(first, last, "ahspi" in given.inverted)


EXTENSIONS = (Extension("ah", _build, (Option("ahspi", number_range(U32_MAX), invertible=True),), Family.IPV4),)
