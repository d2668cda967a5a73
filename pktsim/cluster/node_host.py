"""What kube-proxy sees of the node it runs on, taken from an emulated network namespace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pktsim.clock import Timer
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.netns import Netns
from pktsim.netfilter.conntrack import ConntrackTable, Entry
from pktsim.netfilter.ruleset import Family, Ruleset

from .addresses import IPAddress, parse_ip
from .control_plane import NODE_CPUS
from .kubeproxy.proxier import ConntrackCleanup

#: Processors of an emulated node; the size of its conntrack table follows from it.
CPUS = NODE_CPUS


@dataclass(slots=True)
class NodeHost:
    """Implements :class:`~pktsim.cluster.kubeproxy.proxier.ProxyHost`.

    One sync of kube-proxy writes table after table. No packet comes in between, so the engine is given only what the
    tables are in the end.

    Attributes:
        conntrack_tool: Whether kube-proxy finds ``conntrack``, which it needs up to 1.31 to delete entries.
        nfacct: Whether the kernel has nfacct objects.
    """

    netns: Netns
    cpus: int = CPUS
    conntrack_tool: bool = True
    nfacct: bool = True
    #: Called when what kube-proxy wrote is in force.
    after_sync: list[Callable[[], None]] = field(default_factory=list)
    _pending: dict[Family, Ruleset] = field(default_factory=dict)
    _timer: Timer | None = None

    def addresses(self) -> Sequence[IPAddress]:
        return [
            parse_ip(text.partition("/")[0])
            for device in self.netns.devices
            for text in self.netns.addresses(device.name)
        ]

    def sysctl(self, name: str) -> int | None:
        try:
            return self.netns.sysctl(name)
        except UnsupportedFeature:
            return None

    def set_sysctl(self, name: str, value: int) -> None:
        self.netns.sysctl_set(name, value)

    def ruleset(self, family: Family) -> Ruleset:
        pending = self._pending.get(family)
        return self.netns.ruleset(family) if pending is None else pending

    def set_ruleset(self, ruleset: Ruleset, written: Mapping[str, frozenset[str]]) -> None:
        # Rules that were not written anew came from ``ruleset`` above and so have the counters that they had then.
        self._pending[ruleset.family] = ruleset
        if self._timer is None or not self._timer.pending:
            self._timer = self.netns.clock.after(0, self.flush)

    def replace(self, ruleset: Ruleset) -> None:
        """Put rules in force at once, whoever wrote them."""
        self.flush()
        self.netns.load_ruleset(ruleset)

    def flush(self) -> None:
        """Put in force what was written."""
        pending, self._pending = self._pending, {}
        for ruleset in pending.values():
            self.netns.load_ruleset(ruleset)
        for call in self.after_sync:
            call()

    def delete_conntrack(self, delete: ConntrackCleanup) -> None:
        if self.conntrack_tool or not delete.arguments:
            ConntrackTable(self.netns.datapath).delete(self.netns.clock.now_ns, _Chosen(delete))


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What a ``conntrack -D`` command chooses."""

    delete: ConntrackCleanup

    def matches(self, entry: Entry) -> bool:
        return self.delete.matches(_Sides(entry))


@dataclass(frozen=True, slots=True)
class _Sides:
    """The sides of an entry that such a command looks at."""

    entry: Entry

    @property
    def protocol(self) -> int:
        return self.entry.proto

    @property
    def orig_dst(self) -> bytes:
        return self.entry.orig.dst

    @property
    def orig_dst_port(self) -> int:
        return self.entry.orig.dport

    @property
    def reply_src(self) -> bytes:
        return self.entry.reply.src

    @property
    def reply_src_port(self) -> int:
        return self.entry.reply.sport
