"""What kube-proxy makes of Services and EndpointSlices before any mode writes rules: service ports and their endpoints.

Changes gather in trackers, one pair for each address family, and are taken over at a sync. What a tracker does not see
as a change (a label, a selector, the target port) causes no sync.

Source: pkg/proxy/serviceport.go, servicechangetracker.go, endpoint.go, endpointslicecache.go and
endpointschangetracker.go of Kubernetes 1.30.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pktsim.fidelity import approximated
from pktsim.netfilter.ruleset import Family

from ..addresses import IPAddress, IPNetwork, parse_cidr, parse_ip
from ..objects import (
    ANNOTATION_TOPOLOGY_AWARE_HINTS,
    ANNOTATION_TOPOLOGY_MODE,
    CLUSTER_IP_NONE,
    EndpointSlice,
    Service,
    ServicePort,
)
from ..topology import HintGates

approximated(
    "kube_proxy.slice_order",
    "EndpointSlices of a Service are merged by name; kube-proxy goes through them in Go's random map order, "
    "which shows where two of them hold one address",
    source="pkg/proxy/endpointslicecache.go",
)

#: Namespace and name of a Service.
ServiceKey = tuple[str, str]


def version_of(family: Family) -> int:
    """4 or 6."""
    return 4 if family is Family.IPV4 else 6


class ServicePortName(NamedTuple):
    """What tells service ports apart."""

    namespace: str
    name: str
    port: str
    protocol: str

    @property
    def service(self) -> ServiceKey:
        """The Service it belongs to."""
        return (self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.port}" if self.port else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePortInfo:
    """One port of a Service in one address family (``BaseServicePortInfo``)."""

    cluster_ip: IPAddress
    port: int
    protocol: str
    node_port: int = 0
    load_balancer_vips: tuple[IPAddress, ...] = ()
    affinity_seconds: int = 0  # 0: no session affinity
    external_ips: tuple[IPAddress, ...] = ()
    load_balancer_source_ranges: tuple[IPNetwork, ...] = ()
    health_check_node_port: int = 0
    external_policy_local: bool = False
    internal_policy_local: bool = False
    hints_annotation: str = ""

    @property
    def externally_accessible(self) -> bool:
        """Whether it can be reached by anything but its cluster IP."""
        return self.node_port != 0 or bool(self.load_balancer_vips) or bool(self.external_ips)

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Whether any of its traffic goes by policy ``Cluster``.

        With external policy ``Local`` too, traffic from this node and its pods to external addresses does.
        """
        return not self.internal_policy_local or self.externally_accessible

    @property
    def uses_local_endpoints(self) -> bool:
        """Whether any of its traffic goes by policy ``Local``."""
        return self.internal_policy_local or (self.external_policy_local and self.externally_accessible)


@dataclass(frozen=True, slots=True)
class EndpointInfo:
    """One endpoint of one service port (``BaseEndpointInfo``).

    Attributes:
        ip: The address as its slice writes it.
        text: ``IP:PORT``, IPv6 addresses in brackets. Endpoints are sorted by this text.
    """

    ip: str
    port: int
    text: str
    is_local: bool
    ready: bool
    serving: bool
    terminating: bool
    zone_hints: frozenset[str] = frozenset()
    node_hints: frozenset[str] = frozenset()


ServicePortMap = dict[ServicePortName, ServicePortInfo]
EndpointsMap = dict[ServicePortName, tuple[EndpointInfo, ...]]


def _cluster_ip(service: Service, family: Family) -> str:
    """The cluster IP of one family, empty if it has none (``GetClusterIPByFamily``)."""
    spec = service.spec
    name = f"IPv{version_of(family)}"
    if not spec.ip_families:
        if spec.cluster_ip and parse_ip(spec.cluster_ip).version == version_of(family):
            return spec.cluster_ip
        return ""
    for one, address in zip(spec.ip_families, spec.cluster_ips, strict=False):
        if one == name:
            return address
    return ""


