"""``-j REDIRECT``: this node as destination (net/netfilter/xt_REDIRECT.c); nat table, PREROUTING and OUTPUT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option
from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.targets.nat_option import nat_flags, nat_range, range_text, read_ports
from pktsim.netfilter.values import NO_RANGE, NatRange


@dataclass(frozen=True, slots=True)
class RedirectTarget(Target):
    """Map the destination to this node; ``range`` holds ports and flags only."""

    extension: ClassVar[str] = "REDIRECT"
    tables: ClassVar[frozenset[str]] = frozenset({"nat"})
    hooks: ClassVar[frozenset[str]] = frozenset({"PREROUTING", "OUTPUT"})

    range: NatRange = NO_RANGE

    def options_text(self) -> str:
        return range_text("to-ports", self.range)


def _build(given: Given) -> RedirectTarget:
    return RedirectTarget(nat_range(given.get("to-ports", NO_RANGE), given))


EXTENSIONS = (Extension("REDIRECT", _build, (Option("to-ports", read_ports), *nat_flags("random"))),)
