"""nft's tables, chains, rules, sets and objects as frozen data: what text is parsed to and what is lowered.

A rule holds what the kernel holds: the tests that nft adds by itself (``meta l4proto tcp`` before ``tcp dport 80``) are
statements of their own, and :mod:`pktsim.netfilter.nft_print` leaves them out again where nft does. What moves while
packets pass (counters, quotas, dynamic elements) belongs to the text, not to the meaning, and takes no part in
comparison.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_fields import (
    CT,
    EXTENSION_HEADERS,
    FIB_RESULTS,
    META,
    PROTOCOLS,
    RT,
    TCP_OPTIONS,
    HeaderField,
    PayloadBase,
)
from pktsim.netfilter.nft_types import Base, Datatype
from pktsim.netfilter.ruleset import Family

_U32: Final = Datatype("integer", 32, host=True, per_line=5)
_INTEGERS: Final = {bits: Datatype("integer", bits, per_line=5) for bits in range(1, 513)}
#: What ``@th,16,16`` has: printed in hexadecimal.
_RAW: Final = {bits: Datatype("integer", bits, hex_digits=1, per_line=5) for bits in range(1, 513)}


class NftFamily(enum.StrEnum):
    """Of a table."""

    IP = "ip"
    IP6 = "ip6"
    INET = "inet"

    @property
    def families(self) -> tuple[Family, ...]:
        """Whose packets its chains see."""
        return _FAMILIES[self]


_FAMILIES: Final = {
    NftFamily.IP: (Family.IPV4,),
    NftFamily.IP6: (Family.IPV6,),
    NftFamily.INET: (Family.IPV4, Family.IPV6),
}


# --------------------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Expr:
    """What has a value. ``datatype`` and ``bits`` say of which kind and how wide."""

    @property
    def datatype(self) -> Datatype:
        raise NotImplementedError

    @property
    def bits(self) -> int:
        return self.datatype.bits


@dataclass(frozen=True, slots=True)
class Payload(Expr):
    """A header's field, or with no protocol ``@th,16,16``: ``length`` bits from ``offset`` on."""

    protocol: str
    field: str
    base: PayloadBase = PayloadBase.TRANSPORT
    offset: int = 0
    length: int = 0

    @property
    def header_field(self) -> HeaderField:
        if self.protocol:
            return PROTOCOLS[self.protocol].fields[self.field]
        return HeaderField(self.offset, self.length)

    @property
    def header(self) -> PayloadBase:
        return PROTOCOLS[self.protocol].base if self.protocol else self.base

    @property
    def datatype(self) -> Datatype:
        if not self.protocol:
            return _RAW[self.length]
        found = self.header_field.datatype
        return found if found is not t.INTEGER else _INTEGERS[self.header_field.bits]

    @property
    def bits(self) -> int:
        return self.header_field.bits


@dataclass(frozen=True, slots=True)
class ExtensionHeader(Expr):
    """A field of an IPv6 extension header; no field: whether it is there."""

    header: str
    field: str = ""

    @property
    def header_field(self) -> HeaderField:
        return EXTENSION_HEADERS[self.header][1][self.field]

    @property
    def datatype(self) -> Datatype:
        if not self.field:
            return t.BOOLEAN
        found = self.header_field.datatype
        return found if found is not t.INTEGER else _INTEGERS[self.header_field.bits]


@dataclass(frozen=True, slots=True)
class TcpOption(Expr):
    """A field of a TCP option; no field: whether it is there."""

    option: str
    field: str = ""

    @property
    def header_field(self) -> HeaderField:
        return TCP_OPTIONS[self.option][1][self.field]

    @property
    def datatype(self) -> Datatype:
        return _INTEGERS[self.header_field.bits] if self.field else t.BOOLEAN


@dataclass(frozen=True, slots=True)
class Meta(Expr):
    """``meta KEY``."""

    key: str

    @property
    def datatype(self) -> Datatype:
        return META[self.key][1]


