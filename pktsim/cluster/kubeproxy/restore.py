"""``iptables-restore --noflush`` on frozen rulesets: some chains written anew, some deleted, the rest as they are.

One table is changed as a whole or not at all. Chains that are not named stay the same objects, so whoever lowers the
ruleset can see what to keep, with its counters.
"""

from __future__ import annotations

from bisect import bisect_left
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


class TableWriter:
    """Applies changes to one table, and remembers where its chains are from one change to the next.

    With tens of thousands of chains a small change then costs what it writes, not what is there.
    """

    #: With more new chains than this, sorting once is cheaper than putting each in its place.
    _MANY = 256

    def __init__(self, name: str) -> None:
        self.name = name
        self._table: Table | None = None
        self._names: list[str] = []
        self._known: set[str] = set()
        #: Rules of chains that were found to lead to chains that exist.
        self._checked: dict[str, tuple[Rule, ...]] = {}

    def apply(self, ruleset: Ruleset, change: TableChange) -> Ruleset:
        """Change the table.

        Raises:
            RestoreFailed: A rule leads to a chain that does not exist, or a chain to delete is missing or in use.
        """
        table = self._remember(table_of(ruleset, self.name))
        self._check(table, change)
        chains = list(table.chains)
        new = [name for name in change.chains if name not in self._known]
        if len(new) > self._MANY:
            by_name = {chain.name: chain for chain in chains}
            by_name.update((name, Chain(name)) for name in new)
            table = self._remember(with_chains(table, by_name))
            chains = list(table.chains)
            new = []
        self._table = None  # what is remembered no longer fits any table
        first = len(BUILTIN_CHAINS[self.name])
        for name in new:
            at = bisect_left(self._names, name, first)
            self._names.insert(at, name)
            chains.insert(at, Chain(name))
        for name, rules in change.chains.items():
            chains[bisect_left(self._names, name, first)] = Chain(name, rules)
        for name in change.deleted:
            at = bisect_left(self._names, name, first)
            del self._names[at]
            del chains[at]
        self._known.update(new)
        self._known.difference_update(change.deleted)
        for name in change.deleted:
            self._checked.pop(name, None)
        self._checked.update((name, rules) for name, rules in change.chains.items() if len(rules) > self._MANY)
        self._table = Table(table.name, table.family, tuple(chains))
        return with_table(ruleset, self._table)

    def _remember(self, table: Table) -> Table:
        """Take note of a table's chains, in order; a table from elsewhere may not have them so."""
        if table is self._table:
            return table
        builtin = BUILTIN_CHAINS[table.name]
        self._names = [chain.name for chain in table.chains]
        others = self._names[len(builtin) :]
        if tuple(self._names[: len(builtin)]) != builtin or others != sorted(others):
            table = with_chains(table, {chain.name: chain for chain in table.chains})
            self._names = [chain.name for chain in table.chains]
        self._known = set(self._names)
        self._checked.clear()
        self._table = table
        return table

    def _check(self, table: Table, change: TableChange) -> None:
        gone = frozenset(change.deleted)
        for name in change.deleted:
            if name not in self._known:
                raise RestoreFailed(f"{self.name}: no chain {name} to delete")
        for name, rules in change.chains.items():
            if not gone and rules is self._checked.get(name):
                continue
            for rule in rules:
                if isinstance(rule.target, Jump):
                    target = rule.target.chain
                    if target in gone or (target not in self._known and target not in change.chains):
                        raise RestoreFailed(f"{self.name}: chain {name} leads to {target}, which does not exist")
        if gone:
            # Among service chains only stale ones could lead to a stale one, and all of these go together.
            for chain in table.chains:
                if is_service_chain(chain.name) or chain.name in change.chains:
                    continue
                for rule in chain.rules:
                    if isinstance(rule.target, Jump) and rule.target.chain in gone:
                        raise RestoreFailed(f"{self.name}: chain {rule.target.chain} is in use by {chain.name}")


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
