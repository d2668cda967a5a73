"""In iptables mode a node port answers on every address of the node, the bridge's and a balancer's included.

Symptom: a port scan finds the node port on addresses nobody meant: the second network card, the pods' bridge. Cause:
the rule that leads to node ports asks only whether the destination is a local address. nodePortAddresses narrows it.
Source: KEP-3866, "NodePort addresses" (nftables mode: the primary address only); kubernetes
pkg/proxy/util/nodeport_addresses.go.
Found on Linux 6.18: addrtype LOCAL takes any address of any device.
"""

from pktsim.cluster.machines import Machine
from pktsim.scenario.script import Story, front, world


def answers(machine: Machine, address: str) -> bool:
    """Whether a node port answers there."""
    try:
        return machine.http_get(f"http://{address}:30080/", timeout=2).status == 200
    except OSError:
        return False


def run(seed: int) -> Story:
    cluster = world(seed, front())
    yield cluster
    node = cluster.node("node1")
    bridge = node.netns.addresses("cni0")[0].partition("/")[0]
    node.netns.address_add("eth0", "192.168.1.111/24")
    node.netns.address_add("lo", "192.0.2.7/32")
    cluster.router.netns.route_add("192.0.2.7 via 192.168.1.11")
    yield "from outside: the first address, a second one, one that only lo has"
    assert [answers(cluster.outside, one) for one in ("192.168.1.11", "192.168.1.111", "192.0.2.7")] == [True] * 3
    yield "from a pod: the bridge too"
    assert answers(cluster.pod("client"), bridge)
    yield "nodePortAddresses: 192.168.1.11/32, that one only"
    narrow = world(seed, front(), kube_proxy={"nodePortAddresses": ["192.168.1.11/32"]})
    narrow.node("node1").netns.address_add("eth0", "192.168.1.111/24")
    assert answers(narrow.outside, "192.168.1.11")
    assert not answers(narrow.outside, "192.168.1.111")
    assert not answers(narrow.pod("client"), bridge)
