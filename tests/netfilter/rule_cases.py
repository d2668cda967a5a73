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
