"""What somebody changes on the node, or asks of it, while flows are alive and packets wait.

Each is done to several like worlds with the same drawn numbers, so it may draw but must not look at what differs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pktsim.kernel.netdev import AF_INET, AF_INET6
from pktsim.netfilter.ipset_text import restore_sets
from pktsim.netfilter.opcodes import DropReason, Hook, LinkKind, Step
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.wire.addr import mac_to_text
from tests.fuzz.frames import ADDRESSES4, ADDRESSES6, MACS
from tests.fuzz.processes import PROCESSES
from tests.fuzz.rules import NFT_ANYWHERE, NFT_CHAINS, NFT_EXTRAS, draw

if TYPE_CHECKING:
    from tests.fuzz.world import Space

#: How many different sets of rules there are; those that come again are the same objects.
RULESETS: Final = 4000
PORTS: Final = ("eth0", "eth1", "pod0", "pod1", "pod2")
_NAMES: Final = (*PORTS, "cni0", "flannel.1", "dummy0")
#: Settings that change while packets move.
SETTINGS: Final = {
    "net.ipv4.ip_forward": (1, 1, 1, 0),
    "net.ipv6.conf.all.forwarding": (1, 1, 0),
    "net.ipv4.conf.all.rp_filter": (0, 0, 1, 2),
    "net.ipv4.conf.all.route_localnet": (0, 1),
    "net.ipv4.conf.all.accept_local": (0, 1),
    "net.ipv4.conf.all.src_valid_mark": (0, 1),
    "net.ipv4.conf.all.send_redirects": (0, 1),
    "net.bridge.bridge-nf-call-iptables": (0, 1, 1),
    "net.bridge.bridge-nf-call-ip6tables": (0, 1, 1),
    "net.netfilter.nf_conntrack_tcp_be_liberal": (0, 1),
    "net.netfilter.nf_conntrack_tcp_loose": (0, 1),
    "net.netfilter.nf_conntrack_tcp_max_retrans": (0, 1, 3),
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst": (0, 1),
    "net.netfilter.nf_conntrack_checksum": (0, 1, 1),
    "net.netfilter.nf_conntrack_acct": (0, 1),
    "net.netfilter.nf_conntrack_max": (65536, 65536, 65536, 65536, 16, 1, 0),
    "net.netfilter.nf_conntrack_buckets": (65536, 1024, 1),
    "net.netfilter.nf_conntrack_udp_timeout": (30, 1, 0),
    "net.netfilter.nf_conntrack_generic_timeout": (600, 1),
    "net.ipv4.fib_multipath_hash_policy": (0, 1),
    "net.ipv4.ip_forward_use_pmtu": (0, 1),
    "net.ipv4.ip_default_ttl": (64, 1, 255),
    "net.ipv4.ip_forward_update_priority": (0, 1),
    "net.ipv4.icmp_echo_ignore_broadcasts": (0, 1),
    "net.ipv4.ip_early_demux": (0, 1),
    "net.ipv4.fwmark_reflect": (0, 1),
}  # fmt: skip
#: None to lo: there are rules that raise a TTL, and then what goes round by lo does so without end, in Linux too.
_ROUTES: Final = (
    "10.1.2.0/24 via 192.168.0.12",
    "10.1.2.0/24 via 10.1.2.0 dev flannel.1 onlink",
    "10.1.2.0/24 nexthop via 192.168.0.12 weight 3 nexthop via 203.0.113.9 dev eth1 onlink",
    "10.1.2.0/24 nexthop via 192.168.0.1 nexthop dev cni0 weight 200",
    "10.1.2.0/24 via 192.168.0.12 mtu 600",
    "203.0.113.0/24 dev eth1",
    "blackhole 10.1.2.2",
    "unreachable 172.30.0.0/24",
    "prohibit 203.0.113.9",
    "throw 10.1.2.0/30",
    "default via 192.168.0.1",
    "10.1.2.0/24 via 192.168.0.12 table 100",
    "default via 203.0.113.9 dev eth1 onlink table 100",
    "blackhole default table 101",
    "local 172.30.0.2 dev lo table local",
    "fd00:10:1:2::/64 via fd00:192:168::12",
    "fd00:10:1:2::/64 dev eth1",
    "unreachable fd00:172:30::/64",
    "default via fd00:192:168::1 table 100",
    "blackhole 2001:db8::/32",
)
_RULES: Final = (
    "fwmark 0x1 lookup 100 priority 100",
    "fwmark 0x10/0x10 lookup 100 priority 101",
    "from 10.1.1.2 lookup 101 priority 102",
    "to 203.0.113.0/24 iif cni0 lookup 100 priority 103",
    "from all iif pod0 lookup 100 priority 104",
)
_RULES6: Final = ("fwmark 0x10/0x10 lookup 100 priority 100", "from fd00:10:1:1::2 lookup 100 priority 101")
_ADDRESSES: Final = (
    ("eth0", "192.168.0.11/24"),
    ("eth0", "192.168.0.50/24"),
    ("eth0", "fd00:192:168::11/64"),
    ("eth0", "fe80::1/64"),
    ("cni0", "10.1.1.254/24"),
    ("cni0", "10.1.1.253/24"),
    ("cni0", "fd00:10:1:1::fe/64"),
    ("lo", "169.254.20.10/32"),
    ("eth1", "2001:db8::1/64"),
)
_ELEMENTS: Final = (
    "hosts { 10.1.1.2 }",
    "boxes { 10.1.0.0/16 . 9001-9100 }",
    "nets { 2001:db8::/32 }",
    "names { \"eth1\" }",
    "services { 172.30.0.10 . udp . 53 : jump deep }",
    "marks { 0-1023 : 0x1 }",
    "seen { 10.1.1.1 . udp }",
    "learnt { 10.1.1.1 : 0x3 }",
    "spent { 10.1.1.1 . 1 . 10.1.1.2 . 2 }",
)  # fmt: skip
_IPSET_COMMANDS: Final = (
    "add pods 10.1.1.2 -exist",
    "del pods 10.1.1.1 -exist",
    "flush few",
    "flush",
    "add nets 203.0.113.0/24 -exist",
    "swap pods few",
    "add ports 8080 timeout 1 -exist",
    "add pods6 fd00:10:1:1::2 -exist",
)


def _flush(space: Space, _rng: random.Random) -> None:
    space.datapath.conntrack_flush()


def _delete(space: Space, rng: random.Random) -> None:
    entries = space.datapath.conntrack_list(space.clock.now_ns)
    for entry in rng.sample(entries, min(len(entries), rng.choice((1, 1, 5)))):
        assert space.datapath.conntrack_delete(entry["id"])


def _list(space: Space, _rng: random.Random) -> None:
    datapath = space.datapath
    datapath.conntrack_list(space.clock.now_ns)
    datapath.conntrack_stats()
    datapath.drop_counts()
    datapath.upcall_counts()
    for family in Family:
        space.ruleset(family)
    space.nft_list_ruleset()
    space.fdb("cni0")


def _insert(space: Space, rng: random.Random) -> None:
    """``conntrack -R``: an entry that there was, with another source port."""
    entries = space.datapath.conntrack_list(space.clock.now_ns)
    if entries:
        entry = dict(rng.choice(entries))
        source, destination, _, port = entry["orig"]
        entry["orig"] = (source, destination, rng.randrange(1, 65536), port)
        entry.pop("reply")
        entry["timeout_ns"] = rng.choice((0, 1, 5 * 10**9))
        space.datapath.conntrack_insert(entry, space.clock.now_ns)


def _rules(space: Space, rng: random.Random) -> None:
    """Other tables, or none of one of them; a table that is like the old one keeps what it can."""
    rules = draw(rng.randrange(RULESETS), writes=space.writes)
    for ruleset in rules.rulesets:
        keep = rng.choice((0, 0, 0, 1, len(ruleset.tables)))
        space.load_ruleset(Ruleset(ruleset.family, ruleset.tables[keep:]))
    space.nft(rules.nft or "flush ruleset")


def _one_table(space: Space, rng: random.Random) -> None:
    """kube-proxy's way: the same tables but for one, whose chains are mostly the same."""
    ruleset = space.ruleset(rng.choice(list(Family)))
    other = next(one for one in draw(rng.randrange(RULESETS)).rulesets if one.family == ruleset.family)
    number = rng.randrange(len(other.tables))
    tables = [other.tables[number] if table.name == other.tables[number].name else table for table in ruleset.tables]
    space.load_ruleset(Ruleset(ruleset.family, tuple(tables)))


