"""A UDP service is deleted, and its flows go on to the old pod, or to whoever has that address next.

Symptom: a pod gets datagrams of a service it has nothing to do with.
Cause: up to 1.31 kube-proxy deletes the entries of the cluster IP of a deleted UDP service, but not those of its
external addresses and node ports; from 1.32 to 1.37 none of them. Such a flow keeps its DNAT as long as it sends.
Source: kubernetes/kubernetes#141371 (1.38: all of them are deleted); pkg/proxy/conntrack/cleanup.go.
Not measured on a running kernel: what kube-proxy deletes is from its source and the issue.
"""

from scapy.layers.inet import IP, UDP

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.kubeproxy.versions import Behaviour, Release
from pktsim.scenario.script import Story, seen, world
from pktsim.wire.addr import ip_to_text

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: log}
spec:
  clusterIP: 10.96.0.30
  externalIPs: [198.51.100.20]
  selector: {app: log}
  ports: [{port: 514, protocol: UDP}]
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec: {nodeName: node2, containers: [{name: log, ports: [{containerPort: 514, protocol: UDP}]}]}
status: {podIP: 10.244.2.7}
"""


def datagrams(cluster: Cluster) -> None:
    """The client sends one to each address of the service."""
    for number, address in enumerate(("10.96.0.30", "198.51.100.20")):
        cluster.pod("client").send(IP(dst=address) / UDP(sport=5000 + number, dport=514) / b"log", wait=0.5)


def run(seed: int, kube_proxy_version: str = "1.30") -> Story:
    cluster = world(seed, SERVICE, POD.replace("NAME", "log"), kube_proxy_version=kube_proxy_version)
    release = Release.parse(kube_proxy_version)
    node = cluster.node("node1")
    left = ["10.96.0.30", "198.51.100.20"]
    if release.has(Behaviour.CONNTRACK_DELETED_SERVICES):
        left = []
    elif not release.has(Behaviour.CONNTRACK_RECONCILER):
        left = ["198.51.100.20"]
    yield cluster
    yield "both flows reach the pod"
    datagrams(cluster)
    assert len(seen(cluster, on="default/log/eth0", direction="in", dport=514)) == 2
    yield f"the service and its pod go, and another pod gets the address; what kube-proxy {release} leaves: {left}"
    cluster.delete("service/log")
    cluster.run(1)
    cluster.delete("pod/log")
    cluster.apply(POD.replace("NAME", "stranger"))
    cluster.run(1)
    assert sorted(ip_to_text(entry.orig.dst) for entry in node.conntrack() if entry.orig.dport == 514) == left
    yield "what goes to those addresses is misdelivered"
    datagrams(cluster)
    wrong = seen(cluster, on="default/stranger/eth0", direction="in", protocol="udp", dport=514)
    assert len(wrong) == len(left)
    assert all(frame.frame.endswith(b"log") for frame in wrong)
