"""The control block: everything one TCP connection remembers.

Sequence numbers are absolute (they do not wrap; see :func:`unwrap`), times are nanoseconds of the clock, windows and
sizes bytes. Names are those of RFC 9293 and of Linux's struct tcp_sock where the RFC has none.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from pktsim.clock import NS_PER_MS, NS_PER_US, Timer
from pktsim.kernel.task import Signal
from pktsim.kernel.tcp_congestion import Reno
from pktsim.kernel.tcp_queue import Reassembly, ReceiveQueue, SendQueue
from pktsim.kernel.tcp_rtt import RttEstimator
from pktsim.kernel.tcp_segment import TCP_HEADER, TCPOLEN_TSTAMP_ALIGNED, Segment
from pktsim.kernel.tcp_state import TcpState
from pktsim.kernel.tcp_window import HEAD_TRUESIZE, INIT_CWND, ReceiveWindow
from pktsim.kernel.transport import IPV4_HEADER, IPV6_HEADER, TimerHandle

if TYPE_CHECKING:
    from pktsim.kernel.tcp_demux import TcpDemux
    from pktsim.kernel.tcp_settings import TcpSettings

MASK32 = 0xFFFFFFFF
TCP_MIN_SND_MSS = 48
ATO_MIN_NS = 40 * NS_PER_MS  # TCP_ATO_MIN and TCP_DELACK_MIN: HZ / 25
DELACK_MAX_NS = 200 * NS_PER_MS
MAX_QUICKACKS = 16
PAWS_IDLE_NS = 24 * 86400 * 1000 * NS_PER_MS
GSO_MAX_SIZE = 65536 - 257  # sk_dst_gso_max_size: 64 KiB without MAX_TCP_HEADER + 1
GSO_MAX_SEGS = 65535


class XmitTimer(IntEnum):
    """What the one retransmission timer is armed for (icsk_pending)."""

    NONE = 0
    RETRANS = 1
    PROBE0 = 3
    LOSS_PROBE = 5
    REO_TIMEOUT = 6


def unwrap(value: int, near: int) -> int:
    """Return the absolute sequence number that is ``value`` on the wire and closest to ``near``."""
    delta = (value - near) & MASK32
    return near + (delta - (1 << 32) if delta & 0x80000000 else delta)


def ts_before(left: int, right: int) -> bool:
    """Whether time stamp ``left`` is older than ``right``, modulo 2**32."""
    return (left - right) & MASK32 > 0x7FFFFFFF


class TcpBlock:
    """State without behaviour; see :class:`~pktsim.kernel.tcp_connection.TcpConnection`."""

    def __init__(
        self,
        demux: TcpDemux,
        *,
        laddr: bytes,
        lport: int,
        raddr: bytes,
        rport: int,
        ifindex: int,
        window: ReceiveWindow,
    ) -> None:
        self.demux = demux
        self.layer = demux.layer
        self.clock = demux.layer.clock
        self.settings: TcpSettings = demux.settings
        # Who we are.
        self.laddr = laddr
        self.lport = lport
        self.raddr = raddr
        self.rport = rport
        self.ifindex = ifindex
        self.mark = 0
        self.uid = 0
        self.tos = 0
        self.ttl = 0  # 0: the namespace's default
        self.ip_id = 0
        self.flow_label = 0
        #: The IPv4 header of the segment that it began with, if that had options.
        self.answered_header = b""
        self.state = TcpState.CLOSE
        # Sending.
        self.iss = 0
        self.first_seq = 0  # where counting of acknowledged bytes begins (bytes_acked)
        self.snd_una = 0
        self.snd_nxt = 0
        self.snd_high = 0  # where data that was never sent before begins
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_sml = 0  # end of the last small segment (Minshall's variant of Nagle)
        self.write_seq = 0
        self.pushed_seq = 0
        self.max_window = 0
        self.snd_wscale = 0
        self.mss_clamp = 536
        self.mss_cache = 536
        self.advmss = 536
        self.syn_mss = 536  # what a SYN advertises: without the time stamp's bytes taken off
        self.pmtu = 0
        self.gso_segments = 0
        self.sndbuf = self.settings.wmem[1]
        self.sndbuf_locked = False
        self.queue = SendQueue()
        self.nonagle = False
        self.cork = False
        self.nospace = False
        self.last_sent_ns = 0
        # Receiving.
        self.window = window
        self.irs = 0
        self.rcv_nxt = 0
        self.copied_seq = 0
        self.received = ReceiveQueue()
        self.reassembly = Reassembly()
        self.rcv_shutdown = False
        self.fin_received = False
        self.dsack: tuple[int, int] | None = None
        # Options.
        self.timestamps = False
        self.sack_ok = False
        self.wscale_ok = False
        self.ts_offset = 0
        self.ts_recent = 0
        self.ts_recent_ns = 0
        self.ts_recent_valid = False
        self.last_ts_ecr = 0
        self.ecn_ok = False
        self.ecn_demand_cwr = False
        self.ecn_queue_cwr = False
        # Acknowledging.
        self.ack_scheduled = False
        self.ack_now = False
        self.ack_pushed = False
        self.ack_pushed2 = False
        self.ack_deferred = False
        self.in_backlog = False  # what came while a process was at work is taken in
        self.dup_acks_sent = 0
        self.compressed_acks = 0  # duplicate ACKs that one will stand for
        self.compressed_at_rcv_nxt = 0
        self.compressed_timer: Timer | None = None
        self.ack_timer: TimerHandle | None = None
        self.ack_due_ns = 0
        self.quick = 0
        self.pingpong = 0
        self.ato_ns = 0
        self.last_received_ns = 0
        self.receiver_rtt8_us = 0
        self.rtt_seq_receiver = 0
        self.rtt_start_receiver_ns = 0
        # Retransmission.
        self.rtt = RttEstimator(rto_min_us=self.settings.rto_min_us, rto_max_ns=self.settings.rto_max_ms * NS_PER_MS)
        self.reno = Reno()
        self.retransmits = 0
        self.backoff = 0
        self.total_rto = 0
        self.retrans_stamp_ns = 0
        self.probes_out = 0
        self.tlp_high_seq = 0
        self.tlp_retrans = False
        self.rack_sent_ns = 0
        self.rack_end_seq = 0
        self.rack_rtt_ns = 0
        self.rack_advanced = False
        self.rack_reo_wnd_steps = 1
        self.rack_reo_wnd_persist = 0
        self.rack_dsack_seen = False
        self.rack_last_delivered = 0
        self.reordering = self.settings.reordering  # segments that the order may be apart by
        self.reord_seen = False
        self.reno_sacked = 0  # without SACK: duplicate ACKs, each of which stands for a segment that has arrived
        self.delivered = 0
        self.lost_total = 0
        self.total_retrans = 0
        self.dsack_dups = 0
        self.undo_marker: int | None = None  # where the retransmissions began that may turn out needless
        self.undo_retrans = 0  # how many of them are not known to be so yet; -1: none was sent
        self.frto = False
        self.stamp_echo: int | None = None
        self.last_ack_ns = 0
        self.probes_began_ns = 0
        self.pacing_rate = 0  # bytes per second; 0: no measure yet
        self.in_softirq = False  # what is sent now stays in this CPU's queue until its turn comes
        self.queued_beneath = 0  # sk_wmem_alloc: memory of what is in that queue
        self.throttled = False
        self.queue_timer: Timer | None = None
        self.timer_kind = XmitTimer.NONE
        self.timer: TimerHandle | None = None
        self.state_timer: TimerHandle | None = None  # keep-alive, or the end of FIN_WAIT2
        # Limits on answers to nonsense.
        self.last_oow_ack_ns = -(1 << 62)
        # The process.
        self.changed = Signal()
        self.error: int = 0
        self.soft_error: int = 0
        self.send_shutdown = False
        self.orphan = False
        self.keepalive = False
        self.keepidle_ns = 0  # 0: as the settings say; so are the next two
        self.keepintvl_ns = 0
        self.keepcnt = 0
        self.linger2_ns = self.settings.fin_timeout * 1000 * NS_PER_MS
        self.syn_sent_ns = 0
        self.syn_retries = self.settings.syn_retries
        self.user_timeout_ns = 0
        self.recverr = False
        self.connecting_until_ns = 0
        self.error_queued = False
        self.dead = False
        self.backlog: list[tuple[Segment, int, int]] = []  # with its ECN bits and the packet's number
        self.stepwise = False  # a process sends: burst by burst, with time for what each sets off
        self.next_step: tuple[int, bool] | None = None  # how write_xmit goes on: segment size, Nagle off

    # What follows from the state.

    @property
    def now_ns(self) -> int:
        return self.clock.now_ns

    @property
    def now_us(self) -> int:
        return self.clock.now_ns // NS_PER_US

    def ts_now(self) -> int:
        """Our time stamp clock: milliseconds from an offset that is random for each pair of addresses."""
        return (self.clock.now_ns // NS_PER_MS + self.ts_offset) & MASK32

    @property
    def ip_header(self) -> int:
        return IPV4_HEADER if len(self.laddr) == 4 else IPV6_HEADER

    @property
    def header_length(self) -> int:
        """TCP header with the options that every segment carries."""
        return TCP_HEADER + (TCPOLEN_TSTAMP_ALIGNED if self.timestamps else 0)

    @property
    def wnd_end(self) -> int:
        return self.snd_una + self.snd_wnd

    @property
    def packets_out(self) -> int:
        mss = self.mss_cache
        return sum(buffer.segments(mss) for buffer in self.queue.rtx)

    @property
    def sacked_out(self) -> int:
        mss = self.mss_cache
        return self.reno_sacked + sum(buffer.segments(mss) for buffer in self.queue.rtx if buffer.sacked)

    @property
    def lost_out(self) -> int:
        mss = self.mss_cache
        return sum(buffer.segments(mss) for buffer in self.queue.rtx if buffer.lost)

    @property
    def retrans_out(self) -> int:
        mss = self.mss_cache
        return sum(buffer.segments(mss) for buffer in self.queue.rtx if buffer.retransmitted)

    @property
    def packets_in_flight(self) -> int:
        """Sent, and neither arrived nor lost; what was sent again counts again (tcp_packets_in_flight)."""
        mss = self.mss_cache
        count = -self.reno_sacked
        for buffer in self.queue.rtx:
            weight = 1 - buffer.sacked - buffer.lost + buffer.retransmitted
            if weight:
                count += weight * buffer.segments(mss)
        return max(count, 0)

    @property
    def in_pingpong(self) -> bool:
        """Whether data goes both ways in turn, so that ACKs ride on data (inet_csk_in_pingpong_mode)."""
        return self.pingpong >= self.settings.pingpong_thresh

    def expand_sndbuf(self) -> None:
        """Make the send buffer fit the congestion window (tcp_sndbuf_expand)."""
        if self.sndbuf_locked:
            return
        per_mss = max(self.mss_clamp, self.mss_cache) + HEAD_TRUESIZE - 256
        per_mss = (1 << (per_mss - 1).bit_length()) + 256
        segments = max(INIT_CWND, self.reno.cwnd, self.reordering + 1)
        need = 2 * segments * per_mss
        if self.sndbuf < need:
            self.sndbuf = min(need, self.settings.wmem[2])

    def release_send_space(self) -> None:
        """Wake a sender that waits for room, if there is enough of it (sk_stream_write_space)."""
        if self.nospace and self.sndbuf - self.queue.queued_bytes >= self.queue.queued_bytes >> 1:
            self.nospace = False
            self.changed.fire()
