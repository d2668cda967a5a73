"""Hosts joined by wires that delay, lose, repeat and reorder: an IP layer just deep enough for sockets."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pktsim.clock import NS_PER_US, Clock
from pktsim.kernel.ip import OutputRoute
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.tcp_segment import Segment, parse_segment
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.timer_wheel import TimerWheel
from pktsim.kernel.transport import IpPacket, build_ip, parse_ip
from pktsim.netfilter.opcodes import DropReason
from pktsim.rng import Choices, SeededChoices
from pktsim.wire.addr import ip_from_text, is_loopback
from pktsim.wire.checksum import checksum
from pktsim.wire.frame import IPPROTO_TCP

WIRE_NS = 5 * NS_PER_US


@dataclass
class Wire:
    """What happens to each packet: a function from its number to the delays of its copies (none: lost)."""

    fate: Callable[[int, IpPacket], list[int]] = field(default=lambda number, packet: [WIRE_NS])
    count: int = 0


@dataclass(frozen=True)
class Seen:
    """One packet as it was put on the wire."""

    at_ns: int
    host: str
    packet: IpPacket

    @property
    def segment(self) -> Segment:
        segment = parse_segment(self.packet.payload)
        assert segment is not None
        return segment


class World:
    """All hosts, one clock, one log of everything sent."""

    def __init__(self, *, choices: Choices | None = None) -> None:
        self.clock = Clock()
        self.choices: Choices = SeededChoices(1) if choices is None else choices
        self.hosts: dict[bytes, Host] = {}
        self.log: list[Seen] = []
        self.wire = Wire()

    def host(
        self,
        name: str,
        *addresses: str,
        mtu: int = 1500,
        tcp: TcpSettings | None = None,
        wheel: TimerWheel | None = None,
    ) -> Host:
        return Host(self, name, [ip_from_text(text) for text in addresses], mtu, tcp, wheel)

    def segments(self) -> list[str]:
        """The log in tcpdump's manner, with relative sequence numbers."""
        return [line for _, line in self.timed_segments()]

    def timed_segments(self) -> list[tuple[int, str]]:
        base: dict[tuple[bytes, int, bytes, int], int] = {}
        lines: list[tuple[int, str]] = []
        for seen in self.log:
            packet = seen.packet
            if packet.protocol != IPPROTO_TCP:
                continue
            s = seen.segment
            key = (packet.saddr, s.sport, packet.daddr, s.dport)
            if s.flags & 2:
                base[key] = s.seq
            back = base.get((packet.daddr, s.dport, packet.saddr, s.sport), s.ack)
            letters = "".join(c for bit, c in ((2, "S"), (1, "F"), (4, "R"), (8, "P"), (16, ".")) if s.flags & bit)
            start = (s.seq - base.get(key, s.seq)) & 0xFFFFFFFF
            text = f"{seen.host} {letters}"
            if s.payload or s.flags & 7:
                text += f" {start}:{start + len(s.payload)}"
            if s.flags & 16:
                text += f" ack {(s.ack - back) & 0xFFFFFFFF}"
            text += f" win {s.window}"
            if s.sack:
                blocks = ",".join(f"{(a - back) & 0xFFFFFFFF}-{(b - back) & 0xFFFFFFFF}" for a, b in s.sack)
                text += f" sack {blocks}"
            lines.append((seen.at_ns, text))
        return lines

    def carry(self, packet: IpPacket) -> None:
        host = self.hosts.get(packet.daddr)
        if host is not None:
            host.receive(packet, 2)

    def send_icmp(self, packet: IpPacket, kind: int, code: int, *, mtu: int = 0) -> None:
        """An ICMPv4 error about ``packet``, from the host it was for."""
        message = bytes((kind, code)) + bytes(4) + mtu.to_bytes(2, "big") + packet.data[:548]
        message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        error = parse_ip(build_ip(packet.daddr, packet.saddr, 1, message, ttl=64, df=False))
        assert error is not None
        self.clock.after(WIRE_NS, lambda: self.carry(error))


