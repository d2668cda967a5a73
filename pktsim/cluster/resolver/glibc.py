"""The stub resolver of the GNU C library.

The way of a question: ``getaddrinfo`` looks into ``/etc/hosts``, then walks the search list (``_search``); each name is
one exchange with the servers (``_query_full``, ``_send``), over UDP (``_send_udp``) or TCP (``_send_tcp``). The control
flow follows the library's step by step, oddities included, because timing and packets in failure cases come from it.

Source: glibc 2.36, resolv/res_query.c, resolv/res_send.c, resolv/nss_dns/dns-host.c, sysdeps/posix/getaddrinfo.c.
"""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass, field

from pktsim.clock import NS_PER_MS, NS_PER_S

from ..kubedns import dnsname, wire
from .addrselect import sort_addresses
from .conf import ResolverConfig
from .hosts import HostsFile
from .interface import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    DNS_PORT,
    Addresses,
    Datagrams,
    GaiError,
    HostError,
    Lookup,
    Sockets,
    Stream,
    glibc_error,
    numeric_address,
)

#: Size that ``edns0`` announces (resolv_internal.h, ``RESOLV_EDNS_BUFFER_SIZE``).
_EDNS_SIZE = 1200
#: How long a sender may be kept from its second datagram by others on its CPU.
_PREEMPTED_NS = 1 * NS_PER_MS
#: What ``getaddrinfo`` begins with as room for results, and what an address takes of it (``struct gaih_addrtuple``).
_SCRATCH_BYTES = 1024
_TUPLE_BYTES = 40
#: ``struct host_data`` of the older interface, and the alignment of what follows it.
_HOST_DATA_BYTES = 400
_POINTER_BYTES = 8
_MIN_REPLY = 12


class _Errno(enum.Enum):
    """Why an exchange with the servers failed."""

    REFUSED = "ECONNREFUSED"
    TIMED_OUT = "ETIMEDOUT"
    OTHER = "another"


@dataclass(slots=True)
class _Reply:
    """A reply as far as the resolver looks into it: an empty one has length 0."""

    octets: bytes = b""

    def __len__(self) -> int:
        return len(self.octets)

    @property
    def rcode(self) -> int:
        return self.octets[3] & 0xF if len(self.octets) >= _MIN_REPLY else 0

    @property
    def answers(self) -> int:
        return int.from_bytes(self.octets[6:8], "big") if len(self.octets) >= _MIN_REPLY else 0


@dataclass(slots=True)
class _Exchange:
    """The questions of one name, and the replies so far in the order in which they came.

    Attributes:
        queries: One, or A and AAAA.
        first: What fills the first buffer.
        second: What fills the second.
        first_length: The library's ``resplen``.
        second_length: Its ``resplen2``.
        use_tcp: Whether it goes over TCP.
        got_somewhere: Whether any server let itself be heard of, if only by silence.
    """

    queries: tuple[bytes, ...]
    first: _Reply = field(default_factory=_Reply)
    second: _Reply = field(default_factory=_Reply)
    first_length: int = 0
    second_length: int = 0
    use_tcp: bool = False
    got_somewhere: bool = False

    @property
    def double(self) -> bool:
        return len(self.queries) == 2


class _Truncated(Exception):
    """A reply has TC set: the exchange goes on over TCP."""


@dataclass(slots=True)
class _Found:
    """What a look-up of a name on the servers came to."""

    replies: tuple[bytes, ...] = ()
    host_error: HostError = HostError.NONE


