"""kube-proxy's rules do on the running kernel what they do in pktsim, to each packet that matters.

For each recorded start of kube-proxy, the rules that pktsim writes are loaded into a namespace. To each address and
port of each Service go packets from a pod, a pod of another node, outside, the node itself, an endpoint of the Service,
and from the ranges that a load balancer allows. What can happen to each of them is one set on both sides.

pktsim's set is complete: the packet is sent once for every combination of choices (``pktsim.rng.explore``). The kernel
is not left to chance either: it runs the same rules with ``-m statistic --mode random`` replaced by ``-m u32``, so that
each packet itself says, in its identification or flow label, which of the random rules takes it; one more packet is
sent than there are outcomes. Everything else in the rules is as it was, including their numbers: an outcome also holds
which rules counted the packet. With session affinity a second packet follows the first from the same client, meant for
another endpoint.

Cases in IPv4 alone are sent in IPv6 too: the same case with every address replaced (``tests.live.mirror``). The
kernel's own multicast listener reports pass the same rules; a packet during which one was sent is sent again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pktsim.netfilter.ruleset import Family
from tests.live.kernel_case import Workbench
from tests.live.kernel_outcomes import compare
from tests.live.mirror import mirror, mirrored
from tests.live.service_probes import SPORT, chosen_by_packet
from tests.recorded import archives

STARTS = "kube-proxy-iptables"


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(STARTS, tmp_path_factory.mktemp("starts"))


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


@pytest.mark.parametrize("case", archives.names(STARTS))
def test_outcomes(starts: Path, bench: Workbench, case: str) -> None:
    sent, difference = compare(starts / case, bench, (Family.IPV4, Family.IPV6))
    assert not difference, f"{difference}\n{sent} packets were sent"
    assert sent or case in NOTHING_TO_SEND


@pytest.mark.parametrize("case", archives.names(STARTS))
def test_outcomes_in_ipv6(starts: Path, tmp_path: Path, bench: Workbench, case: str) -> None:
    """Recordings with IPv4 Services only, with each address turned into one of IPv6."""
    if case in BOTH_FAMILIES:
        return
    sent, difference = compare(mirror(starts / case, tmp_path / case), bench, (Family.IPV6,))
    assert not difference, f"{difference}\n{sent} packets were sent"
    assert sent or case in NOTHING_TO_SEND


#: Cases without a Service that kube-proxy serves.
NOTHING_TO_SEND = {"empty-cluster"}
#: Cases that have IPv6 Services as they are.
BOTH_FAMILIES = {"dual-stack-load-balancer", "dual-stack-only-ipv4-endpoints", "ipv6-single-stack"}


def test_cases_with_ipv6_are_those_that_are_named(starts: Path) -> None:
    six = {case for case in archives.names(STARTS) if "- IPv6" in (starts / case / "objects.yaml").read_text()}
    assert six == BOTH_FAMILIES


def test_addresses_are_turned_into_ipv6_and_stay_in_their_networks() -> None:
    text = "a: 10.244.1.11, 10.244.1.0/24 0.0.0.0/0 127.0.0.0/8 198.51.100.128/25 addressType: IPv4 1.30.5"
    assert mirrored(text) == (
        "a: fd00:10:244:1::b, fd00:10:244:1::/64 ::/0 fd00:127:0:0::/32 fd00:198:51:100::80/121 "
        "addressType: IPv6 1.30.5"
    )
    with pytest.raises(ValueError, match="within an octet"):
        mirrored("10.0.0.0/12")


def test_a_rule_that_differs_is_told(starts: Path, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: with one rule less on the kernel the outcome differs, and is told."""
    original = chosen_by_packet

    def spoiled(text: str, family: Family) -> str:
        lines = original(text, family).splitlines(keepends=True)
        return "".join(line for line in lines if "--u32" not in line)

    monkeypatch.setattr("tests.live.kernel_outcomes.chosen_by_packet", spoiled)
    _, difference = compare(starts / "cluster-ip-two-endpoints", bench, (Family.IPV4,))
    assert "(cluster-ip-two-endpoints, default/" in difference
    assert "pktsim only: " in difference


def test_what_was_drawn_is_never_what_was_sent() -> None:
    assert 512 <= SPORT <= SPORT + 1 < 600
