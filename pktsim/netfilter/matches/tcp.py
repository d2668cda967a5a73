"""``-m tcp`` (net/netfilter/xt_tcpudp.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, number, ports_text, rising_port_range
from pktsim.netfilter.ruleset import Match
from pktsim.netfilter.values import PortRange, said_ports


class TcpFlag(enum.IntFlag):
    """The flags byte of a TCP header, as far as ``--tcp-flags`` names it."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20


@dataclass(frozen=True, slots=True)
class TcpMatch(Match):
    """Ports are ``None`` where not said. ``flags_mask`` 0 with ``flags_inverted`` off means flags are not looked at."""

    extension: ClassVar[str] = "tcp"
    protocols: ClassVar[frozenset[int]] = frozenset({6})

    src_ports: PortRange | None = None
    src_ports_inverted: bool = False
    dst_ports: PortRange | None = None
    dst_ports_inverted: bool = False
    option: int = 0  # --tcp-option; 0 means not said
    option_inverted: bool = False
    flags_mask: int = 0
    flags_set: int = 0
    flags_inverted: bool = False

    def options_text(self) -> str:
        text = ports_text("sport", self.src_ports, self.src_ports_inverted)
        text += ports_text("dport", self.dst_ports, self.dst_ports_inverted)
        if self.option:
            text += f"{' !' if self.option_inverted else ''} --tcp-option {self.option}"
        if self.flags_mask or self.flags_inverted:
            text += f"{' !' if self.flags_inverted else ''} --tcp-flags"
            text += f" {_flags_text(self.flags_mask)} {_flags_text(self.flags_set)}"
        return text


_FLAGS = {str(flag.name): int(flag) for flag in TcpFlag}
_FLAG_NAMES = {**_FLAGS, "ALL": 0x3F, "NONE": 0}
_SYN = (TcpFlag.SYN | TcpFlag.RST | TcpFlag.ACK | TcpFlag.FIN, TcpFlag.SYN)


def _flags_text(flags: int) -> str:
    return ",".join(name for name, bit in _FLAGS.items() if flags & bit) or "NONE"


def _read_flags(text: str, _context: Context) -> int:
    flags = 0
    for part in text.split(","):
        bit = _FLAG_NAMES.get(part.upper())
        if bit is None and part:
            raise BadValue(f"unknown TCP flag {part!r}", f"use a comma-separated list of {', '.join(_FLAG_NAMES)}")
        flags |= bit or 0
    return flags


def _build(given: Given) -> TcpMatch:
    inverted = given.inverted
    mask, flags = _SYN if "syn" in given else given.get("tcp-flags", (0, 0))
    return TcpMatch(
        *said_ports(given.get("sport"), "sport" in inverted),
        *said_ports(given.get("dport"), "dport" in inverted),
        given.get("tcp-option", 0),
        "tcp-option" in inverted,
        int(mask),
        int(flags),
        "syn" in inverted or "tcp-flags" in inverted,
    )


EXTENSIONS = (
    Extension(
        "tcp",
        _build,
        (
            Option("sport", rising_port_range(6), aliases=("source-port",), invertible=True),
            Option("dport", rising_port_range(6), aliases=("destination-port",), invertible=True),
            Option("syn", invertible=True, excludes=("tcp-flags",)),
            Option("tcp-flags", _read_flags, _read_flags, invertible=True),
            Option("tcp-option", number(1, 255), invertible=True),
        ),
    ),
)
