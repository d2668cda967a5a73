"""A pod's resolver on the pod's sockets."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Literal

from pktsim.kernel.sockets import SocketLayer
from pktsim.wire.addr import ip_to_text

from .conf import parse_glibc, parse_musl
from .glibc import GlibcResolver
from .hosts import HostsFile
from .interface import AF_INET6, AF_UNSPEC, GaiError, Lookup
from .musl import MuslResolver

#: What every container's ``/etc/hosts`` has.
DEFAULT_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

Libc = Literal["glibc", "musl"]


class ResolutionError(OSError):
    """A name that could not be resolved.

    Attributes:
        lookup: What came of it.
    """

    def __init__(self, name: str, lookup: Lookup) -> None:
        super().__init__(f"{name}: {lookup.text}")
        self.lookup = lookup

    @property
    def error(self) -> GaiError:
        """``getaddrinfo``'s error."""
        return self.lookup.error


class _OwnAddresses:
    """A namespace's addresses, as routes and interfaces tell."""

    def __init__(self, sockets: SocketLayer, addresses: Sequence[str]) -> None:
        self._sockets = sockets
        self._addresses = tuple(map(ipaddress.ip_address, addresses))

    def source_for(self, address: str) -> str | None:
        try:
            route = self._sockets.stack.route_output(ipaddress.ip_address(address).packed)
        except OSError:
            return None
        return ip_to_text(route.saddr)

    def has_family(self, family: int) -> bool:
        version = 6 if family == AF_INET6 else 4
        if not self._addresses:
            return version == 4
        return any(one.version == version and not one.is_loopback for one in self._addresses)


class PodResolver:
    """The resolver of a process in a pod; calling it resolves a name as ``curl`` does."""

    def __init__(self, resolver: GlibcResolver | MuslResolver) -> None:
        self.resolver = resolver

    async def __call__(self, name: str, family: int = AF_UNSPEC) -> list[str]:
        """Resolve a name.

        Returns:
            Its addresses in the order to try them.

        Raises:
            ResolutionError: There are none.
        """
        lookup = await self.resolver.getaddrinfo(name, family)
        if lookup.error is not GaiError.NONE:
            raise ResolutionError(name, lookup)
        return list(lookup.addresses)


def pod_resolver(
    sockets: SocketLayer,
    resolv_conf: str,
    *,
    libc: Libc = "glibc",
    hosts_file: str = DEFAULT_HOSTS,
    hostname: str = "",
    addresses: Sequence[str] = (),
) -> PodResolver:
    """Make the resolver of a process.

    Args:
        sockets: Of its namespace; their name is the prefix of the places at which the resolver asks for chance.
        resolv_conf: ``/etc/resolv.conf``.
        libc: Which C library the image has.
        hosts_file: ``/etc/hosts``.
        hostname: The host's name; its domain is searched if the file says nothing.
        addresses: The namespace's own addresses, for programs that only want families that it has.
    """
    own = _OwnAddresses(sockets, addresses)
    hosts = HostsFile(hosts_file)
    if libc == "musl":
        return PodResolver(MuslResolver(sockets, own, parse_musl(resolv_conf), hosts, sockets.name))
    return PodResolver(GlibcResolver(sockets, own, parse_glibc(resolv_conf, hostname), hosts, sockets.name))


async def resolve(sockets: SocketLayer, name: str, resolv_conf: str, *, libc: Libc = "glibc") -> list[str]:
    """Resolve one name in a new process."""
    return await pod_resolver(sockets, resolv_conf, libc=libc)(name)
