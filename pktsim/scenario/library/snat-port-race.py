"""Two pods ask the same address from the same port at the same time; one of the SYNs is lost, and a second passes.

Symptom: rare connections to one address outside take a second, or three, longer; ``conntrack -S`` shows
insert_failed.
Cause: MASQUERADE keeps a source port that is free. While the first pod's packet is between the choice and its
confirmation at the end of POSTROUTING, the second pod's packet on another processor finds the same port free. The
entry that is confirmed second has a reply tuple that is taken: its packet is dropped. ``--random-fully`` draws from
1024-65535 instead.
Source: kubernetes/kubernetes#76699, #78547; kubernetes-sigs/ip-masq-agent#51; net/netfilter/nf_conntrack_core.c.
Found on Linux 6.18 with two processors sending 3,000 pairs of SYNs at once: 1,282 lost (insert_failed=1282
drop=1282), none with ``--random-fully``.
"""

from pktsim.netfilter.opcodes import Hook, Step
from pktsim.scenario.script import Story, seen, views, world

RULE = (
    '-t nat -{} IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE '
    '(must be last in chain)" -j MASQUERADE'
)


def run(seed: int) -> Story:
    cluster = world(seed)
    node, client, neighbour = cluster.node("node1"), cluster.pod("client"), cluster.pod("neighbour")
    yield cluster
    yield "both SYNs choose port 40000 before either is confirmed; the second is dropped and repeated a second later"
    assert client.ping("203.0.113.9").ok
    assert neighbour.ping("203.0.113.9").ok
    failed = node.conntrack_stats()["insert_failed"]
    began_ns = cluster.clock.now_ns
    with node.holding(Hook.POSTROUTING, Step.CONFIRM) as held:
        first, second = (pod.connect("203.0.113.9", 8080, sport=40000, timeout=0) for pod in (client, neighbour))
        cluster.run(0.001)
        assert len(held) == 2
    first.wait(0.1)
    assert node.conntrack_stats()["insert_failed"] == failed + 1
    assert second.state == "SYN_SENT"
    second.wait(1.5)
    assert 1.0 < (cluster.clock.now_ns - began_ns) / 1e9 < 1.1
    syns = views(cluster, on="node1/eth0", direction="out", dst="203.0.113.9", flags="S")
    assert syns[0].sport == 40000
    assert syns[1].sport != 40000
    yield "with --random-fully each draws a port of its own, and both connect at once"
    node.iptables(RULE.format("D"))
    node.iptables(RULE.format("A") + " --random-fully")
    already = len(seen(cluster, on="node1/eth0", direction="out", dst="203.0.113.9", flags="S"))
    with node.holding(Hook.POSTROUTING, Step.CONFIRM) as held:
        first, second = (pod.connect("203.0.113.9", 8080, sport=40001, timeout=0) for pod in (client, neighbour))
        cluster.run(0.001)
    first.wait(0.1)
    second.wait(0.1)
    ports = [
        syn.sport for syn in views(cluster, on="node1/eth0", direction="out", dst="203.0.113.9", flags="S")[already:]
    ]
    assert len({*ports, 40001}) == 3
    assert min(ports) >= 1024
    assert node.conntrack_stats()["insert_failed"] == failed + 1
