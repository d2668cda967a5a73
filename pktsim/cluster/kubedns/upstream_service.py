"""The plain name server of :mod:`.upstream` on the sockets of its host."""

from __future__ import annotations

from typing import Any

from pktsim.fidelity import approximated
from pktsim.kernel.sockets import SocketLayer
from pktsim.kernel.task import Task, spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.udp import UdpSocket

from .server import TCP_IDLE_TIMEOUT_NS
from .service import read_message
from .upstream import Upstream

approximated(
    "cluster.upstream",
    "beyond the cluster there is one name server, which knows the records that it is given and denies all other names",
    source="kubeadm's Corefile: forward . /etc/resolv.conf",
)

_PORT = 53


class UpstreamService:
    """Serves over UDP and TCP on port 53 of all IPv4 addresses.

    Args:
        sockets: The host's.
        upstream: What answers; its records may be changed while it runs.
        name: What its tasks are called.
    """

    def __init__(self, sockets: SocketLayer, upstream: Upstream, name: str) -> None:
        self.upstream = upstream
        self._sockets = sockets
        self._name = name
        datagrams, listener = sockets.udp(), sockets.tcp()
        datagrams.bind("", _PORT)
        listener.bind("", _PORT)
        listener.listen()
        self._open: tuple[UdpSocket | TcpSocket, ...] = (datagrams, listener)
        self._tasks: list[Task[Any]] = [
            spawn(sockets.clock, self._serve_udp(datagrams), f"{name}/dns/udp"),
            spawn(sockets.clock, self._serve_tcp(listener), f"{name}/dns/tcp"),
        ]

    def stop(self) -> None:
        """End all that runs, and close all sockets."""
        for task in self._tasks:
            task.cancel()
        for socket in self._open:
            socket.close()

    async def _serve_udp(self, socket: UdpSocket) -> None:
        while True:
            query, source, port = await socket.recvfrom()
            answer = self.upstream.answer(query, tcp=False) if self.upstream.running else None
            if answer is not None:
                socket.sendto(answer, source, port)

    async def _serve_tcp(self, listener: TcpSocket) -> None:
        while True:
            connection = await listener.accept()
            self._tasks = [task for task in self._tasks if not task.done]
            name = f"{self._name}/dns/connection"
            serving = spawn(self._sockets.clock, self._serve(connection), name, unstarted=connection.close)
            self._tasks.append(serving)

    async def _serve(self, connection: TcpSocket) -> None:
        clock = self._sockets.clock
        try:
            while True:
                query = await read_message(connection, clock, clock.now_ns + TCP_IDLE_TIMEOUT_NS)
                if query is None:
                    break
                answer = self.upstream.answer(query, tcp=True) if self.upstream.running else None
                if answer is not None:
                    await connection.sendall(len(answer).to_bytes(2, "big") + answer)
        except OSError:
            pass  # silent for too long, or reset: the connection ends
        finally:
            connection.close()
