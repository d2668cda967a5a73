"""``-j TCPMSS``: change the MSS option of a SYN (net/netfilter/xt_TCPMSS.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.matches.tcp import TcpFlag, TcpMatch
from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, to_number
from pktsim.netfilter.ruleset import Family, Rule, Target


@dataclass(frozen=True, slots=True)
class TcpmssTarget(Target):
    """To ``mss``, or with ``None`` to what the path's MTU leaves (``--clamp-mss-to-pmtu``)."""

    extension: ClassVar[str] = "TCPMSS"
    protocols: ClassVar[frozenset[int]] = frozenset({6})

    mss: int | None = None

    def options_text(self) -> str:
        return " --clamp-mss-to-pmtu" if self.mss is None else f" --set-mss {self.mss}"

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if self.mss is None and hooks & {"PREROUTING", "INPUT"}:
            return "TCPMSS: the path's MTU is known in FORWARD, OUTPUT and POSTROUTING only"
        for match in rule.matches:
            if (
                isinstance(match, TcpMatch)
                and match.flags_set & TcpFlag.SYN
                and match.flags_mask & TcpFlag.SYN
                and not match.flags_inverted
            ):
                return ""
        return "TCPMSS: the rule must say --tcp-flags with SYN set"


def _read_mss(text: str, context: Context) -> int:
    return to_number(text, 0, 65535 - (20 if context.family is Family.IPV4 else 40), "MSS")


def _build(given: Given) -> TcpmssTarget:
    if not given.values:
        raise BadValue("TCPMSS: --set-mss or --clamp-mss-to-pmtu must be specified")
    return TcpmssTarget(None if "clamp-mss-to-pmtu" in given else given.get("set-mss"))


EXTENSIONS = (Extension("TCPMSS", _build, (Option("set-mss", _read_mss), Option("clamp-mss-to-pmtu"))),)
