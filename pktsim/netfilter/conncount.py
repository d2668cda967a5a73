"""How many connections there are of those that a rule has seen: ``-m connlimit``'s lists.

A list holds tuples, not connections: each is looked up again when a packet is counted, and forgotten if its connection
has gone or is closing. That is put off while the list has been looked through in this jiffy, so that a rule that one
packet meets twice counts its new connection twice. Source: net/netfilter/nf_conncount.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pktsim.clock import NS_PER_JIFFY
from pktsim.netfilter.conntrack import ZoneDirection
from pktsim.netfilter.hot_drop import HotDrop
from pktsim.netfilter.opcodes import CtStatus

#: ``CONNCOUNT_GC_MAX_NODES``: once more than these have been forgotten, the rest of a list waits; and so many are added
#: without looking.
GC_MAX_NODES = 64
_TCP, _TIME_WAIT, _CLOSE = 6, 7, 8

TupleValue = tuple[bytes, bytes, int, int]


@dataclass(frozen=True, slots=True)
class Counted:
    """``struct nf_conncount_tuple``: what is looked up again."""

    family: int
    protocol: int
    tuple: TupleValue
    zone: int
    zone_direction: int

    def find(self, datapath: Any) -> dict[str, Any] | None:
        """The entry that has it, in whichever direction."""
        found: dict[str, Any] | None = datapath.conntrack_find(
            self.family, self.protocol, self.tuple, self.zone, self.zone_direction
        )
        return found

    def same(self, new: Counted, found: dict[str, Any]) -> bool:
        """Whether ``new`` is what has been counted, whose connection has been ``found``."""
        if (self.tuple, self.protocol) != (new.tuple, new.protocol):
            return False
        its = found["zone"] if found["zone_dir"] & ZoneDirection.ORIGINAL else 0
        return bool(its == (new.zone if new.zone_direction & ZoneDirection.ORIGINAL else 0))

    def gone(self, found: dict[str, Any] | None) -> bool:
        """``found`` is none, or ``already_closed``."""
        return found is None or (found["proto"] == _TCP and found["state"] in (_TIME_WAIT, _CLOSE))


@dataclass(slots=True)
class CountedList:
    """``struct nf_conncount_list``, of one key of one rule."""

    tuples: list[Counted] = field(default_factory=list)
    last_gc_jiffy: int = -1
    last_gc_count: int = 0

    def add(self, datapath: Any, new: Counted, status: int) -> int:
        """Count a packet's connection, if it has not been; how many there are then (``__nf_conncount_add``).

        Args:
            datapath: Where connections are found.
            new: What is counted.
            status: Of its connection. One that is assured has been counted when it was new, or is not: for it those
                that have gone are forgotten, be it itself.

        Raises:
            HotDrop: None is left.
        """
        jiffy = datapath.now_ns // NS_PER_JIFFY
        if self.last_gc_jiffy < 0:
            self.last_gc_jiffy = jiffy
        elif status & CtStatus.ASSURED:
            if jiffy != self.last_gc_jiffy:
                self._gc(datapath, jiffy)
            if not self.tuples:
                raise HotDrop
            return len(self.tuples)
        confirmed = status & CtStatus.CONFIRMED
        grown = len(self.tuples) - self.last_gc_count
        if confirmed or jiffy != self.last_gc_jiffy or grown >= GC_MAX_NODES:
            if self._is_there_after_gc(datapath, new):
                return len(self.tuples)
            self.last_gc_jiffy = jiffy
            self.last_gc_count = len(self.tuples)
        self.tuples.append(new)
        return len(self.tuples)

    def _gc(self, datapath: Any, jiffy: int) -> None:
        """``nf_conncount_gc_list``."""
        gone = [place for place, one in enumerate(self.tuples) if one.gone(one.find(datapath))][: GC_MAX_NODES + 1]
        self.tuples = [one for place, one in enumerate(self.tuples) if place not in gone]
        self.last_gc_jiffy = jiffy
        self.last_gc_count = len(self.tuples)

    def _is_there_after_gc(self, datapath: Any, new: Counted) -> bool:
        """Forget what has gone, as far as ``new``."""
        gone: set[int] = set()
        there = False
        for place, one in enumerate(self.tuples):
            if len(gone) > GC_MAX_NODES:
                break
            found = one.find(datapath)
            if found is not None and one.same(new, found):
                there = True
                break
            if one.gone(found):
                gone.add(place)
        self.tuples = [one for place, one in enumerate(self.tuples) if place not in gone]
        return there


def counted(datapath: Any, packet: Any) -> tuple[Counted, int]:
    """What is counted of a packet, and the status of its connection (``get_ct_or_tuple_from_skb``).

    That is its connection's original tuple, or where it has none, its own.

    Raises:
        HotDrop: It has none.
    """
    entry = packet.conntrack
    if entry is not None:
        new = Counted(entry["family"], entry["proto"], entry["orig"], entry["zone"], entry["zone_dir"])
        return new, entry["status"]
    own = datapath.conntrack_tuple(packet)
    if own is None:
        raise HotDrop
    new = Counted(packet.family, *own, *(packet.template_zone or (0, ZoneDirection.BOTH)))
    found = new.find(datapath)
    return new, found["status"] if found is not None else 0
