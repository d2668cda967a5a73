"""``-m sctp`` (net/netfilter/xt_sctp.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, choice, ports_text, rising_port_range
from pktsim.netfilter.ruleset import Match
from pktsim.netfilter.values import PortRange


class ChunkMatch(enum.IntEnum):
    """``SCTP_CHUNK_MATCH_*`` (include/uapi/linux/netfilter/xt_sctp.h)."""

    ANY = 1
    ALL = 2
    ONLY = 4


@dataclass(frozen=True, slots=True)
class ChunkFlags:
    """What one chunk type's flags must be: ``flags & mask == value``."""

    chunk_type: int
    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class SctpMatch(Match):
    """Ports are ``None`` where not said; ``chunk_types`` is a set of chunk type numbers, in rising order."""

    extension: ClassVar[str] = "sctp"
    protocols: ClassVar[frozenset[int]] = frozenset({132})

    src_ports: PortRange | None = None
    src_ports_inverted: bool = False
    dst_ports: PortRange | None = None
    dst_ports_inverted: bool = False
    chunk_match: ChunkMatch | None = None
    chunk_types: tuple[int, ...] = ()
    chunk_flags: tuple[ChunkFlags, ...] = ()
    chunks_inverted: bool = False

    def options_text(self) -> str:
        text = ports_text("sport", self.src_ports, self.src_ports_inverted)
        text += ports_text("dport", self.dst_ports, self.dst_ports_inverted)
        if self.chunk_match is not None:
            text += f"{' !' if self.chunks_inverted else ''} --chunk-types {self.chunk_match.name.lower()}"
            text += f" {self._chunks_text()}"
        return text

    def _chunks_text(self) -> str:
        if not self.chunk_types:
            return "NONE"
        if len(self.chunk_types) == 256:
            return "ALL"
        flags = {one.chunk_type: one for one in self.chunk_flags}
        return ",".join(_chunk_text(number, flags.get(number)) for number in self.chunk_types)


#: Chunk types by name, and the letters of their flags from bit 7 down; ``-`` has no name (RFC 9260, section 3.2).
_CHUNKS: dict[str, tuple[int, str]] = {
    "DATA": (0, "----IUBE"),
    "INIT": (1, "--------"),
    "INIT_ACK": (2, "--------"),
    "SACK": (3, "--------"),
    "HEARTBEAT": (4, "--------"),
    "HEARTBEAT_ACK": (5, "--------"),
    "ABORT": (6, "-------T"),
    "SHUTDOWN": (7, "--------"),
    "SHUTDOWN_ACK": (8, "--------"),
    "ERROR": (9, "--------"),
    "COOKIE_ECHO": (10, "--------"),
    "COOKIE_ACK": (11, "--------"),
    "ECN_ECNE": (12, "--------"),
    "ECN_CWR": (13, "--------"),
    "SHUTDOWN_COMPLETE": (14, "-------T"),
    "I_DATA": (64, "----IUBE"),
    "RE_CONFIG": (130, "--------"),
    "PAD": (132, "--------"),
    "ASCONF": (193, "--------"),
    "ASCONF_ACK": (128, "--------"),
    "FORWARD_TSN": (192, "--------"),
    "I_FORWARD_TSN": (194, "--------"),
}
_CHUNK_NAMES = {number: (name, letters) for name, (number, letters) in _CHUNKS.items()}


def _chunk_text(number: int, flags: ChunkFlags | None) -> str:
    name, letters = _CHUNK_NAMES[number]
    if flags is None or not flags.mask:
        return name
    shown = (
        letter if flags.value & (0x80 >> at) else letter.lower()
        for at, letter in enumerate(letters)
        if flags.mask & (0x80 >> at)
    )
    return f"{name}:{''.join(shown)}"


def _read_chunks(text: str, _context: Context) -> tuple[tuple[int, ...], tuple[ChunkFlags, ...]]:
    if text.upper() in ("ALL", "NONE"):
        return (tuple(range(256)) if text.upper() == "ALL" else ()), ()
    types: set[int] = set()
    flags: dict[int, ChunkFlags] = {}
    for part in text.split(","):
        name, _, wanted = part.partition(":")
        known = _CHUNKS.get(name.upper())
        if known is None:
            raise BadValue(f"unknown SCTP chunk {name!r}", f"use a comma-separated list of {', '.join(_CHUNKS)}")
        number, letters = known
        types.add(number)
        mask = value = 0
        for letter in wanted:
            at = letters.find(letter.upper())
            if at < 0 or letter == "-":
                raise BadValue(f"SCTP chunk {name} has no flag {letter!r}")
            mask |= 0x80 >> at
            value |= 0x80 >> at if letter.isupper() else 0
        if mask:
            flags[number] = ChunkFlags(number, mask, value)
    return tuple(sorted(types)), tuple(flags[number] for number in sorted(flags))


def _build(given: Given) -> SctpMatch:
    inverted = given.inverted
    ports = (given.get("sport"), "sport" in inverted, given.get("dport"), "dport" in inverted)
    if "chunk-types" not in given:
        return SctpMatch(*ports)
    how, (types, flags) = given.get("chunk-types")
    return SctpMatch(*ports, ChunkMatch[how], types, flags, "chunk-types" in inverted)


EXTENSIONS = (
    Extension(
        "sctp",
        _build,
        (
            Option("sport", rising_port_range(132), aliases=("source-port",), invertible=True),
            Option("dport", rising_port_range(132), aliases=("destination-port",), invertible=True),
            Option("chunk-types", choice("ANY", "ALL", "ONLY"), _read_chunks, invertible=True),
        ),
    ),
)
