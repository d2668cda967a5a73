"""No change of the fuzzed world is one that is always refused."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pktsim.errors import PktsimError
from tests.fuzz import processes
from tests.fuzz.changes import CHANGES, Change
from tests.fuzz.frames import FrameSource
from tests.fuzz.rules import Rules, everything
from tests.fuzz.world import Space, make_space


@pytest.fixture
def space() -> Iterator[Space]:
    """With all nft rules and none of iptables, flows, and packets that wait."""
    made = make_space(random.Random(1), Rules((), everything().nft), trace=False)
    source = FrameSource(random.Random(1), valid=True)
    while not made.datapath.conntrack_list(made.clock.now_ns):
        name, frame = source.next()
        made.receive(made.devices.named(name).ifindex, frame)
    yield made
    made.clock.run_for(10**9)
    processes.stop(made)


@pytest.mark.parametrize("change", dict.fromkeys(CHANGES), ids=lambda change: change.__name__)
def test_a_change_can_be_made(space: Space, change: Change) -> None:
    for seed in range(40):
        try:
            change(space, random.Random(seed))
        except (PktsimError, OSError, ValueError):
            continue
        return
    pytest.fail("refused each time")
