"""``-m addrtype``: what the node's routing makes of source or destination (net/netfilter/xt_addrtype.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import Match


class AddrType(enum.IntFlag):
    """``XT_ADDRTYPE_*`` (include/uapi/linux/netfilter/xt_addrtype.h): bit n stands for route type ``RTN_*`` n."""

    UNSPEC = 1 << 0
    UNICAST = 1 << 1
    LOCAL = 1 << 2
    BROADCAST = 1 << 3
    ANYCAST = 1 << 4
    MULTICAST = 1 << 5
    BLACKHOLE = 1 << 6
    UNREACHABLE = 1 << 7
    PROHIBIT = 1 << 8
    THROW = 1 << 9
    NAT = 1 << 10
    XRESOLVE = 1 << 11


@dataclass(frozen=True, slots=True)
class AddrtypeMatch(Match):
    """``src_types`` and ``dst_types`` are ``AddrType`` bits, 0 for not said; the limits ask about one interface."""

    src_types: int = 0
    src_inverted: bool = False
    dst_types: int = 0
    dst_inverted: bool = False
    limit_iface_in: bool = False
    limit_iface_out: bool = False
