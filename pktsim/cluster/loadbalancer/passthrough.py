"""A balancer that hands packets to nodes as they are: destination kept, answers go straight back from the node.

What GCE's passthrough balancer, Maglev and Katran do: a program beneath the kernel takes each packet for the address,
picks a node by a hash of the flow, remembers the choice, and gives the packet the node's MAC. Nothing else changes,
not even the TTL. kube-proxy's rules translate the address on the node; for what they do not know the node has a local
route, so that it refuses packets instead of sending them back to the router.
"""

from __future__ import annotations

import hashlib

from pktsim.clock import NS_PER_S
from pktsim.errors import FrameError
from pktsim.fidelity import approximated
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire.frame import ETH_P_IP, FrameView

from ..machines import NodeMachine
from ..objects_balancer import LoadBalancerSpec
from .probing import ProbingBalancer
from .surroundings import UPLINK, Surroundings, Target

approximated(
    "cluster.loadbalancer.passthrough",
    "the hash that picks a node is our own, keyed by the seed; a flow is remembered for 600 s; nodes' MACs are known "
    "without ARP, as in a provider's fabric; pieces of a fragmented packet are picked by addresses alone",
    source="Eisenbud et al., Maglev (NSDI 2016); GCE: connection tracking of passthrough load balancers",
)

#: How long a flow without packets stays with its node.
FLOW_IDLE_NS = 600 * NS_PER_S
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_Flow = tuple[bytes, bytes, int, int, int]


class Passthrough(ProbingBalancer):
    """See the module."""

    def __init__(self, name: str, spec: LoadBalancerSpec, world: Surroundings) -> None:
        super().__init__(name, spec, world, own_addresses=False)
        self._secret = world.chance.below(f"{name}/flow.secret", 1 << 32).to_bytes(4, "big")
        self._table: dict[tuple[bytes, int, int], tuple[Target, ...]] = {}
        self._known: dict[bytes, tuple[Target, ...]] = {}
        self._flows: dict[_Flow, tuple[str, int]] = {}
        self._macs: dict[str, bytes] = {}
        self._accepted: dict[NodeMachine, frozenset[str]] = {}
        self.machine.netns.ingress_programs.append(self._take)

    def apply(self) -> None:
        self._table, self._known = {}, {}
        for service in self.services:
            targets = self.healthy(service)
            self._known.setdefault(service.address.packed, targets)
            for port in service.service.spec.ports:
                self._table[service.address.packed, _PROTOCOLS[port.protocol], port.port] = targets
        known = {target.name for service in self.services for target in service.targets}
        self._flows = {flow: place for flow, place in self._flows.items() if place[0] in known}
        for name, machine in self._world.powered().items():
            self._macs[name] = machine.netns.devices.named(UPLINK).mac
            self._accept(machine)

    def _accept(self, node: NodeMachine) -> None:
        """Have a node take packets for the addresses as its own: what GCE's guest agent does."""
        wanted = {f"local {address} dev {UPLINK}" for address in {service.address for service in self.services}}
        have = self._accepted.get(node, frozenset())
        for route in sorted(have - wanted):
            node.netns.route_delete(f"{route} table local")
        for route in sorted(wanted - have):
            node.netns.route_add(f"{route} table local")
        self._accepted[node] = frozenset(wanted)

    def node_for(self, flow: _Flow, targets: tuple[Target, ...]) -> str:
        """The node that a new flow goes to: highest random weight, so that a lost node moves only its own flows."""
        source, target, protocol, sport, dport = flow
        text = b"%b%b%d %d %d" % (source, target, protocol, sport, dport)

        def weight(one: Target) -> bytes:
            return hashlib.blake2s(text + one.name.encode(), key=self._secret, digest_size=8).digest()

        return max(targets, key=weight).name

    def _take(self, ifindex: int, frame: bytes) -> bool:
        """A frame comes in. Returns whether it is none of the kernel's business."""
        netns = self.machine.netns
        device = netns.devices.named(UPLINK)
        if ifindex != device.ifindex or frame[:6] != device.mac:
            return False
        try:
            view = FrameView(frame)
        except FrameError:
            return False
        if view.ethertype != ETH_P_IP or view.daddr not in self._known:
            return False
        if netns.capture is not None:
            netns.capture.record(netns, ifindex, "in", frame, 0)
        ports = (view.sport, view.dport) if view.has_ports and not view.is_fragment else (0, 0)
        flow = (view.saddr, view.daddr, view.protocol, *ports)
        # What is no Service's (a ping, another port) goes where the address's first Service is; nodes will refuse it.
        targets = self._table.get((view.daddr, view.protocol, ports[1]), self._known[view.daddr])
        now_ns = netns.clock.now_ns
        name, seen_ns = self._flows.get(flow, ("", 0))
        if not name or now_ns - seen_ns > FLOW_IDLE_NS:
            if not targets:
                netns.packet_dropped(0, DropReason.XDP, ifindex)
                return True
            name = self.node_for(flow, targets)
        self._flows[flow] = (name, now_ns)
        mac = self._macs.get(name)
        if mac is None:
            netns.packet_dropped(0, DropReason.XDP, ifindex)
        else:
            netns.transmit(ifindex, mac + device.mac + frame[12:])
        return True
