"""Asking and answering by ARP, and the states of a neighbour, on a link whose other end the test plays."""

from __future__ import annotations

import pytest

from pktsim.kernel.arp import ArpPacket
from pktsim.kernel.explain import Explainer
from pktsim.kernel.neighbour import Nud
from pktsim.wire.frame import FrameView
from tests.kernel.worlds import (
    HOST_MAC,
    PEER_MAC,
    Host,
    host,
    ip,
    known_peer,
    mac,
    reply,
    request,
    udp_packet,
)

PEER = "10.0.0.9"
EVERYBODY = b"\xff" * 6


def single(*, forward: bool = False) -> Host:
    world = host(forward=forward)
    world.link("eth0", "10.0.0.1/24")
    return world


def state(world: Host, address: str = PEER) -> Nud | None:
    entry = world.netns.arp_table.find(world.netns.devices.named("eth0").ifindex, ip(address))
    return entry.state if entry is not None else None


def send(world: Host, data: bytes = b"hello", daddr: str = PEER) -> None:
    world.netns.send_ip(udp_packet("10.0.0.1", daddr, data=data))


# ------------------------------------------------------------------------------------------------------------- asking


def test_packet_without_neighbour_waits_and_leaves_with_the_answer() -> None:
    world = single()
    send(world)
    ((name, destination, packet),) = world.take_arps()
    assert (name, destination) == ("eth0", EVERYBODY)
    assert packet == request("10.0.0.1", PEER, sha=HOST_MAC)
    assert state(world) == Nud.INCOMPLETE
    world.give_arp("eth0", reply(PEER, "10.0.0.1"), dst=HOST_MAC)
    (view,) = world.take_views()
    assert (view.dst_mac, view.daddr, view.payload) == (mac(PEER_MAC), ip(PEER), b"hello")
    assert state(world) == Nud.REACHABLE


def test_request_is_42_bytes_with_an_empty_target_address() -> None:
    world = single()
    send(world)
    ((_, frame),) = world.take()
    assert frame.hex() == "ffffffffffff020000000001" + "0806" + "0001080006040001" + "020000000001" + "0a000001" + (
        "000000000000" + "0a000009"
    )


def test_packets_that_wait_leave_in_order() -> None:
    world = single()
    for index in range(3):
        send(world, bytes([index]))
    assert len(world.take_arps()) == 1
    world.give_arp("eth0", reply(PEER, "10.0.0.1"), dst=HOST_MAC)
    assert [view.payload for view in world.take_views()] == [b"\0", b"\1", b"\2"]


def test_queue_forgets_the_oldest_when_full() -> None:
    world = single()
    world.netns.sysctl_set("net.ipv4.neigh.eth0.unres_qlen_bytes", 2000)  # two small packets
    for index in range(4):
        send(world, bytes([index]))
    world.take()
    world.give_arp("eth0", reply(PEER, "10.0.0.1"), dst=HOST_MAC)
    assert [view.payload for view in world.take_views()] == [b"\2", b"\3"]


def test_unanswered_request_is_repeated_twice_then_the_sender_is_told() -> None:
    world = single()
    start_ns = world.clock.now_ns
    send(world)
    send(world, b"second")
    asked = [0.0]
    world.take()
    while (due := world.clock.next_at_ns()) is not None and due < start_ns + 10_000_000_000:
        world.clock.step()
        asked += [(world.clock.now_ns - start_ns) / 1e9 for _ in world.take_arps()]
    assert len(asked) == 3
    assert asked[1:] == pytest.approx([1.0, 2.02], abs=0.05)
    assert state(world) == Nud.FAILED
    told = [FrameView(frame.frame) for frame in world.capture if frame.interface == "lo"]
    assert [(view.icmp_type, view.icmp_code) for view in told] == [(3, 1), (3, 1)]
    assert [view.saddr for view in told] == [ip("10.0.0.1")] * 2
    assert told[0].quoted is not None
    assert told[0].quoted.daddr == ip(PEER)


def test_failed_neighbour_is_asked_for_again_by_the_next_packet() -> None:
    world = single()
    send(world)
    world.run(5)
    world.take()
    send(world)
    assert len(world.take_arps()) == 1
    assert state(world) == Nud.INCOMPLETE


