# The engine's structures. Offsets are bytes within the packet's buffer; addresses are network order in 16 bytes (IPv4 in
# the first four, the rest zero), ports are network order in uint16_t exactly as they lie in the packet.

cdef enum:
    AF4 = 2
    AF6 = 10
    MAX_CLONES = 4096          # per arrival: a flood loop in a wrong topology must end
    HEADROOM = 64
    TR_IPV6 = 0x100            # beside a trace record's kind: the packet is of IPv6
    NF_DROP = 0
    NF_ACCEPT = 1
    NF_STOLEN = 2              # the packet has left by an upcall or was consumed
    NF_BYPASS = 3              # a queue that nobody reads lets it go on behind this step (NF_VERDICT_FLAG_QUEUE_BYPASS)
    PKT_HOST = 0
    PKT_BROADCAST = 1
    PKT_MULTICAST = 2
    PKT_OTHERHOST = 3
    MANIP_SRC = 0
    MANIP_DST = 1
    DIR_ORIGINAL = 0
    DIR_REPLY = 1
    CTINFO_ESTABLISHED = 0
    CTINFO_RELATED = 1
    CTINFO_NEW = 2
    CTINFO_ESTABLISHED_REPLY = 3
    CTINFO_RELATED_REPLY = 4
    CTINFO_UNTRACKED = 7
    CTINFO_NONE = 8            # no conntrack entry: INVALID for the matches (or conntrack has not looked yet)
    S_EXPECTED = 1
    S_SEEN_REPLY = 2
    S_ASSURED = 4
    S_CONFIRMED = 8
    S_SRC_NAT = 16
    S_DST_NAT = 32
    S_SEQ_ADJUST = 64
    S_SRC_NAT_DONE = 128
    S_DST_NAT_DONE = 256
    S_DYING = 512
    S_FIXED_TIMEOUT = 1024
    S_TEMPLATE = 2048
    S_NAT_CLASH = 4096
    S_HELPER = 8192
    S_OFFLOAD = 16384
    FRAG_ANY = 1               # Pkt.fragment: a fragment
    FRAG_LATER = 2             # ... and not the first
    NS_PER_JIFFY = 4000000     # CONFIG_HZ=250: what the kernel's clock for time-outs counts
    PF_LOCAL = 1               # Pkt.flags: sent by a socket of this namespace
    PF_BRIDGED = 2             # br_netfilter is calling the IP hooks
    PF_BR_DNAT = 4             # br_netfilter saved the source MAC: the neighbour code will write a header over it
    PF_LOOPED = 8              # came back through lo: keeps its conntrack entry and its route
    PF_CSUM_OK = 16            # transport checksum already verified in this namespace
    PF_FORWARDED = 32          # passed FORWARD (or is passing it)
    PF_BR_OTHERHOST = 64       # br_netfilter made it PACKET_HOST for the hooks; it is not
    PF_BR_PASSED = 128         # goes up from a bridge: PREROUTING has seen it
    PF_BR_ROUTED = 256         # ... and br_netfilter has routed it
    PF_CSUM_PARTIAL = 512      # CHECKSUM_PARTIAL: the kernel leaves the transport checksum to the device
    PF_FRAG_PMTU = 8192        # gathered from fragments that had DF: so have those it is cut into (IPSKB_FRAG_PMTU)
    PF_CSUM_STALE = 16384      # its IPv6 header was rewritten after its checksum had been looked at (skb->csum)
    PF_REDIRECTED = 4096       # its sender was told of a shorter way, if it was to be told
    PF_IGNORE_DF = 65536       # conntrack gathered it from fragments: what is too long is cut, not refused (ignore_df)
    PF_LINEAR = 32768          # the fragments it was gathered from are no more: somebody wanted its bytes in one piece
    PF_ONLINK = 2048           # whoever sent it says that its destination is on the link of the device (icmp6_dst_alloc)
    PF_IP_OPTIONS = 131072     # its IPv4 options have been looked at
    PF_SENDER_ON_LINK = 262144 # its source is a direct neighbour's address (what fib_validate_source returns above 0)
    PF_MC_LOOP = 1024          # the copy that the sender's own host gets of a broadcast

