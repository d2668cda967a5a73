"""Replays what real resolvers sent: for the same call and the same servers, are the queries and the result the same?

The layout of a recording is told by the README of the reference data: one JSON file per call and C library, beside the
directories of DNS recordings, of which ``plain`` is the server called ``coredns``.
"""

from __future__ import annotations

import errno
import ipaddress
import json
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US, Clock
from pktsim.errors import RecordingError, UnsupportedFeature
from pktsim.kernel.task import Signal, run
from pktsim.rng import Choices, ScriptedChoices

from ..kubedns import dnsname, wire
from ..kubedns.recording import Replay, read_recording
from .client import DEFAULT_HOSTS
from .conf import parse_glibc, parse_musl
from .glibc import GlibcResolver
from .hosts import HostsFile
from .interface import AF_INET, AF_INET6, AF_UNSPEC, GaiError, HostError, Lookup
from .musl import MuslResolver

_CLIENT = "10.244.1.10"
_CLIENT_IPV6 = {"none": (), "linklocal": ("fe80::1",), "global": ("fe80::1", "fd00:10:244:1::10")}
_FIRST_SERVER = ipaddress.ip_address("10.96.0.10")
#: One way through the network, and how long a call may take before the recorder gave up.
_LATENCY_NS = 100 * NS_PER_US
_LIMIT_S = 120
#: Seconds by which a recorded time may be off: the recorder rounds to 0.1, and real programs take time.
_TOLERANCE_S = 0.35

_ZONE = {
    "web.shop.": ("10.96.20.1", "fd00:10:96::20"),
    "web.shop.svc.cluster.local.": ("10.96.20.1", "fd00:10:96::20"),
}
_TTL = 30

#: A server: for a query, over TCP or not, the answers with the delay of each in ns; ``None`` if nothing listens.
_Server = Callable[[bytes, bool], "list[tuple[int, bytes]] | None"]


class _Stub:
    """A server that knows two names, and misbehaves in one way."""

    def __init__(self, behaviour: str) -> None:
        self._behaviour = behaviour
        self._seen: set[bytes] = set()

    def __call__(self, query: bytes, tcp: bool) -> list[tuple[int, bytes]] | None:
        request = wire.unpack(query)
        question = request.question[0]
        what = self._behaviour
        kind = "a" if question.type == wire.Type.A else "aaaa"
        if what in ("closed", "tc-notcp") and (tcp or what == "closed"):
            return None
        if what == "silent" or what == f"drop-{kind}" or (what == "tc-silent-tcp" and tcp):
            return []
        if what == "drop-first" and query[12:] not in self._seen:
            self._seen.add(query[12:])
            return []
        delay_ns = 0
        if what.startswith("slow-"):
            delay_ns = int(what.removeprefix("slow-")) * NS_PER_S
        elif what == "aaaa-first" and kind == "a":
            delay_ns = 300 * NS_PER_MS
        return [(delay_ns, self._answer(request, kind, tcp))]

    def _answer(self, request: wire.Message, kind: str, tcp: bool) -> bytes:
        what = self._behaviour
        question = request.question[0]
        reply = request.reply(flags=wire.RA)
        known = _ZONE.get(dnsname.lower(question.name))
        rcode = what.removeprefix(f"{kind}-").upper()
        if rcode in ("SERVFAIL", "REFUSED", "NOTIMP", "FORMERR", "NXDOMAIN"):
            reply.rcode = wire.Rcode[rcode]
        elif what in ("cname", "cname-nodata"):
            reply.answer = [wire.RR(question.name, wire.Type.CNAME, _TTL, ("target.test.",))]
            if what == "cname":
                packed = dnsname.parse_ip("10.96.20.9" if kind == "a" else "fd00::9") or b""
                reply.answer.append(wire.a_record("target.test.", _TTL, packed))
        elif known is None and what != "nodata":
            reply.rcode = wire.Rcode.NXDOMAIN
        elif known is not None and what != "nodata" and question.type in (wire.Type.A, wire.Type.AAAA):
            addresses: Sequence[str] = [known[0] if kind == "a" else known[1]]
            if what == "many" and kind == "a":
                addresses = [f"10.96.20.{number}" for number in range(1, 61)]
                if not tcp:
                    addresses = addresses[:20]
                    reply.flags |= wire.TC
            reply.answer = [wire.a_record(question.name, _TTL, dnsname.parse_ip(one) or b"") for one in addresses]
        if what in ("tc", "tc-notcp", "tc-silent-tcp", "tc-partial") and not tcp:
            reply.flags |= wire.TC
            if what != "tc-partial":
                reply.answer = []
        if what == "no-ra":
            reply.flags &= ~wire.RA
        elif what == "wrong-id":
            reply.id ^= 1
        elif what == "wrong-question":
            reply.question[0].name = "x" + question.name[1:]
        elif what == "other-case":
            reply.question[0].name = question.name[:1].upper() + question.name[1:]
        reply.compress = True
        octets = reply.pack()
        if what == "short":
            return octets[:6]
        if what == "garbage":
            return octets[:12] + b"\x3f" * (len(octets) - 12)
        return octets


