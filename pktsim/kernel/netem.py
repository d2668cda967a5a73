"""What goes wrong on a link, in one direction: tc-netem(8), on the wire instead of in front of the device.

A capture at the sending device shows what was sent, one at the receiving device what came: that is how a bad cable
looks. (A netem of one's own would be in front of the sending device's capture.) Names, order of the steps and
arithmetic are those of net/sched/sch_netem.c, Linux 6.18; what frames a script names, and every n-th, is ours.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.errors import TopologyError
from pktsim.fidelity import approximated
from pktsim.rng import PROBABILITY_ONE, Choices
from pktsim.wire.frame_match import FrameMatch

#: tc's default: frames that may wait.
DEFAULT_LIMIT = 1000
approximated(
    "kernel.netem",
    "a link is bad on the wire, behind the sending device's capture, where tc-netem is a queueing discipline in front "
    "of it; loss has no correlation nor a four-state model, delay no distribution but the uniform one",
    source="net/sched/sch_netem.c",
)

_FORBID: dict[str, object] = {"extra": "forbid"}  # read by pydantic where these come from a file
#: tc's units: ``bit`` counts bits, ``bps`` bytes, and prefixes are powers of ten.
_RATE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<prefix>[kmg]?)(?P<unit>bit|bps)?", re.IGNORECASE)
_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def probability(value: float, what: str = "a probability") -> int:
    """A probability between 0 and 1 in the unit of :meth:`Choices.chance`."""
    if not 0 <= value <= 1:
        raise TopologyError(f"{what} of {value} is not between 0 and 1")
    return round(value * PROBABILITY_ONE)


def rate_bits(rate: str | int) -> int:
    """Read a rate as tc does: ``10mbit``, ``500kbit``, ``1mbps`` (bytes), a number alone in bit/s; 0 is no limit."""
    found = _RATE.fullmatch(str(rate).strip())
    if found is None:
        raise TopologyError(f"{rate!r} is not a rate", mend="write it as tc does, such as 10mbit or 500kbit")
    bits = float(found["number"]) * _PREFIXES[found["prefix"].lower()]
    return round(bits * 8 if (found["unit"] or "bit").lower() == "bps" else bits)


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Loss in bursts, by tc's ``loss gemodel``: a link is good or bad, and changes with each frame.

    Attributes:
        p: Chance to go from good to bad.
        r: Chance to go back.
        h: Chance that a frame gets through while it is bad.
        k: Chance that a frame gets through while it is good.
    """

    p: float
    r: float
    h: float = 0.0
    k: float = 1.0

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID


_ANY = FrameMatch()


@dataclass(frozen=True, slots=True)
class FrameRule:
    """A script's line: what becomes of certain frames.

    Attributes:
        do: What is done with them. ``delay`` adds ``delay_ms``.
        match: Which frames.
        nth: Which of those that match, from 1; all if empty.
        every: Instead of ``nth``: each n-th that matches.
    """

    do: Literal["drop", "duplicate", "corrupt", "delay"]
    match: FrameMatch = _ANY
    nth: tuple[int, ...] = ()
    every: int = 0
    delay_ms: float = 0.0

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID

    def check(self) -> None:
        """Raises:
        TopologyError: It can never apply, or its parts contradict each other.
        """
        if self.do not in ("drop", "duplicate", "corrupt", "delay"):
            raise TopologyError(f"a link cannot {self.do!r} frames", mend="drop, duplicate, corrupt or delay")
        if (self.do == "delay") != (self.delay_ms > 0):
            raise TopologyError(f"{self.do} with delay_ms {self.delay_ms:g}", mend="delay, and only delay, needs one")
        if any(number < 1 for number in self.nth) or self.every < 0 or (self.nth and self.every):
            raise TopologyError(f"nth {list(self.nth)}, every {self.every}", mend="one of them, counted from 1")

    def applies(self, number: int) -> bool:
        """Whether it means the ``number``-th frame that matches."""
        if self.every:
            return number % self.every == 0
        return not self.nth or number in self.nth


