"""The table: life of entries, races, full tables, zones, errors. TCP's and SCTP's grids have their own tests."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from pktsim.clock import NS_PER_S
from pktsim.netfilter.conntrack import Entry, ZoneDirection
from pktsim.netfilter.opcodes import CtStatus, DropReason, Event, Hook, Step, Sysctl, TraceKind, Upcall
from tests.netfilter.ct_node import (
    ACK,
    CLIENT,
    CLIENT6,
    FIN,
    IN,
    OUT,
    RST,
    SERVER,
    SERVER6,
    STRICT,
    SYN,
    TRACK,
    Node,
    checksums_right,
    icmp,
    ip,
    nat,
    tcp,
    udp,
)


def dropped(events: list[Any]) -> list[DropReason]:
    return [DropReason(event[2]) for event in events if event[0] == Event.DROP]


def held(events: list[Any]) -> Any:
    (packet,) = [event[3] for event in events if event[0] == Event.UPCALL and event[2] == Upcall.HELD]
    return packet


# ------------------------------------------------------------------------------------------------------------- lifetime


def test_unreplied_udp_entry_expires_after_its_timeout() -> None:
    node = Node(TRACK)
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    confirmed_ns = node.now_ns
    assert node.entry().timeout_ns == 30 * NS_PER_S
    assert node.entry().start_ns == confirmed_ns
    assert len(node.table.entries(confirmed_ns + 30 * NS_PER_S - 1)) == 1
    assert node.table.entries(confirmed_ns + 30 * NS_PER_S) == []
    assert node.table.count() == 0


def test_expired_entry_is_not_found_by_a_packet() -> None:
    node = Node(TRACK)
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    first = node.entry().id
    node.advance(30)
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    assert node.entry().id != first
    assert node.table.count() == 1


def test_gc_removes_what_no_packet_meets() -> None:
    node = Node(TRACK)
    for sport in range(1000, 1100):
        node.send(IN, udp(CLIENT, SERVER, sport, 53))
    node.advance(100)
    assert node.table.count() == 100
    node.send(IN, udp(CLIENT, SERVER, 5, 53))
    assert node.table.count() == 1


def test_udp_becomes_a_stream_after_two_seconds() -> None:
    node = Node(TRACK)
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    node.send(OUT, udp(SERVER, CLIENT, 53, 1000))
    assert node.entry().timeout_ns == 30 * NS_PER_S
    assert not node.entry().status & CtStatus.ASSURED
    node.advance(2)
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    assert node.entry().timeout_ns == 120 * NS_PER_S
    assert node.entry().status & CtStatus.ASSURED


def test_accounting_counts_ip_bytes_of_flows_that_began_under_it() -> None:
    node = Node(TRACK)
    node.send(IN, udp(CLIENT, SERVER, 1, 53))
    node.path.sysctl_set(Sysctl.CT_ACCT, 1)
    node.send(IN, udp(CLIENT, SERVER, 1, 53))
    node.send(IN, udp(CLIENT, SERVER, 2, 53, b"12345"))
    node.send(OUT, udp(SERVER, CLIENT, 53, 2, b""))
    old, new = node.entries()
    assert old.acct is None
    assert new.acct is not None
    assert [(side.packets, side.bytes) for side in new.acct] == [(1, 33), (1, 28)]


def test_unconfirmed_entry_goes_with_its_packet() -> None:
    node = Node(TRACK.replace("--ctstate NEW", "--ctstate NEW -j DROP"))
    assert node.send(IN, udp(CLIENT, SERVER, 1, 53)) == []
    assert node.entries() == []
    assert node.table.count() == 0


def test_many_flows_are_all_found_again() -> None:
    """The hash grows on the way."""
    node = Node(TRACK)
    for sport in range(1000, 4000):
        node.send(IN, udp(CLIENT, SERVER, sport, 53))
    assert [entry.orig.sport for entry in node.entries()] == list(range(1000, 4000))
    for sport in range(1000, 4000):
        node.send(OUT, udp(SERVER, CLIENT, 53, sport))
    assert all(entry.status & CtStatus.SEEN_REPLY for entry in node.entries())
    assert node.table.count() == 3000


# ---------------------------------------------------------------------------------------------------------- full tables


def test_full_table_evicts_an_unassured_entry_of_a_near_bucket() -> None:
    node = Node(TRACK)
    node.path.sysctl_set(Sysctl.CT_HASHSIZE, 4)
    node.path.sysctl_set(Sysctl.CT_MAX, 10)
    for sport in range(1000, 1011):
        assert node.send(IN, udp(CLIENT, SERVER, sport, 53))
    stats = node.table.stats()
    assert stats["early_drop"] > 0
    assert stats["entries"] == 11 - stats["early_drop"]


def assured(node: Node, sport: int) -> None:
    node.send(IN, udp(CLIENT, SERVER, sport, 53))
    node.send(OUT, udp(SERVER, CLIENT, 53, sport))
    node.advance(2.1)
    node.send(IN, udp(CLIENT, SERVER, sport, 53))


def test_full_table_of_assured_entries_drops_the_packet() -> None:
    node = Node(TRACK)
    for sport in (1000, 1001):
        assured(node, sport)
    node.path.sysctl_set(Sysctl.CT_MAX, 2)
    assert dropped(node.events(IN, udp(CLIENT, SERVER, 1, 53))) == [DropReason.CONNTRACK_TABLE_FULL]
    assert node.table.count() == 2
    assert node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    assert node.table.stats()["drop"] == 1


def test_gc_after_a_full_table_evicts_closing_tcp_flows() -> None:
    node = Node(TRACK)
    established(node, 1)
    node.send(IN, tcp(CLIENT, SERVER, 1, 80, FIN | ACK, 101, 501))
    pattern = node.entry()
    for sport in range(1000, 1099):
        orig, reply = replace(pattern.orig, sport=sport), replace(pattern.reply, dport=sport)
        node.table.insert(replace(pattern, proto=17, orig=orig, reply=reply, state=-1), node.now_ns)
    node.path.sysctl_set(Sysctl.CT_MAX, 100)
    assert dropped(node.events(IN, udp(CLIENT, SERVER, 1, 53))) == [DropReason.CONNTRACK_TABLE_FULL]
    node.advance(61)
    assert node.send(IN, udp(CLIENT, SERVER, 2, 53))
    assert {entry.proto for entry in node.entries()} == {17}
    assert node.table.count() == 100


# ---------------------------------------------------------------------------------------------------------------- races


def race(node: Node, first: bytes, second: bytes, *, other_way: bool = False) -> tuple[list[Any], list[Any]]:
    """Two packets, both held before they are confirmed; then the first goes on, then the second."""
    node.path.hold_set(Hook.POSTROUTING, Step.CONFIRM, True)
    waiting = [held(node.events(IN, first)), held(node.events(OUT if other_way else IN, second))]
    node.path.hold_set(Hook.POSTROUTING, Step.CONFIRM, False)
    one, two = (node.path.resume(packet, node.now_ns) for packet in waiting)
    return one, two


def test_two_first_packets_of_a_udp_flow_share_the_entry_confirmed_first() -> None:
    node = Node(TRACK)
    node.path.sysctl_set(Sysctl.CT_ACCT, 1)
    one, two = race(node, udp(CLIENT, SERVER, 1000, 53), udp(CLIENT, SERVER, 1000, 53, b"second"))
    assert [event[0] for event in one + two] == [Event.TX, Event.TX]
    entry = node.entry()
    assert entry.acct is not None
    assert entry.acct[0].packets == 2
    assert node.table.count() == 1
    assert node.table.stats()["clash_resolve"] == 1


def test_two_first_packets_of_a_tcp_flow_lose_the_second() -> None:
    node = Node(TRACK)
    one, two = race(node, tcp(CLIENT, SERVER, 1000, 80, SYN, 1), tcp(CLIENT, SERVER, 1000, 80, SYN, 1))
    assert [event[0] for event in one] == [Event.TX]
    assert dropped(two) == [DropReason.CONNTRACK_CLASH]
    assert node.table.count() == 1
    stats = node.table.stats()
    assert (stats["insert_failed"], stats["drop"]) == (1, 1)


def test_crossing_first_packets_of_a_udp_flow_are_one_flow() -> None:
    node = Node(TRACK)
    one, two = race(node, udp(CLIENT, SERVER, 53, 53), udp(SERVER, CLIENT, 53, 53), other_way=True)
    assert [event[0] for event in one + two] == [Event.TX, Event.TX]
    assert node.table.count() == 1


BALANCED = nat(
    "-A PREROUTING -d 10.96.0.10/32 -p udp -m statistic --mode nth --every 2 --packet 0 "
    "-j DNAT --to-destination 10.2.0.8:53",
    "-A PREROUTING -d 10.96.0.10/32 -p udp -j DNAT --to-destination 10.2.0.9:53",
)


def test_racing_packets_sent_to_different_backends_both_get_their_answer() -> None:
    """As two DNS queries of one socket: the loser's entry serves one second of answers, unseen by listings."""
    node = Node(BALANCED)
    one, two = race(node, udp(CLIENT, "10.96.0.10", 1000, 53), udp(CLIENT, "10.96.0.10", 1000, 53))
    assert [event[0] for event in one + two] == [Event.TX, Event.TX]
    assert len(node.entries()) == 1
    assert node.table.count() == 2
    for backend in ("10.2.0.8", SERVER):
        (answer,) = node.send(OUT, udp(backend, CLIENT, 53, 1000))
        assert answer[12:16] == bytes((10, 96, 0, 10))
        assert checksums_right(answer)
    node.advance(1)
    assert node.send(OUT, udp(SERVER, CLIENT, 53, 1000))[0][12:16] == bytes((10, 2, 0, 9))


