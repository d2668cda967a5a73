"""Routes with several next hops."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether

import pktsim
from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.kernel.fib import parse_route

VIP = "198.51.100.20"
FAR = "02:ff:00:00:00:01"
ROUTE = f"{VIP} nexthop via 10.1.0.2 dev w1 weight 1 nexthop via 10.2.0.2 dev w2 weight 3"


def kernel(policy: int = 0, seed: int = 1, route: str = ROUTE) -> pktsim.Kernel:
    made = pktsim.Kernel()
    for number in range(4):
        made.interface(f"w{number}", f"10.{number}.0.1/24", mac=f"02:00:00:00:00:0{number}")
        made.neighbour(f"10.{number}.0.2", FAR, f"w{number}")
    made.sysctl("net.ipv4.ip_forward", 1)
    made.sysctl("net.ipv4.fib_multipath_hash_policy", policy)
    made.sysctl("net.ipv4.fib_multipath_hash_seed", seed)
    made.route(route)
    return made


def way(node: pktsim.Kernel, packet: IP) -> str:
    sent = node.receive("w0", bytes(Ether(src=FAR, dst="02:00:00:00:00:00") / packet)).sent
    return sent[0][0] if sent else ""


def syns(node: pktsim.Kernel, sport: int = 1000) -> str:
    """The last digits of the devices that SYNs of sixteen clients leave by."""
    packets = [IP(src=f"10.0.0.{10 + number}", dst=VIP) / TCP(sport=sport, dport=80) for number in range(16)]
    return "".join(way(node, packet)[1:] for packet in packets)


def test_the_ways_that_linux_6_18_was_seen_to_choose() -> None:
    # tests/live/test_multipath.py asks the running kernel
    assert syns(kernel(0, 1)) == "2222222212221222"
    assert syns(kernel(1, 1)) == "1222222221222222"
    assert syns(kernel(1, 0xDEADBEEF)) == "2221222221221222"


def test_policy_0_looks_at_addresses_only_and_policy_1_at_ports_too() -> None:
    assert syns(kernel(0), 1000) == syns(kernel(0), 1001)
    assert syns(kernel(1), 1000) != syns(kernel(1), 1001)


def test_both_directions_of_a_flow_and_errors_about_it_hash_alike() -> None:
    both = f"{ROUTE}", "10.0.0.0/28 nexthop via 10.1.0.2 dev w1 weight 1 nexthop via 10.2.0.2 dev w2 weight 3"
    for client in range(1, 14):
        node = kernel(0)
        node.netns.route_add(both[1].replace("10.0.0.0/28", f"192.0.2.{client}"))
        there = way(node, IP(src=f"192.0.2.{client}", dst=VIP) / UDP(sport=1, dport=2))
        back = way(node, IP(src=VIP, dst=f"192.0.2.{client}") / UDP(sport=2, dport=1))
        about = IP(src=VIP, dst=f"192.0.2.{client}") / UDP(sport=2, dport=1)
        error = way(node, IP(src="10.0.0.99", dst=VIP) / ICMP(type=3, code=1) / about)
        assert there == back == error


def test_weights_share_flows_out() -> None:
    node = kernel(1)
    ways = [way(node, IP(src="10.0.0.9", dst=VIP) / UDP(sport=sport, dport=1)) for sport in range(1, 1001)]
    assert 690 < ways.count("w2") < 810
    assert ways.count("w1") + ways.count("w2") == 1000


def test_a_dead_next_hop_is_left_out_and_comes_back_and_the_last_one_takes_the_route_along() -> None:
    node = kernel(1)
    before = syns(node)
    node.netns.link_set("w1", up=False)
    assert syns(node) == "2" * 16
    assert node.netns.routes()[-1].startswith(VIP)
    node.netns.link_set("w1", up=True)
    node.neighbour("10.1.0.2", FAR, "w1")
    assert syns(node) == before
    node.netns.link_set("w1", up=False)
    node.netns.link_set("w2", up=False)
    assert not any(VIP in route for route in node.netns.routes())


def test_the_key_is_drawn_where_none_is_set() -> None:
    ways = set()
    for seed in range(4):
        made = pktsim.Kernel(seed=seed)
        for number in range(3):
            made.interface(f"w{number}", f"10.{number}.0.1/24", mac=f"02:00:00:00:00:0{number}")
            made.neighbour(f"10.{number}.0.2", FAR, f"w{number}")
        made.sysctl("net.ipv4.ip_forward", 1)
        made.route(ROUTE)
        ways.add(syns(made))
    assert len(ways) > 1


def test_reverse_path_filter_takes_any_of_the_next_hops() -> None:
    node = kernel()
    node.sysctl("net.ipv4.conf.all.rp_filter", 1)
    for device in ("w1", "w2"):
        mac = f"02:00:00:00:00:0{device[1]}"
        packet = IP(src=VIP, dst="10.0.0.2") / UDP(sport=1, dport=2)
        assert node.receive(device, bytes(Ether(src=FAR, dst=mac) / packet)).sent
    packet = IP(src=VIP, dst="10.0.0.2") / UDP(sport=1, dport=2)
    assert not node.receive("w3", bytes(Ether(src=FAR, dst="02:00:00:00:00:03") / packet)).sent


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (ROUTE, ROUTE),
        (f"{VIP} proto bgp nexthop via 10.1.0.2 nexthop via 10.2.0.2 weight 7", None),
        (f"{VIP} nexthop via 10.1.0.2 dev w1", f"{VIP} via 10.1.0.2 dev w1"),
        (
            f"{VIP} nexthop dev w1 nexthop dev w2 weight 2",
            f"{VIP} scope link nexthop dev w1 weight 1 nexthop dev w2 weight 2",
        ),
    ],
)
def test_next_hops_are_read_and_printed(text: str, printed: str | None) -> None:
    node = kernel(route=text)
    wanted = printed or f"{VIP} proto bgp nexthop via 10.1.0.2 dev w1 weight 1 nexthop via 10.2.0.2 dev w2 weight 7"
    assert node.netns.routes()[-1] == wanted
    assert str(parse_route(wanted)) == wanted


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"{VIP} nexthop via 10.1.0.2 weight 0 nexthop via 10.2.0.2", "a weight of 0"),
        (f"{VIP} nexthop weight 1 nexthop via 10.2.0.2", "neither via nor dev"),
        (f"{VIP} nexthop via", "needs a value"),
        (f"{VIP} via 10.1.0.2 nexthop via 10.2.0.2", "next hops besides"),
        (f"{VIP} nexthop via 172.16.0.1 nexthop via 10.2.0.2", "not on any link"),
    ],
)
def test_what_are_no_next_hops_is_said(text: str, error: str) -> None:
    with pytest.raises(TopologyError, match=error):
        kernel(route=text)


def test_what_is_not_modelled_is_refused() -> None:
    with pytest.raises(UnsupportedFeature, match="several next hops in IPv6"):
        kernel(route="2001:db8::/64 nexthop via fe80::1 dev w1 nexthop via fe80::2 dev w2")
    with pytest.raises(UnsupportedFeature, match="next hop with 'encap'"):
        kernel(route=f"{VIP} nexthop encap mpls 100 via 10.1.0.2 nexthop via 10.2.0.2")
    with pytest.raises(UnsupportedFeature, match="fib_multipath_hash_policy=2"):
        kernel(2)
