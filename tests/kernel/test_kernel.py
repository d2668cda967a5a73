"""One kernel alone: set up in the words of the tools, given packets, asked what became of them."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

import pktsim
from pktsim.errors import TopologyError
from pktsim.kernel.kernel import Fate, Kernel
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire.frame import FrameView
from tests.kernel.worlds import ip, mac, request, udp_packet

MAC = "02:00:00:00:00:01"
RULES = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 10.96.0.10/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.244.1.2:5353
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -d 10.244.1.2/32 -p udp -m udp --dport 9 -j DROP
-A FORWARD -d 10.244.1.2/32 -p udp -m udp --dport 10 -j REJECT
COMMIT
"""


def node(rules: str = RULES) -> Kernel:
    kernel = Kernel(forward=True)
    kernel.interface("eth0", "10.0.0.1/24", mac=MAC)
    kernel.interface("pod0", mac="ee:ee:ee:ee:ee:ee")
    kernel.route("default via 10.0.0.254")
    kernel.route("10.244.1.2 dev pod0 scope link")
    kernel.neighbour("10.0.0.254", "02:00:00:00:01:fe", "eth0")
    kernel.neighbour("10.244.1.2", "02:00:00:00:02:0a", "pod0")
    kernel.iptables_restore(rules)
    return kernel


def frame(packet: bytes) -> bytes:
    return mac(MAC) + mac("02:00:00:00:01:fe") + b"\x08\x00" + packet


def test_it_is_public() -> None:
    assert pktsim.Kernel is Kernel


def test_service_address_is_translated_and_the_rule_named() -> None:
    kernel = node()
    outcome = kernel.receive("eth0", frame(udp_packet("203.0.113.9", "10.96.0.10")))
    assert outcome.fate is Fate.FORWARDED
    ((interface, sent),) = outcome.sent
    assert (interface, FrameView(sent).daddr, FrameView(sent).dport) == ("pod0", ip("10.244.1.2"), 5353)
    assert "DNAT --to-destination 10.244.1.2:5353" in str(outcome)
    (entry,) = kernel.connections
    assert "src=203.0.113.9 dst=10.96.0.10" in entry.text()
    assert kernel.conntrack().count("\n") == 1
    assert "[1:33] -A PREROUTING" in kernel.iptables_save(counters=True)


@pytest.mark.parametrize(
    ("name", "packet", "fate", "drops"),
    [
        ("dropped by a rule", udp_packet("203.0.113.9", "10.244.1.2", dport=9), Fate.DROPPED, (DropReason.RULE,)),
        ("rejected", udp_packet("203.0.113.9", "10.244.1.2", dport=10), Fate.REFUSED, (DropReason.REJECTED,)),
        ("expired", udp_packet("203.0.113.9", "10.244.1.2", ttl=1), Fate.REFUSED, (DropReason.TTL_EXPIRED,)),
        ("for the node", udp_packet("203.0.113.9", "10.0.0.1"), Fate.DELIVERED, (DropReason.NO_SOCKET,)),
        ("without neighbour", udp_packet("203.0.113.9", "10.0.0.77"), Fate.WAITING, ()),
    ],
)
def test_fate_of_a_packet(name: str, packet: bytes, fate: Fate, drops: tuple[DropReason, ...]) -> None:
    outcome = node().receive("eth0", frame(packet))
    assert (outcome.fate, outcome.drops) == (fate, drops), name
    assert str(outcome).endswith(str(fate))


def test_a_packet_that_draws_a_redirect_is_forwarded() -> None:
    kernel = node("")
    outcome = kernel.receive("eth0", frame(udp_packet("10.0.0.254", "203.0.113.9")))
    assert (outcome.fate, outcome.drops) == (Fate.FORWARDED, ())
    assert len(outcome.sent) == 2


def test_arp_request_is_answered() -> None:
    kernel = node()
    asked = b"\xff" * 6 + mac("02:00:00:00:01:fe") + b"\x08\x06" + request("10.0.0.254", "10.0.0.1").pack()
    outcome = kernel.receive("eth0", asked)
    assert outcome.fate is Fate.DELIVERED
    assert len(outcome.sent) == 1


def test_scapy_packets_are_taken_as_they_are() -> None:
    kernel = node()
    packet = Ether(dst=MAC, src="02:00:00:00:01:fe") / IP(src="203.0.113.9", dst="10.96.0.10") / UDP(sport=9, dport=53)
    assert kernel.receive("eth0", packet).fate is Fate.FORWARDED
    outcome = kernel.send(IP(src="10.0.0.1", dst="10.244.1.2") / UDP(sport=9, dport=53))
    assert outcome.sent[0][0] == "pod0"


def test_refused_send_raises() -> None:
    kernel = node()
    assert kernel.iptables("-A OUTPUT -d 192.0.2.0/24 -j DROP") == ""
    with pytest.raises(PermissionError):
        kernel.send(udp_packet("10.0.0.1", "192.0.2.1"))


def test_waiting_packet_is_given_up_in_time() -> None:
    kernel = node()
    kernel.receive("eth0", frame(udp_packet("203.0.113.9", "10.0.0.77")))
    outcome = kernel.run(5)
    views = [FrameView(sent) for _, sent in outcome.sent]
    assert [view.icmp_code for view in views if view.protocol == 1] == [1]


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(TopologyError, match="one of veth, bridge, dummy"):
        Kernel().interface("wg0", kind="wireguard")
