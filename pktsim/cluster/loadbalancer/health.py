"""Probes: real connections from the balancer to each node, at intervals, with thresholds.

Where the external traffic policy is Local they ask kube-proxy's ``healthCheckNodePort`` (200: there are endpoints
here); else they open a connection to the node port, which any node answers while there is an endpoint anywhere, or ask
kube-proxy's ``/healthz`` where there is no TCP node port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from pktsim.clock import NS_PER_S
from pktsim.fidelity import approximated
from pktsim.kernel.netns import Netns
from pktsim.kernel.task import Task, sleep, spawn

from ..apps.http_client import HttpClient
from ..apps.probe import Probe, run_probe
from ..kubeproxy.healthcheck import HEALTHZ_PORT
from ..objects import Service
from ..objects_balancer import HealthCheckPlan

approximated(
    "cluster.loadbalancer.health.start",
    "a balancer begins with what its probes would have found if they had been going on for long; later changes "
    "are found by probes",
    source="the providers' documentation of health checks",
)

USER_AGENT = "pktsim-health-check"


@dataclass(frozen=True, slots=True)
class Check:
    """What is asked of a node: GET ``path``, or only a connection if that is empty."""

    address: IPv4Address
    port: int
    path: str = ""


def check_for(service: Service, node: IPv4Address) -> Check:
    """How a Service's health on a node is found out."""
    if service.needs_health_check and service.spec.health_check_node_port:
        return Check(node, service.spec.health_check_node_port, "/healthz")
    for port in service.spec.ports:
        if port.protocol == "TCP" and port.node_port:
            return Check(node, port.node_port)
    return Check(node, HEALTHZ_PORT, "/healthz")


@dataclass(slots=True)
class _Probed:
    check: Check
    healthy: bool
    streak: int = 0
    task: Task[None] | None = None


class HealthChecker:
    """Probes from one machine.

    Args:
        netns: Where they come from.
        plan: How often, and what counts.
        changed: Called when a target has become healthy, or is so no more.
    """

    def __init__(self, netns: Netns, plan: HealthCheckPlan, changed: Callable[[], None]) -> None:
        self._netns = netns
        self._plan = plan
        self._changed = changed
        self._probed: dict[Check, _Probed] = {}

    def watch(self, wanted: Mapping[Check, bool]) -> None:
        """Probe these, no others; the value is what a new one is taken to be at first."""
        for check in [check for check in self._probed if check not in wanted]:
            gone = self._probed.pop(check)
            if gone.task is not None:
                gone.task.cancel()
        for check, healthy in wanted.items():
            if check not in self._probed:
                probed = self._probed[check] = _Probed(check, healthy)
                probed.task = spawn(self._netns.clock, self._run(probed), f"{self._netns.name} probes {check}")

    def healthy(self, check: Check) -> bool:
        """Whether a target may get traffic."""
        probed = self._probed.get(check)
        return probed is not None and probed.healthy

    async def _run(self, probed: _Probed) -> None:
        clock = self._netns.clock
        while True:
            await sleep(clock, round(self._plan.interval * NS_PER_S))
            good = await self._ask(probed.check)
            if good == probed.healthy:
                probed.streak = 0
                continue
            probed.streak += 1
            if probed.streak >= (self._plan.healthy if good else self._plan.unhealthy):
                probed.healthy, probed.streak = good, 0
                self._changed()

    async def _ask(self, check: Check) -> bool:
        limit_ns = round(self._plan.timeout * NS_PER_S)
        sockets = self._netns.sockets
        if not check.path:
            (line,) = await run_probe(sockets, Probe("tcp", str(check.address), check.port, wait_ns=limit_ns))
            return line == "connected"
        client = HttpClient(sockets, max_time_ns=limit_ns, user_agent=USER_AGENT)
        answer = await client.get(f"http://{check.address}:{check.port}{check.path}", headers=("Connection: close",))
        return answer.exit_code == 0 and answer.status == 200
