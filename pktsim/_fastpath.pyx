# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False, embedsignature=True
"""The one engine: what a packet goes through in one network namespace.

Promises: same configuration, same packets and same answers of ``choose`` give the same events, bytes and counters; no Python
object is touched while a packet moves, but for the callbacks that ask for a choice or an uncommon match. Must not know:
anything above it; it imports nothing of ours. The parts are in ``includes/``:

    consts, types       numbers shared with netfilter/opcodes.py; structures
    frame               bytes, checksums, events, trace
    tuple               what names a connection
    conntrack           the table of connections; conntrack_entry: its entries as Python sees them
    conntrack_proto     the trackers of the protocols; conntrack_tcp and conntrack_sctp: the two with many states
    nat                 address and port choice, rewriting
    match_target        what rules ask and do
    program             rule programs and the loop that runs them
    nft, nft_set        nft's expressions, which are rows of programs too; its sets and maps
    fib                 addresses, routes, neighbours, bridge tables: look-ups
    hooks, receive, routing, path, bridge
                        the stages of a packet's way: netfilter's hooks; what a device gives; the routing decision;
                        forward, deliver, send; bridged packets
    packet              a packet as Python sees it
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport (
    int8_t,
    int16_t,
    int32_t,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
)
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

include "includes/consts.pxi"
include "includes/types.pxi"
include "includes/frame.pxi"
include "includes/tuple.pxi"
include "includes/conntrack.pxi"
include "includes/conntrack_entry.pxi"
include "includes/conntrack_tcp.pxi"
include "includes/conntrack_sctp.pxi"
include "includes/conntrack_proto.pxi"
include "includes/nat.pxi"
include "includes/match_target.pxi"
include "includes/program.pxi"
include "includes/nft_set.pxi"
include "includes/nft.pxi"
include "includes/fib.pxi"
include "includes/hooks.pxi"
include "includes/receive.pxi"
include "includes/routing.pxi"
include "includes/path.pxi"
include "includes/bridge.pxi"
include "includes/packet.pxi"


@cython.final
cdef class Datapath:
    """The packet path of one network namespace."""

    cdef State s
    cdef object _choose
    cdef object _error
    cdef dict _places
    cdef readonly str name
    cdef public object context
    cdef bint _busy

    def __cinit__(self, str name not None, choose not None):
        cdef State *s = &self.s
        memset(s, 0, sizeof(State))
        s.owner = <PyObject *>self
        self.name = name
        self._choose = choose
        self._places = {}
        s.capture = 1
        s.n_neigh = 256
        s.neigh = <Neighbour **>calloc(s.n_neigh, sizeof(Neighbour *))
        s.n_fdb = 256
        s.fdb = <FdbEntry **>calloc(s.n_fdb, sizeof(FdbEntry *))
        if s.neigh == NULL or s.fdb == NULL:
            raise MemoryError
        s.sysctl[SYSCTL_BRIDGE_NF_CALL_IPTABLES] = 1
        s.sysctl[SYSCTL_BRIDGE_NF_CALL_IP6TABLES] = 1
        s.sysctl[SYSCTL_IP_DEFAULT_TTL] = 64
        ct_init(s)

    def __dealloc__(self):
        cdef State *s = &self.s
        cdef uint32_t i
        cdef int f, t
        cdef Neighbour *n
        cdef FdbEntry *e
        cdef Pkt *p
        if s.owner == NULL:
            return
        for i in range(s.n_events):
            if s.events[i].pkt != NULL:
                pkt_free(s, s.events[i].pkt)
        while s.lo_first != NULL:
            p = s.lo_first
            s.lo_first = p.next
            pkt_free(s, p)
        for f in range(2):
            for t in range(5):
                self._table_drop(f, t)
        self._nft_drop()
        ct_free_all(s)
        while s.pool != NULL:
            p = s.pool
            s.pool = p.next
            free(p.buf)
            free(p)
        for i in range(s.n_neigh):
            while s.neigh[i] != NULL:
                n = s.neigh[i]
                s.neigh[i] = n.next
                free(n)
        for i in range(s.n_fdb):
            while s.fdb[i] != NULL:
                e = s.fdb[i]
                s.fdb[i] = e.next
                free(e)
        for i in range(<uint32_t>s.n_links):
            free(s.links[i].ports)
        for i in range(<uint32_t>s.n_rtables):
            free(s.rtables[i].routes)
            free(s.rtables[i].buckets)
        free(s.neigh)
        free(s.fdb)
        free(s.links)
        free(s.addrs)
        free(s.rtables)
        free(s.prules)
        free(s.pmtus)
        free(s.events)
        free(s.bytes)
        free(s.trace)
        free(s.aux)

    # -------------------------------------------------------------------------------------------------------- callbacks

    cdef _keep_error(self, error):
        if self._error is None:
            self._error = error
        self.s.failed = 1

    cdef int64_t _draw(self, str place, int kind, int64_t n) noexcept:
        """Ask for a choice. An error is kept and raised where the caller's call ends."""
        cdef object full
        cdef int64_t answer
        if self._error is not None:
            return 0
        try:
            full = self._places.get(place)
            if full is None:
                full = self._places[place] = f"{self.name}/{place}"
            answer = self._choose(full, kind, n)
            if kind == 0 and not 0 <= answer < n:
                raise ValueError(f"choice at {full} is {answer}, not below {n}")
            return answer
        except BaseException as error:
            self._keep_error(error)
            return 0

    # ---------------------------------------------------------------------------------------------------- configuration

    @property
    def now_ns(self):
        return self.s.now_ns

    @property
    def continuing(self):
        return bool(self.s.continuing)

    @continuing.setter
    def continuing(self, bint on):
        self.s.continuing = on

    @property
    def capture(self):
        return bool(self.s.capture)

    @capture.setter
    def capture(self, bint on):
        self.s.capture = on

    cdef _load_addr(self, Addr *a, data, int family):
        cdef bytes b = bytes(data)
        if len(b) != addr_len(family):
            raise ValueError(f"an address of family {family} has {addr_len(family)} bytes, not {len(b)}")
        addr_load(a, <const uint8_t *><const char *>b, family)

    cdef _check_family(self, int family):
        if family != AF4 and family != AF6:
            raise ValueError(f"family {family} is neither AF_INET nor AF_INET6")

    cdef Link *_link(self, int ifindex) except NULL:
        cdef Link *l = link_get(&self.s, ifindex)
        if l == NULL:
            raise ValueError(f"{self.name} has no interface {ifindex}")
        return l

    def link_set(
        self,
        int ifindex,
        str name not None,
        int kind,
        bytes mac not None,
        int mtu,
        *,
        bint up=True,
        int route_mtu=0,
        int master=0,
        bint hairpin=False,
        bint noarp=False,
    ):
        cdef State *s = &self.s
        cdef Link *l
        cdef bytes encoded = name.encode()
        cdef int old
        if not 0 < ifindex < 1 << 20:
            raise ValueError(f"ifindex {ifindex} is out of range")
        if len(mac) != 6 or not 0 < len(encoded) < 16:
            raise ValueError("a MAC has 6 bytes, a name 1 to 15")
        if master and (master == ifindex or link_get(s, master) == NULL or link_get(s, master).kind != LINK_BRIDGE):
            raise ValueError(f"master {master} is not a bridge")
        if ifindex >= s.n_links:
            old = s.n_links
            s.links = <Link *>realloc(s.links, (ifindex + 1) * sizeof(Link))
            if s.links == NULL:
                abort()
            memset(s.links + old, 0, (ifindex + 1 - old) * sizeof(Link))
            s.n_links = ifindex + 1
        l = s.links + ifindex
        if l.ifindex == 0:
            l.forwarding = -1
        if l.master and l.master != master:
            self._port_remove(l.master, ifindex)
        l.ifindex = ifindex
        l.kind = kind
        l.up = up
        l.hairpin = hairpin
        l.noarp = noarp
        memcpy(l.mac, <const char *>mac, 6)
        memset(l.name, 0, 16)
        memcpy(l.name, <const char *>encoded, len(encoded))
        l.mtu = mtu
        l.route_mtu = route_mtu
        if master and l.master != master:
            l.master = master
            self._port_add(master, ifindex)
        l.master = master
        if kind == LINK_LOOPBACK:
            s.lo_ifindex = ifindex

    cdef _port_add(self, int bridge, int port):
        cdef Link *b = self._link(bridge)
        b.ports = <int32_t *>realloc(b.ports, (b.n_ports + 1) * sizeof(int32_t))
        if b.ports == NULL:
            abort()
        b.ports[b.n_ports] = port
        b.n_ports += 1

    cdef _port_remove(self, int bridge, int port):
        cdef Link *b = link_get(&self.s, bridge)
        cdef int i, n = 0
        cdef uint32_t k
        cdef FdbEntry **at
        cdef FdbEntry *e
        if b != NULL:
            for i in range(b.n_ports):
                if b.ports[i] != port:
                    b.ports[n] = b.ports[i]
                    n += 1
            b.n_ports = n
        for k in range(self.s.n_fdb):
            at = self.s.fdb + k
            while at[0] != NULL:
                e = at[0]
                if e.port == port and e.bridge == bridge:
                    at[0] = e.next
                    free(e)
                else:
                    at = &e.next

    def link_del(self, int ifindex):
        cdef Link *l = self._link(ifindex)
        cdef int i
        if l.master:
            self._port_remove(l.master, ifindex)
        for i in range(self.s.n_links):
            if self.s.links[i].master == ifindex:
                self.s.links[i].master = 0
        free(l.ports)
        memset(l, 0, sizeof(Link))
        if self.s.lo_ifindex == ifindex:
            self.s.lo_ifindex = 0

    def addresses_set(self, int family, addresses not None):
        cdef State *s = &self.s
        cdef list kept = list(addresses)
        cdef AddrEntry *new
        cdef int i, n = 0
        self._check_family(family)
        new = <AddrEntry *>calloc(s.n_addrs + len(kept) + 1, sizeof(AddrEntry))
        if new == NULL:
            raise MemoryError
        for i in range(s.n_addrs):
            if s.addrs[i].family != family:
                new[n] = s.addrs[i]
                n += 1
        try:
            for ifindex, addr, plen, scope in kept:
                self._load_addr(&new[n].addr, addr, family)
                new[n].ifindex = ifindex
                new[n].family = family
                new[n].plen = plen
                new[n].scope = scope
                n += 1
        except BaseException:
            free(new)
            raise
        free(s.addrs)
        s.addrs = new
        s.n_addrs = n

    def routes_set(self, int family, uint32_t table, routes not None):
        cdef State *s = &self.s
        cdef RouteTable *t
        cdef Route *r
        cdef int i, at
        cdef uint32_t slot
        cdef list entries
        self._check_family(family)
        # within one prefix the lowest metric is asked first; equal ones in the order given
        entries = sorted(routes, key=_route_metric)
        t = route_table(s, family, table)
        if t == NULL:
            s.rtables = <RouteTable *>realloc(s.rtables, (s.n_rtables + 1) * sizeof(RouteTable))
            if s.rtables == NULL:
                abort()
            t = s.rtables + s.n_rtables
            memset(t, 0, sizeof(RouteTable))
            t.id = table
            t.family = family
            s.n_rtables += 1
        free(t.routes)
        free(t.buckets)
        t.n_routes = 0
        t.n_plens = 0
        t.routes = <Route *>calloc(len(entries) + 1, sizeof(Route))
        t.n_buckets = 16
        while t.n_buckets < 2 * len(entries):
            t.n_buckets *= 2
        t.buckets = <int32_t *>malloc(t.n_buckets * sizeof(int32_t))
        if t.routes == NULL or t.buckets == NULL:
            raise MemoryError
        for i in range(<int>t.n_buckets):
            t.buckets[i] = -1
        plens = set()
        for dst, plen, type_, scope, gateway, oif, prefsrc, mtu, metric, *more in entries:
            if not 0 <= plen <= 8 * addr_len(family):
                raise ValueError(f"prefix length {plen}")
            r = t.routes + t.n_routes
            self._load_addr(&r.dst, dst, family)
            r.plen = plen
            r.type = type_
            r.scope = scope
            r.oif = oif
            r.mtu = mtu
            r.metric = metric
            if gateway:
                self._load_addr(&r.gateway, gateway, family)
                r.has_gateway = 1
            if prefsrc:
                self._load_addr(&r.prefsrc, prefsrc, family)
                r.has_prefsrc = 1
            r.hops = 1
            if more:
                r.weight, r.hop, hops = more
                r.hops = hops
            plens.add(plen)
            t.n_routes += 1
        for i, plen in enumerate(sorted(plens, reverse=True)):
            t.plens[i] = plen
        t.n_plens = len(plens)
        # chains keep the sorted order: put the last in first
        for at in range(t.n_routes - 1, -1, -1):
            r = t.routes + at
            if r.hop:
                continue
            slot = route_bucket(t, &r.dst, r.plen)
            r.next = t.buckets[slot]
            t.buckets[slot] = at

    def rules_set(self, int family, rules not None):
        cdef State *s = &self.s
        cdef PolicyRule *new
        cdef list entries = sorted(rules, key=_first)
        cdef int i, n = 0
        self._check_family(family)
        new = <PolicyRule *>calloc(s.n_prules + len(entries) + 1, sizeof(PolicyRule))
        if new == NULL:
            raise MemoryError
        for i in range(s.n_prules):
            if s.prules[i].family != family:
                new[n] = s.prules[i]
                n += 1
        try:
            for priority, mark, mask, src, src_len, dst, dst_len, iif, table in entries:
                new[n].priority = priority
                new[n].mark = mark
                new[n].mask = mask
                if src:
                    self._load_addr(&new[n].src, src, family)
                new[n].src_len = src_len
                if dst:
                    self._load_addr(&new[n].dst, dst, family)
                new[n].dst_len = dst_len
                new[n].iif = iif
                new[n].table = table
                new[n].family = family
                n += 1
        except BaseException:
            free(new)
            raise
        free(s.prules)
        s.prules = new
        s.n_prules = n

    def neighbour_set(self, int ifindex, bytes address not None, bytes mac not None, int neighbour_class):
        cdef State *s = &self.s
        cdef int family = AF4 if len(address) == 4 else AF6
        cdef Addr a
        cdef Neighbour *n
        cdef uint32_t slot
        self._load_addr(&a, address, family)
        n = neigh_find(s, family, ifindex, &a)
        if n == NULL:
            n = <Neighbour *>calloc(1, sizeof(Neighbour))
            if n == NULL:
                raise MemoryError
            n.addr = a
            n.ifindex = ifindex
            n.family = family
            slot = neigh_bucket(s, family, ifindex, &a)
            n.next = s.neigh[slot]
            s.neigh[slot] = n
        n.cls = neighbour_class
        if mac:
            if len(mac) != 6:
                raise ValueError("a MAC has 6 bytes")
            memcpy(n.mac, <const char *>mac, 6)

    def neighbour_del(self, int ifindex, bytes address not None):
        cdef State *s = &self.s
        cdef int family = AF4 if len(address) == 4 else AF6
        cdef Addr a
        cdef Neighbour **at
        cdef Neighbour *n
        self._load_addr(&a, address, family)
        at = s.neigh + neigh_bucket(s, family, ifindex, &a)
        while at[0] != NULL:
            n = at[0]
            if n.ifindex == ifindex and n.family == family and addr_eq(&n.addr, &a):
                at[0] = n.next
                free(n)
                return
            at = &n.next

    def path_mtus_set(self, list known not None):
        cdef State *s = &self.s
        cdef PathMtu *new = <PathMtu *>calloc(max(len(known), 1), sizeof(PathMtu))
        cdef int i
        if new == NULL:
            raise MemoryError
        try:
            for i, (address, mtu, locked, expires) in enumerate(known):
                new[i].family = AF4 if len(address) == 4 else AF6
                self._load_addr(&new[i].dst, address, new[i].family)
                new[i].mtu = mtu
                new[i].locked = locked
                new[i].expires = expires
        except BaseException:
            free(new)
            raise
        free(s.pmtus)
        s.pmtus = new
        s.n_pmtus = <int32_t>len(known)

    def fdb_set(self, int bridge, bytes mac not None, int port, *, bint static):
        cdef State *s = &self.s
        cdef FdbEntry *e
        if len(mac) != 6:
            raise ValueError("a MAC has 6 bytes")
        e = fdb_find(s, bridge, <const uint8_t *><const char *>mac)
        if e == NULL:
            fdb_learn(s, bridge, <const uint8_t *><const char *>mac, port)
            e = fdb_find(s, bridge, <const uint8_t *><const char *>mac)
        if e == NULL:
            raise ValueError("a group address has no place in a forwarding table")
        e.port = port
        e.is_static = static
        e.seen_ns = s.now_ns

    def fdb(self, int bridge):
        cdef uint32_t i
        cdef FdbEntry *e
        found = []
        for i in range(self.s.n_fdb):
            e = self.s.fdb[i]
            while e != NULL:
                if e.bridge == bridge:
                    found.append(((<const char *>e.mac)[:6], e.port, bool(e.is_static), e.seen_ns))
                e = e.next
        return sorted(found)

    def fdb_flush(self, int bridge, *, int port=0, bint static=False):
        cdef uint32_t i
        cdef FdbEntry **at
        cdef FdbEntry *e
        for i in range(self.s.n_fdb):
            at = self.s.fdb + i
            while at[0] != NULL:
                e = at[0]
                if e.bridge == bridge and (static or not e.is_static) and (port == 0 or e.port == port):
                    at[0] = e.next
                    free(e)
                else:
                    at = &e.next

    def sysctl_set(self, int key, int64_t value, int ifindex=0):
        cdef Link *l
        if not 0 <= key < 64:
            raise ValueError(f"sysctl {key}")
        if ifindex == 0:
            self.s.sysctl[key] = value
            return
        l = self._link(ifindex)
        if key == SYSCTL_RP_FILTER:
            l.rp_filter = <int>value
        elif key == SYSCTL_ROUTE_LOCALNET:
            l.route_localnet = <int>value
        elif key == SYSCTL_ACCEPT_LOCAL:
            l.accept_local = <int>value
        elif key == SYSCTL_SEND_REDIRECTS:
            l.send_redirects = <int>value
        elif key == SYSCTL_SHARED_MEDIA:
            l.shared_media = <int>value
        elif key == SYSCTL_SRC_VALID_MARK:
            l.src_valid_mark = <int>value
        elif key == SYSCTL_IP_FORWARD:
            l.forwarding = <int>value
        elif key == SYSCTL_IP6_FORCE_FORWARDING:
            l.force_forwarding = <int>value
        elif key == SYSCTL_DISABLE_IPV6:
            l.disable_ipv6 = <int>value
        else:
            raise ValueError(f"sysctl {key} is not per interface")

    def sysctl_get(self, int key):
        if not 0 <= key < 64:
            raise ValueError(f"sysctl {key}")
        return self.s.sysctl[key]

    cdef _table_drop(self, int f, int table):
        cdef TableInst *t = &self.s.tables[f][table]
        if t.program != NULL:
            Py_DECREF(<object>t.program)
        free(t.counters)
        free(t.nth_state)
        memset(t, 0, sizeof(TableInst))

    def table_set(self, int family, int table, Program program, bytes counters=b""):
        cdef int f
        cdef TableInst *t
        self._check_family(family)
        if self._busy:
            raise RuntimeError("a table cannot be replaced while a packet is in it")
        if not 0 <= table < 5:
            raise ValueError(f"table {table}")
        f = 1 if family == AF6 else 0
        if program is not None and counters and len(counters) != 16 * program.n_counters:
            raise ValueError("counters are uint64[n_counters, 2]")
        self._table_drop(f, table)
        if program is None:
            hooks_settle(&self.s)
            return
        t = &self.s.tables[f][table]
        t.counters = <uint64_t *>calloc(2 * program.n_counters + 2, sizeof(uint64_t))
        t.nth_state = <int32_t *>calloc(program.n_rows, sizeof(int32_t))
        if t.counters == NULL or t.nth_state == NULL:
            raise MemoryError
        if counters:
            memcpy(t.counters, <const char *>counters, len(counters))
        t.n_counters = program.n_counters
        Py_INCREF(program)
        t.program = <PyObject *>program
        t.data = &program.data
        t.rows = <const Row *><const char *>program._rows
        t.pool = <const uint8_t *><const char *>program._pool
        t.entries = program._entries
        program.init_nth(t.nth_state)
        hooks_settle(&self.s)

    cdef _nft_drop(self):
        cdef State *s = &self.s
        cdef int i, f, h
        for i in range(s.n_nft):
            Py_DECREF(<object>s.nft[i].t.program)
            Py_DECREF(<object>s.nft[i].sets_owner)
            Py_DECREF(<object>s.nft[i].states_owner)
            free(s.nft[i].t.counters)
            free(s.nft[i].sets)
            free(s.nft[i].chain_rows)
        free(s.nft)
        s.nft = NULL
        s.n_nft = 0
        for f in range(2):
            s.nat_loaded[f] = 0
            for h in range(5):
                free(s.hooks[f][h])
                free(s.nat_chains[f][h])
                s.hooks[f][h] = NULL
                s.nat_chains[f][h] = NULL
                s.n_hooks[f][h] = 0
                s.n_nat_chains[f][h] = 0

    def nft_set(self, tables not None, hooks not None, nat_chains not None):
        """Put nft's tables in force, with the order of everything at each hook.

        Args:
            tables: (program, sets, states, first row of each chain as int32, -1 for none) of each table.
            hooks: (family, hook) -> (step, table, row, chain, reroutes) in order; a step that is no nft chain comes
                before all steps with a higher number. Empty for the built-in order.
            nat_chains: (family, hook) -> the same for what decides mappings; the iptables table has table -1.
        """
        cdef State *s = &self.s
        cdef Program program
        cdef NftStates states
        cdef NftSet one
        cdef NftInst *n
        cdef int i, k
        if self._busy:
            raise RuntimeError("a table cannot be replaced while a packet is in it")
        kept = []
        for program, sets, states, rows in tables:
            sets, rows = tuple(sets), bytes(rows)
            if len(sets) != program.n_sets or len(states) != program.n_states or len(rows) != 4 * program.n_chains:
                raise ValueError("a program and its table have not the same sets, states or chains")
            for row in memoryview(rows).cast("i"):
                if not -1 <= row < program.n_rows:
                    raise ValueError("a chain lies outside of its program")
            program.check_sets(sets)
            kept.append((program, sets, states, rows))
        for where in (hooks, nat_chains):
            for (family, hook), order in where.items():
                self._check_family(family)
                if not 0 <= hook < 5:
                    raise ValueError(f"there is no hook {hook}")
                last = -1
                for step, table, row, chain, reroutes in order:
                    if not 0 <= step <= STEP_NFT or (step != STEP_NFT and step <= last):
                        raise ValueError("the steps of a hook are out of order")
                    if table >= len(kept) or (table >= 0 and not 0 <= row < (<Program>kept[table][0]).n_rows):
                        raise ValueError("a chain lies outside of the tables")
                    if step != STEP_NFT:
                        last = step
        self._nft_drop()
        if not kept:
            hooks_settle(s)
            return
        s.nft = <NftInst *>calloc(len(kept), sizeof(NftInst))
        if s.nft == NULL:
            raise MemoryError
        for i, (program, sets, states, rows) in enumerate(kept):
            n = s.nft + i
            Py_INCREF(program)
            Py_INCREF(sets)
            Py_INCREF(states)
            n.t.program = <PyObject *>program
            n.sets_owner = <PyObject *>sets
            n.states_owner = <PyObject *>states
            s.n_nft = i + 1
            n.t.data = &program.data
            n.t.rows = <const Row *><const char *>program._rows
            n.t.pool = <const uint8_t *><const char *>program._pool
            n.t.entries = program._entries
            n.t.n_counters = program.n_counters
            n.t.counters = <uint64_t *>calloc(2 * program.n_counters + 2, sizeof(uint64_t))
            n.sets = <NftSetData **>calloc(len(sets) + 1, sizeof(NftSetData *))
            n.chain_rows = <int32_t *>calloc(program.n_chains + 1, sizeof(int32_t))
            if n.t.counters == NULL or n.sets == NULL or n.chain_rows == NULL:
                raise MemoryError
            for k, one in enumerate(sets):
                n.sets[k] = &one.d
            n.n_sets = len(sets)
            n.states = states.x
            n.n_states = states.n
            n.n_chains = program.n_chains
            memcpy(n.chain_rows, <const char *>rows, len(rows))
        for (family, hook), order in hooks.items():
            i = 1 if family == AF6 else 0
            s.hooks[i][hook] = self._hook_entries(order)
            s.n_hooks[i][hook] = len(order)
        for (family, hook), order in nat_chains.items():
            i = 1 if family == AF6 else 0
            s.nat_chains[i][hook] = self._hook_entries(order)
            s.n_nat_chains[i][hook] = len(order)
            s.nat_loaded[i] = 1
        hooks_settle(s)

    cdef HookEntry *_hook_entries(self, order) except NULL:
        cdef HookEntry *made = <HookEntry *>calloc(len(order) + 1, sizeof(HookEntry))
        cdef int i
        if made == NULL:
            raise MemoryError
        for i, (step, table, row, chain, reroutes) in enumerate(order):
            made[i].step = step
            made[i].table = table
            made[i].row = row
            made[i].chain = chain
            made[i].reroutes = reroutes
        return made

    def table_counters(self, int family, int table):
        cdef TableInst *t
        self._check_family(family)
        if not 0 <= table < 5:
            raise ValueError(f"table {table}")
        t = &self.s.tables[1 if family == AF6 else 0][table]
        if t.program == NULL:
            return b""
        return (<const char *>t.counters)[: 16 * t.n_counters]

    def conntrack_enable(self, int family, bint on):
        self._check_family(family)
        if family == AF4:
            self.s.ct.enabled4 = on
        else:
            self.s.ct.enabled6 = on
        hooks_settle(&self.s)

    def defragment_enable(self, int family, bint on):
        self._check_family(family)
        if family == AF4:
            self.s.ct.gathers4 = on
        else:
            self.s.ct.gathers6 = on
        hooks_settle(&self.s)

    def labels_enable(self, bint on):
        """Whether connections made from now on have room for labels (nf_connlabels_get)."""
        self.s.labels_used = on

    def hold_set(self, int hook, int step, bint on):
        if not 0 <= hook < 5 or not 0 <= step <= STEP_CONFIRM:
            raise ValueError("no such hook or step")
        if on:
            self.s.hold[hook] |= 1 << step
        else:
            self.s.hold[hook] &= <uint16_t>~(1 << step)
        hooks_settle(&self.s)

    # ----------------------------------------------------------------------------------------------------------- packets

    cdef _begin(self, int64_t now_ns):
        if self._busy:
            raise RuntimeError("the engine does not call itself: handle events after the call")
        self._busy = True
        self.s.now_ns = now_ns
        if not self.s.continuing:
            self.s.clones = 0
            self.s.rounds = 0

    cdef list _end(self):
        """Drain lo, turn the collected events into tuples and raise what a callback raised."""
        cdef State *s = &self.s
        cdef uint32_t i
        cdef EventRec *e
        cdef list out = []
        with nogil:
            lo_drain(s)
        self._busy = False
        for i in range(s.n_events):
            e = s.events + i
            if e.kind == EV_RX or e.kind == EV_TX:
                out.append((e.kind, e.pkt_id, e.reason, (<const char *>s.bytes)[e.data:e.data + e.len]))
            elif e.kind == EV_DROP:
                out.append((e.kind, e.pkt_id, e.reason, e.a))
            else:
                out.append(self._handed(e))
        s.n_events = 0
        s.n_bytes = 0
        self._raise_kept()
        return out

    cdef tuple _handed(self, EventRec *e):
        """An upcall's event, and its packet if it has one, which is Python's from here on."""
        cdef Packet view = None
        if e.pkt != NULL:
            view = Packet.__new__(Packet)
            view.p = e.pkt
            view.datapath = self
            e.pkt = NULL
        return (e.kind, e.pkt_id, e.reason, view, e.a,
                (<const char *>e.addr.b)[:e.addr_len] if e.addr_len else e.b, e.c)

    cdef _raise_kept(self):
        """Raise what a callback raised while a packet moved."""
        if self.s.failed:
            self.s.failed = 0
            error, self._error = self._error, None
            if error is not None:
                raise error

    cdef Pkt *_packet(self, bytes data):
        cdef uint32_t n = len(data)
        cdef Pkt *p = pkt_alloc(&self.s, n)
        memcpy(p.buf + HEADROOM, <const char *>data, n)
        p.end = HEADROOM + n
        return p

    def receive(self, int ifindex, bytes frame not None, int64_t now_ns):
        cdef Pkt *p
        self._begin(now_ns)
        p = self._packet(frame)
        with nogil:
            dev_receive(&self.s, p, ifindex)
        return self._end()

    def receive_batch(self, int ifindex, const uint8_t[::1] data, const uint32_t[::1] ends, int64_t now_ns, int64_t gap_ns=0):
        """Frames that arrive one after the other, ``gap_ns`` apart, in one call without the GIL."""
        cdef State *s = &self.s
        cdef Pkt *p
        cdef uint32_t start = 0, end, kept = 0, k
        cdef Py_ssize_t i, n = ends.shape[0]
        cdef Records records
        cdef list handed = []
        for i in range(n):
            end = ends[i]
            if end < start or end > <size_t>data.shape[0]:
                raise ValueError(f"frame {i} does not lie within the data")
            start = end
        memset(&records, 0, sizeof(Records))
        self._begin(now_ns)
        with nogil:
            start = 0
            for i in range(n):
                end = ends[i]
                p = pkt_alloc(s, end - start)
                if end > start:
                    memcpy(p.buf + HEADROOM, &data[start], end - start)
                p.end = HEADROOM + end - start
                dev_receive(s, p, ifindex)
                lo_drain(s)
                # what the frame led to becomes short records, so that the events' memory stays small; what has a packet waits
                for k in range(kept, s.n_events):
                    records_add(&records, s.events + k)
                    if s.events[k].pkt != NULL:
                        s.events[kept] = s.events[k]
                        kept += 1
                s.n_events = kept
                s.clones = 0
                s.rounds = 0
                s.now_ns += gap_ns
                start = end
                if s.failed:
                    break
        self._busy = False
        for k in range(kept):
            handed.append(self._handed(s.events + k))
        made = (<const char *>records.of)[: records.n * sizeof(Record)] if records.n else b""
        free(records.of)
        frames = (<const char *>s.bytes)[: s.n_bytes] if s.n_bytes else b""
        s.n_events = 0
        s.n_bytes = 0
        self._raise_kept()
        return made, frames, handed

    def send_local(
        self,
        bytes packet not None,
        int64_t now_ns,
        *,
        uint32_t mark=0,
        int ifindex=0,
        uint32_t uid=0,
        uint32_t gid=0,
        uint32_t priority=0,
        Packet related=None,
        bint checksum_partial=False,
        bint onlink=False,
    ):
        cdef Pkt *p
        if not packet:
            raise ValueError("an empty packet")
        self._begin(now_ns)
        p = self._packet(packet)
        if related is not None and related.p != NULL:
            ct_attach(p, related.p)
        p.mark = mark
        p.sk_ifindex = ifindex
        p.uid = uid
        p.gid = gid
        p.priority = priority
        if checksum_partial:
            p.flags |= PF_CSUM_PARTIAL
        if onlink:
            p.flags |= PF_ONLINK
        with nogil:
            ip_local_out(&self.s, p)
        return self._end()

    def transmit(self, int ifindex, bytes frame not None, int64_t now_ns):
        cdef Pkt *p
        cdef Link *l = self._link(ifindex)
        if len(frame) < 14:
            raise ValueError("a frame has at least an Ethernet header")
        self._begin(now_ns)
        p = self._packet(frame)
        p.l3 = p.l2 + 14
        p.ethertype = rd16(p.buf + p.l2 + 12)
        p.flags = PF_LOCAL
        with nogil:
            dev_transmit(&self.s, p, l)
        return self._end()

    cdef Pkt *_take(self, Packet packet) except NULL:
        cdef Pkt *p = packet.get()
        if packet.datapath is not self:
            raise ValueError("the packet belongs to another namespace")
        if packet.borrowed:
            raise ValueError("the packet is still in the engine")
        return p

    def resume(self, Packet packet not None, int64_t now_ns):
        cdef Pkt *p = self._take(packet)
        self._begin(now_ns)
        packet.p = NULL
        with nogil:
            pkt_resume(&self.s, p)
        return self._end()

    def output(self, Packet packet not None, data, int64_t now_ns):
        cdef Pkt *p = self._take(packet)
        cdef Pkt *f
        cdef State *s = &self.s
        cdef list pieces = list(data)
        cdef bytes piece
        cdef Packet carrier
        cdef Link *l
        self._begin(now_ns)
        carrier = packet
        for piece in pieces:
            f = pkt_clone(s, p)
            carrier = Packet.__new__(Packet)
            carrier.p = f
            carrier.datapath = self
            carrier.set_data(piece)
            carrier.p = NULL
            f.frag_max = 0
            with nogil:
                if f.stage == STAGE_HOOK_DONE and f.flags & PF_BRIDGED:
                    l = link_get(s, f.phys_out)
                    if l == NULL:
                        pkt_drop(s, f, DR_LINK_DOWN)
                    else:
                        br_push(s, f, l)
                else:
                    neigh_output(s, f)
        packet.p = NULL
        pkt_free(s, p)
        return self._end()

    def discard(self, Packet packet not None, int reason):
        """The handler of an upcall lets the packet die: count why."""
        cdef Pkt *p = self._take(packet)
        self.drop_count(reason)
        trace_add(&self.s, p, TR_DROP, reason, 0, 0, 0)
        self.release(packet)

    def drop_count(self, int reason):
        """A packet that had left the engine was dropped."""
        self.s.drops[reason & 127] += 1

    def release(self, Packet packet not None):
        """Its upcall is done with: what it holds, as its connection, others may count on being free."""
        cdef Pkt *p = self._take(packet)
        packet.p = NULL
        pkt_free(&self.s, p)

    def route(
        self,
        bytes daddr not None,
        *,
        bytes saddr=b"",
        int ifindex=0,
        uint32_t mark=0,
        int iif=0,
    ):
        cdef int family = AF4 if len(daddr) == 4 else AF6
        cdef Addr dst, src
        cdef RouteResult r
        cdef Link *l
        cdef int type_
        cdef bytes prefsrc = b""
        self._load_addr(&dst, daddr, family)
        src.q[0] = 0
        src.q[1] = 0
        if saddr:
            self._load_addr(&src, saddr, family)
        if family == AF4 and dst.w[0] == 0 and not iif:
            route_to_oneself(&self.s, AF4, &r)
            type_ = RTN_LOCAL
        else:
            type_ = fib_lookup(&self.s, family, &dst, &src, mark, iif if iif else self.s.lo_ifindex, ifindex, &r)
        if type_ == 0:
            return (0, 0, b"", b"", 0)
        if type_ == RTN_ANYCAST:
            r.oif = self.s.lo_ifindex
            r.mtu = 0
        elif type_ == RTN_LOCAL:
            r.oif = self.s.lo_ifindex
            r.nexthop = dst
            r.mtu = 0
            prefsrc = (<const char *>r.prefsrc.b)[:addr_len(family)] if r.has_prefsrc else daddr
        elif r.has_prefsrc:
            prefsrc = (<const char *>r.prefsrc.b)[:addr_len(family)]
        elif family == AF4 and (type_ == RTN_UNICAST or type_ == RTN_BROADCAST):
            # IPv6 chooses when it knows what the packet is (ipv6_dev_get_saddr)
            if select_addr(&self.s, family, r.oif, &r.nexthop, &src):
                prefsrc = (<const char *>src.b)[:addr_len(family)]
        if r.mtu == 0:
            l = link_get(&self.s, r.oif)
            r.mtu = l.mtu if l != NULL else 65535
        return (type_, r.oif, (<const char *>r.nexthop.b)[:addr_len(family)], prefsrc, r.mtu)

    def route_input(self, bytes daddr not None, bytes saddr not None, int ifindex):
        """ip_route_input of what is no IP packet: RouteType and device; 0 and 0 for a martian, or where there is no route."""
        cdef Pkt p
        cdef uint8_t header[20]
        cdef int code
        if len(daddr) != 4 or len(saddr) != 4:
            raise ValueError("IPv4 addresses have four bytes")
        memset(&p, 0, sizeof(p))
        memset(header, 0, sizeof(header))
        memcpy(header + 12, <const char *>saddr, 4)
        memcpy(header + 16, <const char *>daddr, 4)
        p.buf = header
        p.end = p.cap = sizeof(header)
        p.family = AF4
        p.in_if = ifindex
        if route_input(&self.s, &p, &code):
            return (0, 0)
        return (p.rt_type, p.rt_oif)

    def all_routers_set(self, int ifindex, int scopes):
        self._link(ifindex).all_routers = scopes

    def is_anycast(self, bytes address not None, int ifindex=0):
        """ipv6_anycast_destination of what is sent to an IPv6 address, by a device if that is not 0."""
        cdef Addr a, none
        cdef RouteResult r
        self._load_addr(&a, address, AF6)
        none.q[0] = 0
        none.q[1] = 0
        return fib_lookup(&self.s, AF6, &a, &none, 0, self.s.lo_ifindex, ifindex, &r) != 0 and anycast_destination(&r, &a)

    def custom_local_routes_set(self, bint value):
        self.s.custom_local_routes = value

    def address_type(self, bytes address not None, int ifindex=0):
        """``RouteType`` of an address as inet_addr_type sees it."""
        cdef Addr a
        cdef int family = AF4 if len(address) == 4 else AF6
        self._load_addr(&a, address, family)
        return addr_type(&self.s, family, &a, ifindex)

    # ------------------------------------------------------------------------------------------------ connection tracking

    def conntrack_list(self, int64_t now_ns):
        self.s.now_ns = now_ns
        return ct_list(&self.s)

    def conntrack_insert(self, dict entry not None, int64_t now_ns):
        self.s.now_ns = now_ns
        return ct_insert(&self.s, entry)

    def conntrack_delete(self, uint64_t entry_id):
        return ct_delete(&self.s, entry_id)

    def conntrack_tuple(self, Packet packet not None):
        """nf_ct_get_tuplepr: the protocol and tuple that a packet has by its headers, or None."""
        cdef Pkt *p = packet.get()
        cdef Tuple t
        if p.l4 == 0 or p.fragment & FRAG_LATER or not tuple_get(p, p.l3, p.l4, p.proto, &t):
            return None
        return p.proto, ct_tuple_py(&t)

    def conntrack_find(self, int family, int proto, tuple value not None, uint32_t zone, int zone_dir):
        """nf_conntrack_find_get: the dictionary of the entry that has a tuple, in either direction, or None."""
        cdef Tuple t
        cdef int dir = DIR_ORIGINAL
        cdef Ct *ct
        ct_tuple_from(&t, family, proto, value)
        ct = ct_find(&self.s, &t, zone, zone_dir, &dir)
        return ct_entry_dict(&self.s, ct) if ct != NULL else None

    def conntrack_closing(self, Packet packet not None):
        """nf_conntrack_tcp_set_closing: the entry of a TCP packet that was answered with a reset is closed."""
        cdef Ct *ct = packet.get().ct
        cdef int64_t seconds
        if ct == NULL or not ct.status & S_CONFIRMED or ct.tuple[DIR_ORIGINAL].proto != 6:
            return
        if ct.tcp.state != TCP_CLOSE and not ct.status & S_FIXED_TIMEOUT:
            seconds = tcp_timeout(&self.s, TCP_CLOSE)
            ct.timeout_set_ns = seconds * NS_PER_S
            ct.timeout_ns = self.s.now_ns + ct.timeout_set_ns
        ct.tcp.state = TCP_CLOSE

    def conntrack_flush(self):
        ct_flush(&self.s)

    def conntrack_stats(self):
        return ct_stats(&self.s)

    # -------------------------------------------------------------------------------------------------------- explanation

    def trace_set(self, bint on):
        self.s.tracing = on

    def take_trace(self):
        cdef State *s = &self.s
        cdef bytes records = (<const char *>s.trace)[: s.n_trace * 24] if s.n_trace else b""
        cdef bytes aux = (<const char *>s.aux)[: s.n_aux] if s.n_aux else b""
        s.n_trace = 0
        s.n_aux = 0
        return records, aux

    def drop_counts(self):
        cdef int i
        return {i: self.s.drops[i] for i in range(128) if self.s.drops[i]}

    def upcall_counts(self):
        cdef int i
        return {i: self.s.upcalls[i] for i in range(32) if self.s.upcalls[i]}


def _route_metric(route):
    return route[8]


def _first(rule):
    return rule[0]


def checksum(bytes data not None, uint32_t initial=0):
    """RFC 1071 one's complement sum of ``data``, folded and inverted; ``initial`` is a partial sum to start from."""
    cdef uint64_t total = sum_bytes(<const uint8_t *><const char *>data, len(data), 0)
    cdef uint32_t folded = swap16(fold(total)) + initial
    while folded >> 16:
        folded = (folded & 0xFFFF) + (folded >> 16)
    return ~folded & 0xFFFF


def checksum_adjust(int old_checksum, bytes old not None, bytes new not None):
    """The checksum after ``old`` bytes (even length) were replaced by ``new`` (RFC 1624)."""
    cdef uint8_t check[2]
    if len(old) != len(new) or len(old) % 2:
        raise ValueError("old and new have the same even length")
    wr16(check, old_checksum)
    csum_replace(check, <const uint8_t *><const char *>old, <const uint8_t *><const char *>new, len(old))
    return rd16(check)
