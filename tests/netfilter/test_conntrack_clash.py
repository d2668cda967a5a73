"""Races of a socket's first packets, as Linux's selftest conntrack_clash.sh provokes them; here they happen on demand.

There, threads send from one UDP socket until two packets of a flow that is not yet confirmed overtake each other. Here
packets are held before they are confirmed, as many as wanted, and go on in an order of our choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from pktsim.netfilter.opcodes import Event, Hook, Step, Upcall
from tests.netfilter.ct_node import CLIENT, IN, NODE_IN, OUT, TRACK, Node, addresses, checksums_right, nat, ports, udp

#: Where the flow says it goes, and where it is sent: the next backend for each packet.
SERVICE = ("10.1.0.1", 22111)
BACKENDS = (9000, 9001, 9002)
SERVER = "10.2.0.9"
BALANCED = nat(
    f"-A PREROUTING -d {SERVICE[0]}/32 -p udp -m statistic --mode nth --every 3 --packet 0 "
    f"-j DNAT --to-destination {SERVER}:{BACKENDS[0]}",
    f"-A PREROUTING -d {SERVICE[0]}/32 -p udp -m statistic --mode nth --every 2 --packet 0 "
    f"-j DNAT --to-destination {SERVER}:{BACKENDS[1]}",
    f"-A PREROUTING -d {SERVICE[0]}/32 -p udp -j DNAT --to-destination {SERVER}:{BACKENDS[2]}",
)


def query(number: int = 0) -> bytes:
    return udp(CLIENT, SERVICE[0], 40000, SERVICE[1], b"query %d" % number)


def hold(node: Node, packets: Sequence[bytes]) -> list[Any]:
    """Let packets come as far as to where they would be confirmed."""
    node.path.hold_set(Hook.POSTROUTING, Step.CONFIRM, True)
    waiting = []
    for packet in packets:
        ((kind, _, reason, held, *_),) = node.events(IN, packet)
        assert (kind, reason) == (Event.UPCALL, Upcall.HELD)
        waiting.append(held)
    node.path.hold_set(Hook.POSTROUTING, Step.CONFIRM, False)
    return waiting


def release(node: Node, waiting: Sequence[Any]) -> tuple[list[bytes], list[int]]:
    """Let them go on: what leaves, and why the others do not."""
    events = [event for packet in waiting for event in node.path.resume(packet, node.now_ns)]
    left = [event[3][14:] for event in events if event[0] == Event.TX]
    return left, [event[2] for event in events if event[0] == Event.DROP]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_each_racing_packet_reaches_its_backend_and_is_answered_by_the_service(order: tuple[int, ...]) -> None:
    node = Node(BALANCED)
    waiting = hold(node, [query(number) for number in range(3)])
    left, dropped = release(node, [waiting[number] for number in order])
    assert [ports(packet)[1] for packet in left] == [BACKENDS[number] for number in order]
    assert not dropped
    assert node.table.stats()["clash_resolve"] == 2
    for backend in BACKENDS:
        (answer,) = node.send(OUT, udp(SERVER, CLIENT, backend, 40000))
        assert (addresses(answer), ports(answer)) == ((SERVICE[0], CLIENT), (SERVICE[1], 40000))
        assert checksums_right(answer)


def test_later_packets_follow_the_entry_that_was_confirmed_first() -> None:
    node = Node(BALANCED)
    waiting = hold(node, [query(number) for number in range(3)])
    release(node, [waiting[1], waiting[0], waiting[2]])
    assert {ports(node.send(IN, query(9))[0])[1] for _ in range(5)} == {BACKENDS[1]}
    assert [entry.reply.sport for entry in node.entries()] == [BACKENDS[1]]


def test_racing_packet_of_the_winners_backend_joins_its_entry() -> None:
    node = Node(BALANCED)
    waiting = hold(node, [query(number) for number in range(4)])
    left, dropped = release(node, [waiting[0], waiting[3]])
    assert [ports(packet)[1] for packet in left] == [BACKENDS[0]] * 2
    assert not dropped
    assert node.table.count() == 1 + 2  # and the two that still wait
    assert release(node, waiting[1:3])[1] == []


def test_racing_packet_of_a_losers_backend_joins_the_losers_entry() -> None:
    """Both its tuples are those of an entry that is there (``nf_ct_resolve_clash_harder``)."""
    node = Node(BALANCED)
    waiting = hold(node, [query(number) for number in range(5)])
    left, dropped = release(node, [waiting[0], waiting[1], waiting[4]])
    assert [ports(packet)[1] for packet in left] == [BACKENDS[0], BACKENDS[1], BACKENDS[1]]
    assert not dropped
    assert node.table.count() == 2 + 2  # and the two that still wait
    assert release(node, waiting[2:4])[1] == []


def test_many_packets_of_one_flow_without_translation_share_one_entry() -> None:
    """conntrack_clash.sh's second half: nothing but a rule that asks for tracking."""
    node = Node(TRACK)
    packets = [udp(CLIENT, SERVER, 40000, 9001, b"%d" % number) for number in range(16)]
    left, dropped = release(node, hold(node, packets))
    assert len(left) == 16
    assert not dropped
    assert node.table.count() == 1
    assert node.table.stats()["clash_resolve"] == 15


def test_local_packets_race_before_they_reach_lo() -> None:
    """A host that talks to itself: both packets arrive, whichever is confirmed first."""
    node = Node(TRACK)
    node.path.hold_set(Hook.POSTROUTING, Step.CONFIRM, True)
    waiting = []
    for number in range(2):
        ((_, _, reason, packet, *_),) = node.path.send_local(
            udp(NODE_IN, NODE_IN, 40000, 9001, b"%d" % number), node.now_ns
        )
        assert reason == Upcall.HELD
        waiting.append(packet)
    node.path.hold_set(Hook.POSTROUTING, Step.CONFIRM, False)
    arrived = [
        event[3].data[-1:]
        for packet in reversed(waiting)
        for event in node.path.resume(packet, node.now_ns)
        if event[0] == Event.UPCALL and event[2] == Upcall.DELIVER
    ]
    assert arrived == [b"1", b"0"]
    assert node.table.count() == 1
    assert node.table.stats()["clash_resolve"] == 1
