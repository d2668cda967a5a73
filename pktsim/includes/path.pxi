# The way of a packet through one namespace. Each function is a stage and ends by calling the next; a packet that has to
# wait (for a neighbour, a reassembly, a hold) leaves as an upcall with ``stage``, ``hook`` and ``step`` set, and
# ``pkt_resume`` takes it on from there. Every function that is given a packet owns it: it passes it on or frees it.

cdef enum:
    STAGE_HOOK = 1             # within a hook, before ``step``
    STAGE_NEIGH = 2            # before the neighbour look-up
    STAGE_HOOK_DONE = 3        # behind a hook
    STAGE_REDIRECT = 4         # being forwarded, after its sender was told of a shorter way
    STAGE_OPTIONS = 6          # between its route and what is done with it
    STAGE_OPTIONS_OUT = 7      # behind FORWARD
    STAGE_FLOOD = 5            # being flooded, before port number ``phys_out``
    MAX_HOPS = 256             # times round lo: more than any TTL allows
    MAX_ROUNDS = 1 << 15       # ... of all packets of one arrival: what a packet was cut into, each with a TTL's rounds
    ETH_IP = 0x0800
    ETH_IPV6 = 0x86DD
    ETH_ARP = 0x0806
    VLAN_HLEN = 4
    IPV6_MIN_MTU = 1280
    AGEING_S = 300


cdef const char *BROADCAST_MAC = b"\xff\xff\xff\xff\xff\xff"
cdef const char *ZERO_MAC = b"\0\0\0\0\0\0"


cdef inline bint ct_enabled(State *s, int family) noexcept nogil:
    return s.ct.enabled4 if family == AF4 else s.ct.enabled6


cdef inline void pkt_daddr(const Pkt *p, Addr *a) noexcept nogil:
    addr_load(a, p.buf + p.l3 + (16 if p.family == AF4 else 24), p.family)


cdef inline void pkt_saddr(const Pkt *p, Addr *a) noexcept nogil:
    addr_load(a, p.buf + p.l3 + (12 if p.family == AF4 else 8), p.family)


cdef inline bint no_way_on(int reason) noexcept nogil:
    """Whether a packet that route_input has not let pass has a route all the same: to ip_error."""
    return (reason == DR_NO_ROUTE or reason == DR_NOT_FORWARDING or reason == DR_ROUTE_BLACKHOLE
            or reason == DR_ROUTE_UNREACHABLE or reason == DR_ROUTE_PROHIBIT)


cdef void ip_rcv_finish(State *s, Pkt *p) noexcept nogil:
    cdef int reason = 0
    cdef int code = -1
    cdef bint bounced
    if (p.rt_type == 0 or not p.flags & PF_LOOPED) and not p.flags & PF_BR_ROUTED:
        reason = route_input(s, p, &code)
    if p.family == AF4 and p.buf[p.l3] & 15 > 5 and not p.flags & PF_IP_OPTIONS and (reason == 0 or no_way_on(reason)):
        # ip_rcv_options, on the way to ip_error too
        p.flags |= PF_IP_OPTIONS
        p.stage = STAGE_OPTIONS
        pkt_upcall(s, p, UP_IP_OPTIONS, HOOK_PREROUTING, 0, 0)
        return
    if reason:
        trace_add(s, p, TR_ROUTE, 0, 0, 0, 0)
        if code >= 0:
            pkt_refuse(s, p, reason, 3 if p.family == AF4 else 1, code, 0)
        else:
            pkt_drop(s, p, reason)
        return
    bounced = p.flags & PF_BR_ROUTED != 0
    p.flags &= ~<uint32_t>PF_BR_ROUTED
    trace_add(s, p, TR_ROUTE, p.rt_type, p.rt_oif, 0, trace_aux(s, p.rt_nh.b, 16) if s.tracing else 0)
    if p.rt_type == RTN_UNICAST:
        if p.family == AF4:
            ip_forward(s, p)
        else:
            # ip6_rcv_core takes what br_netfilter has routed as having come in by where it is to go
            ip6_forward(s, p, bounced or p.in_if == p.rt_oif)
    else:
        ip_local_deliver(s, p)


