# SCTP's tracker (net/netfilter/nf_conntrack_proto_sctp.c, Linux 6.18) and its checksum. The state grid is the compact form
# of the table in netfilter/conntrack_sctp.py, which explains it; a test holds them equal.

cdef uint32_t CRC32C[256]
cdef bint crc32c_ready = False


cdef void crc32c_init() noexcept nogil:
    """The byte table of the Castagnoli polynomial, reflected (RFC 9260 appendix A)."""
    global crc32c_ready
    cdef uint32_t i, c
    cdef int k
    if crc32c_ready:
        return
    for i in range(256):
        c = i
        for k in range(8):
            c = (c >> 1) ^ (<uint32_t>0x82F63B78 if c & 1 else 0)
        CRC32C[i] = c
    crc32c_ready = True


cdef inline uint32_t crc32c_add(uint32_t crc, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        crc = (crc >> 8) ^ CRC32C[(crc ^ p[i]) & 0xFF]
    return crc


cdef void sctp_checksum(const uint8_t *sctp, uint32_t n, uint8_t *out) noexcept nogil:
    """The four checksum bytes of an SCTP packet, as if the field itself (bytes 8 to 11) were zero."""
    cdef uint8_t zero[4]
    cdef uint32_t crc
    memset(zero, 0, 4)
    crc = crc32c_add(0xFFFFFFFF, sctp, 8)
    crc = crc32c_add(crc, zero, 4)
    crc = ~crc32c_add(crc, sctp + 12, n - 12)
    out[0] = <uint8_t>crc      # least significant byte first
    out[1] = <uint8_t>(crc >> 8)
    out[2] = <uint8_t>(crc >> 16)
    out[3] = <uint8_t>(crc >> 24)


cdef enum:  # SctpState of netfilter/conntrack_sctp.py
    SCTP_NONE = 0
    SCTP_CLOSED = 1
    SCTP_COOKIE_WAIT = 2
    SCTP_COOKIE_ECHOED = 3
    SCTP_ESTABLISHED = 4
    SCTP_SHUTDOWN_SENT = 5
    SCTP_SHUTDOWN_RECD = 6
    SCTP_SHUTDOWN_ACK_SENT = 7
    SCTP_HEARTBEAT_SENT = 8
    SCTP_INVALID = 38          # 'V' - '0'

cdef enum:                     # chunk types (RFC 9260 section 3.2)
    CHUNK_DATA = 0
    CHUNK_INIT = 1
    CHUNK_INIT_ACK = 2
    CHUNK_HEARTBEAT = 4
    CHUNK_HEARTBEAT_ACK = 5
    CHUNK_ABORT = 6
    CHUNK_SHUTDOWN = 7
    CHUNK_SHUTDOWN_ACK = 8
    CHUNK_ERROR = 9
    CHUNK_COOKIE_ECHO = 10
    CHUNK_COOKIE_ACK = 11
    CHUNK_SHUTDOWN_COMPLETE = 14
    SCTPF_HEARTBEAT_VTAG_FAILED = 1

# Next state by direction, event (SctpEvent) and state: a digit, or V invalid.
cdef const char *SCTP_GRID = (
    # NONE, CLOSED, COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED, SHUTDOWN_SENT, _RECD, _ACK_SENT, HEARTBEAT_SENT
    b"112341172"  # original INIT
    b"112345671"  # INIT_ACK
    b"111111111"  # ABORT
    b"112355671"  # SHUTDOWN
    b"712347777"  # SHUTDOWN_ACK
    b"112345671"  # ERROR
    b"113345671"  # COOKIE_ECHO
    b"112445671"  # COOKIE_ACK
    b"112345611"  # SHUTDOWN_COMPLETE
    b"812345678"  # HEARTBEAT
    b"112345678"  # HEARTBEAT_ACK
    b"V1234567V"  # reply INIT
    b"V2234567V"  # INIT_ACK
    b"V1111111V"  # ABORT
    b"V1236567V"  # SHUTDOWN
    b"V1234777V"  # SHUTDOWN_ACK
    b"V1214567V"  # ERROR
    b"V1334567V"  # COOKIE_ECHO
    b"V1244567V"  # COOKIE_ACK
    b"V1234561V"  # SHUTDOWN_COMPLETE
    b"V12345678"  # HEARTBEAT
    b"V12345674"  # HEARTBEAT_ACK
)


cdef inline int sctp_event(int chunk) noexcept nogil:
    """The grid's row, or -1 for chunks that change nothing."""
    if chunk == CHUNK_INIT:
        return 0
    if chunk == CHUNK_INIT_ACK:
        return 1
    if CHUNK_ABORT <= chunk <= CHUNK_COOKIE_ACK:
        return chunk - CHUNK_ABORT + 2
    if chunk == CHUNK_SHUTDOWN_COMPLETE:
        return 8
    if chunk == CHUNK_HEARTBEAT:
        return 9
    if chunk == CHUNK_HEARTBEAT_ACK:
        return 10
    return -1


cdef inline int sctp_next(int dir, int state, int chunk) noexcept nogil:
    cdef int event = sctp_event(chunk)
    if event < 0:
        return state
    return SCTP_GRID[(dir * 11 + event) * 9 + state] - 48


cdef inline int64_t sctp_timeout(const State *s, int state) noexcept nogil:
    if state == SCTP_NONE:
        state = SCTP_CLOSED
    return s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_CLOSED + state - SCTP_CLOSED]


