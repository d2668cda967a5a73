"""The EndpointSlice controllers: selectors and pods make slices; Endpoints of a Service without selector are mirrored.

Slices change as little as the real controller changes them: an endpoint stays in its slice, new ones fill slices that
change anyway, then the fullest one that has room for all, then new slices of at most a hundred.

Hints are worked out in ``topology_hints.py``.

Source: staging/src/k8s.io/endpointslice/reconciler.go and utils.go, pkg/controller/endpointslice, and
pkg/controller/endpointslicemirroring of Kubernetes 1.30.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from pktsim.clock import Clock, Timer
from pktsim.errors import UnsupportedFeature

from .addresses import parse_ip
from .kubeproxy.versions import DEFAULT_RELEASE, Release
from .objects import (
    ANNOTATION_TOPOLOGY_AWARE_HINTS,
    ANNOTATION_TOPOLOGY_MODE,
    LABEL_HEADLESS,
    LABEL_MANAGED_BY,
    LABEL_SERVICE_NAME,
    LABEL_TOPOLOGY_ZONE,
    Endpoint,
    EndpointConditions,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    KubeObject,
    Node,
    ObjectMeta,
    ObjectReference,
    OwnerReference,
    Pod,
    Service,
    ServicePort,
    selects,
)
from .objects_services import EndpointAddress, EndpointSubset
from .store import EventType, ObjectStore, Subscription, WatchEvent
from .topology_hints import Reconciled, TopologyCache, close_hints, without_hints

MANAGED_BY = "endpointslice-controller.k8s.io"
MIRRORED_BY = "endpointslicemirroring-controller.k8s.io"
#: An Endpoints object with this label is not mirrored.
LABEL_SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
#: ``--max-endpoints-per-slice``.
MAX_ENDPOINTS = 100

#: Letters of generated names (apimachinery pkg/util/rand): no vowels, so no words.
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

Ports = tuple[EndpointPort, ...]


def slice_families(service: Service) -> tuple[str, ...]:
    """The address types of a Service's slices (``getAddressTypesForService``)."""
    if service.spec.ip_families:
        return tuple(dict.fromkeys(service.spec.ip_families))
    if service.spec.cluster_ip and not service.headless:
        return (f"IPv{parse_ip(service.spec.cluster_ip).version}",)
    return ("IPv4", "IPv6")


def find_port(pod: Pod, port: ServicePort) -> int | None:
    """The number that a service port leads to in a pod; ``None`` if it names a port the pod does not have."""
    target = port.target
    if isinstance(target, int):
        return target
    for container in pod.spec.containers:
        for one in container.ports:
            if one.name == target and one.protocol == port.protocol:
                return one.container_port
    return None


def endpoint_ports(service: Service, pod: Pod) -> Ports:
    """The ports of the slice that a pod belongs in."""
    found = []
    for port in service.spec.ports:
        number = find_port(pod, port)
        if number is not None:
            found.append(
                EndpointPort(name=port.name, protocol=port.protocol, port=number, app_protocol=port.app_protocol)
            )
    return tuple(found)


def pod_endpoint(pod: Pod, service: Service, family: str, zone: str) -> Endpoint | None:
    """A pod as an endpoint of a Service; ``None`` if it has no address of the family or is over for good."""
    if pod.terminated:
        return None
    addresses = tuple(str(address) for address in pod.addresses if f"IPv{address.version}" == family)
    if not addresses:
        return None
    serving = pod.ready
    ready = service.spec.publish_not_ready_addresses or (serving and not pod.terminating)
    named = pod.spec.hostname and pod.spec.subdomain == service.name
    return Endpoint(
        addresses=addresses,
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=pod.terminating),
        hostname=pod.spec.hostname if named else None,
        target_ref=ObjectReference(kind="Pod", namespace=pod.namespace, name=pod.name, uid=pod.metadata.uid),
        node_name=pod.spec.node_name or None,
        zone=zone or None,
    )


def _target(endpoint: Endpoint) -> tuple[tuple[str, ...], str]:
    """What tells endpoints apart (``endpointHash``)."""
    reference = endpoint.target_ref
    return endpoint.addresses, f"{reference.kind}/{reference.namespace}/{reference.name}" if reference else ""


def _same(one: Endpoint, other: Endpoint) -> bool:
    """Whether two are equal but for their hints (``EndpointsEqualBeyondHash``)."""
    return one == other or one.model_copy(update={"hints": None}) == other.model_copy(update={"hints": None})


