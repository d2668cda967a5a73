"""What a TCP connection sends: segments, in Linux's sizes and order, with Linux's flags.

Source: net/ipv4/tcp_output.c, Linux 6.18; each method names its counterpart where the name differs.
"""

from __future__ import annotations

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from pktsim.fidelity import approximated
from pktsim.kernel.tcp_block import (
    ATO_MIN_NS,
    DELACK_MAX_NS,
    GSO_MAX_SEGS,
    GSO_MAX_SIZE,
    MASK32,
    TCP_MIN_SND_MSS,
    TcpBlock,
    XmitTimer,
)
from pktsim.kernel.tcp_congestion import CaState
from pktsim.kernel.tcp_queue import SendBuffer
from pktsim.kernel.tcp_segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, TCP_HEADER, Segment, build_segment
from pktsim.kernel.tcp_state import SYNCHRONIZED, TcpState
from pktsim.kernel.tcp_window import TCP_MSS_DEFAULT
from pktsim.kernel.transport import build_ip
from pktsim.wire.frame import IPPROTO_TCP

approximated(
    "kernel.tcp.segmentation",
    "OUTPUT and POSTROUTING see every segment of a node's own connections; Linux cuts what was written at once behind "
    "them, so its rules count fewer and longer packets",
    source="net/core/sock.c sk_setup_caps, net/core/dev.c validate_xmit_skb",
)

ALL_BUT_ENDS = ~(FIN | PSH)
_ECT0 = 2
_SENDS_LATER = (
    TcpState.ESTABLISHED,
    TcpState.FIN_WAIT1,
    TcpState.CLOSING,
    TcpState.CLOSE_WAIT,
    TcpState.LAST_ACK,
)
CLOCK_SLACK_NS = 2 * NS_PER_MS  # TCP_TIMEOUT_MIN_US
_PACING_SHIFT = 10  # sk_pacing_shift: a burst is about a millisecond's worth


