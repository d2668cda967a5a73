"""Network namespaces of the running kernel to compare with: made, wired, and always removed.

A :class:`Namespace` is one node: its veth interfaces have their other ends in a second namespace, where frames are sent
and seen by packet sockets. Offloads are off, so a frame is what a wire would carry, and IPv6 is off unless asked for,
so that nothing speaks unasked.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import tools
from tests.live import wires

PREFIX = "pktsim-test"
_NUMBERS = itertools.count()
_OFFLOADS = ("tx", "rx", "sg", "tso", "gso", "gro", "ufo", "txvlan", "rxvlan")


@dataclass(frozen=True, slots=True)
class Link:
    """An interface of the node.

    Attributes:
        name: At most 15 characters.
        mac: Its address; the far end of a veth has ``far_mac``.
        addresses: In CIDR form.
        mtu: Of both ends.
        kind: ``veth``, ``bridge`` or ``dummy``.
        master: The bridge that it is a port of.
        hairpin: Whether that port sends frames back where they came from.
        far_mac: Of the other end.
    """

    name: str
    mac: str
    addresses: tuple[str, ...] = ()
    mtu: int = 1500
    kind: str = "veth"
    master: str = ""
    hairpin: bool = False
    far_mac: str = "02:ff:00:00:00:01"


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame that was seen.

    Attributes:
        interface: The node's interface.
        direction: As the node sees it: ``out`` is what arrived at the far end, or what it was given to send.
        frame: The bytes.
        near: Whether it was seen on the node's own side; there both directions are seen.
    """

    interface: str
    direction: str
    frame: bytes
    near: bool = False


