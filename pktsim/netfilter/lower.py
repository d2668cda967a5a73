"""Lowering: from a table's dataclasses to the flat program that the engine runs, with the source map beside it.

Promises: what the program does to a packet is what the table says, rule for rule, in order. A match or target without
an entry here is refused by name. Each extension has one lowering function, registered under its dataclass.
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import import_module
from ipaddress import IPv4Address, IPv6Address
from itertools import chain as chained
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

_INT32 = struct.Struct("=i")
_U32 = 0xFFFFFFFF
#: Looked up once: a table of 10,000 Services has half a million rows.
_JUMP, _GOTO, _END, _COUNT, _VERDICT = Op.JUMP, Op.GOTO, Op.END, Op.COUNT, Op.VERDICT
_PAIR = struct.Struct("=2Q")
ROW_BYTES = 32
#: Where a jump's row says which row to go to.
JUMP_TARGET = 8

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
class Image:
    """What a program was made of, and where each chain lies in it."""

    rows: bytes
    pool: bytes
    places: tuple[str, ...]
    nth_slots: int
    dispatch: tuple[tuple[int, dict[bytes, list[int]], list[int]], ...]
    placed: Mapping[str, Placed]
    totals: Totals
    ranks: Mapping[str, int]  # of each chain: more than those of the chains that it leads to
    name: object = field(default_factory=object, compare=False)
    #: The name of the image that unchanged chains were taken over from, places and all.
    before: object = field(default=None, compare=False)


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
    #: Some rule of it has fragments gathered in its namespace (xt_socket.c socket_mt_enable_defrag).
    needs_whole: bool = False
    #: What it is made of, for a table that differs little (``relower``).
    image: Image | None = field(default=None, repr=False, compare=False)

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
        """The counters that the table's text came with, ``uint64[n, 2]``; none where all are zero."""
        assert self.image is not None
        data = bytearray(16 * self.program.n_counters)
        found = False
        for chain in self.table.chains:
            at = 16 * self.image.placed[chain.name].counter
            for one in (*(rule.counters for rule in chain.rules), chain.counters):
                if one.packets or one.bytes:
                    _PAIR.pack_into(data, at, one.packets, one.bytes)
                    found = True
                at += 16
        return bytes(data) if found else b""

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
    invert: int = False  # of a match; SET_CONNMARK's shift
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
    pool: bytearray = field(default_factory=bytearray)
    callables: list[PythonMatch] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    nth_slots: int = 0
    needs_conntrack: bool = False
    needs_accounting: bool = False
    needs_whole: bool = False
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


@lru_cache(maxsize=65536)
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


#: What no packet's protocol is.
_NO_PROTOCOL = 256


def _header_rows(header: HeaderMatch, builder: Builder) -> Iterable[Pending]:
    if header.protocol is not None and builder.family is Family.IPV4:
        yield Pending(Op.PROTO, header.protocol_inverted, header.protocol)
    if header.dst is not None:
        yield Pending(Op.DADDR, header.dst_inverted, builder.constant(masked16(header.dst)))
    if header.src is not None:
        yield Pending(Op.SADDR, header.src_inverted, builder.constant(masked16(header.src)))
    if header.in_interface is not None:
        yield Pending(Op.IIF, header.in_interface_inverted, builder.constant(interface32(header.in_interface)))
    if header.out_interface is not None:
        yield Pending(Op.OIF, header.out_interface_inverted, builder.constant(interface32(header.out_interface)))
    # last (ip6_packet_match), since a packet whose headers are cut short is dropped here
    if header.protocol is not None and builder.family is Family.IPV6:
        yield Pending(Op.PROTO, header.protocol_inverted, header.protocol)
    elif header.all_protocols and builder.family is Family.IPV6:
        yield Pending(Op.PROTO, True, _NO_PROTOCOL)
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
    rows.append(Pending(_COUNT, a=index))
    target = rule.target
    jump: Jump | None = None
    if isinstance(target, VerdictTarget):
        if target.verdict is Verdict.RETURN:
            rows.append(Pending(Op.RETURN))
        else:
            rows.append(Pending(Op.VERDICT, a=int(target.verdict is Verdict.ACCEPT)))
    elif isinstance(target, Jump):
        jump = target
        rows.append(Pending(_GOTO if target.goto else _JUMP))
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
    if len(rules) < DISPATCH_MIN:
        return runs
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


def _jump_depth(table: Table) -> tuple[int, dict[str, int]]:
    """The deepest stack of jumps, and each chain's rank: one more than the highest of those that it leads to.

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
    ranks: dict[str, int] = {}
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
                ranks[name] = max((ranks[child] + 1 for child, _ in targets if child in ranks), default=0)
                open_.pop()
    return max(depths.values(), default=0), ranks


_EXTENSION_MODULES = (
    "lower_extensions",
    "lower_sets",
    "match_socket",
    "uncommon_headers",
    "uncommon_matches",
    "uncommon_state",
    "uncommon_targets",
)


@cache
def register_extensions() -> None:
    """Fill ``MATCHES`` and ``TARGETS``: the extensions' modules import this one, which must be whole by then."""
    for module in _EXTENSION_MODULES:
        import_module(f"pktsim.netfilter.{module}")


