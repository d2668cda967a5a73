"""The wirings that a cluster can have, beside :class:`~pktsim.cluster.wiring.HostGateway`.

All have the same plan: a switch joins the nodes and a router, behind which is the world outside. They differ in how a
pod is joined to its node, and nodes' pod networks to each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar

from pktsim.cluster import masquerade
from pktsim.cluster.wiring import (
    BRIDGE,
    LOOPBACK_INTERFACE,
    NODE_SYSCTLS,
    UPLINK,
    HostGateway,
    Interface,
    NodePlan,
    PodPlan,
    Space,
    TunnelEntries,
    Vxlan,
    connected_route,
    own_mac,
)
from pktsim.errors import TopologyError

#: flannel's device, its VNI and UDP port (the kernel's old default), and what the headers take of the MTU.
FLANNEL, VNI, VXLAN_PORT, VXLAN_OVERHEAD_BYTES = "flannel.1", 1, 8472, 50
ETHERNET_MTU = 1500
#: Where Calico's pods send everything, and who answers ARP for it.
CALICO_GATEWAY, CALICO_MAC = "169.254.1.1", "ee:ee:ee:ee:ee:ee"


class BridgeWithoutNetfilter(HostGateway):
    """``host-gw`` with ``bridge-nf-call-iptables`` 0: what a bridge switches meets no rules.

    kube-proxy warns of it: a pod on the client's own node answers directly, so that services on one's own node fail.
    """

    def _node(self, node: NodePlan) -> Space:
        space = super()._node(node)
        return replace(space, sysctls={**space.sysctls, "net.bridge.bridge-nf-call-iptables": "0"})


class FlannelVxlan(HostGateway):
    """A bridge per node and flannel's VXLAN between them: static neighbours and forwarding entries, MTU 1450."""

    def _node(self, node: NodePlan) -> Space:
        space = super()._node(node)
        mtu = ETHERNET_MTU - VXLAN_OVERHEAD_BYTES
        tunnel = Interface(
            FLANNEL,
            "vxlan",
            mtu=mtu,
            mac=self._tunnel_mac(node),
            addresses=(f"{node.pod_network.network_address}/32",),
            vxlan=Vxlan(VNI, str(node.address), UPLINK, VXLAN_PORT),
        )
        entries = [self.tunnel_to(other) for other in self.nodes if other.name != node.name]
        return replace(
            space,
            interfaces=(
                *(replace(one, mtu=mtu) if one.name == BRIDGE else one for one in space.interfaces),
                tunnel,
            ),
            permanent_neighbours=tuple(text for entry in entries for text in entry.neighbours),
            vxlan_fdb=tuple(text for entry in entries for text in entry.fdb),
        )

    @staticmethod
    def _tunnel_mac(node: NodePlan) -> str:
        return own_mac(node.pod_network.network_address)

    def route_to(self, node: NodePlan) -> str:
        return f"{node.pod_network} via {node.pod_network.network_address} dev {FLANNEL} onlink"

    def tunnel_to(self, node: NodePlan) -> TunnelEntries:
        mac = self._tunnel_mac(node)
        neighbour = f"{node.pod_network.network_address} lladdr {mac} PERMANENT"
        return TunnelEntries((neighbour,), (f"{mac} dst {node.address} self permanent",))

    def pod(self, pod: PodPlan) -> tuple[Space, Interface]:
        space, port = super().pod(pod)
        mtu = ETHERNET_MTU - VXLAN_OVERHEAD_BYTES
        interfaces = tuple(replace(one, mtu=mtu) if one.kind == "veth" else one for one in space.interfaces)
        return replace(space, interfaces=interfaces), replace(port, mtu=mtu)

    def rules(self, node: NodePlan, pods: IPv4Network) -> str:
        return masquerade.flannel(pods, node.pod_network)


class PointToPoint(HostGateway):
    """Calico's way: a veth per pod, its address a /32, a default route through an address that proxy ARP answers."""

    pod_device: ClassVar[str] = "cali"

    def __init__(self, nodes: Sequence[NodePlan], taken: Collection[IPv4Address] = ()) -> None:
        super().__init__(nodes)

    def _node(self, node: NodePlan) -> Space:
        others = [self.route_to(other) for other in self.nodes if other.name != node.name]
        return Space(
            node.name,
            "node",
            interfaces=(LOOPBACK_INTERFACE, self._uplink(node.name, node.address)),
            routes=(
                f"default via {self.router_address} dev {UPLINK}",
                f"blackhole {node.pod_network} proto bird",
                *others,
                connected_route(self.node_network, UPLINK, node.address),
            ),
            sysctls=NODE_SYSCTLS,
        )

    def route_to(self, node: NodePlan) -> str:
        return f"{super().route_to(node)} proto bird"

    def pod(self, pod: PodPlan) -> tuple[Space, Interface]:
        node = next((node for node in self.nodes if node.name == pod.node), None)
        if node is None:
            raise TopologyError(f"there is no node {pod.node}", place=f"Pod {pod.space}")
        if pod.address not in node.pod_network:
            raise TopologyError(
                f"{pod.address} is not an address for pods of {node.name}",
                place=f"Pod {pod.space}",
                mend=f"take one of {node.pod_network}",
            )
        leg = Interface(
            UPLINK,
            "veth",
            mac=own_mac(pod.address),
            addresses=(f"{pod.address}/32",),
            peer=f"{pod.node}/{pod.host_interface}",
        )
        space = Space(
            pod.space,
            "pod",
            pod.node,
            interfaces=(LOOPBACK_INTERFACE, leg),
            routes=(f"default via {CALICO_GATEWAY} dev {UPLINK}", f"{CALICO_GATEWAY} dev {UPLINK} scope link"),
            sysctls={"net.ipv4.ip_forward": "0"},
        )
        port = Interface(
            pod.host_interface,
            "veth",
            mac=CALICO_MAC,
            peer=f"{pod.space}/{UPLINK}",
            sysctls={"rp_filter": 1, "proxy_arp": 1, "route_localnet": 1},
        )
        return space, port

    def pod_routes(self, pod: PodPlan) -> tuple[str, ...]:
        return (f"{pod.address} dev {pod.host_interface} scope link",)

    def rules(self, node: NodePlan, pods: IPv4Network) -> str:
        return masquerade.calico(pods)


WIRINGS: dict[str, type[HostGateway]] = {
    "host-gw": HostGateway,
    "host-gw-no-brnf": BridgeWithoutNetfilter,
    "vxlan": FlannelVxlan,
    "point-to-point": PointToPoint,
}


def wiring_named(name: str) -> type[HostGateway]:
    """A wiring by its name.

    Raises:
        TopologyError: There is none of that name.
    """
    if name not in WIRINGS:
        raise TopologyError(f"there is no wiring {name!r}", mend=f"one of {', '.join(WIRINGS)}")
    return WIRINGS[name]
