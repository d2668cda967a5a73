"""Which endpoint a connection draws, said beforehand.

kube-proxy spreads connections with a row of ``statistic`` rules in each service's chain: the first takes one third, the
next half of the rest, the last what is left. Saying "web-2" means answering these rules' questions so that they
come to web-2's chain. Everything else is left to the choices beneath.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pktsim.cluster.kubeproxy.chain_names import CLUSTER_POLICY_PREFIX, LOCAL_POLICY_PREFIX, chain_hash
from pktsim.cluster.objects import Service
from pktsim.errors import ObjectError
from pktsim.netfilter.matches.statistic import StatisticRandomMatch
from pktsim.netfilter.ruleset import Chain, Jump, Rule, Ruleset, Table
from pktsim.netfilter.targets.dnat import DnatTarget
from pktsim.rng import Choices

#: Stands for all nodes together: the next connection, whichever node it comes by.
ANY_NODE = ""
#: Where each node's rules are to be had; ``None`` for spaces without any.
RulesOf = Callable[[str], "Ruleset | None"]


@dataclass(slots=True)
class EndpointDraws:
    """Choices in which endpoints are scripted.

    Args:
        rules_of: Gives a node's rules as they are when it is asked.
        otherwise: Answers all other questions, and those about services whose script has run out.
    """

    rules_of: RulesOf
    otherwise: Choices
    _wanted: dict[tuple[str, str], deque[str]] = field(default_factory=dict)

    def want(self, node: str, chain: str, endpoints: Iterable[str]) -> None:
        """Let connections through ``chain`` of ``node`` (or ``ANY_NODE``) draw these endpoints' addresses in turn."""
        self._wanted.setdefault((node, chain), deque()).extend(endpoints)

    def want_of_service(self, service: Service, port_name: str | None, endpoints: Sequence[str]) -> None:
        """Let the next connections to a Service draw these endpoints' addresses in turn, by whichever node they come.

        Args:
            service: Which.
            port_name: Only through the port of that name; ``None`` for each of them.
            endpoints: Addresses.

        Raises:
            ObjectError: It has no such port.
        """
        whole = f"{service.namespace}/{service.name}"
        if port_name is not None and port_name not in {port.name for port in service.spec.ports}:
            raise ObjectError(f"service {whole} has no port {port_name!r}")
        for port in service.spec.ports:
            if port_name is not None and port.name != port_name:
                continue
            name = f"{whole}:{port.name}" if port.name else whole
            for prefix in (CLUSTER_POLICY_PREFIX, LOCAL_POLICY_PREFIX):
                self.want(ANY_NODE, prefix + chain_hash(name + port.protocol.lower()), endpoints)

    def forget(self) -> None:
        """Leave all further draws to chance."""
        self._wanted.clear()

    def below(self, place: str, n: int) -> int:
        return self.otherwise.below(place, n)

    def chance(self, place: str, probability: int) -> bool:
        answer = self._answer(place) if self._wanted else None
        return self.otherwise.chance(place, probability) if answer is None else answer

    def _answer(self, place: str) -> bool | None:
        """``NODE/nat/CHAIN/NUMBER``: does the rule lead to the endpoint that is wanted?"""
        node, _, rest = place.rpartition("/nat/")
        chain, _, number = rest.partition("/")
        wanted = self._wanted.get((node, chain)) or self._wanted.get((ANY_NODE, chain))
        if not wanted or not number.isdigit():
            return None
        rules = self.rules_of(node)
        table = rules.table("nat") if rules is not None else None
        if table is None:
            return None
        order = drawn_rules(table, chain)
        if wanted[0] not in order.values():
            return None  # the service has no such endpoint (any more)
        here = order.get(int(number))
        last_question = max((at for at, rule in _numbered(table.chain(chain)) if _draws(rule)), default=0)
        if here == wanted[0] or int(number) == last_question:
            endpoint = wanted.popleft()
            return here == endpoint
        return False


def _numbered(chain: Chain) -> Iterable[tuple[int, Rule]]:
    return enumerate(chain.rules, 1)


def _draws(rule: Rule) -> bool:
    return any(isinstance(match, StatisticRandomMatch) for match in rule.matches)


def drawn_rules(table: Table, chain: str) -> Mapping[int, str]:
    """Rule number to endpoint address, for the rules of a service's chain that share its connections out."""
    found = {}
    rules = list(_numbered(table.chain(chain)))
    drawing = [number for number, rule in rules if _draws(rule)]
    if not drawing:
        return {}
    for number, rule in rules:
        if number < drawing[0] or not isinstance(rule.target, Jump):
            continue
        address = endpoint_address(table, rule.target.chain)
        if address:
            found[number] = address
    return found


def endpoint_address(table: Table, chain: str) -> str:
    """Where an endpoint's chain sends connections; empty if it sends them nowhere."""
    for rule in table.chain(chain).rules:
        if isinstance(rule.target, DnatTarget) and rule.target.range.addresses is not None:
            return str(rule.target.range.addresses.first)
    return ""


def chains_to(table: Table, addresses: Iterable[str]) -> list[str]:
    """The chains that share connections between endpoints of which one is at one of ``addresses``."""
    known = set(addresses)
    return [chain.name for chain in table.chains if known & set(drawn_rules(table, chain.name).values())]
