"""``-m udp`` (net/netfilter/xt_tcpudp.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match
from pktsim.netfilter.values import PortRange


@dataclass(frozen=True, slots=True)
class UdpMatch(Match):
    """Ports are ``None`` where not said."""

    src_ports: PortRange | None = None
    src_ports_inverted: bool = False
    dst_ports: PortRange | None = None
    dst_ports_inverted: bool = False
