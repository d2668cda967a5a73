# The way of a packet through one namespace. Each function is a stage and ends by calling the next; a packet that has to
# wait (for a neighbour, a reassembly, a hold) leaves as an upcall with ``stage``, ``hook`` and ``step`` set, and
# ``pkt_resume`` takes it on from there. Every function that is given a packet owns it: it passes it on or frees it.

cdef enum:
    STAGE_HOOK = 1             # within a hook, before ``step``
    STAGE_NEIGH = 2            # before the neighbour look-up
    STAGE_HOOK_DONE = 3        # behind a hook
    STAGE_REDIRECT = 4         # being forwarded, after its sender was told of a shorter way
    HOOK_MASK_PRE = 1 << STEP_DEFRAG | 1 << STEP_RAW | 1 << STEP_CONNTRACK | 1 << STEP_MANGLE | 1 << STEP_NAT_DST
    HOOK_MASK_IN = 1 << STEP_MANGLE | 1 << STEP_FILTER | 1 << STEP_SECURITY | 1 << STEP_NAT_SRC | 1 << STEP_CONFIRM
    HOOK_MASK_FWD = 1 << STEP_MANGLE | 1 << STEP_FILTER | 1 << STEP_SECURITY
    HOOK_MASK_OUT = HOOK_MASK_PRE | 1 << STEP_FILTER | 1 << STEP_SECURITY
    HOOK_MASK_POST = 1 << STEP_MANGLE | 1 << STEP_NAT_SRC | 1 << STEP_CONFIRM
    MAX_HOPS = 32              # times round lo or through bridges of one namespace
    ETH_IP = 0x0800
    ETH_IPV6 = 0x86DD
    ETH_ARP = 0x0806
    VLAN_HLEN = 4
    AGEING_S = 300


cdef const char *BROADCAST_MAC = b"\xff\xff\xff\xff\xff\xff"
cdef const char *ZERO_MAC = b"\0\0\0\0\0\0"


cdef inline int hook_mask(int hook) noexcept nogil:
    if hook == HOOK_PREROUTING:
        return HOOK_MASK_PRE
    if hook == HOOK_INPUT:
        return HOOK_MASK_IN
    if hook == HOOK_FORWARD:
        return HOOK_MASK_FWD
    if hook == HOOK_OUTPUT:
        return HOOK_MASK_OUT
    return HOOK_MASK_POST


cdef inline bint ct_enabled(State *s, int family) noexcept nogil:
    return s.ct.enabled4 if family == AF4 else s.ct.enabled6


cdef inline void pkt_daddr(const Pkt *p, Addr *a) noexcept nogil:
    addr_load(a, p.buf + p.l3 + (16 if p.family == AF4 else 24), p.family)


cdef inline void pkt_saddr(const Pkt *p, Addr *a) noexcept nogil:
    addr_load(a, p.buf + p.l3 + (12 if p.family == AF4 else 8), p.family)


# ---------------------------------------------------------------------------------------------------------------- hooks

cdef int nat_rules(State *s, Pkt *p, int hook, int manip) noexcept nogil:
    """The chains that decide mappings, by priority, until one has (nf_nat_inet_fn)."""
    cdef int f = 1 if p.family == AF6 else 0
    cdef int i, verdict
    cdef HookEntry *e = s.nat_chains[f][hook]
    if e == NULL:
        return run_table(s, p, TABLE_NAT, hook)
    for i in range(s.n_nat_chains[f][hook]):
        verdict = run_table(s, p, TABLE_NAT, hook) if e[i].table < 0 else run_nft(s, p, e + i, hook)
        if verdict != NF_ACCEPT or nat_initialized(p.ct, manip):
            return verdict
    return NF_ACCEPT


cdef int run_nft(State *s, Pkt *p, const HookEntry *e, int hook) noexcept nogil:
    """A base chain of nft."""
    if not 0 <= e.table < s.n_nft:
        return NF_ACCEPT
    trace_add(s, p, TR_TABLE, NFT_TABLES + e.table, hook, e.chain, 0)
    return run_program(s, p, &s.nft[e.table].t, NFT_TABLES + e.table, hook, e.row)


cdef int nat_step(State *s, Pkt *p, int hook, int manip) noexcept nogil:
    """nf_nat_inet_fn with the table's chain as its rule source (net/netfilter/nf_nat_core.c)."""
    cdef Ct *ct = p.ct
    cdef int verdict
    if ct == NULL:
        return NF_ACCEPT
    if p.ctinfo == CTINFO_RELATED or p.ctinfo == CTINFO_RELATED_REPLY:
        if (p.family == AF4 and p.proto == 1) or (p.family == AF6 and p.proto == 58):
            if not nat_icmp_reply(s, p, hook):
                s.drop_reason = DR_NAT
                return NF_DROP
            return NF_ACCEPT
    if p.ctinfo == CTINFO_NEW or p.ctinfo == CTINFO_RELATED or p.ctinfo == CTINFO_RELATED_REPLY:
        if not nat_initialized(ct, manip):
            verdict = nat_rules(s, p, hook, manip)
            if verdict != NF_ACCEPT:
                return verdict
            if not nat_initialized(ct, manip):
                verdict = nat_null_binding(s, p, hook, manip)
                if verdict != NF_ACCEPT:
                    return verdict
    return nat_packet(s, p, hook)


cdef bint nat_table_loaded(State *s, int family) noexcept nogil:
    cdef int f = 1 if family == AF6 else 0
    return s.tables[f][TABLE_NAT].program != NULL or s.nat_loaded[f]


