"""The tables of iptables and nft in one namespace: put in force, counted, listed."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pktsim.clock import Clock
from pktsim.kernel.configuration import Configuration
from pktsim.netfilter.ipset import rule_sets
from pktsim.netfilter.lower import TABLE_IDS, Lowered, without_collector
from pktsim.netfilter.lower_sets import SetUser
from pktsim.netfilter.nft_lower import LoweredNft
from pktsim.netfilter.nft_print import Printer
from pktsim.netfilter.nft_ruleset import NftRuleset
from pktsim.netfilter.nft_runtime import NftRuntime
from pktsim.netfilter.nft_text import run_script
from pktsim.netfilter.opcodes import Step, TableId
from pktsim.netfilter.programs import lower_table
from pktsim.netfilter.relower import unlike
from pktsim.netfilter.ruleset import Counters, Family, Ruleset, Table
from pktsim.netfilter.uncommon_state import Connlabel
from pktsim.rng import Choices

#: What each table of iptables is hooked in as.
_TABLE_STEPS: Final = {
    TableId.RAW: (Step.RAW,),
    TableId.MANGLE: (Step.MANGLE,),
    TableId.NAT: (Step.NAT_DST, Step.NAT_SRC),
    TableId.FILTER: (Step.FILTER,),
    TableId.SECURITY: (Step.SECURITY,),
}


class RuleTables(Configuration):
    """A namespace with netfilter: the arguments are those of :class:`~pktsim.kernel.netns.Netns`."""

    def __init__(self, name: str, *, clock: Clock, choices: Choices) -> None:
        super().__init__(name, clock=clock, choices=choices)
        self._lowered: dict[tuple[Family, TableId], Lowered] = {}
        #: Tables with the counters that the engine had for them when it was last looked.
        self._counted: dict[tuple[Family, TableId], _Counted] = {}
        self._nft = NftRuntime()
        self._nft_loaded = False
        #: When what is at the hooks was put there: see ``NftRuntime.hook_orders``.
        self._hook_serials: dict[object, int] = {}
        self._hook_serial = 0
        self.datapath.context.sets.named_by_rules = self._set_names

    def _set_names(self) -> frozenset[str]:
        """The ipsets that rules in force name."""
        return frozenset(
            name
            for lowered in self._lowered.values()
            if _uses_sets(lowered)
            for chain in lowered.table.chains
            for rule in chain.rules
            for name in rule_sets(rule)
        )

    @without_collector()
    def load_ruleset(self, ruleset: Ruleset, lowered: Sequence[Lowered] | None = None) -> None:
        """Put a family's tables in force, counters included; tables that are not in it are unloaded.

        Args:
            ruleset: The tables.
            lowered: The same tables lowered already, where several namespaces share them.
        """
        family = ruleset.family
        programs = {
            each.table_id: each
            for each in lowered
            or [lower_table(table, self._lowered.get((family, TABLE_IDS[table.name]))) for table in ruleset.tables]
        }
        for table_id, new in programs.items():
            old = self._lowered.get((family, table_id))
            if old is None or old.program is not new.program:
                if _uses_sets(new):
                    self.datapath.context.sets.check(new.table)  # which may refuse: nothing has changed yet
                new.prepare(self.datapath.context)
        for table_id in TableId:
            old = self._lowered.pop((family, table_id), None)
            if table_id in programs:
                new = programs[table_id]
                self._lowered[family, table_id] = new
                counters = _first_counters(new, self._counted.get((family, table_id)))
                self.datapath.table_set(family, table_id, new.program, counters)
                self._counted[family, table_id] = _Counted(
                    new, counters or bytes(16 * new.program.n_counters), new.table
                )
            elif old is not None:
                self.datapath.table_set(family, table_id, None)
                self._counted.pop((family, table_id), None)
        self._update_hooks()
        used = [function for each in self._lowered.values() for function in each.callables]
        self.datapath.context.retain(used)
        self.datapath.labels_enable(any(isinstance(one, Connlabel) for one in used))
        if any(each.needs_accounting for each in programs.values()):
            self.sysctl_set("net.netfilter.nf_conntrack_acct", "1")

    def nft(self, text: str, *, file: str | None = None) -> str:
        """``nft -f``: all commands of a script or none of them. Returns what they print.

        Raises:
            RulesetSyntaxError: nft or the kernel would refuse it.
            UnsupportedFeature: Something in it is not modelled.
        """
        before = self._nft.ruleset(self.clock.now_ns)
        outcome = run_script(before, text, file=file, ifindex=self._nft_ifindex, ifname=self._nft_ifname)
        if outcome.ruleset is not before:
            self.nft_load(outcome.ruleset)
        return outcome.output

    def nft_load(self, ruleset: NftRuleset) -> None:
        """Put an nft ruleset in force that was made from :meth:`nft_ruleset`; what stays keeps what it has counted."""
        self._nft.load(ruleset, self.clock.now_ns, self._next_hook_serial)
        self._update_hooks()
        if self._nft.needs_accounting:
            self.sysctl_set("net.netfilter.nf_conntrack_acct", "1")

    def nft_ruleset(self) -> NftRuleset:
        """nft's tables with counters and elements as they stand."""
        return self._nft.ruleset(self.clock.now_ns)

    def nft_list_ruleset(self, *, handles: bool = False) -> str:
        """``nft list ruleset``, with ``handles`` as ``nft -a`` prints it."""
        return Printer(self._nft_ifname).ruleset(self.nft_ruleset(), handles=handles)

    @property
    def nft_lowered(self) -> tuple[LoweredNft, ...]:
        """nft's programs in force with their source maps, as the trace numbers them."""
        return self._nft.tables

    def _nft_ifindex(self, name: str) -> int:
        return self.devices.named(name).ifindex if name in self.devices else 0

    def _nft_ifname(self, ifindex: int) -> str:
        device = self.devices.find(ifindex)
        return device.name if device is not None else ""

    def _next_hook_serial(self) -> int:
        self._hook_serial += 1
        return self._hook_serial

    def _update_hooks(self) -> None:
        """Switch connection tracking on where a rule needs it, and put nft's chains among the steps of the hooks."""
        there: list[object] = []
        for family in Family:
            tables = [table for (of, table) in self._lowered if of == family]
            steps = {step for table in tables for step in _TABLE_STEPS[table]}
            there += [(family, step) for step in Step if step in steps]
            if TableId.NAT in tables:
                there.append((family, "nat"))
            programs = [each for (of, _), each in self._lowered.items() if of == family]
            tracked = self._nft.needs(family) or any(each.needs_conntrack for each in programs)
            whole = tracked or any(each.needs_whole for each in programs)
            self.datapath.conntrack_enable(family, tracked)
            self.datapath.defragment_enable(family, whole)
            if whole:
                there.append((family, Step.DEFRAG))
            if tracked:
                there += [(family, step) for step in (Step.CONNTRACK, Step.CONFIRM)]
            if self._nft.has_nat_chain(family):
                there += [(family, step) for step in (Step.NAT_DST, Step.NAT_SRC)]
        wanted = set(there)
        for gone in [key for key in self._hook_serials if key not in wanted]:
            del self._hook_serials[gone]
        for key in there:
            if key not in self._hook_serials:
                self._hook_serials[key] = self._next_hook_serial()
        if self._nft.empty and not self._nft_loaded:
            return
        hooks, mappings = self._nft.hook_orders(self._hook_serials)
        self.datapath.nft_set(self._nft.engine_tables(), hooks, mappings)
        self._nft_loaded = not self._nft.empty

    @property
    def lowered(self) -> dict[tuple[Family, TableId], Lowered]:
        """The programs in force with their source maps."""
        return dict(self._lowered)

    def counters(self, family: Family, table_id: TableId) -> list[tuple[int, int]]:
        """Packets and bytes by rule number of the source map; empty if the table is not loaded."""
        data = memoryview(self.datapath.table_counters(family, table_id)).cast("Q")
        return list(zip(data[::2], data[1::2], strict=True))

    def ruleset(self, family: Family = Family.IPV4) -> Ruleset:
        """The tables in force with the counters as they stand, as ``iptables-save -c`` would see them."""
        tables: list[Table] = []
        for (table_family, table_id), lowered in sorted(self._lowered.items(), key=lambda item: item[1].table.name):
            if table_family == family:
                before = self._counted[table_family, table_id]
                now = _count(before, lowered, self.datapath.table_counters(family, table_id))
                self._counted[table_family, table_id] = now
                tables.append(now.table)
        return Ruleset(family, tuple(tables))


