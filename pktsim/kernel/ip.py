"""The IP layer's face towards the transports, and cutting packets into fragments.

What goes through hooks, routing and devices is the engine's business; here is what the engine hands out because it is
rare, and what a transport asks the IP layer. Headers themselves are put together in :mod:`pktsim.kernel.transport`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pktsim.kernel.transport import IpStack
from pktsim.wire.checksum import checksum

__all__ = ["IP_DF", "IP_MF", "IP_OFFSET_MASK", "IpStack", "OutputRoute", "Transport", "fragment_ipv4", "with_header"]

IP_DF: Final = 0x4000
IP_MF: Final = 0x2000
IP_OFFSET_MASK: Final = 0x1FFF

_IPOPT_END = 0
_IPOPT_NOOP = 1
_IPOPT_COPIED = 0x80


@dataclass(frozen=True, slots=True)
class OutputRoute:
    """Where a packet of a local socket would go.

    Attributes:
        saddr: The source address: the one asked for, else the route's.
        ifindex: The device it would leave by; the loopback device for the namespace's own addresses.
        mtu: Bytes that fit: a learnt path MTU, the route's, else the device's.
        local: The packet stays in this namespace.
        broadcast: The destination is a broadcast address.
    """

    saddr: bytes
    ifindex: int
    mtu: int
    local: bool
    broadcast: bool


class Transport(Protocol):
    """What a namespace hands up: implemented by ``pktsim.kernel.sockets.SocketLayer``."""

    def deliver(self, packet: bytes, *, ifindex: int, broadcast: bool, reply_mark: int = 0) -> bool:
        """Take a packet that passed INPUT; ICMP is offered too, for ping and raw sockets.

        Args:
            packet: The whole IP packet, reassembled.
            ifindex: The device it came in by.
            broadcast: Sent to a broadcast or multicast address, of either layer.
            reply_mark: Of an answer that is not a connection's (IP4_REPLY_MARK); 0 where its socket's counts.

        Returns:
            Whether there was a socket for it. If not, the namespace answers for every protocol but TCP, whose reset
            only the transport can make.
        """
        ...

    def icmp_error(self, packet: bytes, *, ifindex: int) -> None:
        """Tell the socket that the quoted packet came from; ``packet`` is the whole ICMP message with its IP header."""
        ...


def with_header(packet: bytes, *, total_length: int, frag_off: int, header: bytes | None = None) -> bytes:
    """Return the IPv4 header (``header``, or the packet's own) with these two fields, and its checksum made right."""
    base = bytearray(packet[: (packet[0] & 15) * 4] if header is None else header)
    base[2:4] = total_length.to_bytes(2, "big")
    base[6:8] = frag_off.to_bytes(2, "big")
    base[10:12] = b"\0\0"
    base[10:12] = checksum(bytes(base)).to_bytes(2, "big")
    return bytes(base)


def _options_of_later_fragments(header: bytes) -> bytes:
    """Blank the options that are not copied into later fragments (``ip_options_fragment``, RFC 791 section 3.1)."""
    result = bytearray(header)
    at = 20
    while at < len(result):
        kind = result[at]
        if kind == _IPOPT_END:
            break
        if kind == _IPOPT_NOOP:
            at += 1
            continue
        if at + 1 >= len(result):
            break
        length = result[at + 1]
        if length < 2 or at + length > len(result):
            break
        if not kind & _IPOPT_COPIED:
            result[at : at + length] = bytes([_IPOPT_NOOP]) * length
        at += length
    return bytes(result)


def fragment_ipv4(
    packet: bytes,
    mtu: int,
    *,
    payload_sizes: Sequence[int] = (),
    keep_df: bool = False,
    options_read: bool = True,
) -> list[bytes]:
    """Cut an IPv4 packet into fragments (``ip_do_fragment``, net/ipv4/ip_output.c).

    A packet that had been reassembled from fragments leaves in its old pieces if they all fit, and a packet that is a
    fragment itself keeps its place in the whole.

    Args:
        packet: The packet.
        mtu: Largest fragment, header included.
        payload_sizes: Payload bytes of the fragments that it was made of, if any.
        keep_df: All fragments had DF set, so these get it too (``IPSKB_FRAG_PMTU``; lost on the way of the old pieces).
        options_read: The stack has looked at its options, and knows which of them are not for later fragments.

    Returns:
        The fragments in order.
    """
    header_length = (packet[0] & 15) * 4
    header = packet[:header_length]
    total = int.from_bytes(packet[2:4], "big")
    payload = packet[header_length:total]
    frag_off = int.from_bytes(packet[6:8], "big")
    offset = (frag_off & IP_OFFSET_MASK) * 8
    more_follow = bool(frag_off & IP_MF)
    room = mtu - header_length
    whole = not offset and not more_follow

    pieces: list[bytes] = []
    old_pieces_fit = (
        whole
        and sum(payload_sizes) == len(payload)
        and all(size <= room for size in payload_sizes)
        and all(size % 8 == 0 for size in payload_sizes[:-1])
    )
    if payload_sizes and old_pieces_fit:
        df = 0
        at = 0
        for size in payload_sizes:
            pieces.append(payload[at : at + size])
            at += size
    else:
        df = IP_DF if keep_df else 0
        step = room & ~7
        if step <= 0:
            raise ValueError(f"an MTU of {mtu} leaves no room for a fragment")
        at = 0
        while at < len(payload):
            # The last piece need not be a multiple of 8, and takes all the room there is.
            size = len(payload) - at if len(payload) - at <= room else step
            pieces.append(payload[at : at + size])
            at += size

    later_header = _options_of_later_fragments(header) if options_read else header
    fragments: list[bytes] = []
    at = 0
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        flags = df | (IP_MF if not last or more_follow else 0)
        fragments.append(
            with_header(
                packet,
                total_length=header_length + len(piece),
                frag_off=(offset + at) // 8 | flags,
                header=header if index == 0 else later_header,
            )
            + piece
        )
        at += len(piece)
    return fragments
