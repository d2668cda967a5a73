"""A recorded cluster's namespaces, built on the running kernel from its ``topology.yaml`` and rules.

What :mod:`pktsim.cluster.plumbing` does on emulated kernels, with the real tools. All is made once and serves many
actions: :meth:`ClusterSpaces.reset` puts it back to how every action begins.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pktsim.cluster.recording import Topology, load_topology
from pktsim.cluster.wiring import Interface, Space
from tests import tools
from tests.live import netns
from tests.live.cluster_ring import Ring
from tests.live.kernel_state import TableReader, entered

_NUMBERS = itertools.count()
#: Scatter and gather stays: without it segments are copied, and what they are accounted as decides receive windows.
_OFFLOADS = tuple(word for name in ("tx", "rx", "tso", "gso", "gro") for word in (name, "off"))
#: Room for frames: cables carry no more than 1514 bytes; a bridge shows what br_netfilter has put together.
_SLOTS: Final = {"veth": (2048, 1024), "vxlan": (2048, 1024), "bridge": (16384, 512), "loopback": (32768, 128)}
_TABLES: Final = ("raw", "mangle", "nat", "filter")
#: States of ``/proc/net/tcp`` that end by themselves in silence: LISTEN and TIME_WAIT.
_QUIET_STATES: Final = ("0A", "06")


class ClusterSpaces:
    """Namespaces of a recorded cluster.

    Args:
        directory: The cluster's: ``topology.yaml`` and ``iptables-save-NODE.txt``.
    """

    def __init__(self, directory: Path) -> None:
        tools.need("ip", "bridge", "ethtool", "ss", "conntrack", "iptables-legacy-restore", "ip6tables-legacy-restore")
        self.directory = directory
        self.topology: Topology = load_topology(directory)
        self.version = 6 if ":" in self.topology.pod_cidr else 4
        self.spaces = {space.name: space for space in self.topology.wiring.spaces}
        self.nodes = [space.name for space in self.topology.wiring.with_role("node")]
        self._prefix = f"{netns.PREFIX}-{os.getpid()}-c{next(_NUMBERS)}-"
        self._handles: dict[str, int] = {}
        self._readers: dict[str, TableReader] = {}
        self.rings: list[tuple[str, str, Ring]] = []
        self._warm = False
        try:
            self._make()
            self._configure()
            self._watch()
        except BaseException:
            self.close()
            raise

    def namespace(self, space: str) -> str:
        """The name of a space's namespace."""
        return f"{self._prefix}{space}"

    @contextlib.contextmanager
    def inside(self, space: str) -> Iterator[None]:
        """This thread, and programs that it starts, are in a space for a while."""
        with entered(self._handles[space]):
            yield

    def set_sysctl(self, space: str, key: str, value: str | int) -> None:
        """Set one of a space's settings."""
        with self.inside(space):
            _write_sysctl(key, value)

    # building

    def _make(self) -> None:
        for name in self.spaces:
            netns.run_batch(None, [f"netns add {self.namespace(name)}"])
            self._handles[name] = os.open(f"/run/netns/{self.namespace(name)}", os.O_RDONLY | os.O_CLOEXEC)
        for name, space in self.spaces.items():
            with self.inside(name):
                for scope in ("all", "default"):
                    for key, value in (("disable_ipv6", self.version == 4), ("accept_dad", 0)):
                        _write_sysctl(f"net.ipv6.conf.{scope}.{key}", int(value))
                    _write_sysctl(f"net.ipv6.conf.{scope}.router_solicitations", 0)
                    # at once, and not when counters are looked at already: bridges pass such reports through FORWARD
                    _write_sysctl(f"net.ipv6.conf.{scope}.mldv2_unsolicited_report_interval", 0)
                for key, text in {**self.topology.wiring.sysctls_everywhere, **space.sysctls}.items():
                    _write_sysctl(key, text)
                _write_sysctl("net.ipv4.igmp_link_local_mcast_reports", 0)
                if self.version == 6:
                    _write_sysctl("net.ipv6.conf.all.forwarding", space.sysctls["net.ipv4.ip_forward"])
        for name, interface in _in_order(self.spaces):
            self._add_link(name, interface)

    def _add_link(self, name: str, link: Interface) -> None:
        own = f"name {link.name} netns {self.namespace(name)} mtu {link.mtu} address {link.mac}"
        if link.kind == "veth":
            peer_space, _, peer_name = link.peer.rpartition("/")
            peer = self.spaces[peer_space].interface(peer_name)
            far = f"name {peer.name} netns {self.namespace(peer_space)} mtu {peer.mtu} address {peer.mac}"
            netns.run_batch(None, [f"link add {own} type veth peer {far}"])
        elif link.kind == "bridge":
            netns.run_batch(None, [f"link add {own} type bridge forward_delay 0 stp_state 0"])
        elif link.vxlan is not None:
            tunnel = link.vxlan
            options = f"id {tunnel.id} local {tunnel.local} dev {tunnel.link} dstport {tunnel.port} ttl {tunnel.ttl}"
            flags = f"{'learning' if tunnel.learning else 'nolearning'} {'' if tunnel.udp_csum else 'no'}udpcsum"
            line = f"link add name {link.name} mtu {link.mtu} address {link.mac} type vxlan {options} {flags}"
            netns.run_batch(self.namespace(name), [line])

    def _configure(self) -> None:
        for name, space in self.spaces.items():
            with self.inside(name):
                for link in space.interfaces:
                    if link.kind != "loopback":
                        subprocess.run(["ethtool", "-K", link.name, *_OFFLOADS], capture_output=True, check=False)
                    for key, value in link.sysctls.items():
                        _write_sysctl(f"net.ipv4.conf.{link.name}.{key}", value)
                    if int(link.sysctls.get("proxy_arp", 0)):
                        _write_sysctl(f"net.ipv4.neigh.{link.name}.proxy_delay", 0)
            lines = []
            for link in space.interfaces:
                if link.master:
                    hairpin = "on" if link.hairpin else "off"
                    lines.append(f"link set {link.name} master {link.master}")
                    lines.append(f"link set {link.name} type bridge_slave hairpin {hairpin}")
                lines += [f"address add {one} dev {link.name}" for one in link.addresses if not _automatic(one)]
                lines.append(f"link set {link.name} up")
            netns.run_batch(self.namespace(name), lines)
        for name, space in self.spaces.items():
            routes = [route for route in space.routes if "proto kernel" not in route]
            routes.sort(key=lambda route: " via " in route)
            netns.run_batch(self.namespace(name), [f"route add {route}" for route in routes], f"-{self.version}")
            self._tunnel_entries(space)
        for node in self.nodes:
            text = (self.directory / f"iptables-save-{node}.txt").read_text()
            with self.inside(node):
                tools.run(f"{'ip6' if self.version == 6 else 'ip'}tables-legacy-restore", stdin=text)
            self._readers[node] = TableReader(self.version, self._handles[node])

    def _tunnel_entries(self, space: Space) -> None:
        tunnel = next((link.name for link in space.interfaces if link.vxlan is not None), "")
        lines = [
            f"neighbour replace {one.replace('PERMANENT', 'nud permanent')} dev {tunnel}"
            for one in space.permanent_neighbours
        ]
        netns.run_batch(self.namespace(space.name), lines)
        self._bridge(space.name, [f"fdb replace {entry} dev {tunnel}" for entry in space.vxlan_fdb])

    def _bridge(self, space: str, lines: Iterable[str]) -> None:
        if text := "".join(f"{line}\n" for line in lines):
            with self.inside(space):
                tools.run("bridge", "-batch", "-", stdin=text)

    def _watch(self) -> None:
        for name, space in self.spaces.items():
            with self.inside(name):
                for link in space.interfaces:
                    self.rings.append((name, link.name, Ring(link.name, *_SLOTS[link.kind])))

    # between actions

    def reset(self, *, warm: bool) -> None:
        """Empty connection tracking, learnt routes, affinity lists, and neighbours and bridges; or fill the latter."""
        for name in self.spaces:
            self._end_connections(name)
        # First of all what still waits for a neighbour: errors about it would go out later.
        for name in self.spaces:
            netns.run_batch(self.namespace(name), ["neighbour flush all"])
        for node in self.nodes:
            with self.inside(node):
                subprocess.run(["conntrack", "-F"], capture_output=True, check=True)
                for path in Path("/proc/thread-self/net/xt_recent").glob("*"):
                    path.write_text("/\n")
        if self._warm and not warm:
            self._neighbours(replace=False)
        for name, space in self.spaces.items():
            lines = ["neighbour flush all", "route flush cache"]
            lines += [
                f"link set {link.name} type bridge fdb_flush" for link in space.interfaces if link.kind == "bridge"
            ]
            netns.run_batch(self.namespace(name), [*lines, "tcp_metrics flush all"], f"-{self.version}")
        if warm and not self._warm:
            self._neighbours(replace=True)
        self._warm = warm

    def _neighbours(self, *, replace: bool) -> None:
        wiring = self.topology.wiring
        for name in self.spaces:
            lines = []
            for one in wiring.warm_neighbours:
                if one.space == name and replace:
                    lines.append(f"neighbour replace {one.address} lladdr {one.mac} dev {one.dev} nud permanent")
                elif one.space == name:
                    lines.append(f"neighbour del {one.address} dev {one.dev}")
            netns.run_batch(self.namespace(name), lines)
            verb = "replace" if replace else "del"
            entries = [entry for entry in wiring.warm_bridge_fdb if entry.space == name]
            self._bridge(name, [f"fdb {verb} {one.mac} dev {one.dev} master static" for one in entries])

    def _end_connections(self, space: str) -> None:
        """End what an action has left behind and what would send once more."""
        with self.inside(space):
            path = Path(f"/proc/thread-self/net/tcp{'6' if self.version == 6 else ''}")
            states = [line.split()[3] for line in path.read_text().splitlines()[1:]]
            if any(state not in _QUIET_STATES for state in states):
                subprocess.run(["ss", "-K", "-t", "state", "connected"], capture_output=True, check=False)

    def conntrack(self, node: str) -> list[str]:
        """Lines of ``conntrack -L -o extended``."""
        with self.inside(node):
            return tools.run("conntrack", "-L", "-o", "extended").splitlines()

    def counters(self, node: str) -> dict[str, tuple[int, int]]:
        """``table/CHAIN/n`` or ``table/CHAIN/policy`` to packets and bytes."""
        counted: dict[str, tuple[int, int]] = {}
        with self.inside(node):
            listed = Path(f"/proc/thread-self/net/{'ip6' if self.version == 6 else 'ip'}_tables_names").read_text()
        for table in _TABLES:
            if table in listed.split():
                for key, pair in self._readers[node].counters(table).items():
                    if not key.endswith("/end"):
                        counted[key.removeprefix("6:")] = pair
        return counted

    def close(self) -> None:
        """Remove everything."""
        for _, _, ring in self.rings:
            ring.close()
        for reader in self._readers.values():
            reader.close()
        for handle in self._handles.values():
            os.close(handle)
        for name in self._handles:
            subprocess.run(["ip", "netns", "delete", self.namespace(name)], capture_output=True, check=False)
        self.rings, self._readers, self._handles = [], {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _automatic(address: str) -> bool:
    """Whether an interface has the address without being told."""
    return address in ("127.0.0.1/8", "::1/128") or address.startswith("fe80::")


def _write_sysctl(key: str, value: str | int) -> None:
    parts = key.split(".")
    # an interface's name may contain dots: net.ipv4.conf.flannel.1.rp_filter
    if len(parts) > 5:
        parts = [*parts[:3], ".".join(parts[3:-1]), parts[-1]]
    Path("/proc/sys", *parts).write_text(f"{value}\n")


def _in_order(spaces: Mapping[str, Space]) -> Iterator[tuple[str, Interface]]:
    """All interfaces in an order that gives each space its own one; of two ends of a cable one is named."""
    left: dict[str, list[Interface]] = {
        name: [link for link in space.interfaces if link.kind != "loopback"] for name, space in spaces.items()
    }
    while any(left.values()):
        for name, links in left.items():
            if not links:
                continue
            first = links[0]
            if first.kind != "veth":
                yield name, links.pop(0)
                break
            peer_space, _, peer_name = first.peer.rpartition("/")
            if left[peer_space] and left[peer_space][0].name == peer_name:
                yield name, links.pop(0)
                left[peer_space].pop(0)
                break
        else:
            raise AssertionError("no order of making interfaces fits all spaces")