def _nft_rule(space: Space, rng: random.Random) -> None:
    chain = rng.choice(list(NFT_CHAINS))
    rule = rng.choice((*NFT_EXTRAS[chain], *NFT_ANYWHERE) if chain not in ("post", "nat_in") else NFT_EXTRAS[chain])
    space.nft(f"{rng.choice(('add', 'insert'))} rule inet fuzz {chain} {rule}")


def _nft_element(space: Space, rng: random.Random) -> None:
    if rng.random() < 0.6:
        space.nft("\n".join(f"add element inet fuzz {one}" for one in rng.sample(_ELEMENTS, 3)))
    else:
        space.nft(f"delete element inet fuzz {rng.choice(_ELEMENTS)}")


def _nft_other(space: Space, rng: random.Random) -> None:
    chain = rng.choice(list(NFT_CHAINS))
    space.nft(
        rng.choice(
            (
                "flush set inet fuzz seen",
                "flush set inet fuzz boxes",
                "flush map inet fuzz learnt",
                f"flush chain inet fuzz {chain}",
                f"delete chain inet fuzz {chain}",
                "flush table inet fuzz",
                "delete table inet fuzz",
                "reset counters",
                "add table ip more\nadd chain ip more c { type filter hook forward priority 0; policy drop; }",
                "delete table ip more",
                "add table inet zz { chain a { type filter hook prerouting priority -250; counter accept; } }",
            )
        )
    )