cdef int nat_hooked(State *s, Pkt *p, int hook, int manip) noexcept nogil:
    """nf_nat_ipv4_pre_routing, _local_in, _local_fn and _out: the NAT step and what must follow where it moved a packet."""
    cdef Addr before, after
    cdef int verdict
    if hook == HOOK_OUTPUT:
        pkt_daddr(p, &before)
        verdict = nat_step(s, p, hook, manip)
        if verdict != NF_ACCEPT:
            return verdict
        if p.ct != NULL:
            pkt_daddr(p, &after)
            if not addr_eq(&before, &after) and not route_me_harder(s, p):
                return NF_DROP
        return NF_ACCEPT
    if hook == HOOK_PREROUTING:
        pkt_daddr(p, &before)
        verdict = nat_step(s, p, hook, manip)
        if verdict == NF_ACCEPT:
            pkt_daddr(p, &after)
            if not addr_eq(&before, &after):
                p.rt_type = 0      # skb_dst_drop: what came by lo had its route
        return verdict
    return nat_step(s, p, hook, manip)


cdef int rerouting(State *s, Pkt *p, const HookEntry *e) noexcept nogil:
    """ipt_mangle_out and nft_route_hook: what decides the route may have changed. NULL: the mangle table."""
    cdef Addr src, dst, src2, dst2
    cdef uint32_t mark = p.mark
    cdef uint8_t tos = p.buf[p.l3 + 1]
    cdef int verdict
    pkt_saddr(p, &src)
    pkt_daddr(p, &dst)
    verdict = run_table(s, p, TABLE_MANGLE, HOOK_OUTPUT) if e == NULL else run_nft(s, p, e, HOOK_OUTPUT)
    if verdict == NF_DROP or verdict == NF_STOLEN:
        return verdict
    pkt_saddr(p, &src2)
    pkt_daddr(p, &dst2)
    if mark != p.mark or tos != p.buf[p.l3 + 1] or not addr_eq(&src, &src2) or not addr_eq(&dst, &dst2):
        if not route_me_harder(s, p):
            return NF_DROP
    return verdict


cdef inline int hook_step(State *s, Pkt *p, int hook, int step) noexcept nogil:
    """One built-in step of a hook."""
    if step == STEP_RAW:
        return run_table(s, p, TABLE_RAW, hook)
    if step == STEP_MANGLE:
        return rerouting(s, p, NULL) if hook == HOOK_OUTPUT else run_table(s, p, TABLE_MANGLE, hook)
    if step == STEP_FILTER:
        return run_table(s, p, TABLE_FILTER, hook)
    if step == STEP_SECURITY:
        return run_table(s, p, TABLE_SECURITY, hook)
    if step == STEP_DEFRAG:
        if p.fragment and p.ct == NULL and (s.ct.gathers4 if p.family == AF4 else s.ct.gathers6):
            p.stage = STAGE_HOOK
            p.step = STEP_DEFRAG
            pkt_upcall(s, p, UP_DEFRAGMENT, hook, 0, 0)
            return NF_STOLEN
        return NF_ACCEPT
    if not ct_enabled(s, p.family):
        return NF_ACCEPT
    if step == STEP_CONNTRACK:
        return ct_in(s, p, hook)
    elif step == STEP_NAT_DST or step == STEP_NAT_SRC:
        if nat_table_loaded(s, p.family):
            return nat_hooked(s, p, hook, MANIP_DST if step == STEP_NAT_DST else MANIP_SRC)
    elif step == STEP_CONFIRM:
        return ct_confirm(s, p)
    return NF_ACCEPT


cdef inline bint hook_held(State *s, Pkt *p, int hook, int step) noexcept nogil:
    """Whether the packet is to wait before this step; it is gone then."""
    if not s.hold[hook] & (1 << step) or p.step == step + 64:
        return False
    p.stage = STAGE_HOOK
    p.step = step + 64             # do not hold it here a second time
    pkt_upcall(s, p, UP_HELD, hook, step, 0)
    return True


cdef inline bint hook_ended(State *s, Pkt *p, int verdict) noexcept nogil:
    """Whether a step was the packet's last. NF_BYPASS goes on as NF_ACCEPT does."""
    if verdict == NF_DROP:
        pkt_drop(s, p, s.drop_reason)
        return True
    if verdict == NF_STOLEN:
        return True
    if s.failed:
        pkt_drop(s, p, DR_UNSUPPORTED)
        return True
    return False


cdef int hook_run(State *s, Pkt *p, int hook) noexcept nogil:
    """All steps of a hook from ``p.step`` on. NF_ACCEPT, or the packet is gone (NF_STOLEN)."""
    cdef int step
    cdef int mask = hook_mask(hook)
    p.hook = hook
    if s.hooks[1 if p.family == AF6 else 0][hook] != NULL:
        return hook_run_ordered(s, p, hook)
    for step in range(p.step & 63, STEP_CONFIRM + 1):
        if not mask & (1 << step):
            continue
        if hook_held(s, p, hook, step):
            return NF_STOLEN
        if hook_ended(s, p, hook_step(s, p, hook, step)):
            return NF_STOLEN
    p.step = 0
    return NF_ACCEPT


cdef int hook_run_ordered(State *s, Pkt *p, int hook) noexcept nogil:
    """The same where nft chains lie among the steps."""
    cdef int f = 1 if p.family == AF6 else 0
    cdef HookEntry *e = s.hooks[f][hook]
    cdef int n = s.n_hooks[f][hook]
    cdef int i = 0, k, verdict
    if p.step:
        # where it was held, or behind the steps that it has been through
        for k in range(n):
            if e[k].step + 64 == p.step:
                i = k
                break
            if e[k].step < p.step and p.step < 64:
                i = k + 1
    while i < n:
        if e[i].step == STEP_NFT:
            verdict = rerouting(s, p, e + i) if e[i].reroutes else run_nft(s, p, e + i, hook)
        elif hook_held(s, p, hook, e[i].step):
            return NF_STOLEN
        else:
            verdict = hook_step(s, p, hook, e[i].step)
        if hook_ended(s, p, verdict):
            return NF_STOLEN
        i += 1
    p.step = 0
    return NF_ACCEPT


