"""The comparison itself: pairs of runs that must agree, and pairs that must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from pktsim.cluster.comparison import (
    Fixed,
    compare_conntrack,
    compare_counters,
    compare_frames,
    compare_output,
)
from pktsim.cluster.comparison_types import Seen

FIXED = Fixed(ports=frozenset((40001, 80, 8080, 53)), icmp_idents=frozenset((0x1234,)), masqueraded=frozenset((20954,)))
C, V, P = "10.1.1.2", "172.30.0.1", "10.1.2.1"


def _tcp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    flags: str,
    seq: int,
    ack: int,
    ts: tuple[int, int],
    ident: int,
    **more: object,
) -> bytes:
    ttl, body = more.get("ttl", 64), more.get("body", b"")
    return bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src=src, dst=dst, id=ident, ttl=ttl, flags="DF")
        / TCP(sport=sport, dport=dport, flags=flags, seq=seq % 2**32, ack=ack % 2**32, options=[("Timestamp", ts)])
        / Raw(body)
    )


def run(
    isn: int = 1000,
    peer_isn: int = 9000,
    ts: int = 5,
    ident: int = 70,
    port: int = 40001,
    masq: int = 20954,
    dns: int = 3,
) -> list[Seen]:
    """A look-up and a connection through a cluster IP and a masquerade, seen at the client, its node and the pod."""

    def seen(at_s: float, where: str, direction: str, frame: bytes) -> Seen:
        space, interface = where.split("/")
        return Seen(at_s, space, interface, direction, frame)

    query = bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src=C, dst="172.30.0.10", id=ident + 900)
        / UDP(sport=dns + 50000, dport=53)
        / DNS(id=dns, qd=DNSQR(qname="web.default.svc.cluster.local"))
    )
    body = f"web-1 saw 10.1.1.254:{masq}\n".encode()
    return [
        seen(0.0, "client/eth0", "out", query),
        seen(0.1, "client/eth0", "out", _tcp(C, V, port, 80, "S", isn, 0, (ts, 0), ident)),
        seen(0.1, "web-2/eth0", "in", _tcp("10.1.1.254", P, masq, 8080, "S", isn, 0, (ts, 0), ident, ttl=62)),
        seen(0.2, "web-2/eth0", "out", _tcp(P, "10.1.1.254", 8080, masq, "SA", peer_isn, isn + 1, (9, ts), 0)),
        seen(0.2, "client/eth0", "in", _tcp(V, C, 80, port, "SA", peer_isn, isn + 1, (9, ts), 0, ttl=62)),
        seen(0.3, "client/eth0", "out", _tcp(C, V, port, 80, "A", isn + 1, peer_isn + 1, (ts + 1, 9), ident + 1)),
        seen(
            0.4,
            "web-2/eth0",
            "out",
            _tcp(P, "10.1.1.254", 8080, masq, "PA", peer_isn + 1, isn + 1, (9, ts), 5, body=body),
        ),
    ]


@pytest.mark.parametrize(
    "other",
    [
        run(),
        run(isn=0xFFFFFFFF),
        run(isn=1 << 31, peer_isn=77),
        run(ts=123456),
        run(ident=65535 - 900),
        run(masq=1024 + 9000),
        run(dns=999),
        [replace(seen, at_s=seen.at_s * 3 + 7) for seen in run()],
    ],
    ids=["same", "isn wraps", "both isns", "time stamps", "ids", "masquerade port", "dns id and port", "times"],
)
def test_random_values_may_differ(other: list[Seen]) -> None:
    difference, _ = compare_frames(run(), other, FIXED)
    assert difference is None, str(difference)


def _edit(index: int, change: Callable[[Ether], object]) -> Callable[[list[Seen]], list[Seen]]:
    def edited(frames: list[Seen]) -> list[Seen]:
        packet = Ether(frames[index].frame)
        change(packet)
        for layer in (IP, TCP, UDP):
            if layer in packet and "chksum" not in getattr(change, "keeps", ()):
                del packet[layer].chksum
        return [*frames[:index], replace(frames[index], frame=bytes(packet)), *frames[index + 1 :]]

    return edited


def _set(layer: type[object], name: str, value: object) -> Callable[[Ether], None]:
    def change(packet: Ether) -> None:
        setattr(packet[layer], name, value)

    return change


def _wrong_checksum(frames: list[Seen]) -> list[Seen]:
    frame = bytearray(frames[1].frame)
    frame[14 + 20 + 16] ^= 1
    return [frames[0], replace(frames[1], frame=bytes(frame)), *frames[2:]]


@pytest.mark.parametrize(
    ("spoil", "where", "what"),
    [
        (_edit(1, _set(IP, "ttl", 63)), "client/eth0, frame 2 of 4", "ip.ttl: 64 (0x40) recorded, 63 (0x3f) here"),
        (lambda f: f[:-1], "web-2/eth0, frame 3 of 3", "missing"),
        (lambda f: [*f, f[-1]], "web-2/eth0, frame 4 of 3", "one too many"),
        (lambda f: [f[0], f[5], f[2], f[3], f[4], f[1]], "client/eth0, frame 2 of 4", "tcp.seq"),
        (lambda f: [*f[:4], replace(f[4], direction="out"), *f[5:]], "client/eth0, frame 3 of 4", "direction"),
        (lambda f: [*f[:2], replace(f[2], interface="lo"), *f[3:]], "web-2/eth0, frame 1 of 3", "direction"),
        (_edit(5, _set(TCP, "seq", 1002)), "client/eth0, frame 4 of 4", "tcp.seq"),
        (_edit(5, _set(TCP, "ack", 9002)), "client/eth0, frame 4 of 4", "tcp.ack"),
        (_edit(1, _set(TCP, "sport", 40002)), "client/eth0, frame 2 of 4", "tcp.srcport"),
        (_edit(1, _set(TCP, "window", 1)), "client/eth0, frame 2 of 4", "tcp.window_size_value"),
        (_edit(3, _set(IP, "id", 1)), "web-2/eth0, frame 2 of 3", "ip.id"),
        (_edit(5, _set(IP, "id", 99)), "client/eth0, frame 4 of 4", "ip.id"),
        (
            _edit(1, _set(TCP, "options", [("Timestamp", (5, 1))])),
            "client/eth0, frame 2",
            "tcp.options.timestamp.tsecr",
        ),
        (_edit(2, _set(TCP, "sport", 20955)), "web-2/eth0, frame 2 of 3", "tcp.dstport"),
        (_edit(6, _set(Raw, "load", b"web-1 saw 10.1.1.254:20955\n")), "web-2/eth0, frame 3 of 3", "tcp.payload"),
        (_edit(0, _set(Ether, "src", "02:00:00:00:00:09")), "client/eth0, frame 1 of 4", "eth.src"),
        (_wrong_checksum, "client/eth0, frame 2 of 4", "tcp.checksum"),
    ],
)
def test_anything_else_may_not(spoil: Callable[[list[Seen]], list[Seen]], where: str, what: str) -> None:
    difference, _ = compare_frames(run(), spoil(run()), FIXED)
    assert difference is not None
    assert difference.where.startswith(where)
    assert what in difference.what
    # and the other way round
    assert compare_frames(spoil(run()), run(), FIXED)[0] is not None


def test_of_several_differences_the_earliest_is_told() -> None:
    spoilt = _edit(6, _set(TCP, "window", 7))(_edit(1, _set(IP, "ttl", 9))(run()))
    difference, _ = compare_frames(run(), spoilt, FIXED)
    assert difference is not None
    assert "ip.ttl" in difference.what
    assert difference.recorded.startswith("0.100000 out IP 10.1.1.2.40001 > 172.30.0.1.80: Flags [S]")
    assert difference.ours.startswith("0.100000 out IP 10.1.1.2.40001 > 172.30.0.1.80: Flags [S]")


def test_two_random_ports_may_not_become_one() -> None:
    def ping(*idents: int) -> list[Seen]:
        head = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=C, dst=P)
        return [Seen(0, "a", "eth0", "out", bytes(head / ICMP(id=ident))) for ident in idents]

    assert compare_frames(ping(1, 2, 1), ping(8, 9, 8), FIXED)[0] is None
    assert compare_frames(ping(1, 2, 1), ping(8, 9, 9), FIXED)[0] is not None
    assert compare_frames(ping(1, 2), ping(8, 8), FIXED)[0] is not None
    assert compare_frames(ping(0x1234), ping(8), FIXED)[0] is not None


def test_tunnel_port_is_one_for_one_inner_flow() -> None:
    def tunnel(*ports: int) -> list[Seen]:
        inner = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=C, dst=P) / UDP(sport=40001, dport=80)
        outer = Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04") / IP(src="192.168.0.11", dst="192.168.0.12")
        return [
            Seen(0, "node-a", "eth0", "out", bytes(outer / UDP(sport=port, dport=8472) / VXLAN(vni=1) / inner))
            for port in ports
        ]

    assert compare_frames(tunnel(40500, 40500), tunnel(50000, 50000), FIXED)[0] is None
    assert compare_frames(tunnel(40500, 40500), tunnel(50000, 50001), FIXED)[0] is not None


LINE = (
    "ipv4     2 tcp      6 119 TIME_WAIT src=10.1.1.2 dst=172.30.0.1 sport=40001 dport=80 "
    "src=10.1.2.1 dst=10.1.1.254 sport=8080 dport={port} [ASSURED] mark=0 use=1"
)


@pytest.mark.parametrize(("source", "agree"), [("::1", True), ("fd00::1", False)])
def test_a_flow_label_stands_for_one_unless_every_host_has_that_address(source: str, agree: bool) -> None:
    def labelled(*labels: int) -> list[Seen]:
        head = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        packets = [
            bytes(head / IPv6(src=source, dst="fd00::2", fl=label) / UDP(sport=80, dport=80)) for label in labels
        ]
        return [Seen(0, f"host-{number}", "eth0", "out", packet) for number, packet in enumerate(packets)]

    assert (compare_frames(labelled(5, 5), labelled(7, 8), FIXED)[0] is None) == agree
    assert compare_frames(labelled(5, 5), labelled(7, 7), FIXED)[0] is None
    assert compare_frames(labelled(5, 5), labelled(7, 0), FIXED)[0] is not None


def test_conntrack_lines_are_sets_with_mapped_ports() -> None:
    _, random = compare_frames(run(), run(masq=3000), FIXED)
    real = {"node-a": [LINE.format(port=20954), "ipv4     2 udp      17 29 src=1 dst=2 mark=0 use=1"]}
    ours = {"node-a": ["ipv4     2 udp      17 7 src=1 dst=2 mark=0 use=1", LINE.format(port=3000)]}
    assert compare_conntrack(real, ours, random) is None
    for spoilt in (
        {"node-a": ours["node-a"][:1]},
        {"node-a": [*ours["node-a"], LINE.format(port=3001)]},
        {"node-a": [ours["node-a"][0], LINE.format(port=3001)]},
        {"node-a": [ours["node-a"][0], LINE.format(port=3000).replace("TIME_WAIT", "CLOSE")]},
        {"node-a": ours["node-a"], "node-b": [LINE]},
    ):
        difference = compare_conntrack(real, spoilt, random)
        assert difference is not None
        assert difference.where.startswith("conntrack of node-")


def test_masqueraded_icmp_ids_that_no_frame_shows_correspond_by_their_entries() -> None:
    _, random = compare_frames(run(), run(), FIXED)
    line = (
        "ipv4     2 icmp     1 26 src=10.244.2.2 dst={dst} type=8 code=0 id=4660 [UNREPLIED] src={dst} "
        "dst=192.168.0.12 type=0 code=0 id={id} mark=0 use=1"
    )
    real = [line.format(dst="192.0.2.1", id=14060), line.format(dst="192.0.2.2", id=77)]
    ours = [line.format(dst="192.0.2.2", id=9), line.format(dst="192.0.2.1", id=9)]
    assert compare_conntrack({"a": real[:1]}, {"a": ours[1:]}, random) is None
    assert compare_conntrack({"a": real}, {"a": ours}, random) is not None  # two ids may not become one
    unmasqueraded = [line.format(dst="192.0.2.1", id=4660)]
    assert compare_conntrack({"a": unmasqueraded}, {"a": ours[1:]}, random) is not None


def test_a_counter_off_by_one() -> None:
    real = {"node-a": {"nat/KUBE-SERVICES/2": (1, 60), "nat/OUTPUT/1": (3, 180)}}
    assert compare_counters(real, {"node-a": {**real["node-a"], "filter/INPUT/policy": (0, 0)}}) is None
    difference = compare_counters(real, {"node-a": {**real["node-a"], "nat/OUTPUT/1": (3, 181)}})
    assert difference is not None
    assert str(difference) == (
        "counters of node-a: nat/OUTPUT/1\n  recorded: 3 packets, 180 bytes\n  pktsim:   3 packets, 181 bytes"
    )
    assert compare_counters(real, {}) is not None
    assert compare_counters({}, real) is not None


def test_output_with_a_mapped_port() -> None:
    _, random = compare_frames(run(), run(masq=30000), FIXED)
    assert compare_output("run 1", "web-1 saw 10.1.1.254:20954\n", "web-1 saw 10.1.1.254:30000\n", random) is None
    assert compare_output("run 1", "web-1 saw 10.1.1.254:20954\n", "web-2 saw 10.1.1.254:30000\n", random) is not None
    timed_out = "curl: (28) Connection timed out after {} milliseconds"
    assert compare_output("run 1", timed_out.format(3001), timed_out.format(3000), random) is None
    failed = "curl: (7) Failed to connect to 192.0.2.1 port {} after {} ms: Couldn't connect to server"
    assert compare_output("run 1", failed.format(80, 1023), failed.format(80, 1024), random) is None
    assert compare_output("run 1", failed.format(80, 1023), failed.format(81, 1023), random) is not None
