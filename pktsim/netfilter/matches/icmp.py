"""``-m icmp`` (net/ipv4/netfilter/ip_tables.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Context, Extension, Given, Option, to_icmp_type
from pktsim.netfilter.ruleset import Family, Match

#: ``--icmp-type any``: a type that no packet has stands for all of them.
ANY_TYPE = 0xFF


@dataclass(frozen=True, slots=True)
class IcmpMatch(Match):
    """``icmp_type`` 255 with codes 0 to 255 is "any"."""

    extension: ClassVar[str] = "icmp"
    protocols: ClassVar[frozenset[int]] = frozenset({1})

    icmp_type: int
    first_code: int = 0
    last_code: int = 0xFF
    inverted: bool = False

    def options_text(self) -> str:
        text = f"{' !' if self.inverted else ''} --icmp-type "
        if self.icmp_type == ANY_TYPE:
            return f"{text}any"
        # The upper end of a range of codes is not printed.
        code = "" if self.first_code == 0 and self.last_code == 0xFF else f"/{self.first_code}"
        return f"{text}{self.icmp_type}{code}"


_TYPES = {
    "any": (0xFF, 0, 0xFF),
    "echo-reply": (0, 0, 0xFF),
    "pong": (0, 0, 0xFF),
    "destination-unreachable": (3, 0, 0xFF),
    "network-unreachable": (3, 0, 0),
    "host-unreachable": (3, 1, 1),
    "protocol-unreachable": (3, 2, 2),
    "port-unreachable": (3, 3, 3),
    "fragmentation-needed": (3, 4, 4),
    "source-route-failed": (3, 5, 5),
    "network-unknown": (3, 6, 6),
    "host-unknown": (3, 7, 7),
    "network-prohibited": (3, 9, 9),
    "host-prohibited": (3, 10, 10),
    "TOS-network-unreachable": (3, 11, 11),
    "TOS-host-unreachable": (3, 12, 12),
    "communication-prohibited": (3, 13, 13),
    "host-precedence-violation": (3, 14, 14),
    "precedence-cutoff": (3, 15, 15),
    "source-quench": (4, 0, 0xFF),
    "redirect": (5, 0, 0xFF),
    "network-redirect": (5, 0, 0),
    "host-redirect": (5, 1, 1),
    "TOS-network-redirect": (5, 2, 2),
    "TOS-host-redirect": (5, 3, 3),
    "echo-request": (8, 0, 0xFF),
    "ping": (8, 0, 0xFF),
    "router-advertisement": (9, 0, 0xFF),
    "router-solicitation": (10, 0, 0xFF),
    "time-exceeded": (11, 0, 0xFF),
    "ttl-exceeded": (11, 0, 0xFF),
    "ttl-zero-during-transit": (11, 0, 0),
    "ttl-zero-during-reassembly": (11, 1, 1),
    "parameter-problem": (12, 0, 0xFF),
    "ip-header-bad": (12, 0, 0),
    "required-option-missing": (12, 1, 1),
    "timestamp-request": (13, 0, 0xFF),
    "timestamp-reply": (14, 0, 0xFF),
    "address-mask-request": (17, 0, 0xFF),
    "address-mask-reply": (18, 0, 0xFF),
}


def _read(text: str, _context: Context) -> tuple[int, int, int]:
    return to_icmp_type(text, _TYPES)


def _build(given: Given) -> IcmpMatch:
    icmp_type, first, last = given.get("icmp-type")
    return IcmpMatch(icmp_type, first, last, "icmp-type" in given.inverted)


EXTENSIONS = (Extension("icmp", _build, (Option("icmp-type", _read, invertible=True, mandatory=True),), Family.IPV4),)
