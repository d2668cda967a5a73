"""Questions and answers of DNS, read from the frames that an interface saw.

A resolver is told by what it puts on the wire: which names, in which order, from which port, to whom, how often, and
what comes back. Retransmitted queries are questions of their own here, as they are on the wire.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import dns.rcode

from pktsim.clock import NS_PER_MS
from pktsim.kernel.capture import CapturedFrame
from pktsim.wire.addr import ip_to_text
from pktsim.wire.frame import IPPROTO_TCP, IPPROTO_UDP, FrameView

from .kubedns import wire
from .resolver.dig import record_data, type_text

_PORT = 53
#: Two octets before each message of a stream.
_LENGTH_OCTETS = 2
_ID_OCTETS = 2
_SEQUENCE = 1 << 32


@dataclass(frozen=True, slots=True)
class DnsExchange:
    """One query, and the first answer to it.

    Attributes:
        at_ns: When the query left.
        client: Address and port that it left from.
        server: Address that it was sent to.
        tcp: Whether over TCP.
        id: The message's.
        name: With the dot at its end.
        rrtype: As text.
        answered_by: The spaces that got the query as their own, such as ``kube-system/coredns``; several if it went on
            to another server.
        answered_ns: When the answer came; ``None`` if none did.
        rcode: As text; empty without an answer.
        truncated: Whether the answer has TC.
        size: Octets of the answer.
        answers: Data of the records in the answer section, each behind its type.
    """

    at_ns: int
    client: tuple[str, int]
    server: str
    tcp: bool
    id: int
    name: str
    rrtype: str
    answered_by: tuple[str, ...] = ()
    answered_ns: int | None = None
    rcode: str = ""
    truncated: bool = False
    size: int = 0
    answers: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """Name and type."""
        return f"{self.name} {self.rrtype}"

    @property
    def outcome(self) -> str:
        """What came of it: ``timeout``, ``NXDOMAIN``, ``NOERROR 2``, ``NOERROR 0 truncated``."""
        if self.answered_ns is None:
            return "timeout"
        count = f" {len(self.answers)}" if self.rcode == "NOERROR" else ""
        return f"{self.rcode}{count}{' truncated' if self.truncated else ''}"

    def text(self) -> str:
        """One line: ``web.default.svc.cluster.local. A @172.30.0.10 udp 40000: NOERROR 1 (0.4 ms)``."""
        protocol = "tcp" if self.tcp else "udp"
        took = "" if self.answered_ns is None else f" ({(self.answered_ns - self.at_ns) / NS_PER_MS:.3f} ms)"
        return f"{self.question} @{self.server} {protocol} from port {self.client[1]}: {self.outcome}{took}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A message on the wire."""

    at_ns: int
    source: tuple[str, int]
    target: tuple[str, int]
    tcp: bool
    outgoing: bool
    octets: bytes

    @property
    def key(self) -> tuple[object, ...]:
        """The same for a query and for its answer."""
        ends = (self.source, self.target) if self.target[1] == _PORT else (self.target, self.source)
        return (*ends, self.tcp, self.octets[:2])


def dns_exchanges(frames: Sequence[CapturedFrame], space: str) -> list[DnsExchange]:
    """What a space asked, and what it heard, in order.

    Args:
        frames: Of all spaces, in order.
        space: ``namespace/name`` of a pod, a node or ``outside``: whoever asks.
    """
    messages = list(_messages(frame for frame in frames if frame.space == space and frame.interface == "eth0"))
    asked = {seen.octets for seen in messages if seen.outgoing and seen.target[1] == _PORT}
    receivers = _receivers(frames, space, asked)
    waiting: dict[tuple[object, ...], list[int]] = {}
    found: list[DnsExchange] = []
    for seen in messages:
        try:
            message = wire.unpack(seen.octets)
        except wire.WireError as error:
            if error.message is None:
                continue
            message = error.message
        if not message.flags & wire.QR:
            if not seen.outgoing or seen.target[1] != _PORT or not message.question:
                continue
            question = message.question[0]
            waiting.setdefault(seen.key, []).append(len(found))
            found.append(
                DnsExchange(
                    seen.at_ns,
                    seen.source,
                    seen.target[0],
                    seen.tcp,
                    message.id,
                    question.name,
                    type_text(question.type),
                    receivers.get((seen.tcp, seen.octets), ()),
                )
            )
            continue
        numbers = waiting.get(seen.key)
        if not seen.outgoing and seen.source[1] == _PORT and numbers:
            # A resolver that repeats a query keeps its id: what comes now is for the last one.
            number = numbers.pop()
            found[number] = _answered(found[number], seen, message)
    return found


