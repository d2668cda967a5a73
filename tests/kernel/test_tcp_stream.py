"""Whatever the wire does, TCP delivers the exact stream or fails with the right error, and leaves nothing behind.

Every segment is checked as well: its checksum is right, and it stays within the window that the peer has offered.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.kernel.task import join_all, run, spawn
from pktsim.kernel.tcp_segment import ACK, RST, SYN, checksum_ok
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.transport import AF_INET, AF_INET6
from pktsim.rng import SeededChoices
from tests.kernel.transport_world import Host, Wire, World, random_wire

MASK32 = 0xFFFFFFFF
PORT = 8080
ADDRESSES = {AF_INET: ("10.0.0.1", "10.0.0.2"), AF_INET6: ("fd00::1", "fd00::2")}


@dataclass
class Exchange:
    """Both sides' writes, and what they read."""

    up: bytes
    down: bytes
    client_got: bytes = b""
    server_got: bytes = b""


async def serve(host: Host, exchange: Exchange, family: int, chunk: int) -> None:
    listener = host.sockets.tcp(family)
    listener.bind("", PORT)
    listener.listen()
    socket = await listener.accept()
    listener.close()
    while data := await socket.recv(chunk):
        exchange.server_got += data
    await socket.sendall(exchange.down)
    socket.close()


async def ask(host: Host, address: str, exchange: Exchange, family: int, chunk: int) -> None:
    socket = host.sockets.tcp(family)
    await socket.connect(address, PORT)
    await socket.sendall(exchange.up)
    socket.shutdown_write()
    while data := await socket.recv(chunk):
        exchange.client_got += data
    socket.close()


def check_segments(world: World) -> None:
    """Checksums, and that nobody sends beyond the window it was offered (RFC 9293 section 3.8.6)."""
    offered: dict[tuple[bytes, int], int] = {}  # by receiver: its highest right edge, relative to its peer's ISN
    scale: dict[tuple[bytes, int], int] = {}
    isn: dict[tuple[bytes, int], int] = {}
    for seen in world.log:
        packet, segment = seen.packet, seen.segment
        assert checksum_ok(packet)
        me, peer = (packet.saddr, segment.sport), (packet.daddr, segment.dport)
        if segment.flags & SYN:
            isn[me] = segment.seq
            scale[me] = max(segment.wscale, 0)
        if segment.flags & RST:
            continue
        if segment.flags & ACK and peer in isn:
            shift = 0 if segment.flags & SYN else scale.get(me, 0)
            edge = ((segment.ack - isn[peer]) & MASK32) + (segment.window << shift)
            offered[me] = max(offered.get(me, 0), edge)
        if segment.payload and me in isn:
            end = ((segment.seq - isn[me]) & MASK32) + len(segment.payload)
            assert end <= offered[peer], f"{segment} beyond the window at {seen.at_ns}"


def play(world: World, exchange: Exchange, *, family: int, chunk: int, tcp: TcpSettings | None = None) -> None:
    names = ADDRESSES[family]
    client, server = world.host("client", names[0], tcp=tcp), world.host("server", names[1], tcp=tcp)
    tasks = [
        spawn(world.clock, serve(server, exchange, family, chunk), "server"),
        spawn(world.clock, ask(client, names[1], exchange, family, chunk), "client"),
    ]
    run(world.clock, join_all(*tasks), limit_ns=5000 * NS_PER_S)
    for task in tasks:
        task.result()
    assert exchange.server_got == exchange.up
    assert exchange.client_got == exchange.down
    check_segments(world)
    world.wire = Wire()
    world.clock.run_for(2000 * NS_PER_S)
    for host in (client, server):
        assert not host.sockets.tcp_table.connections
        assert not host.sockets.tcp_table.listeners
        assert not host.sockets.tcp_table._owners
    assert world.clock.next_at_ns() is None


def pattern(length: int, start: int) -> bytes:
    return bytes((start + index * 7 + (index >> 8)) & 0xFF for index in range(length))


SIZES = st.one_of(st.integers(0, 3000), st.sampled_from([1448, 1460, 2896, 20_000, 70_000]))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    up=SIZES,
    down=SIZES,
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.25]),
    repeat=st.sampled_from([0.0, 0.1]),
    jitter_ns=st.sampled_from([0, 20_000, 3 * NS_PER_MS]),
    family=st.sampled_from([AF_INET, AF_INET6]),
    chunk=st.sampled_from([100, 4096, 65536]),
    sack=st.booleans(),
    timestamps=st.booleans(),
    window_scaling=st.booleans(),
)
def test_the_stream_survives_any_wire(
    seed: int,
    up: int,
    down: int,
    loss: float,
    repeat: float,
    jitter_ns: int,
    family: int,
    chunk: int,
    sack: bool,
    timestamps: bool,
    window_scaling: bool,
) -> None:
    world = World(choices=SeededChoices(seed))
    world.wire = random_wire(seed, loss=loss, repeat=repeat, jitter_ns=jitter_ns)
    tcp = TcpSettings(
        sack=int(sack),
        timestamps=int(timestamps),
        window_scaling=int(window_scaling),
        syn_retries=20,
        retries2=60,
        orphan_retries=60,
    )
    play(world, Exchange(pattern(up, 1), pattern(down, 2)), family=family, chunk=chunk, tcp=tcp)


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_a_clean_wire_sees_no_retransmission(family: int) -> None:
    world = World()
    exchange = Exchange(pattern(100_000, 3), pattern(300_000, 4))
    play(world, exchange, family=family, chunk=65536)
    sent: set[tuple[str, int]] = set()
    for seen in world.log:
        segment = seen.segment
        if segment.payload:
            assert (seen.host, segment.seq) not in sent
            sent.add((seen.host, segment.seq))


def test_same_seed_same_bytes() -> None:
    logs = []
    for _ in range(2):
        world = World(choices=SeededChoices(5))
        world.wire = random_wire(9, loss=0.1, repeat=0.1, jitter_ns=100_000)
        play(world, Exchange(pattern(20_000, 3), pattern(30_000, 4)), family=AF_INET, chunk=4096)
        logs.append([(seen.at_ns, seen.packet.data) for seen in world.log])
    assert logs[0] == logs[1]
