"""IPv6 around the engine: source addresses, extension headers, fragments, and what a node answers."""

from __future__ import annotations

import struct
from random import Random

import pytest

from pktsim.clock import Clock
from pktsim.kernel.addrconf import label, link_local_of, select_source, solicited_node
from pktsim.kernel.exthdr import OptionProblem, check_options, fragment_point, skip_headers
from pktsim.kernel.ip6 import fragment_ipv6
from pktsim.kernel.ndisc import parse_options
from pktsim.kernel.netns import Netns
from pktsim.kernel.transport import build_ip
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.ruleset import Family
from pktsim.rng import SeededChoices
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.checksum import transport_checksum
from pktsim.wire.frame import udp

NODE, PEER = ip_from_text("fd00::1"), ip_from_text("fd00::2")
NODE_MAC, PEER_MAC = mac_from_text("02:00:00:00:00:01"), mac_from_text("02:00:00:00:00:02")
SENT = list[bytes]


def node(*addresses: str, permanent: bool = True) -> tuple[Netns, SENT]:
    """A node with eth0, and the frames it sends."""
    netns = Netns("node", clock=Clock(), choices=SeededChoices(0))
    device = netns.link_add("eth0", mac="02:00:00:00:00:01")
    for address in addresses or ("fd00::1/64",):
        netns.address_add("eth0", address)
    if permanent:
        netns.neighbour_add("eth0", "fd00::2", "02:00:00:00:00:02")
    sent: SENT = []
    device.carry = sent.append
    return netns, sent


def checked(source: bytes, destination: bytes, message: bytes) -> bytes:
    total = transport_checksum(source, destination, 58, message)
    return message[:2] + total.to_bytes(2, "big") + message[4:]


def receive(netns: Netns, packet: bytes, destination: bytes = NODE_MAC) -> None:
    netns.receive(netns.devices.named("eth0").ifindex, destination + PEER_MAC + b"\x86\xdd" + packet)


def test_an_echo_is_answered_from_the_address_that_was_asked() -> None:
    netns, sent = node()
    request = checked(PEER, NODE, struct.pack("!BBHHH", 128, 0, 0, 7, 1) + b"hello")
    receive(netns, build_ip(PEER, NODE, 58, request, ttl=64))
    (frame,) = sent
    assert frame[:6] == PEER_MAC
    assert (frame[22:38], frame[38:54]) == (NODE, PEER)
    assert frame[54] == 129
    assert frame[58:] == request[4:]


def test_a_closed_port_is_told_with_up_to_1280_bytes_in_all() -> None:
    netns, sent = node()
    segment = struct.pack("!HHHH", 1, 2, 1408, 0) + bytes(1400)
    segment = segment[:6] + transport_checksum(PEER, NODE, 17, segment).to_bytes(2, "big") + segment[8:]
    receive(netns, build_ip(PEER, NODE, 17, segment, ttl=64))
    (frame,) = sent
    assert frame[54:56] == bytes([1, 4])
    assert len(frame) == 14 + 1280


def test_errors_to_one_address_come_six_at_once_and_then_one_in_100_ms() -> None:
    netns, sent = node()
    netns.clock.run_for(1_000_000_000)
    unknown = build_ip(PEER, NODE, 200, bytes(8), ttl=64)
    for _ in range(10):
        receive(netns, unknown)
    assert len(sent) == 6
    netns.clock.run_for(100_000_000)
    receive(netns, unknown)
    receive(netns, unknown)
    assert len(sent) == 7
    assert sent[0][54:62] == bytes([4, 1, *sent[0][56:58], 0, 0, 0, 6])


def test_a_neighbour_is_asked_for_in_its_group_from_the_packets_source() -> None:
    netns, sent = node("fd00::1/64", "fe80::1/64", permanent=False)
    assert netns.local_out(build_ip(NODE, PEER, 200, b"", ttl=64)) == 0
    (question,) = sent
    assert question[:6] == mac_from_text("33:33:ff:00:00:02")
    assert question[22:38] == NODE
    assert question[38:54] == solicited_node(PEER)
    answer = checked(PEER, NODE, bytes([136, 0, 0, 0, 0x60, 0, 0, 0]) + PEER + bytes([2, 1]) + PEER_MAC)
    receive(netns, build_ip(PEER, NODE, 58, answer, ttl=254))
    assert len(sent) == 1, "it has been forwarded: no neighbour said it"
    receive(netns, build_ip(PEER, NODE, 58, answer, ttl=255))
    assert sent[1][:6] == PEER_MAC


def test_a_group_that_nobody_here_has_joined_is_left_alone() -> None:
    netns, sent = node()
    for target, answers in ((ip_from_text("fd00::5"), 0), (NODE, 1)):
        group = solicited_node(target)
        question = checked(PEER, group, bytes([135]) + bytes(7) + target + bytes([1, 1]) + PEER_MAC)
        receive(netns, build_ip(PEER, group, 58, question, ttl=255), b"\x33\x33" + group[12:])
        assert len(sent) == answers
    assert sent[0][54] == 136
    assert sent[0][58] == 0x60, "solicited, and in the place of what was known"


