# TCP's tracker (net/netfilter/nf_conntrack_proto_tcp.c, Linux 6.18). The state grid is the compact form of the table in
# netfilter/conntrack_tcp.py, which explains it; a test holds them equal.

cdef enum:  # TcpState of netfilter/conntrack_tcp.py
    TCP_NONE = 0
    TCP_SYN_SENT = 1
    TCP_SYN_RECV = 2
    TCP_ESTABLISHED = 3
    TCP_FIN_WAIT = 4
    TCP_CLOSE_WAIT = 5
    TCP_LAST_ACK = 6
    TCP_TIME_WAIT = 7
    TCP_CLOSE = 8
    TCP_SYN_SENT2 = 9
    TCP_IGNORE = 25            # 'I' - '0'
    TCP_INVALID = 38           # 'V' - '0'

cdef enum:  # TcpEvent of netfilter/conntrack_tcp.py
    TCP_SYN_SET = 0
    TCP_SYNACK_SET = 1
    TCP_FIN_SET = 2
    TCP_ACK_SET = 3
    TCP_RST_SET = 4
    TCP_NONE_SET = 5

cdef enum:  # IP_CT_TCP_FLAG_* and IP_CT_EXP_CHALLENGE_ACK
    TCPF_WINDOW_SCALE = 0x01
    TCPF_SACK_PERM = 0x02
    TCPF_CLOSE_INIT = 0x04
    TCPF_BE_LIBERAL = 0x08
    TCPF_DATA_UNACKNOWLEDGED = 0x10
    TCPF_MAXACK_SET = 0x20
    TCPF_EXP_CHALLENGE_ACK = 0x40
    TCPF_SIMULTANEOUS_OPEN = 0x80

cdef enum:
    TH_FIN = 0x01
    TH_SYN = 0x02
    TH_RST = 0x04
    TH_ACK = 0x10
    TH_URG = 0x20
    TCP_MAX_WSCALE = 14
    MAXACKWINCONST = 66000
    WINDOW_IGNORE = 0          # enum nf_ct_tcp_action
    WINDOW_INVALID = 1
    WINDOW_ACCEPT = 2

# Next state by direction, event and state: a digit, I ignored (the packet passes, nothing moves), V invalid.
cdef const char *TCP_GRID = (
    # NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2
    b"11IIIII119"  # original SYN
    b"VV2VVVVVV2"  # SYN/ACK
    b"VV4466678V"  # FIN
    b"3V3355778V"  # ACK
    b"V888888888"  # RST
    b"VVVVVVVVVV"  # none of them
    b"V9VVVVV1V9"  # reply SYN
    b"V2IIIIIII2"  # SYN/ACK
    b"VV4466678V"  # FIN
    b"VI2355778I"  # ACK
    b"V888888888"  # RST
    b"VVVVVVVVVV"  # none of them
)


cdef inline int tcp_next(int dir, int event, int state) noexcept nogil:
    return TCP_GRID[(dir * 6 + event) * 10 + state] - 48


cdef inline int tcp_event(const uint8_t *th) noexcept nogil:
    """get_conntrack_index."""
    cdef uint8_t flags = th[13]
    if flags & TH_RST:
        return TCP_RST_SET
    if flags & TH_SYN:
        return TCP_SYNACK_SET if flags & TH_ACK else TCP_SYN_SET
    if flags & TH_FIN:
        return TCP_FIN_SET
    if flags & TH_ACK:
        return TCP_ACK_SET
    return TCP_NONE_SET


cdef inline bint tcp_flags_valid(uint8_t flags) noexcept nogil:
    """tcp_valid_flags: SYN, RST or ACK with what may stand beside them; PSH, ECE and CWR always may."""
    flags &= TH_FIN | TH_SYN | TH_RST | TH_ACK | TH_URG
    return (flags == TH_SYN or flags == TH_SYN | TH_URG or flags == TH_SYN | TH_ACK
            or flags == TH_RST or flags == TH_RST | TH_ACK
            or flags == TH_FIN | TH_ACK or flags == TH_FIN | TH_ACK | TH_URG
            or flags == TH_ACK or flags == TH_ACK | TH_URG)


