"""The receive window: how much the socket offers, and how that grows.

Linux offers what fits its receive buffer *with* the buffers' overhead, learns the ratio of payload to memory from what
arrives, and grows the offer in steps as data comes in. All of it shows on the wire, so all of it is here, in the
kernel's own arithmetic (net/ipv4/tcp_output.c and tcp_input.c, Linux 6.18; each function names its counterpart).

Memory is counted as the recorded machines did (veth, no GRO): each segment is one buffer with a linear head of
:data:`HEAD_TRUESIZE` bytes and its payload in page fragments, and a segment that continues the last one in the queue is
merged into it, which frees its head.
"""

from __future__ import annotations

from pktsim.fidelity import approximated
from pktsim.kernel.tcp_settings import TcpSettings

approximated(
    "kernel.tcp.buffer_accounting",
    "receive memory is counted as for veth without GRO; other drivers' buffers give other windows once a "
    "transfer is long",
    source="net/ipv4/tcp_input.c tcp_measure_rcv_mss, tcp_clamp_window",
)

#: sizeof(struct sk_buff) and struct skb_shared_info, aligned, and the 256 bytes of MAX_TCP_HEADER.
HEAD_TRUESIZE = 256 + 320 + 256
_MIN_RCVBUF = 2048 + 256  # SOCK_MIN_RCVBUF: TCP_SKB_MIN_TRUESIZE
_DEFAULT_RATIO = 128  # TCP_DEFAULT_SCALING_RATIO: half of the memory is payload
_RATIO_SHIFT = 8  # TCP_RMEM_TO_WIN_SCALE
_MAX_WSCALE = 14
TCP_MSS_DEFAULT = 536
TCP_MIN_MSS = 88
INIT_CWND = 10


def align(value: int, unit: int) -> int:
    """Round up to a multiple of ``unit``."""
    return (value + unit - 1) // unit * unit


def initial_window(settings: TcpSettings, rcvbuf: int, mss: int, *, wscale_ok: bool) -> tuple[int, int, int]:
    """Choose what a SYN or SYN-ACK offers (tcp_select_initial_window).

    Args:
        settings: ``rmem`` decides the scale.
        rcvbuf: The socket's receive buffer.
        mss: The most the peer will send in a segment, options taken off.
        wscale_ok: Whether windows may be scaled.

    Returns:
        The window in bytes, the limit of all windows to come, and the scale.
    """
    clamp = 65535 << _MAX_WSCALE
    space = min(clamp, win_from_space(rcvbuf, _DEFAULT_RATIO))
    if space > mss:
        space = space // mss * mss
    rcv_wnd = space
    wscale = 0
    if wscale_ok:
        most = min(max(space, settings.rmem[2]), clamp)
        wscale = min(max(most.bit_length() - 1 - 15, 0), _MAX_WSCALE)
    return rcv_wnd, min(65535 << wscale, clamp), wscale


def win_from_space(space: int, ratio: int) -> int:
    """How much payload fits into ``space`` bytes of memory (tcp_win_from_space)."""
    return space * ratio >> _RATIO_SHIFT


