"""A client's connection as bytes, and what is done with connections whatever is said on them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from pktsim.clock import NS_PER_S, Clock
from pktsim.kernel.task import join_all, spawn
from pktsim.kernel.tcp import TcpSocket

READ_BYTES = _WRITE_BYTES = 65536


class Stream(Protocol):
    """A client's connection as bytes, encrypted or not."""

    @property
    def socket(self) -> TcpSocket: ...

    async def recv(self, limit: int = 65536, timeout_ns: int | None = None) -> bytes: ...

    async def sendall(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PlainStream:
    """A connection that is not encrypted."""

    socket: TcpSocket

    async def recv(self, limit: int = 65536, timeout_ns: int | None = None) -> bytes:
        return await self.socket.recv(limit, timeout_ns)

    async def sendall(self, data: bytes) -> None:
        await self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()

    def abort(self) -> None:
        self.socket.abort()


async def send(sink: Stream | TcpSocket, clock: Clock, data: bytes, timeout_ns: int) -> None:
    """Write everything; the other side must take some of it every now and then.

    Raises:
        TimeoutError: It did not; the connection has been reset.
        OSError: It has gone.
    """
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        sink.abort()

    for start in range(0, len(data), _WRITE_BYTES):
        timer = clock.after(timeout_ns, expire)
        try:
            await sink.sendall(data[start : start + _WRITE_BYTES])
        except OSError:
            if expired:
                raise TimeoutError("the other side takes nothing") from None
            raise
        finally:
            timer.cancel()


@dataclass(slots=True)
class Tunnel:
    """Two connections that are made one: bytes both ways, until one side closes or both are silent for too long.

    Attributes:
        to_one: Bytes for the first one so far.
    """

    clock: Clock
    name: str
    one: Stream | TcpSocket
    other: Stream | TcpSocket
    timeout_ns: int | None = 60 * NS_PER_S
    to_one: int = 0

    async def run(self, first_to_other: bytes = b"", first_to_one: bytes = b"") -> None:
        """Carry until the end; both are closed then.

        Args:
            first_to_other: What was read of the first one already.
            first_to_one: What was read of the second one already.
        """
        tasks = [
            spawn(self.clock, self._copy(self.one, self.other, first_to_other), f"{self.name} tunnel"),
            spawn(self.clock, self._copy(self.other, self.one, first_to_one), f"{self.name} tunnel"),
        ]
        try:
            await join_all(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            self._close()

    async def _copy(self, source: Stream | TcpSocket, sink: Stream | TcpSocket, data: bytes) -> None:
        with suppress(OSError):
            while True:
                if data:
                    if sink is self.one:
                        self.to_one += len(data)
                    await sink.sendall(data)
                data = await source.recv(READ_BYTES, self.timeout_ns)
                if not data:
                    break
        self._close()

    def _close(self) -> None:
        self.one.close()
        self.other.close()
