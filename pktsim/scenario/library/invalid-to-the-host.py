"""A stray segment of the server resets the connection of a client on the host network, drop rule or not.

Symptom: ``connection reset by peer`` in agents and proxies with hostNetwork, where pods are fine.
Cause: as for a pod (connection-reset-by-peer) the segment is INVALID and not translated back. But it is for the node
itself: it passes INPUT, where KUBE-FORWARD's DROP of INVALID is not asked, and the host's own TCP answers what it does
not know with a RST to the pod. What helps is a DROP in INPUT, or nf_conntrack_tcp_be_liberal.
Source: kubernetes/kubernetes#117924; #74839 for the pod's case.
Found on Linux 6.18: so (tests/live/test_scenario_claims.py).
"""

from scapy.layers.inet import IP, TCP

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.connection import Connection
from pktsim.scenario.script import Story, seen, views, world

STRAY = "*length 5*"
INVALID = "-m conntrack --ctstate INVALID -j DROP"
NODE1 = "192.168.1.11"


def connected(cluster: Cluster) -> Connection:
    """The node's own connection to the Service, which pod ``b`` on the other node answers."""
    cluster.draw("web", "b")
    return cluster.node("node1").connect("10.96.0.20", 80)


def inject(cluster: Cluster, connection: Connection) -> None:
    """Pod ``b`` sends a segment of this connection from far beyond the window."""
    syn = views(cluster, on="default/b/eth0", direction="in", flags="S")[-1]
    answer = views(cluster, on="default/b/eth0", direction="out", flags="S.")[-1]
    stray = TCP(sport=8080, dport=syn.sport, flags="A", seq=answer.tcp_seq + 2**24, ack=syn.tcp_seq + 1)
    cluster.pod("b").send(IP(dst=NODE1) / stray / b"stray", wait=0.01)


def get(connection: Connection) -> bytes:
    """What the server answers on a connection."""
    connection.send(b"GET / HTTP/1.0\r\n\r\n")
    return connection.receive(timeout=1)


def resets(cluster: Cluster) -> int:
    """How many RSTs pod ``b`` has got."""
    return len(seen(cluster, on="default/b/eth0", direction="in", src=NODE1, flags="R"))


def run(seed: int) -> Story:
    cluster = world(seed)
    node1, node2 = cluster.node("node1"), cluster.node("node2")
    yield cluster
    yield "node1 has KUBE-FORWARD's rule (node2's is out of the way): the host's RST goes to the pod all the same"
    node2.iptables(f"-D KUBE-FORWARD {INVALID}")
    connection = connected(cluster)
    inject(cluster, connection)
    assert f"-A KUBE-FORWARD {INVALID}" in node1.iptables_save()
    assert seen(cluster, on="node1/eth0", direction="in", src="10.244.2.5", sport=8080, text=STRAY)
    assert resets(cluster) == 1
    try:
        get(connection)
    except ConnectionResetError:
        pass
    else:
        raise AssertionError("the connection is alive")
    yield "a rule in INPUT: the segment vanishes, the connection lives"
    node1.iptables(f"-I INPUT 1 {INVALID}")
    connection = connected(cluster)
    inject(cluster, connection)
    assert resets(cluster) == 1
    assert get(connection).startswith(b"HTTP/1.0 200")
    yield "nf_conntrack_tcp_be_liberal instead of rules: it is translated, and the host acknowledges what it has"
    node1.iptables(f"-D INPUT {INVALID}")
    node1.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", 1)
    connection = connected(cluster)
    inject(cluster, connection)
    assert resets(cluster) == 1
    assert get(connection).startswith(b"HTTP/1.0 200")
