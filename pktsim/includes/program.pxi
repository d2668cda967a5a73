# Programs: the flat form of a table, and the one loop that runs them.
#
# A rule is a run of rows: its tests, each with the row to go on at when it fails, then COUNT, then what it does. Chains are
# runs of rules ended by END (a user chain) or POLICY (a built-in one). See netfilter/opcodes.py for the rows and
# netfilter/lower.py for how they are made.

cdef enum:
    NFT_TABLES = 16            # what the trace calls nft's tables: this and above
    STACK_DEPTH = 256          # lower.py refuses deeper jumps

cdef struct DispatchSlot:
    uint8_t key[16]
    uint8_t used
    int32_t first              # in Dispatch.candidates: count, then rows in order

cdef struct Dispatch:
    int32_t kind               # 0: destination address, 1: protocol and destination port
    uint32_t n_slots           # a power of two
    DispatchSlot *slots
    int32_t *candidates
    int32_t n_candidates
    int32_t every              # in candidates: all rules of the run, for packets that have no such key

cdef struct ProgramData:
    Dispatch *dispatch
    int32_t n_dispatch


@cython.final
cdef class Program:
    """One lowered table: immutable, shared between namespaces that loaded equal tables."""

    cdef readonly int n_rows
    cdef readonly int n_counters
    cdef bytes _rows
    cdef bytes _pool
    cdef int32_t _entries[5]
    cdef tuple _callables
    cdef tuple _places
    cdef ProgramData data
    cdef readonly int n_sets
    cdef readonly int n_states
    cdef readonly int n_chains

    def __cinit__(self, bytes rows, bytes pool, entries, int n_counters, callables=(), places=(), dispatch=(), *,
                  int n_sets=0, int n_states=0, int n_chains=0):
        cdef int i
        if len(rows) % sizeof(Row) or not rows:
            raise ValueError("rows are int32[n, 8] with at least one row")
        if len(entries) != 5:
            raise ValueError("one entry per hook is needed")
        self.n_rows = len(rows) // sizeof(Row)
        self.n_counters = n_counters
        self.n_sets = n_sets
        self.n_states = n_states
        self.n_chains = n_chains
        self._rows = rows
        self._pool = pool
        for i in range(5):
            self._entries[i] = entries[i]
            if not -1 <= entries[i] < self.n_rows:
                raise ValueError("an entry lies outside the rows")
        self._callables = tuple(callables)
        self._places = tuple(places)
        self._build_dispatch(list(dispatch))
        self._check_rows()

    cdef _check_rows(self):
        """The loop trusts its rows: everything that could leave the program is checked here, once."""
        cdef const Row *rows = <const Row *><const char *>self._rows
        cdef const Row *r
        cdef int i
        cdef int n = self.n_rows
        cdef int pool = len(self._pool)
        cdef int need
        for i in range(n):
            r = rows + i
            if r.op < 32 and not 0 <= r.on_fail < n:
                raise ValueError(f"row {i} fails to row {r.on_fail}")
            need = pool_need(r)
            if need and not 0 <= r.a <= pool - need:
                raise ValueError(f"row {i} reads past the pool")
            if r.op in (OP_JUMP, OP_GOTO) and not 0 <= r.a < n:
                raise ValueError(f"row {i} jumps to row {r.a}")
            if r.op == OP_DISPATCH and not (0 <= r.b < n and 0 <= r.a < self.data.n_dispatch):
                raise ValueError(f"row {i} dispatches by {r.a} or skips to row {r.b}")
            if r.op == OP_COUNT or r.op == OP_END:
                if not 0 <= r.a < self.n_counters:
                    raise ValueError(f"row {i} counts in {r.a}")
            if r.op == OP_POLICY and not 0 <= r.b < self.n_counters:
                raise ValueError(f"row {i} counts in {r.b}")
            if r.op in (OP_PYTHON, OP_PYTHON_TARGET) and not 0 <= r.a < len(self._callables):
                raise ValueError(f"row {i} calls {r.a}")
            if r.op >= OP_NFT_PAYLOAD:
                self._check_nft(r, i, pool)
            if r.op == OP_STATISTIC_NTH and not 0 <= r.b < n:
                raise ValueError(f"row {i} counts in slot {r.b}")
            if r.op == OP_STATISTIC_RANDOM and not 0 <= r.b < len(self._places):
                raise ValueError(f"row {i} draws at place {r.b}")
        # the last row of the program must not fall off the end
        if rows[n - 1].op not in (OP_END, OP_POLICY, OP_VERDICT, OP_GOTO, OP_RETURN):
            raise ValueError("the last row falls off the program")

    cdef _check_nft(self, const Row *r, int i, int pool):
        """An nft row stays within the registers, the pool, the sets and the states."""
        cdef int size = 4
        cdef int need = 0
        cdef int32_t at[4]
        cdef int k
        if r.op > OP_NFT_MATCHED or not 0 <= r.on_fail < self.n_rows:
            raise ValueError(f"row {i} is no operation or fails to row {r.on_fail}")
        if r.op in (OP_NFT_PAYLOAD, OP_NFT_BITS, OP_NFT_OPTION):
            if r.op != OP_NFT_OPTION and not 0 <= r.a <= 2 or not 0 <= r.b <= 1 << 16 or not 0 <= r.c <= 64:
                raise ValueError(f"row {i} reads {r.c} at {r.b} of header {r.a}")
            if r.op != OP_NFT_PAYLOAD and r.c > 32:
                raise ValueError(f"row {i} reads {r.c} bits")
            if r.op == OP_NFT_OPTION and (r.a < 0 or r.a >> 1 > 255):
                raise ValueError(f"row {i} looks for option {r.a}")
            if r.op == OP_NFT_BITS and r.c == 0:
                raise ValueError(f"row {i} reads no bits")
            size = r.c if r.op == OP_NFT_PAYLOAD else 4
        elif r.op in (OP_NFT_META, OP_NFT_CT, OP_NFT_FIB, OP_NFT_NEXTHOP):
            size = 16
            if r.op == OP_NFT_CT and not -1 <= r.b <= 1:
                raise ValueError(f"row {i} has direction {r.b}")
        elif r.op in (OP_NFT_IMMEDIATE, OP_NFT_BITWISE, OP_NFT_CMP, OP_NFT_RANGE):
            size = r.c
            need = r.c * (1 if r.op in (OP_NFT_IMMEDIATE, OP_NFT_CMP) else 2)
            if not 0 < r.c <= 64 or not 0 <= r.a <= pool - need:
                raise ValueError(f"row {i} reads past the pool")
        elif r.op in (OP_NFT_SHIFT, OP_NFT_REVERSE):
            size = r.c
            if not 0 < r.c <= (8 if r.op == OP_NFT_SHIFT else 64) or r.op == OP_NFT_SHIFT and r.b < 0:
                raise ValueError(f"row {i} shifts {r.c} bytes")
        elif r.op == OP_NFT_NUMBER:
            if not 0 <= r.a & 0xFF <= 3 or not 0 <= r.c <= pool - 16:
                raise ValueError(f"row {i} reads past the pool")
            memcpy(at, <const char *>self._pool + r.c, 16)
            if not 0 <= at[3] <= 64 or at[0] == 0 or not 0 <= r.a >> 8 <= NFT_REGISTERS - at[3]:
                raise ValueError(f"row {i} hashes {at[3]} bytes from {r.a >> 8} modulo {at[0]}")
            if r.a & 0xFF == 1:
                if not 0 <= r.b < len(self._places):
                    raise ValueError(f"row {i} draws at place {r.b}")
            elif not -1 <= r.b < self.n_states or r.a & 0xFF == 0 and r.b < 0:
                raise ValueError(f"row {i} counts in state {r.b}")
        elif r.op == OP_NFT_STATE:
            if not 0 <= r.a < self.n_states:
                raise ValueError(f"row {i} counts in state {r.a}")
        elif r.op in (OP_NFT_LOOKUP, OP_NFT_DYNSET):
            size = 64
            if not 0 <= r.a < self.n_sets or not -2 <= r.b <= NFT_REGISTERS - 64:
                raise ValueError(f"row {i} looks up in set {r.a}")
            if r.op == OP_NFT_DYNSET and not 0 <= r.c <= pool - 12:
                raise ValueError(f"row {i} reads past the pool")
        elif r.op in (OP_NFT_SET_META, OP_NFT_SET_CT, OP_NFT_SET_MSS):
            if not 0 <= r.a <= NFT_REGISTERS - 4:
                raise ValueError(f"row {i} sets from register {r.a}")
        elif r.op == OP_NFT_SET_PAYLOAD:
            if not 0 <= r.a & 0xFF <= 2 or not 0 <= r.a >> 8 <= NFT_REGISTERS - 64 or not 0 < r.c <= 64 or r.b < 0 or r.d < 0:
                raise ValueError(f"row {i} writes {r.c} bytes at {r.b}")
        elif r.op == OP_NFT_NAT:
            if not 0 <= r.a <= 3 or not 0 <= r.d <= pool - 16:
                raise ValueError(f"row {i} reads past the pool")
            memcpy(at, <const char *>self._pool + r.d, 16)
            for k in range(4):
                if not -1 <= at[k] <= NFT_REGISTERS - 16:
                    raise ValueError(f"row {i} maps to register {at[k]}")
        if r.op not in (OP_NFT_NAT, OP_NFT_SET_META, OP_NFT_SET_CT, OP_NFT_SET_MSS, OP_NFT_SET_PAYLOAD, OP_NFT_STATE,
                        OP_NFT_REJECT, OP_NFT_MATCHED):
            if not 0 <= r.d <= NFT_REGISTERS - ((size + 3) & ~3):
                raise ValueError(f"row {i} uses register {r.d}")

    cdef _build_dispatch(self, list dispatch):
        cdef int i, at
        cdef uint32_t slot
        cdef Dispatch *d
        cdef bytes key
        self.data.n_dispatch = len(dispatch)
        if not dispatch:
            return
        self.data.dispatch = <Dispatch *>calloc(len(dispatch), sizeof(Dispatch))
        if self.data.dispatch == NULL:
            raise MemoryError
        for i, (kind, keys, every) in enumerate(dispatch):
            d = self.data.dispatch + i
            d.kind = kind
            d.n_slots = 16
            while d.n_slots < 2 * len(keys):
                d.n_slots *= 2
            d.slots = <DispatchSlot *>calloc(d.n_slots, sizeof(DispatchSlot))
            d.n_candidates = sum(1 + len(rows) for rows in keys.values()) + 1 + len(every)
            d.candidates = <int32_t *>calloc(d.n_candidates, sizeof(int32_t))
            if d.slots == NULL or d.candidates == NULL:
                raise MemoryError
            at = 0
            for key, rows in keys.items():
                if len(key) != 16:
                    raise ValueError("dispatch keys are 16 bytes")
                slot = bytes_hash(<const uint8_t *><const char *>key, 16) & (d.n_slots - 1)
                while d.slots[slot].used:
                    slot = (slot + 1) & (d.n_slots - 1)
                d.slots[slot].used = 1
                memcpy(d.slots[slot].key, <const char *>key, 16)
                d.slots[slot].first = at
                at = self._put_rows(d, at, rows)
            d.every = at
            self._put_rows(d, at, every)

    def check_sets(self, sets):
        """The rows that use sets do so with keys and data of the right sizes.

        Raises:
            ValueError: One does not.
        """
        cdef const Row *rows = <const Row *><const char *>self._rows
        cdef int i
        cdef NftSet one
        for i in range(self.n_rows):
            if rows[i].op == OP_NFT_LOOKUP or rows[i].op == OP_NFT_DYNSET:
                one = sets[rows[i].a]
                if rows[i].op == OP_NFT_LOOKUP and rows[i].b == -2 and one.d.data_size != 8:
                    raise ValueError(f"row {i} wants verdicts of a set that has none")
                if rows[i].op == OP_NFT_DYNSET and (one.d.kind != SET_HASH or rows[i].b < -1):
                    raise ValueError(f"row {i} adds to a set that rules cannot add to")

    cdef int _put_rows(self, Dispatch *d, int at, rows) except -1:
        cdef int32_t row
        d.candidates[at] = len(rows)
        at += 1
        for row in rows:
            if not 0 <= row < self.n_rows:
                raise ValueError("a dispatch candidate lies outside the rows")
            d.candidates[at] = row
            at += 1
        return at

    cdef void init_nth(self, int32_t *state) noexcept:
        """--packet P starts the count so that the P-th packet of each round matches (xt_statistic.c)."""
        cdef const Row *rows = <const Row *><const char *>self._rows
        cdef int i
        for i in range(self.n_rows):
            if rows[i].op == OP_STATISTIC_NTH and 0 <= rows[i].b < self.n_rows:
                state[rows[i].b] = rows[i].c

    def __dealloc__(self):
        cdef int i
        if self.data.dispatch != NULL:
            for i in range(self.data.n_dispatch):
                free(self.data.dispatch[i].slots)
                free(self.data.dispatch[i].candidates)
            free(self.data.dispatch)


