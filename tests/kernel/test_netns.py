"""A namespace from outside: devices, source addresses, sending, settings that reach the engine, rules."""

from __future__ import annotations

import errno

import pytest

from pktsim.errors import TopologyError
from pktsim.kernel.netdev import Scope
from pktsim.netfilter.iptables_text import parse_save, print_save
from pktsim.netfilter.opcodes import DropReason, Hook, LinkKind, TableId
from pktsim.netfilter.ruleset import Family
from pktsim.wire import frame as build
from pktsim.wire.frame import FrameView
from tests.kernel.worlds import HOST_MAC, PEER_MAC, Host, host, ip, known_peer, mac, udp_packet

PEER = "10.0.0.9"


def single() -> Host:
    world = host()
    world.link("eth0", "10.0.0.1/24")
    known_peer(world, "eth0", PEER)
    return world


# ------------------------------------------------------------------------------------------------------------- devices


def test_interface_numbers_follow_creation_and_are_not_reused() -> None:
    netns = host().netns
    assert netns.devices.named("lo").ifindex == 1
    netns.link_add("eth0")
    netns.link_add("eth1")
    netns.link_delete("eth0")
    assert netns.link_add("eth2").ifindex == 4
    assert [device.name for device in netns.devices] == ["lo", "eth1", "eth2"]


@pytest.mark.parametrize(
    ("name", "part"),
    [("lo", "already"), ("", "cannot be"), ("a" * 16, "cannot be"), ("a b", "cannot be"), ("a/b", "cannot be")],
)
def test_bad_interface_name_is_refused(name: str, part: str) -> None:
    with pytest.raises(TopologyError, match=part):
        host().netns.link_add(name)


def test_mtu_out_of_range_is_refused() -> None:
    with pytest.raises(TopologyError, match="not in 68"):
        host().netns.link_add("eth0", mtu=20)


def test_drawn_mac_is_local_unicast_and_follows_the_seed() -> None:
    drawn = [host(seed=seed).netns.link_add("eth0").mac for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] & 3 == 2


def test_bridge_takes_lowest_mac_and_mtu_of_its_ports_unless_given() -> None:
    netns = host().netns
    netns.link_add("br0", LinkKind.BRIDGE, mtu=1450)  # what it was made with counts as its default
    netns.link_add("br1", LinkKind.BRIDGE, mac="02:00:00:00:00:77", mtu=1400)
    netns.link_set("br1", mtu=1500)
    one, other = netns.devices.named("br0"), netns.devices.named("br1")
    for bridge in ("br0", "br1"):
        netns.link_add(f"{bridge}-a", mac=f"02:00:00:00:{bridge[2:]}0:05", mtu=1400, master=bridge)
        netns.link_add(f"{bridge}-b", mac=f"02:00:00:00:{bridge[2:]}0:04", master=bridge)
    assert (one.mac, one.mtu) == (mac("02:00:00:00:00:04"), 1400)
    assert (other.mac, other.mtu) == (mac("02:00:00:00:00:77"), 1500)
    netns.link_delete("br0-b")
    assert one.mac == mac("02:00:00:00:00:05")
    netns.link_set("br0-a", master="")
    assert (one.mac, one.mtu) == (bytes(6), 1500)


def test_only_bridges_have_ports() -> None:
    netns = host().netns
    netns.link_add("eth0")
    with pytest.raises(TopologyError, match="not a bridge"):
        netns.link_add("eth1", master="eth0")


def test_deleted_bridge_sets_its_ports_free() -> None:
    netns = host().netns
    netns.link_add("br0", LinkKind.BRIDGE)
    netns.link_add("port", master="br0")
    netns.link_delete("br0")
    assert netns.devices.named("port").master == 0


def test_loopback_stays() -> None:
    with pytest.raises(TopologyError, match="lo cannot"):
        host().netns.link_delete("lo")


# --------------------------------------------------------------------------------------------------- source addresses


