# Entries of the connection table as Python sees them: listed, inserted, deleted.

cdef tuple ct_tuple_py(const Tuple *t):
    cdef int n = addr_len(t.l3num)
    return (
        (<const char *>t.src.b)[:n],
        (<const char *>t.dst.b)[:n],
        swap16(t.sport),
        swap16(t.dport),
    )


cdef object ct_entry_dict(State *s, Ct *ct):
    """One entry as plain values; netfilter.conntrack.Entry names them."""
    cdef int proto = ct.tuple[0].proto
    cdef object state = -1
    if proto == P_TCP:
        state = ct.tcp.state
    elif proto == P_SCTP:
        state = ct.sctp.state
    return {
        "id": ct.id,
        "family": ct.tuple[0].l3num,
        "proto": proto,
        "orig": ct_tuple_py(&ct.tuple[0]),
        "reply": ct_tuple_py(&ct.tuple[1]),
        "status": ct.status,
        "timeout_ns": ct.timeout_ns - s.now_ns if ct.status & S_CONFIRMED else ct.timeout_ns,
        "timeout_set_ns": ct.timeout_set_ns,
        "start_ns": ct.start_ns,
        "mark": ct.mark,
        "labels": [ct.labels[0], ct.labels[1], ct.labels[2], ct.labels[3]] if ct.has_labels else None,
        "zone": ct.zone,
        "zone_dir": ct.zone_dir,
        "use": ct.refs,
        "state": state,
        "flags": (ct.tcp.seen[0].flags, ct.tcp.seen[1].flags),
        "wscale": (ct.tcp.seen[0].td_scale, ct.tcp.seen[1].td_scale),
        "vtag": (rd32(<uint8_t *>&ct.sctp.vtag[0]), rd32(<uint8_t *>&ct.sctp.vtag[1])),
        "acct": (
            (ct.acct_packets[0], ct.acct_bytes[0], ct.acct_packets[1], ct.acct_bytes[1]) if ct.has_acct else None
        ),
    }


cdef object ct_list(State *s):
    """All live entries; those that a clash left for their replies alone do not show (as in ``conntrack -L``)."""
    cdef list out = []
    cdef Ct *ct = s.ct.first
    cdef Ct *following
    while ct != NULL:
        following = ct.all_next
        if ct_expired(s, ct):
            ct_kill(s, ct)
        elif ct.linked & (1 << DIR_ORIGINAL):
            out.append(ct_entry_dict(s, ct))
        ct = following
    return out


cdef int ct_tuple_from(Tuple *t, int family, int proto, object value) except -1:
    cdef bytes src, dst
    cdef int n = addr_len(family)
    src, dst, sport, dport = value
    if len(src) != n or len(dst) != n:
        raise ValueError(f"addresses of family {family} have {n} bytes")
    memset(t, 0, sizeof(Tuple))
    memcpy(t.src.b, <const char *>src, n)
    memcpy(t.dst.b, <const char *>dst, n)
    t.sport = swap16(<uint16_t>sport)
    t.dport = swap16(<uint16_t>dport)
    t.l3num = <uint8_t>family
    t.proto = <uint8_t>proto
    return 0


cdef object ct_insert(State *s, dict d):
    """ctnetlink's way in (``conntrack -I``). Keys as ``ct_entry_dict``'s; family, proto, orig, timeout_ns are needed."""
    cdef Tuple orig, reply
    cdef Ct *ct
    cdef bint too_long = False
    cdef int which
    cdef int family = d["family"]
    cdef int proto = d["proto"]
    cdef uint32_t zone = d.get("zone", 0)
    cdef int zone_dir = d.get("zone_dir", ZONE_BOTH)
    cdef int64_t timeout_ns = d["timeout_ns"]
    if family != AF4 and family != AF6:
        raise ValueError(f"no address family {family}")
    ct_tuple_from(&orig, family, proto, d["orig"])
    if "reply" in d:
        ct_tuple_from(&reply, family, proto, d["reply"])
    elif not tuple_invert(&reply, &orig):
        raise ValueError("no answer can come to such an ICMP message, so a reply tuple is needed")
    ct = ct_alloc(s, &orig, &reply, zone, zone_dir)
    if ct == NULL:
        raise ValueError("the connection tracking table is full")
    ct.hash[DIR_REPLY] = tuple_hash(&ct.tuple[DIR_REPLY], zone_id(zone, zone_dir, DIR_REPLY))
    for which in range(2):
        if ct_clashing(s, ct, which, &too_long) != NULL:
            ct_put(s, ct)
            raise ValueError("there is such an entry already")
    ct.timeout_set_ns = timeout_ns
    ct.timeout_ns = s.now_ns + timeout_ns
    ct.status = <uint32_t>d.get("status", 0) & ~<uint32_t>(S_DYING | S_NAT_CLASH | S_TEMPLATE)
    ct.mark = d.get("mark", 0)
    if proto == P_TCP and d.get("state", -1) >= 0:
        ct.tcp.state = d["state"]
    elif proto == P_SCTP and d.get("state", -1) >= 0:
        ct.sctp.state = d["state"]
    if proto == P_SCTP and "vtag" in d:
        wr32(<uint8_t *>&ct.sctp.vtag[0], d["vtag"][0])
        wr32(<uint8_t *>&ct.sctp.vtag[1], d["vtag"][1])
    if proto == P_TCP and "flags" in d:
        ct.tcp.seen[0].flags, ct.tcp.seen[1].flags = d["flags"]
    if proto == P_TCP and "wscale" in d:
        ct.tcp.seen[0].td_scale, ct.tcp.seen[1].td_scale = d["wscale"]
    ct_append(s, ct)
    ct_link(s, ct, DIR_ORIGINAL)
    ct_link(s, ct, DIR_REPLY)
    if ct.status & S_SRC_NAT_DONE:
        bysource_add(s, ct)
    s.ct.insert += 1
    ct_put(s, ct)
    return ct.id


cdef object ct_delete(State *s, uint64_t id):
    cdef Ct *ct = s.ct.first
    while ct != NULL and ct.id != id:
        ct = ct.all_next
    if ct == NULL:
        return False
    return bool(ct_kill(s, ct))


cdef object ct_flush(State *s):
    ct_flush_all(s)


cdef object ct_stats(State *s):
    """/proc/net/stat/nf_conntrack, summed over the processors."""
    return {
        "entries": s.ct.count,
        "found": s.ct.found,
        "invalid": s.ct.invalid,
        "insert": s.ct.insert,
        "insert_failed": s.ct.insert_failed,
        "drop": s.ct.drop,
        "early_drop": s.ct.early_drop,
        "error": s.ct.error,
        "search_restart": s.ct.search_restart,
        "clash_resolve": s.ct.clash_resolve,
        "chaintoolong": s.ct.chaintoolong,
    }
