"""Hypothesis strategies for cases: a node with random rules, and a sequence of packets that mean something to it.

Rules and packets are drawn from few addresses, ports and marks, so that they meet. A step may answer what an earlier
one has led to, so each case is run on pktsim while it is drawn: the result is the case together with that run.

Each rule and each step is decided by a few bytes of its own (:class:`Dice`). Hypothesis draws these, which is many
times faster than to ask it for each decision, and takes away rules and steps, or puts zeros for bytes, when it shrinks:
so the first alternative is always the plainest.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from pktsim.errors import ObjectError, PktsimError
from pktsim.kernel.case import CaseRun, read_field
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_IP, FrameView, TcpFlag, ethernet, icmp, ipv4, tcp, tcp_options, udp
from pktsim.wire.summary import summary

NODE: Final = "10.0.0.1"
SERVICES: Final = ("10.96.0.10", "10.96.0.11")
PODS: Final = ("10.244.1.2", "10.244.1.3")
NEAR: Final = "10.0.0.2"
FAR: Final = ("203.0.113.9", "203.0.113.77")
ROUTER: Final = "198.51.100.1"
ADDRESSES: Final = (NODE, *SERVICES, *PODS, NEAR, *FAR)
NETWORKS: Final = ("10.244.0.0/16", "10.96.0.0/12", "10.0.0.0/24", "203.0.113.0/26", "10.244.1.2/31", "0.0.0.0/0")
PORTS: Final = (53, 80, 443, 8080, 30080, 500, 4000, 40000)
INTERFACES: Final = ("eth0", "pod0", "pod1", "lo", "pod+")

TOPOLOGY: Final[dict[str, Any]] = {
    "interfaces": [
        {"name": "eth0", "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.1/24"]},
        {"name": "pod0", "mac": "02:00:00:00:00:0a", "addresses": ["10.244.1.1/32"]},
        {"name": "pod1", "mac": "02:00:00:00:00:0b", "addresses": ["10.244.1.1/32"]},
    ],
    "routes": [
        {"dst": "default", "via": "10.0.0.254", "dev": "eth0"},
        {"dst": "10.244.1.2/32", "dev": "pod0", "scope": "link"},
        {"dst": "10.244.1.3/32", "dev": "pod1", "scope": "link"},
    ],
    "neighbours": [
        {"address": "10.0.0.254", "mac": "02:00:00:00:01:fe", "interface": "eth0"},
        {"address": "10.0.0.2", "mac": "02:00:00:00:01:02", "interface": "eth0"},
        {"address": "10.244.1.2", "mac": "02:00:00:00:02:0a", "interface": "pod0"},
        {"address": "10.244.1.3", "mac": "02:00:00:00:02:0b", "interface": "pod1"},
    ],
}
#: The same with its pods on a bridge.
BRIDGED: Final[dict[str, Any]] = {
    "interfaces": [
        {"name": "eth0", "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.1/24"]},
        {"name": "cbr0", "kind": "bridge", "mac": "02:00:00:00:00:c0", "addresses": ["10.244.1.1/24"]},
        {"name": "pod0", "mac": "02:00:00:00:00:0a", "master": "cbr0", "hairpin": True},
        {"name": "pod1", "mac": "02:00:00:00:00:0b", "master": "cbr0"},
    ],
    "routes": [{"dst": "default", "via": "10.0.0.254", "dev": "eth0"}],
    "neighbours": [
        *TOPOLOGY["neighbours"][:2],
        {"address": "10.244.1.2", "mac": "02:00:00:00:02:0a", "interface": "cbr0"},
        {"address": "10.244.1.3", "mac": "02:00:00:00:02:0b", "interface": "cbr0"},
    ],
}
_MACS: Final = {one["name"]: one["mac"] for one in TOPOLOGY["interfaces"]}
_BRIDGE_MAC: Final = BRIDGED["interfaces"][1]["mac"]
_NEIGHBOURS: Final = {entry["address"]: entry["mac"] for entry in TOPOLOGY["neighbours"]}

T = TypeVar("T")


class Dice:
    """Decisions by the bytes given; when these are used up, the first alternative."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, n: int) -> int:
        """A number less than ``n``, which is small."""
        if n <= 1 or self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1] % n

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[self.below(len(values))]

    def one_in(self, n: int) -> bool:
        """True once in ``n`` times."""
        return self.below(n) == n - 1


