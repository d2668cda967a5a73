"""``-m multiport``: up to 15 ports, a range counting as two (net/netfilter/xt_multiport.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match
from pktsim.netfilter.values import PortRange


class MultiportSide(enum.IntEnum):
    """``XT_MULTIPORT_*``: which port is looked at."""

    SOURCE = 0
    DESTINATION = 1
    EITHER = 2


@dataclass(frozen=True, slots=True)
class MultiportMatch(Match):
    """``ports`` in the order written."""

    side: MultiportSide
    ports: tuple[PortRange, ...]
    inverted: bool = False
