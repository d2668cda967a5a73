"""IP sets: ``ipset restore`` text in, ``-m set`` and ``-j SET`` look-ups, ``ipset save`` text out.

Types and options that a policy engine or kube-proxy uses are modelled (``TYPES``); another one is refused by name.
Elements are kept as the kernel stores them: a range of addresses or ports becomes single elements.

Source: net/netfilter/ipset/ip_set_*.c, ipset(8).
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range
from typing import Any

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.names import PROTOCOL_NUMBERS
from pktsim.netfilter.ruleset import Family

NS_PER_S = 1_000_000_000
#: ``hash:*`` sets refuse more elements than ``maxelem`` says.
DEFAULT_MAXELEM = 65536
#: Protocols whose packets have a port to look up; ICMP's is type and code (ip_set_get_ip_port).
_PORT_PROTOCOLS = frozenset({6, 17, 33, 132, 136})
_ICMP = 1
_ICMPV6 = 58

Element = tuple[Any, ...]


class Dimension(enum.Enum):
    """What one part of an element is."""

    IP = "ip"
    NET = "net"
    PORT = "port"
    IFACE = "iface"
    MARK = "mark"
    MAC = "mac"
    SET = "set"


#: Set types by name: the dimensions of an element.
TYPES: dict[str, tuple[Dimension, ...]] = {
    "hash:ip": (Dimension.IP,),
    "hash:net": (Dimension.NET,),
    "hash:mac": (Dimension.MAC,),
    "hash:ip,port": (Dimension.IP, Dimension.PORT),
    "hash:ip,mark": (Dimension.IP, Dimension.MARK),
    "hash:net,port": (Dimension.NET, Dimension.PORT),
    "hash:net,iface": (Dimension.NET, Dimension.IFACE),
    "hash:net,net": (Dimension.NET, Dimension.NET),
    "hash:ip,port,ip": (Dimension.IP, Dimension.PORT, Dimension.IP),
    "hash:ip,port,net": (Dimension.IP, Dimension.PORT, Dimension.NET),
    "hash:net,port,net": (Dimension.NET, Dimension.PORT, Dimension.NET),
    "bitmap:port": (Dimension.PORT,),
    "bitmap:ip": (Dimension.IP,),
    "list:set": (Dimension.SET,),
}
#: Options of ``create`` that take a value and have no say in what matches.
_IGNORED_WITH_VALUE = frozenset({"hashsize", "bucketsize", "initval", "markmask", "size"})
_IGNORED_FLAGS = frozenset({"comment", "counters", "skbinfo", "forceadd"})


@dataclass(slots=True)
class Stored:
    """What is kept of an element beside its key."""

    nomatch: bool = False
    expires_ns: int | None = None


@dataclass(slots=True)
class IpSet:
    """One set. Elements are in the order in which they were added."""

    name: str
    type_name: str
    family: Family = Family.IPV4
    timeout_s: int | None = None
    maxelem: int = DEFAULT_MAXELEM
    netmask: int | None = None
    port_range: tuple[int, int] | None = None
    elements: dict[Element, Stored] = field(default_factory=dict)

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        return TYPES[self.type_name]

    @property
    def knows_nomatch(self) -> bool:
        """``IPSET_TYPE_NOMATCH``: types with networks in them."""
        return "net" in self.type_name

    def live(self, element: Element, now_ns: int) -> Stored | None:
        """The element if it is there and has not timed out."""
        stored = self.elements.get(element)
        if stored is not None and stored.expires_ns is not None and stored.expires_ns <= now_ns:
            del self.elements[element]
            return None
        return stored

    def add(self, element: Element, now_ns: int, *, timeout_s: int | None = None, nomatch: bool = False) -> bool:
        """Add or renew. Returns whether it is in the set afterwards (a full set takes no more)."""
        if element not in self.elements and len(self.elements) >= self.maxelem:
            return False
        seconds = self.timeout_s if timeout_s is None else timeout_s
        expires_ns = now_ns + seconds * NS_PER_S if seconds and self.timeout_s is not None else None
        self.elements[element] = Stored(nomatch, expires_ns)
        return True


class IpSets:
    """All the sets of a namespace."""

    def __init__(self) -> None:
        self.sets: dict[str, IpSet] = {}

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

    def restore(self, text: str, *, now_ns: int = 0, file: str | None = None) -> None:
        """Run ``ipset restore`` text.

        Raises:
            RulesetSyntaxError: What the tool would refuse.
            UnsupportedFeature: A type or option that is not modelled.
        """
        for number, line in enumerate(text.splitlines(), start=1):
            words = shlex.split(line, comments=True)
            if words:
                try:
                    self.command(words, now_ns=now_ns)
                except (RulesetSyntaxError, UnsupportedFeature) as error:
                    error.file, error.line = file, number
                    raise

    def command(self, words: Sequence[str], *, now_ns: int) -> None:
        """One command without the leading ``ipset``."""
        verb = words[0].removeprefix("-")
        arguments = [word for word in words[1:] if word not in ("-exist", "-!")]
        exist = len(arguments) != len(words) - 1
        if verb in ("create", "N", "n"):
            self._create(arguments, exist=exist)
        elif verb in ("add", "A", "a"):
            self._add(arguments, now_ns)
        elif verb in ("del", "D", "d"):
            target = self[arguments[0]]
            for element in self._parse(target, arguments[1]):
                if element not in target.elements and not exist:
                    raise RulesetSyntaxError(f"Element cannot be deleted from the set: it's not added ({arguments[1]})")
                target.elements.pop(element, None)
        elif verb in ("flush", "F"):
            for target in [self[arguments[0]]] if arguments else list(self.sets.values()):
                target.elements.clear()
        elif verb in ("destroy", "x", "X"):
            for name in arguments or list(self.sets):
                del self.sets[self[name].name]
        elif verb in ("swap", "W"):
            first, second = self[arguments[0]], self[arguments[1]]
            first.name, second.name = second.name, first.name
            self.sets[first.name], self.sets[second.name] = first, second
        elif verb != "COMMIT":
            raise UnsupportedFeature(f"ipset command {words[0]}")

    def _create(self, words: Sequence[str], *, exist: bool) -> None:
        if len(words) < 2:
            raise RulesetSyntaxError("create needs a name and a type", mend="create NAME TYPE [options]")
        name, type_name = words[0], words[1]
        if type_name not in TYPES:
            raise UnsupportedFeature(f"ipset type {type_name}", mend=f"modelled are {', '.join(sorted(TYPES))}")
        if name in self.sets:
            if exist:
                return
            raise RulesetSyntaxError(f"Set cannot be created: set with the same name already exists ({name})")
        new = IpSet(name, type_name)
        options = iter(words[2:])
        for option in options:
            if option in _IGNORED_FLAGS:
                continue
            value = next(options, None)
            if value is None:
                raise RulesetSyntaxError(f"create: option {option} needs a value", token=option)
            if option == "family":
                new.family = Family.IPV6 if value in ("inet6", "-6") else Family.IPV4
            elif option == "timeout":
                new.timeout_s = int(value)
            elif option == "maxelem":
                new.maxelem = int(value)
            elif option == "netmask":
                new.netmask = int(value)
            elif option == "range" and type_name == "bitmap:port":
                low, _, high = value.partition("-")
                new.port_range = (int(low), int(high or low))
            elif option not in _IGNORED_WITH_VALUE and option != "range":
                raise UnsupportedFeature(f"ipset create option {option}")
        self.sets[name] = new

    def _add(self, words: Sequence[str], now_ns: int) -> None:
        target = self[words[0]]
        timeout_s: int | None = None
        nomatch = False
        options = iter(words[2:])
        for option in options:
            if option == "nomatch":
                nomatch = True
            elif option == "timeout":
                timeout_s = int(next(options, "0"))
            elif option in ("packets", "bytes", "comment"):
                next(options, None)
            else:
                raise UnsupportedFeature(f"ipset add option {option}")
        if timeout_s is not None and target.timeout_s is None:
            raise RulesetSyntaxError("Timeout cannot be used: set was created without timeout support")
        for element in self._parse(target, words[1]):
            if not target.add(element, now_ns, timeout_s=timeout_s, nomatch=nomatch):
                raise RulesetSyntaxError(f"Hash is full, cannot add more elements ({target.name})")

    def _parse(self, target: IpSet, text: str) -> Iterator[Element]:
        """All elements that the text of one stands for."""
        parts = text.split(",")
        dimensions = target.dimensions
        if len(parts) != len(dimensions):
            raise RulesetSyntaxError(
                f"an element of {target.type_name} has {len(dimensions)} parts, not {len(parts)}", token=text
            )
        choices = [self._parse_part(target, dimension, part) for dimension, part in zip(dimensions, parts, strict=True)]

        def combine(index: int, prefix: Element) -> Iterator[Element]:
            if index == len(choices):
                yield prefix
                return
            for choice in choices[index]:
                yield from combine(index + 1, (*prefix, choice))

        yield from combine(0, ())

    def _parse_part(self, target: IpSet, dimension: Dimension, text: str) -> list[Any]:
        try:
            return _PARSERS[dimension](target, text)
        except ValueError as error:
            raise RulesetSyntaxError(f"bad {dimension.value} {text!r}: {error}", token=text) from None

    # ------------------------------------------------------------------------------------------------------- packets

    def test(
        self, name: str, sides: Sequence[str], packet: Any, *, interfaces: Callable[[int], str], now_ns: int
    ) -> bool | None:
        """Whether the packet is in the set; ``None`` if it is there as ``nomatch``.

        Args:
            name: The set's.
            sides: ``src`` or ``dst`` for each dimension.
            packet: The engine's packet.
            interfaces: ifindex -> name.
            now_ns: For time-outs.
        """
        target = self[name]
        if target.type_name == "list:set":
            for (member,) in list(target.elements):
                found = self.test(member, sides, packet, interfaces=interfaces, now_ns=now_ns)
                if found:
                    return True
            return False
        key = self.element_of(target, sides, packet, interfaces)
        if key is None:
            return False
        for candidate in _candidates(target, key):
            stored = target.live(candidate, now_ns)
            if stored is not None:
                return None if stored.nomatch else True
        return False

    def element_of(
        self, target: IpSet, sides: Sequence[str], packet: Any, interfaces: Callable[[int], str]
    ) -> Element | None:
        """The packet's own element (nets at full length), or ``None`` if it has none (no ports, other family)."""
        data: bytes = packet.data
        v4 = data[0] >> 4 == 4
        if not _any_family(target) and v4 != (target.family is Family.IPV4):
            return None
        parts: list[Any] = []
        for index, dimension in enumerate(target.dimensions):
            source = (sides[index] if index < len(sides) else sides[-1]) == "src"
            if dimension in (Dimension.IP, Dimension.NET):
                raw = (data[12:16] if source else data[16:20]) if v4 else (data[8:24] if source else data[24:40])
                number = int.from_bytes(raw, "big")
                bits = 32 if v4 else 128
                if dimension is Dimension.IP and target.netmask is not None:
                    number &= ((1 << target.netmask) - 1) << (bits - target.netmask)
                parts.append(number if dimension is Dimension.IP else (number, bits))
            elif dimension is Dimension.PORT:
                port = _packet_port(packet, data, source=source)
                if port is None:
                    return None
                if target.type_name == "bitmap:port":
                    low, high = target.port_range or (0, 65535)
                    if not low <= port[1] <= high:
                        return None
                    parts.append(port[1])
                else:
                    parts.append(port)
            elif dimension is Dimension.IFACE:
                index_ = packet.in_ifindex if source else packet.out_ifindex
                if not index_:
                    return None
                parts.append(interfaces(index_))
            elif dimension is Dimension.MARK:
                parts.append(packet.mark)
            else:
                frame: bytes = packet.frame
                if packet.local or len(frame) - len(data) < 14:
                    return None
                parts.append(frame[6:12] if source else frame[0:6])
        return tuple(parts)

    # ---------------------------------------------------------------------------------------------------------- text

    def save_elements(self, now_ns: int = 0) -> list[str]:
        """``add NAME ELEMENT [nomatch]`` for every live element, sorted."""
        lines = []
        for name in self.sets:
            target = self.sets[name]
            for element in list(target.elements):
                stored = target.live(element, now_ns)
                if stored is not None:
                    suffix = " nomatch" if stored.nomatch else ""
                    lines.append(f"add {name} {_element_text(target, element)}{suffix}")
        return sorted(lines)


