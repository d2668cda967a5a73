"""Every byte of a frame has a name: where each header field lies, and which checksums cover it.

For telling people *what* differs between two frames, and for changing one field the way a router would: with every
checksum that covers it mended. Field names are Wireshark's display filter names. This is not on the path of a packet
through a node (the engine has its own, much faster, header parse); it never refuses a frame: what cannot be named is
payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from pktsim.wire.checksum import checksum_adjust, pseudo_header_sum
from pktsim.wire.frame import (
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_FRAGMENT,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV6_EXTENSIONS,
    ipv6_extension_size,
)

DNS_PORT = 53
#: Linux's and flannel's VXLAN port, and IANA's.
VXLAN_PORTS = (8472, 4789)

_ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
_ICMP_ECHO = frozenset((0, 8))
_SOA = 6


class Field(NamedTuple):
    """``frame[start:end]``. ``path`` says inside what it lies: empty, or ``vxlan`` or ``icmp`` if wrapped or quoted."""

    path: str
    name: str
    start: int
    end: int

    @property
    def label(self) -> str:
        """Its name with what it lies in, for people."""
        return f"{self.path} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Checksum:
    """A 16-bit one's complement checksum at ``start`` over ``ranges`` (its own field among them, counted as zero)."""

    name: str
    start: int
    ranges: tuple[tuple[int, int], ...]

    def distance(self, offset: int) -> int | None:
        """How far into the covered bytes ``offset`` lies, or ``None`` if it is not covered."""
        before = 0
        for start, end in self.ranges:
            if start <= offset < end:
                return before + offset - start
            before += end - start
        return None


@dataclass(frozen=True)
class Dissection:
    """A frame and the names of its parts, in order of place."""

    frame: bytes
    fields: tuple[Field, ...]
    checksums: tuple[Checksum, ...]

    @cached_property
    def _by_name(self) -> dict[str, list[Field]]:
        found: dict[str, list[Field]] = {}
        for part in self.fields:
            found.setdefault(part.name, []).append(part)
        return found

    def value(self, part: Field) -> int:
        """The field as a big-endian number."""
        return int.from_bytes(self.frame[part.start : part.end], "big")

    def named(self, name: str, path: str | None = None) -> Iterator[Field]:
        """All fields of that name, the outermost first."""
        return (part for part in self._by_name.get(name, ()) if path is None or part.path == path)

    def first(self, name: str) -> Field | None:
        """The outermost field of that name."""
        return next(self.named(name), None)

    def at(self, offset: int) -> Field | None:
        """The field that holds the byte at ``offset``; the narrowest, if several do."""
        holding = [part for part in self.fields if part.start <= offset < part.end]
        return min(holding, key=lambda part: part.end - part.start, default=None)


class FieldWriter:
    """A copy of a frame in which fields can be replaced by others of their width, checksums following (RFC 1624)."""

    def __init__(self, dissection: Dissection) -> None:
        self.data = bytearray(dissection.frame)
        self._checksums = dissection.checksums
        #: Offsets of the checksums that were mended.
        self.mended: set[int] = set()

    def write(self, start: int, new: bytes) -> None:
        """Replace the bytes at ``start``; right checksums stay right and wrong ones as wrong as they were."""
        old = bytes(self.data[start : start + len(new)])
        if old == new:
            return
        self.data[start : start + len(new)] = new
        for checksum in self._checksums:
            if checksum.start == start:
                continue
            distance = checksum.distance(start)
            if distance is None:
                continue
            before, after = b"\0" * (distance % 2), b"\0" * ((distance + len(new)) % 2)
            was = int.from_bytes(self.data[checksum.start : checksum.start + 2], "big")
            now = checksum_adjust(was, before + old + after, before + new + after)
            self.mended.add(checksum.start)
            self.write(checksum.start, now.to_bytes(2, "big"))


@lru_cache(maxsize=2048)
def dissect(frame: bytes, *, link: bool = True) -> Dissection:
    """Name the parts of an Ethernet frame, or of an IP packet if ``link`` is false.

    Comparisons look at each frame several times, and at the same one on each interface that it passes.
    """
    walker = _Walker(frame)
    if link:
        walker.ethernet(0, len(frame), "")
    else:
        walker.network(ETH_P_IPV6 if frame[:1] and frame[0] >> 4 == 6 else ETH_P_IP, 0, len(frame), "")
    walker.fields.sort(key=lambda part: (part.start, -part.end))
    return Dissection(frame, tuple(walker.fields), tuple(walker.checksums))


