"""nft's dataclasses as the text that ``nft list ruleset`` prints.

Tests that nft has added by itself are left out again where a later statement says as much
(``payload_dependency_kill`` in src/payload.c of nftables 1.0.6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_fields import META_PRINTED_BARE, PRIORITIES, PayloadBase, priority_name_fits
from pktsim.netfilter.nft_protocols import is_protocol
from pktsim.netfilter.nft_ruleset import (
    AnonymousSet,
    Assign,
    Binop,
    Concat,
    Const,
    Counter,
    Ct,
    CtCount,
    Element,
    Expr,
    ExtensionHeader,
    Fib,
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
    NftHook,
    NftObject,
    NftRule,
    NftRuleset,
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
    Rt,
    SetRef,
    SetUpdate,
    Statement,
    TcpOption,
    VerdictMap,
    VerdictStatement,
    VerdictValue,
    Wildcard,
    flag_type,
)
from pktsim.netfilter.nft_types import Base, time_to_text, value_to_text

_BYTE_UNITS: Final = ("bytes", "kbytes", "mbytes", "gbytes")
#: A named priority is printed for what is at most this far from it.
_REACH: Final = 10
_ELEMENT_BREAK: Final = ",\n\t\t\t     "

Names = Callable[[int], str]


def _no_name(_ifindex: int) -> str:
    return ""


@dataclass(slots=True)
class Printer:
    """Prints expressions and statements.

    Attributes:
        ifname: The name of an interface's index.
        stateless: Leave out what has been counted.
    """

    ifname: Names = _no_name
    stateless: bool = False

    # ------------------------------------------------------------------------------------------------------ expressions

    def const(self, value: Const, *, numeric: bool = False) -> str:
        if value.type is t.CT_LABEL:
            return ",".join(str(bit) for bit in range(128) if value.number >> bit & 1) or "0"
        return value_to_text(value.data, value.type, numeric=numeric, ifname=self.ifname)

    def expr(self, expr: Expr) -> str:
        """Any expression."""
        if isinstance(expr, Const):
            return self.const(expr)
        if isinstance(expr, Payload):
            if expr.protocol:
                return f"{expr.protocol} {expr.field}"
            base = {PayloadBase.LINK: "ll", PayloadBase.NETWORK: "nh", PayloadBase.TRANSPORT: "th"}[expr.base]
            return f"@{base},{expr.offset},{expr.length}"
        if isinstance(expr, Meta):
            return expr.key if expr.key in META_PRINTED_BARE else f"meta {expr.key}"
        if isinstance(expr, Ct):
            return f"ct {expr.direction} {expr.key}" if expr.direction else f"ct {expr.key}"
        if isinstance(expr, Prefix):
            if expr.datatype.base is Base.STRING:
                return '"' + expr.value.data[: expr.length // 8].decode(errors="replace") + '*"'
            return f"{self.const(expr.value)}/{expr.length}"
        if isinstance(expr, Range):
            return f"{self.const(expr.low, numeric=True)}-{self.const(expr.high, numeric=True)}"
        if isinstance(expr, Concat):
            return " . ".join(self.expr(part) for part in expr.parts)
        if isinstance(expr, Binop):
            left = self.expr(expr.left)
            if expr.op in ("<<", ">>"):
                return f"{left} {expr.op} {expr.right.number}"
            right = self._flags(expr.right, " | ")
            return f"{left} {expr.op} ({right})" if " | " in right else f"{left} {expr.op} {right}"
        if isinstance(expr, SetRef):
            return f"@{expr.name}"
        if isinstance(expr, AnonymousSet):
            return "{ " + ", ".join(self.element(element) for element in expr.elements) + " }"
        if isinstance(expr, MapLookup):
            return f"{self.expr(expr.key)} map {self.expr(expr.map)}"
        if isinstance(expr, VerdictValue):
            return f"{expr.kind} {expr.chain}" if expr.chain else expr.kind
        if isinstance(expr, Fib):
            return f"fib {' . '.join(expr.flags)} {expr.result}"
        if isinstance(expr, ExtensionHeader):
            return f"{expr.header} {expr.field}" if expr.field else f"exthdr {expr.header}"
        if isinstance(expr, TcpOption):
            return f"tcp option {expr.option} {expr.field}".rstrip()
        if isinstance(expr, Rt):
            return f"rt {expr.key}"
        if isinstance(expr, Numgen):
            return f"numgen {expr.mode} mod {expr.modulus}" + (f" offset {expr.offset}" if expr.offset else "")
        if isinstance(expr, Hash):
            text = f"jhash {self.expr(expr.source)}" if expr.source is not None else "symhash"
            text += f" mod {expr.modulus}"
            if expr.seed is not None:
                text += f" seed 0x{expr.seed:x}"
            return text + (f" offset {expr.offset}" if expr.offset else "")
        assert isinstance(expr, Wildcard), expr
        return "*"

    def _flags(self, value: Const, joint: str) -> str:
        text = self.const(value)
        return text.replace(",", joint) if flag_type(value.type) else text

    def element(self, element: Element) -> str:
        key = element.key
        text = self._flags(key, " | ") if isinstance(key, Const) else self.expr(key)
        for statement in element.statements:
            text += " " + self.statement(statement)
        if element.timeout_ms:
            text += f" timeout {time_to_text(element.timeout_ms)}"
        if element.expires_ms and not self.stateless:
            text += f" expires {time_to_text(element.expires_ms)}"
        if element.comment:
            text += f' comment "{element.comment}"'
        if element.data is not None:
            text += f" : {self.expr(element.data)}"
        return text

    # ------------------------------------------------------------------------------------------------------- statements

    def statement(self, statement: Statement) -> str:
        """One statement."""
        if isinstance(statement, MatchStatement):
            return self._match(statement)
        if isinstance(statement, VerdictStatement):
            return self.expr(statement.verdict)
        if isinstance(statement, VerdictMap):
            return f"{self.expr(statement.key)} vmap {self.expr(statement.map)}"
        if isinstance(statement, Counter):
            return "counter" if self.stateless else f"counter packets {statement.packets} bytes {statement.bytes}"
        if isinstance(statement, Limit):
            return f"limit {rate_text(statement)}"
        if isinstance(statement, Quota):
            return f"quota {self.quota(statement)}"
        if isinstance(statement, CtCount):
            return f"ct count {'over ' if statement.over else ''}{statement.count}"
        if isinstance(statement, ObjectRef):
            return f'{statement.kind} name "{statement.name}"'
        if isinstance(statement, Log):
            return _log_text(statement)
        if isinstance(statement, Reject):
            return self._reject(statement)
        if isinstance(statement, Nat):
            return self._nat(statement)
        if isinstance(statement, Notrack):
            return "notrack"
        if isinstance(statement, Assign):
            return f"{self.expr(statement.target)} set {self.expr(statement.value)}"
        assert isinstance(statement, SetUpdate), statement
        text = f"{statement.op} @{statement.set} {{ {self.expr(statement.key)}"
        if statement.timeout_ms:
            text += f" timeout {time_to_text(statement.timeout_ms)}"
        inner = Printer(self.ifname, stateless=True)
        for one in statement.statements:
            text += " " + inner.statement(one)
        if statement.data is not None:
            text += f" : {self.expr(statement.data)}"
        return text + " }"

    def quota(self, quota: Quota) -> str:
        text = f"{'over ' if quota.over else ''}{bytes_text(quota.bytes)}"
        return text + (f" used {bytes_text(quota.used)}" if quota.used and not self.stateless else "")

    def _match(self, statement: MatchStatement) -> str:
        left, op, right = statement.left, statement.op, statement.right
        masked = isinstance(left, Binop) and left.op == "&" and op in ("==", "!=")
        if masked and flag_type(left.datatype) and isinstance(left, Binop) and isinstance(right, Const):
            sign = "" if op == "==" else f"{op} "
            one = right.number & (right.number - 1) == 0
            if not (one and right == left.right):
                return f"{self.expr(left.left)} {sign}{self.const(right)} / {self.const(left.right)}"
            return f"{self.expr(left)} {op} {self.const(right)}"
        words = [self.expr(left)]
        explicit = op == "==" and (
            isinstance(left, Binop)
            or (
                isinstance(right, Const)
                and flag_type(left.datatype)
                and (isinstance(left, Payload) or right.number & (right.number - 1) == 0)
            )
        )
        if op not in ("", "==") or explicit:
            words.append(op)
        several = isinstance(right, Const) and right.number & (right.number - 1) != 0
        if isinstance(right, Const) and flag_type(left.datatype) and op not in ("", "!"):
            text = f"0x{right.number:x}" if several and isinstance(left, Payload) else self._flags(right, " | ")
            words.append(text if right.number else "0x0")
        else:
            words.append(self.expr(right))
        return " ".join(words)

    _network: str = ""
    _inet: bool = False

    def _reject(self, statement: Reject) -> str:
        if statement.kind == "tcp reset":
            return "reject with tcp reset"
        tables = {"icmp": t.ICMP_CODE, "icmpv6": t.ICMPV6_CODE, "icmpx": t.ICMPX_CODE}
        datatype = tables[statement.kind]
        default = datatype.symbols is not None and statement.code == datatype.symbols["port-unreachable"]
        if default and (statement.kind == "icmpx" or not self._inet):
            return "reject"
        return f"reject with {statement.kind} {value_to_text(bytes([statement.code]), datatype)}"

    def _nat(self, statement: Nat) -> str:
        text = statement.kind
        if statement.address is not None or statement.port is not None:
            if statement.written and statement.family and statement.address is not None:
                text += f" {statement.family}"
            text += " to"
        address, port = statement.address, statement.port
        if address is not None:
            if port is not None and address.datatype is t.IPV6_ADDR and isinstance(address, Const):
                text += f" [{self.const(address)}]"
            elif port is not None and address.datatype is t.IPV6_ADDR and isinstance(address, Range):
                text += f" [{self.const(address.low)}]-[{self.const(address.high)}]"
            else:
                text += f" {self.expr(address)}"
        if port is not None:
            text += f"{'' if address is not None else ' '}:{self.expr(port)}"
        if statement.flags:
            text += " " + ",".join(statement.flags)
        return text

    # ------------------------------------------------------------------------------------------------------------ rules

    def rule(self, rule: NftRule, family: NftFamily) -> str:
        """A rule as nft lists it."""
        self._inet = family is NftFamily.INET
        statements: list[Statement] = []
        for one in rule.statements:
            statements += one.parts if isinstance(one, JoinedMatch) else (one,)
        killed = redundant(statements, family)
        merge_ranges(statements, killed)
        words = [self.statement(one) for at, one in enumerate(statements) if at not in killed]
        if rule.comment:
            words.append(f'comment "{rule.comment}"')
        return " ".join(words)

    def ruleset(self, ruleset: NftRuleset, *, handles: bool = False) -> str:
        """``nft list ruleset``."""
        return "".join(self.table(table, handles=handles) for table in ruleset.tables)

    def table(self, table: NftTable, *, handles: bool = False) -> str:
        """``nft list table``."""
        head = f"table {table.family.value} {table.name} {{"
        if handles:
            head += f" # handle {table.handle}"
        blocks = [self.object(one, handles=handles) for one in table.objects]
        blocks += [self.set(one, handles=handles) for one in table.sets]
        blocks += [self.chain(one, table.family, handles=handles) for one in table.chains]
        lines = head + "\n"
        if table.dormant:
            lines += "\tflags dormant\n"
        if table.comment:
            lines += f'\tcomment "{table.comment}"\n'
        separator = "\n" if table.dormant else ""
        return lines + (separator + "\n".join(blocks) if blocks else "") + "}\n"

    def object(self, one: NftObject, *, handles: bool = False) -> str:
        head = f"\t{one.kind} {one.name} {{" + (f" # handle {one.handle}" if handles else "") + "\n"
        if one.comment:
            head += f'\t\tcomment "{one.comment}"\n'
        state = one.state
        if isinstance(state, Counter):
            text = f"packets {state.packets} bytes {state.bytes}"
        elif isinstance(state, Quota):
            text = self.quota(state)
        else:
            assert isinstance(state, Limit)
            text = rate_text(state)
        return f"{head}\t\t{text}\n\t}}\n"

    def set(self, one: NftSet, *, handles: bool = False) -> str:
        kind = "map" if one.is_map else "set"
        lines = [f"\t{kind} {one.name} {{" + (f" # handle {one.handle}" if handles else "")]
        if one.typeof:
            text = "typeof " + " . ".join(self.expr(part) for part in one.typeof)
        else:
            text = "type " + " . ".join(part.name for part in one.key_types)
        if one.data_typeof:
            text += " : " + " . ".join(self.expr(part) for part in one.data_typeof)
        elif one.data_types:
            text += " : " + " . ".join(part.name for part in one.data_types)
        elif one.object_kind:
            text += f" : {one.object_kind}"
        lines.append(f"\t\t{text}")
        if one.policy:
            lines.append(f"\t\tpolicy {one.policy}")
        if one.size:
            lines.append(f"\t\tsize {one.size}")
        shown = one.flags - {"timeout"} if one.timeout_ms else one.flags
        if shown:
            names = [name for name in ("constant", "dynamic", "interval", "timeout") if name in one.flags]
            lines.append("\t\tflags " + ",".join(names))
        if one.statements:
            inner = Printer(self.ifname, stateless=True)
            lines.append("\t\t" + " ".join(inner.statement(statement) for statement in one.statements))
        if one.auto_merge:
            lines.append("\t\tauto-merge")
        if one.timeout_ms:
            lines.append(f"\t\ttimeout {time_to_text(one.timeout_ms)}")
        if one.gc_interval_ms:
            lines.append(f"\t\tgc-interval {time_to_text(one.gc_interval_ms)}")
        if one.comment:
            lines.append(f'\t\tcomment "{one.comment}"')
        if one.elements:
            lines.append("\t\telements = { " + self._elements(one) + " }")
        return "\n".join(lines) + "\n\t}\n"

    def _elements(self, one: NftSet) -> str:
        """Several in a line where they are short (``calculate_delim``)."""
        per_line = one.key_types[0].per_line if len(one.key_types) == 1 else 1
        text = ""
        for count, element in enumerate(one.elements):
            if text:
                text += ", " if count % per_line else _ELEMENT_BREAK
            text += self.element(element)
        return text

    def chain(self, chain: NftChain, family: NftFamily, *, handles: bool = False) -> str:
        lines = [f"\tchain {chain.name} {{" + (f" # handle {chain.handle}" if handles else "")]
        if chain.comment:
            lines.append(f'\t\tcomment "{chain.comment}"')
        base = chain.base
        if base is not None:
            lines.append(f"\t\ttype {base.type} hook {base.hook} priority {priority_text(base)}; policy {base.policy};")
        for rule in chain.rules:
            text = self.rule(rule, family)
            lines.append("\t\t" + text + (f" # handle {rule.handle}" if handles else ""))
        return "\n".join(lines) + "\n\t}\n"


def priority_text(base: NftHook) -> str:
    """``prio2str``: near a named priority by that name."""
    for name, number in PRIORITIES.items():
        offset = base.priority - number
        if abs(offset) <= _REACH:
            if not priority_name_fits(name, base.hook):
                break
            return f"{name} {'+' if offset > 0 else '-'} {abs(offset)}" if offset else name
    return str(base.priority)


def bytes_text(number: int) -> str:
    """``get_rate``."""
    unit = 0
    while number and unit < len(_BYTE_UNITS) - 1 and number % 1024 == 0:
        number //= 1024
        unit += 1
    return f"{number} {_BYTE_UNITS[unit]}"


def rate_text(limit: Limit) -> str:
    """A limit without the word."""
    over = "over " if limit.over else ""
    if limit.by_bytes:
        burst = f" burst {bytes_text(limit.burst)}" if limit.burst else ""
        return f"rate {over}{bytes_text(limit.rate)}/{limit.unit}{burst}"
    burst = f" burst {limit.burst} packets" if limit.burst and limit.burst != 5 else ""
    return f"rate {over}{limit.rate}/{limit.unit}{burst}"


def _log_text(log: Log) -> str:
    text = "log"
    if log.prefix:
        text += f' prefix "{log.prefix}"'
    if log.group is not None:
        text += f" group {log.group}"
    if log.snaplen is not None:
        text += f" snaplen {log.snaplen}"
    if log.queue_threshold is not None:
        text += f" queue-threshold {log.queue_threshold}"
    if log.level:
        text += f" level {log.level}"
    tcp = [flag.removeprefix("tcp ") for flag in log.flags if flag.startswith("tcp ")]
    if tcp:
        text += " flags tcp " + ",".join(tcp)
    for flag in log.flags:
        if not flag.startswith("tcp "):
            text += f" flags {flag}"
    return text


# ------------------------------------------------------------------------------------------- what nft leaves out again


@dataclass(slots=True)
class _Dependencies:
    """The tests that a later statement may make redundant, by the layer that they are about."""

    family: NftFamily
    statements: Sequence[Statement]
    killed: set[int] = field(default_factory=set)
    #: LINK + 1 = NETWORK and so on; INNER is what is within the transport header (ICMP by its type).
    stored: dict[int, int] = field(default_factory=dict)
    icmp_type: int | None = None

    def match(self, at: int) -> MatchStatement:
        found = self.statements[at]
        assert isinstance(found, MatchStatement)
        return found

    def exists(self, base: int) -> int | None:
        found = self.stored.get(base)
        if found is None and base == _TRANSPORT:
            found = self.stored.get(_INNER)
        return found

    def release(self, base: int) -> None:
        key = base if base in self.stored else _INNER
        self.killed.add(self.stored.pop(key))

    def kill_by_payload(self, payload: Payload) -> None:
        base = payload.header + 1
        at = self.exists(base)
        if payload.protocol and at is not None and self._may_kill(self.match(at), payload):
            self.release(base)

    def _may_kill(self, dependency: MatchStatement, payload: Payload) -> bool:
        left = dependency.left
        if self.family is NftFamily.INET and isinstance(left, Payload):
            if left.protocol in ("ip", "ip6") and payload.header is PayloadBase.TRANSPORT:
                return False
            if dependency.op == "==" and left.header is payload.header and is_protocol(payload):
                return False
        if payload.header is not PayloadBase.TRANSPORT or not isinstance(left, Payload):
            return True
        if left.header is PayloadBase.TRANSPORT and left.protocol in ("icmp", "icmpv6"):
            types = payload.header_field.icmp_types
            return bool(types) and left.protocol == payload.protocol and self._icmp_type_is(types)
        return True

    def _icmp_type_is(self, types: tuple[int, ...]) -> bool:
        return self.icmp_type is not None and self.icmp_type in types

    def kill_by_kernel(self, statement: MatchStatement, base: int) -> None:
        """By what is asked of the packet's meta data or connection."""
        at = self.exists(base)
        if at is not None and self._meta_may_kill(self.match(self.stored.get(_NETWORK, at)), statement):
            self.release(base)

    def _meta_may_kill(self, dependency: MatchStatement, statement: MatchStatement) -> bool:
        left, right = dependency.left, dependency.right
        assert isinstance(right, Const)
        if isinstance(left, Meta) and left.key == "nfproto":
            known = {2: "ip", 10: "ip6"}.get(right.number, "")
        elif isinstance(left, Payload) and left.protocol == "ether":
            known = {0x0800: "ip", 0x86DD: "ip6"}.get(right.number, "")
        else:
            return True
        if self.family is not NftFamily.INET:
            return self.family.value == known
        assert isinstance(statement.left, (Meta, Ct))
        assert isinstance(statement.right, Const)
        if statement.left.key != "l4proto":
            return True
        return (known, statement.right.number) in (("ip", 1), ("ip6", 58))

    def store(self, at: int, base: int) -> None:
        statement = self.match(at)
        left, right = statement.left, statement.right
        if isinstance(left, Payload) and left.protocol in ("icmp", "icmpv6") and isinstance(right, Const):
            number = right.number
            self.icmp_type = 8 if left.protocol == "icmp" and number == 0 else number
            if self.icmp_type in ((8,) if left.protocol == "icmp" else (128, 129)):
                return
        self.stored[base + 1] = at


