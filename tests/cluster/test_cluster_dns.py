"""Names in a whole cluster: what pods' files say, whom kube-dns asks, and when it learns of changes."""

from __future__ import annotations

import socket

import pytest

from pktsim import Cluster
from pktsim.errors import ObjectError, UnsupportedFeature

POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: client, annotations: {annotations}}}
spec: {{nodeName: node-a, containers: [{{name: c}}]{spec}}}
"""
WEB = """\
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 172.30.0.1, ports: [{port: 80}]}
"""
UPSTREAM = ("www.example.com. 300 A 198.51.100.7",)


def cluster_with(spec: str = "", annotations: str = "{}", **arguments: float) -> Cluster:
    cluster = Cluster(nodes=2, upstream=UPSTREAM, dns_watch_delay=arguments.get("dns_watch_delay", 0.0))
    cluster.apply(POD.format(spec=spec, annotations=annotations) + WEB)
    return cluster


def asked(cluster: Cluster, where: str) -> list[tuple[str, int]]:
    """Destinations and ports of the queries that left by an interface."""
    from pktsim.wire.addr import ip_to_text
    from pktsim.wire.frame import FrameView

    seen = []
    for frame in cluster.capture.frames:
        view = FrameView(frame.frame)
        if frame.where == where and frame.direction == "out" and view.has_ports and view.dport == 53:
            seen.append((ip_to_text(view.daddr), view.sport))
    return seen


def test_kube_dns_forwards_what_it_does_not_know_to_the_nodes_name_server() -> None:
    cluster = cluster_with()
    assert cluster.pod("client").resolve("www.example.com") == ["198.51.100.7"]
    assert {address for address, _ in asked(cluster, "kube-system/coredns/eth0")} == {"203.0.113.9"}
    with pytest.raises(socket.gaierror, match="Name or service not known"):
        cluster.pod("client").resolve("nothing.example.com")


def test_a_node_asks_the_upstream_itself() -> None:
    cluster = cluster_with()
    assert cluster.node("node-a").resolve("www.example.com") == ["198.51.100.7"]
    with pytest.raises(socket.gaierror):
        cluster.node("node-a").resolve("web.default.svc.cluster.local")


@pytest.mark.parametrize(
    ("spec", "server", "queries"),
    [
        pytest.param("", "172.30.0.10", 8, id="ClusterFirst"),
        pytest.param(", dnsPolicy: Default", "203.0.113.9", 2, id="Default"),
        pytest.param(", dnsPolicy: None, dnsConfig: {nameservers: [203.0.113.9]}", "203.0.113.9", 2, id="None"),
        pytest.param(', dnsConfig: {options: [{name: ndots, value: "2"}]}', "172.30.0.10", 2, id="ndots of dnsConfig"),
        pytest.param(", dnsConfig: {searches: [example.org]}", "172.30.0.10", 10, id="one more suffix"),
    ],
)
def test_dns_policy_and_dns_config(spec: str, server: str, queries: int) -> None:
    cluster = cluster_with(spec)
    assert cluster.pod("client").resolve("www.example.com") == ["198.51.100.7"]
    assert [address for address, _ in asked(cluster, "default/client/eth0")] == [server] * queries


def test_the_annotation_chooses_the_c_library() -> None:
    with pytest.raises(socket.gaierror, match="Name does not resolve"):
        cluster_with(annotations="{pktsim.io/libc: musl}").pod("client").resolve("nothing")
    with pytest.raises(UnsupportedFeature, match="uclibc"):
        cluster_with(annotations="{pktsim.io/libc: uclibc}")


def test_a_change_is_answered_after_the_watch_delay() -> None:
    cluster = cluster_with(dns_watch_delay=0.5)
    client = cluster.pod("client")
    cluster.apply(WEB.replace("web", "shop").replace("172.30.0.1,", "172.30.0.2,"))
    with pytest.raises(socket.gaierror):
        client.resolve("shop")
    cluster.run(0.5)
    assert client.resolve("shop") == ["172.30.0.2"]


def test_a_truncated_answer_of_the_upstream_is_fetched_over_tcp() -> None:
    many = [f"many.example.com. 300 A 198.51.100.{number}" for number in range(1, 61)]
    cluster = Cluster(nodes=1, upstream=many)
    assert len(cluster.node("node-a").resolve("many.example.com")) == 60


def test_a_draw_for_one_port_leaves_the_others_alone() -> None:
    cluster = cluster_with()
    with pytest.raises(ObjectError, match="has no port 'dnss'"):
        cluster.draw("kube-system/kube-dns:dnss", "coredns")
    cluster.draw("kube-system/kube-dns:dns", "coredns")
    assert cluster.pod("client").resolve("web") == ["172.30.0.1"]