@dataclass(slots=True)
class _Change(Reconciled):
    """What one reconciliation of one address type comes to."""

    delete: list[EndpointSlice] = field(default_factory=list)

    def recycle(self) -> None:
        """Let new slices take the places of those that would be deleted, under their names (``finalize``)."""
        while self.create and self.delete:
            new, old = self.create.pop(), self.delete.pop(0)
            metadata = new.metadata.model_copy(update={"name": old.metadata.name})
            self.update.append(new.model_copy(update={"metadata": metadata}))


class EndpointSliceController:
    """Keeps slices in line with Services, pods and nodes.

    Services whose slices came with the objects, and of whose pods there is none, are left as they are: such a file
    shows a cluster from which nobody fetched the pods.

    Args:
        store: The objects.
        clock: Changes of one instant are taken together; without a clock :meth:`reconcile` has to be called.
        release: Which controller it is.
    """

    def __init__(self, store: ObjectStore, clock: Clock | None = None, *, release: Release = DEFAULT_RELEASE) -> None:
        self._store = store
        self._release = release
        self._clock = clock
        self._dirty: set[tuple[str, str]] = set()
        self._timer: Timer | None = None
        self._serial = 0
        self._topology = TopologyCache()
        self._subscription: Subscription = store.watch(self._handle, (Service, Pod, Node, Endpoints))

    def stop(self) -> None:
        """Keep nothing in line any more."""
        self._subscription.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _handle(self, event: WatchEvent) -> None:
        found = event.object
        if isinstance(found, Service | Endpoints):
            self._mark((found.namespace, found.name))
        elif isinstance(found, Pod):
            labels = [found.metadata.labels]
            if event.old is not None and event.type is EventType.MODIFIED:
                labels.append(event.old.metadata.labels)
            self._mark_selecting(found.namespace, labels)
        elif isinstance(found, Node):
            if event.type is not EventType.MODIFIED or _topology(found) != _topology(event.old):
                self._topology.set_nodes(self._store.list(Node))
                for key in self._topology.overloaded():
                    self._mark(key)
            if event.type is EventType.ADDED:
                # Pods that were passed over because their node was not known are tried again.
                for service in self._store.list(Service):
                    self._mark((service.namespace, service.name))

    def _mark_selecting(self, namespace: str, labels: Iterable[Mapping[str, str]]) -> None:
        several = list(labels)
        for service in self._store.list(Service, namespace):
            if service.spec.selector and any(selects(service.spec.selector, one) for one in several):
                self._mark((namespace, service.name))

    def _mark(self, key: tuple[str, str]) -> None:
        self._dirty.add(key)
        if self._clock is not None and (self._timer is None or not self._timer.pending):
            self._timer = self._clock.after(0, self.reconcile)

    def reconcile(self) -> None:
        """Bring all slices in line now."""
        while self._dirty:
            keys = sorted(self._dirty)
            self._dirty.clear()
            for key in keys:
                self._reconcile(*key)

    def _reconcile(self, namespace: str, name: str) -> None:
        service = self._store.get(Service, name, namespace)
        slices = [one for one in self._store.list(EndpointSlice, namespace) if one.service_name == name]
        if service is None:
            # The garbage collector follows the owner references.
            for family in ("IPv4", "IPv6"):
                self._topology.remove((namespace, name), family)
            for one in slices:
                if any(owner.kind in ("Service", "Endpoints") for owner in one.metadata.owner_references):
                    self._store.delete("EndpointSlice", one.name, namespace)
            return
        if service.spec.type == "ExternalName":
            return
        if service.spec.selector:
            mine = [one for one in slices if one.metadata.labels.get(LABEL_MANAGED_BY) == MANAGED_BY]
            changes = self._from_pods(service, mine)
        else:
            mine = [one for one in slices if one.metadata.labels.get(LABEL_MANAGED_BY) == MIRRORED_BY]
            changes = [self._mirror(service, mine)]
        for change in changes:
            change.recycle()
            for one in change.create:
                name_of_slice = self._name(namespace, name)
                metadata = one.metadata.model_copy(update={"name": name_of_slice})
                self._store.apply(one.model_copy(update={"metadata": metadata}))
            for one in change.update:
                self._store.apply(one)
            for one in change.delete:
                self._store.delete("EndpointSlice", one.name, namespace)

    # from pods

    def _from_pods(self, service: Service, existing: Sequence[EndpointSlice]) -> list[_Change]:
        pods = [
            pod
            for pod in self._store.list(Pod, service.namespace)
            if selects(service.spec.selector, pod.metadata.labels)
        ]
        if not pods and existing and not any(self._made(one) for one in existing):
            return []
        families = slice_families(service)
        changes = [_Change(delete=[one for one in existing if one.address_type not in families])]
        for one in changes[0].delete:
            self._topology.remove((service.namespace, service.name), one.address_type)
        for family in families:
            change = _Change()
            self._of_family(service, family, pods, [one for one in existing if one.address_type == family], change)
            self._hint(service, family, change)
            changes.append(change)
        return changes

    def _hint(self, service: Service, family: str, change: _Change) -> None:
        """Give the slices of one address type their hints, or take them away."""
        key = (service.namespace, service.name)
        if self._release.feature("TopologyAwareHints") and _asks_for_hints(service):
            self._topology.add_hints(key, family, change)
            return
        self._topology.remove(key, family)
        distribution = service.spec.traffic_distribution or ""
        if distribution and not self._release.feature("ServiceTrafficDistribution"):
            distribution = ""  # the API server of that release drops the field
        if distribution in ("PreferSameZone", "PreferSameNode") and not self._release.feature(
            "PreferSameTrafficDistribution"
        ):
            raise UnsupportedFeature(
                f"trafficDistribution {distribution} with kube-proxy {self._release}",
                place=str(service),
                mend="choose --kube-proxy-version 1.34 or later",
            )
        if distribution:
            close_hints(change, node_hints=distribution == "PreferSameNode")
        else:
            without_hints(change)

    def _of_family(
        self, service: Service, family: str, pods: Sequence[Pod], existing: Sequence[EndpointSlice], change: _Change
    ) -> None:
        wanted: dict[Ports, dict[tuple[tuple[str, ...], str], Endpoint]] = {}
        for pod in pods:
            node = self._store.get(Node, pod.spec.node_name) if pod.spec.node_name else None
            if node is None and not service.spec.publish_not_ready_addresses:
                # A pod on a node that is not there is about to be collected; one without a node has no address.
                continue
            endpoint = pod_endpoint(pod, service, family, _zone(node))
            if endpoint is not None:
                wanted.setdefault(endpoint_ports(service, pod), {})[_target(endpoint)] = endpoint
        by_ports: dict[frozenset[EndpointPort], list[EndpointSlice]] = {}
        for one in existing:
            by_ports.setdefault(frozenset(one.ports), []).append(one)
        for ports in sorted(wanted, key=repr):
            self._of_ports(service, family, ports, by_ports.pop(frozenset(ports), []), wanted[ports], change)
        if not wanted:
            # A Service without endpoints has one slice that is empty.
            placeholders = by_ports.get(frozenset(), [])
            placeholder = next((one for one in placeholders if not one.endpoints), None)
            if placeholder is None:
                change.create.append(self._new_slice(service, family, (), ()))
            else:
                placeholders.remove(placeholder)
                self._keep(service, placeholder, placeholder.endpoints, change)
        change.delete += [one for several in by_ports.values() for one in several]

    def _of_ports(
        self,
        service: Service,
        family: str,
        ports: Ports,
        existing: Sequence[EndpointSlice],
        wanted: dict[tuple[tuple[str, ...], str], Endpoint],
        change: _Change,
    ) -> None:
        """Spread endpoints over slices (``reconcileByPortMapping``)."""
        unchanged: list[EndpointSlice] = []
        changed: list[tuple[EndpointSlice, list[Endpoint]]] = []
        labels = _labels(service, MANAGED_BY)
        for one in existing:
            stay = [wanted.pop(_target(old)) for old in one.endpoints if _target(old) in wanted]
            same = len(stay) == len(one.endpoints) and all(map(_same, stay, one.endpoints))
            if same and one.metadata.labels == labels:
                unchanged.append(one)
            elif stay:
                # with other labels alone, endpoints stay as they are, hints and all
                changed.append((one, list(one.endpoints) if same else stay))
            else:
                change.delete.append(one)
        new = list(wanted.values())
        for _, stay in sorted(changed, key=lambda entry: -len(entry[1])):
            room = MAX_ENDPOINTS - len(stay)
            stay += new[:room]
            del new[:room]
        while new:
            fitting = [one for one in unchanged if len(one.endpoints) + len(new) <= MAX_ENDPOINTS]
            if fitting and len(new) < MAX_ENDPOINTS:
                fullest = max(fitting, key=lambda one: len(one.endpoints))
                unchanged.remove(fullest)
                changed.append((fullest, [*fullest.endpoints, *new]))
                new = []
            else:
                change.create.append(self._new_slice(service, family, ports, tuple(new[:MAX_ENDPOINTS])))
                del new[:MAX_ENDPOINTS]
        change.unchanged += unchanged
        for one, endpoints in changed:
            self._keep(service, one, tuple(endpoints), change)

    def _keep(self, service: Service, one: EndpointSlice, endpoints: tuple[Endpoint, ...], change: _Change) -> None:
        """Keep a slice under its name, with these endpoints and the labels that the Service gives it now."""
        labels = _labels(service, MANAGED_BY)
        if endpoints == one.endpoints and labels == one.metadata.labels:
            change.unchanged.append(one)
            return
        metadata = one.metadata.model_copy(update={"labels": labels})
        change.update.append(one.model_copy(update={"metadata": metadata, "endpoints": endpoints}))

    def _made(self, one: EndpointSlice) -> bool:
        return one.metadata.annotations.get(_MADE) == "true"

    def _new_slice(
        self,
        owner: Service | Endpoints,
        family: str,
        ports: Ports,
        endpoints: tuple[Endpoint, ...],
        manager: str = MANAGED_BY,
    ) -> EndpointSlice:
        metadata = ObjectMeta(
            generate_name=f"{owner.name}-",
            namespace=owner.namespace,
            labels=_labels(owner, manager),
            annotations={_MADE: "true"},
            owner_references=(
                OwnerReference(
                    api_version="v1",
                    kind=owner.kind,
                    name=owner.name,
                    uid=owner.metadata.uid,
                    controller=True,
                    block_owner_deletion=True,
                ),
            ),
        )
        return EndpointSlice.model_validate(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": metadata,
                "addressType": family,
                "endpoints": endpoints,
                "ports": ports,
            }
        )

    def _name(self, namespace: str, owner: str) -> str:
        """``web-x7k2p``: five letters that look drawn and are the same in every run."""
        while True:
            self._serial += 1
            digest = sha256(f"{namespace}/{owner}/{self._serial}".encode()).digest()
            name = f"{owner}-{''.join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:5])}"
            if self._store.get(EndpointSlice, name, namespace) is None:
                return name

    # from Endpoints

    def _mirror(self, service: Service, existing: Sequence[EndpointSlice]) -> _Change:
        endpoints = self._store.get(Endpoints, service.name, service.namespace)
        if endpoints is None or endpoints.metadata.labels.get(LABEL_SKIP_MIRROR) == "true":
            return _Change(delete=[one for one in existing if self._made(one)])
        change = _Change()
        free = list(existing)
        for subset in endpoints.subsets:
            for family in ("IPv4", "IPv6"):
                found = _mirrored(subset, family)
                if not found:
                    continue
                old = next((one for one in free if one.address_type == family and one.ports == subset.ports), None)
                if old is None:
                    change.create.append(self._new_slice(endpoints, family, subset.ports, found, MIRRORED_BY))
                    continue
                free.remove(old)
                if old.endpoints != found:
                    change.update.append(old.model_copy(update={"endpoints": found}))
        change.delete += free
        return change


