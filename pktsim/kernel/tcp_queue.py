"""What a connection has sent or will send, and what it has received out of order.

Sequence numbers are absolute here: the 32 bits on the wire with the wraps counted, so that they compare as numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pktsim.kernel.tcp_window import HEAD_TRUESIZE


class SendBuffer:
    """One buffer of the write queue: up to a whole burst of segments, sent or not yet.

    Attributes:
        seq: Of its first byte (or of its SYN or FIN).
        flags: Header flags of its last segment.
        sent_at_ns: When it was last transmitted; 0 before.
        sacked: The peer holds it.
        lost: It is thought to be lost, and not sent again yet.
        retransmitted: It is in flight again.
        delivered: How much had been delivered when it was sent first.
        judged: RACK has found it lost, and does not look again until it is sent again (tcp_tsorted_anchor).
        overhead: Memory beside the data.
        retransmissions: How often it was sent again.
    """

    __slots__ = (
        "data",
        "delivered",
        "flags",
        "judged",
        "lost",
        "overhead",
        "retransmissions",
        "retransmitted",
        "sacked",
        "sent_at_ns",
        "seq",
        "syn_fin",
    )

    def __init__(self, seq: int, data: bytes, flags: int, syn_fin: int = 0) -> None:
        self.seq = seq
        self.data = data
        self.flags = flags
        self.syn_fin = syn_fin  # sequence numbers beside the data's
        self.sent_at_ns = 0
        self.sacked = False
        self.lost = False
        self.retransmitted = False
        self.retransmissions = 0
        self.delivered = 0
        self.judged = False
        self.overhead = HEAD_TRUESIZE

    @property
    def end_seq(self) -> int:
        return self.seq + len(self.data) + self.syn_fin

    @property
    def truesize(self) -> int:
        return self.overhead + len(self.data)

    def segments(self, mss: int) -> int:
        """How many segments it makes."""
        return max(-(-len(self.data) // mss), 1)

    def split(self, length: int, keep_flags: int) -> SendBuffer:
        """Cut off everything behind ``length`` bytes; FIN and PSH go with it (tcp_fragment, tso_fragment)."""
        rest = SendBuffer(self.seq + length, self.data[length:], self.flags, self.syn_fin)
        self.data = self.data[:length]
        self.syn_fin = 0
        self.flags &= keep_flags
        rest.sent_at_ns = self.sent_at_ns
        rest.sacked = self.sacked
        rest.lost = self.lost
        rest.retransmitted = self.retransmitted
        rest.retransmissions = self.retransmissions
        rest.delivered = self.delivered
        rest.judged = self.judged
        return rest


class SendQueue:
    """The retransmit queue (sent, not acknowledged) and the write queue (not sent yet)."""

    __slots__ = ("queued_bytes", "rtx", "write")

    def __init__(self) -> None:
        self.rtx: deque[SendBuffer] = deque()
        self.write: deque[SendBuffer] = deque()
        self.queued_bytes = 0  # sk_wmem_queued: memory, not payload

    def append(self, buffer: SendBuffer) -> None:
        self.write.append(buffer)
        self.queued_bytes += buffer.truesize

    def split_write_head(self, length: int, keep_flags: int) -> None:
        self.write.insert(1, self.write[0].split(length, keep_flags))
        self.queued_bytes += HEAD_TRUESIZE

    def split_rtx(self, index: int, length: int, keep_flags: int, *, overhead: int = HEAD_TRUESIZE) -> None:
        rest = self.rtx[index].split(length, keep_flags)
        rest.overhead = overhead
        self.rtx.insert(index + 1, rest)
        self.queued_bytes += overhead

    def collapse(self, index: int, room: int, wnd_end: int) -> None:
        """Join what follows a small buffer with it, so that one segment repeats both (tcp_retrans_try_collapse)."""
        rtx = self.rtx
        first = rtx[index]
        room -= len(first.data)
        while index + 1 < len(rtx) and not first.sacked:
            follower = rtx[index + 1]
            room -= len(follower.data)
            if follower.sacked or room < 0 or follower.end_seq > wnd_end:
                return
            first.data += follower.data
            first.flags |= follower.flags
            first.syn_fin += follower.syn_fin
            first.retransmissions = max(first.retransmissions, follower.retransmissions)
            del rtx[index + 1]
            self.queued_bytes -= follower.overhead

    def head_sent(self) -> None:
        """Move the head of the write queue to the retransmit queue."""
        self.rtx.append(self.write.popleft())

    def pop_acked(self) -> SendBuffer:
        buffer = self.rtx.popleft()
        self.queued_bytes -= buffer.truesize
        return buffer

    def trim_head(self, acked: int) -> None:
        """Drop the acknowledged front of the first buffer that was sent (tcp_trim_head)."""
        head = self.rtx[0]
        count = acked - head.seq
        head.data = head.data[count:]
        head.seq = acked
        self.queued_bytes -= count

    def tail(self) -> SendBuffer | None:
        if self.write:
            return self.write[-1]
        return self.rtx[-1] if self.rtx else None

    def clear(self) -> None:
        self.rtx.clear()
        self.write.clear()
        self.queued_bytes = 0

    def __iter__(self) -> Iterator[SendBuffer]:
        yield from self.rtx
        yield from self.write


class Reassembly:
    """Data beyond the next byte in order, as disjoint ranges, and what to report of it by SACK."""

    __slots__ = ("_blocks", "_ranges", "fins", "last_end")

    def __init__(self) -> None:
        self._ranges: list[tuple[int, bytes]] = []  # sorted, neither overlapping nor touching
        self._blocks: list[tuple[int, int]] = []  # most recently changed first (RFC 2018 section 4)
        self.fins: set[int] = set()  # numbers that FINs take; a sane peer sends one
        self.last_end = 0

    def __bool__(self) -> bool:
        return bool(self._ranges)

    @property
    def held_bytes(self) -> int:
        return sum(len(data) for _, data in self._ranges)

    def add(self, seq: int, data: bytes) -> list[tuple[int, int]]:
        """Keep a segment. Returns which parts of it were here already; all of it, if nothing was new."""
        end = seq + len(data)
        merged_seq, merged = seq, data
        kept: list[tuple[int, bytes]] = []
        known: list[tuple[int, int]] = []
        for start, piece in self._ranges:
            stop = start + len(piece)
            if stop < seq or start > end:
                kept.append((start, piece))
                continue
            if start <= seq and stop >= end:
                self._touch(start, stop)
                return [(seq, end)]
            if max(start, seq) < min(stop, end):
                known.append((max(start, seq), min(stop, end)))
            front = piece[: max(merged_seq - start, 0)]
            back = piece[max(merged_seq + len(merged) - start, 0) :]
            merged_seq = min(merged_seq, start)
            merged = front + merged + back
        kept.append((merged_seq, merged))
        kept.sort(key=lambda entry: entry[0])
        self._ranges = kept
        self.last_end = end
        self._touch(merged_seq, merged_seq + len(merged))
        return known

    def _touch(self, start: int, stop: int) -> None:
        """Make a range the first to be reported; reports it has swallowed go."""
        self._blocks = [(start, stop)] + [block for block in self._blocks if block[0] > stop or block[1] < start]

    def take(self, rcv_nxt: int) -> tuple[bytes, list[tuple[int, int]]]:
        """Take out what is in order now, and say which parts of it had come in order meanwhile."""
        taken: list[bytes] = []
        known: list[tuple[int, int]] = []
        while self._ranges and self._ranges[0][0] <= rcv_nxt:
            start, data = self._ranges.pop(0)
            if start < rcv_nxt:
                known.append((start, min(start + len(data), rcv_nxt)))
            fresh = data[rcv_nxt - start :]
            if fresh:
                taken.append(fresh)
                rcv_nxt += len(fresh)
        self._blocks = [block for block in self._blocks if block[1] > rcv_nxt]
        data = b"".join(taken)
        first = rcv_nxt - len(data)
        self.fins = {fin for fin in self.fins if fin >= first}  # data may have taken the place of others
        return data, known

    def blocks(self, most: int) -> list[tuple[int, int]]:
        """Ranges to report, newest first."""
        return self._blocks[:most]

    def clear(self) -> None:
        self._ranges.clear()
        self._blocks.clear()
        self.fins.clear()


class ReceiveQueue:
    """Data in order that the process has not read, and the memory it takes.

    A segment is merged into the last buffer while that has room for another page fragment (tcp_try_coalesce), which
    frees the segment's own head. A buffer's memory is freed when all of it has been read.
    """

    _MAX_FRAGMENTS = 17  # MAX_SKB_FRAGS

    __slots__ = ("_buffers", "_offset", "length", "memory")

    def __init__(self) -> None:
        self._buffers: deque[tuple[bytearray, list[int]]] = deque()  # data; number of segments in it
        self._offset = 0  # read already of the first buffer
        self.length = 0
        self.memory = 0

    def push(self, data: bytes) -> None:
        self.length += len(data)
        if self._buffers and self._buffers[-1][1][0] < self._MAX_FRAGMENTS:
            self._buffers[-1][0].extend(data)
            self._buffers[-1][1][0] += 1
            self.memory += len(data)
        else:
            self._buffers.append((bytearray(data), [1]))
            self.memory += HEAD_TRUESIZE + len(data)

    def pop(self, limit: int) -> bytes:
        """Read up to ``limit`` bytes."""
        pieces: list[bytes] = []
        while limit and self._buffers:
            data = self._buffers[0][0]
            piece = bytes(data[self._offset : self._offset + limit])
            pieces.append(piece)
            limit -= len(piece)
            self.length -= len(piece)
            self._offset += len(piece)
            if self._offset == len(data):
                self.memory -= HEAD_TRUESIZE + len(data)
                self._buffers.popleft()
                self._offset = 0
        return b"".join(pieces)

    def clear(self) -> None:
        self._buffers.clear()
        self._offset = self.length = self.memory = 0
