"""Keeps balancers in line with the objects."""

from __future__ import annotations

from collections.abc import Callable

from pktsim.errors import ObjectError

from ..objects import LoadBalancer
from ..store import ObjectStore
from .addresses import AddressBook, Assignment
from .ecmp import Ecmp
from .layer2 import Layer2
from .nat import Nat
from .passthrough import Passthrough
from .proxy import Proxy
from .surroundings import Balancer, Surroundings, VirtualService, serving_nodes, targets_of

_MODES: dict[str, Callable[[LoadBalancer, Surroundings], Balancer]] = {
    "l2": lambda found, world: Layer2(world, found.spec.detection_s),
    "ecmp": lambda found, world: Ecmp(found.spec, world),
    "passthrough": lambda found, world: Passthrough(found.name, found.spec, world),
    "nat": lambda found, world: Nat(found.name, found.spec, world),
    "proxy": lambda found, world: Proxy(found.name, found.spec, world),
}


class LoadBalancers:
    """All balancers of a cluster.

    Args:
        store: The objects.
        default: The mode of Services that say nothing, or ``none``.
    """

    def __init__(self, store: ObjectStore, default: str) -> None:
        self._store = store
        self._book = AddressBook(store, default)
        self._assigned: list[Assignment] = []
        self._running: dict[str, tuple[LoadBalancer, Balancer]] = {}
        self._updated = -1

    def assign(self) -> None:
        """Give Services their addresses; a matter of objects alone, which may come before the network stands."""
        self._assigned = self._book.assign()

    def sync(self, world: Surroundings) -> None:
        """Tell balancers what their Services are now.

        Raises:
            ObjectError: A balancer that runs was changed.
        """
        if self._updated == self._store.revision:
            return
        self._updated = self._store.revision
        wanted = {one.balancer.name: one.balancer for one in self._assigned}
        for name, balancer in wanted.items():
            if name not in self._running:
                self._running[name] = (balancer, _MODES[balancer.spec.mode](balancer, world))
            elif self._running[name][0].spec != balancer.spec:
                raise ObjectError("a balancer cannot be changed while it has Services", place=str(balancer))
        targets = targets_of(self._store)
        for name, (_, running) in self._running.items():
            running.update(
                [
                    VirtualService(one.service, one.address, targets, serving_nodes(self._store, one.service))
                    for one in self._assigned
                    if one.balancer.name == name
                ]
            )

    def hostnames(self) -> dict[str, str]:
        """Names that balancers gave Services instead of addresses, and the addresses behind them."""
        return {
            ingress.hostname: str(one.address)
            for one in self._assigned
            for ingress in one.service.status.load_balancer.ingress
            if ingress.hostname
        }

    def node_lost(self, name: str) -> None:
        """A node has no power any more."""
        for _, running in self._running.values():
            running.node_lost(name)

    def node_back(self, name: str) -> None:
        """A node has power again."""
        for _, running in self._running.values():
            running.node_back(name)

    def balancer(self, name: str) -> Balancer:
        """A balancer that runs.

        Raises:
            ObjectError: There is none of that name.
        """
        if name not in self._running:
            known = ", ".join(self._running)
            raise ObjectError(f"there is no load balancer {name!r}", mend=f"there are {known}" if known else "")
        return self._running[name][1]
