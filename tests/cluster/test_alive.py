"""Services, pods and nodes change while packets flow."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.cluster.cluster import Cluster
from pktsim.cluster.kubeproxy.proxier import SyncReport
from pktsim.cluster.lifecycle import QUARANTINE_NS
from pktsim.cluster.objects import EndpointSlice, Pod
from pktsim.errors import ObjectError, TopologyError
from pktsim.netfilter.opcodes import TableId
from pktsim.netfilter.ruleset import Counters, Family
from pktsim.scenario.script import seen
from pktsim.wire.frame import FrameView

WEB = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 172.30.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {clusterIP: 172.30.0.2, selector: {app: other}, ports: [{port: 80, targetPort: 8080}]}
"""
CLIENT = """
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node-a, containers: [{name: c}]}
"""


def pod(name: str, app: str = "web", node: str = "node-b") -> str:
    return (
        f"\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}\n"
    )


def workload(kind: str, replicas: int) -> str:
    return (
        f"\n---\napiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: web}}\n"
        f"spec: {{replicas: {replicas}, serviceName: web, selector: {{matchLabels: {{app: web}}}}, "
        "template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}}}\n"
    ).replace("serviceName: web, ", "serviceName: web, " if kind == "StatefulSet" else "")


def world(*more: str, **options: Any) -> Cluster:
    cluster = Cluster(2, **options)
    cluster.apply(WEB + CLIENT + "".join(more))
    cluster.run(1)
    return cluster


def who(cluster: Cluster, sport: int = 0) -> str:
    """Which pod answers the client now."""
    return cluster.pod("client").http_get("http://172.30.0.1/", sport=sport).text.split()[0]


def refused(cluster: Cluster) -> None:
    """The client is told that there is nobody."""
    with pytest.raises(ConnectionRefusedError):
        cluster.pod("client").connect("172.30.0.1", 80)


def conditions(cluster: Cluster) -> dict[str, str]:
    """By pod, what its endpoint is."""
    found = {}
    for piece in cluster.store.list(EndpointSlice):
        for one in piece.endpoints:
            if piece.service_name == "web" and one.target_ref:
                words = [word for word in ("ready", "serving", "terminating") if getattr(one.conditions, word)]
                found[one.target_ref.name] = " ".join(words)
    return found


def syncs(cluster: Cluster, node: str = "node-a") -> list[SyncReport]:
    """The syncs of a node from now on, of IPv4."""
    found: list[SyncReport] = []
    proxy = cluster.node(node).proxy
    assert proxy is not None
    proxy.observe(lambda report: found.append(report) if report.family is Family.IPV4 else None)
    return found


# pods


def test_terminating_pod_serves_its_connections_until_its_grace_is_over() -> None:
    cluster = world(pod("one"), pod("two"))
    cluster.draw("web", "one")
    old = cluster.pod("client").connect("172.30.0.1", 80)
    start = cluster.clock.now_ns
    cluster.delete("pod/one", grace=5)
    assert conditions(cluster) == {"one": "serving terminating", "two": "ready serving"}
    cluster.run(4.9)
    assert {who(cluster) for _ in range(8)} == {"two"}
    assert old.state == "ESTABLISHED"
    cluster.run(0.15)
    # killed, so its kernel closes; a moment later the pod is gone
    assert old.state == "CLOSE_WAIT"
    assert old.receive() == b""
    (end,) = seen(cluster, on="default/one/eth0", direction="out", sport=8080, flags="F.")
    assert end.at_ns - start == 5 * NS_PER_S
    cluster.run(0.1)
    assert conditions(cluster) == {"two": "ready serving"}
    with pytest.raises(TopologyError, match="no pod 'one'"):
        cluster.pod("one")


def test_the_last_pod_is_used_while_it_is_terminating_and_then_nothing_is() -> None:
    cluster = world(pod("one"))
    cluster.delete("pod/one", grace=5)
    cluster.run(1)
    assert who(cluster) == "one"
    cluster.run(5)
    refused(cluster)


def test_readiness_decides() -> None:
    cluster = world(pod("one"), pod("two"))
    cluster.set_ready("pod/one", False)
    cluster.run(1)
    assert {who(cluster) for _ in range(8)} == {"two"}
    cluster.set_ready("pod/two", False)
    cluster.run(1)
    refused(cluster)
    cluster.set_ready("pod/one")
    cluster.run(1)
    assert who(cluster) == "one"
    with pytest.raises(ObjectError, match="service/web has no readiness"):
        cluster.set_ready("service/web", False)


