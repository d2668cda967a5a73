"""Truncated answers: a headless service with 60 endpoints is asked for again over TCP, at another CoreDNS pod.

Symptom: a headless service works while it is small; as it grows, look-ups fail where TCP port 53 is not let through, or
give only some of the endpoints. Cause: without EDNS an answer over UDP has at most 512 octets; the rest is left off and
TC set. The client opens TCP to the same cluster IP: a new flow, for which the node draws a backend anew. glibc 2.36
repeats all of it, UDP first, until its buffer holds all addresses.
Source: coredns/coredns#4183, #5953; RFC 1035 section 4.2.1, RFC 7766; glibc resolv/res_send.c.
"""

from __future__ import annotations

from pktsim.cluster.exchanges import dns_exchanges
from pktsim.scenario.dns_script import asks, dns_world, told
from pktsim.scenario.script import Story

MANY = """\
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: many-1, labels: {kubernetes.io/service-name: many}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [192.0.2.1]}, LIST]
""".replace("LIST", ", ".join(f"{{addresses: [192.0.2.{number}]}}" for number in range(2, 61)))
NAME = "many.default.svc.cluster.local."


def run(seed: int) -> Story:
    """UDP to one pod, TCP to the other; and what is left if TCP is not let through."""
    cluster = dns_world(seed, MANY)
    yield cluster

    yield "over UDP there is room for 29 of 60 addresses; TCP is a flow of its own and reaches another pod"
    cluster.draw("kube-system/kube-dns:dns", *3 * ["coredns-1"])
    cluster.draw("kube-system/kube-dns:dns-tcp", *3 * ["coredns-2"])
    first = len(cluster.capture.frames)
    assert len(cluster.pod("client").resolve(NAME)) == 60
    queries = dns_exchanges(cluster.capture.frames[first:], "default/client")
    assert told(queries)[:4] == [
        f"{NAME} A udp NOERROR 29 truncated",
        f"{NAME} AAAA udp NOERROR 0",
        f"{NAME} A tcp NOERROR 60",
        f"{NAME} AAAA tcp NOERROR 0",
    ]
    assert queries[0].size <= 512
    assert [one.answered_by for one in queries[:4:2]] == [("kube-system/coredns-1",), ("kube-system/coredns-2",)]

    yield "a policy that lets only UDP port 53 through: the look-up fails"
    # Not --reject-with tcp-reset: to a packet that came by a bridge port the kernel sends the reset straight back by
    # that port (nf_send_reset), so it is not un-NATed and the client, which never spoke to that address, waits on.
    cluster.node("node1").iptables("-I FORWARD -p tcp --dport 53 -j REJECT")
    queries = asks(cluster, "client", NAME)
    assert not any(one.tcp for one in queries)
    assert any(one.truncated for one in queries)
