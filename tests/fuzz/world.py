"""A namespace with everything in it, and what must hold whatever arrives.

Two like worlds are fed the same frames, one with its trace on: they must do the same.
"""

from __future__ import annotations

import contextlib
import functools
import random
from typing import Any

from pktsim._fastpath import Packet
from pktsim.clock import NS_PER_S, Clock
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.neighbour import Neighbour
from pktsim.kernel.netdev import NetDevice
from pktsim.kernel.netns import Netns
from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.opcodes import CtStatus, DropReason, Event, Hook, LinkKind, Step, Upcall
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.rng import SeededChoices
from pktsim.wire.addr import mac_to_text
from pktsim.wire.frame import FrameView
from pktsim.wire.summary import summary
from tests.fuzz.frames import BRIDGE_MAC, MACS, NODE_MAC, TUNNEL_MAC, FrameSource

#: What a cluster's node has, and a rule for each way in which the engine can be led astray.
RULES4 = """
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -d 169.254.20.10/32 -p udp -m udp --dport 53 -j CT --notrack
-A PREROUTING -p udp -m udp --dport 8472 -j CT --notrack
-A PREROUTING -m statistic --mode nth --every 7 --packet 3
-A OUTPUT -s 169.254.20.10/32 -j CT --notrack
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -m connmark ! --mark 0x0/0xff -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
-A PREROUTING -s 203.0.113.9/32 -j MARK --set-xmark 0x1/0xff
-A PREROUTING -m mark --mark 0x1/0xff -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -m length --length 0:60
-A POSTROUTING -m addrtype --dst-type LOCAL,BROADCAST,MULTICAST
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-WEB - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -d 172.30.0.2/32 -p tcp -j DNAT --to-destination 10.1.1.1-10.1.1.2:8000-8010
-A PREROUTING -d 198.51.100.7/32 -j DNAT --to-destination 10.1.2.1 --random
-A PREROUTING -d 192.168.0.11/32 -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 8443
-A PREROUTING -d 10.1.2.0/30 -p icmp -j NETMAP --to 10.1.1.0/30
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -s 10.1.1.2/32 -p udp -j SNAT --to-source 192.168.0.11:2000-2003
-A POSTROUTING -s 10.1.1.0/24 ! -d 10.0.0.0/8 -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-SVC-WEB
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SEP-A -s 10.1.1.1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.1.1.1:8080
-A KUBE-SEP-B -s 10.1.2.1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 10.1.2.1:8080
-A KUBE-SERVICES -d 172.30.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -d 172.30.0.10/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.1.2.2:53
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-WEB ! -s 10.1.0.0/16 -d 172.30.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-WEB -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
-A KUBE-SVC-WEB -j KUBE-SEP-B
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ALLOWED - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m multiport --dports 1,20:30,443 -j REJECT --reject-with tcp-reset
-A INPUT -p udp -m udp --dport 123 -j REJECT --reject-with icmp-port-unreachable
-A INPUT -p sctp -m sctp --dport 80 -j DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -f -j ACCEPT
-A FORWARD -g ALLOWED
-A FORWARD -d 172.30.0.0/24 -j REJECT --reject-with icmp-host-prohibited
-A OUTPUT -d 240.0.0.0/4 -j REJECT --reject-with icmp-net-unreachable
-A ALLOWED -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ALLOWED -i cni0 -m physdev --physdev-is-bridged -j ACCEPT
-A ALLOWED -m conntrack --ctstate NEW --ctstatus NONE -p udp -m udp --sport 0:10 -j DROP
COMMIT
"""
RULES6 = """
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d fd00:172:30::1/128 -p tcp -m tcp --dport 80 -j DNAT --to-destination [fd00:10:1:1::1]:8080
-A PREROUTING -d fd00:172:30::1/128 -p udp -j DNAT --to-destination fd00:10:1:2::1
-A POSTROUTING -s fd00:10:1:1::/64 ! -d fd00:10::/32 -j MASQUERADE --random-fully
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT
COMMIT
"""

