"""Elements of IP sets as words: what the words of one stand for, and how ``ipset save`` writes it.

An element is a tuple with a value for each part of its set's type: an address as a number, a network as (number,
prefix length), a port as (protocol, port) or, in ``bitmap:port``, a number, an interface as :class:`Iface`, a mark, a
MAC address as bytes, or the name of a set. In ``bitmap:ip,mac`` the address alone tells elements apart, and the MAC is
kept beside it.

Source: lib/parse.c and lib/print.c of ipset 7.17, and the ``uadt`` functions of net/netfilter/ipset/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from socket import AF_INET6, inet_aton, inet_pton
from typing import Any

from pktsim.netfilter.ipset_types import Part, SetType
from pktsim.netfilter.names import PROTOCOL_NAMES, PROTOCOL_NUMBERS, SERVICE_PORTS, SERVICES
from pktsim.netfilter.option import BadValue, Context, address_text, leading_number, mac, prefix_mask, to_number
from pktsim.netfilter.ruleset import Family
from pktsim.wire.frame import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

Element = tuple[Any, ...]

#: Protocols that have ports.
PORT_PROTOCOLS = frozenset({6, 17, 132, 136})
#: ``IFNAMSIZ`` less the final NUL.
_LONGEST_INTERFACE = 15

_ICMP_NAMES: dict[tuple[int, int], str] = {
    (0, 0): "echo-reply",
    (3, 0): "network-unreachable",
    (3, 1): "host-unreachable",
    (3, 2): "protocol-unreachable",
    (3, 3): "port-unreachable",
    (3, 4): "fragmentation-needed",
    (3, 5): "source-route-failed",
    (3, 6): "network-unknown",
    (3, 7): "host-unknown",
    (3, 9): "network-prohibited",
    (3, 10): "host-prohibited",
    (3, 11): "TOS-network-unreachable",
    (3, 12): "TOS-host-unreachable",
    (3, 13): "communication-prohibited",
    (3, 14): "host-precedence-violation",
    (3, 15): "precedence-cutoff",
    (4, 0): "source-quench",
    (5, 0): "network-redirect",
    (5, 1): "host-redirect",
    (5, 2): "TOS-network-redirect",
    (5, 3): "TOS-host-redirect",
    (8, 0): "echo-request",
    (9, 0): "router-advertisement",
    (10, 0): "router-solicitation",
    (11, 0): "ttl-zero-during-transit",
    (11, 1): "ttl-zero-during-reassembly",
    (12, 0): "ip-header-bad",
    (12, 1): "required-option-missing",
    (13, 0): "timestamp-request",
    (14, 0): "timestamp-reply",
    (17, 0): "address-mask-request",
    (18, 0): "address-mask-reply",
}
_ICMPV6_NAMES: dict[tuple[int, int], str] = {
    (1, 0): "no-route",
    (1, 1): "communication-prohibited",
    (1, 3): "address-unreachable",
    (1, 4): "port-unreachable",
    (2, 0): "packet-too-big",
    (3, 0): "ttl-zero-during-transit",
    (3, 1): "ttl-zero-during-reassembly",
    (4, 0): "bad-header",
    (4, 1): "unknown-header-type",
    (4, 2): "unknown-option",
    (128, 0): "echo-request",
    (129, 0): "echo-reply",
    (133, 0): "router-solicitation",
    (134, 0): "router-advertisement",
    (135, 0): "neighbour-solicitation",
    (136, 0): "neighbour-advertisement",
    (137, 0): "redirect",
}
_ICMP_CODES = {name.lower(): pair for pair, name in _ICMP_NAMES.items()} | {
    "pong": (0, 0),
    "ping": (8, 0),
    "ttl-exceeded": (11, 0),
}
_ICMPV6_CODES = {name.lower(): pair for pair, name in _ICMPV6_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Iface:
    """An interface of an element; ``wildcard``: and all whose names begin so; ``physdev``: a port of a bridge."""

    name: str
    physdev: bool = False
    wildcard: bool = False


# Words to values


def to_ip(text: str, family: Family) -> int:
    """One numeric address. IPv4 may be short (``10.1`` is 10.0.0.1), as ``getaddrinfo`` takes it."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        if family is Family.IPV6:
            return int.from_bytes(inet_pton(AF_INET6, text))
        if text and not any(letter.isspace() for letter in text) and ("." in text or text.isdecimal()):
            return int.from_bytes(inet_aton(text))
    except OSError:
        pass
    raise BadValue(
        f"cannot parse {text!r}: resolving to IPv{4 if family is Family.IPV4 else 6} address failed",
        "write a numeric address; names are not looked up",
    )


def _bits(family: Family) -> int:
    return 32 if family is Family.IPV4 else 128


