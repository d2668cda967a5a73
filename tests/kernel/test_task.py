"""Tasks: order, wake-up times, time-outs, cancelling and errors."""

from __future__ import annotations

import pytest

from pktsim.clock import NS_PER_S, Clock
from pktsim.kernel.task import WAKE_NS, Cancelled, Signal, join_all, run, sleep, spawn


def test_a_sleep_is_exact() -> None:
    clock = Clock()

    async def body() -> int:
        await sleep(clock, 5)
        return clock.now_ns

    assert run(clock, body()) == 5


def test_a_woken_task_runs_its_wake_time_later() -> None:
    clock = Clock()
    signal = Signal()
    seen: list[tuple[str, int]] = []

    async def waiter(name: str) -> None:
        assert await signal.wait()
        seen.append((name, clock.now_ns))

    spawn(clock, waiter("slow"))
    spawn(clock, waiter("quick"), wake_ns=10)
    clock.after(1_000, signal.fire)
    clock.run_until(NS_PER_S)
    assert seen == [("quick", 1_010), ("slow", 1_000 + WAKE_NS)]


def test_tasks_woken_together_run_in_the_order_of_waiting() -> None:
    clock = Clock()
    signal = Signal()
    seen: list[int] = []

    async def waiter(number: int) -> None:
        await signal.wait()
        seen.append(number)

    tasks = [spawn(clock, waiter(number)) for number in range(5)]
    clock.run_until(1)
    signal.fire()
    run(clock, join_all(*tasks))
    assert seen == [0, 1, 2, 3, 4]


def test_a_wait_ends_at_its_timeout_and_leaves_no_timer() -> None:
    clock = Clock()
    signal = Signal()

    async def body() -> tuple[bool, int]:
        return await signal.wait(700), clock.now_ns

    assert run(clock, body()) == (False, 700)
    signal.fire()
    assert clock.next_at_ns() is None


def test_a_fire_just_before_the_timeout_counts() -> None:
    clock = Clock()
    signal = Signal()
    clock.after(699, signal.fire)

    async def body() -> bool:
        return await signal.wait(700)

    assert run(clock, body())
    assert clock.next_at_ns() is None


def test_a_fire_without_waiters_is_forgotten() -> None:
    clock = Clock()
    signal = Signal()
    signal.fire()

    async def body() -> bool:
        return await signal.wait(5)

    assert not run(clock, body())


def test_cancel_runs_finally_and_leaves_nothing_waiting() -> None:
    clock = Clock()
    signal = Signal()
    seen: list[str] = []

    async def body() -> None:
        try:
            await signal.wait(NS_PER_S)
        finally:
            seen.append("finally")

    task = spawn(clock, body())
    clock.run_until(1)
    task.cancel()
    assert seen == ["finally"]
    assert task.done
    assert clock.next_at_ns() is None
    signal.fire()
    task.cancel()
    with pytest.raises(Cancelled):
        task.result()


def test_cancel_between_fire_and_wake() -> None:
    clock = Clock()
    signal = Signal()

    async def body() -> None:
        await signal.wait()

    task = spawn(clock, body())
    clock.run_until(1)
    signal.fire()
    task.cancel()
    assert clock.next_at_ns() is None


def test_cancel_before_the_first_step() -> None:
    clock = Clock()

    async def body() -> None:
        raise AssertionError("never runs")

    task = spawn(clock, body())
    task.cancel()
    assert task.done
    assert clock.next_at_ns() is None


def test_cancel_lets_go_of_what_a_task_was_given_only_if_it_has_not_begun() -> None:
    clock = Clock()
    let_go: list[str] = []
    spawn(clock, sleep(clock, 9), unstarted=lambda: let_go.append("early")).cancel()
    begun = spawn(clock, sleep(clock, 9), unstarted=lambda: let_go.append("late"))
    clock.run_for(1)
    begun.cancel()
    assert let_go == ["early"]


def test_a_task_cannot_cancel_itself() -> None:
    clock = Clock()

    async def body() -> None:
        with pytest.raises(RuntimeError, match="cannot cancel itself"):
            task.cancel()

    task = spawn(clock, body(), "me")
    clock.run_until(0)
    assert task.done


def test_an_os_error_is_kept_for_whoever_asks() -> None:
    clock = Clock()

    async def body() -> None:
        raise ConnectionRefusedError

    task = spawn(clock, body())
    with pytest.raises(RuntimeError, match="not ended"):
        task.result()
    clock.run_until(0)
    with pytest.raises(ConnectionRefusedError):
        task.result()


def test_a_mistake_comes_out_of_the_clock() -> None:
    clock = Clock()

    async def body() -> None:
        raise ZeroDivisionError

    task = spawn(clock, body())
    with pytest.raises(ZeroDivisionError):
        clock.run_until(0)
    assert task.done


def test_join_gives_the_result_to_several() -> None:
    clock = Clock()

    async def worker() -> str:
        await sleep(clock, 100)
        return "done"

    task = spawn(clock, worker(), "worker")

    async def asker() -> str:
        return await task.join()

    askers = [spawn(clock, asker()) for _ in range(2)]
    clock.run_until(NS_PER_S)
    assert [asker.result() for asker in askers] == ["done", "done"]
    assert "done" in repr(task)


@pytest.mark.parametrize("limit_ns", [None, 50])
def test_run_gives_up(limit_ns: int | None) -> None:
    clock = Clock()
    signal = Signal()

    async def body() -> None:
        await signal.wait(None if limit_ns is None else 100)

    with pytest.raises(TimeoutError):
        run(clock, body(), "body", limit_ns=limit_ns)
    assert clock.next_at_ns() is None
