"""Whether the running kernel does to each packet what pktsim does, with the rules that kube-proxy writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pktsim.netfilter.ruleset import Family
from tests.live.kernel_case import KernelRun, Workbench
from tests.live.kernel_state import entered
from tests.live.outcomes import Outcome, Side, outcome
from tests.live.service_probes import Probe, World, chosen_by_packet

#: A packet during which the kernel reports its multicast groups (MLD), which moves counters, is sent again.
UNDISTURBED_TRIES = 5


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
    sent, differences = 0, []
    for side in Side.of(directory, families):
        world = side.world
        with bench.run(world.case(chosen_by_packet(side.text, world.family), side.sysctls)) as kernel_run:
            for probe in side.probes:
                ours = side.emulated(probe)
                choices = [choice for choice, _ in ours]
                more = [len(ours)] if side.limit is None else []
                theirs = on_kernel(probe, world, kernel_run, [*choices, *more])
                sent += len(theirs)
                mine, kernels = {one for _, one in ours}, set(theirs)
                if mine != kernels:
                    differences.append(
                        f"({side.name}, {probe})\n"
                        + "".join(f"  kernel only: {one}\n" for one in sorted(kernels - mine))
                        + "".join(f"  pktsim only: {one}\n" for one in sorted(mine - kernels))
                    )
    return sent, "\n".join(differences)
