# Bridges, and br_netfilter which shows bridged packets to the IP hooks (net/bridge/br_input.c, br_forward.c,
# br_netfilter_hooks.c, Linux 6.18).

cdef bint br_nf_wanted(State *s, const Pkt *p) noexcept nogil:
    if p.ethertype == ETH_IP:
        return s.sysctl[SYSCTL_BRIDGE_NF_CALL_IPTABLES] != 0
    if p.ethertype == ETH_IPV6:
        return s.sysctl[SYSCTL_BRIDGE_NF_CALL_IP6TABLES] != 0
    return False


cdef bint br_hop_options_fit(const uint8_t *ip, uint32_t n) noexcept nogil:
    """nf_ip6_check_hbh_len: the hop-by-hop options are as long as their header; no frame is as long as a jumbo says."""
    cdef uint32_t off = 42
    cdef uint32_t end
    if n < 48:
        return False
    end = 40 + ip6_extension_size(0, ip[41])
    if end > n:
        return False
    while off < end:
        if ip[off] == 0:               # Pad1
            off += 1
            continue
        if off + 2 > end or off + 2 + ip[off + 1] > end or ip[off] == 194:
            return False
        off += ip[off + 1] + 2
    return True


cdef int br_validate_ipv6(Pkt *p) noexcept nogil:
    """br_validate_ipv6: looks at less than ip6_rcv_core does, and at hop-by-hop options already. 0 or the DropReason."""
    cdef const uint8_t *ip = p.buf + p.l3
    cdef uint32_t n = p.end - p.l3
    cdef uint32_t size
    p.family = AF6
    if n < 40 or ip[0] >> 4 != 6:
        return DR_IP_HEADER
    size = 40 + rd16(ip + 4)
    if size > n or (ip[6] == 0 and not br_hop_options_fit(ip, n)):
        return DR_IP_HEADER
    p.end = p.l3 + size
    pkt_parse_l4(p)
    return 0


cdef void br_receive(State *s, Pkt *p, Link *port) noexcept nogil:
    """br_handle_frame on a bridge port, with br_netfilter's PREROUTING before the bridge looks at the frame."""
    cdef Link *br = link_get(s, port.master)
    cdef uint8_t *eth = p.buf + p.l2
    cdef int reason
    if br == NULL or not br.up:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    if eth[6] & 1 or memcmp(eth + 6, ZERO_MAC, 6) == 0:
        pkt_drop(s, p, DR_MAC_INVALID_SOURCE)
        return
    # 01-80-C2-00-00-0X is for the station at the link's end (IEEE 802.1D reserved), but for spanning tree's, which is off
    if eth[0] == 0x01 and eth[1] == 0x80 and eth[2] == 0xC2 and eth[3] == 0 and eth[4] == 0 and 0 < eth[5] < 16:
        if eth[5] == 1:
            pkt_drop(s, p, DR_MAC_IEEE_MAC_CONTROL)
            return
        # br_handle_local_finish
        if not br_mac_is_local(s, br, eth + 6):
            fdb_learn(s, br.ifindex, eth + 6, port.ifindex)
        netif_receive(s, p)
        return
    if memcmp(eth, br.mac, 6) == 0:
        p.pkt_type = PKT_HOST
    p.phys_in = 0
    if br_nf_wanted(s, p):
        reason = ip_check(s, p) if p.ethertype == ETH_IP else br_validate_ipv6(p)
        if reason:
            pkt_drop(s, p, reason)
            return
        p.flags = (p.flags | PF_BRIDGED) & ~<uint32_t>PF_IP_OPTIONS
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
    # The bridge, as a device without scatter and gather, wants it in one piece (validate_xmit_skb).
    p.flags |= PF_LINEAR
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
    p.flags &= ~<uint32_t>PF_BRIDGED
    if p.phys_out == 0:
        p.phys_in = 0              # else it is TEE's copy of what was being bridged, with what br_netfilter noted of that
    if eth[0] & 1:
        br_flood(s, p, br, NULL, False, br.n_ports - 1)
        return
    e = br_fdb_lookup(s, br, eth)
    if e != NULL:
        port = link_get(s, e.port)
        if port != NULL and port.master == br.ifindex:
            br_forward(s, p, br, NULL, port)
        else:
            pkt_drop(s, p, DR_BRIDGE_NO_FORWARD)
        return
    br_flood(s, p, br, NULL, False, br.n_ports - 1)


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
    if br == NULL:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    p.dev = port.ifindex
    if not br_mac_is_local(s, br, eth + 6):
        fdb_learn(s, br.ifindex, eth + 6, port.ifindex)
    if eth[0] & 1:
        br_flood(s, p, br, port, True, br.n_ports - 1)
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
    br_flood(s, p, br, port, False, br.n_ports - 1)


