"""Entries: their text and the filters, as conntrack-tools 1.4.7 was seen printing and choosing on Linux 6.18."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from pktsim.clock import NS_PER_S
from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.kernel import sysctl_defaults
from pktsim.netfilter import timeouts
from pktsim.netfilter.conntrack import (
    ConntrackTuple,
    Counter,
    Entry,
    ZoneDirection,
    list_text,
    stats_text,
    summary_text,
)
from pktsim.netfilter.conntrack_filter import ConntrackFilter
from pktsim.netfilter.conntrack_sctp import SctpState
from pktsim.netfilter.conntrack_tcp import TcpState
from pktsim.netfilter.opcodes import CtStatus
from tests.netfilter.ct_node import CLIENT, IN, SERVER, TRACK, Node, pack, udp


def flow(
    proto: int,
    src: str,
    dst: str,
    sport: int = 0,
    dport: int = 0,
    *,
    reply_src: str = "",
    reply_dst: str = "",
    reply_sport: int | None = None,
    reply_dport: int | None = None,
    status: CtStatus = CtStatus.CONFIRMED,
    state: int = -1,
    mark: int = 0,
    zone: int = 0,
    zone_direction: ZoneDirection = ZoneDirection.BOTH,
    acct: bool = False,
) -> Entry:
    return Entry(
        id=67637346,
        family=socket.AF_INET6 if ":" in src else socket.AF_INET,
        proto=proto,
        orig=ConntrackTuple(pack(src), pack(dst), sport, dport),
        reply=ConntrackTuple(
            pack(reply_src or dst),
            pack(reply_dst or src),
            dport if reply_sport is None else reply_sport,
            sport if reply_dport is None else reply_dport,
        ),
        status=status,
        timeout_ns=99 * NS_PER_S + 1,
        state=state,
        mark=mark,
        zone=zone,
        zone_direction=zone_direction,
        acct=(Counter(0, 0), Counter(0, 0)) if acct else None,
    )


ASSURED = CtStatus.CONFIRMED | CtStatus.ASSURED
ECHO = 8 << 8
ECHO6, ECHO6_REPLY = 128 << 8, 129 << 8

TEXTS = [
    (
        "tcp-unreplied-assured",
        flow(6, "10.0.0.1", "10.0.0.2", 1000, 80, state=TcpState.SYN_SENT, status=ASSURED, acct=True),
        "tcp      6 99 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 packets=0 bytes=0 [UNREPLIED] "
        "src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 packets=0 bytes=0 [ASSURED] mark=0 use=1",
    ),
    (
        "tcp-established",
        flow(
            6,
            "10.0.0.1",
            "10.0.0.2",
            1001,
            80,
            state=TcpState.ESTABLISHED,
            status=ASSURED | CtStatus.SEEN_REPLY,
            mark=5,
        ),
        "tcp      6 99 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1001 dport=80 "
        "src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1001 [ASSURED] mark=5 use=1",
    ),
    (
        "sctp",
        flow(132, "10.0.0.1", "10.0.0.2", 1003, 80, state=SctpState.COOKIE_WAIT, acct=True),
        "sctp     132 99 COOKIE_WAIT src=10.0.0.1 dst=10.0.0.2 sport=1003 dport=80 packets=0 bytes=0 [UNREPLIED] "
        "src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1003 packets=0 bytes=0 mark=0 use=1",
    ),
    (
        "zone",
        flow(17, "10.0.0.1", "10.0.0.2", 1001, 80, zone=7),
        "udp      17 99 src=10.0.0.1 dst=10.0.0.2 sport=1001 dport=80 [UNREPLIED] "
        "src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1001 mark=0 zone=7 use=1",
    ),
    (
        "zone-orig",
        flow(17, "10.0.0.1", "10.0.0.2", 1002, 80, zone=8, zone_direction=ZoneDirection.ORIGINAL, acct=True),
        "udp      17 99 src=10.0.0.1 dst=10.0.0.2 sport=1002 dport=80 zone-orig=8 packets=0 bytes=0 [UNREPLIED] "
        "src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1002 packets=0 bytes=0 mark=0 use=1",
    ),
    (
        "zone-reply",
        flow(17, "10.0.0.1", "10.0.0.2", 1003, 80, zone=9, zone_direction=ZoneDirection.REPLY, acct=True),
        "udp      17 99 src=10.0.0.1 dst=10.0.0.2 sport=1003 dport=80 packets=0 bytes=0 [UNREPLIED] "
        "src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1003 zone-reply=9 packets=0 bytes=0 mark=0 use=1",
    ),
    (
        "gre",
        flow(47, "10.0.0.1", "10.0.0.2", 17, 18),
        "gre      47 99 src=10.0.0.1 dst=10.0.0.2 srckey=0x11 dstkey=0x12 [UNREPLIED] "
        "src=10.0.0.2 dst=10.0.0.1 srckey=0x12 dstkey=0x11 mark=0 use=1",
    ),
    (
        "icmp",
        flow(1, "10.0.0.1", "10.0.0.2", 77, ECHO, reply_sport=77, reply_dport=0),
        "icmp     1 99 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=77 [UNREPLIED] "
        "src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=77 mark=0 use=1",
    ),
    (
        "icmpv6",
        flow(58, "fd00::1", "fd00::2", 77, ECHO6, reply_sport=77, reply_dport=ECHO6_REPLY),
        "icmpv6   58 99 src=fd00::1 dst=fd00::2 type=128 code=0 id=77 [UNREPLIED] "
        "src=fd00::2 dst=fd00::1 type=129 code=0 id=77 mark=0 use=1",
    ),
    (
        "udplite",
        flow(136, "fd00::1", "fd00::2", 5, 6),
        "udplite  136 99 src=fd00::1 dst=fd00::2 sport=5 dport=6 [UNREPLIED] "
        "src=fd00::2 dst=fd00::1 sport=6 dport=5 mark=0 use=1",
    ),
    (
        "other",
        flow(89, "10.0.0.1", "10.0.0.2"),
        "unknown  89 99 src=10.0.0.1 dst=10.0.0.2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 mark=0 use=1",
    ),
]


@pytest.mark.parametrize(("entry", "text"), [case[1:] for case in TEXTS], ids=[case[0] for case in TEXTS])
def test_text(entry: Entry, text: str) -> None:
    assert entry.text() == text
    assert entry.text(show_id=True) == f"{text} id=67637346"
    family = "ipv4     2 " if entry.family == socket.AF_INET else "ipv6     10 "
    assert entry.text(extended=True) == family + text


def test_expired_entry_shows_no_negative_time() -> None:
    assert replace(TEXTS[0][1], timeout_ns=-5).timeout_s == 0


DNAT = CtStatus.CONFIRMED | CtStatus.SRC_NAT_DONE | CtStatus.DST_NAT_DONE | CtStatus.DST_NAT
SNAT = CtStatus.CONFIRMED | CtStatus.SRC_NAT_DONE | CtStatus.DST_NAT_DONE | CtStatus.SRC_NAT
VIP = "10.96.0.10"
POD = "10.244.0.5"
#: The table that the filters were tried on, by source port (ICMP: id).
ENTRIES = {
    1000: flow(6, "10.0.0.1", "10.0.0.2", 1000, 80, state=TcpState.SYN_SENT, status=ASSURED),
    1001: flow(
        6,
        "10.0.0.1",
        "10.0.0.3",
        1001,
        443,
        state=TcpState.ESTABLISHED,
        status=ASSURED | CtStatus.SEEN_REPLY,
        mark=5,
    ),
    2000: flow(17, "10.0.1.1", VIP, 2000, 53, reply_src=POD, reply_sport=5353),
    2001: flow(17, "10.0.1.1", VIP, 2001, 53, reply_src=POD, status=DNAT),
    2002: flow(
        17, "10.0.1.1", VIP, 2002, 53, reply_src=POD, reply_sport=5353, reply_dst="192.168.0.1", status=DNAT | SNAT
    ),
    2003: flow(17, "10.0.1.1", "8.8.8.8", 2003, 53, reply_dst="192.168.0.1", status=SNAT),
    2004: flow(17, "10.0.1.1", "8.8.8.8", 2004, 53, zone=7),
    2005: flow(17, "10.0.1.1", "8.8.8.8", 2005, 53, zone=8, zone_direction=ZoneDirection.ORIGINAL),
    2006: flow(17, "10.0.1.1", "8.8.8.8", 2006, 53, zone=9, zone_direction=ZoneDirection.REPLY),
    77: flow(1, "10.0.0.1", "10.0.0.2", 77, ECHO, reply_sport=77, reply_dport=0),
    78: flow(58, "fd00::1", "fd00::2", 78, ECHO6, reply_sport=78, reply_dport=ECHO6_REPLY),
    5: flow(17, "fd00::1", "fd00::2", 5, 53),
    6: flow(17, "fd00::1", "fd00:96::a", 6, 53, reply_src="fd00::5", status=DNAT),
}
EVERYTHING = set(ENTRIES)

#: Options -> the entries that the tool listed.
FILTERS: list[tuple[str, set[int]]] = [
    ("", EVERYTHING),
    ("-u ASSURED", {1000, 1001}),
    ("-u SEEN_REPLY", {1001}),
    ("-u ASSURED,SEEN_REPLY", {1001}),
    ("-n", {2002, 2003}),
    ("-g", {2001, 2002, 6}),
    ("-j", {2001, 2002, 2003, 6}),
    ("-n 192.168.0.1", {2002, 2003}),
    ("-g 10.244.0.5", {2001, 2002}),
    ("-g 10.244.0.5:5353", {2002}),
    ("-n -g", {2002}),
    ("-j 10.244.0.5", {2001, 2002}),
    ("-s 10.0.1.0/24", {2000, 2001, 2002, 2003, 2004, 2005, 2006}),
    ("-s 10.0.0.1 --mask-src 255.0.0.0", EVERYTHING - {78, 5, 6}),
    ("-d 8.8.8.8", {2003, 2004, 2005, 2006}),
    ("-r 10.244.0.5", {2000, 2001, 2002}),
    ("-q 192.168.0.1", {2002, 2003}),
    ("-p udp --dport 53 -d 8.8.8.8", {2003, 2004, 2005, 2006}),
    ("-p udp --orig-port-dst 53 --sport 2004", {2004}),
    ("-p udp --reply-port-src 5353", {2000, 2002}),
    ("-w 7", {2004}),
    ("-w 0", EVERYTHING - {2004}),
    ("--orig-zone 8", {2005}),
    ("--orig-zone 7", set()),
    ("--reply-zone 9", {2006}),
    ("-m 5", {1001}),
    ("-m 4/4", {1001}),
    ("-m 5/1", set()),
    ("-p tcp --state ESTABLISHED", {1001}),
    ("-p icmp --icmp-id 77", {77}),
    ("-f ipv4 -p udp", {2000, 2001, 2002, 2003, 2004, 2005, 2006}),
    ("-f ipv6", {78, 5, 6}),
    ("-s fd00::/64", {78, 5, 6}),
    ("-f ipv6 -g fd00::5", {6}),
    ("-p tcp --sport 1000 --dport 80", {1000}),
    ("-p udp --sport=5", {5}),
    (f"--orig-dst {VIP} --dst-nat {POD} -p udp", {2001, 2002}),
]


@pytest.mark.parametrize(("options", "chosen"), FILTERS, ids=[case[0] or "none" for case in FILTERS])
def test_filter(options: str, chosen: set[int]) -> None:
    wanted = ConntrackFilter.from_args(options.split())
    assert {port for port, entry in ENTRIES.items() if wanted.matches(entry)} == chosen


@pytest.mark.parametrize(
    "options",
    [
        "--timeout 5",
        "-p nonsense",
        "-p 256",
        "-f ipv5",
        "-s nowhere",
        "--sport 65536",
        "--sport x",
        "-u UNSEEN",
        "-m five",
        "--state OPEN",
        "-g 10.0.0.1:x",
        "--mask-src 255.0.0.0",
        "-s 10.0.0.1 --mask-src 300",
        "-s",
        "word",
    ],
)
def test_filter_refuses(options: str) -> None:
    with pytest.raises(RulesetSyntaxError):
        ConntrackFilter.from_args(options.split())


@pytest.mark.parametrize("options", ["-l name", "--label=name", "-c 5", "-i 7"])
def test_filter_names_what_is_not_modelled(options: str) -> None:
    with pytest.raises(UnsupportedFeature):
        ConntrackFilter.from_args(options.split())


def test_table_verbs() -> None:
    node = Node(TRACK)
    node.send(IN, udp(CLIENT, SERVER, 1000, 53))
    node.send(IN, udp(CLIENT, SERVER, 1001, 53))
    copy = replace(node.entries()[0], orig=replace(node.entries()[0].orig, sport=7), mark=9)
    copy = replace(copy, reply=replace(copy.reply, dport=7))
    inserted = node.table.insert(copy, node.now_ns)
    with pytest.raises(ValueError, match="already"):
        node.table.insert(copy, node.now_ns)
    assert [entry.orig.sport for entry in node.entries()] == [1000, 1001, 7]
    assert node.entries()[2].id == inserted
    assert node.entries()[2].mark == 9
    assert node.table.count() == 3
    gone = node.table.delete(node.now_ns, ConntrackFilter.from_args(["--sport", "1001"]))
    assert [entry.orig.sport for entry in gone] == [1001]
    assert list_text(node.entries()).count("\n") == 2
    node.table.flush()
    assert node.table.count() == 0
    assert stats_text(node.table.stats()) == (
        "cpu=0   \tfound=0 invalid=0 insert=1 insert_failed=0 drop=0 early_drop=0 error=0 search_restart=0 "
        "clash_resolve=0 chaintoolong=0 \n"
    )
    assert summary_text(2, "deleted") == "conntrack v1.4.7 (conntrack-tools): 2 flow entries have been deleted.\n"


def test_every_field_survives_the_engine() -> None:
    node = Node(TRACK)
    entry = flow(
        6,
        "10.0.0.1",
        "10.0.0.2",
        1000,
        80,
        reply_src="10.0.0.3",
        state=TcpState.ESTABLISHED,
        status=DNAT | ASSURED,
        mark=0xFFFFFFFF,
        zone=65535,
        zone_direction=ZoneDirection.REPLY,
    )
    entry = replace(entry, flags=(3, 8), wscale=(7, 14))
    node.table.insert(entry, node.now_ns)
    back = node.entry()
    expected = replace(entry, id=back.id, start_ns=node.now_ns, timeout_set_ns=entry.timeout_ns, acct=None, vtag=(0, 0))
    assert back == expected


def test_timeouts_are_those_of_a_fresh_namespace() -> None:
    shown = dict(line.split(" ", 1) for line in sysctl_defaults.DEFAULTS["net.netfilter"].split("\n") if " " in line)
    assert {row.name: str(row.default_s) for row in timeouts.ALL} == {
        name: value for name, value in shown.items() if "_timeout" in name and "frag6" not in name
    }
    assert len({row.sysctl for row in timeouts.ALL}) == len(timeouts.ALL)
