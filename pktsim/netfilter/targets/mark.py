"""``-j MARK`` (net/netfilter/xt_mark.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, BadValue, Extension, Given, Option, number, value_mask
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class MarkTarget(Target):
    """``--set-xmark VALUE/MASK``, to which every other spelling reduces: ``mark = (mark & ~mask) ^ value``."""

    extension: ClassVar[str] = "MARK"

    value: int
    mask: int = 0xFFFFFFFF

    def options_text(self) -> str:
        return f" --set-xmark {self.value:#x}/{self.mask:#x}"


_OPERATIONS = ("set-xmark", "set-mark", "and-mark", "or-mark", "xor-mark")


def xmark(given: Given) -> tuple[int, int] | None:
    """Value and mask of ``--set-xmark`` for whichever operation was given; ``None`` if none was."""
    for name in _OPERATIONS:
        if name in given:
            said = given.get(name)
            if name == "set-xmark":
                return said[0], said[1]
            if name == "set-mark":
                return said[0], said[0] | said[1]
            if name == "and-mark":
                return 0, ~said & U32_MAX
            return said, said if name == "or-mark" else 0
    return None


def _build(given: Given) -> MarkTarget:
    said = xmark(given)
    if said is None:
        raise BadValue("MARK: one of --set-mark, --set-xmark, --and-mark, --or-mark, --xor-mark must be specified")
    return MarkTarget(*said)


#: What MARK and CONNMARK have in common.
XMARK_OPTIONS = (
    Option("set-xmark", value_mask, excludes=_OPERATIONS),
    Option("set-mark", value_mask, excludes=_OPERATIONS),
    Option("and-mark", number(), excludes=_OPERATIONS),
    Option("or-mark", number(), excludes=_OPERATIONS),
    Option("xor-mark", number(), excludes=_OPERATIONS),
)

EXTENSIONS = (Extension("MARK", _build, XMARK_OPTIONS),)
