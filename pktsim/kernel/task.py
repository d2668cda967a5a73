"""Processes: coroutines on the simulated clock.

Synchronous outside, asynchronous inside: whoever drives the :class:`~pktsim.clock.Clock` calls plain functions, and
what a pod runs (a resolver, curl, a server) is an ``async def`` that waits for sockets and time. Nothing here knows
packets.

A process that a packet wakes does not run in the same instant: the softirq that delivered the packet marks it
runnable and the scheduler gets to it later. :data:`WAKE_NS` is that delay. It is longer than a round trip in a LAN of
this model on purpose: on a machine with one CPU the receiving side runs inside the sender's transmit, so an
acknowledgement is back before the receiving *process* has run, and before the sending process goes on. Two processes
that become runnable at the same instant run in the order in which they were woken.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from pktsim.clock import Clock, Timer
from pktsim.fidelity import approximated

approximated(
    "kernel.scheduling",
    "a process runs 60 us after what wakes it, and its next system call as much later; Linux's scheduler "
    "takes what it takes",
    source="kernel/sched/core.c try_to_wake_up",
)

#: From the softirq that wakes a process to the process running, and from one system call of a process that sends to
#: its next.
WAKE_NS = 60_000

T = TypeVar("T")

#: What a suspended coroutine hands to its task: called with the task, it arranges for ``task._step`` and returns how to
#: undo that when the task is cancelled.
_Suspend = Callable[["Task[Any]"], Callable[[], None]]


class Cancelled(BaseException):
    """Raised inside a coroutine whose task was cancelled; like ``GeneratorExit`` it is not an ``Exception``."""


class _Trap:
    """The one awaitable: gives its request to the task that runs it, and returns what the task is resumed with."""

    __slots__ = ("_suspend",)

    def __init__(self, suspend: _Suspend) -> None:
        self._suspend = suspend

    def __await__(self) -> Generator[_Suspend, bool, bool]:
        return (yield self._suspend)


class Task(Generic[T]):
    """One running coroutine. Made by :func:`spawn`."""

    __slots__ = (
        "_coroutine",
        "_error",
        "_finished",
        "_result",
        "_running",
        "_started",
        "_undo",
        "_unstarted",
        "clock",
        "name",
        "wake_ns",
    )

    def __init__(
        self,
        clock: Clock,
        coroutine: Coroutine[Any, Any, T],
        name: str,
        wake_ns: int,
        unstarted: Callable[[], None] | None = None,
    ) -> None:
        self.clock = clock
        self.name = name
        self.wake_ns = wake_ns
        self._coroutine: Coroutine[Any, Any, T] | None = coroutine
        self._running = False
        self._started = False
        self._unstarted = unstarted
        self._result: T | None = None
        self._error: BaseException | None = None
        self._finished: Signal | None = None
        self._undo: Callable[[], None] | None = clock.after(0, partial(self._step, True)).cancel

    def __repr__(self) -> str:
        return f"<Task {self.name!r} {'done' if self.done else 'waiting'}>"

    @property
    def done(self) -> bool:
        """Whether the coroutine has returned, raised or been cancelled."""
        return self._coroutine is None

    def result(self) -> T:
        """What the coroutine returned.

        Raises:
            RuntimeError: It has not ended yet.
            BaseException: What ended it, :class:`Cancelled` included.
        """
        if not self.done:
            raise RuntimeError(f"task {self.name} has not ended yet")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    async def join(self) -> T:
        """Wait until it has ended, then as :meth:`result`."""
        while not self.done:
            if self._finished is None:
                self._finished = Signal()
            await self._finished.wait()
        return self.result()

    def cancel(self) -> None:
        """End it now: :class:`Cancelled` is raised where it waits, so that its ``finally`` clauses run.

        One that has not begun has none that could: then ``unstarted`` of :func:`spawn` is called.

        Cancelling a task that has ended does nothing.

        Raises:
            RuntimeError: A task tried to cancel itself.
        """
        if self._coroutine is None:
            return
        if self._running:
            raise RuntimeError(f"task {self.name} cannot cancel itself: return or raise instead")
        if self._undo is not None:
            self._undo()
            self._undo = None
        if not self._started and self._unstarted is not None:
            self._unstarted()
        self._advance(lambda coroutine: coroutine.throw(Cancelled()))

    def _step(self, value: bool) -> None:
        """Run the coroutine to its next wait; ``value`` is what the wait that ended returns."""
        self._undo = None
        sent = value if self._started else None  # a coroutine that has not begun takes nothing but None
        self._started = True
        self._advance(lambda coroutine: coroutine.send(sent))

    def _advance(self, resume: Callable[[Coroutine[Any, Any, T]], _Suspend]) -> None:
        coroutine = self._coroutine
        assert coroutine is not None
        self._running = True
        try:
            suspend = resume(coroutine)
        except StopIteration as stop:
            self._end(stop.value, None)
        except (OSError, Cancelled) as error:
            # The ordinary ways for a process to fail: whoever asks for the result gets it.
            self._end(None, error)
        except BaseException as error:
            # Anything else is a mistake in the program, and must not vanish because nobody asks.
            self._end(None, error)
            raise
        else:
            self._undo = suspend(self)
        finally:
            self._running = False

    def _end(self, result: T | None, error: BaseException | None) -> None:
        self._coroutine = None
        self._result = result
        self._error = error
        if self._finished is not None:
            self._finished.fire()


class Signal:
    """A condition that tasks wait for: ``fire`` wakes everybody who waits now, and is forgotten if nobody does.

    Nothing else runs between a check and the ``await`` that follows it, so ``while not ready: await signal.wait()``
    misses nothing.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[Task[Any], Timer | None]] = []

    def fire(self) -> None:
        """Wake all tasks that wait, each after its own wake-up time."""
        waiting, self._waiting = self._waiting, []
        for task, deadline in waiting:
            if deadline is not None:
                deadline.cancel()
            task._undo = task.clock.after(task.wake_ns, partial(task._step, True)).cancel

    async def wait(self, timeout_ns: int | None = None) -> bool:
        """Wait for the next :meth:`fire`. Returns whether it came within ``timeout_ns``."""

        def suspend(task: Task[Any]) -> Callable[[], None]:
            def expire() -> None:
                self._waiting.remove(entry)
                task._step(False)

            deadline = None if timeout_ns is None else task.clock.after(max(timeout_ns, 0), expire)
            entry = (task, deadline)
            self._waiting.append(entry)

            def undo() -> None:
                self._waiting.remove(entry)
                if deadline is not None:
                    deadline.cancel()

            return undo

        return await _Trap(suspend)


