"""Options in IPv4 headers, and who is answered in IPv4, as scripts that run here and on the running kernel."""

from __future__ import annotations

from collections.abc import Callable

from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text
from tests.kernel.node_cases import NEAR
from tests.netfilter.case_script import CLIENT, SERVER, Script
from tests.netfilter.selftest_cases import table

SCRIPTS: dict[str, Callable[[], Script]] = {}
#: Errors are limited, for each host that is told and for all.
_NO_LIMIT = {"net.ipv4.icmp_ratelimit": "0", "net.ipv4.icmp_msgs_burst": "1000"}
_COUNTED = table("mangle", "-A INPUT", "-A FORWARD")
_PROBLEM = f"in {NEAR} > {CLIENT} icmp 12/0"


def case(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


def _packet(
    destination: str, options: bytes, protocol: int = 99, body: bytes = bytes(8), source: str = CLIENT
) -> bytes:
    return build.ipv4(
        ip_from_text(source), ip_from_text(destination), protocol, body, options=options + bytes(-len(options) % 4)
    )


def _addresses(*texts: str) -> bytes:
    return b"".join(map(ip_from_text, texts))


@case
def options_that_make_no_sense() -> Script:
    script = Script(
        "options-that-make-no-sense",
        "Where a length, a pointer or an overflow is wrong, the sender is told which byte it is; so it is of a second "
        "route, and of any CIPSO option, whose domain of interpretation nobody knows.",
        _COUNTED,
        sysctls=_NO_LIMIT,
    )
    for wrong in (
        b"\x88\x01\0\0",
        b"\x88\x05\0\0",
        b"\1\1\1\x88",
        b"\7\2\4\0",
        b"\7\7\3" + bytes(5),
        b"\7\6\4" + bytes(5),
        b"\7\3\4\7\3\4\1\1",
        b"\x44\3\5\0",
        b"\x44\4\4\0",
        b"\x44\x08\6\0" + bytes(4),
        b"\x44\x08\5\1" + bytes(4),
        b"\x44\4\5\xf0",
        b"\x94\3\0\0",
        b"\x83\2\4\0",
        b"\x83\3\3\0",
        b"\x86\6\0\0\0\0\0\0",
        b"\x86\x08\0\0\0\0\0\0",
        b"\x89\3\4\x83\3\4\1\1",
    ):
        script.receive("in", _packet(SERVER, wrong), out=[_PROBLEM], rules={"mangle/FORWARD/1": 0})
    return script


@case
def options_that_pass() -> Script:
    script = Script(
        "options-that-pass",
        "Unknown options, router alerts, full routes and others' timestamps pass; what comes after the end is zeroed.",
        _COUNTED,
        sysctls=_NO_LIMIT,
    )
    for fine in (
        b"\x88\4\0\1",
        b"\x94\4\0\0",
        b"\x94\4\0\1",
        b"\7\7\x08" + _addresses("10.9.9.9") + b"\1",
        b"\x44\x0c\5\3" + _addresses("10.9.9.9", "0.0.0.0"),
        b"\x44\x08\5\2" + bytes(4),
        b"\x44\4\5\x10",
        b"\0\1\2\3",
    ):
        for destination, rule in ((SERVER, "FORWARD"), (NEAR, "INPUT")):
            script.receive("in", _packet(destination, fine), rules={f"mangle/{rule}/1": 1})
    return script


@case
def recorded_route() -> Script:
    script = Script(
        "recorded-route",
        "A packet that records its route notes the address of the interface it leaves by (it is the bytes that tell), "
        "an answer where it begins.",
        _COUNTED,
        sysctls=_NO_LIMIT,
    )
    for pointer in (4, 8, 12):
        route = bytes((7, 11, pointer)) + bytes(8) + b"\1"
        script.receive("in", _packet(SERVER, route), out=[f"out {CLIENT} > {SERVER} 99"])
        script.receive("in", _packet(NEAR, route), out=[f"in {NEAR} > {CLIENT} icmp 3/2"])
        echo = build.icmp(8, 0, 1, bytes(8))
        script.receive("in", _packet(NEAR, route, 1, echo), out=[f"in {NEAR} > {CLIENT} icmp 0/0"])
        ends = ip_from_text(CLIENT), ip_from_text(NEAR)
        syn = build.tcp(*ends, 1000, 80, seq=1, flags=2)
        script.receive("in", _packet(NEAR, route, 6, syn), out=[f"in {NEAR}:80 > {CLIENT}:1000 tcp R."])
    return script


@case
def route_without_room() -> Script:
    script = Script(
        "route-without-room",
        "Of a route in which there is no room for one more address there is no answer.",
        _COUNTED,
        sysctls=_NO_LIMIT,
    )
    script.receive("in", _packet(NEAR, b"\7\x09\4" + bytes(6)), out=[])
    return script


@case
def source_route() -> Script:
    script = Script(
        "source-route",
        "A source route is dropped while they are not accepted, and no error about it goes back by way of one that was "
        "not begun.",
        _COUNTED,
        sysctls=_NO_LIMIT,
    )
    for kind in (0x83, 0x89):
        for destination in (SERVER, NEAR):
            route = bytes((kind, 7, 4)) + _addresses("10.2.0.1") + b"\1"
            script.receive(
                "in", _packet(destination, route), out=[], rules={"mangle/FORWARD/1": 0, "mangle/INPUT/1": 0}
            )
    # the answer to what came by 10.2.0.9 goes there first
    wrong = bytes((0x83, 7, 8)) + _addresses(SERVER) + b"\x88\1"
    script.receive("in", _packet(NEAR, wrong), out=[f"out {NEAR} > {SERVER} icmp 12/0"])
    return script


@case
def refused_with_a_route() -> Script:
    script = Script(
        "refused-with-a-route",
        "REJECT sums up a packet from its IP header on, whose own sum is wrong after a route has been noted in it.",
        table("filter", "-A FORWARD -j REJECT --reject-with icmp-admin-prohibited"),
        sysctls=_NO_LIMIT,
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    datagram = build.udp(*ends, 1000, 53, bytes(8))
    for pointer, out in ((4, []), (8, [f"in {NEAR} > {CLIENT} icmp 3/13"])):
        route = bytes((7, 7, pointer)) + bytes(4) + b"\1"
        script.receive("in", _packet(SERVER, route, 17, datagram), out=out)
    return script


@case
def errors_about_icmp() -> Script:
    script = Script(
        "errors-about-icmp",
        "No error is sent about messages that are errors, nor about some types that never were anything.",
        table("filter", "-A FORWARD -j REJECT"),
        sysctls=_NO_LIMIT,
    )
    for icmp_type in range(20):
        answered = icmp_type in (0, 8, 13, 14, 15, 16, 17, 18)
        packet = _packet(SERVER, b"", 1, build.icmp(icmp_type, 0, 1, bytes(28)))
        script.receive("in", packet, out=[f"in {NEAR} > {CLIENT} icmp 3/3"] if answered else [])
    return script


@case
def code_of_an_echo() -> Script:
    script = Script("code-of-an-echo", "An echo reply has the code of its request.", _COUNTED, sysctls=_NO_LIMIT)
    for code in (0, 1, 255):
        packet = _packet(NEAR, b"", 1, build.icmp(8, code, 1, bytes(8)))
        script.receive("in", packet, out=[f"in {NEAR} > {CLIENT} icmp 0/{code}"])
    return script


@case
def senders_of_broadcasts() -> Script:
    script = Script(
        "senders-of-broadcasts",
        "Who sends to everyone has an address that is not this host's; who has none yet may send to all hosts.",
        _COUNTED,
        sysctls=_NO_LIMIT,
    )
    for source, destination, taken in (
        ("127.0.0.1", "255.255.255.255", 0),
        (NEAR, "255.255.255.255", 0),
        ("0.0.0.0", "255.255.255.255", 1),
        (CLIENT, "255.255.255.255", 1),
        ("0.0.0.0", "224.0.0.1", 1),
        ("127.0.0.1", "224.0.0.1", 0),
        (NEAR, "224.0.0.1", 0),
        ("0.0.0.5", "224.0.0.1", 1),
    ):
        to = "01:00:5e:00:00:01" if destination.startswith("224") else "ff:ff:ff:ff:ff:ff"
        packet = _packet(destination, b"", source=source)
        script.receive("in", packet, to=to, out=[], rules={"mangle/INPUT/1": taken})
    return script


@case
def connection_with_options() -> Script:
    script = Script(
        "connection-with-options",
        "A connection sends the options of its SYN back with each of its segments, if there is room in them.",
        _COUNTED,
        listeners=[{"proto": "tcp", "address": NEAR, "port": 80, "name": "web"}],
        sysctls={"net.ipv4.tcp_timestamps": "0"},
    )
    ends = ip_from_text(CLIENT), ip_from_text(NEAR)
    acknowledged = [{"field": "tcp.ack", "from": {"step": 0, "frame": 0, "field": "tcp.seq"}, "add": 1}]
    syn = build.tcp(*ends, 1000, 80, seq=1000, flags=2, window=65535, options=build.tcp_options(mss=1460))
    script.receive("in", _packet(NEAR, b"\7\x0b\4" + bytes(8), 6, syn), out=[f"in {NEAR}:80 > {CLIENT}:1000 tcp S."])
    for seq, flags, payload, out in ((1001, 16, b"", ""), (1001, 24, b"hello", "."), (1006, 17, b"", "")):
        segment = build.tcp(*ends, 1000, 80, payload, seq=seq, ack=1, flags=flags, window=65535)
        lines = [f"in {NEAR}:80 > {CLIENT}:1000 tcp {out}"] if out else []
        script.receive("in", _packet(NEAR, b"", 6, segment), take=acknowledged, out=lines)
    return script


@case
def reset_with_options_that_were_blanked() -> Script:
    script = Script(
        "reset-with-options-that-were-blanked",
        "What is behind the end of the options is blanked and the header's sum not mended: a tracked segment, whose "
        "sum was found right before, is reset all the same, an untracked one is not, nor one that is forwarded.",
        table("raw", "-A PREROUTING -m ttl --ttl-eq 9 -j CT --notrack")
        + table(
            "filter",
            "-A INPUT -p tcp -j REJECT --reject-with tcp-reset",
            "-A INPUT -m conntrack --ctstate NEW",
            "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset",
        ),
    )
    ends = ip_from_text(CLIENT), ip_from_text(NEAR)
    data = build.tcp(*ends, 1000, 80, seq=1, flags=build.TcpFlag.SYN, window=100)
    for ttl, out in ((64, [f"in {NEAR}:80 > {CLIENT}:1000 tcp R."]), (9, [])):
        packet = build.ipv4(*ends, build.IPPROTO_TCP, data, ttl=ttl, options=b"\0\1\2\3")
        script.receive("in", packet, out=out, rules={"filter/INPUT/1": 1})
    onward = ip_from_text(CLIENT), ip_from_text(SERVER)
    data = build.tcp(*onward, 1000, 80, seq=1, flags=build.TcpFlag.SYN, window=100)
    script.dropped(
        "in", build.ipv4(*onward, build.IPPROTO_TCP, data, options=b"\0\1\2\3"), rules={"filter/FORWARD/1": 1}
    )
    return script
