"""``-m mark``: the packet's mark (net/netfilter/xt_mark.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, mark_text, value_mask
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class MarkMatch(Match):
    """Matches if ``mark & mask == value``; a ``value`` with bits outside ``mask`` never matches."""

    extension: ClassVar[str] = "mark"

    value: int
    mask: int = 0xFFFFFFFF
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --mark {mark_text(self.value, self.mask)}"


def _build(given: Given) -> MarkMatch:
    value, mask = given.get("mark")
    return MarkMatch(value, mask, "mark" in given.inverted)


EXTENSIONS = (Extension("mark", _build, (Option("mark", value_mask, invertible=True, mandatory=True),)),)
