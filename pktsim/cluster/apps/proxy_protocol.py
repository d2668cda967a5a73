"""The PROXY protocol: what a proxy says first on a connection, so that the server learns who the client is.

Source: HAProxy, doc/proxy-protocol.txt: version 1 is a line of text (section 2.1), version 2 binary (section 2.2).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, ip_address
from typing import Literal

from pktsim.kernel.tcp import TcpSocket

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: The longest line of version 1, line end included.
LONGEST_LINE = 107
_HEADER = struct.Struct("!12sBBH")
_VERSION_2, _LOCAL, _PROXY = 0x20, 0, 1
_TCP4, _TCP6 = 0x11, 0x21

Ends = tuple[tuple[str, int], tuple[str, int]]


class ProxyHeaderError(ValueError):
    """What came first is no PROXY header."""


def proxy_header(version: Literal["v1", "v2"], source: tuple[str, int], target: tuple[str, int]) -> bytes:
    """The header for a connection that came from ``source`` to ``target``."""
    addresses = [ip_address(end[0]) for end in (source, target)]
    ipv4 = isinstance(addresses[0], IPv4Address)
    if version == "v1":
        family = "TCP4" if ipv4 else "TCP6"
        return f"PROXY {family} {addresses[0]} {addresses[1]} {source[1]} {target[1]}\r\n".encode()
    body = addresses[0].packed + addresses[1].packed + struct.pack("!HH", source[1], target[1])
    return _HEADER.pack(SIGNATURE, _VERSION_2 | _PROXY, _TCP4 if ipv4 else _TCP6, len(body)) + body


def read_proxy_header(data: bytes) -> tuple[Ends | None, int] | None:
    """Read the header that a connection begins with.

    Returns:
        Source and target (``None``: the proxy speaks for itself) and how many bytes the header has; ``None`` if more of
        it has to come.

    Raises:
        ProxyHeaderError: There is none.
    """
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _read_v2(data)
    if not data.startswith(b"PROXY"[: len(data)]):
        raise ProxyHeaderError(f"{data[:16]!r} is no PROXY header")
    end = data.find(b"\r\n")
    if end < 0:
        if len(data) >= LONGEST_LINE:
            raise ProxyHeaderError("a PROXY line without end")
        return None
    words = data[:end].decode("ascii", "replace").split(" ")
    if words[1:2] == ["UNKNOWN"]:
        return None, end + 2
    try:
        _, family, source, target, sport, dport = words
        ends = (str(ip_address(source)), int(sport)), (str(ip_address(target)), int(dport))
    except ValueError as error:
        raise ProxyHeaderError(f"not a PROXY line: {error}") from None
    if family not in ("TCP4", "TCP6"):
        raise ProxyHeaderError(f"PROXY with {family}")
    return ends, end + 2


async def receive_proxy_header(socket: TcpSocket, timeout_ns: int | None = None) -> tuple[Ends | None, bytes]:
    """Read the header off a connection.

    Args:
        socket: The connection.
        timeout_ns: How long all of it may take.

    Returns:
        Source and target (``None``: the proxy speaks for itself), and what came behind the header.

    Raises:
        ProxyHeaderError: The connection begins with something else, or ends.
        OSError: Nothing came in time, or the connection broke.
    """
    clock = socket.layer.clock
    end_ns = None if timeout_ns is None else clock.now_ns + timeout_ns
    data = b""
    while True:
        part = await socket.recv(timeout_ns=None if end_ns is None else end_ns - clock.now_ns)
        if not part:
            raise ProxyHeaderError("the connection ends within its PROXY header")
        data += part
        found = read_proxy_header(data)
        if found is not None:
            ends, length = found
            return ends, data[length:]


def _read_v2(data: bytes) -> tuple[Ends | None, int] | None:
    if len(data) < _HEADER.size:
        return None
    _, version_command, family, length = _HEADER.unpack_from(data)
    end = _HEADER.size + length
    if len(data) < end:
        return None
    if version_command & 0xF0 != _VERSION_2:
        raise ProxyHeaderError(f"PROXY version {version_command >> 4}")
    if version_command & 0x0F == _LOCAL:
        return None, end
    size = {_TCP4: 4, _TCP6: 16}.get(family)
    if size is None or length < 2 * size + 4:
        return None, end
    body = data[_HEADER.size :]
    sport, dport = struct.unpack_from("!HH", body, 2 * size)
    return ((str(ip_address(body[:size])), sport), (str(ip_address(body[size : 2 * size])), dport)), end
