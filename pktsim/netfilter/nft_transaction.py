"""Editing nft rulesets: all of a script's commands or none of them.

Promises: what ``commit`` gives is a ruleset that the kernel would hold after the same commands; on an error the old
ruleset stays as it was. Source: net/netfilter/nf_tables_api.c of Linux 6.18.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.nft_elements import bounds, canonical_key, has_interval, ordered, range_of
from pktsim.netfilter.nft_ruleset import (
    AnonymousSet,
    Assign,
    Concat,
    Ct,
    Element,
    Expr,
    Fib,
    MapLookup,
    MatchStatement,
    Nat,
    NftChain,
    NftFamily,
    NftHook,
    NftObject,
    NftRule,
    NftRuleset,
    NftSet,
    NftTable,
    ObjectRef,
    Reject,
    SetRef,
    SetUpdate,
    Statement,
    VerdictMap,
    VerdictStatement,
    VerdictValue,
    Wildcard,
    leaves,
)

#: ``NFT_JUMP_STACK_SIZE``.
MAX_JUMPS: Final = 16
_CHAIN_HOOKS: Final = {
    "filter": frozenset({"prerouting", "input", "forward", "output", "postrouting"}),
    "nat": frozenset({"prerouting", "input", "output", "postrouting"}),
    "route": frozenset({"output"}),
}
_NAT_HOOKS: Final = {
    "snat": frozenset({"postrouting", "input"}),
    "dnat": frozenset({"prerouting", "output"}),
    "masquerade": frozenset({"postrouting"}),
    "redirect": frozenset({"prerouting", "output"}),
}
_REJECT_HOOKS: Final = frozenset({"input", "forward", "output", "prerouting"})
#: ``NF_IP_PRI_CONNTRACK``: NAT must come behind it.
_CONNTRACK_PRIORITY: Final = -200


class NftEditError(RulesetSyntaxError):
    """A command that the kernel would refuse."""


def check_hook(base: NftHook) -> None:
    """What the kernel asks of a base chain."""
    if base.type not in _CHAIN_HOOKS:
        raise NftEditError(f"there is no chain type {base.type!r}", token=base.type, mend="filter, nat or route")
    if base.hook not in _CHAIN_HOOKS[base.type]:
        raise NftEditError(f"a chain of type {base.type} cannot be hooked to {base.hook}", token=base.hook)
    if base.type == "nat" and base.priority <= _CONNTRACK_PRIORITY:
        raise NftEditError(
            f"a nat chain's priority must be above {_CONNTRACK_PRIORITY}, behind connection tracking",
            token=str(base.priority),
        )


@dataclass(slots=True)
class ChainEdit:
    name: str
    handle: int
    base: NftHook | None = None
    comment: str = ""
    rules: list[NftRule] = field(default_factory=list)
    frozen: NftChain | None = None

    def touch(self) -> None:
        self.frozen = None

    def finish(self) -> NftChain:
        if self.frozen is None:
            self.frozen = NftChain(self.name, tuple(self.rules), self.base, self.comment, self.handle)
        return self.frozen


@dataclass(slots=True)
class SetEdit:
    declaration: NftSet
    elements: dict[Expr, Element]
    changed: bool = False

    def finish(self) -> NftSet:
        if not self.changed:
            return self.declaration
        one = self.declaration
        kept = ordered(
            list(self.elements.values()),
            interval=one.interval,
            concat=len(one.key_types) > 1,
        )
        return replace(one, elements=tuple(kept))

    def add(self, element: Element, *, create: bool = False) -> None:
        """``add element``."""
        one = self.declaration
        key = canonical_key(element.key)
        element = replace(element, key=key) if key is not element.key else element
        if has_interval(key) and not one.interval:
            raise NftEditError(
                f"set {one.name} takes no intervals", token=one.name, mend="declare it with flags interval"
            )
        if element.timeout_ms and "timeout" not in one.flags:
            raise NftEditError(f"set {one.name} has no timeouts", token=one.name, mend="declare it with flags timeout")
        if one.statements and not element.statements:
            element = replace(element, statements=one.statements)
        there = self.elements.get(key)
        if there is not None:
            if create or there.data != element.data:
                raise NftEditError(f"set {one.name} has this element already", token=one.name)
            return
        if one.interval and len(one.key_types) == 1 and not isinstance(key, Wildcard):
            element = self._without_overlap(element)
        elif one.interval:
            self._check_boxes(element)
        if one.size and len(self.elements) >= one.size:
            raise NftEditError(f"set {one.name} is full: it has size {one.size}", token=one.name)
        self.elements[element.key] = element
        self.changed = True

    def delete(self, key: Expr) -> None:
        """``delete element``."""
        if self.elements.pop(canonical_key(key), None) is None:
            raise NftEditError(f"set {self.declaration.name} has no such element", token=self.declaration.name)
        self.changed = True

    def flush(self) -> None:
        self.changed = self.changed or bool(self.elements)
        self.elements.clear()

    def _without_overlap(self, element: Element) -> Element:
        one = self.declaration
        low, high = bounds(element.key)
        for key in list(self.elements):
            if isinstance(key, Wildcard):
                continue
            other_low, other_high = bounds(key)
            touching = one.auto_merge and (_next(other_high) == low or _next(high) == other_low)
            if not (low <= other_high and other_low <= high) and not touching:
                continue
            if not one.auto_merge:
                raise NftEditError(
                    f"set {one.name}: the interval overlaps with another one", token=one.name, mend="or use auto-merge"
                )
            del self.elements[key]
            low, high = min(low, other_low), max(high, other_high)
            element = replace(element, key=range_of(low, high, element.key))
        return element

    def _check_boxes(self, element: Element) -> None:
        if not isinstance(element.key, Concat):
            return
        mine = [bounds(part) for part in element.key.parts]
        for key in self.elements:
            if not isinstance(key, Concat):
                continue
            theirs = [bounds(part) for part in key.parts]
            # the kernel lets a smaller one be added before a larger one that holds it
            if all(b[0] <= a[0] and a[1] <= b[1] for a, b in zip(mine, theirs, strict=True)):
                raise NftEditError(
                    f"set {self.declaration.name}: an element is within another one", token=self.declaration.name
                )


def _next(data: bytes) -> bytes | None:
    number = int.from_bytes(data, "big") + 1
    return number.to_bytes(len(data), "big") if number >> 8 * len(data) == 0 else None


@dataclass(slots=True)
class NftTableEdit:
    """One table being edited."""

    family: NftFamily
    name: str
    handle: int
    next_handle: int = 1
    comment: str = ""
    dormant: bool = False
    chains: dict[str, ChainEdit] = field(default_factory=dict)
    sets: dict[str, SetEdit] = field(default_factory=dict)
    objects: dict[tuple[str, str], NftObject] = field(default_factory=dict)
    frozen: NftTable | None = None

    @classmethod
    def of(cls, table: NftTable) -> NftTableEdit:
        return cls(
            table.family,
            table.name,
            table.handle,
            table.next_handle,
            table.comment,
            table.dormant,
            {
                chain.name: ChainEdit(chain.name, chain.handle, chain.base, chain.comment, list(chain.rules), chain)
                for chain in table.chains
            },
            {one.name: SetEdit(one, dict(one.by_key)) for one in table.sets},
            {(one.kind, one.name): one for one in table.objects},
        )

    def take_handle(self) -> int:
        self.next_handle += 1
        return self.next_handle - 1

    def finish(self) -> NftTable:
        return NftTable(
            self.family,
            self.name,
            tuple(chain.finish() for chain in self.chains.values()),
            tuple(one.finish() for one in self.sets.values()),
            tuple(self.objects.values()),
            self.comment,
            self.dormant,
            self.handle,
            self.next_handle,
        )

    # looking

    def chain(self, name: str) -> ChainEdit:
        found = self.chains.get(name)
        if found is None:
            raise NftEditError(
                f"there is no chain {name} in table {self.family.value} {self.name}", token=name, mend="add it first"
            )
        return found

    def set(self, name: str) -> SetEdit:
        found = self.sets.get(name)
        if found is None:
            raise NftEditError(
                f"there is no set {name} in table {self.family.value} {self.name}", token=name, mend="add it first"
            )
        return found

    def declared_set(self, name: str) -> NftSet | None:
        found = self.sets.get(name)
        return found.declaration if found is not None else None

    # chains

    def add_chain(self, name: str, base: NftHook | None, comment: str = "", *, create: bool = False) -> ChainEdit:
        found = self.chains.get(name)
        if found is not None:
            if create:
                raise NftEditError(f"chain {name} exists already", token=name)
            if base is not None:
                if found.base is None or (found.base.type, found.base.hook, found.base.priority) != (
                    base.type,
                    base.hook,
                    base.priority,
                ):
                    raise NftEditError(f"chain {name} exists already with another hook", token=name)
                found.base = base
                found.touch()
            return found
        if base is not None:
            check_hook(base)
        if len(name) > 255:
            raise NftEditError(f"the name of chain {name} is too long", token=name, mend="at most 255 characters")
        found = self.chains[name] = ChainEdit(name, self.take_handle(), base, comment)
        return found

    def set_policy(self, name: str, policy: str) -> None:
        chain = self.chain(name)
        if chain.base is None:
            raise NftEditError(f"chain {name} has no policy: it is not a base chain", token=name)
        chain.base = replace(chain.base, policy=policy)
        chain.touch()

    def delete_chain(self, name: str) -> None:
        chain = self.chain(name)
        if any(goal == name for goal in self._all_goals()):
            raise NftEditError(f"chain {name} is still in use", token=name, mend="delete what leads to it first")
        del self.chains[chain.name]

    def _all_goals(self) -> Iterator[str]:
        for chain in self.chains.values():
            for rule in chain.rules:
                yield from goals(rule.statements)
        for one in self.sets.values():
            if one.declaration.data_types and not one.declaration.object_kind:
                for element in one.elements.values():
                    if isinstance(element.data, VerdictValue) and element.data.chain:
                        yield element.data.chain

    def rename_chain(self, old: str, new: str) -> None:
        chain = self.chain(old)
        if new in self.chains:
            raise NftEditError(f"chain {new} exists already", token=new)
        raise UnsupportedFeature(f"nft rename chain {chain.name}")

    def flush_chain(self, name: str) -> None:
        chain = self.chain(name)
        chain.rules.clear()
        chain.touch()

    def flush(self) -> None:
        """``flush table``: the rules of all chains."""
        for chain in self.chains.values():
            chain.rules.clear()
            chain.touch()

    # rules

    def check_rule(self, rule: NftRule) -> None:
        """Chains, sets and objects that it names are there."""
        for goal in goals(rule.statements):
            if goal not in self.chains:
                raise NftEditError(f"there is no chain {goal}", token=goal, mend="add it first")
            if self.chains[goal].base is not None:
                raise NftEditError(f"chain {goal} is a base chain and cannot be jumped to", token=goal)
        for statement in rule.statements:
            if isinstance(statement, ObjectRef) and (statement.kind, statement.name) not in self.objects:
                raise NftEditError(f"there is no {statement.kind} {statement.name}", token=statement.name)
            if isinstance(statement, SetUpdate):
                self._make_dynamic(statement)

    def _make_dynamic(self, statement: SetUpdate) -> None:
        """A set that rules add to is dynamic, has a size, and if they give timeouts has these too."""
        edit = self.set(statement.set)
        one = edit.declaration
        if one.interval:
            raise NftEditError(f"set {one.name} has intervals and cannot be added to by rules", token=one.name)
        if "dynamic" in one.flags:
            if statement.timeout_ms and "timeout" not in one.flags:
                raise NftEditError(f"set {one.name} has no timeouts", token=one.name, mend="flags timeout")
            return
        if statement.op == "delete":
            return
        flags = one.flags | {"dynamic"}
        edit.declaration = replace(one, flags=flags, size=one.size or 65535)
        edit.changed = True

    def add_rule(self, chain: str, rule: NftRule, *, at: int | None = None) -> None:
        """``add rule``, or with ``at`` so that it becomes that one (from 0)."""
        edit = self.chain(chain)
        self.check_rule(rule)
        for statement in rule.statements:
            for _ in _anonymous(statement):
                self.take_handle()
        rule = replace(rule, handle=self.take_handle())
        edit.rules.insert(len(edit.rules) if at is None else at, rule)
        edit.touch()

    def position(self, chain: str, handle: int) -> int:
        """Which rule of a chain has this handle (from 0)."""
        for at, rule in enumerate(self.chain(chain).rules):
            if rule.handle == handle:
                return at
        raise NftEditError(f"chain {chain} has no rule with handle {handle}", token=str(handle))

    def replace_rule(self, chain: str, handle: int, rule: NftRule) -> None:
        at = self.position(chain, handle)
        self.check_rule(rule)
        edit = self.chain(chain)
        edit.rules[at] = replace(rule, handle=self.take_handle())
        edit.touch()

    def delete_rule(self, chain: str, handle: int) -> None:
        at = self.position(chain, handle)
        edit = self.chain(chain)
        del edit.rules[at]
        edit.touch()

    # sets and objects

    def add_set(self, one: NftSet, *, create: bool = False) -> SetEdit:
        found = self.sets.get(one.name)
        if found is not None:
            if create:
                raise NftEditError(f"set {one.name} exists already", token=one.name)
            have = found.declaration
            if (have.key_types, have.data_types, have.interval) != (one.key_types, one.data_types, one.interval):
                raise NftEditError(f"set {one.name} exists already with another type", token=one.name)
            return found
        made = self.sets[one.name] = SetEdit(replace(one, elements=(), handle=self.take_handle()), {})
        return made

    def delete_set(self, name: str) -> None:
        one = self.set(name)
        if any(name in set_names(rule.statements) for chain in self.chains.values() for rule in chain.rules):
            raise NftEditError(f"set {name} is still in use", token=name, mend="delete the rules that name it first")
        del self.sets[one.declaration.name]

    def add_element(self, name: str, element: Element, *, create: bool = False) -> None:
        edit = self.set(name)
        if isinstance(element.data, VerdictValue) and element.data.chain and element.data.chain not in self.chains:
            raise NftEditError(f"there is no chain {element.data.chain}", token=element.data.chain)
        edit.add(element, create=create)

    def add_object(self, one: NftObject, *, create: bool = False) -> None:
        key = (one.kind, one.name)
        if key in self.objects:
            if create:
                raise NftEditError(f"{one.kind} {one.name} exists already", token=one.name)
            return
        self.objects[key] = replace(one, handle=self.take_handle())

    def delete_object(self, kind: str, name: str) -> None:
        if (kind, name) not in self.objects:
            raise NftEditError(f"there is no {kind} {name}", token=name)
        for chain in self.chains.values():
            for rule in chain.rules:
                if any(isinstance(s, ObjectRef) and (s.kind, s.name) == (kind, name) for s in rule.statements):
                    raise NftEditError(f"{kind} {name} is still in use", token=name)
        del self.objects[kind, name]


class NftTransaction:
    """Edits of a ruleset; ``commit`` gives the new one, the old one stays as it was."""

    def __init__(self, ruleset: NftRuleset) -> None:
        self._tables: dict[tuple[NftFamily, str], NftTable | NftTableEdit] = {
            (table.family, table.name): table for table in ruleset.tables
        }
        self._next_table = max((table.handle for table in ruleset.tables), default=0) + 1

    def has_table(self, family: NftFamily, name: str) -> bool:
        return (family, name) in self._tables

    def table(self, family: NftFamily, name: str) -> NftTableEdit:
        """The table, which must be there."""
        found = self._tables.get((family, name))
        if found is None:
            raise NftEditError(f"there is no table {family.value} {name}", token=name, mend="add it first")
        if isinstance(found, NftTable):
            found = self._tables[family, name] = NftTableEdit.of(found)
        return found

    def add_table(self, family: NftFamily, name: str, *, create: bool = False) -> NftTableEdit:
        if (family, name) not in self._tables:
            self._tables[family, name] = NftTableEdit(family, name, self._next_table)
            self._next_table += 1
        elif create:
            raise NftEditError(f"table {family.value} {name} exists already", token=name)
        return self.table(family, name)

    def delete_table(self, family: NftFamily, name: str) -> None:
        self.table(family, name)
        del self._tables[family, name]

    def flush_ruleset(self, family: NftFamily | None = None) -> None:
        for key in [key for key in self._tables if family is None or key[0] is family]:
            del self._tables[key]

    def commit(self) -> NftRuleset:
        """The ruleset with all edits.

        Raises:
            NftEditError: The kernel would not load it; nothing has changed.
        """
        tables = []
        for one in self._tables.values():
            if isinstance(one, NftTableEdit):
                table = one.finish()
                validate(table)
                tables.append(table)
            else:
                tables.append(one)
        return NftRuleset(tuple(tables))


# -------------------------------------------------------------------------------------------------- what rules refer to


def _maps(statement: Statement) -> Iterator[Expr]:
    """Sets and maps, named or not, of a statement."""
    if isinstance(statement, MatchStatement):
        yield from _maps_in(statement.left)
        yield statement.right
    elif isinstance(statement, VerdictMap):
        yield statement.map
    elif isinstance(statement, Assign):
        yield from _maps_in(statement.value)
    elif isinstance(statement, Nat):
        for part in (statement.address, statement.port):
            if part is not None:
                yield from _maps_in(part)
    elif isinstance(statement, SetUpdate):
        yield SetRef(statement.set)
        if statement.data is not None:
            yield from _maps_in(statement.data)


def _maps_in(expr: Expr) -> Iterator[Expr]:
    if isinstance(expr, MapLookup):
        yield expr.map


def _anonymous(statement: Statement) -> Iterator[AnonymousSet]:
    return (one for one in _maps(statement) if isinstance(one, AnonymousSet))


def set_names(statements: Iterable[Statement]) -> set[str]:
    """The named sets that statements use."""
    return {one.name for statement in statements for one in _maps(statement) if isinstance(one, SetRef)}


def goals(statements: Iterable[Statement]) -> Iterator[str]:
    """The chains that statements lead to by themselves or by a set of their own."""
    for statement in statements:
        if isinstance(statement, VerdictStatement) and statement.verdict.chain:
            yield statement.verdict.chain
        elif isinstance(statement, VerdictMap) and isinstance(statement.map, AnonymousSet):
            for element in statement.map.elements:
                if isinstance(element.data, VerdictValue) and element.data.chain:
                    yield element.data.chain


def _edges(table: NftTable) -> dict[str, list[str]]:
    """Which chains each chain leads to."""
    by_map = {
        one.name: {
            element.data.chain
            for element in one.elements
            if isinstance(element.data, VerdictValue) and element.data.chain
        }
        for one in table.sets
        if one.data_types
    }
    edges: dict[str, list[str]] = {}
    for chain in table.chains:
        found = dict.fromkeys(goals(one for rule in chain.rules for one in rule.statements))
        for rule in chain.rules:
            for statement in rule.statements:
                if isinstance(statement, VerdictMap) and isinstance(statement.map, SetRef):
                    found.update(dict.fromkeys(sorted(by_map.get(statement.map.name, ()))))
        edges[chain.name] = list(found)
    return edges


def _reached(table: NftTable) -> Iterator[tuple[Statement, NftHook, str]]:
    """Each statement with each base chain from which it is reached, and the chain it is in."""
    chains = {chain.name: chain for chain in table.chains}
    edges = _edges(table)
    for chain in table.chains:
        if chain.base is None:
            continue
        seen: set[str] = set()
        todo = [chain.name]
        while todo:
            name = todo.pop()
            if name in seen or name not in chains:
                continue
            seen.add(name)
            todo += edges[name]
            for rule in chains[name].rules:
                for statement in rule.statements:
                    yield statement, chain.base, name


def validate(table: NftTable) -> None:
    """What the kernel checks when a transaction ends: loops, depth, and statements where they may not be.

    Raises:
        NftEditError: It would refuse the table.
    """
    _check_circles(table, _edges(table))
    for statement, base, chain in _reached(table):
        _check_place(statement, base, chain)


def refuse_unmodelled(table: NftTable) -> None:
    """Refuse what the kernel takes and we do not know what it does there.

    Raises:
        UnsupportedFeature: By name.
    """
    for statement, base, chain in _reached(table):
        zoned = isinstance(statement, Assign) and isinstance(statement.target, Ct) and statement.target.key == "zone"
        if zoned and (base.hook not in ("prerouting", "output") or base.priority > _CONNTRACK_PRIORITY):
            # behind it the kernel hands a template to NAT as if it were a connection
            raise UnsupportedFeature("nft statement ct zone set behind connection tracking", place=f"chain {chain}")


def _check_circles(table: NftTable, edges: dict[str, list[str]]) -> None:
    depth: dict[str, int] = {}
    for root in edges:
        stack: list[tuple[str, int]] = [(root, 0)]
        open_: list[str] = []
        while stack:
            name, at = stack.pop()
            if at == 0:
                if name in depth:
                    continue
                if name in open_:
                    raise NftEditError(
                        f"table {table.name}: chain {name} leads to itself by way of {' -> '.join(open_)}", token=name
                    )
                open_.append(name)
            if at < len(edges.get(name, ())):
                stack.append((name, at + 1))
                if edges[name][at] not in depth:
                    stack.append((edges[name][at], 0))
            else:
                depth[name] = max((depth[goal] + 1 for goal in edges.get(name, ()) if goal in depth), default=0)
                open_.pop()
    for chain in table.chains:
        if chain.base is not None and depth.get(chain.name, 0) >= MAX_JUMPS:
            raise NftEditError(f"table {table.name}: jumps from chain {chain.name} are nested deeper than {MAX_JUMPS}")


def _fibs(statement: Statement) -> Iterator[Fib]:
    exprs: list[Expr] = []
    if isinstance(statement, MatchStatement):
        exprs = [statement.left]
    elif isinstance(statement, VerdictMap):
        exprs = [statement.key]
    elif isinstance(statement, Assign):
        exprs = [statement.value]
    elif isinstance(statement, SetUpdate):
        exprs = [statement.key]
    return (leaf for expr in exprs for leaf in leaves(expr) if isinstance(leaf, Fib))


def _fib_hooks(fib: Fib) -> frozenset[str]:
    """``nft_fib_validate``."""
    if fib.result != "type":
        return frozenset({"prerouting", "input", "forward"})
    if "iif" in fib.flags:
        return frozenset({"prerouting", "input", "forward"})
    if "oif" in fib.flags:
        return frozenset({"output", "postrouting", "forward"})
    return _CHAIN_HOOKS["filter"]


def _check_place(statement: Statement, base: NftHook, chain: str) -> None:
    what = ""
    if isinstance(statement, Nat):
        what = statement.kind
        if base.type != "nat" or base.hook not in _NAT_HOOKS[statement.kind]:
            where = " or ".join(sorted(_NAT_HOOKS[statement.kind]))
            raise NftEditError(
                f"chain {chain}: {what} can be reached from a chain of type {base.type} at {base.hook}",
                token=what,
                mend=f"only chains of type nat at {where}",
            )
    for fib in _fibs(statement):
        allowed = _fib_hooks(fib)
        if base.hook not in allowed:
            raise NftEditError(
                f"chain {chain}: fib {' . '.join(fib.flags)} {fib.result} can be reached from {base.hook}",
                token="fib",
                mend=f"only from {' or '.join(sorted(allowed))}",
            )
    if isinstance(statement, Reject) and base.hook not in _REJECT_HOOKS:
        raise NftEditError(f"chain {chain}: reject can be reached from {base.hook}, where it is not allowed")
