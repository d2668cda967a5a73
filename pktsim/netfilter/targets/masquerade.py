"""``-j MASQUERADE``: the address of the way out as source (net/netfilter/xt_MASQUERADE.c); nat table, POSTROUTING."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.values import NO_RANGE, NatRange


@dataclass(frozen=True, slots=True)
class MasqueradeTarget(Target):
    """Map the source to the egress interface's address for the next hop; ``range`` holds ports and flags only."""

    range: NatRange = NO_RANGE
