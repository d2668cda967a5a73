"""What a TCP connection does with what comes in: check it, take its ACK, queue its data, decide what to answer.

Source: net/ipv4/tcp_input.c, Linux 6.18; RFC 9293 section 3.10.7, RFC 5961 (challenge ACKs), RFC 7323 (PAWS).
"""

from __future__ import annotations

import errno

from pktsim.clock import NS_PER_MS, NS_PER_US
from pktsim.kernel.tcp_block import (
    ATO_MIN_NS,
    MASK32,
    MAX_QUICKACKS,
    PAWS_IDLE_NS,
    ts_before,
    unwrap,
)
from pktsim.kernel.tcp_recovery import TcpRecovery
from pktsim.kernel.tcp_rtt import TIMEWAIT_NS
from pktsim.kernel.tcp_segment import ACK, CWR, FIN, PSH, RST, SYN, Segment
from pktsim.kernel.tcp_state import Event, TcpState, next_state
from pktsim.netfilter.opcodes import DropReason

_RST_AFTER_FIN = (TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.CLOSING)
_AFTER_CLOSE = (TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.CLOSE_WAIT, TcpState.CLOSING, TcpState.LAST_ACK)
_CE = 3
_FASTRETRANS_THRESH = 3
#: TCP_PAWS_WINDOW: so much older a time stamp may be within a connection.
_PAWS_WINDOW = 1


