"""``-m socket``: whether a socket of this node would take the packet (net/netfilter/xt_socket.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option
from pktsim.netfilter.ruleset import Match


@dataclass(frozen=True, slots=True)
class SocketMatch(Match):
    """Options narrow which sockets count."""

    extension: ClassVar[str] = "socket"
    hooks: ClassVar[frozenset[str]] = frozenset({"PREROUTING", "INPUT"})

    transparent: bool = False
    no_wildcard: bool = False
    restore_mark: bool = False

    def options_text(self) -> str:
        text = ""
        if self.transparent:
            text += " --transparent"
        if self.no_wildcard:
            text += " --nowildcard"
        if self.restore_mark:
            text += " --restore-skmark"
        return text


def _build(given: Given) -> SocketMatch:
    return SocketMatch(
        "transparent" in given,
        "nowildcard" in given,
        "restore-skmark" in given,
    )


EXTENSIONS = (
    Extension(
        "socket",
        _build,
        (
            Option("transparent"),
            Option("nowildcard"),
            Option("restore-skmark"),
        ),
    ),
)
