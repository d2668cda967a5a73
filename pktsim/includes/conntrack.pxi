# Connection tracking: the table and what a packet's entry is (net/netfilter/nf_conntrack_core.c, Linux 6.18).
#
# A Ct is held by the table (once confirmed) and by every packet that refers to it, one count each; ``ct_put`` frees it.
# Both tuples of an entry hang in one hash. The hash grows with the entries, so that a small namespace stays small; where
# the kernel's number of buckets shows (early drop, chain length) the bucket is worked out from the kept 32-bit hash.

cdef enum:
    TRACK_OK = 1               # what trackers answer: the packet belongs to the entry,
    TRACK_DROP = 0             # must be dropped,
    TRACK_INVALID = -1         # is invalid,
    TRACK_REPEAT = -4          # or finds its entry gone and wants a fresh one
    ZONE_BOTH = 3              # NF_CT_DEFAULT_ZONE_DIR
    NAT_MASK = S_SRC_NAT | S_DST_NAT
    NS_PER_S = 1000000000
    CT_EVICTION_RANGE = 8      # NF_CT_EVICTION_RANGE
    CT_MIN_CHAINLEN = 50       # MIN_CHAINLEN; with a random part below MAX_CHAINLEN
    CT_MAX_CHAINLEN = 30
    GC_INITIAL_COUNT = 100     # GC_SCAN_INITIAL_COUNT: as if so many entries expired in GC_INTERVAL_MAX_S
    GC_INTERVAL_MIN_S = 1
    GC_INTERVAL_MAX_S = 60
    GC_INTERVAL_CLAMP_S = 300
    ICMP4_ECHO_REPLY = 0
    ICMP4_DEST_UNREACH = 3
    ICMP4_SOURCE_QUENCH = 4
    ICMP4_REDIRECT = 5
    ICMP4_ECHO = 8
    ICMP4_TIME_EXCEEDED = 11
    ICMP4_PARAMETER_PROBLEM = 12
    ICMP4_LAST_TYPE = 18       # NR_ICMP_TYPES
    ICMP6_ECHO_REQUEST = 128
    ICMP6_ECHO_REPLY = 129
    ICMP6_MLD_QUERY = 130
    ICMP6_NEIGHBOUR_ADVERTISEMENT = 136
    ICMP6_REDIRECT = 137
    ICMP6_NI_QUERY = 139
    ICMP6_NI_REPLY = 140
    ICMP6_MLD2_REPORT = 143
    P_ICMP = 1
    P_TCP = 6
    P_UDP = 17
    P_GRE = 47
    P_ICMP6 = 58
    P_SCTP = 132
    P_UDPLITE = 136


cdef inline int ctinfo_dir(int ctinfo) noexcept nogil:
    """CTINFO2DIR."""
    return DIR_REPLY if ctinfo == CTINFO_ESTABLISHED_REPLY or ctinfo == CTINFO_RELATED_REPLY else DIR_ORIGINAL


# ---------------------------------------------------------------------------------------------------------------- zones

cdef inline uint32_t zone_id(uint32_t zone, int zone_dir, int dir) noexcept nogil:
    """nf_ct_zone_id: a zone that does not count in this direction is the default zone there."""
    return zone if zone_dir & (1 << dir) else 0


cdef inline bint zone_equal(const Ct *ct, uint32_t zone, int zone_dir, int dir) noexcept nogil:
    return zone_id(ct.zone, ct.zone_dir, dir) == zone_id(zone, zone_dir, dir)


# --------------------------------------------------------------------------------------------------------------- tuples

cdef inline uint64_t tuple_word(const Tuple *t) noexcept nogil:
    """Everything but the addresses and the direction, which is no part of the key."""
    return t.sport | <uint64_t>t.dport << 16 | <uint64_t>t.l3num << 32 | <uint64_t>t.proto << 40


cdef inline bint tuple_eq(const Tuple *a, const Tuple *b) noexcept nogil:
    return addr_eq(&a.src, &b.src) and addr_eq(&a.dst, &b.dst) and tuple_word(a) == tuple_word(b)


cdef inline uint64_t hash_mix(uint64_t h, uint64_t v) noexcept nogil:
    h = (h ^ v) * <uint64_t>0x9FB21C651E98DF25
    return h ^ (h >> 29)


cdef inline uint32_t tuple_hash(const Tuple *t, uint32_t zone) noexcept nogil:
    """Which bucket; the kernel's is keyed afresh at every boot, so any good one will do."""
    cdef uint64_t h = hash_mix(<uint64_t>0x8BB84B93962EACC9, zone)
    h = hash_mix(h, t.src.q[0])
    h = hash_mix(h, t.dst.q[0])
    if t.l3num == AF6:
        h = hash_mix(h, t.src.q[1])
        h = hash_mix(h, t.dst.q[1])
    h = hash_mix(h, tuple_word(t))
    return <uint32_t>((h * <uint64_t>0xD6E8FEB86659FD93) >> 32)


cdef inline uint8_t icmp_inverse(int type) noexcept nogil:
    """The answer's type plus 1, or 0 where there is none (invmap in nf_conntrack_proto_icmp.c)."""
    if type == 8:
        return 0 + 1
    if type == 0:
        return 8 + 1
    if type == 13 or type == 15 or type == 17:   # timestamp, information, address mask request
        return <uint8_t>(type + 1 + 1)
    if type == 14 or type == 16 or type == 18:
        return <uint8_t>(type - 1 + 1)
    return 0


