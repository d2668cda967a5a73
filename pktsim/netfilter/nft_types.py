"""nft's data types: how wide a value is, what its symbols are called, how it is read and printed.

A constant is held as bytes in network order, whatever order the kernel keeps it in: then numbers compare as bytes do.
Source: src/datatype.c, src/proto.c, src/ct.c, src/meta.c and src/fib.c of nftables 1.0.6.
"""

from __future__ import annotations

import enum
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from pktsim.errors import FrameError, RulesetSyntaxError
from pktsim.netfilter.names import PROTOCOL_NAMES, PROTOCOL_NUMBERS, SERVICE_PORTS
from pktsim.wire.addr import mac_from_text, mac_to_text


class Base(enum.Enum):
    """What values of a type are like."""

    INTEGER = "integer"
    BITMASK = "bitmask"  # symbols may be joined by commas
    STRING = "string"
    ADDRESS = "address"
    VERDICT = "verdict"


@dataclass(frozen=True, slots=True, eq=False)
class Datatype:
    """A type.

    Attributes:
        name: As ``nft describe`` and ``type`` have it.
        bits: Its width; 0 for integers, which are as wide as what they are compared with.
        host: The kernel keeps it in host order: its values sort differently in concatenations, and hash differently.
        symbols: Names of values, in the order in which bits are printed.
        hex_digits: Print numbers in hexadecimal, with this many digits.
        prefix: Masked comparisons are printed as prefixes.
        quoted: Symbols are printed in quotes.
        per_line: How many elements a named set prints in one line.
    """

    name: str
    bits: int
    base: Base = Base.INTEGER
    host: bool = False
    symbols: Mapping[str, int] | None = None
    hex_digits: int = 0
    prefix: bool = False
    quoted: bool = False
    per_line: int = 1

    def size(self) -> int:
        """Bytes."""
        return (self.bits + 7) // 8


def _flags(*names: str, first: int = 0) -> dict[str, int]:
    return {name: 1 << (first + bit) for bit, name in enumerate(names)}


ICMP_TYPES: Final = {
    "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
    "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
    "timestamp-request": 13, "timestamp-reply": 14, "info-request": 15, "info-reply": 16, "address-mask-request": 17,
    "address-mask-reply": 18,
}  # fmt: skip
ICMPV6_TYPES: Final = {
    "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
    "echo-request": 128, "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131,
    "mld-listener-done": 132, "mld-listener-reduction": 132, "nd-router-solicit": 133, "nd-router-advert": 134,
    "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138,
    "ind-neighbor-solicit": 141, "ind-neighbor-advert": 142, "mld2-listener-report": 143,
}  # fmt: skip
ICMP_CODES: Final = {
    "net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3, "net-prohibited": 9,
    "host-prohibited": 10, "admin-prohibited": 13, "frag-needed": 4,
}  # fmt: skip
ICMPV6_CODES: Final = {
    "no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5,
    "reject-route": 6,
}  # fmt: skip
#: ``NFT_REJECT_ICMPX_*``.
ICMPX_CODES: Final = {"port-unreachable": 1, "admin-prohibited": 3, "no-route": 0, "host-unreachable": 2}
_DSCP: Final = {
    **{f"cs{number}": number << 3 for number in range(8)},
    "df": 0, "be": 0, "lephb": 1,
    **{f"af{cls}{drop}": cls << 3 | drop << 1 for cls in range(1, 5) for drop in range(1, 4)},
    "va": 0x2C, "ef": 0x2E,
}  # fmt: skip
_ETHER_TYPES: Final = {
    "ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD, "8021q": 0x8100, "8021ad": 0x88A8, "vlan": 0x8100,
}  # fmt: skip
#: ``RTN_*`` as fib names them.
FIB_TYPES: Final = {
    "unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6,
    "unreachable": 7, "prohibit": 8,
}  # fmt: skip

