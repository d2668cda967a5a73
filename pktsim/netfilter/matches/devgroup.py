"""``-m devgroup``: the group of the device (net/netfilter/xt_devgroup.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, BadValue, Context, Extension, Given, Option, mark_text, value_mask
from pktsim.netfilter.ruleset import Family, Match, Rule


@dataclass(frozen=True, slots=True)
class DevgroupMatch(Match):
    """Value and mask each; ``None`` where not said. A device that nobody has put into a group is in group 0."""

    extension: ClassVar[str] = "devgroup"

    src: tuple[int, int] | None = None
    src_inverted: bool = False
    dst: tuple[int, int] | None = None
    dst_inverted: bool = False

    def options_text(self) -> str:
        parts = (("src", self.src, self.src_inverted), ("dst", self.dst, self.dst_inverted))
        return "".join(
            f"{' !' if inverted else ''} --{side}-group {_group_text(*group)}"
            for side, group, inverted in parts
            if group is not None
        )

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if self.src is not None and hooks & {"OUTPUT", "POSTROUTING"}:
            return "devgroup: --src-group cannot be used in OUTPUT and POSTROUTING"
        if self.dst is not None and hooks & {"PREROUTING", "INPUT"}:
            return "devgroup: --dst-group cannot be used in PREROUTING and INPUT"
        return ""


def _group_text(value: int, mask: int) -> str:
    """Group 0 is called so in ``/etc/iproute2/group``."""
    return "default" if (value, mask) == (0, U32_MAX) else mark_text(value, mask)


def _read_group(text: str, context: Context) -> tuple[int, int]:
    return (0, U32_MAX) if text == "default" else value_mask(text, context)


def _build(given: Given) -> DevgroupMatch:
    if not given.values:
        raise BadValue("devgroup: --src-group or --dst-group must be specified")
    return DevgroupMatch(
        given.get("src-group"), "src-group" in given.inverted, given.get("dst-group"), "dst-group" in given.inverted
    )


EXTENSIONS = (
    Extension(
        "devgroup",
        _build,
        (Option("src-group", _read_group, invertible=True), Option("dst-group", _read_group, invertible=True)),
    ),
)
