"""A namespace with everything in it, and what must hold whatever arrives.

Two like worlds are fed the same frames, one with its trace on: they must do the same.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from pktsim._fastpath import Packet
from pktsim.clock import NS_PER_S, Clock
from pktsim.errors import PktsimError
from pktsim.kernel.netdev import AF_INET6, NetDevice
from pktsim.kernel.netns import Netns
from pktsim.kernel.task import Task
from pktsim.kernel.udp import UdpSocket
from pktsim.netfilter.ipset_text import restore_sets
from pktsim.netfilter.opcodes import CtStatus, DropReason, Event, LinkKind, Upcall
from pktsim.rng import SeededChoices
from pktsim.wire.addr import mac_to_text
from pktsim.wire.frame import IPPROTO_TCP, FrameView, TcpFlag
from pktsim.wire.summary import summary
from tests.fuzz import processes
from tests.fuzz.changes import CHANGES, PORTS, RULESETS, SETTINGS
from tests.fuzz.frames import BRIDGE_MAC, MACS, NODE_MAC, TUNNEL_MAC, FrameSource
from tests.fuzz.rules import IPSETS, Rules, draw

#: How far time goes on at once.
JUMPS_NS = (1_000, NS_PER_S // 10, 3 * NS_PER_S)


def _really_bad(view: FrameView) -> tuple[str, ...]:
    """Wrong checksums, but for one: an ICMP message of zeros alone.

    Its checksum is 0xFFFF. RFC 1624's update, which Linux uses when it maps an id to 0, makes 0 of it.
    """
    bad = view.bad_checksums()
    if bad == ("icmp",) and not any(view.frame[view.transport : view.end]):
        return ()
    return bad


class Space(Netns):
    """A namespace that looks at each event before it is worked off, and keeps what leaves it."""

    def __init__(self, name: str, clock: Clock, seed: int) -> None:
        self.out: list[tuple[str, bytes]] = []
        self.log: list[tuple[Any, ...]] = []
        self.check: bool = False
        self.writes: bool = True  # whether rules may leave wrong checksums
        self.from_nobody: set[tuple[int, int]] = set()
        self.udp_sockets: list[UdpSocket] = []
        self.tasks: list[Task[None]] = []
        super().__init__(name, clock=clock, choices=SeededChoices(seed))
        self.told_of: Counter[int] = Counter()
        self.drop_listener = lambda _number, reason, _ifindex: self.told_of.update([reason])

    def send_ip(self, packet: bytes, **how: Any) -> None:
        """Note a reset that was summed up as from 0.0.0.0, which is what was asked, and is from another address."""
        view = FrameView(packet, link=False)
        if view.bad_checksums() == ("tcp",):
            self.from_nobody |= self._resets(view)
        super().send_ip(packet, **how)

    @staticmethod
    def _resets(view: FrameView) -> set[tuple[int, int]]:
        """What a reset is known by whatever is rewritten on its way; nothing for others."""
        reset = view.protocol == IPPROTO_TCP and view.transport >= 0 and view.tcp_flags & TcpFlag.RST
        return {(view.tcp_seq, view.tcp_ack)} if reset else set()

    def process(self, events: Any) -> None:
        """Check, then let the namespace do its part."""
        for event in events:
            kind, pkt_id, what, *rest = event
            if kind == Event.UPCALL:
                packet: Packet | None = rest[0]  # NEIGHBOUR_USED has none: it is gone already
                content = (packet.data, packet.frame) if packet is not None else ()
                self.log.append((kind, pkt_id, Upcall(what), *content, *rest[1:]))
            else:
                self.log.append(event)
            if kind == Event.TX:
                frame = rest[0]
                assert isinstance(frame, bytes)
                assert len(frame) >= 14, "a frame without a whole Ethernet header was sent"
                if self.check:
                    bad = () if self._resets(FrameView(frame)) & self.from_nobody else _really_bad(FrameView(frame))
                    assert not bad, f"sent with bad {bad} checksum: {summary(frame)} {frame.hex()}"
            elif kind == Event.DROP:
                DropReason(what)
            super().process((event,))

    def plug(self, device: NetDevice) -> None:
        """Gather what a device sends."""
        device.carry = lambda frame: self.out.append((device.name, frame))


def make_space(rng: random.Random, rules: Rules, *, trace: bool) -> Space:
    """A node: uplinks, a bridge with pods, a tunnel, servers, rules; some settings are drawn."""
    space = Space("node", Clock(start_ns=NS_PER_S), rng.randrange(1 << 30))
    with space.batch():
        _connect(space, rng)
    for setting in rng.sample(list(SETTINGS), len(SETTINGS) // 2):
        space.sysctl_set(setting, rng.choice(SETTINGS[setting]))
    processes.start(space)
    restore_sets(space.datapath.context.sets, IPSETS, now_ns=space.clock.now_ns)
    for ruleset in rules.rulesets:
        space.load_ruleset(ruleset)
    if rules.nft:
        space.nft(rules.nft)
    space.datapath.capture = True
    space.datapath.trace_set(trace)
    return space


def _connect(space: Space, rng: random.Random) -> None:
    space.link_add("eth0", mac=mac_to_text(NODE_MAC))
    space.link_add("eth1", mac=mac_to_text(NODE_MAC), mtu=rng.choice((1500, 1280, 576)))
    space.link_add("cni0", LinkKind.BRIDGE, mac=mac_to_text(BRIDGE_MAC))
    for number in range(3):
        space.link_add(f"pod{number}", mac=f"02:00:00:00:02:{number:02x}", master="cni0", hairpin=rng.random() < 0.5)
    space.vxlan.add("flannel.1", vni=1, local="192.168.0.11", link="eth0", learning=False, mac=mac_to_text(TUNNEL_MAC))
    space.vxlan.fdb_add("flannel.1", mac_to_text(MACS[4]), "192.168.0.12")
    for name, addresses in {
        "eth0": ("192.168.0.11/24", "fd00:192:168::11/64"),
        "eth1": ("198.51.100.1/24",),
        "cni0": ("10.1.1.254/24", "fd00:10:1:1::fe/64"),
        "flannel.1": ("10.1.1.0/32",),
    }.items():
        for address in addresses:
            space.address_add(name, address)
    for name in PORTS:
        space.plug(space.devices.named(name))
    for setting in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        space.sysctl_set(setting, 1)
    space.route_add("default via 192.168.0.1")
    space.route_add(
        rng.choice(
            (
                "10.1.2.0/24 via 192.168.0.12",
                "10.1.2.0/24 via 10.1.2.0 dev flannel.1 onlink",
                "10.1.2.0/24 nexthop via 192.168.0.12 nexthop via 203.0.113.9 dev eth1 onlink",
            )
        )
    )
    space.route_add("203.0.113.0/24 dev eth1")
    space.route_add("fd00:10:1:2::/64 via fd00:192:168::12")
    if rng.random() < 0.5:
        space.route_add("default via 203.0.113.9 dev eth1 onlink table 100")
        space.rule_add("fwmark 0x10/0x10 lookup 100 priority 101")
        space.route_add("default via fd00:192:168::12 table 100")
        space.rule_add("fwmark 0x10/0x10 lookup 100 priority 100", AF_INET6)
    for address, mac, name in (
        ("192.168.0.1", MACS[4], "eth0"),
        ("192.168.0.12", MACS[5], "eth0"),
        ("10.1.1.1", MACS[6], "cni0"),
        ("10.1.1.2", MACS[7], "cni0"),
        ("10.1.2.0", MACS[4], "flannel.1"),
        ("203.0.113.9", MACS[8], "eth1"),
        ("fd00:192:168::12", MACS[5], "eth0"),
        ("fd00:10:1:1::1", MACS[6], "cni0"),
        ("fd00:10:1:1::2", MACS[7], "cni0"),
    ):
        if rng.random() < 0.8:
            space.neighbour_add(name, address, mac_to_text(mac))


def _zone(entry: Any, way: str) -> int:
    return int(entry["zone"] if entry["zone_dir"] & (1 if way == "orig" else 2) else 0)


def check_conntrack(space: Space) -> int:
    """No two live flows share a tuple in one zone, but for clashes that were resolved; returns how many there are.

    A zone may count in one direction only: then the tuples are told apart if they are in either.
    """
    entries = space.datapath.conntrack_list(space.clock.now_ns)
    tuples: dict[Any, list[tuple[Any, str]]] = {}
    for entry in entries:
        if entry["status"] & CtStatus.NAT_CLASH:
            continue
        for way in ("orig", "reply"):
            one = entry["family"], entry["proto"], repr(entry[way])
            for other, other_way in tuples.setdefault(one, []):
                # A packet from an address and port to itself is its own reply.
                apart = any(_zone(entry, each) != _zone(other, each) for each in (way, other_way))
                assert other is entry or apart, f"two flows share {one}"
            tuples[one].append((entry, way))
    return len(entries)


class Run:
    """Two like worlds, one of them traced, fed alike.

    Args:
        rng: Draws the worlds and the frames.
        valid: Only valid frames, and no rule that spoils one: then nothing may leave with a bad checksum.
        rules: Instead of those that are drawn.
    """

    def __init__(self, rng: random.Random, *, valid: bool, rules: Rules | None = None) -> None:
        self.rng = rng
        self.source = FrameSource(rng, valid=valid)
        self.valid = valid
        seed = rng.randrange(1 << 30)
        if rules is None:
            rules = draw(rng.randrange(RULESETS), writes=not valid)
        self.plain, self.traced = (make_space(random.Random(seed), rules, trace=trace) for trace in (False, True))
        self.plain.check = valid
        self.plain.writes = self.traced.writes = not valid
        self.frames = 0
        self.sent = 0

    def step(self) -> None:
        """One frame in, or some time passes, or somebody does something."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.05:
            until_ns = self.plain.clock.now_ns + rng.choice(
                (*JUMPS_NS, 200 * NS_PER_S) if rng.random() < 0.3 else JUMPS_NS
            )
            for space in (self.plain, self.traced):
                space.clock.run_until(until_ns)
        elif kind < 0.14:
            self._change()
        elif kind < 0.22:
            packet = self.source.local()
            mark, uid = rng.choice((0, 0, 1, 0x10)), rng.choice((0, 5, 1000))
            errors = {space.local_out(packet, mark=mark, uid=uid) for space in (self.plain, self.traced)}
            assert len(errors) == 1
        else:
            name, frame = self.source.next()
            for space in (self.plain, self.traced):
                if name in space.devices:
                    space.receive(space.devices.named(name).ifindex, frame)
            self.frames += 1
        records, auxiliary = self.traced.datapath.take_trace()
        assert len(records) % 24 == 0
        assert isinstance(auxiliary, bytes)
        assert self.plain.log == self.traced.log, "trace on is not trace off"
        for name, frame in self.plain.out:
            self.sent += 1
            self.source.saw(name, frame)
        for space in (self.plain, self.traced):
            space.out.clear()
            space.log.clear()

    def _change(self) -> None:
        change, seed = self.rng.choice(CHANGES), self.rng.randrange(1 << 30)
        refusals = []
        for space in (self.plain, self.traced):
            try:
                change(space, random.Random(seed))
                refusals.append("")
            except (PktsimError, OSError, ValueError) as error:
                # what is refused is refused in both: a route that is there already, an address without a way to it
                refusals.append(f"{type(error).__name__}: {error}")
        assert refusals[0] == refusals[1], f"{change.__name__}: {refusals}"

    def finish(self) -> int:
        """What must hold at the end; returns how many flows are live."""
        flows = [check_conntrack(space) for space in (self.plain, self.traced)]
        assert flows[0] == flows[1]
        for space in (self.plain, self.traced):
            processes.stop(space)
            told, counted = space.told_of, space.datapath.drop_counts()
            assert told == counted, f"the listener has heard of {told}, not of {counted}"
        return flows[0]
