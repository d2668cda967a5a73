"""Endpoints whose pods are not among the objects get pods, so that traffic reaches somebody.

``kubectl get services,endpointslices,nodes -o yaml`` is a common thing to be given. What is made up here: the pod that
``targetRef`` names (or ``endpoint-10-1-2-3``), on the node whose pod network holds the address, listening on the
slice's ports. It has no labels, so no selector finds it, and the slices stay what they were.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from pktsim.cluster.control_plane import MADE_BY, pod_network
from pktsim.cluster.objects import EndpointSlice, Node, Pod, Service
from pktsim.cluster.objects_services import Endpoint
from pktsim.cluster.store import ObjectStore
from pktsim.fidelity import approximated

approximated(
    "cluster.endpoints.pods",
    "an endpoint whose pod is not among the objects gets one that answers on the endpoint's ports; it has no labels",
    source="staging/src/k8s.io/api/discovery/v1/types.go Endpoint.targetRef",
)


def adopt_endpoints(store: ObjectStore) -> None:
    """Make the pods that are missing. Endpoints at addresses beyond all pod networks stay unreachable."""
    known = {address for pod in store.list(Pod) for address in pod.addresses}
    nodes = store.list(Node)
    hosts = {ip for node in nodes for ip in node.host_ips}
    found: dict[IPv4Address, Pod] = {}
    for piece in store.list(EndpointSlice):
        if piece.address_type != "IPv4":
            continue
        for endpoint in piece.endpoints:
            for text in endpoint.addresses[:1]:
                address = IPv4Address(text)
                node = _node_of(address, nodes)
                if node is None or address in known or address in hosts:
                    continue
                pod = _pod(endpoint, address, node, piece)
                if store.get(Pod, pod.name, pod.namespace) is not None and address not in found:
                    pod = _pod(endpoint.model_copy(update={"target_ref": None}), address, node, piece)
                previous = found.get(address)
                if previous is not None:
                    pod = _with_ports_of(previous, pod)
                found[address] = pod
    store.apply_all(found.values())


def _node_of(address: IPv4Address, nodes: list[Node]) -> Node | None:
    for node in nodes:
        network = pod_network(node)
        if network is not None and address in network:
            return node
    return None


def _pod(endpoint: Endpoint, address: IPv4Address, node: Node, piece: EndpointSlice) -> Pod:
    reference = endpoint.target_ref
    if reference is not None and reference.kind == "Pod" and reference.name:
        name, namespace = reference.name, reference.namespace or piece.namespace
    else:
        name, namespace = f"endpoint-{str(address).replace('.', '-')}", piece.namespace
    ports = [{"containerPort": port.port, "protocol": port.protocol} for port in piece.ports if port.port]
    return Pod.model_validate(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "annotations": {f"{MADE_BY}-endpoint": "pktsim"}},
            "spec": {"nodeName": node.name, "containers": [{"name": "endpoint", "ports": ports}]},
            "status": {
                "phase": "Running",
                "podIP": str(address),
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
    )


def _with_ports_of(one: Pod, other: Pod) -> Pod:
    """An endpoint of several slices listens on the ports of all of them."""
    container = one.spec.containers[0]
    ports = dict.fromkeys((*container.ports, *other.spec.containers[0].ports))
    spec = one.spec.model_copy(update={"containers": (container.model_copy(update={"ports": tuple(ports)}),)})
    return one.model_copy(update={"spec": spec})


def serves_dns(pod: Pod, store: ObjectStore, service: Service | None) -> bool:
    """Whether kube-dns leads to a pod: by its selector, or by a slice that came with the objects."""
    if service is None:
        return False
    return any(
        piece.service_name == service.name
        and any(str(address) in endpoint.addresses for endpoint in piece.endpoints for address in pod.addresses)
        for piece in store.list(EndpointSlice, service.namespace)
    )
