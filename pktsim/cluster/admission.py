"""What the API server refuses although each field by itself is well formed.

Only rules that keep an object from meaning two things, or nothing, in service networking. Source: Kubernetes 1.30,
pkg/apis/core/validation/validation.go (``ValidateService``, ``ValidatePodSpec``), pkg/apis/discovery/validation,
pkg/apis/networking/validation, pkg/apis/apps/validation, and the allocators of cluster IPs and node ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .addresses import parse_ip
from .admission_ingress import Finding, Path, check_ingress, check_ingress_class, check_secret
from .objects import (
    CLUSTER_IP_NONE,
    DaemonSet,
    Deployment,
    EndpointSlice,
    Ingress,
    IngressClass,
    KubeObject,
    LabelSelector,
    Node,
    Pod,
    PodSpec,
    ReplicaSet,
    Secret,
    Service,
    StatefulSet,
)
from .objects_meta import container_port_name


def check_object(found: KubeObject) -> Iterator[Finding]:
    """Check an object by itself."""
    if isinstance(found, Service):
        yield from _service(found)
    elif isinstance(found, EndpointSlice):
        yield from _endpoint_slice(found)
    elif isinstance(found, Pod):
        yield from _pod_spec(found.spec, ("spec",))
    elif isinstance(found, Node):
        spec = found.spec
        if spec.pod_cidr and spec.pod_cidr != spec.pod_cidrs[0]:
            yield ("spec", "podCIDR"), f"{spec.pod_cidr} is not the first of podCIDRs ({spec.pod_cidrs[0]})", ""
        for index, address in enumerate(found.status.addresses):
            if address.type in ("InternalIP", "ExternalIP"):
                try:
                    parse_ip(address.address)
                except ValueError as error:
                    yield ("status", "addresses", index, "address"), str(error), ""
    elif isinstance(found, Deployment | ReplicaSet | DaemonSet | StatefulSet):
        yield from _selector(found.spec.selector, found.spec.template.metadata.labels)
        yield from _pod_spec(found.spec.template.spec, ("spec", "template", "spec"))
    elif isinstance(found, Ingress):
        yield from check_ingress(found)
    elif isinstance(found, IngressClass):
        yield from check_ingress_class(found)
    elif isinstance(found, Secret):
        yield from check_secret(found)


def check_objects(objects: Iterable[KubeObject]) -> Iterator[tuple[KubeObject, Path, str, str]]:
    """Check objects by themselves and against each other, in order."""
    seen: set[tuple[str, str, str]] = set()
    cluster_ips: dict[str, KubeObject] = {}
    node_ports: dict[tuple[int, str], KubeObject] = {}
    health_ports: dict[int, KubeObject] = {}
    pod_cidrs: dict[str, KubeObject] = {}
    for found in objects:
        if found.name:
            if found.key in seen:
                yield found, ("metadata", "name"), "stands twice", "remove one of them"
            seen.add(found.key)
        for path, what, mend in check_object(found):
            yield found, path, what, mend
        if isinstance(found, Node):
            for index, cidr in enumerate(found.spec.pod_cidrs):
                if (other := pod_cidrs.setdefault(cidr, found)) is not found:
                    yield found, ("spec", "podCIDRs", index), f"{cidr} is the pod network of {other} too", ""
        if not isinstance(found, Service) or found.spec.type == "ExternalName":
            continue
        again = "leave it out to get a free one"
        for address in found.spec.cluster_ips:
            if address != CLUSTER_IP_NONE and (other := cluster_ips.setdefault(address, found)) is not found:
                yield found, ("spec", "clusterIP"), f"{address} is the cluster IP of {other} too", again
        for index, port in enumerate(found.spec.ports):
            key = (port.node_port, port.protocol)
            if port.node_port and (other := node_ports.setdefault(key, found)) is not found:
                what = f"{port.node_port}/{port.protocol} is a node port of {other} too"
                yield found, ("spec", "ports", index, "nodePort"), what, again
        health = found.spec.health_check_node_port
        if health and (other := health_ports.setdefault(health, found)) is not found:
            what = f"{health} is the health check node port of {other} too"
            yield found, ("spec", "healthCheckNodePort"), what, again


def _service(service: Service) -> Iterator[Finding]:
    spec = service.spec
    names: set[str] = set()
    numbers: set[tuple[int, str]] = set()
    node_ports: set[tuple[int, str]] = set()
    for index, port in enumerate(spec.ports):
        path: Path = ("spec", "ports", index)
        if len(spec.ports) > 1 and not port.name:
            yield path, "name is missing", "every port of several needs a name"
        elif port.name in names:
            yield (*path, "name"), f"{port.name!r} is the name of two ports", ""
        if (port.port, port.protocol) in numbers:
            yield (*path, "port"), f"{port.port}/{port.protocol} is there twice", ""
        names.add(port.name)
        numbers.add((port.port, port.protocol))
        if isinstance(port.target_port, str):
            try:
                container_port_name(port.target_port)
            except ValueError as error:
                yield (*path, "targetPort"), str(error), ""
        if port.node_port:
            if spec.type not in ("NodePort", "LoadBalancer"):
                yield (
                    (*path, "nodePort"),
                    "is only for types NodePort and LoadBalancer",
                    f"remove it or change type {spec.type}",
                )
            if (port.node_port, port.protocol) in node_ports:
                yield (
                    (*path, "nodePort"),
                    f"{port.node_port}/{port.protocol} is there twice",
                    "leave it out to get a free one",
                )
            node_ports.add((port.node_port, port.protocol))
    if spec.type == "ExternalName":
        if not spec.external_name:
            yield ("spec", "externalName"), "is missing", "type ExternalName needs a DNS name"
        return
    if not spec.ports and not service.headless:
        yield ("spec", "ports"), "is empty", "only headless services may have no port"
    yield from _cluster_ips(service)
    if spec.session_affinity == "None" and spec.session_affinity_config is not None:
        yield ("spec", "sessionAffinityConfig"), "is only for sessionAffinity ClientIP", ""
    if spec.external_traffic_policy and not service.externally_accessible:
        yield (
            ("spec", "externalTrafficPolicy"),
            f"is not for a service of type {spec.type} without externalIPs",
            "remove it",
        )
    if spec.health_check_node_port and not service.needs_health_check:
        what = "is only for type LoadBalancer with externalTrafficPolicy Local"
        yield ("spec", "healthCheckNodePort"), what, "remove it"
    if spec.type != "LoadBalancer":
        for name, there in (
            ("loadBalancerSourceRanges", bool(spec.load_balancer_source_ranges)),
            ("loadBalancerClass", spec.load_balancer_class is not None),
            ("allocateLoadBalancerNodePorts", spec.allocate_load_balancer_node_ports is not None),
        ):
            if there:
                yield ("spec", name), "is only for type LoadBalancer", "remove it"
    for index, text in enumerate(spec.external_ips):
        address = parse_ip(text)
        if address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast:
            yield ("spec", "externalIPs", index), f"{text} is a special address and cannot be an external IP", ""


def _cluster_ips(service: Service) -> Iterator[Finding]:
    spec = service.spec
    path: Path = ("spec", "clusterIPs")
    if service.headless:
        if spec.type in ("NodePort", "LoadBalancer"):
            yield ("spec", "clusterIP"), f"a service of type {spec.type} cannot be headless", "remove clusterIP: None"
        if spec.cluster_ips not in ((), (CLUSTER_IP_NONE,)):
            yield path, "'None' stands alone", ""
        return
    if spec.cluster_ip and spec.cluster_ips and spec.cluster_ips[0] != spec.cluster_ip:
        what = f"{spec.cluster_ip} is not the first of clusterIPs ({spec.cluster_ips[0]})"
        yield ("spec", "clusterIP"), what, ""
    if len(spec.cluster_ips) > 2:
        yield path, "has more than one address of each family", ""
        return
    versions = []
    for index, text in enumerate(spec.cluster_ips):
        try:
            versions.append(parse_ip(text).version)
        except ValueError as error:
            yield (*path, index), str(error), ""
            return
    if len(versions) == 2 and versions[0] == versions[1]:
        yield path, f"has two IPv{versions[0]} addresses", "one of each family at most"
    for index, (version, family) in enumerate(zip(versions, spec.ip_families, strict=False)):
        if family != f"IPv{version}":
            what = f"{spec.cluster_ips[index]} is not an {family} address, which ipFamilies asks for"
            yield (*path, index), what, ""
    if len(set(spec.ip_families)) != len(spec.ip_families):
        yield ("spec", "ipFamilies"), "names a family twice", ""


def _endpoint_slice(found: EndpointSlice) -> Iterator[Finding]:
    if len(found.endpoints) > 1000:
        yield ("endpoints",), "has more than 1000 endpoints", "split the slice"
    for index, endpoint in enumerate(found.endpoints):
        if not endpoint.addresses:
            yield ("endpoints", index, "addresses"), "is empty", ""
        for number, text in enumerate(endpoint.addresses):
            if found.address_type == "FQDN":
                continue
            path: Path = ("endpoints", index, "addresses", number)
            try:
                if f"IPv{parse_ip(text).version}" != found.address_type:
                    yield path, f"{text} is not an {found.address_type} address, which addressType says", ""
            except ValueError as error:
                yield path, str(error), ""
    names: set[str] = set()
    for index, port in enumerate(found.ports):
        if port.name in names:
            yield ("ports", index, "name"), f"{port.name!r} is the name of two ports", ""
        names.add(port.name)


def _pod_spec(spec: PodSpec, path: Path) -> Iterator[Finding]:
    if spec.dns_policy == "None" and not (spec.dns_config and spec.dns_config.nameservers):
        yield (*path, "dnsConfig", "nameservers"), "is empty", "dnsPolicy None needs at least one"
    if not spec.containers:
        yield (*path, "containers"), "is empty", "a pod needs at least one container"
    names: set[str] = set()
    for index, container in enumerate(spec.containers):
        if container.name in names:
            yield (*path, "containers", index, "name"), f"{container.name!r} is the name of two containers", ""
        names.add(container.name)
        ports: set[str] = set()
        for number, port in enumerate(container.ports):
            if port.name is not None and port.name in ports:
                yield (
                    (*path, "containers", index, "ports", number, "name"),
                    f"{port.name!r} is the name of two ports",
                    "",
                )
            ports.add(port.name or "")


def _selector(selector: LabelSelector, labels: dict[str, str]) -> Iterator[Finding]:
    path: Path = ("spec", "selector")
    for index, one in enumerate(selector.match_expressions):
        if bool(one.values) != (one.operator in ("In", "NotIn")):
            what = f"operator {one.operator} {'takes no' if one.values else 'needs'} values"
            yield (*path, "matchExpressions", index), what, ""
    if not selector.match_labels and not selector.match_expressions:
        yield path, "is empty", "name labels of the template"
    elif not selector.matches(labels):
        yield path, "does not match the labels of the template", "make them the same"
