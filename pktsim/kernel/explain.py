"""Why: what each namespace did to each packet, kept beside the capture.

While an :class:`Explainer` is attached, engines trace; the records are read into words only when somebody asks. A
frame's comment in a capture file is what its namespace did to that packet and by which rule.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pktsim.netfilter.opcodes import DropReason, TraceKind
from pktsim.netfilter.trace import DROP_TEXT, TraceReader, TraceStep, comment, render

if TYPE_CHECKING:
    from pktsim.kernel.capture import CapturedFrame
    from pktsim.kernel.netns import Netns


@dataclass(frozen=True, slots=True)
class Visit:
    """What one namespace did to one packet in one go (until it left, waited, or ended there)."""

    at_ns: int
    space: str
    pkt_id: int
    steps: tuple[TraceStep, ...]

    @property
    def rules_evaluated(self) -> int:
        """How many rules the kernel looks at for it, matching or not."""
        return sum(step.evaluated for step in self.steps)

    def lines(self, *, unmatched: bool = False) -> list[str]:
        """The steps as indented lines; ``unmatched`` also names the rules that did not match."""
        return render(self.steps, unmatched=unmatched)


#: How the engine says that it leaves an answer to a handler, which may say otherwise.
_ANSWERED = "answered with ICMP"
_RECORD_BYTES = 24


@dataclass(slots=True)
class _Raw:
    """What the engine recorded in one call, and what handlers of its upcalls have to say besides."""

    at_ns: int
    netns: Netns
    records: bytes
    aux: bytes
    notes: list[TraceStep] = field(default_factory=list)

    def speaks_of(self, pkt_id: int) -> bool:
        """Whether the packet is in the records."""
        number = pkt_id.to_bytes(4, sys.byteorder)
        return any(self.records.startswith(number, at) for at in range(0, len(self.records), _RECORD_BYTES))


@dataclass(slots=True, repr=False)
class Explainer:
    """Collects traces of the namespaces it is attached to."""

    _visits: list[Visit] = field(default_factory=list)
    _pending: list[_Raw] = field(default_factory=list)
    _attached: dict[str, Netns] = field(default_factory=dict)
    _readers: dict[str, TraceReader] = field(default_factory=dict)
    _by_packet: dict[tuple[str, int], list[Visit]] = field(default_factory=dict)
    _last_frames: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def visits(self) -> list[Visit]:
        """What happened so far, in order."""
        self.flush()
        return self._visits

    def attach(self, netns: Netns) -> None:
        """Trace a namespace from now on."""
        netns.explainer = self
        netns.datapath.trace_set(True)
        self._attached[netns.name] = netns
        reader = self._readers.setdefault(netns.name, TraceReader(_interface_name(netns), netns.lowered))
        reader.lowered = netns.lowered
        reader.nft = netns.nft_lowered
        reader.forget_tables()

    def detach(self, netns: Netns) -> None:
        """Stop tracing a namespace; what was collected stays."""
        self.flush()
        self._attached.pop(netns.name, None)
        netns.explainer = None
        netns.datapath.trace_set(False)

    def collect(self, netns: Netns) -> None:
        """Take what the engine recorded in the call that just returned."""
        records, aux = netns.datapath.take_trace()
        if records:
            self._pending.append(_Raw(netns.clock.now_ns, netns, records, aux))

    def unanswered(self, netns: Netns, pkt_id: int, answer: str, why: str, *, common: bool = False) -> None:
        """What a packet would have been answered with is not sent; nothing for a comment if that is ``common``."""
        text = f"not answered with {answer}: {why}"
        self._note(netns, TraceStep(pkt_id, TraceKind.UPCALL, text, changed="" if common else text))

    def remark(self, netns: Netns, pkt_id: int, text: str) -> None:
        """Something else that a reader wants to know of a packet, and that did nothing to it."""
        self._note(netns, TraceStep(pkt_id, TraceKind.UPCALL, text))

    def dropped(self, netns: Netns, pkt_id: int, reason: DropReason, detail: str = "") -> None:
        """A packet was dropped behind the engine."""
        text = f"dropped: {DROP_TEXT[reason]}" + (f" ({detail})" if detail else "")
        self._note(netns, TraceStep(pkt_id, TraceKind.DROP, text, changed=text))

    def _note(self, netns: Netns, step: TraceStep) -> None:
        """Beside what the engine has said of the packet last, if that has not been read yet."""
        for raw in reversed(self._pending):
            if raw.netns is netns and raw.speaks_of(step.pkt_id):
                raw.notes.append(step)
                return
        self._pending.append(_Raw(netns.clock.now_ns, netns, b"", b"", [step]))

    def rules_changed(self, netns: Netns) -> None:
        """Called before a namespace's tables change: what is pending speaks of the old ones."""
        self.flush()

    def rules_loaded(self, netns: Netns) -> None:
        """Called after a namespace's tables changed."""
        reader = self._readers.get(netns.name)
        if reader is not None:
            reader.lowered = netns.lowered
            reader.nft = netns.nft_lowered
            reader.forget_tables()

    def flush(self) -> None:
        """Read what is pending into visits."""
        for netns in self._attached.values():
            self.collect(netns)  # what a handler has let die leads to no other call of the engine
        for raw in self._pending:
            name = raw.netns.name
            by_packet: dict[int, list[TraceStep]] = {}
            for step in self._readers[name].read(raw.records, raw.aux):
                by_packet.setdefault(step.pkt_id, []).append(step)
            for note in raw.notes:
                steps = by_packet.setdefault(note.pkt_id, [])
                if note.kind is TraceKind.UPCALL and steps and steps[-1].text.startswith(_ANSWERED):
                    steps.pop()
                steps.append(note)
            for pkt_id, steps in by_packet.items():
                visit = Visit(raw.at_ns, name, pkt_id, tuple(steps))
                self._visits.append(visit)
                self._by_packet.setdefault((name, pkt_id), []).append(visit)
        self._pending.clear()

    def clear(self) -> None:
        """Forget what was collected."""
        self._pending.clear()
        self._visits.clear()
        self._by_packet.clear()
        self._last_frames.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Collect nothing from here to the end of the block; the engine does not trace meanwhile."""
        self.flush()
        resting = list(self._attached.values())
        for netns in resting:
            self.detach(netns)
        try:
            yield
        finally:
            for netns in resting:
                self.attach(netns)

    def of_packet(self, space: str, pkt_id: int) -> list[Visit]:
        """What a namespace did to a packet, with what it did before it was copied."""
        self.flush()
        reader = self._readers.get(space)
        line = reader.ancestors(pkt_id) if reader is not None else (pkt_id,)
        return [visit for ancestor in line for visit in self._by_packet.get((space, ancestor), ())]

    def seen(self, frame: CapturedFrame) -> None:
        """A capture's listener: remember which frame was the last of its packet in its namespace."""
        self._last_frames[frame.space, frame.pkt_id] = frame.serial

    def comments(self, frame: CapturedFrame) -> tuple[str, ...]:
        """A capture's commenter: the last frame of a packet in a namespace says what was done to it there."""
        if self._last_frames.get((frame.space, frame.pkt_id)) != frame.serial:
            return ()
        steps = [step for visit in self.of_packet(frame.space, frame.pkt_id) for step in visit.steps]
        text = comment(steps, where=frame.space)
        return (text,) if text else ()


def _interface_name(netns: Netns) -> Callable[[int], str]:
    def name(ifindex: int) -> str:
        device = netns.devices.find(ifindex)
        return device.name if device is not None else f"interface {ifindex}"

    return name


def walk_lines(visits: Iterable[Visit], *, unmatched: bool = False) -> list[str]:
    """The whole way of what was sent, namespace by namespace."""
    lines: list[str] = []
    for visit in visits:
        lines.append(f"{visit.at_ns / 1e9:.6f} {visit.space}, packet {visit.pkt_id}")
        lines += [f"  {line}" for line in visit.lines(unmatched=unmatched)]
    return lines
