"""``-m eui64``: whether the source address was made of the source MAC (net/ipv6/netfilter/ip6t_eui64.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given
from pktsim.netfilter.ruleset import Family, Match


@dataclass(frozen=True, slots=True)
class Eui64Match(Match):
    """RFC 4291 appendix A: the MAC with ff:fe in its middle and the universal bit turned."""

    extension: ClassVar[str] = "eui64"
    hooks: ClassVar[frozenset[str]] = frozenset({"PREROUTING", "INPUT", "FORWARD"})

    def options_text(self) -> str:
        return ""


def _build(_given: Given) -> Eui64Match:
    return Eui64Match()


EXTENSIONS = (Extension("eui64", _build, (), Family.IPV6),)
