"""What all plugins share: the chain they stand in, what they are given, and how they wait for the network.

A plugin is a generator: it runs until it needs the network or time, yields an :class:`Ask` or a :class:`Pause`, and
goes on with what came of it. Who drives it (sockets of an emulated pod, or a test) is not its business, and nothing
else of the server waits meanwhile.

Source: coredns v1.13.1, plugin/plugin.go, request/request.go, plugin/pkg/nonwriter, plugin/pkg/fall.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from pktsim.clock import Clock
from pktsim.rng import Choices

from . import dnsname
from .corefile import Directive, ServerBlock
from .wire import IN, MAX_MESSAGE, MIN_MESSAGE, Message, Opt, Question, Rcode

if TYPE_CHECKING:
    from ..store import WatchEvent
    from .server import DnsServer

T = TypeVar("T")


class Failure(enum.Enum):
    """Why there is no answer to an :class:`Ask`."""

    TIMEOUT = "timed out"
    REFUSED = "connection refused"
    UNREACHABLE = "network is unreachable"
    CLOSED = "connection closed"


@dataclass(frozen=True, slots=True)
class Ask:
    """A query to another server.

    Attributes:
        address: Whom to ask.
        port: At which port.
        tcp: Over TCP rather than UDP.
        query: The message. An answer with another id is not the answer.
        timeout_ns: How long to wait.
        size: How many octets of a datagram are read.
        owner: Sockets are kept and used again by the asks of one owner; ``None``: a socket for this ask alone.
        expire_ns: How long an idle socket is kept.
    """

    address: str
    port: int
    tcp: bool
    query: bytes
    timeout_ns: int
    size: int = MAX_MESSAGE
    owner: object = None
    expire_ns: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait."""

    duration_ns: int


#: What a generator of this package yields, gets and returns. A pause is answered with ``Failure.TIMEOUT``.
Work = Generator[Ask | Pause, bytes | Failure, T]

#: What takes an answer: sends it, keeps it or changes it and hands it on.
Write = Callable[[Message], None]

#: How a plugin ended: an rcode, and an error text that is empty if all went well. SERVFAIL, REFUSED, FORMERR and NOTIMP
#: mean that nothing has been written yet and that somebody further up is to answer with that code.
Outcome = tuple[int, str]

_NOT_WRITTEN = frozenset({Rcode.SERVFAIL, Rcode.REFUSED, Rcode.FORMERR, Rcode.NOTIMP})


def is_written(rcode: int) -> bool:
    """Whether an outcome means that the client has its answer (``plugin.ClientWrite``)."""
    return rcode not in _NOT_WRITTEN


class PanicError(Exception):
    """CoreDNS would stumble here over its own feet, recover, and answer SERVFAIL."""


class Handler(Protocol):
    """A plugin in its place in the chain."""

    #: Its name in the Corefile.
    name: str

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        """Answer ``request`` by ``write``, or hand it on to the next plugin."""
        ...


#: Puts a plugin before the rest of the chain.
Link = Callable[["Handler | None"], Handler]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question of one client, as plugins see it from within.

    Attributes:
        server: Who is asked.
        tcp: Whether it came over TCP.
        source: The client's address.
    """

    server: DnsServer
    tcp: bool
    source: str

    @property
    def ipv6(self) -> bool:
        """Whether it came over IPv6."""
        return ":" in self.source


@dataclass(slots=True)
class Setup:
    """What a plugin may know when it reads its options.

    Attributes:
        block: The server block it stands in.
        name: The server's own name, the prefix of the places at which it asks for chance.
        clock: The time.
        choices: The chance.
        addresses: The pod's own addresses without loopback.
        resolv_conf: The pod's ``/etc/resolv.conf``.
        hosts_file: The pod's ``/etc/hosts``.
        epoch_s: Unix time at the clock's zero.
        spawn: Runs work in the background.
        watchers: Who hears of changes of the cluster's objects.
        chain: The block's plugins by name, filled once all stand in their place.
    """

    block: ServerBlock
    name: str
    clock: Clock
    choices: Choices
    addresses: tuple[str, ...]
    resolv_conf: str
    hosts_file: str
    epoch_s: int
    spawn: Callable[[Work[None]], None]
    watchers: list[Callable[[WatchEvent], None]]
    chain: dict[str, Handler]


#: Reads all occurrences of a plugin in a block, and returns what stands in the chain for them, outermost first.
SetupFunction = Callable[[Sequence[Directive], Setup], "list[Link]"]


def next_or_failure(
    handler: Handler | None, name: str, exchange: Exchange, write: Write, request: Message
) -> Work[Outcome]:
    """Hand on to the next plugin; the end of the chain is a failure."""
    if handler is None:
        return (yield from _no_next(name))
    return (yield from handler.serve(exchange, write, request))


def _no_next(name: str) -> Work[Outcome]:
    yield from ()
    return Rcode.SERVFAIL, f"plugin/{name}: no next plugin found"


class Captured:
    """A writer that keeps the answer for itself (``nonwriter``)."""

    __slots__ = ("message",)

    def __init__(self) -> None:
        self.message: Message | None = None

    def __call__(self, message: Message) -> None:
        self.message = message


def qname(request: Message) -> str:
    """The name that is asked for, in the client's spelling."""
    return dnsname.display(request.question[0].name)