INTEGER: Final = Datatype("integer", 0, per_line=5)
IPV4_ADDR: Final = Datatype("ipv4_addr", 32, Base.ADDRESS, prefix=True, per_line=2)
IPV6_ADDR: Final = Datatype("ipv6_addr", 128, Base.ADDRESS, prefix=True)
ETHER_ADDR: Final = Datatype("ether_addr", 48, Base.ADDRESS)
INET_PROTO: Final = Datatype("inet_proto", 8, per_line=5)
INET_SERVICE: Final = Datatype("inet_service", 16, per_line=5)
ICMP_TYPE: Final = Datatype("icmp_type", 8, symbols=ICMP_TYPES)
ICMP_CODE: Final = Datatype("icmp_code", 8, symbols=ICMP_CODES)
ICMPV6_TYPE: Final = Datatype("icmpv6_type", 8, symbols=ICMPV6_TYPES)
ICMPV6_CODE: Final = Datatype("icmpv6_code", 8, symbols=ICMPV6_CODES)
ICMPX_CODE: Final = Datatype("icmpx_code", 8, symbols=ICMPX_CODES)
IGMP_TYPE: Final = Datatype(
    "igmp_type",
    8,
    symbols={
        "membership-query": 0x11,
        "membership-report-v1": 0x12,
        "membership-report-v2": 0x16,
        "membership-report-v3": 0x22,
        "leave-group": 0x17,
    },
)
MARK: Final = Datatype("mark", 32, host=True, hex_digits=8, prefix=True, per_line=5)
IFACE_INDEX: Final = Datatype("iface_index", 32, host=True, quoted=True, per_line=5)
IFNAME: Final = Datatype("ifname", 128, Base.STRING, host=True)
STRING: Final = Datatype("string", 128, Base.STRING, host=True)
IFACE_TYPE: Final = Datatype(
    "iface_type", 16, host=True, symbols={"ether": 1, "ppp": 512, "ipip": 768, "ipip6": 769, "loopback": 772,
                                          "sit": 776, "ipgre": 778}
)  # fmt: skip
ETHER_TYPE: Final = Datatype("ether_type", 16, symbols=_ETHER_TYPES, hex_digits=4)
UID: Final = Datatype("uid", 32, host=True, per_line=5)
GID: Final = Datatype("gid", 32, host=True, per_line=5)
PKT_TYPE: Final = Datatype(
    "pkt_type", 8, host=True, symbols={"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3}, per_line=2
)
CT_STATE: Final = Datatype(
    "ct_state",
    32,
    Base.BITMASK,
    host=True,
    symbols={"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64},
    per_line=2,
)
CT_DIR: Final = Datatype("ct_dir", 8, host=True, symbols={"original": 0, "reply": 1}, per_line=5)
CT_STATUS: Final = Datatype(
    "ct_status",
    32,
    Base.BITMASK,
    host=True,
    symbols={"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512},
    per_line=2,
)
CT_LABEL: Final = Datatype("ct_label", 128, Base.BITMASK, host=True, symbols={})
CT_EVENT: Final = Datatype(
    "ct_event", 32, Base.BITMASK, host=True,
    symbols={"new": 1, "related": 2, "destroy": 4, "reply": 8, "assured": 16, "protoinfo": 32, "helper": 64,
             "mark": 128, "seqadj": 256, "secmark": 512, "label": 1024},
)  # fmt: skip
TCP_FLAG: Final = Datatype(
    "tcp_flag",
    8,
    Base.BITMASK,
    symbols=_flags("fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"),
    hex_digits=2,
    per_line=5,
)
DCCP_PKTTYPE: Final = Datatype(
    "dccp_pkttype", 4,
    symbols={"request": 0, "response": 1, "data": 2, "ack": 3, "dataack": 4, "closereq": 5, "close": 6, "reset": 7,
             "sync": 8, "syncack": 9},
    per_line=5,
)  # fmt: skip
MH_TYPE: Final = Datatype(
    "mh_type", 8,
    symbols={name: number for number, name in enumerate((
        "binding-refresh-request", "home-test-init", "careof-test-init", "home-test", "careof-test", "binding-update",
        "binding-acknowledgement", "binding-error", "fast-binding-update", "fast-binding-acknowledgement",
        "fast-binding-advertisement", "experimental-mobility-header", "home-agent-switch-message"))},
)  # fmt: skip
DSCP: Final = Datatype("dscp", 6, symbols=_DSCP, hex_digits=2)
ECN: Final = Datatype("ecn", 2, symbols={"not-ect": 0, "ect1": 1, "ect0": 2, "ce": 3}, hex_digits=1)
NF_PROTO: Final = Datatype("nf_proto", 8, symbols={"ipv4": 2, "ipv6": 10}, per_line=5)
FIB_ADDRTYPE: Final = Datatype("fib_addrtype", 32, host=True, symbols=FIB_TYPES)
BOOLEAN: Final = Datatype("boolean", 1, symbols={"exists": 1, "missing": 0})
REALM: Final = Datatype("realm", 32, host=True, prefix=True)
CLASSID: Final = Datatype("classid", 32, host=True, per_line=5)
TIME: Final = Datatype("time", 64, host=True)
VERDICT: Final = Datatype("verdict", 0, Base.VERDICT)

#: Bits that have no names, and are compared as a number is.
BITMASK: Final = Datatype("bitmask", 8, hex_digits=1)

#: The names that ``type`` takes.
DATATYPES: Final[Mapping[str, Datatype]] = {
    one.name: one
    for one in (
        IPV4_ADDR, IPV6_ADDR, ETHER_ADDR, INET_PROTO, INET_SERVICE, ICMP_TYPE, ICMP_CODE, ICMPV6_TYPE, ICMPV6_CODE,
        ICMPX_CODE, IGMP_TYPE, MARK, IFACE_INDEX, IFNAME, IFACE_TYPE, ETHER_TYPE, UID, GID, PKT_TYPE, CT_STATE, CT_DIR,
        CT_STATUS, CT_LABEL, TCP_FLAG, DCCP_PKTTYPE, DSCP, ECN, NF_PROTO, FIB_ADDRTYPE, BOOLEAN, REALM, CLASSID, TIME,
        VERDICT,
    )
}  # fmt: skip
_UNITS_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_TIME = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?")


def bad_value(text: str, datatype: Datatype, mend: str = "") -> RulesetSyntaxError:
    """Text that is no value of a type."""
    return RulesetSyntaxError(f"{text!r} is not a value of type {datatype.name}", token=text, mend=mend)


def time_from_text(text: str) -> int:
    """Milliseconds of ``1d2h3m4s5ms``; a number alone means seconds."""
    if text.isdigit():
        return int(text) * 1000
    found = _TIME.fullmatch(text)
    if not text or found is None:
        raise RulesetSyntaxError(f"{text!r} is not a time", token=text, mend="write it as 1d2h3m4s")
    return sum(int(part or 0) * unit for part, unit in zip(found.groups(), _UNITS_MS.values(), strict=True))


def time_to_text(milliseconds: int) -> str:
    """As nft prints it."""
    words = ""
    for name, unit in _UNITS_MS.items():
        number, milliseconds = divmod(milliseconds, unit)
        if number:
            words += f"{number}{name}"
    return words


def _integer(text: str) -> int | None:
    try:
        return int(text, 16) if text[:2].lower() == "0x" else int(text, 10)
    except ValueError:
        return None


def value_from_text(text: str, datatype: Datatype, bits: int = 0, ifindex: Callable[[str], int] | None = None) -> bytes:
    """A constant of a type.

    Args:
        text: One word, quotes removed.
        datatype: Its type.
        bits: The width of what it is compared with, for plain integers.
        ifindex: The index of an interface's name.

    Raises:
        RulesetSyntaxError: It is none.
    """
    size = ((datatype.bits or bits) + 7) // 8
    if datatype.base is Base.STRING:
        raw = text.encode()
        if len(raw) >= 16:
            raise bad_value(text, datatype, "a name has at most 15 characters")
        return raw.ljust(16, b"\0")
    number = _integer(text)
    if datatype.base is Base.ADDRESS and number is not None and not number >> datatype.bits:
        return number.to_bytes(size, "big")  # what @nh,96,32 is compared with
    if datatype.base is Base.ADDRESS:
        try:
            if datatype is IPV4_ADDR:
                return IPv4Address(text).packed
            if datatype is IPV6_ADDR:
                return IPv6Address(text).packed
            return mac_from_text(text)
        except (AddressValueError, ValueError, FrameError):
            raise bad_value(text, datatype) from None
    number = None
    if datatype.symbols is not None:
        number = datatype.symbols.get(text)
    if number is None and datatype is IFACE_INDEX and _integer(text) is None:
        number = ifindex(text) if ifindex is not None else 0
        if not number:
            raise RulesetSyntaxError(f"there is no interface {text!r}", token=text, mend="match by iifname or oifname")
    if number is None and datatype is INET_PROTO:
        number = PROTOCOL_NUMBERS.get(text)
    if number is None and datatype is INET_SERVICE:
        number = SERVICE_PORTS.get(text)
    if number is None and datatype is TIME:
        number = time_from_text(text)
    if number is None and datatype is CLASSID and text in ("none", "root"):
        number = 0 if text == "none" else 0xFFFFFFFF
    if number is None and datatype in (UID, GID) and text == "root":
        number = 0
    if number is None and datatype is CLASSID and ":" in text:
        major, _, minor = text.partition(":")
        number = int(major or "0", 16) << 16 | int(minor or "0", 16)
    if number is None:
        number = _integer(text)
    if number is None:
        known = ", ".join(datatype.symbols) if datatype.symbols else ""
        raise bad_value(text, datatype, f"use one of {known}" if known else "")
    if number >> (datatype.bits or bits or 64):
        raise bad_value(text, datatype, f"it has {datatype.bits or bits} bits")
    return number.to_bytes(size, "big")


def value_to_text(
    data: bytes, datatype: Datatype, *, numeric: bool = False, ifname: Callable[[int], str] | None = None
) -> str:
    """A constant as nft prints it; ``numeric`` without symbols, as in ranges."""
    if datatype.base is Base.STRING:
        return '"' + data.rstrip(b"\0").decode(errors="replace") + '"'
    if datatype is IPV4_ADDR:
        return str(IPv4Address(data))
    if datatype is IPV6_ADDR:
        return _ip6_text(data)
    if datatype is ETHER_ADDR:
        return mac_to_text(data)
    number = int.from_bytes(data, "big")
    if datatype is INET_PROTO and not numeric:
        return _protocol_name(number)
    if datatype is IFACE_INDEX:
        name = ifname(number) if ifname is not None else ""
        return f'"{name}"' if name else str(number)
    if datatype is TIME:
        return f"{number // 1000}s" if numeric else time_to_text(number)
    if datatype is CLASSID:
        if number == 0xFFFFFFFF:
            return "root"
        return "none" if number == 0 else f"{number >> 16:x}:{number & 0xFFFF:x}"
    if datatype.base is Base.BITMASK and numeric and number & (number - 1):
        return " | ".join(f"{1 << bit:#x}" for bit in range(number.bit_length()) if number >> bit & 1)
    if datatype.base is Base.BITMASK and (numeric or not number):
        return f"{number:#x}"
    if datatype.base is Base.BITMASK and number and datatype.symbols:
        left = number
        names = []
        for name, bit in datatype.symbols.items():
            if left & bit:
                names.append(name)
                left &= ~bit
        return ",".join([*names, *(f"{1 << bit:#x}" for bit in range(left.bit_length()) if left >> bit & 1)])
    if datatype.symbols is not None and not numeric:
        for name, value in datatype.symbols.items():
            if value == number:
                return name
    if datatype.hex_digits:
        return f"0x{number:0{datatype.hex_digits}x}"
    return str(number)


def _ip6_text(data: bytes) -> str:
    """inet_ntop, which prints an IPv4 address that is mapped or compatible with its dots."""
    return socket.inet_ntop(socket.AF_INET6, data)


def _protocol_name(number: int) -> str:
    """As Debian's /etc/protocols has it."""
    return "ip" if number == 0 else PROTOCOL_NAMES.get(number, str(number))
