"""The ``autopath`` plugin: the server walks the client's search list.

Source: coredns v1.13.1, plugin/autopath/{setup,autopath,cname}.go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import dnsname
from .corefile import Directive, zones_from
from .kubernetes import Kubernetes
from .plugin import (
    Captured,
    Exchange,
    Handler,
    Link,
    Outcome,
    PanicError,
    Setup,
    Work,
    Write,
    is_written,
    next_or_failure,
    qname,
    qname_lower,
)
from .resolvconf import parse_resolv_conf
from .wire import RR, Message, Rcode, Type

#: The search list for a client; empty: leave it to the client.
Search = Callable[[Exchange, Message], Sequence[str]]


class AutoPath:
    """The plugin in its chain."""

    name = "autopath"

    def __init__(self, zones: Sequence[str], search: Search, following: Handler | None) -> None:
        self._zones = tuple(zones)
        self._search = search
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        name = qname_lower(request)
        search: Sequence[str] = ()
        if dnsname.longest_zone(self._zones, name):
            search = self._search(exchange, request)
        if not search or not dnsname.is_subdomain(search[0], name):
            return (yield from next_or_failure(self._next, self.name, exchange, write, request))
        asked = qname(request)
        base = dnsname.trim_zone(asked, search[0])
        if base is None:
            return Rcode.SERVFAIL, f"trimzone: overshot qname: {asked} for zone {search[0]}"
        first: tuple[int, Message | None] | None = None
        own = request.copy()
        for suffix in search:
            own.question[0].name = f"{base}.{suffix}"
            captured = Captured()
            rcode, error = yield from next_or_failure(self._next, self.name, exchange, captured, own)
            if error:
                return rcode, error
            if first is None:
                first = rcode, captured.message
            if not is_written(rcode):
                continue
            reply = captured.message
            if reply is None:
                raise PanicError("autopath: no message")
            if reply.rcode == Rcode.NXDOMAIN:
                continue
            _add_cname(reply, asked)
            write(reply)
            return rcode, ""
        assert first is not None
        rcode, reply = first
        if is_written(rcode):
            if reply is None:
                raise PanicError("autopath: no message")
            write(reply)
        return rcode, ""


def _add_cname(reply: Message, asked: str) -> None:
    """Lead from the name that was asked for to the one that the answer is about."""
    for record in reply.answer:
        if dnsname.lower(record.name) != dnsname.lower(asked):
            reply.answer.insert(0, RR(asked, Type.CNAME, record.ttl, (record.name,)))
            break
    reply.question[0].name = asked


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read the plugin's options; of several occurrences the last one counts."""
    directive = directives[-1]
    directive.no_body()
    *zone_args, source = directive.arguments(1, 1 << 30)
    zones = zones_from(tuple(zone_args), context.block)
    if source.startswith("@"):
        if source != "@kubernetes":
            raise directive.unsupported(f"autopath {source}", "use @kubernetes")

        def search(exchange: Exchange, request: Message) -> Sequence[str]:
            plugin = context.chain.get("kubernetes")
            return plugin.auto_path(exchange, request) if isinstance(plugin, Kubernetes) else ()

    elif source == "/etc/resolv.conf":
        fixed = [*map(dnsname.normalize, parse_resolv_conf(context.resolv_conf).search), ""]

        def search(exchange: Exchange, request: Message) -> Sequence[str]:
            return fixed

    else:
        raise directive.unsupported(f"autopath by file {source}", "use @kubernetes or /etc/resolv.conf")
    return [lambda following: AutoPath(zones, search, following)]
