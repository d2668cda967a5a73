"""Random commands of ``ipset``, with words of all shapes, right and wrong.

Of the types that the running kernel has; names of hosts are left out, which only a resolver could know.
"""

from __future__ import annotations

import random
from typing import Final

#: What there may be in this kernel: it lacks the others.
TYPES: Final = (
    "hash:ip", "hash:net", "hash:ip,port", "hash:net,port", "hash:ip,port,ip", "hash:ip,port,net", "hash:net,iface",
    "bitmap:ip", "bitmap:ip,mac", "bitmap:port", "list:set",
)  # fmt: skip
_NAMES: Final = ("a", "b", "c", "d")
_IPV4: Final = (
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.5",
    "10.0.1.1",
    "10.1.2.3",
    "192.168.0.1",
    "0.0.0.0",
    "10.0.0",
    "1.2.3.256",
)
_IPV6: Final = ("fd00::1", "fd00::2", "fd00:0::0a", "fd00:1::1", "::", "::ffff:10.0.0.1", "FD00::B", "fd00::g")
_LENGTHS4: Final = (0, 1, 8, 16, 24, 28, 29, 30, 31, 32, 33)
_LENGTHS6: Final = (0, 1, 48, 64, 112, 127, 128, 129)
_PORTS: Final = ("80", "443", "http", "81-83", "83-81", "0", "65535", "65536", "x", "", "domain", "80-", "0x50", "010")
_PROTOCOLS: Final = ("tcp", "udp", "sctp", "udplite", "6", "17", "132", "TCP", "0", "256", "nope", "all")
_ICMP: Final = (
    "echo-request",
    "ping",
    "8/0",
    "3/1",
    "3",
    "0/0",
    "host-unreachable",
    "256/0",
    "Echo-Reply",
    "x",
    "128/0",
)
_OTHERS: Final = (
    "gre:0",
    "gre:1",
    "47:0",
    "esp:0",
    "icmp:{icmp}",
    "icmpv6:{icmp}",
    "ipv6-icmp:{icmp}",
    "1:{icmp}",
    "58:{icmp}",
)
_MACS: Final = ("02:00:00:00:00:01", "2:0:0:0:0:a", "02-00-00-00-00-01", "02:00:00:00:00", "AA:bb:CC:00:11:22", "zz")
_IFACES: Final = ("eth0", "eth1", "eth", "physdev:eth0", "abcdefghijklmnop", "eth+", "cni0")


def command(rng: random.Random, kinds: dict[str, str]) -> list[str]:
    """One command; ``kinds`` is told which types sets were made with."""
    what = rng.random()
    name = rng.choice(_NAMES)
    if name not in kinds or what < 0.06:
        return _create(rng, name, kinds)
    if what < 0.80:
        verb = "add" if what < 0.65 else "del"
        words = [verb, name, _element(rng, kinds[name]), *(_extensions(rng, kinds[name]) if verb == "add" else [])]
        return words + (["-exist"] if rng.random() < 0.2 else [])
    if what < 0.85:
        return ["flush", name]
    if what < 0.89:
        return ["destroy", name]
    if what < 0.94:
        return ["swap", name, rng.choice((*_NAMES, "nope"))]
    if what < 0.98:
        return ["rename", name, rng.choice((*_NAMES, "e", "a-name-that-is-longer-than-31-chrs"))]
    return rng.choice((["add", name], ["create", name], ["flush"], ["del", "nope", "10.0.0.1"], ["destroy", "nope"]))


