"""What kubelet and the CNI plugin make of a pod on its node: a network namespace, files for its resolver, programs.

One object does this for all nodes: nothing of it differs from node to node.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from pktsim.cluster import programs
from pktsim.cluster.apps.tls import server_context
from pktsim.cluster.ingress.settings import is_controller
from pktsim.cluster.kubedns.install import corefile, dns_service, is_dns_pod
from pktsim.cluster.machines import TLS_ANNOTATION, PodMachine, app_of
from pktsim.cluster.objects import (
    DaemonSet,
    Deployment,
    KubeObject,
    ObjectMeta,
    Pod,
    ReplicaSet,
    Secret,
    Service,
    StatefulSet,
    selects,
)
from pktsim.cluster.objects_ingress import TLS_CERTIFICATE, TLS_PRIVATE_KEY
from pktsim.cluster.plumbing import add_interface, add_routes, add_space, plug
from pktsim.cluster.programs import ResolverFiles
from pktsim.cluster.resolver.client import Libc
from pktsim.cluster.resolver.conf import KubeletDns, pod_resolv_conf
from pktsim.cluster.resolver.hosts import pod_hosts_file
from pktsim.cluster.store import ObjectStore
from pktsim.cluster.walk import Note
from pktsim.cluster.wiring import HostGateway, PodPlan, device_name
from pktsim.errors import ObjectError, UnsupportedFeature
from pktsim.kernel.netns import Netns
from pktsim.kernel.network import Network
from pktsim.netfilter.ruleset import Family

#: Which C library a pod's image has: annotation of the pod, ``glibc`` (also without it) or ``musl``.
LIBC_ANNOTATION = "pktsim.io/libc"


class Kubelet:
    """Starts pods.

    Args:
        store: The objects.
        network: Where nodes are, and pods come.
        wiring: How a pod is joined to its node.
        resolv_conf: ``/etc/resolv.conf`` of nodes.
        dns_watch_delay_ns: From a change of an object until kube-dns knows of it.
        notes: Where programs on the way of packets say what they did.
    """

    def __init__(
        self,
        store: ObjectStore,
        network: Network,
        wiring: HostGateway,
        *,
        resolv_conf: str,
        dns_watch_delay_ns: int,
        notes: list[Note],
    ) -> None:
        self._store = store
        self._network = network
        self._wiring = wiring
        self._resolv_conf = resolv_conf
        self._dns_watch_delay_ns = dns_watch_delay_ns
        self._notes = notes

    def start(self, pod: Pod) -> PodMachine:
        """Make a pod's namespace, and in it what it is for: kube-dns, an ingress controller, or nothing yet.

        Raises:
            UnsupportedFeature: It has no IPv4 address.
            ObjectError: Its certificate is missing or no good.
        """
        machine = PodMachine(pod.full_name, self._namespace(pod), self._files(pod), pod)
        machine.certificate = self._certificate(pod)
        if is_controller(pod):
            machine.start_ingress(self._store, self._notes)
        elif is_dns_pod(self._store, pod):
            programs.serve_dns(
                machine.netns,
                corefile(self._store),
                self._store,
                Family.IPV4,
                machine.files,
                watch_delay_ns=self._dns_watch_delay_ns,
            )
        return machine

    def ports(self, pod: Pod) -> set[tuple[int, str]]:
        """What something in a pod listens on: the ports that it declares, and those that services lead to."""
        if is_dns_pod(self._store, pod) or is_controller(pod):
            return set()
        ports: set[tuple[int, str]] = set()
        for container in pod.spec.containers:
            ports.update((port.container_port, port.protocol) for port in container.ports)
        for service in self._store.list(Service, pod.namespace):
            if service.spec.selector and selects(service.spec.selector, pod.metadata.labels):
                for port in service.spec.ports:
                    if isinstance(port.target, int):
                        ports.add((port.target, port.protocol))
        return ports

    def _namespace(self, pod: Pod) -> Netns:
        address = next((ip for ip in pod.addresses if isinstance(ip, IPv4Address)), None)
        if address is None:
            raise UnsupportedFeature("a pod without IPv4 address", place=str(pod))
        node = self._network[pod.spec.node_name]
        prefix = self._wiring.pod_device
        host_interface = device_name(prefix, f"-{pod.name}")
        if any(device.name == host_interface for device in node.devices):
            host_interface = device_name(prefix, f"{pod.namespace}/{pod.name}")
        plan = PodPlan(pod.full_name, pod.spec.node_name, address, host_interface)
        space, port = self._wiring.pod(plan)
        netns = add_space(space, self._network)
        add_interface(port, node)
        plug(space.name, space.interface("eth0"), self._network)
        add_routes(space, netns)
        for route in self._wiring.pod_routes(plan):
            node.route_add(route)
        return netns

    def _files(self, pod: Pod) -> ResolverFiles:
        service = dns_service(self._store)
        cluster_dns = (service.spec.cluster_ip,) if service is not None else ()
        kubelet = KubeletDns(cluster_dns, host_resolv_conf=self._resolv_conf)
        return ResolverFiles(pod_resolv_conf(pod, kubelet), pod_hosts_file(pod), libc_of(pod.metadata, str(pod)))

    def _certificate(self, pod: Pod) -> tuple[bytes, bytes] | None:
        """The certificate and key of a pod's server, from the Secret that its annotation names."""
        name = pod.metadata.annotations.get(TLS_ANNOTATION)
        if name is None:
            return None
        secret = self._store.get(Secret, name, pod.namespace)
        certificate = secret.value(TLS_CERTIFICATE) if secret is not None else None
        key = secret.value(TLS_PRIVATE_KEY) if secret is not None else None
        if certificate is None or key is None:
            raise ObjectError(f"no certificate in Secret {name}", place=str(pod), mend="apply it before the pod")
        try:
            server_context(certificate, key, None)
        except (OSError, ValueError) as error:
            raise ObjectError(f"Secret {name}: {error}", place=str(pod)) from None
        return certificate, key


def check_pods_of(found: KubeObject) -> None:
    """Refuse what the annotations of a pod, or of a workload's template, ask for in vain.

    Raises:
        UnsupportedFeature: They name a program or a C library that is not known.
    """
    if isinstance(found, Pod):
        _check(found.metadata, str(found))
    elif isinstance(found, Deployment | ReplicaSet | StatefulSet | DaemonSet):
        _check(found.spec.template.metadata, f"{found}, spec.template")


def _check(metadata: ObjectMeta, place: str) -> None:
    libc_of(metadata, place)
    app_of(metadata, place)


def libc_of(metadata: ObjectMeta, place: str) -> Libc:
    """The C library that a pod's annotation names.

    Raises:
        UnsupportedFeature: It names another one than glibc and musl.
    """
    match metadata.annotations.get(LIBC_ANNOTATION, "glibc"):
        case "glibc":
            return "glibc"
        case "musl":
            return "musl"
        case other:
            raise UnsupportedFeature(f"{LIBC_ANNOTATION}: {other}", place=place, mend="glibc or musl")