def _any_family(target: IpSet) -> bool:
    return target.type_name in ("bitmap:port", "hash:mac", "list:set")


def _packet_port(packet: Any, data: bytes, *, source: bool) -> tuple[int, int] | None:
    """(protocol, port) as ip_set_get_ip4_port: type and code for ICMP, 0 for protocols without ports is no element."""
    offset: int = packet.transport_offset
    protocol: int = packet.protocol
    if not offset:
        return None
    transport = data[offset:]
    if protocol in _PORT_PROTOCOLS and len(transport) >= 4:
        return protocol, int.from_bytes(transport[0:2] if source else transport[2:4], "big")
    if protocol in (_ICMP, _ICMPV6) and len(transport) >= 2:
        return protocol, transport[0] << 8 | transport[1]
    return None


def _candidates(target: IpSet, key: Element) -> Iterator[Element]:
    """The elements that could hold ``key``: for nets every prefix length that occurs, longest first."""
    nets = [index for index, dimension in enumerate(target.dimensions) if dimension is Dimension.NET]
    if not nets:
        yield key
        return
    lengths = [sorted({element[index][1] for element in target.elements}, reverse=True) for index in nets]

    def narrow(at: int, current: list[Any]) -> Iterator[Element]:
        if at == len(nets):
            yield tuple(current)
            return
        index = nets[at]
        number, bits = key[index]
        for length in lengths[at]:
            current[index] = (number & ((1 << length) - 1) << (bits - length), length)
            yield from narrow(at + 1, current)

    yield from narrow(0, list(key))