def service_ports(service: Service | None, family: Family, *, ip_mode_gate: bool = True) -> ServicePortMap:
    """Take a Service apart into its ports in one family; headless and ExternalName Services have none."""
    if service is None or service.spec.type == "ExternalName" or service.spec.cluster_ip in ("", CLUSTER_IP_NONE):
        return {}
    cluster_ip = _cluster_ip(service, family)
    if not cluster_ip:
        return {}
    common = _common(service, family, cluster_ip, ip_mode_gate)
    return {
        ServicePortName(service.namespace, service.name, port.name, port.protocol): _service_port(port, common)
        for port in service.spec.ports
    }


def _common(service: Service, family: Family, cluster_ip: str, ip_mode_gate: bool) -> ServicePortInfo:
    """What all ports of a Service share."""
    spec = service.spec
    version = version_of(family)
    annotations = service.metadata.annotations
    hints = annotations.get(ANNOTATION_TOPOLOGY_AWARE_HINTS)
    if hints is None:
        hints = annotations.get(ANNOTATION_TOPOLOGY_MODE, "")
    vips = []
    for ingress in service.status.load_balancer.ingress:
        if ingress.ip and not (ip_mode_gate and ingress.ip_mode == "Proxy"):
            vips.append(parse_ip(ingress.ip))
    ranges = [parse_cidr(text.strip()) for text in spec.load_balancer_source_ranges]
    external = [parse_ip(text) for text in spec.external_ips]
    return ServicePortInfo(
        cluster_ip=parse_ip(cluster_ip),
        port=0,
        protocol="",
        load_balancer_vips=tuple(address for address in vips if address.version == version),
        affinity_seconds=service.affinity_seconds,
        external_ips=tuple(address for address in external if address.version == version),
        load_balancer_source_ranges=tuple(network for network in ranges if network.version == version),
        health_check_node_port=spec.health_check_node_port if service.needs_health_check else 0,
        external_policy_local=service.external_policy_local,
        internal_policy_local=service.internal_policy_local,
        hints_annotation=hints,
    )


def _service_port(port: ServicePort, common: ServicePortInfo) -> ServicePortInfo:
    return ServicePortInfo(
        common.cluster_ip,
        port.port,
        port.protocol,
        port.node_port,
        common.load_balancer_vips,
        common.affinity_seconds,
        common.external_ips,
        common.load_balancer_source_ranges,
        common.health_check_node_port,
        common.external_policy_local,
        common.internal_policy_local,
        common.hints_annotation,
    )


@dataclass(slots=True)
class ServiceUpdate:
    """What a sync learns of changed Services.

    Attributes:
        services: Those added, changed or deleted.
        ports: The service ports that each of them has now.
        deleted_ports: Service ports that are gone.
    """

    services: set[ServiceKey] = field(default_factory=set)
    ports: dict[ServiceKey, set[ServicePortName]] = field(default_factory=dict)
    deleted_ports: list[ServicePortInfo] = field(default_factory=list)

    @property
    def deleted_udp_cluster_ips(self) -> set[IPAddress]:
        """Cluster IPs of UDP ports that are gone."""
        return {info.cluster_ip for info in self.deleted_ports if info.protocol == "UDP"}


class ServiceChangeTracker:
    """Services that changed since the last sync, with the state before."""

    def __init__(self, family: Family, *, ip_mode_gate: bool = True) -> None:
        self._family = family
        self._ip_mode_gate = ip_mode_gate
        self._changes: dict[ServiceKey, tuple[ServicePortMap, ServicePortMap]] = {}

    def update(self, previous: Service | None, current: Service | None) -> bool:
        """Note a change of one Service; ``None`` is its absence.

        Returns:
            Whether any Service is waiting for a sync, this one or another.
        """
        service = current or previous
        if service is None:
            return False
        key = (service.namespace, service.name)
        change = self._changes.get(key)
        before = change[0] if change else service_ports(previous, self._family, ip_mode_gate=self._ip_mode_gate)
        after = service_ports(current, self._family, ip_mode_gate=self._ip_mode_gate)
        if before == after:
            self._changes.pop(key, None)
        else:
            self._changes[key] = (before, after)
        return bool(self._changes)

    def apply_to(self, ports: ServicePortMap) -> ServiceUpdate:
        """Take all changes over into ``ports``."""
        update = ServiceUpdate()
        for key, (before, after) in self._changes.items():
            update.services.add(key)
            update.ports[key] = set(after)
            ports.update(after)
            for name in before:
                if name not in after and (gone := ports.pop(name, None)) is not None:
                    update.deleted_ports.append(gone)
        self._changes.clear()
        return update


