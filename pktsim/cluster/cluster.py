"""A whole cluster: objects in, machines out. What ``import pktsim`` is mostly about.

A :class:`Cluster` keeps its objects in a store, as an API server does; the control plane fills them in, kube-proxy on
every node and kube-dns in its pod watch them, and every Pod gets a network namespace with servers in it. Calls are
synchronous: each runs the simulated clock until its answer is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from pktsim.clock import NS_PER_S, Clock
from pktsim.cluster import programs
from pktsim.cluster.addresses import IPAddress, parse_ip
from pktsim.cluster.apps.tls import server_context
from pktsim.cluster.control_plane import ControlPlane, Ranges, pod_network
from pktsim.cluster.draws import ANY_NODE, EndpointDraws
from pktsim.cluster.endpoints import adopt_endpoints, serves_dns
from pktsim.cluster.endpointslice import EndpointSliceController
from pktsim.cluster.ingress.admission import admit
from pktsim.cluster.ingress.install import Installation
from pktsim.cluster.ingress.settings import is_controller
from pktsim.cluster.ingress.status import StatusPublisher, front_address, serves_host
from pktsim.cluster.kubedns.upstream import Upstream
from pktsim.cluster.kubeproxy.chain_names import CLUSTER_POLICY_PREFIX, LOCAL_POLICY_PREFIX, chain_hash
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.proxier import KubeProxy
from pktsim.cluster.kubeproxy.versions import DEFAULT_RELEASE, Release
from pktsim.cluster.lifecycle import PodLifecycle
from pktsim.cluster.loadbalancer.controller import LoadBalancers
from pktsim.cluster.loader import load_objects
from pktsim.cluster.machines import TLS_ANNOTATION, Machine, NodeMachine, PodMachine, RuledMachine, app_of
from pktsim.cluster.node_host import NodeHost
from pktsim.cluster.objects import (
    KINDS,
    ConfigMap,
    DaemonSet,
    Deployment,
    KubeObject,
    Node,
    ObjectMeta,
    Outside,
    Pod,
    ReplicaSet,
    Secret,
    Service,
    StatefulSet,
    selects,
)
from pktsim.cluster.objects_ingress import TLS_CERTIFICATE, TLS_PRIVATE_KEY
from pktsim.cluster.objects_outside import (
    NODE_NETWORK_NAME,
    OUTSIDE_NETWORK_NAME,
    ROUTER_NAME,
    HostPlan,
    NetworkPlan,
    RouterPlan,
)
from pktsim.cluster.outages import GRACE_S, TOLERATION_S, Outages
from pktsim.cluster.outside import OutsideWorld, Segment
from pktsim.cluster.plumbing import add_interface, add_node, add_routes, add_space, meet, plug, realise
from pktsim.cluster.programs import ResolverFiles
from pktsim.cluster.recorder import Recorder
from pktsim.cluster.resolver.client import Libc
from pktsim.cluster.resolver.conf import KubeletDns, pod_resolv_conf
from pktsim.cluster.resolver.hosts import pod_hosts_file
from pktsim.cluster.store import ObjectStore
from pktsim.cluster.walk import Note, Walk
from pktsim.cluster.wiring import (
    OUTSIDE,
    OUTSIDE_ADDRESS,
    SWITCH,
    UPLINK,
    HostGateway,
    NodePlan,
    PodPlan,
    device_name,
)
from pktsim.cluster.wirings import wiring_named
from pktsim.errors import IngressUnreachable, ObjectError, TopologyError, UnsupportedFeature
from pktsim.kernel.capture import Capture, KeyLog
from pktsim.kernel.explain import Explainer
from pktsim.kernel.netem import DEFAULT_LIMIT, FrameRule, GilbertElliott, Netem
from pktsim.kernel.network import LinkDirection, Network
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.rng import Choices, SeededChoices

DNS_NAMESPACE, DNS_SERVICE = "kube-system", "kube-dns"
DNS_PORT = 53

COREFILE = """\
.:53 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    forward . /etc/resolv.conf
    loadbalance
}
"""

#: Which C library a pod's image has: annotation of the pod, ``glibc`` (also without it) or ``musl``.
LIBC_ANNOTATION = "pktsim.io/libc"

_DNS_OBJECTS = """\
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {address}
  selector: {{k8s-app: kube-dns}}
  ports:
  - {{name: dns, port: 53, targetPort: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, targetPort: 53, protocol: TCP}}