class ReceiveWindow:
    """The window of one connection.

    Sequence numbers are absolute (they do not wrap).

    Attributes:
        wnd: The window last offered, bytes.
        wup: ``rcv_nxt`` when it was offered.
        clamp: No window may be larger.
        ssthresh: What the window may be now; grows towards ``clamp``.
        ratio: Payload per 256 bytes of memory.
        rmem: Memory of all buffers that hold data not read yet.
    """

    __slots__ = (
        "_drs_at_us",
        "_drs_seq",
        "_drs_space",
        "_last_segment",
        "advmss",
        "clamp",
        "ratio",
        "rcv_mss",
        "rcvbuf",
        "rcvbuf_locked",
        "rmem",
        "rmem_max",
        "rtt_us",
        "settings",
        "ssthresh",
        "wnd",
        "wscale",
        "wup",
    )

    def __init__(self, settings: TcpSettings, *, rcvbuf: int, locked: bool, wnd: int, clamp: int, wscale: int) -> None:
        self.settings = settings
        self.rcvbuf = rcvbuf
        self.rcvbuf_locked = locked
        self.rmem_max = settings.rmem[2]
        self.wnd = wnd
        self.wup = 0
        self.clamp = clamp
        self.wscale = wscale
        self.ssthresh = wnd
        self.ratio = _DEFAULT_RATIO
        self.rmem = 0
        self.rcv_mss = TCP_MSS_DEFAULT
        self.advmss = TCP_MSS_DEFAULT
        self._last_segment = 0
        self.rtt_us = 0
        self._drs_seq = 0
        self._drs_at_us = 0
        self._drs_space = 0

    def establish(self, advmss: int, mss_cache: int, copied_seq: int, now_us: int) -> None:
        """Settle the limits when the handshake is over (tcp_init_buffer_space, tcp_initialize_rcv_mss)."""
        self.advmss = advmss
        full = win_from_space(self.rcvbuf, self.ratio)
        app_win = self.settings.app_win
        if self.clamp >= full:
            self.clamp = full
            if app_win and full > 4 * advmss:
                self.clamp = max(full - (full >> app_win), 4 * advmss)
        # Reserve one segment.
        if app_win and self.clamp > 2 * advmss and self.clamp + advmss > full:
            self.clamp = max(2 * advmss, full - advmss)
        self.ssthresh = min(self.ssthresh, self.clamp)
        self._drs_space = min(self.ssthresh, self.wnd, INIT_CWND * advmss)
        self._drs_seq = copied_seq
        self._drs_at_us = now_us
        self.rcv_mss = max(min(advmss, mss_cache, self.wnd // 2, TCP_MSS_DEFAULT), TCP_MIN_MSS)

    def receive_window(self, rcv_nxt: int) -> int:
        """How much of the window last offered is left (tcp_receive_window)."""
        return max(self.wup + self.wnd - rcv_nxt, 0)

    def space(self) -> int:
        """Payload that still fits (tcp_space)."""
        return win_from_space(self.rcvbuf - self.rmem, self.ratio) if self.rcvbuf > self.rmem else 0

    def candidate(self) -> tuple[int, bool]:
        """Say what could be offered now, and whether memory is short (__tcp_select_window)."""
        mss = self.rcv_mss
        free = self.space()
        allowed = win_from_space(self.rcvbuf, self.ratio)
        full = min(self.clamp, allowed)
        if mss > full:
            mss = full
            if mss <= 0:
                return 0, False
        unit = 1 << self.wscale
        short = free < full >> 1
        if short:
            free = free // unit * unit
            if free < allowed >> 4 or free < mss:
                return 0, True
        free = min(free, self.ssthresh)
        if self.wscale:
            # Round up, so that the offer is not scaled away.
            return align(free, unit), short
        window = self.wnd
        if window <= free - mss or window > free:
            window = free // mss * mss
        elif mss == full and free > window + (full >> 1):
            window = free
        return window, short

    def select(self, rcv_nxt: int) -> tuple[int, bool]:
        """Make an offer: return the header field, and whether memory was short (tcp_select_window)."""
        current = self.receive_window(rcv_nxt)
        window, short = self.candidate()
        if window < current:
            # RFC 9293 section 3.8.6: the right edge never moves left.
            window = align(current, 1 << self.wscale)
        self.wnd = window
        self.wup = rcv_nxt
        return min(window, 65535 << self.wscale) >> self.wscale, short

    def set_clamp(self, value: int) -> None:
        """Change the limit; what is offered follows (tcp_set_window_clamp)."""
        new = max(_MIN_RCVBUF // 2, value)
        if new == self.clamp:
            return
        shrinks = new < self.clamp
        self.clamp = new
        if shrinks:
            self.ssthresh = min(self.ssthresh, new)
        else:
            self.ssthresh = max(min(self.wnd, new), self.ssthresh)

    def measure(self, length: int, *, push: bool, header_length: int) -> bool:
        """Learn from a segment's size; ``True`` if it looks like the end of a write (tcp_measure_rcv_mss)."""
        last, self._last_segment = self._last_segment, 0
        if length >= self.rcv_mss:
            if length != self.rcv_mss:
                ratio = max(min((length << _RATIO_SHIFT) // (HEAD_TRUESIZE + length), 255), 1)
                if ratio != self.ratio:
                    self.ratio = ratio
                    self.set_clamp(win_from_space(self.rcvbuf, ratio))
                    self._drs_space = min(self._drs_space, self.clamp)
            self.rcv_mss = min(length, self.advmss)
            return push  # a full segment that ends a write: no more may come
        full = length + header_length
        if full >= TCP_MSS_DEFAULT + 20 or (full >= TCP_MIN_MSS + 20 and not push):
            # A size seen twice is the peer's segment size, options and all.
            self._last_segment = length
            if length == last:
                self.rcv_mss = length
                return False
        return True

    def grow(self, length: int, *, merged: bool = True) -> bool:
        """Offer more after a segment of ``length`` bytes; ``True`` if it did (tcp_grow_window).

        Args:
            length: Its payload.
            merged: It is, or may be, merged with its neighbour, so that its own head is not counted (truesize_adjust).
        """
        room = min(self.clamp, self.space()) - self.ssthresh
        if room <= 0:
            return False
        truesize = length if merged else HEAD_TRUESIZE + length
        if win_from_space(truesize, self.ratio) <= length:
            increment = 2 * self.advmss
        else:
            increment = self._grow_slowly(truesize, length)
        if not increment:
            return False
        self.ssthresh += min(room, max(increment, 2 * length))
        return True

    def _grow_slowly(self, truesize: int, length: int) -> int:
        """Whether such segments, most of them overhead, would fit a larger buffer (__tcp_grow_window)."""
        size = win_from_space(truesize, self.ratio) >> 1
        window = win_from_space(self.rmem_max, self.ratio) >> 1
        while self.ssthresh <= window:
            if size <= length:
                return 2 * self.rcv_mss
            size >>= 1
            window >>= 1
        return 0

    def adjust(self, copied_seq: int, rcv_nxt: int, now_us: int, ooo_end: int) -> None:
        """After the process has read: make the buffer fit the rate (tcp_rcv_space_adjust, dynamic right-sizing).

        Args:
            copied_seq: Up to where the process has read.
            rcv_nxt: Up to where data has come in order.
            now_us: The time.
            ooo_end: End of the last segment received out of order, 0 for none.
        """
        if not self.rtt_us or now_us - self._drs_at_us < self.rtt_us >> 3:
            return
        copied = copied_seq - self._drs_seq - (rcv_nxt - copied_seq)
        if copied > self._drs_space:
            self.grow_buffer(copied, ooo_end - rcv_nxt if ooo_end else 0)
        self._drs_seq = copied_seq
        self._drs_at_us = now_us

    def grow_buffer(self, rate: int, ooo_extent: int) -> None:
        """Make the buffer fit ``rate`` bytes in a round trip (tcp_rcvbuf_grow).

        Args:
            rate: Bytes the process read in the last round trip; 0 for what was measured before.
            ooo_extent: From the next byte in order to the end of what is held out of order.
        """
        old = self._drs_space
        rate = rate or old
        self._drs_space = rate
        if not self.settings.moderate_rcvbuf or self.rcvbuf_locked:
            return
        window = rate << 1  # the measurement is one round trip late
        window += window * (rate - old) // max(old, 1) << 1
        window += ooo_extent
        rcvbuf = min((window << _RATIO_SHIFT) // self.ratio, self.rmem_max)
        if rcvbuf > self.rcvbuf:
            self.rcvbuf = rcvbuf
            self.clamp = win_from_space(rcvbuf, self.ratio)
