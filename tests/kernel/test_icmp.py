"""What a namespace says in ICMP, what it keeps to itself, and how often."""

from __future__ import annotations

import pytest

from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.opcodes import LinkKind
from pktsim.netfilter.ruleset import Family
from pktsim.wire import frame as build
from pktsim.wire.frame import FrameView
from tests.kernel.worlds import BROADCAST, PEER_MAC, Host, echo_packet, host, ip, known_peer, mac, udp_packet

PEER = "10.0.0.9"
FAR = "192.0.2.9"


def router(*, limits: bool = False) -> Host:
    """eth0 towards 10.0.0.9, eth1 (MTU 1400) towards 10.0.1.9; errors are not limited unless asked for."""
    world = host(forward=True)
    world.link("eth0", "10.0.0.1/24")
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02", mtu=1400)
    known_peer(world, "eth0", PEER)
    known_peer(world, "eth1", "10.0.1.9")
    world.netns.route_add(f"default via {PEER}")
    if not limits:
        world.netns.sysctl_set("net.ipv4.icmp_ratemask", 0)
    return world


def only(world: Host) -> FrameView:
    (view,) = world.take_views()
    assert view.bad_checksums() == ()
    return view


def test_echo_is_answered_from_the_address_that_was_asked() -> None:
    world = router()
    world.give_ip("eth0", echo_packet(PEER, "10.0.1.1", data=b"0123456789", tos=0x10))
    view = only(world)
    assert (view.saddr, view.daddr) == (ip("10.0.1.1"), ip(PEER))
    assert (view.icmp_type, view.icmp_rest, view.payload) == (0, 0x12340001, b"0123456789")
    assert (view.ttl, view.tos, view.dont_fragment) == (64, 0x10, False)


def test_echo_can_be_switched_off() -> None:
    world = router()
    world.netns.sysctl_set("net.ipv4.icmp_echo_ignore_all", 1)
    world.give_ip("eth0", echo_packet(PEER, "10.0.0.1"))
    assert world.take() == []


def test_echo_to_a_broadcast_is_ignored_or_answered_from_the_device() -> None:
    world = router()
    world.give_ip("eth0", echo_packet(PEER, "10.0.0.255"), dst=BROADCAST)
    assert world.take() == []
    world.netns.sysctl_set("net.ipv4.icmp_echo_ignore_broadcasts", 0)
    world.give_ip("eth0", echo_packet(PEER, "10.0.0.255"), dst=BROADCAST)
    assert only(world).saddr == ip("10.0.0.1")


def test_echo_with_a_wrong_checksum_is_dropped() -> None:
    world = router()
    packet = bytearray(echo_packet(PEER, "10.0.0.1"))
    packet[-1] ^= 1
    world.give_ip("eth0", bytes(packet))
    assert world.take() == []


def test_timestamp_request_is_answered_with_milliseconds() -> None:
    world = router()
    message = build.icmp(13, 0, 0x00010002, (1234).to_bytes(4, "big") + bytes(8))
    world.give_ip("eth0", build.ipv4(ip(PEER), ip("10.0.0.1"), 1, message))
    view = only(world)
    assert view.icmp_type == 14
    now_ms = (1000).to_bytes(4, "big")
    assert view.payload == (1234).to_bytes(4, "big") + now_ms + now_ms


def test_closed_udp_port_is_unreachable_from_the_asked_address_quoting_all() -> None:
    world = router()
    packet = udp_packet(PEER, "10.0.1.1", data=b"x" * 20, tos=0x08)
    world.give_ip("eth0", packet)
    view = only(world)
    assert (view.saddr, view.icmp_type, view.icmp_code, view.icmp_rest) == (ip("10.0.1.1"), 3, 3, 0)
    assert (view.tos, view.ttl, view.dont_fragment) == (0xC8, 64, False)
    assert view.frame[view.network + 28 :] == packet


def test_error_quotes_no_more_than_576_bytes_in_all() -> None:
    world = router()
    world.give_ip("eth0", udp_packet(PEER, "10.0.0.1", data=b"x" * 1200))
    ((_, frame),) = world.take()
    assert len(frame) == 14 + 576


