"""What random cases are about: nodes, the addresses around them, and the words of rules for each address family.

Rules and packets are drawn from few addresses, ports and marks, so that they meet.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Text with what to fill in.
Form = tuple[str, tuple[Sequence[str], ...]]
Forms = tuple[Form, ...]

PORTS: Final = (53, 80, 443, 8080, 30080, 500, 4000, 40000)
INTERFACES: Final = ("eth0", "pod0", "pod1", "lo", "pod+")
MACS: Final = {"eth0": "02:00:00:00:00:01", "pod0": "02:00:00:00:00:0a", "pod1": "02:00:00:00:00:0b"}
BRIDGE_MAC: Final = "02:00:00:00:00:c0"
GATEWAY_MAC: Final = "02:00:00:00:01:fe"


@dataclass(frozen=True, eq=False)
class World:
    """A node and its surroundings in one address family.

    Attributes:
        version: 4 or 6.
        networks: Prefixes that hold some of the addresses.
        router: Somewhere on the way.
        topology: The case's interfaces, routes and so on.
        macs: Of neighbours, by address.
        general: Matches of any rule.
        of_protocol: Matches of rules for a protocol.
        placed: Matches that some hooks have: a rule that only these may reach.
        dnats, snats, port_dnats, port_snats: Targets of the nat table.
        rejects: ``--reject-with``.
        mangles: Targets of the mangle table.
        copies: Targets that any table has.
        icmp: The protocol's name in rules, its number, echo request and reply.
        sets: ``ipset restore`` text with two addresses to fill in.
        sysctls: Settings, one choice of which a case has.
    """

    version: int
    node: str
    services: tuple[str, ...]
    pods: tuple[str, ...]
    near: str
    far: tuple[str, ...]
    networks: tuple[str, ...]
    router: str
    topology: Mapping[str, Any]
    macs: Mapping[str, str]
    general: Forms
    of_protocol: Mapping[str, Forms]
    placed: tuple[tuple[frozenset[str], Forms], ...]
    dnats: tuple[str, ...]
    snats: tuple[str, ...]
    port_dnats: tuple[str, ...]
    port_snats: tuple[str, ...]
    netmap: str
    rejects: tuple[str, ...]
    mangles: tuple[str, ...]
    copies: tuple[str, ...]
    icmp: tuple[str, int, int, int]
    sets: str
    sysctls: tuple[Mapping[str, str], ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.node, *self.services, *self.pods, self.near, *self.far)

    def towards(self, address: str) -> tuple[str, str]:
        """Interface and neighbour's MAC by which the node sees packets from ``address``."""
        if address in self.pods:
            return f"pod{self.pods.index(address)}", self.macs[address]
        return "eth0", self.macs[address] if address == self.near else GATEWAY_MAC


_NOT = ("", "", "", "! ")
_STATES = (
    "NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "RELATED,ESTABLISHED", "NEW,RELATED", "NEW,DNAT", "SNAT",
    "DNAT",
)  # fmt: skip
_STATUSES = ("NONE", "SEEN_REPLY", "ASSURED", "CONFIRMED", "EXPECTED")
_MARKS = ("0x1", "0x1/0x1", "0x4000/0x4000", "0x8000/0xc000", "0x0", "0x10/0xf0")
_PORT = ("53", "80", "443", "8080", "30080", "500", "4000", "40000", "80:443", "1024:", ":1023")
_PORTS_LIST = ("53,80", "80,443,8000:9000", "4000,500", "53,30080", "40000")
_LIMITS = ("1", "2", "3")
#: Rules of one name share a table, so the name says all of its settings.
_HASHLIMITS = tuple(
    f"1/hour --hashlimit-burst {burst} --hashlimit-name H{burst}{mode[:3]}{len(mode)} --hashlimit-mode {mode}"
    for burst in (1, 2)
    for mode in ("srcip", "dstip", "srcip,dstport", "dstip,srcport,dstport")
)


