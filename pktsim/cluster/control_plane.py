"""What the control plane fills in: addresses of nodes, pods and services, pods of workloads, where pods run.

Real controllers draw many of these. Here they follow from the objects and their history alone: the first free address
of a service, ``web-1`` for the first pod of Deployment ``web``. What an object says itself is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import chain, count, islice
from typing import Any

from pktsim.errors import ObjectError, TopologyError, UnsupportedFeature
from pktsim.fidelity import approximated

from .addresses import IPAddress
from .objects import (
    CLUSTER_IP_NONE,
    DaemonSet,
    Deployment,
    EndpointSlice,
    Namespace,
    Node,
    NodeAddress,
    ObjectMeta,
    OwnerReference,
    Pod,
    PodCondition,
    PodIP,
    PodTemplateSpec,
    ReplicaSet,
    Service,
    StatefulSet,
    Workload,
)
from .objects_nodes import NodeCondition
from .store import EventType, ObjectStore, WatchEvent

approximated(
    "cluster.control_plane",
    "names, addresses and places of pods follow from the objects in order where controllers draw them, and a "
    "pod is Ready at once",
    source="pkg/controller, pkg/scheduler, pkg/registry/core/service/ipallocator",
)

#: Node A 10.1.1.0/24, node B 10.1.2.0/24, and so on.
POD_CIDR = IPv4Network("10.1.0.0/16")
NODE_POD_PREFIX = 24
SERVICE_CIDR = IPv4Network("172.30.0.0/16")
NODE_NETWORK = IPv4Network("192.168.0.0/24")
FIRST_NODE_ADDRESS = NODE_NETWORK.network_address + 11
DNS_ADDRESS = IPv4Address("172.30.0.10")
#: kube-apiserver's --service-node-port-range.
FIRST_NODE_PORT, LAST_NODE_PORT = 30000, 32767
#: Processors of a node that does not say.
NODE_CPUS = 4
#: What this module makes is marked with it, so that a reader of the objects can tell.
MADE_BY = "pktsim.io/made-by"

#: Taints of nodes that are down or cordoned (``kubectl cordon``, ``Cluster.fail_node``): nothing is placed there.
_KEEPING_OFF = frozenset({"node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable"})

_WORKLOADS: tuple[type[Workload], ...] = (Deployment, ReplicaSet, StatefulSet, DaemonSet)


@dataclass(frozen=True, slots=True)
class Ranges:
    """The address ranges of a cluster."""

    pods: IPv4Network = POD_CIDR
    services: IPv4Network = SERVICE_CIDR
    dns: IPv4Address = DNS_ADDRESS


class ControlPlane:
    """Brings a store's objects to rest: :meth:`reconcile` after every change."""

    def __init__(
        self,
        store: ObjectStore,
        ranges: Ranges = Ranges(),
        terminate: Callable[[Pod, float], None] | None = None,
    ) -> None:
        self.store = store
        self.ranges = ranges
        self._terminate = terminate if terminate is not None else self._delete
        #: How long pods that are not wanted any more have until they are gone.
        self.grace_s = 0.0
        #: Nodes that were deleted: their pods wait for the garbage collector.
        self._gone: set[str] = set()
        store.watch(self._node_changed, (Node,))
        #: Per workload, every name that was ever given, and its number.
        self._numbers: dict[tuple[str, str, str], dict[str, int]] = {}
        self._next_address: dict[str, int] = {}

    def _delete(self, pod: Pod, grace_s: float) -> None:
        self.store.delete("Pod", pod.name, pod.namespace)

    def _node_changed(self, event: WatchEvent) -> None:
        if event.type is EventType.DELETED:
            self._gone.add(event.object.name)
        else:
            self._gone.discard(event.object.name)

    def reconcile(self) -> None:
        """Fill in what is missing, make and remove pods. Calling it again changes nothing.

        Raises:
            ObjectError: An object asks for something that does not exist, or a range is used up.
            UnsupportedFeature: It asks for something that is not modelled.
        """
        make_namespaces(self.store)
        for node in self.store.list(Node):
            self._node(node)
        for kind in _WORKLOADS:
            for workload in self.store.list(kind):
                if not any(owner.controller for owner in workload.metadata.owner_references):
                    # The others are a Deployment's ReplicaSets in a file that kubectl printed.
                    self._workload(workload)
        self._orphans()
        for pod in self.store.list(Pod):
            self._pod(pod)
        for service in self.store.list(Service):
            self._service(service)

    # Nodes

    def _node(self, node: Node) -> None:
        status, spec = node.status, node.spec
        if not node.host_ips:
            used = {ip for other in self.store.list(Node) for ip in other.host_ips}
            address = _first_free(_addresses_from(FIRST_NODE_ADDRESS, NODE_NETWORK), used, f"{node}")
            status = status.model_copy(
                update={"addresses": (*status.addresses, NodeAddress(type="InternalIP", address=str(address)))}
            )
        if not any(":" not in cidr for cidr in (*spec.pod_cidrs, spec.pod_cidr) if cidr):
            taken = [network for other in self.store.list(Node) if (network := pod_network(other)) is not None]
            networks = self.ranges.pods.subnets(new_prefix=max(NODE_POD_PREFIX, self.ranges.pods.prefixlen))
            # The first one stays free, so that node number and network number agree.
            free = (one for one in islice(networks, 1, None) if not any(one.overlaps(other) for other in taken))
            network = next(free, None)
            if network is None:
                raise ObjectError(f"no pod network left in {self.ranges.pods}", place=str(node))
            spec = spec.model_copy(
                update={"pod_cidr": spec.pod_cidr or str(network), "pod_cidrs": (*spec.pod_cidrs, str(network))}
            )
        if not status.conditions:
            status = status.model_copy(update={"conditions": (NodeCondition(type="Ready", status="True"),)})
        if not status.allocatable:
            status = status.model_copy(update={"allocatable": {"cpu": NODE_CPUS}})
        if spec is not node.spec or status is not node.status:
            self.store.apply(node.model_copy(update={"spec": spec, "status": status}))

    # Pods

    def _workload(self, workload: Workload) -> None:
        here = self._pods_of(workload)
        if isinstance(workload, DaemonSet):
            wanted = {f"{workload.name}-{node.name}": node.name for node in self.store.list(Node)}
        elif isinstance(workload, StatefulSet):
            first = workload.spec.ordinals.start
            wanted = {f"{workload.name}-{number}": "" for number in range(first, first + workload.spec.replicas)}
        else:
            missing = workload.spec.replicas - self._foreign_pods(workload)
            # The newest go first; a name is never given twice, as in a cluster, where a new pod has a new suffix.
            numbers = self._numbers.setdefault(workload.key, {})
            names = sorted(here, key=lambda name: numbers.get(name, 0))[: max(missing, 0)]
            while len(names) < missing:
                number = len(numbers) + 1
                names.append(f"{workload.name}-{number}")
                numbers[names[-1]] = number
            wanted = dict.fromkeys(names, "")
        for name in sorted(here.keys() - wanted.keys()):
            self._terminate(here[name], self.grace_s)
        for name, node_name in wanted.items():
            if self.store.get(Pod, name, workload.namespace) is None:
                self.store.apply(self._make_pod(workload.namespace, name, workload, workload.spec.template, node_name))

    def _pods_of(self, workload: Workload) -> dict[str, Pod]:
        """The pods made here for a workload that are not terminating, by name."""
        return {
            pod.name: pod
            for pod in self.store.list(Pod, workload.namespace)
            if not pod.terminating
            and pod.metadata.annotations.get(MADE_BY)
            and any(
                (owner.kind, owner.name) == (workload.kind, workload.name) for owner in pod.metadata.owner_references
            )
        }

    def _orphans(self) -> None:
        """Pods made here whose workload is gone go too."""
        for pod in self.store.list(Pod):
            owners = pod.metadata.owner_references
            if pod.metadata.annotations.get(MADE_BY) and not any(
                self.store.get(owner.kind, owner.name, pod.namespace) for owner in owners
            ):
                self._terminate(pod, self.grace_s)

    def _foreign_pods(self, workload: Workload) -> int:
        """Pods of a workload that came with the objects, as in ``kubectl get deployments,pods -o yaml``."""
        return sum(
            not pod.metadata.annotations.get(MADE_BY)
            and not pod.terminated
            and any(owner.controller for owner in pod.metadata.owner_references)
            and workload.spec.selector.matches(pod.metadata.labels)
            for pod in self.store.list(Pod, workload.namespace)
        )

    def _make_pod(
        self, namespace: str, name: str, workload: Workload, template: PodTemplateSpec, node_name: str
    ) -> Pod:
        metadata = template.metadata.model_copy(
            update={
                "name": name,
                "namespace": namespace,
                "annotations": {**template.metadata.annotations, MADE_BY: "pktsim"},
                "owner_references": (
                    OwnerReference(
                        api_version="apps/v1",
                        kind=workload.kind,
                        name=workload.name,
                        uid=workload.metadata.uid,
                        controller=True,
                    ),
                ),
            }
        )
        spec = template.spec
        if node_name:
            spec = spec.model_copy(update={"node_name": node_name})
        if isinstance(workload, StatefulSet):
            # pkg/controller/statefulset/stateful_set_utils.go, updateIdentity
            spec = spec.model_copy(update={"hostname": name, "subdomain": workload.spec.service_name or None})
        return Pod(api_version="v1", kind="Pod", metadata=metadata, spec=spec)

    def _pod(self, pod: Pod) -> None:
        if pod.terminated:
            return
        spec, status = pod.spec, pod.status
        if not spec.node_name:
            spec = spec.model_copy(update={"node_name": self._schedule(pod)})
        node = self.store.get(Node, spec.node_name)
        if node is None and spec.node_name in self._gone:
            return
        if node is None:
            known = ", ".join(other.name for other in self.store.list(Node))
            mend = f"there are {known}" if known else "add a Node, or ask for nodes"
            raise ObjectError(f"no node {spec.node_name}", place=f"{pod}, spec.nodeName", mend=mend)
        if not status.pod_ip:
            address = self._node_address(node) if spec.host_network else self._pod_address(node)
            status = status.model_copy(update={"pod_ip": str(address), "pod_ips": (PodIP(ip=str(address)),)})
        if not status.phase:
            status = status.model_copy(update={"phase": "Running"})
        if not status.conditions:
            status = status.model_copy(update={"conditions": (PodCondition(type="Ready", status="True"),)})
        if spec is not pod.spec or status is not pod.status:
            self.store.apply(pod.model_copy(update={"spec": spec, "status": status}))

    def _schedule(self, pod: Pod) -> str:
        """The node with the fewest pods of the same owner, then with the fewest pods, then the first by name."""
        nodes = [
            node.name
            for node in self.store.list(Node)
            if not any(taint.key in _KEEPING_OFF for taint in node.spec.taints)
        ]
        if not nodes and self.store.list(Node):
            raise ObjectError("no node takes it: all are cordoned or down", place=str(pod), mend="uncordon one")
        if not nodes:
            raise ObjectError("there is no node to run it on", place=str(pod), mend="add a Node, or ask for nodes")
        owners = {(owner.kind, owner.name) for owner in pod.metadata.owner_references}
        pods = [other for other in self.store.list(Pod) if other.spec.node_name]

        def load(node: str) -> tuple[int, int, str]:
            here = [other for other in pods if other.spec.node_name == node]
            kin = [
                other
                for other in here
                if owners & {(owner.kind, owner.name) for owner in other.metadata.owner_references}
            ]
            return len(kin), len(here), node

        return min(nodes, key=load)

    def _node_address(self, node: Node) -> IPv4Address:
        for address in node.host_ips:
            if isinstance(address, IPv4Address):
                return address
        raise UnsupportedFeature("a node without IPv4 address", place=str(node))

    def _pod_address(self, node: Node) -> IPv4Address:
        network = pod_network(node)
        if network is None:
            raise UnsupportedFeature("a node without IPv4 podCIDR", place=str(node))
        used = set(taken_pod_addresses(self.store))
        # The last one is left to the bridge.
        hosts = max(network.num_addresses - 3, 0)
        # Like CNI's host-local plugin, on from the last one given: one that was let go is not given again at once.
        start = self._next_address.get(node.name, 0) % max(hosts, 1)
        free = (network.network_address + 1 + host for host in chain(range(start, hosts), range(start)))
        address = _first_free(free, used, f"podCIDR of {node}")
        self._next_address[node.name] = int(address) - int(network.network_address)
        return address

    # Services

    def _service(self, service: Service) -> None:
        spec = service.spec
        if spec.type == "ExternalName":
            return
        if not spec.cluster_ip:
            used = {
                IPv4Address(other.spec.cluster_ip)
                for other in self.store.list(Service)
                if other.spec.cluster_ip not in ("", CLUSTER_IP_NONE) and ":" not in other.spec.cluster_ip
            }
            first = self.ranges.services.network_address + 1
            address = _first_free(_addresses_from(first, self.ranges.services), used | {self.ranges.dns}, str(service))
            spec = spec.model_copy(update={"cluster_ip": str(address), "cluster_ips": (str(address),)})
        if not spec.ip_families and spec.cluster_ip != CLUSTER_IP_NONE:
            families = tuple("IPv6" if ":" in one else "IPv4" for one in spec.cluster_ips)
            spec = spec.model_copy(update={"ip_families": families})
        if spec.type in ("NodePort", "LoadBalancer") and spec.allocate_load_balancer_node_ports is not False:
            spec = spec.model_copy(update={"ports": tuple(self._node_ports(service, spec.ports))})
        if service.needs_health_check and not spec.health_check_node_port:
            taken = self._taken_node_ports() | {port.node_port for port in spec.ports}
            number = next((one for one in range(LAST_NODE_PORT, FIRST_NODE_PORT - 1, -1) if one not in taken), 0)
            spec = spec.model_copy(update={"health_check_node_port": number})
        if spec != service.spec:
            self.store.apply(service.model_copy(update={"spec": spec}))

    def _taken_node_ports(self) -> set[int]:
        services = self.store.list(Service)
        ports = {port.node_port for service in services for port in service.spec.ports}
        return (ports | {service.spec.health_check_node_port for service in services}) - {0}

    def _node_ports(self, service: Service, ports: Iterable[Any]) -> Iterator[Any]:
        used = self._taken_node_ports()
        for port in ports:
            if not port.node_port:
                number = next((one for one in range(FIRST_NODE_PORT, LAST_NODE_PORT + 1) if one not in used), 0)
                if not number:
                    raise ObjectError("no node port left", place=str(service))
                used.add(number)
                port = port.model_copy(update={"node_port": number})
            yield port


