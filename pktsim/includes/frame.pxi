# Packets as bytes: memory, header parse, checksums, and what is reported of them (events, trace).

# ---------------------------------------------------------------------------------------------------------------- bytes

cdef inline uint16_t rd16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((p[0] << 8) | p[1])

cdef inline uint32_t rd32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]

cdef inline void wr16(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 8)
    p[1] = <uint8_t>v

cdef inline void wr32(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 24)
    p[1] = <uint8_t>(v >> 16)
    p[2] = <uint8_t>(v >> 8)
    p[3] = <uint8_t>v

cdef inline uint16_t raw16(const uint8_t *p) noexcept nogil:
    """Two bytes as they lie in memory (network order kept)."""
    cdef uint16_t v
    memcpy(&v, p, 2)
    return v

cdef inline uint32_t raw32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return v

cdef inline uint16_t swap16(uint16_t v) noexcept nogil:
    """Network order to host order and back."""
    cdef uint8_t *p = <uint8_t *>&v
    return <uint16_t>((p[0] << 8) | p[1])

cdef inline int addr_len(int family) noexcept nogil:
    return 4 if family == AF4 else 16

cdef inline void addr_load(Addr *a, const uint8_t *p, int family) noexcept nogil:
    if family == AF4:
        a.q[0] = 0
        a.q[1] = 0
        memcpy(a.b, p, 4)
    else:
        memcpy(a.b, p, 16)

cdef inline bint addr_eq(const Addr *a, const Addr *b) noexcept nogil:
    return a.q[0] == b.q[0] and a.q[1] == b.q[1]

cdef inline bint addr_zero(const Addr *a) noexcept nogil:
    return a.q[0] == 0 and a.q[1] == 0

cdef inline uint64_t high_bits(int n) noexcept nogil:
    """The ``n`` first bits of eight bytes, as they lie in memory."""
    cdef uint64_t word
    cdef uint8_t b[8]
    if n <= 0:
        return 0
    word = ~<uint64_t>0 << (64 - n) if n < 64 else ~<uint64_t>0
    wr32(b, <uint32_t>(word >> 32))
    wr32(b + 4, <uint32_t>word)
    memcpy(&word, b, 8)
    return word

cdef inline void addr_masked(Addr *out, const Addr *a, int plen) noexcept nogil:
    """The network of ``plen`` bits that an address is in; behind an IPv4 address is nothing but zero."""
    out.q[0] = a.q[0] & high_bits(plen)
    out.q[1] = a.q[1] & high_bits(plen - 64)

cdef inline uint64_t hash_mix(uint64_t h, uint64_t v) noexcept nogil:
    h = (h ^ v) * <uint64_t>0x9FB21C651E98DF25
    return h ^ (h >> 29)

cdef inline uint32_t hash_end(uint64_t h) noexcept nogil:
    return <uint32_t>((h * <uint64_t>0xD6E8FEB86659FD93) >> 32)

cdef inline uint32_t bytes_hash(const uint8_t *p, uint32_t n) noexcept nogil:
    """Only finds slots, no order depends on it."""
    cdef uint64_t h = n
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, p, 8)
        h = hash_mix(h, word)
        p += 8
        n -= 8
    if n:
        word = 0
        memcpy(&word, p, n)
        h = hash_mix(h, word)
    return hash_end(h)

cdef inline uint32_t addr_hash(const Addr *a, int family, int beside) noexcept nogil:
    cdef uint64_t h = hash_mix(<uint64_t>beside, a.q[0])
    if family == AF6:
        h = hash_mix(h, a.q[1])
    return hash_end(h)

# ------------------------------------------------------------------------------------------------------------ checksums

cdef inline uint64_t sum_bytes(const uint8_t *p, uint32_t n, uint64_t total) noexcept nogil:
    """Add ``n`` bytes in memory order; folding and byte order are the caller's (RFC 1071 section 2 B)."""
    cdef uint32_t w
    cdef uint16_t h = 0
    while n >= 4:
        memcpy(&w, p, 4)
        total += w
        p += 4
        n -= 4
    if n >= 2:
        memcpy(&h, p, 2)
        total += h
        p += 2
        n -= 2
    if n:
        h = 0
        (<uint8_t *>&h)[0] = p[0]
        total += h
    return total

