"""An HTTP server for a pod.

By default it is what the recorded clusters' pods run: it answers every request with its own name and the peer it sees,
closes after each answer, and says HTTP/1.0 as Python's ``http.server`` does. All of that are parameters.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate

import h11

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from pktsim.cluster.apps.http_client import Stream
from pktsim.cluster.apps.proxy_protocol import ProxyHeaderError, receive_proxy_header
from pktsim.cluster.apps.tls import TlsStream
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.task import Task, sleep, spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.transport import AF_INET

#: From having the request to writing the answer, and from writing it to closing: longer than a round trip in a LAN.
THINK_NS = 200 * NS_PER_US
CLOSE_NS = 60 * NS_PER_US
#: A server that is the slower one to close gives the client this long to be first, and then closes this much later.
LINGER_NS = 50 * NS_PER_MS
SLOW_CLOSE_NS = 300 * NS_PER_US
_RECORDED_PATTERN = b"0123456789abcdef"
_LARGEST_PATTERN = 1 << 30


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a client asked. Header names are lower case, as h11 has them."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    peer: tuple[str, int]
    version: str = "1.1"

    def header(self, name: str) -> str:
        """A header's value, empty if it is missing."""
        return next((value for key, value in self.headers if key == name.lower()), "")


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What to answer."""

    body: bytes
    status: int = 200
    reason: str = "OK"
    content_type: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[HttpRequest], HttpResponse]


def peer_text(address: str, port: int) -> str:
    """``10.1.1.2:40007``, or ``[fd00::1]:40007``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def pattern(length: int) -> bytes:
    """That many bytes with something to look at in them."""
    return (_RECORDED_PATTERN * (length // len(_RECORDED_PATTERN) + 1))[:length]


def whoami(name: str) -> Handler:
    """A handler that says who answers and who asked; ``/bytes/N`` gives N bytes, and a body's length is reported."""

    def handle(request: HttpRequest) -> HttpResponse:
        kind, _, count = request.target.removeprefix("/").partition("/")
        if kind == "bytes" and count.isascii() and count.isdigit() and int(count) <= _LARGEST_PATTERN:
            return HttpResponse(pattern(int(count)))
        said = f" send {len(request.body)} bytes" if request.body else ""
        return HttpResponse(f"{name} saw {peer_text(*request.peer)}{said}\n".encode())

    return handle


def http_echo(name: str, namespace: str = "") -> Handler:
    """A handler that tells the request as JSON, and who it is: what proxies on the way have made of it."""

    def handle(request: HttpRequest) -> HttpResponse:
        told = {
            "pod": name,
            "namespace": namespace,
            "peer": peer_text(*request.peer),
            "method": request.method,
            "path": request.target,
            "proto": f"HTTP/{request.version}",
            "host": request.header("host"),
            "headers": [list(pair) for pair in request.headers],
            "bytes": len(request.body),
        }
        return HttpResponse(json.dumps(told).encode() + b"\n", content_type="application/json")

    return handle


@dataclass(slots=True)
class HttpServer:
    """One server process.

    Attributes:
        sockets: Of the namespace it runs in.
        name: For people, and for the place ``NAME/http.first_fin`` at which the choice is asked who closes first: 0 the
            server, 1 the client. In reality it is a race between the server's close and the client's noticing that it
            has all of the body.
        port: Where it listens.
        address: On which address; empty for all.
        handler: What it answers; :func:`whoami` by default.
        server: The ``Server`` header, empty for none.
        proxy_protocol: Every connection begins with a PROXY header, which says who the peer is.
        tls: Every connection is encrypted, with these certificates.
        go: Headers come as Go's ``net/http`` writes them: sorted, then ``Date`` and the length.
        version: ``1.0`` closes after each answer, ``1.1`` keeps the connection as the client wishes.
        served: Requests answered so far.
    """

    sockets: SocketLayer
    name: str
    port: int = 8080
    address: str = ""
    family: int = AF_INET
    handler: Handler | None = None
    server: str = "pod"
    version: str = "1.0"
    go: bool = False
    proxy_protocol: bool = False
    tls: ssl.SSLContext | None = None
    backlog: int = 128
    think_ns: int = THINK_NS
    served: int = 0
    _tasks: list[Task[None]] = field(default_factory=list)
    _listener: TcpSocket | None = None

    def start(self) -> Task[None]:
        """Bind, listen, and serve until :meth:`stop`.

        Raises:
            OSError: The port is taken.
        """
        listener = self.sockets.tcp(self.family)
        listener.reuse_address = True
        listener.bind(self.address, self.port)
        listener.listen(self.backlog)
        self._listener = listener
        task = spawn(self.sockets.clock, self._accept(listener), f"{self.name} http server")
        self._tasks.append(task)
        return task

    def stop(self) -> None:
        """Kill the process: its sockets are closed as the kernel does it."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: TcpSocket) -> None:
        while True:
            socket = await listener.accept()
            self._tasks = [task for task in self._tasks if not task.done]
            name = f"{self.name} http connection"
            self._tasks.append(spawn(self.sockets.clock, self._serve(socket), name, unstarted=socket.close))

    async def _serve(self, socket: TcpSocket) -> None:
        stream: Stream = socket
        try:
            if self.tls is not None:
                stream = secured = TlsStream(socket, self.tls, server_side=True)
                await secured.handshake()
            await self._converse(socket, stream)
        except (OSError, ProxyHeaderError):
            return  # the client has gone, or is no proxy: nothing to be done, as any server sees it
        finally:
            stream.close()

    async def _converse(self, socket: TcpSocket, stream: Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        clock = self.sockets.clock
        peer = socket.remote_address
        if self.proxy_protocol:
            ends, left = await receive_proxy_header(socket)
            peer = ends[0] if ends is not None else peer
            if left:  # nothing at all would be the end of the stream
                connection.receive_data(left)
        assert peer is not None
        while True:
            try:
                request = await self._read(stream, connection, peer)
            except h11.RemoteProtocolError as error:
                answer = HttpResponse(f"{error}\n".encode(), error.error_status_hint, "Bad Request")
                await stream.sendall(self._render(answer, "GET", close=True))
                return
            if request is None:
                return
            await sleep(clock, self.think_ns)
            response = (self.handler or whoami(self.name))(request)
            keep = self.version == "1.1" and connection.their_state is h11.DONE and _keeps_alive(request)
            await stream.sendall(self._render(response, request.method, close=not keep))
            self.served += 1
            if not keep:
                await self._finish(socket)
                return
            left = connection.trailing_data[0]
            connection = h11.Connection(h11.SERVER)
            if left:
                connection.receive_data(left)

    async def _finish(self, socket: TcpSocket) -> None:
        """Close: either right after the answer, or so late that the client is first."""
        clock = self.sockets.clock
        if self.sockets.choices.below(f"{self.name}/http.first_fin", 2) == 0:
            await sleep(clock, CLOSE_NS)
        else:
            with contextlib.suppress(TimeoutError):  # it may wait for us after all
                await socket.recv(timeout_ns=LINGER_NS)
            await sleep(clock, SLOW_CLOSE_NS)
        if socket.connection is not None and not socket.connection.dead:
            socket.shutdown_write()

    @staticmethod
    async def _read(stream: Stream, connection: h11.Connection, peer: tuple[str, int]) -> HttpRequest | None:
        """Read one request; ``None`` at the end of the stream."""
        request: h11.Request | None = None
        body: list[bytes] = []
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    await stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                connection.receive_data(await stream.recv())
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                return HttpRequest(
                    request.method.decode(),
                    request.target.decode(),
                    tuple((key.decode(), value.decode()) for key, value in request.headers),
                    b"".join(body),
                    peer,
                    request.http_version.decode(),
                )
            else:
                return None

    def _render(self, response: HttpResponse, method: str, *, close: bool) -> bytes:
        """Header and body in one write. h11 always says HTTP/1.1, so this is written out."""
        lines = [f"HTTP/{self.version} {response.status} {response.reason}"]
        if self.go:
            named = sorted((("Content-Type", response.content_type), *response.headers))
            lines.extend(f"{key}: {value}" for key, value in named)
            lines.append(f"Date: {formatdate(self.sockets.clock.now_ns // NS_PER_S, usegmt=True)}")
            lines.append(f"Content-Length: {len(response.body)}")
            if close:
                lines.append("Connection: close")
            head = "\r\n".join(lines).encode() + b"\r\n\r\n"
            return head if method == "HEAD" else head + response.body
        if self.server:
            lines.append(f"Server: {self.server}")
        lines.append(f"Content-Type: {response.content_type}")
        lines.append(f"Content-Length: {len(response.body)}")
        lines.extend(f"{key}: {value}" for key, value in response.headers)
        if close and self.version == "1.1":
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        return head if method == "HEAD" else head + response.body


def _keeps_alive(request: HttpRequest) -> bool:
    return request.header("connection").lower() != "close"
