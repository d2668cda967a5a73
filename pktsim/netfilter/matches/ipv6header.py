"""``-m ipv6header``: which IPv6 extension headers there are (net/ipv6/netfilter/ip6t_ipv6header.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option
from pktsim.netfilter.ruleset import Family, Match


class Ipv6HeaderBit(enum.IntFlag):
    """``MASK_*`` (include/uapi/linux/netfilter_ipv6/ip6t_ipv6header.h)."""

    HOP_BY_HOP = 128
    DESTINATION_OPTIONS = 64
    ROUTING = 32
    FRAGMENT = 16
    AUTHENTICATION = 8
    ESP = 4
    NONE = 2
    PROTOCOL = 1


@dataclass(frozen=True, slots=True)
class Ipv6headerMatch(Match):
    """``headers`` are ``Ipv6HeaderBit``s: exactly these, or with ``soft`` at least these."""

    extension: ClassVar[str] = "ipv6header"

    headers: int
    inverted: bool = False
    soft: bool = False

    def options_text(self) -> str:
        names = ",".join(_SHOWN[bit] for bit in Ipv6HeaderBit if self.headers & bit)
        return f"{' !' if self.inverted else ''} --header {names}{' --soft' if self.soft else ''}"


#: Printed by their protocol's name where Debian's ``/etc/protocols`` has one, except for hop-by-hop, whose number is 0.
_SHOWN = {
    Ipv6HeaderBit.HOP_BY_HOP: "hop-by-hop",
    Ipv6HeaderBit.DESTINATION_OPTIONS: "ipv6-opts",
    Ipv6HeaderBit.ROUTING: "ipv6-route",
    Ipv6HeaderBit.FRAGMENT: "ipv6-frag",
    Ipv6HeaderBit.AUTHENTICATION: "ah",
    Ipv6HeaderBit.ESP: "esp",
    Ipv6HeaderBit.NONE: "ipv6-nonxt",
    Ipv6HeaderBit.PROTOCOL: "protocol",
}
_NAMES = {
    **{name: bit for bit, name in _SHOWN.items()},
    "hop": Ipv6HeaderBit.HOP_BY_HOP,
    "hopopt": Ipv6HeaderBit.HOP_BY_HOP,
    "0": Ipv6HeaderBit.HOP_BY_HOP,
    "dst": Ipv6HeaderBit.DESTINATION_OPTIONS,
    "60": Ipv6HeaderBit.DESTINATION_OPTIONS,
    "route": Ipv6HeaderBit.ROUTING,
    "43": Ipv6HeaderBit.ROUTING,
    "frag": Ipv6HeaderBit.FRAGMENT,
    "44": Ipv6HeaderBit.FRAGMENT,
    "auth": Ipv6HeaderBit.AUTHENTICATION,
    "51": Ipv6HeaderBit.AUTHENTICATION,
    "50": Ipv6HeaderBit.ESP,
    "none": Ipv6HeaderBit.NONE,
    "59": Ipv6HeaderBit.NONE,
    "prot": Ipv6HeaderBit.PROTOCOL,
    "255": Ipv6HeaderBit.PROTOCOL,
}


def _read(text: str, _context: Context) -> int:
    headers = 0
    for part in text.split(","):
        if part not in _NAMES:
            raise BadValue(f"unknown header {part!r}", f"use a comma-separated list of {', '.join(_NAMES)}")
        headers |= _NAMES[part]
    return headers


def _build(given: Given) -> Ipv6headerMatch:
    return Ipv6headerMatch(int(given.get("header")), "header" in given.inverted, "soft" in given)


EXTENSIONS = (
    Extension(
        "ipv6header",
        _build,
        (Option("header", _read, invertible=True, mandatory=True), Option("soft")),
        Family.IPV6,
    ),
)