cdef void ip_local_deliver(State *s, Pkt *p) noexcept nogil:
    if p.fragment & FRAG_ANY and p.family == AF4:
        # ip_local_deliver gathers fragments before INPUT (IP_DEFRAG_LOCAL_DELIVER); the resumed packet comes here again
        p.stage = STAGE_HOOK
        p.hook = HOOK_INPUT
        p.step = 0
        pkt_upcall(s, p, UP_DEFRAGMENT, HOOK_INPUT, 1, 0)
        return
    hook_enter(s, p, HOOK_INPUT)


cdef void ip_deliver(State *s, Pkt *p) noexcept nogil:
    trace_add(s, p, TR_DELIVER, p.proto, 0, 0, 0)
    pkt_upcall(s, p, UP_DELIVER, p.proto, 0, 0)


cdef inline uint32_t tos_priority(uint8_t tos) noexcept nogil:
    """rt_tos2priority: best effort, bulk, interactive, interactive bulk."""
    cdef int kind = tos >> 3 & 3
    return 0 if kind == 0 else 2 if kind == 1 else 6 if kind == 2 else 4


cdef void ip_forward(State *s, Pkt *p) noexcept nogil:
    """net/ipv4/ip_forward.c."""
    cdef uint8_t *ip = p.buf + p.l3
    cdef uint8_t old[2]
    cdef uint8_t new[2]
    cdef uint32_t n = p.end - p.l3
    if p.pkt_type != PKT_HOST:
        pkt_drop(s, p, DR_UNICAST_IN_L2_MULTICAST)
        return
    if ip[8] <= 1:
        pkt_refuse(s, p, DR_TTL_EXPIRED, 11, 0, 0)
        return
    if n > p.rt_mtu and (ip[6] & 0x40) and (not p.flags & PF_IGNORE_DF or p.frag_max > p.rt_mtu):
        pkt_refuse(s, p, DR_FRAGMENT_NEEDED, 3, 4, <int>p.rt_mtu)
        return
    old[0] = ip[8]
    old[1] = ip[9]
    ip[8] -= 1
    new[0] = ip[8]
    new[1] = ip[9]
    csum_replace(ip + 10, old, new, 2)
    trace_add(s, p, TR_TTL, ip[8], 0, 0, 0)
    p.flags |= PF_FORWARDED
    p.out_if = p.rt_oif
    p.priority = tos_priority(ip[1])
    if p.in_if == p.rt_oif and redirect_wanted(s, p):
        p.stage = STAGE_REDIRECT
        pkt_upcall(s, p, UP_ICMP_ERROR, 5, 1, 0)
        return
    hook_enter(s, p, HOOK_FORWARD)


cdef bint redirect_wanted(State *s, Pkt *p) noexcept nogil:
    """IPSKB_DOREDIRECT (__mkroute_input, net/ipv4/route.c): back out by the way it came, from a direct neighbour."""
    cdef Link *dev = link_get(s, p.in_if)
    cdef Addr src, gateway, masked
    cdef AddrEntry *a
    cdef int i
    if dev == NULL or not (dev.send_redirects or s.sysctl[SYSCTL_SEND_REDIRECTS]):
        return False
    if not p.flags & PF_SENDER_ON_LINK:
        return False
    pkt_saddr(p, &src)
    if dev.shared_media or s.sysctl[SYSCTL_SHARED_MEDIA]:
        return True
    # inet_addr_onlink: sender and next hop are in one network of the device
    if p.rt_gateway:
        gateway = p.rt_nh
    else:
        pkt_daddr(p, &gateway)
    for i in range(s.n_addrs):
        a = s.addrs + i
        if a.family == AF4 and a.ifindex == p.in_if:
            addr_masked(&masked, &a.addr, a.plen)
            if prefix_match(&src, &masked, a.plen) and prefix_match(&gateway, &masked, a.plen):
                return True
    return False


