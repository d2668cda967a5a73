"""``-m tcpmss``: the MSS option of a SYN (net/netfilter/xt_tcpmss.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U16_MAX, BadValue, Context, Extension, Given, Option, number_range
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class TcpmssMatch(Match):
    """From ``first`` to ``last``, both included; without the option it does not match, inverted or not."""

    extension: ClassVar[str] = "tcpmss"
    protocols: ClassVar[frozenset[int]] = frozenset({6})

    first: int
    last: int
    inverted: bool = False

    def options_text(self) -> str:
        text = f"{' !' if self.inverted else ''} --mss {self.first}"
        return text if self.first == self.last else f"{text}:{self.last}"


_READ_RANGE = number_range(U16_MAX)


def _read(text: str, context: Context) -> tuple[int, int]:
    first, last = _READ_RANGE(text, context)
    if last < first:
        raise BadValue(f"bad range {text}", "write the lower number first")
    return first, last


def _build(given: Given) -> TcpmssMatch:
    first, last = given.get("mss")
    return TcpmssMatch(first, last, "mss" in given.inverted)


EXTENSIONS = (Extension("tcpmss", _build, (Option("mss", _read, invertible=True, mandatory=True),)),)
