"""``-m policy``: the IPsec policy that the packet came by or will go by (net/netfilter/xt_policy.c)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pktsim.netfilter.option import (
    BadValue,
    Context,
    Extension,
    Given,
    Option,
    choice,
    host_mask,
    host_mask_text,
    number,
    to_protocol,
)
from pktsim.netfilter.ruleset import Family, MaskedAddress, Match, Rule

#: AH, ESP and IPComp: by the names that ``/etc/protocols`` has for them.
_PROTOCOLS = {51: "ah", 50: "esp", 108: "ipcomp"}

#: ``XT_POLICY_MAX_ELEM``.
MAX_ELEMENTS = 4


@dataclass(frozen=True, slots=True)
class PolicyElement:
    """One transformation; ``None`` means not said. ``inverted`` names the fields that are asked with ``!``."""

    reqid: int | None = None
    spi: int | None = None
    protocol: int | None = None
    mode: str | None = None  # transport or tunnel
    tunnel_dst: MaskedAddress | None = None
    tunnel_src: MaskedAddress | None = None
    inverted: frozenset[str] = frozenset()

    def text(self) -> str:
        """Its options."""
        parts = [
            ("reqid", "reqid", None if self.reqid is None else str(self.reqid)),
            ("spi", "spi", None if self.spi is None else f"{self.spi:#x}"),
            ("protocol", "proto", None if self.protocol is None else _PROTOCOLS[self.protocol]),
            ("mode", "mode", self.mode),
            ("tunnel_dst", "tunnel-dst", None if self.tunnel_dst is None else host_mask_text(self.tunnel_dst)),
            ("tunnel_src", "tunnel-src", None if self.tunnel_src is None else host_mask_text(self.tunnel_src)),
        ]
        return "".join(
            f"{' !' if field in self.inverted else ''} --{option} {value}"
            for field, option, value in parts
            if value is not None
        )


@dataclass(frozen=True, slots=True)
class PolicyMatch(Match):
    """``--dir in`` or ``out``; with ``ipsec`` off, that there is no policy. ``strict`` wants exactly ``elements``."""

    extension: ClassVar[str] = "policy"

    direction: str
    ipsec: bool = True
    strict: bool = False
    elements: tuple[PolicyElement, ...] = ()

    def options_text(self) -> str:
        text = f" --dir {self.direction} --pol {'ipsec' if self.ipsec else 'none'}{' --strict' if self.strict else ''}"
        return text + " --next".join(element.text() for element in self.elements)

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if self.direction == "out" and hooks & {"PREROUTING", "INPUT"}:
            return "policy: --dir out cannot be used in PREROUTING and INPUT"
        if self.direction == "in" and hooks & {"POSTROUTING", "OUTPUT"}:
            return "policy: --dir in cannot be used in POSTROUTING and OUTPUT"
        return ""


def _read_protocol(text: str, _context: Context) -> int:
    value = to_protocol(text)
    if value not in _PROTOCOLS:
        raise BadValue(f"bad IPsec protocol {text!r}", "use ah, esp or ipcomp")
    return value


#: Options that speak of an element, and its field.
_FIELDS = {
    "reqid": "reqid",
    "spi": "spi",
    "proto": "protocol",
    "mode": "mode",
    "tunnel-dst": "tunnel_dst",
    "tunnel-src": "tunnel_src",
}


def _elements(given: Given) -> list[PolicyElement]:
    elements = [PolicyElement()]
    for option, value, inverted in given.sequence:
        if option == "next":
            elements.append(PolicyElement())
            continue
        field = _FIELDS.get(option)
        if field is None:
            continue
        element = elements[-1]
        if getattr(element, field) is not None:
            raise BadValue(f"policy: double --{option}", "put --next between two elements")
        changes: dict[str, Any] = {field: value}
        if inverted:
            changes["inverted"] = element.inverted | {field}
        elements[-1] = replace(element, **changes)
    return elements


def _build(given: Given) -> PolicyMatch:
    direction = given.get("dir")
    if direction is None:
        raise BadValue("policy: --dir must be specified", "add --dir in or --dir out")
    elements = _elements(given)
    strict = "strict" in given
    if len(elements) > MAX_ELEMENTS:
        raise BadValue("policy: too many elements", f"use at most {MAX_ELEMENTS}")
    if given.get("pol") == "none":
        if strict or len(elements) > 1:
            raise BadValue("policy: --pol none goes with neither --strict nor elements")
        return PolicyMatch(direction, ipsec=False)
    for element in elements:
        if strict and element == PolicyElement():
            raise BadValue("policy: with --strict each element must say something")
        tunnel = element.mode is not None and (element.mode == "tunnel") != ("mode" in element.inverted)
        if (element.tunnel_src or element.tunnel_dst) and not tunnel:
            raise BadValue("policy: --tunnel-src and --tunnel-dst are for tunnel mode")
    return PolicyMatch(direction, True, strict, tuple(elements))


EXTENSIONS = (
    Extension(
        "policy",
        _build,
        (
            Option("dir", choice("in", "out", ignore_case=False)),
            Option("pol", choice("none", "ipsec", ignore_case=False)),
            Option("strict"),
            Option("reqid", number(), invertible=True, multiple=True),
            Option("spi", number(), invertible=True, multiple=True),
            Option("tunnel-src", host_mask, invertible=True, multiple=True),
            Option("tunnel-dst", host_mask, invertible=True, multiple=True),
            Option("proto", _read_protocol, invertible=True, multiple=True),
            Option("mode", choice("transport", "tunnel", ignore_case=False), invertible=True, multiple=True),
            Option("next", multiple=True, requires=("strict",)),
        ),
    ),
)
