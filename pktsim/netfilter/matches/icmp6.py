"""``-m icmp6`` (net/ipv6/netfilter/ip6_tables.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Context, Extension, Given, Option, to_icmp_type
from pktsim.netfilter.ruleset import Family, Match


@dataclass(frozen=True, slots=True)
class Icmp6Match(Match):
    """An ICMPv6 type and the codes ``first_code`` to ``last_code``."""

    extension: ClassVar[str] = "icmp6"
    protocols: ClassVar[frozenset[int]] = frozenset({58})

    icmp_type: int
    first_code: int = 0
    last_code: int = 0xFF
    inverted: bool = False

    def options_text(self) -> str:
        text = f"{' !' if self.inverted else ''} --icmpv6-type "
        # The upper end of a range of codes is not printed.
        code = "" if self.first_code == 0 and self.last_code == 0xFF else f"/{self.first_code}"
        return f"{text}{self.icmp_type}{code}"


_TYPES = {
    "destination-unreachable": (1, 0, 0xFF),
    "no-route": (1, 0, 0),
    "communication-prohibited": (1, 1, 1),
    "beyond-scope": (1, 2, 2),
    "address-unreachable": (1, 3, 3),
    "port-unreachable": (1, 4, 4),
    "failed-policy": (1, 5, 5),
    "reject-route": (1, 6, 6),
    "packet-too-big": (2, 0, 0xFF),
    "time-exceeded": (3, 0, 0xFF),
    "ttl-exceeded": (3, 0, 0xFF),
    "ttl-zero-during-transit": (3, 0, 0),
    "ttl-zero-during-reassembly": (3, 1, 1),
    "parameter-problem": (4, 0, 0xFF),
    "bad-header": (4, 0, 0),
    "unknown-header-type": (4, 1, 1),
    "unknown-option": (4, 2, 2),
    "echo-request": (128, 0, 0xFF),
    "ping": (128, 0, 0xFF),
    "echo-reply": (129, 0, 0xFF),
    "pong": (129, 0, 0xFF),
    "router-solicitation": (133, 0, 0xFF),
    "router-advertisement": (134, 0, 0xFF),
    "neighbour-solicitation": (135, 0, 0xFF),
    "neighbor-solicitation": (135, 0, 0xFF),
    "neighbour-advertisement": (136, 0, 0xFF),
    "neighbor-advertisement": (136, 0, 0xFF),
    "redirect": (137, 0, 0xFF),
}


def _read(text: str, _context: Context) -> tuple[int, int, int]:
    return to_icmp_type(text, _TYPES)


def _build(given: Given) -> Icmp6Match:
    icmp_type, first, last = given.get("icmpv6-type")
    return Icmp6Match(icmp_type, first, last, "icmpv6-type" in given.inverted)


EXTENSIONS = (
    Extension("icmp6", _build, (Option("icmpv6-type", _read, invertible=True, mandatory=True),), Family.IPV6),
)
