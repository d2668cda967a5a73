"""One client's connection: requests in, answers out, one after the other.

Source: nginx src/http/ngx_http_request.c, ngx_http_request_body.c, ngx_http_special_response.c, ngx_http_upstream.c;
what it answers to wrong requests was seen of nginx 1.22.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h11

from pktsim.clock import NS_PER_S
from pktsim.kernel.task import spawn

from .access_log import Attempt, Entry
from .messages import (
    CLOSING,
    REASONS,
    Headers,
    Hop,
    Request,
    header,
    page,
    passed_on,
    response_head,
    upstream_request,
)
from .routing import CATCH_ALL, Location, normal_path
from .streams import READ_BYTES, Stream, Tunnel, send
from .upstream import Answer, BadAnswer, Closed, Connection, RoundRobin

if TYPE_CHECKING:
    from .controller import IngressController

#: ``large_client_header_buffers 4 8k``: a line fits one of them, a head all four.
_LINE_LIMIT, _HEAD_LIMIT = 8 << 10, 32 << 10
#: ``lingering_timeout`` and ``lingering_time``.
_LINGERING_NS, _LINGERING_TIME_NS = 5 * NS_PER_S, 30 * NS_PER_S
#: ``send_timeout``: how long a client may take nothing.
_SEND_TIMEOUT_NS = 60 * NS_PER_S
#: What is tried again only if it has not been sent.
_NOT_IDEMPOTENT = frozenset({"POST", "LOCK", "PATCH"})
_METHOD = re.compile(rb"[A-Z_-]+")
_BAD_HOST = re.compile(r"[\x00-\x20\x7f/\\]|\.\.")
_CLIENT_CLOSED = 499
_MISPLACED = "The plain HTTP request was sent to HTTPS port"
_TOO_LARGE = "Request Header Or Cookie Too Large"


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end.

    Attributes:
        remote: Its address, as PROXY protocol says if there is one before everything else.
        peer: The address of the connection.
        port: Which of our ports it asked for.
        scheme: ``http`` or ``https``.
    """

    remote: str
    peer: str
    port: int
    scheme: str


