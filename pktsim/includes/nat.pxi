# Network address translation: which mapping a flow gets (net/netfilter/nf_nat_core.c) and what it does to packets
# (net/netfilter/nf_nat_proto.c), Linux 6.18.

cdef enum:
    NAT_MAX_ATTEMPTS = 128     # NF_NAT_MAX_ATTEMPTS
    NAT_HARDER_THRESH = 32     # NF_NAT_HARDER_THRESH: in the last attempts closing TCP flows make room
    NAT_RANDOM_ALL = NAT_PROTO_RANDOM | NAT_PROTO_RANDOM_FULLY


# ------------------------------------------------------------------------------------------------ flows by their source

cdef inline uint32_t source_bucket(const State *s, const Ct *ct) noexcept nogil:
    """hash_by_src: protocol and original source; the zone only if it holds in both directions."""
    return source_bucket_of(s, &ct.tuple[DIR_ORIGINAL], ct.zone, ct.zone_dir)


cdef inline uint32_t source_bucket_of(const State *s, const Tuple *t, uint32_t zone, int zone_dir) noexcept nogil:
    cdef uint64_t h = hash_mix(<uint64_t>0x27220A95FE9A5D3C, zone if zone_dir == ZONE_BOTH else 0)
    h = hash_mix(h, t.src.q[0])
    h = hash_mix(h, t.src.q[1])
    h = hash_mix(h, t.sport | <uint64_t>t.proto << 16 | <uint64_t>t.l3num << 24)
    return hash_end(h) & (s.ct.n_bysource - 1)


cdef void bysource_grow(State *s) noexcept nogil:
    """Twice the buckets. Entries of one source keep their order: the first that fits is the one that is used."""
    cdef uint32_t old = s.ct.n_bysource
    cdef Ct **fresh = <Ct **>calloc(old * 2, sizeof(Ct *))
    cdef Ct **chains = s.ct.bysource
    cdef Ct *ct
    cdef Ct *following
    cdef Ct *reversed_chain
    cdef uint32_t i, b
    if fresh == NULL:
        abort()
    s.ct.bysource = fresh
    s.ct.n_bysource = old * 2
    for i in range(old):
        reversed_chain = NULL
        ct = chains[i]
        while ct != NULL:
            following = ct.src_next
            ct.src_next = reversed_chain
            reversed_chain = ct
            ct = following
        ct = reversed_chain
        while ct != NULL:
            following = ct.src_next
            b = source_bucket(s, ct)
            ct.src_next = fresh[b]
            fresh[b] = ct
            ct = following
    free(chains)


cdef void bysource_add(State *s, Ct *ct) noexcept nogil:
    cdef uint32_t b
    if ct.in_bysource:
        return
    if s.ct.n_sources >= s.ct.n_bysource:
        bysource_grow(s)
    b = source_bucket(s, ct)
    ct.src_next = s.ct.bysource[b]
    s.ct.bysource[b] = ct
    ct.in_bysource = 1
    s.ct.n_sources += 1


cdef void bysource_remove(State *s, Ct *ct) noexcept nogil:
    cdef Ct **at = &s.ct.bysource[source_bucket(s, ct)]
    while at[0] != ct:
        at = &at[0].src_next
    at[0] = ct.src_next
    ct.in_bysource = 0
    s.ct.n_sources -= 1


# --------------------------------------------------------------------------------------------------- choosing a mapping

cdef inline bint nat_initialized(const Ct *ct, int manip) noexcept nogil:
    """nf_nat_initialized: whether this half of the mapping has been decided."""
    return ct.status & (S_SRC_NAT_DONE if manip == MANIP_SRC else S_DST_NAT_DONE) != 0


cdef inline bint nat_used_tuple(State *s, const Tuple *t, const Ct *ct) noexcept nogil:
    """nf_nat_used_tuple: whether the answers to ``t`` would belong to another flow."""
    cdef Tuple reply
    tuple_invert(&reply, t)
    return ct_tuple_taken(s, &reply, ct)


