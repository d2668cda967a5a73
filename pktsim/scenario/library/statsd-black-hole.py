"""A UDP service loses its last endpoint: datagrams of running flows are refused at once, or vanish for ever.

Symptom: after a scale-down to zero, statsd senders push everything to the address of a dead pod, for hours.
Cause: each datagram renews the entry of its flow, and with it the DNAT to the dead pod; the REJECT rule that
kube-proxy writes for a service without endpoints looks for the cluster IP, which such packets no longer have.
Source: kubernetes/kubernetes#139628, #139629. kube-proxy up to 1.31 deletes the entries of every endpoint that goes;
from 1.32 until that fix, in 1.37, it left those of services without endpoints alone. Where a kube-proxy up to 1.31 does
not find the conntrack tool, the same comes of it.
Not measured on a running kernel: what kube-proxy deletes is from its source and the issue.
"""

from scapy.layers.inet import IP, UDP

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.kubeproxy.versions import Behaviour, Release
from pktsim.scenario.script import Story, seen, world

STATSD = """
apiVersion: v1
kind: Service
metadata: {name: statsd}
spec:
  clusterIP: 10.96.0.30
  selector: {app: statsd}
  ports: [{port: 8125, protocol: UDP}]
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: statsd, labels: {app: statsd}}
spec: {nodeName: node2, containers: [{name: statsd, ports: [{containerPort: 8125, protocol: UDP}]}]}
status: {podIP: 10.244.2.7}
"""


def datagrams(cluster: Cluster, number: int) -> None:
    """The client sends one every second, always from the same port, and does not listen."""
    for _ in range(number):
        cluster.pod("client").send(IP(dst="10.96.0.30") / UDP(sport=5000, dport=8125) / b"n:1|c", wait=1)


def refused(seed: int, version: str) -> Cluster:
    """A kube-proxy that deletes the entry: the next datagram is told that there is nobody."""
    cluster = world(seed, STATSD, POD, kube_proxy_version=version)
    datagrams(cluster, 2)
    cluster.delete("pod/statsd")
    cluster.run(1)
    assert not any("dport=8125" in entry.text() for entry in cluster.node("node1").conntrack())
    datagrams(cluster, 1)
    assert len(seen(cluster, on="default/client/eth0", direction="in", protocol="icmp", text="*port*unreachable*")) == 1
    return cluster


def run(seed: int, kube_proxy_version: str = "1.36") -> Story:
    release = Release.parse(kube_proxy_version)
    mended = release.has(Behaviour.CONNTRACK_WITHOUT_ENDPOINTS)
    if mended or not release.has(Behaviour.CONNTRACK_RECONCILER):
        yield refused(seed, kube_proxy_version)
        return
    cluster = world(seed, STATSD, POD, kube_proxy_version=kube_proxy_version)
    node = cluster.node("node1")
    yield cluster
    yield "datagrams reach the pod"
    datagrams(cluster, 2)
    assert len(seen(cluster, on="default/statsd/eth0", direction="in", dport=8125)) == 2
    yield "the pod goes: its entry outlives its 30 seconds, and every datagram leaves for the dead pod"
    cluster.delete("pod/statsd")
    cluster.run(1)
    before = len(seen(cluster, on="node1/eth0", direction="out", protocol="udp", dst="10.244.2.7"))
    datagrams(cluster, 35)
    assert len(seen(cluster, on="node1/eth0", direction="out", protocol="udp", dst="10.244.2.7")) == before + 35
    (entry,) = [entry for entry in node.conntrack() if entry.orig.dport == 8125]
    assert entry.text().count("src=10.244.2.7") == 1
    assert "has no endpoints" in node.iptables_save()
    yield "another flow is refused all the while"
    cluster.pod("client").send(IP(dst="10.96.0.30") / UDP(sport=5001, dport=8125) / b"n:1|c", wait=1)
    assert seen(cluster, on="default/client/eth0", direction="in", protocol="icmp", text="*port*unreachable*")
    yield "with an endpoint, wherever it is, the service is looked at again: the entry goes, datagrams arrive"
    cluster.apply(POD.replace("10.244.2.7", "10.244.2.8"))
    cluster.run(1)
    datagrams(cluster, 2)
    assert len(seen(cluster, on="default/statsd/eth0", direction="in", protocol="udp", dst="10.244.2.8")) == 2
    yield "1.31 and 1.37 delete the entry with the endpoint: the next datagram is refused"
    for version in ("1.31", "1.37"):
        refused(seed, version)
    yield "but 1.31 has to find the conntrack tool"
    without = world(seed, STATSD, POD, kube_proxy_version="1.31")
    without.node("node1").host.conntrack_tool = False
    datagrams(without, 2)
    without.delete("pod/statsd")
    datagrams(without, 2)
    assert not seen(without, on="default/client/eth0", direction="in", protocol="icmp")
