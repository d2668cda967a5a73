"""``-m multiport``: up to 15 ports, a range counting as two (net/netfilter/xt_multiport.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, to_port
from pktsim.netfilter.ruleset import Match
from pktsim.netfilter.values import PortRange

#: TCP, UDP, UDP-Lite, SCTP and DCCP.
PROTOCOLS = frozenset({6, 17, 136, 132, 33})

#: ``XT_MULTI_PORTS``.
MAX_PORTS = 15


class MultiportSide(enum.IntEnum):
    """``XT_MULTIPORT_*``: which port is looked at."""

    SOURCE = 0
    DESTINATION = 1
    EITHER = 2


@dataclass(frozen=True, slots=True)
class MultiportMatch(Match):
    """``ports`` in the order written."""

    extension: ClassVar[str] = "multiport"
    protocols: ClassVar[frozenset[int]] = PROTOCOLS

    side: MultiportSide
    ports: tuple[PortRange, ...]
    inverted: bool = False

    def options_text(self) -> str:
        ports = ",".join(map(str, self.ports))
        return f"{' !' if self.inverted else ''} --{_OPTIONS[self.side]} {ports}"


_OPTIONS = {MultiportSide.SOURCE: "sports", MultiportSide.DESTINATION: "dports", MultiportSide.EITHER: "ports"}


def _read(text: str, context: Context) -> tuple[PortRange, ...]:
    if context.protocol not in PROTOCOLS or context.protocol_inverted:
        raise BadValue(
            "multiport needs one of the protocols with ports", "say -p tcp, udp, udplite, sctp or dccp before"
        )
    protocol = context.protocol
    ports: list[PortRange] = []
    slots = 0
    for part in text.split(","):
        first, colon, last = part.partition(":")
        one = PortRange(to_port(first, protocol), to_port(last if colon else first, protocol))
        if colon and one.first >= one.last:
            raise BadValue(f"bad port range {part}", "write the lower port first")
        slots += 2 if colon else 1
        ports.append(one)
    if slots > MAX_PORTS:
        raise BadValue("too many ports", f"use at most {MAX_PORTS}, a range counting as two")
    return tuple(ports)


def _build(given: Given) -> MultiportMatch:
    for side, name in _OPTIONS.items():
        if name in given:
            return MultiportMatch(side, given.get(name), name in given.inverted)
    raise BadValue("multiport: one of --sports, --dports or --ports must be specified")


EXTENSIONS = (
    Extension(
        "multiport",
        _build,
        (
            Option("sports", _read, aliases=("source-ports",), invertible=True, excludes=("dports", "ports")),
            Option("dports", _read, aliases=("destination-ports",), invertible=True, excludes=("ports",)),
            Option("ports", _read, invertible=True),
        ),
    ),
)
