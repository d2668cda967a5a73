"""Which protocols the statements of a rule have established so far, and the tests that nft adds for what is missing.

Names, types and added tests depend on it, and so does whether a field can be looked at at all. Source: src/proto.c,
src/evaluate.c and src/payload.c of nftables 1.0.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pktsim.errors import RulesetSyntaxError
from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_fields import PROTOCOLS, TRANSPORTS, PayloadBase
from pktsim.netfilter.nft_lexer import Token, TokenStream
from pktsim.netfilter.nft_ruleset import (
    AnonymousSet,
    Const,
    Ct,
    Element,
    Expr,
    ExtensionHeader,
    MatchStatement,
    Meta,
    NftFamily,
    Payload,
    Statement,
    const,
    leaves,
)

_TRANSPORT_FIELDS: Final = {("ip", "protocol"), ("ip6", "nexthdr"), ("ah", "nexthdr"), ("comp", "nexthdr")}
_FOLLOWING_FIELDS: Final = frozenset({*_TRANSPORT_FIELDS, ("ether", "type"), ("icmp", "type"), ("icmpv6", "type")})
_ETHER_TYPES: Final = {0x0800: "ip", 0x86DD: "ip6"}
_NF_PROTOS: Final = {2: "ip", 10: "ip6"}
#: What nft calls a protocol whose header it does not know (``proto_unknown``).
_UNKNOWN: Final = "unknown"


def is_protocol(payload: Payload) -> bool:
    """Whether a field says which header follows."""
    return (payload.protocol, payload.field) in _FOLLOWING_FIELDS


def known_field(payload: Payload, transport: str) -> Payload:
    """``th dport`` by the name that it has in the transport protocol that is known; so ICMP has it for its checksum."""
    if payload.protocol == "th" and transport:
        wanted = payload.header_field
        for name, where in PROTOCOLS[transport].fields.items():
            if (where.offset, where.bits) == (wanted.offset, wanted.bits):
                return Payload(transport, name)
    return payload


def _constants(right: Expr) -> list[int]:
    """What a test compares with, as written: one value or those of a set."""
    if isinstance(right, AnonymousSet):
        return [key.number for key in right.written if isinstance(key, Const)]
    return [right.number] if isinstance(right, Const) else []


@dataclass(slots=True)
class ProtocolContext:
    """What the statements so far say about the packet's protocols.

    Attributes:
        family: The table's.
        network: The network protocol, if one has been asked for; ``unknown`` for one that nft has no header of.
        networks: How many of them the last test left open.
        transport: The transport protocol that was asked for last, alone and by a name that has a header.
        last_transport: The one asked for last, one of several or ``unknown`` as it may be.
        transports: All transport protocols that have been asked for. As soon as these are several, contradictory or
            alternatives of a set, no field of any can be looked at (``proto_ctx_is_ambiguous``).
        icmp_type: The type that was asked for last.
        transport_seen: Some transport protocol has been asked for, perhaps one of several.
        link: The link layer.
    """

    family: NftFamily
    network: str = ""
    networks: int = 0
    transport: str = ""
    last_transport: str = ""
    transports: list[str] = field(default_factory=list)
    icmp_type: int | None = None
    transport_seen: bool = False
    link: str = ""

    def __post_init__(self) -> None:
        if self.family is not NftFamily.INET:
            self.network = self.family.value

    def learn(self, left: Expr, right: Expr) -> None:
        """A test for equality that goes on has told something (``relational_expr_pctx_update``)."""
        if isinstance(left, Meta):
            if left.key == "iiftype" and isinstance(right, Const):
                self.link = "ether" if right.number == 1 else _UNKNOWN
            elif left.key == "l4proto":
                self._learn_transport(right, _UNKNOWN)
            elif left.key == "nfproto":
                self._learn_network(right, _NF_PROTOS, _UNKNOWN)
        elif isinstance(left, Ct):
            if left.key == "protocol":
                self.transport_seen = True
                if self.network in _NF_PROTOS.values():
                    self._learn_transport(right, "")
            elif left.key == "l3proto" and self.family is NftFamily.INET:
                self._learn_network(right, _NF_PROTOS, _UNKNOWN)
        elif isinstance(left, Payload):
            if (left.protocol, left.field) in _TRANSPORT_FIELDS:
                self._learn_transport(right, "")
            elif (left.protocol, left.field) == ("ether", "type"):
                self._learn_network(right, _ETHER_TYPES, "")
            elif left.field == "type" and left.protocol in ("icmp", "icmpv6"):
                for number in _constants(right):
                    self.icmp_type = number

    def _learn_transport(self, right: Expr, unknown: str) -> None:
        for number in _constants(right):
            name = TRANSPORTS.get(number, unknown)
            self.transport_seen = self.transport_seen or bool(name)
            self.last_transport = name or self.last_transport
            if name and name not in self.transports:
                self.transports.append(name)
        if isinstance(right, Const) and (unknown or right.number in TRANSPORTS):
            self.transport = TRANSPORTS.get(right.number, "")

    def _learn_network(self, right: Expr, names: Mapping[int, str], unknown: str) -> None:
        numbers = _constants(right)
        self.networks = len(numbers) or self.networks
        for number in numbers:
            self.network = names.get(number, unknown or self.network)

    def other_transport(self, protocol: str) -> str:
        """What contradicts that a packet has this transport protocol; nothing if it can have it."""
        return next((name for name in self.transports if name != protocol), "")


@dataclass(slots=True)
class Dependencies:
    """Adds the tests without which a field would be read from the wrong header (``payload_gen_dependency``).

    Attributes:
        stream: For messages.
        context: The protocols known so far.
        before: The statements added in front of the one being read.
        first: Those added in front of the whole rule.
        places: Where each expression stands in the text.
    """

    stream: TokenStream
    context: ProtocolContext
    before: list[Statement] = field(default_factory=list)
    first: list[Statement] = field(default_factory=list)
    places: dict[Expr, Token] = field(default_factory=dict)

    def require(self, expr: Expr | None) -> None:
        """Everything that this expression needs."""
        for leaf in leaves(expr):
            token = self.places.get(leaf)
            if isinstance(leaf, Payload):
                self.require_protocol(leaf.protocol, token)
                if leaf.protocol and leaf.header_field.icmp_types:
                    self._require_icmp_type(leaf, token)
            elif isinstance(leaf, ExtensionHeader):
                behind = len(self.before)
                self._require_network("ip6", token)
                self.first += self.before[behind:]  # expr_evaluate_exthdr
                del self.before[behind:]
            elif isinstance(leaf, Ct) and leaf.key.startswith(("ip ", "ip6 ")):
                family = leaf.key.split()[0]
                if self.context.network not in ("", family):
                    raise self._conflict(self.context.network, family, token)

    def require_protocol(self, protocol: str, token: Token | None = None) -> None:
        """What a field of this protocol needs."""
        if protocol in ("", "th"):
            return
        context = self.context
        desc = PROTOCOLS[protocol]
        if desc.base is PayloadBase.NETWORK:
            self._require_network(protocol, token)
        elif desc.base is PayloadBase.LINK:
            if not context.link:
                self._add(Meta("iiftype"), const(1, t.IFACE_TYPE))
        elif other := context.other_transport(protocol):
            raise self._conflict(other, protocol, token)
        elif not context.transports:
            if protocol in ("icmp", "igmp") and not context.network:
                self._require_network("ip", token)
            elif protocol == "icmpv6" and not context.network:
                self._require_network("ip6", token)
            self._add(Meta("l4proto"), const(desc.number, t.INET_PROTO))

    def _add(self, left: Expr, right: Expr) -> None:
        self.before.append(MatchStatement(left, "==", right))
        self.context.learn(left, right)

    def _conflict(self, known: str, wanted: str, token: Token | None) -> RulesetSyntaxError:
        return self.stream.error(f"conflicting protocols specified: {known} vs. {wanted}", token)

    def _require_network(self, protocol: str, token: Token | None) -> None:
        known = self.context.network
        if known == protocol:
            return
        if known or self.context.link == _UNKNOWN:
            raise self._conflict(known or self.context.link, protocol, token)
        if self.context.link:
            self._add(Payload("ether", "type"), const(0x0800 if protocol == "ip" else 0x86DD, t.ETHER_TYPE))
        else:
            self._add(Meta("nfproto"), const(2 if protocol == "ip" else 10, t.NF_PROTO))

    def _require_icmp_type(self, leaf: Payload, token: Token | None) -> None:
        types = leaf.header_field.icmp_types
        if self.context.icmp_type in types:
            return
        if self.context.icmp_type is not None:
            raise self.stream.error(f"{leaf.protocol} {leaf.field} is not in messages of this type", token)
        field_ = Payload(leaf.protocol, "type")
        if len(types) == 1:
            self._add(field_, const(types[0], field_.datatype))
        else:
            keys = tuple(const(number, field_.datatype) for number in types)
            self.before.append(
                MatchStatement(
                    field_, "==", AnonymousSet(tuple(Element(key) for key in keys), False, field_.datatype, keys)
                )
            )
            self.context.icmp_type = types[0]
