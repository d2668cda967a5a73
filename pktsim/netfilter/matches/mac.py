"""``-m mac``: the Ethernet source address (net/netfilter/xt_mac.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, mac
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class MacMatch(Match):
    """Six bytes; a packet that did not come in by Ethernet never matches."""

    extension: ClassVar[str] = "mac"
    hooks: ClassVar[frozenset[str]] = frozenset({"PREROUTING", "INPUT", "FORWARD"})

    source: bytes
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --mac-source {self.source.hex(':')}"


def _build(given: Given) -> MacMatch:
    return MacMatch(given.get("mac-source"), "mac-source" in given.inverted)


EXTENSIONS = (Extension("mac", _build, (Option("mac-source", mac, invertible=True, mandatory=True),)),)
