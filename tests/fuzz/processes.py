"""Programs on the fuzzed node: servers that answer, clients that come and go."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from pktsim.clock import NS_PER_S
from pktsim.kernel.netdev import AF_INET, AF_INET6
from pktsim.kernel.task import spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.udp import UdpSocket

if TYPE_CHECKING:
    from tests.fuzz.world import Space

_TARGETS4: Final = ("10.1.1.1", "10.1.2.1", "172.30.0.1", "172.30.0.10", "192.168.0.1", "127.0.0.1", "192.168.0.11")
_TARGETS6: Final = ("fd00:10:1:1::1", "fd00:172:30::1", "::1", "fd00:192:168::12")
_PORTS: Final = (53, 80, 123, 8080, 8443)
_DATA: Final = (b"", b"x", b"GET / HTTP/1.1\r\n\r\n", bytes(1400), bytes(4000))
_PATIENCE_NS: Final = 3 * NS_PER_S


def _spawn(space: Space, coroutine: Coroutine[Any, Any, None]) -> None:
    space.tasks = [task for task in space.tasks if not task.done]
    space.tasks.append(spawn(space.clock, coroutine))


async def _answer(socket: TcpSocket) -> None:
    """Say back what was said, once."""
    try:
        data = await socket.recv(timeout_ns=_PATIENCE_NS)
        await socket.sendall(data)
    finally:
        socket.close()


async def _serve(space: Space, socket: TcpSocket) -> None:
    while True:
        _spawn(space, _answer(await socket.accept()))


async def _ask(socket: TcpSocket, address: str, port: int, data: bytes, *, abort: bool) -> None:
    try:
        await socket.connect(address, port, timeout_ns=_PATIENCE_NS)
        await socket.sendall(data)
        await socket.recv(timeout_ns=_PATIENCE_NS)
    finally:
        if abort:
            socket.abort()
        else:
            socket.close()


def start(space: Space) -> None:
    """The servers that the node begins with."""
    for family in (AF_INET, AF_INET6):
        for port in (22, 8443):
            server = space.sockets.tcp(family)
            server.bind("", port)
            server.listen(3)
            _spawn(space, _serve(space, server))
        for port in (53, 8081):
            socket = space.sockets.udp(family)
            socket.bind("", port)
            space.udp_sockets.append(socket)
    space.sockets.raw(47)
    space.sockets.raw(58, AF_INET6)
    space.clock.run_for(0)


def stop(space: Space) -> None:
    """No program runs any more."""
    for task in space.tasks:
        task.cancel()


def _target(rng: random.Random) -> tuple[int, str]:
    family = rng.choice((AF_INET, AF_INET, AF_INET6))
    return family, rng.choice(_TARGETS4 if family == AF_INET else _TARGETS6)


def _udp(space: Space, rng: random.Random) -> None:
    """Somebody sends, from a new port, one that is connected, or one that listens."""
    family, address = _target(rng)
    open_ones = [socket for socket in space.udp_sockets if socket.family == family]
    socket: UdpSocket = rng.choice(open_ones) if open_ones and rng.random() < 0.5 else space.sockets.udp(family)
    if socket not in space.udp_sockets:
        space.udp_sockets.append(socket)
    socket.pending()
    if rng.random() < 0.2:
        socket.set_df(rng.choice((True, False, None)))
    if rng.random() < 0.3:
        socket.connect(address, rng.choice(_PORTS))
        socket.send(rng.choice(_DATA))
    else:
        socket.sendto(rng.choice(_DATA), address, rng.choice(_PORTS))


def _udp_close(space: Space, rng: random.Random) -> None:
    if len(space.udp_sockets) > 6:
        space.udp_sockets.pop(rng.randrange(len(space.udp_sockets))).close()


def _tcp(space: Space, rng: random.Random) -> None:
    family, address = _target(rng)
    socket = space.sockets.tcp(family)
    _spawn(space, _ask(socket, address, rng.choice(_PORTS), rng.choice(_DATA), abort=rng.random() < 0.2))


def _ping(space: Space, rng: random.Random) -> None:
    family, address = _target(rng)
    socket = space.sockets.ping(family)
    try:
        socket.echo(address, rng.randrange(9), rng.choice(_DATA))
    finally:
        socket.close()


PROCESSES: Final[tuple[Callable[[Space, random.Random], None], ...]] = (
    _udp,
    _udp,
    _udp,
    _udp_close,
    _tcp,
    _tcp,
    _ping,
)
