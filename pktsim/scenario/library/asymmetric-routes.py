"""Asymmetric routes: the rule against stray resets drops the good packets of a node that sees one direction only.

Symptom: connections from outside straight to a pod's address get as far as the SYN/ACK and then hang.
Cause: the router sends to the pod by way of another node, and the pod's own node answers directly. The node in between
sees a SYN and no answer, so to it the client's ACK is INVALID: conntrack keeps to SYN_SENT, where an ACK of the client
has no place. Without KUBE-FORWARD's DROP of INVALID it would forward it as it is.
Source: kubernetes/kubernetes#94861; nf_conntrack_proto_tcp.c, state SYN_SENT.
Found on Linux 6.18: so (tests/live/test_scenario_claims.py).
"""

from pktsim.scenario.script import Story, seen, world

POD_A = "10.244.1.5"
DROP = "KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"


def run(seed: int) -> Story:
    cluster = world(seed)
    cluster.router.netns.route_replace("10.244.1.0/24 via 192.168.1.12")
    node2 = cluster.node("node2")
    yield cluster
    yield "the handshake gets as far as its second packet, and node2 drops what the client sends then"
    try:
        cluster.outside.http_get(f"http://{POD_A}:8080/", timeout=2)
    except OSError:
        pass
    else:
        raise AssertionError("the pod was reached")
    assert seen(cluster, on="node2/eth0", direction="in", dst=POD_A, flags="S")
    assert not seen(cluster, on="node2/eth0", src=POD_A)
    assert seen(cluster, on="outside/eth0", direction="in", src=POD_A, flags="S.")
    assert seen(cluster, on="node2/eth0", direction="in", dst=POD_A, flags=".")
    assert not seen(cluster, on="node2/eth0", direction="out", dst=POD_A, flags=".")
    yield "without the rule node2 forwards them, INVALID or not"
    node2.iptables(f"-D {DROP}")
    assert cluster.outside.http_get(f"http://{POD_A}:8080/", timeout=2).status == 200
    assert seen(cluster, on="node2/eth0", direction="out", dst=POD_A, flags=".")
    yield "a kube-proxy that is told tcpBeLiberal does not write it"
    liberal = world(seed, kube_proxy={"conntrack": {"tcpBeLiberal": True}})
    liberal.router.netns.route_replace("10.244.1.0/24 via 192.168.1.12")
    assert liberal.outside.http_get(f"http://{POD_A}:8080/", timeout=2).status == 200
