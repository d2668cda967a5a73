"""The same node on the running kernel, and what forwarding costs it in CPU time.

    source namespace            node namespace                     sink namespace
    out0 (veth) ----------------> pods  [kube-proxy's rules]  uplink ----------------> in0 (veth)
    null0 (veth) ---| (its peer is down)

One thread, pinned to one CPU, sends raw frames with ``sendmmsg`` on an ``AF_PACKET`` socket. A veth hands a frame to
its peer through that CPU's backlog, whose softirq runs where the sending system call switches softirqs on again: the
whole way of a frame, to the sink and the end of its life there, is walked in the sender's own context, and its CPU time
is the sender's (``CLOCK_PROCESS_CPUTIME_ID``, nanoseconds of the scheduler's clock). Should the work be deferred to
``ksoftirqd``, that thread's CPU time (``/proc/PID/schedstat``) is added. Where a kernel is built with
``CONFIG_IRQ_TIME_ACCOUNTING``, which takes softirqs out of both, the CPU's softirq time in ``/proc/stat`` (ticks) is
added too. Waiting for the CPU while others have it counts for nothing.

Three runs of the same frames tell what is the node's share. They take turns every few thousand frames, and the medians
of the differences count, so that a machine that is slower for a while is slower for all three:

``forwarded``
    addressed to the node: sender, a veth crossing, the node, a second veth crossing, dropped by the sink.
``dropped``
    another destination MAC: sender, a veth crossing, dropped where IP begins (``ip_rcv_core``, ``PACKET_OTHERHOST``).
``void``
    out of a veth whose peer is down, where each frame is freed: the sender alone.

``forwarded - dropped`` is the node and one veth crossing. A crossing and its drop are ``dropped - void``, so that
``forwarded - dropped - (dropped - void)`` is the node alone, from ``ip_rcv`` to the device it leaves by. That last
figure, the kernel's best, is what the emulated node is compared with.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import itertools
import json
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pktsim.netfilter.iptables_text import print_save
from pktsim.wire.addr import mac_from_text
from tests import tools
from tests.bench import forwarding_world as world

PREFIX: Final = "pkt-bench"
_NUMBERS = itertools.count()
_OFFLOADS: Final = ("tx", "rx", "sg", "tso", "gso", "gro")
_CLONE_NEWNET: Final = 0x40000000
_ETH_P_ALL: Final = 0x0003
#: Nobody's address.
OTHER_MAC: Final = "02:00:00:00:0f:0f"
#: ``UIO_MAXIOV``: messages of one call.
_AT_ONCE: Final = 1024
_RECEIVE_TIMEOUT_S: Final = 2.0
#: Frames between two readings of the clocks: long beside a reading, short beside what changes a machine's speed.
_SLICE: Final = 5000

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """``struct mmsghdr``."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint32),
    )


class Volley:
    """Frames laid out for ``sendmmsg``, so that sending them is nothing but system calls."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.count = len(frames)
        octets = b"".join(frames)
        self._octets = ctypes.create_string_buffer(octets, len(octets))
        self._iovecs = (_Iovec * self.count)()
        self._messages = (_Message * self.count)()
        at = ctypes.addressof(self._octets)
        for iovec, message, frame in zip(self._iovecs, self._messages, frames, strict=True):
            iovec.base, iovec.length = at, len(frame)
            message.iov, message.iov_length = ctypes.pointer(iovec), 1
            at += len(frame)

    def send(self, handle: socket.socket) -> None:
        """Send all frames by a packet socket that is bound to an interface."""
        done = 0
        descriptor, size = handle.fileno(), ctypes.sizeof(_Message)
        while done < self.count:
            at = ctypes.byref(self._messages, done * size)
            sent = _libc.sendmmsg(descriptor, at, min(_AT_ONCE, self.count - done), 0)
            if sent <= 0:  # so that every turn of the loop gets on
                number = ctypes.get_errno()
                raise OSError(number, f"sendmmsg: {os.strerror(number)}")
            done += sent


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread's new sockets belong to a named network namespace (Python has ``os.setns`` from 3.12 on)."""
    handles = [os.open(path, os.O_RDONLY) for path in ("/proc/thread-self/ns/net", f"/run/netns/{namespace}")]
    try:
        for handle in reversed(handles):
            if _libc.setns(handle, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"setns {namespace}: {os.strerror(number)}")
            if handle == handles[1]:
                yield
    finally:
        _libc.setns(handles[0], _CLONE_NEWNET)
        for handle in handles:
            os.close(handle)


