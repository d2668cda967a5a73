"""Lowering nft tables to the flat programs that the engine runs, with the source map beside them.

A rule's statements become rows one for one, as nft makes netlink expressions of them (src/netlink_linearize.c of
nftables 1.0.6); each row knows where to go on when the rule does not match. What has a state outlives the program: sets
and the states of rules are objects of their own (:mod:`pktsim.netfilter.nft_runtime`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pktsim._fastpath import NftSet as EngineSet
from pktsim._fastpath import Program
from pktsim.fidelity import approximated
from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_elements import bounds
from pktsim.netfilter.nft_fields import CT, PROTOCOLS
from pktsim.netfilter.nft_lower_expressions import (
    COUNTER,
    FIRST,
    FOURTH,
    LIMIT_BYTES,
    LIMIT_PACKETS,
    QUOTA,
    SECOND,
    THIRD,
    ExpressionBuilder,
    NftSource,
    State,
    element_size,
)
from pktsim.netfilter.nft_ruleset import (
    AnonymousSet,
    Assign,
    Binop,
    Concat,
    Const,
    Counter,
    Ct,
    CtCount,
    Expr,
    Hash,
    JoinedMatch,
    Limit,
    Log,
    MapLookup,
    MatchStatement,
    Meta,
    Nat,
    NftChain,
    NftFamily,
    NftRule,
    NftSet,
    NftTable,
    Notrack,
    Numgen,
    ObjectRef,
    Payload,
    Prefix,
    Quota,
    Range,
    Reject,
    SetRef,
    SetUpdate,
    Statement,
    TcpOption,
    VerdictMap,
    VerdictStatement,
    VerdictValue,
    Wildcard,
    concat_parts,
)
from pktsim.netfilter.opcodes import CtKey, Hook, NatFlag, Op
from pktsim.netfilter.ruleset import Family
from pktsim.netfilter.targets.reject import Reject6With, RejectWith

approximated(
    "netfilter.nft.log",
    "log statements let the packet go on and write nothing (the explanation of a packet says that it met them)",
    source="net/netfilter/nft_log.c",
)

_U32: Final = 0xFFFFFFFF
_COMPARISONS: Final = {"==": 0, "!=": 1, "<": 2, "<=": 3, ">": 4, ">=": 5}
#: What the engine calls what a verdict map leads to (includes/types.pxi).
VERDICT_CODES: Final = {"continue": 1, "accept": 2, "drop": 3, "jump": 5, "goto": 6, "return": 7}
_UNIT_S: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_NS_PER_S: Final = 1_000_000_000
_SET_HASH, _SET_INTERVAL, _SET_BOXES = 0, 1, 2

#: Header fields that may be written without anything else having to change.
WRITABLE_FIELDS: Final = {
    "ip": frozenset({"dscp", "ecn", "ttl", "id", "saddr", "daddr"}),
    "ip6": frozenset({"dscp", "ecn", "flowlabel", "hoplimit", "saddr", "daddr"}),
    "tcp": frozenset({"sport", "dport", "sequence", "ackseq", "flags", "window", "urgptr"}),
    "udp": frozenset({"sport", "dport", "checksum"}),
    "sctp": frozenset({"sport", "dport", "vtag"}),
    "icmp": frozenset({"code", "id", "sequence"}),
    "icmpv6": frozenset({"code", "id", "sequence"}),
}
approximated(
    "netfilter.nft.daddr",
    "what gets another destination behind routing goes to that neighbour; what a raw socket has sent, Linux gives to "
    "the first one",
    source="net/ipv4/route.c rt_set_nexthop, FLOWI_FLAG_KNOWN_NH",
)
_REJECT4: Final = {
    0: RejectWith.ICMP_NET_UNREACHABLE,
    1: RejectWith.ICMP_HOST_UNREACHABLE,
    2: RejectWith.ICMP_PROT_UNREACHABLE,
    3: RejectWith.ICMP_PORT_UNREACHABLE,
    9: RejectWith.ICMP_NET_PROHIBITED,
    10: RejectWith.ICMP_HOST_PROHIBITED,
    13: RejectWith.ICMP_ADMIN_PROHIBITED,
}
_REJECT6: Final = {
    0: Reject6With.ICMP6_NO_ROUTE,
    1: Reject6With.ICMP6_ADM_PROHIBITED,
    3: Reject6With.ICMP6_ADDR_UNREACHABLE,
    4: Reject6With.ICMP6_PORT_UNREACHABLE,
    5: Reject6With.ICMP6_POLICY_FAIL,
    6: Reject6With.ICMP6_REJECT_ROUTE,
}
#: ``nft_reject_icmp_code`` and ``nft_reject_icmpv6_code``.
_REJECTX: Final = {
    0: (RejectWith.ICMP_NET_UNREACHABLE, Reject6With.ICMP6_NO_ROUTE),
    1: (RejectWith.ICMP_PORT_UNREACHABLE, Reject6With.ICMP6_PORT_UNREACHABLE),
    2: (RejectWith.ICMP_HOST_UNREACHABLE, Reject6With.ICMP6_ADDR_UNREACHABLE),
    3: (RejectWith.ICMP_ADMIN_PROHIBITED, Reject6With.ICMP6_ADM_PROHIBITED),
}
_NAT_KINDS: Final = {"snat": 0, "dnat": 1, "masquerade": 2, "redirect": 3}
_NAT_FLAGS: Final = {
    "random": NatFlag.PROTO_RANDOM,
    "fully-random": NatFlag.PROTO_RANDOM_FULLY,
    "persistent": NatFlag.PERSISTENT,
}


@dataclass(frozen=True, slots=True)
class LoweredNft:
    """A table's program.

    Attributes:
        table: What it was made of.
        sources: By the numbers in its rows.
        states: The first values of its states, and whose each is: an object's kind and name, or a rule's handle and the
            number of its statement.
        sets: The names of its sets, or the handle of the rule that has the anonymous one and its number there.
        chain_rows: int32 of each chain's first row, by chain number.
        bases: Base chains: name and first row.
        conntrack: The families whose connections its rules want tracked.
    """

    table: NftTable
    program: Program
    sources: tuple[NftSource, ...]
    states: tuple[tuple[tuple[Any, ...], State], ...]
    sets: tuple[Any, ...]
    chain_rows: bytes
    bases: tuple[tuple[NftChain, int], ...]
    chain_names: Mapping[int, str]
    conntrack: frozenset[Family]
    needs_accounting: bool


def field_sizes(bits: Sequence[int]) -> list[int]:
    """Bytes of each field of a set's key: filled up to four if there are several."""
    sizes = [(one + 7) // 8 for one in bits]
    return sizes if len(sizes) == 1 else [-(-size // 4) * 4 for size in sizes]


def data_bytes(data: Expr | None, chains: Mapping[str, int], size: int) -> bytes:
    """What an element leads to, as the engine holds it."""
    if isinstance(data, VerdictValue):
        return struct.pack("=2i", VERDICT_CODES[data.kind], chains.get(data.chain, -1))
    if data is None:
        return bytes(size)
    low, high = b"", b""
    parts = concat_parts(data)
    for part in parts:
        first, last = bounds(part)
        width = -(-len(first) // 4) * 4 if len(parts) > 1 else len(first)
        low, high = low + first.ljust(width, b"\0"), high + last.ljust(width, b"\0")
    return (low + high if size == 2 * len(low) and size != len(low) else low).ljust(size, b"\0")


def key_bytes(key: Expr, sizes: Sequence[int]) -> tuple[bytes | None, bytes | None]:
    """The least and the greatest key that an element covers; None: everything else."""
    if isinstance(key, Wildcard):
        return None, None
    low, high = b"", b""
    for part, size in zip(concat_parts(key), sizes, strict=True):
        first, last = bounds(part)
        low += first.ljust(size, b"\0")
        high += last.ljust(size, b"\0")
    return low, high


def state_of(statement: Statement, now_ns: int) -> State:
    """The first value of a stateful statement: (kind, invert, a, b, c, d, last_ns)."""
    if isinstance(statement, Counter):
        return (COUNTER, 0, statement.packets, statement.bytes, 0, 0, 0)
    if isinstance(statement, Quota):
        return (QUOTA, int(statement.over), statement.used, statement.bytes, 0, 0, 0)
    assert isinstance(statement, Limit)
    # nft_limit_init: the bucket holds nanoseconds
    unit = _UNIT_S[statement.unit] * _NS_PER_S
    if statement.by_bytes:
        tokens = unit * (statement.rate + statement.burst) // statement.rate
        return (LIMIT_BYTES, int(statement.over), tokens, tokens, unit, statement.rate, now_ns)
    cost = unit // statement.rate
    tokens = cost * (statement.burst or 5)
    return (LIMIT_PACKETS, int(statement.over), tokens, tokens, cost, statement.rate, now_ns)


def _expressions(statement: Statement) -> Iterable[Expr | None]:
    if isinstance(statement, MatchStatement):
        return (statement.left,)
    if isinstance(statement, VerdictMap):
        return (statement.key,)
    if isinstance(statement, Assign):
        return (statement.value,)
    if isinstance(statement, Nat):
        return (statement.address, statement.port)
    if isinstance(statement, SetUpdate):
        return (statement.key, statement.data)
    return ()


def _states_of(expr: Expr | None) -> int:
    if isinstance(expr, Numgen):
        return int(expr.mode == "inc")
    if isinstance(expr, Hash):
        return int(expr.source is not None and expr.seed is None) + _states_of(expr.source)
    if isinstance(expr, Binop):
        return _states_of(expr.left)
    if isinstance(expr, MapLookup):
        return _states_of(expr.key)
    if isinstance(expr, Concat):
        return sum(_states_of(part) for part in expr.parts)
    return 0


def states_in(statement: Statement) -> int:
    """How many states of its own a statement has in a program."""
    if isinstance(statement, (Counter, Limit, Quota)):
        return 1
    return sum(_states_of(expr) for expr in _expressions(statement))


def set_kind(*, interval: bool, n_fields: int) -> int:
    """How the engine keeps a set."""
    if not interval:
        return _SET_HASH
    return _SET_BOXES if n_fields > 1 else _SET_INTERVAL


@dataclass(slots=True)
class NftBuilder(ExpressionBuilder):
    """A table's program under construction, rule by rule.

    Attributes:
        now_ns: When limits begin to count.
    """

    now_ns: int = 0
    needs_accounting: bool = False
    _objects: dict[tuple[str, str], int] = field(default_factory=dict)
    _jumps: list[tuple[int, str]] = field(default_factory=list)

    # ------------------------------------------------------------------------------------------------------------ table

    def lower(self) -> LoweredNft:
        """The whole table."""
        table = self.table
        for one in table.objects:
            self._objects[one.kind, one.name] = len(self.states)
            self.states.append((("object", one.kind, one.name), state_of(one.state, self.now_ns)))
        first_rows: dict[str, int] = {}
        bases: list[tuple[NftChain, int]] = []
        for chain in table.chains:
            first_rows[chain.name] = len(self.rows)
            if chain.base is not None:
                bases.append((chain, len(self.rows)))
            self._lower_chain(chain)
        for row, name in self._jumps:
            self.rows[row][2] = first_rows[name]
        n_chains = max(self.chains.values(), default=-1) + 1
        by_number = [-1] * n_chains
        for name, row in first_rows.items():
            by_number[self.chains[name]] = row
        flat = [value & _U32 for row in self.rows for value in row]
        if not self.rows:
            flat = [int(Op.RETURN), 0, 0, 0, 0, 0, 0, 0]
        program = Program(
            struct.pack(f"={len(flat)}I", *flat),
            bytes(self.pool) + bytes(64),
            [-1] * len(Hook),
            1,
            (),
            self.places,
            (),
            n_sets=len(self.sets),
            n_states=len(self.states),
            n_chains=n_chains,
        )
        return LoweredNft(
            table,
            program,
            tuple(self.sources),
            tuple(self.states),
            tuple(self.sets),
            struct.pack(f"={n_chains}i", *by_number),
            tuple(bases),
            {self.chains[chain.name]: chain.name for chain in table.chains},
            frozenset(self.conntrack),
            self.needs_accounting,
        )

    def _lower_chain(self, chain: NftChain) -> None:
        self._chain = chain.name
        for number, rule in enumerate(chain.rules, 1):
            self._rule, self._number = rule, number
            self._state_number = self._set_number = 0
            first = len(self.rows)
            self._lower_rule(rule)
            for row in self.rows[first:]:
                row[6] = len(self.rows)
            self.sources.append(NftSource(chain.name, number, rule))
        if chain.base is not None:
            self.emit(Op.POLICY, a=int(chain.base.policy == "accept"))
        else:
            self.emit(Op.END)
        self.sources.append(NftSource(chain.name, 0, None))

    def _lower_rule(self, rule: NftRule) -> None:
        matched = False
        for statement in rule.statements:
            if isinstance(statement, (VerdictStatement, Reject)):
                self.emit(Op.NFT_MATCHED)
                matched = True
            self._statement(statement)
        if not matched:
            self.emit(Op.NFT_MATCHED)

    # ------------------------------------------------------------------------------------------------------- statements

    def _statement(self, statement: Statement) -> None:
        if isinstance(statement, MatchStatement):
            self._match(statement)
        elif isinstance(statement, JoinedMatch):
            self._joined(statement)
        elif isinstance(statement, VerdictMap):
            self.load(statement.key)
            self.emit(Op.NFT_LOOKUP, a=self.set_index(statement.map, 8), b=-2, d=FIRST)
        elif isinstance(statement, VerdictStatement):
            self._verdict(statement.verdict)
        elif isinstance(statement, (Counter, Limit, Quota)):
            self.emit(Op.NFT_STATE, a=self.state(state_of(statement, self.now_ns)))
        elif isinstance(statement, ObjectRef):
            self.emit(Op.NFT_STATE, a=self._objects[statement.kind, statement.name])
        elif isinstance(statement, CtCount):
            raise self.refuse("nft statement ct count")
        elif isinstance(statement, Log):
            pass
        elif isinstance(statement, Notrack):
            self.emit(Op.NOTRACK)
        elif isinstance(statement, Reject):
            self._reject(statement)
        elif isinstance(statement, Nat):
            self._nat(statement)
        elif isinstance(statement, Assign):
            self._assign(statement)
        else:
            assert isinstance(statement, SetUpdate), statement
            self._set_update(statement)

    def _verdict(self, verdict: VerdictValue) -> None:
        if verdict.kind in ("accept", "drop"):
            self.emit(Op.VERDICT, a=int(verdict.kind == "accept"))
        elif verdict.kind == "return":
            self.emit(Op.RETURN)
        elif verdict.kind in ("jump", "goto"):
            self._jumps.append((len(self.rows), verdict.chain))
            self.emit(Op.JUMP if verdict.kind == "jump" else Op.GOTO)

    def _match(self, statement: MatchStatement) -> None:
        left, op, right = statement.left, statement.op, statement.right
        size = self.load(left)
        if isinstance(right, (AnonymousSet, SetRef)):
            self.emit(Op.NFT_LOOKUP, invert=int(op == "!="), a=self.set_index(right), b=-1, d=FIRST)
        elif isinstance(right, Const):
            if len(right.data) != size:
                raise self.refuse(f"nft comparison of {size} bytes with {len(right.data)}")
            if op in ("", "!"):
                self.bitwise(right.number, 0, size, FIRST)
                self._compare("!=" if op == "" else "==", bytes(size))
            else:
                self._compare(op, right.data)
        elif isinstance(right, Prefix):
            self._match_prefix(right, op, size)
        else:
            assert isinstance(right, Range)
            low, high = right.low.data, right.high.data
            if op == "!=":
                self.emit(Op.NFT_RANGE, a=self.constant(low + high), b=1, c=size, d=FIRST)
            else:
                self._compare(">=", low)
                self._compare("<=", high)

    def _compare(self, op: str, data: bytes, at: int = FIRST) -> None:
        self.emit(Op.NFT_CMP, a=self.constant(data), b=_COMPARISONS[op], c=len(data), d=at)

    def _match_prefix(self, right: Prefix, op: str, size: int) -> None:
        if right.length % 8 == 0 and right.length:
            self._compare(op, right.value.data[: right.length // 8])
            return
        width = right.value.width
        mask = ((1 << width) - 1) >> right.length ^ ((1 << width) - 1)
        self.bitwise(mask, 0, size, FIRST)
        self._compare(op, right.value.data)

    def _joined(self, statement: JoinedMatch) -> None:
        """Adjacent fields loaded and compared at once."""
        first = statement.parts[0].left
        assert isinstance(first, Payload)
        data = b""
        for part in statement.parts:
            assert isinstance(part.right, Const)
            data += part.right.data
        self.emit(Op.NFT_PAYLOAD, a=int(first.header), b=first.header_field.offset // 8, c=len(data), d=FIRST)
        self._compare("!=", data)

    def _reject(self, statement: Reject) -> None:
        code = statement.code
        if statement.kind == "tcp reset":
            kinds: tuple[int, int] = (RejectWith.TCP_RESET, Reject6With.TCP_RESET)
        elif statement.kind == "icmpx":
            kinds = _REJECTX[code]
        elif statement.kind == "icmp":
            if code not in _REJECT4:
                raise self.refuse(f"nft statement reject with icmp code {code}")
            kinds = (_REJECT4[code], -1)
        else:
            if code not in _REJECT6:
                raise self.refuse(f"nft statement reject with icmpv6 code {code}")
            kinds = (-1, _REJECT6[code])
        self.emit(Op.NFT_REJECT, a=int(kinds[0]), b=int(kinds[1]))

    def _nat(self, statement: Nat) -> None:
        registers = [-1, -1, -1, -1]
        flags = NatFlag(0)
        for flag in statement.flags:
            flags |= _NAT_FLAGS[flag]
        address, port = statement.address, statement.port
        # nft_nat_init: of an address's family, not the table's
        of_one = address is not None and statement.family
        self.conntrack.update(NftFamily(statement.family if of_one else self.table.family.value).families)
        if address is not None:
            self._nat_address(statement, address, registers)
        if port is not None:
            registers[2] = registers[3] = THIRD
            if isinstance(port, Range):
                self.load(port.low, THIRD)
                self.load(port.high, FOURTH)
                registers[3] = FOURTH
            else:
                self.load(port, THIRD)
        family = (
            {"ip": int(Family.IPV4), "ip6": int(Family.IPV6)}.get(statement.family, 0) if address is not None else 0
        )
        self.emit(Op.NFT_MATCHED)
        self.emit(
            Op.NFT_NAT,
            a=_NAT_KINDS[statement.kind],
            b=family,
            c=int(flags),
            d=self.constant(struct.pack("=4i", *registers)),
        )

    def _nat_address(self, statement: Nat, address: Expr, registers: list[int]) -> None:
        registers[0] = registers[1] = FIRST
        width = 16 if statement.family == "ip6" else 4
        if isinstance(address, (Range, Prefix)):
            low, high = bounds(address)
            self.load(Const(low, address.datatype, address.bits), FIRST)
            self.load(Const(high, address.datatype, address.bits), SECOND)
            registers[1] = SECOND
            return
        size = self.load(address, FIRST)
        if not isinstance(address, MapLookup):
            return
        several = address.result.bits > 8 * width
        if several:
            registers[2] = registers[3] = FIRST + width
        elif size == 2 * width:
            registers[1] = FIRST + width

    def _assign(self, statement: Assign) -> None:
        target, value = statement.target, statement.value
        if isinstance(target, Payload):
            self._assign_payload(target, value)
            return
        size = self.load(value)
        if isinstance(target, Meta):
            if size != 4:
                raise self.refuse(f"nft statement meta mark set to a value of {size} bytes")
            self.emit(Op.NFT_SET_META, a=FIRST)
        elif isinstance(target, Ct):
            self.conntrack.update(self.table.family.families)
            key = CT[target.key][0]
            if size != (4 if key == CtKey.MARK else 2):
                raise self.refuse(f"nft statement ct {target.key} set to a value of {size} bytes")
            zone = {"": 3, "original": 1, "reply": 2}[target.direction]
            self.emit(Op.NFT_SET_CT, a=FIRST, b=key, c=zone)
        else:
            assert isinstance(target, TcpOption)
            if size != 2:
                raise self.refuse(f"nft statement tcp option set to a value of {size} bytes")
            self.emit(Op.NFT_SET_MSS, a=FIRST)

    def _assign_payload(self, target: Payload, value: Expr) -> None:
        """nft widens what is not whole bytes, and what begins at an odd offset of a header with a checksum
        (``stmt_evaluate_payload``)."""
        if target.field not in WRITABLE_FIELDS.get(target.protocol, ()):
            raise self.refuse(f"nft statement {self._field_name(target)} set")
        desc, where = PROTOCOLS[target.protocol], target.header_field
        first, last = where.offset // 8, (where.offset + where.bits + 7) // 8
        whole = where.offset % 8 == 0 and where.bits % 8 == 0
        if desc.checksum >= 0:
            first, last = first - first % 2, last + last % 2
        size = last - first
        flags = 0
        if target.protocol in ("ip", "ip6") and target.field in ("saddr", "daddr"):
            flags |= 1
        if target.protocol == "sctp":
            flags |= 2
        if whole and size == where.bits // 8:
            if self.load(value) != size:
                raise self.refuse(f"nft statement {self._field_name(target)} set to a value of another size")
        else:
            if not isinstance(value, Const):
                raise self.refuse(f"nft statement {self._field_name(target)} set to a value of the packet")
            shift = 8 * last - (where.offset + where.bits)
            mask = ((1 << where.bits) - 1) << shift
            self.emit(Op.NFT_PAYLOAD, a=int(desc.base), b=first, c=size, d=FIRST)
            self.bitwise(~mask & ((1 << 8 * size) - 1), value.number << shift, size, FIRST)
        self.emit(Op.NFT_SET_PAYLOAD, a=int(desc.base) | FIRST << 8, b=first, c=size, d=desc.checksum + 1 | flags << 16)

    @staticmethod
    def _field_name(target: Payload) -> str:
        return f"{target.protocol} {target.field}" if target.protocol else "raw payload"

    def _set_update(self, statement: SetUpdate) -> None:
        if any(isinstance(one, CtCount) for one in statement.statements):
            raise self.refuse("nft statement ct count")
        self.load(statement.key)
        data = -1
        if statement.data is not None:
            data = SECOND
            self.load(statement.data, SECOND)
        op = {"add": 0, "update": 1, "delete": 2}[statement.op]
        numbers = self.constant(struct.pack("=qi", statement.timeout_ms * 1_000_000, op))
        self.emit(Op.NFT_DYNSET, a=self.set_index(SetRef(statement.set)), b=data, c=numbers, d=FIRST)


def make_engine_set(
    key_bits: Sequence[int],
    *,
    interval: bool,
    data_size: int,
    timeout_ns: int = 0,
    size: int = 0,
    states: Iterable[Statement] = (),
) -> EngineSet:
    """An empty set in the engine."""
    sizes = field_sizes(key_bits)
    templates = [state_of(statement, 0)[:6] for statement in states]
    kind = set_kind(interval=interval, n_fields=len(sizes))
    return EngineSet(kind, sizes, data_size, timeout_ns=timeout_ns, size=size, states=templates)


def set_data_size(one: NftSet) -> int:
    """Bytes of what a named map's elements lead to."""
    if not one.data_types:
        return 0
    if one.data_types == (t.VERDICT,):
        return 8
    sizes = [element_size(datatype, 0) for datatype in one.data_types]
    return sizes[0] if len(sizes) == 1 else sum(-(-size // 4) * 4 for size in sizes)
