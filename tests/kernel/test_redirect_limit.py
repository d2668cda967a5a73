"""How often a sender is told of a shorter way: ``ip_rt_send_redirect`` (net/ipv4/route.c)."""

from __future__ import annotations

import pytest

from pktsim.clock import NS_PER_MS, NS_PER_S, Clock
from pktsim.kernel.network import Network
from pktsim.rng import SeededChoices
from pktsim.wire.addr import ip_from_text

SENDER = ip_from_text("10.244.1.2")


@pytest.mark.parametrize(
    ("before", "gap_ms", "asked", "sent"),
    [
        pytest.param(0, 1000, 3, 3, id="a second apart"),
        pytest.param(0, 1, 20, 1, id="in a burst"),
        pytest.param(0, 50, 5, 3, id="twice as long each time"),
        pytest.param(6, 1000, 3, 1, id="after six: host-gw-no-brnf/service-near"),
        pytest.param(9, 1000, 3, 0, id="after nine: none"),
        pytest.param(9, 25_000, 2, 1, id="after nine: again when it was quiet for 20 s"),
    ],
)
def test_ever_more_seldom(before: int, gap_ms: int, asked: int, sent: int) -> None:
    network = Network(Clock(), SeededChoices(1))
    network.clock.run_until(100 * NS_PER_S)
    icmp = network.add_space("node").icmp
    icmp.redirects_before = before
    for _ in range(asked):
        icmp.redirect_allowed(SENDER)
        network.clock.run_until(network.clock.now_ns + gap_ms * NS_PER_MS)
    assert icmp.redirects_sent == sent