def _packet_socket(namespace: str, interface: str, *, receive: bool) -> socket.socket:
    with inside(namespace):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    # protocol 0 sends only: a socket that receives would make the kernel copy every frame for it
    made.bind((interface, _ETH_P_ALL if receive else 0))
    made.settimeout(_RECEIVE_TIMEOUT_S)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    return made


class KernelNode:
    """The node in a network namespace of the running kernel, with kube-proxy's rules loaded by iptables-restore."""

    def __init__(self, rules: world.Rules) -> None:
        tools.need("ip", "ethtool", "sysctl", "iptables-legacy-restore")
        base = f"{PREFIX}-{os.getpid()}-{next(_NUMBERS)}"
        self.source, self.node, self.sink = (f"{base}-{place}" for place in ("source", "node", "sink"))
        self._sockets: dict[tuple[str, bool], socket.socket] = {}
        try:
            self._make(rules)
            tools.run(
                "ip", "netns", "exec", self.node, "iptables-legacy-restore",
                stdin=print_save(rules.ruleset), timeout_s=300,
            )  # fmt: skip
            self.establish([world.Flow(world.WARM_UP + number, 0) for number in range(len(world.CLIENTS))])
        except BaseException:
            self.close()
            raise

    def _make(self, rules: world.Rules) -> None:
        for name in (self.source, self.node, self.sink):
            tools.run("ip", "netns", "add", name)
            _inside(name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        _batch(
            self.node,
            f"link add pods address {world.PODS_MAC} type veth "
            f"peer out0 netns {self.source} address {world.CLIENT_MAC}",
            # the sink is not the gateway: what arrives there is dropped at once, as it is for another host
            f"link add uplink address {world.UPLINK_MAC} type veth peer in0 netns {self.sink}",
        )
        for name, device in ((self.node, "pods"), (self.node, "uplink"), (self.source, "out0"), (self.sink, "in0")):
            for offload in _OFFLOADS:  # one by one: what a device does not know is no reason to keep the others
                subprocess.run(
                    ("ip", "netns", "exec", name, "ethtool", "-K", device, offload, "off"),
                    capture_output=True,
                    check=False,
                )
        settings = [f"{name}={value}" for name, value in rules.settings.items()]
        _batch(self.source, "link add null0 type veth peer null1", "link set null0 up", "link set out0 up")
        _batch(self.sink, "link set in0 up")
        _batch(
            self.node,
            f"address add {world.PODS_ADDRESS} dev pods",
            f"address add {world.UPLINK_ADDRESS} dev uplink",
            "link set lo up",
            "link set pods up",
            "link set uplink up",
            f"route add {world.ENDPOINT_NETWORK} via {world.GATEWAY}",
            f"neighbour replace {world.GATEWAY} lladdr {world.GATEWAY_MAC} dev uplink nud permanent",
            *(
                f"neighbour replace {client} lladdr {world.CLIENT_MAC} dev pods nud permanent"
                for client in world.CLIENTS
            ),
        )
        # the conntrack settings are there once something uses conntrack in the namespace
        _inside(self.node, "iptables-legacy", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID")
        _inside(self.node, "sysctl", "-qw", *settings)

    # frames

    def _socket(self, namespace: str, interface: str, *, receive: bool) -> socket.socket:
        key = (interface, receive)
        if key not in self._sockets:
            self._sockets[key] = _packet_socket(namespace, interface, receive=receive)
        return self._sockets[key]

    def forward(self, interface: str, frame: bytes) -> bytes:
        """Let one frame through; what comes out at the other side."""
        return self.batch(interface, [frame])[0]

    def batch(self, interface: str, frames: Sequence[bytes]) -> list[bytes]:
        """Let frames through, one after the other; what comes out at the other side, one for each."""
        source, sink = (self.source, "out0"), (self.sink, "in0")
        if interface == "uplink":
            source, sink = sink, source
        sender = self._socket(*source, receive=False)
        receiver = self._socket(*sink, receive=True)
        out = []
        for frame in frames:
            sender.send(frame)
            seen = receiver.recvmsg(65536)
            while seen[3][2] == socket.PACKET_OUTGOING:  # its own sending, in the other direction
                seen = receiver.recvmsg(65536)
            out.append(seen[0])
        return out

    def establish(self, connections: Sequence[world.Flow]) -> dict[world.Flow, bytes]:
        """Shake hands; each flow's SYN as it was forwarded."""
        forwarded = {}
        for flow in connections:
            forwarded[flow] = self.forward("pods", flow.syn())
            self.forward("uplink", flow.syn_ack(forwarded[flow]))
            self.forward("pods", flow.ack())
        self._close_receivers()
        return forwarded

    def _close_receivers(self) -> None:
        for key in [key for key in self._sockets if key[1]]:
            self._sockets.pop(key).close()

    # measuring

    def measure(self, frames: Sequence[bytes], into: Measurement) -> None:
        """Make each of the runs that the module's docstring describes, in slices that take turns.

        Args:
            frames: From the source, addressed to the node.
            into: Gets the CPU times.

        Raises:
            AssertionError: Not all frames came out of the node.
        """
        self._close_receivers()
        wire = self._socket(self.source, "out0", receive=False)
        void = self._socket(self.source, "null0", receive=False)
        slices = [frames[at : at + _SLICE] for at in range(0, len(frames), _SLICE)]
        volleys = [Volley(part) for part in slices]
        strangers = [Volley([mac_from_text(OTHER_MAC) + frame[6:] for frame in part]) for part in slices]
        apart, before = irq_time_apart(), self._arrived()
        with _OneCpu(apart=apart) as cpu:
            for volley, stranger in zip(volleys, strangers, strict=True):
                into.forwarded.append(cpu.time(volley, wire))
                into.dropped.append(cpu.time(stranger, wire))
                into.void.append(cpu.time(volley, void))
        arrived = self._arrived() - before
        assert arrived == len(frames), f"{arrived} of {len(frames)} frames came out of the kernel's node"

    def _arrived(self) -> int:
        (link,) = json.loads(tools.run("ip", "-n", self.sink, "-s", "-j", "link", "show", "in0"))
        return int(link["stats64"]["rx"]["packets"])

    def close(self) -> None:
        """Remove everything; may be called again."""
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()
        for name in (self.source, self.node, self.sink):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class CpuTime:
    """What sending one slice took, in nanoseconds."""

    frames: int
    process: int
    ksoftirqd: int
    softirq: int  # from ticks; part of the other two unless this kernel keeps it apart
    apart: bool

    @property
    def per_frame(self) -> float:
        return (self.process + self.ksoftirqd + (self.softirq if self.apart else 0)) / self.frames


class Measurement:
    """All slices of all runs; the three of one place in the lists were made one right after the other."""

    def __init__(self) -> None:
        self.forwarded: list[CpuTime] = []
        self.dropped: list[CpuTime] = []
        self.void: list[CpuTime] = []

    @property
    def with_crossing_ns(self) -> float:
        """The node and one veth crossing, per frame: the median of the slices' differences."""
        pairs = zip(self.forwarded, self.dropped, strict=True)
        return statistics.median(there.per_frame - near.per_frame for there, near in pairs)

    @property
    def crossing_ns(self) -> float:
        """A veth crossing and the drop behind it, likewise."""
        pairs = zip(self.dropped, self.void, strict=True)
        return statistics.median(near.per_frame - void.per_frame for near, void in pairs)

    @property
    def node_ns(self) -> float:
        """The node alone, likewise."""
        triples = zip(self.forwarded, self.dropped, self.void, strict=True)
        return statistics.median(there.per_frame - 2 * near.per_frame + void.per_frame for there, near, void in triples)

    def lines(self) -> Iterator[str]:
        """The raw figures: quartiles of the slices' nanoseconds per frame, and how much of it was deferred."""
        for name, runs in (("forwarded", self.forwarded), ("dropped", self.dropped), ("void", self.void)):
            times = sorted(run.per_frame for run in runs)
            quarters = [times[round(part * (len(times) - 1) / 4)] for part in range(5)]
            frames = sum(run.frames for run in runs)
            yield (
                f"  kernel {name:9}: ns/frame of {len(runs)} slices, quartiles "
                + " ".join(f"{quarter:.0f}" for quarter in quarters)
                + f"; sum of process {sum(run.process for run in runs) / 1e6:.1f} ms, "
                f"ksoftirqd {sum(run.ksoftirqd for run in runs) / 1e6:.1f} ms, "
                f"softirq by ticks {sum(run.softirq for run in runs) / 1e6:.0f} ms, {frames:,} frames"
            )


def irq_time_apart() -> bool:
    """Whether this kernel keeps softirq time apart from that of threads (``CONFIG_IRQ_TIME_ACCOUNTING``)."""
    packed, plain = Path("/proc/config.gz"), Path(f"/boot/config-{os.uname().release}")
    if packed.exists():
        return b"CONFIG_IRQ_TIME_ACCOUNTING=y\n" in gzip.decompress(packed.read_bytes())
    return plain.exists() and "CONFIG_IRQ_TIME_ACCOUNTING=y\n" in plain.read_text()


class _OneCpu:
    """This thread on one CPU for a while, and the clocks of what runs there for it."""

    def __init__(self, *, apart: bool) -> None:
        self._allowed = os.sched_getaffinity(0)
        self._cpu = max(self._allowed)
        self._apart = apart
        # /proc/PID/schedstat of the thread that softirqs are deferred to, None where it is out of sight
        self._ksoftirqd: Path | None = None
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (path / "comm").read_text() == f"ksoftirqd/{self._cpu}\n":
                    self._ksoftirqd = path / "schedstat"

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, {self._cpu})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.sched_setaffinity(0, self._allowed)

    def _ksoftirqd_ns(self) -> int:
        return int(self._ksoftirqd.read_text().split()[0]) if self._ksoftirqd is not None else 0

    def _softirq_ns(self) -> int:
        for line in Path("/proc/stat").read_text().splitlines():
            words = line.split()
            if words[0] == f"cpu{self._cpu}":
                return int(words[7]) * 10**9 // os.sysconf("SC_CLK_TCK")
        return 0

    def time(self, volley: Volley, handle: socket.socket) -> CpuTime:
        """Send frames, and tell what CPU time that took."""
        deferred, ticks = self._ksoftirqd_ns(), self._softirq_ns()
        before = time.process_time_ns()
        volley.send(handle)
        process = time.process_time_ns() - before
        deferred, ticks = self._ksoftirqd_ns() - deferred, self._softirq_ns() - ticks
        return CpuTime(volley.count, process, deferred, ticks, self._apart)


def _inside(namespace: str, *command: str) -> None:
    tools.run("ip", "netns", "exec", namespace, *command)


def _batch(namespace: str, *lines: str) -> None:
    tools.run("ip", "-n", namespace, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def why_not() -> str:
    """Why this machine cannot run it, or an empty string."""
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces need root"
    name = f"{PREFIX}-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return ""


def remove_stale() -> None:
    """Remove namespaces that a killed run has left."""
    for path in Path("/run/netns").glob(f"{PREFIX}-*"):
        pid = path.name.removeprefix(f"{PREFIX}-").split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            subprocess.run(["ip", "netns", "delete", path.name], capture_output=True, check=False)
