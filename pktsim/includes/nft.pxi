# nft's expressions: rows that move values between a header, a connection, a set and the registers. They are run by
# ``run_program`` among all others. Values lie in the registers in network order, whatever order the kernel keeps them in,
# each filled up with zeros to four bytes (net/netfilter/nf_tables_core.c, nft_*.c, Linux 6.18).

cdef inline void reg_pad(uint8_t *reg, uint32_t n) noexcept nogil:
    while n & 3:
        reg[n] = 0
        n += 1


cdef inline bint nft_has_l4(const Pkt *p) noexcept nogil:
    """NFT_PKTINFO_L4PROTO and no fragment offset: whether there is a transport header to look at."""
    return p.l4 != 0 and not p.fragment & FRAG_LATER


cdef int64_t nft_auth(const Pkt *p) noexcept nogil:
    """Where an IPv6 packet's authentication header begins, or -1: to nft that is its transport header (IP6_FH_F_AUTH in
    nft_set_pktinfo_ipv6)."""
    if p.family != AF6 or p.fragment & FRAG_LATER:
        return -1
    if p.buf[p.l3 + 6] != 0 and p.buf[p.l3 + 6] != 43 and p.buf[p.l3 + 6] != 44 and (
            p.buf[p.l3 + 6] != 51 and p.buf[p.l3 + 6] != 60):
        return -1
    return nft_exthdr(p, 51)


cdef inline int64_t nft_base(const Pkt *p, int base) noexcept nogil:
    """Where a header begins, or -1."""
    cdef int64_t start
    if base == 0:
        return p.l2 if p.l2 < p.l3 else -1
    if base == 1:
        return p.l3
    start = nft_auth(p)
    if start >= 0:
        return start
    return p.l4 if nft_has_l4(p) else -1


cdef int nft_payload(Pkt *p, const Row *r, uint8_t *regs) noexcept nogil:
    """nft_payload_eval: what is cut short is not looked at."""
    cdef int64_t start = nft_base(p, r.a)
    if start < 0 or start + r.b + r.c > p.end:
        return NFT_BREAK
    memcpy(regs + r.d, p.buf + start + r.b, r.c)
    reg_pad(regs + r.d, r.c)
    return NFT_NEXT


cdef int nft_bits(Pkt *p, const Row *r, uint8_t *regs, int64_t start, int offset, int bits) noexcept nogil:
    """A field that is not whole bytes: at most 32 bits, moved to the right."""
    cdef int first = offset // 8
    cdef int last = (offset + bits - 1) // 8
    cdef int size = (bits + 7) // 8
    cdef int i
    cdef uint64_t value = 0
    if start < 0 or start + last + 1 > p.end:
        return NFT_BREAK
    for i in range(first, last + 1):
        value = value << 8 | p.buf[start + i]
    value >>= 8 * (last + 1) - (offset + bits)
    value &= (<uint64_t>1 << bits) - 1
    for i in range(size):
        regs[r.d + i] = <uint8_t>(value >> 8 * (size - 1 - i))
    reg_pad(regs + r.d, size)
    return NFT_NEXT


cdef inline void reg_u32(uint8_t *reg, uint32_t v) noexcept nogil:
    wr32(reg, v)


cdef inline void reg_u8(uint8_t *reg, uint32_t v) noexcept nogil:
    memset(reg, 0, 4)
    reg[0] = <uint8_t>v


cdef inline void reg_u16(uint8_t *reg, uint32_t v) noexcept nogil:
    memset(reg, 0, 4)
    wr16(reg, v)


cdef inline void reg_u64(uint8_t *reg, uint64_t v) noexcept nogil:
    wr32(reg, <uint32_t>(v >> 32))
    wr32(reg + 4, <uint32_t>v)


