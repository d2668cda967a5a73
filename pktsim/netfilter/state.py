"""What uncommon matches keep in a namespace between packets; ``Datapath.context`` holds one."""

from __future__ import annotations

from dataclasses import dataclass, field

from pktsim.netfilter.recent import RecentList


@dataclass(slots=True)
class NetfilterState:
    """Per namespace.

    Attributes:
        recent: ``-m recent``'s lists by name (``/proc/net/xt_recent/NAME``).
    """

    recent: dict[str, RecentList] = field(default_factory=dict)
