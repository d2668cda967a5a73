"""kube-proxy's rules as pktsim writes them, loaded into a namespace of the running kernel: the same comes out.

The frames are those of a small cluster's node: a Service by its cluster IP from a pod and from the node, by its node
port from outside, a pod that meets itself, and Services without endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from pktsim.clock import NS_PER_S, Clock
from pktsim.cluster.kubeproxy.config import load_config, startup_sysctls
from pktsim.cluster.kubeproxy.proxier import KubeProxy
from pktsim.cluster.kubeproxy.recording import RecordedHost
from pktsim.cluster.loader import load_objects
from pktsim.cluster.store import ObjectStore
from pktsim.kernel.case import CaseRun
from pktsim.netfilter.iptables_text import print_save
from pktsim.netfilter.ruleset import Family
from pktsim.rng import Choices, explore
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_IP, TcpFlag, ethernet, ipv4, tcp, udp
from tests.live.case_worlds import TOPOLOGY4 as TOPOLOGY
from tests.live.case_worlds import WORLD4
from tests.live.differential import difference, outcome_of
from tests.live.kernel_case import Workbench

NODE, PODS, NEAR = WORLD4.node, WORLD4.pods, WORLD4.near

CLIENT = "203.0.113.9"
CONFIG = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.244.0.0/16
"""
OBJECTS = "apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {}}\n---\n"
#: name -> (cluster IP, protocol, node port, endpoints, more of its spec)
SERVICES: dict[str, tuple[str, str, int, tuple[str, ...], str]] = {
    "web": ("10.96.0.10", "TCP", 30080, PODS[:1], ""),
    "local": ("10.96.0.11", "TCP", 30081, PODS[1:], ", externalTrafficPolicy: Local"),
    "names": ("10.96.0.12", "UDP", 0, PODS[1:], ""),
    "sticky": ("10.96.0.13", "TCP", 0, PODS[:1], ", sessionAffinity: ClientIP"),
    "empty": ("10.96.0.14", "TCP", 30082, (), ""),
    "pair": ("10.96.0.15", "TCP", 0, (PODS[1], NEAR), ""),
}
SYN, ACK, PSH, FIN, RST = TcpFlag.SYN, TcpFlag.ACK, TcpFlag.PSH, TcpFlag.FIN, TcpFlag.RST


def _objects() -> str:
    text = OBJECTS
    for name, (cluster_ip, protocol, node_port, endpoints, more) in SERVICES.items():
        port = f"{{port: 80, protocol: {protocol}{f', nodePort: {node_port}' if node_port else ''}}}"
        kind = ", type: NodePort" if node_port else ""
        text += (
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
            f"spec: {{clusterIP: {cluster_ip}, ports: [{port}]{kind}{more}}}\nstatus: {{}}\n---\n"
        )
        listed = ", ".join(f"{{addresses: ['{one}'], nodeName: n}}" for one in endpoints)
        text += (
            f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-a, "
            f"labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n"
            f"ports: [{{name: '', port: 8080, protocol: {protocol}}}]\nendpoints: [{listed}]\n---\n"
        )
    return text


def node_case() -> dict[str, Any]:
    """The node with kube-proxy's rules and settings, and nothing sent yet."""
    clock, store = Clock(), ObjectStore()
    store.apply_all(load_objects(_objects(), check=False))
    host = RecordedHost((ip_address("127.0.0.1"), ip_address(NODE)))
    config = load_config(CONFIG)
    KubeProxy(config, "n", host, clock, store).start()
    clock.run_for(10 * NS_PER_S)
    rules = print_save(host.ruleset(Family.IPV4))
    assert all(f"default/{name}" in rules for name in SERVICES)
    settings = {one.name: str(one.value) for one in startup_sysctls(config, 1) if one.name.startswith("net.ipv4.conf")}
    return {"name": "kube-proxy", **TOPOLOGY, "sysctls": settings, "iptables": rules, "steps": []}


#: Where packets of an address come in, and who hands them over.
_WAYS = {
    PODS[0]: ("pod0", "02:00:00:00:02:0a"),
    PODS[1]: ("pod1", "02:00:00:00:02:0b"),
    CLIENT: ("eth0", "02:00:00:00:01:fe"),
}
_MACS = {one["name"]: one["mac"] for one in TOPOLOGY["interfaces"]}


