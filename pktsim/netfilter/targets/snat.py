"""``-j SNAT``: a new source (net/netfilter/xt_nat.c); nat table, POSTROUTING and INPUT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option
from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.targets.nat_option import nat_flags, nat_range, range_text, read_destination
from pktsim.netfilter.values import NatRange


@dataclass(frozen=True, slots=True)
class SnatTarget(Target):
    """Map the source to ``range``."""

    extension: ClassVar[str] = "SNAT"
    tables: ClassVar[frozenset[str]] = frozenset({"nat"})
    hooks: ClassVar[frozenset[str]] = frozenset({"POSTROUTING", "INPUT"})

    range: NatRange

    def options_text(self) -> str:
        return range_text("to-source", self.range)


def _build(given: Given) -> SnatTarget:
    return SnatTarget(nat_range(given.get("to-source"), given))


EXTENSIONS = (
    Extension(
        "SNAT",
        _build,
        (
            Option("to-source", read_destination, mandatory=True),
            *nat_flags("random", "random-fully", "persistent"),
        ),
    ),
)