def compile_table(table: Table) -> Lowered:
    """Lower a table.

    Raises:
        UnsupportedFeature: A match or target that is not modelled, by name and place.
        RulesetSyntaxError: Jumps that loop, or to a chain that does not exist.
    """
    register_extensions()
    with without_collector():
        depth, ranks = _jump_depth(table)
    if depth > MAX_JUMP_DEPTH:
        raise UnsupportedFeature(f"jumps nested {depth} deep (at most {MAX_JUMP_DEPTH})", place=f"table {table.name}")
    with without_collector():
        layout = Layout(Builder(table.family, table.name))
        for chain in table.chains:
            layout.append(chain)
        layout.resolve(range(len(layout.jumps)))
        return layout.lowered(table, ranks)


#: So many new objects and the collector goes through all of them as soon as it may.
_MANY_OBJECTS = 250_000


@contextmanager
def without_collector() -> Iterator[None]:
    """Let no garbage be looked for meanwhile: a large table makes a million objects, none of them in a cycle.

    They are looked through once, at the end: else that would be while some later, small change is made.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_count()[0] > _MANY_OBJECTS:
                gc.collect()
            gc.enable()


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a chain's rows and counters lie in a program.

    Attributes:
        chain: As it was lowered.
        row: Its first row.
        n_rows: How many rows it has, or may have in this place.
        counter: The number of its first rule in the source map.
        n_counters: How many numbers it has, or may have in this place.
    """

    chain: Chain
    row: int
    n_rows: int
    counter: int
    n_counters: int
    needs_conntrack: bool
    needs_accounting: bool
    needs_whole: bool
    dispatches: tuple[int, ...]


@dataclass(slots=True)
class Totals:
    """Of all chains of a program: their rows, and how many chains need tracking, accounting or whole packets."""

    rows: int = 0
    conntrack: int = 0
    accounting: int = 0
    whole: int = 0

    def add(self, place: Placed, times: int = 1) -> None:
        """Count a chain, or with -1 no longer."""
        self.rows += times * place.n_rows
        self.conntrack += times * place.needs_conntrack
        self.accounting += times * place.needs_accounting
        self.whole += times * place.needs_whole


#: What a number of the source map stands for that no rule has any more.
NO_SOURCE = SourceRule("", 0, None)


