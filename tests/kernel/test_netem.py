"""Bad links: what each setting does to frames, when they arrive, and what both ends' captures show."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pktsim.clock import NS_PER_MS, NS_PER_US
from pktsim.errors import TopologyError
from pktsim.kernel.netem import FrameRule, GilbertElliott, Netem, NetemQueue, rate_bits
from pktsim.kernel.netns import Netns
from pktsim.kernel.network import WIRE_DELAY_NS, Network
from pktsim.netfilter.opcodes import DropReason, LinkKind
from pktsim.rng import SeededChoices
from pktsim.wire.frame import FrameView
from pktsim.wire.frame_match import FrameMatch
from tests.kernel.worlds import mac, udp_packet

COUNT = 200
WHOLE = list(range(COUNT))


def pair(seed: int = 0) -> tuple[Network, Netns, Netns]:
    network = Network(choices=SeededChoices(seed))
    a, b = network.add_space("a"), network.add_space("b")
    network.add_veth(a, "eth0", b, "eth0", mac_a="02:00:00:00:00:0a", mac_b="02:00:00:00:00:0b")
    a.address_add("eth0", "10.0.0.1/24")
    b.address_add("eth0", "10.0.0.2/24")
    a.neighbour_add("eth0", "10.0.0.2", "02:00:00:00:00:0b")
    b.neighbour_add("eth0", "10.0.0.1", "02:00:00:00:00:0a")
    b.sockets.udp().bind("", 53)
    return network, a, b


def numbered(network: Network, space: str, direction: str) -> list[tuple[int, int]]:
    """(number, simulated ns) of the UDP packets that an end's capture shows."""
    return [
        (int.from_bytes(view.payload, "big"), frame.at_ns)
        for frame in network.capture.select(space=space, interface="eth0")
        if frame.direction == direction and (view := FrameView(frame.frame)).protocol == 17
    ]


def burst(netem: Netem, *, seed: int = 0, gap_ns: int = 500) -> list[int]:
    """Send numbered packets over the link; which arrive, in their order."""
    network, a, _ = pair(seed)
    network.impair(a, "eth0", netem)
    for index in range(COUNT):
        a.send_ip(udp_packet("10.0.0.1", "10.0.0.2", data=index.to_bytes(2, "big")))
        network.clock.run_for(gap_ns)
    network.run(seconds=0.2)
    assert [number for number, _ in numbered(network, "a", "out")] == WHOLE
    return [number for number, _ in numbered(network, "b", "in")]


def test_a_frame_that_its_link_loses_is_a_drop_of_who_sent_it() -> None:
    network, a, b = pair()
    explainer = network.explain()
    reasons: list[DropReason] = []
    a.drop_listener = lambda _number, reason, _ifindex: reasons.append(reason)
    network.impair(a, "eth0", Netem(loss=1.0))
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.run(seconds=0.1)
    steps = [step.text for visit in explainer.visits for step in visit.steps]
    assert steps[-2:] == ["eth0 sends it", "dropped: lost on its link (netem loss 100%)"]
    assert reasons == [DropReason.QDISC_DROP]
    assert a.datapath.drop_counts() == {DropReason.QDISC_DROP: 1}
    assert not b.datapath.drop_counts()


def test_a_frame_on_a_wire_that_is_cut_meanwhile_is_a_drop_of_who_sent_it() -> None:
    network, a, _ = pair()
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.set_carrier(a, "eth0", up=False)
    network.run(seconds=0.1)
    assert a.datapath.drop_counts() == {DropReason.NO_CARRIER: 1}


def test_good_link_keeps_all_in_order() -> None:
    assert burst(Netem()) == WHOLE


@pytest.mark.parametrize(
    ("netem", "check"),
    [
        (Netem(loss=1), lambda got: got == []),
        (Netem(loss=0.3), lambda got: 100 < len(got) < 180 and got == sorted(got)),
        (Netem(loss_every=4), lambda got: got == [number for number in WHOLE if number % 4 != 3]),
        (Netem(duplicate=1), lambda got: got == sorted([*WHOLE, *WHOLE])),
        (Netem(duplicate=1, loss=1), lambda got: got == WHOLE),  # of two, one is lost
        (Netem(reorder=0.3, delay_ms=1), lambda got: got != WHOLE and sorted(got) == WHOLE),
        (Netem(jitter_ms=0.02), lambda got: got != WHOLE and sorted(got) == WHOLE),
        (Netem(delay_ms=5), lambda got: got == WHOLE),
        (Netem(delay_ms=5, limit=20), lambda got: got == WHOLE[:20]),
        (Netem(rate="1mbit"), lambda got: got == WHOLE),
    ],
    ids=lambda value: str(value) if isinstance(value, Netem) else "",
)
def test_setting_does_what_it_is_called(netem: Netem, check: Callable[[list[int]], bool]) -> None:
    assert check(burst(netem))