class GlibcResolver:
    """The resolver of one process; what it learns about bad servers it remembers.

    Args:
        sockets: Of the process's namespace.
        addresses: What the host knows of its own addresses.
        config: ``/etc/resolv.conf`` as read.
        hosts: ``/etc/hosts``.
        name: Prefix of the places at which it asks for chance.
    """

    def __init__(
        self, sockets: Sockets, addresses: Addresses, config: ResolverConfig, hosts: HostsFile, name: str
    ) -> None:
        self._sockets = sockets
        self._addresses = addresses
        self._config = config
        self._hosts = hosts
        self._name = name
        self._single_request = bool(config.flags & {"single-request", "single-request-reopen"})
        self._reopen = "single-request-reopen" in config.flags
        self._rotation: int | None = None
        self._open: dict[int, Datagrams] = {}
        self._stream: Stream | None = None

    async def getaddrinfo(
        self,
        name: str,
        family: int = AF_UNSPEC,
        *,
        addrconfig: bool = False,
        numeric_host: bool = False,
        v4mapped: bool = False,
    ) -> Lookup:
        """Look up a name as a program does that wants to connect to it."""
        numeric = numeric_address(name)
        if numeric is not None:
            return Lookup((numeric,), name)
        if numeric_host:
            return glibc_error(GaiError.NONAME)
        if addrconfig and family == AF_UNSPEC:
            ipv4, ipv6 = self._addresses.has_family(AF_INET), self._addresses.has_family(AF_INET6)
            if ipv4 != ipv6:
                family = AF_INET if ipv4 else AF_INET6
        known = [
            one for one in self._hosts.addresses(name) if family in (AF_UNSPEC, AF_INET6 if ":" in one else AF_INET)
        ]
        if known:
            return Lookup(tuple(self._sorted(known)), self._hosts.canonical(name))
        room = _SCRATCH_BYTES
        while True:
            if family == AF_UNSPEC:
                types: tuple[int, ...] = (wire.Type.A, wire.Type.AAAA)
                if "no-aaaa" in self._config.flags:
                    types = (wire.Type.A,)
            else:
                types = (wire.Type.A if family == AF_INET else wire.Type.AAAA,)
            found = await self._search(name, types)
            lookup = self._read(name, found, types, plain=family != AF_UNSPEC)
            if lookup.error is GaiError.NONE and self._room_for(lookup, plain=family != AF_UNSPEC) > room:
                room *= 2  # ERANGE: everything again with a bigger buffer
                continue
            break
        if lookup.error is not GaiError.NONE and family == AF_INET6 and v4mapped:
            mapped = await self.getaddrinfo(name, AF_INET)
            return Lookup(
                tuple(f"::ffff:{address}" for address in mapped.addresses), mapped.canonical, mapped.error,
                mapped.host_error, mapped.text,
            )  # fmt: skip
        return lookup

    async def gethostbyname(self, name: str, family: int = AF_INET) -> Lookup:
        """Look up a name by the older interface, which gives addresses of one family."""
        numeric = numeric_address(name)
        if numeric is not None and (":" in numeric) == (family == AF_INET6):
            return Lookup((numeric,), name)
        known = [one for one in self._hosts.addresses(name) if (":" in one) == (family == AF_INET6)]
        if known:
            return Lookup(tuple(known), self._hosts.canonical(name))
        types = (wire.Type.A if family == AF_INET else wire.Type.AAAA,)
        return self._read(name, await self._search(name, types), types, plain=True, ordered=False)

    async def gethostbyaddr(self, address: str) -> Lookup:
        """Look up the names of an address."""
        names = self._hosts.names(address)
        if names:
            return Lookup((address,), names[0])
        found = await self._query(dnsname.reverse_name(address), (wire.Type.PTR,))
        if found.replies:
            for record in _answers(found.replies[0]):
                if record.type == wire.Type.PTR:
                    return Lookup((address,), record.target().removesuffix("."))
        return glibc_error(GaiError.NONAME, found.host_error or HostError.HOST_NOT_FOUND)

    def _sorted(self, addresses: list[str]) -> list[str]:
        return sort_addresses(addresses, self._addresses.source_for)

    @staticmethod
    def _room_for(lookup: Lookup, *, plain: bool) -> int:
        """How much of its buffer the library fills with a result."""
        count = len(lookup.addresses)
        text = len(lookup.canonical) + 1
        if not plain:
            return _TUPLE_BYTES * count + 2 * text
        octets = 16 if lookup.addresses and ":" in lookup.addresses[0] else 4
        return _HOST_DATA_BYTES + (count + 1) * _POINTER_BYTES + count * octets + 2 * text

    def _read(self, name: str, found: _Found, types: tuple[int, ...], *, plain: bool, ordered: bool = True) -> Lookup:
        """Make addresses of the replies (``gaih_getanswer``, ``getanswer_r``)."""
        if found.host_error is not HostError.NONE:
            error = {HostError.TRY_AGAIN: GaiError.AGAIN, HostError.NO_DATA: GaiError.NODATA}.get(
                found.host_error, GaiError.NONAME
            )
            return glibc_error(error, found.host_error)
        addresses: list[str] = []
        canonical = ""
        for octets in found.replies:
            for record in _answers(octets):
                if record.type == wire.Type.CNAME:
                    canonical = record.target()
                elif record.type in types and isinstance(record.data[0], bytes):
                    canonical = canonical or record.name
                    addresses.append(dnsname.format_ip(record.data[0]))
        if not addresses:
            return glibc_error(GaiError.NONAME, HostError.HOST_NOT_FOUND)
        ordered_addresses = self._sorted(addresses) if ordered else addresses
        return Lookup(tuple(ordered_addresses), canonical.removesuffix("."))

    async def _search(self, name: str, types: tuple[int, ...]) -> _Found:
        """Try a name with the suffixes and as it is (``__res_context_search``)."""
        config = self._config
        dots = name.count(".")
        trailing_dot = name.endswith(".")
        saved: HostError | None = None
        tried_as_is = root_on_list = searched = False
        got_nodata = got_servfail = False
        last = HostError.HOST_NOT_FOUND
        if dots >= config.ndots or trailing_dot:
            found, _, _ = await self._query_domain(name, "", types)
            if found.replies or trailing_dot:
                return found
            saved = last = found.host_error
            tried_as_is = True
        if not trailing_dot:
            for domain in config.search:
                searched = True
                suffix = domain.removeprefix(".")
                root_on_list = root_on_list or not suffix
                found, rcode, errno = await self._query_domain(name, suffix, types)
                if found.replies:
                    return found
                if errno is _Errno.REFUSED:
                    return _Found(host_error=HostError.TRY_AGAIN)
                last = found.host_error
                if last is HostError.NO_DATA:
                    got_nodata = True
                elif last is HostError.TRY_AGAIN and rcode == wire.Rcode.SERVFAIL:
                    got_servfail = True
                elif last is not HostError.HOST_NOT_FOUND:
                    break
        may_be_tld = dots or not searched or "no-tld-query" not in config.flags
        if may_be_tld and not tried_as_is and not root_on_list:
            found, _, _ = await self._query_domain(name, "", types)
            if found.replies:
                return found
            last = found.host_error
        if saved is not None:
            return _Found(host_error=saved)
        if got_nodata:
            return _Found(host_error=HostError.NO_DATA)
        return _Found(host_error=HostError.TRY_AGAIN if got_servfail else last)

    async def _query_domain(self, name: str, domain: str, types: tuple[int, ...]) -> tuple[_Found, int, _Errno | None]:
        full = f"{name}.{domain}" if domain else name
        return await self._query_full(dnsname.fqdn(full), types)

    async def _query(self, name: str, types: tuple[int, ...]) -> _Found:
        return (await self._query_full(name, types))[0]

    async def _query_full(self, name: str, types: tuple[int, ...]) -> tuple[_Found, int, _Errno | None]:
        """Ask about one name (``__res_context_query``): what was found, the first reply's rcode, the error."""
        if "no-aaaa" in self._config.flags and types == (wire.Type.AAAA,):
            return _Found(host_error=HostError.NO_DATA), wire.Rcode.NOERROR, None
        try:
            queries = self._make_queries(name, types)
        except wire.WireError:
            return _Found(host_error=HostError.NO_RECOVERY), wire.Rcode.NOERROR, None
        exchange = _Exchange(queries)
        errno = await self._send(exchange)
        rcode = exchange.first.rcode
        if errno is not None:
            return _Found(host_error=HostError.TRY_AGAIN), rcode, errno
        first = exchange.first if exchange.first_length >= _MIN_REPLY else _Reply()
        second = exchange.second if exchange.double and exchange.second_length >= _MIN_REPLY else first
        if not first:
            first = second
        if _useful(first) or _useful(second):
            replies = [reply.octets for reply in (exchange.first, exchange.second) if len(reply) >= _MIN_REPLY]
            return _Found(tuple(replies)), rcode, None
        decisive = second.rcode if first.rcode == wire.Rcode.NOERROR else first.rcode
        host_error = {
            wire.Rcode.NXDOMAIN: HostError.HOST_NOT_FOUND,
            wire.Rcode.SERVFAIL: HostError.TRY_AGAIN,
            wire.Rcode.NOERROR: HostError.NO_DATA,
        }.get(wire.Rcode(decisive) if decisive in _KNOWN else wire.Rcode.REFUSED, HostError.NO_RECOVERY)
        return _Found(host_error=host_error), rcode, None

    def _make_queries(self, name: str, types: tuple[int, ...]) -> tuple[bytes, ...]:
        flags = wire.RD | (wire.AD if "trust-ad" in self._config.flags else 0)
        queries: list[bytes] = []
        for type in types:
            number = self._sockets.choices.below(f"{self._name}/dns.id", 1 << 16)
            while queries and number == int.from_bytes(queries[0][:2], "big"):
                number = self._sockets.choices.below(f"{self._name}/dns.id", 1 << 16)
            message = wire.Message(number, flags)
            message.question = [wire.Question(name, type)]
            if "edns0" in self._config.flags:
                message.additional = [wire.Opt(_EDNS_SIZE)]
            queries.append(message.pack())
        return tuple(queries)

    async def _send(self, exchange: _Exchange) -> _Errno | None:
        """Exchange queries for replies with any of the servers (``__res_context_send``)."""
        servers = self._config.servers
        exchange.use_tcp = "use-vc" in self._config.flags
        offset = self._server_offset()
        attempts = self._config.attempts
        attempt = 0
        stream_error: _Errno = _Errno.TIMED_OUT
        try:
            while attempt < attempts:
                attempt += 1
                for shift in range(len(servers)):
                    number = (shift + offset) % len(servers)
                    if not exchange.use_tcp:
                        try:
                            length = await self._send_udp(exchange, number)
                        except _Truncated:
                            exchange.use_tcp = True
                        else:
                            if length == 0 and (not exchange.double or exchange.second_length == 0):
                                continue
                            exchange.first_length = length
                            return None
                    attempt = attempts  # over TCP each server is asked at most once
                    try:
                        length = await self._send_tcp(exchange, number)
                    except OSError:
                        stream_error = _Errno.REFUSED
                        continue
                    exchange.first_length = length
                    return None
        finally:
            self._close_all()
        if exchange.use_tcp:
            return stream_error
        return _Errno.TIMED_OUT if exchange.got_somewhere else _Errno.REFUSED

    def _server_offset(self) -> int:
        """Where ``rotate`` begins: at random, then one further with each exchange."""
        count = len(self._config.servers)
        if count < 2 or "rotate" not in self._config.flags:
            return 0
        if self._rotation is None:
            self._rotation = self._sockets.choices.below(f"{self._name}/resolver.rotate", count)
        offset = self._rotation % count
        self._rotation += 1
        return offset

    def _close_all(self) -> None:
        for socket in self._open.values():
            socket.close()
        self._open.clear()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _socket(self, number: int) -> Datagrams:
        """The socket to a server, kept from one attempt to the next (``reopen``)."""
        socket = self._open.get(number)
        if socket is None:
            server = self._config.servers[number]
            socket = self._sockets.udp(AF_INET6 if ":" in server else AF_INET)
            socket.recverr = True
            try:
                socket.connect(server, DNS_PORT)
            except OSError:
                socket.close()
                raise
            self._open[number] = socket
        return socket

    async def _send_udp(self, exchange: _Exchange, number: int) -> int:
        """Exchange over UDP with one server (``send_dg``).

        Returns:
            The length of the first reply; 0 if the next server should be tried.

        Raises:
            _Truncated: TCP has to be used.
        """
        try:
            return await _UdpExchange(self, exchange, number).run()
        except OSError:
            # An ICMP error, a reply too short to be one: ``close_and_return_error``.
            self._close_all()
            exchange.second_length = 0
            return 0

    async def _send_tcp(self, exchange: _Exchange, number: int) -> int:
        """Exchange over TCP with one server (``send_vc``); both queries go out together, and there is no time limit.

        Raises:
            OSError: No connection, or it ended too early.
        """
        for socket in self._open.values():
            socket.close()
        self._open.clear()
        server = self._config.servers[number]
        stream = self._sockets.tcp(AF_INET6 if ":" in server else AF_INET)
        self._stream = stream
        try:
            await stream.connect(server, DNS_PORT)
            await stream.sendall(b"".join(len(query).to_bytes(2, "big") + query for query in exchange.queries))
            missing = {query[:2] for query in exchange.queries}
            replies: list[bytes] = []
            while missing:
                length = int.from_bytes(await _read_exactly(stream, 2), "big")
                reply = await _read_exactly(stream, length)
                if reply[:2] in missing:
                    missing.remove(reply[:2])
                    replies.append(reply)
        except OSError:
            exchange.second_length = 0
            self._close_all()
            raise
        exchange.first = _Reply(replies[0])
        if len(replies) > 1:
            exchange.second = _Reply(replies[1])
            exchange.second_length = len(replies[1])
        return len(replies[0])

    # For the exchange over UDP, which changes what the process remembers.

    def remember_single_request(self) -> None:
        self._single_request = True

    def remember_reopen(self) -> None:
        self._reopen = True


