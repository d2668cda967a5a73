"""Neighbours: the unreachability detection of RFC 4861 section 7.3 as Linux does it for both families.

Follows net/core/neighbour.c of Linux 6.18. The engine only knows three classes (absent, connected, usable) and asks
when a packet has no link-layer address or has used one that is not confirmed; states, timers, probes and the queue
are here. How one asks (ARP, NDP) is the owner's.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from pktsim._fastpath import Packet
from pktsim.clock import HZ
from pktsim.kernel.timer_wheel import TimerWheel, WheelTimer, ms_to_jiffies
from pktsim.netfilter.opcodes import DropReason, NeighbourClass
from pktsim.rng import Choices
from pktsim.wire.addr import MAC_ZERO


class Nud(enum.IntEnum):
    """``NUD_*`` (include/uapi/linux/neighbour.h); single bits, so that sets of them are masks."""

    NONE = 0x00
    INCOMPLETE = 0x01
    REACHABLE = 0x02
    STALE = 0x04
    DELAY = 0x08
    PROBE = 0x10
    FAILED = 0x20
    NOARP = 0x40
    PERMANENT = 0x80


NUD_CONNECTED: Final = Nud.PERMANENT | Nud.NOARP | Nud.REACHABLE
NUD_VALID: Final = NUD_CONNECTED | Nud.PROBE | Nud.STALE | Nud.DELAY
NUD_IN_TIMER: Final = Nud.INCOMPLETE | Nud.REACHABLE | Nud.DELAY | Nud.PROBE

#: What the engine needs to know of each state.
_ENGINE_CLASS: Final = {
    Nud.NONE: NeighbourClass.ABSENT,
    Nud.INCOMPLETE: NeighbourClass.ABSENT,
    Nud.REACHABLE: NeighbourClass.CONNECTED,
    Nud.STALE: NeighbourClass.USABLE,
    Nud.DELAY: NeighbourClass.USABLE,
    Nud.PROBE: NeighbourClass.USABLE,
    Nud.FAILED: NeighbourClass.ABSENT,
    Nud.NOARP: NeighbourClass.CONNECTED,
    Nud.PERMANENT: NeighbourClass.CONNECTED,
}

#: ``parms->reachable_time`` is drawn anew this often (``neigh_periodic_work``).
_REACHABLE_TIME_REDRAW: Final = 300 * HZ
_MIN_RETRANS: Final = max(HZ // 100, 1)


@dataclass(slots=True, eq=False)
class Neighbour:
    """``struct neighbour``. Times are in jiffies.

    Attributes:
        cached_header: A packet has been sent to it, so its hardware header is at hand (``hh.hh_len``). Until then
            br_netfilter sends translated packets through the bridge device, where they are seen, instead of past it.
    """

    ifindex: int
    address: bytes
    mac: bytes
    state: Nud
    used: int
    confirmed: int
    updated: int
    probes: int = 0
    router: bool = False
    cached_header: bool = False
    queue: deque[tuple[Packet, int]] = field(default_factory=deque)
    queued_bytes: int = 0
    timer: WheelTimer | None = None
    dead: bool = False

    @property
    def valid(self) -> bool:
        return bool(self.state & NUD_VALID)

    @property
    def engine_class(self) -> NeighbourClass:
        """What the engine is told: to ask back at the first use, too, because that is when the header is cached."""
        known = _ENGINE_CLASS[self.state]
        if known == NeighbourClass.CONNECTED and not self.cached_header:
            return NeighbourClass.USABLE
        return known


class NeighbourOwner(Protocol):
    """The namespace, as a neighbour table sees it."""

    @property
    def name(self) -> str: ...

    @property
    def wheel(self) -> TimerWheel: ...

    @property
    def choices(self) -> Choices: ...

    def neighbour_setting(self, family: int, ifindex: int, key: str) -> int:
        """``net.ipv4.neigh.IF.KEY`` or its IPv6 counterpart."""

    def neighbour_place(self, ifindex: int) -> str:
        """A name of the device for the places that choices are asked at."""

    def neighbour_changed(self, entry: Neighbour) -> None:
        """The entry's class or MAC may have changed: tell the engine."""

    def neighbour_gone(self, entry: Neighbour) -> None: ...

    def neighbour_solicit(self, entry: Neighbour, packet: Packet | None, *, unicast: bool) -> None:
        """Ask who has the entry's address, of the neighbour itself or of everybody."""

    def neighbour_send(self, packet: Packet) -> None:
        """Let a packet that waited go on."""

    def neighbour_unreachable(self, packet: Packet) -> None:
        """The packet waited in vain (``dst_link_failure``)."""

    def neighbour_discard(self, packet: Packet, reason: DropReason) -> None:
        """The packet was pushed out of the queue, or its entry is gone, or there is no room for one."""