cdef void hook_enter(State *s, Pkt *p, int hook) noexcept nogil:
    p.step = 0
    trace_add(s, p, TR_HOOK, hook, 1 if p.flags & PF_BRIDGED else 0, p.in_if, p.out_if)
    if hook_run(s, p, hook) == NF_ACCEPT:
        hook_done(s, p, hook)


cdef void hook_done(State *s, Pkt *p, int hook) noexcept nogil:
    """What follows a hook, by how the packet came to it."""
    if p.flags & PF_BRIDGED:
        if hook == HOOK_PREROUTING:
            br_nf_prerouting_finish(s, p)
        elif hook == HOOK_FORWARD:
            br_nf_forward_finish(s, p)
        else:
            br_nf_postrouting_finish(s, p)
    elif hook == HOOK_PREROUTING:
        ip_rcv_finish(s, p)
    elif hook == HOOK_INPUT:
        ip_deliver(s, p)
    elif hook == HOOK_FORWARD:
        ip_output(s, p)
    elif hook == HOOK_OUTPUT:
        ip_output(s, p)
    else:
        ip_finish_output(s, p)


# ------------------------------------------------------------------------------------------------------------- receive

cdef void dev_receive(State *s, Pkt *p, int ifindex) noexcept nogil:
    """A frame arrives at a device: ``p.l2`` is its Ethernet header."""
    cdef Link *l = link_get(s, ifindex)
    cdef uint8_t *eth
    cdef uint32_t n = p.end - p.l2
    p.dev = ifindex
    if l == NULL or not l.up:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    if n < 14:
        pkt_drop(s, p, DR_FRAME_TOO_SHORT)
        return
    # __is_skb_forwardable, asked by veth's far end: such a frame never gets in
    if l.kind == LINK_WIRE and n > <uint32_t>l.mtu + 14 + VLAN_HLEN:
        pkt_drop(s, p, DR_MTU)
        return
    eth = p.buf + p.l2
    p.ethertype = rd16(eth + 12)
    p.l3 = p.l2 + 14
    if eth[0] & 1:
        p.pkt_type = PKT_BROADCAST if memcmp(eth, BROADCAST_MAC, 6) == 0 else PKT_MULTICAST
    elif memcmp(eth, l.mac, 6) == 0:
        p.pkt_type = PKT_HOST
    else:
        p.pkt_type = PKT_OTHERHOST
    p.in_if = ifindex
    trace_add(s, p, TR_RX, ifindex, 0, 0, trace_aux(s, eth, n) if s.tracing else 0)
    if s.capture:
        event_frame(s, EV_RX, p, ifindex, p.l2)
    if l.master:
        br_receive(s, p, l)
        return
    netif_receive(s, p)


cdef void netif_receive(State *s, Pkt *p) noexcept nogil:
    """To the protocol of the frame's ethertype."""
    if p.ethertype == ETH_IP:
        ip_rcv(s, p)
    elif p.ethertype == ETH_IPV6:
        ip6_rcv(s, p)
    elif p.pkt_type == PKT_OTHERHOST:
        pkt_drop(s, p, DR_OTHER_HOST)
    elif p.ethertype == ETH_ARP:
        p.in_if = p.dev
        pkt_upcall(s, p, UP_ARP, p.dev, 0, 0)
    else:
        pkt_upcall(s, p, UP_OTHER_L2, p.dev, p.ethertype, 0)


cdef int ip_check(State *s, Pkt *p) noexcept nogil:
    """ip_rcv_core: the header is sound and the packet trimmed to its length. 0 or the DropReason."""
    cdef uint8_t *ip = p.buf + p.l3
    cdef uint32_t n = p.end - p.l3
    cdef uint32_t ihl, total
    p.family = AF4
    if n < 20:
        return DR_IP_HEADER
    ihl = (ip[0] & 15) * 4
    if ip[0] >> 4 != 4 or ihl < 20 or n < ihl:
        return DR_IP_HEADER
    if ip_header_sum(ip, ihl) != 0:
        return DR_IP_CHECKSUM
    total = rd16(ip + 2)
    if n < total or total < ihl:
        return DR_IP_HEADER
    p.end = p.l3 + total
    pkt_parse_l4(p)
    return 0


cdef void ip_rcv(State *s, Pkt *p) noexcept nogil:
    cdef int reason
    if p.pkt_type == PKT_OTHERHOST:
        pkt_drop(s, p, DR_OTHER_HOST)
        return
    reason = ip_check(s, p)
    if reason:
        pkt_drop(s, p, reason)
        return
    p.in_if = p.dev
    p.out_if = 0
    if p.flags & PF_BR_PASSED:
        # ip_sabotage_in: br_netfilter has been through PREROUTING with it
        p.flags &= ~<uint32_t>(PF_BR_PASSED | PF_BRIDGED | PF_FRAG_PMTU)
        p.frag_max = 0             # IPCB is cleared: what was gathered for the bridge is not cut again
        p.phys_out = 0             # nf_bridge_info stays, so that -m physdev still knows the port
        ip_rcv_finish(s, p)
        return
    hook_enter(s, p, HOOK_PREROUTING)


