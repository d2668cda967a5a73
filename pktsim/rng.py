"""Chance: every free choice of the emulated system asks one :class:`Choices` object.

A leaf: imports nothing of ours. A *place* names who asks (``node-a/nat/KUBE-SVC-X/2``, ``default/client/tcp.isn``):
equal places draw from one stream, different places never disturb each other, so adding a pod does not change what
another one draws.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

#: ``xt_statistic`` compares a 31-bit random number with ``probability * 2**31`` (net/netfilter/xt_statistic.c).
PROBABILITY_ONE = 1 << 31

T = TypeVar("T")


class Choices(Protocol):
    """What answers the emulated system's free choices."""

    def below(self, place: str, n: int) -> int:
        """Return a number in ``range(n)``, all equally likely."""
        ...

    def chance(self, place: str, probability: int) -> bool:
        """Return ``True`` in ``probability`` of 2**31 cases."""
        ...


class SeededChoices:
    """Same seed, same choices, on every machine and Python version that pktsim supports."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def _stream(self, place: str) -> random.Random:
        stream = self._streams.get(place)
        if stream is None:
            # A str seed is hashed with SHA-512, which is stable across versions and processes.
            stream = self._streams[place] = random.Random(f"{self.seed}/{place}")
        return stream

    def below(self, place: str, n: int) -> int:
        return self._stream(place).randrange(n)

    def chance(self, place: str, probability: int) -> bool:
        return self._stream(place).getrandbits(31) < probability


#: A script: for each place either the answers in order, or a function from the number of alternatives to the answer.
#: ``chance`` asks with 2 alternatives, 1 meaning yes. ``None`` from the function means "I have no opinion".
Script = Mapping[str, Sequence[int] | Callable[[int], int | None]]


class ScriptedChoices:
    """Plays recorded answers at the places that the script names, and asks ``otherwise`` for the rest.

    A sequence that has run out asks ``otherwise`` again.
    """

    def __init__(self, script: Script, otherwise: Choices | None = None) -> None:
        self._script = script
        self._next: dict[str, int] = {}
        self.otherwise: Choices = SeededChoices() if otherwise is None else otherwise

    def _scripted(self, place: str, n: int) -> int | None:
        answers = self._script.get(place)
        if answers is None:
            return None
        if callable(answers):
            answer = answers(n)
        else:
            index = self._next.get(place, 0)
            if index >= len(answers):
                return None
            self._next[place] = index + 1
            answer = answers[index]
        if answer is not None and not 0 <= answer < n:
            raise ValueError(f"script for {place} says {answer}, but there are only {n} alternatives")
        return answer

    def below(self, place: str, n: int) -> int:
        answer = self._scripted(place, n)
        return self.otherwise.below(place, n) if answer is None else answer

    def chance(self, place: str, probability: int) -> bool:
        answer = self._scripted(place, 2)
        return self.otherwise.chance(place, probability) if answer is None else bool(answer)


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice that was made: who asked, among how many alternatives, the answer (``chance``: 2, and 1 is yes)."""

    place: str
    n: int
    answer: int


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What one combination of choices led to."""

    choices: tuple[Choice, ...]
    result: T


class _Path:
    """Replays a prefix of answers, then answers 0 and notes what else there was."""

    def __init__(self, prefix: Sequence[int], relevant: Callable[[str], bool], limit: int, fixed: Choices) -> None:
        self._prefix = prefix
        self._relevant = relevant
        self._limit = limit
        self._fixed = fixed
        self.made: list[Choice] = []

    def _choose(self, place: str, n: int) -> int:
        depth = len(self.made)
        answer = self._prefix[depth] if depth < len(self._prefix) else 0
        self.made.append(Choice(place, n, answer))
        return answer

    def below(self, place: str, n: int) -> int:
        if n > self._limit or not self._relevant(place):
            return self._fixed.below(place, n)
        return self._choose(place, n)

    def chance(self, place: str, probability: int) -> bool:
        # What cannot happen, or cannot fail to happen, is no choice.
        if probability <= 0:
            return False
        if probability >= PROBABILITY_ONE:
            return True
        if not self._relevant(place):
            return self._fixed.chance(place, probability)
        return bool(self._choose(place, 2))


def explore(
    run: Callable[[Choices], T],
    *,
    relevant: Callable[[str], bool] = lambda place: True,
    limit: int = 256,
    seed: int = 0,
) -> Iterator[Outcome[T]]:
    """Run ``run`` once for every combination of choices: can this ever happen?

    Args:
        run: The experiment. It must build its world afresh each time and take all chance from its argument.
        relevant: Which places to vary; the others draw from ``seed``.
        limit: Choices among more alternatives than this (a port among 64,512, a sequence number) draw from ``seed``.
        seed: For what is not varied.

    Yields:
        Each outcome with the choices that led there, in depth-first order.
    """
    prefix: list[int] = []
    while True:
        path = _Path(prefix, relevant, limit, SeededChoices(seed))
        result = run(path)
        yield Outcome(tuple(path.made), result)
        made = path.made
        while made and made[-1].answer + 1 >= made[-1].n:
            made.pop()
        if not made:
            return
        prefix = [choice.answer for choice in made]
        prefix[-1] += 1
