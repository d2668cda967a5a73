"""Node ports, frame by frame: who translates what, and by which way the answer comes back.

A path is where one segment was seen, in order, with its addresses there: what tcpdump on every interface would show.
"""

from __future__ import annotations

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.scenario.script import front, seen, world
from pktsim.wire.addr import ip_to_text
from pktsim.wire.frame import FrameView, TcpFlag

NODE1, NODE2, CLIENT = "192.168.1.11", "192.168.1.12", "203.0.113.9"
A, B, BRIDGE1, BRIDGE2 = "10.244.1.5", "10.244.2.5", "10.244.1.254", "10.244.2.254"


def path(cluster: Cluster, flags: TcpFlag, spaces: tuple[str, ...] = ("node1", "node2")) -> list[str]:
    """``node1/eth0 in SOURCE > TARGET`` each time that a SYN or SYN-ACK was seen; ports that were drawn are ``*``."""
    lines = []
    for frame in cluster.capture:
        view = FrameView(frame.frame)
        if frame.space not in spaces or view.protocol != 6 or view.tcp_flags != flags:
            continue
        ports = [str(port) if port < 1024 or port in (4000, 8080, 30080) else "*" for port in (view.sport, view.dport)]
        ends = f"{ip_to_text(view.saddr)}:{ports[0]} > {ip_to_text(view.daddr)}:{ports[1]}"
        lines.append(f"{frame.where} {frame.direction} {ends}")
    return lines


SYN, SYN_ACK = TcpFlag.SYN, TcpFlag.SYN | TcpFlag.ACK


def connect(source: str, target: str, endpoint: str, policy: str = "Cluster", **options: str) -> Cluster:
    """A client at source port 4000 connects to a node port and draws an endpoint."""
    cluster = world(1, front(policy=policy), **options)  # type: ignore[arg-type]
    cluster.draw("front", endpoint)
    cluster.machine(source).connect(target, 30080, sport=4000)
    return cluster


def test_cluster_policy_local_endpoint_is_masqueraded_with_the_bridge() -> None:
    cluster = connect("outside", NODE1, "a")
    assert path(cluster, SYN) == [
        f"node1/eth0 in {CLIENT}:4000 > {NODE1}:30080",
        f"node1/cni0 out {BRIDGE1}:* > {A}:8080",
        f"node1/veth-a out {BRIDGE1}:* > {A}:8080",
    ]
    assert path(cluster, SYN_ACK) == [
        f"node1/veth-a in {A}:8080 > {BRIDGE1}:*",
        # br_netfilter has translated the destination back when the bridge passes the packet up
        f"node1/cni0 in {A}:8080 > {CLIENT}:4000",
        f"node1/eth0 out {NODE1}:30080 > {CLIENT}:4000",
    ]


def test_cluster_policy_remote_endpoint_comes_back_by_the_node_that_was_asked() -> None:
    cluster = connect("outside", NODE1, "b")
    assert path(cluster, SYN) == [
        f"node1/eth0 in {CLIENT}:4000 > {NODE1}:30080",
        f"node1/eth0 out {NODE1}:* > {B}:8080",
        f"node2/eth0 in {NODE1}:* > {B}:8080",
        f"node2/cni0 out {NODE1}:* > {B}:8080",
        f"node2/veth-b out {NODE1}:* > {B}:8080",
    ]
    assert path(cluster, SYN_ACK) == [
        f"node2/veth-b in {B}:8080 > {NODE1}:*",
        f"node2/cni0 in {B}:8080 > {NODE1}:*",
        f"node2/eth0 out {B}:8080 > {NODE1}:*",
        f"node1/eth0 in {B}:8080 > {NODE1}:*",
        f"node1/eth0 out {NODE1}:30080 > {CLIENT}:4000",
    ]


def test_cluster_policy_over_vxlan_shows_the_tunnels_address() -> None:
    cluster = connect("outside", NODE1, "b", wiring="vxlan")
    assert path(cluster, SYN) == [
        f"node1/eth0 in {CLIENT}:4000 > {NODE1}:30080",
        f"node1/flannel.1 out 10.244.1.0:* > {B}:8080",
        f"node2/flannel.1 in 10.244.1.0:* > {B}:8080",
        f"node2/cni0 out 10.244.1.0:* > {B}:8080",
        f"node2/veth-b out 10.244.1.0:* > {B}:8080",
    ]


