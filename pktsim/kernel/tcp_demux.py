"""TCP's tables: connections by both ends, listeners by port; who gets a segment, and the RST for what nobody gets.

Source: net/ipv4/tcp_ipv4.c, inet_hashtables.c, inet_connection_sock.c, Linux 6.18.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from pktsim.clock import NS_PER_MS
from pktsim.fidelity import approximated
from pktsim.kernel.addrconf import is_link_local
from pktsim.kernel.datagram import os_error
from pktsim.kernel.icmp_error import IcmpError
from pktsim.kernel.tcp_segment import ACK, RST, Segment, build_segment, checksum_ok, parse_segment
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.tcp_state import TcpState
from pktsim.kernel.transport import ANY, IpPacket, build_ip, family_of
from pktsim.netfilter.opcodes import NO_FILE, NO_SOCKET, DropReason
from pktsim.wire.frame import IPPROTO_TCP

if TYPE_CHECKING:
    from pktsim.kernel.sockets import SocketLayer
    from pktsim.kernel.tcp_listen import TcpListener

approximated(
    "kernel.tcp.time_wait_reuse",
    "connect takes no port whose last connection to that peer is in TIME_WAIT, whatever net.ipv4.tcp_tw_reuse says; "
    "Linux's default takes it on loopback after a second",
    source="net/ipv4/tcp_ipv4.c tcp_twsk_unique",
)

MASK32 = 0xFFFFFFFF
_REMEMBERED = 1 << 16

#: Local address and port, peer's address and port.
Key = tuple[bytes, int, bytes, int]


class Endpoint(Protocol):
    """What stands in the table of connections: a connection, a half-open one, or what is left of one."""

    @property
    def state(self) -> TcpState: ...

    def deliver(self, segment: Segment, packet: IpPacket, *, ifindex: int, pkt_id: int = 0) -> DropReason | None:
        """Take a segment; ``pkt_id`` is the packet's in the engine. Returns why it is dropped, if it is."""

    def icmp(self, error: IcmpError) -> None: ...


class PortOwner(Protocol):
    """Who holds a local port."""

    @property
    def family(self) -> int: ...

    @property
    def laddr(self) -> bytes: ...

    @property
    def ifindex(self) -> int: ...

    @property
    def reuse_address(self) -> bool: ...

    @property
    def listening(self) -> bool: ...