cdef bint nat_used_tuple_new(State *s, const Tuple *t, const Ct *ct) noexcept nogil:
    """The same for an unaltered tuple: a clash with this flow seen from the other side is left to ``ct_confirm``."""
    cdef Tuple reply
    cdef Ct *other
    cdef int dir = 0
    cdef uint32_t uses_nat = NAT_MASK | S_SEQ_ADJUST
    if not nat_used_tuple(s, t, ct):
        return False
    if not clash_allowed(ct.tuple[0].proto) or ct.status & uses_nat:
        return True
    other = ct_find(s, t, ct.zone, ct.zone_dir, &dir)
    if other == NULL:
        tuple_invert(&reply, t)
        other = ct_find(s, &reply, ct.zone, ct.zone_dir, &dir)
        if other == NULL:
            return False
    if other.status & uses_nat:
        return True
    return not tuple_eq(&other.tuple[DIR_ORIGINAL], &ct.tuple[DIR_REPLY])


cdef bint nat_used_tuple_harder(State *s, const Tuple *t, const Ct *ct, uint32_t attempts_left) noexcept nogil:
    """In the last attempts a TCP flow in TIME_WAIT or CLOSE makes room for a SYN with a later sequence number."""
    cdef Tuple reply
    cdef Ct *other
    cdef int dir = 0
    tuple_invert(&reply, t)
    if attempts_left > NAT_HARDER_THRESH or t.proto != P_TCP or ct.tcp.state != TCP_SYN_SENT:
        return ct_tuple_taken(s, &reply, ct)
    other = ct_find(s, &reply, ct.zone, ct.zone_dir, &dir)
    if other == NULL:
        return False
    if dir == DIR_ORIGINAL or other == ct:
        return True
    if other.tcp.state < TCP_TIME_WAIT or other.status & (S_FIXED_TIMEOUT | S_DYING) or not other.status & S_SRC_NAT:
        return True
    if <int32_t>(ct.tcp.seen[0].td_end - other.tcp.seen[0].td_end) <= 0:
        return True
    return not ct_kill(s, other)


cdef inline bint addr_in_range(const Addr *a, const NatRange *rng, int family) noexcept nogil:
    cdef int n = addr_len(family)
    return memcmp(a.b, rng.min_addr.b, n) >= 0 and memcmp(a.b, rng.max_addr.b, n) <= 0


cdef bint l4_in_range(const Tuple *t, int manip, const NatRange *rng) noexcept nogil:
    """l4proto_in_range: whether the part that can be changed lies between the range's ports already."""
    cdef uint16_t port
    if t.proto == P_ICMP or t.proto == P_ICMP6:
        port = t.sport
    elif t.proto == P_TCP or t.proto == P_UDP or t.proto == P_UDPLITE or t.proto == P_SCTP or t.proto == P_GRE:
        port = t.sport if manip == MANIP_SRC else t.dport
    else:
        return True
    return swap16(rng.min_port) <= swap16(port) <= swap16(rng.max_port)


cdef inline bint source_in_range(const Tuple *t, const NatRange *rng) noexcept nogil:
    """nf_in_range."""
    if rng.flags & NAT_MAP_IPS and not addr_in_range(&t.src, rng, t.l3num):
        return False
    return not rng.flags & NAT_PROTO_SPECIFIED or l4_in_range(t, MANIP_SRC, rng)


cdef bint find_appropriate_src(State *s, const Ct *ct, const Tuple *t, Tuple *out, const NatRange *rng) noexcept nogil:
    """A mapping that this source (protocol, address, port) has already and that the range allows."""
    cdef Ct *other = s.ct.bysource[source_bucket_of(s, t, ct.zone, ct.zone_dir)]
    cdef const Tuple *o
    while other != NULL:
        o = &other.tuple[DIR_ORIGINAL]
        if (o.proto == t.proto and addr_eq(&o.src, &t.src) and o.sport == t.sport
                and zone_equal(other, ct.zone, ct.zone_dir, DIR_ORIGINAL)):
            tuple_invert(out, &other.tuple[DIR_REPLY])
            out.dst = t.dst
            out.dport = t.dport
            if source_in_range(out, rng):
                return True
        other = other.src_next
    return False


cdef inline uint32_t rol32(uint32_t v, int n) noexcept nogil:
    return (v << n) | (v >> (32 - n))


