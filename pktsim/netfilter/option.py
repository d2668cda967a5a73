"""How an extension describes its options, and the readers of their values.

An :class:`Extension` is data: its name, its options with what each takes, and a function from what was given to the
frozen match or target. Reading words and placing errors is :mod:`pktsim.netfilter.iptables_rule`. The checks are those
of ``libxtables`` 1.8.9 (``xtoptions.c``): an option once only, inversion only where it has a meaning, mandatory ones
present, exclusions and requirements.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_aton, inet_ntoa, inet_pton
from typing import Any, Generic, TypeVar

from pktsim.netfilter.names import PROTOCOL_NUMBERS, SERVICE_PORTS, SERVICES
from pktsim.netfilter.ruleset import Family, MaskedAddress, RuleExtension
from pktsim.netfilter.values import Address, PortRange

T = TypeVar("T", bound=RuleExtension, covariant=True)

U8_MAX = 0xFF
U16_MAX = 0xFFFF
U32_MAX = 0xFFFFFFFF
U64_MAX = 0xFFFFFFFFFFFFFFFF


class BadValue(Exception):
    """A word that cannot be what it should be; whoever knows its place turns it into a ``RulesetSyntaxError``."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Context:
    """What of the rule has been read before the option: readers may depend on it, as the tool's do."""

    family: Family
    protocol: int | None = None
    protocol_inverted: bool = False


Reader = Callable[[str, Context], Any]


@dataclass(frozen=True, slots=True)
class Option:
    """One long option.

    Attributes:
        name: Without the dashes.
        read: Reader of its argument; ``None`` if it takes none.
        second: Reader of a second argument, for the few options with two.
        aliases: Other spellings.
        invertible: Whether ``!`` may stand in front.
        multiple: Whether it may be given more than once; values are then collected in a list and in ``sequence``.
        mandatory: Whether the extension cannot do without.
        excludes: Options that may not be given with it.
        requires: Options that must be given with it.
    """

    name: str
    read: Reader | None = None
    second: Reader | None = None
    aliases: tuple[str, ...] = ()
    invertible: bool = False
    multiple: bool = False
    mandatory: bool = False
    excludes: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()


class Given:
    """The options that were given to one extension of one rule."""

    __slots__ = ("context", "inverted", "sequence", "values")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.values: dict[str, Any] = {}
        self.inverted: set[str] = set()
        #: (option, value, inverted) of the options that may be given more than once, in the order given.
        self.sequence: list[tuple[str, Any, bool]] = []

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        """The value of option ``name``, or ``default`` if it was not given."""
        return self.values.get(name, default)


@dataclass(frozen=True, slots=True)
class Extension(Generic[T]):
    """A match or target as the tool knows it.

    Attributes:
        name: What follows ``-m`` or ``-j``.
        build: Makes the match or target of what was given; raises ``BadValue`` for what the tool's final check refuses.
        options: Its options.
        family: The only family that has it, or ``None`` for both.
    """

    name: str
    build: Callable[[Given], T]
    options: tuple[Option, ...] = ()
    family: Family | None = None

    def by_name(self) -> dict[str, Option]:
        """Its options under all of their spellings."""
        return {spelling: option for option in self.options for spelling in (option.name, *option.aliases)}


def accept(option: Option, given: Given, inverted: bool, words: tuple[str, ...]) -> None:
    """Note that ``option`` was given with ``words``.

    Raises:
        BadValue: Given twice, cannot be inverted, or a word is not what it should be.
    """
    name = option.name
    if name in given.values and not option.multiple:
        raise BadValue(f"option --{name} can only be used once")
    if inverted:
        if not option.invertible:
            raise BadValue(f"option --{name} cannot be inverted", "drop the !")
        given.inverted.add(name)
    value: Any = True
    if option.read is not None:
        value = option.read(words[0], given.context)
        if option.second is not None:
            value = (value, option.second(words[1], given.context))
    if option.multiple:
        given.values.setdefault(name, []).append(value)
        given.sequence.append((name, value, inverted))
    else:
        given.values[name] = value