def test_gap_lets_each_nth_overtake() -> None:
    assert burst(Netem(delay_ms=1, gap=5))[:3] == [4, 9, 14]


def test_losses_of_a_bad_state_come_in_bursts() -> None:
    got = burst(Netem(loss=GilbertElliott(p=0.05, r=0.2)))
    lost = [number for number in WHOLE if number not in got]
    runs = sum(number - 1 not in lost for number in lost)
    assert 20 < len(lost) < 100
    assert len(lost) / runs > 2.5


def test_good_state_may_lose_and_bad_state_may_not() -> None:
    assert burst(Netem(loss=GilbertElliott(p=0, r=1, k=0))) == []
    assert burst(Netem(loss=GilbertElliott(p=1, r=0, h=1)))[1:] == WHOLE[1:]


def test_corruption_turns_one_bit() -> None:
    network, a, _ = pair()
    network.impair(a, "eth0", Netem(corrupt=1))
    for _ in range(50):
        a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.run(seconds=0.001)
    sent = [frame.frame for frame in network.capture.select(space="a") if frame.direction == "out"]
    received = [frame.frame for frame in network.capture.select(space="b", interface="eth0") if frame.direction == "in"]
    assert len(received) == len(sent) >= 50
    differing = [int.from_bytes(x, "big") ^ int.from_bytes(y, "big") for x, y in zip(sent, received, strict=True)]
    assert {bits.bit_count() for bits in differing} == {1}


def times(netem: Netem, count: int = 4) -> list[int]:
    """When packets arrive that are sent at once, without the wire's own delay."""
    network, a, _ = pair()
    network.impair(a, "eth0", netem)
    for index in range(count):
        a.send_ip(udp_packet("10.0.0.1", "10.0.0.2", data=index.to_bytes(2, "big")))
    network.run(seconds=1)
    return [at_ns - WIRE_DELAY_NS for _, at_ns in numbered(network, "b", "in")]


def test_delay_is_added_to_the_wire() -> None:
    assert times(Netem(delay_ms=2.5)) == [2_500_000] * 4


def test_jitter_goes_to_both_sides() -> None:
    got = times(Netem(delay_ms=2, jitter_ms=1), 100)
    assert NS_PER_MS < min(got) < 1.1 * NS_PER_MS
    assert 2.9 * NS_PER_MS < max(got) < 3 * NS_PER_MS


def test_rate_is_the_time_that_each_frame_takes() -> None:
    # 14 + 20 + 8 + 2 bytes are 352 bits
    assert times(Netem(rate="1mbit")) == [number * 352 * NS_PER_US for number in (1, 2, 3, 4)]


def test_delay_of_a_limited_rate_begins_before_the_frame_is_sent() -> None:
    # netem_enqueue: a frame that waits behind another has had its delay meanwhile
    assert times(Netem(rate="1mbit", delay_ms=1)) == [NS_PER_MS + number * 352 * NS_PER_US for number in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("text", "bits"), [("10mbit", 10**7), ("2.5kbit", 2500), ("1kbps", 8000), ("9", 9), ("1Gbit", 10**9)]
)
def test_rate_is_read_as_tc_does(text: str, bits: int) -> None:
    assert rate_bits(text) == bits


@pytest.mark.parametrize(
    ("rule", "got"),
    [
        (FrameRule("drop", nth=(1, 3)), [1, 3, 4, 5]),
        (FrameRule("drop", every=2), [0, 2, 4]),
        (FrameRule("drop", FrameMatch(protocol="tcp")), [0, 1, 2, 3, 4, 5]),
        (FrameRule("drop", FrameMatch(protocol="udp", dport=53, dst="10.0.0.2")), []),
        (FrameRule("duplicate", nth=(2,)), [0, 1, 1, 2, 3, 4, 5]),
        (FrameRule("delay", nth=(2,), delay_ms=1), [0, 2, 3, 4, 5, 1]),
        (FrameRule("drop", FrameMatch(text="IP 10.0.0.1.* > *"), nth=(6,)), [0, 1, 2, 3, 4]),
    ],
)
def test_script_says_what_becomes_of_which_frame(rule: FrameRule, got: list[int]) -> None:
    network, a, _ = pair()
    network.impair(a, "eth0", Netem(script=(rule,)))
    for index in range(6):
        a.send_ip(udp_packet("10.0.0.1", "10.0.0.2", data=index.to_bytes(2, "big")))
    network.run(seconds=0.1)
    assert [number for number, _ in numbered(network, "b", "in")] == got


def test_equal_seeds_have_equal_faults() -> None:
    netem = Netem(loss=0.5)
    assert burst(netem, seed=1) == burst(netem, seed=1)
    assert burst(netem, seed=1) != burst(netem, seed=2)


