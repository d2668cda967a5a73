"""Random cases on pktsim and on the running kernel, as many as wanted, and all that differ.

    python -m tests.live.long_run --examples 20000 --seed 1
    python -m tests.live.long_run --kind tcp_conversation --examples 20000 --seed 1

Needs root. Differing cases are kept as files that ``pktsim node`` and :mod:`tests.live.kernel_case` read; the exit
status is 1 if there is any. A run that is repeated with the same seed has the same cases.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from pktsim.kernel.case import CaseRun
from tests.live import netns
from tests.live.case_strategies import tell
from tests.live.conversations import TELLERS
from tests.live.differential import NondeterministicError, difference
from tests.live.kernel_case import Workbench

REPORT_EVERY_S = 30


def _told(kind: str, chance: random.Random) -> tuple[dict[str, Any], CaseRun]:
    """A case of that kind, and our run of it."""
    if kind in ("rules", "nft"):
        story = tell(*(decide_nft(chance) if kind == "nft" else decide(chance)))
        return story.case, story.run
    settings, steps = chance.randbytes(16), [chance.randbytes(24) for _ in range(chance.randint(1, 20))]
    conversation = TELLERS[kind](settings, steps)
    return conversation.case, conversation.run


def decide(chance: random.Random) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]:
    """What decides a case, as :data:`tests.live.case_strategies.decisions` draws it."""
    rules = tuple(chance.randbytes(24) for _ in range(chance.choice((0, 3, 8, 15, 25, 40))))
    steps = tuple(chance.randbytes(16) for _ in range(chance.randint(1, 16)))
    return chance.randbytes(12), rules, steps


def decide_nft(
    chance: random.Random,
) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    """The same with nft rules, in half of the cases without any of iptables."""
    settings, rules, steps = decide(chance)
    nft = tuple(chance.randbytes(24) for _ in range(chance.choice((3, 8, 15, 30, 40))))
    return settings, rules if chance.random() < 0.5 else (), steps, nft


def main() -> int:
    """Run and report; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("rules", *TELLERS), default="rules")
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("differences"), help="where differing cases go")
    parser.add_argument("--nft", action="store_true", help="cases with nft rules, alone and beside iptables")
    parser.add_argument("--stop-after", type=int, default=20, help="differences")
    options = parser.parse_args()
    if reason := netns.why_not():
        print(reason, file=sys.stderr)
        return 2
    differing, undecided, steps, began = 0, 0, 0, time.monotonic()
    reported = began
    with Workbench(keep=8) as bench:
        for number in range(options.examples):
            chance = random.Random(f"{options.seed}/{number}")
            case, run = _told("nft" if options.nft else options.kind, chance)
            steps += len(case["steps"])
            try:
                found = difference(case, run, bench)
            except NondeterministicError:
                undecided += 1
                continue
            if found:
                differing += 1
                options.keep.mkdir(parents=True, exist_ok=True)
                path = options.keep / f"{options.kind}-{options.seed}-{number}.json"
                path.write_text(json.dumps(case | {"difference": found}, indent=1))
                print(f"{path}: {found}", flush=True)
                if differing >= options.stop_after:
                    break
            if time.monotonic() - reported > REPORT_EVERY_S:
                reported = time.monotonic()
                print(f"{number + 1} examples, {differing} differ", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{number + 1} examples ({steps} steps) in {seconds:.0f} s: {differing} differ, "
        f"{undecided} were decided by the kernel's chance"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
