"""``-m mark``: the packet's mark (net/netfilter/xt_mark.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class MarkMatch(Match):
    """Matches if ``mark & mask == value``; a ``value`` with bits outside ``mask`` never matches."""

    value: int
    mask: int = 0xFFFFFFFF
    inverted: bool = False
