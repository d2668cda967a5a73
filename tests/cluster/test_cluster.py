from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP

from pktsim.cluster.cluster import Cluster, node_names
from pktsim.cluster.machines import NodeMachine
from pktsim.cluster.objects import Ingress
from pktsim.cluster.walk import Walk
from pktsim.errors import ObjectError, PktsimError, RulesetSyntaxError, TopologyError, UnsupportedFeature
from pktsim.scenario.library import shipped
from pktsim.scenario.loader import load_scenario
from pktsim.wire.frame import FrameView

SERVICE = "http://172.30.0.1/"


def book(seed: int = 1, **options: object) -> Cluster:
    cluster = Cluster(seed=seed)
    cluster.apply(load_scenario(shipped("book")).objects)
    return cluster


def answerer(body: str) -> str:
    return body.partition(" saw ")[0]


def test_a_pod_reaches_each_endpoint_of_a_service() -> None:
    cluster = book()
    cluster.draw("web", "web-1", "web-2", "web-3")
    client = cluster.pod("client")
    assert [answerer(client.http_get(SERVICE).text) for _ in range(3)] == ["web-1", "web-2", "web-3"]


def test_a_node_reaches_a_service_through_output() -> None:
    cluster = book()
    cluster.draw("default/web", "web-2")
    body = cluster.node("node-a").http_get(SERVICE).text
    assert body.startswith("web-2 saw 192.168.0.11:")
    (entry,) = [entry for entry in cluster.node("node-a").conntrack() if entry.proto == 6]
    assert "src=192.168.0.11 dst=172.30.0.1" in entry.text()


def test_a_pod_that_draws_itself_sees_its_bridge() -> None:
    cluster = book()
    cluster.draw("web", "web-2")
    assert cluster.pod("web-2").http_get(SERVICE).text.startswith("web-2 saw 10.1.2.254:")


def test_the_world_outside_sees_the_node() -> None:
    cluster = book()
    assert cluster.pod("client").http_get("http://203.0.113.9:8080/").text.startswith("outside saw 192.168.0.11:")
    assert cluster.outside.address == "203.0.113.9"


def test_ping_and_its_errors() -> None:
    cluster = book()
    client = cluster.pod("default/client")
    answer = client.ping("10.1.2.1")
    assert (answer.ok, answer.ttl) == (True, 62)
    unreachable = client.ping("10.1.2.77", timeout=5.0)
    assert not unreachable.ok
    assert str(unreachable) == "ICMP type 3 code 1 from 192.168.0.12, ttl 63"


def test_same_seed_same_bytes_another_seed_another_pod() -> None:
    def frames(seed: int) -> tuple[list[bytes], str]:
        cluster = book(seed)
        body = cluster.pod("client").http_get(SERVICE).text
        return [frame.frame for frame in cluster.capture], answerer(body)

    assert frames(3) == frames(3)
    assert len({frames(seed)[1] for seed in range(12)}) == 3


def test_no_cluster_ip_beyond_the_clients_node() -> None:
    cluster = book(5)
    for source in ("client", "web-1"):
        cluster.pod(source).http_get(SERVICE)
    for frame in cluster.capture:
        view = FrameView(frame.frame)
        if view.protocol < 0 or frame.space in ("node-a", "default/client", "default/web-1"):
            continue
        assert bytes((172, 30, 0, 1)) not in (view.saddr, view.daddr), frame


def test_crafted_packets_and_their_replies() -> None:
    cluster = book()
    client = cluster.pod("client")
    cluster.draw("web", "web-2")
    (syn_ack,) = client.send(IP(dst="172.30.0.1") / TCP(sport=1234, dport=80, flags="S", seq=7))
    assert (syn_ack[IP].src, syn_ack[TCP].sport, syn_ack[TCP].ack) == ("172.30.0.1", 80, 8)
    (reply,) = client.send(IP(dst="10.1.1.1") / ICMP(id=5) / b"x")
    assert reply[ICMP].type == 0


def test_scaling_and_deleting_change_rules_and_pods() -> None:
    cluster = Cluster(nodes=2, dns=False)
    cluster.apply(
        """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
    )
    node = cluster.node("node-b")
    assert node.http_get(SERVICE).text.startswith("web-1 saw ")
    cluster.scale("deployment/web", 3)
    cluster.run(seconds=2)
    assert [pod.name for pod in cluster.pods] == ["default/web-1", "default/web-2", "default/web-3"]
    assert node.iptables_save().count("-j DNAT --to-destination") == 3
    cluster.delete("deploy/web")
    cluster.run(seconds=2)
    assert cluster.pods == ()
    with pytest.raises(ConnectionRefusedError):
        node.tcp("172.30.0.1", 80)


def test_rules_can_be_edited_and_replaced() -> None:
    cluster = book()
    node = cluster.node("node-a")
    node.iptables("-A FORWARD -p tcp --dport 8080 -j DROP")
    cluster.draw("web", "web-2")
    with pytest.raises(TimeoutError):
        cluster.pod("client").http_get(SERVICE, timeout=2.0)
    node.iptables("-D FORWARD -p tcp --dport 8080 -j DROP")
    assert cluster.pod("client").http_get("http://10.1.2.1:8080/").status == 200


def test_a_real_dump_instead_of_kube_proxy(tmp_path: Path) -> None:
    cluster = book()
    dump = tmp_path / "iptables-save.txt"
    dump.write_text(book(2).node("node-a").iptables_save())
    node = cluster.node("node-a")
    node.load_iptables(dump)
    assert node.proxy is None
    assert node.iptables_save() == dump.read_text()
    assert cluster.pod("client").http_get(SERVICE).status == 200


def test_slices_without_pods_get_pods() -> None:
    cluster = Cluster.load(
        """\
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.244.1.0/24}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080, protocol: TCP}]
endpoints:
- addresses: [10.244.1.7]
  targetRef: {kind: Pod, name: web-abc, namespace: default}
