"""``-m esp``: Encapsulating Security Payload (net/netfilter/xt_esp.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, Extension, Given, Option, number_range
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class EspMatch(Match):
    """Security parameter indexes from ``first`` to ``last``, both included."""

    extension: ClassVar[str] = "esp"
    protocols: ClassVar[frozenset[int]] = frozenset({50})

    first: int = 0
    last: int = U32_MAX
    inverted: bool = False

    def options_text(self) -> str:
        if self.first == 0 and self.last == U32_MAX:
            return ""
        text = f"{' !' if self.inverted else ''} --espspi {self.first}"
        return text if self.first == self.last else f"{text}:{self.last}"


def _build(given: Given) -> EspMatch:
    first, last = given.get("espspi", (0, U32_MAX))
    return EspMatch(first, last, "espspi" in given.inverted)


EXTENSIONS = (Extension("esp", _build, (Option("espspi", number_range(U32_MAX), invertible=True),)),)
