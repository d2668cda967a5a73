"""The world beyond the nodes' router: networks, routers with or without NAT, hosts.

At first there is one host, ``outside``, at the other end of the router's cable. A second machine in that network needs
a switch: then the cable is pulled, and both its ends and the newcomer are plugged into one. Every piece can be added at
any time, and nothing of what was there changes but the cabling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from pktsim.cluster import programs
from pktsim.cluster.kubedns.upstream import Upstream
from pktsim.cluster.machines import Machine, RuledMachine
from pktsim.cluster.objects_outside import (
    NODE_NETWORK_NAME,
    OUTSIDE_NETWORK_NAME,
    ROUTER_NAME,
    HostPlan,
    NetworkPlan,
    Outside,
    RouterPlan,
)
from pktsim.cluster.plumbing import add_interface, add_routes, add_space, plug
from pktsim.cluster.programs import ResolverFiles
from pktsim.cluster.wiring import (
    LOOPBACK_INTERFACE,
    OUTSIDE,
    OUTSIDE_ADDRESS,
    OUTSIDE_GATEWAY,
    OUTSIDE_NETWORK,
    SWITCH,
    UPLINK,
    Interface,
    Space,
    device_name,
    host_space,
    own_mac,
    peer_mac,
)
from pktsim.errors import ObjectError, TopologyError
from pktsim.kernel.explain import Explainer
from pktsim.kernel.network import Network
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.ruleset import Family, Ruleset

#: Hosts are numbered from here, away from the routers, which have the first addresses.
FIRST_HOST = 10
_BRIDGE = "br0"
_MASQUERADE = f"""\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o {UPLINK} -j MASQUERADE
COMMIT
"""


@dataclass(slots=True)
class Segment:
    """One network: an Ethernet segment and what is on it.

    Attributes:
        router: The machine that is its way out.
        gateway: That router's address here.
        switch: The space with its bridge; empty while a cable is all there is.
        router_device: The router's interface here.
        taken: Addresses in use.
    """

    name: str
    cidr: IPv4Network
    router: str
    gateway: IPv4Address
    router_device: str
    switch: str = ""
    taken: set[IPv4Address] = field(default_factory=set)

    def free(self, *, first: int = FIRST_HOST) -> IPv4Address:
        """The first address that nobody has, from a certain one on.

        Raises:
            TopologyError: There is none.
        """
        offsets = [*range(first, self.cidr.num_addresses - 1), *range(1, min(first, self.cidr.num_addresses - 1))]
        for offset in offsets:
            address: IPv4Address = self.cidr.network_address + offset
            if address not in self.taken:
                return address
        raise TopologyError(f"{self.cidr} has no address left", place=f"network {self.name}")

    def take(self, wanted: str, place: str, *, first: int = FIRST_HOST) -> IPv4Address:
        """Reserve an address, a free one if none is wanted.

        Raises:
            TopologyError: It is taken, or not one of this network's.
        """
        address = IPv4Address(wanted) if wanted else self.free(first=first)
        hosts = f"take one of {self.cidr}, such as {self.free(first=first)}"
        if address not in self.cidr or address in (self.cidr.network_address, self.cidr.broadcast_address):
            raise TopologyError(f"{address} is not an address of network {self.name}", place=place, mend=hosts)
        if address in self.taken:
            raise TopologyError(f"{address} is taken", place=place, mend=hosts)
        self.taken.add(address)
        return address


class OutsideWorld:
    """What is there, and how more comes.

    Args:
        network: Of all namespaces, with ``router``, ``switch`` and ``outside`` in place.
        explainer: Told of routers with rules.
        nodes: The nodes' segment.
        node_addresses: Who has which address there now.
        upstream: What the name server in ``outside`` knows.
    """

    def __init__(
        self,
        network: Network,
        explainer: Explainer,
        nodes: Segment,
        node_addresses: Callable[[], Iterator[IPv4Address]],
        upstream: Upstream,
    ) -> None:
        self._network = network
        self._explainer = explainer
        self._node_addresses = node_addresses
        self.machines: dict[str, Machine] = {
            OUTSIDE: Machine(OUTSIDE, network[OUTSIDE], ResolverFiles()),
            ROUTER_NAME: RuledMachine(ROUTER_NAME, network[ROUTER_NAME], ResolverFiles()),
        }
        self.segments: dict[str, Segment] = {
            NODE_NETWORK_NAME: nodes,
            OUTSIDE_NETWORK_NAME: Segment(
                OUTSIDE_NETWORK_NAME,
                OUTSIDE_NETWORK,
                ROUTER_NAME,
                OUTSIDE_GATEWAY,
                "eth1",
                taken={OUTSIDE_GATEWAY, OUTSIDE_ADDRESS},
            ),
        }
        self._uplinks: dict[str, Segment] = {}
        self._nat: set[str] = set()
        self._built: dict[str, Outside] = {}
        programs.serve_upstream(network[OUTSIDE], upstream)
        _serve(self.machines[OUTSIDE])

    # What is asked for

    def build(self, outside: Outside) -> None:
        """Add everything that an object names, once.

        Raises:
            TopologyError: Something contradicts what is there.
            ObjectError: It was built already, and has changed since.
        """
        built = self._built.get(outside.name)
        if built is not None:
            if built != outside:
                raise ObjectError("what is outside cannot be changed later", place=str(outside), mend="add another one")
            return
        self._built[outside.name] = outside
        for router in outside.spec.routers:
            self.add_router(router)
        for network in outside.spec.networks:
            self.add_network(network)
        for host in outside.spec.hosts:
            self.add_host(host)

    def add_network(self, plan: NetworkPlan) -> Segment:
        """A network behind a router.

        Raises:
            TopologyError: The name is taken, there is no such router, or its addresses are known already.
        """
        place = f"network {plan.name}"
        if plan.name in self.segments:
            raise TopologyError(f"there is a network {plan.name} already", place=place)
        router = self._router(plan.router, place)
        cidr = IPv4Network(plan.cidr, strict=False)
        if cidr.prefixlen > 30:
            raise TopologyError(f"{cidr} has no room for a router and a host", place=place)
        for other in self.segments.values():
            hidden = self._hidden_behind(plan.router) != self._hidden_behind(other.router)
            if other.cidr.overlaps(cidr) and not hidden:
                raise TopologyError(f"{cidr} overlaps {other.cidr} of network {other.name}", place=place)
        gateway = cidr.network_address + 1
        device = next(name for number in range(1, 1000) if (name := f"eth{number}") not in router.netns.devices)
        segment = Segment(plan.name, cidr, plan.router, gateway, device, taken={gateway})
        self.segments[plan.name] = segment
        self._add_switch(segment)
        self._plug_into(segment, plan.router, device, gateway)
        self._announce(segment)
        return segment

    def add_router(self, plan: RouterPlan) -> RuledMachine:
        """A router, and the network behind it.

        Raises:
            TopologyError: The name is taken, there is no such network, or the address is taken.
        """
        segment = self._join(plan, f"router {plan.name}", first=2)
        machine = RuledMachine(plan.name, self._network[plan.name], ResolverFiles(f"nameserver {OUTSIDE_ADDRESS}\n"))
        machine.netns.sysctl_set("net.ipv4.ip_forward", 1)
        self.machines[plan.name] = machine
        self._uplinks[plan.name] = segment
        if plan.nat:
            self._nat.add(plan.name)
            machine.netns.load_ruleset(restore(Ruleset(Family.IPV4), _MASQUERADE))
        self._explainer.attach(machine.netns)
        if plan.inside is not None:
            self.add_network(NetworkPlan(name=plan.name, cidr=plan.inside, router=plan.name))
        return machine

    def add_host(self, plan: HostPlan, *, serve: bool = True, ruled: bool = False) -> Machine:
        """A host, which serves HTTP and an echo as ``outside`` does.

        Args:
            serve: Whether it does.
            ruled: It has rules and connection tracking, and forwards.

        Raises:
            TopologyError: The name is taken, there is no such network, or the address is taken.
        """
        self._join(plan, f"host {plan.name}")
        netns, files = self._network[plan.name], ResolverFiles(f"nameserver {OUTSIDE_ADDRESS}\n")
        machine = RuledMachine(plan.name, netns, files) if ruled else Machine(plan.name, netns, files)
        if ruled:
            netns.sysctl_set("net.ipv4.ip_forward", 1)
            self._explainer.attach(netns)
        self.machines[plan.name] = machine
        if serve:
            _serve(machine)
        return machine

    def names(self) -> Iterator[tuple[IPv4Address, str]]:
        """What the addresses of added machines are called."""
        for name, machine in self.machines.items():
            if name in (OUTSIDE, ROUTER_NAME):
                continue
            for device in machine.netns.devices:
                if not device.loopback:
                    for text in machine.netns.addresses(device.name):
                        yield IPv4Address(text.partition("/")[0]), name

    # Building

    def _join(self, plan: HostPlan | RouterPlan, place: str, *, first: int = FIRST_HOST) -> Segment:
        """A space with one leg in a network, and a default route through that network's router."""
        if plan.name in self._network.spaces:
            raise TopologyError(f"there is a machine {plan.name} already", place=place, mend="take another name")
        segment = self._segment(plan.network, place)
        if segment.name == NODE_NETWORK_NAME:
            # nodes that come later are numbered upwards from the first ones
            first = max(segment.cidr.num_addresses - 56, 2)
            segment.taken.update(self._node_addresses())
        address = segment.take(plan.address, place, first=first)
        if not segment.switch:
            self._add_switch(segment)
        port = device_name("port-", plan.name)
        space = host_space(plan.name, address, segment.cidr, segment.gateway, f"{segment.switch}/{port}")
        netns = add_space(space, self._network)
        add_interface(_port(port, address), self._network[segment.switch])
        plug(space.name, space.interface(UPLINK), self._network)
        add_routes(space, netns)
        return segment

    def _add_switch(self, segment: Segment) -> None:
        """A switch for a network; where a cable was, its ends are plugged into it."""
        segment.switch = f"{segment.name}-switch"
        bridge = Interface(_BRIDGE, "bridge", mac=peer_mac(segment.cidr.network_address))
        space = Space(segment.switch, SWITCH, interfaces=(LOOPBACK_INTERFACE, bridge))
        add_space(space, self._network)
        wire = None
        if segment.router_device in self._network[segment.router].devices:
            wire = self._network.unplug(segment.router, segment.router_device)
        for netns, device in wire.ends if wire is not None else ():
            address = IPv4Address(netns.addresses(device.name)[0].partition("/")[0])
            port = device_name("port-", netns.name)
            add_interface(_port(port, address), self._network[segment.switch])
            self._network.connect(netns, device.name, segment.switch, port)

    def _plug_into(self, segment: Segment, router: str, device: str, address: IPv4Address) -> None:
        """A router's leg in a network."""
        port = device_name("port-", router)
        add_interface(_port(port, address), self._network[segment.switch])
        leg = Interface(
            device,
            "veth",
            mac=own_mac(address),
            addresses=(f"{address}/{segment.cidr.prefixlen}",),
            peer=f"{segment.switch}/{port}",
        )
        add_interface(leg, self._network[router])
        plug(router, leg, self._network)

    def _announce(self, segment: Segment) -> None:
        """Routers on the way to the nodes' router learn of a network, up to one that hides it."""
        router = segment.router
        while router != ROUTER_NAME and router not in self._nat:
            uplink = self._uplinks[router]
            leg = self.machines[router].netns.addresses(UPLINK)[0].partition("/")[0]
            above = self.machines[uplink.router].netns
            above.route_add(f"{segment.cidr} via {leg} dev {uplink.router_device}")
            router = uplink.router

    def _hidden_behind(self, router: str) -> str:
        """The NAT router that hides the networks of a router; empty if there is none."""
        while router != ROUTER_NAME:
            if router in self._nat:
                return router
            router = self._uplinks[router].router
        return ""

    def _router(self, name: str, place: str) -> RuledMachine:
        machine = self.machines.get(name)
        if (name != ROUTER_NAME and name not in self._uplinks) or not isinstance(machine, RuledMachine):
            known = ", ".join([ROUTER_NAME, *self._uplinks])
            raise TopologyError(f"there is no router {name!r}", place=place, mend=f"there are {known}")
        return machine

    def _segment(self, name: str, place: str) -> Segment:
        segment = self.segments.get(name)
        if segment is None:
            known = ", ".join(self.segments)
            raise TopologyError(f"there is no network {name!r}", place=place, mend=f"there are {known}")
        return segment


def _serve(host: Machine) -> None:
    """What every host outside serves."""
    programs.serve_http(host.netns, host.name, programs.HTTP_PORT, Family.IPV4)
    programs.serve_echo(host.netns, host.name, programs.ECHO_PORT, Family.IPV4)


def _port(name: str, address: IPv4Address) -> Interface:
    return Interface(name, "veth", mac=peer_mac(address), master=_BRIDGE)