cdef inline uint8_t icmp6_inverse(int type) noexcept nogil:
    if type == ICMP6_ECHO_REQUEST or type == ICMP6_NI_QUERY:
        return <uint8_t>(type + 1 + 1)
    if type == ICMP6_ECHO_REPLY or type == ICMP6_NI_REPLY:
        return <uint8_t>(type - 1 + 1)
    return 0


cdef bint tuple_invert(Tuple *out, const Tuple *t) noexcept nogil:
    """nf_ct_invert_tuple: what an answer looks like; false for ICMP that has none."""
    cdef uint8_t *code = <uint8_t *>&t.dport
    cdef uint8_t inverse
    out.src = t.dst
    out.dst = t.src
    out.l3num = t.l3num
    out.proto = t.proto
    out.dir = not t.dir
    out._pad = 0
    if t.proto == P_ICMP or t.proto == P_ICMP6:
        inverse = icmp_inverse(code[0]) if t.proto == P_ICMP else icmp6_inverse(code[0])
        out.sport = 0
        out.dport = 0
        if not inverse:
            return False
        out.sport = t.sport
        (<uint8_t *>&out.dport)[0] = <uint8_t>(inverse - 1)
        (<uint8_t *>&out.dport)[1] = code[1]
        return True
    out.sport = t.dport
    out.dport = t.sport
    return True


cdef bint tuple_get(const Pkt *p, uint32_t l3, uint32_t l4, int proto, Tuple *t) noexcept nogil:
    """nf_ct_get_tuple, for the packet itself or one quoted in it at ``l3``."""
    cdef const uint8_t *ip = p.buf + l3
    cdef const uint8_t *h = p.buf + l4
    cdef uint32_t left = p.end - l4 if p.end > l4 else 0
    memset(t, 0, sizeof(Tuple))
    t.l3num = p.family
    t.proto = <uint8_t>proto
    if p.family == AF4:
        addr_load(&t.src, ip + 12, AF4)
        addr_load(&t.dst, ip + 16, AF4)
    else:
        addr_load(&t.src, ip + 8, AF6)
        addr_load(&t.dst, ip + 24, AF6)
    if proto == P_TCP or proto == P_UDP or proto == P_UDPLITE or proto == P_SCTP:
        if left < 4:
            return False
        t.sport = raw16(h)
        t.dport = raw16(h + 2)
    elif proto == P_ICMP or proto == P_ICMP6:
        if left < 8:
            return False
        t.sport = raw16(h + 4)
        t.dport = raw16(h)
    elif proto == P_GRE:
        # Only enhanced GRE (RFC 2637, version 1) has a call id; the other end's comes from the PPTP helper's keymap,
        # which nothing fills here.
        if left >= 4 and h[1] & 7 == 1 and left >= 8:
            if rd16(h + 2) != 0x880B:
                return False
            t.dport = raw16(h + 6)
    return True


cdef uint32_t quoted_l4(const Pkt *p, uint32_t l3, int *proto) noexcept nogil:
    """get_l4proto of a packet quoted at ``l3``: where its transport header starts, or 0."""
    cdef uint32_t l4
    cdef uint8_t nexthdr
    cdef uint32_t left
    cdef uint32_t hdrlen
    if p.family == AF4:
        if l3 + 20 > p.end or rd16(p.buf + l3 + 6) & 0x1FFF:
            return 0
        l4 = l3 + (p.buf[l3] & 15) * 4
        proto[0] = p.buf[l3 + 9]
        return l4 if l4 <= p.end else 0
    if l3 + 40 > p.end:
        return 0
    nexthdr = p.buf[l3 + 6]
    l4 = l3 + 40
    while nexthdr == 0 or nexthdr == 43 or nexthdr == 44 or nexthdr == 51 or nexthdr == 60 or nexthdr == 59:
        if nexthdr == 59:
            return 0
        left = p.end - l4 if p.end > l4 else 0
        if left < 8:
            return 0
        if nexthdr == 44:
            if rd16(p.buf + l4 + 2) & 0xFFF8:
                return 0
            hdrlen = 8
        elif nexthdr == 51:
            hdrlen = (p.buf[l4 + 1] + 2) * 4
        else:
            hdrlen = (p.buf[l4 + 1] + 1) * 8
        nexthdr = p.buf[l4]
        l4 += hdrlen
    proto[0] = nexthdr
    return l4                  # which may be behind the end, by what the headers say (ipv6_skip_exthdr)


# ---------------------------------------------------------------------------------------------------------------- table

cdef inline Ct *node_ct(size_t node) noexcept nogil:
    return <Ct *>(node & ~<size_t>1)


cdef inline int node_dir(size_t node) noexcept nogil:
    return <int>(node & 1)


cdef inline uint32_t scale(uint32_t hash, uint32_t n) noexcept nogil:
    """reciprocal_scale."""
    return <uint32_t>((<uint64_t>hash * n) >> 32)


cdef inline uint32_t kernel_buckets(State *s) noexcept nogil:
    return <uint32_t>s.sysctl[SYSCTL_CT_HASHSIZE] if s.sysctl[SYSCTL_CT_HASHSIZE] > 0 else 1


