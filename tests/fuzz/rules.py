"""The rules of the fuzzed world: what a cluster's node always has, and some of everything that the engine can do.

Of the second kind there are more than one ruleset could have and still let a packet through: each is a line of a list,
and a world draws some of them (:func:`draw`). ``test_rules.py`` counts that together they have every row of a program,
every match and target, every expression and statement that the lowering knows.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Final

from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.nft_fields import CT, CT_DIRECTED, EXTENSION_HEADERS, META, PROTOCOLS, TCP_OPTIONS, HeaderField
from pktsim.netfilter.nft_lower import WRITABLE_FIELDS
from pktsim.netfilter.ruleset import Family, Ruleset

#: What a cluster's node has, and a rule for each way in which the engine can be led astray.
RULES4: Final = """
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -d 169.254.20.10/32 -p udp -m udp --dport 53 -j CT --notrack
-A PREROUTING -p udp -m udp --dport 8472 -j CT --notrack
-A PREROUTING -m statistic --mode nth --every 7 --packet 3
-A OUTPUT -s 169.254.20.10/32 -j CT --notrack
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -m connmark ! --mark 0x0/0xff -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
-A PREROUTING -s 203.0.113.9/32 -j MARK --set-xmark 0x1/0xff
-A PREROUTING -m mark --mark 0x1/0xff -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -m length --length 0:60
-A POSTROUTING -m addrtype --dst-type LOCAL,BROADCAST,MULTICAST
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-WEB - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -d 172.30.0.2/32 -p tcp -j DNAT --to-destination 10.1.1.1-10.1.1.2:8000-8010
-A PREROUTING -d 198.51.100.7/32 -j DNAT --to-destination 10.1.2.1 --random
-A PREROUTING -d 192.168.0.11/32 -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 8443
-A PREROUTING -d 10.1.2.0/30 -p icmp -j NETMAP --to 10.1.1.0/30
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -s 10.1.1.2/32 -p udp -j SNAT --to-source 192.168.0.11:2000-2003
-A POSTROUTING -s 10.1.1.0/24 ! -d 10.0.0.0/8 -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-SVC-WEB
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SEP-A -s 10.1.1.1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.1.1.1:8080
-A KUBE-SEP-B -s 10.1.2.1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 10.1.2.1:8080
-A KUBE-SERVICES -d 172.30.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -d 172.30.0.10/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.1.2.2:53
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-WEB ! -s 10.1.0.0/16 -d 172.30.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-WEB -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
-A KUBE-SVC-WEB -j KUBE-SEP-B
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ALLOWED - [0:0]
:INDEXED - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m multiport --dports 1,20:30,443 -j REJECT --reject-with tcp-reset
-A INPUT -p udp -m udp --dport 123 -j REJECT --reject-with icmp-port-unreachable
-A INPUT -p sctp -m sctp --dport 80 -j DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -f -j ACCEPT
-A FORWARD -j INDEXED
-A FORWARD -g ALLOWED
-A FORWARD -d 172.30.0.0/24 -j REJECT --reject-with icmp-host-prohibited
-A OUTPUT -d 240.0.0.0/4 -j REJECT --reject-with icmp-net-unreachable
-A ALLOWED -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ALLOWED -i cni0 -m physdev --physdev-is-bridged -j ACCEPT
-A ALLOWED -m conntrack --ctstate NEW --ctstatus NONE -p udp -m udp --sport 0:10 -j DROP
-A INDEXED -d 10.1.1.1/32 -p tcp -m tcp --dport 8080 -j RETURN
-A INDEXED -d 10.1.1.2/32 -p udp -m udp --dport 53
-A INDEXED -d 10.1.1.77/32 -p icmp
-A INDEXED -d 10.1.2.1/32 -m mark --mark 0x1 -j RETURN
-A INDEXED -d 10.1.2.2/32 -p udp -m udp --dport 5353 -j RETURN
-A INDEXED -d 203.0.113.9/32
-A INDEXED -d 198.51.100.7/32 -j RETURN
-A INDEXED -d 192.168.0.12/32
-A INDEXED -p tcp -m tcp --dport 80
-A INDEXED -p udp -m udp --dport 53 -j RETURN
-A INDEXED -p tcp -m tcp --dport 8080
-A INDEXED -p tcp -m tcp --dport 1023
-A INDEXED -p udp -m udp --dport 8081
-A INDEXED -p sctp -m sctp --dport 80 -j RETURN
-A INDEXED -p udp -m udp --dport 0
-A INDEXED -p tcp -m tcp --dport 65535
COMMIT
*security
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"""
RULES6: Final = """
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d fd00:172:30::1/128 -p tcp -m tcp --dport 80 -j DNAT --to-destination [fd00:10:1:1::1]:8080
-A PREROUTING -d fd00:172:30::1/128 -p udp -j DNAT --to-destination fd00:10:1:2::1
-A POSTROUTING -s fd00:10:1:1::/64 ! -d fd00:10::/32 -j MASQUERADE --random-fully
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT
COMMIT
*security
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"""

#: Sets that rules look into and change, for ``ipset restore``.
IPSETS: Final = """
create pods hash:ip timeout 30 counters
add pods 10.1.1.1
add pods 10.1.2.1 timeout 3
create few hash:ip maxelem 3 timeout 2
create nets hash:net
add nets 10.1.0.0/16
add nets 10.1.2.0/24 nomatch
create macs hash:mac
add macs 02:00:00:00:01:00
create backends hash:ip,port timeout 5 counters
add backends 10.1.1.1,tcp:8080
create marks hash:ip,mark
add marks 10.1.1.1,1
create netports hash:net,port
add netports 10.1.0.0/16,udp:53
create ways hash:net,iface
add ways 10.1.1.0/24,cni0
create pairs hash:net,net timeout 4
add pairs 10.1.1.0/24,10.1.2.0/24
create loops hash:ip,port,ip timeout 4
add loops 10.1.1.1,tcp:8080,10.1.1.1
create three hash:ip,port,net
add three 10.1.1.1,tcp:8080,10.1.0.0/16
create nets3 hash:net,port,net
add nets3 10.1.0.0/16,tcp:8080,10.1.0.0/16
create ports bitmap:port range 0-65535 timeout 3
add ports 80-100
create low bitmap:ip range 10.1.1.0/24
add low 10.1.1.1-10.1.1.9
create all list:set
add all pods
add all nets
create pods6 hash:ip family inet6 timeout 10
add pods6 fd00:10:1:1::1
create ports6 hash:ip,port family inet6 timeout 10
"""

#: More rules of iptables: table, then the rule.
EXTRAS4: Final = tuple(
    """
