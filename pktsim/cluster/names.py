"""What addresses are called: names for the readers of captures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pktsim.cluster.addresses import IPAddress, parse_ip
from pktsim.cluster.objects import Node, Pod, Service
from pktsim.cluster.store import ObjectStore


def address_names(store: ObjectStore, beyond: Iterable[tuple[IPAddress, str]]) -> Mapping[bytes, tuple[str, ...]]:
    """Packed addresses and their names, several where nodes, pods or services share one.

    Args:
        store: The objects.
        beyond: Addresses and names outside of the cluster.
    """
    found: dict[bytes, list[str]] = {}
    for node in store.list(Node):
        for ip in node.host_ips:
            found.setdefault(ip.packed, []).append(node.name)
    for pod in store.list(Pod):
        if not pod.spec.host_network:
            for ip in pod.addresses:
                found.setdefault(ip.packed, []).append(f"{pod.name}.{pod.namespace}.pod")
    for ip, name in beyond:
        found.setdefault(ip.packed, []).append(name)
    for service in store.list(Service):
        for text in (*service.spec.cluster_ips, *service.spec.external_ips):
            if text != "None" and text:
                found.setdefault(parse_ip(text).packed, []).append(f"{service.name}.{service.namespace}.svc")
    return {address: tuple(names) for address, names in found.items()}
