# Where a packet goes: the routing decision of one that came and of one that is sent, and the second one of a packet
# that was rewritten (net/ipv4/route.c, net/ipv6/route.c, net/netfilter, Linux 6.18). The look-ups are in fib.pxi.

cdef inline void route_attach(State *s, Pkt *p, const RouteResult *r) noexcept nogil:
    cdef Link *l
    p.rt_type = r.type
    p.rt_oif = r.oif
    p.rt_gateway = r.gateway
    p.rt_nh = r.nexthop
    p.rt_prefsrc = r.prefsrc
    p.rt_mtu = r.mtu
    if p.rt_mtu == 0:
        l = link_get(s, r.oif)
        p.rt_mtu = l.mtu if l != NULL else 65535


cdef void path_mtu_attach(State *s, Pkt *p, const Addr *dst, bint forwarding) noexcept nogil:
    """find_exception, rt6_find_cached_rt: a route has the MTU of its path, if that is known to be smaller.

    ip_dst_mtu_maybe_forward: an IPv4 router believes it only if told to, or if it is locked; an IPv6 router always does.
    """
    cdef int i
    cdef PathMtu *known
    for i in range(s.n_pmtus):
        known = s.pmtus + i
        if known.family == p.family and addr_eq(&known.dst, dst):
            if s.now_ns // NS_PER_JIFFY > known.expires or known.mtu >= p.rt_mtu:
                return
            if forwarding and p.family == AF4 and not known.locked and not s.sysctl[SYSCTL_IP_FORWARD_USE_PMTU]:
                return
            p.rt_mtu = known.mtu
            return


cdef int route_input(State *s, Pkt *p, int *icmp_code) noexcept nogil:
    """ip_route_input_slow: attach a route. 0, or the DropReason; ``icmp_code`` >= 0 asks for a destination unreachable."""
    cdef Addr src, dst
    cdef RouteResult r
    cdef Link *dev = link_get(s, p.in_if)
    cdef int type, reason
    cdef bint forwarding, localnet
    icmp_code[0] = -1
    p.flags &= ~<uint32_t>PF_SENDER_ON_LINK
    pkt_saddr(p, &src)
    pkt_daddr(p, &dst)
    if p.family == AF6:
        return route_input6(s, p, &src, &dst, icmp_code)
    localnet = s.sysctl[SYSCTL_ROUTE_LOCALNET] or (dev != NULL and dev.route_localnet)
    forwarding = dev != NULL and (dev.forwarding if dev.forwarding >= 0 else s.sysctl[SYSCTL_IP_FORWARD])
    if (src.b[0] & 0xF0) == 0xE0 or src.w[0] == <uint32_t>0xFFFFFFFF:
        return DR_MARTIAN_SOURCE
    memset(&r, 0, sizeof(r))
    if (dst.b[0] & 0xF0) == 0xE0:
        # no multicast routing and no memberships but all-hosts: ip_check_mc, ip_mc_validate_source
        if dst.b[0] != 224 or dst.b[1] != 0 or dst.b[2] != 0 or dst.b[3] != 1:
            return DR_GROUP_NOT_JOINED
        if src.b[0] == 127 and p.in_if != s.lo_ifindex and not localnet:
            return DR_IP_LOCALNET
        if src.w[0] != 0:
            # as if from no address in particular, which is what ``r`` has yet
            reason = validate_source(s, p, &src, &r.nexthop, 0)
            if reason:
                return reason
        r.type = RTN_LOCAL
        r.oif = s.lo_ifindex
        r.nexthop = dst
        route_attach(s, p, &r)
        return 0
    if dst.w[0] == <uint32_t>0xFFFFFFFF or (src.w[0] == 0 and dst.w[0] == 0):
        if src.w[0] != 0:
            reason = validate_source(s, p, &src, &r.nexthop, 0)
            if reason:
                return reason
        r.type = RTN_BROADCAST
        r.oif = s.lo_ifindex
        r.nexthop = dst
        route_attach(s, p, &r)
        return 0
    if src.w[0] == 0:
        return DR_MARTIAN_SOURCE
    if dst.w[0] == 0:
        return DR_MARTIAN_DESTINATION
    if p.in_if != s.lo_ifindex:
        if (dst.b[0] == 127 or src.b[0] == 127) and not localnet:
            return DR_IP_LOCALNET
    type = fib_lookup(s, AF4, &dst, &src, p.mark, p.in_if, 0, &r)
    if type == RTN_BROADCAST:
        reason = validate_source(s, p, &src, &dst, 0)
        if reason:
            return reason
        route_attach(s, p, &r)
        return 0
    if type == RTN_LOCAL:
        reason = validate_source(s, p, &src, &dst, 0)
        if reason:
            return reason
        route_attach(s, p, &r)
        return 0
    if not forwarding:
        return DR_NOT_FORWARDING
    if type == 0:
        icmp_code[0] = 0
        return DR_NO_ROUTE
    if type == RTN_BLACKHOLE:
        return DR_ROUTE_BLACKHOLE
    if type == RTN_UNREACHABLE:
        icmp_code[0] = 1
        return DR_ROUTE_UNREACHABLE
    if type == RTN_PROHIBIT:
        icmp_code[0] = 13
        return DR_ROUTE_PROHIBIT
    if type != RTN_UNICAST:
        return DR_MARTIAN_DESTINATION
    reason = validate_source(s, p, &src, &dst, r.oif)
    if reason:
        return reason
    fib_select(s, p, &src, &dst, False, &r)
    route_attach(s, p, &r)
    path_mtu_attach(s, p, &dst, True)
    return 0


