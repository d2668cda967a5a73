"""Numbers shared with the engine: opcodes of programs, hooks, tables, verdicts, upcalls, drop reasons, trace records.

``includes/consts.pxi`` has the same names as C enums; ``tests/netfilter/test_opcodes.py`` holds the two together.
"""

from __future__ import annotations

import enum
from typing import Final

#: As a local packet's uid: the kernel's own socket sent it, which no process has open ...
NO_FILE: Final = 0xFFFFFFFF
#: ... or no socket at all.
NO_SOCKET: Final = 0xFFFFFFFE


class Hook(enum.IntEnum):
    """``NF_INET_*`` (include/uapi/linux/netfilter.h)."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class Step(enum.IntEnum):
    """What a hook does, in the order of include/uapi/linux/netfilter_ipv4.h's priorities; not every hook has each."""

    DEFRAG = 0  # -400
    RAW = 1  # -300
    CONNTRACK = 2  # -200
    MANGLE = 3  # -150
    NAT_DST = 4  # -100
    FILTER = 5  # 0
    SECURITY = 6  # 50
    NAT_SRC = 7  # 100
    CONFIRM = 8  # INT_MAX


class TableId(enum.IntEnum):
    """Tables in the order of their priority at a hook (nat's place differs between its hooks)."""

    RAW = 0
    MANGLE = 1
    NAT = 2
    FILTER = 3
    SECURITY = 4


class LinkKind(enum.IntEnum):
    """What a network device does with a frame it is given."""

    LOOPBACK = 0
    WIRE = 1  # veth, or any NIC: the frame leaves the namespace
    BRIDGE = 2
    DUMMY = 3
    VXLAN = 4


class RouteType(enum.IntEnum):
    """``RTN_*`` (include/uapi/linux/rtnetlink.h)."""

    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8
    THROW = 9


class NeighbourClass(enum.IntEnum):
    """What the engine needs to know of a neighbour's NUD state; the state machine itself is ``kernel.neighbour``."""

    ABSENT = 0  # no usable address: an upcall queues the packet
    CONNECTED = 1  # REACHABLE, PERMANENT, NOARP: send
    USABLE = 2  # STALE, DELAY, PROBE: send, and tell that it was used


class Sysctl(enum.IntEnum):
    """Settings the engine reads. Per-interface ones are set with an ifindex; ifindex 0 is ``all``."""

    IP_FORWARD = 0  # net.ipv4.ip_forward
    IP6_FORWARDING = 1  # net.ipv6.conf.all.forwarding
    ROUTE_LOCALNET = 2  # net.ipv4.conf.IF.route_localnet
    RP_FILTER = 3  # net.ipv4.conf.IF.rp_filter
    ACCEPT_LOCAL = 4  # net.ipv4.conf.IF.accept_local
    BRIDGE_NF_CALL_IPTABLES = 5
    BRIDGE_NF_CALL_IP6TABLES = 6
    CT_CHECKSUM = 7  # net.netfilter.nf_conntrack_checksum
    CT_TCP_BE_LIBERAL = 8
    CT_TCP_LOOSE = 9
    CT_TCP_MAX_RETRANS = 10
    CT_TCP_IGNORE_INVALID_RST = 11
    CT_ACCT = 12
    CT_MAX = 13
    CT_TIMEOUT_GENERIC = 14  # time-outs in seconds from here on
    CT_TIMEOUT_ICMP = 15
    CT_TIMEOUT_ICMPV6 = 16
    CT_TIMEOUT_UDP = 17
    CT_TIMEOUT_UDP_STREAM = 18
    CT_TIMEOUT_TCP_SYN_SENT = 19
    CT_TIMEOUT_TCP_SYN_RECV = 20
    CT_TIMEOUT_TCP_ESTABLISHED = 21
    CT_TIMEOUT_TCP_FIN_WAIT = 22
    CT_TIMEOUT_TCP_CLOSE_WAIT = 23
    CT_TIMEOUT_TCP_LAST_ACK = 24
    CT_TIMEOUT_TCP_TIME_WAIT = 25
    CT_TIMEOUT_TCP_CLOSE = 26
    CT_TIMEOUT_TCP_MAX_RETRANS = 27
    CT_TIMEOUT_TCP_UNACKNOWLEDGED = 28
    CT_TIMEOUT_SCTP_CLOSED = 29
    CT_TIMEOUT_SCTP_COOKIE_WAIT = 30
    CT_TIMEOUT_SCTP_COOKIE_ECHOED = 31
    CT_TIMEOUT_SCTP_ESTABLISHED = 32
    CT_TIMEOUT_SCTP_SHUTDOWN_SENT = 33
    CT_TIMEOUT_SCTP_SHUTDOWN_RECD = 34
    CT_TIMEOUT_SCTP_SHUTDOWN_ACK_SENT = 35
    CT_TIMEOUT_SCTP_HEARTBEAT_SENT = 36
    CT_TIMEOUT_GRE = 37
    CT_TIMEOUT_GRE_STREAM = 38
    IP_FORWARD_USE_PMTU = 39
    IP_DEFAULT_TTL = 40
    IP_FORWARD_UPDATE_PRIORITY = 41
    ICMP_ECHO_IGNORE_BROADCASTS = 42
    CT_HASHSIZE = 43
    SEND_REDIRECTS = 44  # net.ipv4.conf.IF.send_redirects
    SHARED_MEDIA = 45  # net.ipv4.conf.IF.shared_media
    FIB_MULTIPATH_HASH_POLICY = 46
    FIB_MULTIPATH_HASH_SEED = 47  # never 0: what the setting says, or what was drawn in its place
    SRC_VALID_MARK = 48  # net.ipv4.conf.IF.src_valid_mark
    IP6_FORCE_FORWARDING = 49  # net.ipv6.conf.IF.force_forwarding
    DISABLE_IPV6 = 50  # net.ipv6.conf.IF.disable_ipv6


