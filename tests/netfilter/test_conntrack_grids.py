"""The state grids: complete, equal to the engine's copy, and every cell what the engine does with such a packet."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

import pytest

import pktsim
from pktsim.clock import NS_PER_S
from pktsim.netfilter import conntrack_sctp, conntrack_tcp, timeouts
from pktsim.netfilter.conntrack import ConntrackTuple, Entry
from pktsim.netfilter.conntrack_sctp import CHUNK_TYPES, SctpEvent, SctpState
from pktsim.netfilter.conntrack_tcp import FLAG_BE_LIBERAL, FLAG_SACK_PERM, Direction, TcpEvent, TcpState
from pktsim.netfilter.opcodes import CtStatus
from tests.netfilter.case_script import crc32c
from tests.netfilter.ct_node import ACK, CLIENT, FIN, IN, OUT, RST, SERVER, STRICT, SYN, Node, ip, pack, tcp

TCP_STATES = [state for state in TcpState if state < TcpState.IGNORE]
SCTP_STATES = [state for state in SctpState if state != SctpState.INVALID]


def engine_grid(protocol: str) -> str:
    """The engine's copy: the characters of a grid in the C sources."""
    source = (Path(pktsim.__file__).parent / "includes" / f"conntrack_{protocol}.pxi").read_text()
    body = re.search(rf"cdef const char \*{protocol.upper()}_GRID = \((.*?)\n\)", source, re.S)
    assert body
    return "".join(re.findall(r'b"([^"]*)"', body[1]))


def compact(grid: Sequence[Sequence[Sequence[IntEnum]]], letters: dict[IntEnum, str]) -> str:
    return "".join(letters.get(cell, str(int(cell))) for side in grid for row in side for cell in row)


def test_tcp_grid_is_complete_and_equals_the_engines() -> None:
    assert [len(side) for side in conntrack_tcp.GRID] == [len(TcpEvent)] * len(Direction)
    assert {len(row) for side in conntrack_tcp.GRID for row in side} == {len(TCP_STATES)}
    letters: dict[IntEnum, str] = {TcpState.IGNORE: "I", TcpState.INVALID: "V"}
    assert compact(conntrack_tcp.GRID, letters) == engine_grid("tcp")


def test_sctp_grid_is_complete_and_equals_the_engines() -> None:
    assert [len(side) for side in conntrack_sctp.GRID] == [len(SctpEvent)] * len(Direction)
    assert {len(row) for side in conntrack_sctp.GRID for row in side} == {len(SCTP_STATES)}
    assert compact(conntrack_sctp.GRID, {SctpState.INVALID: "V"}) == engine_grid("sctp")


TCP_FLAGS = {
    TcpEvent.SYN: SYN,
    TcpEvent.SYNACK: SYN | ACK,
    TcpEvent.FIN: FIN | ACK,
    TcpEvent.ACK: ACK,
    TcpEvent.RST: RST,
    TcpEvent.NONE: 0,
}


def tcp_entry(state: TcpState) -> Entry:
    """A flow in the given state whose windows are not looked at."""
    return Entry(
        id=0,
        family=socket.AF_INET,
        proto=6,
        orig=ConntrackTuple(pack(CLIENT), pack(SERVER), 1000, 80),
        reply=ConntrackTuple(pack(SERVER), pack(CLIENT), 80, 1000),
        status=CtStatus.SEEN_REPLY | CtStatus.ASSURED,
        timeout_ns=100 * NS_PER_S,
        state=state,
        flags=(FLAG_BE_LIBERAL | FLAG_SACK_PERM, FLAG_BE_LIBERAL | FLAG_SACK_PERM),
    )


def tcp_expected(direction: Direction, event: TcpEvent, state: TcpState) -> TcpState:
    """The grid's cell, and where the tracker asks for more than the grid says: a SYN after the end opens the flow anew
    only if one side was seen closing it; else it is ignored until the answer tells."""
    follows = conntrack_tcp.next_state(direction, event, state)
    if follows == TcpState.SYN_SENT and state >= TcpState.TIME_WAIT:
        return TcpState.IGNORE
    return follows


@pytest.mark.parametrize("state", TCP_STATES[1:], ids=lambda state: state.name)
@pytest.mark.parametrize("event", TcpEvent, ids=lambda event: event.name)
@pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name)
def test_tcp_cell(direction: Direction, event: TcpEvent, state: TcpState) -> None:
    node = Node(STRICT)
    node.table.insert(tcp_entry(state), node.now_ns)
    src, dst, sport, dport = (CLIENT, SERVER, 1000, 80) if direction == 0 else (SERVER, CLIENT, 80, 1000)
    packet = tcp(src, dst, sport, dport, TCP_FLAGS[event], seq=1, ack=1)
    passed = node.send(IN if direction == 0 else OUT, packet)
    expected = tcp_expected(direction, event, state)
    assert bool(passed) == (expected != TcpState.INVALID)
    after = TcpState(node.entry().state)
    assert after == (state if expected >= TcpState.IGNORE else expected)


