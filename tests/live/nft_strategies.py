"""Random nft rulesets for cases, decided by a few bytes for each rule.

They use the addresses, ports and marks of :mod:`tests.live.case_strategies`, so that packets meet them. Chains are
hooked in at priorities before, between, at and behind those of iptables, connection tracking and NAT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pktsim.errors import PktsimError
from pktsim.netfilter.nft_ruleset import NftRuleset
from pktsim.netfilter.nft_text import run_script
from pktsim.netfilter.nft_transaction import refuse_unmodelled
from tests.live.case_rules import Dice

_ADDRESSES: Final = (
    "10.0.0.1", "10.96.0.10", "10.96.0.11", "10.244.1.2", "10.244.1.3", "10.0.0.2", "203.0.113.9", "203.0.113.77",
    "10.244.0.0/16", "10.96.0.0/12", "203.0.113.0/26", "{ 10.96.0.10, 10.244.1.2 }", "{ 10.244.0.0/16, 203.0.113.9 }",
    "10.96.0.0-10.96.0.10", "@v4", "@nets",
)  # fmt: skip
_PORTS: Final = ("53", "80", "443", "8080", "500", "4000", "40000", "80-443", "1024-65535", "{ 53, 80 }",
                 "{ 80-443, 4000 }", "@ports")  # fmt: skip
_MARKS: Final = ("0x1", "0x4000", "0x0", "0x10-0x20", "{ 0x1, 0x5 }")
_NOT: Final = ("", "", "", "!= ")
_STATES: Final = (
    "new",
    "established",
    "related",
    "invalid",
    "untracked",
    "established,related",
    "{ new, established }",
)
_INTERFACES: Final = ('"eth0"', '"pod0"', '"pod1"', '"lo"', '"pod*"', '{ "eth0", "pod1" }')

_Form = tuple[str, tuple[Sequence[str], ...]]
#: What any rule may look at; nowhere < and > in one header, which nft prints as one range.
_MATCHES: Final[tuple[_Form, ...]] = (
    ("ip saddr {}{}", (_NOT, _ADDRESSES)),
    ("ip daddr {}{}", (_NOT, _ADDRESSES)),
    ("tcp dport {}{}", (_NOT, _PORTS)),
    ("udp dport {}{}", (_NOT, _PORTS)),
    ("tcp sport {}{}", (_NOT, _PORTS)),
    ("udp sport {}{}", (_NOT, _PORTS)),
    ("ct state {}{}", (("",), _STATES)),
    ("meta l4proto {}{}", (_NOT, ("tcp", "udp", "icmp", "{ tcp, udp }", "sctp"))),
    ("ip protocol {}{}", (_NOT, ("tcp", "udp", "icmp", "{ tcp, icmp }"))),
    ("meta mark {}{}", (_NOT, _MARKS)),
    ("meta mark & {} {} {}", (("0x1", "0xf0", "0x4000"), ("==", "!="), ("0x0", "0x10", "0x4000"))),
    ("ct mark {}{}", (_NOT, _MARKS)),
    ("ct direction {}", (("original", "reply"),)),
    ("ct status {}", (("snat", "dnat", "assured", "confirmed", "seen-reply,dnat"),)),
    ("ct original ip {} {}{}", (("saddr", "daddr"), _NOT, _ADDRESSES[:11])),
    ("ct reply ip {} {}{}", (("saddr", "daddr"), _NOT, _ADDRESSES[:11])),
    ("oifname {}{}", (_NOT, _INTERFACES)),
    ("icmp type {}{}", (_NOT, ("echo-request", "echo-reply", "destination-unreachable", "{ echo-request, 3 }"))),
    ("icmp code {}", (("0", "1-5", "4"),)),
    ("meta length {}{}", (("", "!= "), ("40", "28-60", "0-100"))),
    ("meta length {} {}", (("<", ">="), ("41", "60"))),
    ("ip ttl {} {}", (("==", "<", "!="), ("63", "64", "1"))),
    ("ip dscp {}{}", (_NOT, ("cs0", "ef", "0x10", "{ cs1, ef }"))),
    ("ip length {}", (("40", "28-33", "> 40"),)),
    ("ip frag-off & 0x1fff {} 0", (("==", "!="),)),
    ("tcp flags {}", (("syn", "syn / syn,ack,fin,rst", "! fin,rst", "& (syn|ack) == syn", "== syn", "{ syn, ack }"),)),
    ("tcp option {}", (("maxseg size 1460", "maxseg size > 500", "sack-perm exists", "window missing",
                        "timestamp tsval > 0"),)),
    ("tcp window {} 1000", ((">", "!=", "=="),)),
    ("tcp doff {}", (("5", "> 5"),)),
    ("udp length {}", (("8-20", "> 13"),)),
    ("@th,16,16 {}", (("80", "53", "8080"),)),
    ("@nh,128,32 {}", (("0x0af40102", "0x0a60000a"),)),
    ("fib daddr type {}{}", (("", "!= "), ("local", "unicast", "broadcast", "{ local, broadcast }"))),
    ("fib saddr type {}", (("local", "unicast"),)),
    ("meta pkttype {}", (("host", "broadcast", "{ unicast, multicast }"),)),
    ("ip saddr . tcp dport {}{{ 203.0.113.9 . 80, 10.0.0.2 . 443 }}", (_NOT,)),
    ("ip daddr . meta l4proto . th dport {}", (("@services", "{ 10.96.0.10 . tcp . 80, 10.244.1.2 . udp . 53 }"),)),
    ("ip daddr . th dport {}@boxes", (_NOT,)),
    ("numgen inc mod {} {}", (("2", "3"), ("0", "1"))),
    ("jhash ip saddr . ip daddr mod 4 seed 0x5 {} {}", (("==", "<"), ("1", "2"))),
    ("jhash meta mark . tcp sport mod 3 seed 0x7 {}", (("0", "1"),)),
    ("limit rate {}1/hour burst {} packets", (("", "over "), ("1", "2", "3"))),
    ("limit rate {} bytes/hour", (("100", "over 60"),)),
    ("quota {}{} bytes", (("", "over "), ("60", "100", "200"))),
    ("ip saddr @{}", (("dyn",),)),
    ("meta nfproto ipv4", ()),
    ("ct expiration < 100s", ()),
    ("ct zone {}", (("0", "1"),)),
    ("tcp sport != {} tcp dport != {}", (("4000", "80"), ("80", "4000"))),
)  # fmt: skip
_FIB_OIF: Final = (
    "fib saddr . iif oif exists", "fib saddr . iif oif missing", 'fib daddr oifname "pod0"', "fib saddr oif exists",
    "fib daddr . iif type local", "fib saddr . mark . iif oif missing",
)  # fmt: skip
#: What is about where a packet came in, which POSTROUTING has other ideas about.
_CAME_IN: Final[tuple[_Form, ...]] = (
    ("iifname {}{}", (_NOT, _INTERFACES)),
    ("iif lo", ()),
    ("iiftype ether", ()),
    ("ether saddr {}", (("02:00:00:00:01:fe", "02:00:00:00:02:0a"),)),
)
#: Only what is forwarded: elsewhere the kernel's own packets pass too, whose identification it draws.
_FORWARDED: Final[_Form] = ("ip id {}", (("0", "1-1000"),))
#: What goes on.
_STEPS: Final = (
    "", "", "", "meta mark set 0x1", "meta mark set meta mark | 0x10", "meta mark set meta mark & 0xff ^ 0x4000",
    "meta mark set ct mark", "ct mark set meta mark", "ct mark set 0x5", "ct mark set ct mark | 0x10",
    "meta mark set ip saddr map { 203.0.113.9 : 0x1, 10.244.1.2 : 0x5 }", "meta mark set tcp dport map @marks",
    "meta mark set numgen inc mod 3", "add @dyn { ip saddr }", "update @dyn { ip daddr }", "delete @dyn { ip saddr }",
    "add @pairs { ip saddr . ip daddr }", "ip ttl set 32", "ip dscp set ef", "tcp option maxseg size set 1000",
    'log prefix "x"', "counter name \"named\"", "meta mark set ip dscp map { ef : 0x1, cs0 : 0x2 }", "ip ecn set ce",
    "add @limited { ip saddr limit rate 1/hour burst 2 packets }", "update @counted { ip saddr counter }",
)  # fmt: skip
_ENDS: Final = (
    "", "", "accept", "accept", "drop", "return", "continue", "jump u0", "goto u0", "jump u1",
    "ip daddr vmap { 10.96.0.10 : jump u0, 10.244.1.2 : accept, 203.0.113.9 : drop, 10.0.0.0/24 : return }",
    "ip daddr . meta l4proto . th dport vmap @verdicts", "tcp dport vmap { 80 : goto u0, 443 : continue, * : jump u1 }",
    "ct state vmap { new : jump u0, established : accept, invalid : drop }",
    "meta l4proto vmap { tcp : jump u0, udp : return }",
)  # fmt: skip
_REJECTS: Final = (
    "reject", "reject with icmp host-unreachable", "reject with icmp admin-prohibited", "reject with tcp reset",
    "reject with tcp reset",
)  # fmt: skip
_DNATS: Final = (
    "dnat{ip} to 10.244.1.2", "dnat{ip} to 10.244.1.3", "dnat{ip} to 10.0.0.1", "dnat{ip} to 203.0.113.77",
    "dnat{ip} to 10.244.1.2-10.244.1.3", "dnat{ip} to 10.244.1.2-10.244.1.3 persistent", "redirect",
    "meta l4proto tcp dnat{ip} to 10.244.1.2:8080", "meta l4proto udp dnat{ip} to 10.244.1.3:53",
    "tcp dport 80 redirect to :8080", "udp dport 53 redirect to :5353",
    "dnat ip to tcp dport map {{ 80 : 10.244.1.2 . 8080, 443 : 10.244.1.3 . 443 }}",
    "dnat{ip} to ip daddr map {{ 10.96.0.10 : 10.244.1.2, 10.96.0.11 : 10.244.1.3 }}",
    "meta l4proto tcp dnat{ip} to numgen inc mod 2 map {{ 0 : 10.244.1.2, 1 : 10.244.1.3 }}:80",
    "dnat{ip} to 10.0.0.0/30", "meta l4proto {{ tcp, udp }} dnat ip to ip daddr . th dport map @backends",
)  # fmt: skip
_SNATS: Final = (
    "masquerade", "masquerade", "masquerade", "snat{ip} to 10.0.0.1", "snat{ip} to 10.9.9.9",
    "snat{ip} to 10.0.0.10-10.0.0.13", "snat{ip} to 10.0.0.10-10.0.0.13 persistent",
    "meta l4proto tcp snat{ip} to 10.0.0.1:5000", "meta l4proto udp masquerade to :7000",
    "snat{ip} to oifname map {{ \"eth0\" : 10.0.0.1, \"pod0\" : 10.9.9.9 }}",
)  # fmt: skip
_SETS: Final = "\n".join(
    (
        "set v4 { type ipv4_addr; elements = { 10.96.0.10, 203.0.113.9, 10.244.1.3 } }",
        "set nets { type ipv4_addr; flags interval;",
        "elements = { 10.244.0.0/16, 203.0.113.64-203.0.113.80, 10.0.0.2 } }",
        "set ports { type inet_service; flags interval; elements = { 53, 80-90, 4000 } }",
        "set services { type ipv4_addr . inet_proto . inet_service;",
        "elements = { 10.96.0.10 . tcp . 80, 10.96.0.11 . udp . 53 } }",
        "set boxes { type ipv4_addr . inet_service; flags interval;",
        "elements = { 10.96.0.0/16 . 50-90, 10.244.1.2 . 0-65535, 203.0.113.9-203.0.113.77 . 443 } }",
        # what rules delete counts until the kernel collects it, so these are never full
        "set dyn { type ipv4_addr; flags dynamic; size 100; }",
        "set pairs { type ipv4_addr . ipv4_addr; flags dynamic; size 100; }",
        "set limited { type ipv4_addr; flags dynamic; size 100; }",
        "set counted { type ipv4_addr; flags dynamic; size 100; counter; elements = { 10.0.0.2 } }",
        "map marks { type inet_service : mark; elements = { 80 : 0x1, 53 : 0x5 } }",
        "map verdicts { type ipv4_addr . inet_proto . inet_service : verdict",
        "elements = { 10.96.0.10 . tcp . 80 : goto u0, 10.96.0.11 . udp . 53 : drop,",
        "10.244.1.2 . tcp . 80 : accept } }",
        "map backends { type ipv4_addr . inet_service : ipv4_addr . inet_service",
        "elements = { 10.96.0.10 . 80 : 10.244.1.2 . 8080, 10.96.0.11 . 53 : 10.244.1.3 . 53 } }",
        "counter named { }",
    )
)
_PRIORITIES: Final = (
    "0",
    "-1",
    "1",
    "-310",
    "-290",
    "-210",
    "-190",
    "-150",
    "-110",
    "-100",
    "-90",
    "50",
    "60",
    "110",
    "300",
)
_NAT_PRIORITIES: Final = {"prerouting": ("-100", "-110", "-90"), "output": ("-100", "-90"), "input": ("100", "90"),
                          "postrouting": ("100", "110", "90")}  # fmt: skip
_HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting")


@dataclass(frozen=True, slots=True)
class _Chain:
    """Where a rule can go: a base chain of a type at a hook, or one of the user's."""

    name: str
    kind: str = ""
    hook: str = ""


