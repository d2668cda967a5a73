"""Load balancing is "uneven": each connection draws anew, every endpoint with the same chance; requests do not.

Symptom: one pod gets most of the requests, though the service has several. Cause: the rules are tried in order, with
chances 1/n, 1/(n-1) … 1, which gives each endpoint 1/n of the *connections*; a client that keeps one open has all its
requests at one pod, however many endpoints there are, and a few connections are seldom spread evenly.
Source: kubernetes/kubernetes#37932, #34321; pkg/proxy/iptables/proxier.go. The chances are 2**31st parts in the kernel
(xt_statistic): 1/3 is 0.33333333349. That the draws are fair is a property test (tests/cluster/test_fairness.py).
"""

import re
from collections import Counter

from pktsim.cluster.cluster import Cluster
from pktsim.scenario.script import Story, seen, world

THIRD = """
apiVersion: v1
kind: Pod
metadata: {name: c, labels: {app: web}}
spec: {nodeName: node2, containers: [{name: web, ports: [{containerPort: 8080}]}]}
status: {podIP: 10.244.2.6}
"""


def served(cluster: Cluster, connections: int) -> Counter[str]:
    """Which pods answer so many connections."""
    client = cluster.pod("client")
    return Counter(client.http_get("http://10.96.0.20/").text[0] for _ in range(connections))


def run(seed: int) -> Story:
    cluster = world(seed, THIRD)
    yield cluster
    yield "three endpoints: the rules try them with a third, a half, and the rest"
    chances = re.findall(r'"default/web -> [^"]*"(?: -m statistic --mode random --probability (\S+))?', _rules(cluster))
    assert chances == ["0.33333333349", "0.50000000000", ""]
    yield "six connections are too few to be even"
    few = served(cluster, 6)
    assert sorted(few.values()) != [2, 2, 2]
    yield "sixty are nearly so"
    with cluster.unrecorded():
        assert all(10 <= number <= 30 for number in served(cluster, 60).values())
    yield "one connection stays on its pod, whatever is sent on it"
    long = cluster.pod("client").connect("10.96.0.20", 80)
    for part in (b"GET / HTTP/1.0\r\n", b"Host: web\r\n", b"Accept: */*\r\n", b"\r\n"):
        long.send(part)
        cluster.run(0.5)
    pods = {frame.space for frame in seen(cluster, direction="in", sport=long.sport, dport=8080) if "/" in frame.space}
    assert len({pod for pod in pods if pod in ("default/a", "default/b", "default/c")}) == 1
    yield "a new endpoint gets nothing of connections that are open, and its share of new ones"
    cluster.apply(THIRD.replace("name: c,", "name: d,").replace("10.244.2.6", "10.244.2.7"))
    cluster.run(1)
    with cluster.unrecorded():
        assert set(served(cluster, 40)) == {"a", "b", "c", "d"}


def _rules(cluster: Cluster) -> str:
    return cluster.node("node1").iptables_save()
