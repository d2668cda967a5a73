"""The stub resolver of musl: all servers at once, one socket, and little else.

Source: musl 1.2.3, src/network/lookup_name.c, res_msend.c, res_mkquery.c, getaddrinfo.c.
"""

from __future__ import annotations

from pktsim.clock import NS_PER_MS

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
    GaiError,
    Lookup,
    Sockets,
    musl_error,
    numeric_address,
)

#: Longest datagram that is read: there is no EDNS.
_BUFFER = 512
#: Addresses that are kept (lookup.h, ``MAXADDRS``).
_MAX_ADDRESSES = 48


class MuslResolver:
    """The resolver of one process.

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

    async def getaddrinfo(
        self, name: str, family: int = AF_UNSPEC, *, addrconfig: bool = False, numeric_host: bool = False,
        v4mapped: bool = False,
    ) -> Lookup:  # fmt: skip
        """Look up a name as a program does that wants to connect to it."""
        numeric = numeric_address(name)
        if numeric is not None:
            return Lookup((numeric,), name)
        if numeric_host:
            return musl_error(GaiError.NONAME)
        wanted = AF_UNSPEC if v4mapped and family == AF_INET6 else family
        known = [one for one in self._hosts.addresses(name) if wanted in (AF_UNSPEC, _family(one))]
        if known:
            return Lookup(tuple(self._sorted(known)), self._hosts.canonical(name))
        lookup = await self._search(name, wanted)
        if v4mapped and family == AF_INET6 and lookup.addresses:
            real = [one for one in lookup.addresses if ":" in one]
            mapped = tuple(real or (f"::ffff:{one}" for one in lookup.addresses))
            return Lookup(mapped, lookup.canonical)
        return lookup

    async def gethostbyname(self, name: str, family: int = AF_INET) -> Lookup:
        """Look up a name by the older interface."""
        return await self.getaddrinfo(name, family)

    async def gethostbyaddr(self, address: str) -> Lookup:
        """Look up the name of an address."""
        names = self._hosts.names(address)
        if names:
            return Lookup((address,), names[0])
        query = self._make_query(dnsname.reverse_name(address), wire.Type.PTR)
        replies = await self._exchange([query])
        for record in _answers(replies[0]):
            if record.type == wire.Type.PTR:
                return Lookup((address,), record.target().removesuffix("."))
        return Lookup((address,), address)

    def _sorted(self, addresses: list[str]) -> list[str]:
        return sort_addresses(addresses, self._addresses.source_for)

    async def _search(self, name: str, family: int) -> Lookup:
        """``name_from_dns_search``: a name with enough dots is never tried with a suffix."""
        config = self._config
        search = config.search
        if name.count(".") >= config.ndots or name.endswith("."):
            search = ()
        base = name.removesuffix(".")
        if not base or base.endswith("."):
            return musl_error(GaiError.NONAME)
        for suffix in search:
            if len(suffix) < 256 - len(base) - 1:
                lookup = await self._ask(f"{base}.{suffix}", family)
                if lookup is not None:
                    return lookup
        lookup = await self._ask(name, family)
        return musl_error(GaiError.NONAME) if lookup is None else lookup

    async def _ask(self, name: str, family: int) -> Lookup | None:
        """``name_from_dns``: ``None`` if there is no such name, so that the next one is tried."""
        types = [type for type, other in ((wire.Type.A, AF_INET6), (wire.Type.AAAA, AF_INET)) if family != other]
        try:
            queries = [self._make_query(name, type) for type in types]
        except wire.WireError:
            return musl_error(GaiError.NONAME)
        replies = await self._exchange(queries)
        # Since 1.2.3 one answer that is missing or an error makes the other worthless.
        for reply in replies:
            rcode = reply[3] & 0xF if len(reply) >= 4 else wire.Rcode.SERVFAIL
            if rcode == wire.Rcode.SERVFAIL:
                return musl_error(GaiError.AGAIN)
            if rcode == wire.Rcode.NXDOMAIN:
                return None
            if rcode != wire.Rcode.NOERROR:
                return musl_error(GaiError.FAIL)
        addresses: list[str] = []
        canonical = name.removesuffix(".")
        for reply in replies:
            for record in _answers(reply):
                if record.type == wire.Type.CNAME:
                    canonical = record.target().removesuffix(".")
                elif record.type in types and isinstance(record.data[0], bytes) and len(addresses) < _MAX_ADDRESSES:
                    addresses.append(dnsname.format_ip(record.data[0]))
        return Lookup(tuple(self._sorted(addresses)), canonical) if addresses else musl_error(GaiError.NONAME)

    def _make_query(self, name: str, type: int) -> bytes:
        number = self._sockets.choices.below(f"{self._name}/dns.id", 1 << 16)
        message = wire.Message(number, wire.RD)
        text = name.removesuffix(".")
        if text.endswith("."):
            # From ``search .``: of two dots at the end one stays where the length of a label should be.
            labels = b"".join(bytes((len(label),)) + label.encode() for label in text.removesuffix(".").split("."))
            question = labels + b".\0" + type.to_bytes(2, "big") + b"\0\1"
            return message.pack()[:4] + b"\0\1\0\0\0\0\0\0" + question
        message.question = [wire.Question(dnsname.fqdn(name), type)]
        return message.pack()

    async def _exchange(self, queries: list[bytes]) -> list[bytes]:
        """``__res_msend_rc``: send all to all servers until all are answered or the time is over."""
        config = self._config
        clock = self._sockets.clock
        ipv6 = any(":" in server for server in config.servers)
        socket = self._sockets.udp(AF_INET6 if ipv6 else AF_INET)
        answers: list[bytes] = [b""] * len(queries)
        try:
            socket.bind("", 0)
            timeout_ns = config.timeout_s * 1000 * NS_PER_MS
            interval_ns = config.timeout_s * 1000 // max(config.attempts, 1) * NS_PER_MS
            start_ns = now_ns = clock.now_ns
            sent_ns = now_ns - interval_ns
            servfail_retries = 0
            while now_ns - start_ns < timeout_ns:
                if now_ns - sent_ns >= interval_ns:
                    for number, query in enumerate(queries):
                        if not answers[number]:
                            for server in config.servers:
                                _send(socket.sendto, query, server)
                    sent_ns = now_ns
                    servfail_retries = 2 * len(queries)
                try:
                    octets, address, port = await socket.recvfrom(max(sent_ns + interval_ns - now_ns, 0))
                except TimeoutError:
                    now_ns = clock.now_ns
                    continue
                now_ns = clock.now_ns
                octets = octets[:_BUFFER]
                if len(octets) < 4 or port != DNS_PORT or address not in config.servers:
                    continue
                number = next((at for at, query in enumerate(queries) if query[:2] == octets[:2]), -1)
                if number < 0 or answers[number]:
                    continue
                rcode = octets[3] & 0xF
                if rcode == wire.Rcode.SERVFAIL and servfail_retries:
                    servfail_retries -= 1
                    _send(socket.sendto, queries[number], address)
                if rcode in (wire.Rcode.NOERROR, wire.Rcode.NXDOMAIN):
                    answers[number] = octets
                    if all(answers):
                        break
        finally:
            socket.close()
        return answers


def _send(sendto: object, query: bytes, server: str) -> None:
    assert callable(sendto)
    try:
        sendto(query, server, DNS_PORT)
    except OSError:
        return  # it does not look at errors


def _family(address: str) -> int:
    return AF_INET6 if ":" in address else AF_INET


def _answers(octets: bytes) -> list[wire.RR]:
    """The answers of a reply. What cannot be read ends the reading, and a truncated reply has what it has."""
    try:
        return wire.unpack(octets).answer if octets else []
    except wire.WireError as error:
        return error.message.answer if error.message is not None else []
