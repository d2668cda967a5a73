"""Builds a :class:`~pktsim.cluster.wiring.Wiring`: namespaces, devices, addresses and routes on an emulated network."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pktsim.cluster.wiring import SWITCH, Interface, Space, TunnelEntries, Vxlan, Wiring
from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.kernel.netdev import AF_INET, AF_INET6
from pktsim.kernel.netns import Netns
from pktsim.kernel.network import Network
from pktsim.netfilter.opcodes import LinkKind

_KINDS = {"veth": LinkKind.WIRE, "bridge": LinkKind.BRIDGE}
#: ``ip neigh`` and ``bridge fdb show dev …``; the device is left out: a node has one tunnel.
_NEIGHBOUR = re.compile(r"(?P<address>[0-9a-f.:]+) lladdr (?P<mac>[0-9a-f:]{17}) PERMANENT *")
_FDB_ENTRY = re.compile(r"(?P<mac>[0-9a-f:]{17}) dst (?P<remote>[0-9a-f.:]+) self permanent *")


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
        _add_tunnel_entries(space, network[space.name])
    if warm:
        for neighbour in wiring.warm_neighbours:
            netns = network[neighbour.space]
            netns.neighbour_add(neighbour.dev, neighbour.address, neighbour.mac, used=neighbour.used)
        for entry in wiring.warm_bridge_fdb:
            network[entry.space].fdb_add(entry.dev, entry.mac)


def add_space(space: Space, network: Network, sysctls_everywhere: Mapping[str, str | int] | None = None) -> Netns:
    """Add a namespace with devices, addresses and settings; veths are not plugged, routes not set yet."""
    sysctls = {**(sysctls_everywhere or {}), **space.sysctls}
    netns = network.add_space(space.name, sysctls=sysctls)
    with netns.batch():
        for interface in space.interfaces:
            add_interface(interface, netns)
    return netns


def add_interface(interface: Interface, netns: Netns) -> None:
    """``ip link add`` and ``ip address add``; ``lo`` is there already."""
    if interface.kind == "vxlan" and interface.vxlan is not None:
        _add_vxlan(interface, interface.vxlan, netns)
    elif interface.kind != "loopback":
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


def _add_vxlan(interface: Interface, vxlan: Vxlan, netns: Netns) -> None:
    if vxlan.df != "unset":
        raise UnsupportedFeature(f"vxlan df {vxlan.df}", place=f"{netns.name}/{interface.name}")
    netns.vxlan.add(
        interface.name,
        vni=vxlan.id,
        local=vxlan.local,
        link=vxlan.link,
        port=vxlan.port,
        learning=vxlan.learning,
        udp_csum=vxlan.udp_csum,
        ttl=vxlan.ttl,
        mac=interface.mac,
        mtu=interface.mtu,
    )


def _add_tunnel_entries(space: Space, netns: Netns) -> None:
    """``ip neigh add … nud permanent`` and ``bridge fdb add … self permanent``, as flannel sets up for each other node.

    Raises:
        TopologyError: An entry is not as these tools print it.
    """
    tunnels = [interface.name for interface in space.interfaces if interface.vxlan is not None]
    if not tunnels:
        if space.permanent_neighbours or space.vxlan_fdb:
            raise TopologyError("entries for a tunnel, but no interface of kind vxlan", place=space.name)
        return
    if len(tunnels) > 1:
        raise UnsupportedFeature("several vxlan interfaces", place=space.name)
    _set_tunnel_entries(TunnelEntries(space.permanent_neighbours, space.vxlan_fdb), tunnels[0], netns)


def _set_tunnel_entries(entries: TunnelEntries, tunnel: str, netns: Netns, *, remove: bool = False) -> None:
    for text in entries.neighbours:
        neighbour = _NEIGHBOUR.fullmatch(text)
        if neighbour is None:
            raise TopologyError(f"not a permanent neighbour: {text}", place=netns.name)
        if remove:
            netns.neighbour_delete(tunnel, neighbour["address"])
        else:
            netns.neighbour_add(tunnel, neighbour["address"], neighbour["mac"])
    for text in entries.fdb:
        entry = _FDB_ENTRY.fullmatch(text)
        if entry is None:
            raise TopologyError(f"not an entry of a tunnel's table: {text}", place=netns.name)
        if remove:
            netns.vxlan.fdb_delete(tunnel, entry["mac"])
        else:
            netns.vxlan.fdb_add(tunnel, entry["mac"], entry["remote"])


def add_node(space: Space, port: Interface, network: Network) -> Netns:
    """Add a node to a network that stands, plugged into a port of the switch."""
    netns = add_space(space, network)
    add_interface(port, network[SWITCH])
    for interface in space.interfaces:
        plug(space.name, interface, network)
    add_routes(space, netns)
    _add_tunnel_entries(space, netns)
    return netns


def meet(netns: Netns, route: str, entries: TunnelEntries, *, part: bool = False) -> None:
    """Let a node know the way to another one's pods, or, with ``part``, forget it."""
    if entries != TunnelEntries():
        tunnel = next(device.name for device in netns.devices if device.kind == LinkKind.VXLAN)
        _set_tunnel_entries(entries, tunnel, netns, remove=part)
    if part:
        netns.route_delete(route)
    else:
        netns.route_add(route)


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
    with netns.batch():
        for route in sorted(space.routes, key=lambda route: " via " in route):
            if "proto kernel" not in route:
                netns.route_add(route)
    made = {*netns.routes(AF_INET), *netns.routes(AF_INET6)}
    wrong = sorted(made ^ set(space.routes))
    if wrong:
        what = "does not follow from the addresses" if wrong[0] in space.routes else "is not among the routes"
        raise TopologyError(f"{wrong[0]} {what}", place=space.name)
