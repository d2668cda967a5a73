"""Listening: half-open connections, and the queue of those that wait to be accepted.

Source: net/ipv4/tcp_input.c tcp_conn_request, tcp_minisocks.c tcp_check_req and tcp_create_openreq_child,
inet_connection_sock.c reqsk_timer_handler, Linux 6.18. SYN cookies are not modelled: a SYN beyond the backlog is
dropped, as with net.ipv4.tcp_syncookies=0.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from pktsim.fidelity import approximated
from pktsim.kernel.icmp_error import IcmpError
from pktsim.kernel.task import Signal
from pktsim.kernel.tcp_block import MASK32, PAWS_IDLE_NS, ts_before, unwrap
from pktsim.kernel.tcp_demux import way_back
from pktsim.kernel.tcp_rtt import RTO_MAX_NS
from pktsim.kernel.tcp_segment import ACK, CWR, ECE, FIN, RST, SYN, Segment, build_segment
from pktsim.kernel.tcp_state import TcpState
from pktsim.kernel.tcp_window import ReceiveWindow, initial_window
from pktsim.kernel.transport import IpPacket, TimerHandle, build_ip, family_of
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire.frame import IPPROTO_TCP

if TYPE_CHECKING:
    from pktsim.kernel.tcp import TcpSocket
    from pktsim.kernel.tcp_connection import TcpConnection
    from pktsim.kernel.tcp_demux import TcpDemux

approximated(
    "kernel.tcp.syncookies",
    "a SYN beyond the backlog is dropped, as with net.ipv4.tcp_syncookies=0; Linux's default answers it with a cookie",
    source="net/ipv4/syncookies.c",
)

_SYNACK_TIMEOUT_NS = NS_PER_S
_MIN_MSS_OPTION = 536


def seconds_to_retransmissions(seconds: int) -> int:
    """How many retransmissions with exponential back-off take that long (secs_to_retrans); at most 255."""
    count = 0
    if seconds > 0:
        timeout_s = period_s = 1
        count = 1
        while seconds > period_s and count < 255:
            count += 1
            timeout_s = min(timeout_s << 1, RTO_MAX_NS // NS_PER_S)
            period_s += timeout_s
    return count


class TcpListener:
    """A listening socket."""

    listening = True

    def __init__(self, demux: TcpDemux, socket: TcpSocket, backlog: int) -> None:
        self.demux = demux
        self.socket = socket
        self.family = socket.family
        self.laddr = socket.laddr
        self.lport = socket.lport
        self.ifindex = socket.ifindex
        self.reuse_address = socket.reuse_address
        self.backlog = backlog
        self.requests = 0
        self.young = 0  # those whose SYN-ACK was not sent again yet
        self.accepted: deque[TcpConnection] = deque()
        self.changed = Signal()
        self.closed = False

    def deliver(self, segment: Segment, packet: IpPacket, *, ifindex: int, isn: int | None = None) -> DropReason | None:
        """A segment for the port that belongs to no connection (tcp_rcv_state_process in LISTEN).

        Returns:
            Why it is dropped, if it is.
        """
        flags = segment.flags
        if flags & RST:
            return DropReason.TCP_RESET
        if flags & ACK:
            self.demux.send_reset(segment, packet.daddr, packet.saddr, ifindex=way_back(packet, ifindex))
            return DropReason.TCP_FLAGS
        if not flags & SYN or flags & FIN:
            return DropReason.TCP_FLAGS
        if len(self.accepted) > self.backlog or self.requests > max(self.backlog, 8):
            return DropReason.TCP_LISTEN_OVERFLOW
        request = TcpRequest(self, segment, packet, isn=isn)
        return None if request.answered else DropReason.NO_ROUTE

    def most_retries(self) -> int:
        """How often a SYN-ACK is sent again: less, the more old requests there are (reqsk_timer_handler)."""
        most = self.demux.settings.synack_retries
        if self.requests << 1 > max(8, self.backlog):
            young = self.young << 1
            while most > 2 and self.requests >= young:
                most -= 1
                young <<= 1
        return most

    def close(self) -> None:
        """Stop; whoever is not accepted yet is reset (inet_csk_listen_stop)."""
        self.closed = True
        listeners = self.demux.listeners[self.lport]
        listeners.remove(self)
        if not listeners:
            del self.demux.listeners[self.lport]
        for endpoint in list(self.demux.connections.values()):
            if isinstance(endpoint, TcpRequest) and endpoint.listener is self:
                endpoint.drop()
        while self.accepted:
            connection = self.accepted.popleft()
            connection.orphan = True
            if connection.state != TcpState.CLOSE:
                connection.send_active_reset()
                connection.fail(0)
        self.changed.fire()


class TcpRequest:
    """A connection of which only the SYN has come (TCP_NEW_SYN_RECV)."""

    state = TcpState.SYN_RECV

    def __init__(self, listener: TcpListener, segment: Segment, packet: IpPacket, *, isn: int | None) -> None:
        demux = listener.demux
        settings = demux.settings
        socket = listener.socket
        self.listener = listener
        self.demux = demux
        self.laddr = packet.daddr
        self.lport = segment.dport
        self.raddr = packet.saddr
        self.rport = segment.sport
        self.irs = segment.seq
        self.rcv_nxt = segment.seq + 1
        self.timestamps = bool(settings.timestamps) and segment.ts_val is not None
        self.ts_recent = segment.ts_val or 0
        self.ts_recent_ns = demux.layer.clock.now_ns
        self.sack_ok = bool(settings.sack) and segment.sack_permitted
        self.wscale_ok = bool(settings.window_scaling) and segment.wscale >= 0
        self.snd_wscale = max(segment.wscale, 0)
        self.mss = segment.mss or _MIN_MSS_OPTION
        self.ecn_ok = bool(settings.ecn) and segment.flags & (ECE | CWR) == ECE | CWR
        self.syn_tos = packet.tos
        self.answered_header = segment.answered_header
        self.retransmissions = 0
        self.timeouts = 0
        self.acked = False
        self.answered = False
        self.sent_ns = demux.layer.clock.now_ns
        self.timeout_ns = _SYNACK_TIMEOUT_NS
        self._last_oow_ack_ns = -(1 << 62)
        self._timer: TimerHandle | None = None
        self.flow_label = demux.layer.new_flow_label() if len(self.laddr) == 16 else 0
        try:
            route = demux.layer.stack.route_output(
                self.raddr, saddr=self.laddr, ifindex=listener.ifindex, mark=socket.mark
            )
        except OSError:
            return  # no way back: no answer
        self.answered = True
        self.mtu = route.mtu
        self.advmss = socket.advertised_mss(route.mtu, family_of(self.laddr))
        wnd, clamp, wscale = initial_window(
            settings,
            socket.rcvbuf,
            self.advmss - (12 if self.timestamps else 0),
            wscale_ok=self.wscale_ok,
        )
        self.window = ReceiveWindow(
            settings, rcvbuf=socket.rcvbuf, locked=socket.rcvbuf_locked, wnd=wnd, clamp=clamp, wscale=wscale
        )
        self.window.wup = self.rcv_nxt
        self.isn = demux.isn(self.key) if isn is None else isn
        demux.connections[self.key] = self
        listener.requests += 1
        listener.young += 1
        self._send_syn_ack()
        self._schedule(self.timeout_ns)

    @property
    def key(self) -> tuple[bytes, int, bytes, int]:
        return self.laddr, self.lport, self.raddr, self.rport

    def _send_syn_ack(self) -> None:
        """tcp_make_synack: the IP identification is 0, because DF is set and no socket exists yet."""
        demux = self.demux
        segment = Segment(
            self.lport,
            self.rport,
            self.isn,
            self.rcv_nxt & MASK32,
            SYN | ACK | (ECE if self.ecn_ok else 0),
            min(self.window.wnd, 65535),
            mss=self.advmss,
            wscale=self.window.wscale if self.wscale_ok else -1,
            sack_permitted=self.sack_ok,
            ts_val=demux.ts_now(self.laddr, self.raddr) if self.timestamps else None,
            ts_ecr=self.ts_recent if self.timestamps else 0,
        )
        socket = self.listener.socket
        packet = build_ip(
            self.laddr,
            self.raddr,
            IPPROTO_TCP,
            build_segment(segment, self.laddr, self.raddr),
            ttl=socket.ttl
            or demux.layer.default_ttl(self.raddr, saddr=self.laddr, ifindex=self.listener.ifindex, mark=socket.mark),
            tos=socket.tos,
            flow_label=self.flow_label,
            options=demux.layer.ip_options(self.answered_header, self.laddr),
        )
        try:
            demux.layer.stack.send_ip(
                packet, ifindex=self.listener.ifindex, mark=socket.mark, uid=socket.uid, checksum_partial=True
            )
        except OSError:
            return

    def _schedule(self, delay_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.demux.layer.timer(delay_ns, self._expire)

    def _expire(self) -> None:
        """reqsk_timer_handler."""
        listener = self.listener
        most = listener.most_retries()
        defer = listener.socket.defer_accept
        expired = self.timeouts >= most and not (defer and self.acked and self.timeouts < defer)
        if expired:
            self.drop()
            return
        # syn_ack_recalc: an ACK has come, and data is waited for
        if not defer or not self.acked or self.timeouts >= defer - 1:
            self.retransmissions += 1
            self._send_syn_ack()
        if not self.timeouts:
            listener.young -= 1
        self.timeouts += 1
        self._schedule(min(self.timeout_ns << self.timeouts, RTO_MAX_NS))

    def drop(self) -> None:
        """Forget it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.demux.connections.get(self.key) is self:
            del self.demux.connections[self.key]
            self.listener.requests -= 1
            if not self.timeouts:
                self.listener.young -= 1

    def icmp(self, error: IcmpError) -> None:
        """tcp_req_err: only an error about our own SYN-ACK counts."""
        if int.from_bytes(error.quoted.payload[4:8], "big") == self.isn and error.fatal:
            self.drop()

    def _limited(self) -> bool:
        now_ns = self.demux.layer.clock.now_ns
        if now_ns - self._last_oow_ack_ns < self.demux.settings.invalid_ratelimit_ms * NS_PER_MS:
            return True
        self._last_oow_ack_ns = now_ns
        return False

    def _acknowledge(self, segment: Segment) -> None:
        """tcp_v4_reqsk_send_ack."""
        self.demux.send_unbound(
            Segment(
                self.lport,
                self.rport,
                (self.isn + 1) & MASK32,
                self.rcv_nxt & MASK32,
                ACK,
                min(self.window.wnd, 65535) >> self.window.wscale,
                ts_val=self.demux.ts_now(self.laddr, self.raddr) if self.timestamps else None,
                ts_ecr=self.ts_recent,
            ),
            self.laddr,
            self.raddr,
            mark=segment.reply_mark,
        )

    def deliver(self, segment: Segment, packet: IpPacket, *, ifindex: int, pkt_id: int = 0) -> DropReason | None:
        """tcp_check_req. Returns why the segment is dropped, if it is."""
        flags = segment.flags
        now_ns = self.demux.layer.clock.now_ns
        seq = unwrap(segment.seq, self.rcv_nxt)
        end_seq = seq + segment.length
        paws_reject = (
            self.timestamps
            and segment.ts_val is not None
            and ts_before(segment.ts_val, self.ts_recent)
            and now_ns - self.ts_recent_ns < PAWS_IDLE_NS
        )
        if seq == self.irs and flags & (SYN | ACK | RST) == SYN and not paws_reject:
            # The SYN again: so ours was lost.
            if not self._limited():
                self.retransmissions += 1
                self._send_syn_ack()
                self._schedule(min(self.timeout_ns << self.timeouts, RTO_MAX_NS))
            return None
        if flags & ACK and segment.ack != (self.isn + 1) & MASK32:
            self.demux.send_reset(segment, self.laddr, self.raddr)
            return DropReason.TCP_INVALID_ACK_SEQUENCE
        edge = self.rcv_nxt + self.window.wnd
        in_window = seq == self.rcv_nxt or (end_seq > self.rcv_nxt and seq < edge)
        if paws_reject or not in_window:
            if not flags & RST and not self._limited():
                self._acknowledge(segment)
            return DropReason.TCP_RFC7323_PAWS if paws_reject else DropReason.TCP_INVALID_SEQUENCE
        if self.timestamps and segment.ts_val is not None and seq <= self.rcv_nxt:
            self.ts_recent = segment.ts_val
            self.ts_recent_ns = now_ns
        if seq == self.irs:
            flags &= ~SYN
        if flags & (RST | SYN):
            if not flags & RST:
                self.demux.send_reset(segment, self.laddr, self.raddr)
            self.drop()
            return None if flags & RST else DropReason.TCP_INVALID_SYN
        if not flags & ACK:
            return DropReason.TCP_FLAGS
        if self.timeouts < self.listener.socket.defer_accept and end_seq == self.rcv_nxt:
            self.acked = True  # TCP_DEFER_ACCEPT: no data yet
            return None
        if len(self.listener.accepted) > self.listener.backlog:
            if self.demux.settings.abort_on_overflow:
                self.demux.send_reset(segment, self.laddr, self.raddr)
                self.drop()
            else:
                self.acked = True
            return DropReason.TCP_LISTEN_OVERFLOW
        return self._become_connection(segment, packet)

    def _become_connection(self, segment: Segment, packet: IpPacket) -> DropReason | None:
        """tcp_v4_syn_recv_sock, tcp_create_openreq_child and the rest of the handshake."""
        from pktsim.kernel.tcp_connection import TcpConnection

        listener = self.listener
        self.drop()
        connection = TcpConnection(
            self.demux,
            laddr=self.laddr,
            lport=self.lport,
            raddr=self.raddr,
            rport=self.rport,
            ifindex=listener.ifindex,
            window=self.window,
        )
        listener.socket.copy_options(connection)
        now_ns = self.demux.layer.clock.now_ns
        connection.state = TcpState.SYN_RECV
        connection.iss = self.isn
        connection.first_seq = connection.snd_una = connection.snd_nxt = self.isn + 1
        connection.write_seq = connection.pushed_seq = connection.snd_sml = connection.snd_high = self.isn + 1
        connection.irs = self.irs
        connection.rcv_nxt = connection.copied_seq = self.rcv_nxt
        connection.timestamps = self.timestamps
        connection.sack_ok = self.sack_ok
        connection.wscale_ok = self.wscale_ok
        connection.snd_wscale = self.snd_wscale if self.wscale_ok else 0
        connection.ecn_ok = self.ecn_ok
        connection.ts_offset = self.demux.ts_offset(self.laddr, self.raddr)
        if self.timestamps:
            connection.store_ts_recent(self.ts_recent)
        connection.mss_clamp = min(self.mss, connection.user_mss or self.mss)
        connection.advmss = self.advmss - (12 if self.timestamps else 0)
        connection.flow_label = self.flow_label
        connection.answered_header = self.answered_header
        connection.reuse_address = listener.reuse_address
        connection.ip_id = self.demux.layer.choices.below(f"{self.demux.layer.name}/ip.id", 1 << 16)
        connection.snd_wnd = segment.window << connection.snd_wscale
        connection.max_window = connection.snd_wnd
        connection.snd_wl1 = unwrap(segment.seq, self.rcv_nxt)
        connection.sync_mss(self.mtu)
        if not self.retransmissions:
            connection.take_handshake_rtt((now_ns - self.sent_ns) // NS_PER_US)
        elif self.timestamps and segment.ts_ecr:
            delta_ms = (self.demux.ts_now(self.laddr, self.raddr) - segment.ts_ecr) & MASK32
            if delta_ms < 1 << 20:
                connection.take_handshake_rtt(max(delta_ms, 1) * 1000)
        connection.total_retrans = self.retransmissions
        connection.register()
        connection.passive_established()
        listener.accepted.append(connection)
        listener.changed.fire()
        return connection.receive(segment, ecn=packet.tos & 3)
