"""One-line summaries: a table of ours, and tcpdump's own word on the same frames."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.wire.addr import MAC_BROADCAST, MAC_ZERO, ip_from_text, mac_from_text
from pktsim.wire.frame import (
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TcpFlag,
    arp,
    ethernet,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    ipv6_fragment,
    tcp,
    tcp_options,
    udp,
    vxlan,
)
from pktsim.wire.summary import dns_text, flags_text, summary, tcp_options_text
from tests import tools

A, B = ip_from_text("10.1.1.2"), ip_from_text("172.30.0.1")
A6, B6 = ip_from_text("fd00:1::2"), ip_from_text("fd00:2::2")
MAC_A, MAC_B = mac_from_text("02:00:00:00:00:0a"), mac_from_text("02:00:00:00:00:0b")
SYN = tcp(
    *(A, B, 40002, 80),
    seq=3532608073,
    flags=TcpFlag.SYN,
    window=64240,
    options=tcp_options(mss=1460, sack_permitted=True, timestamps=(3116640889, 0), window_scale=10),
)


def in4(protocol: int, payload: bytes, *, offset: int = 0, more: bool = False) -> bytes:
    """An IPv4 frame from A to B."""
    packet = ipv4(A, B, protocol, payload, fragment_offset=offset, more_fragments=more, identification=7)
    return ethernet(MAC_B, MAC_A, ETH_P_IP, packet)


def in6(protocol: int, payload: bytes) -> bytes:
    """An IPv6 frame from A6 to B6."""
    return ethernet(MAC_B, MAC_A, ETH_P_IPV6, ipv6(A6, B6, protocol, payload))


def dns_frame(wire: bytes, *, answer: bool, over_tcp: bool = False) -> bytes:
    """A DNS message from or to port 53."""
    ports = (53, 40000) if answer else (40000, 53)
    if over_tcp:
        data = len(wire).to_bytes(2, "big") + wire
        return in4(IPPROTO_TCP, tcp(A, B, *ports, data, seq=1, ack=1, flags=TcpFlag.PSH | TcpFlag.ACK, window=64))
    return in4(IPPROTO_UDP, udp(A, B, *ports, wire))


def query(name: str, kind: str, *, edns: bool = False, flags: int = dns.flags.RD) -> dns.message.Message:
    """A DNS query with a fixed id."""
    message = dns.message.make_query(name, kind, use_edns=0 if edns else None, id=4711)
    message.flags = dns.flags.Flag(flags)
    return message


def response(name: str, kind: str, *records: str, rcode: int = 0, flags: int = dns.flags.AA) -> bytes:
    """A DNS answer to :func:`query`."""
    message = dns.message.make_response(query(name, kind))
    message.flags |= flags
    message.set_rcode(dns.rcode.Rcode(rcode))
    if records:
        message.answer.append(dns.rrset.from_text_list(name, 5, "IN", kind, list(records)))
    return message.to_wire()


QUOTED = ipv4(A, B, IPPROTO_UDP, udp(A, B, 4000, 8081, b"x" * 12))
QUOTED6 = ipv6(A6, B6, IPPROTO_UDP, udp(A6, B6, 4000, 8081, b"x" * 12))

TABLE = {
    "syn": (
        in4(IPPROTO_TCP, SYN),
        "IP 10.1.1.2.40002 > 172.30.0.1.80: Flags [S], seq 3532608073, win 64240, "
        "options [mss 1460,sackOK,TS val 3116640889 ecr 0,nop,wscale 10], length 0",
    ),
    "http-request": (
        in4(
            IPPROTO_TCP,
            tcp(A, B, 40002, 80, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n", seq=1, ack=9, flags=0x18, window=63),
        ),
        "IP 10.1.1.2.40002 > 172.30.0.1.80: Flags [P.], seq 1:30, ack 9, win 63, length 29: HTTP: GET / HTTP/1.1",
    ),
    "data-wraps-round": (
        in4(IPPROTO_TCP, tcp(A, B, 40002, 9, b"x" * 16, seq=0xFFFFFFF8, ack=9, flags=TcpFlag.ACK, window=63)),
        "IP 10.1.1.2.40002 > 172.30.0.1.9: Flags [.], seq 4294967288:8, ack 9, win 63, length 16",
    ),
    "arp-request": (
        ethernet(MAC_BROADCAST, MAC_A, ETH_P_ARP, arp(1, MAC_A, A, MAC_ZERO, B)),
        "ARP, Request who-has 172.30.0.1 tell 10.1.1.2, length 28",
    ),
    "arp-probe-of-a-known-neighbour": (
        ethernet(MAC_B, MAC_A, ETH_P_ARP, arp(1, MAC_A, A, MAC_B, B)),
        "ARP, Request who-has 172.30.0.1 (02:00:00:00:00:0b) tell 10.1.1.2, length 28",
    ),
    "arp-reply": (
        ethernet(MAC_B, MAC_A, ETH_P_ARP, arp(2, MAC_A, A, MAC_B, B)),
        "ARP, Reply 10.1.1.2 is-at 02:00:00:00:00:0a, length 28",
    ),
    "echo-request": (
        in4(IPPROTO_ICMP, icmp(8, 0, 0x1234_0001, b"x" * 56)),
        "IP 10.1.1.2 > 172.30.0.1: ICMP echo request, id 4660, seq 1, length 64",
    ),
    "port-unreachable": (
        in4(IPPROTO_ICMP, icmp(3, 3, 0, QUOTED)),
        "IP 10.1.1.2 > 172.30.0.1: ICMP 172.30.0.1 udp port 8081 unreachable, length 48",
    ),
    "fragmentation-needed": (
        in4(IPPROTO_ICMP, icmp(3, 4, 1450, QUOTED)),
        "IP 10.1.1.2 > 172.30.0.1: ICMP 172.30.0.1 unreachable - need to frag (mtu 1450), length 48",
    ),
    "time-exceeded": (
        in4(IPPROTO_ICMP, icmp(11, 0, 0, QUOTED)),
        "IP 10.1.1.2 > 172.30.0.1: ICMP time exceeded in-transit, length 48",
    ),
    "later-fragment": (
        in4(IPPROTO_UDP, b"x" * 40, offset=1480),
        "IP 10.1.1.2 > 172.30.0.1: ip-proto-17",
    ),
    "first-fragment": (
        in4(IPPROTO_UDP, udp(A, B, 4000, 8081, b"x" * 600)[:512], more=True),
        "IP 10.1.1.2.4000 > 172.30.0.1.8081: UDP, length 600",
    ),
    "ipv6-fragments": (
        in6(44, ipv6_fragment(17, udp(A6, B6, 4000, 8081, b"x" * 40), identification=1, offset=0, more=True)),
        "IP6 fd00:1::2 > fd00:2::2: frag (0|48) 4000 > 8081: UDP, length 40",
    ),
    "ipv6-later-fragment": (
        in6(44, ipv6_fragment(17, b"x" * 40, identification=1, offset=48, more=False)),
        "IP6 fd00:1::2 > fd00:2::2: frag (48|40)",
    ),
    "neighbour-solicitation": (
        in6(IPPROTO_ICMPV6, icmpv6(A6, B6, 135, 0, 0, B6 + b"\x01\x01" + MAC_A)),
        "IP6 fd00:1::2 > fd00:2::2: ICMP6, neighbor solicitation, who has fd00:2::2, length 32",
    ),
    "ipv6-port-unreachable": (
        in6(IPPROTO_ICMPV6, icmpv6(A6, B6, 1, 4, 0, QUOTED6)),
        "IP6 fd00:1::2 > fd00:2::2: ICMP6, destination unreachable, unreachable port, "
        "fd00:2::2 udp port 8081, length 68",
    ),
    "vxlan": (
        in4(IPPROTO_UDP, udp(A, B, 5000, 8472, vxlan(1, in4(IPPROTO_ICMP, icmp(0, 0, 0x1234_0001))))),
        "IP 10.1.1.2.5000 > 172.30.0.1.8472: VXLAN, flags [I] (0x08), vni 1 | "
        "IP 10.1.1.2 > 172.30.0.1: ICMP echo reply, id 4660, seq 1, length 8",
    ),
    "dns-query": (
        dns_frame(query("web.default.svc.cluster.local.", "A").to_wire(), answer=False),
        "IP 10.1.1.2.40000 > 172.30.0.1.53: 4711+ A? web.default.svc.cluster.local. (47)",
    ),
    "dns-query-with-edns": (
        dns_frame(query("web.", "SRV", edns=True).to_wire(), answer=False),
        "IP 10.1.1.2.40000 > 172.30.0.1.53: 4711+ [1au] SRV? web. (32)",
    ),
    "dns-answer": (
        dns_frame(response("web.", "A", "172.30.0.1"), answer=True),
        "IP 10.1.1.2.53 > 172.30.0.1.40000: 4711*- 1/0/0 A 172.30.0.1 (37)",
    ),
    "dns-nxdomain-over-tcp": (
        dns_frame(response("no.", "A", rcode=3), answer=True, over_tcp=True),
        "IP 10.1.1.2.53 > 172.30.0.1.40000: Flags [P.], seq 1:23, ack 1, win 64, length 22 4711 NXDomain*- 0/0/0 (20)",
    ),
    "unknown-ethertype": (
        ethernet(MAC_B, MAC_A, 0x88B5, b"x" * 46),
        "02:00:00:00:00:0a > 02:00:00:00:00:0b, ethertype Unknown (0x88b5), length 60",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_summary_of(name: str) -> None:
    frame, text = TABLE[name]
    assert summary(frame) == text


def test_summary_of_a_packet_without_link_layer() -> None:
    packet = ipv4(A, B, IPPROTO_UDP, udp(A, B, 4000, 8081, b"x" * 12))
    assert summary(packet, link=False) == "IP 10.1.1.2.4000 > 172.30.0.1.8081: UDP, length 12"


def test_flags_text_is_tcpdumps() -> None:
    assert flags_text(TcpFlag.SYN | TcpFlag.ACK) == "S."
    assert flags_text(TcpFlag(0)) == "none"


def test_malformed_tcp_options_are_said_to_be_so() -> None:
    assert tcp_options_text(b"\x01\x02\x09\x00") == "nop,malformed 0x020900"
    assert tcp_options_text(b"\x01\x01\x01\x00") == "nop,nop,nop,eol"


def test_a_dns_name_that_points_at_itself_ends() -> None:
    assert "[|domain]" in dns_text(struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01")


@given(st.binary(max_size=200))
def test_no_bytes_are_refused(frame: bytes) -> None:
    assert "\n" not in summary(frame)
    assert "\n" not in summary(frame, link=False)


@given(st.sampled_from(sorted(TABLE)), st.data())
def test_no_mutation_of_a_frame_is_refused(name: str, data: st.DataObject) -> None:
    frame = bytearray(TABLE[name][0])
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    assert summary(bytes(frame[: data.draw(st.integers(0, len(frame)))]))


def many_frames() -> list[bytes]:
    """Frames of every kind that both programs tell in the same words."""
    frames = [frame for frame, _ in TABLE.values()]
    for flags in range(256):
        for payload in (b"", b"hello", b"HTTP/1.1 200 OK\r\n\r\n"):
            frames.append(in4(IPPROTO_TCP, tcp(A, B, 1234, 8080, payload, seq=2**32 - 9, ack=7, flags=flags, urgent=3)))
    tcp_payload = ipv4(A, B, IPPROTO_TCP, SYN)
    for code in range(16):
        for quoted in (QUOTED, tcp_payload, ipv4(A, B, 47, b"x" * 30)):
            frames.append(in4(IPPROTO_ICMP, icmp(3, code, 1400, quoted)))
    for code in range(4):
        frames.append(in4(IPPROTO_ICMP, icmp(5, code, 0x0A000003, QUOTED)))
    for code in (0, 1):
        frames.append(in4(IPPROTO_ICMP, icmp(11, code, 0, QUOTED)))
    for code in (0, 3, 4):
        for quoted in (QUOTED6, ipv6(A6, B6, IPPROTO_TCP, tcp(A6, B6, 1000, 2000, seq=1, flags=2))):
            frames.append(in6(IPPROTO_ICMPV6, icmpv6(A6, B6, 1, code, 0, quoted)))
    for kind, code in ((2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)):
        frames.append(in6(IPPROTO_ICMPV6, icmpv6(A6, B6, kind, code, 1280, QUOTED6)))
    for kind in (128, 129, 133, 134, 135, 136, 137, 143):
        frames.append(in6(IPPROTO_ICMPV6, icmpv6(A6, B6, kind, 0, 0x1234_0001, A6 + B6)))
    for options in (
        tcp_options(mss=1220),
        tcp_options(mss=1460, sack_permitted=True, window_scale=7),
        tcp_options(timestamps=(3, 4), sack_blocks=((1, 2), (3, 4))),
    ):
        frames.append(in4(IPPROTO_TCP, tcp(A, B, 1234, 9, b"hi", seq=5, ack=7, flags=0x10, options=options)))
    answers = {
        "A": ("1.2.3.4", "4.3.2.1"),
        "AAAA": ("fd00::1",),
        "SRV": ("0 10 80 x.example.com.", "5 6 7 y."),
        "PTR": ("q.example.com.",),
        "SOA": ("ns. root. 1 2 3 4 5",),
        "NS": ("ns.example.com.",),
        "MX": ("10 mx.example.com.",),
        "TXT": ('"abc" "de f"',),
        "CNAME": ("c.example.com.",),
    }
    for rdtype, records in answers.items():
        for rcode in range(6):
            for flags in (0, dns.flags.AA, dns.flags.RA, dns.flags.TC, dns.flags.AD):
                for over_tcp in (False, True):
                    wire = response("a.b.example.com.", rdtype, *records, rcode=rcode, flags=flags)
                    frames.append(dns_frame(wire, answer=True, over_tcp=over_tcp))
        for edns in (False, True):
            for flags in (0, dns.flags.RD, dns.flags.RD | dns.flags.AD, dns.flags.RD | dns.flags.CD):
                frames.append(dns_frame(query("a.b.", rdtype, edns=edns, flags=flags).to_wire(), answer=False))
    return frames


def test_summary_is_what_tcpdump_says(tmp_path: Path) -> None:
    tools.need("tcpdump")
    frames = many_frames()
    path = tmp_path / "frames.pcap"
    path.write_bytes(
        struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
        + b"".join(struct.pack("<IIII", at, 0, len(frame), len(frame)) + frame for at, frame in enumerate(frames))
    )
    lines: list[str] = []
    for line in tools.run("tcpdump", "-nStr", str(path)).splitlines():
        if lines and lines[-1].endswith("instance 1"):
            lines[-1] += f" | {line}"
        elif not line.startswith("\t"):  # a hex dump of what it does not know
            lines.append(line)
    said = [re.sub(r"OTV, (flags.*), overlay 0, instance", r"VXLAN, \1, vni", line).rstrip(" :") for line in lines]
    assert said == [summary(frame) for frame in frames]
