"""DNS stalls of 5 s: A and AAAA queries of one socket race for one connection tracking entry.

Symptom: now and then a look-up takes 5 s, or 10; ``conntrack -S`` counts ``insert_failed`` on the client's node.
Cause: glibc and musl send both queries from one socket at once. Both pass nat PREROUTING before either is confirmed, so
each may be sent to another CoreDNS pod, and only one entry can have that original tuple. Older kernels dropped the
loser, and the client repeats it after 5 s. Newer ones (nf_ct_resolve_clash) let it take the winner's entry if both have
the same backend, and else enter it for the reply direction only, for one second, unseen by ``conntrack -L``
(nf_ct_resolve_clash_harder, 2020): both answers come back. That is the code emulated here; what older kernels did is
shown by a rule that drops the very packet.
Seen on Linux 6.18: of 4,000 such pairs, sent by two CPUs to two backends, 3,442 clashed; ``clash_resolve`` counts them,
``insert_failed`` and ``drop`` stay 0, no answer is lost.
Source: weaveworks/weave#3287; kubernetes #56903, #62628; net/netfilter/nf_conntrack_core.c; glibc resolv/res_send.c.
"""

from __future__ import annotations

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.scenario.dns_script import asks, dns_world, hold_new_connections, told
from pktsim.scenario.script import Story

NAME = "web.default.svc.cluster.local."
FOUND = [f"{NAME} A udp NOERROR 1", f"{NAME} AAAA udp NOERROR 0"]


def run(seed: int) -> Story:
    """Two backends, one backend, and the loss of a query."""
    cluster = dns_world(seed)
    yield cluster
    node = cluster.node("node1")
    asks(cluster, "client", "web")

    yield "A and AAAA race and draw different CoreDNS pods: both are answered"
    cluster.draw("kube-system/kube-dns:dns", "coredns-1", "coredns-2")
    before = node.conntrack_stats()
    hold_new_connections(cluster, node, 0.002)
    queries = asks(cluster, "client", "web")
    assert told(queries) == FOUND
    assert [one.answered_by for one in queries] == [("kube-system/coredns-1",), ("kube-system/coredns-2",)]
    assert all(one.answered_ns is not None and one.answered_ns - one.at_ns < 5 * NS_PER_MS for one in queries)
    after = node.conntrack_stats()
    assert after["clash_resolve"] - before["clash_resolve"] == 1
    assert (after["insert_failed"], after["drop"]) == (0, 0)
    # Two entries more, but only the winner's is listed.
    port = f"sport={queries[0].client[1]} "
    assert after["entries"] - before["entries"] == 2
    assert [("src=10.244.2.53" in entry.text()) for entry in node.conntrack() if port in entry.text()] == [True]

    yield "both draw the same pod: the loser takes the winner's entry"
    cluster.draw("kube-system/kube-dns:dns", "coredns-2", "coredns-2")
    before = node.conntrack_stats()
    hold_new_connections(cluster, node, 0.002)
    assert told(asks(cluster, "client", "web")) == FOUND
    after = node.conntrack_stats()
    assert after["clash_resolve"] - before["clash_resolve"] == 1
    assert after["entries"] - before["entries"] == 1

    yield "what an older kernel did to the loser, done by a rule: the client waits 5 s and asks both again"
    node.iptables("-A FORWARD -p udp --dport 53 -m statistic --mode nth --every 1000 --packet 1 -j DROP")
    queries = asks(cluster, "client", "web")
    assert told(queries) == [FOUND[0], f"{NAME} AAAA udp timeout", *FOUND]
    assert len({one.client for one in queries}) == 1
    assert queries[2].at_ns - queries[0].at_ns == 5 * NS_PER_S
