"""Edits of a ruleset: each step is checked as it is made, the whole when it is committed, and all apply or none.

The steps are those of ``iptables``; what is refused, and in which words, follows libiptc and the kernel's
``translate_table`` (net/ipv4/netfilter/ip_tables.c): a chain that is jumped to must exist and be no built-in one,
nothing may go round in a circle, and every match and target must be allowed in its table, at the hooks from which its
rule can be reached, and with its rule's protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pktsim.errors import RulesetSyntaxError
from pktsim.netfilter.iptables_rule import LONGEST_NAME, VERDICTS, check_chain_name
from pktsim.netfilter.names import PROTOCOL_NAMES
from pktsim.netfilter.option import BadValue
from pktsim.netfilter.ruleset import (
    BUILTIN_CHAINS,
    Chain,
    Counters,
    Family,
    Jump,
    Match,
    Rule,
    RuleExtension,
    Ruleset,
    Table,
    Target,
    Verdict,
    VerdictTarget,
)

_NO_COUNTERS = Counters()
_NO_CHAIN = "No chain/target/match by that name"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a table cannot be loaded, and the rule that is to blame (numbers count from 0)."""

    chain: str
    number: int
    what: str
    mend: str = ""
    token: str = ""  # the word of the rule that is to blame


class EditError(RulesetSyntaxError):
    """A step that cannot be made, or a table that cannot be loaded.

    Attributes:
        problem: The rule to blame, if it is a rule.
    """

    def __init__(self, what: str, *, token: str = "", mend: str = "", problem: Problem | None = None) -> None:
        super().__init__(what, token=token, mend=mend)
        self.problem = problem


class _ChainEdit:
    __slots__ = ("counters", "policy", "rules")

    def __init__(self, rules: list[Rule], policy: Verdict | None, counters: Counters) -> None:
        self.rules = rules
        self.policy = policy
        self.counters = counters