class _UdpExchange:
    """One attempt at one server: what was sent, what has come, what is still awaited."""

    def __init__(self, resolver: GlibcResolver, exchange: _Exchange, number: int) -> None:
        self._resolver = resolver
        self._exchange = exchange
        self._number = number
        config = resolver._config
        # res_send.c: the time-out of later servers is shared out among all.
        seconds = config.timeout_s << number
        if number > 0:
            seconds //= len(config.servers)
        self._timeout_ns = max(seconds, 1) * NS_PER_S
        self._early: list[bytes] = []

    async def run(self) -> int:
        resolver, exchange = self._resolver, self._exchange
        somewhere = exchange.got_somewhere
        while True:
            length = await self._attempt()
            if length is not None:
                return length
            # One of two replies came: some servers and firewalls cannot take two questions from one port, so the
            # questions are sent one by one, and if that did not help each from a socket of its own.
            exchange.got_somewhere = somewhere
            if not resolver._single_request:
                resolver.remember_single_request()
            elif not resolver._reopen:
                resolver.remember_reopen()
                self._close()
            else:
                exchange.second_length = 1
                return exchange.first_length

    def _close(self) -> None:
        socket = self._resolver._open.pop(self._number, None)
        if socket is not None:
            socket.close()

    async def _attempt(self) -> int | None:
        """Send and wait until the time is over; ``None`` if that happened after one of two replies."""
        resolver, exchange = self._resolver, self._exchange
        clock = resolver._sockets.clock
        deadline_ns = clock.now_ns + self._timeout_ns
        socket = resolver._socket(self._number)
        received = [False, not exchange.double]
        length = exchange.first_length = 0
        single = resolver._single_request or resolver._reopen
        self._early.clear()
        await self._transmit(socket, single=single)
        while True:
            left_ns = deadline_ns - clock.now_ns
            try:
                octets = self._early.pop(0) if self._early else (await socket.recvfrom(max(left_ns, 0)))[0]
            except TimeoutError:
                if length > 1 and (received[0] or (exchange.double and received[1])):
                    exchange.first_length = length
                    return None
                exchange.got_somewhere = True
                exchange.second_length = 0
                return 0
            exchange.got_somewhere = True
            if len(octets) < _MIN_REPLY:
                raise OSError("a reply shorter than a header")
            matching = self._matching(octets, received)
            if matching is None:
                continue
            is_first = not any(received) or not exchange.double
            if is_first:
                exchange.first, length = _Reply(octets), len(octets)
            else:
                exchange.second, exchange.second_length = _Reply(octets), len(octets)
            if _is_failure(octets):
                if received[0] or (exchange.double and received[1]):
                    exchange.second_length = 0
                    return length
                if exchange.double:
                    length = 0
                    received[matching] = True
                    continue
                self._close()
                return 0
            if octets[2] & 0x02:
                self._close()
                raise _Truncated
            received[matching] = True
            if all(received):
                return length
            if single:
                if resolver._reopen:
                    self._close()
                    socket = resolver._socket(self._number)
                socket.send(exchange.queries[1])

    async def _transmit(self, socket: Datagrams, *, single: bool) -> None:
        """Send one query, or both by one system call."""
        queries = self._exchange.queries
        socket.send(queries[0])
        if len(queries) == 1 or single:
            return
        # Between the two datagrams of one sendmmsg others may run on the CPU, so that the first answer is there before
        # the second question leaves.
        resolver = self._resolver
        if not resolver._sockets.choices.below(f"{resolver._name}/resolver.pipelined", 2):
            with contextlib.suppress(TimeoutError):
                self._early.append((await socket.recvfrom(_PREEMPTED_NS))[0])
        socket.send(queries[1])

    def _matching(self, octets: bytes, received: list[bool]) -> int | None:
        """Which query a reply is to: id and question have to agree."""
        for number, query in enumerate(self._exchange.queries):
            if received[number] or octets[:2] != query[:2]:
                continue
            if _same_question(query, octets, second=self._exchange.double and any(received)):
                return number
        return None


