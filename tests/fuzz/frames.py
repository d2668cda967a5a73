"""Frames for fuzzing: mostly plausible, often part of a flow, sometimes nonsense.

Everything is drawn from one ``random.Random``, which hypothesis can lend (and shrink), or a seed can make.
"""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Sequence

from pktsim.wire.addr import MAC_BROADCAST, ip_from_text, mac_from_text, multicast_mac
from pktsim.wire.checksum import checksum
from pktsim.wire.frame import (
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    FrameView,
    TcpFlag,
    arp,
    ethernet,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    ipv6_fragment,
    tcp,
    tcp_options,
    udp,
    vxlan,
)
from tests.netfilter.case_script import crc32c

IPPROTO_GRE = 47
NODE_MAC = mac_from_text("02:00:00:00:00:01")
BRIDGE_MAC = mac_from_text("02:00:00:00:00:10")
TUNNEL_MAC = mac_from_text("02:00:00:00:00:20")
MACS = (
    *(NODE_MAC, BRIDGE_MAC, TUNNEL_MAC, MAC_BROADCAST),
    *(mac_from_text(f"02:00:00:00:01:{number:02x}") for number in range(6)),
    mac_from_text("01:00:5e:00:00:01"),
    mac_from_text("01:80:c2:00:00:00"),
)
ADDRESSES4 = tuple(
    ip_from_text(text)
    for text in (
        *("192.168.0.11", "192.168.0.12", "192.168.0.1", "192.168.0.99", "192.168.0.255"),
        *("10.1.1.254", "10.1.1.1", "10.1.1.2", "10.1.1.77", "10.1.1.255", "10.1.2.1", "10.1.2.2", "10.1.2.0"),
        *("172.30.0.1", "172.30.0.2", "172.30.0.10", "198.51.100.7", "203.0.113.9"),
        *("127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "239.1.2.3", "240.0.0.1", "169.254.20.10"),
    )
)
ADDRESSES6 = tuple(
    ip_from_text(text)
    for text in (
        *(
            "fd00:192:168::11",
            "fd00:192:168::12",
            "fd00:10:1:1::fe",
            "fd00:10:1:1::1",
            "fd00:10:1:1::2",
            "fd00:10:1:2::1",
        ),
        *("fd00:172:30::1", "fe80::1", "ff02::1", "ff02::1:ff00:1", "::1", "::", "2001:db8::9", "::ffff:10.1.1.1"),
    )
)
#: Who is behind which interface of the world: MAC addresses that frames there are for, and addresses they come from.
BEHIND: dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]] = {
    "eth0": (
        (NODE_MAC,),
        tuple(map(ip_from_text, ("192.168.0.1", "192.168.0.12", "10.1.2.1", "10.1.2.2"))),
        tuple(map(ip_from_text, ("fd00:192:168::12", "fd00:10:1:2::1"))),
    ),
    "eth1": ((NODE_MAC,), (ip_from_text("203.0.113.9"),), (ip_from_text("2001:db8::9"),)),
    "pod0": ((BRIDGE_MAC, BRIDGE_MAC, MACS[7]), (ip_from_text("10.1.1.1"),), (ip_from_text("fd00:10:1:1::1"),)),
    "pod1": ((BRIDGE_MAC, BRIDGE_MAC, MACS[6]), (ip_from_text("10.1.1.2"),), (ip_from_text("fd00:10:1:1::2"),)),
    "pod2": ((BRIDGE_MAC, BRIDGE_MAC, MACS[6]), (ip_from_text("10.1.1.77"),), (ip_from_text("fd00:10:1:1::77"),)),
}
#: What there are rules for: destination, protocol, port.
SERVICES: tuple[tuple[bytes, int, int], ...] = tuple(
    (ip_from_text(address), protocol, port)
    for address, protocol, port in (
        *(("172.30.0.1", 6, 80), ("172.30.0.10", 17, 53), ("172.30.0.2", 6, 8000), ("192.168.0.11", 6, 30080)),
        *(("198.51.100.7", 17, 80), ("192.168.0.11", 6, 443), ("10.1.2.1", 1, 0), ("192.168.0.11", 17, 123)),
        *(("10.1.1.1", 6, 8080), ("10.1.2.1", 17, 8081), ("192.168.0.11", 6, 22), ("203.0.113.9", 17, 80)),
        *(("10.1.2.1", 132, 7), ("192.168.0.11", 17, 53), ("192.168.0.11", 6, 8443), ("10.1.2.1", 47, 0)),
        *(("fd00:172:30::1", 6, 80), ("fd00:172:30::1", 17, 53), ("fd00:10:1:1::1", 6, 8080)),
        *(("fd00:192:168::11", 6, 8443), ("fd00:192:168::11", 17, 53), ("fd00:10:1:2::1", 58, 0)),
    )
)
PORTS = (0, 1, 20, 53, 80, 123, 443, 1000, 1023, 1024, 4789, 8080, 8081, 8472, 30080, 40000, 40001, 65535)
FLAGS = (0x02, 0x12, 0x10, 0x18, 0x11, 0x14, 0x04, 0x00, 0x29, 0xC2, 0x3F)
#: Transport protocols that nobody here speaks: IGMP, IP in IP, IPv6 in IP, GRE, ESP, AH, IPComp, UDP-Lite, DCCP, none.
OTHERS = (2, 4, 41, 47, 50, 51, 108, 136, 33, 59, 89, 253)
#: Chunks of SCTP in the order of an association's life, and some that have no place in it.
CHUNKS = (1, 2, 10, 11, 0, 3, 4, 5, 7, 8, 14, 6, 9, 63, 193)
#: Options of TCP that no peer sends: cut short, of length 0 or beyond the header, at odd offsets.
#: In IPv4 headers: padding, a router alert, routes that are recorded, timestamps, source routes, CIPSO, unknown ones.
IP_OPTIONS = (
    *(b"\x01\x01\x01\x00", b"\x94\x04\x00\x00", b"\x00\x01\x02\x03", b"\x88\x04\x00\x01", b"\x88\x09\x00\x01"),
    *(b"\x07\x07\x04" + bytes(5), b"\x07\x0b\x08" + bytes(9), b"\x07\x06\x04" + bytes(5), b"\x07\x27\x04" + bytes(37)),
    *(
        b"\x44\x08\x05\x00" + bytes(4),
        b"\x44\x0c\x05\x01" + bytes(8),
        b"\x44\x0c\x05\x03" + bytes(8),
        b"\x44\x04\x05\xf0",
    ),
    *(b"\x83\x07\x04" + bytes(5), b"\x83\x07\x08" + bytes(4) + b"\x88", b"\x89\x03\x04\x00", b"\x86\x08" + bytes(6)),
)
ODD_OPTIONS = (
    *(b"\x01\x02\x04\x05\xb4\x01\x01\x00", b"\x02\x04\x05\xb4", b"\x02\x00\x00\x00", b"\x08\x0a\x00\x00"),
    *(
        b"\x01\x01\x01\x02",
        b"\x05\x22" + bytes(30),
        b"\x05\x08" + bytes(6),
        b"\x13\x12" + bytes(18),
        b"\x1e\xff" + bytes(2),
    ),
    *(bytes(40), b"\x01" * 40, b"\x02\x04" + b"\xff" * 2 + b"\x03\x03\x0e\x00"),
)


