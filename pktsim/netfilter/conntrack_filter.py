"""Which entries ``conntrack -L`` and ``conntrack -D`` take: the tool's options as a value.

Follows conntrack-tools 1.4.7. Options that only make sense for other commands are refused by name, as are those that
are not modelled.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.conntrack import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_NAMES,
    ConntrackTuple,
    Entry,
    ZoneDirection,
)
from pktsim.netfilter.conntrack_sctp import SctpState
from pktsim.netfilter.conntrack_tcp import TcpState
from pktsim.netfilter.opcodes import CtStatus

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NO_STATUS: Final = CtStatus(0)
_STATUS_WORDS: Final = {
    "EXPECTED": CtStatus.EXPECTED,
    "SEEN_REPLY": CtStatus.SEEN_REPLY,
    "ASSURED": CtStatus.ASSURED,
    "CONFIRMED": CtStatus.CONFIRMED,
    "SRC_NAT": CtStatus.SRC_NAT,
    "DST_NAT": CtStatus.DST_NAT,
    "FIXED_TIMEOUT": CtStatus.FIXED_TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class TupleFilter:
    """What one direction of an entry must look like; ``None`` is anything."""

    src: Network | None = None
    dst: Network | None = None
    sport: int | None = None
    dport: int | None = None

    def matches(self, side: ConntrackTuple) -> bool:
        return (
            (self.src is None or _within(side.src, self.src))
            and (self.dst is None or _within(side.dst, self.dst))
            and (self.sport is None or side.sport == self.sport)
            and (self.dport is None or side.dport == self.dport)
        )


@dataclass(frozen=True, slots=True)
class NatFilter:
    """``-n`` and ``-g`` with their argument: the address and port that the translation leads to; ``None`` is any."""

    address: bytes | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class ConntrackFilter:
    """All given conditions hold. Without any, every entry is taken."""

    family: int | None = None
    proto: int | None = None
    orig: TupleFilter = TupleFilter()
    reply: TupleFilter = TupleFilter()
    state: str | None = None
    status: CtStatus = _NO_STATUS
    mark: tuple[int, int] | None = None  # value, mask
    zone: int | None = None
    orig_zone: int | None = None
    reply_zone: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    icmp_id: int | None = None
    src_nat: NatFilter | None = None
    dst_nat: NatFilter | None = None
    any_nat: NatFilter | None = None

    def matches(self, entry: Entry) -> bool:
        """Whether ``entry`` is taken."""
        return (
            (self.family is None or entry.family == self.family)
            and (self.proto is None or entry.proto == self.proto)
            and self.orig.matches(entry.orig)
            and self.reply.matches(entry.reply)
            and (self.state is None or entry.state_name == self.state)
            and entry.status & self.status == self.status
            and (self.mark is None or entry.mark & self.mark[1] == self.mark[0])
            and self._zones_match(entry)
            and self._icmp_matches(entry)
            and self._nat_matches(entry)
        )

    def _zones_match(self, entry: Entry) -> bool:
        # a zone of one direction is an attribute of its own: -w sees zone 0 there
        both = entry.zone if entry.zone_direction == ZoneDirection.BOTH else 0
        orig = entry.zone if entry.zone_direction == ZoneDirection.ORIGINAL else 0
        reply = entry.zone if entry.zone_direction == ZoneDirection.REPLY else 0
        return (
            (self.zone is None or both == self.zone)
            and (self.orig_zone is None or orig == self.orig_zone)
            and (self.reply_zone is None or reply == self.reply_zone)
        )

    def _icmp_matches(self, entry: Entry) -> bool:
        if self.icmp_type is None and self.icmp_code is None and self.icmp_id is None:
            return True
        return (
            entry.proto in (PROTO_ICMP, PROTO_ICMPV6)
            and (self.icmp_type is None or entry.orig.icmp_type == self.icmp_type)
            and (self.icmp_code is None or entry.orig.icmp_code == self.icmp_code)
            and (self.icmp_id is None or entry.orig.icmp_id == self.icmp_id)
        )

    def _nat_matches(self, entry: Entry) -> bool:
        if self.any_nat is not None:
            return _source_nat(entry, self.any_nat) or _destination_nat(entry, self.any_nat)
        return (self.src_nat is None or _source_nat(entry, self.src_nat)) and (
            self.dst_nat is None or _destination_nat(entry, self.dst_nat)
        )

    @classmethod
    def from_args(cls, args: Sequence[str]) -> ConntrackFilter:
        """Read the options of ``conntrack -L`` or ``conntrack -D``, without the command itself.

        Raises:
            RulesetSyntaxError: An option or its value is not one that the tool takes.
            UnsupportedFeature: The tool knows it, and it is not modelled.
        """
        return _Reader(args).read()


def _within(address: bytes, network: Network) -> bool:
    return len(address) * 8 == network.max_prefixlen and ipaddress.ip_address(address) in network


def _nat_target_matches(wanted: NatFilter, address: bytes, port: int) -> bool:
    return (wanted.address is None or wanted.address == address) and (wanted.port is None or wanted.port == port)


def _source_nat(entry: Entry, wanted: NatFilter) -> bool:
    return entry.source_translated and _nat_target_matches(wanted, entry.reply.dst, entry.reply.dport)


def _destination_nat(entry: Entry, wanted: NatFilter) -> bool:
    return entry.destination_translated and _nat_target_matches(wanted, entry.reply.src, entry.reply.sport)


_PROTOCOLS: Final = {name: number for number, name in PROTO_NAMES.items()}
_FAMILIES: Final = {"ipv4": 2, "ipv6": 10}

#: Option spellings -> the name under which ``_Reader`` handles them.
_OPTIONS: Final[dict[str, str]] = {
    "-s": "orig_src", "--src": "orig_src", "--orig-src": "orig_src",
    "-d": "orig_dst", "--dst": "orig_dst", "--orig-dst": "orig_dst",
    "-r": "reply_src", "--reply-src": "reply_src",
    "-q": "reply_dst", "--reply-dst": "reply_dst",
    "--sport": "orig_sport", "--orig-port-src": "orig_sport",
    "--dport": "orig_dport", "--orig-port-dst": "orig_dport",
    "--reply-port-src": "reply_sport", "--reply-port-dst": "reply_dport",
    "-p": "proto", "--proto": "proto", "--protonum": "proto",
    "-f": "family", "--family": "family",
    "-u": "status", "--status": "status",
    "-m": "mark", "--mark": "mark",
    "-w": "zone", "--zone": "zone", "--orig-zone": "orig_zone", "--reply-zone": "reply_zone",
    "-n": "src_nat", "--src-nat": "src_nat",
    "-g": "dst_nat", "--dst-nat": "dst_nat",
    "-j": "any_nat", "--any-nat": "any_nat",
    "--state": "state",
    "--icmp-type": "icmp_type", "--icmpv6-type": "icmp_type",
    "--icmp-code": "icmp_code", "--icmpv6-code": "icmp_code",
    "--icmp-id": "icmp_id", "--icmpv6-id": "icmp_id",
    "--mask-src": "mask_src", "--mask-dst": "mask_dst",
    "--srckey": "orig_sport", "--dstkey": "orig_dport",
}  # fmt: skip
#: Options of ``-L`` and ``-D`` that the tool has and that choose by something that is not kept.
_NOT_MODELLED: Final = frozenset(("-c", "--secmark", "-l", "--label", "-i", "--id"))


class _Reader:
    """One pass over the words of a command line."""

    def __init__(self, args: Sequence[str]) -> None:
        self._words = list(args)
        self._values: dict[str, Any] = {}
        self._sides: dict[str, dict[str, Any]] = {"orig": {}, "reply": {}}
        self._masks: dict[str, str] = {}

    def read(self) -> ConntrackFilter:
        while self._words:
            word = self._words.pop(0)
            word, equals, attached = word.partition("=") if word.startswith("--") else (word, "", "")
            if equals:
                self._words.insert(0, attached)
            if word in _NOT_MODELLED:
                raise UnsupportedFeature(f"conntrack option {word}")
            name = _OPTIONS.get(word)
            if name is None:
                raise RulesetSyntaxError(f"conntrack has no option {word!r} that chooses entries", token=word)
            self._take(name, word)
        self._apply_masks()
        return ConntrackFilter(
            orig=TupleFilter(**self._sides["orig"]), reply=TupleFilter(**self._sides["reply"]), **self._values
        )

    def _value(self, option: str) -> str:
        if not self._words:
            raise RulesetSyntaxError(f"conntrack option {option} needs a value", token=option)
        return self._words.pop(0)

    def _take(self, name: str, option: str) -> None:
        side, _, part = name.partition("_")
        if side in self._sides and part != "zone":
            self._sides[side][part] = self._network(option) if part in ("src", "dst") else self._number(option, 0xFFFF)
        elif name in ("src_nat", "dst_nat", "any_nat"):
            self._values[name] = self._nat(option)
        elif name in ("mask_src", "mask_dst"):
            self._masks[part] = self._value(option)
        else:
            readers: dict[str, Callable[[str], Any]] = {
                "proto": self._proto,
                "family": self._family,
                "status": self._status,
                "mark": self._mark,
                "state": self._state,
            }
            reader = readers.get(name)
            self._values[name] = reader(option) if reader else self._number(option, 0xFFFF)

    def _number(self, option: str, highest: int) -> int:
        text = self._value(option)
        try:
            number = int(text, 0)
        except ValueError:
            number = -1
        if not 0 <= number <= highest:
            raise RulesetSyntaxError(f"{text!r} is no number for {option}", token=text, mend=f"write 0 to {highest}")
        return number

    def _network(self, option: str) -> Network:
        text = self._value(option)
        try:
            return ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise RulesetSyntaxError(f"{text!r} is no address for {option}", token=text) from None

    def _apply_masks(self) -> None:
        for part, mask in self._masks.items():
            network = self._sides["orig"].get(part)
            if network is None:
                raise RulesetSyntaxError(f"--mask-{part} needs --{part}", token=mask)
            try:
                self._sides["orig"][part] = ipaddress.ip_network(f"{network.network_address}/{mask}", strict=False)
            except ValueError:
                raise RulesetSyntaxError(f"{mask!r} is no mask for --mask-{part}", token=mask) from None

    def _nat(self, option: str) -> NatFilter:
        # the address is optional: the next word belongs to it unless it is an option
        if not self._words or self._words[0].startswith("-"):
            return NatFilter()
        text = self._value(option)
        address_text, port_text = text, ""
        if text.startswith("["):
            address_text, _, port_text = text[1:].partition("]")
            port_text = port_text.removeprefix(":")
        elif text.count(":") == 1:
            address_text, _, port_text = text.partition(":")
        try:
            wanted = NatFilter(ipaddress.ip_address(address_text).packed if address_text else None)
            if port_text:
                wanted = replace(wanted, port=int(port_text))
        except ValueError:
            raise RulesetSyntaxError(f"{text!r} is no address for {option}", token=text) from None
        return wanted

    def _proto(self, option: str) -> int:
        text = self._value(option)
        number = _PROTOCOLS.get(text.lower())
        if number is not None:
            return number
        if text.isdecimal() and int(text) <= 0xFF:
            return int(text)
        raise RulesetSyntaxError(f"conntrack knows no protocol {text!r}", token=text)

    def _family(self, option: str) -> int:
        text = self._value(option)
        if text not in _FAMILIES:
            raise RulesetSyntaxError(f"{text!r} is no family", token=text, mend="write ipv4 or ipv6")
        return _FAMILIES[text]

    def _status(self, option: str) -> CtStatus:
        status = _NO_STATUS
        for word in self._value(option).split(","):
            if word not in _STATUS_WORDS:
                raise RulesetSyntaxError(
                    f"{word!r} is no status to choose by", token=word, mend=f"write one of {', '.join(_STATUS_WORDS)}"
                )
            status |= _STATUS_WORDS[word]
        return status

    def _mark(self, option: str) -> tuple[int, int]:
        text = self._value(option)
        value, slash, mask = text.partition("/")
        try:
            return int(value, 0), int(mask, 0) if slash else 0xFFFFFFFF
        except ValueError:
            raise RulesetSyntaxError(f"{text!r} is no mark", token=text, mend="write VALUE or VALUE/MASK") from None

    def _state(self, option: str) -> str:
        text = self._value(option).upper()
        if text not in TcpState.__members__ and text not in SctpState.__members__:
            raise RulesetSyntaxError(f"{text!r} is no TCP or SCTP state", token=text)
        return text
