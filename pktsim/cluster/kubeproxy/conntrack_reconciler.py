"""Which conntrack entries kube-proxy deletes from 1.32 on: it reads the table and compares it with what it knows.

Not what has changed is asked, but what is: an UDP entry of a service address and port must lead to a serving endpoint.

Source: pkg/proxy/conntrack/cleanup.go of 1.32 and later; which release does what is in ``versions.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pktsim.netfilter.ruleset import Family

from ..addresses import parse_ip
from .conntrack_cleanup import ConntrackEntry
from .model import EndpointsMap, EndpointsUpdate, ServicePortInfo, ServicePortMap
from .versions import Behaviour, Release

_UDP: Final = 17

#: Where an entry may lead: an address in network byte order, and a port or 0 for any.
Targets = frozenset[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class ConntrackReconciliation:
    """One pass through the table.

    Attributes:
        family: Which entries it goes through.
        addresses: By service address and port, where entries may lead.
        node_ports: By node port, whatever the address, likewise.
        compares_port: Whether the endpoint's port is looked at.
    """

    family: Family
    addresses: Mapping[tuple[bytes, int], Targets]
    node_ports: Mapping[int, Targets]
    compares_port: bool

    @property
    def arguments(self) -> tuple[str, ...]:
        """No tool is run."""
        return ()

    def matches(self, entry: ConntrackEntry) -> bool:
        """Whether an entry is deleted."""
        if entry.protocol != _UDP or (len(entry.orig_dst) == 4) != (self.family is Family.IPV4):
            return False
        leads_to = (entry.reply_src, entry.reply_src_port if self.compares_port else 0)
        allowed = (self.addresses.get((entry.orig_dst, entry.orig_dst_port)), self.node_ports.get(entry.orig_dst_port))
        return any(targets is not None and leads_to not in targets for targets in allowed)


def reconciliation(
    release: Release,
    family: Family,
    ports: ServicePortMap,
    endpoints: EndpointsMap,
    deleted: Iterable[ServicePortInfo],
) -> ConntrackReconciliation:
    """Say what the table should be like.

    Args:
        release: Which kube-proxy.
        family: The sync's.
        ports, endpoints: All that there are after it.
        deleted: Service ports that are gone since the last sync.
    """
    compares_port = release.has(Behaviour.CONNTRACK_TARGET_PORT)
    addresses: dict[tuple[bytes, int], Targets] = {}
    node_ports: dict[int, Targets] = {}

    def add(info: ServicePortInfo, targets: Targets) -> None:
        for address in (info.cluster_ip, *info.load_balancer_vips, *info.external_ips):
            addresses[address.packed, info.port] = targets
        if info.node_port:
            node_ports[info.node_port] = targets

    if release.has(Behaviour.CONNTRACK_DELETED_SERVICES):
        for info in deleted:
            if info.protocol == "UDP":
                add(info, frozenset())
    for name, info in ports.items():
        if info.protocol != "UDP":
            continue
        targets = frozenset(
            (parse_ip(one.ip).packed, one.port if compares_port else 0)
            for one in endpoints.get(name, ())
            if one.serving
        )
        if targets or release.has(Behaviour.CONNTRACK_WITHOUT_ENDPOINTS):
            add(info, targets)
    return ConntrackReconciliation(family, addresses, node_ports, compares_port)


def needs_reconciliation(release: Release, endpoints: EndpointsUpdate, deleted: Iterable[ServicePortInfo]) -> bool:
    """Whether a sync ends with a pass: if UDP endpoints changed, later also if a UDP service port is gone."""
    if endpoints.udp_changed:
        return True
    return release.has(Behaviour.CONNTRACK_DELETED_SERVICES) and any(info.protocol == "UDP" for info in deleted)
