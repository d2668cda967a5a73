"""The ``kubernetes`` plugin: names of services, endpoints and pods, and the way back from addresses.

Source: coredns v1.13.1, plugin/kubernetes/{setup,handler,kubernetes,autopath}.go, plugin/backend_lookup.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pktsim.clock import NS_PER_S

from . import dnsname
from .corefile import Directive, Property, zones_from
from .names import InvalidName, is_default_ns, parse_request
from .plugin import (
    Exchange,
    Fallthrough,
    Handler,
    Link,
    Outcome,
    Setup,
    Work,
    Write,
    next_or_failure,
    qname,
    qname_lower,
    with_question,
)
from .records import NO_PORT, ClusterRecords, Found, NotFound, RecordOptions
from .resolvconf import parse_resolv_conf
from .selector import parse_selector
from .wire import AA, RR, TC, Message, Rcode, Type, a_record, soa_record, srv_record, text_data

#: TTL where the configuration names none.
DEFAULT_TTL = 5
#: TTL of a SOA record, at most.
_SOA_TTL = 300
#: ``dns-version.ZONE`` (the DNS specification's version).
_SCHEMA_VERSION = "1.1.0"
_SCHEMA_TTL = 28800
#: CNAMEs that are followed before a chain is given up.
_MAX_CNAMES = 10


@dataclass(frozen=True, slots=True)
class _State:
    """A request and the zone it falls into, which is spelled as in the query."""

    request: Message
    zone: str

    @property
    def qname(self) -> str:
        return qname(self.request)

    @property
    def name(self) -> str:
        return qname_lower(self.request)

    @property
    def type(self) -> int:
        return self.request.question[0].type


class Kubernetes:
    """The plugin in its chain."""

    name = "kubernetes"

    def __init__(
        self,
        zones: Sequence[str],
        records: ClusterRecords,
        *,
        ttl: int,
        fallthrough: Fallthrough,
        own_addresses: Sequence[str],
        search: Sequence[str],
    ) -> None:
        self.zones = tuple(zones)
        self.records = records
        self.ttl = ttl
        self.fallthrough = fallthrough
        self.own_addresses = tuple(own_addresses)
        self.search = tuple(search)
        self.next: Handler | None = None
        self._primary = next(zone for zone in self.zones if not dnsname.is_reverse(zone))

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        name = qname(request)
        zone = dnsname.longest_zone(self.zones, name)
        if not zone:
            return (yield from next_or_failure(self.next, self.name, exchange, write, request))
        state = _State(request, name[len(name) - len(zone) :])
        records: list[RR] = []
        extra: list[RR] = []
        truncated = False
        qtype = state.type
        try:
            if qtype in (Type.A, Type.AAAA):
                records, truncated = yield from self._addresses(exchange, state, [])
            elif qtype == Type.TXT:
                records = self._texts(state)
            elif qtype == Type.CNAME:
                records = self._cname(state)
            elif qtype == Type.PTR:
                records = self._pointers(state)
            elif qtype == Type.MX:
                self._find(state)  # nothing in a cluster is a mail server
            elif qtype == Type.SRV:
                records, extra = self._services(state)
            elif qtype == Type.SOA:
                if name == state.zone:
                    records = [self._soa(state.zone)]
            elif qtype in (Type.AXFR, Type.IXFR):
                return Rcode.REFUSED, ""
            elif qtype == Type.NS and state.name == state.zone:
                records, extra = self._name_servers(state)
            else:
                # A lookup of an address tells names that exist from those that do not.
                fake = _State(with_question(request, name, Type.A), state.zone)
                yield from self._addresses(exchange, fake, [])
        except (NotFound, InvalidName):
            if self.fallthrough.through(state.name):
                return (yield from next_or_failure(self.next, self.name, exchange, write, request))
            self._deny(write, state, Rcode.NXDOMAIN)
            return Rcode.NOERROR, ""
        if not records:
            self._deny(write, state, Rcode.NOERROR)
            return Rcode.NOERROR, ""
        reply = request.reply(flags=AA | TC if truncated else AA)
        reply.answer = records
        reply.additional = extra
        write(reply)
        return Rcode.NOERROR, ""

    def auto_path(self, exchange: Exchange, request: Message) -> list[str]:
        """The search list of the pod that asks, for the ``autopath`` plugin; empty if there is none to follow."""
        zone = dnsname.longest_zone(self.zones, qname_lower(request))
        if not zone or self.records.options.pods != "verified":
            return []
        pods = self.records.pods.at(exchange.source)
        if not pods:
            return []
        namespace = pods[0].namespace
        if zone == ".":
            own = [f"{namespace}.svc.", "svc.", "."]
        else:
            own = [f"{namespace}.svc.{zone}", f"svc.{zone}", zone]
        return [*own, *self.search, ""]

    def _soa(self, zone: str) -> RR:
        numbers = (self.records.modified_s & 0xFFFFFFFF, 7200, 1800, 86400, self.ttl)
        mname, rname = dnsname.join("ns.dns", zone), dnsname.join("hostmaster", zone)
        return soa_record(zone, min(self.ttl, _SOA_TTL), mname, rname, numbers)

    def _deny(self, write: Write, state: _State, rcode: Rcode) -> None:
        reply = state.request.reply(rcode, AA)
        reply.authority = [self._soa(state.zone)]
        write(reply)

    def _record(self, name: str, type: int, found: Found, data: tuple[bytes | str, ...]) -> RR:
        return RR(name, type, self.ttl if found.ttl is None else found.ttl, data)

    def _records(self, state: _State) -> list[Found]:
        request = parse_request(state.name, state.zone)
        if not request.kind:
            return []
        if dnsname.is_reverse(state.name):
            raise NotFound
        return self.records.find(request)

    def _find(self, state: _State) -> list[Found]:
        """What there is for a name and type (``Services``)."""
        qtype = state.type
        if qtype == Type.TXT:
            base = dnsname.trim_zone(state.name, state.zone) or ""
            if dnsname.split(base) == ["dns-version"]:
                return [Found("", text=_SCHEMA_VERSION, ttl=_SCHEMA_TTL)]
            if self._records(state):
                return []
            raise NotFound
        if is_default_ns(state.name, state.zone):
            length = {Type.A: 4, Type.AAAA: 16}.get(Type(qtype)) if qtype in (Type.A, Type.AAAA) else None
            servers = self.records.name_servers(self.own_addresses, state.zone)
            return [
                Found(ip, labels=("ns", "dns"))
                for _, ip in servers
                if length is not None and len(dnsname.parse_ip(ip) or b"") == length
            ]
        found = self._records(state)
        if qtype == Type.SRV:
            return [one for one in found if dnsname.parse_ip(one.host) is not None]
        return found

    def _addresses(self, exchange: Exchange, state: _State, previous: list[RR]) -> Work[tuple[list[RR], bool]]:
        """A or AAAA records, and whether some were left out (``plugin.A``, ``plugin.AAAA``)."""
        octets = 4 if state.type == Type.A else 16
        records: list[RR] = []
        truncated = False
        seen: set[str] = set()
        for found in self._find_at_apex(state):
            packed = dnsname.parse_ip(found.host)
            if packed is not None:
                if len(packed) == octets and found.host not in seen:
                    seen.add(found.host)
                    records.append(self._record(state.qname, state.type, found, (packed,)))
                continue
            target = dnsname.fqdn(found.host)
            if dnsname.is_subdomain(state.name, target):
                continue  # a CNAME to itself, or to a name below itself
            cname = self._record(state.qname, Type.CNAME, found, (target,))
            if len(previous) > _MAX_CNAMES or any(one.data == cname.data for one in previous):
                continue
            if dnsname.is_subdomain(state.zone, target):
                inner = _State(with_question(state.request, target, state.type), state.zone)
                try:
                    more, inner_truncated = yield from self._addresses(exchange, inner, [*previous, cname])
                except (NotFound, InvalidName):
                    continue
                if more:
                    records += [cname, *more]
                truncated = truncated or inner_truncated
                continue
            reply = yield from exchange.server.lookup(exchange, state.request, target, state.type)
            if reply is not None:
                truncated = truncated or reply.truncated
                records += [cname, *reply.answer]
        return records, truncated

    def _find_at_apex(self, state: _State) -> list[Found]:
        # ``checkForApex``: records of the zone itself would live at apex.dns. None ever do here, so that only the
        # second look-up remains, and it finds that the zone exists.
        return self._find(state)

    def _texts(self, state: _State) -> list[RR]:
        return [
            self._record(state.qname, Type.TXT, found, (text_data(found.text.encode("ascii")),))
            for found in self._find(state)
        ]

    def _cname(self, state: _State) -> list[RR]:
        for found in self._find(state):
            if dnsname.parse_ip(found.host) is None:
                return [self._record(state.qname, Type.CNAME, found, (dnsname.fqdn(found.host),))]
            break
        return []

    def _pointers(self, state: _State) -> list[RR]:
        ip = dnsname.address_of_reverse(state.name)
        if not ip:
            self._records(state)
            return []
        names = dict.fromkeys(self.records.find_reverse(ip, self._primary))
        return [RR(state.qname, Type.PTR, self.ttl, (name,)) for name in names]

    def _services(self, state: _State) -> tuple[list[RR], list[RR]]:
        """SRV records and the addresses of their targets (``plugin.SRV``)."""
        found = self._find(state)
        records: list[RR] = []
        extra: list[RR] = []
        seen_ports: set[tuple[str, int]] = set()
        seen_addresses: set[tuple[str, str]] = set()
        # Each has weight 100 of all, counted before duplicates go.
        weight = max(1, int(100.0 / (100.0 * len(found)) * 100)) if found else 0
        for one in found:
            packed = dnsname.parse_ip(one.host)
            if one.port == NO_PORT or packed is None:
                continue
            target = dnsname.join(*one.labels, state.zone)
            if (target, one.port) not in seen_ports:
                seen_ports.add((target, one.port))
                records.append(srv_record(state.qname, self.ttl, 0, weight, one.port, target))
            if (target, one.host) not in seen_addresses:
                seen_addresses.add((target, one.host))
                extra.append(a_record(target, self.ttl, packed))
        return records, extra

    def _name_servers(self, state: _State) -> tuple[list[RR], list[RR]]:
        records: list[RR] = []
        extra: list[RR] = []
        seen: set[str] = set()
        for name, ip in self.records.name_servers(self.own_addresses, state.zone):
            packed = dnsname.parse_ip(ip)
            if packed is None:
                continue
            extra.append(a_record(name, self.ttl, packed))
            if name not in seen:
                seen.add(name)
                records.append(RR(state.qname, Type.NS, self.ttl, (name,)))
        return records, extra


#: Options that say how to reach the API server, which is not modelled as something that can be out of reach.
_CONNECTION = frozenset({"endpoint", "tls", "kubeconfig", "startup_timeout"})


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read the plugin's options."""
    directive = directives[0]
    for other in directives[1:]:
        raise other.error("may stand in a server block only once")
    zones = zones_from(directive.args, context.block)
    if all(dnsname.is_reverse(zone) for zone in zones):
        raise directive.error("needs a zone that is not a reverse zone")
    options = RecordOptions()
    ttl = DEFAULT_TTL
    fallthrough = Fallthrough()
    for line in directive.body:
        if line.name == "ttl":
            ttl = line.number(line.arguments(1)[0], 0, 3600)
        elif line.name == "fallthrough":
            fallthrough = read_fallthrough(line, context)
        elif line.name not in _CONNECTION:
            _read_option(line, options)
    if options.namespaces and options.namespace_labels:
        raise directive.error("namespaces and namespace_labels cannot both be set")
    records = ClusterRecords(
        options,
        context.choices,
        f"{context.name}/kubernetes",
        lambda: context.epoch_s + context.clock.now_ns // NS_PER_S,
    )
    context.watchers.append(records.observe)
    plugin = Kubernetes(
        zones,
        records,
        ttl=ttl,
        fallthrough=fallthrough,
        own_addresses=context.addresses,
        search=[dnsname.normalize(name) for name in parse_resolv_conf(context.resolv_conf).search],
    )

    def link(following: Handler | None) -> Handler:
        plugin.next = following
        return plugin

    return [link]