cdef void ct_init(State *s) noexcept nogil:
    """An empty table, and the settings that the kernel starts a namespace with."""
    memset(&s.ct, 0, sizeof(CtTable))
    s.ct.n_buckets = 64
    s.ct.buckets = <size_t *>calloc(s.ct.n_buckets, sizeof(size_t))
    s.ct.n_bysource = 64
    s.ct.bysource = <Ct **>calloc(s.ct.n_bysource, sizeof(Ct *))
    if s.ct.buckets == NULL or s.ct.bysource == NULL:
        abort()
    s.ct.next_id = 1
    s.template_ct.status = S_TEMPLATE | S_CONFIRMED
    s.ct.next_gc_ns = s.now_ns + NS_PER_S
    crc32c_init()
    s.sysctl[SYSCTL_CT_CHECKSUM] = 1
    s.sysctl[SYSCTL_CT_TCP_BE_LIBERAL] = 0
    s.sysctl[SYSCTL_CT_TCP_LOOSE] = 1
    s.sysctl[SYSCTL_CT_TCP_MAX_RETRANS] = 3
    s.sysctl[SYSCTL_CT_TCP_IGNORE_INVALID_RST] = 0
    s.sysctl[SYSCTL_CT_ACCT] = 0
    s.sysctl[SYSCTL_CT_MAX] = 262144           # of a machine with 4 GiB or more (nf_conntrack_init_start)
    s.sysctl[SYSCTL_CT_HASHSIZE] = 262144
    s.sysctl[SYSCTL_CT_TIMEOUT_GENERIC] = 600
    s.sysctl[SYSCTL_CT_TIMEOUT_ICMP] = 30
    s.sysctl[SYSCTL_CT_TIMEOUT_ICMPV6] = 30
    s.sysctl[SYSCTL_CT_TIMEOUT_UDP] = 30
    s.sysctl[SYSCTL_CT_TIMEOUT_UDP_STREAM] = 120
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_SYN_SENT] = 120
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_SYN_RECV] = 60
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_ESTABLISHED] = 432000
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_FIN_WAIT] = 120
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_CLOSE_WAIT] = 60
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_LAST_ACK] = 30
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_TIME_WAIT] = 120
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_CLOSE] = 10
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_MAX_RETRANS] = 300
    s.sysctl[SYSCTL_CT_TIMEOUT_TCP_UNACKNOWLEDGED] = 300
    s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_CLOSED] = 10
    s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_COOKIE_WAIT] = 3
    s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_COOKIE_ECHOED] = 3
    s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_ESTABLISHED] = 210
    s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_SHUTDOWN_SENT] = 3
    s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_SHUTDOWN_RECD] = 3
    s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_SHUTDOWN_ACK_SENT] = 3
    s.sysctl[SYSCTL_CT_TIMEOUT_SCTP_HEARTBEAT_SENT] = 30
    s.sysctl[SYSCTL_CT_TIMEOUT_GRE] = 30
    s.sysctl[SYSCTL_CT_TIMEOUT_GRE_STREAM] = 180


cdef void ct_grow(State *s) noexcept nogil:
    """Twice the buckets, but not more than the kernel would have."""
    cdef uint32_t n = s.ct.n_buckets * 2
    cdef size_t *fresh
    cdef Ct *ct
    cdef int d
    cdef uint32_t i
    if n > kernel_buckets(s):
        return
    fresh = <size_t *>calloc(n, sizeof(size_t))
    if fresh == NULL:
        abort()
    free(s.ct.buckets)
    s.ct.buckets = fresh
    s.ct.n_buckets = n
    ct = s.ct.first
    while ct != NULL:
        for d in range(2):
            if ct.linked & (1 << d):
                i = scale(ct.hash[d], n)
                ct.hash_next[d] = fresh[i]
                fresh[i] = <size_t>ct | <size_t>d
        ct = ct.all_next


cdef void ct_link(State *s, Ct *ct, int dir) noexcept nogil:
    cdef size_t *bucket = s.ct.buckets + scale(ct.hash[dir], s.ct.n_buckets)
    ct.hash_next[dir] = bucket[0]
    bucket[0] = <size_t>ct | <size_t>dir
    ct.linked |= <uint8_t>(1 << dir)


cdef void ct_append(State *s, Ct *ct) noexcept nogil:
    """Into the list of all entries; the table's own hold on it."""
    ct.refs += 1
    ct.status |= S_CONFIRMED
    ct.start_ns = s.now_ns
    ct.all_prev = s.ct.last
    ct.all_next = NULL
    if s.ct.last != NULL:
        s.ct.last.all_next = ct
    else:
        s.ct.first = ct
    s.ct.last = ct
    s.ct.n_confirmed += 1
    if s.ct.n_confirmed > s.ct.n_buckets // 2:
        ct_grow(s)


cdef bint ct_kill(State *s, Ct *ct) noexcept nogil:
    """nf_ct_delete: out of the table; whoever still holds it may finish with it. False if it was dying already."""
    cdef int d
    cdef size_t me
    cdef size_t *at
    if ct.status & S_DYING:
        return False
    ct.status |= S_DYING
    for d in range(2):
        if not ct.linked & (1 << d):
            continue
        me = <size_t>ct | <size_t>d
        at = s.ct.buckets + scale(ct.hash[d], s.ct.n_buckets)
        while at[0] != me:
            at = &node_ct(at[0]).hash_next[node_dir(at[0])]
        at[0] = ct.hash_next[d]
    ct.linked = 0
    if ct.status & S_CONFIRMED:
        if ct.all_prev != NULL:
            ct.all_prev.all_next = ct.all_next
        else:
            s.ct.first = ct.all_next
        if ct.all_next != NULL:
            ct.all_next.all_prev = ct.all_prev
        else:
            s.ct.last = ct.all_prev
        s.ct.n_confirmed -= 1
        ct_put(s, ct)
    return True


