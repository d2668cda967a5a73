"""A pod asks its own Service and draws itself: whether that works is a matter of the bridge, not of kube-proxy.

Symptom: a pod cannot reach itself through its Service, one time in n. Cause: with bridge-nf-call-iptables the packet
is translated inside the bridge and would have to leave by the port it came in on, which a port without hairpin mode
never does. With hairpin mode the pod sees the bridge's address (the packet is masqueraded, else it would answer
itself). Without bridge-nf-call-iptables the packet is routed, and the port's mode does not matter.
Source: kubernetes/kubernetes#13375, #20475, #45790, #61593, #98069. Seen on Linux 6.18: all three outcomes.
"""

from pktsim.scenario.script import Story, seen, world

SERVICE = "http://10.96.0.20/"


def run(seed: int) -> Story:
    cluster = world(seed)
    yield cluster
    node, pod = cluster.node("node1"), cluster.pod("a")
    bridge = node.netns.addresses("cni0")[0].partition("/")[0]
    port = "veth-a"
    yield "hairpin mode on: the pod sees the bridge's address as its peer"
    cluster.draw("web", "a")
    assert pod.http_get(SERVICE).text.startswith(f"a saw {bridge}:")
    assert seen(cluster, on="default/a/eth0", direction="in", src=bridge, dst="10.244.1.5", flags="S")
    yield "hairpin mode off: the SYN goes into the bridge and nowhere"
    node.netns.link_set(port, hairpin=False)
    cluster.draw("web", "a")
    try:
        pod.http_get(SERVICE, sport=4000, timeout=2)
    except TimeoutError:
        pass
    else:
        raise AssertionError("answered")
    assert seen(cluster, on=f"node1/{port}", direction="in", sport=4000, flags="S")
    assert not [entry for entry in node.conntrack() if "sport=4000" in entry.text()]
    yield "bridge-nf-call-iptables off: routed, and the port's mode does not matter"
    node.sysctl("net.bridge.bridge-nf-call-iptables", 0)
    cluster.draw("web", "a")
    assert pod.http_get(SERVICE).text.startswith(f"a saw {bridge}:")
    assert seen(cluster, on="node1/cni0", direction="in", src="10.244.1.5", dst="10.96.0.20", flags="S")