def test_entry_deleted_while_its_packet_waits_is_not_confirmed() -> None:
    node = Node(TRACK)
    node.send(IN, tcp(CLIENT, SERVER, 1000, 80, SYN, 1))
    node.path.hold_set(Hook.FORWARD, Step.FILTER, True)
    packet = held(node.events(OUT, tcp(SERVER, CLIENT, 80, 1000, SYN | ACK, 1, 2)))
    node.table.flush()
    node.path.hold_set(Hook.FORWARD, Step.FILTER, False)
    assert [event[0] for event in node.path.resume(packet, node.now_ns)] == [Event.TX]
    assert node.table.count() == 0


# ------------------------------------------------------------------------------------------------------------------ TCP


def established(node: Node, sport: int = 1000) -> Entry:
    node.send(IN, tcp(CLIENT, SERVER, sport, 80, SYN, 100, options=b"\x04\x02\x01\x03\x03\x07\x01\x01"))
    node.send(OUT, tcp(SERVER, CLIENT, 80, sport, SYN | ACK, 500, 101, options=b"\x04\x02\x01\x03\x03\x04\x01\x01"))
    node.send(IN, tcp(CLIENT, SERVER, sport, 80, ACK, 101, 501))
    return next(entry for entry in node.entries() if entry.orig.sport == sport)