def _general(
    addresses: Sequence[str], ranges: Sequence[str], types: Sequence[str], prefix_lengths: Sequence[str]
) -> Forms:
    """Matches of both families."""
    return (
        ("-m conntrack {}--ctstate {}", (_NOT, _STATES)),
        ("-m conntrack {}--ctstate {}", (_NOT, _STATES)),
        ("-m conntrack {}--ctstatus {}", (_NOT, _STATUSES)),
        ("-m conntrack --ctdir {}", (("ORIGINAL", "REPLY"),)),
        ("-m conntrack {}--ctproto {}", (_NOT, ("6", "17", "1", "58"))),
        ("-m conntrack {}--{} {}", (_NOT, ("ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst"), addresses)),
        ("-m conntrack --{} {}", (("ctorigsrcport", "ctorigdstport", "ctreplsrcport", "ctrepldstport"), _PORT)),
        # no bound that is a time-out, or one second less: the kernel's steps may or may not be in one jiffy
        ("-m conntrack --ctexpire {}", (("0:20", "100:200", "25:35"),)),
        ("-m state {}--state {}", (_NOT, ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"))),
        ("-m mark {}--mark {}", (_NOT, _MARKS)),
        ("-m connmark {}--mark {}", (_NOT, _MARKS)),
        ("-m addrtype {}--dst-type {}", (_NOT, types)),
        ("-m addrtype {}--src-type {}", (_NOT, types)),
        ("-m statistic --mode nth {}--every {} --packet 0", (_NOT, ("1", "2", "3"))),
        ("-m limit --limit 1/hour --limit-burst {}", (_LIMITS,)),
        ("-m hashlimit --hashlimit-{} {}", (("upto", "above"), _HASHLIMITS)),
        ("-m quota {}--quota {}", (_NOT, ("0", "60", "150", "1000"))),
        ("-m length {}--length {}", (_NOT, ("0:60", "40", "61:", "28:33"))),
        ("-m dscp {}--dscp {}", (_NOT, ("0", "0x2e", "8"))),
        ("-m tos --tos {}", (("0x10/0x3f", "0x00", "0xb8/0xff"),)),
        ("-m ecn {}--ecn-ip-ect {}", (_NOT, ("0", "1", "3"))),
        ("-m pkttype {}--pkt-type {}", (_NOT, ("unicast", "broadcast", "multicast"))),
        ("-m iprange {}--{}-range {}", (_NOT, ("src", "dst"), ranges)),
        ("-m string --algo {} --string {}", (("bm", "kmp"), ("GET", "hello"))),
        ("-m recent --name R{} --{} --{}", (("1", "2"), ("set", "rcheck", "remove", "update"), ("rsource", "rdest"))),
        ("-m connbytes {}--connbytes {} --connbytes-dir {} --connbytes-mode {}", (
            _NOT, ("2:3", "40:100", "2"), ("original", "reply", "both"), ("packets", "bytes", "avgpkt"),
        )),
        ("-m recent --name R1 --{} --hitcount {}", (("rcheck", "update"), ("2", "3"))),
        ("-m set {}--match-set {} {}", (_NOT, ("hi", "hn"), ("src", "dst"))),
        ("-m set --match-set hp {}", (("src,src", "dst,dst"),)),
        ("-m connlabel {}--label {}", (_NOT, ("1", "64 --set", "1 --set", "127"))),
        ("-m connlimit --connlimit-{} {} --connlimit-mask {} --connlimit-{}", (
            ("upto", "above"), ("0", "1", "2"), prefix_lengths, ("saddr", "daddr"),
        )),
        ("-m cpu {}--cpu {}", (_NOT, ("0", "1"))),
        ("-m comment --comment \"{}\"", (("a", "two words"),)),
    )  # fmt: skip


_TRANSPORTS: Final[Mapping[str, Forms]] = {
    "tcp": (
        ("-m tcp {}--dport {}", (_NOT, _PORT)),
        ("-m tcp {}--sport {}", (_NOT, _PORT)),
        ("-m tcp {}--tcp-flags {}", (_NOT, ("SYN,RST SYN", "ACK ACK", "FIN FIN", "SYN,ACK,FIN,RST SYN"))),
        ("-m tcp {}--tcp-option {}", (_NOT, ("2", "3", "8"))),
        ("-m multiport {}--{} {}", (_NOT, ("dports", "sports", "ports"), _PORTS_LIST)),
        ("-m tcpmss {}--mss {}", (_NOT, ("1460", "500:1400"))),
        ("-m ecn {}--ecn-tcp-{}", (_NOT, ("cwr", "ece"))),
    ),
    "udp": (
        ("-m udp {}--dport {}", (_NOT, _PORT)),
        ("-m udp {}--sport {}", (_NOT, _PORT)),
        ("-m multiport {}--{} {}", (_NOT, ("dports", "sports", "ports"), _PORTS_LIST)),
    ),
    "sctp": (("-m sctp {}--dport {}", (_NOT, _PORT)),),
}
_OWNERS: Final = (
    "--uid-owner 0", "! --uid-owner 0", "--uid-owner 1000-2000", "! --gid-owner 1500", "--socket-exists",
    "! --socket-exists",
)  # fmt: skip
_IN: Final = frozenset({"PREROUTING", "INPUT", "FORWARD"})
_OUT: Final = frozenset({"FORWARD", "OUTPUT", "POSTROUTING"})


def _placed(macs: Sequence[str]) -> tuple[tuple[frozenset[str], Forms], ...]:
    return (
        (
            _IN,
            (
                ("-m mac {}--mac-source {}", (_NOT, macs)),
                ("-m policy --dir in --pol {}", (("none", "ipsec"),)),
                ("-m devgroup {}--src-group {}", (_NOT, ("0", "1", "0x2/0x1"))),
            ),
        ),
        (frozenset({"PREROUTING", "INPUT"}), (("-m socket{}", (("", " --nowildcard", " --transparent"),)),)),
        (
            frozenset({"OUTPUT", "POSTROUTING"}),
            (
                ("-m owner {}", (_OWNERS,)),
                ("-m policy --dir out --pol {}", (("none", "ipsec"),)),
                ("-m cgroup {}--cgroup {}", (_NOT, ("0", "1"))),
            ),
        ),
        (_OUT, (("-m devgroup {}--dst-group {}", (_NOT, ("0", "1"))),)),
    )


_MARKING: Final = (
    "MARK --set-mark 0x1", "MARK --set-xmark 0x4000/0x4000", "MARK --or-mark 0x10", "MARK --and-mark 0xff",
    "MARK --xor-mark 0x8000", "CONNMARK --set-mark 0x1", "CONNMARK --set-xmark 0x10/0xf0", "CONNMARK --save-mark",
    "CONNMARK --restore-mark", "CONNMARK --save-mark --nfmask 0xff --ctmask 0xff", "TOS --set-tos 0x10",
    "CONNMARK --restore-mark --nfmask 0xf0 --ctmask 0xff", "TOS --set-tos 0x08/0x3f", "DSCP --set-dscp 0x2e",
    "CONNMARK --save-mark --left-shift-mark 4", "CONNMARK --restore-mark --right-shift-mark 4", "DSCP --set-dscp 0",
)  # fmt: skip
_CT_SYSCTLS: Final[tuple[Mapping[str, str], ...]] = (
    {}, {}, {},
    {"net.netfilter.nf_conntrack_acct": "1"},
    {"net.netfilter.nf_conntrack_tcp_loose": "0"},
    {"net.netfilter.nf_conntrack_tcp_be_liberal": "1"},
    {"net.netfilter.nf_conntrack_checksum": "0"},
    {"net.netfilter.nf_conntrack_tcp_ignore_invalid_rst": "1"},
    {"net.netfilter.nf_conntrack_tcp_max_retrans": "1"},
)  # fmt: skip

TOPOLOGY4: Final[Mapping[str, Any]] = {
    "interfaces": [
        {"name": "eth0", "mac": MACS["eth0"], "addresses": ["10.0.0.1/24"]},
        {"name": "pod0", "mac": MACS["pod0"], "addresses": ["10.244.1.1/32"]},
        {"name": "pod1", "mac": MACS["pod1"], "addresses": ["10.244.1.1/32"]},
    ],
    "routes": [
        {"dst": "default", "via": "10.0.0.254", "dev": "eth0"},
        {"dst": "10.244.1.2/32", "dev": "pod0", "scope": "link"},
        {"dst": "10.244.1.3/32", "dev": "pod1", "scope": "link"},
    ],
    "neighbours": [
        {"address": "10.0.0.254", "mac": GATEWAY_MAC, "interface": "eth0"},
        {"address": "10.0.0.2", "mac": "02:00:00:00:01:02", "interface": "eth0"},
        {"address": "10.244.1.2", "mac": "02:00:00:00:02:0a", "interface": "pod0"},
        {"address": "10.244.1.3", "mac": "02:00:00:00:02:0b", "interface": "pod1"},
    ],
}
#: The same with its pods on a bridge.
BRIDGED4: Final[Mapping[str, Any]] = {
    "interfaces": [
        {"name": "eth0", "mac": MACS["eth0"], "addresses": ["10.0.0.1/24"]},
        {"name": "cbr0", "kind": "bridge", "mac": BRIDGE_MAC, "addresses": ["10.244.1.1/24"]},
        {"name": "pod0", "mac": MACS["pod0"], "master": "cbr0", "hairpin": True},
        {"name": "pod1", "mac": MACS["pod1"], "master": "cbr0"},
    ],
    "routes": [{"dst": "default", "via": "10.0.0.254", "dev": "eth0"}],
    "neighbours": [
        *TOPOLOGY4["neighbours"][:2],
        {"address": "10.244.1.2", "mac": "02:00:00:00:02:0a", "interface": "cbr0"},
        {"address": "10.244.1.3", "mac": "02:00:00:00:02:0b", "interface": "cbr0"},
    ],
}
#: The same with other ways for marked packets and for one pod.
ROUTED4: Final[Mapping[str, Any]] = {
    **TOPOLOGY4,
    "routes": [
        *TOPOLOGY4["routes"],
        {"dst": "default", "via": "10.0.0.2", "dev": "eth0", "table": 100},
        {"dst": "203.0.113.0/24", "dev": "pod1", "table": 100},
        {"dst": "203.0.113.77/32", "type": "unreachable", "table": 101},
        {"dst": "10.96.0.0/16", "type": "blackhole", "table": 101},
        {"dst": "203.0.113.0/26", "type": "prohibit", "table": 101},
    ],
    "ip_rules": [
        {"priority": 100, "fwmark": "0x1", "table": 100},
        {"priority": 101, "fwmark": "0x4000/0x4000", "table": 101},
        {"priority": 102, "from": "10.244.1.3", "table": 101},
        {"priority": 103, "iif": "pod0", "to": "203.0.113.64/26", "table": 100},
    ],
}
_MACS4: Final = {entry["address"]: entry["mac"] for entry in TOPOLOGY4["neighbours"]}
_NETWORKS4: Final = ("10.244.0.0/16", "10.96.0.0/12", "10.0.0.0/24", "203.0.113.0/26", "10.244.1.2/31", "0.0.0.0/0")
_ADDRESSES4: Final = (
    "10.0.0.1", "10.96.0.10", "10.96.0.11", "10.244.1.2", "10.244.1.3", "10.0.0.2", "203.0.113.9", "203.0.113.77",
)  # fmt: skip

WORLD4: Final = World(
    version=4,
    node="10.0.0.1",
    services=("10.96.0.10", "10.96.0.11"),
    pods=("10.244.1.2", "10.244.1.3"),
    near="10.0.0.2",
    far=("203.0.113.9", "203.0.113.77"),
    networks=_NETWORKS4,
    router="198.51.100.1",
    topology=TOPOLOGY4,
    macs=_MACS4,
    general=(
        *_general(
            (*_ADDRESSES4, *_NETWORKS4),
            ("203.0.113.1-203.0.113.20", "10.96.0.0-10.96.0.10"),
            ("LOCAL", "UNICAST", "BROADCAST", "MULTICAST", "LOCAL,BROADCAST"),
            ("0", "24", "31", "32"),
        ),
        ("-m ttl --ttl-{} {}", (("eq", "lt", "gt"), ("62", "63", "64", "1"))),
        (
            '-m u32 --u32 "{}"',
            (("6&0xFF=6,17", "16=0x0AF40102", "0>>22&0x3C@0>>16=500", "2&0xFFFF=0:60"),),
        ),
        (
            '-m bpf --bytecode "{}"',
            (
                (
                    "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0",
                    "5,177 0 0 0,72 0 0 2,21 0 1 80,6 0 0 1,6 0 0 0",
                    "4,32 0 0 16,21 0 1 183763210,6 0 0 1,6 0 0 0",
                ),
            ),
        ),
        ("{}-f", (_NOT,)),
    ),
    of_protocol={
        **_TRANSPORTS,
        "icmp": (("-m icmp {}--icmp-type {}", (_NOT, ("8", "echo-reply", "3", "3/4", "11", "any"))),),
    },
    placed=(*_placed(tuple(_MACS4.values())), (_OUT, (("-m realm {}--realm {}", (_NOT, ("0", "1"))),))),
    dnats=(
        "10.244.1.2", "10.244.1.3", "10.244.1.2:80", "10.244.1.3:8080", "10.0.0.1", "10.0.0.1:80", "203.0.113.77",
        "10.0.0.2:53", "10.244.1.2-10.244.1.3", "10.244.1.2-10.244.1.3 --persistent", "127.0.0.1",
    ),
    snats=("10.0.0.1", "10.9.9.9", "10.0.0.10-10.0.0.13", "10.0.0.10-10.0.0.13 --persistent"),
    port_dnats=("REDIRECT --to-ports 8080", "REDIRECT --to-ports 5353", "DNAT --to-destination 10.244.1.3:8000"),
    port_snats=(
        "SNAT --to-source 10.0.0.1:5000", "SNAT --to-source 10.9.9.9:6000-6001", "MASQUERADE --to-ports 7000",
    ),
    netmap="10.244.1.0/24",
    rejects=(
        "icmp-port-unreachable", "icmp-host-unreachable", "icmp-net-unreachable", "icmp-proto-unreachable",
        "icmp-host-prohibited", "icmp-admin-prohibited", "icmp-net-prohibited",
    ),
    mangles=(*_MARKING, "TTL --ttl-inc 1", "TTL --ttl-dec 1", "TTL --ttl-set 32", "TTL --ttl-set 1"),
    copies=(
        "TEE --gateway 10.0.0.2", "TEE --gateway 10.244.1.3", "TEE --gateway 203.0.113.9",
        "NFQUEUE --queue-num 3", "NFQUEUE --queue-num 3 --queue-bypass", "AUDIT --type accept",
    ),
    icmp=("icmp", 1, 8, 0),
    sets=(
        "create hi hash:ip\ncreate hn hash:net\ncreate hp hash:ip,port\nadd hi {}\nadd hi {}\nadd hn 10.244.0.0/16\n"
        "add hn 10.96.0.0/28 nomatch\nadd hn 10.96.0.0/12\nadd hp 10.244.1.2,tcp:80\nadd hp 10.96.0.10,udp:53"
    ),
    sysctls=(
        *_CT_SYSCTLS,
        {"net.ipv4.conf.all.route_localnet": "1"},
        {"net.ipv4.conf.all.rp_filter": "1"},
        {"net.ipv4.conf.all.rp_filter": "2"},
        {"net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.eth0.src_valid_mark": "1"},
        {"net.ipv4.conf.all.accept_local": "1"},
        {"net.ipv4.ip_forward": "0"},
        {"net.ipv4.conf.pod0.rp_filter": "1", "net.ipv4.conf.eth0.route_localnet": "1"},
        {"net.ipv4.fwmark_reflect": "1"},
    ),
)  # fmt: skip

TOPOLOGY6: Final[Mapping[str, Any]] = {
    "ipv6": True,
    "interfaces": [
        {"name": "eth0", "mac": MACS["eth0"], "addresses": ["10.0.0.1/24", "fd00::1/64"]},
        {"name": "pod0", "mac": MACS["pod0"], "addresses": ["10.244.1.1/32", "fd00:10::1/128"]},
        {"name": "pod1", "mac": MACS["pod1"], "addresses": ["10.244.1.1/32", "fd00:10::1:1/128"]},
    ],
    "routes": [
        *TOPOLOGY4["routes"],
        {"dst": "::/0", "via": "fd00::fe", "dev": "eth0"},
        {"dst": "fd00:10::2/128", "dev": "pod0"},
        {"dst": "fd00:10::3/128", "dev": "pod1"},
    ],
    "neighbours": [
        *TOPOLOGY4["neighbours"],
        {"address": "fd00::fe", "mac": GATEWAY_MAC, "interface": "eth0"},
        {"address": "fd00::2", "mac": "02:00:00:00:01:02", "interface": "eth0"},
        {"address": "fd00:10::2", "mac": "02:00:00:00:02:0a", "interface": "pod0"},
        {"address": "fd00:10::3", "mac": "02:00:00:00:02:0b", "interface": "pod1"},
    ],
}
#: The same with its pods on a bridge.
BRIDGED6: Final[Mapping[str, Any]] = {
    "ipv6": True,
    "interfaces": [
        {"name": "eth0", "mac": MACS["eth0"], "addresses": ["10.0.0.1/24", "fd00::1/64"]},
        {"name": "cbr0", "kind": "bridge", "mac": BRIDGE_MAC, "addresses": ["10.244.1.1/24", "fd00:10::1/64"]},
        *BRIDGED4["interfaces"][2:],
    ],
    "routes": [*BRIDGED4["routes"], {"dst": "::/0", "via": "fd00::fe", "dev": "eth0"}],
    "neighbours": [
        *BRIDGED4["neighbours"],
        {"address": "fd00::fe", "mac": GATEWAY_MAC, "interface": "eth0"},
        {"address": "fd00::2", "mac": "02:00:00:00:01:02", "interface": "eth0"},
        {"address": "fd00:10::2", "mac": "02:00:00:00:02:0a", "interface": "cbr0"},
        {"address": "fd00:10::3", "mac": "02:00:00:00:02:0b", "interface": "cbr0"},
    ],
}
#: The first with other ways for marked packets and for one pod.
ROUTED6: Final[Mapping[str, Any]] = {
    **TOPOLOGY6,
    "routes": [
        *TOPOLOGY6["routes"],
        {"dst": "::/0", "via": "fd00::2", "dev": "eth0", "table": 100},
        {"dst": "2001:db8::/64", "dev": "pod1", "table": 100},
        {"dst": "2001:db8::77/128", "type": "unreachable", "table": 101},
        {"dst": "fd00:96::/64", "type": "blackhole", "table": 101},
        {"dst": "2001:db8::/122", "type": "prohibit", "table": 101},
        {"dst": "fd00:10::/64", "type": "throw", "table": 101},
    ],
    "ip_rules": [
        {"priority": 100, "fwmark": "0x1", "table": 100, "family": 6},
        {"priority": 101, "fwmark": "0x4000/0x4000", "table": 101, "family": 6},
        {"priority": 102, "from": "fd00:10::3", "table": 101},
        {"priority": 103, "iif": "pod0", "to": "2001:db8::40/122", "table": 100},
    ],
}
_MACS6: Final = {entry["address"]: entry["mac"] for entry in TOPOLOGY6["neighbours"] if ":" in entry["address"]}
_NETWORKS6: Final = ("fd00:10::/64", "fd00:96::/32", "fd00::/64", "2001:db8::/122", "fd00:10::2/127", "::/0")
_ADDRESSES6: Final = (
    "fd00::1", "fd00:96::10", "fd00:96::11", "fd00:10::2", "fd00:10::3", "fd00::2", "2001:db8::9", "2001:db8::77",
)  # fmt: skip
_ICMP6_TYPES: Final = ("128", "echo-reply", "1", "1/4", "2", "3", "135")

WORLD6: Final = World(
    version=6,
    node="fd00::1",
    services=("fd00:96::10", "fd00:96::11"),
    pods=("fd00:10::2", "fd00:10::3"),
    near="fd00::2",
    far=("2001:db8::9", "2001:db8::77"),
    networks=_NETWORKS6,
    router="2001:db8:1::1",
    topology=TOPOLOGY6,
    macs=_MACS6,
    general=(
        *_general(
            (*_ADDRESSES6, *_NETWORKS6),
            ("2001:db8::1-2001:db8::20", "fd00:96::-fd00:96::10"),
            ("LOCAL", "UNICAST", "MULTICAST", "LOCAL,MULTICAST"),
            ("0", "64", "127", "128"),
        ),
        ("-m hl --hl-{} {}", (("eq", "lt", "gt"), ("62", "63", "64", "1"))),
        ('-m u32 --u32 "{}"', (("6&0xFF=0x11,6", "4>>16=0:60"),)),
        ("-m frag {}--fragid {}", (_NOT, ("0:300", "257"))),
        ("-m frag {}", (("--fragfirst", "--fragmore", "--fraglast", "--fragres"),)),
        ("-m ipv6header {}--header {}", (_NOT, ("dst", "hop", "route", "frag", "dst,hop --soft"))),
        ("-m rt {}--rt-type {}", (_NOT, ("0", "2", "0 --rt-segsleft 0:1"))),
        ("-m ah {}--ahlen {}", (_NOT, ("0", "12", "24", "16 --ahspi 0:500"))),
        ("-m hbh {}--hbh-len {}", (_NOT, ("8", "16", "8 --hbh-opts 5:2"))),
        ("-m dst {}--dst-len {}", (_NOT, ("8", "16", "8 --dst-opts 1"))),
    ),
    of_protocol={
        **_TRANSPORTS,
        "icmpv6": (("-m icmp6 {}--icmpv6-type {}", (_NOT, _ICMP6_TYPES)),),
    },
    placed=(*_placed(tuple(_MACS6.values())), (_IN, (("-m eui64", ()),))),
    dnats=(
        "fd00:10::2", "fd00:10::3", "[fd00:10::2]:80", "[fd00:10::3]:8080", "fd00::1", "[fd00::1]:80", "2001:db8::77",
        "[fd00::2]:53", "fd00:10::2-fd00:10::3", "fd00:10::2-fd00:10::3 --persistent", "::1",
    ),
    snats=("fd00::1", "fd99::9", "fd00::a-fd00::d", "fd00::a-fd00::d --persistent"),
    port_dnats=("REDIRECT --to-ports 8080", "REDIRECT --to-ports 5353", "DNAT --to-destination [fd00:10::3]:8000"),
    port_snats=(
        "SNAT --to-source [fd00::1]:5000", "SNAT --to-source [fd99::9]:6000-6001", "MASQUERADE --to-ports 7000",
    ),
    netmap="fd00:10::/64",
    rejects=(
        "icmp6-port-unreachable", "icmp6-no-route", "icmp6-adm-prohibited", "icmp6-addr-unreachable",
        "icmp6-policy-fail", "icmp6-reject-route",
    ),
    mangles=(*_MARKING, "HL --hl-inc 1", "HL --hl-dec 1", "HL --hl-set 32", "HL --hl-set 1"),
    copies=(
        "TEE --gateway fd00::2", "TEE --gateway fd00:10::3", "TEE --gateway 2001:db8::9",
        "NFQUEUE --queue-num 3", "NFQUEUE --queue-num 3 --queue-bypass", "AUDIT --type accept",
    ),
    icmp=("icmpv6", 58, 128, 129),
    sets=(
        "create hi hash:ip family inet6\ncreate hn hash:net family inet6\ncreate hp hash:ip,port family inet6\n"
        "add hi {}\nadd hi {}\nadd hn fd00:10::/32\nadd hn fd00:96::/112 nomatch\nadd hn fd00:96::/32\n"
        "add hp fd00:10::2,tcp:80\nadd hp fd00:96::10,udp:53"
    ),
    sysctls=tuple(
        {"net.ipv6.icmp.ratelimit": "0", **some}
        for some in (*_CT_SYSCTLS, {"net.ipv6.conf.all.forwarding": "0"}, {"net.ipv6.fwmark_reflect": "1"})
    ),
)  # fmt: skip


def node_of(topology: Mapping[str, Any]) -> dict[str, Any]:
    """The case's part that says what node it is, to be changed freely."""
    return copy.deepcopy(dict(topology))