def spawn(
    clock: Clock,
    coroutine: Coroutine[Any, Any, T],
    name: str = "",
    *,
    wake_ns: int = WAKE_NS,
    unstarted: Callable[[], None] | None = None,
) -> Task[T]:
    """Run ``coroutine`` as a task; its first step is an event of its own at the present time.

    An :class:`OSError` that ends it is kept for :meth:`Task.result`. Any other exception is kept too, and also comes
    out of the clock at once, because it is a mistake somewhere and nobody may be there to ask.

    Args:
        clock: What it waits on.
        coroutine: What to run.
        name: For people.
        wake_ns: How long after being woken it runs.
        unstarted: Called if it is cancelled before its first step, to let go of what it was given (a connection).
    """
    return Task(clock, coroutine, name, wake_ns, unstarted)


async def sleep(clock: Clock, duration_ns: int) -> None:
    """Wait for exactly ``duration_ns``; 0 lets everything run that is due now."""

    def suspend(task: Task[Any]) -> Callable[[], None]:
        return clock.after(duration_ns, partial(task._step, True)).cancel

    await _Trap(suspend)


async def join_all(*tasks: Task[Any]) -> None:
    """Wait until all of ``tasks`` have ended, however they ended."""
    for task in tasks:
        while not task.done:
            try:
                await task.join()
            except (OSError, Cancelled):
                if not task.done:
                    raise


def run(clock: Clock, coroutine: Coroutine[Any, Any, T], name: str = "", *, limit_ns: int | None = None) -> T:
    """Run a coroutine to its end from outside, and with it everything else on the clock.

    Args:
        clock: What to drive.
        coroutine: What to run.
        name: For people.
        limit_ns: Give up after this much simulated time.

    Raises:
        TimeoutError: It did not end within ``limit_ns``, or nothing is left that could wake it. It has been cancelled.
    """
    task = spawn(clock, coroutine, name)
    until_ns = (1 << 63) if limit_ns is None else clock.now_ns + limit_ns
    clock.run_while(lambda: not task.done, until_ns)
    if not task.done:
        task.cancel()
        within = "" if limit_ns is None else f" within {limit_ns} ns"
        raise TimeoutError(f"{name or 'the task'} did not end{within}")
    return task.result()
