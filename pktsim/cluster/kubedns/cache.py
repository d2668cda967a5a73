"""The ``cache`` plugin.

Source: coredns v1.13.1, plugin/cache/{setup,cache,handler,item}.go, plugin/pkg/response/typify.go,
plugin/pkg/dnsutil/ttl.go.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pktsim.clock import NS_PER_S

from . import dnsname
from .corefile import Directive, Property, zones_from
from .plugin import (
    Exchange,
    Handler,
    Link,
    Outcome,
    Setup,
    Work,
    Write,
    matches,
    next_or_failure,
    qname_lower,
    wants_dnssec,
)
from .wire import AA, AD, CD, RA, RR, Message, Opcode, Rcode, Type

_MAX_TTL_S = 3600
_MIN_TTL_S = 5
_DEFAULT_CAPACITY = 10000
_MAX_SERVFAIL_NS = 300 * NS_PER_S


class Kind(enum.Enum):
    """What an answer is, as far as caching goes (``response.Type``)."""

    NOERROR = enum.auto()
    NXDOMAIN = enum.auto()
    SERVER_ERROR = enum.auto()
    NODATA = enum.auto()
    DELEGATION = enum.auto()
    META = enum.auto()
    UPDATE = enum.auto()
    OTHER = enum.auto()


_DENIALS = frozenset({Kind.NXDOMAIN, Kind.NODATA, Kind.SERVER_ERROR})


def classify(message: Message | None, unix_s: int) -> Kind:
    """Say what an answer is (``response.Typify``)."""
    if message is None:
        return Kind.OTHER
    if message.opcode == Opcode.UPDATE:
        return Kind.UPDATE
    if message.opcode == Opcode.NOTIFY:
        return Kind.META
    if message.question and message.question[0].type in (Type.AXFR, Type.IXFR):
        return Kind.META
    opt = message.opt
    if opt is not None and opt.do and _expired(message, unix_s):
        return Kind.OTHER
    if message.answer and message.rcode == Rcode.NOERROR:
        return Kind.NOERROR
    has_soa = any(record.type == Type.SOA for record in message.authority)
    if has_soa and message.rcode == Rcode.NOERROR:
        return Kind.NODATA
    if has_soa and message.rcode == Rcode.NXDOMAIN:
        return Kind.NXDOMAIN
    if message.rcode in (Rcode.SERVFAIL, Rcode.NOTIMP):
        return Kind.SERVER_ERROR
    if message.rcode == Rcode.NOERROR:
        delegates = any(record.type == Type.NS for record in message.authority)
        return Kind.DELEGATION if delegates else Kind.NOERROR
    return Kind.OTHER


def _expired(message: Message, unix_s: int) -> bool:
    """Whether a signature is not valid now (RFC 4034, section 3.1.5, serial number arithmetic)."""
    for section in (message.answer, message.authority, message.additional):
        for record in section:
            if record.type == Type.RRSIG and record.data and isinstance(record.data[0], bytes):
                expiration = int.from_bytes(record.data[0][8:12], "big")
                inception = int.from_bytes(record.data[0][12:16], "big")
                year68 = 1 << 31
                low = inception + (inception - unix_s) // year68 * year68
                high = expiration + (expiration - unix_s) // year68 * year68
                if not low <= unix_s <= high:
                    return True
    return False


def _minimal_ttl(message: Message, kind: Kind) -> int:
    """Seconds for which all of an answer is good."""
    if kind not in (Kind.NOERROR, Kind.NXDOMAIN, Kind.NODATA):
        return _MIN_TTL_S
    additional = message.additional
    only_opt = not additional or (len(additional) == 1 and additional[0].type == Type.OPT)
    if not message.answer and not message.authority and only_opt:
        return _MIN_TTL_S
    ttls = [record.ttl for part in (message.answer, message.authority, additional) for record in part
            if record.type != Type.OPT]  # fmt: skip
    return min([_MAX_TTL_S, *ttls])


def _with_ttl(records: list[RR], ttl: int) -> list[RR]:
    kept = []
    for record in records:
        if record.type != Type.OPT:
            twin = record.copy()
            twin.ttl = ttl & 0xFFFFFFFF
            kept.append(twin)
    return kept


#: Lower-case name, type, DO and CD.
_Key = tuple[str, int, bool, bool]


@dataclass(slots=True)
class _Item:
    """An answer that is kept."""

    rcode: int
    flags: int
    answer: list[RR]
    authority: list[RR]
    additional: list[RR]
    original_ttl_s: int
    stored_ns: int
    hits: int = 0
    last_hit_ns: int = 0

    def ttl(self, now_ns: int) -> int:
        """Seconds it is still good for; below 0 when stale."""
        elapsed = now_ns - self.stored_ns
        whole = elapsed // NS_PER_S if elapsed >= 0 else -(-elapsed // NS_PER_S)
        return self.original_ttl_s - whole

    def reply(self, request: Message, now_ns: int) -> Message:
        """The answer it is to ``request``."""
        # AA is always set, because some resolvers threw away what had it not (item.go, ``toMsg``).
        flags = AA | self.flags & RA
        if wants_dnssec(request) or request.flags & AD:
            flags |= self.flags & AD
        reply = request.reply(self.rcode, flags)
        ttl = self.ttl(now_ns)
        reply.answer = _with_ttl(self.answer, ttl)
        reply.authority = _with_ttl(self.authority, ttl)
        reply.additional = _with_ttl(self.additional, ttl)
        return reply


@dataclass(slots=True)
class CacheOptions:
    """The plugin's options; times in seconds unless the name says otherwise."""

    positive_ttl: int = _MAX_TTL_S
    negative_ttl: int = _MAX_TTL_S // 2
    min_positive_ttl: int = _MIN_TTL_S
    min_negative_ttl: int = _MIN_TTL_S
    servfail_ns: int = _MIN_TTL_S * NS_PER_S
    positive_capacity: int = _DEFAULT_CAPACITY
    negative_capacity: int = _DEFAULT_CAPACITY
    prefetch: int = 0
    prefetch_duration_ns: int = 60 * NS_PER_S
    prefetch_percentage: int = 10
    stale_ns: int = 0
    verify_stale: bool = False
    keep_ttl: bool = False
    no_positive: tuple[str, ...] = ()
    no_negative: tuple[str, ...] = ()


