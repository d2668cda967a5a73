"""``-m nfacct``: counts into a named counter object and matches everything (net/netfilter/xt_nfacct.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, quoted, string
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class NfacctMatch(Match):
    """``name`` is at most 31 bytes (``NFACCT_NAME_MAX`` less the final NUL)."""

    extension: ClassVar[str] = "nfacct"

    name: str

    def options_text(self) -> str:
        return f" --nfacct-name  {quoted(self.name)}"  # two spaces, as the tool has it


def _build(given: Given) -> NfacctMatch:
    return NfacctMatch(given.get("nfacct-name"))


EXTENSIONS = (Extension("nfacct", _build, (Option("nfacct-name", string(31, 1), mandatory=True),)),)
