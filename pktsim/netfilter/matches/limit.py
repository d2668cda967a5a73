"""``-m limit``: a token bucket per rule (net/netfilter/xt_limit.c)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U32_MAX, BadValue, Context, Extension, Given, Option, number
from pktsim.netfilter.ruleset import Family, Match, Rule

#: ``XT_LIMIT_SCALE``: ``LimitMatch.average`` counts in 1/10,000 seconds.
LIMIT_SCALE = 10_000

#: ``XT_LIMIT_BURST``.
DEFAULT_BURST = 5


@dataclass(frozen=True, slots=True)
class LimitMatch(Match):
    """``average`` is the time between two packets in 1/10,000 s, as in the kernel: ``--limit 3/hour`` is 12,000,000."""

    extension: ClassVar[str] = "limit"

    average: int = 3600 * LIMIT_SCALE // 3
    burst: int = DEFAULT_BURST

    def options_text(self) -> str:
        burst = "" if self.burst == DEFAULT_BURST else f" --limit-burst {self.burst}"
        return f" --limit {_rate_text(self.average)}{burst}"

    def objection(self, rule: Rule, family: Family, hooks: frozenset[str]) -> str:
        bucket = _credits((self.average * self.burst) & U32_MAX)
        if self.burst == 0 or bucket < _credits(self.average):
            return f"limit: a burst of {self.burst} at this rate is out of the kernel's range"
        return ""


#: Credits of one second: HZ times ``CREDITS_PER_JIFFY``, which come to the same for a HZ of 250 and of 1000.
_CREDITS_PER_S = 32_000


def _credits(time: int) -> int:
    """``user2credits`` of xt_limit.c: the order of the operations keeps it within 32 bits, at the price of rounding."""
    if time > U32_MAX // _CREDITS_PER_S:
        return (time // LIMIT_SCALE * _CREDITS_PER_S) & U32_MAX
    return time * _CREDITS_PER_S // LIMIT_SCALE


_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_SHOWN = (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1))
_DIGITS = re.compile(r"\s*\+?([0-9]+)")


def _rate_text(average: int) -> str:
    """The unit is the last for which the rate is a whole number or nearly so (``print_rate`` of libxt_limit.c)."""
    chosen = 0
    for at in range(1, len(_SHOWN)):
        period = _SHOWN[at][1] * LIMIT_SCALE
        if average > period or period // average < period % average:
            break
        chosen = at
    name, seconds = _SHOWN[chosen]
    return f"{seconds * LIMIT_SCALE // average}/{name}"


def _read(text: str, _context: Context) -> int:
    rate, slash, unit = text.partition("/")
    seconds = 1
    if slash:
        seconds = next((length for name, length in _UNITS.items() if unit and name.startswith(unit.lower())), 0)
    digits = _DIGITS.match(rate)
    count = int(digits.group(1)) if digits else 0
    if not seconds or not count:
        raise BadValue(f"bad rate {text!r}", "write NUMBER/second, /minute, /hour or /day")
    average = LIMIT_SCALE * seconds // count
    if not average:
        raise BadValue(f"rate {text} is too fast", f"use at most {LIMIT_SCALE}/second")
    return average


def _build(given: Given) -> LimitMatch:
    return LimitMatch(given.get("limit", LimitMatch().average), given.get("limit-burst", DEFAULT_BURST))


EXTENSIONS = (Extension("limit", _build, (Option("limit", _read), Option("limit-burst", number(0, 10000)))),)
