# The protocol trackers: what a packet does to its entry (net/netfilter/nf_conntrack_proto_*.c, Linux 6.18). Each answers
# TRACK_*. Those of TCP and SCTP have files of their own.

# ------------------------------------------------------------------------------------------------------------ checksums

cdef bint l4_checksum_ok(Pkt *p, int proto, bint pseudo) noexcept nogil:
    """nf_ip_checksum and nf_ip6_checksum of everything from the transport header on."""
    cdef uint32_t n = p.end - p.l4
    cdef uint64_t total = pseudo_sum(p, n, proto) if pseudo else 0
    if p.flags & PF_CSUM_OK:
        return True
    if fold(sum_bytes(p.buf + p.l4, n, total)) != 0xFFFF:
        return False
    p.flags |= PF_CSUM_OK
    return True


cdef inline bint verify_here(const State *s, int hook) noexcept nogil:
    """Checksums are looked at on the way in only: what goes out is trusted."""
    return hook == HOOK_PREROUTING and s.sysctl[SYSCTL_CT_CHECKSUM] != 0


# -------------------------------------------------------------------------------------------------------- UDP, UDP-Lite

cdef int udp_packet(State *s, Ct *ct, Pkt *p, int hook) noexcept nogil:
    cdef const uint8_t *uh = p.buf + p.l4
    cdef uint32_t n = p.end - p.l4
    cdef uint32_t length
    cdef int64_t timeout = s.sysctl[SYSCTL_CT_TIMEOUT_UDP]
    cdef bint stream
    if n < 8:
        return TRACK_INVALID
    length = rd16(uh + 4)
    if length > n or length < 8:
        return TRACK_INVALID
    if (uh[6] or uh[7]) and verify_here(s, hook) and not l4_checksum_ok(p, P_UDP, True):
        return TRACK_INVALID
    if not ct.status & S_CONFIRMED:
        ct.stream_ts_ns = s.now_ns + 2 * <int64_t>NS_PER_S
    if not ct.status & S_SEEN_REPLY:
        ct_refresh(s, ct, p, timeout)
        return TRACK_OK
    stream = s.now_ns > ct.stream_ts_ns
    if stream:
        timeout = s.sysctl[SYSCTL_CT_TIMEOUT_UDP_STREAM]
    ct_refresh(s, ct, p, timeout)
    if stream and not ct.status & S_NAT_CLASH:
        ct.status |= S_ASSURED
    return TRACK_OK


cdef bint udplite_checksum_ok(Pkt *p, uint32_t covered) noexcept nogil:
    """nf_checksum_partial over the covered bytes (RFC 3828 section 3.1).

    udplite_error() asks for it with UDP's protocol number in the pseudo-header, not UDP-Lite's: packets that follow the
    RFC fail (seen on Linux 6.18). And nf_ip_checksum_partial() gives length and protocol to csum_tcpudp_nofold() the wrong
    way round, so that of IPv4's length the low byte is left. Kept, as it decides which packets are INVALID.
    """
    cdef uint32_t n = p.end - p.l4
    cdef uint64_t total = pseudo_sum(p, n & 0xFF if p.family == AF4 else n, P_UDP)
    return fold(sum_bytes(p.buf + p.l4, covered, total)) == 0xFFFF


cdef int udplite_packet(State *s, Ct *ct, Pkt *p, int hook) noexcept nogil:
    cdef const uint8_t *uh = p.buf + p.l4
    cdef uint32_t n = p.end - p.l4
    cdef uint32_t covered
    if n < 8:
        return TRACK_INVALID
    covered = rd16(uh + 4)
    if covered == 0:
        covered = n
    elif covered < 8 or covered > n:
        return TRACK_INVALID
    if not (uh[6] or uh[7]):
        return TRACK_INVALID
    if verify_here(s, hook) and not udplite_checksum_ok(p, covered):
        return TRACK_INVALID
    if ct.status & S_SEEN_REPLY:
        ct_refresh(s, ct, p, s.sysctl[SYSCTL_CT_TIMEOUT_UDP_STREAM])
        if not ct.status & S_NAT_CLASH:
            ct.status |= S_ASSURED
    else:
        ct_refresh(s, ct, p, s.sysctl[SYSCTL_CT_TIMEOUT_UDP])
    return TRACK_OK


# ----------------------------------------------------------------------------------------------------------------- ICMP

cdef int icmp_packet(State *s, Ct *ct, Pkt *p) noexcept nogil:
    """Only requests make entries, and an entry stays one of a request."""
    cdef uint8_t type = (<uint8_t *>&ct.tuple[0].dport)[0]
    if p.family != AF4 or not (type == 8 or type == 13 or type == 15 or type == 17):
        return TRACK_INVALID
    ct_refresh(s, ct, p, s.sysctl[SYSCTL_CT_TIMEOUT_ICMP])
    return TRACK_OK


cdef int icmp6_packet(State *s, Ct *ct, Pkt *p) noexcept nogil:
    cdef uint8_t type = (<uint8_t *>&ct.tuple[0].dport)[0]
    if p.family != AF6:
        return TRACK_INVALID
    if not ct.status & S_CONFIRMED and type != ICMP6_ECHO_REQUEST and type != ICMP6_NI_QUERY:
        return TRACK_INVALID
    ct_refresh(s, ct, p, s.sysctl[SYSCTL_CT_TIMEOUT_ICMPV6])
    return TRACK_OK


