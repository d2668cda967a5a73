"""The cluster's objects as the DNS pod remembers them, and the records that they make.

Source: coredns v1.13.1, plugin/kubernetes/controller.go, object/*.go, kubernetes.go, reverse.go, ns.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from pktsim.rng import Choices

from ..objects import CLUSTER_IP_NONE, EndpointSlice, KubeObject, Namespace, Pod, Service
from ..objects_meta import LabelSelectorRequirement as Requirement
from ..store import EventType, WatchEvent
from . import dnsname
from .names import DEFAULT_NS, POD, SVC, RecordRequest
from .plugin import map_order

#: A port that stands for "none were declared".
NO_PORT = -1


class NotFound(Exception):
    """There is no such name: NXDOMAIN, or the next plugin's turn."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a service or a slice."""

    name: str
    protocol: str
    port: int


_NO_PORTS = (Port("", "", NO_PORT),)


class Remembered(Protocol):
    """What an :class:`Index` holds: it has a key, and keys by which it is found."""

    @property
    def key(self) -> str:
        """Namespace and name."""
        ...

    @property
    def index(self) -> str:
        """``SERVICE.NAMESPACE``."""
        ...

    @property
    def ips(self) -> tuple[str, ...]:
        """Addresses by which it is found."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """What is remembered of a service."""

    name: str
    namespace: str
    type: str
    cluster_ips: tuple[str, ...]
    external_name: str
    ports: tuple[Port, ...]

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def index(self) -> str:
        return f"{self.name}.{self.namespace}"

    @property
    def ips(self) -> tuple[str, ...]:
        return self.cluster_ips

    @property
    def headless(self) -> bool:
        """Whether its endpoints are its addresses."""
        return self.cluster_ips[0] == CLUSTER_IP_NONE


@dataclass(frozen=True, slots=True)
class Address:
    """A ready endpoint's address."""

    ip: str
    hostname: str
    target: str


@dataclass(frozen=True, slots=True)
class EndpointsEntry:
    """What is remembered of a slice: its ready endpoints."""

    name: str
    namespace: str
    service: str
    addresses: tuple[Address, ...]
    ports: tuple[Port, ...]

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def index(self) -> str:
        return f"{self.service}.{self.namespace}"

    @property
    def ips(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(address.ip for address in self.addresses))


@dataclass(frozen=True, slots=True)
class PodEntry:
    """What is remembered of a pod."""

    name: str
    namespace: str
    ip: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def index(self) -> str:
        return ""

    @property
    def ips(self) -> tuple[str, ...]:
        return (self.ip,)


def service_entry(found: Service) -> ServiceEntry:
    """Remember a service (object/service.go)."""
    spec = found.spec
    ports = tuple(Port(port.name, port.protocol, port.port) for port in spec.ports)
    return ServiceEntry(
        found.name,
        found.namespace,
        spec.type,
        spec.cluster_ips or (spec.cluster_ip,),
        spec.external_name,
        ports or _NO_PORTS,
    )


def endpoints_entry(found: EndpointSlice) -> EndpointsEntry:
    """Remember a slice's ready endpoints (object/endpoint.go). Not knowing whether one is ready counts as ready."""
    ports = tuple(Port(port.name, port.protocol, NO_PORT if port.port is None else port.port) for port in found.ports)
    addresses = []
    for endpoint in found.endpoints:
        if endpoint.conditions.ready is False:
            continue
        target = endpoint.target_ref.name if endpoint.target_ref is not None else ""
        for ip in endpoint.addresses:
            # A name of more than 63 characters is no label.
            addresses.append(Address(ip, endpoint.hostname or "", target if len(target) < 64 else ""))
    return EndpointsEntry(found.name, found.namespace, found.service_name, tuple(addresses), ports or _NO_PORTS)


_Entry = TypeVar("_Entry", bound=Remembered)


class Index(Generic[_Entry]):
    """Entries by key, by service and by address, each in the order in which they came."""

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        self._by_index: dict[str, dict[str, _Entry]] = {}
        self._by_ip: dict[str, dict[str, _Entry]] = {}

    def set(self, entry: _Entry) -> _Entry | None:
        """Remember ``entry``; returns what it replaces."""
        old = self.entries.get(entry.key)
        if old is not None and (old.index, old.ips) != (entry.index, entry.ips):
            self._unlink(old)
        self.entries[entry.key] = entry
        self._by_index.setdefault(entry.index, {})[entry.key] = entry
        for ip in entry.ips:
            self._by_ip.setdefault(ip, {})[entry.key] = entry
        return old

    def remove(self, key: str) -> _Entry | None:
        """Forget what ``key`` names; returns it."""
        old = self.entries.pop(key, None)
        if old is not None:
            self._unlink(old)
        return old

    def _unlink(self, entry: _Entry) -> None:
        for table, name in ((self._by_index, entry.index), *((self._by_ip, ip) for ip in entry.ips)):
            table[name].pop(entry.key, None)
            if not table[name]:
                del table[name]

    def of(self, index: str) -> list[_Entry]:
        """Those of a service."""
        return list(self._by_index.get(index, {}).values())

    def at(self, ip: str) -> list[_Entry]:
        """Those with an address."""
        return list(self._by_ip.get(ip, {}).values())


