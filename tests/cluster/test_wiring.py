from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_interface

import pytest

from pktsim.cluster.wiring import HostGateway, NodePlan, PodPlan, Space, Wiring, device_name
from pktsim.errors import TopologyError
from pktsim.kernel.fib import parse_route

A = NodePlan("node-a", IPv4Address("192.168.0.11"), IPv4Network("10.1.1.0/24"))
B = NodePlan("node-b", IPv4Address("192.168.0.12"), IPv4Network("10.1.2.0/24"))
WEB = PodPlan("default/web-1", "node-a", IPv4Address("10.1.1.1"), "veth-web-1")


def whole(*pods: PodPlan) -> Wiring:
    plan = HostGateway((A, B), [pod.address for pod in pods])
    spaces = {space.name: space for space in plan.wiring().spaces}
    for pod in pods:
        space, port = plan.pod(pod)
        spaces[space.name] = space
        node = spaces[pod.node]
        spaces[pod.node] = Space(node.name, node.role, node.node, (*node.interfaces, port), node.routes, node.sysctls)
    return Wiring(tuple(spaces.values()))


def test_every_veth_has_two_ends_that_name_each_other() -> None:
    wiring = whole(WEB)
    ends = {
        f"{space.name}/{interface.name}": interface.peer
        for space in wiring.spaces
        for interface in space.interfaces
        if interface.kind == "veth"
    }
    assert ends
    assert all(ends[peer] == name for name, peer in ends.items())


def test_macs_are_unique_and_say_whose_they_are() -> None:
    wiring = whole(WEB)
    macs = [interface.mac for space in wiring.spaces for interface in space.interfaces if interface.mac]
    assert len(set(macs)) == len(macs)
    assert wiring.space("default/web-1").interface("eth0").mac == "0a:58:0a:01:01:01"
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)  # locally administered, of one station


def test_addresses_are_unique_and_routes_are_the_kernels_text() -> None:
    wiring = whole(WEB)
    addresses = [
        ip_interface(text).ip
        for space in wiring.spaces
        for interface in space.interfaces
        for text in interface.addresses
        if interface.kind != "loopback"
    ]
    assert len(set(addresses)) == len(addresses)
    for space in wiring.spaces:
        for route in space.routes:
            assert str(parse_route(route)) == route


def test_nodes_reach_each_others_pods_through_each_other() -> None:
    wiring = whole()
    assert "10.1.2.0/24 via 192.168.0.12 dev eth0" in wiring.space("node-a").routes
    assert "10.1.1.0/24 via 192.168.0.11 dev eth0" in wiring.space("node-b").routes
    # The router knows no pod networks: what leaves for elsewhere has to be masqueraded.
    assert not any("10.1." in route for route in wiring.space("router").routes)


def test_the_bridge_takes_the_last_address_that_no_pod_has() -> None:
    last = IPv4Address("10.1.1.254")
    assert HostGateway((A, B)).gateway("node-a") == last
    assert HostGateway((A, B), [last]).gateway("node-a") == last - 1


def test_the_router_gives_way_to_nodes() -> None:
    first = NodePlan("n", IPv4Address("10.9.8.1"), IPv4Network("10.1.3.0/24"))
    far = NodePlan("m", IPv4Address("10.9.9.1"), IPv4Network("10.1.4.0/24"))
    plan = HostGateway((first, far))
    assert plan.node_network == IPv4Network("10.9.8.0/23")
    assert plan.router_address == IPv4Address("10.9.8.2")


@pytest.mark.parametrize("name", ["web-1", "a-name-that-is-quite-long", "default/web"])
def test_device_names_fit_the_kernel(name: str) -> None:
    assert len(device_name("veth-", name)) < 16
    assert "/" not in device_name("veth-", name)
    assert device_name("veth-", name) == device_name("veth-", name)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((A, A), "two nodes of one name"),
        ((A, NodePlan("x", A.address, B.pod_network)), "is node-a's address too"),
        (
            (A, NodePlan("x", B.address, IPv4Network("10.1.0.0/16"))),
            "podCIDR 10.1.0.0/16 overlaps 10.1.1.0/24 of node-a",
        ),
    ],
)
def test_nodes_that_cannot_be(nodes: tuple[NodePlan, ...], message: str) -> None:
    with pytest.raises(TopologyError) as raised:
        HostGateway(nodes)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("pod", "message"),
    [
        (PodPlan("p", "node-c", IPv4Address("10.1.1.1"), "v"), "there is no node node-c"),
        (PodPlan("p", "node-a", IPv4Address("10.1.2.1"), "v"), "10.1.2.1 is not an address for pods of node-a"),
        (PodPlan("p", "node-a", IPv4Address("10.1.1.254"), "v"), "which is the bridge's"),
    ],
)
def test_pods_that_cannot_be(pod: PodPlan, message: str) -> None:
    with pytest.raises(TopologyError) as raised:
        HostGateway((A, B)).pod(pod)
    assert message in str(raised.value)