raw -A PREROUTING -p udp -m udp --sport 40001 -j CT --zone 1
raw -A PREROUTING -s 10.1.1.0/24 -j CT --zone mark
raw -A PREROUTING -d 10.1.2.0/24 -p tcp -j CT --zone-orig 2
raw -A PREROUTING -s 10.1.2.0/24 -j CT --zone-reply 3
raw -A PREROUTING -s 203.0.113.9 -p tcp -j CT --zone-orig mark
raw -A PREROUTING -p icmp -m icmp --icmp-type 13 -j NOTRACK
raw -A PREROUTING -p udp -m udp --dport 0 -j CT
raw -A PREROUTING -j TRACE
raw -A PREROUTING -m rpfilter --validmark --loose --accept-local --invert
raw -A PREROUTING -m rpfilter --invert -j LOG
raw -A PREROUTING -p tcp -m tcp --dport 22 -m socket --nowildcard
raw -A PREROUTING -m pkttype --pkt-type broadcast
raw -A PREROUTING -d 10.1.1.1 -j TEE --gateway 10.1.1.2
raw -A PREROUTING -m set --match-set ports dst -j SET --add-set ports src --exist
raw -A PREROUTING -m connlimit --connlimit-above 3 --connlimit-mask 24
raw -A OUTPUT -p udp -m udp --dport 53 -j CT --zone 1
raw -A OUTPUT -m cpu --cpu 0
mangle -A PREROUTING -j CONNMARK --set-xmark 0x100/0xf00
mangle -A PREROUTING -m mark --mark 0 -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xffff --right-shift-mark 8
mangle -A PREROUTING -p tcp -m socket --transparent -j ACCEPT
mangle -A PREROUTING -p udp -m socket --restore-skmark
mangle -A PREROUTING -s 10.1.0.0/16 -j DSCP --set-dscp 0x2e
mangle -A PREROUTING -p tcp -j TOS --set-tos 0x10/0x3f
mangle -A PREROUTING -p icmp -j TTL --ttl-inc 3
mangle -A PREROUTING -m ttl --ttl-lt 2 -j TTL --ttl-set 64
mangle -A PREROUTING -m ttl --ttl-gt 64 -j TTL --ttl-dec 70
mangle -A PREROUTING -m ttl ! --ttl-eq 64
mangle -A PREROUTING -p tcp -j ECN --ecn-tcp-remove
mangle -A PREROUTING -p tcp -j TCPOPTSTRIP --strip-options timestamp,sack-permitted
mangle -A PREROUTING -m dscp ! --dscp 0x2e
mangle -A PREROUTING -m tos --tos 0x10/0x3f
mangle -A PREROUTING -m mac --mac-source 02:00:00:00:01:00
mangle -A PREROUTING -m recent --name seen --rsource --set
mangle -A PREROUTING -p udp -m recent --name seen --update --seconds 1 --hitcount 3 --rttl -j MARK --set-mark 7
mangle -A INPUT -p tcp -m ecn --ecn-tcp-ece --ecn-ip-ect 0
mangle -A INPUT -m connlabel --label 5 --set
mangle -A INPUT -m cgroup ! --cgroup 5
mangle -A INPUT -j CHECKSUM --checksum-fill
mangle -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
mangle -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 500
mangle -A FORWARD -p tcp -m tcpmss --mss 1:1000
mangle -A FORWARD -j CLASSIFY --set-class 1:2
mangle -A FORWARD -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff00 --left-shift-mark 8
mangle -A FORWARD -p tcp -m tcp --tcp-option 8 --syn
mangle -A FORWARD -p tcp -m tcp ! --tcp-option 2 ! --sport 80
mangle -A OUTPUT -m owner --uid-owner 0-10 --gid-owner 0
mangle -A OUTPUT -m owner --socket-exists -j MARK --set-mark 0x10
mangle -A OUTPUT -p udp -j MARK --set-mark 0x10
mangle -A OUTPUT -p tcp -j TOS --set-tos 0x08/0xff
mangle -A OUTPUT -p icmp -j MARK --set-mark 0x20
mangle -A POSTROUTING -m connlabel --label 5
mangle -A POSTROUTING -m realm ! --realm 5
mangle -A POSTROUTING -p tcp -j TCPOPTSTRIP --strip-options mss,wscale
mangle -A POSTROUTING -m connbytes --connbytes 3:9 --connbytes-dir both --connbytes-mode packets
mangle -A POSTROUTING -j TTL --ttl-set 9
nat -A PREROUTING -p tcp -m tcp --dport 22 -j DNAT --to-destination :8000-8005/22
nat -A PREROUTING -p udp -m udp --dport 8081 -j DNAT --to-destination 10.1.1.1-10.1.1.3 --persistent
nat -A PREROUTING -p udp -m udp --dport 53 -j REDIRECT --to-ports 53-55 --random
nat -A PREROUTING -p sctp -j DNAT --to-destination 10.1.1.1:7
nat -A PREROUTING -d 203.0.113.0/30 -j NETMAP --to 10.1.2.0/30
nat -A INPUT -s 10.1.1.1 -j SNAT --to-source 198.51.100.1
nat -A OUTPUT -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 8443
nat -A OUTPUT -d 10.1.2.0/30 -j NETMAP --to 10.1.1.0/30
nat -A POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-1030
nat -A POSTROUTING -p udp -j MASQUERADE --to-ports 1024 --random-fully
nat -A POSTROUTING -o eth0 -s 10.1.1.0/24 -j SNAT --to-source 192.168.0.11-192.168.0.14 --random --persistent
nat -A POSTROUTING -s 10.1.1.0/30 -j NETMAP --to 192.168.0.16/30
filter -A INPUT -p tcp -m state --state NEW -m connlimit --connlimit-above 2 -j REJECT --reject-with tcp-reset
filter -A INPUT -m nfacct --nfacct-name all
filter -A INPUT -p udp -m udp --dport 0 -j NFQUEUE --queue-num 1
filter -A INPUT -j NFQUEUE --queue-num 3 --queue-bypass
filter -A INPUT -p udp -m udp --dport 9 -j QUEUE
filter -A INPUT -m state --state NEW -m recent --name seen --rcheck --seconds 5 --reap
filter -A INPUT -m recent --name seen --remove --rdest
filter -A INPUT -p icmp -m limit --limit 3/sec --limit-burst 2 -j ACCEPT
filter -A INPUT -p icmp -m icmp --icmp-type any
filter -A FORWARD -m set --match-set pods src -j SET --add-set few dst --exist --timeout 3
filter -A FORWARD -m set ! --match-set nets dst --return-nomatch
filter -A FORWARD -m set --match-set nets dst
filter -A FORWARD -m set --match-set macs src
filter -A FORWARD -m set --match-set backends dst,dst -j SET --del-set backends dst,dst
filter -A FORWARD -j SET --add-set backends dst,dst --exist
filter -A FORWARD -m set --match-set marks src,src
filter -A FORWARD -m set --match-set netports dst,dst
filter -A FORWARD -m set --match-set ways src,src
filter -A FORWARD -m set --match-set pairs src,dst -j SET --add-set loops src,dst,src
filter -A FORWARD -m set --match-set loops src,dst,dst
filter -A FORWARD -m set --match-set three src,dst,dst
filter -A FORWARD -m set --match-set nets3 src,dst,dst
filter -A FORWARD -m set --match-set low src -j SET --add-set pairs src,dst --exist
filter -A FORWARD -m set --match-set all dst
filter -A FORWARD -m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 3 --hashlimit-mode srcip --hashlimit-name a
filter -A FORWARD -p tcp -m hashlimit --hashlimit-above 9/min --hashlimit-mode dstip,dstport,srcport --hashlimit-name b
filter -A FORWARD -m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0"
filter -A FORWARD -m bpf --bytecode "2,32 0 0 2000,22 0 0 0"
filter -A FORWARD -m u32 --u32 "0>>22&0x3C@12>>26&0x3C@0=0x47455420"
filter -A FORWARD -m u32 --u32 "6&0xFF=1,6&&4&0x1FFF=0&&0>>22&0x3C@0=0:0xffff"
filter -A FORWARD -m string --algo bm --string GET --from 20 --to 80
filter -A FORWARD -m string --algo kmp --hex-string "|0000|" --icase
filter -A FORWARD -m quota --quota 5000
filter -A FORWARD -m time --timestart 00:00 --timestop 12:00 --weekdays Mon,Thu
filter -A FORWARD -m policy --dir in --pol none
filter -A FORWARD -m devgroup --src-group 0
filter -A FORWARD -m iprange --src-range 10.1.1.0-10.1.1.9 ! --dst-range 10.1.2.1-10.1.2.9
filter -A FORWARD -p ah -m ah --ahspi 1:500
filter -A FORWARD -p esp -m esp --espspi 0:100
filter -A FORWARD -p ipcomp -m ipcomp --ipcompspi 0x12
filter -A FORWARD -m physdev --physdev-in pod0 ! --physdev-out pod+
filter -A FORWARD -m physdev ! --physdev-is-in
filter -A FORWARD -m connbytes --connbytes 100: --connbytes-dir original --connbytes-mode bytes
filter -A FORWARD -m connbytes --connbytes 50: --connbytes-dir reply --connbytes-mode avgpkt
filter -A FORWARD -m conntrack --ctproto tcp --ctorigsrc 10.1.1.0/24 --ctreplsrc 10.1.2.1 --ctdir ORIGINAL
filter -A FORWARD -m conntrack ! --ctorigdst 10.1.0.0/16 --ctorigdstport 80 ! --ctreplsrcport 8080:8081 --ctdir REPLY
filter -A FORWARD -m conntrack --ctexpire 1:100 --ctstatus ASSURED,SEEN_REPLY --ctstate DNAT,ESTABLISHED
filter -A FORWARD -p tcp -m multiport ! --ports 80,8080:8090
filter -A FORWARD -p udp -m multiport --sports 7,1000
filter -A FORWARD -m connmark --mark 0x100/0xf00 -m mark ! --mark 0x1
filter -A FORWARD -m addrtype --src-type UNICAST ! --dst-type LOCAL --limit-iface-out
filter -A FORWARD -m comment --comment "nothing to see" -j AUDIT --type accept
filter -A FORWARD -p tcp -m tcp --dport 1000 -j TEE --gateway 192.168.0.1
filter -A FORWARD -m statistic --mode random --probability 0.05 -j TEE --gateway 10.1.1.1 --oif cni0
filter -A FORWARD -m statistic --mode random --probability 0.02 -j REJECT --reject-with icmp-admin-prohibited
filter -A FORWARD -p tcp -m statistic --mode random --probability 0.02 -j REJECT --reject-with tcp-reset
filter -A FORWARD -p udp -m statistic --mode nth --every 30 --packet 0 -j DROP
filter -A FORWARD -j NFLOG --nflog-group 1
filter -A FORWARD -j IDLETIMER --timeout 5 --label idle
filter -A OUTPUT -m statistic --mode random --probability 0.05 -j REJECT
filter -A OUTPUT -m statistic --mode random --probability 0.05 -j TEE --gateway 10.1.1.2
filter -A OUTPUT -m addrtype --dst-type BROADCAST,ANYCAST,MULTICAST,UNREACHABLE
security -A FORWARD -p icmp -m icmp --icmp-type 3/4
security -A FORWARD -m length ! --length 100:1500
security -A INPUT -m pkttype ! --pkt-type unicast
security -A OUTPUT -j LOG --log-prefix "out "
""".strip().splitlines()
)
EXTRAS6: Final = tuple(
    """