cdef void ip6_forward(State *s, Pkt *p, bint bounced) noexcept nogil:
    """net/ipv6/ip6_output.c. ``bounced``: it goes back by the way it came."""
    cdef uint8_t *ip = p.buf + p.l3
    cdef Link *out = link_get(s, p.rt_oif)
    # ip6_dst_mtu_maybe_forward: what the device takes; that less fits the path is only found when it leaves
    cdef uint32_t mtu = <uint32_t>out.mtu if out != NULL and out.mtu > IPV6_MIN_MTU else IPV6_MIN_MTU
    cdef Addr src
    if p.pkt_type != PKT_HOST:
        pkt_drop(s, p, DR_UNICAST_IN_L2_MULTICAST)
        return
    if ip[7] <= 1:
        pkt_refuse(s, p, DR_TTL_EXPIRED, 3, 0, 0)
        return
    if not bounced:
        pkt_saddr(p, &src)
        if addr_zero(&src) or (src.q[0] == 0 and src.w[2] == 0 and src.b[12] == 0 and src.b[13] == 0 and src.b[14] == 0
                               and src.b[15] == 1):
            pkt_drop(s, p, DR_MARTIAN_SOURCE)
            return
        if src.b[0] == 0xFE and (src.b[1] & 0xC0) == 0x80:
            # beyond the scope of its source address
            pkt_refuse(s, p, DR_MARTIAN_SOURCE, 1, 2, 0)
            return
    elif not p.flags & PF_REDIRECTED:
        # the sender may be told of a shorter way; then the packet comes here again
        p.flags |= PF_REDIRECTED
        p.stage = STAGE_REDIRECT
        pkt_upcall(s, p, UP_ICMP_ERROR, 137, 0, 0)
        return
    # ip6_pkt_too_big: what was gathered from fragments that fit is cut again (ignore_df)
    if p.end - p.l3 > mtu and (not p.flags & PF_IGNORE_DF or p.frag_max > mtu):
        pkt_refuse(s, p, DR_FRAGMENT_NEEDED, 2, 0, <int>mtu)
        return
    ip[7] -= 1
    trace_add(s, p, TR_TTL, ip[7], 0, 0, 0)
    p.flags |= PF_FORWARDED
    p.out_if = p.rt_oif
    hook_enter(s, p, HOOK_FORWARD)


# ---------------------------------------------------------------------------------------------------------------- send

cdef void ip_local_out(State *s, Pkt *p) noexcept nogil:
    """A socket's packet: its source is settled, its headers complete."""
    cdef Addr src, dst
    cdef int type, reason
    if (p.buf[p.l3] >> 4) == 6:
        p.ethertype = ETH_IPV6
        reason = ip6_check(s, p)
    else:
        p.ethertype = ETH_IP
        reason = ip_check(s, p)
    if reason:
        pkt_drop(s, p, reason)
        return
    p.flags |= PF_LOCAL
    p.pkt_type = PKT_HOST
    pkt_saddr(p, &src)
    pkt_daddr(p, &dst)
    type = route_output(s, p, &src, &dst, p.sk_ifindex)
    if type == 0 or type == RTN_BLACKHOLE or type == RTN_UNREACHABLE or type == RTN_PROHIBIT:
        pkt_drop(s, p, route_refusal(type))
        return
    trace_add(s, p, TR_ROUTE, type, p.rt_oif, 0, trace_aux(s, p.rt_nh.b, 16) if s.tracing else 0)
    p.in_if = 0
    p.out_if = p.rt_oif
    hook_enter(s, p, HOOK_OUTPUT)