def test_unknown_protocol_is_unreachable() -> None:
    world = router()
    world.give_ip("eth0", build.ipv4(ip(PEER), ip("10.0.0.1"), 99, b"data"))
    assert (only(world).icmp_type, 0) == (3, 0)
    world.give_ip("eth0", build.ipv4(ip(PEER), ip("10.0.0.1"), 2, b"data"))  # IGMP has a handler
    assert world.take() == []


def test_expired_ttl_is_reported_by_the_device_towards_the_sender() -> None:
    world = router()
    world.give_ip("eth0", udp_packet(PEER, "10.0.1.9", ttl=1))
    view = only(world)
    assert (view.saddr, view.icmp_type, view.icmp_code) == (ip("10.0.0.1"), 11, 0)
    quoted = view.quoted
    assert quoted is not None
    assert quoted.ttl == 1


def test_inbound_address_is_used_where_asked() -> None:
    world = router()
    world.netns.sysctl_set("net.ipv4.icmp_errors_use_inbound_ifaddr", 1)
    world.give_ip("eth1", udp_packet(FAR, "10.0.0.9", ttl=1), dst="02:00:00:00:00:02")
    assert only(world).saddr == ip("10.0.1.1")


def test_packet_larger_than_the_next_link_needs_fragmentation() -> None:
    world = router()
    world.give_ip("eth0", udp_packet(PEER, "10.0.1.9", data=b"x" * 1400, dont_fragment=True))
    view = only(world)
    assert (view.icmp_type, view.icmp_code, view.icmp_rest) == (3, 4, 1400)


@pytest.mark.parametrize(
    ("route", "code"),
    [("unreachable 203.0.113.0/24", 1), ("prohibit 203.0.113.0/24", 13), ("blackhole 203.0.113.0/24", None)],
)
def test_route_that_refuses_has_its_own_answer(route: str, code: int | None) -> None:
    world = router()
    world.netns.route_add(route)
    world.give_ip("eth0", udp_packet(PEER, "203.0.113.1"))
    codes = [view.icmp_code for view in world.take_views()]
    assert codes == ([] if code is None else [code])


def test_no_route_is_reported_five_times_then_once_a_second() -> None:
    world = router()
    world.netns.route_delete("default")
    for _ in range(8):
        world.give_ip("eth0", udp_packet(PEER, FAR))
    assert len(world.take()) == 5
    world.run(1.1)
    for _ in range(3):
        world.give_ip("eth0", udp_packet(PEER, FAR))
    assert len(world.take()) == 1


@pytest.mark.parametrize(
    ("name", "packet", "destination"),
    [
        ("a later fragment", build.ipv4(ip(PEER), ip("10.0.1.9"), 17, b"x" * 16, ttl=1, fragment_offset=8), None),
        ("an error", build.ipv4(ip(PEER), ip("10.0.1.9"), 1, build.icmp(3, 1, 0, b"x" * 28), ttl=1), None),
        ("an unknown ICMP type", build.ipv4(ip(PEER), ip("10.0.1.9"), 1, build.icmp(77), ttl=1), None),
        ("a broadcast", udp_packet(PEER, "10.0.0.255"), BROADCAST),
        ("a broadcast frame", udp_packet(PEER, "10.0.0.1"), BROADCAST),
    ],
)
def test_no_error_is_sent_about(name: str, packet: bytes, destination: str | None) -> None:
    world = router()
    if destination is None:
        world.give_ip("eth0", packet)
    else:
        world.give_ip("eth0", packet, dst=destination)
    assert world.take() == [], name


def test_error_about_an_echo_request_is_sent() -> None:
    world = router()
    world.give_ip("eth0", echo_packet(PEER, "10.0.1.9", ttl=1))
    assert only(world).icmp_type == 11


def test_errors_to_one_address_are_limited_to_six_then_one_a_second() -> None:
    world = router(limits=True)
    for _ in range(10):
        world.give_ip("eth0", udp_packet(PEER, "10.0.0.1"))
    assert len(world.take()) == 6
    world.run(1.1)
    for _ in range(3):
        world.give_ip("eth0", udp_packet(PEER, "10.0.0.1"))
    assert len(world.take()) == 1


