"""How a namespace is set up: what ip, bridge and sysctl change, kept here and told to the engine.

The engine holds what packets need; whoever asks how things are (``ip route``, ``bridge fdb``) is answered from here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from pktsim._fastpath import Datapath
from pktsim.clock import NS_PER_S, Clock
from pktsim.errors import TopologyError
from pktsim.fidelity import approximated
from pktsim.kernel.addrconf import ordered
from pktsim.kernel.fib import TABLE_MAIN, Fib, PolicyRule, Route, parse_route, parse_rule, rule_family
from pktsim.kernel.neighbour import Neighbour, NeighbourTable, Nud
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
    parse_prefix,
    select_address,
)
from pktsim.kernel.sysctl import Sysctls
from pktsim.netfilter.opcodes import LinkKind, Sysctl
from pktsim.netfilter.state import NetfilterState
from pktsim.rng import Choices
from pktsim.wire.addr import MAC_ZERO, ip_from_text, mac_from_text

approximated(
    "kernel.conntrack.limit",
    "nf_conntrack_max counts the entries of one namespace; Linux has one limit for all namespaces of the "
    "host, which only the initial one may change",
    source="net/netfilter/nf_conntrack_core.c __nf_conntrack_alloc",
)

#: ``BR_DEFAULT_AGEING_TIME``: how long a bridge remembers where an address was.
AGEING_NS: Final = 300 * NS_PER_S

#: Settings that the engine reads: whole names.
ENGINE_SETTINGS: Final = {
    "net.bridge.bridge-nf-call-iptables": Sysctl.BRIDGE_NF_CALL_IPTABLES,
    "net.bridge.bridge-nf-call-ip6tables": Sysctl.BRIDGE_NF_CALL_IP6TABLES,
    "net.ipv4.fib_multipath_hash_policy": Sysctl.FIB_MULTIPATH_HASH_POLICY,
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
#: Scopes of IPv6 groups (RFC 4291 section 2.7).
_INTERFACE_SCOPE: Final = 1
_LINK_SCOPE: Final = 2
_SITE_SCOPE: Final = 5
_HASH_SEED: Final = "net.ipv4.fib_multipath_hash_seed"
#: Fields of a route in the engine's form that is not one of several next hops.
_ONE_HOP: Final = 9
#: ... and per-interface ones.
ENGINE_CONF: Final = {
    ("net.ipv4.conf", "forwarding"): Sysctl.IP_FORWARD,
    ("net.ipv4.conf", "route_localnet"): Sysctl.ROUTE_LOCALNET,
    ("net.ipv4.conf", "rp_filter"): Sysctl.RP_FILTER,
    ("net.ipv4.conf", "accept_local"): Sysctl.ACCEPT_LOCAL,
    ("net.ipv4.conf", "send_redirects"): Sysctl.SEND_REDIRECTS,
    ("net.ipv4.conf", "shared_media"): Sysctl.SHARED_MEDIA,
    ("net.ipv4.conf", "src_valid_mark"): Sysctl.SRC_VALID_MARK,
    ("net.ipv6.conf", "force_forwarding"): Sysctl.IP6_FORCE_FORWARDING,
    ("net.ipv6.conf", "disable_ipv6"): Sysctl.DISABLE_IPV6,
}


def _read_rule(rule: str | PolicyRule, family: int) -> tuple[PolicyRule, int]:
    if isinstance(rule, str):
        return parse_rule(rule), family or rule_family(rule)
    return rule, family or (AF_INET6 if 16 in (len(rule.source), len(rule.destination)) else AF_INET)


class Configuration:
    """The setup of one namespace.

    Args:
        name: Unique in its world; used in captures and for the places that choices are asked at.
        clock: The world's time.
        choices: The world's chance.
    """

    arp_table: NeighbourTable  # the heir's, which knows how to ask
    nd_table: NeighbourTable

    def __init__(self, name: str, *, clock: Clock, choices: Choices) -> None:
        self.name = name
        self.clock = clock
        self.choices = choices
        self.datapath = Datapath(name, self._choose)
        self.datapath.context = NetfilterState(interface_name=lambda ifindex: self.devices.get(ifindex).name)
        self.devices = DeviceTable()
        self.sysctls = Sysctls(self._sysctl_changed)
        self.fib = Fib(self.devices, self._forwards6)
        #: Devices that forward IPv6.
        self._routers6: set[str] = set()
        #: Told of a whole-namespace setting that changed.
        self.setting_listeners: list[Callable[[str], None]] = []
        #: Told of the ifindex of a device that is going.
        self.removal_listeners: list[Callable[[int], None]] = []
        self._batches = 0
        self._several_next_hops = False
        self._fixed_mac: set[int] = set()
        self._fixed_mtu: set[int] = set()
        for setting in ENGINE_SETTINGS:
            self._sysctl_changed(setting, "", "")

    def _choose(self, place: str, kind: int, n: int) -> int:
        """What the engine draws by."""
        return self.choices.below(place, n) if kind == 0 else int(self.choices.chance(place, n))

    # ---------------------------------------------------------------------------------------------------------- devices

    def _add_loopback(self) -> None:
        device = NetDevice(self.devices.reserve_index(), "lo", LinkKind.LOOPBACK, MAC_ZERO, MTU_LOOPBACK, noarp=True)
        self._register(device)
        with self.batch():
            self.address_add("lo", "127.0.0.1/8", scope=Scope.HOST)
            self.address_add("lo", "::1/128", scope=Scope.HOST)

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
        for (family, key), setting in ENGINE_CONF.items():
            # without addresses it has no routes yet that route_localnet would be about
            self.datapath.sysctl_set(setting, self.sysctls.conf(family, device.name, key), device.ifindex)
        if self._forwards6(device.name):
            self._routers6.add(device.name)
            # ipv6_add_dev joins one group of all routers, dev_forward_change all of them
            self.datapath.all_routers_set(device.ifindex, 1 << _LINK_SCOPE)

    def _push_link(self, device: NetDevice) -> None:
        self.datapath.link_set(
            device.ifindex,
            device.name,
            device.kind,
            device.mac,
            device.mtu,
            route_mtu=device.route_mtu,
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
            if mtu != device.mtu:
                self._fixed_mtu.add(device.ifindex)
                device.mtu = device.route_mtu = mtu
        if mac:
            device.mac = mac_from_text(mac)
            self._fixed_mac.add(device.ifindex)
            for table in (self.arp_table, self.nd_table):
                table.flush(device.ifindex)  # neigh_changeaddr
        if hairpin is not None:
            device.hairpin = hairpin
        if master is not None:
            self._set_master(device, master)
        if up is not None and up != device.up:
            device.up = up
            self._push_link(device)
            if up:
                self.fib.link_up(device)
                self._addrconf_up(device)
            else:
                self.arp_table.flush(device.ifindex, permanent=True)
                self.fib.link_down(device, deleted=False)
                self._addrconf_down(device)
        self._push_link(device)
        if device.master:
            self._recalculate_bridge(self.devices.get(device.master))
        self._push_routes()

    def carrier_changed(self, name: str, *, up: bool) -> None:
        """The wire of a device was unplugged or plugged in again (``linkwatch_do_dev``).

        Addresses and routes stay; neighbours behind it are forgotten, and so is what a bridge learnt of a port.
        """
        device = self.devices.named(name)
        device.carrier = up
        if up:
            return
        for prefix, table, key in (
            ("net.ipv4.conf", self.arp_table, "arp_evict_nocarrier"),
            ("net.ipv6.conf", self.nd_table, "ndisc_evict_nocarrier"),
        ):
            if self.sysctls.conf(prefix, "all", key) and self.sysctls.conf(prefix, name, key):
                table.flush(device.ifindex)
        if device.master:
            self.datapath.fdb_flush(device.master, port=device.ifindex)

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
        if bridge.ifindex not in self._fixed_mac:
            bridge.mac = min((port.mac for port in ports), default=MAC_ZERO)
        mtu = min((port.mtu for port in ports), default=MTU_ETHERNET)
        if mtu != bridge.mtu and bridge.ifindex not in self._fixed_mtu:
            # the MTU that it was made with is not a setting of the user's
            bridge.mtu = bridge.route_mtu = mtu
        self._push_link(bridge)

    def link_delete(self, name: str) -> None:
        """``ip link delete``."""
        device = self.devices.named(name)
        if device.loopback:
            raise TopologyError("lo cannot be deleted", place=self.name)
        for port in [port for port in self.devices if port.master == device.ifindex]:
            self.link_set(port.name, master="")
        bridge = self.devices.find(device.master)
        for table in (self.arp_table, self.nd_table):
            table.device_gone(device.ifindex)
        self.fib.link_down(device, deleted=True)
        self.devices.remove(device)
        self._routers6.discard(name)
        self.sysctls.interface_removed(name)
        self.datapath.link_del(device.ifindex)
        for listener in self.removal_listeners:
            listener(device.ifindex)
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
        if len(host) == 16 and self.sysctls.conf("net.ipv6.conf", name, "disable_ipv6"):
            mend = f"set net.ipv6.conf.{name}.disable_ipv6 to 0"
            raise TopologyError(f"{name} does without IPv6, and so without {address}", place=self.name, mend=mend)
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
        if self._batches:
            return
        for family in (AF_INET, AF_INET6):
            self.datapath.addresses_set(
                family,
                [
                    (device.ifindex, entry.address, entry.prefix_length, entry.scope)
                    for device in self.devices
                    for entry in (ordered(device.addresses) if family == AF_INET6 else device.addresses)
                    if entry.family == family
                ],
            )

    def select_address(self, device: NetDevice | None, destination: bytes, scope: int) -> bytes:
        """``inet_select_addr``: a source address for what leaves by ``device``; empty if there is none."""
        localnet = device is not None and self.sysctls.conf_or(device.name, "route_localnet")
        return select_address(self.devices, device, destination, scope, route_localnet=localnet)

    # ----------------------------------------------------------------------------------------------------------- routes

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

    def rule_add(self, rule: str | PolicyRule, family: int = 0) -> None:
        """``ip rule add``; the family follows from the rule's addresses unless given (``ip -6``), and is IPv4 else."""
        self.fib.rule_add(*_read_rule(rule, family))
        self._push_routes()

    def rule_delete(self, rule: str | PolicyRule, family: int = 0) -> None:
        """``ip rule del``."""
        self.fib.rule_delete(*_read_rule(rule, family))
        self._push_routes()

    def rules(self, family: int = AF_INET) -> list[str]:
        """As ``ip rule`` prints them."""
        return [str(rule) for rule in self.fib.rules(family)]

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Tell the engine of addresses and routes only at the end: setting up a node of a large cluster takes many."""
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1
            if not self._batches:
                self._push_addresses()
                self._push_routes(everything=True)

    def _push_hash_seed(self) -> None:
        """``proc_fib_multipath_hash_set_seed``: without a seed one is drawn, once it is needed."""
        seed = self.sysctls.number(_HASH_SEED)
        if not seed and self._several_next_hops:
            seed = self.choices.below(f"{self.name}/fib.multipath_hash_seed", (1 << 32) - 1) + 1
        self.datapath.sysctl_set(Sysctl.FIB_MULTIPATH_HASH_SEED, seed)

    def _push_routes(self, *, everything: bool = False) -> None:
        """Tell the engine what changed; with ``everything`` also routes whose preferred source may have changed."""
        if self._batches:
            return
        dirty = set(self.fib.dirty)
        if everything:
            dirty.update((family, table) for family in (AF_INET, AF_INET6) for table in self.fib.tables(family))
        localnet = [device.name for device in self.devices if self.sysctls.conf_or(device.name, "route_localnet")]
        for family, table in sorted(dirty):
            routes = self.fib.engine_routes(family, table, localnet=localnet)
            if not self._several_next_hops and any(len(route) > _ONE_HOP for route in routes):
                self._several_next_hops = True
                self._push_hash_seed()
            self.datapath.routes_set(family, table, routes)
        self.fib.dirty.clear()
        self.datapath.custom_local_routes_set(self.fib.custom_local_routes)
        # Rules may name interfaces that have come or gone.
        for family in (AF_INET, AF_INET6):
            rules = self.fib.engine_rules(family)
            if rules or family in self.fib.rules_dirty:
                self.datapath.rules_set(family, rules)
        self.fib.rules_dirty.clear()

    # ------------------------------------------------------------------------------------------------------- neighbours

    def neighbour_table(self, address: bytes) -> NeighbourTable:
        """The neighbour table of an address's family."""
        return self.arp_table if len(address) == 4 else self.nd_table

    def neighbour_add(
        self, name: str, address: str, mac: str, state: Nud = Nud.PERMANENT, *, used: bool = False
    ) -> None:
        """``ip neigh replace ADDRESS lladdr MAC dev NAME nud …``; ``used``: packets have been sent to it before."""
        key = ip_from_text(address)
        self.neighbour_table(key).add(self.devices.named(name).ifindex, key, mac_from_text(mac), state, used=used)

    def neighbour_delete(self, name: str, address: str) -> bool:
        """``ip neigh del``. Returns whether there was one."""
        key = ip_from_text(address)
        return self.neighbour_table(key).delete(self.devices.named(name).ifindex, key)

    def neighbours_flush(self, *, permanent: bool = False) -> None:
        """``ip neigh flush all``."""
        for table in (self.arp_table, self.nd_table):
            table.flush(permanent=permanent)

    def neighbours(self) -> list[Neighbour]:
        """All entries of both families, sorted by interface and address."""
        entries = [*self.arp_table, *self.nd_table]
        return sorted(entries, key=lambda entry: (entry.ifindex, len(entry.address), entry.address))

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
            if static or self.clock.now_ns - seen_ns <= AGEING_NS
        ]

    # --------------------------------------------------------------------------------------------------------- settings

    def sysctl_set(self, name: str, value: str | int) -> None:
        """``sysctl -w``."""
        self.sysctls.set(name, value)

    def sysctl(self, name: str) -> int:
        return self.sysctls.number(name)

    def _sysctl_changed(self, family: str, interface: str, key: str) -> None:
        if not key:
            engine_key = ENGINE_SETTINGS.get(family)
            if engine_key is not None:
                self.datapath.sysctl_set(engine_key, self.sysctls.number(family))
            if family == _HASH_SEED:
                self._push_hash_seed()
            for listener in self.setting_listeners:
                listener(family)
            return
        if family == "net.ipv6.conf" and key == "forwarding" and interface == "all":
            self.datapath.sysctl_set(Sysctl.IP6_FORWARDING, self.sysctls.conf(family, interface, key))
        elif family == "net.ipv6.conf" and key == "forwarding" and interface in self.devices:
            self._router_changed(self.devices.named(interface))
        conf_key = ENGINE_CONF.get((family, key))
        if conf_key is None or interface == "default":
            return
        ifindex = 0 if interface == "all" else self.devices.named(interface).ifindex
        self.datapath.sysctl_set(conf_key, self.sysctls.conf(family, interface, key), ifindex)
        if key == "disable_ipv6" and ifindex:
            down = self.sysctls.conf(family, interface, key)
            (self._addrconf_down if down else self._addrconf_up)(self.devices.get(ifindex))
        if key == "route_localnet" and self.devices.find(LOOPBACK_IFINDEX) is not None:
            self._push_routes(everything=True)

    def _forwards6(self, name: str) -> bool:
        return bool(self.sysctls.conf("net.ipv6.conf", name, "forwarding"))

    def _router_changed(self, device: NetDevice) -> None:
        """``dev_forward_change``."""
        on = self._forwards6(device.name)
        if on == (device.name in self._routers6):
            return
        (self._routers6.add if on else self._routers6.discard)(device.name)
        scopes = sum(1 << scope for scope in (_INTERFACE_SCOPE, _LINK_SCOPE, _SITE_SCOPE)) if on else 0
        self.datapath.all_routers_set(device.ifindex, scopes)
        self.fib.router_changed(device)
        self._push_routes()

    def _addrconf_up(self, device: NetDevice) -> None:
        """``addrconf_notify``: of IPv6 addresses only the loopback one comes back."""
        disabled = self.sysctls.conf("net.ipv6.conf", device.name, "disable_ipv6")
        had = any(entry.family == AF_INET6 for entry in device.addresses)
        if device.loopback and device.up and not had and not disabled:
            self.address_add(device.name, "::1/128", scope=Scope.HOST)

    def _addrconf_down(self, device: NetDevice) -> None:
        """``addrconf_ifdown``: routes, neighbours and addresses go; these may be kept (keep_addr_on_down)."""
        conf = partial(self.sysctls.conf, "net.ipv6.conf")
        kept = max(conf("all", "keep_addr_on_down"), conf(device.name, "keep_addr_on_down")) > 0
        if not kept or conf(device.name, "disable_ipv6"):
            device.addresses[:] = [entry for entry in device.addresses if entry.family != AF_INET6]
        self.nd_table.flush(device.ifindex, permanent=True)
        self.fib.link_down(device, deleted=True, families=(AF_INET6,))
        self._push_addresses()
        self._push_routes(everything=True)
