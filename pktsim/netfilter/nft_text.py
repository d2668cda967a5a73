"""nft scripts (``nft -f``): blocks as ``nft list ruleset`` prints them, and commands.

Source: src/parser_bison.y and src/rule.c of nftables 1.0.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pktsim.errors import RulesetSyntaxError
from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_expressions import ExpressionParser
from pktsim.netfilter.nft_fields import HOOKS, PRIORITIES
from pktsim.netfilter.nft_lexer import Kind, Token, TokenStream, tokenize
from pktsim.netfilter.nft_print import Printer
from pktsim.netfilter.nft_protocols import ProtocolContext
from pktsim.netfilter.nft_ruleset import (
    Counter,
    Element,
    Expr,
    Limit,
    NftFamily,
    NftHook,
    NftObject,
    NftRuleset,
    NftSet,
    Quota,
    Statement,
    concat_parts,
)
from pktsim.netfilter.nft_statements import RuleParser, StatementParser
from pktsim.netfilter.nft_transaction import NftEditError, NftTableEdit, NftTransaction
from pktsim.netfilter.nft_types import DATATYPES, Datatype

_FAMILIES: Final = {family.value: family for family in NftFamily}
_REFUSED_FAMILIES: Final = ("bridge", "netdev", "arp")
_OBJECTS: Final = ("counter", "quota", "limit")
_REFUSED_OBJECTS: Final = ("flowtable", "secmark", "synproxy", "ct")
_COMMANDS: Final = ("add", "create", "insert", "delete", "flush", "replace", "list", "reset", "rename")


def _no_index(_name: str) -> int:
    return 0


@dataclass(slots=True)
class ScriptOutcome:
    """What a script leads to."""

    ruleset: NftRuleset
    output: str = ""


def run_script(
    ruleset: NftRuleset,
    text: str,
    *,
    file: str | None = None,
    ifindex: Callable[[str], int] = _no_index,
    ifname: Callable[[int], str] = lambda _ifindex: "",
) -> ScriptOutcome:
    """``nft -f``: all commands or none.

    Args:
        ruleset: What is loaded.
        text: The script.
        file: For messages.
        ifindex: The index of an interface's name (0: there is none).
        ifname: The other way round.

    Raises:
        RulesetSyntaxError: nft or the kernel would refuse it.
        UnsupportedFeature: Something that is not modelled.
    """
    script = _Script(NftTransaction(ruleset), TokenStream(tokenize(text, file), file), ifindex, ifname)
    script.run()
    try:
        return ScriptOutcome(script.transaction.commit(), script.output)
    except NftEditError as error:
        raise RulesetSyntaxError(error.what, token=error.token, mend=error.mend, file=file) from None


def parse_ruleset(text: str, *, file: str | None = None, ifindex: Callable[[str], int] = _no_index) -> NftRuleset:
    """The ruleset that a script makes of nothing."""
    return run_script(NftRuleset(), text, file=file, ifindex=ifindex).ruleset


@dataclass(slots=True)
class _Script:
    transaction: NftTransaction
    stream: TokenStream
    ifindex: Callable[[str], int]
    ifname: Callable[[int], str]
    output: str = ""
    #: The rules of a block, which are read when all of its chains and sets are known.
    late: list[tuple[NftTableEdit, str, int]] = field(default_factory=list)

    def run(self) -> None:
        stream = self.stream
        while True:
            stream.skip_separators()
            if stream.token.kind is Kind.END:
                return
            token = stream.token
            try:
                self._command()
            except NftEditError as error:
                stream.place(error, token)
            if not stream.ended:
                raise stream.unexpected("the end of the command")

    def _command(self) -> None:
        stream = self.stream
        if stream.is_("include"):
            raise stream.refuse("nft include")
        word = stream.take("define", "redefine", "undefine")
        if word:
            self._define(word)
            return
        if stream.is_("table"):
            self._add("add")
            return
        if stream.is_("export", "monitor", "describe", "import", "destroy", "get"):
            raise stream.refuse(f"nft command {stream.token.text}")
        verb = stream.need(*_COMMANDS)
        if verb in ("add", "create"):
            self._add(verb)
        elif verb == "insert":
            stream.need("rule")
            self._rule_command("insert")
        elif verb == "replace":
            stream.need("rule")
            self._rule_command("replace")
        elif verb == "delete":
            self._delete()
        elif verb == "flush":
            self._flush()
        elif verb == "list":
            self._list()
        else:
            raise stream.refuse(f"nft command {verb}")

    def _define(self, word: str) -> None:
        stream = self.stream
        name = stream.word("the name of a variable")
        if word == "undefine":
            if stream.variables.pop(name, None) is None:
                raise stream.error(f"there is no variable {name}")
            return
        if word == "define" and name in stream.variables:
            raise stream.error(f"variable {name} is defined already", mend="use redefine")
        stream.need("=")
        value: list[Token] = []
        depth = 0
        while stream.token.kind is not Kind.END and (depth or not stream.ended or stream.is_("}")):
            token = stream.token
            if token.kind is Kind.NEWLINE and not depth:
                break
            depth += {"{": 1, "}": -1}.get(token.text, 0) if token.kind is Kind.OPERATOR else 0
            value.append(stream.next())
            if token.text == "}" and not depth:
                break
        if not value:
            raise stream.unexpected("a value")
        stream.variables[name] = value

    # ------------------------------------------------------------------------------------------------------------ names

    def _family(self) -> NftFamily:
        stream = self.stream
        if stream.is_(*_REFUSED_FAMILIES):
            raise stream.refuse(f"nft table of family {stream.token.text}")
        if stream.token.text in _FAMILIES and stream.token.kind is Kind.WORD and stream.ahead().text != "{":
            return _FAMILIES[stream.next().text]
        return NftFamily.IP

    def _table(self) -> NftTableEdit:
        family = self._family()
        return self.transaction.table(family, self.stream.word("the name of a table"))

    # -------------------------------------------------------------------------------------------------------------- add

    def _add(self, verb: str) -> None:
        stream = self.stream
        create = verb == "create"
        kind = stream.token.text
        if kind in ("element",):
            stream.next()
            table = self._table()
            self._elements(table, stream.word("the name of a set"), create=create)
        elif kind == "table":
            stream.next()
            family = self._family()
            table = self.transaction.add_table(family, stream.word("the name of a table"), create=create)
            if stream.take("{"):
                self._table_block(table)
        elif kind == "chain":
            stream.next()
            table = self._table()
            name = stream.word("the name of a chain")
            self._chain(table, name, create=create)
        elif kind in ("set", "map"):
            stream.next()
            table = self._table()
            self._set(table, stream.word("a name"), kind, create=create)
        elif kind in _REFUSED_OBJECTS:
            raise stream.refuse(f"nft {kind} object" if kind != "flowtable" else "nft flowtable")
        elif kind in _OBJECTS:
            stream.next()
            table = self._table()
            self._object(table, kind, stream.word("a name"), create=create)
        elif kind == "rule" or verb == "add":
            stream.take("rule")
            self._rule_command("add")
        else:
            raise stream.unexpected("table, chain, rule, set, map or element")

    def _table_block(self, table: NftTableEdit) -> None:
        stream = self.stream
        first_late = len(self.late)
        elements: list[tuple[str, int]] = []
        while True:
            stream.skip_separators()
            if stream.take("}"):
                break
            token = stream.token
            word = stream.word("chain, set, map or an object")
            if word == "comment":
                table.comment = stream.word("a comment")
            elif word == "flags":
                self._table_flags(table)
            elif word == "chain":
                self._chain(table, stream.word("the name of a chain"), block=True)
            elif word in ("set", "map"):
                self._set(table, stream.word("a name"), word, late=elements)
            elif word in _OBJECTS:
                self._object(table, word, stream.word("a name"))
            elif word in _REFUSED_OBJECTS:
                raise stream.refuse(f"nft {word} object" if word != "flowtable" else "nft flowtable", token)
            else:
                raise stream.error(
                    f"{word!r} is nothing that a table has", token, mend="chain, set, map, counter, quota"
                )
        end = stream.mark()
        for name, mark in elements:
            stream.reset(mark)
            self._elements(table, name)
        for edit, chain, mark in self.late[first_late:]:
            stream.reset(mark)
            token = stream.token
            try:
                edit.add_rule(chain, self._rule_parser(edit).rule())
            except NftEditError as error:
                stream.place(error, token)
        del self.late[first_late:]
        stream.reset(end)

    def _table_flags(self, table: NftTableEdit) -> None:
        stream = self.stream
        while True:
            word = stream.word("a flag")
            if word != "dormant":
                raise stream.refuse(f"nft table flag {word}")
            table.dormant = True
            if not stream.take(","):
                return

    # ----------------------------------------------------------------------------------------------------------- chains

    def _chain(self, table: NftTableEdit, name: str, *, create: bool = False, block: bool = False) -> None:
        stream = self.stream
        base: NftHook | None = None
        comment = policy = ""
        marks: list[int] = []
        if stream.take("{"):
            while True:
                stream.skip_separators()
                if stream.take("}"):
                    break
                if stream.is_("type") and stream.ahead().text in ("filter", "nat", "route"):
                    base = self._hook()
                elif stream.is_("policy"):
                    stream.next()
                    policy = stream.need("accept", "drop")
                elif stream.is_("comment") and not marks:
                    stream.next()
                    comment = stream.word("a comment")
                elif stream.is_("flags"):
                    raise stream.refuse("nft chain flags")
                elif not block:
                    raise stream.unexpected("the chain's type")
                else:
                    marks.append(stream.mark())
                    self._skip_statement()
        elif block:
            raise stream.unexpected("{")
        if policy and base is not None:
            base = NftHook(base.type, base.hook, base.priority, policy)
        table.add_chain(name, base, comment, create=create)
        if policy and base is None:
            table.set_policy(name, policy)
        self.late += [(table, name, mark) for mark in marks]

    def _skip_statement(self) -> None:
        stream = self.stream
        depth = 0
        while stream.token.kind is not Kind.END:
            if not depth and stream.ended:
                return
            token = stream.next()
            if token.kind is Kind.OPERATOR:
                depth += {"{": 1, "}": -1}.get(token.text, 0)

    def _hook(self) -> NftHook:
        stream = self.stream
        stream.need("type")
        kind = stream.need("filter", "nat", "route")
        stream.need("hook")
        if stream.is_("ingress", "egress"):
            raise stream.refuse(f"nft hook {stream.token.text}")
        hook = stream.need(*HOOKS)
        if stream.is_("device", "devices"):
            raise stream.refuse("nft chain with a device")
        stream.need("priority")
        priority = self._priority(hook)
        return NftHook(kind, hook, priority)

    def _priority(self, hook: str) -> int:
        stream = self.stream
        sign = -1 if stream.take("-") else 1
        token = stream.token
        if token.kind is Kind.NUMBER:
            return sign * stream.number()
        name = stream.word("a priority")
        # a name and an offset may be written in one word
        for known, number in PRIORITIES.items():
            if name == known:
                if (known == "dstnat" and hook not in ("prerouting",)) or (known == "srcnat" and hook != "postrouting"):
                    raise stream.error(f"priority {name} is not for hook {hook}", token, mend="write it as a number")
                if stream.is_("+", "-"):
                    factor = 1 if stream.next().text == "+" else -1
                    return number + factor * stream.number()
                return number
        head, _, tail = name.partition("-")
        if head in PRIORITIES and tail.isdigit():
            return PRIORITIES[head] - int(tail)
        raise stream.error(f"{name!r} is not a priority", token, mend=f"a number or one of {', '.join(PRIORITIES)}")

    # ------------------------------------------------------------------------------------------------------------ rules

    def _rule_parser(self, table: NftTableEdit) -> RuleParser:
        return RuleParser(self.stream, table.family, table.declared_set, self.ifindex)

    def _rule_command(self, verb: str) -> None:
        stream = self.stream
        table = self._table()
        chain = stream.word("the name of a chain")
        edit = table.chain(chain)
        at: int | None = None if verb == "add" else 0
        handle = 0
        word = stream.take("handle", "position", "index")
        if word == "index":
            at = stream.number() + (verb == "add")
            if at > len(edit.rules) or not edit.rules:
                raise stream.error(f"chain {chain} has no rule of index {at - (verb == 'add')}")
        elif word:
            handle = stream.number()
            if verb != "replace":
                at = table.position(chain, handle) + (verb == "add")
        rule = self._rule_parser(table).rule()
        if verb == "replace":
            if not handle:
                raise stream.error("replace which rule?", mend="say its handle")
            table.replace_rule(chain, handle, rule)
        else:
            table.add_rule(chain, rule, at=at)

    # ------------------------------------------------------------------------------------------------------------- sets

    def _set(
        self,
        table: NftTableEdit,
        name: str,
        kind: str,
        *,
        create: bool = False,
        late: list[tuple[str, int]] | None = None,
    ) -> None:
        stream = self.stream
        stream.need("{")
        keys: tuple[tuple[Datatype, int, Expr | None], ...] = ()
        data: tuple[tuple[Datatype, int, Expr | None], ...] = ()
        object_kind = ""
        options: dict[str, int | str | bool] = {}
        flags: set[str] = set()
        statements: list[Statement] = []
        mark = -1
        while True:
            stream.skip_separators()
            if stream.take("}"):
                break
            token = stream.token
            word = stream.word("type, flags or elements")
            if word in ("type", "typeof"):
                keys = self._types(table, typeof=word == "typeof")
                if stream.take(":"):
                    if stream.is_("counter", "quota", "limit"):
                        object_kind = stream.next().text
                        raise stream.refuse(f"nft map of {object_kind} objects", token)
                    stream.take("interval")
                    data = self._types(table, typeof=word == "typeof")
            elif word == "flags":
                while True:
                    flags.add(stream.need("constant", "interval", "timeout", "dynamic"))
                    if not stream.take(","):
                        break
            elif word in ("timeout", "gc-interval"):
                options[word] = t.time_from_text(stream.word("a time"))
                if word == "timeout":
                    flags.add("timeout")
            elif word == "size":
                options[word] = stream.number()
            elif word == "policy":
                policy = stream.need("performance", "memory")
                options[word] = "" if policy == "performance" else policy
            elif word == "auto-merge":
                options[word] = True
            elif word == "comment":
                options[word] = stream.word("a comment")
            elif word == "elements":
                stream.need("=")
                mark = stream.mark()
                self._skip_statement()
            elif word in ("counter", "limit", "quota", "ct"):
                stream.reset(stream.mark() - 1)
                statements.append(self._element_state(table))
            else:
                raise stream.error(f"{word!r} is nothing that a {kind} has", token)
        if not keys:
            raise stream.error(f"{kind} {name} has no type")
        if (kind == "map") != bool(data):
            raise stream.error(f"{kind} {name}: a map leads to something, a set does not", mend="type KEY : DATA")
        one = NftSet(
            name,
            tuple(part[0] for part in keys),
            tuple(part[1] for part in keys),
            tuple(part[2] for part in keys if part[2] is not None),
            tuple(part[0] for part in data),
            tuple(part[2] for part in data if part[2] is not None),
            object_kind,
            frozenset(flags),
            int(options.get("size", 0)),
            str(options.get("policy", "")),
            int(options.get("timeout", 0)),
            int(options.get("gc-interval", 0)),
            bool(options.get("auto-merge", False)),
            tuple(statements),
            str(options.get("comment", "")),
        )
        table.add_set(one, create=create)
        if mark >= 0:
            if late is not None:
                late.append((name, mark))
                return
            end = stream.mark()
            stream.reset(mark)
            self._elements(table, name)
            stream.reset(end)

    def _types(self, table: NftTableEdit, *, typeof: bool) -> tuple[tuple[Datatype, int, Expr | None], ...]:
        stream = self.stream
        found: list[tuple[Datatype, int, Expr | None]] = []
        if typeof:
            if stream.take("verdict"):
                return ((t.VERDICT, 0, None),)
            expressions = ExpressionParser(stream, ProtocolContext(table.family), table.declared_set, self.ifindex)
            for part in concat_parts(expressions.expression()):
                found.append((part.datatype, part.bits, part))
            return tuple(found)
        while True:
            token = stream.token
            name = stream.word("a type")
            datatype = DATATYPES.get(name)
            if datatype is None:
                raise stream.error(f"there is no type {name!r}", token, mend=f"one of {', '.join(sorted(DATATYPES))}")
            found.append((datatype, datatype.bits, None))
            if not stream.take("."):
                return tuple(found)

    def _element_state(self, table: NftTableEdit) -> Statement:
        expressions = ExpressionParser(self.stream, ProtocolContext(table.family), table.declared_set, self.ifindex)
        return StatementParser(self.stream, expressions, table.family).stateful()

    def _read_elements(self, table: NftTableEdit, one: NftSet, *, with_data: bool = True) -> list[Element]:
        expressions = ExpressionParser(self.stream, ProtocolContext(table.family), table.declared_set, self.ifindex)
        types = list(zip(one.key_types, one.key_bits, strict=True))
        data: list[tuple[Datatype, int]] | None = None
        if one.data_types:
            verdicts = one.data_types == (t.VERDICT,)
            data = [] if verdicts else [(datatype, datatype.bits or bits) for datatype, bits in self._data_widths(one)]
        return expressions.elements(types, data if with_data else None, lambda: self._element_state(table))

    @staticmethod
    def _data_widths(one: NftSet) -> list[tuple[Datatype, int]]:
        return [(datatype, datatype.bits) for datatype in one.data_types]

    def _elements(self, table: NftTableEdit, name: str, *, create: bool = False) -> None:
        edit = table.set(name)
        for element in self._read_elements(table, edit.declaration):
            table.add_element(name, element, create=create)

    # ---------------------------------------------------------------------------------------------------------- objects

    def _object(self, table: NftTableEdit, kind: str, name: str, *, create: bool = False) -> None:
        stream = self.stream
        braces = bool(stream.take("{"))
        comment = ""
        state: Statement | None = Counter() if kind == "counter" else None
        while True:
            if braces:
                stream.skip_separators()
            if (braces and stream.take("}")) or (not braces and stream.ended):
                break
            if stream.take("comment"):
                comment = stream.word("a comment")
            elif kind == "counter":
                stream.need("packets")
                packets = stream.number()
                stream.need("bytes")
                state = Counter(packets, stream.number())
            else:
                rules = self._state_parser(table)
                if kind == "quota":
                    state = rules.quota()
                else:
                    stream.need("rate")
                    state = rules.rate()
        if state is None:
            raise stream.error(f"{kind} {name} of how much?")
        assert isinstance(state, (Counter, Quota, Limit))
        table.add_object(NftObject(kind, name, state, comment), create=create)

    def _state_parser(self, table: NftTableEdit) -> StatementParser:
        expressions = ExpressionParser(self.stream, ProtocolContext(table.family), table.declared_set, self.ifindex)
        return StatementParser(self.stream, expressions, table.family)

    # --------------------------------------------------------------------------------------------------- other commands

    def _delete(self) -> None:
        stream = self.stream
        kind = stream.need("table", "chain", "rule", "set", "map", "element", *_OBJECTS)
        if kind == "table":
            family = self._family()
            self.transaction.delete_table(family, stream.word("the name of a table"))
            return
        table = self._table()
        name = stream.word("a name")
        if kind == "chain":
            table.delete_chain(name)
        elif kind == "rule":
            stream.need("handle")
            table.delete_rule(name, stream.number())
        elif kind in ("set", "map"):
            table.delete_set(name)
        elif kind == "element":
            edit = table.set(name)
            one = edit.declaration
            has_data = bool(one.data_types) and self._next_element_has_data()
            for element in self._read_elements(table, one, with_data=has_data):
                edit.delete(element.key)
        else:
            table.delete_object(kind, name)

    def _next_element_has_data(self) -> bool:
        count = 0
        while True:
            token = self.stream.ahead(count)
            if token.kind is Kind.END or token.text in (",", "}"):
                return False
            if token.text == ":" and token.kind is Kind.OPERATOR:
                return True
            count += 1

    def _flush(self) -> None:
        stream = self.stream
        kind = stream.need("ruleset", "table", "chain", "set", "map")
        if kind == "ruleset":
            family = _FAMILIES[stream.next().text] if stream.token.text in _FAMILIES else None
            self.transaction.flush_ruleset(family)
            return
        table = self._table()
        if kind == "table":
            table.flush()
            return
        name = stream.word("a name")
        if kind == "chain":
            table.flush_chain(name)
        else:
            table.set(name).flush()

    def _list(self) -> None:
        stream = self.stream
        kind = stream.need("ruleset", "table", "chain", "set", "map")
        printer = Printer(self.ifname)
        now = self.transaction.commit()
        if kind == "ruleset":
            family = _FAMILIES[stream.next().text] if stream.token.text in _FAMILIES else None
            tables = tuple(table for table in now.tables if family is None or table.family is family)
            self.output += printer.ruleset(NftRuleset(tables))
            return
        edit = self._table()
        table = now.table(edit.family, edit.name)
        assert table is not None
        if kind == "table":
            self.output += printer.table(table)
            return
        name = stream.word("a name")
        head = f"table {table.family.value} {table.name} {{\n"
        if kind == "chain":
            chain = table.chain(name)
            if chain is None:
                raise NftEditError(f"there is no chain {name}", token=name)
            self.output += head + printer.chain(chain, table.family) + "}\n"
        else:
            one = table.set(name)
            if one is None:
                raise NftEditError(f"there is no set {name}", token=name)
            self.output += head + printer.set(one) + "}\n"