class _EndpointData(NamedTuple):
    """What kube-proxy keeps of one endpoint of a slice."""

    addresses: tuple[str, ...]
    node_name: str | None
    zone: str | None
    zone_hints: frozenset[str]
    node_hints: frozenset[str]
    ready: bool
    serving: bool
    terminating: bool


class _PortData(NamedTuple):
    """What kube-proxy keeps of one port of a slice."""

    name: str
    protocol: str
    port: int | None
    app_protocol: str | None


@dataclass(frozen=True, slots=True)
class _SliceData:
    """What kube-proxy keeps of a slice: a change elsewhere in it is no change."""

    ports: tuple[_PortData, ...]
    endpoints: tuple[_EndpointData, ...]
    remove: bool


def _slice_data(found: EndpointSlice, *, remove: bool, gates: HintGates) -> _SliceData:
    ports = tuple(_PortData(port.name, port.protocol, port.port, port.app_protocol) for port in found.ports)
    endpoints = []
    for one in () if remove else found.endpoints:
        conditions = one.conditions
        zones = one.hints.for_zones if one.hints and gates.topology_aware_hints else ()
        nodes = one.hints.for_nodes if one.hints and gates.prefer_same_traffic_distribution else ()
        endpoints.append(
            _EndpointData(
                one.addresses,
                one.node_name,
                one.zone,
                frozenset(zone.name for zone in zones),
                frozenset(node.name for node in nodes),
                conditions.ready is not False,
                conditions.serving is not False,
                conditions.terminating is True,
            )
        )
    endpoints.sort(key=lambda one: ",".join(one.addresses))
    return _SliceData(tuple(sorted(ports, key=lambda port: port.port or 0)), tuple(endpoints), remove)


@dataclass(slots=True)
class _SliceTracker:
    """The slices of one Service: as of the last sync, and what changed since."""

    applied: dict[str, _SliceData] = field(default_factory=dict)
    pending: dict[str, _SliceData] = field(default_factory=dict)


@dataclass(slots=True)
class EndpointsUpdate:
    """What a sync learns of changed endpoints.

    Attributes:
        services: Those whose slices changed.
        deleted_udp_endpoints: UDP endpoints that were serving and are in no slice any more.
        newly_active_udp_services: UDP ports that had no serving endpoint and now have.
        udp_changed: Whether a Service with UDP endpoints, before or after, is among them.
    """

    services: set[ServiceKey] = field(default_factory=set)
    deleted_udp_endpoints: list[tuple[ServicePortName, EndpointInfo]] = field(default_factory=list)
    newly_active_udp_services: list[ServicePortName] = field(default_factory=list)
    udp_changed: bool = False


