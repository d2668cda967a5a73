"""Rule explosion: a connection's first packet is compared with the rules of all services, the next ones are not.

Symptom: connections to services take longer the more services there are; saving the rules takes minutes. Cause: in
iptables mode KUBE-SERVICES of the nat table has a rule for each service address, and a new connection is compared with
half of them on average, in one rule after the other. Packets of connections that are known skip the nat table; what the
filter table has of it is for services without endpoints only, and for packets that are new.
Source: kubernetes/kubernetes#96018, #135639, #139513. The figures count what the kernel's linear walk looks at; the
nftables mode looks a map up once instead. Not measured on a running kernel: the rules are, by tests of their own.
"""

from pktsim.cluster.cluster import Cluster
from pktsim.scenario.script import Story, world

SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {{name: s{number:04}}}
spec: {{clusterIP: 10.96.{high}.{low}, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"""


def many(number: int) -> str:
    return "".join(SERVICE.format(number=one, high=one // 200 + 1, low=one % 200 + 1) for one in range(number))


def evaluated(cluster: Cluster) -> tuple[int, int]:
    """Rules that node1 looks at for the first packet of a connection to ``web``, and for the client's next one."""
    cluster.draw("web", "b")
    walk = cluster.trace_to("default/client", "10.96.0.20:80")
    assert walk.delivered
    first, second, *_ = [one for one in walk.passages if one.space == "node1" and "IP 10.244.1.9." in one.summary]
    assert first.opens
    assert not second.opens
    return first.rules_evaluated, second.rules_evaluated


def run(seed: int) -> Story:
    cluster = world(seed)
    yield cluster
    yield "one service"
    first, later = evaluated(cluster)
    yield f"on the client's node its first packet met {first} rules, the next one {later}; now there are more services"
    found = {number: evaluated(world(seed, many(number))) for number in (10, 100, 500)}
    for number, figures in found.items():
        yield f"with {number} more it is {figures[0]} and {figures[1]}"
        # "web" comes after all of them
        assert figures == (first + number, later)
