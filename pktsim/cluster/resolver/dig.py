"""``dig`` of BIND 9.18: what it sends, and what it prints.

Source: bind9 v9.18, bin/dig/dig.c and dighost.c; lib/dns/masterdump.c for columns, lib/dns/message.c for comments.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dns.exception
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.sockets import SocketLayer
from pktsim.wire.addr import ip_from_text, ip_to_text

from ..kubedns import dnsname, wire
from ..kubedns.service import read_message
from .conf import parse_glibc
from .interface import AF_INET, AF_INET6, DNS_PORT

VERSION = "9.18.49-1~deb12u3-Debian"
#: What its EDNS announces, and the segment size its TCP asks for.
_EDNS_SIZE = 1232
_TCP_MSS = 1220
_COOKIE = 10
_COOKIE_BYTES = 8
#: Exit status when no server answered.
EXIT_NO_SERVER = 9
_MULTICAST = (
    ";; WARNING: .local is reserved for Multicast DNS\n"
    ";; You are currently testing what happens when an mDNS query is leaked to DNS\n"
)
#: Columns of owner's TTL, class, type and data (masterdump.c, ``dns_master_style_debug``).
_TTL_COLUMN, _CLASS_COLUMN, _TYPE_COLUMN, _DATA_COLUMN, _TAB = 24, 32, 40, 48, 8


@dataclass(frozen=True, slots=True)
class DigOptions:
    """What it was told.

    Attributes:
        name: What to ask for; an address for ``-x`` as its reverse name.
        rrtype: Which type.
        server: ``@SERVER``; empty for those of ``/etc/resolv.conf``.
        tcp, search, cookie, recurse: ``+tcp``, ``+search``, ``+cookie``, ``+recurse``.
        tries, timeout_s: ``+tries``, ``+time``.
        arguments: The words of its command line, for its first line.
    """

    name: str
    rrtype: str = "A"
    server: str = ""
    tcp: bool = False
    search: bool = False
    cookie: bool = True
    recurse: bool = True
    tries: int = 3
    timeout_s: float = 5.0
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class DigAnswer:
    """What came of it.

    Attributes:
        text: What it prints.
        exit: Its exit status.
        reply: The message it prints, if any.
    """

    text: str
    exit: int
    reply: bytes | None = None


def type_number(rrtype: str) -> int:
    """The number of a type's name.

    Raises:
        UnsupportedFeature: There is no such type.
    """
    try:
        return dns.rdatatype.from_text(rrtype)
    except (dns.exception.DNSException, ValueError):
        raise UnsupportedFeature(f"record type {rrtype}") from None


def dig_query(name: str, type: int, id: int, *, cookie: bytes = b"", recurse: bool = True) -> bytes:
    """The message that it sends: RD and AD set, EDNS with 1232 octets.

    Args:
        name: Taken as complete.
        type: Number of the type.
        id: The message's id.
        cookie: 8 octets, or none for ``+nocookie``.
        recurse: ``+recurse``.
    """
    message = wire.Message(id, wire.AD | (wire.RD if recurse else 0))
    message.question = [wire.Question(dnsname.fqdn(name), type)]
    message.additional = [wire.Opt(_EDNS_SIZE, 0, [(_COOKIE, cookie)] if cookie else ())]
    return message.pack()


class Dig:
    """One run of the program.

    Args:
        sockets: Of the namespace it runs in.
        options: What it was told.
        resolv_conf: ``/etc/resolv.conf``.
        epoch_s: Unix time at the clock's zero, for the line ``WHEN``.
    """

    def __init__(self, sockets: SocketLayer, options: DigOptions, resolv_conf: str = "", epoch_s: int = 0) -> None:
        self._sockets = sockets
        self._options = options
        self._epoch_s = epoch_s
        self._config = parse_glibc(resolv_conf)
        self._type = type_number(options.rrtype)
        self._lines: list[str] = []

    async def run(self) -> DigAnswer:
        """Ask until there is an answer or no server left."""
        options = self._options
        head = f"\n; <<>> DiG {VERSION} <<>> {options.arguments or options.name}\n"
        if options.server:
            head += "; (1 server found)\n"
        head += ";; global options: +cmd\n"
        names = list(self._names())
        for number, name in enumerate(names):
            found = await self._look_up(name)
            if found is None:
                return DigAnswer("".join(self._lines) + head + ";; no servers could be reached\n\n", EXIT_NO_SERVER)
            reply, server, tcp, sent_ns = found
            rcode = reply[3] & 0xF
            if rcode == wire.Rcode.NOERROR or number == len(names) - 1:
                now_ns = self._sockets.clock.now_ns
                footer = _footer(
                    reply, server, options.server, tcp, now_ns - sent_ns, self._epoch_s + now_ns // NS_PER_S
                )
                return DigAnswer("".join(self._lines) + head + format_message(reply, self._cookie) + footer, 0, reply)
        raise AssertionError("there is always a name to ask for")

    def _names(self) -> Iterator[str]:
        """The names to try: with ``+search`` the suffixes first, unless there are dots enough."""
        name, config = self._options.name, self._config
        if not self._options.search or name.endswith("."):
            yield name
            return
        suffixes = [f"{name}.{suffix}" if suffix != "." else name for suffix in config.search]
        as_is_first = name.count(".") >= config.ndots
        if as_is_first:
            yield name
        yield from suffixes
        if not as_is_first:
            yield name

    async def _look_up(self, name: str) -> tuple[bytes, str, bool, int] | None:
        """Ask all servers for one name."""
        options, choices = self._options, self._sockets.choices
        place = self._sockets.name
        id = choices.below(f"{place}/dns.id", 1 << 16)
        self._cookie = b""
        if options.cookie:
            octets = [choices.below(f"{place}/dig.cookie", 256) for _ in range(_COOKIE_BYTES)]
            self._cookie = bytes(octets)
        query = dig_query(name, self._type, id, cookie=self._cookie, recurse=options.recurse)
        servers = (options.server,) if options.server else self._config.servers
        for server in servers:
            tcp = options.tcp
            for _ in range(options.tries):
                sent_ns = self._sockets.clock.now_ns
                reply = await self._ask(query, server, tcp=tcp)
                if reply is not None and reply[2] & 0x02 and not tcp:
                    self._lines.append(";; Truncated, retrying in TCP mode.\n")
                    tcp = True
                    sent_ns = self._sockets.clock.now_ns
                    query = choices.below(f"{place}/dns.id", 1 << 16).to_bytes(2, "big") + query[2:]
                    reply = await self._ask(query, server, tcp=True)
                if reply is not None:
                    return reply, server, tcp, sent_ns
        return None

    async def _ask(self, query: bytes, server: str, *, tcp: bool) -> bytes | None:
        """One attempt, from a socket of its own."""
        try:
            return await (self._ask_tcp if tcp else self._ask_udp)(query, server)
        except OSError as error:
            what = {errno.ECONNREFUSED: "connection refused", errno.ENETUNREACH: "network unreachable",
                    errno.EHOSTUNREACH: "host unreachable", errno.ECONNRESET: "connection reset",
                    }.get(error.errno or 0, "timed out")  # fmt: skip
            self._lines.append(f";; communications error to {server}#{DNS_PORT}: {what}\n")
            return None

    async def _ask_udp(self, query: bytes, server: str) -> bytes:
        clock = self._sockets.clock
        deadline_ns = clock.now_ns + round(self._options.timeout_s * NS_PER_S)
        socket = self._sockets.udp(AF_INET6 if ":" in server else AF_INET)
        socket.set_df(False)  # IP_PMTUDISC_OMIT: no DF, whatever is known of the path
        try:
            socket.connect(server, DNS_PORT)
            socket.send(query)
            while True:
                reply, _, _ = await socket.recvfrom(max(deadline_ns - clock.now_ns, 0))
                if reply[:2] == query[:2] and len(reply) >= 12:
                    return reply
        finally:
            socket.close()

    async def _ask_tcp(self, query: bytes, server: str) -> bytes:
        clock = self._sockets.clock
        timeout_ns = round(self._options.timeout_s * NS_PER_S)
        socket = self._sockets.tcp(AF_INET6 if ":" in server else AF_INET)
        socket.mss = _TCP_MSS
        try:
            await socket.connect(server, DNS_PORT, timeout_ns)
            await socket.sendall(len(query).to_bytes(2, "big") + query)
            reply = await read_message(socket, clock, clock.now_ns + timeout_ns)
            if reply is None or len(reply) < 12:
                raise OSError(errno.ECONNRESET, "end of file")
            return reply
        finally:
            socket.close()


async def dig(sockets: SocketLayer, options: DigOptions, resolv_conf: str = "", epoch_s: int = 0) -> DigAnswer:
    """Run it once. See :class:`Dig`."""
    return await Dig(sockets, options, resolv_conf, epoch_s).run()


def _footer(reply: bytes, server: str, named: str, tcp: bool, took_ns: int, unix_s: int) -> str:
    """``named`` is what ``@SERVER`` said; else dig shows the address both times (``received``, bin/dig/dig.c)."""
    address = ip_to_text(ip_from_text(server))
    when = datetime.fromtimestamp(unix_s, UTC).strftime("%a %b %d %H:%M:%S UTC %Y")
    return (
        f";; Query time: {took_ns // NS_PER_MS} msec\n"
        f";; SERVER: {address}#{DNS_PORT}({named or address}) ({'TCP' if tcp else 'UDP'})\n"
        f";; WHEN: {when}\n"
        f";; MSG SIZE  rcvd: {len(reply)}\n\n"
    )


_FLAGS = ((wire.QR, "qr"), (wire.AA, "aa"), (wire.TC, "tc"), (wire.RD, "rd"), (wire.RA, "ra"), (wire.AD, "ad"),
          (wire.CD, "cd"))  # fmt: skip


def format_message(octets: bytes, cookie: bytes = b"") -> str:
    """Print a reply as ``dig`` does, from ``Got answer`` to the last section.

    Args:
        octets: The reply.
        cookie: The client's cookie, to say whether the server knew what to do with it.
    """
    try:
        message = wire.unpack(octets)
    except wire.WireError as error:
        return f";; Got bad packet: {error}\n"
    lines = [";; Got answer:\n"]
    if message.question and dnsname.is_subdomain("local.", message.question[0].name):
        lines.append(_MULTICAST)
    opcode, rcode = (
        dns.opcode.to_text(dns.opcode.Opcode(message.opcode)),
        dns.rcode.to_text(dns.rcode.Rcode(message.rcode)),
    )
    lines.append(f";; ->>HEADER<<- opcode: {opcode}, status: {rcode}, id: {message.id}\n")
    flags = "".join(f" {name}" for bit, name in _FLAGS if message.flags & bit)
    counts = (len(message.question), len(message.answer), len(message.authority), len(message.additional))
    lines.append(
        f";; flags:{flags}; QUERY: {counts[0]}, ANSWER: {counts[1]}, AUTHORITY: {counts[2]}, ADDITIONAL: {counts[3]}\n"
    )
    if message.flags & wire.RD and not message.flags & wire.RA:
        lines.append(";; WARNING: recursion requested but not available\n")
    lines.append("\n")
    opt = message.opt
    if opt is not None:
        lines += _opt_lines(opt, cookie)
    if message.question:
        lines.append(";; QUESTION SECTION:\n")
        for question in message.question:
            text, column = f";{question.name}", len(question.name)
            for target, word in ((_CLASS_COLUMN, _class_text(question.cls)), (_TYPE_COLUMN, type_text(question.type))):
                gap, column = _indent(column, target)
                text += gap + word
                column += len(word)
            lines.append(text + "\n")
        lines.append("\n")
    for title, records in (
        ("ANSWER", message.answer),
        ("AUTHORITY", message.authority),
        ("ADDITIONAL", [record for record in message.additional if not isinstance(record, wire.Opt)]),
    ):
        if records:
            lines.append(f";; {title} SECTION:\n")
            lines += [format_record(record) + "\n" for record in records]
            lines.append("\n")
    return "".join(lines)


def _opt_lines(opt: wire.Opt, cookie: bytes) -> Sequence[str]:
    flags = " do" if opt.do else ""
    lines = [";; OPT PSEUDOSECTION:\n", f"; EDNS: version: {opt.version}, flags:{flags}; udp: {opt.size}\n"]
    for code, value in opt.options:
        if code == _COOKIE:
            known = cookie and value[: len(cookie)] == cookie
            verdict = " (good)" if known and len(value) > len(cookie) else " (echoed)" if known else ""
            lines.append(f"; COOKIE: {value.hex()}{verdict}\n")
        elif value:
            spaced = " ".join(f"{octet:02x}" for octet in value)
            lines.append(f"; OPT={code}: {spaced}\n")
        else:
            lines.append(f"; OPT={code}\n")
    return lines


def _indent(column: int, target: int) -> tuple[str, int]:
    """Go to a column by tabs and spaces, at least one character (masterdump.c, ``indent``)."""
    target = max(target, column + 1)
    tabs = target // _TAB - column // _TAB
    if tabs:
        column = target // _TAB * _TAB
    return "\t" * tabs + " " * (target - column), target


def _class_text(number: int) -> str:
    return dns.rdataclass.to_text(dns.rdataclass.RdataClass.make(number))


def type_text(number: int) -> str:
    """The name of a type's number."""
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number))


def format_record(record: wire.RR) -> str:
    """Print a record in master file form, in ``dig``'s columns."""
    text, column = record.name, len(record.name)
    for target, word in (
        (_TTL_COLUMN, str(record.ttl)),
        (_CLASS_COLUMN, _class_text(record.cls)),
        (_TYPE_COLUMN, type_text(record.type)),
        (_DATA_COLUMN, record_data(record)),
    ):
        gap, column = _indent(column, target)
        text += gap + word
        column += len(word)
    return text


def record_data(record: wire.RR) -> str:
    """A record's data in master file form."""
    octets = b"".join(part if isinstance(part, bytes) else dnsname.to_wire(part) for part in record.data)
    if record.type == wire.Type.AAAA and len(octets) == 16:
        return str(ipaddress.IPv6Address(octets))
    try:
        rdata = dns.rdata.from_wire(
            dns.rdataclass.RdataClass.make(record.cls),
            dns.rdatatype.RdataType.make(record.type),
            octets,
            0,
            len(octets),
        )
    except dns.exception.DNSException:
        return f"\\# {len(octets)} {octets.hex().upper()}"
    return rdata.to_text()
