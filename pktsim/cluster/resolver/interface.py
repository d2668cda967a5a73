"""What resolvers need of the world, and what they give back."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from pktsim.clock import Clock
from pktsim.rng import Choices

AF_UNSPEC = 0
AF_INET = 2
AF_INET6 = 10
DNS_PORT = 53


class Datagrams(Protocol):
    """A UDP socket."""

    recverr: bool

    def bind(self, address: str = "", port: int = 0) -> None: ...

    def connect(self, address: str, port: int) -> None: ...

    def send(self, data: bytes) -> None: ...

    def sendto(self, data: bytes, address: str, port: int) -> None: ...

    async def recvfrom(self, timeout_ns: int | None = None) -> tuple[bytes, str, int]: ...

    def close(self) -> None: ...


class Stream(Protocol):
    """A TCP socket."""

    async def connect(self, address: str, port: int, timeout_ns: int | None = None) -> None: ...

    async def sendall(self, data: bytes) -> None: ...

    async def recv(self, limit: int = 65536, timeout_ns: int | None = None) -> bytes: ...

    def close(self) -> None: ...


class Sockets(Protocol):
    """Where sockets come from; the socket layer of a namespace is one."""

    @property
    def clock(self) -> Clock: ...

    @property
    def choices(self) -> Choices: ...

    def udp(self, family: int = AF_INET) -> Datagrams: ...

    def tcp(self, family: int = AF_INET) -> Stream: ...


class Addresses(Protocol):
    """What a host knows of its own addresses."""

    def source_for(self, address: str) -> str | None:
        """The address from which ``address`` would be reached; ``None`` if there is no way."""
        ...

    def has_family(self, family: int) -> bool:
        """Whether any address besides loopback is of that family."""
        ...


class GaiError(IntEnum):
    """``getaddrinfo``'s errors (netdb.h)."""

    NONE = 0
    NONAME = -2
    AGAIN = -3
    FAIL = -4
    NODATA = -5
    SYSTEM = -11


class HostError(IntEnum):
    """``h_errno`` (netdb.h)."""

    NONE = 0
    HOST_NOT_FOUND = 1
    TRY_AGAIN = 2
    NO_RECOVERY = 3
    NO_DATA = 4


_GLIBC_TEXT = {
    GaiError.NONAME: "Name or service not known",
    GaiError.AGAIN: "Temporary failure in name resolution",
    GaiError.FAIL: "Non-recoverable failure in name resolution",
    GaiError.NODATA: "No address associated with hostname",
    GaiError.SYSTEM: "System error",
}
_MUSL_TEXT = {
    GaiError.NONAME: "Name does not resolve",
    GaiError.AGAIN: "Try again",
    GaiError.FAIL: "Non-recoverable error",
    GaiError.NODATA: "Name has no usable address",
    GaiError.SYSTEM: "System error",
}


@dataclass(frozen=True, slots=True)
class Lookup:
    """What came of a look-up.

    Attributes:
        addresses: In the order to try them.
        canonical: The name that they belong to in the end.
        error: Why there are none.
        host_error: The same in the older interface's numbers.
        text: The error in the library's words.
    """

    addresses: tuple[str, ...] = ()
    canonical: str = ""
    error: GaiError = GaiError.NONE
    host_error: HostError = HostError.NONE
    text: str = ""


def glibc_error(error: GaiError, host_error: HostError = HostError.NONE) -> Lookup:
    """A failed look-up in glibc's words (``gai_strerror``)."""
    return Lookup(error=error, host_error=host_error, text=_GLIBC_TEXT[error])


def musl_error(error: GaiError) -> Lookup:
    """A failed look-up in musl's words."""
    return Lookup(error=error, text=_MUSL_TEXT[error])


_INET_ATON = re.compile(r"(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")


def numeric_address(text: str) -> str | None:
    """An address as ``inet_aton`` and ``inet_pton`` read it (``10.1`` is 10.0.0.1); ``None`` if it is none."""
    if ":" in text:
        try:
            return str(ipaddress.IPv6Address(text.partition("%")[0]))
        except ValueError:
            return None
    parts = text.split(".")
    if not 1 <= len(parts) <= 4 or not all(_INET_ATON.fullmatch(part) for part in parts):
        return None
    numbers = [int(part, 16 if part[:2] in ("0x", "0X") else 8 if part[0] == "0" and len(part) > 1 else 10)
               for part in parts]  # fmt: skip
    *first, last = numbers
    if any(number > 0xFF for number in first) or last >= 1 << 8 * (4 - len(first)):
        return None
    value = last
    for at, number in enumerate(first):
        value |= number << 8 * (3 - at)
    return str(ipaddress.IPv4Address(value))