cdef inline bint seq_before(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(a - b) < 0


cdef inline bint seq_after(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(b - a) < 0


cdef inline int64_t tcp_timeout(const State *s, int state) noexcept nogil:
    if state == TCP_SYN_SENT2:
        return 120             # the one without a sysctl
    if state == TCP_NONE:
        state = TCP_SYN_SENT
    return s.sysctl[SYSCTL_CT_TIMEOUT_TCP_SYN_SENT + state - TCP_SYN_SENT]


cdef inline bint tcp_can_early_drop(const TcpCt *t) noexcept nogil:
    return TCP_FIN_WAIT <= t.state <= TCP_CLOSE


cdef inline uint32_t tcp_segment_end(const Pkt *p, const uint8_t *th) noexcept nogil:
    """segment_seq_plus_len: the sequence number after the segment; SYN and FIN take one each."""
    cdef uint32_t end = rd32(th + 4) + (p.end - p.l4) - (th[12] >> 4) * 4
    if th[13] & TH_SYN:
        end += 1
    if th[13] & TH_FIN:
        end += 1
    return end


cdef void tcp_syn_options(const uint8_t *th, TcpDir *out) noexcept nogil:
    """tcp_options: window scale and SACK-permitted; without any option everything stays as it was."""
    cdef int left = (th[12] >> 4) * 4 - 20
    cdef const uint8_t *o = th + 20
    cdef int size
    if left <= 0:
        return
    out.td_scale = 0
    out.flags &= TCPF_BE_LIBERAL
    while left > 0:
        if o[0] == 0:
            return
        if o[0] == 1:
            o += 1
            left -= 1
            continue
        if left < 2:
            return
        size = o[1]
        if size < 2 or size > left:
            return
        if o[0] == 4 and size == 2:
            out.flags |= TCPF_SACK_PERM
        elif o[0] == 3 and size == 3:
            out.td_scale = min(o[2], <uint8_t>TCP_MAX_WSCALE)
            out.flags |= TCPF_WINDOW_SCALE
        o += size
        left -= size


cdef uint32_t tcp_highest_sack(const uint8_t *th, uint32_t sack) noexcept nogil:
    """tcp_sack: the highest right edge of the SACK blocks, or ``sack`` if that is higher."""
    cdef int left = (th[12] >> 4) * 4 - 20
    cdef const uint8_t *o = th + 20
    cdef int size, i
    cdef uint32_t edge
    if left <= 0:
        return sack
    while left > 0:
        if o[0] == 0:
            return sack
        if o[0] == 1:
            o += 1
            left -= 1
            continue
        if left < 2:
            return sack
        size = o[1]
        if size < 2 or size > left:
            return sack
        if o[0] == 5 and size >= 10 and (size - 2) % 8 == 0:
            i = 2
            while i < size:
                edge = rd32(o + i + 4)
                if seq_after(edge, sack):
                    sack = edge
                i += 8
            return sack
        o += size
        left -= size
    return sack


cdef void tcp_init_sender(
    TcpDir *sender, TcpDir *receiver, const uint8_t *th, uint32_t end, uint32_t win, int dir
) noexcept nogil:
    """The first SYN/ACK, or the SYN of the other side in a simultaneous open."""
    sender.td_end = end
    sender.td_maxend = end
    sender.td_maxwin = 1 if win == 0 else win
    tcp_syn_options(th, sender)
    # RFC 7323 section 2.2: scaling is on if both sides sent the option
    if dir == DIR_REPLY and not (sender.flags & TCPF_WINDOW_SCALE and receiver.flags & TCPF_WINDOW_SCALE):
        sender.td_scale = 0
        receiver.td_scale = 0


cdef int tcp_in_window(State *s, Ct *ct, int dir, int event, const Pkt *p, const uint8_t *th) noexcept nogil:
    """Whether the segment lies in the window as seen from the middle, and what it says about both ends.

    The bounds are those of Guido van Rooij's "Real Stateful TCP Packet Filtering in IP Filter":
    seq <= sender.td_maxend; end >= sender.td_end - receiver.td_maxwin; sack <= receiver.td_end;
    sack >= receiver.td_end - max(66000, sender.td_maxwin).
    """
    cdef TcpCt *t = &ct.tcp
    cdef TcpDir *sender = &t.seen[dir]
    cdef TcpDir *receiver = &t.seen[not dir]
    cdef uint32_t seq = rd32(th + 4)
    cdef uint32_t ack = rd32(th + 8)
    cdef uint32_t sack = ack
    cdef uint32_t win_raw = rd16(th + 14)
    cdef uint32_t win = win_raw
    cdef uint32_t end = tcp_segment_end(p, th)
    cdef uint8_t flags = th[13]
    cdef uint32_t swin, overshot, maxackwindow
    cdef bint liberal
    if receiver.flags & TCPF_SACK_PERM:
        sack = tcp_highest_sack(th, sack)
    if sender.td_maxwin == 0:
        if flags & TH_SYN:
            tcp_init_sender(sender, receiver, th, end, win, dir)
            if not flags & TH_ACK:
                return WINDOW_ACCEPT   # simultaneous open
        else:
            # picked up in the middle: what this packet says is all that is known
            sender.td_end = end
            swin = win << sender.td_scale
            sender.td_maxwin = 1 if swin == 0 else swin
            sender.td_maxend = end + sender.td_maxwin
            if receiver.td_maxwin == 0:
                receiver.td_end = sack
                receiver.td_maxend = sack
            elif sack == receiver.td_end + 1:
                receiver.td_end += 1   # likely the answer to a keepalive
    elif flags & TH_SYN and seq_after(end, sender.td_end) and (t.state == TCP_SYN_SENT or t.state == TCP_SYN_RECV):
        # a retransmitted SYN or SYN/ACK may differ from the first in sequence number and options
        tcp_init_sender(sender, receiver, th, end, win, dir)
        if dir == DIR_REPLY and not flags & TH_ACK:
            return WINDOW_ACCEPT

    if not flags & TH_ACK:
        ack = receiver.td_end
        sack = ack
    elif flags & TH_RST and ack == 0:
        # broken stacks set ACK in a RST and leave the number zero
        ack = receiver.td_end
        sack = ack
    if flags & TH_RST and seq == 0 and t.state == TCP_SYN_SENT:
        seq = sender.td_end    # the RST that answers a SYN
        end = seq

    liberal = sender.flags & TCPF_BE_LIBERAL or s.sysctl[SYSCTL_CT_TCP_BE_LIBERAL]
    maxackwindow = max(sender.td_maxwin, <uint32_t>MAXACKWINCONST)
    if not seq_before(seq, sender.td_maxend + 1):
        overshot = end - sender.td_maxend + 1
        if (receiver.td_maxwin and seq_after(end, sender.td_end - receiver.td_maxwin - 1)
                and seq_after(sack, receiver.td_end - maxackwindow - 1)
                and overshot <= receiver.td_maxwin and seq_before(sack, receiver.td_end + 1)):
            # More than was offered. If the receiver takes it nevertheless its ACK must not be out of the window then.
            sender.td_end = end
            sender.flags |= TCPF_DATA_UNACKNOWLEDGED
            return WINDOW_ACCEPT if liberal else WINDOW_IGNORE
        return WINDOW_ACCEPT if liberal else WINDOW_INVALID
    if not seq_before(sack, receiver.td_end + 1):
        return WINDOW_ACCEPT if liberal else WINDOW_INVALID      # acknowledges data not seen yet
    if receiver.td_maxwin and not seq_after(end, sender.td_end - receiver.td_maxwin - 1):
        return WINDOW_ACCEPT if liberal else WINDOW_IGNORE       # acknowledged data once more
    if not seq_after(sack, receiver.td_end - maxackwindow - 1):
        return WINDOW_ACCEPT if liberal else WINDOW_IGNORE       # a very late ACK

    if not flags & TH_SYN:
        win <<= sender.td_scale
    swin = win + (sack - ack)
    if sender.td_maxwin < swin:
        sender.td_maxwin = swin
    if seq_after(end, sender.td_end):
        sender.td_end = end
        sender.flags |= TCPF_DATA_UNACKNOWLEDGED
    if flags & TH_ACK:
        if not sender.flags & TCPF_MAXACK_SET:
            sender.td_maxack = ack
            sender.flags |= TCPF_MAXACK_SET
        elif seq_after(ack, sender.td_maxack):
            sender.td_maxack = ack
    if receiver.td_maxwin != 0 and seq_after(end, sender.td_maxend):
        receiver.td_maxwin += end - sender.td_maxend
    if seq_after(sack + win, receiver.td_maxend - 1):
        receiver.td_maxend = sack + win
        if win == 0:
            receiver.td_maxend += 1
    if ack == receiver.td_end:
        receiver.flags &= <uint8_t>~TCPF_DATA_UNACKNOWLEDGED

    if event == TCP_ACK_SET:
        if (t.last_dir == dir and t.last_seq == seq and t.last_ack == ack and t.last_end == end
                and t.last_win == win_raw):
            t.retrans += 1
        else:
            t.last_dir = <uint8_t>dir
            t.last_seq = seq
            t.last_ack = ack
            t.last_end = end
            t.last_win = <uint16_t>win_raw
            t.retrans = 0
    return WINDOW_ACCEPT


cdef bint tcp_new(State *s, Ct *ct, const Pkt *p, const uint8_t *th) noexcept nogil:
    """The first packet of a flow: a SYN, or with tcp_loose an ACK from the middle of one."""
    cdef int state = tcp_next(DIR_ORIGINAL, tcp_event(th), TCP_NONE)
    cdef TcpDir *seen = &ct.tcp.seen[0]
    if state == TCP_INVALID:
        return False
    if state != TCP_SYN_SENT and not s.sysctl[SYSCTL_CT_TCP_LOOSE]:
        return False
    memset(&ct.tcp, 0, sizeof(TcpCt))
    seen.td_end = tcp_segment_end(p, th)
    seen.td_maxwin = rd16(th + 14)
    if seen.td_maxwin == 0:
        seen.td_maxwin = 1
    if state == TCP_SYN_SENT:
        seen.td_maxend = seen.td_end
        tcp_syn_options(th, seen)
    else:
        seen.td_maxend = seen.td_end + seen.td_maxwin
        # the options are unknown: assume SACK, and do not look at windows because of their scale
        seen.flags = TCPF_SACK_PERM | TCPF_BE_LIBERAL
        ct.tcp.seen[1].flags = TCPF_SACK_PERM | TCPF_BE_LIBERAL
    ct.tcp.last_index = TCP_NONE_SET
    return True


cdef void tcp_lower_timeout(State *s, Ct *ct, int dir, int event) noexcept nogil:
    """nf_tcp_handle_invalid: FIN or RST out of window from both sides hint that the entry is out of touch."""
    cdef int64_t limit
    if not ct.status & S_ASSURED or ct.status & S_FIXED_TIMEOUT:
        return
    if event != TCP_RST_SET and event != TCP_FIN_SET:
        return
    if ct.tcp.last_dir != dir and (ct.tcp.last_index == TCP_FIN_SET or ct.tcp.last_index == TCP_RST_SET):
        if ct.timeout_ns - s.now_ns < <int64_t>120 * NS_PER_S:
            return
        limit = s.sysctl[SYSCTL_CT_TIMEOUT_TCP_UNACKNOWLEDGED] * NS_PER_S
        if ct.timeout_ns - s.now_ns > limit:
            ct.timeout_set_ns = limit
            ct.timeout_ns = s.now_ns + limit
    else:
        ct.tcp.last_index = <uint8_t>event
        ct.tcp.last_dir = <uint8_t>dir


cdef bint tcp_resync(TcpCt *t, int dir) noexcept nogil:
    """A SYN/ACK for a SYN that was let through unseen: both ends agree and only the entry was out of step."""
    cdef TcpDir *client = &t.seen[t.last_dir]
    cdef TcpDir *server = &t.seen[dir]
    client.td_end = t.last_end
    client.td_maxend = t.last_end
    client.td_maxwin = 1 if t.last_win == 0 else t.last_win
    client.td_scale = t.last_wscale
    t.last_flags &= <uint8_t>~TCPF_EXP_CHALLENGE_ACK
    client.flags = t.last_flags
    server.td_end = 0
    server.td_maxend = 0
    server.td_maxwin = 0
    server.td_maxack = 0
    server.td_scale = 0
    server.flags &= TCPF_BE_LIBERAL
    return True


cdef void tcp_note_ignored(TcpCt *t, int dir, int event, int old_state, const Pkt *p, const uint8_t *th) noexcept nogil:
    """A packet that passes without moving anything is remembered: what comes next may show who was right."""
    cdef TcpDir seen
    t.last_index = <uint8_t>event
    t.last_dir = <uint8_t>dir
    t.last_seq = rd32(th + 4)
    t.last_end = tcp_segment_end(p, th)
    t.last_win = rd16(th + 14)
    if event == TCP_SYN_SET and dir == DIR_ORIGINAL:
        t.last_flags = 0
        t.last_wscale = 0
        memset(&seen, 0, sizeof(TcpDir))
        tcp_syn_options(th, &seen)
        if seen.flags & TCPF_WINDOW_SCALE:
            t.last_flags |= TCPF_WINDOW_SCALE
            t.last_wscale = seen.td_scale
        if seen.flags & TCPF_SACK_PERM:
            t.last_flags |= TCPF_SACK_PERM
        # RFC 5961 section 4: the server may answer with a challenge ACK, which in LAST_ACK looks like the last one
        if old_state == TCP_LAST_ACK:
            t.last_flags |= TCPF_EXP_CHALLENGE_ACK
    if old_state == TCP_SYN_SENT and event == TCP_ACK_SET and dir == DIR_REPLY:
        t.last_ack = rd32(th + 8)


cdef inline bint tcp_established(const Ct *ct) noexcept nogil:
    """nf_conntrack_tcp_established."""
    return ct.tcp.state == TCP_ESTABLISHED and ct.status & S_ASSURED


cdef enum:                     # what tcp_check_rst found
    RST_WINDOW = 0             # go on with the window check
    RST_CLOSE = 1              # believed without it
    RST_INVALID = 2


cdef int tcp_check_rst(State *s, Ct *ct, int dir, const uint8_t *th, int old_state, int *new_state) noexcept nogil:
    """Whether a RST closes the flow (RFC 5961 section 3 as seen from the middle)."""
    cdef TcpCt *t = &ct.tcp
    cdef TcpDir *other = &t.seen[not dir]
    cdef uint32_t seq = rd32(th + 4)
    if tcp_can_early_drop(t):
        return RST_CLOSE       # closing already: the tuple may have been used anew, nothing kept can be compared
    # td_maxack may be out of date if a SYN was let through before
    if other.flags & TCPF_MAXACK_SET and t.last_index != TCP_SYN_SET:
        if seq == 0 and not tcp_established(ct):
            return RST_WINDOW  # most likely the answer to a SYN that was let through
        if seq_before(seq, other.td_maxack) and not s.sysctl[SYSCTL_CT_TCP_IGNORE_INVALID_RST]:
            return RST_INVALID
        if not tcp_established(ct) or seq == other.td_maxack:
            return RST_WINDOW
        if t.last_index == TCP_ACK_SET and t.last_dir == dir and seq == t.last_end:
            return RST_WINDOW  # right behind data of the same side
        new_state[0] = old_state   # not the exact number: the receiver may answer with a challenge ACK
    if ((ct.status & S_SEEN_REPLY and t.last_index == TCP_SYN_SET and t.last_dir != dir)
            or (not ct.status & S_ASSURED and t.last_index == TCP_ACK_SET)) and rd32(th + 8) == t.last_end:
        return RST_CLOSE       # answers a SYN or ACK that was let through: it may acknowledge what was not seen
    if (old_state == TCP_SYN_SENT and t.last_index == TCP_ACK_SET and t.last_dir == DIR_REPLY
            and seq == t.last_ack):
        return RST_CLOSE       # answers a challenge ACK that was let through
    return RST_WINDOW


cdef int tcp_packet(State *s, Ct *ct, Pkt *p, int hook) noexcept nogil:
    """nf_conntrack_tcp_packet: look up, special cases, window, commit, timeout."""
    cdef const uint8_t *th = p.buf + p.l4
    cdef uint32_t n = p.end - p.l4
    cdef TcpCt *t = &ct.tcp
    cdef int dir = ctinfo_dir(p.ctinfo)
    cdef int event, old_state, new_state, verdict
    cdef bint check_window = True
    cdef int64_t timeout, unacknowledged, retransmit
    if n < 20 or (th[12] >> 4) < 5 or n < <uint32_t>(th[12] >> 4) * 4:
        return TRACK_INVALID
    if verify_here(s, hook) and not l4_checksum_ok(p, P_TCP, True):
        return TRACK_INVALID
    if not tcp_flags_valid(th[13]):
        return TRACK_INVALID
    if not ct.status & S_CONFIRMED and not tcp_new(s, ct, p, th):
        return TRACK_INVALID
    old_state = t.state
    event = tcp_event(th)
    new_state = tcp_next(dir, event, old_state)

    if new_state == TCP_SYN_SENT and old_state >= TCP_TIME_WAIT:
        # RFC 9293 section 3.6.1: a new SYN may reopen a connection in TIME-WAIT; also after an abort.
        if ((t.seen[0].flags | t.seen[1].flags) & TCPF_CLOSE_INIT
                or (t.last_dir == dir and t.last_index == TCP_RST_SET)):
            # only another CPU could have been faster to delete it, and then the packet would be dropped
            ct_kill(s, ct)
            return TRACK_REPEAT
        new_state = TCP_IGNORE
    if new_state == TCP_IGNORE:
        if (event == TCP_SYNACK_SET and t.last_index == TCP_SYN_SET and t.last_dir != dir
                and rd32(th + 8) == t.last_end):
            tcp_resync(t, dir)
            old_state = TCP_SYN_SENT
            new_state = TCP_SYN_RECV
        else:
            tcp_note_ignored(t, dir, event, old_state, p, th)
            return TRACK_OK
    elif new_state == TCP_INVALID:
        return TRACK_INVALID
    elif new_state == TCP_TIME_WAIT:
        if (old_state == TCP_LAST_ACK and event == TCP_ACK_SET and t.last_dir != dir
                and t.last_index == TCP_SYN_SET and t.last_flags & TCPF_EXP_CHALLENGE_ACK):
            t.last_flags &= <uint8_t>~TCPF_EXP_CHALLENGE_ACK
            return TRACK_OK
    elif new_state == TCP_SYN_SENT2:
        t.last_flags |= TCPF_SIMULTANEOUS_OPEN
    elif new_state == TCP_SYN_RECV:
        if dir == DIR_REPLY and event == TCP_ACK_SET and t.last_flags & TCPF_SIMULTANEOUS_OPEN:
            new_state = TCP_ESTABLISHED
    elif new_state == TCP_CLOSE and event == TCP_RST_SET:
        verdict = tcp_check_rst(s, ct, dir, th, old_state, &new_state)
        if verdict == RST_INVALID:
            return TRACK_INVALID
        check_window = verdict == RST_WINDOW

    if check_window:
        verdict = tcp_in_window(s, ct, dir, event, p, th)
        if verdict == WINDOW_IGNORE:
            return TRACK_OK
        if verdict == WINDOW_INVALID:
            tcp_lower_timeout(s, ct, dir, event)
            return TRACK_INVALID

    t.last_index = <uint8_t>event
    t.last_dir = <uint8_t>dir
    t.state = <uint8_t>new_state
    if old_state != new_state and new_state == TCP_FIN_WAIT:
        t.seen[dir].flags |= TCPF_CLOSE_INIT

    timeout = tcp_timeout(s, new_state)
    unacknowledged = s.sysctl[SYSCTL_CT_TIMEOUT_TCP_UNACKNOWLEDGED]
    retransmit = s.sysctl[SYSCTL_CT_TIMEOUT_TCP_MAX_RETRANS]
    if t.retrans >= s.sysctl[SYSCTL_CT_TCP_MAX_RETRANS] and timeout > retransmit:
        timeout = retransmit
    elif event == TCP_RST_SET:
        timeout = tcp_timeout(s, TCP_CLOSE)
    elif (t.seen[0].flags | t.seen[1].flags) & TCPF_DATA_UNACKNOWLEDGED and timeout > unacknowledged:
        timeout = unacknowledged
    elif t.last_win == 0 and timeout > retransmit:
        timeout = retransmit

    if not ct.status & S_SEEN_REPLY:
        if th[13] & TH_RST:
            ct_kill_acct(s, ct, p)     # the only answer was a RST: there is no connection
            return TRACK_OK
        if event == TCP_SYN_SET and old_state == TCP_SYN_SENT:
            return TRACK_OK            # a repeated SYN must not keep the entry alive for ever
        if new_state == TCP_ESTABLISHED and timeout > unacknowledged:
            timeout = unacknowledged   # picked up in the middle, and only one side heard
    elif (not ct.status & S_ASSURED and (old_state == TCP_SYN_RECV or old_state == TCP_ESTABLISHED)
            and new_state == TCP_ESTABLISHED):
        ct.status |= S_ASSURED
    ct_refresh(s, ct, p, timeout)
    return TRACK_OK
