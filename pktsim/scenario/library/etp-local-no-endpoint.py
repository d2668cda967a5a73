"""externalTrafficPolicy Local on a node without a pod: the SYN vanishes, no RST and no ICMP; the health port says 503.

Symptom: a NodePort answers on some nodes, on others connections time out after minutes. Cause: kube-proxy drops such
packets silently, so that a load balancer, which has asked the health port, is the only one that may choose nodes.
Source: kubernetes pkg/proxy/iptables/proxier.go ("has no local endpoints" in KUBE-EXTERNAL-SERVICES);
metallb/metallb#102.
Found on Linux 6.18: silent, and no connection tracking entry is left; a recorded cluster shows the same.
"""

from pktsim.scenario.script import Story, front, seen, world


def run(seed: int) -> Story:
    cluster = world(seed, front("LoadBalancer", "Local"), load_balancer="none")
    yield cluster
    cluster.delete("pod/b")
    yield "node1 has a pod"
    assert cluster.outside.http_get("http://192.168.1.11:30080/").status == 200
    yield "node2 has none: SYN after SYN, and nothing comes back"
    try:
        cluster.outside.connect("192.168.1.12", 30080, sport=4000, timeout=8)
    except TimeoutError:
        pass
    else:
        raise AssertionError("somebody answered")
    syns = seen(cluster, on="node2/eth0", direction="in", sport=4000, flags="S")
    assert [round(syn.at_ns / 1e9) for syn in syns] == [0, 1, 2, 3, 4, 5, 7]
    assert not seen(cluster, on="outside/eth0", direction="in", dport=4000)
    assert not seen(cluster, on="outside/eth0", direction="in", protocol="icmp")
    assert not [entry for entry in cluster.node("node2").conntrack() if "sport=4000" in entry.text()]
    yield "the health check ports tell whom to ask"
    assert '"localEndpoints": 1' in cluster.outside.http_get("http://192.168.1.11:30999/healthz").text
    answer = cluster.outside.http_get("http://192.168.1.12:30999/healthz")
    assert (answer.status, '"localEndpoints": 0' in answer.text) == (503, True)