cdef inline uint16_t fold(uint64_t total) noexcept nogil:
    total = (total & <uint64_t>0xFFFFFFFF) + (total >> 32)
    total = (total & <uint64_t>0xFFFFFFFF) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>total

cdef inline uint64_t pseudo_sum(const Pkt *p, uint32_t l4len, int proto) noexcept nogil:
    """The pseudo-header's share (RFC 9293 section 3.1, RFC 8200 section 8.1), in memory order."""
    cdef uint8_t *ip = p.buf + p.l3
    cdef uint8_t tail[8]
    cdef uint64_t total = 0
    if p.family == AF4:
        total = sum_bytes(ip + 12, 8, 0)
    else:
        total = sum_bytes(ip + 8, 32, 0)
    wr32(tail, l4len)
    tail[4] = 0
    tail[5] = 0
    tail[6] = 0
    tail[7] = <uint8_t>proto
    return sum_bytes(tail, 8, total)

cdef inline void csum_replace(uint8_t *check, const uint8_t *old, const uint8_t *new, uint32_t n) noexcept nogil:
    """RFC 1624 equation 3, HC' = ~(~HC + ~m + m'), for ``n`` (even) bytes."""
    cdef uint64_t total = <uint16_t>~raw16(check)
    cdef uint32_t i
    cdef uint16_t v
    for i in range(0, n, 2):
        total += <uint16_t>~raw16(old + i)
        total += raw16(new + i)
    v = <uint16_t>~fold(total)
    memcpy(check, &v, 2)

cdef inline uint16_t ip_header_sum(const uint8_t *ip, uint32_t ihl) noexcept nogil:
    """0 if the header checksum is right."""
    return <uint16_t>~fold(sum_bytes(ip, ihl, 0))

cdef inline void ip_fix_checksum(uint8_t *ip) noexcept nogil:
    cdef uint16_t v
    ip[10] = 0
    ip[11] = 0
    v = ip_header_sum(ip, (ip[0] & 15) * 4)
    memcpy(ip + 10, &v, 2)

# -------------------------------------------------------------------------------------------------------------- packets


cdef Pkt *pkt_alloc(State *s, uint32_t size) noexcept nogil:
    """A zeroed packet with room for ``size`` bytes behind HEADROOM."""
    cdef Pkt *p = s.pool
    cdef uint32_t cap = size + HEADROOM
    cdef uint8_t *buf
    cdef uint32_t had
    if p != NULL and p.cap >= cap:
        s.pool = p.next
        s.n_pool -= 1
        buf = p.buf
        had = p.cap
        memset(p, 0, sizeof(Pkt))
        p.buf = buf
        p.cap = had
    else:
        p = <Pkt *>calloc(1, sizeof(Pkt))
        if p == NULL:
            abort()
        if cap < 2048:
            cap = 2048
        p.buf = <uint8_t *>malloc(cap)
        if p.buf == NULL:
            abort()
        p.cap = cap
    p.ctinfo = CTINFO_NONE
    p.l2 = HEADROOM
    p.l3 = HEADROOM
    p.end = HEADROOM
    s.pkt_serial += 1
    p.id = s.pkt_serial
    return p

cdef void pkt_free(State *s, Pkt *p) noexcept nogil:
    if p.ct != NULL:
        ct_put(s, p.ct)
        p.ct = NULL
    if s.n_pool < 64 and p.cap <= 4096:
        p.next = s.pool
        s.pool = p
        s.n_pool += 1
    else:
        free(p.buf)
        free(p)

cdef Pkt *pkt_clone(State *s, const Pkt *o) noexcept nogil:
    """A copy with a number of its own; both hold the connection."""
    cdef uint32_t size = o.end - HEADROOM if o.end > HEADROOM else 0
    cdef Pkt *p = pkt_alloc(s, size)
    cdef uint8_t *buf = p.buf
    cdef uint32_t cap = p.cap
    cdef uint32_t id = p.id
    memcpy(p, o, sizeof(Pkt))
    p.buf = buf
    p.cap = cap
    p.id = id
    p.next = NULL
    memcpy(p.buf, o.buf, o.end)
    if p.ct != NULL:
        p.ct.refs += 1
    trace_add(s, p, TR_CLONE, <int>o.id, 0, 0, 0)
    return p