def _create(rng: random.Random, name: str, kinds: dict[str, str]) -> list[str]:
    kind = rng.choice(TYPES)
    kinds[name] = kind
    words = ["create", name, kind]
    if kind == "bitmap:port":
        words += ["range", rng.choice(("80-100", "0-65535", "90-70", "http-90", "5", "0-65536"))]
    elif kind.startswith("bitmap"):
        words += ["range", rng.choice(("10.0.0.0/24", "10.0.0.0-10.0.3.255", "10.0.0.0/15", "10.0.0.9-10.0.0.1"))]
        if kind == "bitmap:ip" and rng.random() < 0.3:
            words += ["netmask", rng.choice(("24", "30", "32", "33"))]
    options: list[list[str]] = [
        ["timeout", rng.choice(("0", "1000", "2147483", "2147484", "0x100", "-1"))],
        ["counters"], ["comment"], ["skbinfo"],
    ]  # fmt: skip
    if kind.startswith("hash"):
        options += [
            ["family", rng.choice(("inet", "inet6", "inet6", "ipv6", "inet4"))], ["-6"], ["-4"],
            ["maxelem", rng.choice(("2", "5", "100", "0", "x"))],
            ["hashsize", rng.choice(("64", "100", "1", "1024"))],
            ["bucketsize", rng.choice(("2", "3", "1", "12", "13", "0", "255", "256"))],
            ["initval", rng.choice(("0x1", "77", "0x100000000"))],
        ]  # fmt: skip
    if kind in ("hash:ip", "hash:ip,port"):
        options += [
            ["netmask", rng.choice(("24", "30", "0", "32", "64", "128"))],
            ["bitmask", rng.choice(("255.255.0.255", "255.255.255.0", "ffff::ffff", "0.0.0.0"))],
        ]
    if kind == "list:set":
        options += [["size", rng.choice(("1", "2", "9", "x"))]]
    options += [["nonsense"], ["timeout"]] if rng.random() < 0.05 else []
    for option in rng.sample(options, min(len(options), rng.choice((0, 0, 1, 2, 3)))):
        words += option
    return words + (["-exist"] if rng.random() < 0.2 else [])


def _address(rng: random.Random, net: bool) -> str:
    four = rng.random() < 0.75
    text = rng.choice(_IPV4[:6] if rng.random() < 0.9 else _IPV4) if four else rng.choice(_IPV6)
    shape = rng.random()
    if shape < (0.5 if net else 0.15):
        return f"{text}/{rng.choice(_LENGTHS4[4:] if four and not net else _LENGTHS4 if four else _LENGTHS6)}"
    if shape < (0.6 if net else 0.25):
        return f"10.0.0.{rng.randrange(9)}-10.0.0.{rng.randrange(20)}" if four else "fd00::1-fd00::3"
    return text


def _port(rng: random.Random) -> str:
    shape = rng.random()
    if shape < 0.4:
        return rng.choice(_PORTS[:4] if rng.random() < 0.8 else _PORTS)
    if shape < 0.8:
        return f"{rng.choice(_PROTOCOLS[:4] if rng.random() < 0.8 else _PROTOCOLS)}:{rng.choice(_PORTS)}"
    return rng.choice(_OTHERS).format(icmp=rng.choice(_ICMP))


def _part(rng: random.Random, part: str) -> str:
    if part == "port":
        return _port(rng)
    if part in ("ip", "net"):
        return _address(rng, part == "net")
    return rng.choice(_IFACES if part == "iface" else _MACS)


def _element(rng: random.Random, kind: str) -> str:
    if rng.random() < 0.03:
        kind = rng.choice(TYPES)
    if kind == "list:set":
        return rng.choice((*_NAMES, "nope"))
    words = [_part(rng, part) for part in kind.split(":")[1].split(",")]
    if kind == "bitmap:ip,mac" and rng.random() < 0.4:
        del words[1]
    return ",".join(words)


def _extensions(rng: random.Random, kind: str) -> list[str]:
    if rng.random() < 0.5:
        return []
    options = [
        ["timeout", rng.choice(("0", "1000", "77", "2147484", "x"))],
        ["packets", rng.choice(("5", "0x5", "18446744073709551614", "18446744073709551615"))],
        ["bytes", rng.choice(("7", "010"))],
        ["comment", rng.choice(("hello", "two words", "", "x" * 255, "x" * 256, 'a"b', "it's"))],
        ["skbmark", rng.choice(("0x1", "0x1/0xff", "5", "0x10/0", "0xfffffffff", "0x0/0x0"))],
        ["skbprio", rng.choice(("1:10", "a:b", "1", "0:0", "1:2:3"))],
        ["skbqueue", rng.choice(("0", "5", "65535", "65536"))],
    ]  # fmt: skip
    if kind == "list:set":
        options += [[rng.choice(("before", "after")), rng.choice((*_NAMES, "nope"))]] * 4
    else:
        options += [["nomatch"]] * 2 + ([["wildcard"]] * 3 if kind == "hash:net,iface" else [])
    return [word for option in rng.sample(options, rng.choice((1, 1, 2))) for word in option]
