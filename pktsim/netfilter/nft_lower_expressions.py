"""Lowering nft's expressions: how a value of the packet, of the kernel or of a rule comes into a register.

As nft makes netlink expressions of them (src/netlink_linearize.c of nftables 1.0.6).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pktsim._fastpath import NftSet as EngineSet
from pktsim.errors import UnsupportedFeature
from pktsim.fidelity import approximated
from pktsim.netfilter.nft_fields import CT, EXTENSION_HEADERS, FIB_FLAGS, FIB_RESULTS, META, TCP_OPTIONS
from pktsim.netfilter.nft_ruleset import (
    AnonymousSet,
    Binop,
    Concat,
    Const,
    Ct,
    Expr,
    ExtensionHeader,
    Fib,
    Hash,
    MapLookup,
    Meta,
    NftRule,
    NftTable,
    Numgen,
    Payload,
    Prefix,
    Range,
    Rt,
    SetRef,
    TcpOption,
    concat_parts,
)
from pktsim.netfilter.nft_types import Base, Datatype
from pktsim.netfilter.opcodes import CtKey, Op
from pktsim.netfilter.ruleset import Family

approximated(
    "netfilter.nft.symhash",
    "symhash is a function of addresses, protocol and ports; Linux's has a key that is drawn when it boots",
    source="net/core/flow_dissector.c __skb_get_hash_symmetric",
)
approximated(
    "netfilter.nft.iif",
    "at POSTROUTING, what a raw socket has sent came in by no interface; Linux takes the outgoing one for that",
    source="net/ipv4/raw.c raw_send_hdrinc, net/ipv4/ip_output.c ip_output",
)

#: Kinds of states (includes/types.pxi).
COUNTER, LIMIT_PACKETS, LIMIT_BYTES, QUOTA, NUMGEN, SEED = 1, 2, 3, 4, 5, 6
#: Registers: a key or a value lies at the first, what is looked up by it and ends of ranges behind.
FIRST, SECOND, THIRD, FOURTH = 0, 64, 80, 96

State = tuple[int, int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class NftSource:
    """What a rule number of a program stands for; number 0 is the end of the chain."""

    chain: str
    number: int
    rule: NftRule | None


def element_size(datatype: Datatype, bits: int) -> int:
    """Bytes of a value in a register."""
    return ((bits or datatype.bits) + 7) // 8


@dataclass(slots=True)
class ExpressionBuilder:
    """A program under construction: its rows so far, and how a value comes into a register.

    Attributes:
        table: What is lowered.
        chains: The number of each chain.
        anonymous: Makes, or finds again, the engine's set of an anonymous one: (rule, number within it, set, bytes of
            data).
        conntrack: The families whose connections the rules want tracked.
    """

    table: NftTable
    chains: Mapping[str, int]
    anonymous: Callable[[NftRule, int, AnonymousSet, int], EngineSet]
    rows: list[list[int]] = field(default_factory=list)
    pool: bytearray = field(default_factory=bytearray)
    places: list[str] = field(default_factory=list)
    sources: list[NftSource] = field(default_factory=list)
    states: list[tuple[tuple[Any, ...], State]] = field(default_factory=list)
    sets: list[Any] = field(default_factory=list)
    conntrack: set[Family] = field(default_factory=set)
    needs_accounting: bool = False
    _constants: dict[bytes, int] = field(default_factory=dict)
    _named: dict[str, int] = field(default_factory=dict)
    _rule: NftRule = field(default_factory=lambda: NftRule(()))
    _number: int = 0
    _chain: str = ""
    _state_number: int = 0
    _set_number: int = 0

    def refuse(self, feature: str) -> UnsupportedFeature:
        where = f"table {self.table.family.value} {self.table.name}, chain {self._chain}, rule {self._number}"
        return UnsupportedFeature(feature, place=where)

    def constant(self, data: bytes) -> int:
        at = self._constants.get(data)
        if at is None:
            at = self._constants[data] = len(self.pool)
            self.pool += data
        return at

    def emit(self, op: Op, *, invert: int = 0, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
        self.rows.append([int(op), invert, a, b, c, d, -1, len(self.sources)])

    def state(self, first: State) -> int:
        """A state of the rule being lowered."""
        self.states.append((("rule", self._rule.handle, self._state_number), first))
        self._state_number += 1
        return len(self.states) - 1

    def set_index(self, which: Expr, data_size: int = 0) -> int:
        """The number of a set in this program."""
        if isinstance(which, SetRef):
            at = self._named.get(which.name)
            if at is None:
                at = self._named[which.name] = len(self.sets)
                self.sets.append(which.name)
            return at
        assert isinstance(which, AnonymousSet)
        self.sets.append(self.anonymous(self._rule, self._set_number, which, data_size))
        self._set_number += 1
        return len(self.sets) - 1

    # ------------------------------------------------------------------------------------------------------ expressions

    def load(self, expr: Expr, at: int = FIRST) -> int:
        """Put a value into a register. Returns its size in bytes."""
        if isinstance(expr, Payload):
            where = expr.header_field
            base = int(expr.header)
            if where.offset % 8 == 0 and where.bits % 8 == 0:
                self.emit(Op.NFT_PAYLOAD, a=base, b=where.offset // 8, c=where.bits // 8, d=at)
            else:
                self.emit(Op.NFT_BITS, a=base, b=where.offset, c=where.bits, d=at)
            return (where.bits + 7) // 8
        if isinstance(expr, (ExtensionHeader, TcpOption)):
            return self._load_option(expr, at)
        if isinstance(expr, Meta):
            key, _, bits = META[expr.key]
            self.emit(Op.NFT_META, a=key, d=at)
            return bits // 8
        if isinstance(expr, Ct):
            return self._load_ct(expr, at)
        if isinstance(expr, Fib):
            result, _, bits = FIB_RESULTS[expr.result]
            self.emit(Op.NFT_FIB, a=sum(FIB_FLAGS[flag] for flag in expr.flags), b=result, c=int(expr.present), d=at)
            return 1 if expr.present else bits // 8
        if isinstance(expr, Rt):
            if expr.key == "mtu":
                raise self.refuse("nft expression rt mtu")
            family = Family.IPV6 if expr.key.startswith("ip6") else Family.IPV4
            self.emit(Op.NFT_NEXTHOP, a=int(family), d=at)
            return 16 if family is Family.IPV6 else 4
        if isinstance(expr, (Numgen, Hash)):
            return self._load_number(expr, at)
        if isinstance(expr, Const):
            self.emit(Op.NFT_IMMEDIATE, a=self.constant(expr.data), c=len(expr.data), d=at)
            return len(expr.data)
        if isinstance(expr, Binop):
            return self._load_binop(expr, at)
        if isinstance(expr, Concat):
            size = 0
            for part in expr.parts:
                size += -(-self.load(part, at + size) // 4) * 4
            return size
        if isinstance(expr, MapLookup):
            return self._load_map(expr, at)
        raise self.refuse(f"nft expression {type(expr).__name__}")

    def _load_option(self, expr: ExtensionHeader | TcpOption, at: int) -> int:
        of_tcp = isinstance(expr, TcpOption)
        kind = TCP_OPTIONS[expr.option][0] if isinstance(expr, TcpOption) else EXTENSION_HEADERS[expr.header][0]
        code = kind << 1 | of_tcp
        if not expr.field:
            self.emit(Op.NFT_OPTION, a=code, d=at)
            return 1
        where = expr.header_field
        self.emit(Op.NFT_OPTION, a=code, b=where.offset, c=where.bits, d=at)
        return (where.bits + 7) // 8

    def _load_ct(self, expr: Ct, at: int) -> int:
        self.conntrack.update(self.table.family.families)
        key, _, bits = CT[expr.key]
        if key in (CtKey.PKTS, CtKey.BYTES, CtKey.AVGPKT):
            self.needs_accounting = True  # nft_ct_get_init
        direction = {"": -1, "original": 0, "reply": 1}[expr.direction]
        self.emit(Op.NFT_CT, a=key, b=direction, d=at)
        return bits // 8

    def _load_number(self, expr: Numgen | Hash, at: int) -> int:
        if not expr.modulus:
            raise self.refuse("nft modulus of 0")
        length, kind, slot, seed = 0, 0, 0, 0
        source = SECOND
        if isinstance(expr, Numgen):
            if expr.mode == "inc":
                slot = self.state((NUMGEN, 0, expr.modulus - 1, expr.modulus, 0, 0, 0))
            else:
                kind = 1
                self.places.append(f"nft/{self.table.family.value}/{self.table.name}/{self._chain}/{self._number}")
                slot = len(self.places) - 1
        elif expr.source is None:
            kind = 3
        else:
            kind = 2
            for part in concat_parts(expr.source):
                size = self.load(part, source + length)
                if part.datatype.host and part.datatype.base is not Base.STRING:
                    self.emit(Op.NFT_REVERSE, c=size, d=source + length)
                length += size if not isinstance(expr.source, Concat) else -(-size // 4) * 4
            seed = expr.seed or 0
            slot = -1 if expr.seed is not None else self.state((SEED, 0, 0, 0, 0, 0, 0))
        if length > 64:
            raise self.refuse("nft jhash of more than 64 bytes")
        numbers = self.constant(struct.pack("=4I", expr.modulus, expr.offset, seed, length))
        self.emit(Op.NFT_NUMBER, a=kind | source << 8, b=slot, c=numbers, d=at)
        return 4

    def _load_binop(self, expr: Binop, at: int) -> int:
        if expr.op in ("<<", ">>"):
            size = self.load(expr.left, at)
            if size > 8:
                raise self.refuse("nft shift of more than 64 bits")
            self.emit(Op.NFT_SHIFT, a=int(expr.op == ">>"), b=expr.right.number, c=size, d=at)
            return size
        operations: list[Binop] = []
        inner: Expr = expr
        while isinstance(inner, Binop) and inner.op in ("&", "|", "^"):
            operations.append(inner)
            inner = inner.left
        size = self.load(inner, at)
        full = (1 << 8 * size) - 1
        mask, xor = full, 0
        for one in reversed(operations):
            value = one.right.number
            if one.op == "&":
                mask, xor = mask & value, xor & value
            elif one.op == "^":
                xor ^= value
            else:
                mask, xor = mask & ~value & full, xor & ~value & full | value
        self.bitwise(mask, xor, size, at)
        return size

    def bitwise(self, mask: int, xor: int, size: int, at: int) -> None:
        data = mask.to_bytes(size, "big") + xor.to_bytes(size, "big")
        self.emit(Op.NFT_BITWISE, a=self.constant(data), c=size, d=at)

    def _load_map(self, expr: MapLookup, at: int) -> int:
        size = element_size(expr.result, expr.width)
        self.load(expr.key, at)
        ranges = isinstance(expr.map, AnonymousSet) and any(
            isinstance(element.data, (Range, Prefix)) for element in expr.map.elements
        )
        if ranges:
            size *= 2
        self.emit(Op.NFT_LOOKUP, a=self.set_index(expr.map, size), b=at, d=at)
        return size
