"""Connection tracking entries as Python values, and their text as ``conntrack`` prints it.

The table itself is the engine's (``includes/conntrack.pxi``); this is a view on it. Text follows conntrack-tools 1.4.7
with libnetfilter_conntrack's default output.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pktsim.clock import NS_PER_S
from pktsim.netfilter.conntrack_sctp import SctpState
from pktsim.netfilter.conntrack_tcp import TcpState
from pktsim.netfilter.opcodes import CtStatus
from pktsim.wire.addr import ip_to_text

PROTO_ICMP: Final = 1
PROTO_TCP: Final = 6
PROTO_UDP: Final = 17
PROTO_GRE: Final = 47
PROTO_ICMPV6: Final = 58
PROTO_SCTP: Final = 132
PROTO_UDPLITE: Final = 136

#: What the tool calls protocols; the others it calls unknown.
PROTO_NAMES: Final[dict[int, str]] = {
    PROTO_ICMP: "icmp",
    PROTO_TCP: "tcp",
    PROTO_UDP: "udp",
    PROTO_GRE: "gre",
    PROTO_ICMPV6: "icmpv6",
    PROTO_SCTP: "sctp",
    PROTO_UDPLITE: "udplite",
}
_PORTS: Final = (PROTO_TCP, PROTO_UDP, PROTO_SCTP, PROTO_UDPLITE)
_FAMILY_NAMES: Final = {2: "ipv4", 10: "ipv6"}


class ZoneDirection(enum.IntFlag):
    """``NF_CT_ZONE_DIR_*``: in which directions a zone counts (include/net/netfilter/nf_conntrack_zones.h)."""

    ORIGINAL = 1
    REPLY = 2
    BOTH = 3


@dataclass(frozen=True, slots=True)
class ConntrackTuple:
    """One direction of a flow. GRE has its keys in the ports; ICMP its id in ``sport``, type and code in ``dport``."""

    src: bytes
    dst: bytes
    sport: int
    dport: int

    @property
    def icmp_id(self) -> int:
        return self.sport

    @property
    def icmp_type(self) -> int:
        return self.dport >> 8

    @property
    def icmp_code(self) -> int:
        return self.dport & 0xFF

    def text(self, proto: int) -> str:
        """As the tool prints it: ``src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80``."""
        text = f"src={ip_to_text(self.src)} dst={ip_to_text(self.dst)}"
        if proto in _PORTS:
            return f"{text} sport={self.sport} dport={self.dport}"
        if proto in (PROTO_ICMP, PROTO_ICMPV6):
            return f"{text} type={self.icmp_type} code={self.icmp_code} id={self.icmp_id}"
        if proto == PROTO_GRE:
            return f"{text} srckey=0x{self.sport:x} dstkey=0x{self.dport:x}"
        return text


@dataclass(frozen=True, slots=True)
class Counter:
    """Packets and bytes (of whole IP packets) of one direction."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One flow.

    Attributes:
        id: Unique within the namespace, in order of creation.
        family: ``AF_INET`` (2) or ``AF_INET6`` (10).
        proto: IP protocol number.
        orig: The first packet as it came in.
        reply: What answers look like before they are translated back.
        status: ``IPS_*``.
        timeout_ns: Nanoseconds left.
        timeout_set_ns: What the timeout was when it was last set.
        start_ns: When the entry was confirmed.
        mark: The connmark.
        zone: 0 is the default zone.
        zone_direction: Where ``zone`` counts.
        use: References: the table's and one per packet under way.
        state: ``TcpState`` or ``SctpState``; -1 for other protocols.
        flags: TCP: ``conntrack_tcp.FLAG_*`` of the original and the reply side.
        wscale: TCP: window scale of both sides.
        vtag: SCTP: verification tags of both directions.
        acct: Counters of both directions, if accounting was on when the flow began.
    """

    id: int
    family: int
    proto: int
    orig: ConntrackTuple
    reply: ConntrackTuple
    status: CtStatus
    timeout_ns: int
    timeout_set_ns: int = 0
    start_ns: int = 0
    mark: int = 0
    zone: int = 0
    zone_direction: ZoneDirection = ZoneDirection.BOTH
    use: int = 1
    state: int = -1
    flags: tuple[int, int] = (0, 0)
    wscale: tuple[int, int] = (0, 0)
    vtag: tuple[int, int] = (0, 0)
    acct: tuple[Counter, Counter] | None = None

    @classmethod
    def from_engine(cls, values: dict[str, Any]) -> Entry:
        """One item of ``Datapath.conntrack_list``."""
        acct = values["acct"]
        return cls(
            id=values["id"],
            family=values["family"],
            proto=values["proto"],
            orig=ConntrackTuple(*values["orig"]),
            reply=ConntrackTuple(*values["reply"]),
            status=CtStatus(values["status"]),
            timeout_ns=values["timeout_ns"],
            timeout_set_ns=values["timeout_set_ns"],
            start_ns=values["start_ns"],
            mark=values["mark"],
            zone=values["zone"],
            zone_direction=ZoneDirection(values["zone_dir"]),
            use=values["use"],
            state=values["state"],
            flags=values["flags"],
            wscale=values["wscale"],
            vtag=values["vtag"],
            acct=None if acct is None else (Counter(acct[0], acct[1]), Counter(acct[2], acct[3])),
        )

    def to_engine(self) -> dict[str, Any]:
        """For ``Datapath.conntrack_insert``; id, use, start and counters are the engine's to give."""
        return {
            "family": self.family,
            "proto": self.proto,
            "orig": (self.orig.src, self.orig.dst, self.orig.sport, self.orig.dport),
            "reply": (self.reply.src, self.reply.dst, self.reply.sport, self.reply.dport),
            "status": int(self.status),
            "timeout_ns": self.timeout_ns,
            "mark": self.mark,
            "zone": self.zone,
            "zone_dir": int(self.zone_direction),
            "state": self.state,
            "flags": self.flags,
            "wscale": self.wscale,
            "vtag": self.vtag,
        }

    @property
    def state_name(self) -> str:
        """The TCP or SCTP state's name, or nothing."""
        if self.state < 0:
            return ""
        if self.proto == PROTO_TCP:
            return TcpState(self.state).name
        if self.proto == PROTO_SCTP:
            return SctpState(self.state).name
        return ""

    @property
    def timeout_s(self) -> int:
        """Whole seconds left, as they are shown."""
        return max(self.timeout_ns // NS_PER_S, 0)

    @property
    def source_translated(self) -> bool:
        """Whether answers go to another address than the first packet's source (``-n``)."""
        return bool(self.status & CtStatus.SRC_NAT_DONE) and self.reply.dst != self.orig.src

    @property
    def destination_translated(self) -> bool:
        """Whether answers come from another address than the first packet's destination (``-g``)."""
        return bool(self.status & CtStatus.DST_NAT_DONE) and self.reply.src != self.orig.dst

    def text(self, *, extended: bool = False, show_id: bool = False) -> str:
        """One line of ``conntrack -L``, with ``-o extended`` or ``-o id``."""
        words = [f"{PROTO_NAMES.get(self.proto, 'unknown'):<8} {self.proto} {self.timeout_s}"]
        if extended:
            words.insert(0, f"{_FAMILY_NAMES[self.family]:<8} {self.family}")
        if self.state_name:
            words.append(self.state_name)
        words.append(self._side(self.orig, ZoneDirection.ORIGINAL, "zone-orig", 0))
        if not self.status & CtStatus.SEEN_REPLY:
            words.append("[UNREPLIED]")
        words.append(self._side(self.reply, ZoneDirection.REPLY, "zone-reply", 1))
        if self.status & CtStatus.ASSURED:
            words.append("[ASSURED]")
        words.append(f"mark={self.mark}")
        if self.zone and self.zone_direction == ZoneDirection.BOTH:
            words.append(f"zone={self.zone}")
        words.append(f"use={self.use}")
        if show_id:
            words.append(f"id={self.id}")
        return " ".join(words)

    def _side(self, side: ConntrackTuple, direction: ZoneDirection, zone_word: str, index: int) -> str:
        words = [side.text(self.proto)]
        if self.zone and self.zone_direction == direction:
            words.append(f"{zone_word}={self.zone}")
        if self.acct is not None:
            words.append(f"packets={self.acct[index].packets} bytes={self.acct[index].bytes}")
        return " ".join(words)


class EntryFilter(Protocol):
    """What chooses entries: ``conntrack_filter.ConntrackFilter`` or anything with the same question."""

    def matches(self, entry: Entry) -> bool: ...


class ConntrackEngine(Protocol):
    """The part of ``Datapath`` that is needed here."""

    def conntrack_list(self, now_ns: int) -> list[dict[str, Any]]: ...
    def conntrack_insert(self, entry: dict[str, Any], now_ns: int) -> int: ...
    def conntrack_delete(self, entry_id: int) -> bool: ...
    def conntrack_flush(self) -> None: ...
    def conntrack_stats(self) -> dict[str, int]: ...


class ConntrackTable:
    """A namespace's entries, with the verbs of the ``conntrack`` command."""

    def __init__(self, engine: ConntrackEngine) -> None:
        self._engine = engine

    def entries(self, now_ns: int, chosen: EntryFilter | None = None) -> list[Entry]:
        """Live entries in the order in which they were confirmed (``-L``)."""
        listed = (Entry.from_engine(values) for values in self._engine.conntrack_list(now_ns))
        return [entry for entry in listed if chosen is None or chosen.matches(entry)]

    def insert(self, entry: Entry, now_ns: int) -> int:
        """Add an entry (``-I``).

        Returns:
            Its id.

        Raises:
            ValueError: One of its tuples is taken, or the table is full.
        """
        return self._engine.conntrack_insert(entry.to_engine(), now_ns)

    def delete(self, now_ns: int, chosen: EntryFilter | None = None) -> list[Entry]:
        """Remove the chosen entries (``-D``); without a filter all of them.

        Returns:
            What was removed.
        """
        return [entry for entry in self.entries(now_ns, chosen) if self._engine.conntrack_delete(entry.id)]

    def flush(self) -> None:
        """Remove every entry (``-F``)."""
        self._engine.conntrack_flush()

    def count(self) -> int:
        """How many entries exist, expired ones that nothing has met yet included (``-C``)."""
        return self._engine.conntrack_stats()["entries"]

    def stats(self) -> dict[str, int]:
        """Counters as in ``/proc/net/stat/nf_conntrack``, summed over the processors."""
        return self._engine.conntrack_stats()


#: The counters that ``conntrack -S`` shows, in its order.
_STATS: Final = (
    "found",
    "invalid",
    "insert",
    "insert_failed",
    "drop",
    "early_drop",
    "error",
    "search_restart",
    "clash_resolve",
    "chaintoolong",
)


def list_text(entries: Iterable[Entry], *, extended: bool = False, show_id: bool = False) -> str:
    """What ``conntrack -L`` writes to its standard output."""
    return "".join(f"{entry.text(extended=extended, show_id=show_id)}\n" for entry in entries)


def summary_text(number: int, done: str = "shown") -> str:
    """The line that ``conntrack`` writes to its standard error: ``done`` is shown, deleted, created or updated."""
    return f"conntrack v1.4.7 (conntrack-tools): {number} flow entries have been {done}.\n"


def stats_text(stats: dict[str, int]) -> str:
    """``conntrack -S`` of a machine with one processor."""
    return f"cpu=0   \t{''.join(f'{name}={stats[name]} ' for name in _STATS)}\n"
