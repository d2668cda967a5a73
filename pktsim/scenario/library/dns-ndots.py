"""ndots:5 turns one look-up of an outside name into eight queries; a dot at the end makes it two.

Symptom: CoreDNS is busy with NXDOMAIN for names such as ``api.example.com.default.svc.cluster.local``, and look-ups of
outside names are slow. Cause: the kubelet writes ``options ndots:5`` and three suffixes; a name with fewer dots is
tried with each of them first, A and AAAA both. Mend: a dot at the end, or a lower ``ndots`` in ``dnsConfig``.
Source: kubernetes #14051; kubernetes/enhancements#967; pkg/kubelet/network/dns/dns.go; glibc resolv/res_query.c.
"""

from __future__ import annotations

from pktsim.scenario.dns_script import asks, dns_world, told
from pktsim.scenario.script import Story

FEWER_DOTS = """\
apiVersion: v1
kind: Pod
metadata: {name: frugal}
spec: {nodeName: node1, dnsConfig: {options: [{name: ndots, value: "2"}]}, containers: [{name: c}]}
status: {podIP: 10.244.1.12}
"""
SUFFIXES = ("default.svc.cluster.local.", "svc.cluster.local.", "cluster.local.")
FOUND = ["api.example.com. A udp NOERROR 1", "api.example.com. AAAA udp NOERROR 0"]


def run(seed: int) -> Story:
    """The same name, three ways."""
    cluster = dns_world(seed, FEWER_DOTS, upstream=("api.example.com. 300 A 198.51.100.7",))
    yield cluster

    yield "api.example.com is tried with three suffixes first: eight queries, six of them in vain"
    queries = asks(cluster, "client", "api.example.com")
    in_vain = [f"api.example.com.{suffix} {rrtype} udp NXDOMAIN" for suffix in SUFFIXES for rrtype in ("A", "AAAA")]
    assert told(queries) == in_vain + FOUND
    # Only the last two leave the cluster.
    assert ["outside" in one.answered_by for one in queries] == [False] * 6 + [True] * 2

    yield "with a dot at its end it is two queries"
    assert told(asks(cluster, "client", "api.example.com.")) == FOUND

    yield "with ndots:2 in the pod's dnsConfig it is two queries as well"
    assert told(asks(cluster, "frugal", "api.example.com")) == FOUND

    yield "a service is found by the first suffix"
    assert told(asks(cluster, "client", "web")) == [
        "web.default.svc.cluster.local. A udp NOERROR 1",
        "web.default.svc.cluster.local. AAAA udp NOERROR 0",
    ]