_BEHAVIOURS = frozenset(
    {"good", "closed", "silent", "drop-a", "drop-aaaa", "drop-first", "slow-3", "slow-6", "aaaa-first", "servfail",
     "refused", "notimp", "formerr", "nxdomain", "nodata", "a-nxdomain", "aaaa-nxdomain", "a-servfail",
     "aaaa-servfail", "cname", "cname-nodata", "many", "tc", "tc-notcp", "tc-silent-tcp", "tc-partial", "no-ra",
     "wrong-id", "wrong-question", "other-case", "short", "garbage"}
)  # fmt: skip


class _CoreDns:
    """The server of the ``plain`` recording."""

    def __init__(self, directory: Path) -> None:
        self._replay = Replay(read_recording(directory))

    def __call__(self, query: bytes, tcp: bool) -> list[tuple[int, bytes]] | None:
        answer = self._replay.ask(query, tcp=tcp, source=_CLIENT)
        return [] if answer is None else [(0, answer)]


@lru_cache(maxsize=2)
def _coredns(directory: Path) -> _CoreDns:
    """One server for many recordings: it keeps nothing from one question to the next."""
    return _CoreDns(directory)


@dataclass(frozen=True, slots=True)
class _Sent:
    """Something that the client sent."""

    at_s: float
    server: str
    what: tuple[Any, ...]


@dataclass(slots=True)
class _World:
    """A network of one client and its servers, as far as a resolver sees it."""

    clock: Clock
    choices: Choices
    servers: Mapping[str, _Server]
    own: tuple[str, ...]
    sent: list[_Sent] = field(default_factory=list)
    ports: int = 0

    def udp(self, family: int = AF_INET) -> _Udp:
        return _Udp(self)

    def tcp(self, family: int = AF_INET) -> _Tcp:
        return _Tcp(self)

    def new_port(self) -> int:
        self.ports += 1
        return self.ports

    def note(self, server: str, *what: Any) -> None:
        self.sent.append(_Sent(self.clock.now_ns / NS_PER_S, server, what))

    def source_for(self, address: str) -> str | None:
        parsed = ipaddress.ip_address(address)
        if parsed.is_loopback:
            return address
        if parsed.version == 4:
            return _CLIENT
        return next((one for one in self.own if not one.startswith("fe80")), None)

    def has_family(self, family: int) -> bool:
        return family == AF_INET or bool(self.own)


class _Udp:
    """A UDP socket of that network."""

    def __init__(self, world: _World) -> None:
        self.recverr = False
        self._world = world
        self._port = 0
        self._peer = ""
        self._queue: deque[tuple[bytes, str]] = deque()
        self._error = False
        self._closed = False
        self._changed = Signal()

    def bind(self, address: str = "", port: int = 0) -> None:
        pass

    def connect(self, address: str, port: int) -> None:
        self._peer = address

    def send(self, data: bytes) -> None:
        self.sendto(data, self._peer, 53)

    def sendto(self, data: bytes, address: str, port: int) -> None:
        world = self._world
        if not self._port:
            self._port = world.new_port()
        if self._error:
            self._error = False
            raise OSError(errno.ECONNREFUSED, "Connection refused")
        server = world.servers.get(address)
        if server is not None:
            world.note(address, "udp", self._port, data)
        answers = server(data, False) if server is not None else None
        if answers is None:
            if self._peer:
                world.clock.after(2 * _LATENCY_NS, self._refuse)
            return
        for delay_ns, answer in answers:
            world.clock.after(2 * _LATENCY_NS + delay_ns, partial(self._deliver, answer, address))

    def _deliver(self, octets: bytes, address: str) -> None:
        if not self._closed:
            self._queue.append((octets, address))
            self._changed.fire()

    def _refuse(self) -> None:
        self._error = True
        self._changed.fire()

    async def recvfrom(self, timeout_ns: int | None = None) -> tuple[bytes, str, int]:
        deadline_ns = self._world.clock.now_ns + (timeout_ns or 0)
        while not self._queue:
            if self._error:
                self._error = False
                raise OSError(errno.ECONNREFUSED, "Connection refused")
            left_ns = deadline_ns - self._world.clock.now_ns
            if left_ns <= 0 or not await self._changed.wait(left_ns):
                raise TimeoutError("nothing came in time")
        octets, address = self._queue.popleft()
        return octets, address, 53

    def close(self) -> None:
        self._closed = True