cdef int ip6_check(State *s, Pkt *p) noexcept nogil:
    """ip6_rcv_core."""
    cdef uint8_t *ip = p.buf + p.l3
    cdef uint32_t n = p.end - p.l3
    cdef uint32_t payload
    p.family = AF6
    if n < 40 or ip[0] >> 4 != 6:
        return DR_IP_HEADER
    # RFC 4291 2.5.3: nothing from or to the loopback address on a link; multicast is no source
    if ip[8] == 0xFF:
        return DR_MARTIAN_SOURCE
    payload = rd16(ip + 4)
    if payload or ip[6] != 0:
        if n < payload + 40:
            return DR_IP_HEADER
        p.end = p.l3 + 40 + payload
    pkt_parse_l4(p)
    return 0


cdef int ip6_hop_options(const Pkt *p, int *code, int *pointer) noexcept nogil:
    """ipv6_parse_hopopts and ip6_parse_tlv, on every packet that comes in with a hop-by-hop header.

    Returns:
        0, or the DropReason; where ``pointer`` is not 0 the sender is told what is wrong there (ICMPv6 type 4).
    """
    cdef const uint8_t *ip = p.buf + p.l3
    cdef uint32_t n = p.end - p.l3
    cdef uint32_t off = 42
    cdef uint32_t end, i
    cdef uint32_t size
    cdef uint32_t padding = 0
    cdef uint32_t options = 0
    cdef uint8_t kind
    pointer[0] = 0
    code[0] = 2                        # ICMPV6_UNK_OPTION
    if n < 48:
        return DR_IP_HEADER
    end = 40 + (ip[41] + 1) * 8
    if end > n:
        return DR_IP_HEADER
    while off < end:
        kind = ip[off]
        if kind == 0:                  # Pad1
            padding += 1
            if padding > 7:
                return DR_IP_HEADER
            off += 1
            continue
        if off + 2 > end or off + 2 + ip[off + 1] > end:
            return DR_IP_HEADER
        size = ip[off + 1] + 2
        if kind == 1:                  # PadN: short, and all zero (RFC 4942 section 2.1.9.5)
            padding += size
            if padding > 7:
                return DR_IP_HEADER
            for i in range(2, size):
                if ip[off + i]:
                    return DR_IP_HEADER
        else:
            padding = 0
            options += 1
            if options > 8:            # max_hbh_opts_number
                return DR_IP_HEADER
            if kind == 5:              # router alert: nobody here listens for it
                if size != 4:
                    return DR_IP_HEADER
            elif kind == 194:          # jumbo payload, of which no frame here is large enough
                if size != 6 or off & 3 != 2:
                    return DR_IP_HEADER
                code[0] = 0            # ICMPV6_HDR_FIELD
                if rd32(ip + off + 2) <= 0xFFFF:
                    pointer[0] = <int>off + 2
                elif ip[4] or ip[5]:
                    pointer[0] = <int>off
                return DR_IP_HEADER
            elif kind == 49:           # in-situ OAM, which is off: not looked at, but for its alignment
                if off & 3:
                    return DR_IP_HEADER
            elif kind >> 6:
                # RFC 8200 section 4.2: 01 discard, 10 tell, 11 tell unless it was sent to a group
                if kind >> 6 == 2 or (kind >> 6 == 3 and ip[24] != 0xFF):
                    pointer[0] = <int>off
                return DR_IP_HEADER
        off += size
    return 0


cdef void ip6_rcv(State *s, Pkt *p) noexcept nogil:
    cdef int reason
    cdef int code = 0
    cdef int pointer = 0
    cdef Addr a
    if p.pkt_type == PKT_OTHERHOST:
        pkt_drop(s, p, DR_OTHER_HOST)
        return
    reason = ip6_check(s, p)
    if reason:
        pkt_drop(s, p, reason)
        return
    if p.dev != s.lo_ifindex:
        pkt_saddr(p, &a)
        if a.q[0] == 0 and a.w[2] == 0 and a.b[15] == 1 and a.b[14] == 0:
            pkt_drop(s, p, DR_MARTIAN_SOURCE)
            return
        pkt_daddr(p, &a)
        if a.q[0] == 0 and a.w[2] == 0 and a.b[15] == 1 and a.b[14] == 0:
            pkt_drop(s, p, DR_MARTIAN_DESTINATION)
            return
    p.in_if = p.dev
    p.out_if = 0
    if p.buf[p.l3 + 6] == 0:
        reason = ip6_hop_options(p, &code, &pointer)
        if reason:
            if pointer:
                pkt_refuse(s, p, reason, 4, code, pointer)
            else:
                pkt_drop(s, p, reason)
            return
    if p.flags & PF_BR_PASSED:
        p.flags &= ~<uint32_t>(PF_BR_PASSED | PF_BRIDGED)
        p.frag_max = 0
        p.phys_out = 0
        ip_rcv_finish(s, p)
        return
    hook_enter(s, p, HOOK_PREROUTING)


