"""Lowering and the program loop: what rules say is what happens to packets and counters."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim._fastpath import Datapath, Program, checksum
from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter import lower
from pktsim.netfilter.lower import Lowered, compile_table
from pktsim.netfilter.matches.comment import CommentMatch
from pktsim.netfilter.matches.mark import MarkMatch
from pktsim.netfilter.matches.statistic import StatisticNthMatch, StatisticRandomMatch
from pktsim.netfilter.matches.tcp import TcpMatch
from pktsim.netfilter.matches.udp import UdpMatch
from pktsim.netfilter.opcodes import DropReason, Event, LinkKind, Op
from pktsim.netfilter.ruleset import (
    Chain,
    Family,
    HeaderMatch,
    Jump,
    MaskedAddress,
    Match,
    Rule,
    Table,
    Verdict,
    VerdictTarget,
)
from pktsim.netfilter.targets.mark import MarkTarget
from pktsim.netfilter.values import PortRange

DROP = VerdictTarget(Verdict.DROP)
ACCEPT = VerdictTarget(Verdict.ACCEPT)
RETURN = VerdictTarget(Verdict.RETURN)
MAC = b"\x02\0\0\0\0\x01"
PEER = b"\x02\0\0\0\0\x02"


def host(text: str) -> MaskedAddress:
    return MaskedAddress(IPv4Address(text), IPv4Address("255.255.255.255"))


def raw_table(prerouting: tuple[Rule, ...], *user: Chain, policy: Verdict = Verdict.ACCEPT) -> Table:
    return Table(
        "raw",
        Family.IPV4,
        (Chain("PREROUTING", prerouting, policy), Chain("OUTPUT", (), Verdict.ACCEPT), *user),
    )


def udp_frame(
    src: str = "10.0.0.2", dst: str = "10.0.0.1", sport: int = 1000, dport: int = 53, payload: bytes = b""
) -> bytes:
    udp = struct.pack(">4H", sport, dport, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0)
    head += IPv4Address(src).packed + IPv4Address(dst).packed
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return MAC + PEER + b"\x08\0" + head + udp


def datapath(lowered: Lowered, choose: object = None) -> Datapath:
    path = Datapath("node", lambda place, kind, n: 0)
    path.link_set(1, "eth0", LinkKind.WIRE, MAC, 1500)
    path.addresses_set(Family.IPV4, [(1, IPv4Address("10.0.0.1").packed, 24, 0)])
    path.routes_set(Family.IPV4, 255, [(IPv4Address("10.0.0.1").packed, 32, 2, 254, b"", 1, b"", 0, 0)])
    path.table_set(Family.IPV4, lowered.table_id, lowered.program, lowered.initial_counters())
    return path


def counted(path: Datapath, lowered: Lowered) -> dict[str, int]:
    raw = path.table_counters(Family.IPV4, lowered.table_id)
    values = struct.unpack(f"={len(raw) // 8}Q", raw)
    return {
        f"{source.chain}/{source.number}": values[2 * index]
        for index, source in enumerate(lowered.sources)
        if values[2 * index]
    }


def run(table: Table, *frames: bytes) -> tuple[dict[str, int], list[int]]:
    """The counters that moved, and for each frame the reason it was dropped for or 0."""
    lowered = compile_table(table)
    path = datapath(lowered)
    reasons = []
    for frame in frames:
        drops = [event[2] for event in path.receive(1, frame, 0) if event[0] == Event.DROP]
        reasons.append(drops[0] if drops else 0)
    return counted(path, lowered), reasons


def test_first_rule_that_decides_ends_the_walk() -> None:
    rules = (Rule(HeaderMatch(src=host("10.0.0.9")), (), DROP), Rule(target=ACCEPT), Rule(target=DROP))
    assert run(raw_table(rules), udp_frame()) == ({"PREROUTING/2": 1}, [0])


def test_rule_without_target_only_counts() -> None:
    assert run(raw_table((Rule(), Rule())), udp_frame())[0] == {"PREROUTING/1": 1, "PREROUTING/2": 1, "PREROUTING/0": 1}


def test_end_of_a_user_chain_goes_back_behind_the_jump_and_is_counted() -> None:
    table = raw_table((Rule(target=Jump("A")), Rule(target=DROP)), Chain("A", (Rule(),)))
    assert run(table, udp_frame()) == (
        {"PREROUTING/1": 1, "A/1": 1, "A/0": 1, "PREROUTING/2": 1},
        [DropReason.RULE],
    )


def test_return_in_a_user_chain_does_not_count_its_end() -> None:
    table = raw_table((Rule(target=Jump("A")), Rule()), Chain("A", (Rule(target=RETURN), Rule(target=DROP))))
    assert run(table, udp_frame())[0] == {"PREROUTING/1": 1, "A/1": 1, "PREROUTING/2": 1, "PREROUTING/0": 1}


def test_goto_returns_to_where_the_calling_chain_was_called_from() -> None:
    table = raw_table(
        (Rule(target=Jump("A")), Rule()),
        Chain("A", (Rule(target=Jump("B", goto=True)), Rule(target=DROP))),
        Chain("B", (Rule(),)),
    )
    assert run(table, udp_frame()) == (
        {"PREROUTING/1": 1, "A/1": 1, "B/1": 1, "B/0": 1, "PREROUTING/2": 1, "PREROUTING/0": 1},
        [0],
    )


def test_return_in_a_builtin_chain_and_the_end_of_a_goto_from_one_meet_the_policy() -> None:
    for rule, chain in ((Rule(target=RETURN), Chain("B", ())), (Rule(target=Jump("B", goto=True)), Chain("B", ()))):
        counters, reasons = run(raw_table((rule, Rule(target=ACCEPT)), chain, policy=Verdict.DROP), udp_frame())
        assert counters["PREROUTING/0"] == 1
        assert reasons == [DropReason.POLICY]


def test_mark_is_set_with_mask_and_matched() -> None:
    rules = (
        Rule(target=MarkTarget(0x4000, 0x4000)),
        Rule(target=MarkTarget(0x80000001, 0xFFFF0001)),
        Rule(matches=(MarkMatch(0x80004001),), target=DROP),
    )
    assert run(raw_table(rules), udp_frame())[1] == [DropReason.RULE]


def test_truncated_udp_header_is_a_hot_drop() -> None:
    frame = udp_frame()
    short = bytearray(frame[: 14 + 24])
    short[16:18] = struct.pack(">H", 24)
    short[24:26] = b"\0\0"
    short[24:26] = struct.pack(">H", checksum(bytes(short[14:34])))
    rules = (Rule(HeaderMatch(protocol=17), (UdpMatch(dst_ports=PortRange(9, 9)),), ACCEPT),)
    assert run(raw_table(rules), bytes(short))[1] == [DropReason.HOTDROP]


def test_nth_matches_every_third_packet_starting_with_the_given_one() -> None:
    lowered = compile_table(raw_table((Rule(matches=(StatisticNthMatch(3, 1),), target=DROP),)))
    path = datapath(lowered)
    dropped = [any(e[0] == Event.DROP for e in path.receive(1, udp_frame(), 0)) for _ in range(7)]
    assert dropped == [False, True, False, False, True, False, False]


def test_random_asks_at_a_place_named_after_the_rule_and_hands_on_errors() -> None:
    lowered = compile_table(raw_table((Rule(), Rule(matches=(StatisticRandomMatch(1 << 30),), target=DROP))))
    asked = []

    def choose(place: str, kind: int, n: int) -> int:
        asked.append((place, kind, n))
        if len(asked) > 1:
            raise ZeroDivisionError
        return 1

    path = Datapath("node-a", choose)
    path.link_set(1, "eth0", LinkKind.WIRE, MAC, 1500)
    path.table_set(Family.IPV4, lowered.table_id, lowered.program)
    path.receive(1, udp_frame(), 0)
    assert asked == [("node-a/raw/PREROUTING/2", 1, 1 << 30)]
    with pytest.raises(ZeroDivisionError):
        path.receive(1, udp_frame(), 0)
    assert path.drop_counts()[DropReason.RULE] == 1


def test_jumps_that_loop_are_refused() -> None:
    table = raw_table((), Chain("A", (Rule(target=Jump("B")),)), Chain("B", (Rule(target=Jump("A")),)))
    with pytest.raises(RulesetSyntaxError, match="jumps to itself"):
        compile_table(table)


def test_jump_to_nowhere_is_refused() -> None:
    with pytest.raises(RulesetSyntaxError, match="no chain NOWHERE"):
        compile_table(raw_table((Rule(target=Jump("NOWHERE")),)))


def test_match_without_lowering_is_refused_by_place() -> None:
    class Odd(Match):
        extension = "odd"

    with pytest.raises(UnsupportedFeature, match=r"chain PREROUTING, rule 1: match odd"):
        compile_table(raw_table((Rule(matches=(Odd(),)),)))


@pytest.mark.parametrize(
    "row",
    [
        (Op.DADDR, 0, 0, 0, 0, 0, 99, 0),
        (Op.DADDR, 0, 4, 0, 0, 0, 0, 0),
        (Op.JUMP, 0, 77, 0, 0, 0, 0, 0),
        (Op.COUNT, 0, 5, 0, 0, 0, 0, 0),
        (Op.STATISTIC_RANDOM, 0, 1, 3, 0, 0, 0, 0),
        (Op.PYTHON, 0, 0, 0, 0, 0, 0, 0),
        (Op.DISPATCH, 0, 0, 88, 0, 0, 0, 0),
    ],
)
def test_rows_that_would_leave_the_program_are_refused(row: tuple[int, ...]) -> None:
    rows = struct.pack("=8i", *row) + struct.pack("=8i", Op.POLICY, 0, 1, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError):
        Program(rows, bytes(16), [0, -1, -1, -1, -1], 1)


_hosts = st.sampled_from(["10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.5"])


@st.composite
def _indexable_rules(draw: st.DrawFn) -> tuple[Rule, ...]:
    """Long runs by address or by port, with rules in between that belong to neither."""
    rules: list[Rule] = []
    for _ in range(draw(st.integers(1, 3))):
        by_port = draw(st.booleans())
        for _ in range(draw(st.integers(1, 14))):
            target = draw(st.sampled_from([None, None, Jump("A"), RETURN, ACCEPT, DROP, MarkTarget(1, 1)]))
            if by_port:
                port = draw(st.integers(50, 54))
                protocol, match = draw(
                    st.sampled_from(
                        [
                            (17, UdpMatch(dst_ports=PortRange(port, port))),
                            (6, TcpMatch(dst_ports=PortRange(port, port))),
                        ]
                    )
                )
                rules.append(Rule(HeaderMatch(protocol=protocol), (match,), target))
            else:
                rules.append(Rule(HeaderMatch(dst=host(draw(_hosts))), (CommentMatch("c"),), target))
        if draw(st.booleans()):
            rules.append(Rule(target=draw(st.sampled_from([None, Jump("A")]))))
    return tuple(rules)


@given(_indexable_rules(), st.lists(st.tuples(_hosts, st.integers(49, 55), st.booleans()), min_size=1, max_size=6))
def test_index_changes_nothing_but_time(rules: tuple[Rule, ...], packets: list[tuple[str, int, bool]]) -> None:
    table = raw_table(rules, Chain("A", (Rule(HeaderMatch(dst=host("10.0.0.3")), (), RETURN), Rule())))
    frames = []
    for dst, port, cut in packets:
        frame = udp_frame(dst=dst, dport=port, payload=bytes(20))
        if cut:
            short = bytearray(frame[: 14 + 24])
            short[16:18] = struct.pack(">H", 24)
            short[24:26] = b"\0\0"
            short[24:26] = struct.pack(">H", checksum(bytes(short[14:34])))
            frame = bytes(short)
        frames.append(frame)
    indexed = run(table, *frames)
    usual = lower.DISPATCH_MIN
    try:
        lower.DISPATCH_MIN = 1 << 30
        linear = run(table, *frames)
    finally:
        lower.DISPATCH_MIN = usual
    assert indexed == linear
