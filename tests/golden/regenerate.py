"""Writes the golden captures anew: ``python -m tests.golden.regenerate [NAME…]``.

A changed golden has to be explained in its commit: which bytes, and why.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pktsim.scenario.library import names, shipped
from pktsim.scenario.loader import load_scenario
from pktsim.scenario.runner import Result, run_scenario

GOLDEN = Path(__file__).parents[2] / "pcaps"


def run(name: str) -> Result:
    """Run a shipped scenario with its own seed."""
    return run_scenario(load_scenario(shipped(name)))


def write(name: str, directory: Path) -> Path:
    """Run a scenario and write its capture."""
    result = run(name)
    path = directory / f"{name}.pcapng"
    result.cluster.capture.write(path, comment=result.about)
    return path


def main() -> None:
    for name in sys.argv[1:] or names():
        print(write(name, GOLDEN))


if __name__ == "__main__":
    main()
