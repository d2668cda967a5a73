"""``-j NFLOG``: hand a copy to a logging program (net/netfilter/xt_NFLOG.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U16_MAX, BadValue, Context, Extension, Given, Option, number, quoted
from pktsim.netfilter.ruleset import Target

#: ``sizeof(struct xt_nflog_info.prefix)`` less the final NUL; a longer one is cut.
LONGEST_PREFIX = 63


@dataclass(frozen=True, slots=True)
class NflogTarget(Target):
    """``size`` is how much of the packet is copied; ``None`` for all of it."""

    extension: ClassVar[str] = "NFLOG"

    group: int = 0
    prefix: str = ""
    size: int | None = None
    old_range: int = 0  # --nflog-range, which has never worked
    threshold: int = 0

    def options_text(self) -> str:
        text = f" --nflog-prefix {quoted(self.prefix)}" if self.prefix else ""
        if self.group:
            text += f" --nflog-group {self.group}"
        if self.size is not None:
            text += f" --nflog-size {self.size}"
        elif self.old_range:
            text += f" --nflog-range {self.old_range}"
        return text if self.threshold == 0 else f"{text} --nflog-threshold {self.threshold}"


def _read_prefix(text: str, _context: Context) -> str:
    if not text:
        raise BadValue("no prefix given", "drop --nflog-prefix")
    if "\n" in text:
        raise BadValue("a newline cannot be in a log prefix")
    return text.encode("utf-8", "surrogateescape")[:LONGEST_PREFIX].decode("utf-8", "surrogateescape")


def _build(given: Given) -> NflogTarget:
    return NflogTarget(
        given.get("nflog-group", 0),
        given.get("nflog-prefix", ""),
        given.get("nflog-size"),
        given.get("nflog-range", 0),
        given.get("nflog-threshold", 0),
    )


EXTENSIONS = (
    Extension(
        "NFLOG",
        _build,
        (
            Option("nflog-group", number(0, U16_MAX)),
            Option("nflog-prefix", _read_prefix),
            Option("nflog-range", number(), excludes=("nflog-size",)),
            Option("nflog-size", number()),
            Option("nflog-threshold", number(0, U16_MAX)),
        ),
    ),
)
