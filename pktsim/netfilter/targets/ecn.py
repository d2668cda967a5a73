"""``-j ECN``: take explicit congestion notification out of a TCP header (net/ipv4/netfilter/ipt_ECN.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.errors import UnsupportedFeature
from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, Reader
from pktsim.netfilter.ruleset import Family, Rule, Target
from pktsim.wire.frame import IPPROTO_TCP


@dataclass(frozen=True, slots=True)
class EcnTarget(Target):
    """``--ecn-tcp-remove``: ECE and CWR become 0."""

    extension: ClassVar[str] = "ECN"
    tables: ClassVar[frozenset[str]] = frozenset({"mangle"})

    def options_text(self) -> str:
        return " --ecn-tcp-remove"

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if rule.header.protocol != IPPROTO_TCP or rule.header.protocol_inverted:
            return "ECN: -p tcp is needed"
        return ""


def _refuse(option: str) -> Reader:
    def read(text: str, _context: Context) -> int:
        raise UnsupportedFeature(f"target ECN --{option}")

    return read


def _build(given: Given) -> EcnTarget:
    if "ecn-tcp-remove" not in given:
        raise BadValue("ECN: an operation must be specified", "add --ecn-tcp-remove")
    return EcnTarget()


#: Options that the tool takes and does not tell of.
_HIDDEN = tuple(Option(name, _refuse(name)) for name in ("ecn-tcp-cwr", "ecn-tcp-ece", "ecn-ip-ect"))

EXTENSIONS = (Extension("ECN", _build, (Option("ecn-tcp-remove"), *_HIDDEN), Family.IPV4),)