cdef void do_tee(State *s, Pkt *p, const uint8_t *to, int hook) noexcept nogil:
    """nf_dup_ipv4 and nf_dup_ipv6: a copy, untracked, leaves for another next hop by way of OUTPUT, before ``p`` goes on.

    ``to``: the gateway, and the name of the device or nothing.
    """
    cdef Pkt *c
    cdef uint8_t *ip
    cdef Addr gateway
    cdef RouteResult r
    cdef int i, oif = 0
    if s.in_duplicate:
        return
    s.clones += 1
    if s.clones > MAX_CLONES:
        pkt_drop(s, pkt_clone(s, p), DR_LOOP)
        return
    if to[16]:
        for i in range(1, s.n_links):
            if s.links[i].ifindex and memcmp(s.links[i].name, to + 16, 16) == 0:
                oif = i
        if oif == 0:
            return                 # no such device: ip_route_output_key fails
    c = pkt_clone(s, p)
    if c.ct != NULL:
        ct_put(s, c.ct)
        c.ct = NULL
    c.ctinfo = CTINFO_UNTRACKED
    c.tmpl_set = 0
    c.flags = (c.flags & ~<uint32_t>(PF_BRIDGED | PF_LOOPED | PF_FORWARDED | PF_MC_LOOP)) | PF_LOCAL
    c.uid = 0xFFFFFFFE         # NO_SOCKET
    c.sk_ifindex = 0
    ip = c.buf + c.l3
    if c.family == AF4:
        ip[6] |= 0x40
        if hook == HOOK_PREROUTING or hook == HOOK_INPUT:
            ip[8] -= 1
        ip_fix_checksum(ip)
    elif hook == HOOK_PREROUTING or hook == HOOK_INPUT:
        ip[7] -= 1
    addr_load(&gateway, to, c.family)
    if not tee_route(s, c, &gateway, oif, &r):
        pkt_drop(s, c, DR_NO_ROUTE)
        return
    route_attach(s, c, &r)
    trace_add(s, c, TR_ROUTE, c.rt_type, c.rt_oif, 0, trace_aux(s, c.rt_nh.b, 16) if s.tracing else 0)
    c.in_if = 0
    c.out_if = c.rt_oif
    s.in_duplicate = 1
    hook_enter(s, c, HOOK_OUTPUT)
    s.in_duplicate = 0


cdef bint tee_route(State *s, Pkt *p, const Addr *gateway, int oif, RouteResult *r) noexcept nogil:
    """nf_dup_ipv4_route: the way to the gateway, which is then the next hop whatever the packet says."""
    cdef Addr src
    cdef int type
    src.q[0] = 0
    src.q[1] = 0
    type = fib_lookup(s, p.family, gateway, &src, 0, s.lo_ifindex, oif, r)
    if type == RTN_LOCAL or type == RTN_ANYCAST:
        r.oif = s.lo_ifindex
        r.mtu = 0
    elif type == 0 and oif and p.family == AF4:
        memset(r, 0, sizeof(RouteResult))
        r.type = RTN_UNICAST
        r.oif = oif
    elif type != RTN_UNICAST:
        return False
    if not r.gateway:
        r.nexthop = gateway[0]
        r.gateway = 1              # FLOWI_FLAG_KNOWN_NH
    return True


cdef void ip_output(State *s, Pkt *p) noexcept nogil:
    """ip_output: the route's device, POSTROUTING. What goes to all is also for us (ip_mc_output): a copy comes back."""
    cdef Pkt *copy
    p.out_if = p.rt_oif
    if p.flags & PF_LOCAL and not p.flags & PF_LOOPED and p.rt_oif != s.lo_ifindex and mc_loops(p):
        copy = pkt_clone(s, p)
        copy.flags |= PF_MC_LOOP
        hook_enter(s, copy, HOOK_POSTROUTING)
    hook_enter(s, p, HOOK_POSTROUTING)


cdef bint mc_loops(const Pkt *p) noexcept nogil:
    """RTCF_LOCAL of a broadcast or multicast route (__mkroute_output): groups joined everywhere are all-hosts alone."""
    cdef const uint8_t *daddr = p.buf + p.l3 + 16
    if p.family != AF4:
        return False
    if p.rt_type == RTN_BROADCAST:
        return True
    if p.rt_type != RTN_MULTICAST:
        return False               # a copy that TEE sends to a gateway
    return daddr[0] == 224 and daddr[1] == 0 and daddr[2] == 0 and daddr[3] == 1


