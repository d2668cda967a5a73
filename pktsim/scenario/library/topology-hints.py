"""Topology hints: traffic keeps to its zone if every endpoint has a hint and the zone has one, else it goes anywhere.

Symptom: traffic crosses zones though topology-aware routing is on. Cause: the EndpointSlice controller gives hints only
while there are enough endpoints for every zone's share of CPUs; kube-proxy minds them only if all ready endpoints have
some and one is for its own zone. Endpoints that terminate are a fallback without hints.
Source: KEP-2433, KEP-4444; pkg/proxy/topology.go and staging/src/k8s.io/endpointslice/topologycache. The annotation is
what 1.30 goes by; from 1.31 on trafficDistribution says it with fewer conditions.
Not measured on a running kernel: only the choice of endpoints is of interest, and that is kube-proxy's.
"""

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.objects import EndpointSlice
from pktsim.scenario.script import Story, world

AUTO = """
apiVersion: v1
kind: Service
metadata: {name: web, annotations: {service.kubernetes.io/topology-mode: Auto}}
spec:
  clusterIP: 10.96.0.20
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""
CLOSE = AUTO.replace(", annotations: {service.kubernetes.io/topology-mode: Auto}", "").replace(
    "selector:", "trafficDistribution: PreferClose\n  selector:"
)


def answering(cluster: Cluster) -> set[str]:
    """Which pods the client on node1, in zone east, reaches."""
    cluster.run(1)
    with cluster.unrecorded():
        found = {cluster.pod("client").http_get("http://10.96.0.20/").text[0] for _ in range(12)}
    assert cluster.pod("client").http_get("http://10.96.0.20/").text[0] in found
    return found


def zones(cluster: Cluster) -> list[str]:
    """The zone that each endpoint is meant for."""
    pieces = [one for one in cluster.store.list(EndpointSlice) if one.service_name == "web"]
    hints = [endpoint.hints for piece in pieces for endpoint in piece.endpoints]
    return [zone.name for hint in hints if hint for zone in hint.for_zones]


def zoned(seed: int, service: str, version: str) -> Cluster:
    cluster = world(seed, service, kube_proxy_version=version)
    for node, zone in (("node1", "east"), ("node2", "west")):
        cluster.label(f"node/{node}", **{"topology.kubernetes.io/zone": zone})
    cluster.apply(pod("c", "node1", "10.244.1.6") + pod("d", "node2", "10.244.2.6"))
    return cluster


def pod(name: str, node: str, address: str) -> str:
    return f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}}}
spec: {{nodeName: {node}, containers: [{{name: web, ports: [{{containerPort: 8080}}]}}]}}
status: {{podIP: {address}}}
"""


def run(seed: int) -> Story:
    cluster = zoned(seed, AUTO, "1.30")
    yield cluster
    yield "two endpoints in each of two zones: the client keeps to its own"
    assert sorted(zones(cluster)) == ["east", "east", "west", "west"]
    assert answering(cluster) == {"a", "c"}
    yield "three endpoints cannot be shared by two zones without overloading one: no hints, any endpoint will do"
    cluster.delete("pod/c")
    assert zones(cluster) == []
    assert answering(cluster) == {"a", "b", "d"}
    yield "both of the zone's endpoints are terminating: one of the other zone's is lent to it"
    cluster.apply(pod("c", "node1", "10.244.1.7"))
    cluster.delete("pod/a", grace=60)
    cluster.delete("pod/c", grace=60)
    assert sorted(zones(cluster)) == ["east", "west"]
    assert answering(cluster) in ({"b"}, {"d"})
    yield "nothing is ready: terminating endpoints are used, whatever their zone"
    cluster.set_ready("pod/b", False)
    cluster.set_ready("pod/d", False)
    assert answering(cluster) == {"a", "c"}
    yield "1.31 and later, trafficDistribution: each endpoint is for its own zone, and who has none there goes anywhere"
    close = zoned(seed, CLOSE, "1.31")
    close.delete("pod/c")
    assert answering(close) == {"a"}
    close.delete("pod/a")
    assert answering(close) == {"b", "d"}
