# A packet that left the engine, as Python sees and changes it.

# The collector must not take its namespace from it: only with that can what it holds be given back.
@cython.final
@cython.no_gc_clear
cdef class Packet:
    """A packet that left the engine in an upcall. Holds its place in the path, so that it can be resumed there."""

    cdef Pkt *p
    cdef Datapath datapath
    cdef bint borrowed         # seen by a match only: the engine keeps it

    def __init__(self):
        raise TypeError("packets come from a Datapath")

    def __dealloc__(self):
        if self.p != NULL and not self.borrowed and self.datapath is not None:
            pkt_free(&self.datapath.s, self.p)
            self.p = NULL

    cdef Pkt *get(self) except NULL:
        if self.p == NULL:
            raise ValueError("the packet has gone on")
        return self.p

    @property
    def pkt_id(self):
        return self.get().id

    @property
    def mark(self):
        return self.get().mark

    @mark.setter
    def mark(self, uint32_t value):
        self.get().mark = value

    @property
    def priority(self):
        return self.get().priority

    @priority.setter
    def priority(self, uint32_t value):
        self.get().priority = value

    @property
    def data(self):
        cdef Pkt *p = self.get()
        return (<const char *>p.buf)[p.l3:p.end]

    @property
    def frame(self):
        cdef Pkt *p = self.get()
        return (<const char *>p.buf)[p.l2:p.end]

    @property
    def ethertype(self):
        return self.get().ethertype

    @property
    def protocol(self):
        return self.get().proto

    @property
    def family(self):
        return self.get().family

    @property
    def transport_offset(self):
        """From the network header; 0 where there is no transport header."""
        cdef Pkt *p = self.get()
        return p.l4 - p.l3 if p.l4 else 0

    @property
    def in_ifindex(self):
        return self.get().in_if

    @property
    def out_ifindex(self):
        return self.get().out_if

    @property
    def phys_in_ifindex(self):
        return self.get().phys_in

    @property
    def phys_out_ifindex(self):
        return self.get().phys_out

    @property
    def device_ifindex(self):
        return self.get().dev

    @property
    def hook(self):
        return self.get().hook

    @property
    def local(self):
        return bool(self.get().flags & PF_LOCAL)

    @property
    def looped(self):
        return bool(self.get().flags & PF_LOOPED)

    @property
    def bridged(self):
        return bool(self.get().flags & PF_BRIDGED)

    @property
    def bridge_routed(self):
        """Whether br_netfilter has routed it, PREROUTING having changed its destination, before it went up to the host."""
        cdef Pkt *p = self.get()
        cdef Addr daddr
        if p.phys_in == 0 or p.flags & (PF_BRIDGED | PF_LOCAL | PF_LOOPED):
            return False
        pkt_daddr(p, &daddr)
        return not addr_eq(&daddr, &p.orig_dst)

    @property
    def checksum_partial(self):
        return bool(self.get().flags & PF_CSUM_PARTIAL)

    @property
    def uid(self):
        return self.get().uid

    @property
    def gid(self):
        return self.get().gid

    @property
    def broadcast(self):
        cdef Pkt *p = self.get()
        return p.pkt_type == PKT_BROADCAST or p.pkt_type == PKT_MULTICAST or p.rt_type == RTN_BROADCAST or p.rt_type == RTN_MULTICAST

    @property
    def pkt_type(self):
        return self.get().pkt_type

    @property
    def route_type(self):
        return self.get().rt_type

    @property
    def route_ifindex(self):
        return self.get().rt_oif

    @property
    def next_hop(self):
        cdef Pkt *p = self.get()
        cdef Addr a
        if p.rt_gateway:
            a = p.rt_nh
        elif p.family:
            pkt_daddr(p, &a)
        else:
            return b""
        return (<const char *>a.b)[:addr_len(p.family)]

    @property
    def fragment_max(self):
        """The largest fragment it was gathered from, 0 if it was not."""
        return self.get().frag_max

    @fragment_max.setter
    def fragment_max(self, uint32_t value):
        self.get().frag_max = value

    @property
    def fragments_keep_df(self):
        """Whether the fragments that it was gathered from had DF, and those it is cut into shall have it."""
        return bool(self.get().flags & PF_FRAG_PMTU)

    @fragments_keep_df.setter
    def fragments_keep_df(self, bint value):
        if value:
            self.get().flags |= PF_FRAG_PMTU
        else:
            self.get().flags &= ~<uint32_t>PF_FRAG_PMTU

    @property
    def ignore_df(self):
        """Whether conntrack gathered it from fragments (``skb->ignore_df``): it is cut where it is too long."""
        return bool(self.get().flags & PF_IGNORE_DF)

    @ignore_df.setter
    def ignore_df(self, bint value):
        if value:
            self.get().flags |= PF_IGNORE_DF
        else:
            self.get().flags &= ~<uint32_t>PF_IGNORE_DF

    @property
    def options_read(self):
        """Whether the stack has looked at its IPv4 options; br_netfilter does not, nor does who sends."""
        return bool(self.get().flags & PF_IP_OPTIONS)

    @property
    def ip_options(self):
        """What forwarding has to do to its IPv4 options."""
        return self.get().ip_options

    @ip_options.setter
    def ip_options(self, uint8_t value):
        self.get().ip_options = value

    @property
    def linear(self):
        """The fragments that it was gathered from are no more, or are of no use."""
        return bool(self.get().flags & PF_LINEAR)

    @linear.setter
    def linear(self, bint value):
        cdef Pkt *p = self.get()
        p.flags = p.flags | PF_LINEAR if value else p.flags & ~<uint32_t>PF_LINEAR

    @property
    def translated(self):
        """NAT has changed its source or its destination, or may have."""
        cdef Pkt *p = self.get()
        return p.ct != NULL and p.ct.status & NAT_MASK != 0

    @property
    def ctinfo(self):
        return self.get().ctinfo

    @property
    def conntrack_id(self):
        cdef Pkt *p = self.get()
        return p.ct.id if p.ct != NULL else 0

    @property
    def conntrack(self):
        """Its entry's dictionary, or None."""
        cdef Pkt *p = self.get()
        if p.ct == NULL:
            return None
        return ct_entry_dict(&self.datapath.s, p.ct)

    @property
    def template_zone(self):
        """The zone of its template and the direction that it is for, or None without one."""
        cdef Pkt *p = self.get()
        return (p.tmpl_zone, p.tmpl_zone_dir) if p.ct == NULL and p.tmpl_set else None

    def header_rewritten(self):
        """A target has changed its IPv6 header, and the checksum that conntrack kept of all of it is not told."""
        if self.get().flags & PF_CSUM_OK:
            self.get().flags |= PF_CSUM_STALE

    @property
    def checksum_verified(self):
        return bool(self.get().flags & PF_CSUM_OK)

    @property
    def checksum_stale(self):
        return bool(self.get().flags & PF_CSUM_STALE)

    def label_set(self, int bit):
        """Give its connection a label; one that has no room for labels stays without."""
        cdef Pkt *p = self.get()
        if not 0 <= bit < 128:
            raise ValueError(f"label {bit} is not from 0 to 127")
        if p.ct != NULL and p.ct.has_labels:
            p.ct.labels[bit >> 5] |= <uint32_t>1 << (bit & 31)

    def morph(self, Packet head not None):
        """``skb_morph``: become a packet that waits at the same place, but for number, device and sender."""
        cdef Pkt *own = self.get()
        cdef Pkt *p = head.get()
        if p == own:
            return
        p.id = own.id
        p.in_if = own.in_if
        p.dev = own.dev
        p.uid = own.uid
        p.gid = own.gid
        p.sk_ifindex = own.sk_ifindex
        p.hops = max(p.hops, own.hops)
        pkt_free(&self.datapath.s, own)
        self.p = p
        head.p = NULL

    def set_data(self, bytes data not None):
        cdef Pkt *p = self.get()
        cdef uint32_t n = len(data)
        cdef uint8_t *buf
        if p.l3 + n > p.cap:
            buf = <uint8_t *>malloc(p.l3 + n)
            if buf == NULL:
                raise MemoryError
            memcpy(buf, p.buf, p.l3)
            free(p.buf)
            p.buf = buf
            p.cap = p.l3 + n
        memcpy(p.buf + p.l3, <const char *>data, n)
        p.end = p.l3 + n
        if p.family == AF4 and n >= 20 or p.family == AF6 and n >= 40:
            pkt_parse_l4(p)