class _Tcp:
    """A TCP socket of that network."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._port = 0
        self._peer = ""
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._changed = Signal()
        self._connected = False

    async def connect(self, address: str, port: int, timeout_ns: int | None = None) -> None:
        world = self._world
        self._peer = address
        self._port = world.new_port()
        server = world.servers.get(address)
        if server is None:
            raise OSError(errno.ECONNREFUSED, "Connection refused")
        world.note(address, "tcp", self._port, "SYN")
        probe = wire.Message()
        probe.question = [wire.Question(".", wire.Type.A)]
        if server(probe.pack(), True) is None:
            raise OSError(errno.ECONNREFUSED, "Connection refused")
        self._connected = True

    async def sendall(self, data: bytes) -> None:
        self._outgoing += data
        world = self._world
        while len(self._outgoing) >= 2:
            length = int.from_bytes(self._outgoing[:2], "big")
            if len(self._outgoing) < 2 + length:
                break
            query = bytes(self._outgoing[2 : 2 + length])
            del self._outgoing[: 2 + length]
            world.note(self._peer, "tcp", self._port, query)
            for delay_ns, answer in world.servers[self._peer](query, True) or ():
                framed = len(answer).to_bytes(2, "big") + answer
                world.clock.after(2 * _LATENCY_NS + delay_ns, partial(self._deliver, framed))

    def _deliver(self, octets: bytes) -> None:
        self._incoming += octets
        self._changed.fire()

    async def recv(self, limit: int = 65536, timeout_ns: int | None = None) -> bytes:
        while not self._incoming:
            await self._changed.wait(timeout_ns)
        octets = bytes(self._incoming[:limit])
        del self._incoming[:limit]
        return octets

    def close(self) -> None:
        if self._connected:
            self._connected = False
            self._world.note(self._peer, "tcp", self._port, "FIN")


@dataclass(frozen=True, slots=True)
class _Result:
    """What a call came to."""

    output: list[str]
    exit: int | str
    took_s: float


def verify(path: Path) -> str | None:
    """Replay one recording.

    Returns:
        Its first difference as text; ``None`` if it agrees with one of the recorded runs.

    Raises:
        RecordingError: It cannot be read.
        UnsupportedFeature: It has a call or a server that is not known.
    """
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        call, server = str(recorded["call"]), str(recorded["server"])
        libc, resolv_conf = recorded["libc"], recorded["resolv_conf"]
    except (OSError, ValueError, KeyError) as error:
        raise RecordingError(f"cannot be read: {error}", file=str(path)) from None
    runs = [recorded]
    if isinstance(recorded.get("second_run"), dict):
        runs.append({**recorded, **recorded["second_run"]})
    differences = []
    # Where servers are used in turn, chance decides with which of them it begins.
    for first_server in (0, 1) if "rotate" in resolv_conf else (0,):
        world = _world(path, server, recorded.get("client_ipv6", "linklocal"), first_server)
        result = _run(world, call, libc, resolv_conf)
        for one in runs:
            difference = _difference(world, result, one)
            if difference is None:
                return None
            differences.append(difference)
    return differences[0]


def _world(path: Path, behaviours: str, client_ipv6: str, first_server: int) -> _World:
    servers: dict[str, _Server] = {}
    for number, behaviour in enumerate(behaviours.split("+")):
        address = str(_FIRST_SERVER + number)
        if behaviour == "coredns":
            servers[address] = _coredns(path.resolve().parent.parent / "plain")
        elif behaviour in _BEHAVIOURS:
            servers[address] = _Stub(behaviour)
        else:
            raise UnsupportedFeature(f"server {behaviour!r}", file=str(path))
    script = {"client/resolver.pipelined": lambda n: 1, "client/resolver.rotate": lambda n: first_server}
    own = _CLIENT_IPV6.get(client_ipv6)
    if own is None:
        raise UnsupportedFeature(f"client_ipv6 {client_ipv6!r}", file=str(path))
    return _World(Clock(), ScriptedChoices(script), servers, own)


def _run(world: _World, call: str, libc: str, resolv_conf: str) -> _Result:
    resolver: GlibcResolver | MuslResolver
    hosts = HostsFile(DEFAULT_HOSTS)
    if libc == "glibc":
        resolver = GlibcResolver(world, world, parse_glibc(resolv_conf), hosts, "client")
    elif libc == "musl":
        resolver = MuslResolver(world, world, parse_musl(resolv_conf), hosts, "client")
    else:
        raise UnsupportedFeature(f"libc {libc!r}")
    tool, mode, name = call.split()
    try:
        output, code = run(world.clock, _call(resolver, tool, mode, name, libc), limit_ns=_LIMIT_S * NS_PER_S)
    except TimeoutError:
        return _Result([], "timeout", _LIMIT_S)
    return _Result(output, code, world.clock.now_ns / NS_PER_S)


async def _call(
    resolver: GlibcResolver | MuslResolver, tool: str, mode: str, name: str, libc: str
) -> tuple[list[str], int]:
    """Run the recorder's own program, or ``getent``."""
    if tool == "gai":
        return await _gai(resolver, mode, name, libc)
    if tool == "getent":
        return await _getent(resolver, mode, name, libc)
    raise UnsupportedFeature(f"call {tool}")