def test_terminating_pod_that_is_not_ready_is_no_fallback() -> None:
    cluster = world(pod("one"))
    cluster.set_ready("pod/one", False)
    cluster.delete("pod/one", grace=5)
    assert conditions(cluster) == {"one": "terminating"}
    cluster.run(1)
    refused(cluster)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_recreated_pod_has_a_new_address_and_the_service_keeps_its_own(kind: str) -> None:
    cluster = world(workload(kind, 1))
    (before,) = [one for one in cluster.store.list(Pod) if one.metadata.labels.get("app") == "web"]
    assert who(cluster) == before.name
    cluster.delete(f"pod/{before.name}")
    cluster.run(1)
    (after,) = [one for one in cluster.store.list(Pod) if one.metadata.labels.get("app") == "web"]
    assert after.status.pod_ip != before.status.pod_ip
    assert (after.name == before.name) is (kind == "StatefulSet")
    assert who(cluster) == after.name
    assert cluster.pod(after.name).address == after.status.pod_ip


def test_scaling_down_with_grace_makes_room_at_once_for_nobody() -> None:
    cluster = world(workload("Deployment", 3))
    cluster.scale("deployment/web", 1, grace=10)
    assert sorted(conditions(cluster).values()) == ["ready serving"] + ["serving terminating"] * 2
    cluster.scale("deployment/web", 2)
    assert sorted(conditions(cluster).values()) == ["ready serving"] * 2 + ["serving terminating"] * 2
    cluster.run(11)
    assert sorted(conditions(cluster).values()) == ["ready serving"] * 2