cdef bint sctp_chunks_ok(const uint8_t *sh, uint32_t n, uint64_t *map) noexcept nogil:
    """do_basic_checks: which chunk types are in the packet, and whether they may stand together."""
    cdef uint32_t off = 12
    cdef uint32_t count = 0
    cdef bint alone = False
    cdef uint8_t type
    while off < n and off + 4 <= n:
        type = sh[off]
        if type == CHUNK_INIT or type == CHUNK_INIT_ACK or type == CHUNK_SHUTDOWN_COMPLETE:
            alone = True
        if ((type == CHUNK_COOKIE_ACK or type == CHUNK_COOKIE_ECHO or alone) and count) or rd16(sh + off + 2) == 0:
            return False
        map[type >> 6] |= <uint64_t>1 << (type & 63)
        off += (rd16(sh + off + 2) + 3) & ~<uint32_t>3
        count += 1
    return count != 0


cdef bint sctp_new(Ct *ct, const uint8_t *sh, uint32_t n) noexcept nogil:
    cdef uint32_t off = 12
    cdef uint32_t vtag = raw32(sh + 4)
    cdef int state
    memset(&ct.sctp, 0, sizeof(SctpCt))
    while off < n and off + 4 <= n:
        state = sctp_next(DIR_ORIGINAL, SCTP_NONE, sh[off])
        if state == SCTP_NONE or state == SCTP_INVALID:
            return False
        if sh[off] == CHUNK_INIT:
            if vtag or off + 20 > n:       # RFC 9260 section 8.5.1 (A)
                return False
            ct.sctp.vtag[DIR_REPLY] = raw32(sh + off + 4)
        elif sh[off] == CHUNK_HEARTBEAT:
            ct.sctp.vtag[DIR_ORIGINAL] = vtag
        elif sh[off] == CHUNK_SHUTDOWN_ACK:
            ct.sctp.vtag[DIR_REPLY] = vtag # out of the blue: the answer will carry the same (section 8.4)
        off += (rd16(sh + off + 2) + 3) & ~<uint32_t>3
    return True


cdef inline bint in_map(const uint64_t *map, int type) noexcept nogil:
    return (map[type >> 6] >> (type & 63)) & 1


cdef bint sctp_heartbeat(
    SctpCt *t, int type, int dir, uint32_t vtag, bint with_data, bint *ignore, bint *skip
) noexcept nogil:
    """The verification tag of a heartbeat or its answer on a path that is not the first one. False: invalid."""
    skip[0] = False
    if t.vtag[dir] == 0:
        t.vtag[dir] = vtag
    elif vtag != t.vtag[dir]:
        if with_data or ignore[0]:
            return False
        if type == CHUNK_HEARTBEAT:
            t.flags |= SCTPF_HEARTBEAT_VTAG_FAILED
            t.last_dir = <uint8_t>dir
            ignore[0] = True
            skip[0] = True
            return True
        if not t.flags & SCTPF_HEARTBEAT_VTAG_FAILED or t.last_dir == dir:
            return False
        t.flags &= <uint8_t>~SCTPF_HEARTBEAT_VTAG_FAILED
        t.vtag[dir] = vtag
        t.vtag[not dir] = 0
    elif t.flags & SCTPF_HEARTBEAT_VTAG_FAILED:
        t.flags &= <uint8_t>~SCTPF_HEARTBEAT_VTAG_FAILED
    return True


