"""``-j CONNMARK`` (net/netfilter/xt_connmark.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target


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

    mode: ConnmarkMode
    value: int = 0
    ctmask: int = 0xFFFFFFFF
    nfmask: int = 0xFFFFFFFF
    shift: Shift = Shift.LEFT
    shift_bits: int = 0
