"""Builders refuse what does not fit; the view knows every header and says so when there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pktsim.errors import FrameError
from pktsim.wire import frame
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.checksum import checksum_adjust
from pktsim.wire.frame import FrameView, TcpFlag, TcpOption, iter_tcp_options, tcp_options

A, B = ip_from_text("10.1.1.2"), ip_from_text("172.30.0.1")
A6, B6 = ip_from_text("fd00:1::2"), ip_from_text("fd00:2::2")
MAC_A, MAC_B = mac_from_text("02:00:00:00:00:0a"), mac_from_text("02:00:00:00:00:0b")


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: frame.ethernet(b"12345", MAC_A, 0x800), "eth.dst"),
        (lambda: frame.ethernet(MAC_B, MAC_A, 0x10000), "eth.type"),
        (lambda: frame.arp(1, MAC_A, A6, MAC_B, B), "arp.src.proto_ipv4"),
        (lambda: frame.ipv4(A6, B, 6), "ip.src"),
        (lambda: frame.ipv4(A, B, 256), "ip.proto"),
        (lambda: frame.ipv4(A, B, 6, bytes(65516)), "ip.len"),
        (lambda: frame.ipv4(A, B, 6, ttl=-1), "ip.ttl"),
        (lambda: frame.ipv4(A, B, 6, fragment_offset=7), "ip.frag_offset"),
        (lambda: frame.ipv4(A, B, 6, fragment_offset=65536), "ip.frag_offset"),
        (lambda: frame.ipv4(A, B, 6, options=b"\x01"), "ip.options"),
        (lambda: frame.ipv6(A, B6, 6), "ipv6.src"),
        (lambda: frame.ipv6(A6, B6, 6, flow_label=1 << 20), "ipv6.flow"),
        (lambda: frame.ipv6(A6, B6, 6, bytes(65536)), "ipv6.plen"),
        (lambda: frame.ipv6_fragment(17, b"", identification=0, offset=4, more=False), "ipv6.fraghdr.offset"),
        (lambda: frame.udp(A, B, 65536, 1), "udp.srcport"),
        (lambda: frame.udp(A, B, 1, 1, bytes(65528)), "udp.length"),
        (lambda: frame.tcp(A, B, 1, 1, seq=1 << 32, flags=0), "tcp.seq"),
        (lambda: frame.tcp(A, B, 1, 1, seq=0, flags=0x200), "tcp.flags"),
        (lambda: frame.tcp(A, B, 1, 1, seq=0, flags=0, options=b"\x01"), "tcp.options"),
        (lambda: frame.icmp(256), "icmp.type"),
        (lambda: frame.vxlan(1 << 24, b""), "vxlan.vni"),
        (lambda: tcp_options(window_scale=15), "tcp.options.wscale"),
        (lambda: tcp_options(sack_blocks=((0, 1),) * 5), "tcp.options"),
    ],
)
def test_what_does_not_fit_is_refused(build: Callable[[], bytes], field: str) -> None:
    with pytest.raises(FrameError) as caught:
        build()
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_syn_options_are_in_linuxs_order() -> None:
    options = tcp_options(mss=1460, sack_permitted=True, timestamps=(1, 0), window_scale=10)
    assert [kind for kind, _ in iter_tcp_options(options)] == [
        *(TcpOption.MSS, TcpOption.SACK_PERM, TcpOption.TIMESTAMP, TcpOption.NOP, TcpOption.WINDOW)
    ]
    assert len(options) == 20
    without = tcp_options(mss=1460, sack_permitted=True, window_scale=10)
    assert without.hex() == "020405b401010402" + "0103030a"


def test_tcp_fields() -> None:
    segment = frame.tcp(A, B, 40000, 80, b"hi", seq=7, ack=8, flags=TcpFlag.PSH | TcpFlag.ACK, window=9)
    view = FrameView(frame.ethernet(MAC_B, MAC_A, frame.ETH_P_IP, frame.ipv4(A, B, 6, segment, ttl=63)))
    assert (view.saddr, view.daddr, view.sport, view.dport, view.ttl) == (A, B, 40000, 80, 63)
    assert (view.tcp_seq, view.tcp_ack, view.tcp_flags, view.tcp_window) == (7, 8, TcpFlag.PSH | TcpFlag.ACK, 9)
    assert (view.payload, view.has_ports, view.is_fragment, view.quoted, view.inner) == (b"hi", True, False, None, None)


def test_ethernet_padding_is_not_payload() -> None:
    packet = frame.ipv4(A, B, 17, frame.udp(A, B, 1, 2, b"x"))
    view = FrameView(frame.ethernet(MAC_B, MAC_A, frame.ETH_P_IP, packet + bytes(17)))
    assert view.payload == b"x"
    assert view.data == packet
    assert view.bad_checksums() == ()


def test_vlan_tags_are_stepped_over() -> None:
    packet = frame.ipv4(A, B, 17, frame.udp(A, B, 1, 2, b"x"))
    tagged = b"\x00\x05\x81\x00\x00\x06\x08\x00" + packet
    view = FrameView(frame.ethernet(MAC_B, MAC_A, frame.ETH_P_8021AD, tagged))
    assert (view.ethertype, view.network, view.dport) == (frame.ETH_P_IP, 22, 2)


def test_a_later_fragment_has_no_ports() -> None:
    view = FrameView(frame.ipv4(A, B, 17, b"x" * 16, fragment_offset=1480, identification=7), link=False)
    assert (view.is_fragment, view.fragment_offset, view.more_fragments, view.identification) == (True, 1480, False, 7)
    assert not view.has_ports
    with pytest.raises(FrameError, match="no such transport header"):
        _ = view.sport


def test_ipv6_fragments() -> None:
    whole = frame.udp(A6, B6, 1, 2, b"x" * 40)
    first = frame.ipv6_fragment(17, whole[:24], identification=9, offset=0, more=True)
    later = frame.ipv6_fragment(17, whole[24:], identification=9, offset=24, more=False)
    view = FrameView(frame.ipv6(A6, B6, 44, first), link=False)
    assert (view.protocol, view.dport, view.more_fragments, view.identification) == (17, 2, True, 9)
    view = FrameView(frame.ipv6(A6, B6, 44, later), link=False)
    assert (view.transport, view.fragment_offset, view.is_fragment) == (-1, 24, True)


def test_quoted_packet_of_an_icmp_error() -> None:
    inner = frame.ipv4(A, B, 17, frame.udp(A, B, 53, 5353, b"x" * 90))
    view = FrameView(frame.ipv4(B, A, 1, frame.icmp(3, 3, 0, inner[:28])), link=False)
    assert view.quoted is not None
    assert (view.quoted.saddr, view.quoted.dport) == (A, 5353)
    echo = FrameView(frame.ipv4(B, A, 1, frame.icmp(8, 0, 1, inner)), link=False)
    assert echo.quoted is None


def test_inner_frame_of_vxlan() -> None:
    inside = frame.ethernet(MAC_B, MAC_A, frame.ETH_P_IP, frame.ipv4(A, B, 1, frame.icmp(8)))
    outer = frame.ipv4(A, B, 17, frame.udp(A, B, 9, 8472, frame.vxlan(7, inside)))
    view = FrameView(outer, link=False)
    assert view.inner is not None
    assert view.inner.frame == inside
    broken = bytearray(outer)
    broken[20 + 8 + 8 + 14 + 10] ^= 1  # in the inner IP header's checksum
    broken[26:28] = b"\0\0"
    assert FrameView(bytes(broken), link=False).bad_checksums() == ("ip",)


def test_no_checksum_is_right_for_udp_in_ipv4_only() -> None:
    off = frame.udp(A, B, 1, 2, b"x", with_checksum=False)
    assert FrameView(frame.ipv4(A, B, 17, off), link=False).bad_checksums() == ()
    off = frame.udp(A6, B6, 1, 2, b"x", with_checksum=False)
    assert FrameView(frame.ipv6(A6, B6, 17, off), link=False).bad_checksums() == ("udp",)


def test_what_is_not_there_is_said_to_be_missing() -> None:
    arp = FrameView(frame.ethernet(MAC_B, MAC_A, frame.ETH_P_ARP, frame.arp(1, MAC_A, A, MAC_B, B)))
    for name in ("saddr", "ttl", "dport", "payload", "tcp_seq", "icmp_type"):
        with pytest.raises(FrameError, match="the frame has no"):
            getattr(arp, name)
    with pytest.raises(FrameError, match="no Ethernet header"):
        _ = FrameView(frame.ipv4(A, B, 1, b""), link=False).dst_mac


def test_words_cannot_move_under_a_checksum() -> None:
    with pytest.raises(FrameError, match="cannot replace 1 bytes"):
        checksum_adjust(0, b"1", b"2")
    with pytest.raises(FrameError, match="cannot replace 2 bytes under a checksum by 4"):
        checksum_adjust(0, b"12", b"1234")
