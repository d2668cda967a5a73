"""``-j DSCP``: change the differentiated services code point (net/netfilter/xt_DSCP.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.dscp_class import read_dscp_class
from pktsim.netfilter.option import BadValue, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class DscpTarget(Target):
    """The upper six bits of the type of service or traffic class."""

    extension: ClassVar[str] = "DSCP"
    tables: ClassVar[frozenset[str]] = frozenset({"mangle"})

    dscp: int

    def options_text(self) -> str:
        return f" --set-dscp {self.dscp:#04x}"


def _build(given: Given) -> DscpTarget:
    if not given.values:
        raise BadValue("DSCP: --set-dscp or --set-dscp-class must be specified")
    return DscpTarget(given.get("set-dscp", given.get("set-dscp-class")))


EXTENSIONS = (
    Extension(
        "DSCP",
        _build,
        (
            Option("set-dscp", number(0, 63), excludes=("set-dscp-class",)),
            Option("set-dscp-class", read_dscp_class),
        ),
    ),
)
