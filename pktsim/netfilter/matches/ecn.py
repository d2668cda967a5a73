"""``-m ecn``: explicit congestion notification in the IP and the TCP header (net/netfilter/xt_ecn.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Family, Match, Rule
from pktsim.wire.frame import IPPROTO_TCP


@dataclass(frozen=True, slots=True)
class EcnMatch(Match):
    """``None`` where not said: whether ECE and CWR are set; ``ect`` is the codepoint (0 to 3)."""

    extension: ClassVar[str] = "ecn"

    ece: bool | None = None
    cwr: bool | None = None
    ect: int | None = None
    ect_inverted: bool = False

    def options_text(self) -> str:
        flags = (("ece", self.ece), ("cwr", self.cwr))
        text = "".join(f"{'' if wanted else ' !'} --ecn-tcp-{name}" for name, wanted in flags if wanted is not None)
        return text if self.ect is None else f"{text}{' !' if self.ect_inverted else ''} --ecn-ip-ect {self.ect}"

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        about_tcp = self.ece is not None or self.cwr is not None
        if about_tcp and (rule.header.protocol != IPPROTO_TCP or rule.header.protocol_inverted):
            return "ecn: --ecn-tcp-* needs -p tcp"
        return ""


def _build(given: Given) -> EcnMatch:
    if not given.values:
        raise BadValue("ecn: one of --ecn-tcp-cwr, --ecn-tcp-ece, --ecn-ip-ect must be specified")
    ece, cwr = (option not in given.inverted if option in given else None for option in ("ecn-tcp-ece", "ecn-tcp-cwr"))
    return EcnMatch(ece, cwr, given.get("ecn-ip-ect"), "ecn-ip-ect" in given.inverted)


EXTENSIONS = (
    Extension(
        "ecn",
        _build,
        (
            Option("ecn-tcp-cwr", invertible=True),
            Option("ecn-tcp-ece", invertible=True),
            Option("ecn-ip-ect", number(0, 3), invertible=True),
        ),
    ),
)
