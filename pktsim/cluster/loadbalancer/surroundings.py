"""What balancers see of the world, and what they are told of Services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from pktsim.clock import Clock
from pktsim.errors import TopologyError
from pktsim.rng import Choices

from ..machines import NodeMachine, RuledMachine
from ..objects import EndpointSlice, Node, Service
from ..objects_services import LABEL_SERVICE_NAME
from ..store import ObjectStore

#: A node with this label is no target of any load balancer (KEP-1143).
LABEL_EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
UPLINK = "eth0"


class Surroundings(Protocol):
    """The cluster, as far as balancers use it."""

    clock: Clock

    @property
    def chance(self) -> Choices:
        """Where free choices come from."""

    @property
    def router(self) -> RuledMachine:
        """The nodes' router."""

    def powered(self) -> Mapping[str, NodeMachine]:
        """Nodes that are on, by name."""

    def on_the_nodes_wire(self, address: IPv4Address) -> bool:
        """Whether an address is one of the network between the nodes."""

    def balancer_machine(self, name: str) -> RuledMachine:
        """A new machine on that network."""


@dataclass(frozen=True, slots=True)
class Target:
    """A node as a balancer knows it."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class VirtualService:
    """One Service at its load balancer address.

    Attributes:
        targets: Nodes that may get its traffic, by name.
        endpoints: Nodes with an endpoint that serves.
    """

    service: Service
    address: IPv4Address
    targets: tuple[Target, ...]
    endpoints: frozenset[str]

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.service.namespace, self.service.name

    @property
    def announcers(self) -> tuple[Target, ...]:
        """Nodes that may speak for the address: those with endpoints; with policy Cluster all, if there is one.

        MetalLB, speaker/layer2_controller.go and bgp_controller.go, ``ShouldAnnounce``.
        """
        if self.service.external_policy_local:
            return tuple(target for target in self.targets if target.name in self.endpoints)
        return self.targets if self.endpoints else ()

    def check_routed(self, world: Surroundings) -> None:
        """Refuse an address that no router would be asked for.

        Raises:
            TopologyError: It is one of the network between the nodes.
        """
        if world.on_the_nodes_wire(self.address):
            raise TopologyError(
                f"{self.address} is an address of the nodes' own network",
                place=str(self.service),
                mend="only mode l2 answers ARP for such a one; take another pool",
            )


class Balancer(Protocol):
    """One way to bring packets to nodes."""

    def update(self, services: Sequence[VirtualService]) -> None:
        """These are its Services now."""

    def node_lost(self, name: str) -> None:
        """A node has no power any more; whether and when this is noticed is the balancer's affair."""

    def node_back(self, name: str) -> None:
        """A node has power again."""


def targets_of(store: ObjectStore) -> tuple[Target, ...]:
    """Nodes that may get traffic, by name."""
    return tuple(sorted(_targets(store), key=lambda target: target.name))


def _targets(store: ObjectStore) -> Iterator[Target]:
    for node in store.list(Node):
        if LABEL_EXCLUDE in node.metadata.labels:
            continue
        address = next((ip for ip in node.host_ips if isinstance(ip, IPv4Address)), None)
        if address is not None:
            yield Target(node.name, address)


def serving_nodes(store: ObjectStore, service: Service) -> frozenset[str]:
    """Nodes with an endpoint of a Service that serves, terminating or not."""
    found = set()
    for piece in store.list(EndpointSlice, service.namespace):
        if piece.metadata.labels.get(LABEL_SERVICE_NAME) != service.name:
            continue
        for endpoint in piece.endpoints:
            conditions = endpoint.conditions
            serving = conditions.serving if conditions.serving is not None else conditions.ready is not False
            if serving and endpoint.node_name:
                found.add(endpoint.node_name)
    return frozenset(found)
