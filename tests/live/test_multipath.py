"""Routes with several next hops: with a set seed the running kernel and ours send every flow the same way."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

import pktsim
from tests.live.netns import Link, Namespace

pytestmark = pytest.mark.live

_FAR = "02:ff:00:00:00:01"
VIP = "198.51.100.20"
LINKS = [Link(f"w{number}", f"02:00:00:00:00:0{number}", (f"10.{number}.0.1/24",)) for number in range(4)]
NEIGHBOURS = [(f"10.{number}.0.2", _FAR, f"w{number}") for number in range(4)]
ROUTE = (
    f"{VIP} nexthop via 10.1.0.2 dev w1 weight 1 nexthop via 10.2.0.2 dev w2 weight 3 "
    "nexthop via 10.3.0.2 dev w3 weight 2"
)


def flows() -> list[bytes]:
    """TCP, UDP, echo requests, ICMP errors and fragments, from several clients."""
    made: list[Packet] = []
    for number in range(8):
        way = IP(src=f"10.0.0.{9 + number % 5}", dst=VIP)
        about = IP(src=VIP, dst=f"10.0.0.{100 + number}") / UDP(sport=number, dport=7)
        made += [
            way / TCP(sport=1000 + number, dport=80, flags="S"),
            way / UDP(sport=1000 + number, dport=53) / b"hello",
            way / ICMP(type=8, id=number) / b"hello",
            way / ICMP(type=3, code=3) / about,
            IP(src=way.src, dst=VIP, flags="MF", id=number) / UDP(sport=number, dport=53) / bytes(16),
        ]
    return [bytes(Ether(src=_FAR, dst=LINKS[0].mac) / packet) for packet in made]


def ours(sysctls: Mapping[str, int]) -> pktsim.Kernel:
    kernel = pktsim.Kernel()
    for link in LINKS:
        kernel.interface(link.name, *link.addresses, mac=link.mac)
    for name, value in sysctls.items():
        kernel.sysctl(name, value)
    for address, mac, device in NEIGHBOURS:
        kernel.neighbour(address, mac, device)
    kernel.route(ROUTE)
    return kernel


def settings(policy: int, seed: int) -> dict[str, int]:
    return {
        "net.ipv4.ip_forward": 1,
        "net.ipv4.conf.all.rp_filter": 0,
        "net.ipv4.conf.default.rp_filter": 0,
        "net.ipv4.fib_multipath_hash_policy": policy,
        "net.ipv4.fib_multipath_hash_seed": seed,
    }


@pytest.mark.parametrize(("policy", "seed"), [(0, 1), (0, 0xDEADBEEF), (1, 1), (1, 0xDEADBEEF)])
def test_every_flow_takes_the_same_next_hop(policy: int, seed: int) -> None:
    sysctls = settings(policy, seed)
    kernel = ours(sysctls)
    with Namespace(LINKS, routes=[ROUTE], neighbours=NEIGHBOURS, sysctls=sysctls) as node:
        lines = node.run("ip", "route", "show", VIP).split()
        assert " ".join(lines) == kernel.netns.routes()[-1]
        taken = []
        for frame in flows():
            (real,) = node.exchange("w0", frame)
            ((interface, _),) = kernel.receive("w0", frame).sent
            assert interface == real.interface
            taken.append(interface)
    assert len(set(taken)) == 3


@pytest.mark.parametrize("policy", [0, 1])
def test_a_host_prefers_the_next_hop_that_has_its_address(policy: int) -> None:
    sysctls = settings(policy, 7)
    kernel = ours(sysctls)
    with Namespace(LINKS, routes=[ROUTE], neighbours=NEIGHBOURS, sysctls=sysctls) as node:
        for source in ("10.0.0.1", "10.1.0.1", "10.2.0.1", "10.3.0.1"):
            for sport in range(1000, 1006):
                ports = ("ipproto", "udp", "sport", str(sport), "dport", "53")
                words = node.run("ip", "route", "get", VIP, "from", source, *ports).split()
                packet = IP(src=source, dst=VIP) / UDP(sport=sport, dport=53)
                ((interface, _),) = kernel.send(bytes(packet)).sent
                assert interface == words[words.index("dev") + 1], (source, sport)