def finish(extension: Extension[T], given: Given) -> T:
    """Check the options against each other and build the match or target.

    Raises:
        BadValue: One is missing, or two do not go together.
    """
    values = given.values
    for option in extension.options:
        if option.name not in values:
            if option.mandatory:
                raise BadValue(f"{extension.name}: option --{option.name} must be specified", f"add --{option.name}")
            continue
        for other in option.excludes:
            if other in values and other != option.name:
                raise BadValue(f"{extension.name}: --{option.name} cannot be used together with --{other}")
        for other in option.requires:
            if other not in values:
                raise BadValue(f"{extension.name}: --{option.name} also requires --{other}", f"add --{other}")
    return extension.build(given)


# Numbers

_NUMBER = re.compile(r"\s*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")


def leading_number(text: str) -> tuple[int, str] | None:
    """What ``strtoumax(text, &end, 0)`` sees: the number in decimal, hex or octal, and the rest; ``None`` if none."""
    if text.isdigit() and text.isascii() and text[0] != "0":  # the usual case first
        return int(text), ""
    found = _NUMBER.match(text)
    if found is None:
        return None
    digits = found.group(1)
    if digits[:2] in ("0x", "0X"):
        value = int(digits, 16)
    elif digits[0] == "0":
        value = int(digits, 8)
    else:
        value = int(digits)
    return value, text[found.end() :]


def to_number(text: str, low: int, high: int, what: str = "number") -> int:
    """Read a whole word as a number (decimal, 0x hex, 0 octal) between ``low`` and ``high``."""
    found = leading_number(text)
    if found is None or found[1]:
        raise BadValue(f"bad {what} {text!r}", f"write a number from {low} to {high}")
    if not low <= found[0] <= high:
        raise BadValue(f"{what} {text} is out of range", f"write a number from {low} to {high}")
    return found[0]


def number(low: int = 0, high: int = U32_MAX) -> Reader:
    """A reader of numbers (``XTTYPE_UINT*``)."""

    def read(text: str, _context: Context) -> int:
        return to_number(text, low, high)

    return read


def number_range(high: int) -> Reader:
    """A reader of ``N`` or ``LOW:HIGH``, either end optional (``XTTYPE_UINT*RC``); gives a pair."""

    def read(text: str, _context: Context) -> tuple[int, int]:
        parts = text.split(":")
        if len(parts) > 2:
            raise BadValue(f"too many parts in {text!r}", "write LOW:HIGH")
        first = to_number(parts[0], 0, high) if parts[0] else 0
        if len(parts) == 1:
            return first, first
        return first, to_number(parts[1], 0, high) if parts[1] else high

    return read


def value_mask(text: str, _context: Context) -> tuple[int, int]:
    """``VALUE[/MASK]``, 32 bits each (``XTTYPE_MARKMASK32``)."""
    value, slash, mask = text.partition("/")
    return to_number(value, 0, U32_MAX, "mark"), to_number(mask, 0, U32_MAX, "mask") if slash else U32_MAX


#: RFC 1349's names (``tos_symbol_names`` of libxtables).
_TOS_NAMES = {
    "minimize-delay": 0x10,
    "maximize-throughput": 0x08,
    "maximize-reliability": 0x04,
    "minimize-cost": 0x02,
    "normal-service": 0x00,
}


def tos_mask(text: str, _context: Context) -> tuple[int, int]:
    """``VALUE[/MASK]`` of 8 bits each, or a name, which leaves the two ECN bits out (``XTTYPE_TOSMASK``)."""
    named = _TOS_NAMES.get(text.lower())
    if named is not None:
        return named, 0x3F
    value, slash, mask = text.partition("/")
    return to_number(value, 0, U8_MAX, "type of service"), to_number(mask, 0, U8_MAX, "mask") if slash else U8_MAX


# Words


def string(longest: int = 0, shortest: int = 0) -> Reader:
    """A reader of words with at most ``longest`` and at least ``shortest`` bytes (0: no limit)."""

    def read(text: str, _context: Context) -> str:
        length = len(text.encode("utf-8", "surrogateescape"))
        if longest and length > longest:
            raise BadValue(f"{text!r} is too long", f"use at most {longest} characters")
        if length < shortest:
            raise BadValue(f"{text!r} is too short", f"use at least {shortest} characters")
        return text

    return read


