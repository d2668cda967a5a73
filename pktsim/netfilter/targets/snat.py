"""``-j SNAT``: a new source (net/netfilter/xt_nat.c); nat table, POSTROUTING and INPUT."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.values import NatRange


@dataclass(frozen=True, slots=True)
class SnatTarget(Target):
    """Map the source to ``range``."""

    range: NatRange
