"""Which mapping a flow gets, and what it does to packets and to those that errors quote."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.netfilter.conntrack import ConntrackTuple, Entry
from pktsim.netfilter.opcodes import CtStatus, DropReason, Event, TraceKind
from tests.netfilter.ct_node import (
    ACK,
    CLIENT,
    CLIENT6,
    FIN,
    IN,
    NODE6,
    NODE_OUT,
    OUT,
    SERVER,
    SERVER6,
    SYN,
    Node,
    addresses,
    checksums_right,
    icmp,
    ip,
    nat,
    pack,
    ports,
    tcp,
    udp,
)

VIP = "10.96.0.10"
VIP6 = "fd96::a"
MASQUERADE = nat("-A POSTROUTING -o out -j MASQUERADE")
DNAT = nat(f"-A PREROUTING -d {VIP}/32 -p udp -j DNAT --to-destination {SERVER}:5353")


class Draws:
    """Answers draws from a list, and notes who asked."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, place: str, kind: int, n: int) -> int:
        self.asked.append((place, n))
        return self.answers.pop(0)


def occupy(node: Node, sport: int, *, source: str = NODE_OUT, dport: int = 53, proto: int = 17) -> None:
    """A flow of somebody else between ``source`` and the server."""
    pattern = Entry(
        id=0,
        family=2,
        proto=proto,
        orig=ConntrackTuple(pack(source), pack(SERVER), sport, dport),
        reply=ConntrackTuple(pack(SERVER), pack(source), dport, sport),
        status=CtStatus.SEEN_REPLY,
        timeout_ns=10**12,
    )
    node.table.insert(pattern, node.now_ns)


def test_masquerade_keeps_a_free_port() -> None:
    draws = Draws()
    node = Node(MASQUERADE, choose=draws)
    (out,) = node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    assert (addresses(out), ports(out)) == ((NODE_OUT, SERVER), (1000, 53))
    assert draws.asked == []


@pytest.mark.parametrize(
    ("sport", "draw", "mapped"),
    [
        (500, 0, 1),
        (500, 510, 511),
        (511, 511, 1),
        (512, 0, 600),
        (700, 423, 1023),
        (1023, 424, 600),
        (1024, 1, 1025),
        (40000, 64511, 65535),
        (40000, 64512, 1024),
    ],
)
def test_masquerade_clash_draws_a_port_of_the_same_class(sport: int, draw: int, mapped: int) -> None:
    draws = Draws(draw)
    node = Node(MASQUERADE, choose=draws)
    occupy(node, sport)
    (out,) = node.send(IN, udp(CLIENT, SERVER, sport, 53))
    assert ports(out) == (mapped, 53)
    assert checksums_right(out)
    assert draws.asked == [("node/nat.port", 65536)]


def test_search_goes_on_from_the_drawn_port() -> None:
    node = Node(MASQUERADE, choose=Draws(10))
    for sport in (40000, 1034, 1035, 1036):
        occupy(node, sport)
    assert ports(node.send(IN, udp(CLIENT, SERVER, 40000, 53))[0]) == (1037, 53)


def test_search_starts_anew_after_half_as_many_attempts() -> None:
    draws = Draws(0, 10_000)
    node = Node(MASQUERADE, choose=draws)
    for sport in (40000, *range(1024, 1024 + 128)):
        occupy(node, sport)
    assert ports(node.send(IN, udp(CLIENT, SERVER, 40000, 53))[0]) == (11024, 53)
    assert len(draws.asked) == 2


def test_one_port_range_that_is_taken_drops_the_packet() -> None:
    node = Node(nat("-A POSTROUTING -o out -p udp -j SNAT --to-source 10.2.0.1:700"))
    occupy(node, 700)
    events = node.events(IN, udp(CLIENT, SERVER, 1000, 53))
    assert [event[2] for event in events if event[0] == Event.DROP] == [DropReason.CONNTRACK_CLASH]
    assert node.table.count() == 1


def test_icmp_id_clash_draws_any_id() -> None:
    draws = Draws(4242)
    node = Node(MASQUERADE, choose=draws)
    node.send(IN, icmp("10.1.0.8", SERVER, 8, 0, b"\0\x07\0\1"))
    (out,) = node.send(IN, icmp(CLIENT, SERVER, 8, 0, b"\0\x07\0\1", b"payload"))
    assert struct.unpack(">H", out[24:26]) == (4242,)
    assert checksums_right(out)
    assert draws.asked == [("node/nat.id", 65536)]
    (back,) = node.send(OUT, icmp(SERVER, NODE_OUT, 0, 0, struct.pack(">HH", 4242, 1), b"payload"))
    assert back[20:] == icmp(SERVER, CLIENT, 0, 0, b"\0\x07\0\1", b"payload")[20:]


