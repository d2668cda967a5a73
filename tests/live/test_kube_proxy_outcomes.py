"""kube-proxy's rules do on the running kernel what they do in pktsim, to each packet that matters.

For each recorded start of kube-proxy, the rules that pktsim writes are loaded into a namespace. To each address and
port of each Service go packets from a pod, a pod of another node, outside, the node itself, an endpoint of the Service,
and from the ranges that a load balancer allows. What can happen to each of them is one set on both sides.

pktsim's set is complete: the packet is sent once for every combination of choices (``pktsim.rng.explore``). The kernel
is not left to chance either: it runs the same rules with ``-m statistic --mode random`` replaced by ``-m u32``, so that
each packet itself says, in its identification or flow label, which of the random rules takes it; one more packet is
sent than there are outcomes. Everything else in the rules is as it was, including their numbers: an outcome also holds
which rules counted the packet. With session affinity a second packet follows the first from the same client, meant for
another endpoint.

Cases in IPv4 alone are sent in IPv6 too: the same case with every address replaced (``tests.live.mirror``). The
kernel's own multicast listener reports pass the same rules; a packet during which one was sent is sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pktsim.clock import NS_PER_S, Clock
from pktsim.cluster.kubeproxy import recording
from pktsim.cluster.loader import load_objects
from pktsim.kernel.case import CaseRun
from pktsim.netfilter.iptables_text import print_save
from pktsim.netfilter.ruleset import Family
from pktsim.rng import Choices, SeededChoices, explore
from pktsim.wire.addr import ip_to_text
from pktsim.wire.frame import FrameView
from tests.live.kernel_case import KernelRun, Workbench
from tests.live.kernel_state import entered
from tests.live.mirror import mirror, mirrored
from tests.live.service_probes import SPORT, Probe, World, chosen_by_packet
from tests.recorded import archives

STARTS = "kube-proxy-iptables"
#: With more lines of rules than this only some probes are sent, and only some of their outcomes tried.
MANY_RULES = 2000
SOME_PROBES = 4
SOME_OUTCOMES = 2
#: A packet during which the kernel reports its multicast groups (MLD), which moves counters, is sent again.
UNDISTURBED_TRIES = 5

#: What one packet led to, as text: frames, the sender's error, local deliveries, and the rules that counted it.
Outcome = tuple[str, ...]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(STARTS, tmp_path_factory.mktemp("starts"))


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


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


def emulated(probe: Probe, world: World, run: CaseRun, switch: Switch, limit: int | None) -> list[tuple[int, Outcome]]:
    """What can happen in pktsim, each with the random rule that took the packet; all, or the first few."""

    def send(choices: Choices) -> Outcome:
        switch.now = choices
        datapath = run.node.datapath
        for recent in datapath.context.recent.values():
            recent.entries.clear()
        datapath.conntrack_flush()
        lines: Outcome = ()
        for number in range(probe.times):
            result = run.take(probe.step(world.macs, number, 0))
            lines += outcome(result.emitted, result.error, result.delivered, result.rules)
        return lines

    explored = islice(explore(send, relevant=lambda place: "/KUBE-" in place), limit)
    return [(sum(not choice.answer for choice in one.choices), one.result) for one in explored]


def on_kernel(probe: Probe, world: World, run: KernelRun, choices: Iterable[int]) -> list[Outcome]:
    """What happens on the kernel for each choice."""
    node = run.node
    found: list[Outcome] = []
    for choice in choices:
        for _ in range(UNDISTURBED_TRIES):
            before = node.reports_sent() if world.family is Family.IPV6 else 0
            lines = once_on_kernel(probe, world, run, choice)
            if world.family is Family.IPV4 or node.reports_sent() == before:
                break
        else:
            raise AssertionError(f"{probe}: the kernel's own packets (MLD) came between, again and again")
        found.append(lines)
    return found


def once_on_kernel(probe: Probe, world: World, run: KernelRun, choice: int) -> Outcome:
    """What happens on the kernel for one choice."""
    node = run.node
    node.conntrack.flush()
    with entered(node.near):
        for path in sorted(Path("/proc/thread-self/net/xt_recent").glob("*")):
            path.write_text("/\n")
    lines: Outcome = ()
    for number in range(probe.times):
        # a second packet asks for another endpoint than the first
        result = run.take(probe.step(world.macs, number, choice + number if choice != 1 else choice - number))
        frames = [(one["interface"], bytes.fromhex(one["frame"])) for one in result["emitted"]]
        lines += outcome(frames, result.get("error", ""), result.get("delivered", 0), result.get("rules", {}))
    return lines


def compare(directory: Path, bench: Workbench, families: Sequence[Family]) -> tuple[int, str]:
    """How many packets were sent, and what differs."""
    objects = load_objects(directory / "objects.yaml", check=False)
    clock = Clock()
    _, host, _ = recording.start(directory, objects, clock)
    clock.run_for(NS_PER_S)
    sent, differences = 0, []
    for family in families:
        world = World(directory, objects, family)
        if not world.own:
            continue
        ruleset = host.ruleset(family)
        text = print_save(ruleset)
        sysctls = {name: value for name, value in host.sysctls.items() if "timeout" not in name}
        switch = Switch()
        run = CaseRun(world.case(text, sysctls), switch)
        probes = list(world.probes())
        limit = None
        if text.count("\n") > MANY_RULES:
            probes, limit = probes[:SOME_PROBES], SOME_OUTCOMES
        with bench.run(world.case(chosen_by_packet(text, family), sysctls)) as kernel_run:
            for probe in probes:
                ours = emulated(probe, world, run, switch, limit)
                choices = [choice for choice, _ in ours]
                theirs = on_kernel(probe, world, kernel_run, [*choices, *([len(ours)] if limit is None else [])])
                sent += len(theirs)
                mine, kernels = {one for _, one in ours}, set(theirs)
                if mine != kernels:
                    differences.append(
                        f"({directory.name}, {probe})\n"
                        + "".join(f"  kernel only: {one}\n" for one in sorted(kernels - mine))
                        + "".join(f"  pktsim only: {one}\n" for one in sorted(mine - kernels))
                    )
    return sent, "\n".join(differences)


@pytest.mark.parametrize("case", archives.names(STARTS))
def test_outcomes(starts: Path, bench: Workbench, case: str) -> None:
    sent, difference = compare(starts / case, bench, (Family.IPV4, Family.IPV6))
    assert not difference, f"{difference}\n{sent} packets were sent"
    assert sent or case in NOTHING_TO_SEND


@pytest.mark.parametrize("case", archives.names(STARTS))
def test_outcomes_in_ipv6(starts: Path, tmp_path: Path, bench: Workbench, case: str) -> None:
    """Recordings with IPv4 Services only, with each address turned into one of IPv6."""
    if case in BOTH_FAMILIES:
        return
    sent, difference = compare(mirror(starts / case, tmp_path / case), bench, (Family.IPV6,))
    assert not difference, f"{difference}\n{sent} packets were sent"
    assert sent or case in NOTHING_TO_SEND


#: Cases without a Service that kube-proxy serves.
NOTHING_TO_SEND = {"empty-cluster"}
#: Cases that have IPv6 Services as they are.
BOTH_FAMILIES = {"dual-stack-load-balancer", "dual-stack-only-ipv4-endpoints", "ipv6-single-stack"}


def test_cases_with_ipv6_are_those_that_are_named(starts: Path) -> None:
    six = {case for case in archives.names(STARTS) if "- IPv6" in (starts / case / "objects.yaml").read_text()}
    assert six == BOTH_FAMILIES


def test_addresses_are_turned_into_ipv6_and_stay_in_their_networks() -> None:
    text = "a: 10.244.1.11, 10.244.1.0/24 0.0.0.0/0 127.0.0.0/8 198.51.100.128/25 addressType: IPv4 1.30.5"
    assert mirrored(text) == (
        "a: fd00:10:244:1::b, fd00:10:244:1::/64 ::/0 fd00:127:0:0::/32 fd00:198:51:100::80/121 "
        "addressType: IPv6 1.30.5"
    )
    with pytest.raises(ValueError, match="within an octet"):
        mirrored("10.0.0.0/12")


def test_a_rule_that_differs_is_told(starts: Path, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: with one rule less on the kernel the outcome differs, and is told."""
    original = chosen_by_packet

    def spoiled(text: str, family: Family) -> str:
        lines = original(text, family).splitlines(keepends=True)
        return "".join(line for line in lines if "--u32" not in line)

    monkeypatch.setattr(f"{__name__}.chosen_by_packet", spoiled)
    _, difference = compare(starts / "cluster-ip-two-endpoints", bench, (Family.IPV4,))
    assert "(cluster-ip-two-endpoints, default/" in difference
    assert "pktsim only: " in difference


def test_what_was_drawn_is_never_what_was_sent() -> None:
    assert 512 <= SPORT <= SPORT + 1 < 600
