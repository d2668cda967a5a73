"""A case on the running kernel: the format of ``pktsim.kernel.case`` in, the same format's result out.

A :class:`KernelNode` is a node: a namespace with one veth per interface, whose far ends are in another namespace
without addresses. One packet socket there sees all that leaves, in order. Frames are sent one at a time; a marker
through the same CPU's queue shows when each has been dealt with. A :class:`KernelRun` takes a case's steps on a node.

Making namespaces is slow, so :class:`Workbench` keeps a node for the next case where nothing of the last one can be
left. :meth:`Workbench.record` runs a case several times and says which fields Linux draws at random, as the recordings
do.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, Final

from pktsim.errors import ObjectError
from pktsim.kernel.case import read_field, tuple_sort_key, write_fields
from pktsim.kernel.case_recording import mask_fields
from pktsim.wire.fields import dissect
from pktsim.wire.frame import FrameView
from tests.live.kernel_state import ConntrackReader, TableReader, acting_as, entered, new_namespace

Case = Mapping[str, Any]

ETH_P_ALL: Final = 0x0003
MARKER_TYPE: Final = 0x88B6  # for local experiments (IEEE 802)
_MARKERS: Final = ("marker0", "marker1")
_PACKET_IGNORE_OUTGOING: Final = 23  # include/uapi/linux/if_packet.h
_IP_HDRINCL: Final = 3
#: The longest way through a namespace, in devices: a port, its bridge, lo, the bridge again, a port.
_QUIET_ROUNDS: Final = 6
#: More frames than that come of one step only if some go round without end.
_MOST_FRAMES: Final = 1_000
#: The far ends take any frame, so that the node's own limit is met.
_FAR_MTU: Final = 65535
_SIOCETHTOOL: Final = 0x8946
_SIOCGIFFLAGS: Final = 0x8913
_IFF_RUNNING: Final = 0x40
#: TX checksums, scatter/gather, TSO, GSO, GRO: ``ETHTOOL_S*``.
_OFFLOADS: Final = (0x17, 0x19, 0x1F, 0x24, 0x2C)

#: What the README of the recordings calls the baseline.
_BASELINE: Final = {
    "net.ipv4.ip_forward": "1",
    **{
        f"net.ipv4.conf.{scope}.{key}": "0"
        for scope in ("all", "default")
        for key in ("rp_filter", "accept_local", "route_localnet", "send_redirects", "proxy_arp", "log_martians")
    },
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.icmp_ratemask": "0",
    "net.ipv4.icmp_echo_ignore_broadcasts": "1",
    "net.ipv4.ip_default_ttl": "64",
    "net.netfilter.nf_conntrack_checksum": "1",
    "net.netfilter.nf_conntrack_tcp_loose": "1",
    "net.netfilter.nf_conntrack_tcp_be_liberal": "0",
    "net.netfilter.nf_conntrack_acct": "0",
}
_BASELINE6: Final = {
    **{
        f"net.ipv6.conf.{scope}.{key}": value
        for scope in ("all", "default")
        for key, value in (("accept_dad", "0"), ("router_solicitations", "0"), ("addr_gen_mode", "1"))
    },
    # groups are reported at once, so that reports do not count in a case's rules
    **{f"net.ipv6.conf.{scope}.mldv2_unsolicited_report_interval": "1" for scope in ("all", "default")},
    "net.ipv6.conf.all.forwarding": "1",
}
#: A router is in groups that a host is not in, and says so when it becomes one or stops being one.
_FORWARDING6: Final = "net.ipv6.conf.all.forwarding"
#: In so long a time another of those reports comes, if any.
_REPORTED_S: Final = 0.1
#: All namespaces share the tools' lock.
_WAIT: Final = ("--wait", "60")
_TABLES: Final = {4: ("iptables", "iptables-legacy"), 6: ("ip6tables", "ip6tables-legacy")}
_CHAINS: Final = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
#: What ``wire.fields`` calls some fields, and how the format does.
_FORMAT_NAMES: Final = {
    "tcp.srcport": "tcp.sport",
    "tcp.dstport": "tcp.dport",
    "udp.srcport": "udp.sport",
    "udp.dstport": "udp.dport",
}
#: Matches and targets that keep something outside of their rule.
_ICMP: Final = 1
_ICMPV6: Final = 58
_KEEPS_STATE = re.compile(r"-m (recent|hashlimit|connlimit|set) |-j SET ")
#: connlimit tells whether it has looked in this jiffy already: a step is all in one, and the next one in another.
_TELLS_JIFFIES = re.compile(r"-m connlimit ")
_CLOCK_MONOTONIC_COARSE: Final = 6  # moves when jiffies do


def _await_jiffy() -> None:
    """The beginning of the next jiffy."""
    now = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)
    while time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) == now:
        pass


def table_names(text: str) -> tuple[str, ...]:
    """The tables in ``iptables-restore`` text."""
    return tuple(dict.fromkeys(re.findall(r"^\*(\w+)$", text, re.MULTILINE)))


def topology(case: Case) -> str:
    """Cases that agree in this can take turns on one node."""
    keys = ("interfaces", "routes", "ip_rules", "neighbours", "ipv6")
    return json.dumps({key: case.get(key) for key in keys}, sort_keys=True)


def reusable(case: Case) -> bool:
    """Whether a node is as good as new after this case, rules and connections removed.

    Not with TCP sockets (their connections outlive them), fragments (gathered ones wait for the rest for 30 seconds),
    bridges (they learn), path MTUs and limits of IPv6, or tables that stay loaded.
    """
    if any(listener["proto"] == "tcp" for listener in case.get("listeners", ())):
        return False
    if any(interface.get("kind", "veth") != "veth" for interface in case["interfaces"]):
        return False
    if any(route.get("type") for route in case.get("routes", ())):
        return False  # what they answer is limited for each address (ip_error), in every namespace alike
    sysctls = case.get("sysctls", {})
    if case.get("ipv6") and (sysctls.get("net.ipv6.icmp.ratelimit") != "0" or _FORWARDING6 in sysctls):
        return False
    for version, (key, _) in _TABLES.items():
        wanted = set(_CHAINS) if version == (6 if case.get("ipv6") else 4) else set()
        if set(table_names(case.get(key) or "")) != wanted:
            return False
    return not any(_leaves_something(step) or "iptables" in step for step in case["steps"])


def _leaves_something(step: Mapping[str, Any]) -> bool:
    """A fragment, or what is remembered of errors: path MTUs and redirects."""
    for verb, key, offset in (("receive", "frame", 14), ("send_local", "packet", 0)):
        if verb in step:
            packet = bytes.fromhex(step[verb][key])[offset:]
            if len(packet) > 8 and packet[0] >> 4 == 4 and int.from_bytes(packet[6:8], "big") & 0x3FFF:
                return True
            if len(packet) > 40 and packet[0] >> 4 == 4 and packet[9] == _ICMP:
                at = (packet[0] & 15) * 4
                if packet[at] == 5 or packet[at : at + 2] == b"\x03\x04":
                    return True
            if len(packet) > 40 and packet[0] >> 4 == 6:
                view = FrameView(packet, link=False)
                if view.fragment >= 0:
                    return True
                if view.protocol == _ICMPV6 and view.transport >= 0 and view.icmp_type in (2, 137):
                    return True
    return False


@contextmanager
def _one_cpu() -> Iterator[None]:
    """All of a node's work is done by one CPU, in the order in which it came."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class KernelNode:
    """A case's interfaces, routes and neighbours in a namespace of the running kernel."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.near = new_namespace()
        self.far = new_namespace()
        self.broken = False
        self._saved_sysctls: dict[str, str] = {}
        self._interfaces = {one["name"]: one for one in case["interfaces"]}
        self._readers: dict[int, TableReader] = {}
        self._marks = 0
        self._configure()
        self._await_links()
        if case.get("ipv6"):
            self._await_reports()
        with entered(self.far):
            names = [name for name, one in self._interfaces.items() if one.get("kind", "veth") == "veth"]
            self._senders = {name: self._packet_socket(name) for name in names}
            self._marker = self._packet_socket(_MARKERS[0])
            # bound to no interface, it sees all of them
            self._watch = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._watch.setsockopt(263, _PACKET_IGNORE_OUTGOING, 1)
            self._watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self.conntrack = ConntrackReader(self.near)
        self.settle()

    @staticmethod
    def _packet_socket(interface: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind((interface, 0))
        return made

    def close(self) -> None:
        for one in (*self._senders.values(), self._marker, self._watch):
            one.close()
        for reader in self._readers.values():
            reader.close()
        self.conntrack.close()
        os.close(self.near)
        os.close(self.far)

    # ------------------------------------------------------------------------------------------------------ configuring

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a program inside the node; its output. Its exit status must be 0."""
        return self._run_in(self.near, *command, stdin=stdin)

    @staticmethod
    def _run_in(namespace: int, *command: str, stdin: str | None = None) -> str:
        with entered(namespace):
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}\n{stdin}"
        return done.stdout

    def sysctl(self, name: str, value: str) -> str:
        """Set a setting of the node; returns what it was."""
        path = Path("/proc/sys", *_sysctl_path(name))
        with entered(self.near):
            old = path.read_text().strip() if path.stat().st_mode & 0o400 else ""
            path.write_text(value)
        return old

    def _configure(self) -> None:
        case, ipv6 = self.case, bool(self.case.get("ipv6"))
        for namespace, on in ((self.near, ipv6), (self.far, False)):
            with entered(namespace):
                for scope in ("all", "default"):
                    Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("0" if on else "1")
        for name, value in (_BASELINE | (_BASELINE6 if ipv6 else {})).items():
            self.sysctl(name, value)
        near_end = f"/proc/{os.getpid()}/fd/{self.near}"
        lines = [f"link add {_MARKERS[0]} type veth peer name {_MARKERS[1]}"]
        lines += [f"link set {name} up" for name in _MARKERS]
        near_lines = ["link set lo up"]
        for name, one in self._interfaces.items():
            kind, mtu = one.get("kind", "veth"), one.get("mtu", 1500)
            if kind == "veth":
                peer = f"name {name} mtu {mtu} address {one['mac']} netns {near_end}"
                lines.append(f"link add {name} mtu {_FAR_MTU} type veth peer {peer}")
            else:
                extra = " forward_delay 0 stp_state 0 mcast_snooping 0" if kind == "bridge" else ""
                near_lines.append(f"link add {name} mtu {mtu} address {one['mac']} type {kind}{extra}")
        lines += [f"link set {name} up" for name, one in self._interfaces.items() if one.get("kind", "veth") == "veth"]
        for name, one in self._interfaces.items():
            if one.get("master"):
                near_lines.append(f"link set {name} master {one['master']}")
                if one.get("hairpin"):
                    near_lines.append(f"link set {name} type bridge_slave hairpin on")
            near_lines += [
                f"address add {address} dev {name}{' nodad' if ip_interface(address).version == 6 else ''}"
                for address in one.get("addresses", ())
                if ip_interface(address).version == 4 or ipv6
            ]
            near_lines.append(f"link set {name} up")
        near_lines += [f"route add {_route_words(route)}" for route in case.get("routes", ())]
        near_lines += [
            f"neighbour replace {entry['address']} lladdr {entry['mac']} dev {entry['interface']} nud permanent"
            for entry in case.get("neighbours", ())
        ]
        os.set_inheritable(self.near, True)
        self._run_in(self.far, "ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        for name, one in self._interfaces.items():
            if one.get("kind", "veth") == "veth":
                self._no_offloads(self.near, name)
        self._run_in(self.near, "ip", "-batch", "-", stdin="\n".join(near_lines) + "\n")
        for rule in case.get("ip_rules", ()):  # in a batch there is no -6
            family = "-6" if rule.get("family") == 6 or ":" in rule.get("from", "") + rule.get("to", "") else "-4"
            self._run_in(self.near, "ip", family, "rule", "add", *_rule_words(rule).split())

    def _await_links(self) -> None:
        """Devices drop what they are given to send until the kernel's link watch has seen that they are up."""
        near = [*self._interfaces, "lo"]
        veths = [name for name, one in self._interfaces.items() if one.get("kind", "veth") == "veth"]
        for namespace, names in ((self.near, near), (self.far, [*veths, *_MARKERS])):
            with entered(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
                for name in names:
                    deadline = time.monotonic() + 10
                    while not self._flags(handle, name) & _IFF_RUNNING:
                        if time.monotonic() > deadline:
                            raise TimeoutError(f"{name} does not come up")
                        time.sleep(0.001)

    def _await_reports(self) -> None:
        """Until the groups of the node's addresses have been reported."""
        before, deadline = -1, time.monotonic() + 5
        while (sent := self.reports_sent()) != before and time.monotonic() < deadline:
            before = sent
            time.sleep(_REPORTED_S)

    def reports_sent(self) -> int:
        """How often the node has told which multicast groups it is in: packets of its own, which rules count too."""
        return self._statistic6("Icmp6OutMLDv2Reports")

    def _statistic6(self, name: str) -> int:
        with entered(self.near):
            text = Path("/proc/thread-self/net/snmp6").read_text()
        return int(re.search(rf"^{name}\s+(\d+)", text, re.MULTILINE).group(1))  # type: ignore[union-attr]

    @staticmethod
    def _flags(handle: socket.socket, interface: str) -> int:
        answer = fcntl.ioctl(handle, _SIOCGIFFLAGS, struct.pack("=16s24x", interface.encode()))
        return int(struct.unpack_from("=H", answer, 16)[0])

    @staticmethod
    def _no_offloads(namespace: int, interface: str) -> None:
        with entered(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            for command in _OFFLOADS:
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
                request = struct.pack("=16sQ16x", interface.encode(), ctypes.addressof(value))
                fcntl.ioctl(handle, _SIOCETHTOOL, request)

    # ------------------------------------------------------------------------------------------------ a case's own part

    def prepare(self, case: Case) -> None:
        """Load what belongs to the case and not to its topology; nothing of an earlier case is left."""
        # the last first: forwarding of all had changed what an interface's own then was
        for name, value in reversed(self._saved_sysctls.items()):
            self.sysctl(name, value)
        self._saved_sysctls.clear()
        for _ in range(2):  # errors about what waits for an address now, which may have to wait themselves
            self.run("ip", "neighbour", "flush", "all")  # but for permanent ones: what packets have told
        self.sysctl("net.netfilter.nf_conntrack_acct", "0")  # -m connbytes switches it on
        for name, value in case.get("sysctls", {}).items():
            self._saved_sysctls.setdefault(name, self.sysctl(name, value))
            self.sysctl(name, value)
        if _FORWARDING6 in case.get("sysctls", {}):
            self._await_reports()
        if case.get("ipsets"):
            self.run("ipset", "restore", stdin=case["ipsets"] + "\n")
        for version, (key, tool) in _TABLES.items():
            if case.get(key):
                self.run(f"{tool}-restore", *_WAIT, stdin=case[key])
                if version not in self._readers:
                    self._readers[version] = TableReader(version, self.near)
        if case.get("nft"):
            self.run("nft", "-f", "-", stdin=case["nft"])
        self.conntrack.flush()
        self.sysctl("net.ipv4.route.flush", "1")
        self.case = case

    def clean(self) -> None:
        """Take out what the last case has put in and the next one does not replace."""
        if self.case.get("nft"):
            self.run("nft", "flush", "ruleset")
        case = self.case
        for key, tool in _TABLES.values():
            text = case.get(key) or ""
            if text and (case.get("ipsets") or _KEEPS_STATE.search(text)):
                empty = ""
                for table in table_names(text):
                    empty += f"*{table}\n" + "".join(f":{chain} ACCEPT\n" for chain in _CHAINS[table]) + "COMMIT\n"
                self.run(f"{tool}-restore", *_WAIT, stdin=empty)
        if case.get("ipsets"):
            self.run("ipset", "flush")  # lists of sets hold their members
            self.run("ipset", "destroy")

    # ----------------------------------------------------------------------------------------------------------- frames

    def send(self, interface: str, frame: bytes) -> str:
        """Let a frame arrive; the name of the error that its sender gets, or nothing."""
        try:
            self._senders[interface].send(frame)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return ""

    def settle(self) -> list[tuple[str, bytes]]:
        """All frames that have left since the last time, in order, once nothing moves any more.

        Raises:
            AssertionError: That is never. Close the node then: as long as it is there, a CPU does nothing else.
        """
        frames: list[tuple[str, bytes]] = []
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            self._marks += 1
            mark = self._marks.to_bytes(8, "big")
            self._marker.send(bytes(12) + MARKER_TYPE.to_bytes(2, "big") + mark)
            quiet += 1
            while True:
                if not select.select([self._watch], [], [], 10)[0]:
                    raise TimeoutError("a marker got lost")
                frame, (interface, protocol, *_) = self._watch.recvfrom(1 << 17)
                if protocol == MARKER_TYPE and frame[12:14] == MARKER_TYPE.to_bytes(2, "big"):
                    if frame[14:22] == mark:
                        break
                    continue
                quiet = 0
                if not _is_listener_report(frame):
                    frames.append((interface, frame))
                    assert len(frames) <= _MOST_FRAMES, "frames go round without end"
        return frames

    def counters(self) -> dict[str, tuple[int, int]]:
        """Rule counters of the tables that the case names."""
        counted: dict[str, tuple[int, int]] = {}
        for version, (key, _) in _TABLES.items():
            for table in table_names(self.case.get(key) or ""):
                counted |= self._readers[version].counters(table)
        return counted

    def delivered(self) -> int:
        """Packets handed to local transports so far."""
        with entered(self.near):
            lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
            total = 0
        if self.case.get("ipv6"):
            total += self._statistic6("Ip6InDelivers")
        names, values = (line.split() for line in lines[:2])
        return total + int(values[names.index("InDelivers")])

    def recent(self) -> dict[str, list[dict[str, Any]]]:
        """The lists of ``-m recent``."""
        with entered(self.near):
            directory = Path("/proc/thread-self/net/xt_recent")
            texts = {path.name: path.read_text() for path in directory.iterdir()} if directory.is_dir() else {}
        pattern = re.compile(r"src=(\S+) ttl: (\d+) last_seen: \d+ oldest_pkt: (\d+) (.*)")
        found: dict[str, list[dict[str, Any]]] = {}
        for name, text in texts.items():
            entries = pattern.findall(text)
            found[name] = [
                # IPv6 addresses are not shortened there
                {"src": str(ip_address(src)), "ttl": int(ttl), "oldest_pkt": int(oldest), "stamps": len(stamps)}
                for src, ttl, oldest, *stamps in ([*entry[:3], *entry[3].split(",")] for entry in entries)
            ]
        return found


def _sysctl_path(name: str) -> list[str]:
    return [part.replace("/", ".") for part in name.split(".")]


def _route_words(route: Mapping[str, Any]) -> str:
    words = [route["type"]] if route.get("type") else []
    words.append(route["dst"])
    for key in ("via", "dev", "src", "table", "metric", "scope"):
        if route.get(key) is not None:
            words += [key, str(route[key])]
    return " ".join([*words, *(["onlink"] if route.get("onlink") else [])])


def _rule_words(rule: Mapping[str, Any]) -> str:
    keys = ("priority", "from", "to", "fwmark", "iif", "table")
    return " ".join(f"{key} {rule[key]}" for key in keys if rule.get(key) is not None)


def _asks_for_neighbour(frame: str) -> bool:
    """ARP, or a neighbour solicitation."""
    return frame[24:28] == "0806" or (frame[24:28] == "86dd" and frame[40:42] == "3a" and frame[108:110] == "87")


def _is_listener_report(frame: bytes) -> bool:
    """An MLD report: its hop-by-hop header comes first (RFC 3810 section 5)."""
    hop_by_hop = frame[12:14] == b"\x86\xdd" and frame[20:21] == b"\0" and frame[54:55] == bytes((_ICMPV6,))
    return hop_by_hop and len(frame) > 62 and frame[62] in (131, 132, 143)


class KernelRun:
    """A case's steps, taken on a node."""

    def __init__(self, node: KernelNode, case: Case) -> None:
        self.node = node
        self.case = case
        self.steps: list[dict[str, Any]] = []
        #: What is not answered is asked for again, and remembered as not there.
        self.asked_for_neighbours = False
        self._before: tuple[dict[str, tuple[int, int]], dict[str, dict[str, Any]], int] | None = None
        self._tells_jiffies = any(_TELLS_JIFFIES.search(case.get(key) or "") for key, _ in _TABLES.values())
        node.prepare(case)
        self._usual = self._usual_timeouts()
        self._listeners = {one["name"]: (one, self._listen(one)) for one in case.get("listeners", ())}
        node.settle()

    def _usual_timeouts(self) -> list[int]:
        with entered(self.node.near):
            paths = Path("/proc/sys/net/netfilter").glob("nf_conntrack_*timeout*")
            return sorted({int(path.read_text()) for path in paths} | {10, 1})

    def _listen(self, listener: Mapping[str, Any]) -> socket.socket:
        family = socket.AF_INET6 if ":" in listener["address"] else socket.AF_INET
        udp = listener["proto"] == "udp"
        with entered(self.node.near):
            made = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        made.bind((listener["address"], listener["port"]))
        if not udp:
            made.listen(16)
        made.setblocking(False)
        return made

    def close(self) -> None:
        for _, one in self._listeners.values():
            one.close()

    def __enter__(self) -> KernelRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """Take one step and return what it led to, in the format's words."""
        node = self.node
        rules, entries, delivered = self._before or (node.counters(), self._entries(), node.delivered())
        error = ""
        if self._tells_jiffies:
            _await_jiffy()
        if "receive" in step:
            error = node.send(step["receive"]["interface"], self._frame(step["receive"]))
        elif "send_local" in step:
            error = self._send_local(step["send_local"])
        elif "send_socket" in step:
            body = step["send_socket"]
            try:
                self._listeners[body["listener"]][1].sendto(bytes.fromhex(body["data"]), tuple(body["dst"]))
            except OSError as problem:
                error = errno.errorcode[problem.errno or 0]
        elif "advance" in step:
            time.sleep(step["advance"])
        elif "iptables" in step:
            keep = ["--noflush"] if step.get("noflush") else []
            node.run("iptables-legacy-restore", *_WAIT, *keep, stdin=step["iptables"])
            rules = node.counters()
        else:
            raise ObjectError(f"unknown step {', '.join(sorted(step))}", place=f"step {len(self.steps)}")
        result: dict[str, Any] = {
            "emitted": [{"interface": name, "frame": frame.hex()} for name, frame in node.settle()]
        }
        after, now, total = node.counters(), self._entries(), node.delivered()
        self._before = after, now, total
        if total != delivered:
            result["delivered"] = total - delivered
        if datagrams := self._datagrams():
            result["sockets"] = datagrams
        if error:
            result["error"] = error
        moved = {
            name: [pair[0] - rules.get(name, (0, 0))[0], pair[1] - rules.get(name, (0, 0))[1]]
            for name, pair in after.items()
            if pair != rules.get(name, (0, 0))
        }
        if moved:
            result["rules"] = moved
        changed = [entry for key, entry in now.items() if entries.get(key) != entry]
        changed += [{"gone": entry["orig"]} for key, entry in entries.items() if key not in now]
        if changed:
            result["conntrack"] = changed
        self.steps.append(result)
        self.asked_for_neighbours |= any(_asks_for_neighbour(one["frame"]) for one in result["emitted"])
        return result

    def _frame(self, step: Mapping[str, Any]) -> bytes:
        frame = bytes.fromhex(step["frame"])
        values: dict[str, int] = {}
        for take in step.get("take", ()):
            source = take["from"]
            try:
                emitted = bytes.fromhex(self.steps[source["step"]]["emitted"][source["frame"]]["frame"])
                values[take["field"]] = read_field(emitted, source["field"]) + take.get("add", 0)
            except (IndexError, ObjectError):
                continue  # the earlier step is another one here, which is what will be reported
        return write_fields(frame, values) if values else frame

    def _send_local(self, step: Mapping[str, Any]) -> str:
        packet = bytes.fromhex(step["packet"])
        family = socket.AF_INET if packet[0] >> 4 == 4 else socket.AF_INET6
        with (
            entered(self.node.near),
            acting_as(step.get("uid", 0), step.get("gid", 0)),
            socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as made,
        ):
            if step.get("mark"):
                made.setsockopt(socket.SOL_SOCKET, 36, step["mark"])  # SO_MARK
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            destination = packet[16:20] if family == socket.AF_INET else packet[24:40]
            try:
                made.sendto(packet, (socket.inet_ntop(family, destination), 0))
            except OSError as error:
                return errno.errorcode[error.errno or 0]
        return ""

    def _datagrams(self) -> list[dict[str, Any]]:
        received: list[dict[str, Any]] = []
        for name, (listener, one) in self._listeners.items():
            while listener["proto"] == "udp":
                try:
                    data, (address, port, *_) = one.recvfrom(1 << 16)
                except BlockingIOError:
                    break
                received.append({"socket": name, "from": [address, port], "data": data.hex()})
        return received

    def _entries(self) -> dict[str, dict[str, Any]]:
        """By their original tuple and zone; the timeout is the value that it was set to."""
        entries = {}
        for entry in self.node.conntrack.entries():
            entry["timeout"] = next((usual for usual in self._usual if usual >= entry["timeout"]), entry["timeout"])
            entries[json.dumps([entry["orig"], entry.get("zone")])] = entry
        return entries

    def final(self) -> dict[str, Any]:
        """The format's ``final``."""
        node, case = self.node, self.case
        final: dict[str, Any] = {"conntrack": sorted(self._entries().values(), key=_orig_key)}
        for key, tool in _TABLES.values():
            if case.get(key):
                final[key] = node.run(f"{tool}-save", "-c")
        if case.get("ipsets"):
            lines = node.run("ipset", "save").splitlines()
            final["ipsets"] = "\n".join(sorted(line for line in lines if line.startswith("add ")))
        if "-m recent" in (case.get("iptables") or case.get("ip6tables") or ""):
            final["recent"] = node.recent()
        if case.get("nft"):
            final["nft"] = node.run("nft", "list", "ruleset")
        return final


def _orig_key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple_sort_key(entry["orig"])


class Workbench:
    """Runs cases one after the other, each on a node that is as good as new."""

    def __init__(self, *, keep: int = 4) -> None:
        self._nodes: dict[str, KernelNode] = {}
        self._keep = keep

    def record(self, case: Case, *, runs: int = 3) -> dict[str, Any]:
        """Run a case several times, as the recorder does: what differed is named as random.

        Raises:
            NondeterministicError: What the kernel draws decides more than single fields.
        """
        return merge([self.result(case) for _ in range(runs)])

    @contextmanager
    def run(self, case: Case) -> Iterator[KernelRun]:
        """A case ready to take its steps."""
        key = topology(case)
        keep = reusable(case)
        with _one_cpu():
            node = (self._nodes.pop(key, None) if keep else None) or KernelNode(case)
            try:
                with KernelRun(node, case) as run:
                    yield run
                if keep and not run.asked_for_neighbours:
                    node.clean()
                    self._nodes[key] = node
                    node = None  # type: ignore[assignment]
                    while len(self._nodes) > self._keep:
                        self._nodes.pop(next(iter(self._nodes))).close()
            finally:
                if node is not None:
                    node.close()

    def result(self, case: Case, *, final: bool = True) -> dict[str, Any]:
        """Run a case once; the format's ``result``."""
        with self.run(case) as run:
            for step in case["steps"]:
                run.take(step)
            return {"steps": run.steps, "final": run.final() if final else {}}

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()
        self._nodes.clear()

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ------------------------------------------------------------------------------------------------------ what is random


def _fields(frame: bytes) -> dict[str, int]:
    """All header fields but checksums, by the format's names."""
    dissection = dissect(frame)
    found: dict[str, int] = {}
    for part in dissection.fields:
        if not part.name.endswith(("checksum", "payload", "data")):
            name = _FORMAT_NAMES.get(part.name, part.name)
            found.setdefault(f"inner.{name}" if part.path == "icmp" else name, dissection.value(part))
    return found


def _merge_frames(frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if len({(one["interface"], len(one["frame"])) for one in frames}) != 1:
        raise NondeterministicError("frames of several kinds")
    merged = dict(frames[0])
    seen = [_fields(bytes.fromhex(one["frame"])) for one in frames]
    names = sorted(name for name in seen[0] if len({one.get(name) for one in seen}) > 1)
    try:
        masked = {mask_fields(bytes.fromhex(one["frame"]), names) for one in frames}
    except ObjectError as error:  # such a field is no single one
        raise NondeterministicError(f"frames that differ in {', '.join(names)}") from error
    if len(masked) != 1:
        raise NondeterministicError("frames that differ in more than header fields")
    if names:
        merged |= {"frame": masked.pop().hex(), "random": names}
    return merged


def _merge_values(values: Sequence[Any]) -> Any:
    """Null where they differ."""
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, dict) for value in values):
        keys = sorted({key for value in values for key in value})
        return {key: _merge_values([value.get(key) for value in values]) for key in keys}
    return None


def _merge_lists(name: str, lists: Sequence[Sequence[Any]]) -> list[Any]:
    if len({len(one) for one in lists}) != 1:
        raise NondeterministicError(f"{name} of several lengths")
    return [_merge_values(group) for group in zip(*lists, strict=True)]


class NondeterministicError(Exception):
    """Runs of one case differ in more than single fields: what the kernel draws decides what happens."""


def merge(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several runs of one case as one result that says what differed between them (``random``, null).

    Raises:
        NondeterministicError: The runs differ in more than single fields.
    """
    steps: list[dict[str, Any]] = []
    for runs in zip(*(result["steps"] for result in results), strict=True):
        emitted = [run["emitted"] for run in runs]
        if len({len(one) for one in emitted}) != 1:
            raise NondeterministicError("several numbers of frames")
        step: dict[str, Any] = {"emitted": [_merge_frames(group) for group in zip(*emitted, strict=True)]}
        for key in ("delivered", "sockets", "error", "rules"):
            values = [run.get(key) for run in runs]
            if any(value != values[0] for value in values):
                raise NondeterministicError(f"{key} of several kinds")
            if values[0] is not None:
                step[key] = values[0]
        if any(run.get("conntrack") for run in runs):
            step["conntrack"] = _merge_lists("conntrack", [run.get("conntrack", []) for run in runs])
        steps.append(step)
    finals = [result["final"] for result in results]
    final = dict(finals[0])
    if "conntrack" in final:
        final["conntrack"] = _merge_lists("final conntrack", [one["conntrack"] for one in finals])
    return {"steps": steps, "final": final}