cdef uint32_t jhash_addr(const Addr *addr, uint32_t initval) noexcept nogil:
    """jhash2 of the four words of an address (Bob Jenkins, lookup3; include/linux/jhash.h)."""
    cdef uint32_t a = <uint32_t>0xDEADBEEF + (4 << 2) + initval
    cdef uint32_t b = a
    cdef uint32_t c = a
    a += addr.w[0]
    b += addr.w[1]
    c += addr.w[2]
    a -= c
    a ^= rol32(c, 4)
    c += b
    b -= a
    b ^= rol32(a, 6)
    a += c
    c -= b
    c ^= rol32(b, 8)
    b += a
    a -= c
    a ^= rol32(c, 16)
    c += b
    b -= a
    b ^= rol32(a, 19)
    a += c
    c -= b
    c ^= rol32(b, 4)
    b += a
    a += addr.w[3]
    c ^= b
    c -= rol32(b, 14)
    a ^= c
    a -= rol32(c, 11)
    b ^= a
    b -= rol32(a, 25)
    c ^= b
    c -= rol32(b, 16)
    a ^= c
    a -= rol32(c, 4)
    b ^= a
    b -= rol32(a, 14)
    c ^= b
    c -= rol32(b, 24)
    return c


cdef void find_best_ips(const Ct *ct, Tuple *t, const NatRange *rng, int manip) noexcept nogil:
    """find_best_ips_proto: the address of the range, by a hash of the source and (unless persistent) the destination.

    The hash has no key: equal packets get equal addresses on every machine of the same byte order.
    """
    cdef Addr *var = &t.src if manip == MANIP_SRC else &t.dst
    cdef int words = 1 if t.l3num == AF4 else 4
    cdef uint32_t j, low, dist
    cdef bint full = False
    cdef int i
    if not rng.flags & NAT_MAP_IPS:
        return
    if addr_eq(&rng.min_addr, &rng.max_addr):
        var[0] = rng.min_addr
        return
    j = jhash_addr(&t.src, 0 if rng.flags & NAT_PERSISTENT else t.dst.w[words - 1] ^ ct.zone)
    for i in range(words):
        # while the words so far are those of the upper end the distance bounds this one, else it is free
        low = 0
        dist = 0xFFFFFFFF
        if not full:
            low = rd32(<const uint8_t *>&rng.min_addr.w[i])
            dist = rd32(<const uint8_t *>&rng.max_addr.w[i]) - low + 1
        wr32(<uint8_t *>&var.w[i], low + scale(j, dist))
        if var.w[i] != rng.max_addr.w[i]:
            full = True
        if not rng.flags & NAT_PERSISTENT:
            j ^= t.dst.w[i]


cdef void l4_unique_tuple(State *s, Tuple *t, const NatRange *rng, int manip, const Ct *ct) noexcept nogil:
    """nf_nat_l4proto_unique_tuple: look for a free port (ICMP: id; GRE: call id) from a start on, then from others.

    Where none is found the last one tried stays, and ``ct_confirm`` drops the packet.
    """
    cdef uint16_t *key
    cdef uint32_t low, high, size, attempts, i
    cdef uint16_t off
    cdef const char *place = b"nat.port"
    if t.proto == P_ICMP or t.proto == P_ICMP6:
        key = &t.sport         # the same in both directions
        place = b"nat.id"
        low = 0
        high = 65535
    elif t.proto == P_GRE:
        if ct.master == NULL:
            return             # not PPTP
        key = &t.sport if manip == MANIP_SRC else &t.dport
        place = b"nat.key"
        low = 1
        high = 65535
    elif t.proto == P_UDP or t.proto == P_UDPLITE or t.proto == P_TCP or t.proto == P_SCTP:
        key = &t.sport if manip == MANIP_SRC else &t.dport
        if not rng.flags & NAT_PROTO_SPECIFIED and manip == MANIP_DST:
            return             # a destination port is changed on request only
        if swap16(key[0]) < 512:
            low = 1
            high = 511
        elif swap16(key[0]) < 1024:
            low = 600
            high = 1023
        else:
            low = 1024
            high = 65535
    else:
        return
    if rng.flags & NAT_PROTO_SPECIFIED:
        low = swap16(rng.min_port)
        high = swap16(rng.max_port)
        if high < low and t.proto != P_ICMP and t.proto != P_ICMP6 and t.proto != P_GRE:
            low, high = high, low
    size = high - low + 1

    if rng.flags & NAT_PROTO_OFFSET:
        off = <uint16_t>(swap16(key[0]) - swap16(rng.base_port))
    elif rng.flags & NAT_RANDOM_ALL or manip != MANIP_DST:
        off = <uint16_t>draw_below(s, place, 65536)
    else:
        off = 0
    attempts = min(size, <uint32_t>NAT_MAX_ATTEMPTS)
    while True:
        for i in range(attempts):
            key[0] = swap16(<uint16_t>(low + off % size))
            if not nat_used_tuple_harder(s, t, ct, attempts - i):
                return
            off += 1
        if attempts >= size or attempts < 16:
            return
        attempts //= 2
        off = <uint16_t>draw_below(s, place, 65536)


