"""``-m tos``: the type of service or traffic class (net/netfilter/xt_dscp.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, tos_mask
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class TosMatch(Match):
    """Matches if ``tos & mask == value``."""

    extension: ClassVar[str] = "tos"

    value: int
    mask: int = 0xFF
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --tos {self.value:#04x}/{self.mask:#04x}"


def _build(given: Given) -> TosMatch:
    value, mask = given.get("tos")
    return TosMatch(value, mask, "tos" in given.inverted)


EXTENSIONS = (Extension("tos", _build, (Option("tos", tos_mask, invertible=True, mandatory=True),)),)
