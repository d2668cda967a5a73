"""Fragments that connection tracking, or a match, has put together, as scripts for here and the running kernel."""

from __future__ import annotations

import struct
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
def pieces_with_headers_of_their_own() -> Script:
    script = Script(
        "pieces-with-headers-of-their-own",
        "What was gathered leaves in its old pieces even if one of them was longer with its own header, but not "
        "where the first header does not fit in front of a later piece.",
        STATES,
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    body = build.udp(*ends, 1000, 53, bytes(40))
    whole, later = f"out {CLIENT}:1000 > {SERVER}:53 udp", f"out {CLIENT} > {SERVER} udp"
    for before, after, out in (
        (0, 0, [whole, later]),
        (0, 40, [whole, later]),
        (20, 20, [whole, later]),
        (20, 0, [whole, later, later]),
    ):
        for at, size, end in ((0, 16, before), (16, 32, after)):
            piece = build.ipv4(
                *ends, IPPROTO_UDP, body[at : at + size], identification=7, fragment_offset=at,
                more_fragments=at == 0, options=b"\1" * end,
            )  # fmt: skip
            script.receive("in", piece, out=out if at else [])
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


def _tracked6(name: str, proves: str) -> Script:
    return Script(
        name,
        proves,
        rules6=table("mangle", "-A PREROUTING") + table("filter", "-A FORWARD -m conntrack --ctstate NEW"),
        sysctls=NO_LIMIT6,
    )


@case
def half_a_fragment_header6() -> Script:
    script = _tracked6(
        "half-a-fragment-header6",
        "Conntrack drops what has not the first half of a fragment header, and what has it and is no first fragment; a "
        "first one passes.",
    )
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    for offset, passes in ((0, range(4, 9)), (1, range(4, 9)), (8, range(0))):
        for length in range(1, 9):
            header = (struct.pack("!BBHI", IPPROTO_UDP, 0, offset, 5) + bytes(8))[:length]
            packet = build.ipv6(*ends, _DESTINATION, bytes((build.IPPROTO_FRAGMENT, 0)) + _OPTIONS + header)
            script.receive("in", packet, rules={"6:mangle/PREROUTING/1": int(length in passes)})
    return script


@case
def half_a_fragment_header_to_the_host6() -> Script:
    script = Script(
        "half-a-fragment-header-to-the-host6",
        "The host that a fragment is for says that not all of its header is there.",
        rules6=table("mangle", "-A PREROUTING"),
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text(CLIENT6), ip_from_text(NEAR6)
    for length in (1, 3, 4, 7):
        packet = build.ipv6(*ends, build.IPPROTO_FRAGMENT, bytes((IPPROTO_UDP, 0, 0, 0, 0, 0, 0))[:length])
        script.receive("in", packet, out=[f"in {NEAR6} > {CLIENT6} icmp6 4/0"])
    return script


@case
def options_before_what_was_gathered6() -> Script:
    script = _tracked6(
        "options-before-what-was-gathered6",
        "Of what conntrack has gathered the host looks at no header but hop-by-hop options before it: others it looks "
        "for where the fragment header was.",
    )
    ends = ip_from_text(CLIENT6), ip_from_text(NEAR6)
    datagram = build.udp(*ends, 1000, 9, bytes(8))
    for kind, answered in ((0, True), (_DESTINATION, False)):
        for pieces in (((0, 16),), ((0, 8), (8, 16))):
            for start, end in pieces:
                more = end < len(datagram)
                fragment = build.ipv6_fragment(
                    IPPROTO_UDP, datagram[start:end], identification=7 + len(pieces), offset=start, more=more
                )
                packet = build.ipv6(*ends, kind, bytes((build.IPPROTO_FRAGMENT, 0)) + _OPTIONS + fragment)
                answer = [f"in {NEAR6} > {CLIENT6} icmp6 1/4"] if answered and not more else []
                script.receive("in", packet, out=answer)
    return script


@case
def options_of_one_fragment6() -> Script:
    script = Script(
        "options-of-one-fragment6",
        "A host gathers fragments under the headers of the first, whichever comes last.",
        rules6=table("mangle", "-A PREROUTING"),
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text(CLIENT6), ip_from_text(NEAR6)
    datagram = build.udp(*ends, 1000, 9, bytes(8))
    for number, with_options in enumerate((0, 8)):
        for start in (0, 8):
            fragment = build.ipv6_fragment(
                IPPROTO_UDP, datagram[start : start + 8], identification=7 + number, offset=start, more=not start
            )
            if start == with_options:
                packet = build.ipv6(*ends, 0, bytes((build.IPPROTO_FRAGMENT, 0)) + _OPTIONS + fragment)
            else:
                packet = build.ipv6(*ends, build.IPPROTO_FRAGMENT, fragment)
            script.receive("in", packet, out=[f"in {NEAR6} > {CLIENT6} icmp6 1/4"] if start else [])
    return script


@case
def options_that_nobody_knows6() -> Script:
    script = Script(
        "options-that-nobody-knows6",
        "A CALIPSO option is dropped, for no domain of interpretation is known; the home address is an option only to "
        "mobile hosts.",
        rules6=table("mangle", "-A PREROUTING"),
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text(CLIENT6), ip_from_text(NEAR6)
    datagram = build.udp(*ends, 1000, 9, bytes(8))
    calipso = bytes((IPPROTO_UDP, 1, 7, 8)) + bytes(8) + bytes((1, 2, 0, 0))
    script.receive("in", build.ipv6(*ends, 0, calipso + datagram), rules={"6:mangle/PREROUTING/1": 0}, out=[])
    home = bytes((IPPROTO_UDP, 2, 1, 2, 0, 0, 201, 16)) + ends[0]
    script.receive("in", build.ipv6(*ends, _DESTINATION, home + datagram), out=[f"in {NEAR6} > {CLIENT6} icmp6 4/2"])
    return script


@case
def headers_that_are_cut_short6() -> Script:
    script = Script(
        "headers-that-are-cut-short6",
        "A routing header of less than four bytes is too short to -p; -m ipv6header believes a length that the packet "
        "does not have, and sees that nothing follows.",
        rules6=table(
            "mangle",
            "-A PREROUTING -m ipv6header --header dst",
            "-A PREROUTING -m hbh",
            "-A PREROUTING -p udp",
        ),
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    for length, passes in ((2, 0), (3, 0), (4, 1)):
        packet = build.ipv6(*ends, build.IPPROTO_ROUTING, bytes((IPPROTO_UDP, 0, 0, 0))[:length])
        script.receive("in", packet, rules={"6:mangle/PREROUTING/3": passes})
    packet = build.ipv6(*ends, _DESTINATION, bytes((build.IPPROTO_NONE, 1)) + _OPTIONS + b"\0")
    script.receive("in", packet, rules={"6:mangle/PREROUTING/1": 1, "6:mangle/PREROUTING/3": 0})
    return script


@case
def all_protocols6() -> Script:
    script = Script(
        "all-protocols6",
        "ip6tables looks for the transport header for -p all too, and drops a packet that ends before it.",
        rules6=table("raw", "-A PREROUTING", "-A PREROUTING -p all", "-A PREROUTING"),
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    for length in (1, 2, 8):
        packet = build.ipv6(*ends, _DESTINATION, (bytes((IPPROTO_UDP, 0)) + _OPTIONS)[:length])
        counted = {f"6:raw/PREROUTING/{number}": int(number == 1 or length > 1) for number in (1, 2, 3)}
        script.receive("in", packet, rules=counted)
    return script
