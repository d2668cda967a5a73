"""Packet sockets with rings in shared memory (packet(7), ``PACKET_RX_RING``), which note when the kernel saw a frame.

An ordinary packet socket tells the time that the frame carries with it, which a bridge does not renew; the ring's is
taken when the frame is put there. On one CPU the times of all rings together say in which order things happened.
"""

from __future__ import annotations

import mmap
import socket
import struct
from dataclasses import dataclass
from typing import Final

ETH_P_ALL: Final = 0x0003
SOL_PACKET: Final = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 5, 6, 10  # include/uapi/linux/if_packet.h
TPACKET_V2: Final = 1
PACKET_OUTGOING: Final = 4
_STATUS_USER: Final = 1
#: status, length, captured, where the frame is, where its network header is, seconds, nanoseconds
_HEADER: Final = struct.Struct("=IIIHHII")
#: Behind the header, aligned to 16 bytes, is a ``sockaddr_ll``; its packet type is the eleventh byte.
_PACKET_TYPE_AT: Final = 32 + 10
_STATUS: Final = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame from a ring. ``at_ns`` is the wall clock's."""

    at_ns: int
    outgoing: bool
    frame: bytes


class Ring:
    """All frames of an interface of this thread's namespace, in both directions.

    Args:
        interface: Its name.
        slot_bytes: Room for a frame and what is noted about it; a power of two.
        slots: How many frames are kept until they are taken.
    """

    def __init__(self, interface: str, slot_bytes: int, slots: int) -> None:
        self.interface = interface
        self._slot_bytes, self._slots, self._next = slot_bytes, slots, 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            block_bytes = max(slot_bytes, 1 << 16)
            blocks = slot_bytes * slots // block_bytes
            self._socket.setsockopt(
                SOL_PACKET, PACKET_RX_RING, struct.pack("=IIII", block_bytes, blocks, slot_bytes, slots)
            )
            self._memory = mmap.mmap(self._socket.fileno(), block_bytes * blocks)
            self._socket.bind((interface, ETH_P_ALL))
        except BaseException:
            self._socket.close()
            raise

    def take(self) -> list[Taken]:
        """What has come since the last time.

        Raises:
            OverflowError: Frames were lost, or are longer than a slot.
        """
        found = []
        while True:
            at = self._next * self._slot_bytes
            status, length, captured, offset, _, seconds, nanoseconds = _HEADER.unpack_from(self._memory, at)
            if not status & _STATUS_USER:
                break
            if captured < length:
                raise OverflowError(f"{self.interface}: a frame of {length} bytes")
            frame = self._memory[at + offset : at + offset + captured]
            outgoing = self._memory[at + _PACKET_TYPE_AT] == PACKET_OUTGOING
            found.append(Taken(seconds * 1_000_000_000 + nanoseconds, outgoing, frame))
            _STATUS.pack_into(self._memory, at, 0)
            self._next = (self._next + 1) % self._slots
        _, lost = struct.unpack("=II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        if lost:
            raise OverflowError(f"{self.interface}: {lost} frames were lost")
        return found

    def close(self) -> None:
        self._memory.close()
        self._socket.close()
