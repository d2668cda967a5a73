"""Lowering: from a table's dataclasses to the flat program that the engine runs, with the source map beside it.

Promises: what the program does to a packet is what the table says, rule for rule, in order. A match or target without
an entry here is refused by name. Each extension has one lowering function, registered under its dataclass.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import import_module
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pktsim._fastpath import Program
from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.opcodes import Hook, NatFlag, Op, TableId
from pktsim.netfilter.ruleset import (
    BUILTIN_CHAINS,
    Chain,
    Counters,
    Family,
    HeaderMatch,
    Jump,
    MaskedAddress,
    Match,
    Rule,
    Table,
    Target,
    Verdict,
    VerdictTarget,
)

#: Runs of at least this many rules with one exact key are indexed.
DISPATCH_MIN = 8
#: The engine's stack (STACK_DEPTH), less what a chain of returns needs.
MAX_JUMP_DEPTH = 250

#: For each indexed run: kind, key -> first rows of the rules with that key, first rows of all its rules.
Dispatches = list[tuple[int, dict[bytes, list[int]], list[int]]]
_HOOKS = {hook.name: hook for hook in Hook}

#: What an uncommon match or target is run by: (datapath, packet, hook) -> whether it matches. State lives in
#: ``datapath.context``, never in the callable: programs are shared between namespaces.
PythonMatch = Callable[[Any, Any, int], bool]


@dataclass(frozen=True, slots=True)
class SourceRule:
    """What a rule number of a program stands for."""

    chain: str
    number: int  # counts from 1 within the chain; 0 is the chain's end or policy
    rule: Rule | None


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program and its source map: ``sources[i]`` is rule number i, which is also counter number i."""

    table: Table
    program: Program
    sources: tuple[SourceRule, ...]
    needs_conntrack: bool  # some rule of it asks for connection tracking; without any, nat is not traversed either

    #: The uncommon matches and targets in it, some of which have state to set up (``prepare(context)``).
    callables: tuple[PythonMatch, ...] = ()
    #: Some rule of it switches accounting on for its namespace (xt_connbytes.c connbytes_mt_check).
    needs_accounting: bool = False

    def prepare(self, context: Any) -> None:
        """What loading the table makes by itself in a namespace, before any packet (``checkentry``)."""
        for function in self.callables:
            prepare = getattr(function, "prepare", None)
            if prepare is not None:
                prepare(context)

    @property
    def table_id(self) -> TableId:
        return TABLE_IDS[self.table.name]

    def initial_counters(self) -> bytes:
        """The counters that the table's text came with, ``uint64[n, 2]``."""
        pairs: list[int] = []
        chains = {chain.name: chain for chain in self.table.chains}
        for source in self.sources:
            chain = chains[source.chain]
            counters = chain.rules[source.number - 1].counters if source.number else chain.counters
            pairs += (counters.packets, counters.bytes)
        return struct.pack(f"={len(pairs)}Q", *pairs)

    def with_counters(self, pairs: Sequence[tuple[int, int]]) -> Table:
        """The table with these packets and bytes, by number of the source map (see ``Datapath.table_counters``)."""
        found = {
            (source.chain, source.number): Counters(*pair) for source, pair in zip(self.sources, pairs, strict=True)
        }
        chains = tuple(
            replace(
                chain,
                rules=tuple(
                    replace(rule, counters=found[chain.name, number]) for number, rule in enumerate(chain.rules, 1)
                ),
                counters=found[chain.name, 0] if chain.policy is not None else chain.counters,
            )
            for chain in self.table.chains
        )
        return replace(self.table, chains=chains)


TABLE_IDS = {
    "raw": TableId.RAW,
    "mangle": TableId.MANGLE,
    "nat": TableId.NAT,
    "filter": TableId.FILTER,
    "security": TableId.SECURITY,
}


@dataclass(slots=True)
class Pending:
    """A row under construction. ``on_fail`` and jumps are resolved when the whole program is known."""

    op: Op
    invert: bool = False
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0