cdef int route_input6(State *s, Pkt *p, const Addr *src, const Addr *dst, int *icmp_code) noexcept nogil:
    cdef RouteResult r
    cdef Link *l
    cdef int type
    if dst.b[0] == 0xFF:
        if not group_joined(s, p.in_if, dst):
            return DR_GROUP_NOT_JOINED # ip6_mc_input
        memset(&r, 0, sizeof(r))
        r.type = RTN_MULTICAST
        r.oif = s.lo_ifindex
        r.nexthop = dst[0]
        route_attach(s, p, &r)
        return 0
    if dst.b[0] == 0xFE and (dst.b[1] & 0xC0) == 0x80:
        # rt6_need_strict
        type = fib_lookup(s, AF6, dst, src, p.mark, p.in_if, p.in_if, &r)
    elif addr_scope6(dst) == 0x10:
        # rt6_need_strict: NAT can make the loopback address of it, and then only routes of the same device count
        type = fib_lookup(s, AF6, dst, src, p.mark, p.in_if, p.in_if, &r)
    else:
        type = fib_lookup(s, AF6, dst, src, p.mark, p.in_if, 0, &r)
    if type == RTN_LOCAL or type == RTN_ANYCAST:
        route_attach(s, p, &r)
        return 0
    if type == 0:
        icmp_code[0] = 0               # ip6_pkt_discard: said by hosts as well as by routers
        return DR_NO_ROUTE
    if type == RTN_BLACKHOLE:
        return DR_ROUTE_BLACKHOLE
    if type == RTN_UNREACHABLE:
        icmp_code[0] = 0
        return DR_ROUTE_UNREACHABLE
    if type == RTN_PROHIBIT:
        icmp_code[0] = 1
        return DR_ROUTE_PROHIBIT
    if type != RTN_UNICAST:
        return DR_MARTIAN_DESTINATION
    if not s.sysctl[SYSCTL_IP6_FORWARDING]:
        # an interface's own forwarding only makes it a router to its neighbours
        l = link_get(s, p.in_if)
        if l == NULL or not l.force_forwarding:
            return DR_NOT_FORWARDING
    route_attach(s, p, &r)
    path_mtu_attach(s, p, dst, True)
    return 0