@dataclass(slots=True)
class Layout:
    """A program under construction: chains one behind the other, or put in the place of others (see ``relower``)."""

    builder: Builder
    rows: bytearray = field(default_factory=bytearray)  # int32[n, ROW_WIDTH]
    sources: list[SourceRule] = field(default_factory=list)
    dispatch: Dispatches = field(default_factory=list)
    placed: dict[str, Placed] = field(default_factory=dict)
    jumps: list[tuple[int, str]] = field(default_factory=list)  # rows that jump, and where to
    totals: Totals = field(default_factory=Totals)

    def append(self, chain: Chain) -> None:
        """Put a chain behind all others."""
        self.put(chain, len(self.rows) // ROW_BYTES, len(self.sources))

    def put(self, chain: Chain, row: int, counter: int, room: Placed | None = None) -> bool:
        """Lower a chain to rows from ``row`` on, counted from ``counter`` on.

        Args:
            chain: The chain.
            row: Where its rows begin.
            counter: Where its counters begin.
            room: The place that it has to fit in; else it comes last.

        Returns:
            Whether it fits; if not, nothing has changed that anybody sees.
        """
        builder = self.builder
        builder.chain = chain.name
        builder.needs_conntrack = builder.needs_accounting = builder.needs_whole = False
        first_dispatch, first_jump = len(self.dispatch), len(self.jumps)
        rows, sources = self._chain_rows(chain, row, counter)
        n_rows, n_counters = len(rows), len(sources)
        if room is not None:
            if n_rows > room.n_rows or n_counters > room.n_counters:
                del self.dispatch[first_dispatch:]
                del self.jumps[first_jump:]
                return False
            # what is left of the place is never reached, but the engine wants valid rows
            rows += [rows[-1]] * (room.n_rows - n_rows)
            sources += [NO_SOURCE] * (room.n_counters - n_counters)
            n_rows, n_counters = room.n_rows, room.n_counters
            self.totals.add(room, -1)
        flat = list(chained.from_iterable(rows))
        self.rows[row * ROW_BYTES : (row + n_rows) * ROW_BYTES] = struct.pack(f"={len(flat)}I", *flat)
        self.sources[counter : counter + n_counters] = sources
        place = self.placed[chain.name] = Placed(
            chain,
            row,
            n_rows,
            counter,
            n_counters,
            builder.needs_conntrack,
            builder.needs_accounting,
            builder.needs_whole,
            tuple(range(first_dispatch, len(self.dispatch))),
        )
        self.totals.add(place)
        return True

    def _chain_rows(self, chain: Chain, base: int, counter: int) -> tuple[list[tuple[int, ...]], list[SourceRule]]:
        """A chain's rows, the first of which is row ``base`` of the program, and what its counters stand for."""
        builder = self.builder
        rows: list[tuple[int, ...]] = []
        sources: list[SourceRule] = []
        runs = {first: (end, kind) for first, end, kind in _runs(chain)}
        run_end = 0
        run_row = -1
        run_rules: list[tuple[bytes, int]] = []
        for number, rule in enumerate(chain.rules, start=1):
            builder.number = number
            at = number - 1
            index = counter + at
            if run_row >= 0 and at == run_end:
                _close_run(rows, base, run_row, run_rules, self.dispatch)
                run_row = -1
            if at in runs:
                run_end, kind = runs[at]
                run_row = base + len(rows)
                run_rules = []
                rows.append((Op.DISPATCH, 0, len(self.dispatch), 0, 0, 0, 0, index))
                self.dispatch.append((kind, {}, []))
            laid = _lay_rule(rule, builder, index)
            sources.append(SourceRule(chain.name, number, rule))
            start = base + len(rows)
            if run_row >= 0:
                key = _dispatch_key(rule, self.dispatch[-1][0])
                assert key is not None
                run_rules.append((key, start))
            on_fail = run_row if run_row >= 0 else start + len(laid.rows)
            for row in laid.rows:
                op = row.op
                if op is _JUMP or op is _GOTO:
                    assert laid.target is not None
                    self.jumps.append((base + len(rows), laid.target.chain))
                rows.append(
                    (op, row.invert & _U32, row.a & _U32, row.b & _U32, row.c & _U32, row.d & _U32, on_fail, laid.index)
                )
        if run_row >= 0:
            _close_run(rows, base, run_row, run_rules, self.dispatch)
        index = counter + len(sources)
        sources.append(SourceRule(chain.name, 0, None))
        if chain.name in BUILTIN_CHAINS[builder.table]:
            accept = int(chain.policy is not Verdict.DROP)
            rows.append((Op.POLICY, 0, accept, index, 0, 0, 0, index))
        else:
            rows.append((_END, 0, index, 0, 0, 0, 0, index))
        return rows, sources

    def vacate(self, place: Placed) -> None:
        """Nobody is at a place any more: its rows lead nowhere, its numbers stand for nothing."""
        self.totals.add(place, -1)
        row = struct.pack("=8i", Op.END, 0, place.counter, 0, 0, 0, 0, place.counter)
        self.rows[place.row * ROW_BYTES : (place.row + place.n_rows) * ROW_BYTES] = row * place.n_rows
        self.sources[place.counter : place.counter + place.n_counters] = [NO_SOURCE] * place.n_counters
        for number in place.dispatches:
            self.dispatch[number] = (self.dispatch[number][0], {}, [])

    def resolve(self, which: Iterable[int]) -> None:
        """Lead these jumps to where their chains are now.

        Raises:
            RulesetSyntaxError: There is no such chain.
        """
        for number in which:
            row, name = self.jumps[number]
            place = self.placed.get(name)
            if place is None:
                raise RulesetSyntaxError(
                    f"table {self.builder.table}: no chain {name}", token=name, mend=f"declare it with :{name} - [0:0]"
                )
            _INT32.pack_into(self.rows, row * ROW_BYTES + JUMP_TARGET, place.row)

    def lowered(self, table: Table, ranks: Mapping[str, int], before: object = None) -> Lowered:
        """The program as it is now."""
        entries = [-1] * len(Hook)
        for name in BUILTIN_CHAINS[table.name]:
            if name in self.placed:
                entries[_HOOKS[name]] = self.placed[name].row
        builder = self.builder
        rows, pool = bytes(self.rows), bytes(builder.pool)
        program = Program(rows, pool, entries, len(self.sources), builder.callables, builder.places, self.dispatch)
        return Lowered(
            table,
            program,
            tuple(self.sources),
            self.totals.conntrack > 0,
            tuple(builder.callables),
            self.totals.accounting > 0,
            self.totals.whole > 0,
            Image(
                rows,
                pool,
                tuple(builder.places),
                builder.nth_slots,
                tuple(self.dispatch),
                self.placed,
                self.totals,
                ranks,
                before=before,
            ),
        )


def _close_run(
    rows: list[tuple[int, ...]],
    base: int,
    run_row: int,
    run_rules: list[tuple[bytes, int]],
    dispatch: Dispatches,
) -> None:
    """Now that it is known where the run ends, say so in its DISPATCH row, and file its rules."""
    row = rows[run_row - base]
    rows[run_row - base] = (*row[:3], base + len(rows), *row[4:])
    _, keys, every = dispatch[row[2]]
    for key, start in run_rules:
        keys.setdefault(key, []).append(start)
        every.append(start)


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