_CHAINS: Final = (
    *(_Chain(f"f{number}_{hook}", "filter", hook) for hook in _HOOKS for number in range(2)),
    _Chain("r_output", "route", "output"),
    *(_Chain(f"n_{hook}", "nat", hook) for hook in _NAT_PRIORITIES),
    *(_Chain(name) for name in ("u0", "u1", "ud", "us")),
)
_WEIGHTED: Final = tuple(
    chain
    for chain in _CHAINS
    for _ in range(3 if chain.kind == "nat" and chain.hook != "input" else 2 if chain.kind == "filter" else 1)
)


def _fill(dice: Dice, form: _Form) -> str:
    template, parts = form
    return template.format(*(dice.pick(part) for part in parts))


def _rule(dice: Dice, chain: _Chain, family: str) -> str:
    words: list[str] = []
    for _ in range(dice.pick((1, 0, 1, 2, 1))):
        words.append(_fill(dice, dice.pick(_MATCHES)))
    if chain.hook in ("prerouting", "input", "forward") and dice.one_in(6):
        # nft itself cannot read again what it makes of a link-layer address and a refusal in one rule of family inet
        words.append(_fill(dice, dice.pick(_CAME_IN if family == "ip" else _CAME_IN[:-2])))
    if chain.hook in ("prerouting", "input", "forward") and dice.one_in(12):
        words.append(dice.pick(_FIB_OIF))
    if chain.hook == "forward" and dice.one_in(8):
        words.append(_fill(dice, _FORWARDED))
    if not dice.one_in(6):
        words.append("counter")
    if chain.kind != "nat" or dice.one_in(4):
        words.append(dice.pick(_STEPS))
    ip = " ip" if family == "inet" else ""
    if chain.name == "ud" or (chain.kind == "nat" and chain.hook in ("prerouting", "output")):
        words.append(dice.pick((*_DNATS, "jump ud", "accept", "")) if chain.kind else dice.pick((*_DNATS, "return")))
    elif chain.name == "us" or (chain.kind == "nat" and chain.hook in ("postrouting", "input")):
        ends = (
            _SNATS
            if chain.hook != "input"
            else tuple(one for one in _SNATS if "masq" not in one and "oifname" not in one)
        )
        words.append(dice.pick((*ends, "jump us", "accept", "")) if chain.hook == "postrouting" else dice.pick(ends))
    elif chain.name == "u0":
        words.append(dice.pick(("", "accept", "drop", "return", "jump u1")))
    elif chain.name == "u1":
        words.append(dice.pick(("", "accept", "drop", "return")))
    elif chain.hook in ("input", "forward", "output") and dice.one_in(4):
        words.append(dice.pick(_REJECTS))
    elif chain.hook in ("prerouting", "output") and dice.one_in(10):
        words.append(dice.pick(("notrack", "ct zone set 1")))
    else:
        words.append(dice.pick(_ENDS))
    return " ".join(word for word in words if word).replace("{ip}", ip).replace("{{", "{").replace("}}", "}")


