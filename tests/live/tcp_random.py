"""Scripts drawn at random: a peer that acknowledges, loses and reorders what it is sent, as receivers do.

    python -m tests.live.tcp_random 0 60          plays seeds 0 to 59 to the kernel and to ours, as root

A script is drawn against our own TCP, so that each step keeps away from what a timer may send: which of the two comes
first would depend on the machine. Of those that a machine plays in time about one in thirty still shows a difference:
where memory decides (how many buffers are on their way when several losses are repeated at once).
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field

from pktsim.clock import NS_PER_MS
from pktsim.kernel.tcp_segment import ACK, PSH, SYN
from tests.live.tcp_conversation import SYSCTLS, Options, Say
from tests.live.tcp_kernel import PUNCTUAL_NS, lateness_ns, play
from tests.live.tcp_script import Action, OurPlayer, Script, differences, replay, transcript

#: A timer's segment may come so much earlier or later in the kernel, by the share of its delay and at least.
_CLEAR_SHARE = 0.16
_CLEAR_NS = 12 * NS_PER_MS


@dataclass
class _Receiver:
    """What the peer has got of what was sent, byte by byte numbered from 1."""

    expected: int = 1
    held: list[tuple[int, int]] = field(default_factory=list)  # disjoint, newest first
    recent: list[tuple[int, int]] = field(default_factory=list)

    def take(self, start: int, stop: int) -> tuple[int, int] | None:
        """Take a segment. Returns what of it is reported as a duplicate."""
        duplicate = None
        if stop <= self.expected:
            return start, stop
        for left, right in self.held:
            if left <= start and stop <= right:
                return start, stop
        start = max(start, self.expected)
        touching = [block for block in self.held if block[0] <= stop and block[1] >= start]
        merged = (min([start, *(left for left, _ in touching)]), max([stop, *(right for _, right in touching)]))
        self.held = [merged, *(block for block in self.held if block not in touching)]
        for block in list(self.held):
            if block[0] <= self.expected:
                self.expected = max(self.expected, block[1])
                self.held.remove(block)
        return duplicate


def random_script(seed: int) -> Script:
    """A script, always the same for one seed."""
    chance = random.Random(seed)
    options = Options(timestamps=chance.random() < 0.8, sack=chance.random() < 0.8)
    steps: list[tuple[float, Action]] = [(0, "listen"), (0, Say(SYN)), (20, Say(ACK, 1, 1)), (5, "accept")]
    script = Script(steps, 0, options, windows=False)
    player = OurPlayer(script, SYSCTLS)
    clock = player.world.clock
    receiver = _Receiver()
    loss = chance.choice([0.0, 0.1, 0.3])
    late = chance.choice([0.0, 0.2])
    under_way: list[tuple[int, int, int]] = []  # (number of the segment, start, stop)
    seen = 0

    def take(delay_ms: float, action: Action) -> None:
        nonlocal seen
        clock.run_for(round(delay_ms * NS_PER_MS))
        player.drain()
        player.step(clock.now_ns, action)
        player.drain()

    def look() -> None:
        """What was sent meanwhile is lost, or under way."""
        nonlocal seen
        player.drain()
        frames = [event for event in player.events if event.kind == "seen"]
        for number in range(seen, len(frames)):
            words = frames[number].text.split()
            start, _, length = words[1].partition("+")
            stop = int(start) + int(length) + ("F" in words[0]) if start != "zero" else 0
            if "S" not in words[0] and start != "zero" and stop > int(start) and chance.random() >= loss:
                under_way.append((number, int(start), stop))
        seen = len(frames)

    for delay_ms, opening in steps:
        take(delay_ms, opening)
    look()
    sent_by_peer = 1
    finished = False
    for _ in range(chance.randrange(6, 16)):
        clear_ms = _clear(script, player, chance.choice([5, 15, 15, 30, 60, 120, 300]))
        if clear_ms is None:
            break
        delay_ms = clear_ms
        kind = chance.random()
        action: Action
        if kind < 0.3 and not finished:
            action = f"write {chance.choice([10, 100, 1448, 3000, 9000, 14480, 30000])}"
        elif kind < 0.35 and not finished:
            action, finished = "shutdown", True
        elif kind < 0.45:
            # Whether the kernel takes this for an occasion to send depends on its memory at that moment (fast path).
            if player.socket.connection is None or player.socket.connection.queue.write:
                continue
            length = chance.choice([1, 100, 1300])
            action = Say(ACK | PSH, sent_by_peer, receiver.expected, length, sack=tuple(receiver.held[:3]))
            sent_by_peer += length
        elif kind < 0.5:
            action = "read"
        else:
            clock.run_for(0)
            look()
            if not under_way:
                continue
            count = chance.randrange(1, len(under_way) + 1)
            arriving, under_way[:] = under_way[:count], under_way[count:]
            if chance.random() < late and len(arriving) > 1:
                under_way.insert(0, arriving.pop(chance.randrange(len(arriving) - 1)))
            dsack = None
            before = receiver.expected
            for _, start, stop in arriving:
                dsack = receiver.take(start, stop) or dsack
            # The echo is that of the segment which moved the edge, or of the last one that was in order.
            echo = arriving[0][0] if receiver.expected > before else None
            blocks = ((dsack,) if dsack else ()) + tuple(receiver.held[: 2 if dsack else 3])
            action = Say(
                ACK, sent_by_peer, receiver.expected, sack=blocks if options.sack else (), echo=echo, stamp=100
            )
        steps.append((delay_ms, action))
        take(delay_ms, action)
        look()
    script.end_ms = _clear(script, player, chance.choice([10, 100, 400])) or 10
    return script


def _clear(script: Script, player: OurPlayer, wanted_ms: float) -> float | None:
    """A delay of about that length, at whose end no timer is due: as long as need be, found on a copy of the past."""
    replayed = OurPlayer(script, SYSCTLS)
    clock = replayed.world.clock
    for delay_ms, action in script.steps:
        clock.run_for(round(delay_ms * NS_PER_MS))
        replayed.drain()
        replayed.step(clock.now_ns, action)
        replayed.drain()
    begun_ns = clock.now_ns
    known = len(replayed.events)
    clock.run_for(3000 * NS_PER_MS)
    replayed.drain()
    due: list[tuple[int, int]] = []
    last_ns = begun_ns
    for event in replayed.events[known:]:
        slack_ns = max(_CLEAR_NS, round(_CLEAR_SHARE * (event.at_ns - last_ns)))
        due.append((event.at_ns - begun_ns - slack_ns, event.at_ns - begun_ns + slack_ns))
        last_ns = event.at_ns
    at_ns = round(wanted_ms * NS_PER_MS)
    moved = True
    while moved:
        moved = False
        for low_ns, high_ns in due:
            if low_ns < at_ns < high_ns:
                at_ns, moved = high_ns, True
    return at_ns / NS_PER_MS if at_ns < 2900 * NS_PER_MS else None


def main() -> int:
    """The command line."""
    first, count = (int(word) for word in sys.argv[1:3])
    scripts = {f"seed {seed}": random_script(seed) for seed in range(first, first + count)}
    late = differ = 0
    for name, theirs in play(scripts).items():
        if lateness_ns(scripts[name], theirs) > PUNCTUAL_NS:
            late += 1
            continue
        ours = replay(scripts[name], theirs, SYSCTLS)
        if found := differences(scripts[name], theirs, ours):
            differ += 1
            print(name, *found, "kernel:", transcript(theirs), "here:", transcript(ours), sep="\n")
    print(f"{count} scripts: {late} not played in time, {differ} of the others differ")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
