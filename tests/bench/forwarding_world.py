"""What the forwarding benchmark forwards: Services, kube-proxy's rules for them, one node, and the frames of its flows.

The node has two interfaces: ``pods``, where a neighbouring pod sends from, and ``uplink``, behind which all endpoints
are. The pod talks to cluster IPs, so every flow is translated once on its way (DNAT by kube-proxy's rules).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from pktsim.clock import Clock
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.proxier import KubeProxy
from pktsim.cluster.kubeproxy.recording import RecordedHost
from pktsim.cluster.objects import EndpointSlice, KubeObject, Service
from pktsim.cluster.store import ObjectStore
from pktsim.kernel.netns import Netns
from pktsim.netfilter.opcodes import Event, LinkKind
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.rng import SeededChoices
from pktsim.wire import frame as build
from pktsim.wire.addr import mac_from_text
from pktsim.wire.frame import FrameView, TcpFlag

PODS_MAC: Final = "02:00:00:00:00:01"
UPLINK_MAC: Final = "02:00:00:00:00:02"
CLIENT_MAC: Final = "02:00:00:00:01:01"
GATEWAY_MAC: Final = "02:00:00:00:02:01"
PODS_ADDRESS: Final = "10.244.0.1/24"
UPLINK_ADDRESS: Final = "192.0.2.1/24"
GATEWAY: Final = "192.0.2.2"
ENDPOINT_NETWORK: Final = "10.128.0.0/9"
CLUSTER_CIDR: Final = "10.0.0.0/8"
CLIENTS: Final = tuple(f"10.244.0.{host}" for host in range(10, 20))

#: Settings that are the same on both nodes; kube-proxy's own come on top.
SETTINGS: Final = {
    "net.ipv4.ip_forward": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.netfilter.nf_conntrack_checksum": 1,
    "net.netfilter.nf_conntrack_acct": 0,
}

#: Where numbers of flows begin that are none of the measured ones.
WARM_UP: Final = 600_000

SERVICE_PORT: Final = 80
ENDPOINT_PORT: Final = 8080
PAYLOAD: Final = b"GET /healthz HTTP/1.1\r\nHost: shop.example\r\nAccept: */*\r\n\r\n"
_WINDOW: Final = 64240
_SYN_OPTIONS: Final = build.tcp_options(mss=1460, sack_permitted=True, window_scale=7)


def cluster_ip(number: int) -> str:
    """The cluster IP of a Service."""
    return f"172.16.{number >> 8}.{number & 255}"


def endpoint_addresses(number: int) -> list[str]:
    """Addresses of a Service's endpoints: one, two or three of them."""
    return [f"10.{128 + one}.{number >> 8}.{number & 255}" for one in range(number % 3 + 1)]


