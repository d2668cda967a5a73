"""What is left of a connection that is over: TIME_WAIT, and FIN_WAIT2 without a process.

It remembers just enough to answer late segments (net/ipv4/tcp_minisocks.c, tcp_timewait_state_process, Linux 6.18;
RFC 9293 section 3.10.7.4, RFC 6191).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pktsim.clock import NS_PER_MS
from pktsim.kernel.icmp_error import IcmpError
from pktsim.kernel.tcp_block import MASK32, PAWS_IDLE_NS, ts_before, unwrap
from pktsim.kernel.tcp_rtt import TIMEWAIT_NS
from pktsim.kernel.tcp_segment import ACK, FIN, RST, SYN, Segment
from pktsim.kernel.tcp_state import TcpState
from pktsim.kernel.transport import IpPacket, TimerHandle
from pktsim.netfilter.opcodes import DropReason

if TYPE_CHECKING:
    from pktsim.kernel.tcp_connection import TcpConnection


class TimeWait:
    """A stand-in in the table of connections."""

    listening = False

    def __init__(self, connection: TcpConnection, substate: TcpState, duration_ns: int) -> None:
        self.demux = connection.demux
        self.state = substate
        self.laddr = connection.laddr
        self.lport = connection.lport
        self.raddr = connection.raddr
        self.rport = connection.rport
        self.family = connection.family
        self.ifindex = connection.ifindex
        self.mark = connection.mark
        self.tos = connection.tos
        self.reuse_address = connection.reuse_address
        self.port_by_connect = connection.port_by_connect
        self.rcv_nxt = connection.rcv_nxt
        self.snd_nxt = connection.snd_nxt
        self.rcv_wnd = connection.window.receive_window(connection.rcv_nxt)
        self.rcv_wscale = connection.window.wscale
        self.timestamps = connection.timestamps
        self.ts_recent = connection.ts_recent
        self.ts_recent_ns = connection.ts_recent_ns
        self._last_oow_ack_ns = -(1 << 62)
        self._timer: TimerHandle | None = None
        self._schedule(duration_ns)

    @property
    def key(self) -> tuple[bytes, int, bytes, int]:
        return self.laddr, self.lport, self.raddr, self.rport

    def _schedule(self, duration_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.demux.layer.timer(duration_ns, self.kill)

    def kill(self) -> None:
        """Forget the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.demux.connections.get(self.key) is self:
            del self.demux.connections[self.key]
            self.demux.release(self, self.lport)

    def icmp(self, error: IcmpError) -> None:
        """Nobody is left to be told."""

    def deliver(self, segment: Segment, packet: IpPacket, *, ifindex: int, pkt_id: int = 0) -> DropReason | None:
        """A segment for what is over. Returns why it is dropped, if it is."""
        now_ns = self.demux.layer.clock.now_ns
        flags = segment.flags
        seq = unwrap(segment.seq, self.rcv_nxt)
        end_seq = seq + segment.length
        stamped = self.timestamps and segment.ts_val is not None
        paws_reject = (
            stamped
            and segment.ts_val is not None
            and ts_before(segment.ts_val, self.ts_recent)
            and now_ns - self.ts_recent_ns < PAWS_IDLE_NS
            and not flags & RST
        )
        if self.state == TcpState.FIN_WAIT2:
            return self._in_fin_wait2(segment, packet, seq, end_seq, paws_reject=paws_reject)
        if not paws_reject and seq == self.rcv_nxt and (seq == end_seq or flags & RST):
            if flags & RST:
                if self.demux.settings.rfc1337:
                    return DropReason.TCP_RESET
                self.kill()
                return None
            self._schedule(TIMEWAIT_NS)
            self._remember(segment)
            return None
        newer = stamped and segment.ts_val is not None and ts_before(self.ts_recent, segment.ts_val)
        if flags & SYN and not flags & (RST | ACK) and not paws_reject and (seq > self.rcv_nxt or newer):
            listener = self.demux.find_listener(packet.daddr, segment.dport, ifindex)
            if listener is not None:
                # A new connection in place of the old one, with sequence numbers beyond all that it used.
                self.kill()
                isn = (self.snd_nxt + 65535 + 2) & MASK32 or 1
                return listener.deliver(segment, packet, ifindex=ifindex, isn=isn)
        if not flags & RST:
            if paws_reject or flags & ACK:
                self._schedule(TIMEWAIT_NS)
            self._acknowledge_limited(segment)
        if paws_reject:
            return DropReason.TCP_RFC7323_TW_PAWS
        return DropReason.TCP_OLD_SEQUENCE if end_seq <= self.rcv_nxt else DropReason.TCP_INVALID_SEQUENCE

    def _in_fin_wait2(
        self, segment: Segment, packet: IpPacket, seq: int, end_seq: int, *, paws_reject: bool
    ) -> DropReason | None:
        flags = segment.flags
        in_window = (
            seq == end_seq == self.rcv_nxt
            or (end_seq > self.rcv_nxt and seq < self.rcv_nxt + self.rcv_wnd)
            or (seq == end_seq and self.rcv_nxt <= seq <= self.rcv_nxt + self.rcv_wnd)
        )
        if paws_reject or not in_window:
            self._acknowledge_limited(segment)
            return DropReason.TCP_RFC7323_TW_PAWS if paws_reject else DropReason.TCP_INVALID_SEQUENCE
        if flags & RST:
            self.kill()
            return None
        if flags & SYN and seq >= self.rcv_nxt:
            self._reset(segment)
            return DropReason.TCP_INVALID_SYN
        if not flags & ACK:
            return DropReason.TCP_FLAGS
        if end_seq == seq:
            return None
        if end_seq <= self.rcv_nxt:
            return DropReason.TCP_OLD_DATA
        if not flags & FIN or end_seq != self.rcv_nxt + 1:
            self._reset(segment)  # data for a process that has gone
            return DropReason.TCP_ABORT_ON_DATA
        self.state = TcpState.TIME_WAIT
        self.rcv_nxt = end_seq
        self._remember(segment)
        self._schedule(TIMEWAIT_NS)
        self._acknowledge(segment)
        return None

    def _reset(self, segment: Segment) -> None:
        self.demux.send_reset(segment, self.laddr, self.raddr, ifindex=self.ifindex, mark=self.mark)
        self.kill()

    def _remember(self, segment: Segment) -> None:
        if self.timestamps and segment.ts_val is not None:
            self.ts_recent = segment.ts_val
            self.ts_recent_ns = self.demux.layer.clock.now_ns

    def _acknowledge_limited(self, segment: Segment) -> None:
        now_ns = self.demux.layer.clock.now_ns
        if not segment.payload or segment.flags & SYN:
            if now_ns - self._last_oow_ack_ns < self.demux.settings.invalid_ratelimit_ms * NS_PER_MS:
                return
            self._last_oow_ack_ns = now_ns
        self._acknowledge(segment)

    def _acknowledge(self, segment: Segment) -> None:
        """tcp_v4_timewait_ack."""
        self.demux.send_unbound(
            Segment(
                self.lport,
                self.rport,
                self.snd_nxt & MASK32,
                self.rcv_nxt & MASK32,
                ACK,
                self.rcv_wnd >> self.rcv_wscale & 0xFFFF,  # without scaling it may be larger, and is cut
                ts_val=self.demux.ts_now(self.laddr, self.raddr) if self.timestamps else None,
                ts_ecr=self.ts_recent if self.timestamps else 0,
            ),
            self.laddr,
            self.raddr,
            ifindex=self.ifindex,
            tos=self.tos,
            mark=segment.reply_mark or self.mark,
        )
