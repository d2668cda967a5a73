"""IPv6 extension headers (RFC 8200 section 4): stepping over them, and what they say to the host that they are for.

Source: net/ipv6/exthdrs_core.c, exthdrs.c, ip6_input.c, ip6_output.c of Linux 6.18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pktsim.kernel.transport import IPV6_HEADER
from pktsim.wire.frame import (
    IPPROTO_DSTOPTS,
    IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS,
    IPPROTO_NONE,
    IPPROTO_ROUTING,
    IPV6_EXTENSIONS,
    ipv6_extension_size,
)

FRAGMENT_HEADER: Final = 8

_PAD1 = 0
#: ``max_dst_opts_number``, ``max_hbh_opts_number``.
_MOST_OPTIONS = 8
_HAO = 201  # home address, RFC 6275 section 6.3


@dataclass(frozen=True, slots=True)
class Skipped:
    """Where the headers end.

    Attributes:
        protocol: What comes there.
        offset: Where.
        fragment_offset: Of a later fragment, whose headers end at its data; else 0.
        fragment: Whether there is a fragment header at all.
        field: Where the number ``protocol`` stands.
    """

    protocol: int
    offset: int
    fragment_offset: int = 0
    fragment: bool = False
    field: int = 6


def skip_headers(packet: bytes) -> Skipped | None:
    """``ipv6_skip_exthdr``; ``None`` if a header is cut short, or there is nothing after them (``NEXTHDR_NONE``)."""
    protocol, at, where = packet[6], IPV6_HEADER, 6
    fragment = False
    while protocol in IPV6_EXTENSIONS:
        if at + (4 if protocol == IPPROTO_FRAGMENT else 2) > len(packet):
            return None
        if protocol == IPPROTO_FRAGMENT:
            offset = int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF8
            if offset:
                return Skipped(packet[at], at + FRAGMENT_HEADER, offset, True, at)
            fragment = True
        size = ipv6_extension_size(protocol, packet[at + 1])
        protocol, where = packet[at], at
        at += size
    return None if protocol == IPPROTO_NONE else Skipped(protocol, at, 0, fragment, where)


def number_before(packet: bytes, end: int) -> int:
    """Where the number of the header at ``end`` stands, in the one before it."""
    kind, at, where = packet[6], IPV6_HEADER, 6
    while at < end:
        size = ipv6_extension_size(kind, packet[at + 1])
        kind, where = packet[at], at
        at += size
    return where


def fragment_point(packet: bytes) -> tuple[int, int]:
    """``ip6_find_1stfragopt``: where a fragment header goes, and where the number of what follows stands.

    That is behind all headers that routers on the way look at: hop-by-hop options, and options before a routing header.
    """
    at, where = IPV6_HEADER, 6
    found_routing = False
    kind = packet[6]
    while at + 8 <= len(packet):
        if kind == IPPROTO_ROUTING:
            found_routing = True
        elif kind == IPPROTO_DSTOPTS:
            if found_routing:
                break
        elif kind != IPPROTO_HOPOPTS:
            break
        size = ipv6_extension_size(kind, packet[at + 1])
        where, kind = at, packet[at]
        at += size
    return at, where


class OptionProblem(Exception):
    """An option that is not known; ``pointer`` is 0 where its sender is not to be told."""

    def __init__(self, pointer: int, *, also_groups: bool = False) -> None:
        super().__init__(pointer)
        self.pointer = pointer
        self.also_groups = also_groups


def check_options(packet: bytes, at: int) -> None:
    """``ip6_parse_tlv`` of destination options: go through those of the header at ``at``.

    None is known, for the home address is one to mobile hosts only. Hop-by-hop options are the engine's.

    Raises:
        OptionProblem: There is one that says that a packet must not be taken by who does not know it (RFC 8200
            section 4.2), or the options make no sense.
    """
    end = at + ipv6_extension_size(IPPROTO_DSTOPTS, packet[at + 1])
    if end > len(packet):
        raise OptionProblem(0)
    at += 2
    padding = options = 0
    while at < end:
        kind = packet[at]
        if kind == _PAD1:
            padding += 1
            if padding > 7:
                raise OptionProblem(0)
            at += 1
            continue
        if at + 2 > end or at + 2 + packet[at + 1] > end:
            raise OptionProblem(0)
        size = packet[at + 1] + 2
        if kind == 1:
            # RFC 4942 section 2.1.9.5: padding is short and zero
            padding += size
            if padding > 7 or any(packet[at + 2 : at + size]):
                raise OptionProblem(0)
        else:
            padding = 0
            options += 1
            if options > _MOST_OPTIONS:
                raise OptionProblem(0)
            if kind >> 6:
                # ip6_tlvopt_unknown: 01 discard, 10 tell, 11 tell unless it was sent to a group
                raise OptionProblem(0 if kind >> 6 == 1 else at, also_groups=kind >> 6 == 2)
        at += size
