"""``-j TTL``: change the time to live (net/netfilter/xt_HL.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Family, Target


class TtlMode(enum.StrEnum):
    """What is done; the option's ending."""

    SET = "set"
    DEC = "dec"
    INC = "inc"


@dataclass(frozen=True, slots=True)
class TtlTarget(Target):
    """To, down or up by ``ttl``."""

    extension: ClassVar[str] = "TTL"
    tables: ClassVar[frozenset[str]] = frozenset({"mangle"})

    mode: TtlMode
    ttl: int

    def options_text(self) -> str:
        return f" --ttl-{self.mode.value} {self.ttl}"


def _build(given: Given) -> TtlTarget:
    for mode in TtlMode:
        if f"ttl-{mode.value}" in given:
            return TtlTarget(mode, given.get(f"ttl-{mode.value}"))
    raise BadValue("TTL: one of --ttl-set, --ttl-dec, --ttl-inc must be specified")


_OPTIONS = ("ttl-set", "ttl-dec", "ttl-inc")

EXTENSIONS = (
    Extension(
        "TTL",
        _build,
        (
            Option("ttl-set", number(0, 255), excludes=_OPTIONS),
            Option("ttl-dec", number(1, 255), excludes=_OPTIONS),
            Option("ttl-inc", number(1, 255), excludes=_OPTIONS),
        ),
        Family.IPV4,
    ),
)
