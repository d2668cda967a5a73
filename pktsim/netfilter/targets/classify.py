"""``-j CLASSIFY``: set the packet's priority (net/netfilter/xt_CLASSIFY.c)."""

from __future__ import annotations

import re
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


#: As ``sscanf`` reads ``%x:%x``; what is behind does not count, and neither do more than 16 bits.
_CLASS = re.compile(r"\s*([-+]?(?:0[xX])?[0-9a-fA-F]+):\s*([-+]?(?:0[xX])?[0-9a-fA-F]+)")


def _read(text: str, _context: Context) -> tuple[int, int]:
    found = _CLASS.match(text)
    if found is None:
        raise BadValue(f"bad class {text!r}", "write MAJOR:MINOR in hex")
    return int(found.group(1), 16) & U16_MAX, int(found.group(2), 16) & U16_MAX


def _build(given: Given) -> ClassifyTarget:
    return ClassifyTarget(*given.get("set-class"))


EXTENSIONS = (Extension("CLASSIFY", _build, (Option("set-class", _read, mandatory=True),)),)