@pytest.mark.parametrize(
    ("destination", "source"),
    [
        ("fd00::2", "fd00::1"),
        ("2001:db8::2", "2001:db8::1"),
        ("fe80::2", "fe80::1"),
        ("ff02::1", "fe80::1"),
        ("2001:db8:1::", "2001:db8::1"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_source_address_is_chosen_by_rfc_6724(destination: str, source: str) -> None:
    netns, _ = node("2001:db8::1/64", "fe80::1/64", "fd00::1/64")
    chosen = select_source(netns.devices, netns.devices.named("eth0"), ip_from_text(destination))
    assert chosen == ip_from_text(source)


def test_masquerade_chooses_as_the_node_itself_does() -> None:
    """The engine's own choice (``select_addr6``) is the same, whatever the addresses."""
    random = Random(6)
    pool = ("fd00:10::", "fd00:10:0:1::", "fd20::", "2001:db8::", "2001:db8:1::", "2002:a::", "2001:10::", "fec0::")
    far = ("fd00:10:0:2::9", "fd00:10:8::9", "fd30::9", "2001:db8:3::9", "2002:b::9", "2001:10:1::9", "fec0:0:1::9")
    for _ in range(200):
        mine = [f"{prefix}{random.randrange(1, 99):x}/64" for prefix in random.sample(pool, 3)]
        netns, sent = node(*mine[: random.randrange(3)], "fe80::1/64")
        for name, addresses in (("cni0", mine[2:]), ("eth1", [])):
            netns.link_add(name)
            for address in addresses:
                netns.address_add(name, address)
        netns.sysctl_set("net.ipv6.conf.all.forwarding", "1")
        netns.route_add("::/0 via fe80::2 dev eth0")
        netns.neighbour_add("eth0", "fe80::2", "02:00:00:00:00:02")
        save = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n"
        netns.load_ruleset(restore(netns.ruleset(Family.IPV6), save))
        destination = ip_from_text(random.choice(far))
        source = ip_from_text("fd77::1")
        segment = struct.pack("!HHHH", 555, 53, 8, 0)
        head = NODE_MAC + PEER_MAC + b"\x86\xdd"
        netns.receive(
            netns.devices.named("eth1").ifindex,
            netns.devices.named("eth1").mac + head[6:] + build_ip(source, destination, 17, segment, ttl=64),
        )
        (frame,) = [each for each in sent if each[20] == 17]
        expected = select_source(netns.devices, netns.devices.named("eth0"), destination)
        assert frame[22:38] == expected, (mine, destination)


def test_labels_are_linux_own() -> None:
    assert [label(ip_from_text(text)) for text in ("::1", "fd00::1", "2002::1", "2001:db8::1")] == [0, 5, 2, 1]


def test_link_local_address_follows_from_the_mac() -> None:
    assert link_local_of(NODE_MAC) == ip_from_text("fe80::ff:fe00:1")


def test_own_packets_are_cut_in_equal_pieces_and_a_routers_last_takes_all_the_room() -> None:
    packet = build_ip(NODE, PEER, 17, bytes(1448 + 1452), ttl=64)
    own, routers = (fragment_ipv6(packet, 1500, 9, local=local) for local in (True, False))
    assert [len(each) - 48 for each in own] == [1448, 1448, 4]
    assert [len(each) - 48 for each in routers] == [1448, 1452]
    assert routers[0][6] == 44
    assert routers[1][40:48] == bytes([17, 0]) + (1448).to_bytes(2, "big") + bytes([0, 0, 0, 9])


def test_a_fragment_header_goes_behind_what_routers_read() -> None:
    hop_by_hop = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    packet = build_ip(NODE, PEER, 0, hop_by_hop + bytes(16), ttl=64)
    assert fragment_point(packet) == (48, 40)
    found = skip_headers(packet)
    assert found is not None
    assert (found.protocol, found.offset, found.field) == (17, 48, 40)


@pytest.mark.parametrize(("option", "pointer"), [(0x9E, 42), (0x5E, 0)])
def test_unknown_option_says_what_becomes_of_the_packet(option: int, pointer: int) -> None:
    packet = build_ip(NODE, PEER, 60, bytes([17, 0, option, 4, 1, 2, 3, 4]), ttl=64)
    with pytest.raises(OptionProblem) as caught:
        check_options(packet, 40)
    assert caught.value.pointer == pointer


def test_options_of_no_length_make_no_sense() -> None:
    assert parse_options(bytes([1, 0])) is None
    assert parse_options(bytes([1, 1]) + NODE_MAC) == {1: NODE_MAC}


@pytest.mark.parametrize(("conntrack", "size", "answers"), [(True, 80, 0), (True, 5, 1), (False, 80, 1)])
def test_datagram_whose_header_nft_rewrites_after_conntrack_is_lost(conntrack: bool, size: int, answers: int) -> None:
    """skb->csum, which conntrack filled in, counts the IPv6 header; short ones are summed again (CHECKSUM_BREAK)."""
    netns, sent = node()
    tracked = "ct state new counter" if conntrack else "counter"
    netns.nft(
        "table ip6 t { chain c { type filter hook prerouting priority -150; policy accept;\n"
        f"{tracked} ip6 dscp set ef\n}}\n}}\n"
    )
    receive(netns, build_ip(PEER, NODE, 17, udp(PEER, NODE, 4000, 443, b"x" * size), ttl=64))
    assert [frame[54:56] for frame in sent] == [b"\1\4"] * answers  # the port is unreachable
