"""The process in the pod: what it listens on, what it watches, and what it has made of that."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import h11

from pktsim.clock import NS_PER_S
from pktsim.cluster.apps.proxy_protocol import receive_proxy_header
from pktsim.cluster.apps.tls import TlsStream, server_name
from pktsim.cluster.objects import ConfigMap, EndpointSlice, Ingress, IngressClass, Pod, Secret, Service
from pktsim.cluster.store import EventType, ObjectStore, WatchEvent
from pktsim.cluster.walk import Note
from pktsim.fidelity import approximated
from pktsim.kernel.netns import Netns
from pktsim.kernel.task import Task, spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.transport import AF_INET

from .certificates import Certificates
from .informer import Informer
from .messages import page, response_head
from .proxy import Client, ClientConnection
from .routing import Builder, Routes, in_order, serves
from .settings import Arguments, Settings, read_arguments, read_settings
from .streams import READ_BYTES, PlainStream, Tunnel
from .upstream import Pool, RoundRobin

approximated(
    "ingress.ssl_passthrough",
    "with --enable-ssl-passthrough the controller looks at names and decrypts the others in one process; the real one "
    "hands those to nginx over a connection on lo, port 442",
    source="ingress-nginx pkg/tcpproxy/tcp.go",
)
approximated(
    "ingress.reload",
    "a change is in force as soon as the controller knows of it (annotation pktsim.io/watch-delay of its pod), and "
    "connections outlive it; the real one gathers changes for up to three seconds, looks for new endpoints once a "
    "second, and starts new workers for other changes",
    source="ingress-nginx pkg/flags/flags.go sync-rate-limit; rootfs/etc/nginx/lua/balancer.lua BACKENDS_SYNC_INTERVAL",
)

WATCHED = (ConfigMap, EndpointSlice, Ingress, IngressClass, Secret, Service)
_BACKLOG = 4096  # net.core.somaxconn
#: How long the addresses of an ExternalName service are good for: they are looked up once a second (balancer.lua).
_EXTERNAL_NS = NS_PER_S

#: How a TLS connection begins: a handshake record, or an SSLv2 hello (``ngx_http_ssl_handshake``).
_TLS_RECORDS = (b"\x16", b"\x80")
_DIAL_TIMEOUT_NS = 30 * NS_PER_S

#: Finds out what a new connection is; ``None`` if it has been dealt with.
Begin = Callable[[TcpSocket], Coroutine[Any, Any, "ClientConnection | None"]]
#: Name to addresses.
Resolve = Callable[[str], Coroutine[Any, Any, list[str]]]


class IngressController:
    """An ingress controller.

    Args:
        netns: Its pod's.
        pod: Its arguments are read from it.
        store: The objects.
        resolve: Its pod's resolver, for services of type ExternalName.
        notes: Where it tells what it does, as long as there is a capture.

    Attributes:
        log: The access log.
    """

    def __init__(
        self, netns: Netns, pod: Pod, store: ObjectStore, resolve: Resolve, notes: list[Note] | None = None
    ) -> None:
        self.name = netns.name
        self.clock = netns.clock
        self.choices = netns.choices
        self.arguments: Arguments = read_arguments(pod)
        self.log: list[str] = []
        self._settings = Settings()
        self._sockets = netns.sockets
        self._resolve = resolve
        self._notes = notes
        self._capture = netns.capture
        key_log = netns.capture.key_log if netns.capture is not None else None
        self.pool = Pool(netns.sockets, self.name, key_log)
        self.certificates = Certificates(self._secrets, self.arguments.default_certificate, key_log)
        self._routes: Routes | None = None
        self._balancers: dict[str, RoundRobin] = {}
        self._external: dict[str, tuple[int, list[str]]] = {}
        self._tasks: set[Task[Any]] = set()
        self._listeners: list[TcpSocket] = []
        self._informer = Informer(store, WATCHED, self.clock, self.arguments.watch_delay_ns, self._changed)

    # What it goes by

    @property
    def routes(self) -> Routes:
        """Servers and backends, made anew when something has changed."""
        if self._routes is None:
            self._routes = self._build()
        return self._routes

    @property
    def settings(self) -> Settings:
        """What its ConfigMap says."""
        if self._routes is None:
            self._routes = self._build()
        return self._settings

    def _changed(self, event: WatchEvent) -> None:
        new, old = event.object, event.old
        if (
            event.type is EventType.MODIFIED
            and isinstance(new, Ingress)
            and isinstance(old, Ingress)
            and new.spec == old.spec
            and new.metadata.annotations == old.metadata.annotations
        ):
            return  # its status, which controllers write themselves
        self._routes = None

    def _build(self) -> Routes:
        namespace, _, name = self.arguments.configmap.partition("/")
        self._settings = self.pool.settings = read_settings(self._informer.all(ConfigMap).get((namespace, name)))
        builder = Builder(
            self.arguments,
            self._settings,
            self.ingresses(),
            self._informer.all(Service),
            self._informer.all(EndpointSlice),
            self.certificates.secret_for,
        )
        return builder.build()

    def _secrets(self) -> dict[tuple[str, str], Secret]:
        return self._informer.all(Secret)

    def ingresses(self) -> list[Ingress]:
        """Those that it serves, the oldest first."""
        classes = self._informer.all(IngressClass)
        return in_order(
            found for found in self._informer.all(Ingress).values() if serves(found, classes, self.arguments)
        )

    def note(self, summary: str, *lines: str) -> None:
        """Tell what was done about a request."""
        if self._notes is not None and self._capture is not None and self._capture.on:
            self._notes.append(Note(self.clock.now_ns, self.name, summary, lines))

    async def balancer(self, backend: str) -> RoundRobin | None:
        """Whose turn it is among the endpoints of a backend; ``None`` if there are none."""
        found = self.routes.backends[backend]
        peers = found.endpoints
        if found.external:
            (host, port), *_ = peers
            peers = tuple((address, port) for address in await self._addresses(host))
        if not peers:
            self._balancers.pop(backend, None)
            return None
        balancer = self._balancers.get(backend)
        if balancer is None or balancer.peers != peers:
            balancer = RoundRobin(peers, self.choices, f"{self.name}/{backend}")
            self._balancers[backend] = balancer
        return balancer

    async def _addresses(self, host: str) -> list[str]:
        """Addresses of an ExternalName service's name."""
        known = self._external.get(host)
        if known is None or self.clock.now_ns - known[0] >= _EXTERNAL_NS:
            try:
                addresses = await self._resolve(host)
            except OSError:
                addresses = []
            known = self._external[host] = (self.clock.now_ns, addresses)
        return known[1]

    # Its life

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: A port is taken.
        """
        arguments = self.arguments
        self._listen(arguments.http_port, self._serve_http)
        self._listen(arguments.https_port, self._serve_https)
        self._listen(arguments.default_server_port, self._serve_default)

    @property
    def idle(self) -> bool:
        """Whether it has no connection at all, only listens."""
        return not len(self.pool) and sum(not task.done for task in self._tasks) == len(self._listeners)

    def stop(self) -> None:
        """Kill it: the kernel closes its sockets."""
        self._informer.stop()
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        for listener in self._listeners:
            listener.close()
        self.pool.close()

    def _listen(self, port: int, serve: Callable[[TcpSocket], Coroutine[Any, Any, None]]) -> None:
        listener = self._sockets.tcp(AF_INET)
        listener.reuse_address = True
        listener.bind("", port)
        listener.listen(_BACKLOG)
        self._listeners.append(listener)
        self._tasks.add(spawn(self.clock, self._accept(listener, serve), f"{self.name} port {port}"))

    async def _accept(self, listener: TcpSocket, serve: Callable[[TcpSocket], Coroutine[Any, Any, None]]) -> None:
        while True:
            socket = await listener.accept()
            socket.set_nodelay()
            self._tasks = {task for task in self._tasks if not task.done} if len(self._tasks) > 64 else self._tasks
            self._tasks.add(spawn(self.clock, serve(socket), f"{self.name} connection", unstarted=socket.close))

    async def _serve_clients(self, socket: TcpSocket, begin: Begin) -> None:
        """Serve a connection once it is clear what it is."""
        try:
            connection = await begin(socket)
        except (OSError, ValueError):
            connection = None  # it said nothing, or nothing that makes sense
        except BaseException:
            socket.close()
            raise
        if connection is None:
            socket.close()
        else:
            await connection.run()

    async def _serve_http(self, socket: TcpSocket) -> None:
        await self._serve_clients(socket, self._begin_http)

    async def _serve_https(self, socket: TcpSocket) -> None:
        await self._serve_clients(socket, self._begin_https)

    async def _begin_http(self, socket: TcpSocket) -> ClientConnection:
        client, first = await self._greet(socket, "http", self.arguments.http_port)
        return ClientConnection(self, PlainStream(socket), client, first)

    async def _begin_https(self, socket: TcpSocket) -> ClientConnection | None:
        timeout_ns = self.settings.client_header_timeout_s * NS_PER_S
        end_ns = self.clock.now_ns + timeout_ns
        client, first = await self._greet(socket, "https", self.arguments.https_port)
        first = first or await socket.recv(READ_BYTES, timeout_ns)
        if not first:
            return None
        if first[:1] not in _TLS_RECORDS:
            return ClientConnection(self, PlainStream(socket), client, first, misplaced=True)
        if self.arguments.enable_ssl_passthrough:
            while (name := server_name(first)) is None:
                more = await socket.recv(READ_BYTES, end_ns - self.clock.now_ns)
                if not more:
                    return None
                first += more
            place = self._passthrough(name)
            if place is not None:
                await self._pass_through(socket, place, name, first)
                return None
        context = self.certificates.choosing(self._certificate_of)
        stream = TlsStream(socket, context, server_side=True, first=first)
        await stream.handshake(end_ns - self.clock.now_ns)
        return ClientConnection(self, stream, client)

    async def _greet(self, socket: TcpSocket, scheme: str, port: int) -> tuple[Client, bytes]:
        """Who has connected: as a PROXY header says, where one is expected.

        Raises:
            OSError, ValueError: As :func:`~pktsim.cluster.apps.proxy_protocol.receive_proxy_header`.
        """
        peer = socket.remote_address
        assert peer is not None
        if not self.settings.use_proxy_protocol:
            return Client(peer[0], peer[0], port, scheme), b""
        timeout_ns = self.settings.client_header_timeout_s * NS_PER_S
        ends, first = await receive_proxy_header(socket, timeout_ns)
        if ends is None:
            return Client(peer[0], peer[0], port, scheme), first
        source, target = ends
        return Client(source[0], peer[0], target[1], scheme), first

    def _certificate_of(self, name: str) -> str | None:
        found = self.routes.find(name)
        return found.certificate if found is not None else None

    def _passthrough(self, name: str) -> tuple[str, int] | None:
        """Where connections for a name are handed on to: the service's own address (nginx.go, ``OnUpdate``)."""
        found = self.routes.servers.get(name)
        if found is None or not found.passthrough:
            return None
        location = next((one for one in found.locations if one.path == "/" and one.service is not None), None)
        service = self._informer.all(Service).get(location.service) if location and location.service else None
        if location is None or service is None:
            return None
        ports = (one.port for one in service.spec.ports if location.port in (str(one.port), one.name))
        return service.spec.cluster_ip, next(ports, 0)

    async def _pass_through(self, client: TcpSocket, place: tuple[str, int], name: str, first: bytes) -> None:
        """Hand a connection on as it is, with what was read of it."""
        self.note(f"TLS for {name}", f"ssl-passthrough: on to {place[0]}:{place[1]}, undecrypted")
        server = self._sockets.tcp(AF_INET)
        try:
            await server.connect(*place, timeout_ns=_DIAL_TIMEOUT_NS)
        except OSError:
            server.close()
            client.close()
            return
        await Tunnel(self.clock, self.name, client, server, None).run(first)

    async def _serve_default(self, socket: TcpSocket) -> None:
        """The server behind the default backend: 404 to everything (nginx.tmpl)."""
        body = page(404)
        try:
            while True:
                parser = h11.Connection(h11.SERVER)
                method = b""
                while (event := parser.next_event()) is h11.NEED_DATA or not isinstance(event, h11.EndOfMessage):
                    if event is h11.NEED_DATA:
                        parser.receive_data(await socket.recv(65536, self.settings.keep_alive_s * NS_PER_S))
                    elif isinstance(event, h11.Request):
                        method = event.method
                    elif isinstance(event, h11.ConnectionClosed):
                        return
                head = response_head(
                    404,
                    "Not Found",
                    self.clock.now_ns,
                    content_type=b"text/html",
                    length=len(body),
                    connection="keep-alive",
                )
                await socket.sendall(head if method == b"HEAD" else head + body)
        except (OSError, h11.RemoteProtocolError):
            return
        finally:
            socket.close()