def qname_lower(request: Message) -> str:
    """The name that is asked for, in lower case."""
    return dnsname.lower(qname(request))


def with_question(request: Message, name: str, type: int) -> Message:
    """The same request with another question (``NewWithQuestion``)."""
    twin = request.copy()
    twin.question[0] = Question(dnsname.fqdn(name), type, IN)
    return twin


def size_of(request: Message, exchange: Exchange) -> int:
    """How long an answer may be."""
    if exchange.tcp:
        return MAX_MESSAGE
    opt = request.opt
    return max(MIN_MESSAGE, opt.size if opt is not None else 0)


def wants_dnssec(request: Message) -> bool:
    """Whether the DO bit is set."""
    opt = request.opt
    return opt is not None and opt.do


def matches(request: Message, reply: Message) -> bool:
    """Whether ``reply`` is an answer to ``request``'s question (``Request.Match``)."""
    if len(reply.question) != 1 or not reply.flags & 0x8000:
        return False
    question = reply.question[0]
    return dnsname.lower(question.name) == qname_lower(request) and question.type == request.question[0].type


#: EDNS options that are sent back (request/edns0.go): NSID, expire, cookie, TCP keepalive, padding.
_ECHOED_OPTIONS = frozenset({3, 9, 10, 11, 12})


def size_and_do(request: Message, reply: Message) -> None:
    """Give ``reply`` the OPT record that ``request``'s asks for (``SizeAndDo``)."""
    opt = request.opt
    if opt is None:
        return
    own = reply.opt
    if own is not None:
        own.name = "."
        own.cls = opt.size
        own.ttl = own.ttl & 0xFF00 | (Opt.DO if opt.do else 0)
        return
    # The request's own record goes into the reply, and is changed for it: later readers of the request see that.
    opt.name = "."
    opt.ttl &= 0xFF00
    if opt.options:
        opt.options = [(code, value) for code, value in opt.options if code in _ECHOED_OPTIONS]
    reply.additional.append(opt)


#: Longest UDP message that is not compressed if it need not be (request.go, from NSD).
_UNFRAGMENTED = {False: 1480, True: 1220}


def scrub(request: Message, exchange: Exchange, reply: Message) -> None:
    """Make ``reply`` fit into what the client can take."""
    reply.truncate(size_of(request, exchange))
    if not reply.compress and not exchange.tcp and reply.length() > _UNFRAGMENTED[exchange.ipv6]:
        reply.compress = True


def scrubbing(request: Message, exchange: Exchange, write: Write) -> Write:
    """A writer that makes every message fit before it hands it on (``ScrubWriter``)."""

    def scrub_and_write(reply: Message) -> None:
        size_and_do(request, reply)
        scrub(request, exchange, reply)
        write(reply)

    return scrub_and_write


class Fallthrough:
    """For which names a plugin that knows nothing hands on rather than denies."""

    __slots__ = ("zones",)

    def __init__(self, zones: Iterable[str] = ()) -> None:
        self.zones = tuple(zones)

    def through(self, name: str) -> bool:
        """Whether ``name`` is handed on."""
        return bool(self.zones) and dnsname.longest_zone(self.zones, name) != ""


def map_order(items: Sequence[T], choices: Choices, place: str) -> Sequence[T]:
    """The order in which Go walks a map that was filled in this order.

    Up to eight entries share one group of slots, and the walk begins at one of the eight at random (Go 1.24,
    internal/runtime/maps); of more entries the order is anything.
    """
    count = len(items)
    if count < 2:
        return items
    if count <= 8:
        first = choices.below(place, 8)
        return items if first == 0 or first >= count else [*items[first:], *items[:first]]
    order = list(items)
    random.Random(choices.below(place, 1 << 32)).shuffle(order)
    return order
