"""``-m connmark``: the connection's mark (net/netfilter/xt_connmark.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class ConnmarkMatch(Match):
    """Matches if ``ct mark & mask == value``; a packet without a connection never matches, inverted or not."""

    value: int
    mask: int = 0xFFFFFFFF
    inverted: bool = False
