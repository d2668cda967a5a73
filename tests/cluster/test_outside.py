"""Hosts, routers and networks beyond the nodes' router."""

from __future__ import annotations

from typing import Any

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.errors import ObjectError, PktsimError, TopologyError
from pktsim.scenario.script import views, world

NODE_PORT = """\
apiVersion: v1
kind: Service
metadata: {name: np}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"""
PEOPLE = """\
apiVersion: pktsim.io/v1
kind: Outside
metadata: {name: people}
spec:
  routers:
  - {name: home, inside: 10.66.0.0/24, nat: true}
  - {name: office, address: 203.0.113.7, inside: 192.0.2.0/25}
  networks:
  - {name: lab, cidr: 192.0.2.128/25, router: office}
  hosts:
  - {name: alice, address: 203.0.113.20}
  - {name: bob, network: home}
  - {name: carol, network: home}
  - {name: eve, network: lab}
"""


@pytest.fixture(name="cluster")
def peopled() -> Cluster:
    return world(1, NODE_PORT, PEOPLE)


@pytest.mark.parametrize(
    ("who", "address", "seen_as"),
    [
        ("outside", "203.0.113.9", "203.0.113.9"),
        ("alice", "203.0.113.20", "203.0.113.20"),
        ("bob", "10.66.0.10", "203.0.113.2"),
        ("carol", "10.66.0.11", "203.0.113.2"),
        ("eve", "192.0.2.138", "192.0.2.138"),
    ],
)
def test_everybody_reaches_a_node_port_with_the_address_of_who_hides_them(
    cluster: Cluster, who: str, address: str, seen_as: str
) -> None:
    machine = cluster.machine(who)
    assert machine.address == address
    assert machine.http_get("http://192.168.1.11:30080/").status == 200
    (syn,) = views(cluster, on="node1/eth0", direction="in", dport=30080, flags="S")
    assert syn.saddr == bytes(map(int, seen_as.split(".")))


def test_hosts_reach_each_other_and_a_nat_router_hides_its_own(cluster: Cluster) -> None:
    assert cluster.machine("alice").http_get("http://203.0.113.9:8080/").text.startswith("outside saw 203.0.113.20:")
    assert cluster.outside.http_get("http://192.0.2.138:8080/").text.startswith("eve saw 203.0.113.9:")
    assert cluster.machine("bob").http_get("http://203.0.113.20:8080/").text.startswith("alice saw 203.0.113.2:")
    assert cluster.machine("bob").http_get("http://10.66.0.11:8080/").text.startswith("carol saw 10.66.0.10:")
    with pytest.raises(OSError, match=r"unreachable|no answer"):
        cluster.machine("alice").tcp("10.66.0.10", 8080, timeout=2)
    home = cluster.machine("home")
    assert "-A POSTROUTING -o eth0 -j MASQUERADE" in home.iptables_save()  # type: ignore[attr-defined]


def test_two_clients_with_one_source_port_behind_one_nat_get_two_ports(cluster: Cluster) -> None:
    cluster.draw("np", "b", "b")
    first = cluster.machine("bob").connect("192.168.1.11", 30080, sport=4000)
    second = cluster.machine("carol").connect("192.168.1.11", 30080, sport=4000)
    assert (first.state, second.state) == ("ESTABLISHED", "ESTABLISHED")
    syns = views(cluster, on="node1/eth0", direction="in", dport=30080, flags="S")
    assert syns[0].sport == 4000
    assert syns[1].sport != 4000
    entries = cluster.machine("home").conntrack()  # type: ignore[attr-defined]
    assert sorted(entry.orig.src[-1] for entry in entries) == [10, 11]


