"""What the NAT targets' options have in common (extensions/libxt_NAT.c of iptables 1.8.9)."""

from __future__ import annotations

from dataclasses import replace

from pktsim.netfilter.names import SERVICE_PORTS
from pktsim.netfilter.option import (
    U16_MAX,
    BadValue,
    Context,
    Given,
    Option,
    address_text,
    leading_number,
    to_address,
)
from pktsim.netfilter.ruleset import Family
from pktsim.netfilter.values import NO_RANGE, AddressRange, NatRange, PortRange

#: ICMP, TCP, UDP, DCCP and SCTP: what a port (or ICMP id) can be given for. An inverted ``-p`` counts as well.
_PORT_PROTOCOLS = frozenset({1, 6, 17, 33, 132})


def _port(text: str) -> tuple[int, str]:
    """A port and what follows it; a service name takes the whole word."""
    found = leading_number(text)
    if found is not None and found[0] <= U16_MAX:
        return found
    known = SERVICE_PORTS.get(text)
    if known is None:
        raise BadValue(f"port {text!r} is not valid", "write a number from 0 to 65535")
    return known, ""


def read_ports(text: str, context: Context) -> NatRange:
    """``PORT[-PORT[/BASE]]``."""
    if context.protocol not in _PORT_PROTOCOLS:
        raise BadValue("a port needs the protocol", "say -p tcp, udp, sctp or dccp before")
    first, rest = _port(text)
    if not rest:
        return NatRange(ports=PortRange(first, first))
    if rest[0] != "-":
        raise BadValue(f"unexpected {rest!r} after the port", "write a range with a dash: FIRST-LAST")
    found = leading_number(rest[1:])
    if found is None or not first <= found[0] <= U16_MAX:
        raise BadValue(f"bad port range {text!r}", "write FIRST-LAST, the lower port first")
    last, rest = found
    if not rest:
        return NatRange(ports=PortRange(first, last))
    base, end = _port(rest[1:]) if rest[0] == "/" else (0, rest)
    if not base or end:
        raise BadValue(f"unexpected {rest!r} after the port range")
    return NatRange(ports=PortRange(first, last), base_port=base)


def read_destination(text: str, context: Context) -> NatRange:
    """``[ADDRESS[-ADDRESS]][:PORT[-PORT[/BASE]]]``; an IPv6 address with a port stands in brackets."""
    family = context.family
    bracketed = text.startswith("[")
    if bracketed:
        inner, closed, rest = text[1:].partition("]")
        if not closed or family is Family.IPV4 or (rest and rest[0] not in ":-"):
            raise BadValue(f"bad address {text!r}")
        addresses, (_, colon, ports) = inner, rest.partition(":")
    elif text.count(":") == 1:
        addresses, colon, ports = text.partition(":")
    else:
        addresses, colon, ports = text, "", ""
    result = read_ports(ports, context) if colon else NO_RANGE
    if not addresses:
        if not colon:
            raise BadValue("empty address")
        return result
    first, dash, last = addresses.partition("-")
    low = to_address(first, family)
    return replace(result, addresses=AddressRange(low, to_address(last, family) if dash else low))


def nat_range(said: NatRange, given: Given, *, shift: bool = False) -> NatRange:
    """``said`` with the flags that were given; ``shift`` for the one target that can shift ports (DNAT)."""
    if said.base_port is not None and not shift:
        raise BadValue("shifted port ranges are for DNAT only", "drop the / and what follows")
    if given.values.keys() <= {"to-destination", "to-source", "to-ports"}:
        return said
    return replace(
        said, random="random" in given, random_fully="random-fully" in given, persistent="persistent" in given
    )


def nat_flags(*names: str) -> tuple[Option, ...]:
    """The options without an argument."""
    return tuple(Option(name) for name in names)


def range_text(option: str, said: NatRange) -> str:
    """As ``__NAT_print``: the range behind its option, then the flags."""
    text = ""
    addresses = said.addresses
    if addresses is not None:
        text = address_text(addresses.first)
        if addresses.first != addresses.last:
            text += f"-{address_text(addresses.last)}"
        if addresses.first.version == 6 and said.ports is not None:
            text = f"[{text}]"
    ports = said.ports
    if ports is not None:
        text += "" if option == "to-ports" else ":"
        text += str(ports.first) if ports.first == ports.last else f"{ports.first}-{ports.last}"
        if said.base_port is not None:
            text += f"/{said.base_port}"
    if text:
        text = f" --{option} {text}"
    if said.random:
        text += " --random"
    if said.random_fully:
        text += " --random-fully"
    if said.persistent:
        text += " --persistent"
    return text
