"""A whole cluster: objects in, machines out. What ``import pktsim`` is mostly about.

A :class:`Cluster` keeps its objects in a store, as an API server does; the control plane fills them in, kube-proxy on
every node and kube-dns in its pod watch them, and every Pod gets a network namespace with servers in it. Calls are
synchronous: each runs the simulated clock until its answer is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pktsim.clock import NS_PER_S, Clock
from pktsim.cluster.control_plane import ControlPlane, Ranges
from pktsim.cluster.draws import EndpointDraws
from pktsim.cluster.endpoints import adopt_endpoints
from pktsim.cluster.endpointslice import EndpointSliceController
from pktsim.cluster.fleet import Fleet, FleetSettings
from pktsim.cluster.ingress.admission import admit
from pktsim.cluster.ingress.install import Installation
from pktsim.cluster.ingress.status import StatusPublisher, front_address, serves_host
from pktsim.cluster.kubedns.install import dns_objects, dns_service, is_dns_pod
from pktsim.cluster.kubedns.upstream import Upstream
from pktsim.cluster.kubelet import check_pods_of
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.versions import DEFAULT_RELEASE, Release
from pktsim.cluster.lifecycle import PodLifecycle
from pktsim.cluster.loadbalancer.controller import LoadBalancers
from pktsim.cluster.loader import load_objects
from pktsim.cluster.machines import Machine, NodeMachine, PodMachine, RuledMachine
from pktsim.cluster.names import address_names
from pktsim.cluster.objects import Deployment, KubeObject, Node, Pod, ReplicaSet, Service, StatefulSet
from pktsim.cluster.objects_outside import (
    NODE_NETWORK_NAME,
    OUTSIDE_NETWORK_NAME,
    ROUTER_NAME,
    HostPlan,
    NetworkPlan,
    RouterPlan,
    plan_of,
)
from pktsim.cluster.outages import GRACE_S, TOLERATION_S, Outages
from pktsim.cluster.ranges import ranges_of
from pktsim.cluster.recorder import Recorder, unrecorded
from pktsim.cluster.reference import parse_reference, split_pod_name
from pktsim.cluster.store import ObjectStore
from pktsim.cluster.tracer import Tracer
from pktsim.cluster.walk import Note, Walk
from pktsim.cluster.wiring import OUTSIDE, OUTSIDE_ADDRESS, UPLINK
from pktsim.cluster.wirings import wiring_named
from pktsim.errors import IngressUnreachable, ObjectError, TopologyError
from pktsim.kernel.capture import Capture, KeyLog
from pktsim.kernel.explain import Explainer
from pktsim.kernel.netem import DEFAULT_LIMIT, FrameRule, GilbertElliott, Netem
from pktsim.kernel.network import LinkDirection, Network
from pktsim.netfilter.ruleset import Ruleset
from pktsim.rng import Choices, SeededChoices

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
        release = Release.parse(kube_proxy_version)
        if kube_proxy is None:
            kube_proxy = KubeProxyConfiguration.model_validate({"clusterCIDR": str(self.ranges.pods)})
        self._settings = FleetSettings(
            wiring=wiring_named(wiring),
            pods=self.ranges.pods,
            kube_proxy=kube_proxy,
            release=release,
            resolv_conf=node_resolv_conf,
            dns_watch_delay_ns=round(dns_watch_delay * NS_PER_S),
            upstream=self._upstream,
        )
        self._lifecycle = PodLifecycle(self.store, self.clock, self._machine_of, self._settle_now)
        self._control_plane = ControlPlane(self.store, self.ranges, self._lifecycle.terminate)
        self._slices = EndpointSliceController(self.store, release=release)
        self.load_balancers = LoadBalancers(self.store, load_balancer)
        self._outages = Outages(self.store, self.clock, self._settle_now)
        self._ingress_status = StatusPublisher(self.store)
        #: What programs on the way of packets say that they did.
        self.notes: list[Note] = []
        self._fleet: Fleet | None = None
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
        cluster = cls(
            nodes,
            seed=seed,
            choices=choices,
            ranges=ranges_of(objects),
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
            check_pods_of(one)
        self.store.apply_all(admit(self.store, found))
        self._settle()

    def delete(self, reference: str, *, grace: float = 0.0) -> None:
        """``kubectl delete``: ``pod/web-1``, ``service/shop/web``, ``node/node-b`` (which is switched off).

        Args:
            reference: What.
            grace: Seconds that a pod, or the pods of a workload, are terminating before they are gone; without it they
                vanish, as with ``--force --grace-period=0``: no FIN and no RST tells their clients.
        """
        kind, namespace, name = parse_reference(reference)
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
        kind, namespace, name = parse_reference(reference)
        found = self.store.get(kind, name, namespace)
        if not isinstance(found, Pod | Node):
            what = "has no readiness" if found is not None else "does not exist"
            raise ObjectError(f"{reference} {what}", mend="name pod/NAMESPACE/NAME or node/NAME")
        self.store.apply(found.with_ready(ready=ready))
        self._settle()

    def label(self, reference: str, **labels: str) -> None:
        """``kubectl label --overwrite``: ``label("node/node-a", **{"topology.kubernetes.io/zone": "a"})``."""
        kind, namespace, name = parse_reference(reference)
        found = self.store.get(kind, name, namespace)
        if found is None:
            raise ObjectError(f"{reference} does not exist")
        metadata = found.metadata.model_copy(update={"labels": {**found.metadata.labels, **labels}})
        self.store.apply(found.model_copy(update={"metadata": metadata}))
        self._settle()

    def scale(self, reference: str, replicas: int, *, grace: float = 0.0) -> None:
        """``kubectl scale --replicas``: ``deployment/web``. Pods that go have ``grace`` seconds."""
        kind, namespace, name = parse_reference(reference)
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
        kind, namespace, name = parse_reference(reference)
        if kind != "Pod":
            raise ObjectError(f"{reference} has no logs", mend="name a pod, as in pod/web-1")
        return "".join(f"{line}\n" for line in self.pod(f"{namespace}/{name}").log)

    # Machines

    @property
    def nodes(self) -> tuple[NodeMachine, ...]:
        """All nodes, by name."""
        known = self._started().nodes
        return tuple(known[name] for name in sorted(known))

    @property
    def pods(self) -> tuple[PodMachine, ...]:
        """All pods, by namespace and name."""
        known = self._started().pods
        return tuple(known[key] for key in sorted(known))

    def node(self, name: str) -> NodeMachine:
        """A node.

        Raises:
            TopologyError: There is none of that name.
        """
        return self._started().node(name)

    def pod(self, name: str) -> PodMachine:
        """A pod, ``namespace/name``, or ``name`` in ``default``.

        Raises:
            TopologyError: There is none of that name.
        """
        return self._started().pod(*split_pod_name(name), said=name)

    @property
    def outside(self) -> Machine:
        """A host beyond the nodes' router."""
        return self._started().world.machines[OUTSIDE]

    @property
    def router(self) -> RuledMachine:
        """The nodes' router."""
        return self._started().router

    def machine(self, name: str) -> Machine:
        """A pod, a node, or a machine outside (``outside``, ``router``, those that were added) of that name."""
        fleet = self._started()
        found = fleet.world.machines.get(name) or fleet.nodes.get(name)
        return found if found is not None else self.pod(name)

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
        return self._started().world.add_host(plan_of(HostPlan, name=name, address=address, network=network))

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
        plan = plan_of(RouterPlan, name=name, address=address, network=network, inside=inside, nat=nat)
        return self._started().world.add_router(plan)

    def add_network(self, name: str, cidr: str, *, router: str = ROUTER_NAME) -> None:
        """A further network behind a router.

        Raises:
            TopologyError: The name is taken, there is no such router, or the addresses are known already.
        """
        self._started().world.add_network(plan_of(NetworkPlan, name=name, cidr=cidr, router=router))

    # What balancers use (loadbalancer.surroundings.Surroundings)

    @property
    def chance(self) -> Choices:
        """Where free choices come from."""
        return self.draws

    def powered(self) -> Mapping[str, NodeMachine]:
        """Nodes that are on, by name."""
        return self._started().nodes

    def on_the_nodes_wire(self, address: IPv4Address) -> bool:
        """Whether an address is one of the network between the nodes."""
        return self._fleet is not None and address in self._fleet.wiring.node_network

    def balancer_machine(self, name: str) -> RuledMachine:
        """A new machine on the network between the nodes, for a balancer."""
        plan = plan_of(HostPlan, name=name, network=NODE_NETWORK_NAME)
        machine = self._started().world.add_host(plan, serve=False, ruled=True)
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
            machine: A pod, a node, a machine outside.
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
        self._started().power_off(name)
        self._outages.begin(name, grace, toleration)

    def recover_node(self, name: str) -> None:
        """A node that was down starts again, with the pods that were not evicted.

        Raises:
            TopologyError: It is not down.
        """
        self._outages.end(name)
        self._started().power_on(name)
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

        Other than a pod that is deleted without grace, it stays in the network: its clients get a FIN or a RST.

        Args:
            name: ``namespace/name``, or ``name`` in ``default``.
            restart: Seconds until kubelet has started them again; never if ``None``.

        Raises:
            TopologyError: There is no such pod.
            UnsupportedFeature: It is one of kube-dns or an ingress controller, whose programs cannot start again.
        """
        self._lifecycle.crash(self.pod(name), restart)

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
        return address_names(self.store, self._fleet.world.names() if self._fleet is not None else ())

    def draw(self, service: str, *pods: str) -> None:
        """Let the next connections to a service draw these pods, in this order, whichever node they come by.

        Args:
            service: ``namespace/name``, or ``name`` in ``default``; only one port of it if ``:PORT``, a port's name,
                follows.
            pods: Their names; those in another namespace than the service as ``namespace/name``.
        """
        self._started()
        service, colon, port_name = service.partition(":")
        namespace, short = split_pod_name(service)
        found = self.store.get(Service, short, namespace)
        if found is None:
            raise ObjectError(f"there is no service {namespace}/{short}")
        addresses = [self._address_of(name if "/" in name else f"{namespace}/{name}") for name in pods]
        self.draws.want_of_service(found, port_name if colon else None, addresses)

    def _address_of(self, name: str) -> str:
        """A pod's address, also while its node is down."""
        namespace, _, short = name.rpartition("/")
        found = self.store.get(Pod, short, namespace)
        return str(found.addresses[0]) if found is not None and found.addresses else self.pod(name).address

    def trace(self, source: str, packet: Any) -> Walk:
        """Send a Scapy packet from a machine and tell what the nodes did to it, and to what came back."""
        return self._tracer(source).packet(packet)

    def trace_packets(self, source: str, packets: Iterable[bytes]) -> Walk:
        """Send IP packets from a machine, one after the other, and tell what nodes did to them and to the answers."""
        return self._tracer(source).packets(packets)

    def trace_to(self, source: str, target: str, *, protocol: str = "tcp", connect_to: str = "") -> Walk:
        """Connect from a machine and tell what the nodes, and proxies on the way, did to every packet.

        Args:
            source: A pod, a node or ``outside``.
            target: An address or a name, with a port for ``tcp`` and ``udp`` (default 80); or a URL. A name that an
                Ingress has is reached where that Ingress is served, unless ``connect_to`` says otherwise.
            protocol: ``tcp``, ``udp`` or ``icmp``.
            connect_to: For a URL: ``HOST``, ``HOST:PORT`` or ``:PORT`` to connect to instead.
        """
        tracer = self._tracer(source)
        if "://" not in target:
            return tracer.connection(target, protocol)
        parts = urlsplit(target)
        if not connect_to and serves_host(self.store, parts.hostname or ""):
            connect_to = self._ingress_address(443 if parts.scheme == "https" else 80)
        return tracer.url(target, connect_to)

    def _tracer(self, source: str) -> Tracer:
        return Tracer(source, self.machine(source), self.record())

    def record(self) -> Recorder:
        """Record what nodes do to packets from now on: a context manager."""
        self._started()
        return Recorder(self.explainer, self.capture, self.notes)

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Nothing that goes on meanwhile is captured or explained: for what only prepares an experiment."""
        with unrecorded(self.explainer, self.capture):
            yield

    # Keeping namespaces in line with objects

    def _settle(self, grace: float = 0.0) -> None:
        """Bring everything in line with the objects, and do what is due, without letting time pass."""
        self._control_plane.grace_s = grace
        try:
            self._settle_now()
        finally:
            self._control_plane.grace_s = 0.0
        if self._fleet is not None:
            self.clock.run_until(self.clock.now_ns)

    def _settle_now(self) -> None:
        """Bring everything in line with the objects; the clock may be running."""
        if not self.store.list(Node):
            return
        self._control_plane.reconcile()
        if self._dns and dns_service(self.store) is None:
            self.store.apply_all(dns_objects(self.store, self.ranges.dns))
            self._control_plane.reconcile()
        # Slices made here are in line with pods after this; what then has no pod came with the objects.
        self._slices.reconcile()
        adopt_endpoints(self.store)
        self.load_balancers.assign()
        self._ingress_status.publish()
        if self._fleet is not None:
            self._fleet.sync()
            self._sync_balancers()

    def _started(self) -> Fleet:
        """The network is built when it is first asked for: until then objects may come in any order."""
        if self._fleet is not None:
            return self._fleet
        if not self.store.list(Node):
            raise TopologyError("the cluster has no nodes", mend="apply a Node, or Cluster(nodes=2)")
        self._fleet = Fleet(
            self.network,
            self.store,
            self._settings,
            explainer=self.explainer,
            outages=self._outages,
            load_balancers=self.load_balancers,
            notes=self.notes,
        )
        self._fleet.start()
        self._sync_balancers()
        self.clock.run_until(self.clock.now_ns)
        return self._fleet

    def _sync_balancers(self) -> None:
        self.load_balancers.sync(self)
        for name, address in self.load_balancers.hostnames().items():
            if name not in self._upstream.records:
                self._upstream.records.update(Upstream.of([f"{name}. 60 A {address}"]).records)

    def _machine_of(self, pod: Pod) -> PodMachine | None:
        return self._fleet.machine_of(pod) if self._fleet is not None else None

    def _rules_of(self, node: str) -> Ruleset | None:
        return self._fleet.rules_of(node) if self._fleet is not None else None

    def serves_dns(self, pod: Pod) -> bool:
        """Whether it is one of kube-dns' pods."""
        return is_dns_pod(self.store, pod)


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
