"""``-m physdev``: the bridge ports a bridged packet came in and goes out by (net/netfilter/xt_physdev.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class PhysdevMatch(Match):
    """Names may end in ``+``; ``None`` means not said, for the questions as well (``False``: asked with ``!``)."""

    physdev_in: str | None = None
    physdev_in_inverted: bool = False
    is_in: bool | None = None
    physdev_out: str | None = None
    physdev_out_inverted: bool = False
    is_out: bool | None = None
    is_bridged: bool | None = None
