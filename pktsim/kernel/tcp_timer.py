"""What a TCP connection does when nothing comes: retransmit, probe, and give up.

Source: net/ipv4/tcp_timer.c, Linux 6.18.
"""

from __future__ import annotations

import errno

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from pktsim.kernel.tcp_block import XmitTimer
from pktsim.kernel.tcp_congestion import CaState
from pktsim.kernel.tcp_output import ALL_BUT_ENDS, TcpOutput
from pktsim.kernel.tcp_rtt import RTO_INITIAL_NS, RTO_MAX_NS, RTO_MIN_US, TIMEWAIT_NS
from pktsim.kernel.tcp_state import TcpState

_HANDSHAKE = (TcpState.SYN_SENT, TcpState.SYN_RECV)
_RTO_MIN_NS = RTO_MIN_US * NS_PER_US
_THIN_LINEAR_RETRIES = 6


def model_timeout_ns(boundary: int, base_ns: int, max_ns: int = RTO_MAX_NS) -> int:
    """How long ``boundary`` retransmissions with exponential back-off from ``base_ns`` take (tcp_model_timeout)."""
    doublings = (max_ns // base_ns).bit_length() - 1
    if boundary <= doublings:
        return ((2 << boundary) - 1) * base_ns
    return ((2 << doublings) - 1) * base_ns + (boundary - doublings) * max_ns


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
        self.in_softirq = True
        self._handle_timer(kind)
        self.in_softirq = False

    def _handle_timer(self, kind: XmitTimer) -> None:
        if kind == XmitTimer.RETRANS:
            self._on_retransmission_timeout()
        elif kind == XmitTimer.LOSS_PROBE:
            self._send_loss_probe(kind)
        elif kind == XmitTimer.REO_TIMEOUT:
            self.timer_kind = kind  # so that the time-out counts from when the oldest segment was sent
            self.on_reordering_timeout()
        elif kind == XmitTimer.PROBE0:
            self._on_probe_timer()

    def on_reordering_timeout(self) -> None:
        raise NotImplementedError

    def init_undo(self) -> None:
        """From here on repetitions are counted that may turn out needless (tcp_init_undo)."""
        self.undo_marker = self.snd_una
        self.undo_retrans = self.retrans_out + bool(self.tlp_high_seq and self.tlp_retrans) or -1

    def enter_loss(self) -> None:
        """Everything in flight is taken for lost (tcp_enter_loss, tcp_timeout_mark_lost)."""
        reno = self.reno
        fresh = reno.state < CaState.RECOVERY
        rtx = self.queue.rtx
        sacked = self.sacked_out
        reneged = bool(rtx) and rtx[0].sacked  # the peer has thrown away what it had reported
        if not self.sack_ok:
            self.reno_sacked = 0
        now_ns = self.now_ns
        for index, buffer in enumerate(rtx):
            if reneged:
                buffer.sacked = False
            elif index and now_ns - buffer.sent_at_ns < self.rack_rtt_ns:
                continue
            self.mark_lost(buffer)
        if reno.state <= CaState.DISORDER or self.snd_una >= reno.high_seq or (self.in_loss and not self.retransmits):
            reno.begin_loss()
            self.init_undo()
        # Many duplicates, and still a time-out: so much was not out of order.
        if reno.state <= CaState.DISORDER and sacked >= self.settings.reordering:
            self.reordering = min(self.reordering, self.settings.reordering)
        reno.enter_loss(self.snd_nxt, self.packets_in_flight, now_ns)
        self.tlp_high_seq = 0
        self.ecn_queue_cwr = self.ecn_ok
        self.frto = bool(self.settings.frto) and (fresh or self.retransmits > 0)

    def _timed_out(self, boundary: int, timeout_ns: int = 0) -> bool:
        """retransmits_timed_out."""
        if not self.retransmits:
            return False
        if not timeout_ns:
            base_ns = RTO_INITIAL_NS if self.state in _HANDSHAKE else _RTO_MIN_NS
            timeout_ns = model_timeout_ns(boundary, base_ns, self.rtt.rto_max_ns)
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
        until = settings.retries2
        if self.state in _HANDSHAKE:
            until = self.syn_retries
            most = until + (settings.syn_linear_timeouts if self.state == TcpState.SYN_SENT else 0)
            expired = self.retransmits >= most
        elif self.orphan:
            until = self._orphan_retries(alive=self.rtt.rto_ns < self.rtt.rto_max_ns)
        if expired or self._timed_out(until, self.user_timeout_ns):
            self.fail(self.soft_error or errno.ETIMEDOUT)
            return True
        return False

    def _on_retransmission_timeout(self) -> None:
        """tcp_retransmit_timer."""
        queue = self.queue
        if not queue.rtx:
            return
        if not self.snd_wnd and not self.orphan and self.state not in _HANDSHAKE:
            # The peer has taken its window back: retransmissions are window probes now, for as long as it answers.
            if self._window_probes_timed_out():
                self.fail(self.soft_error or errno.ETIMEDOUT)
                return
            self.enter_loss()
            self.retransmit(0, 1)
        else:
            if self._give_up():
                return
            self.enter_loss()
            self.retransmits += 1
            self.total_rto += 1
            self.rethink_flow_label()
            self.retransmit(0, 1)
        self._back_off()

    def _window_probes_timed_out(self) -> bool:
        """tcp_rtx_probe0_timed_out."""
        timeout_ns = 2 * self.rtt.rto_max_ns
        if self.user_timeout_ns:
            timeout_ns = min(timeout_ns, self.user_timeout_ns)
        if self.now_ns - self.last_ack_ns <= timeout_ns:
            return False
        return self.now_ns - (self.retrans_stamp_ns or self.queue.rtx[0].sent_at_ns) > timeout_ns

    def _back_off(self) -> None:
        thin = (
            self.settings.thin_linear_timeouts
            and self.state == TcpState.ESTABLISHED
            and self.packets_out < 4
            and not self.reno.in_slow_start_from_the_beginning
            and self.retransmits <= _THIN_LINEAR_RETRIES
        )
        if thin:
            self.backoff = 0
            self.rtt.reset_rto()
        elif self.state != TcpState.SYN_SENT or self.total_rto > self.settings.syn_linear_timeouts:
            self.backoff += 1
            self.rtt.back_off()
        self.arm(XmitTimer.RETRANS, self._clamp_rto())

    def _clamp_rto(self) -> int:
        """No longer than TCP_USER_TIMEOUT allows (tcp_clamp_rto_to_user_timeout)."""
        if not self.user_timeout_ns:
            return self.rtt.rto_ns
        left_ns = self.user_timeout_ns - (self.now_ns - (self.retrans_stamp_ns or self.now_ns))
        return min(self.rtt.rto_ns, max(left_ns, 1))

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
            self.probes_began_ns = 0
            return
        expired = False
        if not self.probes_began_ns:
            self.probes_began_ns = self.now_ns
        elif self.user_timeout_ns:
            expired = self.now_ns - self.probes_began_ns >= self.user_timeout_ns
        most = self.settings.retries2
        if self.orphan:
            alive = self.probe0_base() << self.backoff < self.rtt.rto_max_ns
            most = self._orphan_retries(alive=alive)
            expired = expired or (not alive and self.backoff >= most)
        if expired or self.probes_out >= most:
            self.fail(self.soft_error or errno.ETIMEDOUT)
            return
        self.write_wakeup()
        if self.queue.rtx or not self.queue.write:
            self.probes_out = 0
            self.backoff = 0
            self.probes_began_ns = 0
            return
        self.probes_out += 1
        if self.backoff < self.settings.retries2:
            self.backoff += 1
        self.arm(XmitTimer.PROBE0, self.clamp_probe0(min(self.probe0_base() << self.backoff, self.rtt.rto_max_ns)))

    def probe0_base(self) -> int:
        return max(self.rtt.rto_ns, _RTO_MIN_NS)

    def clamp_probe0(self, delay_ns: int) -> int:
        """tcp_clamp_probe0_to_user_timeout."""
        if not self.user_timeout_ns or not self.probes_began_ns:
            return delay_ns
        return min(delay_ns, max(self.user_timeout_ns - (self.now_ns - self.probes_began_ns), 1))

    # Keep-alive and FIN_WAIT2.

    def arm_state_timer(self, delay_ns: int) -> None:
        if self.state_timer is not None:
            self.state_timer.cancel()
        self.state_timer = self.layer.timer(delay_ns, self.on_state_timer)

    def cancel_state_timer(self) -> None:
        if self.state_timer is not None:
            self.state_timer.cancel()
            self.state_timer = None

    def fin_time(self) -> int:
        """How long FIN_WAIT2 lasts without a process (tcp_fin_time)."""
        return max(self.linger2_ns, (self.rtt.rto_ns << 2) - (self.rtt.rto_ns >> 1))

    def end_fin_wait2(self, duration_ns: int) -> None:
        """Leave a small stand-in behind, for that long."""
        raise NotImplementedError

    def idle_ns(self) -> int:
        """How long nothing has come (keepalive_time_elapsed)."""
        return self.now_ns - max(self.last_received_ns, self.last_ack_ns)

    def on_state_timer(self) -> None:
        """tcp_keepalive_timer."""
        self.state_timer = None
        if self.state == TcpState.FIN_WAIT2 and self.orphan:
            left_ns = self.fin_time() - TIMEWAIT_NS
            if self.linger2_ns >= 0 and left_ns > 0:
                self.end_fin_wait2(left_ns)
            else:
                self.send_active_reset()
                self.fail(0)
            return
        if self.state in (TcpState.CLOSE, TcpState.SYN_SENT, TcpState.LISTEN) or not self.keepalive:
            return
        time_ns = self.keepidle_ns or self.settings.keepalive_time * NS_PER_S
        if self.queue.rtx or self.queue.write:
            self.arm_state_timer(time_ns)
            return
        idle_ns = self.idle_ns()
        if idle_ns < time_ns:
            self.arm_state_timer(time_ns - idle_ns)
            return
        if self.user_timeout_ns:
            expired = idle_ns >= self.user_timeout_ns and self.probes_out > 0
        else:
            expired = self.probes_out >= (self.keepcnt or self.settings.keepalive_probes)
        if expired:
            self.send_active_reset()
            self.fail(self.soft_error or errno.ETIMEDOUT)
            return
        self.write_wakeup()
        self.probes_out += 1
        self.arm_state_timer(self.keepintvl_ns or self.settings.keepalive_intvl * NS_PER_S)

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
