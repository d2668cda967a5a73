"""What a walk makes of the steps of a packet."""

from __future__ import annotations

import pytest

from pktsim.cluster.walk import Passage
from pktsim.kernel.explain import Explainer
from tests.kernel.worlds import host, known_peer, udp_packet

PEER = "10.0.0.9"


def passage(packet: bytes) -> Passage:
    """Of a packet from a neighbour through a router with one link."""
    made = host(forward=True)
    made.link("eth0", "10.0.0.1/24")
    known_peer(made, "eth0", PEER)
    known_peer(made, "eth0", "10.0.0.8")
    made.netns.route_add("192.0.2.0/24 via 10.0.0.8")
    explainer = Explainer()
    explainer.attach(made.netns)
    made.give_ip("eth0", packet)
    first = explainer.visits[0].pkt_id
    steps = tuple(step for visit in explainer.visits if visit.pkt_id == first for step in visit.steps)
    return Passage(0, "host", "", steps)


def test_a_packet_that_draws_a_redirect_is_forwarded_not_refused() -> None:
    told = passage(udp_packet(PEER, "192.0.2.1"))
    assert "answered with ICMP type 5 code 1" in [step.text for step in told.steps]
    assert told.steps[-1].text == "eth0 sends it"
    assert (told.refused, told.dropped) == (False, "")


@pytest.mark.parametrize("packet", [udp_packet(PEER, "192.0.2.1", ttl=1), udp_packet(PEER, "203.0.113.1")])
def test_a_packet_that_is_answered_with_an_error_is_refused(packet: bytes) -> None:
    assert passage(packet).refused
