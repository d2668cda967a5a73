"""Other programs that tests ask: run them, or skip the test where they are missing.

With ``CI=true`` nothing is skipped for want of a program or of a right: there it is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NoReturn

import pytest

#: Whether a missing program or right fails the test.
STRICT = os.environ.get("CI", "") == "true"


def missing(what: str) -> NoReturn:
    """Skip the running test, or fail it under CI, because ``what`` is not there."""
    if STRICT:
        pytest.fail(f"{what}, and CI=true does not allow a skip")
    pytest.skip(what)


def need(*programs: str) -> None:
    """Go on only if all ``programs`` are installed."""
    for program in programs:
        if shutil.which(program) is None:
            missing(f"{program} is not installed")


def run(*command: str, stdin: str | None = None, timeout_s: float = 60) -> str:
    """Run a program and return what it printed.

    Raises:
        AssertionError: Its exit status is not 0.
    """
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}"
    return done.stdout