@pytest.mark.parametrize(
    ("netem", "complaint"),
    [
        (Netem(loss=2), "loss of 2 is not between 0 and 1"),
        (Netem(loss=GilbertElliott(0.1, -1)), "loss r of -1"),
        (Netem(reorder=0.1), "reordering without a delay"),
        (Netem(gap=3), "reordering without a delay"),
        (Netem(delay_ms=-1), "delay_ms is -1"),
        (Netem(rate="fast"), "'fast' is not a rate"),
        (Netem(script=(FrameRule("delay"),)), "delay with delay_ms 0"),
        (Netem(script=(FrameRule("drop", nth=(0,)),)), "counted from 1"),
    ],
)
def test_impossible_setting_is_refused(netem: Netem, complaint: str) -> None:
    network, a, _ = pair()
    with pytest.raises(TopologyError, match=complaint):
        network.impair(a, "eth0", netem)


def test_each_direction_is_bad_by_itself() -> None:
    network, a, b = pair()
    network.impair(a, "eth0", Netem(loss=1), direction="in")
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2", data=b"\0\1"))
    b.send_ip(udp_packet("10.0.0.2", "10.0.0.1", data=b"\0\2"))
    network.run(seconds=0.1)
    assert [number for number, _ in numbered(network, "b", "in")] == [1]
    assert [number for number, _ in numbered(network, "b", "out")] == [2]
    assert numbered(network, "a", "in") == []
    network.impair(a, "eth0", Netem(), direction="both")
    b.send_ip(udp_packet("10.0.0.2", "10.0.0.1", data=b"\0\3"))
    network.run(seconds=0.1)
    assert [number for number, _ in numbered(network, "a", "in")] == [3]


def test_what_is_about_one_station_spares_the_others() -> None:
    network, a, _ = pair()
    network.impair(a, "eth0", Netem(loss=1))
    network.impair(a, "eth0", Netem(), peer=mac("02:00:00:00:00:0b"))
    a.neighbour_add("eth0", "10.0.0.3", "02:00:00:00:00:0c")
    for number, target in enumerate(("10.0.0.2", "10.0.0.3")):
        a.send_ip(udp_packet("10.0.0.1", target, data=number.to_bytes(2, "big")))
    network.run(seconds=0.1)
    assert [number for number, _ in numbered(network, "b", "in")] == [0]


def test_queue_counts_only_what_still_waits() -> None:
    queue = NetemQueue(Netem(delay_ms=1, limit=1), SeededChoices(), "x")
    assert queue.put(b"1", 0) == [(b"1", NS_PER_MS)]
    assert queue.put(b"2", NS_PER_MS - 1) == []
    assert queue.put(b"3", NS_PER_MS) == [(b"3", NS_PER_MS)]


# ------------------------------------------------------------------------------------------------------------- carrier


def test_unplugged_wire_carries_nothing_and_its_sender_captures_nothing() -> None:
    network, a, b = pair()
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2", data=b"\0\1"))
    network.set_carrier(a, "eth0", up=False)  # while that is under way
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2", data=b"\0\2"))
    b.send_ip(udp_packet("10.0.0.2", "10.0.0.1", data=b"\0\3"))
    network.run(seconds=0.1)
    assert [number for number, _ in numbered(network, "a", "out")] == [1]
    assert numbered(network, "b", "in") == numbered(network, "b", "out") == []
    assert a.routes()  # they stay without carrier
    network.set_carrier(a, "eth0", up=True)
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2", data=b"\0\4"))
    network.run(seconds=0.1)
    assert [number for number, _ in numbered(network, "b", "in")] == [4]


def test_neighbours_are_forgotten_without_carrier_unless_permanent_or_told_not_to() -> None:
    network, a, b = pair()
    for space, target in ((a, "10.0.0.7"), (b, "10.0.0.8")):
        space.send_ip(udp_packet("10.0.0.1" if space is a else "10.0.0.2", target))
    b.sysctl_set("net.ipv4.conf.eth0.arp_evict_nocarrier", 0)
    network.set_carrier(b, "eth0", up=False)
    assert [len(entry.address) and entry.state.name for entry in a.neighbours()] == ["PERMANENT"]
    assert len(b.neighbours()) == 2


def test_bridge_forgets_what_was_behind_an_unplugged_port() -> None:
    network = Network()
    switch = network.add_space("switch")
    network.add_bridge(switch, "br0")
    hosts = [network.add_space(name) for name in ("a", "b")]
    for number, host in enumerate(hosts, 1):
        network.add_veth(host, "eth0", switch, f"port{number}", mac_a=f"02:00:00:00:00:0{number}")
        switch.link_set(f"port{number}", master="br0")
        host.address_add("eth0", f"10.0.0.{number}/24")
    assert switch.devices.named("br0").kind == LinkKind.BRIDGE
    hosts[0].send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.run(seconds=0.1)
    assert [port for _, port, _ in switch.fdb("br0")] == ["port1", "port2"]
    network.set_carrier(hosts[0], "eth0", up=False)
    assert [port for _, port, _ in switch.fdb("br0")] == ["port2"]
