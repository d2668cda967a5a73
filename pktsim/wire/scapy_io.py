"""The border to Scapy: packets that people craft become bytes, bytes and capture files become what people can look at.

The only module of ours that imports Scapy, and each function only what it needs: importing all of Scapy takes longer
than most experiments. Scapy fills unset fields from the machine it runs on (its routes, its neighbours, its
resolver); here that is done before Scapy does it, or refused, so that a packet is the same everywhere.
"""

from __future__ import annotations

import importlib
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pktsim.clock import NS_PER_S, NS_PER_US
from pktsim.errors import CaptureError, FrameError
from pktsim.wire.addr import ip_to_text, mac_to_text
from pktsim.wire.capture import Capture, CapturedFrame, CaptureInterface, Direction, LinkType
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, FrameView

if TYPE_CHECKING:
    from scapy.packet import Packet

_PCAP_MAGICS = {b"\xa1\xb2\xc3\xd4": ">", b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\x3c\x4d": ">", b"\x4d\x3c\xb2\xa1": "<"}
_PCAP_NS_MAGICS = (b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1")
_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_MAX_FRAME_BYTES = 1 << 24


def is_scapy(packet: object) -> bool:
    """Whether it is a Scapy packet; without importing Scapy, for if it is one, somebody has."""
    return any(kind.__module__ == "scapy.packet" and kind.__name__ == "Packet" for kind in type(packet).__mro__)


# --- packets to bytes -----------------------------------------------------------------------------------------------


def packet_bytes(packet: Packet, *, saddr: bytes | None = None) -> bytes:
    """An IP packet that somebody crafted, as it leaves a host: lengths and checksums filled in.

    Args:
        packet: ``IP(dst=...)/TCP(dport=80)`` or the like; it is not changed.
        saddr: Source address for an outermost header that names none.

    Raises:
        FrameError: It does not begin with an IP header, stands for several packets, holds random values, or leaves open
            an address that Scapy would look up on this machine.
    """
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    if not isinstance(packet, IP | IPv6):
        raise FrameError(
            f"{_layer(packet)} is no IP packet",
            mend="begin with IP(...) or IPv6(...), or send a whole frame with Ether(...)",
        )
    copy = packet.copy()
    if "src" not in copy.fields and saddr is not None:
        if len(saddr) != (4 if isinstance(packet, IP) else 16):
            raise FrameError(f"{ip_to_text(saddr)} cannot be the source of an {_layer(packet)} packet")
        copy.src = ip_to_text(saddr)
    _settle(copy)
    return _build(copy)


def frame_bytes(packet: Packet, *, src_mac: bytes | None = None, dst_mac: bytes | None = None) -> bytes:
    """An Ethernet frame that somebody crafted.

    Args:
        packet: ``Ether(...)/...``; it is not changed.
        src_mac: Source for a header that names none.
        dst_mac: Destination for a header that names none; without it that is refused.

    Raises:
        FrameError: As :func:`packet_bytes`.
    """
    from scapy.layers.l2 import Ether

    if not isinstance(packet, Ether):
        raise FrameError(f"{_layer(packet)} is no Ethernet frame", mend="begin with Ether(...)")
    copy = packet.copy()
    if "src" not in copy.fields and src_mac is not None:
        copy.src = mac_to_text(src_mac)
    if "dst" not in copy.fields and dst_mac is not None:
        copy.dst = mac_to_text(dst_mac)
    _settle(copy)
    return _build(copy)


def _layer(packet: object) -> str:
    return type(packet).__name__


#: Fields that Scapy fills by asking this machine, by layer.
_ASKS_THE_MACHINE = {
    "Ether": ("src", "dst"),
    "Dot3": ("src", "dst"),
    "ARP": ("hwsrc", "psrc"),
    "IP": ("src",),
    "IPv6": ("src",),
}


def _settle(packet: Any) -> None:
    """Refuse what would make one packet several, or different ones on different machines."""
    from scapy.base_classes import Gen
    from scapy.volatile import VolatileValue

    layer = packet
    while layer is not None and _layer(layer) != "NoPayload":
        name = _layer(layer)
        asking = (_ASKS_THE_MACHINE.get(kind.__name__, ()) for kind in type(layer).__mro__)
        for field in (field for fields in asking for field in fields):
            if field not in layer.fields:
                raise FrameError(f"{name}.{field} is not set", mend=f"write {name}({field}=...)")
        for field, value in layer.fields.items():
            if isinstance(value, VolatileValue):
                raise FrameError(f"{name}.{field} is random", mend="give a number, drawn from the experiment's choices")
            if isinstance(value, Gen):
                raise FrameError(f"{name}.{field}={value!s} is not one address", mend="write one address, as numbers")
        layer = layer.payload
    if sum(1 for _ in zip(packet, range(2), strict=False)) != 1:
        raise FrameError("this stands for several packets", mend="send them one by one: for p in packet")


def _build(packet: Any) -> bytes:
    try:
        return bytes(packet)
    except (struct.error, OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise FrameError(f"{packet.summary()} cannot be built: {error}", field=_layer(packet)) from error


# --- bytes to packets -----------------------------------------------------------------------------------------------


def dissect(frame: bytes, *, link: bool = True) -> Packet:
    """A frame (or an IP packet, if ``link`` is false) as Scapy sees it, for people to look into."""
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    for module in ("dns", "http", "vxlan"):  # each tells UDP and TCP about its ports
        importlib.import_module(f"scapy.layers.{module}")
    if link:
        return Ether(frame)
    return IPv6(frame) if frame[:1] and frame[0] >> 4 == 6 else IP(frame)


def show(frame: bytes, *, link: bool = True) -> str:
    """Scapy's many-line view of a frame."""
    text = dissect(frame, link=link).show(dump=True)
    return str(text)


# --- capture files --------------------------------------------------------------------------------------------------


def read_capture(path: Path | str) -> Capture:
    """Read a pcap or pcapng file, all of it.

    Raises:
        CaptureError: It cannot be read, is neither, or ends in the middle of something: Scapy would pass over that, and
            the frames that are missing would be nobody's fault.
    """
    target = Path(path)
    try:
        data = target.read_bytes()
    except OSError as error:
        raise CaptureError(f"cannot be read: {error.strerror or error}", file=str(path)) from error
    magic = data[:4]
    if magic in _PCAP_MAGICS:
        _check_pcap(data, _PCAP_MAGICS[magic], str(path))
        return _read_pcap(target, nanoseconds=magic in _PCAP_NS_MAGICS)
    if magic == _PCAPNG_MAGIC:
        _check_pcapng(data, str(path))
        return _read_pcapng(target)
    raise CaptureError(
        "neither a pcap nor a pcapng file" if data else "is empty",
        file=str(path),
        mend="gunzip it first" if magic[:2] == b"\x1f\x8b" else "",
    )


def ip_packets(path: Path | str) -> list[bytes]:
    """The IP packets in a capture file, without their link layer; other frames are passed over.

    Raises:
        CaptureError: It cannot be read, or there are none in it.
    """
    capture = read_capture(path)
    found = []
    for frame in capture.frames:
        link = capture.interfaces[frame.interface].link_type == LinkType.ETHERNET
        view = FrameView(frame.frame, link=link)
        if view.ethertype in (ETH_P_IP, ETH_P_IPV6):
            found.append(view.data)
    if not found:
        raise CaptureError("has no IP packet in it", file=str(path))
    return found


def _check_pcap(data: bytes, order: str, file: str) -> None:
    if len(data) < 24:
        raise CaptureError(f"ends within its header, at byte {len(data)} of 24", file=file)
    at = 24
    number = 0
    while at < len(data):
        number += 1
        if at + 16 > len(data):
            raise CaptureError(f"ends within the header of packet {number}, at byte {len(data)}", file=file)
        (kept,) = struct.unpack_from(f"{order}I", data, at + 8)
        if kept > _MAX_FRAME_BYTES:
            raise CaptureError(f"packet {number} at byte {at} claims {kept} bytes", file=file)
        at += 16 + kept
        if at > len(data):
            raise CaptureError(
                f"ends within packet {number}, at byte {len(data)} instead of {at}", file=file, mend="capture it again"
            )


def _check_pcapng(data: bytes, file: str) -> None:
    at = 0
    order = "<"
    number = 0
    while at < len(data):
        number += 1
        if at + 12 > len(data):
            raise CaptureError(f"ends within the head of block {number}, at byte {len(data)}", file=file)
        if data[at : at + 4] == _PCAPNG_MAGIC:
            found = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}.get(data[at + 8 : at + 12])
            if found is None:
                raise CaptureError(f"block {number} at byte {at} is a section header without byte order", file=file)
            order = found
        (length,) = struct.unpack_from(f"{order}I", data, at + 4)
        if length < 12 or length % 4:
            raise CaptureError(f"block {number} at byte {at} claims {length} bytes", file=file)
        if at + length > len(data):
            raise CaptureError(
                f"ends within block {number}, at byte {len(data)} instead of {at + length}",
                file=file,
                mend="capture it again",
            )
        if struct.unpack_from(f"{order}I", data, at + length - 4)[0] != length:
            raise CaptureError(f"block {number} at byte {at} has two different lengths", file=file)
        at += length


def _link_type(number: int, file: str) -> LinkType:
    try:
        return LinkType(number)
    except ValueError:
        raise CaptureError(
            f"link type {number} is not Ethernet or raw IP", file=file, mend="capture on one device, not on 'any'"
        ) from None


class _QuietScapy:
    """Keeps Scapy's own warnings off the terminal while a file is read; what matters has been checked before."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("scapy")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        self._logger.setLevel(self._level)


def _packets(reader: Any) -> Iterator[tuple[bytes, Any]]:
    with _QuietScapy():
        while True:
            try:
                yield reader._read_packet(_MAX_FRAME_BYTES)
            except EOFError:
                return


def _read_pcap(path: Path, *, nanoseconds: bool) -> Capture:
    from scapy.utils import RawPcapReader

    unit_ns = 1 if nanoseconds else NS_PER_US
    with RawPcapReader(str(path)) as reader:
        capture = Capture([CaptureInterface(path.stem, link_type=_link_type(reader.linktype, str(path)))])
        for data, meta in _packets(reader):
            length = meta.wirelen if meta.wirelen > len(data) else 0
            capture.frames.append(CapturedFrame(0, meta.sec * NS_PER_S + meta.usec * unit_ns, data, length=length))
    return capture


def _read_pcapng(path: Path) -> Capture:
    from scapy.utils import RawPcapNgReader

    capture = Capture()
    numbers: dict[tuple[str, int], int] = {}
    with RawPcapNgReader(str(path)) as reader:
        for data, meta in _packets(reader):
            name = meta.ifname.decode("utf-8", "replace") if meta.ifname else ""
            key = (name, meta.linktype)
            if key not in numbers:
                numbers[key] = len(capture.interfaces)
                link_type = _link_type(meta.linktype, str(path))
                capture.interfaces.append(CaptureInterface(name or path.stem, link_type=link_type))
            # A simple packet block has no time.
            ticks = 0 if meta.tshigh is None else meta.tshigh << 32 | meta.tslow
            # Scapy 2.6 has one comment, later ones a list.
            comments = getattr(meta, "comments", None) or [getattr(meta, "comment", None) or b""]
            capture.frames.append(
                CapturedFrame(
                    numbers[key],
                    ticks * NS_PER_S // meta.tsresol,
                    data,
                    Direction(meta.direction) if meta.direction in (1, 2) else Direction.UNKNOWN,
                    tuple(comment.decode("utf-8", "replace") for comment in comments if comment),
                    meta.wirelen if meta.wirelen > len(data) else 0,
                )
            )
    return capture