def jumps_to(const uint8_t[::1] rows not None, int32_t target):
    """The numbers of the rows, ``int32[n, 8]`` in all, that jump to row ``target``."""
    cdef Py_ssize_t n = rows.shape[0] // <Py_ssize_t>sizeof(Row)
    cdef Py_ssize_t i
    cdef const Row *row
    found = []
    if n == 0:
        return found
    row = <const Row *>&rows[0]
    for i in range(n):
        if row[i].a == target and (row[i].op == OP_JUMP or row[i].op == OP_GOTO):
            found.append(i)
    return found


cdef struct PoolRange:         # a NatRange as it lies in the pool: no padding
    uint8_t min_addr[16]
    uint8_t max_addr[16]
    uint16_t min_port          # network order
    uint16_t max_port
    uint16_t base_port
    uint16_t flags


cdef int pool_need(const Row *r) noexcept nogil:
    """How many bytes of the pool a row reads at ``a``."""
    if r.op == OP_SADDR or r.op == OP_DADDR or r.op == OP_IIF or r.op == OP_OIF or r.op == OP_CT_ADDR:
        return 32
    if r.op == OP_TCP:
        return 12
    if r.op == OP_UDP or r.op == OP_SCTP:
        return 10
    if r.op == OP_MULTIPORT:
        return 4 * r.b
    if OP_DNAT <= r.op <= OP_NETMAP:
        return <int>sizeof(PoolRange)
    if r.op == OP_TEE:
        return 32
    return 0