#: Marks slices of this controller, as opposed to slices that came with the objects.
_MADE = "pktsim.io/endpointslice-controller"


def _mirrored(subset: EndpointSubset, family: str) -> tuple[Endpoint, ...]:
    found = []
    for addresses, ready in ((subset.addresses, True), (subset.not_ready_addresses, False)):
        found += [
            _mirrored_endpoint(one, ready=ready) for one in addresses if f"IPv{parse_ip(one.ip).version}" == family
        ]
    return tuple(found)


def _mirrored_endpoint(address: EndpointAddress, *, ready: bool) -> Endpoint:
    return Endpoint(
        addresses=(address.ip,),
        conditions=EndpointConditions(ready=ready),
        hostname=address.hostname or None,
        target_ref=address.target_ref,
        node_name=address.node_name,
    )


def _labels(owner: Service | Endpoints, manager: str) -> dict[str, str]:
    """A slice has its owner's labels, and those that say whose it is (``setEndpointSliceLabels``)."""
    labels = {key: value for key, value in owner.metadata.labels.items() if key != LABEL_HEADLESS}
    if isinstance(owner, Service) and (owner.headless or not owner.spec.cluster_ip):
        labels[LABEL_HEADLESS] = ""
    labels[LABEL_SERVICE_NAME] = owner.name
    labels[LABEL_MANAGED_BY] = manager
    return labels


def _zone(node: KubeObject | None) -> str:
    return node.metadata.labels.get(LABEL_TOPOLOGY_ZONE, "") if node is not None else ""


def _topology(node: KubeObject | None) -> tuple[str, bool]:
    """What of a changed node the controller looks at; with a change of that alone, zones of endpoints stay old."""
    return _zone(node), isinstance(node, Node) and node.condition("Ready")


def _asks_for_hints(service: Service) -> bool:
    """Whether its annotation asks for hints by CPUs (``hintsEnabled``)."""
    annotations = service.metadata.annotations
    mode = annotations.get(ANNOTATION_TOPOLOGY_AWARE_HINTS, annotations.get(ANNOTATION_TOPOLOGY_MODE, ""))
    return mode in ("Auto", "auto")
