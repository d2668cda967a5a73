"""Fragments that connection tracking, or a match, has put together, as scripts for here and the running kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import IPPROTO_UDP
from tests.kernel.bridge_cases import behind_a_bridge
from tests.kernel.node_cases import FAR6, NEAR6, NO_LIMIT6, STATES, piece6, pieces4
from tests.netfilter.case_script import CLIENT, CLIENT6, SERVER, SERVER6, Script, segment
from tests.netfilter.selftest_cases import table

SCRIPTS: dict[str, Callable[[], Script]] = {}
#: One option of four bytes.
_OPTIONS = bytes.fromhex("0104") + bytes(4)
_DESTINATION, _AUTHENTICATION, _SCTP = 60, 51, 132
_MASQUERADE = table("nat", "-A POSTROUTING -j MASQUERADE")


def case(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


def _behind_options(count: int, protocol: int, payload: bytes) -> bytes:
    """An IPv6 packet from the client to the server with ``count`` headers of options before its payload."""
    for _ in range(count):
        payload = bytes((protocol, 0)) + _OPTIONS + payload
        protocol = _DESTINATION
    return build.ipv6(ip_from_text(CLIENT6), ip_from_text(SERVER6), protocol, payload)


def _datagram6(size: int) -> bytes:
    return build.udp(ip_from_text(CLIENT6), ip_from_text(SERVER6), 1000, 53, bytes(size))


def _cut(script: Script, packet: bytes, ends: Sequence[int], out: Sequence[str]) -> None:
    """Receive a packet in fragments that end there; the last leads to ``out``."""
    start = 0
    whole = len(packet) - 40
    for end in (*ends, whole):
        script.receive("in", piece6(packet, start, end, more=end < whole), out=out if end == whole else [])
        start = end


@case
def whole_packets_for_a_match() -> Script:
    script = Script(
        "whole-packets-for-a-match",
        "A rule with -m socket anywhere has fragments gathered though nothing is tracked.",
        table("mangle", "-A PREROUTING -p udp", "-A INPUT -p tcp -m socket --nowildcard"),
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    packet = build.ipv4(*ends, IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(40)))
    first, second = pieces4(packet, (24, 24))
    script.dropped("in", second, rules={"mangle/PREROUTING/1": 0})
    script.receive(
        "in",
        first,
        out=[f"out {CLIENT}:1000 > {SERVER}:53 udp", f"out {CLIENT} > {SERVER} udp"],
        rules={"mangle/PREROUTING/1": 1},
    )
    return script


@case
def fragments_that_no_match_wants() -> Script:
    script = Script(
        "fragments-that-no-match-wants",
        "Without such a rule fragments pass one by one.",
        table("mangle", "-A PREROUTING -p tcp"),
    )
    for piece in pieces4(segment(CLIENT, SERVER, 1000, 80, "S", 1, length=20), (24, 16)):
        script.receive("in", piece, out=[f"out {CLIENT}* > {SERVER}* tcp*"])
    return script


@case
def translated_behind_cut_headers6() -> Script:
    script = Script(
        "translated-behind-cut-headers6",
        "NAT pulls the port into the first piece where options fill it, so that a fragment header finds its place.",
        rules6=_MASQUERADE,
    )
    _cut(script, _behind_options(2, IPPROTO_UDP, _datagram6(7)), (8, 16, 24), [f"out {FAR6}:1000 > {SERVER6}:53 udp"])
    return script


@case
def not_cut_behind_cut_headers6() -> Script:
    script = Script(
        "not-cut-behind-cut-headers6",
        "Where nobody has pulled anything, a packet whose first piece ends among its options is lost.",
        rules6=STATES,
    )
    _cut(script, _behind_options(2, IPPROTO_UDP, _datagram6(7)), (8, 16, 24), [])
    return script


@case
def sctp_behind_cut_headers6() -> Script:
    script = Script(
        "sctp-behind-cut-headers6",
        "Connection tracking pulls SCTP's header to look at its checksum.",
        rules6=STATES,
    )
    init = bytes.fromhex("01f40035000000003ee1f5aa01000014000011110000ffff0001000100000001")
    _cut(script, _behind_options(4, _SCTP, init), (24, 48), [f"out {CLIENT6}:500 > {SERVER6}:53 132"])
    return script


@case
def old_pieces_less_what_was_pulled6() -> Script:
    script = Script(
        "old-pieces-less-what-was-pulled6",
        "What NAT has pulled into the first piece leaves in it, and the others as they came.",
        rules6=_MASQUERADE,
        sysctls=NO_LIMIT6,
    )
    hop_by_hop = bytes((IPPROTO_UDP, 0)) + _OPTIONS
    header = bytes((0, 4)) + bytes(22)
    packet = build.ipv6(
        ip_from_text(CLIENT6), ip_from_text(SERVER6), _AUTHENTICATION, header + hop_by_hop + _datagram6(80)
    )
    later = [f"out {FAR6} > {SERVER6} 51"] * 4
    _cut(script, packet, (24, 48, 72, 96), [f"out {FAR6}:1000 > {SERVER6}:53 udp", *later])
    return script


@case
def headers_cut_short_elsewhere6() -> Script:
    script = Script(
        "headers-cut-short-elsewhere6",
        "A rule for a protocol drops what ends among its headers only if addresses and interfaces are the rule's.",
        rules6=table("raw", f"-A PREROUTING -p tcp -s {SERVER6}", "-A PREROUTING -p tcp -i out", "-A PREROUTING")
        + table("filter", f"-A FORWARD -p tcp -s {CLIENT6}", "-A FORWARD"),
    )
    packet = build.ipv6(ip_from_text(CLIENT6), ip_from_text(SERVER6), _DESTINATION, bytes((43, 0)) + _OPTIONS)
    script.dropped("in", packet, rules={"6:raw/PREROUTING/3": 1, "6:filter/FORWARD/2": 0})
    return script


def _gathered_on_a_bridge(name: str, proves: str, *, dont_fragment: bool) -> Script:
    script = Script(
        name,
        proves,
        STATES,
        sysctls={"net.bridge.bridge-nf-call-iptables": "1"},
        mtus={"out": 1000},
    )
    behind_a_bridge(script)
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    for sizes, count in (((600, 208), 1), ((600, 600, 208), 3), ((1200, 208), 2)):
        packet = build.ipv4(*ends, IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(sum(sizes) - 8)))
        out = [f"out {CLIENT}:1000 > {SERVER}:53 udp", *[f"out {CLIENT} > {SERVER} udp"] * (count - 1)]
        pieces = pieces4(packet, sizes, dont_fragment=dont_fragment)
        for number, piece in enumerate(pieces, 1):
            script.receive("in", piece, out=out if number == len(pieces) else [])
    return script


@case
def gathered_on_a_bridge() -> Script:
    return _gathered_on_a_bridge(
        "gathered-on-a-bridge",
        "What br_netfilter has gathered and the host routes is cut again only where it does not fit.",
        dont_fragment=False,
    )


@case
def gathered_on_a_bridge_dont_fragment() -> Script:
    return _gathered_on_a_bridge(
        "gathered-on-a-bridge-dont-fragment",
        "So it is if its fragments had DF: nobody is told that it does not fit (ignore_df).",
        dont_fragment=True,
    )


@case
def gathered_on_a_bridge6() -> Script:
    script = Script(
        "gathered-on-a-bridge6",
        "In IPv6, too, what br_netfilter has gathered is cut again where it does not fit.",
        rules6=STATES,
        sysctls={"net.bridge.bridge-nf-call-ip6tables": "1"} | NO_LIMIT6,
        mtus={"out": 1400},
    )
    behind_a_bridge(script)
    first, later = f"out {CLIENT6}:1000 > {SERVER6}:53 udp", f"out {CLIENT6} > {SERVER6} udp"
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    for size, at, out in ((1200, (600,), [first]), (1500, (600,), [first, later]), (1600, (1440,), [first, later])):
        _cut(script, build.ipv6(*ends, IPPROTO_UDP, _datagram6(size)), at, out)
    return script


@case
def fragment_that_is_not_gathered6() -> Script:
    script = Script(
        "fragment-that-is-not-gathered6",
        "A fragment that ends at an odd place is let through as it is, and refused where it does not fit.",
        rules6=STATES,
        sysctls=NO_LIMIT6,
        mtus={"out": 1400},
    )
    packet = build.ipv6(ip_from_text(CLIENT6), ip_from_text(SERVER6), 99, bytes(3000))
    script.receive("in", piece6(packet, 0, 1388, more=True), out=[f"in {NEAR6} > {CLIENT6} icmp6 2/0"])
    return script


@case
def fragments_of_less_than_a_header() -> Script:
    script = Script(
        "fragments-of-less-than-a-header",
        "Where all fragments together have no TCP header, they leave as they came, and so without DF.",
        STATES,
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    first, second = pieces4(build.ipv4(*ends, build.IPPROTO_TCP, bytes(16)), (8, 8), dont_fragment=True)
    script.dropped("in", first)
    script.receive("in", second, out=[f"out {CLIENT} > {SERVER} tcp"] * 2)
    return script


@case
def many_fragments_from_one_host() -> Script:
    script = Script(
        "many-fragments-from-one-host",
        "How many other fragments have come from a host is counted from a packet's first fragment on.",
        STATES,
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    packet = build.ipv4(*ends, IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(40)))
    pieces = pieces4(packet, (24, 24))
    out = [f"out {CLIENT}:1000 > {SERVER}:53 udp", f"out {CLIENT} > {SERVER} udp"]
    for _ in range(40):
        script.receive("in", pieces[0], out=[])
        script.receive("in", pieces[1], out=out)
    return script
