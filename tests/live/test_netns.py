"""The harness itself: what is sent arrives, what comes out is seen, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_ARP, ETH_P_IP, ICMP_ECHO, FrameView, arp, ethernet, icmp, ipv4, udp
from pktsim.wire.summary import summary
from tests.live.netns import PREFIX, Link, Namespace, Seen

NODE0, NODE1 = "02:00:00:00:00:01", "02:00:00:00:00:02"
HOST0, HOST1 = "02:ff:00:00:00:01", "02:ff:00:00:00:02"
LINKS = (
    Link("eth0", NODE0, ("10.0.0.1/24",), far_mac=HOST0),
    Link("eth1", NODE1, ("10.0.1.1/24",), far_mac=HOST1),
)
A, B, VIP = ip_from_text("10.0.0.2"), ip_from_text("10.0.1.2"), ip_from_text("172.30.0.1")
NEIGHBOURS = (("10.0.0.2", HOST0, "eth0"), ("10.0.1.2", HOST1, "eth1"))

Maker = Callable[..., Namespace]


def to_node(packet: bytes) -> bytes:
    return ethernet(mac_from_text(NODE0), mac_from_text(HOST0), ETH_P_IP, packet)


def test_a_frame_is_forwarded(namespace: Maker) -> None:
    node = namespace(LINKS, neighbours=NEIGHBOURS, sysctls={"net.ipv4.ip_forward": 1})
    packet = ipv4(A, B, 17, udp(A, B, 1000, 2000, b"hello"), identification=1)
    expected = ipv4(A, B, 17, udp(A, B, 1000, 2000, b"hello"), identification=1, ttl=63)
    frame = ethernet(mac_from_text(HOST1), mac_from_text(NODE1), ETH_P_IP, expected)
    assert node.exchange("eth0", to_node(packet)) == [Seen("eth1", "out", frame)]
    assert node.frames() == []


def test_the_node_answers_for_itself(namespace: Maker) -> None:
    node = namespace(LINKS, neighbours=NEIGHBOURS)
    ask = ethernet(
        b"\xff" * 6, mac_from_text(HOST0), ETH_P_ARP, arp(1, mac_from_text(HOST0), A, bytes(6), b"\x0a\0\0\1")
    )
    (answer,) = node.exchange("eth0", ask)
    assert summary(answer.frame) == f"ARP, Reply 10.0.0.1 is-at {NODE0}, length 28"
    (pong,) = node.exchange("eth0", to_node(ipv4(A, b"\x0a\0\0\1", 1, icmp(ICMP_ECHO, 0, 1, b"x" * 1000))))
    view = FrameView(pong.frame)
    assert (view.icmp_type, view.bad_checksums()) == (0, ())


def test_rules_conntrack_and_both_sides(namespace: Maker) -> None:
    node = namespace(LINKS, neighbours=NEIGHBOURS, sysctls={"net.ipv4.ip_forward": 1}, near=("eth0", "eth1"))
    node.iptables_restore(
        "*nat\n:PREROUTING ACCEPT [0:0]\n"
        "-A PREROUTING -d 172.30.0.1/32 -p udp -j DNAT --to-destination 10.0.1.2:53\nCOMMIT\n"
    )
    seen = node.exchange("eth0", to_node(ipv4(A, VIP, 17, udp(A, VIP, 1000, 80, b"hello"))))
    assert [(one.interface, one.direction, one.near, FrameView(one.frame).daddr) for one in sorted(seen, key=str)] == [
        ("eth0", "in", True, VIP),
        ("eth1", "out", False, B),
        ("eth1", "out", True, B),
    ]
    (entry,) = node.conntrack()
    assert "dst=172.30.0.1 sport=1000 dport=80 [UNREPLIED] src=10.0.1.2 dst=10.0.0.2" in entry
    assert "--to-destination 10.0.1.2:53" in node.iptables_save()


def test_bridge_ports_flood(namespace: Maker) -> None:
    links = (
        Link("br0", NODE0, ("10.0.0.1/24",), kind="bridge"),
        *(Link(f"port{n}", f"02:00:00:00:01:0{n}", master="br0") for n in range(3)),
    )
    node = namespace(links)
    frame = ethernet(b"\xff" * 6, mac_from_text(HOST0), 0x88B5, b"to all")
    assert sorted(seen.interface for seen in node.exchange("port0", frame)) == ["port1", "port2"]


def test_many_frames_are_all_seen_in_order(namespace: Maker) -> None:
    node = namespace(LINKS, neighbours=NEIGHBOURS, sysctls={"net.ipv4.ip_forward": 1})
    for number in range(300):
        node.send("eth0", to_node(ipv4(A, B, 17, udp(A, B, 1000, number, b""), identification=number)))
    assert [FrameView(seen.frame).dport for seen in node.frames()] == list(range(300))


def test_a_timer_can_be_waited_for(namespace: Maker) -> None:
    node = namespace(LINKS, sysctls={"net.ipv4.ip_forward": 1, "net.ipv4.neigh.eth1.retrans_time_ms": 20})
    seen = list(node.exchange("eth0", to_node(ipv4(A, B, 17, udp(A, B, 1, 2, b"who?")))))
    assert summary(seen[0].frame) == "ARP, Request who-has 10.0.1.2 tell 10.0.1.1, length 28"
    if len(seen) == 1:  # on a busy machine the timer has gone off by now
        seen += node.frames(timeout_s=10)
    assert seen[1].interface == "eth1"


def test_nothing_is_left_behind(namespace: Maker) -> None:
    node = namespace(LINKS)
    assert (Path("/run/netns") / node.name).exists()
    node.close()
    assert not (Path("/run/netns") / node.name).exists()
    assert not (Path("/run/netns") / node.far).exists()
    node.close()


def test_a_namespace_that_cannot_be_made_leaves_nothing(namespace: Maker) -> None:
    own = f"{PREFIX}-{os.getpid()}-*"  # others come and go meanwhile
    before = set(Path("/run/netns").glob(own))
    with pytest.raises(AssertionError, match="exit status"):
        namespace(LINKS, routes=["10.9.0.0/24 via 10.99.0.1"])
    assert set(Path("/run/netns").glob(own)) == before


def test_a_program_that_fails_inside_is_an_error(namespace: Maker) -> None:
    node = namespace(())
    with pytest.raises((AssertionError, subprocess.SubprocessError)):
        node.run("ip", "link", "show", "nothing0")
