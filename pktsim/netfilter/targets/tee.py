"""``-j TEE``: send a copy to another node (net/netfilter/xt_TEE.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, address, address_text, string
from pktsim.netfilter.ruleset import Family, Rule, Target
from pktsim.netfilter.values import Address


@dataclass(frozen=True, slots=True)
class TeeTarget(Target):
    """The copy goes to ``gateway``, by ``out_interface`` if said."""

    extension: ClassVar[str] = "TEE"

    gateway: Address
    out_interface: str = ""

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        return "" if int(self.gateway) else "TEE needs a gateway other than the address of zeros"

    def options_text(self) -> str:
        text = f" --gateway {address_text(self.gateway)}"
        return f"{text} --oif {self.out_interface}" if self.out_interface else text


def _build(given: Given) -> TeeTarget:
    return TeeTarget(given.get("gateway"), given.get("oif", ""))


EXTENSIONS = (Extension("TEE", _build, (Option("gateway", address, mandatory=True), Option("oif", string(15)))),)
