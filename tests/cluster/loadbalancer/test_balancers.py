"""What each way to bring packets to nodes puts on the wires."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.loadbalancer.layer2 import Layer2, election
from pktsim.cluster.loadbalancer.passthrough import Passthrough
from pktsim.cluster.machines import RuledMachine
from pktsim.cluster.objects_balancer import MODES
from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.netfilter.opcodes import DropReason
from pktsim.scenario.script import seen, views, world
from pktsim.wire.addr import ip_to_text

VIP = "198.51.100.20"
URL = f"http://{VIP}/"


def service(policy: str = "Cluster", more: str = "") -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: lb}}
spec:
  type: LoadBalancer
  loadBalancerIP: {VIP}
  externalTrafficPolicy: {policy}
  healthCheckNodePort: {30999 if policy == "Local" else 0}
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]
  {more}
"""


def balanced(mode: str, policy: str = "Cluster", more: str = "", seed: int = 3) -> Cluster:
    return world(seed, service(policy, more), load_balancer=mode)


def saw(body: str) -> str:
    """The address that the pod saw."""
    return body.rpartition(" saw ")[2].partition(":")[0]


# Layer 2


def test_l2_only_the_elected_node_answers_arp_and_gets_the_packets() -> None:
    cluster = balanced("l2")
    assert cluster.outside.http_get(URL).status == 200
    answers = seen(cluster, on="router/eth0", direction="in", text=f"ARP*{VIP} is-at*")
    owner = election(IPv4Address(VIP), ["node1", "node2"])[0]
    mac = cluster.node(owner).netns.devices.named("eth0").mac
    assert len(answers) == 2  # one of them the last of the gratuitous pair
    assert {frame.frame[6:12] for frame in answers} == {mac}
    other = "node2" if owner == "node1" else "node1"
    assert seen(cluster, on=f"{owner}/eth0", direction="in", dst=VIP, dport=80)
    assert not seen(cluster, on=f"{other}/eth0", direction="in", dst=VIP, dport=80)


def test_l2_the_address_is_announced_as_request_and_reply_for_five_seconds() -> None:
    cluster = balanced("l2")
    cluster.outside  # noqa: B018 - builds the network
    cluster.run(20)
    frames = seen(cluster, on="router/eth0", direction="in", protocol="arp")
    at = [round(frame.at_ns / 1e9, 1) for frame in frames]
    assert at == [0, 0, 1.1, 1.1, 2.2, 2.2, 3.3, 3.3, 4.4, 4.4]
    assert [frame.frame[21] for frame in frames[:2]] == [1, 2]
    assert {frame.frame[:6] for frame in frames} == {b"\xff" * 6}


def test_l2_with_policy_local_only_a_node_with_an_endpoint_is_elected() -> None:
    for node, pod in (("node1", "b"), ("node2", "a")):
        cluster = balanced("l2", "Local")
        cluster.delete(f"pod/{pod}")
        cluster.outside  # noqa: B018
        layer2 = cluster.load_balancers.balancer("l2")
        assert isinstance(layer2, Layer2)
        assert layer2.owner(IPv4Address(VIP)) == node
        assert saw(cluster.outside.http_get(URL).text) == "203.0.113.9"


def test_l2_an_address_moves_with_the_only_endpoint_and_neighbours_learn_it_from_the_announcement() -> None:
    cluster = balanced("l2", "Local")
    cluster.delete("pod/b")
    assert cluster.outside.http_get(URL).status == 200
    mac = cluster.node("node2").netns.devices.named("eth0").mac
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: c, labels: {app: web}}\n"
        "spec: {nodeName: node2, containers: [{name: web, ports: [{containerPort: 8080}]}]}\n"
    )
    cluster.delete("pod/a")
    cluster.run(0.1)
    (entry,) = [one for one in cluster.router.netns.neighbours() if ip_to_text(one.address) == VIP]
    assert entry.mac == mac
    before = len(seen(cluster, on="router/eth0", direction="out", text=f"ARP*who-has {VIP}*"))
    assert cluster.outside.http_get(URL).text.startswith("c saw 203.0.113.9")
    assert len(seen(cluster, on="router/eth0", direction="out", text=f"ARP*who-has {VIP}*")) == before


