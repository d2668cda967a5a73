"""pcapng files: all devices of all nodes in one, with a comment on what happened to a packet and names for addresses.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng. Written by us because no library writes all the
blocks; reading is Scapy's (:mod:`pktsim.wire.scapy_io`).

    section header          what wrote it
    name resolution         addresses of pods and services, so that Wireshark shows names
    decryption secrets      of TLS connections, if there were any
    interface description   one for each device, before its first frame
    enhanced packet ...     time in nanoseconds, direction, comments
    interface statistics    at the end, one for each device

Equal captures give equal bytes: nothing of the machine, its clock or its user goes in. Every block is written in one
piece, so a run that is interrupted leaves a file that is valid up to the last packet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pktsim.errors import CaptureError
from pktsim.wire.capture import (
    SNAPLEN_BYTES,
    Capture,
    CaptureInterface,
    Direction,
    LinkType,
    written_whole,
)

# Block types
SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE_DESCRIPTION: Final = 1
NAME_RESOLUTION: Final = 4
INTERFACE_STATISTICS: Final = 5
ENHANCED_PACKET: Final = 6
DECRYPTION_SECRETS: Final = 10
BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D

# Options; numbers below 2 are common to all blocks
_OPT_ENDOFOPT: Final = 0
_OPT_COMMENT: Final = 1
_SHB_USERAPPL: Final = 4
_IF_NAME: Final = 2
_IF_DESCRIPTION: Final = 3
_IF_MACADDR: Final = 6
_IF_TSRESOL: Final = 9
_EPB_FLAGS: Final = 2
_ISB_STARTTIME: Final = 2
_ISB_ENDTIME: Final = 3
_ISB_IFRECV: Final = 4

_NRB_RECORD_END: Final = 0
_NRB_RECORD_IPV4: Final = 1
_NRB_RECORD_IPV6: Final = 2

#: ``TLSK``: secrets are a TLS key log (section 4.7).
_TLS_KEY_LOG: Final = 0x544C534B

#: Both lengths are 16 bits, and Wireshark 4 refuses longer options than this when it edits a file.
_MAX_TEXT_BYTES: Final = 0xFFFC
_TSRESOL_NS: Final = 9


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _text(text: str) -> bytes:
    """UTF-8, cut at a whole character where the format has no room for more."""
    data = text.encode("utf-8", "replace")
    if len(data) > _MAX_TEXT_BYTES:
        data = data[: _MAX_TEXT_BYTES - 3].decode("utf-8", "ignore").encode("utf-8") + "…".encode()
    return data


def _options(options: Iterable[bytes]) -> bytes:
    joined = b"".join(options)
    return joined + struct.pack("<HH", _OPT_ENDOFOPT, 0) if joined else b""


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _time(at_ns: int) -> bytes:
    """A 64-bit time as two 32-bit words, the high one first whatever the byte order."""
    if not 0 <= at_ns < 1 << 64:
        raise CaptureError(f"pcapng has no room for the time {at_ns} ns")
    return struct.pack("<II", at_ns >> 32, at_ns & 0xFFFFFFFF)


@dataclass(slots=True)
class _Statistics:
    first_ns: int = 0
    last_ns: int = 0
    frames: int = 0


class PcapngWriter:
    """Writes one section to a stream: devices and names as they become known, frames as they come.

    Args:
        stream: Where to; it stays open.
        application: What Wireshark shows as the program that captured.
        comment: On the whole capture.
    """

    def __init__(self, stream: BinaryIO, *, application: str = "pktsim", comment: str = "") -> None:
        self._stream = stream
        self._statistics: list[_Statistics] = []
        options = _options(
            (
                *([_option(_OPT_COMMENT, _text(comment))] if comment else []),
                _option(_SHB_USERAPPL, _text(application)),
            )
        )
        # A section length of -1: not known, which is what makes each prefix of whole blocks valid.
        stream.write(_block(SECTION_HEADER, struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1) + options))

    def interface(self, interface: CaptureInterface) -> int:
        """Describe a device. Returns the number by which its frames name it."""
        options = [_option(_IF_NAME, _text(interface.name))]
        if interface.description:
            options.append(_option(_IF_DESCRIPTION, _text(interface.description)))
        if interface.mac is not None and interface.link_type == LinkType.ETHERNET:
            options.append(_option(_IF_MACADDR, interface.mac))
        options.append(_option(_IF_TSRESOL, bytes((_TSRESOL_NS,))))
        head = struct.pack("<HHI", interface.link_type, 0, SNAPLEN_BYTES)
        self._stream.write(_block(INTERFACE_DESCRIPTION, head + _options(options)))
        self._statistics.append(_Statistics())
        return len(self._statistics) - 1

    def names(self, names: Mapping[bytes, Sequence[str]]) -> None:
        """Give names to addresses; may be called again when there are more.

        Args:
            names: Address (4 or 16 bytes) to names, the best one first.

        Raises:
            CaptureError: An address or a name cannot be written.
        """
        records = bytearray()
        for address in sorted(names, key=lambda address: (len(address), address)):
            texts = [name.encode("utf-8") for name in names[address]]
            if not texts:
                continue
            if len(address) not in (4, 16) or any(not text or b"\0" in text for text in texts):
                raise CaptureError(f"no name resolution record for {address.hex()}: {names[address]!r}")
            # Wireshark 4.0 takes each name for a correction of the one before: the best one goes last.
            value = address + b"".join(text + b"\0" for text in reversed(texts))
            kind = _NRB_RECORD_IPV4 if len(address) == 4 else _NRB_RECORD_IPV6
            records += _option(kind, value)  # a record has an option's form
        if records:
            self._stream.write(_block(NAME_RESOLUTION, bytes(records) + struct.pack("<HH", _NRB_RECORD_END, 0)))

    def tls_secrets(self, key_log: bytes) -> None:
        """Add the secrets of TLS connections: they have to stand before the packets that they decrypt.

        Args:
            key_log: Lines as in a file for ``SSLKEYLOGFILE``.
        """
        if key_log:
            head = struct.pack("<II", _TLS_KEY_LOG, len(key_log))
            self._stream.write(_block(DECRYPTION_SECRETS, head + _padded(key_log)))

    def write(
        self,
        interface: int,
        at_ns: int,
        frame: bytes,
        direction: Direction = Direction.UNKNOWN,
        comments: Sequence[str] = (),
        length: int = 0,
    ) -> None:
        """Add a frame.

        Args:
            interface: What :meth:`interface` returned.
            at_ns: Its time.
            frame: Its bytes.
            direction: As the device saw it.
            comments: One line of text or several, each a comment of its own.
            length: Bytes on the wire, if that is more than there are.

        Raises:
            CaptureError: There is no such interface, or the time does not fit.
        """
        if not 0 <= interface < len(self._statistics):
            raise CaptureError(f"frame on interface {interface}, of {len(self._statistics)}")
        options = [_option(_OPT_COMMENT, _text(comment)) for comment in comments if comment]
        if direction:
            options.append(_option(_EPB_FLAGS, struct.pack("<I", direction)))
        head = struct.pack("<I", interface) + _time(at_ns) + struct.pack("<II", len(frame), max(length, len(frame)))
        self._stream.write(_block(ENHANCED_PACKET, head + _padded(frame) + _options(options)))
        statistics = self._statistics[interface]
        if not statistics.frames:
            statistics.first_ns = at_ns
        statistics.last_ns = max(statistics.last_ns, at_ns)
        statistics.frames += 1

    def finish(self) -> None:
        """Add the statistics of all interfaces. The file is valid without them, too."""
        for number, statistics in enumerate(self._statistics):
            options = _options(
                (
                    _option(_ISB_STARTTIME, _time(statistics.first_ns)),
                    _option(_ISB_ENDTIME, _time(statistics.last_ns)),
                    _option(_ISB_IFRECV, struct.pack("<Q", statistics.frames)),
                )
            )
            head = struct.pack("<I", number) + _time(statistics.last_ns)
            self._stream.write(_block(INTERFACE_STATISTICS, head + options))


def write_to(stream: BinaryIO, capture: Capture, *, application: str = "pktsim") -> None:
    """Write a whole capture to a stream."""
    writer = PcapngWriter(stream, application=application, comment=capture.comment)
    writer.names(capture.names)
    writer.tls_secrets(capture.tls_secrets)
    for interface in capture.interfaces:
        writer.interface(interface)
    for frame in capture.frames:
        writer.write(frame.interface, frame.at_ns, frame.frame, frame.direction, frame.comments, frame.length)
    writer.finish()


def write_pcapng(path: Path | str, capture: Capture, *, application: str = "pktsim") -> None:
    """Write a capture to a file that appears when it is complete.

    Raises:
        CaptureError: It cannot be written.
    """
    with written_whole(path) as stream:
        write_to(stream, capture, application=application)
