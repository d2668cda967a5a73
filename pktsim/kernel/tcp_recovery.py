"""What an ACK says: what has arrived, what is lost, how much may follow.

Source: net/ipv4/tcp_input.c tcp_ack, tcp_recovery.c, Linux 6.18; RFC 2018 (SACK), RFC 8985 (RACK-TLP), RFC 6582
(NewReno), RFC 6937 (PRR). Undoing a reduction that turns out to have been needless (F-RTO, D-SACK and time stamp
undo) is not modelled: after a spurious retransmission the window is smaller than Linux's.
"""

from __future__ import annotations

from pktsim.clock import NS_PER_US
from pktsim.fidelity import approximated
from pktsim.kernel.tcp_block import MASK32, XmitTimer, unwrap
from pktsim.kernel.tcp_congestion import CaState
from pktsim.kernel.tcp_output import ALL_BUT_ENDS
from pktsim.kernel.tcp_queue import SendBuffer
from pktsim.kernel.tcp_rtt import RTO_MAX_NS
from pktsim.kernel.tcp_segment import ECE, Segment
from pktsim.kernel.tcp_state import TcpState
from pktsim.kernel.tcp_timer import TcpTimers

approximated(
    "kernel.tcp.undo",
    "a retransmission that turns out needless (F-RTO, D-SACK, time stamps) is not undone: the window stays "
    "smaller than Linux's",
    source="net/ipv4/tcp_input.c tcp_try_undo_recovery, tcp_process_loss",
)


