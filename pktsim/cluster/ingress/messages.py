"""HTTP as nginx writes it: heads in its order of headers, its own pages for errors, its dates.

Source: nginx src/http/ngx_http_header_filter_module.c, ngx_http_special_response.c, modules/ngx_http_proxy_module.c;
ingress-nginx rootfs/etc/nginx/template/nginx.tmpl for what is sent on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pktsim.clock import NS_PER_S

from .settings import Settings

#: Simulated time 0, as captures have it too.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

Headers = list[tuple[bytes, bytes]]

#: What nginx calls the statuses that it makes itself.
REASONS = {
    301: "Moved Permanently", 302: "Moved Temporarily", 303: "See Other", 307: "Temporary Redirect",
    308: "Permanent Redirect", 400: "Bad Request", 404: "Not Found", 405: "Not Allowed", 408: "Request Time-out",
    413: "Request Entity Too Large", 414: "Request-URI Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out",
    505: "HTTP Version Not Supported",
}  # fmt: skip
#: After these the connection is closed (``ngx_http_special_response_handler``).
CLOSING = frozenset({400, 413, 414, 500, 501, 505})

#: Headers of an endpoint's answer that end here.
_HIDDEN = frozenset(
    {
        b"date", b"server", b"x-pad", b"x-accel-expires", b"x-accel-redirect", b"x-accel-limit-rate",
        b"x-accel-buffering", b"x-accel-charset", b"connection", b"keep-alive", b"transfer-encoding",
        b"content-type", b"content-length",
    }
)  # fmt: skip
#: Headers of a request that are replaced, or end here (``proxy_set_header``, and the proxy module's own).
_REPLACED = frozenset(
    {
        b"host", b"upgrade", b"connection", b"x-request-id", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host",
        b"x-forwarded-port", b"x-forwarded-proto", b"x-forwarded-scheme", b"x-scheme", b"x-original-forwarded-for",
        b"x-original-forwarded-host", b"proxy", b"content-length", b"transfer-encoding", b"te", b"keep-alive",
        b"expect",
    }
)  # fmt: skip
_VALID_NAME = re.compile(rb"[A-Za-z0-9-]+")
_VALID_NAME_UNDERSCORES = re.compile(rb"[A-Za-z0-9_-]+")


def moment(now_ns: int) -> datetime:
    """Simulated time as a date."""
    return _EPOCH + timedelta(seconds=now_ns // NS_PER_S)


def http_date(now_ns: int) -> str:
    """``Thu, 01 Jan 1970 00:00:00 GMT``, whatever the locale."""
    at = moment(now_ns)
    return f"{_DAYS[at.weekday()]}, {at.day:02} {MONTHS[at.month - 1]} {at.year} {at:%H:%M:%S} GMT"


def page(status: int, message: str = "", server: str = "") -> bytes:
    """nginx's own page for an error; the line at its end has a version if ``server`` has."""
    if message:
        title = f"400 {message}"
        heading = f"<center><h1>400 Bad Request</h1></center>\r\n<center>{message}</center>\r\n"
    else:
        title = f"{status} {REASONS[status]}"
        heading = f"<center><h1>{title}</h1></center>\r\n"
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n{heading}"
        f"<hr><center>{server or 'nginx'}</center>\r\n</body>\r\n</html>\r\n"
    ).encode()


