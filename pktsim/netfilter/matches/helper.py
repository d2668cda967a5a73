"""``-m helper``: the conntrack helper of the packet's master connection (net/netfilter/xt_helper.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, quoted, string
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class HelperMatch(Match):
    """The helper's name (``ftp``, ``sip-5060``)."""

    extension: ClassVar[str] = "helper"

    name: str
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --helper {quoted(self.name)}"


def _build(given: Given) -> HelperMatch:
    return HelperMatch(given.get("helper"), "helper" in given.inverted)


EXTENSIONS = (Extension("helper", _build, (Option("helper", string(29), invertible=True, mandatory=True),)),)
