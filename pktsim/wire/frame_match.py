"""Which frames somebody means: a protocol, addresses, ports, flags, a text.

What expectations of scenarios ask of frames, and what a script says that a link does to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from pktsim.wire.addr import ip_to_text
from pktsim.wire.frame import ETH_P_ARP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, FrameView
from pktsim.wire.summary import flags_text, summary

_PROTOCOLS = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_ICMP: "icmp", IPPROTO_ICMPV6: "icmp"}


@dataclass(frozen=True, slots=True)
class FrameMatch:
    """What is not said matches everything.

    Attributes:
        protocol: ``tcp``, ``udp``, ``icmp`` (either family's) or ``arp``.
        src: An IP address; so is ``dst``.
        sport: A TCP or UDP port; so is ``dport``.
        flags: TCP's, all of them, in tcpdump's letters: ``S``, ``S.``, ``P.``.
        ttl: Or hop limit.
        data: Whether there are bytes behind the TCP or UDP header.
        text: A pattern with ``*`` that the frame's summary in tcpdump's manner fits.
    """

    protocol: str = ""
    src: str = ""
    dst: str = ""
    sport: int | None = None
    dport: int | None = None
    flags: str | None = None
    ttl: int | None = None
    data: bool | None = None
    text: str = ""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    def fits(self, frame: bytes) -> bool:
        """Whether an Ethernet frame is one of those that are meant."""
        if self.text and not fnmatchcase(summary(frame), self.text):
            return False
        asks = {
            "protocol": self.protocol or None,
            "src": self.src or None,
            "dst": self.dst or None,
            "sport": self.sport,
            "dport": self.dport,
            "flags": self.flags,
            "ttl": self.ttl,
            "data": self.data,
        }
        if all(value is None for value in asks.values()):
            return True
        seen = _fields(frame)
        return all(value is None or seen.get(name) == value for name, value in asks.items())


def _fields(frame: bytes) -> dict[str, Any]:
    """What a match asks for, as far as the frame has it."""
    view = FrameView(frame)
    if view.ethertype == ETH_P_ARP:
        return {"protocol": "arp"}
    if view.protocol < 0:
        return {}
    seen: dict[str, Any] = {
        "protocol": _PROTOCOLS.get(view.protocol, ""),
        "src": ip_to_text(view.saddr),
        "dst": ip_to_text(view.daddr),
        "ttl": view.ttl,
    }
    if view.has_ports:
        seen |= {"sport": view.sport, "dport": view.dport}
        if view.protocol == IPPROTO_TCP:
            seen["flags"] = flags_text(view.tcp_flags)
        seen["data"] = bool(view.payload)
    return seen
