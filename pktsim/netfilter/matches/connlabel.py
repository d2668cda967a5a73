"""``-m connlabel``: one of 128 labels of a connection (net/netfilter/xt_connlabel.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option, number
from pktsim.netfilter.ruleset import Match

#: ``XT_CONNLABEL_MAXBIT``.
HIGHEST_LABEL = 127


@dataclass(frozen=True, slots=True)
class ConnlabelMatch(Match):
    """Whether the connection has the label; with ``set`` it gets it first. Labels are numbers: no file names them."""

    extension: ClassVar[str] = "connlabel"

    label: int
    inverted: bool = False
    set: bool = False

    def options_text(self) -> str:
        return f'{" !" if self.inverted else ""} --label "{self.label}"{" --set" if self.set else ""}'


def _build(given: Given) -> ConnlabelMatch:
    return ConnlabelMatch(given.get("label"), "label" in given.inverted, "set" in given)


EXTENSIONS = (
    Extension(
        "connlabel", _build, (Option("label", number(0, HIGHEST_LABEL), invertible=True, mandatory=True), Option("set"))
    ),
)