class TcpInput(TcpRecovery):
    """The receiving half."""

    def enter_time_wait(self, substate: TcpState, duration_ns: int) -> None:
        """Leave a small stand-in behind (tcp_time_wait)."""
        raise NotImplementedError

    def established(self) -> None:
        """The handshake is over."""
        raise NotImplementedError

    # Arrival.

    def receive(self, segment: Segment, *, ecn: int = 0) -> DropReason | None:
        """Process one segment for this connection in any state but LISTEN and TIME_WAIT.

        Args:
            segment: With a right checksum.
            ecn: The two ECN bits of the IP header.

        Returns:
            Why it is dropped, if it is.
        """
        if self.state == TcpState.SYN_SENT:
            return self._receive_in_syn_sent(segment)
        if not segment.flags & (ACK | RST | SYN):
            return DropReason.TCP_FLAGS
        seq = unwrap(segment.seq, self.rcv_nxt)
        end_seq = seq + segment.length
        valid, reason = self._validate(segment, seq, end_seq)
        if not valid:
            return reason
        ack = unwrap(segment.ack, self.snd_nxt)
        state = self.state
        accepted = self.process_ack(segment, seq, ack) if segment.flags & ACK else -1
        if not segment.flags & ACK:
            return DropReason.TCP_FLAGS
        refused = DropReason.TCP_ACK_UNSENT_DATA if ack > self.snd_nxt else DropReason.TCP_TOO_OLD_ACK
        if state == TcpState.SYN_RECV:
            if accepted <= 0:
                self.demux.send_reset(segment, self.laddr, self.raddr, ifindex=self.ifindex)
                return refused
            self._leave_syn_recv(segment, seq, ack)
        elif accepted < 0:
            if state != TcpState.ESTABLISHED:
                self.send_challenge_ack()
            return refused
        if not self._our_fin_acked(segment, end_seq):
            return None
        self._measure_receiver_rtt(segment)
        if ecn == _CE and self.ecn_ok:
            self.ecn_demand_cwr = True
        if segment.flags & CWR:
            self.ecn_demand_cwr = False
        if self.state in _RST_AFTER_FIN and seq >= self.rcv_nxt:
            # Whatever follows the FIN is nobody's.
            self.push_pending()
            self.check_ack()
            return DropReason.TCP_CLOSE if segment.length else None
        if (
            self.state in _AFTER_CLOSE
            and self.rcv_shutdown
            and segment.length
            and end_seq - bool(segment.flags & FIN) > self.rcv_nxt
        ):
            # RFC 1122 section 4.2.2.13: data that nobody can read any more resets the connection.
            self.demux.send_reset(segment, self.laddr, self.raddr, ifindex=self.ifindex)
            self.fail(errno.ECONNRESET)
            return DropReason.TCP_ABORT_ON_DATA
        reason = self._queue(segment, seq, end_seq)
        if self.state not in (TcpState.CLOSE, TcpState.TIME_WAIT):
            self.push_pending()
            self.release_send_space()
            self.check_ack()
        return reason

    def _validate(self, segment: Segment, seq: int, end_seq: int) -> tuple[bool, DropReason | None]:
        """Whether the segment is this connection's and may be processed (tcp_validate_incoming).

        Returns:
            That, and why it is dropped, if it is: a good reset is not, though nothing more is to be done with it.
        """
        flags = segment.flags
        if self._fails_paws(segment, seq) and not flags & RST:
            if flags & SYN:
                self.send_challenge_ack()
            elif not self._rate_limited(segment):
                self._send_duplicate_ack(seq, end_seq)
            return False, DropReason.TCP_RFC7323_PAWS
        outside = self._outside_window(seq, end_seq)
        if outside is not None:
            if flags & RST:
                if seq == self.rcv_nxt - 1 and self.state in _RST_AFTER_FIN:
                    self._reset()
                    return False, None
            elif flags & SYN:
                self.send_challenge_ack()
            elif not self._rate_limited(segment):
                self._send_duplicate_ack(seq, end_seq)
            return False, outside
        if flags & RST:
            # RFC 5961 section 3.2: only the exact next number resets; what is near asks for proof.
            blocks = self.reassembly.blocks(4) if self.sack_ok else []
            exact = seq == self.rcv_nxt or (blocks and seq == max(right for _, right in blocks))
            if exact or (seq == self.rcv_nxt - 1 and self.state in _RST_AFTER_FIN):
                self._reset()
                return False, None
            self.send_challenge_ack()
            return False, DropReason.TCP_RESET
        if flags & SYN:
            if (
                self.state == TcpState.SYN_RECV
                and flags & ACK
                and seq + 1 == end_seq == self.rcv_nxt
                and unwrap(segment.ack, self.snd_nxt) == self.snd_nxt
            ):
                return True, None  # the SYN-ACK of a simultaneous open
            self.send_challenge_ack()
            return False, DropReason.TCP_INVALID_SYN
        return True, None

    def _fails_paws(self, segment: Segment, seq: int) -> bool:
        """RFC 7323 section 5, with Linux's exception for reordered pure ACKs (tcp_disordered_ack)."""
        if not self.timestamps or segment.ts_val is None or not self.ts_recent_valid:
            return False
        if not ts_before(segment.ts_val, self.ts_recent - _PAWS_WINDOW):
            return False
        if self.now_ns - self.ts_recent_ns >= PAWS_IDLE_NS:
            return False
        behind_ms = (self.ts_recent - segment.ts_val) & MASK32
        disordered = (
            segment.flags & ACK
            and seq == self.rcv_nxt
            and not segment.length
            and unwrap(segment.ack, self.snd_una) == self.snd_una
            and behind_ms <= self.rtt.rto_ns * 1024 // 1000 // NS_PER_MS
        )
        return not disordered

    def _outside_window(self, seq: int, end_seq: int) -> DropReason | None:
        """tcp_sequence."""
        if end_seq < self.window.wup:
            return DropReason.TCP_OLD_SEQUENCE
        edge = self.rcv_nxt + self.window.receive_window(self.rcv_nxt)
        if end_seq > edge:
            if seq > edge:
                return DropReason.TCP_INVALID_SEQUENCE
            # Since 6.17 a segment may reach beyond the window only if nothing waits to be read.
            return DropReason.TCP_INVALID_END_SEQUENCE if self.received.length else None
        return None

    def _rate_limited(self, segment: Segment) -> bool:
        """Data is always answered, pure ACKs and SYNs in limits (tcp_oow_rate_limited)."""
        if segment.payload and not segment.flags & SYN:
            return False
        return self.out_of_window_limited()

    def send_challenge_ack(self) -> None:
        """RFC 5961 section 7, without its limit for the whole host, which is off by default since 6.x."""
        if not self.out_of_window_limited():
            self.send_ack()

    def _send_duplicate_ack(self, seq: int, end_seq: int) -> None:
        """tcp_send_dupack."""
        if seq != end_seq and seq < self.rcv_nxt:
            self._enter_quickack()
            self._set_dsack(seq, min(end_seq, self.rcv_nxt))
        self.send_ack()

    def _reset(self) -> None:
        """The peer's RST is good (tcp_reset)."""
        error = {TcpState.SYN_SENT: errno.ECONNREFUSED, TcpState.CLOSE_WAIT: errno.EPIPE}
        self.fail(error.get(self.state, errno.ECONNRESET))

    # SYN_SENT.

    def _receive_in_syn_sent(self, segment: Segment) -> DropReason | None:
        """tcp_rcv_synsent_state_process."""
        flags = segment.flags
        if flags & ACK:
            ack = unwrap(segment.ack, self.snd_nxt)
            if not self.snd_una < ack <= self.snd_nxt:
                if not flags & RST:
                    self.demux.send_reset(segment, self.laddr, self.raddr, ifindex=self.ifindex)
                return DropReason.TCP_INVALID_ACK_SEQUENCE
            if self.timestamps and segment.ts_val is not None and segment.ts_ecr and not self._echo_is_ours(segment):
                if not flags & RST:
                    self.demux.send_reset(segment, self.laddr, self.raddr, ifindex=self.ifindex)
                return DropReason.TCP_RFC7323_TSECR
            if flags & RST:
                self._reset()
                return None
            if not flags & SYN:
                return DropReason.TCP_FLAGS
            self._take_syn(segment)
            self.snd_wnd = segment.window
            self.snd_wl1 = self.irs
            self.process_ack(segment, self.irs, ack, handshake=True)
            if self.state != TcpState.SYN_SENT:
                return None
            self._negotiated(segment)
            self.copied_seq = self.rcv_nxt
            self.state = next_state(self.state, Event.SYN_ACK)
            self.established()
            self.send_ack()
            self.push_pending()
            self.changed.fire()
            return None
        if flags & RST or not flags & SYN:
            return DropReason.TCP_RESET if flags & RST else DropReason.TCP_FLAGS
        # Simultaneous open (RFC 9293 section 3.5).
        self._take_syn(segment)
        self._negotiated(segment)
        self.copied_seq = self.rcv_nxt
        self.snd_wnd = segment.window
        self.snd_wl1 = self.irs
        self.max_window = self.snd_wnd
        self.state = next_state(self.state, Event.SYN)
        self.sync_mss(self.pmtu)
        if self.queue.rtx:
            head = self.queue.rtx[0]
            head.flags |= ACK
            self.send_syn(head)
        return None

    def _echo_is_ours(self, segment: Segment) -> bool:
        first = (self.retrans_first_ts()) & MASK32
        return not ts_before(segment.ts_ecr, first) and not ts_before(self.ts_now(), segment.ts_ecr)

    def retrans_first_ts(self) -> int:
        """Our time stamp when the first SYN went out."""
        return self.ts_offset + self.syn_sent_ns // NS_PER_MS

    def _take_syn(self, segment: Segment) -> None:
        self.irs = segment.seq
        self.rcv_nxt = segment.seq + 1
        self.window.wup = self.rcv_nxt

    def _negotiated(self, segment: Segment) -> None:
        """Settle the options from the peer's SYN."""
        if segment.mss:
            self.mss_clamp = min(self.mss_clamp, segment.mss)
        if segment.wscale < 0:
            self.wscale_ok = False
            self.snd_wscale = 0
            self.window.wscale = 0
            self.window.clamp = min(self.window.clamp, 65535)
        else:
            self.snd_wscale = segment.wscale
        self.sack_ok = self.sack_ok and segment.sack_permitted
        if self.timestamps and segment.ts_val is not None:
            self.advmss -= 12
            self.store_ts_recent(segment.ts_val)
        else:
            self.timestamps = False

    def store_ts_recent(self, ts_val: int) -> None:
        self.ts_recent = ts_val
        self.ts_recent_ns = self.now_ns
        self.ts_recent_valid = True

    def _leave_syn_recv(self, segment: Segment, seq: int, ack: int) -> None:
        """The last step of a simultaneous open (the common passive open is in tcp_listen)."""
        self.state = next_state(self.state, Event.ACK_OF_SYN)
        self.snd_wnd = segment.window << self.snd_wscale
        self.snd_wl1 = seq
        self.max_window = max(self.max_window, self.snd_wnd)
        self.established()
        self.changed.fire()
        if self.send_shutdown:
            self.state = next_state(self.state, Event.CLOSE)
            self.queue_fin()

    # After the ACK.

    def _our_fin_acked(self, segment: Segment, end_seq: int) -> bool:
        """Move on if our FIN is acknowledged; ``False`` if nothing is left to do with the segment."""
        state = self.state
        if self.snd_una != self.write_seq or state not in (
            TcpState.FIN_WAIT1,
            TcpState.CLOSING,
            TcpState.LAST_ACK,
        ):
            return True
        self.state = next_state(state, Event.ACK_OF_FIN)
        if state == TcpState.LAST_ACK:
            self.fail(0)
            return False
        if state == TcpState.CLOSING:
            self.enter_time_wait(TcpState.TIME_WAIT, 0)
            return False
        self.layer.stack.confirm_neighbour(self.raddr)
        self.changed.fire()
        if not self.orphan:
            return True
        if segment.length and end_seq - bool(segment.flags & FIN) > self.rcv_nxt:
            self.demux.send_reset(segment, self.laddr, self.raddr, ifindex=self.ifindex)
            self.fail(0)
            return False
        if self.linger2_ns < 0:
            self.demux.send_reset(segment, self.laddr, self.raddr, ifindex=self.ifindex)
            self.fail(0)
            return False
        time_ns = self.fin_time()
        if time_ns > TIMEWAIT_NS:
            self.arm_state_timer(time_ns - TIMEWAIT_NS)
            return True
        if segment.flags & FIN:
            self.arm_state_timer(time_ns)  # it would get lost otherwise
            return True
        self.end_fin_wait2(time_ns)
        return False

    # Data.

    def _measure_receiver_rtt(self, segment: Segment) -> None:
        """The receiver's own estimate, for sizing its buffer (tcp_rcv_rtt_measure_ts)."""
        if not self.timestamps or not segment.ts_ecr or segment.ts_ecr == self.last_ts_ecr:
            return
        self.last_ts_ecr = segment.ts_ecr
        if len(segment.payload) >= self.window.rcv_mss:
            delta_ms = (self.ts_now() - segment.ts_ecr) & MASK32
            if delta_ms < 1 << 20:
                self._receiver_rtt(max(delta_ms, 1) * 1000, window_based=False)

    def _receiver_rtt(self, sample_us: int, *, window_based: bool) -> None:
        """tcp_rcv_rtt_update: eight-fold, like srtt."""
        old = self.receiver_rtt8_us
        new = sample_us << 3
        if old and not window_based:
            new = old + sample_us - (old >> 3)
        elif old and window_based:
            new = min(old, new)
        self.receiver_rtt8_us = new
        self.window.rtt_us = new

    def _queue(self, segment: Segment, seq: int, end_seq: int) -> DropReason | None:
        """tcp_data_queue. Returns why it is dropped, if it is."""
        if seq == end_seq:
            return None
        self.dsack = None
        data = segment.payload
        fin = bool(segment.flags & FIN)
        if seq <= self.rcv_nxt < end_seq:
            if seq < self.rcv_nxt:
                self._set_dsack(seq, self.rcv_nxt)
                data = data[self.rcv_nxt - seq :]
            if not self.window.receive_window(self.rcv_nxt) and (data or not fin):
                self._out_of_window()
                return DropReason.TCP_ZEROWINDOW
            if not self._memory_for(data):
                return DropReason.PROTO_MEM
            self._take_data(data, push=bool(segment.flags & PSH))
            if fin:
                self._take_fin()
                return None
            self._take_reassembled()
            if not self.orphan:
                self.changed.fire()
            return None
        if end_seq <= self.rcv_nxt:
            self._set_dsack(seq, end_seq)
            self._out_of_window()
            return DropReason.TCP_OLD_DATA
        if seq >= self.rcv_nxt + self.window.receive_window(self.rcv_nxt):
            self._out_of_window()
            return DropReason.TCP_OVERWINDOW
        return self._queue_out_of_order(data, seq, fin=fin, push=bool(segment.flags & PSH))

    def _memory_for(self, data: bytes) -> bool:
        """Whether the receive buffer takes the segment; if not, say so (tcp_try_rmem_schedule)."""
        if self.window.rmem <= self.window.rcvbuf or not self.received.length or not data:
            return True
        self.ack_now = True
        self.ack_scheduled = True
        self.changed.fire()
        return False

    def _take_data(self, data: bytes, *, push: bool) -> None:
        if not data:
            return
        self.received.push(data)
        self.account_memory()
        self.rcv_nxt += len(data)
        self._data_received(len(data), push=push)

    def account_memory(self) -> None:
        self.window.rmem = self.received.memory + self.reassembly.held_bytes

    def _data_received(self, length: int, *, push: bool) -> None:
        """Keep the delayed ACK engine going (tcp_event_data_recv)."""
        self.ack_scheduled = True
        self._measure(length, push=push)
        self._window_rtt()
        now_ns = self.now_ns
        if not self.ato_ns:
            self._more_quickacks()
            self.ato_ns = ATO_MIN_NS
        else:
            gap_ns = now_ns - self.last_received_ns
            if gap_ns <= ATO_MIN_NS // 2:
                self.ato_ns = (self.ato_ns >> 1) + ATO_MIN_NS // 2
            elif gap_ns < self.ato_ns:
                self.ato_ns = min((self.ato_ns >> 1) + gap_ns, self.rtt.rto_ns)
            elif gap_ns > self.rtt.rto_ns:
                self._more_quickacks()
        self.last_received_ns = now_ns
        if length >= 128 and self.window.grow(length):
            self.quick |= 1

    def _measure(self, length: int, *, push: bool) -> None:
        if self.window.measure(length, push=push, header_length=self.header_length):
            if self.ack_pushed:
                self.ack_pushed2 = True
            self.ack_pushed = True

    def _window_rtt(self) -> None:
        """Estimate the round trip by the time a window takes (tcp_rcv_rtt_measure)."""
        if self.rtt_start_receiver_ns:
            if self.rcv_nxt < self.rtt_seq_receiver:
                return
            delta_us = max((self.now_ns - self.rtt_start_receiver_ns) // NS_PER_US, 1)
            self._receiver_rtt(delta_us, window_based=True)
        self.rtt_seq_receiver = self.rcv_nxt + self.window.wnd
        self.rtt_start_receiver_ns = self.now_ns

    def _more_quickacks(self) -> None:
        """tcp_incr_quickack."""
        count = self.window.wnd // (2 * self.window.rcv_mss) or 2
        self.quick = max(self.quick, min(count, MAX_QUICKACKS))

    def _enter_quickack(self) -> None:
        self._more_quickacks()
        self.pingpong = 0
        self.ato_ns = ATO_MIN_NS

    def _out_of_window(self) -> None:
        self._enter_quickack()
        self.ack_scheduled = True

    def _set_dsack(self, seq: int, end_seq: int) -> None:
        if self.sack_ok and self.settings.dsack:
            self.dsack = (seq, end_seq)

    def _extend_dsack(self, seq: int, end_seq: int) -> None:
        """Report more of it as a duplicate, if that is one range with what is to be reported (tcp_dsack_extend)."""
        if self.dsack is None:
            self._set_dsack(seq, end_seq)
        elif seq <= self.dsack[1] and self.dsack[0] <= end_seq:
            self.dsack = (min(seq, self.dsack[0]), max(end_seq, self.dsack[1]))

    def _queue_out_of_order(self, data: bytes, seq: int, *, fin: bool, push: bool) -> DropReason | None:
        """tcp_data_queue_ofo. A FIN is held, and reported, as the byte whose number it takes."""
        self.ack_scheduled = True
        if data:
            self._measure(len(data), push=push)
        held = self.reassembly
        end_seq = seq + len(data) + fin
        merged = held.last_end == seq
        known = held.add(seq, data + b"\0" if fin else data)
        for left, right in known:
            self._extend_dsack(left, right)
        new = known != [(seq, end_seq)]
        if fin and new:
            held.fins.add(end_seq - 1)
        if self.sack_ok and new:
            self.window.grow(len(data), merged=merged)
        self.account_memory()
        if not self.orphan:
            self.window.grow_buffer(0, held.last_end - self.rcv_nxt)
        return None if new else DropReason.TCP_OFOMERGE

    def _take_reassembled(self) -> None:
        """tcp_ofo_queue."""
        held = self.reassembly
        if not held:
            return
        data, known = held.take(self.rcv_nxt)
        for left, right in known:
            self._extend_dsack(left, right)
        fin_seq = min((fin for fin in held.fins if fin < self.rcv_nxt + len(data)), default=None)
        if fin_seq is not None:
            data = data[: fin_seq - self.rcv_nxt]
        if data:
            self.received.push(data)
            self.rcv_nxt += len(data)
        self.account_memory()
        if fin_seq is not None:
            self._take_fin()
        elif not held:
            self.ack_now = True  # RFC 5681 section 4.2: at once, when a gap is filled

    def _take_fin(self) -> None:
        """tcp_fin."""
        self.rcv_nxt += 1
        self.ack_scheduled = True
        self.rcv_shutdown = True
        state = self.state
        self.fin_received = True
        self.state = next_state(state, Event.FIN)
        self.reassembly.clear()
        self.dsack = None  # tcp_sack_reset
        self.account_memory()
        if state in (TcpState.ESTABLISHED, TcpState.SYN_RECV):
            self.pingpong = max(self.settings.pingpong_thresh, self.pingpong)
        elif state == TcpState.FIN_WAIT1:
            self.send_ack()
        elif state == TcpState.FIN_WAIT2:
            self.send_ack()
            self.enter_time_wait(TcpState.TIME_WAIT, 0)
        if not self.orphan:
            self.changed.fire()

    # Whether to acknowledge now.

    def check_ack(self) -> None:
        """tcp_ack_snd_check."""
        if not self.ack_scheduled:
            return
        window = self.window
        full = self.rcv_nxt - window.wup > window.rcv_mss and (
            not self.received.length or window.candidate()[0] >= window.wnd
        )
        if full or (self.quick and not self.in_pingpong) or self.ack_now:
            if self.in_backlog:
                self.ack_deferred = True  # net.ipv4.tcp_backlog_ack_defer
            else:
                self.send_ack()
        elif not self.reassembly:
            self.send_delayed_ack()
        elif not self._compress_ack():
            self.send_ack()

    def _compress_ack(self) -> bool:
        """After three duplicate ACKs that say nothing else, the next ones are gathered for a moment."""
        settings = self.settings
        if not self.sack_ok or self.compressed_acks >= settings.comp_sack_nr:
            return False
        if self.compressed_at_rcv_nxt != self.rcv_nxt:
            self.compressed_at_rcv_nxt = self.rcv_nxt
            self.dup_acks_sent = 0
        if self.dup_acks_sent < _FASTRETRANS_THRESH:
            self.dup_acks_sent += 1
            return False
        self.compressed_acks += 1
        if self.compressed_timer is None:
            rtt8_us = self.receiver_rtt8_us
            if self.rtt.srtt_us and self.rtt.srtt_us < rtt8_us:
                rtt8_us = self.rtt.srtt_us
            # 5% of the round trip; an hrtimer, so no jiffies, but the slack that it is given is taken
            delay_ns = min(settings.comp_sack_delay_ns, rtt8_us * (NS_PER_US >> 3) // 20)
            self.compressed_timer = self.clock.after(delay_ns + settings.comp_sack_slack_ns, self._send_compressed_ack)
        return True

    def _send_compressed_ack(self) -> None:
        """tcp_compressed_ack_kick."""
        self.compressed_timer = None
        if self.compressed_acks and self.state not in (TcpState.CLOSE, TcpState.TIME_WAIT):
            self.send_ack()

    def after_read(self, count: int) -> None:
        """The process has read ``count`` bytes: maybe there is window to tell of (tcp_cleanup_rbuf)."""
        self.account_memory()
        window = self.window
        ooo_end = self.reassembly.last_end if self.reassembly else 0
        window.adjust(self.copied_seq, self.rcv_nxt, self.now_us, ooo_end)
        if self.state in (TcpState.CLOSE, TcpState.TIME_WAIT, TcpState.SYN_SENT):
            return
        if self.ack_scheduled and (
            self.rcv_nxt - window.wup > window.rcv_mss
            or (count and (self.ack_pushed2 or (self.ack_pushed and not self.in_pingpong)) and not self.received.memory)
        ):
            self.send_ack()
            return
        if count and not self.rcv_shutdown:
            left = window.receive_window(self.rcv_nxt)
            if 2 * left <= window.clamp:
                new = window.candidate()[0]
                if new and new >= 2 * left:
                    self.send_ack()
