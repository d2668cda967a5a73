"""The kernel's TCP and ours, told the same things by the same peer: every answer must be alike.

The peer is written by hand, or drawn at random; the process at the other end does what it is told. Compared are flags,
sequence and acknowledgement numbers, window, the bytes of the options (time stamps apart), payload length, TTL, DF,
how the IP identification goes on, and between which two steps a segment comes. All conversations are had with the
kernel at the same time.
"""

from __future__ import annotations

import random
import re

import pytest

from pktsim.clock import NS_PER_MS
from pktsim.kernel.tcp_segment import ACK, FIN, PSH, RST, SYN
from tests.live.tcp_conversation import SYSCTLS, Options, Say
from tests.live.tcp_kernel import play_punctually
from tests.live.tcp_script import Action, Event, Script, replay, transcript

#: Between two steps: longer than a delayed ACK takes, and no multiple of it is about as long as a retransmission.
PATIENCE_MS = 60

#: What the peer says and the process does, after a handshake and accept().
Step = Action

CASES: dict[str, list[Step]] = {
    "request and answer": [
        Say(ACK | PSH, 1, 1, 67),
        "read",
        "write 103",
        Say(ACK, 68, 104),
        "shutdown",
        Say(FIN | ACK, 68, 105),
        "close",
    ],
    "the peer closes first": [
        Say(ACK | PSH, 1, 1, 67),
        "read",
        "write 103",
        Say(FIN | ACK, 68, 104),
        "read",
        "close",
        Say(ACK, 69, 105),
    ],
    "the peer closes without a word": [Say(FIN | ACK, 1, 1), "close", Say(ACK, 2, 2), Say(ACK, 2, 2)],
    "a window that grows": [
        *(Say(ACK, 1 + 1448 * number, 1, 1448) for number in range(10)),
        "read",
        *(Say(ACK, 1 + 1448 * number, 1, 1448) for number in range(10, 14)),
        Say(ACK | PSH, 1 + 1448 * 14, 1, 10),
    ],
    "small segments": [*(Say(ACK | PSH, 1 + 10 * number, 1, 10) for number in range(20)), "read"],
    "out of order": [
        Say(ACK, 101, 1, 100),
        Say(ACK, 301, 1, 100),
        Say(ACK, 201, 1, 50),
        Say(ACK, 101, 1, 20),
        Say(ACK, 1, 1, 100),
        Say(ACK, 251, 1, 50),
        "read",
    ],
    "duplicates": [Say(ACK | PSH, 1, 1, 50), Say(ACK | PSH, 1, 1, 50), Say(ACK | PSH, 1, 1, 80), Say(ACK, 40, 1, 10)],
    "resets that miss": [Say(RST, 2), Say(RST, 70000), Say(RST, 0), Say(RST, 1), "read"],
    "syn again": [Say(SYN, 0), Say(SYN, 1), Say(SYN | ACK, 0, 1), Say(SYN | ACK, 50000, 1)],
    "acks of nothing": [Say(ACK, 1, 2), Say(ACK, 1, 0), Say(ACK, 1, -100000), Say(ACK, 1, 100000)],
    "old stamps": [Say(ACK | PSH, 1, 1, 10, stamp=50), Say(ACK, 1, 1, stamp=50), Say(ACK | PSH, 1, 1, 10, stamp=101)],
    "no ack flag": [Say(PSH, 1, 0, 10), Say(FIN, 1), Say(0, 1)],
    "close with unread data": [Say(ACK | PSH, 1, 1, 10), "close", Say(ACK, 11, 1)],
    "abort": ["abort", Say(ACK, 1, 1)],
    "data after close": ["close", Say(ACK, 1, 2), Say(ACK | PSH, 1, 2, 10), Say(ACK, 1, 2)],
    "data before the fin is acknowledged": ["close", Say(ACK | PSH, 1, 1, 10)],
    "data after shutdown": [
        "shutdown",
        Say(ACK, 1, 2),
        Say(ACK | PSH, 1, 2, 10),
        "read",
        Say(FIN | ACK, 11, 2),
        "close",
    ],
    "both close": ["close", Say(FIN | ACK, 1, 1), Say(ACK, 2, 2), Say(FIN | ACK, 1, 2), Say(ACK, 2, 2)],
    "fin acknowledges fin": [
        "close",
        Say(FIN | ACK, 1, 2),
        Say(FIN | ACK, 1, 2),
        Say(ACK, 5, 2),
        Say(SYN, 1),
        Say(RST, 2),
        Say(ACK, 2, 2),
    ],
    "fin wait 2 without a process": [
        "close",
        Say(ACK, 1, 2),
        Say(ACK, 0, 2),
        Say(FIN | ACK, 1, 2),
        Say(FIN | ACK, 1, 2),
        Say(SYN, 9999),
    ],
    "syn in fin wait 2": ["close", Say(ACK, 1, 2), Say(SYN, 1)],
    "a new connection in time wait": [
        "close",
        Say(FIN | ACK, 1, 2),
        Say(SYN, 5000, stamp=200),
        Say(ACK, 5001, 1, stamp=200),
    ],
    "fin before its data": [Say(FIN | ACK, 101, 1), Say(ACK | PSH, 1, 1, 100), "read", "read"],
    "bytes after fin": [Say(FIN | ACK, 1, 1, 10), Say(ACK | PSH, 12, 1, 10), "read", "read", "close"],
    "data beyond the window": [Say(ACK, 66000, 1, 10), Say(ACK, 65000, 1, 1448), Say(ACK, 1, 1, 10)],
}

