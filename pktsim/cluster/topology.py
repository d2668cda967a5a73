"""The pure choice of endpoints: which of them a node may use, under each traffic policy.

Source: pkg/proxy/topology.go of Kubernetes 1.30; node hints: of 1.33 and later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .objects_nodes import LABEL_TOPOLOGY_ZONE


class CandidateEndpoint(Protocol):
    """What the choice needs to know of an endpoint."""

    @property
    def text(self) -> str:
        """``IP:PORT``, which tells endpoints of one service port apart."""

    @property
    def is_local(self) -> bool:
        """Whether it runs on this node."""

    @property
    def ready(self) -> bool:
        """Whether it takes new connections."""

    @property
    def serving(self) -> bool:
        """Whether it answers, be it about to end or not."""

    @property
    def terminating(self) -> bool:
        """Whether it is about to end."""

    @property
    def zone_hints(self) -> frozenset[str]:
        """Zones whose nodes should use it."""

    @property
    def node_hints(self) -> frozenset[str]:
        """Nodes that should use it."""


class PolicyPort(Protocol):
    """What the choice needs to know of a service port."""

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Whether any of its traffic goes by policy ``Cluster``."""

    @property
    def uses_local_endpoints(self) -> bool:
        """Whether any of its traffic goes by policy ``Local``."""

    @property
    def hints_annotation(self) -> str:
        """The annotation that switches topology hints on."""


_Endpoint = TypeVar("_Endpoint", bound=CandidateEndpoint)


@dataclass(frozen=True, slots=True)
class Categories(Generic[_Endpoint]):
    """Endpoints of one service port, seen from one node.

    Attributes:
        cluster: Those used under policy ``Cluster``; empty if the port never uses it.
        local: Those used under policy ``Local``; empty if the port never uses it.
        reachable: All of both, without repetition.
        any_usable: Whether there is a usable endpoint anywhere, be it reachable from here or not.
    """

    cluster: Sequence[_Endpoint]
    local: Sequence[_Endpoint]
    reachable: Sequence[_Endpoint]
    any_usable: bool


@dataclass(frozen=True, slots=True)
class HintGates:
    """The feature gates of topology hints."""

    topology_aware_hints: bool = True
    service_traffic_distribution: bool = False
    prefer_same_traffic_distribution: bool = False


def categorize_endpoints(
    endpoints: Sequence[_Endpoint],
    port: PolicyPort,
    node_labels: Mapping[str, str],
    gates: HintGates = HintGates(),
    node_name: str = "",
) -> Categories[_Endpoint]:
    """Sort out endpoints as ``CategorizeEndpoints`` does.

    Endpoints that still serve while they terminate are a fallback: under ``Cluster`` when no endpoint is ready
    anywhere, under ``Local`` when none is ready on this node. Hints are not asked in the fallback, nor under ``Local``.
    """
    cluster: Sequence[_Endpoint] = ()
    by_hints = False
    any_usable = False
    if port.uses_cluster_endpoints:
        zone = node_labels.get(LABEL_TOPOLOGY_ZONE, "")
        ready = [one for one in endpoints if one.ready]
        cluster = hinted(ready, port, node_name, zone, gates)
        by_hints = len(cluster) < len(ready)
        if not cluster:
            cluster = [one for one in endpoints if one.serving and one.terminating]
        any_usable = bool(cluster)
    if not port.uses_local_endpoints:
        return Categories(cluster, (), cluster, any_usable)

    fallback = False
    any_usable = any_usable or any(one.ready or (one.serving and one.terminating) for one in endpoints)
    local: Sequence[_Endpoint] = [one for one in endpoints if one.is_local and one.ready]
    if not local:
        local = [one for one in endpoints if one.is_local and one.serving and one.terminating]
        fallback = bool(local)
    if not port.uses_cluster_endpoints:
        return Categories(cluster, local, local, any_usable)
    if not by_hints and not fallback:
        # Every ready endpoint is in cluster, so the local ones are too.
        return Categories(cluster, local, cluster, any_usable)
    merged = {one.text: one for one in (*cluster, *local)}
    return Categories(cluster, local, tuple(merged.values()), any_usable)


def hinted(
    ready: Sequence[_Endpoint], port: PolicyPort, node_name: str, zone: str, gates: HintGates
) -> Sequence[_Endpoint]:
    """Those of the ready endpoints to which ``Cluster`` traffic keeps: all, if hints do not count.

    Hints for nodes, or else for zones, count if the service asks for them (since ServiceTrafficDistribution: always),
    every ready endpoint has some, and one of them names this node or its zone (``canUseTopology``, since 1.33
    ``topologyModeFromHints``).
    """
    if not gates.service_traffic_distribution and (
        not gates.topology_aware_hints or port.hints_annotation in ("", "disabled", "Disabled")
    ):
        return ready
    if all(one.node_hints for one in ready):
        mine = [one for one in ready if node_name in one.node_hints]
        if mine:
            return mine
    if zone and all(one.zone_hints for one in ready):
        mine = [one for one in ready if zone in one.zone_hints]
        if mine:
            return mine
    return ready