def make_namespaces(store: ObjectStore) -> None:
    """Add the namespaces that objects live in: the API server would not have taken them without."""
    known = {found.name for found in store.list(Namespace)}
    for name in sorted({found.namespace for found in store} - known - {""}):
        metadata = ObjectMeta(name=name, annotations={MADE_BY: "pktsim"})
        store.apply(Namespace(api_version="v1", kind="Namespace", metadata=metadata))


def pod_addresses(store: ObjectStore) -> list[IPAddress]:
    """The addresses of all pods."""
    return [address for pod in store.list(Pod) for address in pod.addresses]


def pod_network(node: Node) -> IPv4Network | None:
    """A node's IPv4 pod network."""
    for cidr in (*node.spec.pod_cidrs, node.spec.pod_cidr):
        if cidr and ":" not in cidr:
            return IPv4Network(cidr, strict=False)
    return None


def taken_pod_addresses(store: ObjectStore) -> Iterator[IPv4Address]:
    """IPv4 addresses of pods, and of endpoints whose pods are not among the objects."""
    for pod in store.list(Pod):
        if not pod.terminated:
            yield from (address for address in pod.addresses if isinstance(address, IPv4Address))
    for piece in store.list(EndpointSlice):
        if piece.address_type == "IPv4":
            yield from (IPv4Address(text) for endpoint in piece.endpoints for text in endpoint.addresses)


def _addresses_from(first: IPv4Address, network: IPv4Network) -> Iterator[IPv4Address]:
    for offset in count():
        address = first + offset
        if address not in network or address == network.broadcast_address:
            return
        yield address


def _first_free(candidates: Iterable[IPv4Address], used: Iterable[Any], place: str) -> IPv4Address:
    taken = frozenset(used)
    for address in candidates:
        if address not in taken:
            return address
    raise TopologyError("no address left", place=place)
