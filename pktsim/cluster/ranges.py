"""The address ranges that objects show, for a cluster that is told no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from pktsim.cluster.control_plane import Ranges, pod_network
from pktsim.cluster.kubedns.install import DNS_NAMESPACE, DNS_SERVICE
from pktsim.cluster.objects import KubeObject, Node, Service


def ranges_of(objects: Sequence[KubeObject]) -> Ranges:
    """One range around the pods of all nodes, one of services, and kube-dns' address if there is one."""
    ranges = Ranges()
    networks = [network for found in objects if isinstance(found, Node) and (network := pod_network(found)) is not None]
    if networks:
        around = networks[0] if networks[0].prefixlen <= 16 else networks[0].supernet(new_prefix=16)
        while not all(network.subnet_of(around) for network in networks):
            around = around.supernet()
        ranges = replace(ranges, pods=around)
    known = [
        (found, IPv4Address(found.spec.cluster_ip))
        for found in objects
        if isinstance(found, Service) and found.spec.cluster_ip not in ("", "None") and ":" not in found.spec.cluster_ip
    ]
    if known:
        services = IPv4Network((int(known[0][1]) & ~0xFFFF, 16))
        taken = {address for _, address in known}
        # kubeadm takes the tenth address of the range for kube-dns.
        candidates = (services.network_address + offset for offset in range(10, 1 << 16))
        dns = next(address for address in candidates if address not in taken)
        for found, address in known:
            if (found.namespace, found.name) == (DNS_NAMESPACE, DNS_SERVICE):
                dns = address
        ranges = replace(ranges, services=services, dns=dns)
    return ranges
