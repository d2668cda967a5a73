"""``-j TCPOPTSTRIP``: overwrite TCP options with no-operations (net/netfilter/xt_TCPOPTSTRIP.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Context, Extension, Given, Option, to_number
from pktsim.netfilter.ruleset import Family, Rule, Target
from pktsim.wire.frame import IPPROTO_TCP

#: By the names that the tool knows.
_NAMES = {"wscale": 3, "mss": 2, "sack-permitted": 4, "sack": 5, "timestamp": 8, "md5": 19}


@dataclass(frozen=True, slots=True)
class TcpoptstripTarget(Target):
    """``kinds`` of options, in rising order."""

    extension: ClassVar[str] = "TCPOPTSTRIP"
    tables: ClassVar[frozenset[str]] = frozenset({"mangle"})

    kinds: tuple[int, ...] = ()

    def options_text(self) -> str:
        return f" --strip-options {','.join(map(str, self.kinds))}" if self.kinds else ""

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if rule.header.protocol != IPPROTO_TCP or rule.header.protocol_inverted:
            return "TCPOPTSTRIP: -p tcp is needed"
        return ""


def _read(text: str, _context: Context) -> tuple[int, ...]:
    kinds = {_NAMES[part] if part in _NAMES else to_number(part, 2, 255, "TCP option") for part in text.split(",")}
    return tuple(sorted(kinds))


def _build(given: Given) -> TcpoptstripTarget:
    return TcpoptstripTarget(given.get("strip-options", ()))


EXTENSIONS = (Extension("TCPOPTSTRIP", _build, (Option("strip-options", _read),)),)