_PHYSICAL, _LINK, _NETWORK, _TRANSPORT, _INNER = 0, 1, 2, 3, 4
#: What a meta key is about.
_META_LAYERS: Final = {"l4proto": _NETWORK, "nfproto": _LINK, "iiftype": _PHYSICAL}
#: The same of what connection tracking knows.
_CT_LAYERS: Final = {"protocol": _NETWORK, "l3proto": _LINK}


def redundant(statements: Sequence[Statement], family: NftFamily) -> set[int]:
    """Which statements nft does not print."""
    state = _Dependencies(family, statements)
    for at, statement in enumerate(statements):
        if isinstance(statement, MatchStatement):
            _visit_match(state, at, statement)
            continue
        if isinstance(statement, VerdictMap):
            _visit(state, statement.key)
            continue
        if isinstance(statement, Reject):
            if family is NftFamily.INET:
                if statement.kind != "icmpx" and state.exists(_NETWORK) is not None:
                    state.release(_NETWORK)
            elif statement.kind == "tcp reset" and state.exists(_TRANSPORT) is not None:
                state.release(_TRANSPORT)
        elif isinstance(statement, Assign):
            if not isinstance(statement.target, TcpOption):
                _visit(state, statement.target)
            _visit(state, statement.value)
        elif isinstance(statement, SetUpdate):
            _visit(state, statement.key)
            if statement.data is not None:
                _visit(state, statement.data)
        elif isinstance(statement, Nat):
            if statement.address is not None:
                _visit(state, statement.address)
            if statement.port is not None:
                state.stored.clear()
                _visit(state, statement.port)
        state.stored.clear()
        state.icmp_type = None
    return state.killed


