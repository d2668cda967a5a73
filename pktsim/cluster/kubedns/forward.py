"""The ``forward`` plugin: questions that go on to other servers, and what is known of those servers' health.

Source: coredns v1.13.1, plugin/forward/{setup,forward,policy}.go, plugin/pkg/proxy/{connect,health,proxy}.go,
plugin/pkg/up/up.go, plugin/pkg/parse/host.go.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from pktsim.clock import NS_PER_MS, NS_PER_S

from . import dnsname
from .corefile import Directive, Property, split_host_port
from .plugin import (
    Ask,
    Exchange,
    Failure,
    Handler,
    Link,
    Outcome,
    Pause,
    Setup,
    Work,
    Write,
    matches,
    next_or_failure,
    qname_lower,
    size_of,
)
from .resolvconf import parse_resolv_conf
from .wire import RD, TC, Message, Question, Rcode, Type, WireError, unpack, unpack_header

#: How long a question is tried in all, how long for one answer, and for the answer to a health check.
_DEADLINE_NS = 5 * NS_PER_S
_READ_TIMEOUT_NS = 2 * NS_PER_S
_HEALTH_TIMEOUT_NS = 1 * NS_PER_S
_DNS_PORT = 53
#: What a failed attempt takes where the clock has not moved meanwhile.
_SYSTEM_CALL_NS = 50_000

RCODES = {
    "NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5, "YXDOMAIN": 6, "YXRRSET": 7,
    "NXRRSET": 8, "NOTAUTH": 9, "NOTZONE": 10,
}  # fmt: skip


@dataclass(slots=True)
class ForwardOptions:
    """The plugin's options."""

    zone: str
    ignored: tuple[str, ...] = ()
    max_fails: int = 2
    expire_ns: int = 10 * NS_PER_S
    health_interval_ns: int = 500 * NS_PER_MS
    health_domain: str = "."
    health_recursion: bool = True
    force_tcp: bool = False
    prefer_udp: bool = False
    policy: str = "random"
    max_concurrent: int = 0
    failfast: bool = False
    failover: frozenset[int] = frozenset()
    alternate: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class Proxy:
    """One server that questions go to.

    Attributes:
        fails: Health checks that failed one after the other.
        probing: Whether one is under way.
    """

    address: str
    port: int
    options: ForwardOptions
    context: Setup
    fails: int = 0
    probing: bool = False

    @property
    def down(self) -> bool:
        """Whether it is taken to be dead."""
        return 0 < self.options.max_fails < self.fails

    def ask(self, exchange: Exchange, request: Message, *, force_tcp: bool) -> Work[Message | Failure]:
        """Send a request on, with an id of its own, and wait for the answer."""
        tcp = force_tcp or (exchange.tcp and not self.options.prefer_udp)
        size = size_of(request, exchange)
        own = request.copy()
        own.id = self.context.choices.below(f"{self.context.name}/dns.id", 1 << 16)
        try:
            query = own.pack()
        except WireError:
            return Failure.CLOSED
        answer = yield Ask(
            self.address, self.port, tcp, query, _READ_TIMEOUT_NS, size, owner=self, expire_ns=self.options.expire_ns
        )
        if isinstance(answer, Failure):
            return answer
        try:
            reply = unpack(answer if tcp else answer[:size])
        except WireError:
            if tcp or len(answer) < 12:
                return Failure.CLOSED
            # More than was asked for: an empty answer with TC makes the client come back over TCP.
            reply, _ = unpack_header(answer)
            reply.question = [question.copy() for question in own.question]
            reply.flags |= TC
        reply.id = request.id
        return reply

    def check_health(self) -> None:
        """Ask it for something every half second until it answers, unless that is being done already."""
        if self.options.max_fails and not self.probing:
            self.probing = True
            self.context.spawn(self._probe())

    def _probe(self) -> Work[None]:
        options = self.options
        while True:
            ping = Message(
                self.context.choices.below(f"{self.context.name}/dns.id", 1 << 16),
                RD if options.health_recursion else 0,
            )
            ping.question = [Question(options.health_domain, Type.NS)]
            answer = yield Ask(self.address, self.port, options.force_tcp, ping.pack(), _HEALTH_TIMEOUT_NS)
            if isinstance(answer, bytes):
                break
            self.fails += 1
            yield Pause(options.health_interval_ns)
        self.fails = 0
        self.probing = False


