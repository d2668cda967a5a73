"""Replays what a real kube-proxy did: for the same objects, are rules, settings and health checks the same?

The layout of a recording, and how its text was normalised, is told by the README of the reference data: one directory
with ``objects.yaml``, ``config.yaml`` and ``host.yaml`` is a kube-proxy that has just started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import yaml

from pktsim.clock import NS_PER_S, Clock
from pktsim.errors import RecordingError, UnsupportedFeature
from pktsim.netfilter.iptables_text import print_save
from pktsim.netfilter.ruleset import Family, Ruleset

from ..addresses import IPAddress, parse_ip
from ..loader import load_objects
from ..objects import KubeObject, Service
from ..store import ObjectStore
from .config import KubeProxyConfiguration, load_config
from .proxier import FAMILIES, ConntrackCleanup, KubeProxy

SAVE_FILES = {Family.IPV4: "iptables-save.txt", Family.IPV6: "ip6tables-save.txt"}

#: What a network namespace starts with: the six settings that recordings show (Linux 6.18).
_FRESH_SYSCTLS = {
    "net.ipv4.conf.all.route_localnet": 0,
    "net.netfilter.nf_conntrack_tcp_be_liberal": 0,
    "net.netfilter.nf_conntrack_tcp_timeout_established": 432000,
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": 60,
    "net.netfilter.nf_conntrack_udp_timeout": 30,
    "net.netfilter.nf_conntrack_udp_timeout_stream": 120,
}


@dataclass(slots=True)
class RecordedHost:
    """A node that is nothing but its addresses, settings, rules, and a list of conntrack commands."""

    interface_addresses: tuple[IPAddress, ...]
    sysctls: dict[str, int] = field(default_factory=lambda: dict(_FRESH_SYSCTLS))
    rulesets: dict[Family, Ruleset] = field(default_factory=lambda: {family: Ruleset(family) for family in FAMILIES})
    commands: list[ConntrackCleanup] = field(default_factory=list)
    cpus: int = 1
    nfacct: bool = False
    on_ruleset: Callable[[Ruleset], None] | None = None

    def addresses(self) -> Sequence[IPAddress]:
        return self.interface_addresses

    def sysctl(self, name: str) -> int | None:
        return self.sysctls.get(name)

    def set_sysctl(self, name: str, value: int) -> None:
        self.sysctls[name] = value

    def ruleset(self, family: Family) -> Ruleset:
        return self.rulesets[family]

    def set_ruleset(self, ruleset: Ruleset, written: Mapping[str, frozenset[str]]) -> None:
        self.rulesets[ruleset.family] = ruleset
        if self.on_ruleset is not None:
            self.on_ruleset(ruleset)

    def delete_conntrack(self, delete: ConntrackCleanup) -> None:
        self.commands.append(delete)


def read_text(path: Path) -> str:
    """Read a file of a recording.

    Raises:
        RecordingError: It is not there, or not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"cannot be read: {error}", file=str(path)) from None


def read_host(path: Path) -> RecordedHost:
    """Read ``host.yaml``: interfaces and their addresses, ``lo`` not among them.

    Raises:
        RecordingError: It does not say that.
    """
    try:
        interfaces: Any = yaml.safe_load(read_text(path))["interfaces"]
        texts = [text for addresses in interfaces.values() for text in addresses or ()]
        found = [ip_interface(text).ip for text in texts]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordingError(f"interfaces and their addresses expected: {error}", file=str(path)) from None
    return RecordedHost((parse_ip("127.0.0.1"), parse_ip("::1"), *found))


def read_config(path: Path) -> KubeProxyConfiguration:
    """Read ``config.yaml``, with what was in effect in every recording unless it says otherwise.

    The size of the conntrack table was left alone, and there was no minimum time between syncs.
    """
    config = load_config(path)
    conntrack = config.conntrack.model_copy(update={"max_per_core": 0})
    iptables = config.iptables
    if "min_sync_period" not in iptables.model_fields_set:
        iptables = iptables.model_copy(update={"min_sync_period": 1})
    return config.model_copy(update={"conntrack": conntrack, "iptables": iptables})


def start(directory: Path, objects: Sequence[KubeObject], clock: Clock) -> tuple[KubeProxy, RecordedHost, ObjectStore]:
    """Start a kube-proxy as a recording did."""
    host = read_host(directory / "host.yaml")
    store = ObjectStore()
    store.apply_all(objects)
    proxy = KubeProxy(read_config(directory / "config.yaml"), "", host, clock, store)
    proxy.start()
    return proxy, host, store


def verify(directory: Path) -> str | None:
    """Replay a recorded start of kube-proxy.

    Returns:
        The first difference, with file and line; ``None`` if all is the same.

    Raises:
        RecordingError: The recording is not whole.
        UnsupportedFeature: It has something that is not modelled.
    """
    if (directory / "ruleset.nft").exists():
        raise UnsupportedFeature("kube-proxy mode nftables", file=str(directory))
    objects = load_objects(directory / "objects.yaml", check=False)
    clock = Clock()
    proxy, host, _ = start(directory, objects, clock)
    clock.run_for(NS_PER_S)
    for family in FAMILIES:
        path = directory / SAVE_FILES[family]
        if difference := first_difference(path.name, read_text(path), print_save(host.ruleset(family))):
            return difference
    path = directory / "sysctls.txt"
    if path.exists() and (difference := first_difference(path.name, read_text(path), _sysctls(host))):
        return difference
    path = directory / "healthchecks.txt"
    if path.exists():
        return first_difference(path.name, read_text(path), health_checks(proxy, health_ports(objects)))
    return None


def health_ports(objects: Sequence[KubeObject]) -> list[tuple[str, int]]:
    """Name and health check node port of every Service that has one."""
    return [
        (found.full_name, found.spec.health_check_node_port)
        for found in objects
        if isinstance(found, Service) and found.spec.health_check_node_port
    ]


def health_checks(proxy: KubeProxy, ports: Sequence[tuple[str, int]]) -> str:
    """What health check ports answer, one a line."""
    lines = []
    for name, port in sorted(set(ports)):
        answer = proxy.health_check(port)
        text = "closed" if answer is None else f"{answer.status} {''.join(answer.body.split())}"
        lines.append(f"{name} port {port}: {text}\n")
    return "".join(lines)


def _sysctls(host: RecordedHost) -> str:
    return "".join(f"{name} = {host.sysctls[name]}\n" for name in _FRESH_SYSCTLS)


def first_difference(name: str, theirs: str, ours: str) -> str | None:
    """The first line in which two texts differ; ``None`` if they are the same.

    Args:
        name: The file, for the message.
        theirs: As recorded.
        ours: As emulated.
    """
    if theirs == ours:
        return None
    their_lines, our_lines = theirs.split("\n"), ours.split("\n")
    for number in range(max(len(their_lines), len(our_lines))):
        their = their_lines[number] if number < len(their_lines) else "(end of file)"
        our = our_lines[number] if number < len(our_lines) else "(end of file)"
        if their != our:
            where = f"{name}, line {number + 1}"
            return f"{where}:\n  recorded: {their or '(empty line)'}\n  emulated: {our or '(empty line)'}"
    return None
