"""The other side of the proxy: endpoints in turn, connections that are kept, answers as they come in.

Source: ingress-nginx rootfs/etc/nginx/lua/balancer.lua and balancer/round_robin.lua (lua-resty-balancer's
roundrobin.lua); nginx src/http/modules/ngx_http_upstream_keepalive_module.c, src/http/ngx_http_upstream.c.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import h11

from pktsim.clock import NS_PER_S, Clock
from pktsim.cluster.apps.tls import TlsStream, Trust
from pktsim.fidelity import approximated
from pktsim.kernel.capture import KeyLog
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.task import Task, spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.transport import AF_INET, AF_INET6
from pktsim.rng import Choices

from .settings import Settings
from .streams import Stream

approximated(
    "ingress.workers",
    "one nginx worker serves everything and takes endpoints in the order of their slices from a drawn one on; the real "
    "controller has a worker for each CPU, each with its own turn in the order of a Lua table",
    source="ingress-nginx rootfs/etc/nginx/lua/balancer/round_robin.lua",
)

Peer = tuple[str, int]
_READ_BYTES = 65536
_BEGINNING = b"HTTP/"


class RoundRobin:
    """Whose turn it is among the endpoints of a backend. The first one is drawn.

    Args:
        place: Where the choice is asked.
    """

    def __init__(self, peers: Sequence[Peer], choices: Choices, place: str) -> None:
        self.peers = tuple(peers)
        self._next = choices.below(place, len(self.peers)) if len(self.peers) > 1 else 0

    def take(self) -> Peer:
        """The next one."""
        peer = self.peers[self._next]
        self._next = (self._next + 1) % len(self.peers)
        return peer


@dataclass(slots=True)
class Connection:
    """A connection to an endpoint.

    Attributes:
        stream: What is said over it: through TLS, or plainly.
        requests: Sent over it so far.
        kept: Whether it was taken out of the pool, so that the endpoint may just have closed it.
        began_ns: When it was opened.
    """

    socket: TcpSocket
    stream: Stream | TcpSocket
    peer: Peer
    began_ns: int
    requests: int = 0
    kept: bool = False
    _watch: Task[None] | None = None


#: ``keepalive_time``: a connection that is older is not kept any longer.
_KEEPALIVE_TIME_NS = 3600 * NS_PER_S


class Pool:
    """Idle connections, the last one used first; the one that is idle for longest makes room."""

    def __init__(self, sockets: SocketLayer, name: str, key_log: KeyLog | None = None) -> None:
        self._sockets = sockets
        self._key_log = key_log
        self._clock: Clock = sockets.clock
        self._name = name
        self._idle: OrderedDict[int, Connection] = OrderedDict()
        self.settings = Settings()

    def __len__(self) -> int:
        return len(self._idle)

    async def connect(self, peer: Peer, timeout_ns: int, *, tls: bool = False) -> Connection:
        """A connection to an endpoint: an idle one, or a new one.

        Args:
            peer: The endpoint.
            timeout_ns: How long connecting may take.
            tls: Whether to speak TLS, whose certificates are not looked at (``proxy_ssl_verify off``).

        Raises:
            OSError: It cannot be made (``TimeoutError``: not in time).
        """
        for key in reversed(self._idle):
            connection = self._idle[key]
            if connection.peer == peer and tls == (connection.stream is not connection.socket):
                self._forget(key)
                connection.kept = True
                return connection
        socket = self._sockets.tcp(AF_INET6 if ":" in peer[0] else AF_INET)
        socket.nodelay = True
        try:
            await socket.connect(*peer, timeout_ns=timeout_ns)
            stream: Stream | TcpSocket = socket
            if tls:
                stream = secured = TlsStream(socket, Trust(insecure=True).context(self._key_log))
                await secured.handshake(timeout_ns)
        except BaseException:
            socket.close()
            raise
        return Connection(socket, stream, peer, self._clock.now_ns)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer is complete, or close it."""
        settings = self.settings
        age_ns = self._clock.now_ns - connection.began_ns
        limit = settings.upstream_keepalive_connections
        old = connection.requests >= settings.upstream_keepalive_requests or age_ns >= _KEEPALIVE_TIME_NS
        if old or not limit or not _open(connection.socket):
            connection.stream.close()
            return
        if len(self._idle) >= limit:
            oldest = next(iter(self._idle))
            self._forget(oldest).stream.close()
        self._idle[id(connection)] = connection
        watch = self._watch(connection, settings.upstream_keepalive_timeout_s * NS_PER_S)
        connection._watch = spawn(self._clock, watch, f"{self._name} idle connection")

    def close(self) -> None:
        """Close all."""
        while self._idle:
            self._forget(next(iter(self._idle))).stream.close()

    def _forget(self, key: int) -> Connection:
        connection = self._idle.pop(key)
        if connection._watch is not None:
            connection._watch.cancel()
            connection._watch = None
        return connection

    async def _watch(self, connection: Connection, timeout_ns: int) -> None:
        """Close an idle connection when its time is over, or the endpoint closes it, or says something unasked."""
        with suppress(OSError):
            await connection.socket.recv(1, timeout_ns)
        connection._watch = None
        self._idle.pop(id(connection), None)
        connection.stream.close()


