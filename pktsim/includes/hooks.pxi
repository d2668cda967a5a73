# Netfilter's hooks: their steps in order of priority, and what follows a hook (net/netfilter/core.c, Linux 6.18).

cdef enum:
    HOOK_MASK_PRE = 1 << STEP_DEFRAG | 1 << STEP_RAW | 1 << STEP_CONNTRACK | 1 << STEP_MANGLE | 1 << STEP_NAT_DST
    HOOK_MASK_IN = 1 << STEP_MANGLE | 1 << STEP_FILTER | 1 << STEP_SECURITY | 1 << STEP_NAT_SRC | 1 << STEP_CONFIRM
    HOOK_MASK_FWD = 1 << STEP_MANGLE | 1 << STEP_FILTER | 1 << STEP_SECURITY
    HOOK_MASK_OUT = HOOK_MASK_PRE | 1 << STEP_FILTER | 1 << STEP_SECURITY
    HOOK_MASK_POST = 1 << STEP_MANGLE | 1 << STEP_NAT_SRC | 1 << STEP_CONFIRM


cdef extern from *:
    int lowest_bit "__builtin_ctz"(unsigned int word) noexcept nogil


cdef int hook_mask(int hook) noexcept nogil:
    """The built-in steps of a hook."""
    if hook == HOOK_PREROUTING:
        return HOOK_MASK_PRE
    if hook == HOOK_INPUT:
        return HOOK_MASK_IN
    if hook == HOOK_FORWARD:
        return HOOK_MASK_FWD
    if hook == HOOK_OUTPUT:
        return HOOK_MASK_OUT
    return HOOK_MASK_POST


cdef bint step_idle(State *s, int f, int hook, int step) noexcept nogil:
    """Whether nothing can come of a step, whatever the packet."""
    cdef bint tracked = s.ct.enabled6 if f else s.ct.enabled4
    cdef int table = -1
    if step == STEP_DEFRAG:
        return not (s.ct.gathers6 if f else s.ct.gathers4)
    if step == STEP_RAW:
        table = TABLE_RAW
    elif step == STEP_MANGLE:
        table = TABLE_MANGLE
    elif step == STEP_FILTER:
        table = TABLE_FILTER
    elif step == STEP_SECURITY:
        table = TABLE_SECURITY
    elif step == STEP_NAT_DST or step == STEP_NAT_SRC:
        return not (tracked and nat_table_loaded(s, f))
    else:
        return not tracked
    return s.tables[f][table].program == NULL or s.tables[f][table].entries[hook] < 0


cdef void hooks_settle(State *s) noexcept nogil:
    """Note which steps are worth a look. To be called after everything that ``step_idle`` asks about."""
    cdef int f, hook, step
    for f in range(2):
        for hook in range(5):
            s.steps[f][hook] = s.hold[hook] & <uint16_t>hook_mask(hook)
            for step in range(STEP_CONFIRM + 1):
                if hook_mask(hook) & (1 << step) and not step_idle(s, f, hook, step):
                    s.steps[f][hook] |= <uint16_t>(1 << step)


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


cdef inline bint nat_table_loaded(State *s, int f) noexcept nogil:
    return s.tables[f][TABLE_NAT].program != NULL or s.nat_loaded[f]


cdef int nat_hooked(State *s, Pkt *p, int hook, int manip) noexcept nogil:
    """nf_nat_ipv4_pre_routing, _local_in, _local_fn and _out: the NAT step and what must follow where it moved a packet."""
    cdef Addr before, after
    cdef int verdict, dir
    if hook == HOOK_OUTPUT:
        verdict = nat_step(s, p, hook, manip)
        if verdict != NF_ACCEPT:
            return verdict
        if p.ct != NULL:
            # by the flow, not by the packet: an error about one that is translated takes another look at its route too
            dir = DIR_REPLY if p.ctinfo >= CTINFO_ESTABLISHED_REPLY else DIR_ORIGINAL
            if not addr_eq(&p.ct.tuple[dir].dst, &p.ct.tuple[not dir].src) and not route_me_harder(s, p):
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


cdef inline bint head_changed(const Pkt *p, const uint8_t *was) noexcept nogil:
    """Whether TOS is another, or traffic class, flow label or hop limit."""
    cdef const uint8_t *now = p.buf + p.l3
    if p.family == AF4:
        return now[1] != was[1]
    return memcmp(now, was, 4) != 0 or now[7] != was[7]


cdef int rerouting(State *s, Pkt *p, const HookEntry *e) noexcept nogil:
    """ipt_mangle_out and nft_route_hook: what decides the route may have changed. NULL: the mangle table."""
    cdef Addr src, dst, src2, dst2
    cdef uint32_t mark = p.mark
    cdef uint64_t head
    cdef int verdict
    memcpy(&head, p.buf + p.l3, 8)
    pkt_saddr(p, &src)
    pkt_daddr(p, &dst)
    verdict = run_table(s, p, TABLE_MANGLE, HOOK_OUTPUT) if e == NULL else run_nft(s, p, e, HOOK_OUTPUT)
    if verdict == NF_DROP or verdict == NF_STOLEN:
        return verdict
    pkt_saddr(p, &src2)
    pkt_daddr(p, &dst2)
    if not addr_eq(&src, &src2) or not addr_eq(&dst, &dst2) or mark != p.mark or head_changed(p, <uint8_t *>&head):
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
        if nat_table_loaded(s, 1 if p.family == AF6 else 0):
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
    cdef int f = 1 if p.family == AF6 else 0
    cdef int step
    cdef unsigned int left
    p.hook = hook
    if s.hooks[f][hook] != NULL:
        return hook_run_ordered(s, p, hook)
    left = s.steps[f][hook] & ~<unsigned int>((1 << (p.step & 63)) - 1)
    while left:
        step = lowest_bit(left)
        left &= left - 1
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
        if p.ip_options:
            p.stage = STAGE_OPTIONS_OUT
            pkt_upcall(s, p, UP_IP_OPTIONS, HOOK_FORWARD, 0, 0)
            return
        ip_output(s, p)
    elif hook == HOOK_OUTPUT:
        ip_output(s, p)
    else:
        ip_finish_output(s, p)
