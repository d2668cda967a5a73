"""A UDP service is deleted, and its flows go on to the old pod, or to whoever has that address next.

Symptom: a pod gets datagrams of a service it has nothing to do with.
Cause: kube-proxy deletes the entries of the cluster IP of a deleted UDP service, but not those of its external
addresses and node ports. A flow that goes by those keeps its DNAT as long as it sends.
Source: kubernetes/kubernetes#141371 (1.32 and later forgot the cluster IP too); pkg/proxy/conntrack/cleanup.go of
1.30, which is what is emulated here.
Not measured on a running kernel: what kube-proxy deletes is from its source and the issue.
"""

from scapy.layers.inet import IP, UDP

from pktsim.cluster.cluster import Cluster
from pktsim.scenario.script import Story, seen, world

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


def run(seed: int) -> Story:
    cluster = world(seed, SERVICE, POD.replace("NAME", "log"))
    node = cluster.node("node1")
    yield cluster
    yield "both flows reach the pod"
    datagrams(cluster)
    assert len(seen(cluster, on="default/log/eth0", direction="in", dport=514)) == 2
    yield "the service and its pod go, and another pod gets the address"
    cluster.delete("service/log")
    cluster.run(1)
    cluster.delete("pod/log")
    cluster.apply(POD.replace("NAME", "stranger"))
    cluster.run(1)
    flows = [entry.text() for entry in node.conntrack() if entry.orig.dport == 514]
    assert len(flows) == 1
    assert "dst=198.51.100.20" in flows[0]
    yield "what goes to the external address is misdelivered"
    datagrams(cluster)
    (wrong,) = seen(cluster, on="default/stranger/eth0", direction="in", protocol="udp", dport=514)
    assert wrong.frame.endswith(b"log")
