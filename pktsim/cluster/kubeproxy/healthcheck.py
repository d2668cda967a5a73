"""The health check node port of a Service, and kube-proxy's own ``/healthz``.

A load balancer asks each node whether it has local endpoints: 200 if so, else 503, with the number in a JSON body.

Source: pkg/proxy/healthcheck/service_health.go and proxier_health.go of Kubernetes 1.30.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pktsim.clock import NS_PER_S
from pktsim.netfilter.ruleset import Family

from ..addresses import IPAddress, parse_ip
from ..objects import Node
from .config import HEALTHZ_PORT as HEALTHZ_PORT
from .model import ServiceKey

ANY_ADDRESS = parse_ip("0.0.0.0")


@dataclass(frozen=True, slots=True)
class HealthResponse:
    """An HTTP answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(slots=True)
class _Listener:
    port: int
    addresses: tuple[IPAddress, ...]
    endpoints: int = 0


#: The cluster autoscaler puts this taint on a node that it is about to remove.
TO_BE_DELETED_TAINT = "ToBeDeletedByClusterAutoscaler"


class ProxyHealth:
    """Whether kube-proxy keeps up: no change may wait longer than ``timeout_ns`` for its sync.

    Args:
        timeout_ns: Twice the sync period.
        started_ns: When the process started.
    """

    def __init__(self, timeout_ns: int, started_ns: int = 0) -> None:
        self._timeout_ns = timeout_ns
        self._started_ns = started_ns
        self._updated_ns: dict[Family, int] = {}
        self._queued_ns: dict[Family, int] = {}
        self._node_eligible = True

    def queued(self, family: Family, now_ns: int) -> None:
        """A change waits for a sync."""
        self._queued_ns.setdefault(family, now_ns)

    def updated(self, family: Family, now_ns: int) -> None:
        """A sync has succeeded."""
        self._queued_ns.pop(family, None)
        self._updated_ns[family] = now_ns

    def set_node(self, node: Node, *, deleted: bool) -> None:
        """A node that is going away should get no more traffic from load balancers (KEP 3458)."""
        if not deleted:
            tainted = any(taint.key == TO_BE_DELETED_TAINT for taint in node.spec.taints)
            self._node_eligible = node.metadata.deletion_timestamp is None and not tainted

    def healthy(self, now_ns: int) -> bool:
        """Whether no family is late."""
        return self._late(now_ns) is None

    def _late(self, now_ns: int) -> Family | None:
        for family in self._updated_ns:
            if family in self._queued_ns and now_ns - self._queued_ns[family] >= self._timeout_ns:
                return family
        return None

    def answer(self, now_ns: int) -> HealthResponse:
        """``/healthz``: 200, or 503 if kube-proxy is late or the node is about to go. Times are simulated ones."""
        eligible = self._node_eligible
        body = f', "nodeEligible": {"true" if eligible else "false"}'
        return self._answer(now_ns, healthy=self._late(now_ns) is None and eligible, more=body)

    def livez(self, now_ns: int) -> HealthResponse:
        """``/livez``: the same without regard to the node."""
        return self._answer(now_ns, healthy=self._late(now_ns) is None)

    def _answer(self, now_ns: int, *, healthy: bool, more: str = "") -> HealthResponse:
        late = self._late(now_ns)
        updated_ns = now_ns
        if late is not None:
            updated_ns = self._updated_ns[late]
        elif not healthy:
            updated_ns = max(self._updated_ns.values(), default=0)
        body = f'{{"lastUpdated": "{self._time(updated_ns)}","currentTime": "{self._time(now_ns)}"{more}}}'
        return HealthResponse(200 if healthy else 503, _JSON, body)

    def _time(self, at_ns: int) -> str:
        """Simulated time as Go prints a time that it has measured, counted from the epoch and from the start."""
        seconds, nanoseconds = divmod(at_ns, NS_PER_S)
        text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S")
        fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
        running_s, running_ns = divmod(at_ns - self._started_ns, NS_PER_S)
        return f"{text}{fraction} +0000 UTC m=+{running_s}.{running_ns:09d}"


_JSON = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))
#: What Go's ServeMux answers to any other path.
NOT_FOUND = HealthResponse(
    404,
    (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")),
    "404 page not found\n",
)


class PortRegistry:
    """Which addresses and ports the node's kube-proxy listens on: two address families cannot share one."""

    def __init__(self) -> None:
        self._taken: set[tuple[IPAddress, int]] = set()

    def take(self, addresses: Sequence[IPAddress], port: int) -> bool:
        """Listen on a port of all addresses, or of none if one of them is taken.

        Go listens on 0.0.0.0 for both families (``net.Listen`` with a wildcard), which shares its port with nobody.
        """
        here = {address for address, taken in self._taken if taken == port}
        wanted = set(addresses)
        if wanted & here or (here and ANY_ADDRESS in wanted) or (wanted and ANY_ADDRESS in here):
            return False
        self._taken.update((address, port) for address in wanted)
        return True

    def release(self, addresses: Sequence[IPAddress], port: int) -> None:
        """Listen no more."""
        self._taken.difference_update((address, port) for address in addresses)


class ServiceHealthServer:
    """The health check ports of one address family.

    Args:
        registry: Shared by both families.
        addresses: Where to listen; fixed when kube-proxy starts. Without ``nodePortAddresses`` it is 0.0.0.0 in both
            families, so the family that comes first answers for a port.
        proxy_healthy: Whether kube-proxy itself is well.
    """

    def __init__(
        self, registry: PortRegistry, addresses: Sequence[IPAddress], proxy_healthy: Callable[[], bool]
    ) -> None:
        self._registry = registry
        self._addresses = tuple(addresses)
        self._proxy_healthy = proxy_healthy
        self._listeners: dict[ServiceKey, _Listener] = {}

    def sync_services(self, wanted: Mapping[ServiceKey, int]) -> None:
        """Close the ports that are gone or changed, open the new ones; a taken one is tried again at the next sync."""
        for key, listener in list(self._listeners.items()):
            if wanted.get(key) != listener.port:
                self._registry.release(listener.addresses, listener.port)
                del self._listeners[key]
        for key in sorted(wanted):
            if key not in self._listeners and self._registry.take(self._addresses, wanted[key]):
                self._listeners[key] = _Listener(wanted[key], self._addresses)

    def sync_endpoints(self, counts: Mapping[ServiceKey, int]) -> None:
        """Take over how many local endpoints each Service has."""
        for key, listener in self._listeners.items():
            listener.endpoints = counts.get(key, 0)

    def listening(self) -> list[tuple[IPAddress, int]]:
        """Every address and port on which it answers."""
        return [(address, one.port) for one in self._listeners.values() for address in one.addresses]

    def answer(self, port: int) -> HealthResponse | None:
        """What a GET on a port is answered with; ``None`` if the port is closed."""
        for (namespace, name), listener in self._listeners.items():
            if listener.port == port and listener.addresses:
                return self._answer(namespace, name, listener.endpoints)
        return None

    def _answer(self, namespace: str, name: str, endpoints: int) -> HealthResponse:
        healthy = self._proxy_healthy()
        body = (
            "{\n"
            '\t"service": {\n'
            f'\t\t"namespace": "{namespace}",\n'
            f'\t\t"name": "{name}"\n'
            "\t},\n"
            f'\t"localEndpoints": {endpoints},\n'
            f'\t"serviceProxyHealthy": {"true" if healthy else "false"}\n'
            "}"
        )
        headers = (*_JSON, ("X-Load-Balancing-Endpoint-Weight", str(endpoints)))
        return HealthResponse(200 if endpoints and healthy else 503, headers, body)