def choice(*words: str, ignore_case: bool = True) -> Reader:
    """A reader of one of ``words``; gives it as spelled here."""
    table = {(word.lower() if ignore_case else word): word for word in words}

    def read(text: str, _context: Context) -> str:
        found = table.get(text.lower() if ignore_case else text)
        if found is None:
            raise BadValue(f"{text!r} is not one of {', '.join(words)}")
        return found

    return read


def bit_list(bits: dict[str, int], what: str) -> Reader:
    """A reader of comma-separated names, case ignored and each possibly cut short; gives the bits or-ed together.

    A name cut short takes the first of ``bits`` that begins with it, as ``strncasecmp`` over a table does.
    """
    table = [(name.lower(), bit) for name, bit in bits.items()]

    def read(text: str, _context: Context) -> int:
        result = 0
        for part in text.split(","):
            wanted = part.lower()
            found = next((bit for name, bit in table if wanted and name.startswith(wanted)), None)
            if found is None:
                raise BadValue(f"bad {what} {part!r}", f"use a comma-separated list of {', '.join(bits)}")
            result |= found
        return result

    return read


def proc_name_objection(name: str) -> str:
    """What is wrong with a name that becomes a file in /proc (``xt_check_proc_name``); empty if nothing."""
    return f"{name!r} cannot be the name of a file" if name in ("", ".", "..") or "/" in name else ""


def interface(text: str, _context: Context) -> str:
    """An interface name, ``+`` at the end for "and whatever follows"."""
    if len(text.encode("utf-8", "surrogateescape")) > 15:
        raise BadValue(f"interface name {text!r} is too long", "use at most 15 characters")
    if not text:
        raise BadValue("empty interface name", "name an interface, or drop the option")
    return text


def mac(text: str, _context: Context) -> bytes:
    """``XX:XX:XX:XX:XX:XX`` (``XTTYPE_ETHERMAC``)."""
    parts = text.split(":")
    try:
        if len(parts) == 6 and all(0 < len(part) <= 2 for part in parts):
            return bytes(int(part, 16) for part in parts)
    except ValueError:
        pass
    raise BadValue(f"bad MAC address {text!r}", "write six bytes in hex with colons between them")


# Protocols, ports


def to_protocol(text: str) -> int:
    """A protocol by number or name."""
    found = leading_number(text)
    if found is not None and not found[1] and found[0] <= U8_MAX:
        return found[0]
    known = PROTOCOL_NUMBERS.get(text.lower() if text.isupper() else text)  # the list has TCP as well as tcp
    if known is None:
        raise BadValue(f"unknown protocol {text!r}", "write its number (0-255)")
    return known


def protocol(text: str, _context: Context) -> int:
    """Reader for :func:`to_protocol`."""
    return to_protocol(text)


def to_port(text: str, protocol: int | None = None) -> int:
    """A port by number or by the name that a service of the protocol has (of any if not said)."""
    if text.isdecimal() and text.isascii() and (text[0] != "0" or text == "0"):  # the usual case first
        value = int(text)
        if value <= U16_MAX:
            return value
        raise BadValue(f"port {text} is out of range", "write a number from 0 to 65535")
    found = leading_number(text)
    if found is not None and not found[1]:
        if found[0] <= U16_MAX:
            return found[0]
        raise BadValue(f"port {text} is out of range", "write a number from 0 to 65535")
    known = SERVICE_PORTS.get(text)
    if known is None or (protocol is not None and text not in SERVICES.get(protocol, ())):
        raise BadValue(f"bad port or unknown service {text!r}", "write its number (0-65535)")
    return known


_DECIMAL = re.compile(r"\s*\+?([0-9]+)")


def looked_up_port(text: str) -> int:
    """A port as ``getaddrinfo`` finds it (``XTTYPE_PORT``): decimal, cut down to 16 bits, or any service's name."""
    if not text:
        return 0
    found = _DECIMAL.fullmatch(text)
    if found is not None:
        return int(found.group(1)) & U16_MAX
    known = SERVICE_PORTS.get(text)
    if known is None:
        raise BadValue(f"port {text!r} does not resolve to anything", "write its number (0-65535)")
    return known


