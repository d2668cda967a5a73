"""``-j IDLETIMER``: tell when nothing has come for a while (net/netfilter/xt_IDLETIMER.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, Extension, Given, Option, number, string
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class IdletimerTarget(Target):
    """The timer ``label`` runs out ``timeout_s`` after the last packet; packets are not touched."""

    extension: ClassVar[str] = "IDLETIMER"

    timeout_s: int
    label: str
    alarm: bool = False

    def options_text(self) -> str:
        return f" --timeout {self.timeout_s} --label {self.label}{' --alarm' if self.alarm else ''}"


def _build(given: Given) -> IdletimerTarget:
    return IdletimerTarget(given.get("timeout"), given.get("label"), "alarm" in given)


EXTENSIONS = (
    Extension(
        "IDLETIMER",
        _build,
        (
            Option("timeout", number(1, U32_MAX), mandatory=True),
            Option("label", string(27, 1), mandatory=True),
            Option("alarm"),
        ),
    ),
)
