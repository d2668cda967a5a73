"""``-j TRACE``: have the kernel log the packet's way through the tables (net/netfilter/xt_TRACE.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class TraceTarget(Target):
    """No options."""

    extension: ClassVar[str] = "TRACE"
    tables: ClassVar[frozenset[str]] = frozenset({"raw"})


def _build(given: Given) -> TraceTarget:
    return TraceTarget()


EXTENSIONS = (Extension("TRACE", _build),)