class TcpRecovery(TcpTimers):
    """Acknowledgements and loss recovery."""

    def store_ts_recent(self, ts_val: int) -> None:
        raise NotImplementedError

    def send_challenge_ack(self) -> None:
        raise NotImplementedError

    def process_ack(self, segment: Segment, seq: int, ack: int, *, handshake: bool = False) -> int:
        """Take in an ACK (tcp_ack).

        Args:
            segment: What carries it.
            seq: Its absolute sequence number.
            ack: Its absolute acknowledgement number.
            handshake: It is the SYN-ACK, whose window is not scaled and has been taken already.

        Returns:
            1 if it is acceptable, 0 if it is an old one, -1 if it acknowledges what was never sent or is far too old.
        """
        prior_una = self.snd_una
        if ack < prior_una:
            # RFC 5961 section 5.2, and no ACK is believed that is older than the first of our bytes.
            if ack < prior_una - min(self.max_window, prior_una - self.first_seq):
                if self.state == TcpState.ESTABLISHED:
                    self.send_challenge_ack()
                return -1
            if segment.sack:
                self._take_sack(segment, prior_una)
                self._recover(0, 0, advanced=False, dup=False)
            return 0
        if ack > self.snd_nxt:
            if self.state == TcpState.ESTABLISHED:
                self.send_challenge_ack()
            return -1
        advanced = ack > prior_una
        if advanced:
            self.retransmits = 0
        if self.timestamps and segment.ts_val is not None and seq <= self.window.wup and not handshake:
            self.store_ts_recent_if_newer(segment.ts_val)
        changed = False if handshake else self._take_window(segment, seq, ack)
        self.snd_una = max(self.snd_una, ack)
        self.soft_error = 0
        self.probes_out = 0
        self.keepalive_probes = 0
        if segment.flags & ECE and self.ecn_ok:
            self.reno.enter_cwr(self.snd_nxt)
            self.ecn_queue_cwr = True
        if not self.queue.rtx:
            self._ack_probe()
            self._process_tlp(ack, advanced=advanced)
            return 1
        had_data = len(segment.payload) > 0
        newly_sacked = self._take_sack(segment, prior_una) if segment.sack else 0
        newly_acked = self._clean_rtx(ack, segment) if advanced else 0
        self._process_tlp(ack, advanced=advanced)
        dup = not advanced and not had_data and not changed
        self._recover(newly_acked, newly_sacked, advanced=advanced, dup=dup)
        if advanced:
            self.layer.stack.confirm_neighbour(self.raddr)
            self.release_send_space_after_ack()
        return 1

    def store_ts_recent_if_newer(self, ts_val: int) -> None:
        """RFC 7323 section 4.3; an old one may come with a reordered segment."""
        if not self.ts_recent_valid or (ts_val - self.ts_recent) & MASK32 < 0x80000000:
            self.store_ts_recent(ts_val)

    def release_send_space_after_ack(self) -> None:
        if self.nospace:
            if self.reno.is_cwnd_limited or self.packets_in_flight < self.reno.cwnd:
                self.expand_sndbuf()
            self.release_send_space()

    def _take_window(self, segment: Segment, seq: int, ack: int) -> bool:
        """tcp_ack_update_window; whether the window has changed."""
        window = segment.window << self.snd_wscale
        if not (
            ack > self.snd_una or seq > self.snd_wl1 or (seq == self.snd_wl1 and (window > self.snd_wnd or not window))
        ):
            return False
        self.snd_wl1 = seq
        if window == self.snd_wnd:
            return False
        self.snd_wnd = window
        if window > self.max_window:
            self.max_window = window
            self.sync_mss(self.pmtu)
        return True

    def _ack_probe(self) -> None:
        """Nothing is in flight: does the window let something go (tcp_ack_probe)?"""
        if not self.queue.write:
            return
        if self.queue.write[0].end_seq <= self.wnd_end:
            self.backoff = 0
            self.rtt.reset_rto()
            if self.timer_kind == XmitTimer.PROBE0:
                self.disarm()
        elif self.timer_kind in (XmitTimer.NONE, XmitTimer.PROBE0):
            self.arm(XmitTimer.PROBE0, min(self._probe0_base() << self.backoff, RTO_MAX_NS))

    def _clean_rtx(self, ack: int, segment: Segment) -> int:
        """Drop what is acknowledged and measure (tcp_clean_rtx_queue). Returns the number of segments."""
        queue = self.queue
        mss = self.mss_cache
        acked = 0
        first_ns = 0
        retransmitted = False
        highest_sacked = self._highest_sacked()
        while queue.rtx and queue.rtx[0].end_seq <= ack:
            buffer = queue.pop_acked()
            if not buffer.syn_fin or buffer.data:
                acked += buffer.segments(mss)
            if buffer.retransmissions:
                retransmitted = True
            else:
                first_ns = first_ns or buffer.sent_at_ns
                if highest_sacked and buffer.end_seq < highest_sacked and not buffer.sacked:
                    self.reord_seen = True
            if not buffer.sacked:
                self._rack_advance(buffer)
        if queue.rtx and queue.rtx[0].seq < ack:
            before = queue.rtx[0].segments(mss)
            if queue.rtx[0].retransmissions:
                retransmitted = True
            else:
                first_ns = first_ns or queue.rtx[0].sent_at_ns
            queue.trim_head(ack)
            acked += before - queue.rtx[0].segments(mss)
        if self.snd_sml < ack:
            self.snd_sml = ack - 1
        now_ns = self.now_ns
        rtt_us = -1
        if first_ns and not retransmitted:
            rtt_us = (now_ns - first_ns) // NS_PER_US
        elif self.timestamps and segment.ts_ecr:
            delta_ms = (self.ts_now() - segment.ts_ecr) & MASK32
            if delta_ms < 1 << 20:
                rtt_us = max(delta_ms * 1000, 1)
        if rtt_us >= 0:
            self.rtt.sample(rtt_us, self.snd_una, self.snd_nxt)
            self.backoff = 0
        self.retrans_stamp_ns = 0 if not queue.rtx else self.retrans_stamp_ns
        if not self.sack_ok:
            self.dup_acks = max(self.dup_acks - acked, 0)
        return acked

    def _highest_sacked(self) -> int:
        return max((buffer.end_seq for buffer in self.queue.rtx if buffer.sacked), default=0)

    # Selective acknowledgements.

    def _take_sack(self, segment: Segment, prior_una: int) -> int:
        """Mark what the peer reports to hold (tcp_sacktag_write_queue). Returns the number of segments newly marked."""
        if not self.sack_ok:
            return 0
        mss = self.mss_cache
        newly = 0
        highest_before = self._highest_sacked()
        for left_wire, right_wire in segment.sack:
            left, right = unwrap(left_wire, self.snd_una), unwrap(right_wire, self.snd_una)
            if left >= right or right > self.snd_nxt or left < self.snd_una:
                continue  # a report of a duplicate (RFC 2883), or nonsense
            index = 0
            while index < len(self.queue.rtx):
                buffer = self.queue.rtx[index]
                if buffer.seq >= right:
                    break
                if not buffer.sacked and buffer.end_seq > left:
                    index += self._isolate(index, left, right, mss)
                    buffer = self.queue.rtx[index]
                    if left <= buffer.seq and buffer.end_seq <= right:
                        buffer.sacked = True
                        newly += buffer.segments(mss)
                        if not buffer.retransmissions and buffer.end_seq < highest_before:
                            self.reord_seen = True
                        self._rack_advance(buffer)
                        buffer.lost = False
                        buffer.retransmitted = False
                index += 1
        return newly

    def _isolate(self, index: int, left: int, right: int, mss: int) -> int:
        """Split the buffer so that whole segments inside [left, right) stand alone (tcp_match_skb_to_sack).

        Returns how many buffers further on the one to look at is.
        """
        buffer = self.queue.rtx[index]
        moved = 0
        if buffer.seq < left < buffer.end_seq and buffer.data:
            length = -(-(left - buffer.seq) // mss) * mss
            if length >= len(buffer.data):
                return 0
            self.queue.split_rtx(index, length, ALL_BUT_ENDS)
            moved = 1
            buffer = self.queue.rtx[index + 1]
        if buffer.seq < right < buffer.end_seq and buffer.data:
            length = (right - buffer.seq) // mss * mss
            if length and length < len(buffer.data):
                self.queue.split_rtx(index + moved, length, ALL_BUT_ENDS)
        return moved

    # RACK (RFC 8985).

    def _rack_advance(self, buffer: SendBuffer) -> None:
        rtt_ns = self.now_ns - buffer.sent_at_ns
        if buffer.retransmissions and rtt_ns < self.rtt.min_rtt_us * NS_PER_US:
            return  # more likely the original's
        self.rack_advanced = True
        self.rack_rtt_ns = rtt_ns
        if (buffer.sent_at_ns, buffer.end_seq) > (self.rack_sent_ns, self.rack_end_seq):
            self.rack_sent_ns = buffer.sent_at_ns
            self.rack_end_seq = buffer.end_seq

    def _rack_window_ns(self) -> int:
        """How much reordering is allowed for (tcp_rack_reo_wnd)."""
        if not self.reord_seen and (self.reno.state >= CaState.RECOVERY or self.sacked_out >= self.settings.reordering):
            return 0
        return min(self.rtt.min_rtt_us >> 2, self.rtt.srtt_us >> 3) * NS_PER_US

    def _rack_detect(self) -> tuple[bool, int]:
        """Mark what was sent well before something that has arrived (tcp_rack_detect_loss).

        Returns:
            Whether anything is newly lost, and how long until more might be.
        """
        window_ns = self._rack_window_ns()
        now_ns = self.now_ns
        wait_ns = 0
        found = False
        for buffer in self.queue.rtx:
            if buffer.sacked or (buffer.lost and not buffer.retransmitted):
                continue
            if (buffer.sent_at_ns, buffer.end_seq) >= (self.rack_sent_ns, self.rack_end_seq):
                continue
            left_ns = self.rack_rtt_ns + window_ns - (now_ns - buffer.sent_at_ns)
            if left_ns <= 0:
                buffer.lost = True
                buffer.retransmitted = False
                found = True
            else:
                wait_ns = max(wait_ns, left_ns)
        return found, wait_ns

    def on_reordering_timeout(self) -> None:
        """tcp_rack_reo_timeout."""
        found, wait_ns = self._rack_detect()
        if found and self.reno.state not in (CaState.RECOVERY, CaState.LOSS):
            self.reno.enter_recovery(self.snd_nxt)
            self.reno.reduce(in_flight=self.packets_in_flight, newly_delivered=1, newly_lost=1, advanced=False)
        if wait_ns:
            self.arm(XmitTimer.REO_TIMEOUT, wait_ns)
        self.retransmit_lost()
        if self.timer_kind not in (XmitTimer.RETRANS, XmitTimer.REO_TIMEOUT):
            self.timer_kind = XmitTimer.REO_TIMEOUT  # the time-out counts from when the oldest segment was sent
            self.rearm_rto()

    # The state of recovery.

    def _recover(self, newly_acked: int, newly_sacked: int, *, advanced: bool, dup: bool) -> None:
        """tcp_fastretrans_alert, tcp_cong_control and tcp_xmit_recovery."""
        reno = self.reno
        if not self.sack_ok and dup:
            self.dup_acks += 1
        reo_wait_ns = 0
        found = False
        if self.sack_ok and self.rack_advanced and self.queue.rtx:
            self.rack_advanced = False
            found, reo_wait_ns = self._rack_detect()
        elif not self.sack_ok and self.queue.rtx:
            found = self._newreno_detect(advanced=advanced)
        # A window that was reduced without loss stays so until something sent after that is acknowledged.
        passed = self.snd_una > reno.high_seq if reno.state == CaState.CWR else self.snd_una >= reno.high_seq
        if reno.state >= CaState.CWR and passed:
            reno.end_reduction(self.now_ns)
            reno.state = CaState.OPEN
            self.retrans_stamp_ns = 0
            self.dup_acks = 0
        if found and reno.state < CaState.RECOVERY:
            reno.enter_recovery(self.snd_nxt)
        if reno.state in (CaState.OPEN, CaState.DISORDER):
            held = self.sacked_out or self.dup_acks_held
            reno.state = CaState.DISORDER if held else CaState.OPEN
            if not held and not self.queue.rtx:
                self.retrans_stamp_ns = 0
        delivered = newly_acked + newly_sacked
        if reno.in_reduction:
            reno.reduce(
                in_flight=self.packets_in_flight,
                newly_delivered=delivered + (1 if dup and not self.sack_ok else 0),
                newly_lost=int(found),
                advanced=advanced,
            )
        elif newly_acked:
            reno.acked(newly_acked, self.now_ns)
        if advanced or newly_sacked or reo_wait_ns or found:
            if reo_wait_ns:
                self.arm(XmitTimer.REO_TIMEOUT, reo_wait_ns)
            elif not self.schedule_loss_probe(advancing=True):
                self.rearm_rto()
        if reno.state in (CaState.RECOVERY, CaState.LOSS):
            self.retransmit_lost()

    def _newreno_detect(self, *, advanced: bool) -> bool:
        """Without SACK: three duplicates, or an ACK of part of the window, mean the first segment is lost."""
        head = self.queue.rtx[0]
        if head.lost and not head.retransmitted:
            return False
        partial = advanced and self.reno.state == CaState.RECOVERY and self.snd_una < self.reno.high_seq
        third = self.reno.state < CaState.RECOVERY and self.dup_acks >= self.settings.reordering
        if not (partial or third):
            return False
        if head.segments(self.mss_cache) > 1:
            self.queue.split_rtx(0, self.mss_cache, ALL_BUT_ENDS)
        head.lost = True
        head.retransmitted = False
        return True

    def _process_tlp(self, ack: int, *, advanced: bool) -> None:
        """See whether the tail loss probe repaired a loss (tcp_process_tlp_ack)."""
        if not self.tlp_high_seq or ack < self.tlp_high_seq:
            return
        if not self.tlp_retrans:
            self.tlp_high_seq = 0
        elif ack > self.tlp_high_seq:
            # The probe filled a hole: pay for the loss, without a recovery to go through.
            self.reno.enter_cwr(self.snd_nxt)
            self.reno.end_reduction(self.now_ns)
            self.reno.state = CaState.OPEN
            self.tlp_high_seq = 0
        elif not advanced:
            self.tlp_high_seq = 0  # a duplicate ACK: both arrived