async def _gai(resolver: GlibcResolver | MuslResolver, mode: str, name: str, libc: str) -> tuple[list[str], int]:
    if mode in ("gethostbyname", "gethostbyname6"):
        lookup = await resolver.gethostbyname(name, AF_INET6 if mode.endswith("6") else AF_INET)
        if lookup.error is not GaiError.NONE:
            return [f"h_errno {_host_error(lookup)}"], 1
        return list(lookup.addresses), 0
    families = {"v4": AF_INET, "v6": AF_INET6}
    base, _, flag = mode.partition("-")
    if base not in ("any", "v4", "v6", "canon", "numeric") or flag not in ("", "addrconfig", "passive"):
        raise UnsupportedFeature(f"gai {mode}")
    lookup = await resolver.getaddrinfo(
        name, families.get(base, AF_UNSPEC), addrconfig=flag == "addrconfig", numeric_host=base == "numeric"
    )
    if lookup.error is not GaiError.NONE:
        return [f"error {int(lookup.error)} {lookup.text}"], 1
    canonical = [f"canon {lookup.canonical}"] if base == "canon" or libc == "musl" else []
    return [*canonical, *lookup.addresses], 0


def _host_error(lookup: Lookup) -> int:
    if lookup.host_error is not HostError.NONE:
        return int(lookup.host_error)
    return {
        GaiError.NONAME: HostError.HOST_NOT_FOUND,
        GaiError.NODATA: HostError.NO_DATA,
        GaiError.AGAIN: HostError.TRY_AGAIN,
    }.get(lookup.error, HostError.NO_RECOVERY)


async def _getent(resolver: GlibcResolver | MuslResolver, mode: str, name: str, libc: str) -> tuple[list[str], int]:
    if mode == "hosts":
        return await _getent_hosts(resolver, name, libc)
    families = {"ahosts": AF_UNSPEC, "ahostsv4": AF_INET, "ahostsv6": AF_INET6}
    if mode not in families:
        raise UnsupportedFeature(f"getent {mode}")
    lookup = await resolver.getaddrinfo(name, families[mode], addrconfig=True, v4mapped=True)
    if lookup.error is not GaiError.NONE:
        return [], 2
    lines = []
    canonical = lookup.canonical
    for address in lookup.addresses:
        for kind in ("STREAM", "DGRAM", "RAW"):
            lines.append(f"{address:<15} {kind:<6} {canonical}")
            canonical = ""
    return lines, 0


async def _getent_hosts(resolver: GlibcResolver | MuslResolver, name: str, libc: str) -> tuple[list[str], int]:
    try:
        address = str(ipaddress.ip_address(name))
    except ValueError:
        lookup = await resolver.gethostbyname(name, AF_INET6)
        if lookup.error is not GaiError.NONE:
            lookup = await resolver.gethostbyname(name, AF_INET)
    else:
        lookup = await resolver.gethostbyaddr(address)
    if lookup.error is not GaiError.NONE:
        return [], 2
    return [f"{address:<15} {lookup.canonical}" for address in lookup.addresses], 0


