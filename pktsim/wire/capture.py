"""What a capture holds, whichever file format it goes to: devices, frames with times, and names for addresses."""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pktsim.errors import CaptureError

#: What tcpdump and Wireshark take as "no limit".
SNAPLEN_BYTES = 262_144


class LinkType(enum.IntEnum):
    """LINKTYPE_* values (https://www.tcpdump.org/linktypes.html) that the devices here have."""

    ETHERNET = 1  # also of Linux's loopback, with zero addresses
    RAW_IP = 101


class Direction(enum.IntEnum):
    """Bits 0 and 1 of pcapng's ``epb_flags``."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


@dataclass(frozen=True, slots=True)
class CaptureInterface:
    """A device that was captured on.

    Attributes:
        name: ``node-a/cni0``.
        description: A few words for people.
        link_type: What its frames begin with.
        mac: Its address, if it has one.
    """

    name: str
    description: str = ""
    link_type: LinkType = LinkType.ETHERNET
    mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """A frame that a device received or sent.

    Attributes:
        interface: Index into :attr:`Capture.interfaces`.
        at_ns: Simulated time; in a file that was read, nanoseconds since 1970.
        frame: The bytes, from the link layer on.
        direction: As the device saw it.
        comments: What Wireshark shows as packet comments.
        length: Bytes on the wire where that is more than was kept, else 0.
    """

    interface: int
    at_ns: int
    frame: bytes
    direction: Direction = Direction.UNKNOWN
    comments: tuple[str, ...] = ()
    length: int = 0


@dataclass(slots=True)
class Capture:
    """Frames in the order in which they were seen, with what is needed to read them."""

    interfaces: list[CaptureInterface] = field(default_factory=list)
    frames: list[CapturedFrame] = field(default_factory=list)
    #: Address (4 or 16 bytes) -> names, the best one first.
    names: Mapping[bytes, tuple[str, ...]] = field(default_factory=dict)
    comment: str = ""
    #: Lines as in a file for ``SSLKEYLOGFILE``.
    tls_secrets: bytes = b""

    def on(self, name: str) -> list[CapturedFrame]:
        """The frames of one device, by its name."""
        numbers = {number for number, interface in enumerate(self.interfaces) if interface.name == name}
        return [frame for frame in self.frames if frame.interface in numbers]


@contextlib.contextmanager
def written_whole(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write that takes its name only when all of it is there.

    Raises:
        CaptureError: The system does not let it be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(target)
    except OSError as error:
        raise CaptureError(f"cannot be written: {error.strerror or error}", file=str(target)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