cdef int inet_error(State *s, Pkt *p, uint32_t inner, uint32_t zone, int zone_dir) noexcept nogil:
    """nf_conntrack_inet_error: the flow of the packet that an error quotes at ``inner``."""
    cdef Tuple quoted, answer
    cdef Addr outer
    cdef int proto = 0
    cdef int dir = 0
    cdef uint32_t l4 = quoted_l4(p, inner, &proto)
    cdef Ct *ct
    if l4 == 0 or not tuple_get(p, inner, l4, proto, &quoted) or not tuple_invert(&answer, &quoted):
        return TRACK_INVALID
    ct = ct_find(s, &answer, zone, zone_dir, &dir)
    if ct == NULL:
        return TRACK_INVALID
    # The error goes to whoever sent the quoted packet, which is where the found direction of the flow leads to.
    addr_load(&outer, p.buf + p.l3 + (16 if p.family == AF4 else 24), p.family)
    if not addr_eq(&outer, &ct.tuple[dir].dst):
        return TRACK_INVALID
    ct.refs += 1
    p.ct = ct
    p.ctinfo = CTINFO_RELATED_REPLY if dir == DIR_REPLY else CTINFO_RELATED
    return TRACK_OK


cdef int icmp6_redirect(State *s, Pkt *p, uint32_t zone, int zone_dir) noexcept nogil:
    """A redirect (RFC 4861 section 8) may carry the packet that it is about in an option."""
    cdef const uint8_t *ip = p.buf + p.l3
    cdef const uint8_t *rd = p.buf + p.l4
    cdef uint32_t n = p.end - p.l4
    if n < 40 or rd[1] != 0:
        return TRACK_INVALID
    if ip[7] != 255 or ip[8] != 0xFE or ip[9] & 0xC0 != 0x80:
        return TRACK_INVALID   # only a router on the link may say so
    if n < 42 or rd[41] == 0:
        return TRACK_INVALID
    if rd[40] != 4:
        return TRACK_OK        # another option first: not looked further
    return inet_error(s, p, p.l4 + 48, zone, zone_dir)


cdef int icmp_error(State *s, Pkt *p, int hook, uint32_t zone, int zone_dir) noexcept nogil:
    """nf_conntrack_handle_icmp: find the flow that an error is about.

    TRACK_OK without an entry means that the packet is no error: it is tracked like any other.
    """
    cdef const uint8_t *h = p.buf + p.l4
    cdef uint32_t n = p.end - p.l4
    cdef uint8_t type
    if p.family == AF4 and p.proto == P_ICMP:
        if n < 8:
            return TRACK_INVALID
        if verify_here(s, hook) and not l4_checksum_ok(p, P_ICMP, False):
            return TRACK_INVALID
        type = h[0]
        if type > ICMP4_LAST_TYPE:
            return TRACK_INVALID
        if (type != ICMP4_DEST_UNREACH and type != ICMP4_SOURCE_QUENCH and type != ICMP4_REDIRECT
                and type != ICMP4_TIME_EXCEEDED and type != ICMP4_PARAMETER_PROBLEM):
            return TRACK_OK
        return inet_error(s, p, p.l4 + 8, zone, zone_dir)
    if p.family == AF6 and p.proto == P_ICMP6:
        if n < 8:
            return TRACK_INVALID
        if verify_here(s, hook) and not l4_checksum_ok(p, P_ICMP6, True):
            return TRACK_INVALID
        type = h[0]
        if ICMP6_MLD_QUERY <= type <= ICMP6_NEIGHBOUR_ADVERTISEMENT or type == ICMP6_MLD2_REPORT:
            p.ctinfo = CTINFO_UNTRACKED    # multicast listeners and neighbour discovery belong to the link
            return TRACK_OK
        if type == ICMP6_REDIRECT:
            return icmp6_redirect(s, p, zone, zone_dir)
        if type >= 128:
            return TRACK_OK
        return inet_error(s, p, p.l4 + 8, zone, zone_dir)
    return TRACK_OK


# ------------------------------------------------------------------------------------------------------ GRE, all others

cdef int gre_packet(State *s, Ct *ct, Pkt *p) noexcept nogil:
    if ct.status & S_SEEN_REPLY:
        ct_refresh(s, ct, p, s.sysctl[SYSCTL_CT_TIMEOUT_GRE_STREAM])
        if not ct.status & S_NAT_CLASH:
            ct.status |= S_ASSURED
    else:
        ct_refresh(s, ct, p, s.sysctl[SYSCTL_CT_TIMEOUT_GRE])
    return TRACK_OK


cdef int ct_handle(State *s, Ct *ct, Pkt *p, int hook) noexcept nogil:
    """nf_conntrack_handle_packet."""
    cdef int proto = ct.tuple[0].proto
    if proto == P_TCP:
        return tcp_packet(s, ct, p, hook)
    if proto == P_UDP:
        return udp_packet(s, ct, p, hook)
    if proto == P_ICMP:
        return icmp_packet(s, ct, p)
    if proto == P_ICMP6:
        return icmp6_packet(s, ct, p)
    if proto == P_SCTP:
        return sctp_packet(s, ct, p, hook)
    if proto == P_GRE:
        return gre_packet(s, ct, p)
    if proto == P_UDPLITE:
        return udplite_packet(s, ct, p, hook)
    ct_refresh(s, ct, p, s.sysctl[SYSCTL_CT_TIMEOUT_GENERIC])
    return TRACK_OK
