# Addresses, routes and neighbours: look-ups only. Who owns them is kernel/fib.py and kernel/neighbour.py.

cdef struct RouteResult:
    int type                   # RouteType, 0 = no route
    int oif
    int gateway                # nexthop is a gateway
    uint8_t scope
    uint32_t mtu
    Addr nexthop
    Addr prefsrc               # set where ``has_prefsrc``
    int has_prefsrc
    const Route *route         # where it comes from, NULL if from no table


cdef inline Link *link_get(State *s, int ifindex) noexcept nogil:
    if 0 < ifindex < s.n_links and s.links[ifindex].ifindex:
        return s.links + ifindex
    return NULL


cdef RouteTable *route_table(State *s, int family, uint32_t id) noexcept nogil:
    cdef int i
    for i in range(s.n_rtables):
        if s.rtables[i].id == id and s.rtables[i].family == family:
            return s.rtables + i
    return NULL


cdef inline uint32_t route_bucket(const RouteTable *t, const Addr *dst, int plen) noexcept nogil:
    return addr_hash(dst, t.family, plen) & (t.n_buckets - 1)


cdef Route *table_lookup(State *s, RouteTable *t, const Addr *dst, int oif) noexcept nogil:
    """The longest prefix's first route (lowest metric, then first added) that leaves by ``oif``, if that is not 0."""
    cdef int i, at, plen, hop
    cdef Addr masked
    cdef Route *r
    for i in range(t.n_plens):
        plen = t.plens[i]
        addr_masked(&masked, dst, plen)
        at = t.buckets[route_bucket(t, &masked, plen)]
        while at >= 0:
            r = t.routes + at
            if r.plen == plen and addr_eq(&r.dst, &masked):
                for hop in range(r.hops):
                    if hop_usable(s, r + hop) and (oif == 0 or r[hop].oif == oif or r.type > RTN_MULTICAST):
                        return r + hop
            at = r.next
    return NULL


cdef bint hop_usable(State *s, const Route *r) noexcept nogil:
    """Whether packets may leave there. A host keeps its addresses when their device goes down: local routes do not
    look at it."""
    cdef Link *l
    if r.type != RTN_UNICAST and r.type != RTN_BROADCAST:
        return True
    l = link_get(s, r.oif)
    return l != NULL and l.up


cdef inline bint prefix_match(const Addr *a, const Addr *net, int plen) noexcept nogil:
    cdef Addr masked
    if plen == 0:
        return True
    addr_masked(&masked, a, plen)
    return addr_eq(&masked, net)


cdef int fib_result(State *s, const Route *r, const Addr *dst, RouteResult *out) noexcept nogil:
    out.type = r.type
    out.oif = r.oif
    out.gateway = r.has_gateway
    out.scope = r.scope
    out.mtu = r.mtu
    out.nexthop = r.gateway if r.has_gateway else dst[0]
    out.has_prefsrc = r.has_prefsrc
    out.prefsrc = r.prefsrc
    out.route = r
    return r.type


# Several next hops: which of them a flow takes (net/ipv4/fib_semantics.c, net/ipv4/route.c of Linux 6.18).

