"""``-j REJECT``: drop, and tell the sender (net/ipv4/netfilter/ipt_REJECT.c, net/ipv6/netfilter/ip6t_REJECT.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option
from pktsim.netfilter.ruleset import Family, Rule, Target
from pktsim.wire.frame import IPPROTO_TCP


class RejectWith(enum.IntEnum):
    """``IPT_ICMP_*`` (include/uapi/linux/netfilter_ipv4/ipt_REJECT.h); value 4, echo reply, is gone."""

    ICMP_NET_UNREACHABLE = 0
    ICMP_HOST_UNREACHABLE = 1
    ICMP_PROT_UNREACHABLE = 2
    ICMP_PORT_UNREACHABLE = 3
    ICMP_NET_PROHIBITED = 5
    ICMP_HOST_PROHIBITED = 6
    TCP_RESET = 7
    ICMP_ADMIN_PROHIBITED = 8


class Reject6With(enum.IntEnum):
    """``IP6T_ICMP6_*`` and ``IP6T_TCP_RESET`` (include/uapi/linux/netfilter_ipv6/ip6t_REJECT.h);
    the tool has no name for 2 and 5.
    """

    ICMP6_NO_ROUTE = 0
    ICMP6_ADM_PROHIBITED = 1
    ICMP6_ADDR_UNREACHABLE = 3
    ICMP6_PORT_UNREACHABLE = 4
    TCP_RESET = 6
    ICMP6_POLICY_FAIL = 7
    ICMP6_REJECT_ROUTE = 8


@dataclass(frozen=True, slots=True)
class RejectTarget(Target):
    """IPv4."""

    extension: ClassVar[str] = "REJECT"
    tables: ClassVar[frozenset[str]] = frozenset({"filter"})
    hooks: ClassVar[frozenset[str]] = frozenset({"INPUT", "FORWARD", "OUTPUT"})

    reject_with: RejectWith = RejectWith.ICMP_PORT_UNREACHABLE

    def options_text(self) -> str:
        return f" --reject-with {_NAMES[self.reject_with]}"

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        return _reset_objection(self.reject_with is RejectWith.TCP_RESET, rule)


@dataclass(frozen=True, slots=True)
class Reject6Target(Target):
    """IPv6."""

    extension: ClassVar[str] = "REJECT"
    tables: ClassVar[frozenset[str]] = frozenset({"filter"})
    hooks: ClassVar[frozenset[str]] = frozenset({"INPUT", "FORWARD", "OUTPUT"})

    reject_with: Reject6With = Reject6With.ICMP6_PORT_UNREACHABLE

    def options_text(self) -> str:
        return f" --reject-with {_NAMES6[self.reject_with]}"

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        return _reset_objection(self.reject_with is Reject6With.TCP_RESET, rule)


#: The name printed, then the other ones; a name may be cut short, and the first that fits counts.
_SPELLINGS: dict[RejectWith, tuple[str, ...]] = {
    RejectWith.ICMP_NET_UNREACHABLE: ("icmp-net-unreachable", "net-unreach"),
    RejectWith.ICMP_HOST_UNREACHABLE: ("icmp-host-unreachable", "host-unreach"),
    RejectWith.ICMP_PROT_UNREACHABLE: ("icmp-proto-unreachable", "proto-unreach"),
    RejectWith.ICMP_PORT_UNREACHABLE: ("icmp-port-unreachable", "port-unreach"),
    RejectWith.ICMP_NET_PROHIBITED: ("icmp-net-prohibited", "net-prohib"),
    RejectWith.ICMP_HOST_PROHIBITED: ("icmp-host-prohibited", "host-prohib"),
    RejectWith.TCP_RESET: ("tcp-reset", "tcp-rst"),
    RejectWith.ICMP_ADMIN_PROHIBITED: ("icmp-admin-prohibited", "admin-prohib"),
}
_SPELLINGS6: dict[Reject6With, tuple[str, ...]] = {
    Reject6With.ICMP6_NO_ROUTE: ("icmp6-no-route", "no-route"),
    Reject6With.ICMP6_ADM_PROHIBITED: ("icmp6-adm-prohibited", "adm-prohibited"),
    Reject6With.ICMP6_ADDR_UNREACHABLE: ("icmp6-addr-unreachable", "addr-unreach"),
    Reject6With.ICMP6_PORT_UNREACHABLE: ("icmp6-port-unreachable", "port-unreach"),
    Reject6With.TCP_RESET: ("tcp-reset", "tcp-reset"),
    Reject6With.ICMP6_POLICY_FAIL: ("icmp6-policy-fail", "policy-fail"),
    Reject6With.ICMP6_REJECT_ROUTE: ("icmp6-reject-route", "reject-route"),
}
_NAMES = {value: names[0] for value, names in _SPELLINGS.items()}
_NAMES6 = {value: names[0] for value, names in _SPELLINGS6.items()}


def _reset_objection(reset: bool, rule: Rule) -> str:
    header = rule.header
    if reset and (header.protocol != IPPROTO_TCP or header.protocol_inverted):
        return "REJECT: tcp-reset needs -p tcp"
    return ""


def _read(text: str, _context: Context) -> RejectWith:
    for value, names in _SPELLINGS.items():
        if any(name.startswith(text.lower()) for name in names):
            return value
    raise BadValue(f"unknown reject type {text!r}", f"use one of {', '.join(_NAMES.values())}")


def _read6(text: str, _context: Context) -> Reject6With:
    for value, names in _SPELLINGS6.items():
        if any(name.startswith(text.lower()) for name in names):
            return value
    raise BadValue(f"unknown reject type {text!r}", f"use one of {', '.join(_NAMES6.values())}")


def _build(given: Given) -> RejectTarget:
    return RejectTarget(given.get("reject-with", RejectWith.ICMP_PORT_UNREACHABLE))


def _build6(given: Given) -> Reject6Target:
    return Reject6Target(given.get("reject-with", Reject6With.ICMP6_PORT_UNREACHABLE))


EXTENSIONS: tuple[Extension[RejectTarget] | Extension[Reject6Target], ...] = (
    Extension("REJECT", _build, (Option("reject-with", _read),), Family.IPV4),
    Extension("REJECT", _build6, (Option("reject-with", _read6),), Family.IPV6),
)
