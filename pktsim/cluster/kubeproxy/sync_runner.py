"""When to sync: at once if possible, but not too often, and at least now and then.

Source: pkg/util/async/bounded_frequency_runner.go of Kubernetes 1.30, on simulated time; a run takes none.
"""

from __future__ import annotations

from collections.abc import Callable

from pktsim.clock import NS_PER_S, Clock, Timer
from pktsim.fidelity import approximated

approximated(
    "kube_proxy.sync_duration",
    "a sync takes no time: rules are in force in the instant in which it starts",
    source="pkg/util/async/bounded_frequency_runner.go",
)


class SyncRunner:
    """Calls a function when asked, at most ``burst`` times in a row and then once in ``min_interval_ns``.

    Requests of the same instant become one run, as do requests that have to wait.

    Args:
        burst: How many runs may follow each other at once; 1 from 1.34 on, whose runner has no bursts.
    """

    def __init__(
        self, clock: Clock, run: Callable[[], None], min_interval_ns: int, max_interval_ns: int, burst: int
    ) -> None:
        self._clock = clock
        self._run = run
        self._min_interval_ns = min_interval_ns
        self._max_interval_ns = max_interval_ns
        self._burst_ns = burst * min_interval_ns
        # The token bucket, in nanoseconds: a run costs min_interval_ns, and every nanosecond gives one.
        self._tokens_ns = self._burst_ns
        self._filled_at_ns = clock.now_ns
        self._last_run_ns = clock.now_ns
        self._requested: Timer | None = None
        self._timer = clock.after(max_interval_ns, self._try)

    def request(self) -> None:
        """Run as soon as possible."""
        if self._requested is None or not self._requested.pending:
            self._requested = self._clock.after(0, self._try)

    def retry_after(self, interval_ns: int) -> None:
        """Run no later than ``interval_ns`` from now; may be called from within a run."""
        # Not before the run that is under way has set its own timer.
        at_ns = self._clock.now_ns + interval_ns
        self._clock.after(0, lambda: self._bring_forward(at_ns))

    def stop(self) -> None:
        """Run no more."""
        self._timer.cancel()
        if self._requested is not None:
            self._requested.cancel()
        self._run = lambda: None

    def _bring_forward(self, at_ns: int) -> None:
        if at_ns < self._timer.at_ns:
            self._reset(at_ns - self._clock.now_ns)

    def _reset(self, interval_ns: int) -> None:
        self._timer.cancel()
        self._timer = self._clock.after(max(interval_ns, 0), self._try)

    def _accept(self) -> bool:
        now_ns = self._clock.now_ns
        self._tokens_ns = min(self._burst_ns, self._tokens_ns + now_ns - self._filled_at_ns)
        self._filled_at_ns = now_ns
        if self._tokens_ns < self._min_interval_ns:
            return False
        self._tokens_ns -= self._min_interval_ns
        return True

    def _try(self) -> None:
        if self._accept():
            self._reset(self._max_interval_ns)
            self._run()
            self._last_run_ns = self._clock.now_ns
            return
        possible_ns = self._last_run_ns + self._min_interval_ns
        self._reset(min(possible_ns, self._timer.at_ns) - self._clock.now_ns)


#: Without any request, syncs still happen once in this time.
MAX_INTERVAL_NS = 3600 * NS_PER_S
#: How many syncs may follow each other at once.
BURST_SYNCS = 2
