"""What Wireshark thinks of a capture: no malformed packet, no bad checksum, no complaint that is not expected.

    report = check_capture(path, allow=("suspected\\) retransmission",))
    assert "web.default" in report.names

Wireshark 4.0 follows connections over all interfaces of a file at once, so a segment seen on five devices would be
four retransmissions; therefore each interface is looked at alone.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from pktsim.wire import pcapng
from tests.sharkd import Frame, sharkd

#: Notes, warnings and errors are complaints.
_NO_COMPLAINT = "Chat"
#: Notes that every orderly connection gets.
_ORDERLY = ("initiates the connection closing", "undergoes the connection closing")


@dataclass(slots=True)
class Report:
    """What a capture that passed holds.

    Attributes:
        packets: How many.
        interfaces: Packets by interface name.
        protocols: Packets by each protocol that Wireshark saw in them (``dns``, ``http``, ``vxlan``).
        comments: All packet comments, in order.
        names: All names it showed for addresses.
        experts: Every note, warning and error, allowed ones too, with how often.
    """

    packets: int = 0
    interfaces: Counter[str] = field(default_factory=Counter)
    protocols: Counter[str] = field(default_factory=Counter)
    comments: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    experts: Counter[str] = field(default_factory=Counter)


def split_by_interface(data: bytes) -> dict[str, bytes]:
    """A pcapng file of each interface alone, by interface name; files of ours only (one section, little-endian)."""
    common = bytearray()
    names: list[str] = []
    frames: dict[int, bytearray] = {}
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        block = data[at : at + length]
        at += length
        if kind == pcapng.ENHANCED_PACKET:
            (number,) = struct.unpack_from("<I", block, 8)
            frames.setdefault(number, bytearray()).extend(block)
        elif kind != pcapng.INTERFACE_STATISTICS:
            common += block
            if kind == pcapng.INTERFACE_DESCRIPTION:
                code, size = struct.unpack_from("<HH", block, 16)
                assert code == 2, "if_name is written first"
                names.append(block[20 : 20 + size].decode())
    assert len(set(names)) == len(names), f"two interfaces of one name among {names}"
    return {names[number]: bytes(common + frames[number]) for number in sorted(frames)}


def check_capture(
    path: Path, *, allow: Collection[str] = (), bad_checksums_on: Collection[str] = (), together: bool = False
) -> Report:
    """Open a capture with tshark and want nothing wrong with it.

    Args:
        path: A pcap file, or a pcapng file of ours.
        allow: Regular expressions for the expert messages (``Duplicate ACK``) that are intended.
        bad_checksums_on: Interfaces where transport checksums may be unfinished (``node-a/lo`` of a recording).
        together: Look at all interfaces at once: faster, for captures in which each packet is seen once.

    Raises:
        AssertionError: Something is wrong; it says in which frames.
    """
    report = Report()
    complaints: list[str] = []
    data = path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        parts = [path]
        if not together and data[:4] == b"\x0a\x0d\x0d\x0a":
            parts = []
            for number, part in enumerate(split_by_interface(data).values()):
                parts.append(Path(folder) / f"{number}.pcapng")
                parts[-1].write_bytes(part)
        for dissected in map(sharkd().dissect, parts):
            for frame in dissected:
                complaints += _complaints(frame, report, allow, bad_checksums_on)
    assert not complaints, f"{path.name}: {len(complaints)} complaints\n" + "\n".join(complaints[:20])
    return report


def _complaints(frame: Frame, report: Report, allow: Collection[str], bad_checksums_on: Collection[str]) -> list[str]:
    where = f"frame {frame.number} on {frame.interface or 'the interface'}"
    report.packets += 1
    report.interfaces[frame.interface] += 1
    report.protocols.update(set(frame.protocols))
    report.comments += frame.comments
    report.names.update(frame.names)
    wrong: list[str] = []
    if frame.malformed:
        wrong.append(f"{where}: malformed ({':'.join(frame.protocols)})")
    unfinished = frame.interface in bad_checksums_on
    if not unfinished:
        wrong += [f"{where}: bad {protocol} checksum" for protocol in frame.bad_checksums]
    for severity, message in frame.experts:
        if severity == _NO_COMPLAINT or any(text in message for text in _ORDERLY):
            continue
        if unfinished and "checksum" in message.lower():
            continue
        report.experts[message] += 1
        if not any(re.search(pattern, message) for pattern in allow):
            wrong.append(f"{where}: {message}")
    return wrong
