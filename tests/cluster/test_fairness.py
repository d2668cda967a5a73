"""Each endpoint gets its share of connections: exactly as the chances say, and in fact, over seeds."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest

from pktsim.cluster.kubeproxy.iptables import probability
from pktsim.kernel.kernel import Kernel
from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, ip_to_text, mac_from_text
from pktsim.wire.frame import FrameView
from tests.cluster.test_kubeproxy import NODE, World, endpoints, service

MAC, FAR = "02:00:00:00:00:01", "02:ff:00:00:00:01"
#: Chi-square at a thousandth, by degrees of freedom (a table of any book of statistics).
CRITICAL = {1: 10.83, 2: 13.82, 4: 18.47, 6: 22.46}
SEEDS, PER_SEED = range(8), 250


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 1000])
def test_chances_give_everybody_the_same(n: int) -> None:
    """1/n, 1/(n-1) … 1, each rounded to a 2**31st part."""
    left, shares = Fraction(1), []
    for number in range(n, 1, -1):
        chance = Fraction(probability(number).probability, 1 << 31)
        shares.append(left * chance)
        left *= 1 - chance
    shares.append(left)
    assert all(abs(share - Fraction(1, n)) < Fraction(1, 10**7) for share in shares)


def drawn(rules: str, seed: int) -> Counter[str]:
    """Where new flows to the cluster IP go."""
    kernel = Kernel(seed=seed, forward=True)
    kernel.interface("eth0", "10.9.0.1/16", mac=MAC)
    kernel.iptables_restore(rules)
    for number in range(1, 8):
        kernel.netns.neighbour_add("eth0", f"10.9.1.{number}", FAR)
    source, target = ip_from_text("10.9.0.2"), ip_from_text("10.96.0.1")
    found: Counter[str] = Counter()
    for sport in range(20000, 20000 + PER_SEED):
        packet = build.ipv4(source, target, 17, build.udp(source, target, sport, 80, b"x"))
        outcome = kernel.receive("eth0", build.ethernet(mac_from_text(MAC), mac_from_text(FAR), build.ETH_P_IP, packet))
        found.update(ip_to_text(FrameView(frame).daddr) for _, frame in outcome.sent if FrameView(frame).protocol == 17)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_connections_are_spread_evenly_over_seeds(n: int) -> None:
    """kubernetes/kubernetes#37932: it is even, in the long run."""
    addresses = [f"10.9.1.{number}" for number in range(1, n + 1)]
    rules = World(NODE + service("a", "10.96.0.1", "UDP") + endpoints("a", *addresses, protocol="UDP")).rules
    several = [drawn(rules, seed) for seed in SEEDS]
    total = sum(several, Counter[str]())
    assert sum(total.values()) == len(SEEDS) * PER_SEED
    expected = len(SEEDS) * PER_SEED / n
    assert sum((total[one] - expected) ** 2 / expected for one in addresses) < CRITICAL[n - 1]
    assert any(one != other for one, other in pairwise(several))