def port_range(text: str, _context: Context) -> PortRange:
    """``PORT`` or ``FIRST:LAST``, either end optional (``XTTYPE_PORTRC``)."""
    first, colon, last = text.partition(":")
    if not colon:
        port = looked_up_port(text)
        return PortRange(port, port)
    return PortRange(looked_up_port(first) if first else 0, looked_up_port(last) if last else U16_MAX)


def rising_port_range(protocol: int) -> Reader:
    """As :func:`port_range`, but numbers may be hex or octal, and a range upside down is an error (tcp and sctp)."""

    def read(text: str, _context: Context) -> PortRange:
        first, colon, last = text.partition(":")
        if not colon:
            port = to_port(text, protocol)
            return PortRange(port, port)
        ports = PortRange(to_port(first, protocol) if first else 0, to_port(last, protocol) if last else U16_MAX)
        if ports.first > ports.last:
            raise BadValue(f"bad port range {text}", "write the lower port first")
        return ports

    return read


def to_icmp_type(text: str, names: dict[str, tuple[int, int, int]]) -> tuple[int, int, int]:
    """An ICMP type with its codes: by name, which may be cut short if that is clear, or ``TYPE[/CODE[:CODE]]``."""
    wanted = text.lower()
    found = [name for name in names if name.lower().startswith(wanted)]
    if len(found) > 1:
        raise BadValue(f"ambiguous ICMP type {text!r}: {found[0]} or {found[1]}?", "write it in full, or its number")
    if found:
        return names[found[0]]
    icmp_type, slash, codes = text.partition("/")
    number_ = to_number(icmp_type, 0, U8_MAX, "ICMP type")
    if not slash:
        return number_, 0, U8_MAX
    first, colon, last = codes.partition(":")
    low = to_number(first, 0, U8_MAX, "ICMP code")
    return number_, low, to_number(last, 0, U8_MAX, "ICMP code") if colon else low


# Addresses


def to_address(text: str, family: Family) -> Address:
    """A numeric address of the family."""
    try:
        if family is Family.IPV4:
            return IPv4Address(int.from_bytes(inet_pton(AF_INET, text)))
        return IPv6Address(int.from_bytes(inet_pton(AF_INET6, text)))
    except (ValueError, OSError):
        raise BadValue(
            f"{text!r} is not an IPv{4 if family is Family.IPV4 else 6} address",
            "write a numeric address; names are not looked up",
        ) from None


def address(text: str, context: Context) -> Address:
    """An address as ``getaddrinfo`` takes it (``XTTYPE_HOST``): of IPv4 also as one to four numbers."""
    if context.family is Family.IPV4:
        text = _whole_ipv4(text)
    return to_address(text, context.family)


def _whole_ipv4(text: str) -> str:
    """What ``inet_aton`` makes of it: ``10.1`` is 10.0.0.1."""
    try:
        return inet_ntoa(inet_aton(text)) if text[:1].isdigit() and not text[-1].isspace() else text
    except OSError:
        return text