def test_tcp_handshake() -> None:
    entry = established(Node(STRICT))
    assert entry.state_name == "ESTABLISHED"
    assert entry.status & CtStatus.ASSURED
    assert entry.timeout_set_ns == 432_000 * NS_PER_S
    assert entry.wscale == (7, 4)


def test_tcp_out_of_window_is_invalid_unless_liberal() -> None:
    node = Node(STRICT)
    established(node)
    far = tcp(CLIENT, SERVER, 1000, 80, ACK, 101 + (1 << 30), 501)
    assert node.send(IN, far) == []
    node.path.sysctl_set(Sysctl.CT_TCP_BE_LIBERAL, 1)
    assert node.send(IN, far) != []


def test_tcp_reset_in_window_but_not_exact_keeps_the_flow() -> None:
    node = Node(STRICT)
    established(node)
    node.send(OUT, tcp(SERVER, CLIENT, 80, 1000, RST, 600))
    assert (node.entry().state_name, node.entry().timeout_set_ns) == ("ESTABLISHED", 10 * NS_PER_S)
    node.send(OUT, tcp(SERVER, CLIENT, 80, 1000, RST, 501))
    assert node.entry().state_name == "CLOSE"


def test_tcp_old_reset_is_invalid_unless_ignored() -> None:
    node = Node(STRICT)
    established(node)
    old = tcp(SERVER, CLIENT, 80, 1000, RST, 400)
    assert node.send(OUT, old) == []
    node.path.sysctl_set(Sysctl.CT_TCP_IGNORE_INVALID_RST, 1)
    assert node.send(OUT, old) != []


