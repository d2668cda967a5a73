"""``-m rpfilter``: whether the answer would leave by where the packet came in (net/ipv4/netfilter/ipt_rpfilter.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class RpfilterMatch(Match):
    """As the sysctl ``rp_filter``, but per rule; Calico drops what fails it."""

    extension: ClassVar[str] = "rpfilter"
    tables: ClassVar[frozenset[str]] = frozenset({"raw", "mangle"})
    hooks: ClassVar[frozenset[str]] = frozenset({"PREROUTING"})

    loose: bool = False
    valid_mark: bool = False
    accept_local: bool = False
    invert: bool = False

    def options_text(self) -> str:
        text = ""
        if self.loose:
            text += " --loose"
        if self.valid_mark:
            text += " --validmark"
        if self.accept_local:
            text += " --accept-local"
        if self.invert:
            text += " --invert"
        return text


def _build(given: Given) -> RpfilterMatch:
    return RpfilterMatch(
        "loose" in given,
        "validmark" in given,
        "accept-local" in given,
        "invert" in given,
    )


EXTENSIONS = (
    Extension(
        "rpfilter",
        _build,
        (
            Option("loose"),
            Option("validmark"),
            Option("accept-local"),
            Option("invert"),
        ),
    ),
)
