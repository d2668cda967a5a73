"""Capture files as Wireshark's own programs read them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from pktsim.errors import CaptureError
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.capture import Capture, CapturedFrame, CaptureInterface, Direction, LinkType
from pktsim.wire.frame import ETH_P_IP, IPPROTO_UDP, TcpFlag, ethernet, icmp, ipv4, ipv6, tcp, udp, vxlan
from pktsim.wire.pcap import write_pcap
from pktsim.wire.pcapng import PcapngWriter, write_pcapng, write_to
from pktsim.wire.scapy_io import read_capture
from tests import tools
from tests.tshark import check_capture

A, B = ip_from_text("10.1.1.2"), ip_from_text("172.30.0.1")
A6, B6 = ip_from_text("fd00:1::2"), ip_from_text("fd00:2::2")
MAC_A, MAC_B = mac_from_text("02:00:00:00:00:0a"), mac_from_text("02:00:00:00:00:0b")


def datagram(payload: bytes = b"hello") -> bytes:
    return ethernet(MAC_B, MAC_A, ETH_P_IP, ipv4(A, B, IPPROTO_UDP, udp(A, B, 40000, 8081, payload), identification=1))


def sample() -> Capture:
    """Three devices, one of them without link layer."""
    return Capture(
        [
            CaptureInterface("node-a/cni0", "bridge", mac=MAC_A),
            CaptureInterface("node-b/eth0"),
            CaptureInterface("node-b/tun0", link_type=LinkType.RAW_IP),
        ],
        [
            CapturedFrame(
                0, 0, datagram(), Direction.INBOUND, ("DNAT to 10.1.2.1:8080 by KUBE-SEP-X rule 2", "marked 0x4000")
            ),
            CapturedFrame(1, 1, datagram(b"wxyz"), Direction.OUTBOUND),
            CapturedFrame(2, 1_500_000_000_123_456_789, ipv6(A6, B6, IPPROTO_UDP, udp(A6, B6, 1000, 2000, b"x"))),
        ],
        {A: ("client.default", "pod-a"), B: ("web.default.svc.cluster.local",), B6: ("six.default",)},
        "what this shows",
    )


def test_tshark_shows_times_names_comments_and_directions(tmp_path: Path) -> None:
    tools.need("tshark")
    path = tmp_path / "some.pcapng"
    write_pcapng(path, sample())
    report = check_capture(path)
    assert report.packets == 3
    assert report.interfaces == {"node-a/cni0": 1, "node-b/eth0": 1, "node-b/tun0": 1}
    assert report.comments == ["DNAT to 10.1.2.1:8080 by KUBE-SEP-X rule 2", "marked 0x4000"]
    assert report.names == {"client.default", "web.default.svc.cluster.local", "six.default", "fd00:1::2"}
    fields = ("frame.time_epoch", "frame.interface_description", "frame.packet_flags_direction")
    words = [word for name in fields for word in ("-e", name)]
    lines = tools.run("tshark", "-r", str(path), "-T", "fields", *words).splitlines()
    assert lines == ["0.000000000\tbridge\t0x00000001", "0.000000001\t\t0x00000002", "1500000000.123456789\t\t"]


def test_capinfos_finds_the_statistics(tmp_path: Path) -> None:
    tools.need("capinfos")
    path = tmp_path / "some.pcapng"
    write_pcapng(path, sample(), application="pktsim 1.2.3")
    text = tools.run("capinfos", str(path))
    for line in (
        "Number of interfaces in file: 3",
        "Number of stat entries = 1",
        "Number of resolved IPv4 addresses in file: 3",
    ):
        assert line in text
    assert "pktsim 1.2.3" in text
    assert "what this shows" in text


def test_a_comment_longer_than_the_format_allows_is_cut_at_a_character(tmp_path: Path) -> None:
    tools.need("tshark")
    path = tmp_path / "long.pcapng"
    write_pcapng(path, Capture([CaptureInterface("a/b")], [CapturedFrame(0, 0, datagram(), comments=("é" * 40_000,))]))
    (shown,) = check_capture(path).comments  # tshark cuts it once more
    assert shown.startswith("ééé")
    (comment,) = read_capture(path).frames[0].comments
    assert comment == "é" * 32_764 + "…"


def test_interfaces_and_names_may_come_late(tmp_path: Path) -> None:
    tools.need("tshark")
    stream = io.BytesIO()
    writer = PcapngWriter(stream)
    first = writer.interface(CaptureInterface("node-a/eth0"))
    writer.write(first, 5, datagram())
    writer.names({A: ("late",)})
    second = writer.interface(CaptureInterface("node-a/eth1"))
    writer.write(second, 6, datagram(b"other"))
    path = tmp_path / "late.pcapng"
    path.write_bytes(stream.getvalue())  # without finish(): as after an interruption
    report = check_capture(path)
    assert report.interfaces == {"node-a/eth0": 1, "node-a/eth1": 1}
    assert "late" in report.names


def test_pcap_with_nanoseconds(tmp_path: Path) -> None:
    tools.need("tshark")
    path = tmp_path / "one.pcap"
    write_pcap(
        path, [CapturedFrame(0, 1_000_000_007, datagram()), CapturedFrame(0, 2_000_000_000, datagram(b"2"), length=900)]
    )
    assert check_capture(path, allow=("Packet size limited",)).packets == 2
    lines = tools.run(
        "tshark", "-r", str(path), "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len"
    ).splitlines()
    assert lines == ["1.000000007\t47", "2.000000000\t900"]


@pytest.mark.parametrize("at_ns", [-1, 1 << 64])
def test_a_time_that_does_not_fit_is_refused(at_ns: int) -> None:
    writer = PcapngWriter(io.BytesIO())
    writer.interface(CaptureInterface("a"))
    with pytest.raises(CaptureError, match="no room for the time"):
        writer.write(0, at_ns, b"")


def test_a_frame_on_no_interface_is_refused() -> None:
    with pytest.raises(CaptureError, match="frame on interface 0, of 0"):
        PcapngWriter(io.BytesIO()).write(0, 0, b"")


@pytest.mark.parametrize("names", [{b"12345": ("x",)}, {A: ("",)}, {A: ("a\0b",)}])
def test_a_name_that_cannot_be_written_is_refused(names: dict[bytes, tuple[str, ...]]) -> None:
    with pytest.raises(CaptureError, match="no name resolution record"):
        PcapngWriter(io.BytesIO()).names(names)


def test_a_file_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"none/x\.pcapng: cannot be written: No such file or directory"):
        write_pcapng(tmp_path / "none" / "x.pcapng", sample())


# --- the checker itself: what must not pass -------------------------------------------------------------------------


def broken(at: int) -> bytes:
    frame = bytearray(datagram())
    frame[at] ^= 0xFF
    return bytes(frame)


SYN = ipv4(A, B, 6, tcp(A, B, 4000, 80, seq=1, flags=TcpFlag.SYN, window=9), identification=2)
INNER_BROKEN = vxlan(1, broken(14 + 10))
MUST_FAIL = {
    "ip checksum": ([broken(14 + 10)], "bad ip checksum"),
    "udp checksum": ([broken(14 + 20 + 6)], "bad udp checksum"),
    "tcp checksum": ([ethernet(MAC_B, MAC_A, ETH_P_IP, SYN[:-4] + b"\0\0\0\1")], "bad tcp checksum"),
    "icmp checksum": (
        [ethernet(MAC_B, MAC_A, ETH_P_IP, ipv4(A, B, 1, icmp(0, 0, 1)[:-1] + b"\7"))],
        "bad icmp checksum",
    ),
    "inner checksum": (
        [ethernet(MAC_B, MAC_A, ETH_P_IP, ipv4(A, B, 17, udp(A, B, 9, 8472, INNER_BROKEN)))],
        "bad ip checksum",
    ),
    "malformed": ([ethernet(MAC_B, MAC_A, ETH_P_IP, ipv4(A, B, 17, udp(A, B, 9, 53, b"\0\1\1\0\0\1")))], "malformed"),
    "retransmission": ([ethernet(MAC_B, MAC_A, ETH_P_IP, SYN)] * 2, "retransmission"),
}


@pytest.mark.parametrize("name", MUST_FAIL)
def test_the_checker_finds(tmp_path: Path, name: str) -> None:
    tools.need("tshark")
    frames, complaint = MUST_FAIL[name]
    path = tmp_path / "bad.pcapng"
    captured = [CapturedFrame(0, number * 10**9, frame) for number, frame in enumerate(frames)]
    write_pcapng(path, Capture([CaptureInterface("node-a/eth0")], captured))
    with pytest.raises(AssertionError, match=complaint):
        check_capture(path)


def test_the_checker_allows_what_is_intended(tmp_path: Path) -> None:
    tools.need("tshark")
    path = tmp_path / "twice.pcapng"
    frame = ethernet(MAC_B, MAC_A, ETH_P_IP, SYN)
    write_pcapng(
        path, Capture([CaptureInterface("a/b")], [CapturedFrame(0, number * 10**9, frame) for number in range(2)])
    )
    assert check_capture(path, allow=("retransmission",)).experts


def test_the_checker_does_not_take_two_devices_for_a_retransmission(tmp_path: Path) -> None:
    tools.need("tshark")
    path = tmp_path / "two.pcapng"
    frame = ethernet(MAC_B, MAC_A, ETH_P_IP, SYN)
    interfaces = [CaptureInterface("a/b"), CaptureInterface("a/c")]
    write_pcapng(path, Capture(interfaces, [CapturedFrame(number, number * 10**9, frame) for number in range(2)]))
    assert check_capture(path).packets == 2


def test_secrets_stand_before_the_packets_that_they_decrypt() -> None:
    stream = io.BytesIO()
    key_log = b"CLIENT_RANDOM aa bb\n"
    capture = Capture([CaptureInterface("x")], [CapturedFrame(0, 1, bytes(60))], tls_secrets=key_log)
    write_to(stream, capture)
    data = stream.getvalue()
    kinds, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        kinds.append(kind)
        if kind == 10:
            assert struct.unpack_from("<II", data, at + 8) == (0x544C534B, len(key_log))
            assert data[at + 16 : at + 16 + len(key_log)] == key_log
            assert length % 4 == 0
        at += length
    assert kinds.index(10) < kinds.index(6)
