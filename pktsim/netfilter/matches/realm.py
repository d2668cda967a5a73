"""``-m realm``: the realm of the packet's route (net/netfilter/xt_realm.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, Context, Extension, Given, Option, mark_text, value_mask
from pktsim.netfilter.ruleset import Family, Match

#: The only realm that ``/etc/iproute2/rt_realms`` has a name for.
_COSMOS = 0


@dataclass(frozen=True, slots=True)
class RealmMatch(Match):
    """Matches if ``realm & mask == value``; a route without a realm has 0."""

    extension: ClassVar[str] = "realm"
    hooks: ClassVar[frozenset[str]] = frozenset({"POSTROUTING", "FORWARD", "OUTPUT", "INPUT"})

    value: int
    mask: int = 0xFFFFFFFF
    inverted: bool = False

    def options_text(self) -> str:
        known = (self.value, self.mask) == (_COSMOS, U32_MAX)
        return f"{' !' if self.inverted else ''} --realm {'cosmos' if known else mark_text(self.value, self.mask)}"


def _read_realm(text: str, context: Context) -> tuple[int, int]:
    return (_COSMOS, U32_MAX) if text == "cosmos" else value_mask(text, context)


def _build(given: Given) -> RealmMatch:
    value, mask = given.get("realm")
    return RealmMatch(value, mask, "realm" in given.inverted)


EXTENSIONS = (
    Extension("realm", _build, (Option("realm", _read_realm, invertible=True, mandatory=True),), Family.IPV4),
)