def test_source_that_has_a_mapping_keeps_it_towards_others() -> None:
    node = Node(MASQUERADE, choose=Draws(0))
    occupy(node, 40000)
    assert ports(node.send(IN, udp(CLIENT, SERVER, 40000, 53))[0]) == (1024, 53)
    assert ports(node.send(IN, udp(CLIENT, "10.2.0.8", 40000, 53))[0]) == (1024, 53)
    assert ports(node.send(IN, udp("10.1.0.8", "10.2.0.8", 40000, 53))[0]) == (40000, 53)


def test_mapping_is_forgotten_with_its_last_flow() -> None:
    node = Node(MASQUERADE, choose=Draws(0))
    occupy(node, 40000)
    node.send(IN, udp(CLIENT, SERVER, 40000, 53))
    node.table.delete(node.now_ns)
    assert ports(node.send(IN, udp(CLIENT, "10.2.0.8", 40000, 53))[0]) == (40000, 53)


def test_flow_that_no_rule_touches_yields_to_a_mapping() -> None:
    """Two services with one backend: the second flow's source port changes although nothing asked for it."""
    node = Node(nat("-A PREROUTING -d 10.96.0.0/16 -p tcp -j DNAT --to-destination 10.2.0.9:80"), choose=Draws(5))
    assert ports(node.send(IN, tcp(CLIENT, "10.96.0.1", 40000, 80, SYN))[0]) == (40000, 80)
    assert ports(node.send(IN, tcp(CLIENT, "10.96.0.2", 40000, 80, SYN))[0]) == (1029, 80)
    assert node.entries()[1].status & CtStatus.SRC_NAT


def closing(node: Node, sport: int, seq: int) -> None:
    """A flow of another client that was masqueraded to ``sport`` and is in TIME_WAIT."""
    other = "10.1.0.8"
    node.send(IN, tcp(other, SERVER, sport, 80, SYN, seq))
    node.send(OUT, tcp(SERVER, NODE_OUT, 80, sport, SYN | ACK, 500, seq + 1))
    node.send(IN, tcp(other, SERVER, sport, 80, ACK, seq + 1, 501))
    node.send(IN, tcp(other, SERVER, sport, 80, FIN | ACK, seq + 1, 501))
    node.send(OUT, tcp(SERVER, NODE_OUT, 80, sport, FIN | ACK, 501, seq + 2))
    node.send(IN, tcp(other, SERVER, sport, 80, ACK, seq + 2, 502))


@pytest.mark.parametrize(("seq", "taken_over"), [(20_000, True), (500, False)])
def test_last_attempts_take_over_a_closed_flow_with_older_numbers(seq: int, taken_over: bool) -> None:
    node = Node(nat("-A POSTROUTING -o out -p tcp -j SNAT --to-source 10.2.0.1:900-901"), choose=lambda p, k, n: 0)
    closing(node, 900, 1000)
    occupy(node, 901, dport=80, proto=6)
    events = node.events(IN, tcp(CLIENT, SERVER, 30_000, 80, SYN, seq))
    sent = [ports(event[3][14:]) for event in events if event[0] == Event.TX]
    assert sent == ([(900, 80)] if taken_over else [])


def test_port_range_for_destinations_starts_at_its_beginning() -> None:
    draws = Draws()
    node = Node(nat(f"-A PREROUTING -d {VIP}/32 -p udp -j DNAT --to-destination {SERVER}:100-105"), choose=draws)
    assert ports(node.send(IN, udp(CLIENT, VIP, 1000, 53))[0]) == (1000, 100)
    assert draws.asked == []


@pytest.mark.parametrize("option", ["--random", "--random-fully"])
def test_random_draws_although_the_port_is_free(option: str) -> None:
    draws = Draws(7)
    node = Node(nat(f"-A POSTROUTING -o out -j MASQUERADE {option}"), choose=draws)
    assert ports(node.send(IN, udp(CLIENT, SERVER, 40000, 53))[0]) == (1031, 53)


