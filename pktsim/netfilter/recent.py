"""``-m recent``'s lists: addresses with the times at which they were seen (net/netfilter/xt_recent.c).

A list belongs to a namespace and is shared by all rules that name it; it lives in ``datapath.context`` (see
``netfilter.state``), so that programs can be shared between namespaces.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from pktsim.netfilter.matches.recent import RecentAction, RecentMatch
from pktsim.netfilter.opcodes import NO_SOCKET, Hook
from pktsim.wire.frame import ip_addresses

#: Module parameter ``ip_list_tot``: addresses per list. The next one evicts the one not seen for the longest time.
LIST_TOTAL = 100
#: Stamps kept per address where no rule asks for a hit count (``ip_pkt_list_tot`` 0).
DEFAULT_STAMPS = 32
NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class RecentEntry:
    """One address: when it was seen, oldest overwritten first, and the TTL it came with last."""

    ttl: int
    stamps_ns: list[int]
    index: int  # behind the newest stamp: the next one goes there, or to the beginning if that is the end

    def newest_ns(self) -> int:
        return self.stamps_ns[self.index - 1]


@dataclass(slots=True)
class RecentList:
    """One ``--name``: its entries from the least to the most lately updated.

    All rules that name it use the ``mask`` of the first, whatever they say.
    """

    mask: bytes
    max_stamps: int = DEFAULT_STAMPS
    entries: OrderedDict[bytes, RecentEntry] = field(default_factory=OrderedDict)

    def add(self, address: bytes, ttl: int, now_ns: int) -> None:
        if len(self.entries) >= LIST_TOTAL:
            self.entries.popitem(last=False)
        self.entries[address] = RecentEntry(ttl, [now_ns], 1)

    def update(self, address: bytes, ttl: int, now_ns: int) -> None:
        entry = self.entries[address]
        entry.index %= self.max_stamps
        if entry.index < len(entry.stamps_ns):
            entry.stamps_ns[entry.index] = now_ns
        else:
            entry.stamps_ns.append(now_ns)
        entry.index += 1
        entry.ttl = ttl
        self.entries.move_to_end(address)


class Recent:
    """A rule's ``-m recent``, callable by the engine."""

    __slots__ = ("_mask", "_match", "_max_stamps")

    def __init__(self, match: RecentMatch) -> None:
        self._match = match
        self._mask = match.mask.packed.ljust(16, b"\xff")
        hits = match.hitcount
        self._max_stamps = 1 << (hits - 1).bit_length() if hits else DEFAULT_STAMPS

    @property
    def list_name(self) -> str:
        """The list that the rule uses."""
        return self._match.name

    def prepare(self, context: Any) -> None:
        """``recent_mt_check``: the list exists as soon as a rule names it; who needs longer memory empties it."""
        recent = context.recent.setdefault(self._match.name, RecentList(self._mask, self._max_stamps))
        if recent.max_stamps < self._max_stamps:
            recent.max_stamps = self._max_stamps
            recent.entries.clear()

    def __call__(self, datapath: Any, packet: Any, hook: int) -> bool:
        """Whether the packet matches before ``!``; keeps the list."""
        match = self._match
        now_ns: int = datapath.now_ns
        data: bytes = packet.data
        address = ip_addresses(data)[match.by_destination]
        ttl = data[8] if data[0] >> 4 == 4 else data[7]
        # "use TTL as seen before forwarding": what has no socket and is leaving is taken to have been forwarded
        if packet.out_ifindex and (packet.uid == NO_SOCKET if packet.local else hook != Hook.OUTPUT):
            ttl += 1
        lists: dict[str, RecentList] = datapath.context.recent
        recent = lists.get(match.name)
        if recent is None:
            recent = lists[match.name] = RecentList(self._mask, self._max_stamps)
        key = bytes(a & m for a, m in zip(address, recent.mask, strict=False))
        entry = recent.entries.get(key)
        if entry is not None and match.rttl and entry.ttl != ttl:
            entry = None
        if entry is None:
            if match.action is not RecentAction.SET:
                # "not in the list" is a plain no, which ! turns into yes
                return False
            recent.add(key, ttl, now_ns)
            return True
        if match.action is RecentAction.SET:
            recent.update(key, ttl, now_ns)
            return True
        if match.action is RecentAction.REMOVE:
            del recent.entries[key]
            return True
        oldest_ns = now_ns - match.seconds * NS_PER_S
        hits = 0
        found = False
        for stamp_ns in entry.stamps_ns:
            if match.seconds and stamp_ns < oldest_ns:
                continue
            hits += 1
            if not match.hitcount or hits >= match.hitcount:
                found = True
                break
        updating = match.action is RecentAction.UPDATE and found != match.inverted
        if match.reap:
            self._reap(recent, key, oldest_ns, updating=updating)
        if updating and key in recent.entries:
            recent.update(key, ttl, now_ns)
        return found

    @staticmethod
    def _reap(recent: RecentList, working: bytes, oldest_ns: int, *, updating: bool) -> None:
        """Remove the least lately updated entry if it is too old, unless it is the one about to be updated."""
        first = next(iter(recent.entries), None)
        if first is None or (first == working and updating):
            return
        if recent.entries[first].newest_ns() < oldest_ns:
            del recent.entries[first]