cdef void ct_put(State *s, Ct *ct) noexcept nogil:
    """Let go of an entry."""
    ct.refs -= 1
    if ct.refs > 0:
        return
    if ct.in_bysource:
        bysource_remove(s, ct)
    if ct.master != NULL:
        ct_put(s, ct.master)
    s.ct.count -= 1
    free(ct)


cdef void ct_flush_all(State *s) noexcept nogil:
    while s.ct.first != NULL:
        ct_kill(s, s.ct.first)


cdef void ct_free_all(State *s) noexcept nogil:
    """The end of the namespace; packets must have let go of their entries before."""
    ct_flush_all(s)
    free(s.ct.buckets)
    free(s.ct.bysource)
    s.ct.buckets = NULL
    s.ct.bysource = NULL


cdef inline bint ct_expired(const State *s, const Ct *ct) noexcept nogil:
    return ct.timeout_ns <= s.now_ns


cdef Ct *ct_find_hash(State *s, const Tuple *t, uint32_t zone, int zone_dir, uint32_t hash, int *dir) noexcept nogil:
    """____nf_conntrack_find: the live entry that ``t`` belongs to; what it finds expired on the way goes."""
    cdef uint32_t i = scale(hash, s.ct.n_buckets)
    cdef size_t node = s.ct.buckets[i]
    cdef Ct *ct
    cdef int d
    while node:
        ct = node_ct(node)
        d = node_dir(node)
        if ct_expired(s, ct):
            ct_kill(s, ct)
            node = s.ct.buckets[i]   # the entry may have been in this chain twice
            continue
        if ct.hash[d] == hash and tuple_eq(&ct.tuple[d], t) and zone_equal(ct, zone, zone_dir, d):
            dir[0] = d
            return ct
        node = ct.hash_next[d]
    return NULL


cdef Ct *ct_find(State *s, const Tuple *t, uint32_t zone, int zone_dir, int *dir) noexcept nogil:
    """nf_conntrack_find_get: in the zone of either direction."""
    cdef uint32_t zid = zone_id(zone, zone_dir, DIR_ORIGINAL)
    cdef uint32_t rid = zone_id(zone, zone_dir, DIR_REPLY)
    cdef Ct *ct = ct_find_hash(s, t, zone, zone_dir, tuple_hash(t, zid), dir)
    if ct == NULL and rid != zid:
        ct = ct_find_hash(s, t, zone, zone_dir, tuple_hash(t, rid), dir)
    return ct


cdef bint ct_tuple_taken(State *s, const Tuple *t, const Ct *ignored) noexcept nogil:
    """nf_conntrack_tuple_taken: whether a reply tuple already belongs to another flow."""
    cdef uint32_t hash = tuple_hash(t, zone_id(ignored.zone, ignored.zone_dir, DIR_REPLY))
    cdef uint32_t i = scale(hash, s.ct.n_buckets)
    cdef size_t node = s.ct.buckets[i]
    cdef Ct *ct
    cdef int d
    while node:
        ct = node_ct(node)
        d = node_dir(node)
        if ct != ignored:
            if ct_expired(s, ct):
                ct_kill(s, ct)
                node = s.ct.buckets[i]
                continue
            if ct.hash[d] == hash and tuple_eq(&ct.tuple[d], t) and zone_equal(ct, ignored.zone, ignored.zone_dir, d):
                # Two packets of one flow, neither confirmed when the other came: left to the clash resolution.
                if not (tuple_eq(&ignored.tuple[DIR_ORIGINAL], &ct.tuple[DIR_ORIGINAL])
                        and zone_equal(ct, ignored.zone, ignored.zone_dir, DIR_ORIGINAL)):
                    s.ct.found += 1
                    return True
        node = ct.hash_next[d]
    return False


# ------------------------------------------------------------------------------------------------------------- eviction

cdef bint ct_can_early_drop(const Ct *ct) noexcept nogil:
    """gc_worker_can_early_drop: unassured entries, and those about to close."""
    if not ct.status & S_ASSURED:
        return True
    if ct.tuple[0].proto == P_TCP:
        return tcp_can_early_drop(&ct.tcp)
    if ct.tuple[0].proto == P_SCTP:
        return SCTP_SHUTDOWN_SENT <= ct.sctp.state <= SCTP_SHUTDOWN_ACK_SENT
    return False


cdef uint32_t ct_early_drop_bucket(State *s, uint32_t bucket) noexcept nogil:
    """early_drop_list on one of the kernel's buckets: every unassured entry in it goes."""
    cdef uint32_t size = kernel_buckets(s)
    cdef uint64_t low = ((<uint64_t>bucket << 32) + size - 1) // size
    cdef uint64_t high = ((<uint64_t>(bucket + 1) << 32) + size - 1) // size - 1
    cdef uint32_t i = scale(<uint32_t>low, s.ct.n_buckets)
    cdef uint32_t last = scale(<uint32_t>high, s.ct.n_buckets)
    cdef uint32_t drops = 0
    cdef size_t node
    cdef Ct *ct
    while i <= last:
        node = s.ct.buckets[i]
        while node:
            ct = node_ct(node)
            if scale(ct.hash[node_dir(node)], size) == bucket:
                if ct_expired(s, ct):
                    ct_kill(s, ct)
                    node = s.ct.buckets[i]
                    continue
                if not ct.status & S_ASSURED:
                    ct_kill(s, ct)
                    drops += 1
                    node = s.ct.buckets[i]
                    continue
            node = ct.hash_next[node_dir(node)]
        i += 1
    return drops


