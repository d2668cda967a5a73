"""What happened to packets on their way through nodes, told so that people can follow it.

A :class:`Passage` is one packet through one node; its steps are the engine's trace. A walk tells the first packet of
each connection on each node in full, rule by rule, and of those that follow only what was done to them: that is how
the kernel treats them too, since only the first one meets the nat table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pktsim.clock import NS_PER_MS
from pktsim.netfilter.opcodes import TraceKind
from pktsim.netfilter.trace import TraceStep, comment, render


@dataclass(frozen=True, slots=True)
class Passage:
    """One packet through one node.

    Attributes:
        at_ns: When it came in, or was sent.
        space: The node.
        summary: The packet as it came, in one line.
        steps: What happened to it, in order.
    """

    at_ns: int
    space: str
    summary: str
    steps: tuple[TraceStep, ...]

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that matched, as ``-A CHAIN …``."""
        return tuple(step.text for step in self.steps if step.kind is TraceKind.RULE and step.matched)

    @property
    def rules_evaluated(self) -> int:
        """How many rules the kernel looked at, matching or not."""
        return sum(step.evaluated for step in self.steps)

    @property
    def opens(self) -> bool:
        """Whether it is the first packet of a connection."""
        return any(step.kind is TraceKind.CONNTRACK and ", new connection" in step.text for step in self.steps)

    @property
    def dropped(self) -> str:
        """Why it was dropped; empty if it was not."""
        return next((step.text for step in self.steps if step.kind is TraceKind.DROP), "")

    @property
    def refused(self) -> bool:
        """Whether it was dropped or rejected: an ICMP redirect alone refuses nothing, the packet goes on."""
        return bool(self.dropped) or any(step.refused for step in self.steps)

    @property
    def changes(self) -> str:
        """What the node did to it, in a few words."""
        return comment(self.steps, where=self.space)


@dataclass(frozen=True, slots=True)
class Note:
    """What a program says that it has made of a packet: a proxy, whose way on is a connection of its own.

    Attributes:
        at_ns: When.
        space: Where it runs.
        summary: What it was asked, in one line.
        lines: What it did about it.
    """

    at_ns: int
    space: str
    summary: str
    lines: tuple[str, ...]


@dataclass(slots=True)
class Walk:
    """Passages in order of time.

    Attributes:
        notes: What programs on the way say.
        title: What was asked for.
        outcome: What came of it.
        delivered: Whether the answer came.
    """

    title: str = ""
    outcome: str = ""
    delivered: bool = True
    passages: list[Passage] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def lines(self, *, every_packet: bool = False, unmatched: bool = False) -> Iterator[str]:
        """The walk as text.

        Args:
            every_packet: Tell also packets of connections that were told already, in full.
            unmatched: Name also rules that were looked at and did not match.
        """
        if self.title:
            yield self.title
        together: list[Passage | Note] = [*self.passages, *self.notes]
        for one in sorted(together, key=lambda one: one.at_ns):
            head = f"{one.at_ns / NS_PER_MS:.3f} ms  {one.space}: {one.summary}"
            if isinstance(one, Note):
                yield from ("", head, *(f"    {line}" for line in one.lines))
            elif every_packet or one.opens or one.refused:
                yield from ("", head, *(f"    {line}" for line in render(one.steps, unmatched=unmatched)))
                if one.rules_evaluated:
                    yield f"    rules evaluated: {one.rules_evaluated}"
            else:
                what = one.changes.removeprefix(f"{one.space}: ")
                yield f"{head}{'  [' + what + ']' if what else ''}"
        if self.outcome:
            yield ""
            yield self.outcome

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def as_data(self) -> dict[str, Any]:
        """The walk for machines."""
        return {
            "title": self.title,
            "outcome": self.outcome,
            "delivered": self.delivered,
            "passages": [_passage_data(passage) for passage in self.passages],
            **({"notes": [_note_data(note) for note in self.notes]} if self.notes else {}),
        }


def _note_data(note: Note) -> dict[str, Any]:
    return {"at_ns": note.at_ns, "place": note.space, "request": note.summary, "said": list(note.lines)}


def _passage_data(passage: Passage) -> dict[str, Any]:
    return {
        "at_ns": passage.at_ns,
        "node": passage.space,
        "packet": passage.summary,
        "dropped": passage.dropped,
        "rules_evaluated": passage.rules_evaluated,
        "steps": [_step_data(step) for step in passage.steps if step.kind is not TraceKind.RULE or step.matched],
    }


def _step_data(step: TraceStep) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": step.kind.name.lower(), "text": step.text}
    if step.rule is not None:
        data |= {"table": step.table, "chain": step.rule.chain, "rule": step.rule.number}
    if step.changed:
        data["changed"] = step.changed
    return data