@dataclass(slots=True)
class Builder:
    """Rows and constants of one program under construction; what the lowering functions write to."""

    family: Family
    table: str
    chain: str = ""
    number: int = 0
    hooks: frozenset[Hook] = frozenset()
    pool: bytearray = field(default_factory=bytearray)
    callables: list[PythonMatch] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    nth_slots: int = 0
    needs_conntrack: bool = False
    needs_accounting: bool = False
    _constants: dict[bytes, int] = field(default_factory=dict)

    def constant(self, data: bytes) -> int:
        """The pool offset of these bytes; equal constants share one."""
        at = self._constants.get(data)
        if at is None:
            at = self._constants[data] = len(self.pool)
            self.pool += data
        return at

    def call(self, function: PythonMatch) -> int:
        """The index of a Python callable."""
        self.callables.append(function)
        return len(self.callables) - 1

    def place(self) -> int:
        """The number of this rule's Choices place, ``table/CHAIN/number``."""
        self.places.append(f"{self.table}/{self.chain}/{self.number}")
        return len(self.places) - 1

    def refuse(self, feature: str) -> UnsupportedFeature:
        return UnsupportedFeature(feature, place=f"table {self.table}, chain {self.chain}, rule {self.number}")


MatchLowering = Callable[[Any, Builder], Iterable[Pending]]
#: By dataclass, filled by the functions below and by ``pktsim.netfilter.uncommon``.
MATCHES: dict[type[Match], MatchLowering] = {}
TARGETS: dict[type[Target], MatchLowering] = {}


def address16(address: IPv4Address | IPv6Address) -> bytes:
    """An address as the engine holds it: network order in 16 bytes."""
    return address.packed.ljust(16, b"\0")


@lru_cache(maxsize=65536)
def masked16(masked: MaskedAddress) -> bytes:
    return address16(masked.address) + address16(masked.mask)


@lru_cache(maxsize=1024)
def interface32(name: str) -> bytes:
    """Name and mask of an interface match: ``eth+`` compares the first three bytes, ``eth0`` also the final NUL."""
    raw = name.encode()
    if raw.endswith(b"+"):
        raw = raw[:-1]
        mask = b"\xff" * len(raw)
    else:
        mask = b"\xff" * min(len(raw) + 1, 16)
    return raw.ljust(16, b"\0") + mask.ljust(16, b"\0")


def _header_rows(header: HeaderMatch, builder: Builder) -> Iterable[Pending]:
    if header.protocol is not None:
        yield Pending(Op.PROTO, header.protocol_inverted, header.protocol)
    if header.dst is not None:
        yield Pending(Op.DADDR, header.dst_inverted, builder.constant(masked16(header.dst)))
    if header.src is not None:
        yield Pending(Op.SADDR, header.src_inverted, builder.constant(masked16(header.src)))
    if header.in_interface is not None:
        yield Pending(Op.IIF, header.in_interface_inverted, builder.constant(interface32(header.in_interface)))
    if header.out_interface is not None:
        yield Pending(Op.OIF, header.out_interface_inverted, builder.constant(interface32(header.out_interface)))
    if header.fragment or header.fragment_inverted:
        yield Pending(Op.FRAGMENT, header.fragment_inverted)


@dataclass(slots=True)
class _Laid:
    """A rule's rows and what the dispatcher may know of it."""

    rows: list[Pending]
    index: int  # its number in the source map
    target: Jump | None


def _lay_rule(rule: Rule, builder: Builder, index: int) -> _Laid:
    rows = list(_header_rows(rule.header, builder))
    for match in rule.matches:
        lowering = MATCHES.get(type(match))
        if lowering is None:
            raise builder.refuse(f"match {getattr(match, 'extension', type(match).__name__)}")
        rows += lowering(match, builder)
    rows.append(Pending(Op.COUNT, a=index))
    target = rule.target
    jump: Jump | None = None
    if isinstance(target, VerdictTarget):
        if target.verdict is Verdict.RETURN:
            rows.append(Pending(Op.RETURN))
        else:
            rows.append(Pending(Op.VERDICT, a=int(target.verdict is Verdict.ACCEPT)))
    elif isinstance(target, Jump):
        jump = target
        rows.append(Pending(Op.GOTO if target.goto else Op.JUMP))
    elif target is not None:
        lowering = TARGETS.get(type(target))
        if lowering is None:
            raise builder.refuse(f"target {getattr(target, 'extension', type(target).__name__)}")
        rows += lowering(target, builder)
    return _Laid(rows, index, jump)


def _dispatch_key(rule: Rule, kind: int) -> bytes | None:
    """The exact key of a rule for a run of this kind (0 destination address, 1 protocol and destination port)."""
    header = rule.header
    if kind == 0:
        if header.dst is None or header.dst_inverted or header.dst.prefix_length != header.dst.mask.max_prefixlen:
            return None
        return address16(header.dst.address)
    if header.protocol is None or header.protocol_inverted:
        return None
    for match in rule.matches:
        ports = getattr(match, "dst_ports", None)
        if ports is not None and ports.first == ports.last and not match.dst_ports_inverted:  # type: ignore[attr-defined]
            return struct.pack(">BH", header.protocol, ports.first).ljust(16, b"\0")
    return None