class TableEdit:
    """One table being edited. ``finish`` gives the new table.

    Args:
        family: The table's.
        name: The table's.
        table: What it held before; ``None`` for a table that is not loaded yet.
    """

    def __init__(self, family: Family, name: str, table: Table | None = None) -> None:
        if name not in BUILTIN_CHAINS:
            raise EditError(
                f"there is no table {name!r}", token=name, mend=f"use one of {', '.join(sorted(BUILTIN_CHAINS))}"
            )
        self.family = family
        self.name = name
        self._chains: dict[str, _ChainEdit] = {}
        for builtin in BUILTIN_CHAINS[name]:
            self._chains[builtin] = _ChainEdit([], Verdict.ACCEPT, _NO_COUNTERS)
        if table is not None:
            for chain in table.chains:
                self._chains[chain.name] = _ChainEdit(list(chain.rules), chain.policy, chain.counters)

    # looking

    def has_chain(self, name: str) -> bool:
        """Whether there is a chain called ``name``."""
        return name in self._chains

    def is_builtin(self, name: str) -> bool:
        """Whether ``name`` is one of the table's built-in chains."""
        return name in BUILTIN_CHAINS[self.name]

    def chain_names(self) -> list[str]:
        """The built-in chains, then the user's in the order of their names' bytes."""
        builtin = BUILTIN_CHAINS[self.name]
        return [*builtin, *sorted((name for name in self._chains if name not in builtin), key=_bytes)]

    def rules(self, chain: str) -> Sequence[Rule]:
        """The rules of ``chain`` as they are now."""
        return tuple(self._chain(chain).rules)

    def _chain(self, name: str) -> _ChainEdit:
        found = self._chains.get(name)
        if found is None:
            raise EditError(f"there is no chain {name!r} in table {self.name}", token=name, mend="create it first (-N)")
        return found

    def _user_chain(self, name: str) -> _ChainEdit:
        found = self._chain(name)
        if self.is_builtin(name):
            raise EditError(f"chain {name} is built in", token=name, mend="name a chain of the user's")
        return found

    # chains

    def new_chain(self, name: str, *, declared: bool = False) -> None:
        """``-N``, or with ``declared`` the ``:NAME`` of a restore file, which takes every name that is not too long."""
        if name in self._chains:
            raise EditError(f"chain {name!r} exists already", token=name, mend="drop the second one")
        if name in VERDICTS or name == "QUEUE":
            raise EditError(f"chain name {name!r} is the name of a verdict", token=name, mend="choose another name")
        if not declared or len(name) > LONGEST_NAME:
            try:
                check_chain_name(name, self.family)
            except BadValue as error:
                raise EditError(error.what, token=name, mend=error.mend) from None
        self._chains[name] = _ChainEdit([], None, _NO_COUNTERS)

    def delete_chain(self, name: str) -> None:
        """``-X``: only a user's chain that is empty and that no rule names."""
        if self._user_chain(name).rules:
            raise EditError(f"chain {name} is not empty", token=name, mend="flush it first (-F)")
        if self._references(name):
            raise EditError(f"chain {name} is still jumped to", token=name, mend="delete the rules that name it first")
        del self._chains[name]

    def delete_user_chains(self) -> None:
        """``-X`` without a chain: all of the user's; they may name one another in no rule, all being empty."""
        for name in self.chain_names():
            if not self.is_builtin(name):
                self.delete_chain(name)

    def rename_chain(self, old: str, new: str) -> None:
        """``-E``: rules that name it follow."""
        self._user_chain(old)
        if new in self._chains:
            raise EditError(f"chain {new!r} exists already", token=new)
        try:
            check_chain_name(new, self.family)
        except BadValue as error:
            raise EditError(error.what, token=new, mend=error.mend) from None
        self._chains[new] = self._chains.pop(old)
        for chain in self._chains.values():
            for at, rule in enumerate(chain.rules):
                if isinstance(rule.target, Jump) and rule.target.chain == old:
                    chain.rules[at] = replace(rule, target=Jump(new, rule.target.goto))

    def _references(self, name: str) -> bool:
        return any(
            isinstance(rule.target, Jump) and rule.target.chain == name
            for chain in self._chains.values()
            for rule in chain.rules
        )

    def set_policy(self, name: str, policy: str, counters: Counters | None = None) -> None:
        """``-P``: ``ACCEPT`` or ``DROP`` for a built-in chain."""
        chain = self._chain(name)
        if not self.is_builtin(name):
            raise EditError(f"chain {name} has no policy", token=name, mend="only built-in chains have one: write -")
        if policy not in (Verdict.ACCEPT, Verdict.DROP):
            raise EditError(f"bad policy {policy!r}", token=policy, mend="use ACCEPT or DROP")
        chain.policy = Verdict(policy)
        chain.counters = counters or _NO_COUNTERS

    def flush(self, name: str | None = None) -> None:
        """``-F``: delete the rules of one chain, or of all."""
        for chain in [self._chain(name)] if name is not None else self._chains.values():
            chain.rules.clear()

    def zero(self, name: str | None = None, number: int | None = None) -> None:
        """``-Z``: set counters of a chain (or all, or of rule ``number`` from 1) to zero."""
        for chain in [self._chain(name)] if name is not None else self._chains.values():
            if number is not None:
                at = self._at(chain, number)
                chain.rules[at] = replace(chain.rules[at], counters=_NO_COUNTERS)
                continue
            chain.counters = _NO_COUNTERS
            chain.rules[:] = [replace(rule, counters=_NO_COUNTERS) for rule in chain.rules]

    def clear(self) -> None:
        """Delete all rules and all chains of the user's; policies stay (what ``iptables-restore`` begins with)."""
        for name in [name for name in self._chains if not self.is_builtin(name)]:
            del self._chains[name]
        self.flush()

    # rules

    def _at(self, chain: _ChainEdit, number: int) -> int:
        if not 1 <= number <= len(chain.rules):
            raise EditError(f"there is no rule {number}", token=str(number), mend=f"the chain has {len(chain.rules)}")
        return number - 1

    def _check_target(self, target: Target | None) -> None:
        if isinstance(target, Jump):
            name = target.chain
            if name not in self._chains:
                raise EditError(
                    f"there is no target or chain {name!r}", token=name, mend="declare the chain before the rule"
                )
            if self.is_builtin(name):
                raise EditError(f"chain {name} is built in and cannot be jumped to", token=name)

    def append(self, chain: str, rule: Rule) -> None:
        """``-A``."""
        target = rule.target
        if target.__class__ is Jump:
            self._check_target(target)
        self._chain(chain).rules.append(rule)

    def insert(self, chain: str, rule: Rule, number: int = 1) -> None:
        """``-I``: so that it becomes rule ``number``."""
        self._check_target(rule.target)
        rules = self._chain(chain).rules
        if not 1 <= number <= len(rules) + 1:
            raise EditError("index of insertion too big", token=str(number), mend=f"the chain has {len(rules)} rules")
        rules.insert(number - 1, rule)

    def replace(self, chain: str, rule: Rule, number: int) -> None:
        """``-R``: rule ``number``."""
        self._check_target(rule.target)
        edit = self._chain(chain)
        edit.rules[self._at(edit, number)] = rule

    def find(self, chain: str, rule: Rule) -> int | None:
        """``-C``: the number (from 1) of the first rule equal to ``rule``, or ``None``."""
        rules = self._chain(chain).rules
        return next((at + 1 for at, one in enumerate(rules) if one == rule), None)

    def delete(self, chain: str, rule: Rule) -> None:
        """``-D`` with a rule: the first one equal to it."""
        number = self.find(chain, rule)
        if number is None:
            raise EditError(f"no rule of chain {chain} is like that", mend="see what the save tool prints")
        self.delete_number(chain, number)

    def delete_number(self, chain: str, number: int) -> None:
        """``-D`` with a number."""
        edit = self._chain(chain)
        del edit.rules[self._at(edit, number)]

    # the end

    def finish(self) -> Table:
        """The table as edited, chains in the order of the save tool.

        Raises:
            EditError: The kernel would not load it.
        """
        table = Table(
            self.name,
            self.family,
            tuple(
                Chain(name, tuple(edit.rules), edit.policy, edit.counters)
                for name in self.chain_names()
                for edit in (self._chains[name],)
            ),
        )
        problem = find_problem(table)
        if problem is not None:
            raise EditError(
                f"{self.name} {problem.chain} rule {problem.number + 1}: {problem.what}",
                mend=problem.mend,
                problem=problem,
            )
        return table


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