def test_address_of_a_range_depends_on_both_ends_unless_persistent() -> None:
    spread = nat("-A POSTROUTING -o out -j SNAT --to-source 10.2.0.10-10.2.0.19")
    sticky = spread.replace("10.2.0.19", "10.2.0.19 --persistent")
    # each flow from another port: a port that has a mapping would keep its address
    for rules, distinct in ((spread, True), (sticky, False)):
        node = Node(rules)
        seen = {addresses(node.send(IN, udp(CLIENT, f"10.2.0.{n}", n, 53))[0])[0] for n in range(2, 20)}
        assert (len(seen) > 1) == distinct


def test_checksumless_udp_stays_so() -> None:
    node = Node(DNAT)
    plain = bytearray(udp(CLIENT, VIP, 1000, 53))
    plain[26:28] = b"\0\0"
    (out,) = node.send(IN, bytes(plain))
    assert ports(out) == (1000, 5353)
    assert out[26:28] == b"\0\0"


PACKETS: dict[str, Callable[[str, str, bytes], bytes]] = {
    "tcp": lambda src, dst, data: tcp(src, dst, 40000, 80, SYN, payload=data),
    "udp": lambda src, dst, data: udp(src, dst, 40000, 80, data),
    "icmp": lambda src, dst, data: icmp(src, dst, 128 if ":" in src else 8, 0, b"\1\2\3\4", data),
}


@pytest.mark.parametrize("kind", PACKETS)
@given(data=st.binary(max_size=40), host=st.integers(2, 19), other=st.integers(2, 19))
def test_incremental_checksums_equal_full_ones(kind: str, data: bytes, host: int, other: int) -> None:
    rules = nat(f"-A PREROUTING -d {VIP}/32 -j DNAT --to-destination 10.2.0.{other}", "-A POSTROUTING -j MASQUERADE")
    (out,) = Node(rules).send(IN, PACKETS[kind](f"10.1.0.{host}", VIP, data))
    assert addresses(out) == (NODE_OUT, f"10.2.0.{other}")
    assert checksums_right(out)


@pytest.mark.parametrize("kind", PACKETS)
@given(data=st.binary(max_size=40), host=st.integers(2, 19), other=st.integers(2, 19))
def test_incremental_checksums_equal_full_ones_ipv6(kind: str, data: bytes, host: int, other: int) -> None:
    rules = nat(f"-A PREROUTING -d {VIP6}/128 -j DNAT --to-destination fd02::{other:x}", "-A POSTROUTING -j MASQUERADE")
    (out,) = Node("", rules6=rules).send(IN, PACKETS[kind](f"fd01::{host:x}", VIP6, data))
    assert addresses(out) == (NODE6[OUT], f"fd02::{other:x}")
    assert checksums_right(out)


def test_answer_is_translated_back() -> None:
    rules = nat(
        f"-A PREROUTING -d {VIP}/32 -p udp -j DNAT --to-destination {SERVER}:5353", "-A POSTROUTING -j MASQUERADE"
    )
    node = Node(rules)
    (out,) = node.send(IN, udp(CLIENT, VIP, 1000, 53))
    assert (addresses(out), ports(out)) == ((NODE_OUT, SERVER), (1000, 5353))
    (back,) = node.send(OUT, udp(SERVER, NODE_OUT, 5353, 1000))
    assert (addresses(back), ports(back)) == ((VIP, CLIENT), (53, 1000))
    assert checksums_right(back)


def test_error_about_a_translated_flow_quotes_what_its_reader_sent() -> None:
    rules = nat(
        f"-A PREROUTING -d {VIP}/32 -p udp -j DNAT --to-destination {SERVER}:5353", "-A POSTROUTING -j MASQUERADE"
    )
    node = Node(rules)
    original = udp(CLIENT, VIP, 1000, 53)
    (out,) = node.send(IN, original)
    (error,) = node.send(OUT, icmp("10.2.0.8", NODE_OUT, 3, 3, bytes(4), out))
    assert addresses(error) == (VIP, CLIENT)
    assert checksums_right(error)
    quoted = error[28:]
    assert (addresses(quoted), ports(quoted)) == ((CLIENT, VIP), (1000, 53))
    assert checksums_right(quoted)
    assert quoted[8] == original[8] - 1  # the time to live as it was when the error arose


