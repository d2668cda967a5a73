"""Routing tables: routes as ``ip route`` reads and prints them, those that follow from addresses, and policy rules.

Looking a destination up is the engine's; this is the configuration side (net/ipv4/fib_frontend.c, fib_semantics.c):
what may be added, what an address brings with it and takes away, and which source address a route prefers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.kernel.netdev import (
    AF_INET,
    AF_INET6,
    DeviceTable,
    InterfaceAddress,
    NetDevice,
    Scope,
    family_of,
    network_of,
    parse_prefix,
    scope_text,
    select_address,
)
from pktsim.kernel.nexthop import NextHop, parse_next_hops
from pktsim.kernel.route_table import RouteTable
from pktsim.netfilter.opcodes import RouteType
from pktsim.wire.addr import ip_from_text, ip_to_text

TABLE_DEFAULT: Final = 253
TABLE_MAIN: Final = 254
TABLE_LOCAL: Final = 255
#: Prefixes that are too long for an address of all routers in their networks (RFC 6164).
_NO_ROUTERS: Final = 127
_TABLE_NAMES: Final = {"default": TABLE_DEFAULT, "main": TABLE_MAIN, "local": TABLE_LOCAL}

_TYPE_NAMES: Final = {route_type.name.lower(): route_type for route_type in RouteType}

#: ``RTPROT_*`` by the names of /etc/iproute2/rt_protos.
_PROTO_NAMES: Final = {
    "unspec": 0, "redirect": 1, "kernel": 2, "boot": 3, "static": 4, "gated": 8, "ra": 9, "mrt": 10, "zebra": 11,
    "bird": 12, "dnrouted": 13, "xorp": 14, "ntk": 15, "dhcp": 16, "keepalived": 18, "babel": 42, "ovn": 84,
    "openr": 99, "bgp": 186, "isis": 187, "ospf": 188, "rip": 189, "eigrp": 192,
}  # fmt: skip
_PROTO_TEXT: Final = {number: name for name, number in _PROTO_NAMES.items()}
PROTO_KERNEL: Final = 2
PROTO_BOOT: Final = 3

#: Routes that refuse need no device.
_REFUSALS: Final = frozenset((RouteType.BLACKHOLE, RouteType.UNREACHABLE, RouteType.PROHIBIT, RouteType.THROW))

#: Words of ``ip route`` that change where or how packets go and that have no counterpart here.
UNSUPPORTED_WORDS: Final = frozenset(
    ("nhid", "encap", "tos", "dsfield", "realm", "realms", "pervasive", "as", "from", "expires")
)
#: ... and those that a transport would have to heed.
METRIC_WORDS: Final = frozenset(
    ("advmss", "window", "rtt", "rttvar", "cwnd", "initcwnd", "initrwnd", "ssthresh", "rto_min", "hoplimit", "features",
     "quickack", "congctl", "fastopen_no_cookie", "reordering")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        device: The interface's name; empty for routes that refuse.
        gateway: The next hop, empty if the destination is on the link.
        source: The preferred source address, empty if it is chosen when used.
        mtu: 0 if the device's counts.
        mtu_locked: Path MTU discovery must not lower it, and forwarding heeds it.
        next_hops: Instead of gateway and device, where there are several.
    """

    destination: bytes
    prefix_length: int
    type: RouteType = RouteType.UNICAST
    gateway: bytes = b""
    device: str = ""
    source: bytes = b""
    scope: int = Scope.UNIVERSE
    proto: int = PROTO_BOOT
    metric: int = 0
    table: int = TABLE_MAIN
    onlink: bool = False
    mtu: int = 0
    mtu_locked: bool = False
    next_hops: tuple[NextHop, ...] = ()

    @property
    def family(self) -> int:
        return family_of(self.destination)

    @property
    def key(self) -> tuple[int, bytes, int, int]:
        """What two routes of a family may not share: table, destination, prefix length, metric."""
        return self.table, self.destination, self.prefix_length, self.metric

    def __str__(self) -> str:
        """As ``ip route`` prints it (``print_route`` of iproute2)."""
        words = []
        if self.type != RouteType.UNICAST:
            words.append(self.type.name.lower())
        if self.prefix_length == 0:
            words.append("default")
        elif self.prefix_length == len(self.destination) * 8:
            words.append(ip_to_text(self.destination))
        else:
            words.append(f"{ip_to_text(self.destination)}/{self.prefix_length}")
        if self.gateway:
            if len(self.gateway) != len(self.destination):
                words += ["via", "inet6", ip_to_text(self.gateway)]
            else:
                words += ["via", ip_to_text(self.gateway)]
        if self.device:
            words += ["dev", self.device]
        if self.table != TABLE_MAIN:
            words += ["table", table_text(self.table)]
        if self.proto != PROTO_BOOT:
            words += ["proto", _PROTO_TEXT.get(self.proto, str(self.proto))]
        if self.scope != Scope.UNIVERSE and self.family == AF_INET:
            words += ["scope", scope_text(self.scope)]
        if self.source:
            words += ["src", ip_to_text(self.source)]
        if self.metric:
            words += ["metric", str(self.metric)]
        if self.mtu:
            words += ["mtu", "lock", str(self.mtu)] if self.mtu_locked else ["mtu", str(self.mtu)]
        if self.onlink:
            words.append("onlink")
        if self.family == AF_INET6:
            words += ["pref", "medium"]
        words += map(str, self.next_hops)
        return " ".join(words)


