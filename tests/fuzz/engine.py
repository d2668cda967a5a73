"""Feed the engine nonsense for as long as you like, reproducibly.

    python -m tests.fuzz.engine --seconds 600 --seed 1

Each round is a new namespace (its rules and settings drawn) and some hundred frames: flows, replies, errors about them,
fragments, tunnels, broken headers, random bytes; programs on the node send too, and somebody changes everything now
and then. What must hold is in ``world.py``. When something does not, it prints the seed of the round; ``--seed N
--rounds 1`` runs that round again.

Under AddressSanitizer, which finds reads and writes that only sometimes crash:

    CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g -O1" LDFLAGS="-fsanitize=address" \\
        pip install --no-deps --target build/asan .
    PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$(gcc -print-file-name=libasan.so)" \\
        PYTHONPATH=build/asan:. python -P -m tests.fuzz.engine --seconds 600

``-P`` and the order of ``PYTHONPATH`` make Python take the package that was built so, and not the one in this tree; it
prints which engine it uses. With ``--rounds 30`` and ``ASAN_OPTIONS=detect_leaks=1:fast_unwind_on_malloc=0`` instead it
tells at the end what was allocated and is lost; pydantic loses some bytes when it is imported, ``_fastpath`` nothing.
With valgrind, which is far slower and also finds reads of uninitialised bytes, those of the interpreter among them
(``int.from_bytes``), the engine's are those that this counts:

    PYTHONMALLOC=malloc valgrind python -m tests.fuzz.engine --frames 2000 2>&1 | grep -c ' at .*__pyx'
"""

from __future__ import annotations

import argparse
import random
import sys
import time

import pktsim._fastpath
from tests.fuzz.world import Run

FRAMES_PER_ROUND = 600


def round_(seed: int, frames: int) -> Run:
    """One namespace's life."""
    rng = random.Random(seed)
    run = Run(rng, valid=seed % 3 == 0)
    while run.frames < frames:
        run.step()
    run.finish()
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long (0: no limit)")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many frames (0: no limit)")
    parser.add_argument("--rounds", type=int, default=0, help="stop after so many rounds (0: no limit)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next one has the next number")
    arguments = parser.parse_args()
    if not (arguments.seconds or arguments.frames or arguments.rounds):
        arguments.seconds = 60
    print(f"engine: {pktsim._fastpath.__file__}", flush=True)
    begun = time.monotonic()
    frames = sent = rounds = 0
    while True:
        seed = arguments.seed + rounds
        try:
            run = round_(seed, min(FRAMES_PER_ROUND, arguments.frames or FRAMES_PER_ROUND))
        except BaseException:
            print(f"failed: --seed {seed} --rounds 1", file=sys.stderr, flush=True)
            raise
        rounds += 1
        frames += run.frames
        sent += run.sent
        seconds = time.monotonic() - begun
        done = (
            (arguments.seconds and seconds >= arguments.seconds)
            or (arguments.frames and frames >= arguments.frames)
            or (arguments.rounds and rounds >= arguments.rounds)
        )
        if done or rounds % 100 == 0:
            print(f"{rounds} rounds, {frames} frames in, {sent} out, {seconds:.0f} s", flush=True)
        if done:
            return 0


if __name__ == "__main__":
    sys.exit(main())
