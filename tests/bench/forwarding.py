"""How fast frames are forwarded by a node with kube-proxy's rules: here, and by the running kernel with the same rules.

    python -m tests.bench.forwarding                 # what is asked for below; the kernel's part needs root
    python -m tests.bench.forwarding --no-kernel --services 10 1000

100,000 frames of 1,000 established flows through rules for 1,000 Services go through the emulated node as raw bytes in
one call (``Datapath.receive_batch``, without the GIL), and through a namespace of the running kernel that has the same
rules and the same connections. What is compared is CPU time per frame; how the kernel's is found is told in
:mod:`tests.bench.forwarding_kernel`. Then new connections: a SYN each, for several numbers of Services.

Rounds of both sides alternate, and medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench import forwarding_kernel as kernel
from tests.bench import forwarding_world as world

#: What the CPU time per frame may be at most, in parts of the kernel's.
LIMIT = 0.5


@dataclass(slots=True)
class Comparison:
    """Figures of one workload, in nanoseconds of CPU time per frame."""

    rules: int
    frames: int
    emulated: list[float] = field(default_factory=list)
    kernel: kernel.Measurement | None = None

    @property
    def emulated_ns(self) -> float:
        return statistics.median(self.emulated)

    @property
    def ratio(self) -> float | None:
        """Ours in parts of the kernel's, which is taken at its best case: without any of what brings frames to it."""
        return self.emulated_ns / self.kernel.node_ns if self.kernel is not None else None

    def report(self, title: str) -> str:
        lines = [f"{title}: {self.frames:,} frames, {self.rules:,} rules"]
        lines.append("  emulated: ns/frame of each round " + " ".join(f"{one:.0f}" for one in self.emulated))
        ours = f"  emulated {self.emulated_ns:.0f} ns/frame ({1e9 / self.emulated_ns:,.0f}/s)"
        if self.kernel is None:
            return "\n".join([*lines, ours])
        lines += self.kernel.lines()
        lines.append(
            f"  kernel: forwarded - dropped {self.kernel.with_crossing_ns:.0f} ns/frame, of that a veth crossing "
            f"{self.kernel.crossing_ns:.0f}, the node alone {self.kernel.node_ns:.0f} "
            f"({1e9 / self.kernel.node_ns:,.0f}/s)"
        )
        lines.append(f"{ours}: {self.ratio:.2f} of the kernel's")
        return "\n".join(lines)


class Run:
    """One call on all frames, as often as wanted."""

    def __init__(self, node: world.EmulatedNode, frames: Sequence[bytes]) -> None:
        self.node = node
        self.count = len(frames)
        self.data, self.ends = world.joined(frames)

    def __call__(self) -> int:
        """Returns how many frames came out."""
        node = self.node
        records, _, upcalls = node.netns.datapath.receive_batch(
            node.ifindex["pods"], self.data, self.ends, node.clock.now_ns
        )
        assert not upcalls
        return len(records) // 16

    def timed(self) -> float:
        """CPU time in nanoseconds per frame."""
        before = time.process_time_ns()
        came_out = self()
        took = time.process_time_ns() - before
        assert came_out == self.count, f"{came_out} of {self.count} frames came out of the emulated node"
        return took / self.count


def established(*, services: int, flows: int, frames: int, rounds: int, with_kernel: bool = True) -> Comparison:
    """Data of established flows."""
    rules = world.rules(services)
    connections = world.flows(flows, services)
    data = world.data_frames(connections, frames)
    compared = Comparison(rules.count, frames)
    node = world.EmulatedNode(rules)
    node.establish(connections)
    run = Run(node, data)
    if not with_kernel:
        compared.emulated += [run.timed() for _ in range(rounds)]
        return compared
    compared.kernel = kernel.Measurement()
    with kernel.KernelNode(rules) as real:
        real.establish(connections)
        for _ in range(rounds):
            compared.emulated.append(run.timed())
            real.measure(data, compared.kernel)
    return compared


def new_flows(*, services: int, flows: int, rounds: int, with_kernel: bool = True) -> Comparison:
    """A SYN of a new connection each; every round has connections of its own."""
    rules = world.rules(services)
    syns = [[flow.syn() for flow in world.flows(flows, services, first=number * flows)] for number in range(rounds)]
    compared = Comparison(rules.count, flows)
    node = world.EmulatedNode(rules)
    if not with_kernel:
        compared.emulated += [Run(node, frames).timed() for frames in syns]
        return compared
    compared.kernel = kernel.Measurement()
    with kernel.KernelNode(rules) as real:
        for frames in syns:
            compared.emulated.append(Run(node, frames).timed())
            real.measure(frames, compared.kernel)
    return compared


def main() -> int:
    """Print all figures. Exit status 1 if the established flows take more than the limit."""
    parser = argparse.ArgumentParser(description="Forwarding with kube-proxy's rules: CPU time per frame.")
    parser.add_argument("--frames", type=int, default=100_000, help="of established flows (default 100,000)")
    parser.add_argument("--flows", type=int, default=1_000, help="established (default 1,000)")
    parser.add_argument("--new-flows", type=int, default=10_000, help="in each round (default 10,000)")
    parser.add_argument(
        "--services", type=int, nargs="+", default=[10, 1_000, 10_000], help="for new flows (default 10 1000 10000)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of each side, in turn (default 7)")
    parser.add_argument("--no-kernel", action="store_true", help="only the emulated node")
    options = parser.parse_args()
    if options.rounds * options.new_flows > world.WARM_UP:
        parser.error(f"--rounds times --new-flows may be {world.WARM_UP:,} at most: there are no more ports")
    with_kernel = not options.no_kernel
    if with_kernel:
        if reason := kernel.why_not():
            parser.error(f"{reason} (or use --no-kernel)")
        kernel.remove_stale()
    compared = established(
        services=1_000, flows=options.flows, frames=options.frames, rounds=options.rounds, with_kernel=with_kernel
    )
    print(compared.report(f"Established flows ({options.flows:,}), 1,000 services"), flush=True)
    for services in options.services:
        found = new_flows(services=services, flows=options.new_flows, rounds=options.rounds, with_kernel=with_kernel)
        print(found.report(f"New flows, {services:,} services"), flush=True)
    if compared.ratio is None:
        return 0
    print(f"Established flows: {compared.ratio:.2f} of the kernel's CPU time per frame, at most {LIMIT} wanted")
    return int(compared.ratio > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
