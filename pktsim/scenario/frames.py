"""Which frames an expectation is about."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from pktsim.kernel.capture import CapturedFrame
from pktsim.scenario.model import FrameExpectation
from pktsim.wire.addr import ip_to_text
from pktsim.wire.frame import ETH_P_ARP, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, FrameView
from pktsim.wire.summary import flags_text, summary


def frame_fits(wanted: FrameExpectation, frame: CapturedFrame) -> bool:
    """Whether a frame is one of those that an expectation is about."""
    if wanted.on and wanted.on not in (frame.where, frame.space):
        return False
    if wanted.direction and wanted.direction != frame.direction:
        return False
    if wanted.text and not fnmatchcase(summary(frame.frame), wanted.text):
        return False
    asks = {name: getattr(wanted, name) for name in ("protocol", "src", "dst", "sport", "dport", "flags", "ttl")}
    if all(value in ("", None) for value in asks.values()):
        return True
    seen = _view(frame.frame)
    return all(value in ("", None) or seen.get(name) == value for name, value in asks.items())


def _view(frame: bytes) -> dict[str, Any]:
    """What expectations ask for, as far as the frame has it."""
    view = FrameView(frame)
    if view.ethertype == ETH_P_ARP:
        return {"protocol": "arp"}
    if view.protocol < 0:
        return {}
    names = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_ICMP: "icmp", 58: "icmp"}
    seen: dict[str, Any] = {
        "protocol": names.get(view.protocol, ""),
        "src": ip_to_text(view.saddr),
        "dst": ip_to_text(view.daddr),
        "ttl": view.ttl,
    }
    if view.has_ports:
        seen |= {"sport": view.sport, "dport": view.dport}
        if view.protocol == IPPROTO_TCP:
            seen["flags"] = flags_text(view.tcp_flags)
    return seen
