"""The ``template`` plugin: answers written out in the Corefile.

Of Go's template language there is what such answers use: fields of the question, and groups of the pattern that
matched.

Source: coredns v1.13.1, plugin/template/{setup,template}.go; miekg/dns v1.1.68, scan.go for records as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from . import dnsname
from .corefile import Directive, Property, zones_from
from .forward import RCODES
from .kubernetes import read_fallthrough
from .plugin import Exchange, Fallthrough, Handler, Link, Outcome, Setup, Work, Write, next_or_failure, qname_lower
from .wire import AA, CLASS_ANY, RR, TC, Message, Opt, Question, Rcode, Type, rdata_of_wire

#: TTL of a record that names none (scan.go, ``defaultTtl``).
_DEFAULT_TTL = 3600
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_FIELD = re.compile(r"\.(Name|Zone|Regex|Class|Type|Remote)")
_GROUP = re.compile(r"\.Group\.(\w+)|index\s+\.Group\s+\"(\w+)\"|index\s+\.Match\s+([0-9]+)")

#: The values that a template can ask for.
_Values = dict[str, str]
#: A part of a template: text, or the key of a value.
_Part = tuple[str, bool]


class _TemplateError(Exception):
    """A template whose result is not a record."""


@dataclass(slots=True)
class Template:
    """One ``template`` block."""

    cls: int
    type: int
    zones: tuple[str, ...]
    patterns: list[re.Pattern[str]] = field(default_factory=list)
    answer: list[tuple[_Part, ...]] = field(default_factory=list)
    additional: list[tuple[_Part, ...]] = field(default_factory=list)
    authority: list[tuple[_Part, ...]] = field(default_factory=list)
    rcode: int = Rcode.NOERROR
    error: tuple[int, str] | None = None
    fallthrough: Fallthrough = field(default_factory=Fallthrough)

    def match(self, question: Question, name: str, source: str) -> tuple[_Values | None, bool]:
        """The values for a question, or whether the next template may try."""
        zone = dnsname.longest_zone(self.zones, name)
        if not zone:
            return None, True
        if CLASS_ANY not in (self.cls, question.cls) and self.cls != question.cls:
            return None, True
        if Type.ANY not in (self.type, question.type) and self.type != question.type:
            return None, True
        for pattern in self.patterns:
            found = pattern.search(name)
            if found is None:
                continue
            values = {
                "Name": name,
                "Zone": zone,
                "Regex": pattern.pattern,
                "Class": dns.rdataclass.to_text(
                    dns.rdataclass.RdataClass.make(question.cls if question.cls != CLASS_ANY else self.cls)
                ),
                "Type": dns.rdatatype.to_text(
                    dns.rdatatype.RdataType.make(question.type if question.type != Type.ANY else self.type)
                ),
                "Remote": source,
            }
            for number, text in enumerate((found[0], *found.groups())):
                values[f"Group.{number}"] = text or ""
            for label, text in found.groupdict().items():
                values[f"Group.{label}"] = text or ""
            return values, False
        return None, self.fallthrough.through(name)


class Templates:
    """The plugin in its chain."""

    name = "template"

    def __init__(self, templates: Sequence[Template], following: Handler | None) -> None:
        self._templates = tuple(templates)
        self._zones = tuple(zone for template in templates for zone in template.zones)
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        name = qname_lower(request)
        if dnsname.longest_zone(self._zones, name):
            for template in self._templates:
                values, may_continue = template.match(request.question[0], name, exchange.source)
                if values is not None:
                    return (yield from self._answer(template, values, exchange, write, request))
                if not may_continue:
                    return Rcode.SERVFAIL, ""
        return (yield from next_or_failure(self._next, self.name, exchange, write, request))

    def _answer(
        self, template: Template, values: _Values, exchange: Exchange, write: Write, request: Message
    ) -> Work[Outcome]:
        if template.rcode == Rcode.SERVFAIL:
            return Rcode.SERVFAIL, ""
        reply = request.reply(template.rcode, AA)
        qtype = request.question[0].type
        try:
            for parts in template.answer:
                record = _record(_fill(parts, values))
                reply.answer.append(record)
                if qtype in (Type.A, Type.AAAA) and record.type == Type.CNAME:
                    more = yield from exchange.server.lookup(exchange, request, record.target(), qtype)
                    if more is not None:
                        reply.flags = reply.flags & ~TC | more.flags & TC
                        reply.answer += more.answer
            reply.additional = [_record(_fill(parts, values)) for parts in template.additional]
            reply.authority = [_record(_fill(parts, values)) for parts in template.authority]
        except _TemplateError as error:
            return Rcode.SERVFAIL, str(error)
        if template.error is not None:
            code, text = template.error
            reply.additional.append(Opt(4096, Opt.DO, [(15, code.to_bytes(2, "big") + text.encode())]))
        write(reply)
        return template.rcode, ""


def _fill(parts: tuple[_Part, ...], values: _Values) -> str:
    try:
        return "".join(values[text] if is_key else text for text, is_key in parts)
    except KeyError as error:
        raise _TemplateError(f"no group {error}") from None


def _record(text: str) -> RR:
    """Read a record in master file form, complete in one line (``dns.NewRR``)."""
    words = text.split(None, 4)
    ttl = _DEFAULT_TTL
    if not words:
        raise _TemplateError("an empty record")
    name = dnsname.fqdn(words.pop(0))
    rest = text.strip()[len(text.split(None, 1)[0]) :].strip()
    while True:
        word, _, after = rest.partition(" ")
        if word.isdigit():
            ttl = int(word)
        elif word.upper() not in ("IN", "CH", "HS"):
            break
        rest = after.strip()
    try:
        rdtype = dns.rdatatype.from_text(word)
        rdata = dns.rdata.from_text(dns.rdataclass.IN, rdtype, after.strip(), origin=dns.name.root, relativize=False)
        wire = rdata.to_wire()
    except (dns.exception.DNSException, ValueError) as error:
        raise _TemplateError(f"{text!r} is not a record: {error}") from None
    assert wire is not None
    return RR(name, rdtype, ttl, rdata_of_wire(rdtype, wire))


def _parse(line: Property, text: str) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    at = 0
    for match in _ACTION.finditer(text):
        parts.append((text[at : match.start()], False))
        at = match.end()
        simple = _FIELD.fullmatch(match[1])
        group = _GROUP.fullmatch(match[1])
        if simple is not None:
            parts.append((simple[1], True))
        elif group is not None:
            parts.append((f"Group.{group[1] or group[2] or group[3]}", True))
        else:
            raise line.unsupported(
                f"template action {{{{ {match[1]} }}}}", "use .Name, .Zone, .Type, .Class, .Remote, .Group or index"
            )
    parts.append((text[at:], False))
    return tuple(part for part in parts if part[0])


def _read(directive: Directive, context: Setup) -> Template:
    cls_text, type_text, *zones = directive.arguments(2, 1 << 30)
    try:
        cls = dns.rdataclass.from_text(cls_text)
        rdtype = dns.rdatatype.from_text(type_text)
    except dns.exception.DNSException:
        raise directive.error(f"invalid class or type: {cls_text} {type_text}") from None
    template = Template(cls, rdtype, tuple(zones_from(tuple(zones), context.block)))
    sections = {"answer": template.answer, "additional": template.additional, "authority": template.authority}
    for line in directive.body:
        if line.name == "match":
            for pattern in line.arguments(1, 1 << 30):
                try:
                    template.patterns.append(re.compile(pattern))
                except re.error as error:
                    raise line.error(f"could not parse regex {pattern!r}: {error}") from None
        elif line.name in sections:
            sections[line.name].extend(_parse(line, text) for text in line.arguments(1, 1 << 30))
        elif line.name == "rcode":
            code = RCODES.get(line.arguments(1, 1 << 30)[0])
            if code is None:
                raise line.error(f"unknown rcode {line.args[0]}")
            template.rcode = code
        elif line.name == "ederror":
            args = line.arguments(1, 2)
            template.error = (line.number(args[0], 0, 65535), args[1] if len(args) > 1 else "")
        elif line.name == "fallthrough":
            template.fallthrough = read_fallthrough(line, context)
        elif line.name != "upstream":
            raise line.error(f"unknown property {line.name!r} of template")
    if not template.patterns:
        template.patterns.append(re.compile(".*"))
    return template


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read all templates of a block, which stand in the chain as one plugin."""
    templates = [_read(directive, context) for directive in directives]
    link: Callable[[Handler | None], Handler] = lambda following: Templates(templates, following)  # noqa: E731
    return [link]
