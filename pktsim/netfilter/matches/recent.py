"""``-m recent``: lists of addresses seen lately; kube-proxy's session affinity (net/netfilter/xt_recent.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match
from pktsim.netfilter.values import Address


class RecentAction(enum.StrEnum):
    """What is done with the list; the option's own name."""

    SET = "set"
    RCHECK = "rcheck"
    UPDATE = "update"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class RecentMatch(Match):
    """``seconds`` and ``hitcount`` 0 mean not said. ``by_destination`` looks at the destination (``--rdest``)."""

    action: RecentAction
    mask: Address
    name: str = "DEFAULT"
    inverted: bool = False
    seconds: int = 0
    reap: bool = False
    hitcount: int = 0
    rttl: bool = False
    by_destination: bool = False
