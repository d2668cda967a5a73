"""nft's expressions as text: what a rule looks at and what it compares it with.

The parser knows which protocols the rule has established so far (:class:`ProtocolContext`), because names, types and
the tests that nft adds by itself depend on it. Source: src/parser_bison.y, src/evaluate.c and src/payload.c of nftables
1.0.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pktsim.errors import RulesetSyntaxError
from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_elements import canonical_key, has_interval, ordered
from pktsim.netfilter.nft_fields import (
    CT,
    CT_DIRECTED,
    CT_MAYBE_DIRECTED,
    EXTENSION_HEADERS,
    FIB_FLAGS,
    FIB_RESULTS,
    META,
    META_REFUSED,
    META_UNQUALIFIED,
    PROTOCOLS,
    TCP_OPTION_ALIASES,
    TCP_OPTIONS,
    PayloadBase,
)
from pktsim.netfilter.nft_lexer import Kind, Token, TokenStream
from pktsim.netfilter.nft_protocols import Dependencies, ProtocolContext
from pktsim.netfilter.nft_ruleset import (
    AnonymousSet,
    Binop,
    Concat,
    Const,
    Ct,
    Element,
    Expr,
    ExtensionHeader,
    Fib,
    Hash,
    MapLookup,
    Meta,
    NftFamily,
    NftSet,
    Numgen,
    Payload,
    Prefix,
    Range,
    Rt,
    SetRef,
    Statement,
    TcpOption,
    VerdictValue,
    Wildcard,
    concat_parts,
    concat_type,
    const,
    flag_type,
)
from pktsim.netfilter.nft_types import Base, Datatype

_OPERATORS: Final = {"and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>"}
_PRECEDENCE: Final = ({"|"}, {"^"}, {"&"}, {"<<", ">>"})
REFUSED_EXPRESSIONS: Final = frozenset({"osf", "ipsec", "xfrm", "vlan", "arp", "socket", "srh", "rt0", "rt2", "rt4"})
_VERDICTS: Final = frozenset({"accept", "drop", "continue", "return", "jump", "goto"})
#: Words that begin an expression which is no constant.
EXPRESSION_WORDS: Final = (
    frozenset(PROTOCOLS)
    | frozenset(EXTENSION_HEADERS)
    | META_UNQUALIFIED
    | frozenset({"meta", "ct", "fib", "numgen", "jhash", "symhash", "exthdr", "rt"})
    | REFUSED_EXPRESSIONS
)


def boolean_form(expr: Expr) -> Expr:
    """``& M ^ X | O`` as the kernel keeps it and nft prints it again (``netlink_parse_bitwise_bool``)."""
    if not isinstance(expr, Binop) or expr.op not in "&|^":
        return expr
    bits = expr.bits
    full = (1 << bits) - 1
    operations: list[tuple[str, int]] = []
    inner: Expr = expr
    while isinstance(inner, Binop) and inner.op in ("&", "|", "^"):
        operations.append((inner.op, inner.right.number))
        inner = inner.left
    mask, xor = full, 0
    for op, value in reversed(operations):
        if op == "&":
            mask, xor = mask & value, xor & value
        elif op == "^":
            xor ^= value
        else:
            mask, xor = mask & ~value & full, xor & ~value & full | value
    return bitwise(inner, mask, xor)


def moved_operators(expr: Expr) -> set[str]:
    """The operators in an expression that nft would move to what it is compared with (``binop_transfer``)."""
    found: set[str] = set()
    for part in concat_parts(expr):
        inner = part
        while isinstance(inner, Binop):
            found.add(inner.op)
            inner = inner.left
    return found & {"^", "<<", ">>"}


def bitwise(inner: Expr, mask: int, xor: int) -> Expr:
    """``(inner & mask) ^ xor`` as nft prints it."""
    full = (1 << inner.bits) - 1
    either = 0
    if mask != full or xor:
        either = (mask & xor) ^ xor
        xor &= mask
        mask |= either
    found = inner
    if mask != full:
        found = Binop("&", found, const(mask, inner.datatype, inner.bits))
    if xor:
        found = Binop("^", found, const(xor, inner.datatype, inner.bits))
    if either:
        found = Binop("|", found, const(either, inner.datatype, inner.bits))
    return found


@dataclass(slots=True)
class ExpressionParser:
    """Reads expressions of one rule.

    Attributes:
        stream: Where from.
        context: The protocols known so far.
        find_set: The named set of a name in this table.
        ifindex: The index of an interface's name.
        dependencies: What they need.
    """

    stream: TokenStream
    context: ProtocolContext
    find_set: Callable[[str], NftSet | None]
    ifindex: Callable[[str], int]
    dependencies: Dependencies = field(init=False)

    def __post_init__(self) -> None:
        self.dependencies = Dependencies(self.stream, self.context)

    # ------------------------------------------------------------------------------------------------ what is looked at

    def expression(self) -> Expr:
        """Something that may be a concatenation."""
        parts = [self.part()]
        while self.stream.take("."):
            parts.append(self.part())
        for part in parts if len(parts) > 1 else ():
            if isinstance(part, Payload) and (part.header_field.offset % 8 or part.bits % 8):
                raise self.stream.refuse(f"nft concatenation with {part.protocol} {part.field} (not whole bytes)")
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def part(self, datatype: Datatype | None = None, bits: int = 0, level: int = 0) -> Expr:
        """Operators by precedence; constants are folded. ``datatype`` is what a constant would be."""
        if level == len(_PRECEDENCE):
            return self._primary(datatype, bits)
        left = self.part(datatype, bits, level + 1)
        while True:
            word = self.stream.token.text
            op = _OPERATORS.get(word, word)
            if self.stream.token.kind not in (Kind.OPERATOR, Kind.WORD) or op not in _PRECEDENCE[level]:
                return left
            self.stream.next()
            shifting = op in ("<<", ">>")
            right_type = t.INTEGER if shifting else left.datatype
            right = self.part(right_type, 32 if shifting else left.bits, level + 1)
            left = self._combine(op, left, right)

    def _combine(self, op: str, left: Expr, right: Expr) -> Expr:
        if isinstance(left, Const) and isinstance(right, Const):
            a, b = left.number, right.number
            full = (1 << left.width) - 1
            number = {"&": a & b, "|": a | b, "^": a ^ b, "<<": a << b & full if b < 64 else 0, ">>": a >> b}[op]
            return const(number, left.type, left.width)
        if isinstance(left, Const) and op not in ("<<", ">>"):
            left, right = right, left
        if not isinstance(right, Const):
            raise self.stream.refuse(f"nft {op} of two values of the packet")
        if isinstance(left, Concat) or (flag_type(left.datatype) and op in ("<<", ">>")):
            raise self.stream.error(f"{op} cannot be applied to this")
        return Binop(op, left, right)

    def _primary(self, datatype: Datatype | None, bits: int) -> Expr:
        stream = self.stream
        if stream.take("("):
            inner = self.part(datatype, bits)
            stream.need(")")
            return inner
        if stream.is_("@") and stream.ahead().text in ("ll", "nh", "th"):
            return self._raw_payload()
        token = stream.token
        if token.kind is Kind.WORD and token.text in EXPRESSION_WORDS and not self._constant_word(datatype):
            found = self.load()
            self.dependencies.places[found] = token
            return found
        if datatype is None:
            raise stream.unexpected("an expression")
        return self.constant(datatype, bits)

    def _constant_word(self, datatype: Datatype | None) -> bool:
        """``tcp`` is a protocol's number where one is wanted, and ``ip`` an ether type."""
        if datatype is None:
            return False
        ahead = self.stream.ahead().text
        token = self.stream.token.text
        if datatype in (t.INET_PROTO, t.ETHER_TYPE, t.IFACE_TYPE):
            if token in PROTOCOLS and ahead in PROTOCOLS[token].fields:
                return False
            return token not in META_UNQUALIFIED
        return datatype.base is Base.STRING or datatype is t.CT_EVENT

    def load(self) -> Expr:
        """What is not a constant."""
        stream = self.stream
        token = stream.token
        word = stream.next().text
        if word in REFUSED_EXPRESSIONS:
            raise stream.refuse(f"nft expression {word}", token)
        if word == "meta":
            return self._meta(stream.word("a meta key"))
        if word == "ct":
            return self._ct()
        if word == "fib":
            return self._fib()
        if word == "numgen":
            return self._numgen()
        if word in ("jhash", "symhash"):
            return self._hash(word)
        if word == "exthdr":
            return ExtensionHeader(self._one_of(EXTENSION_HEADERS, "an extension header"))
        if word == "rt" and stream.is_("ip", "ip6", "nexthop", "mtu", "classid", "ipsec"):
            return self._rt()
        if word in EXTENSION_HEADERS:
            return ExtensionHeader(word, self._one_of(EXTENSION_HEADERS[word][1], f"a field of {word}"))
        if word in META_UNQUALIFIED:
            return self._meta(word)
        if word == "tcp" and stream.take("option"):
            return self._tcp_option()
        if word == "ip" and stream.is_("option"):
            raise stream.refuse("nft expression ip option", token)
        if word == "sctp" and stream.is_("chunk"):
            raise stream.refuse("nft expression sctp chunk", token)
        if word == "icmpv6" and stream.take("param-problem"):
            return Payload(word, "parameter-problem")
        return Payload(word, self._one_of(PROTOCOLS[word].fields, f"a field of {word}"))

    def _one_of(self, names: Sequence[str] | object, what: str) -> str:
        token = self.stream.token
        if token.text not in names:  # type: ignore[operator]
            raise self.stream.error(f"{token.text!r} is not {what}", mend=f"one of {', '.join(names)}")  # type: ignore[arg-type]
        return self.stream.next().text

    def _raw_payload(self) -> Expr:
        stream = self.stream
        stream.need("@")
        base = {"ll": PayloadBase.LINK, "nh": PayloadBase.NETWORK, "th": PayloadBase.TRANSPORT}[stream.next().text]
        stream.need(",")
        offset = stream.number()
        stream.need(",")
        length = stream.number()
        if not 0 < length <= 128:
            raise stream.error(f"{length} bits cannot be looked at", mend="1 to 128")
        if offset % 8 or length % 8:
            raise stream.refuse("nft raw payload that is not whole bytes")
        context = self.context
        # a name by which it would be refused is none
        transport = context.transport if not context.other_transport(context.transport) else ""
        known = {PayloadBase.LINK: "", PayloadBase.NETWORK: context.network, PayloadBase.TRANSPORT: transport}[base]
        for protocol in (known, "th"):
            if protocol in PROTOCOLS and PROTOCOLS[protocol].base is base:
                for name, where in PROTOCOLS[protocol].fields.items():
                    # flags are compared whole here
                    if (where.offset, where.bits) == (offset, length) and not flag_type(where.datatype):
                        return Payload(protocol, name)
        return Payload("", "", base, offset, length)

    def _meta(self, key: str) -> Meta:
        if key in META_REFUSED:
            raise self.stream.refuse(f"nft expression meta {key}")
        if key == "nfproto" and self.context.family is not NftFamily.INET:
            raise self.stream.error("meta nfproto is only useful in the inet family")
        if key not in META:
            raise self.stream.error(f"{key!r} is not a meta key", mend=f"one of {', '.join(META)}")
        return Meta(key)

    def _ct(self) -> Expr:
        stream = self.stream
        direction = stream.take("original", "reply")
        key = stream.word("a ct key")
        if key in ("ip", "ip6"):
            key = f"{key} {stream.need('saddr', 'daddr')}"
        elif key in ("saddr", "daddr") and direction:
            if not self.context.network:
                raise stream.error(f"ct {key} of which family?", mend=f"write ct {direction} ip {key}")
            key = f"{self.context.network} {key}"
        if key in ("secmark", "event", "id", "timeout", "expectation"):
            raise stream.refuse(f"nft expression ct {key}")
        if key not in CT:
            raise stream.error(f"{key!r} is not a ct key", mend=f"one of {', '.join(CT)}")
        if key in ("l3proto", "protocol"):
            direction = ""  # the same in both, and nft forgets it
        elif direction and key not in CT_DIRECTED | CT_MAYBE_DIRECTED:
            raise stream.error(f"ct {key} has no direction")
        elif not direction and key in CT_DIRECTED:
            raise stream.error(f"ct {key} in which direction?", mend=f"write ct original {key} or ct reply {key}")
        if key in ("proto-src", "proto-dst") and not self.context.transport:
            raise stream.error(f"ct {key} of which protocol?", mend="test meta l4proto before")
        return Ct(key, direction)

    def _fib(self) -> Fib:
        stream = self.stream
        flags = [self._one_of(FIB_FLAGS, "a fib selector")]
        while stream.take("."):
            flags.append(self._one_of(FIB_FLAGS, "a fib selector"))
        result = self._one_of(FIB_RESULTS, "a fib result")
        if ("saddr" in flags) == ("daddr" in flags):
            raise stream.error("fib needs saddr or daddr, and not both")
        if "iif" in flags and "oif" in flags:
            raise stream.error("fib takes iif or oif, not both")
        present = stream.is_("exists", "missing") and result != "type"
        return Fib(tuple(flag for flag in FIB_FLAGS if flag in flags), result, present)

    def _rt(self) -> Rt:
        stream = self.stream
        if stream.is_("classid", "ipsec"):
            raise stream.refuse(f"nft expression rt {stream.token.text}")
        family = stream.take("ip", "ip6")
        key = stream.need("nexthop", "mtu") if not family else stream.need("nexthop")
        if key == "nexthop":
            family = family or self.context.network
            if not family:
                raise stream.error("rt nexthop of which family?", mend="write rt ip nexthop")
            return Rt(f"{family} nexthop")
        return Rt(key)

    def _numgen(self) -> Numgen:
        stream = self.stream
        mode = stream.need("inc", "random")
        stream.need("mod")
        modulus = stream.number()
        return Numgen(mode, modulus, stream.number() if stream.take("offset") else 0)

    def _hash(self, kind: str) -> Hash:
        stream = self.stream
        source = self.expression() if kind == "jhash" else None
        stream.need("mod")
        modulus = stream.number()
        seed = stream.number() if source is not None and stream.take("seed") else None
        return Hash(source, modulus, seed, stream.number() if stream.take("offset") else 0)

    def _tcp_option(self) -> TcpOption:
        stream = self.stream
        if stream.token.kind is Kind.NUMBER or stream.is_("@"):
            raise stream.refuse("nft expression tcp option by number")
        word = TCP_OPTION_ALIASES.get(stream.token.text, stream.token.text)
        if word not in TCP_OPTIONS:
            raise stream.error(f"{word!r} is not a TCP option", mend=f"one of {', '.join(TCP_OPTIONS)}")
        stream.next()
        return TcpOption(word, stream.next().text if stream.token.text in TCP_OPTIONS[word][1] else "")

    # ------------------------------------------------------------------------------------------- what it is compared to

    def constant(self, datatype: Datatype, bits: int = 0) -> Const:
        """One value of a type."""
        stream = self.stream
        token = stream.token
        if stream.is_("(") and flag_type(datatype):
            found = self.part(datatype, bits)
            assert isinstance(found, Const)
            return found
        text = stream.word(f"a value of type {datatype.name}")
        if datatype is t.CLASSID and stream.take(":"):
            text = f"{text}:{stream.word()}"
        return self.value(text, datatype, bits, token)

    def value(self, text: str, datatype: Datatype, bits: int, token: Token) -> Const:
        width = bits or datatype.bits
        try:
            if datatype is t.CT_LABEL and text.isdigit():
                return const(1 << int(text) if int(text) < 128 else 0, datatype)
            return Const(t.value_from_text(text, datatype, width, self.ifindex), datatype, width)
        except RulesetSyntaxError as error:
            self.stream.place(error, token)

    def item(self, datatype: Datatype, bits: int = 0) -> Expr:
        """A value, a prefix or a range; ``"eth*"`` of names."""
        stream = self.stream
        token = stream.token
        if datatype.base is Base.STRING and token.kind in (Kind.QUOTED, Kind.WORD) and token.text.endswith("*"):
            stream.next()
            name = token.text[:-1]
            if not name or name.endswith("\\"):
                raise stream.refuse("nft interface name with a literal *", token)
            value = Const(name.encode().ljust(16, b"\0"), datatype, datatype.bits)
            return Prefix(value, 8 * len(name.encode()))
        low = self.part(datatype, bits, 0)
        if not isinstance(low, Const):
            raise stream.error("a constant is wanted here")
        if not flag_type(datatype) and stream.take("/"):
            length = stream.number("the length of a prefix")
            if length > low.width:
                raise stream.error(f"a prefix of {datatype.name} has at most {low.width} bits")
            full = (1 << low.width) - 1
            mask = full >> length ^ full
            return Prefix(const(low.number & mask, low.type, low.width), length) if length < low.width else low
        if stream.take("-"):
            high = self.part(datatype, bits, 0)
            if not isinstance(high, Const):
                raise stream.error("a constant is wanted here")
            if high.data < low.data:
                raise stream.error("a range whose end is before its begin", token)
            return Range(low, high)
        return low

    def right_side(self, left: Expr) -> Expr:
        """What an expression is compared with: a constant, flags, a range, a prefix, a set."""
        stream = self.stream
        if stream.is_("{"):
            made = self.anonymous_set(left)
            # a set of one is none, unless it is one of concatenations
            alone = made.written[0]
            if len(made.written) == 1 and not isinstance(alone, (Concat, Wildcard)) and not made.elements[0].statements:
                return alone
            return made
        if stream.is_("@"):
            return self.set_reference(left, maps=False)
        if isinstance(left, Concat):
            raise stream.error("a concatenation is compared with sets and maps only", mend="write { … }")
        found = self.item(left.datatype, left.bits)
        if stream.is_(","):
            if not flag_type(left.datatype) or not isinstance(found, Const):
                raise stream.error("a list is only possible for flags", mend="write a set: { …, … }")
            number = found.number
            while stream.take(","):
                number |= self.constant(left.datatype, left.bits).number
            found = const(number, left.datatype, left.bits)
        return found

    def set_reference(self, key: Expr | None, *, maps: bool) -> SetRef:
        stream = self.stream
        stream.need("@")
        token = stream.token
        name = stream.word("the name of a set")
        found = self.find_set(name)
        if found is None:
            raise stream.error(f"there is no set {name}", token, mend="declare it before")
        if maps and not found.is_map:
            raise stream.error(f"{name} is a set, not a map", token)
        if key is not None:
            self.check_key(found, key, token)
        return SetRef(name)

    def check_key(self, found: NftSet, key: Expr, token: Token) -> None:
        """Whether a set has elements of that type: integers are of one if they have as many bytes.

        Raises:
            RulesetSyntaxError: "datatype mismatch", as nft says.
        """
        parts = concat_parts(key)
        sizes = [-(-part.bits // 8) for part in parts]
        names = [part.datatype.name for part in parts]
        if sizes != [-(-bits // 8) for bits in found.key_bits] or names != [one.name for one in found.key_types]:
            has, wanted = " . ".join(one.name for one in found.key_types), " . ".join(names)
            raise self.stream.error(f"set {found.name} has elements of type {has}, not {wanted}", token)

    # ---------------------------------------------------------------------------------------------------- sets and maps

    def elements(
        self,
        types: Sequence[tuple[Datatype, int]],
        data: Sequence[tuple[Datatype, int]] | None,
        statements: object = None,
    ) -> list[Element]:
        """``{ … }``: elements as written; ``data`` is what a map leads to (no types: verdicts)."""
        stream = self.stream
        stream.need("{")
        found: list[Element] = []
        while True:
            stream.skip_newlines()
            if stream.take("}"):
                return found
            found.append(self._element(types, data, statements))
            stream.skip_newlines()
            if not stream.is_("}"):
                stream.need(",")

    def _element(
        self, types: Sequence[tuple[Datatype, int]], data: Sequence[tuple[Datatype, int]] | None, statements: object
    ) -> Element:
        stream = self.stream
        key: Expr
        if stream.is_("*"):
            stream.next()
            key = Wildcard()
        elif len(types) == 1:
            key = self.item(*types[0])
        else:
            parts = []
            for number, (datatype, bits) in enumerate(types):
                if number:
                    stream.skip_newlines()
                    stream.need(".")
                    stream.skip_newlines()
                parts.append(self.item(datatype, bits))
            key = Concat(tuple(parts))
        timeout = expires = 0
        comment = ""
        state: list[Statement] = []
        while not stream.is_(",", "}", ":") and stream.token.kind is not Kind.NEWLINE:
            if stream.take("timeout"):
                timeout = t.time_from_text(stream.word("a time"))
            elif stream.take("expires"):
                expires = t.time_from_text(stream.word("a time"))
            elif stream.take("comment"):
                comment = stream.word("a comment")
            elif callable(statements) and stream.is_("counter", "limit", "quota", "ct"):
                state.append(statements())
            else:
                raise stream.unexpected(", or }")
        value: Expr | None = None
        if data is not None:
            stream.skip_newlines()
            stream.need(":")
            stream.skip_newlines()
            value = self.map_data(data)
        return Element(key, value, timeout, expires, comment, tuple(state))

    def map_data(self, types: Sequence[tuple[Datatype, int]]) -> Expr:
        """What an element leads to."""
        if not types:
            return self.verdict()
        parts = []
        for number, (datatype, bits) in enumerate(types):
            if number:
                self.stream.need(".")
            parts.append(canonical_key(self.item(datatype, bits)))
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def verdict(self) -> VerdictValue:
        kind = self.stream.word("a verdict")
        if kind == "queue":
            raise self.stream.refuse("nft statement queue")
        if kind not in _VERDICTS:
            raise self.stream.error(f"{kind!r} is not a verdict", mend=f"one of {', '.join(sorted(_VERDICTS))}")
        return VerdictValue(kind, self.stream.word("a chain") if kind in ("jump", "goto") else "")

    def anonymous_set(self, left: Expr, data: Sequence[tuple[Datatype, int]] | None = None) -> AnonymousSet:
        """A set in a rule: its elements in nft's order."""
        token = self.stream.token
        if not isinstance(left, Concat) and moved_operators(left):
            raise self.stream.refuse("nft match of ^, << or >> with several values", token)
        types = [(part.datatype, part.bits) for part in concat_parts(left)]
        elements = self.elements(types, data)
        if not elements:
            raise self.stream.error("a set in a rule needs an element", token)
        interval = any(has_interval(element.key) for element in elements)
        try:
            kept = ordered(elements, interval=interval, concat=len(types) > 1, merge=data is None)
        except RulesetSyntaxError as error:
            self.stream.place(error, token)
        written = tuple(element.key for element in elements)
        return AnonymousSet(tuple(kept), interval, left.datatype, written)

    def map_lookup(
        self, key: Expr, result: Sequence[tuple[Datatype, int]], token: Token, *, port: bool = False
    ) -> MapLookup:
        """``KEY map { … }`` or ``KEY map @NAME``, which leads to ``result``, with ``port`` maybe to a port as well."""
        stream = self.stream
        if stream.is_("@"):
            at = stream.ahead()
            reference = self.set_reference(key, maps=True)
            found = self.find_set(reference.name)
            assert found is not None
            wanted = [one.name for one, _ in result]
            has = [one.name for one in found.data_types]
            if has != wanted and not (port and has == [*wanted, t.INET_SERVICE.name]):
                leads = " . ".join(has) or "an object"
                raise stream.error(f"map {found.name} leads to {leads}, not {' . '.join(wanted)}", at)
            bits = sum(32 * -(-part.bits // 32) for part in found.data_types) if len(found.data_types) > 1 else 0
            datatype = (
                concat_type(found.data_types)
                if len(found.data_types) > 1
                else (found.data_types[0] if found.data_types else t.INTEGER)
            )
            return MapLookup(key, reference, datatype, bits or datatype.bits)
        if len(result) > 1:
            datatype = concat_type(tuple(one for one, _ in result))
            return MapLookup(key, self.anonymous_set(key, result), datatype, datatype.bits)
        return MapLookup(key, self.anonymous_set(key, result), result[0][0], result[0][1])