@dataclass(frozen=True, slots=True)
class Ct(Expr):
    """``ct [original|reply] KEY``."""

    key: str
    direction: str = ""

    @property
    def datatype(self) -> Datatype:
        return CT[self.key][1]


@dataclass(frozen=True, slots=True)
class Fib(Expr):
    """``fib FLAGS RESULT``; ``present`` for a result that is only asked for being there."""

    flags: tuple[str, ...]
    result: str
    present: bool = False

    @property
    def datatype(self) -> Datatype:
        return t.BOOLEAN if self.present else FIB_RESULTS[self.result][1]


@dataclass(frozen=True, slots=True)
class Rt(Expr):
    """``rt KEY``."""

    key: str

    @property
    def datatype(self) -> Datatype:
        return RT[self.key][1]


@dataclass(frozen=True, slots=True)
class Numgen(Expr):
    """``numgen inc|random mod N [offset M]``."""

    mode: str
    modulus: int
    offset: int = 0

    @property
    def datatype(self) -> Datatype:
        return _U32


@dataclass(frozen=True, slots=True)
class Hash(Expr):
    """``jhash EXPR mod N [seed S] [offset M]``, or with no expression ``symhash``."""

    source: Expr | None
    modulus: int
    seed: int | None = None
    offset: int = 0

    @property
    def datatype(self) -> Datatype:
        return _U32


@dataclass(frozen=True, slots=True)
class Const(Expr):
    """A constant: bytes in network order. One that is narrower than its bytes lies at their right."""

    data: bytes
    type: Datatype
    width: int

    @property
    def datatype(self) -> Datatype:
        return self.type

    @property
    def bits(self) -> int:
        return self.width

    @property
    def number(self) -> int:
        return int.from_bytes(self.data, "big")


@dataclass(frozen=True, slots=True)
class Prefix(Expr):
    """``ADDRESS/LENGTH``, or ``"eth*"`` of interface names."""

    value: Const
    length: int

    @property
    def datatype(self) -> Datatype:
        return self.value.type

    @property
    def bits(self) -> int:
        return self.value.width


@dataclass(frozen=True, slots=True)
class Range(Expr):
    """``LOW-HIGH``."""

    low: Const
    high: Const

    @property
    def datatype(self) -> Datatype:
        return self.low.type

    @property
    def bits(self) -> int:
        return self.low.width


@dataclass(frozen=True, slots=True)
class Binop(Expr):
    """``LEFT OP RIGHT``, the operator one of ``& | ^ << >>``; the right side is a constant."""

    op: str
    left: Expr
    right: Const

    @property
    def datatype(self) -> Datatype:
        return self.left.datatype

    @property
    def bits(self) -> int:
        return self.left.bits


@dataclass(frozen=True, slots=True)
class Concat(Expr):
    """``A . B``."""

    parts: tuple[Expr, ...]

    @property
    def datatype(self) -> Datatype:
        return concat_type(tuple(part.datatype for part in self.parts))

    @property
    def bits(self) -> int:
        return sum(part.bits for part in self.parts)


@dataclass(frozen=True, slots=True)
class Wildcard(Expr):
    """``*`` as a set's key: everything else."""

    @property
    def datatype(self) -> Datatype:
        return t.INTEGER


@dataclass(frozen=True, slots=True)
class SetRef(Expr):
    """``@NAME``."""

    name: str

    @property
    def datatype(self) -> Datatype:
        return t.INTEGER


_CONCATS: dict[tuple[Datatype, ...], Datatype] = {}


