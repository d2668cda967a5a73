"""What becomes of a packet to a Service, for both traffic policies, wherever it comes from and wherever endpoints are.

Each combination is a node with the rules that kube-proxy writes for it. ``python -m tests.cluster.policy_outcomes``
writes all outcomes as tables to ``pktsim/cluster/kubeproxy/OUTCOMES.md``; ``tests/cluster/test_policy_outcomes.py``
checks that they are still so, ``tests/live/test_policy_outcomes.py`` that the running kernel does the same.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import yaml

from tests.live.outcomes import Outcome, Side
from tests.live.service_probes import NODE, Probe

DOCUMENT: Final = Path("pktsim/cluster/kubeproxy/OUTCOMES.md")
POLICIES: Final = ("Cluster", "Local")
#: Endpoints: what the tables call them, address, node, ready, serving, terminating.
_ENDPOINTS: Final = {
    "local": ("10.244.1.11", NODE, True),
    "ending local": ("10.244.1.12", NODE, False),
    "remote": ("10.244.2.11", "node-2", True),
    "ending remote": ("10.244.2.12", "node-2", False),
}
_NAMES: Final = {address: name for name, (address, _, _) in _ENDPOINTS.items()}
#: Which of them there are.
STATES: Final = (
    ("local", "remote"),
    ("local",),
    ("remote",),
    (),
    ("ending local", "remote"),
    ("local", "ending local"),
    ("ending local", "ending remote"),
    ("ending local",),
    ("ending remote",),
)
SENDERS: Final = ("pod", "its own endpoint", "node", "remote pod", "outside")
_NODE_ADDRESS: Final = "192.168.10.11"
_DESTINATIONS: Final = {
    "10.96.14.20": "cluster IP",
    _NODE_ADDRESS: "node port",
    "127.0.0.1": "node port on 127.0.0.1",
    "203.0.113.50": "load balancer IP",
    "198.51.100.20": "external IP",
}
_CONFIG: Final = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "clusterCIDR": "10.244.0.0/16",
    "hostnameOverride": NODE,
}
_HEAD: Final = """\
# What becomes of a packet to a Service

Made by `python -m tests.cluster.policy_outcomes`; do not edit. Every cell is what one node does with the rules that
this kube-proxy writes: the packet is sent once for every combination of random choices. The running kernel, given the
same rules, does the same to each (`tests/live/test_policy_outcomes.py`, in both address families).

The node is the one where the packet arrives or is sent: for `remote pod` and `outside` the node that they sent to. The
Service is of type LoadBalancer; local traffic is detected by `clusterCIDR`.

| word | meaning |
|---|---|
| local, remote | An endpoint on this node, or on another one, gets it; each of those that are named may. |
| ending local, ending remote | One that is terminating and still serving. |
| itself | The endpoint that has sent it. |
| \\* | It sees the node's address instead of the sender's. |
| refused | ICMP port unreachable goes to the sender; to the node's own sockets "connection refused". |
| dropped | Nothing comes back: the connection times out; the node's own datagrams fail with EPERM. |
| not taken | No rule takes it: it goes on to that address as any other packet does. |
| closed | No rule takes it, and the address is the node's own: no socket listens there. |
"""


@dataclass(frozen=True, slots=True)
class Combination:
    """One Service.

    Attributes:
        external: externalTrafficPolicy.
        internal: internalTrafficPolicy.
        state: Which endpoints it has.
    """

    external: str
    internal: str
    state: tuple[str, ...]

    def __str__(self) -> str:
        state = "+".join(self.state) or "none"
        return f"external-{self.external}-internal-{self.internal}-{state}".replace(" ", "-")

    def write(self, root: Path) -> Path:
        """The input of its kube-proxy as a directory like a recording's."""
        directory = root / str(self)
        directory.mkdir(parents=True)
        objects = [_node(NODE, 1), _node("node-2", 2), self._service(), self._slice()]
        (directory / "objects.yaml").write_text(yaml.safe_dump_all(objects))
        (directory / "config.yaml").write_text(yaml.safe_dump(_CONFIG))
        (directory / "host.yaml").write_text(yaml.safe_dump({"interfaces": {"eth0": [f"{_NODE_ADDRESS}/24"]}}))
        return directory

    def _service(self) -> dict[str, Any]:
        addresses = {what: address for address, what in _DESTINATIONS.items()}
        cluster_ip = addresses["cluster IP"]
        spec: dict[str, Any] = {
            "type": "LoadBalancer",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "externalIPs": [addresses["external IP"]],
            "externalTrafficPolicy": self.external,
            "internalTrafficPolicy": self.internal,
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP", "targetPort": 8080}],
            "selector": {"app": "web"},
        }
        if self.external == "Local":
            spec["healthCheckNodePort"] = 32080
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": addresses["load balancer IP"], "ipMode": "VIP"}]}},
        }

    def _slice(self) -> dict[str, Any]:
        endpoints = []
        for name in self.state:
            address, node, ready = _ENDPOINTS[name]
            conditions = {"ready": ready, "serving": True, "terminating": not ready}
            endpoints.append({"addresses": [address], "nodeName": node, "conditions": conditions})
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "web-x7k2p",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }


