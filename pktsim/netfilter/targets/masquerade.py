"""``-j MASQUERADE``: the address of the way out as source (net/netfilter/xt_MASQUERADE.c); nat table, POSTROUTING."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option
from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.targets.nat_option import nat_flags, nat_range, range_text, read_ports
from pktsim.netfilter.values import NO_RANGE, NatRange


@dataclass(frozen=True, slots=True)
class MasqueradeTarget(Target):
    """Map the source to the egress interface's address for the next hop; ``range`` holds ports and flags only."""

    extension: ClassVar[str] = "MASQUERADE"
    tables: ClassVar[frozenset[str]] = frozenset({"nat"})
    hooks: ClassVar[frozenset[str]] = frozenset({"POSTROUTING"})

    range: NatRange = NO_RANGE

    def options_text(self) -> str:
        return range_text("to-ports", self.range)


def _build(given: Given) -> MasqueradeTarget:
    return MasqueradeTarget(nat_range(given.get("to-ports", NO_RANGE), given))


EXTENSIONS = (Extension("MASQUERADE", _build, (Option("to-ports", read_ports), *nat_flags("random", "random-fully"))),)