"""
    )
    assert cluster.node("n1").http_get("http://10.96.0.1/").text.startswith("web-abc saw ")


def test_a_walk_names_rules_and_what_changed() -> None:
    cluster = book()
    cluster.draw("web", "web-2")
    walk = cluster.trace_to("default/client", "172.30.0.1:80")
    assert walk.delivered
    text = str(walk)
    assert "-j DNAT --to-destination 10.1.2.1:8080" in text
    assert "NAT: destination 172.30.0.1:80 -> 10.1.2.1:8080" in text
    assert "TTL becomes 63" in text
    opening = [passage for passage in walk.passages if passage.opens]
    assert [passage.space for passage in opening] == ["node-a", "node-b"]


def test_a_walk_says_why_a_packet_was_dropped() -> None:
    cluster = book()
    cluster.node("node-b").iptables("-I FORWARD -d 10.1.2.1 -j DROP")
    walk = cluster.trace("client", IP(dst="10.1.2.1") / TCP(dport=8080, sport=5))
    assert not walk.delivered
    dropped = next(passage for passage in walk.passages if passage.dropped)
    assert dropped.space == "node-b"
    assert dropped.dropped == "dropped: a rule said DROP (filter FORWARD rule 1)"
    assert isinstance(walk, Walk)


def test_captures_have_comments_and_names(tmp_path: Path) -> None:
    cluster = book()
    cluster.draw("web", "web-2")
    cluster.pod("client").http_get(SERVICE)
    comments = [text for frame in cluster.capture for text in cluster.capture.comments(frame)]
    assert any("destination 172.30.0.1:80 -> 10.1.2.1:8080" in text and "node-a" in text for text in comments)
    assert cluster.names()[bytes((172, 30, 0, 1))] == ("web.default.svc",)
    cluster.capture.write(tmp_path / "walk.pcapng")
    assert (tmp_path / "walk.pcapng").stat().st_size > 5000


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: c.pod("nobody"), TopologyError, "there is no pod 'nobody' (there are default/client, default/web-1"),
        (lambda c: c.node("node-x"), TopologyError, "there is no node 'node-x' (there are node-a, node-b)"),
        (lambda c: c.delete("web-1"), ObjectError, "'web-1' names no object"),
        (lambda c: c.scale("pod/web-1", 2), ObjectError, "pod/web-1 cannot be scaled"),
        (lambda c: c.scale("deploy/web", 2), ObjectError, "deploy/web does not exist"),
        (lambda c: c.draw("nothing", "web-1"), ObjectError, "there is no service default/nothing"),
        (lambda c: c.node("node-a").iptables("-A FORWARD --frobnicate"), RulesetSyntaxError, "frobnicate"),
        (lambda c: c.node("node-a").load_iptables("/nonexistent/file"), RulesetSyntaxError, "/nonexistent/file"),
        (lambda c: c.apply("kind: NetworkPolicy\nmetadata: {name: x}\n"), UnsupportedFeature, "NetworkPolicy"),
        (lambda c: Cluster().node("node-a"), TopologyError, "the cluster has no nodes"),
    ],
)
def test_what_does_not_exist_is_said_in_one_line(call: object, error: type[PktsimError], message: str) -> None:
    with pytest.raises(error) as raised:
        call(book())  # type: ignore[operator]
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_names_of_nodes() -> None:
    names = node_names(703)
    assert names[:2] == ["node-a", "node-b"]
    assert (names[25], names[26], names[702]) == ("node-z", "node-aa", "node-aaa")


def test_addresses_of_machines() -> None:
    cluster = book()
    assert [node.address for node in cluster.nodes] == ["192.168.0.11", "192.168.0.12"]
    assert cluster.machine("outside") is cluster.outside
    assert isinstance(cluster.machine("node-a"), NodeMachine)
    assert cluster.machine("default/web-1").address == "10.1.1.1"


def test_ingress_objects_are_deleted_by_reference_and_get_their_class() -> None:
    cluster = Cluster(1)
    cluster.apply(
        """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}
spec: {controller: k8s.io/ingress-nginx}
"""
    )
    found = cluster.store.get(Ingress, "web", "default")
    assert found is not None
    assert found.spec.ingress_class_name == "nginx"
    cluster.delete("ingress/web")
    cluster.delete("ingressclass/nginx")
    assert not cluster.store.list(Ingress)
    with pytest.raises(ObjectError, match="there is no Ingress default/web"):
        cluster.delete("ing/default/web")
