"""Rulesets print to text that reads back as the same rulesets, by the short way and by the long one."""

from __future__ import annotations

import pytest
from hypothesis import given

from pktsim.netfilter.iptables_rule import CommandReader
from pktsim.netfilter.iptables_text import parse_rule, parse_save, print_save, rule_text, split_words
from pktsim.netfilter.ruleset import Rule, Ruleset, Table
from pktsim.netfilter.transaction import find_problem
from tests.property.strategies import rulesets


@pytest.mark.slow
@given(rulesets(objects=True))
def test_what_is_printed_reads_back_the_same(ruleset: Ruleset) -> None:
    """Drawing rulesets takes most of the time, so one test tries both ways on each."""
    for table in ruleset.tables:
        assert find_problem(table) is None
    text = print_save(ruleset, counters=True)
    back = parse_save(text, ruleset.family)
    assert back == ruleset
    assert print_save(back, counters=True) == text
    for table in ruleset.tables:
        for chain in table.chains:
            for rule in chain.rules:
                _reads_the_same_the_long_way(rule, chain.name, table)


def _reads_the_same_the_long_way(rule: Rule, chain: str, table: Table) -> None:
    text = rule_text(rule, chain, table.family)
    assert parse_rule(text, table.family, table.name) == (chain, rule)
    command = CommandReader(table.family, split_words(text), table=table.name).read()
    assert command.rules == (rule,)