#: nft's expressions over every header, sets of every kind, chains between all steps of the hooks.
NFT = """
table inet fuzz {
    set boxes { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/8 . 1-9000, 172.30.0.1 . 80 } }
    set nets { type ipv6_addr; flags interval; elements = { fd00::/16, fe80::1-fe80::ff } }
    set seen { type ipv4_addr . inet_proto; flags dynamic,timeout; timeout 5s; size 20; }
    set limited { type ipv6_addr; flags dynamic; size 9; }
    map services { type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 172.30.0.1 . tcp . 80 : goto web } }
    map marks { type inet_service : mark; flags interval; elements = { 0-1023 : 0x1, 1024-65535 : 0x2 } }
    counter all { }
    chain web { counter; numgen random mod 3 vmap { 0 : return, 1 : accept, 2 : jump deep }; }
    chain deep { ip dscp set ef; ip6 hoplimit set 9; tcp option maxseg size set 500
        meta mark set th dport map @marks; }
    chain raw { type filter hook prerouting priority -350; @th,0,64 0 drop; notrack; }
    chain early { type filter hook prerouting priority -310
        ether saddr . ip saddr { 02:00:00:00:00:01 . 10.0.0.1 } drop
        exthdr frag exists counter; frag id 1 drop; hbh nexthdr tcp counter; tcp option timestamp tsval > 5 counter
        ip daddr . th dport @boxes update @seen { ip saddr . ip protocol }; ip6 saddr @nets counter
        meta length 0-65535 counter name "all"; icmpv6 type nd-neighbor-solicit counter; icmp type echo-request counter
        update @limited { ip6 saddr limit rate 2/second }; delete @seen { ip daddr . ip protocol }
        fib saddr . iif oif missing counter; fib daddr type local counter
        jhash ip saddr . tcp sport mod 7 seed 0x1 < 3 counter; symhash mod 2 0 counter; @nh,64,128 0 drop; }
    chain pre { type nat hook prerouting priority dstnat - 1; ip daddr . meta l4proto . th dport vmap @services
        meta l4proto { tcp, udp } dnat ip to ip daddr . th dport map { 10.1.1.1 . 53 : 10.1.2.1 . 5353 }; }
    chain post { type nat hook postrouting priority srcnat + 1; meta mark & 0x4 == 0x4 masquerade random; }
    chain mangle { type route hook output priority mangle
        ip ttl > 5 meta mark set ct mark | 0x4; ct mark set meta mark; }
    chain forward { type filter hook forward priority 10; tcp dport set 81; udp checksum > 0 udp sport set 54
        ip saddr set 10.1.1.1
        ct original ip daddr 10.0.0.0/8 counter; ct expiration < 30s counter; quota over 5 kbytes counter
        ct bytes > 5 counter
        limit rate over 5/second burst 3 packets reject; rt ip nexthop 10.1.1.1 counter; sctp sport set 7; }
    chain output { type filter hook output priority 20
        meta skuid 0 counter; ip6 dscp set cs1; tcp window set 9; }
}
"""

#: What may be added to a frame on its way: the encapsulation of a tunnel, an ICMP error around a packet.
MAX_GROWTH_BYTES = 14 + 20 + 8 + 8 + 8
_PORTS = ("eth0", "eth1", "pod0", "pod1", "pod2")


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
        super().__init__(name, clock=clock, choices=SeededChoices(seed))

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
                    bad = _really_bad(FrameView(frame))
                    assert not bad, f"sent with bad {bad} checksum: {summary(frame)} {frame.hex()}"
            elif kind == Event.DROP:
                DropReason(what)
            try:
                super().process((event,))
            except UnsupportedFeature:
                # Named by the kernel layer, not by the engine: IPv6 handlers that are not there.
                assert kind == Event.UPCALL
                self.datapath.discard(rest[0], DropReason.UNSUPPORTED)

    def neighbour_solicit(self, entry: Neighbour, packet: Packet | None, *, unicast: bool) -> None:
        """As above, when a timer asks."""
        with contextlib.suppress(UnsupportedFeature):
            super().neighbour_solicit(entry, packet, unicast=unicast)

    def plug(self, device: NetDevice) -> None:
        """Gather what a device sends."""
        device.carry = lambda frame: self.out.append((device.name, frame))


@functools.cache
def rulesets() -> tuple[Ruleset, Ruleset]:
    """The rules above."""
    return parse_save(RULES4, Family.IPV4), parse_save(RULES6, Family.IPV6)


