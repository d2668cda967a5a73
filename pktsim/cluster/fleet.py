"""The machines that a cluster's objects ask for, kept in line with them: nodes, pods, the world outside.

A node is started when its object is there and ended when it is gone; so are pods on nodes that have power. What a node
is (rules of the wiring, kube-proxy, resolver files) is said here, what a pod is by :mod:`~pktsim.cluster.kubelet`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from pktsim.cluster.control_plane import pod_addresses, pod_network
from pktsim.cluster.kubedns.upstream import Upstream
from pktsim.cluster.kubelet import Kubelet
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.proxier import KubeProxy
from pktsim.cluster.kubeproxy.versions import Release
from pktsim.cluster.loadbalancer.controller import LoadBalancers
from pktsim.cluster.machines import NodeMachine, PodMachine, RuledMachine
from pktsim.cluster.node_host import NodeHost
from pktsim.cluster.objects import Node, Outside, Pod
from pktsim.cluster.objects_outside import NODE_NETWORK_NAME, ROUTER_NAME
from pktsim.cluster.outages import Outages
from pktsim.cluster.outside import OutsideWorld, Segment
from pktsim.cluster.plumbing import add_node, meet, realise
from pktsim.cluster.programs import ResolverFiles
from pktsim.cluster.recorder import unrecorded
from pktsim.cluster.store import ObjectStore
from pktsim.cluster.walk import Note
from pktsim.cluster.wiring import SWITCH, UPLINK, HostGateway, NodePlan
from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.kernel.explain import Explainer
from pktsim.kernel.network import Network
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.ruleset import Family, Ruleset


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What all nodes and pods have in common.

    Attributes:
        wiring: How they are joined.
        pods: The range of all pods' addresses.
        kube_proxy: Its configuration.
        release: Which kube-proxy it is.
        resolv_conf: ``/etc/resolv.conf`` of nodes.
        dns_watch_delay_ns: From a change of an object until kube-dns knows of it.
        upstream: What the name server in ``outside`` knows.
    """

    wiring: type[HostGateway]
    pods: IPv4Network
    kube_proxy: KubeProxyConfiguration
    release: Release
    resolv_conf: str
    dns_watch_delay_ns: int
    upstream: Upstream


