"""Routes as text, the routes that addresses bring, and what may be added."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.errors import PktsimError, TopologyError, UnsupportedFeature
from pktsim.kernel.fib import TABLE_LOCAL, Route, parse_route, parse_rule
from pktsim.kernel.netdev import AF_INET6, Scope, network_of
from pktsim.netfilter.opcodes import RouteType
from tests.kernel.worlds import host


@pytest.mark.parametrize(
    "text",
    [
        "default via 192.168.0.1 dev eth0",
        "10.1.1.0/24 dev cni0 proto kernel scope link src 10.1.1.254",
        "198.51.100.10 via 192.168.0.11 dev eth0",
        "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "blackhole 10.96.0.0/12",
        "unreachable 10.0.0.0/8 metric 4278198272",
        "prohibit 192.0.2.1",
        "default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.9 metric 100 mtu lock 1400",
        "172.17.0.0/16 dev docker0 table 100 proto static scope link mtu 1450",
        "default via fd00::1 dev eth0 metric 1024 pref medium",
        "fd00:10:244:1::/64 dev cni0 proto kernel metric 256 pref medium",
    ],
)
def test_route_prints_as_it_was_read(text: str) -> None:
    assert str(parse_route(text)) == text


@st.composite
def routes(draw: st.DrawFn) -> Route:
    route_type = draw(st.sampled_from([RouteType.UNICAST, RouteType.BLACKHOLE, RouteType.UNREACHABLE]))
    length = draw(st.integers(0, 32))
    destination = network_of(draw(st.binary(min_size=4, max_size=4)), length)
    unicast = route_type == RouteType.UNICAST
    gateway = draw(st.sampled_from([b"", b"\x0a\0\0\1"])) if unicast else b""
    return Route(
        destination,
        length,
        route_type,
        gateway=gateway,
        device="eth0" if unicast else "",
        source=draw(st.sampled_from([b"", b"\x0a\0\0\2"])),
        scope=Scope.LINK if unicast and not gateway else Scope.UNIVERSE,
        proto=draw(st.sampled_from([2, 3, 4, 16, 200])),
        metric=draw(st.integers(0, 2**32 - 1)),
        table=draw(st.sampled_from([254, 253, 100])),
        onlink=bool(gateway) and draw(st.booleans()),
        mtu=draw(st.sampled_from([0, 1400])),
    )


@given(routes())
def test_any_route_survives_its_text(route: Route) -> None:
    assert parse_route(str(route)) == route


@pytest.mark.parametrize(
    ("text", "error", "part"),
    [
        ("", TopologyError, "empty"),
        ("10.0.0.0/33 dev eth0", TopologyError, "prefix length"),
        ("10.0.0.1/24 dev eth0", TopologyError, "write 10.0.0.0/24"),
        ("default via", TopologyError, "needs a value"),
        ("default metric x", TopologyError, "not a number"),
        ("default dev eth0 wibble 1", TopologyError, "'wibble' is not known"),
        ("10.0.0.0/8 via fd00::1 dev eth0", UnsupportedFeature, "other family"),
        ("default scope nearby", TopologyError, "not a scope"),
        ("unicast", TopologyError, "no destination"),
    ],
)
def test_bad_route_is_refused(text: str, error: type[PktsimError], part: str) -> None:
    with pytest.raises(error, match=part):
        parse_route(text)


def test_address_brings_its_routes() -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24")
    assert world.netns.routes() == ["10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.5"]
    assert world.netns.routes(table=TABLE_LOCAL) == [
        "local 10.0.0.5 dev eth0 proto kernel scope host src 10.0.0.5",
        "broadcast 10.0.0.255 dev eth0 proto kernel scope link src 10.0.0.5",
        "local 127.0.0.0/8 dev lo proto kernel scope host src 127.0.0.1",
        "local 127.0.0.1 dev lo proto kernel scope host src 127.0.0.1",
        "broadcast 127.255.255.255 dev lo proto kernel scope link src 127.0.0.1",
    ]


@pytest.mark.parametrize(
    ("address", "main", "broadcasts"),
    [
        ("10.0.0.5/32", 0, 0),
        ("10.0.0.4/31", 1, 0),
        ("10.0.0.5/30", 1, 1),
    ],
)
def test_small_networks_have_fewer_routes(address: str, main: int, broadcasts: int) -> None:
    world = host()
    world.link("eth0", address)
    assert len(world.netns.routes()) == main
    local = [route for route in world.netns.routes(table=TABLE_LOCAL) if "eth0" in route]
    assert sum(route.startswith("broadcast") for route in local) == broadcasts


def test_removed_address_takes_its_routes_and_those_that_prefer_it() -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24", "10.0.1.5/24")
    world.netns.route_add("192.0.2.0/24 dev eth0 src 10.0.0.5")
    world.netns.address_delete("eth0", "10.0.0.5/24")
    assert world.netns.routes() == ["10.0.1.0/24 dev eth0 proto kernel scope link src 10.0.1.5"]


def test_first_address_of_a_network_takes_the_others_with_it() -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24", "10.0.0.6/24")
    world.netns.address_delete("eth0", "10.0.0.5/24")
    assert world.netns.addresses("eth0") == []
    assert world.netns.routes() == []


def test_secondary_address_is_promoted_where_asked() -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24", "10.0.0.6/24")
    world.netns.sysctl_set("net.ipv4.conf.eth0.promote_secondaries", 1)
    world.netns.address_delete("eth0", "10.0.0.5/24")
    assert world.netns.routes() == ["10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.6"]


def test_down_link_loses_its_routes_and_up_restores_the_connected_ones() -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24")
    world.netns.route_add("default via 10.0.0.1")
    world.netns.link_set("eth0", up=False)
    assert world.netns.routes() == []
    local = [route for route in world.netns.routes(table=TABLE_LOCAL) if "eth0" in route]
    assert local == ["local 10.0.0.5 dev eth0 proto kernel scope host src 10.0.0.5"]
    world.netns.link_set("eth0", up=True)
    assert world.netns.routes() == ["10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.5"]


@pytest.mark.parametrize(
    ("route", "part"),
    [
        ("default via 172.16.0.1", "not on any link"),
        ("default via 172.16.0.1 dev eth0", "not on any link"),
        ("default via 10.0.0.5", "not on any link"),
        ("192.0.2.0/24 dev eth9", "no interface 'eth9'"),
        ("192.0.2.0/24", "neither a device nor a next hop"),
        ("192.0.2.0/24 dev eth0 src 10.9.9.9", "not an address"),
        ("10.0.0.0/24 dev eth0", "there is one already"),
        ("blackhole 192.0.2.0/24 dev eth0", "neither device nor next hop"),
    ],
)
def test_route_that_cannot_be_is_refused(route: str, part: str) -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24")
    with pytest.raises(TopologyError, match=part):
        world.netns.route_add(route)


def test_printed_table_is_restored_whatever_its_order() -> None:
    printed = ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]
    world = host()
    world.link("eth0", "10.244.1.2/32")
    world.netns.routes_restore(printed)
    assert world.netns.routes() == printed


def test_onlink_next_hop_needs_no_route() -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24")
    world.netns.route_add("10.244.2.0/24 via 10.244.2.0 dev eth0 onlink")
    assert "10.244.2.0/24 via 10.244.2.0 dev eth0 onlink" in world.netns.routes()


def test_deleted_route_is_gone_and_a_second_deletion_fails() -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24")
    world.netns.route_add("default via 10.0.0.1")
    world.netns.route_delete("default")
    assert "default" not in " ".join(world.netns.routes())
    with pytest.raises(TopologyError, match="no such route"):
        world.netns.route_delete("default")


def test_ipv6_address_brings_its_routes() -> None:
    world = host()
    world.link("eth0", "fd00::5/64")
    assert world.netns.routes(AF_INET6) == ["fd00::/64 dev eth0 proto kernel metric 256 pref medium"]


@pytest.mark.parametrize(
    "text",
    [
        "0: from all lookup local",
        "32766: from all lookup main",
        "100: from 10.0.0.0/8 to 192.0.2.1 fwmark 0x1/0xff iif eth0 lookup 100",
    ],
)
def test_rule_prints_as_it_was_read(text: str) -> None:
    assert str(parse_rule(text)) == text


def test_marked_packets_take_their_own_table() -> None:
    world = host()
    world.link("eth0", "10.0.0.5/24")
    world.link("eth1", "10.0.1.5/24", mac="02:00:00:00:00:02")
    world.netns.route_add("default via 10.0.0.1")
    world.netns.route_add("default via 10.0.1.1 table 100")
    world.netns.rule_add("fwmark 0x1 lookup 100")
    assert world.netns.rules()[1] == "32765: from all fwmark 0x1 lookup 100"
    eth0, eth1 = (world.netns.devices.named(name).ifindex for name in ("eth0", "eth1"))
    assert world.netns.route_output(b"\xc0\0\2\1").ifindex == eth0
    assert world.netns.route_output(b"\xc0\0\2\1", mark=1).ifindex == eth1
    world.netns.rule_delete("32765: from all fwmark 0x1 lookup 100")
    assert world.netns.route_output(b"\xc0\0\2\1", mark=1).ifindex == eth0


def test_rules_of_ipv6_are_its_own() -> None:
    world = host()
    world.netns.rule_add("from fd00::/64 lookup 100 priority 100")
    world.netns.rule_add("fwmark 0x1 lookup 101 priority 101", AF_INET6)
    added = ["100: from fd00::/64 lookup 100", "101: from all fwmark 0x1 lookup 101"]
    assert [rule for rule in world.netns.rules(AF_INET6) if rule in added] == added
    assert len(world.netns.rules()) == 3
    world.netns.rule_delete("100: from fd00::/64 lookup 100")
    assert added[0] not in world.netns.rules(AF_INET6)
    with pytest.raises(TopologyError, match="both families"):
        world.netns.rule_add("from 10.0.0.1 to fd00::1 lookup 100")