raw -A PREROUTING -p udp -m udp --sport 40001 -j CT --zone 1
raw -A PREROUTING -s fd00:10:1:1::/64 -j CT --zone mark
raw -A PREROUTING -p ipv6-icmp -m icmp6 --icmpv6-type 129 -j NOTRACK
raw -A PREROUTING -m rpfilter --loose --invert
raw -A PREROUTING -m eui64
raw -A PREROUTING -d fd00:10:1:1::1 -j TEE --gateway fd00:10:1:1::2
raw -A PREROUTING -j TRACE
raw -A PREROUTING -m connlimit --connlimit-above 3 --connlimit-mask 64
raw -A OUTPUT -j CT --zone-orig 4
mangle -A PREROUTING -j HL --hl-inc 2
mangle -A PREROUTING -m hl --hl-lt 2 -j HL --hl-set 9
mangle -A PREROUTING -m hl --hl-gt 100 -j HL --hl-dec 60
mangle -A PREROUTING -j DSCP --set-dscp 0x0a
mangle -A PREROUTING -j TOS --set-tos 0xff/0xff
mangle -A PREROUTING -m dscp --dscp 0
mangle -A PREROUTING -p tcp -j TCPOPTSTRIP --strip-options timestamp
mangle -A PREROUTING -p tcp -m socket
mangle -A PREROUTING -j CONNMARK --set-xmark 0x1/0x1
mangle -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 400
mangle -A FORWARD -m ecn ! --ecn-ip-ect 0
mangle -A OUTPUT -p udp -j MARK --set-mark 0x10
nat -A PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9000-9003
nat -A PREROUTING -d fd00:10:1:2::/64 -j NETMAP --to fd00:10:1:1::/64
nat -A OUTPUT -p udp -j REDIRECT --to-ports 53
nat -A POSTROUTING -p udp -j MASQUERADE --to-ports 1024-1030
nat -A POSTROUTING -s fd00:10:1:1::1 -j SNAT --to-source fd00:192:168::11-fd00:192:168::14 --random
filter -A INPUT -m hbh --hbh-len 8
filter -A INPUT -m dst --dst-opts 1:4
filter -A INPUT -p udp -m udp --dport 0 -j NFQUEUE
filter -A FORWARD -m frag --fragid 1:5 --fragmore
filter -A FORWARD -m frag --fragid 0:3 --fraglast
filter -A FORWARD -m frag --fragres --fragfirst
filter -A FORWARD -m rt --rt-type 0 --rt-segsleft 1:3 --rt-len 40
filter -A FORWARD -m rt --rt-type 0 --rt-0-res --rt-0-addrs fd00::1,fd00::2 --rt-0-not-strict
filter -A FORWARD -m rt ! --rt-type 0
filter -A FORWARD -m ah --ahspi 1:500 ! --ahlen 24 --ahres
filter -A FORWARD -m hbh --hbh-opts 1:4,5
filter -A FORWARD -m dst ! --dst-len 8
filter -A FORWARD -m ipv6header --header hop,frag --soft
filter -A FORWARD -m ipv6header ! --header dst,auth
filter -A FORWARD -m eui64
filter -A FORWARD -m set --match-set pods6 src -j SET --add-set ports6 dst,dst --exist
filter -A FORWARD -m set --match-set ports6 dst,dst -j SET --del-set pods6 src
filter -A FORWARD -m hashlimit --hashlimit-upto 5/sec --hashlimit-mode srcip --hashlimit-name c
filter -A FORWARD -m addrtype --dst-type LOCAL
filter -A FORWARD -m conntrack --ctproto tcp --ctorigdst fd00:172:30::1 --ctdir ORIGINAL
filter -A FORWARD -p tcp -m conntrack --ctstate NEW,ESTABLISHED -m connlimit --connlimit-above 1 --connlimit-mask 64
filter -A FORWARD -p esp -m esp --espspi 0:100
filter -A FORWARD -m u32 --u32 "4&0xFF00=0x1100:0x3a00&&40=0"
filter -A FORWARD -m string --algo bm --string GET
filter -A FORWARD -m statistic --mode random --probability 0.02 -j REJECT
filter -A FORWARD -p tcp -m statistic --mode random --probability 0.02 -j REJECT --reject-with tcp-reset
filter -A FORWARD -p tcp -m multiport --dports 80,8080
filter -A FORWARD -p ipv6-icmp -m icmp6 ! --icmpv6-type 1/4
filter -A OUTPUT -m statistic --mode random --probability 0.05 -j TEE --gateway fd00:192:168::12
filter -A OUTPUT -m statistic --mode random --probability 0.05 -j REJECT --reject-with icmp6-adm-prohibited
security -A FORWARD -p sctp -m sctp --sport 0:100
""".strip().splitlines()
)

#: nft's sets of every kind, and the objects.
NFT_SETS: Final = """
    set boxes { type ipv4_addr . inet_service; flags interval; counter
        elements = { 10.0.0.0/8 . 1-9000, 172.30.0.1 . 80 } }
    set nets { type ipv6_addr; flags interval; elements = { fd00::/16, fe80::1-fe80::ff } }
    set names { type ifname; elements = { "eth0", "pod0" } }
    set hosts { type ipv4_addr; timeout 2s; elements = { 10.1.1.1, 10.1.2.1 timeout 9s } }
    set seen { type ipv4_addr . inet_proto; flags dynamic,timeout; timeout 5s; size 20; }
    set limited { type ipv6_addr; flags dynamic; size 9; }
    set counted { type ipv4_addr; flags dynamic,timeout; size 5; counter; }
    set spent { type ipv4_addr . inet_service . ipv4_addr . inet_service; flags dynamic; size 30; }
    set six { type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags dynamic,timeout; timeout 1s; size 30; }
    map services { type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 172.30.0.1 . tcp . 80 : goto web, 10.1.1.1 . tcp . 8080 : jump deep } }
    map marks { type inet_service : mark; flags interval; elements = { 0-1023 : 0x1, 1024-65535 : 0x2 } }
    map learnt { type ipv4_addr : mark; flags dynamic,timeout; timeout 3s; size 9; }
    map ends { type ipv4_addr . inet_service : ipv4_addr . inet_service
        elements = { 172.30.0.1 . 80 : 10.1.1.1 . 8080 } }
    map nets_to { type ipv4_addr : ipv4_addr; flags interval; elements = { 10.1.2.0/24 : 10.1.1.1 } }
    counter all { }
    quota much { over 20 kbytes }
    limit often { rate over 20/second burst 9 packets }
