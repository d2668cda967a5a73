"""internalTrafficPolicy Local over UDP: the agent on the node is restarted, and its clients go on to the old address.

Symptom: after a rolling restart of a DaemonSet (metrics, logs, DNS) some clients' datagrams vanish until they use
another port. Cause: kube-proxy up to 1.31 deletes the entries of an endpoint that leaves its slice only if it was
serving until then. One that ends in good order is not: it stops serving first, and leaves later. That the service went
from no endpoint to one *on this node* is not seen either, since other nodes have some all the time.
Source: kubernetes/kubernetes#126934, #125467; mended by the reconciler of 1.32 (#127318), which asks where
entries lead.
Not measured on a running kernel: what kube-proxy deletes is from its source, and for 1.30 from recordings.
"""

from scapy.layers.inet import IP, UDP

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.kubeproxy.versions import Behaviour, Release
from pktsim.scenario.script import Story, views, world
from pktsim.wire.addr import ip_to_text

AGENT = """
apiVersion: v1
kind: Service
metadata: {name: agent}
spec:
  clusterIP: 10.96.0.31
  internalTrafficPolicy: Local
  selector: {app: agent}
  ports: [{port: 8125, protocol: UDP}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, ports: [{containerPort: 8125, protocol: UDP}]}]}
"""


def datagrams(cluster: Cluster, number: int) -> None:
    """The client sends one every second, always from the same port."""
    for _ in range(number):
        cluster.pod("client").send(IP(dst="10.96.0.31") / UDP(sport=5000, dport=8125) / b"n:1|c", wait=1)


def led_to(cluster: Cluster) -> list[str]:
    """Where the entry of that flow leads, on the client's node."""
    entries = cluster.node("node1").conntrack()
    return [ip_to_text(entry.reply.src) for entry in entries if entry.orig.dport == 8125]


def run(seed: int, kube_proxy_version: str = "1.30") -> Story:
    reconciles = Release.parse(kube_proxy_version).has(Behaviour.CONNTRACK_RECONCILER)
    cluster = world(seed, AGENT, kube_proxy_version=kube_proxy_version)
    yield cluster
    old = cluster.pod("agent-node1").address
    yield "datagrams reach the agent on the client's node"
    datagrams(cluster, 2)
    assert led_to(cluster) == [old]
    yield "the agent is asked to end: it is terminating, then not ready any more; the other node still has one"
    cluster.delete("pod/agent-node1", grace=3)
    datagrams(cluster, 1)
    cluster.set_ready("pod/agent-node1", False)
    datagrams(cluster, 2)
    # without an endpoint here, what is new would be dropped; a flow that is known is not asked
    assert led_to(cluster) == ([] if reconciles else [old])
    yield "a new agent is there, with another address"
    cluster.run(1)
    new = cluster.pod("agent-node1").address
    assert new != old
    datagrams(cluster, 5)
    assert led_to(cluster) == [new if reconciles else old]
    received = views(cluster, on="default/agent-node1/eth0", direction="in", protocol="udp", dst=new)
    assert len(received) == (5 if reconciles else 0)
    yield "the next flow reaches it"
    cluster.pod("client").send(IP(dst="10.96.0.31") / UDP(sport=5001, dport=8125) / b"n:1|c", wait=1)
    received = views(cluster, on="default/agent-node1/eth0", direction="in", sport=5001, dst=new)
    assert len(received) == 1
