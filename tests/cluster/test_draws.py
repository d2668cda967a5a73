from __future__ import annotations

from collections.abc import Iterator

import pytest

from pktsim.cluster.draws import EndpointDraws, chains_to, drawn_rules, endpoint_address
from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.ruleset import Family, Ruleset, Table
from pktsim.rng import PROBABILITY_ONE, SeededChoices

RULES = parse_save(
    """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-SEP-C - [0:0]
:KUBE-SVC-ONE - [0:0]
:KUBE-SVC-WEB - [0:0]
-A KUBE-SEP-A -s 10.1.1.1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.1.1.1:8080
-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 10.1.2.1:8080
-A KUBE-SEP-C -p tcp -m tcp -j DNAT --to-destination 10.1.2.2:8080
-A KUBE-SVC-ONE -j KUBE-SEP-A
-A KUBE-SVC-WEB -j KUBE-MARK-MASQ
-A KUBE-SVC-WEB -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-A
-A KUBE-SVC-WEB -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-B
-A KUBE-SVC-WEB -j KUBE-SEP-C
COMMIT
""",
    Family.IPV4,
)
ENDPOINTS = ("10.1.1.1", "10.1.2.1", "10.1.2.2")


def table() -> Table:
    found = RULES.table("nat")
    assert found is not None
    return found


def rules_of(node: str) -> Ruleset | None:
    return RULES if node.startswith("node") else None


def draw(choices: EndpointDraws, node: str = "node-a") -> str:
    """What the engine does in KUBE-SVC-WEB."""
    for number, probability in ((2, PROBABILITY_ONE // 3), (3, PROBABILITY_ONE // 2)):
        if choices.chance(f"{node}/nat/KUBE-SVC-WEB/{number}", probability):
            return ENDPOINTS[number - 2]
    return ENDPOINTS[2]


def test_rules_that_share_connections_are_found_in_the_rules() -> None:
    assert drawn_rules(table(), "KUBE-SVC-WEB") == {2: ENDPOINTS[0], 3: ENDPOINTS[1], 4: ENDPOINTS[2]}
    assert drawn_rules(table(), "KUBE-SVC-ONE") == {}
    assert endpoint_address(table(), "KUBE-SEP-B") == "10.1.2.1"
    assert endpoint_address(table(), "KUBE-MARK-MASQ") == ""
    assert chains_to(table(), ["10.1.2.2"]) == ["KUBE-SVC-WEB"]


@pytest.mark.parametrize("wanted", [*((one,) for one in ENDPOINTS), ENDPOINTS, ENDPOINTS[::-1] * 2])
def test_endpoints_come_in_the_order_said(wanted: tuple[str, ...]) -> None:
    choices = EndpointDraws(rules_of, SeededChoices(1))
    choices.want("node-a", "KUBE-SVC-WEB", wanted)
    assert tuple(draw(choices) for _ in wanted) == wanted


def test_other_nodes_and_later_connections_are_left_to_chance() -> None:
    def drawn(choices: EndpointDraws, node: str) -> Iterator[str]:
        return (draw(choices, node) for _ in range(40))

    scripted = EndpointDraws(rules_of, SeededChoices(3))
    scripted.want("node-a", "KUBE-SVC-WEB", [ENDPOINTS[2]])
    free = EndpointDraws(rules_of, SeededChoices(3))
    assert list(drawn(scripted, "node-b")) == list(drawn(free, "node-b"))
    assert draw(scripted) == ENDPOINTS[2]
    assert set(drawn(scripted, "node-a")) == set(ENDPOINTS)


def test_an_endpoint_that_is_not_there_is_left_to_chance() -> None:
    choices = EndpointDraws(rules_of, SeededChoices(3))
    choices.want("node-a", "KUBE-SVC-WEB", ["10.9.9.9"])
    assert {draw(choices) for _ in range(40)} == set(ENDPOINTS)
    assert choices.below("elsewhere", 1) == 0