@dataclass(frozen=True, slots=True)
class Netem:
    """How bad a link is, in one direction. Probabilities are between 0 and 1.

    Attributes:
        loss: A frame is lost: a probability, or a model of bursts.
        loss_every: Each n-th frame is lost.
        duplicate: A frame arrives twice.
        corrupt: One bit of it is turned.
        reorder: A frame leaves at once, overtaking those that are delayed.
        gap: Only each n-th frame may overtake; 0 and 1 are any.
        delay_ms: How long frames take more than on the bare wire.
        jitter_ms: The delay varies by up to this much to either side; frames may overtake one another.
        rate: Bits per second, as tc writes it (``10mbit``); 0 is no limit.
        limit: Frames that may wait; those beyond are lost.
        script: What happens to certain frames; before all else.
    """

    loss: float | GilbertElliott = 0.0
    loss_every: int = 0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    gap: int = 0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate: str | int = 0
    limit: int = DEFAULT_LIMIT
    script: tuple[FrameRule, ...] = ()

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID

    def check(self) -> None:
        """Raises:
        TopologyError: A value is impossible, or makes no sense without another.
        """
        for name in ("duplicate", "corrupt", "reorder"):
            probability(getattr(self, name), name)
        if isinstance(self.loss, GilbertElliott):
            for entry in fields(self.loss):
                probability(getattr(self.loss, entry.name), f"loss {entry.name}")
        else:
            probability(self.loss, "loss")
        for name in ("loss_every", "gap", "delay_ms", "jitter_ms", "limit"):
            if getattr(self, name) < 0:
                raise TopologyError(f"{name} is {getattr(self, name)}", mend="it cannot be negative")
        rate_bits(self.rate)
        # tc says the same: nothing can be overtaken that does not wait.
        if (self.reorder or self.gap) and not (self.delay_ms or self.jitter_ms):
            raise TopologyError("reordering without a delay", mend="give delay_ms too")
        for rule in self.script:
            rule.check()

    def __str__(self) -> str:
        """As tc writes it; ``good`` where it does nothing."""
        said = []
        if self.rate:
            said.append(f"rate {self.rate}")
        if self.delay_ms or self.jitter_ms:
            said.append(f"delay {self.delay_ms:g}ms" + (f" {self.jitter_ms:g}ms" if self.jitter_ms else ""))
        if isinstance(self.loss, GilbertElliott):
            model = self.loss
            parts = {"p": model.p, "r": model.r, "1-h": 1 - model.h, "1-k": 1 - model.k}
            said.append("loss gemodel " + " ".join(f"{name} {100 * value:g}%" for name, value in parts.items()))
        elif self.loss:
            said.append(f"loss {100 * self.loss:g}%")
        if self.loss_every:
            said.append(f"loss of each {self.loss_every}th")
        for name in ("duplicate", "corrupt", "reorder"):
            if getattr(self, name):
                said.append(f"{name} {100 * getattr(self, name):g}%")
        if self.gap:
            said.append(f"gap {self.gap}")
        if self.limit != DEFAULT_LIMIT:
            said.append(f"limit {self.limit}")
        if self.script:
            said.append(f"{len(self.script)} scripted")
        return " ".join(said) or "good"

    @property
    def harmless(self) -> bool:
        """Whether it does nothing."""
        return self == Netem()


