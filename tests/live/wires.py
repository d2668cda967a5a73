"""The far ends of a namespace's cables: a process that sits inside network namespaces and speaks JSON lines.

Run as a program by :class:`tests.live.netns.Namespace`; it needs nothing but the standard library. Packet sockets
belong to the namespace they were made in, so it enters each, makes them, and then serves all from one loop.

Commands on standard input, one answer each on standard output:

    {"open": [[namespace, [interface, ...], "far" | "near"], ...]}   -> {}
    {"send": [interface, hex]}             out of the far end          -> {}
    {"seen": timeout in seconds or 0}      frames since the last time  -> {"frames": [[interface, direction, hex], ...]}

``seen`` answers when nothing is under way any more. Sleeping would not tell: instead sentinel frames are sent through a
veth pair of its own. All runs on one CPU, whose backlog is first in, first out: when a sentinel has come out of its
other end, each frame that was under way before it has moved on by one device. Only when several in a row have met
no frame is the network quiet. What a timer will send later is not waited for, unless by the time-out: then ``seen``
waits until at least one frame has come.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import sys

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23  # include/uapi/linux/if_packet.h, since 4.20
PACKET_OUTGOING = 4
CLONE_NEWNET = 0x40000000
#: Longest way through a namespace, in devices: port, bridge, tunnel, outer device and back.
QUIET_ROUNDS = 8
SENTINEL_TYPE = 0x88B6  # for local experiments (IEEE 802)
SENTINEL_LINKS = ("sentinel0", "sentinel1")


def enter(namespace: str) -> None:
    """Move this process into a named network namespace (Python has os.setns from 3.12 on)."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)
    finally:
        os.close(handle)


def packet_socket(interface: str, *, outgoing: bool) -> socket.socket:
    """A socket that sees every frame of an interface; those that it sends only if ``outgoing``."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    if not outgoing:
        made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    made.bind((interface, ETH_P_ALL))
    made.setblocking(False)
    return made


class Wires:
    """All sockets, and what they have seen."""

    def __init__(self) -> None:
        self.far: dict[str, socket.socket] = {}
        self.near: dict[str, socket.socket] = {}
        self.frames: list[tuple[str, str, str]] = []
        self.sentinel_out: socket.socket | None = None
        self.sentinel_in: socket.socket | None = None
        self.sentinels = 0

    def open(self, places: list[tuple[str, list[str], str]]) -> None:
        """Make sockets for the interfaces of each namespace."""
        for namespace, interfaces, side in places:
            enter(namespace)
            for interface in interfaces:
                if side == "far":
                    self.far[interface] = packet_socket(interface, outgoing=False)
                else:
                    self.near[interface] = packet_socket(interface, outgoing=True)
            if side == "far":
                self.sentinel_out = packet_socket(SENTINEL_LINKS[0], outgoing=False)
                self.sentinel_in = packet_socket(SENTINEL_LINKS[1], outgoing=False)

    def _drain(self) -> int:
        """Take what the sockets hold; returns how many frames that were."""
        taken = 0
        for side, sockets in (("far", self.far), ("near", self.near)):
            for interface, one in sockets.items():
                while True:
                    try:
                        frame, (_, protocol, kind, *_) = one.recvfrom(1 << 17)
                    except BlockingIOError:
                        break
                    taken += 1
                    direction = "out" if side == "far" or kind == PACKET_OUTGOING else "in"
                    if protocol != SENTINEL_TYPE:
                        self.frames.append(
                            (interface if side == "far" else f"near:{interface}", direction, frame.hex())
                        )
        return taken

    def _round(self) -> None:
        """Send a sentinel and wait until it is there."""
        assert self.sentinel_out is not None
        assert self.sentinel_in is not None
        self.sentinels += 1
        mark = self.sentinels.to_bytes(8, "big")
        self.sentinel_out.send(bytes(12) + SENTINEL_TYPE.to_bytes(2, "big") + mark)
        while True:
            if not select.select([self.sentinel_in], [], [], 10)[0]:
                raise TimeoutError("a sentinel frame got lost")
            if self.sentinel_in.recv(100)[14:22] == mark:
                return

    def seen(self, timeout_s: float) -> list[tuple[str, str, str]]:
        """All frames since the last time, once nothing moves any more."""
        quiet = 0
        while quiet < QUIET_ROUNDS:
            self._round()
            quiet = 0 if self._drain() else quiet + 1
        if timeout_s and not self.frames:
            select.select([*self.far.values(), *self.near.values()], [], [], timeout_s)
            return self.seen(0)
        frames, self.frames = self.frames, []
        return frames


def serve() -> None:
    """Answer commands until standard input ends."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    wires = Wires()
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, object] = {}
        try:
            if "open" in command:
                wires.open(command["open"])
            elif "send" in command:
                interface, frame = command["send"]
                wires.far[interface].send(bytes.fromhex(frame))
            else:
                answer["frames"] = wires.seen(command["seen"])
        except (OSError, KeyError) as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
