"""``-j DNAT``: a new destination (net/netfilter/xt_nat.c); nat table, PREROUTING and OUTPUT."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.values import NatRange


@dataclass(frozen=True, slots=True)
class DnatTarget(Target):
    """Map the destination to ``range`` (never empty of both addresses and ports)."""

    range: NatRange
