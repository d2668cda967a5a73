"""MASQUERADE runs out of low ports: the pod's datagrams leave no node and nobody says why.

Symptom: clients that bind privileged ports (syslog, NTP, NFS) time out while others are fine; ``insert_failed``
grows.
Cause: a source port below 512 is only ever exchanged for one of 1-511, one of 512-1023 for one of 600-1023. For one
node address and one destination that is 511 flows. Then nf_nat_l4proto_unique_tuple gives up after 128+64+32+16+8 =
248 probes, leaves the duplicate, and the packet is dropped when it is to be confirmed, behind the last hook: no rule
counts it.
Source: net/netfilter/nf_nat_core.c; kubernetes/kubernetes#76699 for how it is met.
Found on Linux 6.18: so, and ``conntrack -S`` says found=249 insert_failed=1 drop=1; with TCP found=129, because the
last 32 probes of each round ask in another way. Port 512 is still to be had (tests/live/test_scenario_claims.py).
"""

from scapy.layers.inet import IP, UDP

from pktsim.scenario.script import Story, seen, views, world


def run(seed: int) -> Story:
    cluster = world(seed)
    node, client, neighbour = cluster.node("node1"), cluster.pod("client"), cluster.pod("neighbour")
    yield cluster
    yield "511 datagrams of the client take all ports up to 511 of the node's address; they are not in the capture"
    assert client.ping("203.0.113.9").ok  # so that link-layer addresses are known: few packets may wait for one
    assert neighbour.ping("203.0.113.9").ok
    with cluster.unrecorded():
        for port in range(1, 512):
            client.send(IP(dst="203.0.113.9") / UDP(sport=port, dport=514) / b"log", wait=0.001)
    assert sum("sport=514 dport" in entry.text() for entry in node.conntrack()) == 511
    yield "the neighbour's datagram from port 300 vanishes behind POSTROUTING"
    before = node.conntrack_stats()
    neighbour.send(IP(dst="203.0.113.9") / UDP(sport=300, dport=514) / b"log", wait=0.01)
    grown = {name: value - before[name] for name, value in node.conntrack_stats().items() if value != before[name]}
    assert grown == {"found": 249, "insert_failed": 1, "drop": 1}
    assert seen(cluster, on="node1/cni0", direction="in", protocol="udp", sport=300)
    assert not seen(cluster, on="node1/eth0", protocol="udp")
    yield "from port 512 it goes out as it is; the client, from the same port, gets one of 600-1023"
    neighbour.send(IP(dst="203.0.113.9") / UDP(sport=512, dport=514) / b"log", wait=0.01)
    client.send(IP(dst="203.0.113.9") / UDP(sport=512, dport=514) / b"log", wait=0.01)
    first, second = views(cluster, on="node1/eth0", direction="out", protocol="udp", src="192.168.1.11")
    assert first.sport == 512
    assert 600 <= second.sport <= 1023
