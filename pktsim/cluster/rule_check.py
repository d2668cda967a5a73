"""Do the rules that the emulated kube-proxy writes for a recorded cluster's objects equal those found on its nodes?

A node of a cluster recording also has kubelet's rules and the wiring's own; those are set aside. Services stand in the
gathering chains in the order of kube-proxy's map walk, which is chance, so these are compared sorted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_interface
from pathlib import Path

from pktsim.clock import Clock
from pktsim.errors import RecordingError
from pktsim.netfilter.iptables_text import parse_save, print_save
from pktsim.netfilter.ruleset import Chain, Family, Jump, Rule, Ruleset, Table, Verdict

from .addresses import IPAddress, parse_ip
from .kubeproxy import chain_names
from .kubeproxy.config import KubeProxyConfiguration
from .kubeproxy.proxier import KubeProxy
from .kubeproxy.recording import RecordedHost, first_difference, read_text
from .loader import load_objects
from .recording import OBJECTS_FILE, load_topology
from .store import ObjectStore

_OWN = frozenset(
    value for name, value in vars(chain_names).items() if name.startswith("KUBE_") and isinstance(value, str)
)
#: Chains in which services stand in an order that means nothing (the README of the kube-proxy recordings).
_GATHERING = frozenset(
    (
        chain_names.KUBE_SERVICES,
        chain_names.KUBE_NODEPORTS,
        chain_names.KUBE_EXTERNAL_SERVICES,
        chain_names.KUBE_PROXY_FIREWALL,
    )
)


def verify_rules(path: Path) -> str | None:
    """Check one ``iptables-save-NODE.txt``.

    Returns:
        The first difference; ``None`` if there is none.
    """
    name = path.name.removeprefix("iptables-save-").removesuffix(".txt")
    topology = load_topology(path.parent)
    space = topology.wiring.space(name)
    family = Family.IPV6 if ":" in topology.pod_cidr else Family.IPV4
    theirs = parse_save(read_text(path), family, str(path))
    addresses: list[IPAddress] = []
    for interface in space.interfaces:
        addresses.extend(parse_ip(str(ip_interface(text).ip)) for text in interface.addresses)
    host = RecordedHost(tuple(addresses))
    store = ObjectStore()
    store.apply_all(load_objects(path.parent / OBJECTS_FILE, check=False))
    config = KubeProxyConfiguration.model_validate({"clusterCIDR": topology.pod_cidr})
    proxy = KubeProxy(config, name, host, Clock(), store)
    proxy.start()
    proxy.stop()
    ours = host.ruleset(family)
    return first_difference(path.name, print_save(_kube_proxys(theirs)), print_save(_kube_proxys(ours)))


def is_kube_proxys(chain: str) -> bool:
    """Whether kube-proxy writes the chain of that name."""
    return chain in _OWN or chain_names.is_service_chain(chain)


def _kube_proxys(ruleset: Ruleset) -> Ruleset:
    """Only what is kube-proxy's, gathering chains sorted, counters zero."""
    return replace(ruleset, tables=tuple(_table(table) for table in ruleset.tables))


def _table(table: Table) -> Table:
    chains = []
    for chain in table.chains:
        if chain.policy is None and not is_kube_proxys(chain.name):
            continue
        rules: list[Rule] = []
        for rule in chain.rules:
            foreign = chain.policy is not None and not (
                isinstance(rule.target, Jump) and is_kube_proxys(rule.target.chain)
            )
            # kubelet's jump to KUBE-FIREWALL stands beside kube-proxy's.
            if not foreign and (chain.policy is None or rule not in rules):
                rules.append(rule)
        if chain.name in _GATHERING:
            rules.sort(key=lambda rule: _order(table, chain, rule))
        chains.append(Chain(chain.name, tuple(rules), Verdict.ACCEPT if chain.policy is not None else None))
    return replace(table, chains=tuple(chains))


@dataclass(frozen=True, slots=True, order=True)
class _Order:
    last: bool
    text: str


def _order(table: Table, chain: Chain, rule: Rule) -> _Order:
    last = isinstance(rule.target, Jump) and rule.target.chain == chain_names.KUBE_NODEPORTS
    return _Order(last, repr(rule))


def rules_of(directory: Path, node: str, family: Family) -> Ruleset:
    """A node's recorded rules.

    Raises:
        RecordingError: There are none.
    """
    path = directory / f"iptables-save-{node}.txt"
    if not path.exists():
        raise RecordingError("the node's rules are missing", file=str(path))
    return parse_save(read_text(path), family, str(path))
