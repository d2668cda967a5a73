"""nft's statements as text: one rule of a chain.

Source: src/parser_bison.y, src/evaluate.c and src/statement.c of nftables 1.0.6.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_elements import canonical_key
from pktsim.netfilter.nft_expressions import ExpressionParser, boolean_form, moved_operators
from pktsim.netfilter.nft_fields import PROTOCOLS, PayloadBase
from pktsim.netfilter.nft_lexer import Kind, TokenStream
from pktsim.netfilter.nft_protocols import ProtocolContext
from pktsim.netfilter.nft_reduce import named_again, reduce_statements
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
    Limit,
    Log,
    MapLookup,
    MatchStatement,
    Meta,
    Nat,
    NftFamily,
    NftRule,
    NftSet,
    Notrack,
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
    const,
    flag_type,
    leaves,
)
from pktsim.netfilter.nft_types import Datatype

#: Known to nft and not to us.
REFUSED_STATEMENTS: Final = frozenset(
    {"queue", "dup", "fwd", "tproxy", "synproxy", "flow", "meter", "reset", "xt", "last"}
)
_NAT_FLAGS: Final = ("random", "fully-random", "persistent")
_UNITS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
BYTE_UNITS: Final = {"bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20, "gbytes": 1 << 30}
_LOG_LEVELS: Final = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug", "audit")
_META_WRITABLE: Final = frozenset({"mark", "priority", "pkttype"})
_OPERATORS: Final = {"==": "==", "eq": "==", "!=": "!=", "ne": "!=", "<": "<", "lt": "<", "<=": "<=", "le": "<=",
                     ">": ">", "gt": ">", ">=": ">=", "ge": ">="}  # fmt: skip
_PREFIXED = re.compile(r"(bytes|kbytes|mbytes|gbytes)(?:/(second|minute|hour|day|week))?$")


@dataclass(slots=True)
class RuleParser:
    """Reads rules of one table.

    Attributes:
        stream: Where from.
        family: The table's.
        find_set: The named set of a name in this table.
        ifindex: The index of an interface's name.
    """

    stream: TokenStream
    family: NftFamily
    find_set: Callable[[str], NftSet | None]
    ifindex: Callable[[str], int]

    def rule(self) -> NftRule:
        """One rule, to the end of its line."""
        context = ProtocolContext(self.family)
        expressions = ExpressionParser(self.stream, context, self.find_set, self.ifindex)
        parser = StatementParser(self.stream, expressions, self.family)
        statements: list[Statement] = []
        comment = ""
        while not self.stream.ended:
            if self.stream.take("comment"):
                comment = self.stream.word("a comment")
                break
            token = self.stream.token
            if statements and isinstance(statements[-1], (VerdictStatement, Reject)):
                raise self.stream.error("statement after a terminal statement has no effect", token)
            statement = parser.statement()
            if isinstance(statement, Reject):
                # stmt_reject_gen_dependency, unlike all others, puts its own at the beginning
                statements[:0] = expressions.dependencies.before
            else:
                statements += expressions.dependencies.before
            statements[:0] = expressions.dependencies.first
            expressions.dependencies.before.clear()
            expressions.dependencies.first.clear()
            statements.append(statement)
            if isinstance(statement, MatchStatement) and statement.op == "==":
                context.learn(statement.left, statement.right)
        if not statements:
            raise self.stream.unexpected("a statement")
        return NftRule(tuple(named_again(reduce_statements(statements, self.family), self.family)), comment)


@dataclass(slots=True)
class StatementParser:
    stream: TokenStream
    expressions: ExpressionParser
    family: NftFamily

    def statement(self) -> Statement:
        """One statement; what nft adds before it is in ``expressions.dependencies.before``."""
        stream = self.stream
        token = stream.token
        word = token.text if token.kind is Kind.WORD else ""
        if word in REFUSED_STATEMENTS:
            raise stream.refuse(f"nft statement {word}", token)
        if word in ("accept", "drop", "continue", "return", "jump", "goto"):
            return VerdictStatement(self.expressions.verdict())
        if word in ("counter", "limit", "quota"):
            return self.stateful()
        if word == "ct" and stream.ahead().text == "count":
            return self.stateful()
        if word == "log":
            stream.next()
            return self._log()
        if word == "reject":
            stream.next()
            return self._reject()
        if word in ("snat", "dnat", "masquerade", "redirect"):
            stream.next()
            return self._nat(word)
        if word == "notrack":
            stream.next()
            return Notrack()
        if word in ("add", "update", "delete") and stream.ahead().text == "@":
            stream.next()
            return self._set_update(word)
        if word == "set" and stream.ahead().text in ("add", "update"):
            raise stream.refuse("nft statement set add", token)
        return self._match_or_assign()

    # ---------------------------------------------------------------------------------------------------------- matches

    def _match_or_assign(self) -> Statement:
        stream, expressions = self.stream, self.expressions
        token = stream.token
        left = expressions.expression()
        if stream.take("set"):
            return self._assign(left)
        if stream.take("vmap"):
            left = self._normal(left)
            expressions.dependencies.require(left)
            return VerdictMap(left, self._verdicts(left))
        if isinstance(left, Const):
            raise stream.error("an expression is wanted here", token)
        expressions.dependencies.require(left)
        if stream.is_("!"):
            stream.next()
            if not flag_type(left.datatype):
                raise stream.error("! is for flags only", mend="write !=")
            right = expressions.right_side(left)
            return MatchStatement(left, "!", right)
        explicit = _OPERATORS.get(stream.token.text, "")
        if explicit and stream.token.kind in (Kind.OPERATOR, Kind.WORD):
            stream.next()
        else:
            explicit = ""
        return self._relation(left, explicit)

    def _verdicts(self, key: Expr) -> Expr:
        stream, expressions = self.stream, self.expressions
        if not stream.is_("@"):
            return expressions.anonymous_set(key, ())
        token = stream.ahead()
        reference = expressions.set_reference(key, maps=True)
        found = expressions.find_set(reference.name)
        assert found is not None
        if found.data_types != (t.VERDICT,):
            raise stream.error(f"map {found.name} does not lead to verdicts", token)
        return reference

    def _relation(self, left: Expr, explicit: str) -> Statement:
        stream = self.stream
        left = self._normal(left)
        if moved_operators(left) & {"<<", ">>"}:
            # in the wrong byte order, or it gives up, or is given up by the kernel
            raise stream.refuse("nft match of a shifted value")
        right = self.expressions.right_side(left)
        if isinstance(left, Binop) and left.op == "^" and not isinstance(right, SetRef):
            if not isinstance(right, Const):
                raise stream.refuse("nft match of ^ with several values")
            # binop_transfer, though it makes something else of < and >
            right = const(right.number ^ left.right.number, right.type, right.width)
            left = left.left
        op = explicit or "=="
        simple = isinstance(right, Const)
        if op in ("<", "<=", ">", ">=") and not simple:
            raise stream.error(f"{op} needs a single value")
        if not explicit and stream.is_("/") and flag_type(left.datatype) and isinstance(right, Const):
            stream.next()
            mask = self._flags(left)
            return MatchStatement(Binop("&", left, mask), "==", right)
        if op == "!=" and stream.is_("/") and flag_type(left.datatype) and isinstance(right, Const):
            stream.next()
            return MatchStatement(Binop("&", left, self._flags(left)), "!=", right)
        if flag_type(left.datatype) and isinstance(right, Const) and not isinstance(left, Binop):
            if not explicit:
                return MatchStatement(left, "", right)
            return MatchStatement(left, op, right)
        if isinstance(left, Binop) and left.op == "&" and op in ("==", "!=") and isinstance(right, Const):
            return self._masked(left, op, right)
        return MatchStatement(left, op, right)

    def _flags(self, left: Expr) -> Const:
        found = self.expressions.right_side(left)
        if not isinstance(found, Const):
            raise self.stream.error("flags are wanted here")
        return found

    def _masked(self, left: Binop, op: str, right: Const) -> Statement:
        """``relational_binop_postprocess``: what nft makes of ``X & MASK == VALUE``."""
        mask = left.right.number
        if flag_type(left.datatype):
            if not right.number:
                return MatchStatement(left.left, "" if op == "!=" else "!", left.right)
            return MatchStatement(left, op, right)
        width = left.bits
        inverted = ~mask & ((1 << width) - 1)
        if left.datatype.prefix and mask and inverted & (inverted + 1) == 0:
            length = width - inverted.bit_length()
            if length == width:
                return MatchStatement(left.left, op, right)
            return MatchStatement(left.left, op, Prefix(right, length))
        return MatchStatement(left, op, right)

    @staticmethod
    def _normal(expr: Expr) -> Expr:
        if isinstance(expr, Binop):
            return boolean_form(expr)
        return expr

    # ------------------------------------------------------------------------------------------------------ assignments

    def _assign(self, target: Expr) -> Statement:
        stream, expressions = self.stream, self.expressions
        if isinstance(target, Meta):
            if target.key not in _META_WRITABLE:
                raise stream.error(f"meta {target.key} cannot be set")
            if target.key != "mark":
                raise stream.refuse(f"nft statement meta {target.key} set")
        elif isinstance(target, Ct):
            if target.key not in ("mark", "zone"):
                raise stream.refuse(f"nft statement ct {target.key} set")
        elif isinstance(target, TcpOption):
            if (target.option, target.field) != ("maxseg", "size"):
                raise stream.refuse(f"nft statement tcp option {target.option} set")
        elif not isinstance(target, Payload):
            raise stream.error("this cannot be set")
        expressions.dependencies.require(target)
        if stream.is_("{", "@"):
            raise stream.unexpected("a value")
        value = self.mapped(target.datatype, target.bits)
        if value.datatype is not target.datatype and value.datatype.name != "integer":
            raise stream.error(
                f"{target.datatype.name} is wanted, and this is {value.datatype.name}",
            )
        expressions.dependencies.require(value)
        return Assign(target, self._normal(value))

    def mapped(self, datatype: Datatype, bits: int, data: tuple[tuple[Datatype, int], ...] = ()) -> Expr:
        """A constant of a type, an expression, or ``EXPR map …`` with this result."""
        stream, expressions = self.stream, self.expressions
        token = stream.token
        found = expressions.part(datatype, bits)
        if stream.is_(".") and not isinstance(found, Const):
            parts = [found]
            while stream.take("."):
                parts.append(expressions.part())
            found = Concat(tuple(parts))
        if stream.take("map"):
            return expressions.map_lookup(self._normal(found), data or ((datatype, bits),), token)
        return found

    def _set_update(self, op: str) -> Statement:
        stream, expressions = self.stream, self.expressions
        token = stream.token
        reference = expressions.set_reference(None, maps=False)
        found = expressions.find_set(reference.name)
        assert found is not None
        stream.need("{")
        key = expressions.expression()
        expressions.check_key(found, key, token)
        expressions.dependencies.require(key)
        timeout = 0
        if stream.take("timeout"):
            timeout = t.time_from_text(stream.word("a time"))
        statements: list[Statement] = []
        while stream.is_("counter", "limit", "quota", "ct"):
            statements.append(self.stateful())
        data: Expr | None = None
        if stream.take(":"):
            if not found.data_types:
                raise stream.error(f"{reference.name} is a set, not a map", token)
            data = self._normal(expressions.part(found.data_types[0], found.data_types[0].bits))
            expressions.dependencies.require(data)
        elif found.is_map:
            raise stream.error(f"{reference.name} is a map: what should the key lead to?", token)
        stream.need("}")
        if found.statements:
            statements.clear()  # every element has these anyway
        return SetUpdate(op, reference.name, self._normal(key), timeout, tuple(statements), data)

    # ---------------------------------------------------------------------------------------------------- with a state

    def stateful(self) -> Statement:
        """counter, limit, quota, ct count: what elements may have too."""
        stream = self.stream
        word = stream.next().text
        if word == "ct":
            stream.need("count")
            over = bool(stream.take("over"))
            return CtCount(stream.number(), over)
        if stream.take("name"):
            return self._object(word)
        if word == "counter":
            packets = bytes_ = 0
            if stream.take("packets"):
                packets = stream.number()
                stream.need("bytes")
                bytes_ = stream.number()
            return Counter(packets, bytes_)
        if word == "limit":
            stream.need("rate")
            return self.rate()
        return self.quota()

    def _object(self, kind: str) -> Statement:
        stream = self.stream
        if stream.token.kind is Kind.QUOTED or stream.ahead().text not in (
            *PROTOCOLS["ip"].fields,
            "dport",
            "map",
            ".",
        ):
            return ObjectRef(kind, stream.word("the name of an object"))
        raise stream.refuse(f"nft statement {kind} name by a map")

    def rate(self) -> Limit:
        """What follows ``limit rate``."""
        stream = self.stream
        over = bool(stream.take("over"))
        if not over:
            stream.take("until")
        number = stream.number("a rate")
        if stream.take("/"):
            unit = stream.need(*_UNITS)
            burst = 5
            if stream.take("burst"):
                burst = stream.number()
                stream.need("packets")
                if not burst:
                    raise stream.error("packet limit burst must be > 0")
            if not number:
                raise stream.error("a rate of 0")
            return Limit(number, unit, burst, False, over)
        found = _PREFIXED.match(stream.word("a unit"))
        if found is None:
            raise stream.unexpected("bytes/second")
        unit = found.group(2) or ""
        if not unit:
            stream.need("/")
            unit = stream.need(*_UNITS)
        burst = 0
        if stream.take("burst"):
            burst = stream.number() * BYTE_UNITS[stream.need(*BYTE_UNITS)]
        if not number:
            raise stream.error("a rate of 0")
        return Limit(number * BYTE_UNITS[found.group(1)], unit, burst, True, over)

    def quota(self) -> Quota:
        """What follows ``quota``."""
        stream = self.stream
        over = bool(stream.take("over"))
        if not over:
            stream.take("until")
        size = stream.number() * BYTE_UNITS[stream.need(*BYTE_UNITS)]
        used = stream.number() * BYTE_UNITS[stream.need(*BYTE_UNITS)] if stream.take("used") else 0
        return Quota(size, over, used)

    # -------------------------------------------------------------------------------------------------------- decisions

    def _log(self) -> Statement:
        stream = self.stream
        prefix, level = "", ""
        group: int | None = None
        snaplen: int | None = None
        threshold: int | None = None
        flags: list[str] = []
        while True:
            token = stream.token
            if stream.take("prefix"):
                prefix = stream.word("a prefix")
            elif stream.take("group"):
                group = stream.number()
            elif stream.take("snaplen"):
                snaplen = stream.number()
            elif stream.take("queue-threshold"):
                threshold = stream.number()
            elif stream.take("level"):
                level = stream.need(*_LOG_LEVELS)
                level = "" if level == "warn" else level
            elif stream.take("flags"):
                kind = stream.need("all", "tcp", "ip", "skuid", "ether")
                if kind == "tcp":
                    flags.append(f"tcp {stream.need('sequence', 'options')}")
                    while stream.take(","):
                        flags.append(f"tcp {stream.need('sequence', 'options')}")
                elif kind == "ip":
                    stream.need("options")
                    flags.append("ip options")
                else:
                    flags.append(kind)
            else:
                break
            if level and group is not None:
                raise stream.error("level and group are mutually exclusive", token)
        known = ("tcp sequence", "tcp options", "ip options", "skuid", "ether")
        kept = (
            ("all",)
            if "all" in flags or all(one in flags for one in known)
            else tuple(one for one in known if one in flags)
        )
        return Log(prefix, group, snaplen, threshold, level, kept)

    def _reject(self) -> Statement:
        stream, expressions = self.stream, self.expressions
        context = expressions.context
        if not stream.take("with"):
            if context.networks > 1:  # the kernel has one code then, of another meaning in each
                raise stream.refuse("nft statement reject without a reason behind a set of protocols")
            if context.network == "ip":
                return Reject("icmp", t.ICMP_CODES["port-unreachable"])
            if context.network == "ip6":
                return Reject("icmpv6", t.ICMPV6_CODES["port-unreachable"])
            return Reject("icmpx", t.ICMPX_CODES["port-unreachable"])
        kind = stream.need("tcp", "icmp", "icmpv6", "icmpx")
        if kind == "tcp":
            stream.need("reset")
            if context.last_transport not in ("", "tcp"):
                raise stream.error(f"a reset answers tcp, and this is {context.last_transport}")
            if not context.last_transport:
                expressions.dependencies.require_protocol("tcp")
            return Reject("tcp reset")
        stream.take("type")
        datatype = {"icmp": t.ICMP_CODE, "icmpv6": t.ICMPV6_CODE, "icmpx": t.ICMPX_CODE}[kind]
        code = expressions.constant(datatype).number
        if kind == "icmpx":
            if self.family is not NftFamily.INET:
                raise stream.error("icmpx is for tables of family inet")
            return Reject(kind, code)
        expressions.dependencies.require_protocol("ip" if kind == "icmp" else "ip6")
        return Reject(kind, code)

    def _nat(self, kind: str) -> Statement:
        stream, expressions = self.stream, self.expressions
        family = ""
        address: Expr | None = None
        port: Expr | None = None
        prefix = False
        if kind in ("snat", "dnat"):
            family = stream.take("ip", "ip6")
            prefix = bool(stream.take("prefix"))
            if prefix:
                raise stream.refuse(f"nft statement {kind} prefix")
            if stream.take("interval"):
                raise stream.refuse(f"nft statement {kind} interval")
            stream.take("addr")
            if stream.is_(".") and stream.ahead().text == "port":
                stream.next()
                stream.next()
            stream.need("to")
            if family and expressions.context.network not in ("", family):
                raise stream.error(f"conflicting protocols specified: {expressions.context.network} vs. {family}")
            family = family or expressions.context.network
            if not family and not stream.is_(":"):
                raise stream.error(f"{kind} of which family?", mend=f"write {kind} ip to or {kind} ip6 to")
            address, port = self._nat_target(family)
        elif stream.take("to"):
            stream.take(":")
            port = self._nat_port()
        flags: list[str] = []
        while stream.is_(*_NAT_FLAGS):
            flags.append(stream.next().text)
            if not stream.take(","):
                break
        ported = port is not None or (isinstance(address, MapLookup) and address.result.bits > address_bits(family))
        if ported and not expressions.context.transport_seen and not _asks_transport(address):
            raise stream.error(
                "transport protocol mapping is only valid after transport protocol match",
                mend="write meta l4proto tcp before it",
            )
        written = kind in ("snat", "dnat") and (self.family is NftFamily.INET or self._leads_to_several(address))
        return Nat(kind, family, written, address, port, prefix, tuple(one for one in _NAT_FLAGS if one in flags))

    def _leads_to_several(self, address: Expr | None) -> bool:
        """Whether a map gives addresses with ports, or ranges of addresses: nft names the family then."""
        if not isinstance(address, MapLookup):
            return False
        if isinstance(address.map, AnonymousSet):
            return any(not isinstance(element.data, Const) for element in address.map.elements)
        assert isinstance(address.map, SetRef)
        found = self.expressions.find_set(address.map.name)
        return found is not None and len(found.data_types) > 1

    def _nat_target(self, family: str) -> tuple[Expr | None, Expr | None]:
        stream, expressions = self.stream, self.expressions
        datatype = t.IPV6_ADDR if family == "ip6" else t.IPV4_ADDR
        if stream.take(":"):
            return None, self._nat_port()
        address: Expr
        if stream.take("["):
            low = expressions.constant(datatype)
            stream.need("]")
            address = low
            if stream.take("-"):
                stream.need("[")
                address = self._range(low, expressions.constant(datatype))
                stream.need("]")
        elif stream.token.kind in (Kind.IP4, Kind.IP6) or stream.is_("$"):
            address = expressions.item(datatype)
            if isinstance(address, Range):
                address = canonical_key(address)
        else:
            address = self._nat_lookup(datatype)
        if stream.take(":"):
            return address, self._nat_port()
        return address, None

    def _nat_lookup(self, datatype: Datatype) -> Expr:
        """``KEY map …`` with an address, or an address and a port, as what it leads to."""
        stream = self.stream
        token = stream.token
        key = self.expressions.expression()
        key = self._normal(key)
        if not stream.take("map"):
            raise stream.refuse("nft address translation to a value of the packet", token)
        self.expressions.dependencies.require(key)
        data: tuple[tuple[Datatype, int], ...] = ((datatype, datatype.bits),)
        if stream.is_("{") and self._map_has_ports():
            data = (*data, (t.INET_SERVICE, 16))
        return self.expressions.map_lookup(key, data, token, port=True)

    def _map_has_ports(self) -> bool:
        """Whether the first element of the map that follows leads to an address and a port."""
        count, seen = 0, False
        while True:
            token = self.stream.ahead(count)
            if token.kind is Kind.END or token.text in (",", "}"):
                return False
            if token.text == ":" and token.kind is Kind.OPERATOR:
                seen = True
            if seen and token.text == "." and token.kind is Kind.OPERATOR:
                return True
            count += 1

    def _nat_port(self) -> Expr:
        expressions = self.expressions
        stream = self.stream
        if stream.token.kind in (Kind.NUMBER, Kind.QUOTED, Kind.TIME) or (
            stream.token.kind is Kind.WORD
            and stream.token.text not in PROTOCOLS
            and stream.token.text not in ("numgen", "jhash", "symhash", "meta", "ct", "mark")
        ):
            return expressions.item(t.INET_SERVICE)
        token = stream.token
        key = self._normal(expressions.expression())
        stream.need("map")
        expressions.dependencies.require(key)
        return expressions.map_lookup(key, ((t.INET_SERVICE, 16),), token)

    def _range(self, low: Const, high: Const) -> Expr:
        if high.data < low.data:
            raise self.stream.error("a range whose end is before its begin")
        return Range(low, high)


def address_bits(family: str) -> int:
    """How wide an address is."""
    return 128 if family == "ip6" else 32


def _asks_transport(address: Expr | None) -> bool:
    """Whether an address is looked up by a transport header's field too (``nat_evaluate_addr_has_th_expr``)."""
    if not isinstance(address, MapLookup) or not isinstance(address.key, Concat):
        return False
    return any(
        isinstance(leaf, Payload) and leaf.header is PayloadBase.TRANSPORT and leaf.protocol != "th"
        for leaf in leaves(address.key)
    )