class TcpOutput(TcpBlock):
    """The sending half."""

    # Segments.

    def emit(
        self,
        seq: int,
        flags: int,
        payload: bytes = b"",
        *,
        syn_mss: int = 0,
        sack: tuple[tuple[int, int], ...] = (),
        window: int | None = None,
    ) -> None:
        """Put one segment on the wire. What the IP layer says of it is for the timers to mend."""
        acks = flags & ACK
        segment = Segment(
            sport=self.lport,
            dport=self.rport,
            seq=seq & MASK32,
            ack=self.rcv_nxt & MASK32 if acks else 0,
            flags=flags,
            window=self.select_window() if window is None else window,
            payload=payload,
            mss=syn_mss,
            wscale=self.window.wscale if flags & SYN and self.wscale_ok else -1,
            sack_permitted=bool(flags & SYN) and self.sack_ok,
            ts_val=self.ts_now() if self.timestamps else None,
            ts_ecr=self.ts_recent if self.timestamps and self.ts_recent_valid else 0,
            sack=sack,
        )
        # Only new data may be marked by routers (RFC 3168 section 6.1.5).
        ect = _ECT0 if self.ecn_ok and payload and seq >= self.snd_high else 0
        self.send_packet(build_segment(segment, self.laddr, self.raddr), self.tos | ect)

    def send_packet(self, segment: bytes, tos: int) -> None:
        packet = build_ip(
            self.laddr,
            self.raddr,
            IPPROTO_TCP,
            segment,
            ttl=self.ttl or self.layer.default_ttl(self.raddr, saddr=self.laddr, ifindex=self.ifindex, mark=self.mark),
            tos=tos,
            ip_id=self.ip_id,
            flow_label=self.flow_label,
            options=self.layer.ip_options(self.answered_header, self.laddr),
        )
        self.ip_id = (self.ip_id + 1) & 0xFFFF
        try:
            self.layer.stack.send_ip(packet, ifindex=self.ifindex, mark=self.mark, uid=self.uid, checksum_partial=True)
        except OSError:
            # The segment stays in the retransmit queue; a rule that dropped it or a route that is gone may come back.
            return

    def select_window(self) -> int:
        field, short = self.window.select(self.rcv_nxt)
        if short:
            self.quick = 0
        return field

    def _sack_blocks(self, room: int) -> tuple[tuple[int, int], ...]:
        """The SACK option of the next segment: a duplicate first (RFC 2883), then what is held (RFC 2018)."""
        if not self.sack_ok:
            return ()
        blocks: list[tuple[int, int]] = []
        if self.dsack is not None:
            blocks.append(self.dsack)
            self.dsack = None
        blocks.extend(self.reassembly.blocks(4))
        return tuple((left & MASK32, right & MASK32) for left, right in blocks[:room])

    def transmit(self, seq: int, flags: int, payload: bytes = b"", *, mss: int = 0) -> None:
        """Send what one buffer holds, cut into segments as generic segmentation offload does (__tcp_transmit_skb).

        A burst of several segments carries PSH on its last, whatever the writes were, to flush the receiver's GRO.
        """
        now_ns = self.now_ns
        room = (40 - (12 if self.timestamps else 0) - 4) // 8
        sack = self._sack_blocks(room)
        if self.ecn_ok:
            flags |= self._ecn_flags(payload)
        window = self.select_window()
        self._ack_sent()
        if payload:
            # A reply within the ACK time-out of what came last: the two sides take turns.
            if now_ns - self.last_received_ns < self.ato_ns:
                self.pingpong = min(self.pingpong + 1, 255)
            self.last_sent_ns = now_ns
        if len(payload) <= mss or not mss:
            self.emit(seq, flags, payload, sack=sack, window=window)
            return
        flags |= PSH
        for start in range(0, len(payload), mss):
            last = start + mss >= len(payload)
            self.emit(
                seq + start,
                flags if last else flags & ALL_BUT_ENDS,
                payload[start : start + mss],
                sack=sack,
                window=window,
            )

    def _ecn_flags(self, payload: bytes) -> int:
        flags = ECE if self.ecn_demand_cwr else 0
        if payload and self.ecn_queue_cwr:
            self.ecn_queue_cwr = False
            flags |= CWR
        return flags

    # Acknowledgements.

    def _ack_sent(self) -> None:
        """An ACK goes out with whatever is sent (tcp_event_ack_sent)."""
        if self.quick:
            used = 1 if self.ack_scheduled else 0
            if used >= self.quick:
                self.quick = 0
                self.ato_ns = ATO_MIN_NS
            else:
                self.quick -= used
        self.clear_ack()

    def clear_ack(self) -> None:
        """Nothing is owed any more (inet_csk_clear_xmit_timer, ICSK_TIME_DACK)."""
        self.compressed_acks = 0
        if self.compressed_timer is not None:
            self.compressed_timer.cancel()
            self.compressed_timer = None
        self.ack_scheduled = self.ack_now = self.ack_pushed = self.ack_pushed2 = False
        if self.ack_timer is not None:
            self.ack_timer.cancel()
            self.ack_timer = None

    def acceptable_seq(self) -> int:
        """The sequence number of a segment without data (tcp_acceptable_seq)."""
        if self.wnd_end >= self.snd_nxt or (self.wscale_ok and self.snd_nxt - self.wnd_end < 1 << self.window.wscale):
            return self.snd_nxt
        return self.wnd_end

    def send_ack(self) -> None:
        """Acknowledge now."""
        if self.state != TcpState.CLOSE:
            self.transmit(self.acceptable_seq(), ACK)

    def send_delayed_ack(self) -> None:
        """Acknowledge soon (tcp_send_delayed_ack)."""
        ato = self.ato_ns
        if ato > ATO_MIN_NS:
            most = DELACK_MAX_NS if self.in_pingpong or self.ack_pushed else NS_PER_S // 2
            if self.rtt.srtt_us:
                most = min(most, max((self.rtt.srtt_us >> 3) * NS_PER_US, ATO_MIN_NS))
            ato = min(ato, most)
        ato = min(ato, DELACK_MAX_NS)
        due_ns = self.now_ns + ato
        if self.ack_timer is not None and self.ack_timer.pending:
            if self.ack_due_ns <= self.now_ns + (ato >> 2):
                self.send_ack()
                return
            due_ns = min(due_ns, self.ack_due_ns)
            self.ack_timer.cancel()
        self.ack_scheduled = True
        self.ack_due_ns = due_ns
        self.ack_timer = self.layer.timer(due_ns - self.now_ns, self.on_ack_timer)

    def on_ack_timer(self) -> None:
        """tcp_delack_timer_handler."""
        self.ack_timer = None
        if self.state in (TcpState.CLOSE, TcpState.LISTEN) or not self.ack_scheduled:
            return
        if not self.in_pingpong:
            self.ato_ns = min(self.ato_ns << 1, self.rtt.rto_ns)  # it was missed: wait longer
        else:
            self.pingpong = 0
            self.ato_ns = ATO_MIN_NS
        self.send_ack()

    # Sizes.

    def sync_mss(self, pmtu: int) -> int:
        """Compute the segment size for a path MTU (tcp_sync_mss)."""
        mss = min(pmtu - self.ip_header - TCP_HEADER, self.mss_clamp)
        mss -= len(self.layer.ip_options(self.answered_header, self.laddr))
        mss = max(mss, TCP_MIN_SND_MSS) - (self.header_length - TCP_HEADER)
        self.pmtu = pmtu
        self.mss_cache = self._bound_to_half_window(mss)
        return self.mss_cache

    def _bound_to_half_window(self, size: int) -> int:
        cutoff = self.max_window >> 1 if self.max_window > TCP_MSS_DEFAULT else self.max_window
        return max(cutoff, 68 - self.header_length) if cutoff and size > cutoff else size

    def route_mtu(self) -> int:
        """The path MTU as the routing table knows it now; the last known one if there is no route."""
        try:
            return self.layer.stack.route_output(self.raddr, saddr=self.laddr, ifindex=self.ifindex, mark=self.mark).mtu
        except OSError:
            return self.pmtu

    def current_mss(self) -> int:
        """The payload of a full segment, SACK blocks of the moment taken off (tcp_current_mss)."""
        mtu = self.route_mtu()
        mss = self.mss_cache if mtu == self.pmtu else self.sync_mss(mtu)
        blocks = len(self.reassembly.blocks(4)) + (self.dsack is not None) if self.sack_ok else 0
        if blocks:
            room = (40 - (12 if self.timestamps else 0) - 4) // 8
            mss -= 4 + 8 * min(blocks, room)
        return mss

    def size_goal(self, mss: int) -> int:
        """How much one buffer shall hold (tcp_xmit_size_goal)."""
        goal = self._bound_to_half_window(GSO_MAX_SIZE)
        size = self.gso_segments * mss
        if goal < size or goal >= size + mss:
            self.gso_segments = min(goal // mss, GSO_MAX_SEGS)
            size = self.gso_segments * mss
        return max(size, mss)

    # New data.

    def forced_push(self) -> bool:
        return self.write_seq > self.pushed_seq + (self.max_window >> 1)

    def mark_push(self, buffer: SendBuffer) -> None:
        buffer.flags |= PSH
        self.pushed_seq = self.write_seq

    def push_pending(self, *, mss: int = 0, nagle_off: bool = False) -> None:
        """Send what may be sent (__tcp_push_pending_frames)."""
        if self.state != TcpState.CLOSE and self.write_xmit(mss or self.current_mss(), nagle_off=nagle_off):
            self.check_probe_timer()

    def check_probe_timer(self) -> None:
        """Nothing is in flight and nothing fits: somebody must ask for the window (tcp_check_probe_timer)."""
        if not self.queue.rtx and self.timer_kind == XmitTimer.NONE:
            self.arm(XmitTimer.PROBE0, self.rtt.rto_ns)

    def _small(self, length: int, mss: int, *, nagle_off: bool) -> bool:
        """Whether Nagle's algorithm holds a segment back (tcp_nagle_check, RFC 1122 section 4.2.3.4)."""
        if length >= mss or nagle_off:
            return False
        if self.cork:
            return True
        if self.nonagle:
            return False
        return bool(self.queue.rtx) and self.snd_una < self.snd_sml <= self.snd_nxt

    def burst_segments(self, mss: int) -> int:
        """How many segments go out in one piece: less, the longer the way (tcp_tso_autosize)."""
        settings = self.settings
        size = self.pacing_rate >> _PACING_SHIFT if self.pacing_rate else GSO_MAX_SIZE
        distance = self.rtt.min_rtt_us >> settings.tso_rtt_log
        if distance < 32:
            size += GSO_MAX_SIZE >> distance
        return max(min(size, GSO_MAX_SIZE) // mss, settings.min_tso_segs)

    def update_pacing_rate(self) -> None:
        """tcp_update_pacing_rate. Nothing is paced here; but bursts are measured by it."""
        settings, reno = self.settings, self.reno
        ratio = settings.pacing_ss_ratio if reno.cwnd < reno.ssthresh >> 1 else settings.pacing_ca_ratio
        rate = self.mss_cache * (10_000 << 3) * ratio * max(reno.cwnd, self.packets_out)
        self.pacing_rate = rate // self.rtt.srtt_us if self.rtt.srtt_us else rate

    def _cwnd_quota(self) -> int:
        in_flight = self.packets_in_flight
        cwnd = self.reno.cwnd
        if in_flight >= cwnd:
            return 0
        return min(max(cwnd >> 1, 1), cwnd - in_flight)

    def write_xmit(self, mss: int, *, nagle_off: bool = False, one: bool = False, probe: bool = False) -> bool:
        """Send from the write queue as far as both windows allow (tcp_write_xmit).

        Args:
            mss: Payload of a full segment.
            nagle_off: Do not hold back a small last segment.
            one: Stop after one buffer, with more to be written.
            probe: One segment although the congestion window is full (a tail loss probe).

        A process that sends is interrupted after each burst by all that the burst sets off (the softirq runs at the end
        of dev_queue_xmit), so while ``stepwise`` is on this returns after each, with ``next_step`` set.

        Returns:
            Whether there is something to send and nothing in flight that would bring on an ACK.
        """
        queue = self.queue
        max_segments = self.burst_segments(mss)
        sent = 0
        limited = False
        while queue.write:
            quota = self._cwnd_quota()
            if not quota:
                if not probe:
                    limited = True
                    break
                quota = 1
            quota = min(quota, max_segments)
            self._grow_head(quota * mss)
            head = queue.write[0]
            length = len(head.data)
            segments = head.segments(mss)
            if (head.end_seq if length <= mss else head.seq + mss) > self.wnd_end:
                break
            last = len(queue.write) == 1
            if segments == 1:
                if not head.flags & FIN and self._small(length, mss, nagle_off=nagle_off or not last):
                    break
            elif not one and not probe and self._defer(head, max_segments, last=last):
                limited = True
                break
            limit = mss
            if segments > 1:
                limit = self._split_point(head, mss, quota, nagle_off=nagle_off, last=last)
            if length > limit:
                queue.split_write_head(limit, ALL_BUT_ENDS)
                head = queue.write[0]
            if self._queue_beneath_is_full(head, 0):
                break
            self._send_head(mss)
            sent += head.segments(mss)
            if one or probe:
                break
            if self.stepwise and queue.write:
                self.next_step = (mss, nagle_off)
                break
        in_flight = self.packets_in_flight
        limited = limited or in_flight >= self.reno.cwnd
        if sent or limited:
            self.reno.validate(
                limited=limited,
                packets_out=self.packets_out,
                snd_una=self.snd_una,
                snd_nxt=self.snd_nxt,
                now_ns=self.now_ns,
                rto_ns=self.rtt.rto_ns,
                idle=bool(self.settings.slow_start_after_idle),
            )
        if sent:
            if self.reno.in_reduction:
                self.reno.prr_out += sent
            if not probe:
                self.schedule_loss_probe()
            return False
        return not queue.rtx and bool(queue.write)

    def go_on(self) -> None:
        """The next burst of a process that sends, if the windows allow it."""
        step, self.next_step = self.next_step, None
        if step is not None and self.state != TcpState.CLOSE and self.write_xmit(step[0], nagle_off=step[1]):
            self.check_probe_timer()

    def _grow_head(self, length: int) -> None:
        """Fill up the head from what is queued behind it (tcp_grow_skb)."""
        write = self.queue.write
        head = write[0]
        if len(write) < 2 or head.syn_fin or len(head.data) >= length or not head.data:
            return
        follower = write[1]
        count = min(length - len(head.data), len(follower.data))
        if not count:
            return
        if count == len(follower.data) and not follower.syn_fin:
            head.data += follower.data
            head.flags |= follower.flags
            del write[1]
            self.queue.queued_bytes -= follower.truesize - count
            return
        head.data += follower.data[:count]
        follower.data = follower.data[count:]
        follower.seq += count

    def _defer(self, head: SendBuffer, max_segments: int, *, last: bool) -> bool:
        """Whether to wait for a larger burst (tcp_tso_should_defer)."""
        if self.reno.state >= CaState.RECOVERY or self.now_ns - self.last_sent_ns > NS_PER_MS:
            return False
        send_window = self.wnd_end - head.seq
        congestion_window = (self.reno.cwnd - self.packets_in_flight) * self.mss_cache
        limit = min(send_window, congestion_window)
        if limit >= max_segments * self.mss_cache or (not last and limit >= len(head.data)):
            return False
        if limit >= min(self.snd_wnd, self.reno.cwnd * self.mss_cache) // max(self.settings.tso_win_divisor, 1):
            return False
        if not self.queue.rtx:
            return False
        # Since 6.18 only if the next ACK is expected soon, however long the way is.
        srtt_ns = self.rtt.srtt_us * NS_PER_US >> 3
        if self.queue.rtx[0].sent_at_ns + srtt_ns - self.now_ns > min(srtt_ns >> 1, NS_PER_MS):
            return False
        if min(congestion_window, send_window) <= len(head.data):
            return True
        return not head.flags & FIN

    def _split_point(self, head: SendBuffer, mss: int, quota: int, *, nagle_off: bool, last: bool) -> int:
        """tcp_mss_split_point."""
        window = self.wnd_end - head.seq
        most = mss * quota
        if most <= window and not last:
            return most
        needed = min(len(head.data), window)
        if most <= needed:
            return most
        partial = needed % mss
        if partial and self._small(partial, mss, nagle_off=nagle_off) and not head.flags & FIN:
            return needed - partial
        return needed

    def _send_head(self, mss: int, *, probe: bool = False) -> None:
        """Send the head of the write queue for the first time (tcp_transmit_skb, tcp_event_new_data_sent).

        A window ``probe`` is no small segment that Nagle's algorithm would know of.
        """
        queue = self.queue
        head = queue.write[0]
        had_none = not queue.rtx
        head.sent_at_ns = self.now_ns
        head.delivered = self.delivered
        queue.head_sent()
        self.snd_high = self.snd_nxt
        self.snd_nxt = head.end_seq
        if not probe and len(head.data) < head.segments(mss) * mss:
            self.snd_sml = head.end_seq
        if had_none or self.timer_kind == XmitTimer.LOSS_PROBE:
            self.rearm_rto()
        self._count_beneath(head)
        self.transmit(head.seq, head.flags, head.data, mss=mss)

    def queue_fin(self) -> None:
        """Send a FIN: with data that waits, else as a segment of its own (tcp_send_fin)."""
        if self.queue.write:
            tail = self.queue.write[-1]
            tail.flags |= FIN
            tail.syn_fin += 1
        else:
            self.queue.append(SendBuffer(self.write_seq, b"", ACK | FIN, 1))
        self.write_seq += 1
        self.push_pending(nagle_off=True)

    def restart_after_idle(self) -> None:
        """tcp_slow_start_after_idle_check."""
        if not self.settings.slow_start_after_idle or self.queue.rtx or not self.last_sent_ns:
            return
        idle_ns = self.now_ns - self.last_sent_ns
        if idle_ns > self.rtt.rto_ns:
            self.reno.restart(idle_ns, self.rtt.rto_ns, self.now_ns)

    # Again.

    def retransmit(self, index: int, segments: int, *, probe: bool = False) -> bool:
        """Send a buffer of the retransmit queue again, at most ``segments`` of it (tcp_retransmit_skb).

        A ``probe`` does not count as in flight a second time.
        """
        queue = self.queue
        buffer = queue.rtx[index]
        if self.layer.stack.holds_segment(buffer.seq & MASK32):
            # The first time it was sent has not left this machine yet (skb_still_in_host_queue).
            if not probe and not self.retrans_stamp_ns:
                self.retrans_stamp_ns = self.now_ns
            return False
        mss = self.current_mss()
        if buffer.seq < self.snd_una < buffer.end_seq and buffer.data:
            queue.trim_head(self.snd_una)
        if buffer.seq >= self.wnd_end and buffer.seq != self.snd_una:
            return False
        length = mss * segments
        room = self.wnd_end - buffer.seq if self.wnd_end > buffer.seq else mss
        if len(buffer.data) > min(length, room):
            queue.split_rtx(index, min(length, room), ALL_BUT_ENDS)
        elif self.settings.retrans_collapse and len(buffer.data) < min(room, mss):
            queue.collapse(index, min(room, mss), self.wnd_end)
        buffer.sent_at_ns = self.now_ns
        buffer.judged = False
        buffer.retransmissions += 1
        count = buffer.segments(mss)
        self.total_retrans += count
        if not probe:
            buffer.retransmitted = True
            if not self.retrans_stamp_ns:
                self.retrans_stamp_ns = self.now_ns
            self.undo_retrans = max(self.undo_retrans, 0) + count
        self._count_beneath(buffer)
        if buffer.flags & SYN:
            self.send_syn(buffer)
        else:
            self.transmit(buffer.seq, buffer.flags, buffer.data, mss=mss)
        return True

    def retransmit_lost(self) -> None:
        """Send again what is lost, as far as the congestion window allows (tcp_xmit_retransmit_queue)."""
        queue = self.queue
        if not queue.rtx:
            return
        most = self.burst_segments(self.current_mss())
        index = 0
        head_again = False
        while index < len(queue.rtx):
            buffer = queue.rtx[index]
            index += 1
            room = self.reno.cwnd - self.packets_in_flight
            if room <= 0 or self.retrans_out >= self.lost_out:
                break
            if not buffer.lost or buffer.sacked or buffer.retransmitted:
                continue
            if self._queue_beneath_is_full(buffer, 1) or not self.retransmit(index - 1, min(room, most)):
                break
            if self.reno.in_reduction:
                self.reno.prr_out += buffer.segments(self.mss_cache)
            head_again = head_again or index == 1
        if head_again and self.timer_kind != XmitTimer.REO_TIMEOUT:
            self.arm(XmitTimer.RETRANS, self.rtt.rto_ns)

    def _queue_beneath_is_full(self, buffer: SendBuffer, factor: int) -> bool:
        """TCP small queues: a few buffers on their way are enough (tcp_small_queue_check).

        A process that sends is interrupted by the softirq that empties the queue; a softirq is not. (The socket itself
        counts for one byte, so the limit is full when it is reached.)
        """
        if not self.in_softirq or not self.pacing_rate:
            return False
        limit = min(max(2 * buffer.truesize, self.pacing_rate >> _PACING_SHIFT), self.settings.limit_output_bytes)
        if self.queued_beneath < limit << factor or len(self.queue.rtx) <= 1:
            return False
        self.throttled = True
        return True

    def _count_beneath(self, buffer: SendBuffer) -> None:
        if self.in_softirq:
            self.queued_beneath += buffer.truesize
            if self.queue_timer is None:
                self.queue_timer = self.clock.after(0, self._queue_beneath_empty)

    def _queue_beneath_empty(self) -> None:
        """What was sent has moved on (tcp_wfree, tcp_tsq_write): first what is lost, then new data."""
        self.queue_timer = None
        self.queued_beneath = 0
        if not self.throttled or self.state not in _SENDS_LATER:
            return
        self.throttled = False
        self.in_softirq = True
        if self.lost_out > self.retrans_out and self.reno.cwnd > self.packets_in_flight:
            self.retransmit_lost()
        self.write_xmit(self.current_mss())
        self.in_softirq = False

    def mark_lost(self, buffer: SendBuffer) -> None:
        """tcp_mark_skb_lost; what was sent again already is lost again."""
        if buffer.sacked:
            return
        if not buffer.lost or buffer.retransmitted:
            self.lost_total += buffer.segments(self.mss_cache)
        if buffer.lost:
            buffer.retransmitted = False
        buffer.lost = True

    def send_syn(self, buffer: SendBuffer) -> None:
        """A SYN of our own: first, again, or as SYN-ACK in a simultaneous open."""
        flags = buffer.flags
        self.emit(buffer.seq, flags, syn_mss=self.syn_mss, window=min(self.window.wnd, 65535))
        if flags & ACK:
            self._ack_sent()

    def send_active_reset(self) -> None:
        """Tell the peer that the connection is gone (tcp_send_active_reset)."""
        self.transmit(self.acceptable_seq(), ACK | RST)

    def send_probe(self, *, urgent: bool = False) -> None:
        """Ask for an ACK with an old sequence number (tcp_xmit_probe_skb)."""
        self.transmit(self.snd_una - (0 if urgent else 1), ACK)

    def write_wakeup(self) -> bool:
        """Zero window probe: a bit of data if any fits, else an old sequence number (tcp_write_wakeup)."""
        if self.state == TcpState.CLOSE:
            return False
        queue = self.queue
        if queue.write and queue.write[0].seq < self.wnd_end:
            head = queue.write[0]
            mss = self.current_mss()
            window = self.wnd_end - head.seq
            if window < head.end_seq - head.seq or len(head.data) > mss:
                size = min(window, mss)
                head.flags |= PSH
                if size < len(head.data):
                    queue.split_write_head(size, ALL_BUT_ENDS | PSH)
            head = queue.write[0]
            head.flags |= PSH
            self._send_head(mss, probe=True)
            return True
        self.send_probe()
        return True

    # Timers (their handlers are in tcp_timer).

    def arm(self, kind: XmitTimer, delay_ns: int) -> None:
        """Arm the one retransmission timer."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer_kind = kind
        self.timer = self.layer.timer(min(max(delay_ns, 0), self.rtt.rto_max_ns), self.on_timer)

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.timer_kind = XmitTimer.NONE

    def on_timer(self) -> None:
        raise NotImplementedError

    def rearm_rto(self) -> None:
        """Set the time-out for the oldest segment in flight (tcp_rearm_rto)."""
        queue = self.queue
        if not queue.rtx:
            if self.timer_kind != XmitTimer.PROBE0:
                self.disarm()
            return
        rto_ns = self.rtt.rto_ns
        if self.timer_kind in (XmitTimer.REO_TIMEOUT, XmitTimer.LOSS_PROBE):
            # Those began later than the segment was sent.
            rto_ns = max(self._rto_left(), NS_PER_US)
        self.arm(XmitTimer.RETRANS, rto_ns)

    def _rto_left(self) -> int:
        return self.queue.rtx[0].sent_at_ns + self.rtt.rto_ns - self.now_ns

    def schedule_loss_probe(self, *, advancing: bool = False) -> bool:
        """Arm a tail loss probe, if it would come before the time-out (tcp_schedule_loss_probe, RFC 8985 section 7)."""
        if self.settings.early_retrans not in (3, 4) or not self.queue.rtx or not self.sack_ok:
            return False
        if self.reno.state not in (CaState.OPEN, CaState.CWR) or self.state not in SYNCHRONIZED:
            return False
        if self.rtt.srtt_us:
            delay_ns = (self.rtt.srtt_us >> 2) * NS_PER_US
            if self.packets_out == 1:
                delay_ns += self.rtt.rto_min_us * NS_PER_US
            else:
                delay_ns += CLOCK_SLACK_NS
        else:
            delay_ns = NS_PER_S
        left = self.rtt.rto_ns if advancing else self._rto_left()
        if left > 0:
            delay_ns = min(delay_ns, left)
        self.arm(XmitTimer.LOSS_PROBE, delay_ns)
        return True
