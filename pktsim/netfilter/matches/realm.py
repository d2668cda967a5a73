"""``-m realm``: the realm of the packet's route (net/netfilter/xt_realm.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, mark_text, value_mask
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class RealmMatch(Match):
    """Matches if ``realm & mask == value``; a route without a realm has 0."""

    extension: ClassVar[str] = "realm"
    hooks: ClassVar[frozenset[str]] = frozenset({"POSTROUTING", "FORWARD", "OUTPUT", "INPUT"})

    value: int
    mask: int = 0xFFFFFFFF
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --realm {mark_text(self.value, self.mask)}"


def _build(given: Given) -> RealmMatch:
    value, mask = given.get("realm")
    return RealmMatch(value, mask, "realm" in given.inverted)


EXTENSIONS = (Extension("realm", _build, (Option("realm", value_mask, invertible=True, mandatory=True),)),)
