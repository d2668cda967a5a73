"""Alpine images resolve names differently: musl is not glibc.

Symptom: a name works in a Debian image and not in an Alpine one. Causes, as musl 1.2.3 has them: an error other than
NXDOMAIN ends the search instead of leading to the next suffix; a name with ``ndots`` dots or more is never tried with a
suffix; there is no TCP, so of a truncated answer it takes what came (1.2.4 has TCP).
Source: kubernetes #16534; moby/moby#45553; coredns/coredns#5362; musl src/network/lookup_name.c and res_msend.c.
"""

from __future__ import annotations

from pktsim.cluster.kubedns.upstream import Upstream
from pktsim.scenario.dns_script import asks, dns_world, told
from pktsim.scenario.script import Story

PODS = """\
apiVersion: v1
kind: Pod
metadata: {name: debian}
spec: {nodeName: node1, dnsConfig: {searches: [corp.example]}, containers: [{name: c}]}
status: {podIP: 10.244.1.11}
---
apiVersion: v1
kind: Pod
metadata: {name: alpine, annotations: {pktsim.io/libc: musl}}
spec: {nodeName: node1, dnsConfig: {searches: [corp.example]}, containers: [{name: c}]}
status: {podIP: 10.244.1.12}
---
apiVersion: v1
kind: Pod
metadata: {name: alpine-ndots, annotations: {pktsim.io/libc: musl}}
spec:
  nodeName: node1
  dnsConfig: {options: [{name: ndots, value: "1"}]}
  containers: [{name: c}]
status: {podIP: 10.244.1.13}
---
apiVersion: v1
kind: Pod
metadata: {name: debian-ndots}
spec:
  nodeName: node1
  dnsConfig: {options: [{name: ndots, value: "1"}]}
  containers: [{name: c}]
status: {podIP: 10.244.1.14}
"""
MANY = tuple(f"many.example. 300 A 198.51.100.{number}" for number in range(1, 11))


def run(seed: int) -> Story:
    """The same names, asked for with both libraries."""
    records = ("intranet. 300 A 198.51.100.9", *MANY)
    failing = Upstream.of(records, rcodes={"intranet.corp.example.": "SERVFAIL"}, truncate=["many.example."])
    cluster = dns_world(seed, PODS, upstream=failing)
    yield cluster

    yield "a suffix whose server fails: glibc asks once more, then goes on, and finds the name"
    queries = told(asks(cluster, "debian", "intranet"))
    assert queries[-4:-2] == ["intranet.corp.example. A udp SERVFAIL", "intranet.corp.example. AAAA udp SERVFAIL"]
    assert queries[-2:] == ["intranet. A udp NOERROR 1", "intranet. AAAA udp NOERROR 0"]

    yield "musl asks for 5 s, then gives up"
    queries = told(asks(cluster, "alpine", "intranet"))[6:]
    # Both are sent anew at each SERVFAIL, twice, and all of that again after 2.5 s.
    assert queries.count("intranet.corp.example. A udp SERVFAIL") == 6
    assert queries.count("intranet.corp.example. AAAA udp SERVFAIL") == 6
    assert len(queries) == 12

    yield "web.default with ndots:1: glibc tries it as it is, then with the suffixes"
    assert told(asks(cluster, "debian-ndots", "web.default"))[-1] == "web.default.svc.cluster.local. AAAA udp NOERROR 0"

    yield "musl tries it as it is, and no more"
    assert told(asks(cluster, "alpine-ndots", "web.default")) == [
        "web.default. A udp NXDOMAIN",
        "web.default. AAAA udp NXDOMAIN",
    ]

    yield "a truncated answer: glibc fetches the whole over TCP, musl makes do with none"
    assert "many.example. A tcp NOERROR 10" in told(asks(cluster, "debian", "many.example."))
    assert told(asks(cluster, "alpine", "many.example.")) == [
        "many.example. A udp NOERROR 0 truncated",
        "many.example. AAAA udp NOERROR 0 truncated",
    ]
