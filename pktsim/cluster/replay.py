"""Runs a recorded action again on an emulated copy of its cluster, and compares.

The copy has the recorded addresses, routes, settings and rules. What was chance and changes what follows (the endpoint
drawn, a masquerading node's port, who closes first) is scripted from the recording; everything else is left to the
emulated kernels, and must come out the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pktsim.clock import NS_PER_S, Clock
from pktsim.cluster import programs
from pktsim.cluster.comparison import (
    NodeCounters,
    compare_conntrack,
    compare_counters,
    compare_frames,
    compare_output,
)
from pktsim.cluster.comparison_types import Difference, Seen
from pktsim.cluster.control_plane import make_namespaces
from pktsim.cluster.draws import EndpointDraws
from pktsim.cluster.loader import load_objects
from pktsim.cluster.plumbing import realise
from pktsim.cluster.programs import ResolverFiles
from pktsim.cluster.recording import (
    ECHO_PORT,
    HTTP_PORT,
    OBJECTS_FILE,
    Action,
    Run,
    Topology,
    load_action,
    load_topology,
)
from pktsim.cluster.rule_check import rules_of
from pktsim.cluster.script import (
    address_orders,
    draws_of,
    first_fin_script,
    pipelining_script,
    port_script,
    script_endpoints,
    shuffle_script,
    unshuffled_script,
    with_unused_neighbours,
)
from pktsim.cluster.store import ObjectStore
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.icmp import REDIRECT_NUMBER
from pktsim.kernel.netns import Netns
from pktsim.kernel.network import Network
from pktsim.netfilter.conntrack import ConntrackTable
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.rng import ScriptedChoices, SeededChoices

#: How long is waited for frames after the last recorded one: less than any time-out that has frames follow.
_SLACK_S = 0.25
#: No recorded command takes longer.
_LIMIT_S = 30.0
#: What ICMP redirects are counted by, and in most actions nothing else.
_REDIRECTS = "mangle/OUTPUT/policy"
_HAIRPIN = re.compile(r"(?P<node>\S+): bridge link set dev (?P<dev>\S+) hairpin (?P<value>on|off)")


@dataclass(slots=True)
class Replayed:
    """What came of an action here."""

    frames: list[Seen]
    conntrack: Mapping[str, list[str]]
    counters: Mapping[str, NodeCounters]
    redirects: Mapping[str, int] = field(default_factory=dict)
    outputs: list[tuple[int, str]] = field(default_factory=list)


class RecordedCluster:
    """An emulated copy of a recorded cluster, as it was before an action."""

    def __init__(
        self, directory: Path, topology: Topology, action: Action, answers: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.topology = topology
        self.action = action
        self.family = Family.IPV6 if ":" in topology.pod_cidr else Family.IPV4
        self.nodes = [space.name for space in topology.wiring.with_role("node")]
        self.rulesets: dict[str, Ruleset] = {node: rules_of(directory, node, self.family) for node in self.nodes}
        draws = draws_of(action)
        servers = {space.name: HTTP_PORT for space in topology.servers}
        script: dict[str, Sequence[int]] = {
            **port_script(draws),
            **first_fin_script(action.frames, servers),
            **pipelining_script(action.frames),
            **(answers or {}),
        }
        choices = EndpointDraws(self.rulesets.get, ScriptedChoices(script, SeededChoices(0)))
        script_endpoints(draws, self.rulesets, choices)
        self.network = Network(Clock(), choices)
        realise(with_unused_neighbours(topology.wiring, action.frames), self.network, warm=action.warm)
        if self.family is Family.IPV6:
            self._forward_ipv6()
        for node, ruleset in self.rulesets.items():
            self.network[node].load_ruleset(ruleset)
        self._before()
        self._serve(directory)

    def _forward_ipv6(self) -> None:
        """A recorded space lists IPv4's settings only; its translation to IPv6 forwards where it does."""
        for space in self.topology.wiring.spaces:
            netns = self.network[space.name]
            netns.sysctl_set("net.ipv6.conf.all.forwarding", netns.sysctl("net.ipv4.ip_forward"))

    def _before(self) -> None:
        for change in self.action.before:
            found = _HAIRPIN.fullmatch(change)
            if found is None:
                raise UnsupportedFeature(f"before: {change}", file=str(self.action.directory))
            self.network[found["node"]].link_set(found["dev"], hairpin=found["value"] == "on")

    def _serve(self, directory: Path) -> None:
        for space in self.topology.servers:
            netns = self.network[space.name]
            programs.serve_http(netns, space.name, HTTP_PORT, self.family)
            programs.serve_echo(netns, space.name, ECHO_PORT, self.family)
        store = ObjectStore()
        store.apply_all(load_objects(directory / OBJECTS_FILE, check=False))
        make_namespaces(store)
        for space in self.topology.dns_pods:
            programs.serve_dns(self.network[space.name], self.topology.corefile, store, self.family)

    def run(self) -> Replayed:
        """Run the action's commands one after the other, each not before its recorded time."""
        clock = self.network.clock
        outputs = []
        # The recording's clock is 0 at its first frame; the first command started before.
        start_s = min((run.start_s for run in self.action.runs), default=0.0)
        for run in self.action.runs:
            clock.run_until(max(clock.now_ns, round((run.start_s - start_s) * NS_PER_S)))
            outputs.append(self._command(run))
        clock.run_until(max(clock.now_ns, round((self.action.end_s - start_s) * NS_PER_S)) + round(_SLACK_S * NS_PER_S))
        return Replayed(
            [
                Seen(frame.at_ns / NS_PER_S, frame.space, frame.interface, frame.direction, frame.frame)
                for frame in self.network.capture
            ],
            {node: conntrack_lines(self.network[node]) for node in self.nodes},
            {node: moved_counters(self.network[node], self.family) for node in self.nodes},
            {node: self.network[node].icmp.redirects_sent for node in self.nodes},
            outputs,
        )

    def _command(self, run: Run) -> tuple[int, str]:
        space = self.topology.wiring.space(run.space)
        files = ResolverFiles(self.topology.resolv_conf if space.role == "pod" else "")
        return programs.run_command(self.network[run.space], run.command, run.line, files, limit_s=_LIMIT_S)