cdef inline void pkt_push_eth(Pkt *p, const uint8_t *dst, const uint8_t *src) noexcept nogil:
    """Put an Ethernet header in front of the network header."""
    p.l2 = p.l3 - 14
    memcpy(p.buf + p.l2, dst, 6)
    memcpy(p.buf + p.l2 + 6, src, 6)
    wr16(p.buf + p.l2 + 12, p.ethertype)

cdef void pkt_parse_l4(Pkt *p) noexcept nogil:
    """Find the transport header of an IP packet whose network header has been checked (``ip_check``).

    Sets ``proto``, ``fragment`` and ``l4``; ``l4`` is 0 in later fragments and where extension headers are cut short. It
    may lie beyond the end: a header says how long it is, and ipv6_find_hdr believes it.
    """
    cdef uint8_t *ip = p.buf + p.l3
    cdef uint32_t off, left
    cdef uint8_t nexthdr
    cdef uint32_t hdrlen
    p.l4 = 0
    p.fragment = 0
    p.headers_cut = 0
    if p.family == AF4:
        p.proto = ip[9]
        off = rd16(ip + 6)
        if off & 0x3FFF:
            p.fragment = FRAG_ANY
            if off & 0x1FFF:
                p.fragment = FRAG_ANY | FRAG_LATER
        if not p.fragment & FRAG_LATER:
            p.l4 = p.l3 + (ip[0] & 15) * 4
        return
    # IPv6: walk the extension headers (RFC 8200 section 4) as ipv6_find_hdr does
    nexthdr = ip[6]
    off = p.l3 + 40
    while ip6_is_extension(nexthdr):
        left = p.end - off if p.end > off else 0
        if nexthdr == 44 and off <= p.end:
            p.fragment |= FRAG_ANY     # to who gathers, which looks for no more than the number
        if left < (4 if nexthdr == 44 or nexthdr == 43 else 2):
            p.proto = nexthdr
            p.headers_cut = 1
            return
        if nexthdr == 44 and rd16(p.buf + off + 2) & 0xFFF8:
            p.fragment |= FRAG_LATER
            p.proto = p.buf[off]
            p.headers_cut = ip6_is_extension(p.proto)
            return
        hdrlen = ip6_extension_size(nexthdr, p.buf[off + 1])
        nexthdr = p.buf[off]
        off += hdrlen
    p.proto = nexthdr
    if nexthdr != 59:
        p.l4 = off


cdef inline bint ip6_is_extension(uint8_t nexthdr) noexcept nogil:
    """ipv6_ext_hdr, without "no next header"."""
    return nexthdr == 0 or nexthdr == 43 or nexthdr == 44 or nexthdr == 51 or nexthdr == 60


cdef inline uint32_t ip6_extension_size(uint8_t nexthdr, uint8_t hdrlen) noexcept nogil:
    """The bytes of an extension header, by its length field (``ipv6_optlen``, ``ipv6_authlen``)."""
    if nexthdr == 44:
        return 8
    return (hdrlen + 2) * 4 if nexthdr == 51 else (hdrlen + 1) * 8


cdef inline uint32_t l4_len(const Pkt *p) noexcept nogil:
    """Bytes from the transport header to the end of the packet."""
    return p.end - p.l4 if p.l4 != 0 and p.end > p.l4 else 0

# ---------------------------------------------------------------------------------------------------------------- trace

cdef void trace_add(State *s, const Pkt *p, int kind, int a, int b, int c, int d) noexcept nogil:
    cdef int32_t *r
    if not s.tracing:
        return
    if s.n_trace == s.cap_trace:
        s.cap_trace = s.cap_trace * 2 if s.cap_trace else 256
        s.trace = <int32_t *>realloc(s.trace, s.cap_trace * 6 * sizeof(int32_t))
        if s.trace == NULL:
            abort()
    r = s.trace + s.n_trace * 6
    r[0] = <int32_t>p.id
    r[1] = kind | TR_IPV6 if p.family == AF6 else kind
    r[2] = a
    r[3] = b
    r[4] = c
    r[5] = d
    s.n_trace += 1

