"""Reading what was recorded."""

from __future__ import annotations

import pytest

from pktsim.cluster.recording import with_finished_checksum
from pktsim.wire import frame as build
from pktsim.wire.checksum import pseudo_header_sum
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, FrameView, TcpFlag

LOCALHOST = bytes((127, 0, 0, 1))


@pytest.mark.parametrize(("protocol", "at"), [(6, 34 + 16), (17, 34 + 6)])
def test_a_checksum_that_the_kernel_left_to_a_device_is_finished(protocol: int, at: int) -> None:
    if protocol == 6:
        segment = build.tcp(LOCALHOST, LOCALHOST, 40022, 8080, b"hello", seq=1, flags=TcpFlag.ACK)
    else:
        segment = build.udp(LOCALHOST, LOCALHOST, 40022, 8081, b"hello")
    whole = build.ethernet(bytes(6), bytes(6), ETH_P_IP, build.ipv4(LOCALHOST, LOCALHOST, protocol, segment))
    partial = pseudo_header_sum(LOCALHOST, LOCALHOST, protocol, len(segment)).to_bytes(2, "big")
    unfinished = whole[:at] + partial + whole[at + 2 :]
    assert FrameView(unfinished).bad_checksums()
    assert with_finished_checksum(unfinished) == whole
    # one that is wrong in another way stays wrong, one that is right stays right
    wrong = whole[:at] + b"\x12\x34" + whole[at + 2 :]
    assert with_finished_checksum(wrong) == wrong
    assert with_finished_checksum(whole) == whole


def test_a_checksum_over_ipv6_is_finished_too() -> None:
    localhost = bytes(15) + b"\1"
    segment = build.udp(localhost, localhost, 40022, 8081, b"hello")
    whole = build.ethernet(bytes(6), bytes(6), ETH_P_IPV6, build.ipv6(localhost, localhost, 17, segment))
    partial = pseudo_header_sum(localhost, localhost, 17, len(segment)).to_bytes(2, "big")
    assert with_finished_checksum(whole[: 54 + 6] + partial + whole[54 + 8 :]) == whole
    assert with_finished_checksum(whole) == whole


def test_what_has_no_such_checksum_is_left_alone() -> None:
    for frame in (b"", bytes(14), bytes(60), build.arp(1, bytes(6), LOCALHOST, bytes(6), LOCALHOST)):
        assert with_finished_checksum(frame) == frame
