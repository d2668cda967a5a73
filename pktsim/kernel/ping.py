"""ICMP echo: a socket that asks, and hears answers and errors.

It is a raw ICMP socket with an identifier of its own, as ``ping`` uses where ping sockets are not allowed: over IPv4 it
also hears the ICMP errors about its packets, as messages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pktsim.kernel.raw import RawSocket
from pktsim.kernel.transport import AF_INET, IPV6_HEADER, IpPacket, parse_ip
from pktsim.wire.addr import ip_to_text
from pktsim.wire.checksum import checksum
from pktsim.wire.frame import IPPROTO_ICMP, IPPROTO_ICMPV6

if TYPE_CHECKING:
    from pktsim.kernel.sockets import SocketLayer

_ECHO = struct.Struct("!BBHHH")
_ECHO_REQUEST = {AF_INET: 8, 10: 128}
_ECHO_REPLY = {AF_INET: 0, 10: 129}
_ERRORS = {AF_INET: (3, 4, 5, 11, 12), 10: (1, 2, 3, 4)}


@dataclass(frozen=True, slots=True)
class PingReply:
    """An ICMP message that came back.

    Attributes:
        ttl: Of its IP header; 0 over IPv6, where a raw socket does not see it.
        length: Of the packet over IPv4, of the ICMP message over IPv6: what the socket returns.
        seq: Sequence number of the echo it answers or is about, -1 if it does not say.
    """

    kind: int
    code: int
    address: str
    ttl: int
    length: int
    seq: int
    data: bytes


class PingSocket(RawSocket):
    """Sends echo requests with one identifier."""

    def __init__(self, layer: SocketLayer, family: int, ident: int) -> None:
        super().__init__(layer, family, IPPROTO_ICMP if family == AF_INET else IPPROTO_ICMPV6)
        self.ident = ident

    def echo(self, address: str, seq: int, data: bytes) -> None:
        """Send an echo request.

        Raises:
            OSError: No route, ``EMSGSIZE``, ...
        """
        message = _ECHO.pack(_ECHO_REQUEST[self.family], 0, 0, self.ident, seq & 0xFFFF) + data
        if self.family == AF_INET:  # over IPv6 the socket does it, because the address counts in
            message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        self.sendto(message, address)

    def wants(self, packet: IpPacket) -> bool:
        return self._echo_of(packet.payload) is not None

    def _echo_of(self, message: bytes) -> int | None:
        """The sequence number of our echo that a message is about; ``None`` if it is not about one of ours."""
        if len(message) < 8:
            return None
        if message[0] == _ECHO_REPLY[self.family]:
            ident, seq = struct.unpack_from("!HH", message, 4)
            return int(seq) if ident == self.ident else None
        if message[0] not in _ERRORS[self.family]:
            return None
        quoted = message[8:]
        offset = (quoted[0] & 15) * 4 if self.family == AF_INET and quoted else IPV6_HEADER
        if len(quoted) < offset + 8:
            return None
        protocol = quoted[9] if self.family == AF_INET else quoted[6]
        kind, _, _, ident, seq = _ECHO.unpack_from(quoted, offset)
        ours = protocol == self.protocol and kind == _ECHO_REQUEST[self.family] and ident == self.ident
        return int(seq) if ours else None

    async def reply(self, timeout_ns: int | None = None) -> PingReply:
        """Wait for an answer to one of our requests, or an error about one.

        Raises:
            TimeoutError: Nothing came within ``timeout_ns``.
        """
        data, saddr, _, _ = await self.receive(timeout_ns)
        message, ttl = data, 0
        if self.family == AF_INET:
            packet = parse_ip(data)
            assert packet is not None
            message, ttl = packet.payload, packet.ttl
        seq = self._echo_of(message)
        return PingReply(
            message[0],
            message[1],
            ip_to_text(saddr),
            ttl,
            len(data),
            -1 if seq is None else seq,
            message[8:],
        )
