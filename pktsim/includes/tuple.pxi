# Tuples: what names a connection, and the packet's part in it (nf_conntrack_tuple.h, nf_conntrack_core.c, Linux 6.18).

cdef enum:
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


# --------------------------------------------------------------------------------------------------------------- tuples

cdef inline uint64_t tuple_word(const Tuple *t) noexcept nogil:
    """Everything but the addresses and the direction, which is no part of the key."""
    return t.sport | <uint64_t>t.dport << 16 | <uint64_t>t.l3num << 32 | <uint64_t>t.proto << 40


cdef inline bint tuple_eq(const Tuple *a, const Tuple *b) noexcept nogil:
    return addr_eq(&a.src, &b.src) and addr_eq(&a.dst, &b.dst) and tuple_word(a) == tuple_word(b)


cdef inline uint32_t tuple_hash(const Tuple *t, uint32_t zone) noexcept nogil:
    """Which bucket; the kernel's is keyed afresh at every boot, so any good one will do."""
    cdef uint64_t h = hash_mix(<uint64_t>0x8BB84B93962EACC9, zone)
    h = hash_mix(h, t.src.q[0])
    h = hash_mix(h, t.dst.q[0])
    if t.l3num == AF6:
        h = hash_mix(h, t.src.q[1])
        h = hash_mix(h, t.dst.q[1])
    h = hash_mix(h, tuple_word(t))
    return hash_end(h)


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
    while ip6_is_extension(nexthdr):
        left = p.end - l4 if p.end > l4 else 0
        if left < (4 if nexthdr == 44 else 2):
            return 0
        if nexthdr == 44 and rd16(p.buf + l4 + 2) & 0xFFF8:
            return 0
        hdrlen = ip6_extension_size(nexthdr, p.buf[l4 + 1])
        nexthdr = p.buf[l4]
        l4 += hdrlen
    if nexthdr == 59:
        return 0
    proto[0] = nexthdr
    return l4                  # which may be behind the end, by what the headers say (ipv6_skip_exthdr)
