"""Addresses: what is read, what is refused, and how they print."""

from __future__ import annotations

import pytest

from pktsim.errors import FrameError
from pktsim.wire import addr
from pktsim.wire.addr import cidr_from_text, cidr_to_text, in_prefix, ip_from_text, ip_to_text, mac_from_text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.1",
        "010.0.0.1",
        "10.0.0.256",
        "10.0.0.1/24",
        "1:2",
        "fe80::1%eth0",
        "::g",
        "10.0.0.1 ",
        "web",
        "10.0.0.1\0",
    ],
)
def test_what_is_no_ip_address_is_refused(text: str) -> None:
    with pytest.raises(FrameError, match="is not an IP address"):
        ip_from_text(text)


@pytest.mark.parametrize(
    "text", ["", "02:00:00:00:00", "02:00:00:00:00:0g", "02-00-00-00-00-01", "2:0:0:0:0:001", ":::::"]
)
def test_what_is_no_mac_address_is_refused(text: str) -> None:
    with pytest.raises(FrameError, match="is not a MAC address"):
        mac_from_text(text)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("fd00:0:0:0:0:0:0:1", "fd00::1"),
        ("fd00:0:1:0:0:1:0:1", "fd00:0:1::1:0:1"),
        ("fd00:1:2:3:4:5:0:7", "fd00:1:2:3:4:5:0:7"),  # one zero group is not shortened (RFC 5952 section 4.2.2)
        ("FD00::ABCD", "fd00::abcd"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_ip_prints_as_the_system_prints_it(address: str, text: str) -> None:
    assert ip_to_text(ip_from_text(address)) == text


def test_bytes_of_no_family_are_refused() -> None:
    with pytest.raises(FrameError, match="4 or 16 bytes, not 5"):
        ip_to_text(b"12345")
    with pytest.raises(FrameError, match="6 bytes, not 4"):
        addr.mac_to_text(b"1234")


def test_cidr_keeps_host_bits() -> None:
    address, length = cidr_from_text("10.1.2.3/24")
    assert (address, length) == (b"\x0a\x01\x02\x03", 24)
    assert cidr_to_text(address, length) == "10.1.2.3/24"
    assert cidr_from_text("fd00::1") == (ip_from_text("fd00::1"), 128)


@pytest.mark.parametrize(
    "text", ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "fd00::/129", "10.0.0.0/٣"]
)
def test_bad_prefix_length_is_refused(text: str) -> None:
    with pytest.raises(FrameError, match="is not a prefix length"):
        cidr_from_text(text)


def test_in_prefix_is_false_for_another_family() -> None:
    assert in_prefix(ip_from_text("10.1.2.3"), ip_from_text("10.1.0.0"), 16)
    assert not in_prefix(ip_from_text("10.2.2.3"), ip_from_text("10.1.0.0"), 16)
    assert in_prefix(ip_from_text("10.2.2.3"), ip_from_text("0.0.0.0"), 0)
    assert not in_prefix(ip_from_text("::1"), ip_from_text("0.0.0.0"), 0)


def test_kinds_of_addresses() -> None:
    assert addr.is_multicast(ip_from_text("224.0.0.1"))
    assert not addr.is_multicast(ip_from_text("240.0.0.1"))
    assert addr.is_multicast(ip_from_text("ff02::1"))
    assert addr.is_loopback(ip_from_text("127.9.9.9"))
    assert addr.is_loopback(ip_from_text("::1"))
    assert not addr.is_loopback(ip_from_text("::2"))
    assert addr.is_link_local(ip_from_text("169.254.1.1"))
    assert addr.is_link_local(ip_from_text("febf::1"))
    assert not addr.is_link_local(ip_from_text("fec0::1"))


def test_derived_link_layer_addresses() -> None:
    # From RFC 1112 section 6.4, RFC 2464 section 7 and RFC 4291 section 2.7.1 and appendix A.
    assert addr.mac_to_text(addr.multicast_mac(ip_from_text("239.129.2.3"))) == "01:00:5e:01:02:03"
    assert addr.mac_to_text(addr.multicast_mac(ip_from_text("ff02::1:ff0e:8c6c"))) == "33:33:ff:0e:8c:6c"
    assert ip_to_text(addr.solicited_node(ip_from_text("4037::1:800:200e:8c6c"))) == "ff02::1:ff0e:8c6c"
    assert ip_to_text(addr.link_local_from_mac(mac_from_text("34:56:78:9a:bc:de"))) == "fe80::3656:78ff:fe9a:bcde"
    with pytest.raises(FrameError, match="not a multicast address"):
        addr.multicast_mac(ip_from_text("10.0.0.1"))