cdef void lo_queue(State *s, Pkt *p) noexcept nogil:
    """netif_rx: behind what is under way."""
    p.hops += 1
    s.rounds += 1
    if p.hops > MAX_HOPS or s.rounds > MAX_ROUNDS:
        # the kernel would go on for ever; MAX_CLONES copies, each with its rounds, would take minutes and gigabytes
        pkt_drop(s, p, DR_LOOP)
        return
    p.flags |= PF_LOOPED
    p.next = NULL
    if s.lo_last == NULL:
        s.lo_first = p
    else:
        s.lo_last.next = p
    s.lo_last = p


cdef void ip_finish_output(State *s, Pkt *p) noexcept nogil:
    cdef Link *l = link_get(s, p.rt_oif)
    cdef Addr dst
    cdef Pkt *copy
    if l == NULL or not l.up:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    p.dev = p.rt_oif
    if p.flags & PF_MC_LOOP:
        # dev_loopback_xmit: received as from the device it was to leave by, the route being known
        lo_queue(s, p)
        return
    if p.family == AF6 and p.flags & PF_LOCAL and not p.flags & PF_ONLINK:
        # ip6_finish_output2 goes by the address: TEE's copy of what is for a group comes back though its gateway is one;
        # only neighbour discovery's socket does not want its messages back
        pkt_daddr(p, &dst)
        if dst.b[0] == 0xFF and p.rt_oif != s.lo_ifindex and group_joined(s, p.rt_oif, &dst):
            copy = pkt_clone(s, p)
            copy.flags |= PF_MC_LOOP
            hook_enter(s, copy, HOOK_POSTROUTING)
            if p.buf[p.l3 + 7] == 0:
                pkt_drop(s, p, DR_TTL_EXPIRED)
                return
        if dst.b[0] == 0xFF and p.rt_oif != s.lo_ifindex and dst.b[1] & 15 <= 1:
            pkt_drop(s, p, DR_MARTIAN_DESTINATION)  # it does not leave the host
            return
    # ip_finish_output asks only whether it was gathered, ip6_finish_output whether any fragment was as long as all of it
    if p.end - p.l3 > p.rt_mtu or (p.frag_max and (p.family == AF4 or p.frag_max < p.end - p.l3)):
        pkt_upcall(s, p, UP_FRAGMENT, p.rt_oif, <int>p.rt_mtu, <int>p.frag_max)
        return
    neigh_output(s, p)


cdef void neigh_output(State *s, Pkt *p) noexcept nogil:
    """Find the link-layer address of the next hop and give the frame to the device."""
    cdef Link *l = link_get(s, p.rt_oif)
    cdef Addr nh
    cdef uint8_t mac[6]
    cdef Neighbour *n = NULL
    cdef EventRec *e
    if l == NULL or not l.up:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    p.dev = p.rt_oif
    if p.rt_gateway:
        nh = p.rt_nh
    else:
        pkt_daddr(p, &nh)
    if l.kind == LINK_LOOPBACK or l.noarp:
        memset(mac, 0, 6)
    elif p.rt_type == RTN_BROADCAST and not p.rt_gateway:
        memset(mac, 0xFF, 6)
    elif p.family == AF4 and (nh.b[0] & 0xF0) == 0xE0:
        # RFC 1112 section 6.4
        mac[0] = 0x01
        mac[1] = 0x00
        mac[2] = 0x5E
        mac[3] = nh.b[1] & 0x7F
        mac[4] = nh.b[2]
        mac[5] = nh.b[3]
    elif p.family == AF6 and nh.b[0] == 0xFF:
        # RFC 2464 section 7
        mac[0] = 0x33
        mac[1] = 0x33
        memcpy(mac + 2, nh.b + 12, 4)
    else:
        n = neigh_find(s, p.family, p.rt_oif, &nh)
        if n == NULL or n.cls == NEIGH_ABSENT:
            p.stage = STAGE_NEIGH
            e = pkt_upcall(s, p, UP_NEIGHBOUR_MISS, p.rt_oif, 0, 0)
            e.addr = nh
            e.addr_len = addr_len(p.family)
            return
        memcpy(mac, n.mac, 6)
    trace_add(s, p, TR_NEIGHBOUR, n.cls if n != NULL else NEIGH_CONNECTED, p.rt_oif, 0,
              trace_aux(s, mac, 6) if s.tracing else 0)
    if n != NULL and n.cls == NEIGH_USABLE:
        e = event_add(s, EV_UPCALL)
        e.pkt_id = p.id
        e.reason = UP_NEIGHBOUR_USED
        e.a = p.rt_oif
        e.addr = nh
        e.addr_len = addr_len(p.family)
        s.upcalls[UP_NEIGHBOUR_USED] += 1
    pkt_push_eth(p, mac, <uint8_t *>l.mac if l.kind != LINK_LOOPBACK else <uint8_t *>ZERO_MAC)
    dev_transmit(s, p, l)


