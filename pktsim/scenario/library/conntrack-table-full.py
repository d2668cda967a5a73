"""The connection tracking table is full: new connections die, unless some entry has not proved itself yet.

Symptom: ``nf_conntrack: table full, dropping packet``; new connections through the node time out, old ones go on.
Cause: at nf_conntrack_max entries the packet that wants one more is dropped. Before that, early_drop looks through
eight buckets of the hash for entries that are not ASSURED, and in a small table that is all of it: datagrams that were
never answered make room, established connections do not.
Source: kubernetes/kubernetes#71261, #18604; nf_conntrack_core.c early_drop, NF_CT_EVICTION_RANGE. Not measured: on
Linux 6.18 nf_conntrack_max is the whole machine's, and read-only in a namespace.
"""

from scapy.layers.inet import IP, UDP

from pktsim.scenario.script import Story, seen, world

OUTSIDE = "203.0.113.9"


def run(seed: int) -> Story:
    cluster = world(seed)
    node, client = cluster.node("node1"), cluster.pod("client")
    yield cluster
    yield "a table of three entries: two connections that were answered, which are ASSURED, and an unanswered datagram"
    first = client.connect(OUTSIDE, 8080)
    second = client.connect(OUTSIDE, 8080)
    client.send(IP(dst=OUTSIDE) / UDP(sport=4000, dport=514) / b"log", wait=0.01)
    node.sysctl("net.netfilter.nf_conntrack_buckets", 8)
    node.sysctl("net.netfilter.nf_conntrack_max", 3)
    assert len(node.conntrack()) == 3
    yield "one more: the datagram's entry goes, and the connection is made"
    before = node.conntrack_stats()
    third = client.connect(OUTSIDE, 8080)
    assert node.conntrack_stats()["early_drop"] == before["early_drop"] + 1
    assert not any("sport=4000" in entry.text() for entry in node.conntrack())
    yield "another one: there is nothing to go, so its SYN goes no further than PREROUTING"
    try:
        client.connect(OUTSIDE, 8080, sport=41000, timeout=0.5)
    except OSError:
        pass
    else:
        raise AssertionError("there was room")
    assert node.conntrack_stats()["drop"] > before["drop"]
    assert seen(cluster, on="default/client/eth0", direction="out", sport=41000, flags="S")
    assert not seen(cluster, on="node1/eth0", sport=41000)
    yield "connections that have an entry go on"
    for connection in (first, second, third):
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.receive(timeout=1).startswith(b"HTTP/1.0 200")
