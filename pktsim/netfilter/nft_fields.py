"""What nft's expressions can look at: header fields, packet meta data, connection tracking, and their data types.

Source: src/proto.c, src/exthdr.c, src/tcpopt.c, src/meta.c, src/ct.c and src/rt.c of nftables 1.0.6.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pktsim.netfilter import nft_types as t
from pktsim.netfilter.nft_types import Datatype
from pktsim.netfilter.opcodes import CtKey, MetaKey


class PayloadBase(enum.IntEnum):
    """``NFT_PAYLOAD_*_HEADER``."""

    LINK = 0
    NETWORK = 1
    TRANSPORT = 2


@dataclass(frozen=True, slots=True)
class HeaderField:
    """Where a field lies in its header, in bits, and what it holds.

    Attributes:
        icmp_types: It is only there in messages of these types.
    """

    offset: int
    bits: int
    datatype: Datatype = t.INTEGER
    icmp_types: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Protocol:
    """A header.

    Attributes:
        number: The transport protocol's; 0 for others.
        checksum: Offset of its Internet checksum in bytes, -1 if it has none that nft mends.
    """

    name: str
    base: PayloadBase
    fields: Mapping[str, HeaderField]
    number: int = 0
    checksum: int = -1


_PORTS: Final = {"sport": HeaderField(0, 16, t.INET_SERVICE), "dport": HeaderField(16, 16, t.INET_SERVICE)}
_ECHO4, _ECHO6 = (0, 8), (128, 129)

PROTOCOLS: Final[Mapping[str, Protocol]] = {
    one.name: one
    for one in (
        Protocol("ether", PayloadBase.LINK, {
            "daddr": HeaderField(0, 48, t.ETHER_ADDR),
            "saddr": HeaderField(48, 48, t.ETHER_ADDR),
            "type": HeaderField(96, 16, t.ETHER_TYPE),
        }),
        Protocol("ip", PayloadBase.NETWORK, {
            "version": HeaderField(0, 4), "hdrlength": HeaderField(4, 4), "dscp": HeaderField(8, 6, t.DSCP),
            "ecn": HeaderField(14, 2, t.ECN), "length": HeaderField(16, 16), "id": HeaderField(32, 16),
            "frag-off": HeaderField(48, 16), "ttl": HeaderField(64, 8), "protocol": HeaderField(72, 8, t.INET_PROTO),
            "checksum": HeaderField(80, 16), "saddr": HeaderField(96, 32, t.IPV4_ADDR),
            "daddr": HeaderField(128, 32, t.IPV4_ADDR),
        }, checksum=10),
        Protocol("ip6", PayloadBase.NETWORK, {
            "version": HeaderField(0, 4), "dscp": HeaderField(4, 6, t.DSCP), "ecn": HeaderField(10, 2, t.ECN),
            "flowlabel": HeaderField(12, 20), "length": HeaderField(32, 16),
            "nexthdr": HeaderField(48, 8, t.INET_PROTO), "hoplimit": HeaderField(56, 8),
            "saddr": HeaderField(64, 128, t.IPV6_ADDR), "daddr": HeaderField(192, 128, t.IPV6_ADDR),
        }),
        Protocol("icmp", PayloadBase.TRANSPORT, {
            "type": HeaderField(0, 8, t.ICMP_TYPE), "code": HeaderField(8, 8, t.ICMP_CODE),
            "checksum": HeaderField(16, 16), "id": HeaderField(32, 16, icmp_types=_ECHO4),
            "sequence": HeaderField(48, 16, icmp_types=_ECHO4), "gateway": HeaderField(32, 32, icmp_types=(5,)),
            "mtu": HeaderField(48, 16, icmp_types=(3,)),
        }, 1, 2),
        Protocol("igmp", PayloadBase.TRANSPORT, {
            "type": HeaderField(0, 8, t.IGMP_TYPE), "mrt": HeaderField(8, 8), "checksum": HeaderField(16, 16),
            "group": HeaderField(32, 32),
        }, 2, 2),
        Protocol("tcp", PayloadBase.TRANSPORT, {
            **_PORTS, "sequence": HeaderField(32, 32), "ackseq": HeaderField(64, 32), "doff": HeaderField(96, 4),
            "reserved": HeaderField(100, 4), "flags": HeaderField(104, 8, t.TCP_FLAG), "window": HeaderField(112, 16),
            "checksum": HeaderField(128, 16), "urgptr": HeaderField(144, 16),
        }, 6, 16),
        Protocol("udp", PayloadBase.TRANSPORT, {
            **_PORTS, "length": HeaderField(32, 16), "checksum": HeaderField(48, 16),
        }, 17, 6),
        Protocol("udplite", PayloadBase.TRANSPORT, {
            **_PORTS, "csumcov": HeaderField(32, 16), "checksum": HeaderField(48, 16),
        }, 136),
        Protocol("sctp", PayloadBase.TRANSPORT, {
            **_PORTS, "vtag": HeaderField(32, 32), "checksum": HeaderField(64, 32),
        }, 132),
        Protocol("dccp", PayloadBase.TRANSPORT, {**_PORTS, "type": HeaderField(67, 4, t.DCCP_PKTTYPE)}, 33),
        Protocol("th", PayloadBase.TRANSPORT, _PORTS),
        Protocol("esp", PayloadBase.TRANSPORT, {"spi": HeaderField(0, 32), "sequence": HeaderField(32, 32)}, 50),
        Protocol("ah", PayloadBase.TRANSPORT, {
            "nexthdr": HeaderField(0, 8, t.INET_PROTO), "hdrlength": HeaderField(8, 8), "reserved": HeaderField(16, 16),
            "spi": HeaderField(32, 32), "sequence": HeaderField(64, 32),
        }, 51),
        Protocol("comp", PayloadBase.TRANSPORT, {
            "nexthdr": HeaderField(0, 8, t.INET_PROTO), "flags": HeaderField(8, 8, t.BITMASK),
            "cpi": HeaderField(16, 16),
        }, 108),
        Protocol("icmpv6", PayloadBase.TRANSPORT, {
            "type": HeaderField(0, 8, t.ICMPV6_TYPE), "code": HeaderField(8, 8, t.ICMPV6_CODE),
            "checksum": HeaderField(16, 16), "parameter-problem": HeaderField(32, 32, icmp_types=(4,)),
            "mtu": HeaderField(32, 32, icmp_types=(2,)), "id": HeaderField(32, 16, icmp_types=_ECHO6),
            "sequence": HeaderField(48, 16, icmp_types=_ECHO6), "max-delay": HeaderField(32, 16, icmp_types=(130,)),
        }, 58, 2),
    )
}  # fmt: skip
#: Transport protocols by number.
TRANSPORTS: Final = {one.number: one.name for one in PROTOCOLS.values() if one.number}

#: IPv6 extension headers: number and fields.
EXTENSION_HEADERS: Final[Mapping[str, tuple[int, Mapping[str, HeaderField]]]] = {
    "hbh": (0, {"nexthdr": HeaderField(0, 8, t.INET_PROTO), "hdrlength": HeaderField(8, 8)}),
    "rt": (43, {"nexthdr": HeaderField(0, 8, t.INET_PROTO), "hdrlength": HeaderField(8, 8), "type": HeaderField(16, 8),
                "seg-left": HeaderField(24, 8)}),
    "frag": (44, {"nexthdr": HeaderField(0, 8, t.INET_PROTO), "reserved": HeaderField(8, 8),
                  "frag-off": HeaderField(16, 13), "reserved2": HeaderField(29, 2),
                  "more-fragments": HeaderField(31, 1), "id": HeaderField(32, 32)}),
    "dst": (60, {"nexthdr": HeaderField(0, 8, t.INET_PROTO), "hdrlength": HeaderField(8, 8)}),
    "mh": (135, {"nexthdr": HeaderField(0, 8, t.INET_PROTO), "hdrlength": HeaderField(8, 8),
                 "type": HeaderField(16, 8, t.MH_TYPE), "reserved": HeaderField(24, 8),
                 "checksum": HeaderField(32, 16)}),
}  # fmt: skip
_LENGTH: Final = {"length": HeaderField(8, 8)}
#: TCP options: kind and fields; any may be asked for by ``exists``.
TCP_OPTIONS: Final[Mapping[str, tuple[int, Mapping[str, HeaderField]]]] = {
    "eol": (0, {}),
    "nop": (1, {}),
    "maxseg": (2, {**_LENGTH, "size": HeaderField(16, 16)}),
    "window": (3, {**_LENGTH, "count": HeaderField(16, 8)}),
    "sack-perm": (4, _LENGTH),
    "sack": (5, {**_LENGTH, "left": HeaderField(16, 32), "right": HeaderField(48, 32)}),
    "timestamp": (8, {**_LENGTH, "tsval": HeaderField(16, 32), "tsecr": HeaderField(48, 32)}),
    "md5sig": (19, _LENGTH),
    "mptcp": (30, {**_LENGTH, "subtype": HeaderField(16, 4)}),
    "fastopen": (34, _LENGTH),
}
TCP_OPTION_ALIASES: Final = {"sack-permitted": "sack-perm"}


#: Name, key, type and width of meta data.
META: Final[Mapping[str, tuple[MetaKey, Datatype, int]]] = {
    "length": (MetaKey.LEN, Datatype("integer", 32, host=True, per_line=5), 32),
    "protocol": (MetaKey.PROTOCOL, t.ETHER_TYPE, 16),
    "nfproto": (MetaKey.NFPROTO, t.NF_PROTO, 8),
    "l4proto": (MetaKey.L4PROTO, t.INET_PROTO, 8),
    "priority": (MetaKey.PRIORITY, t.CLASSID, 32),
    "mark": (MetaKey.MARK, t.MARK, 32),
    "iif": (MetaKey.IIF, t.IFACE_INDEX, 32),
    "iifname": (MetaKey.IIFNAME, t.IFNAME, 128),
    "iiftype": (MetaKey.IIFTYPE, t.IFACE_TYPE, 16),
    "oif": (MetaKey.OIF, t.IFACE_INDEX, 32),
    "oifname": (MetaKey.OIFNAME, t.IFNAME, 128),
    "oiftype": (MetaKey.OIFTYPE, t.IFACE_TYPE, 16),
    "skuid": (MetaKey.SKUID, t.UID, 32),
    "skgid": (MetaKey.SKGID, t.GID, 32),
    "pkttype": (MetaKey.PKTTYPE, t.PKT_TYPE, 8),
}
#: Meta data that is known to nft and not to us.
META_REFUSED: Final = frozenset(
    {
        "nftrace", "rtclassid", "ibrname", "obrname", "ibriport", "obriport", "cpu", "iifgroup", "oifgroup", "cgroup",
        "random", "ipsec", "secpath", "iifkind", "oifkind", "ibrpvid", "ibrvproto", "time", "day", "hour", "secmark",
        "sdif", "sdifname",
    }
)  # fmt: skip
#: These may be written, and some are printed, without ``meta`` before them.
META_UNQUALIFIED: Final = frozenset(
    {
        "mark", "iif", "iifname", "iiftype", "oif", "oifname", "oiftype", "skuid", "skgid", "nftrace", "rtclassid",
        "ibriport", "obriport", "ibrname", "obrname", "pkttype", "cpu", "iifgroup", "oifgroup", "cgroup",
    }
)  # fmt: skip
META_PRINTED_BARE: Final = frozenset({"iif", "oif", "iifname", "oifname", "iifgroup", "oifgroup"})


_COUNT64: Final = Datatype("integer", 64, host=True, per_line=5)
_ZONE: Final = Datatype("integer", 16, host=True, per_line=5)
#: Name, key, type and width of what connection tracking knows.
CT: Final[Mapping[str, tuple[CtKey, Datatype, int]]] = {
    "state": (CtKey.STATE, t.CT_STATE, 32),
    "direction": (CtKey.DIRECTION, t.CT_DIR, 8),
    "status": (CtKey.STATUS, t.CT_STATUS, 32),
    "mark": (CtKey.MARK, t.MARK, 32),
    "expiration": (CtKey.EXPIRATION, t.TIME, 64),
    "helper": (CtKey.HELPER, t.STRING, 128),
    "l3proto": (CtKey.L3PROTOCOL, t.NF_PROTO, 8),
    "ip saddr": (CtKey.SRC_IP, t.IPV4_ADDR, 32),
    "ip daddr": (CtKey.DST_IP, t.IPV4_ADDR, 32),
    "ip6 saddr": (CtKey.SRC_IP6, t.IPV6_ADDR, 128),
    "ip6 daddr": (CtKey.DST_IP6, t.IPV6_ADDR, 128),
    "protocol": (CtKey.PROTOCOL, t.INET_PROTO, 8),
    "proto-src": (CtKey.PROTO_SRC, t.INET_SERVICE, 16),
    "proto-dst": (CtKey.PROTO_DST, t.INET_SERVICE, 16),
    "label": (CtKey.LABELS, t.CT_LABEL, 128),
    "packets": (CtKey.PKTS, _COUNT64, 64),
    "bytes": (CtKey.BYTES, _COUNT64, 64),
    "avgpkt": (CtKey.AVGPKT, _COUNT64, 64),
    "zone": (CtKey.ZONE, _ZONE, 16),
}
#: Keys that need ``original`` or ``reply``, and those that may have it.
CT_DIRECTED: Final = frozenset(
    {"l3proto", "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "protocol", "proto-src", "proto-dst"}
)
CT_MAYBE_DIRECTED: Final = frozenset({"packets", "bytes", "avgpkt", "zone"})

#: ``fib`` results and their types.
FIB_RESULTS: Final[Mapping[str, tuple[int, Datatype, int]]] = {
    "oif": (1, t.IFACE_INDEX, 32),
    "oifname": (2, t.IFNAME, 128),
    "type": (3, t.FIB_ADDRTYPE, 32),
}
FIB_FLAGS: Final = {"saddr": 1, "daddr": 2, "mark": 4, "iif": 8, "oif": 16}
RT: Final[Mapping[str, tuple[int, Datatype, int]]] = {
    "ip nexthop": (1, t.IPV4_ADDR, 32),
    "ip6 nexthop": (2, t.IPV6_ADDR, 128),
    "mtu": (3, Datatype("integer", 16, host=True), 16),
}

#: Priorities that have names (``std_prios``), and where each may be used: families and hooks.
PRIORITIES: Final[Mapping[str, int]] = {
    "raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100,
}  # fmt: skip
HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}


def priority_name_fits(name: str, hook: str) -> bool:
    """``std_prio_family_hook_compat``."""
    if name == "dstnat":
        return hook == "prerouting"
    if name == "srcnat":
        return hook == "postrouting"
    return True
