"""The code blocks of the README, for its test and for ``.ci/run``.

python tests/readme.py 1        prints the first shell block
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, what is in it, and the line of its fence."""

    language: str
    text: str
    line: int


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks, in order.

    Raises:
        ValueError: A fence is not closed.
    """
    found: list[Block] = []
    language: str | None = None
    start = 0
    kept: list[str] = []
    for number, line in enumerate(markdown.splitlines(), 1):
        if not line.startswith("```"):
            kept.append(line)
        elif language is None:
            language, start, kept = line.removeprefix("```").strip(), number, []
        else:
            found.append(Block(language, "\n".join(kept), start))
            language = None
    if language is not None:
        raise ValueError(f"the block that begins at line {start} does not end")
    return found


if __name__ == "__main__":
    shell = [block.text for block in blocks(README.read_text()) if block.language == "sh"]
    print(shell[int(sys.argv[1]) - 1])