_KNOWN = frozenset(wire.Rcode)


def _useful(reply: _Reply) -> bool:
    return reply.rcode == wire.Rcode.NOERROR and reply.answers > 0


def _is_failure(octets: bytes) -> bool:
    """Whether a reply says that the server cannot help: an error, or a referral from a lame server."""
    if octets[3] & 0xF in (wire.Rcode.SERVFAIL, wire.Rcode.NOTIMP, wire.Rcode.REFUSED):
        return True
    empty = octets[3] & 0xF == wire.Rcode.NOERROR and octets[6:8] == b"\0\0" and octets[10:12] == b"\0\0"
    return empty and not octets[2] & 0x04 and not octets[3] & 0x80


def _same_question(query: bytes, octets: bytes, *, second: bool) -> bool:
    """Whether a reply is to the question of ``query`` (``__libc_res_queriesmatch``).

    A question that cannot be read agrees with any. One that runs over the end is read on in what the buffer held
    before, which is anything; as recorded, it comes to nothing readable in the buffer of the first reply, and to
    another name in that of the ``second``.
    """
    if query[4:6] != octets[4:6]:
        return False
    asked, asked_end = wire.unpack_name(query, 12)
    try:
        name, end = wire.unpack_name(octets, 12)
    except wire.WireError:
        return not (second and _runs_over(octets, 12))
    if len(octets) < end + 4:
        return True
    same_name = dnsname.lower(name) == dnsname.lower(asked)
    return same_name and octets[end : end + 4] == query[asked_end : asked_end + 4]


def _runs_over(octets: bytes, offset: int) -> bool:
    """Whether a name consists of labels until the end and beyond."""
    while offset < len(octets):
        if not 0 < octets[offset] < 0x40:
            return False
        offset += 1 + octets[offset]
    return True


def _answers(octets: bytes) -> list[wire.RR]:
    try:
        return wire.unpack(octets).answer
    except wire.WireError:
        return []


async def _read_exactly(stream: Stream, count: int) -> bytes:
    octets = bytearray()
    while len(octets) < count:
        more = await stream.recv(count - len(octets))
        if not more:
            raise OSError("the connection ended")
        octets += more
    return bytes(octets)
