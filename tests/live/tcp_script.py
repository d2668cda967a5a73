"""Scripts for one side of TCP: what a peer says and a process does, and when; played to the kernel and to ours.

The kernel goes first. Ours is then told the same things at the very moments at which the kernel was told them, so what
a busy machine did to the times, and with them to every round-trip estimate, is the same for both. Segments must be
alike in content and order; their times only about, since timers are coarse and the machine is not ours alone.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pktsim.clock import NS_PER_MS
from pktsim.kernel.task import run
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.timer_wheel import TimerWheel
from pktsim.kernel.transport import IpPacket, parse_ip
from pktsim.wire.addr import ip_to_text
from tests.kernel.transport_world import Wire, World
from tests.live.tcp_conversation import ME, PEER, PEER_PORT, SYSCTLS, Conversation, Options, Say

#: What the times of two segments may differ by: a timer's wheel rounds up by as much as an eighth, and a machine with
#: other work does things late.
SLACK_NS = 60 * NS_PER_MS
SLACK_SHARE = 0.15

#: After so long a timer of up to two seconds is rounded up as before (64 ticks).
_WHEEL_NS = 256 * NS_PER_MS

Action = Say | str


@dataclass
class Script:
    """Steps, each so many milliseconds after the one before, and how long to listen after the last.

    Attributes:
        windows: Whether windows are compared: not once large segments have come, since a frame from a packet socket
            takes other memory than one that TCP has made.
        sysctls: Beside the common ones.
    """

    steps: list[tuple[float, Action]]
    end_ms: float = 100
    options: Options = field(default_factory=Options)
    windows: bool = True
    sysctls: dict[str, str | int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        found["steps"] = [[at_ms, act if isinstance(act, str) else asdict(act)] for at_ms, act in self.steps]
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Script:
        steps = [(at_ms, act if isinstance(act, str) else _say(act)) for at_ms, act in found["steps"]]
        return cls(steps, found["end_ms"], Options(**found["options"]), found["windows"], found["sysctls"])


def _say(found: Mapping[str, Any]) -> Say:
    return Say(**{**found, "sack": tuple((left, right) for left, right in found["sack"])})


@dataclass
class Event:
    """Something that happened: a step (``did``, with its result) or a segment (``seen``, in words)."""

    at_ns: int
    kind: str
    text: str

    def to_json(self) -> list[Any]:
        return [self.at_ns, self.kind, self.text]


class Player:
    """Takes one script's steps and notes what is seen."""

    def __init__(self, script: Script, port: int) -> None:
        self.script = script
        self.port = port
        self.events: list[Event] = []
        self.conversations: dict[int, Conversation] = {}

    def peer_port(self, peer: int) -> int:
        return PEER_PORT + 100 * peer + self.port % 100

    def conversation(self, peer: int) -> Conversation:
        if peer not in self.conversations:
            self.conversations[peer] = Conversation(self.script.options, self.port, self.peer_port(peer))
        return self.conversations[peer]

    def inject(self, packet: bytes) -> None:
        raise NotImplementedError

    def do(self, verb: str, argument: str) -> str:
        raise NotImplementedError

    def step(self, at_ns: int, action: Action) -> None:
        if isinstance(action, str):
            verb, _, argument = action.partition(" ")
            self.events.append(Event(at_ns, "did", f"{action}: {self.do(verb, argument)}"))
        else:
            self.events.append(Event(at_ns, "did", "say"))
            self.inject(self.conversation(action.peer).packet(action))

    def seen(self, at_ns: int, packet: IpPacket) -> None:
        peer = (int.from_bytes(packet.payload[2:4], "big") - PEER_PORT) // 100
        text = self.conversation(peer).describe(packet)
        self.events.append(Event(at_ns, "seen", f"to {peer}: {text}" if peer else text))


class OurPlayer(Player):
    """One script's sockets here."""

    def __init__(self, script: Script, sysctls: Mapping[str, str | int]) -> None:
        super().__init__(script, 8000)
        self.world = World()
        self.world.wire = Wire(lambda number, packet: [])
        settings = TcpSettings.from_sysctls({key: str(value) for key, value in sysctls.items()})
        self.host = self.world.host("me", ip_to_text(ME), tcp=settings, wheel=TimerWheel(self.world.clock))
        self.listener = self.host.sockets.tcp()
        self.listener.reuse_address = True
        self.listener.bind(ip_to_text(ME), self.port)
        self.socket: TcpSocket = self.listener
        self.taken = 0

    def inject(self, packet: bytes) -> None:
        parsed = parse_ip(packet)
        assert parsed is not None
        self.host.receive(parsed, 2)

    def do(self, verb: str, argument: str) -> str:
        verbs: dict[str, Callable[[], object]] = {
            "listen": lambda: self.listener.listen(int(argument or 8)),
            "connect": lambda: self.socket.start_connect(ip_to_text(PEER), self.peer_port(0)),
            "accept": self._accept,
            "read": lambda: len(run(self.world.clock, self.socket.recv(int(argument or 1 << 20), timeout_ns=0))),
            "write": lambda: self.socket.send(b"x" * int(argument)),
            "shutdown": self.socket.shutdown_write,
            "close": self.socket.close,
            "close-listener": self.listener.close,
            "abort": self.socket.abort,
            "error": self._error,
            "set": lambda: self._set(*argument.split()),
        }
        try:
            result = verbs[verb]()
        except TimeoutError as error:
            return errno.errorcode.get(error.errno or errno.EAGAIN, "?")
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        return "ok" if result is None else str(result)

    def _accept(self) -> None:
        self.socket = run(self.world.clock, self.listener.accept(0))

    def _error(self) -> str:
        return errno.errorcode.get(self.socket.take_error(), "none")

    def _set(self, name: str, value: str) -> None:
        setters: dict[str, Callable[[int], None]] = {
            "nodelay": lambda on: self.socket.set_nodelay(bool(on)),
            "cork": lambda on: self.socket.set_cork(bool(on)),
            "quickack": lambda on: self.socket.set_quickack(bool(on)),
            "keepalive": lambda on: self.socket.set_keepalive(bool(on)),
            "keepidle": lambda seconds: self.socket.set_keepalive(self.socket.keepalive, idle_s=seconds),
            "keepintvl": lambda seconds: self.socket.set_keepalive(self.socket.keepalive, interval_s=seconds),
            "keepcnt": lambda count: self.socket.set_keepalive(self.socket.keepalive, count=count),
            "user_timeout": lambda milliseconds: self.socket.set_user_timeout(milliseconds),
            "syncnt": lambda count: self.socket.set_syncnt(count),
            "linger2": lambda seconds: self.socket.set_linger2(seconds),
            "defer_accept": lambda seconds: self.socket.set_defer_accept(seconds),
            "maxseg": lambda size: setattr(self.socket, "mss", size),
            "rcvbuf": lambda size: self.socket.set_rcvbuf(size),
            "sndbuf": lambda size: setattr(self.socket, "sndbuf", size),
        }
        setters[name](int(value))

    def drain(self) -> None:
        for seen in self.world.log[self.taken :]:
            self.seen(seen.at_ns, seen.packet)
        self.taken = len(self.world.log)


