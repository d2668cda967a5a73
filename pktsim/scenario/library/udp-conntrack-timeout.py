"""A UDP exchange is forgotten after 30 s, not 120: the stream time-out needs two seconds and a third packet.

Symptom: DNS over a fixed port, SIP, syslog or a game's heartbeat every minute moves to another pod each time, although
``nf_conntrack_udp_timeout_stream`` is 120. Cause: a flow gets the longer time-out, and becomes ASSURED, only at a
packet in it that comes more than two seconds after its first one, once there was a reply.
Seen on Linux 6.18: 30 s [UNREPLIED]; reply within 2 s: 30 s, replied, not ASSURED; next packet at 2.3 s: 120 s and
ASSURED. Older kernels set ASSURED at the third packet whatever its age; that is not emulated.
Source: net/netfilter/nf_conntrack_proto_udp.c, nf_conntrack_udp_packet.
"""

from __future__ import annotations

from pktsim.cluster.cluster import Cluster
from pktsim.scenario.script import Story, world

ECHO = """\
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: 10.96.0.30
  selector: {app: echo}
  ports: [{port: 7000, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: echo-1, labels: {app: echo}}
spec: {nodeName: node2, containers: [{name: c}]}
status: {podIP: 10.244.2.7}
---
apiVersion: v1
kind: Pod
metadata: {name: echo-2, labels: {app: echo}}
spec: {nodeName: node2, containers: [{name: c}]}
status: {podIP: 10.244.2.8}
"""


def entry(cluster: Cluster) -> tuple[int, str]:
    """Seconds that the client's flow has left on its node, and which words its entry has."""
    texts = [one.text() for one in cluster.node("node1").conntrack() if "sport=4000 dport=7000" in one.text()]
    if not texts:
        return 0, "gone"
    (text,) = texts
    words = " ".join(word for word in ("[UNREPLIED]", "[ASSURED]") if word in text)
    return int(text.split()[2]), words or "replied"


def run(seed: int) -> Story:
    """An exchange, silence, and a stream."""
    cluster = world(seed, ECHO)
    yield cluster
    client = cluster.pod("client")
    cluster.draw("echo", "echo-1", "echo-2")

    def say() -> str:
        return client.udp("10.96.0.30", 7000, sport=4000).decode().partition(" ")[0]

    yield "a query and its answer: 30 s, and not ASSURED"
    assert say() == "echo-1"
    assert entry(cluster) == (29, "replied")

    yield "another one within two seconds changes nothing"
    cluster.run(1)
    assert say() == "echo-1"
    assert entry(cluster) == (29, "replied")

    yield "silence of 31 s: the entry is gone, and the next packet draws another pod"
    cluster.run(31)
    assert entry(cluster) == (0, "gone")
    assert say() == "echo-2"

    yield "a packet at 2.3 s: 120 s and ASSURED"
    cluster.run(2.3)
    assert say() == "echo-2"
    assert entry(cluster) == (119, "[ASSURED]")

    yield "now silence of 31 s is survived"
    cluster.run(31)
    assert entry(cluster) == (88, "[ASSURED]")
    assert say() == "echo-2"