def test_all_errors_together_are_limited_by_a_burst() -> None:
    world = router(limits=True)
    world.netns.sysctl_set("net.ipv4.icmp_ratelimit", 0)
    world.netns.sysctl_set("net.ipv4.icmp_msgs_burst", 10)
    for _ in range(200):
        world.give_ip("eth0", udp_packet(PEER, "10.0.0.1"))
    # each message takes 0, 1 or 2 of the 10
    assert 5 <= len(world.take()) <= 30


def test_path_mtu_messages_are_not_limited() -> None:
    world = router(limits=True)
    for _ in range(20):
        world.give_ip("eth0", udp_packet(PEER, "10.0.1.9", data=b"x" * 1400, dont_fragment=True))
    assert len(world.take()) == 20


def echo_answer(size: int) -> bytes:
    return build.ipv4(ip("10.0.0.1"), ip(FAR), 1, build.icmp(0, 0, 1, b"x" * size))


def fragmentation_needed(world: Host, sent: bytes, mtu: int) -> None:
    message = build.icmp(3, 4, mtu, sent[:100])
    world.give_ip("eth0", build.ipv4(ip("198.51.100.1"), ip("10.0.0.1"), 1, message))


def test_learnt_path_mtu_is_used_and_forgotten_after_ten_minutes() -> None:
    world = router()
    fragmentation_needed(world, echo_answer(1300), 1280)
    assert world.netns.route_output(ip(FAR)).mtu == 1280
    assert world.netns.route_output(ip("192.0.2.10")).mtu == 1500
    world.run(601)
    assert world.netns.route_output(ip(FAR)).mtu == 1500


def test_path_mtu_below_the_floor_stops_there() -> None:
    world = router()
    fragmentation_needed(world, echo_answer(1300), 100)
    assert world.netns.route_output(ip(FAR)).mtu == 552


@pytest.mark.parametrize(
    ("sent", "learnt"),
    [
        (echo_answer(8), True),
        (echo_packet("10.0.0.1", FAR), False),
        (udp_packet("10.0.0.1", FAR, sport=4000), True),
        (udp_packet("10.0.0.1", FAR, sport=4001), False),
        (build.ipv4(ip("10.0.0.1"), ip(FAR), 6, bytes(20)), False),
        (build.ipv4(ip("10.0.0.1"), ip(FAR), 47, bytes(20)), False),
        (build.ipv4(ip("10.0.0.1"), ip(FAR), 99, bytes(20)), True),
    ],
    ids=["echo reply", "echo of nobody", "UDP socket", "UDP of nobody", "TCP of nobody", "GRE of nobody", "raw socket"],
)
def test_path_mtu_is_learnt_from_what_was_sent_from_here_only(sent: bytes, *, learnt: bool) -> None:
    world = router()
    world.netns.sockets.udp().bind("10.0.0.1", 4000)
    world.netns.sockets.raw(99)
    fragmentation_needed(world, sent, 1280)
    assert world.netns.route_output(ip(FAR)).mtu == (1280 if learnt else 1500)


# -------------------------------------------------------------------------------------------------------------- REJECT


def rules(world: Host, *lines: str) -> None:
    head = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
    world.netns.load_ruleset(parse_save("\n".join([*head, *lines, "COMMIT", ""]), Family.IPV4))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("icmp-net-unreachable", 0),
        ("icmp-host-unreachable", 1),
        ("icmp-proto-unreachable", 2),
        ("icmp-port-unreachable", 3),
        ("icmp-net-prohibited", 9),
        ("icmp-host-prohibited", 10),
        ("icmp-admin-prohibited", 13),
    ],
)
def test_rejected_packet_is_answered_with_its_code(kind: str, code: int) -> None:
    world = router()
    rules(world, f"-A FORWARD -j REJECT --reject-with {kind}")
    world.give_ip("eth0", udp_packet(PEER, "10.0.1.9"))
    view = only(world)
    assert (view.saddr, view.icmp_type, view.icmp_code) == (ip("10.0.0.1"), 3, code)
    quoted = view.quoted
    assert quoted is not None
    assert quoted.ttl == 63