cdef inline bint br_should_deliver(const Link *from_, const Link *to) noexcept nogil:
    return to != NULL and to.up and (from_ == NULL or from_.ifindex != to.ifindex or to.hairpin)


cdef void br_flood(State *s, Pkt *p, Link *br, Link *from_, bint up, int first) noexcept nogil:
    """A copy out of every port from number ``first`` down: the newest is at the head of the kernel's list.

    The packet itself goes up to the host or, if not ``up``, out of the last port. What a rule says of a copy that it
    refuses leaves before the next copy is made, and its connection is as the copies before have left it.
    """
    cdef int i, last = -1
    cdef Link *to
    cdef uint64_t refused
    trace_add(s, p, TR_BRIDGE, 1, from_.ifindex if from_ != NULL else 0, 0, 0)
    if not up:
        for i in range(br.n_ports):
            if br_should_deliver(from_, link_get(s, br.ports[i])):
                last = i
                break
        if last < 0:
            pkt_drop(s, p, DR_BRIDGE_NO_FORWARD)
            return
    for i in range(first, last, -1):
        to = link_get(s, br.ports[i])
        if not br_should_deliver(from_, to):
            continue
        s.clones += 1
        if s.clones > MAX_CLONES:
            pkt_drop(s, pkt_clone(s, p), DR_LOOP)
            break
        refused = s.upcalls[UP_REJECT]
        br_forward(s, pkt_clone(s, p), br, from_, to)
        if s.upcalls[UP_REJECT] != refused:
            p.stage = STAGE_FLOOD
            p.phys_out = i - 1
            pkt_upcall(s, p, UP_FLOOD, p.dev, 0, 0)
            return
    if up:
        br_pass_up(s, p, br)
    else:
        br_forward(s, p, br, from_, link_get(s, br.ports[last]))


cdef void br_flood_on(State *s, Pkt *p) noexcept nogil:
    """The rest of the ports, unless the bridge has changed."""
    cdef Link *from_ = link_get(s, p.dev)
    cdef Link *br = link_get(s, from_.master) if from_ != NULL else NULL
    cdef int first = p.phys_out
    p.phys_out = 0
    if br == NULL or first >= br.n_ports:
        pkt_drop(s, p, DR_LINK_DOWN)
    else:
        br_flood(s, p, br, from_, p.buf[p.l2] & 1, first)


cdef void br_push(State *s, Pkt *p, Link *to) noexcept nogil:
    """br_dev_queue_push_xmit: what is too long for a port does not get to it (is_skb_forwardable)."""
    if p.end - p.l2 > <uint32_t>to.mtu + 14 + VLAN_HLEN:
        pkt_drop(s, p, DR_MTU)
        return
    dev_transmit(s, p, to)


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
    if from_ == NULL and p.phys_out:
        # br_nf_post_routing asks only whether there was a port to leave by
        p.flags |= PF_BRIDGED
        p.in_if = 0
        p.out_if = br.ifindex
        hook_enter(s, p, HOOK_POSTROUTING)
        return
    br_push(s, p, to)


cdef void br_nf_forward_finish(State *s, Pkt *p) noexcept nogil:
    p.in_if = 0
    # POSTROUTING's out device is the bridge, as FORWARD's was
    hook_enter(s, p, HOOK_POSTROUTING)


cdef void br_nf_postrouting_finish(State *s, Pkt *p) noexcept nogil:
    cdef Link *to = link_get(s, p.dev)
    cdef Link *br
    cdef uint32_t n = p.end - p.l3
    cdef uint32_t size
    if p.flags & PF_BR_OTHERHOST:
        p.pkt_type = PKT_OTHERHOST
        p.flags &= ~<uint32_t>PF_BR_OTHERHOST
    br = link_get(s, to.master) if to != NULL else NULL
    if br == NULL:
        pkt_drop(s, p, DR_LINK_DOWN)
        return
    # br_nf_dev_queue_xmit: what is too long for the port, or was gathered from shorter fragments, leaves in fragments
    if n <= <uint32_t>to.mtu and (p.frag_max == 0 or n <= p.frag_max):
        br_push(s, p, to)
        return
    if p.family == AF4:
        # br_nf_ip_fragment: of a size that its route has, which need not be the port's
        size = p.rt_mtu if p.rt_type else <uint32_t>br.route_mtu
        if (p.buf[p.l3 + 6] & 0x40 and not p.flags & PF_IGNORE_DF) or p.frag_max > size:
            pkt_drop(s, p, DR_MTU)
            return
        if p.frag_max:
            size = p.frag_max
        if n <= size:
            br_push(s, p, to)
            return
    else:
        size = p.rt_mtu  # ip6_fragment, which refuses what it may not cut
    p.stage = STAGE_HOOK_DONE
    pkt_upcall(s, p, UP_FRAGMENT, to.ifindex, <int>size, 1)


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
