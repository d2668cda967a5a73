"""Which conntrack entries kube-proxy deletes after a sync: those of UDP that would keep going to the wrong place.

kube-proxy 1.30 runs the ``conntrack`` tool, and what is gone is what the tool makes of its arguments, so the filters
here are the tool's. TCP and SCTP entries are never deleted.

Source: pkg/proxy/conntrack/cleanup.go and conntrack.go of Kubernetes 1.30; conntrack-tools 1.4.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pktsim.netfilter.ruleset import Family

from ..addresses import IPAddress, parse_ip
from .model import EndpointsUpdate, ServicePortMap, ServiceUpdate


class ConntrackEntry(Protocol):
    """What a filter looks at: both directions of an entry, addresses in network byte order."""

    @property
    def protocol(self) -> int:
        """``IPPROTO_*``."""

    @property
    def orig_dst(self) -> bytes:
        """Where the first packet was sent."""

    @property
    def orig_dst_port(self) -> int:
        """The port it was sent to."""

    @property
    def reply_src(self) -> bytes:
        """Where answers come from."""

    @property
    def reply_src_port(self) -> int:
        """The port answers come from."""


_UDP = 17


@dataclass(frozen=True, slots=True, order=True)
class ConntrackDelete:
    """One ``conntrack -D -p udp`` command.

    Attributes:
        family: Which entries it goes through.
        orig_dst: ``--orig-dst``.
        dst_nat: ``--dst-nat``.
        dport: ``--dport``, of the original direction.
    """

    family: Family
    orig_dst: str | None = None
    dst_nat: str | None = None
    dport: int | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments, in kube-proxy's order."""
        words: tuple[str, ...] = ("-D",)
        if self.orig_dst is not None:
            words += ("--orig-dst", self.orig_dst)
            if self.dst_nat is not None:
                words += ("--dst-nat", self.dst_nat)
            words += ("-p", "udp")
        else:
            words += ("-p", "udp", "--dport", str(self.dport))
            if self.dst_nat is not None:
                words += ("--dst-nat", self.dst_nat)
        return (*words, "-f", "ipv6") if self.family is Family.IPV6 else words

    def matches(self, entry: ConntrackEntry) -> bool:
        """Whether the tool deletes an entry."""
        if entry.protocol != _UDP or (len(entry.orig_dst) == 4) != (self.family is Family.IPV4):
            return False
        if self.orig_dst is not None and entry.orig_dst != parse_ip(self.orig_dst).packed:
            return False
        if self.dport is not None and entry.orig_dst_port != self.dport:
            return False
        if self.dst_nat is None:
            return True
        if entry.reply_src == entry.orig_dst and entry.reply_src_port == entry.orig_dst_port:
            return False  # no destination NAT
        # conntrack 1.4.7 compares the address with IPv4 only; with IPv6 every entry with destination NAT goes.
        return self.family is Family.IPV6 or entry.reply_src == parse_ip(self.dst_nat).packed


def stale_entries(
    family: Family, ports: ServicePortMap, services: ServiceUpdate, endpoints: EndpointsUpdate
) -> Iterator[ConntrackDelete]:
    """Say what is to be deleted after a sync (``CleanStaleEntries``).

    Args:
        family: The sync's.
        ports: All service ports after it.
        services, endpoints: What it changed.
    """
    addresses: set[IPAddress] = set(services.deleted_udp_cluster_ips)
    node_ports: set[int] = set()
    # From no serving endpoint to some: packets that were refused have left entries without NAT.
    for name in endpoints.newly_active_udp_services:
        if info := ports.get(name):
            addresses.update((info.cluster_ip, *info.external_ips, *info.load_balancer_vips))
            if info.node_port:
                node_ports.add(info.node_port)
    for address in sorted(addresses, key=int):
        yield ConntrackDelete(family, orig_dst=str(address))
    for port in sorted(node_ports):
        yield ConntrackDelete(family, dport=port)
    for name, endpoint in endpoints.deleted_udp_endpoints:
        if info := ports.get(name):
            gone = endpoint.ip  # as its slice writes it
            if info.node_port:
                yield ConntrackDelete(family, dst_nat=gone, dport=info.node_port)
            for address in (info.cluster_ip, *info.external_ips, *info.load_balancer_vips):
                yield ConntrackDelete(family, orig_dst=str(address), dst_nat=gone)
