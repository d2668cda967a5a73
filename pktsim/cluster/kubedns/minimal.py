"""The ``minimal`` plugin: positive answers without authority and additional records.

Source: coredns v1.13.1, plugin/minimal/minimal.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from pktsim.clock import NS_PER_S

from .cache import Kind, classify
from .corefile import Directive
from .plugin import Captured, Exchange, Handler, Link, Outcome, PanicError, Setup, Work, Write, next_or_failure
from .wire import Message, Rcode


class Minimal:
    """The plugin in its chain."""

    name = "minimal"

    def __init__(self, context: Setup, following: Handler | None) -> None:
        self._context = context
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        captured = Captured()
        rcode, error = yield from next_or_failure(self._next, self.name, exchange, captured, request)
        if error:
            return rcode, error
        reply = captured.message
        kind = classify(reply, self._context.epoch_s + self._context.clock.now_ns // NS_PER_S)
        if reply is None:
            raise PanicError("minimal: no message")
        if kind is Kind.NOERROR:
            reply.authority = []
            reply.additional = []
        write(reply)
        return Rcode.NOERROR, ""


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """There are no options."""
    for directive in directives:
        directive.arguments(0)
        directive.no_body()
    return [lambda following: Minimal(context, following)]
