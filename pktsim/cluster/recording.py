"""Reading recordings of real clusters: what was built, what was run, and what then was on the wires.

A cluster is a directory with ``topology.yaml``, ``objects.yaml`` and ``iptables-save-NODE.txt``; below it each
action is a directory with ``action.yaml``, ``frames.jsonl.gz``, ``conntrack.txt`` and ``counters.txt``. Whatever these
files say that is not known here is refused by name: it could change what should be on the wires.
:mod:`pktsim.cluster.replay` runs them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from pktsim.cluster.commands import Client, Command, parse_command
from pktsim.cluster.comparison import FIRST_EPHEMERAL_PORT, Fixed, NodeCounters
from pktsim.cluster.comparison_types import Seen
from pktsim.cluster.wiring import Interface, Space, WarmFdb, WarmNeighbour, Wiring
from pktsim.errors import FrameError, RecordingError, UnsupportedFeature
from pktsim.wire.addr import ip_to_text
from pktsim.wire.checksum import pseudo_header_sum, transport_checksum
from pktsim.wire.frame import ETH_HLEN, ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, IPPROTO_UDP, FrameView, TcpFlag

TOPOLOGY_FILE = "topology.yaml"
OBJECTS_FILE = "objects.yaml"
ACTION_FILE = "action.yaml"
FRAMES_FILE = "frames.jsonl.gz"
CONNTRACK_FILE = "conntrack.txt"
COUNTERS_FILE = "counters.txt"

HTTP_PORT = 8080
ECHO_PORT = 8081
DNS_PORT = 53

LOOPBACK = "lo"
IPV6_HLEN = 40
#: Where TCP and UDP have their checksum.
_CHECKSUM_AT = {IPPROTO_TCP: 16, IPPROTO_UDP: 6}

#: ``servers`` of the topology; another text would mean other servers.
_SERVERS = {"http": "TCP 8080 in every pod but coredns, and outside", "echo": "UDP 8081, same places"}
_FORBID: dict[str, object] = {"extra": "forbid"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _SpaceDocument:
    """``spaces.NAME`` of ``topology.yaml``: a :class:`Space` without its name."""

    role: str
    node: str = ""
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[str, ...] = ()
    sysctls: Mapping[str, str | int] = field(default_factory=dict)
    permanent_neighbours: tuple[str, ...] = ()
    vxlan_fdb: tuple[str, ...] = ()

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID


@dataclass(frozen=True, slots=True)
class _TopologyDocument:
    """``topology.yaml`` as it is written."""

    cluster: str
    wiring: str
    masquerade: str
    pod_cidr: str
    bridge_nf_call_iptables: int
    sysctls_everywhere: Mapping[str, str | int]
    spaces: Mapping[str, _SpaceDocument]
    pod_resolv_conf: str
    corefile: str
    servers: Mapping[str, str]
    warm_neighbours: tuple[WarmNeighbour, ...]
    warm_bridge_fdb: tuple[WarmFdb, ...]

    __pydantic_config__: ClassVar[dict[str, object]] = _FORBID


@dataclass(frozen=True, slots=True)
class Topology:
    """A recorded cluster before anything happens."""

    cluster: str
    wiring: Wiring
    pod_cidr: str
    resolv_conf: str
    corefile: str

    @property
    def servers(self) -> tuple[Space, ...]:
        """The spaces that serve HTTP and echo."""
        return tuple(
            space
            for space in self.wiring.spaces
            if space.role == "outside" or (space.role == "pod" and not is_dns_pod(space.name))
        )

    @property
    def dns_pods(self) -> tuple[Space, ...]:
        """The spaces that serve DNS."""
        return tuple(space for space in self.wiring.with_role("pod") if is_dns_pod(space.name))


def is_dns_pod(name: str) -> bool:
    """Whether the recordings run CoreDNS in the pod of that name."""
    return name == "coredns" or name.startswith("coredns-")


@dataclass(frozen=True, slots=True)
class Run:
    """One command of an action.

    Attributes:
        space: Where it ran.
        start_s: When, on the frames' clock.
        exit: The exit status.
        output: What it printed.
    """

    space: str
    line: str
    command: Command
    exit: int
    start_s: float
    output: str


@dataclass(frozen=True)
class Action:
    """One recorded action. Its frames and tables are read when they are asked for."""

    directory: Path
    name: str
    warm: bool
    runs: tuple[Run, ...]
    endpoints_drawn: tuple[str, ...] = ()
    first_fin: str = ""
    before: tuple[str, ...] = ()

    @cached_property
    def frames(self) -> tuple[Seen, ...]:
        """All frames, in the order in which the kernel handled them."""
        return tuple(read_frames(self.directory / FRAMES_FILE))

    @cached_property
    def conntrack(self) -> Mapping[str, tuple[str, ...]]:
        """Node to the lines of its table."""
        return read_conntrack(self.directory / CONNTRACK_FILE)

    @cached_property
    def counters(self) -> Mapping[str, NodeCounters]:
        """Node to the rule counters that moved."""
        return read_counters(self.directory / COUNTERS_FILE)

    @cached_property
    def fixed(self) -> Fixed:
        """Which ports and echo identifiers are no chance in this action."""
        commands = [run.command for run in self.runs]
        ports = {port for command in commands for port in command.ports if port}
        pings = any(isinstance(command, Client) and command.kind == "ping" for command in commands)
        drawn = set()
        for lines in self.conntrack.values():
            for line in lines:
                flow = parse_entry(line)
                port = flow.reply_dport
                if port is not None and port != flow.sport and port not in ports:
                    drawn.add(port)
        # Of a connection that was refused, or whose ports were used again, no table tells any more.
        openings = filter(None, (opening_of(seen.frame) for seen in self.frames))
        drawn |= {opening.sport for opening in openings} - ports
        return Fixed(
            ports=frozenset(ports | {HTTP_PORT, ECHO_PORT, DNS_PORT}),
            icmp_idents=frozenset((PING_IDENT,)) if pings else frozenset(),
            masqueraded=frozenset(port for port in drawn if port < FIRST_EPHEMERAL_PORT),
        )

    @property
    def end_s(self) -> float:
        """When the last frame was seen."""
        return max((seen.at_s for seen in self.frames), default=0.0)


#: The identifier of the recordings' pings.
PING_IDENT = 0x1234


@dataclass(frozen=True, slots=True)
class Flow:
    """The tuples of one line of ``conntrack -L``: both directions, ports ``None`` where the protocol has none."""

    protocol: str
    src: str
    dst: str
    sport: int | None
    dport: int | None
    reply_src: str
    reply_dst: str
    reply_sport: int | None
    reply_dport: int | None


@dataclass(frozen=True, slots=True)
class Opening:
    """The SYN that begins a connection."""

    src: str
    dst: str
    sport: int
    dport: int
    isn: int


def opening_of(frame: bytes) -> Opening | None:
    """The SYN that a frame is, not one in a tunnel; ``None`` if it is something else."""
    try:
        view = FrameView(frame)
    except FrameError:
        return None
    if (
        view.protocol != IPPROTO_TCP
        or not view.has_ports
        or view.tcp_flags & (TcpFlag.SYN | TcpFlag.ACK) != TcpFlag.SYN
    ):
        return None
    src, dst = ip_to_text(view.saddr), ip_to_text(view.daddr)
    return Opening(src, dst, view.sport, view.dport, view.tcp_seq)


def parse_entry(line: str) -> Flow:
    """Read the tuples of a line of ``conntrack -L -o extended``.

    Raises:
        RecordingError: It is none.
    """
    words = line.split()
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    try:
        (src, reply_src), (dst, reply_dst) = found["src"][:2], found["dst"][:2]
        sports: list[int | None] = [int(port) for port in found.get("sport", ())] or [None, None]
        dports: list[int | None] = [int(port) for port in found.get("dport", ())] or [None, None]
        return Flow(words[2], src, dst, sports[0], dports[0], reply_src, reply_dst, sports[1], dports[1])
    except (KeyError, ValueError, IndexError):
        raise RecordingError("not a line of conntrack -L -o extended", place=line) from None


def with_finished_checksum(frame: bytes) -> bytes:
    """A frame as it would be on a wire: on ``lo`` a TCP or UDP packet has the sum of its pseudo header there."""
    try:
        view = FrameView(frame)
    except FrameError:
        return frame
    at = _CHECKSUM_AT.get(view.protocol)
    if at is None or view.is_fragment:
        return frame
    if view.ethertype == ETH_P_IP:
        start = ETH_HLEN + (frame[ETH_HLEN] & 15) * 4
        end = ETH_HLEN + int.from_bytes(frame[16:18], "big")
    elif view.ethertype == ETH_P_IPV6 and frame[20] == view.protocol:
        start = ETH_HLEN + IPV6_HLEN
        end = start + int.from_bytes(frame[18:20], "big")
    else:
        return frame
    segment = frame[start:end]
    if int.from_bytes(segment[at : at + 2], "big") != pseudo_header_sum(
        view.saddr, view.daddr, view.protocol, len(segment)
    ):
        return frame
    empty = segment[:at] + bytes(2) + segment[at + 2 :]
    value = transport_checksum(view.saddr, view.daddr, view.protocol, empty)
    return frame[: start + at] + value.to_bytes(2, "big") + frame[start + at + 2 :]


def read_frames(path: Path) -> list[Seen]:
    """Read ``frames.jsonl.gz``.

    Raises:
        RecordingError: It cannot be read.
    """
    frames = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    one = json.loads(line)
                    frame = bytes.fromhex(one["hex"])
                    if one["if"] == LOOPBACK:
                        frame = with_finished_checksum(frame)
                    frames.append(Seen(float(one["t"]), one["ns"], one["if"], one["dir"], frame))
                except (ValueError, KeyError, TypeError) as error:
                    raise RecordingError(f"not a recorded frame: {error}", file=str(path), line=number) from None
    except (OSError, EOFError) as error:
        raise RecordingError(f"cannot be read: {error}", file=str(path)) from None
    return frames


def read_conntrack(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``conntrack.txt``: ``== NODE ==`` and the lines of its table, for each node."""
    tables: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if line.startswith("== ") and line.endswith(" =="):
            current = tables.setdefault(line[3:-3], [])
        elif line.strip():
            if current is None:
                raise RecordingError("an entry before the first == NODE ==", file=str(path), line=number)
            current.append(line)
    return {node: tuple(lines) for node, lines in tables.items()}