def response_head(
    status: int,
    reason: str,
    now_ns: int,
    *,
    content_type: bytes | None = None,
    length: int | None = None,
    chunked: bool = False,
    connection: str = "",
    server: str = "",
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """The head of an answer."""
    lines = [f"HTTP/1.1 {status} {reason}".encode("latin-1")]
    if server:
        lines.append(b"Server: " + server.encode())
    lines.append(b"Date: " + http_date(now_ns).encode())
    if content_type is not None:
        lines.append(b"Content-Type: " + content_type)
    if length is not None:
        lines.append(b"Content-Length: %d" % length)
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    if connection:
        lines.append(b"Connection: " + connection.encode())
    lines.extend(name + b": " + value for name, value in headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What of an endpoint's headers the client gets, beside the ones that are written anew."""
    return [(name, value) for name, value in headers if name.lower() not in _HIDDEN]


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a header, whose name is given in lower case."""
    return next((value for key, value in headers if key.lower() == name), None)


@dataclass(slots=True)
class Request:
    """A client's request, read to its end.

    Attributes:
        target: As it stood in the request line, without scheme and host.
        path: Decoded, for locations.
        http_host: The ``Host`` header, or the host of an absolute target if there is none.
        host: For servers: lower case, without a port.
        headers: As they came.
        length: Bytes of all of it.
        line: The request line.
    """

    method: str
    target: str
    version: str
    path: str
    http_host: str
    host: str
    headers: Headers
    line: str
    body: bytes = b""
    length: int = 0

    @property
    def keeps_alive(self) -> bool:
        """Whether the client would go on with the connection."""
        connection = (header(self.headers, b"connection") or b"").lower()
        if self.version == "1.1":
            return b"close" not in connection
        return b"keep-alive" in connection


@dataclass(frozen=True, slots=True)
class Hop:
    """What the proxy knows of the client beside its request.

    Attributes:
        remote: Its address: of the connection, or as PROXY protocol or X-Forwarded-For say.
        peer: The address of the connection.
        scheme: ``http`` or ``https``.
        port: The port that it connected to.
        request_id: 32 digits, or the client's own.
    """

    remote: str
    peer: str
    scheme: str
    port: int
    request_id: str


def upstream_request(request: Request, hop: Hop, settings: Settings, target: str, vhost: str = "") -> bytes:
    """The request as an endpoint gets it, with its body, which was gathered before.

    Args:
        request: The client's.
        hop: What is known beside it.
        settings: The controller's.
        target: The request's, or what it was rewritten to.
        vhost: The ``Host`` header, if it is not to be the client's.
    """
    trusted = settings.use_forwarded_headers
    forwarded = {
        name: (header(request.headers, f"x-forwarded-{name}".encode()) or b"").decode("latin-1")
        for name in ("for", "host", "proto", "port")
    }
    scheme = (trusted and forwarded["proto"]) or hop.scheme
    port = (trusted and forwarded["port"]) or str(hop.port)
    best_host = (trusted and forwarded["host"].partition(",")[0]) or request.http_host
    chain = hop.remote
    if trusted and settings.compute_full_forwarded_for:
        chain = f"{forwarded['for']}, {hop.peer}" if forwarded["for"] else hop.peer
    upgrade = (header(request.headers, b"upgrade") or b"").decode("latin-1")
    lines = [
        f"{request.method} {target} HTTP/1.1",
        f"Host: {vhost or best_host}",
        *([f"Upgrade: {upgrade}", "Connection: upgrade"] if upgrade else []),
        *([f"X-Request-ID: {hop.request_id}"] if hop.request_id else []),
        f"X-Real-IP: {hop.remote}",
        f"X-Forwarded-For: {chain}",
        f"X-Forwarded-Host: {best_host}",
        f"X-Forwarded-Port: {port}",
        f"X-Forwarded-Proto: {scheme}",
        f"X-Forwarded-Scheme: {scheme}",
        *([f"X-Original-URI: {request.target}"] if settings.proxy_add_original_uri_header else []),
        f"X-Scheme: {scheme}",
        *([f"X-Original-Forwarded-For: {forwarded['for']}"] if forwarded["for"] else []),
        *([f"X-Original-Forwarded-Host: {forwarded['host']}"] if forwarded["host"] else []),
    ]
    if request.body or header(request.headers, b"content-length") is not None:
        lines.append(f"Content-Length: {len(request.body)}")
    head = "\r\n".join(line for line in lines if not line.endswith(": ")).encode("latin-1")
    # A name with an underscore is no valid one to nginx, and vanishes (ignore_invalid_headers).
    valid = _VALID_NAME_UNDERSCORES if settings.underscores_in_headers else _VALID_NAME
    rest = b"".join(
        b"\r\n" + name + b": " + value
        for name, value in request.headers
        if name.lower() not in _REPLACED and valid.fullmatch(name)
    )
    return head + rest + b"\r\n\r\n" + request.body