cdef void load_range(NatRange *rng, const uint8_t *pool) noexcept nogil:
    cdef PoolRange r
    memcpy(&r, pool, sizeof(PoolRange))
    memset(rng, 0, sizeof(NatRange))
    memcpy(rng.min_addr.b, r.min_addr, 16)
    memcpy(rng.max_addr.b, r.max_addr, 16)
    rng.min_port = r.min_port
    rng.max_port = r.max_port
    rng.base_port = r.base_port
    rng.flags = r.flags


# ---------------------------------------------------------------------------------------------------------------- loop

cdef int dispatch_next(State *s, Pkt *p, TableInst *t, const Row *r, int pc, int prev, int table) noexcept nogil:
    """The next rule of the run behind ``pc`` that can match, or the row after the run.

    ``prev`` is the row that was left: within the run, rules at or before it have been tried.
    """
    cdef Dispatch *d = (<ProgramData *>t.data).dispatch + r.a
    cdef uint8_t key[16]
    cdef uint32_t slot
    cdef int32_t at, n, i, row, result
    cdef int after = prev if pc < prev < r.b else pc
    cdef bint keyed = True
    memset(key, 0, 16)
    if d.kind == 0:
        if p.family == AF4:
            memcpy(key, p.buf + p.l3 + 16, 4)
        else:
            memcpy(key, p.buf + p.l3 + 24, 16)
    elif p.l4 == 0 or l4_len(p) < 20 or p.fragment:
        keyed = False          # a port match may have more to say of it (hot drop) than "no"
    else:
        key[0] = p.proto
        key[1] = p.buf[p.l4 + 2]
        key[2] = p.buf[p.l4 + 3]
    at = d.every
    if keyed:
        at = -1
        slot = bytes_hash(key, 16) & (d.n_slots - 1)
        while d.slots[slot].used:
            if memcmp(d.slots[slot].key, key, 16) == 0:
                at = d.slots[slot].first
                break
            slot = (slot + 1) & (d.n_slots - 1)
    result = r.b
    if at >= 0:
        n = d.candidates[at]
        for i in range(1, n + 1):
            row = d.candidates[at + i]
            if row > after:
                result = row
                break
    return result


