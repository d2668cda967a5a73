"""The ``hosts`` plugin: answers from ``/etc/hosts`` and from lines in the Corefile.

Source: coredns v1.13.1, plugin/hosts/{setup,hosts,hostsfile}.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from . import dnsname
from .corefile import Directive, zones_from
from .kubernetes import read_fallthrough
from .plugin import Exchange, Fallthrough, Handler, Link, Outcome, Setup, Work, Write, next_or_failure, qname_lower
from .wire import AA, RR, Message, Rcode, Type, a_record

_TTL = 3600
_FILE = "/etc/hosts"


@dataclass(slots=True)
class _Entries:
    """Names and addresses, from the file before those from the Corefile."""

    addresses: dict[str, list[bytes]] = field(default_factory=dict)
    names: dict[bytes, list[str]] = field(default_factory=dict)

    def read(self, lines: Iterable[str], zones: Sequence[str], *, reverse: bool) -> None:
        for line in lines:
            words = line.partition("#")[0].split()
            if len(words) < 2:
                continue
            packed = dnsname.parse_ip(words[0].partition("%")[0])
            if packed is None:
                continue
            for word in words[1:]:
                name = dnsname.normalize(word)
                if dnsname.longest_zone(zones, name):
                    self.addresses.setdefault(name, []).append(packed)
                    if reverse:
                        self.names.setdefault(packed, []).append(name)


class Hosts:
    """The plugin in its chain."""

    name = "hosts"

    def __init__(
        self, zones: Sequence[str], entries: _Entries, ttl: int, fallthrough: Fallthrough, following: Handler | None
    ) -> None:
        self._zones = tuple(zones)
        self._entries = entries
        self._ttl = ttl
        self._fallthrough = fallthrough
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        name = qname_lower(request)
        qtype = request.question[0].type
        answers: list[RR] = []
        known = self._entries.addresses.get(name, [])
        if qtype == Type.PTR:
            packed = dnsname.parse_ip(dnsname.address_of_reverse(name))
            names = self._entries.names.get(packed, []) if packed is not None else []
            if not names:
                return (yield from next_or_failure(self._next, self.name, exchange, write, request))
            answers = [RR(name, Type.PTR, self._ttl, (one,)) for one in names]
        elif not dnsname.longest_zone(self._zones, name):
            return (yield from next_or_failure(self._next, self.name, exchange, write, request))
        elif qtype in (Type.A, Type.AAAA):
            octets = 4 if qtype == Type.A else 16
            answers = [a_record(name, self._ttl, packed) for packed in known if len(packed) == octets]
        if not answers and not known:
            if self._fallthrough.through(name):
                return (yield from next_or_failure(self._next, self.name, exchange, write, request))
            return Rcode.SERVFAIL, ""
        reply = request.reply(flags=AA)
        reply.answer = answers
        write(reply)
        return Rcode.NOERROR, ""


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read the plugin's options and its lines."""
    directive = directives[0]
    for other in directives[1:]:
        raise other.error("may stand in a server block only once")
    args = directive.args
    if args and args[0] != _FILE:
        raise directive.unsupported(f"hosts file {args[0]}", "write its lines into the block")
    zones = zones_from(args[1:], context.block)
    ttl = _TTL
    reverse = True
    fallthrough = Fallthrough()
    inline: list[str] = []
    for line in directive.body:
        if line.name == "fallthrough":
            fallthrough = read_fallthrough(line, context)
        elif line.name == "no_reverse":
            reverse = False
        elif line.name == "ttl":
            ttl = line.number(line.arguments(1, 1 << 30)[0], 1, 65535)
        elif line.name == "reload":
            line.duration(line.arguments(1)[0])
        elif fallthrough.zones:
            raise line.error(f"unknown property {line.name!r} of hosts", "write it before fallthrough")
        else:
            inline.append(" ".join((line.name, *line.args)))
    entries = _Entries()
    entries.read(context.hosts_file.splitlines(), zones, reverse=reverse)
    entries.read(inline, zones, reverse=reverse)
    return [lambda following: Hosts(zones, entries, ttl, fallthrough, following)]
