"""``-j DNAT``: a new destination (net/netfilter/xt_nat.c); nat table, PREROUTING and OUTPUT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option
from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.targets.nat_option import nat_flags, nat_range, range_text, read_destination
from pktsim.netfilter.values import NatRange


@dataclass(frozen=True, slots=True)
class DnatTarget(Target):
    """Map the destination to ``range`` (never empty of both addresses and ports)."""

    extension: ClassVar[str] = "DNAT"
    tables: ClassVar[frozenset[str]] = frozenset({"nat"})
    hooks: ClassVar[frozenset[str]] = frozenset({"PREROUTING", "OUTPUT"})

    range: NatRange

    def options_text(self) -> str:
        return range_text("to-destination", self.range)


def _build(given: Given) -> DnatTarget:
    return DnatTarget(nat_range(given.get("to-destination"), given, shift=True))


EXTENSIONS = (
    Extension(
        "DNAT",
        _build,
        (
            Option("to-destination", read_destination, mandatory=True),
            *nat_flags("random", "persistent"),
        ),
    ),
)
