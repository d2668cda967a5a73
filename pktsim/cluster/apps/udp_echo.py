"""A UDP server that says who it is, whom it saw and what was said."""

from __future__ import annotations

from pktsim.clock import NS_PER_US
from pktsim.cluster.apps.http_server import peer_text
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.task import Task, sleep, spawn
from pktsim.kernel.transport import AF_INET
from pktsim.kernel.udp import UdpSocket

#: No more of a datagram than this is said again.
ECHO_LIMIT = 1200
_THINK_NS = 30 * NS_PER_US


class UdpEchoServer:
    """One server process: answers ``NAME saw PEER say DATA``.

    Args:
        sockets: Of the namespace it runs in.
        name: Who it says it is.
        port: Where it listens.
        family: Of its socket.
        address: On which address; empty for all.
    """

    def __init__(
        self, sockets: SocketLayer, name: str, port: int = 8081, *, family: int = AF_INET, address: str = ""
    ) -> None:
        self.sockets = sockets
        self.name = name
        self.port = port
        self.family = family
        self.address = address
        self.served = 0
        self._socket: UdpSocket | None = None
        self._task: Task[None] | None = None

    def start(self) -> Task[None]:
        """Bind and serve until :meth:`stop`.

        Raises:
            OSError: The port is taken.
        """
        socket = self.sockets.udp(self.family)
        socket.bind(self.address, self.port)
        self._socket = socket
        self._task = spawn(self.sockets.clock, self._serve(socket), f"{self.name} udp server")
        return self._task

    def stop(self) -> None:
        """Kill the process."""
        if self._task is not None:
            self._task.cancel()
        if self._socket is not None:
            self._socket.close()

    async def _serve(self, socket: UdpSocket) -> None:
        while True:
            data, address, port = await socket.recvfrom()
            await sleep(self.sockets.clock, _THINK_NS)
            said = f"{self.name} saw {peer_text(address, port)} say ".encode() + data[:ECHO_LIMIT]
            try:
                socket.sendto(said, address, port)
            except OSError:
                continue  # no way back to this one; others may come
            self.served += 1
