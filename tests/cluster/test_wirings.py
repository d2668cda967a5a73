"""The wirings that a cluster can have: what each puts on a node, and what pods see of each other."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.wiring import NodePlan, PodPlan
from pktsim.cluster.wirings import WIRINGS, FlannelVxlan, PointToPoint, wiring_named
from pktsim.errors import TopologyError
from pktsim.scenario.script import front, seen, views, world

NODES = [
    NodePlan(f"node-{letter}", IPv4Address(f"192.168.0.1{number}"), IPv4Network(f"10.244.{number}.0/24"))
    for number, letter in enumerate("abc", 1)
]
PODS = IPv4Network("10.244.0.0/16")
NODE1, NODE2 = "192.168.1.11", "192.168.1.12"


@pytest.mark.parametrize("name", list(WIRINGS))
def test_pods_nodes_services_and_the_world_reach_each_other(name: str) -> None:
    cluster = world(1, front(), wiring=name)
    client = cluster.pod("client")
    cluster.draw("front", "a", "b", "b", "a" if name != "host-gw-no-brnf" else "b")
    local, remote = (cluster.outside.http_get(f"http://{NODE1}:30080/").text for _ in range(2))
    bridge = {"point-to-point": NODE1}.get(name, "10.244.1.254")
    assert local.startswith(f"a saw {bridge}:")
    assert remote.startswith(f"b saw {'10.244.1.0' if name == 'vxlan' else NODE1}:")
    assert client.http_get("http://10.244.1.5:8080/").text.startswith("a saw 10.244.1.9:")
    assert client.http_get("http://10.244.2.5:8080/").text.startswith("b saw 10.244.1.9:")
    assert client.http_get("http://10.96.0.30/").text.startswith("b saw 10.244.1.9:")
    assert client.http_get("http://10.96.0.30/").status == 200
    assert client.http_get("http://203.0.113.9:8080/").text.startswith(f"outside saw {NODE1}:")
    assert client.resolve("web") == ["10.96.0.20"]


def test_without_bridge_netfilter_a_service_on_ones_own_node_fails() -> None:
    cluster = world(1, wiring="host-gw-no-brnf")
    cluster.draw("web", "a")
    with pytest.raises(TimeoutError):
        cluster.pod("client").http_get("http://10.96.0.20/", timeout=2)
    # the endpoint has answered past the node, and the client does not know whom
    assert seen(cluster, on="default/client/eth0", direction="out", dst="10.244.1.5", flags="R")


def test_vxlan_carries_pods_packets_in_udp_between_nodes() -> None:
    cluster = world(1, wiring="vxlan")
    cluster.draw("web", "b")
    assert cluster.pod("client").http_get("http://10.96.0.20/").status == 200
    outer = views(cluster, on="node1/eth0", direction="out", protocol="udp", dport=8472)
    assert outer
    assert {(one.saddr[-1], one.daddr[-1]) for one in outer} == {(11, 12)}
    (inner,) = views(cluster, on="node2/flannel.1", direction="in", flags="S")
    assert inner.daddr == bytes((10, 244, 2, 5))
    assert b"\x02\x04\x05\x82" in views(cluster, on="default/client/eth0", direction="out", flags="S")[0].tcp_options


def test_vxlan_has_flannels_routes_neighbours_and_entries() -> None:
    space = FlannelVxlan(NODES).wiring().space("node-a")
    assert sorted(space.routes) == [
        "10.244.1.0/24 dev cni0 proto kernel scope link src 10.244.1.254",
        "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink",
        "192.168.0.0/24 dev eth0 proto kernel scope link src 192.168.0.11",
        "default via 192.168.0.1 dev eth0",
    ]
    assert space.permanent_neighbours[0] == "10.244.2.0 lladdr 0a:58:0a:f4:02:00 PERMANENT"
    assert space.vxlan_fdb[1] == "0a:58:0a:f4:03:00 dst 192.168.0.13 self permanent"
    tunnel = space.interface("flannel.1")
    assert (tunnel.mtu, tunnel.addresses, tunnel.mac) == (1450, ("10.244.1.0/32",), "0a:58:0a:f4:01:00")
    assert space.interface("cni0").mtu == 1450


def test_point_to_point_has_calicos_routes_and_devices() -> None:
    wiring = PointToPoint(NODES)
    assert sorted(wiring.wiring().space("node-a").routes) == [
        "10.244.2.0/24 via 192.168.0.12 dev eth0 proto bird",
        "10.244.3.0/24 via 192.168.0.13 dev eth0 proto bird",
        "192.168.0.0/24 dev eth0 proto kernel scope link src 192.168.0.11",
        "blackhole 10.244.1.0/24 proto bird",
        "default via 192.168.0.1 dev eth0",
    ]
    plan = PodPlan("default/x", "node-a", IPv4Address("10.244.1.2"), "cali-x")
    space, port = wiring.pod(plan)
    assert space.routes == ("default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link")
    assert space.interface("eth0").addresses == ("10.244.1.2/32",)
    assert (port.mac, port.master, port.sysctls["proxy_arp"]) == ("ee:ee:ee:ee:ee:ee", "", 1)
    assert wiring.pod_routes(plan) == ("10.244.1.2 dev cali-x scope link",)


def test_point_to_point_nobody_home_is_a_blackhole_and_pods_ask_one_address_only() -> None:
    cluster = world(1, wiring="point-to-point")
    with pytest.raises(TimeoutError):
        cluster.pod("client").ping("10.244.1.77")
    assert cluster.pod("client").http_get("http://10.244.1.5:8080/").status == 200
    asked = seen(cluster, on="default/client/eth0", direction="out", text="ARP*who-has*")
    assert {frame.frame[38:42] for frame in asked} == {bytes((169, 254, 1, 1))}


def test_masquerade_rules_are_those_of_recorded_clusters() -> None:
    flannel = FlannelVxlan(NODES).rules(NODES[0], PODS)
    for line in (
        '-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN',
        '-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN',
        '-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE '
        "--random-fully",
        '-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
    ):
        assert line in flannel.splitlines()
    calico = PointToPoint(NODES).rules(NODES[0], PODS)
    assert (
        "-A cali-nat-outgoing -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE --random-fully" in calico.splitlines()
    )


def test_pods_come_and_go_in_every_wiring() -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\n"
        "spec: {nodeName: node1, containers: [{name: c, ports: [{containerPort: 8080}]}]}\n"
    )
    for name in WIRINGS:
        cluster = world(1, wiring=name)
        assert cluster.pod("client").address == "10.244.1.9"
        cluster.apply(pod)
        address = cluster.pod("late").address
        assert cluster.outside.name == "outside"
        assert cluster.pod("b").http_get(f"http://{address}:8080/").status == 200
        cluster.delete("pod/late")
        assert not any(address in route.split() for route in cluster.node("node1").netns.routes())


def test_an_unknown_wiring_is_named() -> None:
    with pytest.raises(TopologyError, match="there is no wiring 'ipip'"):
        wiring_named("ipip")
    with pytest.raises(TopologyError, match="one of host-gw, host-gw-no-brnf, vxlan, point-to-point"):
        Cluster(2, wiring="ipip")


def test_an_address_outside_of_the_nodes_network_is_refused() -> None:
    with pytest.raises(TopologyError, match=r"10\.9\.9\.9 is not an address for pods of node-a"):
        PointToPoint(NODES).pod(PodPlan("default/x", "node-a", IPv4Address("10.9.9.9"), "cali-x"))
