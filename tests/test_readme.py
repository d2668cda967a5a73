"""Every code block of the README runs, in order and in one directory, as a reader would run them.

Two things are left to ``.ci/run``, which runs the README's first two blocks for real in new virtual environments:
installing, and running all the tests (which this is one of). Here ``pip install`` must only name something that can be
installed, and ``python -m pytest`` must only find the tests. A ``text`` block shows output: its lines are in that of
the block before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme import README, Block, blocks

ROOT = README.parent
BLOCKS = blocks(README.read_text())

#: Shell functions in the place of programs.
SHADOWS = f"""
set -euo pipefail
pip() {{
    case "$*" in
        "install ." | "install -e .[test]") test -f {ROOT}/pyproject.toml ;;
        *) echo "pip $*: not a form of installing that .ci/run tries" >&2; return 1 ;;
    esac
}}
python() {{
    if [ "$*" = "-m pytest" ]; then
        (cd {ROOT} && {sys.executable} -m pytest --collect-only -q tests/test_readme.py)
    else
        {sys.executable} "$@"
    fi
}}
pktsim() {{ {sys.executable} -m pktsim "$@"; }}
"""


def run(block: Block, where: Path) -> str:
    """Run a block; its output."""
    command = ["bash", "-c", SHADOWS + block.text] if block.language == "sh" else [sys.executable, "-c", block.text]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"README.md:{block.line}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    output = ""
    for block in BLOCKS:
        if block.language == "text":
            rest = iter(output.splitlines())
            for line in block.text.splitlines():
                assert line == "…" or line in rest, f"README.md:{block.line}: {line!r} is not in the output:\n{output}"
        else:
            assert block.language in ("sh", "python"), f"README.md:{block.line}: cannot run {block.language!r}"
            output = run(block, tmp_path)


def test_the_first_command_installs_and_the_second_tests() -> None:
    first, second = [block.text for block in BLOCKS if block.language == "sh"][:2]
    assert first.startswith("pip install . && pktsim demo ")
    assert second == "pip install -e '.[test]' && python -m pytest"


def test_links_lead_somewhere() -> None:
    for part in README.read_text().split("](")[1:]:
        target = part.split(")")[0]
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_a_block_that_does_not_end_is_refused() -> None:
    assert blocks("a\n```sh\nls\n```\n") == [Block("sh", "ls", 2)]
    with pytest.raises(ValueError, match="begins at line 1"):
        blocks("```sh\nls\n")