"""
#: Where nft's chains are hooked in, and what may be in each; those without a hook are led to.
NFT_CHAINS: Final = {
    "web": "",
    "deep": "",
    "raw": "type filter hook prerouting priority -500",
    "early": "type filter hook prerouting priority -310",
    "late": "type filter hook prerouting priority -50",
    "pre": "type nat hook prerouting priority dstnat - 1",
    "in": "type filter hook input priority 5",
    "nat_in": "type nat hook input priority 90",
    "forward": "type filter hook forward priority 10",
    "mangle": "type route hook output priority mangle",
    "nat_out": "type nat hook output priority -90",
    "output": "type filter hook output priority 20",
    "last": "type filter hook postrouting priority 90",
    "post": "type nat hook postrouting priority srcnat + 1",
}

#: A value of each data type, where 0 is none.
_VALUES: Final = {
    "ipv4_addr": "10.1.1.1",
    "ipv6_addr": "fd00:10:1:1::1",
    "ether_addr": "02:00:00:00:01:00",
    "ifname": '"eth0"',
    "iface_index": '"lo"',
    "string": '"ftp"',
    "iface_type": "ether",
    "nf_proto": "ipv4",
    "classid": "1:2",
    "pkt_type": "host",
    "ct_state": "new",
    "ct_dir": "original",
    "ct_status": "assured",
    "time": "10s",
    "ct_label": "5",
}


def _value(field: HeaderField) -> str:
    return _VALUES.get(field.datatype.name, "1")


def _field_rules() -> tuple[str, ...]:
    """A comparison with each field that nft's tables have."""
    found = []
    for protocol in PROTOCOLS.values():
        found += [f"{protocol.name} {name} != {_value(field)} counter" for name, field in protocol.fields.items()]
    for header, (_, fields) in EXTENSION_HEADERS.items():
        found += [f"{header} {name} {_value(field)} counter" for name, field in fields.items()]
        found.append(f"exthdr {header} exists counter")
    for option, (_, fields) in TCP_OPTIONS.items():
        found += [f"tcp option {option} {name} != {_value(field)} counter" for name, field in fields.items()]
        found.append(f"tcp option {option} missing counter")
    for key, (_, datatype, _) in META.items():
        found.append(f"meta {key} {_VALUES.get(datatype.name, '1')} counter")
    for key, (_, datatype, _) in CT.items():
        value = _VALUES.get(datatype.name, "1")
        ways = ("original ", "reply ") if key in CT_DIRECTED else ("",)
        found += [f"meta l4proto tcp ct {way}{key} {value} counter" for way in ways]
    found += [f"ct {way} {key} > 1 counter" for way in ("original", "reply") for key in ("packets", "bytes", "avgpkt")]
    return tuple(found)


