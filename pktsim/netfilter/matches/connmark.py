"""``-m connmark``: the connection's mark (net/netfilter/xt_connmark.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, mark_text, value_mask
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class ConnmarkMatch(Match):
    """Matches if ``ct mark & mask == value``; a packet without a connection never matches, inverted or not."""

    extension: ClassVar[str] = "connmark"

    value: int
    mask: int = 0xFFFFFFFF
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --mark {mark_text(self.value, self.mask)}"


def _build(given: Given) -> ConnmarkMatch:
    value, mask = given.get("mark")
    return ConnmarkMatch(value, mask, "mark" in given.inverted)


EXTENSIONS = (Extension("connmark", _build, (Option("mark", value_mask, invertible=True, mandatory=True),)),)
