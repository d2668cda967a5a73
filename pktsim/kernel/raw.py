"""Raw sockets: every packet of one protocol, whoever else gets it (net/ipv4/raw.c, net/ipv6/raw.c, Linux 6.18)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pktsim.kernel.datagram import DatagramSocket, os_error
from pktsim.kernel.transport import AF_INET, ANY, IpPacket, address_bytes, meant
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire.addr import ip_to_text
from pktsim.wire.checksum import transport_checksum
from pktsim.wire.frame import IPPROTO_ICMPV6

if TYPE_CHECKING:
    from pktsim.kernel.sockets import SocketLayer


class RawSocket(DatagramSocket):
    """One raw socket. Over IPv4 it receives packets with their IP header, over IPv6 without."""

    def __init__(self, layer: SocketLayer, family: int, protocol: int) -> None:
        super().__init__(layer, family)
        self.protocol = protocol
        self.lport = 0

    def bind(self, address: str = "") -> None:
        self._check_open()
        laddr = address_bytes(address, self.family)
        self.layer.check_bindable(laddr)
        self.laddr = laddr

    def connect(self, address: str) -> None:
        """Fix the peer: only its packets are received, and ICMP errors are reported."""
        self._connect(address, 0)

    def sendto(self, payload: bytes, address: str) -> None:
        """Send a packet; the IP header is made, and for ICMPv6 the checksum, whose place is always the same."""
        self._check_open()
        self._send(payload, meant(address_bytes(address, self.family), self.laddr))

    def send(self, payload: bytes) -> None:
        self._check_open()
        if not self.raddr:
            raise os_error(errno.EDESTADDRREQ)
        self._send(payload, self.raddr)

    def _send(self, payload: bytes, daddr: bytes) -> None:
        self.take_error()
        route = self.route_to(daddr)
        if self.protocol == IPPROTO_ICMPV6:
            if len(payload) < 4:
                raise os_error(errno.EINVAL)
            blank = payload[:2] + b"\0\0" + payload[4:]
            value = transport_checksum(route.saddr, daddr, IPPROTO_ICMPV6, blank)
            payload = payload[:2] + value.to_bytes(2, "big") + payload[4:]
        self.send_packet(route, daddr, payload)

    async def recvfrom(self, timeout_ns: int | None = None) -> tuple[bytes, str]:
        """Wait for a packet: (packet, source address); see the class for where the packet begins."""
        data, saddr, _, _ = await self.receive(timeout_ns)
        return data, ip_to_text(saddr)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.layer.remove_raw(self)
            self._changed.fire()

    def matches(self, packet: IpPacket, ifindex: int) -> bool:
        return (
            packet.family == self.family
            and packet.protocol == self.protocol
            and self.laddr in (ANY[self.family], packet.daddr)
            and (not self.raddr or self.raddr == packet.saddr)
            and (not self.ifindex or self.ifindex == ifindex)
        )

    def offer(self, packet: IpPacket, ifindex: int) -> DropReason | None:
        """Queue a packet that matches; the process may not want all kinds of it. Returns why it is not here, if so."""
        if not self.matches(packet, ifindex):
            return DropReason.NO_SOCKET
        data = packet.data[: packet.end] if self.family == AF_INET else packet.payload
        if not self.wants(packet):
            return DropReason.NO_SOCKET
        return None if self.enqueue(data, packet.saddr, 0, ifindex) else DropReason.SOCKET_RCVBUFF

    def wants(self, packet: IpPacket) -> bool:
        """A filter for subclasses (ICMP_FILTER)."""
        return True