@pytest.mark.parametrize("event", TcpEvent, ids=lambda event: event.name)
def test_tcp_first_packet(event: TcpEvent) -> None:
    node = Node(STRICT)
    passed = node.send(IN, tcp(CLIENT, SERVER, 1000, 80, TCP_FLAGS[event], seq=1, ack=1))
    expected = conntrack_tcp.next_state(Direction.ORIGINAL, event, TcpState.NONE)
    assert bool(passed) == (expected != TcpState.INVALID)
    assert [TcpState(entry.state) for entry in node.entries()] == ([expected] if passed else [])


def sctp(src: str, dst: str, sport: int, dport: int, vtag: int, chunk: int) -> bytes:
    body = struct.pack(">IIHHI", 7 if src == CLIENT else 9, 65535, 10, 10, 1) if chunk in (1, 2) else b""
    head = struct.pack(">HHI", sport, dport, vtag)
    rest = struct.pack(">BBH", chunk, 0, 4 + len(body)) + body
    return ip(src, dst, 132, head + struct.pack("<I", crc32c(head + bytes(4) + rest)) + rest)


@pytest.mark.parametrize("state", SCTP_STATES[1:], ids=lambda state: state.name)
@pytest.mark.parametrize("event", SctpEvent, ids=lambda event: event.name)
@pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name)
def test_sctp_cell(direction: Direction, event: SctpEvent, state: SctpState) -> None:
    node = Node(STRICT)
    # each side's packets carry the other's tag: 9 is the server's, 7 the client's
    entry = Entry(
        id=0,
        family=socket.AF_INET,
        proto=132,
        orig=ConntrackTuple(pack(CLIENT), pack(SERVER), 2000, 80),
        reply=ConntrackTuple(pack(SERVER), pack(CLIENT), 80, 2000),
        status=CtStatus.SEEN_REPLY,
        timeout_ns=100 * NS_PER_S,
        state=state,
        vtag=(9, 7),
    )
    node.table.insert(entry, node.now_ns)
    src, dst, sport, dport = (CLIENT, SERVER, 2000, 80) if direction == 0 else (SERVER, CLIENT, 80, 2000)
    vtag = 0 if event == SctpEvent.INIT else 9 if direction == 0 else 7
    passed = node.send(IN if direction == 0 else OUT, sctp(src, dst, sport, dport, vtag, CHUNK_TYPES[event]))
    expected = conntrack_sctp.next_state(direction, event, state)
    assert bool(passed) == (expected != SctpState.INVALID)
    after = SctpState(node.entry().state)
    assert after == (state if expected == SctpState.INVALID else expected)
    if expected == SctpState.ESTABLISHED and state != SctpState.ESTABLISHED:
        assert node.entry().status & CtStatus.ASSURED


@pytest.mark.parametrize("state", TCP_STATES[1:-1], ids=lambda state: state.name)
def test_tcp_timeout_of_each_state_is_the_tables(state: TcpState) -> None:
    """Each state is entered by one packet, with nothing unacknowledged and the window open."""
    leading = {
        TcpState.SYN_SENT: (Direction.ORIGINAL, SYN, None),
        TcpState.SYN_RECV: (Direction.REPLY, SYN | ACK, TcpState.SYN_SENT),
        TcpState.ESTABLISHED: (Direction.ORIGINAL, ACK, TcpState.ESTABLISHED),
        TcpState.FIN_WAIT: (Direction.ORIGINAL, FIN | ACK, TcpState.ESTABLISHED),
        TcpState.CLOSE_WAIT: (Direction.REPLY, ACK, TcpState.FIN_WAIT),
        TcpState.LAST_ACK: (Direction.REPLY, FIN | ACK, TcpState.CLOSE_WAIT),
        TcpState.TIME_WAIT: (Direction.ORIGINAL, ACK, TcpState.LAST_ACK),
        TcpState.CLOSE: (Direction.ORIGINAL, RST, TcpState.TIME_WAIT),
    }
    direction, flags, before = leading[state]
    node = Node(STRICT)
    if before is not None:
        node.table.insert(tcp_entry(before), node.now_ns)
    src, dst, sport, dport = (CLIENT, SERVER, 1000, 80) if direction == 0 else (SERVER, CLIENT, 80, 1000)
    node.send(IN if direction == 0 else OUT, tcp(src, dst, sport, dport, flags, seq=0, ack=0))
    entry = node.entry()
    assert entry.state_name == state.name
    assert entry.timeout_set_ns == timeouts.TCP[state].default_s * NS_PER_S
