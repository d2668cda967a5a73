"""Health checks are answered by packets on the node, in the words of Go's server."""

from __future__ import annotations

from typing import Any

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration, load_config
from pktsim.errors import ObjectError
from pktsim.scenario.script import seen
from tests.cluster.test_alive import pod

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""


def world(**config: Any) -> Cluster:
    settings = KubeProxyConfiguration.model_validate({"clusterCIDR": "10.1.0.0/16", **config})
    cluster = Cluster(2, kube_proxy=settings, load_balancer="none")
    cluster.apply(SERVICE + pod("one", node="node-a"))
    cluster.run(2)
    return cluster


def get(cluster: Cluster, where: str, node: str = "node-a") -> tuple[int, str]:
    answer = cluster.outside.http_get(f"http://{cluster.node(node).address}:{where}")
    return answer.status, answer.text


def said(cluster: Cluster) -> str:
    """The last HTTP answer that came to ``outside``, header and all."""
    frames = [frame.frame for frame in seen(cluster, on="outside/eth0", direction="in", protocol="tcp")]
    text = next(frame for frame in reversed(frames) if b"HTTP/1.1 " in frame)
    return text[text.index(b"HTTP/1.1 ") :].decode()


def test_health_check_node_port_counts_local_endpoints() -> None:
    cluster = world()
    assert get(cluster, "32000/anything") == (
        200,
        '{\n\t"service": {\n\t\t"namespace": "default",\n\t\t"name": "web"\n\t},\n\t"localEndpoints": 1,\n'
        '\t"serviceProxyHealthy": true\n}',
    )
    assert said(cluster).partition("\r\n\r\n")[0].split("\r\n") == [
        "HTTP/1.1 200 OK",
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
        "X-Load-Balancing-Endpoint-Weight: 1",
        "Date: Thu, 01 Jan 1970 00:00:02 GMT",
        "Content-Length: 114",
    ]
    status, text = get(cluster, "32000/", "node-b")
    assert status == 503
    assert '"localEndpoints": 0' in text


def test_health_check_follows_the_pods_and_the_service() -> None:
    cluster = world()
    cluster.outside.ping(cluster.node("node-a").address)
    cluster.delete("pod/one", grace=30)
    cluster.run(1)
    # a terminating endpoint serves, but asks for no more
    assert get(cluster, "32000/")[0] == 503
    cluster.apply(SERVICE.replace("32000", "32001"))
    cluster.run(1)
    with pytest.raises(OSError, match="connect"):
        get(cluster, "32000/")
    assert get(cluster, "32001/")[0] == 503
    cluster.delete("service/web")
    cluster.run(1)
    with pytest.raises(OSError, match="connect"):
        get(cluster, "32001/")


def test_healthz_and_livez() -> None:
    cluster = world()
    time = "1970-01-01 00:00:0"
    status, text = get(cluster, "10256/healthz")
    assert status == 200
    assert text.startswith('{"lastUpdated": "' + time)
    # the network, and kube-proxy with it, is built when it is first needed
    assert " +0000 UTC m=+0.000" in text
    assert text.endswith(', "nodeEligible": true}')
    assert get(cluster, "10256/livez")[1].endswith('"}')
    assert get(cluster, "10256/metrics") == (404, "404 page not found\n")
    tainted = (
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {podCIDR: 10.1.1.0/24, podCIDRs: [10.1.1.0/24], "
    )
    tainted += "taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}\n"
    cluster.apply(tainted + "status: {addresses: [{type: InternalIP, address: 192.168.0.11}]}\n")
    assert get(cluster, "10256/healthz")[0] == 503
    assert get(cluster, "10256/livez")[0] == 200


def test_node_port_addresses_and_healthz_bind_address_say_where() -> None:
    cluster = world(nodePortAddresses=["10.99.0.0/16"], healthzBindAddress="127.0.0.1:10300")
    for port in ("32000", "10256", "10300"):
        with pytest.raises(OSError, match="connect"):
            get(cluster, f"{port}/healthz")
    assert cluster.node("node-a").http_get("http://127.0.0.1:10300/healthz").status == 200
    cluster = world(nodePortAddresses=["192.168.0.0/24"])
    assert get(cluster, "32000/")[0] == 200
    with pytest.raises(OSError, match="connect"):
        cluster.node("node-a").http_get("http://127.0.0.1:32000/")


def test_when_kube_proxy_ends_its_ports_close() -> None:
    cluster = world()
    cluster.outside.ping(cluster.node("node-a").address)
    cluster.node("node-a").stop_kube_proxy()
    for port in ("32000", "10256"):
        with pytest.raises(OSError, match="connect"):
            get(cluster, f"{port}/healthz")


ADDRESSES = {
    "": ("0.0.0.0", 10256),
    "10.0.0.1": ("10.0.0.1", 10256),
    "'[::]:1'": ("::", 1),
    "'fd00::1'": ("fd00::1", 10256),
}
BAD = ("10.0.0.1:", "localhost:10256", "10.0.0.1:0", "10.0.0.1:65536")
HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


@pytest.mark.parametrize("text", ADDRESSES)
def test_healthz_bind_address(text: str) -> None:
    address, port = load_config(f"{HEAD}healthzBindAddress: {text}\n").healthz_address
    assert (str(address), port) == ADDRESSES[text]


@pytest.mark.parametrize("text", BAD)
def test_healthz_bind_address_that_is_none(text: str) -> None:
    with pytest.raises(ObjectError, match="healthzBindAddress"):
        load_config(f"{HEAD}healthzBindAddress: '{text}'\n")