---
apiVersion: v1
kind: Pod
metadata: {{name: coredns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  nodeName: {node}
  dnsPolicy: Default
  containers:
  - name: coredns
    ports: [{{containerPort: 53, protocol: UDP}}, {{containerPort: 53, protocol: TCP}}]
status: {{podIP: {pod_ip}}}
"""

Source = str | PathLike[str]


class Cluster:
    """Nodes, pods, services, and the host ``outside``.

    Args:
        nodes: How many nodes to make, ``node-a``, ``node-b`` and so on; objects may bring more.
        seed: Where all chance comes from.
        choices: Instead of the seed: scripted, or for an exhaustive search.
        ranges: Addresses that are given out.
        kube_proxy: Its configuration on every node; ``clusterCIDR`` is the pods' range unless it says so.
        dns: Whether there is a kube-dns if the objects bring none.
        upstream: What the name server of the world beyond the cluster knows, as ``NAME TTL TYPE DATA``: it runs in
            ``outside``, and nodes (so kube-dns too) have it in their ``/etc/resolv.conf``.
        node_resolv_conf: ``/etc/resolv.conf`` of nodes, instead of one with that server.
        dns_watch_delay: Seconds from a change of an object until kube-dns knows of it.
        kube_proxy_version: Which kube-proxy, and EndpointSlice controller, it is: ``1.30`` to ``1.38``.
        load_balancer: What gives Services of type LoadBalancer their addresses unless objects say so: ``l2``, ``ecmp``,
            ``passthrough``, ``nat``, ``proxy`` (see :class:`~pktsim.cluster.objects_balancer.LoadBalancerSpec`), or
            ``none``, as in a cluster without such a controller.
        keylog: A file for the keys of TLS connections, in the format of ``SSLKEYLOGFILE``; pcapng captures hold them in
            any case.
        wiring: How pods are joined to nodes and nodes to each other: ``host-gw`` (a bridge, routes),
            ``host-gw-no-brnf`` (without bridge-nf-call-iptables), ``vxlan`` (flannel), ``point-to-point`` (Calico).

    Attributes:
        store: The objects as they stand.
        network: The namespaces.
        clock: Simulated time.
    """

    def __init__(
        self,
        nodes: int = 0,
        *,
        seed: int = 0,
        choices: Choices | None = None,
        ranges: Ranges | None = None,
        kube_proxy: KubeProxyConfiguration | None = None,
        kube_proxy_version: str = str(DEFAULT_RELEASE),
        dns: bool = True,
        upstream: Upstream | Iterable[str] = (),
        node_resolv_conf: str = f"nameserver {OUTSIDE_ADDRESS}\n",
        dns_watch_delay: float = 0.0,
        load_balancer: str = "l2",
        keylog: str | PathLike[str] | None = None,
        wiring: str = "host-gw",
    ) -> None:
        self.clock = Clock()
        self.store = ObjectStore()
        self.ranges = Ranges() if ranges is None else ranges
        self.draws = EndpointDraws(self._rules_of, SeededChoices(seed) if choices is None else choices)
        self.network = Network(self.clock, self.draws, Capture())
        self.explainer = Explainer()
        if keylog is not None:
            self.capture.key_log = KeyLog(Path(keylog))
        self.capture.commenter = self.explainer.comments
        self.capture.namer = self.names
        self.capture.listeners.append(self.explainer.seen)
        self._dns = dns
        self._upstream = upstream if isinstance(upstream, Upstream) else Upstream.of(upstream)
        self._node_resolv_conf = node_resolv_conf
        self._dns_watch_delay_ns = round(dns_watch_delay * NS_PER_S)
        self._kube_proxy_config = kube_proxy
        self._release = Release.parse(kube_proxy_version)
        self._lifecycle = PodLifecycle(self.store, self.clock, self._kill, self._settle_now)
        self._control_plane = ControlPlane(self.store, self.ranges, self._lifecycle.terminate)
        self._slices = EndpointSliceController(self.store, release=self._release)
        self.load_balancers = LoadBalancers(self.store, load_balancer)
        self._outages = Outages(self.store, self.clock, self._settle_now)
        self._ingress_status = StatusPublisher(self.store)
        #: What programs on the way of packets say that they did.
        self.notes: list[Note] = []
        self._wiring_type = wiring_named(wiring)
        self._wiring: HostGateway | None = None
        self._pods: dict[tuple[str, str], PodMachine] = {}
        self._nodes: dict[str, NodeMachine] = {}
        self._world: OutsideWorld | None = None
        self._built: dict[str, Outside] = {}
        if nodes:
            self.apply(
                [
                    Node.model_validate({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
                    for name in node_names(nodes)
                ]
            )

    @classmethod
    def load(
        cls,
        *sources: Source,
        nodes: int = 0,
        seed: int = 0,
        choices: Choices | None = None,
        upstream: Upstream | Iterable[str] = (),
        kube_proxy: KubeProxyConfiguration | None = None,
        kube_proxy_version: str = str(DEFAULT_RELEASE),
        load_balancer: str = "l2",
        wiring: str = "host-gw",
        keylog: str | PathLike[str] | None = None,
    ) -> Cluster:
        """A cluster with the objects of one or several files (or texts), as ``kubectl get -o yaml`` prints them.

        Args:
            nodes: How many nodes to make if the objects bring none; two if it is not said.
            upstream: What the name server beyond the cluster knows.
            kube_proxy: Its configuration on every node.
            kube_proxy_version, load_balancer, wiring, keylog: As for :class:`Cluster`.

        Raises:
            ObjectError: The API server would refuse an object.
            UnsupportedFeature: An object would change what happens to packets and is not modelled.
        """
        objects = [found for source in sources for found in load_objects(source)]
        if not nodes and not any(isinstance(found, Node) for found in objects):
            nodes = 2
        ranges = _ranges_of(objects)
        cluster = cls(
            nodes,
            seed=seed,
            choices=choices,
            ranges=ranges,
            upstream=upstream,
            kube_proxy=kube_proxy,
            kube_proxy_version=kube_proxy_version,
            load_balancer=load_balancer,
            wiring=wiring,
            keylog=keylog,
        )
        cluster.apply(objects)
        return cluster

    # Objects

    def apply(self, objects: Source | Iterable[KubeObject]) -> None:
        """``kubectl apply``: add or replace objects.

        Raises:
            ObjectError: The API server would refuse an object.
            UnsupportedFeature: An object would change what happens to packets and is not modelled.
        """
        found = load_objects(objects) if isinstance(objects, str | PathLike) else list(objects)
        for one in found:
            if isinstance(one, Pod):
                _check_pod(one.metadata, str(one))
            elif isinstance(one, Deployment | ReplicaSet | StatefulSet | DaemonSet):
                _check_pod(one.spec.template.metadata, f"{one}, spec.template")
        self.store.apply_all(admit(self.store, found))
        self._settle()

    def delete(self, reference: str, *, grace: float = 0.0) -> None:
        """``kubectl delete``: ``pod/web-1``, ``service/shop/web``, ``node/node-b`` (which is switched off).

        Args:
            reference: What.
            grace: Seconds that a pod, or the pods of a workload, are terminating before they are gone; without it they
                vanish, as with ``--force --grace-period=0``.
        """
        kind, namespace, name = _reference(reference)
        found = self.store.get(kind, name, namespace)
        if isinstance(found, Pod):
            self._lifecycle.terminate(found, grace)
        else:
            self.store.delete(kind, name, namespace)
        if isinstance(found, Node):
            self._lifecycle.node_gone(name)
        self._settle(grace)

    def set_ready(self, reference: str, ready: bool = True) -> None:
        """Let a readiness probe succeed or fail: ``pod/web-1``, ``node/node-b``."""
        kind, namespace, name = _reference(reference)
        found = self.store.get(kind, name, namespace)
        if not isinstance(found, Pod | Node):
            what = "has no readiness" if found is not None else "does not exist"
            raise ObjectError(f"{reference} {what}", mend="name pod/NAMESPACE/NAME or node/NAME")
        self.store.apply(found.with_ready(ready=ready))
        self._settle()

    def label(self, reference: str, **labels: str) -> None:
        """``kubectl label --overwrite``: ``label("node/node-a", **{"topology.kubernetes.io/zone": "a"})``."""
        kind, namespace, name = _reference(reference)
        found = self.store.get(kind, name, namespace)
        if found is None:
            raise ObjectError(f"{reference} does not exist")
        metadata = found.metadata.model_copy(update={"labels": {**found.metadata.labels, **labels}})
        self.store.apply(found.model_copy(update={"metadata": metadata}))
        self._settle()

    def scale(self, reference: str, replicas: int, *, grace: float = 0.0) -> None:
        """``kubectl scale --replicas``: ``deployment/web``. Pods that go have ``grace`` seconds."""
        kind, namespace, name = _reference(reference)
        found = self.store.get(kind, name, namespace)
        if not isinstance(found, Deployment | ReplicaSet | StatefulSet):
            what = "cannot be scaled" if found is not None else "does not exist"
            raise ObjectError(f"{reference} {what}", mend="scale deployment/NAME, replicaset/NAME or statefulset/NAME")
        spec = found.spec.model_copy(update={"replicas": replicas})
        self.store.apply(found.model_copy(update={"spec": spec}))
        self._settle(grace)

    def install_ingress(self, **options: Any) -> None:
        """Apply the objects of an ingress controller: a class, settings, pods, and a service in front of them.

        Args:
            options: See :class:`~pktsim.cluster.ingress.install.Installation`: ``service="NodePort"``,
                ``node_ports=(30080, 30443)``, ``replicas=2``, ``config={"proxy-read-timeout": "5"}``…
        """
        self.apply(load_objects(Installation(**options).objects()))

    @property
    def ingress_address(self) -> str:
        """Where an ingress controller's HTTP is reached from outside, as ``ADDRESS:PORT``.

        That is its load balancer's address, or else the first node's with the node port.

        Raises:
            ObjectError: There is no controller with such a service in front.
        """
        return self._ingress_address(80)

    def _ingress_address(self, port: int) -> str:
        self._started()
        address = front_address(self.store, port, self.nodes[0].address)
        if address is None:
            what = "no ingress controller can be reached from outside"
            raise IngressUnreachable(what, mend="cluster.install_ingress()")
        return address

    def logs(self, reference: str) -> str:
        """``kubectl logs``: what the program in a pod has printed (``pod/ingress-nginx/NAME``): an access log.

        Raises:
            TopologyError: There is no such pod.
        """
        kind, namespace, name = _reference(reference)
        if kind != "Pod":
            raise ObjectError(f"{reference} has no logs", mend="name a pod, as in pod/web-1")
        return "".join(f"{line}\n" for line in self.pod(f"{namespace}/{name}").log)

    # Machines

    @property
    def nodes(self) -> tuple[NodeMachine, ...]:
        """All nodes, by name."""
        self._started()
        return tuple(self._nodes[name] for name in sorted(self._nodes))

    @property
    def pods(self) -> tuple[PodMachine, ...]:
        """All pods, by namespace and name."""
        self._started()
        return tuple(self._pods[key] for key in sorted(self._pods))

    def node(self, name: str) -> NodeMachine:
        """A node.

        Raises:
            TopologyError: There is none of that name.
        """
        self._started()
        if name not in self._nodes:
            known = "there are " + ", ".join(sorted(self._nodes))
            down = name in self._outages.down
            raise TopologyError(f"node {name!r} is down" if down else f"there is no node {name!r}", mend=known)
        return self._nodes[name]

    def pod(self, name: str) -> PodMachine:
        """A pod, ``namespace/name``, or ``name`` in ``default``.

        Raises:
            TopologyError: There is none of that name.
        """
        self._started()
        namespace, _, short = name.rpartition("/")
        found = self._pods.get((namespace or "default", short))
        if found is None:
            known = ", ".join(f"{namespace}/{short}" for namespace, short in sorted(self._pods))
            raise TopologyError(f"there is no pod {name!r}", mend=f"there are {known}" if known else "apply one")
        return found

    @property
    def outside(self) -> Machine:
        """A host beyond the nodes' router."""
        return self._beyond().machines[OUTSIDE]

    @property
    def router(self) -> RuledMachine:
        """The nodes' router."""
        return self._ruled(ROUTER_NAME)

    def machine(self, name: str) -> Machine:
        """A pod, a node, or a machine outside (``outside``, ``router``, those that were added) of that name."""
        beyond = self._beyond().machines
        if name in beyond:
            return beyond[name]
        return self._nodes[name] if name in self._nodes else self.pod(name)

    # The world beyond the nodes' router

    def add_host(self, name: str, address: str = "", *, network: str = OUTSIDE_NETWORK_NAME) -> Machine:
        """A host outside of the cluster, which serves HTTP on 8080 and an echo on 8081 as ``outside`` does.

        Args:
            name: What :meth:`machine` calls it.
            address: A free one if it is not given.
            network: ``outside`` (203.0.113.0/24), ``nodes``, or one that was added; a router's inner network has the
                router's name.

        Raises:
            TopologyError: The name or the address is taken, or there is no such network.
        """
        return self._beyond().add_host(_plan(HostPlan, name=name, address=address, network=network))

    def add_router(
        self,
        name: str,
        address: str = "",
        *,
        network: str = OUTSIDE_NETWORK_NAME,
        inside: str | None = None,
        nat: bool = False,
    ) -> RuledMachine:
        """A router with a network of its own name behind it.

        Args:
            name: What :meth:`machine` calls it, and :meth:`add_host` its network.
            address: Its address in ``network``; a free one if it is not given.
            network: Where its uplink is.
            inside: The network behind it, as ``10.66.0.0/24``.
            nat: It masquerades what leaves by its uplink, as a home's or an office's router does.

        Raises:
            TopologyError: The name or the address is taken, or the network is known already.
        """
        plan = _plan(RouterPlan, name=name, address=address, network=network, inside=inside, nat=nat)
        return self._beyond().add_router(plan)

    def add_network(self, name: str, cidr: str, *, router: str = ROUTER_NAME) -> None:
        """A further network behind a router.

        Raises:
            TopologyError: The name is taken, there is no such router, or the addresses are known already.
        """
        self._beyond().add_network(_plan(NetworkPlan, name=name, cidr=cidr, router=router))

    # What balancers use (loadbalancer.surroundings.Surroundings)

    @property
    def chance(self) -> Choices:
        """Where free choices come from."""
        return self.draws

    def powered(self) -> Mapping[str, NodeMachine]:
        """Nodes that are on, by name."""
        return self._nodes

    def on_the_nodes_wire(self, address: IPv4Address) -> bool:
        """Whether an address is one of the network between the nodes."""
        return self._wiring is not None and address in self._wiring.node_network

    def balancer_machine(self, name: str) -> RuledMachine:
        """A new machine on the network between the nodes, for a balancer."""
        plan = _plan(HostPlan, name=name, network=NODE_NETWORK_NAME)
        machine = self._beyond().add_host(plan, serve=False, ruled=True)
        assert isinstance(machine, RuledMachine)
        return machine

    def _sync_balancers(self) -> None:
        self.load_balancers.sync(self)
        for name, address in self.load_balancers.hostnames().items():
            if name not in self._upstream.records:
                self._upstream.records.update(Upstream.of([f"{name}. 60 A {address}"]).records)

    def _beyond(self) -> OutsideWorld:
        self._started()
        assert self._world is not None
        return self._world

    def _ruled(self, name: str) -> RuledMachine:
        machine = self._beyond().machines[name]
        assert isinstance(machine, RuledMachine)
        return machine

    # Links

    def impair(
        self,
        machine: str,
        *,
        interface: str = UPLINK,
        peer: str = "",
        direction: LinkDirection = "both",
        loss: float | GilbertElliott = 0.0,
        loss_every: int = 0,
        duplicate: float = 0.0,
        corrupt: float = 0.0,
        reorder: float = 0.0,
        gap: int = 0,
        delay_ms: float = 0.0,
        jitter_ms: float = 0.0,
        rate: str | int = 0,
        limit: int = DEFAULT_LIMIT,
        script: Iterable[FrameRule] = (),
    ) -> None:
        """Make a machine's link bad, as tc-netem does; see :class:`~pktsim.kernel.netem.Netem` for the settings.

        What was said before of the same link is no longer so: without settings it is a good one again. Captures show
        what the sending device sent and what the receiving one got.

        Args:
            machine: A pod, a node, `a machine outside.
            interface: Which of its interfaces.
            peer: Only what goes between the machine and this one, which is on the same link (pods of one node, nodes).
            direction: ``out``, what the machine sends; ``in``, what it gets; each direction is drawn by itself.

        Raises:
            TopologyError: There is no such link, or the settings make no sense.
        """
        netem = Netem(
            loss, loss_every, duplicate, corrupt, reorder, gap, delay_ms, jitter_ms, rate, limit, tuple(script)
        )  # fmt: skip
        space = self.machine(machine).netns
        mac = self.machine(peer).netns.devices.named(UPLINK).mac if peer else b""
        self.network.impair(space, interface, netem, direction=direction, peer=mac)

    def link(self, machine: str, *, up: bool, interface: str = UPLINK) -> None:
        """Unplug a machine's link, or plug it in again.

        Nothing passes, in either direction. Addresses and routes stay, as they do without carrier; neighbours and what
        bridges have learnt are forgotten at both ends.

        Raises:
            TopologyError: There is no such link.
        """
        self.network.set_carrier(self.machine(machine).netns, interface, up=up)

    # Failures

    def fail_node(self, name: str, *, grace: float = GRACE_S, toleration: float = TOLERATION_S) -> None:
        """A node loses its power, and with it its kernel and its pods: nothing answers any more.

        Args:
            name: Which.
            grace: Seconds until the control plane holds it for NotReady, and Services lose its endpoints.
            toleration: Seconds from then until its pods are evicted.

        Raises:
            TopologyError: There is no such node, or it is down already.
        """
        self.node(name)
        self._power_off(name)
        self._outages.begin(name, grace, toleration)

    def recover_node(self, name: str) -> None:
        """A node that was down starts again, with the pods that were not evicted.

        Raises:
            TopologyError: It is not down.
        """
        self._outages.end(name)
        self._power_on(name)
        self._settle()

    def drain(self, name: str, *, grace: float = 0.0, force: bool = False) -> None:
        """``kubectl drain --ignore-daemonsets``: no pod is placed on a node any more, and those on it are deleted.

        Args:
            name: Which.
            grace: Seconds that each pod has until it is gone.
            force: Delete pods too that nothing replaces.

        Raises:
            ObjectError: There is no such node, or a pod that nothing would replace.
        """
        pods = self._outages.to_drain(name, force=force)
        self._outages.cordon(name)
        for pod in pods:
            self._lifecycle.terminate(pod, grace)
        self._settle(grace)

    def uncordon(self, name: str) -> None:
        """``kubectl uncordon``: pods may be placed on a node again.

        Raises:
            ObjectError: There is no such node.
        """
        self._outages.cordon(name, on=False)
        self._settle()

    def kill_pod(self, name: str, *, restart: float | None = 1.0) -> None:
        """A pod's programs are killed, as by the kernel when memory runs out; its kernel closes their connections.

        Args:
            name: ``namespace/name``, or ``name`` in ``default``.
            restart: Seconds until kubelet has started them again; never if ``None``.

        Raises:
            TopologyError: There is no such pod.
            UnsupportedFeature: It is one of kube-dns or an ingress controller, whose programs cannot start again.
        """
        machine = self.pod(name)
        if machine.ingress is not None or self.serves_dns(machine.pod):
            raise UnsupportedFeature("killing the program of kube-dns or an ingress controller", place=machine.name)
        machine.stop()
        self._pod_ready(machine, ready=False)
        if restart is not None:
            self.clock.after(round(restart * NS_PER_S), lambda: self._restart(machine))

    def _restart(self, machine: PodMachine) -> None:
        pod = machine.pod
        if self._pods.get((pod.namespace, pod.name)) is machine:
            machine.stopped = False
            self._pod_ready(machine, ready=True)

    def _pod_ready(self, machine: PodMachine, *, ready: bool) -> None:
        found = self.store.get(Pod, machine.pod.name, machine.pod.namespace)
        assert found is not None
        self.store.apply(found.with_ready(ready=ready))
        self._settle_now()

    # Time and what was seen

    def run(self, seconds: float) -> None:
        """Let simulated time pass."""
        self.clock.run_for(round(seconds * NS_PER_S))

    @property
    def capture(self) -> Capture:
        """Every frame on every interface."""
        return self.network.capture

    def names(self) -> Mapping[bytes, tuple[str, ...]]:
        """What addresses are called, for captures."""
        found: dict[bytes, list[str]] = {}
        for node in self.store.list(Node):
            for ip in node.host_ips:
                found.setdefault(ip.packed, []).append(node.name)
        for pod in self.store.list(Pod):
            if not pod.spec.host_network:
                for ip in pod.addresses:
                    found.setdefault(ip.packed, []).append(f"{pod.name}.{pod.namespace}.pod")
        if self._world is not None:
            for ip, name in self._world.names():
                found.setdefault(ip.packed, []).append(name)
        for service in self.store.list(Service):
            for text in (*service.spec.cluster_ips, *service.spec.external_ips):
                if text != "None" and text:
                    found.setdefault(parse_ip(text).packed, []).append(f"{service.name}.{service.namespace}.svc")
        return {address: tuple(names) for address, names in found.items()}

    def draw(self, service: str, *pods: str) -> None:
        """Let the next connections to a service draw these pods, in this order, whichever node they come by.

        Args:
            service: ``namespace/name``, or ``name`` in ``default``; only one port of it if ``:PORT``, a port's name,
                follows.
            pods: Their names; those in another namespace than the service as ``namespace/name``.
        """
        self._started()
        service, colon, only = service.partition(":")
        namespace, _, short = service.rpartition("/")
        namespace = namespace or "default"
        found = self.store.get(Service, short, namespace)
        if found is None:
            raise ObjectError(f"there is no service {namespace}/{short}")
        addresses = [self._address_of(name if "/" in name else f"{namespace}/{name}") for name in pods]
        if colon and only not in {port.name for port in found.spec.ports}:
            raise ObjectError(f"service {namespace}/{short} has no port {only!r}")
        for port in found.spec.ports:
            if colon and port.name != only:
                continue
            port_name = f"{namespace}/{short}:{port.name}" if port.name else f"{namespace}/{short}"
            for prefix in (CLUSTER_POLICY_PREFIX, LOCAL_POLICY_PREFIX):
                chain = prefix + chain_hash(port_name + port.protocol.lower())
                self.draws.want(ANY_NODE, chain, addresses)

    def _address_of(self, name: str) -> str:
        """A pod's address, also while its node is down."""
        namespace, _, short = name.rpartition("/")
        found = self.store.get(Pod, short, namespace)
        return str(found.addresses[0]) if found is not None and found.addresses else self.pod(name).address

    def trace(self, source: str, packet: Any) -> Walk:
        """Send a Scapy packet from a machine and tell what the nodes did to it, and to what came back."""
        machine = self.machine(source)
        with self.record() as recorder:
            replies = machine.send(packet)
        outcome = (
            f"{len(replies)} packet{'s' if len(replies) != 1 else ''} came back" if replies else "nothing came back"
        )
        return recorder.walk(f"{source} sends a packet", outcome, delivered=bool(replies))

    def trace_packets(self, source: str, packets: Iterable[bytes]) -> Walk:
        """Send IP packets from a machine, one after the other, and tell what nodes did to them and to the answers."""
        machine = self.machine(source)
        replies = number = 0
        with self.record() as recorder:
            for packet in packets:
                number += 1
                replies += len(machine.send_ip(packet))
        title = f"{source} sends {number} packet{'s' if number != 1 else ''}"
        return recorder.walk(title, f"{replies} came back", delivered=replies > 0)

    def trace_to(self, source: str, target: str, *, protocol: str = "tcp", connect_to: str = "") -> Walk:
        """Connect from a machine and tell what the nodes, and proxies on the way, did to every packet.

        Args:
            source: A pod, a node or ``outside``.
            target: An address or a name, with a port for ``tcp`` and ``udp`` (default 80); or a URL. A name that an
                Ingress has is reached where that Ingress is served, unless ``connect_to`` says otherwise.
            protocol: ``tcp``, ``udp`` or ``icmp``.
            connect_to: For a URL: ``HOST``, ``HOST:PORT`` or ``:PORT`` to connect to instead.
        """
        machine = self.machine(source)
        if "://" in target:
            parts = urlsplit(target)
            if not connect_to and serves_host(self.store, parts.hostname or ""):
                connect_to = self._ingress_address(443 if parts.scheme == "https" else 80)
            title = f"{source} -> {target}" + (f" at {connect_to}" if connect_to else "")
            with self.record() as recorder:
                delivered, outcome = machine.ask(target, connect_to)
            return recorder.walk(title, outcome, delivered=delivered)
        host, port = split_target(target)
        with self.record() as recorder:
            delivered, outcome = machine.probe(host, port, protocol)
        return recorder.walk(f"{source} -> {target} ({protocol})", outcome, delivered=delivered)

    def record(self) -> Recorder:
        """Record what nodes do to packets from now on: a context manager."""
        self._started()
        return Recorder(self.explainer, self.capture, self.notes)

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Nothing that goes on meanwhile is captured or explained: for what only prepares an experiment."""
        before, self.capture.on = self.capture.on, False
        try:
            with self.explainer.paused():
                yield
        finally:
            self.capture.on = before

    # Keeping namespaces in line with objects

    def _settle(self, grace: float = 0.0) -> None:
        """Bring everything in line with the objects, and do what is due, without letting time pass."""
        self._control_plane.grace_s = grace
        try:
            self._settle_now()
        finally:
            self._control_plane.grace_s = 0.0
        if self._wiring is not None:
            self.clock.run_until(self.clock.now_ns)

    def _settle_now(self) -> None:
        """Bring everything in line with the objects; the clock may be running."""
        if not self.store.list(Node):
            return
        self._control_plane.reconcile()
        if self._dns and self.store.get(Service, DNS_SERVICE, DNS_NAMESPACE) is None:
            self._make_dns()
            self._control_plane.reconcile()
        # Slices made here are in line with pods after this; what then has no pod came with the objects.
        self._slices.reconcile()
        adopt_endpoints(self.store)
        self.load_balancers.assign()
        self._ingress_status.publish()
        if self._wiring is not None:
            self._sync_outside()
            self._sync_nodes()
            self._sync_pods()
            self._sync_balancers()

    def _started(self) -> None:
        """The network is built when it is first asked for: until then objects may come in any order."""
        if self._wiring is not None:
            return
        nodes = self.store.list(Node)
        if not nodes:
            raise TopologyError("the cluster has no nodes", mend="apply a Node, or Cluster(nodes=2)")
        plans = [self._plan(node) for node in nodes]
        taken = [ip for ip in _pod_addresses(self.store) if isinstance(ip, IPv4Address)]
        self._wiring = self._wiring_type(plans, taken)
        realise(self._wiring.wiring(), self.network)
        gateway = self._wiring.router_address
        segment = Segment(
            NODE_NETWORK_NAME, self._wiring.node_network, ROUTER_NAME, gateway, UPLINK, SWITCH, taken={gateway}
        )
        self._world = OutsideWorld(self.network, self.explainer, segment, self._node_addresses)
        programs.serve_upstream(self.network[OUTSIDE], self._upstream)
        programs.serve_http(self.network[OUTSIDE], OUTSIDE, programs.HTTP_PORT, Family.IPV4)
        programs.serve_echo(self.network[OUTSIDE], OUTSIDE, programs.ECHO_PORT, Family.IPV4)
        for plan in plans:
            self._start_node(plan)
        self._sync_pods()
        self.clock.run_until(self.clock.now_ns)
        self._sync_outside()
        self._sync_balancers()
        self.clock.run_until(self.clock.now_ns)

    def _node_addresses(self) -> Iterator[IPv4Address]:
        return (ip for node in self.store.list(Node) for ip in node.host_ips if isinstance(ip, IPv4Address))

    def _sync_outside(self) -> None:
        assert self._world is not None
        for found in self.store.list(Outside):
            if self._built.get(found.name, found) != found:
                raise ObjectError("what is outside cannot be changed later", place=str(found), mend="add another one")
            if found.name not in self._built:
                self._built[found.name] = found
                self._world.build(found.spec)

    def _plan(self, node: Node) -> NodePlan:
        address = next((ip for ip in node.host_ips if isinstance(ip, IPv4Address)), None)
        network = pod_network(node)
        if address is None or network is None:
            raise UnsupportedFeature("a node without IPv4", place=str(node), mend="give it an IPv4 address and podCIDR")
        return NodePlan(node.name, address, network)

    def _start_node(self, plan: NodePlan) -> None:
        name = plan.name
        netns = self.network[name]
        assert self._wiring is not None
        rules = self._wiring.rules(plan, self.ranges.pods)
        netns.load_ruleset(restore(Ruleset(Family.IPV4), rules))
        config = self._kube_proxy_config
        if config is None:
            config = KubeProxyConfiguration.model_validate({"clusterCIDR": str(self.ranges.pods)})
        host = NodeHost(netns)
        proxy = KubeProxy(config, name, host, self.clock, self.store, self._release)
        self._nodes[name] = NodeMachine(name, netns, host, proxy, ResolverFiles(self._node_resolv_conf))
        self.explainer.attach(netns)
        proxy.start()
        host.flush()

    def _rules_of(self, node: str) -> Ruleset | None:
        machine = self._nodes.get(node)
        return machine.ruleset() if machine is not None else None

    def _make_dns(self) -> None:
        node = self.store.list(Node)[-1]
        network = pod_network(node)
        if network is None:
            return
        wanted = network.network_address + DNS_PORT
        taken = set(_pod_addresses(self.store))
        status = str(wanted) if wanted in network and wanted not in taken else ""
        text = _DNS_OBJECTS.format(address=self.ranges.dns, node=node.name, pod_ip=status)
        self.store.apply_all(load_objects(text))

    def _sync_nodes(self) -> None:
        """Nodes that were added, or deleted, since the network was built."""
        assert self._wiring is not None
        wanted = {node.name: node for node in self.store.list(Node)}
        known = self._nodes.keys() | self._outages.down
        for name in sorted(known - wanted.keys()):
            if name in self._nodes:
                self._power_off(name)
            self._outages.forget(name)
            gone = self._wiring.remove(name)
            for other in self._nodes.values():
                meet(other.netns, self._wiring.route_to(gone), self._wiring.tunnel_to(gone), part=True)
        for name in sorted(wanted.keys() - known):
            plan = self._plan(wanted[name])
            taken = [ip for ip in _pod_addresses(self.store) if isinstance(ip, IPv4Address)]
            add_node(*self._wiring.add(plan, taken), self.network)
            for other in self._nodes.values():
                meet(other.netns, self._wiring.route_to(plan), self._wiring.tunnel_to(plan))
            self._start_node(plan)

    def _power_off(self, name: str) -> None:
        """A node, and the pods on it, are there no more; objects stay what they are."""
        pods = [key for key, pod in self._pods.items() if pod.pod.spec.node_name == name]
        # What its kernels do in their last moment nobody sees.
        with self.unrecorded():
            for space in (name, *(self._pods[key].name for key in pods)):
                wire = self.network.wire(space, UPLINK)
                if wire is not None:
                    wire.cut = True
            for key in pods:
                self._stop_pod(key)
            self._nodes.pop(name).stop_kube_proxy()
            self.network.delete_space(name)
        self.load_balancers.node_lost(name)

    def _power_on(self, name: str) -> None:
        """A node that was off starts: its kernel, its rules, kube-proxy, and the pods that are on it."""
        assert self._wiring is not None
        node = self.store.get(Node, name)
        assert node is not None
        add_node(*self._wiring.node(name), self.network)
        self._start_node(self._plan(node))
        self._sync_pods()
        self.load_balancers.node_back(name)

    def _stop_pod(self, key: tuple[str, str]) -> None:
        machine = self._pods.pop(key)
        machine.stop()
        self.network.delete_space(machine.name)

    def _kill(self, pod: Pod) -> None:
        """End a pod's programs: its kernel closes their connections."""
        machine = self._pods.get((pod.namespace, pod.name))
        if machine is not None and machine.pod.metadata.uid == pod.metadata.uid:
            machine.stop()

    def _sync_pods(self) -> None:
        wanted = {
            (pod.namespace, pod.name): pod
            for pod in self.store.list(Pod)
            if not pod.terminated
            and not pod.spec.host_network
            and pod.status.pod_ip
            and pod.spec.node_name in self._nodes
        }
        for key, machine in sorted(self._pods.items()):
            # Another pod of the same name is not the same pod.
            if key not in wanted or wanted[key].metadata.uid != machine.pod.metadata.uid:
                self._stop_pod(key)
        for key, pod in sorted(wanted.items()):
            machine_or_none = self._pods.get(key)
            if machine_or_none is None:
                self._pods[key] = self._start_pod(pod)
            self._pods[key].serve(self._ports(pod))

    def _start_pod(self, pod: Pod) -> PodMachine:
        assert self._wiring is not None
        address = next((ip for ip in pod.addresses if isinstance(ip, IPv4Address)), None)
        if address is None:
            raise UnsupportedFeature("a pod without IPv4 address", place=str(pod))
        prefix = self._wiring.pod_device
        host_interface = device_name(prefix, f"-{pod.name}")
        if any(device.name == host_interface for device in self.network[pod.spec.node_name].devices):
            host_interface = device_name(prefix, f"{pod.namespace}/{pod.name}")
        plan = PodPlan(pod.full_name, pod.spec.node_name, address, host_interface)
        space, port = self._wiring.pod(plan)
        netns = add_space(space, self.network)
        add_interface(port, self.network[pod.spec.node_name])
        plug(space.name, space.interface("eth0"), self.network)
        add_routes(space, netns)
        for route in self._wiring.pod_routes(plan):
            self.network[pod.spec.node_name].route_add(route)
        machine = PodMachine(pod.full_name, netns, self._files(pod), pod)
        machine.certificate = self._certificate(pod)
        if is_controller(pod):
            machine.start_ingress(self.store, self.notes)
        elif self.serves_dns(pod):
            delay_ns = self._dns_watch_delay_ns
            programs.serve_dns(netns, self._corefile(), self.store, Family.IPV4, machine.files, watch_delay_ns=delay_ns)
        return machine

    def _certificate(self, pod: Pod) -> tuple[bytes, bytes] | None:
        """The certificate and key of a pod's server, from the Secret that its annotation names."""
        name = pod.metadata.annotations.get(TLS_ANNOTATION)
        if name is None:
            return None
        secret = self.store.get(Secret, name, pod.namespace)
        certificate = secret.value(TLS_CERTIFICATE) if secret is not None else None
        key = secret.value(TLS_PRIVATE_KEY) if secret is not None else None
        if certificate is None or key is None:
            raise ObjectError(f"no certificate in Secret {name}", place=str(pod), mend="apply it before the pod")
        try:
            server_context(certificate, key, None)
        except (OSError, ValueError) as error:
            raise ObjectError(f"Secret {name}: {error}", place=str(pod)) from None
        return certificate, key

    def _ports(self, pod: Pod) -> set[tuple[int, str]]:
        """What something in a pod listens on: the ports that it declares, and those that services lead to."""
        if self.serves_dns(pod) or is_controller(pod):
            return set()
        ports: set[tuple[int, str]] = set()
        for container in pod.spec.containers:
            ports.update((port.container_port, port.protocol) for port in container.ports)
        for service in self.store.list(Service, pod.namespace):
            if service.spec.selector and selects(service.spec.selector, pod.metadata.labels):
                for port in service.spec.ports:
                    if isinstance(port.target, int):
                        ports.add((port.target, port.protocol))
        return ports

    def serves_dns(self, pod: Pod) -> bool:
        """Whether it is one of kube-dns' pods."""
        return serves_dns(pod, self.store, self.store.get(Service, DNS_SERVICE, DNS_NAMESPACE))

    def _corefile(self) -> str:
        found = self.store.get(ConfigMap, "coredns", DNS_NAMESPACE)
        return found.data.get("Corefile", COREFILE) if found is not None else COREFILE

    def _files(self, pod: Pod) -> ResolverFiles:
        service = self.store.get(Service, DNS_SERVICE, DNS_NAMESPACE)
        cluster_dns = (service.spec.cluster_ip,) if service is not None else ()
        kubelet = KubeletDns(cluster_dns, host_resolv_conf=self._node_resolv_conf)
        return ResolverFiles(pod_resolv_conf(pod, kubelet), pod_hosts_file(pod), libc_of(pod.metadata, str(pod)))


_Plan = TypeVar("_Plan", HostPlan, NetworkPlan, RouterPlan)


def _plan(model: type[_Plan], **values: Any) -> _Plan:
    """Make a plan of what a caller says.

    Raises:
        TopologyError: A value is not what it has to be.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{first['loc'][0]} {first['input']!r}: {first['msg'].removeprefix('Value error, ')}"
        raise TopologyError(what, place=str(values["name"])) from None


def _check_pod(metadata: ObjectMeta, place: str) -> None:
    """Refuse what a pod's annotations ask for in vain."""
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


def node_names(count: int) -> list[str]:
    """``node-a`` to ``node-z``, then ``node-aa`` and so on."""
    names = []
    for number in range(count):
        letters = ""
        rest = number
        while True:
            letters = chr(ord("a") + rest % 26) + letters
            rest = rest // 26 - 1
            if rest < 0:
                break
        names.append(f"node-{letters}")
    return names


def split_target(target: str) -> tuple[str, int]:
    """``HOST`` or ``HOST:PORT``; port 80 if none is said.

    Raises:
        TopologyError: The port is no number.
    """
    host, colon, port = target.rpartition(":")
    if not colon:
        return target, 80
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise TopologyError(f"{target!r}: {port!r} is not a port", mend="write HOST:PORT")
    return host, int(port)


#: Short forms that kubectl takes, and the kinds.
_KINDS = {
    "po": "Pod", "pod": "Pod", "pods": "Pod",
    "svc": "Service", "service": "Service", "services": "Service",
    "deploy": "Deployment", "deployment": "Deployment", "deployments": "Deployment",
    "rs": "ReplicaSet", "replicaset": "ReplicaSet",
    "sts": "StatefulSet", "statefulset": "StatefulSet",
    "ds": "DaemonSet", "daemonset": "DaemonSet",
    "no": "Node", "node": "Node", "nodes": "Node",
    "endpointslice": "EndpointSlice", "endpoints": "Endpoints", "configmap": "ConfigMap",
    "ing": "Ingress", "ingress": "Ingress", "ingresses": "Ingress", "secret": "Secret", "secrets": "Secret",
    "ingressclass": "IngressClass", "ingressclasses": "IngressClass",
}  # fmt: skip


def _reference(text: str) -> tuple[str, str, str]:
    """``kind/name`` or ``kind/namespace/name`` to kind, namespace and name."""
    kind, *rest = text.split("/")
    if kind.lower() not in _KINDS or not 1 <= len(rest) <= 2 or not all(rest):
        raise ObjectError(f"{text!r} names no object", mend="write kind/name or kind/namespace/name, as in pod/web-1")
    full = _KINDS[kind.lower()]
    if not KINDS[full].namespaced:
        return full, "", rest[-1]
    return full, rest[0] if len(rest) == 2 else "default", rest[-1]


def _pod_addresses(store: ObjectStore) -> list[IPAddress]:
    return [address for pod in store.list(Pod) for address in pod.addresses]


def _ranges_of(objects: Sequence[KubeObject]) -> Ranges:
    """The ranges that objects show: pods of all nodes, kube-dns' address if there is one."""
    ranges = Ranges()
    networks = [network for found in objects if isinstance(found, Node) and (network := pod_network(found)) is not None]
    if networks:
        around = networks[0] if networks[0].prefixlen <= 16 else networks[0].supernet(new_prefix=16)
        while not all(network.subnet_of(around) for network in networks):
            around = around.supernet()
        ranges = replace(ranges, pods=around)
    known = [
        (found, IPv4Address(found.spec.cluster_ip))
        for found in objects
        if isinstance(found, Service) and found.spec.cluster_ip not in ("", "None") and ":" not in found.spec.cluster_ip
    ]
    if known:
        services = IPv4Network((int(known[0][1]) & ~0xFFFF, 16))
        taken = {address for _, address in known}
        # kubeadm takes the tenth address of the range for kube-dns.
        candidates = (services.network_address + offset for offset in range(10, 1 << 16))
        dns = next(address for address in candidates if address not in taken)
        for found, address in known:
            if (found.namespace, found.name) == (DNS_NAMESPACE, DNS_SERVICE):
                dns = address
        ranges = replace(ranges, services=services, dns=dns)
    return ranges