cdef union Addr:
    uint8_t b[16]
    uint16_t h[8]
    uint32_t w[4]
    uint64_t q[2]

# One direction of a connection. ICMP: sport is the id, dport is type (low byte in memory order first) and code; GRE: the
# key goes into the ports. Compared and hashed as raw bytes: padding must be zero.
cdef struct Tuple:
    Addr src
    Addr dst
    uint16_t sport
    uint16_t dport
    uint8_t l3num              # AF4 or AF6
    uint8_t proto
    uint8_t dir
    uint8_t _pad

cdef struct TcpDir:            # struct ip_ct_tcp_state
    uint32_t td_end
    uint32_t td_maxend
    uint32_t td_maxwin
    uint32_t td_maxack
    uint8_t td_scale
    uint8_t flags

cdef struct TcpCt:             # struct ip_ct_tcp
    TcpDir seen[2]
    uint8_t state
    uint8_t last_dir
    uint8_t retrans
    uint8_t last_index
    uint32_t last_seq
    uint32_t last_ack
    uint32_t last_end
    uint16_t last_win
    uint8_t last_wscale
    uint8_t last_flags

cdef struct SctpCt:
    uint8_t state
    uint8_t last_dir
    uint8_t flags
    uint8_t init[2]
    uint32_t vtag[2]

cdef struct Ct:                # what every packet of a flow looks at comes first and lies together
    Tuple tuple[2]             # [DIR_ORIGINAL], [DIR_REPLY]
    size_t hash_next[2]        # chains of the two tuples: the next Ct with its direction in the lowest bit
    uint32_t hash[2]
    int64_t timeout_ns         # absolute once confirmed, relative before
    uint32_t status
    int32_t refs               # the table and every packet in flight hold one each
    uint32_t mark
    uint16_t zone
    uint8_t zone_dir           # NF_CT_ZONE_DIR_*: 3 = both
    uint8_t has_acct           # accounting was on when it was made
    TcpCt tcp
    int32_t masq_ifindex       # of a masqueraded flow
    int64_t timeout_set_ns     # what it was last set to, relative
    uint64_t acct_packets[2]
    uint64_t acct_bytes[2]
    int64_t start_ns           # when the flow began
    int64_t stream_ts_ns       # UDP and GRE: from when on it counts as a stream
    Ct *src_next               # chain by source (nat_bysource)
    Ct *all_prev               # every confirmed entry in order of confirmation
    Ct *all_next
    Ct *master                 # of an expected entry
    uint64_t id
    uint32_t labels[4]
    uint8_t in_bysource
    uint8_t linked             # bit 1 << dir: that tuple is in the hash
    uint8_t has_labels         # some rule used labels when it was made
    SctpCt sctp

cdef struct NatRange:          # struct nf_nat_range2
    uint32_t flags
    Addr min_addr
    Addr max_addr
    uint16_t min_port          # network order (ICMP: id)
    uint16_t max_port
    uint16_t base_port

cdef struct Pkt:
    uint8_t *buf
    uint32_t cap
    uint32_t l2                # Ethernet header; == l3 where there is none yet
    uint32_t l3                # network header
    uint32_t l4                # transport header, 0 if not there (later fragment, truncated)
    uint32_t end               # one past the last byte of the packet
    uint16_t ethertype         # host order
    uint8_t family             # AF4, AF6 or 0
    uint8_t proto              # transport protocol (IPv6: after extension headers)
    uint8_t pkt_type
    uint8_t fragment
    uint8_t headers_cut        # its IPv6 headers end before they are complete: a rule with -p drops it
    uint8_t ctinfo
    uint8_t rt_type            # RouteType, 0 = none
    uint32_t flags
    uint32_t mark
    uint32_t priority
    uint32_t uid
    uint32_t gid
    int32_t in_if              # as the hooks see them (with br_netfilter: the bridge)
    int32_t out_if
    int32_t phys_in            # bridge ports, for br_netfilter and -m physdev
    int32_t phys_out
    int32_t dev                # the device it is at
    Ct *ct
    uint16_t tmpl_zone         # from -j CT --zone, before conntrack
    uint8_t tmpl_zone_dir
    uint8_t tmpl_set
    uint8_t ip_options         # what forwarding has to do to its IPv4 options (kernel/ip_options.py)
    uint8_t tmpl_mark          # the zone is the packet's mark (NF_CT_FLAG_MARK)
    uint8_t tmpl_ctinfo        # NEW, or on an error about a packet with a template RELATED
    int32_t rt_oif
    uint32_t rt_mtu
    uint8_t rt_gateway         # rt_nh is a gateway, not the destination itself
    uint8_t stage              # where to go on
    uint8_t hook
    uint8_t step               # next step of the hook
    uint8_t src_mac[6]         # saved by br_netfilter
    uint16_t hops              # how often it went round in this namespace
    Addr rt_nh
    Addr rt_prefsrc
    Addr orig_dst              # br_netfilter and OUTPUT: to see whether NAT changed it
    uint32_t orig_mark
    uint32_t frag_max
    uint32_t id                # pkt_id
    int32_t sk_ifindex         # the socket's bound device
    Pkt *next                  # queues

