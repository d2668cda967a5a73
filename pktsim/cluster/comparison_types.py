"""What comparisons of two runs are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame where and when it was seen. ``direction`` is ``in`` or ``out``, from the interface's point of view."""

    at_s: float
    space: str
    interface: str
    direction: str
    frame: bytes

    @property
    def where(self) -> str:
        return f"{self.space}/{self.interface}"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which two runs differ.

    Attributes:
        where: An interface, ``conntrack of node-a``, ``counters of node-a``, ``run 1``.
        what: The field, or what is missing.
        recorded: The real one, in one line; empty if there is none.
        ours: Likewise.
    """

    where: str
    what: str
    recorded: str = ""
    ours: str = ""

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}"]
        lines += [f"  recorded: {self.recorded}"] if self.recorded else []
        lines += [f"  pktsim:   {self.ours}"] if self.ours else []
        return "\n".join(lines)
