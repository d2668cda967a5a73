"""The node that speaks for a balancer's address loses power: silence, another announces it, old clients are reset.

Symptom: after a node's failure new connections hang for seconds, old ones end in "connection reset by peer". Cause:
with layer 2 announcement one node takes all of an address. Until the others notice, the router goes on sending to its
MAC. Then a new one sends gratuitous ARP, and neighbours take it at once. It has none of the old one's connection
tracking entries: a segment without SYN begins a connection there (tcp_loose), the pod knows none and resets it.
Source: MetalLB, "Concepts: layer 2 mode"; kubernetes node lifecycle controller (40 s until endpoints are removed).
Found on Linux 6.18: a gratuitous request moves a known neighbour at once, MetalLB's gratuitous reply does not.
"""

from pktsim.scenario.script import Story, front, seen, world

ADDRESS = "198.51.100.20"


def run(seed: int) -> Story:
    cluster = world(seed, front("LoadBalancer"))
    yield cluster
    client = cluster.outside
    yield "a client is connected by the node that answered ARP, to a pod on the other node"
    owner, other = "node1", "node2"
    cluster.draw("front", "b")
    connection = client.connect(ADDRESS, 80)
    cluster.run(0.01)
    assert seen(cluster, on=f"{owner}/eth0", direction="in", dst=ADDRESS, flags="S")
    cluster.fail_node(owner)
    yield "its power fails: SYNs go to a MAC that nobody has any more"
    try:
        client.tcp(ADDRESS, 80, sport=4000, timeout=3)
    except TimeoutError:
        pass
    else:
        raise AssertionError("somebody answered")
    assert len(seen(cluster, on="router/eth0", direction="out", sport=4000, flags="S")) == 3
    yield "five seconds after the failure the other node announces the address, and the router believes it at once"
    cluster.run(3)
    announced = seen(cluster, on="router/eth0", direction="in", text=f"ARP, Request who-has {ADDRESS}*")
    assert announced[-1].frame[6:12] == cluster.node(other).netns.devices.named("eth0").mac
    cluster.draw("front", "b")
    assert client.http_get(f"http://{ADDRESS}/").text.startswith("b ")
    yield "the old connection's next segment begins a new one there; the pod resets it"
    cluster.draw("front", "b")
    connection.send(b"GET / HTTP/1.0\r\n\r\n")
    try:
        connection.receive(timeout=5)
    except ConnectionResetError:
        pass
    else:
        raise AssertionError("the connection is alive")
    assert seen(cluster, on="outside/eth0", direction="in", src=ADDRESS, dport=connection.sport, flags="R")
    yield "the dead pod stays an endpoint until the control plane notices, forty seconds after the failure"
    cluster.draw("front", "a")
    try:
        client.http_get(f"http://{ADDRESS}/", timeout=2)
    except OSError:
        pass
    else:
        raise AssertionError("a dead pod answered")
    cluster.run(40)
    assert [client.http_get(f"http://{ADDRESS}/").text[0] for _ in range(4)] == ["b"] * 4