class Transaction:
    """Edits of one or more tables of a ruleset; ``commit`` gives the new ruleset, the old one stays as it was."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._ruleset = ruleset
        self._edits: dict[str, TableEdit] = {}

    def table(self, name: str) -> TableEdit:
        """The table called ``name``, loaded if it was not."""
        edit = self._edits.get(name)
        if edit is None:
            edit = self._edits[name] = TableEdit(self._ruleset.family, name, self._ruleset.table(name))
        return edit

    def commit(self) -> Ruleset:
        """The ruleset with all edits.

        Raises:
            EditError: A table could not be loaded; nothing has changed.
        """
        tables = {table.name: table for table in self._ruleset.tables}
        for name, edit in self._edits.items():
            tables[name] = edit.finish()
        return Ruleset(self._ruleset.family, tuple(tables[name] for name in sorted(tables)))


# What the kernel checks


def reachable_hooks(table: Table) -> dict[str, frozenset[str]]:
    """For each chain the built-in chains from which it can be reached (``comefrom`` of ``mark_source_chains``)."""
    jumps: dict[str, tuple[str, ...]] = {}
    for chain in table.chains:
        seen: dict[str, None] = {}
        for rule in chain.rules:
            target = rule.target
            if target.__class__ is Jump:
                seen[target.chain] = None
        jumps[chain.name] = tuple(seen)
    hooks: dict[str, set[str]] = {chain.name: set() for chain in table.chains}
    for builtin in BUILTIN_CHAINS[table.name]:
        todo = [builtin]
        while todo:
            name = todo.pop()
            if name in hooks and builtin not in hooks[name]:
                hooks[name].add(builtin)
                todo.extend(jumps[name])
    return {name: frozenset(found) for name, found in hooks.items()}


def _circle(table: Table) -> Problem | None:
    """A rule that closes a circle of jumps reachable from a built-in chain."""
    edges = {
        chain.name: [(at, rule.target.chain) for at, rule in enumerate(chain.rules) if isinstance(rule.target, Jump)]
        for chain in table.chains
    }
    done: set[str] = set()
    for start in BUILTIN_CHAINS[table.name]:
        path: dict[str, Iterable[tuple[int, str]]] = {start: iter(edges.get(start, ()))}
        while path:
            name = next(reversed(path))
            for at, goal in path[name]:
                if goal in path:
                    return Problem(name, at, f"the jump to {goal} makes a loop", "remove one of its jumps", goal)
                if goal not in done and goal in edges:
                    path[goal] = iter(edges[goal])
                    break
            else:
                done.add(name)
                del path[name]
    return None


def _restricted(kind: type[RuleExtension]) -> bool:
    """Whether the kernel's check of this extension can fail at all."""
    return bool(kind.protocols or kind.tables or kind.hooks) or kind.objection is not RuleExtension.objection


def find_problem(table: Table) -> Problem | None:
    """The first reason for which the kernel would not load ``table``, or ``None``."""
    names = {chain.name for chain in table.chains}
    hooks = reachable_hooks(table)
    restricted: dict[type[RuleExtension], bool] = {Match: False, Jump: False, VerdictTarget: False}
    for chain in table.chains:
        for at, rule in enumerate(chain.rules):
            for one in (*rule.matches, rule.target):
                if one is None:
                    continue
                kind = one.__class__
                checked = restricted.get(kind)
                if checked is None:
                    checked = restricted[kind] = _restricted(kind)
                if not checked:
                    if kind is Jump and one.chain not in names:  # type: ignore[union-attr]
                        return Problem(chain.name, at, _NO_CHAIN, "declare the chain")
                    continue
                what = _extension_problem(one, rule, table, hooks[chain.name])
                if what:
                    return Problem(chain.name, at, what, token=one.extension)
    return _circle(table)


def _extension_problem(one: RuleExtension, rule: Rule, table: Table, hooks: frozenset[str]) -> str:
    tables = one.allowed_tables()
    if tables and table.name not in tables:
        return f"{one.extension} can be used in table {' or '.join(sorted(tables))} only, not in {table.name}"
    if one.hooks and not hooks <= one.hooks:
        where = ", ".join(sorted(hooks - one.hooks))
        return f"{one.extension} can be reached from {where}, where it is not allowed"
    header = rule.header
    if one.protocols and (header.protocol not in one.protocols or header.protocol_inverted):
        names = " or ".join(f"-p {PROTOCOL_NAMES[number]}" for number in sorted(one.protocols))
        return f"{one.extension} needs {names}, not inverted"
    return one.objection(rule, table.family, hooks)
