"""What ``-m connlimit`` counts, as scripts that run here and on the running kernel."""

from __future__ import annotations

from collections.abc import Callable

from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text
from tests.netfilter.case_script import CLIENT, SERVER, Script, datagram, segment

SCRIPTS: dict[str, Callable[[], Script]] = {}
#: How far the chain of ``_counting`` counts.
_MOST = 8


def case(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


def _counting(name: str, proves: str, table: str, *jumps: str, before: str = "") -> Script:
    """Rules of one table that lead to a chain whose rule number n matches where there are n connections or more."""
    limits = [f"-A COUNT -m connlimit --connlimit-above {limit} --connlimit-mask 0" for limit in range(_MOST)]
    rules = "\n".join([f"*{table}", ":COUNT - [0:0]", *jumps, *limits, "COMMIT", ""])
    return Script(name, proves, before + rules)


def _count(script: Script, table: str, interface: str, packet: bytes, *counts: int) -> None:
    """A packet arrives, and these are the counts each time that it comes by."""
    rules = {f"{table}/COUNT/{n}": sum(count >= n for count in counts) for n in range(1, _MOST + 1)}
    script.receive(interface, packet, rules=rules)


def _there(port: int) -> bytes:
    return datagram(CLIENT, SERVER, port, 53)


def _back(port: int) -> bytes:
    return datagram(SERVER, CLIENT, 53, port)


@case
def counted_while_it_is_there() -> Script:
    script = _counting(
        "counted-while-it-is-there",
        "connlimit counts a connection once, and one that was dropped no more when the next comes.",
        "mangle",
        "-A FORWARD -j COUNT",
        before="*filter\n-A FORWARD -p udp --sport 1001 -j DROP\nCOMMIT\n",
    )
    for port, count in ((1000, 1), (1001, 2), (1002, 2), (1000, 2), (1003, 3)):
        _count(script, "mangle", "in", _there(port), count)
    _count(script, "mangle", "out", _back(1000), 3)
    return script


@case
def counted_twice_in_a_jiffy() -> Script:
    script = _counting(
        "counted-twice-in-a-jiffy",
        "A rule that a new connection's packet meets twice counts it twice, for within a jiffy it does not look for "
        "what it has; a known connection's it does look for.",
        "mangle",
        "-A FORWARD -j COUNT",
        "-A FORWARD -j COUNT",
    )
    for port, counts in ((1000, (1, 2)), (1001, (3, 4)), (1000, (4, 4)), (1002, (5, 6))):
        _count(script, "mangle", "in", _there(port), *counts)
    return script


@case
def counted_before_it_is_tracked() -> Script:
    script = _counting(
        "counted-before-it-is-tracked",
        "Where a packet has no connection yet its own addresses and ports are counted, an answer's beside the "
        "connection's first ones.",
        "raw",
        "-A PREROUTING -j COUNT",
        "-A PREROUTING -j COUNT",
    )
    for port, counts in ((1000, (1, 2)), (1001, (3, 4)), (1000, (4, 4))):
        _count(script, "raw", "in", _there(port), *counts)
    _count(script, "raw", "out", _back(1000), 5, 5)
    _count(script, "raw", "in", _there(1002), 6, 7)
    return script


@case
def counted_untracked() -> Script:
    script = _counting(
        "counted-untracked",
        "What is not tracked is forgotten a jiffy later, and what is too short to have ports is dropped by the match.",
        "mangle",
        "-A FORWARD -j COUNT",
        "-A FORWARD -j COUNT",
        before="*raw\n-A PREROUTING -j CT --notrack\nCOMMIT\n",
    )
    for port in (1000, 1001, 1000):
        _count(script, "mangle", "in", _there(port), 1, 2)
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    script.dropped("in", build.ipv4(*ends, build.IPPROTO_UDP, b"abc"))
    _count(script, "mangle", "in", build.ipv4(*ends, 99, b""), 1, 2)
    return script


@case
def counted_by_its_zone() -> Script:
    script = _counting(
        "counted-by-its-zone",
        "Each zone is counted apart, before conntrack by the zone that a packet is going to have.",
        "raw",
        "-A PREROUTING -p udp --sport 1000 -j CT --zone 7",
        "-A PREROUTING -j COUNT",
    )
    for port, count in ((1000, 1), (1001, 1), (1000, 1), (1002, 2), (1001, 2)):
        _count(script, "raw", "in", _there(port), count)
    return script


@case
def counted_again_after_so_many() -> Script:
    script = Script(
        "counted-again-after-so-many",
        "After 64 that were added without looking the list is looked through in the same jiffy too.",
        "*raw\n:COUNT - [0:0]\n-A PREROUTING -j CT --notrack\n"
        + "-A PREROUTING -j COUNT\n" * 70
        + "-A COUNT -m connlimit --connlimit-above 63\n-A COUNT -m connlimit --connlimit-upto 6\nCOMMIT\n",
    )
    for port in (1000, 1001):
        script.receive("in", _there(port), rules={"raw/COUNT/1": 1, "raw/COUNT/2": 12})
    return script


@case
def counted_while_it_was_new() -> Script:
    script = _counting(
        "counted-while-it-was-new",
        "A connection that is assured is counted no more if it has not been: its packets make the list forget what has "
        "gone, themselves too, and drop if nothing is left.",
        "mangle",
        "-A FORWARD -m length --length 61: -j COUNT",
        before="*raw\n-A PREROUTING -m length --length 100 -j CT --notrack\nCOMMIT\n",
    )
    for packet in (
        segment(CLIENT, SERVER, 1000, 80, "S", 1000),
        segment(SERVER, CLIENT, 80, 1000, "S.", 5000, 1001),
        segment(CLIENT, SERVER, 1000, 80, ".", 1001, 5001),
    ):
        script.receive("in" if packet[15] == 9 and packet[13] == 1 else "out", packet)
    data = segment(CLIENT, SERVER, 1000, 80, "P.", 1001, 5001, length=30)
    long = datagram(CLIENT, SERVER, 2000, 53, bytes(50))
    untracked = datagram(CLIENT, SERVER, 3000, 53, bytes(72))
    _count(script, "mangle", "in", untracked, 1)
    script.receive("in", data, out=[])
    _count(script, "mangle", "in", long, 1)
    _count(script, "mangle", "in", data, 1)
    _count(script, "mangle", "in", untracked, 2)
    _count(script, "mangle", "in", data, 1)
    return script


@case
def counted_in_a_zone_of_one_direction() -> Script:
    script = _counting(
        "counted-in-a-zone-of-one-direction",
        "What is counted without the zone that its connection has in that direction is not taken for what has been "
        "counted before: it is counted each time.",
        "raw",
        "-A PREROUTING -j COUNT",
        "-A PREROUTING -p udp --sport 1000 -j CT --zone-orig 2",
        "-A PREROUTING -p udp --sport 1001 -j CT --zone-reply 3",
    )
    _count(script, "raw", "in", _there(1000), 1)
    for count in (1, 2, 3):
        _count(script, "raw", "out", _back(1000), count)
    for count in (4, 4, 4):
        _count(script, "raw", "in", _there(1001), count)
    return script


@case
def counted_in_the_zone_of_replies() -> Script:
    script = _counting(
        "counted-in-the-zone-of-replies",
        "A zone of replies alone makes no difference to that.",
        "raw",
        "-A PREROUTING -m length --length 100: -j CT --zone-reply 2",
        "-A PREROUTING -j COUNT",
    )
    _count(script, "raw", "in", _there(1000), 1)
    for count in (1, 1, 1):
        _count(script, "raw", "in", datagram(CLIENT, SERVER, 1000, 53, bytes(80)), count)
    return script