cdef bint group_joined(State *s, int ifindex, const Addr *group) noexcept nogil:
    """ipv6_chk_mcast_addr: all nodes (RFC 4291 section 2.8), a router all routers too, and the solicited-node group of
    every address of the device, anycast ones included."""
    cdef int i
    cdef uint8_t scope = group.b[1] & 15
    cdef const uint8_t *b = group.b
    cdef Addr routers
    cdef Link *l
    cdef AddrEntry *a
    cdef bint plain = b[1] < 16 and group.w[1] == 0 and group.w[2] == 0 and b[2] == 0 and b[3] == 0
    if plain and b[12] == 0 and b[13] == 0 and b[14] == 0:
        if b[15] == 1:
            return scope == 1 or scope == 2
        if b[15] == 2:
            l = link_get(s, ifindex)
            return l != NULL and l.all_routers >> scope & 1 != 0
    # ff02::1:ffXX:XXXX
    if scope != 2 or b[1] != 2 or group.w[1] != 0 or b[2] or b[3] or b[8] or b[9] or b[10] or b[11] != 1 or b[12] != 0xFF:
        return False
    for i in range(s.n_addrs):
        a = s.addrs + i
        if a.family != AF6 or a.ifindex != ifindex:
            continue
        if memcmp(a.addr.b + 13, b + 13, 3) == 0:
            return True
        if b[13] == 0 and b[14] == 0 and b[15] == 0:
            # Subnet-Router anycast: all zeros behind the network's prefix
            addr_masked(&routers, &a.addr, a.plen)
            if addr_type(s, AF6, &routers, ifindex) == RTN_ANYCAST:
                return True
    return False


cdef void route_to_oneself(State *s, int family, RouteResult *r) noexcept nogil:
    """What 0.0.0.0 as a destination means (ip_route_output_key_hash_rcu), and :: to processes (rawv6_sendmsg).

    The header keeps it.
    """
    memset(r, 0, sizeof(RouteResult))
    r.type = RTN_LOCAL
    r.oif = s.lo_ifindex
    r.has_prefsrc = 1
    if family == AF4:
        r.prefsrc.b[0] = 127
        r.prefsrc.b[3] = 1
    else:
        r.prefsrc.b[15] = 1


cdef int group_route6(State *s, const Addr *group, RouteResult *r) noexcept nogil:
    """The first of the devices' routes to ff00::/8, for who does not say which device."""
    cdef int i
    for i in range(1, s.n_links):
        if s.links[i].ifindex and s.links[i].up and i != s.lo_ifindex and not s.links[i].disable_ipv6:
            memset(r, 0, sizeof(RouteResult))
            r.type = RTN_UNICAST
            r.oif = i
            r.nexthop = group[0]
            return RTN_UNICAST
    return 0


