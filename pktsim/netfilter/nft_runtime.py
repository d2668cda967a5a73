"""nft in one namespace: the ruleset in force, its programs, and what moves while packets pass.

Sets and states live in the engine and outlive programs: a rule that stays keeps its counters, a set that stays keeps
its elements. :meth:`NftRuntime.ruleset` gives the ruleset as it stands, :meth:`NftRuntime.load` puts another one in its
place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pktsim._fastpath import NftSet as EngineSet
from pktsim._fastpath import NftStates
from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_elements import ordered
from pktsim.netfilter.nft_fields import HOOKS
from pktsim.netfilter.nft_lower import (
    LoweredNft,
    NftBuilder,
    data_bytes,
    field_sizes,
    key_bytes,
    make_engine_set,
    set_data_size,
    state_of,
    states_in,
)
from pktsim.netfilter.nft_lower_expressions import COUNTER, SEED, State
from pktsim.netfilter.nft_ruleset import (
    AnonymousSet,
    Concat,
    Const,
    Counter,
    Element,
    Expr,
    NftChain,
    NftFamily,
    NftObject,
    NftRule,
    NftRuleset,
    NftSet,
    NftTable,
    Quota,
    SetUpdate,
    Statement,
)
from pktsim.netfilter.nft_transaction import refuse_unmodelled
from pktsim.netfilter.opcodes import Hook, Step
from pktsim.netfilter.ruleset import Family

#: The built-in steps' priorities (include/uapi/linux/netfilter_ipv4.h).
STEP_PRIORITIES: Final[Mapping[Step, int]] = {
    Step.DEFRAG: -400,
    Step.RAW: -300,
    Step.CONNTRACK: -200,
    Step.MANGLE: -150,
    Step.NAT_DST: -100,
    Step.FILTER: 0,
    Step.SECURITY: 50,
    Step.NAT_SRC: 100,
    Step.CONFIRM: 1 << 31,
}
#: Which of them each hook has.
_HOOK_STEPS: Final[Mapping[Hook, tuple[Step, ...]]] = {
    Hook.PREROUTING: (Step.DEFRAG, Step.RAW, Step.CONNTRACK, Step.MANGLE, Step.NAT_DST),
    Hook.INPUT: (Step.MANGLE, Step.FILTER, Step.SECURITY, Step.NAT_SRC, Step.CONFIRM),
    Hook.FORWARD: (Step.MANGLE, Step.FILTER, Step.SECURITY),
    Hook.OUTPUT: (
        Step.DEFRAG, Step.RAW, Step.CONNTRACK, Step.MANGLE, Step.NAT_DST, Step.FILTER, Step.SECURITY,
    ),
    Hook.POSTROUTING: (Step.MANGLE, Step.NAT_SRC, Step.CONFIRM),
}  # fmt: skip
#: ``STEP_NFT`` (includes/types.pxi).
_NFT_STEP: Final = 9
_NS_PER_MS: Final = 1_000_000

HookOrder = dict[tuple[Family, Hook], list[tuple[int, int, int, int, int]]]


@dataclass(slots=True)
class _LiveSet:
    """A named set: its declaration, and where its elements are."""

    declaration: NftSet
    engine: EngineSet
    sizes: list[int]
    by_key: dict[bytes | None, Element] = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        """Whether its elements can change without a command."""
        one = self.declaration
        return bool(one.flags & {"dynamic", "timeout"} or one.statements or self.engine_states)

    engine_states: tuple[Statement, ...] = ()


@dataclass(slots=True)
class _LiveTable:
    lowered: LoweredNft
    states: NftStates
    sets: dict[str, _LiveSet]
    chains: dict[str, int]
    anonymous: dict[int, tuple[NftRule, list[EngineSet]]]
    serials: dict[str, int]


class NftRuntime:
    """One namespace's nft."""

    def __init__(self) -> None:
        self._ruleset = NftRuleset()
        self._live: dict[tuple[NftFamily, str, int], _LiveTable] = {}

    @property
    def empty(self) -> bool:
        return not self._ruleset.tables

    @property
    def tables(self) -> tuple[LoweredNft, ...]:
        """The programs in force, by the numbers that the trace calls them."""
        return tuple(self._live[_key(table)].lowered for table in self._ruleset.tables)

    # ------------------------------------------------------------------------------------------------------------- load

    def load(self, ruleset: NftRuleset, now_ns: int, next_serial: Callable[[], int]) -> None:
        """Put a ruleset in force. It must have been made from :meth:`ruleset`, so that what it keeps is known.

        Raises:
            UnsupportedFeature: Something in it is not modelled; nothing has changed.
        """
        old = self._live
        made: dict[tuple[NftFamily, str, int], _LiveTable] = {}
        for table in ruleset.tables:
            refuse_unmodelled(table)
            made[_key(table)] = self._lower(table, old.get(_key(table)), now_ns)
        # nothing is refused from here on
        for table in ruleset.tables:
            live = made[_key(table)]
            self._fill_sets(table, live, now_ns)
            for chain in table.chains:
                if chain.base is not None and chain.name not in live.serials:
                    live.serials[chain.name] = next_serial()
        self._live = made
        self._ruleset = ruleset

    def _lower(self, table: NftTable, before: _LiveTable | None, now_ns: int) -> _LiveTable:
        chains = _chain_numbers(table, before.chains if before is not None else {})
        known = before.anonymous if before is not None else {}
        anonymous: dict[int, tuple[NftRule, list[EngineSet]]] = {}

        def make(rule: NftRule, number: int, one: AnonymousSet, data_size: int) -> EngineSet:
            _, engines = anonymous.setdefault(rule.handle, (rule, []))
            old = known.get(rule.handle)
            if old is not None and old[0] == rule and number < len(old[1]) and _same_chains(one, chains, before):
                engines.append(old[1][number])
            else:
                engines.append(_anonymous_engine(one, data_size, chains))
            return engines[-1]

        lowered = NftBuilder(table, chains, make, now_ns=now_ns).lower()
        kept: dict[tuple[Any, ...], tuple[int, int, int]] = {}
        if before is not None:
            for (owner, _), value in zip(before.lowered.states, before.states.values(), strict=True):
                kept[owner] = value
        states: list[State] = []
        for owner, first in lowered.states:
            before_value = kept.get(owner)
            states.append(first if before_value is None else _continued(first, before_value))
        sets: dict[str, _LiveSet] = {}
        for one in table.sets:
            previous = before.sets.get(one.name) if before is not None else None
            sets[one.name] = _keep_or_make(one, previous, _element_states(table, one), chains, before)
        serials = dict(before.serials) if before is not None else {}
        bases = {chain.name for chain in table.chains if chain.base is not None}
        return _LiveTable(
            lowered,
            NftStates(states),
            sets,
            chains,
            anonymous,
            {name: serial for name, serial in serials.items() if name in bases},
        )

    def _fill_sets(self, table: NftTable, live: _LiveTable, now_ns: int) -> None:
        for one in table.sets:
            there = live.sets[one.name]
            there.declaration = one
            wanted: dict[bytes | None, Element] = {}
            highs: dict[bytes | None, bytes | None] = {}
            for element in one.elements:
                low, high = key_bytes(element.key, there.sizes)
                wanted[low], highs[low] = element, high
            changed = False
            for low in [low for low, element in there.by_key.items() if low not in wanted]:
                there.engine.delete(low)
                changed = True
            for low, element in wanted.items():
                present = there.by_key.get(low)
                same = present is not None and (present is element or present == element)
                if same and (not there.moves or _same_timeout(present, element)):
                    continue
                if present is not None:
                    there.engine.delete(low)
                changed = True
                self._add_element(there, element, low, highs[low], live.chains, now_ns)
            there.by_key = wanted
            if changed:
                there.engine.build()

    @staticmethod
    def _add_element(
        there: _LiveSet,
        element: Element,
        low: bytes | None,
        high: bytes | None,
        chains: Mapping[str, int],
        now_ns: int,
    ) -> None:
        one = there.declaration
        timeout = element.timeout_ms * _NS_PER_MS
        left = (element.expires_ms or element.timeout_ms or one.timeout_ms) * _NS_PER_MS
        states = []
        for statement in element.statements:
            _, _, a, b, _, _, last = state_of(statement, now_ns)
            states.append((a, b, last))
        there.engine.add(
            low,
            high,
            data_bytes(element.data, chains, there.engine.data_size),
            timeout,
            now_ns + left if left and "timeout" in one.flags else 0,
            states,
        )

    # ----------------------------------------------------------------------------------------------------- as it stands

    def ruleset(self, now_ns: int) -> NftRuleset:
        """The ruleset with its counters and elements as they stand."""
        tables = tuple(self._table_now(table, self._live[_key(table)], now_ns) for table in self._ruleset.tables)
        self._ruleset = NftRuleset(tables)
        return self._ruleset

    def _table_now(self, table: NftTable, live: _LiveTable, now_ns: int) -> NftTable:
        values = {owner: value for (owner, _), value in zip(live.lowered.states, live.states.values(), strict=True)}
        by_rule: dict[int, list[tuple[int, int, int]]] = {}
        objects: dict[tuple[str, str], tuple[int, int, int]] = {}
        for owner, value in values.items():
            if owner[0] == "rule":
                by_rule.setdefault(owner[1], []).append(value)
            else:
                objects[owner[1], owner[2]] = value
        chains = tuple(_chain_now(chain, by_rule, values) for chain in table.chains)
        sets = tuple(self._set_now(one, live.sets[one.name], now_ns) for one in table.sets)
        named = tuple(_object_now(one, objects[one.kind, one.name]) for one in table.objects)
        same = (
            all(a is b for a, b in zip(chains, table.chains, strict=True))
            and all(a is b for a, b in zip(sets, table.sets, strict=True))
            and all(a is b for a, b in zip(named, table.objects, strict=True))
        )
        return table if same else replace(table, chains=chains, sets=sets, objects=named)

    def _set_now(self, one: NftSet, live: _LiveSet, now_ns: int) -> NftSet:
        if not live.moves:
            return one
        elements: list[Element] = []
        by_key: dict[bytes | None, Element] = {}
        for low, _high, data, timeout_ns, expires_ns, states in live.engine.elements(now_ns):
            element = live.by_key.get(low)
            if element is None:
                element = Element(_key_from_bytes(low, one), _data_from_bytes(data, one))
            expires = -(-(expires_ns - now_ns) // _NS_PER_MS) if expires_ns else 0
            statements = element.statements or live.engine_states or one.statements
            moved = tuple(_moved(statement, value) for statement, value in zip(statements, states, strict=False))
            element = replace(element, timeout_ms=timeout_ns // _NS_PER_MS, expires_ms=expires, statements=moved)
            by_key[low] = element
            elements.append(element)
        live.by_key = by_key
        kept = ordered(elements, interval=one.interval, concat=len(one.key_types) > 1)
        now = replace(one, elements=tuple(kept))
        live.declaration = now
        return now

    # ------------------------------------------------------------------------------------------------------------ hooks

    def engine_tables(self) -> list[tuple[Any, ...]]:
        """What ``Datapath.nft_set`` is given."""
        made = []
        for table in self._ruleset.tables:
            live = self._live[_key(table)]
            lowered = live.lowered
            sets = [live.sets[one].engine if isinstance(one, str) else one for one in lowered.sets]
            made.append((lowered.program, sets, live.states, lowered.chain_rows))
        return made

    def hook_orders(self, serials: Mapping[object, int]) -> tuple[HookOrder, HookOrder]:
        """The order of everything at each hook, and of the chains that decide mappings there.

        Who comes later goes before others of the same priority (``nf_hook_entries_grow``).

        Args:
            serials: When the built-in steps were hooked in: by (family, step), and by (family, "nat") the iptables
                table among NAT chains; a step that is absent is not there and its place does not matter.
        """
        chains: dict[tuple[Family, Hook], list[tuple[int, int, tuple[int, int, int, int, int]]]] = {}
        nat: dict[tuple[Family, Hook], list[tuple[int, int, tuple[int, int, int, int, int]]]] = {}
        for number, table in enumerate(self._ruleset.tables):
            if table.dormant:
                continue
            live = self._live[_key(table)]
            for chain, row in live.lowered.bases:
                assert chain.base is not None
                hook = Hook(HOOKS[chain.base.hook])
                entry = (_NFT_STEP, number, row, live.chains[chain.name], int(chain.base.type == "route"))
                goal = nat if chain.base.type == "nat" else chains
                for family in table.family.families:
                    goal.setdefault((family, hook), []).append((chain.base.priority, -live.serials[chain.name], entry))
        hooks: HookOrder = {}
        for (family, hook), found in chains.items():
            built_in = [
                (STEP_PRIORITIES[step], -serials.get((family, step), 0), (int(step), -1, 0, 0, 0))
                for step in _HOOK_STEPS[hook]
            ]
            hooks[family, hook] = [entry for _, _, entry in sorted([*built_in, *found])]
        mappings: HookOrder = {}
        for (family, hook), found in nat.items():
            if (family, "nat") in serials:
                priority = 100 if hook in (Hook.INPUT, Hook.POSTROUTING) else -100
                found = [*found, (priority, -serials[family, "nat"], (int(Step.NAT_DST), -1, 0, 0, 0))]
            mappings[family, hook] = [entry for _, _, entry in sorted(found)]
        return hooks, mappings

    def needs(self, family: Family) -> bool:
        """Whether a family's connections are to be tracked."""
        return any(family in self._live[_key(table)].lowered.conntrack for table in self._ruleset.tables)

    @property
    def needs_accounting(self) -> bool:
        return any(live.lowered.needs_accounting for live in self._live.values())

    def has_nat_chain(self, family: Family) -> bool:
        """Whether a chain of type nat sees a family's packets."""
        return any(
            chain.base is not None and chain.base.type == "nat"
            for table in self._ruleset.tables
            if family in table.family.families
            for chain in table.chains
        )


def _continued(first: State, value: tuple[int, int, int]) -> State:
    """A state that goes on from what it had."""
    kind, invert, _, b, c, d, _ = first
    return (kind, invert, value[0], value[1] if kind in (COUNTER, SEED) else b, c, d, value[2])


def _key(table: NftTable) -> tuple[NftFamily, str, int]:
    return table.family, table.name, table.handle


def _chain_numbers(table: NftTable, before: Mapping[str, int]) -> dict[str, int]:
    """Chains keep their numbers, for sets that lead to them; new ones take those that are free."""
    found = {chain.name: before[chain.name] for chain in table.chains if chain.name in before}
    used = set(found.values())
    number = 0
    for chain in table.chains:
        if chain.name not in found:
            while number in used:
                number += 1
            found[chain.name] = number
            used.add(number)
    return found


def _same_chains(one: AnonymousSet, chains: Mapping[str, int], before: _LiveTable | None) -> bool:
    """Whether the chains that a set leads to still have their numbers."""
    assert before is not None
    return all(
        chains.get(name) == before.chains.get(name)
        for element in one.elements
        for name in (getattr(element.data, "chain", ""),)
        if name
    )


def _anonymous_engine(one: AnonymousSet, data_size: int, chains: Mapping[str, int]) -> EngineSet:
    bits = _key_bits(one)
    engine = make_engine_set(bits, interval=one.interval, data_size=data_size)
    sizes = field_sizes(bits)
    for element in one.elements:
        low, high = key_bytes(element.key, sizes)
        engine.add(low, high, data_bytes(element.data, chains, data_size))
    engine.build()
    return engine


def _key_bits(one: AnonymousSet) -> list[int]:
    for element in one.elements:
        if isinstance(element.key, Concat):
            return [part.bits for part in element.key.parts]
        if element.key.datatype is not t.INTEGER or element.key.bits:
            return [element.key.bits]
    return [one.key_type.bits]


def _element_states(table: NftTable, one: NftSet) -> tuple[Statement, ...]:
    """What each element of a set keeps: as declared, or as the first rule that adds to it says."""
    if one.statements:
        return one.statements
    for element in one.elements:
        if element.statements:
            return element.statements
    for chain in table.chains:
        for rule in chain.rules:
            for statement in rule.statements:
                if isinstance(statement, SetUpdate) and statement.set == one.name and statement.statements:
                    return statement.statements
    return ()


def _keep_or_make(
    one: NftSet,
    previous: _LiveSet | None,
    states: tuple[Statement, ...],
    chains: Mapping[str, int],
    before: _LiveTable | None,
) -> _LiveSet:
    size = one.size
    timeout = one.timeout_ms * _NS_PER_MS
    if previous is not None:
        had = previous.declaration
        same = (had.key_types, had.data_types, had.interval, had.size, had.timeout_ms) == (
            one.key_types,
            one.data_types,
            one.interval,
            one.size,
            one.timeout_ms,
        )
        moved = (
            before is not None
            and one.data_types == (t.VERDICT,)
            and any(chains.get(name, number) != number for name, number in before.chains.items())
        )
        if same and not moved and previous.engine_states == states and had.handle == one.handle:
            return _LiveSet(previous.declaration, previous.engine, previous.sizes, previous.by_key, states)
    engine = make_engine_set(
        one.key_bits,
        interval=one.interval,
        data_size=set_data_size(one),
        timeout_ns=timeout,
        size=size,
        states=states,
    )
    return _LiveSet(one, engine, field_sizes(one.key_bits), {}, states)


def _same_timeout(present: Element | None, element: Element) -> bool:
    return present is not None and present.timeout_ms == element.timeout_ms


def _moved(statement: Statement, value: Sequence[int]) -> Statement:
    """A stateful statement with what it has counted."""
    if isinstance(statement, Counter):
        if (statement.packets, statement.bytes) == (value[0], value[1]):
            return statement
        return Counter(value[0], value[1])
    if isinstance(statement, Quota):
        used = min(value[0], statement.bytes)  # nft_quota_do_dump says no more
        return statement if statement.used == used else replace(statement, used=used)
    return statement


def _chain_now(
    chain: NftChain, by_rule: Mapping[int, Sequence[tuple[int, int, int]]], values: Mapping[tuple[Any, ...], Any]
) -> NftChain:
    rules = tuple(_rule_now(rule, by_rule[rule.handle]) if rule.handle in by_rule else rule for rule in chain.rules)
    if all(a is b for a, b in zip(rules, chain.rules, strict=True)):
        return chain
    return replace(chain, rules=rules)


def _rule_now(rule: NftRule, values: Sequence[tuple[int, int, int]]) -> NftRule:
    """A rule with what its counters and quotas have counted; its states are in the order of its statements."""
    left = list(values)
    statements: list[Statement] = []
    changed = False
    for statement in rule.statements:
        for _ in range(states_in(statement)):
            value = left.pop(0)
            if isinstance(statement, (Counter, Quota)):
                moved = _moved(statement, value)
                changed = changed or moved is not statement
                statement = moved
        statements.append(statement)
    return replace(rule, statements=tuple(statements)) if changed else rule


def _object_now(one: NftObject, value: Sequence[int]) -> NftObject:
    state = _moved(one.state, value)
    return one if state is one.state else replace(one, state=state)


def _key_from_bytes(low: bytes | None, one: NftSet) -> Expr:
    assert low is not None
    parts: list[Const] = []
    at = 0
    sizes = field_sizes(one.key_bits)
    for datatype, bits, size in zip(one.key_types, one.key_bits, sizes, strict=True):
        parts.append(Const(low[at : at + (bits + 7) // 8], datatype, bits))
        at += size
    return parts[0] if len(parts) == 1 else Concat(tuple(parts))


def _data_from_bytes(data: bytes, one: NftSet) -> Expr | None:
    if not one.data_types:
        return None
    if len(one.data_types) == 1:
        datatype = one.data_types[0]
        return Const(data[: datatype.size()], datatype, datatype.bits)
    parts, at = [], 0
    for datatype in one.data_types:
        parts.append(Const(data[at : at + datatype.size()], datatype, datatype.bits))
        at += -(-datatype.size() // 4) * 4
    return Concat(tuple(parts))