def test_l2_without_endpoints_nobody_answers() -> None:
    cluster = balanced("l2")
    cluster.delete("pod/a")
    cluster.delete("pod/b")
    with pytest.raises(OSError, match="after 3072 ms"):
        cluster.outside.http_get(URL, timeout=5)
    assert not seen(cluster, text=f"ARP*{VIP} is-at*")


def test_l2_addresses_of_the_nodes_own_network_need_no_route() -> None:
    cluster = world(1, service().replace(VIP, "192.168.1.77"))
    assert cluster.outside.http_get("http://192.168.1.77/").status == 200
    assert not any("192.168.1.77" in route for route in cluster.router.netns.routes())


def test_the_balancer_of_a_deleted_service_lets_go_of_everything() -> None:
    for mode in ("l2", "passthrough", "nat", "proxy"):
        cluster = balanced(mode)
        assert cluster.outside.http_get(URL).status == 200
        cluster.delete("service/lb")
        assert not any(VIP in route for route in cluster.router.netns.routes()), mode
        with pytest.raises(OSError, match="Network is unreachable"):
            cluster.outside.tcp(VIP, 80)


# A balancer with a machine of its own


def test_passthrough_keeps_both_addresses_and_the_node_answers_directly() -> None:
    cluster = balanced("passthrough", "Local")
    assert saw(cluster.outside.http_get(URL).text) == "203.0.113.9"
    (syn,) = views(cluster, on="passthrough/eth0", direction="out", dport=80, flags="S")
    assert (ip_to_text(syn.saddr), ip_to_text(syn.daddr)) == ("203.0.113.9", VIP)
    (came,) = views(cluster, on="passthrough/eth0", direction="in", dport=80, flags="S")
    assert syn.ttl == came.ttl
    assert not seen(cluster, on="passthrough/eth0", src=VIP, protocol="tcp")
    assert seen(cluster, on="router/eth0", direction="in", src=VIP, sport=80, flags="S.")


def test_passthrough_spreads_flows_and_keeps_each_on_its_node() -> None:
    cluster = balanced("passthrough", "Local")
    nodes = set()
    for sport in range(4000, 4012):
        first = cluster.outside.http_get(URL, sport=sport)
        (syn,) = seen(cluster, on="passthrough/eth0", direction="out", sport=sport, flags="S")
        assert {frame.frame[:6] for frame in seen(cluster, on="passthrough/eth0", direction="out", sport=sport)} == {
            syn.frame[:6]
        }
        nodes.add(first.text[0])
    assert nodes == {"a", "b"}


def test_passthrough_follows_health_checks_of_the_node_port_for_health() -> None:
    cluster = balanced("passthrough", "Local")
    cluster.outside  # noqa: B018
    cluster.delete("pod/b")
    cluster.run(16)
    statuses = [
        frame for frame in seen(cluster, on="passthrough/eth0", direction="in", sport=30999) if b" 503 " in frame.frame
    ]
    assert statuses
    assert {cluster.outside.http_get(URL, sport=sport).text[0] for sport in range(4000, 4008)} == {"a"}


def test_passthrough_without_targets_says_that_it_drops() -> None:
    cluster = balanced("passthrough", "Local")
    cluster.outside.http_get(URL)
    (syn,) = seen(cluster, on="passthrough/eth0", direction="in", dport=80, flags="S")
    netns = cluster.machine("passthrough").netns
    balancer = getattr(netns.ingress_programs[0], "__self__", None)
    assert isinstance(balancer, Passthrough)
    # a packet that is on its way when the last target goes; the router has no route then
    balancer._table, balancer._known, balancer._flows = {}, dict.fromkeys(balancer._known, ()), {}
    reasons: list[DropReason] = []
    netns.drop_listener = lambda _number, reason, _ifindex: reasons.append(reason)
    netns.receive(netns.devices.named("eth0").ifindex, syn.frame)
    assert reasons == [DropReason.XDP]


