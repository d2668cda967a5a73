"""Network devices and their addresses, as ``ip link`` and ``ip address`` know them.

Data only: what a frame meets is the engine's, how addresses become routes is :mod:`pktsim.kernel.fib`'s, and what
joins two devices is :mod:`pktsim.kernel.network`'s.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pktsim.errors import TopologyError
from pktsim.fidelity import approximated
from pktsim.netfilter.opcodes import LinkKind
from pktsim.wire.addr import IPV4_LEN, ip_from_text, ip_to_text

approximated(
    "kernel.device.offloads",
    "devices have none: every frame has the size and the checksums that the wire sees, at every place where "
    "it is captured; there are no queueing disciplines either",
    source="net/core/dev.c validate_xmit_skb, net/core/gro.c",
)

AF_INET: Final = 2
AF_INET6: Final = 10

LOOPBACK_IFINDEX: Final = 1
IFNAMSIZ: Final = 16

MTU_ETHERNET: Final = 1500
MTU_LOOPBACK: Final = 65536
_MTU_RANGE: Final = {
    LinkKind.LOOPBACK: (0, 2**31 - 1),
    LinkKind.WIRE: (68, 65535),
    LinkKind.BRIDGE: (68, 65535),
    LinkKind.DUMMY: (0, 2**31 - 1),
    LinkKind.VXLAN: (68, 65535),
}


class Scope(enum.IntEnum):
    """``RT_SCOPE_*``: how far away a destination is, or how far an address may be used."""

    UNIVERSE = 0
    SITE = 200
    LINK = 253
    HOST = 254
    NOWHERE = 255

    @classmethod
    def from_text(cls, text: str) -> int:
        """Read what ``ip`` prints: ``global``, ``link``, ``host``, or a number."""
        names = {"global": cls.UNIVERSE, "universe": cls.UNIVERSE} | {scope.name.lower(): scope for scope in cls}
        if text in names:
            return names[text]
        if text.isdigit() and int(text) < 256:
            return int(text)
        raise TopologyError(f"{text!r} is not a scope", mend="one of global, site, link, host, nowhere")


def scope_text(scope: int) -> str:
    """Print a scope as ``ip`` does."""
    if scope == Scope.UNIVERSE:
        return "global"
    return Scope(scope).name.lower() if scope in {200, 253, 254, 255} else str(scope)


def family_of(address: bytes) -> int:
    return AF_INET if len(address) == IPV4_LEN else AF_INET6


def mask_bytes(length: int, size: int) -> bytes:
    """The first ``length`` bits of ``size`` bytes set."""
    bits = size * 8
    return (((1 << length) - 1) << (bits - length)).to_bytes(size, "big")


def network_of(address: bytes, prefix_length: int) -> bytes:
    """The address with all bits beyond the prefix cleared."""
    bits = len(address) * 8
    shift = bits - prefix_length
    return (int.from_bytes(address, "big") >> shift << shift).to_bytes(len(address), "big")


def parse_prefix(text: str) -> tuple[bytes, int]:
    """Read ``10.0.0.1/24``; without a length, a host's."""
    address_text, slash, length_text = text.partition("/")
    address = ip_from_text(address_text)
    if not slash:
        return address, len(address) * 8
    if not length_text.isdigit() or int(length_text) > len(address) * 8:
        raise TopologyError(f"{text!r}: {length_text!r} is not a prefix length of this family")
    return address, int(length_text)


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """``struct in_ifaddr``.

    Attributes:
        secondary: Another address of the same network was there first.
        noprefixroute: No connected route is made for it.
    """

    address: bytes
    prefix_length: int
    broadcast: bytes = b""
    scope: int = Scope.UNIVERSE
    secondary: bool = False
    noprefixroute: bool = False

    @property
    def family(self) -> int:
        return family_of(self.address)

    @property
    def network(self) -> bytes:
        return network_of(self.address, self.prefix_length)

    def covers(self, address: bytes) -> bool:
        """``inet_ifa_match``."""
        return len(address) == len(self.address) and network_of(address, self.prefix_length) == self.network

    def __str__(self) -> str:
        return f"{ip_to_text(self.address)}/{self.prefix_length}"


