"""A stray segment of the server resets a healthy connection to a Service, unless INVALID packets are dropped.

Symptom: ``read: connection reset by peer`` on long transfers through a Service; pod to pod never.
Cause: a segment outside of the window is INVALID to the client's node, so its source is not translated back. The
client gets it from the pod's own address, knows no such connection, and resets it. The RST is sent to the *pod*; its
sequence number is what the segment acknowledged, so it kills the server's side only if that is exactly the byte it
expects.
Source: kubernetes/kubernetes#74839, fixed by #74840 (the DROP of INVALID in KUBE-FORWARD); #120412 (tcpBeLiberal).
Found on Linux 6.18: all three outcomes, and that a RST with another sequence number leaves the connection alive.
"""

from typing import Any

from scapy.layers.inet import IP, TCP

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.connection import Connection
from pktsim.kernel.capture import CapturedFrame
from pktsim.scenario.script import Story, seen, views, world

STRAY = "*length 5*"
DROP = "KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"


def connected(cluster: Cluster) -> Connection:
    """The client's connection to the Service, which pod ``b`` on the other node answers."""
    cluster.draw("web", "b")
    return cluster.pod("client").connect("10.96.0.20", 80)


def inject(cluster: Cluster, connection: Connection) -> None:
    """Pod ``b`` sends a segment of this connection from far beyond the window."""
    (syn,) = views(cluster, on="default/b/eth0", direction="in", sport=connection.sport, flags="S")
    (answer,) = views(cluster, on="default/b/eth0", direction="out", dport=connection.sport, flags="S.")
    stray = TCP(sport=8080, dport=connection.sport, flags="A", seq=answer.tcp_seq + 2**24, ack=syn.tcp_seq + 1)
    cluster.pod("b").send(IP(dst="10.244.1.9") / stray / b"stray", wait=0.01)


def to_client(cluster: Cluster, connection: Connection, **wanted: Any) -> list[CapturedFrame]:
    """The stray segment where the client sees it."""
    return seen(cluster, on="default/client/eth0", direction="in", dport=connection.sport, text=STRAY, **wanted)


def get(connection: Connection) -> bytes:
    """What the server answers on a connection."""
    connection.send(b"GET / HTTP/1.0\r\n\r\n")
    return connection.receive(timeout=1)


def run(seed: int) -> Story:
    cluster = world(seed)
    yield cluster
    yield "as kube-proxy leaves it: KUBE-FORWARD of the server's own node drops the segment, and the connection lives"
    connection = connected(cluster)
    inject(cluster, connection)
    assert seen(cluster, on="node2/cni0", direction="in", dport=connection.sport, text=STRAY)
    assert not seen(cluster, on="node2/eth0", dport=connection.sport, text=STRAY)
    assert get(connection).startswith(b"HTTP/1.0 200")
    yield "if that one lets it through, the client's node drops it"
    cluster.node("node2").iptables(f"-D {DROP}")
    connection = connected(cluster)
    inject(cluster, connection)
    assert seen(cluster, on="node1/eth0", direction="in", src="10.244.2.5", dport=connection.sport, text=STRAY)
    assert not to_client(cluster, connection)
    assert get(connection).startswith(b"HTTP/1.0 200")
    yield "without that rule: the client answers the pod's own address with a RST, and the server's side is dead"
    cluster.node("node1").iptables(f"-D {DROP}")
    connection = connected(cluster)
    inject(cluster, connection)
    assert to_client(cluster, connection, src="10.244.2.5", sport=8080)
    assert seen(cluster, on="default/b/eth0", direction="in", sport=connection.sport, flags="R")
    try:
        get(connection)
    except ConnectionResetError:
        pass
    else:
        raise AssertionError("the connection is alive")
    yield "nf_conntrack_tcp_be_liberal instead: the segment is translated, and the client acknowledges what it has"
    for node in cluster.nodes:
        node.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", 1)
    connection = connected(cluster)
    inject(cluster, connection)
    assert to_client(cluster, connection, src="10.96.0.20", sport=80)
    assert not seen(cluster, sport=connection.sport, flags="R")
    assert get(connection).startswith(b"HTTP/1.0 200")
    yield "a kube-proxy that is told tcpBeLiberal writes no such rule, and sets it"
    liberal = world(seed, kube_proxy={"conntrack": {"tcpBeLiberal": True}}).node("node1")
    assert DROP not in liberal.iptables_save()
    assert liberal.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal") == "1"
