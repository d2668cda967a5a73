"""Hints of the EndpointSlice controller: for which zones, or nodes, an endpoint is meant.

Two ways. With the annotation ``service.kubernetes.io/topology-mode: Auto`` endpoints are dealt out to zones in
proportion to the CPUs of their nodes, if no endpoint is overloaded by more than a fifth (:class:`TopologyCache`). With
``trafficDistribution`` each endpoint is meant for its own zone or node (:func:`close_hints`).

Source: staging/src/k8s.io/endpointslice/topologycache and trafficdist of Kubernetes 1.30 to 1.35.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal

from pktsim.fidelity import approximated

from .objects import LABEL_TOPOLOGY_ZONE, Endpoint, EndpointHints, EndpointSlice, Node
from .objects_services import ForNode, ForZone

approximated(
    "cluster.topology_hints",
    "zones that have equally much to give, or to be given, are taken in the order of their names, where the controller "
    "takes them in Go's random map order",
    source="staging/src/k8s.io/endpointslice/topologycache/utils.go",
)

#: Namespace and name of a Service.
ServiceKey = tuple[str, str]

#: By how much an endpoint may be overloaded.
OVERLOAD_THRESHOLD = 0.2
#: Nodes with one of these labels take no part.
EXCLUDED_LABELS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")

_QUANTITY = re.compile(r"([+-]?[0-9.]+)(?:([eE][+-]?\d+)|(m|k|M|G|T|Ki|Mi|Gi|Ti)?)")
_SCALES = {"m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12)}
_SCALES |= {f"{name}i": Decimal(1024**power) for power, name in enumerate("KMGT", 1)}


def milli(quantity: object) -> int:
    """A quantity (``4``, ``3920m``, ``0.5``) in thousandths, rounded up; 0 if it is none (``MilliValue``)."""
    match = _QUANTITY.fullmatch(str(quantity).strip())
    if match is None:
        return 0
    value = Decimal(match[1] + (match[2] or "")) * _SCALES.get(match[3] or "", Decimal(1))
    return int((value * 1000).to_integral_value(ROUND_CEILING))


@dataclass(slots=True)
class Reconciled:
    """Slices of one Service and address type on their way to be stored.

    Attributes:
        create: New ones.
        update: Those that change anyway.
        unchanged: The others.
    """

    create: list[EndpointSlice] = field(default_factory=list)
    update: list[EndpointSlice] = field(default_factory=list)
    unchanged: list[EndpointSlice] = field(default_factory=list)

    def all(self) -> list[EndpointSlice]:
        """All three."""
        return [*self.create, *self.update, *self.unchanged]


@dataclass(frozen=True, slots=True)
class _Allocation:
    """How many endpoints a zone should have."""

    minimum: int
    desired: float
    maximum: int = 0


def ready(endpoint: Endpoint) -> bool:
    """Whether an endpoint is hinted at all."""
    return endpoint.conditions.ready is True


def without_hints(slices: Reconciled) -> None:
    """Take all hints away; slices that had some are updated (``RemoveHintsFromSlices``)."""
    stay: list[EndpointSlice] = []
    for one in slices.unchanged:
        (slices.update if any(endpoint.hints for endpoint in one.endpoints) else stay).append(one)
    slices.unchanged = stay
    for several in (slices.create, slices.update):
        several[:] = [_with_hints(one, [None] * len(one.endpoints)) for one in several]


def close_hints(slices: Reconciled, *, node_hints: bool) -> None:
    """Mean each ready endpoint for its own zone, with ``node_hints`` also for its own node (``ReconcileHints``)."""

    def wanted(one: EndpointSlice) -> list[EndpointHints | None]:
        return [
            _close(endpoint, node_hints=node_hints) if ready(endpoint) else endpoint.hints for endpoint in one.endpoints
        ]

    stay: list[EndpointSlice] = []
    for one in slices.unchanged:
        same = wanted(one) == [endpoint.hints for endpoint in one.endpoints]
        (stay if same else slices.update).append(one)
    slices.unchanged = stay
    for several in (slices.create, slices.update):
        several[:] = [_with_hints(one, wanted(one)) for one in several]


def _close(endpoint: Endpoint, *, node_hints: bool) -> EndpointHints | None:
    zones = (ForZone(name=endpoint.zone),) if endpoint.zone is not None else ()
    nodes = (ForNode(name=endpoint.node_name),) if node_hints and endpoint.node_name is not None else ()
    return EndpointHints(for_zones=zones, for_nodes=nodes) if zones or nodes else None


def _with_hints(one: EndpointSlice, hints: Sequence[EndpointHints | None]) -> EndpointSlice:
    if [endpoint.hints for endpoint in one.endpoints] == list(hints):
        return one
    endpoints = tuple(
        endpoint.model_copy(update={"hints": hint}) for endpoint, hint in zip(one.endpoints, hints, strict=True)
    )
    return one.model_copy(update={"endpoints": endpoints})


class TopologyCache:
    """How CPUs are spread over zones, and what was hinted for which Service."""

    def __init__(self) -> None:
        #: Each zone's share of all CPUs; ``None`` if that is not known, or there are fewer than two zones.
        self._ratios: dict[str, float] | None = None
        self._hints: dict[ServiceKey, dict[str, dict[str, int]]] = {}

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """Count the CPUs of all nodes that are ready; one without zone or CPUs spoils it for all (``SetNodes``)."""
        cpus: dict[str, int] = {}
        self._ratios = None
        for node in nodes:
            labels = node.metadata.labels
            if any(label in labels for label in EXCLUDED_LABELS) or not node.condition("Ready"):
                continue
            zone, cpu = labels.get(LABEL_TOPOLOGY_ZONE, ""), milli(node.status.allocatable.get("cpu", 0))
            if not zone or not cpu:
                return
            cpus[zone] = cpus.get(zone, 0) + cpu
        if len(cpus) >= 2:
            total = sum(cpus.values())
            self._ratios = {zone: cpu / total for zone, cpu in sorted(cpus.items())}

    def overloaded(self) -> list[ServiceKey]:
        """Services of which some zone has too few endpoints now (``GetOverloadedServices``)."""
        return [key for key, several in self._hints.items() if any(map(self._overloaded, several.values()))]

    def _overloaded(self, hints: Mapping[str, int]) -> bool:
        if not hints or not self._ratios:
            return bool(hints)
        total = sum(hints.values())
        return any(
            zone not in hints or hints[zone] < math.ceil(total * ratio * (1 / (1 + OVERLOAD_THRESHOLD)))
            for zone, ratio in self._ratios.items()
        )

    def remove(self, key: ServiceKey, family: str) -> None:
        """Forget what was hinted."""
        several = self._hints.get(key, {})
        several.pop(family, None)
        if not several:
            self._hints.pop(key, None)

    def add_hints(self, key: ServiceKey, family: str, slices: Reconciled) -> None:
        """Deal endpoints out to zones, or take all hints away if that cannot be done well (``AddHints``)."""
        allocations = self._allocations(sum(ready(one) for piece in slices.all() for one in piece.endpoints))
        hinted = None if allocations is None else _deal(slices, allocations)
        if not hinted:
            self.remove(key, family)
            without_hints(slices)
        else:
            self._hints.setdefault(key, {})[family] = hinted

    def _allocations(self, n_endpoints: int) -> dict[str, _Allocation] | None:
        if self._ratios is None or len(self._ratios) > n_endpoints:
            return None
        found = {}
        for zone, ratio in self._ratios.items():
            desired = ratio * n_endpoints
            minimum = math.ceil(desired * (1 / (1 + OVERLOAD_THRESHOLD)))
            found[zone] = _Allocation(minimum, max(desired, float(minimum)))
        spare = n_endpoints - sum(one.minimum for one in found.values())
        if spare < 0:
            return None
        return {zone: _Allocation(one.minimum, one.desired, one.minimum + spare) for zone, one in found.items()}


def _deal(slices: Reconciled, allocations: Mapping[str, _Allocation]) -> dict[str, int] | None:
    """Hint all ready endpoints; ``None`` if one has no zone.

    Slices that do not change otherwise stay as they are if their hints are still possible. In the others each endpoint
    is meant for its own zone at first, and then zones that have too many give to those that have too few.
    """
    hinted: dict[str, int] = {}
    stay = []
    for one in slices.unchanged:
        counts = _counts(one, hinted, allocations)
        if counts is None:
            slices.update.append(one)
            continue
        stay.append(one)
        for name, number in counts.items():
            hinted[name] = hinted.get(name, 0) + number
    slices.unchanged = stay
    changing = [*slices.create, *slices.update]
    zones: list[list[str | None]] = []
    for one in changing:
        zones.append([])
        for endpoint in one.endpoints:
            if ready(endpoint) and not endpoint.zone:
                return None
            zones[-1].append(endpoint.zone if ready(endpoint) else None)
            if ready(endpoint) and endpoint.zone:
                hinted[endpoint.zone] = hinted.get(endpoint.zone, 0) + 1
    giving, receiving = _giving_and_receiving(allocations, hinted)
    for meant in zones:
        for at in range(len(meant)):
            zone = meant[at]
            if zone is None or not giving.get(zone) or not any(receiving.values()):
                continue
            taker = min(name for name in receiving if receiving[name])
            meant[at] = taker
            giving[zone] -= 1
            receiving[taker] -= 1
            hinted[zone] -= 1
            hinted[taker] = hinted.get(taker, 0) + 1
    made = [_with_hints(one, _zone_hints(one, meant)) for one, meant in zip(changing, zones, strict=True)]
    slices.create, slices.update = made[: len(slices.create)], made[len(slices.create) :]
    return hinted


def _zone_hints(one: EndpointSlice, meant: Sequence[str | None]) -> list[EndpointHints | None]:
    return [
        EndpointHints(for_zones=(ForZone(name=zone),)) if zone else endpoint.hints
        for endpoint, zone in zip(one.endpoints, meant, strict=True)
    ]


def _counts(
    one: EndpointSlice, hinted: Mapping[str, int], allocations: Mapping[str, _Allocation]
) -> dict[str, int] | None:
    """How often a slice names each zone; ``None`` if its hints cannot stay (``getHintsByZone``)."""
    counts: dict[str, int] = {}
    for endpoint in one.endpoints:
        if ready(endpoint):
            if endpoint.hints is None or not endpoint.hints.for_zones:
                return None
            for zone in endpoint.hints.for_zones:
                if zone.name not in allocations:
                    return None
                counts[zone.name] = counts.get(zone.name, 0) + 1
    if any(number + hinted.get(zone, 0) > allocations[zone].maximum for zone, number in counts.items()):
        return None
    return counts


def _giving_and_receiving(
    allocations: Mapping[str, _Allocation], hinted: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """How many endpoints zones should give away and get (``getGivingAndReceivingZones``)."""
    surplus = {zone: hinted.get(zone, 0) - one.desired for zone, one in sorted(allocations.items())}
    to_give = {zone: number for zone, number in surplus.items() if number > 0}
    to_get = {zone: -number for zone, number in surplus.items() if number < 0}
    giving: dict[str, int] = {}
    receiving: dict[str, int] = {}
    while to_give and to_get:
        giver, taker = max(to_give, key=to_give.__getitem__), max(to_get, key=to_get.__getitem__)
        give, get = to_give[giver], to_get[taker]
        if (give < 1 and get < 1) or give < 0.5 or get < 0.5:
            break
        giving[giver] = giving.get(giver, 0) + 1
        receiving[taker] = receiving.get(taker, 0) + 1
        to_give[giver] -= 1
        to_get[taker] -= 1
    return giving, receiving
