"""One TCP connection: opening, closing, and what its socket asks of it.

The pieces lie in a row of classes, each a file: state (tcp_block), sending (tcp_output), timers (tcp_timer), what ACKs
say (tcp_recovery), what comes in (tcp_input). This is the last of them.

Source: net/ipv4/tcp.c, tcp_ipv4.c, Linux 6.18.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.kernel.icmp_error import IcmpError
from pktsim.kernel.tcp_block import MASK32, XmitTimer, unwrap
from pktsim.kernel.tcp_congestion import CaState
from pktsim.kernel.tcp_input import TcpInput
from pktsim.kernel.tcp_queue import SendBuffer
from pktsim.kernel.tcp_rtt import TIMEWAIT_NS
from pktsim.kernel.tcp_segment import ACK, SYN, Segment
from pktsim.kernel.tcp_state import FIN_ON_CLOSE, Event, TcpState, next_state
from pktsim.kernel.tcp_timewait import TimeWait
from pktsim.kernel.transport import IpPacket, family_of
from pktsim.netfilter.opcodes import DropReason

if TYPE_CHECKING:
    from pktsim.kernel.tcp_demux import Key

_HANDSHAKE = (TcpState.SYN_SENT, TcpState.SYN_RECV)


class TcpConnection(TcpInput):
    """A connection from its SYN to its end."""

    listening = False
    reuse_address = False
    port_by_connect = False
    user_mss = 0
    owned = False

    @property
    def family(self) -> int:
        return family_of(self.laddr)

    @property
    def key(self) -> Key:
        return self.laddr, self.lport, self.raddr, self.rport

    # The table.

    def register(self) -> None:
        self.demux.connections[self.key] = self
        self.demux.hold(self, self.lport)

    def unregister(self) -> None:
        if self.demux.connections.get(self.key) is self:
            del self.demux.connections[self.key]
            self.demux.release(self, self.lport)

    def deliver(self, segment: Segment, packet: IpPacket, *, ifindex: int, pkt_id: int = 0) -> DropReason | None:
        if self.owned:
            self._add_backlog(segment, packet.tos & 3, pkt_id)
            return None
        self.in_softirq = True
        reason = self.receive(segment, ecn=packet.tos & 3)
        self.in_softirq = False
        return reason

    # While a process is in the middle of a system call, segments wait.

    def own(self, *, stepwise: bool = False) -> None:
        """lock_sock: a process is at work on the connection. ``stepwise``: it returns after each burst it sends."""
        self.owned = True
        self.stepwise = stepwise

    def release(self) -> None:
        """release_sock: process what has come meanwhile."""
        self.stepwise = False
        self.go_on()
        while self.release_step():
            pass

    def release_step(self) -> bool:
        """release_sock up to the next burst that goes out (__release_sock); ``False`` if all is done."""
        before = self.snd_nxt
        self.go_on()
        self.in_backlog = True
        while self.backlog and not self.dead and self.snd_nxt == before:
            segment, ecn, pkt_id = self.backlog.pop(0)
            reason = self.receive(segment, ecn=ecn)
            if reason is not None:
                self.layer.stack.packet_dropped(pkt_id, reason)
        self.in_backlog = False
        if self.snd_nxt != before and not self.dead:
            return True
        if self.ack_deferred:
            self.ack_deferred = False
            if self.ack_scheduled and not self.dead:
                self.send_ack()
        for _, _, pkt_id in self.backlog:
            self.layer.stack.packet_dropped(pkt_id, DropReason.TCP_CLOSE)
        self.backlog.clear()
        self.owned = self.stepwise = False
        return False

    def _add_backlog(self, segment: Segment, ecn: int, pkt_id: int) -> None:
        """tcp_add_backlog: an ACK takes the place of the one before it if they differ in nothing else.

        The kernel joins data, too; that would change how the sizes of segments are counted, and is not done here.
        """
        if self.backlog:
            last, last_ecn, _ = self.backlog[-1]
            plain = last.flags == segment.flags == ACK and not last.payload and not segment.payload
            like = replace(last, ack=segment.ack, window=segment.window) == segment
            if plain and like and ecn == last_ecn and (segment.ack - last.ack) & MASK32 <= MASK32 >> 1:
                self.backlog[-1] = (segment, ecn, pkt_id)
                return
        self.backlog.append((segment, ecn, pkt_id))

    # Opening.

    def open(self, mtu: int, advmss: int) -> None:
        """Send the SYN (tcp_v4_connect, tcp_connect)."""
        settings = self.settings
        layer = self.layer
        self.timestamps = bool(settings.timestamps)
        self.sack_ok = bool(settings.sack)
        self.wscale_ok = bool(settings.window_scaling)
        self.ts_offset = self.demux.ts_offset(self.laddr, self.raddr)
        self.advmss = self.syn_mss = advmss
        self.mss_clamp = min(0xFFFF, self.user_mss or 0xFFFF)
        self.iss = self.demux.isn(self.key)
        self.first_seq = self.snd_una = self.snd_nxt = self.snd_high = self.iss
        self.write_seq = self.pushed_seq = self.iss
        self.ip_id = layer.choices.below(f"{layer.name}/ip.id", 1 << 16)
        self.flow_label = layer.new_flow_label() if len(self.laddr) == 16 else 0
        self.state = TcpState.SYN_SENT
        self.retrans_stamp_ns = self.now_ns or 1  # tcp_connect: 0 is for none
        self.sync_mss(mtu)
        self.register()
        syn = SendBuffer(self.iss, b"", SYN, 1)
        syn.sent_at_ns = self.syn_sent_ns = self.now_ns
        self.queue.append(syn)
        self.queue.head_sent()
        self.write_seq += 1
        self.pushed_seq = self.write_seq
        self.snd_nxt = self.snd_high = self.write_seq
        self.arm(XmitTimer.RETRANS, self.rtt.rto_ns)
        self.send_syn(syn)

    def established(self) -> None:
        """Settle what the handshake has negotiated (tcp_finish_connect, tcp_init_transfer)."""
        self.max_window = max(self.max_window, self.snd_wnd)
        self.sync_mss(self.pmtu)
        self.pushed_seq = self.snd_sml = self.snd_high = self.snd_nxt
        self.last_received_ns = self.now_ns
        self.retransmits = 0
        self.total_rto = 0
        first = (self.syn_sent_ns // NS_PER_MS + self.ts_offset) & MASK32
        if self.timestamps and self.stamp_echo == first:
            self.undo_marker = None  # tcp_try_undo_spurious_syn: the first SYN was answered after all
        self._begin_transfer()

    def take_handshake_rtt(self, rtt_us: int) -> None:
        """tcp_synack_rtt_meas."""
        self.rtt.measure_min(rtt_us, self.now_ns)
        self.rtt.sample(rtt_us, self.snd_una, self.snd_nxt)

    def passive_established(self) -> None:
        """The same on the side that was called."""
        self.state = next_state(self.state, Event.ACK_OF_SYN)
        self._begin_transfer()
        self.last_sent_ns = self.now_ns

    def _begin_transfer(self) -> None:
        """tcp_init_transfer."""
        if not self.rtt.srtt_us:
            self.rtt.fall_back()
        self.reno.begin_transfer(syn_lost=self.total_retrans > 1 and self.undo_marker is not None)
        self.update_pacing_rate()
        self.expand_sndbuf()
        self.window.establish(self.advmss, self.mss_cache, self.rcv_nxt, self.now_us)
        if self.keepalive:
            self.arm_state_timer(self.keepidle_ns or self.settings.keepalive_time * NS_PER_S)

    # Sending and receiving for the process.

    def send_room(self) -> bool:
        """Whether the send buffer takes another buffer (sk_stream_memory_free)."""
        return self.queue.queued_bytes < self.sndbuf

    def send_some(self, data: memoryview, *, blocking_step: bool) -> int:
        """Take data into the send buffer, and send what may go (tcp_sendmsg_locked).

        Args:
            data: What the process writes.
            blocking_step: Return after each burst that went out, so that the caller can let time pass.

        Returns:
            How many bytes were taken; less than all if the buffer is full, or after a burst.
        """
        mss = self.current_mss()
        goal = self.size_goal(mss)
        queue = self.queue
        taken = 0
        while taken < len(data):
            tail = queue.write[-1] if queue.write else None
            room = goal - len(tail.data) if tail is not None and not tail.syn_fin else 0
            if tail is None or room <= 0:
                if not self.send_room():
                    self._push(mss)
                    return taken
                self.restart_after_idle()
                tail = SendBuffer(self.write_seq, b"", ACK)
                queue.append(tail)
                room = goal
            piece = data[taken : taken + room]
            tail.data += piece
            queue.queued_bytes += len(piece)
            self.write_seq += len(piece)
            taken += len(piece)
            if taken == len(data):
                break
            before = self.snd_nxt
            if self.forced_push():
                self.mark_push(tail)
                self.push_pending(mss=mss, nagle_off=True)
            elif len(queue.write) == 1 and self.write_xmit(mss, nagle_off=True, one=True):
                self.check_probe_timer()
            if blocking_step and self.snd_nxt != before:
                return taken
        if taken:
            self._push(mss)
        return taken

    def _push(self, mss: int) -> None:
        """tcp_push."""
        if self.queue.write:
            self.mark_push(self.queue.write[-1])
            self.push_pending(mss=mss)

    def read(self, limit: int) -> bytes:
        data = self.received.pop(limit)
        self.copied_seq += len(data)
        self.after_read(len(data))
        return data

    # Closing.

    def shutdown_write(self) -> None:
        """The process sends no more (tcp_shutdown)."""
        if self.send_shutdown:
            return
        self.send_shutdown = True
        state = self.state
        if state in FIN_ON_CLOSE and state != TcpState.SYN_RECV:
            self.state = next_state(state, Event.CLOSE)
            self.queue_fin()

    def close(self, *, reset: bool = False) -> None:
        """The process is gone (__tcp_close).

        Args:
            reset: SO_LINGER with time 0: no FIN but a RST.
        """
        self.orphan = True
        self.rcv_shutdown = True
        unread = self.received.length
        self.received.clear()
        state = self.state
        if state == TcpState.CLOSE:
            self.fail(0)
            return
        if state == TcpState.SYN_SENT:
            self.fail(errno.ECONNRESET)
            return
        if unread or reset:
            # RFC 2525 section 2.17: data that was never read must not look delivered.
            if unread or state in (*FIN_ON_CLOSE, TcpState.FIN_WAIT1, TcpState.FIN_WAIT2):
                self.send_active_reset()
            self.fail(0)
            return
        if not self.send_shutdown:
            self.send_shutdown = True
            if state in FIN_ON_CLOSE:
                self.state = next_state(state, Event.CLOSE)
                self.queue_fin()
        if self.state == TcpState.FIN_WAIT2:
            self.wait_for_fin()

    def end_fin_wait2(self, duration_ns: int) -> None:
        self.enter_time_wait(TcpState.FIN_WAIT2, duration_ns)

    def wait_for_fin(self) -> None:
        """FIN_WAIT2, and no process any more: not for ever."""
        if self.linger2_ns < 0:
            self.send_active_reset()
            self.fail(0)
            return
        time_ns = self.fin_time()
        if time_ns > TIMEWAIT_NS:
            self.arm_state_timer(time_ns - TIMEWAIT_NS)
        else:
            self.end_fin_wait2(time_ns)

    def abort(self) -> None:
        """Reset the connection at once."""
        self.close(reset=True)

    def enter_time_wait(self, substate: TcpState, duration_ns: int) -> None:
        """tcp_time_wait: the process, if it is still there, reads the end of the stream."""
        self._stop_timers()
        self.unregister()
        stand_in = TimeWait(self, substate, duration_ns or TIMEWAIT_NS)
        self.demux.connections[self.key] = stand_in
        self.demux.hold(stand_in, self.lport)
        self.state = TcpState.CLOSE
        self.dead = True
        self.queue.clear()
        self.changed.fire()

    def fail(self, error: int) -> None:
        """End it here and now (tcp_done_with_error, tcp_done)."""
        if error and not self.error:
            self.error = error
        self.state = next_state(self.state, Event.ABORT)
        self._stop_timers()
        self.unregister()
        self.queue.clear()
        self.reassembly.clear()
        self.rcv_shutdown = True
        self.send_shutdown = True
        self.dead = True
        self.changed.fire()

    def _stop_timers(self) -> None:
        self.disarm()
        self.clear_ack()
        if self.state_timer is not None:
            self.state_timer.cancel()
            self.state_timer = None

    # ICMP.

    def icmp(self, error: IcmpError) -> None:
        """tcp_v4_err, tcp_v6_err."""
        payload = error.quoted.payload
        seq = unwrap(int.from_bytes(payload[4:8], "big"), self.snd_nxt)
        if not self.snd_una <= seq <= self.snd_nxt or self.dead:
            return
        if error.packet_too_big:
            self.layer.learn_path_mtu(error)
            self._path_mtu_shrunk(error.mtu)
            return
        if error.route_gone:
            self._revert_backoff(seq)
        if self.state in _HANDSHAKE:
            if self.now_ns < self.connecting_until_ns:
                # connect() has not let go of the socket yet: only a note is made. Over IPv4 the message is put in the
                # socket's error queue even so, and a program that polls is woken by that (ip_icmp_error, unlike
                # ipv6_icmp_error, does not ask for IP_RECVERR). Others learn of it from the next SYN's error.
                self.soft_error = error.errno
                if len(self.laddr) == 4:
                    self.error_queued = True
                    self.changed.fire()
            else:
                self.fail(error.errno)
                return
        elif self.recverr and error.fatal:
            self.error = error.errno
            self.changed.fire()
        else:
            self.soft_error = error.errno

    def _revert_backoff(self, seq: int) -> None:
        """The path is gone, not congested: take back a doubling of the time-out (tcp_ld_RTO_revert, RFC 6069)."""
        if seq != self.snd_una or not self.retransmits or not self.backoff or not self.queue.rtx:
            return
        self.backoff -= 1
        if self.rtt.srtt_us:
            self.rtt.reset_rto()
        else:
            self.rtt.rto_ns = NS_PER_S
        for _ in range(self.backoff):
            self.rtt.back_off()
        left_ns = self.queue.rtx[0].sent_at_ns + self.rtt.rto_ns - self.now_ns
        self.arm(XmitTimer.RETRANS, max(left_ns, 0))

    def _path_mtu_shrunk(self, mtu: int) -> None:
        """tcp_v4_mtu_reduced: what was too large is lost, and goes again in smaller pieces."""
        if self.state == TcpState.LISTEN:
            return
        learnt = min(mtu or self.pmtu, self.route_mtu())
        if self.pmtu <= learnt:
            return
        old_mss = self.mss_cache
        self.sync_mss(learnt)
        found = False
        for buffer in self.queue.rtx:
            if not buffer.sacked and min(len(buffer.data), old_mss) > self.mss_cache:
                self.mark_lost(buffer)
                found = True
        if not found:
            return
        # tcp_simple_retransmit: no congestion, so the window stays.
        if self.reno.state != CaState.LOSS:
            self.reno.high_seq = self.snd_nxt
            self.reno.ssthresh = self.reno.current_ssthresh
            self.reno.prior_ssthresh = 0
            self.undo_marker = None
            self.reno.state = CaState.LOSS
        self.retransmit_lost()
