"""A plain recursive-looking server with a fixed list of records: what a cluster forwards the rest of the world to.

It answers with RA and without AA, follows its own CNAMEs, and denies with a SOA record of the name's parent. Names can
be made to fail in the ways that servers fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from pktsim.errors import ObjectError

from . import dnsname
from .forward import RCODES
from .wire import QR, RA, RD, RR, TC, Message, Opt, Rcode, Type, WireError, rdata_of_wire, soa_record, unpack

#: TTL of the SOA record in denials, and its numbers.
_SOA_TTL = 60
_SOA = (2024010100, 1800, 900, 604800, 60)
_MAX_CNAMES = 16


def parse_record(text: str) -> RR:
    """Read ``NAME TTL TYPE DATA``.

    Raises:
        ObjectError: It is not that.
    """
    try:
        name, ttl, type_text, data = text.split(None, 3)
        rdtype = dns.rdatatype.from_text(type_text)
        rdata = dns.rdata.from_text(dns.rdataclass.IN, rdtype, data, origin=dns.name.root, relativize=False)
        wire = rdata.to_wire()
        assert wire is not None
        return RR(dnsname.fqdn(name), rdtype, int(ttl), rdata_of_wire(rdtype, wire))
    except (ValueError, dns.exception.DNSException) as error:
        raise ObjectError(f"{text!r} is not a record: {error}", mend="write it as NAME TTL TYPE DATA") from None


@dataclass(slots=True)
class Upstream:
    """The server.

    Attributes:
        records: What it knows, by lower-case name, in order.
        rcodes: Names for which it only has an error.
        truncate: Names for which an answer over UDP has TC and no answer records.
        silent: Names it never answers for.
        running: Whether anything listens at all.
    """

    records: dict[str, list[RR]] = field(default_factory=dict)
    rcodes: Mapping[str, int] = field(default_factory=dict)
    truncate: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    running: bool = True

    @classmethod
    def of(
        cls,
        records: Iterable[str],
        *,
        rcodes: Mapping[str, str] | None = None,
        truncate: Iterable[str] = (),
        silent: Iterable[str] = (),
        running: bool = True,
    ) -> Upstream:
        """Make one from texts.

        Raises:
            ObjectError: A text is no record or rcode.
        """
        by_name: dict[str, list[RR]] = {}
        for text in records:
            record = parse_record(text)
            by_name.setdefault(dnsname.lower(record.name), []).append(record)
        codes = {}
        for name, code in (rcodes or {}).items():
            if code not in RCODES:
                raise ObjectError(f"unknown rcode {code!r} of {name}")
            codes[dnsname.normalize(name)] = RCODES[code]
        return cls(
            by_name,
            codes,
            frozenset(map(dnsname.normalize, truncate)),
            frozenset(map(dnsname.normalize, silent)),
            running,
        )

    def answer(self, query: bytes, *, tcp: bool) -> bytes | None:
        """Answer a query; ``None`` where it stays silent."""
        try:
            request = unpack(query)
        except WireError:
            return None
        if not request.question:
            return None
        question = request.question[0]
        name = dnsname.lower(question.name)
        if name in self.silent:
            return None
        reply = request.reply(self.rcodes.get(name, Rcode.NOERROR))
        reply.flags = QR | RA | request.flags & RD
        opt = request.opt
        if opt is not None:
            reply.additional = [Opt(opt.size, opt.ttl & Opt.DO)]
        if name not in self.rcodes:
            self._fill(reply, question.name, question.type)
        reply.compress = True
        if name in self.truncate and not tcp:
            reply.flags |= TC
            reply.answer = []
        if not tcp:
            size = max(512, opt.size) if opt is not None else 512
            if reply.length(compressed=True) > size:
                reply.flags |= TC
                reply.answer, reply.authority = [], []
        return reply.pack()

    def _fill(self, reply: Message, name: str, type: int) -> None:
        for _ in range(_MAX_CNAMES):
            known = self.records.get(dnsname.lower(name))
            if known is None:
                reply.rcode = Rcode.NXDOMAIN
                break
            found = [record for record in known if record.type == type]
            if found:
                reply.answer += [self._named(record, name) for record in found]
                return
            alias = next((record for record in known if record.type == Type.CNAME), None)
            if alias is None:
                break
            reply.answer.append(self._named(alias, name))
            name = alias.target()
        labels = dnsname.starts(name)
        parent = name[labels[1] :] if len(labels) > 1 else "."
        reply.authority = [soa_record(parent, _SOA_TTL, "a.root.test.", "nobody.test.", _SOA)]

    @staticmethod
    def _named(record: RR, name: str) -> RR:
        """The record with the owner as it was asked for, as compression towards the question makes it."""
        twin = record.copy()
        twin.name = name
        return twin