def concat_type(parts: tuple[Datatype, ...]) -> Datatype:
    """The type of a concatenation."""
    found = _CONCATS.get(parts)
    if found is None:
        name = " . ".join(part.name for part in parts)
        found = _CONCATS[parts] = Datatype(name, sum(32 * (-(-part.bits // 32)) for part in parts))
    return found


@dataclass(frozen=True, slots=True)
class VerdictValue(Expr):
    """``accept``, ``drop``, ``continue``, ``return``, ``jump CHAIN``, ``goto CHAIN``."""

    kind: str
    chain: str = ""

    @property
    def datatype(self) -> Datatype:
        return t.VERDICT


@dataclass(frozen=True, slots=True)
class MapLookup(Expr):
    """``KEY map { … }``."""

    key: Expr
    map: Expr  # SetRef or AnonymousSet
    result: Datatype
    width: int

    @property
    def datatype(self) -> Datatype:
        return self.result

    @property
    def bits(self) -> int:
        return self.width


# ------------------------------------------------------------------------------------------------------------ elements


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set or map.

    Attributes:
        key: Const, Prefix, Range, a Concat of these, or Wildcard.
        data: Of a map: Const, Range, a Concat, or a VerdictValue.
        timeout_ms: Its own timeout; 0 for the set's.
        expires_ms: What is left of it.
        statements: State of its own (counter, quota, limit, ct count).
    """

    key: Expr
    data: Expr | None = None
    timeout_ms: int = 0
    expires_ms: int = field(default=0, compare=False)
    comment: str = ""
    statements: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True)
class AnonymousSet(Expr):
    """``{ … }`` in a rule; elements sorted as nft prints them."""

    elements: tuple[Element, ...]
    interval: bool = False
    key_type: Datatype = t.INTEGER
    #: The keys as the text had them: nft makes one alone no set, and learns protocols in this order.
    written: tuple[Expr, ...] = field(default=(), compare=False)

    @property
    def datatype(self) -> Datatype:
        return self.key_type


# ---------------------------------------------------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Statement:
    """One step of a rule."""


@dataclass(frozen=True, slots=True)
class MatchStatement(Statement):
    """``LEFT OP RIGHT``. Operators: ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, and for flags ``""`` (any of these)
    and ``!`` (none of these)."""

    left: Expr
    op: str
    right: Expr


@dataclass(frozen=True, slots=True)
class JoinedMatch(Statement):
    """Adjacent fields that nft compares at once (``stmt_reduce`` in src/rule.c): they must not all be equal."""

    parts: tuple[MatchStatement, ...]


@dataclass(frozen=True, slots=True)
class VerdictStatement(Statement):
    verdict: VerdictValue


@dataclass(frozen=True, slots=True)
class VerdictMap(Statement):
    """``KEY vmap { … }``."""

    key: Expr
    map: Expr


@dataclass(frozen=True, slots=True)
class Counter(Statement):
    packets: int = field(default=0, compare=False)
    bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Limit(Statement):
    """``limit rate [over] RATE/UNIT [burst N]``; ``by_bytes``: of bytes, not packets."""

    rate: int
    unit: str
    burst: int
    by_bytes: bool = False
    over: bool = False


@dataclass(frozen=True, slots=True)
class Quota(Statement):
    bytes: int
    over: bool = False
    used: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class CtCount(Statement):
    """``ct count [over] N``."""

    count: int
    over: bool = False


@dataclass(frozen=True, slots=True)
class ObjectRef(Statement):
    """``counter name "X"``, ``quota name …``, ``limit name …``; or by a map."""

    kind: str
    name: str = ""
    lookup: MapLookup | None = None


@dataclass(frozen=True, slots=True)
class Log(Statement):
    prefix: str = ""
    group: int | None = None
    snaplen: int | None = None
    queue_threshold: int | None = None
    level: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject(Statement):
    """``kind``: ``tcp reset``, ``icmp``, ``icmpv6`` or ``icmpx`` with a code."""

    kind: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class Nat(Statement):
    """``snat``, ``dnat``, ``masquerade`` or ``redirect``.

    Attributes:
        family: Of the address.
        written: The family is printed (``dnat ip to``).
        address: Const, Range, or something that is looked up (perhaps a concatenation of address and port).
        port: Const or Range or what is looked up.
        prefix: ``prefix to``.
        flags: random, fully-random, persistent.
    """

    kind: str
    family: str = ""
    written: bool = False
    address: Expr | None = None
    port: Expr | None = None
    prefix: bool = False
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Notrack(Statement):
    pass


@dataclass(frozen=True, slots=True)
class Assign(Statement):
    """``TARGET set VALUE``."""

    target: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class SetUpdate(Statement):
    """``add|update|delete @SET { KEY … [: DATA] }``."""

    op: str
    set: str
    key: Expr
    timeout_ms: int = 0
    statements: tuple[Statement, ...] = ()
    data: Expr | None = None


# -------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class NftRule:
    statements: tuple[Statement, ...]
    comment: str = ""
    handle: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class NftHook:
    """Where a base chain is hooked in."""

    type: str
    hook: str
    priority: int
    policy: str = "accept"


@dataclass(frozen=True, slots=True)
class NftChain:
    name: str
    rules: tuple[NftRule, ...] = ()
    base: NftHook | None = None
    comment: str = ""
    handle: int = field(default=0, compare=False)


@dataclass(frozen=True)
class NftSet:
    """A named set or map.

    Attributes:
        key_types: One for each part of the key.
        key_bits: Their widths.
        typeof: The expressions it was declared by, if it was.
        data_types: Of a map; empty for a set. ``object_kind`` for a map of objects.
        elements: By key, in the order in which the kernel lists them.
    """

    name: str
    key_types: tuple[Datatype, ...]
    key_bits: tuple[int, ...] = ()
    typeof: tuple[Expr, ...] = ()
    data_types: tuple[Datatype, ...] = ()
    data_typeof: tuple[Expr, ...] = ()
    object_kind: str = ""
    flags: frozenset[str] = frozenset()
    size: int = 0
    policy: str = ""
    timeout_ms: int = 0
    gc_interval_ms: int = 0
    auto_merge: bool = False
    statements: tuple[Statement, ...] = ()
    comment: str = ""
    elements: tuple[Element, ...] = ()
    handle: int = field(default=0, compare=False)

    @property
    def is_map(self) -> bool:
        return bool(self.data_types or self.object_kind)

    @property
    def interval(self) -> bool:
        return "interval" in self.flags

    @cached_property
    def by_key(self) -> dict[Expr, Element]:
        return {element.key: element for element in self.elements}


@dataclass(frozen=True, slots=True)
class NftObject:
    """A named counter, quota or limit."""

    kind: str
    name: str
    state: Statement
    comment: str = ""
    handle: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class NftTable:
    family: NftFamily
    name: str
    chains: tuple[NftChain, ...] = ()
    sets: tuple[NftSet, ...] = ()
    objects: tuple[NftObject, ...] = ()
    comment: str = ""
    dormant: bool = False
    handle: int = field(default=0, compare=False)
    next_handle: int = field(default=0, compare=False)

    def chain(self, name: str) -> NftChain | None:
        return next((one for one in self.chains if one.name == name), None)

    def set(self, name: str) -> NftSet | None:
        return next((one for one in self.sets if one.name == name), None)


@dataclass(frozen=True, slots=True)
class NftRuleset:
    """All tables, in the order in which they were made."""

    tables: tuple[NftTable, ...] = ()

    def table(self, family: NftFamily, name: str) -> NftTable | None:
        return next((one for one in self.tables if one.family is family and one.name == name), None)


def flag_type(datatype: Datatype) -> bool:
    """Whether values are sets of flags."""
    return datatype.base is Base.BITMASK


def const(number: int, datatype: Datatype, bits: int = 0) -> Const:
    """A number of a type."""
    width = bits or datatype.bits
    return Const(number.to_bytes((width + 7) // 8, "big"), datatype, width)


def leaves(expr: Expr | None) -> Iterator[Expr]:
    """What an expression loads, in the order in which nft looks at it."""
    if isinstance(expr, Concat):
        for part in expr.parts:
            yield from leaves(part)
    elif isinstance(expr, Binop):
        yield from leaves(expr.left)
    elif isinstance(expr, MapLookup):
        yield from leaves(expr.key)
    elif isinstance(expr, Hash):
        yield from leaves(expr.source)
    elif expr is not None:
        yield expr


def concat_parts(expr: Expr) -> tuple[Expr, ...]:
    """The parts of a concatenation, or the expression alone."""
    return expr.parts if isinstance(expr, Concat) else (expr,)