class Event(enum.IntEnum):
    """Kinds of the tuples that the engine's calls return, in the order in which things happened."""

    RX = 0  # (RX, pkt_id, ifindex, frame): a device received this frame (what a capture on it shows as ``in``)
    TX = 1  # (TX, pkt_id, ifindex, frame): a device was given this frame to send (``out``); a WIRE carries it away
    UPCALL = 2  # (UPCALL, pkt_id, reason, packet, a, b, c)
    DROP = 3  # (DROP, pkt_id, reason, ifindex)


class Upcall(enum.IntEnum):
    """Why the engine hands a packet to Python. Each has exactly one handler, in ``kernel``."""

    ARP = 0  # an ARP frame came up to this namespace; a: ifindex
    DELIVER = 1  # passed INPUT: to the transport sockets; a: protocol
    ICMP_ERROR = 2  # answer with an ICMP error about this packet; a: type, b: code, c: MTU or 0; a redirect: resume
    REJECT = 3  # -j REJECT; a: reject type (``netfilter.targets.reject``), b: hook
    NEIGHBOUR_MISS = 4  # no link-layer address; a: ifindex, b: next hop (bytes); resume when known
    NEIGHBOUR_USED = 5  # sent to a USABLE neighbour; a: ifindex, b: next hop (bytes); the packet is gone already
    FRAGMENT = 6  # larger than the MTU of its way out; a: ifindex, b: MTU
    DEFRAGMENT = 7  # a fragment met conntrack or local delivery; a: the defragmenter's user
    VXLAN_XMIT = 8  # a frame was given to a vxlan device; a: ifindex
    OTHER_L2 = 9  # neither ARP nor IP; a: ifindex, b: ethertype
    HELD = 10  # a hold was set at this step; a: hook, b: step; resume to let it go on
    LOG = 11  # -j LOG and the like
    TEE = 12  # -j TEE: a copy to send elsewhere
    FLOOD = 13  # a copy for one of a bridge's ports was refused; a: ifindex it came in by; resume behind the answer
    IP_OPTIONS = 14  # an IPv4 header has options; a: PREROUTING (it has its route) or FORWARD; resume


