"""What can become of a packet on a node with the rules that kube-proxy writes, in pktsim: all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pktsim.clock import NS_PER_S, Clock
from pktsim.cluster.kubeproxy import recording
from pktsim.cluster.loader import load_objects
from pktsim.kernel.case import CaseRun
from pktsim.netfilter.iptables_text import print_save
from pktsim.netfilter.ruleset import Family
from pktsim.rng import Choices, SeededChoices, explore
from pktsim.wire.addr import ip_to_text
from pktsim.wire.frame import FrameView
from tests.live.service_probes import Probe, World

#: With more lines of rules than this only some probes are sent, and only some of their outcomes tried.
MANY_RULES = 2000
SOME_PROBES: Final = 4
SOME_OUTCOMES = 2

#: What one packet led to, as text: frames, the sender's error, local deliveries, and the rules that counted it.
Outcome = tuple[str, ...]


class Switch:
    """Choices of a world that stands for many runs: each run puts its own in the place of the last one's."""

    def __init__(self) -> None:
        self.now: Choices = SeededChoices(0)

    def below(self, place: str, n: int) -> int:
        return self.now.below(place, n)

    def chance(self, place: str, probability: int) -> bool:
        return self.now.chance(place, probability)


def describe(interface: str, frame: bytes) -> str:
    """A frame with all that rules decide; a source port that was drawn is only said to be one."""
    view = FrameView(frame)
    saddr, daddr = ip_to_text(view.saddr), ip_to_text(view.daddr)
    if view.has_ports:
        sport = str(view.sport) if view.sport >= 1024 or view.sport < 600 else "drawn"
        flags = f" {view.tcp_flags!s}" if view.protocol == 6 else ""
        dport = str(view.dport)
        return f"{interface}: {saddr} {sport} > {daddr} {dport} protocol {view.protocol}{flags} ttl {view.ttl}"
    quoted = view.quoted
    about = f" about {ip_to_text(quoted.saddr)} > {ip_to_text(quoted.daddr)}" if quoted else ""
    return f"{interface}: {saddr} > {daddr} icmp {view.icmp_type}/{view.icmp_code}{about}"


def outcome(frames: list[tuple[str, bytes]], error: str, delivered: int, rules: dict[str, Any]) -> Outcome:
    lines = [describe(interface, frame) for interface, frame in frames]
    lines += [f"the sender gets {error}"] if error else []
    lines += [f"delivered {delivered}"] if delivered else []
    counted = (f"{name} {packets}" for name, (packets, _) in sorted(rules.items()))
    return (*lines, "rules " + ", ".join(counted))


class Side:
    """One node and one address family: what is sent there, and what becomes of it.

    Args:
        directory: The input of its kube-proxy, as in a recording.
        world: The node and what is sent.
        text: The rules.
        sysctls: The node's settings.
    """

    def __init__(self, directory: Path, world: World, text: str, sysctls: dict[str, int]) -> None:
        self.name = directory.name
        self.world = world
        self.text = text
        self.sysctls = sysctls
        self.probes: Sequence[Probe] = list(world.probes())
        self.limit: int | None = None
        if text.count("\n") > MANY_RULES:
            self.probes, self.limit = self.probes[:SOME_PROBES], SOME_OUTCOMES
        self._switch = Switch()
        self._run = CaseRun(world.case(text, sysctls), self._switch)

    @classmethod
    def of(cls, directory: Path, families: Sequence[Family] = tuple(Family)) -> Iterator[Side]:
        """Start a kube-proxy on what a directory says; the families that its node has addresses in."""
        objects = load_objects(directory / "objects.yaml", check=False)
        clock = Clock()
        _, host, _ = recording.start(directory, objects, clock)
        clock.run_for(NS_PER_S)
        sysctls = {name: value for name, value in host.sysctls.items() if "timeout" not in name}
        for family in families:
            world = World(directory, objects, family)
            if world.own:
                yield cls(directory, world, print_save(host.ruleset(family)), sysctls)

    def emulated(self, probe: Probe) -> list[tuple[int, Outcome]]:
        """What can happen in pktsim, each with the random rule that took the packet; all, or the first few."""
        run, world = self._run, self.world

        def send(choices: Choices) -> Outcome:
            self._switch.now = choices
            datapath = run.node.datapath
            for recent in datapath.context.recent.values():
                recent.entries.clear()
            datapath.conntrack_flush()
            lines: Outcome = ()
            for number in range(probe.times):
                result = run.take(probe.step(world.macs, number, 0))
                lines += outcome(result.emitted, result.error, result.delivered, result.rules)
            return lines

        explored = islice(explore(send, relevant=lambda place: "/KUBE-" in place), self.limit)
        return [(sum(not choice.answer for choice in one.choices), one.result) for one in explored]
