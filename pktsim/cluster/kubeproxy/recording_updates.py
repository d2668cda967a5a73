"""Replays what a real kube-proxy did while objects changed: step by step, what it wrote, deleted, kept and answered.

One directory with ``objects-0.yaml``, ``objects-1.yaml``, … is a case; ``step-N`` holds what came of the change to
``objects-N.yaml``. See the README of the reference data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pktsim.clock import NS_PER_MS, NS_PER_S, Clock
from pktsim.errors import RecordingError, UnsupportedFeature
from pktsim.netfilter.iptables_command import run_command
from pktsim.netfilter.iptables_text import print_save
from pktsim.netfilter.matches.recent import RecentMatch
from pktsim.netfilter.names import PROTOCOL_NUMBERS
from pktsim.netfilter.ruleset import Family, Ruleset

from ..addresses import parse_ip
from ..loader import load_objects
from ..objects import EndpointSlice, KubeObject, Service
from ..store import ObjectStore
from .proxier import FAMILIES, KubeProxy, SyncReport
from .recording import (
    SAVE_FILES,
    RecordedHost,
    first_difference,
    health_checks,
    health_ports,
    read_text,
    start,
)

#: How long a step lasts where nothing is said: longer than anything that happens at once, shorter than any period.
_STEP_NS = NS_PER_S
#: Between two changes of one step, which travel on different watches.
_BETWEEN_CHANGES_NS = NS_PER_MS

_TABLE_PREFIX = {Family.IPV4: "ip", Family.IPV6: "ip6"}


@dataclass(frozen=True, slots=True)
class Action:
    """What a step does besides changing objects.

    Attributes:
        run: Commands of somebody else.
        wait_s: How long to wait at least.
        merge: Whether all changes come in one sync.
    """

    run: tuple[str, ...] = ()
    wait_s: float = 0.0
    merge: bool = False


def read_actions(path: Path) -> dict[int, Action]:
    """Read ``actions.yaml``, if there is one.

    Raises:
        RecordingError: It has something that is not known.
    """
    if not path.exists():
        return {}
    actions: dict[int, Action] = {}
    try:
        data: Any = yaml.safe_load(read_text(path)) or {}
        for step, what in data.items():
            unknown = sorted(set(what) - {"run", "wait", "may_fail", "merge"})
            if unknown:
                raise UnsupportedFeature(f"action {unknown[0]!r}", file=str(path))
            run = tuple(str(line) for line in what.get("run", ()))
            actions[int(step)] = Action(run, float(what.get("wait", 0)), bool(what.get("merge", False)))
    except (yaml.YAMLError, TypeError, AttributeError, ValueError) as error:
        raise RecordingError(f"step numbers and their actions expected: {error}", file=str(path)) from None
    return actions


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """One line of ``conntrack -L``."""

    protocol: int
    orig_dst: bytes
    orig_dst_port: int
    reply_src: bytes
    reply_src_port: int

    @classmethod
    def parse(cls, line: str) -> RecordedEntry:
        """Read it.

        Raises:
            ValueError: It is not one.
        """
        values: dict[str, list[str]] = {}
        for word in line.split():
            key, equals, value = word.partition("=")
            if equals:
                values.setdefault(key, []).append(value)
        try:
            return cls(
                PROTOCOL_NUMBERS[line.split()[0]],
                parse_ip(values["dst"][0]).packed,
                int(values["dport"][0]),
                parse_ip(values["src"][1]).packed,
                int(values["sport"][1]),
            )
        except (KeyError, IndexError) as error:
            raise ValueError(f"not a conntrack entry: {line!r} ({error})") from None


@dataclass(slots=True)
class _Watcher:
    """Notes what happens to rules in the course of one step."""

    before: dict[Family, Ruleset]
    written: dict[Family, dict[str, set[str]]] = field(default_factory=lambda: {family: {} for family in FAMILIES})
    emptied: dict[Family, dict[str, set[str]]] = field(default_factory=lambda: {family: {} for family in FAMILIES})
    lists: dict[Family, set[str]] = field(default_factory=dict)
    survived: dict[Family, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for family, ruleset in self.before.items():
            self.lists[family] = affinity_lists(ruleset)
            self.survived[family] = set(self.lists[family])

    def sync(self, report: SyncReport) -> None:
        for table, names in report.written.items():
            self.written[report.family].setdefault(table, set()).update(names)

    def ruleset(self, ruleset: Ruleset) -> None:
        """A list lives as long as some rule names it, from one commit to the next."""
        if self.survived[ruleset.family]:
            self.survived[ruleset.family] &= affinity_lists(ruleset)

    def rewritten(self, after: Mapping[Family, Ruleset]) -> str:
        """The text of ``rewritten.txt``."""
        lines: list[str] = []
        for family in FAMILIES:
            old, new = _chains(self.before[family]), _chains(after[family])
            for key in old.keys() | new.keys():
                table, chain = key
                if key not in new:
                    what = "deleted"
                elif key not in old:
                    what = "new"
                elif chain in self.written[family].get(table, ()):
                    what = "rewritten"
                elif old[key] and chain in self.emptied[family].get(table, ()):
                    what = "rewritten" if new[key] else "rules-removed"
                else:
                    continue
                lines.append(f"{_TABLE_PREFIX[family]} {table} {chain} {what}\n")
        return "".join(sorted(lines))

    def affinity(self, after: Mapping[Family, Ruleset]) -> str:
        """The text of ``affinity.txt``."""
        lines = []
        for family in FAMILIES:
            there = affinity_lists(after[family])
            for name in self.lists[family]:
                kept = name in self.survived[family]
                lines.append(f"{name} {'kept' if kept else 'emptied' if name in there else 'gone'}\n")
        return "".join(sorted(lines))


def affinity_lists(ruleset: Ruleset) -> set[str]:
    """The names of the ``recent`` lists that rules name."""
    table = ruleset.table("nat")
    return {
        match.name
        for chain in (table.chains if table else ())
        for rule in chain.rules
        for match in rule.matches
        if isinstance(match, RecentMatch)
    }


def _chains(ruleset: Ruleset) -> dict[tuple[str, str], bool]:
    """Every chain, and whether it has rules."""
    return {(table.name, chain.name): bool(chain.rules) for table in ruleset.tables for chain in table.chains}


def changes(before: Sequence[KubeObject], after: Sequence[KubeObject]) -> Iterator[tuple[KubeObject, bool]]:
    """What watches send between two states, and whether it is a deletion: Services, then slices, then the rest."""
    old = {found.key: found for found in before}
    new = {found.key: found for found in after}

    def rank(found: KubeObject) -> int:
        return 0 if isinstance(found, Service) else 1 if isinstance(found, EndpointSlice) else 2

    for found in sorted((*before, *after), key=rank):
        if found.key not in new:
            yield found, True
        elif new[found.key] is found and old.get(found.key) != found:
            yield found, False


class _Case:
    """One case being replayed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.actions = read_actions(directory / "actions.yaml")
        self.states: list[list[KubeObject]] = []
        for number in itertools.count():
            path = directory / f"objects-{number}.yaml"
            if not path.exists():
                break
            self.states.append(load_objects(path, check=False))
        self.clock = Clock()
        self.proxy: KubeProxy
        self.host: RecordedHost
        self.store: ObjectStore
        self.proxy, self.host, self.store = start(directory, self.states[0], self.clock)
        self.watcher = _Watcher(dict(self.host.rulesets))
        self.proxy.observe(lambda report: self.watcher.sync(report))
        self.host.on_ruleset = lambda ruleset: self.watcher.ruleset(ruleset)
        self.ports = sorted({one for state in self.states for one in health_ports(state)})
        self.saved: dict[Family, str] = {}

    def run(self) -> str | None:
        """Replay all steps; the first difference ends it."""
        self.clock.run_for(_STEP_NS)
        for number in range(len(self.states)):
            if number:
                self._step(number)
            if difference := self._compare(number):
                return difference
        return None

    def _step(self, number: int) -> None:
        action = self.actions.get(number, Action())
        self.host.commands.clear()
        self.watcher = _Watcher(dict(self.host.rulesets))
        until_ns = self.clock.now_ns + max(_STEP_NS, int(action.wait_s * NS_PER_S))
        for found, gone in changes(self.states[number - 1], self.states[number]):
            if gone:
                self.store.delete(found.kind, found.name, found.namespace)
            else:
                self.store.apply(found)
            if not action.merge:
                self.clock.run_for(_BETWEEN_CHANGES_NS)
        for command in action.run:
            self._run(command, number)
        self.clock.run_until(until_ns)

    def _run(self, command: str, number: int) -> None:
        """What somebody else does to the node."""
        tool = command.split()[0] if command.split() else ""
        if tool not in ("iptables", "ip6tables"):
            where = str(self.directory / "actions.yaml")
            raise UnsupportedFeature(f"command {tool!r}", file=where, place=f"step {number}")
        family = Family.IPV4 if tool == "iptables" else Family.IPV6
        before = self.host.rulesets[family]
        after = run_command(before, command).ruleset
        old, new = _chains(before), _chains(after)
        for (table, chain), filled in old.items():
            if filled and not new.get((table, chain), False):
                self.watcher.emptied[family].setdefault(table, set()).add(chain)
        self.host.set_ruleset(after, {})

    def _compare(self, number: int) -> str | None:
        step = self.directory / f"step-{number}"
        for family in FAMILIES:
            path = step / SAVE_FILES[family]
            if path.exists():
                self.saved[family] = read_text(path)
            elif family is Family.IPV4:
                raise RecordingError("is missing", file=str(path))
            ours = print_save(self.host.ruleset(family))
            if difference := first_difference(f"step-{number}/{path.name}", self.saved.get(family, ours), ours):
                return difference
        texts: dict[str, Callable[[], str]] = {
            "rewritten.txt": lambda: self.watcher.rewritten(self.host.rulesets),
            "conntrack-commands.txt": self._commands,
            "conntrack-after.txt": lambda: self._entries(step / "conntrack-before.txt"),
            "affinity.txt": lambda: self.watcher.affinity(self.host.rulesets),
            "healthchecks.txt": lambda: health_checks(self.proxy, self.ports),
        }
        for name, text in texts.items():
            path = step / name
            if path.exists() and (difference := first_difference(f"step-{number}/{name}", read_text(path), text())):
                return difference
        return None

    def _commands(self) -> str:
        return "".join(sorted(" ".join(one.arguments) + "\n" for one in self.host.commands))

    def _entries(self, path: Path) -> str:
        """Those of the recorded entries that our deletions leave."""
        kept = []
        for line in read_text(path).splitlines(keepends=True):
            try:
                entry = RecordedEntry.parse(line)
            except ValueError as error:
                raise RecordingError(str(error), file=str(path)) from None
            if not any(one.matches(entry) for one in self.host.commands):
                kept.append(line)
        return "".join(kept)


def verify(directory: Path) -> str | None:
    """Replay a recorded kube-proxy under change.

    Returns:
        The first difference, with step, file and line; ``None`` if all is the same.

    Raises:
        RecordingError: The recording is not whole.
        UnsupportedFeature: It has something that is not modelled.
    """
    if (directory / "step-0" / "ruleset.nft").exists():
        raise UnsupportedFeature("kube-proxy mode nftables", file=str(directory))
    if not (directory / "objects-0.yaml").exists():
        raise RecordingError("objects-0.yaml is missing", file=str(directory))
    return _Case(directory).run()
