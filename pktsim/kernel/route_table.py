"""One routing table's routes, found by prefix: adding to a table of thousands must not look at all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pktsim.kernel.netdev import network_of

if TYPE_CHECKING:
    from pktsim.kernel.fib import Route


class RouteTable:
    """Routes by destination and prefix length; of one prefix in the order in which they were added."""

    __slots__ = ("_lengths", "_prefixes")

    def __init__(self) -> None:
        self._prefixes: dict[tuple[bytes, int], list[Route]] = {}
        self._lengths: dict[int, int] = {}  # prefix length -> how many prefixes have it

    def __iter__(self) -> Iterator[Route]:
        for routes in self._prefixes.values():
            yield from routes

    def __bool__(self) -> bool:
        return bool(self._prefixes)

    def __contains__(self, route: object) -> bool:
        key = (getattr(route, "destination", b""), getattr(route, "prefix_length", -1))
        return route in self._prefixes.get(key, ())

    def at(self, destination: bytes, prefix_length: int) -> list[Route]:
        """The routes to exactly this prefix."""
        return list(self._prefixes.get((destination, prefix_length), ()))

    def towards(self, address: bytes) -> Iterator[Route]:
        """The routes that an address is within, longest prefix first, lowest metric first."""
        for length in sorted(self._lengths, reverse=True):
            routes = self._prefixes.get((network_of(address, length), length))
            if routes:
                yield from sorted(routes, key=lambda route: route.metric)

    def add(self, route: Route) -> None:
        key = (route.destination, route.prefix_length)
        if key not in self._prefixes:
            self._prefixes[key] = []
            self._lengths[route.prefix_length] = self._lengths.get(route.prefix_length, 0) + 1
        self._prefixes[key].append(route)

    def replace(self, old: Route, new: Route) -> None:
        """Put a route in the place of another one to the same prefix."""
        routes = self._prefixes[old.destination, old.prefix_length]
        routes[routes.index(old)] = new

    def remove(self, route: Route) -> None:
        key = (route.destination, route.prefix_length)
        routes = self._prefixes[key]
        routes.remove(route)
        if not routes:
            del self._prefixes[key]
            self._lengths[route.prefix_length] -= 1
            if not self._lengths[route.prefix_length]:
                del self._lengths[route.prefix_length]

    def keep(self, wanted: Callable[[Route], bool]) -> bool:
        """Remove the routes that are not wanted. Returns whether there were any."""
        unwanted = [route for route in self if not wanted(route)]
        for route in unwanted:
            self.remove(route)
        return bool(unwanted)
