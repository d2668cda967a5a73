"""``-j TPROXY``: hand the packet to a local socket without changing it (net/netfilter/xt_TPROXY.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import (
    Context,
    Extension,
    Given,
    Option,
    address,
    address_text,
    looked_up_port,
    to_address,
    value_mask,
)
from pktsim.netfilter.ruleset import Family, Rule, Target
from pktsim.netfilter.values import Address


@dataclass(frozen=True, slots=True)
class TproxyTarget(Target):
    """To ``port`` at ``address`` (all zero: the ingress interface's own), with ``mark = (mark & ~mask) ^ value``."""

    extension: ClassVar[str] = "TPROXY"
    tables: ClassVar[frozenset[str]] = frozenset({"mangle"})
    hooks: ClassVar[frozenset[str]] = frozenset({"PREROUTING"})

    port: int
    address: Address
    value: int = 0
    mask: int = 0

    def options_text(self) -> str:
        return (
            f" --on-port {self.port} --on-ip {address_text(self.address)} --tproxy-mark {self.value:#x}/{self.mask:#x}"
        )

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if rule.header.protocol not in (6, 17) or rule.header.protocol_inverted:
            return "TPROXY: -p tcp or -p udp is needed"
        return ""


def _read_port(text: str, _context: Context) -> int:
    return looked_up_port(text)


def _build(given: Given) -> TproxyTarget:
    family = given.context.family
    anywhere = to_address("0.0.0.0" if family is Family.IPV4 else "::", family)
    value, mask = given.get("tproxy-mark", (0, 0))
    return TproxyTarget(given.get("on-port"), given.get("on-ip", anywhere), value, mask)


EXTENSIONS = (
    Extension(
        "TPROXY",
        _build,
        (
            Option("on-port", _read_port, mandatory=True),
            Option("on-ip", address),
            Option("tproxy-mark", value_mask),
        ),
    ),
)
