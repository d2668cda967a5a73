"""A Service without endpoints refuses: ICMP port unreachable, for TCP too, from the address of the node's near side.

Symptom: "connection refused" at once where one expected a timeout (or the other way round). Cause: kube-proxy
rejects, in the filter table, what it has no endpoint for: cluster IP, node port and load balancer address alike. The
error quotes the packet as the client sent it. With internalTrafficPolicy Local, and endpoints on other nodes only, it
is a drop.
Source: kubernetes/kubernetes#17359, #74394, #121371. Seen on Linux 6.18: type 3 code 3 and its source; a TCP client
gets ECONNREFUSED. A balancer that announces by ARP or BGP withdraws the address first, so this one hands packets on
as they are.
"""

from scapy.layers.inet import ICMP, IP, TCP
from scapy.packet import Packet

from pktsim.cluster.machines import Machine
from pktsim.scenario.script import Story, front, world


def refused(machine: Machine, address: str, port: int) -> tuple[str, str]:
    """Who refuses a SYN, and which packet it quotes."""
    (error,) = machine.send(IP(dst=address) / TCP(sport=4000, dport=port, flags="S"))
    assert (error[ICMP].type, error[ICMP].code) == (3, 3)
    quoted: Packet = error[ICMP].payload
    return error[IP].src, f"{quoted.dst}:{quoted.payload.dport}"


def run(seed: int) -> Story:
    cluster = world(seed, front("LoadBalancer"), load_balancer="passthrough")
    yield cluster
    cluster.delete("pod/a")
    cluster.delete("pod/b")
    cluster.run(1)
    client, outside = cluster.pod("client"), cluster.outside
    bridge = cluster.node("node1").netns.addresses("cni0")[0].partition("/")[0]
    yield "cluster IP: refused by the client's node, from the address of its bridge"
    assert refused(client, "10.96.0.30", 80) == (bridge, "10.96.0.30:80")
    yield "node port: refused by that node"
    assert refused(outside, "192.168.1.11", 30080) == ("192.168.1.11", "192.168.1.11:30080")
    yield "load balancer address: refused by the node that the balancer took, for which it is a local address"
    assert refused(outside, "198.51.100.20", 80) == ("198.51.100.20", "198.51.100.20:80")
    yield "a TCP client sees ECONNREFUSED"
    try:
        client.tcp("10.96.0.30", 80)
    except ConnectionRefusedError:
        pass
    else:
        raise AssertionError("connected")
    yield "internalTrafficPolicy Local without an endpoint here, but one elsewhere: dropped"
    local = world(seed, front(internalTrafficPolicy="Local"))
    local.delete("pod/a")
    assert not local.pod("client").send(IP(dst="10.96.0.30") / TCP(sport=4000, dport=80, flags="S"), wait=3)