cdef int route_output(State *s, Pkt *p, const Addr *src, const Addr *dst, int oif) noexcept nogil:
    """ip_route_output_key for a packet whose source is settled. Returns the RouteType or 0."""
    cdef RouteResult r
    cdef int type
    if p.family == AF4 and dst.w[0] == <uint32_t>0xFFFFFFFF:
        memset(&r, 0, sizeof(r))
        r.type = RTN_BROADCAST
        r.oif = oif
        r.nexthop = dst[0]
        if oif == 0:
            type = fib_lookup(s, p.family, dst, src, p.mark, s.lo_ifindex, 0, &r)
            if type == 0:
                return 0
            # __mkroute_output: only the device counts
            r.type = RTN_BROADCAST
            r.gateway = 0
            r.mtu = 0
            r.nexthop = dst[0]
        route_attach(s, p, &r)
        return RTN_BROADCAST
    if dst.q[0] == 0 and dst.q[1] == 0 and (p.family == AF4 or p.uid < <uint32_t>0xFFFFFFFE):  # NO_SOCKET
        route_to_oneself(s, p.family, &r)
        route_attach(s, p, &r)
        return RTN_LOCAL
    if p.flags & PF_ONLINK:
        memset(&r, 0, sizeof(r))
        r.type = RTN_UNICAST
        r.oif = oif
        r.nexthop = dst[0]
        type = RTN_UNICAST
    else:
        type = fib_lookup(s, p.family, dst, src, p.mark, s.lo_ifindex, oif, &r)
        if type == RTN_UNICAST and oif == 0:
            fib_select(s, p, src, dst, True, &r)
    if type == 0 and oif and (p.family == AF4 or dst.b[0] == 0xFF):
        # IPv6 has a route for groups on every device, IPv4 says:
        # "Apparently, routing tables are wrong. Assume, that the destination is on link." (net/ipv4/route.c)
        memset(&r, 0, sizeof(r))
        r.type = RTN_UNICAST
        r.oif = oif
        r.nexthop = dst[0]
        type = RTN_UNICAST
    if type == 0 and p.family == AF6 and dst.b[0] == 0xFF:
        type = group_route6(s, dst, &r)
    if type == 0:
        return 0
    if type == RTN_LOCAL or type == RTN_ANYCAST:
        # ip6_rt_get_dev_rcu: what is for an anycast address of ours stays here too
        r.oif = s.lo_ifindex
        r.mtu = 0
        r.gateway = 0
        r.nexthop = dst[0]
    elif type != RTN_UNICAST and type != RTN_BROADCAST and type != RTN_MULTICAST:
        p.rt_type = type
        return type
    if type == RTN_UNICAST and ((p.family == AF4 and (dst.b[0] & 0xF0) == 0xE0) or (p.family == AF6 and dst.b[0] == 0xFF)):
        r.type = RTN_MULTICAST
        r.gateway = 0
        r.nexthop = dst[0]
    route_attach(s, p, &r)
    if type == RTN_UNICAST:
        path_mtu_attach(s, p, dst, False)
    return r.type


cdef int route_refusal(int type) noexcept nogil:
    """The DropReason of a packet whose route is none, or of a type that refuses."""
    if type == RTN_BLACKHOLE:
        return DR_ROUTE_BLACKHOLE
    if type == RTN_UNREACHABLE:
        return DR_ROUTE_UNREACHABLE
    return DR_ROUTE_PROHIBIT if type == RTN_PROHIBIT else DR_NO_ROUTE


cdef bint route_me_harder(State *s, Pkt *p) noexcept nogil:
    """ip_route_me_harder: the packet's addresses or mark changed on the way out. False: ``s.drop_reason`` says why."""
    cdef Addr src, dst
    cdef Link *l
    cdef int type
    cdef int oif = p.sk_ifindex
    pkt_saddr(p, &src)
    pkt_daddr(p, &dst)
    if p.family == AF4 and oif == 0 and src.w[0] and (dst.b[0] >> 4 == 14 or dst.w[0] == <uint32_t>0xFFFFFFFF):
        # what is for many leaves by the device that has its source address (ip_route_output_key_hash_rcu)
        oif = addr_ifindex(s, AF4, &src)
        if oif == 0:
            s.drop_reason = DR_NO_ROUTE
            return False
    type = route_output(s, p, &src, &dst, oif)
    s.drop_reason = route_refusal(type)
    if type == 0 or s.drop_reason != DR_NO_ROUTE:
        return False
    if p.family == AF4 and src.b[0] == 127 and p.rt_oif != s.lo_ifindex and not s.sysctl[SYSCTL_ROUTE_LOCALNET]:
        # __mkroute_output: a loopback address is no source on a link
        l = link_get(s, p.rt_oif)
        if l == NULL or not l.route_localnet:
            s.drop_reason = DR_IP_LOCALNET
            return False
    trace_add(s, p, TR_ROUTE, type, p.rt_oif, 1, trace_aux(s, p.rt_nh.b, 16) if s.tracing else 0)
    return True
