"""``-m icmp`` (net/ipv4/netfilter/ip_tables.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match

#: ``--icmp-type any``: a type that no packet has stands for all of them.
ANY_TYPE = 0xFF


@dataclass(frozen=True, slots=True)
class IcmpMatch(Match):
    """``icmp_type`` 255 with codes 0 to 255 is "any"."""

    icmp_type: int
    first_code: int = 0
    last_code: int = 0xFF
    inverted: bool = False
