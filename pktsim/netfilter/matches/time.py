"""``-m time``: when the packet comes (net/netfilter/xt_time.c)."""

from __future__ import annotations

import re
from calendar import timegm
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, to_number
from pktsim.netfilter.ruleset import Match

LATEST_DAYTIME_S = 24 * 60 * 60 - 1
#: Without an end the tool writes the largest ``int``, and prints it.
LATEST_DATE_S = 0x7FFFFFFF
ALL_WEEKDAYS = 0xFE  # bits 1 (Monday) to 7
ALL_MONTHDAYS = 0xFFFFFFFE  # bits 1 to 31
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class TimeMatch(Match):
    """Dates are Unix times, times of day seconds after midnight, all included; days are bits."""

    extension: ClassVar[str] = "time"

    date_start_s: int = 0
    date_stop_s: int = LATEST_DATE_S
    daytime_start_s: int = 0
    daytime_stop_s: int = LATEST_DAYTIME_S
    monthdays: int = ALL_MONTHDAYS
    weekdays: int = ALL_WEEKDAYS
    kernel_timezone: bool = False
    contiguous: bool = False

    def options_text(self) -> str:
        text = ""
        if (self.daytime_start_s, self.daytime_stop_s) != (0, LATEST_DAYTIME_S):
            text += f" --timestart {_clock(self.daytime_start_s)} --timestop {_clock(self.daytime_stop_s)}"
        if self.monthdays != ALL_MONTHDAYS:
            text += f" --monthdays {','.join(str(day) for day in range(1, 32) if self.monthdays >> day & 1)}"
        if self.weekdays != ALL_WEEKDAYS:
            days = (name for number, name in enumerate(_DAYS, 1) if self.weekdays >> number & 1)
            text += f" --weekdays {','.join(days)}"
        if self.date_start_s:
            text += f" --datestart {_date(self.date_start_s)}"
        if self.date_stop_s:
            text += f" --datestop {_date(self.date_stop_s)}"
        return text + (" --kerneltz" if self.kernel_timezone else "") + (" --contiguous" if self.contiguous else "")


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_DATE = re.compile(r"(\d{4})(?:-(\d\d?)(?:-(\d\d?)(?:T(\d\d?)(?::(\d\d?)(?::(\d\d?))?)?)?)?)?\Z")
_TIME = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?\Z")


def _read_date(text: str, _context: Context) -> int:
    found = _DATE.match(text)
    if found is None:
        raise BadValue(f"bad date {text!r}", "write YYYY[-MM[-DD[Thh[:mm[:ss]]]]]")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
    month, day = month or 1, day or 1
    if not (1970 <= year <= 2038 and month <= 12 and day <= 31 and hour <= 23 and minute <= 59 and second <= 59):
        raise BadValue(f"date {text} is out of range", "write a date from 1970 to 2038")
    return timegm((year, month, day, hour, minute, second))


def _read_time(text: str, _context: Context) -> int:
    found = _TIME.match(text)
    if found is None:
        raise BadValue(f"bad time of day {text!r}", "write hh:mm[:ss]")
    hour, minute, second = (int(part or 0) for part in found.groups())
    if hour > 23 or minute > 59 or second > 59:
        raise BadValue(f"time of day {text} is out of range", "write 00:00:00 to 23:59:59")
    return hour * 3600 + minute * 60 + second


def _read_monthdays(text: str, _context: Context) -> int:
    bits = 0
    for part in text.split(","):
        bits |= 1 << to_number(part, 1, 31, "day of the month")
    return bits


def _read_weekdays(text: str, _context: Context) -> int:
    bits = 0
    for part in text.split(","):
        if part.isdigit():
            bits |= 1 << to_number(part, 1, 7, "weekday")
            continue
        # two letters are enough, more are not looked at
        day = next((number for number, name in enumerate(_DAYS, 1) if part[:2] == name[:2]), 0)
        if not day:
            raise BadValue(f"bad weekday {part!r}", f"use a comma-separated list of {', '.join(_DAYS)} or 1 to 7")
        bits |= 1 << day
    return bits


def _build(given: Given) -> TimeMatch:
    month, week = given.get("monthdays", ALL_MONTHDAYS), given.get("weekdays", ALL_WEEKDAYS)
    if "contiguous" in given and given.get("timestart", 0) < given.get("timestop", LATEST_DAYTIME_S):
        raise BadValue("time: --contiguous is for times that go on beyond midnight")
    return TimeMatch(
        given.get("datestart", 0),
        given.get("datestop", LATEST_DATE_S),
        given.get("timestart", 0),
        given.get("timestop", LATEST_DAYTIME_S),
        month ^ ALL_MONTHDAYS if "monthdays" in given.inverted else month,
        week ^ ALL_WEEKDAYS if "weekdays" in given.inverted else week,
        "kerneltz" in given,
        "contiguous" in given,
    )


EXTENSIONS = (
    Extension(
        "time",
        _build,
        (
            Option("contiguous"),
            Option("datestart", _read_date),
            Option("datestop", _read_date),
            Option("timestart", _read_time),
            Option("timestop", _read_time),
            Option("monthdays", _read_monthdays, invertible=True),
            Option("weekdays", _read_weekdays, invertible=True),
            Option("kerneltz"),
        ),
    ),
)