def _runs(chain: Chain) -> list[tuple[int, int, int]]:
    """Runs of rules worth an index: (first rule, one past the last, kind), in order, not overlapping."""
    runs: list[tuple[int, int, int]] = []
    at = 0
    rules = chain.rules
    while at < len(rules):
        best = (at, at, 0)
        for kind in (0, 1):
            end = at
            while end < len(rules) and _dispatch_key(rules[end], kind) is not None:
                end += 1
            if end > best[1]:
                best = (at, end, kind)
        if best[1] - best[0] >= DISPATCH_MIN:
            runs.append(best)
        at = max(best[1], at + 1)
    return runs


def _jump_depth(table: Table) -> int:
    """The deepest stack of jumps.

    Raises:
        RulesetSyntaxError: A chain can reach itself, which the kernel refuses too (ELOOP).
    """
    jumps = {
        chain.name: [
            (rule.target.chain, 0 if rule.target.goto else 1) for rule in chain.rules if isinstance(rule.target, Jump)
        ]
        for chain in table.chains
    }
    depths: dict[str, int] = {}
    for root in jumps:
        # an explicit stack: chains may be nested deeper than Python's own
        stack: list[tuple[str, int]] = [(root, 0)]
        open_: list[str] = []
        while stack:
            name, at = stack.pop()
            if at == 0:
                if name in depths:
                    continue
                if name in open_:
                    raise RulesetSyntaxError(
                        f"table {table.name}: chain {name} jumps to itself by way of {' -> '.join(open_)}",
                        mend="break the loop: the kernel refuses such a table with ELOOP",
                    )
                open_.append(name)
            targets = jumps[name]
            if at < len(targets):
                stack.append((name, at + 1))
                child = targets[at][0]
                if child in jumps and child not in depths:
                    stack.append((child, 0))
            else:
                depths[name] = max((depths[child] + cost for child, cost in targets if child in depths), default=0)
                open_.pop()
    return max(depths.values(), default=0)


@cache
def register_extensions() -> None:
    """Fill ``MATCHES`` and ``TARGETS``: the extensions' modules import this one, which must be whole by then."""
    for module in ("lower_extensions", "lower_sets", "uncommon_matches", "uncommon_targets"):
        import_module(f"pktsim.netfilter.{module}")