cdef void get_unique_tuple(
    State *s, Tuple *t, const Tuple *orig, const NatRange *rng, Ct *ct, int manip
) noexcept nogil:
    """What the flow shall look like from here on: the old mapping of the source, else an address and a free port."""
    if manip == MANIP_SRC and not rng.flags & NAT_RANDOM_ALL:
        if source_in_range(orig, rng):
            if not nat_used_tuple_new(s, orig, ct):
                t[0] = orig[0]
                return
        elif find_appropriate_src(s, ct, orig, t, rng):
            if not nat_used_tuple(s, t, ct):
                return
    t[0] = orig[0]
    find_best_ips(ct, t, rng, manip)
    if not rng.flags & NAT_RANDOM_ALL:
        if rng.flags & NAT_PROTO_SPECIFIED:
            if (not rng.flags & NAT_PROTO_OFFSET and l4_in_range(t, manip, rng)
                    and (rng.min_port == rng.max_port or not nat_used_tuple(s, t, ct))):
                return
        elif not nat_used_tuple(s, t, ct):
            return
    l4_unique_tuple(s, t, rng, manip, ct)


cdef int nat_setup(State *s, Pkt *p, const NatRange *rng, int manip) noexcept nogil:
    """nf_nat_setup_info: decide one half of the flow's mapping."""
    cdef Ct *ct = p.ct
    cdef Tuple current, fresh
    if ct.status & S_CONFIRMED:
        return NF_ACCEPT
    if nat_initialized(ct, manip):
        s.drop_reason = DR_NAT
        return NF_DROP
    memset(&fresh, 0, sizeof(Tuple))
    # what the packet looks like now: the other half may have been decided before
    tuple_invert(&current, &ct.tuple[DIR_REPLY])
    get_unique_tuple(s, &fresh, &current, rng, ct, manip)
    if not tuple_eq(&fresh, &current):
        tuple_invert(&ct.tuple[DIR_REPLY], &fresh)
        ct.tuple[DIR_REPLY].dir = DIR_REPLY
        ct.status |= S_SRC_NAT if manip == MANIP_SRC else S_DST_NAT
    if manip == MANIP_SRC:
        bysource_add(s, ct)
        ct.status |= S_SRC_NAT_DONE
    else:
        ct.status |= S_DST_NAT_DONE
    return NF_ACCEPT


cdef int nat_null_binding(State *s, Pkt *p, int hook, int manip) noexcept nogil:
    """nf_nat_alloc_null_binding: keep the address, but take another source port if the flow would clash."""
    cdef NatRange rng
    memset(&rng, 0, sizeof(NatRange))
    rng.flags = NAT_MAP_IPS
    rng.min_addr = p.ct.tuple[DIR_REPLY].dst if manip == MANIP_SRC else p.ct.tuple[DIR_REPLY].src
    rng.max_addr = rng.min_addr
    return nat_setup(s, p, &rng, manip)


# ---------------------------------------------------------------------------------------------------- changing a packet

cdef inline void nat_csum(uint8_t *check, const uint8_t *old, const uint8_t *new, uint32_t n) noexcept nogil:
    """inet_proto_csum_replace4 and its kin: RFC 1624 equation 3 in 32 bits, which never yields 0xffff."""
    cdef uint64_t total = 0xFFFF + <uint64_t><uint16_t>~raw16(check)
    cdef uint32_t i
    cdef uint16_t v
    for i in range(0, n, 2):
        total += <uint16_t>~raw16(old + i)
        total += raw16(new + i)
    v = <uint16_t>~fold(total)
    memcpy(check, &v, 2)


cdef inline uint8_t *nat_addr_at(Pkt *p, uint32_t l3, int manip) noexcept nogil:
    """The address that a manipulation changes."""
    if p.family == AF4:
        return p.buf + l3 + (12 if manip == MANIP_SRC else 16)
    return p.buf + l3 + (8 if manip == MANIP_SRC else 24)


