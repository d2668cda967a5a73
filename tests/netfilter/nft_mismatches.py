"""Rules that look something up in a set or map of another type, and some that do not: nft 1.0.6 says which."""

from __future__ import annotations

from typing import Final

HEAD: Final = """\
table inet t {
 set ports { type inet_service; }
 set addrs { type ipv4_addr; }
 set pair { type ipv4_addr . inet_service; }
 set marks { type mark; }
 set ifs { type ifname; }
 set dyn { type ipv4_addr; flags dynamic; }
 map p2a { type inet_service : ipv4_addr; }
 map a2v { type ipv4_addr : verdict; }
 map a2m { type ipv4_addr : mark; }
 map a2ap { type ipv4_addr : ipv4_addr . inet_service; }
 chain c { type nat hook prerouting priority 0; }
}
"""

#: nft: "datatype mismatch".
MISMATCHES: Final = (
    "ip saddr @ports",
    "ip saddr @p2a",
    "ip saddr @marks",
    "tcp dport @addrs",
    "tcp dport @a2v",
    "tcp dport @marks",
    "ip daddr . ip saddr @pair",
    "ip daddr @pair",
    "tcp dport . ip daddr @pair",
    "meta nfproto . tcp dport @pair",
    "iif @ifs",
    "meta l4proto @ports",
    "icmp id @ports",
    "icmp checksum @ports",
    "tcp window @ports",
    "udp length @ports",
    "ip length @ports",
    "add @dyn { tcp dport }",
    "add @dyn { ip6 saddr }",
    "update @dyn { ip saddr . tcp dport }",
    "tcp dport vmap @a2v",
    "ip saddr . tcp dport vmap @a2v",
    "ip saddr vmap @a2m",
    "meta mark set ip saddr map @p2a",
    "meta mark set tcp dport map @p2a",
    "meta mark set jhash ip saddr mod 2 map @p2a",
    "meta mark set tcp dport",
    "meta mark set ip saddr",
    "ip dscp set ip saddr map @a2m",
    "tcp dport set ip saddr map @a2m",
    "tcp dport set tcp dport map @p2a",
    "dnat ip to ip saddr map @a2m",
    "dnat ip to tcp dport map @a2ap",
    "dnat ip to numgen inc mod 2 map @p2a",
)

MATCHES: Final = (
    "ip saddr @addrs",
    "ip saddr & 255.255.255.0 @addrs",
    "ct original ip saddr @addrs",
    "tcp dport @p2a",
    "th dport @ports",
    "@th,16,16 @ports",
    "ip daddr . tcp sport @pair",
    "meta mark @marks",
    "meta mark & 0xff @marks",
    "ct mark @marks",
    "iifname @ifs",
    "add @dyn { ip saddr }",
    "ip saddr vmap @a2v",
    "meta mark set ip saddr map @a2m",
    "ct mark set ip saddr map @a2m",
    "ip daddr set tcp dport map @p2a",
    "dnat ip to tcp dport map @p2a",
    "meta l4proto tcp dnat ip to ip saddr map @a2ap",
)