class Host:
    """One namespace: an :class:`~pktsim.kernel.transport.IpStack` with a :class:`SocketLayer` on top."""

    def __init__(
        self,
        world: World,
        name: str,
        addresses: list[bytes],
        mtu: int,
        tcp: TcpSettings | None,
        wheel: TimerWheel | None,
    ) -> None:
        self.world = world
        self.wheel = wheel
        self.name = name
        self.addresses = addresses
        self.mtu = mtu
        self.path_mtu: dict[bytes, int] = {}
        self.unreachable: set[bytes] = set()
        self.next_id = 1
        self.confirmed: list[bytes] = []
        for address in addresses:
            world.hosts[address] = self
        self.sockets = SocketLayer(self, tcp=tcp)
        self.dropped_late: list[DropReason] = []

    @property
    def clock(self) -> Clock:
        return self.world.clock

    @property
    def choices(self) -> Choices:
        return self.world.choices

    def options_of_answer(self, header: bytes, saddr: bytes) -> bytes | None:
        del header, saddr
        return b""

    def is_local(self, address: bytes) -> bool:
        return address in self.addresses or is_loopback(address)

    def route_output(self, daddr: bytes, *, saddr: bytes = b"", ifindex: int = 0, mark: int = 0) -> OutputRoute:
        if self.is_local(daddr):
            return OutputRoute(saddr or daddr, 1, 65536, True, False)
        if daddr in self.unreachable:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        own = saddr or next(address for address in self.addresses if len(address) == len(daddr))
        broadcast = daddr == b"\xff\xff\xff\xff"
        return OutputRoute(own, 2, min(self.mtu, self.path_mtu.get(daddr, self.mtu)), False, broadcast)

    def holds_segment(self, seq: int) -> bool:
        return False

    def confirm_neighbour(self, daddr: bytes) -> None:
        self.confirmed.append(daddr)

    def update_pmtu(self, daddr: bytes, mtu: int, *, mark: int = 0) -> None:
        self.path_mtu[daddr] = mtu

    def next_ip_id(self, saddr: bytes, daddr: bytes, protocol: int, segments: int = 1) -> int:
        self.next_id += segments
        return self.next_id - segments

    def packet_dropped(self, pkt_id: int, reason: DropReason) -> None:
        self.dropped_late.append(reason)

    def sysctl(self, name: str) -> int:
        return {"net.ipv4.ip_default_ttl": 64, "net.ipv6.auto_flowlabels": 1}[name]

    def hop_limit(self, ifindex: int) -> int:
        return 64

    def send_ip(
        self, packet: bytes, *, ifindex: int = 0, mark: int = 0, uid: int = 0, checksum_partial: bool = False
    ) -> None:
        parsed = parse_ip(packet)
        assert parsed is not None
        assert parsed.end == len(packet)
        if len(parsed.saddr) == 4:
            assert checksum(packet[:20]) == 0
        world = self.world
        world.log.append(Seen(self.clock.now_ns, self.name, parsed))
        if self.is_local(parsed.daddr):
            self.clock.after(0, lambda: self.receive(parsed, 1))
            return
        number = world.wire.count
        world.wire.count += 1
        for delay_ns in world.wire.fate(number, parsed):
            self.clock.after(delay_ns, lambda: world.carry(parsed))

    def receive(self, packet: IpPacket, ifindex: int) -> None:
        if packet.protocol in (1, 58) and packet.payload and packet.payload[0] in _ERRORS[packet.protocol]:
            self.sockets.icmp_error(packet.data, ifindex=ifindex)
        unwanted = self.sockets.deliver(packet.data, ifindex=ifindex) is DropReason.NO_SOCKET
        if unwanted and packet.protocol == 17:
            self.world.send_icmp(packet, 3, 3)


_ERRORS = {1: (3, 11, 12), 58: (1, 2, 3, 4)}


def random_wire(seed: int, *, loss: float, repeat: float, jitter_ns: int) -> Wire:
    """A wire that loses, repeats and reorders by chance."""
    chance = random.Random(seed)

    def fate(number: int, packet: IpPacket) -> list[int]:
        if chance.random() < loss:
            return []
        delays = [WIRE_NS + chance.randrange(jitter_ns + 1)]
        if chance.random() < repeat:
            delays.append(WIRE_NS + chance.randrange(jitter_ns + 1))
        return delays

    return Wire(fate)
