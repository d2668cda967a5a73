"""What a node's kernel does beside translating, as scripts that run here and on the running kernel (``tests/live``)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text
from pktsim.wire.checksum import transport_checksum
from pktsim.wire.frame import IPPROTO_GRE, IPPROTO_UDP, IPPROTO_UDPLITE
from tests.netfilter.case_script import (
    CLIENT,
    CLIENT6,
    MSS_ONLY,
    SERVER,
    SERVER6,
    Script,
    datagram,
    echo,
    icmp_error,
    segment,
)
from tests.netfilter.selftest_cases import table

SCRIPTS: dict[str, Callable[[], Script]] = {}
NEAR, FAR = "10.1.0.1", "10.2.0.1"
NEAR6, FAR6 = "fd01::1", "fd02::1"
STATES = table(
    "filter",
    "-A FORWARD -m conntrack --ctstate INVALID",
    "-A FORWARD -m conntrack --ctstate NEW",
    "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED",
)
NO_LIMIT6 = {"net.ipv6.icmp.ratelimit": "0"}


def case(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


# ------------------------------------------------------------------------------------------------------------ path MTU


def _big4(*, dont_fragment: bool) -> bytes:
    ends = ip_from_text(SERVER), ip_from_text(CLIENT)
    return build.ipv4(
        *ends, IPPROTO_UDP, build.udp(*ends, 1, 2, bytes(1300)), dont_fragment=dont_fragment, identification=0x1234
    )


def _learning(script: Script, mtu: int) -> None:
    """The node is told that its own answer to a ping of the client did not fit."""
    script.receive("in", icmp_error(CLIENT, NEAR, 3, 4, mtu, echo(NEAR, CLIENT, size=1300, reply=True)), out=[])


def datagram6(protocol: int) -> bytes:
    """A datagram of the node to the client, of UDP or UDP-Lite."""
    ends = ip_from_text(NEAR6), ip_from_text(CLIENT6)
    return build.ipv6(*ends, protocol, build.udp(*ends, 1000, 53, bytes(8)))


@case
def path_mtu_forwarding() -> Script:
    script = Script(
        "path-mtu-forwarding",
        "A path MTU cuts what the node itself sends, not what it forwards.",
        STATES,
    )
    _learning(script, 1280)
    script.receive("out", _big4(dont_fragment=True), out=[f"in {SERVER}:1 > {CLIENT}:2 udp"])
    answer = f"in {NEAR} > {CLIENT} icmp*"
    script.receive("in", echo(CLIENT, NEAR, size=1300), out=[answer, answer])
    return script


@case
def path_mtu_locked() -> Script:
    script = Script(
        "path-mtu-locked",
        "A path MTU below min_pmtu is taken for an attack: it is 552, and holds for what is forwarded too.",
        STATES,
    )
    _learning(script, 500)
    script.receive("out", _big4(dont_fragment=True), out=[f"out {FAR} > {SERVER} icmp 3/4"])
    piece = f"in {SERVER}* > {CLIENT}* udp"
    script.receive("out", _big4(dont_fragment=False), out=[piece, piece, piece])
    return script


@case
def path_mtu_forwarding_wanted() -> Script:
    script = Script(
        "path-mtu-forwarding-wanted",
        "With ip_forward_use_pmtu a router believes path MTUs.",
        STATES,
        sysctls={"net.ipv4.ip_forward_use_pmtu": "1"},
    )
    _learning(script, 1280)
    script.receive("out", _big4(dont_fragment=True), out=[f"out {FAR} > {SERVER} icmp 3/4"])
    return script


@case
def path_mtu_of_nobody() -> Script:
    script = Script(
        "path-mtu-of-nobody",
        "What quotes a datagram that no socket of the node has sent says nothing about paths.",
        STATES,
    )
    script.receive("in", icmp_error(CLIENT, NEAR, 3, 4, 500, datagram(NEAR, CLIENT, 5000, 53)), out=[])
    script.receive("in", icmp_error(CLIENT, NEAR, 3, 4, 500, echo(NEAR, CLIENT, size=1300)), out=[])
    script.receive("in", echo(CLIENT, NEAR, size=1300), out=[f"in {NEAR} > {CLIENT} icmp 0/0"])
    return script


@case
def path_mtu_of_a_socket() -> Script:
    script = Script(
        "path-mtu-of-a-socket",
        "What quotes a datagram of a socket of the node teaches it its path.",
        STATES,
        listeners=[{"proto": "udp", "address": NEAR, "port": 5000, "name": "service"}],
    )
    script.receive("in", icmp_error(CLIENT, NEAR, 3, 4, 1000, datagram(NEAR, CLIENT, 5000, 53)), out=[])
    answer = f"in {NEAR} > {CLIENT} icmp*"
    script.receive("in", echo(CLIENT, NEAR, size=1300), out=[answer, answer])
    return script


def _no_pmtu_disc(mode: int, *, pieces: int) -> Script:
    script = Script(
        f"no-pmtu-disc-{mode}",
        {
            1: "With ip_no_pmtu_disc=1 what a router says of the MTU is not believed, but that it complains is.",
            2: "With ip_no_pmtu_disc=2 routers that complain about sizes are not heard.",
            3: "With ip_no_pmtu_disc=3 they are heard only about protocols that check what they quote.",
        }[mode],
        STATES,
        sysctls={"net.ipv4.ip_no_pmtu_disc": str(mode)},
    )
    _learning(script, 1280)
    answer = f"in {NEAR} > {CLIENT} icmp*"
    script.receive("in", echo(CLIENT, NEAR, size=1300), out=[answer] * pieces)
    return script


@case
def no_pmtu_disc_1() -> Script:
    return _no_pmtu_disc(1, pieces=3)


@case
def no_pmtu_disc_2() -> Script:
    return _no_pmtu_disc(2, pieces=1)


@case
def no_pmtu_disc_3() -> Script:
    return _no_pmtu_disc(3, pieces=1)


def _path_mtu6(name: str, proves: str, mtu: int, *, believed: bool) -> Script:
    script = Script(name, proves, rules6=STATES, sysctls=NO_LIMIT6)
    script.receive(
        "in", icmp_error(CLIENT6, NEAR6, 2, 0, mtu, echo(NEAR6, CLIENT6, size=1300, reply=True)[:1000]), out=[]
    )
    ends = ip_from_text(SERVER6), ip_from_text(CLIENT6)
    big = build.ipv6(*ends, IPPROTO_UDP, build.udp(*ends, 1, 2, bytes(1300)))
    answer = f"out {FAR6} > {SERVER6} icmp6 2/0" if believed else f"in {SERVER6}:1 > {CLIENT6}:2 udp"
    script.receive("out", big, out=[answer], rules={"6:filter/FORWARD/2": 1})
    piece = f"in {NEAR6} > {CLIENT6} icmp6*"
    script.receive("in", echo(CLIENT6, NEAR6, size=1300), out=[piece] * (1 + believed))
    return script


@case
def path_mtu6() -> Script:
    return _path_mtu6(
        "path-mtu6", "An IPv6 router believes path MTUs, and finds out behind FORWARD.", 1300, believed=True
    )


@case
def path_mtu6_too_small() -> Script:
    return _path_mtu6("path-mtu6-too-small", "Less than 1280 fits every path.", 1000, believed=False)


# ------------------------------------------------------------------------------------------------------------ UDP-Lite


def udplite(source: str, destination: str, size: int, *, protocol: int = IPPROTO_UDPLITE) -> bytes:
    """A packet with a UDP-Lite datagram, all of which is covered by a checksum with ``protocol``'s pseudo-header."""
    ends = ip_from_text(source), ip_from_text(destination)
    head = (4000).to_bytes(2, "big") + (8080).to_bytes(2, "big") + bytes(4)
    value = transport_checksum(*ends, protocol, head + bytes(size))
    payload = head[:6] + value.to_bytes(2, "big") + bytes(size)
    if len(ends[0]) == 16:
        return build.ipv6(*ends, IPPROTO_UDPLITE, payload)
    return build.ipv4(*ends, IPPROTO_UDPLITE, payload, identification=0x1234)


