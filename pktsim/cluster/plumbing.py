"""Builds a :class:`~pktsim.cluster.wiring.Wiring`: namespaces, devices, addresses and routes on an emulated network."""

from __future__ import annotations

from collections.abc import Mapping

from pktsim.cluster.wiring import Interface, Space, Wiring
from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.kernel.netdev import AF_INET, AF_INET6
from pktsim.kernel.netns import Netns
from pktsim.kernel.network import Network
from pktsim.netfilter.opcodes import LinkKind

_KINDS = {"veth": LinkKind.WIRE, "bridge": LinkKind.BRIDGE}


def realise(wiring: Wiring, network: Network, *, warm: bool = False) -> None:
    """Build all spaces on an empty network.

    Args:
        wiring: What to build.
        network: Where.
        warm: Put the neighbours and bridge entries in place, as permanent ones, that the wiring knows.

    Raises:
        TopologyError: Something in it contradicts itself, such as a route that does not follow from the addresses.
    """
    for space in wiring.spaces:
        add_space(space, network, wiring.sysctls_everywhere)
    for space in wiring.spaces:
        for interface in space.interfaces:
            plug(space.name, interface, network)
    for space in wiring.spaces:
        add_routes(space, network[space.name])
    if warm:
        for neighbour in wiring.warm_neighbours:
            network[neighbour.space].neighbour_add(neighbour.dev, neighbour.address, neighbour.mac, used=True)
        for entry in wiring.warm_bridge_fdb:
            network[entry.space].fdb_add(entry.dev, entry.mac)


def add_space(space: Space, network: Network, sysctls_everywhere: Mapping[str, str | int] | None = None) -> Netns:
    """Add a namespace with devices, addresses and settings; veths are not plugged, routes not set yet."""
    sysctls = {**(sysctls_everywhere or {}), **space.sysctls}
    netns = network.add_space(space.name, sysctls=sysctls)
    for interface in space.interfaces:
        add_interface(interface, netns)
    return netns


def add_interface(interface: Interface, netns: Netns) -> None:
    """``ip link add`` and ``ip address add``; ``lo`` is there already."""
    if interface.kind != "loopback":
        kind = _KINDS.get(interface.kind)
        if kind is None:
            raise UnsupportedFeature(f"interface kind {interface.kind}", place=f"{netns.name}/{interface.name}")
        netns.link_add(
            interface.name,
            kind,
            mac=interface.mac,
            mtu=interface.mtu,
            master=interface.master,
            hairpin=interface.hairpin,
        )
    for key, value in interface.sysctls.items():
        netns.sysctl_set(f"net.ipv4.conf.{interface.name}.{key}", value)
    if int(interface.sysctls.get("proxy_arp", 0)):
        # as the agents do that use proxy ARP (Calico's Felix): nobody else on that link could answer first
        netns.sysctl_set(f"net.ipv4.neigh.{interface.name}.proxy_delay", 0)
    known = netns.addresses(interface.name)
    for address in interface.addresses:
        if address not in known:
            netns.address_add(interface.name, address)


def plug(space: str, interface: Interface, network: Network) -> None:
    """Join a veth's two ends, once: whichever of them is met first sees to it."""
    if interface.kind != "veth" or not interface.peer:
        return
    peer_space, _, peer_interface = interface.peer.rpartition("/")
    here = network[space].devices.named(interface.name)
    if here.carry is None:
        network.connect(space, interface.name, peer_space, peer_interface)


def add_routes(space: Space, netns: Netns) -> None:
    """``ip route add`` of those that do not follow from addresses; then all of them must be there, and no others.

    Raises:
        TopologyError: A connected route is missing or one too many.
    """
    # A gateway must be reachable when a route through it is added.
    for route in sorted(space.routes, key=lambda route: " via " in route):
        if "proto kernel" not in route:
            netns.route_add(route)
    made = {*netns.routes(AF_INET), *netns.routes(AF_INET6)}
    wrong = sorted(made ^ set(space.routes))
    if wrong:
        what = "does not follow from the addresses" if wrong[0] in space.routes else "is not among the routes"
        raise TopologyError(f"{wrong[0]} {what}", place=space.name)