# ------------------------------------------------------------------------------------------------------------- routing

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
    cdef bint forwarding
    icmp_code[0] = -1
    pkt_saddr(p, &src)
    pkt_daddr(p, &dst)
    if p.family == AF6:
        return route_input6(s, p, &src, &dst, icmp_code)
    forwarding = dev != NULL and (dev.forwarding if dev.forwarding >= 0 else s.sysctl[SYSCTL_IP_FORWARD])
    if (src.b[0] & 0xF0) == 0xE0 or src.w[0] == <uint32_t>0xFFFFFFFF:
        return DR_MARTIAN_SOURCE
    if dst.w[0] == <uint32_t>0xFFFFFFFF or (src.w[0] == 0 and dst.w[0] == 0):
        memset(&r, 0, sizeof(r))
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
        if dst.b[0] == 127 and not (s.sysctl[SYSCTL_ROUTE_LOCALNET] or (dev != NULL and dev.route_localnet)):
            return DR_MARTIAN_DESTINATION
        if src.b[0] == 127 and not (s.sysctl[SYSCTL_ROUTE_LOCALNET] or (dev != NULL and dev.route_localnet)):
            return DR_MARTIAN_SOURCE
    if (dst.b[0] & 0xF0) == 0xE0:
        # no multicast routing and no memberships but all-hosts: ip_check_mc
        if dst.b[0] == 224 and dst.b[1] == 0 and dst.b[2] == 0 and dst.b[3] == 1:
            memset(&r, 0, sizeof(r))
            r.type = RTN_LOCAL
            r.oif = s.lo_ifindex
            r.nexthop = dst
            route_attach(s, p, &r)
            return 0
        return DR_NO_ROUTE
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
        return DR_NO_ROUTE
    if type == RTN_PROHIBIT:
        icmp_code[0] = 13
        return DR_NO_ROUTE
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
    cdef int type
    if dst.b[0] == 0xFF:
        if not group_joined(s, p.in_if, dst):
            return DR_OTHER_HOST       # ip6_mc_input
        memset(&r, 0, sizeof(r))
        r.type = RTN_MULTICAST
        r.oif = s.lo_ifindex
        r.nexthop = dst[0]
        route_attach(s, p, &r)
        return 0
    if dst.b[0] == 0xFE and (dst.b[1] & 0xC0) == 0x80:
        type = fib_lookup(s, AF6, dst, src, p.mark, p.in_if, p.in_if, &r)
        if type == 0 or type == RTN_UNICAST:
            type = fib_lookup(s, AF6, dst, src, p.mark, p.in_if, 0, &r)
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
        return DR_NO_ROUTE
    if type == RTN_PROHIBIT:
        icmp_code[0] = 1
        return DR_NO_ROUTE
    if type != RTN_UNICAST:
        return DR_MARTIAN_DESTINATION
    if not s.sysctl[SYSCTL_IP6_FORWARDING]:
        return DR_NOT_FORWARDING       # an interface's own forwarding only makes it a router to its neighbours
    route_attach(s, p, &r)
    path_mtu_attach(s, p, dst, True)
    return 0


cdef bint group_joined(State *s, int ifindex, const Addr *group) noexcept nogil:
    """ipv6_chk_mcast_addr: all nodes (RFC 4291 section 2.8), a router all routers too, and the solicited-node group of
    every address of the device."""
    cdef int i
    cdef uint8_t scope = group.b[1] & 15
    cdef const uint8_t *b = group.b
    cdef AddrEntry *a
    cdef bint plain = b[1] < 16 and group.w[1] == 0 and group.w[2] == 0 and b[2] == 0 and b[3] == 0
    if plain and b[12] == 0 and b[13] == 0 and b[14] == 0:
        if b[15] == 1:
            return scope == 1 or scope == 2
        if b[15] == 2:
            return s.sysctl[SYSCTL_IP6_FORWARDING] != 0 and (scope == 1 or scope == 2 or scope == 5)
    # ff02::1:ffXX:XXXX
    if scope != 2 or b[1] != 2 or group.w[1] != 0 or b[2] or b[3] or b[8] or b[9] or b[10] or b[11] != 1 or b[12] != 0xFF:
        return False
    for i in range(s.n_addrs):
        a = s.addrs + i
        if a.family == AF6 and a.ifindex == ifindex and memcmp(a.addr.b + 13, b + 13, 3) == 0:
            return True
    return False


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
            r.type = RTN_BROADCAST
        route_attach(s, p, &r)
        return RTN_BROADCAST
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
    if type == 0:
        return 0
    if type == RTN_LOCAL:
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


cdef bint route_me_harder(State *s, Pkt *p) noexcept nogil:
    """ip_route_me_harder: the packet's addresses or mark changed on the way out. False: ``s.drop_reason`` says why."""
    cdef Addr src, dst
    cdef Link *l
    cdef int type
    pkt_saddr(p, &src)
    pkt_daddr(p, &dst)
    type = route_output(s, p, &src, &dst, p.sk_ifindex)
    s.drop_reason = DR_NO_ROUTE
    if type == RTN_BLACKHOLE:
        s.drop_reason = DR_ROUTE_BLACKHOLE
    elif type == RTN_UNREACHABLE:
        s.drop_reason = DR_ROUTE_UNREACHABLE
    elif type == RTN_PROHIBIT:
        s.drop_reason = DR_ROUTE_PROHIBIT
    if type == 0 or s.drop_reason != DR_NO_ROUTE:
        return False
    if p.family == AF4 and src.b[0] == 127 and p.rt_oif != s.lo_ifindex and not s.sysctl[SYSCTL_ROUTE_LOCALNET]:
        # __mkroute_output: a loopback address is no source on a link
        l = link_get(s, p.rt_oif)
        if l == NULL or not l.route_localnet:
            return False
    trace_add(s, p, TR_ROUTE, type, p.rt_oif, 1, trace_aux(s, p.rt_nh.b, 16) if s.tracing else 0)
    return True


cdef void ip_rcv_finish(State *s, Pkt *p) noexcept nogil:
    cdef int reason, code = -1
    cdef bint bounced
    if p.rt_type == 0 or not p.flags & PF_LOOPED:
        if not p.flags & PF_BR_ROUTED:
            reason = route_input(s, p, &code)
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


