"""``-m dscp``: the differentiated services code point (net/netfilter/xt_dscp.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.dscp_class import read_dscp_class
from pktsim.netfilter.option import BadValue, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class DscpMatch(Match):
    """The upper six bits of the type of service or traffic class."""

    extension: ClassVar[str] = "dscp"

    dscp: int
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --dscp {self.dscp:#04x}"


def _build(given: Given) -> DscpMatch:
    if not given.values:
        raise BadValue("dscp: --dscp or --dscp-class must be specified")
    return DscpMatch(given.get("dscp", given.get("dscp-class")), bool(given.inverted))


EXTENSIONS = (
    Extension(
        "dscp",
        _build,
        (
            Option("dscp", number(0, 63), invertible=True, excludes=("dscp-class",)),
            Option("dscp-class", read_dscp_class, invertible=True),
        ),
    ),
)