def ip_range(text: str, family: Family, *, shortest: int = 0) -> tuple[int, int]:
    """``A``, ``A/LENGTH`` or ``A-B``: first and last address. IPv6 has no ranges."""
    bits = _bits(family)
    host, slash, length_text = text.partition("/")
    if slash:
        length = to_number(length_text, 0, bits, "prefix length")
        if family is Family.IPV6 and length != bits:
            raise BadValue(f"plain IP address must be supplied: {text}")
        if length < shortest:
            raise BadValue("The value of the CIDR parameter of the IP address is invalid")
        mask = int(prefix_mask(length, family))
        first = to_ip(host, family) & mask
        return first, first | (mask ^ ((1 << bits) - 1))
    if family is Family.IPV4 and "-" in text and not text.startswith("["):
        low, _, high = text.partition("-")
        first, last = sorted((to_ip(low, family), to_ip(high, family)))
        return first, last
    found = to_ip(text, family)
    return found, found


def _plain_ip(text: str, family: Family) -> int:
    if "/" in text or ("-" in text and not text.startswith("[")):
        raise BadValue(f"plain IP address must be supplied: {text}")
    return to_ip(text, family)


def nets(text: str, family: Family, *, whole: bool) -> list[tuple[int, int]]:
    """The networks that ``A``, ``A/LENGTH`` or, in IPv4, ``A-B`` stands for."""
    bits = _bits(family)
    host, slash, length_text = text.partition("/")
    if not slash and family is Family.IPV4 and "-" in text and not text.startswith("["):
        first, last = ip_range(text, family)
        if last - first == (1 << bits) - 1:
            raise BadValue("The range is the whole address space", "give it as two networks")
        found = summarize_address_range(IPv4Address(first), IPv4Address(last))
        return [(int(network.network_address), network.prefixlen) for network in found]
    length = to_number(length_text, 0, bits, "prefix length") if slash else bits
    if not length and not whole:
        raise BadValue("The value of the CIDR parameter of the IP address is invalid", "use two networks of length 1")
    return [(to_ip(host, family) & int(prefix_mask(length, family)), length)]


def to_tcp_port(text: str, protocol: int = IPPROTO_TCP) -> int:
    """A port by number or the name of a service."""
    found = leading_number(text)
    if found is not None and not found[1] and found[0] <= 0xFFFF:
        return found[0]
    known = SERVICE_PORTS.get(text)
    if known is None or text not in SERVICES.get(protocol, ()):
        raise BadValue(f"cannot parse {text!r} as a {PROTOCOL_NAMES.get(protocol, 'tcp')} port")
    return known


def port_range(text: str, protocol: int = IPPROTO_TCP) -> range:
    """``PORT`` or ``FIRST-LAST``."""
    try:
        first = last = to_tcp_port(text, protocol)
    except BadValue:
        low, dash, high = text.partition("-")
        if not dash:
            raise
        first, last = sorted((to_tcp_port(low, protocol), to_tcp_port(high, protocol)))
    return range(first, last + 1)


def _icmp_code(text: str, family: Family) -> int:
    names, what = (_ICMP_CODES, "ICMP") if family is Family.IPV4 else (_ICMPV6_CODES, "ICMPv6")
    pair = names.get(text.lower())
    if pair is None:
        type_text, slash, code_text = text.partition("/")
        if not slash:
            raise BadValue(f"Cannot parse {text} as an {what} type/code.", "write TYPE/CODE or a name")
        pair = to_number(type_text, 0, 255, f"{what} type"), to_number(code_text, 0, 255, f"{what} code")
    return pair[0] << 8 | pair[1]


def _protocol(name: str) -> int:
    found = leading_number(name)
    if found is not None and not found[1] and found[0] <= 0xFF:
        return found[0]
    known = PROTOCOL_NUMBERS.get(name.lower()) if name.lower() not in ("all", "any") else None
    if known is None:
        raise BadValue(f"cannot parse {name!r} as a protocol", "write its number (1-255)")
    return known


def _protocol_ports(text: str, family: Family) -> list[tuple[int, int]]:
    """``[PROTOCOL:]PORT[-PORT]``."""
    name, colon, rest = text.partition(":")
    if not colon:
        return [(IPPROTO_TCP, port) for port in port_range(text)]
    protocol = _protocol(name)
    if not protocol:
        raise BadValue("Invalid protocol specified")
    if protocol in PORT_PROTOCOLS:
        # services are looked up by the protocol's name as written
        known_as = protocol if name.islower() or name.isdecimal() else 0
        return [(protocol, port) for port in port_range(rest, known_as)]
    if protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
        if (protocol == IPPROTO_ICMP) != (family is Family.IPV4):
            raise BadValue(f"Protocol {name} can be used with the other family only")
        return [(protocol, _icmp_code(rest, family))]
    if rest != "0":
        raise BadValue(f"Protocol {name} can be used with pseudo port value 0 only.", "write 0")
    return [(protocol, 0)]


def _iface(text: str, *, wildcard: bool) -> Iface:
    name = text.removeprefix("physdev:")
    if not name or len(name.encode()) > _LONGEST_INTERFACE:
        raise BadValue(f"interface name {name!r} is longer than {_LONGEST_INTERFACE} characters", "or empty")
    return Iface(name, name != text, wildcard)