def test_connection_to_a_pod_that_vanished_ends_in_host_unreachable() -> None:
    """The pod's node trusts its neighbour entry for 5 s, asks that MAC three times, then everybody three times.

    Only then does the client hear of it, and its kernel goes on trying all the same: an established connection takes
    ICMP errors as hints (RFC 1122, 4.2.3.9).
    """
    cluster = world(pod("one"), pod("two"))
    cluster.draw("web", "one")
    old = cluster.pod("client").connect("172.30.0.1", 80)
    dead = bytes(map(int, cluster.pod("one").address.split(".")))
    cluster.delete("pod/one")
    cluster.run(120)
    start = cluster.clock.now_ns
    old.send(b"GET / HTTP/1.0\r\n\r\n")
    cluster.run(20)
    asked = [
        ((frame.at_ns - start) // NS_PER_S, frame.frame[:6] == b"\xff" * 6)
        for frame in seen(cluster, on="node-b/cni0", direction="out", protocol="arp")
        if frame.at_ns > start and frame.frame[38:42] == dead
    ]
    assert asked[:3] == [(5, False), (6, False), (7, False)]
    assert [everybody for _, everybody in asked[3:6]] == [True] * 3
    told = seen(cluster, on="default/client/eth0", direction="in", protocol="icmp", text="*host*unreachable*")
    assert (told[0].at_ns - start) // NS_PER_S == asked[3][0] + 3
    # it quotes the packet as the client sent it: to the service address
    assert FrameView(told[0].frame).quoted.daddr == bytes((172, 30, 0, 1))  # type: ignore[union-attr]
    assert old.state == "ESTABLISHED"
    assert who(cluster) == "two"


# kube-proxy


def test_only_what_changed_is_lowered_again_and_other_counters_survive() -> None:
    cluster = world(pod("one"), pod("x", "other"))
    cluster.pod("client").http_get("http://172.30.0.2/")
    netns = cluster.node("node-a").netns

    def other() -> list[tuple[str, tuple[Counters, ...]]]:
        nat = cluster.node("node-a").ruleset().table("nat")
        assert nat is not None
        return [
            (chain.name, tuple(rule.counters for rule in chain.rules))
            for chain in nat.chains
            if any("default/other" in str(rule) for rule in chain.rules)
            and chain.name.startswith(("KUBE-SVC", "KUBE-SEP"))
        ]

    counted, old = other(), netns.lowered[Family.IPV4, TableId.NAT].image
    assert len(counted) == 2
    assert all(any(one.packets for one in counters) for _, counters in counted)
    cluster.apply(pod("two"))
    cluster.run(1)
    new = netns.lowered[Family.IPV4, TableId.NAT].image
    assert old is not None
    assert new is not None
    assert new.before is old.name
    assert other() == counted
    for name, _ in counted:
        assert new.placed[name] is old.placed[name]


def test_a_third_change_in_a_row_waits_for_the_minimum_period() -> None:
    """Until then packets go by the rules of the second."""
    names = ("two", "three", "four")
    cluster = world(pod("one"), *map(pod, names))
    for name in names:
        cluster.set_ready(f"pod/{name}", False)
    cluster.run(5)
    found = syncs(cluster)
    start = cluster.clock.now_ns
    used = []
    for name in names:
        cluster.set_ready(f"pod/{name}")
        cluster.run(0.1)
        used.append(cluster.node("node-a").iptables_save().count('"default/web -> '))
    assert used == [2, 3, 3]
    assert {who(cluster, 42000 + number) for number in range(30)} == {"one", "two", "three"}
    cluster.run(1)
    assert [(one.at_ns - start) // NS_PER_MS for one in found] == [0, 100, 1100]
    assert {who(cluster, 43000 + number) for number in range(40)} == {"one", "two", "three", "four"}


def test_service_changes_while_a_flow_lasts() -> None:
    """A UDP flow keeps its endpoint while the service gets another port; when the service goes, so does the entry."""
    udp = (
        "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: log}\n"
        "spec: {clusterIP: 172.30.0.9, selector: {app: log}, ports: [{port: PORT, targetPort: 514, protocol: UDP}]}\n"
    )
    log = pod("log", "log").replace("containerPort: 8080", "containerPort: 514, protocol: UDP")
    cluster = world(udp.replace("PORT", "514"), log)
    client = cluster.pod("client")

    def send() -> list[Any]:
        return client.send(IP(dst="172.30.0.9") / UDP(sport=5000, dport=514) / b"x", wait=0.2)

    assert send()[0][UDP].sport == 514
    cluster.apply(udp.replace("PORT", "515"))
    cluster.run(1)
    assert send()[0][UDP].sport == 514
    cluster.delete("service/log")
    cluster.run(1)
    # the cluster IP is nobody's now: the node forwards the packet to the router, which knows no such network
    assert not any(reply.haslayer(UDP) and not reply.haslayer(ICMP) for reply in send())


# nodes


def test_node_that_joins_gets_rules_routes_and_pods() -> None:
    cluster = world(pod("one"))
    cluster.pod("client")
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-c}\n---" + pod("three", node="node-c"))
    cluster.run(1)
    assert {who(cluster, 40000 + number) for number in range(12)} == {"one", "three"}
    assert "172.30.0.1/32" in cluster.node("node-c").iptables_save()
    # and the other way
    cluster.apply(pod("client-c", "none", node="node-c"))
    answer = cluster.pod("client-c").http_get("http://172.30.0.1/")
    assert answer.status == 200
    with pytest.raises(TopologyError, match="is node-a's address too"):
        cluster.apply(
            "apiVersion: v1\nkind: Node\nmetadata: {name: node-d}\n"
            "status: {addresses: [{type: InternalIP, address: 192.168.0.11}]}"
        )


def test_node_that_is_deleted_is_switched_off_and_its_pods_are_collected() -> None:
    cluster = world(pod("one"), pod("zero", node="node-a"))
    cluster.pod("client")
    cluster.delete("node/node-b")
    assert [node.name for node in cluster.nodes] == ["node-a"]
    assert not any("10.1.2.0/24" in route for route in cluster.node("node-a").netns.routes())
    # for 40 s its pod is an endpoint still, and connections to it fail
    cluster.run(1)
    assert conditions(cluster)["one"] == "ready serving"
    cluster.run(QUARANTINE_NS / NS_PER_S)
    assert set(conditions(cluster)) == {"zero"}
    assert {who(cluster) for _ in range(8)} == {"zero"}
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-b}\n---" + pod("one"))
    cluster.run(1)
    assert {who(cluster, 41000 + number) for number in range(12)} == {"one", "zero"}


def test_deployment_moves_from_a_node_that_is_gone() -> None:
    cluster = world(workload("Deployment", 2))
    places = {one.spec.node_name for one in cluster.store.list(Pod) if one.metadata.labels.get("app") == "web"}
    assert places == {"node-a", "node-b"}
    cluster.delete("node/node-b")
    cluster.run(41)
    places = {one.spec.node_name for one in cluster.store.list(Pod) if one.metadata.labels.get("app") == "web"}
    assert places == {"node-a"}
    assert len(conditions(cluster)) == 2
