"""How machines are wired: network namespaces, their interfaces, routes and settings. What a CNI plugin does.

A :class:`Wiring` is pure data, the same that a cluster recording's ``topology.yaml`` holds; :class:`HostGateway` makes
one from nodes and pods, :mod:`pktsim.cluster.plumbing` builds it. Everything that decides where a frame goes is in the
data, so that two worlds can be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, ip_interface
from typing import ClassVar

from pktsim.cluster.masquerade import ip_masq_agent
from pktsim.errors import TopologyError

#: ``IFNAMSIZ`` (linux/if.h): device names are shorter.
IFNAMSIZ = 16
LOOPBACK = "lo"
UPLINK = "eth0"
BRIDGE = "cni0"
SWITCH, ROUTER, OUTSIDE = "switch", "router", "outside"

_FORBID: dict[str, object] = {"extra": "forbid"}  # read by pydantic where these come from a file


@dataclass(frozen=True, slots=True)
class Vxlan:
    """``ip link add … type vxlan``. ``ttl`` 0 means: that of the route's default."""

    id: int
    local: str
    link: str
    port: int
    learning: bool = False
    ttl: int = 0
    udp_csum: bool = True
    df: str = "unset"

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID


@dataclass(frozen=True, slots=True)
class Interface:
    """One network device.

    Attributes:
        kind: ``loopback``, ``veth``, ``bridge`` or ``vxlan``.
        addresses: With prefix length, in the order in which they were added.
        peer: A veth's other end, ``space/interface``.
        master: The bridge it is a port of.
        sysctls: Its own ones, by their last parts (``proxy_arp``).
    """

    name: str
    kind: str
    mtu: int = 1500
    mac: str = ""
    addresses: tuple[str, ...] = ()
    peer: str = ""
    master: str = ""
    hairpin: bool = False
    vxlan: Vxlan | None = None
    sysctls: Mapping[str, str | int] = field(default_factory=dict)

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID

    @property
    def ip_interfaces(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """Its addresses as objects."""
        return tuple(ip_interface(address) for address in self.addresses)


@dataclass(frozen=True, slots=True)
class Space:
    """One network namespace.

    Attributes:
        role: ``node``, ``pod``, ``switch``, ``router`` or ``outside``.
        node: The node that a pod is on.
        routes: As ``ip route`` prints them.
        sysctls: Dotted names to values.
        permanent_neighbours: As ``ip neigh`` prints them.
        vxlan_fdb: As ``bridge fdb`` prints them.
    """

    name: str
    role: str
    node: str = ""
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[str, ...] = ()
    sysctls: Mapping[str, str | int] = field(default_factory=dict)
    permanent_neighbours: tuple[str, ...] = ()
    vxlan_fdb: tuple[str, ...] = ()

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID

    def interface(self, name: str) -> Interface:
        """Return the interface called ``name``.

        Raises:
            TopologyError: There is none.
        """
        for interface in self.interfaces:
            if interface.name == name:
                return interface
        known = ", ".join(interface.name for interface in self.interfaces)
        raise TopologyError(f"no interface {name}", place=self.name, mend=f"it has {known}")

    @property
    def address(self) -> str:
        """Its first address beyond ``lo``, without the prefix length; empty if it has none."""
        for interface in self.interfaces:
            if interface.kind != "loopback" and interface.addresses:
                return interface.addresses[0].partition("/")[0]
        return ""


@dataclass(frozen=True, slots=True)
class WarmNeighbour:
    """A neighbour entry that is in place before anything is sent; ``used``: packets have been sent to it earlier."""

    space: str
    address: str
    mac: str
    dev: str
    used: bool = True

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID


@dataclass(frozen=True, slots=True)
class WarmFdb:
    """A bridge table entry that is in place before anything is sent. ``dev`` is the port."""

    space: str
    mac: str
    dev: str

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID


@dataclass(frozen=True, slots=True)
class Wiring:
    """All namespaces of a world."""

    spaces: tuple[Space, ...]
    sysctls_everywhere: Mapping[str, str | int] = field(default_factory=dict)
    warm_neighbours: tuple[WarmNeighbour, ...] = ()
    warm_bridge_fdb: tuple[WarmFdb, ...] = ()

    def space(self, name: str) -> Space:
        """Return the space called ``name``.

        Raises:
            TopologyError: There is none.
        """
        for space in self.spaces:
            if space.name == name:
                return space
        raise TopologyError(f"no space {name}", mend="there are " + ", ".join(space.name for space in self.spaces))

    def with_role(self, role: str) -> Iterator[Space]:
        """Those spaces, in order."""
        return (space for space in self.spaces if space.role == role)


#: What every namespace has.
LOOPBACK_INTERFACE = Interface(LOOPBACK, "loopback", mtu=65536, addresses=("127.0.0.1/8",))

# Addresses and MACs

#: The wire between the nodes, if no node says otherwise, and what lies beyond it (RFC 5737).
NODE_NETWORK = IPv4Network("192.168.0.0/24")
OUTSIDE_NETWORK = IPv4Network("203.0.113.0/24")
OUTSIDE_ADDRESS = IPv4Address("203.0.113.9")
OUTSIDE_GATEWAY = IPv4Address("203.0.113.1")


def device_name(prefix: str, name: str) -> str:
    """A name for one end of a veth: readable, or as CNI plugins do it where that is too long for the kernel."""
    text = prefix + name
    if len(text) < IFNAMSIZ and "/" not in name:
        return text
    return prefix[:4].rstrip("-") + hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]