class DropReason(enum.IntEnum):
    """Why a packet went no further. A dropped packet is not an error."""

    FRAME_TOO_SHORT = 1
    OTHER_HOST = 2  # the frame's destination MAC is not ours
    NO_PROTOCOL = 3  # an ethertype nobody handles
    IP_HEADER = 4  # version, header length or total length
    IP_CHECKSUM = 5
    RULE = 6  # a rule said DROP
    POLICY = 7  # a chain's policy said DROP
    HOTDROP = 8  # a match found the packet too broken to look at
    CONNTRACK_TABLE_FULL = 9
    CONNTRACK_CLASH = 11  # lost the insert race at confirm
    NAT = 12  # no free tuple, or the packet could not be rewritten
    MARTIAN_SOURCE = 13
    MARTIAN_DESTINATION = 14
    RP_FILTER = 15
    NO_ROUTE = 16
    ROUTE_BLACKHOLE = 17
    NOT_FORWARDING = 18  # ip_forward is off
    TTL_EXPIRED = 19
    NEIGHBOUR_FAILED = 20
    LINK_DOWN = 21
    BRIDGE_NO_FORWARD = 22  # back to the port it came from without hairpin, or no port at all
    FRAGMENT_NEEDED = 23  # DF set and larger than the MTU
    NO_SOCKET = 24
    REJECTED = 25
    MTU = 26  # larger than the receiving device takes
    LOOP = 27  # goes round in one namespace without end
    NO_CARRIER = 28
    FRAGMENT_BAD = 29
    UNSUPPORTED = 30
    NO_QUEUE = 31  # -j NFQUEUE, and no program listens
    ROUTE_UNREACHABLE = 32  # routed to a route of that type
    ROUTE_PROHIBIT = 33
    TRANSPORT_HEADER = 34  # TCP's, UDP's or ICMP's, cut short or with an impossible length
    TRANSPORT_CHECKSUM = 35
    # From here on the names are Linux's (include/net/dropreason-core.h), where it has one.
    UNHANDLED_PROTO = 36  # ICMP of a type that Linux does not know
    INVALID_PROTO = 37  # ICMP to many that is not to be answered, or never is
    UNICAST_IN_L2_MULTICAST = 38  # to be forwarded, and the frame was for all
    GROUP_NOT_JOINED = 39  # multicast that nobody here has asked for
    NEIGH_CREATEFAIL = 40  # the neighbour table is full
    NEIGH_QUEUEFULL = 41  # others wait for the neighbour's answer
    QUEUE_PURGE = 42  # the neighbour's entry is gone, with all that waited
    DUP_FRAG = 43  # the same fragment is there already
    FRAG_REASM_TIMEOUT = 44  # the others did not come in time
    FRAG_TOO_FAR = 45  # so much came meanwhile that its id may be another's
    FRAG_MEMORY = 46  # as many fragments wait as may
    SOCKET_RCVBUFF = 47  # the process is too slow
    NO_TX_TARGET = 48  # no remote host is known for a tunnel's frame
    VXLAN_INVALID_HDR = 49  # cut short, a wrong checksum, or flags of an extension
    VXLAN_VNI_NOT_FOUND = 50  # no device of that network
    LOCAL_MAC = 51  # the inner frame is our own, come back
    IP_TUNNEL_ECN = 52  # congestion outside, and the inside cannot say so
    ARP_INVALID = 53  # not IPv4 over Ethernet, or about no host's address
    ARP_GRATUITOUS = 54  # drop_gratuitous_arp
    IPV6_NDISC_FRAG = 55  # suppress_frag_ndisc
    IPV6_NDISC_HOP_LIMIT = 56  # it has been forwarded
    IPV6_NDISC_BAD_CODE = 57
    IPV6_NDISC_BAD_OPTIONS = 58
    IPV6_NDISC_NS_OTHERHOST = 59
    NDISC_INVALID = 60  # RFC 4861 sections 7.1 and 8.1
    NDISC_UNSOLICITED = 61  # about nobody whom this host wants to know
    NDISC_IGNORED = 62  # for routers and this is none, or the other way round
    TCP_FLAGS = 63  # flags that make no sense in its connection's state
    TCP_RESET = 64  # a reset that fits nothing exactly
    TCP_INVALID_SYN = 65  # a SYN within a connection
    TCP_LISTEN_OVERFLOW = 66  # the listener's queues are full
    TCP_OLD_SEQUENCE = 67  # before the window
    TCP_INVALID_SEQUENCE = 68  # beyond the window
    TCP_INVALID_END_SEQUENCE = 69  # its end is
    TCP_INVALID_ACK_SEQUENCE = 70
    TCP_RFC7323_PAWS = 71
    TCP_RFC7323_TW_PAWS = 72  # ... in TIME_WAIT
    TCP_RFC7323_TSECR = 73
    TCP_TOO_OLD_ACK = 74
    TCP_ACK_UNSENT_DATA = 75
    TCP_ZEROWINDOW = 76
    TCP_OLD_DATA = 77
    TCP_OVERWINDOW = 78
    TCP_OFOMERGE = 79
    PROTO_MEM = 80
    TCP_CLOSE = 81  # after its FIN
    TCP_ABORT_ON_DATA = 82  # nobody is left to read
    MAC_INVALID_SOURCE = 83  # a bridge was given a frame from a group, or from nobody
    MAC_IEEE_MAC_CONTROL = 84  # ... one to pause the sender, which is for the link alone
    IP_LOCALNET = 85  # from or to 127.0.0.0/8, on a link
    IP_LOCAL_SOURCE = 86  # from an address of our own
    QDISC_DROP = 87  # lost on its wire, as netem was told
    XDP = 88  # taken in front of the kernel, and not sent on
    IPV6DISABLED = 89  # the device does without IPv6


