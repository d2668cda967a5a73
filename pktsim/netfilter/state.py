"""What uncommon matches keep in a namespace between packets; ``Datapath.context`` holds one."""

from __future__ import annotations

from dataclasses import dataclass, field

from pktsim.netfilter.recent import RecentList


@dataclass(slots=True)
class NetfilterState:
    """Per namespace.

    Attributes:
        recent: ``-m recent``'s lists by name (``/proc/net/xt_recent/NAME``).
        limits: ``-m limit``'s buckets by rule: (credit, as of), both in nanoseconds.
    """

    recent: dict[str, RecentList] = field(default_factory=dict)
    limits: dict[object, tuple[int, int]] = field(default_factory=dict)
