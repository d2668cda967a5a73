"""What shipped scenarios say of the running kernel, asked of the running kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.live.netns import Link, Namespace

pytestmark = pytest.mark.live

_MACS = {"pod1": "02:00:00:00:00:01", "pod2": "02:00:00:00:00:02", "out": "02:00:00:00:00:03"}
_FAR = "02:ff:00:00:00:01"
_OUTSIDE = "203.0.113.9"
_MASQUERADE = "*nat\n-A POSTROUTING -o out -j MASQUERADE\nCOMMIT\n"


@pytest.fixture
def node() -> Iterator[Namespace]:
    """Two pods and an uplink; connection tracking and MASQUERADE."""
    links = [
        Link("pod1", _MACS["pod1"], ("10.244.1.1/32",)),
        Link("pod2", _MACS["pod2"], ("10.244.1.1/32",)),
        Link("out", _MACS["out"], ("192.168.1.11/24",)),
    ]
    routes = ["10.244.1.9 dev pod1", "10.244.1.10 dev pod2", "default via 192.168.1.1 dev out"]
    neighbours = [("10.244.1.9", _FAR, "pod1"), ("10.244.1.10", _FAR, "pod2"), ("192.168.1.1", _FAR, "out")]
    sysctls = {"net.ipv4.ip_forward": 1}
    with Namespace(links, routes=routes, neighbours=neighbours, sysctls=sysctls) as made:
        made.iptables_restore(_MASQUERADE)
        yield made


def datagram(pod: int, sport: int, *, transport: type[Packet] = UDP, **fields: object) -> bytes:
    """A packet of a pod for the world outside."""
    segment = transport(sport=sport, dport=53, **fields)
    packet = Ether(src=_FAR, dst=_MACS[f"pod{pod}"]) / IP(src=f"10.244.1.{8 + pod}", dst=_OUTSIDE) / segment
    return bytes(packet)


def counters(node: Namespace) -> dict[str, int]:
    """Connection tracking counters of all processors together."""
    found: dict[str, int] = {}
    for name, value in re.findall(r"(\w+)=(\d+)", node.run("conntrack", "-S")):
        found[name] = found.get(name, 0) + int(value)
    return found


@pytest.mark.parametrize(("transport"), [UDP, TCP])
def test_masquerade_of_a_low_port_has_511_to_choose_from(node: Namespace, transport: type[Packet]) -> None:
    for sport in range(1, 512):
        node.send("pod1", datagram(1, sport, transport=transport))
    assert len([one for one in node.frames() if one.interface == "out"]) == 511
    before = counters(node)
    assert node.exchange("pod2", datagram(2, 300, transport=transport)) == []
    after = counters(node)
    print({name: (before[name], after[name]) for name in after if before[name] != after[name]})
    assert after["insert_failed"] - before["insert_failed"] == 1
    # One port above, the range is another.
    (frame,) = node.exchange("pod2", datagram(2, 512, transport=transport))
    assert Ether(frame.frame)[transport].sport == 512
    (frame,) = node.exchange("pod1", datagram(1, 512, transport=transport))
    assert 600 <= Ether(frame.frame)[transport].sport <= 1023