# ------------------------------------------------------------------------------------------------------------ elements


def _parse_ip(target: IpSet, text: str) -> list[Any]:
    first, _, last = text.partition("-")
    if last:
        return list(range(int(ip_address(first)), int(ip_address(last)) + 1))
    if "/" in first:
        network = ip_network(first, strict=False)
        return [int(address) for address in network]
    number = int(ip_address(first))
    if target.netmask is not None:
        bits = 32 if target.family is Family.IPV4 else 128
        number &= ((1 << target.netmask) - 1) << (bits - target.netmask)
    return [number]


def _parse_net(_target: IpSet, text: str) -> list[Any]:
    first, _, last = text.partition("-")
    if last:
        low, high = ip_address(first), ip_address(last)
        return [(int(network.network_address), network.prefixlen) for network in summarize_address_range(low, high)]
    network = ip_network(text, strict=False)
    return [(int(network.network_address), network.prefixlen)]


def _parse_port(target: IpSet, text: str) -> list[Any]:
    protocol_text, colon, ports = text.rpartition(":")
    protocol = 6
    if colon:
        known = PROTOCOL_NUMBERS.get(protocol_text)
        protocol = known if known is not None else int(protocol_text)
    first, _, last = ports.partition("-")
    numbers = range(int(first), int(last or first) + 1)
    if target.type_name == "bitmap:port":
        return list(numbers)
    return [(protocol, number) for number in numbers]