class _Refused(Exception):
    """A request that is answered with an error page at once."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.message = message


class _ClientGone(Exception):
    """The client has closed its connection while it was being served."""


class _Failed(Exception):
    """No endpoint gave an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class ClientConnection:
    """Serves a connection until it ends.

    Attributes:
        first: What was read of it already.
        misplaced: Whether it is not encrypted, on the port for TLS: it gets nothing but a word about that.
    """

    worker: IngressController
    stream: Stream
    client: Client
    first: bytes = b""
    misplaced: bool = False
    _parser: h11.Connection = field(init=False)
    _served: int = 0
    _gone: bool = False
    _upstream: Connection | None = None

    async def run(self) -> None:
        """Serve requests until the client or we close."""
        try:
            while await self._serve_one():
                pass
        except OSError:
            pass  # the client has gone, and nobody is left to be told
        finally:
            self.stream.close()

    # Reading a request

    async def _serve_one(self) -> bool:
        """Read a request and answer it. Returns whether there may be another one."""
        clock, settings = self.worker.clock, self.worker.settings
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        data = self.first
        if not data:
            idle_s = settings.keep_alive_s if self._served else settings.client_header_timeout_s
            try:
                data = await self.stream.recv(READ_BYTES, idle_s * NS_PER_S)
            except TimeoutError:
                return False
            if not data:
                return False
        self.first = b""
        entry = Entry(self.client.remote, clock.now_ns)
        head = bytearray(data)
        self._parser.receive_data(data)
        try:
            request = await self._head(entry, head)
        except _Refused as refused:
            await self._refuse(entry, refused.status, refused.message)
            return False
        except OSError as error:
            # Too slow, or gone before it had said what it wants.
            entry.line = _first_line(head)
            entry.status = 408 if isinstance(error, TimeoutError) else 400
            entry.length = len(head)
            self._log(entry)
            self.stream.abort() if isinstance(error, TimeoutError) else self.stream.close()
            return False
        return await self._handle(request, entry, len(head))

    async def _head(self, entry: Entry, head: bytearray) -> Request:
        deadline_ns = entry.began_ns + self.worker.settings.client_header_timeout_s * NS_PER_S
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                entry.line = _first_line(head)
                if error.error_status_hint == 431:
                    raise _Refused(414 if b"\n" not in head[:_LINE_LIMIT] else 400, _TOO_LARGE) from None
                raise _Refused(400) from None
            if isinstance(event, h11.Request):
                return self._request(event, entry, head)
            if event is not h11.NEED_DATA:
                raise Closed("the client closed its connection")
            data = await self.stream.recv(READ_BYTES, deadline_ns - self.worker.clock.now_ns)
            if not data:
                raise Closed("the client closed its connection")
            head += data
            self._parser.receive_data(data)

    def _request(self, event: h11.Request, entry: Entry, head: bytearray) -> Request:
        """Look at a head as nginx does, which is stricter in some places.

        Raises:
            _Refused: It is not taken.
        """
        version = event.http_version.decode()
        target = event.target.decode("latin-1")
        line = f"{event.method.decode('latin-1')} {target} HTTP/{version}"
        entry.line = line
        headers = event.headers.raw_items()
        if len(line) + 2 > _LINE_LIMIT:
            raise _Refused(414)
        if any(len(name) + len(value) + 4 > _LINE_LIMIT for name, value in headers):
            raise _Refused(400, _TOO_LARGE)
        if version >= "2":
            raise _Refused(505)
        if _METHOD.fullmatch(event.method) is None or event.method == b"CONNECT":
            raise _Refused(400)
        host = (header(headers, b"host") or b"").decode("latin-1")
        authority = host
        if not target.startswith("/"):
            scheme, separator, rest = target.partition("://")
            if not separator or scheme.lower() not in ("http", "https"):
                raise _Refused(400)
            authority, slash, rest = rest.partition("/")
            target = slash + rest or "/"
        coded = header(headers, b"transfer-encoding") is not None
        if _BAD_HOST.search(authority) or (coded and header(headers, b"content-length") is not None):
            raise _Refused(400)
        path = normal_path(target)
        if path is None:
            raise _Refused(400)
        if event.method == b"TRACE":
            raise _Refused(405)
        name = authority.lower()
        if not name.startswith("["):
            name = name.partition(":")[0]
        request = Request(
            event.method.decode("latin-1"), target, version, path, host or authority, name.removesuffix("."),
            headers, line,
        )  # fmt: skip
        if self.misplaced:
            raise _Refused(400, _MISPLACED)
        entry.request = request
        entry.remote = self._remote(headers)
        entry.request_id = (header(headers, b"x-request-id") or b"").decode("latin-1")
        if not entry.request_id and self.worker.settings.generate_request_id:
            entry.request_id = f"{self.worker.choices.below(f'{self.worker.name}/request_id', 1 << 128):032x}"
        return request

    def _remote(self, headers: Headers) -> str:
        """Whom a request is from: where X-Forwarded-For is believed, who stands first in it (``real_ip_recursive``)."""
        forwarded = header(headers, b"x-forwarded-for") if self.worker.settings.use_forwarded_headers else None
        if not forwarded:
            return self.client.remote
        return forwarded.decode("latin-1").partition(",")[0].strip()

    async def _body(self, request: Request, limit: int, length: int) -> None:
        """Gather the body (``proxy_request_buffering on``).

        Raises:
            _Refused: It is too large, or no body.
            OSError: The client is too slow, or has gone.
        """
        timeout_ns = self.worker.settings.client_body_timeout_s * NS_PER_S
        pieces: list[bytes] = []
        size = 0
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError:
                if self._parser.trailing_data[1]:
                    raise Closed("the client closed its connection") from None
                raise _Refused(400) from None
            if isinstance(event, h11.Data):
                size += len(event.data)
                if limit and size > limit:
                    raise _Refused(413)
                pieces.append(bytes(event.data))
            elif event is h11.NEED_DATA:
                if self._parser.they_are_waiting_for_100_continue and limit >= 0:
                    await self.stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    self._parser.send(h11.InformationalResponse(status_code=100, headers=[]))
                data = await self.stream.recv(READ_BYTES, timeout_ns)
                length += len(data)
                self._parser.receive_data(data)
            else:
                break
        request.body = b"".join(pieces)
        self.first = self._parser.trailing_data[0]
        request.length = length - len(self.first)

    async def _discard(self) -> bool:
        """Read the body of a request that needs none. Returns whether the connection can go on."""
        if self._parser.their_state is not h11.SEND_BODY:
            self.first = self._parser.trailing_data[0]
            return True
        rest = Request("", "", "", "", "", "", [], "")
        try:
            await self._body(rest, -1, 0)
        except (OSError, _Refused):
            return False
        return True

    # Answering

    async def _handle(self, request: Request, entry: Entry, length: int) -> bool:
        worker = self.worker
        entry.length = length - len(self._parser.trailing_data[0])
        server = worker.routes.server(request.host)
        location = server.location(request.path)
        settings = location.settings
        entry.backend = location.backend
        if server.hostname == CATCH_ALL and request.path.startswith("/healthz"):
            return await self._plain(request, entry, 200, b"", logged=False)
        declared = header(request.headers, b"content-length")
        if settings.body_bytes and declared is not None and int(declared) > settings.body_bytes:
            entry.request = request
            return await self._too_large(entry, location)
        route = f"server {server.hostname}, location {location}"
        redirect = self._https(request, location)
        if redirect:
            worker.note(entry.title, route, f"the host has a certificate: {redirect}")
            code = worker.settings.http_redirect_code
            return await self._plain(request, entry, code, self._page(code), location=redirect, logged=location.logged)
        code, redirect = settings.redirect
        if settings.app_root and request.path == "/":
            code, redirect = 302, f"{self._scheme}://{request.http_host}{settings.app_root}"
        if code:
            worker.note(entry.title, route, f"sent on to {redirect}")
            return await self._plain(request, entry, code, self._page(code), location=redirect, logged=location.logged)
        balancer = await worker.balancer(location.backend)
        if balancer is None:
            worker.note(entry.title, route, f"backend {location.backend} has no endpoints: 503")
            return await self._plain(request, entry, 503, self._page(503), logged=location.logged)
        try:
            await self._body(request, settings.body_bytes, length)
        except _Refused as refused:
            if refused.status == 413:
                return await self._too_large(entry, location)
            await self._refuse(entry, refused.status)
            return False
        except OSError as error:
            entry.status = 408 if isinstance(error, TimeoutError) else 400
            self._log(entry, logged=location.logged)
            self.stream.abort() if isinstance(error, TimeoutError) else self.stream.close()
            return False
        entry.length = request.length
        return await self._proxy(request, entry, location, balancer, route)

    @property
    def _scheme(self) -> str:
        """How the client asked: what a PROXY header says of port 443 was encrypted (lua_ingress.lua, ``rewrite``)."""
        encrypted = self.worker.settings.use_proxy_protocol and self.client.port == 443
        return "https" if encrypted else self.client.scheme

    def _https(self, request: Request, location: Location) -> str:
        """Where a plain request is sent instead, if the host has a certificate (lua_ingress.lua, ``rewrite``)."""
        settings = self.worker.settings
        scheme = self._scheme
        forwarded = header(request.headers, b"x-forwarded-proto")
        if settings.use_forwarded_headers and forwarded is not None:
            scheme = forwarded.decode("latin-1")
        if scheme != "http":
            return ""
        found = self.worker.routes.find(request.host)
        secured = found is not None and found.certificate is not None
        if not (location.settings.force_ssl_redirect or (location.settings.ssl_redirect and secured)):
            return ""
        target = request.target
        if not location.settings.preserve_trailing_slash:
            target = target.removesuffix("/")
        return f"https://{request.http_host.partition(':')[0]}{target}"

    def _keeps(self, request: Request) -> bool:
        """Whether the connection stays open behind this answer."""
        settings = self.worker.settings
        limit = settings.keep_alive_requests
        return request.keeps_alive and bool(settings.keep_alive_s) and (not limit or self._served + 1 < limit)

    def _extra(self) -> list[tuple[bytes, bytes]]:
        """Headers that the controller adds."""
        value = self.worker.settings.strict_transport_security if self.client.scheme == "https" else ""
        return [(b"Strict-Transport-Security", value.encode())] if value else []

    def _error_head(
        self, status: int, length: int, *, keeps: bool = False, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> bytes:
        """The head before one of nginx's own pages."""
        return response_head(
            status,
            REASONS.get(status, "OK"),
            self.worker.clock.now_ns,
            content_type=b"text/html",
            length=length,
            connection="keep-alive" if keeps else "close",
            server=self.worker.settings.server,
            headers=[*headers, *self._extra()],
        )

    def _page(self, status: int, message: str = "") -> bytes:
        return page(status, message, self.worker.settings.server)

    async def _plain(
        self, request: Request, entry: Entry, status: int, body: bytes, *, location: str = "", logged: bool = True
    ) -> bool:
        """Answer without asking an endpoint."""
        keeps = self._keeps(request) and status not in CLOSING
        extra = [(b"Location", location.encode("latin-1"))] if location else []
        head = self._error_head(status, len(body), keeps=keeps, headers=extra)
        entry.status = status
        if request.method != "HEAD":
            entry.sent = len(body)
            head += body
        try:
            await self.stream.sendall(head)
        finally:
            self._log(entry, logged=logged)
        self._served += 1
        return keeps and await self._discard()

    async def _refuse(self, entry: Entry, status: int, message: str = "") -> None:
        """Answer a request that cannot be understood, and close."""
        entry.status = status
        body = self._page(status, message if status == 400 else "")
        entry.sent = len(body)
        head = self._error_head(status, len(body))
        try:
            await self.stream.sendall(head + body)
        finally:
            self._log(entry)

    async def _too_large(self, entry: Entry, location: Location) -> bool:
        """413, and go on reading for a while: a client that still sends would lose the answer to a reset."""
        clock = self.worker.clock
        entry.status = 413
        body = self._page(413)
        entry.sent = len(body)
        head = self._error_head(413, len(body))
        end_ns = clock.now_ns + _LINGERING_TIME_NS
        try:
            await self.stream.sendall(head + body)
            while clock.now_ns < end_ns:
                if not await self.stream.recv(READ_BYTES, min(_LINGERING_NS, end_ns - clock.now_ns)):
                    break
        except TimeoutError:
            self.stream.abort()
        finally:
            self._log(entry, logged=location.logged)
        return False

    def _log(self, entry: Entry, *, logged: bool = True) -> None:
        if logged and not self.worker.settings.disable_access_log:
            self.worker.log.append(entry.text(self.worker.clock.now_ns))

    # Asking endpoints

    async def _proxy(
        self, request: Request, entry: Entry, location: Location, balancer: RoundRobin, route: str
    ) -> bool:
        watch = spawn(self.worker.clock, self._watch(), f"{self.worker.name} client")
        try:
            answer, head = await self._ask(request, entry, location, balancer, route)
            if isinstance(head, h11.InformationalResponse):
                watch.cancel()
                await self._tunnel(entry, answer, head)
                return False
            return await self._relay(request, entry, location, answer, head)
        except _Failed as failed:
            watch.cancel()
            return await self._plain(request, entry, failed.status, self._page(failed.status), logged=location.logged)
        except _ClientGone:
            entry.status = entry.status or _CLIENT_CLOSED
            self._log(entry, logged=location.logged)
            return False
        finally:
            watch.cancel()
            if self._upstream is not None:
                self._upstream.stream.close()
                self._upstream = None

    async def _watch(self) -> None:
        """Notice that the client closes: then nobody wants the answer (``check_broken_connection``)."""
        connection = self.stream.socket.connection
        while connection is not None and not (connection.fin_received or connection.error or connection.dead):
            await connection.changed.wait()
        self._gone = True
        if self._upstream is not None:
            self._upstream.stream.close()

    async def _ask(
        self, request: Request, entry: Entry, location: Location, balancer: RoundRobin, route: str
    ) -> tuple[Answer, h11.Response | h11.InformationalResponse]:
        """Try endpoints until one answers.

        Raises:
            _Failed: None did.
            _ClientGone: The client has closed meanwhile.
        """
        worker, settings = self.worker, location.settings
        client = self.client
        hop = Hop(entry.remote, client.peer, self._scheme, client.port, entry.request_id)
        target = location.rewritten(request.path, request.target)
        data = upstream_request(request, hop, worker.settings, target, settings.upstream_vhost)
        upgrade = header(request.headers, b"upgrade") is not None
        clock = worker.clock
        began_ns, tries = clock.now_ns, 0
        while True:
            peer = balancer.take()
            attempt = Attempt(f"{peer[0]}:{peer[1]}" if ":" not in peer[0] else f"[{peer[0]}]:{peer[1]}", clock.now_ns)
            entry.attempts.append(attempt)
            turn = f"the turn of {attempt.address}, 1 of {len(balancer.peers)}"
            if tries:
                turn = f"{entry.attempts[-2].address} failed ({entry.attempts[-2].status}): {turn}"
            worker.note(entry.title, route, f"backend {location.backend}: {turn}")
            sent = kept = False
            kind = "error"
            try:
                connection = await worker.pool.connect(
                    peer, settings.connect_timeout_s * NS_PER_S, tls=settings.backend_tls
                )
                self._upstream = connection
                kept = connection.kept
                if self._gone:
                    raise _ClientGone
                sent = True
                connection.requests += 1
                await send(connection.stream, clock, data, settings.send_timeout_s * NS_PER_S)
                answer = Answer(connection, request.method, upgrade=upgrade, limit=settings.buffer_bytes)
                head = await answer.head(settings.read_timeout_s * NS_PER_S)
                status = head.status_code
                condition = f"http_{status}"
                if not (condition in settings.next_upstream and tries + 1 < (settings.tries or len(balancer.peers))):
                    attempt.status = status
                    return answer, head
                kind = condition
            except TimeoutError:
                kind, status = "timeout", 504
            except BadAnswer:
                kind, status = "invalid_header", 502
            except OSError:
                status = 502
            self._let_go()
            attempt.ended_ns = clock.now_ns
            if self._gone:
                raise _ClientGone
            attempt.status = status
            # An idle connection that the endpoint had closed already is no attempt.
            tries += not (kept and kind == "error")
            late = settings.next_upstream_timeout_s * NS_PER_S
            if (
                kind not in settings.next_upstream
                or tries >= (settings.tries or len(balancer.peers))
                or (late and clock.now_ns - began_ns >= late)
                or (
                    sent
                    and request.method in _NOT_IDEMPOTENT
                    and not (worker.settings.retry_non_idempotent or "non_idempotent" in settings.next_upstream)
                )
            ):
                raise _Failed(status)

    def _let_go(self) -> None:
        if self._upstream is not None:
            self._upstream.stream.close()
            self._upstream = None

    async def _relay(
        self, request: Request, entry: Entry, location: Location, answer: Answer, head: h11.Response
    ) -> bool:
        """Hand an answer on as it comes in: no more of it is read than the client has taken."""
        attempt = entry.attempts[-1]
        timeout_ns = location.settings.read_timeout_s * NS_PER_S
        headers = head.headers.raw_items()
        declared = header(headers, b"content-length")
        empty = request.method == "HEAD" or head.status_code in (204, 304)
        length = None if declared is None else int(declared)
        chunked = length is None and not empty and request.version == "1.1"
        keeps = self._keeps(request) and (chunked or empty or length is not None)
        data = response_head(
            head.status_code,
            head.reason.decode("latin-1"),
            self.worker.clock.now_ns,
            content_type=header(headers, b"content-type"),
            length=length,
            chunked=chunked,
            connection="keep-alive" if keeps else "close",
            server=self.worker.settings.server,
            headers=[*passed_on(headers), *self._extra()],
        )
        if head.http_version == b"0.9":
            data, chunked = b"", False
        entry.status = head.status_code
        try:
            piece = answer.available()
            while True:
                framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked and piece else piece
                if answer.over:
                    framed += b"0\r\n\r\n" if chunked else b""
                    self._finish_upstream(answer, attempt)
                if data or framed:
                    await send(self.stream, self.worker.clock, data + framed, _SEND_TIMEOUT_NS)
                entry.sent += len(framed)
                data = b""
                if answer.over:
                    break
                piece = await answer.piece(timeout_ns)
        except (OSError, BadAnswer):
            # One side has gone in the middle of it. A client that is still there learns it by the connection's end.
            keeps = False
            if data and not self._gone:
                with suppress(OSError):
                    await self.stream.sendall(data)
        attempt.received = answer.received
        self._log(entry, logged=location.logged)
        self._served += 1
        return keeps

    def _finish_upstream(self, answer: Answer, attempt: Attempt) -> None:
        """Keep or close the connection of a complete answer."""
        attempt.ended_ns = self.worker.clock.now_ns
        connection, self._upstream = answer.connection, None
        if answer.keeps_alive:
            self.worker.pool.give_back(connection)
        else:
            connection.stream.close()

    async def _tunnel(self, entry: Entry, answer: Answer, head: h11.InformationalResponse) -> None:
        """Another protocol from here on: bytes both ways until one side closes."""
        worker = self.worker
        headers = head.headers.raw_items()
        kept = [(name, value) for name, value in headers if name.lower() not in (b"connection", b"date", b"server")]
        data = response_head(
            101,
            "Switching Protocols",
            worker.clock.now_ns,
            connection="upgrade",
            server=worker.settings.server,
            headers=kept,
        )
        entry.status = 101
        await self.stream.sendall(data)
        tunnel = Tunnel(worker.clock, worker.name, self.stream, answer.connection.stream)
        await tunnel.run(self._parser.trailing_data[0], answer.rest)
        entry.sent = tunnel.to_one
        self._log(entry)


def _first_line(head: bytes | bytearray) -> str:
    """What the log shows of a request that could not be read."""
    return bytes(head[:_LINE_LIMIT]).partition(b"\r\n")[0].decode("latin-1")