class TraceKind(enum.IntEnum):
    """Second word of a trace record ``int32[6]``: pkt_id, kind (and 0x100 for an IPv6 packet), a, b, c, d."""

    RX = 0  # a: ifindex, d: aux (frame bytes)
    HOOK = 1  # a: hook, b: 1 if called by br_netfilter, c: in ifindex, d: out ifindex
    TABLE = 2  # a: table, b: hook
    RULE = 3  # a: table, b: rule number, c: 1 matched / 0 not
    POLICY = 4  # a: table, b: hook, c: verdict
    CONNTRACK = 5  # a: ctinfo, b: entry id, c: 1 new entry, d: TCP/SCTP state or -1
    CONFIRM = 6  # a: verdict, b: entry id
    # a: manip (0 source, 1 destination), b: hook, c: 1 set up now, d: aux (old[16], port, new[16], port)
    NAT = 7
    ROUTE = 8  # a: route type, b: out ifindex, c: 1 rerouted, d: aux (next hop)
    TTL = 9  # a: new TTL
    NEIGHBOUR = 10  # a: class, b: ifindex, d: aux (MAC)
    TX = 11  # a: ifindex
    DROP = 12  # a: reason, b: 1 if an ICMP error is to be sent
    UPCALL = 13  # a: reason
    BRIDGE = 14  # a: 0 forward, 1 flood, 2 pass up; b: port ifindex
    CLONE = 15  # a: the parent's pkt_id
    RETURN = 16  # a: table, b: chain fell off its end or RETURNed to its caller (chain number)
    UNTRACKED = 17
    RANDOM = 18  # a: table, b: rule number, c: drawn
    MARK = 19  # a: new mark
    DELIVER = 20  # a: protocol


