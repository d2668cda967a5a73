"""The ``rewrite`` plugin: questions changed on the way down, answers changed back on the way up.

Source: coredns v1.13.1, plugin/rewrite/{setup,rewrite,name,type,class,ttl,rcode,reverter}.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import dnsname
from .corefile import Directive
from .forward import RCODES
from .plugin import (
    Exchange,
    Handler,
    Link,
    Outcome,
    Setup,
    Work,
    Write,
    is_written,
    next_or_failure,
    qname_lower,
    size_and_do,
)
from .wire import RR, Message, Question, Rcode, Type

#: Changes a record of an answer.
_Revert = Callable[[Message, RR], None]
_Edit = Callable[[str], str]
_MATCHES = ("exact", "prefix", "suffix", "substring", "regex")
#: Types whose name in the data is the value of the record (reverter.go).
_VALUED = frozenset({Type.SRV, Type.MX, Type.CNAME, Type.NS, Type.DNAME, Type.NAPTR, Type.SOA, Type.PTR})
_TYPES = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33,
    "NAPTR": 35, "DNAME": 39, "DS": 43, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48, "SVCB": 64, "HTTPS": 65, "SPF": 99,
    "IXFR": 251, "AXFR": 252, "ANY": 255, "URI": 256, "CAA": 257,
}  # fmt: skip
_CLASSES = {"IN": 1, "CS": 2, "CH": 3, "HS": 4, "NONE": 254, "ANY": 255}
_MAX_TTL = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        apply: Changes the question; returns what to do with the answer, or ``None`` if the rule does not match.
        stop: Whether no further rule is tried once it matched.
    """

    apply: Callable[[Question, str], Sequence[_Revert] | None]
    stop: bool


class Rewrite:
    """The plugin in its chain."""

    name = "rewrite"

    def __init__(self, rules: Sequence[Rule], following: Handler | None) -> None:
        self._rules = tuple(rules)
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        original = request.question[0].copy()
        reverts: list[_Revert] = []

        def revert_and_write(answer: Message) -> None:
            # A copy, because the original may be in a cache.
            reply = answer.copy()
            reply.question[0] = original.copy()
            if reverts:
                for section in (reply.authority, reply.answer, reply.additional):
                    for record in section:
                        for revert in reversed(reverts):
                            revert(reply, record)
            write(reply)

        for rule in self._rules:
            found = rule.apply(request.question[0], qname_lower(request))
            if found is None:
                continue
            if not dnsname.is_name(request.question[0].name):
                bad = request.question[0].name
                request.question[0] = original
                return Rcode.SERVFAIL, f"invalid name after rewrite: {bad}"
            reverts.extend(found)
            if rule.stop:
                rcode, error = yield from next_or_failure(self._next, self.name, exchange, revert_and_write, request)
                if is_written(rcode):
                    return rcode, error
                reply = request.reply(rcode)
                size_and_do(request, reply)
                revert_and_write(reply)
                return Rcode.NOERROR, error
        writer = revert_and_write if reverts else write
        return (yield from next_or_failure(self._next, self.name, exchange, writer, request))


def _rename(edit: _Edit) -> _Revert:
    def revert(reply: Message, record: RR) -> None:
        record.name = edit(record.name)

    return revert


def _revalue(edit: _Edit) -> _Revert:
    def revert(reply: Message, record: RR) -> None:
        if record.type not in _VALUED:
            return
        value = record.target()
        if value:
            record.set_target(edit(value))

    return revert


def _remapping(old: str, new: str) -> _Edit:
    def edit(name: str) -> str:
        if name == old:
            return new
        return name[: len(name) - len(old)] + new if name.endswith("." + old) else name

    return edit


def _suffixing(old: str, new: str) -> _Edit:
    return lambda name: name.removesuffix(old) + new if name.endswith(old) else name


def _filled(replacement: str, match: re.Match[str]) -> str:
    for number, group in enumerate((match[0], *match.groups())):
        replacement = replacement.replace(f"{{{number}}}", group or "")
    return replacement