cdef void dev_transmit(State *s, Pkt *p, Link *l) noexcept nogil:
    """dev_queue_xmit: ``p.l2`` is the Ethernet header; what happens next is the device's kind."""
    p.dev = l.ifindex
    if not l.up:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    if l.kind == LINK_WIRE:
        trace_add(s, p, TR_TX, l.ifindex, 0, 0, 0)
        event_frame(s, EV_TX, p, l.ifindex, p.l2)
        pkt_free(s, p)
    elif l.kind == LINK_LOOPBACK:
        # loopback_xmit: keeps the connection, the mark and the route
        lo_queue(s, p)
    elif l.kind == LINK_BRIDGE:
        trace_add(s, p, TR_TX, l.ifindex, 0, 0, 0)
        if s.capture:
            event_frame(s, EV_TX, p, l.ifindex, p.l2)
        br_transmit(s, p, l)
    elif l.kind == LINK_VXLAN:
        trace_add(s, p, TR_TX, l.ifindex, 0, 0, 0)
        if s.capture:
            event_frame(s, EV_TX, p, l.ifindex, p.l2)
        pkt_upcall(s, p, UP_VXLAN_XMIT, l.ifindex, 0, 0)
    else:
        trace_add(s, p, TR_TX, l.ifindex, 0, 0, 0)
        if s.capture:
            event_frame(s, EV_TX, p, l.ifindex, p.l2)
        pkt_free(s, p)


cdef void lo_drain(State *s) noexcept nogil:
    """Receive what was sent to lo meanwhile, in order."""
    cdef Pkt *p
    while s.lo_first != NULL:
        p = s.lo_first
        s.lo_first = p.next
        if s.lo_first == NULL:
            s.lo_last = NULL
        p.next = NULL
        p.phys_in = 0
        p.phys_out = 0
        p.step = 0
        if p.flags & PF_MC_LOOP:
            p.pkt_type = PKT_BROADCAST if p.rt_type == RTN_BROADCAST else PKT_MULTICAST
            netif_receive(s, p)
        else:
            dev_receive(s, p, s.lo_ifindex)


# -------------------------------------------------------------------------------------------------------------- resume

cdef void pkt_resume(State *s, Pkt *p) noexcept nogil:
    """Take a packet on from where it left."""
    cdef int hook = p.hook
    if p.stage == STAGE_NEIGH:
        neigh_output(s, p)
    elif p.stage == STAGE_REDIRECT:
        if p.family == AF6:
            ip6_forward(s, p, True)
        else:
            hook_enter(s, p, HOOK_FORWARD)
    elif p.stage == STAGE_OPTIONS:
        ip_rcv_finish(s, p)
    elif p.stage == STAGE_OPTIONS_OUT:
        ip_output(s, p)
    elif p.stage == STAGE_FLOOD:
        br_flood_on(s, p)
    elif p.stage == STAGE_HOOK:
        if p.step == 0 and hook == HOOK_INPUT:
            hook_enter(s, p, HOOK_INPUT)
            return
        if p.step < 64:
            p.fragment = 0
            pkt_parse_l4(p)
            if p.step == STEP_DEFRAG:
                p.step = STEP_DEFRAG + 1   # a fragment that nobody wanted to gather goes on as it is
        if hook_run(s, p, hook) == NF_ACCEPT:
            hook_done(s, p, hook)
    else:
        pkt_free(s, p)
