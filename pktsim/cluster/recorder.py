"""Gathers what nodes did to packets while something was going on, as a walk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from pktsim.cluster.walk import Note, Passage, Walk
from pktsim.kernel.capture import Capture
from pktsim.kernel.explain import Explainer, Visit
from pktsim.wire.summary import summary


class Recorder:
    """A context manager: passages between where it is entered and where it is left, or now."""

    def __init__(self, explainer: Explainer, capture: Capture, notes: list[Note]) -> None:
        self._explainer = explainer
        self._capture = capture
        self._notes = notes
        self._first_note = 0
        self._first_visit = 0
        self._first_frame = 0
        self._ended: list[Passage] | None = None

    def __enter__(self) -> Recorder:
        self._explainer.flush()
        self._first_visit = len(self._explainer.visits)
        self._first_frame = len(self._capture.frames)
        self._first_note = len(self._notes)
        self._ended = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = self.passages()

    def passages(self) -> list[Passage]:
        """What happened so far to IP packets, in order of time; ARP meets no rule."""
        if self._ended is not None:
            return self._ended
        self._explainer.flush()
        summaries: dict[tuple[str, int], str] = {}
        for frame in self._capture.frames[self._first_frame :]:
            key = (frame.space, frame.pkt_id)
            if key not in summaries:
                summaries[key] = summary(frame.frame)
        # A packet that had to wait, for a neighbour's address say, went on in a visit of its own.
        visits: dict[tuple[str, int], list[Visit]] = {}
        for visit in self._explainer.visits[self._first_visit :]:
            visits.setdefault((visit.space, visit.pkt_id), []).append(visit)
        passages = []
        for key, parts in visits.items():
            steps = tuple(step for part in parts for step in part.steps)
            passages.append(Passage(parts[0].at_ns, key[0], summaries.get(key, ""), steps))
        return [passage for passage in passages if not passage.summary.startswith("ARP")]

    def walk(self, title: str, outcome: str, *, delivered: bool) -> Walk:
        """The passages as a walk."""
        return Walk(title, outcome, delivered, self.passages(), self._notes[self._first_note :])


@contextmanager
def unrecorded(explainer: Explainer, capture: Capture) -> Iterator[None]:
    """Nothing that goes on meanwhile is captured or explained."""
    before, capture.on = capture.on, False
    try:
        with explainer.paused():
            yield
    finally:
        capture.on = before
