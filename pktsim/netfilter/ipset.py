"""IP sets of a namespace: what is in them, and what packets find, add and delete there.

Elements are kept as the kernel keeps them, one by one (see :mod:`pktsim.netfilter.ipset_elements`). What makes, fills
and prints sets by words is :mod:`pktsim.netfilter.ipset_text`.

Source: net/netfilter/ipset/ip_set_core.c, ip_set_hash_gen.h, ip_set_bitmap_gen.h, ip_set_list_set.c.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pktsim.clock import HZ, NS_PER_JIFFY
from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.fidelity import approximated
from pktsim.netfilter.ipset_elements import Element, Iface
from pktsim.netfilter.ipset_types import TYPES, Families, Part, SetType
from pktsim.netfilter.matches.set import Comparison, CounterCondition, SetMatch
from pktsim.netfilter.ruleset import Family, Rule, Table
from pktsim.netfilter.targets.set import SetTarget
from pktsim.wire.frame import (
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    ip_addresses,
)

approximated(
    "netfilter.ipset",
    "elements are kept and shown in order, not as their hash has them, and initval, which Linux draws, is shown only "
    "if it was given; a full set with forceadd is refused where an element would have to go",
    source="net/netfilter/ipset/ip_set_hash_gen.h",
)

#: ``hash:*`` sets refuse more elements than ``maxelem`` says.
DEFAULT_MAXELEM = 65536
#: How much of a header there must be for its ports (``get_port``).
_PORT_HEADERS = {
    IPPROTO_TCP: 20,
    IPPROTO_UDP: 8,
    IPPROTO_UDPLITE: 8,
    IPPROTO_SCTP: 12,
    IPPROTO_ICMP: 8,
    IPPROTO_ICMPV6: 8,
}
_BITMAP_PORT_PROTOCOLS = frozenset({6, 17})
_ETH_HLEN = 14


Mac = bytes


class Found(enum.Enum):
    """What became of an element to be added or deleted."""

    DONE = enum.auto()
    EXISTS = enum.auto()
    MISSING = enum.auto()
    FULL = enum.auto()


@dataclass(slots=True)
class SkbInfo:
    """What ``SET --map-set`` gives a packet."""

    mark: int = 0
    mark_mask: int = 0
    priority: int = 0
    queue: int = 0


@dataclass(slots=True)
class Entry:
    """What is kept of an element beside its key.

    Attributes:
        expires_jiffy: The last jiffy at which it is there; ``None``: always.
        waiting_s: In ``bitmap:ip,mac`` without a MAC yet: the time-out, which begins when it has one.
    """

    nomatch: bool = False
    expires_jiffy: int | None = None
    packets: int = 0
    bytes: int = 0
    comment: str = ""
    skbinfo: SkbInfo = field(default_factory=SkbInfo)
    mac: Mac | None = None
    waiting_s: int | None = None

    def remaining_s(self, now_ns: int) -> int:
        """What ``ipset save`` says of its time: 0 for ever, else at least 1."""
        if self.waiting_s is not None:
            return self.waiting_s
        if self.expires_jiffy is None:
            return 0
        return max((self.expires_jiffy - now_ns // NS_PER_JIFFY) // HZ, 1)


@dataclass(frozen=True, slots=True)
class Extensions:
    """What an element is added with."""

    timeout_s: int | None = None
    packets: int | None = None
    bytes: int | None = None
    comment: str = ""
    skbinfo: SkbInfo = field(default_factory=SkbInfo)
    nomatch: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """What a rule asks for beside the set and the sides."""

    return_nomatch: bool = False
    update_counters: bool = True
    update_subcounters: bool = True
    packets: CounterCondition | None = None
    bytes: CounterCondition | None = None


_PLAIN = Query()


@dataclass(slots=True)
class IpSet:
    """One set. Elements are in the order in which they were added, but for ``before`` and ``after`` in ``list:set``."""

    name: str
    type: SetType
    family: Family | None = Family.IPV4  # None: of both
    timeout_s: int | None = None
    counters: bool = False
    comment: bool = False
    skbinfo: bool = False
    forceadd: bool = False
    hashsize: int = 1024
    maxelem: int = DEFAULT_MAXELEM
    bucketsize: int = 12
    initval: int | None = None  # None: drawn by the kernel, and of no consequence here
    size: int = 8
    netmask: int | None = None
    bitmask: int | None = None
    markmask: int = 0xFFFFFFFF
    bounds: tuple[int, int] | None = None
    elements: dict[Element, Entry] = field(default_factory=dict)
    #: How many elements have a network of that prefix length, for each part that is one.
    _lengths: list[dict[int, int]] = field(default_factory=list)
    _longest_first: list[list[int]] = field(default_factory=list)
    #: Of bitmaps: counters of what is not there any more.
    _left: dict[Element, tuple[int, int]] = field(default_factory=dict)
    #: ``hash:net,iface``: elements by their network.
    _by_net: dict[tuple[int, int], list[Element]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.flush()

    def flush(self) -> None:
        """Take all elements away."""
        for element in self.elements:
            self._leave(element)
        self.elements.clear()
        self._by_net.clear()
        self._lengths = [{} for _ in self.type.nets]
        self._longest_first = [[] for _ in self.type.nets]

    def _leave(self, element: Element) -> None:
        """A bit that is cleared leaves its counters behind, for the next one that is set without any."""
        entry = self.elements[element]
        if self.bounds is not None and (entry.packets or entry.bytes):
            self._left[element] = entry.packets, entry.bytes

    @property
    def bits(self) -> int:
        """Of an address."""
        return 128 if self.family is Family.IPV6 else 32

    @property
    def ip_mask(self) -> int:
        """What addresses are masked with."""
        bits = self.bits
        if self.bitmask is not None:
            return self.bitmask
        return ((1 << bits) - 1) ^ ((1 << (bits - (self.netmask or bits))) - 1)

    @property
    def stride(self) -> int:
        """From one element of a range of addresses to the next."""
        return 1 << (self.bits - self.netmask) if self.netmask and self.type.parts == (Part.IP,) else 1

    @property
    def knows_nomatch(self) -> bool:
        """``IPSET_TYPE_NOMATCH``."""
        return bool(self.type.nets)

    # ------------------------------------------------------------------------------------------------------ elements

    @staticmethod
    def expired(entry: Entry, now_ns: int) -> bool:
        """Whether its time is up."""
        return entry.expires_jiffy is not None and now_ns // NS_PER_JIFFY > entry.expires_jiffy

    def live(self, now_ns: int) -> Iterator[tuple[Element, Entry]]:
        """The elements whose time is not up."""
        return ((element, entry) for element, entry in self.elements.items() if not self.expired(entry, now_ns))

    def find(self, element: Element) -> Element | None:
        """The element that is equal to this one, and be it by a wildcard."""
        if Part.IFACE not in self.type.parts:
            return element if element in self.elements else None
        return next((one for one in self._by_net.get(element[0], ()) if _same_iface(one[1], element[1])), None)

    def add(self, element: Element, given: Extensions, now_ns: int, *, exist: bool = False) -> Found:
        """Add, or with ``exist`` renew what is there."""
        mac: Mac | None = None
        if self.type.name == "bitmap:ip,mac":
            mac = element[1]
            element = element[:1]
        there = self.find(element)
        entry = self.elements[there] if there is not None else None
        if entry is not None and there is not None and not self.expired(entry, now_ns):
            filled = mac is not None and entry.mac is None and self.type.name == "bitmap:ip,mac"
            if not exist and not filled:
                return Found.EXISTS
            waited = entry.waiting_s if filled else None
            self._extend(entry, given, now_ns, mac if mac is not None else entry.mac, waited)
            return Found.DONE
        if there is not None:
            self._remove(there)
        if self.type.hashed and len(self.elements) >= self.maxelem:
            for old in [one for one, kept in self.elements.items() if self.expired(kept, now_ns)]:
                self._remove(old)
            if len(self.elements) >= self.maxelem:
                if self.forceadd:  # which element goes, and whether one does, hangs on the hash
                    raise UnsupportedFeature(
                        f"ipset forceadd of a full set ({self.name})", mend="create it with a larger maxelem"
                    )
                return Found.FULL
        entry = self.elements[element] = Entry()
        if element in self._left:
            entry.packets, entry.bytes = self._left.pop(element)
        self._extend(entry, given, now_ns, mac, None)
        for at, part in enumerate(self.type.nets):
            length = element[part][1]
            counts = self._lengths[at]
            counts[length] = counts.get(length, 0) + 1
            self._longest_first[at] = sorted(counts, reverse=True)
        if Part.IFACE in self.type.parts:
            self._by_net.setdefault(element[0], []).append(element)
        return Found.DONE

    def _extend(self, entry: Entry, given: Extensions, now_ns: int, mac: Mac | None, waited_s: int | None) -> None:
        entry.nomatch = given.nomatch
        if given.packets is not None:
            entry.packets = given.packets
        if given.bytes is not None:
            entry.bytes = given.bytes
        entry.comment = given.comment
        entry.skbinfo = given.skbinfo
        entry.mac = mac
        if self.timeout_s is None:
            return
        seconds = self.timeout_s if given.timeout_s is None else given.timeout_s
        if waited_s is not None and seconds == self.timeout_s:
            seconds = waited_s
        entry.waiting_s = None
        if self.type.name == "bitmap:ip,mac" and mac is None:
            entry.waiting_s, entry.expires_jiffy = seconds, None
        else:
            entry.expires_jiffy = now_ns // NS_PER_JIFFY + seconds * HZ if seconds else None

    def delete(self, element: Element, now_ns: int) -> Found:
        """Delete what is equal to this one."""
        if self.type.name == "bitmap:ip,mac":
            element = element[:1]
        there = self.find(element)
        if there is None or self.expired(self.elements[there], now_ns):
            return Found.MISSING
        self._remove(there)
        return Found.DONE

    def _remove(self, element: Element) -> None:
        self._leave(element)
        del self.elements[element]
        for at, part in enumerate(self.type.nets):
            length = element[part][1]
            counts = self._lengths[at]
            counts[length] -= 1
            if not counts[length]:
                del counts[length]
                self._longest_first[at] = sorted(counts, reverse=True)
        if Part.IFACE in self.type.parts:
            same = self._by_net[element[0]]
            same.remove(element)
            if not same:
                del self._by_net[element[0]]

    def insert(self, element: Element, given: Extensions, now_ns: int, before: str, after: str) -> None:
        """``list:set``: put a new element where it was asked for."""
        kept = list(self.elements.items())
        anchor = next(at for at, (one, _) in enumerate(kept) if one == (before or after,))
        entry = Entry()
        self._extend(entry, given, now_ns, None, None)
        kept.insert(anchor if before else anchor + 1, (element, entry))
        self.elements = dict(kept)

    def longest(self, at: int) -> int | None:
        """The longest prefix length in the ``at``-th part that is a network; ``None`` if there are no elements."""
        found = self._longest_first[at]
        return found[0] if found else None

    def candidates(self, key: Element) -> Iterator[list[Element]]:
        """The elements that hold ``key``, with networks of each length that occurs, the longest first.

        Elements of one list differ in their interface only: Linux looks no further once it has found their network,
        even if it was another interface's (``multi`` of ``mtype_test_cidrs``).
        """
        parts = self.type.nets
        if not parts:
            yield [key] if key in self.elements else []
            return
        bits = self.bits
        current = list(key)
        several = Part.IFACE in self.type.parts

        def narrow(at: int) -> Iterator[list[Element]]:
            if at == len(parts):
                if several:
                    yield self._by_net.get(current[0], [])
                else:
                    element = tuple(current)
                    yield [element] if element in self.elements else []
                return
            part = parts[at]
            number = key[part][0]
            for length in self._longest_first[at]:
                current[part] = (number >> (bits - length) << (bits - length), length)
                yield from narrow(at + 1)

        yield from narrow(0)


def _same_iface(kept: Iface, other: Iface) -> bool:
    if kept.physdev != other.physdev:
        return False
    return other.name.startswith(kept.name) if kept.wildcard else kept.name == other.name


def rule_sets(rule: Rule) -> Iterator[str]:
    """The sets that a rule names, which the kernel holds for it."""
    for one in (*rule.matches, rule.target):
        if isinstance(one, (SetMatch, SetTarget)):
            yield from one.set_names()


class IpSets:
    """All the sets of a namespace."""

    def __init__(self) -> None:
        self.sets: dict[str, IpSet] = {}
        #: The sets that rules in force name.
        self.named_by_rules: Callable[[], frozenset[str]] = frozenset

    def __getitem__(self, name: str) -> IpSet:
        """Return a set.

        Raises:
            RulesetSyntaxError: There is none, as iptables says when a rule names it.
        """
        try:
            return self.sets[name]
        except KeyError:
            raise RulesetSyntaxError(
                f"Set {name} doesn't exist", token=name, mend="create it before the rules"
            ) from None

    def check(self, table: Table) -> None:
        """Refuse a table with a rule that names a set which is not there or of the other family.

        Raises:
            RulesetSyntaxError: As iptables says (``get_set_byname`` of libxt_set).
        """
        for chain in table.chains:
            for number, rule in enumerate(chain.rules, 1):
                for name in rule_sets(rule):
                    found = self.sets.get(name)
                    if found is None:
                        what, mend = f"Set {name} doesn't exist", "create it before the rules"
                    elif found.family not in (None, table.family):
                        other = "IPv4" if found.family is Family.IPV4 else "IPv6"
                        what = f"The protocol family of set {name} is {other}, which is not applicable"
                        mend = "use a set of the rule's family"
                    else:
                        continue
                    error = RulesetSyntaxError(what, token=name, mend=mend)
                    error.place = f"table {table.name}, chain {chain.name}, rule {number}"
                    raise error

    def in_use(self, name: str) -> bool:
        """Whether a rule or a ``list:set`` names it."""
        return self.in_list(name) or name in self.named_by_rules()

    def in_list(self, name: str) -> bool:
        """Whether a ``list:set`` has it."""
        return any((name,) in one.elements for one in self.sets.values() if one.type.name == "list:set")

    # ------------------------------------------------------------------------------------------------------- packets

    def test(
        self, name: str, sides: Sequence[str], packet: Any, context: PacketContext, query: Query = _PLAIN
    ) -> Entry | None:
        """``ip_set_test``: what the packet was found as, or ``None``.

        Args:
            name: The set's.
            sides: ``src`` or ``dst`` for each part of its elements.
            packet: The engine's packet.
            context: When and where.
            query: What else the rule wants.
        """
        target = self[name]
        if not _fits(target, sides, packet):
            return None
        if target.type.name == "list:set":
            return self._test_list(target, sides, packet, context, query)
        key = packet_element(target, sides, packet, context.interface_name, adding=False)
        if key is None:
            return None
        mac = None
        if target.type.name == "bitmap:ip,mac":
            key, mac = key[:1], key[1]
        for found in target.candidates(key):
            met = False
            for element in found:
                met = True
                entry = target.elements[element]
                if target.type.name == "bitmap:ip,mac" and entry.mac is None:
                    target.add((*element, mac), _from_packet(packet), context.now_ns)
                    return entry
                if (mac is not None and entry.mac != mac) or (len(key) > 1 and not _on_interface(element, key)):
                    continue
                if not _extensions_match(target, entry, packet, context.now_ns, query):
                    met = False
                    continue
                if query.return_nomatch and target.knows_nomatch:
                    return entry if entry.nomatch else None
                return None if entry.nomatch else entry
            if met and Part.IFACE in target.type.parts:
                return None
        return None

    def _test_list(
        self, target: IpSet, sides: Sequence[str], packet: Any, context: PacketContext, query: Query
    ) -> Entry | None:
        inner = Query(query.return_nomatch, query.update_counters and query.update_subcounters)
        for (member,), entry in list(target.elements.items()):
            found = self.test(member, sides, packet, context, inner)
            if found is not None and _extensions_match(target, entry, packet, context.now_ns, query):
                return entry if target.skbinfo else found
        return None

    def add(
        self,
        name: str,
        sides: Sequence[str],
        packet: Any,
        context: PacketContext,
        timeout_s: int | None,
        *,
        exist: bool,
    ) -> bool:
        """``SET --add-set``. Returns whether that did something."""
        target = self[name]
        if not _fits(target, sides, packet):
            return False
        if target.type.name == "list:set":
            return any(
                self.add(member, sides, packet, context, timeout_s, exist=exist)
                for (member,), _ in list(target.live(context.now_ns))
            )
        element = packet_element(target, sides, packet, context.interface_name, adding=True)
        if element is None:
            return False
        given = _from_packet(packet, timeout_s)
        return target.add(element, given, context.now_ns, exist=exist) is Found.DONE

    def delete(self, name: str, sides: Sequence[str], packet: Any, context: PacketContext) -> bool:
        """``SET --del-set``. Returns whether that did something."""
        target = self[name]
        if not _fits(target, sides, packet):
            return False
        if target.type.name == "list:set":
            return any(
                self.delete(member, sides, packet, context) for (member,), _ in list(target.live(context.now_ns))
            )
        element = packet_element(target, sides, packet, context.interface_name, adding=True)
        return element is not None and target.delete(element, context.now_ns) is Found.DONE


@dataclass(frozen=True, slots=True)
class PacketContext:
    """When a packet asks, and how interfaces are called there."""

    now_ns: int
    interface_name: Callable[[int], str]


def _fits(target: IpSet, sides: Sequence[str], packet: Any) -> bool:
    """Whether the rule says enough sides for this set, and the packet is of its family."""
    version = Family.IPV4 if packet.data[0] >> 4 == 4 else Family.IPV6
    return len(sides) >= len(target.type.parts) and target.family in (None, version)


def _from_packet(packet: Any, timeout_s: int | None = None) -> Extensions:
    """What an element has at first that a packet made (``IP_SET_INIT_KEXT``)."""
    return Extensions(timeout_s, 1, len(packet.data))


def _on_interface(element: Element, key: Element) -> bool:
    return not isinstance(element[1], Iface) or _same_iface(element[1], key[1])


def _extensions_match(target: IpSet, entry: Entry, packet: Any, now_ns: int, query: Query) -> bool:
    """``ip_set_match_extensions``: counters count before they are compared."""
    if target.expired(entry, now_ns):
        return False
    if target.counters:
        if query.update_counters:
            entry.packets += 1
            entry.bytes += len(packet.data)
        return _compare(query.packets, entry.packets) and _compare(query.bytes, entry.bytes)
    return True


def _compare(condition: CounterCondition | None, value: int) -> bool:
    if condition is None:
        return True
    if condition.comparison is Comparison.EQ:
        return (value == condition.value) != condition.inverted
    return value < condition.value if condition.comparison is Comparison.LT else value > condition.value


def packet_element(
    target: IpSet, sides: Sequence[str], packet: Any, interface_name: Callable[[int], str], *, adding: bool
) -> Element | None:
    """The packet's own element, or ``None`` if it has none (``kadt`` of the type).

    Networks have their full length for a look-up; to add or delete they have the longest length in the set.
    """
    data: bytes = packet.data
    v4 = data[0] >> 4 == 4
    bits = 32 if v4 else 128
    type_ = target.type
    parts: list[Any] = []
    net = 0
    for side, part in zip(sides, type_.parts, strict=False):
        source = side == "src"
        if part in (Part.IP, Part.NET):
            number = int.from_bytes(ip_addresses(data)[not source])
            if part is Part.NET:
                length = bits
                if adding:
                    longest = target.longest(net)
                    length = bits if longest is None else longest
                net += 1
                parts.append(((number & target.ip_mask) >> (bits - length) << (bits - length), length))
                continue
            if target.netmask is not None or target.bitmask is not None:
                number &= target.ip_mask
            if not type_.zero and not number:
                return None
            if target.bounds is not None and not target.bounds[0] <= number <= target.bounds[1]:
                return None
            parts.append(number)
        elif part is Part.PORT:
            port = _packet_port(packet, data, v4, source=source)
            if port is None:
                return None
            if type_.name == "bitmap:port":
                assert target.bounds is not None
                if port[0] not in _BITMAP_PORT_PROTOCOLS or not target.bounds[0] <= port[1] <= target.bounds[1]:
                    return None
                parts.append(port[1])
            else:
                parts.append(port)
        elif part is Part.IFACE:
            ifindex = packet.in_ifindex if source else packet.out_ifindex
            if not ifindex:
                return None
            parts.append(Iface(interface_name(ifindex)))
        elif part is Part.MARK:
            parts.append(packet.mark & target.markmask)
        else:
            frame: bytes = packet.frame
            if packet.local or len(frame) - len(data) < _ETH_HLEN:
                return None
            mac = frame[6:12] if source else frame[0:6]
            if type_.hashed and not any(mac):
                return None
            parts.append(mac)
    return tuple(parts)


def _packet_port(packet: Any, data: bytes, v4: bool, *, source: bool) -> tuple[int, int] | None:
    """(protocol, port) as ``ip_set_get_ip4_port``: ICMP's is type and code, of what has no ports it is 0."""
    protocol: int = data[9] if v4 else packet.protocol
    offset: int = packet.transport_offset
    need = _PORT_HEADERS.get(protocol)
    if v4:
        if not protocol:
            return None
        if int.from_bytes(data[6:8]) & 0x1FFF:
            return None if need is not None and protocol != IPPROTO_ICMPV6 else (protocol, 0)
        offset = (data[0] & 0xF) * 4
    elif not offset:
        return None
    if need is None:
        return protocol, 0
    transport = data[offset : offset + need]
    if len(transport) < need:
        return None
    if protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
        return protocol, transport[0] << 8 | transport[1]
    return protocol, int.from_bytes(transport[0:2] if source else transport[2:4])


def new_set(name: str, type_name: str, family: Family = Family.IPV4) -> IpSet:
    """An empty set with nothing but the defaults; ``family`` counts where the type has a choice."""
    type_ = TYPES[type_name]
    return IpSet(name, type_, None if type_.families is Families.ANY else family)