_OPTIONS = (
    Options(timestamps=False),
    Options(sack=False),
    Options(wscale=-1),
    Options(mss=0),
    Options(mss=536, wscale=0),
    Options(timestamps=False, sack=False, wscale=-1),
)


def _script(steps: list[Step], options: Options | None = None) -> Script:
    opening: list[tuple[float, Step]] = [(0, "listen"), (0, Say(SYN)), (2, Say(ACK, 1, 1)), (5, "accept")]
    return Script([*opening, *((PATIENCE_MS, step) for step in steps)], PATIENCE_MS, options or Options())


def _random_steps(seed: int) -> list[Step]:
    """A peer that mostly makes sense. Our side sends nothing, so that no retransmission is due."""
    chance = random.Random(seed)
    steps: list[Step] = []
    sent = 1
    for _ in range(14):
        kind = chance.random()
        if kind < 0.45:
            length = chance.choice([1, 10, 100, 600, 1448])
            steps.append(Say(ACK | chance.choice([0, PSH]), sent, 1, length))
            sent += length
        elif kind < 0.65:
            seq = sent + chance.choice([-2000, -100, -1, 1, 50, 1448, 3000, 60_000, 80_000])
            length = chance.choice([0, 1, 50, 1448])
            steps.append(Say(ACK | chance.choice([0, PSH, FIN]), max(seq, 1), 1, length))
        elif kind < 0.75:
            flags = chance.choice([SYN, RST, RST | ACK, SYN | ACK, FIN, PSH, ACK])
            steps.append(Say(flags, sent + chance.choice([-1, 1, 2, 70_000]), 1, 0))
        elif kind < 0.95:
            steps.append("read")
        else:
            steps.append(Say(FIN | ACK, sent, 1))
            sent += 1
    return steps


SCRIPTS = {
    **{name: _script(steps) for name, steps in CASES.items()},
    **{
        f"{name}, {options}": _script(CASES[name], options)
        for name in ("request and answer", "a window that grows", "out of order", "duplicates")
        for options in _OPTIONS
    },
    **{f"random {seed}": _script(_random_steps(seed)) for seed in range(40)},
}


@pytest.fixture(scope="module")
def kernel(_live_machine: None) -> dict[str, list[Event]]:
    """What the kernel said in each conversation."""
    return play_punctually(SCRIPTS)


def _lines(script: Script, events: list[Event]) -> list[str]:
    """Everything in order, without windows once the peer has sent large segments.

    A frame from a packet socket takes other memory than one that TCP has made, and the kernel's window follows the
    memory.
    """
    lines: list[str] = []
    actions = iter(action for _, action in script.steps)
    windows = True
    for event in sorted(events, key=lambda event: event.at_ns):
        if event.kind == "did":
            action = next(actions)
            windows = windows and not (isinstance(action, Say) and action.length > 500)
            lines.append(f"-> {action if isinstance(action, Say) else event.text}")
        else:
            lines.append(event.text if windows else re.sub(r"win \d+", "win", event.text))
    return lines


@pytest.mark.parametrize("name", SCRIPTS)
def test_alike(kernel: dict[str, list[Event]], name: str) -> None:
    script, theirs = SCRIPTS[name], kernel[name]
    ours = replay(script, theirs, SYSCTLS)
    assert _lines(script, ours) == _lines(script, theirs), f"kernel:\n{transcript(theirs)}\nhere:\n{transcript(ours)}"


def test_another_answer_and_another_moment_are_seen() -> None:
    """The comparison must be able to fail."""
    script = SCRIPTS["duplicates"]
    moments = [Event(number * PATIENCE_MS * NS_PER_MS, "did", "") for number in range(len(script.steps))]
    right = replay(script, moments, SYSCTLS)
    assert _lines(script, right) == _lines(script, right)
    for number, event in enumerate(right):
        if event.kind == "seen":
            without = right[:number] + right[number + 1 :]
            early = Event(event.at_ns - PATIENCE_MS * NS_PER_MS, "seen", event.text)
            other = Event(event.at_ns, "seen", event.text.replace("ack ", "ack 1"))
            for change in ([], [early], [other]):
                assert _lines(script, [*without, *change]) != _lines(script, right)