def tcp_packet(flags: int, *, data: bytes = b"", seq: int = 1000, ack: int = 0) -> bytes:
    source, destination = ip(PEER), ip("10.0.1.9")
    segment = build.tcp(source, destination, 40000, 80, seq=seq, ack=ack, flags=build.TcpFlag(flags), payload=data)
    return build.ipv4(source, destination, 6, segment)


@pytest.mark.parametrize(
    ("name", "flags", "data", "answer"),
    [
        ("a SYN", 0x02, b"", (0, 1001, 0x14)),
        ("data without ACK", 0x00, b"12345", (0, 1005, 0x14)),
        ("a FIN", 0x01, b"", (0, 1001, 0x14)),
        ("an acknowledgement", 0x10, b"12", (7777, 0, 0x04)),
    ],
)
def test_reset_answers(name: str, flags: int, data: bytes, answer: tuple[int, int, int]) -> None:
    world = router()
    rules(world, "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset")
    world.give_ip("eth0", tcp_packet(flags, data=data, ack=7777 if flags & 0x10 else 0))
    view = only(world)
    assert (view.tcp_seq, view.tcp_ack, int(view.tcp_flags)) == answer, name
    assert (view.saddr, view.sport, view.dport) == (ip("10.0.1.9"), 80, 40000)
    assert (view.identification, view.dont_fragment, view.ttl) == (0, True, 64)


def test_reset_is_not_answered_with_a_reset() -> None:
    world = router()
    rules(world, "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset")
    world.give_ip("eth0", tcp_packet(0x04))
    assert world.take() == []


def test_reset_for_what_a_bridge_has_passed_up_goes_straight_back_by_its_port() -> None:
    world = router()
    world.netns.link_add("br0", LinkKind.BRIDGE, mac="02:00:00:00:00:0b")
    world.netns.address_add("br0", "10.0.2.1/24")
    port = world.netns.link_add("pod0", mac="02:00:00:00:00:0c", master="br0")
    port.carry = lambda frame: world.sent.append(("pod0", frame))
    rules(world, "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset", "-A OUTPUT -j DROP")
    source, destination = ip("10.0.2.9"), ip("10.0.1.9")
    segment = build.tcp(source, destination, 40000, 80, seq=1000, flags=build.TcpFlag.SYN)
    packet = build.ipv4(source, destination, 6, segment)
    for reached, answers in ((True, 1), (False, 0)):
        world.give_ip("pod0", packet, dst="02:00:00:00:00:0b")
        frames = world.take()
        assert [name for name, _ in frames] == ["pod0"] * answers, "neither OUTPUT nor a neighbour is asked"
        if frames:
            view = FrameView(frames[0][1])
            assert (view.dst_mac, view.src_mac) == (mac(PEER_MAC), mac("02:00:00:00:00:0b"))
        if reached:
            world.netns.address_delete("br0", "10.0.2.1/24")
            world.netns.route_add("unreachable 10.0.2.0/24")


def test_broken_packet_is_rejected_in_silence() -> None:
    world = router()
    rules(world, "-A FORWARD -j REJECT")
    packet = bytearray(udp_packet(PEER, "10.0.1.9"))
    packet[-1] ^= 1
    world.give_ip("eth0", bytes(packet))
    assert world.take() == []


def test_rejected_local_send_fails_with_eperm_and_the_answer_comes_over_lo() -> None:
    world = router()
    rules(world, "-A OUTPUT -p udp -j REJECT")
    with pytest.raises(PermissionError):
        world.netns.send_ip(udp_packet("10.0.0.1", FAR))
    assert world.take() == []
    (frame,) = world.capture.select(interface="lo")
    view = FrameView(frame.frame)
    assert (view.saddr, view.daddr, view.icmp_code) == (ip("10.0.0.1"), ip("10.0.0.1"), 3)
