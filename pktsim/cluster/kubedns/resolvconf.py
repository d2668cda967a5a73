"""``/etc/resolv.conf`` as CoreDNS reads it, which is not how the C library does.

Source: miekg/dns v1.1.68, clientconfig.go.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """Name servers and search list, in order."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """Read it. The last ``search`` or ``domain`` counts; there are no comments, only lines without a meaning."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers.append(words[1])
        elif words[0] == "domain":
            search = tuple(words[1:2])
        elif words[0] == "search":
            search = tuple(words[1:])
    return ResolvConf(tuple(servers), search)