@dataclass(slots=True)
class NetDevice:
    """``struct net_device``.

    Attributes:
        carry: Takes a frame that this device sent onto its wire; ``None`` where nothing is plugged in.
        route_mtu: What the route that a bridge has for br_netfilter says (``br_change_mtu``).
        master: The ifindex of the bridge it is a port of, or 0.
        carrier: Something answers at the other end of its wire; what is sent without is lost before anyone sees it.
    """

    ifindex: int
    name: str
    kind: LinkKind
    mac: bytes
    mtu: int
    route_mtu: int = MTU_ETHERNET
    up: bool = True
    noarp: bool = False
    hairpin: bool = False
    master: int = 0
    addresses: list[InterfaceAddress] = field(default_factory=list)
    carry: Callable[[bytes], None] | None = None
    carrier: bool = True

    @property
    def loopback(self) -> bool:
        return self.kind == LinkKind.LOOPBACK


def check_name(name: str) -> None:
    """``dev_valid_name``."""
    if not name or len(name) >= IFNAMSIZ or name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
        raise TopologyError(
            f"{name!r} cannot be the name of an interface", mend=f"1 to {IFNAMSIZ - 1} characters, no '/', ':' or space"
        )


def check_mtu(kind: LinkKind, mtu: int) -> None:
    low, high = _MTU_RANGE[kind]
    if not low <= mtu <= high:
        raise TopologyError(f"an MTU of {mtu} is not in {low}..{high}")


class DeviceTable:
    """The devices of one namespace by index and by name, in order of creation."""

    def __init__(self) -> None:
        self._by_index: dict[int, NetDevice] = {}
        self._by_name: dict[str, NetDevice] = {}
        self._next_index = LOOPBACK_IFINDEX

    def __iter__(self) -> Iterator[NetDevice]:
        return iter(self._by_index.values())

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def names(self) -> list[str]:
        return list(self._by_name)

    def reserve_index(self) -> int:
        index = self._next_index
        self._next_index += 1
        return index

    def add(self, device: NetDevice) -> None:
        if device.name in self._by_name:
            raise TopologyError(f"there is an interface {device.name} already")
        self._by_index[device.ifindex] = device
        self._by_name[device.name] = device

    def remove(self, device: NetDevice) -> None:
        del self._by_index[device.ifindex]
        del self._by_name[device.name]

    def find(self, ifindex: int) -> NetDevice | None:
        return self._by_index.get(ifindex)

    def get(self, ifindex: int) -> NetDevice:
        return self._by_index[ifindex]

    def named(self, name: str) -> NetDevice:
        """Return the device called ``name``.

        Raises:
            TopologyError: There is none.
        """
        device = self._by_name.get(name)
        if device is None:
            known = ", ".join(self._by_name)
            raise TopologyError(f"there is no interface {name!r}", mend=f"interfaces here: {known}")
        return device


def select_address(
    devices: Iterable[NetDevice],
    device: NetDevice | None,
    destination: bytes = b"",
    scope: int = Scope.UNIVERSE,
    *,
    route_localnet: bool = False,
) -> bytes:
    """``inet_select_addr`` (net/ipv4/devinet.c): the source address for what leaves by ``device``.

    Args:
        devices: All devices, in order of creation.
        device: Where the packet leaves.
        destination: Prefer an address whose network this is in.
        scope: Addresses of a wider scope than this are fine, narrower ones are not.
        route_localnet: Whether the device routes 127/8, which then counts as narrower than a link.

    Returns:
        The address, empty if there is none.
    """
    local_scope = Scope.HOST if route_localnet else Scope.LINK
    chosen = b""
    if device is not None:
        for entry in device.addresses:
            if entry.family != AF_INET or entry.secondary or min(entry.scope, local_scope) > scope:
                continue
            if not destination or entry.covers(destination):
                return entry.address
            chosen = chosen or entry.address
    if chosen:
        return chosen
    for other in devices:
        for entry in other.addresses:
            if entry.family == AF_INET and not entry.secondary and entry.scope != Scope.LINK and entry.scope <= scope:
                return entry.address
    return b""
