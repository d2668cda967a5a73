"""A DNS server on the sockets of its pod.

Source: miekg/dns v1.1.68, server.go; coredns v1.13.1, plugin/pkg/proxy/{connect,persistent}.go.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

from pktsim.clock import NS_PER_S, Clock
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.task import Task, sleep, spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.transport import AF_INET, AF_INET6
from pktsim.kernel.udp import UdpSocket

from .plugin import Ask, Failure, Pause, Work
from .server import TCP_IDLE_TIMEOUT_NS, TCP_READ_TIMEOUT_NS, DnsServer

#: How long a connection to another server may take at first (proxy/persistent.go, ``maxDialTimeout``).
_DIAL_TIMEOUT_NS = 30 * NS_PER_S


class _Upstreams:
    """Sockets to other servers, kept for a while after use: the last one used is used again first."""

    def __init__(self, sockets: SocketLayer) -> None:
        self._sockets = sockets
        self._idle: dict[tuple[object, bool], list[tuple[UdpSocket | TcpSocket, int]]] = {}

    def _take(self, ask: Ask) -> UdpSocket | TcpSocket | None:
        idle = self._idle.get((ask.owner, ask.tcp))
        if ask.owner is None or not idle:
            return None
        oldest_ns = self._sockets.clock.now_ns - ask.expire_ns
        if idle[-1][1] > oldest_ns:
            return idle.pop()[0]
        for socket, _ in idle:
            socket.close()
        idle.clear()
        return None

    def _give_back(self, ask: Ask, socket: UdpSocket | TcpSocket) -> None:
        if ask.owner is None:
            socket.close()
        else:
            self._idle.setdefault((ask.owner, ask.tcp), []).append((socket, self._sockets.clock.now_ns))

    async def ask(self, ask: Ask) -> bytes | Failure:
        """Carry out a request of the server."""
        while True:
            socket = self._take(ask)
            reused = socket is not None
            try:
                if socket is None:
                    socket = await self._open(ask)
                answer = await self._exchange(socket, ask)
            except TimeoutError:
                answer = Failure.TIMEOUT
            except OSError as error:
                answer = _failure(error)
            if isinstance(answer, bytes):
                assert socket is not None
                self._give_back(ask, socket)
            elif socket is not None:
                socket.close()
                if reused and ask.tcp and answer is Failure.CLOSED:
                    continue  # the other side had closed the kept connection
            return answer

    async def _open(self, ask: Ask) -> UdpSocket | TcpSocket:
        family = AF_INET6 if ":" in ask.address else AF_INET
        if not ask.tcp:
            datagrams = self._sockets.udp(family)
            datagrams.connect(ask.address, ask.port)
            return datagrams
        stream = self._sockets.tcp(family)
        stream.set_nodelay()
        await stream.connect(ask.address, ask.port, _DIAL_TIMEOUT_NS)
        return stream

    async def _exchange(self, socket: UdpSocket | TcpSocket, ask: Ask) -> bytes | Failure:
        deadline_ns = self._sockets.clock.now_ns + ask.timeout_ns
        if isinstance(socket, UdpSocket):
            socket.send(ask.query)
        else:
            await socket.sendall(len(ask.query).to_bytes(2, "big") + ask.query)
        while True:
            left_ns = deadline_ns - self._sockets.clock.now_ns
            if isinstance(socket, UdpSocket):
                answer, _, _ = await socket.recvfrom(left_ns)
            else:
                message = await read_message(socket, self._sockets.clock, deadline_ns)
                if message is None:
                    return Failure.CLOSED
                answer = message
            if answer[:2] == ask.query[:2]:
                return answer


def _failure(error: OSError) -> Failure:
    if error.errno in (errno.ECONNREFUSED,):
        return Failure.REFUSED
    if error.errno in (errno.ETIMEDOUT, errno.EAGAIN):
        return Failure.TIMEOUT
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return Failure.CLOSED
    return Failure.UNREACHABLE


class Stream(Protocol):
    """What is needed of a TCP socket to serve its client."""

    async def recv(self, limit: int = 65536, timeout_ns: int | None = None) -> bytes: ...

    async def sendall(self, data: bytes) -> None: ...

    def close(self) -> None: ...


#: Carries out what the server asks for until it has its answer.
Drive = Callable[["Work[bytes | None]", "Ask | Pause"], Coroutine[Any, Any, "bytes | None"]]


async def serve_connection(server: DnsServer, clock: Clock, stream: Stream, source: str, drive: Drive) -> None:
    """Answer the questions of one connection, one after the other, until it is silent for too long or ends."""
    timeout_ns = TCP_READ_TIMEOUT_NS
    try:
        while True:
            query = await read_message(stream, clock, clock.now_ns + timeout_ns)
            if query is None:
                break
            work = server.handle(query, tcp=True, source=source)
            try:
                request = next(work)
            except StopIteration as stop:
                answer: bytes | None = stop.value
            else:
                answer = await drive(work, request)
            if answer is not None:
                await stream.sendall(len(answer).to_bytes(2, "big") + answer)
            timeout_ns = TCP_IDLE_TIMEOUT_NS
    except OSError:
        pass  # a time-out is one too: the connection ends
    finally:
        stream.close()


async def read_message(stream: Stream, clock: Clock, deadline_ns: int) -> bytes | None:
    """Read one message with the length before it; ``None`` if the connection ends first.

    Raises:
        TimeoutError: It was not there at ``deadline_ns``.
        OSError: The connection broke.
    """
    wanted, octets = 2, bytearray()
    have_length = False
    while True:
        while len(octets) < wanted:
            left_ns = deadline_ns - clock.now_ns
            if left_ns <= 0:
                raise TimeoutError("no message in time")
            more = await stream.recv(wanted - len(octets), left_ns)
            if not more:
                return None
            octets += more
        if have_length:
            return bytes(octets)
        wanted, octets, have_length = int.from_bytes(octets, "big"), bytearray(), True


class DnsService:
    """A server that runs on sockets. Made by :func:`serve_dns`."""

    def __init__(
        self, sockets: SocketLayer, server: DnsServer, families: Sequence[int], addresses: Sequence[str] = ()
    ) -> None:
        self.server = server
        self._sockets = sockets
        self._upstreams = _Upstreams(sockets)
        self._open: list[UdpSocket | TcpSocket] = []
        self._tasks: list[Task[Any]] = []
        server.spawn = self._spawn_work
        for work in server.background:
            self._spawn_work(work)
        server.background.clear()
        places = [(AF_INET6 if ":" in address else AF_INET, address) for address in addresses]
        for family, address in places or [(family, "") for family in families]:
            datagrams = sockets.udp(family)
            datagrams.bind(address, server.config.port)
            listener = sockets.tcp(family)
            listener.bind(address, server.config.port)
            listener.listen()
            self._open += [datagrams, listener]
            self._spawn(self._serve_udp(datagrams), "udp")
            self._spawn(self._serve_tcp(listener), "tcp")

    def stop(self) -> None:
        """End all that runs, and close all sockets."""
        for task in self._tasks:
            task.cancel()
        for socket in self._open:
            socket.close()
        self._tasks.clear()
        self._open.clear()

    def _spawn(
        self, coroutine: Coroutine[Any, Any, None], what: str, unstarted: Callable[[], None] | None = None
    ) -> None:
        self._tasks = [task for task in self._tasks if not task.done]
        name = f"{self.server.config.name}/{what}"
        self._tasks.append(spawn(self._sockets.clock, coroutine, name, unstarted=unstarted))

    def _spawn_work(self, work: Work[None]) -> None:
        self._spawn(self._finish(work), "background")

    async def _finish(self, work: Work[None]) -> None:
        try:
            request = next(work)
        except StopIteration:
            return
        await self._drive(work, request)

    async def _drive(self, work: Work[bytes | None] | Work[None], request: Ask | Pause) -> bytes | None:
        """Carry out what the server asks for until it has its answer."""
        while True:
            answer: bytes | Failure = Failure.TIMEOUT
            if isinstance(request, Pause):
                await sleep(self._sockets.clock, request.duration_ns)
            else:
                answer = await self._upstreams.ask(request)
            try:
                request = work.send(answer)
            except StopIteration as stop:
                result: bytes | None = stop.value
                return result

    async def _serve_udp(self, socket: UdpSocket) -> None:
        while True:
            batch = [await socket.recvfrom()]
            with suppress(TimeoutError):
                while True:
                    batch.append(await socket.recvfrom(0))
            # Each datagram gets a goroutine, and Go runs the newest first, then the others in their order
            # (``runnext``, runtime/proc.go): of two questions that were both there, the second is answered first.
            for query, source, port in (batch[-1], *batch[:-1]):
                work = self.server.handle(query, tcp=False, source=source)
                try:
                    request = next(work)
                except StopIteration as stop:
                    self._reply(socket, stop.value, source, port)
                else:
                    # Another server has to be asked: the next question need not wait for that.
                    self._spawn(self._serve_later(socket, work, request, source, port), "question")

    async def _serve_later(
        self, socket: UdpSocket, work: Work[bytes | None], request: Ask | Pause, source: str, port: int
    ) -> None:
        self._reply(socket, await self._drive(work, request), source, port)

    def _reply(self, socket: UdpSocket, answer: bytes | None, source: str, port: int) -> None:
        if answer is not None:
            try:
                socket.sendto(answer, source, port)
            except OSError:
                return  # logged and forgotten by the real thing too

    async def _serve_tcp(self, listener: TcpSocket) -> None:
        while True:
            connection = await listener.accept()
            connection.set_nodelay()
            address = connection.remote_address
            source = address[0] if address is not None else ""
            serving = serve_connection(self.server, self._sockets.clock, connection, source, self._drive)
            self._spawn(serving, "connection", connection.close)


def serve_dns(
    sockets: SocketLayer, server: DnsServer, families: Sequence[int] = (AF_INET,), addresses: Sequence[str] = ()
) -> DnsService:
    """Serve over UDP and TCP on the server's port, on all addresses or only on some.

    Args:
        sockets: The pod's.
        server: What answers.
        families: ``AF_INET``, ``AF_INET6`` or both.
        addresses: Instead of all addresses of these families: those of the ``bind`` plugin.
    """
    return DnsService(sockets, server, families, addresses)