@dataclass(slots=True)
class Forward:
    """The plugin in its chain."""

    options: ForwardOptions
    proxies: tuple[Proxy, ...]
    context: Setup
    next: Handler | None = None
    concurrent: int = 0
    name: str = "forward"
    _robin: int = field(default=0)

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        if not self._takes(qname_lower(request)):
            return (yield from next_or_failure(self.next, self.name, exchange, write, request))
        limit = self.options.max_concurrent
        if 0 < limit <= self.concurrent:
            return Rcode.REFUSED, f"concurrent queries exceeded maximum {limit}"
        self.concurrent += 1
        try:
            return (yield from self._forward(exchange, write, request))
        finally:
            self.concurrent -= 1

    def _takes(self, name: str) -> bool:
        zone = self.options.zone
        if not dnsname.is_subdomain(zone, name):
            return False
        return name == zone or not any(dnsname.is_subdomain(ignored, name) for ignored in self.options.ignored)

    def _forward(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        order = self._order()
        deadline_ns = self.context.clock.now_ns + _DEADLINE_NS
        at = fails = 0
        failed = "no healthy proxies"
        while self.context.clock.now_ns < deadline_ns:
            if at >= len(order):
                at = fails = 0
            proxy = order[at]
            at += 1
            if proxy.down:
                fails += 1
                if fails < len(self.proxies):
                    continue
                if self.options.failfast:
                    break
                # All are dead, or the health check is: try any.
                proxy = self.proxies[self._below(len(self.proxies))]
            started_ns = self.context.clock.now_ns
            reply = yield from proxy.ask(exchange, request, force_tcp=self.options.force_tcp)
            if (
                isinstance(reply, Message)
                and reply.truncated
                and self.options.prefer_udp
                and not self.options.force_tcp
            ):
                reply = yield from proxy.ask(exchange, request, force_tcp=True)
            if isinstance(reply, Failure):
                failed = reply.value
                proxy.check_health()
                if fails < len(self.proxies):
                    # What fails at once is tried again at once, round and round, until the health check has counted
                    # enough failures or the deadline has passed. A system call takes some time, though.
                    if self.context.clock.now_ns == started_ns:
                        yield Pause(_SYSTEM_CALL_NS)
                    continue
                break
            if not matches(request, reply):
                write(request.reply(Rcode.FORMERR))
                return Rcode.NOERROR, ""
            if reply.rcode in self.options.failover and fails < len(self.proxies):
                fails += 1
                continue
            if reply.rcode in self.options.alternate and isinstance(self.next, Forward):
                return (yield from self.next.serve(exchange, write, request))
            write(reply)
            return Rcode.NOERROR, ""
        return Rcode.SERVFAIL, failed

    def _below(self, count: int) -> int:
        return self.context.choices.below(f"{self.context.name}/forward", count) if count > 1 else 0

    def _order(self) -> Sequence[Proxy]:
        proxies = self.proxies
        if self.options.policy == "round_robin":
            self._robin += 1
            first = self._robin % len(proxies)
            return [proxies[first], *proxies[:first], *proxies[first + 1 :]]
        if self.options.policy == "sequential" or len(proxies) == 1:
            return proxies
        if len(proxies) == 2:
            return proxies[::-1] if self._below(2) == 0 else proxies
        order = list(proxies)
        random.Random(self._below(1 << 32)).shuffle(order)
        return order


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read the plugin's options; each occurrence is a plugin of its own."""
    return [_link(_read(directive, context)) for directive in directives]


def _link(plugin: Forward) -> Link:
    def link(following: Handler | None) -> Handler:
        plugin.next = following
        return plugin

    return link


def _read(directive: Directive, context: Setup) -> Forward:
    args = directive.arguments(2, 1 << 30)
    try:
        zone = split_host_port(args[0].removeprefix("dns://"))[0][0]
    except ValueError as error:
        raise directive.error(str(error)) from None
    options = ForwardOptions(zone)
    for line in directive.body:
        _read_option(line, options)
    proxies = []
    for text in args[1:]:
        for address, port in _servers(directive, text, context):
            proxies.append(Proxy(address, port, options, context))
    if not proxies:
        raise directive.error("no nameservers found", "name one, or put one into resolv.conf")
    return Forward(options, tuple(proxies), context)


def _servers(directive: Directive, text: str, context: Setup) -> list[tuple[str, int]]:
    """The servers that an argument names: an address with or without a port, or a file like ``/etc/resolv.conf``."""
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme != "dns":
            raise directive.unsupported(f"forward to {scheme}://", "forward plain DNS")
        text = rest
    host, port = text, _DNS_PORT
    if text.startswith("["):
        host, _, tail = text[1:].partition("]")
        port = directive.number(tail.removeprefix(":"), 1, 65535) if tail else port
    elif text.count(":") == 1:
        host, _, tail = text.partition(":")
        port = directive.number(tail, 1, 65535)
    if dnsname.parse_ip(host.partition("%")[0]) is not None:
        return [(host.partition("%")[0], port)]
    if text == "/etc/resolv.conf":
        return [(server.partition("%")[0], _DNS_PORT) for server in parse_resolv_conf(context.resolv_conf).servers]
    if text.startswith("/"):
        raise directive.unsupported(f"forward to the servers of file {text}", "use /etc/resolv.conf or addresses")
    raise directive.error(f"not an IP address or file: {text!r}")


def _read_option(line: Property, options: ForwardOptions) -> None:
    name = line.name
    if name == "except":
        ignored: list[str] = []
        for text in line.arguments(1, 1 << 30):
            try:
                ignored.extend(split_host_port(text)[0])
            except ValueError as error:
                raise line.error(str(error)) from None
        options.ignored += tuple(ignored)
    elif name == "max_fails":
        options.max_fails = line.number(line.arguments(1)[0])
    elif name == "max_concurrent":
        options.max_concurrent = line.number(line.arguments(1)[0])
    elif name == "health_check":
        _read_health_check(line, options)
    elif name in ("force_tcp", "prefer_udp", "failfast_all_unhealthy_upstreams"):
        line.arguments(0)
        setattr(options, name if name != "failfast_all_unhealthy_upstreams" else "failfast", True)
    elif name == "expire":
        options.expire_ns = line.duration(line.arguments(1)[0])
        if options.expire_ns < 0:
            raise line.error("expire can't be negative")
    elif name == "policy":
        policy = line.arguments(1)[0]
        if policy not in ("random", "round_robin", "sequential"):
            raise line.error(f"unknown policy {policy!r}")
        options.policy = policy
    elif name in ("next", "failover"):
        codes = []
        for text in line.arguments(1, 1 << 30):
            code = int(text) if text.isdigit() else RCODES.get(text.upper())
            if code is None or (name == "next" and code == Rcode.NOERROR):
                raise line.error(f"{text} is not a valid rcode")
            codes.append(code)
        if name == "next":
            options.alternate |= frozenset(codes)
        else:
            options.failover |= frozenset(codes)
    elif name in ("tls", "tls_servername"):
        raise line.unsupported(f"forward option {name}", "forward plain DNS")
    else:
        raise line.error(f"unknown property {name!r} of forward")


def _read_health_check(line: Property, options: ForwardOptions) -> None:
    args = list(line.arguments(1, 4))
    options.health_interval_ns = line.duration(args.pop(0))
    if options.health_interval_ns < 0:
        raise line.error("health_check can't be negative")
    while args:
        word = args.pop(0)
        if word == "no_rec":
            options.health_recursion = False
        elif word == "domain" and args:
            options.health_domain = dnsname.normalize(args.pop(0))
        else:
            raise line.error(f"unknown option {word} of health_check")