@dataclass(slots=True)
class Cache:
    """The plugin in its chain."""

    zones: tuple[str, ...]
    options: CacheOptions
    context: Setup
    next: Handler | None = None
    positive: dict[_Key, _Item] = field(default_factory=dict)
    negative: dict[_Key, _Item] = field(default_factory=dict)
    name: str = "cache"

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        copy = request.copy()
        if not dnsname.longest_zone(self.zones, qname_lower(copy)):
            return (yield from next_or_failure(self.next, self.name, exchange, write, copy))
        now_ns = self.context.clock.now_ns
        key = _key(copy)
        item = self._lookup(key, now_ns)
        if item is None:
            storing = self._storing(copy, key, write)
            return (yield from next_or_failure(self.next, self.name, exchange, storing, copy))
        ttl = item.ttl(now_ns)
        if ttl < 0:
            if self.options.verify_stale:
                verify = _Verify(self._storing(copy, key, write))
                outcome = yield from next_or_failure(self.next, self.name, exchange, verify, copy)
                if verify.refreshed:
                    return outcome
            else:
                self._prefetch(exchange, copy, key, item, now_ns + ttl * NS_PER_S)
            now_ns += ttl * NS_PER_S
        elif self._should_prefetch(item, now_ns):
            self._prefetch(exchange, copy, key, item, now_ns)
        write(item.reply(request, item.stored_ns if self.options.keep_ttl else now_ns))
        return Rcode.NOERROR, ""

    def _lookup(self, key: _Key, now_ns: int) -> _Item | None:
        stale_s = self.options.stale_ns // NS_PER_S
        for items in (self.negative, self.positive):
            item = items.get(key)
            if item is not None:
                ttl = item.ttl(now_ns)
                if ttl > 0 or (self.options.stale_ns > 0 and -ttl < stale_s):
                    return item
        return None

    def _should_prefetch(self, item: _Item, now_ns: int) -> bool:
        if self.options.prefetch <= 0:
            return False
        # freq.go: hits count from anew after a quiet time.
        if now_ns - self.options.prefetch_duration_ns > item.last_hit_ns:
            item.hits = 0
        item.hits += 1
        item.last_hit_ns = now_ns
        threshold = math.ceil(self.options.prefetch_percentage / 100 * item.original_ttl_s)
        return item.hits >= self.options.prefetch and item.ttl(now_ns) <= threshold

    def _prefetch(self, exchange: Exchange, request: Message, key: _Key, item: _Item, now_ns: int) -> None:
        # As if over TCP, so that nothing is cut off, and nobody gets the answer.
        inner = Exchange(exchange.server, True, exchange.source)
        own = request.copy()

        def work() -> Work[None]:
            storing = self._storing(own, key, None)
            yield from next_or_failure(self.next, self.name, inner, storing, own)
            fresh = self.negative.get(key) or self.positive.get(key)
            if fresh is not None:
                fresh.hits, fresh.last_hit_ns = item.hits, now_ns

        self.context.spawn(work())

    def _storing(self, request: Message, key: _Key, write: Write | None) -> Write:
        """A writer that keeps what passes through; without ``write`` nothing goes on from here."""
        want_ad = wants_dnssec(request) or bool(request.flags & AD)

        def store(original: Message) -> None:
            message = original.copy()
            options = self.options
            now_ns = self.context.clock.now_ns
            kind = classify(message, self.context.epoch_s + now_ns // NS_PER_S)
            ttl = _minimal_ttl(message, kind)
            if kind in (Kind.NXDOMAIN, Kind.NODATA):
                duration_s = min(max(ttl, options.min_negative_ttl), options.negative_ttl)
            elif kind is Kind.SERVER_ERROR:
                duration_s = options.servfail_ns // NS_PER_S
            else:
                duration_s = min(max(ttl, options.min_positive_ttl), options.positive_ttl)
            message.answer = _with_ttl(message.answer, duration_s)
            message.authority = _with_ttl(message.authority, duration_s)
            message.additional = _with_ttl(message.additional, duration_s)
            if not want_ad:
                message.flags &= ~AD
            keep = not message.truncated and kind not in (Kind.OTHER, Kind.META, Kind.UPDATE)
            lasting = duration_s > 0 or (kind is Kind.SERVER_ERROR and options.servfail_ns > 0)
            if keep and lasting and matches(request, message):
                self._keep(message, key, kind, duration_s, now_ns, prefetch=write is None)
            if write is not None:
                write(message)

        return store

    def _keep(self, message: Message, key: _Key, kind: Kind, duration_s: int, now_ns: int, *, prefetch: bool) -> None:
        options = self.options
        denial = kind in _DENIALS
        excepted = options.no_negative if denial else options.no_positive
        if dnsname.longest_zone(excepted, message.question[0].name):
            return
        item = _Item(
            message.rcode,
            message.flags,
            [record.copy() for record in message.answer],
            [record.copy() for record in message.authority],
            [record.copy() for record in message.additional],
            duration_s,
            now_ns,
        )
        items = self.negative if denial else self.positive
        capacity = options.negative_capacity if denial else options.positive_capacity
        if key not in items and len(items) >= max(capacity, 1):
            del items[self._evicted(items)]
        items[key] = item
        if prefetch and not denial:
            self.negative.pop(key, None)

    def _evicted(self, items: dict[_Key, _Item]) -> _Key:
        # The real cache has 256 shards and throws out of a full one what Go's map order gives first.
        keys = list(items)
        return keys[self.context.choices.below(f"{self.context.name}/cache/evicted", len(keys))]


class _Verify:
    """Lets only answers through that may replace a stale one (RFC 8767, section 4)."""

    __slots__ = ("_write", "refreshed")

    def __init__(self, write: Write) -> None:
        self._write = write
        self.refreshed = False

    def __call__(self, message: Message) -> None:
        self.refreshed = message.rcode in (Rcode.NOERROR, Rcode.NXDOMAIN)
        if self.refreshed:
            self._write(message)


def _key(request: Message) -> _Key:
    return (qname_lower(request), request.question[0].type, wants_dnssec(request), bool(request.flags & CD))


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read the plugin's options."""
    directive = directives[0]
    for other in directives[1:]:
        raise other.error("may stand in a server block only once")
    options = CacheOptions()
    args = directive.args
    if args and args[0].lstrip("+-").isdigit():
        options.positive_ttl = options.negative_ttl = directive.number(args[0], 1)
        args = args[1:]
    for line in directive.body:
        _read_option(line, options)
    cache = Cache(tuple(zones_from(args, context.block)), options, context)

    def link(following: Handler | None) -> Handler:
        cache.next = following
        return cache

    return [link]


def _read_option(line: Property, options: CacheOptions) -> None:
    if line.name in ("success", "denial"):
        args = line.arguments(1, 1 << 30)
        numbers = [
            line.number(args[0], -(1 << 31)),
            *(line.number(text, least) for text, least in zip(args[1:3], (1, 0), strict=False)),
        ]
        prefix = "positive" if line.name == "success" else "negative"
        setattr(options, f"{prefix}_capacity", numbers[0])
        if len(numbers) > 1:
            setattr(options, f"{prefix}_ttl", numbers[1])
        if len(numbers) > 2:
            setattr(options, f"min_{prefix}_ttl", numbers[2])
    elif line.name == "prefetch":
        args = line.arguments(1, 3)
        options.prefetch = line.number(args[0])
        if len(args) > 1:
            options.prefetch_duration_ns = line.duration(args[1])
        if len(args) > 2:
            if not args[2].endswith("%"):
                raise line.error(f"last character of percentage should be '%', not in {args[2]!r}")
            options.prefetch_percentage = line.number(args[2].removesuffix("%"), 10, 90)
    elif line.name == "serve_stale":
        args = line.arguments(0, 2)
        options.stale_ns = line.duration(args[0]) if args else 3600 * NS_PER_S
        if options.stale_ns < 0:
            raise line.error("invalid negative duration for serve_stale")
        mode = args[1].lower() if len(args) > 1 else "immediate"
        if mode not in ("immediate", "verify"):
            raise line.error(f"invalid value for serve_stale refresh mode: {mode}")
        options.verify_stale = mode == "verify"
    elif line.name == "servfail":
        options.servfail_ns = line.duration(line.arguments(1)[0])
        if not 0 <= options.servfail_ns <= _MAX_SERVFAIL_NS:
            raise line.error("a SERVFAIL may be kept for 0 to 5m (RFC 2308)")
    elif line.name == "disable":
        args = line.arguments(1, 1 << 30)
        zones = tuple(dnsname.normalize(zone) for zone in args[1:]) or (".",)
        if args[0] == "success":
            options.no_positive = zones
        elif args[0] == "denial":
            options.no_negative = zones
        else:
            raise line.error(f"cache type for disable must be success or denial, not {args[0]!r}")
    elif line.name == "keepttl":
        line.arguments(0)
        options.keep_ttl = True
    else:
        raise line.error(f"unknown property {line.name!r} of cache")
