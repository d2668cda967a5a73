"""Bulk transfers, made comparable: what their pace decides is taken out, what it cannot change is kept.

Once a connection has carried more than the first receive window, its pace depends on when the reading process gets its
turn: how many pure ACKs there are and where, the windows they offer, where segments end, whether a tail loss probe goes
out. What must be equal all the same: the bytes, the size of full segments, every header field that is not about
progress, how the connection begins and ends, and all that travels in the other direction but pure ACKs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pktsim.cluster.comparison_types import Difference, Seen
from pktsim.wire.fields import Dissection, Field, dissect

#: More than any window that a socket offers at first.
BULK_BYTES = 1 << 16
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_U32 = 0xFFFF_FFFF
#: Larger than any frame: bytes that one packet more or less may count.
_LARGEST_PACKET = 1600
#: Addresses and ports, the sender's first.
_Flow = tuple[bytes, bytes, bytes, bytes]
_SEGMENT = ("tcp.srcport", "tcp.dstport", "tcp.seq")
_PROGRESS = frozenset(
    (
        "ip.len",
        "ip.id",
        "ip.checksum",
        "ipv6.plen",
        "udp.length",
        "udp.checksum",
        "tcp.seq",
        "tcp.ack",
        "tcp.hdr_len/flags",
        "tcp.window_size_value",
        "tcp.checksum",
        "tcp.option_kind/len",
        "tcp.payload",
    )
)


@dataclass(slots=True)
class Stream:
    """What one direction of a connection carried past an interface.

    Attributes:
        data: All bytes, each once.
        largest: Payload of the largest segment.
        envelopes: The different headers that the segments had, but for what shows progress.
        ends_after: How many of the frames that are kept came before its FIN; -1 if it did not end. A FIN rides on the
            last data if that was still waiting when the process closed.
    """

    data: bytearray = field(default_factory=bytearray)
    largest: int = 0
    envelopes: set[tuple[bytes, ...]] = field(default_factory=set)
    ends_after: int = -1


@dataclass(slots=True)
class Condensed:
    """Frames of one interface without what pace decides.

    Attributes:
        frames: Each with whether it belongs to a bulk transfer.
        streams: Of the directions that carried much, in the order in which they began.
        left_out: Frames that are not here.
    """

    frames: list[tuple[Seen, bool]] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """A TCP segment in a frame, be it in a tunnel."""

    flow: _Flow
    seq: int
    flags: int
    payload: bytes
    envelope: tuple[bytes, ...]

    @property
    def back(self) -> _Flow:
        source, target, sport, dport = self.flow
        return target, source, dport, sport


def _segment(frame: bytes) -> _Part | None:
    found = dissect(frame)
    for flags in found.named("tcp.hdr_len/flags"):
        if "icmp" in flags.path.split():
            continue
        named = {part.name: part for part in found.fields if part.path == flags.path}
        family = "ip" if "ip.src" in named else "ipv6"
        parts = [
            named.get(name) for name in (f"{family}.src", f"{family}.dst", "tcp.srcport", "tcp.dstport", "tcp.seq")
        ]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        payload = named.get("tcp.payload")
        source, target, sport, dport = (frame[part.start : part.end] for part in known[:4])
        return _Part(
            (source, target, sport, dport),
            found.value(known[4]),
            found.value(flags),
            frame[payload.start : payload.end] if payload is not None else b"",
            _envelope(found),
        )
    return None


def _envelope(found: Dissection) -> tuple[bytes, ...]:
    return tuple(found.frame[part.start : part.end] for part in found.fields if not _about_progress(part))


def _about_progress(part: Field) -> bool:
    return part.name in _PROGRESS or part.name.startswith("tcp.options")


def condense(frames: Iterable[Seen]) -> dict[str, Condensed]:
    """Take out of a run's frames what the pace of bulk transfers decides.

    Returns:
        The rest, by interface.
    """
    by_interface: dict[str, list[tuple[Seen, _Part | None]]] = {}
    for seen in frames:
        by_interface.setdefault(seen.where, []).append((seen, _segment(seen.frame)))
    # Some interfaces see one direction only, so what is bulk is asked of all of them.
    bulk: set[_Flow] = set()
    for parts in by_interface.values():
        carried: dict[tuple[str, _Flow], int] = {}
        for seen, part in parts:
            if part is not None and part.payload:
                key = (seen.direction, part.flow)
                carried[key] = carried.get(key, 0) + len(part.payload)
        bulk |= {flow for (_, flow), count in carried.items() if count >= BULK_BYTES}
    return {where: _condense(parts, bulk) for where, parts in by_interface.items()}


def _condense(parts: Iterable[tuple[Seen, _Part | None]], bulk: Collection[_Flow]) -> Condensed:
    result = Condensed()
    streams: dict[tuple[str, _Flow], tuple[Stream, int]] = {}  # with the next sequence number
    for seen, part in parts:
        if part is None or (part.flow not in bulk and part.back not in bulk):
            result.frames.append((seen, False))
            continue
        key = (seen.direction, part.flow)
        known = streams.get(key)
        if known is not None and part.flags & _FIN and known[0].ends_after < 0:
            known[0].ends_after = len(result.frames)
        if part.flow not in bulk or known is None or part.flags & (_SYN | _RST):
            if not part.payload and part.flags & 0xFF & ~_PSH == _ACK:
                result.left_out += 1
                continue
            result.frames.append((seen, True))
            if part.flow in bulk and part.payload:
                stream = Stream(bytearray(part.payload), len(part.payload), {part.envelope})
                streams[key] = stream, part.seq + len(part.payload) & _U32
                result.streams.append(stream)
            continue
        result.left_out += 1
        if part.payload:
            stream, expected = known
            again = (expected - part.seq) & _U32
            new = part.payload[again:] if again <= len(part.payload) else b""
            stream.data += new
            stream.largest = max(stream.largest, len(part.payload))
            stream.envelopes.add(part.envelope)
            streams[key] = stream, expected + len(new) & _U32
    return result


def compare_streams(where: str, recorded: Sequence[Stream], ours: Sequence[Stream]) -> Difference | None:
    """The first difference between what bulk transfers carried past an interface."""
    for number in range(max(len(recorded), len(ours))):
        if number >= len(recorded) or number >= len(ours):
            return Difference(where, "bulk transfers", str(len(recorded)), str(len(ours)))
        theirs, mine = recorded[number], ours[number]
        for what, real, own in (
            ("bytes", len(theirs.data), len(mine.data)),
            ("largest segment", theirs.largest, mine.largest),
            ("different headers", len(theirs.envelopes), len(mine.envelopes)),
            ("frames before its end", theirs.ends_after, mine.ends_after),
        ):
            if real != own:
                return Difference(where, f"bulk transfer {number + 1}: {what}", str(real), str(own))
        if theirs.data != mine.data:
            at = next(at for at, (real, own) in enumerate(zip(theirs.data, mine.data, strict=True)) if real != own)
            return Difference(where, f"bulk transfer {number + 1}: byte {at}")
    return None


def within(recorded: tuple[int, int], ours: tuple[int, int], slack: int) -> bool:
    """Whether counters of packets and bytes differ by no more than ``slack`` packets that pace decides."""
    return abs(recorded[0] - ours[0]) <= slack and abs(recorded[1] - ours[1]) <= slack * _LARGEST_PACKET


def slack_of(recorded: Mapping[str, Condensed], ours: Mapping[str, Condensed]) -> dict[str, int]:
    """For each space the packets that its counters may differ by: as many as its interfaces had more or fewer of."""
    slack: dict[str, int] = {}
    for where in recorded.keys() & ours.keys():
        more = abs(recorded[where].left_out - ours[where].left_out)
        if more:
            space = where.rpartition("/")[0]
            slack[space] = slack.get(space, 0) + more
    return slack