def read_counters(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Read ``counters.txt``: node, ``table/CHAIN/n`` or ``table/CHAIN/policy``, packets, bytes."""
    counters: dict[str, dict[str, tuple[int, int]]] = {}
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if line.strip():
            try:
                node, rule, packets, octets = line.split()
                counters.setdefault(node, {})[rule] = (int(packets), int(octets))
            except ValueError:
                raise RecordingError("not NODE RULE PACKETS BYTES", file=str(path), line=number) from None
    return counters


def load_topology(directory: Path) -> Topology:
    """Read ``topology.yaml`` of a cluster.

    Raises:
        RecordingError: It does not have that file's form.
        UnsupportedFeature: It says something that is not modelled.
    """
    path = directory / TOPOLOGY_FILE
    document = _validate(_TopologyDocument, _read_yaml(path), path)
    for kind, text in document.servers.items():
        if _SERVERS.get(kind) != text:
            raise UnsupportedFeature(f"server {kind}: {text}", file=str(path), place="servers")
    spaces = tuple(
        Space(
            name,
            space.role,
            space.node,
            space.interfaces,
            space.routes,
            space.sysctls,
            space.permanent_neighbours,
            space.vxlan_fdb,
        )
        for name, space in document.spaces.items()
    )
    wiring = Wiring(spaces, document.sysctls_everywhere, document.warm_neighbours, document.warm_bridge_fdb)
    return Topology(document.cluster, wiring, document.pod_cidr, document.pod_resolv_conf, document.corefile)


_ACTION_KEYS = frozenset(("name", "about", "neighbours", "runs", "endpoints_drawn", "frames", "first_fin", "before"))
_RUN_KEYS = frozenset(("from", "command", "exit", "start", "output"))


def load_action(directory: Path) -> Action:
    """Read ``action.yaml`` of an action.

    Raises:
        RecordingError: It does not have that file's form.
        UnsupportedFeature: It says something that is not modelled.
    """
    path = directory / ACTION_FILE
    data = _read_yaml(path)
    _known(data, _ACTION_KEYS, path, "")
    runs = []
    try:
        if data["neighbours"] not in ("warm", "cold"):
            raise UnsupportedFeature(f"neighbours: {data['neighbours']}", file=str(path), mend="warm or cold")
        for number, run in enumerate(data["runs"]):
            _known(run, _RUN_KEYS, path, f"runs[{number}]")
            command = parse_command(run["command"], file=str(path))
            runs.append(
                Run(run["from"], run["command"], command, int(run["exit"]), float(run["start"]), str(run["output"]))
            )
        return Action(
            directory,
            str(data["name"]),
            data["neighbours"] == "warm",
            tuple(runs),
            tuple(data.get("endpoints_drawn") or ()),
            str(data.get("first_fin") or ""),
            tuple(data.get("before") or ()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordingError(f"not an action: {error!r}", file=str(path)) from None


def find_actions(directory: Path) -> list[Path]:
    """The actions of the cluster at ``directory``, by name."""
    return sorted(path.parent for path in directory.glob(f"*/{ACTION_FILE}"))


def rules_file(directory: Path, node: str, *, ipv6: bool = False) -> Path | None:
    """The rules that were recorded of a node, if there are any of that family."""
    path = directory / f"iptables-save-{node}.txt"
    return path if path.exists() else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"cannot be read: {error}", file=str(path)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    loader: Callable[..., Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(_read_text(path), Loader=loader)  # type: ignore[arg-type]
    except yaml.YAMLError as error:
        raise RecordingError(f"not YAML: {error}", file=str(path)) from None
    if not isinstance(data, dict):
        raise RecordingError("not a mapping", file=str(path))
    return data


def _known(data: Mapping[str, object], keys: frozenset[str], path: Path, place: str) -> None:
    unknown = sorted(data.keys() - keys)
    if unknown:
        raise UnsupportedFeature(f"field {unknown[0]}", file=str(path), place=place)


def _validate(kind: type[T], data: object, path: Path) -> T:
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            raise UnsupportedFeature(f"field {place}", file=str(path)) from None
        raise RecordingError(first["msg"], file=str(path), place=place) from None