cdef void ip_forward(State *s, Pkt *p) noexcept nogil:
    """net/ipv4/ip_forward.c."""
    cdef uint8_t *ip = p.buf + p.l3
    cdef uint8_t old[2]
    cdef uint8_t new[2]
    cdef uint32_t n = p.end - p.l3
    if p.pkt_type != PKT_HOST:
        pkt_drop(s, p, DR_OTHER_HOST)
        return
    if ip[8] <= 1:
        pkt_refuse(s, p, DR_TTL_EXPIRED, 11, 0, 0)
        return
    if n > p.rt_mtu and (ip[6] & 0x40) and (p.frag_max == 0 or p.frag_max > p.rt_mtu):
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
    if p.in_if == p.rt_oif and redirect_wanted(s, p):
        p.stage = STAGE_REDIRECT
        pkt_upcall(s, p, UP_ICMP_ERROR, 5, 1, 0)
        return
    hook_enter(s, p, HOOK_FORWARD)


cdef bint redirect_wanted(State *s, Pkt *p) noexcept nogil:
    """IPSKB_DOREDIRECT (__mkroute_input, net/ipv4/route.c): back out by the way it came, from a direct neighbour."""
    cdef Link *dev = link_get(s, p.in_if)
    cdef Addr src, gateway, masked
    cdef RouteResult r
    cdef AddrEntry *a
    cdef int i
    if dev == NULL or not (dev.send_redirects or s.sysctl[SYSCTL_SEND_REDIRECTS]):
        return False
    pkt_saddr(p, &src)
    if fib_lookup(s, AF4, &src, &src, 0, s.lo_ifindex, 0, &r) != RTN_UNICAST or r.oif != p.in_if or r.gateway:
        return False
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
            addr_masked(&masked, &a.addr, a.plen, AF4)
            if prefix_match(&src, &masked, a.plen, AF4) and prefix_match(&gateway, &masked, a.plen, AF4):
                return True
    return False


cdef void ip6_forward(State *s, Pkt *p, bint bounced) noexcept nogil:
    """net/ipv6/ip6_output.c. ``bounced``: it goes back by the way it came."""
    cdef uint8_t *ip = p.buf + p.l3
    cdef Link *out = link_get(s, p.rt_oif)
    # ip6_dst_mtu_maybe_forward: what the device takes; that less fits the path is only found when it leaves
    cdef uint32_t mtu = <uint32_t>out.mtu if out != NULL and out.mtu > 1280 else 1280
    cdef Addr src
    if p.pkt_type != PKT_HOST:
        pkt_drop(s, p, DR_OTHER_HOST)
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
    if p.end - p.l3 > mtu and (p.frag_max == 0 or p.frag_max > mtu):
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
        pkt_drop(s, p, DR_NO_ROUTE if type != RTN_BLACKHOLE else DR_ROUTE_BLACKHOLE)
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
    c.pkt_type = PKT_HOST
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
    if type == RTN_LOCAL:
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
    if p.hops > MAX_HOPS:
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
    if p.family == AF6 and p.flags & PF_LOCAL and p.rt_type == RTN_UNICAST and not p.flags & PF_ONLINK:
        # ip6_finish_output2 goes by the address: TEE's copy of what is for a group comes back though its gateway is one
        pkt_daddr(p, &dst)
        if dst.b[0] == 0xFF and p.rt_oif != s.lo_ifindex and group_joined(s, p.rt_oif, &dst):
            copy = pkt_clone(s, p)
            copy.flags |= PF_MC_LOOP
            hook_enter(s, copy, HOOK_POSTROUTING)
            if p.buf[p.l3 + 7] == 0:
                pkt_drop(s, p, DR_TTL_EXPIRED)
                return
    if p.end - p.l3 > p.rt_mtu or (p.frag_max and p.frag_max < p.end - p.l3):
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


# -------------------------------------------------------------------------------------------------------------- bridge

cdef bint br_nf_wanted(State *s, const Pkt *p) noexcept nogil:
    if p.ethertype == ETH_IP:
        return s.sysctl[SYSCTL_BRIDGE_NF_CALL_IPTABLES] != 0
    if p.ethertype == ETH_IPV6:
        return s.sysctl[SYSCTL_BRIDGE_NF_CALL_IP6TABLES] != 0
    return False


cdef void br_receive(State *s, Pkt *p, Link *port) noexcept nogil:
    """br_handle_frame on a bridge port, with br_netfilter's PREROUTING before the bridge looks at the frame."""
    cdef Link *br = link_get(s, port.master)
    cdef uint8_t *eth = p.buf + p.l2
    cdef int reason
    if br == NULL or not br.up:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    if eth[6] & 1 or memcmp(eth + 6, ZERO_MAC, 6) == 0:
        pkt_drop(s, p, DR_FRAME_TOO_SHORT)
        return
    # 01-80-C2-00-00-0X is for the bridge itself (IEEE 802.1D reserved); spanning tree is off: not forwarded
    if eth[0] == 0x01 and eth[1] == 0x80 and eth[2] == 0xC2 and eth[3] == 0 and eth[4] == 0 and (eth[5] & 0xF0) == 0:
        pkt_drop(s, p, DR_BRIDGE_NO_FORWARD)
        return
    if memcmp(eth, br.mac, 6) == 0:
        p.pkt_type = PKT_HOST
    p.phys_in = 0
    if br_nf_wanted(s, p):
        reason = ip_check(s, p) if p.ethertype == ETH_IP else ip6_check(s, p)
        if reason:
            pkt_drop(s, p, reason)
            return
        p.flags |= PF_BRIDGED
        p.phys_in = port.ifindex
        p.phys_out = 0
        p.in_if = br.ifindex
        p.out_if = 0
        pkt_daddr(p, &p.orig_dst)
        p.flags &= ~<uint32_t>PF_BR_OTHERHOST
        if p.pkt_type == PKT_OTHERHOST:
            p.pkt_type = PKT_HOST
            p.flags |= PF_BR_OTHERHOST
        hook_enter(s, p, HOOK_PREROUTING)
        return
    br_frame_finish(s, p, port)


