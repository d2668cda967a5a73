"""A world of namespaces: what is plugged into what, on one clock, with one source of chance and one capture.

Frames sent onto a wire are received at the other end after the wire's delay, equal times in the order of sending:
what the backlog of one CPU does with veth pairs. Impairments (:mod:`pktsim.kernel.netem`) wrap a wire and are drawn
from the world's chance; the namespaces at its ends do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, TypeAlias

from pktsim.clock import NS_PER_S, NS_PER_US, Clock
from pktsim.errors import TopologyError
from pktsim.fidelity import approximated
from pktsim.kernel.capture import Capture
from pktsim.kernel.explain import Explainer
from pktsim.kernel.netdev import NetDevice
from pktsim.kernel.netem import Netem, NetemQueue
from pktsim.kernel.netns import Netns
from pktsim.kernel.timer_wheel import TimerWheel
from pktsim.netfilter.opcodes import DropReason, LinkKind
from pktsim.rng import Choices, SeededChoices
from pktsim.wire.addr import mac_to_text

approximated(
    "kernel.wire.delay",
    "a frame takes 1 us on a wire unless told otherwise, and frames sent at the same time arrive in the order "
    "of sending; veth has no delay, only the CPU's backlog",
    source="drivers/net/veth.c, net/core/dev.c process_backlog",
)

#: Seen from a device: what it sends, what it gets.
LinkDirection: TypeAlias = Literal["out", "in", "both"]

#: How long a frame is on a wire unless said otherwise.
WIRE_DELAY_NS: Final = 1 * NS_PER_US


@dataclass(frozen=True, slots=True)
class Impairment:
    """What is wrong with one direction of a wire, for all frames or for those of one pair of stations.

    Attributes:
        peer: The MAC address of the station at the far end that it is about; empty: all.
    """

    queue: NetemQueue
    peer: bytes = b""


@dataclass(slots=True, eq=False)
class Wire:
    """What joins two devices.

    Attributes:
        ends: (namespace, device) at each end.
        delay_ns: How long a frame takes.
        impairments: By direction, the index of the sending end; the first that is about a frame is the one that counts.
        cut: Nothing passes: unplugged.
    """

    ends: tuple[tuple[Netns, NetDevice], tuple[Netns, NetDevice]]
    delay_ns: int = WIRE_DELAY_NS
    impairments: tuple[list[Impairment], list[Impairment]] = field(default_factory=lambda: ([], []))
    cut: bool = False


class Network:
    """Namespaces and wires.

    Args:
        clock: Time; starts at 0 if not given.
        choices: Chance; seed 0 if not given.
        capture: Where frames are recorded.
    """

    def __init__(
        self, clock: Clock | None = None, choices: Choices | None = None, capture: Capture | None = None
    ) -> None:
        self.clock = Clock() if clock is None else clock
        self.choices: Choices = SeededChoices() if choices is None else choices
        self.capture = Capture() if capture is None else capture
        self.wheel = TimerWheel(self.clock)
        self.spaces: dict[str, Netns] = {}
        self.wires: list[Wire] = []
        self.explainer: Explainer | None = None

    def explain(self) -> Explainer:
        """Keep what every namespace does to every packet, and let captures say it; see :mod:`pktsim.kernel.explain`."""
        if self.explainer is None:
            self.explainer = Explainer()
            for space in self.spaces.values():
                self.explainer.attach(space)
            self.capture.listeners.append(self.explainer.seen)
            self.capture.commenter = self.explainer.comments
        return self.explainer

    def __getitem__(self, name: str) -> Netns:
        """The namespace called ``name``.

        Raises:
            TopologyError: There is none.
        """
        space = self.spaces.get(name)
        if space is None:
            raise TopologyError(f"there is no namespace {name!r}", mend="namespaces: " + ", ".join(self.spaces))
        return space

    # ------------------------------------------------------------------------------------------------------- namespaces

    def add_space(self, name: str, *, sysctls: Mapping[str, str | int] | None = None) -> Netns:
        """Make a namespace with a loopback device.

        Args:
            name: Unique.
            sysctls: Whole-namespace settings, ``all`` and ``default`` ones.
        """
        if not name or name in self.spaces:
            raise TopologyError(f"there is a namespace {name!r} already" if name else "a namespace needs a name")
        space = Netns(name, clock=self.clock, choices=self.choices, wheel=self.wheel, capture=self.capture)
        for key, value in (sysctls or {}).items():
            space.sysctl_set(key, value)
        self.spaces[name] = space
        if self.explainer is not None:
            self.explainer.attach(space)
        return space

    def delete_space(self, name: str) -> None:
        """Remove a namespace; both ends of its wires go."""
        space = self[name]
        for device in list(space.devices):
            if not device.loopback:
                self.delete_link(space, device.name)
        del self.spaces[name]

    # ------------------------------------------------------------------------------------------------------------ links

    def add_veth(
        self,
        a: Netns | str,
        name_a: str,
        b: Netns | str,
        name_b: str,
        *,
        mac_a: str = "",
        mac_b: str = "",
        mtu: int = 0,
        delay_ns: int = WIRE_DELAY_NS,
    ) -> Wire:
        """``ip link add NAME_A netns A type veth peer name NAME_B netns B``."""
        space_a, space_b = self._space(a), self._space(b)
        space_a.link_add(name_a, mac=mac_a, mtu=mtu)
        try:
            space_b.link_add(name_b, mac=mac_b, mtu=mtu)
        except TopologyError:
            space_a.link_delete(name_a)
            raise
        return self.connect(space_a, name_a, space_b, name_b, delay_ns=delay_ns)

    def add_bridge(self, space: Netns | str, name: str, *, mac: str = "", mtu: int = 0) -> NetDevice:
        """``ip link add NAME type bridge``; without a MAC it takes the lowest of its ports'."""
        return self._space(space).link_add(name, LinkKind.BRIDGE, mac=mac, mtu=mtu)

    def connect(
        self, a: Netns | str, name_a: str, b: Netns | str, name_b: str, *, delay_ns: int = WIRE_DELAY_NS
    ) -> Wire:
        """Plug a wire into two devices that exist already and have none.

        For worlds whose devices must be made in an order of their own, since interface numbers follow it.
        """
        ends = (self._end(a, name_a), self._end(b, name_b))
        if ends[0] == ends[1]:
            raise TopologyError(f"{ends[0][0].name}/{name_a} cannot be connected to itself")
        wire = Wire(ends, delay_ns)
        for index, (_, device) in enumerate(ends):
            device.carry = self._carrier(wire, index)
        self.wires.append(wire)
        return wire

    def unplug(self, space: Netns | str, name: str) -> Wire | None:
        """Pull the cable out of a device, at both ends: frames on it are lost. Returns the wire, if there was one."""
        wire = self.wire(space, name)
        if wire is not None:
            wire.cut = True
            self.wires.remove(wire)
            for _, device in wire.ends:
                device.carry = None
        return wire

    def delete_link(self, space: Netns | str, name: str) -> None:
        """``ip link delete``: with a veth goes its other end."""
        owner = self._space(space)
        device = owner.devices.named(name)
        wire = self.wire(owner, name)
        if wire is not None:
            wire.cut = True
            self.wires.remove(wire)
            for end_space, end_device in wire.ends:
                if end_device is not device:
                    end_device.carry = None
                    end_space.link_delete(end_device.name)
        owner.link_delete(name)

    def wire(self, space: Netns | str, name: str) -> Wire | None:
        """The wire plugged into a device."""
        end = (self._space(space), self._space(space).devices.named(name))
        return next((wire for wire in self.wires if end in wire.ends), None)

    def peer(self, space: Netns | str, name: str) -> tuple[Netns, NetDevice] | None:
        """What is at the other end of a device's wire."""
        wire = self.wire(space, name)
        if wire is None:
            return None
        owner = self._space(space)
        return wire.ends[1] if wire.ends[0] == (owner, owner.devices.named(name)) else wire.ends[0]

    def impair(
        self,
        space: Netns | str,
        name: str,
        netem: Netem,
        *,
        direction: LinkDirection = "out",
        peer: bytes = b"",
    ) -> None:
        """Make what a device sends (``out``), what it gets (``in``), or both suffer on its wire, as ``netem`` says.

        What was said before for the same direction and peer is no longer so.

        Args:
            peer: Only frames to, or from, this MAC address; these are not hit by what is said for all frames.

        Raises:
            TopologyError: The device has no wire, or the settings make no sense.
        """
        netem.check()
        wire, end = self._wire_end(space, name)
        ends = {"out": (end,), "in": (1 - end,), "both": (end, 1 - end)}.get(direction)
        if ends is None:
            raise TopologyError(f"{direction!r} is no direction of a link", mend="out, in or both")
        for index in ends:
            kept = [entry for entry in wire.impairments[index] if entry.peer != peer]
            if not netem.harmless or peer:
                from_space, from_device = wire.ends[index]
                place = f"{from_space.name}/{from_device.name}/netem" + (f"/{mac_to_text(peer)}" if peer else "")
                kept.append(Impairment(NetemQueue(netem, self.choices, place), peer))
            # What is about one station goes before what is about all.
            wire.impairments[index][:] = sorted(kept, key=lambda entry: not entry.peer)

    def set_carrier(self, space: Netns | str, name: str, *, up: bool) -> None:
        """Unplug a device's wire, or plug it in again: both ends see that.

        Raises:
            TopologyError: The device has no wire.
        """
        wire, _ = self._wire_end(space, name)
        if wire.cut == up:
            wire.cut = not up
            for end_space, end_device in wire.ends:
                end_space.carrier_changed(end_device.name, up=up)

    def _wire_end(self, space: Netns | str, name: str) -> tuple[Wire, int]:
        owner = self._space(space)
        wire = self.wire(owner, name)
        if wire is None:
            raise TopologyError(f"{owner.name}/{name} has no wire")
        return wire, wire.ends.index((owner, owner.devices.named(name)))

    def _space(self, space: Netns | str) -> Netns:
        return self[space] if isinstance(space, str) else space

    def _end(self, space: Netns | str, name: str) -> tuple[Netns, NetDevice]:
        owner = self._space(space)
        device = owner.devices.named(name)
        if device.kind != LinkKind.WIRE:
            raise TopologyError(f"{owner.name}/{name} takes no wire: it is a {device.kind.name.lower()}")
        if device.carry is not None:
            raise TopologyError(f"{owner.name}/{name} has a wire already")
        return owner, device

    def _carrier(self, wire: Wire, index: int) -> Callable[[bytes], None]:
        """What takes the frames that one end sends."""
        space, device = wire.ends[index]
        far_space, far_device = wire.ends[1 - index]
        clock = self.clock

        def arrive(frame: bytes, number: int) -> None:
            if wire.cut:
                space.packet_dropped(number, DropReason.NO_CARRIER, device.ifindex)
            else:
                far_space.receive(far_device.ifindex, frame)

        impairments = wire.impairments[index]

        def carry(frame: bytes) -> None:
            number = space.leaving
            if not impairments:
                clock.after(wire.delay_ns, lambda: arrive(frame, number))
                return
            for entry in impairments:
                if not entry.peer or entry.peer in (frame[:6], frame[6:12]):
                    went = entry.queue.put(frame, clock.now_ns)
                    for changed, delay_ns in went:
                        clock.after(delay_ns + wire.delay_ns, partial(arrive, changed, number))
                    if not went:
                        detail = f"netem {entry.queue.settings}"
                        space.packet_dropped(number, DropReason.QDISC_DROP, device.ifindex, detail)
                    return
            clock.after(wire.delay_ns, lambda: arrive(frame, number))

        return carry

    # ------------------------------------------------------------------------------------------------------------- time

    def run(self, *, seconds: float = 0, until_ns: int | None = None) -> None:
        """Let time pass: for ``seconds``, or until ``until_ns``."""
        self.clock.run_until(self.clock.now_ns + round(seconds * NS_PER_S) if until_ns is None else until_ns)

    def settle(self, limit_s: float = 1.0) -> None:
        """Run until no event is due within the next millisecond, but not longer than ``limit_s``."""
        end_ns = self.clock.now_ns + round(limit_s * NS_PER_S)
        while (due := self.clock.next_at_ns()) is not None and due <= min(end_ns, self.clock.now_ns + 1_000_000):
            self.clock.step()