def _mac(prefix: int, address: IPv4Address) -> str:
    """A locally administered MAC that says whose it is: two bytes of kind, four of address."""
    return (prefix.to_bytes(2, "big") + address.packed).hex(":")


def own_mac(address: IPv4Address) -> str:
    """0a:58 and the address is how the CNI bridge plugin names pods' interfaces and bridges (pkg/utils/hwaddr)."""
    return _mac(0x0A58, address)


def peer_mac(address: IPv4Address) -> str:
    """The other end of that veth."""
    return _mac(0x0A59, address)


#: What kubelet, kube-proxy and a CNI plugin leave a node with; timeouts are kube-proxy's (pkg/proxy/apis/config).
NODE_SYSCTLS: Mapping[str, str] = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.route_localnet": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.netfilter.nf_conntrack_tcp_be_liberal": "0",
    "net.netfilter.nf_conntrack_tcp_timeout_established": "86400",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "3600",
}


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to be wired: its address on the wire between nodes and the network of its pods."""

    name: str
    address: IPv4Address
    pod_network: IPv4Network


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod to be wired. ``space`` is its namespace's name, ``host_interface`` the node's end of its veth."""

    space: str
    node: str
    address: IPv4Address
    host_interface: str


@dataclass(frozen=True, slots=True)
class TunnelEntries:
    """Permanent entries of a tunnel's device: neighbours as ``ip neigh`` prints them, and as ``bridge fdb`` does."""

    neighbours: tuple[str, ...] = ()
    fdb: tuple[str, ...] = ()


