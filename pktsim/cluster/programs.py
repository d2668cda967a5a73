"""Starts programs in namespaces: servers, and the clients that people and recordings ask for.

The programs themselves are in :mod:`pktsim.cluster.apps`, :mod:`pktsim.cluster.kubedns` and
:mod:`pktsim.cluster.resolver`; here they get their arguments.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from pktsim.clock import NS_PER_S
from pktsim.cluster.apps.http_client import EXIT_OPERATION_TIMEDOUT, HttpClient, HttpResult
from pktsim.cluster.apps.http_server import Handler, HttpServer, pattern
from pktsim.cluster.apps.probe import Probe, run_probe
from pktsim.cluster.apps.tls import Trust
from pktsim.cluster.apps.udp_echo import UdpEchoServer
from pktsim.cluster.commands import Client, Command, Curl, Dig
from pktsim.cluster.ingress.controller import IngressController
from pktsim.cluster.kubedns.corefile import parse_corefile
from pktsim.cluster.kubedns.server import DnsServer, ServerConfig
from pktsim.cluster.kubedns.service import DnsService
from pktsim.cluster.kubedns.service import serve_dns as serve_dns_on
from pktsim.cluster.kubedns.upstream import Upstream
from pktsim.cluster.kubedns.upstream_service import UpstreamService
from pktsim.cluster.objects import Pod
from pktsim.cluster.resolver.client import Libc
from pktsim.cluster.resolver.conf import parse_glibc, parse_musl
from pktsim.cluster.resolver.dig import DigOptions, dig
from pktsim.cluster.resolver.glibc import GlibcResolver
from pktsim.cluster.resolver.hosts import HostsFile
from pktsim.cluster.resolver.interface import GaiError
from pktsim.cluster.resolver.musl import MuslResolver
from pktsim.cluster.store import ObjectStore
from pktsim.cluster.walk import Note
from pktsim.kernel import task
from pktsim.kernel.netns import Netns
from pktsim.kernel.transport import AF_INET, AF_INET6
from pktsim.netfilter.ruleset import Family
from pktsim.wire.addr import ip_from_text, ip_to_text

#: Where servers listen in recorded clusters, and in ``outside``.
HTTP_PORT, ECHO_PORT = 8080, 8081
PING_BYTES = 56


def _socket_family(family: Family) -> int:
    return AF_INET if family is Family.IPV4 else AF_INET6


def serve_http(
    netns: Netns,
    name: str,
    port: int,
    family: Family,
    *,
    proxy_protocol: bool = False,
    handler: Handler | None = None,
    version: str = "1.0",
    tls: ssl.SSLContext | None = None,
) -> HttpServer:
    """Start an HTTP server that says who it is and whom it sees, unless a handler says something else."""
    server = HttpServer(netns.sockets, name, port, family=_socket_family(family), proxy_protocol=proxy_protocol)
    server.handler, server.version, server.tls = handler, version, tls
    server.start()
    return server


def serve_ingress(
    netns: Netns, pod: Pod, store: ObjectStore, files: ResolverFiles, notes: list[Note]
) -> IngressController:
    """Start an ingress controller in its pod, which tells in ``notes`` what it does."""
    controller = IngressController(netns, pod, store, lambda name: resolve(netns, name, files), notes)
    controller.start()
    return controller


def serve_echo(netns: Netns, name: str, port: int, family: Family) -> UdpEchoServer:
    """Start a UDP server that says who it is, whom it sees, and what was said."""
    server = UdpEchoServer(netns.sockets, name, port, family=_socket_family(family))
    server.start()
    return server


@dataclass(frozen=True, slots=True)
class ResolverFiles:
    """What a resolver reads: ``/etc/resolv.conf`` and ``/etc/hosts``; and which C library it is part of."""

    resolv_conf: str = ""
    hosts: str = "127.0.0.1\tlocalhost\n"
    libc: Libc = "glibc"


def serve_dns(
    netns: Netns,
    corefile: str,
    store: ObjectStore,
    family: Family,
    files: ResolverFiles = ResolverFiles(),
    *,
    watch_delay_ns: int = 0,
    bind: Sequence[str] = (),
) -> DnsService:
    """Start kube-dns: CoreDNS with that configuration, watching the objects.

    Args:
        files: Its pod's; ``forward . /etc/resolv.conf`` and the plugin ``hosts`` read them.
        watch_delay_ns: How long the news of a change takes from the API server to here.
        bind: Addresses to serve on; all if there are none.
    """
    addresses = tuple(
        text.partition("/")[0]
        for device in netns.devices
        if not device.loopback
        for text in netns.addresses(device.name)
    )
    config = ServerConfig(netns.name, addresses, files.resolv_conf, files.hosts)
    server = DnsServer(parse_corefile(corefile), netns.clock, netns.choices, config)
    server.watch(store, netns.clock, watch_delay_ns)
    return serve_dns_on(netns.sockets, server, (_socket_family(family),), bind)


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """What a resolver asks its kernel about addresses."""

    netns: Netns

    def source_for(self, address: str) -> str | None:
        """The address from which ``address`` would be reached."""
        try:
            return ip_to_text(self.netns.route_output(ip_from_text(address)).saddr)
        except OSError:
            return None

    def has_family(self, family: int) -> bool:
        """Whether any address besides loopback is of that family."""
        return any(
            (":" in text) == (family == AF_INET6)
            for device in self.netns.devices
            if not device.loopback
            for text in self.netns.addresses(device.name)
        )


def resolver_of(netns: Netns, files: ResolverFiles) -> GlibcResolver | MuslResolver:
    """The resolver of one process in a namespace."""
    own, hosts = HostAddresses(netns), HostsFile(files.hosts)
    if files.libc == "musl":
        return MuslResolver(netns.sockets, own, parse_musl(files.resolv_conf), hosts, netns.name)
    return GlibcResolver(netns.sockets, own, parse_glibc(files.resolv_conf), hosts, netns.name)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What can be said to an HTTP client, as to curl.

    Attributes:
        sport: The source port; any free one if 0.
        timeout_s: Over all, until it gives up.
        headers: ``Name: value`` each, also instead of its own (``Host: shop.example.com``).
        connect_to: ``HOST``, ``HOST:PORT`` or ``:PORT`` to connect to instead of what the URL says.
        redirects: How many to follow.
        ca: Certificates (PEM, or a file) that are believed for https; without, none is.
        insecure: Believe any, as ``curl -k``.
    """

    sport: int = 0
    timeout_s: float = 5.0
    headers: tuple[str, ...] = ()
    connect_to: str = ""
    redirects: int = 0
    ca: str = ""
    insecure: bool = False


