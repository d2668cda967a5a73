"""A DNS server without sockets: from the octets of a query to those of the answer.

Source: coredns v1.13.1, core/dnsserver/server.go; miekg/dns v1.1.68, server.go, acceptfunc.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pktsim.clock import NS_PER_S, Clock
from pktsim.rng import Choices

from ..objects import KubeObject
from ..store import EventType, ObjectStore, Subscription, WatchEvent
from . import dnsname
from .corefile import Corefile
from .plugin import (
    Ask,
    Captured,
    Exchange,
    Failure,
    Handler,
    PanicError,
    Pause,
    Setup,
    Work,
    Write,
    is_written,
    scrubbing,
    size_and_do,
    with_question,
)
from .plugins import build_chain
from .wire import (
    AA,
    IN,
    QR,
    Message,
    Opcode,
    Opt,
    Rcode,
    Type,
    WireError,
    Z,
    unpack_header,
    unpack_sections,
)

#: What is read of a datagram: CoreDNS never asks the library for more, whatever it tells clients.
UDP_BUFFER = 512
#: Over TCP, how long the first message of a connection may take, and each further one (core/dnsserver/server.go).
TCP_READ_TIMEOUT_NS = 3 * NS_PER_S
TCP_IDLE_TIMEOUT_NS = 10 * NS_PER_S
#: Kinds of objects that answers depend on.
WATCHED_KINDS = ("Namespace", "Service", "EndpointSlice", "Pod")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a server is, besides its Corefile.

    Attributes:
        name: Prefix of the places at which it asks for chance.
        addresses: Its pod's addresses without loopback, in the order of its interfaces.
        resolv_conf: Its pod's ``/etc/resolv.conf``.
        hosts_file: Its pod's ``/etc/hosts``.
        port: Which of the Corefile's ports it serves.
        epoch_s: Unix time at the clock's zero; serials count from there.
    """

    name: str = "kube-dns"
    addresses: tuple[str, ...] = ()
    resolv_conf: str = ""
    hosts_file: str = ""
    port: int = 53
    epoch_s: int = 0


