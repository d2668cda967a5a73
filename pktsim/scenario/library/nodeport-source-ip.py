"""The pod sees a node's address instead of the client's, which one depends on where the pod runs; Local keeps it.

Symptom: access logs full of node addresses; rules by client address hit everybody. Cause: with externalTrafficPolicy
Cluster any node answers for any pod, so the node that took the packet masquerades it to see the answer again. A local
pod sees the address of the node's bridge, a remote one that of the device towards its node. Local: no masquerade, but
only nodes with a pod of their own answer.
Source: kubernetes/kubernetes#91374, #58338, #114058. Seen on Linux 6.18: the local pod, and (in a recorded cluster
with this wiring, and in one with VXLAN) the remote one: 192.168.1.11 here, flannel.1's 10.244.1.0 there.
"""

from pktsim.scenario.script import Story, front, seen, world

NODE1 = "http://192.168.1.11:30080/"


def run(seed: int) -> Story:
    cluster = world(seed, front())
    yield cluster
    bridge = cluster.node("node1").netns.addresses("cni0")[0].partition("/")[0]
    yield "Cluster, local endpoint: the bridge of the node"
    cluster.draw("front", "a")
    assert cluster.outside.http_get(NODE1).text.startswith(f"a saw {bridge}:")
    yield "Cluster, remote endpoint: the node's own address, on its way out"
    cluster.draw("front", "b")
    assert cluster.outside.http_get(NODE1).text.startswith("b saw 192.168.1.11:")
    assert seen(cluster, on="node1/eth0", direction="out", src="192.168.1.11", dst="10.244.2.5", flags="S")
    yield "the answer comes back by the same node, and from the address that was asked"
    assert seen(cluster, on="outside/eth0", direction="in", src="192.168.1.11", sport=30080, flags="S.")
    yield "Local: the client itself, at each node its own pod"
    cluster.apply(front(policy="Local"))
    assert cluster.outside.http_get(NODE1).text.startswith("a saw 203.0.113.9:")
    assert cluster.outside.http_get("http://192.168.1.12:30080/").text.startswith("b saw 203.0.113.9:")
