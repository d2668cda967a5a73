"""What controllers write into the status of the Ingresses that they serve: where these can be reached.

Source: ingress-nginx internal/ingress/status/status.go (``runningAddresses``, ``statusAddressFromService``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pktsim.cluster.objects import (
    Ingress,
    IngressClass,
    IngressLoadBalancerIngress,
    IngressLoadBalancerStatus,
    IngressStatus,
    Node,
    Pod,
    Service,
    ServicePort,
    selects,
)
from pktsim.cluster.store import ObjectStore
from pktsim.fidelity import approximated

from .routing import serves
from .settings import Arguments, is_controller, read_arguments

approximated(
    "ingress.status",
    "the status of an Ingress follows at once from the service in front of the controller; the real one elects a "
    "leader, which looks every minute",
    source="ingress-nginx internal/ingress/status/status.go UpdateInterval",
)


class StatusPublisher:
    """Keeps statuses true; :meth:`publish` after every change."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._published: set[tuple[str, str]] = set()

    def publish(self) -> None:
        """Write what has changed."""
        ingresses = self._store.list(Ingress)
        if not ingresses:
            return
        controllers = [
            (pod, arguments)
            for pod in self._store.list(Pod)
            if is_controller(pod) and not pod.terminated and (arguments := read_arguments(pod)).update_status
        ]
        classes = {("", found.name): found for found in self._store.list(IngressClass)}
        for ingress in ingresses:
            key = (ingress.namespace, ingress.name)
            serving = next((one for one in controllers if serves(ingress, classes, one[1])), None)
            if serving is not None:
                pods = [pod for pod, arguments in controllers if arguments == serving[1]]
                self._write(ingress, tuple(self._addresses(serving[1], pods)))
                self._published.add(key)
            elif key in self._published:
                # The last controller takes back what it said, on its way out (--update-status-on-shutdown).
                self._write(ingress, ())
                self._published.discard(key)

    def _write(self, ingress: Ingress, addresses: tuple[IngressLoadBalancerIngress, ...]) -> None:
        if ingress.status.load_balancer.ingress != addresses:
            status = IngressStatus(load_balancer=IngressLoadBalancerStatus(ingress=addresses))
            self._store.apply(ingress.model_copy(update={"status": status}))

    def _addresses(self, arguments: Arguments, pods: Iterable[Pod]) -> Iterator[IngressLoadBalancerIngress]:
        if arguments.publish_addresses:
            yield from (_entry(text.strip()) for text in arguments.publish_addresses.split(","))
        elif arguments.publish_service:
            namespace, _, name = arguments.publish_service.partition("/")
            service = self._store.get(Service, name, namespace)
            if service is not None:
                yield from _of_service(service)
        else:
            names = {pod.spec.node_name for pod in pods if pod.ready}
            texts = []
            for node in self._store.list(Node):
                if node.name in names:
                    wanted = [one.address for one in node.status.addresses if one.type == "ExternalIP"]
                    texts += wanted or [one.address for one in node.status.addresses if one.type == "InternalIP"]
            yield from (_entry(text) for text in sorted(set(texts)))


def front_address(store: ObjectStore, port: int, node_address: str) -> str | None:
    """Where a port of the controllers' pods is reached from outside, as ``ADDRESS:PORT``.

    That is a load balancer's address, or else an external one, or else a node's with the node port; ``None`` if no
    service leads there.
    """
    for service, one in _front_services(store, port):
        for address in service.status.load_balancer.ingress:
            if address.ip and service.spec.type == "LoadBalancer":
                return f"{address.ip}:{one.port}"
        if service.spec.external_ips:
            return f"{service.spec.external_ips[0]}:{one.port}"
        if one.node_port:
            return f"{node_address}:{one.node_port}"
    return None


def serves_host(store: ObjectStore, host: str) -> bool:
    """Whether a rule of some Ingress has this host, or its wildcard."""
    wanted = (host, "*." + host.partition(".")[2])
    return any(rule.host in wanted for found in store.list(Ingress) for rule in found.spec.rules)


def _front_services(store: ObjectStore, port: int) -> Iterator[tuple[Service, ServicePort]]:
    """Services that lead to controllers' pods from outside, and which port of each leads to this one of the pods."""
    for pod in store.list(Pod):
        if not is_controller(pod) or pod.terminated:
            continue
        names = {one.name for container in pod.spec.containers for one in container.ports if one.container_port == port}
        for service in store.list(Service, pod.namespace):
            selected = service.spec.selector and selects(service.spec.selector, pod.metadata.labels)
            if selected and service.externally_accessible:
                yield from ((service, one) for one in service.spec.ports if one.target == port or one.target in names)


def _of_service(service: Service) -> Iterator[IngressLoadBalancerIngress]:
    spec = service.spec
    if spec.type == "ExternalName":
        yield IngressLoadBalancerIngress(hostname=spec.external_name)
    elif spec.type == "ClusterIP" or (spec.type == "NodePort" and not spec.external_ips):
        yield IngressLoadBalancerIngress(ip=spec.cluster_ip)
    else:
        seen = set()
        for one in service.status.load_balancer.ingress if spec.type == "LoadBalancer" else ():
            seen.add(one.ip)
            yield IngressLoadBalancerIngress(ip=one.ip, hostname=one.hostname)
        yield from (IngressLoadBalancerIngress(ip=text) for text in spec.external_ips if text not in seen)


def _entry(text: str) -> IngressLoadBalancerIngress:
    if ":" in text or text.replace(".", "").isdigit():
        return IngressLoadBalancerIngress(ip=text)
    return IngressLoadBalancerIngress(hostname=text)
