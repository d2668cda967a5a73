"""``-m owner``: who owns the socket that sent the packet (net/netfilter/xt_owner.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, BadValue, Context, Extension, Given, Option, leading_number
from pktsim.netfilter.ruleset import Family, Match, Rule


@dataclass(frozen=True, slots=True)
class OwnerMatch(Match):
    """Ranges of user and group ids, both ends included; ``socket_exists`` ``False`` is asked with ``!``."""

    extension: ClassVar[str] = "owner"
    hooks: ClassVar[frozenset[str]] = frozenset({"OUTPUT", "POSTROUTING"})

    uids: tuple[int, int] | None = None
    uids_inverted: bool = False
    gids: tuple[int, int] | None = None
    gids_inverted: bool = False
    socket_exists: bool | None = None
    supplementary_groups: bool = False

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        down = any(ids is not None and ids[0] > ids[1] for ids in (self.uids, self.gids))
        return "owner: a range of ids that is upside down" if down else ""

    def options_text(self) -> str:
        text = ""
        if self.socket_exists is not None:
            text += f"{'' if self.socket_exists else ' !'} --socket-exists"
        text += _ids_text("uid-owner", self.uids, self.uids_inverted)
        text += _ids_text("gid-owner", self.gids, self.gids_inverted)
        return f"{text} --suppl-groups" if self.supplementary_groups else text


def _ids_text(option: str, said: tuple[int, int] | None, inverted: bool) -> str:
    if said is None:
        return ""
    first, last = said
    return f"{' !' if inverted else ''} --{option} {first if first == last else f'{first}-{last}'}"


def _read(text: str, _context: Context) -> tuple[int, int]:
    if text == "root":  # the one name that means the same on every node
        return 0, 0
    found = leading_number(text)
    if found is not None and found[0] < U32_MAX:
        first, rest = found
        if not rest:
            return first, first
        found = leading_number(rest[1:]) if rest[0] in "-:" else None
        if found is not None and not found[1] and found[0] < U32_MAX:
            return first, found[0]
    raise BadValue(f"bad owner {text!r}", "write an id, or a range FIRST-LAST; names are not looked up")


def _build(given: Given) -> OwnerMatch:
    if not given.values:
        raise BadValue("owner: --uid-owner, --gid-owner or --socket-exists must be specified")
    order = list(given.values)
    if "suppl-groups" in order and "gid-owner" not in order[: order.index("suppl-groups")]:
        raise BadValue("owner: --suppl-groups needs --gid-owner before it")
    return OwnerMatch(
        given.get("uid-owner"),
        "uid-owner" in given.inverted,
        given.get("gid-owner"),
        "gid-owner" in given.inverted,
        "socket-exists" not in given.inverted if "socket-exists" in given else None,
        "suppl-groups" in given,
    )


EXTENSIONS = (
    Extension(
        "owner",
        _build,
        (
            Option("uid-owner", _read, invertible=True),
            Option("gid-owner", _read, invertible=True),
            Option("socket-exists", invertible=True),
            Option("suppl-groups"),
        ),
    ),
)
