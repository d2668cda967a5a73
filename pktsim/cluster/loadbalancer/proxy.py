"""A balancer that ends the client's TCP connection and opens its own to a node port.

With the PROXY protocol it first says on that connection who the client is, if the pod's server understands it
(annotation ``pktsim.io/proxy-protocol: "true"``).
"""

from __future__ import annotations

from ipaddress import IPv4Address

from pktsim.clock import NS_PER_S
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.task import Task, spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.ruleset import Family, Ruleset

from ..apps.proxy_protocol import proxy_header
from ..objects_balancer import LoadBalancerSpec
from .probing import ProbingBalancer
from .surroundings import Surroundings, VirtualService

#: How long a connection to a node may take to open before another node is tried.
CONNECT_TIMEOUT_NS = 4 * NS_PER_S
_Place = tuple[IPv4Address, int]


class Proxy(ProbingBalancer):
    """See the module."""

    def __init__(self, name: str, spec: LoadBalancerSpec, world: Surroundings) -> None:
        super().__init__(name, spec, world, own_addresses=True)
        self._header = spec.proxy_protocol
        self._listeners: dict[_Place, TcpSocket] = {}
        self._tasks: dict[_Place, Task[None]] = {}
        self._behind: dict[_Place, tuple[VirtualService, int]] = {}

    def check(self, service: VirtualService) -> None:
        for port in service.service.spec.ports:
            if port.protocol != "TCP" or not port.node_port:
                without = "" if port.node_port else " without a node port"
                raise UnsupportedFeature(
                    f"a balancer of mode proxy for port {port.port}/{port.protocol}{without}",
                    place=str(service.service),
                    mend="it takes TCP ports with node ports; choose mode l2, ecmp, passthrough or nat",
                )

    def apply(self) -> None:
        self._behind = {}
        for service in self.services:
            for port in service.service.spec.ports:
                self._behind[service.address, port.port] = (service, port.node_port)
        self.machine.replace_rules(restore(Ruleset(Family.IPV4), self.source_rules()))
        for place in [place for place in self._listeners if place not in self._behind]:
            self._tasks.pop(place).cancel()
            self._listeners.pop(place).close()
        for place in self._behind:
            if place not in self._listeners:
                self._listen(place)

    def _listen(self, place: _Place) -> None:
        netns = self.machine.netns
        listener = netns.sockets.tcp()
        listener.reuse_address = True
        listener.bind(str(place[0]), place[1])
        listener.listen()
        self._listeners[place] = listener
        self._tasks[place] = spawn(netns.clock, self._accept(place, listener), f"{netns.name} proxy {place}")

    async def _accept(self, place: _Place, listener: TcpSocket) -> None:
        while True:
            client = await listener.accept()
            spawn(self.machine.netns.clock, self._serve(place, client), f"{self.machine.name} connection")

    async def _serve(self, place: _Place, client: TcpSocket) -> None:
        source = client.remote_address
        server = await self._connect(place)
        if server is None or source is None:
            client.abort()
            return
        try:
            if self._header != "none":
                await server.sendall(proxy_header(self._header, source, client.local_address))
        except OSError:
            client.abort()
            server.close()
            return
        clock = self.machine.netns.clock
        ways = [
            spawn(clock, _carry(one, other), f"{self.machine.name} relay")
            for one, other in ((client, server), (server, client))
        ]
        for way in ways:
            await way.join()
        client.close()
        server.close()

    async def _connect(self, place: _Place) -> TcpSocket | None:
        """A connection to one of the nodes, drawn; others are tried if it does not answer."""
        service, node_port = self._behind[place]
        left = list(self.healthy(service))
        sockets = self.machine.netns.sockets
        while left:
            target = left.pop(sockets.choices.below(f"{self.machine.name}/proxy.node", len(left)))
            server = sockets.tcp()
            try:
                await server.connect(str(target.address), node_port, timeout_ns=CONNECT_TIMEOUT_NS)
            except OSError:
                server.close()
            else:
                return server
        return None


async def _carry(one: TcpSocket, other: TcpSocket) -> None:
    """Hand on what one side says, until it has said all; a reset on one side becomes a reset on the other."""
    try:
        while data := await one.recv():
            await other.sendall(data)
        if other.connection is not None and not other.connection.dead:
            other.shutdown_write()
    except OSError:
        one.abort()
        other.abort()
