"""The ``loadbalance`` plugin: addresses in an order that chance decides, after CNAMEs and the rest.

Source: coredns v1.13.1, plugin/loadbalance/{setup,handler,loadbalance,prefer}.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from pktsim.rng import Choices

from .corefile import Directive
from .plugin import Exchange, Handler, Link, Outcome, Setup, Work, Write, next_or_failure
from .wire import RR, Message, Rcode, Type

_Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


class LoadBalance:
    """The plugin in its chain."""

    name = "loadbalance"

    def __init__(self, choices: Choices, place: str, preferred: _Networks, following: Handler | None) -> None:
        self._choices = choices
        self._place = place
        self._preferred = preferred
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        def shuffle_and_write(reply: Message) -> None:
            if reply.rcode == Rcode.NOERROR and reply.question[0].type not in (Type.AXFR, Type.IXFR):
                reply.answer = self._shuffled(reply.answer)
                reply.authority = self._shuffled(reply.authority)
                reply.additional = self._shuffled(reply.additional)
                if self._preferred:
                    reply.answer = self._prefer(reply.answer)
                    reply.additional = self._prefer(reply.additional)
            write(reply)

        return (yield from next_or_failure(self._next, self.name, exchange, shuffle_and_write, request))

    def _shuffled(self, records: list[RR]) -> list[RR]:
        if len(records) < 2:
            return records
        names: list[RR] = []
        addresses: list[RR] = []
        mails: list[RR] = []
        rest: list[RR] = []
        for record in records:
            if record.type == Type.CNAME:
                names.append(record)
            elif record.type in (Type.A, Type.AAAA):
                addresses.append(record)
            elif record.type == Type.MX:
                mails.append(record)
            else:
                rest.append(record)
        self._shuffle(addresses)
        self._shuffle(mails)
        return [*names, *rest, *addresses, *mails]

    def _shuffle(self, records: list[RR]) -> None:
        count = len(records)
        if count == 2:
            if self._choices.below(f"{self._place}/swap", 2) == 0:
                records.reverse()
        elif count > 2:
            for at in range(count):
                other = at + self._choices.below(f"{self._place}/shuffle", count - at) if at < count - 1 else at
                records[at], records[other] = records[other], records[at]

    def _prefer(self, records: list[RR]) -> list[RR]:
        """Put the addresses in preferred networks first, in the order of the networks (prefer.go)."""
        names = [record for record in records if record.type == Type.CNAME]
        ranked: list[tuple[int, RR]] = []
        rest: list[RR] = []
        for record in records:
            if record.type in (Type.A, Type.AAAA) and record.data and isinstance(record.data[0], bytes):
                address = ipaddress.ip_address(record.data[0])
                rank = next((at for at, network in enumerate(self._preferred) if address in network), None)
                ranked.append((len(self._preferred) if rank is None else rank, record))
            elif record.type != Type.CNAME:
                rest.append(record)
        ranked.sort(key=lambda pair: pair[0])
        rest.sort(key=lambda record: record.type != Type.MX)
        return [*names, *(record for _, record in ranked), *rest]


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read the plugin's options."""
    preferred: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for one in directives:
        policy = one.args[0] if one.args else "round_robin"
        if policy == "weighted":
            raise one.unsupported("loadbalance policy weighted", "use round_robin")
        if policy != "round_robin" or len(one.args) > 1:
            raise one.error(f"unknown policy: {' '.join(one.args)}")
        for line in one.body:
            if line.name != "prefer":
                raise line.error(f"unknown property {line.name!r} of loadbalance")
            for text in line.args:
                try:
                    preferred.append(ipaddress.ip_network(text, strict=False))
                except ValueError:
                    raise line.error(f"invalid CIDR {text!r}") from None
    place = f"{context.name}/loadbalance"
    return [lambda following: LoadBalance(context.choices, place, tuple(preferred), following)]
