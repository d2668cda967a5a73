"""What holds for every packet, address and capture on the wire layer."""

from __future__ import annotations

import io
import ipaddress
import struct
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pktsim.errors import CaptureError, PktsimError
from pktsim.wire import pcapng
from pktsim.wire.addr import ip_from_text, ip_to_text, mac_from_text, mac_to_text, network_of
from pktsim.wire.capture import Capture, CapturedFrame, CaptureInterface
from pktsim.wire.checksum import checksum, checksum_adjust, partial_sum, transport_checksum, udp_checksum_adjust
from pktsim.wire.frame import (
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    FrameView,
    ethernet,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from pktsim.wire.pcap import write_pcap
from pktsim.wire.pcapng import write_pcapng, write_to
from pktsim.wire.scapy_io import dissect, packet_bytes, read_capture
from pktsim.wire.summary import summary
from tests.property import frame_strategies as our


def words_of(data: bytes) -> list[int]:
    padded = data + bytes(len(data) % 2)
    return [word for (word,) in struct.iter_unpack("!H", padded)]


def checksum_by_the_book(data: bytes) -> int:
    """RFC 1071 section 1, word by word."""
    total = 0
    for word in words_of(data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ total


#: Mostly the words where one's complement arithmetic is treacherous.
tricky = st.lists(st.sampled_from((0, 0xFFFF, 1, 0xFFFE, 0x8000)) | our.u16, min_size=1, max_size=8).map(
    lambda words: struct.pack(f"!{len(words)}H", *words)
)


@given(our.payloads | tricky)
def test_checksum_is_rfc_1071s(data: bytes) -> None:
    assert checksum(data) == checksum_by_the_book(data)


@given(our.payloads | tricky, our.payloads)
def test_a_sum_can_be_taken_in_parts(first: bytes, second: bytes) -> None:
    if len(first) % 2 == 0:
        assert checksum(second, partial_sum(first)) == checksum(first + second)


@given(tricky, tricky, tricky, st.data())
def test_incremental_checksum_equals_full(before: bytes, old: bytes, after: bytes, data: st.DataObject) -> None:
    new = data.draw(st.binary(min_size=len(old), max_size=len(old)) | st.just(bytes(len(old))) | st.just(old))
    rest = b"\x45\x00" + before, after  # something is never zero: version, protocol or length
    assert checksum_adjust(checksum(rest[0] + old + rest[1]), old, new) == checksum(rest[0] + new + rest[1])


@given(our.ipv4_addresses, our.ipv4_addresses, our.u16, our.u16, tricky, st.data())
def test_udp_incremental_checksum_equals_full(
    saddr: bytes, daddr: bytes, sport: int, dport: int, payload: bytes, data: st.DataObject
) -> None:
    new_daddr = data.draw(our.ipv4_addresses)
    new_dport = data.draw(our.u16)
    # A payload word that makes the sum 0 is what the zero rule is about.
    if data.draw(st.booleans()):
        gap = int.from_bytes(udp(saddr, daddr, sport, dport, payload + b"\0\0")[6:8], "big")
        payload += gap.to_bytes(2, "big")
    before = udp(saddr, daddr, sport, dport, payload)
    after = udp(saddr, new_daddr, sport, new_dport, payload)
    value = udp_checksum_adjust(int.from_bytes(before[6:8], "big"), daddr, new_daddr)
    value = udp_checksum_adjust(value, dport.to_bytes(2, "big"), new_dport.to_bytes(2, "big"))
    assert value == int.from_bytes(after[6:8], "big")
    assert value != 0


def test_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    saddr, daddr = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
    gap = udp(saddr, daddr, 1, 2, b"\0\0")[6:8]
    segment = bytearray(udp(saddr, daddr, 1, 2, gap))
    assert segment[6:8] == b"\xff\xff"
    segment[6:8] = b"\0\0"
    assert transport_checksum(saddr, daddr, IPPROTO_TCP, segment[:]) != 0xFFFF  # the rule is UDP's alone
    assert udp_checksum_adjust(0, b"\x12\x34", b"\x56\x78") == 0


@given(our.macs, our.macs, our.ipv4_packets() | our.ipv6_packets())
def test_a_built_frame_has_no_bad_checksum(dst: bytes, src: bytes, packet: bytes) -> None:
    view = FrameView(ethernet(dst, src, ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6, packet))
    assert view.bad_checksums() == ()
    assert (view.dst_mac, view.src_mac, view.data) == (dst, src, packet)


@given(our.frames(), st.data())
def test_a_damaged_frame_has_a_bad_checksum(frame: bytes, data: st.DataObject) -> None:
    view = FrameView(frame)
    if view.version == 4:
        at = view.network + data.draw(st.sampled_from((4, 5, 8, 10, 12, 19)))
        damaged = bytearray(frame)
        damaged[at] ^= data.draw(st.integers(1, 255))
        assert "ip" in FrameView(bytes(damaged)).bad_checksums()
    elif view.protocol in (IPPROTO_TCP, IPPROTO_ICMPV6):
        damaged = bytearray(frame)
        damaged[view.transport + 3] ^= data.draw(st.integers(1, 255))
        assert FrameView(bytes(damaged)).bad_checksums()


@given(our.frames())
def test_a_frame_can_be_taken_apart_and_built_again(frame: bytes) -> None:
    view = FrameView(frame)
    addresses = view.saddr, view.daddr
    raw = frame[view.transport : view.end]
    segment = raw
    if view.protocol == IPPROTO_TCP:
        segment = tcp(
            *(*addresses, view.sport, view.dport, view.payload),
            seq=view.tcp_seq,
            ack=view.tcp_ack,
            flags=view.tcp_flags,
            window=view.tcp_window,
            urgent=int.from_bytes(raw[18:20], "big"),
            options=view.tcp_options,
        )
    elif view.protocol == IPPROTO_UDP:
        segment = udp(*addresses, view.sport, view.dport, view.payload, with_checksum=raw[6:8] != b"\0\0")
    elif view.protocol == IPPROTO_ICMP:
        segment = icmp(view.icmp_type, view.icmp_code, view.icmp_rest, view.payload)
    elif view.protocol == IPPROTO_ICMPV6:
        segment = icmpv6(*addresses, view.icmp_type, view.icmp_code, view.icmp_rest, view.payload)
    if view.version == 4:
        packet = ipv4(
            *(*addresses, view.protocol, segment),
            ttl=view.ttl,
            tos=view.tos,
            identification=view.identification,
            dont_fragment=view.dont_fragment,
            options=frame[view.network + 20 : view.transport],
        )
    else:
        extension = frame[view.network + 40 : view.transport]
        packet = ipv6(
            *(*addresses, 60 if extension else view.protocol, extension + segment),
            hop_limit=view.ttl,
            traffic_class=view.tos,
            flow_label=int.from_bytes(frame[view.network + 1 : view.network + 4], "big") & 0xFFFFF,
        )
    assert ethernet(view.dst_mac, view.src_mac, view.ethertype, packet) == frame


@given(our.ipv4_packets())
def test_scapy_builds_the_same_bytes(packet: bytes) -> None:
    """Scapy, told to compute lengths and checksums anew, agrees with the builders."""
    view = FrameView(packet, link=False)
    # Scapy writes TCP options with a padding of its own, and a switched-off UDP checksum not at all.
    assume(view.protocol != IPPROTO_TCP or not view.tcp_options)
    assume(view.protocol != IPPROTO_UDP or packet[view.transport + 6 : view.transport + 8] != b"\0\0")
    crafted = dissect(packet, link=False)
    layer = crafted
    while type(layer).__name__ != "NoPayload":
        for computed in ("chksum", "len", "ihl", "dataofs"):
            layer.fields.pop(computed, None)
        layer = layer.payload
    assert packet_bytes(crafted) == packet


@given(our.mutated(our.frames()) | st.binary(max_size=120), st.booleans())
def test_no_frame_is_too_broken_to_look_at(frame: bytes, link: bool) -> None:
    view = FrameView(frame, link=link)
    view.bad_checksums()
    assert view.end <= len(frame)
    assert -1 <= view.transport <= len(frame)
    for name in dir(view):
        if not name.startswith("_"):
            try:
                getattr(view, name)
            except PktsimError:
                continue
    assert summary(frame, link=link)


@given(our.ipv4_addresses | our.ipv6_addresses)
def test_an_address_survives_its_text(address: bytes) -> None:
    assert ip_from_text(ip_to_text(address)) == address
    assert ipaddress.ip_address(ip_to_text(address)).packed == address


@given(our.macs)
def test_a_mac_survives_its_text(mac: bytes) -> None:
    assert mac_from_text(mac_to_text(mac)) == mac
    assert mac_from_text(mac_to_text(mac).upper()) == mac


@given(our.ipv4_addresses | our.ipv6_addresses, st.data())
def test_network_of_is_ipaddress_network(address: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(address) * 8))
    network = ipaddress.ip_network((address, length), strict=False)
    assert network_of(address, length) == network.network_address.packed


def by_name(capture: Capture) -> list[tuple[str, CapturedFrame]]:
    """Frames with the name of their interface, for a reader that only knows interfaces that have frames."""
    return [
        (capture.interfaces[frame.interface].name, CapturedFrame(0, *(getattr(frame, name) for name in _FIELDS)))
        for frame in capture.frames
    ]


_FIELDS = ("at_ns", "frame", "direction", "comments", "length")


@given(capture=our.captures())
def test_pcapng_is_read_back_as_written(tmp_path_factory: pytest.TempPathFactory, capture: Capture) -> None:
    path = tmp_path_factory.mktemp("capture") / "some.pcapng"
    write_pcapng(path, capture)
    assert by_name(read_capture(path)) == by_name(capture)


@given(capture=our.captures())
def test_pcapng_has_the_same_bytes_each_time(capture: Capture) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    write_to(first, capture)
    write_to(second, capture)
    assert first.getvalue() == second.getvalue()


@given(capture=our.captures(), data=st.data())
def test_pcapng_cut_between_blocks_is_valid_and_cut_within_one_is_refused(
    tmp_path_factory: pytest.TempPathFactory, capture: Capture, data: st.DataObject
) -> None:
    stream = io.BytesIO()
    write_to(stream, capture)
    whole = stream.getvalue()
    ends = [0]
    while ends[-1] < len(whole):
        ends.append(ends[-1] + struct.unpack_from("<I", whole, ends[-1] + 4)[0])
    path = tmp_path_factory.mktemp("capture") / "cut.pcapng"
    end = data.draw(st.sampled_from(ends[1:]))
    path.write_bytes(whole[:end])
    kept = sum(struct.unpack_from("<I", whole, at)[0] == pcapng.ENHANCED_PACKET for at in ends if at < end)
    assert by_name(read_capture(path)) == by_name(capture)[:kept]
    within = data.draw(st.integers(1, len(whole) - 1))
    if within not in ends:
        path.write_bytes(whole[:within])
        with pytest.raises(CaptureError):
            read_capture(path)


@given(st.lists(st.tuples(st.integers(0, (1 << 32) * 10**9 - 1), st.binary(max_size=60)), max_size=6), st.data())
def test_pcap_is_read_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("capture") / "one.pcap"
    frames = [CapturedFrame(0, at_ns, frame) for at_ns, frame in records]
    write_pcap(path, frames)
    assert read_capture(path) == Capture([CaptureInterface("one")], frames)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    ends = [24]
    for _, frame in records:
        ends.append(ends[-1] + 16 + len(frame))
    if cut in ends:
        assert read_capture(path).frames == frames[: ends.index(cut)]
    else:
        with pytest.raises(CaptureError):
            read_capture(path)


def test_path_is_not_touched_by_a_writer_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "kept.pcap"
    path.write_bytes(b"old")
    with pytest.raises(CaptureError, match="no room for the time"):
        write_pcap(path, [CapturedFrame(0, 1 << 64, b"")])
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.pcap"]