cdef struct Row:
    int32_t op
    int32_t invert
    int32_t a
    int32_t b
    int32_t c
    int32_t d
    int32_t on_fail
    int32_t rule

cdef struct TableInst:
    PyObject *program          # owned reference
    void *data                 # its ProgramData
    const Row *rows
    const uint8_t *pool
    const int32_t *entries     # per hook
    uint64_t *counters         # [n_counters][2]
    int32_t n_counters
    int32_t *nth_state

cdef enum:
    NFT_KEY_MAX = 64           # NFT_DATA_VALUE_MAXLEN
    NFT_FIELDS_MAX = 16
    NFT_STATES_MAX = 4
    SET_HASH = 0
    SET_INTERVAL = 1
    SET_BOXES = 2
    STATE_COUNTER = 1
    STATE_LIMIT_PACKETS = 2
    STATE_LIMIT_BYTES = 3
    STATE_QUOTA = 4
    STATE_NUMGEN = 5
    STATE_SEED = 6

# What a stateful expression keeps: a counter's packets and bytes, a bucket's tokens and when it was last looked at.
cdef struct NftState:
    int32_t kind
    int32_t invert
    uint64_t a                 # packets; tokens left; bytes used; next number; seed
    uint64_t b                 # bytes; tokens at most; bytes allowed; modulus
    uint64_t c                 # cost of a packet (limit by packets) or nanoseconds of the unit (limit by bytes)
    uint64_t d                 # rate
    int64_t last_ns

cdef struct NftElem:
    int64_t expires_ns         # 0: never
    int64_t timeout_ns
    uint8_t used
    uint8_t catchall

cdef struct NftSetData:
    int32_t kind
    int32_t key_size
    int32_t data_size          # 0: a set; verdicts are int32 code, int32 chain
    int32_t stride             # of a blob: key, its upper end (not SET_HASH), data
    int32_t n_fields
    int32_t field_size[16]
    int32_t n_states           # of each element
    NftState template[4]
    int64_t timeout_ns         # of elements that bring none
    uint32_t size              # 0: no limit
    NftElem *elems
    uint8_t *blobs
    NftState *states
    int32_t n_elems            # places in use or free
    int32_t cap
    int32_t n_used
    int32_t n_dead             # deleted by rules, and counted until the next collection of garbage
    int32_t free_hint
    int64_t next_gc_ns
    int32_t catchall           # its element, -1: none
    int32_t *index             # SET_HASH: slots (-1 free); else elements in order
    uint32_t n_index
    int32_t n_bounds[16]       # SET_BOXES: per field the values at which something begins or has just ended
    uint8_t *bounds[16]
    uint64_t *bitmaps[16]      # and which elements hold between one and the next
    int32_t n_words