def _parse_mac(_target: IpSet, text: str) -> list[Any]:
    raw = bytes.fromhex(text.replace(":", ""))
    if len(raw) != 6:
        raise ValueError("a MAC address has six bytes")
    return [raw]


_PARSERS: dict[Dimension, Callable[[IpSet, str], list[Any]]] = {
    Dimension.IP: _parse_ip,
    Dimension.NET: _parse_net,
    Dimension.PORT: _parse_port,
    Dimension.IFACE: lambda _target, text: [text],
    Dimension.MARK: lambda _target, text: [int(text, 0)],
    Dimension.MAC: _parse_mac,
    Dimension.SET: lambda _target, text: [text],
}

_PORT_NAMES = {6: "tcp", 17: "udp", 132: "sctp", 136: "udplite", 1: "icmp", 58: "icmpv6"}


def _element_text(target: IpSet, element: Element) -> str:
    parts = []
    make: type[IPv4Address] | type[IPv6Address] = IPv4Address if target.family is Family.IPV4 else IPv6Address
    full = 32 if target.family is Family.IPV4 else 128
    for dimension, value in zip(target.dimensions, element, strict=True):
        if dimension is Dimension.IP:
            parts.append(str(make(value)))
        elif dimension is Dimension.NET:
            number, length = value
            parts.append(str(make(number)) if length == full else f"{make(number)}/{length}")
        elif dimension is Dimension.PORT:
            if isinstance(value, tuple):
                protocol, port = value
                parts.append(f"{_PORT_NAMES.get(protocol, str(protocol))}:{port}")
            else:
                parts.append(str(value))
        elif dimension is Dimension.MARK:
            parts.append(f"0x{value:08x}")
        elif dimension is Dimension.MAC:
            parts.append(":".join(f"{byte:02X}" for byte in value))
        else:
            parts.append(str(value))
    return ",".join(parts)
