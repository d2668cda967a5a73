"""Fragments: cut as the kernel cuts, put together again, and what becomes of those that do not fit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.kernel.ip import fragment_ipv4
from pktsim.kernel.network import Network
from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.ruleset import Family
from pktsim.wire import frame as build
from pktsim.wire.checksum import checksum
from pktsim.wire.frame import FrameView
from tests.kernel.worlds import PEER_MAC, Host, echo_packet, host, ip, known_peer, udp_packet

PEER = "10.0.0.9"
CONNTRACK = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


def view_of(packet: bytes) -> FrameView:
    return FrameView(packet, link=False)


def payload_of(packet: bytes) -> bytes:
    return packet[(packet[0] & 15) * 4 :]


# ------------------------------------------------------------------------------------------------------------- cutting


@given(st.binary(min_size=0, max_size=4000), st.integers(68, 1500))
def test_pieces_fit_and_make_the_whole(data: bytes, mtu: int) -> None:
    packet = build.ipv4(ip(PEER), ip("10.0.0.1"), 17, data, identification=9, tos=0x20)
    pieces = fragment_ipv4(packet, mtu) if len(packet) > mtu else [packet]
    assert all(len(piece) <= mtu for piece in pieces)
    assert b"".join(payload_of(piece) for piece in pieces) == data
    at = 0
    for piece in pieces:
        view = view_of(piece)
        assert view.fragment_offset == at
        assert view.more_fragments == (piece is not pieces[-1])
        assert view.identification == 9
        assert checksum(piece[:20]) == 0
        at += len(payload_of(piece))


def test_last_piece_takes_all_the_room() -> None:
    packet = build.ipv4(ip(PEER), ip("10.0.0.1"), 17, b"x" * 203)
    assert [len(payload_of(piece)) for piece in fragment_ipv4(packet, 124)] == [104, 99]
    packet = build.ipv4(ip(PEER), ip("10.0.0.1"), 17, b"x" * (96 + 103))
    assert [len(payload_of(piece)) for piece in fragment_ipv4(packet, 123)] == [96, 103]


def test_fragment_cut_again_keeps_its_place() -> None:
    packet = build.ipv4(ip(PEER), ip("10.0.0.1"), 17, b"x" * 160, more_fragments=True, fragment_offset=800)
    views = [view_of(piece) for piece in fragment_ipv4(packet, 100)]
    assert [(view.fragment_offset, view.more_fragments) for view in views] == [(800, True), (880, True)]


def test_old_pieces_are_kept_where_they_fit() -> None:
    packet = build.ipv4(ip(PEER), ip("10.0.0.1"), 17, b"x" * 300)
    sizes = [len(payload_of(piece)) for piece in fragment_ipv4(packet, 1500, payload_sizes=(200, 64, 36))]
    assert sizes == [200, 64, 36]
    sizes = [len(payload_of(piece)) for piece in fragment_ipv4(packet, 120, payload_sizes=(200, 64, 36))]
    assert sizes == [96, 96, 96, 12]


def test_options_that_are_not_copied_are_blank_in_later_pieces() -> None:
    record_route = bytes((7, 7, 4, 0, 0, 0, 0))
    router_alert = bytes((0x94, 4, 0, 0))
    packet = build.ipv4(ip(PEER), ip("10.0.0.1"), 17, b"x" * 200, options=record_route + router_alert + b"\0")
    first, second, *_ = fragment_ipv4(packet, 132)
    assert first[20:31] == record_route + router_alert
    assert second[20:31] == b"\1" * 7 + router_alert


# ---------------------------------------------------------------------------------------------------- putting together


def receiver() -> Host:
    world = host()
    world.link("eth0", "10.0.0.1/24")
    known_peer(world, "eth0", PEER)
    return world


@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(68, 300))
def test_fragments_in_any_order_make_the_whole(seed: int, size: int, mtu: int) -> None:
    world = receiver()
    rng = random.Random(seed)
    packet = echo_packet(PEER, "10.0.0.1", data=rng.randbytes(size))
    pieces = fragment_ipv4(packet, mtu) if len(packet) > mtu else [packet]
    pieces += rng.sample(pieces, rng.randrange(len(pieces)) if len(pieces) > 1 else 0)  # exact repetitions do no harm
    kept = pieces[:]
    rng.shuffle(kept)
    for piece in kept:
        world.give_ip("eth0", piece)
    assert payload_of(packet)[8:] in [view.payload for view in world.take_views()]


def overlapping() -> tuple[bytes, bytes, bytes]:
    packet = echo_packet(PEER, "10.0.0.1", data=bytes(200))
    first, second = fragment_ipv4(packet, 140)
    overlap = build.ipv4(
        ip(PEER), ip("10.0.0.1"), 1, bytes(64), identification=7, fragment_offset=96, more_fragments=True
    )
    return first, second, overlap


def test_overlap_destroys_the_whole() -> None:
    world = receiver()
    first, second, overlap = overlapping()
    for piece in (first, overlap, second):
        world.give_ip("eth0", piece)
    assert world.take() == []


@pytest.mark.parametrize("length", [96, 200])
def test_end_that_contradicts_the_known_one_destroys_the_whole(length: int) -> None:
    world = receiver()
    first, second, _ = overlapping()
    end = build.ipv4(ip(PEER), ip("10.0.0.1"), 1, bytes(length), identification=7, fragment_offset=120)
    for piece in (second, end, first):
        world.give_ip("eth0", piece)
    assert world.take() == []


def test_incomplete_packet_is_given_up_after_30_seconds_and_its_sender_told() -> None:
    world = receiver()
    first, second, _ = overlapping()
    world.give_ip("eth0", first)
    world.run(29)
    assert world.take() == []
    world.run(5)
    (view,) = world.take_views()
    assert (view.icmp_type, view.icmp_code, view.saddr) == (11, 1, ip("10.0.0.1"))
    world.give_ip("eth0", second)
    assert world.take() == []


def test_nobody_is_told_without_the_first_fragment() -> None:
    world = receiver()
    world.give_ip("eth0", overlapping()[1])
    world.run(40)
    assert world.take() == []


def test_fragments_of_other_packets_are_kept_apart() -> None:
    world = receiver()
    one = fragment_ipv4(echo_packet(PEER, "10.0.0.1", data=b"1" * 200), 140)
    other = fragment_ipv4(
        build.ipv4(ip(PEER), ip("10.0.0.1"), 1, build.icmp(8, 0, 2, b"2" * 200), identification=8), 140
    )
    for piece in (one[0], other[1], other[0]):
        world.give_ip("eth0", piece)
    assert [view.payload for view in world.take_views()] == [b"2" * 200]
    world.give_ip("eth0", one[1])
    assert [view.payload for view in world.take_views()] == [b"1" * 200]


def test_fragment_flood_is_bounded() -> None:
    world = receiver()
    world.netns.sysctl_set("net.ipv4.ipfrag_high_thresh", 10_000)
    for identification in range(50):
        first = build.ipv4(ip(PEER), ip("10.0.0.1"), 17, bytes(64), identification=identification, more_fragments=True)
        world.give_ip("eth0", first)
    assert len(world.netns.fragments.defragmenter) < 15


# ---------------------------------------------------------------------------------------------------------- on the way


def router(mtu: int, *, conntrack: bool) -> Host:
    world = host(forward=True)
    world.link("eth0", "10.0.0.1/24")
    world.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02", mtu=mtu)
    known_peer(world, "eth0", PEER)
    known_peer(world, "eth1", "10.0.1.9")
    if conntrack:
        world.netns.load_ruleset(parse_save(CONNTRACK, Family.IPV4))
    return world


def test_forwarded_packet_is_cut_for_the_next_link() -> None:
    world = router(600, conntrack=False)
    world.give_ip("eth0", udp_packet(PEER, "10.0.1.9", data=b"x" * 1000))
    sent = world.take()
    assert [(name, len(frame) - 14) for name, frame in sent] == [("eth1", 596), ("eth1", 452)]


def test_conntrack_gathers_and_the_old_pieces_leave() -> None:
    world = router(1500, conntrack=True)
    packet = udp_packet(PEER, "10.0.1.9", data=b"x" * 1000)
    pieces = fragment_ipv4(packet, 500)
    for piece in reversed(pieces):
        world.give_ip("eth0", piece)
    assert [len(frame) - 14 for _, frame in world.take()] == [len(piece) for piece in pieces]


def test_without_conntrack_fragments_pass_one_by_one() -> None:
    world = router(1500, conntrack=False)
    second = fragment_ipv4(udp_packet(PEER, "10.0.1.9", data=b"x" * 1000), 500)[1]
    world.give_ip("eth0", second)
    assert len(world.take()) == 1


def test_gathered_packet_with_df_that_does_not_fit_needs_fragmentation() -> None:
    world = router(400, conntrack=True)
    world.netns.sysctl_set("net.ipv4.icmp_ratemask", 0)
    packet = udp_packet(PEER, "10.0.1.9", data=b"x" * 1000)
    for piece in fragment_ipv4(packet, 500):
        with_df = bytearray(piece)
        with_df[6] |= 0x40
        with_df[10:12] = b"\0\0"
        with_df[10:12] = checksum(bytes(with_df[:20])).to_bytes(2, "big")
        world.give_ip("eth0", bytes(with_df))
    (view,) = world.take_views()
    assert (view.icmp_type, view.icmp_code, view.icmp_rest) == (3, 4, 400)


def test_process_sends_its_fragments_one_after_the_other() -> None:
    world = receiver()
    world.netns.send_ip(udp_packet("10.0.0.1", PEER, data=b"x" * 4000))
    assert len(world.take()) == 1
    world.run(0.001)
    assert len(world.take()) == 2


def test_answer_in_softirq_sends_all_its_fragments_at_once() -> None:
    world = receiver()
    for piece in fragment_ipv4(echo_packet(PEER, "10.0.0.1", data=b"x" * 4000), 1500):
        world.give_ip("eth0", piece, src=PEER_MAC)
    assert len(world.take()) == 3


def test_own_packet_that_must_not_be_cut_is_refused() -> None:
    world = receiver()
    with pytest.raises(OSError, match="EMSGSIZE"):
        world.netns.send_ip(udp_packet("10.0.0.1", PEER, data=b"x" * 2000, dont_fragment=True))
    assert world.take() == []


def test_pieces_of_one_datagram_to_an_unknown_neighbour_ask_for_it_once() -> None:
    """As seen on Linux 6.18: one question, then all pieces, though the process sends them apart and the first waits."""
    network = Network()
    for name in ("a", "b"):
        network.add_space(name)
    network.add_veth("a", "eth0", "b", "eth0", mac_a="02:00:00:00:00:01", mac_b="02:00:00:00:00:02")
    for number, name in enumerate(("a", "b"), 1):
        network[name].address_add("eth0", f"10.0.0.{number}/24")
    socket = network["a"].sockets.udp()
    socket.set_df(False)
    socket.connect("10.0.0.2", 9)
    socket.send(bytes(4000))
    network.run(seconds=1)
    sent = [frame.frame[12:14].hex() for frame in network.capture.select(space="a") if frame.direction == "out"]
    assert sent == ["0806", "0800", "0800", "0800"]