def test_a_second_host_changes_nothing_of_what_was_there_but_the_cabling() -> None:
    cluster = world(1, NODE_PORT)
    assert cluster.outside.http_get("http://192.168.1.11:30080/").status == 200
    before = [str(device) for device in cluster.router.netns.devices if device.carry is None]
    cluster.add_host("alice")
    assert [str(device) for device in cluster.router.netns.devices if device.carry is None] == before
    assert cluster.outside.http_get("http://192.168.1.11:30080/").status == 200
    assert cluster.machine("alice").http_get("http://192.168.1.12:30080/").status == 200
    assert views(cluster, on="outside-switch/port-alice", direction="in", dport=30080)


def test_a_host_on_the_nodes_own_wire_keeps_away_from_addresses_of_nodes_to_come() -> None:
    cluster = Cluster(2)
    assert cluster.add_host("neighbour", network="nodes").address == "192.168.0.200"
    assert cluster.machine("neighbour").ping("192.168.0.11").ttl == 64
    assert cluster.outside.ping("192.168.0.200").ttl == 63


def test_names_of_hosts_stand_in_captures(cluster: Cluster) -> None:
    assert cluster.node("node1").address
    assert cluster.names()[bytes((203, 0, 113, 20))] == ("alice",)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (("add_host", "alice", "203.0.113.20"), "host alice: there is a machine alice already"),
        (("add_host", "x", "203.0.113.20"), "host x: 203.0.113.20 is taken"),
        (("add_host", "x", "8.8.8.8"), "8.8.8.8 is not an address of network outside"),
        (("add_host", "x", "nonsense"), "address 'nonsense'"),
        (("add_host", "node1"), "there is a machine node1 already"),
        (("add_network", "x", "203.0.113.128/25"), "overlaps 203.0.113.0/24 of network outside"),
        (("add_network", "home", "192.0.3.0/24"), "there is a network home already"),
        (("add_network", "x", "192.0.3.0/31"), "no room"),
    ],
)
def test_what_cannot_be_built_is_said(cluster: Cluster, call: tuple[Any, ...], what: str) -> None:
    name, *arguments = call
    with pytest.raises(TopologyError, match=what):
        getattr(cluster, name)(*arguments)


def test_unknown_networks_and_routers_are_named(cluster: Cluster) -> None:
    with pytest.raises(TopologyError, match="there is no network 'mars'"):
        cluster.add_host("x", network="mars")
    with pytest.raises(TopologyError, match="there is no router 'alice'"):
        cluster.add_network("x", "192.0.3.0/24", router="alice")


def test_a_nat_hides_addresses_so_that_two_homes_may_use_the_same() -> None:
    cluster = world(1, NODE_PORT)
    for home in ("one", "two"):
        cluster.add_router(home, inside="192.168.178.0/24", nat=True)
        host = cluster.add_host(f"in-{home}", network=home)
        assert host.address == "192.168.178.10"
        assert host.http_get("http://192.168.1.11:30080/").status == 200
    with pytest.raises(TopologyError, match="overlaps"):
        cluster.add_router("three", inside="192.168.1.0/24")


def test_what_is_outside_cannot_be_changed_by_applying_again(cluster: Cluster) -> None:
    cluster.node("node1")
    cluster.apply(PEOPLE)
    with pytest.raises(ObjectError, match="cannot be changed later"):
        cluster.apply(PEOPLE.replace("203.0.113.20", "203.0.113.21"))


def test_a_scenario_has_hosts_too(tmp_path: Any) -> None:
    from pktsim.scenario.loader import load_scenario
    from pktsim.scenario.runner import run_scenario

    text = """\
kind: Scenario
metadata: {name: hosts}
spec:
  cluster: {nodes: 1}
  outside:
    hosts: [{name: alice}]
  steps:
  - {from: alice, http: "http://203.0.113.9:8080/", expect: {body: "outside saw 203.0.113.10:*"}}
"""
    path = tmp_path / "hosts.yaml"
    path.write_text(text)
    assert run_scenario(load_scenario(path)).met
    path.write_text(text.replace("{name: alice}", "{name: alice, network: mars}"))
    with pytest.raises(PktsimError, match="there is no network 'mars'"):
        run_scenario(load_scenario(path))
