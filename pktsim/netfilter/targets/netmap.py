"""``-j NETMAP``: a whole network onto another, host bits kept (net/netfilter/xt_NETMAP.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import MaskedAddress, Target


@dataclass(frozen=True, slots=True)
class NetmapTarget(Target):
    """``--to ADDRESS/MASK``: destination in PREROUTING and OUTPUT, source in POSTROUTING and INPUT."""

    to: MaskedAddress
