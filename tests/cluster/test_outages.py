"""Nodes and pods that fail while connections live, and what their clients see."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.objects import EndpointSlice, Node, Pod
from pktsim.cluster.wirings import WIRINGS
from pktsim.errors import ObjectError, TopologyError, UnsupportedFeature
from pktsim.scenario.loader import load_scenario
from pktsim.scenario.runner import run_scenario
from pktsim.scenario.script import front, seen, world

VIP = "http://198.51.100.20/"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}
"""


def endpoints(cluster: Cluster, service: str = "front") -> dict[str, bool | None]:
    """Address of each endpoint, and whether it is ready."""
    return {
        endpoint.addresses[0]: endpoint.conditions.ready
        for piece in cluster.store.list(EndpointSlice, "default")
        if piece.metadata.labels["kubernetes.io/service-name"] == service
        for endpoint in piece.endpoints
    }


def get(connection: object) -> bytes:
    connection.send(b"GET / HTTP/1.0\r\n\r\n")  # type: ignore[attr-defined]
    return connection.receive(timeout=3)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("wiring", list(WIRINGS))
def test_a_node_without_power_is_silent_and_comes_back(wiring: str) -> None:
    cluster = world(1, front(), wiring=wiring)
    cluster.draw("front", "b")
    assert cluster.outside.http_get("http://192.168.1.12:30080/").status == 200
    cluster.fail_node("node2")
    first = len(cluster.capture.frames)
    with pytest.raises(OSError, match="after"):
        cluster.outside.http_get("http://192.168.1.12:30080/", timeout=3)
    assert not [frame for frame in cluster.capture.frames[first:] if frame.space in ("node2", "default/b")]
    cluster.recover_node("node2")
    cluster.draw("front", "b")
    assert cluster.outside.http_get("http://192.168.1.12:30080/").status == 200
    assert cluster.pod("client").http_get("http://10.244.2.5:8080/").text.startswith("b saw 10.244.1.9:")


def test_endpoints_stay_until_the_node_monitor_notices() -> None:
    cluster = world(1, front())
    cluster.outside  # noqa: B018 - builds the network
    cluster.fail_node("node2", grace=40, toleration=300)
    cluster.run(39)
    assert endpoints(cluster) == {"10.244.1.5": True, "10.244.2.5": True}
    cluster.draw("front", "b")
    with pytest.raises(OSError, match="after"):
        cluster.outside.http_get("http://192.168.1.11:30080/", timeout=2)
    cluster.run(2)
    assert endpoints(cluster) == {"10.244.1.5": True, "10.244.2.5": False}
    node = cluster.store.get(Node, "node2")
    assert node is not None
    assert not node.condition("Ready")
    for _ in range(4):
        assert cluster.outside.http_get("http://192.168.1.11:30080/").text.startswith("a ")
    cluster.recover_node("node2")
    assert endpoints(cluster) == {"10.244.1.5": True, "10.244.2.5": True}


def test_pods_are_evicted_after_their_toleration_and_a_deployment_replaces_them() -> None:
    cluster = Cluster(2)
    cluster.apply(DEPLOYMENT)
    lost = next(pod.pod.name for pod in cluster.pods if pod.pod.spec.node_name == "node-b" and "shop" in pod.name)
    cluster.fail_node("node-b", grace=10, toleration=20)
    cluster.run(29)
    assert len(list(cluster.store.list(Pod, "default"))) == 2
    cluster.run(2)
    pods = {pod.name: pod for pod in cluster.store.list(Pod, "default")}
    assert pods[lost].terminating
    assert sorted(pod.spec.node_name for pod in pods.values() if not pod.terminating) == ["node-a", "node-a"]
    cluster.recover_node("node-b")
    assert lost not in {pod.name for pod in cluster.store.list(Pod, "default")}
    assert len(cluster.store.list(Pod, "default")) == 2