def test_tcp_reset_as_only_answer_removes_the_entry() -> None:
    node = Node(STRICT)
    node.send(IN, tcp(CLIENT, SERVER, 1000, 80, SYN, 100))
    assert node.send(OUT, tcp(SERVER, CLIENT, 80, 1000, RST | ACK, 0, 101))
    assert node.table.count() == 0


def test_tcp_repeated_acks_shorten_the_timeout() -> None:
    node = Node(STRICT)
    established(node)
    for _ in range(4):
        node.send(OUT, tcp(SERVER, CLIENT, 80, 1000, ACK, 501, 101))
    assert node.entry().timeout_set_ns == 300 * NS_PER_S


def test_tcp_new_syn_after_the_end_makes_a_new_entry() -> None:
    node = Node(STRICT)
    first = established(node)
    node.send(IN, tcp(CLIENT, SERVER, 1000, 80, FIN | ACK, 101, 501))
    node.send(OUT, tcp(SERVER, CLIENT, 80, 1000, FIN | ACK, 501, 102))
    node.send(IN, tcp(CLIENT, SERVER, 1000, 80, ACK, 102, 502))
    assert node.entry().state_name == "TIME_WAIT"
    node.send(IN, tcp(CLIENT, SERVER, 1000, 80, SYN, 9000))
    assert node.entry().id != first.id
    assert node.entry().state_name == "SYN_SENT"
    assert node.table.count() == 1


def test_tcp_checksum_is_looked_at_on_the_way_in() -> None:
    node = Node(STRICT)
    bad = bytearray(tcp(CLIENT, SERVER, 1000, 80, SYN, 100))
    bad[36] ^= 1
    assert node.send(IN, bytes(bad)) == []
    node.path.sysctl_set(Sysctl.CT_CHECKSUM, 0)
    assert node.send(IN, bytes(bad)) != []


# ------------------------------------------------------------------------------------------------------ other protocols


def test_udplite_is_checked_with_udps_protocol_number() -> None:
    """A kernel oddity: what follows RFC 3828 is invalid, what uses UDP's number in the pseudo-header is not."""
    node = Node(STRICT)
    as_udp = bytearray(udp(CLIENT, SERVER, 1, 2))
    as_udp[9] = 136  # the IP header's checksum is mended below
    by_rfc = bytearray(as_udp)
    value = struct.unpack_from(">H", by_rfc, 26)[0] - (136 - 17)
    struct.pack_into(">H", by_rfc, 26, value % 0xFFFF)
    for packet in (as_udp, by_rfc):
        head = ip(CLIENT, SERVER, 136, bytes(packet[20:]))[:20]
        packet[:20] = head
    assert node.send(IN, bytes(by_rfc)) == []
    assert node.send(IN, bytes(as_udp)) != []


@pytest.mark.parametrize(
    ("kind", "tracked"), [(8, True), (13, True), (15, True), (17, True), (0, False), (10, False), (19, False)]
)
def test_icmp_requests_make_entries(kind: int, tracked: bool) -> None:
    node = Node(STRICT)
    assert bool(node.send(IN, icmp(CLIENT, SERVER, kind, 0, b"\0\7\0\1"))) == tracked
    assert len(node.entries()) == tracked


def test_pptp_gre_is_tracked_by_its_call_id_and_other_gre_by_addresses() -> None:
    node = Node(STRICT)
    for call in (5, 6, 5):
        node.send(IN, ip(CLIENT, SERVER, 47, bytes((0x30, 1, 0x88, 0x0B, 0, 0, 0, call)) + bytes(4)))
    node.send(IN, ip(CLIENT, SERVER, 47, bytes((0x20, 0, 8, 0)) + bytes(4)))
    assert [entry.orig.dport for entry in node.entries()] == [5, 6, 0]
    node.send(OUT, ip(SERVER, CLIENT, 47, bytes((0, 0, 8, 0)) + bytes(4)))
    assert node.entries()[2].timeout_set_ns == 30 * NS_PER_S
    node.send(IN, ip(CLIENT, SERVER, 47, bytes((0, 0, 8, 0)) + bytes(4)))
    assert node.entries()[2].timeout_set_ns == 180 * NS_PER_S


