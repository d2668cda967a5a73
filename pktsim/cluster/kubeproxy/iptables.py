"""iptables mode: the chains of service ports and the chains that gather them, as rules.

A pure writer: it is given service ports, endpoints and settings, and says nothing of when. The order of rules within
a chain is kube-proxy's; service ports, which kube-proxy takes in Go's random order, come in the order of their names.

Source: pkg/proxy/iptables/proxier.go (``syncProxyRules``) of Kubernetes 1.30.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from ipaddress import ip_address

from pktsim.netfilter.matches.addrtype import AddrType, AddrtypeMatch
from pktsim.netfilter.matches.comment import CommentMatch
from pktsim.netfilter.matches.conntrack import ConntrackMatch
from pktsim.netfilter.matches.mark import MarkMatch
from pktsim.netfilter.matches.nfacct import NfacctMatch
from pktsim.netfilter.matches.recent import RecentAction, RecentMatch
from pktsim.netfilter.matches.sctp import SctpMatch
from pktsim.netfilter.matches.statistic import StatisticRandomMatch
from pktsim.netfilter.matches.tcp import TcpMatch
from pktsim.netfilter.matches.udp import UdpMatch
from pktsim.netfilter.opcodes import CtStateBit
from pktsim.netfilter.ruleset import (
    Family,
    HeaderMatch,
    Jump,
    MaskedAddress,
    Match,
    Rule,
    Target,
    Verdict,
    VerdictTarget,
)
from pktsim.netfilter.targets.dnat import DnatTarget
from pktsim.netfilter.targets.mark import MarkTarget
from pktsim.netfilter.targets.masquerade import MasqueradeTarget
from pktsim.netfilter.targets.reject import Reject6Target, Reject6With, RejectTarget, RejectWith
from pktsim.netfilter.values import AddressRange, NatRange, PortRange

from ..addresses import IPAddress, IPNetwork, parse_cidr, parse_ip
from ..topology import HintGates, categorize_endpoints
from .chain_names import (
    CLUSTER_POLICY_PREFIX,
    EXTERNAL_PREFIX,
    FIREWALL_PREFIX,
    KUBE_EXTERNAL_SERVICES,
    KUBE_FIREWALL,
    KUBE_FORWARD,
    KUBE_MARK_MASQ,
    KUBE_NODEPORTS,
    KUBE_POSTROUTING,
    KUBE_PROXY_FIREWALL,
    KUBE_SERVICES,
    LOCAL_POLICY_PREFIX,
    chain_hash,
    endpoint_chain,
)
from .config import LocalDetector, NodePortAddresses
from .model import EndpointInfo, ServicePortInfo, ServicePortName

#: Above this many endpoints, comments of endpoint rules are left out (``largeClusterEndpointsThreshold``).
LARGE_CLUSTER_ENDPOINTS = 1000

PROTOCOL_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}

ACCEPT = VerdictTarget(Verdict.ACCEPT)
DROP = VerdictTarget(Verdict.DROP)
RETURN = VerdictTarget(Verdict.RETURN)
TO_MARK_MASQ = Jump(KUBE_MARK_MASQ)
TO_NODEPORTS = Jump(KUBE_NODEPORTS)
NEW = ConntrackMatch(states=int(CtStateBit.NEW))
FROM_LOCAL = AddrtypeMatch(src_types=int(AddrType.LOCAL))
TO_LOCAL = AddrtypeMatch(dst_types=int(AddrType.LOCAL))
#: nfacct objects (pkg/proxy/metrics/metrics.go of 1.31).
INVALID_COUNTER = NfacctMatch("ct_state_invalid_dropped_pkts")
LOCALHOST_NODE_PORT_COUNTER = NfacctMatch("localhost_nps_accepted_pkts")
_LOOPBACK_4 = parse_cidr("127.0.0.0/8")
_LOOPBACK_6 = parse_cidr("::1/128")


@dataclass(frozen=True, slots=True)
class JumpRule:
    """A rule in a built-in chain that leads to one of ours."""

    table: str
    source: str
    rule: Rule

    @property
    def target(self) -> str:
        """The chain that it leads to."""
        assert isinstance(self.rule.target, Jump)
        return self.rule.target.chain


def _jump(table: str, target: str, source: str, comment: str, *matches: Match) -> JumpRule:
    named = (*matches, CommentMatch(comment)) if comment else matches
    return JumpRule(table, source, Rule(matches=named, target=Jump(target)))


#: In the order in which they are made sure of: each is put first in its chain, so the last one comes out on top.
JUMP_RULES: tuple[JumpRule, ...] = (
    _jump("filter", KUBE_EXTERNAL_SERVICES, "INPUT", "kubernetes externally-visible service portals", NEW),
    _jump("filter", KUBE_EXTERNAL_SERVICES, "FORWARD", "kubernetes externally-visible service portals", NEW),
    _jump("filter", KUBE_NODEPORTS, "INPUT", "kubernetes health check service ports"),
    _jump("filter", KUBE_SERVICES, "FORWARD", "kubernetes service portals", NEW),
    _jump("filter", KUBE_SERVICES, "OUTPUT", "kubernetes service portals", NEW),
    _jump("filter", KUBE_FORWARD, "FORWARD", "kubernetes forwarding rules"),
    _jump("filter", KUBE_PROXY_FIREWALL, "INPUT", "kubernetes load balancer firewall", NEW),
    _jump("filter", KUBE_PROXY_FIREWALL, "OUTPUT", "kubernetes load balancer firewall", NEW),
    _jump("filter", KUBE_PROXY_FIREWALL, "FORWARD", "kubernetes load balancer firewall", NEW),
    _jump("nat", KUBE_SERVICES, "OUTPUT", "kubernetes service portals"),
    _jump("nat", KUBE_SERVICES, "PREROUTING", "kubernetes service portals"),
    _jump("nat", KUBE_POSTROUTING, "POSTROUTING", "kubernetes postrouting rules"),
    # kubelet makes the same two; kube-proxy needs its guard where no kubelet runs or a newer one no longer makes it.
    _jump("filter", KUBE_FIREWALL, "INPUT", ""),
    _jump("filter", KUBE_FIREWALL, "OUTPUT", ""),
)


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """What does not change while kube-proxy runs, of one address family.

    Attributes:
        masquerade_mark: The bit that marks a packet for masquerading.
        localhost_node_ports: Whether node ports answer on 127.0.0.0/8 (IPv4 only).
        tcp_be_liberal: Whether conntrack was told to be liberal; then INVALID packets pass.
        node_name: The node, for hints that name it.
        nfacct: Whether two rules count into nfacct objects (from 1.31 on).
    """

    family: Family
    masquerade_mark: int
    masquerade_all: bool
    detector: LocalDetector | None
    node_ip: IPAddress
    localhost_node_ports: bool
    node_port_addresses: NodePortAddresses
    tcp_be_liberal: bool
    gates: HintGates
    node_name: str = ""
    nfacct: bool = False


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """All that one service port contributes.

    Attributes:
        chains: Its own chains of the nat table.
        nat_services, nat_node_ports: Its rules in KUBE-SERVICES and KUBE-NODEPORTS of the nat table.
        services, external, firewall, node_ports: Its rules in KUBE-SERVICES, KUBE-EXTERNAL-SERVICES,
            KUBE-PROXY-FIREWALL and KUBE-NODEPORTS of the filter table.
    """

    chains: Mapping[str, tuple[Rule, ...]]
    nat_services: tuple[Rule, ...]
    nat_node_ports: tuple[Rule, ...]
    services: tuple[Rule, ...]
    external: tuple[Rule, ...]
    firewall: tuple[Rule, ...]
    node_ports: tuple[Rule, ...]

    @property
    def gathered(self) -> tuple[tuple[Rule, ...], ...]:
        """What it contributes to chains that it shares with others."""
        return (
            self.nat_services,
            self.nat_node_ports,
            self.services,
            self.external,
            self.firewall,
            self.node_ports,
        )


@dataclass(slots=True)
class _Draft:
    """Lists in which a :class:`ServiceRules` grows."""

    chains: dict[str, list[Rule]] = field(default_factory=dict)
    nat_services: list[Rule] = field(default_factory=list)
    nat_node_ports: list[Rule] = field(default_factory=list)
    services: list[Rule] = field(default_factory=list)
    external: list[Rule] = field(default_factory=list)
    firewall: list[Rule] = field(default_factory=list)
    node_ports: list[Rule] = field(default_factory=list)

    def done(self) -> ServiceRules:
        return ServiceRules(
            {name: tuple(rules) for name, rules in self.chains.items()},
            tuple(self.nat_services),
            tuple(self.nat_node_ports),
            tuple(self.services),
            tuple(self.external),
            tuple(self.firewall),
            tuple(self.node_ports),
        )


@lru_cache(maxsize=4096)
def probability(n: int) -> StatisticRandomMatch:
    """One in ``n``, as it arrives in the kernel.

    kube-proxy writes 1/n with ten decimals; iptables multiplies that by 2**31 and rounds, halves upwards
    (extensions/libxt_statistic.c, ``lround``). The product is exact: 2**31 only moves the binary point.
    """
    product = Decimal(float(f"{1 / n:.10f}") * (1 << 31))
    return StatisticRandomMatch(int(product.quantize(Decimal(1), ROUND_HALF_UP)))


def masked(network: IPNetwork) -> MaskedAddress:
    """A network as a rule's address."""
    return MaskedAddress(network.network_address, network.netmask)


