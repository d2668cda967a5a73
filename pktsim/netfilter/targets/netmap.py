"""``-j NETMAP``: a whole network onto another, host bits kept (net/netfilter/xt_NETMAP.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Context, Extension, Given, Option, host_mask, masked_text
from pktsim.netfilter.ruleset import MaskedAddress, Target


@dataclass(frozen=True, slots=True)
class NetmapTarget(Target):
    """``--to ADDRESS/MASK``: destination in PREROUTING and OUTPUT, source in POSTROUTING and INPUT."""

    extension: ClassVar[str] = "NETMAP"
    tables: ClassVar[frozenset[str]] = frozenset({"nat"})
    hooks: ClassVar[frozenset[str]] = frozenset({"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"})

    to: MaskedAddress

    def options_text(self) -> str:
        return f" --to {masked_text(self.to)}"


def _read(text: str, context: Context) -> MaskedAddress:
    found = host_mask(text, context)
    bits = int(found.address) & int(found.mask)
    return MaskedAddress(type(found.address)(bits), found.mask)


def _build(given: Given) -> NetmapTarget:
    return NetmapTarget(given.get("to"))


EXTENSIONS = (Extension("NETMAP", _build, (Option("to", _read, mandatory=True),)),)