def _visit_match(state: _Dependencies, at: int, statement: MatchStatement) -> None:
    left = statement.left
    if isinstance(left, Payload):
        state.kill_by_payload(left)
        if statement.op == "==" and isinstance(statement.right, Const) and is_protocol(left):
            state.store(at, left.header + 1)
    elif isinstance(left, (Meta, Ct)):
        base = (_META_LAYERS if isinstance(left, Meta) else _CT_LAYERS).get(left.key)
        if statement.op == "==" and isinstance(statement.right, Const) and base is not None:
            state.kill_by_kernel(statement, base)
            state.store(at, base)
    else:
        _visit(state, left)


def _visit(state: _Dependencies, expr: Expr) -> None:
    if isinstance(expr, Payload):
        state.kill_by_payload(expr)
    elif isinstance(expr, ExtensionHeader):
        if state.exists(_NETWORK) is not None:
            state.release(_NETWORK)
    elif isinstance(expr, TcpOption):
        if state.exists(_TRANSPORT) is not None:
            state.release(_TRANSPORT)
    elif isinstance(expr, Concat):
        for part in expr.parts:
            _visit(state, part)
    elif isinstance(expr, Binop):
        _visit(state, expr.left)
    elif isinstance(expr, MapLookup):
        _visit(state, expr.key)
    elif isinstance(expr, Hash) and expr.source is not None:
        _visit(state, expr.source)


