"""A balancer that translates both addresses: the destination to a node and its node port, the source to itself.

It is a Linux machine with rules, so a connection stays with its node for as long as connection tracking remembers it,
and nodes see the balancer as the client whatever the external traffic policy says.
"""

from __future__ import annotations

from collections.abc import Iterator

from pktsim.errors import UnsupportedFeature
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.ruleset import Family, Ruleset

from ..objects_balancer import LoadBalancerSpec
from .probing import ProbingBalancer
from .surroundings import UPLINK, Surroundings, VirtualService


class Nat(ProbingBalancer):
    """See the module."""

    def __init__(self, name: str, spec: LoadBalancerSpec, world: Surroundings) -> None:
        # It has the addresses: what no rule takes ends here, and does not travel back to the router.
        super().__init__(name, spec, world, own_addresses=True)

    def check(self, service: VirtualService) -> None:
        if not all(port.node_port for port in service.service.spec.ports):
            raise UnsupportedFeature(
                "a balancer of mode nat without node ports",
                place=str(service.service),
                mend="remove allocateLoadBalancerNodePorts: false",
            )

    def apply(self) -> None:
        rules = "\n".join(self._rules())
        text = (
            "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
            f"{rules}\n-A POSTROUTING -o {UPLINK} -m conntrack --ctstate DNAT -j MASQUERADE\nCOMMIT\n"
        )
        self.machine.replace_rules(restore(Ruleset(Family.IPV4), self.source_rules() + text))

    def _rules(self) -> Iterator[str]:
        for service in self.services:
            targets = self.healthy(service)
            for port in service.service.spec.ports:
                protocol = port.protocol.lower()
                for left, target in zip(range(len(targets), 0, -1), targets, strict=True):
                    chance = f" -m statistic --mode random --probability {1 / left:.11f}" if left > 1 else ""
                    yield (
                        f"-A PREROUTING -d {service.address}/32 -p {protocol} -m {protocol} --dport {port.port}{chance}"
                        f" -j DNAT --to-destination {target.address}:{port.node_port}"
                    )
