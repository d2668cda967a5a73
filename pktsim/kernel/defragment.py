"""Putting IPv4 fragments together: net/ipv4/ip_fragment.c and inet_fragment.c of Linux 6.18.

Fragments that overlap without being repetitions destroy the whole queue; queues die after ``ipfrag_time``, and
whoever sent the first fragment is told if the packet was for us.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pktsim._fastpath import Packet
from pktsim.clock import HZ
from pktsim.kernel.ip import IP_DF, IP_MF, IP_OFFSET_MASK, with_header
from pktsim.kernel.neighbour import packet_truesize
from pktsim.kernel.timer_wheel import TimerWheel, WheelTimer
from pktsim.netfilter.opcodes import DropReason

_MAX_PACKET: Final = 65535

#: ``ip_frag_ecn_table`` by the set of ECN values seen (bit n for value n): ECN bits to set, or None to drop the packet.
_NOT_ECT, _ECT_1, _ECT_0, _CE = 1, 2, 4, 8


def ecn_verdict(seen: int) -> int | None:
    """RFC 3168 section 5.3: CE survives, but never beside a fragment that was not capable of it."""
    if seen & _CE and seen != _CE:
        return None if seen & _NOT_ECT else 3
    if seen & _NOT_ECT and seen & (_ECT_0 | _ECT_1):
        return None
    return 0


class DefragUser(enum.IntEnum):
    """``enum ip_defrag_users``: each gathers on its own."""

    LOCAL_DELIVER = 0
    CONNTRACK_IN = 1
    CONNTRACK_OUT = 2
    CONNTRACK_BRIDGE_IN = 3


@dataclass(frozen=True, slots=True)
class Reassembled:
    """A whole packet again.

    Attributes:
        first: The fragment with the offset 0, whose frame and route are the whole's.
        data: From the IP header on.
        largest: Bytes of the largest fragment, header included: what it may leave in.
        payload_sizes: Payload bytes of each fragment, in order of offset.
        cramped: A later fragment had a shorter header than the first, so that there is no room for that in front of it.
    """

    first: Packet
    data: bytes
    largest: int
    payload_sizes: tuple[int, ...]
    cramped: bool = False


@dataclass(slots=True)
class _Fragment:
    offset: int
    payload: bytes
    header_length: int


@dataclass(slots=True)
class Queue:
    """``struct ipq``."""

    timer: WheelTimer | None = None
    fragments: list[_Fragment] = field(default_factory=list)  # by offset
    runs: list[tuple[int, int]] = field(default_factory=list)  # what is there without gaps
    first: Packet | None = None  # the fragment with offset 0, for its header and for an error about it
    packets: list[Packet] = field(default_factory=list)  # all that wait, in the order in which they came
    header: bytes = b""
    length: int = 0
    last_in: bool = False
    ecn: int = 0
    max_size: int = 0
    max_df_size: int = 0
    memory: int = 0
    rid: int = 0

    def cramped(self) -> bool:
        return any(fragment.header_length < len(self.header) for fragment in self.fragments)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one fragment says.

    Attributes:
        header: What is in front of its payload.
        ecn: Its two bits.
        size: Of the whole fragment, as it arrived.
        df: Whether it must not be cut further (IPv4).
    """

    offset: int
    end: int
    more: bool
    payload: bytes
    header: bytes
    ecn: int
    size: int
    df: bool = False


def pulled(sizes: tuple[int, ...], read: int) -> tuple[int, ...]:
    """The pieces of a payload once its first ``read`` bytes are in one (``__pskb_pull_tail``); none if all of it is.

    Who wants to read more than there is gets nothing, and nothing moves (``pskb_may_pull``).
    """
    if read <= sizes[0] or read > sum(sizes):
        return sizes
    left = read
    for index, size in enumerate(sizes):
        if left < size:
            return (read, size - left, *sizes[index + 1 :])
        left -= size
        if not left and index + 1 < len(sizes):
            return (read, *sizes[index + 1 :])
    return ()


class DiscardQueue(Exception):
    """The fragment overlaps what is there: all of it is worthless."""


class Contradiction(DiscardQueue):
    """The fragment is empty, or ends where the packet cannot, as others say."""