cdef inline uint64_t rotl64(uint64_t x, int n) noexcept nogil:
    return (x << n) | (x >> (64 - n))


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl64(v[1], 13) ^ v[0]
    v[0] = rotl64(v[0], 32)
    v[2] += v[3]
    v[3] = rotl64(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl64(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl64(v[1], 17) ^ v[2]
    v[2] = rotl64(v[2], 32)


cdef uint64_t siphash(const uint8_t *data, uint32_t length, uint64_t key) noexcept nogil:
    """SipHash-2-4 (Aumasson and Bernstein, 2012) with both halves of the key alike."""
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef uint32_t at, i
    v[0] = <uint64_t>0x736F6D6570736575 ^ key
    v[1] = <uint64_t>0x646F72616E646F6D ^ key
    v[2] = <uint64_t>0x6C7967656E657261 ^ key
    v[3] = <uint64_t>0x7465646279746573 ^ key
    at = 0
    while at + 8 <= length:
        memcpy(&word, data + at, 8)
        v[3] ^= word
        sip_round(v)
        sip_round(v)
        v[0] ^= word
        at += 8
    word = <uint64_t>length << 56
    for i in range(length - at):
        word |= <uint64_t>data[at + i] << 8 * i
    v[3] ^= word
    sip_round(v)
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xFF
    for i in range(4):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline void put_in_order(uint8_t *pair, int length) noexcept nogil:
    """The smaller of two numbers first, as a little-endian machine reads them."""
    cdef uint8_t other[4]
    cdef int i
    for i in range(length - 1, -1, -1):
        if pair[i] != pair[length + i]:
            if pair[length + i] < pair[i]:
                memcpy(other, pair, length)
                memcpy(pair, pair + length, length)
                memcpy(pair + length, other, length)
            return


cdef uint32_t multipath_hash(State *s, Pkt *p, const Addr *src, const Addr *dst) noexcept nogil:
    """fib_multipath_hash: 31 bits, by addresses (policy 0) or by addresses, protocol and ports (1).

    The keys are laid out as ``struct flow_keys`` from ``basic`` on, with the padding at its end (its size is a multiple of
    8); addresses and ports are put in order (__flow_hash_consistentify), so both directions of a flow hash alike::

         0        2       3      4          24      28     32     36       40       44    48
        | n_proto | proto | pad | 0 ... 0 | keyid | ports | icmp | source | target | pad |
    """
    cdef uint8_t keys[48]
    cdef const uint8_t *inner
    cdef uint64_t key
    cdef uint32_t hash
    memset(keys, 0, sizeof(keys))
    memcpy(keys + 36, src.b, 4)
    memcpy(keys + 40, dst.b, 4)
    if s.sysctl[SYSCTL_FIB_MULTIPATH_HASH_POLICY] == 0:
        # an ICMP error goes where the packets that it is about go (ip_multipath_l3_keys)
        if p.proto == 1 and p.l4 and p.l4 + 28 <= p.end:
            if p.buf[p.l4] in (3, 4, 5, 11, 12):
                inner = p.buf + p.l4 + 8
                memcpy(keys + 36, inner + 12, 8)
    else:
        keys[2] = p.proto
        if p.l4 and not p.fragment and p.proto in (6, 17, 33, 50, 51, 132, 136) and p.l4 + 8 <= p.end:
            # skb_flow_get_ports: AH has its SPI behind four other bytes, the others begin with ports or SPI
            memcpy(keys + 28, p.buf + p.l4 + (4 if p.proto == 51 else 0), 4)
    put_in_order(keys + 36, 4)
    put_in_order(keys + 28, 2)
    key = <uint64_t>s.sysctl[SYSCTL_FIB_MULTIPATH_HASH_SEED] & <uint64_t>0xFFFFFFFF
    key |= key << 32
    hash = <uint32_t>siphash(keys, sizeof(keys), key)
    return (hash if hash else 1) >> 1


cdef void fib_select(State *s, Pkt *p, const Addr *src, const Addr *dst, bint output, RouteResult *out) noexcept nogil:
    """fib_select_multipath: the next hop of a flow, where a route has several.

    Each gets a part of the hash's range by its weight (fib_rebalance). A host that has chosen its address prefers next
    hops whose address that is.
    """
    cdef const Route *first
    cdef const Route *best = NULL
    cdef uint64_t total = 0, sum = 0, bound
    cdef uint32_t hash
    cdef int i, score = -1, points
    cdef Addr own
    if out.route == NULL or out.route.hops < 2:
        return
    first = out.route - out.route.hop
    for i in range(first.hops):
        if hop_usable(s, first + i):
            total += first[i].weight
    if total == 0:
        return
    hash = multipath_hash(s, p, src, dst)
    for i in range(first.hops):
        if not hop_usable(s, first + i):
            continue
        sum += first[i].weight
        bound = ((sum << 31) + total // 2) // total - 1
        points = 1 if hash <= bound else 0
        if output:
            if first[i].has_prefsrc:
                own = first[i].prefsrc
            elif not select_addr(s, p.family, first[i].oif, &first[i].gateway, &own):
                own.q[0] = 0
                own.q[1] = 0
            if addr_eq(&own, src):
                points += 2
        if score < points:
            score = points
            best = first + i
    fib_result(s, best, dst, out)


cdef int fib_lookup(State *s, int family, const Addr *dst, const Addr *src, uint32_t mark, int iif, int oif,
                    RouteResult *out) noexcept nogil:
    """Policy rules in order, then their tables. Returns the RouteType, or 0 for no route."""
    cdef int i
    cdef PolicyRule *rule
    cdef RouteTable *t
    cdef Route *r
    cdef bint any_rule = False
    cdef uint32_t defaults[3]
    memset(out, 0, sizeof(RouteResult))
    for i in range(s.n_prules):
        rule = s.prules + i
        if rule.family != family:
            continue
        any_rule = True
        if (mark & rule.mask) != rule.mark:
            continue
        if rule.iif and rule.iif != iif:
            continue
        if not prefix_match(src, &rule.src, rule.src_len):
            continue
        if not prefix_match(dst, &rule.dst, rule.dst_len):
            continue
        t = route_table(s, family, rule.table)
        if t == NULL:
            continue
        r = table_lookup(s, t, dst, oif)
        if r != NULL and r.type != RTN_THROW:
            return fib_result(s, r, dst, out)
    if any_rule:
        return 0
    defaults[0] = 255
    defaults[1] = 254
    defaults[2] = 253
    for i in range(3):
        t = route_table(s, family, defaults[i])
        if t == NULL:
            continue
        r = table_lookup(s, t, dst, oif)
        if r != NULL and r.type != RTN_THROW:
            return fib_result(s, r, dst, out)
    return 0


cdef int addr_type(State *s, int family, const Addr *a, int dev) noexcept nogil:
    """inet_addr_type / inet_dev_addr_type: the RTN_* class of an address, by the local table alone."""
    cdef RouteTable *t
    cdef Route *r
    if family == AF4:
        # ipv4_is_zeronet is 0.0.0.0 alone since 5.3; ipv4_is_lbcast
        if a.w[0] == 0 or a.w[0] == <uint32_t>0xFFFFFFFF:
            return RTN_BROADCAST
        if (a.b[0] & 0xF0) == 0xE0:
            return RTN_MULTICAST
    elif a.b[0] == 0xFF:
        return RTN_MULTICAST
    t = route_table(s, family, 255)
    if t != NULL:
        # __inet_dev_addr_type looks the address up without the device, and then whether it is that one's
        r = table_lookup(s, t, a, dev if family == AF6 else 0)
        if r != NULL and (family == AF6 or dev == 0 or r.oif == dev):
            return r.type
    return RTN_UNICAST


cdef bint anycast_destination(const RouteResult *r, const Addr *a) noexcept nogil:
    """ipv6_anycast_destination: an anycast address of this host's, or by its place in the network one of its routers'."""
    if r.type == RTN_ANYCAST:
        return True
    return (r.type == RTN_UNICAST and r.route != NULL and r.route.plen < 127 and not r.gateway
            and addr_eq(&r.route.dst, a))


cdef enum:                             # XT_ADDRTYPE_*, as netfilter.matches.addrtype has them
    AT_UNSPEC = 1 << 0
    AT_UNICAST = 1 << 1
    AT_LOCAL = 1 << 2
    AT_ANYCAST = 1 << 4
    AT_MULTICAST = 1 << 5
    AT_UNREACHABLE = 1 << 7
    AT_PROHIBIT = 1 << 8


cdef bint addr_types6(State *s, const Addr *a, int dev, int mask) noexcept nogil:
    """match_type6 of net/netfilter/xt_addrtype.c: every class that can be told from the address must be its own, then
    one of those that routing tells of."""
    cdef RouteResult r
    cdef Addr any
    cdef int i, type
    cdef int found = 0
    cdef bint multicast = a.b[0] == 0xFF
    cdef bint zero_half = a.q[0] == 0
    cdef bint mapped = zero_half and a.h[4] == 0 and a.h[5] == <uint16_t>0xFFFF
    if mask & AT_MULTICAST and not multicast:
        return False
    if mask & AT_UNICAST and (multicast or mapped or addr_zero(a)):
        return False
    if mask & AT_UNSPEC and not addr_zero(a):
        return False
    if not mask & (AT_LOCAL | AT_ANYCAST | AT_PROHIBIT | AT_UNREACHABLE):
        return True
    if dev and mask & AT_LOCAL:
        for i in range(s.n_addrs):
            if s.addrs[i].family == AF6 and s.addrs[i].ifindex == dev and addr_eq(&s.addrs[i].addr, a):
                found = AT_LOCAL
    any.q[0] = 0
    any.q[1] = 0
    type = fib_lookup(s, AF6, a, &any, 0, s.lo_ifindex, dev, &r)
    if type == 0 or type == RTN_UNREACHABLE or type == RTN_PROHIBIT or type == RTN_BLACKHOLE:
        found = AT_UNREACHABLE
    elif type == RTN_LOCAL and not dev:
        found |= AT_LOCAL
    elif anycast_destination(&r, a):
        found |= AT_ANYCAST
    return found & mask != 0


cdef int addr_ifindex(State *s, int family, const Addr *a) noexcept nogil:
    """The device that has an address (__ip_dev_find), or 0."""
    cdef int i
    for i in range(s.n_addrs):
        if s.addrs[i].family == family and addr_eq(&s.addrs[i].addr, a):
            return s.addrs[i].ifindex
    return 0


cdef int addr_scope6(const Addr *a) noexcept nogil:
    """ipv6_addr_scope: 0 for global and all that has no bit of its own (IPV6_ADDR_SCOPE_MASK)."""
    if a.b[0] == 0xFF:
        return 0x10 if a.b[1] & 15 == 1 else (0x20 if a.b[1] & 15 == 2 else (0x40 if a.b[1] & 15 == 5 else 0))
    if a.b[0] == 0xFE and a.b[1] & 0xC0 == 0x80:
        return 0x20
    if a.b[0] == 0xFE and a.b[1] & 0xC0 == 0xC0:
        return 0x40
    return 0x10 if a.q[0] == 0 and a.w[2] == 0 and a.b[12] == 0 and a.b[13] == 0 and a.b[14] == 0 and a.b[15] == 1 else 0


cdef bint redirect_addr(State *s, int family, int ifindex, const Addr *dst, Addr *out) noexcept nogil:
    """Where REDIRECT leads to: a device's first address; IPv6: of the scope of the destination, if that is not global
    (nf_nat_redirect_ipv6_usable)."""
    cdef int i
    cdef int scope = addr_scope6(dst) if family == AF6 else 0
    for i in range(s.n_addrs):
        if s.addrs[i].family == family and s.addrs[i].ifindex == ifindex:
            if family == AF6:
                if scope and not scope & addr_scope6(&s.addrs[i].addr):
                    continue
                if not scope and s.addrs[i].scope >= 253:
                    continue
            out[0] = s.addrs[i].addr
            return True
    return False


cdef bint select_addr(State *s, int family, int ifindex, const Addr *dst, Addr *out) noexcept nogil:
    """inet_select_addr(dev, dst, RT_SCOPE_UNIVERSE): the address on ``dst``'s own network, else the device's first
    global one, else the first global one of any device."""
    cdef int i
    cdef AddrEntry *a
    cdef AddrEntry *found = NULL
    cdef Addr net
    for i in range(s.n_addrs):
        a = s.addrs + i
        if a.family != family or a.ifindex != ifindex or a.scope > 0:
            continue
        addr_masked(&net, &a.addr, a.plen)
        if dst == NULL or prefix_match(dst, &net, a.plen):
            out[0] = a.addr
            return True
        if found == NULL:
            found = a
    if found == NULL:
        for i in range(s.n_addrs):
            a = s.addrs + i
            if a.family == family and a.scope == 0:
                found = a
                break
    if found == NULL:
        return False
    out[0] = found.addr
    return True


cdef inline int source_scope6(const Addr *a) noexcept nogil:
    """ipv6_addr_src_scope of a unicast address; loopback counts as link-local."""
    if a.b[0] == 0xFE and (a.b[1] & 0xC0) == 0x80:
        return 2
    if a.q[0] == 0 and rd32(a.b + 8) == 0 and rd32(a.b + 12) == 1:
        return 2
    if a.b[0] == 0xFE and (a.b[1] & 0xC0) == 0xC0:
        return 5
    return 14


cdef inline int label6(const Addr *a) noexcept nogil:
    """ipv6_addr_label (ip6addrlbl_init_table)."""
    cdef uint32_t high = rd32(a.b)
    cdef uint32_t third = rd32(a.b + 8)
    if a.q[0] == 0:
        if third == 0:
            return 0 if rd32(a.b + 12) == 1 else 3
        if third == 0xFFFF:
            return 4
    if high == 0x20010000:
        return 6
    if (high >> 4) == 0x2001001:
        return 7
    if (high >> 16) == 0x3FFE:
        return 12
    if (high >> 16) == 0x2002:
        return 2
    if (high >> 22) == 0x3FB:
        return 11
    if (high >> 25) == 0x7E:
        return 5
    return 1


cdef inline int common_prefix6(const Addr *a, const Addr *b) noexcept nogil:
    """ipv6_addr_diff: how many leading bits are equal."""
    cdef int i, n
    cdef uint8_t differing
    for i in range(16):
        differing = a.b[i] ^ b.b[i]
        if differing:
            n = 8 * i
            while not differing & 0x80:
                differing = <uint8_t>(differing << 1)
                n += 1
            return n
    return 128


cdef bint select_addr6(State *s, int ifindex, const Addr *dst, Addr *out) noexcept nogil:
    """ipv6_dev_get_saddr for a unicast destination: RFC 6724 section 5 over the addresses of every device.

    addrconf.select_source is the same for what the node itself sends. use_oif_addrs_only is not looked at.
    """
    cdef int i, scope, distance, common
    cdef int64_t score, best = -1
    cdef AddrEntry *a
    scope = source_scope6(dst)
    for i in range(s.n_addrs):
        a = s.addrs + i
        if a.family != AF6 or (scope <= 2 and a.ifindex != ifindex):
            continue
        distance = source_scope6(&a.addr)
        common = common_prefix6(&a.addr, dst)
        score = addr_eq(&a.addr, dst)
        # appropriate scope: the narrowest that reaches, else the widest
        score = (score << 9) | (256 - distance if distance >= scope else 128 + distance - 14)
        score = (score << 1) | (a.ifindex == ifindex)
        score = (score << 1) | (label6(&a.addr) == label6(dst))
        score = (score << 1) | ((rd32(a.addr.b) >> 4 == 0x2001001) == (rd32(dst.b) >> 4 == 0x2001001))
        score = (score << 8) | (common if common < a.plen else a.plen)
        if score > best:
            best = score
            out[0] = a.addr
    return best >= 0


cdef inline int max_sysctl(int a, int b) noexcept nogil:
    return a if a > b else b


cdef inline bint route_uses(const RouteResult *r, int ifindex) noexcept nogil:
    """fib_info_nh_uses_dev: whether any of a route's next hops is there."""
    cdef int i
    if r.route == NULL:
        return r.oif == ifindex
    for i in range(r.route.hops):
        if (r.route - r.route.hop)[i].oif == ifindex:
            return True
    return False


cdef bint rules_are_custom(State *s, int family) noexcept nogil:
    """fib4_has_custom_rules."""
    cdef int i
    for i in range(s.n_prules):
        if s.prules[i].family == family:
            return True
    return False


cdef int validate_source(State *s, Pkt *p, const Addr *src, const Addr *dst, int oif) noexcept nogil:
    """fib_validate_source (net/ipv4/fib_frontend.c): 0 fine, else the DropReason; notes whether the sender is on the link.

    ``oif`` is the way out that the forward look-up found, 0 for local delivery.
    """
    cdef Link *dev = link_get(s, p.in_if)
    cdef bint accept_local
    cdef int rpf, i
    cdef uint32_t mark = 0
    cdef RouteResult r
    cdef bint has_addr = False
    if dev == NULL:
        return 0
    accept_local = dev.accept_local or s.sysctl[SYSCTL_ACCEPT_LOCAL]
    rpf = max_sysctl(dev.rp_filter, <int>s.sysctl[SYSCTL_RP_FILTER])
    if rpf == 0 and (dev.ifindex != oif or not (dev.send_redirects or s.sysctl[SYSCTL_SEND_REDIRECTS])):
        if accept_local:
            return 0
        if not s.custom_local_routes and not rules_are_custom(s, p.family):
            return DR_IP_LOCAL_SOURCE if addr_ifindex(s, p.family, src) else 0
    # __fib_validate_source
    if dev.src_valid_mark or s.sysctl[SYSCTL_SRC_VALID_MARK]:
        mark = p.mark
    for i in range(s.n_addrs):
        if s.addrs[i].family == p.family and s.addrs[i].ifindex == dev.ifindex:
            has_addr = True
            break
    if not fib_lookup(s, p.family, src, dst, mark, oif if oif else s.lo_ifindex, 0, &r):
        return DR_RP_FILTER if rpf else 0
    if r.type == RTN_BLACKHOLE or r.type == RTN_UNREACHABLE or r.type == RTN_PROHIBIT:
        return DR_RP_FILTER if rpf else 0  # to fib_lookup these are errors, as is no route at all
    if r.type != RTN_UNICAST and not (r.type == RTN_LOCAL and accept_local):
        return DR_IP_LOCAL_SOURCE if r.type == RTN_LOCAL else DR_MARTIAN_SOURCE
    if route_uses(&r, dev.ifindex) or (r.type == RTN_LOCAL and dev.ifindex == s.lo_ifindex):
        if not r.gateway:
            p.flags |= PF_SENDER_ON_LINK
        return 0
    if not has_addr:
        return DR_RP_FILTER if rpf else 0
    if rpf == 1:
        return DR_RP_FILTER
    if fib_lookup(s, p.family, src, dst, mark, oif if oif else s.lo_ifindex, dev.ifindex, &r) == RTN_UNICAST:
        if not r.gateway:
            p.flags |= PF_SENDER_ON_LINK
    return 0


# ---------------------------------------------------------------------------------------------------------- neighbours

cdef inline uint32_t neigh_bucket(State *s, int family, int ifindex, const Addr *a) noexcept nogil:
    return addr_hash(a, family, ifindex) & (s.n_neigh - 1)


cdef Neighbour *neigh_find(State *s, int family, int ifindex, const Addr *a) noexcept nogil:
    cdef Neighbour *n = s.neigh[neigh_bucket(s, family, ifindex, a)]
    while n != NULL:
        if n.ifindex == ifindex and n.family == family and addr_eq(&n.addr, a):
            return n
        n = n.next
    return NULL


# ---------------------------------------------------------------------------------------------------------- bridge FDB

cdef inline uint32_t fdb_bucket(State *s, int bridge, const uint8_t *mac) noexcept nogil:
    return (bytes_hash(mac, 6) ^ <uint32_t>bridge * <uint32_t>0x9E3779B1) & (s.n_fdb - 1)


cdef FdbEntry *fdb_find(State *s, int bridge, const uint8_t *mac) noexcept nogil:
    cdef FdbEntry *e = s.fdb[fdb_bucket(s, bridge, mac)]
    while e != NULL:
        if e.bridge == bridge and memcmp(e.mac, mac, 6) == 0:
            return e
        e = e.next
    return NULL


cdef void fdb_learn(State *s, int bridge, const uint8_t *mac, int port) noexcept nogil:
    """br_fdb_update: a source address is behind the port it came by, unless that is fixed."""
    cdef FdbEntry *e = fdb_find(s, bridge, mac)
    cdef uint32_t at
    if mac[0] & 1:
        return
    if e == NULL:
        e = <FdbEntry *>calloc(1, sizeof(FdbEntry))
        if e == NULL:
            abort()
        at = fdb_bucket(s, bridge, mac)
        memcpy(e.mac, mac, 6)
        e.bridge = bridge
        e.next = s.fdb[at]
        s.fdb[at] = e
    elif e.is_static:
        e.seen_ns = s.now_ns
        return
    e.port = port
    e.seen_ns = s.now_ns