class Conversation:
    """Steps of a case: packets of a connection from one address to another, and what the other end sends back."""

    def __init__(self, source: str, destination: str, sport: int, dport: int = 80, *, protocol: int = 6) -> None:
        self.case = node_case()
        self.parts = (source, destination, sport, dport)
        self.protocol = protocol

    def _segment(self, source: str, destination: str, sport: int, dport: int, flags: TcpFlag, data: bytes) -> bytes:
        ends = ip_from_text(source), ip_from_text(destination)
        if self.protocol == 17:
            body = udp(*ends, sport, dport, data)
        else:
            forward = sport == self.parts[2]
            seq, ack = (1000, 5000) if forward else (5000, 1000)
            seq += not flags & SYN
            body = tcp(*ends, sport, dport, data, seq=seq, ack=(ack + 1) if flags & ACK else 0, flags=flags, window=500)
        return ipv4(*ends, self.protocol, body, identification=0x101 + len(self.case["steps"]), dont_fragment=True)

    def send(self, flags: TcpFlag = SYN, data: bytes = b"") -> int:
        """A packet of the client's; its step number."""
        source = self.parts[0]
        packet = self._segment(*self.parts, flags, data)
        if source == NODE:
            self.case["steps"].append({"send_local": {"packet": packet.hex()}})
        else:
            self.case["steps"].append(self._receive(*_WAYS[source], packet))
        return len(self.case["steps"]) - 1

    def reply(self, to: int, endpoint: str, peer: str, flags: TcpFlag = SYN | ACK, data: bytes = b"") -> int:
        """A packet of the endpoint's, to whom the packet of step ``to`` came from as it saw it."""
        name = "tcp" if self.protocol == 6 else "udp"
        packet = self._segment(endpoint, peer, 8080, 1, flags, data)
        step = self._receive(*_WAYS[endpoint], packet)
        step["receive"]["take"] = [
            {"field": f"{name}.dport", "from": {"step": to, "frame": 0, "field": f"{name}.sport"}}
        ]
        self.case["steps"].append(step)
        return len(self.case["steps"]) - 1

    @staticmethod
    def _receive(interface: str, mac: str, packet: bytes) -> dict[str, Any]:
        frame = ethernet(mac_from_text(_MACS[interface]), mac_from_text(mac), ETH_P_IP, packet)
        return {"receive": {"interface": interface, "frame": frame.hex()}}


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


def check(bench: Workbench, case: dict[str, Any]) -> CaseRun:
    """Both sides agree; returns ours."""
    run = CaseRun(case)
    run.run()
    assert difference(case, run, bench) == ""
    return run


def emitted(run: CaseRun) -> list[str]:
    return [interface for step in run.steps for interface, _ in step.emitted]


@pytest.mark.parametrize("service", ["web", "sticky"])
@pytest.mark.parametrize("source", [PODS[1], NODE, CLIENT])
def test_cluster_ip_with_one_endpoint(bench: Workbench, service: str, source: str) -> None:
    talk = Conversation(source, SERVICES[service][0], 40000)
    first = talk.send()
    peer = source if source == PODS[1] else NODE if source == NODE else "10.244.1.1"
    talk.reply(first, PODS[0], peer)
    talk.send(ACK)
    talk.send(PSH | ACK, b"GET / HTTP/1.1\r\n\r\n")
    talk.reply(first, PODS[0], peer, PSH | ACK, b"HTTP/1.1 200 OK\r\n\r\n")
    talk.send(FIN | ACK)
    talk.reply(first, PODS[0], peer, FIN | ACK)
    run = check(bench, talk.case)
    assert emitted(run)[0] == "pod0"
    assert run.final_conntrack()


@pytest.mark.parametrize(("service", "endpoint"), [("web", PODS[0]), ("local", PODS[1])])
def test_node_port_from_outside(bench: Workbench, service: str, endpoint: str) -> None:
    talk = Conversation(CLIENT, NODE, 41000, SERVICES[service][2])
    first = talk.send()
    peer = CLIENT if service == "local" else "10.244.1.1"
    talk.reply(first, endpoint, peer)
    talk.send(ACK)
    talk.send(RST)
    run = check(bench, talk.case)
    pod = _WAYS[endpoint][0]
    assert emitted(run) == [pod, "eth0", pod, pod]


def test_hairpin(bench: Workbench) -> None:
    talk = Conversation(PODS[0], SERVICES["web"][0], 42000)
    first = talk.send()
    talk.reply(first, PODS[0], "10.244.1.1")
    talk.send(ACK)
    run = check(bench, talk.case)
    assert emitted(run) == ["pod0"] * 3


def test_datagrams(bench: Workbench) -> None:
    talk = Conversation(PODS[0], SERVICES["names"][0], 43000, protocol=17)
    first = talk.send(data=b"who is web?")
    talk.reply(first, PODS[1], PODS[0], data=b"10.96.0.10")
    run = check(bench, talk.case)
    assert emitted(run) == ["pod1", "pod0"]


@pytest.mark.parametrize("source", [PODS[0], NODE, CLIENT])
@pytest.mark.parametrize("port", [80, SERVICES["empty"][2]])
def test_no_endpoints(bench: Workbench, source: str, port: int) -> None:
    talk = Conversation(source, SERVICES["empty"][0] if port == 80 else NODE, 44000, port)
    talk.send()
    talk.send()
    check(bench, talk.case)


def test_endpoints_by_chance_are_those_that_can_be(bench: Workbench) -> None:
    talk = Conversation(PODS[0], SERVICES["pair"][0], 45000)
    talk.send()
    talk.send(RST)

    def ours(choices: Choices) -> CaseRun:
        run = CaseRun(talk.case, choices)
        run.run()
        return run

    possible = [outcome.result for outcome in explore(ours, relevant=lambda place: "ip.id" not in place)]
    assert len(possible) == 2
    seen: set[int] = set()
    for _ in range(64):  # the kernel draws: to see one of two only is less likely than a broken machine
        seen.add(outcome_of(talk.case, possible, bench))
        if len(seen) == len(possible):
            break
    assert seen == {0, 1}
