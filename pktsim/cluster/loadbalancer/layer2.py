"""One node answers ARP for an address: what MetalLB's speakers do in layer 2 mode.

The kernel does not know the address; a process with a packet socket answers for it with the MAC of ``eth0``. Who it is
follows from names alone: of the nodes that may, the one whose hash comes first. A new owner tells the segment by
gratuitous ARP, at once and every 1.1 s for 5 s, as request and as reply.

Source: MetalLB speaker/layer2_controller.go (election), internal/layer2/announcer.go and arp.go (what is sent).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from ipaddress import IPv4Address

from pktsim.clock import NS_PER_MS, NS_PER_S, Timer
from pktsim.fidelity import approximated
from pktsim.kernel.arp import ARPOP_REPLY, ARPOP_REQUEST, ArpPacket, frame
from pktsim.kernel.netns import Netns
from pktsim.kernel.task import WAKE_NS
from pktsim.wire.addr import MAC_BROADCAST
from pktsim.wire.frame import ETH_P_ARP

from .surroundings import UPLINK, Surroundings, Target, VirtualService

approximated(
    "cluster.loadbalancer.l2",
    "speakers do not talk to each other: all know at once who is alive, and of a lost node after a fixed time "
    "(LoadBalancer.spec.detection)",
    source="MetalLB internal/speakerlist (memberlist)",
)

GRATUITOUS_PERIOD_NS = 1100 * NS_PER_MS
GRATUITOUS_FOR_NS = 5 * NS_PER_S
_ETHERNET_BYTES = 14


def election(address: IPv4Address, names: Sequence[str]) -> list[str]:
    """Nodes in the order in which they speak for an address."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{name}#{address}".encode()).digest())


class Speaker:
    """The process on one node."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._addresses: dict[bytes, Timer | None] = {}
        netns.ingress_programs.append(self._heard)

    def announce(self, address: IPv4Address) -> None:
        """Answer for an address from now on, and say so."""
        self._addresses[address.packed] = None
        self._spam(address.packed, self._netns.clock.now_ns + GRATUITOUS_FOR_NS)

    def withdraw(self, address: IPv4Address) -> None:
        """Answer no more."""
        timer = self._addresses.pop(address.packed, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """End the process."""
        for address in list(self._addresses):
            self.withdraw(IPv4Address(address))
        self._netns.ingress_programs.remove(self._heard)

    def _spam(self, address: bytes, until_ns: int) -> None:
        clock = self._netns.clock
        if clock.now_ns > until_ns:
            self._addresses[address] = None
            return
        device = self._netns.devices.named(UPLINK)
        for operation in (ARPOP_REQUEST, ARPOP_REPLY):
            packet = ArpPacket(operation, device.mac, address, MAC_BROADCAST, address)
            self._netns.transmit(device.ifindex, frame(MAC_BROADCAST, device.mac, packet))
        self._addresses[address] = clock.after(GRATUITOUS_PERIOD_NS, lambda: self._spam(address, until_ns))

    def _heard(self, ifindex: int, data: bytes) -> bool:
        """A packet socket's copy of a frame: nothing is taken away from the kernel."""
        device = self._netns.devices.named(UPLINK)
        if ifindex == device.ifindex and int.from_bytes(data[12:14], "big") == ETH_P_ARP:
            request = ArpPacket.unpack(data[_ETHERNET_BYTES:])
            to_us = data[:6] in (MAC_BROADCAST, device.mac)
            if request is None or request.operation != ARPOP_REQUEST or not to_us:
                return False
            # what another speaker says of the address unasked is no question
            if request.sip != request.tip and request.tip in self._addresses:
                self._netns.clock.after(WAKE_NS, lambda: self._answer(request))
        return False

    def _answer(self, request: ArpPacket) -> None:
        if request.tip not in self._addresses:
            return
        device = self._netns.devices.named(UPLINK)
        answer = ArpPacket(ARPOP_REPLY, device.mac, request.tip, request.sha, request.sip)
        self._netns.transmit(device.ifindex, frame(request.sha, device.mac, answer))


class Layer2:
    """All speakers.

    Args:
        world: The cluster.
        detection_s: Seconds until a lost node is noticed.
    """

    def __init__(self, world: Surroundings, detection_s: float) -> None:
        self._world = world
        self._detection_ns = round(detection_s * NS_PER_S)
        self._services: tuple[VirtualService, ...] = ()
        self._speakers: dict[str, Speaker] = {}
        self._owners: dict[IPv4Address, str] = {}
        self._lost: set[str] = set()
        self._routes: set[IPv4Address] = set()

    def owner(self, address: IPv4Address) -> str:
        """The node that speaks for an address; empty if nobody does."""
        return self._owners.get(address, "")

    def update(self, services: Sequence[VirtualService]) -> None:
        self._services = tuple(services)
        powered = self._world.powered()
        for name in sorted(self._speakers.keys() - powered.keys()):
            self._speakers.pop(name).stop()
        for name, machine in powered.items():
            if name not in self._speakers:
                self._speakers[name] = Speaker(machine.netns)
        self._elect()

    def node_lost(self, name: str) -> None:
        speaker = self._speakers.pop(name, None)
        if speaker is not None:
            speaker.stop()

        def noticed() -> None:
            if name not in self._world.powered():
                self._lost.add(name)
                self._elect()

        self._world.clock.after(self._detection_ns, noticed)

    def node_back(self, name: str) -> None:
        self._lost.discard(name)
        self._owners = {address: owner for address, owner in self._owners.items() if owner != name}
        self.update(self._services)

    def _elect(self) -> None:
        candidates: dict[IPv4Address, dict[str, Target]] = {}
        for service in self._services:
            of_it = candidates.setdefault(service.address, {})
            of_it.update({target.name: target for target in service.announcers if target.name not in self._lost})
        self._route(set(candidates))
        for address in sorted(self._owners.keys() | candidates.keys()):
            order = election(address, list(candidates.get(address, ())))
            old, new = self._owners.get(address, ""), order[0] if order else ""
            if old == new:
                continue
            if old in self._speakers:
                self._speakers[old].withdraw(address)
            if new:
                self._owners[address] = new
                if new in self._speakers:
                    self._speakers[new].announce(address)
            else:
                del self._owners[address]

    def _route(self, wanted: set[IPv4Address]) -> None:
        """The router looks for the addresses on the nodes' wire, as its operator must have told it."""
        netns = self._world.router.netns
        wanted = {address for address in wanted if not self._world.on_the_nodes_wire(address)}
        for address in sorted(self._routes - wanted):
            netns.route_delete(f"{address} dev {UPLINK}")
        for address in sorted(wanted - self._routes):
            netns.route_add(f"{address} dev {UPLINK}")
        self._routes = wanted
