"""One case on pktsim and on the running kernel, compared step by step."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pktsim.kernel.case import CaseRun
from pktsim.kernel.case_recording import compare_result, mask_fields
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire.fields import dissect
from tests.live.kernel_case import NondeterministicError, Workbench


def _own_identifications(case: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Say which frames have an identification that the kernel drew: one that no packet of the case has.

    This is what nearly all randomness is, so that most cases need only one run. Where it is wrong, the case looks
    different, and is run again to find out.
    """
    given = {0}
    for step in case["steps"]:
        for verb, key, offset in (("receive", "frame", 18), ("send_local", "packet", 4)):
            if verb in step:
                given.add(int(step[verb][key][2 * offset : 2 * offset + 4], 16))
    marked = copy.deepcopy(result)
    for step in marked["steps"]:
        for emitted in step["emitted"]:
            frame = bytes.fromhex(emitted["frame"])
            dissection = dissect(frame)
            names = [
                "inner.ip.id" if part.path == "icmp" else "ip.id"
                for part in dissection.named("ip.id")
                if dissection.value(part) not in given
            ]
            if names:
                emitted |= {"random": names, "frame": mask_fields(frame, names).hex()}
    return marked


#: The longest time-out of an entry that has not been confirmed (generic: 600 s), and the 300 s before jiffies are 0.
_YOUNG_S: Final = 1000


def _uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def difference(case: Mapping[str, Any], ours: CaseRun, bench: Workbench) -> str:
    """The first difference between our run of a case and the kernel's; nothing if there is none.

    Raises:
        NondeterministicError: What the kernel draws decides more than single fields, so there is nothing to compare.
    """
    if "--ctexpire" in (case.get("iptables") or case.get("ip6tables") or "") and _uptime_s() < _YOUNG_S:
        raise NondeterministicError("a time-out that is not an entry's yet is compared with the machine's uptime")
    if DropReason.LOOP in ours.node.datapath.drop_counts():
        raise NondeterministicError("a packet goes round without end")
    first = bench.result(case)
    found = compare_result(case, _own_identifications(case, first), ours)
    # What is drawn from few alternatives may well come out the same a few times.
    for runs in (3, 12):
        if found:
            found = compare_result(case, bench.record(case, runs=runs), ours)
    return found


def outcome_of(case: Mapping[str, Any], possible: Sequence[CaseRun], bench: Workbench) -> int:
    """Which of our possible runs the kernel's, drawn by chance, agrees with.

    Raises:
        AssertionError: None of them.
    """
    result = _own_identifications(case, bench.result(case))
    found = [compare_result(case, result, run) for run in possible]
    assert "" in found, f"the kernel does what none of ours does: {found}"
    return found.index("")


__all__ = ["NondeterministicError", "difference", "outcome_of"]
