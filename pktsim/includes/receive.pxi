# What a device gives: the frame's kind, and the checks of ip_rcv and ipv6_rcv (net/ipv4/ip_input.c,
# net/ipv6/ip6_input.c, Linux 6.18).

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
        if l.kind != LINK_LOOPBACK:
            p.pkt_type = PKT_HOST  # else eth_type_trans leaves what it was: TEE's copy came in as the packet did
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
    p.flags &= ~<uint32_t>(PF_IP_OPTIONS | PF_SENDER_ON_LINK)
    p.ip_options = 0
    if p.flags & PF_BR_PASSED:
        # ip_sabotage_in: br_netfilter has been through PREROUTING with it
        p.flags &= ~<uint32_t>(PF_BR_PASSED | PF_BRIDGED | PF_FRAG_PMTU)
        p.frag_max = 0             # IPCB is cleared: what was gathered for the bridge is cut again only if it is too long
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
    end = 40 + ip6_extension_size(0, ip[41])
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
            elif kind == 7:            # CALIPSO (RFC 5570): valid in a domain of interpretation only, and there is none
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
    cdef Link *dev
    cdef bint own
    if p.pkt_type == PKT_OTHERHOST:
        pkt_drop(s, p, DR_OTHER_HOST)
        return
    dev = link_get(s, p.dev)
    if dev != NULL and dev.disable_ipv6:
        pkt_drop(s, p, DR_IPV6DISABLED)
        return
    reason = ip6_check(s, p)
    if reason:
        pkt_drop(s, p, reason)
        return
    # RFC 4291 section 2.7: scope 0 is reserved, and what is of scope 1 does not leave its host
    own = p.dev == s.lo_ifindex or p.flags & PF_MC_LOOP != 0
    if p.buf[p.l3 + 24] == 0xFF and (p.buf[p.l3 + 25] & 15) <= (0 if own else 1):
        pkt_drop(s, p, DR_MARTIAN_DESTINATION)
        return
    if p.buf[p.l3 + 8] == 0xFF:
        pkt_drop(s, p, DR_MARTIAN_SOURCE)
        return
    # RFC 4291 section 2.5.3: nothing from or to the loopback address on a link
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
