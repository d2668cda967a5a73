"""curl, as far as the wire and its messages go: one request over one connection (curl 7.88.1)."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.task import sleep
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.transport import AF_INET, AF_INET6

USER_AGENT = "curl/7.88.1"
#: Name to addresses in text, in order of preference. Raises ``OSError`` if there are none.
Resolve = Callable[[str], Awaitable[list[str]]]

#: From a connection to writing the request; from having the whole answer to closing.
_REQUEST_NS = 60 * NS_PER_US
_CLOSE_NS = 100 * NS_PER_US
_UPLOAD_CHUNK = 65536
_READ_CHUNK = 102_400
_EXPECT_LIMIT = 1 << 20  # curl asks for "100 Continue" before larger bodies
_TIMER_SLACK_NS = NS_PER_MS  # curl looks at the clock when poll() returns, which rounds up

EXIT_OK = 0
EXIT_COULDNT_RESOLVE = 6
EXIT_COULDNT_CONNECT = 7
EXIT_OPERATION_TIMEDOUT = 28
EXIT_GOT_NOTHING = 52
EXIT_SEND_ERROR = 55
EXIT_RECV_ERROR = 56
EXIT_PARTIAL_FILE = 18
EXIT_LOCAL_PORT = 45


@dataclass(frozen=True, slots=True)
class HttpResult:
    """How a request ended.

    Attributes:
        exit_code: curl's: 0 if there was an answer, whatever it says.
        status: HTTP status, 0 without an answer.
        error: curl's message without its prefix, empty if all went well.
        peer: The address that was connected to.
        local: Our own end of it.
    """

    exit_code: int
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    error: str = ""
    peer: tuple[str, int] | None = None
    local: tuple[str, int] | None = None

    @property
    def output(self) -> str:
        """What ``curl -s -S`` prints."""
        body = self.body.decode("utf-8", "replace")
        return body + (f"curl: ({self.exit_code}) {self.error}\n" if self.exit_code else "")

    @property
    def ok(self) -> bool:
        """There was an answer, and it is no error."""
        return self.exit_code == EXIT_OK and self.status < 400


@dataclass(slots=True)
class HttpClient:
    """``curl -s -S URL``.

    Attributes:
        sockets: Of the namespace it runs in.
        resolve: For names in URLs; addresses need none.
        local_port: ``--local-port``; 0 for any.
        max_time_ns: ``-m``, over all; 0 for none.
        connect_timeout_ns: ``--connect-timeout``.
        user_agent: Empty for no such header.
    """

    sockets: SocketLayer
    resolve: Resolve | None = None
    local_port: int = 0
    max_time_ns: int = 0
    connect_timeout_ns: int = 300 * NS_PER_S
    user_agent: str = USER_AGENT
    _begun_ns: int = field(default=0, init=False)

    async def get(self, url: str, *, headers: Sequence[str] = ()) -> HttpResult:
        return await self.request("GET", url, headers=headers)

    async def post(self, url: str, data: bytes, *, headers: Sequence[str] = ()) -> HttpResult:
        """``--data-binary``; without a ``Content-Type`` among ``headers`` it is a form's."""
        if not any(header.lower().startswith("content-type:") for header in headers):
            headers = (*headers, "Content-Type: application/x-www-form-urlencoded")
        return await self.request("POST", url, headers=headers, data=data)

    async def request(
        self, method: str, url: str, *, headers: Sequence[str] = (), data: bytes | None = None
    ) -> HttpResult:
        """Ask for ``url`` and read the answer.

        Raises:
            UnsupportedFeature: A scheme other than http.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise UnsupportedFeature(f"URL {url}", mend="write http://HOST[:PORT]/PATH")
        self._begun_ns = self.sockets.clock.now_ns
        host, port = parts.hostname, parts.port or 80
        addresses = await self._addresses(host)
        if isinstance(addresses, HttpResult):
            return addresses
        socket = await self._connect(host, port, addresses)
        if isinstance(socket, HttpResult):
            return socket
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            return await self._exchange(socket, method, target, parts.netloc.rpartition("@")[2], headers, data)
        finally:
            socket.close()

    def _left(self) -> int | None:
        """What is left of ``max_time``."""
        if not self.max_time_ns:
            return None
        return self._begun_ns + self.max_time_ns + _TIMER_SLACK_NS - self.sockets.clock.now_ns

    def _elapsed_ms(self) -> int:
        return (self.sockets.clock.now_ns - self._begun_ns) // NS_PER_MS

    async def _addresses(self, host: str) -> list[str] | HttpResult:
        if ":" in host or host.replace(".", "").isdigit():
            return [host]
        if self.resolve is None:
            return HttpResult(EXIT_COULDNT_RESOLVE, error=f"Could not resolve host: {host}")
        try:
            found = await self.resolve(host)
        except OSError:
            found = []
        left = self._left()
        if left is not None and left <= 0:
            return HttpResult(
                EXIT_OPERATION_TIMEDOUT, error=f"Resolving timed out after {self._elapsed_ms()} milliseconds"
            )
        return found or HttpResult(EXIT_COULDNT_RESOLVE, error=f"Could not resolve host: {host}")

    async def _connect(self, host: str, port: int, addresses: Sequence[str]) -> TcpSocket | HttpResult:
        """Try the addresses one after the other."""
        limit = self.connect_timeout_ns
        for address in addresses:
            left = self._left()
            if left is not None:
                limit = min(limit, left)
            socket = self.sockets.tcp(AF_INET6 if ":" in address else AF_INET)
            socket.nodelay = True
            socket.keepalive = True
            try:
                if self.local_port:
                    socket.bind("", self.local_port)
            except OSError as error:
                socket.close()
                text = f"bind failed with errno {error.errno}: {error.strerror}"
                return HttpResult(EXIT_LOCAL_PORT, error=text)
            try:
                await socket.connect(address, port, timeout_ns=max(limit, 0))
                return socket
            except TimeoutError as error:
                socket.close()
                if error.errno != errno.ETIMEDOUT:
                    return HttpResult(
                        EXIT_OPERATION_TIMEDOUT, error=f"Connection timed out after {self._elapsed_ms()} milliseconds"
                    )
            except OSError:
                socket.close()
        text = f"Failed to connect to {host} port {port} after {self._elapsed_ms()} ms: Couldn't connect to server"
        return HttpResult(EXIT_COULDNT_CONNECT, error=text)

    def _head(self, method: str, target: str, host: str, headers: Sequence[str], data: bytes | None) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
        if self.user_agent:
            lines.append(f"User-Agent: {self.user_agent}")
        lines.append("Accept: */*")
        given = [header for header in headers if not header.lower().startswith("content-type:")]
        lines.extend(given)
        if data is not None:
            # curl lists what was given in order, with the length of the body after the custom headers' type.
            lines.extend(header for header in headers if header.lower().startswith("content-type:"))
            lines.append(f"Content-Length: {len(data)}")
            if len(data) > _EXPECT_LIMIT:
                lines.append("Expect: 100-continue")
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    async def _exchange(
        self, socket: TcpSocket, method: str, target: str, host: str, headers: Sequence[str], data: bytes | None
    ) -> HttpResult:
        clock = self.sockets.clock
        await sleep(clock, _REQUEST_NS)
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        # h11 only has to know what was asked, to tell where the answer ends; the bytes are curl's own.
        connection.send(h11.Request(method=method, target=target, headers=[("Host", host)]))
        connection.send(h11.EndOfMessage())
        peer, local = socket.remote_address, socket.local_address
        try:
            await socket.sendall(self._head(method, target, host, headers, data))
            if data is not None:
                for start in range(0, len(data), _UPLOAD_CHUNK):
                    await sleep(clock, _REQUEST_NS)
                    await socket.sendall(data[start : start + _UPLOAD_CHUNK])
        except OSError as error:
            return HttpResult(EXIT_SEND_ERROR, error=f"Send failure: {error.strerror}", peer=peer, local=local)
        status = 0
        answer: tuple[tuple[str, str], ...] = ()
        pieces: list[bytes] = []
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    received = await socket.recv(_READ_CHUNK, timeout_ns=self._left())
                    if not received and not status:
                        return HttpResult(EXIT_GOT_NOTHING, error="Empty reply from server", peer=peer, local=local)
                    connection.receive_data(received)
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    answer = tuple((key.decode(), value.decode()) for key, value in event.headers)
                elif isinstance(event, h11.Data):
                    pieces.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    await sleep(clock, _CLOSE_NS)
                    return HttpResult(EXIT_OK, status, answer, b"".join(pieces), peer=peer, local=local)
        except TimeoutError as error:
            body = b"".join(pieces)
            if error.errno == errno.ETIMEDOUT:
                return HttpResult(
                    EXIT_RECV_ERROR, status, answer, body, f"Recv failure: {error.strerror}", peer=peer, local=local
                )
            text = f"Operation timed out after {self._elapsed_ms()} milliseconds with {len(body)} bytes received"
            return HttpResult(EXIT_OPERATION_TIMEDOUT, status, answer, body, text, peer=peer, local=local)
        except OSError as error:
            text = f"Recv failure: {error.strerror}"
            return HttpResult(EXIT_RECV_ERROR, status, answer, b"".join(pieces), text, peer=peer, local=local)
        except h11.RemoteProtocolError:
            text = "transfer closed with outstanding read data remaining"
            return HttpResult(EXIT_PARTIAL_FILE, status, answer, b"".join(pieces), text, peer=peer, local=local)
