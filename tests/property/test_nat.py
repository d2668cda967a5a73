"""What NAT promises, for every flow: kube-proxy's own rules on one node, flows of all kinds in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktsim.clock import Clock
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.proxier import KubeProxy
from pktsim.cluster.loader import load_objects
from pktsim.cluster.node_host import NodeHost
from pktsim.cluster.store import ObjectStore
from pktsim.kernel.netns import Netns
from pktsim.netfilter.conntrack import ConntrackTable
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.opcodes import Event
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.rng import SeededChoices
from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import FrameView, TcpFlag
from tests import tools

EXAMPLES = 2000 if tools.STRICT else 200

NODE = ip_from_text("192.168.0.11")
ROUTER = ip_from_text("192.168.0.1")
OUTSIDE = [ip_from_text("203.0.113.9"), ip_from_text("203.0.113.10")]
PODS = [ip_from_text(f"10.1.1.{number}") for number in (1, 2, 3)]
FAR_PODS = [ip_from_text(f"10.1.2.{number}") for number in (1, 2)]
WEB, DNS, STICKY = (ip_from_text(f"172.30.0.{number}") for number in (1, 10, 3))
MACS = {"pods": mac_from_text("02:00:00:00:00:01"), "eth0": mac_from_text("02:00:00:00:00:02")}
PEER = mac_from_text("02:00:00:00:00:99")

SLICE = """\
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: "", port: {port}, protocol: {protocol}}}]
endpoints:
{endpoints}
"""
SERVICE = """\
---
apiVersion: v1
kind: Service
metadata: {{name: {service}}}
spec: {{clusterIP: {address}, type: NodePort, {more} ports: [{{port: {port}, protocol: {protocol}, nodePort: {node}}}]}}
"""


def _objects() -> str:
    text = ""
    for service, address, port, protocol, node, endpoints, more in (
        ("web", "172.30.0.1", 80, "TCP", 30080, ("10.1.1.1", "10.1.2.1", "10.1.2.2"), ""),
        ("dns", "172.30.0.10", 53, "UDP", 30053, ("10.1.1.2", "10.1.2.1"), ""),
        ("sticky", "172.30.0.3", 80, "TCP", 30081, ("10.1.1.3", "10.1.2.2"), "sessionAffinity: ClientIP,"),
    ):
        text += SERVICE.format(service=service, address=address, port=port, protocol=protocol, node=node, more=more)
        nodes = {one: "node-a" if one.startswith("10.1.1.") else "node-b" for one in endpoints}
        lines = "".join(f"- {{addresses: [{one}], nodeName: {node}}}\n" for one, node in nodes.items())
        text += SLICE.format(service=service, port=port + 8000, protocol=protocol, endpoints=lines)
    return text


OBJECTS = load_objects(_objects())
MASQUERADE = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING ! -d 10.0.0.0/8 -o eth0 -m mark ! --mark 0x4000/0x4000 -j MASQUERADE
COMMIT
"""


def make_node(seed: int) -> Netns:
    """A node whose pods are on one link and whose world is on the other, with kube-proxy's rules."""
    clock = Clock()
    netns = Netns("node-a", clock=clock, choices=SeededChoices(seed))
    with netns.batch():
        for name, address in (("pods", "10.1.1.254/24"), ("eth0", "192.168.0.11/24")):
            netns.link_add(name, mac=MACS[name].hex(":"))
            netns.address_add(name, address)
        netns.route_add("default via 192.168.0.1 dev eth0")
        netns.route_add("10.1.2.0/24 via 192.168.0.1 dev eth0")
    netns.sysctl_set("net.ipv4.ip_forward", 1)
    netns.sysctl_set("net.ipv4.conf.all.send_redirects", 0)
    for device in ("pods", "eth0"):
        netns.sysctl_set(f"net.ipv4.conf.{device}.send_redirects", 0)
    netns.neighbour_add("eth0", "192.168.0.1", PEER.hex(":"))
    for number in (1, 2, 3):
        netns.neighbour_add("pods", f"10.1.1.{number}", PEER.hex(":"))
    netns.load_ruleset(RULES if RULES is not None else Ruleset(Family.IPV4))
    return netns


