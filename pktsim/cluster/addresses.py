"""Addresses in the text forms that Kubernetes accepts.

Kubernetes reads addresses with ``ParseIPSloppy`` (k8s.io/utils/net/parse.go): leading zeros are decimal, and an IPv4
address written as IPv6 (``::ffff:10.0.0.1``) is an IPv4 address, as everywhere in Go's ``net.IP``.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def _decimal(text: str) -> str:
    """Drop leading zeros of dotted parts, which Python refuses and Go's old parser took as decimal."""
    head, colon, tail = text.rpartition(":")
    parts = tail.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
        return text
    return head + colon + ".".join(str(int(part)) for part in parts)


@lru_cache(maxsize=65536)
def parse_ip(text: str) -> IPAddress:
    """Read an address.

    Raises:
        ValueError: ``text`` is not one (zones such as ``%eth0`` are not taken either).
    """
    if "%" in text:
        raise ValueError(f"{text!r} is not an IP address")
    try:
        address = ip_address(_decimal(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=4096)
def parse_cidr(text: str) -> IPNetwork:
    """Read ``ADDRESS/LENGTH``; bits beyond the length are dropped.

    Raises:
        ValueError: ``text`` is not of that form (an address alone and a dotted mask are not).
    """
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or "%" in address:
        raise ValueError(f"{text!r} is not a CIDR block such as 10.0.0.0/8")
    try:
        return ip_network(f"{_decimal(address)}/{length}", strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a CIDR block such as 10.0.0.0/8") from None
