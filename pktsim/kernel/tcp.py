"""TCP sockets: what a process holds. Addresses are text here; an IPv6 socket is for IPv6 only."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.datagram import os_error
from pktsim.kernel.task import sleep
from pktsim.kernel.tcp_connection import TcpConnection
from pktsim.kernel.tcp_listen import TcpListener, seconds_to_retransmissions
from pktsim.kernel.tcp_state import CAN_SEND, TcpState
from pktsim.kernel.tcp_window import ReceiveWindow, initial_window
from pktsim.kernel.transport import AF_INET, ANY, IPV4_HEADER, IPV6_HEADER, OutputRoute, address_bytes, meant
from pktsim.wire.addr import ip_to_text

if TYPE_CHECKING:
    from pktsim.kernel.tcp_demux import TcpDemux

_MIN_ADVMSS = {AF_INET: 256, 10: 1220}
_MAX_ADVMSS = 65535 - 40
_FIN_TIMEOUT_MAX_S = 120
#: A write that had the kernel send something returns this much later: on one CPU the receiver has run meanwhile.
TRANSMIT_NS = 60_000
#: From one burst of a write to the next: as above more than a round trip (16 us by way of three nodes and their
#: tunnels), but less than it takes to have another process run (WAKE_NS in task.py), because packets interrupt a system
#: call and processes do not.
BURST_NS = 17_000


def _checked(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise os_error(errno.EINVAL)
    return value


class TcpSocket:
    """One TCP socket.

    Attributes:
        nodelay: TCP_NODELAY, off as by default.
        keepalive: SO_KEEPALIVE.
        reuse_address: SO_REUSEADDR.
        mss: TCP_MAXSEG, 0 for none.
        ttl: IP_TTL, 0 for the namespace's default.
        mark: SO_MARK.
        rcvbuf: SO_RCVBUF as the kernel doubles it; set it with :meth:`set_rcvbuf`.
    """

    listening = False
    port_by_connect = False

    def __init__(self, demux: TcpDemux, family: int) -> None:
        self._demux = demux
        self.layer = demux.layer
        self.family = family
        self.laddr = ANY[family]
        self.lport = 0
        self.ifindex = 0
        self.mark = 0
        self.uid = 0
        self.tos = 0
        self.ttl = 0
        self.nodelay = False
        self.keepalive = False
        self.reuse_address = False
        self.mss = 0
        self.rcvbuf = demux.settings.rmem[1]
        self.rcvbuf_locked = False
        self.sndbuf = 0
        self.syn_retries = demux.settings.syn_retries
        self.cork = False
        self.keepidle_s = 0
        self.keepintvl_s = 0
        self.keepcnt = 0
        self.user_timeout_ms = 0
        self.linger2_s = 0
        self.linger_s = -1
        self.defer_accept = 0
        self.closed = False
        self._bound = False
        self._listener: TcpListener | None = None
        self._connection: TcpConnection | None = None

    # Options.

    def set_rcvbuf(self, size: int) -> None:
        """SO_RCVBUF: a buffer of twice ``size``, which does not grow any more."""
        self.rcvbuf = max(2 * size, 2304)
        self.rcvbuf_locked = True

    def set_nodelay(self, on: bool = True) -> None:
        """TCP_NODELAY; what was held back goes now."""
        self.nodelay = on
        connection = self._connection
        if connection is not None:
            connection.nonagle = on
            if on and connection.state in CAN_SEND:
                connection.push_pending()

    def set_cork(self, on: bool = True) -> None:
        """TCP_CORK: only full segments; what was held back goes when it is taken off, or after 200 ms."""
        self.cork = on
        connection = self._connection
        if connection is not None:
            connection.cork = on
            if not on and connection.state in CAN_SEND:
                connection.push_pending(nagle_off=self.nodelay)

    def set_quickack(self, on: bool = True) -> None:
        """TCP_QUICKACK: acknowledge at once, until data goes the other way again; or wait for that."""
        connection = self._connection
        if connection is None:
            return
        connection.pingpong = 0 if on else max(connection.pingpong, connection.settings.pingpong_thresh)
        if on and connection.state in CAN_SEND and connection.ack_scheduled:
            connection.ack_pushed = True
            connection.after_read(1)

    def set_keepalive(
        self, on: bool = True, *, idle_s: int | None = None, interval_s: int | None = None, count: int | None = None
    ) -> None:
        """SO_KEEPALIVE, and TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT where they are given."""
        if idle_s is not None:
            self.keepidle_s = _checked(idle_s, 1, 32767)
        if interval_s is not None:
            self.keepintvl_s = _checked(interval_s, 1, 32767)
        if count is not None:
            self.keepcnt = _checked(count, 1, 127)
        was = self.keepalive
        self.keepalive = on
        connection = self._connection
        if connection is None:
            return
        connection.keepalive = on
        connection.keepidle_ns = self.keepidle_s * NS_PER_S
        connection.keepintvl_ns = self.keepintvl_s * NS_PER_S
        connection.keepcnt = self.keepcnt
        if connection.state in (TcpState.CLOSE, TcpState.LISTEN):
            return
        if on and (not was or idle_s is not None):
            # tcp_set_keepalive; a new time counts from what came last (tcp_sock_set_keepidle_locked)
            idle_ns = connection.keepidle_ns or connection.settings.keepalive_time * NS_PER_S
            if was:
                idle_ns = max(idle_ns - connection.idle_ns(), 0)
            connection.arm_state_timer(idle_ns)
        elif was and not on:
            connection.cancel_state_timer()

    def set_user_timeout(self, milliseconds: int) -> None:
        """TCP_USER_TIMEOUT: how long sent data may stay unacknowledged; 0 is as the settings say."""
        self.user_timeout_ms = _checked(milliseconds, 0, 0x7FFFFFFF)
        if self._connection is not None:
            self._connection.user_timeout_ns = milliseconds * NS_PER_MS

    def set_linger(self, seconds: int) -> None:
        """SO_LINGER: with 0, closing resets. A process that waits in close() for longer is not modelled.

        Raises:
            UnsupportedFeature: ``seconds`` is more than 0; -1 takes the option off.
        """
        if seconds > 0:
            raise UnsupportedFeature("SO_LINGER with a time", mend="0, or none")
        self.linger_s = seconds

    def set_linger2(self, seconds: int) -> None:
        """TCP_LINGER2: how long FIN_WAIT2 lasts without a process; less than 0: not at all, but a RST."""
        self.linger2_s = -1 if seconds < 0 else min(seconds, _FIN_TIMEOUT_MAX_S)
        if self._connection is not None:
            default_s = self.linger2_s or self._demux.settings.fin_timeout
            self._connection.linger2_ns = default_s * NS_PER_S

    def set_syncnt(self, count: int) -> None:
        """TCP_SYNCNT: how often a SYN is sent again."""
        self.syn_retries = _checked(count, 1, 127)
        if self._connection is not None:
            self._connection.syn_retries = count

    def set_defer_accept(self, seconds: int) -> None:
        """TCP_DEFER_ACCEPT: a listener wakes its process only when data has come, for about so long."""
        self.defer_accept = seconds_to_retransmissions(seconds)

    def take_error(self) -> int:
        """SO_ERROR: the error that is pending, which is none any more then; 0 for none."""
        connection = self._connection
        if connection is None:
            return 0
        error, connection.error = connection.error, 0
        return error

    def copy_options(self, connection: TcpConnection) -> None:
        """Give a connection what was set on the socket."""
        connection.mark = self.mark
        connection.uid = self.uid
        connection.tos = self.tos
        connection.ttl = self.ttl
        connection.nonagle = self.nodelay
        connection.keepalive = self.keepalive
        connection.reuse_address = self.reuse_address
        connection.user_mss = self.mss
        connection.syn_retries = self.syn_retries
        connection.cork = self.cork
        connection.keepidle_ns = self.keepidle_s * NS_PER_S
        connection.keepintvl_ns = self.keepintvl_s * NS_PER_S
        connection.keepcnt = self.keepcnt
        connection.user_timeout_ns = self.user_timeout_ms * NS_PER_MS
        if self.linger2_s:
            connection.linger2_ns = self.linger2_s * NS_PER_S
        if self.sndbuf:
            connection.sndbuf = 2 * self.sndbuf
            connection.sndbuf_locked = True

    def advertised_mss(self, mtu: int, family: int) -> int:
        """The segment size to advertise on a route (ipv4_default_advmss, tcp_mss_clamp)."""
        headers = (IPV4_HEADER if family == AF_INET else IPV6_HEADER) + 20
        mss = min(max(mtu - headers, _MIN_ADVMSS[family]), _MAX_ADVMSS)
        return min(mss, self.mss) if self.mss else mss

    # Addresses and state.

    @property
    def connection(self) -> TcpConnection | None:
        """The protocol machine, for those who want to look at it."""
        return self._connection

    @property
    def state(self) -> TcpState:
        if self._listener is not None:
            return TcpState.LISTEN
        return TcpState.CLOSE if self._connection is None else self._connection.state

    @property
    def local_address(self) -> tuple[str, int]:
        return ip_to_text(self.laddr), self.lport

    @property
    def remote_address(self) -> tuple[str, int] | None:
        connection = self._connection
        return None if connection is None else (ip_to_text(connection.raddr), connection.rport)

    def _check_open(self) -> None:
        if self.closed:
            raise os_error(errno.EBADF)

    def _established(self) -> TcpConnection:
        self._check_open()
        connection = self._connection
        if connection is None or connection.state in (TcpState.SYN_SENT, TcpState.SYN_RECV):
            raise os_error(errno.ENOTCONN)
        return connection

    # Opening.

    def bind(self, address: str = "", port: int = 0) -> None:
        """Take a local address and port; port 0 means any free one.

        Raises:
            OSError: ``EADDRINUSE``, ``EADDRNOTAVAIL``, ``EINVAL`` if it is bound already.
        """
        self._check_open()
        if self._bound:
            raise os_error(errno.EINVAL)
        laddr = address_bytes(address, self.family)
        self.layer.check_bindable(laddr)
        self.lport = self._demux.claim(self, laddr, port)
        self.laddr = laddr
        self._bound = True

    def listen(self, backlog: int = 128) -> None:
        """Accept connections; an unbound socket gets a port first."""
        self._check_open()
        if self._connection is not None:
            raise os_error(errno.EINVAL)
        if self._listener is not None:
            self._listener.backlog = backlog
            return
        if not self._bound:
            self.bind()
        if self._demux.conflict(self, self.laddr, self.lport):
            raise os_error(errno.EADDRINUSE)
        self.listening = True
        self._listener = TcpListener(self._demux, self, backlog)
        self._demux.listeners.setdefault(self.lport, []).append(self._listener)

    async def accept(self, timeout_ns: int | None = None) -> TcpSocket:
        """Wait for a connection.

        Raises:
            TimeoutError: None came within ``timeout_ns``.
            OSError: ``EINVAL`` if it does not listen (any more).
        """
        self._check_open()
        listener = self._listener
        if listener is None:
            raise os_error(errno.EINVAL)
        deadline = None if timeout_ns is None else self.layer.clock.now_ns + timeout_ns
        while not listener.accepted:
            left = None if deadline is None else deadline - self.layer.clock.now_ns
            if left is not None and left <= 0:
                raise TimeoutError("no connection came in time")
            await listener.changed.wait(left)
            if listener.closed:
                raise os_error(errno.EINVAL)
        socket = TcpSocket(self._demux, self.family)
        socket._adopt(listener.accepted.popleft())
        return socket

    def _adopt(self, connection: TcpConnection) -> None:
        self._connection = connection
        self.laddr = connection.laddr
        self.lport = connection.lport
        self.nodelay = connection.nonagle

    def start_connect(self, address: str, port: int) -> None:
        """Send the SYN and return at once, like a non-blocking ``connect``.

        Raises:
            OSError: No route, no free port, ``EISCONN``...
        """
        self._check_open()
        if self._listener is not None or self._connection is not None:
            raise os_error(errno.EISCONN)
        raddr = meant(address_bytes(address, self.family), self.laddr)
        bound = b"" if self.laddr == ANY[self.family] else self.laddr
        route: OutputRoute = self.layer.stack.route_output(raddr, saddr=bound, ifindex=self.ifindex, mark=self.mark)
        if route.broadcast:
            raise os_error(errno.ENETUNREACH)
        if not self._bound:
            lport = self._demux.choose_port(route.saddr, raddr, port)
        else:
            lport = self.lport
            if (route.saddr, lport, raddr, port) in self._demux.connections:
                raise os_error(errno.EADDRNOTAVAIL)
        self.laddr = route.saddr
        self.lport = lport
        advmss = self.advertised_mss(route.mtu, self.family)
        wnd, clamp, wscale = initial_window(
            self._demux.settings, self.rcvbuf, advmss, wscale_ok=bool(self._demux.settings.window_scaling)
        )
        window = ReceiveWindow(
            self._demux.settings, rcvbuf=self.rcvbuf, locked=self.rcvbuf_locked, wnd=wnd, clamp=clamp, wscale=wscale
        )
        connection = TcpConnection(
            self._demux,
            laddr=route.saddr,
            lport=lport,
            raddr=raddr,
            rport=port,
            ifindex=self.ifindex,
            window=window,
        )
        connection.port_by_connect = not self._bound
        self.copy_options(connection)
        if self._bound:
            self._demux.release(self, lport)  # the connection holds it from here on
            self._bound = False
        self._connection = connection
        connection.connecting_until_ns = self.layer.clock.now_ns + TRANSMIT_NS
        connection.open(route.mtu, advmss)

    async def connect(self, address: str, port: int, timeout_ns: int | None = None) -> None:
        """Connect. With ``timeout_ns`` as programs do that poll, without as those that block.

        Raises:
            TimeoutError: Not within ``timeout_ns`` (the attempt goes on until the socket is closed), or the kernel has
                given up (errno ``ETIMEDOUT``).
            OSError: Refused, unreachable, no route, no free port...
        """
        self.start_connect(address, port)
        connection = self._connection
        assert connection is not None
        deadline = None if timeout_ns is None else self.layer.clock.now_ns + timeout_ns
        while connection.state in (TcpState.SYN_SENT, TcpState.SYN_RECV):
            left = None if deadline is None else deadline - self.layer.clock.now_ns
            if left is not None and left <= 0:
                raise TimeoutError(f"no answer from {address} port {port} in time")
            await connection.changed.wait(left)
            if self.closed:
                raise os_error(errno.EBADF)
            if connection.error_queued and connection.soft_error and timeout_ns is not None:
                raise os_error(connection.soft_error)  # SO_ERROR, asked for because poll() said so
        if connection.error:
            error, connection.error = connection.error, 0
            raise os_error(error)

    # Data.

    def send(self, data: bytes) -> int:
        """Write what fits the send buffer now; return how much that was.

        Raises:
            OSError: ``EPIPE``, ``ECONNRESET``, ``ENOTCONN``, ``EAGAIN`` if nothing fits.
        """
        connection = self._established()
        self._check_writable(connection)
        taken = connection.send_some(memoryview(data), blocking_step=False)
        if not taken and data:
            connection.nospace = True
            raise os_error(errno.EAGAIN)
        return taken

    def _check_writable(self, connection: TcpConnection) -> None:
        if connection.error:
            error, connection.error = connection.error, 0
            raise os_error(error)
        if connection.send_shutdown or connection.state not in CAN_SEND:
            raise os_error(errno.EPIPE)

    async def sendall(self, data: bytes) -> None:
        """Write everything, waiting for room as often as needed.

        Each burst that goes out takes the time of a transmission, in which ACKs come back: see :data:`BURST_NS`.
        The last one takes none: what the process does next is its own time.

        Raises:
            OSError: As :meth:`send`.
        """
        view = memoryview(data)
        connection = self._established()
        if not view:
            return
        connection.own(stepwise=True)
        try:
            while True:
                self._check_open()
                self._check_writable(connection)
                taken = connection.send_some(view, blocking_step=True)
                view = view[taken:]
                several = connection.next_step is not None
                while connection.next_step is not None:
                    await sleep(self.layer.clock, BURST_NS)
                    connection.go_on()
                if not view:
                    if several:
                        await sleep(self.layer.clock, BURST_NS)
                        await self._release(connection)
                    return
                if taken and connection.send_room():
                    await sleep(self.layer.clock, BURST_NS)
                    continue
                await self._release(connection)
                if not connection.send_room():
                    connection.nospace = True
                    await connection.changed.wait()
                connection.own(stepwise=True)
        finally:
            connection.release()

    async def _release(self, connection: TcpConnection) -> None:
        """Let go of the connection after what came meanwhile: a burst that it sets off is like those of a write."""
        while connection.release_step():
            await sleep(self.layer.clock, BURST_NS)

    async def recv(self, limit: int = 65536, timeout_ns: int | None = None) -> bytes:
        """Wait for data and read up to ``limit`` bytes of it; empty at the end of the stream.

        Raises:
            TimeoutError: Nothing came within ``timeout_ns``.
            OSError: ``ECONNRESET``, ``ETIMEDOUT``, ``ENOTCONN``...
        """
        deadline = None if timeout_ns is None else self.layer.clock.now_ns + timeout_ns
        while True:
            connection = self._established()
            if connection.received.length:
                return connection.read(limit)
            if connection.fin_received:
                return b""  # whatever happened after the end of the stream (SOCK_DONE)
            if connection.error:
                error, connection.error = connection.error, 0
                raise os_error(error)
            if connection.rcv_shutdown or connection.dead:
                return b""
            left = None if deadline is None else deadline - self.layer.clock.now_ns
            if left is not None and left <= 0:
                raise TimeoutError("nothing came in time")
            await connection.changed.wait(left)

    # Closing.

    def shutdown_write(self) -> None:
        """Send a FIN; reading goes on."""
        self._established().shutdown_write()

    def close(self) -> None:
        """Let go of it: a FIN if all was read, a RST if not. The kernel sees the rest through."""
        self._end(reset=False)

    def abort(self) -> None:
        """Let go of it with a RST (SO_LINGER with time 0)."""
        self._end(reset=True)

    def _end(self, *, reset: bool) -> None:
        if self.closed:
            return
        self.closed = True
        if self._listener is not None:
            self._listener.close()
        if self._bound:
            self._demux.release(self, self.lport)
            self._bound = False
        if self._connection is not None:
            self._connection.changed.fire()
            self._connection.close(reset=reset or self.linger_s == 0)
