"""``-m hbh`` and ``-m dst``: hop-by-hop and destination options (net/ipv6/netfilter/ip6t_hbh.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U8_MAX, BadValue, Context, Extension, Given, Option, Reader, number, to_number
from pktsim.netfilter.ruleset import Family, Match

#: ``IP6T_OPTS_OPTSNR``.
MOST_OPTIONS = 16
#: A byte of padding; ip6tables says PAD0.
PAD1 = 0


@dataclass(frozen=True, slots=True)
class OptionsMatch(Match):
    """``length`` is that of the whole header in bytes; ``options`` are (type, length or ``None`` for any), in order."""

    length: int | None = None
    length_inverted: bool = False
    options: tuple[tuple[int, int | None], ...] = ()

    def options_text(self) -> str:
        text = ""
        if self.length is not None:
            text += f"{' !' if self.length_inverted else ''} --{self.extension}-len {self.length}"
        if self.options:
            words = (f"{kind}" if length is None else f"{kind}:{length}" for kind, length in self.options)
            text += f" --{self.extension}-opts {','.join(words)}"
        return text


@dataclass(frozen=True, slots=True)
class HbhMatch(OptionsMatch):
    """Hop-by-hop options."""

    extension: ClassVar[str] = "hbh"


@dataclass(frozen=True, slots=True)
class DstMatch(OptionsMatch):
    """Destination options."""

    extension: ClassVar[str] = "dst"


def _read_options(text: str, _context: Context) -> tuple[tuple[int, int | None], ...]:
    found: list[tuple[int, int | None]] = []
    for part in text.split(","):
        kind, colon, length = part.partition(":")
        found.append((to_number(kind, 0, U8_MAX), to_number(length, 0, U8_MAX) if colon else None))
        if colon and found[-1][0] == PAD1:
            raise BadValue("PAD0 has not got length", "write 0 alone")
    if len(found) > MOST_OPTIONS:
        raise BadValue("too many options", f"name at most {MOST_OPTIONS}")
    return tuple(found)


_OPTIONS: Reader = _read_options


def _build_hbh(given: Given) -> HbhMatch:
    return HbhMatch(given.get("hbh-len"), "hbh-len" in given.inverted, given.get("hbh-opts", ()))


def _build_dst(given: Given) -> DstMatch:
    return DstMatch(given.get("dst-len"), "dst-len" in given.inverted, given.get("dst-opts", ()))


EXTENSIONS: tuple[Extension[HbhMatch] | Extension[DstMatch], ...] = (
    Extension(
        "hbh",
        _build_hbh,
        (Option("hbh-len", number(), invertible=True), Option("hbh-opts", _OPTIONS)),
        Family.IPV6,
    ),
    Extension(
        "dst",
        _build_dst,
        (Option("dst-len", number(), invertible=True), Option("dst-opts", _OPTIONS)),
        Family.IPV6,
    ),
)