def _down(space: Space, rng: random.Random) -> None:
    space.link_set(rng.choice((*PORTS, "cni0", "flannel.1", "lo")), up=rng.random() < 0.7)


def _all_up(space: Space, _rng: random.Random) -> None:
    for device in list(space.devices):
        space.link_set(device.name, up=True)


def _carrier(space: Space, rng: random.Random) -> None:
    space.carrier_changed(rng.choice(PORTS), up=rng.random() < 0.7)


def _link(space: Space, rng: random.Random) -> None:
    name = rng.choice(PORTS)
    match rng.randrange(5):
        case 0:
            space.link_set(name, mtu=rng.choice((1500, 1280, 576, 68, 9000)))
        case 1:
            space.link_set(name, mac=mac_to_text(rng.choice(MACS[4:10])))
        case 2:
            space.link_set(name, hairpin=rng.random() < 0.5)
        case 3:
            space.link_set(name, master="")
        case _:
            space.link_set(rng.choice(("pod0", "pod1", "pod2")), master="cni0")


def _link_gone(space: Space, rng: random.Random) -> None:
    """A pod's end goes, or comes back, as another interface; and a dummy device."""
    name = rng.choice(("pod2", "pod2", "dummy0", "flannel.1"))
    if name in space.devices:
        space.link_delete(name)
    elif name == "flannel.1":
        space.vxlan.add(name, vni=1, local="192.168.0.11", link="eth0", learning=False, mac=mac_to_text(MACS[2]))
    else:
        device = space.link_add(
            name,
            LinkKind.DUMMY if name == "dummy0" else LinkKind.WIRE,
            mac="02:00:00:00:02:77",
            master="" if name == "dummy0" else "cni0",
        )
        space.plug(device)


def _hold(space: Space, rng: random.Random) -> None:
    space.hold(rng.choice(list(Hook)), rng.choice(list(Step)), rng.random() < 0.5)


def _release(space: Space, rng: random.Random) -> None:
    for held in rng.sample(space.held, len(space.held)):
        space.release(held)


def _discard(space: Space, rng: random.Random) -> None:
    for held in rng.sample(space.held, len(space.held) // 2):
        space.held.remove(held)
        space.discard(held.packet, DropReason.RULE)


def _address(space: Space, rng: random.Random) -> None:
    name, address = rng.choice(_ADDRESSES)
    if address in space.addresses(name):
        space.address_delete(name, address)
    else:
        space.address_add(name, address)


def _route(space: Space, rng: random.Random) -> None:
    route = rng.choice(_ROUTES)
    match rng.randrange(3):
        case 0:
            space.route_add(route)
        case 1:
            space.route_replace(route)
        case _:
            space.route_delete(route)


def _policy_rule(space: Space, rng: random.Random) -> None:
    family = rng.choice((AF_INET, AF_INET, AF_INET6))
    rule = rng.choice(_RULES if family == AF_INET else _RULES6)
    if rng.random() < 0.6:
        space.rule_add(rule, family)
    else:
        space.rule_delete(rule, family)


def _setting(space: Space, rng: random.Random) -> None:
    name = rng.choice(list(SETTINGS))
    space.sysctl_set(name, rng.choice(SETTINGS[name]))


def _fdb(space: Space, rng: random.Random) -> None:
    if rng.random() < 0.5:
        space.fdb_flush("cni0", static=rng.random() < 0.5)
    else:
        space.fdb_add(rng.choice(("pod0", "pod1", "pod2")), mac_to_text(rng.choice(MACS[4:10])))


def _neighbours(space: Space, rng: random.Random) -> None:
    name, address = rng.choice(_NAMES), rng.choice((*ADDRESSES4, *ADDRESSES6))
    text = (
        ".".join(map(str, address))
        if len(address) == 4
        else ":".join(address[n : n + 2].hex() for n in range(0, 16, 2))
    )
    match rng.randrange(3):
        case 0:
            space.neighbours_flush(permanent=rng.random() < 0.3)
        case 1:
            space.neighbour_add(name, text, mac_to_text(rng.choice(MACS)))
        case _:
            space.neighbour_delete(name, text)


def _ipset(space: Space, rng: random.Random) -> None:
    restore_sets(space.datapath.context.sets, rng.choice(_IPSET_COMMANDS), now_ns=space.clock.now_ns)


def _path(space: Space, rng: random.Random) -> None:
    space.update_pmtu(rng.choice((*ADDRESSES4, *ADDRESSES6)), rng.choice((0, 68, 552, 1280, 1400)))


Change = Callable[["Space", random.Random], None]
CHANGES: Final[tuple[Change, ...]] = (
    *(_flush, _delete, _delete, _list, _insert, _rules, _one_table, _nft_rule, _nft_element, _nft_other),
    *(_down, _all_up, _all_up, _carrier, _link, _link_gone, _hold, _release, _release, _discard, _address, _address),
    *(_route, _route, _policy_rule, _setting, _setting, _fdb, _neighbours, _ipset, _path),
    *PROCESSES,
)
