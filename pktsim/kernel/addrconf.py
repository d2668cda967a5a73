"""IPv6 addresses of a host: what kind they are, which one a packet gets as its source, which groups follow from them.

Source address selection is RFC 6724 section 5 as Linux does it (``ipv6_dev_get_saddr``, net/ipv6/addrconf.c; labels
from net/ipv6/addrlabel.c, 6.18). Home, temporary, deprecated and tentative addresses do not exist here, so their rules
decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pktsim.kernel.netdev import AF_INET6, InterfaceAddress, NetDevice, network_of
from pktsim.wire.addr import ip_from_text

ANY6: Final = bytes(16)
LOOPBACK6: Final = bytes(15) + b"\1"
ALL_NODES: Final = ip_from_text("ff02::1")
ALL_ROUTERS: Final = ip_from_text("ff02::2")
_SOLICITED_NODE: Final = ip_from_text("ff02::1:ff00:0")[:13]

SCOPE_LINK: Final = 2
SCOPE_SITE: Final = 5
SCOPE_GLOBAL: Final = 14

#: ``ip6addrlbl_init_table``, longest prefix first (``ip addrlabel``).
_LABELS: Final = tuple(
    (ip_from_text(prefix), length, label)
    for prefix, length, label in (
        ("::1", 128, 0),
        ("::", 96, 3),
        ("::ffff:0:0", 96, 4),
        ("2001::", 32, 6),
        ("2001:10::", 28, 7),
        ("3ffe::", 16, 12),
        ("2002::", 16, 2),
        ("fec0::", 10, 11),
        ("fc00::", 7, 5),
        ("::", 0, 1),
    )
)
_ORCHID: Final = ip_from_text("2001:10::")


def is_multicast6(address: bytes) -> bool:
    return address[0] == 0xFF


def is_link_local(address: bytes) -> bool:
    """fe80::/10."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def solicited_node(address: bytes) -> bytes:
    """``addrconf_addr_solict_mult``: the group where the owner of an address is asked for (RFC 4291, 2.7.1)."""
    return _SOLICITED_NODE + address[13:]


def is_solicited_node(address: bytes) -> bool:
    return address[:13] == _SOLICITED_NODE


def link_local_of(mac: bytes) -> bytes:
    """``addrconf_ifid_eui48``: the link-local address that follows from an Ethernet address (RFC 2464 section 4)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def source_scope(address: bytes) -> int:
    """``ipv6_addr_src_scope``: the scope of a unicast or multicast address; loopback counts as link-local."""
    if is_multicast6(address):
        return address[1] & 15
    if is_link_local(address) or address == LOOPBACK6:
        return SCOPE_LINK
    if address[0] == 0xFE and address[1] & 0xC0 == 0xC0:
        return SCOPE_SITE
    return SCOPE_GLOBAL


def label(address: bytes) -> int:
    """``ipv6_addr_label``."""
    return next(value for prefix, length, value in _LABELS if network_of(address, length) == prefix)


def common_prefix(one: bytes, other: bytes) -> int:
    """``ipv6_addr_diff``: how many leading bits are equal."""
    return 128 - (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_length()


def _is_orchid(address: bytes) -> bool:
    return network_of(address, 28) == _ORCHID


def ordered(addresses: Iterable[InterfaceAddress]) -> list[InterfaceAddress]:
    """``ipv6_link_dev_addr``: a device's addresses as the kernel lists them: wide scopes first, then newest first."""
    newest_first = [entry for entry in addresses if entry.family == AF_INET6][::-1]
    return sorted(newest_first, key=lambda entry: -source_scope(entry.address))


def link_local_address(device: NetDevice) -> bytes:
    """``ipv6_get_lladdr``; empty if it has none."""
    return next((entry.address for entry in ordered(device.addresses) if is_link_local(entry.address)), b"")


def select_source(
    devices: Iterable[NetDevice], out: NetDevice | None, destination: bytes, *, only_out: bool = False
) -> bytes:
    """``ipv6_dev_get_saddr``: the source address for a packet to ``destination``.

    Args:
        devices: All devices, in order of creation.
        out: The one it leaves by.
        destination: Where it goes.
        only_out: ``use_oif_addrs_only`` of that device.

    Returns:
        The address, empty if there is none.
    """
    scope = source_scope(destination)
    narrow = out is not None and (only_out or is_multicast6(destination) or scope <= SCOPE_LINK)
    candidates = [out] if narrow and out is not None else list(devices)
    wanted_label = label(destination)
    best: tuple[int, ...] = ()
    chosen = b""
    for device in candidates:
        for entry in ordered(device.addresses):
            address = entry.address
            distance = source_scope(address)
            score = (
                int(address == destination),
                # appropriate scope: the narrowest that reaches, else the widest
                -distance if distance >= scope else distance - 128,
                int(out is None or out.ifindex == device.ifindex),
                int(label(address) == wanted_label),
                int(_is_orchid(address) == _is_orchid(destination)),
                min(common_prefix(address, destination), entry.prefix_length),
            )
            if score > best:
                best, chosen = score, address
    return chosen