class Op(enum.IntEnum):
    """One row of a program: ``int32[8]`` = op, invert, a, b, c, d, on_fail, rule.

    A match that fails continues at row ``on_fail``, else at the next row. ``pool`` is the program's constant bytes.
    """

    # matches on the header
    SADDR = 0  # a: pool offset of address[16], mask[16]
    DADDR = 1
    IIF = 2  # a: pool offset of name[16], mask[16]
    OIF = 3
    PROTO = 4  # a: protocol
    FRAGMENT = 5
    # extensions
    TCP = 6  # a: pool offset of struct {u16 spts[2], dpts[2]; u8 option, flg_mask, flg_cmp, invflags}
    UDP = 7  # a: pool offset of struct {u16 spts[2], dpts[2]; u8 invflags, pad}; also udplite
    SCTP = 8
    ICMP = 9  # a: type, b: code low, c: code high (255, 0, 255 = any)
    CTSTATE = 10  # a: state mask (see CtStateBit)
    CT_STATUS = 11
    MARK = 12  # a: value, b: mask
    CONNMARK = 13
    ADDRTYPE = 14  # a: src type mask, b: dst type mask, c: flags (1 inv src, 2 inv dst, 4 limit iif, 8 limit oif)
    STATISTIC_RANDOM = 15  # a: probability (2**31 = always), b: place number
    STATISTIC_NTH = 16  # a: every - 1, b: state slot, c: packet
    PYTHON = 17  # a: index of a Python callable: uncommon matches; called with the packet, true if it matches
    MULTIPORT = 18  # a: pool offset, b: count, c: flags (1 src, 2 dst, 3 either)
    PHYSDEV = (
        19  # a: wanted (1 is-in, 2 is-out, 4 is-bridged), b: inverted ones; or c: 1 in / 2 out name at pool offset d
    )
    CT_ADDR = 20  # a: pool offset of address[16], mask[16], b: 0 orig src, 1 orig dst, 2 reply src, 3 reply dst
    CT_PORT = 21  # b: as CT_ADDR, c: lowest, d: highest
    CT_PROTO = 22  # a: protocol
    CT_DIR = 23  # a: 0 original, 1 reply
    CT_EXISTS = 24
    CT_EXPIRE = 25  # a: lowest, b: highest seconds left
    LENGTH = 26  # a: lowest, b: highest length of the IP packet
    TTL = 27  # a: 0 equal, 1 less, 2 greater, b: value (IPv6: hop limit)
    DSCP = 28  # a: code point
    PKTTYPE = 29  # a: PACKET_HOST 0, BROADCAST 1, MULTICAST 2
    # flow
    COUNT = 32  # the rule has matched: count it
    JUMP = 33  # a: row
    GOTO = 34
    RETURN = 35
    VERDICT = 36  # a: 0 drop, 1 accept
    END = 37  # end of a user chain: as RETURN, but not a rule; a: counter index
    POLICY = 38  # end of a built-in chain: a: verdict, b: counter index
    DISPATCH = 39  # a: index number: jump to the next rule of the run that can match; b: row after the run
    # targets that continue
    SET_MARK = 48  # a: and-not mask, b: xor value  (mark = (mark & ~a) ^ b)
    SET_CONNMARK = 49  # a: kind (0 set, 1 save, 2 restore), b: ctmask, c: value, d: nfmask
    NOTRACK = 50
    LOG = 51  # a: index of the log prefix
    PYTHON_TARGET = 52  # a: index of a Python callable
    CT_ZONE = 53  # a: zone, b: NF_CT_ZONE_DIR_* bits, c: 1 the zone is the packet's mark
    TEE = 54  # a: pool offset of gateway[16], out interface's name[16]
    # targets that decide
    DNAT = 64  # a: pool offset of range {min[16], max[16]; u16 min, max, base ports in network order; u16 flags}
    SNAT = 65
    MASQUERADE = 66
    REDIRECT = 67
    NETMAP = 68
    REJECT = 69  # a: reject type
    QUEUE = 70  # a: 1 if the packet passes where no program listens
    # nft's expressions: registers are byte offsets (includes/nft.pxi)
    NFT_PAYLOAD = 96  # a: header (0 link, 1 network, 2 transport), b: offset, c: bytes, d: register
    NFT_BITS = 97  # a: header, b: bit offset, c: bits (at most 32), d: register
    NFT_META = 98  # a: MetaKey, d: register
    NFT_CT = 99  # a: CtKey, b: direction or -1, d: register
    NFT_FIB = 100  # a: selectors, b: result, c: only whether there is one, d: register
    NFT_OPTION = 101  # a: kind << 1 | TCP's (else an IPv6 header), b: bit offset, c: bits, 0: there?, d: register
    NFT_NEXTHOP = 102  # a: family, d: register
    NFT_NUMBER = 103  # a: 0 inc, 1 random, 2 jhash, 3 symhash | source << 8, b: state, place, c: pool offset, d: reg
    NFT_IMMEDIATE = 104  # a: pool offset, c: bytes, d: register
    NFT_BITWISE = 105  # a: pool offset of mask and xor, c: bytes, d: register
    NFT_SHIFT = 106  # a: 0 left, 1 right, b: bits, c: bytes (at most 8), d: register
    NFT_REVERSE = 107  # c: bytes, d: register: to the order of the host, for hashes
    NFT_CMP = 108  # a: pool offset, b: 0 eq, 1 ne, 2 lt, 3 le, 4 gt, 5 ge, c: bytes, d: register
    NFT_RANGE = 109  # a: pool offset of both ends, b: 1 outside, c: bytes, d: register
    NFT_LOOKUP = 110  # a: set, b: register of the data, -1 none, -2 a verdict, d: register of the key
    NFT_DYNSET = 111  # a: set, b: register of the data or -1, c: pool offset of int64 timeout, int32 kind, d: key
    NFT_STATE = 112  # a: number of the state: counter, limit, quota
    NFT_SET_META = 113  # a: register: the mark becomes that
    NFT_SET_CT = 114  # a: register, b: CtKey, c: zone's direction
    NFT_SET_PAYLOAD = 115  # a: header | register << 8, b: offset, c: bytes, d: checksum's offset + 1 | flags << 16
    NFT_SET_MSS = 116  # a: register
    NFT_NAT = 117  # a: kind, b: family or 0, c: NatFlag, d: pool offset of four registers
    NFT_REJECT = 118  # a: reject type of IPv4, b: of IPv6; -1: just drop
    NFT_MATCHED = 119  # the rule has matched: for the trace


