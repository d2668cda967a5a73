"""``-j CHECKSUM``: compute the checksum that was left to the device (net/netfilter/xt_CHECKSUM.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import Extension, Given, Option
from pktsim.netfilter.ruleset import Target


@dataclass(frozen=True, slots=True)
class ChecksumTarget(Target):
    """``--checksum-fill``, the only operation."""

    extension: ClassVar[str] = "CHECKSUM"
    tables: ClassVar[frozenset[str]] = frozenset({"mangle"})

    def options_text(self) -> str:
        return " --checksum-fill"


def _build(given: Given) -> ChecksumTarget:
    return ChecksumTarget()


EXTENSIONS = (Extension("CHECKSUM", _build, (Option("checksum-fill", mandatory=True),)),)
