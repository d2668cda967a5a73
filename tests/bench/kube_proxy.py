"""How long kube-proxy takes for 10,000 Services of 5 endpoints: here, and the real tool on the running kernel.

    python -m tests.bench.kube_proxy                 # the kernel's part needs root, iptables-restore and unshare
    python -m tests.bench.kube_proxy --no-kernel

From objects to what the engine runs: the first sync, then one changed endpoint at a time. Beside it, what
``iptables-restore`` takes in a namespace of its own for the same input: all rules, then with ``--noflush`` the chains
that a sync after one change writes. Figures are CPU time of the process; the tool's includes the kernel's share.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

from pktsim.cluster.kubeproxy.proxier import SyncReport
from pktsim.cluster.objects import KubeObject
from pktsim.netfilter.iptables_text import print_save, rule_text
from pktsim.netfilter.ruleset import Family, Ruleset
from tests.bench.test_kube_proxy_bench import ENDPOINTS, Node, changed_slice, endpoint_slice, service

CHANGES = 40
#: What one changed endpoint, all rules, and memory may take.
LIMIT_CHANGE_S, LIMIT_ALL_S, LIMIT_MB = 0.1, 10, 2000


def cpu_s(work: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def restore_input(ruleset: Ruleset, report: SyncReport) -> str:
    """What kube-proxy gives to ``iptables-restore --noflush`` in one sync."""
    lines = []
    for table, names in report.written.items():
        found = ruleset.table(table)
        assert found is not None
        lines.append(f"*{table}")
        lines += [f":{name} - [0:0]" for name in sorted(names | report.deleted.get(table, frozenset()))]
        for chain in found.chains:
            if chain.name in names:
                lines += [rule_text(rule, chain.name) for rule in chain.rules]
        lines += [f"-X {name}" for name in sorted(report.deleted.get(table, ()))]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def on_kernel(everything: str, changes: Sequence[str]) -> tuple[float, list[float]]:
    """CPU seconds of the tool for all rules and for each change, in a network namespace of their own.

    Raises:
        OSError, subprocess.CalledProcessError: There is no such tool, or it may not be used.
    """
    script = (
        "import resource, subprocess, sys\n"
        "for text in sys.stdin.read().split('\\0'):\n"
        "    before = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    subprocess.run(['iptables-restore', '--noflush'], input=text, text=True, check=True)\n"
        "    after = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)\n"
    )
    done = subprocess.run(
        ["unshare", "--net", "python3", "-c", script],
        input="\0".join((everything, *changes)),
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    first, *rest = map(float, done.stdout.split())
    return first, rest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--no-kernel", action="store_true", help="only what is emulated")
    options = parser.parse_args()
    objects: list[KubeObject] = [
        make(number) for number in range(options.services) for make in (service, endpoint_slice)
    ]
    nodes: list[Node] = []
    all_s = cpu_s(lambda: nodes.append(Node(objects)))
    (node,) = nodes
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reports: list[SyncReport] = []
    node.proxy.observe(reports.append)
    text = print_save(node.host.ruleset(Family.IPV4))
    seconds, inputs = [], []
    for change in range(CHANGES):
        found = changed_slice(change * 677 % options.services, change)
        seconds.append(cpu_s(lambda: node.apply(found)))  # noqa: B023 - called at once
        if change < 3:
            inputs.append(restore_input(node.host.ruleset(Family.IPV4), reports[-1]))
    one_s = statistics.median(seconds)
    print(f"{options.services:,} Services of {ENDPOINTS} endpoints, {text.count('-A '):,} rules")
    print(f"  from objects to the engine: {all_s:.1f} s, at most {memory_mb:.0f} MB of memory")
    print(f"  one endpoint changed, {CHANGES} times: median {1000 * one_s:.0f} ms, worst {1000 * max(seconds):.0f} ms")
    if not options.no_kernel and os.geteuid() == 0:
        kernel_all_s, kernel_s = on_kernel(text, inputs)
        kernel_one_s = statistics.median(kernel_s)
        print(f"  iptables-restore: all {kernel_all_s:.1f} s, one change {1000 * kernel_one_s:.0f} ms")
        print(f"  ratios: all {all_s / kernel_all_s:.2f}, one change {one_s / kernel_one_s:.2f}")
    held = one_s < LIMIT_CHANGE_S and all_s < LIMIT_ALL_S and memory_mb < LIMIT_MB
    print("within" if held else "beyond", f"{1000 * LIMIT_CHANGE_S:.0f} ms, {LIMIT_ALL_S} s and {LIMIT_MB} MB")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
