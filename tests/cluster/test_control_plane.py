from __future__ import annotations

import pytest

from pktsim.cluster.control_plane import ControlPlane
from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import Node, Pod, Service
from pktsim.cluster.store import ObjectStore
from pktsim.errors import PktsimError

NODES = """\
apiVersion: v1
kind: Node
metadata: {name: node-a}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
---
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}
---
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  type: %s
  selector: {app: web}
  ports: [{port: 80}]
---
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: %s, containers: [{name: c}]}
---
"""


def world(text: str) -> tuple[ObjectStore, ControlPlane]:
    store = ObjectStore()
    store.apply_all(load_objects(text))
    plane = ControlPlane(store)
    plane.reconcile()
    return store, plane


def pods(store: ObjectStore) -> dict[str, tuple[str, str]]:
    return {pod.name: (pod.spec.node_name, pod.status.pod_ip) for pod in store.list(Pod)}


def test_nodes_get_addresses_and_networks_by_name() -> None:
    store, _ = world(NODES)
    assert [(str(node.host_ips[0]), node.spec.pod_cidr) for node in store.list(Node)] == [
        ("192.168.0.11", "10.1.1.0/24"),
        ("192.168.0.12", "10.1.2.0/24"),
    ]


def test_pods_of_a_deployment_are_spread_and_numbered() -> None:
    store, _ = world(NODES + DEPLOYMENT % 3)
    assert pods(store) == {
        "web-1": ("node-a", "10.1.1.1"),
        "web-2": ("node-b", "10.1.2.1"),
        "web-3": ("node-a", "10.1.1.2"),
    }
    assert all(pod.ready for pod in store.list(Pod))


def test_reconciling_again_changes_nothing() -> None:
    store, plane = world(NODES + DEPLOYMENT % 3 + SERVICE % ("web", "NodePort") + POD % "node-b")
    revision = store.revision
    plane.reconcile()
    assert store.revision == revision


def test_a_replacement_has_another_name_and_address() -> None:
    store, plane = world(NODES + DEPLOYMENT % 2)
    store.delete("Pod", "web-1", "default")
    plane.reconcile()
    assert pods(store) == {"web-2": ("node-b", "10.1.2.1"), "web-3": ("node-a", "10.1.1.2")}


def test_scaling_down_takes_the_newest_and_deleting_takes_all() -> None:
    store, plane = world(NODES + DEPLOYMENT % 12)
    store.apply_all(load_objects(DEPLOYMENT % 3))
    plane.reconcile()
    assert sorted(pods(store)) == ["web-1", "web-2", "web-3"]
    store.delete("Deployment", "web", "default")
    plane.reconcile()
    assert pods(store) == {}


def test_what_an_object_says_is_kept() -> None:
    text = POD % "node-b" + "status: {podIP: 10.1.2.77, phase: Running}\n---\n"
    store, _ = world(NODES + text.replace("---\nstatus", "status"))
    assert pods(store) == {"client": ("node-b", "10.1.2.77")}


def test_services_get_addresses_and_node_ports() -> None:
    store, _ = world(NODES + "".join(SERVICE % (f"s{number:02}", "NodePort") for number in range(11)))
    specs = [service.spec for service in store.list(Service)]
    # 172.30.0.10 is kube-dns'
    assert [spec.cluster_ip.rpartition(".")[2] for spec in specs] == [*map(str, range(1, 10)), "11", "12"]
    assert [spec.ports[0].node_port for spec in specs] == list(range(30000, 30011))
    assert specs[0].cluster_ips == ("172.30.0.1",)


def test_daemon_set_has_one_pod_per_node() -> None:
    text = (DEPLOYMENT % 1).replace("Deployment", "DaemonSet").replace("  replicas: 1\n", "")
    store, _ = world(NODES + text)
    assert {name: node for name, (node, _) in pods(store).items()} == {"web-node-a": "node-a", "web-node-b": "node-b"}


def test_stateful_set_keeps_its_names() -> None:
    text = (DEPLOYMENT % 2).replace("Deployment", "StatefulSet").replace("  replicas", "  serviceName: web\n  replicas")
    store, plane = world(NODES + text)
    store.delete("Pod", "web-0", "default")
    plane.reconcile()
    assert sorted(pods(store)) == ["web-0", "web-1"]
    pod = store.get(Pod, "web-0", "default")
    assert pod is not None
    assert (pod.spec.hostname, pod.spec.subdomain) == ("web-0", "web")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (POD % "node-x", "Pod default/client, spec.nodeName: no node node-x (add a Node, or ask for nodes)"),
        (NODES + POD % "node-x", "there are node-a, node-b"),
        ((POD % "").replace("nodeName: , ", ""), "there is no node to run it on (add a Node, or ask for nodes)"),
    ],
)
def test_what_cannot_be_filled_in_is_said(text: str, message: str) -> None:
    with pytest.raises(PktsimError) as raised:
        world(text)
    assert message in str(raised.value)