cdef bint ct_early_drop(State *s, uint32_t hash) noexcept nogil:
    """early_drop: the new entry's bucket and the seven behind it, up to the first in which something could go."""
    cdef uint32_t size = kernel_buckets(s)
    cdef uint32_t bucket = scale(hash, size)
    cdef uint32_t drops
    cdef int i
    for i in range(CT_EVICTION_RANGE):
        drops = ct_early_drop_bucket(s, bucket)
        if drops:
            s.ct.early_drop += drops
            return True
        bucket = (bucket + 1) % size
    return False


cdef void ct_gc(State *s) noexcept nogil:
    """gc_worker: expired entries go, and the next run is due after the running mean of what the others have left.

    The kernel does this in slices in the background; here a run that is due is made before the next packet is tracked.
    """
    cdef int64_t next_run = <int64_t>GC_INTERVAL_MAX_S * NS_PER_S
    cdef int64_t count = GC_INITIAL_COUNT
    cdef int64_t left
    cdef int64_t full = 0
    cdef int d
    cdef Ct *ct = s.ct.first
    cdef Ct *following
    if s.ct.gc_early_drop:
        full = s.sysctl[SYSCTL_CT_MAX] // 100 * 95
    while ct != NULL:
        following = ct.all_next
        left = ct.timeout_ns - s.now_ns
        if left <= 0:
            ct_kill(s, ct)
            ct = following
            continue
        left = min(max(left, <int64_t>GC_INTERVAL_MIN_S * NS_PER_S), <int64_t>GC_INTERVAL_CLAMP_S * NS_PER_S)
        for d in range(2):     # each entry is met once per tuple
            if ct.linked & (1 << d):
                count += 1
                next_run += (left - next_run) // count
        if full and s.ct.count >= full and ct_can_early_drop(ct):
            ct_kill(s, ct)
        ct = following
    s.ct.gc_early_drop = 0
    next_run = min(max(next_run, <int64_t>GC_INTERVAL_MIN_S * NS_PER_S), <int64_t>GC_INTERVAL_MAX_S * NS_PER_S)
    s.ct.next_gc_ns = s.now_ns + next_run


# -------------------------------------------------------------------------------------------------------------- entries

cdef Ct *ct_alloc(State *s, const Tuple *orig, const Tuple *reply, uint32_t zone, int zone_dir) noexcept nogil:
    """__nf_conntrack_alloc; NULL when the table is full and nothing can go."""
    cdef uint32_t hash = tuple_hash(orig, zone_id(zone, zone_dir, DIR_ORIGINAL))
    cdef int64_t limit = s.sysctl[SYSCTL_CT_MAX]
    cdef Ct *ct
    s.ct.count += 1
    if limit and s.ct.count > limit and not ct_early_drop(s, hash):
        s.ct.gc_early_drop = 1
        s.ct.count -= 1
        return NULL
    ct = <Ct *>calloc(1, sizeof(Ct))
    if ct == NULL:
        abort()
    ct.tuple[DIR_ORIGINAL] = orig[0]
    ct.tuple[DIR_REPLY] = reply[0]
    ct.tuple[DIR_ORIGINAL].dir = DIR_ORIGINAL
    ct.tuple[DIR_REPLY].dir = DIR_REPLY
    ct.hash[DIR_ORIGINAL] = hash
    ct.zone = <uint16_t>zone
    ct.zone_dir = <uint8_t>zone_dir
    ct.has_acct = s.sysctl[SYSCTL_CT_ACCT] != 0
    ct.has_labels = s.labels_used
    ct.refs = 1
    ct.id = s.ct.next_id
    s.ct.next_id += 1
    return ct


cdef inline void ct_acct(Ct *ct, const Pkt *p) noexcept nogil:
    """nf_ct_acct_update: whole IP packets, counted where they came in."""
    cdef int dir
    if ct.has_acct:
        dir = ctinfo_dir(p.ctinfo)
        ct.acct_packets[dir] += 1
        ct.acct_bytes[dir] += p.end - p.l3


cdef inline void ct_refresh(State *s, Ct *ct, const Pkt *p, int64_t seconds) noexcept nogil:
    """nf_ct_refresh_acct: the entry lives this long from now on."""
    if not ct.status & S_FIXED_TIMEOUT:
        ct.timeout_set_ns = seconds * NS_PER_S
        ct.timeout_ns = ct.timeout_set_ns
        if ct.status & S_CONFIRMED:
            ct.timeout_ns += s.now_ns
    ct_acct(ct, p)


cdef bint ct_kill_acct(State *s, Ct *ct, const Pkt *p) noexcept nogil:
    ct_acct(ct, p)
    return ct_kill(s, ct)


cdef int ct_resolve(State *s, Pkt *p, uint32_t zone, int zone_dir, bint *fresh) noexcept nogil:
    """resolve_normal_ct: the packet's entry, old or new. NF_DROP if there was no room for a new one."""
    cdef Tuple t, reply
    cdef int dir = DIR_ORIGINAL
    cdef Ct *ct
    fresh[0] = False
    if not tuple_get(p, p.l3, p.l4, p.proto, &t):
        return NF_ACCEPT
    ct = ct_find(s, &t, zone, zone_dir, &dir)
    if ct == NULL:
        if not tuple_invert(&reply, &t):
            return NF_ACCEPT
        ct = ct_alloc(s, &t, &reply, zone, zone_dir)
        if ct == NULL:
            return NF_DROP
        fresh[0] = True
        dir = DIR_ORIGINAL
    else:
        ct.refs += 1
    p.ct = ct
    if dir == DIR_REPLY:
        p.ctinfo = CTINFO_ESTABLISHED_REPLY
    elif ct.status & S_SEEN_REPLY:
        p.ctinfo = CTINFO_ESTABLISHED
    elif ct.status & S_EXPECTED:
        p.ctinfo = CTINFO_RELATED
    else:
        p.ctinfo = CTINFO_NEW
    return NF_ACCEPT


