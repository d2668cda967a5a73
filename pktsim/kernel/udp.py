"""UDP sockets and the table that finds them. Source: net/ipv4/udp.c, Linux 6.18; RFC 768."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pktsim.kernel.datagram import DatagramSocket, PmtuDiscovery, os_error
from pktsim.kernel.icmp_error import IcmpError
from pktsim.kernel.transport import AF_INET6, ANY, IpPacket, OutputRoute, address_bytes, meant
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire.addr import ip_to_text, is_multicast
from pktsim.wire.checksum import checksum, pseudo_header_sum, transport_checksum
from pktsim.wire.frame import IPPROTO_UDP, IPPROTO_UDPLITE

if TYPE_CHECKING:
    from pktsim.kernel.sockets import SocketLayer

UDP_HEADER = 8
_HEADER = struct.Struct("!HHHH")


class UdpSocket(DatagramSocket):
    """One UDP socket. Addresses are text outside, the empty text is the wildcard; an IPv6 socket takes IPv6 only."""

    protocol = IPPROTO_UDP

    def __init__(self, layer: SocketLayer, table: UdpTable, family: int) -> None:
        super().__init__(layer, family)
        self._table = table

    def bind(self, address: str = "", port: int = 0) -> None:
        """Take a local address and port; port 0 means any free one.

        Raises:
            OSError: ``EADDRINUSE``, ``EADDRNOTAVAIL``, ``EINVAL`` if it is bound already.
        """
        self._check_open()
        if self.lport:
            raise os_error(errno.EINVAL)
        laddr = address_bytes(address, self.family)
        self.layer.check_bindable(laddr)
        self._table.claim(self, laddr, port)

    def connect(self, address: str, port: int) -> None:
        """Fix the peer: only its datagrams are received, and ICMP errors are reported."""
        if not self.lport:
            self._table.claim(self, self.laddr, 0)
        self._connect(address, port)

    def sendto(self, data: bytes, address: str, port: int) -> None:
        """Send a datagram.

        Raises:
            OSError: A pending ICMP error, no route, ``EMSGSIZE``...
        """
        self._check_open()
        if not port:
            raise os_error(errno.EINVAL)
        self._send(data, meant(address_bytes(address, self.family), self.laddr), port)

    def send(self, data: bytes) -> None:
        """Send a datagram to the connected peer."""
        self._check_open()
        if not self.raddr:
            raise os_error(errno.EDESTADDRREQ)
        self._send(data, self.raddr, self.rport)

    def _send(self, data: bytes, daddr: bytes, port: int) -> None:
        if not self.lport:
            self._table.claim(self, self.laddr, 0)
        self.take_error()
        route = self.route_to(daddr)
        self.send_packet(route, daddr, self._datagram(route, daddr, port, data))

    def _datagram(self, route: OutputRoute, daddr: bytes, port: int, data: bytes) -> bytes:
        length = UDP_HEADER + len(data)
        if length > 0xFFFF:
            raise os_error(errno.EMSGSIZE)
        datagram = _HEADER.pack(self.lport, port, length, 0) + data
        value = transport_checksum(route.saddr, daddr, IPPROTO_UDP, datagram)
        return datagram[:6] + value.to_bytes(2, "big") + data

    async def recvfrom(self, timeout_ns: int | None = None) -> tuple[bytes, str, int]:
        """Wait for a datagram: (data, address, port).

        Raises:
            TimeoutError: Nothing came within ``timeout_ns``.
            OSError: An ICMP error came to a connected socket (``ECONNREFUSED``...), or it was closed meanwhile.
        """
        data, saddr, sport, _ = await self.receive(timeout_ns)
        return data, ip_to_text(saddr), sport

    def pending(self) -> list[tuple[bytes, str, int]]:
        """Take what has come without waiting: (data, source address, source port) of each datagram."""
        taken = [(data, ip_to_text(saddr), sport) for data, saddr, sport, _ in self._queue]
        self._queue.clear()
        self._queued_bytes = 0
        return taken

    def close(self) -> None:
        """Free the port; a process that waits gets ``EBADF``."""
        if not self.closed:
            self.closed = True
            self._table.release(self)
            self._changed.fire()

    # From below.

    def score(self, saddr: bytes, daddr: bytes, sport: int, ifindex: int) -> int:
        """How well a datagram for our port fits, -1 not at all (compute_score)."""
        score = 0
        if self.laddr != ANY[self.family]:
            if self.laddr != daddr:
                return -1
            score += 4
        if self.raddr:
            if (self.raddr, self.rport) != (saddr, sport):
                return -1
            score += 8
        if self.ifindex:
            if self.ifindex != ifindex:
                return -1
            score += 4
        return score

    def on_icmp(self, error: IcmpError) -> None:
        """An ICMP message about a datagram of ours (__udp4_lib_err)."""
        fatal = error.fatal
        if error.packet_too_big:
            if self.pmtu_discovery == PmtuDiscovery.DONT:
                return
            fatal = True
        # Without IP_RECVERR only a connected socket is told, and only what will not mend itself.
        if self.recverr or (fatal and self.raddr):
            self.report(error.errno)


def datagram_flaw(packet: IpPacket) -> DropReason | None:
    """What is wrong with the lengths or the checksum of a UDP or UDP-Lite datagram (``__udp4_lib_rcv``,
    ``__udp6_lib_rcv``).

    UDP-Lite has the number of covered bytes in the place of the length, and always a checksum (RFC 3828 section 3.1).
    """
    payload = packet.payload
    if len(payload) < UDP_HEADER:
        return DropReason.TRANSPORT_HEADER
    _, _, length, value = _HEADER.unpack_from(payload)
    lite = packet.protocol == IPPROTO_UDPLITE
    if not length and (lite or packet.family == AF_INET6):
        length = len(payload)  # a jumbogram's (RFC 2675 section 4)
    if not UDP_HEADER <= length <= len(payload):
        return DropReason.TRANSPORT_HEADER
    if not value:
        # Over IPv4 UDP may do without. What a socket sent by lo is whole too: see checksum_partial.
        return DropReason.TRANSPORT_CHECKSUM if lite or packet.family == AF_INET6 else None
    said = len(payload) if lite else length
    if checksum(payload[:length], pseudo_header_sum(packet.saddr, packet.daddr, packet.protocol, said)):
        return DropReason.TRANSPORT_CHECKSUM
    return None


class UdpTable:
    """The UDP sockets of a namespace, by port."""

    def __init__(self, layer: SocketLayer) -> None:
        self._layer = layer
        self._sockets: dict[int, list[UdpSocket]] = {}

    def __iter__(self) -> Iterator[UdpSocket]:
        for port in sorted(self._sockets):
            yield from self._sockets[port]

    def claim(self, socket: UdpSocket, laddr: bytes, port: int) -> None:
        """Give ``socket`` a port (udp_lib_get_port).

        Raises:
            OSError: ``EADDRINUSE``; ``EAGAIN`` when no port is free.
        """
        if not port:
            port = self._layer.ephemeral_port("udp", lambda candidate: not self._conflict(socket, laddr, candidate))
            if not port:
                raise os_error(errno.EAGAIN)
        elif self._conflict(socket, laddr, port):
            raise os_error(errno.EADDRINUSE)
        socket.laddr = laddr
        socket.lport = port
        self._sockets.setdefault(port, []).append(socket)

    def _conflict(self, socket: UdpSocket, laddr: bytes, port: int) -> bool:
        """inet_rcv_saddr_equal and the reuse flags."""
        wildcard = ANY[socket.family]
        return any(
            other.family == socket.family
            and (not socket.ifindex or not other.ifindex or socket.ifindex == other.ifindex)
            and (laddr == wildcard or other.laddr == wildcard or other.laddr == laddr)
            and not (socket.reuse_address and other.reuse_address)
            for other in self._sockets.get(port, ())
        )

    def release(self, socket: UdpSocket) -> None:
        sockets = self._sockets.get(socket.lport)
        if sockets and socket in sockets:
            sockets.remove(socket)
            if not sockets:
                del self._sockets[socket.lport]

    def deliver(self, packet: IpPacket, *, ifindex: int, broadcast: bool) -> DropReason | None:
        """Queue a datagram to its socket, or to all of them if it is for many. Returns why nobody got it, if so."""
        payload = packet.payload
        flaw = datagram_flaw(packet)
        if flaw is not None:
            return flaw
        sport, dport, length, _ = _HEADER.unpack_from(payload)
        data = payload[UDP_HEADER : length or len(payload)]
        found: list[UdpSocket] = []
        best = -1
        to_all = broadcast or is_multicast(packet.daddr)
        for socket in self._sockets.get(dport, ()):
            if socket.family != packet.family:
                continue
            score = socket.score(packet.saddr, packet.daddr, sport, ifindex)
            if score < 0:
                continue
            if to_all:
                found.append(socket)
            elif score > best:
                best = score
                found = [socket]
        if not found:
            return DropReason.NO_SOCKET
        queued = [socket.enqueue(data, packet.saddr, sport, ifindex) for socket in found]
        return None if any(queued) else DropReason.SOCKET_RCVBUFF

    def find(self, saddr: bytes, sport: int, daddr: bytes, dport: int, ifindex: int) -> UdpSocket | None:
        """The socket that fits a datagram best (__udp4_lib_lookup)."""
        fitting = [
            (score, -number, socket)
            for number, socket in enumerate(self._sockets.get(dport, ()))
            if len(ANY[socket.family]) == len(daddr) and (score := socket.score(saddr, daddr, sport, ifindex)) >= 0
        ]
        return max(fitting, key=lambda one: one[:2])[2] if fitting else None

    def icmp_error(self, error: IcmpError) -> bool:
        """Find whose datagram the message quotes. Returns whether it is anybody's."""
        quoted = error.quoted
        if len(quoted.payload) < 4:
            return False
        lport, rport = struct.unpack_from("!HH", quoted.payload)
        for socket in self._sockets.get(lport, ()):
            if socket.family != quoted.family:
                continue
            if socket.raddr and (socket.raddr, socket.rport) != (quoted.daddr, rport):
                continue
            if socket.laddr not in (ANY[socket.family], quoted.saddr):
                continue
            self._layer.learn_path_mtu(error)
            socket.on_icmp(error)
            return True
        return False