cdef enum:
    NFT_REGISTERS = 192        # bytes; a row's registers are checked when the program is made
    NFT_BREAK = 0              # the rule does not match
    NFT_NEXT = 1
    NFT_ACCEPT = 2
    NFT_DROP = 3
    NFT_STOLEN = 4
    NFT_JUMP = 5
    NFT_GOTO = 6
    NFT_RETURN = 7
    STEP_NFT = 9               # HookEntry.step
    CMP_EQ = 0
    CMP_NEQ = 1
    CMP_LT = 2
    CMP_LTE = 3
    CMP_GT = 4
    CMP_GTE = 5
    IP_CT_DIR_NONE = -1

cdef struct NftInst:           # an nft table of a namespace
    TableInst t                # first: run_program is given this
    PyObject *sets_owner       # a tuple of NftSet
    PyObject *states_owner
    NftSetData **sets
    int32_t n_sets
    NftState *states
    int32_t n_states
    int32_t *chain_rows        # by chain number; -1: none
    int32_t n_chains

cdef struct HookEntry:          # one step of a hook, where nft chains lie among the built-in ones
    int32_t step               # Step, or STEP_NFT
    int32_t table              # nft: its number, -1: the iptables table (among NAT chains)
    int32_t row                # of the chain
    int32_t chain              # its number, for the trace
    int32_t reroutes           # a chain of type route

cdef struct Link:
    int32_t ifindex            # 0 = free slot
    uint8_t kind
    uint8_t up
    uint8_t hairpin
    uint8_t noarp
    uint8_t mac[6]
    char name[16]
    int32_t mtu
    int32_t route_mtu          # of a bridge: what its stand-in route says (br_dst_default_metrics)
    int32_t master
    int32_t rp_filter
    int32_t route_localnet
    int32_t accept_local
    int32_t send_redirects
    int32_t shared_media
    int32_t src_valid_mark
    int32_t forwarding
    int32_t force_forwarding   # IPv6: forwards what comes in here even if the host does not
    int32_t disable_ipv6
    int32_t all_routers        # IPv6: bit n is set if the group of all routers of scope n has been joined
    int32_t n_ports            # of a bridge
    int32_t *ports             # in the order in which they were added

cdef struct AddrEntry:
    int32_t ifindex
    uint8_t family
    uint8_t plen
    uint8_t scope
    Addr addr

cdef struct Route:
    Addr dst
    uint8_t plen
    uint8_t type
    uint8_t scope
    uint8_t has_gateway
    uint8_t has_prefsrc
    int32_t oif
    uint32_t mtu
    uint32_t metric
    Addr gateway
    Addr prefsrc
    int32_t next               # in its hash bucket, -1 = end
    uint32_t weight            # of a next hop among several, 0 where there is only one
    uint16_t hops              # how many next hops the route has; they stand one behind the other
    uint16_t hop               # which of them this is

cdef struct RouteTable:
    uint32_t id
    uint8_t family
    Route *routes
    int32_t n_routes
    int32_t *buckets
    uint32_t n_buckets         # a power of two
    uint8_t plens[129]         # distinct prefix lengths, longest first
    int32_t n_plens

cdef struct PolicyRule:
    uint32_t priority
    uint32_t mark
    uint32_t mask
    Addr src
    uint8_t src_len
    Addr dst
    uint8_t dst_len
    uint8_t family
    int32_t iif
    uint32_t table

cdef struct Neighbour:
    Addr addr
    int32_t ifindex
    uint8_t family
    uint8_t cls
    uint8_t mac[6]
    Neighbour *next

cdef struct PathMtu:           # struct fib_nh_exception, rt6_exception: what was learnt of the path to a host
    Addr dst
    uint8_t family
    uint8_t locked             # below what is believed: holds for what is forwarded too
    uint32_t mtu
    int64_t expires            # the last jiffy it is good for

cdef struct FdbEntry:
    uint8_t mac[6]
    uint8_t is_static
    int32_t bridge
    int32_t port
    int64_t seen_ns
    FdbEntry *next

cdef struct EventRec:
    int32_t kind
    int32_t reason             # upcall or drop reason; RX/TX: ifindex
    uint32_t pkt_id
    int32_t a
    int32_t b
    int32_t c
    Pkt *pkt                   # upcalls own their packet
    uint32_t data              # offset in the event bytes
    uint32_t len
    uint8_t addr_len           # of addr below (NEIGHBOUR_*)
    Addr addr

