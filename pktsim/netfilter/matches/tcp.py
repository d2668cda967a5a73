"""``-m tcp`` (net/netfilter/xt_tcpudp.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match
from pktsim.netfilter.values import PortRange


class TcpFlag(enum.IntFlag):
    """The flags byte of a TCP header, as far as ``--tcp-flags`` names it."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20


@dataclass(frozen=True, slots=True)
class TcpMatch(Match):
    """Ports are ``None`` where not said. ``flags_mask`` 0 with ``flags_inverted`` off means flags are not looked at."""

    src_ports: PortRange | None = None
    src_ports_inverted: bool = False
    dst_ports: PortRange | None = None
    dst_ports_inverted: bool = False
    option: int = 0  # --tcp-option; 0 means not said
    option_inverted: bool = False
    flags_mask: int = 0
    flags_set: int = 0
    flags_inverted: bool = False