def test_a_dead_pod_is_noticed_only_after_two_probes() -> None:
    cluster = balanced("passthrough", "Local")
    cluster.outside  # noqa: B018
    cluster.delete("pod/b")
    outcomes = []
    for sport in range(4000, 4008):
        try:
            outcomes.append(cluster.outside.http_get(URL, sport=sport, timeout=0.5).text[0])
        except TimeoutError:
            outcomes.append("-")
    assert set(outcomes) == {"a", "-"}


def test_nat_hides_the_client_whatever_the_policy() -> None:
    cluster = balanced("nat", "Local")
    assert saw(cluster.outside.http_get(URL).text) == "192.168.1.200"
    machine = cluster.machine("nat")
    assert isinstance(machine, RuledMachine)
    (entry,) = [entry for entry in machine.conntrack() if ip_to_text(entry.orig.dst) == VIP]
    assert "dport=80" in entry.text()
    assert "sport=30080" in entry.text()
    rules = machine.iptables_save()
    assert "--probability 0.50000000000 -j DNAT --to-destination 192.168.1.11:30080" in rules


def test_nat_works_for_udp_too() -> None:
    cluster = world(1, service().replace(TCP_PORT, UDP_PORT), load_balancer="nat")
    assert cluster.outside.udp(VIP, 90).startswith((b"a", b"b"))


TCP_PORT = "{port: 80, targetPort: 8080, nodePort: 30080}"
UDP_PORT = "{port: 90, targetPort: 8081, nodePort: 30081, protocol: UDP}"