def read_fallthrough(line: Property, context: Setup) -> Fallthrough:
    """The zones of a ``fallthrough`` line; all names if it has none."""
    return Fallthrough(zones_from(line.args, context.block) if line.args else (".",))


def _read_option(line: Property, options: RecordOptions) -> None:
    if line.name == "pods":
        mode = line.arguments(1)[0]
        if mode not in ("disabled", "insecure", "verified"):
            raise line.error(f"wrong value for pods: {mode}", "must be disabled, verified or insecure")
        options.pods = mode
    elif line.name == "endpoint_pod_names":
        line.arguments(0)
        options.endpoint_pod_names = True
    elif line.name == "namespaces":
        options.namespaces = options.namespaces | set(line.arguments(1, 1 << 30))
    elif line.name in ("labels", "namespace_labels"):
        try:
            requirements = parse_selector(" ".join(line.arguments(1, 1 << 30)))
        except ValueError as error:
            raise line.error(str(error)) from None
        if line.name == "labels":
            options.labels = requirements
        else:
            options.namespace_labels = requirements
    elif line.name == "noendpoints":
        line.arguments(0)
        options.endpoints = False
    elif line.name == "ignore":
        for what in line.args[:1]:
            if what != "empty_service":
                raise line.error(f"unable to parse ignore value: {what!r}")
            options.ignore_empty_service = True
    elif line.name == "multicluster":
        raise line.unsupported("kubernetes option multicluster", "remove it and its zones")
    else:
        raise line.error(f"unknown property {line.name!r} of kubernetes")