def _matching(pattern: re.Pattern[str], replacement: str) -> _Edit:
    def edit(name: str) -> str:
        match = pattern.search(name)
        return name if match is None else _filled(replacement, match)

    return edit


def _compile(directive: Directive, pattern: str, replacement: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise directive.error(f"invalid regex matching pattern {pattern!r}: {error}") from None
    used = sum(f"{{{number}}}" in replacement for number in range(101))
    if used > compiled.groups:
        raise directive.error(f"{replacement!r} uses more subexpressions than {pattern!r} has")
    return compiled


def _test(directive: Directive, kind: str, pattern: str) -> Callable[[str], bool]:
    """Whether a rule that does not change the name is for a name."""
    if kind not in _MATCHES:
        raise directive.error(f"{kind!r} is none of exact, prefix, suffix, substring, regex")
    if kind == "regex":
        compiled = _compile(directive, pattern, "")
        return lambda name: compiled.search(name) is not None
    text = dnsname.normalize(pattern)
    if kind == "exact":
        return lambda name: name == text
    if kind == "prefix":
        return lambda name: name.startswith(text)
    if kind == "suffix":
        return lambda name: name.endswith(text)
    return lambda name: text in name


def _name_rule(directive: Directive, stop: bool, args: Sequence[str]) -> Rule:
    if len(args) < 2:
        raise directive.error("too few arguments for a name rule")
    kind, old, new = ("exact", args[0], args[1]) if len(args) == 2 else (args[0].lower(), args[1], args[2])
    if kind not in _MATCHES:
        raise directive.error(f"a name rule matches exact, prefix, suffix, substring or regex, not {kind!r}")
    auto, answers = _answer_rules(directive, args[3:]) if len(args) > 3 else (False, [])
    change: Callable[[str], str | None]
    new = dnsname.normalize(new)
    if kind == "regex":
        pattern = _compile(directive, old, args[2])

        def change(name: str) -> str | None:
            match = pattern.search(name)
            return None if match is None else _filled(new, match)

    else:
        text = dnsname.normalize(old)
        if kind == "exact":
            auto = True

            def change(name: str) -> str | None:
                return new if name == text else None

        elif kind == "prefix":

            def change(name: str) -> str | None:
                return new + name.removeprefix(text) if name.startswith(text) else None

        elif kind == "suffix":
            if auto:
                back = _suffixing(new, text)
                answers = [_rename(back), _revalue(back), *answers]
                auto = False

            def change(name: str) -> str | None:
                return name.removesuffix(text) + new if name.endswith(text) else None

        else:

            def change(name: str) -> str | None:
                return name.replace(text, new) if text in name else None

    def apply(question: Question, name: str) -> Sequence[_Revert] | None:
        changed = change(name)
        if changed is None:
            return None
        question.name = changed
        if not auto:
            return answers
        back = _remapping(changed, name)
        return [_rename(back), _revalue(back), *answers]

    return Rule(apply, stop)


def _answer_rules(directive: Directive, args: Sequence[str]) -> tuple[bool, list[_Revert]]:
    """Read ``answer auto``, ``answer name FROM TO`` and ``answer value FROM TO``; the word may be left out later."""
    words = list(args)
    auto = False
    rules: list[_Revert] = []
    names = 0
    if len(words) < 2 or words[0] != "answer":
        raise directive.error(f"what follows a name rule must begin with 'answer', not {words[0]!r}")
    while words:
        if words[0] == "answer":
            words.pop(0)
        kind = words.pop(0) if words else ""
        if kind == "auto":
            auto = True
        elif kind in ("name", "value"):
            if len(words) < 2:
                raise directive.error(f"answer {kind} needs 2 arguments")
            pattern = _compile(directive, words[0], words[1])
            edit = _matching(pattern, dnsname.normalize(words[1]))
            rules.append(_rename(edit) if kind == "name" else _revalue(edit))
            names += kind == "name"
            del words[:2]
        else:
            raise directive.error(f"invalid type {kind!r} for an answer rule")
    if auto and names:
        raise directive.error("answer auto cannot be combined with answer name")
    return auto, rules


def _number_rule(directive: Directive, stop: bool, args: Sequence[str], *, kind: str, names: dict[str, int]) -> Rule:
    """A rule that replaces a type or class."""
    if len(args) != 2:
        raise directive.error(f"{kind} rules must have exactly two arguments")
    numbers = []
    for text in args:
        if text.upper() not in names:
            raise directive.error(f"invalid {kind} {text!r}")
        numbers.append(names[text.upper()])
    old, new = numbers

    def apply(question: Question, name: str) -> Sequence[_Revert] | None:
        if (question.type if kind == "type" else question.cls) != old:
            return None
        if kind == "type":
            question.type = new
        else:
            question.cls = new
        return ()

    return Rule(apply, stop)


def _ttl_rule(directive: Directive, stop: bool, args: Sequence[str]) -> Rule:
    if len(args) not in (2, 3):
        raise directive.error("a ttl rule has 2 or 3 arguments")
    kind, pattern, bounds = ("exact", *args) if len(args) == 2 else (args[0].lower(), args[1], args[2])
    test = _test(directive, kind, pattern)
    match = re.fullmatch(r"([0-9]*)(-?)([0-9]*)", bounds)
    if match is None or not (match[1] or match[3]) or (match[2] == "" and match[3]):
        raise directive.error(f"invalid TTL {bounds!r} for a ttl rule")
    least = int(match[1] or 0)
    most = least if not match[2] else int(match[3] or _MAX_TTL)
    if least > most:
        raise directive.error(f"invalid TTL {bounds!r} for a ttl rule")

    def revert(reply: Message, record: RR) -> None:
        record.ttl = min(max(record.ttl, least), most)

    return Rule(lambda question, name: (revert,) if test(name) else None, stop)


def _rcode_rule(directive: Directive, stop: bool, args: Sequence[str]) -> Rule:
    if len(args) not in (3, 4):
        raise directive.error("a rcode rule has 3 or 4 arguments")
    kind, pattern, *codes = ("exact", *args) if len(args) == 3 else (args[0].lower(), *args[1:])
    test = _test(directive, kind, pattern)
    numbers = []
    for text in codes:
        number = int(text) if text.isdigit() else RCODES.get(text.upper())
        if number is None:
            raise directive.error(f"invalid rcode {text!r}")
        numbers.append(number)
    old, new = numbers

    def revert(reply: Message, record: RR) -> None:
        if reply.rcode == old:
            reply.rcode = new

    return Rule(lambda question, name: (revert,) if test(name) else None, stop)


def _read(directive: Directive) -> Rule:
    args = list(directive.args)
    if len(args) < 2:
        for line in directive.body:
            args += [line.name, *line.args]
    if not args:
        raise directive.error("no rule type specified for rewrite")
    stop = True
    if args[0].lower() in ("stop", "continue"):
        stop = args.pop(0).lower() == "stop"
        if not args:
            raise directive.error("a rule must have a type")
    kind = args.pop(0).lower()
    if kind == "name":
        return _name_rule(directive, stop, args)
    if kind in ("type", "class"):
        return _number_rule(directive, stop, args, kind=kind, names=_TYPES if kind == "type" else _CLASSES)
    if kind == "ttl":
        return _ttl_rule(directive, stop, args)
    if kind == "rcode":
        return _rcode_rule(directive, stop, args)
    if kind in ("edns0", "cname"):
        raise directive.unsupported(f"rewrite {kind}", "use name, type, class, ttl or rcode rules")
    raise directive.error(f"invalid rule type {kind!r}")


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read the rules, in order."""
    rules = [_read(directive) for directive in directives]
    return [lambda following: Rewrite(rules, following)]
