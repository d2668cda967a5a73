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
    return (bytes_hash(dst.b, 16) ^ <uint32_t>plen * <uint32_t>0x9E3779B1) & (t.n_buckets - 1)


cdef Route *table_lookup(State *s, RouteTable *t, const Addr *dst, int oif) noexcept nogil:
    """The longest prefix's first route (lowest metric, then first added) that leaves by ``oif``, if that is not 0."""
    cdef int i, at, plen
    cdef Addr masked
    cdef Route *r
    cdef Link *l
    for i in range(t.n_plens):
        plen = t.plens[i]
        addr_masked(&masked, dst, plen, t.family)
        at = t.buckets[route_bucket(t, &masked, plen)]
        while at >= 0:
            r = t.routes + at
            if r.plen == plen and addr_eq(&r.dst, &masked):
                # a host keeps its addresses when their device goes down: local routes are not synchronised with it
                if r.type == RTN_UNICAST or r.type == RTN_BROADCAST:
                    l = link_get(s, r.oif)
                    if l == NULL or not l.up:
                        at = r.next
                        continue
                if oif == 0 or r.oif == oif or r.type > RTN_MULTICAST:
                    return r
            at = r.next
    return NULL


cdef inline bint prefix_match(const Addr *a, const Addr *net, int plen, int family) noexcept nogil:
    cdef Addr masked
    if plen == 0:
        return True
    addr_masked(&masked, a, plen, family)
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
    return r.type


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
        if not prefix_match(src, &rule.src, rule.src_len, family):
            continue
        if not prefix_match(dst, &rule.dst, rule.dst_len, family):
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
        r = table_lookup(s, t, a, dev)
        if r != NULL:
            return r.type
    return RTN_UNICAST


cdef bint is_local_addr(State *s, int family, const Addr *a) noexcept nogil:
    cdef int i
    for i in range(s.n_addrs):
        if s.addrs[i].family == family and addr_eq(&s.addrs[i].addr, a):
            return True
    return False


cdef bint first_addr(State *s, int family, int ifindex, Addr *out) noexcept nogil:
    """A device's first address (IPv6: the first that is not link-local)."""
    cdef int i
    for i in range(s.n_addrs):
        if s.addrs[i].family == family and s.addrs[i].ifindex == ifindex:
            if family == AF6 and s.addrs[i].scope >= 253:
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
        addr_masked(&net, &a.addr, a.plen, family)
        if dst == NULL or prefix_match(dst, &net, a.plen, family):
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


cdef inline int max_sysctl(int a, int b) noexcept nogil:
    return a if a > b else b


cdef int validate_source(State *s, Pkt *p, const Addr *src, const Addr *dst, int oif) noexcept nogil:
    """fib_validate_source (net/ipv4/fib_frontend.c): 0 fine, else the DropReason.

    ``oif`` is the way out that the forward look-up found, 0 for local delivery.
    """
    cdef Link *dev = link_get(s, p.in_if)
    cdef int rpf, i
    cdef RouteResult r
    cdef bint has_addr = False
    if dev == NULL:
        return 0
    rpf = max_sysctl(dev.rp_filter, <int>s.sysctl[SYSCTL_RP_FILTER])
    if rpf == 0 and s.n_prules == 0:
        if dev.accept_local or s.sysctl[SYSCTL_ACCEPT_LOCAL]:
            return 0
        return DR_MARTIAN_SOURCE if is_local_addr(s, p.family, src) else 0
    for i in range(s.n_addrs):
        if s.addrs[i].family == p.family and s.addrs[i].ifindex == dev.ifindex:
            has_addr = True
            break
    if not fib_lookup(s, p.family, src, dst, p.mark, oif if oif else s.lo_ifindex, 0, &r):
        return DR_RP_FILTER if rpf else 0
    if r.type != RTN_UNICAST and not (r.type == RTN_LOCAL and (dev.accept_local or s.sysctl[SYSCTL_ACCEPT_LOCAL])):
        return DR_MARTIAN_SOURCE
    if r.oif == dev.ifindex:
        return 0
    if not has_addr:
        return DR_RP_FILTER if rpf else 0
    if rpf == 1:
        return DR_RP_FILTER
    return 0


# ---------------------------------------------------------------------------------------------------------- neighbours

cdef inline uint32_t neigh_bucket(State *s, int ifindex, const Addr *a) noexcept nogil:
    return (bytes_hash(a.b, 16) ^ <uint32_t>ifindex * <uint32_t>0x9E3779B1) & (s.n_neigh - 1)


cdef Neighbour *neigh_find(State *s, int family, int ifindex, const Addr *a) noexcept nogil:
    cdef Neighbour *n = s.neigh[neigh_bucket(s, ifindex, a)]
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
