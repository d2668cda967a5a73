"""``-m addrtype``: what the node's routing makes of source or destination (net/netfilter/xt_addrtype.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Extension, Given, Option, bit_list
from pktsim.netfilter.ruleset import Family, Match, Rule


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

    extension: ClassVar[str] = "addrtype"

    src_types: int = 0
    src_inverted: bool = False
    dst_types: int = 0
    dst_inverted: bool = False
    limit_iface_in: bool = False
    limit_iface_out: bool = False

    def options_text(self) -> str:
        text = ""
        if self.src_types:
            text += f"{' !' if self.src_inverted else ''} --src-type {_types_text(self.src_types)}"
        if self.dst_types:
            text += f"{' !' if self.dst_inverted else ''} --dst-type {_types_text(self.dst_types)}"
        if self.limit_iface_in:
            text += " --limit-iface-in"
        if self.limit_iface_out:
            text += " --limit-iface-out"
        return text

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if self.limit_iface_out and hooks & {"PREROUTING", "INPUT"}:
            return "addrtype: --limit-iface-out cannot be used before the way out is known"
        if self.limit_iface_in and hooks & {"POSTROUTING", "OUTPUT"}:
            return "addrtype: --limit-iface-in cannot be used where there is no way in"
        types = self.src_types | self.dst_types
        if family is Family.IPV6 and types & (AddrType.BROADCAST | AddrType.BLACKHOLE):
            return "addrtype: IPv6 has neither BROADCAST nor BLACKHOLE"
        if family is Family.IPV6 and types >= AddrType.PROHIBIT:
            return "addrtype: PROHIBIT, THROW, NAT and XRESOLVE cannot be matched in IPv6"
        return ""


def _types_text(types: int) -> str:
    return ",".join(str(bit.name) for bit in AddrType if types & bit)


def _build(given: Given) -> AddrtypeMatch:
    if "src-type" not in given and "dst-type" not in given:
        raise BadValue("addrtype: --src-type or --dst-type must be specified")
    return AddrtypeMatch(
        given.get("src-type", 0),
        "src-type" in given.inverted,
        given.get("dst-type", 0),
        "dst-type" in given.inverted,
        "limit-iface-in" in given,
        "limit-iface-out" in given,
    )


_READ_TYPES = bit_list({str(bit.name): int(bit) for bit in AddrType}, "address type")

EXTENSIONS = (
    Extension(
        "addrtype",
        _build,
        (
            Option("src-type", _READ_TYPES, invertible=True),
            Option("dst-type", _READ_TYPES, invertible=True),
            Option("limit-iface-in", excludes=("limit-iface-out",)),
            Option("limit-iface-out"),
        ),
    ),
)
