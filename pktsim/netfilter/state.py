"""What uncommon matches keep in a namespace between packets; ``Datapath.context`` holds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pktsim.netfilter.ipset import IpSets
from pktsim.netfilter.recent import RecentList


@dataclass(slots=True)
class NetfilterState:
    """Per namespace.

    Attributes:
        recent: ``-m recent``'s lists by name (``/proc/net/xt_recent/NAME``).
        sets: ``ipset``'s sets.
        interface_name: ifindex -> name, for sets with interfaces in them.
        limits: ``-m limit``'s buckets by rule: (credit, as of), both in nanoseconds.
        connections: ``-m connlimit``'s lists by rule and key: the tuples of connections.
    """

    recent: dict[str, RecentList] = field(default_factory=dict)
    sets: IpSets = field(default_factory=IpSets)
    interface_name: Callable[[int], str] = str
    limits: dict[object, tuple[int, int]] = field(default_factory=dict)
    connections: dict[object, list[tuple[int, tuple[bytes, bytes, int, int], int]]] = field(default_factory=dict)

    def retain_recent(self, names: set[str]) -> None:
        """Lists of ``-m recent`` that no rule names any more are gone (``recent_mt_destroy``)."""
        for name in [name for name in self.recent if name not in names]:
            del self.recent[name]