class HostGateway:
    """A bridge per node, its ports in hairpin mode, and routes to other nodes' pod networks through the nodes.

    What flannel's host-gw backend does, and kubenet with routes in the cloud's router. A switch joins the nodes and a
    router; behind the router is one host, ``outside``. Everything follows from names and addresses alone, so a pod that
    is added changes nothing of what was there.
    """

    #: What the node's ends of pods' veths are called, with the pod's name behind.
    pod_device: ClassVar[str] = "veth"

    def __init__(self, nodes: Sequence[NodePlan], taken: Collection[IPv4Address] = ()) -> None:
        """``taken`` are the addresses of pods that are known already: bridges take others.

        Raises:
            TopologyError: Nodes or pod networks overlap.
        """
        self.nodes = tuple(nodes)
        self._check()
        self.node_network = _common_network([node.address for node in nodes])
        used = {node.address for node in nodes}
        self.router_address = next(host for host in self.node_network.hosts() if host not in used)
        self._gateways = {node.name: _last_free(node.pod_network, taken) for node in nodes}

    def add(self, node: NodePlan, taken: Collection[IPv4Address] = ()) -> tuple[Space, Interface]:
        """Wire a node that comes later.

        Returns:
            Its namespace, and the switch's port for it; other nodes need :meth:`route_to` it and :meth:`tunnel_to` it.

        Raises:
            TopologyError: It overlaps with another, or is not on the wire between the nodes.
        """
        before, self.nodes = self.nodes, (*self.nodes, node)
        try:
            self._check()
            if node.address not in self.node_network or node.address == self.router_address:
                raise TopologyError(
                    f"{node.address} is no free address of {self.node_network}, where the other nodes are",
                    place=f"Node {node.name}",
                    mend=f"take another one; {self.router_address} is the router's",
                )
        except TopologyError:
            self.nodes = before
            raise
        self._gateways[node.name] = _last_free(node.pod_network, taken)
        return self.node(node.name)

    def remove(self, name: str) -> NodePlan:
        """Forget a node."""
        node = next(node for node in self.nodes if node.name == name)
        self.nodes = tuple(other for other in self.nodes if other is not node)
        del self._gateways[name]
        return node

    def _check(self) -> None:
        for index, node in enumerate(self.nodes):
            for other in self.nodes[:index]:
                if node.name == other.name:
                    raise TopologyError("two nodes of one name", place=f"Node {node.name}")
                if node.address == other.address:
                    raise TopologyError(f"{node.address} is {other.name}'s address too", place=f"Node {node.name}")
                if node.pod_network.overlaps(other.pod_network):
                    raise TopologyError(
                        f"podCIDR {node.pod_network} overlaps {other.pod_network} of {other.name}",
                        place=f"Node {node.name}",
                    )

    def gateway(self, node: str) -> IPv4Address:
        """The address of a node's bridge."""
        return self._gateways[node]

    def wiring(self) -> Wiring:
        """Everything but the pods."""
        return Wiring((self._switch(), self._router(), self._outside(), *(self._node(node) for node in self.nodes)))

    def _switch(self) -> Space:
        ports = [("router", self.router_address), *((node.name, node.address) for node in self.nodes)]
        return Space(
            SWITCH,
            SWITCH,
            interfaces=(
                LOOPBACK_INTERFACE,
                Interface("br0", "bridge", mac=_mac(0x0A5A, self.node_network.network_address)),
                *(self._switch_port(name, address) for name, address in ports),
            ),
            sysctls={"net.ipv4.ip_forward": "0"},
        )

    def _switch_port(self, name: str, address: IPv4Address) -> Interface:
        port = device_name("port-", name)
        return Interface(port, "veth", mac=peer_mac(address), peer=f"{name}/{UPLINK}", master="br0")

    def _router(self) -> Space:
        return Space(
            ROUTER,
            ROUTER,
            interfaces=(
                LOOPBACK_INTERFACE,
                Interface(
                    "eth1",
                    "veth",
                    mac=own_mac(OUTSIDE_GATEWAY),
                    addresses=(f"{OUTSIDE_GATEWAY}/{OUTSIDE_NETWORK.prefixlen}",),
                    peer=f"{OUTSIDE}/{UPLINK}",
                ),
                self._uplink(ROUTER, self.router_address),
            ),
            routes=(
                connected_route(self.node_network, UPLINK, self.router_address),
                connected_route(OUTSIDE_NETWORK, "eth1", OUTSIDE_GATEWAY),
            ),
            sysctls={"net.ipv4.ip_forward": "1"},
        )

    def _outside(self) -> Space:
        return host_space(OUTSIDE, OUTSIDE_ADDRESS, OUTSIDE_NETWORK, OUTSIDE_GATEWAY, f"{ROUTER}/eth1")

    def _uplink(self, space: str, address: IPv4Address) -> Interface:
        return Interface(
            UPLINK,
            "veth",
            mac=own_mac(address),
            addresses=(f"{address}/{self.node_network.prefixlen}",),
            peer=f"{SWITCH}/{device_name('port-', space)}",
        )

    def _node(self, node: NodePlan) -> Space:
        gateway = self._gateways[node.name]
        others = [self.route_to(other) for other in self.nodes if other.name != node.name]
        return Space(
            node.name,
            "node",
            interfaces=(
                LOOPBACK_INTERFACE,
                self._uplink(node.name, node.address),
                Interface(
                    BRIDGE,
                    "bridge",
                    mac=own_mac(gateway),
                    addresses=(f"{gateway}/{node.pod_network.prefixlen}",),
                ),
            ),
            routes=(
                f"default via {self.router_address} dev {UPLINK}",
                connected_route(node.pod_network, BRIDGE, gateway),
                *others,
                connected_route(self.node_network, UPLINK, node.address),
            ),
            sysctls=NODE_SYSCTLS,
        )

    def route_to(self, node: NodePlan) -> str:
        """The route of every other node to its pods."""
        return f"{node.pod_network} via {node.address} dev {UPLINK}"

    def tunnel_to(self, node: NodePlan) -> TunnelEntries:
        """What every other node's tunnel knows of it."""
        return TunnelEntries()

    def node(self, name: str) -> tuple[Space, Interface]:
        """A node's namespace, and the switch's port for it."""
        node = next(node for node in self.nodes if node.name == name)
        return self._node(node), self._switch_port(node.name, node.address)

    def pod_routes(self, pod: PodPlan) -> tuple[str, ...]:
        """The routes that a pod's node gets for it."""
        return ()

    def rules(self, node: NodePlan, pods: IPv4Network) -> str:
        """What the agent that belongs to this wiring writes on a node, for ``iptables-restore``.

        Args:
            node: Whose rules.
            pods: The network of all pods.
        """
        return ip_masq_agent()

    def pod(self, pod: PodPlan) -> tuple[Space, Interface]:
        """A pod's namespace, and the bridge port that its node gets for it.

        Raises:
            TopologyError: Its address is not in its node's network, or is the bridge's.
        """
        node = next((node for node in self.nodes if node.name == pod.node), None)
        if node is None:
            raise TopologyError(f"there is no node {pod.node}", place=f"Pod {pod.space}")
        gateway = self._gateways[node.name]
        if pod.address not in node.pod_network or pod.address == gateway:
            raise TopologyError(
                f"{pod.address} is not an address for pods of {node.name}",
                place=f"Pod {pod.space}",
                mend=f"take one of {node.pod_network} but {gateway}, which is the bridge's",
            )
        space = Space(
            pod.space,
            "pod",
            pod.node,
            interfaces=(
                LOOPBACK_INTERFACE,
                Interface(
                    UPLINK,
                    "veth",
                    mac=own_mac(pod.address),
                    addresses=(f"{pod.address}/{node.pod_network.prefixlen}",),
                    peer=f"{pod.node}/{pod.host_interface}",
                ),
            ),
            routes=(f"default via {gateway} dev {UPLINK}", connected_route(node.pod_network, UPLINK, pod.address)),
            sysctls={"net.ipv4.ip_forward": "0"},
        )
        port = Interface(
            pod.host_interface,
            "veth",
            mac=peer_mac(pod.address),
            peer=f"{pod.space}/{UPLINK}",
            master=BRIDGE,
            hairpin=True,
        )
        return space, port


