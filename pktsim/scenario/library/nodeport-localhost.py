"""A node port on 127.0.0.1 works in iptables mode, as long as route_localnet is on; a neighbour may not use that.

Symptom: `curl localhost:30080` on a node worked until somebody hardened the node, or kube-proxy's mode changed.
Cause: the packet is translated in OUTPUT while its source is 127.0.0.1; only route_localnet lets it out on another
device, where it is masqueraded. The same setting would let neighbours send packets to 127.0.0.1, so kube-proxy drops
these (CVE-2020-8558).
Source: kubernetes/kubernetes#57922, #90259, #90236. Seen on Linux 6.18: with 0 it fails, with 1 the pod sees the
bridge; a host that has to ask for the neighbour's MAC first asks as 127.0.0.1, which the neighbour does not answer.
"""

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from pktsim.scenario.script import Story, front, seen, world

LOCALHOST = "http://127.0.0.1:30080/"


def run(seed: int) -> Story:
    cluster = world(seed, front())
    yield cluster
    node = cluster.node("node1")
    bridge, mac = node.netns.addresses("cni0")[0].partition("/")[0], node.netns.devices.named("eth0").mac
    yield "kube-proxy has set route_localnet: the pod sees the bridge"
    assert node.sysctl("net.ipv4.conf.all.route_localnet") == "1"
    cluster.draw("front", "a")
    assert node.http_get(LOCALHOST).text.startswith(f"a saw {bridge}:")
    yield "a neighbour that sends to 127.0.0.1 is not heard, on the node port or elsewhere"
    neighbour = cluster.add_host("neighbour", network="nodes")
    to_node = Ether(dst=mac.hex(":")) / IP(src=neighbour.address, dst="127.0.0.1")
    assert not neighbour.send(to_node / UDP(sport=4000, dport=53))
    assert not neighbour.send(to_node / TCP(sport=4000, dport=10256, flags="S"))
    assert len(seen(cluster, on="node1/eth0", direction="in", dst="127.0.0.1")) == 2
    yield "without the rule that says so, kube-proxy's health port answers a neighbour whose MAC it knows"
    neighbour.ping("192.168.1.11")
    rule = next(line for line in node.iptables_save().splitlines() if "block incoming localnet connections" in line)
    node.iptables("-D" + rule.removeprefix("-A"))
    neighbour.send(to_node / TCP(sport=4001, dport=10256, flags="S"))
    assert seen(cluster, on="node1/eth0", direction="out", src="127.0.0.1", dport=4001, flags="S.")
    yield "route_localnet off: the packet does not get out of the node"
    node.sysctl("net.ipv4.conf.all.route_localnet", 0)
    cluster.draw("front", "a")
    try:
        node.http_get(LOCALHOST, timeout=2)
    except OSError:
        pass
    else:
        raise AssertionError("answered")
    yield "a kube-proxy that is told localhostNodePorts: false serves no 127.0.0.1"
    strict = world(seed, front(), kube_proxy={"iptables": {"localhostNodePorts": False}}).node("node1")
    assert "! -d 127.0.0.0/8" in strict.iptables_save()
