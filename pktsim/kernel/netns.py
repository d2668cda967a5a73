"""One network namespace: its devices, addresses, routes, neighbours and settings around one engine.

The engine moves packets and answers each call with events; :meth:`Netns.process` works them off depth first, in order, as one
CPU's softirq would: frames seen go to the capture, frames sent go onto their wire, and each kind of upcall goes to its one
handler, whose own events are worked off on the spot. What a namespace must not know: who plugged what into its wires, and
what a pod or a Service is.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pktsim._fastpath import Datapath, Packet
from pktsim.clock import NS_PER_US, Clock
from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.kernel.arp import Arp
from pktsim.kernel.defragment import Defragmenter, DefragUser
from pktsim.kernel.fib import TABLE_MAIN, Fib, PolicyRule, Route, parse_route, parse_rule
from pktsim.kernel.icmp import EXC_FRAGTIME, About, Icmp, IcmpType, Unreach
from pktsim.kernel.ip import IP_DF, OutputRoute, Transport, fragment_ipv4
from pktsim.kernel.neighbour import ENGINE_CLASS, Neighbour, NeighbourTable, Nud
from pktsim.kernel.netdev import (
    AF_INET,
    AF_INET6,
    LOOPBACK_IFINDEX,
    MTU_ETHERNET,
    MTU_LOOPBACK,
    DeviceTable,
    InterfaceAddress,
    NetDevice,
    Scope,
    check_mtu,
    check_name,
    family_of,
    parse_prefix,
    select_address,
)
from pktsim.kernel.reject import reject
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.sysctl import Sysctls
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.timer_wheel import HZ, TimerWheel
from pktsim.kernel.transport import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP
from pktsim.kernel.vxlan import Vxlan
from pktsim.netfilter.lower import Lowered, lower_table
from pktsim.netfilter.opcodes import DropReason, Hook, LinkKind, RouteType, Sysctl, TableId, Upcall
from pktsim.netfilter.opcodes import Event as EventKind
from pktsim.netfilter.ruleset import Family, Ruleset, Table
from pktsim.netfilter.state import NetfilterState
from pktsim.rng import Choices
from pktsim.wire.addr import MAC_ZERO, ip_from_text, ip_to_text, mac_from_text
from pktsim.wire.checksum import transport_checksum

if TYPE_CHECKING:
    from pktsim._fastpath import Event
    from pktsim.kernel.capture import Capture

#: Frames sent to lo are received after what is already on its way, as a wire's are: both wait in the CPU's backlog.
LOOPBACK_DELAY_NS: Final = 1 * NS_PER_US
#: A sending process is interrupted after each frame by everything that the frame sets off; then it sends the next.
PROCESS_GAP_NS: Final = 60 * NS_PER_US

#: Whether the engine can make a packet part of another one's connection (``nf_ct_attach``).

_IPPROTO_IGMP: Final = 2
_IP_MAX_MTU: Final = 0xFFFF
#: Reassembled packets whose old pieces are remembered; a packet that waits longer than this many others loses them.
_REMEMBERED_PIECES: Final = 1024

#: What a send reports when netfilter drops the packet on its way out (``nf_hook_slow``).
_REPORTED_AS_EPERM: Final = frozenset(
    (
        DropReason.RULE,
        DropReason.POLICY,
        DropReason.HOTDROP,
        DropReason.NAT,
        DropReason.CONNTRACK_TABLE_FULL,
        DropReason.CONNTRACK_INVALID,
        DropReason.CONNTRACK_CLASH,
    )
)

#: ``-errno`` of routes that refuse (``fib_props``, net/ipv4/fib_semantics.c).
_ROUTE_ERRORS: Final = {
    0: errno.ENETUNREACH,
    RouteType.BLACKHOLE: errno.EINVAL,
    RouteType.UNREACHABLE: errno.EHOSTUNREACH,
    RouteType.PROHIBIT: errno.EACCES,
    RouteType.THROW: errno.ENETUNREACH,
}

#: Settings that the engine reads: whole names.
_ENGINE_SETTINGS: Final = {
    "net.bridge.bridge-nf-call-iptables": Sysctl.BRIDGE_NF_CALL_IPTABLES,
    "net.bridge.bridge-nf-call-ip6tables": Sysctl.BRIDGE_NF_CALL_IP6TABLES,
    "net.ipv4.ip_forward_use_pmtu": Sysctl.IP_FORWARD_USE_PMTU,
    "net.ipv4.ip_default_ttl": Sysctl.IP_DEFAULT_TTL,
    "net.ipv4.ip_forward_update_priority": Sysctl.IP_FORWARD_UPDATE_PRIORITY,
    "net.ipv4.icmp_echo_ignore_broadcasts": Sysctl.ICMP_ECHO_IGNORE_BROADCASTS,
    "net.netfilter.nf_conntrack_checksum": Sysctl.CT_CHECKSUM,
    "net.netfilter.nf_conntrack_tcp_be_liberal": Sysctl.CT_TCP_BE_LIBERAL,
    "net.netfilter.nf_conntrack_tcp_loose": Sysctl.CT_TCP_LOOSE,
    "net.netfilter.nf_conntrack_tcp_max_retrans": Sysctl.CT_TCP_MAX_RETRANS,
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst": Sysctl.CT_TCP_IGNORE_INVALID_RST,
    "net.netfilter.nf_conntrack_acct": Sysctl.CT_ACCT,
    "net.netfilter.nf_conntrack_max": Sysctl.CT_MAX,
    "net.netfilter.nf_conntrack_buckets": Sysctl.CT_HASHSIZE,
    "net.netfilter.nf_conntrack_generic_timeout": Sysctl.CT_TIMEOUT_GENERIC,
    "net.netfilter.nf_conntrack_icmp_timeout": Sysctl.CT_TIMEOUT_ICMP,
    "net.netfilter.nf_conntrack_icmpv6_timeout": Sysctl.CT_TIMEOUT_ICMPV6,
    "net.netfilter.nf_conntrack_udp_timeout": Sysctl.CT_TIMEOUT_UDP,
    "net.netfilter.nf_conntrack_udp_timeout_stream": Sysctl.CT_TIMEOUT_UDP_STREAM,
    "net.netfilter.nf_conntrack_gre_timeout": Sysctl.CT_TIMEOUT_GRE,
    "net.netfilter.nf_conntrack_gre_timeout_stream": Sysctl.CT_TIMEOUT_GRE_STREAM,
} | {
    f"net.netfilter.nf_conntrack_{protocol}_timeout_{state}": Sysctl[f"CT_TIMEOUT_{protocol}_{state}".upper()]
    for protocol, states in {
        "tcp": (
            "syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close",
            "max_retrans", "unacknowledged",
        ),
        "sctp": (
            "closed", "cookie_wait", "cookie_echoed", "established", "shutdown_sent", "shutdown_recd",
            "shutdown_ack_sent", "heartbeat_sent",
        ),
    }.items()
    for state in states
}  # fmt: skip
#: ... and per-interface ones.
_ENGINE_CONF: Final = {
    ("net.ipv4.conf", "forwarding"): Sysctl.IP_FORWARD,
    ("net.ipv4.conf", "route_localnet"): Sysctl.ROUTE_LOCALNET,
    ("net.ipv4.conf", "rp_filter"): Sysctl.RP_FILTER,
    ("net.ipv4.conf", "accept_local"): Sysctl.ACCEPT_LOCAL,
}


@dataclass(frozen=True, slots=True)
class Held:
    """A packet held back before a step, to make a race happen."""

    packet: Packet
    hook: Hook
    step: int


@dataclass(frozen=True, slots=True)
class PathMtu:
    """A learnt path MTU (``struct fib_nh_exception``)."""

    mtu: int
    locked: bool
    expires: int  # jiffies


class Netns:
    """A network namespace.

    Args:
        name: Unique in its world; used in captures and for the places that choices are asked at.
        clock: The world's time.
        choices: The world's chance.
        wheel: The world's kernel timers; one of its own if not given.
        capture: Where frames are recorded; nowhere if not given.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        choices: Choices,
        wheel: TimerWheel | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.name = name
        self.clock = clock
        self.choices = choices
        self.wheel = TimerWheel(clock) if wheel is None else wheel
        self.capture = capture
        self.datapath = Datapath(name, self._choose)
        self.datapath.context = NetfilterState(interface_name=lambda ifindex: self.devices.get(ifindex).name)
        self.devices = DeviceTable()
        self.sysctls = Sysctls(self._sysctl_changed)
        self.fib = Fib(self.devices)
        self.arp_table = NeighbourTable(self, AF_INET)
        self.arp = Arp(self)
        self.icmp = Icmp(self)
        self.defragmenter = Defragmenter(
            self.wheel, lambda key: self.sysctls.number(f"net.ipv4.{key}"), self._fragments_expired
        )
        self.held: list[Held] = []
        #: Takes a frame given to a tunnel's device, and its mark, by ifindex.
        self.tunnels: dict[int, Callable[[bytes, int], None]] = {}
        #: Takes a UDP packet before the sockets do, by destination port (``encap_rcv``); says whether it did.
        self.udp_encapsulations: dict[int, Callable[[bytes, int], bool]] = {}
        #: Told of packets that went no further: (packet number, reason, ifindex).
        self.drop_listener: Callable[[int, DropReason, int], None] | None = None
        self._lowered: dict[tuple[Family, TableId], Lowered] = {}
        self._pieces: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._path_mtus: dict[bytes, PathMtu] = {}
        self._id_counters: dict[tuple[bytes, bytes, int], tuple[int, int]] = {}
        self._softirq = 0
        self._send_error = 0
        self._fixed_mac: set[int] = set()
        self._fixed_mtu: set[int] = set()
        self._handlers: dict[int, Callable[[Packet, Any, Any, Any], None]] = {
            Upcall.ARP: self._on_arp,
            Upcall.DELIVER: self._on_deliver,
            Upcall.ICMP_ERROR: self._on_icmp_error,
            Upcall.REJECT: self._on_reject,
            Upcall.NEIGHBOUR_MISS: self._on_neighbour_miss,
            Upcall.FRAGMENT: self._on_fragment,
            Upcall.DEFRAGMENT: self._on_defragment,
            Upcall.VXLAN_XMIT: self._on_vxlan_xmit,
            Upcall.OTHER_L2: self._on_other_l2,
            Upcall.HELD: self._on_held,
        }
        self.vxlan = Vxlan(self)
        self._tcp_settings: dict[str, str] = {}
        self.sockets = SocketLayer(self)
        for setting in _ENGINE_SETTINGS:
            self._sysctl_changed(setting, "", "")
        self._add_loopback()

    def __repr__(self) -> str:
        return f"<Netns {self.name}>"

    def _choose(self, place: str, kind: int, n: int) -> int:
        """What the engine draws by."""
        return self.choices.below(place, n) if kind == 0 else int(self.choices.chance(place, n))

    # --------------------------------------------------------------------------------------------------------- devices

    def _add_loopback(self) -> None:
        device = NetDevice(
            self.devices.reserve_index(), "lo", LinkKind.LOOPBACK, MAC_ZERO, MTU_LOOPBACK, noarp=True
        )
        self._register(device)
        self.address_add("lo", "127.0.0.1/8", scope=Scope.HOST)

    def link_add(
        self,
        name: str,
        kind: LinkKind = LinkKind.WIRE,
        *,
        mac: str = "",
        mtu: int = 0,
        up: bool = True,
        master: str = "",
        hairpin: bool = False,
    ) -> NetDevice:
        """``ip link add``: a device, whose index is the next free one.

        Args:
            name: Of the interface.
            kind: What it does with frames.
            mac: Drawn if empty.
            mtu: The kind's default if 0.
            up: Whether it is up at once.
            master: The bridge to make it a port of.
            hairpin: Whether that port sends frames back to where they came from.
        """
        check_name(name)
        if name in self.devices:
            raise TopologyError(f"there is an interface {name} already", place=self.name)
        check_mtu(kind, mtu or MTU_ETHERNET)
        device = NetDevice(
            self.devices.reserve_index(),
            name,
            kind,
            mac_from_text(mac) if mac else self._draw_mac(name),
            mtu or MTU_ETHERNET,
            up=up,
            noarp=kind == LinkKind.DUMMY,
        )
        self._register(device)
        if mac:
            self._fixed_mac.add(device.ifindex)
        if mtu:
            self._fixed_mtu.add(device.ifindex)
        if master or hairpin:
            self.link_set(name, master=master, hairpin=hairpin)
        return device

    def _draw_mac(self, name: str) -> bytes:
        """``eth_random_addr``: unicast, locally administered."""
        drawn = bytearray(self.choices.below(f"{self.name}/{name}/mac", 1 << 48).to_bytes(6, "big"))
        drawn[0] = drawn[0] & 0xFE | 0x02
        return bytes(drawn)

    def _register(self, device: NetDevice) -> None:
        self.devices.add(device)
        self.sysctls.interface_added(device.name)
        self._push_link(device)
        for family, key in _ENGINE_CONF:
            self._sysctl_changed(family, device.name, key)

    def _push_link(self, device: NetDevice) -> None:
        self.datapath.link_set(
            device.ifindex,
            device.name,
            device.kind,
            device.mac,
            device.mtu,
            up=device.up,
            master=device.master,
            hairpin=device.hairpin,
            noarp=device.noarp,
        )

    def link_set(
        self,
        name: str,
        *,
        up: bool | None = None,
        master: str | None = None,
        hairpin: bool | None = None,
        mac: str = "",
        mtu: int = 0,
    ) -> None:
        """``ip link set``; an empty ``master`` takes the device out of its bridge."""
        device = self.devices.named(name)
        if mtu:
            check_mtu(device.kind, mtu)
            device.mtu = mtu
            self._fixed_mtu.add(device.ifindex)
        if mac:
            device.mac = mac_from_text(mac)
            self._fixed_mac.add(device.ifindex)
            self.arp_table.flush(device.ifindex)  # neigh_changeaddr
        if hairpin is not None:
            device.hairpin = hairpin
        if master is not None:
            self._set_master(device, master)
        if up is not None and up != device.up:
            device.up = up
            self._push_link(device)
            if up:
                self.fib.link_up(device)
            else:
                self.arp_table.flush(device.ifindex)
                self.fib.link_down(device, deleted=False)
        self._push_link(device)
        if device.master:
            self._recalculate_bridge(self.devices.get(device.master))
        self._push_routes()

    def _set_master(self, device: NetDevice, master: str) -> None:
        old = self.devices.find(device.master)
        if not master:
            device.master = 0
        else:
            bridge = self.devices.named(master)
            if bridge.kind != LinkKind.BRIDGE:
                raise TopologyError(f"{master} is not a bridge", place=f"{self.name}/{device.name}")
            if device.kind in (LinkKind.BRIDGE, LinkKind.LOOPBACK):
                raise TopologyError(f"{device.name} cannot be a port of a bridge", place=self.name)
            device.master = bridge.ifindex
        self._push_link(device)
        if old is not None and old.ifindex != device.master:
            self._recalculate_bridge(old)

    def _recalculate_bridge(self, bridge: NetDevice) -> None:
        """``br_stp_recalculate_bridge_id`` and ``br_mtu_auto_adjust``: what a bridge takes over from its ports."""
        ports = [device for device in self.devices if device.master == bridge.ifindex]
        if ports and bridge.ifindex not in self._fixed_mac:
            bridge.mac = min(port.mac for port in ports)
        if ports and bridge.ifindex not in self._fixed_mtu:
            bridge.mtu = min(port.mtu for port in ports)
        self._push_link(bridge)

    def link_delete(self, name: str) -> None:
        """``ip link delete``."""
        device = self.devices.named(name)
        if device.loopback:
            raise TopologyError("lo cannot be deleted", place=self.name)
        for port in [port for port in self.devices if port.master == device.ifindex]:
            self.link_set(port.name, master="")
        bridge = self.devices.find(device.master)
        self.arp_table.device_gone(device.ifindex)
        self.fib.link_down(device, deleted=True)
        self.devices.remove(device)
        self.sysctls.interface_removed(name)
        self.datapath.link_del(device.ifindex)
        if self.tunnels.pop(device.ifindex, None) is not None:
            self.vxlan.removed(device.ifindex)
        if bridge is not None:
            self._recalculate_bridge(bridge)
        self._push_addresses()
        self._push_routes()

    def address_add(
        self, name: str, address: str, *, broadcast: str = "", scope: int | None = None, noprefixroute: bool = False
    ) -> None:
        """``ip address add``; the scope follows from the address unless given."""
        device = self.devices.named(name)
        host, length = parse_prefix(address)
        if any(entry.address == host and entry.prefix_length == length for entry in device.addresses):
            raise TopologyError(f"{name} has {address} already", place=self.name)
        if scope is None:
            link_local = len(host) == 16 and host[0] == 0xFE and host[1] & 0xC0 == 0x80
            loopback = host[0] == 127 if len(host) == 4 else host == bytes(15) + b"\1"
            scope = Scope.HOST if loopback else Scope.LINK if link_local else Scope.UNIVERSE
        secondary = len(host) == 4 and any(
            not entry.secondary and entry.prefix_length == length and entry.covers(host) for entry in device.addresses
        )
        entry = InterfaceAddress(
            host, length, ip_from_text(broadcast) if broadcast else b"", scope, secondary, noprefixroute
        )
        device.addresses.append(entry)
        self.fib.address_added(device, entry)
        self._push_addresses()
        self._push_routes(everything=True)

    def address_delete(self, name: str, address: str) -> None:
        """``ip address del``: a network's first address takes the others of that network with it, unless they are
        promoted (``promote_secondaries``)."""
        device = self.devices.named(name)
        host, length = parse_prefix(address)
        found = next((e for e in device.addresses if e.address == host and e.prefix_length == length), None)
        if found is None:
            raise TopologyError(f"{name} does not have {address}", place=self.name)
        gone = [found]
        device.addresses.remove(found)
        if not found.secondary and found.family == AF_INET:
            siblings = [e for e in device.addresses if e.secondary and e.prefix_length == length and e.covers(host)]
            if siblings and self.sysctls.conf_or(name, "promote_secondaries"):
                index = device.addresses.index(siblings[0])
                device.addresses[index] = replace(siblings[0], secondary=False)
                self.fib.address_added(device, device.addresses[index])
            else:
                for sibling in siblings:
                    device.addresses.remove(sibling)
                gone += siblings
        for entry in gone:
            self.fib.addresses_changed(device, entry)
        self._push_addresses()
        self._push_routes(everything=True)

    def addresses(self, name: str) -> list[str]:
        """The addresses of an interface with their prefix lengths, in the order in which they were added."""
        return [str(entry) for entry in self.devices.named(name).addresses]

    def _push_addresses(self) -> None:
        for family in (AF_INET, AF_INET6):
            self.datapath.addresses_set(
                family,
                [
                    (device.ifindex, entry.address, entry.prefix_length, entry.scope)
                    for device in self.devices
                    for entry in device.addresses
                    if entry.family == family
                ],
            )

    def select_address(self, device: NetDevice | None, destination: bytes, scope: int) -> bytes:
        """``inet_select_addr``: a source address for what leaves by ``device``; empty if there is none."""
        localnet = device is not None and self.sysctls.conf_or(device.name, "route_localnet")
        return select_address(self.devices, device, destination, scope, route_localnet=localnet)

    # ---------------------------------------------------------------------------------------------------------- routes

    def route_add(self, route: str | Route, *, replace_existing: bool = False) -> None:
        """``ip route add`` (or ``replace``), in its own words; connected routes follow from the addresses."""
        self.fib.add(parse_route(route) if isinstance(route, str) else route, replace_existing=replace_existing)
        self._push_routes()

    def route_replace(self, route: str | Route) -> None:
        """``ip route replace``."""
        self.route_add(route, replace_existing=True)

    def routes_restore(self, routes: Sequence[str | Route]) -> None:
        """``ip route restore``: routes as a table was printed, where a next hop may be listed before the way to it.

        Connected routes, which are there already, are replaced by what is said of them.
        """
        parsed = [parse_route(route) if isinstance(route, str) else route for route in routes]
        for route in sorted(parsed, key=lambda route: bool(route.gateway) and not route.onlink):
            self.fib.add(route, replace_existing=True)
        self._push_routes()

    def route_delete(self, route: str | Route) -> None:
        """``ip route del``."""
        self.fib.delete(parse_route(route) if isinstance(route, str) else route)
        self._push_routes()

    def routes(self, family: int = AF_INET, table: int = TABLE_MAIN) -> list[str]:
        """A table as ``ip route show table …`` prints it; the table itself is not repeated in each line."""
        shown = self.fib.routes(family, table)
        return [str(replace(route, table=TABLE_MAIN)) for route in shown]

    def rule_add(self, rule: str | PolicyRule, family: int = AF_INET) -> None:
        """``ip rule add``."""
        self.fib.rule_add(parse_rule(rule) if isinstance(rule, str) else rule, family)
        self._push_routes()

    def rule_delete(self, rule: str | PolicyRule, family: int = AF_INET) -> None:
        """``ip rule del``."""
        self.fib.rule_delete(parse_rule(rule) if isinstance(rule, str) else rule, family)
        self._push_routes()

    def rules(self, family: int = AF_INET) -> list[str]:
        """As ``ip rule`` prints them."""
        return [str(rule) for rule in self.fib.rules(family)]

    def _push_routes(self, *, everything: bool = False) -> None:
        """Tell the engine what changed; with ``everything`` also routes whose preferred source may have changed."""
        dirty = set(self.fib.dirty)
        if everything:
            dirty.update((family, table) for family in (AF_INET, AF_INET6) for table in self.fib.tables(family))
        localnet = [device.name for device in self.devices if self.sysctls.conf_or(device.name, "route_localnet")]
        for family, table in sorted(dirty):
            self.datapath.routes_set(family, table, self.fib.engine_routes(family, table, localnet=localnet))
        self.fib.dirty.clear()
        # Rules may name interfaces that have come or gone.
        for family in (AF_INET, AF_INET6):
            rules = self.fib.engine_rules(family)
            if rules or family in self.fib.rules_dirty:
                self.datapath.rules_set(family, rules)
        self.fib.rules_dirty.clear()

    # ------------------------------------------------------------------------------------------------------ neighbours

    def neighbour_add(self, name: str, address: str, mac: str, state: Nud = Nud.PERMANENT) -> None:
        """``ip neigh replace ADDRESS lladdr MAC dev NAME nud …``."""
        self._table_for(ip_from_text(address)).add(
            self.devices.named(name).ifindex, ip_from_text(address), mac_from_text(mac), state
        )

    def neighbour_delete(self, name: str, address: str) -> bool:
        """``ip neigh del``. Returns whether there was one."""
        return self._table_for(ip_from_text(address)).delete(self.devices.named(name).ifindex, ip_from_text(address))

    def neighbours_flush(self, *, permanent: bool = False) -> None:
        """``ip neigh flush all``."""
        self.arp_table.flush(permanent=permanent)

    def neighbours(self) -> list[Neighbour]:
        """All entries, sorted by interface and address."""
        return sorted(self.arp_table, key=lambda entry: (entry.ifindex, entry.address))

    def proxy_add(self, address: str, name: str = "") -> None:
        """``ip neigh add proxy ADDRESS [dev NAME]``."""
        ifindex = self.devices.named(name).ifindex if name else 0
        self.arp.proxies.add((ifindex, ip_from_text(address)))

    def _table_for(self, address: bytes) -> NeighbourTable:
        if len(address) != 4:
            raise UnsupportedFeature("IPv6 neighbour", place=f"{self.name}, {ip_to_text(address)}")
        return self.arp_table

    def neighbour_setting(self, family: int, ifindex: int, key: str) -> int:
        device = self.devices.find(ifindex)
        prefix = "net.ipv4.neigh" if family == AF_INET else "net.ipv6.neigh"
        return self.sysctls.conf(prefix, device.name if device is not None else "default", key)

    def neighbour_place(self, ifindex: int) -> str:
        device = self.devices.find(ifindex)
        return f"{self.name}/{device.name}" if device is not None else self.name

    def neighbour_changed(self, entry: Neighbour) -> None:
        self.datapath.neighbour_set(entry.ifindex, entry.address, entry.mac, ENGINE_CLASS[entry.state])

    def neighbour_gone(self, entry: Neighbour) -> None:
        self.datapath.neighbour_del(entry.ifindex, entry.address)

    def neighbour_solicit(self, entry: Neighbour, packet: Packet | None, *, unicast: bool) -> None:
        self.arp.solicit(entry, packet.data if packet is not None else b"", unicast=unicast)

    def neighbour_send(self, packet: Packet) -> None:
        self.process(self.datapath.resume(packet, self.clock.now_ns))

    def neighbour_unreachable(self, packet: Packet) -> None:
        """``ipv4_link_failure``."""
        if packet.family == AF_INET:
            self.icmp.error(About.of(packet), IcmpType.DEST_UNREACH, Unreach.HOST)
        self.datapath.discard(packet, DropReason.NEIGHBOUR_FAILED)

    def neighbour_discard(self, packet: Packet) -> None:
        self.datapath.discard(packet, DropReason.NEIGHBOUR_FAILED)

    def confirm_neighbour(self, daddr: bytes) -> None:
        if len(daddr) != 4:
            return
        route_type, ifindex, next_hop, *_ = self.datapath.route(daddr)
        if route_type == RouteType.UNICAST:
            self.arp_table.confirm(ifindex, next_hop)

    # ---------------------------------------------------------------------------------------------------------- bridges

    def fdb_add(self, port: str, mac: str) -> None:
        """``bridge fdb add MAC dev PORT master static``."""
        device = self.devices.named(port)
        if not device.master:
            raise TopologyError(f"{port} is not a port of a bridge", place=self.name)
        self.datapath.fdb_set(device.master, mac_from_text(mac), device.ifindex, static=True)

    def fdb_flush(self, bridge: str, *, static: bool = False) -> None:
        """Forget what a bridge learnt, and with ``static`` also what it was told."""
        self.datapath.fdb_flush(self.devices.named(bridge).ifindex, static=static)

    def fdb(self, bridge: str) -> list[tuple[bytes, str, bool]]:
        """(MAC, port, static) of a bridge, sorted by MAC; learnt entries only while they have not aged out."""
        return [
            (mac, self.devices.get(port).name, static)
            for mac, port, static, seen_ns in self.datapath.fdb(self.devices.named(bridge).ifindex)
            if static or self.clock.now_ns - seen_ns <= 300 * 1_000_000_000
        ]

    # --------------------------------------------------------------------------------------------------------- settings

    def sysctl_set(self, name: str, value: str | int) -> None:
        """``sysctl -w``."""
        self.sysctls.set(name, value)

    def sysctl(self, name: str) -> int:
        return self.sysctls.number(name)

    def _sysctl_changed(self, family: str, interface: str, key: str) -> None:
        if not key:
            engine_key = _ENGINE_SETTINGS.get(family)
            if engine_key is not None:
                self.datapath.sysctl_set(engine_key, self.sysctls.number(family))
            elif family.startswith("net.ipv4.tcp_"):
                self._tcp_settings[family] = self.sysctls.text(family)
                self.sockets.tcp_table.settings = TcpSettings.from_sysctls(self._tcp_settings)
            elif family == "net.ipv4.ip_local_port_range":
                low, high = self.sysctls.numbers(family)
                self.sockets.port_range = (low, high)
            return
        if family == "net.ipv6.conf" and key == "forwarding" and interface == "all":
            self.datapath.sysctl_set(Sysctl.IP6_FORWARDING, self.sysctls.conf(family, interface, key))
        conf_key = _ENGINE_CONF.get((family, key))
        if conf_key is None or interface == "default":
            return
        ifindex = 0 if interface == "all" else self.devices.named(interface).ifindex
        self.datapath.sysctl_set(conf_key, self.sysctls.conf(family, interface, key), ifindex)
        if key == "route_localnet" and self.devices.find(LOOPBACK_IFINDEX) is not None:
            self._push_routes(everything=True)

    # -------------------------------------------------------------------------------------------------------- netfilter

    def load_ruleset(self, ruleset: Ruleset, lowered: Sequence[Lowered] | None = None) -> None:
        """Put a family's tables in force, counters included; tables that are not in it are unloaded.

        Args:
            ruleset: The tables.
            lowered: The same tables lowered already, where several namespaces share them.
        """
        family = ruleset.family
        programs = {each.table_id: each for each in lowered or [lower_table(table) for table in ruleset.tables]}
        for table_id in TableId:
            new = programs.get(table_id)
            old = self._lowered.pop((family, table_id), None)
            if new is not None:
                self._lowered[family, table_id] = new
                new.prepare(self.datapath.context)
                self.datapath.table_set(family, table_id, new.program, new.initial_counters())
            elif old is not None:
                self.datapath.table_set(family, table_id, None)
        self.datapath.conntrack_enable(family, any(each.needs_conntrack for each in programs.values()))

    @property
    def lowered(self) -> dict[tuple[Family, TableId], Lowered]:
        """The programs in force with their source maps."""
        return dict(self._lowered)

    def counters(self, family: Family, table_id: TableId) -> list[tuple[int, int]]:
        """Packets and bytes by rule number of the source map; empty if the table is not loaded."""
        data = memoryview(self.datapath.table_counters(family, table_id)).cast("Q")
        return list(zip(data[::2], data[1::2], strict=True))

    def ruleset(self, family: Family = Family.IPV4) -> Ruleset:
        """The tables in force with the counters as they stand, as ``iptables-save -c`` would see them."""
        tables: list[Table] = []
        for (table_family, table_id), lowered in sorted(self._lowered.items(), key=lambda item: item[1].table.name):
            if table_family == family:
                tables.append(lowered.with_counters(self.counters(family, table_id)))
        return Ruleset(family, tuple(tables))

    def hold(self, hook: Hook, step: int, on: bool = True) -> None:
        """Hold packets back before a step of a hook (a ``TableId``, or 8 for confirm); they gather in ``held``."""
        self.datapath.hold_set(hook, step, on)

    def release(self, held: Held) -> None:
        """Let a held packet go on."""
        self.held.remove(held)
        self.process(self.datapath.resume(held.packet, self.clock.now_ns))

    # ---------------------------------------------------------------------------------------------------------- packets

    def receive(self, ifindex: int, frame: bytes) -> None:
        """A frame arrives at a device, in softirq."""
        self._softirq += 1
        try:
            self.process(self.datapath.receive(ifindex, frame, self.clock.now_ns))
        finally:
            self._softirq -= 1

    def receive_later(self, ifindex: int, frame: bytes) -> None:
        """A frame that a device of the namespace itself made arrives behind what is on its way already."""
        self.clock.after(LOOPBACK_DELAY_NS, lambda: self.receive(ifindex, frame))

    def transmit(self, ifindex: int, frame: bytes) -> None:
        """Give a device a frame to send, beneath the network layer."""
        self.process(self.datapath.transmit(ifindex, frame, self.clock.now_ns))

    def local_out(
        self,
        packet: bytes,
        *,
        mark: int = 0,
        ifindex: int = 0,
        uid: int = 0,
        gid: int = 0,
        related: Packet | None = None,
    ) -> int:
        """Send a complete packet of our own. Returns 0 or the errno that the sender gets."""
        events = self.datapath.send_local(
            packet, self.clock.now_ns, mark=mark, ifindex=ifindex, uid=uid, gid=gid, related=related
        )
        outer, self._send_error = self._send_error, self._reported(events)
        try:
            self.process(events)
            return self._send_error
        finally:
            self._send_error = outer

    @staticmethod
    def _reported(events: Sequence[Event]) -> int:
        """What the sender is told of a packet that did not get through OUTPUT and POSTROUTING."""
        if not events:
            return 0
        kind, _, reason, *rest = events[0]
        # A packet that has reached a device, be it lo, is out of the sender's sight.
        if kind == EventKind.DROP and rest[0] == 0:
            if reason in _REPORTED_AS_EPERM:
                return errno.EPERM
            if reason == DropReason.NO_ROUTE:
                return errno.ENETUNREACH
            if reason == DropReason.ROUTE_BLACKHOLE:
                return errno.EINVAL
        elif kind == EventKind.UPCALL and reason == Upcall.REJECT and rest[2] in (Hook.OUTPUT, Hook.POSTROUTING):
            return errno.EPERM
        return 0

    def process(self, events: Sequence[Event]) -> None:
        """Work off what an engine call led to, depth first and in order."""
        for event in events:
            kind = event[0]
            if kind == EventKind.RX:
                if self.capture is not None:
                    self.capture.record(self, event[2], "in", event[3], event[1])
            elif kind == EventKind.TX:
                if self.capture is not None:
                    self.capture.record(self, event[2], "out", event[3], event[1])
                device = self.devices.find(event[2])
                if device is not None and device.kind == LinkKind.WIRE and device.carry is not None:
                    device.carry(event[3])
            elif kind == EventKind.UPCALL:
                reason = event[2]
                if reason == Upcall.NEIGHBOUR_USED:
                    self._neighbour_used(event[4], event[5])
                    continue
                handler = self._handlers.get(reason)
                if handler is None:
                    raise UnsupportedFeature(f"packets handed out for {Upcall(reason).name}", place=self.name)
                handler(event[3], event[4], event[5], event[6])
            elif self.drop_listener is not None:
                self.drop_listener(event[1], DropReason(event[2]), event[3])

    # ---------------------------------------------------------------------------------------------------------- upcalls

    def _on_arp(self, packet: Packet, ifindex: int, _b: Any, _c: Any) -> None:
        self.arp.receive(ifindex, packet.data, packet.pkt_type)

    def _on_other_l2(self, packet: Packet, _a: Any, _b: Any, _c: Any) -> None:
        self.datapath.discard(packet, DropReason.NO_PROTOCOL)

    def _on_held(self, packet: Packet, hook: int, step: int, _c: Any) -> None:
        self.held.append(Held(packet, Hook(hook), step))

    def _on_neighbour_miss(self, packet: Packet, ifindex: int, next_hop: bytes, _c: Any) -> None:
        if len(next_hop) != 4:
            raise UnsupportedFeature("IPv6 neighbour discovery", place=self.name)
        self.arp_table.resolve(ifindex, next_hop, packet)

    def _neighbour_used(self, ifindex: int, next_hop: bytes) -> None:
        if len(next_hop) == 4:
            self.arp_table.used(ifindex, next_hop)

    def _on_vxlan_xmit(self, packet: Packet, ifindex: int, _b: Any, _c: Any) -> None:
        tunnel = self.tunnels.get(ifindex)
        if tunnel is None:
            self.datapath.discard(packet, DropReason.NO_CARRIER)
        else:
            tunnel(packet.frame, packet.mark)

    def _on_icmp_error(self, packet: Packet, icmp_type: int, code: int, info: int) -> None:
        if packet.family != AF_INET:
            raise UnsupportedFeature("ICMPv6 errors", place=self.name)
        about = About.of(packet)
        no_route = icmp_type == IcmpType.DEST_UNREACH and code != Unreach.FRAG_NEEDED
        if not no_route or self.icmp.route_error_allowed(about.packet[12:16]):
            self.icmp.error(about, icmp_type, code, info)

    def _on_reject(self, packet: Packet, reject_with: int, hook: int, _c: Any) -> None:
        reject(self, packet, reject_with, hook)

    def _on_deliver(self, packet: Packet, protocol: int, _b: Any, _c: Any) -> None:
        """A packet has passed INPUT. What came by lo is taken when what is under way is done (``netif_rx``)."""
        data, ifindex, broadcast, mark = packet.data, packet.in_ifindex, packet.broadcast, packet.mark
        if ifindex == LOOPBACK_IFINDEX:
            self.clock.after(LOOPBACK_DELAY_NS, lambda: self._deliver_later(data, protocol, ifindex, broadcast, mark))
        else:
            self._deliver(data, protocol, ifindex, broadcast, mark)

    def _deliver_later(self, data: bytes, protocol: int, ifindex: int, broadcast: bool, mark: int) -> None:
        self._softirq += 1
        try:
            self._deliver(data, protocol, ifindex, broadcast, mark)
        finally:
            self._softirq -= 1

    def _deliver(self, data: bytes, protocol: int, ifindex: int, broadcast: bool, mark: int) -> None:
        """``ip_protocol_deliver_rcu``."""
        if data[0] >> 4 != 4:
            self.sockets.deliver(data, ifindex=ifindex, broadcast=broadcast)
            return
        header_length = (data[0] & 15) * 4
        if protocol == IPPROTO_UDP and self.udp_encapsulations:
            encapsulation = self.udp_encapsulations.get(int.from_bytes(data[header_length + 2 : header_length + 4], "big"))
            if encapsulation is not None and encapsulation(data, ifindex):
                return
        taken = self.sockets.deliver(data, ifindex=ifindex, broadcast=broadcast)
        if protocol == IPPROTO_ICMP:
            self.icmp.receive(data, ifindex=ifindex, broadcast=broadcast, mark=mark)
            return
        if taken or protocol in (IPPROTO_TCP, _IPPROTO_IGMP):
            return
        if protocol != IPPROTO_UDP:
            self._unreachable(data, ifindex, broadcast, mark, Unreach.PROTOCOL)
        elif self._udp_intact(data[header_length:], data[12:16], data[16:20]):
            self._unreachable(data, ifindex, broadcast, mark, Unreach.PORT)

    @staticmethod
    def _udp_intact(segment: bytes, saddr: bytes, daddr: bytes) -> bool:
        """``__udp4_lib_rcv`` is silent about datagrams with a wrong length or checksum."""
        if len(segment) < 8:
            return False
        length = int.from_bytes(segment[4:6], "big")
        if length < 8 or length > len(segment):
            return False
        if segment[6:8] == b"\0\0":
            return True
        return transport_checksum(saddr, daddr, IPPROTO_UDP, segment[:length]) in (0, 0xFFFF)

    def _unreachable(self, data: bytes, ifindex: int, broadcast: bool, mark: int, code: int) -> None:
        about = About(data, ifindex, RouteType.LOCAL, unicast=not broadcast, mark=mark)
        self.icmp.error(about, IcmpType.DEST_UNREACH, code)

    def sockets_icmp_error(self, packet: bytes, ifindex: int) -> None:
        """Hand an ICMP error to the sockets."""
        self.sockets.icmp_error(packet, ifindex=ifindex)

    def icmp_unreachable(self, packet: bytes, ifindex: int, code: int) -> None:
        """Answer a packet that no socket wants with a destination unreachable."""
        self._unreachable(packet, ifindex, False, 0, code)

    # -------------------------------------------------------------------------------------------------------- fragments

    def _on_fragment(self, packet: Packet, ifindex: int, mtu: int, _c: Any) -> None:
        """``ip_fragment``, or ``br_nf_dev_queue_xmit`` for what br_netfilter put together."""
        if packet.family != AF_INET:
            raise UnsupportedFeature("IPv6 fragmentation", place=self.name)
        data = packet.data
        largest = packet.fragment_max
        bridged = packet.bridged and packet.phys_out_ifindex != 0
        if bridged:
            mtu = min(mtu, self.devices.get(ifindex).mtu)
        else:
            if packet.local:
                mtu = min(mtu, self._path_mtu(data[16:20]) or mtu)
            df = int.from_bytes(data[6:8], "big") & IP_DF
            if df and (not largest or largest > mtu):
                self.icmp.error(About.of(packet), IcmpType.DEST_UNREACH, Unreach.FRAG_NEEDED, mtu)
                if packet.local:
                    self._send_error = errno.EMSGSIZE
                self.datapath.discard(packet, DropReason.FRAGMENT_NEEDED)
                return
            if largest:
                mtu = min(mtu, largest)
        in_process = packet.local and not self._softirq
        pieces = fragment_ipv4(
            data, mtu, payload_sizes=self._pieces.pop(packet.pkt_id, ()), keep_df=bool(largest and data[6] & 0x40)
        )
        events = self.datapath.output(packet, pieces, self.clock.now_ns)
        if in_process:
            self._process_spaced(events)
        else:
            self.process(events)

    def _process_spaced(self, events: Sequence[Event]) -> None:
        """A process sends its fragments one by one; what each sets off happens before the next."""
        groups: list[list[Event]] = []
        for event in events:
            if not groups or groups[-1][-1][1] != event[1]:
                groups.append([])
            groups[-1].append(event)
        for index, group in enumerate(groups):
            if index == 0:
                self.process(group)
            else:
                self.clock.after(index * PROCESS_GAP_NS, lambda group=group: self.process(group))  # type: ignore[misc]

    def _on_defragment(self, packet: Packet, hook: int, local: int, _c: Any) -> None:
        if packet.family != AF_INET:
            raise UnsupportedFeature("IPv6 reassembly", place=self.name)
        if local:
            user = DefragUser.LOCAL_DELIVER
        elif hook == Hook.OUTPUT:
            user = DefragUser.CONNTRACK_OUT
        elif packet.bridged:
            user = DefragUser.CONNTRACK_BRIDGE_IN
        else:
            user = DefragUser.CONNTRACK_IN
        whole = self.defragmenter.add(packet, user)
        if whole is None:
            return
        packet.set_data(whole.data)
        packet.fragment_max = whole.largest
        self._pieces[packet.pkt_id] = whole.payload_sizes
        while len(self._pieces) > _REMEMBERED_PIECES:
            self._pieces.popitem(last=False)
        self.process(self.datapath.resume(packet, self.clock.now_ns))

    def _fragments_expired(self, packet: Packet, user: DefragUser) -> None:
        """``ip_expire``: conntrack gathers for others too, and only our own senders are told."""
        data = packet.data
        local = self.datapath.address_type(data[16:20]) == RouteType.LOCAL
        if user != DefragUser.LOCAL_DELIVER and not local:
            self.datapath.discard(packet, DropReason.FRAGMENT_BAD)
            return
        about = replace(About.of(packet), route_type=RouteType.LOCAL if local else packet.route_type, related=None)
        self.icmp.error(about, IcmpType.TIME_EXCEEDED, EXC_FRAGTIME)
        self.datapath.discard(packet, DropReason.FRAGMENT_BAD)

    # ----------------------------------------------------------------------------------------------------------- routing

    def route_output(self, daddr: bytes, *, saddr: bytes = b"", ifindex: int = 0, mark: int = 0) -> OutputRoute:
        """``ip_route_output_key``: the way, and the source address to use.

        Raises:
            OSError: As connect(2) would: ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL, ENODEV.
        """
        family = family_of(daddr)
        any_address = bytes(len(daddr))
        if saddr == any_address:
            saddr = b""
        limited = family == AF_INET and daddr == b"\xff\xff\xff\xff"
        multicast = daddr[0] >> 4 == 14 if family == AF_INET else daddr[0] == 0xFF
        if saddr and family == AF_INET:
            if saddr[0] >> 4 == 14 or saddr == b"\xff\xff\xff\xff":
                raise OSError(errno.EINVAL, f"{ip_to_text(saddr)} cannot be a source")
            if not ifindex and not self.is_local(saddr):
                raise OSError(errno.EINVAL, f"{ip_to_text(saddr)} is not an address of {self.name}")
            if not ifindex and (multicast or limited):
                ifindex = self._device_with(saddr)
        device = self.devices.find(ifindex) if ifindex else None
        if ifindex and device is None:
            raise OSError(errno.ENODEV, f"{self.name} has no interface {ifindex}")
        if device is not None and not device.up:
            raise OSError(errno.ENETUNREACH, f"{device.name} is down")
        if device is not None and family == AF_INET and (multicast or limited):
            saddr = saddr or self.select_address(device, b"", Scope.LINK)
            return OutputRoute(saddr, ifindex, min(device.mtu, _IP_MAX_MTU), False, limited)
        if daddr == any_address:
            daddr = saddr or (b"\x7f\0\0\1" if family == AF_INET else bytes(15) + b"\1")
        route_type, out, _, preferred, mtu = self.datapath.route(daddr, saddr=saddr, ifindex=ifindex, mark=mark)
        if route_type == 0 and device is not None:
            # "Apparently, routing tables are wrong. Assume, that the destination is on link."
            saddr = saddr or self.select_address(device, b"", Scope.LINK)
            return OutputRoute(saddr, ifindex, min(device.mtu, _IP_MAX_MTU), False, False)
        error = _ROUTE_ERRORS.get(route_type)
        if error is not None:
            raise OSError(error, f"{self.name}: no way to {ip_to_text(daddr)}")
        local = route_type == RouteType.LOCAL
        mtu = min(mtu, _IP_MAX_MTU)
        if not local:
            mtu = min(mtu, self._path_mtu(daddr) or mtu)
        return OutputRoute(saddr or preferred, out, mtu, local, limited or route_type == RouteType.BROADCAST)

    def _device_with(self, address: bytes) -> int:
        for device in self.devices:
            if any(entry.address == address for entry in device.addresses):
                return device.ifindex
        return 0

    def is_local(self, address: bytes) -> bool:
        return self.datapath.address_type(address) == RouteType.LOCAL

    def mtu(self, ifindex: int) -> int:
        """A device's MTU."""
        return self.devices.get(ifindex).mtu

    def route_input_type(self, device: NetDevice, sip: bytes, tip: bytes) -> tuple[int, int]:
        """``ip_route_input``: type and device of the route that a packet from ``sip`` to ``tip`` would get, (0, 0) where
        it would be a martian."""
        if sip[0] >> 4 == 14 or sip == b"\xff\xff\xff\xff" or sip[0] == 0:
            return 0, 0
        localnet = self.sysctls.conf_or(device.name, "route_localnet")
        if (sip[0] == 127 or tip[0] == 127) and not localnet:
            return 0, 0
        route_type, out, *_ = self.datapath.route(tip, saddr=sip, iif=device.ifindex)
        if route_type in (0, *_ROUTE_ERRORS) or not self._source_valid(device, sip):
            return 0, 0
        return route_type, out

    def _source_valid(self, device: NetDevice, sip: bytes) -> bool:
        """``fib_validate_source``."""
        if self.is_local(sip):
            return self.sysctls.conf_or(device.name, "accept_local")
        mode = self.sysctls.conf_max(device.name, "rp_filter")
        if not mode:
            return True
        route_type, out, *_ = self.datapath.route(sip)
        return route_type == RouteType.UNICAST and (mode == 2 or out == device.ifindex)

    def specific_destination(self, destination: bytes, source: bytes, ifindex: int) -> bytes:
        """``fib_compute_spec_dst``: our address in the place of the broadcast address that was asked."""
        if self.is_local(destination):
            return destination
        if source[0]:
            _, _, _, preferred, _ = self.datapath.route(source)
            if preferred:
                return bytes(preferred)
        return self.select_address(self.devices.find(ifindex), source, Scope.UNIVERSE if source[0] else Scope.LINK)

    # ---------------------------------------------------------------------------------------------------------- path MTU

    def update_pmtu(self, daddr: bytes, mtu: int, *, mark: int = 0) -> None:
        """``__ip_rt_update_pmtu``: a router said that this much fits towards ``daddr``."""
        try:
            route = self.route_output(daddr, mark=mark)
        except OSError:
            return
        if route.local or route.mtu < mtu:
            return
        old = self._path_mtus.get(daddr)
        if old is not None and old.locked and self._path_mtu(daddr):
            return
        floor = self.sysctls.number("net.ipv4.route.min_pmtu")
        locked = mtu < floor
        if locked:
            mtu = min(route.mtu, floor)
        expires = self.wheel.jiffies + self.sysctls.number("net.ipv4.route.mtu_expires") * HZ
        self._path_mtus[daddr] = PathMtu(mtu, locked, expires)

    def _path_mtu(self, daddr: bytes) -> int:
        """The learnt path MTU, 0 if there is none."""
        known = self._path_mtus.get(daddr)
        if known is None:
            return 0
        if self.wheel.jiffies > known.expires:
            del self._path_mtus[daddr]
            return 0
        return known.mtu

    def path_mtus_flush(self) -> None:
        """Forget learnt path MTUs (``ip route flush cache``)."""
        self._path_mtus.clear()

    def redirected(self, daddr: bytes, gateway: bytes, *, router: bytes, ifindex: int) -> None:
        """``__ip_do_redirect``: not obeyed; hosts here keep the next hop that their routes name."""

    # -------------------------------------------------------------------------------------------------------- the IpStack

    def send_ip(self, packet: bytes, *, ifindex: int = 0, mark: int = 0, uid: int = 0) -> None:
        """Send a complete IP packet of a local socket.

        Raises:
            OSError: What the sending call reports: EPERM, EMSGSIZE, ENETUNREACH, EINVAL.
        """
        error = self.local_out(packet, mark=mark, ifindex=ifindex, uid=uid)
        if error:
            raise OSError(error, errno.errorcode[error])

    def next_ip_id(self, saddr: bytes, daddr: bytes, protocol: int, segments: int = 1) -> int:
        """``__ip_select_ident``: a counter per addresses and protocol, pushed on by chance as time passes."""
        key = (saddr, daddr, protocol)
        place = f"{self.name}/ip.id"
        now = self.wheel.jiffies
        known = self._id_counters.get(key)
        if known is None:
            counter = self.choices.below(place, 1 << 16)
        else:
            counter, then = known
            counter += self.choices.below(place, now - then) if now > then else 0
        self._id_counters[key] = (counter + segments & 0xFFFF, now)
        return counter & 0xFFFF
