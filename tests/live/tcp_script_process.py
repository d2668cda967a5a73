"""Plays scripts to the running kernel's TCP, all at the same time, and says what came of each and when.

Run as ``python -m tests.live.tcp_script_process FAR NEAR``: the peers' packet socket is in namespace FAR, the sockets
under test are in NEAR. A JSON object on standard input, name of a script -> what :func:`Script.to_json` gives; one on
standard output, name -> events (see :mod:`tests.live.tcp_script`). One loop does everything, so that what is said late
on a busy machine is said late everywhere, and the moment at which it was said is known.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import json
import os
import select
import socket
import struct
import sys
import time

from pktsim.kernel.transport import parse_ip
from pktsim.wire.addr import ip_to_text, mac_from_text
from pktsim.wire.frame import IPPROTO_TCP
from tests.live.tcp_conversation import FAR_MAC, ME, NEAR_MAC, PEER
from tests.live.tcp_script import Event, Player, Script
from tests.live.wires import enter, packet_socket

SO_TIMESTAMPNS = 35
_OPTIONS = {
    "nodelay": (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "cork": (socket.IPPROTO_TCP, socket.TCP_CORK),
    "quickack": (socket.IPPROTO_TCP, socket.TCP_QUICKACK),
    "keepidle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "keepintvl": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "keepcnt": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "user_timeout": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    "syncnt": (socket.IPPROTO_TCP, socket.TCP_SYNCNT),
    "linger2": (socket.IPPROTO_TCP, socket.TCP_LINGER2),
    "defer_accept": (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
    "maxseg": (socket.IPPROTO_TCP, socket.TCP_MAXSEG),
    "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "rcvbuf": (socket.SOL_SOCKET, socket.SO_RCVBUF),
    "sndbuf": (socket.SOL_SOCKET, socket.SO_SNDBUF),
}


class KernelPlayer(Player):
    """One script's sockets in the running kernel."""

    def __init__(self, script: Script, port: int, wire: socket.socket) -> None:
        super().__init__(script, port)
        self.wire = wire
        self.over = False
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((ip_to_text(ME), port))
        self.listener.setblocking(False)
        self.connection = self.listener

    def inject(self, packet: bytes) -> None:
        self.wire.send(mac_from_text(NEAR_MAC) + mac_from_text(FAR_MAC) + b"\x08\x00" + packet)

    def do(self, verb: str, argument: str) -> str:
        try:
            return str(self._do(verb, argument))
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))

    def _do(self, verb: str, argument: str) -> object:
        connection = self.connection
        if verb == "listen":
            self.listener.listen(int(argument or 8))
        elif verb == "connect":
            wanted = connection.connect_ex((ip_to_text(PEER), self.peer_port(0)))
            if wanted != errno.EINPROGRESS:
                raise OSError(wanted, "connect")
        elif verb == "accept":
            self.connection, _ = self.listener.accept()
            self.connection.setblocking(False)
        elif verb == "read":
            return len(connection.recv(int(argument or 1 << 20)))
        elif verb == "write":
            return connection.send(b"x" * int(argument))
        elif verb == "shutdown":
            connection.shutdown(socket.SHUT_WR)
        elif verb == "close":
            connection.close()
        elif verb == "close-listener":
            self.listener.close()
        elif verb == "abort":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        elif verb == "error":
            return errno.errorcode.get(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "none")
        elif verb == "set":
            name, _, value = argument.partition(" ")
            level, option = _OPTIONS[name]
            connection.setsockopt(level, option, int(value))
        else:
            raise ValueError(verb)
        return "ok"

    def close(self) -> None:
        self.connection.close()
        self.listener.close()


def play(scripts: dict[str, Script], far: str, near: str) -> dict[str, list[Event]]:
    """Play all scripts, and gather what is seen until each is over."""
    enter(far)
    wire = packet_socket("eth0", outgoing=False)
    wire.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    enter(near)
    players = {name: KernelPlayer(script, 8000 + index, wire) for index, (name, script) in enumerate(scripts.items())}
    by_port = {player.port: player for player in players.values()}
    began_ns = time.time_ns()
    agenda: list[tuple[int, int, KernelPlayer, int]] = []
    for serial, player in enumerate(players.values()):
        # a little apart, so that they do not get into each other's way all the time
        heapq.heappush(agenda, (began_ns + serial * 3_000_000, serial, player, 0))

    def drain() -> None:
        while True:
            try:
                frame, ancillary, _, _ = wire.recvmsg(1 << 16, 64)
            except BlockingIOError:
                return
            packet = parse_ip(frame[14:]) if frame[12:14] == b"\x08\x00" else None
            if packet is None or packet.protocol != IPPROTO_TCP:
                continue
            at_ns = time.time_ns()
            for _, kind, data in ancillary:
                if kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("qq", data[:16])
                    at_ns = seconds * 1_000_000_000 + nanoseconds
            owner = by_port.get(int.from_bytes(packet.payload[:2], "big"))
            if owner is not None and not owner.over:
                owner.seen(at_ns, packet)

    while agenda:
        due_ns, serial, player, number = agenda[0]
        now_ns = time.time_ns()
        if due_ns > now_ns:
            select.select([wire], [], [], (due_ns - now_ns) / 1e9)
            drain()
            continue
        heapq.heappop(agenda)
        drain()
        if number < len(player.script.steps):
            player.step(time.time_ns(), player.script.steps[number][1])
            following = number + 1
            delay_ms = (
                player.script.steps[following][0] if following < len(player.script.steps) else player.script.end_ms
            )
            # By the plan, not by when this step came to be: what was late once does not make all later. But the end is
            # as long after the last step as it should be.
            from_ns = due_ns if following < len(player.script.steps) else time.time_ns()
            heapq.heappush(agenda, (from_ns + round(delay_ms * 1e6), serial, player, following))
        else:
            player.over = True
    drain()
    for player in players.values():
        player.close()
    return {name: player.events for name, player in players.items()}


def _before_others() -> None:
    """Be woken at once, if that is allowed, whatever else the machine does; it is little that is done here."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    scripts = {name: Script.from_json(found) for name, found in json.load(sys.stdin).items()}
    _before_others()
    events = play(scripts, sys.argv[1], sys.argv[2])
    json.dump({name: [event.to_json() for event in found] for name, found in events.items()}, sys.stdout)


if __name__ == "__main__":
    main()