_Key = tuple[int, int, bytes]


def _piece(data: bytes) -> Piece:
    """Read an IPv4 fragment; one that others follow is taken in units of eight bytes."""
    header_length = (data[0] & 15) * 4
    frag_off = int.from_bytes(data[6:8], "big")
    offset = (frag_off & IP_OFFSET_MASK) * 8
    end = offset + len(data) - header_length
    more = bool(frag_off & IP_MF)
    if more:
        end &= ~7
    header = data[:header_length]
    size = end - offset + header_length
    return Piece(offset, end, more, data[header_length:], header, data[1] & 3, size, bool(frag_off & IP_DF))


class Defragmenter:
    """The fragment queues of one namespace.

    Args:
        wheel: For their time-outs.
        setting: Reads ``net.ipv4.NAME``.
        expired: Told of a queue that timed out and whose first fragment is there, before that is dropped.
        drop: Told of each fragment that had waited and goes no further, and why.
    """

    def __init__(
        self,
        wheel: TimerWheel,
        setting: Callable[[str], int],
        expired: Callable[[Packet, DefragUser], None],
        drop: Callable[[Packet, DropReason], None],
    ) -> None:
        self._wheel = wheel
        self._setting = setting
        self._expired = expired
        self._drop = drop
        self._queues: dict[_Key, Queue] = {}
        self._memory = 0
        self._peer_rids: dict[bytes, int] = {}
        #: Why the last fragment goes no further; ``None`` if it waits for others, or has made something whole.
        self.reason: DropReason | None = None

    def __len__(self) -> int:
        return len(self._queues)

    def add(self, packet: Packet, user: DefragUser, zone: int = 0) -> Reassembled | None:
        """Take one fragment (``ip_defrag``).

        Args:
            packet: The fragment.
            user: Who gathers.
            zone: Its conntrack zone, for conntrack's users.

        Returns:
            The whole packet if this was the piece that was missing.
        """
        data = packet.data
        key = (user, zone, data[4:6] + data[9:10] + data[12:20])
        queue = self._open(key, user, high="ipfrag_high_thresh", timeout="ipfrag_time")
        if queue is None:
            return None
        if self._too_far(queue, data[12:16]):
            self._empty(queue)
        return self._finish(key, queue, packet, _piece(data))

    def _open(self, key: _Key, user: DefragUser, *, high: str, timeout: str) -> Queue | None:
        """``inet_frag_find``: the queue, a new one if there is none; ``None`` if there is too much in all already."""
        queue = self._queues.get(key)
        self.reason = DropReason.FRAGMENT_BAD
        if queue is None:
            if self._memory > self._setting(high):
                self.reason = DropReason.FRAG_MEMORY
                return None
            queue = self._queues[key] = Queue()
            queue.timer = self._wheel.after(self._setting(timeout) * HZ, lambda: self._expire(key, user))
        return queue

    def _finish(self, key: _Key, queue: Queue, packet: Packet, piece: Piece) -> Reassembled | None:
        """Put a fragment where it belongs; the whole packet if nothing is missing any more."""
        try:
            complete = self._insert(queue, packet, piece)
        except DiscardQueue as reason:
            if not (isinstance(reason, Contradiction) and self._survives_contradiction(key)):
                self._kill(key)
            return None
        if not complete:
            if self.reason is None:
                queue.packets.append(packet)
            return None
        whole = self._put_together(queue)
        if whole is not None:
            queue.packets.clear()
        else:
            self.reason = DropReason.FRAGMENT_BAD
        self._kill(key)
        return whole

    def _survives_contradiction(self, key: _Key) -> bool:
        """Whether only the fragment goes, not what was gathered before it."""
        return False

    def _too_far(self, queue: Queue, source: bytes) -> bool:
        """``ip_frag_too_far``: so many other fragments came from there meanwhile that the id has probably wrapped."""
        limit = self._setting("ipfrag_max_dist")
        if not limit:
            return False
        start = queue.rid
        self._peer_rids[source] = queue.rid = self._peer_rids.get(source, 0) + 1
        return bool(queue.fragments) and queue.rid - start > limit

    def _empty(self, queue: Queue) -> None:
        """``ip_frag_reinit``."""
        self._memory -= queue.memory
        self._drop_all(queue, DropReason.FRAG_TOO_FAR)
        timer = queue.timer
        rid = queue.rid
        queue.__init__()  # type: ignore[misc]
        queue.timer = timer
        queue.rid = rid

    def _kill(self, key: _Key) -> None:
        queue = self._queues.pop(key)
        self._memory -= queue.memory
        if queue.timer is not None:
            queue.timer.cancel()
        self._drop_all(queue, DropReason.FRAGMENT_BAD)

    def _drop_all(self, queue: Queue, reason: DropReason) -> None:
        for packet in queue.packets:
            self._drop(packet, reason)

    def _expire(self, key: _Key, user: DefragUser) -> None:
        """``ip_expire``."""
        queue = self._queues.pop(key)
        self._memory -= queue.memory
        if queue.first is not None:
            self._expired(queue.first, user)
        self._drop_all(queue, DropReason.FRAG_REASM_TIMEOUT)

    def _insert(self, queue: Queue, packet: Packet, piece: Piece) -> bool:
        """``ip_frag_queue``. Returns whether nothing is missing any more."""
        offset, end = piece.offset, piece.end
        if not piece.more:
            if end < queue.length or (queue.last_in and end != queue.length):
                raise Contradiction
            queue.last_in = True
            queue.length = end
        else:
            if end > queue.length:
                if queue.last_in:
                    raise Contradiction
                queue.length = end
        if end == offset:
            raise Contradiction
        if not self._insert_run(queue, offset, end):
            self.reason = DropReason.DUP_FRAG
            return False
        fragment = _Fragment(offset, piece.payload[: end - offset], len(piece.header))
        bisect.insort(queue.fragments, fragment, key=lambda each: each.offset)
        self.reason = None
        size = packet_truesize(piece.size)
        queue.memory += size
        self._memory += size
        queue.ecn |= 1 << piece.ecn
        if offset == 0:
            queue.first = packet
            queue.header = piece.header
        whole = piece.size
        queue.max_size = max(queue.max_size, whole)
        if piece.df:
            queue.max_df_size = max(queue.max_df_size, whole)
        return queue.first is not None and queue.last_in and sum(b - a for a, b in queue.runs) == queue.length

    @staticmethod
    def _insert_run(queue: Queue, offset: int, end: int) -> bool:
        """``inet_frag_queue_insert``: whether the fragment is new; one that only repeats is dropped.

        Raises:
            DiscardQueue: It overlaps others (RFC 5722 section 4, which Linux follows for IPv4 too).
        """
        tail_end = max((fragment.offset + len(fragment.payload) for fragment in queue.fragments), default=0)
        if queue.fragments and tail_end < end:
            if offset < tail_end:
                raise DiscardQueue
            if offset == tail_end:
                # fragrun_append_to_last; other neighbouring runs stay apart, and what spans two of them overlaps
                index = max(range(len(queue.runs)), key=lambda each: queue.runs[each][1])
                queue.runs[index] = (queue.runs[index][0], end)
                return True
        for start, stop in queue.runs:
            if end <= start or offset >= stop:
                continue
            if offset >= start and end <= stop:
                return False
            raise DiscardQueue
        queue.runs.append((offset, end))
        return True

    @staticmethod
    def _put_together(queue: Queue) -> Reassembled | None:
        """``ip_frag_reasm``: under the first fragment's header."""
        ecn = ecn_verdict(queue.ecn)
        total = len(queue.header) + queue.length
        assert queue.first is not None
        if ecn is None or total > _MAX_PACKET:
            return None
        header = bytearray(queue.header)
        header[1] |= ecn
        # All fragments of full size had DF: the whole gets it, and so do the fragments it is cut into again.
        df = IP_DF if queue.max_df_size == queue.max_size else 0
        payload = b"".join(fragment.payload for fragment in queue.fragments)
        data = with_header(bytes(header), total_length=total, frag_off=df, header=bytes(header)) + payload
        sizes = tuple(len(fragment.payload) for fragment in queue.fragments)
        return Reassembled(queue.first, data, max(queue.max_size, queue.max_df_size), sizes, queue.cramped())
