"""A router with two interfaces for the connection tracking tests, and the packets that cross it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from pktsim._fastpath import Datapath, checksum
from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.netfilter.conntrack import ConntrackTable, Entry
from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.lower import compile_table
from pktsim.netfilter.opcodes import Event, LinkKind, RouteType, Sysctl
from pktsim.netfilter.ruleset import Family

IN = 2
OUT = 3
CLIENT = "10.1.0.9"
SERVER = "10.2.0.9"
NODE_IN = "10.1.0.1"
NODE_OUT = "10.2.0.1"
CLIENT6 = "fd01::9"
SERVER6 = "fd02::9"
NODE6 = {IN: "fd01::1", OUT: "fd02::1"}
_MAC = {IN: b"\x02\0\0\0\0\x0a", OUT: b"\x02\0\0\0\0\x0b"}
_PEER = {IN: b"\x02\0\0\0\x01\x0a", OUT: b"\x02\0\0\0\x01\x0b"}

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32

#: Tracking on, and nothing dropped.
TRACK = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate NEW
COMMIT
"""
#: What is invalid does not get through.
STRICT = TRACK.replace("-A FORWARD -m conntrack --ctstate NEW", "-A FORWARD -m conntrack --ctstate INVALID -j DROP")


def nat(*rules: str) -> str:
    """A nat table, and tracking of what it does not touch."""
    chains = "".join(f":{chain} ACCEPT [0:0]\n" for chain in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"))
    return "\n".join(("*nat", chains + "\n".join(rules), "COMMIT", ""))


def pack(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def ip(src: str, dst: str, proto: int, payload: bytes, *, ttl: int = 64) -> bytes:
    """An IPv4 or IPv6 packet."""
    if ":" in src:
        return struct.pack(">IHBB", 6 << 28, len(payload), proto, ttl) + pack(src) + pack(dst) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0x4000, ttl, proto, 0) + pack(src) + pack(dst)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def with_checksum(src: str, dst: str, proto: int, segment: bytes, at: int) -> bytes:
    """``segment`` with the Internet checksum that belongs at offset ``at``."""
    pseudo = b"" if proto == 1 else pack(src) + pack(dst) + struct.pack(">II", len(segment), proto)
    value = checksum(pseudo + segment)
    return segment[:at] + struct.pack(">H", value) + segment[at + 2 :]


def tcp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    flags: int,
    seq: int = 0,
    ack: int = 0,
    *,
    window: int = 64240,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    segment = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, offset, flags, window, 0, 0) + options + payload
    return ip(src, dst, 6, with_checksum(src, dst, 6, segment, 16))


def udp(src: str, dst: str, sport: int, dport: int, payload: bytes = b"data") -> bytes:
    segment = struct.pack(">4H", sport, dport, 8 + len(payload), 0) + payload
    return ip(src, dst, 17, with_checksum(src, dst, 17, segment, 6))


def icmp(src: str, dst: str, kind: int, code: int, rest: bytes, payload: bytes = b"") -> bytes:
    proto = 58 if ":" in src else 1
    return ip(src, dst, proto, with_checksum(src, dst, proto, struct.pack(">BBH", kind, code, 0) + rest + payload, 2))