cdef int nft_meta(State *s, Pkt *p, const Row *r, uint8_t *reg, int hook) noexcept nogil:
    """nft_meta_get_eval."""
    cdef int key = r.a
    cdef Link *l
    if key == META_LEN:
        reg_u32(reg, p.end - p.l3)
    elif key == META_PROTOCOL:
        reg_u16(reg, 0x86DD if p.family == AF6 else 0x0800)
    elif key == META_NFPROTO:
        reg_u8(reg, p.family)
    elif key == META_L4PROTO:
        if nft_auth(p) >= 0:
            reg_u8(reg, 51)
            return NFT_NEXT
        if p.family == AF6 and p.l4 == 0 and not p.fragment & FRAG_LATER and p.proto != 59:
            return NFT_BREAK
        reg_u8(reg, p.proto)
    elif key == META_PRIORITY:
        reg_u32(reg, p.priority)
    elif key == META_MARK:
        reg_u32(reg, p.mark)
    elif key == META_IIF:
        reg_u32(reg, p.in_if)
    elif key == META_OIF:
        reg_u32(reg, p.out_if)
    elif key == META_IIFNAME:
        memcpy(reg, link_name(s, p.in_if), 16)
    elif key == META_OIFNAME:
        memcpy(reg, link_name(s, p.out_if), 16)
    elif key == META_IIFTYPE or key == META_OIFTYPE:
        l = link_get(s, p.in_if if key == META_IIFTYPE else p.out_if)
        if l == NULL:
            return NFT_BREAK
        reg_u16(reg, 772 if l.kind == LINK_LOOPBACK else 1)
    elif key == META_SKUID or key == META_SKGID:
        if not p.flags & PF_LOCAL or p.flags & PF_LOOPED or p.uid >= <uint32_t>0xFFFFFFFE:
            return NFT_BREAK           # of no socket, or one without a file: the kernel's own
        reg_u32(reg, p.uid if key == META_SKUID else p.gid)
    elif key == META_PKTTYPE:
        reg_u8(reg, p.pkt_type)
    else:
        return NFT_BREAK
    return NFT_NEXT


