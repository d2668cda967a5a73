"""The socket layer of one namespace: which socket a packet belongs to, and which ports are taken.

Above are processes (text addresses, ``await``), below is the IP layer (complete packets, see
:class:`~pktsim.kernel.transport.IpStack`). The protocols themselves are in :mod:`~pktsim.kernel.udp`,
:mod:`~pktsim.kernel.tcp`, :mod:`~pktsim.kernel.raw` and :mod:`~pktsim.kernel.ping`.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from typing import Final

from pktsim.clock import NS_PER_JIFFY, Clock
from pktsim.kernel.datagram import os_error
from pktsim.kernel.icmp_error import IcmpError, parse_icmp_error
from pktsim.kernel.ping import PingSocket
from pktsim.kernel.raw import RawSocket
from pktsim.kernel.tcp import TcpSocket
from pktsim.kernel.tcp_connection import TcpConnection
from pktsim.kernel.tcp_demux import TcpDemux
from pktsim.kernel.tcp_settings import TcpSettings
from pktsim.kernel.timer_wheel import TimerWheel
from pktsim.kernel.transport import AF_INET, ANY, IpStack, TimerHandle, family_of, parse_ip
from pktsim.kernel.udp import UdpSocket, UdpTable, datagram_flaw
from pktsim.netfilter.opcodes import DropReason
from pktsim.netfilter.state import FoundSocket
from pktsim.rng import Choices
from pktsim.wire.addr import is_multicast
from pktsim.wire.frame import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE

#: net.ipv4.ip_local_port_range.
PORT_RANGE: Final = (32768, 60999)
_LOOPBACK_IFINDEX = 1  # always, in every namespace (LOOPBACK_IFINDEX)
_FLOW_LABEL = 0xFFFFF


class SocketLayer:
    """All sockets of one namespace.

    Args:
        stack: The IP layer beneath.
        tcp: TCP's settings.
        port_range: First and last port that are given out unasked.
    """

    def __init__(
        self, stack: IpStack, *, tcp: TcpSettings | None = None, port_range: tuple[int, int] = PORT_RANGE
    ) -> None:
        self.stack = stack
        self.port_range = port_range
        self._udp = UdpTable(self)
        self._tcp = TcpDemux(self, TcpSettings() if tcp is None else tcp)
        self._raw: list[RawSocket] = []
        self._flow_secret: bytes | None = None
        self._port_offsets: dict[tuple[bytes, bytes, int], int] = {}
        wheel = getattr(stack, "wheel", None)
        self._wheel = wheel if isinstance(wheel, TimerWheel) else None

    @property
    def name(self) -> str:
        return self.stack.name

    @property
    def clock(self) -> Clock:
        return self.stack.clock

    @property
    def choices(self) -> Choices:
        return self.stack.choices

    @property
    def tcp_table(self) -> TcpDemux:
        """Connections and listeners, as ``ss`` lists them."""
        return self._tcp

    @property
    def udp_table(self) -> UdpTable:
        return self._udp

    # For processes.

    def udp(self, family: int = AF_INET) -> UdpSocket:
        """Open a UDP socket."""
        return UdpSocket(self, self._udp, family)

    def tcp(self, family: int = AF_INET) -> TcpSocket:
        """Open a TCP socket."""
        return TcpSocket(self._tcp, family)

    def raw(self, protocol: int, family: int = AF_INET) -> RawSocket:
        """Open a raw socket: all packets of ``protocol`` that are for this namespace."""
        socket = RawSocket(self, family, protocol)
        self._raw.append(socket)
        return socket

    def ping(self, family: int = AF_INET, ident: int | None = None) -> PingSocket:
        """Open a socket for ICMP echo; without ``ident`` an identifier is drawn."""
        if ident is None:
            ident = self.choices.below(f"{self.name}/ping.id", 1 << 16)
        socket = PingSocket(self, family, ident)
        self._raw.append(socket)
        return socket

    # For the IP layer.

    def deliver(
        self, packet: bytes, *, ifindex: int, broadcast: bool = False, reply_mark: int = 0, pkt_id: int = 0
    ) -> DropReason | None:
        """Take a packet that is for this namespace; ``pkt_id`` is the engine's, for what is said of it later.

        Returns:
            ``None``: somebody has it. Else why nobody does; TCP has answered if there was anything to answer.
        """
        parsed = parse_ip(packet)
        if parsed is None:
            return DropReason.IP_HEADER
        offers = [socket.offer(parsed, ifindex) for socket in tuple(self._raw)]
        taken = None in offers
        if parsed.protocol == IPPROTO_UDP:
            reason = self._udp.deliver(parsed, ifindex=ifindex, broadcast=broadcast)
            return None if taken and reason is not DropReason.SOCKET_RCVBUFF else reason
        if parsed.protocol == IPPROTO_TCP:
            if broadcast or is_multicast(parsed.daddr):
                return DropReason.NO_SOCKET
            return self._tcp.deliver(parsed, ifindex=ifindex, reply_mark=reply_mark, pkt_id=pkt_id)
        if taken:
            return None
        if DropReason.SOCKET_RCVBUFF in offers:
            return DropReason.SOCKET_RCVBUFF
        flaw = datagram_flaw(parsed) if parsed.protocol == IPPROTO_UDPLITE else None
        return DropReason.NO_SOCKET if flaw is None else flaw

    def find(
        self, protocol: int, saddr: bytes, sport: int, daddr: bytes, dport: int, ifindex: int
    ) -> FoundSocket | None:
        """The socket that would take a packet (nf_socket_get_sock_v4, nf_socket_get_sock_v6)."""
        wildcard = bytes(len(daddr))
        if protocol == IPPROTO_UDP:
            socket = self._udp.find(saddr, sport, daddr, dport, ifindex)
            if socket is None:
                return None
            return FoundSocket(socket.laddr == wildcard, connected=bool(socket.raddr), mark=socket.mark)
        if protocol != IPPROTO_TCP:
            return None
        endpoint = self._tcp.connections.get((daddr, dport, saddr, sport))
        if endpoint is not None:
            full = isinstance(endpoint, TcpConnection)
            return FoundSocket(False, full, True, endpoint.mark if isinstance(endpoint, TcpConnection) else 0)
        listener = self._tcp.find_listener(daddr, dport, ifindex)
        return None if listener is None else FoundSocket(listener.laddr == wildcard, mark=listener.socket.mark)

    def icmp_error(self, packet: bytes, *, ifindex: int) -> bool:
        """Tell whoever sent the packet that an ICMP error quotes. Returns whether there is anybody."""
        error = parse_icmp_error(packet)
        if error is None:
            return False
        quoted = error.quoted
        # What the kernel itself has sent, there being no socket, teaches it too (icmp_err, icmpv6_err).
        if quoted.protocol == IPPROTO_ICMPV6 or (quoted.protocol == IPPROTO_ICMP and quoted.payload[:1] == b"\0"):
            self.learn_path_mtu(error)
            return self._raw_error(error) or error.packet_too_big
        if quoted.protocol == IPPROTO_TCP:
            return self._tcp.icmp_error(error, ifindex=ifindex)
        if quoted.protocol == IPPROTO_UDP:
            return self._udp.icmp_error(error)
        return self._raw_error(error)

    def _raw_error(self, error: IcmpError) -> bool:
        """raw_err: a connected raw socket hears of what is final."""
        quoted = error.quoted
        found = False
        for socket in self._raw:
            if socket.family != quoted.family or socket.protocol != quoted.protocol:
                continue
            if socket.laddr in (ANY[socket.family], quoted.saddr) and socket.raddr in (b"", quoted.daddr):
                self.learn_path_mtu(error)
                found = True
            if socket.raddr == quoted.daddr and error.fatal:
                socket.report(error.errno)
                found = True
        return found

    def learn_path_mtu(self, error: IcmpError) -> None:
        """What an error says of the path of a packet that is known to have come from here (``ipv4_sk_update_pmtu``)."""
        if error.packet_too_big:
            self.stack.update_pmtu(error.quoted.daddr, error.mtu)

    # For the protocols.

    def timer(self, delay_ns: int, callback: Callable[[], None]) -> TimerHandle:
        """Call ``callback`` later: in whole jiffies where the namespace has the kernel's timers, else exactly.

        Either way no sooner than the next jiffy.
        """
        if self._wheel is None:
            return self.clock.after(max(delay_ns, NS_PER_JIFFY), callback)
        return self._wheel.after(-(-delay_ns // NS_PER_JIFFY), callback)

    def default_ttl(self, daddr: bytes, *, saddr: bytes = b"", ifindex: int = 0, mark: int = 0) -> int:
        """``ip4_dst_hoplimit``; ``ip6_dst_hoplimit`` is a setting of the device that the way begins with."""
        if len(daddr) == 4:
            return self.stack.sysctl("net.ipv4.ip_default_ttl")
        try:
            route = self.stack.route_output(daddr, saddr=saddr, ifindex=ifindex, mark=mark)
        except OSError:
            return self.stack.hop_limit(0)
        return self.stack.hop_limit(route.ifindex)

    def ip_options(self, answered_header: bytes, saddr: bytes) -> bytes:
        """The IPv4 options of a connection's packets: those of its first segment sent back (``inet_opt``)."""
        return (self.stack.options_of_answer(answered_header, saddr) if answered_header else b"") or b""

    def is_loopback_device(self, ifindex: int) -> bool:
        return ifindex == _LOOPBACK_IFINDEX

    def check_bindable(self, address: bytes) -> None:
        """Raise ``EADDRNOTAVAIL`` unless the address is one of ours, or the wildcard."""
        if address != ANY[family_of(address)] and not self.stack.is_local(address) and not is_multicast(address):
            raise os_error(errno.EADDRNOTAVAIL)

    def ephemeral_port(self, protocol: str, free: Callable[[int], bool]) -> int:
        """Choose a port that is ``free``, from a random place in the range on; 0 if none is."""
        low, high = self.port_range
        count = high - low + 1
        offset = self.choices.below(f"{self.name}/{protocol}.port", count)
        for tried in range(count):
            port = low + (offset + tried) % count
            if free(port):
                return port
        return 0

    def connect_port(self, key: tuple[bytes, bytes, int], free: Callable[[int], bool]) -> int:
        """Choose a port to connect from; 0 if none is ``free`` (__inet_hash_connect).

        Ports of the range's parity are tried before the others, which are left to ``bind``. The first connection of an
        address to a service begins at a random place, each further one a few ports above the one before it.

        Args:
            key: Own address, peer's address and port.
        """
        low, high = self.port_range
        count = high - low + 1
        if count > 1:
            count &= ~1
        offset = self._port_offsets.get(key)
        if offset is None:
            offset = self.choices.below(f"{self.name}/tcp.port", high - low + 1)
        for parity in (0, 1):
            begin = (offset % count & ~1) + parity
            for tried in range(0, count, 2):
                port = low + (begin + tried) % count
                if free(port):
                    noise = 2 * self.choices.below(f"{self.name}/tcp.port.step", 8)
                    self._port_offsets[key] = offset + max(tried, noise) + 2
                    return port
        return 0

    def _labels_flows(self) -> bool:
        """``ip6_autoflowlabel`` of sockets that do not say."""
        return self.stack.sysctl("net.ipv6.auto_flowlabels") in (1, 3)

    def new_flow_label(self) -> int:
        if not self._labels_flows():
            return 0
        return self.choices.below(f"{self.name}/ip6.flow_label", _FLOW_LABEL) + 1

    def flow_label(self, saddr: bytes, daddr: bytes, protocol: int, sport: int, dport: int) -> int:
        """The label of a flow without a socket that remembers one: a keyed hash, never 0 (ip6_make_flowlabel)."""
        if len(saddr) == 4 or not self._labels_flows():
            return 0
        if self._flow_secret is None:
            self._flow_secret = self.choices.below(f"{self.name}/ip6.flow_secret", 1 << 32).to_bytes(4, "big")
        text = b"%b%b%d %d %d" % (saddr, daddr, protocol, sport, dport)
        digest = hashlib.blake2s(text, key=self._flow_secret, digest_size=4).digest()
        return int.from_bytes(digest, "big") % _FLOW_LABEL + 1

    def remove_raw(self, socket: RawSocket) -> None:
        if socket in self._raw:
            self._raw.remove(socket)


__all__ = ["IPPROTO_ICMP", "IPPROTO_ICMPV6", "PORT_RANGE", "SocketLayer"]