def test_a_connection_to_a_lost_node_retransmits_into_the_void() -> None:
    cluster = world(1, front())
    cluster.draw("front", "b")
    connection = cluster.outside.connect("192.168.1.12", 30080)
    cluster.fail_node("node2")
    with pytest.raises(TimeoutError):
        get(connection)
    sent = seen(cluster, on="outside/eth0", direction="out", sport=connection.sport, flags="P.")
    assert len(sent) >= 4
    gaps = [later.at_ns - earlier.at_ns for earlier, later in pairwise(sent)]
    assert all(1.5 < later / earlier < 2.6 for earlier, later in pairwise(gaps[1:]))


def test_l2_a_lost_owner_is_replaced_and_old_connections_are_reset() -> None:
    cluster = world(1, front("LoadBalancer"))
    connection = cluster.outside.connect("198.51.100.20", 80)
    owner = next(name for name in ("node1", "node2") if seen(cluster, on=f"{name}/eth0", direction="in", dport=80))
    other = "node2" if owner == "node1" else "node1"
    cluster.fail_node(owner)
    survivor = "b" if owner == "node1" else "a"
    with pytest.raises(OSError, match="after"):
        cluster.outside.http_get(VIP, timeout=2)
    cluster.run(5)
    mac = cluster.node(other).netns.devices.named("eth0").mac
    announced = seen(cluster, on="router/eth0", direction="in", protocol="arp", text="*198.51.100.20*")
    assert announced[-1].frame[6:12] == mac
    cluster.draw("front", survivor)
    assert cluster.outside.http_get(VIP).text.startswith(f"{survivor} ")
    # what the old owner had translated, the new one does not know: a segment without SYN finds no connection
    with pytest.raises((ConnectionResetError, TimeoutError)):
        get(connection)


def test_l2_a_node_that_comes_back_takes_its_addresses_back() -> None:
    cluster = world(1, front("LoadBalancer"))
    assert cluster.outside.http_get(VIP).status == 200
    owner = next(name for name in ("node1", "node2") if seen(cluster, on=f"{name}/eth0", direction="in", dport=80))
    cluster.fail_node(owner)
    cluster.run(6)
    cluster.recover_node(owner)
    cluster.run(1)
    first = len(cluster.capture.frames)
    assert cluster.outside.http_get(VIP).status == 200
    assert any(
        frame.space == owner and frame.interface == "eth0" and frame.direction == "in"
        for frame in cluster.capture.frames[first:]
    )


def test_ecmp_flows_of_the_lost_node_fail_until_it_is_withdrawn() -> None:
    balancer = "apiVersion: pktsim.io/v1\nkind: LoadBalancer\nmetadata: {name: bgp}\nspec: {mode: ecmp, detection: 9}\n"
    cluster = world(3, balancer, front("LoadBalancer", "Local"))
    cluster.outside  # noqa: B018
    cluster.fail_node("node2")

    def outcomes(first: int) -> set[str]:
        found = set()
        for sport in range(first, first + 8):
            try:
                found.add(cluster.outside.http_get(VIP, sport=sport, timeout=0.5).text[0])
            except OSError:
                found.add("-")
        return found

    assert outcomes(4000) == {"a", "-"}
    cluster.run(9)
    assert outcomes(5000) == {"a"}


@pytest.mark.parametrize("mode", ["passthrough", "nat", "proxy"])
def test_probes_find_the_lost_node_and_the_one_that_came_back(mode: str) -> None:
    cluster = world(3, front("LoadBalancer"), load_balancer=mode)
    cluster.outside  # noqa: B018
    cluster.fail_node("node2", grace=1)
    cluster.run(20)
    for sport in range(4000, 4008):
        assert cluster.outside.http_get(VIP, sport=sport, timeout=1).text.startswith("a ")
    cluster.recover_node("node2")
    cluster.run(20)
    assert {cluster.outside.http_get(VIP, sport=sport).text[0] for sport in range(5000, 5024)} == {"a", "b"}


