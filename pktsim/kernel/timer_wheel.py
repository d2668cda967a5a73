"""Kernel timers: jiffies, and the wheel whose rounding and order can be seen on the wire.

A neighbour is asked for again after 1.016 s and then every 1.024 s, and probes of several namespaces that become due
in the same tick leave in the reverse order of their starting: both follow from the wheel's levels
(kernel/time/timer.c). All namespaces of a world share one wheel, as namespaces of one machine do.
"""

from __future__ import annotations

from collections.abc import Callable

from pktsim.clock import HZ, NS_PER_JIFFY, Clock
from pktsim.fidelity import approximated

approximated(
    "kernel.jiffies",
    "timers tick every 4 ms (CONFIG_HZ=250); kernels are also built with 100, 300 and 1000",
    source="kernel/time/timer.c",
)

_LVL_CLK_SHIFT = 3
_LVL_BITS = 6
_LVL_DEPTH = 9
#: ``LVL_START(n)``: from how many jiffies on a timer goes to level n.
_LVL_START = (0, *(((1 << _LVL_BITS) - 1) << (level * _LVL_CLK_SHIFT) for level in range(_LVL_DEPTH - 1)))


class WheelTimer:
    """One armed timer; ``cancel`` may be called at any time, also after it has fired."""

    __slots__ = ("_callback", "expires")

    def __init__(self, expires: int, callback: Callable[[], None]) -> None:
        self.expires = expires  # jiffies asked for; it fires no earlier
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def cancel(self) -> None:
        self._callback = None

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class TimerWheel:
    """Timers in jiffies on a :class:`~pktsim.clock.Clock`."""

    __slots__ = ("_buckets", "clock")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        #: tick -> level -> timers in order of arming
        self._buckets: dict[int, dict[int, list[WheelTimer]]] = {}

    @property
    def jiffies(self) -> int:
        return self.clock.now_ns // NS_PER_JIFFY

    def at(self, expires: int, callback: Callable[[], None]) -> WheelTimer:
        """Call ``callback`` at jiffy ``expires`` or, as coarse as the wheel is that far ahead, somewhat later."""
        now = self.jiffies
        delta = max(expires - now, 0)
        level = 0
        while level + 1 < _LVL_DEPTH and delta >= _LVL_START[level + 1]:
            level += 1
        shift = level * _LVL_CLK_SHIFT
        # calc_index: rounded up by one unit of the level, so that no timer fires early
        tick = ((max(expires, now) >> shift) + 1) << shift
        timer = WheelTimer(expires, callback)
        levels = self._buckets.get(tick)
        if levels is None:
            levels = self._buckets[tick] = {}
            self.clock.at(tick * NS_PER_JIFFY, lambda: self._expire(tick))
        levels.setdefault(level, []).append(timer)
        return timer

    def after(self, jiffies: int, callback: Callable[[], None]) -> WheelTimer:
        """Call ``callback`` when ``jiffies`` jiffies have passed."""
        return self.at(self.jiffies + jiffies, callback)

    def after_ms(self, milliseconds: int, callback: Callable[[], None]) -> WheelTimer:
        """Call ``callback`` when ``milliseconds`` have passed (``msecs_to_jiffies``: rounded up)."""
        return self.after(ms_to_jiffies(milliseconds), callback)

    def _expire(self, tick: int) -> None:
        levels = self._buckets.pop(tick)
        # Coarsest level first, and within a bucket the one armed last first (hlist_add_head).
        for level in sorted(levels, reverse=True):
            for timer in reversed(levels[level]):
                timer._fire()


def ms_to_jiffies(milliseconds: int) -> int:
    """``msecs_to_jiffies``: rounded up."""
    return -(-milliseconds * HZ // 1000)