cdef int sctp_packet(State *s, Ct *ct, Pkt *p, int hook) noexcept nogil:
    """nf_conntrack_sctp_packet: chunk by chunk."""
    cdef const uint8_t *sh = p.buf + p.l4
    cdef uint32_t n = p.end - p.l4
    cdef SctpCt *t = &ct.sctp
    cdef int dir = ctinfo_dir(p.ctinfo)
    cdef uint64_t map[4]
    cdef uint8_t check[4]
    cdef uint32_t off = 12
    cdef uint32_t vtag, init_tag
    cdef uint8_t type
    cdef int old_state = SCTP_NONE
    cdef int new_state = SCTP_NONE
    cdef bint ignore = False
    cdef bint skip = False
    if n < 12:
        return TRACK_INVALID
    if verify_here(s, hook) and not p.flags & PF_CSUM_OK:
        sctp_checksum(sh, n, check)
        if memcmp(check, sh + 8, 4) != 0:
            return TRACK_INVALID
        p.flags |= PF_CSUM_OK
    memset(map, 0, sizeof(map))
    if not sctp_chunks_ok(sh, n, map):
        return TRACK_INVALID
    vtag = raw32(sh + 4)
    if not ct.status & S_CONFIRMED:
        if in_map(map, CHUNK_ABORT) or in_map(map, CHUNK_SHUTDOWN_COMPLETE) or in_map(map, CHUNK_COOKIE_ACK):
            return TRACK_INVALID
        if not sctp_new(ct, sh, n):
            return TRACK_INVALID
    if not (in_map(map, CHUNK_INIT) or in_map(map, CHUNK_SHUTDOWN_COMPLETE) or in_map(map, CHUNK_COOKIE_ECHO)
            or in_map(map, CHUNK_ABORT) or in_map(map, CHUNK_SHUTDOWN_ACK) or in_map(map, CHUNK_HEARTBEAT)
            or in_map(map, CHUNK_HEARTBEAT_ACK)) and vtag != t.vtag[dir]:
        return TRACK_INVALID

    while off < n and off + 4 <= n:
        type = sh[off]
        if type == CHUNK_INIT:
            if vtag != 0:
                return TRACK_INVALID
        elif type == CHUNK_ABORT or type == CHUNK_SHUTDOWN_COMPLETE:
            # RFC 9260 section 8.5.1 (B), (C): one's own tag, or with the T bit the peer's
            if vtag != (t.vtag[not dir] if sh[off + 1] & 1 else t.vtag[dir]):
                return TRACK_INVALID
        elif type == CHUNK_COOKIE_ECHO:
            if vtag != t.vtag[dir]:
                return TRACK_INVALID
        elif type == CHUNK_COOKIE_ACK:
            t.init[0] = 0
            t.init[1] = 0
        elif type == CHUNK_HEARTBEAT or type == CHUNK_HEARTBEAT_ACK:
            if not sctp_heartbeat(t, type, dir, vtag, in_map(map, CHUNK_DATA), &ignore, &skip):
                return TRACK_INVALID
            if skip:
                off += (rd16(sh + off + 2) + 3) & ~<uint32_t>3
                continue
        old_state = t.state
        new_state = sctp_next(dir, old_state, type)
        if new_state == SCTP_INVALID:
            return TRACK_INVALID
        if type == CHUNK_INIT or type == CHUNK_INIT_ACK:
            if off + 20 > n:
                return TRACK_INVALID
            init_tag = raw32(sh + off + 4)
            if type == CHUNK_INIT:
                # a repeated or stale INIT is no second one
                if old_state == SCTP_NONE or t.vtag[not dir] != init_tag:
                    if t.init[dir] and t.init[not dir]:
                        t.init[not dir] = 0
                    t.init[dir] = 1
                t.vtag[not dir] = init_tag
                # a repeated INIT must not keep the entry alive for ever
                if new_state == SCTP_CLOSED and old_state == SCTP_CLOSED and ct.status & S_CONFIRMED:
                    ignore = True
            else:
                vtag = t.vtag[not dir]
                if not t.init[not dir] and vtag and vtag != init_tag:
                    return TRACK_INVALID
                if t.init[dir] and t.init[not dir] and vtag != init_tag:
                    return TRACK_INVALID   # both sides sent an INIT, and this answers neither
                t.vtag[not dir] = init_tag
                vtag = raw32(sh + 4)
        t.state = <uint8_t>new_state
        if old_state != new_state and new_state == SCTP_ESTABLISHED:
            ct.status |= S_ASSURED
        off += (rd16(sh + off + 2) + 3) & ~<uint32_t>3
    if not ignore:
        ct_refresh(s, ct, p, sctp_timeout(s, new_state))
    return TRACK_OK