def objects(services: int) -> list[KubeObject]:
    """Services and their EndpointSlices."""
    made: list[KubeObject] = []
    for number in range(services):
        name = f"s{number}"
        ports = [{"name": "http", "port": SERVICE_PORT, "targetPort": ENDPOINT_PORT}]
        made.append(
            Service.model_validate(
                {
                    "metadata": {"name": name, "namespace": "default"},
                    "spec": {"clusterIP": cluster_ip(number), "ports": ports},
                }
            )
        )
        endpoints = [{"addresses": [address], "nodeName": "far"} for address in endpoint_addresses(number)]
        made.append(
            EndpointSlice.model_validate(
                {
                    "metadata": {
                        "name": f"{name}-x",
                        "namespace": "default",
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": "IPv4",
                    "ports": [{"name": "http", "port": ENDPOINT_PORT}],
                    "endpoints": endpoints,
                }
            )
        )
    return made


@dataclass(frozen=True, slots=True)
class Rules:
    """What kube-proxy does to a node: IPv4 rules and settings."""

    services: int
    ruleset: Ruleset
    settings: dict[str, int]

    @property
    def count(self) -> int:
        return sum(len(chain.rules) for table in self.ruleset.tables for chain in table.chains)


def rules(services: int) -> Rules:
    """kube-proxy's rules and settings for that many Services."""
    store = ObjectStore()
    store.apply_all(objects(services))
    host = RecordedHost((ip_address("127.0.0.1"), ip_address("10.244.0.1"), ip_address("192.0.2.1")))
    config = KubeProxyConfiguration.model_validate({"clusterCIDR": CLUSTER_CIDR})
    KubeProxy(config, "node", host, Clock(), store).start()
    per_namespace = {name: value for name, value in host.sysctls.items() if "conntrack_max" not in name}
    return Rules(services, host.ruleset(Family.IPV4), {**SETTINGS, **per_namespace})


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection from a client to a Service."""

    number: int
    service: int

    @property
    def client(self) -> bytes:
        return ip_address(CLIENTS[self.number % len(CLIENTS)]).packed

    @property
    def port(self) -> int:
        return 1024 + self.number // len(CLIENTS)

    @property
    def address(self) -> bytes:
        return ip_address(cluster_ip(self.service)).packed

    @property
    def sequence(self) -> int:
        return 1_000_000 + self.number

    def _frame(self, sequence: int, flags: int, *, ack: int = 0, payload: bytes = b"", options: bytes = b"") -> bytes:
        segment = build.tcp(
            self.client,
            self.address,
            self.port,
            SERVICE_PORT,
            payload,
            seq=sequence,
            ack=ack,
            flags=flags,
            window=_WINDOW,
            options=options,
        )
        packet = build.ipv4(self.client, self.address, 6, segment, dont_fragment=True)
        return build.ethernet(mac_from_text(PODS_MAC), mac_from_text(CLIENT_MAC), 0x0800, packet)

    def syn(self) -> bytes:
        return self._frame(self.sequence, TcpFlag.SYN, options=_SYN_OPTIONS)

    def syn_ack(self, forwarded_syn: bytes) -> bytes:
        """The endpoint's answer to the SYN as it came out of the node."""
        seen = FrameView(forwarded_syn)
        segment = build.tcp(
            seen.daddr,
            seen.saddr,
            seen.dport,
            seen.sport,
            seq=self.number,
            ack=self.sequence + 1,
            flags=TcpFlag.SYN | TcpFlag.ACK,
            window=_WINDOW,
            options=_SYN_OPTIONS,
        )
        packet = build.ipv4(seen.daddr, seen.saddr, 6, segment, dont_fragment=True)
        return build.ethernet(mac_from_text(UPLINK_MAC), mac_from_text(GATEWAY_MAC), 0x0800, packet)

    def ack(self) -> bytes:
        return self._frame(self.sequence + 1, TcpFlag.ACK, ack=self.number + 1)

    def data(self, number: int) -> bytes:
        """One segment of the request stream; all of them fit the window, so the endpoint need not answer."""
        return self._frame(
            self.sequence + 1 + number * len(PAYLOAD),
            TcpFlag.ACK | TcpFlag.PSH,
            ack=self.number + 1,
            payload=PAYLOAD,
        )


def flows(count: int, services: int, *, first: int = 0) -> list[Flow]:
    """Flows that go round the Services; others with another ``first``."""
    return [Flow(number, number % services) for number in range(first, first + count)]


def data_frames(connections: Sequence[Flow], count: int) -> list[bytes]:
    """Data segments of established flows, one flow after the other in turn."""
    return [connections[number % len(connections)].data(number // len(connections)) for number in range(count)]


def joined(frames: Sequence[bytes]) -> tuple[bytes, array[int]]:
    """Frames as ``Datapath.receive_batch`` takes them."""
    ends = array("I")
    end = 0
    for one in frames:
        end += len(one)
        ends.append(end)
    return b"".join(frames), ends


class EmulatedNode:
    """The node in pktsim."""

    def __init__(self, rules: Rules, seed: int = 7) -> None:
        self.clock = Clock()
        self.netns = Netns("node", clock=self.clock, choices=SeededChoices(seed))
        for name, value in rules.settings.items():
            self.netns.sysctl_set(name, value)
        self.netns.link_add("pods", LinkKind.WIRE, mac=PODS_MAC)
        self.netns.link_add("uplink", LinkKind.WIRE, mac=UPLINK_MAC)
        self.netns.address_add("pods", PODS_ADDRESS)
        self.netns.address_add("uplink", UPLINK_ADDRESS)
        self.netns.route_add(f"{ENDPOINT_NETWORK} via {GATEWAY}")
        self.netns.neighbour_add("uplink", GATEWAY, GATEWAY_MAC)
        for client in CLIENTS:
            self.netns.neighbour_add("pods", client, CLIENT_MAC)
        self.netns.load_ruleset(rules.ruleset)
        self.netns.datapath.capture = False
        self.ifindex = {name: self.netns.devices.named(name).ifindex for name in ("pods", "uplink")}
        self._out: list[bytes] = []
        for name in self.ifindex:
            self.netns.devices.named(name).carry = self._out.append
        # each neighbour has been used: what the first frame to one leads to is behind us
        self.establish([Flow(WARM_UP + number, 0) for number in range(len(CLIENTS))])

    def forward(self, interface: str, frame: bytes) -> bytes:
        """Let one frame through; what comes out at the other side."""
        self.netns.receive(self.ifindex[interface], frame)
        assert len(self._out) == 1, f"{len(self._out)} frames came out for one"
        return self._out.pop()

    def batch(self, interface: str, frames: Sequence[bytes]) -> list[bytes]:
        """Let frames through in one call; what comes out, all of it at the other side."""
        data, ends = joined(frames)
        records, octets, upcalls = self.netns.datapath.receive_batch(
            self.ifindex[interface], data, ends, self.clock.now_ns
        )
        assert not upcalls
        other = self.ifindex["uplink" if interface == "pods" else "pods"]
        out = []
        for kind, ifindex, offset, length in struct.iter_unpack("=4i", records):
            assert (kind, ifindex) == (Event.TX, other), f"event {Event(kind).name} at interface {ifindex}"
            out.append(octets[offset : offset + length])
        return out

    def establish(self, connections: Sequence[Flow], like: Callable[[Flow], bytes] | None = None) -> None:
        """Shake hands.

        Args:
            connections: The flows.
            like: For a flow, its SYN as another node forwarded it: draw until the same endpoint was chosen.
        """
        for flow in connections:
            forwarded = self.forward("pods", flow.syn())
            if like is not None:
                wanted = like(flow)
                for _ in range(200):
                    if forwarded == wanted:
                        break
                    entry = self.netns.datapath.conntrack_list(self.clock.now_ns)[-1]
                    self.netns.datapath.conntrack_delete(entry["id"])
                    forwarded = self.forward("pods", flow.syn())
                assert forwarded == wanted, "the same endpoint never came up"
            answer = self.forward("uplink", flow.syn_ack(forwarded))
            assert FrameView(answer).saddr == flow.address
            self.forward("pods", flow.ack())
