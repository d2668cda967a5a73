"""What random nft rules are written in: matches, steps and verdicts with what fills them in, for each address family.

They use the addresses, ports and marks of :mod:`tests.live.case_worlds`, so that packets meet them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.live.case_worlds import Form, Forms

_PORTS: Final = ("53", "80", "443", "8080", "500", "4000", "40000", "80-443", "1024-65535", "{ 53, 80 }",
                 "{ 80-443, 4000 }", "@ports")  # fmt: skip
_MARKS: Final = ("0x1", "0x4000", "0x0", "0x10-0x20", "{ 0x1, 0x5 }")
_NOT: Final = ("", "", "", "!= ")
_STATES: Final = ("new", "established", "related", "invalid", "untracked", "established,related",
                  "{ new, established }")  # fmt: skip
_INTERFACES: Final = ('"eth0"', '"pod0"', '"pod1"', '"lo"', '"pod*"', '{ "eth0", "pod1" }')
_LOW: Final = ("<", ">=", "<")
_HIGH: Final = (">", "<=", "<")


@dataclass(frozen=True)
class Words:
    """Of one address family; ``{ip}`` in a target is its name where the table is one of both.

    Attributes:
        family: ``ip`` or ``ip6``.
        matches: What any rule may look at.
        fibs: Routes, where there is an interface that a packet came in by.
        came_in: About where a packet came in, which POSTROUTING has other ideas about; the last two only where no
            packet of the other family is.
        gone_out: Where there is a route.
        forwarded: Only what is forwarded: elsewhere the kernel's own packets pass too, with what it has drawn for them.
        routed: What is looked up by its destination later.
        steps: What goes on.
        ends: Verdicts.
        sets: Declarations, in a table's block.
    """

    family: str
    matches: Forms
    fibs: Sequence[str]
    came_in: Forms
    gone_out: Forms
    forwarded: Form
    routed: str
    steps: Sequence[str]
    ends: Sequence[str]
    rejects: Sequence[str]
    dnats: Sequence[str]
    snats: Sequence[str]
    sets: Sequence[str]


_ANY_FAMILY: Final[Forms] = (
    ("tcp dport {}{}", (_NOT, _PORTS)),
    ("udp dport {}{}", (_NOT, _PORTS)),
    ("tcp sport {}{}", (_NOT, _PORTS)),
    ("udp sport {}{}", (_NOT, _PORTS)),
    ("th dport {}{}", (_NOT, _PORTS)),
    ("ct state {}{}", (("",), _STATES)),
    ("meta l4proto {}{}", (_NOT, ("tcp", "udp", "icmp", "icmpv6", "{ tcp, udp }", "sctp"))),
    ("meta mark {}{}", (_NOT, _MARKS)),
    ("meta mark & {} {} {}", (("0x1", "0xf0", "0x4000"), ("==", "!="), ("0x0", "0x10", "0x4000"))),
    ("ct mark {}{}", (_NOT, _MARKS)),
    ("ct direction {}", (("original", "reply"),)),
    ("ct status {}", (("snat", "dnat", "assured", "confirmed", "seen-reply,dnat"),)),
    ("oifname {}{}", (_NOT, _INTERFACES)),
    ("meta length {}{}", (("", "!= "), ("40", "28-60", "0-100"))),
    ("meta length {} {}", (("<", ">="), ("41", "60"))),
    ("meta mark {} 0x1 meta length {} 41", (_LOW, _HIGH)),
    ("tcp flags {}", (("syn", "syn / syn,ack,fin,rst", "! fin,rst", "& (syn|ack) == syn", "== syn", "{ syn, ack }"),)),
    ("tcp option {}", (("maxseg size 1460", "maxseg size > 500", "sack-perm exists", "window missing",
                        "timestamp tsval > 0"),)),
    ("tcp window {} 1000", ((">", "!=", "=="),)),
    ("tcp window {} 1000 tcp window {} 64000", (_LOW, _HIGH)),
    ("tcp doff {} 6 tcp window {} 1000", (_LOW, _HIGH)),
    ("tcp doff {}", (("5", "> 5"),)),
    ("udp length {}", (("8-20", "> 13"),)),
    ("@th,16,16 {}", (("80", "53", "8080"),)),
    ("meta pkttype {}", (("host", "broadcast", "{ unicast, multicast }"),)),
    ("numgen inc mod {} {}", (("2", "3"), ("0", "1"))),
    ("jhash meta mark . tcp sport mod 3 seed 0x7 {}", (("0", "1"),)),
    ("limit rate {}1/hour burst {} packets", (("", "over "), ("1", "2", "3"))),
    ("limit rate {} bytes/hour", (("100", "over 60"),)),
    ("quota {}{} bytes", (("", "over "), ("60", "100", "200"))),
    ("ct expiration < 100s", ()),
    ("ct zone {}", (("0", "1"),)),
    ("tcp sport != {} tcp dport != {}", (("4000", "80"), ("80", "4000"))),
    ("tcp sequence {}", (("> 1000", "1000-5000", "{ 0, 1000, 1001, 5001 }"),)),
    ("tcp ackseq {}", (("0", "!= 0", "> 5001"),)),
    ("tcp {} {}0", (("reserved", "urgptr", "checksum"), ("", "!= "))),
    ("udp checksum {}0", (("", "!= "),)),
    ("sctp {}", (("dport 80", "sport != 4000", "vtag 0", "dport vmap { 80 : accept, 53 : return }"),)),
    ("{}", (("esp spi 0", "esp sequence != 0", "ah spi 0", "ah hdrlength 4", "comp cpi > 0", "udplite dport 53",
             "dccp type request"),)),
    ("tcp option {}", (("eol exists", "nop exists", "sack exists", "window count 7", "timestamp tsecr 0",
                        "maxseg length 4", "sack left > 0"),)),
    ("meta skuid {}", (("0", "!= 0", "1000", "{ 1000, 1500 }"),)),
    ("meta skgid {}", (("0", "!= 0"),)),
    ("meta priority {}{}", (("", "!= "), ("none", "0:2", "0:6"))),
    ("ct {}protocol {}", (("original ", "reply "), ("tcp", "udp", "{ tcp, icmp }", "!= udp"))),
    ("meta l4proto {} ct {} proto-{} {}", (
        ("tcp", "udp", "icmp"), ("original", "reply"), ("src", "dst"), ("80", "4000", "!= 53", "1024-65535"),
    )),
    ("ct {}packets {}", (("", "original ", "reply "), ("0", "1", "> 1", "2-3"))),
    ("ct {}bytes {}", (("", "original ", "reply "), ("0", "< 100", "> 60"))),
    ("ct {}avgpkt {}", (("", "original ", "reply "), ("0", "< 41", "> 41"))),
    ("ct {} zone {}", (("original", "reply"), ("0", "1"))),
    ('ct helper "ftp"', ()),
    ("limit name lim", ()),
    ("quota name quo", ()),
    ("th sport . th dport {}{{ 4000 . 80, 500 . 53, 80 . 4000 }}", (_NOT,)),
    ("ct mark . meta mark {}{{ 0x0 . 0x0, 0x5 . 0x1, 0x1 . 0x1 }}", (_NOT,)),
    ("tcp dport . meta mark {}{{ 80-443 . 0x0-0x1, 53 . 0x4000 }}", (_NOT,)),
)  # fmt: skip
#: No tcp flags set: whoever refuses a reset with one, and does not know it for one, does so until its stack is full,
#: and that is the running kernel's.
_ANY_STEPS: Final = (
    "", "", "", "meta mark set 0x1", "meta mark set meta mark | 0x10", "meta mark set meta mark & 0xff ^ 0x4000",
    "meta mark set ct mark", "ct mark set meta mark", "ct mark set 0x5", "ct mark set ct mark | 0x10",
    "meta mark set tcp dport map @marks", "meta mark set numgen inc mod 3", "tcp option maxseg size set 1000",
    'log prefix "x"', "counter name \"named\"", "tcp sport set 4000", "tcp dport set 80", "udp dport set 53",
    "udp sport set 500", "tcp window set 1000", "tcp sequence set 1000", "tcp ackseq set 0",
    "tcp urgptr set 1", "sctp dport set 53", "sctp vtag set 7",
    "meta mark set meta mark << 1", "ct mark set tcp dport map @marks", "meta mark set symhash mod 1",
    "limit rate 1/hour burst 3 packets", "meta mark set jhash ct mark mod 7 seed 1 offset 2",
    "meta mark set ct mark map { 0x5 : 0x1, 0x0 : 0x10 }",
)  # fmt: skip
_ANY_ENDS: Final = (
    "", "", "accept", "accept", "drop", "return", "continue", "jump u0", "goto u0", "jump u1",
    "tcp dport vmap { 80 : goto u0, 443 : continue, * : jump u1 }",
    "ct state vmap { new : jump u0, established : accept, invalid : drop }",
    "meta l4proto vmap { tcp : jump u0, udp : return }",
)  # fmt: skip
_CAME_IN: Final[Forms] = (("iifname {}{}", (_NOT, _INTERFACES)), ("iif lo", ()))
_GONE_OUT: Final[Forms] = (("oif {}lo", (_NOT,)), ("oiftype {}", (("ether", "loopback"),)))
_LINK: Final[Forms] = (
    ("iiftype ether", ()),
    ("ether saddr {}", (("02:00:00:00:01:fe", "02:00:00:00:02:0a"),)),
)
_ADDRESSES4: Final = (
    "10.0.0.1", "10.96.0.10", "10.96.0.11", "10.244.1.2", "10.244.1.3", "10.0.0.2", "203.0.113.9", "203.0.113.77",
    "10.244.0.0/16", "10.96.0.0/12", "203.0.113.0/26", "{ 10.96.0.10, 10.244.1.2 }", "{ 10.244.0.0/16, 203.0.113.9 }",
    "10.96.0.0-10.96.0.10", "@v4", "@nets",
)  # fmt: skip
_ADDRESSES6: Final = (
    "fd00::1", "fd00:96::10", "fd00:96::11", "fd00:10::2", "fd00:10::3", "fd00::2", "2001:db8::9", "2001:db8::77",
    "fd00:10::/64", "fd00:96::/32", "2001:db8::/122", "{ fd00:96::10, fd00:10::2 }", "{ fd00:10::/64, 2001:db8::9 }",
    "fd00:96::-fd00:96::10", "@v6", "@nets6",
)  # fmt: skip


def _steps(ip: str, first: str, second: str, suffix: str) -> tuple[str, ...]:
    return (
        f"meta mark set {ip} saddr map {{ {first} : 0x1, {second} : 0x5 }}",
        f"add @dyn{suffix} {{ {ip} saddr }}",
        f"update @dyn{suffix} {{ {ip} daddr }}",
        f"delete @dyn{suffix} {{ {ip} saddr }}",
        f"add @pairs{suffix} {{ {ip} saddr . {ip} daddr }}",
        f"{ip} dscp set ef",
        f"meta mark set {ip} dscp map {{ ef : 0x1, cs0 : 0x2 }}",
        f"{ip} ecn set ce",
        f"add @limited{suffix} {{ {ip} saddr limit rate 1/hour burst 2 packets }}",
        f"update @counted{suffix} {{ {ip} saddr counter }}",
        f"add @timed{suffix} {{ {ip} saddr }}",
        f"update @timed{suffix} {{ {ip} daddr timeout 1h }}",
        f"add @learned{suffix} {{ {ip} saddr : meta mark }}",
        f"update @learned{suffix} {{ {ip} daddr : ct mark }}",
        f"meta mark set {ip} saddr map @learned{suffix}",
        f"{ip} saddr set {first}",
    )


WORDS4: Final = Words(
    family="ip",
    matches=(
        ("ip saddr {}{}", (_NOT, _ADDRESSES4)),
        ("ip daddr {}{}", (_NOT, _ADDRESSES4)),
        *_ANY_FAMILY,
        ("ip protocol {}{}", (_NOT, ("tcp", "udp", "icmp", "{ tcp, icmp }"))),
        ("ct original ip {} {}{}", (("saddr", "daddr"), _NOT, _ADDRESSES4[:11])),
        ("ct reply ip {} {}{}", (("saddr", "daddr"), _NOT, _ADDRESSES4[:11])),
        ("icmp type {}{}", (_NOT, ("echo-request", "echo-reply", "destination-unreachable",
                                   "{ echo-request, echo-reply }"))),
        ("icmp code {}", (("0", "1-5", "4"),)),
        ("icmp {}", (("id 0", "id 1-2", "sequence 1", "mtu > 1000", "checksum != 0", "gateway 0"),)),
        ("ip {}", (("version 4", "hdrlength 5", "ecn not-ect", "ecn != ect1", "checksum != 0"),)),
        ("igmp type membership-query", ()),
        ("ip ttl {} {}", (("==", "<", "!="), ("63", "64", "1"))),
        ("ip ttl {} 40 ip length {} 45", (_LOW, _HIGH)),
        ("ip dscp {}{}", (_NOT, ("cs0", "ef", "0x10", "{ cs1, ef }"))),
        ("ip length {}", (("40", "28-33", "> 40"),)),
        ("ip frag-off & 0x1fff {} 0", (("==", "!="),)),
        ("@nh,128,32 {}", (("0x0af40102", "0x0a60000a"),)),
        ("fib daddr type {}{}", (("", "!= "), ("local", "unicast", "broadcast", "{ local, broadcast }"))),
        ("fib saddr type {}", (("local", "unicast"),)),
        ("ip saddr . tcp dport {}{{ 203.0.113.9 . 80, 10.0.0.2 . 443 }}", (_NOT,)),
        ("ip daddr . meta l4proto . th dport {}", (("@services", "{ 10.96.0.10 . tcp . 80, 10.244.1.2 . udp . 53 }"),)),
        ("ip daddr . th dport {}@boxes", (_NOT,)),
        ("jhash ip saddr . ip daddr mod 4 seed 0x5 {} {}", (("==", "<"), ("1", "2"))),
        ("ip saddr @{}", (("dyn",),)),
        ("meta nfproto ipv4", ()),
    ),
    fibs=(
        "fib saddr . iif oif exists", "fib saddr . iif oif missing", 'fib daddr oifname "pod0"', "fib saddr oif exists",
        "fib daddr . iif type local", "fib saddr . mark . iif oif missing",
    ),
    came_in=(*_CAME_IN, *_LINK),
    gone_out=(*_GONE_OUT, ("rt ip nexthop {}{}", (_NOT, ("10.0.0.254", "10.244.1.2", "{ 10.0.0.2, 10.244.1.3 }"))),),
    forwarded=("ip id {}", (("0", "1-1000"),)),
    routed="ip daddr set 10.244.1.2",
    steps=(*_ANY_STEPS, *_steps("ip", "203.0.113.9", "10.244.1.2", ""), "ip ttl set 32", "ip id set 7",
           "udp checksum set 0", "icmp id set 5", "icmp sequence set 6"),
    ends=(
        *_ANY_ENDS,
        "ip daddr vmap { 10.96.0.10 : jump u0, 10.244.1.2 : accept, 203.0.113.9 : drop, 10.0.0.0/24 : return }",
        "ip daddr . meta l4proto . th dport vmap @verdicts",
    ),
    rejects=(
        "reject", "reject with icmp host-unreachable", "reject with icmp admin-prohibited", "reject with tcp reset",
        "reject with tcp reset",
    ),
    dnats=(
        "dnat{ip} to 10.244.1.2", "dnat{ip} to 10.244.1.3", "dnat{ip} to 10.0.0.1", "dnat{ip} to 203.0.113.77",
        "dnat{ip} to 10.244.1.2-10.244.1.3", "dnat{ip} to 10.244.1.2-10.244.1.3 persistent", "redirect",
        "meta l4proto tcp dnat{ip} to 10.244.1.2:8080", "meta l4proto udp dnat{ip} to 10.244.1.3:53",
        "tcp dport 80 redirect to :8080", "udp dport 53 redirect to :5353-5360",
        "dnat ip to tcp dport map { 80 : 10.244.1.2 . 8080, 443 : 10.244.1.3 . 443 }",
        "dnat{ip} to ip daddr map { 10.96.0.10 : 10.244.1.2, 10.96.0.11 : 10.244.1.3 }",
        "meta l4proto tcp dnat{ip} to numgen inc mod 2 map { 0 : 10.244.1.2, 1 : 10.244.1.3 }:80",
        "dnat{ip} to 10.0.0.0/30", "meta l4proto { tcp, udp } dnat ip to ip daddr . th dport map @backends",
    ),
    snats=(
        "masquerade", "masquerade", "masquerade", "snat{ip} to 10.0.0.1", "snat{ip} to 10.9.9.9",
        "snat{ip} to 10.0.0.10-10.0.0.13", "snat{ip} to 10.0.0.10-10.0.0.13 persistent",
        "meta l4proto tcp snat{ip} to 10.0.0.1:5000", "meta l4proto udp masquerade to :7000",
        "snat{ip} to oifname map { \"eth0\" : 10.0.0.1, \"pod0\" : 10.9.9.9 }",
    ),
    sets=(
        "set v4 { type ipv4_addr; elements = { 10.96.0.10, 203.0.113.9, 10.244.1.3 } }",
        "set nets { type ipv4_addr; flags interval;",
        "elements = { 10.244.0.0/16, 203.0.113.64-203.0.113.80, 10.0.0.2 } }",
        "set services { type ipv4_addr . inet_proto . inet_service;",
        "elements = { 10.96.0.10 . tcp . 80, 10.96.0.11 . udp . 53 } }",
        "set boxes { type ipv4_addr . inet_service; flags interval;",
        "elements = { 10.96.0.0/16 . 50-90, 10.244.1.2 . 0-65535, 203.0.113.9-203.0.113.77 . 443 } }",
        # what rules delete counts until the kernel collects it, so these are never full
        "set dyn { type ipv4_addr; flags dynamic; size 100; }",
        "set pairs { type ipv4_addr . ipv4_addr; flags dynamic; size 100; }",
        "set limited { type ipv4_addr; flags dynamic; size 100; }",
        "set counted { type ipv4_addr; flags dynamic; size 100; counter; elements = { 10.0.0.2 } }",
        "set timed { type ipv4_addr; flags dynamic,timeout; timeout 2h; size 100; }",
        "map learned { type ipv4_addr : mark; flags dynamic; size 100; }",
        "map verdicts { type ipv4_addr . inet_proto . inet_service : verdict",
        "elements = { 10.96.0.10 . tcp . 80 : goto u0, 10.96.0.11 . udp . 53 : drop,",
        "10.244.1.2 . tcp . 80 : accept } }",
        "map backends { type ipv4_addr . inet_service : ipv4_addr . inet_service",
        "elements = { 10.96.0.10 . 80 : 10.244.1.2 . 8080, 10.96.0.11 . 53 : 10.244.1.3 . 53 } }",
    ),
)  # fmt: skip
WORDS6: Final = Words(
    family="ip6",
    matches=(
        ("ip6 saddr {}{}", (_NOT, _ADDRESSES6)),
        ("ip6 daddr {}{}", (_NOT, _ADDRESSES6)),
        *_ANY_FAMILY,
        ("ip6 nexthdr {}{}", (_NOT, ("tcp", "udp", "icmpv6", "{ tcp, icmpv6 }", "44", "0", "60"))),
        ("ct original ip6 {} {}{}", (("saddr", "daddr"), _NOT, _ADDRESSES6[:11])),
        ("ct reply ip6 {} {}{}", (("saddr", "daddr"), _NOT, _ADDRESSES6[:11])),
        ("icmpv6 type {}{}", (_NOT, ("echo-request", "echo-reply", "destination-unreachable",
                                     "{ echo-request, echo-reply }", "packet-too-big", "nd-neighbor-solicit"))),
        ("icmpv6 code {}", (("0", "1-5", "4"),)),
        ("icmpv6 mtu {} 1400", (("==", "<"),)),
        ("icmpv6 {}", (("id 0", "id 1-2", "sequence 1", "max-delay 0", "checksum != 0"),)),
        ("ip6 hoplimit {} {}", (("==", "<", "!="), ("63", "64", "1"))),
        ("ip6 hoplimit {} 20 ip6 length {} 25", (_LOW, _HIGH)),
        ("ip6 dscp {}{}", (_NOT, ("cs0", "ef", "0x10", "{ cs1, ef }"))),
        ("ip6 ecn {}", (("not-ect", "ect1", "!= ect0"),)),
        ("ip6 length {}", (("20", "8-13", "> 20"),)),
        ("ip6 version {}", (("6", "4"),)),
        ("exthdr {} {}", (("hbh", "dst", "rt", "frag", "mh"), ("exists", "missing"))),
        ("frag {}", (("id 0-300", "frag-off 0", "frag-off != 0", "more-fragments 1", "more-fragments 0",
                      "nexthdr udp"),)),
        ("{}", (("hbh hdrlength 0", "dst hdrlength 0-1", "dst nexthdr tcp", "hbh nexthdr != tcp", "rt type 0",
                 "rt seg-left 0", "hbh nexthdr < 5 dst nexthdr > 16"),)),
        ("@nh,192,128 {}", (("0xfd000010000000000000000000000002", "0xfd000096000000000000000000000010"),)),
        ("@nh,64,64 {}", (("0xfd00001000000000",),)),
        ("fib daddr type {}{}", (("", "!= "), ("local", "unicast", "multicast", "{ local, multicast }"))),
        ("fib saddr type {}", (("local", "unicast"),)),
        ("ip6 saddr . tcp dport {}{{ 2001:db8::9 . 80, fd00::2 . 443 }}", (_NOT,)),
        ("ip6 daddr . meta l4proto . th dport {}",
         (("@services6", "{ fd00:96::10 . tcp . 80, fd00:10::2 . udp . 53 }"),)),
        ("ip6 daddr . th dport {}@boxes6", (_NOT,)),
        ("jhash ip6 saddr . ip6 daddr mod 4 seed 0x5 {} {}", (("==", "<"), ("1", "2"))),
        ("ip6 saddr @{}", (("dyn6",),)),
        ("meta nfproto ipv6", ()),
    ),
    fibs=(
        "fib saddr . iif oif exists", "fib saddr . iif oif missing", 'fib daddr oifname "pod0"', "fib saddr oif exists",
        "fib daddr . iif type local", "fib saddr . mark . iif oif missing",
    ),
    came_in=(*_CAME_IN, *_LINK),
    gone_out=(*_GONE_OUT, ("rt ip6 nexthop {}{}", (_NOT, ("fd00::fe", "fd00:10::2", "{ fd00::2, fd00:10::3 }"))),),
    forwarded=("ip6 flowlabel {}", (("0", "1-1000"),)),
    routed="ip6 daddr set fd00:10::2",
    steps=(*_ANY_STEPS, *_steps("ip6", "2001:db8::9", "fd00:10::2", "6"), "ip6 hoplimit set 32",
           "ip6 flowlabel set 5", "icmpv6 id set 5", "icmpv6 sequence set 6"),
    ends=(
        *_ANY_ENDS,
        "ip6 daddr vmap { fd00:96::10 : jump u0, fd00:10::2 : accept, 2001:db8::9 : drop, fd00::/64 : return }",
        "ip6 daddr . meta l4proto . th dport vmap @verdicts6",
        "exthdr hbh vmap { exists : jump u0, missing : return }",
    ),
    rejects=(
        "reject", *(f"reject with icmpv6 {code}" for code in (
            "no-route", "admin-prohibited", "addr-unreachable", "port-unreachable", "policy-fail", "reject-route",
        )), "reject with tcp reset", "reject with tcp reset", "reject with tcp reset",
    ),
    dnats=(
        "dnat{ip} to fd00:10::2", "dnat{ip} to fd00:10::3", "dnat{ip} to fd00::1", "dnat{ip} to 2001:db8::77",
        "dnat{ip} to fd00:10::2-fd00:10::3", "dnat{ip} to fd00:10::2-fd00:10::3 persistent", "redirect",
        "meta l4proto tcp dnat{ip} to [fd00:10::2]:8080", "meta l4proto udp dnat{ip} to [fd00:10::3]:53",
        "tcp dport 80 redirect to :8080", "udp dport 53 redirect to :5353-5360",
        "dnat ip6 to tcp dport map { 80 : fd00:10::2 . 8080, 443 : fd00:10::3 . 443 }",
        "dnat{ip} to ip6 daddr map { fd00:96::10 : fd00:10::2, fd00:96::11 : fd00:10::3 }",
        "meta l4proto tcp dnat{ip} to numgen inc mod 2 map { 0 : fd00:10::2, 1 : fd00:10::3 }:80",
        "dnat{ip} to fd00:10::/126", "meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . th dport map @backends6",
    ),
    snats=(
        "masquerade", "masquerade", "masquerade", "snat{ip} to fd00::1", "snat{ip} to fd99::9",
        "snat{ip} to fd00::a-fd00::d", "snat{ip} to fd00::a-fd00::d persistent",
        "meta l4proto tcp snat{ip} to [fd00::1]:5000", "meta l4proto udp masquerade to :7000",
        "snat{ip} to oifname map { \"eth0\" : fd00::1, \"pod0\" : fd99::9 }",
    ),
    sets=(
        "set v6 { type ipv6_addr; elements = { fd00:96::10, 2001:db8::9, fd00:10::3 } }",
        "set nets6 { type ipv6_addr; flags interval;",
        "elements = { fd00:10::/64, 2001:db8::40-2001:db8::80, fd00::2 } }",
        "set services6 { type ipv6_addr . inet_proto . inet_service;",
        "elements = { fd00:96::10 . tcp . 80, fd00:96::11 . udp . 53 } }",
        "set boxes6 { type ipv6_addr . inet_service; flags interval;",
        "elements = { fd00:96::/32 . 50-90, fd00:10::2 . 0-65535, 2001:db8::9-2001:db8::77 . 443 } }",
        "set dyn6 { type ipv6_addr; flags dynamic; size 100; }",
        "set pairs6 { type ipv6_addr . ipv6_addr; flags dynamic; size 100; }",
        "set limited6 { type ipv6_addr; flags dynamic; size 100; }",
        "set counted6 { type ipv6_addr; flags dynamic; size 100; counter; elements = { fd00::2 } }",
        "set timed6 { type ipv6_addr; flags dynamic,timeout; timeout 2h; size 100; }",
        "map learned6 { type ipv6_addr : mark; flags dynamic; size 100; }",
        "map verdicts6 { type ipv6_addr . inet_proto . inet_service : verdict",
        "elements = { fd00:96::10 . tcp . 80 : goto u0, fd00:96::11 . udp . 53 : drop,",
        "fd00:10::2 . tcp . 80 : accept } }",
        "map backends6 { type ipv6_addr . inet_service : ipv6_addr . inet_service",
        "elements = { fd00:96::10 . 80 : fd00:10::2 . 8080, fd00:96::11 . 53 : fd00:10::3 . 53 } }",
    ),
)  # fmt: skip
#: Of tables of both families.
REJECTS_ANY: Final = tuple(
    f"reject with icmpx {code}" for code in ("port-unreachable", "admin-prohibited", "no-route", "host-unreachable")
)
#: Whatever the family.
SETS: Final = (
    "set ports { type inet_service; flags interval; elements = { 53, 80-90, 4000 } }",
    "map marks { type inet_service : mark; elements = { 80 : 0x1, 53 : 0x5 } }",
    "counter named { }",
    "limit lim { rate 1/hour burst 3 packets }",
    "quota quo { over 200 bytes }",
)
