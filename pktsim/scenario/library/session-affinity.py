"""sessionAffinity ClientIP: everybody behind one NAT on one pod, and the 101st client of a pod pushes out the first.

Symptom: one pod is busy while others idle; sessions that move for no reason. Cause: clients are told apart by the
address that arrives, before any masquerade, per service port; a visit keeps it for three hours more (10800 s).
iptables mode keeps the addresses in lists of xt_recent, one for each endpoint, which hold 100 (ip_list_tot): a busy
pod forgets.
Source: kubernetes/kubernetes#43958, #103000, #110302, #55429; net/netfilter/xt_recent.c. Seen on Linux 6.18:
ip_list_tot is 100, and the oldest entry goes. The address comes before SNAT: recent stands in nat PREROUTING.
"""

from scapy.layers.inet import IP, TCP

from pktsim.cluster.cluster import Cluster
from pktsim.scenario.script import Story, front, world

URL = "http://192.168.1.11:30080/"


def knock(cluster: Cluster, sport: int, clients: int) -> None:
    """So many clients begin to connect, and give up at once."""
    with cluster.unrecorded():
        for number in range(clients):
            way = IP(src=f"203.0.113.{100 + number}", dst="192.168.1.11")
            cluster.outside.send(way / TCP(sport=sport, dport=30080, flags="S", seq=1000), wait=0.001)
            cluster.outside.send(way / TCP(sport=sport, dport=30080, flags="R", seq=1001), wait=0.001)


def run(seed: int) -> Story:
    cluster = world(seed, front(sessionAffinity="ClientIP"))
    yield cluster
    cluster.add_router("office", inside="10.66.0.0/24", nat=True)
    people = [cluster.add_host(f"desk-{number}", network="office") for number in range(3)]
    yield "a whole office is one client: all on the pod that the first one drew"
    cluster.draw("front", "a", "b")
    assert [desk.http_get(URL).text[0] for desk in people] == ["a", "a", "a"]
    yield "somebody else draws afresh, and then stays"
    assert [cluster.outside.http_get(URL).text[0] for _ in range(3)] == ["b", "b", "b"]
    yield "three hours without a visit: forgotten; each visit begins them anew"
    cluster.run(10000)
    assert people[0].http_get(URL).text[0] == "a"
    cluster.run(10000)
    cluster.draw("front", "b")
    assert people[0].http_get(URL).text[0] == "a"
    cluster.run(10801)
    assert people[0].http_get(URL).text[0] == "b"
    yield "99 more clients of that pod: it still knows the office"
    cluster.draw("front", *["b"] * 100)
    knock(cluster, 4000, 99)
    assert people[0].http_get(URL).text[0] == "b"
    yield "100 clients since its last visit: the office is forgotten, and draws another pod"
    knock(cluster, 4001, 100)
    cluster.draw("front", "a")
    assert people[0].http_get(URL).text[0] == "a"
