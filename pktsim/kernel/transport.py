"""What the transport protocols and the IP layer know of each other.

The transport layer hands down complete IP packets, header and checksums included, and gets complete IP packets back.
This module holds what both families and all transports share: taking a packet apart, putting one together, the pseudo
header's checksum, text and bytes of addresses. Inside, an address is 4 or 16 bytes in network order; text exists only
outside.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from pktsim.clock import Clock
from pktsim.kernel.addrconf import LOOPBACK6
from pktsim.netfilter.opcodes import DropReason
from pktsim.rng import Choices
from pktsim.wire.addr import ip_from_text
from pktsim.wire.checksum import checksum
from pktsim.wire.frame import IPPROTO_DSTOPTS, IPPROTO_HOPOPTS, IPPROTO_ROUTING, ipv6_extension_size

AF_INET: Final = 2
AF_INET6: Final = 10  # Linux's number, on every machine

IP_DF: Final = 0x4000
IPV4_HEADER: Final = 20
IPV6_HEADER: Final = 40

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")

LOOPBACK4: Final = b"\x7f\0\0\1"
ANY: Final = {AF_INET: bytes(4), AF_INET6: bytes(16)}


class TimerHandle(Protocol):
    """A call that is to come, by the clock or by the kernel's timer wheel."""

    @property
    def pending(self) -> bool: ...

    def cancel(self) -> None: ...


class OutputRoute(Protocol):
    """Where a packet to an address would go."""

    @property
    def saddr(self) -> bytes:
        """The source address to use: the one asked for, else the route's preferred one."""

    @property
    def ifindex(self) -> int: ...

    @property
    def mtu(self) -> int:
        """Of the path as far as it is known: a learnt path MTU, the route's, else the device's."""

    @property
    def local(self) -> bool:
        """Whether the packet stays in this namespace."""

    @property
    def broadcast(self) -> bool: ...


class IpStack(Protocol):
    """The network layer beneath a :class:`~pktsim.kernel.sockets.SocketLayer`."""

    @property
    def name(self) -> str:
        """For the places that choices are asked at."""

    @property
    def clock(self) -> Clock: ...

    @property
    def choices(self) -> Choices: ...

    def route_output(self, daddr: bytes, *, saddr: bytes = b"", ifindex: int = 0, mark: int = 0) -> OutputRoute:
        """Look up a route.

        Raises:
            OSError: ``ENETUNREACH``, ``EHOSTUNREACH``, ``EINVAL``, ``EACCES``: what ``connect`` would say.
        """

    def send_ip(
        self, packet: bytes, *, ifindex: int = 0, mark: int = 0, uid: int = 0, checksum_partial: bool = False
    ) -> None:
        """Send a complete packet. A packet that does not fit its path and may be fragmented is.

        ``checksum_partial``: the kernel would leave its transport checksum to the device.

        Raises:
            OSError: ``EMSGSIZE``, ``EPERM``, ``ENETUNREACH``...: what the sending call reports.
        """

    def hop_limit(self, ifindex: int) -> int:
        """Of IPv6 packets of our own that leave by a device."""

    def options_of_answer(self, header: bytes, saddr: bytes) -> bytes | None:
        """The IPv4 options of an answer from ``saddr`` to a packet with this header; ``None`` if there can be none."""

    def is_local(self, address: bytes) -> bool: ...

    def holds_segment(self, seq: int) -> bool:
        """Whether a TCP segment with that sequence number, sent here, still waits for a neighbour's address."""

    def confirm_neighbour(self, daddr: bytes) -> None:
        """The peer has just been heard of: its neighbour entry need not be probed."""

    def next_ip_id(self, saddr: bytes, daddr: bytes, protocol: int, segments: int = 1) -> int:
        """The namespace's own identification for a packet whose socket has no counter of its own."""

    def update_pmtu(self, daddr: bytes, mtu: int, *, mark: int = 0) -> None:
        """A router said that this much fits towards ``daddr``."""

    def sysctl(self, name: str) -> int: ...

    def packet_dropped(self, pkt_id: int, reason: DropReason) -> None:
        """A packet that was taken, but had to wait until somebody looked at it, goes no further."""