def conntrack_lines(netns: Netns) -> list[str]:
    """What ``conntrack -L -o extended`` prints in a namespace."""
    entries = ConntrackTable(netns.datapath).entries(netns.clock.now_ns)
    return [entry.text(extended=True) for entry in entries]


def moved_counters(netns: Netns, family: Family) -> dict[str, tuple[int, int]]:
    """``table/CHAIN/n`` or ``table/CHAIN/policy`` to packets and bytes, of all that are not zero."""
    moved = {}
    for table in netns.ruleset(family).tables:
        for chain in table.chains:
            named = [(str(number), rule.counters) for number, rule in enumerate(chain.rules, 1)]
            if chain.policy is not None:
                named.append(("policy", chain.counters))
            for name, counters in named:
                if counters.packets or counters.bytes:
                    moved[f"{table.name}/{chain.name}/{name}"] = (counters.packets, counters.bytes)
    return moved


def differences(action: Action, replayed: Replayed) -> Iterator[Difference]:
    """The first difference of each kind; frames first, because the rest follows from them."""
    difference, random = compare_frames(action.frames, replayed.frames, action.fixed)
    if difference is not None:
        yield difference
    found = compare_conntrack(action.conntrack, replayed.conntrack, random)
    if found is not None:
        yield found
    found = compare_counters(action.counters, replayed.counters, random)
    if found is not None:
        yield found
    for number, (run, (status, output)) in enumerate(zip(action.runs, replayed.outputs, strict=True), 1):
        if run.exit != status:
            yield Difference(f"run {number}", f"exit status {run.exit} recorded, {status} here", "", output.strip())
        found = compare_output(f"run {number}", run.output, output, random)
        if found is not None:
            yield found


def replay(directory: Path) -> tuple[Action, Replayed]:
    """Run the action recorded in ``directory``."""
    topology = load_topology(directory.parent)
    action = load_action(directory)
    servers = [space.name for space in topology.dns_pods]
    wanted = address_orders(action.frames, servers)
    answers: dict[str, list[int]] = {}
    if any(wanted.values()):
        # Which order loadbalance starts from can only be seen.
        plain = RecordedCluster(directory.parent, topology, action, unshuffled_script(wanted)).run()
        answers = shuffle_script(address_orders(plain.frames, servers), wanted)
    replayed = RecordedCluster(directory.parent, topology, action, answers).run()
    for node, sent in sorted(replayed.redirects.items()):
        # Redirects become ever more seldom, and none is seen beyond the counters: NAT drops them. So earlier actions
        # had to be so many as leave the number that was counted.
        ours, recorded = (
            counters.get(node, {}).get(_REDIRECTS, (0, 0))[0] for counters in (replayed.counters, action.counters)
        )
        surplus = ours - recorded
        if not 0 < surplus <= sent:
            continue
        for before in range(1, REDIRECT_NUMBER + 1):
            again = RecordedCluster(directory.parent, topology, action, answers)
            again.network[node].icmp.redirects_before = before
            replayed = again.run()
            if replayed.redirects[node] <= sent - surplus:
                break
    return action, replayed


def verify(directory: Path) -> Difference | None:
    """Run the action recorded in ``directory`` and return the first difference.

    Raises:
        RecordingError: The recording is not whole.
        UnsupportedFeature: It has something that is not modelled.
    """
    action, replayed = replay(directory)
    return next(differences(action, replayed), None)
