"""``-j AUDIT``: tell the audit daemon (net/netfilter/xt_AUDIT.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, choice
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class AuditTarget(Target):
    """``type`` is what is said to happen to the packet, which goes on all the same."""

    extension: ClassVar[str] = "AUDIT"

    type: str

    def options_text(self) -> str:
        return f" --type {self.type}"


def _build(given: Given) -> AuditTarget:
    return AuditTarget(given.get("type"))


EXTENSIONS = (Extension("AUDIT", _build, (Option("type", choice("accept", "drop", "reject"), mandatory=True),)),)