def test_forwarded_packet_is_asked_for_with_the_devices_own_address() -> None:
    world = single(forward=True)
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02")
    world.give_ip("eth1", udp_packet("10.0.1.9", PEER), dst="02:00:00:00:00:02")
    ((_, _, packet),) = world.take_arps()
    assert packet.sip == ip("10.0.0.1")


def test_device_without_address_asks_with_another_devices() -> None:
    world = host(forward=True)
    world.link("eth0", "192.168.0.11/24")
    world.link("cali1", mac="ee:ee:ee:ee:ee:ee")
    world.netns.route_add("10.244.1.2 dev cali1 scope link")
    world.give_ip("eth0", udp_packet("192.168.0.1", "10.244.1.2"))
    ((name, _, packet),) = world.take_arps()
    assert (name, packet.sip) == ("cali1", ip("192.168.0.11"))


@pytest.mark.parametrize(
    ("level", "source"),
    [(0, "10.0.0.7"), (1, "10.0.0.7"), (2, "10.0.0.1")],
)
def test_arp_announce_chooses_the_source(level: int, source: str) -> None:
    world = single()
    world.netns.address_add("eth0", "10.0.0.7/24")
    world.netns.sysctl_set("net.ipv4.conf.eth0.arp_announce", level)
    world.netns.send_ip(udp_packet("10.0.0.7", PEER))
    ((_, _, packet),) = world.take_arps()
    assert packet.sip == ip(source)


def test_foreign_source_is_announced_only_by_level_0() -> None:
    world = single()
    world.netns.address_add("lo", "192.0.2.1/32")
    world.netns.send_ip(udp_packet("192.0.2.1", PEER))
    assert world.take_arps()[0][2].sip == ip("192.0.2.1")
    world.netns.neighbours_flush()
    world.netns.sysctl_set("net.ipv4.conf.all.arp_announce", 1)
    world.netns.send_ip(udp_packet("192.0.2.1", PEER))
    assert world.take_arps()[0][2].sip == ip("10.0.0.1")


# ---------------------------------------------------------------------------------------------------------- answering


def test_request_for_our_address_is_answered_and_the_asker_remembered_as_stale() -> None:
    world = single()
    world.give_arp("eth0", request(PEER, "10.0.0.1"))
    ((_, destination, packet),) = world.take_arps()
    assert destination == mac(PEER_MAC)
    assert packet == reply("10.0.0.1", PEER, sha=HOST_MAC, tha=PEER_MAC)
    assert state(world) == Nud.STALE


def test_request_for_another_address_is_ignored_and_teaches_nothing() -> None:
    world = single()
    world.give_arp("eth0", request(PEER, "10.0.0.2"))
    assert world.take() == []
    assert state(world) is None


def test_probe_for_our_address_is_answered() -> None:
    world = single()
    world.give_arp("eth0", request("0.0.0.0", "10.0.0.1"))
    ((_, _, packet),) = world.take_arps()
    assert (packet.sip, packet.tip) == (ip("10.0.0.1"), bytes(4))


@pytest.mark.parametrize(
    ("level", "target", "asker", "answered"),
    [
        (0, "10.0.1.1", PEER, True),  # an address of another interface
        (1, "10.0.1.1", PEER, False),
        (1, "10.0.0.1", "192.0.2.9", True),
        (2, "10.0.0.1", "192.0.2.9", False),  # the asker is in no network of ours
        (2, "10.0.0.1", PEER, True),
        (8, "10.0.0.1", PEER, False),
    ],
)
def test_arp_ignore_decides_whether_to_answer(level: int, target: str, asker: str, answered: bool) -> None:
    world = single()
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02")
    world.netns.route_add("192.0.2.0/24 dev eth0")
    world.netns.sysctl_set("net.ipv4.conf.eth0.arp_ignore", level)
    world.give_arp("eth0", request(asker, target))
    assert bool(world.take()) == answered


def test_request_in_the_name_of_our_own_address_is_not_answered() -> None:
    world = single()
    world.give_arp("eth0", request("10.0.0.1", "10.0.0.1"))
    assert world.take() == []


def proxying(delay: int) -> Host:
    world = host(forward=True)
    world.link("eth0", "192.168.0.11/24")
    world.link("cali1", mac="ee:ee:ee:ee:ee:ee")
    world.netns.route_add("default via 192.168.0.1")
    world.netns.route_add("10.244.1.2 dev cali1 scope link")
    world.netns.sysctl_set("net.ipv4.conf.cali1.proxy_arp", 1)
    world.netns.sysctl_set("net.ipv4.neigh.cali1.proxy_delay", delay)
    return world


