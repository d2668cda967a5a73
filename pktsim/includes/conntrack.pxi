# Connection tracking: the table and what a packet's entry is (net/netfilter/nf_conntrack_core.c, Linux 6.18).
#
# A Ct is held by the table (once confirmed) and by every packet that refers to it, one count each; ``ct_put`` frees it.
# Both tuples of an entry hang in one hash. The hash grows with the entries, so that a small namespace stays small; where
# the kernel's number of buckets shows (early drop, chain length) the bucket is worked out from the kept 32-bit hash.

cdef enum:
    TRACK_OK = 1               # what trackers answer: the packet belongs to the entry,
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


# ---------------------------------------------------------------------------------------------------------------- zones

cdef inline uint32_t zone_id(uint32_t zone, int zone_dir, int dir) noexcept nogil:
    """nf_ct_zone_id: a zone that does not count in this direction is the default zone there."""
    return zone if zone_dir & (1 << dir) else 0


cdef inline bint zone_equal(const Ct *ct, uint32_t zone, int zone_dir, int dir) noexcept nogil:
    return zone_id(ct.zone, ct.zone_dir, dir) == zone_id(zone, zone_dir, dir)


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
