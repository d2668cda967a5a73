"""Classic pcap files, with nanoseconds: one device, no comments, read by every tool there is.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap. Reading is Scapy's (:mod:`pktsim.wire.scapy_io`).

    magic a1b23c4d | version 2.4 | 0 | 0 | snap length | link type          24 bytes
    seconds | nanoseconds | bytes kept | bytes on the wire | frame          for each frame
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pktsim.clock import NS_PER_S
from pktsim.errors import CaptureError
from pktsim.wire.capture import SNAPLEN_BYTES, CapturedFrame, LinkType, written_whole

_MAGIC_NS = 0xA1B23C4D
_RECORD = struct.Struct("<IIII")


class PcapWriter:
    """Writes frames as they come; what has been written is a valid file after each of them."""

    def __init__(self, stream: BinaryIO, link_type: LinkType = LinkType.ETHERNET) -> None:
        self._stream = stream
        stream.write(struct.pack("<IHHiIII", _MAGIC_NS, 2, 4, 0, 0, SNAPLEN_BYTES, link_type))

    def write(self, at_ns: int, frame: bytes, length: int = 0) -> None:
        """Add a frame.

        Args:
            at_ns: Its time.
            frame: Its bytes.
            length: Bytes on the wire, if that is more than there are.

        Raises:
            CaptureError: The time does not fit the format's 32 bits of seconds.
        """
        seconds, nanoseconds = divmod(at_ns, NS_PER_S)
        if not 0 <= seconds <= 0xFFFFFFFF:
            raise CaptureError(f"pcap has no room for the time {at_ns} ns", mend="write pcapng")
        record = _RECORD.pack(seconds, nanoseconds, len(frame), max(length, len(frame)))
        self._stream.write(record + frame)  # at once: an interrupted run leaves no header without its frame


def write_pcap(path: Path | str, frames: Iterable[CapturedFrame], link_type: LinkType = LinkType.ETHERNET) -> None:
    """Write the frames of one device to a file that appears when it is complete.

    Raises:
        CaptureError: It cannot be written.
    """
    with written_whole(path) as stream:
        writer = PcapWriter(stream, link_type)
        for frame in frames:
            writer.write(frame.at_ns, frame.frame, frame.length)
