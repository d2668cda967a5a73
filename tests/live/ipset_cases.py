"""Random cases about sets of every type that the running kernel has: rules that look into them and change them."""

from __future__ import annotations

import random
from typing import Any, Final

from pktsim.errors import PktsimError
from pktsim.netfilter.ipset import IpSets
from pktsim.netfilter.ipset_text import run_ipset
from pktsim.netfilter.ruleset import BUILTIN_CHAINS
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp
from tests.live.case_worlds import WORLD4, WORLD6, World, node_of

_TYPES: Final = (
    "hash:ip", "hash:net", "hash:ip,port", "hash:net,port", "hash:ip,port,ip", "hash:ip,port,net", "hash:net,iface",
    "bitmap:ip", "bitmap:ip,mac", "bitmap:port",
)  # fmt: skip
_PORTS: Final = (53, 80, 443, 0)
_IFACES: Final = ("eth0", "pod0", "pod1", "pod", "lo")
_GRE: Final = 47


def case_of(seed: int) -> dict[str, Any]:
    """The case that this number stands for."""
    rng = random.Random(seed)
    world = WORLD6 if rng.random() < 0.3 else WORLD4
    kinds: dict[str, str] = {}
    text = "\n".join(_sets(rng, world, kinds))
    tables = ""
    for table, chains in BUILTIN_CHAINS.items():
        tables += f"*{table}\n" + "".join(f":{chain} ACCEPT [0:0]\n" for chain in chains)
        if table in ("raw", "mangle"):
            for _ in range(6 if table == "raw" else 20):
                chain = rng.choice(chains)
                tables += f"-A {chain} {_rule(rng, kinds, table)}\n"
        tables += "COMMIT\n"
    return {
        "name": f"sets-{seed}",
        **node_of(world.topology),
        "sysctls": {"net.ipv6.icmp.ratelimit": "0"} if world.version == 6 else {},
        "iptables" if world.version == 4 else "ip6tables": tables,
        "ipsets": text,
        "steps": [step(rng, world) for _ in range(14)],
    }


def _sets(rng: random.Random, world: World, kinds: dict[str, str]) -> list[str]:
    tried, lines = IpSets(), []

    def run(words: list[str]) -> bool:
        try:
            run_ipset(tried, words)
        except PktsimError:
            return False
        lines.append(" ".join(f'"{word}"' if " " in word else word for word in words))
        return True

    for number in range(6):
        kind = rng.choice(_TYPES)
        other = False
        words = ["create", f"s{number}", kind]
        if kind.startswith("bitmap:ip"):
            words += ["range", rng.choice(("10.244.0.0/16", "10.0.0.0/24", "203.0.113.0/24"))]
        elif kind == "bitmap:port":
            words += ["range", rng.choice(("0-65535", "50-100", "80-80"))]
        elif world.version == 6:
            other = rng.random() < 0.1
            words += [] if other else ["family", "inet6"]
        if kind in ("hash:ip", "hash:ip,port") and rng.random() < 0.3:
            words += ["netmask", rng.choice(("24", "31", "8"))]
        elif kind.startswith("hash") and rng.random() < 0.2:
            words += ["maxelem", rng.choice(("1", "3"))]
        words += [option for option in ("counters", "skbinfo") if rng.random() < 0.4]
        if run(words):
            other = other or (world.version == 6 and kind.startswith("bitmap:ip"))
            kinds[f"s{number}"] = f"other {kind}" if other else kind
            for _ in range(rng.choice((0, 2, 5, 9))):
                some = ["add", f"s{number}", _element(rng, world, kind)]
                if "net" in kind and rng.random() < 0.3:
                    some.append("nomatch")
                if kind == "hash:net,iface" and rng.random() < 0.3:
                    some.append("wildcard")
                if "skbinfo" in words and rng.random() < 0.7:
                    some += ["skbmark", rng.choice(("0x1", "0x10/0xf0", "0x0/0xff")), "skbprio", "1:7"]
                if "counters" in words and rng.random() < 0.5:
                    some += ["packets", "2", "bytes", "100"]
                run(some)
    if rng.random() < 0.6 or all(kind.startswith("other") for kind in kinds.values()):
        words = ["create", "list", "list:set", *(option for option in ("counters", "skbinfo") if rng.random() < 0.4)]
        run(words)
        kinds["list"] = "list:set"
        for name in rng.sample(list(kinds), min(3, len(kinds))):
            run(["add", "list", name])
    return lines


def _element(rng: random.Random, world: World, kind: str) -> str:
    return ",".join(_part(rng, world, part) for part in kind.split(":")[1].split(","))


