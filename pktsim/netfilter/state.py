"""What uncommon matches keep in a namespace between packets; ``Datapath.context`` holds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pktsim.netfilter.ipset import IpSets
from pktsim.netfilter.recent import RecentList


@dataclass(frozen=True, slots=True)
class FoundSocket:
    """What netfilter wants to know of a socket.

    Attributes:
        wildcard: It is bound to no address (a connection, or the beginning or the rest of one, always is).
        full: It is no mere beginning or rest of a connection.
        mark: SO_MARK.
        transparent: IP_TRANSPARENT.
    """

    wildcard: bool
    full: bool = True
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
        connections: ``-m connlimit``'s lists by rule and key: the tuples of connections.
    """

    recent: dict[str, RecentList] = field(default_factory=dict)
    sets: IpSets = field(default_factory=IpSets)
    interface_name: Callable[[int], str] = str
    find_socket: Callable[[int, bytes, int, bytes, int, int], FoundSocket | None] = lambda *_: None
    limits: dict[object, tuple[int, int]] = field(default_factory=dict)
    connections: dict[object, list[tuple[int, tuple[bytes, bytes, int, int], int]]] = field(default_factory=dict)

    def retain_recent(self, names: set[str]) -> None:
        """Lists of ``-m recent`` that no rule names any more are gone (``recent_mt_destroy``)."""
        for name in [name for name in self.recent if name not in names]:
            del self.recent[name]
