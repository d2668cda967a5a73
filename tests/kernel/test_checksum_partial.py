"""Checksums that nobody has finished yet: what an error about a local packet quotes."""

from __future__ import annotations

import pytest

from pktsim.clock import Clock
from pktsim.kernel.checksum_partial import with_partial_checksum
from pktsim.kernel.netns import Netns
from pktsim.kernel.network import Network
from pktsim.kernel.transport import build_ip
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.rng import SeededChoices
from pktsim.wire.addr import ip_from_text
from pktsim.wire.checksum import pseudo_header_sum, transport_checksum
from pktsim.wire.frame import IPPROTO_TCP, IPPROTO_UDP
from tests.kernel.node_cases import refused_reset6
from tests.netfilter.case_script import run

SOURCE, TARGET = ip_from_text("192.168.0.11"), ip_from_text("10.96.1.5")
SYN, RST, ACK = 2, 4, 16
#: A segment's header without options ends after 20 bytes, one with a maximum segment size after 24.
BARE, WITH_MSS = 0x50, 0x60


def tcp(flags: int, *, offset: int = WITH_MSS, window: int = 64240) -> bytes:
    options = bytes.fromhex("020405b4") if offset == WITH_MSS else b""
    head = bytes.fromhex("9c420050 00000001 00000000") + bytes([offset, flags]) + window.to_bytes(2, "big")
    return finished(IPPROTO_TCP, head + b"\0\0\0\0" + options, 16)


def udp(payload: bytes = b"hello") -> bytes:
    return finished(
        IPPROTO_UDP, bytes.fromhex("9c420035") + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload, 6
    )


def finished(protocol: int, segment: bytes, at: int) -> bytes:
    check = transport_checksum(SOURCE, TARGET, protocol, segment).to_bytes(2, "big")
    return build_ip(SOURCE, TARGET, protocol, segment[:at] + check + segment[at + 2 :], ttl=64)


@pytest.mark.parametrize(
    ("packet", "left"),
    [
        pytest.param(tcp(SYN), True, id="syn"),
        pytest.param(tcp(RST | ACK), True, id="reset of a connection"),
        pytest.param(tcp(ACK, offset=BARE), True, id="ack without options"),
        pytest.param(udp(), True, id="datagram"),
        pytest.param(udp()[:26] + b"\0\0" + udp()[28:], False, id="datagram without a checksum"),
        pytest.param(udp()[:6] + b"\x20\0" + udp()[8:], False, id="first fragment"),
    ],
)
def test_what_a_sum_left_to_the_device_looks_like(packet: bytes, left: bool) -> None:
    seen = with_partial_checksum(packet)
    field = 36 if packet[9] == IPPROTO_TCP else 26
    assert (seen[:field], seen[field + 2 :]) == (packet[:field], packet[field + 2 :])
    expected = pseudo_header_sum(SOURCE, TARGET, packet[9], len(packet) - 20).to_bytes(2, "big")
    assert seen[field : field + 2] == (expected if left else packet[field : field + 2])


def node() -> tuple[Network, Netns]:
    network = Network(Clock(), SeededChoices(1))
    netns = network.add_space("node")
    netns.link_add("eth0", mac="02:00:00:00:00:01")
    netns.address_add("eth0", "192.168.0.11/24")
    netns.route_add("default via 192.168.0.1 dev eth0")
    netns.neighbour_add("eth0", "192.168.0.1", "02:00:00:00:00:02")
    return network, netns


@pytest.mark.parametrize("partial", [True, False], ids=["socket", "raw socket"])
def test_refused_in_output_quotes_the_sum_as_it_is(partial: bool) -> None:
    """host-gw/no-endpoints-node"""
    network, netns = node()
    rules = "*filter\n-A OUTPUT -d 10.96.1.5/32 -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n"
    netns.load_ruleset(restore(Ruleset(Family.IPV4), rules))
    assert netns.local_out(tcp(SYN), checksum_partial=partial)
    network.clock.run_until(1_000_000)
    (frame,) = network.capture.select(space="node", interface="lo")
    quoted = frame.frame[14 + 20 + 8 :]
    assert quoted == (with_partial_checksum(tcp(SYN)) if partial else tcp(SYN))


def test_what_left_by_a_device_is_whole() -> None:
    network, netns = node()
    assert netns.local_out(tcp(SYN)) == 0
    (frame,) = network.capture.select(space="node", interface="eth0")
    assert frame.frame[14:] == tcp(SYN)


def test_a_reset_of_no_socket_is_left_to_the_device_over_ipv6() -> None:
    ((_, frame),) = run(refused_reset6()).steps[1].emitted
    quoted = frame[14 + 40 + 8 :]
    # as Linux quotes it, NAT having changed addresses and port of what was not summed yet
    assert quoted[40 + 16 : 40 + 18] == bytes.fromhex("dc49")
