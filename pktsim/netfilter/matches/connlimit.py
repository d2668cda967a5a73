"""``-m connlimit``: how many connections an address or network has now (net/netfilter/xt_connlimit.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.errors import UnsupportedFeature
from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, number, prefix_mask, to_mask
from pktsim.netfilter.ruleset import Family, Match


@dataclass(frozen=True, slots=True)
class ConnlimitMatch(Match):
    """Matches above ``limit`` connections, or with ``upto`` while there are no more."""

    extension: ClassVar[str] = "connlimit"

    limit: int
    prefix_length: int
    upto: bool = False
    by_destination: bool = False

    def options_text(self) -> str:
        return (
            f" --connlimit-{'upto' if self.upto else 'above'} {self.limit}"
            f" --connlimit-mask {self.prefix_length}"
            f" --connlimit-{'daddr' if self.by_destination else 'saddr'}"
        )


def _read_mask(text: str, context: Context) -> int:
    mask = to_mask(text, context.family)
    length = int(mask).bit_count()
    if mask != prefix_mask(length, context.family):
        raise UnsupportedFeature("match connlimit with a mask that is no prefix", mend="write a prefix length")
    return length


def _build(given: Given) -> ConnlimitMatch:
    option = next((name for name in ("connlimit-upto", "connlimit-above") if name in given), None)
    if option is None:
        raise BadValue("connlimit: --connlimit-above or --connlimit-upto must be specified")
    return ConnlimitMatch(
        given.get(option),
        given.get("connlimit-mask", 32 if given.context.family is Family.IPV4 else 128),
        (option == "connlimit-upto") != (option in given.inverted),
        "connlimit-daddr" in given,
    )


EXTENSIONS = (
    Extension(
        "connlimit",
        _build,
        (
            Option("connlimit-upto", number(), invertible=True, excludes=("connlimit-above",)),
            Option("connlimit-above", number(), invertible=True),
            Option("connlimit-mask", _read_mask),
            Option("connlimit-saddr", excludes=("connlimit-daddr",)),
            Option("connlimit-daddr"),
        ),
    ),
)
