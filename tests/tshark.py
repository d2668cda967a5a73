"""What Wireshark thinks of a capture: no malformed packet, no bad checksum, no complaint that is not expected.

    report = check_capture(path, allow=("suspected\\) retransmission",))
    assert "web.default" in report.names

``ip.check_checksum`` and its like are on, which Wireshark's defaults are not. Wireshark 4.0 follows connections over
all interfaces of a file at once, so a segment seen on five devices would be four retransmissions; therefore each
interface is looked at alone.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pktsim.wire import pcapng
from tests import tools

_PREFERENCES = (
    "ip.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "udp.ignore_ipv6_zero_checksum:FALSE",
    "tcp.analyze_sequence_numbers:TRUE",
    "tcp.relative_sequence_numbers:TRUE",
    "nameres.network_name:TRUE",
    "nameres.use_external_name_resolver:FALSE",
)
_FIELDS = (
    "frame.number",
    "frame.interface_name",
    "_ws.malformed",
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
    "_ws.expert.message",
    "_ws.expert.severity",
    "frame.comment",
    "frame.protocols",
    "ip.src_host",
    "ip.dst_host",
    "ipv6.src_host",
    "ipv6.dst_host",
    "frame.packet_flags_direction",
)
#: Between values of one field, and between fields.
_VALUE, _FIELD = "\x1f", "\t"
_BAD = "0"
#: Notes, warnings and errors (epan/proto.h); chats are no complaint.
_COMPLAINTS = frozenset((0x00400000, 0x00600000, 0x00800000))
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
    tools.need("tshark")
    report = Report()
    complaints: list[str] = []
    data = path.read_bytes()
    if together or data[:4] != b"\x0a\x0d\x0d\x0a":
        tables = [_dissected(path)]
    else:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = []
            for number, part in enumerate(split_by_interface(data).values()):
                parts.append(Path(folder) / f"{number}.pcapng")
                parts[-1].write_bytes(part)
            tables = list(pool.map(_dissected, parts))
    for line in (line for table in tables for line in table):
        complaints += _complaints(line, report, allow, bad_checksums_on)
    assert not complaints, f"{path.name}: {len(complaints)} complaints\n" + "\n".join(complaints[:20])
    return report


def _dissected(path: Path) -> list[dict[str, str]]:
    """tshark's fields of every frame."""
    command = ["tshark", "-r", str(path), "-N", "n", "-d", "udp.port==8472,vxlan"]
    command += ["--disable-protocol", "ecatf"]  # EtherCAT's port, 34980, is one that clients draw
    command += ["-T", "fields", "-E", f"aggregator={_VALUE}"]
    command += [word for preference in _PREFERENCES for word in ("-o", preference)]
    command += [word for item in _FIELDS for word in ("-e", item)]
    return [dict(zip(_FIELDS, line.split(_FIELD), strict=True)) for line in tools.run(*command).splitlines()]


def _complaints(
    values: dict[str, str], report: Report, allow: Collection[str], bad_checksums_on: Collection[str]
) -> list[str]:
    where = f"frame {values['frame.number']} on {values['frame.interface_name'] or 'the interface'}"
    interface = values["frame.interface_name"]
    report.packets += 1
    report.interfaces[interface] += 1
    report.protocols.update(set(values["frame.protocols"].split(":")))
    report.comments += [text for text in values["frame.comment"].split(_VALUE) if text]
    for host in ("ip.src_host", "ip.dst_host", "ipv6.src_host", "ipv6.dst_host"):
        report.names.update(text for text in values[host].split(_VALUE) if text)
    wrong: list[str] = []
    if values["_ws.malformed"]:
        wrong.append(f"{where}: malformed ({values['frame.protocols']})")
    if interface not in bad_checksums_on:
        wrong += [
            f"{where}: bad {protocol} checksum"
            for protocol in ("ip", "tcp", "udp", "icmp", "icmpv6")
            if _BAD in values[f"{protocol}.checksum.status"].split(_VALUE)
        ]
    messages = [text for text in values["_ws.expert.message"].split(_VALUE) if text]
    severities = [int(text, 0) for text in values["_ws.expert.severity"].split(_VALUE) if text]
    for message, severity in zip(messages, severities, strict=True):
        if severity not in _COMPLAINTS or any(text in message for text in _ORDERLY):
            continue
        if interface in bad_checksums_on and "checksum" in message.lower():
            continue
        report.experts[message] += 1
        if not any(re.search(pattern, message) for pattern in allow):
            wrong.append(f"{where}: {message}")
    return wrong