COMBINATIONS: Final = tuple(
    Combination(external, internal, state) for external, internal, state in product(POLICIES, POLICIES, STATES)
)


def _node(name: str, number: int) -> dict[str, Any]:
    cidr = f"10.244.{number}.0/24"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.10.{10 + number}"}]},
    }


def cell(probe: Probe, outcomes: Iterable[Outcome]) -> str:
    """All outcomes of one packet in a few words."""
    return ", ".join(sorted({_word(probe, one) for one in outcomes}, key=lambda word: (word.strip("*"), word)))


def _word(probe: Probe, found: Outcome) -> str:
    *told, rules = found
    frames = [one.partition(": ")[2] for one in told if ": " in one]
    if not frames:
        # An answer to the node itself is no frame. What refuses is a rule of one of two chains.
        if not any(one.startswith("delivered") for one in told):
            return "dropped"
        return "refused" if re.search(r"filter/KUBE-(EXTERNAL-)?SERVICES/\d", rules) else "closed"
    (frame,) = frames
    source, *_, target = re.split(r" (?:\d+ |drawn )?> | ", frame, maxsplit=2)[:2]
    if " icmp " in frame:
        return "refused"
    if target == probe.saddr:
        return "itself*" if source != probe.saddr else "itself"
    if target == probe.daddr:
        return "not taken"
    return _NAMES[target] + ("" if source == probe.saddr else "*")


def outcomes(combination: Combination) -> Mapping[tuple[str, str], str]:
    """What becomes of each packet: by destination and sender."""
    with tempfile.TemporaryDirectory() as root:
        (side,) = Side.of(combination.write(Path(root)))
    cells: dict[tuple[str, str], str] = {}
    for probe in side.probes:
        if probe.service.endswith("health check"):
            continue
        place = _DESTINATIONS[probe.daddr], probe.source
        cells.setdefault(place, cell(probe, (one for _, one in side.emulated(probe))))
    return cells


def tables() -> str:
    """The whole document."""
    found = {combination: outcomes(combination) for combination in COMBINATIONS}
    sections = [_HEAD]
    shown: dict[str, str] = {}
    for destination in _DESTINATIONS.values():
        table = _table(destination, found)
        same = next((other for other, rows in shown.items() if rows == table), None)
        shown[destination] = table
        sections.append(
            f"## {destination[0].upper()}{destination[1:]}\n\n" + (f"As for the {same}.\n" if same else table)
        )
    return "\n".join(sections)


def _table(destination: str, found: Mapping[Combination, Mapping[tuple[str, str], str]]) -> str:
    def row(external: str, internal: str, state: tuple[str, ...]) -> list[str]:
        cells = found[Combination(external, internal, state)]
        return [cells.get((destination, sender), "") for sender in SENDERS]

    every = list(product(POLICIES, POLICIES, STATES))
    by_external = all(row(*each) == row(each[0], "Cluster", each[2]) for each in every)
    by_internal = all(row(*each) == row("Cluster", *each[1:]) for each in every)
    senders = [sender for n, sender in enumerate(SENDERS) if any(row(*each)[n] for each in every)]
    which = "externalTrafficPolicy" if by_external else "internalTrafficPolicy" if by_internal else "both policies"
    heads = ["an endpoint here" if sender == "its own endpoint" else sender for sender in senders]
    lines = [
        f"Only `{which}` matters.\n" if by_external or by_internal else "Both policies matter (external/internal).\n",
        f"| {which} | endpoints | {' | '.join(heads)} |",
        "|---" * (2 + len(senders)) + "|",
    ]
    if by_external:
        chosen = [(policy, (policy, "Cluster")) for policy in POLICIES]
    elif by_internal:
        chosen = [(policy, ("Cluster", policy)) for policy in POLICIES]
    else:
        chosen = [(f"{one}/{other}", (one, other)) for one, other in product(POLICIES, POLICIES)]
    for (label, (external, internal)), state in product(chosen, STATES):
        cells = [
            text for sender, text in zip(SENDERS, row(external, internal, state), strict=True) if sender in senders
        ]
        lines.append(f"| {label} | {', '.join(state) or 'none'} | {' | '.join(one or '–' for one in cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(tables())