cdef void br_nf_prerouting_finish(State *s, Pkt *p) noexcept nogil:
    """br_nf_pre_routing_finish: where DNAT changed the destination, find out whether that is still on this bridge."""
    cdef Link *port = link_get(s, p.phys_in)
    cdef Link *br
    cdef Addr dst, src
    cdef int reason, code
    cdef Neighbour *n
    cdef uint8_t *eth
    cdef int type
    if port == NULL:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    br = link_get(s, port.master)
    if br == NULL:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    if p.flags & PF_BR_OTHERHOST:
        p.pkt_type = PKT_OTHERHOST
        p.flags &= ~<uint32_t>PF_BR_OTHERHOST
    pkt_daddr(p, &dst)
    eth = p.buf + p.l2
    if not addr_eq(&dst, &p.orig_dst):
        reason = route_input(s, p, &code)
        if reason:
            if p.family == AF4 and (reason == DR_NOT_FORWARDING or reason == DR_ROUTE_BLACKHOLE or code >= 0):
                # to IPv4 that is a route, to ip_error: it goes up, where it is dropped or its sender told
                memcpy(eth, br.mac, 6)
                p.pkt_type = PKT_HOST
                br_frame_finish(s, p, port)
                return
            # a martian, or forwarding is off: what is bridged after DNAT does not need it in IPv6
            if reason != DR_NOT_FORWARDING:
                pkt_drop(s, p, reason)
                return
            src.q[0] = 0
            src.q[1] = 0
            type = route_output(s, p, &src, &dst, 0)
            if type == 0 or p.rt_oif != br.ifindex:
                pkt_drop(s, p, reason)
                return
        trace_add(s, p, TR_ROUTE, p.rt_type, p.rt_oif, 0, trace_aux(s, p.rt_nh.b, 16) if s.tracing else 0)
        if p.rt_type == RTN_UNICAST and p.rt_oif == br.ifindex:
            br_bridged_dnat(s, p, br, port)
            return
        memcpy(eth, br.mac, 6)
        p.pkt_type = PKT_HOST
        p.flags |= PF_BR_ROUTED
    else:
        # bridge_parent_rtable: a stand-in route, so that MASQUERADE finds a device and no next hop
        p.rt_type = 0
        p.rt_gateway = 0
        p.rt_oif = br.ifindex
        p.rt_mtu = br.mtu
    br_frame_finish(s, p, port)


cdef void br_bridged_dnat(State *s, Pkt *p, Link *br, Link *port) noexcept nogil:
    """br_nf_pre_routing_finish_bridge: give the frame the MAC of its new destination and bridge it on."""
    cdef Addr nh
    cdef Neighbour *n
    cdef uint8_t *eth = p.buf + p.l2
    if p.rt_gateway:
        nh = p.rt_nh
    else:
        pkt_daddr(p, &nh)
    n = neigh_find(s, p.family, br.ifindex, &nh)
    if n != NULL and n.cls == NEIGH_CONNECTED:
        memcpy(eth, n.mac, 6)
        br_frame_finish(s, p, port)
        return
    # The neighbour code writes a whole header: keep the client's source MAC. What comes to br_transmit is taken on there.
    memcpy(p.src_mac, eth + 6, 6)
    p.flags |= PF_BR_DNAT
    neigh_output(s, p)


cdef void br_transmit(State *s, Pkt *p, Link *br) noexcept nogil:
    """br_dev_xmit: a frame given to the bridge device by its own host."""
    cdef uint8_t *eth = p.buf + p.l2
    cdef FdbEntry *e
    cdef Link *port
    if p.flags & PF_BR_DNAT:
        # br_nf_pre_routing_finish_bridge_slow
        p.flags &= ~<uint32_t>PF_BR_DNAT
        memcpy(eth + 6, p.src_mac, 6)
        port = link_get(s, p.phys_in)
        if port == NULL:
            pkt_drop(s, p, DR_LINK_DOWN)
            return
        p.dev = port.ifindex
        br_frame_finish(s, p, port)
        return
    p.phys_in = 0
    p.phys_out = 0
    p.flags &= ~<uint32_t>PF_BRIDGED
    if eth[0] & 1:
        br_flood(s, p, br, NULL, False)
        return
    e = br_fdb_lookup(s, br, eth)
    if e != NULL:
        port = link_get(s, e.port)
        if port != NULL and port.master == br.ifindex:
            br_forward(s, p, br, NULL, port)
        else:
            pkt_drop(s, p, DR_BRIDGE_NO_FORWARD)
        return
    br_flood(s, p, br, NULL, False)


cdef FdbEntry *br_fdb_lookup(State *s, Link *br, const uint8_t *mac) noexcept nogil:
    cdef FdbEntry *e = fdb_find(s, br.ifindex, mac)
    if e != NULL and not e.is_static and s.now_ns - e.seen_ns > <int64_t>AGEING_S * 1000000000:
        return NULL
    return e


cdef bint br_mac_is_local(State *s, Link *br, const uint8_t *mac) noexcept nogil:
    """BR_FDB_LOCAL: the bridge's own address and those of its ports."""
    cdef int i
    cdef Link *port
    if memcmp(br.mac, mac, 6) == 0:
        return True
    for i in range(br.n_ports):
        port = link_get(s, br.ports[i])
        if port != NULL and memcmp(port.mac, mac, 6) == 0:
            return True
    return False