def test_proxy_answers_for_what_is_routed_elsewhere_at_once_without_delay() -> None:
    world = proxying(0)
    world.give_arp("cali1", request("10.244.1.2", "169.254.1.1"))
    ((name, _, packet),) = world.take_arps()
    assert (name, packet.sha, packet.sip) == ("cali1", mac("ee:ee:ee:ee:ee:ee"), ip("169.254.1.1"))


def test_proxy_answers_after_a_random_delay() -> None:
    world = proxying(80)
    world.give_arp("cali1", request("10.244.1.2", "169.254.1.1"))
    assert world.take() == []
    world.run(0.9)
    assert len(world.take_arps()) == 1


def test_proxy_does_not_answer_for_the_askers_own_link() -> None:
    world = proxying(0)
    world.netns.route_add("10.244.1.3 dev cali1 scope link")
    world.give_arp("cali1", request("10.244.1.2", "10.244.1.3"))
    assert world.take() == []


# ------------------------------------------------------------------------------------------------- states over time


def learnt(world: Host) -> None:
    """The peer has asked for us: its entry is STALE."""
    world.give_arp("eth0", request(PEER, "10.0.0.1"))
    world.take()


def test_stale_neighbour_is_used_then_probed_by_unicast_after_5_seconds() -> None:
    world = single()
    learnt(world)
    send(world)
    assert [view.payload for view in world.take_views()] == [b"hello"]
    assert state(world) == Nud.DELAY
    world.run(4.9)
    assert world.take() == []
    world.run(0.6)
    ((_, destination, packet),) = world.take_arps()
    assert destination == mac(PEER_MAC)
    assert packet == request("10.0.0.1", PEER, sha=HOST_MAC)
    assert state(world) == Nud.PROBE
    world.give_arp("eth0", reply(PEER, "10.0.0.1"), dst=HOST_MAC)
    assert state(world) == Nud.REACHABLE


def test_probe_without_answer_ends_in_failed_after_three() -> None:
    world = single()
    learnt(world)
    send(world)
    world.take()
    world.run(20)
    assert [destination for _, destination, _ in world.take_arps()] == [mac(PEER_MAC)] * 3
    assert state(world) == Nud.FAILED


def test_confirmed_neighbour_is_not_probed() -> None:
    world = single()
    learnt(world)
    send(world)
    world.take()
    world.run(3)
    world.netns.confirm_neighbour(ip(PEER))
    world.run(5)
    assert world.take() == []
    assert state(world) == Nud.REACHABLE


def test_unused_reachable_neighbour_becomes_stale_within_its_time() -> None:
    world = single()
    send(world)
    world.give_arp("eth0", reply(PEER, "10.0.0.1"), dst=HOST_MAC)
    world.take()
    world.run(14)  # at least half of 30 s
    assert state(world) == Nud.REACHABLE
    world.run(36)  # at most one and a half
    assert state(world) == Nud.STALE
    assert world.take() == []


def test_reachable_time_is_drawn_between_half_and_one_and_a_half() -> None:
    times = set()
    for seed in range(20):
        world = host(seed=seed)
        world.link("eth0", "10.0.0.1/24")
        times.add(world.netns.arp_table.reachable_time(world.netns.devices.named("eth0").ifindex) / 250)
    assert all(15 <= each < 45 for each in times)
    assert len(times) > 10


def test_permanent_neighbour_is_never_asked_for_nor_changed() -> None:
    world = single()
    world.netns.neighbour_add("eth0", PEER, PEER_MAC)
    send(world)
    assert len(world.take_views()) == 1
    world.give_arp("eth0", reply(PEER, "10.0.0.1", sha="02:00:00:00:00:55"), dst=HOST_MAC)
    world.run(60)
    assert state(world) == Nud.PERMANENT
    send(world)
    assert world.take_views()[0].dst_mac == mac(PEER_MAC)


