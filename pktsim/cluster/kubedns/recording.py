"""Replays what a real CoreDNS answered: for the same Corefile, objects and queries, are the answers the same octets?

The layout of a recording is told by the README of the reference data: one directory with ``Corefile``,
``objects.yaml``, ``queries.yaml`` and ``answers.jsonl``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pktsim.clock import NS_PER_S, Clock
from pktsim.errors import RecordingError
from pktsim.kernel.task import Signal, run, sleep, spawn
from pktsim.rng import ScriptedChoices

from ..loader import load_objects
from ..objects import KubeObject
from ..objects_nodes import Namespace
from ..store import ObjectStore
from .corefile import parse_corefile
from .plugin import Ask, Failure, Pause, Work
from .server import DnsServer, ServerConfig
from .service import serve_connection
from .upstream import Upstream
from .wire import QR, RR, Message, Opt, WireError, unpack

_OWN_ADDRESS = "10.244.0.5"
_CLIENT = "10.244.1.10"
_RESOLV_CONF = "nameserver 192.0.2.53\n"
_UPSTREAM = "192.0.2.53"
#: Seconds after which a missing answer counts as none, and which pass after the objects have changed.
_TIMEOUT_S = 3.0
_AFTER_CHANGE_S = 1.2
#: The question of health checks, which the recorder left out: ``. IN NS``.
_HEALTH_CHECK = bytes.fromhex("0000020001")
#: What a refused datagram takes to come back.
_REFUSED_NS = 100_000
#: No order that chance decides is anything but the plain one, so that answers can be compared with those of a server
#: without ``loadbalance``.
_PLAIN_ORDER = {
    "kube-dns/loadbalance/swap": lambda n: 1,
    "kube-dns/loadbalance/shuffle": lambda n: 0,
    "kube-dns/kubernetes/slices": lambda n: 0,
    "kube-dns/kubernetes/services": lambda n: 0,
}


@dataclass(frozen=True, slots=True)
class DnsRecording:
    """One directory of a recording.

    Attributes:
        queries: Queries with the answers they got, in order.
    """

    path: Path
    corefile: str
    upstreams: Mapping[str, Upstream]
    config: ServerConfig
    queries: tuple[tuple[dict[str, Any], dict[str, Any]], ...]


@dataclass(slots=True)
class _Client:
    """The client's end of a TCP connection: what it sends at which times, and what comes back."""

    clock: Clock
    received: bytearray = field(default_factory=bytearray)
    answered_ns: int = 0
    closed_ns: int | None = None
    ended: bool = False
    _pending: bytearray = field(default_factory=bytearray)
    _changed: Signal = field(default_factory=Signal)

    def feed(self, octets: bytes) -> None:
        self._pending += octets
        self._changed.fire()

    def end(self) -> None:
        self.ended = True
        self._changed.fire()

    async def recv(self, limit: int = 65536, timeout_ns: int | None = None) -> bytes:
        while not self._pending and not self.ended:
            if not await self._changed.wait(timeout_ns):
                raise TimeoutError("nothing came in time")
        octets = bytes(self._pending[:limit])
        del self._pending[:limit]
        return octets

    async def sendall(self, data: bytes) -> None:
        self.received += data
        self.answered_ns = self.clock.now_ns

    def close(self) -> None:
        if not self.ended:
            self.closed_ns = self.clock.now_ns