cdef bint nat_manip_l4(Pkt *p, uint32_t l3, uint32_t l4, const Tuple *target, int manip) noexcept nogil:
    """l4proto_manip_pkt. False: too short, the packet must be dropped."""
    cdef uint8_t *h = p.buf + l4
    cdef uint32_t left = p.end - l4 if p.end > l4 else 0
    cdef const Addr *new_addr = &target.src if manip == MANIP_SRC else &target.dst
    cdef uint8_t *old_addr = nat_addr_at(p, l3, manip)
    cdef int n = addr_len(p.family)
    cdef uint16_t new_port = target.sport if manip == MANIP_SRC else target.dport
    cdef uint8_t *port = h if manip == MANIP_SRC else h + 2
    cdef uint8_t *check
    cdef int proto = target.proto
    if proto == P_TCP or proto == P_UDP or proto == P_UDPLITE or proto == P_SCTP:
        if left < 8:
            return False
        if proto == P_SCTP:
            memcpy(port, &new_port, 2)
            if left >= 12:
                sctp_checksum(h, left, h + 8)
            return True
        # a quoted TCP header may end before its checksum; UDP without a checksum stays so
        check = h + 16 if proto == P_TCP else h + 6
        if (proto == P_TCP and left >= 20) or (proto == P_UDP and (check[0] or check[1])) or proto == P_UDPLITE:
            nat_csum(check, old_addr, new_addr.b, n)
            nat_csum(check, port, <const uint8_t *>&new_port, 2)
            if proto != P_TCP and not (check[0] or check[1]):
                check[0] = 0xFF
                check[1] = 0xFF
        memcpy(port, &new_port, 2)
        return True
    if proto == P_ICMP:
        if left < 8:
            return False
        if icmp_inverse(h[0]):     # the types with an id
            nat_csum(h + 2, h + 4, <const uint8_t *>&target.sport, 2)
            memcpy(h + 4, &target.sport, 2)
        return True
    if proto == P_ICMP6:
        if left < 8:
            return False
        nat_csum(h + 2, old_addr, new_addr.b, n)
        if h[0] == ICMP6_ECHO_REQUEST or h[0] == ICMP6_ECHO_REPLY:
            nat_csum(h + 2, h + 4, <const uint8_t *>&target.sport, 2)
            memcpy(h + 4, &target.sport, 2)
        return True
    if proto == P_GRE:
        if left < 8:
            return False
        if manip == MANIP_DST:     # the source's call id is not in the packet
            if h[1] & 7 == 1:
                memcpy(h + 6, &target.dport, 2)
            elif h[1] & 7:
                return False
        return True
    return True


cdef bint nat_manip(Pkt *p, uint32_t l3, const Tuple *target, int manip) noexcept nogil:
    """nf_nat_ipv4_manip_pkt and its IPv6 twin, on the IP header at ``l3`` (the packet's own or a quoted one)."""
    cdef uint8_t *at
    cdef const Addr *new_addr = &target.src if manip == MANIP_SRC else &target.dst
    cdef uint32_t l4
    cdef int proto = 0
    if p.family == AF4:
        if l3 + 20 > p.end:
            return False
        if not nat_manip_l4(p, l3, l3 + (p.buf[l3] & 15) * 4, target, manip):
            return False
        at = nat_addr_at(p, l3, manip)
        nat_csum(p.buf + l3 + 10, at, new_addr.b, 4)
        memcpy(at, new_addr.b, 4)
        return True
    if l3 + 40 > p.end:
        return False
    l4 = quoted_l4(p, l3, &proto)
    if l4 != 0 and not nat_manip_l4(p, l3, l4, target, manip):
        return False
    memcpy(nat_addr_at(p, l3, manip), new_addr.b, 16)
    return True


cdef void trace_nat(State *s, const Pkt *p, int hook, int manip, const uint8_t *old_addr, uint16_t old_port,
                    const Tuple *target) noexcept nogil:
    cdef uint8_t aux[36]
    cdef const Addr *new_addr = &target.src if manip == MANIP_SRC else &target.dst
    cdef uint16_t new_port = target.sport if manip == MANIP_SRC else target.dport
    memset(aux, 0, sizeof(aux))
    memcpy(aux, old_addr, addr_len(p.family))
    memcpy(aux + 16, &old_port, 2)
    memcpy(aux + 18, new_addr.b, 16)
    memcpy(aux + 34, &new_port, 2)
    trace_add(s, p, TR_NAT, manip, hook, 0 if p.ct.status & S_CONFIRMED else 1, trace_aux(s, aux, 36))


