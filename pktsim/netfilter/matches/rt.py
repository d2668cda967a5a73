"""``-m rt``: the routing header (net/ipv6/netfilter/ip6t_rt.c)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import ClassVar

from pktsim.netfilter.option import (
    U32_MAX,
    BadValue,
    Context,
    Extension,
    Given,
    Option,
    address_text,
    number,
    number_range,
    to_address,
)
from pktsim.netfilter.ruleset import Family, Match

#: ``IP6T_RT_HOPS``.
MOST_ADDRESSES = 16


@dataclass(frozen=True, slots=True)
class RtMatch(Match):
    """``None`` where not said. ``addresses`` are those of a type 0 header, in order; else that they occur in order."""

    extension: ClassVar[str] = "rt"

    type: int | None = None
    type_inverted: bool = False
    segments: tuple[int, int] | None = None
    segments_inverted: bool = False
    length: int | None = None
    length_inverted: bool = False
    reserved_zero: bool = False
    addresses: tuple[IPv6Address, ...] = ()
    not_strict: bool = False

    def options_text(self) -> str:
        text = ""
        if self.type is not None:
            text += f"{' !' if self.type_inverted else ''} --rt-type {self.type}"
        if self.segments is not None:
            first, last = self.segments
            number_text = f"{first}" if first == last else f"{first}:{last}"
            text += f"{' !' if self.segments_inverted else ''} --rt-segsleft {number_text}"
        if self.length is not None:
            text += f"{' !' if self.length_inverted else ''} --rt-len {self.length}"
        if self.reserved_zero:
            text += " --rt-0-res"
        if self.addresses:
            text += f" --rt-0-addrs {','.join(map(address_text, self.addresses))}"
        return f"{text} --rt-0-not-strict" if self.not_strict else text


def _read_addresses(text: str, _context: Context) -> tuple[IPv6Address, ...]:
    found = tuple(IPv6Address(int(to_address(part, Family.IPV6))) for part in text.split(","))
    if len(found) > MOST_ADDRESSES:
        raise BadValue("rt: too many addresses", f"name at most {MOST_ADDRESSES}")
    return found


def _build(given: Given) -> RtMatch:
    type_ = given.get("rt-type")
    about_type0 = "rt-0-res" in given or "rt-0-addrs" in given
    if about_type0 and (type_ != 0 or "rt-type" in given.inverted):
        raise BadValue("rt: --rt-0-res and --rt-0-addrs need --rt-type 0 in front of them")
    if "rt-0-not-strict" in given and "rt-0-addrs" not in given:
        raise BadValue("rt: --rt-0-not-strict needs --rt-0-addrs in front of it")
    segments = given.get("rt-segsleft")
    return RtMatch(
        type_,
        "rt-type" in given.inverted,
        segments if segments != (0, U32_MAX) else None,
        "rt-segsleft" in given.inverted and segments != (0, U32_MAX),
        given.get("rt-len"),
        "rt-len" in given.inverted,
        "rt-0-res" in given,
        given.get("rt-0-addrs", ()),
        "rt-0-not-strict" in given,
    )


EXTENSIONS = (
    Extension(
        "rt",
        _build,
        (
            Option("rt-type", number(), invertible=True),
            Option("rt-segsleft", number_range(U32_MAX), invertible=True),
            Option("rt-len", number(), invertible=True),
            Option("rt-0-res"),
            Option("rt-0-addrs", _read_addresses),
            Option("rt-0-not-strict"),
        ),
        Family.IPV6,
    ),
)