@case
def udplite_checksum_of_conntrack() -> Script:
    script = Script(
        "udplite-checksum-of-conntrack",
        "Connection tracking takes UDP's number, and of the length the low byte, for the pseudo-header.",
        STATES,
    )
    invalid, new = "filter/FORWARD/1", "filter/FORWARD/2"
    script.receive("in", udplite(CLIENT, SERVER, 60, protocol=IPPROTO_UDP), rules={new: 1, invalid: 0})
    script.receive("in", udplite(CLIENT, SERVER, 60), rules={new: 0, invalid: 1})
    script.receive("in", udplite(CLIENT, SERVER, 600, protocol=IPPROTO_UDP), rules={new: 0, invalid: 1})
    return script


@case
def udplite_checksum_of_conntrack6() -> Script:
    script = Script(
        "udplite-checksum-of-conntrack6",
        "Connection tracking takes UDP's number for the pseudo-header.",
        rules6=STATES,
    )
    invalid, new = "6:filter/FORWARD/1", "6:filter/FORWARD/2"
    script.receive("in", udplite(CLIENT6, SERVER6, 600, protocol=IPPROTO_UDP), rules={new: 1, invalid: 0})
    script.receive("in", udplite(CLIENT6, SERVER6, 600), rules={new: 0, invalid: 1})
    return script


@case
def udplite_without_a_socket() -> Script:
    script = Script(
        "udplite-without-a-socket",
        "A host answers UDP-Lite datagrams to closed ports, if their checksum is right.",
        STATES,
    )
    script.receive("in", udplite(CLIENT, NEAR, 60), out=[f"in {NEAR} > {CLIENT} icmp 3/3"])
    script.dropped("in", udplite(CLIENT, NEAR, 60, protocol=IPPROTO_UDP))
    return script


@case
def udplite_without_a_socket6() -> Script:
    script = Script(
        "udplite-without-a-socket6",
        "A host answers UDP-Lite datagrams to closed ports, if their checksum is right, in IPv6 too.",
        rules6=STATES,
        sysctls=NO_LIMIT6,
    )
    script.receive("in", udplite(CLIENT6, NEAR6, 60), out=[f"in {NEAR6} > {CLIENT6} icmp6 1/4"])
    script.dropped("in", udplite(CLIENT6, NEAR6, 60, protocol=IPPROTO_UDP))
    return script


# ----------------------------------------------------------------------------------------------------------- fragments


def pieces4(packet: bytes, sizes: Sequence[int], *, dont_fragment: bool = False) -> list[bytes]:
    """An IPv4 packet without options in fragments that carry so many bytes each."""
    found, at, body = [], 0, packet[20:]
    assert sum(sizes) == len(body)
    for size in sizes:
        found.append(
            build.ipv4(
                packet[12:16], packet[16:20], packet[9], body[at : at + size],
                identification=0x1234, fragment_offset=at, more_fragments=at + size < len(body),
                dont_fragment=dont_fragment,
            )
        )  # fmt: skip
        at += size
    return found


def piece6(packet: bytes, start: int, end: int, *, more: bool, identification: int = 7) -> bytes:
    """Bytes of an IPv6 packet without extension headers as a fragment."""
    body = packet[40:][start:end]
    made = build.ipv6_fragment(packet[6], body, identification=identification, offset=start, more=more)
    return build.ipv6(packet[8:24], packet[24:40], build.IPPROTO_FRAGMENT, made)


@case
def fragments_with_half_a_header() -> Script:
    script = Script(
        "fragments-with-half-a-header",
        "TCP fragments of which the first has not the whole header are cut anew, as large as the largest was; others "
        "leave as they came.",
        STATES,
    )
    whole = segment(CLIENT, SERVER, 1000, 80, "S", 1, length=20)
    first, second = pieces4(whole, (24, 16))
    script.dropped("in", first)
    begin = f"out {CLIENT}:1000 > {SERVER}:80 tcp S"
    script.receive("in", second, out=[begin, f"out {CLIENT} > {SERVER} tcp"])
    first, second, third = pieces4(whole, (8, 24, 8))
    script.dropped("in", first)
    script.dropped("in", second)
    script.receive("in", third, out=[begin, f"out {CLIENT} > {SERVER} tcp"])
    return script


