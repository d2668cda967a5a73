"""``-m cpu``: the processor that deals with the packet (net/netfilter/xt_cpu.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, number
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class CpuMatch(Match):
    """``cpu`` counts from 0."""

    extension: ClassVar[str] = "cpu"

    cpu: int
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --cpu {self.cpu}"


def _build(given: Given) -> CpuMatch:
    return CpuMatch(given.get("cpu"), "cpu" in given.inverted)


EXTENSIONS = (Extension("cpu", _build, (Option("cpu", number(), invertible=True, mandatory=True),)),)
