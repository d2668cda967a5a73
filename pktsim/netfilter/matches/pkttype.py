"""``-m pkttype``: to whom the frame was sent on the link (net/netfilter/xt_pkttype.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option
from pktsim.netfilter.ruleset import Match


class PacketType(enum.IntEnum):
    """``PACKET_*`` (include/uapi/linux/if_packet.h)."""

    UNICAST = 0
    BROADCAST = 1
    MULTICAST = 2
    OTHERHOST = 3


@dataclass(frozen=True, slots=True)
class PkttypeMatch(Match):
    """What the packet came in as."""

    extension: ClassVar[str] = "pkttype"

    packet_type: PacketType
    inverted: bool = False

    def options_text(self) -> str:
        return f"{' !' if self.inverted else ''} --pkt-type {self.packet_type.name.lower()}"


_NAMES = {
    **{one.name.lower(): one for one in PacketType},
    "bcast": PacketType.BROADCAST,
    "mcast": PacketType.MULTICAST,
    "host": PacketType.UNICAST,
}


def _read(text: str, _context: Context) -> PacketType:
    found = _NAMES.get(text.lower())
    if found is None:
        raise BadValue(f"bad packet type {text!r}", f"use one of {', '.join(_NAMES)}")
    return found


def _build(given: Given) -> PkttypeMatch:
    return PkttypeMatch(given.get("pkt-type"), "pkt-type" in given.inverted)


EXTENSIONS = (Extension("pkttype", _build, (Option("pkt-type", _read, invertible=True, mandatory=True),)),)
