"""kube-proxy on one node: watches objects, and keeps the node's rules, conntrack entries, settings and health ports.

One :class:`FamilyProxier` for each address family, each with its own trackers, rules and timing; only the health check
ports are shared. All time is the simulated clock's.

Source: pkg/proxy/iptables/proxier.go, pkg/proxy/metaproxier/meta_proxier.go, cmd/kube-proxy/app/server.go and
server_linux.go, pkg/util/iptables/iptables.go (``Monitor``) of Kubernetes 1.30.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pktsim.clock import NS_PER_MS, NS_PER_S, Clock, Timer
from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.netfilter.lower import without_collector
from pktsim.netfilter.ruleset import Family, Rule, Ruleset

from ..addresses import IPAddress, parse_cidr
from ..objects import (
    LABEL_HEADLESS,
    LABEL_SERVICE_PROXY_NAME,
    LABEL_TOPOLOGY_ZONE,
    EndpointSlice,
    KubeObject,
    Node,
    Service,
)
from ..store import EventType, ObjectStore, Subscription, WatchEvent
from ..topology import HintGates
from .chain_names import KUBE_PROXY_CANARY, is_service_chain
from .config import (
    TCP_BE_LIBERAL,
    KubeProxyConfiguration,
    NodePortAddresses,
    local_detector,
    node_ips,
    primary_version,
    require_iptables,
    startup_sysctls,
)
from .conntrack_cleanup import ConntrackDelete, stale_entries
from .conntrack_reconciler import ConntrackReconciliation, needs_reconciliation, reconciliation
from .healthcheck import ANY_ADDRESS, NOT_FOUND, HealthResponse, PortRegistry, ProxyHealth, ServiceHealthServer
from .iptables import JUMP_RULES, LARGE_CLUSTER_ENDPOINTS, RuleWriter, ServiceRules, WriterSettings
from .model import (
    EndpointsChangeTracker,
    EndpointsMap,
    EndpointsUpdate,
    ServiceChangeTracker,
    ServiceKey,
    ServicePortMap,
    ServicePortName,
    ServiceUpdate,
    health_check_node_ports,
    local_ready_endpoints,
)
from .restore import RestoreFailed, TableChange, TableWriter, ensure_chain, ensure_first_rule
from .sync_runner import BURST_SYNCS, MAX_INTERVAL_NS, SyncRunner
from .versions import DEFAULT_RELEASE, Behaviour, Release

FAMILIES = (Family.IPV4, Family.IPV6)

#: What a sync asks of the conntrack table: a command of the tool, or from 1.32 on one pass through the table.
ConntrackCleanup = ConntrackDelete | ConntrackReconciliation

#: The tables that the monitor guards, the one that it asks first (``iptables.Monitor`` in ``NewProxier``).
CANARY_TABLES = ("mangle", "nat", "filter")
#: How the monitor waits for the other canaries to go too, once the first is gone.
FLUSH_POLL_NS = 100 * NS_PER_MS
FLUSH_TIMEOUT_NS = 5 * NS_PER_S


class ProxyHost(Protocol):
    """What kube-proxy needs of the node it runs on."""

    @property
    def cpus(self) -> int:
        """How many processors it has."""

    @property
    def nfacct(self) -> bool:
        """Whether its kernel has nfacct objects to count into."""

    def addresses(self) -> Sequence[IPAddress]:
        """All addresses of all interfaces, loopback included."""

    def sysctl(self, name: str) -> int | None:
        """A setting by its dotted name, ``None`` if the kernel does not have it."""

    def set_sysctl(self, name: str, value: int) -> None:
        """Change a setting."""

    def ruleset(self, family: Family) -> Ruleset:
        """The rules in force."""

    def set_ruleset(self, ruleset: Ruleset, written: Mapping[str, frozenset[str]]) -> None:
        """Put rules in force.

        Args:
            ruleset: All tables of one family.
            written: By table, the chains that were written anew: their rules count from zero, equal or not. Rules of
                all other chains that are still there keep their counters.
        """

    def delete_conntrack(self, delete: ConntrackCleanup) -> None:
        """Delete the conntrack entries that match."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one sync of one family did.

    Attributes:
        at_ns: When.
        full: Whether it wrote everything.
        succeeded: Whether all tables took their changes; else it is tried again, in full.
        written: By table, the chains written anew, also if they came out the same.
        deleted: By table, the chains deleted.
        conntrack: The deletions that followed.
        failure: Why it did not succeed.
    """

    family: Family
    at_ns: int
    full: bool
    succeeded: bool
    written: Mapping[str, frozenset[str]]
    deleted: Mapping[str, frozenset[str]]
    conntrack: tuple[ConntrackCleanup, ...] = ()
    failure: str = ""


Observer = Callable[[SyncReport], None]


@dataclass(slots=True)
class _Writes:
    """Chains written and deleted in the course of one sync."""

    written: dict[str, set[str]] = field(default_factory=dict)
    deleted: dict[str, set[str]] = field(default_factory=dict)

    def freeze(self, which: dict[str, set[str]]) -> dict[str, frozenset[str]]:
        return {table: frozenset(names) for table, names in sorted(which.items()) if names}


class FamilyProxier:
    """The iptables proxier of one address family (``iptables.Proxier``)."""

    def __init__(
        self,
        settings: WriterSettings,
        config: KubeProxyConfiguration,
        hostname: str,
        host: ProxyHost,
        clock: Clock,
        health: ServiceHealthServer,
        proxy_health: ProxyHealth,
        release: Release,
    ) -> None:
        self.family = settings.family
        self._settings = settings
        self._writer = RuleWriter(settings)
        self._host = host
        self._clock = clock
        self._health = health
        self._proxy_health = proxy_health
        self._sync_period_ns = config.iptables.sync_period
        self._release = release
        ip_mode_gate = release.feature("LoadBalancerIPMode", config.feature_gates)
        self.service_changes = ServiceChangeTracker(self.family, ip_mode_gate=ip_mode_gate)
        self.endpoint_changes = EndpointsChangeTracker(self.family, hostname, settings.gates)
        self.ports: ServicePortMap = {}
        self.endpoints: EndpointsMap = {}
        self.node_labels: Mapping[str, str] = {}
        self._node_known = False
        self.observers: list[Observer] = []
        self._rules: dict[ServicePortName, ServiceRules] = {}
        self._order: list[tuple[str, ServicePortName]] = []
        #: The chains that gather, and the node's addresses for which they are right; ``None`` if they are not.
        self._gathered: tuple[tuple[IPAddress, ...], dict[str, dict[str, tuple[Rule, ...]]]] | None = None
        self._by_service: dict[ServiceKey, set[ServicePortName]] = {}
        self._n_endpoints: dict[ServicePortName, int] = {}
        self._total_endpoints = 0
        self._health_ports: dict[ServiceKey, int] = {}
        self._tables = {name: TableWriter(name) for name in ("filter", "nat")}
        self._needs_full_sync = True
        self._cleaned_at_ns: int | None = None
        self._initialized = False
        self._monitor: Timer | None = None
        self._runner: SyncRunner | None = None
        self._min_sync_period_ns = config.iptables.min_sync_period
        self._watch_for_flush()

    # being told

    def start(self) -> None:
        """The initial objects are all there: sync, and from now on with every change."""
        self._initialized = True
        burst = 1 if self._release.has(Behaviour.NO_BURST) else BURST_SYNCS
        self._runner = SyncRunner(self._clock, self._sync, self._min_sync_period_ns, MAX_INTERVAL_NS, burst)
        self._proxy_health.updated(self.family, self._clock.now_ns)
        self._sync()

    def stop(self) -> None:
        """End; rules stay as they are."""
        if self._monitor is not None:
            self._monitor.cancel()
        if self._runner is not None:
            self._runner.stop()

    def request_sync(self) -> None:
        """Ask for a sync as soon as the minimum period allows."""
        if self._initialized and self._runner is not None:
            self._proxy_health.queued(self.family, self._clock.now_ns)
            self._runner.request()

    def set_node_labels(self, labels: Mapping[str, str]) -> None:
        """Labels decide on topology hints, so other labels mean a full sync.

        A node that once had labels and has none is taken for changed whenever anything of it changes: in Go a map
        without keys is not equal to no map (``OnNodeUpdate``).
        """
        if self._release.has(Behaviour.TOPOLOGY_LABELS_ONLY):
            labels = {name: value for name, value in labels.items() if name == LABEL_TOPOLOGY_ZONE}
            if labels != self.node_labels:
                self._new_labels(labels)
        elif (labels or self._node_known) and (not labels or dict(labels) != dict(self.node_labels)):
            self._node_known = True
            self._new_labels(labels)

    def forget_node(self) -> None:
        """The own node is deleted."""
        if self._node_known or self.node_labels or not self._release.has(Behaviour.TOPOLOGY_LABELS_ONLY):
            self._node_known = False
            self._new_labels({})

    def _new_labels(self, labels: Mapping[str, str]) -> None:
        self.node_labels = dict(labels)
        self._needs_full_sync = True
        self.request_sync()

    # the monitor

    def _watch_for_flush(self) -> None:
        """Put the canaries in place and look for the first of them once in every sync period."""
        ruleset = self._host.ruleset(self.family)
        made = False
        for table in CANARY_TABLES:
            ruleset, new = ensure_chain(ruleset, table, KUBE_PROXY_CANARY)
            made = made or new
        if made:
            self._host.set_ruleset(ruleset, {})
        self._monitor = self._clock.after(self._sync_period_ns, self._look_for_canary)

    def _canary_lives(self, table: str) -> bool:
        found = self._host.ruleset(self.family).table(table)
        return found is not None and any(chain.name == KUBE_PROXY_CANARY for chain in found.chains)

    def _look_for_canary(self) -> None:
        if self._canary_lives(CANARY_TABLES[0]):
            self._monitor = self._clock.after(self._sync_period_ns, self._look_for_canary)
        else:
            self._wait_for_flush(self._clock.now_ns + FLUSH_TIMEOUT_NS)

    def _wait_for_flush(self, until_ns: int) -> None:
        """Somebody is flushing: give them time to finish."""
        if any(self._canary_lives(table) for table in CANARY_TABLES[1:]) and self._clock.now_ns < until_ns:
            self._monitor = self._clock.after(FLUSH_POLL_NS, lambda: self._wait_for_flush(until_ns))
            return
        self._needs_full_sync = True
        self._sync()
        self._watch_for_flush()

    # syncing

    def _sync(self) -> None:
        """Bring rules in line with all changes so far (``syncProxyRules``)."""
        if not self._initialized:
            return
        full = self._needs_full_sync
        services = self.service_changes.apply_to(self.ports)
        endpoints = self.endpoint_changes.apply_to(self.endpoints)
        changed = services.services | endpoints.services
        writes = _Writes()
        try:
            with without_collector():
                self._write(changed, services, writes, full=full)
        except RestoreFailed as failure:
            # The trackers are empty now, so the next sync must write everything.
            self._needs_full_sync = True
            if self._runner is not None:
                self._runner.retry_after(self._sync_period_ns)
            self._report(writes, full=full, failure=str(failure))
            return
        self._needs_full_sync = False
        self._proxy_health.updated(self.family, self._clock.now_ns)
        self._health.sync_services(self._health_ports)
        self._health.sync_endpoints(local_ready_endpoints(self.endpoints, self._health_ports))
        deletes = self._clean_conntrack(services, endpoints)
        self._report(writes, full=full, conntrack=deletes)

    def _report(
        self, writes: _Writes, *, full: bool, conntrack: tuple[ConntrackCleanup, ...] = (), failure: str = ""
    ) -> None:
        report = SyncReport(
            self.family,
            self._clock.now_ns,
            full,
            not failure,
            writes.freeze(writes.written),
            writes.freeze(writes.deleted),
            conntrack,
            failure,
        )
        for observer in self.observers:
            observer(report)

    def _clean_conntrack(self, services: ServiceUpdate, endpoints: EndpointsUpdate) -> tuple[ConntrackCleanup, ...]:
        deletes: tuple[ConntrackCleanup, ...]
        if not self._release.has(Behaviour.CONNTRACK_RECONCILER):
            deletes = tuple(stale_entries(self.family, self.ports, services, endpoints))
        elif needs_reconciliation(self._release, endpoints, services.deleted_ports):
            deletes = (reconciliation(self._release, self.family, self.ports, self.endpoints, services.deleted_ports),)
        else:
            deletes = ()
        for delete in deletes:
            self._host.delete_conntrack(delete)
        return deletes

    def _write(self, changed: set[ServiceKey], services: ServiceUpdate, writes: _Writes, *, full: bool) -> None:
        """Write the chains that gather, and those of changed services; in a full sync of all.

        Raises:
            RestoreFailed: A table refused its change; the tables before it have taken theirs.
        """
        if full:
            self._ensure_jumps(writes)
        self._recompute(changed, services, full=full)
        large_cluster = self._total_endpoints > LARGE_CLUSTER_ENDPOINTS
        names = [name for _, name in self._order] if full else self._changed_names(changed)
        for name in names:
            before = self._rules.get(name)
            now = self._rules[name] = self._writer.service_rules(
                name, self.ports[name], self.endpoints.get(name, ()), self.node_labels, large_cluster=large_cluster
            )
            if before is None or before.gathered != now.gathered:
                self._gathered = None
        tables = self._gathering_chains()
        own: dict[str, tuple[Rule, ...]] = {}
        for name in names:
            own.update(self._rules[name].chains)
        self._restore(TableChange("filter", tables["filter"]), writes)
        self._restore(
            TableChange("nat", {**tables["nat"], **own}, self._stale_chains(large_cluster=large_cluster)), writes
        )

    def _gathering_chains(self) -> dict[str, dict[str, tuple[Rule, ...]]]:
        """The chains that gather, which are the same as long as nothing that is gathered changes."""
        addresses = tuple(self._host.addresses())
        if self._gathered is None or self._gathered[0] != addresses:
            rules = [self._rules[name] for _, name in self._order]
            self._gathered = addresses, self._writer.gathering_chains(rules, addresses)
        return self._gathered[1]

    def _restore(self, change: TableChange, writes: _Writes) -> None:
        ruleset = self._tables[change.table].apply(self._host.ruleset(self.family), change)
        names = frozenset(change.chains)
        self._host.set_ruleset(ruleset, {change.table: names})
        writes.written.setdefault(change.table, set()).update(names)
        writes.deleted.setdefault(change.table, set()).update(change.deleted)

    def _ensure_jumps(self, writes: _Writes) -> None:
        """Make the chains that built-in chains lead to, and the rules that lead there."""
        ruleset = self._host.ruleset(self.family)
        touched: dict[str, set[str]] = {}
        for jump in JUMP_RULES:
            ruleset, _ = ensure_chain(ruleset, jump.table, jump.target)
            ruleset, put = ensure_first_rule(ruleset, jump.table, jump.source, jump.rule)
            if put:
                touched.setdefault(jump.table, set()).add(jump.source)
        if touched:
            self._host.set_ruleset(ruleset, {})
            for table, names in touched.items():
                writes.written.setdefault(table, set()).update(names)

    def _recompute(self, changed: set[ServiceKey], services: ServiceUpdate, *, full: bool) -> None:
        """Bring up to date what is kept of all service ports: their order, endpoints, health check ports."""
        if full:
            self._by_service.clear()
            for name in self.ports:
                self._by_service.setdefault(name.service, set()).add(name)
            self._order = sorted((str(name), name) for name in self.ports)
            self._rules = {}
            self._gathered = None
            self._n_endpoints = {name: len(self.endpoints.get(name, ())) for name in self.ports}
            self._total_endpoints = sum(self._n_endpoints.values())
            self._health_ports = health_check_node_ports(self.ports)
            return
        for key in changed:
            old = self._by_service.get(key, set())
            new = services.ports.get(key, old)
            for name in old - new:
                del self._order[bisect_left(self._order, (str(name), name))]
                self._rules.pop(name, None)
                self._gathered = None
                self._total_endpoints -= self._n_endpoints.pop(name)
            for name in new - old:
                insort(self._order, (str(name), name))
            for name in new:
                n = len(self.endpoints.get(name, ()))
                self._total_endpoints += n - self._n_endpoints.get(name, 0)
                self._n_endpoints[name] = n
            if new:
                self._by_service[key] = new
            else:
                self._by_service.pop(key, None)
            self._health_ports.pop(key, None)
            self._health_ports.update(health_check_node_ports({name: self.ports[name] for name in new}))

    def _changed_names(self, changed: set[ServiceKey]) -> list[ServicePortName]:
        return sorted(name for key in changed for name in self._by_service.get(key, ()))

    def _stale_chains(self, *, large_cluster: bool) -> tuple[str, ...]:
        """Chains of service ports or endpoints that no rule leads to any more.

        In a large cluster the tool that would list them takes seconds, so this is done once in a sync period only.
        """
        now_ns = self._clock.now_ns
        if large_cluster and self._cleaned_at_ns is not None and now_ns - self._cleaned_at_ns <= self._sync_period_ns:
            return ()
        self._cleaned_at_ns = now_ns
        table = self._host.ruleset(self.family).table("nat")
        if table is None:
            return ()
        names = {chain.name for chain in table.chains}
        names.difference_update(*(rules.chains for rules in self._rules.values()))
        return tuple(sorted(name for name in names if is_service_chain(name)))


class KubeProxy:
    """kube-proxy on one node.

    Args:
        config: Its configuration, in iptables mode.
        hostname: The name of its node, unless the configuration overrides it.
        host: The node.
        clock: Simulated time.
        store: The objects. It watches them from :meth:`start` on.
        release: Which kube-proxy it is.

    Raises:
        ObjectError: The release would not start with this configuration.
        UnsupportedFeature: The mode is not modelled.
        TopologyError: It could not start: it needs a pod network that the node does not have.
    """

    def __init__(
        self,
        config: KubeProxyConfiguration,
        hostname: str,
        host: ProxyHost,
        clock: Clock,
        store: ObjectStore,
        release: Release = DEFAULT_RELEASE,
    ) -> None:
        require_iptables(config)
        release.check(config.feature_gates)
        self.config = config
        self.release = release
        # component-helpers/node/util/hostname.go, GetHostname
        self.hostname = (config.hostname_override or hostname).strip().lower()
        self._host = host
        self._clock = clock
        self._store = store
        self._subscription: Subscription | None = None
        node = store.get(Node, self.hostname)
        if config.detect_local_mode == "NodeCIDR" and not (node and node.spec.pod_cidrs):
            raise TopologyError(
                f"kube-proxy on {self.hostname} waits for the node's podCIDR",
                mend="give the Node a podCIDR, or choose another detectLocalMode",
            )
        pod_cidrs = self._pod_cidrs = tuple(node.spec.pod_cidrs) if node else ()
        primary = primary_version(config, node.host_ips if node else ())
        if config.detect_local_mode == "NodeCIDR" and all(parse_cidr(one).version != primary for one in pod_cidrs):
            raise TopologyError(
                f"kube-proxy on {self.hostname} is IPv{primary}-primary, its node's podCIDRs are not",
                mend=f"give the Node an IPv{primary} podCIDR, or choose another detectLocalMode",
            )
        addresses = node_ips(config, node.host_ips if node else ())
        for sysctl in startup_sysctls(config, host.cpus):
            if host.sysctl(sysctl.name) != sysctl.value:
                host.set_sysctl(sysctl.name, sysctl.value)
        gates = HintGates(
            self.feature("TopologyAwareHints"),
            self.feature("ServiceTrafficDistribution"),
            self.feature("PreferSameTrafficDistribution"),
        )
        self.health = ProxyHealth(2 * config.iptables.sync_period, clock.now_ns)
        registry = PortRegistry()
        self.proxiers: dict[Family, FamilyProxier] = {}
        self._health_servers: dict[Family, ServiceHealthServer] = {}
        for family in FAMILIES:
            node_port_addresses = NodePortAddresses.of(config, family)
            settings = WriterSettings(
                family=family,
                masquerade_mark=1 << config.iptables.masquerade_bit,
                masquerade_all=config.iptables.masquerade_all,
                detector=local_detector(config, family, pod_cidrs),
                node_ip=addresses[family],
                localhost_node_ports=family is Family.IPV4
                and config.iptables.localhost_node_ports
                and node_port_addresses.contains_ipv4_loopback,
                node_port_addresses=node_port_addresses,
                tcp_be_liberal=bool(host.sysctl(TCP_BE_LIBERAL)),
                gates=gates,
                node_name=self.hostname,
                nfacct=host.nfacct and release.has(Behaviour.NFACCT),
            )
            listen = (
                (ANY_ADDRESS,)
                if node_port_addresses.match_all
                else tuple(node_port_addresses.matching(host.addresses()))
            )
            server = ServiceHealthServer(registry, listen, lambda: self.health.healthy(clock.now_ns))
            self._health_servers[family] = server
            self.proxiers[family] = FamilyProxier(
                settings, config, self.hostname, host, clock, server, self.health, release
            )

    def start(self) -> None:
        """List and watch the objects, then sync for the first time."""
        with without_collector():
            self._subscription = self._store.watch(self.handle, (Service, EndpointSlice, Node))
            for family in FAMILIES:
                self.proxiers[family].start()

    def stop(self) -> None:
        """End, as a killed process does: rules stay, health check ports close."""
        if self._subscription is not None:
            self._subscription.cancel()
        for family in FAMILIES:
            self.proxiers[family].stop()
            self._health_servers[family].sync_services({})

    def feature(self, gate: str) -> bool:
        """Whether a feature gate is on."""
        return self.release.feature(gate, self.config.feature_gates)

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of every sync from now on."""
        for proxier in self.proxiers.values():
            proxier.observers.append(observer)

    def handle(self, event: WatchEvent) -> None:
        """Take note of one change of an object."""
        current: KubeObject | None = event.object if event.type is not EventType.DELETED else None
        old = event.old
        if isinstance(event.object, Node):
            self._node(event.object, deleted=current is None)
            return
        # kube-proxy asks the API server for what has neither label, so to it a new label is a deletion.
        if old is not None and _hidden(old):
            old = None
        if current is not None and _hidden(current):
            current = None
        if old is None and current is None:
            return
        if isinstance(event.object, Service):
            for proxier in self.proxiers.values():
                if proxier.service_changes.update(_service(old), _service(current)):
                    proxier.request_sync()
        elif isinstance(event.object, EndpointSlice):
            self._slice(_slice(old), _slice(current))

    def _slice(self, old: EndpointSlice | None, current: EndpointSlice | None) -> None:
        found = current or old
        assert found is not None
        if found.address_type == "FQDN":
            return
        proxier = self.proxiers[Family.IPV4 if found.address_type == "IPv4" else Family.IPV6]
        if proxier.endpoint_changes.update(found, remove=current is None):
            proxier.request_sync()

    def _node(self, node: Node, *, deleted: bool) -> None:
        if node.name != self.hostname:
            return
        if self.feature("KubeProxyDrainingTerminatingNodes"):
            self.health.set_node(node, deleted=deleted)
        if not deleted:
            self._check_pod_cidrs(node)
        for proxier in self.proxiers.values():
            if deleted:
                proxier.forget_node()
            else:
                proxier.set_node_labels(node.metadata.labels)

    def _check_pod_cidrs(self, node: Node) -> None:
        """Rules that tell pods by their node's network would be wrong with another one (``NodePodCIDRHandler``)."""
        if self.config.detect_local_mode == "NodeCIDR" and tuple(node.spec.pod_cidrs) != tuple(self._pod_cidrs):
            raise UnsupportedFeature(
                "another podCIDR of a node on which kube-proxy runs with detectLocalMode NodeCIDR (it exits)",
                place=str(node),
                mend="start with the podCIDR that the node is to have, or choose another detectLocalMode",
            )

    def health_check(self, port: int) -> HealthResponse | None:
        """What a GET on a health check node port is answered with; ``None`` if nobody listens."""
        for family in FAMILIES:
            if (answer := self._health_servers[family].answer(port)) is not None:
                return answer
        return None

    def listening(self) -> list[tuple[IPAddress, int]]:
        """Addresses and ports on which health checks are answered."""
        return [one for family in FAMILIES for one in self._health_servers[family].listening()]

    def healthz(self, path: str = "/healthz") -> HealthResponse:
        """What a GET of ``/healthz`` or ``/livez`` on port 10256 is answered with."""
        if path == "/healthz":
            return self.health.answer(self._clock.now_ns)
        return self.health.livez(self._clock.now_ns) if path == "/livez" else NOT_FOUND


def _hidden(found: KubeObject) -> bool:
    labels = found.metadata.labels
    return LABEL_SERVICE_PROXY_NAME in labels or LABEL_HEADLESS in labels


def _service(found: KubeObject | None) -> Service | None:
    return found if isinstance(found, Service) else None


def _slice(found: KubeObject | None) -> EndpointSlice | None:
    return found if isinstance(found, EndpointSlice) else None
