"""``-m udp`` (net/netfilter/xt_tcpudp.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, port_range, ports_text
from pktsim.netfilter.ruleset import Match
from pktsim.netfilter.values import PortRange, said_ports


@dataclass(frozen=True, slots=True)
class UdpMatch(Match):
    """Ports are ``None`` where not said."""

    extension: ClassVar[str] = "udp"
    protocols: ClassVar[frozenset[int]] = frozenset({17})

    src_ports: PortRange | None = None
    src_ports_inverted: bool = False
    dst_ports: PortRange | None = None
    dst_ports_inverted: bool = False

    def options_text(self) -> str:
        text = ports_text("sport", self.src_ports, self.src_ports_inverted)
        return text + ports_text("dport", self.dst_ports, self.dst_ports_inverted)


def _build(given: Given) -> UdpMatch:
    return UdpMatch(
        *said_ports(given.get("sport"), "sport" in given.inverted),
        *said_ports(given.get("dport"), "dport" in given.inverted),
    )


EXTENSIONS = (
    Extension(
        "udp",
        _build,
        (
            Option("sport", port_range, aliases=("source-port",), invertible=True),
            Option("dport", port_range, aliases=("destination-port",), invertible=True),
        ),
    ),
)