@case
def fragments6_without_a_header() -> Script:
    script = Script(
        "fragments6-without-a-header",
        "A first IPv6 fragment without the whole transport header is not gathered: forwarded as it is, and refused by "
        "the host that it is for.",
        rules6=STATES,
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    through = build.ipv6(*ends, build.IPPROTO_TCP, build.tcp(*ends, 1000, 80, seq=1, flags=2, window=9))
    script.receive("in", piece6(through, 0, 16, more=True), out=[f"out {CLIENT6} > {SERVER6} tcp*"])
    ends = ip_from_text(CLIENT6), ip_from_text(NEAR6)
    here = build.ipv6(*ends, build.IPPROTO_TCP, build.tcp(*ends, 1000, 80, seq=1, flags=2, window=9))
    script.receive("in", piece6(here, 0, 16, more=True), out=[f"in {NEAR6} > {CLIENT6} icmp6 4/3"])
    return script


@case
def fragments6_that_contradict() -> Script:
    script = Script(
        "fragments6-that-contradict",
        "Of IPv6 fragments that connection tracking gathers one behind the end goes alone; an overlapping one, and one "
        "that ends at an odd place, take the others with them.",
        rules6=STATES,
        sysctls=NO_LIMIT6,
    )
    packet = echo(CLIENT6, SERVER6, size=40)
    through = [f"out {CLIENT6} > {SERVER6} icmp6 128/0", f"out {CLIENT6} > {SERVER6} icmp6"]
    script.dropped("in", piece6(packet, 24, 48, more=False))
    script.dropped("in", piece6(packet + bytes(8), 48, 56, more=True))
    script.receive("in", piece6(packet, 0, 24, more=True), out=through)
    script.dropped("in", piece6(packet, 24, 48, more=False))
    script.dropped("in", piece6(packet, 16, 32, more=True))
    script.dropped("in", piece6(packet, 0, 24, more=True))
    script.dropped("in", piece6(packet, 24, 48, more=False, identification=8))
    script.receive("in", piece6(packet, 0, 23, more=True, identification=8), out=[f"out {CLIENT6} > {SERVER6} icmp6*"])
    script.dropped("in", piece6(packet, 0, 24, more=True, identification=8))
    return script


@case
def fragments6_too_large() -> Script:
    script = Script(
        "fragments6-too-large",
        "Gathered fragments that are larger than the next link are refused before FORWARD, with their hop limit as it "
        "came.",
        rules6=STATES,
        mtus={"out": 1280},
        sysctls=NO_LIMIT6,
    )
    packet = echo(CLIENT6, SERVER6, size=1392)
    script.dropped("in", piece6(packet, 0, 1392, more=True))
    script.receive(
        "in",
        piece6(packet, 1392, 1400, more=False),
        out=[f"in {NEAR6} > {CLIENT6} icmp6 2/0"],
        rules={"6:filter/FORWARD/2": 0},
    )
    return script


@case
def errors_about_later_fragments6() -> Script:
    script = Script(
        "errors-about-later-fragments6",
        "A later fragment of an ICMPv6 message is answered by errors, for nobody knows what message it is of.",
        rules6=table("raw", "-A PREROUTING -j CT --notrack", "-A OUTPUT -j CT --notrack"),
        sysctls=NO_LIMIT6,
    )
    packet = icmp_error(CLIENT6, SERVER6, 1, 4, 0, echo(SERVER6, CLIENT6))
    late = bytearray(piece6(packet, 48, 56, more=False))
    late[7] = 1
    script.receive("in", bytes(late), out=[f"in {NEAR6} > {CLIENT6} icmp6 3/0"])
    script.dropped("in", packet[:7] + b"\1" + packet[8:])
    return script


# ------------------------------------------------------------------------------------------------------------ tracking


def _untracked_error(name: str, *, six: bool) -> Script:
    rules = table("raw", "-A PREROUTING -j CT --notrack", "-A OUTPUT -j CT --notrack") + table(
        "filter", "-A OUTPUT -m conntrack --ctstate UNTRACKED", "-A OUTPUT -m conntrack --ctstate INVALID"
    )
    proves = "NOTRACK does nothing to an error about an untracked packet: it has been tracked, and is of no flow."
    if six:
        script = Script(name, proves, rules6=rules, sysctls=NO_LIMIT6)
        packet, prefix = echo(CLIENT6, SERVER6), "6:"
        packet = packet[:7] + b"\1" + packet[8:]
    else:
        script = Script(name, proves, rules)
        ends = ip_from_text(CLIENT), ip_from_text(SERVER)
        packet, prefix = build.ipv4(*ends, IPPROTO_UDP, build.udp(*ends, 1, 2, b"x"), ttl=1, identification=1), ""
    script.receive("in", packet, rules={f"{prefix}filter/OUTPUT/1": 0, f"{prefix}filter/OUTPUT/2": 1})
    return script


@case
def untracked_error() -> Script:
    return _untracked_error("untracked-error", six=False)


@case
def untracked_error6() -> Script:
    return _untracked_error("untracked-error6", six=True)


@case
def headers_beyond_the_end6() -> Script:
    script = Script(
        "headers-beyond-the-end6",
        "Extension headers that claim to be longer than the packet do not keep it from being tracked.",
        rules6=table("nat", "-A POSTROUTING -p udp -j MASQUERADE", "-A POSTROUTING"),
    )
    script.send_local(
        build.ipv6(ip_from_text(NEAR6), ip_from_text(SERVER6), 0, bytes.fromhex("2f550502000001007061796c6f616421")),
        rules={"6:nat/OUTPUT/policy": 1, "6:nat/POSTROUTING/2": 1},
    )
    return script


@case
def call_id_beyond_the_end6() -> Script:
    script = Script(
        "call-id-beyond-the-end6",
        "GRE is not translated where its header would be behind the end: the packet is dropped.",
        rules6=table("nat", "-A POSTROUTING -j MASQUERADE"),
    )
    packet = build.ipv6(
        ip_from_text(CLIENT6), ip_from_text(SERVER6), 0, bytes.fromhex("2f550502000001007061796c6f616421")
    )
    script.dropped("in", packet, rules={"6:nat/POSTROUTING/1": 0})
    script.send_local(packet[:8] + ip_from_text(NEAR6) + packet[24:], out=[], rules={"6:nat/POSTROUTING/1": 1})
    return script


def _stale6(name: str, proves: str, size: int, out: Sequence[str]) -> Script:
    rules = STATES + table("mangle", "-A PREROUTING -j TOS --set-tos 0x08/0x3f")
    script = Script(name, proves, rules6=rules, sysctls=NO_LIMIT6)
    ends = ip_from_text(CLIENT6), ip_from_text(NEAR6)
    script.receive("in", build.ipv6(*ends, IPPROTO_UDP, build.udp(*ends, 1, 53, bytes(size))), out=out)
    return script


@case
def stale_checksum_of_a_short_datagram6() -> Script:
    return _stale6(
        "stale-checksum-of-a-short-datagram6",
        "A datagram of up to 76 bytes is summed up once more if its IPv6 header was changed, and so is answered.",
        68,
        [f"in {NEAR6} > {CLIENT6} icmp6 1/4"],
    )


@case
def stale_checksum_of_a_datagram6() -> Script:
    return _stale6(
        "stale-checksum-of-a-datagram6",
        "A longer datagram with a changed IPv6 header is taken for damaged.",
        69,
        [],
    )


# -------------------------------------------------------------------------------------------------------------- targets


@case
def tee_of_a_multicast() -> Script:
    script = Script(
        "tee-of-a-multicast",
        "A copy of what was sent to all hosts goes to TEE's gateway alone: it does not come back to this host.",
        table("filter", "-A INPUT -p udp -j TEE --gateway 10.2.0.9") + table("mangle"),
    )
    ends = ip_from_text(CLIENT), ip_from_text("224.0.0.1")
    packet = build.ipv4(*ends, IPPROTO_UDP, build.udp(*ends, 1, 53, b"x"), ttl=9, identification=1)
    script.receive("in", packet, out=[f"out {CLIENT}:1 > 224.0.0.1:53 udp"], rules={"mangle/PREROUTING/policy": 1})
    return script


@case
def tee_of_a_multicast6() -> Script:
    script = Script(
        "tee-of-a-multicast6",
        "Over IPv6 it does come back, by its address, and no further than PREROUTING: its route is not to this host.",
        rules6=table("filter", f"-A INPUT -p udp -j TEE --gateway {SERVER6}") + table("mangle"),
    )
    ends = ip_from_text(CLIENT6), ip_from_text("ff02::1")
    script.receive(
        "in",
        build.ipv6(*ends, IPPROTO_UDP, build.udp(*ends, 1, 53, b"x")),
        out=[f"out {CLIENT6}:1 > ff02::1:53 udp"],
        rules={
            "6:mangle/PREROUTING/policy": 2,
            "6:mangle/POSTROUTING/policy": 2,
            "6:filter/INPUT/1": 1,
            "6:filter/FORWARD/policy": 0,
        },
    )
    packet = build.ipv6(*ends, IPPROTO_UDP, build.udp(*ends, 1, 53, b"x"), hop_limit=1)
    script.dropped("in", packet, rules={"6:mangle/PREROUTING/policy": 2, "6:mangle/POSTROUTING/policy": 2})
    return script


@case
def source_of_a_multicast() -> Script:
    script = Script(
        "source-of-a-multicast",
        "rp_filter looks at multicasts too; and nobody else sends them from the node's own address.",
        table("filter", "-A INPUT -d 224.0.0.1"),
        sysctls={"net.ipv4.conf.all.rp_filter": "1"},
    )
    for source, arrives in ((CLIENT, 1), (SERVER, 0), (NEAR, 0)):
        script.receive("in", datagram(source, "224.0.0.1", 1000, 53), out=[], rules={"filter/INPUT/1": arrives})
    return script


@case
def strip_options_of_no_header() -> Script:
    script = Script(
        "strip-options-of-no-header",
        "TCPOPTSTRIP drops a segment whose data offset is less than a header.",
        table("mangle", "-A FORWARD -p tcp -j TCPOPTSTRIP --strip-options 2"),
    )
    whole = bytearray(segment(CLIENT, SERVER, 1000, 80, "S", 1, options=MSS_ONLY))
    script.passes("in", bytes(whole))
    whole[32] = 4 << 4
    script.dropped("in", bytes(whole), rules={"mangle/FORWARD/1": 1})
    return script


@case
def strip_options_at_the_end() -> Script:
    script = Script(
        "strip-options-at-the-end",
        "TCPOPTSTRIP does not look at the header's last byte, where no option has a length.",
        table("mangle", "-A FORWARD -p tcp -j TCPOPTSTRIP --strip-options 2")
        + table("filter", '-A FORWARD -p tcp -m u32 --u32 "44=0x54030302"'),
    )
    options = bytes.fromhex("0101010154030302")
    script.passes("in", segment(CLIENT, SERVER, 1000, 80, "S", 1, options=options), rules={"filter/FORWARD/1": 1})
    return script


@case
def copy_with_another_hop_limit6() -> Script:
    script = Script(
        "copy-with-another-hop-limit6",
        "What gets another hop limit in OUTPUT is routed again: TEE's copy, too, then goes where its address says.",
        rules6=table("raw", f"-A OUTPUT -j TEE --gateway {SERVER6}")
        + table("mangle", "-A OUTPUT -p udp -j HL --hl-set 32"),
    )
    for protocol, interface in ((IPPROTO_UDP, "in"), (IPPROTO_UDPLITE, "out")):
        kind = "udp" if protocol == IPPROTO_UDP else "136"
        ports = (":1000", ":53") if protocol == IPPROTO_UDP else ("*", "*")
        out = [f"{one} {NEAR6}{ports[0]} > {CLIENT6}{ports[1]} {kind}" for one in (interface, "in")]
        script.send_local(datagram6(protocol), out=out)
    return script


@case
def owner_of_a_reset() -> Script:
    owned = "-A OUTPUT -p tcp -m owner --socket-exists", "-A OUTPUT -p tcp -m owner ! --socket-exists"
    script = Script(
        "owner-of-a-reset",
        "Resets for closed ports are sent by a socket of the kernel's in IPv4, and by none in IPv6.",
        table("mangle", *owned),
        rules6=table("mangle", *owned),
    )
    ends = ip_from_text(CLIENT6), ip_from_text(NEAR6)
    begin6 = build.ipv6(*ends, build.IPPROTO_TCP, build.tcp(*ends, 1000, 80, seq=1, flags=2, window=9))
    begin = segment(CLIENT, NEAR, 1000, 80, "S", 1)
    for version, packet, far, near, by_socket in (("", begin, CLIENT, NEAR, 1), ("6:", begin6, CLIENT6, NEAR6, 0)):
        script.receive(
            "in",
            packet,
            out=[f"in {near}:80 > {far}:1000 tcp R."],
            rules={f"{version}mangle/OUTPUT/1": by_socket, f"{version}mangle/OUTPUT/2": 1 - by_socket},
        )
    return script


@case
def hashlimit_without_ports() -> Script:
    script = Script(
        "hashlimit-without-ports",
        "For hashlimit what has no ports has port 0, and shares a bucket with what does have it.",
        table("raw", "-A PREROUTING -m hashlimit --hashlimit-above 1/hour --hashlimit-burst 2 --hashlimit-name h "
              "--hashlimit-mode dstip,srcport,dstport"),
    )  # fmt: skip
    for packet, above in ((echo(CLIENT, SERVER), 0), (datagram(CLIENT, SERVER, 0, 0), 0), (echo(CLIENT, SERVER), 1)):
        script.passes("in", packet, rules={"raw/PREROUTING/1": above})
    return script


@case
def round_by_lo() -> Script:
    script = Script(
        "round-by-lo",
        "What a route sends to lo comes in again, until its TTL ends.",
        table("filter", "-A FORWARD -i in", "-A FORWARD -i lo"),
        routes=[{"dst": "192.0.2.0/24", "dev": "lo"}],
    )
    script.receive(
        "in",
        datagram(CLIENT, "192.0.2.1", 1000, 53),
        out=[f"in {NEAR} > {CLIENT} icmp 11/0"],
        rules={"filter/FORWARD/1": 1, "filter/FORWARD/2": 62},
    )
    return script


def _nat_in_both_families(name: str, proves: str, statement: str, *, tracked: bool) -> Script:
    script = Script(
        name,
        proves,
        table("nat"),
        nft=f"table inet t {{\n chain c {{ type nat hook prerouting priority 0; tcp dport 1 {statement}; }}\n}}\n",
    )
    script.receive(
        "in",
        datagram(CLIENT, SERVER, 1000, 53),
        out=[f"out {CLIENT}:1000 > {SERVER}:53 udp"],
        rules={"nat/PREROUTING/policy": int(tracked)},
        entries=int(tracked),
    )
    return script


@case
def nat_of_the_other_family() -> Script:
    return _nat_in_both_families(
        "nat-of-the-other-family",
        "nft's dnat to an IPv6 address has IPv6's connections tracked and not IPv4's: no table nat is looked at there.",
        f"dnat ip6 to {SERVER6}",
        tracked=False,
    )


@case
def nat_of_either_family() -> Script:
    return _nat_in_both_families(
        "nat-of-either-family",
        "A redirection in a table of both families has the connections of both tracked.",
        "redirect to :80",
        tracked=True,
    )


def _refused_before_conntrack(name: str, proves: str, hook: str, *statements: str) -> Script:
    chain = "".join(f"  {statement}\n" for statement in statements)
    return Script(
        name,
        proves,
        table("raw", "-A OUTPUT -m conntrack --ctstate RELATED --ctdir REPLY")
        + table(
            "filter", "-A OUTPUT -p icmp -m conntrack --ctstate RELATED", "-A OUTPUT -m conntrack --ctstate INVALID"
        ),
        nft=f"table ip t {{\n chain c {{\n  type filter hook {hook} priority -310;\n{chain} }}\n}}\n",
    )


@case
def error_of_a_template() -> Script:
    script = _refused_before_conntrack(
        "error-of-a-template",
        "A refusal has the template of what it answers, as RELATED: so it is not refused itself.",
        "output",
        "ct zone set 1",
        "ct state new reject",
    )
    script.send_local(
        datagram(NEAR, CLIENT, 1000, 53),
        out=[],
        rules={"raw/OUTPUT/1": 1, "filter/OUTPUT/1": 0, "filter/OUTPUT/2": 1},
        entries=0,
    )
    return script


@case
def error_in_the_zone_of_a_template() -> Script:
    script = _refused_before_conntrack(
        "error-in-the-zone-of-a-template",
        "The flow that a refusal quotes is looked for in the zone of what it answers.",
        "prerouting",
        "ct zone set 1",
        "ip length > 100 reject",
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    large = build.ipv4(*ends, IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(100)), identification=2)
    refused = f"in {NEAR} > {CLIENT} icmp 3/3"
    script.receive("in", large, out=[refused], rules={"raw/OUTPUT/1": 1, "filter/OUTPUT/2": 1})
    script.receive("in", datagram(CLIENT, SERVER, 1000, 53), out=[f"out {CLIENT}:1000 > {SERVER}:53 udp"], entries=1)
    script.receive("in", large, out=[refused], rules={"raw/OUTPUT/1": 1, "filter/OUTPUT/1": 1, "filter/OUTPUT/2": 0})
    return script


@case
def the_kernel_owns_nothing() -> Script:
    script = Script(
        "the-kernel-owns-nothing",
        "The node's own errors are of a socket that no process has opened: nft asks in vain for its owner.",
        table("filter", "-A OUTPUT -p icmp"),
        nft="table ip t {\n chain c {\n  type filter hook output priority 5;\n  meta skuid != 1 drop;\n"
        "  meta skgid 0 drop;\n }\n}\n",
    )
    script.receive(
        "in",
        build.ipv4(ip_from_text(CLIENT), ip_from_text(SERVER), 99, bytes(8), ttl=1),
        out=[f"in {NEAR} > {CLIENT} icmp 11/0"],
        rules={"filter/OUTPUT/1": 1},
    )
    return script


@case
def priority_of_what_is_forwarded() -> Script:
    script = Script(
        "priority-of-what-is-forwarded",
        "A router has a packet's priority from its type of service, over IPv4.",
        table("mangle", "-A POSTROUTING"),
        rules6=table("mangle", "-A POSTROUTING"),
        nft="table inet t {\n chain c {\n  type filter hook forward priority 0;\n"
        "  meta priority { 0:2, 0:4, 0:6 } drop;\n }\n chain d {\n"
        "  type filter hook prerouting priority 0;\n  meta priority != none drop;\n }\n}\n",
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    for tos, passes in ((0x00, 1), (0x04, 1), (0x08, 0), (0x10, 0), (0xB8, 0), (0x1F, 0), (0xE0, 1)):
        script.receive(
            "in",
            build.ipv4(*ends, 99, bytes(8), tos=tos),
            out=[f"out {CLIENT} > {SERVER} *"] if passes else [],
            rules={"mangle/POSTROUTING/1": passes},
        )
    script.receive(
        "in",
        build.ipv6(ip_from_text(CLIENT6), ip_from_text(SERVER6), 99, bytes(8), traffic_class=0x10),
        out=[f"out {CLIENT6} > {SERVER6} *"],
        rules={"6:mangle/POSTROUTING/1": 1},
    )
    return script


@case
def address_before_an_authentication_header() -> Script:
    script = Script(
        "address-before-an-authentication-header",
        "nft takes that header for the transport's: the checksum behind it does not follow an address that it sets.",
        rules6=table("filter", "-A FORWARD -p ah"),
        nft="table ip6 t {\n chain c {\n  type filter hook forward priority 0;\n  ip6 saddr set fd01::8;\n }\n}\n",
    )
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    inner = build.udp(ip_from_text("fd01::8"), ends[1], 1000, 53, b"data")
    header = bytes((IPPROTO_UDP, 4)) + bytes(22)
    script.receive("in", build.ipv6(*ends, 51, header + inner), out=["out fd01::8* > *"])
    return script


@case
def refusal_of_what_was_verified() -> Script:
    script = Script(
        "refusal-of-what-was-verified",
        "A checksum that connection tracking has found right is not looked at again to send an error, though an "
        "address was set since and it is wrong by now; to send a reset it is.",
        rules6=table("filter", "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset", "-A FORWARD -j REJECT")
        + table("mangle", "-A OUTPUT -m conntrack --ctstate NEW"),
        nft="table ip6 t {\n chain c {\n  type filter hook prerouting priority 0;\n  ip6 saddr set fd01::9;\n }\n}\n",
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text("fd01::8"), ip_from_text(SERVER6)
    udp, tcp = build.udp(*ends, 1000, 53, b"data"), build.tcp(*ends, 1000, 53, seq=1, flags=2)
    behind = bytes((4,)) + bytes(22)
    error = f"in * > {CLIENT6} icmp6 1/4"
    script.receive("in", build.ipv6(*ends, 51, bytes((IPPROTO_UDP,)) + behind + udp), out=[error])
    script.receive("in", build.ipv6(*ends, 51, bytes((6,)) + behind + tcp), out=[], rules={"6:filter/FORWARD/1": 1})
    return script


@case
def error_about_a_header_that_is_cut() -> Script:
    script = Script(
        "error-about-a-header-that-is-cut",
        "What an error quotes may end within an authentication header, if what is behind has no ports.",
        rules6=table("nat", f"-A POSTROUTING -o out -j SNAT --to-source {FAR6}"),
    )
    header = bytes((99, 4)) + bytes(22)
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    script.receive(
        "in", build.ipv6(*ends, 51, header + b"payload!"), out=[f"out {FAR6} > {SERVER6} *"], entries=1, has="SRC_NAT"
    )
    for size, told in ((4, 1), (2, 1), (1, 0)):
        about = build.ipv6(ip_from_text(FAR6), ends[1], 51, header + b"payload!")[: 40 + size]
        error = build.icmpv6(ends[1], ip_from_text(FAR6), 1, 0, 0, about)
        script.receive(
            "out",
            build.ipv6(ends[1], ip_from_text(FAR6), 58, error),
            out=[f"in {SERVER6} > {CLIENT6} icmp6 1/0"] if told else [],
        )
    return script


@case
def address_behind_a_checksum() -> Script:
    script = Script(
        "address-behind-a-checksum",
        "Of an IPv6 packet that connection tracking has summed up, what is long is taken for broken if an address was "
        "set since.",
        table("filter", "-A INPUT -m conntrack --ctstate NEW"),
        rules6=table("filter", "-A INPUT -m conntrack --ctstate NEW"),
        nft="table ip6 t {\n chain c {\n  type filter hook input priority -5;\n  ip6 saddr set fd01::9;\n }\n}\n",
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text("fd01::8"), ip_from_text(NEAR6)
    for size, answers in ((8, 1), (200, 0)):
        script.receive(
            "in",
            build.ipv6(*ends, IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(size))),
            out=[f"in {NEAR6} > {CLIENT6} icmp6 1/4"] * answers,
            rules={"6:filter/INPUT/1": 1},
        )
    return script


@case
def error_about_a_translated_flow_is_routed_again() -> Script:
    script = Script(
        "error-about-a-translated-flow-is-routed-again",
        "A mark that an error gets between mangle and NAT counts for its route if what it quotes is of a flow that "
        "NAT has changed, though NAT leaves the error's own addresses alone.",
        table("nat", "-A POSTROUTING -o out -j MASQUERADE")
        + table("filter", "-A FORWARD -m mark --mark 0x2 -j REJECT", "-A OUTPUT -p icmp")
        + table("mangle", "-A PREROUTING -m length --length 100:200 -j MARK --set-mark 0x2"),
        nft="table ip t {\n chain c { type filter hook output priority -120; meta mark set 0x1; }\n}\n",
        ip_rules=[{"priority": 100, "fwmark": "0x1", "table": 100}],
        routes=[{"dst": "10.1.0.0/24", "type": "unreachable", "table": 100}],
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    large = build.ipv4(*ends, IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(100)), identification=2)
    script.receive("in", large, out=[f"in {NEAR} > {CLIENT} icmp 3/3"], rules={"filter/FORWARD/1": 1}, entries=0)
    script.receive("in", datagram(CLIENT, SERVER, 1000, 53), out=[f"out {FAR}:1000 > {SERVER}:53 udp"], entries=1)
    script.receive("in", large, out=[], rules={"filter/FORWARD/1": 1, "filter/OUTPUT/1": 0})
    return script


def _reset_from_loopback(name: str, proves: str, *rules: str) -> Script:
    """A segment of the host's own that NAT has brought to 127.0.0.1, as if from somebody on a link."""
    script = Script(
        name,
        proves,
        table(
            "nat", f"-A OUTPUT -d {SERVER} -p tcp -j REDIRECT --to-ports 8080", f"-A POSTROUTING -j SNAT --to {CLIENT}"
        )
        + table("filter", "-A INPUT -p tcp", *rules, "-A OUTPUT -p tcp -m tcp --tcp-flags RST RST"),
    )
    script.send_local(
        segment(NEAR, SERVER, 1000, 80, "S", 1),
        out=[],
        rules={"filter/INPUT/1": 1, "filter/OUTPUT/1": 0},
        has="DST_NAT",
    )
    return script


@case
def reset_from_a_loopback_address() -> Script:
    return _reset_from_loopback(
        "reset-from-a-loopback-address",
        "Nobody is told of a closed port from 127.0.0.1 by a link: that address has no way there.",
    )


@case
def refusal_from_a_loopback_address() -> Script:
    return _reset_from_loopback(
        "refusal-from-a-loopback-address",
        "Nor does REJECT's reset go there.",
        "-A INPUT -p tcp -j REJECT --reject-with tcp-reset",
    )


@case
def error_about_a_loopback_address6() -> Script:
    script = Script(
        "error-about-a-loopback-address6",
        "What DNAT has sent to ::1 from a link is refused from the link's address: nobody has ::1 there.",
        rules6=table("nat", f"-A PREROUTING -p udp -d {SERVER6} -j DNAT --to-destination ::1")
        + table("filter", f"-A OUTPUT -p icmpv6 -s {NEAR6}", "-A OUTPUT -p icmpv6 -s ::1"),
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    script.receive(
        "in",
        build.ipv6(*ends, IPPROTO_UDP, build.udp(*ends, 1000, 53, b"x")),
        out=[f"in {SERVER6} > {CLIENT6} icmp6 1/*"],
        rules={"6:nat/PREROUTING/1": 1, "6:filter/OUTPUT/1": 1, "6:filter/OUTPUT/2": 0},
    )
    return script


@case
def refused_reset6() -> Script:
    script = Script(
        "refused-reset6",
        "What refuses a reset of no socket quotes it as it is: over IPv6 the device would have summed it.",
        rules6=table("nat", f"-A PREROUTING -d {NEAR6} -p tcp -j DNAT --to-destination [{SERVER6}]:8080")
        + table("filter", "-A OUTPUT -p tcp -j REJECT"),
        sysctls=NO_LIMIT6,
    )
    script.receive(
        "in", segment(CLIENT6, NEAR6, 1000, 443, "S", 1), out=[f"out {CLIENT6}:1000 > {SERVER6}:8080 tcp S*"]
    )
    # without any flags it belongs to no flow, and so comes to the node itself
    script.receive(
        "in",
        segment(CLIENT6, NEAR6, 1000, 443, "", 5),
        out=[f"out {NEAR6} > {SERVER6} icmp6 1/4"],
        rules={"6:filter/OUTPUT/1": 1},
    )
    return script


# ------------------------------------------------------------------------------------------------ NETMAP and GRE, IPv6


@case
def netmap6() -> Script:
    script = Script(
        "netmap6",
        "NETMAP changes the network and keeps the host, of destinations and of sources, and answers are changed back.",
        rules6=table(
            "nat",
            "-A PREROUTING -d fd99::/64 -j NETMAP --to fd02::/64",
            "-A POSTROUTING -s fd01::/64 -o out -j NETMAP --to fd98::/64",
        ),
        sysctls=NO_LIMIT6,
    )
    ping = "icmp6 128/0", "icmp6 129/0"
    script.receive("in", echo(CLIENT6, "fd99::9"), out=[f"out fd98::9 > {SERVER6} {ping[0]}"], lacks="SEEN_REPLY")
    script.receive(
        "out", echo(SERVER6, "fd98::9", reply=True), out=[f"in fd99::9 > {CLIENT6} {ping[1]}"], has="SEEN_REPLY"
    )
    script.receive("in", echo(CLIENT6, SERVER6, identifier=78), out=[f"out fd98::9 > {SERVER6} {ping[0]}"], entries=2)
    return script


def gre6(source: str, destination: str, *, call: int | None = None) -> bytes:
    """GRE: RFC 2784's, or with a call's number RFC 2637's, which has a key."""
    head = struct.pack("!HH", 0, 0x86DD) if call is None else struct.pack("!HHHHI", 0x3001, 0x880B, 4, call, 1)
    return build.ipv6(ip_from_text(source), ip_from_text(destination), IPPROTO_GRE, head + bytes(4))


@case
def gre_flows6() -> Script:
    script = Script(
        "gre-flows6",
        "GRE is tracked by its key, and without one by addresses alone, in IPv6 too; what answers is the same flow.",
        rules6=STATES,
        sysctls=NO_LIMIT6,
    )
    new, known = "6:filter/FORWARD/2", "6:filter/FORWARD/3"
    out, back = f"out {CLIENT6} > {SERVER6} 47", f"in {SERVER6} > {CLIENT6} 47"
    script.receive("in", gre6(CLIENT6, SERVER6), out=[out], rules={new: 1}, entries=1)
    script.receive("out", gre6(SERVER6, CLIENT6), out=[back], rules={known: 1}, has="SEEN_REPLY")
    script.receive("in", gre6(CLIENT6, SERVER6, call=5), out=[out], rules={new: 1}, entries=2)
    script.receive("in", gre6(CLIENT6, SERVER6, call=5), out=[out], rules={new: 1}, entries=2)
    script.receive("in", gre6(CLIENT6, SERVER6, call=6), out=[out], rules={new: 1}, entries=3)
    return script


@case
def headers_longer_than_their_packet() -> Script:
    """Headers whose length field says more than there is, behind which a transport header is named."""
    script = Script(
        "headers-longer-than-their-packet",
        "A rule that looks into an IPv6 extension header drops a packet that has not all of it; others let it pass.",
        rules6=table(
            "mangle",
            "-A PREROUTING -s fd01::a -m rt --rt-type 0",
            "-A PREROUTING -s fd01::b -m dst ! --dst-len 8",
            "-A PREROUTING -s fd01::c -m frag --fragid 1",
        ),
        sysctls=NO_LIMIT6,
    )
    short = bytes((build.IPPROTO_UDP, 4)) + bytes(14)
    for source, kind, passes in (("fd01::a", 43, False), ("fd01::b", 60, False), ("fd01::c", 43, True)):
        packet = build.ipv6(ip_from_text(source), ip_from_text(SERVER6), kind, short)
        script.receive("in", packet, out=[f"out {source} > {SERVER6} {kind}"] if passes else [])
    return script


@case
def copy_of_what_was_sent_to_many() -> Script:
    script = Script(
        "copy-of-what-was-sent-to-many",
        "TEE's copy of a packet that came to a link-layer group is one that came to a group still, even by way of lo: "
        "nobody is told that its port is closed.",
        table("nat", f"-A PREROUTING -p udp -j DNAT --to-destination {NEAR}")
        + table("filter", f"-A INPUT -i in -j TEE --gateway {NEAR}", "-A OUTPUT -m pkttype --pkt-type multicast"),
    )
    ends = ip_from_text(CLIENT), ip_from_text("224.0.0.251")
    packet = build.ipv4(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(8)))
    script.receive("in", packet, to="01:00:5e:00:00:fb", out=[], rules={"filter/OUTPUT/1": 1})
    return script


@case
def authentication_headers() -> Script:
    script = Script(
        "authentication-headers",
        "An authentication header of IPv6 is found by its index, its length and its reserved field, wherever it is; of "
        "one that is not there as a whole the packet is dropped.",
        rules6=table(
            "mangle",
            "-A PREROUTING -m ah --ahspi 5:7",
            "-A PREROUTING -m ah ! --ahspi 5:7",
            "-A PREROUTING -m ah --ahlen 12",
            "-A PREROUTING -m ah ! --ahlen 12",
            "-A PREROUTING -m ah --ahres",
            "-A PREROUTING -p ah",
        ),
        sysctls=NO_LIMIT6,
    )
    ends = ip_from_text(CLIENT6), ip_from_text(SERVER6)
    body = build.udp(*ends, 1000, 53, bytes(8))
    out = [f"out {CLIENT6}:1000 > {SERVER6}:53 udp"]
    for words, reserved, index, matching in ((1, 0, 5, (1, 3, 5)), (4, 1, 8, (2, 4)), (4, 0, 7, (1, 4, 5))):
        header = bytes((build.IPPROTO_UDP, words, 0, reserved)) + index.to_bytes(4, "big") + bytes(words * 4)
        counted = {f"6:mangle/PREROUTING/{n}": int(n in matching) for n in range(1, 7)}
        script.receive("in", build.ipv6(*ends, 51, header + body), out=out, rules=counted)
        script.receive("in", build.ipv6(*ends, 60, bytes((51, 0, 1, 4, 0, 0, 0, 0)) + header + body), out=out)
    udp = build.IPPROTO_UDP
    for short in (bytes((udp, 1)) + bytes(9), bytes((udp, 1)), bytes((udp, 2)) + bytes(10)):
        script.dropped("in", build.ipv6(*ends, 51, short))
    return script


@case
def parameter_indexes() -> Script:
    script = Script(
        "parameter-indexes",
        "Where no index is asked for, -m esp takes each, and -m ipcomp takes 0 alone.",
        table(
            "mangle",
            "-A FORWARD -p esp -m esp",
            "-A FORWARD -p ipcomp -m ipcomp",
            "-A FORWARD -p ipcomp -m ipcomp --compres",
        ),
    )
    ends = ip_from_text(CLIENT), ip_from_text(SERVER)
    for index in (0, 7):
        numbers = {f"mangle/FORWARD/{n}": 0 for n in (1, 2, 3)}
        script.receive(
            "in", build.ipv4(*ends, 50, struct.pack("!II", index, 1)), rules=numbers | {"mangle/FORWARD/1": 1}
        )
        matching = int(index == 0)
        body = struct.pack("!BBH", build.IPPROTO_UDP, 0, index)
        script.receive("in", build.ipv4(*ends, 108, body), rules=numbers | dict.fromkeys(list(numbers)[1:], matching))
    script.dropped("in", build.ipv4(*ends, 50, bytes(7)))
    script.dropped("in", build.ipv4(*ends, 108, bytes(3)))
    return script


def _short_icmp(name: str, rule: str, *, six: bool) -> Script:
    rules = table("mangle", f"-A FORWARD {rule}")
    proves = "A match of ICMP types drops a message that has less than the eight bytes of a header."
    script = Script(name, proves, rules6=rules, sysctls=NO_LIMIT6) if six else Script(name, proves, rules)
    for length in (1, 4, 7, 8):
        if six:
            packet = build.ipv6(ip_from_text(CLIENT6), ip_from_text(SERVER6), 58, b"\x81" + bytes(length - 1))
        else:
            packet = build.ipv4(ip_from_text(CLIENT), ip_from_text(SERVER), 1, bytes(length))
        if length < 8:
            script.dropped("in", packet)
        else:
            script.receive("in", packet, rules={f"{'6:' if six else ''}mangle/FORWARD/1": 1})
    return script


@case
def short_icmp() -> Script:
    return _short_icmp("short-icmp", "-p icmp -m icmp --icmp-type echo-reply", six=False)


@case
def short_icmp6() -> Script:
    return _short_icmp("short-icmp6", "-p icmpv6 -m icmp6 --icmpv6-type echo-reply", six=True)


@case
def mss_at_an_odd_offset() -> Script:
    script = Script(
        "mss-at-an-odd-offset",
        "TCPMSS mends the checksum as if the option were at an even offset, wherever it is.",
        table("mangle", "-A FORWARD -p tcp -m tcp --tcp-flags SYN SYN -j TCPMSS --set-mss 1000"),
    )
    for options in (b"\2\4\5\xb4", b"\1\2\4\5\xb4\0\0\0", b"\3\3\7\2\4\5\xb4\0"):
        packet = segment(CLIENT, SERVER, 1000, 80, "S", 1, options=options)
        bad = "tcp" if options[0] != 2 else ""
        script.receive("in", packet, out=[f"out {CLIENT}:1000 > {SERVER}:80 tcp S"], bad_checksums=bad)
    return script


@case
def mask_of_a_recent_list() -> Script:
    script = Script(
        "mask-of-a-recent-list",
        "A list that -m recent keeps has the mask of the first rule that names it, and no other one's.",
        table(
            "mangle",
            "-A PREROUTING -i out -m recent --name seen --rcheck --mask 255.255.255.0",
            "-A FORWARD -m recent --name seen --set --rsource",
        ),
        neighbours=[("in", "10.1.0.10")],
    )
    script.receive("in", datagram(CLIENT, SERVER, 1000, 53), rules={"mangle/FORWARD/1": 1})
    script.receive("out", datagram("10.1.0.10", CLIENT, 1000, 53), rules={"mangle/PREROUTING/1": 1})
    return script


@case
def burst_of_more_than_64_bits() -> Script:
    script = Script(
        "burst-of-more-than-64-bits",
        "What hashlimit counts in has 64 bits: one a day with a burst of three leaves less than two in them.",
        table("mangle", "-A FORWARD -m hashlimit --hashlimit-name few --hashlimit-upto 1/day --hashlimit-burst 3"),
    )
    for count in (1, 0, 0):
        script.receive("in", datagram(CLIENT, SERVER, 1000, 53), rules={"mangle/FORWARD/1": count})
    return script


def _protocols(name: str, *, six: bool) -> Script:
    script = Script(
        name,
        "A host answers that it does not have a protocol, but takes PIM, which multicast routers speak, and is silent.",
        **({"rules6": table("filter"), "sysctls": NO_LIMIT6} if six else {"rules": table("filter")}),
    )
    for protocol in (99, build.IPPROTO_PIM):
        if six:
            packet = build.ipv6(ip_from_text(CLIENT6), ip_from_text(NEAR6), protocol, bytes(8))
            answer = f"in {NEAR6} > {CLIENT6} icmp6 4/1"
        else:
            packet = build.ipv4(ip_from_text(CLIENT), ip_from_text(NEAR), protocol, bytes(8))
            answer = f"in {NEAR} > {CLIENT} icmp 3/2"
        script.receive("in", packet, out=[] if protocol == build.IPPROTO_PIM else [answer])
    return script


@case
def protocols_of_a_host() -> Script:
    return _protocols("protocols-of-a-host", six=False)


@case
def protocols_of_a_host6() -> Script:
    return _protocols("protocols-of-a-host6", six=True)


@case
def sent_to_many_and_routed_again() -> Script:
    script = Script(
        "sent-to-many-and-routed-again",
        "What is for many has no gateway, be there a default route; once OUTPUT has marked it, it leaves by the device "
        "that has its source address, and not at all if none has.",
        table("mangle", "-A OUTPUT -p udp --dport 53 -j MARK --set-mark 1"),
        routes=[{"dst": "default", "via": SERVER, "dev": "out"}],
    )
    for destination in ("239.1.1.1", "255.255.255.255"):
        ends = ip_from_text(NEAR), ip_from_text(destination)
        for port, interface in ((54, "out"), (53, "in")):
            packet = build.ipv4(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, port, b"data"))
            script.send_local(packet, out=[f"{interface} {NEAR}:1000 > {destination}:{port} udp"])
        ends = ip_from_text(CLIENT), ends[1]
        script.send_local(build.ipv4(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, 53, b"data")), out=[])
    return script
