"""``-m sctp`` (net/netfilter/xt_sctp.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

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

    src_ports: PortRange | None = None
    src_ports_inverted: bool = False
    dst_ports: PortRange | None = None
    dst_ports_inverted: bool = False
    chunk_match: ChunkMatch | None = None
    chunk_types: tuple[int, ...] = ()
    chunk_flags: tuple[ChunkFlags, ...] = ()
    chunks_inverted: bool = False