RULES: Ruleset | None = None


def _rules() -> Ruleset:
    netns = make_node(0)
    netns.load_ruleset(restore(Ruleset(Family.IPV4), MASQUERADE))
    store = ObjectStore()
    store.apply_all(OBJECTS)
    config = KubeProxyConfiguration.model_validate({"clusterCIDR": "10.1.0.0/16"})
    host = NodeHost(netns)
    proxy = KubeProxy(config, "node-a", host, netns.clock, store)
    proxy.start()
    proxy.stop()
    return host.ruleset(Family.IPV4)


RULES = _rules()


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow as its client sees it, and the link that it comes in by."""

    link: str
    protocol: int
    saddr: bytes
    sport: int
    daddr: bytes
    dport: int


PORTS = st.sampled_from((40000, 40001, 40002, 1024, 600, 53))
TCP, UDP, ICMP = 6, 17, 1


def _services() -> Iterator[st.SearchStrategy[Flow]]:
    for service, protocol, port, node_port in ((WEB, TCP, 80, 30080), (DNS, UDP, 53, 30053), (STICKY, TCP, 80, 30081)):
        for sources, link in ((PODS, "pods"), (OUTSIDE, "eth0")):
            source = st.sampled_from(sources)
            yield st.builds(Flow, st.just(link), st.just(protocol), source, PORTS, st.just(service), st.just(port))
            yield st.builds(Flow, st.just(link), st.just(protocol), source, PORTS, st.just(NODE), st.just(node_port))


FLOWS = st.one_of(
    *_services(),
    # to the world: masqueraded, from one address for all pods, so that ports collide
    st.builds(
        Flow, st.just("pods"), st.sampled_from((TCP, UDP)), st.sampled_from(PODS), PORTS, st.sampled_from(OUTSIDE),
        st.sampled_from((80, 81)),
    ),
    st.builds(
        Flow, st.just("pods"), st.just(ICMP), st.sampled_from(PODS), st.integers(1, 3), st.sampled_from(OUTSIDE),
        st.just(0),
    ),
    # to a pod directly: no NAT
    st.builds(
        Flow, st.just("pods"), st.sampled_from((TCP, UDP)), st.sampled_from(PODS), PORTS, st.sampled_from(FAR_PODS),
        st.just(8080),
    ),
)  # fmt: skip


def first_packet(flow: Flow) -> bytes:
    return _packet(flow.protocol, flow.saddr, flow.daddr, flow.sport, flow.dport, TcpFlag.SYN, 8, MACS[flow.link])


def _packet(
    protocol: int, saddr: bytes, daddr: bytes, sport: int, dport: int, flags: TcpFlag, kind: int, mac: bytes
) -> bytes:
    if protocol == TCP:
        ack = 1001 if flags & TcpFlag.ACK else 0
        payload = build.tcp(saddr, daddr, sport, dport, seq=1000, ack=ack, flags=flags)
    elif protocol == UDP:
        payload = build.udp(saddr, daddr, sport, dport, b"hello")
    else:
        payload = build.icmp(kind, 0, sport << 16 | 1, b"data")
    return build.ethernet(mac, PEER, build.ETH_P_IP, build.ipv4(saddr, daddr, protocol, payload))


def send(netns: Netns, link: str, frame: bytes) -> list[tuple[str, FrameView]]:
    """What leaves the node when a frame arrives."""
    events = netns.datapath.receive(netns.devices.named(link).ifindex, frame, netns.clock.now_ns)
    return [(netns.devices.get(event[2]).name, FrameView(event[3])) for event in events if event[0] == Event.TX]


def reply_to(view: FrameView, link: str) -> bytes:
    """The answer of whoever gets ``view``."""
    if view.protocol == ICMP:
        return _packet(ICMP, view.daddr, view.saddr, view.icmp_rest >> 16, 0, TcpFlag.SYN, 0, MACS[link])
    flags = TcpFlag.SYN | TcpFlag.ACK
    return _packet(view.protocol, view.daddr, view.saddr, view.dport, view.sport, flags, 0, MACS[link])


@settings(max_examples=EXAMPLES)
@given(flows=st.lists(FLOWS, min_size=1, max_size=12, unique=True), seed=st.integers(0, 2**16))
def test_the_reply_is_translated_back_for_every_flow(flows: list[Flow], seed: int) -> None:
    netns = make_node(seed)
    gone = [(flow, send(netns, flow.link, first_packet(flow))) for flow in flows]
    for flow, sent in gone:
        if not sent:
            continue  # a flow whose every translation is taken is dropped, as by Linux
        ((link, view),) = sent
        assert not view.bad_checksums()
        ((back_link, back),) = send(netns, link, reply_to(view, link))
        assert back_link == flow.link
        assert (back.saddr, back.daddr) == (flow.daddr, flow.saddr)
        assert not back.bad_checksums()
        if flow.protocol == ICMP:
            assert back.icmp_rest >> 16 == flow.sport
        else:
            assert (back.sport, back.dport) == (flow.dport, flow.sport)
        # The next packet of the original direction goes the way of the first.
        if flow.protocol == UDP:
            ((again_link, again),) = send(netns, flow.link, first_packet(flow))
            assert (again_link, again.saddr, again.daddr) == (link, view.saddr, view.daddr)
            assert (again.sport, again.dport) == (view.sport, view.dport)


@settings(max_examples=EXAMPLES)
@given(flows=st.lists(FLOWS, min_size=2, max_size=24), seed=st.integers(0, 2**16))
def test_no_two_live_flows_share_a_tuple(flows: list[Flow], seed: int) -> None:
    netns = make_node(seed)
    for flow in flows:
        for link, view in send(netns, flow.link, first_packet(flow)):
            send(netns, link, reply_to(view, link))
    entries = ConntrackTable(netns.datapath).entries(netns.clock.now_ns)
    tuples = [(entry.proto, side) for entry in entries for side in (entry.orig, entry.reply)]
    assert len(set(tuples)) == len(tuples)
    assert len(entries) <= len(set(flows))


def test_flows_that_differ_only_in_their_source_leave_with_different_ports() -> None:
    netns = make_node(1)
    ports = []
    for pod in PODS:
        ((link, view),) = send(netns, "pods", first_packet(Flow("pods", TCP, pod, 40000, OUTSIDE[0], 80)))
        assert (link, view.saddr) == ("eth0", NODE)
        ports.append(view.sport)
    assert len(set(ports)) == 3
    assert 40000 in ports


def _quantile(df: int) -> float:
    """The chi-square value that one in a million exceeds, for ``df`` degrees of freedom (Wilson and Hilferty)."""
    return float(df * (1 - 2 / (9 * df) + 4.7534 * (2 / (9 * df)) ** 0.5) ** 3)


@pytest.mark.slow
@pytest.mark.parametrize(("service", "protocol", "port", "backends"), [(WEB, TCP, 80, 3), (DNS, UDP, 53, 2)])
def test_the_choice_of_endpoints_is_uniform_over_seeds(service: bytes, protocol: int, port: int, backends: int) -> None:
    counts: dict[bytes, int] = {}
    number = 3000
    for seed in range(number):
        netns = make_node(seed)
        ((_, view),) = send(netns, "pods", first_packet(Flow("pods", protocol, PODS[2], 40000, service, port)))
        counts[view.daddr] = counts.get(view.daddr, 0) + 1
    assert len(counts) == backends
    expected = number / backends
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < _quantile(backends - 1)


@pytest.mark.slow
def test_the_choice_of_endpoints_is_uniform_within_a_seed() -> None:
    netns = make_node(11)
    counts: dict[bytes, int] = {}
    for number in range(3000):
        ((_, view),) = send(netns, "pods", first_packet(Flow("pods", TCP, PODS[2], 2000 + number, WEB, 80)))
        counts[view.daddr] = counts.get(view.daddr, 0) + 1
    expected = 1000
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < _quantile(2)
