"""A TCP connection that is held open from outside: connected, written to, read from, one call at a time."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from pktsim.clock import NS_PER_S
from pktsim.kernel import task
from pktsim.kernel.tcp_state import TcpState

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns

T = TypeVar("T")

_OPENING = (TcpState.SYN_SENT, TcpState.SYN_RECV)


class Connection:
    """A connection of a program in a machine. Made by :meth:`Machine.connect`; time passes only where a call waits.

    Args:
        netns: Where the program runs.
        address: Whom to connect to.
        port: Its port.
        sport: The port to bind; any free one if 0.

    Raises:
        OSError: No route, or the source port is taken.
    """

    def __init__(self, netns: Netns, address: str, port: int, sport: int = 0) -> None:
        self._clock = netns.clock
        self._name = f"{netns.name}: {address}:{port}"
        self._socket = netns.sockets.tcp()
        if sport:
            self._socket.bind("", sport)
        self._socket.start_connect(address, port)

    def __repr__(self) -> str:
        return f"<Connection {self._name} {self.state}>"

    @property
    def sport(self) -> int:
        """The own port."""
        return self._socket.local_address[1]

    @property
    def state(self) -> str:
        """``ESTABLISHED``, ``SYN_SENT`` and so on, as ``ss`` knows them."""
        return self._socket.state.name

    def wait(self, timeout: float = 5.0) -> None:
        """Wait until it is established.

        Raises:
            TimeoutError: It is not by then; the kernel goes on trying.
            OSError: It was refused.
        """
        connection = self._socket.connection
        assert connection is not None
        end_ns = self._clock.now_ns + round(timeout * NS_PER_S)
        self._clock.run_while(lambda: connection.state in _OPENING, end_ns)
        if connection.state in _OPENING:
            raise TimeoutError(f"{self._name}: no answer in {timeout:g} s")
        if connection.error:
            raise OSError(connection.error, f"{self._name}: connection failed")

    def send(self, data: bytes) -> None:
        """Write.

        Raises:
            OSError: ``ECONNRESET``, ``EPIPE`` and the like.
        """
        self._run(self._socket.sendall(data), "send")

    def receive(self, timeout: float = 5.0) -> bytes:
        """Read what is there, or wait for it; empty when the other side has closed.

        Raises:
            TimeoutError: Nothing came.
            OSError: ``ECONNRESET`` and the like.
        """
        return self._run(self._socket.recv(timeout_ns=round(timeout * NS_PER_S)), "receive")

    def close(self) -> None:
        """Close."""
        self._socket.close()

    def _run(self, work: Coroutine[Any, Any, T], what: str) -> T:
        return task.run(self._clock, work, f"{self._name}: {what}")
