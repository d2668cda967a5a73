"""What uncommon matches keep in a namespace between packets; ``Datapath.context`` holds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pktsim.netfilter.conncount import CountedList
from pktsim.netfilter.hashlimit import Hashlimit, HashlimitTable
from pktsim.netfilter.ipset import IpSets
from pktsim.netfilter.recent import Recent, RecentList


@dataclass(frozen=True, slots=True)
class FoundSocket:
    """What netfilter wants to know of a socket.

    Attributes:
        wildcard: It is bound to no address (a connection, or the beginning or the rest of one, always is).
        full: It is no mere beginning or rest of a connection.
        connected: It has a peer, by which early demultiplexing finds it before INPUT.
        mark: SO_MARK.
        transparent: IP_TRANSPARENT.
    """

    wildcard: bool
    full: bool = True
    connected: bool = False
    mark: int = 0
    transparent: bool = False


@dataclass(slots=True)
class NetfilterState:
    """Per namespace.

    Attributes:
        recent: ``-m recent``'s lists by name (``/proc/net/xt_recent/NAME``).
        sets: ``ipset``'s sets.
        interface_name: ifindex -> name, for sets with interfaces in them.
        limits: ``-m limit``'s buckets by rule: (credit, as of), both in nanoseconds.
        find_socket: The socket that would take a packet, for ``-m socket``: called with protocol, source and its port,
            destination and its port, and ifindex.
        quotas: What is left of ``-m quota``'s bytes by rule.
        hashlimits: ``-m hashlimit``'s tables by family and name.
        accounts: ``-m nfacct``'s objects by name: packets and bytes.
        epoch_s: Unix time at the clock's zero, for ``-m time``.
        connections: ``-m connlimit``'s lists by rule and key.
    """

    recent: dict[str, RecentList] = field(default_factory=dict)
    sets: IpSets = field(default_factory=IpSets)
    interface_name: Callable[[int], str] = str
    find_socket: Callable[[int, bytes, int, bytes, int, int], FoundSocket | None] = lambda *_: None
    limits: dict[object, tuple[int, int]] = field(default_factory=dict)
    quotas: dict[object, int] = field(default_factory=dict)
    hashlimits: dict[tuple[int, str], HashlimitTable] = field(default_factory=dict)
    accounts: dict[str, list[int]] = field(default_factory=dict)
    epoch_s: int = 0
    connections: dict[object, CountedList] = field(default_factory=dict)

    def retain(self, used: Sequence[object]) -> None:
        """Lists and tables that no rule names any more are gone (``recent_mt_destroy``, ``hashlimit_mt_destroy``).

        Args:
            used: The uncommon matches and targets of all tables in force.
        """
        lists = {one.list_name for one in used if isinstance(one, Recent)}
        tables = {one.table_key for one in used if isinstance(one, Hashlimit)}
        for name in [name for name in self.recent if name not in lists]:
            del self.recent[name]
        for key in [key for key in self.hashlimits if key not in tables]:
            del self.hashlimits[key]
        for kept in (self.limits, self.quotas):
            for rule in [rule for rule in kept if rule not in used]:
                del kept[rule]
