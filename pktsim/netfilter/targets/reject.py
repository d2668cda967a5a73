"""``-j REJECT``: drop, and tell the sender (net/ipv4/netfilter/ipt_REJECT.c, net/ipv6/netfilter/ip6t_REJECT.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target


class RejectWith(enum.IntEnum):
    """``IPT_ICMP_*`` (include/uapi/linux/netfilter_ipv4/ipt_REJECT.h); value 6, echo reply, is obsolete."""

    ICMP_NET_UNREACHABLE = 0
    ICMP_HOST_UNREACHABLE = 1
    ICMP_PROT_UNREACHABLE = 2
    ICMP_PORT_UNREACHABLE = 3
    ICMP_NET_PROHIBITED = 5
    ICMP_HOST_PROHIBITED = 4
    TCP_RESET = 7
    ICMP_ADMIN_PROHIBITED = 8


class Reject6With(enum.IntEnum):
    """``IP6T_ICMP6_*`` and ``IP6T_TCP_RESET`` (include/uapi/linux/netfilter_ipv6/ip6t_REJECT.h)."""

    ICMP6_NO_ROUTE = 0
    ICMP6_ADM_PROHIBITED = 1
    ICMP6_NOT_NEIGHBOUR = 2
    ICMP6_ADDR_UNREACHABLE = 3
    ICMP6_PORT_UNREACHABLE = 4
    TCP_RESET = 6
    ICMP6_POLICY_FAIL = 7
    ICMP6_REJECT_ROUTE = 8


@dataclass(frozen=True, slots=True)
class RejectTarget(Target):
    """IPv4."""

    reject_with: RejectWith = RejectWith.ICMP_PORT_UNREACHABLE


@dataclass(frozen=True, slots=True)
class Reject6Target(Target):
    """IPv6."""

    reject_with: Reject6With = Reject6With.ICMP6_PORT_UNREACHABLE
