"""More of what Linux's own tests of netfilter assert: zones, bridges, SCTP, patterns, what nft says, as cases.

As in :mod:`tests.netfilter.selftest_cases`, each function names the test whose behaviour it states, in our own packets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text
from tests.netfilter.case_script import (
    CLIENT,
    CLIENT6,
    MSS_ONLY,
    PEER_MAC,
    SERVER,
    SERVER6,
    SYN_OPTIONS,
    Script,
    crc32c,
    echo,
    put_on_bridge,
    segment,
)
from tests.netfilter.selftest_cases import RPATH, RPATH6, nat, table

SCRIPTS: dict[str, Callable[[], Script]] = {}


def selftest(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


# ---------------------------------------------------------------------------------------------- xt_string.sh

PATTERN: Final = b"foo bar baz"
#: By rule: the algorithm, the first and the last byte of the packet where the pattern may lie.
SEARCHES: Final = (("bm", 1000, 1500), ("bm", 1400, 1600), ("kmp", 1000, 1500), ("kmp", 1400, 1600))


@selftest
def string_offsets() -> Script:
    """xt_string.sh, but for the pattern that two fragments share (see ``netfilter.match.string`` in the ledger)."""
    rules = [
        f'-A OUTPUT -o out -p udp -m string --string "{PATTERN.decode()}" --algo {name} --from {first} --to {last}'
        for name, first, last in SEARCHES
    ]
    script = Script(
        "string-offsets",
        "A pattern matches if it lies wholly between --from and --to, in what will be a second fragment too.",
        table("filter", *rules),
        listeners=[{"proto": "udp", "address": "10.2.0.1", "port": 1405, "name": "sender"}],
    )
    for offset, found in (
        (28, ()),
        (1000 - len(PATTERN), ()),
        (1000, (1, 3)),
        (1400 - len(PATTERN), (1, 3)),
        (1500 - len(PATTERN), (1, 2, 3, 4)),
        (1500, (2, 4)),
        (1600 - len(PATTERN), (2, 4)),
        (1600 - len(PATTERN) + 1, ()),
        (1600, ()),
    ):
        script.answer(
            "sender",
            SERVER,
            27374,
            b" " * (offset - 28) + PATTERN,
            rules={f"filter/OUTPUT/{number}": int(number in found) for number in range(1, 5)},
        )
    return script


# ------------------------------------------------------------------------------- conntrack_sctp_collision.sh

_INIT, _INIT_ACK, _COOKIE_ECHO, _COOKIE_ACK, _DATA = 1, 2, 10, 11, 0
#: What the two ends, and the server's late answer, say that they want to be called by.
CLIENT_TAG, SERVER_TAG, LATE_TAG = 0x11111111, 0x22222222, 0x33333333
COLLISION = table(
    "filter",
    "-A FORWARD -p sctp -m conntrack --ctstate NEW -j ACCEPT",
    "-A FORWARD -p sctp -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-A FORWARD -p sctp -m conntrack --ctstate INVALID -j DROP",
)


def chunk(source: str, destination: str, tag: int, kind: int, init_tag: int = 0) -> bytes:
    """An IPv4 packet with one SCTP chunk, between the ports 1234."""
    body = struct.pack("!IIHHI", init_tag, 0xFFFF, 1, 1, 1) if kind in (_INIT, _INIT_ACK) else bytes(12)
    if kind == _COOKIE_ACK:
        body = b""
    chunks = struct.pack("!BBH", kind, 3 if kind == _DATA else 0, 4 + len(body)) + body
    head = struct.pack("!HHI", 1234, 1234, tag)
    checksum = crc32c(head + bytes(4) + chunks).to_bytes(4, "little")
    ends = ip_from_text(source), ip_from_text(destination)
    return build.ipv4(*ends, 132, head + checksum + chunks, dont_fragment=True, identification=0x1234)


def client(tag: int, kind: int, init_tag: int = 0) -> bytes:
    return chunk(CLIENT, SERVER, tag, kind, init_tag)


def server(tag: int, kind: int, init_tag: int = 0) -> bytes:
    return chunk(SERVER, CLIENT, tag, kind, init_tag)


def _association(script: Script) -> None:
    """The server begins, and both agree."""
    script.passes("out", server(0, _INIT, SERVER_TAG))
    script.passes("in", client(SERVER_TAG, _INIT_ACK, CLIENT_TAG))
    script.passes("out", server(CLIENT_TAG, _COOKIE_ECHO))
    script.passes("in", client(SERVER_TAG, _COOKIE_ACK), has="SEEN_REPLY")


@selftest
def sctp_late_init_ack() -> Script:
    """conntrack_sctp_collision.sh, the INIT ACK that comes late."""
    script = Script(
        "sctp-late-init-ack",
        "Both ends have begun; the answer to the first beginning, which comes when the second has led to an "
        "association, is dropped, and the association goes on.",
        COLLISION,
    )
    script.passes("in", client(0, _INIT, CLIENT_TAG), lacks="SEEN_REPLY")
    _association(script)
    script.dropped("out", server(CLIENT_TAG, _INIT_ACK, LATE_TAG))
    script.passes("in", client(SERVER_TAG, _DATA))
    script.passes("out", server(CLIENT_TAG, _DATA))
    script.counted(filter_FORWARD_3=1)
    return script


@selftest
def sctp_late_init() -> Script:
    """conntrack_sctp_collision.sh, the INIT that comes late."""
    script = Script(
        "sctp-late-init",
        "A beginning that comes when the other end's has led to an association passes, but the answer to it is "
        "dropped, and the association goes on.",
        COLLISION,
    )
    _association(script)
    script.passes("in", client(0, _INIT, CLIENT_TAG), state="ESTABLISHED")
    script.dropped("out", server(CLIENT_TAG, _INIT_ACK, LATE_TAG), state="ESTABLISHED")
    script.passes("in", client(SERVER_TAG, _DATA), state="ESTABLISHED")
    script.passes("out", server(CLIENT_TAG, _DATA), state="ESTABLISHED")
    script.counted(filter_FORWARD_3=1)
    return script


# -------------------------------------------------------------------------------- conntrack_reverse_clash.sh


@selftest
def reverse_clash() -> Script:
    """conntrack_reverse_clash.sh, without the race that it needs two processors for."""
    script = Script(
        "reverse-clash",
        "Two sockets that send to each other, either of them first: no port is changed, though every flow is bound to "
        "a translation.",
        nat("-A POSTROUTING -o nomatch -j MASQUERADE"),
        listeners=[
            {"proto": "udp", "address": "127.0.0.11", "port": 56789, "name": "one"},
            {"proto": "udp", "address": "127.0.0.12", "port": 56790, "name": "other"},
        ],
    )
    script.answer("one", "127.0.0.12", 56790, b"data", datagrams=["127.0.0.11:56789"], lacks="SEEN_REPLY")
    script.answer("other", "127.0.0.11", 56789, b"data", datagrams=["127.0.0.12:56790"], has="SEEN_REPLY")
    script.answer("one", "127.0.0.12", 56790, b"data", datagrams=["127.0.0.11:56789"], has="SEEN_REPLY")
    return script


# ----------------------------------------------------------------------------------------- nft_nat_zones.sh

GATEWAY: Final = "10.1.0.1"
WAYS: Final = ("in", "in2")


def _zones(name: str, proves: str) -> Script:
    """Two clients of one address, on interfaces with one address, told apart by zone and mark."""
    numbered = list(enumerate(WAYS, start=1))
    return Script(
        name,
        proves,
        table("raw", *(f"-A PREROUTING -i {way} -j CT --zone-orig {number}" for number, way in numbered))
        + "\n".join(
            (
                "*mangle",
                *(f":{chain} ACCEPT [0:0]" for chain in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")),
                *(f"-A PREROUTING -i {way} -j MARK --set-mark {number}" for number, way in numbered),
                "-A PREROUTING -i out -m conntrack --ctdir REPLY -j CONNMARK --restore-mark",
                "-A POSTROUTING -o out -j CONNMARK --save-mark",
                "COMMIT",
                "",
            )
        )
        + nat("-A POSTROUTING -o out -j MASQUERADE"),
        addresses={"in": (f"{GATEWAY}/24",), "in2": (f"{GATEWAY}/24",), "out": ("10.2.0.1/24",)},
        neighbours=[("in", CLIENT), ("in2", CLIENT), ("out", SERVER)],
        routes=[
            *({"dst": "10.1.0.0/24", "dev": way, "table": 1000 + number} for number, way in numbered),
            *({"dst": "10.2.0.0/24", "dev": "out", "table": 1000 + number} for number, _ in numbered),
        ],
        ip_rules=[{"priority": 100 + number, "fwmark": number, "table": 1000 + number} for number, _ in numbered],
    )


@selftest
def nat_zones_tcp() -> Script:
    """nft_nat_zones.sh, the connections."""
    script = _zones(
        "nat-zones-tcp",
        "Connections of two clients with one address and port, in a zone each, get different ports, and each answer "
        "goes to the interface whose client it is for.",
    )
    for number, way in enumerate(WAYS):
        port = "10000" if number == 0 else "*"
        script.receive(
            way,
            segment(CLIENT, SERVER, 10000, 5201, "S", 1, options=SYN_OPTIONS),
            out=[f"out 10.2.0.1:{port} > {SERVER}:5201 tcp S"],
            entries=number + 1,
        )
    for number, way in enumerate(WAYS):
        take = {"from": {"step": number, "frame": 0, "field": "tcp.sport"}, "field": "tcp.dport"}
        script.receive(
            "out",
            segment(SERVER, "10.2.0.1", 5201, 10000, "S.", 1, 2, options=MSS_ONLY),
            take=[take],
            out=[f"{way} {SERVER}:5201 > {CLIENT}:10000 tcp S."],
        )
    for number, way in enumerate(WAYS):
        port = "10000" if number == 0 else "*"
        script.receive(
            way,
            segment(CLIENT, SERVER, 10000, 5201, ".", 2, 2),
            out=[f"out 10.2.0.1:{port} > {SERVER}:5201 tcp ."],
            entries=2,
        )
    return script


@selftest
def nat_zones_ping() -> Script:
    """nft_nat_zones.sh, the pings."""
    script = _zones(
        "nat-zones-ping",
        "Pings of two clients with one address and identifier, in a zone each, are two flows with an identifier each.",
    )
    for number, way in enumerate(WAYS):
        script.receive(way, echo(CLIENT, SERVER), out=[f"out 10.2.0.1 > {SERVER} icmp 8/0"], entries=number + 1)
    for number, way in enumerate(WAYS):
        take = {"from": {"step": number, "frame": 0, "field": "icmp.ident"}, "field": "icmp.ident"}
        script.receive(
            "out",
            echo(SERVER, "10.2.0.1", reply=True),
            take=[take],
            out=[f"{way} {SERVER} > {CLIENT} icmp 0/0"],
            entries=2,
        )
    return script


# ------------------------------------------------------------------------------------------- br_netfilter.sh

BRIDGE_MAC: Final = "02:00:00:00:00:0f"
NEIGHBOUR, OTHER, BRIDGE, EVERYONE = "10.0.0.11", "10.0.0.12", "10.0.0.1", "10.0.0.255"


def bridge_script(name: str, proves: str, *rules: str) -> Script:
    """A host with both ports on a bridge of its own, br_netfilter, and these rules in ``filter``."""
    script = Script(
        name,
        proves,
        table("filter", "-A INPUT -i br0 -m conntrack --ctstate NEW -j ACCEPT", *rules),
        addresses={"in": (f"{BRIDGE}/24",), "out": ()},
        neighbours=(("in", NEIGHBOUR), ("out", OTHER)),
        sysctls={"net.bridge.bridge-nf-call-iptables": "1", "net.ipv4.icmp_echo_ignore_broadcasts": "0"},
    )
    put_on_bridge(script.case, "br0", BRIDGE_MAC, ("in", "out"))
    return script


@selftest
def bridged_broadcast() -> Script:
    """br_netfilter.sh, a ping to everyone."""
    script = bridge_script(
        "bridged-broadcast",
        "A ping to everyone on a bridge is forwarded to the other port and answered by the bridge's own host; the two "
        "copies are one flow.",
    )
    script.receive(
        "in",
        echo(NEIGHBOUR, EVERYONE),
        to="ff:ff:ff:ff:ff:ff",
        out=[f"out {NEIGHBOUR} > {EVERYONE} icmp 8/0", f"in {BRIDGE} > {NEIGHBOUR} icmp 0/0"],
    )
    return script


@selftest
def bridged_broadcast_dropped() -> Script:
    """br_netfilter.sh, a ping to everyone that is not let through."""
    script = bridge_script(
        "bridged-broadcast-dropped",
        "A ping to everyone whose forwarded copy is dropped still comes to the bridge's own host, as a new flow.",
        "-A FORWARD -p icmp -m pkttype --pkt-type broadcast -j DROP",
    )
    for number in range(2):
        script.receive(
            "in",
            echo(NEIGHBOUR, EVERYONE, identifier=80 + number),
            to="ff:ff:ff:ff:ff:ff",
            out=[f"in {BRIDGE} > {NEIGHBOUR} icmp 0/0"],
            rules={"filter/INPUT/1": 1, "filter/FORWARD/1": 1},
        )
    return script


@selftest
def bridged_ping() -> Script:
    """br_netfilter.sh, a ping from port to port."""
    script = bridge_script("bridged-ping", "A ping from port to port is tracked, and both ways pass.")
    script.receive(
        "in",
        echo(NEIGHBOUR, OTHER),
        to=PEER_MAC["out"],
        out=[f"out {NEIGHBOUR} > {OTHER} icmp 8/0"],
        lacks="SEEN_REPLY",
    )
    script.receive(
        "out",
        echo(OTHER, NEIGHBOUR, reply=True),
        to=PEER_MAC["in"],
        out=[f"in {OTHER} > {NEIGHBOUR} icmp 0/0"],
        has="SEEN_REPLY",
    )
    return script


# ------------------------------------------------------------------------ nft_nat.sh and rpath.sh, in nft's words


def _inet(hook: str, priority: str, *rules: str) -> str:
    """A table of the family ``inet`` with one chain that translates."""
    lines = "\n".join(f"  {rule}" for rule in rules)
    head = f"type nat hook {hook} priority {priority}; policy accept;"
    return f"table inet nat {{\n chain c {{\n  {head}\n{lines}\n }}\n}}\n"


def _two_families(name: str, proves: str, nft: str) -> Script:
    return Script(name, proves, rules6=table("filter", "-A INPUT -m conntrack --ctstate NEW"), nft=nft)


@selftest
def inet_local_dnat() -> Script:
    """nft_nat.sh test_local_dnat and test_local_dnat6, inet."""
    script = _two_families(
        "inet-local-dnat",
        "Destinations of both families are translated by one table.",
        _inet("output", "-100", f"ip daddr {CLIENT} dnat ip to {SERVER}", f"ip6 daddr {CLIENT6} dnat ip6 to {SERVER6}"),
    )
    script.send_local(echo("10.1.0.1", CLIENT), out=[f"out 10.1.0.1 > {SERVER} icmp 8/0"])
    script.receive("out", echo(SERVER, "10.1.0.1", reply=True), out=[], has="SEEN_REPLY")
    script.send_local(echo("fd01::1", CLIENT6), out=[f"out fd01::1 > {SERVER6} icmp6 128/0"], entries=2)
    script.receive("out", echo(SERVER6, "fd01::1", reply=True), out=[], entries=2)
    return script


@selftest
def inet_local_dnat_portonly() -> Script:
    """nft_nat.sh test_local_dnat_portonly, inet."""
    script = _two_families(
        "inet-local-dnat-portonly",
        "A translation of the port alone leaves the address as it is.",
        _inet("output", "-100", "meta l4proto tcp dnat to :2000"),
    )
    script.send_local(
        segment("10.2.0.1", SERVER, 1000, 80, "S", 1, options=SYN_OPTIONS),
        out=[f"out 10.2.0.1:1000 > {SERVER}:2000 tcp S"],
    )
    return script


def _inet_masquerade(name: str, flags: str) -> Script:
    script = _two_families(
        name,
        "One rule masquerades both families.",
        _inet("postrouting", "srcnat", f'oifname "out" meta l4proto {{ icmp, ipv6-icmp }} masquerade{flags}'),
    )
    ends = (
        (CLIENT, SERVER, "10.2.0.1", "icmp", "8/0", "0/0"),
        (CLIENT6, SERVER6, "fd02::1", "icmp6", "128/0", "129/0"),
    )
    for number, (source, destination, own, protocol, asked, answered) in enumerate(ends):
        kind = "icmp.ident" if number == 0 else "icmpv6.echo.identifier"
        take = {"from": {"step": 2 * number, "frame": 0, "field": kind}, "field": kind}
        script.receive(
            "in", echo(source, destination), out=[f"out {own} > {destination} {protocol} {asked}"], entries=number + 1
        )
        script.receive(
            "out",
            echo(destination, own, reply=True),
            take=[take],
            out=[f"in {destination} > {source} {protocol} {answered}"],
        )
    return script


@selftest
def inet_masquerade() -> Script:
    """nft_nat.sh test_masquerade and test_masquerade6, inet."""
    return _inet_masquerade("inet-masquerade", "")


@selftest
def inet_masquerade_fully_random() -> Script:
    """nft_nat.sh test_masquerade and test_masquerade6, inet, fully-random."""
    return _inet_masquerade("inet-masquerade-fully-random", " fully-random")


@selftest
def inet_redirect() -> Script:
    """nft_nat.sh test_redirect and test_redirect6, inet."""
    script = _two_families(
        "inet-redirect",
        "A redirected ping of either family is answered by the router, in the name of whom it was meant for.",
        _inet(
            "prerouting",
            "dstnat",
            f'iifname "in" ip saddr {CLIENT} ip daddr {SERVER} redirect',
            f'iifname "in" meta l4proto ipv6-icmp ip6 saddr {CLIENT6} ip6 daddr {SERVER6} redirect',
        ),
    )
    script.receive("in", echo(CLIENT, SERVER), out=[f"in {SERVER} > {CLIENT} icmp 0/0"], has="SEEN_REPLY")
    script.receive("in", echo(CLIENT6, SERVER6), out=[f"in {SERVER6} > {CLIENT6} icmp6 129/0"], entries=2)
    return script


STATELESS: Final = f"""table ip stateless {{
 map inward {{
  typeof meta iifname . ip saddr . ip daddr : ip daddr
  elements = {{ "in" . {CLIENT} . {SERVER} : 10.1.0.42 }}
 }}
 map outward {{
  typeof meta iifname . ip saddr . ip daddr : ip daddr
  elements = {{ "out" . {SERVER} . 10.1.0.42 : {CLIENT} }}
 }}
 chain c {{
  type filter hook prerouting priority -400; policy accept;
  ip saddr set meta iifname . ip saddr . ip daddr map @inward
  ip daddr set meta iifname . ip saddr . ip daddr map @outward
 }}
}}
"""


@selftest
def stateless_nat() -> Script:
    """nft_nat.sh test_stateless_nat_ip."""
    script = Script(
        "stateless-nat",
        "Addresses are rewritten by maps, without connection tracking, there and back, and in every fragment.",
        nft=STATELESS,
    )
    script.receive("in", echo(CLIENT, SERVER), out=[f"out 10.1.0.42 > {SERVER} icmp 8/0"], entries=0)
    script.receive("out", echo(SERVER, "10.1.0.42", reply=True), out=[f"in {SERVER} > {CLIENT} icmp 0/0"])
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    payload = build.udp(*ends, 1000, 4233, bytes(4096))
    for start in range(0, len(payload), 1480):
        piece = payload[start : start + 1480]
        more = start + len(piece) < len(payload)
        packet = build.ipv4(*ends, 17, piece, identification=7, fragment_offset=start, more_fragments=more)
        ports = (":1000", ":4233") if start == 0 else ("", "")
        script.receive("in", packet, out=[f"out 10.1.0.42{ports[0]} > {SERVER}{ports[1]} udp"], entries=0)
    return script


def _fib(network: str, word: str) -> str:
    return (
        "table inet t {\n chain c {\n  type filter hook prerouting priority raw;\n"
        f"  {word} saddr {network} fib saddr . iif oif missing drop\n }}\n}}\n"
    )


@selftest
def rpath_nft() -> Script:
    """rpath.sh, nft."""
    shape: dict[str, Any] = dict(RPATH)
    script = Script(
        "rpath-nft",
        "What comes by another way than that back to its source has no output interface for nft's fib expression.",
        nft=_fib("192.168.0.0/16", "ip"),
        **shape,
    )
    script.dropped("in", echo("192.168.42.2", "192.168.42.1"))
    script.receive("in", echo("192.168.23.2", "192.168.23.1"), out=["in 192.168.23.1 > 192.168.23.2 icmp 0/0"])
    return script


@selftest
def rpath_nft6() -> Script:
    """rpath.sh, nft, IPv6."""
    shape: dict[str, Any] = dict(RPATH6)
    script = Script(
        "rpath-nft6",
        "What comes by another way than that back to its source has no output interface for nft's fib, in IPv6 too.",
        rules6=table("filter"),
        nft=_fib("fd00::/8", "ip6"),
        **shape,
    )
    script.dropped("in", echo("fd42::2", "fd42::1"))
    script.receive("in", echo("fd23::2", "fd23::1"), out=["in fd23::1 > fd23::2 icmp6 129/0"])
    return script
