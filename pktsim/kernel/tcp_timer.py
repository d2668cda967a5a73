"""What a TCP connection does when nothing comes: retransmit, probe, and give up.

Source: net/ipv4/tcp_timer.c, Linux 6.18.
"""

from __future__ import annotations

import errno

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from pktsim.kernel.tcp_block import XmitTimer
from pktsim.kernel.tcp_congestion import CaState
from pktsim.kernel.tcp_output import ALL_BUT_ENDS, TcpOutput
from pktsim.kernel.tcp_rtt import RTO_INITIAL_NS, RTO_MAX_NS, RTO_MIN_US
from pktsim.kernel.tcp_state import TcpState

_HANDSHAKE = (TcpState.SYN_SENT, TcpState.SYN_RECV)
_RTO_MIN_NS = RTO_MIN_US * NS_PER_US


def model_timeout_ns(boundary: int, base_ns: int) -> int:
    """How long ``boundary`` retransmissions with exponential back-off from ``base_ns`` take (tcp_model_timeout)."""
    doublings = (RTO_MAX_NS // base_ns).bit_length() - 1
    if boundary <= doublings:
        return ((2 << boundary) - 1) * base_ns
    return ((2 << doublings) - 1) * base_ns + (boundary - doublings) * RTO_MAX_NS


class TcpTimers(TcpOutput):
    """The handlers of the timers."""

    def fail(self, error: int) -> None:
        """End the connection: the process gets ``error`` (tcp_done_with_error)."""
        raise NotImplementedError

    def on_timer(self) -> None:
        """tcp_write_timer_handler."""
        kind, self.timer_kind = self.timer_kind, XmitTimer.NONE
        self.timer = None
        if self.state in (TcpState.CLOSE, TcpState.LISTEN):
            return
        if kind == XmitTimer.RETRANS:
            self._on_retransmission_timeout()
        elif kind == XmitTimer.LOSS_PROBE:
            self._send_loss_probe(kind)
        elif kind == XmitTimer.REO_TIMEOUT:
            self.on_reordering_timeout()
        elif kind == XmitTimer.PROBE0:
            self._on_probe_timer()

    def on_reordering_timeout(self) -> None:
        raise NotImplementedError

    def enter_loss(self) -> None:
        """Everything in flight is taken for lost (tcp_enter_loss, tcp_timeout_mark_lost)."""
        rtx = self.queue.rtx
        reneged = bool(rtx) and rtx[0].sacked  # the peer has thrown away what it had reported
        now_ns = self.now_ns
        for index, buffer in enumerate(rtx):
            if reneged:
                buffer.sacked = False
            if buffer.sacked or (index and now_ns - buffer.sent_at_ns < self.rack_rtt_ns):
                continue
            buffer.lost = True
            buffer.retransmitted = False
        self.dup_acks = 0
        fresh = self.snd_una >= self.reno.high_seq or (self.in_loss and not self.retransmits)
        self.reno.enter_loss(self.snd_nxt, self.packets_in_flight, fresh=fresh)
        self.tlp_high_seq = 0
        self.ecn_queue_cwr = self.ecn_ok

    def _timed_out(self, boundary: int, timeout_ns: int = 0) -> bool:
        """retransmits_timed_out."""
        if not self.retransmits:
            return False
        if not timeout_ns:
            base_ns = RTO_INITIAL_NS if self.state in _HANDSHAKE else _RTO_MIN_NS
            timeout_ns = model_timeout_ns(boundary, base_ns)
        start_ns = self.retrans_stamp_ns or self.queue.rtx[0].sent_at_ns
        return self.now_ns - start_ns >= timeout_ns

    def _orphan_retries(self, *, alive: bool) -> int:
        retries = self.settings.orphan_retries
        if self.soft_error and not alive:
            retries = 0
        return 8 if not retries and alive else retries

    def _give_up(self) -> bool:
        """Whether it has been tried often enough (tcp_write_timeout)."""
        settings = self.settings
        expired = False
        if self.state in _HANDSHAKE:
            most = self.syn_retries
            if self.state == TcpState.SYN_SENT:
                most += settings.syn_linear_timeouts
            expired = self.retransmits >= most
        else:
            until = settings.retries2
            if self.orphan:
                until = self._orphan_retries(alive=self.rtt.rto_ns < RTO_MAX_NS)
            expired = self._timed_out(until, self.user_timeout_ns)
        if expired:
            self.fail(self.soft_error or errno.ETIMEDOUT)
        return expired

    def _on_retransmission_timeout(self) -> None:
        """tcp_retransmit_timer."""
        queue = self.queue
        if not queue.rtx:
            return
        if not self.snd_wnd and not self.orphan and self.state not in _HANDSHAKE:
            # The peer has taken its window back: retransmissions are window probes now, for two minutes of silence.
            if self.now_ns - max(self.last_received_ns, queue.rtx[0].sent_at_ns - self.rtt.rto_ns) > RTO_MAX_NS:
                self.fail(self.soft_error or errno.ETIMEDOUT)
                return
            self.enter_loss()
            self.retransmit(0, 1)
            self._back_off()
            return
        if self._give_up():
            return
        self.enter_loss()
        self.retransmits += 1
        self.total_rto += 1
        self.rethink_flow_label()
        self.retransmit(0, 1)
        self._back_off()

    def _back_off(self) -> None:
        if self.state != TcpState.SYN_SENT or self.total_rto > self.settings.syn_linear_timeouts:
            self.backoff += 1
            self.rtt.back_off()
        self.arm(XmitTimer.RETRANS, self.rtt.rto_ns)

    def rethink_flow_label(self) -> None:
        """After a time-out the flow takes another path, if there are several (sk_rethink_txhash)."""
        if len(self.laddr) == 16:
            self.flow_label = self.layer.new_flow_label()

    def _send_loss_probe(self, kind: XmitTimer) -> None:
        """tcp_send_loss_probe."""
        queue = self.queue
        if queue.rtx and not self.tlp_high_seq:
            self.tlp_retrans = False
            mss = self.current_mss()
            before = len(queue.rtx)
            sent = False
            if queue.write and min(queue.write[0].end_seq, queue.write[0].seq + mss) <= self.wnd_end:
                self.write_xmit(mss, nagle_off=True, probe=True)
                sent = len(queue.rtx) > before
            else:
                last = len(queue.rtx) - 1
                segments = queue.rtx[last].segments(mss)
                if segments > 1:
                    queue.split_rtx(last, (segments - 1) * mss, ALL_BUT_ENDS)
                    last += 1
                sent = self.retransmit(last, 1, probe=True)
                self.tlp_retrans = sent
            if sent:
                self.tlp_high_seq = self.snd_nxt
                self.timer_kind = XmitTimer.NONE  # so that the time-out counts from now
                self.rearm_rto()
                return
        self.timer_kind = kind  # so that the time-out counts from when the oldest segment was sent
        self.rearm_rto()

    def _on_probe_timer(self) -> None:
        """Ask whether the window is open again (tcp_probe_timer, tcp_send_probe0)."""
        if self.queue.rtx or not self.queue.write:
            self.probes_out = 0
            self.backoff = 0
            return
        most = self.settings.retries2
        if self.orphan:
            alive = self._probe0_base() << self.backoff < RTO_MAX_NS
            most = self._orphan_retries(alive=alive)
        if self.probes_out >= most:
            self.fail(self.soft_error or errno.ETIMEDOUT)
            return
        self.write_wakeup()
        if self.queue.rtx or not self.queue.write:
            self.probes_out = 0
            self.backoff = 0
            return
        self.probes_out += 1
        if self.backoff < self.settings.retries2:
            self.backoff += 1
        self.arm(XmitTimer.PROBE0, min(self._probe0_base() << self.backoff, RTO_MAX_NS))

    def _probe0_base(self) -> int:
        return max(self.rtt.rto_ns, _RTO_MIN_NS)

    # Keep-alive and FIN_WAIT2.

    def arm_state_timer(self, delay_ns: int) -> None:
        if self.state_timer is not None:
            self.state_timer.cancel()
        self.state_timer = self.layer.timer(delay_ns, self.on_state_timer)

    def on_state_timer(self) -> None:
        """tcp_keepalive_timer."""
        self.state_timer = None
        if self.state in (TcpState.CLOSE, TcpState.SYN_SENT, TcpState.LISTEN) or not self.keepalive:
            return
        settings = self.settings
        idle_ns = self.now_ns - max(self.last_received_ns, self.last_sent_ns if self.queue.rtx else 0)
        time_ns = settings.keepalive_time * NS_PER_S
        if self.queue.rtx or self.queue.write or idle_ns < time_ns:
            self.arm_state_timer(time_ns - idle_ns if idle_ns < time_ns else time_ns)
            return
        if self.keepalive_probes >= settings.keepalive_probes:
            self.send_active_reset()
            self.fail(errno.ETIMEDOUT)
            return
        self.send_probe()
        self.keepalive_probes += 1
        self.arm_state_timer(settings.keepalive_intvl * NS_PER_S)

    @property
    def in_loss(self) -> bool:
        return self.reno.state == CaState.LOSS

    def out_of_window_limited(self) -> bool:
        """Whether an answer to a segment out of window would come too soon after the last (tcp_oow_rate_limited)."""
        limit_ns = self.settings.invalid_ratelimit_ms * NS_PER_MS
        if 0 <= self.now_ns - self.last_oow_ack_ns < limit_ns:
            return True
        self.last_oow_ack_ns = self.now_ns
        return False
