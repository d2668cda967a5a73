"""Packets to every address of every Service, from everywhere that matters, on one node.

A :class:`World` makes the node of a recorded start of kube-proxy as a case for ``pktsim.kernel.case``: one interface
towards its pods, the recorded ones towards everything else, and whatever could be a next hop as a permanent neighbour.
Its probes are what is sent.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Final

import yaml

from pktsim.cluster.objects import EndpointSlice, KubeObject, Service
from pktsim.netfilter.ruleset import Family
from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, TcpFlag

NODE: Final = "node-1"
FAR_MAC: Final = "02:ff:00:00:00:01"
#: The kernel's random port for a source port in 512..599 is one of 600..1023 (``nf_nat_l4proto_unique_tuple``): what
#: was kept and what was drawn are never the same.
SPORT: Final = 555

_CLIENTS: Final = {
    Family.IPV4: {"pod": "10.244.1.250", "remote pod": "10.244.2.250", "outside": "203.0.113.9"},
    Family.IPV6: {"pod": "fd00:10:244:1::fa", "remote pod": "fd00:10:244:2::fa", "outside": "2001:db8:9::9"},
}
_GATEWAYS: Final = {Family.IPV4: "192.168.10.1", Family.IPV6: "fd00:192:168:10::1"}
_LOCALHOST: Final = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
#: More local endpoints than this behave as the first ones.
_HAIRPINS: Final = 2

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Probe:
    """One packet, or with ``times`` the same client again on another port.

    Attributes:
        service: Whose address it is sent to, and which.
        source: Who sends.
        interface: Where it comes in; empty if the node itself sends.
    """

    service: str
    source: str
    interface: str
    saddr: str
    protocol: str
    daddr: str
    port: int
    times: int = 1

    def __str__(self) -> str:
        return f"{self.service}: {self.source} {self.saddr} {self.protocol} {self.daddr} port {self.port}"

    def step(self, mac: Mapping[str, str], number: int, choice: int) -> dict[str, Any]:
        """The packet as a step of a case.

        Args:
            mac: The interfaces' addresses.
            number: How often it was sent already.
            choice: Which endpoint a kernel with :func:`chosen_by_packet` takes, from 0.
        """
        daddr = ip_from_text(self.daddr)
        saddr = ip_from_text(self.saddr)
        payload = _transport(self.protocol, saddr, daddr, SPORT + number, self.port)
        protocol = {"TCP": 6, "UDP": 17, "SCTP": 132}[self.protocol]
        if len(daddr) == 4:
            packet = build.ipv4(saddr, daddr, protocol, payload, identification=choice + 1)
        else:
            packet = build.ipv6(saddr, daddr, protocol, payload, flow_label=choice + 1)
        if not self.interface:
            return {"send_local": {"packet": packet.hex()}}
        ethertype = ETH_P_IP if len(daddr) == 4 else ETH_P_IPV6
        frame = build.ethernet(mac_from_text(mac[self.interface]), mac_from_text(FAR_MAC), ethertype, packet)
        return {"receive": {"interface": self.interface, "frame": frame.hex()}}


def _transport(protocol: str, saddr: bytes, daddr: bytes, sport: int, dport: int) -> bytes:
    if protocol == "TCP":
        return build.tcp(saddr, daddr, sport, dport, seq=1, flags=TcpFlag.SYN, window=64240)
    if protocol == "UDP":
        return build.udp(saddr, daddr, sport, dport, b"probe")
    init = struct.pack("!BBHIIHHI", 1, 0, 20, 7, 65535, 1, 1, 7)
    head = struct.pack("!HHI", sport, dport, 0)
    return head + struct.pack("<I", crc32c(head + bytes(4) + init)) + init


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def chosen_by_packet(text: str, family: Family) -> str:
    """Rules in which the n-th random choice of a chain (from 0) is no draw: packets whose identification (IPv6: flow
    label) is n + 1 are taken there, all others go on.
    """
    where = "0x2&0xffff" if family is Family.IPV4 else "0x0&0xfffff"
    seen: dict[str, int] = {}
    lines = []
    for line in text.splitlines(keepends=True):
        chain = line.split(" ", 2)[1] if line.startswith("-A ") else ""
        new, n = re.subn(
            r"-m statistic --mode random --probability \S+", f'-m u32 --u32 "{where}={seen.get(chain, 0) + 1}"', line
        )
        if n:
            seen[chain] = seen.get(chain, 0) + 1
        lines.append(new)
    return "".join(lines)


class World:
    """A recorded node and the Services it serves, in one address family.

    Args:
        directory: The recording.
        objects: Its objects.
        family: Of the packets.
    """

    def __init__(self, directory: Path, objects: Sequence[KubeObject], family: Family) -> None:
        self.family = family
        self._services = [one for one in objects if isinstance(one, Service)]
        self._slices = [one for one in objects if isinstance(one, EndpointSlice)]
        config = yaml.safe_load((directory / "config.yaml").read_text())
        detect = config.get("detectLocal", {})
        prefix = detect.get("interfaceNamePrefix")
        self.pods = f"{prefix}0" if prefix else detect.get("bridgeInterface") or "cni0"
        host = yaml.safe_load((directory / "host.yaml").read_text())["interfaces"]
        self._interfaces = {
            name: [text for text in texts or () if self._mine(ip_interface(text).ip)] for name, texts in host.items()
        }
        self.own = [ip_interface(text).ip for texts in self._interfaces.values() for text in texts]
        self.macs = {name: f"02:00:00:00:00:{n:02x}" for n, name in enumerate((self.pods, *host), start=1)}

    def _mine(self, address: Address) -> bool:
        return address.version == (4 if self.family is Family.IPV4 else 6)

    def local_endpoints(self, service: Service) -> list[str]:
        """Addresses of its pods on this node."""
        return [
            address
            for found in self._slices
            if found.service_name == service.name and found.namespace == service.namespace
            for one in found.endpoints
            for address in one.addresses[:1]
            if one.node_name == NODE and self._mine(ip_address(address)) and ip_address(address) not in self.own
        ]

    def _next_hops(self, more: Iterable[str]) -> Iterable[tuple[str, str]]:
        """What could be sent to directly on the recorded interfaces: address, interface."""
        wanted = {ip_address(one) for found in self._slices for end in found.endpoints for one in end.addresses}
        wanted |= {ip_address(one) for one in more}
        for name, texts in self._interfaces.items():
            networks = [ip_interface(text).network for text in texts]
            for address in sorted((one for one in wanted if self._mine(one)), key=int):
                if address not in self.own and any(address in network for network in networks):
                    yield str(address), name

    def case(self, rules: str, sysctls: Mapping[str, int]) -> dict[str, Any]:
        """The node with these rules, ready for steps."""
        ipv6 = self.family is Family.IPV6
        interfaces: list[dict[str, Any]] = [{"name": self.pods, "mac": self.macs[self.pods], "addresses": []}]
        for name, texts in self._interfaces.items():
            interfaces.append({"name": name, "mac": self.macs[name], "addresses": texts})
        clients = _CLIENTS[self.family]
        pods = {clients["pod"], *(one for service in self._services for one in self.local_endpoints(service))}
        gateway = _GATEWAYS[self.family]
        routes = [{"dst": f"{one}/{128 if ipv6 else 32}", "dev": self.pods} for one in sorted(pods)]
        routes.append({"dst": "::/0" if ipv6 else "0.0.0.0/0", "via": gateway, "dev": "eth0"})
        neighbours = [{"address": one, "interface": self.pods, "mac": FAR_MAC} for one in sorted(pods)]
        targets = {gateway, *(one.daddr for one in self.probes()), *(one.saddr for one in self.probes())}
        for address, interface in self._next_hops(targets - pods):
            if address not in pods:
                neighbours.append({"address": address, "interface": interface, "mac": FAR_MAC})
        return {
            "name": "service",
            "interfaces": interfaces,
            "routes": routes,
            "neighbours": neighbours,
            # Many errors to one client are told within a moment; no limit is what is compared here.
            "sysctls": {"net.ipv6.icmp.ratelimit": "0"} | {name: str(value) for name, value in sysctls.items()},
            "ip6tables" if ipv6 else "iptables": rules,
            "ipv6": ipv6,
            "steps": [],
        }

    def probes(self) -> list[Probe]:
        """All that is sent, in the order of the objects."""
        found: dict[tuple[str, str, str, int, str], Probe] = {}
        for service in self._services:
            if service.spec.type == "ExternalName" or service.headless:
                continue
            for one in self._of_service(service):
                found.setdefault((one.source, one.saddr, one.daddr, one.port, one.protocol), one)
        return list(found.values())

    def _of_service(self, service: Service) -> Iterable[Probe]:
        spec = service.spec
        name = f"{service.namespace}/{service.name}"
        times = 2 if service.affinity_seconds else 1
        for port in spec.ports:
            for what, address, number in self._destinations(service, port.port, port.node_port):
                for source, interface, saddr in self._sources(service, address):
                    yield Probe(f"{name} {what}", source, interface, saddr, port.protocol, address, number, times)
        if spec.health_check_node_port:
            for own in self.own:
                for source, interface, saddr in self._sources(service, str(own)):
                    where = str(own), spec.health_check_node_port
                    yield Probe(f"{name} health check", source, interface, saddr, "TCP", *where)

    def _destinations(self, service: Service, port: int, node_port: int) -> Iterable[tuple[str, str, int]]:
        spec = service.spec
        kinds: list[tuple[str, Iterable[str], int]] = [
            ("cluster IP", dict.fromkeys((spec.cluster_ip, *spec.cluster_ips)), port),
            ("external IP", spec.external_ips, port),
            ("load balancer IP", [one.ip for one in service.status.load_balancer.ingress if one.ip], port),
        ]
        if node_port:
            kinds.append(("node port", [*map(str, self.own), _LOCALHOST[self.family]], node_port))
        for what, addresses, number in kinds:
            for address in addresses:
                if address and self._mine(ip_address(address)):
                    yield what, address, number

    def _sources(self, service: Service, daddr: str) -> Iterable[tuple[str, str, str]]:
        """Who sends: name, interface, address."""
        if ip_address(daddr).is_loopback:
            yield "node", "", daddr
            return
        clients = _CLIENTS[self.family]
        yield "node", "", str(self.own[0])
        yield "pod", self.pods, clients["pod"]
        for one in sorted(set(self.local_endpoints(service)))[:_HAIRPINS]:
            yield "its own endpoint", self.pods, one
        for name in ("remote pod", "outside"):
            yield name, "eth0", clients[name]
        for text in service.spec.load_balancer_source_ranges:
            network = ip_network(text.strip())
            if self._mine(network.network_address) and network.prefixlen:
                address = network.network_address + (1 if network.num_addresses > 1 else 0)
                yield "allowed range", "eth0", str(address)