cdef void br_frame_finish(State *s, Pkt *p, Link *port) noexcept nogil:
    """br_handle_frame_finish: learn, then forward, flood or pass up."""
    cdef Link *br = link_get(s, port.master)
    cdef uint8_t *eth = p.buf + p.l2
    cdef FdbEntry *e
    cdef Link *out
    cdef Pkt *copy
    if br == NULL:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    p.dev = port.ifindex
    if not br_mac_is_local(s, br, eth + 6):
        fdb_learn(s, br.ifindex, eth + 6, port.ifindex)
    if eth[0] & 1:
        # br_flood with local_rcv: clones to the ports, the original goes up
        trace_add(s, p, TR_BRIDGE, 1, port.ifindex, 0, 0)
        br_flood_clones(s, p, br, port)
        br_pass_up(s, p, br)
        return
    if br_mac_is_local(s, br, eth):
        br_pass_up(s, p, br)
        return
    e = br_fdb_lookup(s, br, eth)
    if e != NULL:
        out = link_get(s, e.port)
        if out == NULL or out.master != br.ifindex:
            pkt_drop(s, p, DR_BRIDGE_NO_FORWARD)
            return
        br_forward(s, p, br, port, out)
        return
    br_flood(s, p, br, port, False)


cdef inline bint br_should_deliver(const Link *from_, const Link *to) noexcept nogil:
    return to != NULL and to.up and (from_ == NULL or from_.ifindex != to.ifindex or to.hairpin)


cdef void br_flood_clones(State *s, Pkt *p, Link *br, Link *from_) noexcept nogil:
    """A copy out of every port, from the newest to the oldest (ports are added at the head of the kernel's list)."""
    cdef int i
    cdef Link *to
    cdef Pkt *copy
    for i in range(br.n_ports - 1, -1, -1):
        to = link_get(s, br.ports[i])
        if not br_should_deliver(from_, to):
            continue
        s.clones += 1
        if s.clones > MAX_CLONES:
            return
        copy = pkt_clone(s, p)
        br_forward(s, copy, br, from_, to)


cdef void br_flood(State *s, Pkt *p, Link *br, Link *from_, bint up) noexcept nogil:
    cdef int i, last = -1
    cdef Link *to
    cdef Pkt *copy
    trace_add(s, p, TR_BRIDGE, 1, from_.ifindex if from_ != NULL else 0, 0, 0)
    # the last port takes the packet itself
    for i in range(br.n_ports):
        if br_should_deliver(from_, link_get(s, br.ports[i])):
            last = i
            break
    if last < 0:
        pkt_drop(s, p, DR_BRIDGE_NO_FORWARD)
        return
    for i in range(br.n_ports - 1, last, -1):
        to = link_get(s, br.ports[i])
        if not br_should_deliver(from_, to):
            continue
        s.clones += 1
        if s.clones > MAX_CLONES:
            break
        copy = pkt_clone(s, p)
        br_forward(s, copy, br, from_, to)
    br_forward(s, p, br, from_, link_get(s, br.ports[last]))


cdef void br_forward(State *s, Pkt *p, Link *br, Link *from_, Link *to) noexcept nogil:
    """__br_forward: br_netfilter's FORWARD (not for what the host itself sends), then POSTROUTING, then the port."""
    if not br_should_deliver(from_, to):
        pkt_drop(s, p, DR_BRIDGE_NO_FORWARD)
        return
    trace_add(s, p, TR_BRIDGE, 0, to.ifindex, 0, 0)
    p.dev = to.ifindex
    if from_ != NULL and p.flags & PF_BRIDGED and p.phys_in:
        p.phys_out = to.ifindex
        p.in_if = br.ifindex
        p.out_if = br.ifindex
        if p.pkt_type == PKT_OTHERHOST:
            p.pkt_type = PKT_HOST
            p.flags |= PF_BR_OTHERHOST
        hook_enter(s, p, HOOK_FORWARD)
        return
    dev_transmit(s, p, to)


cdef void br_nf_forward_finish(State *s, Pkt *p) noexcept nogil:
    p.in_if = 0
    # POSTROUTING's out device is the bridge, as FORWARD's was
    hook_enter(s, p, HOOK_POSTROUTING)


cdef void br_nf_postrouting_finish(State *s, Pkt *p) noexcept nogil:
    cdef Link *to = link_get(s, p.phys_out)
    if p.flags & PF_BR_OTHERHOST:
        p.pkt_type = PKT_OTHERHOST
        p.flags &= ~<uint32_t>PF_BR_OTHERHOST
    if to == NULL:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    p.dev = to.ifindex
    if p.frag_max and p.frag_max < p.end - p.l3:
        # br_nf_dev_queue_xmit: what conntrack gathered leaves in fragments of the original size
        p.stage = STAGE_HOOK_DONE
        pkt_upcall(s, p, UP_FRAGMENT, to.ifindex, <int>p.frag_max, 1)
        return
    dev_transmit(s, p, to)


cdef void br_pass_up(State *s, Pkt *p, Link *br) noexcept nogil:
    """br_pass_frame_up: the bridge device receives the frame."""
    p.dev = br.ifindex
    if p.pkt_type != PKT_HOST and p.ct != NULL and not p.ct.status & S_CONFIRMED:
        # br_nf_local_in: what goes to many is confirmed before the host looks at it, clones being on their way
        if p.ct.refs != 1:
            ct_put(s, p.ct)
            p.ct = NULL
            p.ctinfo = CTINFO_NONE
        elif ct_confirm(s, p) != NF_ACCEPT:
            pkt_drop(s, p, s.drop_reason)
            return
    if p.flags & PF_BRIDGED:
        p.flags |= PF_BR_PASSED
    if p.flags & PF_BRIDGED and not p.flags & PF_BR_ROUTED:
        p.rt_type = 0              # br_drop_fake_rtable
    trace_add(s, p, TR_BRIDGE, 2, br.ifindex, 0, 0)
    if s.capture:
        event_frame(s, EV_RX, p, br.ifindex, p.l2)
    netif_receive(s, p)


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