def _write_rules() -> tuple[str, ...]:
    """A write to each field that may be written, now and then: what it spoils shall not be all there is."""
    found = []
    for protocol, fields in WRITABLE_FIELDS.items():
        for name in sorted(fields):
            value = _value(PROTOCOLS[protocol].fields[name])
            found.append(f"numgen random mod 4 0 {protocol} {name} set {value}")
    return tuple(found)


FIELDS: Final = _field_rules()
WRITES: Final = _write_rules()

#: More rules of nft: those that may stand in any chain,
NFT_ANYWHERE: Final = (
    *("ip daddr . th dport @boxes counter", "ip6 saddr @nets counter", "iifname @names counter"),
    *("ip saddr @hosts counter", "ip saddr != @hosts", 'counter name "all"', 'quota name "much"', 'limit name "often"'),
    "update @seen { ip saddr . ip protocol }",
    "delete @seen { ip daddr . ip protocol }",
    "add @seen { ip saddr . ip protocol timeout 1s }",
    "update @limited { ip6 saddr limit rate 2/second }",
    "update @counted { ip saddr timeout 1s counter }",
    "add @counted { ip daddr counter }",
    "delete @counted { ip saddr }",
    "add @spent { ip saddr . th sport . ip daddr . th dport quota over 500 bytes } counter",
    "add @six { ip6 saddr . ip6 daddr . meta l4proto . th dport }",
    "delete @six { ip6 daddr . ip6 saddr . meta l4proto . th sport }",
    "add @learnt { ip saddr : meta mark }",
    "update @learnt { ip saddr : 0x7 }",
    "meta mark set ip saddr map @learnt",
    "meta mark set th dport map @marks",
    "meta mark set tcp dport map { 80 : 0x1, 8080 : 0x2, * : 0x3 }",
    "meta mark set numgen inc mod 3",
    "meta mark set ct mark | 0x4",
    "meta mark set meta mark & 0xff ^ 0x5",
    "meta mark set jhash ip saddr . meta mark mod 4",
    "meta mark 0x1-0x4 counter",
    "meta mark != 0x1-0x4 counter",
    "meta length 0-65535 counter",
    "ct mark set meta mark",
    "ct mark set 0x10",
    "ct mark set tcp dport map { 80 : 1, 90-100 : 2 }",
    "ct state . ct mark { new . 1, established . 2 } counter",
    "ct state vmap { invalid : continue, new : jump deep }",
    "ct original ip daddr 10.0.0.0/8 counter",
    "ct expiration < 30s counter",
    "ct zone 1 counter",
    "ct original zone 2 counter",
    "fib daddr type local counter",
    "fib daddr type vmap { local : continue, multicast : return }",
    "jhash ip saddr . tcp sport mod 7 seed 0x1 < 3 counter",
    "jhash ip6 saddr . ip6 daddr mod 5 offset 3 4 counter",
    "symhash mod 2 0 counter",
    "numgen random mod 9 8 counter",
    "tcp flags & (syn|ack) == syn counter",
    "tcp flags ! fin,rst counter",
    "ip frag-off & 0x1fff != 0 counter",
    "ip saddr & 255.255.0.255 == 10.1.0.1 counter",
    "ip saddr >= 10.1.1.2 counter",
    "ip saddr <= 10.1.1.2 tcp dport < 81 tcp sport > 5 counter",
    "meta mark set meta mark << 2",
    "meta mark set ct mark >> 3",
    "@th,0,64 0 counter",
    "@nh,64,128 0 counter",
    "@ll,0,48 0x020000000001 counter",
    "@th,160,32 0x01020304 counter",
    "meta mark & 0x3 << 1 == 0x2 counter",
    "ip saddr . ip daddr . tcp sport . tcp dport { 10.1.1.1 . 10.1.2.1 . 40000 . 8080 } counter",
    "ip6 saddr . ip6 daddr { fd00::/16 . fe80::/10, fd00:10:1:1::1 . fd00::-fdff:: } counter",
    "tcp option maxseg size set 500",
    "limit rate 5/second counter",
    "limit rate over 1 kbytes/second burst 2 kbytes counter",
    "quota over 5 kbytes counter",
    "quota until 9 kbytes counter",
    'log prefix "x"',
    "numgen inc mod 40 0 drop",
    "numgen inc mod 40 1 accept",
    "numgen inc mod 40 2 return",
    "numgen inc mod 40 3 goto deep",
    "meta priority 1:2 counter",
    "ether saddr . ip saddr { 02:00:00:00:00:01 . 10.0.0.1 } drop",
    "icmpv6 type nd-neighbor-solicit counter",
    "icmp type . icmp code { 3 . 1, 8 . 0 } counter",
    "frag id 1 frag more-fragments 1 counter",
)
#: ... those only where a packet has come in,
NFT_INCOMING: Final = (
    "fib saddr . iif oif missing counter",
    "fib saddr . mark . iif oif exists counter",
    'fib daddr oifname "eth0" counter',
    'fib daddr . iif oif "lo" counter',
    "fib saddr . iif type unicast counter",
)
#: ... and those of one chain.
NFT_EXTRAS: Final = {
    "web": ("counter", "numgen random mod 3 vmap { 0 : return, 1 : accept, 2 : jump deep }"),
    "deep": ("ip dscp set ef", "ip6 hoplimit set 9", "meta mark set th dport map @marks", "return"),
    "raw": ("@th,0,64 0 drop", "udp sport 40001 notrack", "ct zone set 5", "udp dport 8081 ct original zone set 6"),
    "early": ("tcp sport 40000 ct reply zone set 7", "rt ip nexthop 10.1.1.1 counter"),
    "late": ("ip daddr . meta l4proto . th dport vmap @services",),
    "pre": (
        "ip daddr . meta l4proto . th dport vmap @services",
        "meta l4proto { tcp, udp } dnat ip to ip daddr . th dport map { 10.1.1.1 . 53 : 10.1.2.1 . 5353 }",
        "meta l4proto tcp dnat ip to ip daddr . th dport map @ends",
        "dnat ip to ip daddr map @nets_to",
        "dnat ip to ip saddr map { 203.0.113.0/24 : 10.1.1.1-10.1.1.2, 10.9.0.0/16 : 10.1.1.3 }",
        "ip daddr 172.30.0.2 dnat ip to 10.1.1.1-10.1.1.2 persistent",
        "tcp dport 8080 redirect to :tcp dport map { 8080 : 8443 }",
        "udp dport 123 redirect",
        "ip6 daddr fd00:172:30::1 tcp dport 80 dnat ip6 to [fd00:10:1:1::1]:8080-8090",
        "dnat ip6 to fd00:10:1:1::1",
        "tcp dport 22 dnat ip to numgen inc mod 2 map { 0 : 10.1.1.1, 1 : 10.1.2.1 }:8080",
        "udp dport 53 dnat to :5353",
    ),
    "in": ("udp dport 53 reject", "tcp dport 22 reject with tcp reset", "ct state new counter", "meta skuid 0 counter"),
    "nat_in": ("snat ip to 10.1.1.254", "ip6 saddr fd00:10:1:1::1 snat ip6 to fd00:192:168::11"),
    "forward": (
        "rt ip nexthop 10.1.1.1 counter",
        "rt ip6 nexthop fd00:10:1:1::1 counter",
        "numgen random mod 30 0 reject",
        "numgen random mod 30 1 meta l4proto tcp reject with tcp reset",
        "numgen random mod 30 2 reject with icmp admin-prohibited",
        "numgen random mod 30 3 reject with icmpv6 no-route",
        "numgen random mod 30 4 reject with icmpx host-unreachable",
        "limit rate over 50/second burst 30 packets reject",
        "tcp dport set 81",
        "ip saddr set 10.1.1.1",
    ),
    "mangle": ("ip ttl > 5 meta mark set ct mark | 0x4", "udp dport 53 meta mark set 0x10", "ip dscp set cs1"),
    "nat_out": ("ip daddr 10.1.2.1 dnat ip to 10.1.1.1", "tcp dport 8080 redirect to :8443"),
    "output": ("meta skuid 0 counter", "meta skgid 1-5 counter", "udp dport 123 reject", "tcp window set 9"),
    "last": ("ip ttl set 7", "rt ip nexthop 192.168.0.1 counter"),
    "post": (
        "meta mark & 0x4 == 0x4 masquerade random",
        "meta l4proto tcp masquerade to :1024-1030",
        'oifname "eth0" snat ip to ip saddr map { 10.1.1.0/24 : 192.168.0.11 }',
        "meta l4proto udp snat ip to 192.168.0.11-192.168.0.12:2000-2002 fully-random",
        "masquerade persistent",
    ),
}  # fmt: skip
#: In which chains rules that look at anything, or write to it, stand.
_INCOMING: Final = ("raw", "early", "late", "in", "forward")
_ROOMY: Final = (*_INCOMING, "web", "pre", "mangle", "output", "last")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a namespace has: iptables' rules of both families, nft's script (empty: none)."""

    rulesets: tuple[Ruleset, ...]
    nft: str


def with_extras(base: str, extras: list[str], family: Family) -> Ruleset:
    """The tables with more rules, each before all that its chain has, or behind it, in turns."""
    lines = base.strip().splitlines()
    for number, extra in enumerate(extras):
        table, rule = extra.split(" ", 1)
        start = lines.index(f"*{table}")
        end = lines.index("COMMIT", start)
        if number % 2:
            end = next(at for at in range(start + 1, end + 1) if not lines[at].startswith(":"))
        lines.insert(end, rule)
    return parse_save("\n".join(lines) + "\n", family)


def nft_text(chains: dict[str, list[str]]) -> str:
    """A script that puts these rules in the place of what there is."""
    lines = ["flush ruleset", "table inet fuzz {", NFT_SETS]
    for name, hook in NFT_CHAINS.items():
        lines += [f"chain {name} {{", f"{hook};" * bool(hook), *chains.get(name, ()), "}"]
    return "\n".join([*lines, "}", ""])


def everything() -> Rules:
    """All rules at once."""
    chains = {name: list(NFT_EXTRAS[name]) for name in NFT_CHAINS}
    chains["early"] += (*NFT_ANYWHERE, *NFT_INCOMING, *FIELDS, *WRITES)
    return Rules(
        (with_extras(RULES4, list(EXTRAS4), Family.IPV4), with_extras(RULES6, list(EXTRAS6), Family.IPV6)),
        nft_text(chains),
    )


@functools.lru_cache(maxsize=256)
def draw(number: int, *, writes: bool = True) -> Rules:
    """Some of the rules, the same ones for the same number; ``writes``: also those that leave wrong checksums."""
    rng = random.Random(number)

    def some(rules: tuple[str, ...], most: int) -> list[str]:
        return rng.sample(rules, min(len(rules), rng.choice((0, most // 4, most // 2, most))))

    rulesets = (
        with_extras(RULES4, some(EXTRAS4, 30), Family.IPV4),
        with_extras(RULES6, some(EXTRAS6, 12), Family.IPV6),
    )
    if rng.random() < 0.3:
        return Rules(rulesets, "")
    chains: dict[str, list[str]] = {name: some(NFT_EXTRAS[name], 4) for name in NFT_CHAINS}
    for rule in (*some(NFT_ANYWHERE, 30), *some(FIELDS, 30), *some(WRITES if writes else (), 6)):
        chains[rng.choice(_ROOMY)].append(rule)
    for rule in some(NFT_INCOMING, 4):
        chains[rng.choice(_INCOMING)].append(rule)
    for rules in chains.values():
        rng.shuffle(rules)
    return Rules(rulesets, nft_text(chains))
