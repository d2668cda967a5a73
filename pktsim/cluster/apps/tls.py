"""TLS over a simulated connection: OpenSSL does the protocol, the bytes go through the sockets of a namespace.

OpenSSL takes its randomness from the operating system: two runs with TLS differ in these bytes, and in what follows
from them (lengths of signatures, for one).
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from dataclasses import dataclass, field

from pktsim.fidelity import approximated
from pktsim.kernel.capture import KeyLog
from pktsim.kernel.tcp import TcpSocket

approximated(
    "tls.randomness",
    "handshakes and records are this machine's OpenSSL with the operating system's randomness: the one place where the "
    "same seed does not give the same bytes; certificates are judged by this machine's date",
    source="Python's ssl.MemoryBIO",
)

_RECORDS = 65536


class TlsStream:
    """A connection that is encrypted. :meth:`handshake` comes first.

    Args:
        socket: Connected.
        context: Whose certificates and rules.
        server_side: Which side this is.
        server_name: Whom a client wants to talk to: SNI, and the name that the certificate has to have.
        first: What has been read of the connection already.
    """

    def __init__(
        self,
        socket: TcpSocket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_name: str | None = None,
        first: bytes = b"",
    ) -> None:
        self.socket = socket
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._incoming.write(first)
        self._ended = False
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )

    async def handshake(self, timeout_ns: int | None = None) -> None:
        """Agree on keys.

        Raises:
            ssl.SSLError: They do not agree; ``ssl.SSLCertVerificationError``: the certificate is not accepted.
            OSError: The connection broke (``TimeoutError``: nothing came in time).
        """
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill(timeout_ns)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert
                raise
            else:
                return await self._flush()

    async def recv(self, limit: int = _RECORDS, timeout_ns: int | None = None) -> bytes:
        """Wait for data and read up to ``limit`` bytes of it; empty at the end of the stream.

        Raises:
            OSError: As :meth:`handshake`.
        """
        while True:
            try:
                data = self.tls.read(limit)
                self._ended = not data  # by the other side's close_notify
                return data
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill(timeout_ns)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                self._ended = True
                return b""

    async def sendall(self, data: bytes) -> None:
        """Write everything.

        Raises:
            OSError: As :meth:`handshake`.
        """
        if data:
            self.tls.write(data)
        await self._flush()

    def close(self) -> None:
        """Say so (close_notify) unless the other side has said it first, and close."""
        if not self.socket.closed and not self._ended:
            with contextlib.suppress(OSError):
                self.tls.unwrap()
            with contextlib.suppress(OSError):
                if self._outgoing.pending:
                    self.socket.send(self._outgoing.read())
        self.socket.close()

    def abort(self) -> None:
        """Reset the connection."""
        self.socket.abort()

    async def _fill(self, timeout_ns: int | None) -> None:
        data = await self.socket.recv(_RECORDS, timeout_ns)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self.socket.sendall(self._outgoing.read())


def server_context(certificate: bytes, key: bytes, key_log: KeyLog | None) -> ssl.SSLContext:
    """What a server with this certificate goes by.

    Args:
        certificate: PEM, its own first, then those of its issuers.
        key: PEM.

    Raises:
        ssl.SSLError: They are no certificate and key, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL's Python face takes files only.
    handle, path = tempfile.mkstemp(prefix="pktsim-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(certificate.rstrip() + b"\n" + key.rstrip() + b"\n")
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
    _log_keys(context, key_log)
    return context


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a client believes.

    Attributes:
        ca: Certificates in PEM, or a file of them; without any no server is believed.
        insecure: Believe everybody, as ``curl -k``.
    """

    ca: str = ""
    insecure: bool = False
    _contexts: dict[int, ssl.SSLContext] = field(default_factory=dict, compare=False, repr=False)

    def context(self, key_log: KeyLog | None) -> ssl.SSLContext:
        """The client's context.

        Raises:
            OSError: The file cannot be read, or holds no certificates.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["http/1.1"])
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca:
            if "-----BEGIN" in self.ca:
                context.load_verify_locations(cadata=self.ca)
            else:
                context.load_verify_locations(cafile=self.ca)
        _log_keys(context, key_log)
        return context


def _log_keys(context: ssl.SSLContext, key_log: KeyLog | None) -> None:
    if key_log is not None:
        context.keylog_filename = str(key_log.path)


def server_name(hello: bytes) -> str | None:
    """The name that a ClientHello asks for (RFC 8446 section 4.1.2, RFC 6066 section 3), empty if for none.

    Returns:
        ``None`` if more of it has to come.

    Raises:
        ValueError: It is no ClientHello.
    """
    message = bytearray()
    at = 0
    while True:
        if len(hello) < at + 5:
            if hello and hello[0] != 22:
                raise ValueError("not a TLS handshake")
            return None
        kind, length = hello[at], int.from_bytes(hello[at + 3 : at + 5], "big")
        if kind != 22 or length > 1 << 14:
            raise ValueError("not a TLS handshake")
        message += hello[at + 5 : at + 5 + length]
        if len(message) >= 4:
            if message[0] != 1:
                raise ValueError("not a ClientHello")
            size = 4 + int.from_bytes(message[1:4], "big")
            if len(message) >= size:
                return _find_name(bytes(message[4:size]))
        if len(hello) < at + 5 + length:
            return None
        at += 5 + length


def _find_name(body: bytes) -> str:
    at = 34  # version and random
    at += 1 + body[at]  # session
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # cipher suites
    at += 1 + body[at]  # compression
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    at += 2
    while at + 4 <= min(end, len(body)):
        kind, length = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if kind == 0:
            name = body[at + 9 : at + 9 + int.from_bytes(body[at + 7 : at + 9], "big")]
            return name.decode("ascii", "replace").lower()
        at += 4 + length
    return ""
