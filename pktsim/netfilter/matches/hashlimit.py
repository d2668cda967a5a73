"""``-m hashlimit``: a token bucket for each address, port or pair of them (net/netfilter/xt_hashlimit.c)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from pktsim.clock import HZ
from pktsim.errors import UnsupportedFeature
from pktsim.netfilter.option import (
    U32_MAX,
    U64_MAX,
    BadValue,
    Context,
    Extension,
    Given,
    Option,
    number,
    proc_name_objection,
    string,
)
from pktsim.netfilter.ruleset import Family, Match, Rule

#: ``XT_HASHLIMIT_SCALE_v2``: what ``HashlimitMatch.average`` counts in.
SCALE = 1_000_000
DEFAULT_BURST = 5
DEFAULT_GC_MS = 1000
_MODES = ("srcip", "srcport", "dstip", "dstport")
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_SHOWN = (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1))


#: ``CREDITS_PER_JIFFY``: the power of two below what a rate of one per day leaves of 64 bits, with a HZ of 250.
CREDITS_PER_JIFFY = 1 << 39


def credits(user: int) -> int:
    """``user2credits``, in 64 bits: a rule whose burst overflows is refused only if less than one packet is left."""
    return user * (HZ * CREDITS_PER_JIFFY // SCALE) & U64_MAX


@dataclass(frozen=True, slots=True)
class HashlimitMatch(Match):
    """``average`` is the time between two packets in 1/1,000,000 s; times of the table are in milliseconds.

    All rules of one ``name`` share the table, with the settings of the rule that was loaded first.
    """

    extension: ClassVar[str] = "hashlimit"

    name: str
    average: int
    above: bool = False
    burst: int = DEFAULT_BURST
    mode: frozenset[str] = frozenset()
    src_length: int = 32
    dst_length: int = 32
    size: int = 0
    max_entries: int = 0
    gc_interval_ms: int = DEFAULT_GC_MS
    expire_ms: int = 1000
    longest: int = 32  # the longest prefix of the family

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        if credits(self.average * self.burst) < credits(self.average):
            return "hashlimit: the burst overflows what is counted in at this rate"
        return proc_name_objection(self.name)

    def options_text(self) -> str:
        rate, quantum_ms = _rate_text(self.average)
        text = f" --hashlimit-{'above' if self.above else 'upto'} {rate} --hashlimit-burst {self.burst}"
        if self.mode:
            text += f" --hashlimit-mode {','.join(word for word in _MODES if word in self.mode)}"
        text += f" --hashlimit-name {self.name}"
        numbers = (
            ("htable-size", self.size, 0),
            ("htable-max", self.max_entries, 0),
            ("htable-gcinterval", self.gc_interval_ms, DEFAULT_GC_MS),
            ("htable-expire", self.expire_ms, quantum_ms),
            ("srcmask", self.src_length, self.longest),
            ("dstmask", self.dst_length, self.longest),
        )
        return text + "".join(f" --hashlimit-{option} {value}" for option, value, usual in numbers if value != usual)


def _rate_text(average: int) -> tuple[str, int]:
    """The rate, and its unit in milliseconds: the last for which it is a whole number or nearly so."""
    chosen = 0
    for at in range(1, len(_SHOWN)):
        period = _SHOWN[at][1] * SCALE
        if average > period or period // average < period % average:
            break
        chosen = at
    name, seconds = _SHOWN[chosen]
    return f"{seconds * SCALE // average}/{name}", seconds * 1000


def _read_rate(text: str, _context: Context) -> tuple[int, int]:
    """Average, and the unit in seconds."""
    if "b/s" in text:
        raise UnsupportedFeature("match hashlimit with a rate in bytes", mend="only packets are counted")
    rate, slash, unit = text.partition("/")
    seconds = 1
    if slash:
        seconds = next((length for name, length in _UNITS.items() if unit and name.startswith(unit.lower())), 0)
    digits = re.match(r"\s*\+?([0-9]+)", rate)
    count = int(digits.group(1)) if digits else 0
    if not seconds or not count:
        raise BadValue(f"bad rate {text!r}", "write NUMBER/second, /minute, /hour or /day")
    average = SCALE * seconds // count
    if not average:
        raise BadValue(f"rate {text} is too fast", f"use at most {SCALE}/second")
    return average, seconds


def _read_mode(text: str, _context: Context) -> frozenset[str]:
    words = frozenset(text.split(","))
    if not words <= frozenset(_MODES):
        raise BadValue(f"bad mode {text!r}", f"use a comma-separated list of {', '.join(_MODES)}")
    return words


def _refuse_rate_match(text: str, _context: Context) -> int:
    raise UnsupportedFeature("match hashlimit --hashlimit-rate-interval")


def _build(given: Given) -> HashlimitMatch:
    if "hashlimit-rate-match" in given:
        raise UnsupportedFeature("match hashlimit --hashlimit-rate-match")
    option = next((name for name in ("hashlimit-upto", "hashlimit-above") if name in given), None)
    if option is None:
        raise BadValue("hashlimit: --hashlimit-upto or --hashlimit-above must be specified")
    average, seconds = given.get(option)
    longest = 32 if given.context.family is Family.IPV4 else 128
    src_length, dst_length = given.get("hashlimit-srcmask", longest), given.get("hashlimit-dstmask", longest)
    if max(src_length, dst_length) > longest:
        raise BadValue("hashlimit: the mask is longer than an address", f"use at most {longest}")
    return HashlimitMatch(
        given.get("hashlimit-name"),
        average,
        (option == "hashlimit-above") != (option in given.inverted),
        given.get("hashlimit-burst", DEFAULT_BURST),
        given.get("hashlimit-mode", frozenset()),
        src_length,
        dst_length,
        given.get("hashlimit-htable-size", 0),
        given.get("hashlimit-htable-max", 0),
        given.get("hashlimit-htable-gcinterval", DEFAULT_GC_MS),
        given.get("hashlimit-htable-expire", seconds * 1000),
        longest,
    )


EXTENSIONS = (
    Extension(
        "hashlimit",
        _build,
        (
            Option("hashlimit-upto", _read_rate, aliases=("hashlimit",), invertible=True),
            Option("hashlimit-above", _read_rate, invertible=True, excludes=("hashlimit-upto",)),
            Option("hashlimit-srcmask", number(0, 128)),
            Option("hashlimit-dstmask", number(0, 128)),
            Option("hashlimit-burst", number(1, 1_000_000)),
            Option("hashlimit-htable-size", number()),
            Option("hashlimit-htable-max", number()),
            Option("hashlimit-htable-gcinterval", number(1, U32_MAX)),
            Option("hashlimit-htable-expire", number(1, U32_MAX)),
            Option("hashlimit-mode", _read_mode),
            Option("hashlimit-name", string(254, 1), mandatory=True),
            Option("hashlimit-rate-match"),
            Option("hashlimit-rate-interval", _refuse_rate_match),
        ),
    ),
)
