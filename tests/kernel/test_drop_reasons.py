"""A packet that goes no further leaves a trace that says why: each reason is reached, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from pktsim.kernel.explain import Explainer, walk_lines
from pktsim.kernel.tcp_segment import ACK
from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.opcodes import DropReason
from pktsim.netfilter.ruleset import Family
from pktsim.netfilter.trace import DROP_TEXT
from pktsim.wire import frame as build
from tests.kernel import drop_stories_host, drop_stories_tcp
from tests.kernel.drop_stories import (
    DATAGRAM,
    ELSEWHERE,
    FILTER,
    MORE,
    PEER,
    STORIES,
    SYN,
    Story,
    given,
    through,
    to_host,
    world,
)
from tests.kernel.drop_stories_tcp import STAMP
from tests.kernel.worlds import HOST_MAC, PEER_MAC, Host, host, ip, mac, udp_packet

#: The modules fill the tables.
assert drop_stories_host
assert drop_stories_tcp


def test_every_reason_has_a_story_and_words() -> None:
    assert STORIES.keys() | ELSEWHERE.keys() == set(DropReason)
    assert not STORIES.keys() & ELSEWHERE.keys()
    assert DROP_TEXT.keys() == set(DropReason)


def told(made: Host, act: Callable[[Host], object]) -> list[str]:
    """The lines of the trace."""
    explainer = Explainer()
    explainer.attach(made.netns)
    act(made)
    return [line.strip() for line in walk_lines(explainer.visits)]


@pytest.mark.parametrize("reason", STORIES, ids=lambda reason: reason.name)
def test_the_trace_says_why(reason: DropReason) -> None:
    rules, sysctls, act = STORIES[reason]
    made = world(rules)
    for name, value in sysctls.items():
        made.netns.sysctl_set(name, value)
    lines = told(made, act)
    assert any(line.startswith(f"dropped: {DROP_TEXT[reason]}") for line in lines), lines


@pytest.mark.parametrize(("reason", "act"), MORE)
def test_the_last_line_names_the_reason(reason: DropReason, act: Callable[[Host], object]) -> None:
    assert told(world(), act)[-1] == f"dropped: {DROP_TEXT[reason]}"


#: Of what is not modelled the caller hears by the exception.
TOLD = [story for reason, story in STORIES.items() if reason is not DropReason.UNSUPPORTED]


@pytest.mark.parametrize("story", [*TOLD, *(("", {}, act) for _, act in MORE)])
def test_listener_counters_and_trace_tell_of_the_same_drops(story: Story) -> None:
    rules, sysctls, go = story
    made = world(rules)
    for name, value in sysctls.items():
        made.netns.sysctl_set(name, value)
    reasons: list[DropReason] = []
    made.netns.drop_listener = lambda _number, reason, _ifindex: reasons.append(reason)
    lines = told(made, go)
    assert Counter(reasons) == made.netns.datapath.drop_counts()
    assert sum(line.startswith(("dropped: ", "rejected ")) for line in lines) == len(reasons) > 0


def test_the_rule_whose_match_drops_a_packet_is_named() -> None:
    made = world(FILTER.format("ACCEPT", "-A FORWARD -p udp\n-A FORWARD -p udp -m udp --dport 7"))
    lines = told(made, lambda made: given(made, build.ipv4(ip(PEER), ip("10.0.1.9"), 17, b"\0")))
    assert lines[-1] == f"dropped: {DROP_TEXT[DropReason.HOTDROP]} (filter FORWARD rule 2)"


def test_a_segment_that_a_socket_takes_is_not_dropped() -> None:
    made = world()
    server = made.netns.sockets.tcp()
    server.bind("", 80)
    server.listen()
    assert not any(line.startswith("dropped") for line in told(made, to_host(6, SYN)))


def test_a_time_stamp_that_is_one_tick_old_is_taken() -> None:
    """TCP_PAWS_WINDOW (include/net/tcp.h)."""
    made = world()
    client, _ = drop_stories_tcp.connected(made)
    assert not any(line.startswith("dropped") for line in told(made, lambda _: client.give(ACK, b"x", stamp=STAMP - 1)))


def test_a_rejected_packet_is_counted_and_the_rule_is_named() -> None:
    made = world(FILTER.format("ACCEPT", "-A FORWARD -p udp -j REJECT"))
    assert "rejected (filter FORWARD rule 1)" in told(made, lambda made: given(made, through()))
    assert made.netns.datapath.drop_counts() == {DropReason.REJECTED: 1}


# --- answers that are withheld


def answers(made: Host, act: Callable[[Host], object], *, times: int) -> list[str]:
    """What the trace says of ICMP answers."""
    lines = told(made, lambda made: [act(made) for _ in range(times)])
    return [line for line in lines if "answered with ICMP" in line]


def test_an_answer_that_the_rate_limit_withholds_is_not_called_an_answer() -> None:
    made = world()
    lines = answers(made, lambda made: given(made, through(ttl=1)), times=8)
    assert lines[:6] == ["answered with ICMP type 11 code 0"] * 6
    withheld = "not answered with ICMP type 11 code 0: the rate limit withholds it (net.ipv4.icmp_ratelimit)"
    assert lines[6:] == [withheld] * 2
    assert len([frame for _, frame in made.sent]) == 6


@pytest.mark.parametrize(
    ("setting", "sysctls", "act"),
    [
        ("net.ipv4.icmp_ratelimit", {}, to_host(17, DATAGRAM)),
        ("net.ipv4.icmp_msgs_per_sec", {"net.ipv4.icmp_msgs_per_sec": 0}, to_host(17, DATAGRAM)),
        ("net.ipv4.route.error_cost", {}, lambda made: given(made, udp_packet(PEER, "192.0.2.1"))),
        ("net.ipv4.icmp_ratelimit", {}, lambda made: given(made, through(data=b"x", dport=9))),
    ],
)
def test_the_setting_is_named(setting: str, sysctls: dict[str, int], act: Callable[[Host], object]) -> None:
    made = world(FILTER.format("ACCEPT", "-A FORWARD -p udp -m udp --dport 9 -j REJECT"))
    for name, value in sysctls.items():
        made.netns.sysctl_set(name, value)
    lines = answers(made, act, times=12)
    assert lines[-1].endswith(f"the rate limit withholds it ({setting})")
    assert sum(line.startswith("not ") for line in lines) + len(made.sent) == 12


def test_the_setting_of_ipv6_is_named() -> None:
    made = world()
    made.netns.address_add("eth0", "fd00::1/64")
    made.netns.neighbour_add("eth0", "fd00::9", PEER_MAC)
    datagram = build.ipv6(ip("fd00::9"), ip("fd00::1"), 17, build.udp(ip("fd00::9"), ip("fd00::1"), 1, 2))
    frame = build.ethernet(mac(HOST_MAC), mac(PEER_MAC), 0x86DD, datagram)
    lines = answers(made, lambda made: made.give("eth0", frame), times=12)
    assert lines[-1].endswith("the rate limit withholds it (net.ipv6.icmp.ratelimit)")


def test_copies_that_go_round_without_end_are_dropped_before_long() -> None:
    rules = "*mangle\n:FORWARD ACCEPT\n-A FORWARD -j TTL --ttl-set 64\n-A FORWARD -j TEE --gateway 192.0.2.9\nCOMMIT\n"
    made = world(rules)
    made.netns.route_add("192.0.2.0/24 dev lo")
    device = made.netns.devices.named("eth0")
    frame = build.ethernet(mac(HOST_MAC), mac(PEER_MAC), 0x0800, udp_packet(PEER, "192.0.2.1"))
    events = made.netns.datapath.receive(device.ifindex, frame, made.clock.now_ns)
    assert 10_000 < len(events) < 100_000
    assert made.netns.datapath.drop_counts()[DropReason.LOOP] > 1


@pytest.mark.slow
def test_copies_that_draw_a_redirect_in_each_round_are_dropped_before_long() -> None:
    """The engine is left and called again for each redirect: all calls of one arrival are bounded together."""
    rules = "-A PREROUTING -j TTL --ttl-set 64\n-A PREROUTING -j TEE --gateway 192.0.2.9\n"
    made = world(f"*mangle\n:PREROUTING ACCEPT\n{rules}COMMIT\n")
    made.netns.route_add("192.0.2.0/24 dev lo")
    for _ in range(2):
        before = made.netns.datapath.drop_counts().get(DropReason.LOOP, 0)
        given(made, udp_packet("192.0.2.5", "192.0.2.1"))
        assert 10_000 < made.netns.datapath.drop_counts()[DropReason.LOOP] - before < 100_000


def test_a_local_ipv6_packet_is_traced_by_its_own_tables() -> None:
    made = host()
    made.link("eth0", "fd00::1/64")
    made.netns.neighbour_add("eth0", "fd00::2", "02:00:00:00:00:99")
    made.netns.load_ruleset(parse_save(FILTER.format("ACCEPT", "-A OUTPUT -p udp -j DROP"), Family.IPV6))
    explainer = Explainer()
    explainer.attach(made.netns)
    ends = ip("fd00::1"), ip("fd00::2")
    made.netns.local_out(build.ipv6(*ends, 17, build.udp(*ends, 1, 2)))
    lines = [line.strip() for line in walk_lines(explainer.visits)]
    assert "route: unicast by eth0, next hop fd00::2" in lines
    assert "-A OUTPUT -p udp -j DROP" in lines
    assert lines[-1] == "dropped: a rule said DROP (filter OUTPUT rule 1)"


def test_copies_of_copies_come_to_an_end() -> None:
    rules = "-A PREROUTING -j TEE --gateway 10.0.1.1\n" * 2
    made = world(f"*mangle\n:PREROUTING ACCEPT [0:0]\n{rules}COMMIT\n")
    reasons: list[DropReason] = []
    made.netns.drop_listener = lambda _number, reason, _ifindex: reasons.append(reason)
    given(made, through())
    assert set(reasons) == {DropReason.LOOP}
