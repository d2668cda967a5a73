"""Round-trip time and retransmission time-out, as Linux estimates them.

RFC 6298 with Linux's changes: the smoothed time is kept eight-fold and the deviation four-fold in integer
microseconds, the deviation falls slowly and rises at once, its maximum of the last round trip is what counts, and the
time-out is never less than the smoothed time plus 200 ms. Source: net/ipv4/tcp_input.c tcp_rtt_estimator, Linux 6.18.
"""

from __future__ import annotations

from pktsim.clock import NS_PER_S, NS_PER_US

RTO_INITIAL_NS = NS_PER_S
TIMEWAIT_NS = 60 * NS_PER_S  # TCP_TIMEWAIT_LEN
RTO_FALLBACK_NS = 3 * NS_PER_S
RTO_MIN_US = 200_000
RTO_MAX_NS = 120 * NS_PER_S
#: ``tcp_min_rtt`` before there is one.
NO_RTT = 0xFFFFFFFF
MIN_RTT_WINDOW_NS = 300 * NS_PER_S  # net.ipv4.tcp_min_rtt_wlen


class RttEstimator:
    """Smoothed round-trip time, its deviation, and the time-out that follows."""

    __slots__ = (
        "_min_at_ns",
        "mdev_max_us",
        "mdev_us",
        "min_rtt_us",
        "rto_max_ns",
        "rto_min_us",
        "rto_ns",
        "rtt_seq",
        "rttvar_us",
        "srtt_us",
    )

    def __init__(self, *, rto_min_us: int = RTO_MIN_US, rto_max_ns: int = RTO_MAX_NS) -> None:
        self.rto_min_us = rto_min_us
        self.rto_max_ns = rto_max_ns
        self.srtt_us = 0  # eight times the smoothed round-trip time
        self.mdev_us = NS_PER_S // NS_PER_US  # tcp_init_sock: TCP_TIMEOUT_INIT
        self.mdev_max_us = 0
        self.rttvar_us = 0
        self.rtt_seq = 0
        self.min_rtt_us = NO_RTT
        self._min_at_ns = 0
        self.rto_ns = RTO_INITIAL_NS

    def measure_min(self, rtt_us: int, now_ns: int, *, maybe_delayed: bool = False) -> None:
        """Keep the shortest of the last five minutes (tcp_update_rtt_min).

        Args:
            rtt_us: Of what was sent last among what was acknowledged.
            maybe_delayed: The ACK may have waited for company.
        """
        if maybe_delayed and rtt_us > self.min_rtt_us:
            return
        rtt_us = max(rtt_us, 1)
        if rtt_us <= self.min_rtt_us or now_ns - self._min_at_ns > MIN_RTT_WINDOW_NS:
            self.min_rtt_us = rtt_us
            self._min_at_ns = now_ns

    def sample(self, rtt_us: int, snd_una: int, snd_nxt: int) -> None:
        """Take in one measurement and set the time-out.

        Args:
            rtt_us: The measured round-trip time.
            snd_una: Oldest unacknowledged sequence number after the ACK that gave the measurement.
            snd_nxt: Next one to be sent.
        """
        m = max(rtt_us, 1)
        srtt = self.srtt_us
        if srtt:
            m -= srtt >> 3
            srtt += m
            if m < 0:
                m = -m
                m -= self.mdev_us >> 2
                # A falling time must not raise the deviation: take an eighth of the gain only.
                if m > 0:
                    m >>= 3
            else:
                m -= self.mdev_us >> 2
            self.mdev_us += m
            if self.mdev_us > self.mdev_max_us:
                self.mdev_max_us = self.mdev_us
                self.rttvar_us = max(self.rttvar_us, self.mdev_max_us)
            if snd_una > self.rtt_seq:
                if self.mdev_max_us < self.rttvar_us:
                    self.rttvar_us -= (self.rttvar_us - self.mdev_max_us) >> 2
                self.rtt_seq = snd_nxt
                self.mdev_max_us = self.rto_min_us
        else:
            srtt = m << 3
            self.mdev_us = m << 1
            self.rttvar_us = max(self.mdev_us, self.rto_min_us)
            self.mdev_max_us = self.rttvar_us
            self.rtt_seq = snd_nxt
        self.srtt_us = max(1, srtt)
        self.reset_rto()

    def reset_rto(self) -> None:
        """Undo the back-off: the time-out from the estimate alone (tcp_set_rto)."""
        if self.srtt_us:
            self.rto_ns = min(((self.srtt_us >> 3) + self.rttvar_us) * NS_PER_US, self.rto_max_ns)

    def back_off(self) -> None:
        """Double the time-out (RFC 6298 section 5.5)."""
        self.rto_ns = min(self.rto_ns * 2, self.rto_max_ns)

    def fall_back(self) -> None:
        """The handshake has given no measure (tcp_init_metrics, RFC 6298 section 5.7)."""
        self.rttvar_us = self.mdev_us = self.mdev_max_us = RTO_FALLBACK_NS // NS_PER_US
        self.rto_ns = RTO_FALLBACK_NS
