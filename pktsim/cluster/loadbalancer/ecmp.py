"""The router has a route to the address through every node that announces it, and spreads flows over them by a hash.

What MetalLB's BGP mode, kube-router and Calico do with a router that allows several next hops. There is no balancer
that remembers anything: when the set of nodes changes, the router's hash sends some living flows to another node, which
does not know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

from pktsim.clock import NS_PER_S
from pktsim.fidelity import approximated

from ..objects_balancer import LoadBalancerSpec
from .surroundings import UPLINK, Surroundings, VirtualService

approximated(
    "cluster.loadbalancer.ecmp",
    "routes change in the instant in which a node would announce or withdraw an address; of a lost node the router "
    "learns when its hold time has run out (LoadBalancer.spec.detection); BGP itself is not spoken",
    source="RFC 4271 section 6.5; MetalLB speaker/bgp_controller.go",
)


class Ecmp:
    """See the module.

    Args:
        spec: What was asked for.
        world: The cluster.
    """

    def __init__(self, spec: LoadBalancerSpec, world: Surroundings) -> None:
        self._world = world
        self._detection_ns = round(spec.detection_s * NS_PER_S)
        self._services: tuple[VirtualService, ...] = ()
        self._lost: set[str] = set()
        self._routes: dict[IPv4Address, str] = {}
        world.router.sysctl("net.ipv4.fib_multipath_hash_policy", spec.hash_policy)

    def update(self, services: Sequence[VirtualService]) -> None:
        self._services = tuple(services)
        self._advertise()

    def node_lost(self, name: str) -> None:
        def noticed() -> None:
            if name not in self._world.powered():
                self._lost.add(name)
                self._advertise()

        self._world.clock.after(self._detection_ns, noticed)

    def node_back(self, name: str) -> None:
        self._lost.discard(name)
        self._advertise()

    def _advertise(self) -> None:
        hops: dict[IPv4Address, set[IPv4Address]] = {}
        for service in self._services:
            service.check_routed(self._world)
            of_it = hops.setdefault(service.address, set())
            of_it |= {target.address for target in service.announcers if target.name not in self._lost}
        wanted = {address: _route(address, sorted(of_it)) for address, of_it in hops.items() if of_it}
        netns = self._world.router.netns
        for address in sorted(self._routes.keys() - wanted.keys()):
            netns.route_delete(self._routes[address])
        for address, route in sorted(wanted.items()):
            if self._routes.get(address) != route:
                netns.route_replace(route)
        self._routes = wanted


def _route(address: IPv4Address, hops: Sequence[IPv4Address]) -> str:
    through = " ".join(f"nexthop via {hop} dev {UPLINK} weight 1" for hop in hops)
    return f"{address} proto bgp {through}"