@dataclass(frozen=True, slots=True, eq=False)
class _TableKey:
    """Equal tables, cheaply hashed: hashing every rule would cost as much as lowering it."""

    table: Table

    def __hash__(self) -> int:
        chains = self.table.chains
        return hash((self.table.name, self.table.family, len(chains), sum(len(chain.rules) for chain in chains)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TableKey) and (self.table is other.table or self.table == other.table)


@lru_cache(maxsize=64)
def _compiled(key: _TableKey) -> Lowered:
    return compile_table(key.table)


def lower_table(table: Table) -> Lowered:
    """``compile_table``, but equal tables (counters aside) share one program, on whichever node they are loaded."""
    lowered = _compiled(_TableKey(table))
    return lowered if lowered.table is table else replace(lowered, table=table)


def compile_table(table: Table) -> Lowered:
    """Lower a table.

    Raises:
        UnsupportedFeature: A match or target that is not modelled, by name and place.
        RulesetSyntaxError: Jumps that loop, or to a chain that does not exist.
    """
    register_extensions()
    depth = _jump_depth(table)
    if depth > MAX_JUMP_DEPTH:
        raise UnsupportedFeature(f"jumps nested {depth} deep (at most {MAX_JUMP_DEPTH})", place=f"table {table.name}")
    builder = Builder(table.family, table.name)
    builtin = BUILTIN_CHAINS[table.name]
    reach = _hooks_reaching(table)
    sources: list[SourceRule] = []
    rows: list[tuple[int, ...]] = []
    pack_later: list[tuple[int, str]] = []  # rows that jump to a chain
    chain_rows: dict[str, int] = {}
    dispatch: Dispatches = []
    for chain in table.chains:
        builder.chain = chain.name
        builder.hooks = reach.get(chain.name, frozenset())
        chain_rows[chain.name] = len(rows)
        runs = {first: (end, kind) for first, end, kind in _runs(chain)}
        run_end = 0
        run_row = -1
        run_rules: list[tuple[bytes, int]] = []
        for number, rule in enumerate(chain.rules, start=1):
            builder.number = number
            at = number - 1
            if run_row >= 0 and at == run_end:
                _close_run(rows, run_row, run_rules, dispatch)
                run_row = -1
            if at in runs:
                run_end, kind = runs[at]
                run_row = len(rows)
                run_rules = []
                rows.append((Op.DISPATCH, 0, len(dispatch), 0, 0, 0, 0, len(sources)))
                dispatch.append((kind, {}, []))
            laid = _lay_rule(rule, builder, len(sources))
            sources.append(SourceRule(chain.name, number, rule))
            start = len(rows)
            if run_row >= 0:
                key = _dispatch_key(rule, dispatch[-1][0])
                assert key is not None
                run_rules.append((key, start))
            on_fail = run_row if run_row >= 0 else start + len(laid.rows)
            for row in laid.rows:
                if row.op in (Op.JUMP, Op.GOTO):
                    assert laid.target is not None
                    pack_later.append((len(rows), laid.target.chain))
                rows.append(
                    (row.op, int(row.invert), _i32(row.a), _i32(row.b), _i32(row.c), _i32(row.d), on_fail, laid.index)
                )
        if run_row >= 0:
            _close_run(rows, run_row, run_rules, dispatch)
        index = len(sources)
        sources.append(SourceRule(chain.name, 0, None))
        if chain.name in builtin:
            accept = int(chain.policy is not Verdict.DROP)
            rows.append((Op.POLICY, 0, accept, index, 0, 0, 0, index))
        else:
            rows.append((Op.END, 0, index, 0, 0, 0, 0, index))
    for at, name in pack_later:
        if name not in chain_rows:
            raise RulesetSyntaxError(
                f"table {table.name}: no chain {name}", token=name, mend=f"declare it with :{name} - [0:0]"
            )
        row_values = rows[at]
        rows[at] = (*row_values[:2], chain_rows[name], *row_values[3:])
    entries = [-1] * len(Hook)
    for name in builtin:
        if name in chain_rows:
            entries[_HOOKS[name]] = chain_rows[name]
    flat = [value for row_values in rows for value in row_values]
    program = Program(
        struct.pack(f"={len(flat)}i", *flat),
        bytes(builder.pool),
        entries,
        len(sources),
        builder.callables,
        builder.places,
        dispatch,
    )
    return Lowered(
        table, program, tuple(sources), builder.needs_conntrack, tuple(builder.callables), builder.needs_accounting
    )


def _close_run(
    rows: list[tuple[int, ...]],
    run_row: int,
    run_rules: list[tuple[bytes, int]],
    dispatch: Dispatches,
) -> None:
    """Now that it is known where the run ends, say so in its DISPATCH row, and file its rules."""
    row = rows[run_row]
    rows[run_row] = (*row[:3], len(rows), *row[4:])
    _, keys, every = dispatch[row[2]]
    for key, start in run_rules:
        keys.setdefault(key, []).append(start)
        every.append(start)


def _hooks_reaching(table: Table) -> dict[str, frozenset[Hook]]:
    """Which hooks a chain can be entered from."""
    jumps = {
        chain.name: {rule.target.chain for rule in chain.rules if isinstance(rule.target, Jump)}
        for chain in table.chains
    }
    reach: dict[str, set[Hook]] = {name: set() for name in jumps}
    for name in BUILTIN_CHAINS[table.name]:
        todo = [name] if name in jumps else []
        seen: set[str] = set()
        while todo:
            chain = todo.pop()
            if chain in seen:
                continue
            seen.add(chain)
            reach[chain].add(_HOOKS[name])
            todo += [child for child in jumps[chain] if child in jumps]
    return {name: frozenset(hooks) for name, hooks in reach.items()}


def _i32(value: int) -> int:
    """An unsigned 32-bit value as the row's int32."""
    return value - (1 << 32) if value >= 1 << 31 else value


def nat_range(
    addresses: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address] | None,
    ports: tuple[int, int] | None,
    *,
    base_port: int | None = None,
    flags: int = 0,
) -> bytes:
    """A NAT range as it lies in the pool: struct PoolRange. ``flags`` are ``NatFlag``s."""
    if addresses is not None:
        flags |= NatFlag.MAP_IPS
    if ports is not None:
        flags |= NatFlag.PROTO_SPECIFIED
    if base_port is not None:
        flags |= NatFlag.PROTO_OFFSET
    low, high = addresses if addresses is not None else (IPv4Address(0), IPv4Address(0))
    first, last = ports if ports is not None else (0, 0)
    return address16(low) + address16(high) + struct.pack(">3H", first, last, base_port or 0) + struct.pack("=H", flags)