cdef int nft_ct(State *s, Pkt *p, const Row *r, uint8_t *reg) noexcept nogil:
    """nft_ct_get_eval; ``b``: direction, -1 for none."""
    cdef int key = r.a
    cdef int dir = r.b
    cdef Ct *ct = p.ct
    cdef uint32_t bits
    cdef uint64_t count, packets
    cdef int64_t left
    cdef const Tuple *t
    cdef int i
    if key == CT_STATE:
        if ct != NULL:
            bits = <uint32_t>1 << (p.ctinfo % 3 + 1)
        elif p.ctinfo == CTINFO_UNTRACKED:
            bits = 64
        elif p.tmpl_set:
            bits = <uint32_t>1 << (seen_ctinfo(p) % 3 + 1)
        else:
            bits = 1
        reg_u32(reg, bits)
        return NFT_NEXT
    if ct == NULL:
        return NFT_BREAK
    t = &ct.tuple[dir if dir >= 0 else 0]
    if key == CT_DIRECTION:
        reg_u8(reg, ctinfo_dir(p.ctinfo))
    elif key == CT_STATUS:
        reg_u32(reg, ct.status)
    elif key == CT_MARK:
        reg_u32(reg, ct.mark)
    elif key == CT_EXPIRATION:
        left = 0
        if ct.status & S_CONFIRMED:
            left = (ct.timeout_ns // NS_PER_JIFFY - s.now_ns // NS_PER_JIFFY) * NS_PER_JIFFY // 1000000
        reg_u32(reg, 0)
        reg_u32(reg + 4, <uint32_t>(left if left > 0 else 0))
    elif key == CT_L3PROTOCOL:
        reg_u8(reg, ct.tuple[0].l3num)
    elif key == CT_PROTOCOL:
        reg_u8(reg, ct.tuple[0].proto)
    elif key == CT_LABELS:
        for i in range(4):
            wr32(reg + 4 * i, ct.labels[3 - i])
    elif key == CT_ZONE:
        reg_u16(reg, ct.zone if dir < 0 else zone_id(ct.zone, ct.zone_dir, dir))
    elif key == CT_PKTS or key == CT_BYTES or key == CT_AVGPKT:
        count = 0
        packets = 0
        for i in range(2):
            if dir < 0 or dir == i:
                packets += ct.acct_packets[i]
                count += ct.acct_bytes[i]
        if key == CT_PKTS:
            count = packets
        elif key == CT_AVGPKT:
            count = count // packets if packets else 0
        reg_u64(reg, count)
    elif key == CT_SRC_IP or key == CT_DST_IP:
        if ct.tuple[0].l3num != AF4:
            return NFT_BREAK
        memcpy(reg, &t.src.b[0] if key == CT_SRC_IP else &t.dst.b[0], 4)
    elif key == CT_SRC_IP6 or key == CT_DST_IP6:
        if ct.tuple[0].l3num != AF6:
            return NFT_BREAK
        memcpy(reg, &t.src.b[0] if key == CT_SRC_IP6 else &t.dst.b[0], 16)
    elif key == CT_PROTO_SRC or key == CT_PROTO_DST:
        memset(reg, 0, 4)
        memcpy(reg, &t.sport if key == CT_PROTO_SRC else &t.dport, 2)
    else:
        return NFT_BREAK           # a helper: there are none
    return NFT_NEXT


cdef int nft_fib(State *s, Pkt *p, const Row *r, uint8_t *reg, int hook) noexcept nogil:
    """nft_fib4_eval and nft_fib4_eval_type and their IPv6 twins. ``a``: FIB_FLAGS, ``b``: result, ``c``: present only."""
    cdef Addr subject, other
    cdef RouteResult result
    cdef Link *l
    cdef int dev = 0, found = 0, iif = s.lo_ifindex, kind
    cdef bint skip = False
    if r.a & 8:
        dev = p.in_if
    elif r.a & 16:
        dev = p.out_if
    if r.a & 2:
        pkt_daddr(p, &subject)
        pkt_saddr(p, &other)
    else:
        pkt_saddr(p, &subject)
        pkt_daddr(p, &other)
    if r.b == 3:
        reg_u32(reg, nft_fib_type(s, p, &subject, dev))
        return NFT_NEXT
    if hook == HOOK_PREROUTING or hook == HOOK_INPUT:
        skip = p.in_if == s.lo_ifindex or p.flags & PF_LOOPED
    if p.family == AF4 and not skip:
        # a host that has no address yet asks everybody
        pkt_saddr(p, &result.nexthop)
        if result.nexthop.w[0] == 0:
            pkt_daddr(p, &result.nexthop)
            skip = result.nexthop.w[0] == <uint32_t>0xFFFFFFFF or (
                result.nexthop.b[0] == 224 and result.nexthop.b[1] == 0 and result.nexthop.b[2] == 0)
    if skip:
        found = p.in_if
    elif p.family == AF6 and subject.b[0] == 0xFF:
        found = dev if dev else p.in_if if p.in_if else p.out_if    # every device has a route to the groups
    else:
        if r.a & 1 and hook == HOOK_FORWARD and r.a & 8:
            iif = p.out_if
        if p.family == AF4 and ((other.b[0] & 0xF0) == 0xE0 or other.w[0] == <uint32_t>0xFFFFFFFF or other.b[0] == 0):
            other.w[0] = 0         # get_saddr
        kind = fib_lookup(s, p.family, &subject, &other, p.mark if r.a & 4 else 0, iif, 0, &result)
        if kind != 0 and kind != RTN_LOCAL and kind != RTN_ANYCAST and kind < RTN_BLACKHOLE:
            found = result.oif
            if dev and found != dev:
                found = 0
            elif dev:
                found = dev
    memset(reg, 0, 16)
    if r.c:
        reg_u8(reg, 1 if found else 0)
    elif r.b == 1:
        reg_u32(reg, found)
    elif found:
        memcpy(reg, link_name(s, found), 16)
    return NFT_NEXT


cdef int nft_fib_type(State *s, Pkt *p, const Addr *subject, int dev) noexcept nogil:
    cdef RouteResult result
    cdef Addr none
    cdef int kind, i
    if p.family == AF4:
        return addr_type(s, AF4, subject, dev)
    # __nft_fib6_eval_type
    if subject.b[0] == 0xFF:
        return RTN_MULTICAST
    if dev:
        for i in range(s.n_addrs):
            if s.addrs[i].family == AF6 and s.addrs[i].ifindex == dev and addr_eq(&s.addrs[i].addr, subject):
                return RTN_LOCAL
    none.q[0] = 0
    none.q[1] = 0
    kind = fib_lookup(s, AF6, subject, &none, 0, s.lo_ifindex, dev, &result)
    if kind == 0:
        return RTN_UNREACHABLE
    if kind >= RTN_BLACKHOLE:
        return RTN_UNREACHABLE if kind == RTN_THROW else kind
    if kind == RTN_LOCAL:
        return RTN_UNICAST if dev else RTN_LOCAL
    return RTN_ANYCAST if anycast_destination(&result, subject) else kind


# ------------------------------------------------------------------------------------------- options, extension headers

cdef uint32_t nft_tcp_length(const Pkt *p) noexcept nogil:
    """nft_tcp_header_pointer: the length of a whole TCP header, 0 if there is none."""
    cdef uint32_t n
    if p.proto != 6 or not nft_has_l4(p) or l4_len(p) < 20 or nft_auth(p) >= 0:
        return 0
    n = (p.buf[p.l4 + 12] >> 4) * 4
    return n if 20 <= n <= l4_len(p) else 0


cdef int32_t nft_tcp_option(const Pkt *p, int kind, uint32_t need) noexcept nogil:
    """Where an option lies from the TCP header on; 0: it is not there, -1: it is cut short."""
    cdef uint32_t n = nft_tcp_length(p)
    cdef uint32_t i = 20, size
    cdef uint8_t *tcp = p.buf + p.l4
    if n == 0:
        return -1
    while i + 1 < n:
        size = 1 if tcp[i] <= 1 or tcp[i + 1] == 0 else tcp[i + 1]
        if tcp[i] == kind:
            return -1 if i + size > n or need > size else <int32_t>i
        i += size
    return 0


cdef int64_t nft_exthdr(const Pkt *p, int wanted) noexcept nogil:
    """ipv6_find_hdr: where an extension header begins, or -1."""
    cdef int64_t off = p.l3 + 40
    cdef uint32_t size
    cdef uint8_t nexthdr
    if p.family != AF6:
        return -1
    nexthdr = p.buf[p.l3 + 6]
    while nexthdr != wanted:
        if not ip6_is_extension(nexthdr) or off + 8 > p.end:
            return -1
        if nexthdr == 44 and rd16(p.buf + off + 2) & 0xFFF8:
            return -1
        size = ip6_extension_size(nexthdr, p.buf[off + 1])
        nexthdr = p.buf[off]
        off += size
    return off


cdef int nft_options(Pkt *p, const Row *r, uint8_t *regs) noexcept nogil:
    """``a``: kind << 1 | whether it is TCP's; ``b``: bit offset, ``c``: bits, 0 for whether it is there."""
    cdef int64_t at
    cdef bint of_tcp = r.a & 1
    cdef int kind = r.a >> 1
    if of_tcp:
        at = nft_tcp_option(p, kind, (r.b + r.c + 7) // 8 if r.c else 1)
        if r.c == 0:
            reg_u8(regs + r.d, 1 if at > 0 else 0)
            return NFT_NEXT
        if at <= 0:
            return NFT_BREAK
        at += p.l4
    else:
        at = nft_exthdr(p, kind)
        if r.c == 0:
            reg_u8(regs + r.d, 1 if at >= 0 else 0)
            return NFT_NEXT
        if at < 0:
            return NFT_BREAK
    return nft_bits(p, r, regs, at, r.b, r.c)


cdef int nft_set_mss(Pkt *p, const Row *r, const uint8_t *regs) noexcept nogil:
    """nft_exthdr_tcp_set_eval for the maximum segment size, which is only ever made smaller."""
    cdef int32_t at = nft_tcp_option(p, 2, 4)
    cdef uint8_t *tcp
    if at < 0:
        return NFT_BREAK
    if at == 0:
        return NFT_NEXT
    tcp = p.buf + p.l4
    if rd16(tcp + at + 2) <= rd16(regs + r.a):
        return NFT_NEXT
    # inet_proto_csum_replace2 does not mind that the option may lie at an odd offset
    nat_csum(tcp + 16, tcp + at + 2, regs + r.a, 2)
    memcpy(tcp + at + 2, regs + r.a, 2)
    return NFT_NEXT


# ----------------------------------------------------------------------------------------------------- changing a packet

cdef inline void nft_csum_replace(uint8_t *check, const uint8_t *old, const uint8_t *new, uint32_t n) noexcept nogil:
    """nft_csum_replace: a result of 0 is written as 0xffff. What begins at an odd offset is summed as if it did not."""
    cdef uint64_t total = <uint16_t>~raw16(check)
    cdef uint64_t was = sum_bytes(old, n, 0)
    cdef uint64_t now = sum_bytes(new, n, 0)
    cdef uint16_t v
    total += <uint16_t>~fold(was)
    total += fold(now)
    v = <uint16_t>~fold(total)
    if v == 0:
        v = 0xFFFF
    memcpy(check, &v, 2)


cdef int nft_payload_set(State *s, Pkt *p, const Row *r, const uint8_t *pool, uint8_t *regs) noexcept nogil:
    """nft_payload_set_eval. ``a``: base | source register << 8, ``b``: offset, ``c``: bytes, ``d``: checksum offset + 1 |
    flags << 16 (1: in the pseudo-header, 2: SCTP's)."""
    cdef int base = r.a & 0xFF
    cdef uint8_t *src = regs + (r.a >> 8)
    cdef int64_t start = nft_base(p, base)
    cdef int check = (r.d & 0xFFFF) - 1
    cdef int l4check = -1
    cdef uint8_t *at
    if start < 0 or start + r.b + r.c > p.end:
        return NFT_BREAK
    at = p.buf + start + r.b
    # a checksum that the kernel leaves to the device is whole here, and has to stay so
    if check >= 0:
        if start + check + 2 > p.end:
            return NFT_BREAK
        nft_csum_replace(p.buf + start + check, at, src, r.c)
    if r.d >> 16 & 1 and p.l4 != 0 and not p.fragment & FRAG_LATER and nft_auth(p) < 0:
        if p.proto == 6:
            l4check = 16
        elif p.proto == 17 and l4_len(p) >= 8 and (p.buf[p.l4 + 6] or p.buf[p.l4 + 7]):
            l4check = 6
        elif p.proto == 136:
            l4check = 6
        elif p.proto == 58:
            l4check = 2
        if l4check >= 0 and p.l4 + l4check + 2 <= p.end:
            nft_csum_replace(p.buf + p.l4 + l4check, at, src, r.c)
    if base == 1 and p.family == AF6 and p.flags & PF_CSUM_OK and memcmp(at, src, r.c):
        p.flags |= PF_CSUM_STALE   # as by a target (Packet.header_rewritten): skb->csum is not told
    memcpy(at, src, r.c)
    if r.d >> 16 & 2 and p.proto == 132 and l4_len(p) >= 12 and nft_auth(p) < 0:
        sctp_checksum(p.buf + p.l4, l4_len(p), p.buf + p.l4 + 8)
    return NFT_NEXT


# ------------------------------------------------------------------------------------------------------------ hashes

cdef inline uint32_t le32(const uint8_t *p) noexcept nogil:
    return p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef uint32_t jhash_bytes(const uint8_t *k, uint32_t length, uint32_t initval) noexcept nogil:
    """Bob Jenkins's lookup3 over bytes (include/linux/jhash.h jhash)."""
    cdef uint32_t a = <uint32_t>0xDEADBEEF + length + initval
    cdef uint32_t b = a
    cdef uint32_t c = a
    cdef uint8_t tail[12]
    while length > 12:
        a += le32(k)
        b += le32(k + 4)
        c += le32(k + 8)
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
        k += 12
        length -= 12
    if length == 0:
        return c
    memset(tail, 0, 12)
    memcpy(tail, k, length)
    a += le32(tail)
    b += le32(tail + 4)
    c += le32(tail + 8)
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


cdef uint32_t flow_hash(const Pkt *p) noexcept nogil:
    """One number for both directions of a flow. The kernel's has a key of its own."""
    cdef Addr src, dst
    cdef uint32_t ports = 0
    cdef uint8_t data[40]
    cdef int i
    pkt_saddr(p, &src)
    pkt_daddr(p, &dst)
    if nft_has_l4(p) and l4_len(p) >= 4 and (p.proto == 6 or p.proto == 17 or p.proto == 132 or p.proto == 136):
        ports = rd16(p.buf + p.l4) ^ rd16(p.buf + p.l4 + 2)
        ports |= <uint32_t>((rd16(p.buf + p.l4) + rd16(p.buf + p.l4 + 2)) & 0xFFFF) << 16
    for i in range(16):
        data[i] = src.b[i] ^ dst.b[i]
        data[16 + i] = <uint8_t>(src.b[i] + dst.b[i])
    wr32(data + 32, ports)
    wr32(data + 36, p.proto)
    return jhash_bytes(data, 40, 0)


cdef int nft_number(State *s, Pkt *p, NftInst *n, const Row *r, const uint8_t *pool, uint8_t *regs) noexcept nogil:
    """numgen, jhash and symhash: ``a``: kind | source << 8, ``b``: state or place, ``c``: pool offset of modulus, offset,
    seed, length (uint32), ``d``: destination."""
    cdef uint32_t v[4]
    cdef uint32_t number, i, size
    cdef NftState *x
    cdef uint8_t *src = regs + (r.a >> 8)
    memcpy(v, pool + r.c, 16)
    if r.a & 0xFF == 0:            # inc
        x = n.states + r.b
        x.a = x.a + 1 if x.a + 1 < v[0] else 0
        number = <uint32_t>x.a
    elif r.a & 0xFF == 1:          # random
        number = draw_place(s, &n.t, r.b, v[0])
    elif r.a & 0xFF == 2:          # jhash
        if r.b >= 0:
            x = n.states + r.b
            if x.b == 0:
                x.b = 1
                x.a = draw_below(s, b"nft.jhash.seed", <uint32_t>0xFFFFFFFF)
            v[2] = <uint32_t>x.a
        number = scale(jhash_bytes(src, v[3], v[2]), v[0])
    else:
        number = scale(flow_hash(p), v[0])
    reg_u32(regs + r.d, number + v[1])
    return NFT_NEXT


cdef uint32_t draw_place(State *s, TableInst *t, int place, uint32_t n) noexcept with gil:
    cdef Program program = <Program>t.program
    cdef Datapath dp = <Datapath>s.owner
    return <uint32_t>dp._draw(program._places[place], 0, n)


# --------------------------------------------------------------------------------------------------------------- sets

cdef bint elem_states(State *s, const Pkt *p, NftSetData *d, int32_t at) noexcept nogil:
    """nft_set_elem_update_expr."""
    cdef int i
    for i in range(d.n_states):
        if not state_eval(d.states + <size_t>at * d.n_states + i, s, p):
            return False
    return True


cdef int nft_lookup(State *s, Pkt *p, NftInst *n, const Row *r, uint8_t *regs, int *chain) noexcept nogil:
    """nft_lookup_eval. ``a``: set, ``b``: register for the data, -1: none, -2: it is a verdict; ``d``: key."""
    cdef NftSetData *d = n.sets[r.a]
    cdef int32_t at = set_find(d, regs + r.d, s.now_ns)
    cdef int32_t code
    if (at >= 0) == (r.invert != 0):
        at = d.catchall
        if at < 0 or not set_live(d, at, s.now_ns):
            return NFT_BREAK
    if at < 0:
        return NFT_NEXT
    if r.b == -2:
        memcpy(&code, set_value(d, at), 4)
        memcpy(chain, set_value(d, at) + 4, 4)
    elif r.b >= 0:
        memcpy(regs + r.b, set_value(d, at), d.data_size)
    if not elem_states(s, p, d, at):
        return NFT_BREAK
    return code if r.b == -2 else NFT_NEXT


cdef int nft_dynset(State *s, Pkt *p, NftInst *n, const Row *r, const uint8_t *pool, uint8_t *regs) noexcept nogil:
    """nft_dynset_eval. ``a``: set, ``b``: register of the data, -1: none, ``c``: pool offset of int64 timeout, int32 kind
    (0 add, 1 update, 2 delete); ``d``: key."""
    cdef NftSetData *d = n.sets[r.a]
    cdef uint8_t *key = regs + r.d
    cdef int64_t timeout
    cdef int32_t op, at
    memcpy(&timeout, pool + r.c, 8)
    memcpy(&op, pool + r.c + 8, 4)
    at = set_find_hash(d, key, s.now_ns)
    if op == 2:
        if at >= 0:
            set_remove(d, at)
            d.n_dead += 1
        return NFT_NEXT
    if at < 0:
        if d.size and <uint32_t>(d.n_used + d.n_dead) >= d.size:
            set_expire(d, s.now_ns)
            if <uint32_t>(d.n_used + d.n_dead) >= d.size:
                return NFT_BREAK
        at = set_locate(d, key)
        if at >= 0:
            set_remove(d, at)      # it has timed out
        at = set_insert_hash(d, key)
        if r.b >= 0:
            memcpy(set_value(d, at), regs + r.b, d.data_size)
        d.elems[at].timeout_ns = timeout
        if timeout == 0:
            timeout = d.timeout_ns
        if timeout:
            d.elems[at].expires_ns = s.now_ns + timeout
    elif op == 1 and d.elems[at].expires_ns:
        # by the rule's timeout or the set's, of which there may be none: its own stays what it is, and does not count
        d.elems[at].expires_ns = s.now_ns + (timeout if timeout else d.timeout_ns)
    return NFT_NEXT if elem_states(s, p, d, at) else NFT_BREAK


# ---------------------------------------------------------------------------------------------------------- one row

cdef bint nft_compare(const uint8_t *a, const uint8_t *b, uint32_t n, int op) noexcept nogil:
    cdef int d = memcmp(a, b, n)
    if op == CMP_EQ:
        return d == 0
    if op == CMP_NEQ:
        return d != 0
    if op == CMP_LT:
        return d < 0
    if op == CMP_LTE:
        return d <= 0
    if op == CMP_GT:
        return d > 0
    return d >= 0


cdef void nft_shift(uint8_t *reg, int n, int bits, bint right) noexcept nogil:
    """A number of up to eight bytes."""
    cdef uint64_t v = 0
    cdef int i
    for i in range(n):
        v = v << 8 | reg[i]
    if bits > 63:
        v = 0
    elif right:
        v >>= bits
    else:
        v <<= bits
    for i in range(n):
        reg[i] = <uint8_t>(v >> 8 * (n - 1 - i))


cdef int nft_nat(State *s, Pkt *p, const Row *r, const uint8_t *pool, uint8_t *regs, int hook) noexcept nogil:
    """nft_nat_eval, nft_masq_eval, nft_redir_eval. ``a``: kind (0 snat, 1 dnat, 2 masquerade, 3 redirect), ``b``: family it is
    for, 0 any, ``c``: flags, ``d``: pool offset of four int32: registers of the addresses and ports, -1 none."""
    cdef int32_t at[4]
    cdef NatRange rng
    cdef int verdict
    if r.b and r.b != p.family:
        return NFT_NEXT
    if p.ct == NULL:
        return NFT_ACCEPT
    memcpy(at, pool + r.d, 16)
    memset(&rng, 0, sizeof(NatRange))
    rng.flags = r.c
    if at[0] >= 0:
        rng.flags |= NAT_MAP_IPS
        memcpy(rng.min_addr.b, regs + at[0], addr_len(p.family))
        memcpy(rng.max_addr.b, regs + at[1], addr_len(p.family))
    if at[2] >= 0:
        rng.flags |= NAT_PROTO_SPECIFIED
        memcpy(&rng.min_port, regs + at[2], 2)
        memcpy(&rng.max_port, regs + at[3], 2)
    if r.a == 2:
        verdict = do_masquerade(s, p, &rng)
    elif r.a == 3:
        verdict = do_redirect(s, p, &rng, hook)
    else:
        verdict = nat_setup(s, p, &rng, MANIP_SRC if r.a == 0 else MANIP_DST)
    return NFT_ACCEPT if verdict == NF_ACCEPT else NFT_DROP


cdef int nft_row(State *s, Pkt *p, NftInst *n, const Row *r, uint8_t *regs, int hook, int *chain) noexcept nogil:
    """One expression. NFT_BREAK: the rule does not match; NFT_JUMP and NFT_GOTO say which chain."""
    cdef const uint8_t *pool = n.t.pool
    cdef int op = r.op
    cdef int i
    cdef uint32_t mark
    if op == OP_NFT_PAYLOAD:
        return nft_payload(p, r, regs)
    if op == OP_NFT_CMP:
        return nft_compare(regs + r.d, pool + r.a, r.c, r.b)
    if op == OP_NFT_META:
        return nft_meta(s, p, r, regs + r.d, hook)
    if op == OP_NFT_LOOKUP:
        return nft_lookup(s, p, n, r, regs, chain)
    if op == OP_NFT_CT:
        return nft_ct(s, p, r, regs + r.d)
    if op == OP_NFT_BITWISE:
        for i in range(r.c):
            regs[r.d + i] = (regs[r.d + i] & pool[r.a + i]) ^ pool[r.a + r.c + i]
        return NFT_NEXT
    if op == OP_NFT_IMMEDIATE:
        memcpy(regs + r.d, pool + r.a, r.c)
        reg_pad(regs + r.d, r.c)
        return NFT_NEXT
    if op == OP_NFT_RANGE:
        i = memcmp(regs + r.d, pool + r.a, r.c) >= 0 and memcmp(regs + r.d, pool + r.a + r.c, r.c) <= 0
        return NFT_NEXT if i != r.b else NFT_BREAK
    if op == OP_NFT_BITS:
        return nft_bits(p, r, regs, nft_base(p, r.a), r.b, r.c)
    if op == OP_NFT_STATE:
        return state_eval(n.states + r.a, s, p)
    if op == OP_NFT_SHIFT:
        nft_shift(regs + r.d, r.c, r.b, r.a != 0)
        return NFT_NEXT
    if op == OP_NFT_REVERSE:
        for i in range(r.c // 2):
            regs[r.d + i], regs[r.d + r.c - 1 - i] = regs[r.d + r.c - 1 - i], regs[r.d + i]
        return NFT_NEXT
    if op == OP_NFT_OPTION:
        return nft_options(p, r, regs)
    if op == OP_NFT_FIB:
        return nft_fib(s, p, r, regs + r.d, hook)
    if op == OP_NFT_NEXTHOP:
        # what is bridged has br_netfilter's stand-in route, without a gateway
        if p.family != r.a or (p.rt_type == 0 and not (p.flags & PF_BRIDGED and p.phys_out)):
            return NFT_BREAK
        if p.rt_gateway:
            memcpy(regs + r.d, p.rt_nh.b, addr_len(p.family))
        else:
            memcpy(regs + r.d, p.buf + p.l3 + (16 if p.family == AF4 else 24), addr_len(p.family))
        return NFT_NEXT
    if op == OP_NFT_NUMBER:
        return nft_number(s, p, n, r, pool, regs)
    if op == OP_NFT_DYNSET:
        return nft_dynset(s, p, n, r, pool, regs)
    if op == OP_NFT_SET_META:
        p.mark = rd32(regs + r.a)
        trace_add(s, p, TR_MARK, <int>p.mark, 0, 0, 0)
        return NFT_NEXT
    if op == OP_NFT_SET_CT:
        if r.b == CT_MARK:
            if p.ct != NULL:
                p.ct.mark = rd32(regs + r.a)
        elif p.ct == NULL and not p.tmpl_set:
            template_set(p, rd16(regs + r.a), r.c, 0)
            p.ctinfo = CTINFO_NONE
        return NFT_NEXT
    if op == OP_NFT_SET_PAYLOAD:
        return nft_payload_set(s, p, r, pool, regs)
    if op == OP_NFT_SET_MSS:
        return nft_set_mss(p, r, regs)
    if op == OP_NFT_NAT:
        return nft_nat(s, p, r, pool, regs, hook)
    if op == OP_NFT_REJECT:
        i = r.a if p.family == AF4 else r.b
        if i < 0:
            s.drop_reason = DR_RULE
            return NFT_DROP
        drop_event(s, p, DR_REJECTED)
        pkt_upcall(s, p, UP_REJECT, i, hook, 0)
        return NFT_STOLEN
    return NFT_NEXT                # OP_NFT_MATCHED: seen by the trace