def test_unknown_protocol_is_tracked_by_addresses() -> None:
    node = Node(STRICT)
    node.send(IN, ip(CLIENT, SERVER, 89, b"whatever"))
    node.send(OUT, ip(SERVER, CLIENT, 89, b""))
    assert node.entry().timeout_set_ns == 600 * NS_PER_S
    assert node.entry().status & CtStatus.SEEN_REPLY


# --------------------------------------------------------------------------------------------------------------- errors


def test_error_about_a_flow_is_related_and_changes_nothing() -> None:
    rules = TRACK.replace("-A FORWARD -m conntrack --ctstate NEW", "-A FORWARD -m conntrack --ctstate RELATED -j DROP")
    node = Node(rules)
    sent = node.send(IN, udp(CLIENT, SERVER, 1000, 53))[0]
    before = node.entry()
    assert dropped(node.events(OUT, icmp(SERVER, CLIENT, 3, 3, bytes(4), sent))) == [DropReason.RULE]
    assert node.entry().status == before.status


@pytest.mark.parametrize("case", ["not to the sender", "cut short", "unknown flow", "error of an error", "fragment"])
def test_error_that_belongs_nowhere_is_invalid(case: str) -> None:
    node = Node(STRICT)
    sent = bytearray(node.send(IN, udp(CLIENT, SERVER, 1000, 53))[0])
    target = "10.1.0.8" if case == "not to the sender" else CLIENT
    if case == "cut short":
        sent = sent[:23]
    elif case == "unknown flow":
        sent[21] ^= 1
    elif case == "error of an error":
        sent = bytearray(icmp(CLIENT, SERVER, 3, 3, bytes(4), bytes(sent)))
    elif case == "fragment":
        sent[7] = 1
    assert node.send(OUT, icmp(SERVER, target, 3, 3, bytes(4), bytes(sent))) == []
    assert node.table.stats()["error"] == 1


def test_icmpv6_of_the_link_is_not_tracked() -> None:
    node = Node("", rules6=STRICT)
    node.path.trace_set(True)
    node.send(IN, icmp(CLIENT6, SERVER6, 135, 0, bytes(4), bytes(16)))
    records, _ = node.path.take_trace()
    words = struct.unpack(f"={len(records) // 4}i", records)
    tracked = [words[i : i + 6] for i in range(0, len(words), 6) if words[i + 1] & 0xFF == TraceKind.CONNTRACK]
    assert [record[2] for record in tracked] == [7]  # UNTRACKED
    assert node.entries() == []


def test_icmpv6_error_is_related() -> None:
    node = Node("", rules6=STRICT)
    sent = node.send(IN, udp(CLIENT6, SERVER6, 1000, 53))[0]
    assert node.send(OUT, icmp(SERVER6, CLIENT6, 1, 4, bytes(4), sent)) != []
    assert node.send(OUT, icmp(SERVER6, "fd01::8", 1, 4, bytes(4), sent)) == []


# ---------------------------------------------------------------------------------------------------------------- zones


def test_zones_keep_equal_flows_apart() -> None:
    raw = (
        "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -m mark --mark 0 -j CT --zone 5\nCOMMIT\n"
    )
    node = Node(raw + TRACK)
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    node.send(OUT, udp(SERVER, CLIENT, 53, 1000))
    (entry,) = node.entries()
    assert (entry.zone, entry.zone_direction) == (5, ZoneDirection.BOTH)
    assert entry.status & CtStatus.SEEN_REPLY
    plain = Node(TRACK)
    plain.table.insert(entry, plain.now_ns)
    plain.send(OUT, udp(SERVER, CLIENT, 53, 1000))
    assert [(one.zone, one.orig.sport) for one in plain.entries()] == [(5, 1000), (0, 53)]


def test_zone_of_one_direction_lets_answers_find_their_flow() -> None:
    raw = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -i in -j CT --zone-orig 5\nCOMMIT\n"
    node = Node(raw + TRACK)
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    node.send(OUT, udp(SERVER, CLIENT, 53, 1000))
    entry = node.entry()
    assert (entry.zone, entry.zone_direction) == (5, ZoneDirection.ORIGINAL)
    assert entry.status & CtStatus.SEEN_REPLY


def test_untracked_packet_has_no_entry() -> None:
    raw = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -p udp -j NOTRACK\nCOMMIT\n"
    node = Node(raw + STRICT)
    assert node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    assert node.table.count() == 0
