"""The kernel's TCP and ours, told the same things by the same peer: every answer must be alike.

The peer is written by hand, or drawn at random; the process at the other end does what it is told. Compared are flags,
sequence and acknowledgement numbers, window, the bytes of the options (time stamps apart), payload length, TTL, DF and
how the IP identification goes on.
"""

from __future__ import annotations

import errno
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pktsim.clock import NS_PER_MS
from pktsim.kernel.task import run
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.tcp_segment import ACK, FIN, PSH, RST, SYN
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.transport import IPPROTO_TCP, parse_ip
from pktsim.wire.addr import mac_from_text
from tests.kernel.transport_world import Wire, World
from tests.live import netns, tcp_process
from tests.live.tcp_conversation import FAR_MAC, NEAR_MAC, SYSCTLS, Conversation, Options, Say

#: Longer than a delayed ACK, shorter than a retransmission.
PATIENCE_MS = 90

Step = Say | str


class Kernel:
    """The running kernel's side."""

    def __init__(self, node: netns.Namespace, options: Options) -> None:
        self.node = node
        self.conversation = Conversation(options, tcp_process.PORT)
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", node.name, sys.executable, str(Path(tcp_process.__file__)), "4"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def say(self, say: Say) -> None:
        frame = mac_from_text(NEAR_MAC) + mac_from_text(FAR_MAC) + b"\x08\x00" + self.conversation.packet(say)
        self.node.send("eth0", frame)

    def answers(self) -> list[str]:
        seen = self.node.frames() or self.node.frames(PATIENCE_MS / 1000)
        packets = [parse_ip(one.frame[14:]) for one in seen if one.frame[12:14] == b"\x08\x00"]
        return [
            self.conversation.describe(packet)
            for packet in packets
            if packet is not None and packet.protocol == IPPROTO_TCP
        ]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


class Ours:
    """Our side."""

    def __init__(self, options: Options) -> None:
        self.world = World()
        self.world.wire = Wire(lambda number, packet: [])
        settings = TcpSettings.from_sysctls({key: str(value) for key, value in SYSCTLS.items()})
        self.host = self.world.host("me", "10.77.0.1", tcp=settings)
        self.conversation = Conversation(options, tcp_process.PORT)
        self.listener = self.host.sockets.tcp()
        self.listener.reuse_address = True
        self.listener.bind("", tcp_process.PORT)
        self.socket: TcpSocket = self.listener
        self.seen = 0

    def do(self, command: str) -> str:
        verb, _, argument = command.partition(" ")
        verbs: dict[str, Callable[[], object]] = {
            "listen": lambda: self.listener.listen(8),
            "accept": self._accept,
            "read": lambda: len(self._read()),
            "write": lambda: self.socket.send(b"x" * int(argument)),
            "nodelay": self.socket.set_nodelay,
            "shutdown": self.socket.shutdown_write,
            "close": self.socket.close,
            "abort": self.socket.abort,
        }
        try:
            result = verbs[verb]()
        except TimeoutError as error:
            return errno.errorcode.get(error.errno or errno.EAGAIN, "?")
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        return "ok" if result is None else str(result)

    def _accept(self) -> None:
        self.socket = run(self.world.clock, self.listener.accept(NS_PER_MS))

    def _read(self) -> bytes:
        return run(self.world.clock, self.socket.recv(1 << 20, timeout_ns=1))

    def say(self, say: Say) -> None:
        packet = parse_ip(self.conversation.packet(say))
        assert packet is not None
        self.host.receive(packet, 2)

    def answers(self) -> list[str]:
        self.world.clock.run_for(NS_PER_MS)
        if len(self.world.log) == self.seen:
            self.world.clock.run_for((PATIENCE_MS - 1) * NS_PER_MS)
        lines = [self.conversation.describe(seen.packet) for seen in self.world.log[self.seen :]]
        self.seen = len(self.world.log)
        return lines


@contextmanager
def _kernel(make: Callable[..., netns.Namespace], options: Options) -> Iterator[Kernel]:
    node = make(
        [netns.Link("eth0", NEAR_MAC, ("10.77.0.1/24",), far_mac=FAR_MAC)],
        neighbours=[("10.77.0.2", FAR_MAC, "eth0")],
        sysctls=SYSCTLS,
    )
    kernel = Kernel(node, options)
    try:
        yield kernel
    finally:
        kernel.close()


def compare(make: Callable[..., netns.Namespace], steps: list[Step], options: Options | None = None) -> None:
    """Take both through ``steps``; an opening handshake up to accept() comes first.

    Windows are not compared once the peer has sent large segments: a frame from a packet socket takes other memory
    than one that TCP has made, and the kernel's window follows the memory.
    """
    options = options or Options()
    ours = Ours(options)
    opening: list[Step] = ["listen", Say(SYN), Say(ACK, 1, 1), "accept"]
    with _kernel(make, options) as kernel:
        for number, step in enumerate(opening + steps):
            if isinstance(step, str):
                theirs_said, ours_said = [kernel.do(step)], [ours.do(step)]
            else:
                kernel.say(step)
                ours.say(step)
                theirs_said, ours_said = [], []
            theirs_said += kernel.answers()
            ours_said += ours.answers()
            if any(isinstance(done, Say) and done.length > 500 for done in (opening + steps)[: number + 1]):
                theirs_said = [re.sub(r"win \d+", "win", line) for line in theirs_said]
                ours_said = [re.sub(r"win \d+", "win", line) for line in ours_said]
            history = "\n".join(str(done) for done in (opening + steps)[: number + 1])
            assert ours_said == theirs_said, f"after\n{history}"


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


@pytest.mark.parametrize("name", CASES)
def test_alike(namespace: Callable[..., netns.Namespace], name: str) -> None:
    compare(namespace, CASES[name])


@pytest.mark.parametrize(
    "options",
    [
        Options(timestamps=False),
        Options(sack=False),
        Options(wscale=-1),
        Options(mss=0),
        Options(mss=536, wscale=0),
        Options(timestamps=False, sack=False, wscale=-1),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["request and answer", "a window that grows", "out of order", "duplicates"])
def test_alike_with_other_options(namespace: Callable[..., netns.Namespace], name: str, options: Options) -> None:
    compare(namespace, CASES[name], options)


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_alike_at_random(namespace: Callable[..., netns.Namespace], seed: int) -> None:
    compare(namespace, _random_steps(seed))
