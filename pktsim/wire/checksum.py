"""The Internet checksum, whole (RFC 1071) and incremental (RFC 1624), for frames that Python makes.

The engine has its own; this is not on the path of a packet through a node.
"""

from __future__ import annotations

from pktsim.errors import FrameError

IPPROTO_UDP = 17


def _fold(total: int) -> int:
    """End-around carries until it fits 16 bits.

    One's complement addition is addition modulo 0xffff, with 0xffff in the place of 0 for every sum but that of zeros
    alone. So one division does it, however long the number is.
    """
    return (total - 1) % 0xFFFF + 1 if total else 0


def partial_sum(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """The folded one's complement sum of 16-bit words, not inverted; odd data is padded with a zero byte."""
    total = int.from_bytes(data, "big")
    if len(data) % 2:
        total <<= 8
    return _fold(total + initial)


def checksum(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """The checksum that goes into a header: RFC 1071's sum, inverted.

    Args:
        data: The covered bytes, with the checksum field zero. (With it filled in, a right checksum gives 0.)
        initial: A partial sum to start from, such as that of a pseudo header.
    """
    return 0xFFFF ^ partial_sum(data, initial)


def checksum_adjust(old_checksum: int, old: bytes, new: bytes) -> int:
    """The checksum after ``old`` bytes at an even distance were replaced by ``new``: RFC 1624 equation 3.

    Equal to the checksum computed anew as long as any covered byte is not zero, which version, protocol or length
    see to. For UDP use :func:`udp_checksum_adjust`.

    Raises:
        FrameError: Unequal or odd lengths: those would move the words after them.
    """
    if len(old) != len(new) or len(old) % 2:
        raise FrameError(f"cannot replace {len(old)} bytes under a checksum by {len(new)}")
    not_old = int.from_bytes(old, "big") ^ ((1 << 8 * len(old)) - 1)
    return 0xFFFF ^ _fold((0xFFFF ^ old_checksum) + _fold(not_old) + partial_sum(new))


def udp_checksum_adjust(old_checksum: int, old: bytes, new: bytes) -> int:
    """As :func:`checksum_adjust` under UDP's rule (RFC 768): 0 says "none" and stays, a sum of 0 is sent as 0xffff."""
    if old_checksum == 0:
        return 0
    return checksum_adjust(old_checksum, old, new) or 0xFFFF


def pseudo_header_sum(saddr: bytes, daddr: bytes, protocol: int, length: int) -> int:
    """Partial sum of the pseudo header of RFC 9293 section 3.1 (IPv4) or RFC 8200 section 8.1 (IPv6).

    Args:
        saddr: Source address, 4 or 16 bytes.
        daddr: Destination address, of the same family.
        protocol: The upper-layer protocol, which in IPv6 need not be the fixed header's next header.
        length: Bytes of upper-layer header and payload.
    """
    # Both forms have the same words beside the addresses, up to leading zeros.
    return partial_sum(saddr + daddr, protocol + (length >> 16) + (length & 0xFFFF))


def transport_checksum(saddr: bytes, daddr: bytes, protocol: int, segment: bytes | bytearray | memoryview) -> int:
    """The checksum of a TCP, UDP or ICMPv6 segment whose checksum field is zero; for UDP never 0 (RFC 768)."""
    value = checksum(segment, pseudo_header_sum(saddr, daddr, protocol, len(segment)))
    return 0xFFFF if value == 0 and protocol == IPPROTO_UDP else value
