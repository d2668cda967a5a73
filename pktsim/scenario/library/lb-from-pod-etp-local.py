"""A pod asks the load balancer's address, policy Local, no pod on its own node: it works, and its address is kept.

Symptom: works from inside in one kube-proxy mode and not in the other. Cause: a pod's packet to the address never
leaves its node. In iptables mode a packet from the pods' network is short-circuited to any endpoint, as if it had
been sent to the cluster IP; one from outside meets the local policy and is dropped.
Source: kubernetes/kubernetes#131765, #93456, #75262; KUBE-EXT's "pod traffic" rule in pkg/proxy/iptables/proxier.go.
Found on Linux 6.18 in iptables mode (a recorded cluster, `pod-lb-local`).
"""

from pktsim.scenario.script import Story, front, seen, world

ADDRESS = "198.51.100.20"


def run(seed: int) -> Story:
    cluster = world(seed, front("LoadBalancer", "Local"))
    yield cluster
    cluster.delete("pod/a")
    yield "the client's node has no pod of the service: any endpoint, nothing masqueraded"
    assert cluster.pod("client").http_get(f"http://{ADDRESS}/").text.startswith("b saw 10.244.1.9:")
    assert not seen(cluster, on="node1/eth0", dst=ADDRESS)
    yield "a process on the node itself: any endpoint too, with the node's address"
    assert cluster.node("node1").http_get(f"http://{ADDRESS}/").text.startswith("b saw 192.168.1.11:")
    yield "from outside, at this node: dropped"
    answered = cluster.outside.send_ip(syn_to_node1(), wait=3)
    assert not answered
    yield "from outside, by the balancer: at the node that has the pod"
    assert cluster.outside.http_get(f"http://{ADDRESS}/").text.startswith("b saw 203.0.113.9:")


def syn_to_node1() -> bytes:
    """A SYN for the node port of node1."""
    from scapy.layers.inet import IP, TCP

    return bytes(IP(src="203.0.113.9", dst="192.168.1.11") / TCP(sport=4000, dport=30080, flags="S"))
