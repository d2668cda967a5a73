"""``-j REDIRECT``: this node as destination (net/netfilter/xt_REDIRECT.c); nat table, PREROUTING and OUTPUT."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.values import NO_RANGE, NatRange


@dataclass(frozen=True, slots=True)
class RedirectTarget(Target):
    """Map the destination to this node; ``range`` holds ports and flags only."""

    range: NatRange = NO_RANGE