def make_space(rng: random.Random, rules: tuple[Ruleset, ...], *, trace: bool) -> Space:
    """A node: uplinks, a bridge with pods, a tunnel, rules; some settings are drawn."""
    space = Space("node", Clock(start_ns=NS_PER_S), rng.randrange(1 << 30))
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
    for name in _PORTS:
        space.plug(space.devices.named(name))
    for setting, values in {
        "net.ipv4.ip_forward": (1, 1, 1, 0),
        "net.ipv6.conf.all.forwarding": (1,),
        "net.ipv4.conf.all.rp_filter": (0, 0, 1, 2),
        "net.ipv4.conf.all.route_localnet": (0, 1),
        "net.ipv4.conf.all.accept_local": (0, 1),
        "net.bridge.bridge-nf-call-iptables": (0, 1),
        "net.bridge.bridge-nf-call-ip6tables": (0, 1),
        "net.netfilter.nf_conntrack_tcp_be_liberal": (0, 1),
        "net.netfilter.nf_conntrack_tcp_loose": (0, 1),
        "net.netfilter.nf_conntrack_checksum": (0, 1, 1),
        "net.netfilter.nf_conntrack_max": (65536, 65536, 16),
    }.items():
        space.sysctl_set(setting, rng.choice(values))
    space.route_add("default via 192.168.0.1")
    space.route_add(rng.choice(("10.1.2.0/24 via 192.168.0.12", "10.1.2.0/24 via 10.1.2.0 dev flannel.1 onlink")))
    space.route_add("203.0.113.0/24 dev eth1")
    for address, mac, name in (
        ("192.168.0.1", MACS[4], "eth0"),
        ("192.168.0.12", MACS[5], "eth0"),
        ("10.1.1.1", MACS[6], "cni0"),
        ("10.1.1.2", MACS[7], "cni0"),
        ("10.1.2.0", MACS[4], "flannel.1"),
        ("203.0.113.9", MACS[8], "eth1"),
    ):
        if rng.random() < 0.8:
            space.neighbour_add(name, address, mac_to_text(mac))
    for ruleset in rules:
        space.load_ruleset(ruleset)
    if rng.random() < 0.7:
        space.nft(NFT)
    space.datapath.capture = True
    space.datapath.trace_set(trace)
    return space


def check_conntrack(space: Space) -> int:
    """No two live flows share a tuple, but for clashes that were resolved; returns how many flows there are."""
    entries = space.datapath.conntrack_list(space.clock.now_ns)
    tuples: set[Any] = set()
    for entry in entries:
        if entry["status"] & CtStatus.NAT_CLASH:
            continue
        # A packet from an address and port to itself is its own reply.
        for one in sorted({repr((entry["family"], entry["proto"], entry[way])) for way in ("orig", "reply")}):
            assert one not in tuples, f"two flows share {one}"
            tuples.add(one)
    return len(entries)


class Run:
    """Two like worlds, one of them traced, fed alike.

    Args:
        rng: Draws the worlds and the frames.
        valid: Only valid frames: then nothing may leave with a bad checksum.
        rules: Instead of this module's.
    """

    def __init__(self, rng: random.Random, *, valid: bool, rules: tuple[Ruleset, ...] | None = None) -> None:
        self.rng = rng
        self.rules = rulesets() if rules is None else rules
        self.source = FrameSource(rng, valid=valid)
        seed = rng.randrange(1 << 30)
        self.plain, self.traced = (make_space(random.Random(seed), self.rules, trace=trace) for trace in (False, True))
        self.plain.check = valid
        self.frames = 0
        self.sent = 0

    def step(self) -> None:
        """One frame in, or some time passes."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.05:
            until_ns = self.plain.clock.now_ns + rng.choice((1_000, NS_PER_S // 10, 3 * NS_PER_S, 200 * NS_PER_S))
            for space in (self.plain, self.traced):
                space.clock.run_until(until_ns)
        elif kind < 0.08:
            self._change()
        elif kind < 0.18:
            packet = self.source.local()
            errors = {space.local_out(packet) for space in (self.plain, self.traced)}
            assert len(errors) == 1
        else:
            name, frame = self.source.next()
            for space in (self.plain, self.traced):
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
        """Somebody changes something while flows are alive and packets wait."""
        rng = self.rng
        what = rng.choice(("flush", "delete", "rules", "down", "hold", "release", "address", "fdb", "neighbours"))
        number, name, hook = rng.randrange(100), rng.choice(_PORTS), rng.choice(list(Hook))
        step, on = rng.choice(list(Step)), rng.random() < 0.5
        for space in (self.plain, self.traced):
            match what:
                case "flush":
                    space.datapath.conntrack_flush()
                case "delete":
                    entries = space.datapath.conntrack_list(space.clock.now_ns)
                    if entries:
                        assert space.datapath.conntrack_delete(entries[number % len(entries)]["id"])
                case "rules":
                    space.nft("flush ruleset" if number % 3 == 0 else f"flush ruleset\n{NFT}")
                    for ruleset in self.rules:
                        space.load_ruleset(Ruleset(ruleset.family, ruleset.tables[number % 2 :]))
                case "down":
                    space.link_set(name, up=on)
                case "hold":
                    space.hold(hook, step, on)
                case "release":
                    for held in tuple(space.held):
                        space.release(held)
                case "address":
                    if "192.168.0.11/24" in space.addresses("eth0"):
                        space.address_delete("eth0", "192.168.0.11/24")
                    else:
                        space.address_add("eth0", "192.168.0.11/24")
                case "fdb":
                    space.fdb_flush("cni0")
                case "neighbours":
                    space.neighbours_flush()

    def finish(self) -> int:
        """What must hold at the end; returns how many flows are live."""
        flows = [check_conntrack(space) for space in (self.plain, self.traced)]
        assert flows[0] == flows[1]
        return flows[0]