class NetemQueue:
    """One direction of a link at work: what was drawn and what waits.

    Args:
        settings: How bad it is.
        choices: The world's chance.
        place: Where it is asked; each kind of chance has a stream of its own.
    """

    def __init__(self, settings: Netem, choices: Choices, place: str) -> None:
        settings.check()
        self.settings = settings
        self._choices = choices
        self._place = place
        self._duplicate = probability(settings.duplicate)
        self._corrupt = probability(settings.corrupt)
        # netem_change: a gap alone means all of them
        self._reorder = probability(settings.reorder or (1 if settings.gap else 0))
        self._delay_ns = round(settings.delay_ms * NS_PER_MS)
        self._jitter_ns = round(settings.jitter_ms * NS_PER_MS)
        self._rate = rate_bits(settings.rate)
        self._frames = 0
        self._counter = 0  # since the last one that overtook
        self._bad = False
        self._matched = [0] * len(settings.script)
        self._waiting: list[int] = []  # when each frame in the queue leaves, a heap
        self._last_ns = 0  # when the last of them leaves

    def _chance(self, what: str, probability: int) -> bool:
        return bool(probability) and self._choices.chance(f"{self._place}.{what}", probability)

    def put(self, frame: bytes, now_ns: int) -> Sequence[tuple[bytes, int]]:
        """A frame is sent. Returns what comes of it: frames and how many nanoseconds later each is on the wire."""
        self._frames += 1
        copies, extra_ns, turned = self._scripted(frame)
        if turned:
            frame = self._turn_a_bit(frame)
        return [found for _ in range(copies) for found in self._enqueue(frame, now_ns, extra_ns)]

    def _scripted(self, frame: bytes) -> tuple[int, int, bool]:
        """What the script says: how many copies go on, what delay is added, whether a bit is turned."""
        copies, extra_ns, turned = 1, 0, False
        for index, rule in enumerate(self.settings.script):
            if not rule.match.fits(frame):
                continue
            self._matched[index] += 1
            if not rule.applies(self._matched[index]):
                continue
            if rule.do == "drop":
                copies = 0
            elif rule.do == "duplicate":
                copies *= 2
            elif rule.do == "corrupt":
                turned = True
            else:
                extra_ns += round(rule.delay_ms * NS_PER_MS)
        if self.settings.loss_every and self._frames % self.settings.loss_every == 0:
            copies = 0
        return copies, extra_ns, turned

    def _turn_a_bit(self, frame: bytes) -> bytes:
        bit = self._choices.below(f"{self._place}.corrupt.bit", len(frame) * 8)
        turned = bytearray(frame)
        turned[bit // 8] ^= 0x80 >> bit % 8
        return bytes(turned)

    def _lost(self) -> bool:
        """loss_event."""
        loss = self.settings.loss
        if not isinstance(loss, GilbertElliott):
            return self._chance("loss", probability(loss))
        if self._bad:
            self._bad = not self._chance("loss.good", probability(loss.r))
            return self._chance("loss", probability(1 - loss.h))
        self._bad = self._chance("loss.bad", probability(loss.p))
        return self._chance("loss", probability(1 - loss.k))

    def _enqueue(self, frame: bytes, now_ns: int, extra_ns: int, *, again: bool = False) -> Iterator[tuple[bytes, int]]:
        """netem_enqueue."""
        count = 1 + (not again and self._chance("duplicate", self._duplicate))
        if self._lost():
            count -= 1
        if not count:
            return
        whole = frame
        if self._chance("corrupt", self._corrupt):
            frame = self._turn_a_bit(frame)
        waiting = self._waiting
        while waiting and waiting[0] <= now_ns:
            heapq.heappop(waiting)
        if len(waiting) >= self.settings.limit:
            return
        if count > 1:
            # The copy goes through all of it before the first one does, but is not copied again.
            yield from self._enqueue(whole, now_ns, extra_ns, again=True)
        gap = self.settings.gap
        overtakes = self._counter >= gap - 1 and self._chance("reorder", self._reorder)
        if overtakes:
            self._counter = 0
            yield frame, extra_ns
            return
        self._counter += 1
        leaves_ns = self._leaves_at(len(frame), now_ns) + extra_ns
        heapq.heappush(waiting, leaves_ns)
        yield frame, leaves_ns - now_ns

    def _leaves_at(self, length: int, now_ns: int) -> int:
        delay_ns = self._delay_ns
        if self._jitter_ns:
            delay_ns += self._choices.below(f"{self._place}.jitter", 2 * self._jitter_ns) - self._jitter_ns
        start_ns = now_ns
        if self._rate:
            if self._waiting:
                # Behind the last one; its waiting counts as delay of this one.
                delay_ns = max(delay_ns - (self._last_ns - now_ns), 0)
                start_ns = self._last_ns
            delay_ns += length * 8 * NS_PER_S // self._rate
        leaves_ns = max(start_ns + delay_ns, now_ns)
        self._last_ns = max(self._last_ns, leaves_ns)
        return leaves_ns