def connected_route(network: IPv4Network, dev: str, address: IPv4Address) -> str:
    return f"{network} dev {dev} proto kernel scope link src {address}"


def host_space(name: str, address: IPv4Address, network: IPv4Network, gateway: IPv4Address, peer: str) -> Space:
    """A host beyond the nodes' router, which sends everything to the gateway of its network.

    Args:
        peer: Where its cable ends, as ``SPACE/INTERFACE``.
    """
    own = f"{address}/{network.prefixlen}"
    uplink = Interface(UPLINK, "veth", mac=own_mac(address), addresses=(own,), peer=peer)
    return Space(
        name,
        OUTSIDE,
        interfaces=(LOOPBACK_INTERFACE, uplink),
        routes=(f"default via {gateway} dev {UPLINK}", connected_route(network, UPLINK, address)),
        sysctls={"net.ipv4.ip_forward": "0"},
    )


def _common_network(addresses: Sequence[IPv4Address]) -> IPv4Network:
    """The smallest network of at most 24 bits that holds all of them."""
    network = IPv4Network((int(addresses[0]) & ~0xFF, 24)) if addresses else NODE_NETWORK
    while not all(address in network for address in addresses):
        network = network.supernet()
    return network


def _last_free(network: IPv4Network, taken: Collection[IPv4Address]) -> IPv4Address:
    """The last host address of a network that no pod has: pods are numbered from the first."""
    for offset in range(2, network.num_addresses):
        address = network.broadcast_address - (offset - 1)
        if address not in taken:
            return address
    raise TopologyError(f"{network} has no address left for the bridge")