cdef void trace_ct(State *s, const Pkt *p, bint fresh) noexcept nogil:
    cdef int state = -1
    cdef int id = 0
    if not s.tracing:
        return
    if p.ct != NULL:
        id = <int>p.ct.id
        if p.ct.tuple[0].proto == P_TCP:
            state = p.ct.tcp.state
        elif p.ct.tuple[0].proto == P_SCTP:
            state = p.ct.sctp.state
    trace_add(s, p, TR_CONNTRACK, p.ctinfo, id, fresh, state)


cdef int ct_track(State *s, Pkt *p, int hook, bint *fresh) noexcept nogil:
    """nf_conntrack_in without its trace. NF_ACCEPT or NF_DROP."""
    cdef uint32_t zone = (p.mark & 0xFFFF if p.tmpl_mark else p.tmpl_zone) if p.tmpl_set else 0
    cdef int zone_dir = p.tmpl_zone_dir if p.tmpl_set else ZONE_BOTH
    cdef int ret
    p.ctinfo = CTINFO_NONE
    # behind IPv6 headers that claim to be longer than the packet only trackers that read nothing find anything
    if p.l4 == 0 or (p.l4 > p.end and (p.proto == P_ICMP or p.proto == P_ICMP6)):
        s.ct.invalid += 1
        return NF_ACCEPT
    if p.proto == P_ICMP or p.proto == P_ICMP6:
        ret = icmp_error(s, p, hook, zone, zone_dir)
        if ret <= 0:
            s.ct.error += 1
            return NF_ACCEPT
        if p.ct != NULL or p.ctinfo == CTINFO_UNTRACKED:
            return NF_ACCEPT
    while True:
        if ct_resolve(s, p, zone, zone_dir, fresh) == NF_DROP:
            s.ct.drop += 1
            s.drop_reason = DR_CONNTRACK_TABLE_FULL
            return NF_DROP
        if p.ct == NULL:
            s.ct.invalid += 1
            return NF_ACCEPT
        ret = ct_handle(s, p.ct, p, hook)
        if ret > 0:
            break
        ct_put(s, p.ct)
        p.ct = NULL
        p.ctinfo = CTINFO_NONE
        if ret == TRACK_REPEAT:
            continue
        fresh[0] = False
        s.ct.invalid += 1
        if ret == TRACK_DROP:
            s.ct.drop += 1
            s.drop_reason = DR_CONNTRACK_INVALID
            return NF_DROP
        return NF_ACCEPT
    if p.ctinfo == CTINFO_ESTABLISHED_REPLY:
        p.ct.status |= S_SEEN_REPLY
    return NF_ACCEPT


cdef int ct_in(State *s, Pkt *p, int hook) noexcept nogil:
    """nf_conntrack_in: give the packet its entry, or find it invalid (no entry, CTINFO_NONE)."""
    cdef bint fresh = False
    cdef int verdict
    if p.ct != NULL or p.ctinfo == CTINFO_UNTRACKED:
        return NF_ACCEPT       # seen before it went round lo, or not to be tracked
    if s.now_ns >= s.ct.next_gc_ns:
        ct_gc(s)
    verdict = ct_track(s, p, hook, &fresh)
    p.tmpl_set = 0             # the template is used up, also where no entry was found
    trace_ct(s, p, fresh)
    return verdict


# -------------------------------------------------------------------------------------------------------------- confirm

cdef inline bint clash_allowed(int proto) noexcept nogil:
    """nf_conntrack_l4proto.allow_clash: where losing the first packet of a flow would hurt and no state is at stake."""
    return proto == P_UDP or proto == P_UDPLITE or proto == P_ICMP6 or proto == P_GRE


cdef bint clash_mergeable(const Ct *a, const Ct *b) noexcept nogil:
    """nf_ct_can_merge: the same flow, seen in the same or in opposite directions."""
    if tuple_eq(&a.tuple[0], &b.tuple[0]) and tuple_eq(&a.tuple[1], &b.tuple[1]):
        return zone_equal(a, b.zone, b.zone_dir, 0) and zone_equal(a, b.zone, b.zone_dir, 1)
    return (tuple_eq(&a.tuple[0], &b.tuple[1]) and tuple_eq(&a.tuple[1], &b.tuple[0])
            and zone_id(a.zone, a.zone_dir, 0) == zone_id(b.zone, b.zone_dir, 1)
            and zone_id(a.zone, a.zone_dir, 1) == zone_id(b.zone, b.zone_dir, 0))


cdef bint clash_merge(State *s, Pkt *p, Ct *winner) noexcept nogil:
    """__nf_ct_resolve_clash: the packet takes the entry that was confirmed first, and its own goes."""
    cdef Ct *loser = p.ct
    cdef int dir = ctinfo_dir(p.ctinfo)
    if not clash_mergeable(winner, loser):
        return False
    winner.refs += 1
    if loser.has_acct and winner.has_acct:
        winner.acct_packets[dir] += 1
        winner.acct_bytes[dir] += loser.acct_bytes[dir]
    ct_put(s, loser)
    p.ct = winner
    s.ct.clash_resolve += 1
    return True