class _OtherHttpArguments(TypedDict, total=False):
    sport: int
    connect_to: str
    redirects: int
    ca: str
    insecure: bool


class HttpArguments(_OtherHttpArguments, total=False):
    """:class:`HttpOptions` as keyword arguments."""

    timeout: float
    headers: Sequence[str]


def http_options(
    *, timeout: float = 5.0, headers: Sequence[str] = (), **more: Unpack[_OtherHttpArguments]
) -> HttpOptions:
    """Options as people write them."""
    return HttpOptions(timeout_s=timeout, headers=tuple(headers), **more)


async def resolve(netns: Netns, name: str, files: ResolverFiles) -> list[str]:
    """Look a name up; an address needs no looking up.

    Raises:
        socket.gaierror: There is no address, in the C library's words.
    """
    answer = await getaddrinfo(netns, name, files)
    if answer.error:
        raise socket.gaierror(answer.number, answer.error)
    return list(answer.addresses)


@dataclass(frozen=True, slots=True)
class GetaddrinfoAnswer:
    """What ``getaddrinfo`` gave: addresses in the order to try them, or an error in the C library's words."""

    addresses: tuple[str, ...]
    number: int = 0
    error: str = ""


async def getaddrinfo(netns: Netns, name: str, files: ResolverFiles) -> GetaddrinfoAnswer:
    """Look a name up in a new process."""
    found = await resolver_of(netns, files).getaddrinfo(name)
    if found.error is not GaiError.NONE:
        return GetaddrinfoAnswer((), int(found.error), found.text)
    return GetaddrinfoAnswer(tuple(found.addresses))


def http_client(netns: Netns, files: ResolverFiles, options: HttpOptions = HttpOptions()) -> HttpClient:
    """A client that looks names up as programs in a namespace do."""
    return HttpClient(
        netns.sockets,
        lambda name: resolve(netns, name, files),
        options.sport,
        round(options.timeout_s * NS_PER_S),
        connect_to=options.connect_to,
        redirects=options.redirects,
        trust=Trust(options.ca, options.insecure),
        key_log=netns.capture.key_log if netns.capture is not None else None,
    )


def serve_upstream(netns: Netns, upstream: Upstream) -> UpstreamService:
    """Start the name server of the world beyond the cluster."""
    return UpstreamService(netns.sockets, upstream, netns.name)


# For people


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP answer.

    Attributes:
        local, peer: Both ends of the connection as the client sees them.
        url: Where it came from, after redirects.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    local: tuple[str, int] | None
    peer: tuple[str, int] | None
    url: str = ""

    def header(self, name: str) -> str:
        """A header's value, empty if it is missing."""
        return next((value for key, value in self.headers if key == name.lower()), "")

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class PingAnswer:
    """What came back to an echo request: a reply, or an ICMP error."""

    kind: int
    code: int
    address: str
    ttl: int

    @property
    def ok(self) -> bool:
        """Whether it is an echo reply."""
        return self.kind in (0, 129)

    def __str__(self) -> str:
        what = "echo reply" if self.ok else f"ICMP type {self.kind} code {self.code}"
        return f"{what} from {self.address}" + (f", ttl {self.ttl}" if self.ttl else "")


