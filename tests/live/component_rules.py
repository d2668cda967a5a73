"""Rules and sets in the words, and their order, in which components of a cluster write them, in chains of our own.

What each writes is read from its source: kubelet's kubelet_network_linux.go; kube-proxy's ipvs/proxier.go; plugins/meta
and pkg/ip of containernetworking; flannel's trafficmngr/iptables; ip-masq-agent.go; Docker's libnetwork (bridge,
overlay, resolver, swarm's ingress); felix/iptables, felix/rules and felix/ipsets of Calico; cri-o's internal/hostport;
kube-router's netpol, proxy and routing; Cilium's datapath/iptables. Rates are slow, so that they do not hang on how
long packets take.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BUILTIN: Final = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})


@dataclass(frozen=True)
class Component:
    """Text of ``iptables-restore`` for the node of :mod:`tests.live.case_worlds`, and of ``ipset restore``."""

    iptables: str
    ipsets: str


def _component(lines: list[str]) -> Component:
    rules: dict[str, list[str]] = {}
    sets: list[str] = []
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line
            rules[table] = []
        elif line.startswith("-"):
            rules[table].append(line)
        elif line:
            sets.append(line)
    text: list[str] = []
    for table, some in rules.items():
        chains = dict.fromkeys(line.split()[1] for line in some)
        text += [table, *(f":{chain} - [0:0]" for chain in chains if chain not in _BUILTIN), *some, "COMMIT"]
    return Component("".join(f"{line}\n" for line in text), "\n".join(sets))


def _read() -> dict[str, Component]:
    text = Path(__file__).with_name("component_rules.txt").read_text()
    sections = [section.split("\n") for section in text.split("\n== ")[1:]]
    return {name: _component(lines) for name, *lines in sections}


#: By name.
COMPONENTS: Final = _read()
