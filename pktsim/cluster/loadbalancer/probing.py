"""What balancers with a machine of their own have in common: the machine, the route to it, and probes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from ipaddress import IPv4Address

from pktsim.kernel.netdev import LOOPBACK_IFINDEX

from ..kubeproxy.healthcheck import HEALTHZ_PORT
from ..machines import NodeMachine, RuledMachine
from ..objects_balancer import LoadBalancerSpec
from .health import Check, HealthChecker, check_for
from .surroundings import UPLINK, Surroundings, Target, VirtualService


class ProbingBalancer:
    """A machine on the nodes' wire to which the router sends what is for the addresses.

    Args:
        name: Of the machine, and of the balancer.
        spec: What was asked for.
        world: The cluster.
        own_addresses: The machine has the addresses on ``lo``, so that its kernel answers for them.
    """

    def __init__(self, name: str, spec: LoadBalancerSpec, world: Surroundings, *, own_addresses: bool) -> None:
        self._world = world
        self._own_addresses = own_addresses
        self.machine: RuledMachine = world.balancer_machine(name)
        self.services: tuple[VirtualService, ...] = ()
        self._routes: set[IPv4Address] = set()
        self._checker = HealthChecker(self.machine.netns, spec.health_check, self.apply)

    def check(self, service: VirtualService) -> None:
        """Refuse what this way cannot do.

        Raises:
            UnsupportedFeature: A port of the Service.
        """

    @abstractmethod
    def apply(self) -> None:
        """Services, or what is healthy, have changed."""

    def update(self, services: Sequence[VirtualService]) -> None:
        self.services = tuple(services)
        for service in self.services:
            service.check_routed(self._world)
            self.check(service)
        self._route({service.address for service in self.services})
        powered = self._world.powered()
        self._checker.watch(
            {
                check: _looks_healthy(service, target, powered.get(target.name))
                for service in self.services
                for target in service.targets
                for check in (check_for(service.service, target.address),)
            }
        )
        self.apply()

    def node_lost(self, name: str) -> None:
        """Probes will tell."""

    def node_back(self, name: str) -> None:
        """Probes will tell."""

    def healthy(self, service: VirtualService) -> tuple[Target, ...]:
        """Nodes that get a Service's new connections; all of them if none is healthy, as with the large providers."""
        good = tuple(
            target for target in service.targets if self._checker.healthy(check_for(service.service, target.address))
        )
        return good or service.targets

    def source_rules(self) -> str:
        """``loadBalancerSourceRanges``, for which kube-proxy cannot look where nodes do not see the client.

        Returns:
            A mangle table for ``iptables-restore``; empty if there is nothing to keep out.
        """
        lines = []
        for service in self.services:
            ranges = [text.strip() for text in service.service.spec.load_balancer_source_ranges if ":" not in text]
            for port in service.service.spec.ports if ranges else ():
                protocol = port.protocol.lower()
                to = f"-d {service.address}/32 -p {protocol} -m {protocol} --dport {port.port}"
                lines += [f"-A PREROUTING -s {text} {to} -j RETURN" for text in ranges]
                lines.append(f"-A PREROUTING {to} -j DROP")
        if not lines:
            return ""
        return "\n".join(["*mangle", ":PREROUTING ACCEPT [0:0]", *lines, "COMMIT", ""])

    def _route(self, wanted: set[IPv4Address]) -> None:
        router, own = self._world.router.netns, self.machine.netns
        for address in sorted(self._routes - wanted):
            router.route_delete(f"{address} via {self.machine.address}")
            if self._own_addresses:
                own.address_delete(own.devices.get(LOOPBACK_IFINDEX).name, f"{address}/32")
        for address in sorted(wanted - self._routes):
            router.route_add(f"{address} via {self.machine.address} dev {UPLINK}")
            if self._own_addresses:
                own.address_add(own.devices.get(LOOPBACK_IFINDEX).name, f"{address}/32")
        self._routes = wanted


def _looks_healthy(service: VirtualService, target: Target, node: NodeMachine | None) -> bool:
    """What long-standing probes would have found."""
    if node is None:
        return False
    check: Check = check_for(service.service, target.address)
    if check.port == HEALTHZ_PORT:
        return node.proxy is not None and node.proxy.healthz().status == 200
    if check.path:
        return target.name in service.endpoints
    return bool(service.endpoints)