@dataclass(frozen=True, slots=True)
class Found:
    """One answer to a :class:`~.names.RecordRequest` (``msg.Service``).

    Attributes:
        host: An address, or a name for a CNAME.
        port: For SRV.
        labels: What stands before the zone in the name under which the address lives.
        text: For TXT.
        ttl: If not the usual one.
    """

    host: str
    port: int = 0
    labels: tuple[str, ...] = ()
    text: str = ""
    ttl: int | None = None


def _same(a: str, b: str) -> bool:
    return a == b or a.lower() == b.lower()


def _port_matches(request: RecordRequest, port: Port) -> bool:
    return (not request.port or _same(request.port, port.name)) and (
        not request.protocol or _same(request.protocol, port.protocol)
    )


@dataclass(slots=True)
class RecordOptions:
    """The options of the ``kubernetes`` plugin that decide which records there are."""

    pods: str = "disabled"
    namespaces: frozenset[str] = frozenset()
    labels: tuple[Requirement, ...] = ()
    namespace_labels: tuple[Requirement, ...] = ()
    endpoints: bool = True
    endpoint_pod_names: bool = False
    ignore_empty_service: bool = False


@dataclass(slots=True)
class ClusterRecords:
    """The records of a cluster.

    Attributes:
        options: Which there are.
        choices: Decides between orders where Go's maps do.
        place: Prefix of the places of those choices.
        now_s: Unix time.
        modified_s: When the records last changed: the serial.
    """

    options: RecordOptions
    choices: Choices
    place: str
    now_s: Callable[[], int]
    modified_s: int = 0
    services: Index[ServiceEntry] = field(default_factory=Index)
    slices: Index[EndpointsEntry] = field(default_factory=Index)
    pods: Index[PodEntry] = field(default_factory=Index)
    namespaces: set[str] = field(default_factory=set)

    def observe(self, event: WatchEvent) -> None:
        """Take notice of a change; an object that the label selectors do not choose is as good as deleted."""
        found = event.object
        gone = event.type is EventType.DELETED
        options = self.options
        if isinstance(found, Namespace):
            if gone or not _chosen(options.namespace_labels, found):
                self.namespaces.discard(found.name)
            else:
                self.namespaces.add(found.name)
            return
        gone = gone or not _chosen(options.labels, found)
        if isinstance(found, Service):
            self._change(self.services, found, None if gone else service_entry(found))
        elif isinstance(found, EndpointSlice):
            if options.endpoints:
                self._change(self.slices, found, None if gone else endpoints_entry(found))
        elif isinstance(found, Pod) and options.pods == "verified":
            over = found.status.phase in ("Succeeded", "Failed", "Unknown")
            if found.terminating and not (gone or over):
                return  # object/informer.go: the last state from before stays until the pod is gone
            entry = None if gone or over else PodEntry(found.name, found.namespace, found.status.pod_ip)
            self._change(self.pods, found, entry)

    def _change(self, index: Index[_Entry], found: KubeObject, entry: _Entry | None) -> None:
        old = index.remove(f"{found.namespace}/{found.name}") if entry is None else index.set(entry)
        if old is None and entry is None:
            return
        if old is not None and entry is not None and not _differs(old, entry):
            return
        self.modified_s = self.now_s()

    def exposed(self, namespace: str) -> bool:
        """Whether names of a namespace are served: it exists, and the configuration does not leave it out."""
        configured = not self.options.namespaces or namespace in self.options.namespaces
        return configured and namespace in self.namespaces

    def endpoint_name(self, address: Address) -> str:
        """The label of an endpoint: its hostname, its pod's name if wanted, or its address with dashes."""
        if address.hostname:
            return address.hostname
        if self.options.endpoint_pod_names and address.target:
            return address.target
        if "." in address.ip:
            return address.ip.replace(".", "-")
        if ":" in address.ip:
            text = address.ip.replace(":", "-")
            return text + "0" if text.endswith("-") else text
        return ""

    def find(self, request: RecordRequest) -> list[Found]:
        """The records that a name has; none means that it exists all the same.

        Raises:
            NotFound: It does not.
        """
        if not request.kind:
            return []
        if not self.exposed(request.namespace):
            raise NotFound
        return self._find_pods(request) if request.kind == POD else self._find_services(request)

    def _find_pods(self, request: RecordRequest) -> list[Found]:
        mode = self.options.pods
        if mode == "disabled":
            raise NotFound
        label = request.service
        if not label:
            return []
        dashes = label.count("-")
        ip = label.replace("-", "." if dashes == 3 and "--" not in label else ":")
        labels = (label, request.namespace, POD)
        if mode == "insecure":
            if dnsname.parse_ip(ip) is None:
                raise NotFound
            return [Found(ip, labels=labels)]
        found = [Found(ip, labels=labels) for pod in self.pods.at(ip) if _same(request.namespace, pod.namespace)]
        if not found:
            raise NotFound
        return found

    def _find_services(self, request: RecordRequest) -> list[Found]:
        if not request.service:
            return []
        index = f"{request.service}.{request.namespace}"
        found: list[Found] = []
        exists = False
        for service in self.services.of(index):
            external = service.type == "ExternalName"
            may_be_ignored = self.options.ignore_empty_service and not external and not service.headless
            if may_be_ignored and not any(entry.addresses for entry in self.slices.of(index)):
                continue
            labels = (service.name, service.namespace, SVC)
            if external:
                # Endpoints and ports below an external name make no sense, and an address is no name.
                if request.endpoint or request.port or request.protocol:
                    continue
                if dnsname.parse_ip(service.external_name) is None:
                    found.append(Found(service.external_name, labels=labels))
                    exists = True
            elif service.headless or request.endpoint:
                for one in self._find_endpoints(request, index, labels):
                    found.append(one)
                    exists = True
            else:
                for port in service.ports:
                    if _port_matches(request, port):
                        exists = True
                        found.extend(Found(ip, port.port, labels) for ip in service.cluster_ips)
        if not exists:
            raise NotFound
        return found

    def _find_endpoints(self, request: RecordRequest, index: str, labels: tuple[str, ...]) -> Iterator[Found]:
        slices = map_order(self.slices.of(index), self.choices, f"{self.place}/slices")
        for entry in slices:
            for address in entry.addresses:
                name = self.endpoint_name(address)
                if request.endpoint and not _same(request.endpoint, name):
                    continue
                for port in entry.ports:
                    if _port_matches(request, port):
                        yield Found(address.ip, port.port, (name, *labels) if name else labels)

    def find_reverse(self, ip: str, primary_zone: str) -> list[str]:
        """The names of an address: its service's, else one for each slice that has it.

        Raises:
            NotFound: It has none.
        """
        limited = bool(self.options.namespaces)
        for service in map_order(self.services.at(ip), self.choices, f"{self.place}/services"):
            if not limited or self.exposed(service.namespace):
                return [dnsname.join(service.name, service.namespace, SVC, primary_zone)]
        names = []
        for entry in map_order(self.slices.at(ip), self.choices, f"{self.place}/slices"):
            if limited and not self.exposed(entry.namespace):
                continue
            for address in entry.addresses:
                if address.ip == ip:
                    names.append(dnsname.join(self.endpoint_name(address), entry.index, SVC, primary_zone))
        if not names:
            raise NotFound
        return names

    def name_servers(self, own: Sequence[str], zone: str) -> list[tuple[str, str]]:
        """Names and addresses of the services in front of this server; its own if there are none (``nsAddrs``)."""
        found: list[tuple[str, str]] = []
        behind_service = False
        for own_ip in own:
            for entry in map_order(self.slices.at(own_ip), self.choices, f"{self.place}/slices"):
                behind_service = True
                for service in self.services.of(entry.index):
                    name = dnsname.join(service.name, service.namespace, SVC, zone)
                    if service.headless:
                        found.extend((f"{self.endpoint_name(one)}.{name}", one.ip) for one in entry.addresses)
                    else:
                        found.extend((name, ip) for ip in service.cluster_ips)
        return found if behind_service else [(dnsname.join(DEFAULT_NS, zone), ip) for ip in own]


def _chosen(requirements: tuple[Requirement, ...], found: KubeObject) -> bool:
    return all(requirement.matches(found.metadata.labels) for requirement in requirements)


def _differs(old: Remembered, new: Remembered) -> bool:
    """Whether a change counts for the serial (controller.go, ``detectChanges``)."""
    if isinstance(old, ServiceEntry) and isinstance(new, ServiceEntry):
        return (old.external_name, old.ports) != (new.external_name, new.ports)
    if isinstance(old, EndpointsEntry) and isinstance(new, EndpointsEntry):
        seen_old = [(address.ip, address.hostname) for address in old.addresses]
        return seen_old != [(address.ip, address.hostname) for address in new.addresses] or old.ports != new.ports
    return True
