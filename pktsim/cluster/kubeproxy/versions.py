"""What later kube-proxies do otherwise than that of 1.30, as data: since which release, and where that can be read.

Everything else in this package is 1.30's. A release stands for its latest patch. What is not in these tables was the
same in the sources that were read, or cannot be seen from outside.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pktsim.errors import ObjectError, UnsupportedFeature

#: Major and minor number.
Version = tuple[int, int]

OLDEST: Version = (1, 30)
NEWEST: Version = (1, 38)


class Behaviour(enum.Enum):
    """Something that came with a release and stayed."""

    NFACCT = "nfacct"
    CONNTRACK_RECONCILER = "conntrack-reconciler"
    CONNTRACK_TARGET_PORT = "conntrack-target-port"
    CONNTRACK_WITHOUT_ENDPOINTS = "conntrack-without-endpoints"
    CONNTRACK_DELETED_SERVICES = "conntrack-deleted-services"
    NO_BURST = "no-burst"
    TOPOLOGY_LABELS_ONLY = "topology-labels-only"


class Change(NamedTuple):
    """Since when, what, and where it can be read."""

    since: Version
    behaviour: Behaviour
    what: str
    source: str


CHANGES: tuple[Change, ...] = (
    Change(
        (1, 31),
        Behaviour.NFACCT,
        "two rules count into nfacct objects, on nodes whose kernel has them",
        "kubernetes/kubernetes#122812, #125015; CHANGELOG-1.31",
    ),
    Change(
        (1, 32),
        Behaviour.CONNTRACK_RECONCILER,
        "after a change of UDP endpoints the conntrack table is read, and each UDP entry of a service address and port "
        "that leads to no serving endpoint is deleted, by netlink and without the conntrack tool",
        "kubernetes/kubernetes#126130, #126847, #127318, #130484; pkg/proxy/conntrack/cleanup.go",
    ),
    Change(
        (1, 34),
        Behaviour.CONNTRACK_TARGET_PORT,
        "the reconciler compares the endpoint's port too, so a changed target port counts",
        "kubernetes/kubernetes#130542; CHANGELOG-1.34",
    ),
    Change(
        (1, 34),
        Behaviour.NO_BURST,
        "a sync starts no sooner than minSyncPeriod after the one before it; until then two could follow at once",
        "kubernetes/kubernetes#131615; pkg/proxy/runner/bounded_frequency_runner.go",
    ),
    Change(
        (1, 35),
        Behaviour.TOPOLOGY_LABELS_ONLY,
        "of the own node's labels only the zone counts: others cause no sync",
        "kubernetes/kubernetes#130837, #133059; pkg/proxy/topology.go (NodeTopologyConfig)",
    ),
    Change(
        (1, 37),
        Behaviour.CONNTRACK_WITHOUT_ENDPOINTS,
        "the reconciler no longer passes over services without serving endpoints, whose entries it had left alone",
        "kubernetes/kubernetes#139628, #139629",
    ),
    Change(
        (1, 38),
        Behaviour.CONNTRACK_DELETED_SERVICES,
        "entries of the addresses of a deleted UDP service are deleted",
        "kubernetes/kubernetes#141371; CHANGELOG-1.38",
    ),
)


class Gate(NamedTuple):
    """A feature gate's stage and default since a release; ``locked`` to that default from GA on."""

    since: Version
    stage: str
    default: bool
    locked: bool = False


#: The gates that change what kube-proxy or the EndpointSlice controller does (pkg/features/kube_features.go).
GATES: Mapping[str, tuple[Gate, ...]] = {
    "LoadBalancerIPMode": (Gate((1, 30), "Beta", True), Gate((1, 32), "GA", True, locked=True)),
    "TopologyAwareHints": (Gate((1, 30), "Beta", True), Gate((1, 33), "GA", True, locked=True)),
    "ServiceTrafficDistribution": (
        Gate((1, 30), "Alpha", False),
        Gate((1, 31), "Beta", True),
        Gate((1, 33), "GA", True, locked=True),
    ),
    "KubeProxyDrainingTerminatingNodes": (Gate((1, 30), "Beta", True), Gate((1, 31), "GA", True, locked=True)),
    "PreferSameTrafficDistribution": (
        Gate((1, 33), "Alpha", False),
        Gate((1, 34), "Beta", True),
        Gate((1, 35), "GA", True, locked=True),
    ),
}

_TEXT = re.compile(r"v?(\d+)\.(\d+)(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Kubernetes, as far as it makes a difference here."""

    version: Version = OLDEST

    @classmethod
    def parse(cls, text: str) -> Release:
        """Read ``1.33``, ``v1.33`` or ``1.33.2``.

        Raises:
            UnsupportedFeature: It is not one of those that are known.
        """
        match = _TEXT.fullmatch(text.strip())
        version = (int(match[1]), int(match[2])) if match else (0, 0)
        if not OLDEST <= version <= NEWEST:
            raise UnsupportedFeature(f"kube-proxy version {text}", mend=f"choose one from {cls()} to {cls(NEWEST)}")
        return cls(version)

    def __str__(self) -> str:
        return ".".join(map(str, self.version))

    def has(self, behaviour: Behaviour) -> bool:
        """Whether it does that."""
        return any(change.behaviour is behaviour and change.since <= self.version for change in CHANGES)

    def feature(self, gate: str, gates: Mapping[str, bool] | None = None) -> bool:
        """Whether a feature gate is on.

        Args:
            gate: Its name.
            gates: What ``featureGates`` says.
        """
        found = self._gate(gate)
        if found is None:
            return False
        said = gates or {}
        if found.locked or gate in said:
            return found.default if found.locked else said[gate]
        return said.get(f"All{found.stage}", found.default)

    def check(self, gates: Mapping[str, bool]) -> None:
        """Refuse what this release would not start with.

        Raises:
            ObjectError: A gate is locked to the other value.
        """
        for name, value in gates.items():
            found = self._gate(name)
            if found is not None and found.locked and value is not found.default:
                raise ObjectError(
                    f"{name} is locked to {str(found.default).lower()} in {self}",
                    place="KubeProxyConfiguration, featureGates",
                    mend="leave it out, or choose an earlier release",
                )

    def _gate(self, name: str) -> Gate | None:
        return next((one for one in reversed(GATES.get(name, ())) if one.since <= self.version), None)


DEFAULT_RELEASE = Release()
