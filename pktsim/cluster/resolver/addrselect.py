"""The order in which ``getaddrinfo`` gives addresses (RFC 3484 as glibc has it, RFC 6724's rules as musl has them).

Source: glibc 2.36 sysdeps/posix/getaddrinfo.c, ``rfc3484_sort``; RFC 6724, section 6.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

_IPv6 = ipaddress.IPv6Address

#: glibc's labels and precedences: prefix, label; prefix, precedence. The longest prefix counts.
_LABELS = (
    ("::1/128", 0), ("2002::/16", 2), ("::/96", 3), ("::ffff:0:0/96", 4), ("fec0::/10", 5), ("fc00::/7", 6),
    ("2001::/32", 7), ("::/0", 1),
)  # fmt: skip
_PRECEDENCES = (("::1/128", 50), ("2002::/16", 30), ("::/96", 20), ("::ffff:0:0/96", 10), ("::/0", 40))


def _table(rows: Sequence[tuple[str, int]]) -> list[tuple[ipaddress.IPv6Network, int]]:
    networks = [(ipaddress.IPv6Network(prefix), value) for prefix, value in rows]
    return sorted(networks, key=lambda row: -row[0].prefixlen)


_LABEL_TABLE, _PRECEDENCE_TABLE = _table(_LABELS), _table(_PRECEDENCES)


def _mapped(address: str) -> _IPv6:
    parsed = ipaddress.ip_address(address)
    return parsed if isinstance(parsed, _IPv6) else _IPv6(f"::ffff:{address}")


def _value(table: list[tuple[ipaddress.IPv6Network, int]], address: _IPv6) -> int:
    return next(value for network, value in table if address in network)


def _scope(address: str) -> int:
    """Link-local 2, site-local 5, global 14 (RFC 4007; for IPv4 as RFC 3484, section 3.2)."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return 2 if parsed.is_link_local or parsed.is_loopback else 14
    if parsed.is_multicast:
        return parsed.packed[1] & 0xF
    if parsed.is_link_local or parsed.is_loopback:
        return 2
    return 5 if parsed.is_site_local else 14


def _common_prefix(a: str, b: str) -> int:
    first, second = ipaddress.ip_address(a), ipaddress.ip_address(b)
    bits = first.max_prefixlen
    return bits - (int(first) ^ int(second)).bit_length()


def sort_addresses(addresses: Sequence[str], source_for: Callable[[str], str | None]) -> list[str]:
    """Sort destinations.

    Args:
        addresses: As the answers gave them.
        source_for: The address from which a destination would be reached; ``None`` if there is no way.
    """
    if len(addresses) < 2:
        return list(addresses)

    def rank(address: str) -> tuple[int, ...]:
        source = source_for(address)
        own, scope = _mapped(address), _scope(address)
        if source is None:
            # Nothing further distinguishes unreachable ones from each other than what they are.
            return (1, 0, 0, -_value(_PRECEDENCE_TABLE, own), scope, 0)
        return (
            0,  # rule 1: one that can be reached
            int(_scope(source) != scope),  # rule 2: of the same scope as the source
            int(_value(_LABEL_TABLE, _mapped(source)) != _value(_LABEL_TABLE, own)),  # rule 5: of the same label
            -_value(_PRECEDENCE_TABLE, own),  # rule 6: of the higher precedence
            scope,  # rule 8: of the smaller scope
            -_common_prefix(source, address) if ":" in address else 0,  # rule 9: of the longer common prefix
        )

    return sorted(addresses, key=rank)
