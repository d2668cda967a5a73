"""``-m iprange``: addresses between two (net/netfilter/xt_iprange.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, address_text, short_ipv4, to_address
from pktsim.netfilter.ruleset import Family, Match
from pktsim.netfilter.values import AddressRange


@dataclass(frozen=True, slots=True)
class IprangeMatch(Match):
    """A range that is upside down matches nothing."""

    extension: ClassVar[str] = "iprange"

    src: AddressRange | None = None
    src_inverted: bool = False
    dst: AddressRange | None = None
    dst_inverted: bool = False

    def options_text(self) -> str:
        return _range_text("src-range", self.src, self.src_inverted) + _range_text(
            "dst-range", self.dst, self.dst_inverted
        )


def _range_text(option: str, said: AddressRange | None, inverted: bool) -> str:
    if said is None:
        return ""
    return f"{' !' if inverted else ''} --{option} {address_text(said.first)}-{address_text(said.last)}"


def _read(text: str, context: Context) -> AddressRange:
    first, dash, last = text.partition("-")
    if context.family is Family.IPV4:
        first, last = short_ipv4(first), short_ipv4(last) if dash else ""
    low = to_address(first, context.family)
    return AddressRange(low, to_address(last, context.family) if dash else low)


def _build(given: Given) -> IprangeMatch:
    if not given.values:
        raise BadValue("iprange: --src-range or --dst-range must be specified")
    return IprangeMatch(
        given.get("src-range"),
        "src-range" in given.inverted,
        given.get("dst-range"),
        "dst-range" in given.inverted,
    )


EXTENSIONS = (
    Extension(
        "iprange",
        _build,
        (Option("src-range", _read, invertible=True), Option("dst-range", _read, invertible=True)),
    ),
)