def packet_truesize(length: int) -> int:
    """``skb->truesize`` of a packet of ``length`` bytes from the network header on.

    Its head is allocated with room for headers and ``struct skb_shared_info`` (320 bytes) in a kmalloc size, beside the
    256 bytes of ``struct sk_buff``. Heads of small packets come from a cache of their own (net/core/skbuff.c).
    """
    wanted = length + 64 + 320
    if wanted <= 704:
        return 704 + 256
    size = 1024
    while size < wanted:
        size *= 2
    return size + 256


class NeighbourTable:
    """``arp_tbl`` or ``nd_tbl`` of one namespace."""

    def __init__(self, owner: NeighbourOwner, family: int) -> None:
        self._owner = owner
        self.family = family
        self._entries: dict[tuple[int, bytes], Neighbour] = {}
        self._reachable: dict[int, tuple[int, int, int]] = {}  # ifindex -> (base, drawn, drawn at)
        self._gc_timer: WheelTimer | None = None

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, ifindex: int, address: bytes) -> Neighbour | None:
        return self._entries.get((ifindex, address))

    # ------------------------------------------------------------------------------------------------------- parameters

    def _setting(self, ifindex: int, key: str) -> int:
        return self._owner.neighbour_setting(self.family, ifindex, key)

    def _retrans(self, ifindex: int) -> int:
        return max(ms_to_jiffies(self._setting(ifindex, "retrans_time_ms")), _MIN_RETRANS)

    def _delay_probe(self, ifindex: int) -> int:
        return self._setting(ifindex, "delay_first_probe_time") * HZ

    def _base_reachable(self, ifindex: int) -> int:
        return ms_to_jiffies(self._setting(ifindex, "base_reachable_time_ms"))

    def reachable_time(self, ifindex: int) -> int:
        """``neigh_rand_reach_time``: 0.5 to 1.5 times the base, drawn per device and drawn anew now and then."""
        base = self._base_reachable(ifindex)
        now = self._owner.wheel.jiffies
        known = self._reachable.get(ifindex)
        if known is None or known[0] != base or now - known[2] > _REACHABLE_TIME_REDRAW:
            place = f"{self._owner.neighbour_place(ifindex)}/neigh.reachable_time"
            drawn = self._owner.choices.below(place, base) + base // 2 if base else 0
            known = self._reachable[ifindex] = (base, drawn, now)
        return known[1]

    # ------------------------------------------------------------------------------------------------- coming and going

    def create(self, ifindex: int, address: bytes) -> Neighbour | None:
        """``___neigh_create``; ``None`` if the table is full."""
        if not self._room():
            return None
        now = self._owner.wheel.jiffies
        entry = Neighbour(
            ifindex,
            address,
            MAC_ZERO,
            Nud.NONE,
            used=now,
            confirmed=now - 2 * self._base_reachable(ifindex),
            updated=now,
        )
        self._entries[ifindex, address] = entry
        return entry

    def _table_setting(self, key: str) -> int:
        return self._owner.neighbour_setting(self.family, 0, key)

    def _room(self) -> bool:
        """``neigh_alloc``: full tables are swept first. Permanent entries do not count."""
        counted = sum(1 for entry in self._entries.values() if entry.state != Nud.PERMANENT)
        if counted >= self._table_setting("gc_thresh1") and self._gc_timer is None:
            self._gc_timer = self._owner.wheel.after(self._base_reachable(0) // 2, self._periodic_work)
        limit = self._table_setting("gc_thresh3")
        if counted < limit:
            return True
        # neigh_forced_gc
        before = self._owner.wheel.jiffies - 5 * HZ
        surplus = counted - self._table_setting("gc_thresh2")
        for entry in list(self._entries.values()):
            if surplus <= 0:
                break
            if entry.queue or entry.state == Nud.PERMANENT:
                continue
            if entry.state in (Nud.FAILED, Nud.NOARP) or entry.updated < before:
                self._remove(entry)
                surplus -= 1
        return sum(1 for entry in self._entries.values() if entry.state != Nud.PERMANENT) < limit

    def _periodic_work(self) -> None:
        """``neigh_periodic_work``: only once there are gc_thresh1 entries is anything forgotten."""
        self._gc_timer = None
        if len(self._entries) < self._table_setting("gc_thresh1"):
            return
        now = self._owner.wheel.jiffies
        for entry in list(self._entries.values()):
            if entry.state == Nud.PERMANENT or entry.state & NUD_IN_TIMER:
                continue
            used = max(entry.used, entry.confirmed)
            stale = self._setting(entry.ifindex, "gc_stale_time") * HZ
            if entry.state == Nud.FAILED or now > used + stale:
                self._remove(entry)
        self._gc_timer = self._owner.wheel.after(self._base_reachable(0) // 2, self._periodic_work)

    def _remove(self, entry: Neighbour) -> None:
        entry.dead = True
        self._stop_timer(entry)
        self._entries.pop((entry.ifindex, entry.address), None)
        self._purge(entry)
        self._owner.neighbour_gone(entry)

    def _purge(self, entry: Neighbour) -> None:
        while entry.queue:
            packet, _ = entry.queue.popleft()
            self._owner.neighbour_discard(packet, DropReason.QUEUE_PURGE)
        entry.queued_bytes = 0

    def add(self, ifindex: int, address: bytes, mac: bytes, state: Nud = Nud.PERMANENT, *, used: bool = False) -> None:
        """``ip neigh replace``; ``used`` makes it an entry that packets have been sent to before."""
        entry = self.find(ifindex, address) or self.create(ifindex, address)
        if entry is not None:
            entry.cached_header = entry.cached_header or used
            self.update(entry, mac, state, override=True, admin=True)

    def delete(self, ifindex: int, address: bytes) -> bool:
        """``ip neigh del``. Returns whether there was such an entry."""
        entry = self.find(ifindex, address)
        if entry is not None:
            self._remove(entry)
        return entry is not None

    def flush(self, ifindex: int = 0, *, permanent: bool = False) -> None:
        """Forget all entries (of one device): ``ip neigh flush``, or the device going down."""
        for entry in list(self._entries.values()):
            if ifindex in (0, entry.ifindex) and (permanent or entry.state not in (Nud.PERMANENT, Nud.NOARP)):
                self._remove(entry)

    def device_gone(self, ifindex: int) -> None:
        self.flush(ifindex, permanent=True)
        self._reachable.pop(ifindex, None)

    # ------------------------------------------------------------------------------------------------- packets that ask

    def resolve(self, ifindex: int, address: bytes, packet: Packet) -> None:
        """A packet has no link-layer address: queue it and ask (``neigh_resolve_output``, ``__neigh_event_send``)."""
        entry = self.find(ifindex, address) or self.create(ifindex, address)
        if entry is None:
            self._owner.neighbour_discard(packet, DropReason.NEIGH_CREATEFAIL)
            return
        if entry.valid:
            # It became known after the packet was found to lack it: the later pieces of a fragmented one.
            self._owner.neighbour_send(packet)
            return
        now = self._owner.wheel.jiffies
        entry.used = now
        ask = False
        if entry.state not in (Nud.STALE, Nud.INCOMPLETE):
            if self._setting(ifindex, "mcast_solicit") + self._setting(ifindex, "app_solicit") == 0:
                entry.state = Nud.FAILED
                entry.updated = now
                self._owner.neighbour_discard(packet, DropReason.NEIGHBOUR_FAILED)
                return
            entry.probes = self._setting(ifindex, "ucast_solicit")
            entry.state = Nud.INCOMPLETE
            entry.updated = now
            self._start_timer(entry, now + self._retrans(ifindex))
            ask = True
        self._enqueue(entry, packet)
        if ask:
            self._probe(entry)

    def _enqueue(self, entry: Neighbour, packet: Packet) -> None:
        """The oldest packets make room for a new one, within ``unres_qlen_bytes``."""
        size = packet_truesize(len(packet.data))
        limit = self._setting(entry.ifindex, "unres_qlen_bytes")
        while entry.queue and entry.queued_bytes + size > limit:
            old, old_size = entry.queue.popleft()
            entry.queued_bytes -= old_size
            self._owner.neighbour_discard(old, DropReason.NEIGH_QUEUEFULL)
        entry.queue.append((packet, size))
        entry.queued_bytes += size

    def used(self, ifindex: int, address: bytes) -> None:
        """``neigh_resolve_output``: a packet was sent, and the entry is not confirmed or was not used before.

        STALE becomes DELAY, and the header is cached from now on.
        """
        entry = self.find(ifindex, address)
        if entry is None:
            return
        now = self._owner.wheel.jiffies
        entry.used = now
        if not entry.cached_header:
            entry.cached_header = True
            self._owner.neighbour_changed(entry)
        if entry.state == Nud.STALE:
            entry.state = Nud.DELAY
            entry.updated = now
            self._start_timer(entry, now + self._delay_probe(ifindex))
            self._owner.neighbour_changed(entry)

    def confirm(self, ifindex: int, address: bytes) -> None:
        """``neigh_confirm``: a transport heard from the other side."""
        entry = self.find(ifindex, address)
        if entry is not None:
            entry.confirmed = self._owner.wheel.jiffies

    # --------------------------------------------------------------------------------------------------------- learning

    def learn(self, ifindex: int, address: bytes, mac: bytes) -> Neighbour | None:
        """``neigh_event_ns``: somebody asked us, so we know who it is."""
        entry = self.find(ifindex, address) or self.create(ifindex, address)
        if entry is not None:
            self.update(entry, mac, Nud.STALE, override=True)
        return entry

    def update(
        self,
        entry: Neighbour,
        mac: bytes,
        new: Nud,
        *,
        override: bool = False,
        weak_override: bool = False,
        admin: bool = False,
    ) -> None:
        """``__neigh_update``.

        Args:
            entry: What is updated.
            mac: The link-layer address proposed; empty to keep the one known.
            new: The state proposed.
            override: It may replace another address.
            weak_override: If it is another address, only suspect the known one.
            admin: An administrator says so.
        """
        old = entry.state
        now = self._owner.wheel.jiffies
        if not admin and old in (Nud.NOARP, Nud.PERMANENT):
            return
        if not new & NUD_VALID:
            self._stop_timer(entry)
            entry.state = new
            if old in (Nud.INCOMPLETE, Nud.PROBE) and new == Nud.FAILED:
                self._fail(entry)
            self._owner.neighbour_changed(entry)
            return
        was_valid = bool(old & NUD_VALID)
        if not mac:
            if not was_valid:
                return
            mac = entry.mac
        same = was_valid and mac == entry.mac
        if new & NUD_CONNECTED:
            entry.confirmed = now
        if was_valid:
            if not same and not override:
                if weak_override and old & NUD_CONNECTED:
                    mac, same, new = entry.mac, True, Nud.STALE
                else:
                    return
            elif same and new == Nud.STALE and not admin:
                new = old
        if new != old or not same:
            entry.updated = now
        if new != old:
            self._stop_timer(entry)
            if new == Nud.PROBE:
                entry.probes = 0
            entry.state = new
            if new & NUD_IN_TIMER:
                self._start_timer(entry, now + (self.reachable_time(entry.ifindex) if new == Nud.REACHABLE else 0))
        if not same:
            entry.mac = mac
            if not new & NUD_CONNECTED:
                entry.confirmed = now - 2 * self._base_reachable(entry.ifindex)
        self._owner.neighbour_changed(entry)
        if new == old or was_valid:
            return
        while entry.queue and entry.valid:
            packet, size = entry.queue.popleft()
            entry.queued_bytes -= size
            entry.used = now
            self._owner.neighbour_send(packet)
        if not entry.dead:
            self._purge(entry)

    # ----------------------------------------------------------------------------------------------------------- timers

    def _start_timer(self, entry: Neighbour, expires: int) -> None:
        self._stop_timer(entry)
        entry.timer = self._owner.wheel.at(expires, lambda: self._timer(entry))

    def _stop_timer(self, entry: Neighbour) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _max_probes(self, entry: Neighbour) -> int:
        multicast = "mcast_resolicit" if entry.state == Nud.PROBE else "mcast_solicit"
        return sum(self._setting(entry.ifindex, key) for key in ("ucast_solicit", "app_solicit", multicast))

    def _timer(self, entry: Neighbour) -> None:
        """``neigh_timer_handler``."""
        entry.timer = None
        now = self._owner.wheel.jiffies
        state = entry.state
        if not state & NUD_IN_TIMER:
            return
        if state == Nud.REACHABLE:
            reachable = self.reachable_time(entry.ifindex)
            delay = self._delay_probe(entry.ifindex)
            if now <= entry.confirmed + reachable:
                following = entry.confirmed + reachable
            elif now <= entry.used + delay:
                entry.state = Nud.DELAY
                entry.updated = now
                following = now + delay
            else:
                entry.state = Nud.STALE
                entry.updated = now
                following = 0
        elif state == Nud.DELAY:
            if now <= entry.confirmed + self._delay_probe(entry.ifindex):
                entry.state = Nud.REACHABLE
                entry.updated = now
                following = entry.confirmed + self.reachable_time(entry.ifindex)
            else:
                entry.state = Nud.PROBE
                entry.updated = now
                entry.probes = 0
                following = now + self._retrans(entry.ifindex)
        else:
            following = now + self._retrans(entry.ifindex)
        if entry.state in (Nud.INCOMPLETE, Nud.PROBE) and entry.probes >= self._max_probes(entry):
            entry.state = Nud.FAILED
            entry.updated = now
            self._owner.neighbour_changed(entry)
            self._fail(entry)
            return
        if entry.state != state:
            self._owner.neighbour_changed(entry)
        if entry.state & NUD_IN_TIMER:
            self._start_timer(entry, max(following, now + _MIN_RETRANS))
        if entry.state in (Nud.INCOMPLETE, Nud.PROBE):
            self._probe(entry)

    def _probe(self, entry: Neighbour) -> None:
        """``neigh_probe``: ask in the name of the packet that came last."""
        packet = entry.queue[-1][0] if entry.queue else None
        unicast = entry.probes < self._setting(entry.ifindex, "ucast_solicit")
        self._owner.neighbour_solicit(entry, packet, unicast=unicast)
        entry.probes += 1

    def _fail(self, entry: Neighbour) -> None:
        """``neigh_invalidate``: every packet that waited is reported, in order."""
        while entry.queue and entry.state == Nud.FAILED:
            packet, size = entry.queue.popleft()
            entry.queued_bytes -= size
            self._owner.neighbour_unreachable(packet)
        self._purge(entry)
