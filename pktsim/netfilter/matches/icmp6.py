"""``-m icmp6`` (net/ipv6/netfilter/ip6_tables.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class Icmp6Match(Match):
    """An ICMPv6 type and the codes ``first_code`` to ``last_code``."""

    icmp_type: int
    first_code: int = 0
    last_code: int = 0xFF
    inverted: bool = False