cdef struct Record:            # of an event, where many are reported at once
    int32_t kind
    int32_t reason
    int32_t data
    int32_t len

cdef struct Records:
    Record *of
    size_t n
    size_t cap

cdef struct CtTable:
    size_t *buckets            # a Ct with its direction in the lowest bit, 0 = end
    uint32_t n_buckets         # a power of two; grows with the entries, unlike the kernel's (SYSCTL_CT_HASHSIZE)
    Ct **bysource
    uint32_t n_bysource        # a power of two
    uint32_t n_sources         # entries in bysource
    Ct *first                  # in order of confirmation
    Ct *last
    uint32_t count             # entries that exist, confirmed or not (nf_conntrack_count)
    uint32_t n_confirmed
    uint8_t gc_early_drop      # the table was full: the next gc run also evicts (conntrack_gc_work.early_drop)
    uint64_t next_id
    int64_t next_gc_ns
    uint64_t found             # statistics as in /proc/net/stat/nf_conntrack
    uint64_t invalid
    uint64_t insert
    uint64_t insert_failed
    uint64_t drop
    uint64_t early_drop
    uint64_t error
    uint64_t search_restart
    uint64_t clash_resolve
    uint64_t chaintoolong
    uint8_t enabled4
    uint8_t enabled6
    uint8_t gathers4           # fragments are gathered, be it only for a match that asked for it (nf_defrag_ipv4_enable)
    uint8_t gathers6

cdef struct State:
    PyObject *owner            # the Datapath (borrowed)
    int64_t now_ns
    Link *links
    int32_t n_links            # slots; index is the ifindex
    AddrEntry *addrs
    int32_t n_addrs
    RouteTable *rtables
    int32_t n_rtables
    PolicyRule *prules
    int32_t n_prules
    uint8_t custom_local_routes    # an IPv4 local route was added by hand (fib_has_custom_local_routes)
    Neighbour **neigh
    uint32_t n_neigh           # buckets
    PathMtu *pmtus
    int32_t n_pmtus
    FdbEntry **fdb
    uint32_t n_fdb
    int64_t sysctl[64]
    TableInst tables[2][5]     # [family: 0 IPv4, 1 IPv6][table]
    NftInst *nft               # tables of nft
    int32_t n_nft
    HookEntry *hooks[2][5]     # [family][hook]: the order of everything there; NULL: no nft chain, the built-in order
    int32_t n_hooks[2][5]
    HookEntry *nat_chains[2][5]  # what decides mappings there, in order; NULL: the iptables table alone
    int32_t n_nat_chains[2][5]
    uint8_t nat_loaded[2]      # there is such a chain at some hook
    uint16_t hold[5]           # per hook: bits of the steps to hold at
    uint16_t steps[2][5]       # [family][hook]: bits of the steps where there is something to do, or to hold at
    CtTable ct
    Ct template_ct             # what a packet with a template seems to belong to, before conntrack has looked
    EventRec *events
    uint32_t n_events
    uint32_t cap_events
    uint8_t *bytes             # frames of the events
    uint32_t n_bytes
    uint32_t cap_bytes
    Pkt *lo_first              # packets on their way through lo
    Pkt *lo_last
    uint32_t rounds            # packets queued there since the arrival that is worked off
    Pkt *pool                  # free packets
    uint32_t n_pool
    uint32_t pkt_serial
    uint32_t clones
    uint8_t capture
    uint8_t tracing
    uint8_t failed             # a Python callback raised; the error waits in the Datapath
    uint8_t labels_used        # some rule asks for labels (net.ct.labels_used)
    uint8_t continuing         # what an arrival has set off is still being worked off: its bounds hold for this call too
    uint8_t in_duplicate       # a copy made by -j TEE is under way (current->in_nf_duplicate): it makes no other
    int32_t *trace
    uint32_t n_trace           # records
    uint32_t cap_trace
    uint8_t *aux
    uint32_t n_aux
    uint32_t cap_aux
    uint64_t drops[128]
    uint64_t upcalls[32]
    uint32_t drop_reason       # set by whoever returns NF_DROP
    int32_t lo_ifindex
