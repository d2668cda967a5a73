"""What UDP, raw and ping sockets share: addresses, options, a queue of what has arrived, and errors from ICMP.

Source: net/ipv4/datagram.c, udp.c, raw.c, ip_output.c, Linux 6.18.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

from pktsim.kernel.task import Signal
from pktsim.kernel.transport import AF_INET, ANY, IPV4_HEADER, IPV6_HEADER, OutputRoute, address_bytes, build_ip, meant
from pktsim.wire.addr import ip_to_text, is_multicast
from pktsim.wire.frame import IPPROTO_UDP

if TYPE_CHECKING:
    from pktsim.kernel.sockets import SocketLayer

#: Bytes of memory a datagram takes beside its own, and the default of net.core.rmem_default.
_OVERHEAD = 768
RMEM_DEFAULT = 212_992
_MAX_DATAGRAM = 65535


class PmtuDiscovery(IntEnum):
    """IP_MTU_DISCOVER: whether packets have DF, and what happens to those that are too large."""

    DONT = 0  # no DF; fragment
    WANT = 1  # DF on what fits the path, fragment what does not: the default
    DO = 2  # always DF; EMSGSIZE for what does not fit the path
    PROBE = 3  # always DF; EMSGSIZE only for what does not fit the device


def os_error(code: int) -> OSError:
    """An ``OSError`` of the class that goes with ``code`` (ConnectionRefusedError, TimeoutError, ...)."""
    return OSError(code, os.strerror(code))


class DatagramSocket:
    """A socket that sends and receives whole packets. Not used by itself."""

    protocol = 0

    def __init__(self, layer: SocketLayer, family: int) -> None:
        self.layer = layer
        self.family = family
        self.laddr = ANY[family]
        self.lport = 0
        self.raddr = b""
        self.rport = 0
        self.ifindex = 0
        self.mark = 0
        self.uid = 0
        self.tos = 0
        self.ttl = 0
        self.multicast_ttl = 1
        self.broadcast = False
        self.pmtu_discovery = PmtuDiscovery.WANT
        self.reuse_address = False
        self.recverr = False
        self.rcvbuf = RMEM_DEFAULT
        self.closed = False
        self.drops = 0
        self._ip_id = 0
        self._error = 0
        self._queue: deque[tuple[bytes, bytes, int, int]] = deque()
        self._queued_bytes = 0
        self._changed = Signal()

    # Options, under setsockopt's names where there is one.

    def set_df(self, df: bool | None) -> None:
        """``True``: path MTU discovery always, ``False``: never, ``None``: the default."""
        self.pmtu_discovery = PmtuDiscovery.WANT if df is None else PmtuDiscovery.DO if df else PmtuDiscovery.DONT

    @property
    def local_address(self) -> tuple[str, int]:
        return ip_to_text(self.laddr), self.lport

    @property
    def remote_address(self) -> tuple[str, int] | None:
        return (ip_to_text(self.raddr), self.rport) if self.raddr else None

    # Receiving.

    def enqueue(self, data: bytes, saddr: bytes, sport: int, ifindex: int) -> bool:
        """A datagram has arrived; dropped if the process is too slow. Returns whether it was queued."""
        size = len(data) + _OVERHEAD
        if self._queued_bytes + size > self.rcvbuf and self._queue:
            self.drops += 1
            return False
        self._queued_bytes += size
        self._queue.append((data, saddr, sport, ifindex))
        self._changed.fire()
        return True

    def report(self, error: int) -> None:
        """An ICMP error that the process is to see with its next call."""
        self._error = error
        self._changed.fire()

    def take_error(self) -> None:
        """Raise a pending error (sock_error)."""
        if self._error:
            error, self._error = self._error, 0
            raise os_error(error)

    def _check_open(self) -> None:
        if self.closed:
            raise os_error(errno.EBADF)

    async def receive(self, timeout_ns: int | None = None) -> tuple[bytes, bytes, int, int]:
        """Wait for a datagram: (data, source address, source port, ifindex).

        Raises:
            TimeoutError: Nothing came in time.
            OSError: An ICMP error came, or the socket was closed meanwhile.
        """
        deadline = None if timeout_ns is None else self.layer.clock.now_ns + timeout_ns
        while True:
            self._check_open()
            self.take_error()
            if self._queue:
                entry = self._queue.popleft()
                self._queued_bytes -= len(entry[0]) + _OVERHEAD
                return entry
            left = None if deadline is None else deadline - self.layer.clock.now_ns
            if left is not None and left <= 0:
                raise TimeoutError("nothing came in time")
            await self._changed.wait(left)

    # Sending.

    def route_to(self, daddr: bytes) -> OutputRoute:
        """Look up the way to ``daddr`` from this socket.

        Raises:
            OSError: There is none, or it is a broadcast address and the socket may not.
        """
        saddr = b"" if self.laddr == ANY[self.family] else self.laddr
        route = self.layer.stack.route_output(daddr, saddr=saddr, ifindex=self.ifindex, mark=self.mark)
        if route.broadcast and not self.broadcast:
            raise os_error(errno.EACCES)
        return route

    def send_packet(self, route: OutputRoute, daddr: bytes, payload: bytes) -> None:
        """Wrap ``payload`` in an IP header and send it (ip_make_skb, __ip_make_skb).

        Raises:
            OSError: ``EMSGSIZE``, or what the IP layer says.
        """
        ipv4 = self.family == AF_INET
        length = len(payload) + (IPV4_HEADER if ipv4 else IPV6_HEADER)
        if length > _MAX_DATAGRAM + (0 if ipv4 else IPV6_HEADER):
            raise os_error(errno.EMSGSIZE)
        mode = self.pmtu_discovery
        if mode >= PmtuDiscovery.DO and length > route.mtu:
            raise os_error(errno.EMSGSIZE)
        df = mode >= PmtuDiscovery.DO or (mode == PmtuDiscovery.WANT and length <= route.mtu)
        ttl = self.ttl
        if is_multicast(daddr):
            ttl = self.multicast_ttl
        packet = build_ip(
            route.saddr,
            daddr,
            self.protocol,
            payload,
            ttl=ttl or self.layer.default_ttl(daddr, saddr=route.saddr, ifindex=self.ifindex, mark=self.mark),
            tos=self.tos,
            ip_id=self._next_id(route.saddr, daddr) if ipv4 else 0,
            df=df,
            flow_label=self.layer.flow_label(route.saddr, daddr, self.protocol, self.lport, self.rport),
        )
        self.layer.stack.send_ip(
            packet,
            ifindex=self.ifindex,
            mark=self.mark,
            uid=self.uid,
            checksum_partial=self.protocol == IPPROTO_UDP and route.local and length <= route.mtu,
        )

    def _next_id(self, saddr: bytes, daddr: bytes) -> int:
        """A connected socket counts for itself, others share the namespace's counters (ip_select_ident_segs)."""
        if self.raddr:
            value = self._ip_id
            self._ip_id = (value + 1) & 0xFFFF
            return value
        if self.pmtu_discovery >= PmtuDiscovery.DO:
            return 0
        return self.layer.stack.next_ip_id(saddr, daddr, self.protocol)

    def _connect(self, address: str, port: int) -> None:
        self._check_open()
        daddr = meant(address_bytes(address, self.family), self.laddr)
        route = self.route_to(daddr)
        if self.laddr == ANY[self.family]:
            self.laddr = route.saddr
        self.raddr = daddr
        self.rport = port
        self._ip_id = self.layer.choices.below(f"{self.layer.name}/ip.id", 1 << 16)