def test_second_answer_within_locktime_does_not_replace_the_first() -> None:
    world = single()
    send(world)
    world.give_arp("eth0", reply(PEER, "10.0.0.1"), dst=HOST_MAC)
    world.give_arp("eth0", reply(PEER, "10.0.0.1", sha="02:00:00:00:00:55"), dst=HOST_MAC, src="02:00:00:00:00:55")
    world.take()
    send(world)
    assert world.take_views()[0].dst_mac == mac(PEER_MAC)
    world.run(1.1)
    world.give_arp("eth0", reply(PEER, "10.0.0.1", sha="02:00:00:00:00:55"), dst=HOST_MAC, src="02:00:00:00:00:55")
    send(world)
    assert world.take_views()[0].dst_mac == mac("02:00:00:00:00:55")


def test_gratuitous_announcement_replaces_at_once_but_proves_nothing() -> None:
    world = single()
    send(world)
    world.give_arp("eth0", reply(PEER, "10.0.0.1"), dst=HOST_MAC)
    world.take()
    world.give_arp("eth0", request(PEER, PEER, sha="02:00:00:00:00:55"), src="02:00:00:00:00:55")
    assert state(world) == Nud.STALE
    send(world)
    assert world.take_views()[0].dst_mac == mac("02:00:00:00:00:55")


def test_unsolicited_announcement_makes_no_entry_unless_accepted() -> None:
    world = single()
    world.give_arp("eth0", request(PEER, PEER))
    assert state(world) is None
    world.netns.sysctl_set("net.ipv4.conf.eth0.arp_accept", 1)
    world.give_arp("eth0", request(PEER, PEER))
    assert state(world) == Nud.STALE


def test_flush_forgets_learnt_entries_and_link_down_their_packets() -> None:
    world = single()
    learnt(world)
    world.netns.neighbours_flush()
    assert state(world) is None
    send(world)
    world.netns.link_set("eth0", up=False)
    world.netns.link_set("eth0", up=True)
    world.take()
    world.run(5)
    assert world.take() == []


def test_full_table_forgets_what_failed() -> None:
    world = single()
    for key, value in (("gc_thresh1", 2), ("gc_thresh2", 2), ("gc_thresh3", 4)):
        world.netns.sysctl_set(f"net.ipv4.neigh.default.{key}", value)
    for last in range(20, 26):
        send(world, daddr=f"10.0.0.{last}")
    assert len(world.netns.arp_table) == 4
    world.run(5)
    world.take()
    send(world, daddr="10.0.0.30")
    assert len(world.take_arps()) == 1
    assert state(world, "10.0.0.30") == Nud.INCOMPLETE


# -------------------------------------------------------------------------------------------------------- what is told

TOLD = [
    pytest.param({}, request(PEER, "10.0.0.1"), f"answered: 10.0.0.1 is at {HOST_MAC}", id="question"),
    pytest.param({}, request("0.0.0.0", "10.0.0.1"), f"answered: 10.0.0.1 is at {HOST_MAC}", id="probe"),
    pytest.param({}, reply("0.0.0.0", "10.0.0.1"), "nothing is learnt from it: it has no sender's address", id="any"),
    pytest.param(
        {},
        reply(PEER, "10.0.0.1"),
        "nothing is learnt from it: nobody has asked for it (net.ipv4.conf.eth0.arp_accept)",
        id="unasked",
    ),
    pytest.param(
        {"net.ipv4.conf.eth0.arp_accept": 1},
        reply(PEER, "10.0.0.1"),
        f"the neighbour table has it: {PEER} is at {PEER_MAC} (STALE)",
        id="accepted",
    ),
    pytest.param(
        {},
        reply("10.0.0.8", "10.0.0.1"),
        "the address known is kept: the entry is PERMANENT",
        id="permanent",
    ),
    pytest.param(
        {"net.ipv4.ip_forward": 1, "net.ipv4.conf.eth0.proxy_arp": 1},
        request(PEER, "10.0.1.9"),
        "answered later (net.ipv4.neigh.eth0.proxy_delay)",
        id="proxy",
    ),
]


@pytest.mark.parametrize(("sysctls", "packet", "told"), TOLD)
def test_the_trace_tells_what_came_of_a_message(sysctls: dict[str, int], packet: ArpPacket, told: str) -> None:
    world = single()
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02")
    known_peer(world, "eth0", "10.0.0.8", "02:00:00:00:00:88")
    for key, value in sysctls.items():
        world.netns.sysctl_set(key, value)
    explainer = Explainer()
    explainer.attach(world.netns)
    world.give_arp("eth0", packet)
    assert explainer.visits[0].steps[-1].text == told