class Namespace:
    """A node in a network namespace of its own, and its cables' far ends in another.

    Args:
        links: Its interfaces, bridges before their ports.
        routes: As ``ip route add`` takes them.
        neighbours: (address, MAC, interface), permanent.
        sysctls: Set before the addresses.
        ipv6: Leave IPv6 on, but quiet (no duplicate address detection, no router solicitation).
        near: Interfaces to watch on the node's side too, in both directions.
    """

    def __init__(
        self,
        links: Iterable[Link],
        *,
        routes: Iterable[str] = (),
        neighbours: Iterable[tuple[str, str, str]] = (),
        sysctls: Mapping[str, str | int] | None = None,
        ipv6: bool = False,
        near: Iterable[str] = (),
    ) -> None:
        tools.need("ip", "ethtool", "sysctl")
        number = next(_NUMBERS)
        self.name = f"{PREFIX}-{os.getpid()}-{number}"
        self.far = f"{self.name}-far"
        self.links = tuple(links)
        self._wires: subprocess.Popen[str] | None = None
        try:
            self._make(ipv6=ipv6)
            for key, value in (sysctls or {}).items():
                self.sysctl(key, value)
            self._configure(routes, neighbours)
            self._open(near)
        except BaseException:
            self.close()
            raise

    def _make(self, *, ipv6: bool) -> None:
        for name in (self.name, self.far):
            run_batch(None, [f"netns add {name}"])
            quiet = {"disable_ipv6": 0 if ipv6 and name == self.name else 1, "accept_dad": 0, "router_solicitations": 0}
            for scope in ("all", "default"):
                for key, value in quiet.items():
                    tools.run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{scope}.{key}={value}")
        out, back = wires.SENTINEL_LINKS
        lines = [f"link add {out} type veth peer name {back}"]
        for link in self.links:
            if link.kind == "veth":
                near_end = f"name {link.name} netns {self.name} mtu {link.mtu} address {link.mac}"
                lines.append(f"link add {link.name} mtu {link.mtu} address {link.far_mac} type veth peer {near_end}")
        lines += [f"link set {name} up" for name in (out, back)]
        run_batch(self.far, lines)
        near_lines = []
        for link in self.links:
            if link.kind != "veth":
                extra = " forward_delay 0 stp_state 0 mcast_snooping 0" if link.kind == "bridge" else ""
                near_lines.append(f"link add {link.name} mtu {link.mtu} address {link.mac} type {link.kind}{extra}")
        run_batch(self.name, near_lines)
        for link in self.links:
            for namespace in (self.name, self.far) if link.kind == "veth" else ():
                for offload in _OFFLOADS:  # one by one: what a device does not know is no reason to keep the others
                    command = ("ip", "netns", "exec", namespace, "ethtool", "-K", link.name, offload, "off")
                    subprocess.run(command, capture_output=True, check=False)

    def _configure(self, routes: Iterable[str], neighbours: Iterable[tuple[str, str, str]]) -> None:
        lines = ["link set lo up"]
        for link in self.links:
            if link.master:
                lines.append(f"link set {link.name} master {link.master}")
                if link.hairpin:
                    lines.append(f"link set {link.name} type bridge_slave hairpin on")
            lines += [f"address add {address} dev {link.name}" for address in link.addresses]
            lines.append(f"link set {link.name} up")
        run_batch(self.far, [f"link set {link.name} up" for link in self.links if link.kind == "veth"])
        lines += [f"route add {route}" for route in routes]
        lines += [
            f"neighbour replace {address} lladdr {mac} dev {dev} nud permanent" for address, mac, dev in neighbours
        ]
        run_batch(self.name, lines)

    def _open(self, near: Iterable[str]) -> None:
        self._wires = subprocess.Popen(
            [sys.executable, wires.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        places = [[self.far, [link.name for link in self.links if link.kind == "veth"], "far"]]
        if watched := list(near):
            places.append([self.name, watched, "near"])
        self._ask({"open": places})
        self.frames()  # whatever coming up has caused

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        process = self._wires
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the process at the far ends has died"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, f"{command}: {answer['error']}"
        return answer

    # the node

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a program inside the node; its output. Its exit status must be 0."""
        return tools.run("ip", "netns", "exec", self.name, *command, stdin=stdin)

    def sysctl(self, key: str, value: str | int) -> None:
        """Set a sysctl (``net.ipv4.ip_forward``) of the node."""
        self.run("sysctl", "-qw", f"{key}={value}")

    def iptables_restore(self, text: str, *, ipv6: bool = False, backend: str = "legacy") -> None:
        """Load rules in ``iptables-save`` form."""
        program = f"{'ip6tables' if ipv6 else 'iptables'}-{backend}-restore"
        tools.need(program)
        self.run(program, stdin=text)

    def iptables_save(self, *, ipv6: bool = False, counters: bool = False, backend: str = "legacy") -> str:
        """The node's rules."""
        program = f"{'ip6tables' if ipv6 else 'iptables'}-{backend}-save"
        tools.need(program)
        return self.run(program, *(["-c"] if counters else []))

    def conntrack(self) -> list[str]:
        """Lines of ``conntrack -L -o extended``, sorted."""
        tools.need("conntrack")
        return sorted(self.run("conntrack", "-L", "-o", "extended").splitlines())

    # its cables

    def send(self, interface: str, frame: bytes) -> None:
        """Let a frame arrive at an interface of the node."""
        self._ask({"send": [interface, frame.hex()]})

    def frames(self, timeout_s: float = 0) -> list[Seen]:
        """All frames seen since the last time, when nothing is under way any more.

        Those of one interface are in order; between interfaces the order is not known.

        Args:
            timeout_s: If no frame has been seen, wait this long for one that a timer sends.
        """
        return [
            Seen(interface.removeprefix("near:"), direction, bytes.fromhex(text), interface.startswith("near:"))
            for interface, direction, text in self._ask({"seen": timeout_s})["frames"]
        ]

    def exchange(self, interface: str, frame: bytes) -> list[Seen]:
        """Let a frame arrive, and return what the node does."""
        self.send(interface, frame)
        return self.frames()

    def close(self) -> None:
        """Remove everything; may be called again."""
        if self._wires is not None:
            process, self._wires = self._wires, None
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            process.wait(timeout=10)
        for name in (self.name, self.far):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def run_batch(namespace: str | None, lines: Iterable[str], *options: str) -> None:
    """Run lines of ``ip -batch``, in a named namespace or in this one; ``options`` are for all of them."""
    where = ["-netns", namespace] if namespace is not None else []
    text = "".join(f"{line}\n" for line in lines)
    if text:
        tools.run("ip", *where, *options, "-batch", "-", stdin=text)


def why_not() -> str:
    """Why this machine cannot run live tests, or an empty string."""
    if sys.platform != "linux":
        return "live tests need Linux"
    if os.geteuid() != 0:
        return "live tests need root"
    name = f"{PREFIX}-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return ""


def remove_stale() -> None:
    """Remove namespaces that a killed test run has left."""
    for path in Path("/run/netns").glob(f"{PREFIX}-*"):
        pid = path.name.removeprefix(f"{PREFIX}-").split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", path.name], capture_output=True, check=False)
