"""The border to Scapy: nothing of this machine gets into a packet, and no damaged file is read as a shorter one."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.volatile import RandShort

from pktsim.errors import CaptureError, FrameError
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.capture import Capture, CapturedFrame, CaptureInterface, LinkType
from pktsim.wire.frame import FrameView, ipv4, udp
from pktsim.wire.pcap import PcapWriter, write_pcap
from pktsim.wire.scapy_io import dissect, frame_bytes, is_scapy, packet_bytes, read_capture, show

A, B = ip_from_text("10.1.1.2"), ip_from_text("172.30.0.1")
A6 = ip_from_text("fd00::2")
MAC_A, MAC_B = mac_from_text("02:00:00:00:00:0a"), mac_from_text("02:00:00:00:00:0b")


def test_the_sender_is_filled_in_and_the_packet_left_alone() -> None:
    packet = IP(dst="172.30.0.1") / TCP(sport=4000, dport=80, flags="S")
    view = FrameView(packet_bytes(packet, saddr=A), link=False)
    assert (view.saddr, view.daddr, view.sport, view.dport) == (A, B, 4000, 80)
    assert view.bad_checksums() == ()
    assert "src" not in packet.fields


def test_a_sender_that_is_named_stays() -> None:
    assert (
        FrameView(packet_bytes(IP(src="1.2.3.4", dst="172.30.0.1") / ICMP(), saddr=A), link=False).saddr == b"\1\2\3\4"
    )


def test_a_wrong_checksum_that_was_asked_for_stays() -> None:
    packet = packet_bytes(IP(src="1.2.3.4", dst="172.30.0.1") / UDP(sport=1, dport=2, chksum=0x1234) / Raw(b"x"))
    assert FrameView(packet, link=False).bad_checksums() == ("udp",)


def test_a_frame_gets_its_addresses() -> None:
    frame = frame_bytes(Ether() / IP(src="10.1.1.2", dst="172.30.0.1") / UDP(), src_mac=MAC_A, dst_mac=MAC_B)
    assert (FrameView(frame).src_mac, FrameView(frame).dst_mac) == (MAC_A, MAC_B)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: packet_bytes(TCP()), "TCP is no IP packet"),
        (lambda: packet_bytes(Ether() / IP()), "Ether is no IP packet"),
        (lambda: packet_bytes(IP(dst="10.0.0.1")), "IP.src is not set"),
        (lambda: packet_bytes(IP(dst="10.0.0.1"), saddr=A6), "cannot be the source of an IP packet"),
        (lambda: packet_bytes(IPv6(dst="fd00::1"), saddr=A), "cannot be the source of an IPv6 packet"),
        (lambda: packet_bytes(IP(dst="10.0.0.1") / IP(dst="10.0.0.2"), saddr=A), "IP.src is not set"),
        (lambda: packet_bytes(IP(dst="10.0.0.1") / ICMP(type=3) / IPerror(dst="1.2.3.4"), saddr=A), "src is not set"),
        (lambda: packet_bytes(IP(dst="10.0.0.0/30"), saddr=A), "is not one address"),
        (lambda: packet_bytes(IP(dst=["10.0.0.1", "10.0.0.2"]), saddr=A), "several packets"),
        (lambda: packet_bytes(IP(dst="10.0.0.1") / TCP(dport=(1, 5)), saddr=A), "several packets"),
        (lambda: packet_bytes(IP(dst="10.0.0.1") / TCP(sport=RandShort()), saddr=A), "TCP.sport is random"),
        (lambda: packet_bytes(IP(dst="10.0.0.1") / TCP(sport=70000), saddr=A), "cannot be built"),
        (
            lambda: frame_bytes(Ether(src="02:00:00:00:00:01") / IP(src="1.1.1.1", dst="2.2.2.2")),
            "Ether.dst is not set",
        ),
        (lambda: frame_bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ARP()), "ARP.hwsrc is not set"),
        (lambda: frame_bytes(IP()), "IP is no Ethernet frame"),
    ],
)
def test_what_would_depend_on_this_machine_is_refused(build: Callable[[], bytes], message: str) -> None:
    with pytest.raises(FrameError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_is_scapy_knows_packets() -> None:
    assert is_scapy(IP() / TCP())
    assert not is_scapy(b"bytes")


def test_dissect_and_show() -> None:
    packet = ipv4(A, B, 17, udp(A, B, 4000, 4789, b"\x08" + bytes(7) + bytes(14)))
    dissected: Any = dissect(packet, link=False)
    assert dissected[UDP].dport == 4789
    assert "VXLAN" in show(packet, link=False)


def test_a_capture_is_read_without_all_of_scapy(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    write_pcap(path, [CapturedFrame(0, 1, b"frame")])
    code = (
        "import sys; from pktsim.wire.scapy_io import read_capture; "
        f"print(len(read_capture({str(path)!r}).frames), 'scapy.all' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_microseconds_and_the_other_byte_order_are_read(tmp_path: Path) -> None:
    path = tmp_path / "big.pcap"
    head = struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    path.write_bytes(head + struct.pack(">IIII", 7, 8, 3, 60) + b"abc")
    assert read_capture(path) == Capture(
        [CaptureInterface("big", link_type=LinkType.RAW_IP)], [CapturedFrame(0, 7_000_008_000, b"abc", length=60)]
    )


PCAP_HEAD = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
DAMAGED = {
    "empty": (b"", "is empty"),
    "text": (b"hello, world", "neither a pcap nor a pcapng file"),
    "gzip": (b"\x1f\x8b\x08\x00", r"neither a pcap nor a pcapng file \(gunzip it first\)"),
    "head": (PCAP_HEAD[:10], "ends within its header, at byte 10 of 24"),
    "record": (PCAP_HEAD + bytes(15), "ends within the header of packet 1, at byte 39"),
    "frame": (
        PCAP_HEAD + struct.pack("<IIII", 0, 0, 9, 9) + b"12345678",
        "ends within packet 1, at byte 48 instead of 49",
    ),
    "absurd": (PCAP_HEAD + struct.pack("<IIII", 0, 0, 1 << 30, 9), "packet 1 at byte 24 claims 1073741824 bytes"),
    "link type": (PCAP_HEAD[:20] + struct.pack("<I", 113), "link type 113 is not Ethernet or raw IP"),
    "ng head": (b"\x0a\x0d\x0d\x0a\x1c\0\0\0", "ends within the head of block 1"),
    "ng order": (b"\x0a\x0d\x0d\x0a\x1c\0\0\0ABCD" + bytes(20), "section header without byte order"),
    "ng length": (b"\x0a\x0d\x0d\x0a\x09\0\0\0\x4d\x3c\x2b\x1a" + bytes(20), "block 1 at byte 0 claims 9 bytes"),
    "ng lengths": (
        b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a" + bytes(16),
        "block 1 at byte 0 has two different lengths",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, message = DAMAGED[name]
    path = tmp_path / "damaged.pcap"
    path.write_bytes(data)
    with pytest.raises(CaptureError, match=message) as caught:
        read_capture(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot be read: No such file or directory"):
        read_capture(tmp_path / "none.pcap")


def test_frames_written_so_far_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "so-far.pcap"
    with path.open("wb") as stream:
        writer = PcapWriter(stream)
        writer.write(1, b"one")
        stream.flush()
        assert len(read_capture(path).frames) == 1
