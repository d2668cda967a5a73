"""A small client that tries whether something answers: ``client tcp|udp|ping``, the recorded clusters' own program.

It prints an answer, or the name of the error.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pktsim.clock import NS_PER_S, NS_PER_US
from pktsim.kernel.datagram import DatagramSocket
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.task import sleep
from pktsim.kernel.transport import AF_INET, AF_INET6

PING_IDENT = 0x1234
_GREETING = b"hello"
_PATTERN = b"0123456789abcdef"
_PING_BYTES = bytes(range(56))
_BETWEEN_NS = 60 * NS_PER_US
#: How much of an answer is printed.
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Probe:
    """What to try.

    Attributes:
        kind: ``tcp`` connects and closes; ``udp`` and ``ping`` send, and wait for the answer, ``count`` times.
        destination: An address.
        port: For ``tcp`` and ``udp``.
        sport: Local port, 0 for any.
        size: Bytes to send, 0 for the greeting (``udp``) or 56 (``ping``).
        ttl: 0 for the default.
        df: ``True``: path MTU discovery always, ``False``: never, ``None``: the default.
        reset: Close with RST.
        wait_ns: How long to wait for each answer.
    """

    kind: str
    destination: str
    port: int = 0
    sport: int = 0
    size: int = 0
    count: int = 1
    ttl: int = 0
    df: bool | None = None
    reset: bool = False
    wait_ns: int = 3 * NS_PER_S // 2

    @property
    def family(self) -> int:
        return AF_INET6 if ":" in self.destination else AF_INET


def error_text(error: OSError) -> str:
    """``ECONNREFUSED`` and the like; ``TimeoutError`` where nobody said anything."""
    if error.errno is None:
        return type(error).__name__
    return errno.errorcode.get(error.errno, str(error))


def _filled(size: int) -> bytes:
    return (_PATTERN * (size // len(_PATTERN) + 1))[:size]


async def run_probe(sockets: SocketLayer, probe: Probe) -> list[str]:
    """Do it; return the lines that the program prints.

    Raises:
        ValueError: ``probe.kind`` is none of the three.
    """
    if probe.kind == "tcp":
        return [await _tcp(sockets, probe)]
    if probe.kind == "udp":
        return await _udp(sockets, probe)
    if probe.kind == "ping":
        return await _ping(sockets, probe)
    raise ValueError(f"probe {probe.kind!r} is none of tcp, udp and ping")


async def _tcp(sockets: SocketLayer, probe: Probe) -> str:
    socket = sockets.tcp(probe.family)
    socket.ttl = probe.ttl
    try:
        if probe.sport:
            socket.reuse_address = True
            socket.bind("", probe.sport)
        await socket.connect(probe.destination, probe.port, timeout_ns=probe.wait_ns)
        await sleep(sockets.clock, _BETWEEN_NS)
    except OSError as error:
        return error_text(error)
    finally:
        if probe.reset:
            socket.abort()
        else:
            socket.close()
    return "connected"


def _prepare(socket: DatagramSocket, probe: Probe) -> None:
    socket.ttl = probe.ttl
    if probe.df is not None:
        socket.set_df(probe.df)


async def _udp(sockets: SocketLayer, probe: Probe) -> list[str]:
    lines: list[str] = []
    socket = sockets.udp(probe.family)
    _prepare(socket, probe)
    data = _filled(probe.size) if probe.size else _GREETING
    try:
        if probe.sport:
            socket.bind("", probe.sport)
        socket.connect(probe.destination, probe.port)
        for number in range(probe.count):
            if number:
                await sleep(sockets.clock, _BETWEEN_NS)
            try:
                socket.send(data)
                answer, _, _ = await socket.recvfrom(probe.wait_ns)
            except OSError as error:
                lines.append(error_text(error))
            else:
                lines.append(f"reply {len(answer)} {answer[:_SHOWN].decode('utf-8', 'replace')}")
    except OSError as error:
        lines.append(error_text(error))
    finally:
        socket.close()
    return lines


async def _ping(sockets: SocketLayer, probe: Probe) -> list[str]:
    lines: list[str] = []
    socket = sockets.ping(probe.family, PING_IDENT)
    _prepare(socket, probe)
    data = _filled(probe.size) if probe.size else _PING_BYTES
    try:
        for number in range(probe.count):
            if number:
                await sleep(sockets.clock, _BETWEEN_NS)
            try:
                socket.echo(probe.destination, number + 1, data)
                reply = await socket.reply(probe.wait_ns)
            except OSError as error:
                lines.append(error_text(error))
                continue
            if probe.family == AF_INET:
                lines.append(
                    f"icmp type {reply.kind} code {reply.code} from {reply.address} ttl {reply.ttl} "
                    f"length {reply.length}"
                )
            else:
                lines.append(f"icmp6 type {reply.kind} code {reply.code} from {reply.address} length {reply.length}")
    finally:
        socket.close()
    return lines
