"""What routers have said of the packets that fit towards a destination (``struct fib_nh_exception``)."""

from __future__ import annotations

from dataclasses import dataclass

from pktsim._fastpath import Datapath
from pktsim.kernel.timer_wheel import TimerWheel


@dataclass(frozen=True, slots=True)
class PathMtu:
    """A learnt path MTU (``struct fib_nh_exception``)."""

    mtu: int
    locked: bool
    expires: int  # jiffies


class PathMtus:
    """The learnt path MTUs of a namespace, by destination; the engine has a copy."""

    def __init__(self, datapath: Datapath, wheel: TimerWheel) -> None:
        self._datapath = datapath
        self._wheel = wheel
        self._known: dict[bytes, PathMtu] = {}

    def find(self, daddr: bytes) -> PathMtu | None:
        """What is known and has not expired."""
        known = self._known.get(daddr)
        if known is not None and self._wheel.jiffies > known.expires:
            del self._known[daddr]
            return None
        return known

    def learn(self, daddr: bytes, known: PathMtu) -> None:
        now = self._wheel.jiffies
        self._known = {address: path for address, path in self._known.items() if path.expires >= now}
        self._known[daddr] = known
        self._push()

    def _push(self) -> None:
        self._datapath.path_mtus_set(
            [(address, path.mtu, path.locked, path.expires) for address, path in self._known.items()]
        )
