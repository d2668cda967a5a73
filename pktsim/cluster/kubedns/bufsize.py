"""The ``bufsize`` plugin: an upper bound for the size that clients say they can take.

Source: coredns v1.13.1, plugin/bufsize/{setup,bufsize}.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from .corefile import Directive
from .plugin import Exchange, Handler, Link, Outcome, Setup, Work, Write, next_or_failure
from .wire import Message

_DEFAULT = 1232


class Bufsize:
    """The plugin in its chain."""

    name = "bufsize"

    def __init__(self, size: int, following: Handler | None) -> None:
        self._size = size
        self._next = following

    def serve(self, exchange: Exchange, write: Write, request: Message) -> Work[Outcome]:
        opt = request.opt
        if opt is not None and opt.size > self._size:
            opt.cls = self._size
        return (yield from next_or_failure(self._next, self.name, exchange, write, request))


def setup(directives: Sequence[Directive], context: Setup) -> list[Link]:
    """Read the size."""
    directive = directives[-1]
    directive.no_body()
    args = directive.arguments(0, 1)
    size = directive.number(args[0], 512, 4096) if args else _DEFAULT
    return [lambda following: Bufsize(size, following)]
