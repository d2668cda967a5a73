"""Rules whose protocols contradict each other, and what nft 1.0.6 says of them; and some that only seem to be such."""

from __future__ import annotations

from typing import Final

HEAD: Final = """\
table {family} t {{
set addresses {{ type ipv4_addr; }}
map marks {{ type inet_service : mark; }}
chain c {{ type filter hook input priority 0; }}
}}
"""

#: Family, rule, where in it nft sees the second protocol, the first and the second.
CONFLICTS: Final = (
    ("ip", "udp dport != { 80-443, 4000 } meta l4proto tcp mark set tcp dport map @marks", "tcp dport", "udp vs. tcp"),
    ("inet", "udp dport 53 ip protocol tcp tcp sport 80", "tcp sport", "udp vs. tcp"),
    ("inet", "meta l4proto { tcp, udp } tcp dport 80", "tcp dport", "udp vs. tcp"),
    ("inet", "meta l4proto { tcp, udp } udp dport 80", "udp dport", "tcp vs. udp"),
    ("inet", "meta l4proto 99 tcp dport 80", "tcp dport", "unknown vs. tcp"),
    ("inet", "meta l4proto { 99, tcp } tcp dport 80", "tcp dport", "unknown vs. tcp"),
    ("ip6", "ip6 nexthdr udp tcp dport 80", "tcp dport", "udp vs. tcp"),
    ("ip6", "meta l4proto icmp ip6 nexthdr 58 icmpv6 type 1", "icmpv6 type", "icmp vs. icmpv6"),
    ("inet", "udp dport vmap { 53 : accept } tcp dport 80", "tcp dport", "udp vs. tcp"),
    ("inet", "counter ip saddr . tcp dport { 10.0.0.1 . 80 } udp dport 5", "udp dport", "tcp vs. udp"),
    ("inet", "tcp dport . udp dport { 1 . 2 }", "udp dport", "tcp vs. udp"),
    ("inet", "meta nfproto { ipv4, ipv6 } ip saddr 10.0.0.1", "ip saddr", "ip6 vs. ip"),
    ("inet", "ether type { ip, ip6 } ip saddr 10.0.0.1", "ip saddr", "ip6 vs. ip"),
    ("inet", "meta nfproto 7 ip saddr 10.0.0.1", "ip saddr", "unknown vs. ip"),
    ("inet", "ct l3proto ipv6 ip saddr 10.0.0.1", "ip saddr", "ip6 vs. ip"),
    ("ip", "ct protocol tcp udp dport 80", "udp dport", "tcp vs. udp"),
    ("ip", "ct original ip6 saddr ::1", "ct original", "ip vs. ip6"),
    ("inet", "add @addresses { ip saddr } counter ip6 saddr ::1", "ip6 saddr", "ip vs. ip6"),
)  # fmt: skip
#: Family and rule.
NO_CONFLICTS: Final = (
    ("inet", "udp dport 53 meta l4proto tcp th sport 80"),
    ("inet", "udp dport 53 meta l4proto tcp @th,0,16 80"),
    ("inet", "meta l4proto { tcp, udp } th dport 80"),
    ("inet", "meta l4proto 6-17 tcp dport 80"),
    ("inet", "meta l4proto != udp tcp dport 80"),
    ("inet", "ip protocol 99 tcp dport 80"),
    ("ip", "ip protocol { 99, tcp } tcp dport 80"),
    ("inet", "ct protocol udp tcp dport 80"),
    ("ip", "ct l3proto ipv6 ip saddr 10.0.0.1"),
    ("inet", "meta protocol ip6 ip saddr 10.0.0.1"),
    ("inet", "ether type 0x9999 ip saddr 10.0.0.1"),
    ("inet", "ip saddr 10.0.0.1 meta nfproto ipv6 ip6 daddr ::1"),
    ("inet", "icmpv6 type { 1, 128 } icmpv6 id 5"),
    ("inet", "ct protocol udp reject with tcp reset"),
    ("inet", "udp dport 53 meta l4proto tcp reject with tcp reset"),
)
