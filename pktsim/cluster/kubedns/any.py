"""The ``any`` plugin: a short answer to questions for everything (RFC 8482).

Source: coredns v1.13.1, plugin/any/any.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from .corefile import Directive
from .plugin import Exchange, Handler, Link, Outcome, Setup, Work, Write, next_or_failure
from .wire import RR, Message, Rcode, Type, text_data

_TTL = 8482


class Any:
    """The plugin in its chain."""

    name = "any"

    def __init__(self, following: Handler | None) -> None:
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        if request.question[0].type != Type.ANY:
            return (yield from next_or_failure(self._next, self.name, exchange, write, request))
        reply = request.reply()
        data = (text_data(b"ANY obsoleted"), text_data(b"See RFC 8482"))
        reply.answer = [RR(request.question[0].name, Type.HINFO, _TTL, data)]
        write(reply)
        return Rcode.NOERROR, ""


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """There are no options."""
    for directive in directives:
        directive.no_body()
    return [Any]
