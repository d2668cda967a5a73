"""``iptables-restore --noflush`` on frozen rulesets: some chains written anew, some deleted, the rest as they are.

One table is changed as a whole or not at all. Chains that are not named stay the same objects, so whoever lowers the
ruleset can see what to keep, with its counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pktsim.netfilter.ruleset import BUILTIN_CHAINS, Chain, Family, Jump, Rule, Ruleset, Table, Verdict

from .chain_names import is_service_chain


class RestoreFailed(Exception):
    """The tool would have refused the input and left the table as it was; kube-proxy logs that and tries again."""


@dataclass(frozen=True, slots=True)
class TableChange:
    """What one table's part of the input says.

    Attributes:
        table: Its name.
        chains: Chains that are made or emptied, and then filled.
        deleted: Chains that are emptied and deleted.
    """

    table: str
    chains: Mapping[str, tuple[Rule, ...]]
    deleted: tuple[str, ...] = ()


def empty_table(name: str, family: Family) -> Table:
    """A table as the kernel makes it: the built-in chains, which accept."""
    return Table(name, family, tuple(Chain(chain, (), Verdict.ACCEPT) for chain in BUILTIN_CHAINS[name]))


def with_table(ruleset: Ruleset, table: Table) -> Ruleset:
    """``ruleset`` with one table replaced or added."""
    tables = {one.name: one for one in ruleset.tables}
    tables[table.name] = table
    return Ruleset(ruleset.family, tuple(tables[name] for name in sorted(tables)))


def table_of(ruleset: Ruleset, name: str) -> Table:
    """A table of ``ruleset``, which the first use of it makes."""
    return ruleset.table(name) or empty_table(name, ruleset.family)


def with_chains(table: Table, chains: Mapping[str, Chain]) -> Table:
    """``table`` with these chains: built-in ones first, then the others in byte order."""
    builtin = BUILTIN_CHAINS[table.name]
    others = sorted(name for name in chains if name not in builtin)
    return Table(table.name, table.family, tuple(chains[name] for name in (*builtin, *others)))


def apply_change(ruleset: Ruleset, change: TableChange) -> Ruleset:
    """Change one table.

    Raises:
        RestoreFailed: A rule leads to a chain that does not exist, or a chain to delete is still in use.
    """
    table = table_of(ruleset, change.table)
    chains = {chain.name: chain for chain in table.chains}
    for name, rules in change.chains.items():
        chains[name] = Chain(name, rules)
    for name in change.deleted:
        if name not in chains:
            raise RestoreFailed(f"{change.table}: no chain {name} to delete")
        del chains[name]
    for name, rules in change.chains.items():
        if name not in chains:
            continue
        for rule in rules:
            if isinstance(rule.target, Jump) and rule.target.chain not in chains:
                raise RestoreFailed(f"{change.table}: chain {name} leads to {rule.target.chain}, which does not exist")
    if change.deleted:
        # Among service chains only stale ones could lead to a stale one, and all of these go together.
        gone = frozenset(change.deleted)
        for chain in chains.values():
            if is_service_chain(chain.name) or chain.name in change.chains:
                continue
            for rule in chain.rules:
                if isinstance(rule.target, Jump) and rule.target.chain in gone:
                    raise RestoreFailed(f"{change.table}: chain {rule.target.chain} is in use by {chain.name}")
    return with_table(ruleset, with_chains(table, chains))


def ensure_chain(ruleset: Ruleset, table_name: str, name: str) -> tuple[Ruleset, bool]:
    """``iptables -N``: make a chain unless it exists. Returns whether it was made."""
    table = table_of(ruleset, table_name)
    chains = {chain.name: chain for chain in table.chains}
    if name in chains:
        return (ruleset if ruleset.table(table_name) else with_table(ruleset, table)), False
    chains[name] = Chain(name)
    return with_table(ruleset, with_chains(table, chains)), True


def ensure_first_rule(ruleset: Ruleset, table_name: str, chain_name: str, rule: Rule) -> tuple[Ruleset, bool]:
    """``iptables -C`` or else ``-I``: put a rule first unless the chain has it. Returns whether it was put.

    Raises:
        RestoreFailed: The chain does not exist.
    """
    table = table_of(ruleset, table_name)
    chains = {chain.name: chain for chain in table.chains}
    if chain_name not in chains:
        raise RestoreFailed(f"{table_name}: no chain {chain_name}")
    chain = chains[chain_name]
    if rule in chain.rules:
        return ruleset, False
    chains[chain_name] = Chain(chain_name, (rule, *chain.rules), chain.policy, chain.counters)
    return with_table(ruleset, with_chains(table, chains)), True