def _part(rng: random.Random, world: World, part: str) -> str:
    address = rng.choice(world.addresses)
    if part == "net" and rng.random() < 0.7:
        four = (0, 1, 8, 16, 24, 30, 31, 32)
        return f"{address}/{rng.choice(four if world.version == 4 else (0, 1, 32, 64, 112, 127, 128))}"
    if part in ("ip", "net"):
        return address
    if part == "port":
        others = ("icmp:8/0", "icmp:0/0", "icmpv6:128/0", "gre:0", "sctp:80", "tcp:0", "udplite:53")
        if rng.random() < 0.3:
            return rng.choice(others)
        return f"{rng.choice(('', 'tcp:', 'udp:'))}{rng.choice(_PORTS)}"
    return rng.choice(_IFACES) if part == "iface" else rng.choice(list(world.macs.values()))


def _sides(rng: random.Random, kind: str) -> str:
    least = kind.count(",") + 1 if kind != "list:set" else rng.choice((1, 2, 3))
    number = max(least + rng.choice((0, 0, 0, 0, 0, 1, -1)), 1)
    return ",".join(rng.choice(("src", "dst")) for _ in range(number))


def _rule(rng: random.Random, kinds: dict[str, str], table: str) -> str:
    name = rng.choice([name for name, kind in kinds.items() if not kind.startswith("other")])
    where = f"{name} {_sides(rng, kinds[name])}"
    what = rng.random()
    if what < 0.12:
        exist = rng.choice(("", " --exist"))
        return f"-p {rng.choice(('tcp', 'udp', '0'))} -j SET --add-set {where}{exist}"
    if what < 0.17:
        return f"-p {rng.choice(('tcp', 'udp', '0'))} -j SET --del-set {where}"
    if what < 0.27 and table == "mangle":
        return f"-j SET --map-set {where} --map-mark"
    if what < 0.32:
        return f"-m mark --mark {rng.choice(('0x1', '0x10/0xf0'))}"
    text = f"-m set{rng.choice(('', '', ' !'))} --match-set {where}"
    if rng.random() < 0.2:
        text += " --return-nomatch"
    if rng.random() < 0.2:
        text += f" ! --update-{rng.choice(('counters', 'subcounters'))}"
    if rng.random() < 0.25:
        text += rng.choice(
            (" --packets-gt 3", " --packets-lt 4", " ! --packets-eq 3", " --packets-eq 4", " --bytes-gt 90")
        )
    return text


def _transport(rng: random.Random, world: World, source: bytes, destination: bytes) -> tuple[int, bytes]:
    ports = rng.choice((*_PORTS, 40000)), rng.choice(_PORTS)
    what = rng.random()
    if what < 0.35:
        return 6, tcp(source, destination, *ports, seq=1, flags=2)
    if what < 0.65:
        return 17, udp(source, destination, *ports, b"x")
    if what < 0.8:
        kind = rng.choice((8, 0) if world.version == 4 else (128, 129))
        if world.version == 4:
            return 1, icmp(kind, 0, 0x00010001, b"abcd")
        return 58, icmpv6(source, destination, kind, 0, 0x00010001, b"abcd")
    if what < 0.9:
        return _GRE, bytes((0, 0, 8, 0)) + bytes(8)
    return rng.choice(
        ((6, bytes(rng.choice((4, 12)))), (17, bytes(4)), (136, bytes(8)), (50, bytes(16)), (132, bytes(8)))
    )


def step(rng: random.Random, world: World) -> dict[str, Any]:
    """A packet between any two addresses: whole or not, of a protocol with ports or without."""
    source, destination = rng.choice(world.addresses), rng.choice(world.addresses)
    ends = ip_from_text(source), ip_from_text(destination)
    protocol, payload = _transport(rng, world, *ends)
    if world.version == 4:
        offset = 8 if rng.random() < 0.05 else 0
        packet = ipv4(*ends, protocol, payload, identification=77, fragment_offset=offset)
    else:
        packet = ipv6(*ends, protocol, payload)
    if source == world.node:
        return {"send_local": {"packet": packet.hex()}}
    interface, mac = world.towards(source)
    to = next(one["mac"] for one in world.topology["interfaces"] if one["name"] == interface)
    ethertype = ETH_P_IP if world.version == 4 else ETH_P_IPV6
    frame = ethernet(mac_from_text(to), mac_from_text(mac), ethertype, packet)
    return {"receive": {"interface": interface, "frame": frame.hex()}}
