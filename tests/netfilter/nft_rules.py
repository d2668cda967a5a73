"""What nft 1.0.6 makes of rules: ``nft_rules.txt`` beside this."""

from __future__ import annotations

from pathlib import Path
from typing import Final


def _rules() -> tuple[tuple[str, str, str, str, str], ...]:
    found: list[tuple[str, str, str, str, str]] = []
    for line in Path(__file__).with_name("nft_rules.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            where, rule, *listed = line.split("\t")
            family, kind, hook = where.split()
            found.append((family, kind, hook, rule, listed[0] if listed else ""))
    return tuple(found)


#: Family, chain type, hook, what was written; what was listed, empty if the same.
RULES: Final = _rules()