@pytest.mark.parametrize(
    ("destination", "source"),
    [
        ("10.0.0.9", "10.0.0.1"),
        ("10.0.1.9", "10.0.1.1"),  # the address in the destination's network
        ("192.0.2.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),  # itself
        ("127.0.0.1", "127.0.0.1"),
        ("127.1.2.3", "127.0.0.1"),
    ],
)
def test_source_follows_the_route(destination: str, source: str) -> None:
    world = host()
    world.link("eth0", "10.0.0.1/24", "10.0.1.1/24")
    world.netns.route_add("default via 10.0.0.9")
    assert world.netns.route_output(ip(destination)).saddr == ip(source)


def test_device_without_address_borrows_a_global_one() -> None:
    world = host()
    world.link("eth0", "192.168.0.11/24")
    world.link("cali1", mac="ee:ee:ee:ee:ee:ee")
    world.netns.route_add("10.244.1.2 dev cali1 scope link")
    assert world.netns.route_output(ip("10.244.1.2")).saddr == ip("192.168.0.11")


def test_wider_scope_than_asked_is_not_selected() -> None:
    world = host()
    world.link("eth0")
    world.netns.address_add("eth0", "10.0.0.1/24", scope=Scope.LINK)
    device = world.netns.devices.named("eth0")
    assert world.netns.select_address(device, b"", Scope.LINK) == ip("10.0.0.1")
    assert world.netns.select_address(device, b"", Scope.UNIVERSE) == b""


@pytest.mark.parametrize(
    ("daddr", "saddr", "code"),
    [
        ("192.0.2.1", "", errno.ENETUNREACH),
        ("10.1.0.1", "", errno.EHOSTUNREACH),
        ("10.2.0.1", "", errno.EACCES),
        ("10.3.0.1", "", errno.EINVAL),
        (PEER, "192.0.2.9", errno.EINVAL),  # not ours
        (PEER, "224.0.0.1", errno.EINVAL),
    ],
)
def test_route_error_is_what_connect_says(daddr: str, saddr: str, code: int) -> None:
    world = single()
    for kind, network in (("unreachable", "10.1.0.0/16"), ("prohibit", "10.2.0.0/16"), ("blackhole", "10.3.0.0/16")):
        world.netns.route_add(f"{kind} {network}")
    with pytest.raises(OSError) as caught:
        world.netns.route_output(ip(daddr), saddr=ip(saddr) if saddr else b"")
    assert caught.value.errno == code


def test_route_tells_local_broadcast_and_mtu() -> None:
    world = host()
    world.link("eth0", "10.0.0.1/24", mtu=1400)
    assert world.netns.route_output(ip("10.0.0.1")).local
    assert world.netns.route_output(ip("10.0.0.1")).mtu == 65535  # lo's 65536, but no IP packet is longer
    assert world.netns.route_output(ip("10.0.0.255")).broadcast
    assert world.netns.route_output(ip(PEER)).mtu == 1400


def test_socket_bound_to_a_device_reaches_addresses_without_route() -> None:
    world = host()
    world.link("eth0", "10.0.0.1/24")
    route = world.netns.route_output(ip("192.0.2.1"), ifindex=world.netns.devices.named("eth0").ifindex)
    assert (route.saddr, route.mtu) == (ip("10.0.0.1"), 1500)


# ------------------------------------------------------------------------------------------------------------ packets


def test_dropped_local_send_is_reported_by_output_and_postrouting_only() -> None:
    for chain, fails in (("OUTPUT", True), ("INPUT", False)):
        world = single()
        text = (
            f"*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A {chain} -j DROP\nCOMMIT\n"
        )
        world.netns.load_ruleset(parse_save(text, Family.IPV4))
        if fails:
            with pytest.raises(PermissionError):
                world.netns.send_ip(udp_packet("10.0.0.1", "10.0.0.1"))
        else:
            world.netns.send_ip(udp_packet("10.0.0.1", "10.0.0.1"))


def test_packet_to_ourselves_is_seen_once_on_lo_and_taken_after_what_is_under_way() -> None:
    world = single()
    socket = world.netns.sockets.udp()
    socket.bind("", 53)
    world.netns.send_ip(udp_packet("10.0.0.1", "10.0.0.1"))
    assert [(frame.interface, frame.direction) for frame in world.capture] == [("lo", "in")]
    world.run(0.001)
    assert len(world.capture) == 1  # taken: no port unreachable


def test_drops_are_told_with_their_reason() -> None:
    world = single()
    told: list[DropReason] = []
    world.netns.drop_listener = lambda pkt_id, reason, ifindex: told.append(reason)
    world.give_ip("eth0", udp_packet(PEER, "10.0.0.1"), dst="02:00:00:00:00:55")
    world.give_ip("eth0", udp_packet(PEER, "192.0.2.1"))
    assert told == [DropReason.OTHER_HOST, DropReason.NOT_FORWARDING]


def test_settings_reach_the_engine() -> None:
    world = single()
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02")
    known_peer(world, "eth1", "10.0.1.9")
    packet = udp_packet(PEER, "10.0.1.9")
    world.give_ip("eth0", packet)
    assert world.take() == []
    world.netns.sysctl_set("net.ipv4.ip_forward", 1)
    world.give_ip("eth0", packet)
    assert len(world.take()) == 1
    world.netns.sysctl_set("net.ipv4.conf.eth0.forwarding", 0)
    world.give_ip("eth0", packet)
    assert world.take() == []


def test_reverse_path_filter_is_per_interface() -> None:
    world = single()
    world.netns.sysctl_set("net.ipv4.ip_forward", 1)
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02")
    known_peer(world, "eth1", "10.0.1.9")
    spoofed = udp_packet("10.0.1.7", "10.0.1.9")
    world.give_ip("eth0", spoofed)
    assert len(world.take()) == 1
    world.netns.sysctl_set("net.ipv4.conf.eth0.rp_filter", 1)
    world.give_ip("eth0", spoofed)
    assert world.take() == []


def marking(world: Host, *rules: str) -> None:
    """All that comes in gets mark 1, and has a routing table of its own."""
    text = "*mangle\n-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"
    world.netns.load_ruleset(parse_save(text, Family.IPV4))
    world.netns.rule_add("fwmark 0x1 lookup 100")
    for rule in rules:
        world.netns.route_add(f"{rule} table 100")


def test_reverse_path_filter_looks_at_the_mark_only_where_told_to() -> None:
    world = single()
    world.netns.sysctl_set("net.ipv4.ip_forward", 1)
    world.netns.sysctl_set("net.ipv4.conf.all.rp_filter", 1)
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02")
    known_peer(world, "eth1", "10.0.1.9")
    marking(world, "10.0.1.0/24 dev eth1", "10.0.0.0/24 dev eth1")
    packet = udp_packet(PEER, "10.0.1.9")
    world.give_ip("eth0", packet)
    assert len(world.take()) == 1
    world.netns.sysctl_set("net.ipv4.conf.eth0.src_valid_mark", 1)
    world.give_ip("eth0", packet)
    assert world.take() == []
    world.netns.sysctl_set("net.ipv4.conf.eth0.src_valid_mark", 0)
    world.netns.sysctl_set("net.ipv4.conf.all.src_valid_mark", 1)
    world.give_ip("eth0", packet)
    assert world.take() == []


@pytest.mark.parametrize("reflected", [False, True])
def test_reset_of_a_closed_port_has_the_mark_of_what_it_answers_where_marks_are_reflected(reflected: bool) -> None:
    world = single()
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02")
    known_peer(world, "eth1", "10.0.1.9")
    marking(world, "default via 10.0.1.9")
    world.netns.sysctl_set("net.ipv4.fwmark_reflect", int(reflected))
    segment = build.tcp(ip(PEER), ip("10.0.0.1"), 40000, 80, seq=1000, flags=build.TcpFlag.SYN)
    world.give_ip("eth0", build.ipv4(ip(PEER), ip("10.0.0.1"), 6, segment))
    ((name, frame),) = world.take()
    assert name == ("eth1" if reflected else "eth0")
    assert FrameView(frame).tcp_flags & build.TcpFlag.RST


def test_sender_is_told_of_its_packet_not_of_a_copy() -> None:
    world = single()
    known_peer(world, "eth0", "10.0.0.8")
    text = "*mangle\n-A OUTPUT -j TEE --gateway 10.0.0.8\n-A POSTROUTING -m mark --mark 0x1 {} -j DROP\nCOMMIT\n"
    original = "-m conntrack ! --ctstate UNTRACKED"
    world.netns.load_ruleset(parse_save(text.format(original), Family.IPV4))
    with pytest.raises(PermissionError):
        world.netns.send_ip(udp_packet("10.0.0.1", PEER), mark=1)
    assert len(world.take()) == 1
    world.netns.load_ruleset(parse_save(text.format("-m conntrack --ctstate UNTRACKED"), Family.IPV4))
    world.netns.send_ip(udp_packet("10.0.0.1", PEER), mark=1)
    assert len(world.take()) == 1


RULES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:MINE - [0:0]
-A INPUT -p udp -m udp --dport 53 -j MINE
-A MINE -s 10.0.0.9/32 -j DROP
COMMIT
"""


def test_ruleset_comes_back_with_its_counters() -> None:
    world = single()
    world.netns.load_ruleset(parse_save(RULES, Family.IPV4))
    packet = udp_packet(PEER, "10.0.0.1")
    world.give_ip("eth0", packet)
    world.give_ip("eth0", packet)
    text = print_save(world.netns.ruleset(), counters=True)
    assert f"[2:{2 * len(packet)}] -A INPUT -p udp -m udp --dport 53 -j MINE" in text
    assert f"[2:{2 * len(packet)}] -A MINE -s 10.0.0.9/32 -j DROP" in text
    assert ":INPUT ACCEPT [0:0]" in text


def test_unloaded_table_is_not_traversed_any_more() -> None:
    world = single()
    world.netns.load_ruleset(parse_save(RULES, Family.IPV4))
    world.netns.load_ruleset(parse_save("", Family.IPV4))
    assert world.netns.ruleset().tables == ()
    world.give_ip("eth0", udp_packet(PEER, "10.0.0.1"))
    assert len(world.take()) == 1  # port unreachable


def test_held_packet_goes_on_when_released() -> None:
    world = single()
    world.netns.load_ruleset(parse_save(RULES.replace("-j DROP", "-j ACCEPT"), Family.IPV4))
    world.netns.hold(Hook.INPUT, TableId.FILTER)
    world.give_ip("eth0", udp_packet(PEER, "10.0.0.1"))
    assert world.take() == []
    (held,) = world.netns.held
    assert (held.hook, held.step) == (Hook.INPUT, TableId.FILTER)
    world.netns.release(held)
    assert world.netns.held == []
    assert len(world.take()) == 1


def test_identification_counts_per_destination_and_protocol() -> None:
    netns = host().netns
    source, destination = ip("10.0.0.1"), ip(PEER)
    first = netns.next_ip_id(source, destination, 17)
    assert netns.next_ip_id(source, destination, 17, segments=3) == (first + 1) % 65536
    assert netns.next_ip_id(source, destination, 17) == (first + 4) % 65536


def test_local_tcp_port_nobody_listens_at_answers_with_reset_and_mss_of_lo_fits() -> None:
    world = single()
    segment = build.tcp(ip(PEER), ip("10.0.0.1"), 40000, 80, seq=1, flags=build.TcpFlag.SYN)
    world.give_ip("eth0", build.ipv4(ip(PEER), ip("10.0.0.1"), 6, segment))
    (view,) = world.take_views()
    assert (view.tcp_flags, view.tcp_ack) == (build.TcpFlag.RST | build.TcpFlag.ACK, 2)
    assert view.dst_mac == mac(PEER_MAC)
    assert view.src_mac == mac(HOST_MAC)


def test_batch_tells_the_engine_once_at_its_end() -> None:
    world = single()
    with world.netns.batch():
        world.netns.address_add("eth0", "10.0.7.1/24")
        world.netns.route_add("192.0.2.0/24 via 10.0.7.9")
        assert not world.netns.is_local(ip("10.0.7.1"))
    assert world.netns.is_local(ip("10.0.7.1"))
    assert world.netns.route_output(ip("192.0.2.1")).saddr == ip("10.0.7.1")
