"""``-m connbytes``: how much a connection has carried; needs accounting (net/netfilter/xt_connbytes.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U64_MAX, BadValue, Context, Extension, Given, Option, choice, number_range
from pktsim.netfilter.ruleset import Match


class ConnbytesDirection(enum.StrEnum):
    """Which way."""

    ORIGINAL = "original"
    REPLY = "reply"
    BOTH = "both"


class ConnbytesMode(enum.StrEnum):
    """What is counted."""

    PACKETS = "packets"
    BYTES = "bytes"
    AVGPKT = "avgpkt"


@dataclass(frozen=True, slots=True)
class ConnbytesMatch(Match):
    """From ``first`` to ``last``, both included."""

    extension: ClassVar[str] = "connbytes"

    first: int
    last: int
    mode: ConnbytesMode
    direction: ConnbytesDirection
    inverted: bool = False

    def options_text(self) -> str:
        text = f"{' !' if self.inverted else ''} --connbytes {self.first}"
        if 0 < self.last < U64_MAX:
            text += f":{self.last}"
        return f"{text} --connbytes-mode {self.mode.value} --connbytes-dir {self.direction.value}"


_READ_RANGE = number_range(U64_MAX)


def _read(text: str, context: Context) -> tuple[int, int]:
    first, last = _READ_RANGE(text, context)
    if ":" not in text:
        last = U64_MAX
    if last < first:
        raise BadValue(f"bad range {text}", "write the lower number first")
    return first, last


def _build(given: Given) -> ConnbytesMatch:
    first, last = given.get("connbytes")
    return ConnbytesMatch(
        first,
        last,
        ConnbytesMode(given.get("connbytes-mode")),
        ConnbytesDirection(given.get("connbytes-dir")),
        # The kernel stores the ends swapped for !, so that a range of one value cannot be inverted.
        "connbytes" in given.inverted and first != last,
    )


EXTENSIONS = (
    Extension(
        "connbytes",
        _build,
        (
            Option("connbytes", _read, invertible=True, mandatory=True),
            Option("connbytes-dir", choice(*ConnbytesDirection, ignore_case=False), mandatory=True),
            Option("connbytes-mode", choice(*ConnbytesMode, ignore_case=False), mandatory=True),
        ),
    ),
)
