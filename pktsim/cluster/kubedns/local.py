"""The ``local`` plugin: answers about the machine itself.

Source: coredns v1.13.1, plugin/local/local.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from . import dnsname
from .corefile import Directive
from .plugin import Exchange, Handler, Link, Outcome, Setup, Work, Write, next_or_failure, qname, qname_lower
from .wire import RR, Message, Rcode, Type, a_record, soa_record

_TTL = 604800
_ZONES = ("localhost.", "0.in-addr.arpa.", "127.in-addr.arpa.", "255.in-addr.arpa.")
_LOOPBACK = {
    Type.A: ipaddress.IPv4Address("127.0.0.1").packed,
    Type.AAAA: ipaddress.IPv6Address("::1").packed,
}


def _soa(name: str) -> list[RR]:
    return [soa_record(name, _TTL, "localhost.", "root.localhost.", (1, 0, 0, 0, _TTL))]


class Local:
    """The plugin in its chain."""

    name = "local"

    def __init__(self, following: Handler | None) -> None:
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        name, lower = qname(request), qname_lower(request)
        qtype = request.question[0].type
        zone = dnsname.longest_zone(_ZONES, name)
        below_localhost = lower.startswith("localhost.") and lower != "localhost."
        if not zone and not below_localhost:
            return (yield from next_or_failure(self._next, self.name, exchange, write, request))
        reply = request.reply()
        if below_localhost or (lower == "localhost." and qtype in _LOOPBACK):
            # Every name that begins so, whatever comes after.
            if qtype in _LOOPBACK:
                reply.answer = [a_record(name, _TTL, _LOOPBACK[Type(qtype)])]
            else:
                reply.authority = _soa(name)
        elif lower in _ZONES:
            if qtype == Type.SOA:
                reply.answer = _soa(name)
            elif qtype == Type.NS:
                reply.answer = [RR(name, Type.NS, _TTL, ("localhost.",))]
            else:
                reply.authority = _soa(name)
        else:
            own_zone = name[len(name) - len(zone) :]
            reply.authority = _soa(own_zone)
            if lower == "1.0.0.127.in-addr.arpa.":
                if qtype == Type.PTR:
                    reply.answer = [RR(name, Type.PTR, _TTL, ("localhost.",))]
                    reply.authority = []
            else:
                reply.rcode = Rcode.NXDOMAIN
        write(reply)
        return Rcode.NOERROR, ""


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """There are no options."""
    return [Local]