class MetaKey(enum.IntEnum):
    """``NFT_META_*``."""

    LEN = 0
    PROTOCOL = 1
    PRIORITY = 2
    MARK = 3
    IIF = 4
    OIF = 5
    IIFNAME = 6
    OIFNAME = 7
    IIFTYPE = 8
    OIFTYPE = 9
    SKUID = 10
    SKGID = 11
    NFPROTO = 15
    L4PROTO = 16
    PKTTYPE = 19


class CtKey(enum.IntEnum):
    """``NFT_CT_*``."""

    STATE = 0
    DIRECTION = 1
    STATUS = 2
    MARK = 3
    SECMARK = 4
    EXPIRATION = 5
    HELPER = 6
    L3PROTOCOL = 7
    SRC = 8
    DST = 9
    PROTOCOL = 10
    PROTO_SRC = 11
    PROTO_DST = 12
    LABELS = 13
    PKTS = 14
    BYTES = 15
    AVGPKT = 16
    ZONE = 17
    EVENTMASK = 18
    SRC_IP = 19
    DST_IP = 20
    SRC_IP6 = 21
    DST_IP6 = 22
    ID = 23


class NatFlag(enum.IntFlag):
    """``NF_NAT_RANGE_*`` (include/uapi/linux/netfilter/nf_nat.h)."""

    MAP_IPS = 1
    PROTO_SPECIFIED = 2
    PROTO_RANDOM = 4
    PERSISTENT = 8
    PROTO_RANDOM_FULLY = 16
    PROTO_OFFSET = 32
    NETMAP = 64


class CtInfo(enum.IntEnum):
    """``enum ip_conntrack_info``; UNTRACKED and INVALID are ours, beyond its range."""

    ESTABLISHED = 0
    RELATED = 1
    NEW = 2
    ESTABLISHED_REPLY = 3
    RELATED_REPLY = 4
    UNTRACKED = 7
    INVALID = 8


class CtStateBit(enum.IntFlag):
    """``XT_CONNTRACK_STATE_*``: what ``--ctstate`` lists (include/uapi/linux/netfilter/xt_conntrack.h)."""

    INVALID = 1 << 0
    ESTABLISHED = 1 << 1
    RELATED = 1 << 2
    NEW = 1 << 3
    SNAT = 1 << 6
    DNAT = 1 << 7
    UNTRACKED = 1 << 8


class CtStatus(enum.IntFlag):
    """``IPS_*`` (include/uapi/linux/netfilter/nf_conntrack_common.h)."""

    EXPECTED = 1 << 0
    SEEN_REPLY = 1 << 1
    ASSURED = 1 << 2
    CONFIRMED = 1 << 3
    SRC_NAT = 1 << 4
    DST_NAT = 1 << 5
    SEQ_ADJUST = 1 << 6
    SRC_NAT_DONE = 1 << 7
    DST_NAT_DONE = 1 << 8
    DYING = 1 << 9
    FIXED_TIMEOUT = 1 << 10
    TEMPLATE = 1 << 11
    NAT_CLASH = 1 << 12
    HELPER = 1 << 13
    OFFLOAD = 1 << 14