def _difference(world: _World, result: _Result, recorded: Mapping[str, Any]) -> str | None:
    ours = _renumbered(_of_world(world.sent))
    theirs = _renumbered(_of_recording(recorded["packets"]))
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine[1:] != other[1:] or abs(mine[0] - other[0]) > _TOLERANCE_S:
            return f"packet {number + 1} sent is {_show(mine)} instead of {_show(other)}"
    if len(ours) != len(theirs):
        extra = (ours if len(ours) > len(theirs) else theirs)[min(len(ours), len(theirs))]
        return f"{len(ours)} packets sent instead of {len(theirs)}: {_show(extra)}"
    if Counter(_ends(world.sent)) != Counter(_recorded_ends(recorded["packets"])):
        return f"connections ended {_ends(world.sent)} instead of {_recorded_ends(recorded['packets'])}"
    if result.output != recorded["output"]:
        return f"output {result.output} instead of {recorded['output']}"
    if result.exit != recorded["exit"]:
        return f"exit {result.exit} instead of {recorded['exit']}"
    if abs(result.took_s - recorded["took_s"]) > _TOLERANCE_S:
        return f"took {result.took_s} s instead of {recorded['took_s']}"
    return None


#: When, to whom, how, from which port, and then what.
_Line = tuple[Any, ...]


def _of_world(sent: Sequence[_Sent]) -> list[_Line]:
    lines: list[_Line] = []
    for one in sent:
        protocol, port, what = one.what
        if what == "FIN":
            continue
        if what == "SYN":
            lines.append((one.at_s, one.server, protocol, port, "SYN"))
            continue
        assert isinstance(what, bytes)
        flags = [
            name
            for bit, name in ((wire.RD, "rd"), (wire.AD, "ad"), (wire.CD, "cd"))
            if what[2] << 8 & bit or what[3] & bit & 0xFF
        ]
        try:
            message = wire.unpack(what)
        except wire.WireError:
            lines.append((one.at_s, one.server, protocol, port, what[:2], "malformed", len(what)))
            continue
        question, opt = message.question[0], message.opt
        edns = None if opt is None else (opt.size, opt.do)
        lines.append(
            (
                one.at_s,
                one.server,
                protocol,
                port,
                what[:2],
                tuple(flags),
                question.name,
                question.type,
                edns,
                len(what),
            )
        )
    return lines


def _of_recording(packets: Sequence[Mapping[str, Any]]) -> list[_Line]:
    lines: list[_Line] = []
    for packet in packets:
        if packet["dir"] != "out" or packet["proto"] == "icmp" or packet.get("tcp") in ("FIN", "RST"):
            continue
        head = (packet["t"], packet["server"], packet["proto"], packet["port"])
        if packet.get("tcp") == "SYN":
            lines.append((*head, "SYN"))
        elif packet.get("name") is None or packet.get("error") or "undecoded" in packet:
            lines.append((*head, packet.get("id"), "malformed", packet.get("length")))
        else:
            edns = packet.get("edns")
            lines.append(
                (
                    *head, packet["id"], tuple(packet["flags"]), packet["name"], _TYPE_NUMBERS[packet["type"]],
                    None if edns is None else (edns["bufsize"], edns["do"]), packet["length"],
                )
            )  # fmt: skip
    return lines


_TYPE_NUMBERS = {"A": 1, "AAAA": 28, "PTR": 12, "CNAME": 5, "SRV": 33, "TXT": 16}


def _ends(sent: Sequence[_Sent]) -> list[str]:
    return [one.server for one in sent if one.what[2] == "FIN"]


def _recorded_ends(packets: Sequence[Mapping[str, Any]]) -> list[str]:
    return [one["server"] for one in packets if one["dir"] == "out" and one.get("tcp") == "FIN"]


def _renumbered(lines: Sequence[_Line]) -> list[_Line]:
    """Number ports and ids in the order in which they are used."""
    ports: dict[Any, int] = {}
    ids: dict[Any, int] = {}
    result: list[_Line] = []
    for line in lines:
        port = ports.setdefault((line[2], line[3]), len(ports) + 1)
        rest = line[4:]
        if rest[0] != "SYN":
            rest = (ids.setdefault(rest[0], len(ids) + 1), *rest[1:])
        result.append((*line[:3], port, *rest))
    return result


def _show(line: _Line) -> str:
    return " ".join(str(part) for part in line)