def prefix_mask(length: int, family: Family) -> Address:
    """The mask of a prefix."""
    if family is Family.IPV4:
        return IPv4Address((0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF)
    return IPv6Address(((1 << 128) - 1) ^ ((1 << (128 - length)) - 1))


def to_mask(text: str, family: Family) -> Address:
    """A mask, as a prefix length or in full."""
    bits = 32 if family is Family.IPV4 else 128
    found = leading_number(text)
    if found is not None and not found[1]:
        if found[0] <= bits:
            return prefix_mask(found[0], family)
    else:
        try:
            return to_address(text, family)
        except BadValue:
            pass
    raise BadValue(f"bad mask {text!r}", f"write a prefix length from 0 to {bits}, or the mask in full")


def short_ipv4(text: str) -> str:
    """``10.1`` is ``10.1.0.0``: missing bytes are zero (``__numeric_to_ipaddr``), and bytes may be hex or octal."""
    parts = text.split(".")
    if len(parts) > 4:
        return text
    found = [leading_number(part) for part in parts]
    if any(one is None or one[1] or one[0] > U8_MAX for one in found):
        return text
    return ".".join([str(one[0]) for one in found if one is not None] + ["0"] * (4 - len(parts)))


_IPV4_HOST = IPv4Address(U32_MAX)


def to_masked_address(text: str, family: Family) -> MaskedAddress:
    """``ADDRESS[/MASK]`` as ``-s`` and ``-d`` take it, stored masked."""
    if family is Family.IPV4 and text[-3:] == "/32":  # the usual case first
        try:
            return MaskedAddress(IPv4Address(int.from_bytes(inet_pton(AF_INET, text[:-3]))), _IPV4_HOST)
        except OSError:
            pass  # perhaps one of the odd spellings below
    host, slash, mask_text = text.rpartition("/")
    if slash:
        mask = to_mask(mask_text, family)
        if not int(mask):
            return MaskedAddress(mask, mask)
    else:
        host = text
        mask = prefix_mask(32 if family is Family.IPV4 else 128, family)
    if family is Family.IPV4:
        found: Address = to_address(_whole_ipv4(short_ipv4(host)), family)
        return MaskedAddress(IPv4Address(int(found) & int(mask)), mask)
    found = to_address(host, family)
    return MaskedAddress(IPv6Address(int(found) & int(mask)), mask)


def host_mask(text: str, context: Context) -> MaskedAddress:
    """``ADDRESS[/MASK]`` as an extension takes it (``XTTYPE_HOSTMASK``): the address stays as written, not masked.

    A mask that is no prefix is taken for a full one, as by libxtables 1.8.9.
    """
    host, slash, mask_text = text.partition("/")
    found = address(host, context)
    if not slash:
        return MaskedAddress(found, prefix_mask(found.max_prefixlen, context.family))
    result = MaskedAddress(found, to_mask(mask_text, context.family))
    if result.prefix_length is None:
        return MaskedAddress(found, prefix_mask(found.max_prefixlen, context.family))
    return result


# Text


def address_text(value: Address) -> str:
    """The address as glibc's ``inet_ntop`` prints it, whatever the Python version does with mapped IPv4 addresses."""
    if isinstance(value, IPv4Address):
        return str(value)
    packed = int(value)
    high = packed >> 32
    if high == 0xFFFF:
        return f"::ffff:{IPv4Address(packed & U32_MAX)}"
    if high == 0 and packed >> 16:
        return f"::{IPv4Address(packed)}"
    return str(value)


def mask_text(mask: Address) -> str:
    """A mask's length if it is a prefix, else the mask in full."""
    bits = mask.max_prefixlen
    value = int(mask)
    length = value.bit_count()
    if value == ((1 << length) - 1) << (bits - length):
        return str(length)
    return address_text(mask)


def host_mask_text(value: MaskedAddress) -> str:
    """As the extensions print it: without the mask where it is full."""
    if value.mask.max_prefixlen == int(value.mask).bit_count():
        return address_text(value.address)
    return f"{address_text(value.address)}/{mask_text(value.mask)}"


def masked_text(value: MaskedAddress) -> str:
    """``ADDRESS/MASK`` as ``-s`` and ``-d`` are printed: always with the mask."""
    return f"{address_text(value.address)}/{mask_text(value.mask)}"


_PLAIN = re.compile(r"[-_0-9A-Za-z]+\Z")
_ESCAPED = re.compile(r"([\"\\'])")


def quoted(text: str) -> str:
    """As ``xtables_save_string``: bare if made of letters, digits, ``-`` and ``_``, else in double quotes."""
    if _PLAIN.match(text):
        return text
    if '"' in text or "\\" in text or "'" in text:
        text = _ESCAPED.sub(r"\\\1", text)
    return f'"{text}"'


def ports_text(name: str, ports: PortRange | None, inverted: bool) -> str:
    """`` --sport 1:2``; nothing if not said."""
    if ports is None:
        return ""
    return f"{' !' if inverted else ''} --{name} {ports}"


def mark_text(value: int, mask: int) -> str:
    """``0x1`` or ``0x1/0x3`` (``xtables_print_mark_mask``)."""
    return f"{value:#x}" if mask == U32_MAX else f"{value:#x}/{mask:#x}"
