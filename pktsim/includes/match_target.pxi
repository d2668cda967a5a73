# The matches and targets that the loop in program.pxi does not do itself.

cdef inline bint in_range16(uint16_t v, const uint8_t *pool) noexcept nogil:
    """``pool`` holds uint16 low, high in host order."""
    cdef uint16_t lo, hi
    memcpy(&lo, pool, 2)
    memcpy(&hi, pool + 2, 2)
    return lo <= v <= hi


cdef inline bint masked_eq(const uint8_t *have, const uint8_t *pool, int n) noexcept nogil:
    """``pool`` holds 16 bytes of value (already masked) and 16 of mask."""
    cdef uint64_t a, v, m
    cdef uint32_t a4, v4, m4
    if n == 4:
        memcpy(&a4, have, 4)
        memcpy(&v4, pool, 4)
        memcpy(&m4, pool + 16, 4)
        return (a4 & m4) == v4
    memcpy(&a, have, 8)
    memcpy(&v, pool, 8)
    memcpy(&m, pool + 16, 8)
    if (a & m) != v:
        return False
    memcpy(&a, have + 8, 8)
    memcpy(&v, pool + 8, 8)
    memcpy(&m, pool + 24, 8)
    return (a & m) == v


cdef bint ct_in_expiry(State *s, const Ct *ct, int low_s, int high_s) noexcept nogil:
    """--ctexpire: whole seconds left, as nf_ct_expires counts them.

    Before an entry is confirmed its time-out is relative, and the kernel takes the clock from it all the same: none left.
    """
    cdef int64_t left = 0
    if ct.status & S_CONFIRMED:
        left = (ct.timeout_ns // NS_PER_JIFFY - s.now_ns // NS_PER_JIFFY) * NS_PER_JIFFY // 1000000000
    return low_s <= left <= high_s


cdef const char *NO_NAME = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


cdef inline const char *link_name(State *s, int ifindex) noexcept nogil:
    if 0 < ifindex < s.n_links and s.links[ifindex].ifindex:
        return s.links[ifindex].name
    return NO_NAME


cdef int tcp_option_found(Pkt *p, uint8_t wanted) noexcept nogil:
    """1 found, 0 not, -1 cut short (a hot drop), as tcp_find_option in net/netfilter/xt_tcpudp.c."""
    cdef uint8_t *tcp = p.buf + p.l4
    cdef uint32_t n = (tcp[12] >> 4) * 4
    cdef uint32_t i
    if n <= 20:
        return 0
    if l4_len(p) < n:
        return -1
    i = 20
    while i < n:
        if tcp[i] == wanted:
            return 1
        if tcp[i] < 2:
            i += 1
        elif i + 1 < n and tcp[i + 1]:
            i += tcp[i + 1]
        else:
            i += 1
    return 0


cdef int test_tcp(Pkt *p, const uint8_t *pool) noexcept nogil:
    """tcp_mt: 1, 0, or -1 for a hot drop."""
    cdef uint8_t option = pool[8]
    cdef uint8_t mask = pool[9]
    cdef uint8_t cmp = pool[10]
    cdef uint8_t inv = pool[11]
    cdef uint8_t *tcp
    cdef int found
    if p.fragment & FRAG_LATER:
        # xt_tcpudp.c: a first fragment can be overwritten through offset 1, so such a packet is dropped outright
        if p.family == AF4 and (rd16(p.buf + p.l3 + 6) & 0x1FFF) == 1:
            return -1
        return 0
    if p.proto != 6:
        return 0
    if l4_len(p) < 20:
        return -1
    tcp = p.buf + p.l4
    if in_range16(rd16(tcp), pool) == ((inv & 1) != 0):
        return 0
    if in_range16(rd16(tcp + 2), pool + 4) == ((inv & 2) != 0):
        return 0
    if ((tcp[13] & mask) == cmp) == ((inv & 4) != 0):
        return 0
    if option:
        if (tcp[12] >> 4) * 4 < 20:
            return -1
        found = tcp_option_found(p, option)
        if found < 0:
            return -1
        if found == ((inv & 8) != 0):
            return 0
    return 1


cdef int test_ports_inv(Pkt *p, const uint8_t *pool, uint32_t header) noexcept nogil:
    """udp_mt and sctp_mt's port part: ranges of source and destination, each perhaps inverted."""
    cdef uint8_t inv = pool[8]
    cdef uint8_t *udp
    if p.fragment & FRAG_LATER:
        return 0
    if l4_len(p) < header:
        return -1
    udp = p.buf + p.l4
    if in_range16(rd16(udp), pool) == ((inv & 1) != 0):
        return 0
    if in_range16(rd16(udp + 2), pool + 4) == ((inv & 2) != 0):
        return 0
    return 1


cdef int test_ports(Pkt *p, const uint8_t *pool, int pairs, int which) noexcept nogil:
    """multiport_mt: any of ``pairs`` ranges holds the source (1), destination (2) or either (3) port."""
    cdef int i
    cdef uint16_t sport, dport
    if p.fragment & FRAG_LATER:
        return 0
    if l4_len(p) < 4:
        return -1
    sport = rd16(p.buf + p.l4)
    dport = rd16(p.buf + p.l4 + 2)
    for i in range(pairs):
        if which & 1 and in_range16(sport, pool + 4 * i):
            return 1
        if which & 2 and in_range16(dport, pool + 4 * i):
            return 1
    return 0


cdef int test_icmp(Pkt *p, const Row *r) noexcept nogil:
    cdef uint8_t *icmp
    if p.fragment & FRAG_LATER:
        return 0
    if l4_len(p) < 8:
        return -1
    icmp = p.buf + p.l4
    return (r.a == 255 and p.family == AF4) or (icmp[0] == r.a and r.b <= icmp[1] <= r.c)


cdef inline void template_set(Pkt *p, uint32_t zone, int zone_dir, int by_mark) noexcept nogil:
    p.tmpl_set = 1
    p.tmpl_mark = <uint8_t>by_mark
    p.tmpl_zone = <uint16_t>zone
    p.tmpl_zone_dir = <uint8_t>zone_dir
    p.tmpl_ctinfo = CTINFO_NEW


cdef inline Ct *seen_ct(State *s, Pkt *p) noexcept nogil:
    """nf_ct_get: a template, which -j CT gives to a packet, is one as well."""
    if p.ct == NULL and p.tmpl_set:
        s.template_ct.mark = 0
        return &s.template_ct
    return p.ct


cdef inline int seen_ctinfo(const Pkt *p) noexcept nogil:
    return p.tmpl_ctinfo if p.ct == NULL and p.tmpl_set else p.ctinfo


cdef void ct_attach(Pkt *p, const Pkt *cause) noexcept nogil:
    """nf_ct_attach: an answer belongs to the connection of what it answers, in the other direction.

    Where that is none, being untracked, the answer is tracked, and NOTRACK finds that it has been seen. Before conntrack
    has looked there may be a template, whose zone then is the answer's.
    """
    cdef int seen = seen_ctinfo(cause)
    if seen == CTINFO_NONE:
        return
    seen = CTINFO_RELATED if seen >= CTINFO_ESTABLISHED_REPLY else CTINFO_RELATED_REPLY
    if cause.ct == NULL and cause.tmpl_set:
        template_set(p, cause.tmpl_zone, cause.tmpl_zone_dir, cause.tmpl_mark)
        p.tmpl_ctinfo = <uint8_t>seen
        return
    p.ct = cause.ct
    if p.ct != NULL:
        p.ct.refs += 1
    p.ctinfo = <uint8_t>seen


cdef inline uint32_t ct_state_bits(const Pkt *p) noexcept nogil:
    """The bits that --ctstate compares with (net/netfilter/xt_conntrack.c)."""
    cdef uint32_t bits
    if p.ct == NULL and p.tmpl_set:
        return <uint32_t>1 << (seen_ctinfo(p) % 3 + 1)
    if p.ct != NULL:
        bits = 1 << (p.ctinfo % 3 + 1)
        if p.ct.status & S_SRC_NAT:
            bits |= 1 << 6
        if p.ct.status & S_DST_NAT:
            bits |= 1 << 7
        return bits
    if p.ctinfo == CTINFO_UNTRACKED:
        return 1 << 8
    return 1


cdef bint test_addrtype(State *s, Pkt *p, const Row *r, int hook) noexcept nogil:
    """addrtype_mt_v1. ``c``: 1 invert source, 2 invert destination, 4 limit to the in device, 8 to the out device."""
    cdef int dev = 0
    cdef bint ok = True
    cdef uint8_t *ip = p.buf + p.l3
    cdef Addr a
    if r.c & 4:
        dev = p.in_if
    elif r.c & 8:
        dev = p.out_if
    if p.family == AF6:
        pkt_saddr(p, &a)
        if r.a and addr_types6(s, &a, dev, r.a) == ((r.c & 1) != 0):
            return False
        pkt_daddr(p, &a)
        return not r.b or addr_types6(s, &a, dev, r.b) != ((r.c & 2) != 0)
    if r.a:
        addr_load(&a, ip + (12 if p.family == AF4 else 8), p.family)
        ok = ok and (((r.a & (1 << addr_type(s, p.family, &a, dev))) != 0) != ((r.c & 1) != 0))
    if ok and r.b:
        addr_load(&a, ip + (16 if p.family == AF4 else 24), p.family)
        ok = ok and (((r.b & (1 << addr_type(s, p.family, &a, dev))) != 0) != ((r.c & 2) != 0))
    return ok


cdef bint test_physdev(Pkt *p, const Row *r, State *s, const uint8_t *pool) noexcept nogil:
    """``a``: 1 is-in, 2 is-out, 4 is-bridged wanted; ``b``: which of them are inverted; names are IIF/OIF-like rows of
    their own (``c`` 1: compare the in port's name, 2: the out port's, at pool offset ``d``)."""
    cdef bint have
    if r.c == 1:
        return masked_eq(<const uint8_t *>link_name(s, p.phys_in), pool + r.d, 16)
    if r.c == 2:
        return masked_eq(<const uint8_t *>link_name(s, p.phys_out), pool + r.d, 16)
    if r.a & 1:
        have = p.phys_in != 0
        if have == ((r.b & 1) != 0):
            return False
    if r.a & 2:
        have = p.phys_out != 0
        if have == ((r.b & 2) != 0):
            return False
    if r.a & 4:
        have = p.phys_in != 0 and p.phys_out != 0
        if have == ((r.b & 4) != 0):
            return False
    return True


cdef bint test_ct_tuple(State *s, Pkt *p, const Row *r, const uint8_t *pool) noexcept nogil:
    """``b``: 0 orig src, 1 orig dst, 2 reply src, 3 reply dst."""
    cdef const Tuple *t
    cdef Ct *ct = seen_ct(s, p)
    if ct == NULL:
        return False
    t = &ct.tuple[r.b >> 1]
    if r.b & 1:
        return masked_eq(t.dst.b, pool + r.a, addr_len(p.family))
    return masked_eq(t.src.b, pool + r.a, addr_len(p.family))


cdef bint test_ct_port(State *s, Pkt *p, const Row *r) noexcept nogil:
    cdef const Tuple *t
    cdef Ct *ct = seen_ct(s, p)
    if ct == NULL:
        return False
    t = &ct.tuple[r.b >> 1]
    return r.c <= swap16(t.dport if r.b & 1 else t.sport) <= r.d


cdef int call_python(State *s, Pkt *p, TableInst *t, int index, int hook) noexcept with gil:
    """An uncommon match or target: 1 / 0, or -1 when it raised (the error is kept and raised by the caller's call)."""
    cdef Program program = <Program>t.program
    cdef Datapath dp = <Datapath>s.owner
    cdef Packet view
    try:
        view = Packet.__new__(Packet)
        view.p = p
        view.datapath = dp
        view.borrowed = True
        try:
            return 1 if program._callables[index](dp, view, hook) else 0
        finally:
            view.p = NULL
    except BaseException as error:
        # HotDrop is a match's way to say that the packet is too broken to look at
        if type(error).__name__ != "HotDrop":
            dp._keep_error(error)
        return -1


cdef int draw_chance(State *s, TableInst *t, int place, int probability) noexcept with gil:
    cdef Program program = <Program>t.program
    cdef Datapath dp = <Datapath>s.owner
    return dp._draw(program._places[place], 1, probability)


# ------------------------------------------------------------------------------------------------------------- targets

cdef int do_masquerade(State *s, Pkt *p, NatRange *rng) noexcept nogil:
    """nf_nat_masquerade_ipv4/ipv6: the source becomes the node's own address towards the next hop (IPv6: towards the
    destination)."""
    cdef Ct *ct = p.ct
    cdef Addr newsrc, nexthop
    cdef bint found
    cdef int verdict
    if ct == NULL:
        return NF_ACCEPT
    # A zero source is a local packet that has no address yet.
    if p.family == AF4 and addr_zero(&ct.tuple[DIR_ORIGINAL].src):
        return NF_ACCEPT
    addr_load(&nexthop, p.buf + p.l3 + (16 if p.family == AF4 else 24), p.family)
    if p.family == AF6:
        found = select_addr6(s, p.out_if, &nexthop, &newsrc)
    else:
        if p.rt_gateway:
            nexthop = p.rt_nh
        found = select_addr(s, p.family, p.out_if, &nexthop, &newsrc)
    if not found:
        s.drop_reason = DR_NAT
        return NF_DROP
    ct.masq_ifindex = p.out_if
    rng.flags |= NAT_MAP_IPS
    rng.min_addr = newsrc
    rng.max_addr = newsrc
    verdict = nat_setup(s, p, rng, MANIP_SRC)
    return verdict


cdef int do_redirect(State *s, Pkt *p, NatRange *rng, int hook) noexcept nogil:
    """nf_nat_redirect: local packets go to the loopback address, others to the in device's first address."""
    cdef Addr newdst, dst
    pkt_daddr(p, &dst)
    newdst.q[0] = 0
    newdst.q[1] = 0
    if hook == HOOK_OUTPUT:
        if p.family == AF4:
            newdst.b[0] = 127
            newdst.b[3] = 1
        else:
            newdst.b[15] = 1
    elif not redirect_addr(s, p.family, p.in_if, &dst, &newdst):
        s.drop_reason = DR_NAT
        return NF_DROP
    rng.flags |= NAT_MAP_IPS
    rng.min_addr = newdst
    rng.max_addr = newdst
    return nat_setup(s, p, rng, MANIP_DST)


cdef int do_netmap(State *s, Pkt *p, NatRange *rng, int hook) noexcept nogil:
    """netmap_tg: the host part stays, the network part becomes the range's."""
    cdef int manip = MANIP_DST if hook == HOOK_PREROUTING or hook == HOOK_OUTPUT else MANIP_SRC
    cdef int off, i
    cdef Addr old, new
    cdef uint8_t mask
    if p.family == AF4:
        off = 16 if manip == MANIP_DST else 12
    else:
        off = 24 if manip == MANIP_DST else 8
    addr_load(&old, p.buf + p.l3 + off, p.family)
    new.q[0] = 0
    new.q[1] = 0
    for i in range(addr_len(p.family)):
        mask = ~(rng.min_addr.b[i] ^ rng.max_addr.b[i])
        new.b[i] = (old.b[i] & ~mask) | (rng.min_addr.b[i] & mask)
    rng.flags |= NAT_MAP_IPS
    rng.min_addr = new
    rng.max_addr = new
    return nat_setup(s, p, rng, manip)


cdef inline uint32_t shifted(uint32_t value, int by) noexcept nogil:
    if by <= -32 or by >= 32:
        return 0
    return value << by if by >= 0 else value >> -by


cdef void do_connmark(State *s, Pkt *p, const Row *r) noexcept nogil:
    """xt_connmark.c: set, save (packet to connection), restore (connection to packet), shifted on the way.

    ``invert``, which targets have no use for, is the shift: bits to the left, or less than 0: to the right.
    """
    cdef uint32_t new
    if p.ct == NULL:
        return
    if r.a == 0:
        p.ct.mark = shifted((p.ct.mark & ~<uint32_t>r.b) ^ <uint32_t>r.c, r.invert)
    elif r.a == 1:
        new = shifted(p.mark & <uint32_t>r.d, r.invert)
        p.ct.mark = (p.ct.mark & ~<uint32_t>r.b) ^ new
    else:
        new = shifted(p.ct.mark & <uint32_t>r.b, r.invert)
        p.mark = (p.mark & ~<uint32_t>r.d) ^ new
        trace_add(s, p, TR_MARK, <int>p.mark, 0, 0, 0)
