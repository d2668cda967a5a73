"""A DNS pod, a client and another server on wires: small worlds for tests of kube-dns and of resolvers."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.cluster.kubedns.corefile import parse_corefile
from pktsim.cluster.kubedns.server import DnsServer, ServerConfig
from pktsim.cluster.kubedns.service import DnsService, serve_dns
from pktsim.cluster.loader import load_objects
from pktsim.cluster.store import ObjectStore
from pktsim.kernel.transport import AF_INET, AF_INET6
from pktsim.rng import Choices, ScriptedChoices
from tests.kernel.transport_world import Host, World

DNS = "10.244.0.5"
CLIENT = "10.244.1.10"
OTHER = "192.0.2.53"

COREFILE = """\
.:53 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 30
        fallthrough in-addr.arpa ip6.arpa
    }
    forward . 192.0.2.53
    cache 30
    loadbalance
}
"""

OBJECTS = """\
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.10.1, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: None, ports: [{port: 5432, name: sql}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: default, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{port: 5432, name: sql}]
endpoints:
- {addresses: [10.244.1.51], hostname: db-0}
- {addresses: [10.244.2.52], hostname: db-1}
"""

RESOLV_CONF = f"nameserver {DNS}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"


@dataclass
class DnsWorld:
    """The three hosts, the objects and the server."""

    world: World
    client: Host
    dns: Host
    other: Host
    store: ObjectStore
    service: DnsService

    def datagrams(self, host: str, protocol: int = 17) -> list[bytes]:
        """The payloads of what a host sent."""
        return [
            seen.packet.payload[8:] for seen in self.world.log if seen.host == host and seen.packet.protocol == protocol
        ]


def dns_world(
    corefile: str = COREFILE, objects: str = OBJECTS, *, choices: Choices | None = None, watch_delay_ns: int = 0
) -> DnsWorld:
    world = World(choices=ScriptedChoices({"client/resolver.pipelined": lambda n: 1}) if choices is None else choices)
    client, dns = world.host("client", CLIENT, "fd00::10"), world.host("dns", DNS, "fd00::5")
    other = world.host("other", OTHER)
    store = ObjectStore()
    store.apply_all(load_objects(objects))
    server = DnsServer(
        parse_corefile(corefile, "Corefile"), world.clock, world.choices, ServerConfig("kube-dns", (DNS,))
    )
    server.watch(store, world.clock, watch_delay_ns)
    return DnsWorld(world, client, dns, other, store, serve_dns(dns.sockets, server, (AF_INET, AF_INET6)))