def test_cluster_policy_point_to_point_shows_the_nodes_address_to_its_own_pods() -> None:
    cluster = connect("outside", NODE1, "a", wiring="point-to-point")
    assert path(cluster, SYN) == [
        f"node1/eth0 in {CLIENT}:4000 > {NODE1}:30080",
        f"node1/cali-a out {NODE1}:* > {A}:8080",
    ]


@pytest.mark.parametrize(("node", "address", "pod", "endpoint"), [("node1", NODE1, "a", A), ("node2", NODE2, "b", B)])
def test_local_policy_keeps_the_client_on_each_node_that_has_a_pod(
    node: str, address: str, pod: str, endpoint: str
) -> None:
    cluster = connect("outside", address, pod, "Local")
    assert path(cluster, SYN) == [
        f"{node}/eth0 in {CLIENT}:4000 > {address}:30080",
        f"{node}/cni0 out {CLIENT}:4000 > {endpoint}:8080",
        f"{node}/veth-{pod} out {CLIENT}:4000 > {endpoint}:8080",
    ]
    assert path(cluster, SYN_ACK) == [
        f"{node}/veth-{pod} in {endpoint}:8080 > {CLIENT}:4000",
        f"{node}/cni0 in {endpoint}:8080 > {CLIENT}:4000",
        f"{node}/eth0 out {address}:30080 > {CLIENT}:4000",
    ]


def test_a_pod_asks_its_own_nodes_port_and_its_address_becomes_the_bridges() -> None:
    cluster = connect("client", NODE1, "b")
    assert path(cluster, SYN)[-4:] == [
        f"node1/eth0 out {NODE1}:* > {B}:8080",
        f"node2/eth0 in {NODE1}:* > {B}:8080",
        f"node2/cni0 out {NODE1}:* > {B}:8080",
        f"node2/veth-b out {NODE1}:* > {B}:8080",
    ]
    local = connect("client", NODE1, "b", "Local")
    # from a pod the local policy does not count, and nothing is masqueraded
    assert path(local, SYN)[-1] == f"node2/veth-b out 10.244.1.9:4000 > {B}:8080"


def test_a_pod_asks_another_nodes_port() -> None:
    cluster = connect("client", NODE2, "a")
    assert path(cluster, SYN)[-4:] == [
        f"node2/eth0 out {NODE2}:* > {A}:8080",
        f"node1/eth0 in {NODE2}:* > {A}:8080",
        f"node1/cni0 out {NODE2}:* > {A}:8080",
        f"node1/veth-a out {NODE2}:* > {A}:8080",
    ]


def test_a_pod_that_draws_itself_by_node_port_sees_the_bridge() -> None:
    cluster = connect("a", NODE1, "a")
    assert path(cluster, SYN, ("default/a",)) == [
        f"default/a/eth0 out {A}:4000 > {NODE1}:30080",
        f"default/a/eth0 in {BRIDGE1}:* > {A}:8080",
    ]


@pytest.mark.parametrize(("target", "shown"), [(NODE1, NODE1), ("127.0.0.1", NODE1), (NODE2, BRIDGE2)])
def test_a_process_on_a_node_asks_a_node_port(target: str, shown: str) -> None:
    cluster = connect("node1", target, "b")
    assert path(cluster, SYN)[-1] == f"node2/veth-b out {shown}:* > {B}:8080"


@pytest.mark.parametrize("address", [NODE1, NODE2])
def test_udp_and_every_node_has_the_port(address: str) -> None:
    ports = [{"port": 90, "targetPort": 8081, "nodePort": 30081, "protocol": "UDP"}]
    cluster = world(1, front(ports=ports))
    for pod in ("a", "b"):
        cluster.draw("front", pod)
        assert cluster.outside.udp(address, 30081, sport=4000 + ord(pod)).startswith(pod.encode())


def test_two_clients_with_one_source_port_are_told_apart_behind_the_masquerade() -> None:
    cluster = world(1, front())
    cluster.add_host("alice")
    cluster.draw("front", "b", "b")
    first = cluster.outside.connect(NODE1, 30080, sport=4000)
    second = cluster.machine("alice").connect(NODE1, 30080, sport=4000)
    for connection in (first, second):
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.receive().startswith(b"HTTP/1.0 200")
    ports = {FrameView(frame.frame).sport for frame in seen(cluster, on="node2/eth0", direction="in", flags="S")}
    assert len(ports) == 2


def test_a_node_that_nobody_can_ask_for_the_service_refuses_other_ports() -> None:
    cluster = world(1, front())
    with pytest.raises(ConnectionRefusedError):
        cluster.outside.tcp(NODE1, 30081)
