"""A process that writes more than one burst: what a burst sets off happens before the next (vxlan/wide-download)."""

from __future__ import annotations

from pktsim.kernel.task import join_all, run, spawn
from tests.kernel.transport_world import World

PORT = 8080


def exchange(length: int) -> tuple[list[tuple[str, int]], int]:
    """The server writes ``length`` bytes. Returns who sent how many segments in a row, and how many bytes arrived."""
    world = World()
    server, client = world.host("server", "10.0.0.1"), world.host("client", "10.0.0.2")
    got = 0

    async def serve() -> None:
        listener = server.sockets.tcp()
        listener.bind("", PORT)
        listener.listen()
        socket = await listener.accept()
        await socket.recv()
        await socket.sendall(bytes(length))
        socket.close()

    async def ask() -> None:
        nonlocal got
        socket = client.sockets.tcp()
        await socket.connect("10.0.0.1", PORT)
        await socket.sendall(b"?")
        while data := await socket.recv():
            got += len(data)
        socket.close()

    run(world.clock, join_all(spawn(world.clock, serve(), "server"), spawn(world.clock, ask(), "client")))
    rows: list[tuple[str, int]] = []
    begun = False
    for seen in world.log:
        segment = seen.segment
        begun = begun or (segment.sport == PORT and bool(segment.payload))
        if not begun or segment.flags & 1:
            continue
        who = "server" if segment.sport == PORT else "client"
        if rows and rows[-1][0] == who:
            rows[-1] = (who, rows[-1][1] + 1)
        else:
            rows.append((who, 1))
    return rows, got


def test_acknowledgements_come_between_bursts_and_count_as_one() -> None:
    """Half of the congestion window twice, then all the rest at once: the waiting ACKs were joined."""
    rows, got = exchange(20_000)
    assert got == 20_000
    assert rows[:6] == [("server", 5), ("client", 5), ("server", 5), ("client", 5), ("server", 4), ("client", 4)]


def test_one_burst_needs_no_time() -> None:
    rows, got = exchange(5_000)
    assert got == 5_000
    assert rows[:2] == [("server", 4), ("client", 4)]