PROXY_POD = """\
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: p}, annotations: {pktsim.io/proxy-protocol: "true"}}
spec: {nodeName: node2, containers: [{name: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: pktsim.io/v1
kind: LoadBalancer
metadata: {name: front}
spec: {mode: proxy, proxyProtocol: VERSION}
"""


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_tells_the_pod_who_the_client_is(version: str) -> None:
    text = service().replace("app: web", "app: p")
    cluster = world(2, PROXY_POD.replace("VERSION", version), text)
    answer = cluster.outside.http_get(URL, sport=4321)
    assert answer.text == "p saw 203.0.113.9:4321\n"
    # two connections: the client's ends at the balancer
    assert not seen(cluster, on="default/p/eth0", src="203.0.113.9")
    first = seen(cluster, on="front/eth0", direction="out", dport=30080, flags="P.")[0]
    assert (b"PROXY TCP4 203.0.113.9 198.51.100.20 4321 80\r\n" in first.frame) is (version == "v1")
    assert (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" in first.frame) is (version == "v2")


def test_a_pod_that_wants_the_header_closes_on_who_has_none_and_others_do_not_understand_it() -> None:
    cluster = world(2, PROXY_POD.replace("VERSION", "none"), service().replace("app: web", "app: p"))
    with pytest.raises(OSError, match=r"[Ee]mpty reply|reset"):
        cluster.outside.http_get(URL)
    cluster = world(2, PROXY_POD.replace("VERSION", "v1"), service())
    assert cluster.outside.http_get(URL).status == 400


def test_proxy_mode_makes_pods_go_the_way_of_everybody() -> None:
    cluster = balanced("proxy")
    assert VIP not in cluster.node("node1").iptables_save()
    assert cluster.pod("client").http_get(URL).status == 200
    assert seen(cluster, on="proxy/eth0", direction="in", dst=VIP, dport=80)
    short = balanced("l2")
    assert short.pod("client").http_get(URL).status == 200
    assert not seen(short, on="node1/eth0", direction="out", dst=VIP)


def test_proxy_hands_bodies_on_in_both_directions() -> None:
    cluster = balanced("proxy")
    assert len(cluster.outside.http_get(URL + "bytes/70000").body) == 70000


@pytest.mark.parametrize("mode", MODES)
def test_source_ranges_are_kept_by_every_node_or_by_the_balancer(mode: str) -> None:
    cluster = balanced(mode, "Cluster", 'loadBalancerSourceRanges: ["203.0.113.9/32", "10.244.0.0/16"]')
    cluster.add_host("alice", "203.0.113.20")
    assert cluster.outside.http_get(URL).status == 200
    if mode in ("nat", "proxy"):
        # a pod comes to the balancer with its node's address, which is not in the ranges
        with pytest.raises(TimeoutError):
            cluster.pod("client").http_get(URL, timeout=2)
    else:
        assert cluster.pod("client").http_get(URL).status == 200
    with pytest.raises(TimeoutError):
        cluster.machine("alice").http_get(URL, timeout=2)


def test_a_name_instead_of_an_address_is_known_to_the_worlds_dns() -> None:
    balancer = """\
apiVersion: pktsim.io/v1
kind: LoadBalancer
metadata: {name: elb}
spec: {mode: nat, hostname: elb.example.com}
"""
    cluster = world(1, balancer, service())
    assert VIP not in cluster.node("node1").iptables_save()
    assert cluster.outside.http_get("http://lb-default.elb.example.com/").status == 200
    assert cluster.pod("client").http_get("http://lb-default.elb.example.com/").status == 200


def test_what_a_mode_cannot_do_is_refused() -> None:
    udp = service().replace(TCP_PORT, UDP_PORT)
    with pytest.raises(UnsupportedFeature, match="mode proxy for port 90/UDP"):
        world(1, udp, load_balancer="proxy").node("node1")
    text = service(more="allocateLoadBalancerNodePorts: false").replace(", nodePort: 30080", "")
    with pytest.raises(UnsupportedFeature, match="mode nat without node ports"):
        world(1, text, load_balancer="nat").node("node1")
    with pytest.raises(TopologyError, match="an address of the nodes' own network"):
        world(1, service().replace(VIP, "192.168.1.77"), load_balancer="passthrough").node("node1")


def test_what_is_no_service_at_the_address_is_refused_by_a_node() -> None:
    cluster = balanced("passthrough")
    (reset,) = cluster.outside.send(IP(dst=VIP) / TCP(sport=4000, dport=81, flags="S"))
    assert (reset[IP].src, str(reset[TCP].flags)) == (VIP, "RA")
    (error,) = cluster.outside.send(IP(dst=VIP) / UDP(sport=4000, dport=81))
    assert (error[ICMP].type, error[ICMP].code) == (3, 3)


# Routes through several nodes


def ecmp_nodes(cluster: Cluster) -> dict[int, str]:
    """Source port of a client, and the node that its SYN came to."""
    found = {}
    for sport in range(4000, 4012):
        cluster.outside.http_get(URL, sport=sport)
        frames = seen(cluster, direction="in", sport=sport, dst=VIP, flags="S")
        (found[sport],) = {frame.space for frame in frames if frame.space in ("node1", "node2")}
    return found


def test_ecmp_the_router_spreads_flows_over_the_nodes_that_announce() -> None:
    cluster = balanced("ecmp", "Local")
    nodes = ecmp_nodes(cluster)
    assert set(nodes.values()) == {"node1", "node2"}
    (route,) = [route for route in cluster.router.netns.routes() if VIP in route]
    assert route == (
        f"{VIP} proto bgp nexthop via 192.168.1.11 dev eth0 weight 1 nexthop via 192.168.1.12 dev eth0 weight 1"
    )
    assert saw(cluster.outside.http_get(URL).text) == "203.0.113.9"


def test_ecmp_a_node_without_endpoints_withdraws_and_the_last_one_takes_the_route_along() -> None:
    cluster = balanced("ecmp", "Local")
    cluster.outside  # noqa: B018
    cluster.delete("pod/b")
    (route,) = [route for route in cluster.router.netns.routes() if VIP in route]
    assert route == f"{VIP} via 192.168.1.11 dev eth0 proto bgp"
    assert set(ecmp_nodes(cluster).values()) == {"node1"}
    cluster.delete("pod/a")
    assert not [route for route in cluster.router.netns.routes() if VIP in route]


def test_ecmp_hash_policy_0_sends_a_client_to_one_node() -> None:
    balancer = (
        "apiVersion: pktsim.io/v1\nkind: LoadBalancer\nmetadata: {name: bgp}\nspec: {mode: ecmp, hashPolicy: 0}\n"
    )
    cluster = world(3, balancer, service("Local"))
    assert len(set(ecmp_nodes(cluster).values())) == 1
