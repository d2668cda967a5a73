"""``-m recent``: lists of addresses seen lately; kube-proxy's session affinity (net/netfilter/xt_recent.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import (
    BadValue,
    Extension,
    Given,
    Option,
    address,
    address_text,
    number,
    prefix_mask,
    proc_name_objection,
    string,
)
from pktsim.netfilter.ruleset import Family, Match, Rule
from pktsim.netfilter.values import Address

#: ``XT_RECENT_MAX_NSTAMPS``.
MAX_STAMPS = 256


class RecentAction(enum.StrEnum):
    """What is done with the list; the option's own name."""

    SET = "set"
    RCHECK = "rcheck"
    UPDATE = "update"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class RecentMatch(Match):
    """``seconds`` and ``hitcount`` 0 mean not said. ``by_destination`` looks at the destination (``--rdest``)."""

    extension: ClassVar[str] = "recent"

    action: RecentAction
    mask: Address
    name: str = "DEFAULT"
    inverted: bool = False
    seconds: int = 0
    reap: bool = False
    hitcount: int = 0
    rttl: bool = False
    by_destination: bool = False

    def options_text(self) -> str:
        text = f"{' !' if self.inverted else ''} --{self.action.value}"
        if self.seconds:
            text += f" --seconds {self.seconds}"
        if self.reap:
            text += " --reap"
        if self.hitcount:
            text += f" --hitcount {self.hitcount}"
        if self.rttl:
            text += " --rttl"
        text += f" --name {self.name} --mask {address_text(self.mask)}"
        return text + (" --rdest" if self.by_destination else " --rsource")

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        limited = self.seconds or self.hitcount or self.reap or self.rttl
        if self.action in (RecentAction.SET, RecentAction.REMOVE) and limited:
            return f"recent: --{self.action.value} takes no --seconds, --hitcount, --reap or --rttl"
        if self.hitcount >= MAX_STAMPS:
            return f"recent: --hitcount {self.hitcount} is more than the {MAX_STAMPS - 1} stamps that are kept"
        return proc_name_objection(self.name)


_ACTIONS = tuple(action.value for action in RecentAction)


def _build(given: Given) -> RecentMatch:
    action = next((name for name in _ACTIONS if name in given), None)
    if action is None:
        raise BadValue("recent: one of --set, --rcheck, --update or --remove must be specified")
    family = given.context.family
    return RecentMatch(
        RecentAction(action),
        given.get("mask") or prefix_mask(32 if family is Family.IPV4 else 128, family),
        given.get("name", "DEFAULT"),
        action in given.inverted,
        given.get("seconds", 0),
        "reap" in given,
        given.get("hitcount", 0),
        "rttl" in given,
        "rdest" in given,
    )


EXTENSIONS = (
    Extension(
        "recent",
        _build,
        (
            *(Option(name, invertible=True, excludes=_ACTIONS) for name in _ACTIONS),
            Option("seconds", number(1)),
            Option("reap", requires=("seconds",)),
            Option("hitcount", number()),
            Option("rttl", excludes=("set", "remove")),
            Option("name", string(199, 1)),
            Option("rsource"),
            Option("rdest"),
            Option("mask", address),
        ),
    ),
)
