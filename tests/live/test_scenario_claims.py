"""What shipped scenarios say of the running kernel, asked of the running kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.live.netns import Link, Namespace, Seen

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


_LOCALNET_MAC = "02:00:00:00:00:04"


@pytest.fixture
def two_cards() -> Iterator[Namespace]:
    """A node with two cards, one with two addresses, and route_localnet."""
    links = [
        Link("eth0", _LOCALNET_MAC, ("192.168.1.11/24", "192.168.1.111/24")),
        Link("eth1", "02:00:00:00:00:05", ("172.16.0.1/24",)),
    ]
    sysctls = {"net.ipv4.conf.all.route_localnet": 1, "net.ipv4.conf.all.rp_filter": 0}
    neighbours = [("192.168.1.200", _FAR, "eth0")]
    with Namespace(links, neighbours=neighbours, sysctls=sysctls) as made:
        yield made


def _syn(source: str, target: str, dport: int = 30080) -> bytes:
    packet = Ether(src=_FAR, dst=_LOCALNET_MAC) / IP(src=source, dst=target) / TCP(sport=4000, dport=dport, flags="S")
    return bytes(packet)


def test_addrtype_local_is_any_address_of_any_device(two_cards: Namespace) -> None:
    two_cards.run("ip", "address", "add", "192.0.2.7/32", "dev", "lo")
    two_cards.iptables_restore("*filter\n-A INPUT -p tcp -m addrtype --dst-type LOCAL -j REJECT\nCOMMIT\n")
    for target in ("192.168.1.11", "192.168.1.111", "172.16.0.1", "192.0.2.7"):
        (frame,) = two_cards.exchange("eth0", _syn("192.168.1.200", target))
        assert Ether(frame.frame)[IP].src == target


def test_with_route_localnet_a_neighbour_is_answered_from_127_0_0_1(two_cards: Namespace) -> None:
    (reset,) = two_cards.exchange("eth0", _syn("192.168.1.200", "127.0.0.1"))
    assert (Ether(reset.frame)[IP].src, str(Ether(reset.frame)[TCP].flags)) == ("127.0.0.1", "RA")
    # a neighbour whose MAC it does not know is asked for it in that name
    (question,) = two_cards.exchange("eth0", _syn("192.168.1.201", "127.0.0.1"))
    assert Ether(question.frame)[ARP].psrc == "127.0.0.1"
    two_cards.sysctl("net.ipv4.conf.all.route_localnet", 0)
    assert two_cards.exchange("eth0", _syn("192.168.1.200", "127.0.0.1")) == []


def test_a_gratuitous_request_moves_a_known_address_at_once_and_makes_no_new_entry(two_cards: Namespace) -> None:
    """What MetalLB sends: request and reply, both to and about the same address, target hardware address broadcast."""
    other = "02:ff:00:00:00:02"
    two_cards.sysctl("net.ipv4.neigh.eth0.locktime", 100_000)

    def announce(operation: int, mac: str) -> None:
        packet = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
            op=operation, hwsrc=mac, psrc="192.168.1.77", hwdst="ff:ff:ff:ff:ff:ff", pdst="192.168.1.77"
        )
        assert two_cards.exchange("eth0", bytes(packet)) == []

    def known() -> str:
        return two_cards.run("ip", "neigh", "show", "192.168.1.77")

    announce(1, _FAR)
    announce(2, _FAR)
    assert known() == ""
    two_cards.run("ip", "neigh", "add", "192.168.1.77", "lladdr", _FAR, "dev", "eth0", "nud", "reachable")
    announce(2, other)  # no gratuitous one to Linux: its target hardware address is another than its sender's
    assert other not in known()
    announce(1, other)
    assert other in known()


def test_late_syn_takes_tracking_back_and_the_node_resets() -> None:
    """late-syn: what acknowledges a request from before is INVALID, not translated, and answered by the node."""
    links = [
        Link("eth0", _MACS["out"], ("192.168.1.11/24",), far_mac=_FAR),
        Link("pod1", _MACS["pod1"], ("10.244.1.1/24",), far_mac="02:ff:00:00:00:02"),
    ]
    neighbours = [("192.168.1.1", _FAR, "eth0"), ("10.244.1.5", "02:ff:00:00:00:02", "pod1")]
    rules = (
        "*nat\n-A PREROUTING -p tcp --dport 30080 -j DNAT --to-destination 10.244.1.5:80\n"
        "-A POSTROUTING -o pod1 -j MASQUERADE\nCOMMIT\n"
    )
    routes = ["default via 192.168.1.1 dev eth0"]
    options = [("MSS", 1460), ("SAckOK", b""), ("WScale", 7)]
    with Namespace(links, routes=routes, neighbours=neighbours, sysctls={"net.ipv4.ip_forward": 1}) as made:
        made.iptables_restore(rules)

        def client(flags: str, seq: int, ack: int = 0, data: bytes = b"") -> list[tuple[str, str]]:
            segment = TCP(sport=4000, dport=30080, flags=flags, seq=seq, ack=ack, window=500)
            segment.options = options if "S" in flags else []
            packet = Ether(src=_FAR, dst=_MACS["out"]) / IP(src=_OUTSIDE, dst="192.168.1.11") / segment / data
            return said(made.exchange("eth0", bytes(packet)))

        def server(flags: str, seq: int, ack: int) -> list[tuple[str, str]]:
            segment = TCP(sport=80, dport=4000, flags=flags, seq=seq, ack=ack, window=500)
            segment.options = options if "S" in flags else []
            packet = (
                Ether(src="02:ff:00:00:00:02", dst=_MACS["pod1"]) / IP(src="10.244.1.5", dst="10.244.1.1") / segment
            )
            return said(made.exchange("pod1", bytes(packet)))

        def said(frames: list[Seen]) -> list[tuple[str, str]]:
            return [(one.interface, str(Ether(one.frame)[TCP].flags)) for one in frames if TCP in Ether(one.frame)]

        assert client("S", 1000) == [("pod1", "S")]
        assert server("SA", 5000, 1001) == [("eth0", "SA")]
        assert client("PA", 1001, 5001, b"x" * 80) == [("pod1", "PA")]
        assert client("S", 1000) == [("pod1", "S")]
        assert server("SA", 5000, 1001) == [("eth0", "SA")]
        assert server("A", 5001, 1081) == [("pod1", "R")]


def _invalid_segments(node: Namespace, chain: str) -> str:
    """INVALID packets that a chain has counted."""
    return node.run("iptables-legacy", "-nvxL", chain).splitlines()[2].split()[0]


def test_an_ack_of_a_client_whose_server_is_not_heard_is_invalid(node: Namespace) -> None:
    """asymmetric-routes: SYN, nothing back, ACK; forwarded all the same unless a rule drops what is INVALID."""
    node.iptables_restore("*filter\n:FORWARD ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID\nCOMMIT\n")
    (frame,) = node.exchange("pod1", datagram(1, 4000, transport=TCP, flags="S", seq=1000))
    (frame,) = node.exchange("pod1", datagram(1, 4000, transport=TCP, flags="A", seq=1001, ack=5001))
    assert _invalid_segments(node, "FORWARD") == "1"
    assert Ether(frame.frame)[IP].src == "10.244.1.9"  # and not translated either
    node.iptables_restore("*filter\n:FORWARD ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n")
    assert node.exchange("pod1", datagram(1, 4000, transport=TCP, flags="A", seq=1001, ack=5001)) == []


def test_what_is_invalid_is_for_the_host_itself(node: Namespace) -> None:
    """invalid-to-the-host: a DROP in FORWARD is not asked, and the host resets what it does not know."""
    rules = ":FORWARD ACCEPT\n:INPUT ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n"
    node.iptables_restore(f"*filter\n{rules}COMMIT\n")
    stray = TCP(sport=8080, dport=4001, flags="SA", seq=1, ack=777)
    packet = bytes(Ether(src=_FAR, dst=_MACS["out"]) / IP(src=_OUTSIDE, dst="192.168.1.11") / stray)
    (reset,) = node.exchange("out", packet)
    answer = Ether(reset.frame)
    assert (answer[IP].dst, str(answer[TCP].flags), answer[TCP].seq) == (_OUTSIDE, "R", 777)
    node.iptables_restore(f"*filter\n{rules}-A INPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n")
    assert node.exchange("out", packet) == []
