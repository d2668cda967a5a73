"""What the engine has allocated is given back with the namespace that it was for.

AddressSanitizer's leak checker, which ``engine.py`` says how to use, names each place; this only looks at the sums.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pktsim._fastpath import Datapath
from pktsim.netfilter.opcodes import Event as EventKind
from pktsim.netfilter.opcodes import Hook, LinkKind, Step
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_IP, IPPROTO_UDP, ethernet, ipv4
from tests.fuzz.rules import draw
from tests.fuzz.world import Run

_STATM = Path("/proc/self/statm")
_MAC, _PEER = mac_from_text("02:00:00:00:00:01"), mac_from_text("02:00:00:00:00:02")
_ENDS = ip_from_text("10.0.0.2"), ip_from_text("10.0.0.1")
#: More than the heap has free, or grows by, when other tests have been at it.
_MUCH_KIB = 20_000
_LARGE = ethernet(_MAC, _PEER, ETH_P_IP, ipv4(*_ENDS, IPPROTO_UDP, bytes(30000)))

pytestmark = pytest.mark.skipif(not _STATM.exists(), reason="/proc tells how much memory is in use")


def growth_kib(act: Callable[[], object], *, times: int) -> int:
    """How much larger the process has become by doing something so often, when it had been done before."""

    def resident() -> int:
        gc.collect()
        return int(_STATM.read_text().split()[1]) * 4

    for _ in range(3):
        act()
    before = resident()
    for _ in range(times):
        act()
    return resident() - before


def _holding() -> None:
    """A namespace whose packets wait, in such a knot that the collector takes them apart before what holds them."""
    datapath = Datapath("node", lambda place, kind, n: 0)
    datapath.link_set(1, "eth0", LinkKind.WIRE, _MAC, 65535)
    datapath.hold_set(Hook.PREROUTING, Step.RAW, True)
    packets = [event[3] for _ in range(10) for event in datapath.receive(1, _LARGE, 0) if event[0] == EventKind.UPCALL]
    assert len(packets) == 10
    knot: list[object] = [tuple(packets)]
    knot.append(knot)
    datapath.context = knot


@pytest.mark.slow
def test_packets_that_wait_go_with_their_namespace() -> None:
    assert growth_kib(_holding, times=200) < _MUCH_KIB < 200 * 10 * 30


def test_memory_that_is_kept_is_seen() -> None:
    kept: list[bytearray] = []
    assert growth_kib(lambda: kept.append(bytearray(b"x" * 1_000_000)), times=60) > _MUCH_KIB


@pytest.mark.slow
def test_worlds_are_dropped_without_a_rest() -> None:
    numbers = iter(range(1000))

    def world() -> None:
        number = next(numbers)
        run = Run(random.Random(number % 3), valid=False)
        for _ in range(60):
            run.step()
        if number % 2:
            run.finish()
        draw.cache_clear()

    assert growth_kib(world, times=24) < _MUCH_KIB