cdef int run_table(State *s, Pkt *p, int table, int hook) noexcept nogil:
    """Run an iptables table's chain of this hook. Returns NF_ACCEPT, NF_DROP (``s.drop_reason`` says why) or NF_STOLEN."""
    cdef TableInst *t = &s.tables[1 if p.family == AF6 else 0][table]
    if t.program == NULL or t.entries[hook] < 0:
        return NF_ACCEPT
    trace_add(s, p, TR_TABLE, table, hook, 0, 0)
    return run_program(s, p, t, table, hook, t.entries[hook])


cdef int run_program(State *s, Pkt *p, TableInst *t, int table, int hook, int entry) noexcept nogil:
    """Run a chain from its first row on. ``table`` is what the trace calls it: NFT_TABLES and above are nft's."""
    cdef const Row *rows
    cdef const Row *r
    cdef const uint8_t *pool
    cdef uint64_t *counters
    cdef int32_t stack[STACK_DEPTH]
    cdef int depth = 0
    cdef int pc, prev, next_pc, verdict
    cdef int ok
    cdef bint inverts
    cdef uint32_t size = p.end - p.l3
    cdef uint8_t *ip = p.buf + p.l3
    cdef int alen = addr_len(p.family)
    cdef NatRange rng
    cdef Ct *ct
    cdef uint8_t regs[NFT_REGISTERS]
    cdef int chain = 0
    pc = entry
    rows = t.rows
    pool = t.pool
    counters = t.counters
    if table >= NFT_TABLES:
        memset(regs, 0, NFT_REGISTERS)
    prev = pc
    while True:
        r = rows + pc
        if r.op < 32:
            # ------------------------------------------------------------------ tests
            ok = 0
            if r.op == OP_DADDR:
                ok = masked_eq(ip + (16 if alen == 4 else 24), pool + r.a, alen)
            elif r.op == OP_PROTO:
                ok = -1 if p.headers_cut else p.proto == r.a
            elif r.op == OP_SADDR:
                ok = masked_eq(ip + (12 if alen == 4 else 8), pool + r.a, alen)
            elif r.op == OP_TCP:
                ok = test_tcp(p, pool + r.a)
            elif r.op == OP_UDP:
                ok = test_ports_inv(p, pool + r.a, 8)
            elif r.op == OP_CTSTATE:
                ok = (ct_state_bits(p) & <uint32_t>r.a) != 0
            elif r.op == OP_MARK:
                ok = (p.mark & <uint32_t>r.b) == <uint32_t>r.a
            elif r.op == OP_ADDRTYPE:
                ok = test_addrtype(s, p, r, hook)
            elif r.op == OP_STATISTIC_RANDOM:
                ok = draw_chance(s, t, r.b, r.a)
                trace_add(s, p, TR_RANDOM, table, r.rule, ok, 0)
            elif r.op == OP_STATISTIC_NTH:
                # xt_statistic.c: the counter is per rule and namespace and wraps after ``every``
                t.nth_state[r.b] = 0 if t.nth_state[r.b] == r.a else t.nth_state[r.b] + 1
                ok = t.nth_state[r.b] == 0
            elif r.op == OP_IIF:
                ok = masked_eq(<const uint8_t *>link_name(s, p.in_if), pool + r.a, 16)
            elif r.op == OP_OIF:
                ok = masked_eq(<const uint8_t *>link_name(s, p.out_if), pool + r.a, 16)
            elif r.op == OP_FRAGMENT:
                ok = (p.fragment & FRAG_LATER) != 0
            elif r.op == OP_SCTP:
                ok = test_ports_inv(p, pool + r.a, 12)
            elif r.op == OP_ICMP:
                ok = test_icmp(p, r)
            elif r.op == OP_CT_STATUS:
                ct = seen_ct(s, p)
                ok = ct != NULL and (ct.status & <uint32_t>r.a) != 0
            elif r.op == OP_CONNMARK:
                ct = seen_ct(s, p)
                ok = ct != NULL and (ct.mark & <uint32_t>r.b) == <uint32_t>r.a
            elif r.op == OP_MULTIPORT:
                ok = test_ports(p, pool + r.a, r.b, r.c)
            elif r.op == OP_PHYSDEV:
                ok = test_physdev(p, r, s, pool)
            elif r.op == OP_CT_ADDR:
                ok = test_ct_tuple(s, p, r, pool)
            elif r.op == OP_CT_PORT:
                ok = test_ct_port(s, p, r)
            elif r.op == OP_CT_PROTO:
                ct = seen_ct(s, p)
                ok = ct != NULL and ct.tuple[DIR_ORIGINAL].proto == r.a
            elif r.op == OP_CT_DIR:
                ct = seen_ct(s, p)
                ok = ct != NULL and (seen_ctinfo(p) >= CTINFO_ESTABLISHED_REPLY) == (r.a != 0)
            elif r.op == OP_CT_EXISTS:
                ok = seen_ct(s, p) != NULL
            elif r.op == OP_CT_EXPIRE:
                ct = seen_ct(s, p)
                ok = ct != NULL and ct_in_expiry(s, ct, r.a, r.b)
            elif r.op == OP_LENGTH:
                ok = r.a <= <int32_t>size <= r.b
            elif r.op == OP_TTL:
                # a: 0 equal, 1 less, 2 greater
                ok = ip[8 if alen == 4 else 7]
                ok = (ok == r.b) if r.a == 0 else ((ok < r.b) if r.a == 1 else (ok > r.b))
            elif r.op == OP_DSCP:
                ok = (((ip[1] >> 2) if alen == 4 else ((rd16(ip) >> 6) & 0x3F))) == r.a
            elif r.op == OP_PKTTYPE:
                ok = p.pkt_type == r.a
            else:  # OP_PYTHON
                ok = call_python(s, p, t, r.a, hook)
            if ok < 0:
                s.drop_reason = DR_UNSUPPORTED if s.failed else DR_HOTDROP
                trace_add(s, p, TR_RULE, table, r.rule, 0, 0)
                return NF_DROP
            if ok == r.invert:
                trace_add(s, p, TR_RULE, table, r.rule, 0, 0)
                prev = pc
                pc = r.on_fail
            else:
                prev = pc
                pc += 1
            continue
        # ------------------------------------------------------------------ flow and targets
        next_pc = pc + 1
        if r.op == OP_COUNT:
            counters[2 * r.a] += 1
            counters[2 * r.a + 1] += size
            trace_add(s, p, TR_RULE, table, r.rule, 1, 0)
        elif r.op == OP_DISPATCH:
            next_pc = dispatch_next(s, p, t, r, pc, prev, table)
        elif r.op == OP_JUMP:
            if depth >= STACK_DEPTH:
                s.drop_reason = DR_RULE
                return NF_DROP
            stack[depth] = next_pc
            depth += 1
            next_pc = r.a
        elif r.op == OP_GOTO:
            next_pc = r.a
        elif r.op == OP_RETURN or r.op == OP_END:
            if r.op == OP_END:
                counters[2 * r.a] += 1
                counters[2 * r.a + 1] += size
            if depth == 0:
                # RETURN in a built-in chain, or the end of a chain it went to: the policy decides
                next_pc = policy_row(rows, entry)
            else:
                depth -= 1
                next_pc = stack[depth]
            trace_add(s, p, TR_RETURN, table, r.rule, 0, 0)
        elif r.op == OP_POLICY:
            counters[2 * r.b] += 1
            counters[2 * r.b + 1] += size
            trace_add(s, p, TR_POLICY, table, hook, r.a, 0)
            if r.a == NF_DROP:
                s.drop_reason = DR_POLICY
            return r.a
        elif r.op == OP_VERDICT:
            if r.a == NF_DROP:
                s.drop_reason = DR_RULE
            return r.a
        elif r.op == OP_SET_MARK:
            p.mark = (p.mark & ~<uint32_t>r.a) ^ <uint32_t>r.b
            trace_add(s, p, TR_MARK, <int>p.mark, 0, 0, 0)
        elif r.op == OP_SET_CONNMARK:
            do_connmark(s, p, r)
        elif r.op == OP_NOTRACK:
            # xt_ct_target: "Previously seen (loopback)? Ignore.", and a template counts as that
            if p.ctinfo == CTINFO_NONE and not p.tmpl_set:
                p.ctinfo = CTINFO_UNTRACKED
                trace_add(s, p, TR_UNTRACKED, 0, 0, 0, 0)
        elif r.op == OP_CT_ZONE:
            if p.ctinfo == CTINFO_NONE and not p.tmpl_set:
                template_set(p, <uint32_t>r.a, r.b, r.c)
        elif r.op == OP_TEE:
            do_tee(s, p, pool + r.a, hook)
        elif r.op == OP_LOG:
            pass
        elif r.op == OP_PYTHON_TARGET:
            ok = call_python(s, p, t, r.a, hook)
            ip = p.buf + p.l3
            size = p.end - p.l3
            if ok <= 0:
                s.drop_reason = DR_RULE if ok == 0 else DR_UNSUPPORTED
                return NF_DROP
        elif r.op == OP_REJECT:
            drop_event(s, p, DR_REJECTED)
            pkt_upcall(s, p, UP_REJECT, r.a, hook, 0)
            return NF_STOLEN
        elif r.op == OP_QUEUE:
            # nf_queue: -ESRCH, for no program has bound itself to the queue
            if r.a:
                return NF_BYPASS
            s.drop_reason = DR_NO_QUEUE
            return NF_DROP
        elif r.op >= OP_NFT_PAYLOAD:
            ok = nft_row(s, p, <NftInst *>t, r, regs, hook, &chain)
            if ok == NFT_BREAK:
                trace_add(s, p, TR_RULE, table, r.rule, 0, 0)
                next_pc = r.on_fail
            elif ok != NFT_NEXT:
                if r.op == OP_NFT_LOOKUP:
                    trace_add(s, p, TR_RULE, table, r.rule, 1, chain if ok == NFT_JUMP or ok == NFT_GOTO else -1)
                if ok == NFT_ACCEPT:
                    return NF_ACCEPT
                if ok == NFT_STOLEN:
                    return NF_STOLEN
                if ok == NFT_JUMP or ok == NFT_GOTO:
                    if ok == NFT_JUMP:
                        if depth >= STACK_DEPTH:
                            s.drop_reason = DR_RULE
                            return NF_DROP
                        # nft resumes behind the rule, not behind the map
                        stack[depth] = r.on_fail
                        depth += 1
                    next_pc = nft_chain_row(<NftInst *>t, chain)
                    if next_pc < 0:
                        s.drop_reason = DR_RULE
                        return NF_DROP
                elif ok == NFT_RETURN:
                    if depth == 0:
                        next_pc = policy_row(rows, entry)
                    else:
                        depth -= 1
                        next_pc = stack[depth]
                    trace_add(s, p, TR_RETURN, table, r.rule, 0, 0)
                else:
                    if r.op == OP_NFT_LOOKUP:
                        s.drop_reason = DR_RULE
                    return NF_DROP
            elif r.op == OP_NFT_MATCHED:
                trace_add(s, p, TR_RULE, table, r.rule, 1, -1)
            ip = p.buf + p.l3
        else:
            load_range(&rng, pool + r.a)
            if r.op == OP_DNAT:
                verdict = nat_setup(s, p, &rng, MANIP_DST) if p.ct != NULL else NF_ACCEPT
            elif r.op == OP_SNAT:
                verdict = nat_setup(s, p, &rng, MANIP_SRC) if p.ct != NULL else NF_ACCEPT
            elif r.op == OP_MASQUERADE:
                verdict = do_masquerade(s, p, &rng)
            elif r.op == OP_REDIRECT:
                verdict = do_redirect(s, p, &rng, hook)
            else:
                verdict = do_netmap(s, p, &rng, hook)
            return verdict
        prev = pc
        pc = next_pc


cdef inline int nft_chain_row(const NftInst *n, int chain) noexcept nogil:
    return n.chain_rows[chain] if 0 <= chain < n.n_chains else -1


cdef int policy_row(const Row *rows, int entry) noexcept nogil:
    """The POLICY row of the built-in chain that begins at ``entry``: where RETURN goes with an empty stack."""
    while rows[entry].op != OP_POLICY:
        entry += 1
    return entry