# --------------------------------------------------------------------------------------------------------------- rules

_ADDRESS = (*ADDRESSES, *NETWORKS)
_STATES = (
    "NEW",
    "ESTABLISHED",
    "RELATED",
    "INVALID",
    "UNTRACKED",
    "RELATED,ESTABLISHED",
    "NEW,RELATED",
    "NEW,DNAT",
    "SNAT",
    "DNAT",
)
_STATUSES = ("NONE", "SEEN_REPLY", "ASSURED", "CONFIRMED", "EXPECTED")
_MARKS = ("0x1", "0x1/0x1", "0x4000/0x4000", "0x8000/0xc000", "0x0", "0x10/0xf0")
_TYPES = ("LOCAL", "UNICAST", "BROADCAST", "MULTICAST", "LOCAL,BROADCAST")
_PORT = ("53", "80", "443", "8080", "30080", "500", "4000", "40000", "80:443", "1024:", ":1023")
_PORTS_LIST = ("53,80", "80,443,8000:9000", "4000,500", "53,30080", "40000")
_LIMITS = ("1", "2", "3")
_NOT = ("", "", "", "! ")

_Form = tuple[str, tuple[Sequence[str], ...]]

#: Matches of any rule: text with what to fill in.
_GENERAL: Final[tuple[_Form, ...]] = (
    ("-m conntrack {}--ctstate {}", (_NOT, _STATES)),
    ("-m conntrack {}--ctstatus {}", (_NOT, _STATUSES)),
    ("-m conntrack --ctdir {}", (("ORIGINAL", "REPLY"),)),
    ("-m conntrack {}--ctproto {}", (_NOT, ("6", "17", "1"))),
    ("-m conntrack {}--{} {}", (_NOT, ("ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst"), _ADDRESS)),
    ("-m conntrack --{} {}", (("ctorigsrcport", "ctorigdstport", "ctreplsrcport", "ctrepldstport"), _PORT)),
    ("-m conntrack --ctexpire {}", (("0:20", "100:200", "30"),)),
    ("-m state {}--state {}", (_NOT, ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"))),
    ("-m mark {}--mark {}", (_NOT, _MARKS)),
    ("-m connmark {}--mark {}", (_NOT, _MARKS)),
    ("-m addrtype {}--dst-type {}", (_NOT, _TYPES)),
    ("-m addrtype {}--src-type {}", (_NOT, _TYPES)),
    ("-m statistic --mode nth {}--every {} --packet 0", (_NOT, ("1", "2", "3"))),
    ("-m limit --limit 1/hour --limit-burst {}", (_LIMITS,)),
    ("-m length {}--length {}", (_NOT, ("0:60", "40", "61:", "28:33"))),
    ("-m ttl --ttl-{} {}", (("eq", "lt", "gt"), ("62", "63", "64", "1"))),
    ("-m dscp {}--dscp {}", (_NOT, ("0", "0x2e", "8"))),
    ("-m tos --tos {}", (("0x10/0x3f", "0x00", "0xb8/0xff"),)),
    ("-m pkttype {}--pkt-type {}", (_NOT, ("unicast", "broadcast", "multicast"))),
    ("-m iprange {}--{}-range {}", (_NOT, ("src", "dst"), ("203.0.113.1-203.0.113.20", "10.96.0.0-10.96.0.10"))),
    ("-m u32 --u32 \"{}\"", (("6&0xFF=6,17", "16=0x0AF40102", "0>>22&0x3C@0>>16=500", "2&0xFFFF=0:60"),)),
    ("-m string --algo {} --string {}", (("bm", "kmp"), ("GET", "hello"))),
    ("-m recent --name R{} --{} --{}", (("1", "2"), ("set", "rcheck", "remove", "update"), ("rsource", "rdest"))),
    ("-m connbytes {}--connbytes {} --connbytes-dir {} --connbytes-mode {}", (
        _NOT, ("2:3", "40:100", "2"), ("original", "reply", "both"), ("packets", "bytes", "avgpkt"),
    )),
    ("-m recent --name R1 --{} --hitcount {}", (("rcheck", "update"), ("2", "3"))),
    ("-m set {}--match-set {} {}", (_NOT, ("hi", "hn"), ("src", "dst"))),
    ("-m set --match-set hp {}", (("src,src", "dst,dst"),)),
    ("-m comment --comment \"{}\"", (("a", "two words"),)),
)  # fmt: skip
_OF_PROTOCOL: Final[Mapping[str, tuple[_Form, ...]]] = {
    "tcp": (
        ("-m tcp {}--dport {}", (_NOT, _PORT)),
        ("-m tcp {}--sport {}", (_NOT, _PORT)),
        ("-m tcp {}--tcp-flags {}", (_NOT, ("SYN,RST SYN", "ACK ACK", "FIN FIN", "SYN,ACK,FIN,RST SYN"))),
        ("-m tcp {}--tcp-option {}", (_NOT, ("2", "3", "8"))),
        ("-m multiport {}--{} {}", (_NOT, ("dports", "sports", "ports"), _PORTS_LIST)),
        ("-m tcpmss {}--mss {}", (_NOT, ("1460", "500:1400"))),
    ),
    "udp": (
        ("-m udp {}--dport {}", (_NOT, _PORT)),
        ("-m udp {}--sport {}", (_NOT, _PORT)),
        ("-m multiport {}--{} {}", (_NOT, ("dports", "sports", "ports"), _PORTS_LIST)),
    ),
    "icmp": (("-m icmp {}--icmp-type {}", (_NOT, ("8", "echo-reply", "3", "3/4", "11", "any"))),),
    "sctp": (("-m sctp {}--dport {}", (_NOT, _PORT)),),
}
_OWNERS: Final = (
    "--uid-owner 0", "! --uid-owner 0", "--uid-owner 1000-2000", "! --gid-owner 1500", "--socket-exists",
    "! --socket-exists",
)  # fmt: skip
_REJECTS: Final = (
    "icmp-port-unreachable", "icmp-host-unreachable", "icmp-net-unreachable", "icmp-proto-unreachable",
    "icmp-host-prohibited", "icmp-admin-prohibited", "icmp-net-prohibited",
)  # fmt: skip
_DNATS: Final = (
    "10.244.1.2", "10.244.1.3", "10.244.1.2:80", "10.244.1.3:8080", "10.0.0.1", "10.0.0.1:80", "203.0.113.77",
    "10.0.0.2:53", "10.244.1.2-10.244.1.3", "10.244.1.2-10.244.1.3 --persistent", "127.0.0.1",
)  # fmt: skip
_SNATS: Final = ("10.0.0.1", "10.9.9.9", "10.0.0.10-10.0.0.13", "10.0.0.10-10.0.0.13 --persistent")
_PORT_NATS: Final[Mapping[str, tuple[str, ...]]] = {
    "POSTROUTING": (
        "SNAT --to-source 10.0.0.1:5000", "SNAT --to-source 10.9.9.9:6000-6001", "MASQUERADE --to-ports 7000",
    ),
    "PREROUTING": ("REDIRECT --to-ports 8080", "REDIRECT --to-ports 5353", "DNAT --to-destination 10.244.1.3:8000"),
}  # fmt: skip
_MANGLES: Final = (
    "MARK --set-mark 0x1", "MARK --set-xmark 0x4000/0x4000", "MARK --or-mark 0x10", "MARK --and-mark 0xff",
    "MARK --xor-mark 0x8000", "CONNMARK --set-mark 0x1", "CONNMARK --set-xmark 0x10/0xf0", "CONNMARK --save-mark",
    "CONNMARK --restore-mark", "CONNMARK --save-mark --nfmask 0xff --ctmask 0xff", "TOS --set-tos 0x10",
    "CONNMARK --restore-mark --nfmask 0xf0 --ctmask 0xff", "TOS --set-tos 0x08/0x3f", "DSCP --set-dscp 0x2e",
    "DSCP --set-dscp 0", "TTL --ttl-inc 1", "TTL --ttl-dec 1", "TTL --ttl-set 32", "TTL --ttl-set 1",
)  # fmt: skip
_MSS: Final = ("TCPMSS --set-mss 1000", "TCPMSS --set-mss 1400")
_RAWS: Final = ("CT --notrack", "CT --notrack", "CT --zone 1", "CT --zone-orig 2")
_BUILTIN: Final = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


@dataclass(frozen=True)
class _Place:
    table: str
    hooks: tuple[str, ...]
    jumps: tuple[str, ...]


def _fill(dice: Dice, form: _Form) -> str:
    template, parts = form
    return template.format(*(dice.pick(part) for part in parts))


def _rule(dice: Dice, place: _Place) -> str:
    words: list[str] = []
    target = dice.pick(_TARGETS[place])
    protocol = _needed_protocol(target) or dice.pick(("", "", "tcp", "udp", "tcp", "udp", "icmp", "sctp"))
    if protocol:
        words.append(f"-p {protocol}")
    elif dice.one_in(10):
        words.append(f"! -p {dice.pick(('tcp', 'udp', 'icmp'))}")
    if dice.one_in(3):
        words.append(_fill(dice, dice.pick(_OF_PROTOCOL[protocol] if protocol else _GENERAL)))
    for _ in range(dice.pick((0, 1, 0, 1, 0, 2))):
        another = _fill(dice, dice.pick(_GENERAL))
        # the tool takes a second --mark for the wrong match
        if not ("--mark" in another and any("--mark" in word for word in words)):
            words.append(another)
    if dice.one_in(20):
        words.append(f"{dice.pick(_NOT)}-f")
    if dice.one_in(20) and set(place.hooks) <= {"OUTPUT", "POSTROUTING"}:
        words.append(f"-m owner {dice.pick(_OWNERS)}")
    if dice.one_in(20) and set(place.hooks) <= {"PREROUTING", "INPUT", "FORWARD"}:
        words.append(f"-m mac {dice.pick(_NOT)}--mac-source {dice.pick(tuple(_NEIGHBOURS.values()))}")
    for flag in ("-s", "-d"):
        if dice.one_in(4):
            words.append(f"{dice.pick(_NOT)}{flag} {dice.pick(_ADDRESS)}")
    if dice.one_in(6) and not {"OUTPUT", "POSTROUTING"} & set(place.hooks):
        words.append(f"{dice.pick(_NOT)}-i {dice.pick(INTERFACES)}")
    if dice.one_in(6) and not {"INPUT", "PREROUTING"} & set(place.hooks):
        words.append(f"{dice.pick(_NOT)}-o {dice.pick(INTERFACES)}")
    return " ".join([*words, *([target] if target else [])])


def _needed_protocol(target: str) -> str:
    if "tcp-reset" in target or "TCPMSS" in target:
        return "tcp"
    return "udp" if "--to-ports" in target or re.search(r"(destination|source) \S*:", target) else ""


def _targets(place: _Place) -> tuple[str, ...]:
    some = ["", "-j RETURN", *(f"-{how} {chain}" for chain in place.jumps for how in "jjg")]
    hooks = set(place.hooks)
    if place.table == "nat":
        some.append("-j ACCEPT")
        if hooks <= {"PREROUTING", "OUTPUT"}:
            some += [f"-j DNAT --to-destination {to}" for to in _DNATS]
            some += ["-j REDIRECT", "-j NETMAP --to 10.244.1.0/24", *(f"-j {to}" for to in _PORT_NATS["PREROUTING"])]
        if hooks <= {"POSTROUTING", "INPUT"}:
            some += [f"-j SNAT --to-source {to}" for to in _SNATS]
            if hooks == {"POSTROUTING"}:
                some += ["-j MASQUERADE"] * 4 + [f"-j {to}" for to in _PORT_NATS["POSTROUTING"]]
    elif place.table == "raw":
        some += ["-j ACCEPT", "-j DROP", *(f"-j {target}" for target in _RAWS)]
    elif place.table == "mangle":
        some += ["-j ACCEPT", "-j DROP", *(f"-j {target}" for target in _MANGLES)]
        some += [f"-m tcp --tcp-flags SYN,RST SYN -j {target}" for target in _MSS]
    else:
        some += ["-j ACCEPT", "-j ACCEPT", "-j ACCEPT", "-j DROP", "-j DROP"]
        some += [f"-j REJECT --reject-with {kind}" for kind in (*_REJECTS, "tcp-reset", "tcp-reset", "tcp-reset")]
        some += [f"-j SET --{verb}-set hi {side}" for verb in ("add", "del") for side in ("src", "dst")]
    return tuple(some)


#: User chains, and which builtin ones may lead to each. Jumps go to later ones only.
_USER_CHAINS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "raw": {"R0": ("PREROUTING", "OUTPUT")},
    "mangle": {"M0": ("PREROUTING", "FORWARD", "OUTPUT"), "M1": ("PREROUTING", "FORWARD", "OUTPUT")},
    "nat": {"D0": ("PREROUTING", "OUTPUT"), "D1": ("PREROUTING", "OUTPUT"), "S0": ("POSTROUTING",)},
    "filter": dict.fromkeys(("F0", "F1", "F2"), ("INPUT", "FORWARD", "OUTPUT")),
}


def _places() -> dict[tuple[str, str], _Place]:
    found: dict[tuple[str, str], _Place] = {}
    for table, builtin in _BUILTIN.items():
        users = _USER_CHAINS[table]
        for chain in builtin:
            found[table, chain] = _Place(
                table, (chain,), tuple(name for name, hooks in users.items() if chain in hooks)
            )
        for index, (chain, hooks) in enumerate(users.items()):
            later = tuple(name for name, reach in list(users.items())[index + 1 :] if reach == hooks)
            found[table, chain] = _Place(table, hooks, later)
    return found


_PLACES: Final = _places()
_TARGETS: Final = {place: _targets(place) for place in _PLACES.values()}
#: Where rules go, the more often the more matters there.
_WEIGHTED: Final = tuple(key for key in _PLACES for _ in range({"raw": 1, "mangle": 1, "nat": 3, "filter": 3}[key[0]]))
_POLICIES: Final = tuple((table, chain) for table, chains in _BUILTIN.items() if table != "nat" for chain in chains)


def rules_text(rules: Sequence[bytes], dropping: int) -> str:
    """``iptables-restore`` text with all four tables.

    Args:
        rules: Bytes that decide each rule, its place first.
        dropping: Which builtin chain has the policy DROP; none if there are not so many.
    """
    lines: dict[tuple[str, str], list[str]] = {key: [] for key in _PLACES}
    for data in rules:
        dice = Dice(data)
        key = dice.pick(_WEIGHTED)
        lines[key].append(f"-A {key[1]} {_rule(dice, _PLACES[key])}".rstrip())
    text = []
    for table, builtin in _BUILTIN.items():
        text.append(f"*{table}")
        for chain in builtin:
            drop = dropping < len(_POLICIES) and _POLICIES[dropping] == (table, chain)
            text.append(f":{chain} {'DROP' if drop else 'ACCEPT'} [0:0]")
        text += [f":{chain} - [0:0]" for chain in _USER_CHAINS[table]]
        text += [line for (where, _), some in lines.items() if where == table for line in some]
        text.append("COMMIT")
    return "\n".join(text) + "\n"


_SETS: Final = (
    "create hi hash:ip\ncreate hn hash:net\ncreate hp hash:ip,port\nadd hi {}\nadd hi {}\nadd hn 10.244.0.0/16\n"
    "add hn 10.96.0.0/28 nomatch\nadd hn 10.96.0.0/12\nadd hp 10.244.1.2,tcp:80\nadd hp 10.96.0.10,udp:53"
)
_SYSCTLS: Final[tuple[dict[str, str], ...]] = (
    {}, {}, {},
    {"net.netfilter.nf_conntrack_acct": "1"},
    {"net.netfilter.nf_conntrack_tcp_loose": "0"},
    {"net.netfilter.nf_conntrack_tcp_be_liberal": "1"},
    {"net.netfilter.nf_conntrack_checksum": "0"},
    {"net.ipv4.conf.all.route_localnet": "1"},
    {"net.ipv4.conf.all.rp_filter": "1"},
    {"net.ipv4.conf.all.rp_filter": "2"},
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- packets


@dataclass
class Flow:
    """A conversation: who began it, and where its numbers stand."""

    protocol: int
    source: str
    destination: str
    sport: int
    dport: int
    seq: int = 1000
    ack: int = 5001


@dataclass
class Story:
    """A case that is being drawn."""

    case: dict[str, Any]
    run: CaseRun
    flows: list[Flow] = field(default_factory=list)
    identification: int = 0x100
    #: Whether packets are cut into fragments now and then.
    fragments: bool = False
    #: (step, frame) of what has left and could be answered.
    left: list[tuple[int, int]] = field(default_factory=list)

    def next_id(self) -> int:
        self.identification += 1
        return self.identification

    def take(self, step: dict[str, Any]) -> None:
        """Add a step and take it."""
        index = len(self.case["steps"])
        self.case["steps"].append(step)
        result = self.run.take(step)
        self.left += [(index, number) for number in range(len(result.emitted))]


_SYN, _SYNACK, _ACK = TcpFlag.SYN, TcpFlag.SYN | TcpFlag.ACK, TcpFlag.ACK
_PSHACK, _FINACK, _RST, _RSTACK = (
    TcpFlag.PSH | TcpFlag.ACK,
    TcpFlag.FIN | TcpFlag.ACK,
    TcpFlag.RST,
    TcpFlag.RST | TcpFlag.ACK,
)
_PAYLOADS: Final = (b"", b"hello", b"GET / x", b"x" * 80, b"b")
_ETHERNET_HEADER: Final = 14
_OPTIONS: Final = (
    b"",
    tcp_options(mss=1460),
    tcp_options(mss=1460, window_scale=7, sack_permitted=True),
    tcp_options(mss=536, window_scale=2),
)
_SCTP_INIT: Final = bytes.fromhex("0100001400001111 0000ffff0001000100000001".replace(" ", ""))


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _sctp(sport: int, dport: int, chunk: bytes, tag: int = 0) -> bytes:
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + tag.to_bytes(4, "big")
    return head + _crc32c(head + bytes(4) + chunk).to_bytes(4, "little") + chunk


def _interface_towards(address: str) -> tuple[str, str]:
    """Interface and neighbour's MAC by which the node sees packets from ``address``."""
    if address == PODS[0]:
        return "pod0", _NEIGHBOURS[address]
    if address == PODS[1]:
        return "pod1", _NEIGHBOURS[address]
    if address == NEAR:
        return "eth0", _NEIGHBOURS[address]
    return "eth0", _NEIGHBOURS["10.0.0.254"]


def _transport(dice: Dice, flow: Flow, *, reply: bool) -> bytes:
    source, destination = ip_from_text(flow.source), ip_from_text(flow.destination)
    if flow.protocol == 6:
        flags = dice.pick((_SYN, _ACK, _PSHACK, _FINACK, _RST, _SYNACK, _RSTACK, TcpFlag.SYN | TcpFlag.FIN, TcpFlag(0)))
        payload = dice.pick(_PAYLOADS) if flags & TcpFlag.PSH else b""
        seq = flow.seq if flags & _SYN else flow.seq + 1
        seq += dice.pick((0, 0, 0, 1, 5, 100, 100000, -1))
        return tcp(
            source,
            destination,
            flow.sport,
            flow.dport,
            payload,
            seq=seq & 0xFFFFFFFF,
            ack=(flow.ack + dice.pick((0, 0, 0, 1, 6, 100))) & 0xFFFFFFFF if flags & _ACK else 0,
            flags=flags,
            window=dice.pick((64240, 64240, 500, 0)),
            options=dice.pick(_OPTIONS) if flags & _SYN else b"",
        )
    if flow.protocol == 17:
        return udp(source, destination, flow.sport, flow.dport, dice.pick(_PAYLOADS))
    if flow.protocol == 1:
        kind = dice.pick((0, 0, 8)) if reply else dice.pick((8, 8, 8, 0, 13, 17))
        return icmp(kind, 0, flow.sport % 3 << 16 | 1, b"abcdefgh")
    if flow.protocol == 132:
        return _sctp(flow.sport, flow.dport, _SCTP_INIT)
    return dice.pick((b"", b"\0\0\0\0", b"payload!"))


def _packet(dice: Dice, story: Story, flow: Flow, *, reply: bool) -> bytes:
    packet = ipv4(
        ip_from_text(flow.source),
        ip_from_text(flow.destination),
        flow.protocol,
        _transport(dice, flow, reply=reply),
        ttl=dice.pick((64, 64, 64, 63, 2, 1)),
        tos=dice.pick((0, 0, 0, 0x10, 0xB8, 0x01)),
        identification=story.next_id(),
        dont_fragment=dice.pick((True, False)),
    )
    if dice.one_in(20):
        at = 20 + dice.below(len(packet) - 20) if len(packet) > 20 else 0
        if at:
            packet = packet[:at] + bytes([packet[at] ^ 0x55]) + packet[at + 1 :]
    return packet


_PROTOCOLS: Final = (6, 17, 6, 17, 6, 17, 1, 1, 132, 47, 50, 99)
_SPORTS: Final = (4000, 40000, 500, 53)
_DPORTS: Final = (80, 53, 443, 8080, 30080)


def _a_flow(dice: Dice, story: Story) -> Flow:
    if story.flows and not dice.one_in(3):
        return dice.pick(story.flows)
    addresses = dice.pick(ADDRESSES), dice.pick(ADDRESSES)
    flow = Flow(dice.pick(_PROTOCOLS), *addresses, dice.pick(_SPORTS), dice.pick(_DPORTS))
    story.flows.append(flow)
    return flow


def _receive(interface: str, mac: str, packet: bytes, *, to: str = "") -> dict[str, Any]:
    frame = ethernet(mac_from_text(to or _MACS[interface]), mac_from_text(mac), ETH_P_IP, packet)
    return {"receive": {"interface": interface, "frame": frame.hex(), "text": _text(frame)}}


def _text(frame: bytes) -> str:
    try:
        return summary(frame)
    except PktsimError:  # broken on purpose
        return frame.hex()


def _cut(dice: Dice, packet: bytes) -> list[bytes]:
    """A packet in fragments: in order or not, with one missing, or with one that does not fit the others."""
    body, ends = packet[20:], (packet[12:16], packet[16:20])
    size = dice.pick((8, 16, 24))
    places = range(0, len(body), size)
    pieces = [
        ipv4(
            *ends,
            packet[9],
            body[at : at + size],
            ttl=packet[8],
            tos=packet[1],
            identification=int.from_bytes(packet[4:6], "big"),
            more_fragments=at + size < len(body),
            fragment_offset=at,
        )
        for at in places
    ]
    if not 1 < len(pieces) <= 6:
        return [packet]
    how = dice.below(5)
    if how == 1:
        pieces.reverse()
    elif how == 2:
        del pieces[dice.below(len(pieces))]
    elif how == 3:
        pieces.insert(1, pieces[0])
    return pieces


def _new_packet(dice: Dice, story: Story) -> None:
    flow = _a_flow(dice, story)
    packet = _packet(dice, story, flow, reply=False)
    if flow.source == NODE and not dice.one_in(10):
        step = {"packet": packet.hex(), "text": _text(bytes(12) + b"\x08\0" + packet)}
        if dice.one_in(6):
            step["uid"] = dice.pick((1000, 1500))  # type: ignore[assignment]
        if dice.one_in(4):
            step["mark"] = dice.pick((0x1, 0x4000))  # type: ignore[assignment]
        story.take({"send_local": step})
        return
    interface, mac = _interface_towards(flow.source)
    if dice.one_in(20):
        interface = dice.pick(("eth0", "pod0", "pod1"))
    pieces = _cut(dice, packet) if story.fragments and dice.one_in(2) else [packet]
    to = ""
    if "master" in str(story.case["interfaces"]) and interface != "eth0":
        # to the gateway, straight to the other pod, or to somebody who is not there
        to = dice.pick((_BRIDGE_MAC, _NEIGHBOURS.get(flow.destination, _BRIDGE_MAC), _BRIDGE_MAC, "02:00:00:00:99:99"))
    for piece in pieces:
        story.take(_receive(interface, mac, piece, to=to))


def _port_field(packet: bytes, view: FrameView) -> tuple[str, ...]:
    """The fields of a whole packet that NAT may have drawn."""
    if packet[6] & 0x3F or packet[7]:
        return ()
    if packet[9] in (6, 17) and view.has_ports:
        name = "tcp" if packet[9] == 6 else "udp"
        return f"{name}.sport", f"{name}.dport"
    return ("icmp.ident",) if packet[9] == 1 and view.icmp_type in (0, 8) else ()


def _take(field: str, step: int, number: int, source: str) -> dict[str, Any]:
    return {"field": field, "from": {"step": step, "frame": number, "field": source}}


def _with_takes(step: dict[str, Any], takes: list[dict[str, Any]]) -> dict[str, Any]:
    """Take fields from what was emitted, unless the frame is too broken to have them."""
    frame = bytes.fromhex(step["receive"]["frame"])
    try:
        for take in takes:
            read_field(frame, take["field"])
    except ObjectError:
        return step
    if takes:
        step["receive"]["take"] = takes
    return step


def _answer(dice: Dice, story: Story) -> None:
    """What the receiver of an emitted packet would send back, or a router an error about it."""
    step, number = dice.pick(story.left[-6:])
    interface, frame = story.run.steps[step].emitted[number]
    view = FrameView(frame)
    packet = frame[_ETHERNET_HEADER:]
    if packet[0] >> 4 != 4 or view.is_fragment:
        return
    mac, back = (":".join(f"{byte:02x}" for byte in frame[at : at + 6]) for at in (0, 6))
    source, destination = (".".join(map(str, packet[at : at + 4])) for at in (12, 16))
    if dice.one_in(4):
        kind, code = dice.pick(((3, 1), (3, 3), (3, 0), (11, 0), (3, 4)))
        speaker = dice.pick((destination, ROUTER))
        rest = 1400 if (kind, code) == (3, 4) else 0
        quote = packet[: dice.pick((28, 28, 60, 200))]
        error = icmp(kind, code, rest, quote)
        answer = ipv4(ip_from_text(speaker), ip_from_text(source), 1, error, tos=0xC0, identification=story.next_id())
        made = _receive(interface, mac, answer, to=back)
        # what is quoted has the ports that were drawn
        quoted = [_take(f"inner.{field}", step, number, field) for field in _port_field(packet, view)]
        story.take(_with_takes(made, quoted))
        return
    protocol = packet[9]
    takes: list[dict[str, Any]] = []
    flow = Flow(protocol, destination, source, 0, 0)
    if protocol in (6, 17) and view.has_ports:
        flow.sport, flow.dport = view.dport, view.sport
        sport, dport = _port_field(packet, view) or ("", "")
        takes = [_take(dport, step, number, sport), _take(sport, step, number, dport)] if sport else []
    if protocol == 6:
        flow.seq, flow.ack = 5000, (view.tcp_seq + 1) & 0xFFFFFFFF
        if view.tcp_flags & _ACK:
            flow.seq = (view.tcp_ack - 1) & 0xFFFFFFFF
            flow.ack = (view.tcp_seq + len(view.payload)) & 0xFFFFFFFF
    if protocol == 1 and view.icmp_type in (0, 8):
        takes = [_take("icmp.ident", step, number, "icmp.ident")]
        answer_packet = ipv4(
            ip_from_text(destination),
            ip_from_text(source),
            1,
            icmp(dice.pick((0, 0, 8)), 0, view.icmp_rest, view.payload),
            identification=story.next_id(),
        )
    else:
        answer_packet = _packet(dice, story, flow, reply=True)
    made = _receive(interface, mac, answer_packet, to=back)
    story.take(_with_takes(made, takes))


def _again(dice: Dice, story: Story) -> None:
    """An earlier packet once more."""
    earlier: Sequence[dict[str, Any]] = [step for step in story.case["steps"] if "take" not in str(step)]
    if earlier:
        story.take(dice.pick(earlier))


_KINDS: Final[tuple[Callable[[Dice, Story], None], ...]] = (
    _new_packet, _new_packet, _answer, _answer, _answer, _again,
)  # fmt: skip


def tell(settings: bytes, rules: Sequence[bytes], steps: Sequence[bytes]) -> Story:
    """The case that these bytes decide, and pktsim's run of it."""
    dice = Dice(settings)
    case: dict[str, Any] = {
        "name": "generated",
        **TOPOLOGY,
        "sysctls": dict(dice.pick(_SYSCTLS)),
        "iptables": rules_text(rules, (dice.below(40) - 1) % 40),
        "steps": [],
    }
    fragments = dice.one_in(12)
    if dice.one_in(12):
        case |= BRIDGED
        case["sysctls"]["net.bridge.bridge-nf-call-iptables"] = dice.pick(("1", "1", "1", "0"))
    if "--match-set" in case["iptables"] or "-j SET" in case["iptables"]:
        case["ipsets"] = _SETS.format(dice.pick(ADDRESSES[:4]), dice.pick(ADDRESSES[4:]))
    story = Story(case, CaseRun(case), fragments=fragments)
    for data in steps:
        dice = Dice(data)
        kind = dice.pick(_KINDS)
        if kind is _answer and not story.left:
            kind = _new_packet
        kind(dice, story)
    return story


def _some(size: int, lists: int) -> st.SearchStrategy[tuple[bytes, ...]]:
    """Hypothesis' lists are short; several of them together are long enough to matter and shrink as well."""
    one = st.lists(st.binary(min_size=size, max_size=size), max_size=12)
    return st.tuples(*[one] * lists).map(lambda several: tuple(itertools.chain(*several)))


#: What decides a case, for :func:`tell`.
decisions = st.tuples(st.binary(min_size=8, max_size=8), _some(24, 3), _some(16, 2))
