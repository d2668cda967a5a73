"""What is not answered though it might be: the trace says so, and which setting or circumstance decided."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pktsim.netfilter.opcodes import DropReason
from pktsim.wire import frame as build
from tests.kernel.drop_stories import (
    ECHO,
    ECHO6,
    FAR,
    FILTER,
    PEER,
    SYN,
    given,
    through,
    to_host,
    to_host6,
    world,
)
from tests.kernel.test_drop_reasons import told
from tests.kernel.worlds import HOST_MAC, PEER_MAC, Host, echo_packet, ip, mac, reply, request, udp_packet

Act = Callable[[Host], object]
Settings = dict[str, int | str]
TO_ALL = "10.0.0.255"


def times(number: int, act: Act) -> Act:
    def acted(made: Host) -> None:
        for _ in range(number):
            act(made)

    return acted


def without_way_back(made: Host) -> None:
    given(made, echo_packet("203.0.113.1", "10.0.0.1"))


def redirected6(*, link_local: bool = True, number: int = 1) -> Act:
    """Packets from a neighbour to another one of the same link."""

    def act(made: Host) -> None:
        made.netns.sysctl_set("net.ipv6.conf.all.forwarding", 1)
        for address in ("fd00::1/64", *(["fe80::1/64"] * link_local)):
            made.netns.address_add("eth0", address)
        made.netns.neighbour_add("eth0", "fd00::9", PEER_MAC)
        made.netns.neighbour_add("eth0", "fd00::8", PEER_MAC)
        ends = ip("fd00::9"), ip("fd00::8")
        packet = build.ipv6(*ends, 17, build.udp(*ends, 1, 2))
        for _ in range(number):
            made.give("eth0", build.ethernet(mac(HOST_MAC), mac(PEER_MAC), 0x86DD, packet))

    return act


def to_group6(made: Host) -> None:
    made.netns.address_add("eth0", "fd00::1/64")
    message = build.icmpv6(ip("fd00::9"), ip("ff02::1"), 128, 0, 1)
    packet = build.ipv6(ip("fd00::9"), ip("ff02::1"), 58, message)
    made.give("eth0", build.ethernet(mac("33:33:00:00:00:01"), mac(PEER_MAC), 0x86DD, packet))


LIMITED: Settings = {"net.ipv4.icmp_ratemask": 1 << 0 | 1 << 14}
LIMITED6: Settings = {"net.ipv6.icmp.ratemask": "0-1,3-129"}
NONE_AT_ALL: Settings = {"net.ipv4.icmp_msgs_per_sec": 0}
BY_LIMIT = "the rate limit withholds it ({})"
REJECT = FILTER.format("ACCEPT", "-A FORWARD -p udp -j REJECT")
RESET = "*filter\n:INPUT ACCEPT\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"

CASES: dict[str, tuple[str, Settings, Act, str]] = {
    "echo, switched off": (
        "", {"net.ipv4.icmp_echo_ignore_all": 1}, to_host(1, ECHO),
        "ICMP type 0 code 0: net.ipv4.icmp_echo_ignore_all is set",
    ),
    "echo to all": (
        "", {}, lambda made: given(made, echo_packet(PEER, TO_ALL)),
        "ICMP type 0 code 0: net.ipv4.icmp_echo_ignore_broadcasts is set",
    ),
    "echo, too many for one": (
        "", LIMITED, times(8, to_host(1, ECHO)), f"ICMP type 0 code 0: {BY_LIMIT.format('net.ipv4.icmp_ratelimit')}",
    ),
    "echo, too many in all": (
        "", LIMITED | NONE_AT_ALL, to_host(1, ECHO),
        f"ICMP type 0 code 0: {BY_LIMIT.format('net.ipv4.icmp_msgs_per_sec')}",
    ),
    "time stamp, too many": (
        "", LIMITED, times(8, to_host(1, build.icmp(13, 0, 1, bytes(12)))),
        f"ICMP type 14 code 0: {BY_LIMIT.format('net.ipv4.icmp_ratelimit')}",
    ),
    "time stamp, cut short": ("", {}, to_host(1, build.icmp(13, 0, 1)), "ICMP type 14 code 0: it is cut short"),
    "echo from nowhere": ("", {}, without_way_back, "ICMP type 0 code 0: there is no way to its sender"),
    "echo6, switched off": (
        "", {"net.ipv6.icmp.echo_ignore_all": 1}, to_host6(58, ECHO6),
        "ICMP type 129 code 0: net.ipv6.icmp.echo_ignore_all is set",
    ),
    "echo6 to a group": (
        "", {"net.ipv6.icmp.echo_ignore_multicast": 1}, to_group6,
        "ICMP type 129 code 0: net.ipv6.icmp.echo_ignore_multicast is set",
    ),
    "echo6, too many in all": (
        "", LIMITED6 | NONE_AT_ALL, to_host6(58, ECHO6),
        f"ICMP type 129 code 0: {BY_LIMIT.format('net.ipv4.icmp_msgs_per_sec')}",
    ),
    "redirect, too many": (
        "", {}, times(2, lambda made: given(made, udp_packet(PEER, "10.0.0.8"))),
        f"ICMP type 5 code 1: {BY_LIMIT.format('net.ipv4.route.redirect_load')}",
    ),
    "redirect6, too many": (
        "", {}, redirected6(number=8),
        f"ICMP type 137 code 0: {BY_LIMIT.format('one a second for a destination')}",
    ),
    "redirect6, no address": (
        "", {"net.ipv6.conf.eth0.addr_gen_mode": 1}, redirected6(link_local=False),
        "ICMP type 137 code 0: eth0 has no link-local address",
    ),
    "error about an error": (
        "", {}, lambda made: given(made, build.ipv4(ip(PEER), ip(FAR), 1, build.icmp(3, 1, 0, through()), ttl=1)),
        "ICMP type 11 code 0: no error is sent about an error",
    ),
    "error about what was for many": (
        "", {}, lambda made: given(made, udp_packet(PEER, "10.0.0.255")), "",
    ),
    "error about a later fragment": (
        "", {}, lambda made: given(
            made, build.ipv4(ip(PEER), ip(FAR), 17, bytes(8), identification=1, fragment_offset=8, ttl=1)
        ),
        "ICMP type 11 code 0: it is a later fragment",
    ),
    "reject, broken": (
        REJECT, {}, lambda made: given(made, through()[:-1] + b"!"), "ICMP type 3 code 3: its checksum is wrong",
    ),
    "reset of a reset": (
        RESET, {}, to_host(6, build.tcp(ip(PEER), ip("10.0.0.1"), 1, 2, seq=1, flags=build.TcpFlag.RST)),
        "a TCP reset: it is one itself",
    ),
    "reset, broken": (RESET, {}, to_host(6, SYN[:-1] + b"\1"), "a TCP reset: its checksum is wrong"),
    "arp, for another": ("", {}, lambda made: made.give_arp("eth0", request(PEER, "10.0.0.77")),
        "an ARP reply: 10.0.0.77 is not an address of this host",
    ),
    "arp, ignored": (
        "", {"net.ipv4.conf.eth0.arp_ignore": 8}, lambda made: made.give_arp("eth0", request(PEER, "10.0.0.1")),
        "an ARP reply: net.ipv4.conf.eth0.arp_ignore is set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_trace_says_that_it_is_not_answered_and_why(name: str) -> None:
    rules, sysctls, act, why = CASES[name]
    made = world(rules)
    for key, value in sysctls.items():
        made.netns.sysctl_set(key, value)
    lines = told(made, act)
    answers = [line for line in lines if line.startswith("not answered with ")]
    assert answers[-1:] == ([f"not answered with {why}"] if why else []), lines


def test_an_echo_that_is_answered_has_no_such_line() -> None:
    assert not any("not answered" in line for line in told(world(), to_host(1, ECHO)))


# --- what is taken, and leads to nothing


def about(packet: bytes, kind: int = 3, code: int = 3) -> Act:
    """An ICMP error for the host."""
    return to_host(1, build.icmp(kind, code, 0, packet))


OWN = udp_packet("10.0.0.1", PEER)


@pytest.mark.parametrize(
    ("act", "sysctls", "text"),
    [
        (about(OWN), {}, "tells nobody here anything: no socket of this host has sent what it quotes"),
        (about(OWN, code=4), {"net.ipv4.ip_no_pmtu_disc": 2}, "net.ipv4.ip_no_pmtu_disc is 2"),
        (about(OWN, code=99), {}, "there is no code 99"),
        (about(OWN[:24]), {}, "it quotes too little to find a socket by"),
        (about(udp_packet("10.0.0.1", "10.0.0.255")), {"net.ipv4.icmp_ignore_bogus_error_responses": 0}, "a broadcast"),
        (about(OWN, 11, 1), {}, "what fragments are lost is no socket's business"),
    ],
)
def test_an_icmp_error_that_tells_nobody_says_so(act: Act, sysctls: Settings, text: str) -> None:
    made = world()
    for key, value in sysctls.items():
        made.netns.sysctl_set(key, value)
    assert text in told(made, act)[-1]
    assert not made.netns.datapath.drop_counts()


def test_an_icmp_error_that_a_socket_hears_of_has_no_such_line() -> None:
    made = world()
    socket = made.netns.sockets.udp()
    socket.bind("", 4000)
    assert told(made, about(OWN))[-1] == "to the transport layer"


def test_an_icmp_error_that_quotes_nothing_is_dropped() -> None:
    made = world()
    told(made, about(b"?"))
    assert made.netns.datapath.drop_counts() == {DropReason.TRANSPORT_HEADER: 1}


def test_the_last_fragment_says_that_it_goes_on_as_the_whole() -> None:
    made = world(FILTER.format("ACCEPT", "-A FORWARD -m conntrack --ctstate NEW"))
    whole = through(data=bytes(40))[20:]
    for offset in (0, 24):
        piece = whole[offset : offset + 24]
        packet = build.ipv4(
            ip(PEER), ip(FAR), 17, piece, identification=9, more_fragments=not offset, fragment_offset=offset
        )
        lines = told(made, lambda made, packet=packet: given(made, packet))  # type: ignore[misc]
    assert "is the last of 2 fragments, and goes on as the whole packet" in lines


def test_an_arp_reply_that_nobody_asked_for_says_that_it_is_not_learnt() -> None:
    lines = told(world(), lambda made: made.give_arp("eth0", reply("10.0.0.77", "10.0.0.1"), dst=HOST_MAC))
    assert lines[-1].endswith("nobody has asked for it (net.ipv4.conf.eth0.arp_accept)")


def test_a_second_answer_that_comes_too_soon_says_that_it_is_not_believed() -> None:
    made = world()
    asking, other = request("10.0.0.8", "10.0.0.1"), reply("10.0.0.8", "10.0.0.1", sha="02:00:00:00:00:98")
    made.give_arp("eth0", asking)
    lines = told(made, lambda made: made.give_arp("eth0", other, dst=HOST_MAC))
    assert lines[-1].endswith("it is too new (net.ipv4.neigh.eth0.locktime)")