class EndpointsChangeTracker:
    """Slices by Service, and those that changed since the last sync.

    Args:
        family: Endpoints of the other family are passed over.
        hostname: The node: its endpoints are local.
        gates: Which hints are read at all.
    """

    def __init__(self, family: Family, hostname: str, gates: HintGates) -> None:
        self._family = family
        self._hostname = hostname
        self._gates = gates
        self._trackers: dict[ServiceKey, _SliceTracker] = {}
        self._changed: set[ServiceKey] = set()

    def update(self, found: EndpointSlice, *, remove: bool) -> bool:
        """Note that a slice was added, changed or removed.

        Returns:
            Whether that is a change to what was known.
        """
        if found.address_type == "FQDN" or not found.service_name:
            return False
        key = (found.namespace, found.service_name)
        tracker = self._trackers.setdefault(key, _SliceTracker())
        data = _slice_data(found, remove=remove, gates=self._gates)
        known = tracker.pending.get(found.name) or tracker.applied.get(found.name)
        if known == data or (known is None and remove):
            return False
        tracker.pending[found.name] = data
        self._changed.add(key)
        return True

    def apply_to(self, endpoints: EndpointsMap) -> EndpointsUpdate:
        """Take all changes over into ``endpoints``."""
        update = EndpointsUpdate()
        for key in sorted(self._changed):
            tracker = self._trackers[key]
            before = self._endpoints(key, tracker.applied)
            for name, data in tracker.pending.items():
                if data.remove:
                    tracker.applied.pop(name, None)
                else:
                    tracker.applied[name] = data
            tracker.pending.clear()
            after = self._endpoints(key, tracker.applied)
            update.services.add(key)
            for gone in before:
                endpoints.pop(gone, None)
            endpoints.update(after)
            _detect_stale(before, after, update)
            update.udp_changed = update.udp_changed or any(
                name.protocol == "UDP" for endpoints_of in (before, after) for name in endpoints_of
            )
        self._changed.clear()
        return update

    def _endpoints(self, key: ServiceKey, slices: Mapping[str, _SliceData]) -> EndpointsMap:
        """Merge slices: each ``IP:PORT`` once, a local one before others, in the order of their texts."""
        merged: dict[ServicePortName, dict[str, EndpointInfo]] = {}
        # kube-proxy goes through slices in Go's random map order; ours is by name.
        for name in sorted(slices):
            for port in slices[name].ports:
                if port.port:
                    by_text = merged.setdefault(ServicePortName(*key, port.name, port.protocol), {})
                    self._merge(by_text, port.port, slices[name].endpoints)
        return {
            port_name: tuple(by_text[text] for text in sorted(by_text))
            for port_name, by_text in merged.items()
            if by_text
        }

    def _merge(self, by_text: dict[str, EndpointInfo], port: int, endpoints: Iterable[_EndpointData]) -> None:
        version = version_of(self._family)
        for one in endpoints:
            if not one.addresses:
                continue
            ip = one.addresses[0]
            if parse_ip(ip).version != version:
                continue
            text = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
            is_local = bool(self._hostname) and one.node_name == self._hostname
            if text not in by_text or is_local:
                by_text[text] = EndpointInfo(
                    ip, port, text, is_local, one.ready, one.serving, one.terminating, one.zone_hints, one.node_hints
                )


def _detect_stale(before: EndpointsMap, after: EndpointsMap, update: EndpointsUpdate) -> None:
    """Find UDP endpoints and services whose conntrack entries have become wrong (``detectStaleConntrackEntries``)."""
    for name, old in before.items():
        if name.protocol == "UDP":
            kept = {one.text for one in after.get(name, ())}
            update.deleted_udp_endpoints += [(name, one) for one in old if one.serving and one.text not in kept]
    for name, new in after.items():
        was_serving = any(one.serving for one in before.get(name, ()))
        if name.protocol == "UDP" and not was_serving and any(one.serving for one in new):
            update.newly_active_udp_services.append(name)


def local_ready_endpoints(endpoints: EndpointsMap, services: Collection[ServiceKey]) -> dict[ServiceKey, int]:
    """How many addresses with a ready endpoint some Services have on this node (``LocalReadyEndpoints``)."""
    addresses: dict[ServiceKey, set[str]] = {}
    if not services:
        return {}
    for name, several in endpoints.items():
        if name[:2] in services:
            for one in several:
                if one.ready and one.is_local:
                    addresses.setdefault(name.service, set()).add(one.ip)
    return {key: len(found) for key, found in addresses.items()}


def health_check_node_ports(ports: ServicePortMap) -> dict[ServiceKey, int]:
    """The health check node port of each Service that has one (``HealthCheckNodePorts``)."""
    return {name.service: info.health_check_node_port for name, info in ports.items() if info.health_check_node_port}
