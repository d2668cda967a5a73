"""``-j CONNMARK`` (net/netfilter/xt_connmark.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, BadValue, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Target
from pktsim.netfilter.targets.mark import XMARK_OPTIONS, xmark


class ConnmarkMode(enum.IntEnum):
    """``XT_CONNMARK_*`` (include/uapi/linux/netfilter/xt_connmark.h)."""

    SET = 0  # ct mark = (ct mark & ~ctmask) ^ value
    SAVE = 1  # ct mark = (ct mark & ~ctmask) ^ (mark & nfmask)
    RESTORE = 2  # mark = (mark & ~nfmask) ^ (ct mark & ctmask)


class Shift(enum.IntEnum):
    """Which way ``--left-shift-mark`` and ``--right-shift-mark`` move what is copied."""

    LEFT = 0
    RIGHT = 1


@dataclass(frozen=True, slots=True)
class ConnmarkTarget(Target):
    """``value`` is used by ``SET``, ``nfmask`` by the other two."""

    extension: ClassVar[str] = "CONNMARK"

    mode: ConnmarkMode
    value: int = 0
    ctmask: int = 0xFFFFFFFF
    nfmask: int = 0xFFFFFFFF
    shift: Shift = Shift.LEFT
    shift_bits: int = 0

    def options_text(self) -> str:
        if self.mode is ConnmarkMode.SET:
            text = f" --set-xmark {self.value:#x}/{self.ctmask:#x}"
        else:
            text = f" --{self.mode.name.lower()}-mark --nfmask {self.nfmask:#x} --ctmask {self.ctmask:#x}"
        return f"{text} --{self.shift.name.lower()}-shift-mark {self.shift_bits}" if self.shift_bits else text


_MARKS = frozenset(option.name for option in XMARK_OPTIONS)


def _build(given: Given) -> ConnmarkTarget:
    said = xmark(given)
    chosen = [name for name in ("save-mark", "restore-mark") if name in given]
    if len(chosen) + (said is not None) != 1:
        raise BadValue(
            "CONNMARK: one operation must be specified", "use one of --set-mark, --save-mark, --restore-mark"
        )
    shift, bits = Shift.LEFT, given.get("left-shift-mark", 0)
    if "right-shift-mark" in given:
        shift, bits = Shift.RIGHT, given.get("right-shift-mark")
    ctmask = given.get("mask", given.get("ctmask", U32_MAX))
    nfmask = given.get("mask", given.get("nfmask", U32_MAX))
    if said is not None:
        # A mask of its own that is said behind the mark replaces the mark's.
        order = list(given.values)
        mark = next(at for at, name in enumerate(order) if name in _MARKS)
        if any(name in ("mask", "ctmask") for name in order[mark:]):
            said = said[0], ctmask
        return ConnmarkTarget(ConnmarkMode.SET, said[0], said[1], shift=shift, shift_bits=bits)
    mode = ConnmarkMode.SAVE if chosen[0] == "save-mark" else ConnmarkMode.RESTORE
    return ConnmarkTarget(mode, 0, ctmask, nfmask, shift, bits)


EXTENSIONS = (
    Extension(
        "CONNMARK",
        _build,
        (
            *XMARK_OPTIONS,
            Option("save-mark"),
            Option("restore-mark"),
            Option("left-shift-mark", number(0, 32)),
            Option("right-shift-mark", number(0, 32), excludes=("left-shift-mark",)),
            Option("ctmask", number(), excludes=("mask",)),
            Option("nfmask", number(), excludes=("mask",)),
            Option("mask", number()),
        ),
    ),
)
