"""Small worlds for the tests of namespaces: a host whose links end in the test."""

from __future__ import annotations

from dataclasses import dataclass, field

from pktsim.clock import NS_PER_S, Clock
from pktsim.kernel.arp import ArpPacket
from pktsim.kernel.capture import Capture
from pktsim.kernel.netns import Netns
from pktsim.rng import SeededChoices
from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import FrameView

HOST_MAC = "02:00:00:00:00:01"
PEER_MAC = "02:00:00:00:00:99"
BROADCAST = "ff:ff:ff:ff:ff:ff"


def ip(text: str) -> bytes:
    return ip_from_text(text)


def mac(text: str) -> bytes:
    return mac_from_text(text)


@dataclass
class Host:
    """One namespace whose links end in the test: what it sends is collected, what it receives is given."""

    netns: Netns
    clock: Clock
    capture: Capture
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def link(self, name: str, *addresses: str, mac: str = HOST_MAC, mtu: int = 0) -> None:
        device = self.netns.link_add(name, mac=mac, mtu=mtu)
        device.carry = lambda frame: self.sent.append((name, frame))
        for address in addresses:
            self.netns.address_add(name, address)

    def give(self, name: str, frame: bytes) -> None:
        self.netns.receive(self.netns.devices.named(name).ifindex, frame)

    def give_ip(self, name: str, packet: bytes, *, dst: str = HOST_MAC, src: str = PEER_MAC) -> None:
        self.give(name, build.ethernet(mac_from_text(dst), mac_from_text(src), 0x0800, packet))

    def give_arp(self, name: str, packet: ArpPacket, *, dst: str = BROADCAST, src: str = PEER_MAC) -> None:
        self.give(name, build.ethernet(mac_from_text(dst), mac_from_text(src), 0x0806, packet.pack()))

    def run(self, seconds: float) -> None:
        self.clock.run_for(round(seconds * NS_PER_S))

    def take(self) -> list[tuple[str, bytes]]:
        """What was sent since the last call."""
        sent, self.sent[:] = list(self.sent), []
        return sent

    def take_views(self) -> list[FrameView]:
        return [FrameView(frame) for _, frame in self.take()]

    def take_arps(self) -> list[tuple[str, bytes, ArpPacket]]:
        """The ARP packets sent since the last call: interface, destination MAC, packet; there must be no others."""
        result = []
        for name, frame in self.take():
            assert frame[12:14] == b"\x08\x06", frame.hex()
            packet = ArpPacket.unpack(frame[14:])
            assert packet is not None
            result.append((name, frame[:6], packet))
        return result


def host(*, name: str = "host", seed: int = 0, forward: bool = False) -> Host:
    clock = Clock(NS_PER_S)
    capture = Capture()
    netns = Netns(name, clock=clock, choices=SeededChoices(seed), capture=capture)
    if forward:
        netns.sysctl_set("net.ipv4.ip_forward", 1)
    return Host(netns, clock, capture)


def known_peer(world: Host, name: str, address: str, peer_mac: str = PEER_MAC) -> None:
    """A permanent neighbour, so that no ARP is sent."""
    world.netns.neighbour_add(name, address, peer_mac)


def request(sip: str, tip: str, sha: str = PEER_MAC) -> ArpPacket:
    return ArpPacket(1, mac(sha), ip(sip), bytes(6), ip(tip))


def reply(sip: str, tip: str, *, sha: str = PEER_MAC, tha: str = HOST_MAC) -> ArpPacket:
    return ArpPacket(2, mac(sha), ip(sip), mac(tha), ip(tip))


def udp_packet(
    saddr: str, daddr: str, *, sport: int = 4000, dport: int = 53, data: bytes = b"hello", ttl: int = 64,
    dont_fragment: bool = False, identification: int = 1, tos: int = 0,
) -> bytes:  # fmt: skip
    source, destination = ip(saddr), ip(daddr)
    datagram = build.udp(source, destination, sport, dport, data)
    return build.ipv4(
        source, destination, 17, datagram, ttl=ttl, dont_fragment=dont_fragment, identification=identification, tos=tos
    )


def echo_packet(saddr: str, daddr: str, *, data: bytes = b"abcdefgh", ttl: int = 64, tos: int = 0) -> bytes:
    return build.ipv4(ip(saddr), ip(daddr), 1, build.icmp(8, 0, 0x12340001, data), ttl=ttl, tos=tos, identification=7)