def _answered(asked: DnsExchange, seen: _Seen, message: wire.Message) -> DnsExchange:
    return DnsExchange(
        asked.at_ns,
        asked.client,
        asked.server,
        asked.tcp,
        asked.id,
        asked.name,
        asked.rrtype,
        asked.answered_by,
        seen.at_ns,
        dns.rcode.to_text(dns.rcode.Rcode(message.rcode)),
        bool(message.flags & wire.TC),
        len(seen.octets),
        tuple(f"{type_text(record.type)} {record_data(record)}" for record in message.answer),
    )


def _receivers(
    frames: Iterable[CapturedFrame], asker: str, asked: Collection[bytes]
) -> dict[tuple[bool, bytes], tuple[str, ...]]:
    """Which servers got a query.

    Addresses are rewritten on the way, messages are not; a server that asks another one gives the message its own id.
    """
    direct: dict[tuple[bool, bytes], list[str]] = {}
    onward: dict[bytes, list[str]] = {}
    spaces: dict[str, list[CapturedFrame]] = {}
    for frame in frames:
        # Servers are pods and hosts: what passes a node is on its way.
        if frame.space != asker and frame.interface == "eth0" and ("/" in frame.space or frame.space == "outside"):
            spaces.setdefault(frame.space, []).append(frame)
    for space, seen_there in spaces.items():
        for seen in _messages(frame for frame in seen_there if frame.direction == "in"):
            if seen.target[1] == _PORT and seen.octets in asked:
                direct.setdefault((seen.tcp, seen.octets), []).append(space)
            elif seen.target[1] == _PORT:
                onward.setdefault(seen.octets[_ID_OCTETS:], []).append(space)
    return {
        key: tuple(dict.fromkeys((*servers, *onward.get(key[1][_ID_OCTETS:], ())))) for key, servers in direct.items()
    }


def _messages(frames: Iterable[CapturedFrame]) -> Iterator[_Seen]:
    """The messages to and from port 53 that an interface saw."""
    streams: dict[tuple[object, ...], _Stream] = {}
    for frame in frames:
        view = FrameView(frame.frame)
        if not view.has_ports or _PORT not in (view.sport, view.dport):
            continue
        outgoing = frame.direction == "out"
        source, target = (ip_to_text(view.saddr), view.sport), (ip_to_text(view.daddr), view.dport)
        if view.protocol == IPPROTO_UDP:
            yield _Seen(frame.at_ns, source, target, False, outgoing, view.payload)
        elif view.protocol == IPPROTO_TCP:
            stream = streams.setdefault((source, target), _Stream())
            for octets in stream.take(view):
                yield _Seen(frame.at_ns, source, target, True, outgoing, octets)


class _Stream:
    """One direction of a connection, put in order."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._later: dict[int, bytes] = {}
        self._octets = bytearray()

    def take(self, view: FrameView) -> Iterator[bytes]:
        """Take a segment; yields the messages that it completes."""
        payload, flags = view.payload, view.tcp_flags
        if flags & flags.SYN:
            self._next, self._later, self._octets = (view.tcp_seq + 1) % _SEQUENCE, {}, bytearray()
            return
        if self._next is None or not payload:
            return
        self._later.setdefault(view.tcp_seq, payload)
        while self._next in self._later:
            piece = self._later.pop(self._next)
            self._octets += piece
            self._next = (self._next + len(piece)) % _SEQUENCE
        while len(self._octets) >= _LENGTH_OCTETS:
            end = _LENGTH_OCTETS + int.from_bytes(self._octets[:_LENGTH_OCTETS], "big")
            if len(self._octets) < end:
                return
            yield bytes(self._octets[_LENGTH_OCTETS:end])
            del self._octets[:end]