class DnsServer:
    """CoreDNS on one port.

    Attributes:
        background: Work that plugins want done beside the questions; whoever drives the server empties it, or puts
            something in ``spawn`` that starts such work at once.
    """

    def __init__(self, corefile: Corefile, clock: Clock, choices: Choices, config: ServerConfig | None = None) -> None:
        """Set up all plugins.

        Raises:
            ObjectError: CoreDNS would not start with this Corefile.
            UnsupportedFeature: The Corefile has something that is not modelled.
        """
        self.config = ServerConfig() if config is None else config
        self.background: list[Work[None]] = []
        self.spawn: Callable[[Work[None]], None] = self.background.append
        self._watchers: list[Callable[[WatchEvent], None]] = []
        self._zones: dict[str, Handler | None] = {}
        self._any_class = False
        for block in corefile.blocks:
            context = Setup(
                block,
                self.config.name,
                clock,
                choices,
                self.config.addresses,
                self.config.resolv_conf,
                self.config.hosts_file,
                self.config.epoch_s,
                lambda work: self.spawn(work),
                self._watchers,
                {},
            )
            chain = build_chain(block, context)
            for zone, port in zip(block.zones, block.ports, strict=True):
                if port == self.config.port:
                    self._zones[zone] = chain
                    # Plugins that forward open a server for other classes too (core/dnsserver/server.go, EnableChaos).
                    self._any_class = self._any_class or "forward" in context.chain

    @property
    def serves(self) -> bool:
        """Whether any zone is served on its port."""
        return bool(self._zones)

    def observe(self, event: WatchEvent) -> None:
        """Take notice of a change of the cluster's objects."""
        for watcher in self._watchers:
            watcher(event)

    def load(self, objects: Iterable[KubeObject]) -> None:
        """Take notice of objects that are there from the beginning."""
        for found in objects:
            self.observe(WatchEvent(EventType.ADDED, found, None))

    def watch(self, store: ObjectStore, clock: Clock, delay_ns: int = 0) -> Subscription:
        """Follow the objects of a store.

        Args:
            store: Where they live. What is there already is taken over at once.
            clock: The time.
            delay_ns: How long the news of a change takes from the API server to here.
        """
        self.load(found for kind in WATCHED_KINDS for found in store.list(kind))

        def hear(event: WatchEvent) -> None:
            clock.after(delay_ns, lambda: self.observe(event))

        return store.watch(hear if delay_ns else self.observe, WATCHED_KINDS, replay=False)

    def handle(self, query: bytes, *, tcp: bool, source: str) -> Work[bytes | None]:
        """Answer one query.

        Args:
            query: The message, without a length before it.
            tcp: Whether it came over TCP.
            source: The client's address.

        Returns:
            The answer; ``None`` if there is none.
        """
        written: list[Message] = []
        try:
            yield from self._handle(query if tcp else query[:UDP_BUFFER], tcp, source, written.append)
        except WireError:
            return None
        try:
            return written[0].pack() if written else None
        except WireError:
            return None

    def answer(self, query: bytes, *, tcp: bool = False, source: str = "127.0.0.1") -> bytes | None:
        """As :meth:`handle` for questions that need no other server; ``None`` if one does."""
        work = self.handle(query, tcp=tcp, source=source)
        try:
            next(work)
        except StopIteration as stop:
            answer: bytes | None = stop.value
            return answer
        work.close()
        return None

    def _handle(self, query: bytes, tcp: bool, source: str, write: Write) -> Work[None]:
        message, counts = unpack_header(query)
        if message.flags & QR:
            return
        opcode = message.opcode
        if opcode not in (Opcode.QUERY, Opcode.NOTIFY):
            _reject(message, write, Rcode.NOTIMP, opcode)
            return
        # NOTIFY may carry a SOA record, IXFR too (RFC 1996, RFC 1995); OPT and TSIG are two additional ones.
        if counts[0] != 1 or counts[1] > 1 or counts[2] > 1 or counts[3] > 2:
            _reject(message, write)
            return
        try:
            unpack_sections(message, counts, query)
        except WireError:
            _reject(message, write)
            return
        yield from self._serve(Exchange(self, tcp, source), write, message)

    def _serve(self, exchange: Exchange, write: Write, request: Message) -> Work[None]:
        if not request.question:
            _fail(request, write, Rcode.SERVFAIL)
            return
        if not self._any_class and request.question[0].cls != IN:
            _fail(request, write, Rcode.REFUSED)
            return
        opt = request.opt
        if opt is not None and opt.version != 0:
            reply = request.reply(Rcode.BADVERS)
            reply.additional = [Opt()]
            write(reply)
            return
        scrubbed = scrubbing(request, exchange, write)
        try:
            chain = self._route(request.question[0].name, request.question[0].type)
            if chain is None:
                _fail(request, scrubbed, Rcode.REFUSED)
                return
            rcode, _ = yield from chain.serve(exchange, scrubbed, request)
            if not is_written(rcode):
                _fail(request, scrubbed, rcode)
        except PanicError:
            _fail(request, scrubbed, Rcode.SERVFAIL)

    def _route(self, name: str, type: int) -> Handler | None:
        """The plugins of the longest zone; for DS those of a zone above it, but for the root."""
        lower = dnsname.lower(name)
        for_ds: Handler | None = None
        offsets: Sequence[int] = dnsname.starts(lower) or (0,)
        for offset in offsets:
            zone = lower[offset:]
            if zone in self._zones:
                chain = self._zones[zone]
                if chain is None or type != Type.DS:
                    return chain
                for_ds = chain
        return for_ds if for_ds is not None else self._zones.get(".")

    def lookup(self, exchange: Exchange, request: Message, name: str, type: int) -> Work[Message | None]:
        """Ask itself another question on behalf of the same client (plugin/pkg/upstream)."""
        captured = Captured()
        yield from self._serve(exchange, captured, with_question(request, name, type))
        return captured.message


def _reject(message: Message, write: Write, rcode: Rcode = Rcode.FORMERR, opcode: int = Opcode.QUERY) -> None:
    """Send a query back as an error (``SetRcodeFormatError``); most of its header stays."""
    message.rcode = rcode
    message.opcode = opcode
    message.flags = (message.flags | QR) & ~(AA | Z)
    message.answer, message.authority, message.additional = [], [], []
    write(message)


def _fail(request: Message, write: Write, rcode: int) -> None:
    """Answer with an error alone (``errorFunc``)."""
    reply = request.reply(rcode)
    size_and_do(request, reply)
    write(reply)


__all__ = ["Ask", "DnsServer", "Failure", "Pause", "ServerConfig"]
