"""curl as far as the wire and its messages go (curl 7.88.1): requests one by one or over one connection, with TLS."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import h11

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from pktsim.cluster.apps.tls import TlsStream, Trust
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.capture import KeyLog
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.task import sleep
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.transport import AF_INET, AF_INET6

USER_AGENT = "curl/7.88.1"
#: ``X509_V_ERR_HOSTNAME_MISMATCH`` and ``X509_V_ERR_IP_ADDRESS_MISMATCH`` (openssl/x509_vfy.h).
_NAME_MISMATCH = frozenset({62, 64})
#: Name to addresses in text, in order of preference. Raises ``OSError`` if there are none.
Resolve = Callable[[str], Awaitable[list[str]]]

#: From a connection to writing the request; from having the whole answer to closing.
_REQUEST_NS = 60 * NS_PER_US
_CLOSE_NS = 100 * NS_PER_US
_UPLOAD_CHUNK = 65536
#: A shorter body goes out in one write with the request's head (``MAX_INITIAL_POST_SIZE``, curl's lib/http.h).
_WITH_HEAD_LIMIT = 64 * 1024
_READ_CHUNK = 102_400
_EXPECT_LIMIT = 1 << 20  # curl asks for "100 Continue" before larger bodies
_EXPECT_NS = NS_PER_S  # and waits so long for it
_TIMER_SLACK_NS = NS_PER_MS  # curl looks at the clock when poll() returns, which rounds up

EXIT_OK = 0
EXIT_COULDNT_RESOLVE = 6
EXIT_COULDNT_CONNECT = 7
EXIT_OPERATION_TIMEDOUT = 28
EXIT_GOT_NOTHING = 52
EXIT_SEND_ERROR = 55
EXIT_RECV_ERROR = 56
EXIT_PARTIAL_FILE = 18
EXIT_SSL_CONNECT_ERROR = 35
EXIT_LOCAL_PORT = 45
EXIT_TOO_MANY_REDIRECTS = 47
EXIT_PEER_FAILED_VERIFICATION = 60

_PORTS = {"http": 80, "https": 443}
_DIED = frozenset({EXIT_GOT_NOTHING, EXIT_SEND_ERROR, EXIT_RECV_ERROR})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class HttpResult:
    """How a request ended.

    Attributes:
        exit_code: curl's: 0 if there was an answer, whatever it says.
        status: HTTP status, 0 without an answer.
        error: curl's message without its prefix, empty if all went well.
        peer: The address that was connected to.
        local: Our own end of it.
        url: Where it came from, after redirects.
    """

    exit_code: int
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    error: str = ""
    peer: tuple[str, int] | None = None
    local: tuple[str, int] | None = None
    url: str = ""

    @property
    def output(self) -> str:
        """What ``curl -s -S`` prints."""
        body = self.body.decode("utf-8", "replace")
        return body + (f"curl: ({self.exit_code}) {self.error}\n" if self.exit_code else "")

    @property
    def ok(self) -> bool:
        """There was an answer, and it is no error."""
        return self.exit_code == EXIT_OK and self.status < 400


class Stream(Protocol):
    """A connection to a server, encrypted or not."""

    async def recv(self, limit: int = 65536, timeout_ns: int | None = None) -> bytes: ...

    async def sendall(self, data: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Open:
    """An open connection."""

    socket: TcpSocket
    stream: Stream
    reused: bool = False

    @property
    def usable(self) -> bool:
        """Whether the server has left it open, and has said nothing unasked."""
        connection = self.socket.connection
        return connection is not None and not (
            connection.fin_received or connection.dead or connection.error or connection.received.length
        )


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
        connect_to: ``--connect-to``: ``HOST``, ``HOST:PORT`` or ``:PORT`` to connect to, whatever the URL says. The
            ``Host`` header and the name in TLS stay the URL's.
        redirects: ``-L``, and how many to follow at most.
        trust: Which servers' certificates are accepted.
        keep: Whether connections stay open for further requests to the same host and port, until :meth:`close`.
        key_log: Where the secrets of TLS connections are noted.
    """

    sockets: SocketLayer
    resolve: Resolve | None = None
    local_port: int = 0
    max_time_ns: int = 0
    connect_timeout_ns: int = 300 * NS_PER_S
    user_agent: str = USER_AGENT
    connect_to: str = ""
    redirects: int = 0
    trust: Trust = field(default_factory=Trust)
    keep: bool = False
    key_log: KeyLog | None = None
    _begun_ns: int = field(default=0, init=False)
    _idle: dict[tuple[str, str, int], _Open] = field(default_factory=dict, init=False)

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
        """Ask for ``url``, read the answer, follow redirects.

        Raises:
            UnsupportedFeature: A scheme other than http and https.
        """
        self._begun_ns = self.sockets.clock.now_ns
        followed = 0
        while True:
            result = replace(await self._request(method, url, headers, data), url=url)
            where = next((value for name, value in result.headers if name == "location"), "")
            if not self.redirects or result.exit_code or result.status not in _REDIRECTS or not where:
                return result
            if followed == self.redirects:
                text = f"Maximum ({self.redirects}) redirects followed"
                return replace(result, exit_code=EXIT_TOO_MANY_REDIRECTS, error=text)
            followed += 1
            url = urljoin(url, where)
            # A POST that is sent elsewhere becomes a GET, unless the status says that it must not (RFC 9110 15.4).
            if method not in ("GET", "HEAD") and (
                result.status == 303 or (result.status in (301, 302) and method == "POST")
            ):
                method, data = "GET", None
                headers = [header for header in headers if not header.lower().startswith("content-type:")]

    def close(self) -> None:
        """Close the connections that were kept."""
        while self._idle:
            self._idle.popitem()[1].stream.close()

    async def _request(self, method: str, url: str, headers: Sequence[str], data: bytes | None) -> HttpResult:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise UnsupportedFeature(f"URL {url}", mend="write http://HOST[:PORT]/PATH, or https")
        host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
        place = (parts.scheme, host, port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        named = parts.netloc.rpartition("@")[2]
        while True:
            connection = self._idle.pop(place, None)
            if connection is not None and not connection.usable:
                connection.stream.close()
                connection = None
            if connection is None:
                made = await self._open(*place)
                if isinstance(made, HttpResult):
                    return made
                connection = made
            stays = False
            try:
                result, stays = await self._exchange(connection, method, target, named, headers, data)
            finally:
                if not stays:
                    connection.stream.close()
            if stays:
                connection.reused = True
                self._idle[place] = connection
            elif connection.reused and not result.status and result.exit_code in _DIED:
                continue  # the server had closed it meanwhile: once more over a new one
            return result

    async def _open(self, scheme: str, host: str, port: int) -> _Open | HttpResult:
        """A new connection, with TLS if the URL wants it."""
        name, number = self._destination(host, port)
        addresses = await self._addresses(name)
        if isinstance(addresses, HttpResult):
            return addresses
        socket = await self._connect(name, number, addresses)
        if isinstance(socket, HttpResult):
            return socket
        if scheme == "http":
            return _Open(socket, socket)
        peer, local = socket.remote_address, socket.local_address
        try:
            stream = TlsStream(socket, self.trust.context(self.key_log), server_name=host)
            await stream.handshake(self._left())
        except ssl.SSLCertVerificationError as error:
            socket.close()
            said = error.verify_message
            if error.verify_code in _NAME_MISMATCH:
                text = f"SSL: no alternative certificate subject name matches target host name '{host}'"
            else:
                text = f"SSL certificate problem: {said}"
            return HttpResult(EXIT_PEER_FAILED_VERIFICATION, error=text, peer=peer, local=local)
        except TimeoutError:
            socket.close()
            text = f"SSL connection timeout after {self._elapsed_ms()} milliseconds"
            return HttpResult(EXIT_OPERATION_TIMEDOUT, error=text, peer=peer, local=local)
        except OSError as error:
            socket.close()
            reason = getattr(error, "reason", None) or error.strerror or str(error)
            text = f"OpenSSL SSL_connect: {reason} in connection to {host}:{port} "
            return HttpResult(EXIT_SSL_CONNECT_ERROR, error=text, peer=peer, local=local)
        return _Open(socket, stream)

    def _destination(self, host: str, port: int) -> tuple[str, int]:
        """Where to connect: what the URL says, unless ``connect_to`` says otherwise."""
        other = self.connect_to
        if not other:
            return host, port
        if other.startswith("["):
            name, _, rest = other[1:].partition("]")
            number = rest.removeprefix(":")
        elif other.count(":") > 1:
            name, number = other, ""
        else:
            name, _, number = other.partition(":")
        if number and not (number.isdigit() and 0 < int(number) < 65536):
            raise UnsupportedFeature(f"connect_to {other}", mend="write HOST, HOST:PORT or :PORT")
        return name or host, int(number or port)

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
        # What is given replaces curl's own header of that name; Host does so in its place.
        own = {header.partition(":")[0].lower(): header for header in headers}
        lines = [f"{method} {target} HTTP/1.1", own.get("host", f"Host: {host}")]
        if self.user_agent and "user-agent" not in own:
            lines.append(f"User-Agent: {self.user_agent}")
        if "accept" not in own:
            lines.append("Accept: */*")
        headers = [header for header in headers if not header.lower().startswith("host:")]
        given = [header for header in headers if not header.lower().startswith("content-type:")]
        lines.extend(given)
        if data is not None:
            # curl lists what was given in order, with the length of the body after the custom headers' type.
            lines.extend(header for header in headers if header.lower().startswith("content-type:"))
            lines.append(f"Content-Length: {len(data)}")
            if len(data) > _EXPECT_LIMIT:
                lines.append("Expect: 100-continue")
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    async def _may_send(self, opened: _Open, connection: h11.Connection, head: bytes) -> bool:
        """After ``Expect: 100-continue``: wait a second for it. Returns ``False`` if a final answer came instead."""
        if b"\r\nExpect: 100-continue\r\n" not in head:
            return True
        try:
            connection.receive_data(await opened.stream.recv(_READ_CHUNK, _EXPECT_NS))
        except TimeoutError:
            return True
        return b"HTTP/1.1 100" in connection.trailing_data[0]

    async def _exchange(
        self, opened: _Open, method: str, target: str, host: str, headers: Sequence[str], data: bytes | None
    ) -> tuple[HttpResult, bool]:
        """Ask over a connection. Returns what came of it, and whether the connection can stay open."""
        clock = self.sockets.clock
        await sleep(clock, _REQUEST_NS)
        socket, stream = opened.socket, opened.stream
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        # h11 only has to know what was asked, to tell where the answer ends; the bytes are curl's own.
        connection.send(h11.Request(method=method, target=target, headers=[("Host", host)]))
        connection.send(h11.EndOfMessage())
        peer, local = socket.remote_address, socket.local_address
        status = 0
        answer: tuple[tuple[str, str], ...] = ()
        pieces: list[bytes] = []

        def result(exit_code: int, error: str = "") -> tuple[HttpResult, bool]:
            return HttpResult(exit_code, status, answer, b"".join(pieces), error, peer, local), False

        broken: OSError | None = None
        head = self._head(method, target, host, headers, data)
        uploads = data is not None
        if data is not None and len(data) < _WITH_HEAD_LIMIT:
            head, data = head + data, None
        try:
            await stream.sendall(head)
            if data is not None and await self._may_send(opened, connection, head):
                for start in range(0, len(data), _UPLOAD_CHUNK):
                    await sleep(clock, _REQUEST_NS)
                    await stream.sendall(data[start : start + _UPLOAD_CHUNK])
        except OSError as error:
            if not uploads or socket.connection is None or not socket.connection.received.length:
                return result(EXIT_SEND_ERROR, f"Send failure: {error.strerror}")
            broken = error  # an answer that did not wait for all of the body
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    received = await stream.recv(_READ_CHUNK, timeout_ns=self._left())
                    if not received and not status:
                        return result(EXIT_GOT_NOTHING, "Empty reply from server")
                    connection.receive_data(received)
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    answer = tuple((key.decode(), value.decode()) for key, value in event.headers)
                elif isinstance(event, h11.Data):
                    pieces.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    if self.keep and broken is None and connection.their_state is h11.DONE:
                        return result(EXIT_OK)[0], True
                    await sleep(clock, _CLOSE_NS)
                    return result(EXIT_OK)
        except TimeoutError as error:
            if error.errno == errno.ETIMEDOUT:
                return result(EXIT_RECV_ERROR, f"Recv failure: {error.strerror}")
            size = sum(map(len, pieces))
            text = f"Operation timed out after {self._elapsed_ms()} milliseconds with {size} bytes received"
            return result(EXIT_OPERATION_TIMEDOUT, text)
        except OSError as error:
            return result(EXIT_RECV_ERROR, f"Recv failure: {error.strerror}")
        except h11.RemoteProtocolError:
            return result(EXIT_PARTIAL_FILE, "transfer closed with outstanding read data remaining")