class FrameSource:
    """Makes frames, remembering what has been seen so that replies, errors and repetitions occur.

    Args:
        rng: Where all chance comes from.
        valid: Only frames with right headers and checksums.
    """

    def __init__(self, rng: random.Random, *, valid: bool = False) -> None:
        self.rng = rng
        self.valid = valid
        self._seen: deque[tuple[str, bytes]] = deque(maxlen=40)
        self._sequence: dict[tuple[bytes, bytes, int, int], int] = {}
        self._coming: deque[tuple[str, bytes]] = deque()

    def saw(self, interface: str, frame: bytes) -> None:
        """Remember a frame that the node has sent."""
        self._seen.append((interface, frame))

    def next(self) -> tuple[str, bytes]:
        """Make a frame, and say by which interface it arrives."""
        rng = self.rng
        if self._coming and rng.random() < 0.7:
            return self._coming.popleft()
        kind = rng.random()
        interface = rng.choice((*BEHIND, *BEHIND, "cni0", "lo"))
        if self._seen and kind < 0.45:
            interface, frame = rng.choice(self._seen)
            if kind < 0.4:
                frame = self._answer(frame)
        elif kind < 0.5:
            frame = self._arp()
        elif kind < 0.53 and not self.valid:
            frame = rng.randbytes(rng.choice((0, 1, 13, 14, 15, 33, 34, 60, 200)))
        elif interface in BEHIND and kind < 0.56:
            frame = self._fragments(interface)
        elif interface in BEHIND and kind < 0.9:
            frame = self._plausible(interface)
        else:
            packet = self._packet()
            frame = ethernet(rng.choice(MACS), rng.choice(MACS[4:10]), self._ethertype(packet), packet)
        self._seen.append((interface, frame))
        return interface, frame if self.valid or rng.random() < 0.8 else self._broken(frame)

    def local(self) -> bytes:
        """A packet that the node itself sends."""
        rng = self.rng
        daddr, protocol, port = rng.choice(SERVICES)
        four = ("192.168.0.11", "10.1.1.254", "127.0.0.1", "169.254.20.10")
        saddr = ip_from_text(rng.choice(four if len(daddr) == 4 else ("fd00:192:168::11", "fd00:10:1:1::fe")))
        if rng.random() < 0.3:
            daddr = rng.choice(ADDRESSES4 if len(saddr) == 4 else ADDRESSES6)
        return self._packed(saddr, daddr, *self._to(saddr, daddr, protocol, port))

    @staticmethod
    def _ethertype(packet: bytes) -> int:
        return ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6

    def _plausible(self, interface: str) -> bytes:
        """A frame from somebody who is behind that interface, mostly to a service."""
        rng = self.rng
        macs, four, six = BEHIND[interface]
        daddr, protocol, port = rng.choice(SERVICES)
        if rng.random() < 0.2:
            daddr = rng.choice(ADDRESSES4 if len(daddr) == 4 else ADDRESSES6)
        saddr = rng.choice(four if len(daddr) == 4 else six)
        packet = self._packed(saddr, daddr, *self._to(saddr, daddr, protocol, port))
        return ethernet(rng.choice(macs), rng.choice(MACS[4:10]), self._ethertype(packet), packet)

    def _fragments(self, interface: str) -> bytes:
        """The first of some fragments of one packet; the others come soon: in any order, twice, not at all, or not as
        the first ones said."""
        rng = self.rng
        macs, four, six = BEHIND[interface]
        daddr, protocol, port = rng.choice(SERVICES)
        saddr = rng.choice(four if len(daddr) == 4 else six)
        protocol, segment = self._to(saddr, daddr, protocol, port)
        if not self.valid:
            segment += rng.randbytes(rng.choice((0, 40, 600, 3000)))
            segment = segment[: rng.choice((1, 8, 15, 60, len(segment)))]
        size = rng.choice((8, 16, 24, 64, 552, 1448, 1480))
        count = min(-(-len(segment) // size), 12)
        identification = rng.randrange(1 << 16)
        pieces = []
        for index in range(count):
            start, end, more = size * index, size * (index + 1), index < count - 1
            data = segment[start:end] if more else segment[start : start + 9000]
            if not self.valid and rng.random() < 0.1:
                start, more = max(0, start + rng.choice((-8, 8, 65000))), rng.random() < 0.5
                data = data + bytes(rng.choice((0, 1, 8, 40)))
            pieces.append(self._fragment(saddr, daddr, protocol, identification, min(start, 65528), data, more=more))
        if rng.random() < 0.4:
            rng.shuffle(pieces)
        if rng.random() < 0.2:
            pieces.append(rng.choice(pieces))
        if rng.random() < 0.2:
            del pieces[rng.randrange(len(pieces))]
        mac, source = rng.choice(macs), rng.choice(MACS[4:10])
        frames = [ethernet(mac, source, self._ethertype(packet), packet) for packet in pieces]
        self._coming.extend((interface, frame) for frame in frames[1:])
        return frames[0] if frames else self._arp()

    def _fragment(
        self, saddr: bytes, daddr: bytes, protocol: int, identification: int, start: int, data: bytes, *, more: bool
    ) -> bytes:
        rng = self.rng
        if len(saddr) == 16:
            segment = ipv6_fragment(protocol, data, identification=identification, offset=start, more=more)
            return ipv6(saddr, daddr, 44, segment)
        return ipv4(
            *(saddr, daddr, protocol, data),
            identification=identification,
            fragment_offset=start,
            more_fragments=more,
            options=rng.choice((b"", b"", b"", b"\x07\x07\x04\x00\x00\x00\x00\x00")),
        )

    def _to(self, saddr: bytes, daddr: bytes, protocol: int, port: int) -> tuple[int, bytes]:
        rng = self.rng
        sport = rng.choice((40000, 40001, 1000, 7))
        if protocol == IPPROTO_SCTP:
            return IPPROTO_SCTP, self._sctp(rng.choice((7, 40000)), port)
        if protocol == IPPROTO_GRE:
            return IPPROTO_GRE, self._gre()
        if protocol == IPPROTO_TCP:
            return IPPROTO_TCP, self._tcp(saddr, daddr, sport, port, rng.choice((0x02, 0x02, 0x02, *FLAGS)))
        if protocol == IPPROTO_UDP:
            return IPPROTO_UDP, udp(saddr, daddr, sport, port, self._payload())
        return self._icmp(saddr, daddr)

    # --- valid ones

    def _arp(self) -> bytes:
        rng = self.rng
        body = arp(
            rng.choice((1, 1, 2)), rng.choice(MACS), rng.choice(ADDRESSES4), rng.choice(MACS), rng.choice(ADDRESSES4)
        )
        return ethernet(rng.choice(MACS), rng.choice(MACS[4:10]), ETH_P_ARP, body + bytes(rng.choice((0, 18))))

    def _packet(self) -> bytes:
        """An IP packet."""
        rng = self.rng
        six = rng.random() < 0.25
        pool: Sequence[bytes] = ADDRESSES6 if six else ADDRESSES4
        saddr, daddr = rng.choice(pool), rng.choice(pool)
        protocol, segment = self._segment(saddr, daddr)
        return self._packed(saddr, daddr, protocol, segment)

    def _packed(self, saddr: bytes, daddr: bytes, protocol: int, segment: bytes) -> bytes:
        rng = self.rng
        ttl = rng.choice((64, 64, 64, 64, 63, 255, 2, 1, 0))
        if len(saddr) == 16:
            if rng.random() < 0.1:
                offset = rng.choice((0, 8, 1448))
                segment = ipv6_fragment(
                    protocol, segment, identification=rng.randrange(4), offset=offset, more=rng.random() < 0.5
                )
                protocol = 44
            while rng.random() < 0.15:
                protocol, segment = self._extended(protocol, segment)
            return ipv6(saddr, daddr, protocol, segment[:60000], hop_limit=ttl, traffic_class=rng.choice((0, 3, 184)))
        fragment = rng.random() < 0.1
        return ipv4(
            *(saddr, daddr, protocol, segment[:60000]),
            ttl=ttl,
            tos=rng.choice((0, 0, 3, 0x10, 0xB8)),
            identification=rng.randrange(4),
            dont_fragment=not fragment and rng.random() < 0.5,
            more_fragments=fragment and rng.random() < 0.6,
            fragment_offset=rng.choice((0, 0, 8, 16, 24, 1480, 65528)) if fragment else 0,
            options=b"" if rng.random() < 0.6 else rng.choice(IP_OPTIONS),
        )

    def _extended(self, following: int, segment: bytes) -> tuple[int, bytes]:
        """An IPv6 extension header in front: hop-by-hop, routing, destination options, authentication."""
        rng = self.rng
        kind = rng.choice((0, 43, 60, 51))
        if self.valid:
            return (60, bytes((following, 0, 1, 4, 0, 0, 0, 0)) + segment) if kind != 51 else (following, segment)
        if kind == 51:
            return kind, bytes((following, rng.choice((1, 4, 0, 255)))) + rng.randbytes(10 + 12) + segment
        units = rng.choice((0, 0, 1, 4, 200))
        body = rng.choice((b"\x01\x04" + bytes(4), b"\x00\x00\x00\x00\x00\x00", b"\x05\x02\x00\x00\x01\x00"))
        if kind == 43:
            body = bytes((rng.choice((0, 2, 4)), rng.choice((0, 1, 3)))) + bytes(4)
        return kind, bytes((following, units)) + body + rng.randbytes(8 * min(units, 4)) + segment

    def _sctp(self, sport: int, dport: int) -> bytes:
        """An SCTP packet, most of them with a right checksum."""
        rng = self.rng
        chunks = b""
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            kind = rng.choice(CHUNKS)
            body = struct.pack("!IIHHI", rng.choice((1, 1, 2, 0)), 0xFFFF, 1, 1, 1) if kind in (1, 2) else bytes(12)
            length = 4 + len(body) if self.valid or rng.random() < 0.85 else rng.choice((0, 1, 3, 4, 5, 400, 65535))
            chunks += struct.pack("!BBH", kind, rng.choice((0, 0, 1)), length) + body
        if not self.valid and rng.random() < 0.2:
            chunks = chunks[: rng.randrange(len(chunks))]
        head = struct.pack("!HHI", sport, dport, rng.choice((1, 1, 2, 0)))
        check = crc32c(head + bytes(4) + chunks) if self.valid or rng.random() < 0.9 else rng.randrange(1 << 32)
        return head + check.to_bytes(4, "little") + chunks

    def _gre(self) -> bytes:
        """GRE of both versions, with and without a key."""
        rng = self.rng
        head = rng.choice((b"\0\0\x08\0", b"\x20\0\x08\0", b"\x20\x01\x88\x0b", b"\xb0\x81\x88\x0b", b"\0\7\0\0"))
        return (head + struct.pack("!HHI", 20, rng.choice((1, 2)), 7) + bytes(20))[: rng.choice((3, 4, 8, 12, 32))]

    def _payload(self) -> bytes:
        return self.rng.choice((b"", b"x", b"hello", bytes(100), b"GET / HTTP/1.1\r\n\r\n", bytes(1400), bytes(2000)))

    def _segment(self, saddr: bytes, daddr: bytes) -> tuple[int, bytes]:
        rng = self.rng
        sport, dport = rng.choice(PORTS), rng.choice(PORTS)
        match rng.choice(("tcp", "tcp", "tcp", "udp", "udp", "icmp", "vxlan", "sctp", "gre", "other")):
            case "tcp":
                return IPPROTO_TCP, self._tcp(saddr, daddr, sport, dport, rng.choice(FLAGS))
            case "udp":
                with_checksum = len(saddr) == 16 or rng.random() < 0.8
                return IPPROTO_UDP, udp(saddr, daddr, sport, dport, self._payload(), with_checksum=with_checksum)
            case "vxlan" if len(saddr) == 4:
                inner = ethernet(TUNNEL_MAC, rng.choice(MACS[4:10]), ETH_P_IP, self._packet())
                return IPPROTO_UDP, udp(saddr, daddr, sport, 8472, vxlan(rng.choice((1, 1, 2)), inner)[:9000])
            case "icmp":
                return self._icmp(saddr, daddr)
            case "sctp":
                return IPPROTO_SCTP, self._sctp(sport, dport)
            case "gre":
                return IPPROTO_GRE, self._gre()
            case _:
                return rng.choice(OTHERS), rng.randbytes(rng.randrange(40))

    def _tcp(self, saddr: bytes, daddr: bytes, sport: int, dport: int, flags: int) -> bytes:
        rng = self.rng
        key = (saddr, daddr, sport, dport)
        seq = self._sequence.get(key, rng.choice((0, 1, 1000, 0x7FFFFFFF, 0xFFFFFFF0)))
        seq = (seq + rng.choice((0, 0, 0, 0, 1, -1, 70000))) & 0xFFFFFFFF
        ack = self._sequence.get((daddr, saddr, dport, sport), rng.choice((0, 1, 1001)))
        payload = b"" if flags & TcpFlag.SYN or rng.random() < 0.5 else self._payload()
        options = b""
        if flags & TcpFlag.SYN:
            options = tcp_options(
                mss=rng.choice((0, 536, 1460)), sack_permitted=True, timestamps=(1, 0), window_scale=7
            )
        elif rng.random() < 0.3:
            options = tcp_options(timestamps=(2, 1), sack_blocks=((ack, (ack + 9) & 0xFFFFFFFF),))
        if not self.valid and rng.random() < 0.1:
            options = rng.choice(ODD_OPTIONS)
        self._sequence[key] = (seq + len(payload) + bool(flags & 3)) & 0xFFFFFFFF
        return tcp(
            *(saddr, daddr, sport, dport, payload),
            seq=seq,
            ack=ack,
            flags=flags,
            window=rng.choice((0, 1, 63, 65535)),
            options=options,
        )

    def _icmp(self, saddr: bytes, daddr: bytes) -> tuple[int, bytes]:
        rng = self.rng
        quoted = b""
        if self._seen and rng.random() < 0.6:
            view = FrameView(rng.choice(self._seen)[1])
            quoted = view.data[: rng.choice((0, 1, 8, 20, 21, 28, 32, 40, 47, 48, 62, 576))] if view.version else b""
            if quoted and not self.valid and rng.random() < 0.1:
                damaged = bytearray(quoted)
                damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 0x45, 0x4F, 0xFF))
                quoted = bytes(damaged)
        if len(saddr) == 16:
            kind = rng.choice((1, 2, 3, 4, 128, 129, 133, 135, 136, 143))
            return IPPROTO_ICMPV6, icmpv6(saddr, daddr, kind, rng.randrange(5), rng.choice((0, 1280, 0x10001)), quoted)
        kind = rng.choice((0, 3, 3, 4, 5, 8, 8, 11, 12, 13, 14, 17, 30))
        return IPPROTO_ICMP, icmp(kind, rng.randrange(16), rng.choice((0, 68, 1400, 0x12340001)), quoted)

    def _answer(self, frame: bytes) -> bytes:
        """What the receiver of a frame might send back."""
        rng = self.rng
        view = FrameView(frame)
        if not view.version or view.transport < 0 or view.is_fragment:
            return self._arp()
        saddr, daddr = view.daddr, view.saddr
        if view.protocol == IPPROTO_TCP:
            answers = {0x02: (0x12, 0x12, 0x14, 0x02), 0x12: (0x10, 0x10, 0x04), 0x11: (0x11, 0x10, 0x14)}
            flags = rng.choice(answers.get(int(view.tcp_flags) & 0x3F, (0x10, 0x18, 0x11, 0x14)))
            protocol, segment = IPPROTO_TCP, self._tcp(saddr, daddr, view.dport, view.sport, flags)
        elif view.protocol == IPPROTO_UDP:
            protocol, segment = IPPROTO_UDP, udp(saddr, daddr, view.dport, view.sport, self._payload())
        elif view.protocol == IPPROTO_ICMP and view.icmp_type == 8 and rng.random() < 0.7:
            protocol, segment = IPPROTO_ICMP, icmp(0, 0, view.icmp_rest, view.payload)
        elif view.protocol == IPPROTO_SCTP and rng.random() < 0.8:
            protocol, segment = IPPROTO_SCTP, self._sctp(view.dport, view.sport)
        elif view.protocol == IPPROTO_GRE and rng.random() < 0.8:
            protocol, segment = IPPROTO_GRE, self._gre()
        else:
            protocol, segment = self._icmp(saddr, daddr)
        packet = self._packed(saddr, daddr, protocol, segment)
        mac = multicast_mac(daddr) if daddr[0] == 0xFF and len(daddr) == 16 else view.src_mac
        return ethernet(mac, view.dst_mac, self._ethertype(packet), packet)

    # --- broken ones

    def _broken(self, frame: bytes) -> bytes:
        rng = self.rng
        data = bytearray(frame)
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            if data:
                # Headers are where it hurts.
                data[min(int(rng.expovariate(1 / 20)), len(data) - 1)] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
                )
        if rng.random() < 0.2 and len(data) > 14:
            at = rng.choice((14, 16, 17, 20, 22, 23, 46, 47))
            if at < len(data):
                data[at] = rng.randrange(256)
        choice = rng.random()
        if choice < 0.25:
            del data[rng.randrange(len(data) + 1) :]
        elif choice < 0.35:
            data += rng.randbytes(rng.choice((1, 7, 46)))
        elif choice < 0.4:
            data[12:12] = rng.choice((b"\x81\x00", b"\x81\x00", b"\x88\xa8")) + rng.randbytes(2)
        if rng.random() < 0.7:
            self._mend_ip_header(data)
        return bytes(data)

    @staticmethod
    def _mend_ip_header(data: bytearray) -> None:
        """Make the header checksum right again, so that the rest of the damage gets further."""
        if len(data) >= 34 and data[12:14] == b"\x08\x00":
            end = 14 + max(20, (data[14] & 15) * 4)
            if len(data) >= end:
                data[24:26] = b"\0\0"
                data[24:26] = checksum(data[14:end]).to_bytes(2, "big")
