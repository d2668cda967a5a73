"""``-m cgroup``: the control group of the socket that sent the packet (net/netfilter/xt_cgroup.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.errors import UnsupportedFeature
from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class CgroupMatch(Match):
    """``class_id`` is net_cls's; what no socket sent never matches."""

    extension: ClassVar[str] = "cgroup"
    hooks: ClassVar[frozenset[str]] = frozenset({"INPUT", "OUTPUT", "POSTROUTING"})

    class_id: int
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --cgroup {self.class_id}"


def _read_path(text: str, _context: Context) -> str:
    raise UnsupportedFeature("match cgroup --path", mend="control groups' paths are not known here")


def _build(given: Given) -> CgroupMatch:
    if "cgroup" not in given:
        raise BadValue("cgroup: --cgroup or --path must be specified")
    return CgroupMatch(given.get("cgroup"), "cgroup" in given.inverted)


EXTENSIONS = (
    Extension(
        "cgroup",
        _build,
        (Option("cgroup", number(), invertible=True), Option("path", _read_path, invertible=True)),
    ),
)
