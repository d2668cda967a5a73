"""``-m length``: the length of the packet, IP header included (net/netfilter/xt_length.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U16_MAX, Extension, Given, Option, number_range
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class LengthMatch(Match):
    """``first`` to ``last`` bytes, both included; ``first`` may exceed ``last``, which matches nothing."""

    extension: ClassVar[str] = "length"

    first: int
    last: int
    inverted: bool = False

    def options_text(self) -> str:
        text = f"{' !' if self.inverted else ''} --length {self.first}"
        return text if self.first == self.last else f"{text}:{self.last}"


def _build(given: Given) -> LengthMatch:
    first, last = given.get("length")
    return LengthMatch(first, last, "length" in given.inverted)


EXTENSIONS = (Extension("length", _build, (Option("length", number_range(U16_MAX), invertible=True, mandatory=True),)),)
