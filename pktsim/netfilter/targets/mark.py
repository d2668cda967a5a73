"""``-j MARK`` (net/netfilter/xt_mark.c)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class MarkTarget(Target):
    """``--set-xmark VALUE/MASK``, to which every other spelling reduces: ``mark = (mark & ~mask) ^ value``."""

    value: int
    mask: int = 0xFFFFFFFF
