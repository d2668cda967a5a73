"""The running kernel drops what our kernel drops, and calls it by the name that we have for it or by none.

Stories of ``tests/kernel`` that need no more than frames are told to both; what Linux says is the reason of its
tracepoint ``skb:kfree_skb``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from pktsim.kernel.tcp_segment import ACK
from pktsim.netfilter.opcodes import DropReason
from tests.kernel import drop_stories_host
from tests.kernel.drop_stories import FAR, PEER, STORIES
from tests.kernel.drop_stories_tcp import SEGMENTS, Client
from tests.kernel.worlds import HOST_MAC, PEER_MAC, Host
from tests.live import netns
from tests.live.drop_monitor import DropMonitor, monitored

#: That module fills the table.
assert drop_stories_host

_UNNAMED = "NOT_SPECIFIED"
#: Linux's name where ours is another one; it has none for many of those that it drops all the same.
NAMES = {
    DropReason.OTHER_HOST: "OTHERHOST",
    DropReason.NO_PROTOCOL: "UNHANDLED_PROTO",
    DropReason.IP_HEADER: "IP_INHDR",
    DropReason.IP_CHECKSUM: "IP_CSUM",
    DropReason.RULE: "NETFILTER_DROP",
    DropReason.POLICY: "NETFILTER_DROP",
    DropReason.HOTDROP: "NETFILTER_DROP",
    DropReason.NAT: "NETFILTER_DROP",
    DropReason.CONNTRACK_CLASH: "NETFILTER_DROP",
    DropReason.MARTIAN_SOURCE: "IP_INVALID_SOURCE",
    DropReason.MARTIAN_DESTINATION: "IP_INVALID_DEST",
    DropReason.RP_FILTER: "IP_RPFILTER",
    DropReason.NO_ROUTE: "IP_INNOROUTES",
    DropReason.ROUTE_BLACKHOLE: _UNNAMED,
    DropReason.NOT_FORWARDING: "IP_INADDRERRORS",
    DropReason.TTL_EXPIRED: "IP_INHDR",
    DropReason.FRAGMENT_NEEDED: "PKT_TOO_BIG",
    DropReason.FRAGMENT_BAD: _UNNAMED,
    DropReason.TRANSPORT_HEADER: _UNNAMED,
    DropReason.TRANSPORT_CHECKSUM: "TCP_CSUM",
    DropReason.UNICAST_IN_L2_MULTICAST: _UNNAMED,
    DropReason.GROUP_NOT_JOINED: _UNNAMED,
    DropReason.ARP_INVALID: _UNNAMED,
    DropReason.ARP_GRATUITOUS: _UNNAMED,
    DropReason.NDISC_INVALID: _UNNAMED,
    DropReason.NDISC_UNSOLICITED: _UNNAMED,
    DropReason.NDISC_IGNORED: _UNNAMED,
}
#: Those that have the same name.
SAME = (
    DropReason.NO_SOCKET,
    DropReason.IP_LOCALNET,
    DropReason.IP_LOCAL_SOURCE,
    DropReason.IPV6DISABLED,
    DropReason.DUP_FRAG,
    DropReason.FRAG_TOO_FAR,
    DropReason.NEIGH_QUEUEFULL,
    DropReason.UNHANDLED_PROTO,
    DropReason.INVALID_PROTO,
    DropReason.IPV6_NDISC_FRAG,
    DropReason.IPV6_NDISC_HOP_LIMIT,
    DropReason.IPV6_NDISC_BAD_CODE,
    DropReason.IPV6_NDISC_BAD_OPTIONS,
    DropReason.IPV6_NDISC_NS_OTHERHOST,
)
EXPECTED = NAMES | {reason: reason.name for reason in SAME}
#: Not TCP_TOO_OLD_ACK: header prediction (tcp_rcv_established) does not ask what tcp_ack says.
TCP = (
    DropReason.TCP_RESET,
    DropReason.TCP_INVALID_SYN,
    DropReason.TCP_OLD_SEQUENCE,
    DropReason.TCP_INVALID_SEQUENCE,
    DropReason.TCP_RFC7323_PAWS,
    DropReason.TCP_ACK_UNSENT_DATA,
    DropReason.TCP_OLD_DATA,
    DropReason.TCP_OFOMERGE,
)
LISTENER = """
import socket, time
listening = socket.socket()
listening.bind(("10.0.0.1", 80))
listening.listen(50)
print("ready", flush=True)
time.sleep(100)
"""
#: A softirq that another process runs is not seen: then once more.
ATTEMPTS = 8


@dataclass
class Settings:
    """What stories ask of our namespace, done to the kernel's."""

    node: netns.Namespace

    def address_add(self, name: str, address: str) -> None:
        self.node.run("ip", "address", "replace", address, "dev", name, "nodad")

    def neighbour_add(self, name: str, address: str, mac: str) -> None:
        self.node.run("ip", "neighbour", "replace", address, "lladdr", mac, "dev", name)

    def route_add(self, text: str) -> None:
        self.node.run("ip", "route", "replace", *text.split())