def test_draining_moves_what_has_a_controller_and_refuses_what_has_none() -> None:
    cluster = Cluster(2)
    cluster.apply(DEPLOYMENT)
    assert {pod.pod.spec.node_name for pod in cluster.pods if "shop" in pod.name} == {"node-a", "node-b"}
    cluster.drain("node-b", force=True)
    assert {pod.spec.node_name for pod in cluster.store.list(Pod, "default")} == {"node-a"}
    cluster.scale("deployment/shop", 4)
    assert {pod.spec.node_name for pod in cluster.store.list(Pod, "default")} == {"node-a"}
    cluster.uncordon("node-b")
    cluster.scale("deployment/shop", 6)
    assert {pod.spec.node_name for pod in cluster.store.list(Pod, "default")} == {"node-a", "node-b"}
    with pytest.raises(ObjectError, match="nothing would replace it"):
        world(1).drain("node1")
    with pytest.raises(ObjectError, match="there is no node 'mars'"):
        cluster.drain("mars")


def test_a_killed_pod_resets_its_clients_and_comes_back() -> None:
    cluster = world(1, front())
    cluster.draw("front", "a")
    connection = cluster.outside.connect("192.168.1.11", 30080)
    cluster.run(0.01)
    cluster.kill_pod("a", restart=2.0)
    assert endpoints(cluster)["10.244.1.5"] is False
    cluster.run(0.1)
    assert seen(cluster, on="default/a/eth0", direction="out", sport=8080, flags="F.") or seen(
        cluster, on="default/a/eth0", direction="out", sport=8080, flags="R."
    )
    assert get(connection) == b""
    cluster.run(0.01)
    assert seen(cluster, on="outside/eth0", direction="in", sport=30080, flags="R")
    assert cluster.outside.http_get("http://192.168.1.11:30080/").text.startswith("b ")
    with pytest.raises(ConnectionRefusedError):
        cluster.pod("client").tcp("10.244.1.5", 8080)
    cluster.run(3)
    assert endpoints(cluster)["10.244.1.5"] is True
    assert cluster.pod("client").http_get("http://10.244.1.5:8080/").status == 200


def test_what_cannot_fail_is_said() -> None:
    cluster = Cluster(2)
    with pytest.raises(TopologyError, match="there is no node 'mars'"):
        cluster.fail_node("mars")
    cluster.fail_node("node-b")
    with pytest.raises(TopologyError, match="node 'node-b' is down"):
        cluster.node("node-b")
    with pytest.raises(TopologyError, match="node 'node-b' is down"):
        cluster.fail_node("node-b")
    with pytest.raises(TopologyError, match="node 'node-a' is not down"):
        cluster.recover_node("node-a")
    cluster.recover_node("node-b")
    with pytest.raises(UnsupportedFeature, match="killing the program of kube-dns"):
        cluster.kill_pod("kube-system/coredns")


def test_a_node_that_is_down_may_be_deleted() -> None:
    cluster = world(1, wiring="vxlan")
    cluster.outside  # noqa: B018
    cluster.fail_node("node2")
    cluster.delete("node/node2")
    assert not any("10.244.2.0" in route for route in cluster.node("node1").netns.routes())
    cluster.run(400)


def test_steps_of_a_scenario_fail_and_recover(tmp_path: Path) -> None:
    text = """\
kind: Scenario
metadata: {name: failures}
spec:
  cluster: {nodes: 2, wiring: vxlan}
  steps:
  - {from: outside, ping: 192.168.0.12}
  - {failNode: node-b, grace: 5}
  - {from: outside, ping: 192.168.0.12, expect: {error: "nothing came in time"}}
  - {wait: 6}
  - {recoverNode: node-b}
  - {from: outside, ping: 192.168.0.12}
  - {from: node-a, ping: 10.1.2.53}
  - {drain: node-b}
"""
    path = tmp_path / "failures.yaml"
    path.write_text(text)
    result = run_scenario(load_scenario(path))
    assert [step.unmet for step in result.steps] == [()] * 8