async def http_request(
    client: HttpClient, method: str, url: str, body: bytes | None, headers: Sequence[str]
) -> HttpAnswer:
    """Ask for a URL.

    Raises:
        TimeoutError: No answer in time.
        OSError: Anything else that curl would complain about.
    """
    typed = body is None or any(header.lower().startswith("content-type:") for header in headers)
    given = tuple(headers) if typed else (*headers, "Content-Type: application/x-www-form-urlencoded")
    result = await client.request(method, url, headers=given, data=body)
    if result.exit_code == EXIT_OPERATION_TIMEDOUT:
        raise TimeoutError(result.error)
    if result.exit_code:
        raise OSError(result.error)
    return HttpAnswer(result.status, result.headers, result.body, result.local, result.peer, result.url)


async def ping(netns: Netns, address: str, size: int, timeout_s: float) -> PingAnswer:
    """One echo request; its identifier is drawn."""
    echo = netns.sockets.ping(AF_INET6 if ":" in address else AF_INET)
    try:
        echo.echo(address, 1, bytes(byte % 256 for byte in range(size)))
        reply = await echo.reply(round(timeout_s * NS_PER_S))
    finally:
        echo.close()
    return PingAnswer(reply.kind, reply.code, reply.address, reply.ttl)


async def udp_exchange(
    netns: Netns, host: str, port: int, data: bytes, files: ResolverFiles, sport: int, timeout_s: float
) -> bytes:
    """Send a datagram, return the answer."""
    address = (await resolve(netns, host, files))[0]
    datagrams = netns.sockets.udp(AF_INET6 if ":" in address else AF_INET)
    try:
        if sport:
            datagrams.bind("", sport)
        datagrams.connect(address, port)
        datagrams.send(data)
        answer, _, _ = await datagrams.recvfrom(round(timeout_s * NS_PER_S))
    finally:
        datagrams.close()
    return answer


async def tcp_connect(netns: Netns, host: str, port: int, files: ResolverFiles, sport: int, timeout_s: float) -> None:
    """Connect, then close."""
    address = (await resolve(netns, host, files))[0]
    probe = Probe("tcp", address, port, sport, wait_ns=round(timeout_s * NS_PER_S))
    (line,) = await run_probe(netns.sockets, probe)
    if line == "TimeoutError":
        raise TimeoutError(f"no answer from {address}:{port}")
    if line != "connected":
        number = getattr(errno, line)
        raise OSError(number, os.strerror(number))


# For recordings


def run_command(netns: Netns, command: Command, line: str, files: ResolverFiles, *, limit_s: float) -> tuple[int, str]:
    """Run a recorded command to its end.

    Returns:
        Its exit status and what it prints.
    """
    match command:
        case Client():
            work: Coroutine[Any, Any, tuple[int, str]] = _run_client(netns, command)
        case Curl():
            work = _run_curl(netns, command, files)
        case Dig():
            work = _run_dig(netns, command, line, files)
    return task.run(netns.clock, work, line, limit_ns=round(limit_s * NS_PER_S))


async def _run_client(netns: Netns, command: Client) -> tuple[int, str]:
    probe = Probe(
        command.kind,
        command.destination,
        command.port,
        command.sport,
        command.size_bytes,
        command.count,
        command.ttl,
        command.df,
        command.reset,
        round(command.wait_s * NS_PER_S),
    )
    return 0, "".join(f"{line}\n" for line in await run_probe(netns.sockets, probe))


async def _run_curl(netns: Netns, command: Curl, files: ResolverFiles) -> tuple[int, str]:
    options = HttpOptions(sport=command.local_port, timeout_s=command.max_time_s)
    client = http_client(netns, files, options)
    if command.data_bytes is None:
        result = await client.get(command.url, headers=command.headers)
    else:
        result = await client.post(command.url, pattern(command.data_bytes), headers=command.headers)
    return result.exit_code, _printed(command, result)


async def _run_dig(netns: Netns, command: Dig, line: str, files: ResolverFiles) -> tuple[int, str]:
    options = DigOptions(
        command.name,
        command.rrtype,
        tcp=command.tcp,
        search=command.search,
        cookie=command.cookie,
        tries=command.tries,
        timeout_s=command.timeout_s,
        arguments=line.removeprefix("dig").strip(),
    )
    answer = await dig(netns.sockets, options, files.resolv_conf)
    return answer.exit, answer.text


def _printed(command: Curl, result: HttpResult) -> str:
    body = "" if command.output else result.body.decode("utf-8", "replace")
    said = command.write_out.replace("%{size_download}", str(len(result.body))).replace("\\n", "\n")
    complaint = f"curl: ({result.exit_code}) {result.error}\n" if result.exit_code else ""
    return body + said + complaint
