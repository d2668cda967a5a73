"""``-j CT`` and ``-j NOTRACK``: how connection tracking shall treat the packet; raw table (net/netfilter/xt_CT.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import U16_MAX, BadValue, Context, Extension, Given, Option, Reader, string, to_number
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class Zone:
    """A conntrack zone. ``from_mark``: the packet's mark is the zone (``--zone mark``), and ``number`` is 0."""

    number: int
    from_mark: bool = False


@dataclass(frozen=True, slots=True)
class CtTarget(Target):
    """``-j CT``. At most one of the zones is given. Event lists are ``IPCT_*`` and ``IPEXP_*`` bits, 0 for not said."""

    extension: ClassVar[str] = "CT"
    tables: ClassVar[frozenset[str]] = frozenset({"raw"})

    notrack: bool = False
    helper: str = ""
    timeout: str = ""
    ctevents: int = 0
    expevents: int = 0
    zone: Zone | None = None
    zone_orig: Zone | None = None
    zone_reply: Zone | None = None

    def options_text(self) -> str:
        text = " --notrack" if self.notrack else ""
        if self.helper:
            text += f" --helper {self.helper}"
        if self.timeout:
            text += f" --timeout {self.timeout}"
        if self.ctevents:
            text += f" --ctevents {_events_text(self.ctevents, _CT_EVENTS)}"
        if self.expevents:
            text += f" --expevents {_events_text(self.expevents, _EXP_EVENTS)}"
        for option, zone in (("zone", self.zone), ("zone-orig", self.zone_orig), ("zone-reply", self.zone_reply)):
            if zone is not None:
                text += f" --{option} {'mark' if zone.from_mark else zone.number}"
        return text


@dataclass(frozen=True, slots=True)
class NotrackTarget(Target):
    """``-j NOTRACK``: as ``-j CT --notrack``, which is what it is saved as by newer tools."""

    extension: ClassVar[str] = "NOTRACK"
    tables: ClassVar[frozenset[str]] = frozenset({"raw"})


#: ``enum ip_conntrack_events``: the bit's number for each name (include/uapi/linux/netfilter/nf_conntrack_common.h).
_CT_EVENTS = {
    "new": 0,
    "related": 1,
    "destroy": 2,
    "reply": 3,
    "assured": 4,
    "protoinfo": 5,
    "helper": 6,
    "mark": 7,
    "natseqinfo": 8,
    "secmark": 9,
}
_EXP_EVENTS = {"new": 0}


def _events_text(events: int, names: dict[str, int]) -> str:
    return ",".join(name for name, bit in names.items() if events & (1 << bit))


def _events(names: dict[str, int]) -> Reader:
    def read(text: str, _context: Context) -> int:
        events = 0
        for part in text.split(","):
            if part not in names:
                raise BadValue(f"unknown event {part!r}", f"use a comma-separated list of {', '.join(names)}")
            events |= 1 << names[part]
        return events

    return read


def _read_zone(text: str, _context: Context) -> Zone:
    if text.lower() == "mark":
        return Zone(0, from_mark=True)
    return Zone(to_number(text, 0, U16_MAX, "zone"))


_ZONES = frozenset({"zone", "zone-orig", "zone-reply"})


def _build(given: Given) -> CtTarget:
    # There is one zone, the last one said, and its directions are those of all of them; a mark stays.
    said = [value for name, value in given.values.items() if name in _ZONES]
    marked = any(one.from_mark for one in said)
    number = 0 if marked or not said else said[-1].number
    directions = given.values.keys() & {"zone-orig", "zone-reply"}
    where = next(iter(directions)) if len(directions) == 1 else "zone"

    def zone(name: str) -> Zone | None:
        # Zone 0 is what there is anyway: it is neither stored with a direction nor printed.
        return Zone(number, marked) if name == where and (number or marked) else None

    return CtTarget(
        "notrack" in given,
        given.get("helper", ""),
        given.get("timeout", ""),
        given.get("ctevents", 0),
        given.get("expevents", 0),
        zone("zone"),
        zone("zone-orig"),
        zone("zone-reply"),
    )


def _build_notrack(given: Given) -> NotrackTarget:
    return NotrackTarget()


EXTENSIONS: tuple[Extension[CtTarget] | Extension[NotrackTarget], ...] = (
    Extension(
        "CT",
        _build,
        (
            Option("notrack"),
            Option("helper", string(15)),
            Option("timeout", string(31)),
            Option("ctevents", _events(_CT_EVENTS)),
            Option("expevents", _events(_EXP_EVENTS)),
            Option("zone", _read_zone),
            Option("zone-orig", _read_zone),
            Option("zone-reply", _read_zone),
        ),
    ),
    Extension("NOTRACK", _build_notrack),
)