cdef int32_t trace_aux(State *s, const uint8_t *data, uint32_t n) noexcept nogil:
    """Keep bytes beside the trace; returns their offset."""
    cdef uint32_t at = s.n_aux
    if not s.tracing:
        return 0
    if at + n > s.cap_aux:
        while at + n > s.cap_aux:
            s.cap_aux = s.cap_aux * 2 if s.cap_aux else 1024
        s.aux = <uint8_t *>realloc(s.aux, s.cap_aux)
        if s.aux == NULL:
            abort()
    memcpy(s.aux + at, data, n)
    s.n_aux += n
    return <int32_t>at

# --------------------------------------------------------------------------------------------------------------- events

cdef EventRec *event_add(State *s, int kind) noexcept nogil:
    cdef EventRec *e
    if s.n_events == s.cap_events:
        s.cap_events = s.cap_events * 2 if s.cap_events else 32
        s.events = <EventRec *>realloc(s.events, s.cap_events * sizeof(EventRec))
        if s.events == NULL:
            abort()
    e = s.events + s.n_events
    s.n_events += 1
    memset(e, 0, sizeof(EventRec))
    e.kind = kind
    return e

cdef void event_frame(State *s, int kind, const Pkt *p, int ifindex, uint32_t start) noexcept nogil:
    """An RX or TX event with the packet's bytes from ``start`` on."""
    cdef EventRec *e = event_add(s, kind)
    cdef uint32_t n = p.end - start
    if s.n_bytes + n > s.cap_bytes:
        while s.n_bytes + n > s.cap_bytes:
            s.cap_bytes = s.cap_bytes * 2 if s.cap_bytes else 4096
        s.bytes = <uint8_t *>realloc(s.bytes, s.cap_bytes)
        if s.bytes == NULL:
            abort()
    memcpy(s.bytes + s.n_bytes, p.buf + start, n)
    e.pkt_id = p.id
    e.reason = ifindex
    e.data = s.n_bytes
    e.len = n
    s.n_bytes += n

cdef inline void records_add(Records *all, const EventRec *e) noexcept nogil:
    cdef Record *r
    if all.n == all.cap:
        all.cap = all.cap * 2 if all.cap else 256
        all.of = <Record *>realloc(all.of, all.cap * sizeof(Record))
        if all.of == NULL:
            abort()
    r = all.of + all.n
    all.n += 1
    r.kind = e.kind
    r.reason = e.reason
    r.data = <int32_t>e.data
    r.len = <int32_t>e.len

cdef void drop_event(State *s, const Pkt *p, int reason) noexcept nogil:
    """Count a packet that goes no further, and report it."""
    cdef EventRec *e = event_add(s, EV_DROP)
    e.pkt_id = p.id
    e.reason = reason
    e.a = p.dev
    s.drops[reason] += 1

cdef void pkt_drop(State *s, Pkt *p, int reason) noexcept nogil:
    """The packet goes no further: count it, say why, free it."""
    drop_event(s, p, reason)
    trace_add(s, p, TR_DROP, reason, 0, 0, 0)
    pkt_free(s, p)

cdef EventRec *pkt_upcall(State *s, Pkt *p, int reason, int a, int b, int c) noexcept nogil:
    """Hand the packet to Python, which owns it from here on."""
    cdef EventRec *e = event_add(s, EV_UPCALL)
    e.pkt_id = p.id
    e.reason = reason
    e.a = a
    e.b = b
    e.c = c
    e.pkt = p
    s.upcalls[reason] += 1
    trace_add(s, p, TR_UPCALL, reason, a, b, c)
    return e

cdef void pkt_refuse(State *s, Pkt *p, int reason, int type, int code, int rest) noexcept nogil:
    """The packet goes no further, and whoever sent it is to be told by an ICMP error."""
    drop_event(s, p, reason)
    trace_add(s, p, TR_DROP, reason, 1, 0, 0)
    pkt_upcall(s, p, UP_ICMP_ERROR, type, code, rest)

# --------------------------------------------------------------------------------------------------------------- chance

cdef uint32_t draw_below(State *s, const char *place, uint32_t n) noexcept with gil:
    """A number below ``n`` from the world's Choices, at ``NAME/place``."""
    cdef Datapath dp = <Datapath>s.owner
    return <uint32_t>dp._draw(place.decode("ascii"), 0, n)