class ElementReader:
    """What the words of elements of one set stand for.

    Args:
        type_: The set's.
        family: The set's.
        ip_mask: What addresses are masked with.
        stride: How far apart elements of a range of addresses are (``netmask``).
        bounds: First and last of a bitmap.
    """

    def __init__(
        self, type_: SetType, family: Family, ip_mask: int, stride: int, bounds: tuple[int, int] | None
    ) -> None:
        self._type = type_
        self._family = family
        self._ip_mask = ip_mask
        self._stride = stride
        self._bounds = bounds

    def read(self, text: str, *, wildcard: bool = False) -> Iterator[Element]:
        """All elements that ``text`` stands for, in the order in which they are added."""
        parts = self._type.parts
        words = text.split(",", len(parts) - 1) if len(parts) > 1 else [text]
        if "," in words[-1]:
            raise BadValue(f"too many elem separators in {text}, settype {self._type.name} has {len(parts)} parts")
        if len(words) < len(parts):
            if self._type.name != "bitmap:ip,mac":
                raise BadValue(f"Second element is missing from {text}.", f"{self._type.name} has {len(parts)} parts")
            words.append("")
        choices = [
            self._choices(at, part, word, wildcard) for at, (part, word) in enumerate(zip(parts, words, strict=True))
        ]
        return self._combine(choices, ())

    def _combine(self, choices: list[Iterable[Any]], before: Element) -> Iterator[Element]:
        if len(before) == len(choices):
            yield before
            return
        for one in choices[len(before)]:
            yield from self._combine(choices, (*before, one))

    def _choices(self, at: int, part: Part, word: str, wildcard: bool) -> Iterable[Any]:
        family, name = self._family, self._type.name
        if part is Part.IP:
            if at or Part.MAC in self._type.parts:
                first = last = _plain_ip(word, family)
            else:
                first, last = ip_range(word, family)
            return self._addresses(first, last)
        if part is Part.NET:
            found = nets(word, family, whole=self._type.whole)
            mask = self._ip_mask
            return [(number & mask, length) for number, length in found]
        if part is Part.PORT:
            if name == "bitmap:port":
                protocol, colon, rest = word.rpartition(":")
                number = _protocol(protocol) if colon else IPPROTO_TCP
                if number not in (IPPROTO_TCP, IPPROTO_UDP):
                    raise BadValue("Only protocols TCP and UDP are valid")
                return self._within(port_range(rest, number))
            return _protocol_ports(word, family)
        if part is Part.IFACE:
            return [_iface(word, wildcard=wildcard)]
        if part is Part.MARK:
            return [to_number(word, 0, 0xFFFFFFFF, "mark")]
        if part is Part.MAC:
            return [mac(word, Context(self._family)) if word else None]
        return [word]

    def _addresses(self, first: int, last: int) -> Iterable[int]:
        if self._bounds is not None:  # a bitmap steps from the first address as it is
            return [number & self._ip_mask for number in self._within(range(first, last + 1, self._stride))]
        single = first == last
        first &= self._ip_mask
        if not self._type.zero and not first:
            raise BadValue("Null-valued element, cannot be stored in a hash type of set")
        if single:
            last = first
        return range(first, last + 1, self._stride)

    def _within(self, found: range) -> range:
        if self._bounds is not None and not self._bounds[0] <= found[0] <= found[-1] <= self._bounds[1]:
            raise BadValue("Element is out of the range of the set")
        return found


# Values to words


def to_address_text(number: int, family: Family) -> str:
    """As glibc prints it."""
    return address_text(IPv4Address(number) if family is Family.IPV4 else IPv6Address(number))


def element_text(type_: SetType, family: Family, element: Element) -> str:
    """As ``ipset save`` writes it."""
    words = []
    for part, value in zip(type_.parts, element, strict=True):
        if part is Part.IP:
            words.append(to_address_text(value, family))
        elif part is Part.NET:
            number, length = value
            text = to_address_text(number, family)
            words.append(text if length == _bits(family) else f"{text}/{length}")
        elif part is Part.PORT:
            words.append(str(value) if isinstance(value, int) else _port_text(*value))
        elif part is Part.IFACE:
            words.append(f"physdev:{value.name}" if value.physdev else value.name)
        elif part is Part.MARK:
            words.append(f"{value:#010x}")
        elif part is Part.MAC:
            if value is not None:
                words.append(":".join(f"{byte:02X}" for byte in value))
        else:
            words.append(value)
    return ",".join(words)


def _port_text(protocol: int, port: int) -> str:
    name = PROTOCOL_NAMES.get(protocol, str(protocol))
    if protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
        pair = port >> 8, port & 0xFF
        names = _ICMP_NAMES if protocol == IPPROTO_ICMP else _ICMPV6_NAMES
        return f"{name}:{names.get(pair, f'{pair[0]}/{pair[1]}')}"
    return f"{name}:{port}"