def read_recording(path: Path) -> DnsRecording:
    """Read a directory.

    Raises:
        RecordingError: It is not such a recording.
    """
    try:
        document = yaml.load((path / "queries.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
        lines = (path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        answers = [json.loads(line) for line in lines if line.strip()]
        corefile = (path / "Corefile").read_text(encoding="utf-8")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecordingError(f"cannot be read: {error}", file=str(path)) from None
    queries = document.get("queries") or []
    if [query["id"] for query in queries] != [answer["id"] for answer in answers]:
        raise RecordingError("queries.yaml and answers.jsonl tell of different queries", file=str(path))
    server = document.get("server") or {}
    addresses = tuple(text.partition("/")[0] for text in server.get("addresses") or [_OWN_ADDRESS])
    config = ServerConfig(addresses=addresses, resolv_conf=server.get("resolv_conf", _RESOLV_CONF))
    upstreams = {
        one.get("address", _UPSTREAM): Upstream.of(
            one.get("records") or (),
            rcodes=one.get("rcodes"),
            truncate=one.get("truncate") or (),
            silent=one.get("silent") or (),
            running=one.get("running", True),
        )
        for one in document.get("upstream") or []
    }
    return DnsRecording(path, corefile, upstreams, config, tuple(zip(queries, answers, strict=True)))


def read_objects(path: Path) -> list[KubeObject]:
    """The objects of a file, and the namespaces that they use without listing them."""
    objects = load_objects(path, check=False)
    listed = {found.name for found in objects if isinstance(found, Namespace)}
    used = {found.namespace for found in objects if found.namespace} - listed
    implied = [f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n" for name in sorted(used)]
    return [*objects, *(load_objects("---\n".join(implied), check=False) if implied else ())]


class Replay:
    """A server as in a recording, and what drives it."""

    def __init__(self, recording: DnsRecording) -> None:
        self.recording = recording
        self.clock = Clock()
        self.server = DnsServer(
            parse_corefile(recording.corefile, str(recording.path / "Corefile")),
            self.clock,
            ScriptedChoices(_PLAIN_ORDER),
            recording.config,
        )
        self.server.spawn = lambda work: _spawned(self, work)
        self.store = ObjectStore()
        self.store.apply_all(read_objects(recording.path / "objects.yaml"))
        self.server.watch(self.store, self.clock)
        self.asked: list[Ask] = []

    def differences(self) -> Iterator[str]:
        """Each query whose answer differs, as text."""
        changed_ns = 0
        for query, answer in self.recording.queries:
            if "objects" in query:
                self.store.replace(read_objects(self.recording.path / query["objects"]))
                changed_ns = round(_AFTER_CHANGE_S * NS_PER_S)
                continue
            at_ns = round(answer["at"] * NS_PER_S)
            self.clock.run_until(max(at_ns, self.clock.now_ns + changed_ns))
            changed_ns = 0
            self.asked.clear()
            for difference in self._compare(query, answer):
                yield f"{query['id']}: {difference}"

    def ask(self, octets: bytes, *, tcp: bool, source: str) -> bytes | None:
        """Send a query and wait for the answer."""

        async def exchange() -> bytes | None:
            work = self.server.handle(octets, tcp=tcp, source=source)
            try:
                request = next(work)
            except StopIteration as stop:
                result: bytes | None = stop.value
                return result
            return await self.drive(work, request, foreground=True)

        return run(self.clock, exchange())

    async def drive(
        self, work: Work[bytes | None] | Work[None], request: Ask | Pause, *, foreground: bool = False
    ) -> bytes | None:
        """Carry out what the server asks for."""
        while True:
            answer: bytes | Failure = Failure.TIMEOUT
            if isinstance(request, Pause):
                await sleep(self.clock, request.duration_ns)
            else:
                if foreground:
                    self.asked.append(request)
                answer = await self._upstream(request)
            try:
                request = work.send(answer)
            except StopIteration as stop:
                result: bytes | None = stop.value
                return result

    async def _upstream(self, ask: Ask) -> bytes | Failure:
        upstream = self.recording.upstreams.get(ask.address)
        if upstream is None or not upstream.running:
            await sleep(self.clock, _REFUSED_NS)
            return Failure.REFUSED
        answer = upstream.answer(ask.query, tcp=ask.tcp)
        if answer is None:
            await sleep(self.clock, ask.timeout_ns)
            return Failure.TIMEOUT
        return answer

    def _compare(self, query: Mapping[str, Any], recorded: Mapping[str, Any]) -> Iterator[str]:
        tcp = query.get("proto", "udp") == "tcp"
        source = str(query.get("src") or (_CLIENT if ":" not in str(query.get("dst", "")) else "fd00:10:244:1::10"))
        if "tcp_chunks" in query or query.get("until_close"):
            yield from self._compare_connection(query, recorded, source)
            return
        octets = bytes.fromhex(recorded["query_wire"])
        ours = self.ask(octets, tcp=tcp, source=source)
        wanted = recorded["response_wire"]
        if wanted is None or ours is None:
            if wanted is not None or ours is not None:
                yield f"{_show(ours)} instead of {_show(None if wanted is None else bytes.fromhex(wanted))}"
        else:
            yield from _differences(ours, recorded, lambda: self.ask(octets, tcp=True, source=source))
        if not recorded.get("upstream_varies"):
            yield from self._compare_upstream(recorded)

    def _compare_upstream(self, recorded: Mapping[str, Any]) -> Iterator[str]:
        wanted = [(one["to"], one["proto"], one["wire_after_id"]) for one in recorded.get("upstream_queries") or []]
        ours = [
            (ask.address, "tcp" if ask.tcp else "udp", ask.query[2:].hex())
            for ask in self.asked
            if ask.query[12:] != _HEALTH_CHECK
            and (upstream := self.recording.upstreams.get(ask.address)) is not None
            and upstream.running
        ]
        if ours != wanted:
            yield f"asked of others: {ours} instead of {wanted}"

    def _compare_connection(self, query: Mapping[str, Any], recorded: Mapping[str, Any], source: str) -> Iterator[str]:
        raw = bytes.fromhex(query.get("raw") or "")
        chunks: Sequence[str | float] = query.get("tcp_chunks", [(len(raw).to_bytes(2, "big") + raw).hex()])
        timeout_ns = round(float(query.get("timeout", _TIMEOUT_S)) * NS_PER_S)
        client = _Client(self.clock)

        async def session() -> None:
            spawn(self.clock, serve_connection(self.server, self.clock, client, source, self.drive))
            for chunk in chunks:
                if isinstance(chunk, str):
                    client.feed(bytes.fromhex(chunk))
                else:
                    await sleep(self.clock, round(chunk * NS_PER_S))
            await sleep(self.clock, timeout_ns)
            client.end()

        run(self.clock, session())
        answers, rest = [], bytes(client.received)
        while rest:
            length = int.from_bytes(rest[:2], "big")
            answers.append(rest[2 : 2 + length])
            rest = rest[2 + length :]
        wanted = recorded.get("response_wires") or [one for one in [recorded.get("response_wire")] if one]
        if len(answers) != len(wanted):
            yield f"{len(answers)} answers on the connection instead of {len(wanted)}"
            return
        several = "response_wires" in recorded
        for number, (ours, theirs) in enumerate(zip(answers, wanted, strict=True)):
            one = dict(recorded, response_wire=theirs)
            if several:
                one["unstable"] = _unstable_serials(theirs)
            for difference in _differences(ours, one, lambda: None):
                yield f"answer {number + 1}: {difference}"
        closed_s = None if client.closed_ns is None else (client.closed_ns - client.answered_ns) / NS_PER_S
        wanted_s = recorded.get("closed_after_s")
        if wanted_s is not None and client.answered_ns == 0:
            closed_s = None if client.closed_ns is None else float(wanted_s)
        if (closed_s is None) != (wanted_s is None) or (wanted_s is not None and abs((closed_s or 0) - wanted_s) > 0.5):
            yield f"closed after {closed_s} s instead of {wanted_s}"


def _spawned(replay: Replay, work: Work[None]) -> None:
    async def finish() -> None:
        try:
            request = next(work)
        except StopIteration:
            return
        await replay.drive(work, request)

    spawn(replay.clock, finish())


def _unstable_serials(wire: str) -> list[dict[str, int]]:
    """Where the serials of SOA records are in a message without compression."""
    message = unpack(bytes.fromhex(wire))
    found = []
    for record in message.authority:
        for part in record.data:
            if record.type == 6 and isinstance(part, bytes):
                offset = bytes.fromhex(wire).rfind(part)
                found.append({"offset": offset, "length": 4})
    return found


def _show(octets: bytes | None) -> str:
    return "no answer" if octets is None else octets.hex()


def _differences(ours: bytes, recorded: Mapping[str, Any], full: Any) -> Iterator[str]:
    theirs = bytes.fromhex(recorded["response_wire"])
    unordered = recorded.get("order") in ("shuffled", "random")
    masked_ours, masked_theirs = ours, theirs
    for span in recorded.get("unstable") or ():
        begin, end = span["offset"], span["offset"] + span["length"]
        masked_ours = masked_ours[:begin] + bytes(len(masked_ours[begin:end])) + masked_ours[end:]
        masked_theirs = masked_theirs[:begin] + bytes(end - begin) + masked_theirs[end:]
    if masked_ours == masked_theirs:
        return
    if recorded.get("varies") and ours.hex() in json.dumps(recorded.get("other_runs")):
        return
    if recorded.get("order") == "shuffled" and recorded.get("unshuffled_order") != "random":
        plain = recorded.get("unshuffled_wire")
        if plain is not None and ours.hex() != plain and not recorded.get("subset"):
            yield f"{ours.hex()} instead of {plain}"
        return
    if not unordered:
        yield f"{ours.hex()} instead of {theirs.hex()}"
        return
    try:
        own, other = unpack(ours), unpack(theirs)
    except WireError as error:
        yield f"cannot be read: {error}"
        return
    if _head(own) != _head(other):
        yield f"header, question or EDNS {_head(own)} instead of {_head(other)}"
    elif recorded.get("subset"):
        whole = full()
        if whole is None:
            yield "no whole answer to compare a part with"
            return
        right = {_key(record) for record in _records(unpack(whole))}
        wrong = [record for record in _records(other) if _key(record) not in right]
        if wrong:
            yield f"{wrong[0]} is not among the answers"
    elif len(ours) != len(theirs):
        yield f"{len(ours)} octets instead of {len(theirs)}: {ours.hex()} instead of {theirs.hex()}"
    else:
        for name in ("answer", "authority", "additional"):
            mine: list[RR] = getattr(own, name)
            if Counter(map(_key, mine)) != Counter(map(_key, getattr(other, name))):
                yield f"{name} {mine} instead of {getattr(other, name)}"


def _head(message: Message) -> tuple[object, ...]:
    opt = message.opt
    questions = [(question.name, question.type, question.cls) for question in message.question]
    return (message.id, message.flags | QR, message.opcode, message.rcode, questions, opt.key() if opt else None)


def _records(message: Message) -> list[RR]:
    records = [*message.answer, *message.authority, *message.additional]
    return [record for record in records if not isinstance(record, Opt)]


def _key(record: RR) -> object:
    return record.key()


def verify(path: Path) -> str | None:
    """Replay one recording.

    Returns:
        Its first differences as text; ``None`` if all answers agree.

    Raises:
        RecordingError: It cannot be read.
        UnsupportedFeature: Its Corefile or objects have something that is not modelled.
    """
    differences = list(Replay(read_recording(path)).differences())
    if not differences:
        return None
    first = "; ".join(text if len(text) <= 600 else text[:597] + "..." for text in differences[:3])
    return f"{len(differences)} of the answers differ: {first}"