cdef inline int hook_manip(int hook) noexcept nogil:
    """HOOK2MANIP."""
    return MANIP_SRC if hook == HOOK_POSTROUTING or hook == HOOK_INPUT else MANIP_DST


cdef inline uint32_t nat_status_bit(int manip, int dir) noexcept nogil:
    """Which half of the mapping applies: replies get the source manipulation undone at their destination."""
    cdef uint32_t bit = S_SRC_NAT if manip == MANIP_SRC else S_DST_NAT
    return bit ^ <uint32_t>NAT_MASK if dir == DIR_REPLY else bit


cdef int nat_packet(State *s, Pkt *p, int hook) noexcept nogil:
    """nf_nat_packet, and before it nf_nat_oif_changed: a masqueraded flow ends when it leaves by another device."""
    cdef Ct *ct = p.ct
    cdef int manip = hook_manip(hook)
    cdef int dir = ctinfo_dir(p.ctinfo)
    cdef Tuple target
    cdef uint8_t old_addr[16]
    cdef uint16_t old_port = 0
    if (ct.masq_ifindex and hook == HOOK_POSTROUTING and dir == DIR_ORIGINAL
            and ct.masq_ifindex != p.out_if):
        ct_kill_acct(s, ct, p)
        s.drop_reason = DR_NAT
        return NF_DROP
    if not ct.status & nat_status_bit(manip, dir):
        return NF_ACCEPT
    # to look like the inverse of the other direction
    tuple_invert(&target, &ct.tuple[not dir])
    if s.tracing:
        memcpy(old_addr, nat_addr_at(p, p.l3, manip), addr_len(p.family))
        if l4_len(p) >= 8:
            if target.proto == P_ICMP or target.proto == P_ICMP6:
                old_port = raw16(p.buf + p.l4 + 4)
            else:
                old_port = raw16(p.buf + p.l4 + (0 if manip == MANIP_SRC else 2))
    if not nat_manip(p, p.l3, &target, manip):
        s.drop_reason = DR_NAT
        return NF_DROP
    if s.tracing:
        trace_nat(s, p, hook, manip, old_addr, old_port, &target)
    return NF_ACCEPT


cdef int nat_icmp_reply(State *s, Pkt *p, int hook) noexcept nogil:
    """nf_nat_icmp(v6)_reply_translation: an error about a translated flow, and the packet that it quotes.

    Returns:
        1, or 0: drop it.
    """
    cdef Ct *ct = p.ct
    cdef int manip = hook_manip(hook)
    cdef int dir = ctinfo_dir(p.ctinfo)
    cdef uint8_t *h
    cdef uint32_t n
    cdef uint16_t v
    cdef Tuple target
    cdef uint8_t old_addr[16]
    s.drop_reason = DR_NAT
    if p.l4 == 0 or p.l4 + (28 if p.family == AF4 else 48) > p.end:
        return 0
    h = p.buf + p.l4
    n = p.end - p.l4
    if not l4_checksum_ok(p, p.proto, p.family == AF6):
        return 0
    if h[0] == (ICMP4_REDIRECT if p.family == AF4 else ICMP6_REDIRECT):
        # a redirect must not be believed about addresses that are not what they seem
        if not ct.status & S_SRC_NAT_DONE or not ct.status & S_DST_NAT_DONE or ct.status & NAT_MASK:
            return 0
    if not ct.status & nat_status_bit(manip, dir):
        return 1
    if not nat_manip(p, p.l4 + 8, &ct.tuple[not dir], not manip):
        return 0
    h[2] = 0
    h[3] = 0
    v = <uint16_t>~fold(sum_bytes(h, n, pseudo_sum(p, n, P_ICMP6) if p.family == AF6 else 0))
    memcpy(h + 2, &v, 2)
    tuple_invert(&target, &ct.tuple[not dir])
    target.proto = P_ICMP if p.family == AF4 else P_ICMP6
    if s.tracing:
        memcpy(old_addr, nat_addr_at(p, p.l3, manip), addr_len(p.family))
    if not nat_manip(p, p.l3, &target, manip):
        return 0
    if s.tracing:
        target.sport = 0
        target.dport = 0
        trace_nat(s, p, hook, manip, old_addr, 0, &target)
    return 1