def _open(socket: TcpSocket) -> bool:
    """Whether nothing speaks against using a connection once more."""
    connection = socket.connection
    return connection is not None and not (
        connection.dead or connection.fin_received or connection.error or connection.received.length
    )


class BadAnswer(Exception):
    """What an endpoint said is no HTTP, or its head is too long."""


class Closed(OSError):
    """An endpoint closed before its answer was complete."""


class Answer:
    """An endpoint's answer, piece by piece.

    Args:
        connection: What the request was written to.
        method: The request's; to HEAD no body follows.
        upgrade: Whether the request asked for another protocol.
        limit: Bytes that the head may have.

    Attributes:
        over: Whether all of it has been read.
        received: Bytes of the body so far.
    """

    def __init__(self, connection: Connection, method: str, *, upgrade: bool, limit: int) -> None:
        self.connection = connection
        self.received = 0
        self._limit = limit
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=limit)
        headers = [("Host", "x"), *([("Upgrade", "x"), ("Connection", "upgrade")] if upgrade else [])]
        self._parser.send(h11.Request(method=method, target="/", headers=headers))
        self._parser.send(h11.EndOfMessage())
        self._bytes = 0
        self._bare: bytes | None = None
        self.over = False

    async def head(self, timeout_ns: int) -> h11.Response | h11.InformationalResponse:
        """Wait for the head; only 101 is given of what comes before a final one.

        An answer that does not begin as one is one without a head, as before HTTP/1.0; nginx takes it so.

        Raises:
            TimeoutError: It did not come in time.
            Closed: The connection was closed before.
            OSError: The connection broke.
            BadAnswer: It is no HTTP, or too long.
        """
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                data = await self.connection.stream.recv(_READ_BYTES, timeout_ns)
                if not data:
                    raise Closed("the endpoint closed the connection before it answered")
                if not self._bytes and not (data.startswith(_BEGINNING) or _BEGINNING.startswith(data)):
                    self._bare = data
                    return h11.Response(status_code=200, headers=[], http_version="0.9")
                self._bytes += len(data)
                self._parser.receive_data(data)
            elif isinstance(event, h11.Response | h11.InformationalResponse):
                if self._bytes - len(self._parser.trailing_data[0]) > self._limit:
                    raise BadAnswer("the head is too long")
                if isinstance(event, h11.Response) or event.status_code == 101:
                    return event
            else:
                raise BadAnswer("no head")

    def available(self) -> bytes:
        """What of the body has been read with what came before it; nothing is waited for.

        Raises:
            OSError, BadAnswer: As :meth:`head`.
        """
        pieces: list[bytes] = []
        if self._bare is not None:
            pieces, self._bare = [self._bare], b""
            self.received += len(pieces[0])
            return pieces[0]
        while not self.over:
            event = self._next_event()
            if isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif event is h11.NEED_DATA:
                break
            else:
                self.over = True
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.received += len(joined)
        return joined

    async def piece(self, timeout_ns: int) -> bytes:
        """The next piece of the body; :attr:`over` says whether it is the last one.

        Raises:
            OSError, BadAnswer: As :meth:`head`.
        """
        while True:
            data = await self.connection.stream.recv(_READ_BYTES, timeout_ns)
            if self._bare is not None:
                self._bare, self.over = data, not data
            else:
                self._parser.receive_data(data)
            found = self.available()
            if found or self.over:
                return found

    def _next_event(self) -> object:
        try:
            return self._parser.next_event()
        except h11.RemoteProtocolError as error:
            if self._parser.their_state is h11.ERROR and self._parser.trailing_data[1]:
                raise Closed(str(error)) from None
            raise BadAnswer(str(error)) from None

    @property
    def rest(self) -> bytes:
        """What came behind the head of an upgrade."""
        return self._parser.trailing_data[0]

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can take another request."""
        return self.over and self._parser.their_state is h11.DONE and not self._parser.trailing_data[0]
