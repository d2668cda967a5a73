"""Types of IP sets: the parts of their elements, the options of their commands, and the order in which these are shown.

Source: lib/ipset_TYPE.c of ipset 7.17 and net/netfilter/ipset/ip_set_TYPE.c, the newest revision of each; ipset(8).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Part(enum.Enum):
    """What one part of an element is."""

    IP = "ip"
    NET = "net"
    PORT = "port"
    IFACE = "iface"
    MARK = "mark"
    MAC = "mac"
    SET = "set"


class Families(enum.Enum):
    """Whose packets sets of a type hold."""

    IPV4 = enum.auto()
    CHOSEN = enum.auto()  # by the option ``family``
    ANY = enum.auto()


#: Extensions of elements, which every type can have.
_EXTENSIONS = ("timeout", "counters", "comment", "skbinfo")
_HASH = ("hashsize", "maxelem")
_TUNING = ("bucketsize", "initval")


@dataclass(frozen=True, slots=True)
class SetType:
    """One type.

    Attributes:
        name: ``hash:ip,port``.
        parts: Of an element, in order.
        families: Whose packets.
        create: Options of ``create`` in the order of ``ipset save``.
        add: Options of ``add`` beyond those of the extensions.
        zero: Whether an element of address 0 can be added and found.
        whole: Whether networks may have a prefix of length 0.
    """

    name: str
    parts: tuple[Part, ...]
    families: Families
    create: tuple[str, ...]
    add: tuple[str, ...] = ()
    zero: bool = True
    whole: bool = False

    @property
    def hashed(self) -> bool:
        """Whether ``maxelem`` limits it."""
        return self.name.startswith("hash:")

    @property
    def features(self) -> tuple[tuple[str, ...], bool]:
        """Sets that agree in these can be swapped: what elements are made of, and whether they may be ``nomatch``."""
        parts = sorted(Part.IP.value if part is Part.NET else part.value for part in self.parts)
        return tuple(parts), bool(self.nets)

    @property
    def nets(self) -> tuple[int, ...]:
        """Which parts are networks."""
        return tuple(at for at, part in enumerate(self.parts) if part is Part.NET)


def _hash(
    parts: str,
    *,
    before: tuple[str, ...] = (),
    between: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    zero: bool = True,
    whole: bool = False,
) -> SetType:
    found = tuple(Part(part) for part in parts.split(","))
    add: tuple[str, ...] = ("nomatch",) if Part.NET in found else ()
    families = Families.CHOSEN
    family: tuple[str, ...] = ("family",)
    if found == (Part.MAC,):
        families = Families.ANY
        family = ()
    if Part.IFACE in found:
        add += ("wildcard",)
    create = (*family, *before, *_HASH, *between, *_EXTENSIONS, *_TUNING, *after)
    return SetType(f"hash:{parts}", found, families, create, add, zero, whole)


_MASKS = ("netmask", "bitmask")
_ALL = (
    _hash("ip", between=_MASKS, zero=False),
    _hash("net"),
    _hash("mac"),
    _hash("ip,mac", zero=False),
    _hash("ip,port", after=_MASKS, zero=False),
    _hash("ip,mark", before=("markmask",)),
    _hash("net,port"),
    _hash("net,iface", whole=True),
    _hash("net,net", after=_MASKS, whole=True),
    _hash("ip,port,ip"),
    _hash("ip,port,net"),
    _hash("net,port,net", whole=True),
    SetType("bitmap:ip", (Part.IP,), Families.IPV4, ("range", "netmask", *_EXTENSIONS)),
    SetType("bitmap:ip,mac", (Part.IP, Part.MAC), Families.IPV4, ("range", *_EXTENSIONS)),
    SetType("bitmap:port", (Part.PORT,), Families.ANY, ("range", *_EXTENSIONS)),
    SetType("list:set", (Part.SET,), Families.ANY, ("size", *_EXTENSIONS), ("before", "after")),
)

#: By name.
TYPES: dict[str, SetType] = {one.name: one for one in _ALL}

#: Names of the time before ipset 5.
ALIASES = {
    "iphash": "hash:ip",
    "nethash": "hash:net",
    "ipporthash": "hash:ip,port",
    "ipportiphash": "hash:ip,port,ip",
    "ipportnethash": "hash:ip,port,net",
    "ipmap": "bitmap:ip",
    "macipmap": "bitmap:ip,mac",
    "portmap": "bitmap:port",
    "setlist": "list:set",
}

#: Options of ``create`` without a value.
FLAGS = frozenset({"counters", "comment", "skbinfo", "forceadd"})
#: Taken with a value, a warning and no effect.
OBSOLETE = frozenset({"gc", "probes", "resize"})