def _uses_sets(lowered: Lowered) -> bool:
    """Whether a rule may name an ipset; quick, and true also for a while after such a rule has gone."""
    return any(isinstance(function, SetUser) for function in lowered.callables)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A table with the counters that the engine had for it: ``uint64[n, 2]``, by number of the source map."""

    lowered: Lowered
    data: bytes
    table: Table


def _count(before: _Counted, lowered: Lowered, data: bytes) -> _Counted:
    """The table with these counters; chains whose counters have not moved stay the same objects."""
    if data == before.data:
        return before
    assert lowered.image is not None
    placed = lowered.image.placed
    moved = {lowered.sources[number].chain for number in _moved(before.data, data)}
    chains = list(before.table.chains)
    for at, chain in enumerate(chains):
        if chain.name in moved:
            start = 16 * placed[chain.name].counter
            end = start + 16 * (len(chain.rules) + 1)
            pairs = [Counters(*pair) for pair in struct.iter_unpack("=2Q", data[start:end])]
            rules = tuple(replace(rule, counters=pair) for rule, pair in zip(chain.rules, pairs, strict=False))
            counters = pairs[-1] if chain.policy is not None else Counters()
            chains[at] = replace(chain, rules=rules, counters=counters)
    return _Counted(lowered, data, replace(before.table, chains=tuple(chains)))


#: In how large pieces counters are compared at first: most have not moved.
_BLOCK = 64 * 16


def _moved(before: bytes, now: bytes) -> Iterator[int]:
    """The numbers of the counters, ``uint64[n, 2]``, that are not what they were."""
    for block in range(0, len(now), _BLOCK):
        if before[block : block + _BLOCK] != now[block : block + _BLOCK]:
            for at in range(block, min(block + _BLOCK, len(now)), 16):
                if before[at : at + 16] != now[at : at + 16]:
                    yield at // 16


def _first_counters(new: Lowered, before: _Counted | None) -> bytes:
    """The counters that a table starts with: those that its rules say.

    Chains that were loaded before, and are in the same place, need not be gone through again.
    """
    old = before.lowered.image if before is not None else None
    if before is None or old is None or new.image is None:
        return new.initial_counters()
    data = bytearray(before.data[: 16 * new.program.n_counters].ljust(16 * new.program.n_counters, b"\0"))
    placed, were = new.image.placed, old.placed
    fresh = [chain for _, chain in unlike(before.table.chains, new.table.chains, were) if chain is not None]
    if new.image is not old and new.image.before is not old.name and old.before is not new.image.name:
        # Neither program was made of the other: chains may have moved.
        several = {chain.name for chain in fresh}
        fresh += [
            one
            for one in new.table.chains
            if one.name not in several and were[one.name].counter != placed[one.name].counter
        ]
    for chain in fresh:
        place = placed[chain.name]
        said = [value for rule in chain.rules for value in (rule.counters.packets, rule.counters.bytes)]
        said += (chain.counters.packets, chain.counters.bytes)
        struct.pack_into(f"={len(said)}Q", data, 16 * place.counter, *said)
    return bytes(data)
