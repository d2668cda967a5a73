"""What the peer reports to hold, and what follows from that about order and loss.

Source: net/ipv4/tcp_input.c tcp_sacktag_write_queue, tcp_recovery.c, Linux 6.18; RFC 2018 (SACK), RFC 2883 (D-SACK),
RFC 8985 (RACK). Other ways of finding losses are gone from Linux since 6.17, whatever net.ipv4.tcp_recovery says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pktsim.clock import NS_PER_MS, NS_PER_US
from pktsim.kernel.tcp_block import MASK32, XmitTimer, ts_before, unwrap
from pktsim.kernel.tcp_congestion import CaState
from pktsim.kernel.tcp_output import ALL_BUT_ENDS, CLOCK_SLACK_NS
from pktsim.kernel.tcp_queue import SendBuffer
from pktsim.kernel.tcp_segment import Segment
from pktsim.kernel.tcp_timer import TcpTimers

# What an ACK is and has done (FLAG_* of tcp_input.c); plain integers, asked for several times per segment.
DATA: Final = 1 << 0  # the segment carries data, or a FIN
WIN_UPDATE: Final = 1 << 1
DATA_ACKED: Final = 1 << 2
RETRANS_DATA_ACKED: Final = 1 << 3  # ... some of which had been sent again
SYN_ACKED: Final = 1 << 4
DATA_SACKED: Final = 1 << 5
ECN_ECHO: Final = 1 << 6
LOST_RETRANS: Final = 1 << 7  # a repetition was found lost
ORIG_SACK_ACKED: Final = 1 << 9  # something arrived that had been sent only once, before the loss
SND_UNA_ADVANCED: Final = 1 << 10
DSACKING_ACK: Final = 1 << 11
SET_XMIT_TIMER: Final = 1 << 12
SACK_RENEGING: Final = 1 << 13  # what had been reported is at the head of the queue: the peer has thrown it away
ACK_MAYBE_DELAYED: Final = 1 << 16
DSACK_TLP: Final = 1 << 17
ACKED: Final = DATA_ACKED | SYN_ACKED
NOT_DUP: Final = DATA | WIN_UPDATE | ACKED
CA_ALERT: Final = DATA_SACKED | ECN_ECHO | DSACKING_ACK
FORWARD_PROGRESS: Final = ACKED | DATA_SACKED

#: Rounds of recovery for which a widened reordering window stays so.
_RECOVERY_THRESH: Final = 16


@dataclass(slots=True)
class AckInfo:
    """What is learnt while one ACK is taken in (struct tcp_sacktag_state, struct rate_sample).

    Attributes:
        flag: Bits of above.
        reord: The lowest number that arrived out of order.
        first_sent_ns: When the first of what is newly reported was sent, if only once; 0 for none.
        last_sent_ns: When the last of that was sent.
        prior_delivered: How much had been delivered when what arrived last was sent.
    """

    flag: int = 0
    reord: int = 0
    first_sent_ns: int = 0
    last_sent_ns: int = 0
    prior_delivered: int = 0
    stamp_echo: int | None = None


class TcpSack(TcpTimers):
    """Selective acknowledgements and RACK."""

    # Reports.

    def tag_sacks(self, segment: Segment, ack: int, prior_una: int, info: AckInfo) -> None:
        """Mark what the peer reports to hold (tcp_sacktag_write_queue)."""
        if not self.sack_ok:
            return
        info.reord = self.snd_nxt
        blocks = [(unwrap(left, self.snd_una), unwrap(right, self.snd_una)) for left, right in segment.sack]
        duplicate = self._is_dsack(blocks, ack, prior_una, info)
        if ack < prior_una - self.max_window:
            return
        if not self.queue.rtx:
            return
        # From the lowest up, in whatever order they were reported: order is judged by what was known before.
        for left, right, number in sorted((*block, number) for number, block in enumerate(blocks)):
            is_dsack = duplicate and number == 0
            if not self._valid(left, right, is_dsack=is_dsack) or right <= prior_una:
                continue
            self._tag_block(left, right, info, is_dsack=is_dsack)
        if self.reno.state != CaState.LOSS or self.undo_marker is not None:
            self.check_sack_reordering(info.reord)

    def _is_dsack(self, blocks: list[tuple[int, int]], ack: int, prior_una: int, info: AckInfo) -> bool:
        """Whether the first block tells of a duplicate (tcp_check_dsack)."""
        left, right = blocks[0]
        if left >= ack and (len(blocks) == 1 or right > blocks[1][1] or left < blocks[1][0]):
            return False
        count = self._count_dsack(left, right, info)
        if not count:
            return False
        if self.undo_marker is not None and self.undo_retrans > 0 and right <= prior_una and right > self.undo_marker:
            self.undo_retrans = max(0, self.undo_retrans - count)
        return True

    def _count_dsack(self, left: int, right: int, info: AckInfo) -> int:
        """tcp_dsack_seen: how many segments were needless; 0 if that cannot be believed."""
        length = right - left
        if length <= 0 or length > self.max_window:
            return 0
        count = 1
        if length > self.mss_cache:
            count = -(-length // self.mss_cache)
        elif self.tlp_high_seq and self.tlp_high_seq == right:
            info.flag |= DSACK_TLP
        self.dsack_dups += count
        if self.dsack_dups > self.total_retrans:
            return 0
        if self.reord_seen and not info.flag & DSACK_TLP:
            self.rack_dsack_seen = True
        info.flag |= DSACKING_ACK
        self.delivered += count
        return count

    def _valid(self, left: int, right: int, *, is_dsack: bool) -> bool:
        """tcp_is_sackblock_valid."""
        if right > self.snd_nxt or left >= right or left >= self.snd_nxt:
            return False
        if left > self.snd_una:
            return True
        if not is_dsack or self.undo_marker is None:
            return False
        if right > self.snd_una:
            return False  # too old, or a lie
        return left >= self.undo_marker or (right > self.undo_marker and left >= right - self.max_window)

    def _tag_block(self, left: int, right: int, info: AckInfo, *, is_dsack: bool) -> None:
        rtx = self.queue.rtx
        index = 0
        while index < len(rtx):
            buffer = rtx[index]
            if buffer.seq >= right:
                break
            if buffer.end_seq > left:
                index += self._isolate(index, left, right, self.mss_cache)
                buffer = rtx[index]
                if left <= buffer.seq and buffer.end_seq <= right:
                    self._tag(buffer, info, is_dsack=is_dsack)
            index += 1

    def _tag(self, buffer: SendBuffer, info: AckInfo, *, is_dsack: bool) -> None:
        """tcp_sacktag_one."""
        count = buffer.segments(self.mss_cache)
        if is_dsack and buffer.retransmissions:
            if self.undo_marker is not None and self.undo_retrans > 0 and buffer.end_seq > self.undo_marker:
                self.undo_retrans = max(0, self.undo_retrans - count)
            if buffer.sacked and buffer.seq < info.reord:
                info.reord = buffer.seq
        if not buffer.sacked:
            self.rack_advance(buffer)
            if buffer.retransmitted:
                if buffer.lost:
                    buffer.lost = buffer.retransmitted = False
            else:
                if not buffer.retransmissions:
                    if buffer.seq < self.highest_sack() and buffer.seq < info.reord:
                        info.reord = buffer.seq
                    if buffer.end_seq <= self.reno.high_seq:
                        info.flag |= ORIG_SACK_ACKED
                    info.first_sent_ns = info.first_sent_ns or buffer.sent_at_ns
                    info.last_sent_ns = buffer.sent_at_ns
                buffer.lost = False
            buffer.sacked = True
            info.flag |= DATA_SACKED
            info.prior_delivered = max(info.prior_delivered, buffer.delivered)
            self.delivered += count
        if is_dsack and buffer.retransmitted:
            buffer.retransmitted = False

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
            # Linux joins what is reported with its neighbours again (tcp_shift_skb_data), so no memory is added.
            self.queue.split_rtx(index, length, ALL_BUT_ENDS, overhead=0)
            moved = 1
            buffer = self.queue.rtx[index + 1]
        if buffer.seq < right < buffer.end_seq and buffer.data:
            length = (right - buffer.seq) // mss * mss
            if length and length < len(buffer.data):
                self.queue.split_rtx(index + moved, length, ALL_BUT_ENDS, overhead=0)
        return moved

    def highest_sack(self) -> int:
        """Up to where the peer is known to hold something (tcp_highest_sack_seq)."""
        for buffer in reversed(self.queue.rtx):
            if buffer.sacked:
                return buffer.end_seq
        return self.snd_una

    def check_sack_reordering(self, low_seq: int) -> None:
        """What was sent only once, and came late, tells how far the order may be apart (tcp_check_sack_reordering)."""
        highest = self.highest_sack()
        if low_seq >= highest:
            return
        distance = highest - low_seq
        if distance > self.reordering * self.mss_cache:
            self.reordering = min(-(-distance // self.mss_cache), self.settings.max_reordering)
        self.reord_seen = True

    # RACK.

    def rack_advance(self, buffer: SendBuffer) -> None:
        """Something arrived that was sent then (tcp_rack_advance)."""
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
        if not self.reord_seen and (self.reno.state >= CaState.RECOVERY or self.sacked_out >= self.reordering):
            return 0
        return min((self.rtt.min_rtt_us >> 2) * self.rack_reo_wnd_steps, self.rtt.srtt_us >> 3) * NS_PER_US

    def rack_update_window(self, info: AckInfo) -> None:
        """Needless repetitions widen the window, once in a round trip (tcp_rack_update_reo_wnd)."""
        if not info.prior_delivered:
            return
        if info.prior_delivered < self.rack_last_delivered:
            self.rack_dsack_seen = False
        if self.rack_dsack_seen:
            self.rack_reo_wnd_steps = min(0xFF, self.rack_reo_wnd_steps + 1)
            self.rack_dsack_seen = False
            self.rack_last_delivered = self.delivered
            self.rack_reo_wnd_persist = _RECOVERY_THRESH
        elif not self.rack_reo_wnd_persist:
            self.rack_reo_wnd_steps = 1

    def rack_persist_undone(self) -> None:
        self.rack_reo_wnd_persist = min(_RECOVERY_THRESH, self.rack_reo_wnd_persist + 1)

    def rack_detect(self) -> int:
        """Mark what was sent well before something that has arrived (tcp_rack_detect_loss).

        Returns:
            How many nanoseconds until more might be lost; 0 if nothing is waited for.
        """
        window_ns = self._rack_window_ns()
        now_ns = self.now_ns
        wait_ns = 0
        newest = (self.rack_sent_ns, self.rack_end_seq)
        for buffer in self.queue.rtx:
            if buffer.sacked or buffer.judged or (buffer.lost and not buffer.retransmitted):
                continue
            if (buffer.sent_at_ns, buffer.end_seq) >= newest:
                continue
            left_ns = self.rack_rtt_ns + window_ns - (now_ns - buffer.sent_at_ns)
            if left_ns <= 0:
                self.mark_lost(buffer)
                buffer.judged = True
            else:
                wait_ns = max(wait_ns, left_ns)
        return wait_ns

    def rack_mark_lost(self) -> bool:
        """Look for losses, and come back when reordering cannot be the reason any more (tcp_rack_mark_lost)."""
        if not self.rack_advanced:
            return False
        self.rack_advanced = False
        wait_ns = self.rack_detect()
        if wait_ns:
            self.arm(XmitTimer.REO_TIMEOUT, wait_ns + CLOCK_SLACK_NS)
        return bool(wait_ns)

    # Time stamps.

    def echo_before(self, echo: int | None, at_ns: int) -> bool:
        """Whether the echoed time stamp is of before ``at_ns`` (tcp_tsopt_ecr_before)."""
        if not self.timestamps or not echo:
            return False
        return ts_before(echo, (at_ns // NS_PER_MS + self.ts_offset) & MASK32)