def nft_text(rules: Sequence[bytes]) -> str:
    """The ruleset that these bytes decide, without the rules that nft would refuse."""
    dice = Dice(b"".join(rules)[::-1])
    family = dice.pick(("ip", "inet"))
    made: dict[str, list[str]] = {chain.name: [] for chain in _CHAINS}
    for data in rules:
        rule_dice = Dice(data)
        chain = rule_dice.pick(_WEIGHTED)
        made[chain.name].append(_rule(rule_dice, chain, family))
    lines = [f"table {family} t {{", _SETS]
    lines += [f"\tchain {chain.name} {{ }}" for chain in _CHAINS if not chain.kind]
    for chain in _CHAINS:
        priority = dice.pick(_NAT_PRIORITIES[chain.hook] if chain.kind == "nat" else _PRIORITIES)
        policy = "drop" if chain.kind == "filter" and dice.below(60) == 59 else "accept"
        if chain.kind and (made[chain.name] or policy == "drop"):
            lines.append(
                f"\tchain {chain.name} {{ type {chain.kind} hook {chain.hook} priority {priority}; policy {policy}; }}"
            )
    text = "\n".join([*lines, "}"]) + "\n"
    ruleset = run_script(NftRuleset(), text, ifindex=_ifindex).ruleset
    for name, rules_of in made.items():
        for rule in rules_of:
            command = f"add rule {family} t {name} {rule}\n"
            try:
                made_of_it = run_script(ruleset, command, ifindex=_ifindex).ruleset
                refuse_unmodelled(made_of_it.tables[0])
            except PktsimError:
                continue
            ruleset = made_of_it
            text += command
    return text


def _ifindex(name: str) -> int:
    return int(name == "lo")
