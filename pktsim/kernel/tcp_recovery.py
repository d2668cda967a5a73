"""What an ACK says: what has arrived, what is lost, how much may follow.

Source: net/ipv4/tcp_input.c tcp_ack, Linux 6.18; RFC 5682 (F-RTO), RFC 6582 (NewReno), RFC 6937 (PRR), RFC 8985
(TLP). A reduction that turns out needless is undone: by D-SACK, by time stamps (RFC 3522), by F-RTO.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from pktsim.clock import NS_PER_MS, NS_PER_US
from pktsim.kernel.tcp_block import MASK32, XmitTimer
from pktsim.kernel.tcp_congestion import CaState
from pktsim.kernel.tcp_output import ALL_BUT_ENDS
from pktsim.kernel.tcp_rtt import RTO_MAX_NS
from pktsim.kernel.tcp_sack import (
    ACK_MAYBE_DELAYED,
    ACKED,
    CA_ALERT,
    DATA,
    DATA_ACKED,
    DATA_SACKED,
    DSACK_TLP,
    DSACKING_ACK,
    ECN_ECHO,
    FORWARD_PROGRESS,
    LOST_RETRANS,
    NOT_DUP,
    ORIG_SACK_ACKED,
    RETRANS_DATA_ACKED,
    SACK_RENEGING,
    SET_XMIT_TIMER,
    SND_UNA_ADVANCED,
    SYN_ACKED,
    WIN_UPDATE,
    AckInfo,
    TcpSack,
)
from pktsim.kernel.tcp_segment import ECE, SYN, Segment
from pktsim.kernel.tcp_state import TcpState

_RENEGING_MIN_NS: Final = 10 * NS_PER_MS


class Rexmit(IntEnum):
    """What is to be sent after an ACK (REXMIT_*)."""

    NONE = 0
    LOST = 1
    NEW = 2


class TcpRecovery(TcpSack):
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
        if segment.ts_val is not None:
            self.stamp_echo = segment.ts_ecr
        info = AckInfo(stamp_echo=segment.ts_ecr if segment.ts_val is not None else None)
        if ack < prior_una:
            # RFC 5961 section 5.2, and no ACK is believed that is older than the first of our bytes.
            if ack < prior_una - min(self.max_window, prior_una - self.first_seq):
                if self.state == TcpState.ESTABLISHED:
                    self.send_challenge_ack()
                return -1
            if segment.sack:
                self.tag_sacks(segment, ack, prior_una, info)
                self._send_after(self._alert(prior_una, 0, info))
            return 0
        if ack > self.snd_nxt:
            if self.state == TcpState.ESTABLISHED:
                self.send_challenge_ack()
            return -1
        if ack > prior_una:
            info.flag |= SND_UNA_ADVANCED
            self.retransmits = 0
        prior_fack = self.highest_sack() if self.sack_ok else prior_una
        delivered, lost = self.delivered, self.lost_total
        if self.timestamps and segment.ts_val is not None and seq <= self.window.wup and not handshake:
            self.store_ts_recent_if_newer(segment.ts_val)
        if segment.length:
            info.flag |= DATA
        if not handshake and self._take_window(segment, seq, ack):
            info.flag |= WIN_UPDATE
        self.snd_una = max(self.snd_una, ack)
        if segment.sack:
            self.tag_sacks(segment, ack, prior_una, info)
        if segment.flags & ECE and self.ecn_ok and not segment.flags & SYN:
            info.flag |= ECN_ECHO
        self.soft_error = 0
        self.probes_out = 0
        self.last_ack_ns = self.now_ns
        if not self.queue.rtx:
            if info.flag & DSACKING_ACK:
                self._alert(prior_una, 0, info)
            self._ack_probe()
            self._process_tlp(ack, info)
            return 1
        self._clean_rtx(ack, prior_una, prior_fack, delivered, info)
        self.rack_update_window(info)
        self._process_tlp(ack, info)
        rexmit = Rexmit.NONE
        if not info.flag & NOT_DUP or info.flag & CA_ALERT or self.reno.state != CaState.OPEN:
            duplicate = not info.flag & (SND_UNA_ADVANCED | NOT_DUP | DSACKING_ACK)
            rexmit = self._alert(prior_una, int(duplicate), info)
        if info.flag & SET_XMIT_TIMER and not self.schedule_loss_probe(advancing=True):
            self.rearm_rto()
        if info.flag & FORWARD_PROGRESS or not info.flag & NOT_DUP:
            self.layer.stack.confirm_neighbour(self.raddr)
        self._control(self.delivered - delivered, self.lost_total - lost, info)
        self._send_after(rexmit)
        if ack > prior_una:
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
        """tcp_ack_update_window; whether the segment's word on the window counts."""
        window = segment.window << self.snd_wscale
        if not (
            ack > self.snd_una or seq > self.snd_wl1 or (seq == self.snd_wl1 and (window > self.snd_wnd or not window))
        ):
            return False
        self.snd_wl1 = seq
        if window != self.snd_wnd:
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
            self.probes_began_ns = 0
            if self.timer_kind == XmitTimer.PROBE0:
                self.disarm()
        elif self.timer_kind in (XmitTimer.NONE, XmitTimer.PROBE0):
            self.arm(XmitTimer.PROBE0, self.clamp_probe0(min(self.probe0_base() << self.backoff, RTO_MAX_NS)))

    # What is acknowledged.

    def _clean_rtx(self, ack: int, prior_una: int, prior_fack: int, prior_delivered: int, info: AckInfo) -> None:
        """Drop what is acknowledged and measure (tcp_clean_rtx_queue)."""
        queue = self.queue
        mss = self.mss_cache
        prior_sacked = self.sacked_out
        acked = 0
        first_ns = last_ns = 0
        lowest = self.snd_nxt
        whole = True
        while queue.rtx:
            buffer = queue.rtx[0]
            count = buffer.segments(mss)
            if buffer.end_seq > ack:
                if count == 1 or ack <= buffer.seq:
                    break
                before, seq, end_seq = count, buffer.seq, buffer.end_seq
                queue.trim_head(ack)
                count = before - buffer.segments(mss)
                if not count:
                    break
                whole = False
            else:
                seq, end_seq = buffer.seq, buffer.end_seq
            if buffer.retransmissions:
                info.flag |= RETRANS_DATA_ACKED
            elif not buffer.sacked:
                last_ns = buffer.sent_at_ns
                first_ns = first_ns or last_ns
                lowest = min(lowest, seq)
                if end_seq <= self.reno.high_seq:
                    info.flag |= ORIG_SACK_ACKED
            if not buffer.sacked and self.sack_ok:
                self.delivered += count
                if not (buffer.retransmissions and self.echo_before(info.stamp_echo, buffer.sent_at_ns)):
                    self.rack_advance(buffer)
            info.prior_delivered = max(info.prior_delivered, buffer.delivered)
            acked += count
            if buffer.flags & SYN:
                info.flag |= SYN_ACKED
                self.retrans_stamp_ns = 0
            else:
                info.flag |= DATA_ACKED
            if not whole:
                break
            queue.pop_acked()
        if queue.rtx and queue.rtx[0].sacked:
            info.flag |= SACK_RENEGING
        if self.snd_sml < ack:
            self.snd_sml = ack - 1
        now_ns = self.now_ns
        rtt_us = sack_rtt_us = latest_us = -1
        if first_ns and not info.flag & RETRANS_DATA_ACKED:
            rtt_us = (now_ns - first_ns) // NS_PER_US
            latest_us = (now_ns - last_ns) // NS_PER_US
            if (
                acked == 1
                and whole
                and not prior_sacked
                and self.snd_una - prior_una < mss
                and prior_delivered + 1 == self.delivered
                and not info.flag & (CA_ALERT | SYN_ACKED)
            ):
                info.flag |= ACK_MAYBE_DELAYED
        if info.first_sent_ns:
            sack_rtt_us = (now_ns - info.first_sent_ns) // NS_PER_US
            latest_us = (now_ns - info.last_sent_ns) // NS_PER_US
        measured = self._measure_rtt(rtt_us if rtt_us >= 0 else sack_rtt_us, latest_us, info)
        if info.flag & ACKED:
            info.flag |= SET_XMIT_TIMER
            if self.sack_ok:
                if lowest < prior_fack:
                    self.check_sack_reordering(lowest)
            else:
                self._remove_reno_sacks(acked)
                if info.flag & RETRANS_DATA_ACKED:
                    info.flag &= ~ORIG_SACK_ACKED
        elif queue.rtx and measured and sack_rtt_us > (now_ns - queue.rtx[0].sent_at_ns) // NS_PER_US:
            # Of something sent after the head: the time-out of that must not be put off any further.
            info.flag |= SET_XMIT_TIMER

    def _measure_rtt(self, rtt_us: int, latest_us: int, info: AckInfo) -> bool:
        """tcp_ack_update_rtt: by what was sent once, else by the time stamp's echo."""
        if rtt_us < 0 and self.timestamps and info.stamp_echo and info.flag & ACKED:
            delta_ms = (self.ts_now() - info.stamp_echo) & MASK32
            if delta_ms < 1 << 20:
                rtt_us = latest_us = max(delta_ms, 1) * 1000
        if rtt_us < 0:
            return False
        self.rtt.measure_min(latest_us, self.now_ns, maybe_delayed=bool(info.flag & ACK_MAYBE_DELAYED))
        self.rtt.sample(rtt_us, self.snd_una, self.snd_nxt)
        self.backoff = 0
        return True

    # Without SACK, duplicate ACKs stand for it.

    def _add_reno_sacks(self, count: int) -> None:
        """tcp_add_reno_sack."""
        if count:
            before = self.reno_sacked
            self.reno_sacked += count
            self._limit_reno_sacks(0)
            self.delivered += max(self.reno_sacked - before, 0)

    def _remove_reno_sacks(self, acked: int) -> None:
        """One ACK acknowledges a hole, and eats the duplicates of the rest (tcp_remove_reno_sacks)."""
        if acked > 0:
            self.delivered += max(acked - self.reno_sacked, 1)
            self.reno_sacked = max(self.reno_sacked - (acked - 1), 0)
        self._limit_reno_sacks(acked)

    def _limit_reno_sacks(self, addend: int) -> None:
        """More duplicates than segments were sent: order was the reason (tcp_check_reno_reordering)."""
        out = self.packets_out
        holes = min(max(self.lost_out, 1), out)
        if self.reno_sacked + holes > out:
            self.reno_sacked = out - holes
            self.reordering = min(out + addend, self.settings.max_reordering)
            self.reord_seen = True

    # The state of recovery.

    def _alert(self, prior_una: int, duplicates: int, info: AckInfo) -> Rexmit:
        """The ACK is not as usual: what is lost, and in which state are we (tcp_fastretrans_alert)?"""
        reno = self.reno
        if info.flag & ECN_ECHO:
            reno.prior_ssthresh = 0
        if info.flag & SACK_RENEGING and info.flag & SND_UNA_ADVANCED:
            # tcp_check_sack_reneging: give the peer a moment to repair it.
            self.arm(XmitTimer.RETRANS, max((self.rtt.srtt_us >> 4) * NS_PER_US, _RENEGING_MIN_NS))
            info.flag &= ~SET_XMIT_TIMER
            return Rexmit.NONE
        if reno.state == CaState.OPEN:
            self.retrans_stamp_ns = 0
        elif self.snd_una >= reno.high_seq:
            if reno.state == CaState.CWR:
                # A window that was reduced without loss stays so until something sent after that is acknowledged.
                if self.snd_una != reno.high_seq:
                    self._end_reduction()
                    reno.state = CaState.OPEN
            elif reno.state == CaState.RECOVERY:
                if not self.sack_ok:
                    self.reno_sacked = 0
                if self._try_undo_recovery():
                    return Rexmit.NONE
                self._end_reduction()
        if reno.state == CaState.RECOVERY:
            if not info.flag & SND_UNA_ADVANCED:
                if not self.sack_ok:
                    self._add_reno_sacks(duplicates)
            elif self._try_undo_partial(prior_una, info):
                return Rexmit.NONE
            if self._try_undo_dsack():
                self._try_to_open(info)
            self._identify_loss(info)
            if not self._is(CaState.RECOVERY):
                if not self.lost_out:
                    return Rexmit.NONE
                self._enter_recovery(info)
            return Rexmit.LOST
        if reno.state == CaState.LOSS:
            rexmit = self._process_loss(duplicates, info)
            self._identify_loss(info)
            if not (self._is(CaState.OPEN) or info.flag & LOST_RETRANS):
                return rexmit
        else:
            rexmit = Rexmit.NONE
        if not self.sack_ok:
            if info.flag & SND_UNA_ADVANCED:
                self.reno_sacked = 0
            self._add_reno_sacks(duplicates)
        if reno.state <= CaState.DISORDER:
            self._try_undo_dsack()
        self._identify_loss(info)
        if not self.lost_out:
            self._try_to_open(info)
            return rexmit
        self._enter_recovery(info)
        return Rexmit.LOST

    def _is(self, state: CaState) -> bool:
        """A method, because a type checker believes that a field stays what it was."""
        return self.reno.state == state

    def _identify_loss(self, info: AckInfo) -> None:
        """tcp_identify_packet_loss."""
        if not self.queue.rtx:
            return
        if not self.sack_ok:
            self._newreno_mark_lost(advanced=bool(info.flag & SND_UNA_ADVANCED))
            return
        before = self.retrans_out
        if self.rack_mark_lost():
            info.flag &= ~SET_XMIT_TIMER
        if before > self.retrans_out:
            info.flag |= LOST_RETRANS

    def _newreno_mark_lost(self, *, advanced: bool) -> None:
        """Without SACK: three duplicates, or an ACK of part of the window, mean the first segment is lost."""
        state = self.reno.state
        third = state < CaState.RECOVERY and self.reno_sacked >= self.reordering
        if not (third or (state == CaState.RECOVERY and advanced)):
            return
        head = self.queue.rtx[0]
        if head.lost:
            return
        if head.segments(self.mss_cache) > 1:
            self.queue.split_rtx(0, self.mss_cache, ALL_BUT_ENDS)
        self.mark_lost(head)

    def _enter_recovery(self, info: AckInfo | None = None) -> None:
        """Fast retransmit begins (tcp_enter_recovery)."""
        reno = self.reno
        echo = info is not None and bool(info.flag & ECN_ECHO)
        reno.prior_ssthresh = 0
        self.init_undo()
        if not reno.in_reduction:
            if not echo:
                reno.prior_ssthresh = reno.current_ssthresh
            self._begin_reduction()
        reno.state = CaState.RECOVERY

    def _begin_reduction(self) -> None:
        """tcp_init_cwnd_reduction."""
        self.reno.begin_reduction(self.snd_nxt)
        self.tlp_high_seq = 0
        self.ecn_queue_cwr = self.ecn_ok

    def _end_reduction(self) -> None:
        """tcp_end_cwnd_reduction: unless it was undone."""
        self.reno.end_reduction(self.now_ns, undone=self.undo_marker is None)

    def _enter_cwr(self) -> None:
        """Routers tell of congestion (tcp_enter_cwr)."""
        reno = self.reno
        reno.prior_ssthresh = 0
        if reno.state < CaState.CWR:
            self.undo_marker = None
            self._begin_reduction()
            reno.state = CaState.CWR

    def _try_to_open(self, info: AckInfo) -> None:
        """tcp_try_to_open."""
        if not self._any_retransmission():
            self.retrans_stamp_ns = 0
        if info.flag & ECN_ECHO:
            self._enter_cwr()
        if self.reno.state != CaState.CWR:
            self._try_keep_open()

    def _try_keep_open(self) -> None:
        left_out = self.sacked_out or self.lost_out or self._any_retransmission()
        state = CaState.DISORDER if left_out else CaState.OPEN
        if self.reno.state != state:
            self.reno.state = state
            self.reno.high_seq = self.snd_nxt

    def _any_retransmission(self) -> bool:
        """tcp_any_retrans_done."""
        return bool(self.retrans_out or (self.queue.rtx and self.queue.rtx[0].retransmissions))

    def on_reordering_timeout(self) -> None:
        """tcp_rack_reo_timeout."""
        before, lost = self.packets_in_flight, self.lost_total
        self.rack_detect()
        if before != self.packets_in_flight:
            if self.reno.state != CaState.RECOVERY:
                self._enter_recovery()
                self.reno.reduce(
                    in_flight=self.packets_in_flight,
                    newly_delivered=1,
                    newly_lost=self.lost_total - lost,
                    advanced=False,
                )
            self.retransmit_lost()
        if self.timer_kind != XmitTimer.RETRANS:
            self.rearm_rto()

    def _process_loss(self, duplicates: int, info: AckInfo) -> Rexmit:
        """After a time-out (tcp_process_loss)."""
        reno = self.reno
        recovered = self.snd_una >= reno.high_seq
        advanced = bool(info.flag & SND_UNA_ADVANCED)
        if advanced and self._try_undo_loss(frto=False):
            return Rexmit.NONE
        if self.frto:
            # RFC 5682 section 3.1: something arrived that was sent only once, so not all was lost ...
            if info.flag & ORIG_SACK_ACKED and self._try_undo_loss(frto=True):
                return Rexmit.NONE
            if self.snd_nxt > reno.high_seq:
                if info.flag & DATA_SACKED or duplicates:
                    self.frto = False  # ... or it was
            elif advanced and not recovered:
                reno.high_seq = self.snd_nxt
                # New data may tell.
                if self.queue.write and self.wnd_end > self.snd_nxt:
                    return Rexmit.NEW
                self.frto = False
        if recovered:
            self._try_undo_recovery()
            return Rexmit.NONE
        if not self.sack_ok:
            if self.snd_nxt > reno.high_seq and duplicates:
                self._add_reno_sacks(duplicates)
            elif advanced:
                self.reno_sacked = 0
        return Rexmit.LOST

    def _control(self, delivered: int, lost: int, info: AckInfo) -> None:
        """tcp_cong_control."""
        reno = self.reno
        if reno.in_reduction:
            reno.reduce(
                in_flight=self.packets_in_flight,
                newly_delivered=delivered,
                newly_lost=lost,
                advanced=bool(info.flag & SND_UNA_ADVANCED),
            )
        elif info.flag & (FORWARD_PROGRESS if self.reordering > self.settings.reordering else DATA_ACKED):
            reno.acked(delivered, self.now_ns)
        self.update_pacing_rate()

    def _send_after(self, rexmit: Rexmit) -> None:
        """tcp_xmit_recovery."""
        if rexmit == Rexmit.NONE or self.state == TcpState.SYN_SENT:
            return
        if rexmit == Rexmit.NEW:
            self.push_pending(nagle_off=True)
            if self.snd_nxt > self.reno.high_seq:
                return
            self.frto = False
        self.retransmit_lost()

    def _process_tlp(self, ack: int, info: AckInfo) -> None:
        """See whether the tail loss probe repaired a loss (tcp_process_tlp_ack)."""
        if not self.tlp_high_seq or ack < self.tlp_high_seq:
            return
        if not self.tlp_retrans or info.flag & DSACK_TLP:
            self.tlp_high_seq = 0
        elif ack > self.tlp_high_seq:
            # The probe filled a hole: pay for the loss, without a recovery to go through.
            self._begin_reduction()
            self.reno.state = CaState.CWR
            self._end_reduction()
            self._try_keep_open()
        elif not info.flag & (SND_UNA_ADVANCED | NOT_DUP | DATA_SACKED):
            self.tlp_high_seq = 0  # a duplicate ACK: both arrived

    # Undoing.

    def _packet_delayed(self) -> bool:
        """Whether what is acknowledged was late, not lost (tcp_packet_delayed)."""
        if not self.retrans_stamp_ns:
            return self.state not in (TcpState.SYN_SENT, TcpState.SYN_RECV)
        return self.echo_before(self.stamp_echo, self.retrans_stamp_ns)

    def _may_undo(self) -> bool:
        return self.undo_marker is not None and (not self.undo_retrans or self._packet_delayed())

    def _undo_reduction(self, *, unmark: bool) -> None:
        """tcp_undo_cwnd_reduction."""
        if unmark:
            for buffer in self.queue.rtx:
                buffer.lost = False
        self.reno.undo(self.now_ns)
        self.undo_marker = None
        self.rack_advanced = True  # look again for what is lost

    def _reopening_prevented(self) -> bool:
        """Without SACK, old duplicates could look like a loss (tcp_is_non_sack_preventing_reopen)."""
        if self.sack_ok or self.snd_una != self.reno.high_seq:
            return False
        if not self._any_retransmission():
            self.retrans_stamp_ns = 0
        return True

    def _try_undo_recovery(self) -> bool:
        """All that was in flight is acknowledged. Returns whether the state stays as it is."""
        if self._may_undo():
            self._undo_reduction(unmark=False)
        elif self.rack_reo_wnd_persist:
            self.rack_reo_wnd_persist -= 1
        if self._reopening_prevented():
            return True
        self.reno.state = CaState.OPEN
        return False

    def _try_undo_dsack(self) -> bool:
        if self.undo_marker is None or self.undo_retrans:
            return False
        self.rack_persist_undone()
        self._undo_reduction(unmark=False)
        return True

    def _try_undo_partial(self, prior_una: int, info: AckInfo) -> bool:
        """Returns whether nothing may be sent again for now."""
        if self.undo_marker is None or not self._packet_delayed():
            return False
        # The hole was filled by a segment that was late.
        self.check_sack_reordering(prior_una)
        if self.retrans_out:
            return True
        if not self._any_retransmission():
            self.retrans_stamp_ns = 0
        self._undo_reduction(unmark=True)
        self._try_keep_open()
        return False

    def _try_undo_loss(self, *, frto: bool) -> bool:
        if not frto and not self._may_undo():
            return False
        self._undo_reduction(unmark=True)
        self.retransmits = 0
        if not self._reopening_prevented() and (frto or self.sack_ok):
            self.reno.state = CaState.OPEN
        return True
