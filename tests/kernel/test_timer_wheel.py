"""Kernel timers: how late they are, and in which order they fire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.clock import HZ, NS_PER_JIFFY, NS_PER_MS, NS_PER_S, Clock
from pktsim.kernel.timer_wheel import TimerWheel, ms_to_jiffies


def fired_at_ms(start_ms: int, delay_jiffies: int) -> float:
    clock = Clock(start_ms * NS_PER_MS)
    wheel = TimerWheel(clock)
    fired: list[int] = []
    wheel.after(delay_jiffies, lambda: fired.append(clock.now_ns))
    clock.run_for(60 * NS_PER_S)
    (at_ns,) = fired
    return at_ns / NS_PER_MS


@pytest.mark.parametrize(
    ("start_ms", "jiffies", "expected_ms"),
    [
        (0, 1, 8),  # level 0 rounds up to the next tick
        (1000, 10, 1044),
        (0, HZ, 1024),  # a second: level 1, units of 8 ticks
        (1024, HZ, 2048),
        (1008, HZ, 2016),  # armed off the level's grid: recorded 1.016 s, then every 1.024 s
        (0, 5 * HZ, 5120),  # five seconds: level 2, units of 64 ticks
    ],
)
def test_timer_fires_at_the_end_of_its_bucket(start_ms: int, jiffies: int, expected_ms: int) -> None:
    assert fired_at_ms(start_ms, jiffies) == expected_ms


@given(st.integers(0, 10_000), st.integers(0, 8_000))
def test_timer_is_never_early_and_at_most_one_eighth_late(start_ms: int, jiffies: int) -> None:
    late_ms = fired_at_ms(start_ms, jiffies) - start_ms - jiffies * NS_PER_JIFFY / NS_PER_MS
    assert -4 < late_ms <= max(8, jiffies * 4 * 0.125 + 8)


def test_timers_of_one_tick_fire_last_armed_first() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    order: list[str] = []
    for name in ("first", "second", "third"):
        wheel.after(5 * HZ, lambda name=name: order.append(name))  # type: ignore[misc]
    clock.run_for(6 * NS_PER_S)
    assert order == ["third", "second", "first"]


def test_coarser_level_fires_before_finer_one_in_the_same_tick() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    order: list[str] = []
    wheel.at(63, lambda: order.append("coarse"))  # level 1: tick 64
    clock.run_until(10 * NS_PER_JIFFY)
    wheel.at(63, lambda: order.append("fine"))  # level 0: tick 64
    clock.run_for(NS_PER_S)
    assert order == ["coarse", "fine"]


def test_cancelled_timer_stays_silent_and_others_fire() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    fired: list[str] = []
    doomed = wheel.after(HZ, lambda: fired.append("doomed"))
    kept = wheel.after(HZ, lambda: fired.append("kept"))
    assert doomed.pending
    doomed.cancel()
    clock.run_for(2 * NS_PER_S)
    assert fired == ["kept"]
    assert not kept.pending


def test_timer_armed_while_firing_goes_to_a_later_tick() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    ticks: list[int] = []

    def again() -> None:
        ticks.append(wheel.jiffies)
        if len(ticks) < 3:
            wheel.after(0, again)

    wheel.after(0, again)
    clock.run_for(NS_PER_S)
    assert ticks == [1, 2, 3]


def test_milliseconds_are_rounded_up_to_jiffies() -> None:
    assert [ms_to_jiffies(ms) for ms in (0, 1, 4, 5, 1000)] == [0, 1, 1, 2, 250]