def replay(
    script: Script, theirs: list[Event], sysctls: Mapping[str, str | int], *, starting_ns: int = 0
) -> list[Event]:
    """Play a script to ours, each step at the moment at which the kernel was given it.

    Args:
        starting_ns: What our clock says at the first step; ticks are counted from 0.
    """
    ours = OurPlayer(script, sysctls)
    clock = ours.world.clock
    moments = [event.at_ns for event in theirs if event.kind == "did"]
    first_ns = moments[0] - starting_ns
    for (_, action), at_ns in zip(script.steps, moments, strict=True):
        clock.run_until(at_ns - first_ns)
        ours.drain()
        ours.step(clock.now_ns, action)
        ours.drain()
    clock.run_for(round(script.end_ms * NS_PER_MS))
    ours.drain()
    return ours.events


def outcomes(
    script: Script, sysctls: Mapping[str, str | int], chance: random.Random, *, within_ns: int, plays: int = 12
) -> set[str]:
    """What may come of a script whose steps are late by up to ``within_ns``, wherever the timers' wheel stands.

    If that is not always the same, the kernel may differ from ours though both are right: its moments are others by
    some microseconds, and its ticks by more. Steps of less than a millisecond stay together, since what is gathered
    meanwhile depends on them.
    """
    found = set()
    for _ in range(plays):
        due_ns = late_ns = 0
        moments: list[Event] = []
        for delay_ms, _action in script.steps:
            due_ns += round(delay_ms * NS_PER_MS)
            if delay_ms >= 1 or not moments:
                late_ns = max(chance.randrange(within_ns), moments[-1].at_ns - due_ns if moments else 0)
            moments.append(Event(due_ns + late_ns, "did", ""))
        events = replay(script, moments, sysctls, starting_ns=chance.randrange(_WHEEL_NS))
        found.add("\n".join(f"{event.kind} {event.text}" for event in events))
    return found


def until_the_end(script: Script, events: list[Event]) -> list[Event]:
    """Without what was seen because nobody stopped listening in time."""
    end_ns = max(event.at_ns for event in events if event.kind == "did") + round(script.end_ms * NS_PER_MS)
    return [event for event in events if event.kind == "did" or event.at_ns <= end_ns]


def differences(script: Script, theirs: list[Event], ours: list[Event]) -> list[str]:
    """What is not alike: results of steps, segments and their order, and times as far as they may be compared."""

    def words(events: list[Event], kind: str) -> list[str]:
        texts = [event.text for event in events if event.kind == kind]
        if script.windows:
            return texts
        return [
            " ".join(word for word, before in zip(text.split(), ["", *text.split()], strict=False) if before != "win")
            for text in texts
        ]

    for kind in ("did", "seen"):
        one, other = words(theirs, kind), words(ours, kind)
        if one != other:
            return [f"the kernel ({kind}):", *one, "here:", *other]
    found = []
    their_times, our_times = _times(theirs), _times(ours)
    for (text, their_ns), (_, our_ns) in zip(their_times, our_times, strict=True):
        if abs(their_ns - our_ns) > SLACK_NS + SLACK_SHARE * max(their_ns, our_ns):
            found.append(f"{text}: after {their_ns / 1e6:.1f} ms in the kernel, {our_ns / 1e6:.1f} ms here")
    return found


def _times(events: list[Event]) -> list[tuple[str, int]]:
    """Each segment with the time since the event before it."""
    ordered = sorted(events, key=lambda event: event.at_ns)
    return [
        (event.text, event.at_ns - before.at_ns)
        for before, event in zip([ordered[0], *ordered], ordered, strict=False)
        if event.kind == "seen"
    ]


def transcript(events: list[Event]) -> str:
    """For people: milliseconds from the start, what was done and what was seen."""
    start_ns = min((event.at_ns for event in events), default=0)
    return "\n".join(
        f"{(event.at_ns - start_ns) / 1e6:9.1f}  {'-> ' if event.kind == 'did' else '   '}{event.text}"
        for event in sorted(events, key=lambda event: event.at_ns)
    )


__all__ = [
    "PEER",
    "SYSCTLS",
    "Action",
    "Event",
    "Options",
    "Player",
    "Say",
    "Script",
    "differences",
    "outcomes",
    "replay",
]
