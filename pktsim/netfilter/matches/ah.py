"""``-m ah``: the Authentication Header (net/ipv4/netfilter/ipt_ah.c, net/ipv6/netfilter/ip6t_ah.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, Extension, Given, Option, number, number_range
from pktsim.netfilter.ruleset import Family, Match


@dataclass(frozen=True, slots=True)
class AhMatch(Match):
    """IPv4: security parameter indexes from ``first`` to ``last``, both included."""

    extension: ClassVar[str] = "ah"
    protocols: ClassVar[frozenset[int]] = frozenset({51})

    first: int = 0
    last: int = U32_MAX
    inverted: bool = False

    def options_text(self) -> str:
        return _spi_text(self.first, self.last, inverted=self.inverted)


@dataclass(frozen=True, slots=True)
class Ah6Match(Match):
    """IPv6, where it is an extension header: indexes as above, its length in bytes (0: any), and its reserved field."""

    extension: ClassVar[str] = "ah"

    first: int = 0
    last: int = U32_MAX
    inverted: bool = False
    length: int = 0
    length_inverted: bool = False
    reserved_zero: bool = False

    def options_text(self) -> str:
        text = _spi_text(self.first, self.last, inverted=self.inverted)
        if self.length or self.length_inverted:
            text += f"{' !' if self.length_inverted else ''} --ahlen {self.length}"
        return f"{text} --ahres" if self.reserved_zero else text


def _spi_text(first: int, last: int, *, inverted: bool) -> str:
    if first == 0 and last == U32_MAX:
        return ""
    text = f"{' !' if inverted else ''} --ahspi {first}"
    return text if first == last else f"{text}:{last}"


def _build(given: Given) -> AhMatch:
    first, last = given.get("ahspi", (0, U32_MAX))
    return AhMatch(first, last, "ahspi" in given.inverted)


def _build6(given: Given) -> Ah6Match:
    first, last = given.get("ahspi", (0, U32_MAX))
    inverted = given.inverted
    return Ah6Match(first, last, "ahspi" in inverted, given.get("ahlen", 0), "ahlen" in inverted, "ahres" in given)


_SPI = Option("ahspi", number_range(U32_MAX), invertible=True)
EXTENSIONS = (
    Extension("ah", _build, (_SPI,), Family.IPV4),
    Extension("ah", _build6, (_SPI, Option("ahlen", number(), invertible=True), Option("ahres")), Family.IPV6),
)
