"""What nft makes of a rule's statements when it has read them all, and what it takes them for when it lists them.

Source: src/optimize.c, src/rule.c and src/netlink_delinearize.c of nftables 1.0.6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Final

from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_fields import PROTOCOLS, PayloadBase
from pktsim.netfilter.nft_protocols import ProtocolContext, is_protocol, known_field
from pktsim.netfilter.nft_ruleset import (
    AnonymousSet,
    Const,
    Expr,
    JoinedMatch,
    MatchStatement,
    Meta,
    NftFamily,
    Payload,
    Prefix,
    SetRef,
    Statement,
    VerdictMap,
    const,
)


def named_again(statements: list[Statement], family: NftFamily) -> Iterator[Statement]:
    """``th`` by the name of a protocol that only a later statement has asked for, before this one as it turns out."""
    context = ProtocolContext(family)
    for statement in statements:
        if context.transport:
            statement = _with_names(statement, context.transport)
        if isinstance(statement, MatchStatement) and isinstance(statement.left, Payload):
            statement = _raw_by_name(statement, statement.left, context)
        yield statement
        if isinstance(statement, MatchStatement) and statement.op == "==":
            context.learn(statement.left, statement.right)


def _raw_by_name(statement: MatchStatement, left: Payload, context: ProtocolContext) -> MatchStatement:
    """``@nh,96,32`` as the field that it is, or a part of it, where the protocol is known by now."""
    known = {PayloadBase.NETWORK: context.network, PayloadBase.TRANSPORT: context.transport}.get(left.header, "")
    if left.protocol or known not in PROTOCOLS or not isinstance(statement.right, Const):
        return statement
    equal = statement.op in ("==", "!=")
    for name, where in PROTOCOLS[known].fields.items():
        if where.offset == left.offset and where.bits > left.length and where.datatype.prefix and equal:
            # the head of an address is how a prefix of whole bytes is compared
            field, data = Payload(known, name), statement.right.data.ljust(where.bits // 8, b"\0")
            return MatchStatement(field, statement.op, Prefix(Const(data, field.datatype, field.bits), left.length))
        if (where.offset, where.bits) == (left.offset, left.length):
            named = Payload(known, name)
            right = Const(statement.right.data, named.datatype, named.bits)
            return MatchStatement(named, statement.op, right)
    return statement


def _with_names(node: Any, transport: str) -> Any:
    if isinstance(node, Payload):
        return known_field(node, transport)
    if isinstance(node, tuple):
        found = tuple(_with_names(one, transport) for one in node)
        return node if all(a is b for a, b in zip(found, node, strict=True)) else found
    if isinstance(node, (Const, SetRef, AnonymousSet)) or not isinstance(node, (Expr, Statement)):
        return node
    changed = {}
    for one in fields(node):
        value = getattr(node, one.name)
        named = _with_names(value, transport)
        if named is not value:
            changed[one.name] = named
    return replace(node, **changed) if changed else node


def reduce_statements(statements: list[Statement], family: NftFamily) -> list[Statement]:
    """``stmt_reduce``: tests of adjacent fields are put together where the first of these fields is tested.

    That also happens across one other statement, as long as only one field was tested before it.
    """
    places: dict[int, list[int]] = {at: [at] for at in range(len(statements))}
    group: list[int] = []
    for at, statement in enumerate(statements):
        if not isinstance(statement, (MatchStatement, VerdictMap)):
            if len(group) > 1:
                _join(statements, group, places)
                group = []
            continue
        if not isinstance(statement, MatchStatement) or not isinstance(statement.right, Const):
            continue
        if isinstance(statement.left, Payload) and statement.op in ("==", "!=", ""):
            if not (statement.left.header_field.offset % 8 or statement.left.bits % 8):
                group.append(at)
        elif statement == MatchStatement(Meta("protocol"), "==", _FAMILY_TYPES.get(family, statement.left)):
            places[at] = [] if at + 1 < len(statements) else [at]
    if len(group) > 1:
        _join(statements, group, places)
    found: list[Statement] = []
    context = ProtocolContext(family)
    for at, statement in enumerate(statements):
        parts = [statements[one] for one in places.get(at, ())]
        if len(parts) > 1 and not context.transport:
            parts = _raw(parts)
        if isinstance(statement, MatchStatement) and statement.op == "==":
            context.learn(statement.left, statement.right)
        if len(parts) > 1:
            # flags that are compared at once with something else are compared whole
            parts = [replace(one, op="==") if isinstance(one, MatchStatement) and not one.op else one for one in parts]
        if len(parts) > 1 and all(isinstance(one, MatchStatement) and one.op == "!=" for one in parts):
            found.append(JoinedMatch(tuple(one for one in parts if isinstance(one, MatchStatement))))
        else:
            found += parts
    return found


def _raw(parts: list[Statement]) -> list[Statement]:
    """Fields of a transport header that are compared at once: bytes, while nobody has said which protocol it is."""
    tests = [one for one in parts if isinstance(one, MatchStatement)]
    lefts = [one.left for one in tests if isinstance(one.left, Payload)]
    if lefts[0].header is not PayloadBase.TRANSPORT:
        return parts
    bits = sum(left.bits for left in lefts)
    whole = Payload("", "", PayloadBase.TRANSPORT, lefts[0].header_field.offset, bits)
    data = b"".join(one.right.data for one in tests if isinstance(one.right, Const))
    return [MatchStatement(whole, tests[0].op or "==", Const(data, whole.datatype, bits))]


_FAMILY_TYPES: Final[dict[NftFamily, Expr]] = {
    NftFamily.IP: const(0x0800, t.ETHER_TYPE),
    NftFamily.IP6: const(0x86DD, t.ETHER_TYPE),
}


def _join(statements: list[Statement], group: list[int], places: dict[int, list[int]]) -> None:
    """``payload_do_merge``: gather the numbers of statements that are compared at once in the place of one of them."""

    def payload(at: int) -> Payload:
        one = statements[at]
        assert isinstance(one, MatchStatement)
        assert isinstance(one.left, Payload)
        return one.left

    def op(at: int) -> str:
        one = statements[at]
        assert isinstance(one, MatchStatement)
        return one.op or "=="

    order = sorted(group, key=lambda at: (payload(at).header, payload(at).header_field.offset))
    last = order[0]
    for at in order[1:]:
        first, second = payload(places[last][0]), payload(at)
        offset = first.header_field.offset
        length = sum(payload(one).bits for one in places[last])
        adjacent = first.header is second.header and offset + length == second.header_field.offset
        total = length + second.bits
        worth = total <= 32 or first.header is PayloadBase.LINK or length > 32 or second.bits > 32
        if not adjacent or op(last) != op(at) or total > 128 or not worth:
            last = at
            continue
        joined = [*places[last], at]
        if is_protocol(second):
            places[last] = []
            last = at
        else:
            places[at] = []
        places[last] = joined