def table_text(table: int) -> str:
    return next((name for name, number in _TABLE_NAMES.items() if number == table), str(table))


def table_number(text: str) -> int:
    """Read ``main``, ``local``, ``default`` or a number."""
    if text in _TABLE_NAMES:
        return _TABLE_NAMES[text]
    if text.isdigit() and 0 < int(text) < 2**32:
        return int(text)
    raise TopologyError(f"{text!r} is not a routing table", mend="a number, or one of main, local, default")


def parse_route(text: str, family: int = AF_INET) -> Route:
    """Read a route as ``ip route`` prints it or ``ip route add`` takes it.

    Args:
        text: ``default via 192.168.0.1 dev eth0 metric 100`` and the like.
        family: What ``default`` means; anything else says so itself.

    Raises:
        TopologyError: Not a route.
        UnsupportedFeature: A route with something that is not modelled (several next hops, encapsulation).
    """
    words = text.split()
    at = 0

    def argument() -> str:
        nonlocal at
        at += 1
        if at >= len(words):
            raise TopologyError(f"route {text!r}: {words[at - 1]!r} needs a value")
        return words[at]

    def number() -> int:
        word = argument()
        if not word.isdigit():
            raise TopologyError(f"route {text!r}: {word!r} is not a number")
        return int(word)

    if not words:
        raise TopologyError("an empty line is not a route")
    route_type = RouteType.UNICAST
    if words[0] in _TYPE_NAMES:
        route_type = _TYPE_NAMES[words[0]]
        at = 1
    if at >= len(words):
        raise TopologyError(f"route {text!r} has no destination")
    if words[at] in ("default", "all", "any"):
        destination, prefix_length = bytes(4 if family == AF_INET else 16), 0
        default = True
    else:
        destination, prefix_length = parse_prefix(words[at])
        default = False
    gateway = source = b""
    device = ""
    scope: int | None = None
    proto, metric, table, mtu = PROTO_BOOT, 0, TABLE_MAIN, 0
    onlink = locked = False
    next_hops: tuple[NextHop, ...] = ()
    at += 1
    while at < len(words):
        word = words[at]
        if word == "nexthop":
            next_hops = parse_next_hops(words[at + 1 :], text)
            break
        if word == "via":
            value = argument()
            gateway = ip_from_text(argument() if value in ("inet", "inet6") else value)
        elif word == "dev":
            device = argument()
        elif word == "src":
            source = ip_from_text(argument())
        elif word == "scope":
            scope = Scope.from_text(argument())
        elif word in ("proto", "protocol"):
            value = argument()
            if value not in _PROTO_NAMES and not value.isdigit():
                raise TopologyError(f"route {text!r}: {value!r} is not a routing protocol")
            proto = _PROTO_NAMES[value] if value in _PROTO_NAMES else int(value)
        elif word in ("metric", "priority", "preference"):
            metric = number()
        elif word == "table":
            table = table_number(argument())
        elif word == "mtu":
            if at + 1 < len(words) and words[at + 1] == "lock":
                locked = True
                at += 1
            mtu = number()
        elif word == "onlink":
            onlink = True
        elif word == "pref":
            if argument() not in ("low", "medium", "high"):
                raise TopologyError(f"route {text!r}: {words[at]!r} is not a preference", mend="low, medium or high")
            # RFC 4191 section 3.2: decides between routers that announce themselves
        elif word in ("linkdown", "dead"):
            pass  # printed, never given: follows from the device
        elif word in UNSUPPORTED_WORDS or word in METRIC_WORDS:
            raise UnsupportedFeature(f"route option {word!r}", mend=f"in {text!r}")
        else:
            raise TopologyError(f"route {text!r}: {word!r} is not known")
        at += 1
    if default and gateway and len(gateway) != len(destination):
        destination = bytes(len(gateway))
    if next_hops:
        if gateway or device:
            raise TopologyError(f"route {text!r}: via or dev, and next hops besides")
        if len(destination) != 4 or any(len(hop.gateway) not in (0, 4) for hop in next_hops):
            raise UnsupportedFeature("several next hops in IPv6", mend=f"in {text!r}")
        if len(next_hops) == 1:
            (only,) = next_hops
            gateway, device, onlink, next_hops = only.gateway, only.device, only.onlink, ()
    if gateway and len(gateway) != len(destination):
        raise UnsupportedFeature("route with a next hop of the other family", mend=f"in {text!r}")
    if scope is None:
        # iproute_modify: what ``ip route add`` fills in
        if route_type == RouteType.LOCAL:
            scope = Scope.HOST
        elif route_type in (RouteType.BROADCAST, RouteType.MULTICAST, RouteType.ANYCAST) or (
            route_type == RouteType.UNICAST and not gateway and not any(hop.gateway for hop in next_hops)
        ):
            scope = Scope.LINK
        else:
            scope = Scope.UNIVERSE
        if len(destination) == 16:
            scope = Scope.UNIVERSE
    if network_of(destination, prefix_length) != destination:
        raise TopologyError(
            f"route {text!r}: the destination has bits set beyond its prefix",
            mend=f"write {ip_to_text(network_of(destination, prefix_length))}/{prefix_length}",
        )
    return Route(
        destination,
        prefix_length,
        route_type,
        gateway,
        device,
        source,
        scope,
        proto,
        metric,
        table,
        onlink,
        mtu,
        locked,
        next_hops,
    )


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One line of ``ip rule``. Zero lengths, mask and an empty interface mean "any"."""

    priority: int
    table: int
    mark: int = 0
    mask: int = 0
    source: bytes = b""
    source_length: int = 0
    destination: bytes = b""
    destination_length: int = 0
    in_interface: str = ""

    def __str__(self) -> str:
        """As ``ip rule`` prints it."""
        words = [f"{self.priority}:", "from"]
        words.append(_rule_prefix(self.source, self.source_length) if self.source_length else "all")
        if self.destination_length:
            words += ["to", _rule_prefix(self.destination, self.destination_length)]
        if self.mask:
            mask = "" if self.mask == 0xFFFFFFFF else f"/{self.mask:#x}"
            words += ["fwmark", f"{self.mark:#x}{mask}"]
        if self.in_interface:
            words += ["iif", self.in_interface]
        return " ".join([*words, "lookup", table_text(self.table)])


def _rule_prefix(address: bytes, length: int) -> str:
    return ip_to_text(address) if length == len(address) * 8 else f"{ip_to_text(address)}/{length}"


_EVERYTHING: Final = ("all", "any", "default", "0/0")
DEFAULT_RULES: Final = (PolicyRule(0, TABLE_LOCAL), PolicyRule(32766, TABLE_MAIN), PolicyRule(32767, TABLE_DEFAULT))


def parse_rule(text: str) -> PolicyRule:
    """Read a policy rule as ``ip rule`` prints it or ``ip rule add`` takes it.

    A rule without a priority gets 0 here, and the next free one when added.
    """
    words = text.split()
    fields: dict[str, str] = {}
    if words and words[0].endswith(":"):
        fields["priority"] = words.pop(0)[:-1]
    names = {"pref": "priority", "order": "priority", "lookup": "table", "mark": "fwmark", "dev": "iif"}
    if len(words) % 2:
        raise TopologyError(f"rule {text!r}: {words[-1]!r} needs a value")
    for word, value in zip(words[::2], words[1::2], strict=True):
        name = names.get(word, word)
        if name not in ("priority", "from", "to", "fwmark", "iif", "table"):
            raise UnsupportedFeature(f"policy rule with {word!r}", mend=f"in {text!r}")
        fields[name] = value
    if "table" not in fields:
        raise UnsupportedFeature("policy rule without a table", mend=f"in {text!r}")
    source, source_length = _parse_rule_prefix(fields.get("from", "all"))
    destination, destination_length = _parse_rule_prefix(fields.get("to", "all"))
    mark_text, _, mask_text = fields.get("fwmark", "0/0").partition("/")
    try:
        mark = int(mark_text, 0)
        mask = int(mask_text, 0) if mask_text else 0xFFFFFFFF
        priority = int(fields.get("priority", "0"))
    except ValueError as error:
        raise TopologyError(f"rule {text!r}: {error}") from None
    return PolicyRule(
        priority, table_number(fields["table"]), mark & mask, mask, source, source_length, destination,
        destination_length, fields.get("iif", ""),
    )  # fmt: skip


def rule_family(text: str) -> int:
    """The family of a rule in text: that of its addresses, IPv4 without any."""
    words = text.split()
    found = {
        AF_INET6 if ":" in value else AF_INET
        for word, value in itertools.pairwise(words)
        if word in ("from", "to") and value not in _EVERYTHING
    }
    if len(found) > 1:
        raise TopologyError(f"rule {text!r}: addresses of both families")
    return found.pop() if found else AF_INET


def _parse_rule_prefix(text: str) -> tuple[bytes, int]:
    if text in _EVERYTHING:
        return b"", 0
    address, length = parse_prefix(text)
    return (network_of(address, length), length) if length else (b"", 0)


class Fib:
    """The routes and policy rules of one namespace.

    It never talks to the engine: its owner asks for :meth:`engine_routes` of the tables in :attr:`dirty`.

    Args:
        devices: Of the namespace.
        is_router: Whether a device forwards IPv6.
    """

    def __init__(self, devices: DeviceTable, is_router: Callable[[str], bool] = lambda _: False) -> None:
        self._devices = devices
        self._is_router = is_router
        #: family -> table -> routes; of equal destination and metric the first added is used
        self._tables: dict[int, dict[int, RouteTable]] = {AF_INET: {}, AF_INET6: {}}
        self._rules: dict[int, list[PolicyRule]] = {AF_INET: list(DEFAULT_RULES), AF_INET6: [*DEFAULT_RULES[:2]]}
        self.dirty: set[tuple[int, int]] = set()
        #: ``fib_has_custom_local_routes``: an IPv4 local route was added by hand once.
        self.custom_local_routes = False
        self.rules_dirty: set[int] = set()

    # ----------------------------------------------------------------------------------------------------------- routes

    def routes(self, family: int = AF_INET, table: int = TABLE_MAIN) -> list[Route]:
        """A table's routes in the order of ``ip route``: by destination, longest prefix first, then metric."""
        routes = self._tables[family].get(table, RouteTable())
        return sorted(routes, key=lambda route: (route.destination, -route.prefix_length, route.metric))

    def tables(self, family: int = AF_INET) -> list[int]:
        return sorted(table for table, routes in self._tables[family].items() if routes)

    def add(self, route: Route, *, replace_existing: bool = False) -> None:
        """Add a route as ``ip route add`` (or ``replace``) does.

        Raises:
            TopologyError: There is such a route already, its device does not exist or is down, or its next hop
                cannot be reached.
        """
        route = self._checked(route)
        table = self._tables[route.family].setdefault(route.table, RouteTable())
        same = [old for old in table.at(route.destination, route.prefix_length) if old.metric == route.metric]
        if not same:
            table.add(route)
        elif replace_existing:
            table.replace(same[0], route)
        else:
            raise TopologyError(f"route {route}: there is one already: {same[0]}", mend="replace or delete that one")
        if route.type == RouteType.LOCAL and route.family == AF_INET:
            self.custom_local_routes = True
        self.dirty.add((route.family, route.table))

    def delete(self, route: Route) -> None:
        """Delete the first route that agrees with what ``route`` says.

        Raises:
            TopologyError: There is none.
        """
        table = self._tables[route.family].get(route.table, RouteTable())
        for old in table.at(route.destination, route.prefix_length):
            if (
                old.type == route.type
                and route.gateway in (b"", old.gateway)
                and route.device in ("", old.device)
                and route.source in (b"", old.source)
                and route.metric in (0, old.metric)
                and route.next_hops in ((), old.next_hops)
            ):
                table.remove(old)
                self.dirty.add((route.family, route.table))
                return
        raise TopologyError(f"route {route}: there is no such route")

    def _checked(self, route: Route) -> Route:
        if route.type in _REFUSALS:
            if route.device or route.gateway:
                raise TopologyError(f"route {route}: a route that refuses has neither device nor next hop")
            # An IPv6 reject route is one through the loopback device with the lowest priority (ip6_route_info_create).
            return route
        if route.next_hops:
            return replace(route, next_hops=tuple(self._checked_hop(route, hop) for hop in route.next_hops))
        if route.gateway and not route.onlink:
            device = self._device_towards(route)
            route = replace(route, device=device) if not route.device else route
        if not route.device:
            raise TopologyError(f"route {route}: neither a device nor a next hop", mend="add dev NAME or via ADDRESS")
        device_entry = self._devices.named(route.device)
        if not device_entry.up:
            raise TopologyError(f"route {route}: {route.device} is down")
        if (
            route.source
            and route.family == AF_INET
            and not any(a.address == route.source for d in self._devices for a in d.addresses)
            and self._type_in_local_table(route.source) != RouteType.LOCAL
        ):
            raise TopologyError(f"route {route}: {ip_to_text(route.source)} is not an address of this namespace")
        if route.family == AF_INET6 and route.metric == 0:
            route = replace(route, metric=1024)  # IP6_RT_PRIO_USER
        return route

    def _checked_hop(self, route: Route, hop: NextHop) -> NextHop:
        """What would be checked of a route with this next hop alone."""
        alone = replace(route, next_hops=(), gateway=hop.gateway, device=hop.device, onlink=hop.onlink)
        return replace(hop, device=self._checked(alone).device)

    def _type_in_local_table(self, address: bytes) -> RouteType | None:
        table = self._tables[family_of(address)].get(TABLE_LOCAL, RouteTable())
        return next((route.type for route in table.towards(address)), None)

    def _device_towards(self, route: Route) -> str:
        """``fib_check_nh_v4_gw``: the gateway must be on a link, as the routes so far know it."""
        best: Route | None = None
        for number in dict.fromkeys((TABLE_LOCAL, route.table, TABLE_MAIN)):
            table = self._tables[route.family].get(number, RouteTable())
            candidates = table.towards(route.gateway)
            best = next((other for other in candidates if route.device in ("", other.device)), None)
            if best is not None:
                break
        if route.family == AF_INET6:
            if route.device and (best is None or not best.gateway):
                return route.device  # link-local gateways need no route but fe80::/64, which every device has
        elif best is not None and best.type != RouteType.UNICAST:
            best = None
        if best is None or best.gateway or (route.family == AF_INET and best.scope < Scope.LINK):
            raise TopologyError(
                f"route {route}: its next hop is not on any link", mend="add the route to the next hop first, or onlink"
            )
        return best.device

    # ------------------------------------------------------------------------------- what follows from addresses, links

    def address_added(self, device: NetDevice, entry: InterfaceAddress) -> None:
        """``fib_add_ifaddr`` (IPv4) and ``addrconf``'s routes (IPv6)."""
        if entry.family == AF_INET:
            self._address_routes_v4(device, entry)
        else:
            self._address_routes_v6(device, entry)

    def _address_routes_v4(self, device: NetDevice, entry: InterfaceAddress) -> None:
        preferred = entry.address
        if entry.secondary:
            for other in device.addresses:
                if not other.secondary and other.prefix_length == entry.prefix_length and other.covers(entry.address):
                    preferred = other.address
        self._kernel_route(device, RouteType.LOCAL, entry.address, 32, preferred)
        if not device.up:
            return
        network = entry.network
        if entry.broadcast not in (b"", b"\xff\xff\xff\xff"):
            self._kernel_route(device, RouteType.BROADCAST, entry.broadcast, 32, preferred)
        if network[0] == 0 or entry.secondary or (network == entry.address and entry.prefix_length == 32):
            return
        if not entry.noprefixroute:
            route_type = RouteType.LOCAL if device.loopback else RouteType.UNICAST
            self._kernel_route(device, route_type, network, entry.prefix_length, preferred)
        if entry.prefix_length < 31:
            everybody = int.from_bytes(network, "big") | (1 << (32 - entry.prefix_length)) - 1
            self._kernel_route(device, RouteType.BROADCAST, everybody.to_bytes(4, "big"), 32, preferred)

    def _address_routes_v6(self, device: NetDevice, entry: InterfaceAddress) -> None:
        local = Route(entry.address, 128, RouteType.LOCAL, device=device.name, proto=PROTO_KERNEL, table=TABLE_LOCAL)
        self._insert(local)
        if device.up and not entry.noprefixroute and entry.prefix_length < 128 and not device.loopback:
            self._insert(Route(entry.network, entry.prefix_length, device=device.name, proto=PROTO_KERNEL, metric=256))
        if device.up and self._is_router(device.name):
            self._join_anycast(device, entry)

    def _join_anycast(self, device: NetDevice, entry: InterfaceAddress) -> None:
        """``addrconf_join_anycast``: the address of all routers of a network (RFC 4291 section 2.6.1)."""
        if entry.prefix_length < _NO_ROUTERS:
            self._insert(
                Route(entry.network, 128, RouteType.ANYCAST, device=device.name, proto=PROTO_KERNEL, table=TABLE_LOCAL)
            )

    def router_changed(self, device: NetDevice) -> None:
        """``dev_forward_change``: a device begins to forward IPv6, or stops."""
        if not self._is_router(device.name):
            table = self._tables[AF_INET6].get(TABLE_LOCAL, RouteTable())
            if table.keep(lambda route: route.type != RouteType.ANYCAST or route.device != device.name):
                self.dirty.add((AF_INET6, TABLE_LOCAL))
        elif device.up:
            for entry in device.addresses:
                if entry.family == AF_INET6:
                    self._join_anycast(device, entry)

    def _kernel_route(
        self, device: NetDevice, route_type: RouteType, destination: bytes, length: int, source: bytes
    ) -> None:
        """``fib_magic``."""
        table = TABLE_MAIN if route_type == RouteType.UNICAST else TABLE_LOCAL
        scope = Scope.HOST if route_type == RouteType.LOCAL else Scope.LINK
        self._insert(
            Route(
                destination, length, route_type, device=device.name, source=source, scope=scope, proto=PROTO_KERNEL,
                table=table,
            )
        )  # fmt: skip

    def _insert(self, route: Route) -> None:
        table = self._tables[route.family].setdefault(route.table, RouteTable())
        if route not in table:
            table.add(route)
            self.dirty.add((route.family, route.table))

    def addresses_changed(self, device: NetDevice, removed: InterfaceAddress) -> None:
        """``fib_del_ifaddr``: drop what followed from an address that the device does not have any more, and every
        route that preferred it as source."""
        still_wanted = Fib(self._devices, self._is_router)
        for entry in device.addresses:
            still_wanted.address_added(device, entry)
        for number, table in self._tables[removed.family].items():
            wanted = still_wanted._tables[removed.family].get(number, RouteTable())
            changed = table.keep(
                lambda route, wanted=wanted: (
                    not (  # type: ignore[misc]
                        (route.proto == PROTO_KERNEL and route.device == device.name and route not in wanted)
                        or (route.source == removed.address and not self._owned(removed.address))
                    )
                )
            )
            if changed:
                self.dirty.add((removed.family, number))

    def _owned(self, address: bytes) -> bool:
        return any(entry.address == address for device in self._devices for entry in device.addresses)

    def link_down(self, device: NetDevice, *, deleted: bool, families: Sequence[int] = (AF_INET, AF_INET6)) -> None:
        """``fib_sync_down_dev``: routes through a device go when it goes down, local ones only when it is deleted.

        One with several next hops goes when none is left; until then those that are dead keep their places.
        """
        for family in families:
            tables = self._tables[family]
            for number, table in tables.items():
                if table.keep(
                    lambda route: (
                        any(self._alive(hop.device) for hop in route.next_hops if hop.device != device.name)
                        if any(hop.device == device.name for hop in route.next_hops)
                        else route.device != device.name or (not deleted and route.type == RouteType.LOCAL)
                    )
                ):
                    self.dirty.add((family, number))

    def _alive(self, name: str) -> bool:
        return name in self._devices and self._devices.named(name).up

    def link_up(self, device: NetDevice) -> None:
        """The connected routes come back; routes that somebody had added do not."""
        for entry in device.addresses:
            self.address_added(device, entry)

    # ------------------------------------------------------------------------------------------------------------ rules

    def rules(self, family: int = AF_INET) -> list[PolicyRule]:
        return list(self._rules[family])

    def rule_add(self, rule: PolicyRule, family: int = AF_INET) -> None:
        """Add a policy rule; without a priority it goes before the second one (``fib_default_rule_pref``)."""
        rules = self._rules[family]
        if rule in rules:
            raise TopologyError(f"rule {rule}: there is one already")
        if rule.priority == 0 and rule.table != TABLE_LOCAL:
            second = rules[1].priority if len(rules) > 1 else 0
            rule = replace(rule, priority=max(second - 1, 0))
        index = next((i for i, other in enumerate(rules) if other.priority > rule.priority), len(rules))
        rules.insert(index, rule)
        self.rules_dirty.add(family)

    def rule_delete(self, rule: PolicyRule, family: int = AF_INET) -> None:
        if rule not in self._rules[family]:
            raise TopologyError(f"rule {rule}: there is no such rule")
        self._rules[family].remove(rule)
        self.rules_dirty.add(family)

    # ------------------------------------------------------------------------------------------------------- the engine

    def engine_routes(self, family: int, table: int, *, localnet: Iterable[str] = ()) -> list[tuple[Any, ...]]:
        """A table as :meth:`Datapath.routes_set` takes it, each route with the source address it prefers.

        Args:
            family: Of the table.
            table: Its number.
            localnet: Names of the devices with ``route_localnet``.
        """
        result: list[tuple[Any, ...]] = []
        local_devices = frozenset(localnet)
        for route in sorted(self._tables[family].get(table, RouteTable()), key=lambda route: route.metric):
            if route.next_hops:
                result += self._engine_hops(route, local_devices)
                continue
            device = self._devices.named(route.device) if route.device else None
            source = route.source
            if not source and device is not None and family == AF_INET:
                # fib_info_update_nhc_saddr: chosen by the next hop, no narrower than the route
                source = select_address(
                    self._devices, device, route.gateway, route.scope, route_localnet=route.device in local_devices
                )
            result.append(
                (
                    route.destination, route.prefix_length, int(route.type), route.scope, route.gateway,
                    device.ifindex if device else 0, source, route.mtu, route.metric,
                )
            )  # fmt: skip
        return result

    def _engine_hops(self, route: Route, localnet: frozenset[str]) -> Iterator[tuple[Any, ...]]:
        """One entry for each next hop whose device there is."""
        hops = [hop for hop in route.next_hops if hop.device in self._devices]
        for number, hop in enumerate(hops):
            device = self._devices.named(hop.device)
            source = route.source or select_address(
                self._devices, device, hop.gateway, route.scope, route_localnet=hop.device in localnet
            )
            yield (
                route.destination, route.prefix_length, int(route.type), route.scope, hop.gateway, device.ifindex,
                source, route.mtu, route.metric, hop.weight, number, len(hops),
            )  # fmt: skip

    def engine_rules(self, family: int) -> list[tuple[int, int, int, bytes, int, bytes, int, int, int]]:
        """The policy rules as :meth:`Datapath.rules_set` takes them; none if they are the usual ones."""
        if self._rules[family] in ([*DEFAULT_RULES], [*DEFAULT_RULES[:2]]):
            return []
        result = []
        empty = bytes(4 if family == AF_INET else 16)
        for rule in self._rules[family]:
            # A rule for an interface that does not exist (yet) matches nothing: no interface has this index.
            iif = 0
            if rule.in_interface:
                iif = (
                    self._devices.named(rule.in_interface).ifindex if rule.in_interface in self._devices else 0x7FFFFFFF
                )
            result.append(
                (
                    rule.priority, rule.mark, rule.mask, rule.source or empty, rule.source_length,
                    rule.destination or empty, rule.destination_length, iif, rule.table,
                )
            )  # fmt: skip
        return result
