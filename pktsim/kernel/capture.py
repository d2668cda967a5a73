"""Every frame on every interface, in the order in which the kernels looked at them.

What tcpdump sees: ``in`` is what an interface received, ``out`` what it was given to send; a bridge device shows what
it passes up and what its own host sends through it; ``lo`` shows each packet once, as ``in``. Reassembled packets
show whole.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pktsim.wire.capture import Capture as WireCapture
from pktsim.wire.capture import CapturedFrame as WireFrame
from pktsim.wire.capture import CaptureInterface, Direction
from pktsim.wire.pcap import write_pcap
from pktsim.wire.pcapng import write_pcapng

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns

_DIRECTIONS = {"in": Direction.INBOUND, "out": Direction.OUTBOUND}


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One frame as one interface saw it.

    Attributes:
        at_ns: Simulated time.
        space: The namespace's name.
        interface: The interface's name.
        direction: ``in`` or ``out``.
        frame: From the link layer on.
        pkt_id: The packet's number in its namespace: the same on all interfaces that it crosses there, as long as it is
            not copied.
        serial: Its place among all frames, from 0.
    """

    at_ns: int
    space: str
    interface: str
    direction: str
    frame: bytes
    pkt_id: int
    serial: int

    @property
    def where(self) -> str:
        """``space/interface``."""
        return f"{self.space}/{self.interface}"


class KeyLog:
    """A file in the format of ``SSLKEYLOGFILE``, into which TLS libraries write the secrets of their connections.

    Args:
        path: Where it is; a temporary file, made when it is first asked for, if that is not given.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self._path = None if path is None else Path(path)

    @property
    def path(self) -> Path:
        """The file's name."""
        if self._path is None:
            directory = tempfile.mkdtemp(prefix="pktsim-")
            weakref.finalize(self, shutil.rmtree, directory, True)
            self._path = Path(directory) / "keys.log"
        return self._path

    def secrets(self) -> bytes:
        """What has been written, each line once: both ends of a connection may have said the same."""
        if self._path is None or not self._path.exists():
            return b""
        lines = dict.fromkeys(line for line in self._path.read_bytes().splitlines() if not line.startswith(b"#"))
        return b"".join(line + b"\n" for line in lines)


#: Says what is worth knowing of a frame, one comment each; called when a capture is written, not when it is made.
Commenter = Callable[[CapturedFrame], Collection[str]]


class Capture:
    """Records frames while it is on.

    Args:
        wanted: Which interfaces to record, by namespace and name; all if not given.
    """

    def __init__(self, wanted: Callable[[str, str], bool] | None = None) -> None:
        self.frames: list[CapturedFrame] = []
        self.on = True
        self.commenter: Commenter | None = None
        #: Gives names for addresses where a writer is not told any.
        self.namer: Callable[[], Mapping[bytes, tuple[str, ...]]] | None = None
        #: Where TLS libraries in the emulated machines leave their secrets, so that files can be read.
        self.key_log = KeyLog()
        self._wanted = wanted
        self._unwanted: set[tuple[str, int]] = set()  # asked about already
        self._serial = 0
        self._macs: dict[tuple[str, str], bytes] = {}
        #: Told of each frame as it is recorded.
        self.listeners: list[Callable[[CapturedFrame], None]] = []

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[CapturedFrame]:
        return iter(self.frames)

    def record(self, netns: Netns, ifindex: int, direction: str, frame: bytes, pkt_id: int) -> None:
        """Take a frame that an interface of ``netns`` sees now."""
        if not self.on:
            return
        place = (netns.name, ifindex)
        if place in self._unwanted:
            return
        device = netns.devices.find(ifindex)
        if device is None:
            return
        if self._wanted is not None and not self._wanted(netns.name, device.name):
            self._unwanted.add(place)
            return
        if device.loopback and direction == "out":
            return
        captured = CapturedFrame(netns.clock.now_ns, netns.name, device.name, direction, frame, pkt_id, self._serial)
        self._serial += 1
        self._macs[netns.name, device.name] = device.mac
        self.frames.append(captured)
        for listener in self.listeners:
            listener(captured)

    def narrow(self, wanted: Callable[[str, str], bool] | None) -> None:
        """Record only these interfaces from now on, by namespace and name; all with ``None``."""
        self._wanted = wanted
        self._unwanted.clear()

    def clear(self) -> None:
        """Forget the frames so far."""
        self.frames.clear()

    def select(self, *, space: str = "", interface: str = "") -> list[CapturedFrame]:
        """The frames of one namespace, one interface, or one interface of one namespace."""
        return [frame for frame in self.frames if space in ("", frame.space) and interface in ("", frame.interface)]

    def comments(self, frame: CapturedFrame) -> tuple[str, ...]:
        """What the commenter says of a frame."""
        return tuple(self.commenter(frame)) if self.commenter is not None else ()

    def to_wire(
        self, *, names: Mapping[bytes, tuple[str, ...]] | None = None, comment: str = "", space: str = ""
    ) -> WireCapture:
        """The capture as files hold it: interfaces in the order of their first frames.

        Args:
            names: Names for addresses, the best one first; the ``namer``'s if not given.
            comment: On the whole capture.
            space: Only this namespace's frames.
        """
        numbers: dict[tuple[str, str], int] = {}
        if names is None and self.namer is not None:
            names = self.namer()
        result = WireCapture(names=dict(names or {}), comment=comment, tls_secrets=self.key_log.secrets())
        for frame in self.frames:
            if space not in ("", frame.space):
                continue
            key = (frame.space, frame.interface)
            number = numbers.get(key)
            if number is None:
                number = numbers[key] = len(result.interfaces)
                result.interfaces.append(CaptureInterface(frame.where, mac=self._macs[key]))
            result.frames.append(
                WireFrame(number, frame.at_ns, frame.frame, _DIRECTIONS[frame.direction], self.comments(frame))
            )
        return result

    def write(
        self, path: Path | str, *, names: Mapping[bytes, tuple[str, ...]] | None = None, comment: str = ""
    ) -> None:
        """Write a pcapng file; or, named ``.pcap``, a pcap file, which has neither interfaces nor comments.

        Raises:
            CaptureError: It cannot be written.
        """
        capture = self.to_wire(names=names, comment=comment)
        if str(path).endswith(".pcap"):
            write_pcap(path, capture.frames)
        else:
            write_pcapng(path, capture)

    def write_interfaces(self, directory: Path | str) -> list[Path]:
        """Write one pcap file for each interface, ``node-a_cni0.pcap`` and so on.

        Raises:
            CaptureError: One cannot be written.
        """
        by_interface: dict[tuple[str, str], list[WireFrame]] = {}
        for frame in self.frames:
            kept = WireFrame(0, frame.at_ns, frame.frame, _DIRECTIONS[frame.direction])
            by_interface.setdefault((frame.space, frame.interface), []).append(kept)
        paths = []
        for (space, interface), frames in sorted(by_interface.items()):
            path = Path(directory) / f"{space.replace('/', '_')}_{interface}.pcap"
            write_pcap(path, frames)
            paths.append(path)
        return paths