#: Two tests one behind the other that nft takes for one of a range, and whether of what is in it.
_RANGE_TESTS: Final = {(">=", "<="): "==", ("<", ">"): "!="}


def merge_ranges(statements: list[Statement], killed: set[int]) -> None:
    """Put the test of a range in the place of two bounds, as nft does where both look at things of one kind.

    That need not be the same field: ``ip ttl < 5 ip length > 40`` is listed as ``ip length != 5-40``
    (``expr_may_merge_range`` of src/netlink_delinearize.c). Only what is listed is affected.
    """
    for at in range(1, len(statements)):
        first, second = statements[at - 1], statements[at]
        if not isinstance(first, MatchStatement) or not isinstance(second, MatchStatement):
            continue
        op = _RANGE_TESTS.get((first.op, second.op))
        low, high = first.right, second.right
        if op and isinstance(low, Const) and isinstance(high, Const) and _of_one_kind(first.left, second.left):
            data = low.data.rjust(len(high.data), b"\0")
            statements[at] = MatchStatement(second.left, op, Range(Const(data, high.type, 8 * len(data)), high))
            killed.add(at - 1)


def _of_one_kind(first: Expr, second: Expr) -> bool:
    if isinstance(first, Binop) and isinstance(second, Binop):
        return _of_one_kind(first.left, second.left)
    return type(first) is type(second)
