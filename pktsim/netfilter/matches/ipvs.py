"""``-m ipvs``: whether IPVS handles the packet, and how (net/netfilter/xt_ipvs.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.matches.conntrack import Direction
from pktsim.netfilter.option import (
    BadValue,
    Context,
    Extension,
    Given,
    Option,
    choice,
    host_mask,
    host_mask_text,
    looked_up_port,
    protocol,
)
from pktsim.netfilter.ruleset import MaskedAddress, Match


@dataclass(frozen=True, slots=True)
class IpvsMatch(Match):
    """``ipvs`` alone asks whether there is an IPVS connection; everything else implies it. ``None``: not said."""

    extension: ClassVar[str] = "ipvs"

    ipvs: bool = True
    protocol: int | None = None
    protocol_inverted: bool = False
    address: MaskedAddress | None = None
    address_inverted: bool = False
    port: int | None = None
    port_inverted: bool = False
    direction: Direction | None = None
    method: str | None = None  # GATE, IPIP or MASQ
    method_inverted: bool = False
    control_port: int | None = None
    control_port_inverted: bool = False

    def options_text(self) -> str:
        text = ""
        if self.protocol is not None:
            text += _said("vproto", str(self.protocol), self.protocol_inverted)
        if self.address is not None:
            text += _said("vaddr", host_mask_text(self.address), self.address_inverted)
        if self.port is not None:
            text += _said("vport", str(self.port), self.port_inverted)
        if self.direction is not None:
            text += f" --vdir {self.direction.name}"
        if self.method is not None:
            text += _said("vmethod", self.method, self.method_inverted)
        if self.control_port is not None:
            text += _said("vportctl", str(self.control_port), self.control_port_inverted)
        return text or (" --ipvs" if self.ipvs else " ! --ipvs")


def _said(option: str, value: str, inverted: bool) -> str:
    return f" ! --{option} {value}" if inverted else f" --{option} {value}"


def _read_port(text: str, _context: Context) -> int:
    return looked_up_port(text)


def _build(given: Given) -> IpvsMatch:
    if not given.values:
        raise BadValue("ipvs: at least one option is required", "add --ipvs")
    inverted = given.inverted
    if "ipvs" in inverted and len(given.values) > 1:
        raise BadValue("ipvs: ! --ipvs goes with no other option")
    return IpvsMatch(
        "ipvs" not in inverted,
        given.get("vproto"),
        "vproto" in inverted,
        given.get("vaddr"),
        "vaddr" in inverted,
        given.get("vport"),
        "vport" in inverted,
        Direction[given.get("vdir")] if "vdir" in given else None,
        given.get("vmethod"),
        "vmethod" in inverted,
        given.get("vportctl"),
        "vportctl" in inverted,
    )


EXTENSIONS = (
    Extension(
        "ipvs",
        _build,
        (
            Option("ipvs", invertible=True),
            Option("vproto", protocol, invertible=True),
            Option("vaddr", host_mask, invertible=True),
            Option("vport", _read_port, invertible=True),
            Option("vdir", choice("ORIGINAL", "REPLY")),
            Option("vmethod", choice("GATE", "IPIP", "MASQ"), invertible=True),
            Option("vportctl", _read_port, invertible=True),
        ),
    ),
)
