"""Rules as people write them, and what the save tool of iptables 1.8.9 (legacy) then prints; or nothing: it is refused.

Not from the manual: each row was loaded on a real kernel, and ``tests/live`` does so again. ``given`` are lines of a
restore file between the table's name and COMMIT; ``saved`` are the rules that are printed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pktsim.netfilter.ruleset import Family


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    given: tuple[str, ...]
    saved: tuple[str, ...] | None
    table: str = "filter"
    family: Family = Family.IPV4


def _ok(name: str, given: str, saved: str, table: str = "filter", family: Family = Family.IPV4) -> Case:
    return Case(name, tuple(given.split("\n")), tuple(saved.split("\n")) if saved else (), table, family)


def _no(name: str, given: str, table: str = "filter", family: Family = Family.IPV4) -> Case:
    return Case(name, tuple(given.split("\n")), None, table, family)


V6 = Family.IPV6

CASES: tuple[Case, ...] = (
    # the rule's own options
    _ok("bare address", "-A INPUT -s 10.0.0.1 -j ACCEPT", "-A INPUT -s 10.0.0.1/32 -j ACCEPT"),
    _ok("host bits", "-A INPUT -s 10.1.2.3/8", "-A INPUT -s 10.0.0.0/8"),
    _ok("mask in full", "-A INPUT -s 10.1.2.3/255.255.0.0", "-A INPUT -s 10.1.0.0/16"),
    _ok("mask with holes", "-A INPUT -s 10.1.2.3/255.0.255.0", "-A INPUT -s 10.0.2.0/255.0.255.0"),
    _ok("short address", "-A INPUT -s 10.1/16", "-A INPUT -s 10.1.0.0/16"),
    _ok("any address", "-A INPUT -s 0.0.0.0/0 -d 10.0.0.1/0", "-A INPUT"),
    _ok("not any address", "-A INPUT ! -s 0.0.0.0/0", "-A INPUT ! -s 0.0.0.0/0"),
    _ok("several addresses", "-A INPUT -s 10.0.0.1,10.0.0.2/31", "-A INPUT -s 10.0.0.1/32\n-A INPUT -s 10.0.0.2/31"),
    _ok(
        "all pairs",
        "-A INPUT -s 1.0.0.1,1.0.0.2 -d 2.0.0.1,2.0.0.2",
        "-A INPUT -s 1.0.0.1/32 -d 2.0.0.1/32\n-A INPUT -s 1.0.0.1/32 -d 2.0.0.2/32\n"
        "-A INPUT -s 1.0.0.2/32 -d 2.0.0.1/32\n-A INPUT -s 1.0.0.2/32 -d 2.0.0.2/32",
    ),
    _no("several addresses inverted", "-A INPUT ! -s 10.0.0.1,10.0.0.2"),
    _no("bad mask", "-A INPUT -s 10.0.0.0/33"),
    _no("address of the other family", "-A INPUT -s fd00::1"),
    _no("source twice", "-A INPUT -s 10.0.0.1 -s 10.0.0.2"),
    _ok("IPv6 address", "-A INPUT -s FD00:0:0::1", "-A INPUT -s fd00::1/128", family=V6),
    _ok("IPv6 prefix", "-A INPUT -d fd00::ffff/112", "-A INPUT -d fd00::/112", family=V6),
    _ok("IPv6 mask with holes", "-A INPUT -s fd00::1/ffff::ffff", "-A INPUT -s fd00::1/ffff::ffff", family=V6),
    _ok("mapped IPv4", "-A INPUT -s ::ffff:10.0.0.1", "-A INPUT -s ::ffff:10.0.0.1/128", family=V6),
    _ok(
        "order of the header",
        "-A FORWARD -p udp -o b -i a -d 1.1.1.1 -s 2.2.2.2 -f",
        "-A FORWARD -s 2.2.2.2/32 -d 1.1.1.1/32 -i a -o b -p udp -f",
    ),
    _ok("not a fragment", "-A INPUT ! -f", "-A INPUT ! -f"),
    _no("fragments in IPv6", "-A INPUT -f", family=V6),
    _ok("protocol by number", "-A INPUT -p 6", "-A INPUT -p tcp"),
    _ok("protocol in capitals", "-A INPUT -p UDP", "-A INPUT -p udp"),
    _ok("protocol without a name", "-A INPUT -p 253", "-A INPUT -p 253"),
    _ok("protocol 4", "-A INPUT -p 4", "-A INPUT -p ipencap"),
    _ok("protocol 94", "-A INPUT -p ipip", "-A INPUT -p ipip"),
    _ok("every protocol", "-A INPUT -p all", "-A INPUT"),
    _no("no protocol", "-A INPUT ! -p all"),
    _no("protocol out of range", "-A INPUT -p 256"),
    _ok("interface wildcard", "-A INPUT -i eth+", "-A INPUT -i eth+"),
    _ok("any interface", "-A INPUT -i +", "-A INPUT"),
    _no("interface name too long", "-A INPUT -i abcdefghijklmnop"),
    _no("egress interface in INPUT", "-A INPUT -o eth0"),
    _no("ingress interface in OUTPUT", "-A OUTPUT -i eth0"),
    _ok(
        "long names",
        "--append INPUT --protocol tcp --source 10.0.0.1 --jump ACCEPT",
        "-A INPUT -s 10.0.0.1/32 -p tcp -j ACCEPT",
    ),
    _ok(
        "names cut short",
        "--app INPUT --proto tcp --src 10.0.0.1 --ju ACCEPT",
        "-A INPUT -s 10.0.0.1/32 -p tcp -j ACCEPT",
    ),
    _ok("chain attached", "-AINPUT -p tcp", "-A INPUT -p tcp"),
    _no("protocol attached", "-A INPUT -ptcp"),
    _no("address attached", "-A INPUT -s10.0.0.1"),
    _no("target attached", "-A INPUT -jACCEPT"),
    _ok("equals signs", "--append=INPUT -p tcp --match=tcp --dport=80", "-A INPUT -p tcp -m tcp --dport 80"),
    _no("equals sign of a source", "-A INPUT --source=10.0.0.1"),
    _no("two commands", "-A INPUT -A OUTPUT"),
    _no("no command", "-p tcp"),
    _no("a word too many", "-A INPUT foo"),
    _no("exclamation mark at the end", "-A INPUT -p tcp !"),
    _no("two exclamation marks", "-A INPUT ! ! -p tcp"),
    _no("table named", "-t nat -A INPUT"),
    _ok("no target", "-A INPUT", "-A INPUT"),
    _no("chain that is not there", "-A NOWHERE -j ACCEPT"),
    _no("target that is not there", "-A INPUT -j NOWHERE"),
    _no("match that is not there", "-A INPUT -m nowhere"),
    _no("chain declared too late", "-A INPUT -j C\n:C - [0:0]"),
    _no("chain declared twice", ":C - [0:0]\n:C - [0:0]"),
    _no("jump to a built-in chain", "-A INPUT -j FORWARD"),
    _no("user chain with a policy", ":C ACCEPT [0:0]"),
    _no("policy RETURN", ":INPUT RETURN [0:0]"),
    _no("chain name too long", ":ABCDEFGHIJKLMNOPQRSTUVWXYZ012 - [0:0]"),
    _ok(
        "longest chain name",
        ":ABCDEFGHIJKLMNOPQRSTUVWXYZ01 - [0:0]\n-A INPUT -j ABCDEFGHIJKLMNOPQRSTUVWXYZ01",
        "-A INPUT -j ABCDEFGHIJKLMNOPQRSTUVWXYZ01",
    ),
    _ok("goto", ":C - [0:0]\n-A INPUT -g C", "-A INPUT -g C"),
    _ok(
        "chains in order of bytes",
        ":b - [0:0]\n:B - [0:0]\n:a - [0:0]\n-A a -j ACCEPT\n-A b -j DROP\n-A B -j RETURN",
        "-A B -j RETURN\n-A a -j ACCEPT\n-A b -j DROP",
    ),
    _no("loop of two", ":A - [0:0]\n:B - [0:0]\n-A INPUT -j A\n-A A -j B\n-A B -j A"),
    _no("loop of one", ":A - [0:0]\n-A INPUT -j A\n-A A -j A"),
    _no("loop of gotos", ":A - [0:0]\n:B - [0:0]\n-A INPUT -j A\n-A A -g B\n-A B -g A"),
    _ok("insert", "-A INPUT -j DROP\n-I INPUT -j ACCEPT", "-A INPUT -j ACCEPT\n-A INPUT -j DROP"),
    _ok(
        "insert at",
        "-A INPUT -j DROP\n-A INPUT -j DROP\n-I INPUT 2 -j ACCEPT",
        "-A INPUT -j DROP\n-A INPUT -j ACCEPT\n-A INPUT -j DROP",
    ),
    _ok("insert several", "-I INPUT -s 1.0.0.1,1.0.0.2", "-A INPUT -s 1.0.0.2/32\n-A INPUT -s 1.0.0.1/32"),
    _no("insert too far", "-A INPUT -j DROP\n-I INPUT 3 -j ACCEPT"),
    _ok("delete", "-A INPUT -j DROP\n-A INPUT -p 6 -j ACCEPT\n-D INPUT -p tcp -j ACCEPT", "-A INPUT -j DROP"),
    _ok("delete by number", "-A INPUT -j DROP\n-A INPUT -j ACCEPT\n-D INPUT 1", "-A INPUT -j ACCEPT"),
    _no("delete what is not there", "-A INPUT -j DROP\n-D INPUT -j ACCEPT"),
    _ok("replace", "-A INPUT -j DROP\n-R INPUT 1 -j ACCEPT", "-A INPUT -j ACCEPT"),
    _ok("new chain, rename", "-N C\n-A INPUT -j C\n-E C D", "-A INPUT -j D"),
    _no("delete a chain in use", "-N C\n-A INPUT -j C\n-X C"),
    _no("delete a chain with rules", "-N C\n-A C -j ACCEPT\n-X C"),
    _ok("flush, delete chain", "-N C\n-A C -j ACCEPT\n-F C\n-X C", ""),
    _ok("declared chain named like a target", ":LOG - [0:0]\n-A INPUT -j LOG", "-A INPUT -j LOG"),
    _no("new chain named like a target", "-N LOG"),
    _no("new chain named like an option", "-N -C"),
    _ok("DROP in nat by policy of filter", "-P INPUT DROP\n-A INPUT -j DROP", "-A INPUT -j DROP"),
    _no("DROP in nat", "-A PREROUTING -j DROP", "nat"),
    # quotes
    _ok("bare comment", "-A INPUT -m comment --comment foo-bar_1", "-A INPUT -m comment --comment foo-bar_1"),
    _ok("needless quotes", '-A INPUT -m comment --comment "foo"', "-A INPUT -m comment --comment foo"),
    _ok("comment with a blank", '-A INPUT -m comment --comment "a b"', '-A INPUT -m comment --comment "a b"'),
    _ok(
        "comment with escapes",
        r'-A INPUT -m comment --comment "a\"b\\c\'d"',
        r'-A INPUT -m comment --comment "a\"b\\c\'d"',
    ),
    _ok(
        "single quotes hold nothing together",
        "-A INPUT -m comment --comment it's",
        r'-A INPUT -m comment --comment "it\'s"',
    ),
    _no("single quotes around a blank", "-A INPUT -m comment --comment 'a b'"),
    _ok("empty comment", '-A INPUT -m comment --comment "" -j ACCEPT', '-A INPUT -m comment --comment "" -j ACCEPT'),
    _ok(
        "comment like an option",
        "-A INPUT -m comment --comment -j -j ACCEPT",
        "-A INPUT -m comment --comment -j -j ACCEPT",
    ),
    _ok(
        "quoted comment like an option",
        '-A INPUT -m comment --comment "-j" -j ACCEPT',
        "-A INPUT -m comment --comment -j -j ACCEPT",
    ),
    _ok("comment of 255", "-A INPUT -m comment --comment " + "x" * 255, "-A INPUT -m comment --comment " + "x" * 255),
    _ok("comment of 256", f"-A INPUT -m comment --comment {'x' * 256}", f"-A INPUT -m comment --comment {'x' * 255}"),
    _ok("tabs", "-A\tINPUT\t-p  tcp", "-A INPUT -p tcp"),
    # protocols' matches
    _ok("implied match", "-A INPUT -p tcp --dport 80", "-A INPUT -p tcp -m tcp --dport 80"),
    _ok("implied match by number", "-A INPUT -p 17 --sport 53", "-A INPUT -p udp -m udp --sport 53"),
    _ok(
        "implied behind another",
        "-A INPUT -p tcp -m comment --comment x --dport 80 -j ACCEPT",
        "-A INPUT -p tcp -m comment --comment x -m tcp --dport 80 -j ACCEPT",
    ),
    _no("implied before the protocol", "-A INPUT --dport 80 -p tcp"),
    _no("implied with nothing", "-A INPUT --dport 80"),
    _ok("match without options", "-A INPUT -p tcp -m tcp", "-A INPUT -p tcp -m tcp"),
    _no("match without its protocol", "-A INPUT -m tcp --dport 80"),
    _no("match with another protocol", "-A INPUT -p udp -m tcp --dport 80"),
    _no("match with its protocol inverted", "-A INPUT ! -p tcp -m tcp --dport 80"),
    _ok(
        "service names",
        "-A INPUT -p tcp --sport http --dport ssh:https",
        "-A INPUT -p tcp -m tcp --sport 80 --dport 22:443",
    ),
    _ok("open range", "-A INPUT -p tcp --dport 1024:", "-A INPUT -p tcp -m tcp --dport 1024:65535"),
    _ok("all ports", "-A INPUT -p tcp --dport 0:65535 --sport :", "-A INPUT -p tcp -m tcp"),
    _no("range upside down", "-A INPUT -p tcp --dport 80:22"),
    _ok("range upside down for udp", "-A INPUT -p udp --dport 80:22", "-A INPUT -p udp -m udp --dport 80:22"),
    _no("port out of range", "-A INPUT -p tcp --dport 65536"),
    _ok("hex port", "-A INPUT -p tcp --dport 0x50", "-A INPUT -p tcp -m tcp --dport 80"),
    _ok("inverted port", "-A INPUT -p tcp ! --dport 80", "-A INPUT -p tcp -m tcp ! --dport 80"),
    _no("port twice", "-A INPUT -p tcp --dport 80 --dport 81"),
    _ok("syn", "-A INPUT -p tcp --syn", "-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
    _ok("not syn", "-A INPUT -p tcp ! --syn", "-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"),
    _ok(
        "flags",
        "-A INPUT -p tcp --tcp-flags all none",
        "-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE",
    ),
    _no("flags with one word", "-A INPUT -p tcp --tcp-flags SYN -j ACCEPT"),
    _ok("tcp option", "-A INPUT -p tcp ! --tcp-option 2", "-A INPUT -p tcp -m tcp ! --tcp-option 2"),
    _ok("icmp by name", "-A INPUT -p icmp --icmp-type echo-request", "-A INPUT -p icmp -m icmp --icmp-type 8"),
    _ok("icmp code", "-A INPUT -p icmp --icmp-type fragmentation-needed", "-A INPUT -p icmp -m icmp --icmp-type 3/4"),
    _ok("icmp any", "-A INPUT -p icmp --icmp-type any", "-A INPUT -p icmp -m icmp --icmp-type any"),
    _no("icmp ambiguous", "-A INPUT -p icmp --icmp-type host"),
    _ok(
        "icmp6",
        "-A INPUT -p icmpv6 --icmpv6-type neighbour-solicitation",
        "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135",
        family=V6,
    ),
    _no("icmp in IPv6", "-A INPUT -p icmp --icmp-type 8", family=V6),
    _ok(
        "sctp chunks",
        "-A INPUT -p sctp --chunk-types any INIT,DATA:bE",
        "-A INPUT -p sctp -m sctp --chunk-types any DATA:bE,INIT",
    ),
    _ok(
        "multiport",
        "-A INPUT -p tcp -m multiport --dports 80,443,1000:2000",
        "-A INPUT -p tcp -m multiport --dports 80,443,1000:2000",
    ),
    _no("multiport without a protocol", "-A INPUT -m multiport --dports 80"),
    _no("multiport of 16", "-A INPUT -p tcp -m multiport --ports " + ",".join(map(str, range(16)))),
    _no("multiport ranges of 16", "-A INPUT -p tcp -m multiport --ports " + ",".join(f"{n}:{n + 1}" for n in range(8))),
    # marks and state
    _ok("mark in decimal", "-A INPUT -m mark --mark 16384", "-A INPUT -m mark --mark 0x4000"),
    _ok("mark with full mask", "-A INPUT -m mark ! --mark 1/0xffffffff", "-A INPUT -m mark ! --mark 0x1"),
    _ok(
        "set-mark",
        "-A OUTPUT -j MARK --set-mark 0x4000/0x8000",
        "-A OUTPUT -j MARK --set-xmark 0x4000/0xc000",
        "mangle",
    ),
    _ok("or-mark", "-A OUTPUT -j MARK --or-mark 0x4000", "-A OUTPUT -j MARK --set-xmark 0x4000/0x4000", "mangle"),
    _ok("and-mark", "-A OUTPUT -j MARK --and-mark 0x4000", "-A OUTPUT -j MARK --set-xmark 0x0/0xffffbfff", "mangle"),
    _ok("xor-mark", "-A OUTPUT -j MARK --xor-mark 0x4000", "-A OUTPUT -j MARK --set-xmark 0x4000/0x0", "mangle"),
    _no("two marks", "-A OUTPUT -j MARK --or-mark 1 --and-mark 1", "mangle"),
    _no("no mark", "-A OUTPUT -j MARK", "mangle"),
    _ok(
        "save-mark",
        "-A OUTPUT -j CONNMARK --save-mark --mask 0xff",
        "-A OUTPUT -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
        "mangle",
    ),
    _ok(
        "states in any order",
        "-A INPUT -m conntrack --ctstate established,NEW",
        "-A INPUT -m conntrack --ctstate NEW,ESTABLISHED",
    ),
    _ok("state", "-A INPUT -m state --state NEW,RELATED", "-A INPUT -m state --state NEW,RELATED"),
    _ok("state cut short", "-A INPUT -m conntrack --ctstate EST", "-A INPUT -m conntrack --ctstate ESTABLISHED"),
    _no("unknown state", "-A INPUT -m conntrack --ctstate OLD"),
    _no("conntrack with nothing", "-A INPUT -m conntrack"),
    _ok(
        "addresses are not masked",
        "-A INPUT -m conntrack --ctorigdst 10.1.2.3/8",
        "-A INPUT -m conntrack --ctorigdst 10.1.2.3/8",
    ),
    _ok(
        "two of one kind",
        "-A INPUT -m mark --mark 1 -m mark --mark 2",
        "-A INPUT -m mark --mark 0x1 -m mark --mark 0x2",
    ),
    # kube-proxy's
    _ok(
        "a third",
        "-A INPUT -m statistic --mode random --probability 0.3333333333",
        "-A INPUT -m statistic --mode random --probability 0.33333333349",
    ),
    _ok(
        "always",
        "-A INPUT -m statistic --mode random --probability 1",
        "-A INPUT -m statistic --mode random --probability 1.00000000000",
    ),
    _no("more than always", "-A INPUT -m statistic --mode random --probability 1.1"),
    _no("packet beyond every", "-A INPUT -m statistic --mode nth --every 3 --packet 3"),
    _no("every without packet", "-A INPUT -m statistic --mode nth --every 3"),
    _ok(
        "recent",
        "-A INPUT -m recent --name A --rcheck --seconds 10800 --reap",
        "-A INPUT -m recent --rcheck --seconds 10800 --reap --name A --mask 255.255.255.255 --rsource",
    ),
    _no("reap without seconds", "-A INPUT -m recent --rcheck --reap"),
    _no("set with seconds", "-A INPUT -m recent --set --seconds 3"),
    _no("recent with nothing", "-A INPUT -m recent"),
    _ok(
        "addrtype", "-A INPUT -m addrtype --dst-type local,broadcast", "-A INPUT -m addrtype --dst-type LOCAL,BROADCAST"
    ),
    _no("addrtype limit in the wrong place", "-A INPUT -m addrtype --dst-type LOCAL --limit-iface-out"),
    _ok("limit", "-A INPUT -m limit --limit 10/minute", "-A INPUT -m limit --limit 10/min"),
    _ok("limit's burst", "-A INPUT -m limit --limit-burst 7", "-A INPUT -m limit --limit 3/hour --limit-burst 7"),
    _no("limit inverted", "-A INPUT -m limit ! --limit 3/s"),
    # targets
    _ok("reject", "-A INPUT -j REJECT", "-A INPUT -j REJECT --reject-with icmp-port-unreachable"),
    _ok(
        "reject by alias",
        "-A INPUT -j REJECT --reject-with host-prohib",
        "-A INPUT -j REJECT --reject-with icmp-host-prohibited",
    ),
    _no("reset without tcp", "-A INPUT -j REJECT --reject-with tcp-reset"),
    _no("reject in mangle", "-A INPUT -j REJECT", "mangle"),
    _ok("reject in IPv6", "-A INPUT -j REJECT", "-A INPUT -j REJECT --reject-with icmp6-port-unreachable", family=V6),
    _ok(
        "dnat",
        "-A PREROUTING -p tcp -j DNAT --to 10.0.0.1:80",
        "-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.1:80",
        "nat",
    ),
    _ok(
        "dnat to ports",
        "-A PREROUTING -p tcp -j DNAT --to-destination :80-90/8080",
        "-A PREROUTING -p tcp -j DNAT --to-destination :80-90/8080",
        "nat",
    ),
    _ok(
        "dnat to IPv6",
        "-A PREROUTING -p tcp -j DNAT --to-destination [fd00::1]:80",
        "-A PREROUTING -p tcp -j DNAT --to-destination [fd00::1]:80",
        "nat",
        V6,
    ),
    _ok(
        "dnat to IPv6 without a port",
        "-A PREROUTING -j DNAT --to-destination fd00::1-fd00::9",
        "-A PREROUTING -j DNAT --to-destination fd00::1-fd00::9",
        "nat",
        V6,
    ),
    _no("dnat port without a protocol", "-A PREROUTING -j DNAT --to-destination 10.0.0.1:80", "nat"),
    _no("dnat port before the protocol", "-A PREROUTING -j DNAT --to-destination 10.0.0.1:80 -p tcp", "nat"),
    _no("dnat in POSTROUTING", "-A POSTROUTING -j DNAT --to-destination 10.0.0.1", "nat"),
    _no(
        "dnat reached from POSTROUTING",
        ":C - [0:0]\n-A C -j DNAT --to-destination 10.0.0.1\n-A POSTROUTING -j C",
        "nat",
    ),
    _ok(
        "dnat reached from nowhere",
        ":C - [0:0]\n-A C -j DNAT --to-destination 10.0.0.1",
        "-A C -j DNAT --to-destination 10.0.0.1",
        "nat",
    ),
    _no("dnat in filter", "-A INPUT -j DNAT --to-destination 10.0.0.1"),
    _ok(
        "snat",
        "-A POSTROUTING -j SNAT --to-source 10.0.0.1-10.0.0.9 --persistent --random",
        "-A POSTROUTING -j SNAT --to-source 10.0.0.1-10.0.0.9 --random --persistent",
        "nat",
    ),
    _ok(
        "masquerade",
        "-A POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-2048 --random-fully",
        "-A POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-2048 --random-fully",
        "nat",
    ),
    _no("masquerade in OUTPUT", "-A OUTPUT -j MASQUERADE", "nat"),
    _ok("redirect", "-A OUTPUT -p udp -j REDIRECT --to-port 53", "-A OUTPUT -p udp -j REDIRECT --to-ports 53", "nat"),
    _ok("netmap", "-A PREROUTING -j NETMAP --to 10.1.2.3/24", "-A PREROUTING -j NETMAP --to 10.1.2.0/24", "nat"),
    _ok(
        "log",
        '-A INPUT -j LOG --log-prefix "a: " --log-level info --log-uid',
        '-A INPUT -j LOG --log-prefix "a: " --log-level 6 --log-uid',
    ),
    _ok("log's own level", "-A INPUT -j LOG --log-level warning", "-A INPUT -j LOG"),
    _ok("notrack", "-A PREROUTING -j NOTRACK", "-A PREROUTING -j NOTRACK", "raw"),
    _ok("ct zone", "-A PREROUTING -j CT --zone 5", "-A PREROUTING -j CT --zone 5", "raw"),
    _ok("ct zone 0", "-A PREROUTING -j CT --zone 0", "-A PREROUTING -j CT", "raw"),
    _no("ct in filter", "-A INPUT -j CT --notrack"),
    _ok(
        "clamp",
        "-A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu",
        "-A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j TCPMSS --clamp-mss-to-pmtu",
    ),
    _no("clamp without syn", "-A FORWARD -p tcp -j TCPMSS --clamp-mss-to-pmtu"),
    _no("clamp in PREROUTING", "-A PREROUTING -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", "mangle"),
    _ok("tos by name", "-A OUTPUT -j TOS --set-tos Minimize-Delay", "-A OUTPUT -j TOS --set-tos 0x10/0x3f", "mangle"),
    _ok("dscp class", "-A OUTPUT -j DSCP --set-dscp-class EF", "-A OUTPUT -j DSCP --set-dscp 0x2e", "mangle"),
    _no("ttl outside of mangle", "-A OUTPUT -j TTL --ttl-set 64"),
    _ok("ttl", "-A INPUT -m ttl ! --ttl-eq 64", "-A INPUT -m ttl ! --ttl-eq 64"),
    _no("owner in INPUT", "-A INPUT -m owner --uid-owner 0"),
    _ok(
        "owner",
        "-A OUTPUT -m owner --uid-owner root ! --gid-owner 1-5",
        "-A OUTPUT -m owner --uid-owner 0 ! --gid-owner 1-5",
    ),
    _ok("mac", "-A INPUT -m mac --mac-source AA:bb:0:1:2:3", "-A INPUT -m mac --mac-source aa:bb:00:01:02:03"),
    _no("mac in OUTPUT", "-A OUTPUT -m mac --mac-source aa:bb:00:01:02:03"),
    _ok("string", '-A INPUT -m string --algo bm --string "GET /"', '-A INPUT -m string --string "GET /" --algo bm'),
    _ok(
        "hex string",
        '-A INPUT -m string --algo bm --hex-string "a|00 ff|"',
        '-A INPUT -m string --hex-string "|6100ff|" --algo bm',
    ),
    _ok(
        "u32",
        '-A INPUT -m u32 --u32 "6 & 0xFF = 6,17 && 4=1:2"',
        '-A INPUT -m u32 --u32 "0x6&0xff=0x6,0x11&&0x4=0x1:0x2"',
    ),
    _no("u32 without a value", '-A INPUT -m u32 --u32 "6&0xFF="'),
    _ok("length", "-A INPUT -m length --length 100:", "-A INPUT -m length --length 100:65535"),
    _ok(
        "connbytes",
        "-A INPUT -m connbytes ! --connbytes 100:200 --connbytes-dir both --connbytes-mode bytes",
        "-A INPUT -m connbytes ! --connbytes 100:200 --connbytes-mode bytes --connbytes-dir both",
    ),
    _ok(
        "connlimit",
        "-A INPUT -m connlimit ! --connlimit-above 3",
        "-A INPUT -m connlimit --connlimit-upto 3 --connlimit-mask 32 --connlimit-saddr",
    ),
    _ok(
        "rpfilter",
        "-A PREROUTING -m rpfilter --validmark --invert -j DROP",
        "-A PREROUTING -m rpfilter --validmark --invert -j DROP",
        "raw",
    ),
    _no("rpfilter in filter", "-A INPUT -m rpfilter"),
    _ok(
        "physdev",
        "-A FORWARD -m physdev --physdev-out veth+ --physdev-is-bridged",
        "-A FORWARD -m physdev --physdev-out veth+ --physdev-is-bridged",
    ),
    _no("physdev out in OUTPUT", "-A OUTPUT -m physdev --physdev-out veth0"),
    _ok(
        "ipv6header",
        "-A INPUT -m ipv6header --header hop,frag --soft",
        "-A INPUT -m ipv6header --header hop-by-hop,ipv6-frag --soft",
        family=V6,
    ),
    _ok("no policy", "-A INPUT -m policy --pol none --dir in", "-A INPUT -m policy --dir in --pol none"),
    _ok(
        "policy of two elements",
        "-A INPUT -m policy --dir in --pol ipsec --strict --spi 0x10 ! --reqid 3 --next --proto esp --mode tunnel",
        "-A INPUT -m policy --dir in --pol ipsec --strict ! --reqid 3 --spi 0x10 --next --proto esp --mode tunnel",
    ),
    _no("policy without a direction", "-A INPUT -m policy --pol none"),
    _no("policy of the wrong direction", "-A INPUT -m policy --dir out --pol none"),
    _ok("ah", "-A INPUT -p ah --ahspi 5:", "-A INPUT -p ah -m ah --ahspi 5:4294967295"),
    _ok("esp", "-A INPUT -p esp ! --espspi 0x10", "-A INPUT -p esp -m esp ! --espspi 16"),
    _no("esp without its protocol", "-A INPUT -m esp --espspi 16"),
    _ok("connmark", "-A INPUT -m connmark ! --mark 8/12", "-A INPUT -m connmark ! --mark 0x8/0xc"),
    _ok("dscp by class", "-A INPUT -m dscp --dscp-class af11", "-A INPUT -m dscp --dscp 0x0a"),
    _no("dscp out of range", "-A INPUT -m dscp --dscp 64"),
    _ok("tos with a mask", "-A INPUT -m tos ! --tos 4/12", "-A INPUT -m tos ! --tos 0x04/0x0c"),
    _ok("hop limit", "-A INPUT -m hl --hl-lt 2", "-A INPUT -m hl --hl-lt 2", family=V6),
    _ok(
        "iprange of one",
        "-A INPUT -m iprange --src-range 10.0.0.1",
        "-A INPUT -m iprange --src-range 10.0.0.1-10.0.0.1",
    ),
    _ok("pkttype", "-A INPUT -m pkttype --pkt-type bcast", "-A INPUT -m pkttype --pkt-type broadcast"),
    _ok("socket", "-A INPUT -m socket --nowildcard --transparent", "-A INPUT -m socket --transparent --nowildcard"),
    _no("socket in FORWARD", "-A FORWARD -m socket"),
    _ok("mss", "-A FORWARD -p tcp -m tcpmss --mss 1400:", "-A FORWARD -p tcp -m tcpmss --mss 1400:65535"),
    _ok("checksum", "-A OUTPUT -j CHECKSUM --checksum-fill", "-A OUTPUT -j CHECKSUM --checksum-fill", "mangle"),
    _no("checksum of nothing", "-A OUTPUT -j CHECKSUM", "mangle"),
    _ok("class", "-A FORWARD -j CLASSIFY --set-class 1:ffff", "-A FORWARD -j CLASSIFY --set-class 0001:ffff"),
    _no("class in INPUT", "-A INPUT -j CLASSIFY --set-class 1:1"),
    _ok("hop limit set", "-A OUTPUT -j HL --hl-inc 1", "-A OUTPUT -j HL --hl-inc 1", "mangle", V6),
    _ok(
        "nflog",
        '-A INPUT -j NFLOG --nflog-group 1 --nflog-prefix "D|pro ns/x" --nflog-size 80',
        '-A INPUT -j NFLOG --nflog-prefix "D|pro ns/x" --nflog-group 1 --nflog-size 80',
    ),
    _ok("nfqueue", "-A INPUT -j NFQUEUE --queue-bypass", "-A INPUT -j NFQUEUE --queue-num 0 --queue-bypass"),
    _no("nfqueue upside down", "-A INPUT -j NFQUEUE --queue-balance 5:4"),
    _ok("tee", "-A INPUT -j TEE --gateway 10.0.0.9", "-A INPUT -j TEE --gateway 10.0.0.9"),
    _ok(
        "tproxy",
        "-A PREROUTING -p tcp -j TPROXY --on-port 12345 --tproxy-mark 0x200/0xfff",
        "-A PREROUTING -p tcp -j TPROXY --on-port 12345 --on-ip 0.0.0.0 --tproxy-mark 0x200/0xfff",
        "mangle",
    ),
    _no("tproxy without a protocol", "-A PREROUTING -j TPROXY --on-port 1", "mangle"),
    _ok("trace", "-A PREROUTING -j TRACE", "-A PREROUTING -j TRACE", "raw"),
    _no("trace in filter", "-A INPUT -j TRACE"),
    _no("inverted jump", "-A INPUT ! -j ACCEPT"),
    _no("inverted match", "-A INPUT ! -m comment --comment x"),
    _no("option of no match here", "-A INPUT -m comment --comment x --mark 1"),
    _ok(
        "option of an earlier match",
        "-A INPUT -m mark -m comment --comment x --mark 1",
        "-A INPUT -m mark --mark 0x1 -m comment --comment x",
    ),
    _ok(
        "option behind the target",
        "-A INPUT -p tcp -j ACCEPT --dport 80",
        "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT",
    ),
)

#: The same for what needs a module that few kernels have, or an ipset, counter or helper: not repeated live.
UNSEEN_CASES: tuple[Case, ...] = (
    _ok("helper", "-A INPUT -m helper --helper ftp", "-A INPUT -m helper --helper ftp"),
    _ok(
        "nfacct",
        "-A INPUT -m nfacct --nfacct-name ct_state_invalid_dropped_pkts",
        "-A INPUT -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts",
    ),
    _ok(
        "set",
        "-A INPUT -m set ! --match-set cali40all-ipam-pools dst,src --return-nomatch",
        "-A INPUT -m set ! --match-set cali40all-ipam-pools dst,src --return-nomatch",
    ),
    _ok(
        "set with counters",
        "-A INPUT -m set --match-set s src ! --update-counters --packets-gt 5 ! --bytes-eq 0x10",
        "-A INPUT -m set --match-set s src ! --update-counters --packets-gt 5 ! --bytes-eq 16",
    ),
    _no("set without sides", "-A INPUT -m set --match-set s"),
    _no("set with too many sides", "-A INPUT -m set --match-set s src,src,src,src,src,src,src"),
    _ok(
        "add to a set",
        "-A INPUT -j SET --exist --add-set s src,dst --timeout 60",
        "-A INPUT -j SET --add-set s src,dst --exist --timeout 60",
    ),
    _no("exist without adding", "-A INPUT -j SET --del-set s src --exist"),
    _ok("ipvs", "-A FORWARD -m ipvs --ipvs", "-A FORWARD -m ipvs --ipvs"),
    _ok(
        "ipvs in detail",
        "-A FORWARD -m ipvs --vmethod masq ! --vport 80 --vaddr 10.0.0.1/24 --vproto tcp --vdir original",
        "-A FORWARD -m ipvs --vproto 6 --vaddr 10.0.0.1/24 ! --vport 80 --vdir ORIGINAL --vmethod MASQ",
    ),
    _no("ipvs with nothing", "-A FORWARD -m ipvs"),
    _ok(
        "bpf",
        '-A INPUT -m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0"',
        '-A INPUT -m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0"',
    ),
    _no("bpf of the wrong length", '-A INPUT -m bpf --bytecode "3,48 0 0 9,6 0 0 1"'),
    _no("bpf that jumps away", '-A INPUT -m bpf --bytecode "2,21 0 9 6,6 0 0 1"'),
    _no("bpf that does not return", '-A INPUT -m bpf --bytecode "1,48 0 0 9"'),
    _ok("cgroup", "-A INPUT -m cgroup ! --cgroup 0x5", "-A INPUT -m cgroup ! --cgroup 5"),
    _no("cgroup in FORWARD", "-A FORWARD -m cgroup --cgroup 5"),
    _ok(
        "time",
        "-A INPUT -m time --timestart 10:00 --timestop 9:30:05 --weekdays Mon,2,Sunday --monthdays 1,31 "
        "--datestart 2020 --datestop 2021-02-03T04:05 --kerneltz",
        "-A INPUT -m time --timestart 10:00:00 --timestop 09:30:05 --monthdays 1,31 --weekdays "
        "Mon,Tue,Sun --datestart 2020-01-01T00:00:00 --datestop 2021-02-03T04:05:00 --kerneltz",
    ),
    _ok(
        "not on Saturday",
        "-A INPUT -m time ! --weekdays Sa",
        "-A INPUT -m time --weekdays Mon,Tue,Wed,Thu,Fri,Sun --datestop 2038-01-19T03:14:07",
    ),
    _ok(
        "time over midnight",
        "-A INPUT -m time --timestart 1:00 --timestop 0:30 --contiguous",
        "-A INPUT -m time --timestart 01:00:00 --timestop 00:30:00 --datestop 2038-01-19T03:14:07 --contiguous",
    ),
    _ok(
        "time that only begins",
        "-A INPUT -m time --timestart 1:00",
        "-A INPUT -m time --timestart 01:00:00 --timestop 23:59:59 --datestop 2038-01-19T03:14:07",
    ),
    _ok("time with nothing", "-A INPUT -m time", "-A INPUT -m time --datestop 2038-01-19T03:14:07"),
    _no("contiguous within a day", "-A INPUT -m time --timestart 1:00 --timestop 2:30 --contiguous"),
    _no("time beyond the day", "-A INPUT -m time --timestart 24:00"),
    _ok(
        "date of a short month",
        "-A INPUT -m time --datestart 2021-02-30",
        "-A INPUT -m time --datestart 2021-03-02T00:00:00 --datestop 2038-01-19T03:14:07",
    ),
    _ok("quota", "-A INPUT -m quota ! --quota 1000", "-A INPUT -m quota ! --quota 1000"),
    _ok("quota in hex", "-A INPUT -m quota --quota 0x10", "-A INPUT -m quota --quota 16"),
    _ok("realm", "-A POSTROUTING -m realm --realm 5/0xff", "-A POSTROUTING -m realm --realm 0x5/0xff", "mangle"),
    _ok(
        "realm by name",
        "-A POSTROUTING -m realm --realm cosmos -m realm ! --realm 0",
        "-A POSTROUTING -m realm --realm cosmos -m realm ! --realm cosmos",
        "mangle",
    ),
    _no("realm in IPv6", "-A FORWARD -m realm --realm 5", family=V6),
    _no("realm in PREROUTING", "-A PREROUTING -m realm --realm 5", "mangle"),
    _ok(
        "ecn",
        "-A INPUT -p tcp -m ecn --ecn-tcp-cwr ! --ecn-tcp-ece --ecn-ip-ect 1",
        "-A INPUT -p tcp -m ecn ! --ecn-tcp-ece --ecn-tcp-cwr --ecn-ip-ect 1",
    ),
    _ok("ecn in IPv6", "-A INPUT -m ecn ! --ecn-ip-ect 0", "-A INPUT -m ecn ! --ecn-ip-ect 0", family=V6),
    _no("ecn without tcp", "-A INPUT -m ecn --ecn-tcp-cwr"),
    _no("ecn with nothing", "-A INPUT -m ecn"),
    _ok(
        "frag",
        "-A INPUT -m frag --fragid 1:5 ! --fraglen 8 --fragres --fragfirst --fragmore",
        "-A INPUT -m frag --fragid 1:5 ! --fraglen 8 --fragres --fragfirst --fragmore",
        family=V6,
    ),
    _ok("frag with nothing", "-A INPUT -m frag", "-A INPUT -m frag", family=V6),
    _ok("last frag", "-A INPUT -m frag --fragid 7 --fraglast", "-A INPUT -m frag --fragid 7 --fraglast", family=V6),
    _no("frag that is both", "-A INPUT -m frag --fragmore --fraglast", family=V6),
    _ok(
        "rt",
        "-A INPUT -m rt --rt-type 0 --rt-segsleft 1:3 --rt-len 40 --rt-0-res --rt-0-addrs "
        "fd00::1,fd00::2 --rt-0-not-strict",
        "-A INPUT -m rt --rt-type 0 --rt-segsleft 1:3 --rt-len 40 --rt-0-res --rt-0-addrs "
        "fd00::1,fd00::2 --rt-0-not-strict",
        family=V6,
    ),
    _ok("not rt type", "-A INPUT -m rt ! --rt-type 0", "-A INPUT -m rt ! --rt-type 0", family=V6),
    _ok("rt with nothing", "-A INPUT -m rt", "-A INPUT -m rt", family=V6),
    _no("rt addresses without type", "-A INPUT -m rt --rt-0-addrs fd00::1", family=V6),
    _ok(
        "hbh", "-A INPUT -m hbh --hbh-len 8 --hbh-opts 1:4,5", "-A INPUT -m hbh --hbh-len 8 --hbh-opts 1:4,5", family=V6
    ),
    _ok("not hbh length", "-A INPUT -m hbh ! --hbh-len 8", "-A INPUT -m hbh ! --hbh-len 8", family=V6),
    _no("hbh padding of a length", "-A INPUT -m hbh --hbh-opts 0:0", family=V6),
    _ok("dst", "-A INPUT -m dst --dst-opts 201:16", "-A INPUT -m dst --dst-opts 201:16", family=V6),
    _ok("dst with nothing", "-A INPUT -m dst", "-A INPUT -m dst", family=V6),
    _ok("eui64", "-A INPUT -m eui64", "-A INPUT -m eui64", family=V6),
    _no("eui64 in OUTPUT", "-A OUTPUT -m eui64", family=V6),
    _ok("devgroup", "-A INPUT -m devgroup --src-group 0xa/0xff", "-A INPUT -m devgroup --src-group 0xa/0xff"),
    _ok(
        "devgroup by name",
        "-A FORWARD -m devgroup --src-group default --dst-group 3",
        "-A FORWARD -m devgroup --src-group default --dst-group 0x3",
    ),
    _no("devgroup out of INPUT", "-A INPUT -m devgroup --dst-group 3"),
    _ok("cpu", "-A INPUT -m cpu ! --cpu 1", "-A INPUT -m cpu ! --cpu 1"),
    _ok("connlabel", "-A INPUT -m connlabel --label 40 --set", '-A INPUT -m connlabel --label "40" --set'),
    _ok("not connlabel", "-A INPUT -m connlabel ! --label 3", '-A INPUT -m connlabel ! --label "3"'),
    _no("connlabel too high", "-A INPUT -m connlabel --label 128"),
    _ok("ipcomp", "-A INPUT -p 108 -m ipcomp --ipcompspi 0x12", "-A INPUT -p ipcomp -m ipcomp --ipcompspi 18"),
    _ok(
        "ipcomp range",
        "-A INPUT -p 108 -m ipcomp ! --ipcompspi 1:4 --compres",
        "-A INPUT -p ipcomp -m ipcomp ! --ipcompspi 1:4 --compres",
    ),
    _ok("audit", "-A INPUT -j AUDIT --type accept", "-A INPUT -j AUDIT --type accept"),
    _ok("audit in capitals", "-A INPUT -j AUDIT --type DROP", "-A INPUT -j AUDIT --type drop"),
    _ok(
        "tcpoptstrip",
        "-A INPUT -p tcp -j TCPOPTSTRIP --strip-options wscale,mss,8",
        "-A INPUT -p tcp -j TCPOPTSTRIP --strip-options 2,3,8",
        "mangle",
    ),
    _no("tcpoptstrip without tcp", "-A INPUT -j TCPOPTSTRIP --strip-options mss", "mangle"),
    _ok("tcpoptstrip of nothing", "-A INPUT -p tcp -j TCPOPTSTRIP", "-A INPUT -p tcp -j TCPOPTSTRIP", "mangle"),
    _ok("ecn removed", "-A INPUT -p tcp -j ECN --ecn-tcp-remove", "-A INPUT -p tcp -j ECN --ecn-tcp-remove", "mangle"),
    _no("ecn removed of udp", "-A INPUT -p udp -j ECN --ecn-tcp-remove", "mangle"),
    _ok(
        "idletimer", "-A INPUT -j IDLETIMER --timeout 30 --label foo", "-A INPUT -j IDLETIMER --timeout 30 --label foo"
    ),
    _ok(
        "hashlimit",
        "-A INPUT -m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 7 --hashlimit-mode srcip,dstport "
        "--hashlimit-name foo",
        "-A INPUT -m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 7 --hashlimit-mode srcip,dstport "
        "--hashlimit-name foo",
    ),
    _ok(
        "hashlimit above",
        "-A INPUT -m hashlimit --hashlimit-above 100/minute --hashlimit-name foo2",
        "-A INPUT -m hashlimit --hashlimit-above 100/min --hashlimit-burst 5 --hashlimit-name foo2",
    ),
    _ok(
        "hashlimit with its table",
        "-A INPUT -m hashlimit --hashlimit 3 --hashlimit-name foo3 --hashlimit-srcmask 24 "
        "--hashlimit-mode srcip --hashlimit-htable-size 100 --hashlimit-htable-max 50 "
        "--hashlimit-htable-expire 5000 --hashlimit-htable-gcinterval 500",
        "-A INPUT -m hashlimit --hashlimit-upto 3/sec --hashlimit-burst 5 --hashlimit-mode srcip "
        "--hashlimit-name foo3 --hashlimit-htable-size 100 --hashlimit-htable-max 50 "
        "--hashlimit-htable-gcinterval 500 --hashlimit-htable-expire 5000 --hashlimit-srcmask 24",
    ),
    _ok(
        "hashlimit by all",
        "-A INPUT -m hashlimit --hashlimit-upto 10/day --hashlimit-name foo7 --hashlimit-mode "
        "dstport,srcip,dstip,srcport",
        "-A INPUT -m hashlimit --hashlimit-upto 10/day --hashlimit-burst 5 --hashlimit-mode "
        "srcip,srcport,dstip,dstport --hashlimit-name foo7",
    ),
    _ok(
        "hashlimit inverted",
        "-A INPUT -m hashlimit ! --hashlimit-upto 7/hour --hashlimit-name foo8",
        "-A INPUT -m hashlimit --hashlimit-above 7/hour --hashlimit-burst 5 --hashlimit-name foo8",
    ),
    _ok(
        "fastest hashlimit",
        "-A INPUT -m hashlimit --hashlimit-upto 1000000/sec --hashlimit-name foo10",
        "-A INPUT -m hashlimit --hashlimit-upto 1000000/sec --hashlimit-burst 5 --hashlimit-name foo10",
    ),
    _no("hashlimit too fast", "-A INPUT -m hashlimit --hashlimit-upto 2000000/sec --hashlimit-name foo11"),
    _no("hashlimit without a name", "-A INPUT -m hashlimit --hashlimit-upto 10/sec"),
    _no("hashlimit without a rate", "-A INPUT -m hashlimit --hashlimit-name x"),
    _no(
        "hashlimit both ways", "-A INPUT -m hashlimit --hashlimit-name x --hashlimit-upto 1/sec --hashlimit-above 2/sec"
    ),
    _no(
        "hashlimit mask too long",
        "-A INPUT -m hashlimit --hashlimit-name x --hashlimit-upto 1/sec --hashlimit-srcmask 33",
    ),
    _ok("policy none", "-A INPUT -m policy --dir in --pol none", "-A INPUT -m policy --dir in --pol none"),
    _ok("zone by mark", "-A PREROUTING -j CT --zone mark", "-A PREROUTING -j CT --zone mark", "raw"),
    _ok(
        "zone of replies by mark",
        "-A PREROUTING -j CT --zone-reply mark",
        "-A PREROUTING -j CT --zone-reply mark",
        "raw",
    ),
    _ok(
        "events",
        "-A PREROUTING -j CT --ctevents new,destroy --expevents new",
        "-A PREROUTING -j CT --ctevents new,destroy --expevents new",
        "raw",
    ),
    _ok(
        "connmark shifted",
        "-A OUTPUT -j CONNMARK --save-mark --left-shift-mark 4",
        "-A OUTPUT -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff --left-shift-mark 4",
        "mangle",
    ),
)
