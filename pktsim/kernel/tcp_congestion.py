"""Congestion control: Reno, and Linux's states around it.

Counts segments, not bytes. Source: net/ipv4/tcp_cong.c and tcp_input.c, Linux 6.18; RFC 5681, RFC 6937 (proportional
rate reduction), RFC 8985 (RACK).
"""

from __future__ import annotations

from enum import IntEnum

from pktsim.fidelity import approximated
from pktsim.kernel.tcp_window import INIT_CWND

approximated(
    "kernel.tcp.congestion_control",
    "Reno, whatever net.ipv4.tcp_congestion_control says; Linux's default is CUBIC, whose window grows "
    "otherwise after a loss and which leaves slow start earlier on long paths (HyStart)",
    source="net/ipv4/tcp_cubic.c",
)

INFINITE_SSTHRESH = 0x7FFFFFFF


class CaState(IntEnum):
    """enum tcp_ca_state."""

    OPEN = 0
    DISORDER = 1
    CWR = 2
    RECOVERY = 3
    LOSS = 4


class Reno:
    """Congestion window and slow start threshold of one connection."""

    __slots__ = (
        "_used_seq",
        "cwnd",
        "cwnd_cnt",
        "high_seq",
        "is_cwnd_limited",
        "max_packets_out",
        "prior_cwnd",
        "prior_ssthresh",
        "prr_delivered",
        "prr_out",
        "ssthresh",
        "stamp_ns",
        "state",
        "used",
    )

    def __init__(self) -> None:
        self.state = CaState.OPEN
        self.cwnd = INIT_CWND
        self.cwnd_cnt = 0
        self.ssthresh = INFINITE_SSTHRESH
        self.high_seq = 0
        self.prior_cwnd = 0
        self.prior_ssthresh = 0  # before the last reduction; 0: it is not to be undone
        self.prr_delivered = 0
        self.prr_out = 0
        self.is_cwnd_limited = False
        self.max_packets_out = 0
        self._used_seq = 0
        self.used = 0
        self.stamp_ns = 0

    @property
    def in_slow_start(self) -> bool:
        return self.cwnd < self.ssthresh

    @property
    def in_slow_start_from_the_beginning(self) -> bool:
        """tcp_in_initial_slowstart."""
        return self.ssthresh >= INFINITE_SSTHRESH

    @property
    def in_reduction(self) -> bool:
        return self.state in (CaState.CWR, CaState.RECOVERY)

    def cwnd_limited(self) -> bool:
        """Whether the window, and not the application, holds the sender back (tcp_is_cwnd_limited)."""
        if self.is_cwnd_limited:
            return True
        return self.in_slow_start and self.cwnd < 2 * self.max_packets_out

    def validate(
        self, *, limited: bool, packets_out: int, snd_una: int, snd_nxt: int, now_ns: int, rto_ns: int, idle: bool
    ) -> None:
        """Note how much of the window is used (tcp_cwnd_validate, RFC 7661)."""
        if snd_una >= self._used_seq or limited or (not self.is_cwnd_limited and packets_out > self.max_packets_out):
            self.is_cwnd_limited = limited
            self.max_packets_out = packets_out
            self._used_seq = snd_nxt
        if self.cwnd_limited():
            self.used = 0
            self.stamp_ns = now_ns
            return
        self.used = max(self.used, packets_out)
        if idle and now_ns - self.stamp_ns >= rto_ns:
            self._application_limited(now_ns)

    def _application_limited(self, now_ns: int) -> None:
        if self.state == CaState.OPEN:
            window = max(self.used, INIT_CWND)
            if window < self.cwnd:
                self.ssthresh = max(self.ssthresh, self.cwnd * 3 // 4)
                self.cwnd = (self.cwnd + window) >> 1
            self.used = 0
        self.stamp_ns = now_ns

    def restart(self, idle_ns: int, rto_ns: int, now_ns: int) -> None:
        """Shrink after a pause, once per time-out (tcp_cwnd_restart, RFC 2861)."""
        self.ssthresh = max(self.ssthresh, self.cwnd * 3 // 4)
        least = min(INIT_CWND, self.cwnd)
        cwnd = self.cwnd
        idle_ns -= rto_ns
        while idle_ns > 0 and cwnd > least:
            cwnd >>= 1
            idle_ns -= rto_ns
        self.cwnd = max(cwnd, least)
        self.stamp_ns = now_ns
        self.used = 0

    def acked(self, segments: int, now_ns: int) -> None:
        """Grow (tcp_reno_cong_avoid)."""
        if not self.cwnd_limited():
            return
        if self.in_slow_start:
            grown = min(self.cwnd + segments, self.ssthresh)
            segments -= grown - self.cwnd
            self.cwnd = grown
            if not segments:
                self.stamp_ns = now_ns
                return
        if self.cwnd_cnt >= self.cwnd:
            self.cwnd_cnt = 0
            self.cwnd += 1
        self.cwnd_cnt += segments
        if self.cwnd_cnt >= self.cwnd:
            delta = self.cwnd_cnt // self.cwnd
            self.cwnd_cnt -= delta * self.cwnd
            self.cwnd += delta
        self.stamp_ns = now_ns

    @property
    def current_ssthresh(self) -> int:
        """What to go back to if a reduction turns out needless (tcp_current_ssthresh)."""
        if self.in_reduction:
            return self.ssthresh
        return max(self.ssthresh, (self.cwnd >> 1) + (self.cwnd >> 2))

    def begin_reduction(self, snd_nxt: int) -> None:
        """The window shrinks from here to ``ssthresh`` (tcp_init_cwnd_reduction)."""
        self.high_seq = snd_nxt
        self.cwnd_cnt = 0
        self.prior_cwnd = self.cwnd
        self.prr_delivered = 0
        self.prr_out = 0
        self.ssthresh = max(self.cwnd >> 1, 2)

    def undo(self, now_ns: int) -> None:
        """The reduction was needless (tcp_undo_cwnd_reduction)."""
        if self.prior_ssthresh:
            self.cwnd = max(self.cwnd, self.prior_cwnd)
            self.ssthresh = max(self.ssthresh, self.prior_ssthresh)
        self.stamp_ns = now_ns

    def reduce(self, *, in_flight: int, newly_delivered: int, newly_lost: int, advanced: bool) -> None:
        """Proportional rate reduction (tcp_cwnd_reduction, RFC 6937)."""
        if newly_delivered <= 0 or not self.prior_cwnd:
            return
        delta = self.ssthresh - in_flight
        self.prr_delivered += newly_delivered
        if delta < 0:
            count = -(-self.ssthresh * self.prr_delivered // self.prior_cwnd) - self.prr_out
        else:
            count = max(self.prr_delivered - self.prr_out, newly_delivered)
            if advanced and not newly_lost:
                count += 1
            count = min(delta, count)
        count = max(count, 0 if self.prr_out else 1)
        self.cwnd = in_flight + count

    def end_reduction(self, now_ns: int, *, undone: bool) -> None:
        """tcp_end_cwnd_reduction: unless it was undone meanwhile."""
        if self.ssthresh < INFINITE_SSTHRESH and (self.state == CaState.CWR or not undone):
            self.cwnd = self.ssthresh
            self.stamp_ns = now_ns

    def begin_loss(self) -> None:
        """A time-out is paid for, once (tcp_enter_loss)."""
        self.prior_ssthresh = self.current_ssthresh
        self.prior_cwnd = self.cwnd
        self.ssthresh = max(self.cwnd >> 1, 2)

    def enter_loss(self, snd_nxt: int, in_flight: int, now_ns: int) -> None:
        """A retransmission time-out.

        Args:
            snd_nxt: Where recovery ends.
            in_flight: Segments in flight when everything thought lost is taken off.
        """
        self.cwnd = in_flight + 1
        self.cwnd_cnt = 0
        self.stamp_ns = now_ns
        self.state = CaState.LOSS
        self.high_seq = snd_nxt

    def begin_transfer(self, *, syn_lost: bool) -> None:
        """The handshake is over; what it has lost costs all but one segment (tcp_init_transfer, RFC 5681)."""
        self.cwnd = 1 if syn_lost else INIT_CWND
        self.ssthresh = INFINITE_SSTHRESH
