"""``-j TOS``: change the type of service or traffic class (net/netfilter/xt_DSCP.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Extension, Given, Option, number, tos_mask
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class TosTarget(Target):
    """``tos = (tos & ~mask) ^ value``, to which every spelling reduces."""

    extension: ClassVar[str] = "TOS"
    tables: ClassVar[frozenset[str]] = frozenset({"mangle"})

    value: int
    mask: int = 0xFF

    def options_text(self) -> str:
        return f" --set-tos {self.value:#04x}/{self.mask:#04x}"


_OPTIONS = ("set-tos", "and-tos", "or-tos", "xor-tos")


def _build(given: Given) -> TosTarget:
    if "set-tos" in given:
        return TosTarget(*given.get("set-tos"))
    if "and-tos" in given:
        return TosTarget(0, ~given.get("and-tos") & 0xFF)
    if "or-tos" in given:
        return TosTarget(given.get("or-tos"), given.get("or-tos"))
    if "xor-tos" in given:
        return TosTarget(given.get("xor-tos"), 0)
    raise BadValue("TOS: one of --set-tos, --and-tos, --or-tos, --xor-tos must be specified")


EXTENSIONS = (
    Extension(
        "TOS",
        _build,
        (
            Option("set-tos", tos_mask, excludes=_OPTIONS),
            *(Option(name, number(0, 255), excludes=_OPTIONS) for name in _OPTIONS[1:]),
        ),
    ),
)