def test_error_about_a_translated_flow_ipv6() -> None:
    rules = nat(
        f"-A PREROUTING -d {VIP6}/128 -p udp -j DNAT --to-destination [{SERVER6}]:5353", "-A POSTROUTING -j MASQUERADE"
    )
    node = Node("", rules6=rules)
    (out,) = node.send(IN, udp(CLIENT6, VIP6, 1000, 53))
    assert (addresses(out), ports(out)) == ((NODE6[OUT], SERVER6), (1000, 5353))
    (error,) = node.send(OUT, icmp(SERVER6, NODE6[OUT], 1, 4, bytes(4), out))
    assert addresses(error) == (VIP6, CLIENT6)
    assert checksums_right(error)
    assert (addresses(error[48:]), ports(error[48:])) == ((CLIENT6, VIP6), (1000, 53))


def test_error_that_quotes_too_little_is_dropped_where_it_would_be_translated() -> None:
    node = Node(MASQUERADE)
    (out,) = node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    events = node.events(OUT, icmp(SERVER, NODE_OUT, 3, 3, bytes(4), out[:26]))
    assert [event[2] for event in events if event[0] == Event.DROP] == [DropReason.NAT]


def test_redirect_about_a_translated_flow_is_dropped() -> None:
    node = Node(MASQUERADE)
    (out,) = node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    events = node.events(OUT, icmp(SERVER, NODE_OUT, 5, 1, pack("10.2.0.7"), out))
    assert [event[2] for event in events if event[0] == Event.DROP] == [DropReason.NAT]


def test_masqueraded_flow_ends_when_it_leaves_by_another_device() -> None:
    node = Node(nat("-A POSTROUTING -j MASQUERADE"))
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    node.path.routes_set(2, 254, [(pack("10.2.0.0"), 24, 1, 253, b"", IN, b"", 0, 0)])
    node.path.neighbour_set(IN, pack(SERVER), b"\2\0\0\0\0\1", 1)
    events = node.events(IN, udp(CLIENT, SERVER, 1000, 53))
    assert [event[2] for event in events if event[0] == Event.DROP] == [DropReason.NAT]
    assert node.table.count() == 0


def test_sctp_packet_gets_a_whole_new_checksum() -> None:
    node = Node(nat(f"-A PREROUTING -d {VIP}/32 -p sctp -j DNAT --to-destination {SERVER}:99"))
    init = struct.pack(">BBHIIHHI", 1, 0, 20, 7, 65535, 10, 10, 1)
    # CRC32c of this very packet is right where the engine takes it in, so an SCTP flow begins
    head = struct.pack(">HHI", 2000, 80, 0)
    crc = _crc32c(head + bytes(4) + init)
    (out,) = node.send(IN, ip(CLIENT, VIP, 132, head + struct.pack("<I", crc) + init))
    assert ports(out) == (2000, 99)
    assert out[28:32] == struct.pack("<I", _crc32c(out[20:28] + bytes(4) + out[32:]))


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_trace_names_both_addresses() -> None:
    node = Node(DNAT)
    node.path.trace_set(True)
    node.send(IN, udp(CLIENT, VIP, 1000, 53))
    records, aux = node.path.take_trace()
    words = struct.unpack(f"={len(records) // 4}i", records)
    (record,) = [words[i : i + 6] for i in range(0, len(words), 6) if words[i + 1] == TraceKind.NAT]
    assert record[2:5] == (1, 0, 1)  # destination, PREROUTING, set up now
    old, old_port, new, new_port = struct.unpack_from("=16s2s16s2s", aux, record[5])
    assert (old[:4], old_port, new[:4], new_port) == (pack(VIP), b"\0\x35", pack(SERVER), struct.pack(">H", 5353))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1024, 1027), st.integers(2, 4)), min_size=1, max_size=40))
def test_live_tuples_are_unique_and_replies_undo_the_translation(flows: list[tuple[int, int, int]]) -> None:
    draws = iter(range(10**6))
    rules = nat(
        "-A PREROUTING -d 10.96.0.0/16 -p udp -j DNAT --to-destination 10.2.0.2-10.2.0.3:53",
        "-A POSTROUTING -o out -j MASQUERADE",
    )
    node = Node(rules, choose=lambda place, kind, n: next(draws) % n)
    for host, sport, service in flows:
        src, dst = f"10.1.0.{host + 1}", f"10.96.0.{service}"
        (out,) = node.send(IN, udp(src, dst, sport, 53))
        here, there = addresses(out)
        near, far = ports(out)
        (back,) = node.send(OUT, udp(there, here, far, near))
        assert (addresses(back), ports(back)) == ((dst, src), (53, sport))
    entries = node.entries()
    tuples = [entry.orig for entry in entries] + [entry.reply for entry in entries]
    assert len(set(tuples)) == len(tuples)
    assert len(entries) == len(set(flows))