cdef Ct *ct_clashing(State *s, const Ct *ct, int which, bint *too_long) noexcept nogil:
    """The confirmed entry, expired or not, that has this tuple of ``ct``; or whether the kernel's chain is too long."""
    cdef uint32_t hash = ct.hash[which]
    cdef uint32_t size = kernel_buckets(s)
    cdef uint32_t bucket = scale(hash, size)
    cdef size_t node = s.ct.buckets[scale(hash, s.ct.n_buckets)]
    cdef uint32_t length = 0
    cdef uint32_t limit = 0
    cdef Ct *other
    cdef int d
    too_long[0] = False
    while node:
        other = node_ct(node)
        d = node_dir(node)
        if (other.hash[d] == hash and tuple_eq(&other.tuple[d], &ct.tuple[which])
                and zone_equal(other, ct.zone, ct.zone_dir, d)):
            return other
        if scale(other.hash[d], size) == bucket:
            length += 1
            if length > CT_MIN_CHAINLEN:
                if not limit:
                    limit = CT_MIN_CHAINLEN + draw_below(s, b"ct.chainlen", CT_MAX_CHAINLEN)
                if length > limit + 1:
                    too_long[0] = True
                    return NULL
        node = other.hash_next[d]
    return NULL


cdef int clash_resolve(State *s, Pkt *p, Ct *winner) noexcept nogil:
    """nf_ct_resolve_clash: merge, or keep the new entry for its replies alone, or drop."""
    cdef Ct *loser = p.ct
    cdef Ct *other
    cdef bint too_long = False
    if clash_allowed(winner.tuple[0].proto):
        if clash_merge(s, p, winner):
            return NF_ACCEPT
        # nf_ct_resolve_clash_harder: if no other flow has the same replies, the entry is put in for the reply direction
        # only and for one second; packets of the original direction keep finding the winner.
        other = ct_clashing(s, loser, DIR_REPLY, &too_long)
        if other != NULL:
            if clash_merge(s, p, other):
                return NF_ACCEPT
        else:
            loser.timeout_set_ns = NS_PER_S
            loser.timeout_ns = s.now_ns + NS_PER_S
            loser.status |= S_FIXED_TIMEOUT | S_NAT_CLASH
            ct_append(s, loser)
            ct_link(s, loser, DIR_REPLY)
            s.ct.clash_resolve += 1
            return NF_ACCEPT
    s.ct.drop += 1
    s.ct.insert_failed += 1
    return NF_DROP


cdef int ct_confirm_new(State *s, Pkt *p) noexcept nogil:
    """__nf_conntrack_confirm: into the table, unless another flow was faster."""
    cdef Ct *ct = p.ct
    cdef Ct *other
    cdef bint too_long = False
    cdef int which
    ct.hash[DIR_REPLY] = tuple_hash(&ct.tuple[DIR_REPLY], zone_id(ct.zone, ct.zone_dir, DIR_REPLY))
    if ct.status & S_DYING:
        s.ct.insert_failed += 1
        return NF_DROP
    for which in range(2):
        other = ct_clashing(s, ct, which, &too_long)
        if other != NULL:
            return clash_resolve(s, p, other)
        if too_long:
            s.ct.chaintoolong += 1
            s.ct.insert_failed += 1
            return NF_DROP
    ct.timeout_ns += s.now_ns  # relative to now, not to when the packet came in
    ct_append(s, ct)
    ct_link(s, ct, DIR_ORIGINAL)
    ct_link(s, ct, DIR_REPLY)
    return NF_ACCEPT


cdef int ct_confirm(State *s, Pkt *p) noexcept nogil:
    """nf_confirm, at the last hook of LOCAL_IN and POSTROUTING."""
    cdef int verdict
    if p.ct == NULL or p.ct.status & S_CONFIRMED:
        return NF_ACCEPT
    if ctinfo_dir(p.ctinfo) != DIR_ORIGINAL:
        return NF_ACCEPT       # an answer to a packet that was rejected before it was confirmed
    verdict = ct_confirm_new(s, p)
    if verdict == NF_DROP:
        s.drop_reason = DR_CONNTRACK_CLASH
    trace_add(s, p, TR_CONFIRM, verdict, <int>p.ct.id, 0, 0)
    return verdict


# ---------------------------------------------------------------------------------------------------- seen from Python

cdef tuple ct_tuple_py(const Tuple *t):
    cdef int n = addr_len(t.l3num)
    return (
        (<const char *>t.src.b)[:n],
        (<const char *>t.dst.b)[:n],
        swap16(t.sport),
        swap16(t.dport),
    )


cdef object ct_entry_dict(State *s, Ct *ct):
    """One entry as plain values; netfilter.conntrack.Entry names them."""
    cdef int proto = ct.tuple[0].proto
    cdef object state = -1
    if proto == P_TCP:
        state = ct.tcp.state
    elif proto == P_SCTP:
        state = ct.sctp.state
    return {
        "id": ct.id,
        "family": ct.tuple[0].l3num,
        "proto": proto,
        "orig": ct_tuple_py(&ct.tuple[0]),
        "reply": ct_tuple_py(&ct.tuple[1]),
        "status": ct.status,
        "timeout_ns": ct.timeout_ns - s.now_ns if ct.status & S_CONFIRMED else ct.timeout_ns,
        "timeout_set_ns": ct.timeout_set_ns,
        "start_ns": ct.start_ns,
        "mark": ct.mark,
        "labels": [ct.labels[0], ct.labels[1], ct.labels[2], ct.labels[3]] if ct.has_labels else None,
        "zone": ct.zone,
        "zone_dir": ct.zone_dir,
        "use": ct.refs,
        "state": state,
        "flags": (ct.tcp.seen[0].flags, ct.tcp.seen[1].flags),
        "wscale": (ct.tcp.seen[0].td_scale, ct.tcp.seen[1].td_scale),
        "vtag": (rd32(<uint8_t *>&ct.sctp.vtag[0]), rd32(<uint8_t *>&ct.sctp.vtag[1])),
        "acct": (
            (ct.acct_packets[0], ct.acct_bytes[0], ct.acct_packets[1], ct.acct_bytes[1]) if ct.has_acct else None
        ),
    }