class Fleet:
    """All machines of a cluster. The network is laid when it is made; :meth:`start` then brings nodes and pods.

    Args:
        network: An empty network.
        store: The objects; there is a node among them.
        settings: What machines have in common.
        explainer: Told of machines with rules.
        outages: Which nodes are down; told of nodes that are deleted.
        load_balancers: Told of nodes that lose their power, and that have it again.
        notes: Where programs on the way of packets say what they did.

    Attributes:
        nodes: Those that are on, by name.
        pods: Those that run, by namespace and name.
        world: What lies beyond the nodes' router.
        wiring: How they are joined.

    Raises:
        TopologyError: The nodes contradict each other.
        UnsupportedFeature: A node has no IPv4.
    """

    def __init__(
        self,
        network: Network,
        store: ObjectStore,
        settings: FleetSettings,
        *,
        explainer: Explainer,
        outages: Outages,
        load_balancers: LoadBalancers,
        notes: list[Note],
    ) -> None:
        self._network = network
        self._store = store
        self._settings = settings
        self._explainer = explainer
        self._outages = outages
        self._load_balancers = load_balancers
        self.nodes: dict[str, NodeMachine] = {}
        self.pods: dict[tuple[str, str], PodMachine] = {}
        self._first = [_plan(node) for node in store.list(Node)]
        self.wiring = settings.wiring(self._first, self._pod_addresses())
        realise(self.wiring.wiring(), network)
        gateway = self.wiring.router_address
        segment = Segment(
            NODE_NETWORK_NAME, self.wiring.node_network, ROUTER_NAME, gateway, UPLINK, SWITCH, taken={gateway}
        )
        self.world = OutsideWorld(network, explainer, segment, self._node_addresses, settings.upstream)
        self._kubelet = Kubelet(
            store,
            network,
            self.wiring,
            resolv_conf=settings.resolv_conf,
            dns_watch_delay_ns=settings.dns_watch_delay_ns,
            notes=notes,
        )

    def start(self) -> None:
        """Start the nodes and pods that are there at the beginning, then what the objects add outside."""
        for plan in self._first:
            self._start_node(plan)
        self._sync_pods()
        clock = self._network.clock
        clock.run_until(clock.now_ns)
        self._sync_world()

    def sync(self) -> None:
        """Bring all machines in line with the objects as they are now."""
        self._sync_world()
        self._sync_nodes()
        self._sync_pods()

    # Finding machines

    def node(self, name: str) -> NodeMachine:
        """A node.

        Raises:
            TopologyError: There is none of that name, or it is down.
        """
        if name not in self.nodes:
            known = "there are " + ", ".join(sorted(self.nodes))
            down = name in self._outages.down
            raise TopologyError(f"node {name!r} is down" if down else f"there is no node {name!r}", mend=known)
        return self.nodes[name]

    def pod(self, namespace: str, name: str, *, said: str) -> PodMachine:
        """A pod; ``said`` is what the caller wrote.

        Raises:
            TopologyError: There is none of that name.
        """
        found = self.pods.get((namespace, name))
        if found is None:
            known = ", ".join(f"{namespace}/{name}" for namespace, name in sorted(self.pods))
            raise TopologyError(f"there is no pod {said!r}", mend=f"there are {known}" if known else "apply one")
        return found

    def machine_of(self, pod: Pod) -> PodMachine | None:
        """Where that very pod runs: another one of the same name is not the same pod."""
        machine = self.pods.get((pod.namespace, pod.name))
        return machine if machine is not None and machine.pod.metadata.uid == pod.metadata.uid else None

    @property
    def router(self) -> RuledMachine:
        """The nodes' router."""
        machine = self.world.machines[ROUTER_NAME]
        assert isinstance(machine, RuledMachine)
        return machine

    def rules_of(self, node: str) -> Ruleset | None:
        """A node's rules as they are now; ``None`` if it is no node that is on."""
        machine = self.nodes.get(node)
        return machine.ruleset() if machine is not None else None

    # Power

    def power_off(self, name: str) -> None:
        """A node, and the pods on it, are there no more; objects stay what they are."""
        pods = [key for key, pod in self.pods.items() if pod.pod.spec.node_name == name]
        # What its kernels do in their last moment nobody sees.
        with unrecorded(self._explainer, self._network.capture):
            for space in (name, *(self.pods[key].name for key in pods)):
                wire = self._network.wire(space, UPLINK)
                if wire is not None:
                    wire.cut = True
            for key in pods:
                self._stop_pod(key)
            self.nodes.pop(name).stop_kube_proxy()
            self._network.delete_space(name)
        self._load_balancers.node_lost(name)

    def power_on(self, name: str) -> None:
        """A node that was off starts: its kernel, its rules, kube-proxy, and the pods that are on it."""
        node = self._store.get(Node, name)
        assert node is not None
        add_node(*self.wiring.node(name), self._network)
        self._start_node(_plan(node))
        self._sync_pods()
        self._load_balancers.node_back(name)

    # Keeping in line with objects

    def _node_addresses(self) -> Iterator[IPv4Address]:
        return (ip for node in self._store.list(Node) for ip in node.host_ips if isinstance(ip, IPv4Address))

    def _pod_addresses(self) -> list[IPv4Address]:
        return [ip for ip in pod_addresses(self._store) if isinstance(ip, IPv4Address)]

    def _sync_world(self) -> None:
        for found in self._store.list(Outside):
            self.world.build(found)

    def _sync_nodes(self) -> None:
        """Nodes that were added, or deleted, since the network was built."""
        wanted: Mapping[str, Node] = {node.name: node for node in self._store.list(Node)}
        known = self.nodes.keys() | self._outages.down
        for name in sorted(known - wanted.keys()):
            if name in self.nodes:
                self.power_off(name)
            self._outages.forget(name)
            gone = self.wiring.remove(name)
            for other in self.nodes.values():
                meet(other.netns, self.wiring.route_to(gone), self.wiring.tunnel_to(gone), part=True)
        for name in sorted(wanted.keys() - known):
            plan = _plan(wanted[name])
            add_node(*self.wiring.add(plan, self._pod_addresses()), self._network)
            for other in self.nodes.values():
                meet(other.netns, self.wiring.route_to(plan), self.wiring.tunnel_to(plan))
            self._start_node(plan)

    def _start_node(self, plan: NodePlan) -> None:
        """What runs on a node whose namespace is there: the wiring's rules, kube-proxy."""
        settings = self._settings
        netns = self._network[plan.name]
        netns.load_ruleset(restore(Ruleset(Family.IPV4), self.wiring.rules(plan, settings.pods)))
        host = NodeHost(netns)
        proxy = KubeProxy(settings.kube_proxy, plan.name, host, self._network.clock, self._store, settings.release)
        self.nodes[plan.name] = NodeMachine(plan.name, netns, host, proxy, ResolverFiles(settings.resolv_conf))
        self._explainer.attach(netns)
        proxy.start()
        host.flush()

    def _sync_pods(self) -> None:
        wanted = {
            (pod.namespace, pod.name): pod
            for pod in self._store.list(Pod)
            if not pod.terminated
            and not pod.spec.host_network
            and pod.status.pod_ip
            and pod.spec.node_name in self.nodes
        }
        for key in sorted(self.pods):
            if key not in wanted or self.machine_of(wanted[key]) is None:
                self._stop_pod(key)
        for key, pod in sorted(wanted.items()):
            if key not in self.pods:
                self.pods[key] = self._kubelet.start(pod)
            self.pods[key].serve(self._kubelet.ports(pod))

    def _stop_pod(self, key: tuple[str, str]) -> None:
        machine = self.pods.pop(key)
        machine.stop()
        self._network.delete_space(machine.name)


def _plan(node: Node) -> NodePlan:
    address = next((ip for ip in node.host_ips if isinstance(ip, IPv4Address)), None)
    network = pod_network(node)
    if address is None or network is None:
        raise UnsupportedFeature("a node without IPv4", place=str(node), mend="give it an IPv4 address and podCIDR")
    return NodePlan(node.name, address, network)