class TcpDemux:
    """The TCP of one namespace."""

    def __init__(self, layer: SocketLayer, settings: TcpSettings) -> None:
        self.layer = layer
        self.settings = settings
        self.connections: dict[Key, Endpoint] = {}
        self.listeners: dict[int, list[TcpListener]] = {}
        self._owners: dict[int, list[PortOwner]] = {}
        self._isn: dict[Key, int] = {}
        self._ts: dict[tuple[bytes, bytes], int] = {}
        self.dropped_checksum = 0

    def __iter__(self) -> Iterator[tuple[TcpState, Key]]:
        """State and ends of everything, listeners first, as ``ss -tan`` shows them."""
        for port in sorted(self.listeners):
            for listener in self.listeners[port]:
                yield TcpState.LISTEN, (listener.laddr, port, ANY[listener.family], 0)
        for key in sorted(self.connections):
            yield self.connections[key].state, key

    # Numbers.

    def isn(self, key: Key) -> int:
        """An initial sequence number: random for each pair of ends, plus a clock of 64 ns (secure_tcp_seq)."""
        offset = self._isn.get(key)
        if offset is None:
            if len(self._isn) >= _REMEMBERED:
                del self._isn[next(iter(self._isn))]
            offset = self._isn[key] = self.layer.choices.below(f"{self.layer.name}/tcp.isn", 1 << 32)
        return (offset + (self.layer.clock.now_ns >> 6)) & MASK32

    def ts_offset(self, laddr: bytes, raddr: bytes) -> int:
        """Where the time stamp clock for a pair of addresses begins (secure_tcp_ts_off)."""
        offset = self._ts.get((laddr, raddr))
        if offset is None:
            offset = self.layer.choices.below(f"{self.layer.name}/tcp.ts_offset", 1 << 32)
            self._ts[laddr, raddr] = offset
        return offset

    def ts_now(self, laddr: bytes, raddr: bytes) -> int:
        return (self.layer.clock.now_ns // NS_PER_MS + self.ts_offset(laddr, raddr)) & MASK32

    # Ports.

    def claim(self, owner: PortOwner, laddr: bytes, port: int) -> int:
        """Bind: return the port, chosen if ``port`` is 0 (inet_csk_get_port).

        Raises:
            OSError: ``EADDRINUSE``.
        """
        if port:
            if self.conflict(owner, laddr, port):
                raise os_error(errno.EADDRINUSE)
        else:
            # bind() prefers odd ports and leaves the even ones to connect().
            port = self.layer.ephemeral_port("tcp.bind", lambda number: not self.conflict(owner, laddr, number))
            if not port:
                raise os_error(errno.EADDRINUSE)
        self.hold(owner, port)
        return port

    def hold(self, owner: PortOwner, port: int) -> None:
        self._owners.setdefault(port, []).append(owner)

    def release(self, owner: PortOwner, port: int) -> None:
        owners = self._owners.get(port)
        if owners and owner in owners:
            owners.remove(owner)
            if not owners:
                del self._owners[port]

    def conflict(self, owner: PortOwner, laddr: bytes, port: int) -> bool:
        """inet_csk_bind_conflict."""
        wildcard = ANY[owner.family]
        for other in self._owners.get(port, ()):
            if other is owner or other.family != owner.family:
                continue
            if owner.ifindex and other.ifindex and owner.ifindex != other.ifindex:
                continue
            if laddr != wildcard and other.laddr != wildcard and laddr != other.laddr:
                continue
            if not (owner.reuse_address and other.reuse_address) or other.listening:
                return True
        return False

    def choose_port(self, laddr: bytes, raddr: bytes, rport: int) -> int:
        """A local port for ``connect``: any that nobody has bound and that makes the pair unique (__inet_hash_connect).

        Raises:
            OSError: ``EADDRNOTAVAIL``.
        """

        def free(port: int) -> bool:
            if any(not _connected_only(owner) for owner in self._owners.get(port, ())):
                return False
            return (laddr, port, raddr, rport) not in self.connections

        port = self.layer.connect_port((laddr, raddr, rport), free)
        if not port:
            raise os_error(errno.EADDRNOTAVAIL)
        return port

    # Segments.

    def deliver(self, packet: IpPacket, *, ifindex: int, reply_mark: int = 0, pkt_id: int = 0) -> DropReason | None:
        """tcp_v4_rcv. Returns why nobody takes it, if so."""
        segment = parse_segment(packet.payload, packet.tos, reply_mark, packet.header_with_options)
        if segment is None:
            return DropReason.TRANSPORT_HEADER
        if not checksum_ok(packet):
            self.dropped_checksum += 1
            return DropReason.TRANSPORT_CHECKSUM
        endpoint = self.connections.get((packet.daddr, segment.dport, packet.saddr, segment.sport))
        if endpoint is not None:
            return endpoint.deliver(segment, packet, ifindex=ifindex, pkt_id=pkt_id)
        return self.deliver_to_listener(segment, packet, ifindex=ifindex)

    def deliver_to_listener(self, segment: Segment, packet: IpPacket, *, ifindex: int) -> DropReason | None:
        listener = self.find_listener(packet.daddr, segment.dport, ifindex)
        if listener is None:
            self.send_reset(segment, packet.daddr, packet.saddr, ifindex=way_back(packet, ifindex))
            return DropReason.NO_SOCKET
        return listener.deliver(segment, packet, ifindex=ifindex)

    def find_listener(self, daddr: bytes, port: int, ifindex: int) -> TcpListener | None:
        """The listener that fits best (__inet_lookup_listener)."""
        best: TcpListener | None = None
        best_score = -1
        family = family_of(daddr)
        for listener in self.listeners.get(port, ()):
            if listener.family != family:
                continue
            score = 0
            if listener.laddr != ANY[family]:
                if listener.laddr != daddr:
                    continue
                score += 2
            if listener.ifindex:
                if listener.ifindex != ifindex:
                    continue
                score += 1
            if score > best_score:
                best, best_score = listener, score
        return best

    def icmp_error(self, error: IcmpError, *, ifindex: int) -> bool:
        """Tell the connection that sent the quoted segment (tcp_v4_err). Returns whether there is one."""
        quoted = error.quoted
        payload = quoted.payload
        if len(payload) < 8:
            return False
        key = (
            quoted.saddr,
            int.from_bytes(payload[0:2], "big"),
            quoted.daddr,
            int.from_bytes(payload[2:4], "big"),
        )
        endpoint = self.connections.get(key)
        if endpoint is not None:
            endpoint.icmp(error)
        return endpoint is not None

    def send_reset(self, segment: Segment, laddr: bytes, raddr: bytes, *, ifindex: int = 0, mark: int = 0) -> None:
        """Answer a segment that fits nothing (tcp_v4_send_reset, RFC 9293 section 3.10.7.1); never a RST.

        The answer has the type of service of what it answers, without the ECN bits, and its mark, if marks are
        reflected and it has one.
        """
        if segment.flags & RST:
            return
        if segment.flags & ACK:
            seq, ack, flags = segment.ack, 0, RST
        else:
            seq, ack, flags = 0, (segment.seq + segment.length) & MASK32, RST | ACK
        answer = Segment(segment.dport, segment.sport, seq, ack, flags, 0)
        options = self.layer.stack.options_of_answer(segment.answered_header, laddr) if segment.answered_header else b""
        if options is None:
            return
        mark = segment.reply_mark or mark
        self.send_unbound(answer, laddr, raddr, ifindex=ifindex, tos=segment.tos & ~3, mark=mark, options=options)

    def send_unbound(
        self,
        segment: Segment,
        laddr: bytes,
        raddr: bytes,
        *,
        ifindex: int = 0,
        tos: int = 0,
        mark: int = 0,
        options: bytes = b"",
    ) -> None:
        """Send a segment that belongs to no full connection: its IP identification is 0 (ip_send_unicast_reply)."""
        source = laddr
        try:
            if len(laddr) == 4:
                # nobody answers from 0.0.0.0; the checksum does not know
                source = self.layer.stack.route_output(raddr, saddr=laddr, ifindex=ifindex, mark=mark).saddr
            packet = build_ip(
                source,
                raddr,
                IPPROTO_TCP,
                build_segment(segment, laddr, raddr),
                ttl=self.layer.default_ttl(raddr, saddr=laddr, ifindex=ifindex, mark=mark),
                tos=tos,
                flow_label=self.layer.flow_label(laddr, raddr, IPPROTO_TCP, segment.sport, segment.dport),
                options=options,
            )
            # ip_send_unicast_reply builds it in the kernel's own socket and sums it, tcp_v6_send_response does neither
            version6 = len(laddr) == 16
            owner = NO_SOCKET if version6 else NO_FILE
            self.layer.stack.send_ip(packet, ifindex=ifindex, mark=mark, uid=owner, checksum_partial=version6)
        except OSError:
            return  # as the kernel: an answer that cannot be sent is not sent


def way_back(packet: IpPacket, ifindex: int) -> int:
    """The device that an answer must leave by (``rt6_need_strict``): that it came in by, if its source is of a link."""
    return ifindex if len(packet.saddr) == 16 and is_link_local(packet.saddr) else 0


def _connected_only(owner: PortOwner) -> bool:
    """Whether the port was chosen by ``connect``, so that connections to other peers may share it."""
    return bool(getattr(owner, "port_by_connect", False))