class KernelHost(Host):
    """The stories' host, being the kernel."""

    def __init__(self, node: netns.Namespace) -> None:
        super().__init__(cast(Any, Settings(node)), cast(Any, None), cast(Any, None))
        self.node = node

    def give(self, name: str, frame: bytes) -> None:
        self.node.send(name, frame)
        self.sent += [(seen.interface, seen.frame) for seen in self.node.frames() if seen.direction == "out"]


@contextmanager
def watched(namespace: Callable[..., netns.Namespace], directory: Path) -> Iterator[tuple[KernelHost, DropMonitor]]:
    node = namespace(
        [
            netns.Link("eth0", HOST_MAC, ("10.0.0.1/24",)),
            netns.Link("eth1", "02:00:00:00:00:02", ("10.0.1.1/24",)),
            netns.Link("bare0", "02:00:00:00:00:03"),
        ],
        neighbours=[(PEER, PEER_MAC, "eth0"), (FAR, PEER_MAC, "eth1")],
        sysctls={
            "net.ipv4.ip_forward": 1, "net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.default.rp_filter": 0,
            "net.ipv4.tcp_invalid_ratelimit": 0,
        },
        ipv6=True,
    )  # fmt: skip
    assert node._wires is not None
    with monitored(node._wires.pid, directory) as drops:
        yield KernelHost(node), drops


def assert_dropped(drops: DropMonitor, act: Callable[[], object], wanted: str) -> None:
    found = []
    for _ in range(ATTEMPTS):
        drops.take()
        act()
        found = drops.take()
        if wanted in found:
            return
    pytest.fail(f"no {wanted} among {found}")


QUIET = [reason for reason in EXPECTED if not STORIES[reason][0] and not STORIES[reason][1]]


def test_reasons_of_what_needs_no_rules(namespace: Callable[..., netns.Namespace], tmp_path: Path) -> None:
    with watched(namespace, tmp_path) as (host, drops):
        for reason in QUIET:
            assert_dropped(drops, lambda reason=reason: STORIES[reason][2](host), EXPECTED[reason])  # type: ignore[misc]


@pytest.mark.parametrize("reason", [reason for reason in EXPECTED if reason not in QUIET])
def test_reasons_of_what_rules_and_settings_decide(
    namespace: Callable[..., netns.Namespace], tmp_path: Path, reason: DropReason
) -> None:
    rules, sysctls, act = STORIES[reason]
    with watched(namespace, tmp_path) as (host, drops):
        if rules:
            host.node.iptables_restore(rules)
        for name, value in sysctls.items():
            host.node.sysctl(name, value)
        assert_dropped(drops, lambda: act(host), EXPECTED[reason])


def test_reasons_of_tcp(namespace: Callable[..., netns.Namespace], tmp_path: Path) -> None:
    with watched(namespace, tmp_path) as (host, drops):
        command = ["ip", "netns", "exec", host.node.name, sys.executable, "-c", LISTENER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            ports = iter(range(4000, 5000))

            def connected() -> Client:
                client = Client(host, port=next(ports))
                client.half_open()
                client.give(ACK)
                return client

            try:
                assert_dropped(drops, lambda: Client(host, port=next(ports)).give(ACK), "TCP_FLAGS")
                for reason in TCP:
                    act = SEGMENTS[reason]
                    assert_dropped(drops, lambda act=act: act(connected(), cast(Any, None)), reason.name)  # type: ignore[misc]
            finally:
                server.kill()
