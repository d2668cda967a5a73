"""Values that several extensions share: ranges of ports and addresses, and where NAT may map to.

Frozen data only; reading and printing them is :mod:`pktsim.netfilter.option` and the extensions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports ``first`` to ``last``, both included. ``first`` may exceed ``last``: such a range matches nothing."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}:{self.last}"


#: What ``struct xt_tcp`` and its like hold when no port is said; a range said to be this one is the same as none.
ALL_PORTS = PortRange(0, 65535)


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses ``first`` to ``last``, both included, of one family."""

    first: Address
    last: Address

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class NatRange:
    """``struct nf_nat_range2``: what SNAT, DNAT, MASQUERADE and REDIRECT were told.

    ``ports`` hold ICMP ids where the rule's protocol is ICMP. With ``base_port`` a port maps to
    ``ports.first + (port - base_port)``: ``--to-destination :6000-6010/5000`` (``NF_NAT_RANGE_PROTO_OFFSET``).
    """

    addresses: AddressRange | None = None
    ports: PortRange | None = None
    base_port: int | None = None
    random: bool = False
    random_fully: bool = False
    persistent: bool = False


#: Nothing said: MASQUERADE and REDIRECT on their own.
NO_RANGE = NatRange()


def said_ports(ports: PortRange | None, inverted: bool) -> tuple[PortRange | None, bool]:
    """The range and its inversion as stored: all ports, not inverted, is the same as nothing said."""
    if ports is None or (ports == ALL_PORTS and not inverted):
        return None, False
    return ports, inverted
