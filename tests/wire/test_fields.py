from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRSOA
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from pktsim.wire.fields import FieldWriter, dissect

E = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
IN = IP(src="10.0.0.1", dst="10.0.0.2")
SYN = TCP(sport=40000, dport=80, flags="S", seq=1, options=[("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 0))])
QUERY = DNS(id=77, qr=1, qd=DNSQR(qname="web.default."), ns=DNSRR(rrname="x.", type="A", rdata="1.2.3.4"))
SOA = DNS(id=77, qr=1, qd=DNSQR(qname="web."), ns=DNSRRSOA(rrname="cluster.local.", mname="a.", rname="b.", serial=9))

#: Destination options, an authentication header of 24 bytes, and UDP.
AUTHENTICATED = "3300010400000000" + "11040000" + "00" * 20 + "9c40003500090000" + "61"
PACKETS = {
    "arp": E / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
    "tcp": E / IN / SYN,
    "tcp with data": E / IN / TCP(flags="PA", options=[("NOP", None), ("SAck", (1, 2))]) / Raw(b"abc"),
    "udp": E / IN / UDP(sport=40000, dport=8081) / Raw(b"hello"),
    "dns": E / IN / UDP(sport=53, dport=40000) / QUERY,
    "dns soa": E / IN / UDP(sport=53, dport=40000) / SOA,
    "echo": E / IN / ICMP(id=0x1234) / Raw(b"x" * 56),
    "quoted": E / IN / ICMP(type=3, code=3) / IPerror(bytes(IN / SYN)),
    "vlan": E / Dot1Q(vlan=5) / IN / UDP() / Raw(b"x"),
    "vxlan": E / IN / UDP(sport=50000, dport=8472) / VXLAN(vni=1) / E / IN / SYN,
    "second fragment": E / IP(src="10.0.0.1", dst="10.0.0.2", frag=10, proto=17) / Raw(b"x" * 9),
    "ipv6": E / IPv6(src="fd00::1", dst="fd00::2") / SYN,
    "ipv6 echo": E / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest(id=3),
    "ipv6 fragment": E / IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(id=5, nh=17, m=1) / UDP() / Raw(b"x"),
    "ipv6 authenticated": E / IPv6(src="fd00::1", dst="fd00::2", nh=60) / Raw(bytes.fromhex(AUTHENTICATED)),
    "ipv6 quoted": E / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6DestUnreach() / IPv6(dst="fd00::9") / UDP(dport=9),
    "other": Ether(type=0x88CC) / Raw(b"lldp"),
}


@pytest.mark.parametrize("name", PACKETS)
def test_every_byte_has_one_name(name: str) -> None:
    frame = bytes(PACKETS[name])
    at = 0
    for part in dissect(frame).fields:
        if part.name == "dns.soa.serial_number":  # lies within the message
            continue
        assert part.start == at, part
        at = part.end
    assert at == len(frame)


def test_soa_serial_is_found_behind_compressed_names() -> None:
    found = dissect(bytes(PACKETS["dns soa"]))
    serial = found.first("dns.soa.serial_number")
    assert serial is not None
    assert found.value(serial) == 9


@pytest.mark.parametrize(
    ("name", "part", "path"),
    [
        ("tcp", "tcp.srcport", ""),
        ("tcp", "ip.id", ""),
        ("tcp with data", "tcp.options.sack_re", ""),
        ("udp", "udp.srcport", ""),
        ("dns", "dns.id", ""),
        ("echo", "icmp.ident", ""),
        ("quoted", "tcp.seq", "icmp"),
        ("quoted", "ip.id", "icmp"),
        ("vxlan", "tcp.srcport", "vxlan"),
        ("vxlan", "udp.srcport", ""),
        ("ipv6", "tcp.seq", ""),
        ("ipv6 echo", "icmpv6.echo.identifier", ""),
    ],
)
@given(data=st.data())
def test_writing_a_field_mends_every_checksum(name: str, part: str, path: str, data: st.DataObject) -> None:
    """What Scapy would have computed for the new value, also through quotes and tunnels."""
    found = dissect(bytes(PACKETS[name]))
    target = next(found.named(part, path))
    width = target.end - target.start
    # A sum of 0 can be written as 0xffff too; values above 0 keep clear of that corner.
    new = data.draw(st.binary(min_size=width, max_size=width).filter(any))
    writer = FieldWriter(found)
    writer.write(target.start, new)
    frame = bytes(writer.data)
    assert frame[target.start : target.end] == new
    assert _without_checksums_rebuilt(frame) == frame


def _without_checksums_rebuilt(frame: bytes) -> bytes:
    packet: Packet | None = Ether(frame)
    whole = packet
    while packet:
        for name in ("chksum", "cksum"):
            if name in packet.fields:
                delattr(packet, name)
        packet = packet.payload
    assert whole is not None
    return bytes(whole)


def test_a_checksum_left_to_the_device_does_not_follow_the_data() -> None:
    packet = PACKETS["udp"].copy()
    pseudo = 0x0A00 + 0x0001 + 0x0A00 + 0x0002 + 17 + 13
    packet[UDP].chksum = pseudo
    writer = FieldWriter(dissect(bytes(packet)))
    port = next(dissect(bytes(packet)).named("udp.srcport"))
    writer.write(port.start, b"\x12\x34")
    assert not writer.mended


@given(st.binary(max_size=120), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00"]))
def test_any_bytes_can_be_named(data: bytes, ethertype: bytes) -> None:
    frame = bytes(12) + ethertype + data
    found = dissect(frame)
    assert all(0 <= part.start <= part.end <= len(frame) for part in found.fields)


def test_ports_are_found_behind_an_authentication_header() -> None:
    found = dissect(bytes(PACKETS["ipv6 authenticated"]))
    port = found.first("udp.dstport")
    assert port is not None
    assert found.value(port) == 53
