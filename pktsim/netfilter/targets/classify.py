"""``-j CLASSIFY``: set the packet's priority (net/netfilter/xt_CLASSIFY.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U16_MAX, BadValue, Context, Extension, Given, Option
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class ClassifyTarget(Target):
    """``--set-class MAJOR:MINOR``, both in hex."""

    extension: ClassVar[str] = "CLASSIFY"
    hooks: ClassVar[frozenset[str]] = frozenset({"FORWARD", "OUTPUT", "POSTROUTING"})

    major: int
    minor: int

    def options_text(self) -> str:
        return f" --set-class {self.major:04x}:{self.minor:04x}"


def _read(text: str, _context: Context) -> tuple[int, int]:
    major, colon, minor = text.partition(":")
    try:
        found = int(major, 16), int(minor, 16)
    except ValueError:
        found = -1, -1
    if not colon or not all(0 <= part <= U16_MAX for part in found):
        raise BadValue(f"bad class {text!r}", "write MAJOR:MINOR in hex")
    return found


def _build(given: Given) -> ClassifyTarget:
    return ClassifyTarget(*given.get("set-class"))


EXTENSIONS = (Extension("CLASSIFY", _build, (Option("set-class", _read, mandatory=True),)),)
