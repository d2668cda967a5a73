"""``-m ipcomp``: the compression parameter index of IPComp (net/netfilter/xt_ipcomp.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, Extension, Given, Option, number_range
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class IpcompMatch(Match):
    """Indexes from ``first`` to ``last``, both included; ``reserved`` is printed and otherwise has no effect.

    Where none is given it is 0 alone, since the tool, unlike with ``-m esp``, sets no last one.
    """

    extension: ClassVar[str] = "ipcomp"
    protocols: ClassVar[frozenset[int]] = frozenset({108})

    first: int = 0
    last: int = 0
    inverted: bool = False
    reserved: bool = False

    def options_text(self) -> str:
        text = ""
        if (self.first, self.last) != (0, U32_MAX):
            text = f"{' !' if self.inverted else ''} --ipcompspi {self.first}"
            text += "" if self.first == self.last else f":{self.last}"
        return f"{text} --compres" if self.reserved else text


def _build(given: Given) -> IpcompMatch:
    first, last = given.get("ipcompspi", (0, 0))
    return IpcompMatch(first, last, "ipcompspi" in given.inverted, "compres" in given)


EXTENSIONS = (
    Extension("ipcomp", _build, (Option("ipcompspi", number_range(U32_MAX), invertible=True), Option("compres"))),
)
