"""Simulated time: integer nanoseconds that move by events.

A leaf: imports nothing of ours. Nothing in pktsim reads the machine's clock; conntrack time-outs, TCP retransmission,
neighbour probes and link delay all live on one :class:`Clock`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
#: What the kernel's timers and time-outs count by: jiffies, of which CONFIG_HZ make a second.
HZ = 250
NS_PER_JIFFY = NS_PER_S // HZ


class Timer:
    """One scheduled call; ``cancel`` may be called at any time, also after it has fired."""

    __slots__ = ("_callback", "at_ns")

    def __init__(self, at_ns: int, callback: Callable[[], None]) -> None:
        self.at_ns = at_ns
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        """Whether it has neither fired nor been cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        """Make sure the callback is not called any more."""
        self._callback = None

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Clock:
    """Events in order of time; events of the same nanosecond in the order in which they were scheduled.

    That second rule is what a softirq backlog does on one CPU, and is what keeps two runs alike.
    """

    __slots__ = ("_heap", "_now_ns", "_serial")

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._serial = 0
        self._heap: list[tuple[int, int, Timer]] = []

    @property
    def now_ns(self) -> int:
        """Simulated nanoseconds since the start of the experiment."""
        return self._now_ns

    def at(self, at_ns: int, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at ``at_ns``.

        Raises:
            ValueError: ``at_ns`` lies in the past.
        """
        if at_ns < self._now_ns:
            raise ValueError(f"cannot schedule at {at_ns} ns: it is {self._now_ns} ns already")
        timer = Timer(at_ns, callback)
        self._serial += 1
        heapq.heappush(self._heap, (at_ns, self._serial, timer))
        return timer

    def after(self, delay_ns: int, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` when ``delay_ns`` have passed; 0 means after everything already due now."""
        return self.at(self._now_ns + delay_ns, callback)

    def next_at_ns(self) -> int | None:
        """When the next pending event is due, or ``None`` if there is none."""
        heap = self._heap
        while heap and not heap[0][2].pending:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def step(self) -> bool:
        """Run the next event. Returns whether there was one."""
        if self.next_at_ns() is None:
            return False
        at_ns, _, timer = heapq.heappop(self._heap)
        self._now_ns = at_ns
        timer._fire()
        return True

    def run_until(self, until_ns: int) -> None:
        """Run all events due up to and including ``until_ns``, and leave the clock there."""
        self._run(until_ns, None)
        self._now_ns = max(self._now_ns, until_ns)

    def run_for(self, duration_ns: int) -> None:
        """Run for ``duration_ns`` of simulated time."""
        self.run_until(self._now_ns + duration_ns)

    def run_while(self, condition: Callable[[], bool], limit_ns: int) -> bool:
        """Run events while ``condition()`` holds, but none that is due after ``limit_ns``.

        Returns:
            Whether ``condition`` ended it (``False``: there was nothing more to do before ``limit_ns``, and the
            clock stands at the last event that ran).
        """
        return self._run(limit_ns, condition)

    def _run(self, limit_ns: int, condition: Callable[[], bool] | None) -> bool:
        """The loop of both: all simulated time goes through it, so it does by itself what :meth:`step` does."""
        heap, pop = self._heap, heapq.heappop
        while condition is None or condition():
            while heap and heap[0][2]._callback is None:
                pop(heap)
            if not heap or heap[0][0] > limit_ns:
                return False
            self._now_ns, _, timer = pop(heap)
            timer._fire()
        return True
