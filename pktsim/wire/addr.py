"""Addresses: text at the edges, network-order bytes everywhere else.

Text is read strictly (what inet_pton(3) takes and nothing more) and printed as the system's own tools print it.
"""

from __future__ import annotations

import socket

from pktsim.errors import FrameError

ETH_ALEN = 6
IPV4_LEN = 4
IPV6_LEN = 16

MAC_BROADCAST = b"\xff" * ETH_ALEN
MAC_ZERO = bytes(ETH_ALEN)
IPV4_ANY = bytes(IPV4_LEN)
IPV6_ANY = bytes(IPV6_LEN)
IPV4_BROADCAST = b"\xff" * IPV4_LEN

_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def mac_from_text(text: str) -> bytes:
    """Read ``02:00:00:00:00:01``, six groups of one or two hexadecimal digits.

    Raises:
        FrameError: It is not that.
    """
    groups = text.split(":")
    if len(groups) != ETH_ALEN or not all(0 < len(group) <= 2 and _HEX_DIGITS.issuperset(group) for group in groups):
        raise FrameError(f"{text!r} is not a MAC address", mend="write six groups of hex digits: 02:00:00:00:00:01")
    return bytes(int(group, 16) for group in groups)


def mac_to_text(mac: bytes) -> str:
    """Print six bytes as ``02:00:00:00:00:01``.

    Raises:
        FrameError: There are not six of them.
    """
    if len(mac) != ETH_ALEN:
        raise FrameError(f"a MAC address has 6 bytes, not {len(mac)}")
    return mac.hex(":")


def ip_from_text(text: str) -> bytes:
    """Read an IPv4 address (4 bytes) or an IPv6 address (16 bytes), without prefix length or zone.

    Raises:
        FrameError: It is neither; also for the short and octal forms of inet_aton(3), which mean different hosts to
            different programs.
    """
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):  # ValueError: a NUL in the text
        raise FrameError(f"{text!r} is not an IP address", mend="write 10.0.0.1 or fd00::1") from None


def ip_to_text(address: bytes) -> str:
    """Print 4 or 16 bytes as inet_ntop(3) does: for IPv6 the form of RFC 5952.

    Raises:
        FrameError: There are neither 4 nor 16 of them.
    """
    if len(address) == IPV4_LEN:
        return socket.inet_ntop(socket.AF_INET, address)
    if len(address) == IPV6_LEN:
        return socket.inet_ntop(socket.AF_INET6, address)
    raise FrameError(f"an IP address has 4 or 16 bytes, not {len(address)}")


def cidr_from_text(text: str) -> tuple[bytes, int]:
    """Read ``10.1.2.3/24``: the address as written (host bits stay) and the prefix length; without ``/`` all bits.

    Raises:
        FrameError: The address or the length is wrong.
    """
    host, slash, length_text = text.partition("/")
    address = ip_from_text(host)
    bits = len(address) * 8
    if not slash:
        return address, bits
    if not (length_text.isascii() and length_text.isdigit()) or int(length_text) > bits:
        raise FrameError(f"{length_text!r} in {text!r} is not a prefix length", mend=f"write a number from 0 to {bits}")
    return address, int(length_text)


def cidr_to_text(address: bytes, prefix_length: int) -> str:
    """Print ``10.1.2.3/24``."""
    return f"{ip_to_text(address)}/{prefix_length}"


def prefix_mask(prefix_length: int, address_length: int) -> bytes:
    """The netmask of ``prefix_length`` bits for addresses of ``address_length`` bytes."""
    bits = address_length * 8
    if not 0 <= prefix_length <= bits:
        raise FrameError(f"prefix length {prefix_length} is not between 0 and {bits}")
    return (((1 << prefix_length) - 1) << (bits - prefix_length)).to_bytes(address_length, "big")


def in_prefix(address: bytes, prefix: bytes, prefix_length: int) -> bool:
    """Whether ``address`` lies in ``prefix/prefix_length``; never for another family."""
    if len(address) != len(prefix):
        return False
    shift = len(address) * 8 - prefix_length
    return int.from_bytes(address, "big") >> shift == int.from_bytes(prefix, "big") >> shift


def network_of(address: bytes, prefix_length: int) -> bytes:
    """``address`` with all bits beyond the prefix zero."""
    mask = int.from_bytes(prefix_mask(prefix_length, len(address)), "big")
    return (int.from_bytes(address, "big") & mask).to_bytes(len(address), "big")


def is_multicast(address: bytes) -> bool:
    """224.0.0.0/4 or ff00::/8."""
    return address[0] == 0xFF if len(address) == IPV6_LEN else address[0] & 0xF0 == 0xE0


def is_link_local(address: bytes) -> bool:
    """169.254.0.0/16 or fe80::/10."""
    if len(address) == IPV6_LEN:
        return address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return address[:2] == b"\xa9\xfe"


def is_loopback(address: bytes) -> bool:
    """127.0.0.0/8 or ::1."""
    return address == bytes(15) + b"\x01" if len(address) == IPV6_LEN else address[0] == 127


def multicast_mac(group: bytes) -> bytes:
    """The Ethernet group address of a multicast IP address (RFC 1112 section 6.4, RFC 2464 section 7)."""
    if not is_multicast(group):
        raise FrameError(f"{ip_to_text(group)} is not a multicast address")
    if len(group) == IPV6_LEN:
        return b"\x33\x33" + group[12:]
    return bytes((0x01, 0x00, 0x5E, group[1] & 0x7F, group[2], group[3]))


def solicited_node(address: bytes) -> bytes:
    """The multicast group a neighbour solicitation for ``address`` goes to (RFC 4291 section 2.7.1)."""
    return b"\xff\x02" + bytes(9) + b"\x01\xff" + address[13:]


def link_local_from_mac(mac: bytes) -> bytes:
    """The link-local address with a modified EUI-64 interface identifier (RFC 4291 appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 0x02,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
