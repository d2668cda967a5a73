"""``pktsim dig``: what kube-dns answers to a pod, and what the pod's resolver does to get there.

Two programs run in the pod, one after the other, and all they say goes over the emulated network: one that calls
``getaddrinfo``, as an application does, and ``dig +search``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.cluster.cluster import Cluster
from pktsim.cluster.exchanges import DnsExchange, dns_exchanges
from pktsim.cluster.kubedns import dnsname, wire
from pktsim.cluster.machines import Machine, PodMachine
from pktsim.cluster.programs import GetaddrinfoAnswer, getaddrinfo
from pktsim.cluster.resolver.conf import ResolverConfig, parse_glibc, parse_musl
from pktsim.cluster.resolver.dig import DigAnswer, DigOptions, dig, dig_query, type_number
from pktsim.cluster.walk import Walk
from pktsim.errors import PktsimError, TopologyError
from pktsim.kernel import task

#: Types that ``getaddrinfo`` asks for.
_ADDRESS_TYPES = ("A", "AAAA")
#: Both programs give up long before.
_LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class DigReport:
    """What came of it.

    Attributes:
        source: Who asked.
        libc: Its C library.
        config: What that library read in ``/etc/resolv.conf``.
        name, rrtype: What was asked for.
        answer: What dig prints, and its exit status.
        resolved: What ``getaddrinfo`` gave; ``None`` for types that it does not ask for.
        resolver_queries: What it sent and heard.
        dig_queries: The same of dig.
        walk: What nodes did to dig's packets.
    """

    source: str
    libc: str
    config: ResolverConfig
    name: str
    rrtype: str
    answer: DigAnswer
    resolved: GetaddrinfoAnswer | None
    resolver_queries: tuple[DnsExchange, ...]
    dig_queries: tuple[DnsExchange, ...]
    walk: Walk = field(compare=False)

    @property
    def found(self) -> bool:
        """Whether there are records of that type."""
        if self.answer.reply is None:
            return False
        message = wire.unpack(self.answer.reply)
        wanted = type_number(self.rrtype)
        return message.rcode == wire.Rcode.NOERROR and any(
            wanted in (record.type, wire.Type.ANY) for record in message.answer
        )

    def lines(self) -> Iterator[str]:
        """dig's output; the resolver's way behind it as comments, so that what reads dig's output can read this."""
        yield from self.answer.text.removesuffix("\n").split("\n")
        config = self.config
        search = " ".join(config.search) or "none"
        yield f";; RESOLVER of {self.source} ({self.libc}): search {search}; ndots:{config.ndots}"
        queries = self.dig_queries if self.resolved is None else self.resolver_queries
        if self.resolved is None:
            yield f";; getaddrinfo does not ask for {self.rrtype}; dig +search sent:"
        began_ns = queries[0].at_ns if queries else 0
        for query in queries:
            servers = f" [{', then '.join(query.answered_by)}]" if query.answered_by else ""
            yield f";; {(query.at_ns - began_ns) / NS_PER_MS:10.3f} ms  {query.text()}{servers}"
        if self.resolved is not None:
            number = f"{len(queries)} quer{'y' if len(queries) == 1 else 'ies'}"
            result = ", ".join(self.resolved.addresses) or self.resolved.error
            yield f";; getaddrinfo({self.name}): {result} ({number})"

    def as_data(self) -> dict[str, Any]:
        """The report for machines."""
        resolved = self.resolved
        return {
            "from": self.source,
            "name": self.name,
            "type": self.rrtype,
            "found": self.found,
            "exit": self.answer.exit,
            "text": self.answer.text,
            "queries": [_query_data(query) for query in self.dig_queries],
            "resolver": {
                "libc": self.libc,
                "servers": list(self.config.servers),
                "search": list(self.config.search),
                "ndots": self.config.ndots,
                "queries": [_query_data(query) for query in self.resolver_queries],
                "addresses": None if resolved is None else list(resolved.addresses),
                "error": "" if resolved is None else resolved.error,
            },
        }


def _query_data(query: DnsExchange) -> dict[str, Any]:
    data = asdict(query)
    data["client"] = {"address": query.client[0], "port": query.client[1]}
    return {**data, "outcome": query.outcome}


def dig_from(cluster: Cluster, name: str, rrtype: str = "", source: str = "") -> DigReport:
    """Ask for a name from a machine.

    Args:
        name: As it would be written in that pod; an address is asked for its name, as ``dig -x`` does.
        rrtype: ``A`` if it is empty, ``PTR`` for an address.
        source: A pod, a node or ``outside``; the first pod that is not kube-dns if it is empty.

    Raises:
        TopologyError: There is no such machine.
        UnsupportedFeature: There is no such type.
        PktsimError: No message can hold that name.
    """
    machine = cluster.machine(source) if source else _first_pod(cluster)
    reverse = dnsname.parse_ip(name) is not None and rrtype in ("", "PTR")
    asked = dnsname.reverse_name(name) if reverse else name
    rrtype = rrtype.upper() or ("PTR" if reverse else "A")
    _check_legal(name, asked, type_number(rrtype))
    files = machine.files
    config = (parse_musl if files.libc == "musl" else parse_glibc)(files.resolv_conf)
    clock = cluster.clock
    resolved = None
    first = len(cluster.capture.frames)
    if rrtype in _ADDRESS_TYPES:
        work = getaddrinfo(machine.netns, name, files)
        resolved = task.run(clock, work, f"{machine.name}: getaddrinfo", limit_ns=_LIMIT_S * NS_PER_S)
    middle = len(cluster.capture.frames)
    options = DigOptions(asked, rrtype, search=True, arguments=f"+search {asked} {rrtype}")
    with cluster.record() as recorder:
        digging = dig(machine.netns.sockets, options, files.resolv_conf)
        answer = task.run(clock, digging, f"{machine.name}: dig", limit_ns=_LIMIT_S * NS_PER_S)
    frames = cluster.capture.frames
    walk = recorder.walk(f"{machine.name} asks for {asked} {rrtype}", "", delivered=not answer.exit)
    return DigReport(
        machine.name,
        files.libc,
        config,
        asked,
        rrtype,
        answer,
        resolved,
        tuple(dns_exchanges(frames[first:middle], machine.name)),
        tuple(dns_exchanges(frames[middle:], machine.name)),
        walk,
    )


def _check_legal(name: str, asked: str, number: int) -> None:
    try:
        dig_query(asked, number, 0)
    except wire.WireError as error:
        raise PktsimError(f"{name!r} is not a legal name: {error}") from None


def _first_pod(cluster: Cluster) -> Machine:
    for pod in cluster.pods:
        if isinstance(pod, PodMachine) and not cluster.serves_dns(pod.pod):
            return pod
    raise TopologyError("there is no pod to ask from", mend="add a pod, or say --from NODE")
