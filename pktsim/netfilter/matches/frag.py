"""``-m frag``: the fragment header (net/ipv6/netfilter/ip6t_frag.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, Extension, Given, Option, number, number_range
from pktsim.netfilter.ruleset import Family, Match


@dataclass(frozen=True, slots=True)
class FragMatch(Match):
    """Identifications from ``first`` to ``last``; ``length`` has no effect, as in the kernel."""

    extension: ClassVar[str] = "frag"

    first: int = 0
    last: int = U32_MAX
    id_inverted: bool = False
    length: int | None = None
    length_inverted: bool = False
    reserved_zero: bool = False
    is_first: bool = False
    more: bool = False
    is_last: bool = False

    def options_text(self) -> str:
        text = ""
        if (self.first, self.last) != (0, U32_MAX):
            ids = f"{self.first}" if self.first == self.last else f"{self.first}:{self.last}"
            text += f"{' !' if self.id_inverted else ''} --fragid {ids}"
        if self.length is not None:
            text += f"{' !' if self.length_inverted else ''} --fraglen {self.length}"
        flags = (
            ("fragres", self.reserved_zero),
            ("fragfirst", self.is_first),
            ("fragmore", self.more),
            ("fraglast", self.is_last),
        )
        return text + "".join(f" --{name}" for name, said in flags if said)


def _build(given: Given) -> FragMatch:
    first, last = given.get("fragid", (0, U32_MAX))
    return FragMatch(
        first,
        last,
        "fragid" in given.inverted,
        given.get("fraglen"),
        "fraglen" in given.inverted,
        "fragres" in given,
        "fragfirst" in given,
        "fragmore" in given,
        "fraglast" in given,
    )


EXTENSIONS = (
    Extension(
        "frag",
        _build,
        (
            Option("fragid", number_range(U32_MAX), invertible=True),
            Option("fraglen", number(), invertible=True),
            Option("fragres"),
            Option("fragfirst", excludes=()),
            Option("fragmore", excludes=("fraglast",)),
            Option("fraglast", excludes=("fragmore",)),
        ),
        Family.IPV6,
    ),
)