cdef object ct_list(State *s):
    """All live entries; those that a clash left for their replies alone do not show (as in ``conntrack -L``)."""
    cdef list out = []
    cdef Ct *ct = s.ct.first
    cdef Ct *following
    while ct != NULL:
        following = ct.all_next
        if ct_expired(s, ct):
            ct_kill(s, ct)
        elif ct.linked & (1 << DIR_ORIGINAL):
            out.append(ct_entry_dict(s, ct))
        ct = following
    return out


cdef int ct_tuple_from(Tuple *t, int family, int proto, object value) except -1:
    cdef bytes src, dst
    cdef int n = addr_len(family)
    src, dst, sport, dport = value
    if len(src) != n or len(dst) != n:
        raise ValueError(f"addresses of family {family} have {n} bytes")
    memset(t, 0, sizeof(Tuple))
    memcpy(t.src.b, <const char *>src, n)
    memcpy(t.dst.b, <const char *>dst, n)
    t.sport = swap16(<uint16_t>sport)
    t.dport = swap16(<uint16_t>dport)
    t.l3num = <uint8_t>family
    t.proto = <uint8_t>proto
    return 0


cdef object ct_insert(State *s, dict d):
    """ctnetlink's way in (``conntrack -I``). Keys as ``ct_entry_dict``'s; family, proto, orig, timeout_ns are needed."""
    cdef Tuple orig, reply
    cdef Ct *ct
    cdef bint too_long = False
    cdef int which
    cdef int family = d["family"]
    cdef int proto = d["proto"]
    cdef uint32_t zone = d.get("zone", 0)
    cdef int zone_dir = d.get("zone_dir", ZONE_BOTH)
    cdef int64_t timeout_ns = d["timeout_ns"]
    if family != AF4 and family != AF6:
        raise ValueError(f"no address family {family}")
    ct_tuple_from(&orig, family, proto, d["orig"])
    if "reply" in d:
        ct_tuple_from(&reply, family, proto, d["reply"])
    elif not tuple_invert(&reply, &orig):
        raise ValueError("no answer can come to such an ICMP message, so a reply tuple is needed")
    ct = ct_alloc(s, &orig, &reply, zone, zone_dir)
    if ct == NULL:
        raise ValueError("the connection tracking table is full")
    ct.hash[DIR_REPLY] = tuple_hash(&ct.tuple[DIR_REPLY], zone_id(zone, zone_dir, DIR_REPLY))
    for which in range(2):
        if ct_clashing(s, ct, which, &too_long) != NULL:
            ct_put(s, ct)
            raise ValueError("there is such an entry already")
    ct.timeout_set_ns = timeout_ns
    ct.timeout_ns = s.now_ns + timeout_ns
    ct.status = <uint32_t>d.get("status", 0) & ~<uint32_t>(S_DYING | S_NAT_CLASH | S_TEMPLATE)
    ct.mark = d.get("mark", 0)
    if proto == P_TCP and d.get("state", -1) >= 0:
        ct.tcp.state = d["state"]
    elif proto == P_SCTP and d.get("state", -1) >= 0:
        ct.sctp.state = d["state"]
    if proto == P_SCTP and "vtag" in d:
        wr32(<uint8_t *>&ct.sctp.vtag[0], d["vtag"][0])
        wr32(<uint8_t *>&ct.sctp.vtag[1], d["vtag"][1])
    if proto == P_TCP and "flags" in d:
        ct.tcp.seen[0].flags, ct.tcp.seen[1].flags = d["flags"]
    if proto == P_TCP and "wscale" in d:
        ct.tcp.seen[0].td_scale, ct.tcp.seen[1].td_scale = d["wscale"]
    ct_append(s, ct)
    ct_link(s, ct, DIR_ORIGINAL)
    ct_link(s, ct, DIR_REPLY)
    if ct.status & S_SRC_NAT_DONE:
        bysource_add(s, ct)
    s.ct.insert += 1
    ct_put(s, ct)
    return ct.id


cdef object ct_delete(State *s, uint64_t id):
    cdef Ct *ct = s.ct.first
    while ct != NULL and ct.id != id:
        ct = ct.all_next
    if ct == NULL:
        return False
    return bool(ct_kill(s, ct))


cdef object ct_flush(State *s):
    ct_flush_all(s)


cdef object ct_stats(State *s):
    """/proc/net/stat/nf_conntrack, summed over the processors."""
    return {
        "entries": s.ct.count,
        "found": s.ct.found,
        "invalid": s.ct.invalid,
        "insert": s.ct.insert,
        "insert_failed": s.ct.insert_failed,
        "drop": s.ct.drop,
        "early_drop": s.ct.early_drop,
        "error": s.ct.error,
        "search_restart": s.ct.search_restart,
        "clash_resolve": s.ct.clash_resolve,
        "chaintoolong": s.ct.chaintoolong,
    }