def family_of(address: bytes) -> int:
    return AF_INET if len(address) == 4 else AF_INET6


def meant(daddr: bytes, laddr: bytes) -> bytes:
    """Where a process sends to if it says ``daddr``: by the wildcard address it means its own host.

    That is the address it is bound to in IPv4 (``ip_route_output_key_hash_rcu``), and ::1 in IPv6 ("BSD'ism").
    """
    if any(daddr):
        return daddr
    if len(daddr) == 16:
        return LOOPBACK6
    return laddr if any(laddr) else LOOPBACK4


def address_bytes(text: str, family: int) -> bytes:
    """Return the bytes of an address written as text; the empty text is the wildcard.

    Raises:
        OSError: ``EAFNOSUPPORT`` for an address of the other family.
        FrameError: It is no address at all.
    """
    if not text:
        return ANY[family]
    address = ip_from_text(text)
    if family_of(address) != family:
        raise OSError(errno.EAFNOSUPPORT, f"{text} is not an address of the socket's family")
    return address


@dataclass(frozen=True, slots=True)
class IpPacket:
    """A packet taken apart at the network header.

    Attributes:
        offset: Where the transport header begins.
        end: Where the packet ends by its own length field.
        tos: Type of service or traffic class.
        ttl: Or hop limit.
    """

    data: bytes
    saddr: bytes
    daddr: bytes
    protocol: int
    offset: int
    end: int
    tos: int
    ttl: int

    @property
    def family(self) -> int:
        return AF_INET if len(self.saddr) == 4 else AF_INET6

    @property
    def header_with_options(self) -> bytes:
        """The IPv4 header, if it has options."""
        return self.data[: self.offset] if len(self.saddr) == 4 and self.offset > IPV4_HEADER else b""

    @property
    def payload(self) -> bytes:
        """From the transport header on."""
        return self.data[self.offset : self.end]


def parse_ip(data: bytes) -> IpPacket | None:
    """Take a packet apart; ``None`` if it is too short to be one. Checksums are not looked at."""
    if len(data) < IPV4_HEADER:
        return None
    version = data[0] >> 4
    if version == 4:
        offset = (data[0] & 15) * 4
        total = int.from_bytes(data[2:4], "big")
        if offset < IPV4_HEADER or total < offset or total > len(data):
            return None
        return IpPacket(data, data[12:16], data[16:20], data[9], offset, total, data[1], data[8])
    if version != 6 or len(data) < IPV6_HEADER:
        return None
    end = IPV6_HEADER + int.from_bytes(data[4:6], "big")
    if end > len(data):
        return None
    protocol, offset = data[6], IPV6_HEADER
    while protocol in (IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_DSTOPTS):
        if offset + 8 > end:
            return None
        protocol, offset = data[offset], offset + ipv6_extension_size(protocol, data[offset + 1])
        if offset > end:
            return None
    return IpPacket(
        data, data[8:24], data[24:40], protocol, offset, end, int.from_bytes(data[0:2], "big") >> 4 & 0xFF, data[7]
    )


def build_ip(
    saddr: bytes,
    daddr: bytes,
    protocol: int,
    payload: bytes,
    *,
    ttl: int,
    tos: int = 0,
    ip_id: int = 0,
    df: bool = True,
    flow_label: int = 0,
    options: bytes = b"",
) -> bytes:
    """Put a packet together; ``ip_id``, ``df`` and ``options`` are for IPv4 only, ``flow_label`` for IPv6 only."""
    if len(saddr) == 4:
        flags = IP_DF if df else 0
        length = IPV4_HEADER + len(options) + len(payload)
        fields = (0x45 + len(options) // 4, tos, length, ip_id & 0xFFFF, flags, ttl, protocol)
        header_sum = checksum(_IPV4.pack(*fields, 0, saddr, daddr) + options)
        return _IPV4.pack(*fields, header_sum, saddr, daddr) + options + payload
    first = 6 << 28 | tos << 20 | flow_label & 0xFFFFF
    return _IPV6.pack(first, len(payload), protocol, ttl, saddr, daddr) + payload