_ALL_ONES = {Family.IPV4: parse_ip("255.255.255.255"), Family.IPV6: ip_address((1 << 128) - 1)}


def host(address: IPAddress) -> MaskedAddress:
    """One address as a rule's address."""
    return MaskedAddress(address, _ALL_ONES[Family.IPV4 if address.version == 4 else Family.IPV6])


@lru_cache(maxsize=65536)
def _port_match(protocol: str, port: int | None) -> Match:
    """``-m PROTOCOL --dport PORT``, or without the port."""
    ports = None if port is None else PortRange(port, port)
    if protocol == "TCP":
        return TcpMatch(dst_ports=ports)
    if protocol == "UDP":
        return UdpMatch(dst_ports=ports)
    return SctpMatch(dst_ports=ports)


@lru_cache(maxsize=16)
def _of_protocol(protocol: str) -> HeaderMatch:
    return HeaderMatch(protocol=PROTOCOL_NUMBERS[protocol])


class RuleWriter:
    """Writes the rules of one address family.

    Args:
        settings: What does not change while kube-proxy runs.
    """

    def __init__(self, settings: WriterSettings) -> None:
        self.settings = settings
        self._reject: Target
        if settings.family is Family.IPV4:
            self._reject = RejectTarget(RejectWith.ICMP_PORT_UNREACHABLE)
        else:
            self._reject = Reject6Target(Reject6With.ICMP6_PORT_UNREACHABLE)
        self._recent_mask = _ALL_ONES[settings.family]
        self._static = self._static_rules()

    # one service port

    def service_rules(
        self,
        name: ServicePortName,
        info: ServicePortInfo,
        endpoints: Sequence[EndpointInfo],
        node_labels: Mapping[str, str],
        *,
        large_cluster: bool,
    ) -> ServiceRules:
        """Write all rules of one service port.

        Args:
            name: Which one.
            info: Its addresses and policies.
            endpoints: All its endpoints, in order, usable or not.
            node_labels: Labels of this node.
            large_cluster: Whether endpoint rules go without comments.
        """
        draft = _Draft()
        text = str(name)
        protocol = info.protocol.lower()
        suffix = chain_hash(text + protocol)
        cluster_chain = CLUSTER_POLICY_PREFIX + suffix
        local_chain = LOCAL_POLICY_PREFIX + suffix
        external_chain = EXTERNAL_PREFIX + suffix
        firewall_chain = FIREWALL_PREFIX + suffix

        found = categorize_endpoints(endpoints, info, node_labels, self.settings.gates, self.settings.node_name)
        any_usable = found.any_usable
        internal_chain = local_chain if info.internal_policy_local else cluster_chain
        internal_usable = any_usable and (bool(found.local) or not info.internal_policy_local)
        external_usable = any_usable and (bool(found.local) or not info.external_policy_local)
        # Even without usable endpoints for outside traffic: this node and its pods still go to all endpoints.
        uses_external_chain = any_usable and info.externally_accessible
        uses_firewall_chain = any_usable and bool(info.load_balancer_vips) and bool(info.load_balancer_source_ranges)

        header_of = _of_protocol(info.protocol)
        port = _port_match(info.protocol, info.port)
        if any_usable:
            refusal: Target = DROP
            refused = CommentMatch(f"{text} has no local endpoints")
        else:
            refusal = self._reject
            refused = CommentMatch(f"{text} has no endpoints")

        # cluster IP
        cluster_comment = CommentMatch(f"{text} cluster IP")
        to_cluster_ip = HeaderMatch(dst=host(info.cluster_ip), protocol=header_of.protocol)
        if internal_usable:
            draft.nat_services.append(Rule(to_cluster_ip, (cluster_comment, port), Jump(internal_chain)))
        else:
            draft.services.append(Rule(to_cluster_ip, (refused, port), refusal))

        # external IPs, load balancer IPs
        for comment, addresses, chain in (
            ("external IP", info.external_ips, external_chain),
            ("loadbalancer IP", info.load_balancer_vips, firewall_chain if uses_firewall_chain else external_chain),
        ):
            if not addresses:
                continue
            matches = (CommentMatch(f"{text} {comment}"), port)
            for address in addresses:
                header = HeaderMatch(dst=host(address), protocol=header_of.protocol)
                if any_usable:
                    draft.nat_services.append(Rule(header, matches, Jump(chain)))
                if not external_usable:
                    draft.external.append(Rule(header, (refused, port), refusal))
                if uses_firewall_chain and comment == "loadbalancer IP":
                    denied = CommentMatch(f"{text} traffic not accepted by {firewall_chain}")
                    draft.firewall.append(Rule(header, (denied, port), DROP))

        # node port: source ranges do not guard it
        if info.node_port:
            node_port = _port_match(info.protocol, info.node_port)
            if any_usable:
                if self.settings.nfacct and self.settings.localhost_node_ports:
                    local = HeaderMatch(dst=masked(_LOOPBACK_4), protocol=header_of.protocol)
                    counted = (CommentMatch(text), node_port, LOCALHOST_NODE_PORT_COUNTER)
                    draft.nat_node_ports.append(Rule(local, counted, Jump(external_chain)))
                draft.nat_node_ports.append(Rule(header_of, (CommentMatch(text), node_port), Jump(external_chain)))
            if not external_usable:
                draft.external.append(Rule(header_of, (refused, TO_LOCAL, node_port), refusal))
        if info.health_check_node_port:
            health = (
                CommentMatch(f"{text} health check node port"),
                _port_match("TCP", info.health_check_node_port),
            )
            draft.node_ports.append(Rule(_of_protocol("TCP"), health, ACCEPT))

        if internal_usable:
            masquerade = self._masquerade_header(to_cluster_ip)
            if masquerade is not None:
                rule = Rule(masquerade, (cluster_comment, port), TO_MARK_MASQ)
                draft.chains[internal_chain] = [rule]
        if uses_external_chain:
            draft.chains[external_chain] = self._external_rules(
                text, info, cluster_chain, local_chain, external_usable=external_usable
            )
        if uses_firewall_chain:
            draft.chains[firewall_chain] = self._firewall_rules(text, info, external_chain)
        endpoint_chains = {one.text: endpoint_chain(text, protocol, one.text) for one in found.reachable}
        for chain, several, used in (
            (cluster_chain, found.cluster, info.uses_cluster_endpoints),
            (local_chain, found.local, info.uses_local_endpoints),
        ):
            if several and used:
                draft.chains.setdefault(chain, []).extend(
                    self._balance(text, info, several, endpoint_chains, large_cluster=large_cluster)
                )
        comment_matches = () if large_cluster else (CommentMatch(text),)
        any_port = _port_match(info.protocol, None)
        for one in found.reachable:
            name_of_chain = endpoint_chains[one.text]
            draft.chains[name_of_chain] = self._endpoint_rules(
                name_of_chain, info, one, comment_matches, header_of, any_port
            )
        return draft.done()

    def _masquerade_header(self, to_cluster_ip: HeaderMatch) -> HeaderMatch | None:
        """Which traffic to a cluster IP is masqueraded: all of it, what is not from a pod, or none."""
        if self.settings.masquerade_all:
            return to_cluster_ip
        # A static route of the service network to any node is allowed for: the way back must lead here again.
        return self._detect(to_cluster_ip, local=False)

    def _detect(self, header: HeaderMatch, *, local: bool) -> HeaderMatch | None:
        """``header`` with what tells traffic of pods (or other traffic); ``None`` if nothing can tell."""
        detector = self.settings.detector
        if detector is None:
            return None
        if detector.network is not None:
            # An address with an empty mask is not said at all, unless it is inverted.
            said = not local or detector.network.prefixlen > 0
            return HeaderMatch(
                src=masked(detector.network) if said else None,
                src_inverted=not local,
                dst=header.dst,
                protocol=header.protocol,
            )
        return HeaderMatch(
            dst=header.dst,
            in_interface=detector.interface,
            in_interface_inverted=not local,
            protocol=header.protocol,
        )

    def _external_rules(
        self, text: str, info: ServicePortInfo, cluster_chain: str, local_chain: str, *, external_usable: bool
    ) -> list[Rule]:
        """KUBE-EXT-: whatever came for a node port, external IP or load balancer IP."""
        destinations = f"{text} external destinations"
        rules: list[Rule] = []
        if not info.external_policy_local:
            # The endpoint may be on another node, which must answer by way of this one.
            comment = CommentMatch(f"masquerade traffic for {destinations}")
            rules.append(Rule(matches=(comment,), target=TO_MARK_MASQ))
        else:
            # A pod's traffic, as if it had gone out to the load balancer and come back.
            pods = self._detect(HeaderMatch(), local=True)
            if pods is not None:
                comment = CommentMatch(f"pod traffic for {destinations}")
                rules.append(Rule(pods, (comment,), Jump(cluster_chain)))
            # The node's own traffic may have the load balancer's address as its source, hence the masquerading.
            comment = CommentMatch(f"masquerade LOCAL traffic for {destinations}")
            rules.append(Rule(matches=(comment, FROM_LOCAL), target=TO_MARK_MASQ))
            comment = CommentMatch(f"route LOCAL traffic for {destinations}")
            rules.append(Rule(matches=(comment, FROM_LOCAL), target=Jump(cluster_chain)))
        if external_usable:
            rules.append(Rule(target=Jump(local_chain if info.external_policy_local else cluster_chain)))
        return rules

    def _firewall_rules(self, text: str, info: ServicePortInfo, external_chain: str) -> list[Rule]:
        """KUBE-FW-: the source ranges; who is not let through meets KUBE-PROXY-FIREWALL without DNAT."""
        matches = (CommentMatch(f"{text} loadbalancer IP"),)
        target = Jump(external_chain)
        rules = []
        from_node = False
        for network in info.load_balancer_source_ranges:
            source = masked(network) if network.prefixlen else None
            rules.append(Rule(HeaderMatch(src=source), matches, target))
            from_node = from_node or self.settings.node_ip in network
        if from_node:
            # Where the load balancer's address is also an address of the node, the node's own traffic has it as source.
            rules += [Rule(HeaderMatch(src=host(vip)), matches, target) for vip in info.load_balancer_vips]
        rules.append(Rule(matches=(CommentMatch(f"other traffic to {text} will be dropped by {KUBE_PROXY_FIREWALL}"),)))
        return rules

    def _balance(
        self,
        text: str,
        info: ServicePortInfo,
        endpoints: Sequence[EndpointInfo],
        chains: Mapping[str, str],
        *,
        large_cluster: bool,
    ) -> list[Rule]:
        """KUBE-SVC- and KUBE-SVL-: affinity first, then one endpoint after the other with 1/n, 1/(n-1), … 1."""
        said = [() if large_cluster else (CommentMatch(f"{text} -> {one.text}"),) for one in endpoints]
        targets = [Jump(chains[one.text]) for one in endpoints]
        rules = []
        if info.affinity_seconds:
            for comment, target in zip(said, targets, strict=True):
                recent = RecentMatch(
                    RecentAction.RCHECK,
                    self._recent_mask,
                    target.chain,
                    seconds=info.affinity_seconds,
                    reap=True,
                )
                rules.append(Rule(matches=(*comment, recent), target=target))
        left = len(endpoints)
        for comment, target in zip(said, targets, strict=True):
            matches = (*comment, probability(left)) if left > 1 else comment
            rules.append(Rule(matches=matches, target=target))
            left -= 1
        return rules

    def _endpoint_rules(
        self,
        chain: str,
        info: ServicePortInfo,
        endpoint: EndpointInfo,
        comment: tuple[CommentMatch, ...],
        header: HeaderMatch,
        any_port: Match,
    ) -> list[Rule]:
        """KUBE-SEP-: masquerade what the endpoint sends to itself, remember the client, DNAT."""
        address = parse_ip(endpoint.ip)
        matches: tuple[Match, ...] = (*comment, any_port)
        if info.affinity_seconds:
            recent = RecentMatch(RecentAction.SET, self._recent_mask, chain)
            matches = (*comment, recent, any_port)
        destination = NatRange(AddressRange(address, address), PortRange(endpoint.port, endpoint.port))
        return [
            Rule(HeaderMatch(src=host(address)), comment, TO_MARK_MASQ),
            Rule(header, matches, DnatTarget(destination)),
        ]

    # the chains that gather

    def _static_rules(self) -> dict[tuple[str, str], tuple[Rule, ...]]:
        """Chains that depend on settings alone, by table and name."""
        mark = self.settings.masquerade_mark
        marked = MarkMatch(mark, mark)
        snat = MasqueradeTarget(NatRange(random_fully=True))
        forward = [
            Rule(matches=(CommentMatch("kubernetes forwarding rules"), marked), target=ACCEPT),
            Rule(
                matches=(
                    CommentMatch("kubernetes forwarding conntrack rule"),
                    ConntrackMatch(states=int(CtStateBit.RELATED | CtStateBit.ESTABLISHED)),
                ),
                target=ACCEPT,
            ),
        ]
        if not self.settings.tcp_be_liberal:
            # kubernetes issue 74839: an out of window segment that is forwarded without NAT resets the connection.
            invalid: tuple[Match, ...] = (ConntrackMatch(states=int(CtStateBit.INVALID)),)
            if self.settings.nfacct:
                invalid += (INVALID_COUNTER,)
            forward.insert(0, Rule(matches=invalid, target=DROP))
        static = {
            ("nat", KUBE_POSTROUTING): (
                Rule(matches=(MarkMatch(mark, mark, inverted=True),), target=RETURN),
                # The mark is taken off, lest the packet is masqueraded again on a second way through the stack.
                Rule(target=MarkTarget(mark, 0)),
                Rule(matches=(CommentMatch("kubernetes service traffic requiring SNAT"),), target=snat),
            ),
            ("nat", KUBE_MARK_MASQ): (Rule(target=MarkTarget(mark, mark)),),
            ("filter", KUBE_FORWARD): tuple(forward),
        }
        if self.settings.family is Family.IPV4 and self.settings.localhost_node_ports:
            # route_localnet opens 127.0.0.0/8 to the neighbours (kubernetes issue 90259); this closes it again.
            header = HeaderMatch(src=masked(_LOOPBACK_4), src_inverted=True, dst=masked(_LOOPBACK_4))
            states = int(CtStateBit.RELATED | CtStateBit.ESTABLISHED | CtStateBit.DNAT)
            static["filter", KUBE_FIREWALL] = (
                Rule(
                    header,
                    (
                        CommentMatch("block incoming localnet connections"),
                        ConntrackMatch(states=states, states_inverted=True),
                    ),
                    DROP,
                ),
            )
        return static

    def gathering_chains(
        self, services: Iterable[ServiceRules], node_addresses: Sequence[IPAddress]
    ) -> dict[str, dict[str, tuple[Rule, ...]]]:
        """Write the chains that every sync writes, by table and name.

        Args:
            services: The rules of all service ports, in order.
            node_addresses: All addresses of the node.
        """
        nat_services: list[Rule] = []
        nat_node_ports: list[Rule] = []
        internal: list[Rule] = []
        external: list[Rule] = []
        firewall: list[Rule] = []
        node_ports: list[Rule] = []
        for one in services:
            nat_services += one.nat_services
            nat_node_ports += one.nat_node_ports
            internal += one.services
            external += one.external
            firewall += one.firewall
            node_ports += one.node_ports
        nat_services += self._node_port_jumps(node_addresses)
        tables: dict[str, dict[str, tuple[Rule, ...]]] = {
            "filter": {
                KUBE_SERVICES: tuple(internal),
                KUBE_EXTERNAL_SERVICES: tuple(external),
                KUBE_NODEPORTS: tuple(node_ports),
                KUBE_PROXY_FIREWALL: tuple(firewall),
            },
            "nat": {KUBE_SERVICES: tuple(nat_services), KUBE_NODEPORTS: tuple(nat_node_ports)},
        }
        for (table, chain), rules in self._static.items():
            tables[table][chain] = rules
        return tables

    def _node_port_jumps(self, node_addresses: Sequence[IPAddress]) -> list[Rule]:
        """The last rules of KUBE-SERVICES: what is for the node itself may be for a node port."""
        settings = self.settings
        comment = CommentMatch("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
        if settings.node_port_addresses.match_all:
            header = HeaderMatch()
            if settings.family is Family.IPV6:
                # There is no route_localnet for IPv6, so node ports never work on ::1.
                header = HeaderMatch(dst=masked(_LOOPBACK_6), dst_inverted=True)
            elif not settings.localhost_node_ports:
                header = HeaderMatch(dst=masked(_LOOPBACK_4), dst_inverted=True)
            return [Rule(header, (comment, TO_LOCAL), TO_NODEPORTS)]
        return [
            Rule(HeaderMatch(dst=host(address)), (comment,), TO_NODEPORTS)
            for address in sorted(settings.node_port_addresses.matching(node_addresses), key=str)
            if not address.is_loopback or (settings.family is Family.IPV4 and settings.localhost_node_ports)
        ]