class _Walker:
    """Notes what it finds between ``at`` and ``end``. A header that is cut short becomes payload."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.fields: list[Field] = []
        self.checksums: list[Checksum] = []

    def add(self, path: str, name: str, start: int, width: int) -> int:
        self.fields.append(Field(path, name, start, start + width))
        return start + width

    def add_all(self, path: str, start: int, *parts: tuple[str, int]) -> int:
        for name, width in parts:
            self.fields.append(Field(path, name, start, start + width))
            start += width
        return start

    def rest(self, path: str, name: str, at: int, end: int) -> None:
        if end > at:
            self.add(path, name, at, end - at)

    def number(self, at: int, width: int = 2) -> int:
        return int.from_bytes(self.frame[at : at + width], "big")

    def ethernet(self, at: int, end: int, path: str) -> None:
        if end - at < 14:
            return self.rest(path, "data", at, end)
        at = self.add_all(path, at, ("eth.dst", 6), ("eth.src", 6), ("eth.type", 2))
        ethertype = self.number(at - 2)
        while ethertype == ETH_P_8021Q and end - at >= 4:
            at = self.add_all(path, at, ("vlan.tci", 2), ("vlan.etype", 2))
            ethertype = self.number(at - 2)
        return self.network(ethertype, at, end, path)

    def network(self, ethertype: int, at: int, end: int, path: str) -> None:
        if ethertype == ETH_P_IP and end - at >= 20 and (self.frame[at] & 15) >= 5:
            return self.ipv4(at, end, path)
        if ethertype == ETH_P_IPV6 and end - at >= 40:
            return self.ipv6(at, end, path)
        if ethertype == ETH_P_ARP and end - at >= 28:
            at = self.add_all(
                path,
                at,
                ("arp.hw.type", 2),
                ("arp.proto.type", 2),
                ("arp.hw.size", 1),
                ("arp.proto.size", 1),
                ("arp.opcode", 2),
                ("arp.src.hw_mac", 6),
                ("arp.src.proto_ipv4", 4),
                ("arp.dst.hw_mac", 6),
                ("arp.dst.proto_ipv4", 4),
            )
            return self.rest(path, "eth.padding", at, end)
        return self.rest(path, "data", at, end)

    def ipv4(self, at: int, end: int, path: str) -> None:
        start, length = at, (self.frame[at] & 15) * 4
        total = self.number(at + 2)
        offset = self.number(at + 6) & 0x1FFF
        protocol = self.frame[at + 9]
        if start + length > end:
            return self.rest(path, "data", at, end)
        self.checksums.append(Checksum("ip.checksum", at + 10, ((start, start + length),)))
        at = self.add_all(
            path,
            at,
            ("ip.version/hdr_len", 1),
            ("ip.dsfield", 1),
            ("ip.len", 2),
            ("ip.id", 2),
            ("ip.flags/frag_offset", 2),
            ("ip.ttl", 1),
            ("ip.proto", 1),
            ("ip.checksum", 2),
            ("ip.src", 4),
            ("ip.dst", 4),
        )
        self.rest(path, "ip.options", at, start + length)
        at = start + length
        stop = min(end, start + total) if total >= length else end
        self.rest(path, "eth.padding", stop, end)
        if offset:
            return self.rest(path, "ip.fragment", at, stop)
        # Addresses are in the pseudo header; the length and the protocol in it never change here.
        return self.transport(protocol, at, stop, path, (start + 12, start + 20), start + total - at)

    def ipv6(self, at: int, end: int, path: str) -> None:
        start = at
        total = 40 + self.number(at + 4)
        protocol = self.frame[at + 6]
        self.add(path, "ipv6.version/tclass/flow", at, 4)
        at = self.add_all(
            path,
            at + 4,
            ("ipv6.plen", 2),
            ("ipv6.nxt", 1),
            ("ipv6.hlim", 1),
            ("ipv6.src", 16),
            ("ipv6.dst", 16),
        )
        stop = min(end, start + total)
        self.rest(path, "eth.padding", stop, end)
        while stop - at >= 8:
            if protocol == IPPROTO_FRAGMENT:
                protocol = self.frame[at]
                offset = self.number(at + 2) >> 3
                at = self.add_all(
                    path, at, ("ipv6.fraghdr.nxt", 2), ("ipv6.fraghdr.offset", 2), ("ipv6.fraghdr.ident", 4)
                )
                if offset:
                    return self.rest(path, "ipv6.fragment", at, stop)
            elif protocol in IPV6_EXTENSIONS:
                width = ipv6_extension_size(protocol, self.frame[at + 1])
                if at + width > stop:
                    break
                protocol = self.frame[at]
                at = self.add(path, "ipv6.opts", at, width)
            else:
                break
        return self.transport(protocol, at, stop, path, (start + 8, start + 40), start + total - at)

    def transport(self, protocol: int, at: int, end: int, path: str, addresses: tuple[int, int], length: int) -> None:
        """``length`` is what the packet's header says its transport part has, also where it was cut or fragmented."""
        if protocol == IPPROTO_TCP and end - at >= 8:
            return self.tcp(at, end, path, addresses, length)
        if protocol == IPPROTO_UDP and end - at >= 8:
            return self.udp(at, end, path, addresses, length)
        if protocol == IPPROTO_ICMP and end - at >= 8:
            return self.icmp(at, end, path)
        if protocol == IPPROTO_ICMPV6 and end - at >= 8:
            return self.icmpv6(at, end, path, addresses)
        return self.rest(path, "data", at, end)

    def _transport_checksum(
        self, name: str, start: int, at: int, end: int, addresses: tuple[int, int], protocol: int, length: int
    ) -> None:
        """A checksum that the sender left to the device (``CHECKSUM_PARTIAL``, on ``lo``) holds the sum of the pseudo
        header only (include/linux/skbuff.h), and follows the addresses but not the ports or the data."""
        middle = (addresses[0] + addresses[1]) // 2
        source, target = self.frame[addresses[0] : middle], self.frame[middle : addresses[1]]
        if self.number(start) != pseudo_header_sum(source, target, protocol, length):
            self.checksums.append(Checksum(name, start, (addresses, (at, end))))

    def tcp(self, at: int, end: int, path: str, addresses: tuple[int, int], length: int) -> None:
        start = at
        at = self.add_all(path, at, ("tcp.srcport", 2), ("tcp.dstport", 2), ("tcp.seq", 4))
        if end - start < 20:
            return self.rest(path, "data", at, end)
        self._transport_checksum("tcp.checksum", start + 16, start, end, addresses, IPPROTO_TCP, length)
        header = (self.frame[start + 12] >> 4) * 4
        at = self.add_all(
            path,
            at,
            ("tcp.ack", 4),
            ("tcp.hdr_len/flags", 2),
            ("tcp.window_size_value", 2),
            ("tcp.checksum", 2),
            ("tcp.urgent_pointer", 2),
        )
        options_end = min(start + max(header, 20), end)
        self.tcp_options(at, options_end, path)
        dns = DNS_PORT in (self.number(start), self.number(start + 2)) and end - options_end > 14
        # One message per segment is what dig and CoreDNS send; anything else stays payload.
        if dns and self.number(options_end) == end - options_end - 2:
            self.add(path, "dns.length", options_end, 2)
            return self.dns(options_end + 2, end, path)
        return self.rest(path, "tcp.payload", options_end, end)

    def tcp_options(self, at: int, end: int, path: str) -> None:
        while at < end:
            kind = self.frame[at]
            if kind in (0, 1):
                at = self.add(path, "tcp.options.nop" if kind else "tcp.options.eol", at, 1)
                continue
            width = self.frame[at + 1] if at + 1 < end else 0
            if width < 2 or at + width > end:
                return self.rest(path, "tcp.options", at, end)
            if kind == 8 and width == 10:
                self.add_all(
                    path,
                    at,
                    ("tcp.option_kind/len", 2),
                    ("tcp.options.timestamp.tsval", 4),
                    ("tcp.options.timestamp.tsecr", 4),
                )
            elif kind == 5 and width % 8 == 2:
                self.add(path, "tcp.option_kind/len", at, 2)
                for edge in range(at + 2, at + width, 8):
                    self.add_all(path, edge, ("tcp.options.sack_le", 4), ("tcp.options.sack_re", 4))
            else:
                name = {2: "tcp.options.mss", 3: "tcp.options.wscale", 4: "tcp.options.sack_perm"}.get(kind)
                self.add(path, name or f"tcp.options.{kind}", at, width)
            at += width
        return None

    def udp(self, at: int, end: int, path: str, addresses: tuple[int, int], length: int) -> None:
        start = at
        sport, dport = self.number(at), self.number(at + 2)
        if self.number(start + 6):  # 0: sent without one (RFC 768)
            self._transport_checksum("udp.checksum", start + 6, start, end, addresses, IPPROTO_UDP, length)
        at = self.add_all(path, at, ("udp.srcport", 2), ("udp.dstport", 2), ("udp.length", 2), ("udp.checksum", 2))
        if DNS_PORT in (sport, dport) and end - at >= 12:
            return self.dns(at, end, path)
        if dport in VXLAN_PORTS and end - at >= 8 + 14:
            at = self.add_all(path, at, ("vxlan.flags", 4), ("vxlan.vni", 3), ("vxlan.reserved", 1))
            return self.ethernet(at, end, f"{path} vxlan".strip())
        return self.rest(path, "udp.payload", at, end)

    def icmp(self, at: int, end: int, path: str) -> None:
        start, kind = at, self.frame[at]
        self.checksums.append(Checksum("icmp.checksum", start + 2, ((start, end),)))
        at = self.add_all(path, at, ("icmp.type", 1), ("icmp.code", 1), ("icmp.checksum", 2))
        if kind in _ICMP_ECHO:
            at = self.add_all(path, at, ("icmp.ident", 2), ("icmp.seq", 2))
            return self.rest(path, "icmp.data", at, end)
        at = self.add_all(path, at, ("icmp.rest", 4))
        if kind in _ICMP_ERRORS:
            return self.network(ETH_P_IP, at, end, f"{path} icmp".strip())
        return self.rest(path, "icmp.data", at, end)

    def icmpv6(self, at: int, end: int, path: str, addresses: tuple[int, int]) -> None:
        start, kind = at, self.frame[at]
        self.checksums.append(Checksum("icmpv6.checksum", start + 2, (addresses, (start, end))))
        at = self.add_all(path, at, ("icmpv6.type", 1), ("icmpv6.code", 1), ("icmpv6.checksum", 2))
        if kind in (128, 129):
            at = self.add_all(path, at, ("icmpv6.echo.identifier", 2), ("icmpv6.echo.sequence_number", 2))
            return self.rest(path, "icmpv6.data", at, end)
        at = self.add_all(path, at, ("icmpv6.rest", 4))
        if kind < 128:
            return self.network(ETH_P_IPV6, at, end, f"{path} icmpv6".strip())
        if kind in (135, 136) and end - at >= 16:
            at = self.add(path, "icmpv6.nd.target", at, 16)
            return self.rest(path, "icmpv6.nd.options", at, end)
        if kind == 137 and end - at >= 32:
            return self.redirect(at, end, path)
        return self.rest(path, "icmpv6.data", at, end)

    def redirect(self, at: int, end: int, path: str) -> None:
        """RFC 4861 section 4.5; the option for the redirected packet's header quotes it (section 4.6.3)."""
        at = self.add_all(path, at, ("icmpv6.rd.target", 16), ("icmpv6.rd.destination", 16))
        while end - at >= 8 and self.frame[at + 1]:
            size = min(self.frame[at + 1] * 8, end - at)
            if self.frame[at] == 4:
                self.add(path, "icmpv6.nd.option", at, 8)
                self.network(ETH_P_IPV6, at + 8, at + size, f"{path} icmpv6".strip())
            else:
                self.add(path, "icmpv6.nd.option", at, size)
            at += size
        return self.rest(path, "icmpv6.data", at, end)

    def dns(self, at: int, end: int, path: str) -> None:
        message = at
        counts = [self.number(at + 4 + 2 * section) for section in range(4)]
        at = self.add_all(path, at, ("dns.id", 2), ("dns.flags", 2), ("dns.count", 8))
        self.rest(path, "dns.message", at, end)
        for serial in _soa_serials(self.frame[message:end], counts):
            self.add(path, "dns.soa.serial_number", message + serial, 4)


def _skip_name(message: bytes, at: int) -> int:
    while at < len(message):
        width = message[at]
        if width >= 0xC0:
            return at + 2
        at += 1 + width
        if not width:
            break
    return at


def _soa_serials(message: bytes, counts: list[int]) -> Iterator[int]:
    at = 12
    for _ in range(counts[0]):
        at = _skip_name(message, at) + 4
    for _ in range(sum(counts[1:])):
        at = _skip_name(message, at)
        if at + 10 > len(message):
            return
        kind = int.from_bytes(message[at : at + 2], "big")
        data, at = at + 10, at + 10 + int.from_bytes(message[at + 8 : at + 10], "big")
        if kind == _SOA:
            serial = _skip_name(message, _skip_name(message, data))
            if serial + 4 <= len(message):
                yield serial