class Node:
    """Forwards between 10.1.0.0/24 and 10.2.0.0/24 (fd01::/64 and fd02::/64) under rules given as text."""

    def __init__(self, rules: str, *, choose: Callable[[str, int, int], int] | None = None, rules6: str = "") -> None:
        self.path = Datapath("node", choose or (lambda place, kind, n: 0))
        self.table = ConntrackTable(self.path)
        self.now_ns = NS_PER_S
        path = self.path
        path.capture = False
        path.link_set(1, "lo", LinkKind.LOOPBACK, bytes(6), 65536)
        path.link_set(IN, "in", LinkKind.WIRE, _MAC[IN], 1500)
        path.link_set(OUT, "out", LinkKind.WIRE, _MAC[OUT], 1500)
        addresses = ((IN, NODE_IN), (OUT, NODE_OUT))
        path.addresses_set(2, [(ifindex, pack(text), 24, 0) for ifindex, text in addresses])
        path.addresses_set(10, [(ifindex, pack(text), 64, 0) for ifindex, text in NODE6.items()])
        unicast, local = RouteType.UNICAST, RouteType.LOCAL
        path.routes_set(2, 255, [(pack(a), 32, local, 254, b"", i, pack(a), 0, 0) for i, a in addresses])
        path.routes_set(2, 254, [(pack(a)[:3] + b"\0", 24, unicast, 253, b"", i, b"", 0, 0) for i, a in addresses])
        path.routes_set(10, 255, [(pack(a), 128, local, 0, b"", i, b"", 0, 0) for i, a in NODE6.items()])
        path.routes_set(
            10, 254, [(pack(a)[:8] + bytes(8), 64, unicast, 0, b"", i, b"", 0, 256) for i, a in NODE6.items()]
        )
        for last in range(2, 20):
            for ifindex, prefix, prefix6 in ((IN, "10.1.0", "fd01"), (OUT, "10.2.0", "fd02")):
                path.neighbour_set(ifindex, pack(f"{prefix}.{last}"), _PEER[ifindex], 1)
                path.neighbour_set(ifindex, pack(f"{prefix6}::{last:x}"), _PEER[ifindex], 1)
        path.sysctl_set(Sysctl.IP_FORWARD, 1)
        path.sysctl_set(Sysctl.IP6_FORWARDING, 1)
        for family, text in ((Family.IPV4, rules), (Family.IPV6, rules6)):
            if not text:
                continue
            lowered = [compile_table(table) for table in parse_save(text, family).tables]
            for one in lowered:
                path.table_set(family, one.table_id, one.program, one.initial_counters())
            path.conntrack_enable(family, any(one.needs_conntrack for one in lowered))

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS_PER_S)

    def events(self, ifindex: int, packet: bytes) -> list[Any]:
        """What the node does with a packet that comes in; a millisecond passes."""
        self.now_ns += NS_PER_MS
        ethertype = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\0"
        return self.path.receive(ifindex, _MAC[ifindex] + _PEER[ifindex] + ethertype + packet, self.now_ns)

    def send(self, ifindex: int, packet: bytes) -> list[bytes]:
        """The IP packets that leave for one that comes in."""
        return [event[3][14:] for event in self.events(ifindex, packet) if event[0] == Event.TX]

    def entries(self) -> list[Entry]:
        return self.table.entries(self.now_ns)

    def entry(self) -> Entry:
        """The only entry."""
        (entry,) = self.entries()
        return entry


def ports(packet: bytes) -> tuple[int, int]:
    """Source and destination port of an IPv4 or (plain) IPv6 packet."""
    at = 40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4
    sport, dport = struct.unpack_from(">HH", packet, at)
    return sport, dport


def addresses(packet: bytes) -> tuple[str, str]:
    """Source and destination address as text."""
    if packet[0] >> 4 == 6:
        return socket.inet_ntop(socket.AF_INET6, packet[8:24]), socket.inet_ntop(socket.AF_INET6, packet[24:40])
    return socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])


def checksums_right(packet: bytes) -> bool:
    """Whether header and transport checksum of a TCP, UDP or ICMP packet are right."""
    version = packet[0] >> 4
    proto = packet[6] if version == 6 else packet[9]
    at = 40 if version == 6 else (packet[0] & 15) * 4
    segment = packet[at:]
    pseudo = b"" if proto == 1 else packet[8:40] if version == 6 else packet[12:20]
    if proto != 1:
        pseudo += struct.pack(">II", len(segment), proto)
    return checksum(pseudo + segment) == 0 and (version == 6 or checksum(packet[:at]) == 0)
