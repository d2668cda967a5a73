"""Worlds of namespaces: wires, bridges between hosts, faults, tunnels, and what a capture of them shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktsim.clock import NS_PER_US
from pktsim.errors import TopologyError
from pktsim.kernel.capture import CapturedFrame
from pktsim.kernel.netns import Netns
from pktsim.kernel.network import Network
from pktsim.kernel.task import spawn
from pktsim.kernel.transport import AF_INET
from pktsim.netfilter.iptables_text import restore
from pktsim.netfilter.opcodes import LinkKind
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.rng import SeededChoices
from pktsim.wire.frame import FrameView
from pktsim.wire.scapy_io import read_capture
from pktsim.wire.summary import summary
from tests.kernel.worlds import ip, mac, udp_packet


def pair(seed: int = 0) -> tuple[Network, Netns, Netns]:
    network = Network(choices=SeededChoices(seed))
    a, b = network.add_space("a"), network.add_space("b")
    network.add_veth(a, "eth0", b, "eth0", mac_a="02:00:00:00:00:0a", mac_b="02:00:00:00:00:0b")
    a.address_add("eth0", "10.0.0.1/24")
    b.address_add("eth0", "10.0.0.2/24")
    a.neighbour_add("eth0", "10.0.0.2", "02:00:00:00:00:0b")
    return network, a, b


def arrived(network: Network) -> list[bytes]:
    """Payloads of the UDP packets that b received."""
    views = [FrameView(frame.frame) for frame in network.capture.select(space="b") if frame.direction == "in"]
    return [view.payload for view in views if view.protocol == 17]


def seen(network: Network) -> list[str]:
    return [f"{frame.where} {frame.direction}" for frame in network.capture]


def test_frame_arrives_at_the_other_end_after_the_delay() -> None:
    network, a, _ = pair()
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.run(seconds=0.000_0005)
    assert seen(network) == ["a/eth0 out"]
    network.run(seconds=0.000_0005)
    assert seen(network)[:2] == ["a/eth0 out", "b/eth0 in"]
    out, received = network.capture.frames[:2]
    assert received.at_ns - out.at_ns == NS_PER_US
    assert out.frame == received.frame


def test_spaces_and_links_are_found_by_name_or_refused() -> None:
    network, a, b = pair()
    assert network["a"] is a
    assert network.peer(a, "eth0") == (b, b.devices.named("eth0"))
    for action, part in (
        (lambda: network["c"], "no namespace 'c'"),
        (lambda: network.add_space("a"), "already"),
        (lambda: network.add_veth(a, "eth0", b, "eth1"), "already"),
        (lambda: network.connect(a, "eth0", b, "eth0"), "has a wire already"),
        (lambda: network.connect(a, "lo", b, "lo"), "takes no wire"),
    ):
        with pytest.raises(TopologyError, match=part):
            action()


def test_failed_veth_leaves_nothing_behind() -> None:
    network, a, b = pair()
    with pytest.raises(TopologyError):
        network.add_veth(a, "eth1", b, "eth0")
    assert "eth1" not in a.devices


def test_deleted_veth_takes_its_other_end_and_frames_under_way_are_lost() -> None:
    network, a, b = pair()
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.delete_link(a, "eth0")
    network.run(seconds=0.001)
    assert "eth0" not in b.devices
    assert arrived(network) == []


def test_deleted_space_is_gone_from_both_ends() -> None:
    network, _, b = pair()
    network.delete_space("a")
    assert list(network.spaces) == ["b"]
    assert b.devices.names() == ["lo"]
    assert network.wires == []


# ------------------------------------------------------------------------------------------------------------- bridges


def switched(*, hairpin: bool = False) -> Network:
    """Three hosts on one bridge, made in this order."""
    network = Network()
    node = network.add_space("node")
    network.add_bridge(node, "br0", mac="02:00:00:00:00:01")
    for index, name in enumerate("xyz"):
        space = network.add_space(name)
        node.link_add(f"port-{name}", mac=f"02:00:00:00:01:0{index}", master="br0", hairpin=hairpin)
        space.link_add("eth0", mac=f"02:00:00:00:02:0{index}")
        network.connect(node, f"port-{name}", space, "eth0")
        space.address_add("eth0", f"10.0.0.{index + 1}/24")
    node.address_add("br0", "10.0.0.254/24")
    return network


def test_flood_goes_from_the_newest_port_to_the_oldest_then_up() -> None:
    network = switched()
    network["y"].send_ip(udp_packet("10.0.0.2", "10.0.0.77"))
    network.run(seconds=0.000_01)
    assert seen(network) == [
        "y/eth0 out",
        "node/port-y in",
        "node/port-z out",
        "node/port-x out",
        "node/br0 in",
        "z/eth0 in",
        "x/eth0 in",
    ]


def test_hairpin_port_hears_its_own_broadcast() -> None:
    network = switched(hairpin=True)
    network["y"].send_ip(udp_packet("10.0.0.2", "10.0.0.77"))
    network.run(seconds=0.000_01)
    assert seen(network).count("y/eth0 in") == 1


def test_bridge_learns_and_forgets_after_five_minutes() -> None:
    network = switched()
    node = network["node"]
    network["y"].send_ip(udp_packet("10.0.0.2", "10.0.0.1"))
    network.run(seconds=0.001)
    assert node.fdb("br0") == [
        (mac("02:00:00:00:02:00"), "port-x", False),
        (mac("02:00:00:00:02:01"), "port-y", False),
    ]
    network.run(seconds=299)
    assert len(node.fdb("br0")) == 2
    network.run(seconds=10)  # the hosts have probed each other after five seconds
    assert node.fdb("br0") == []


def test_static_entry_stays_until_flushed_as_such() -> None:
    network = switched()
    node = network["node"]
    node.fdb_add("port-z", "02:00:00:00:02:02")
    network.run(seconds=400)
    node.fdb_flush("br0")
    assert node.fdb("br0") == [(mac("02:00:00:00:02:02"), "port-z", True)]
    node.fdb_flush("br0", static=True)
    assert node.fdb("br0") == []
    with pytest.raises(TopologyError, match="not a port"):
        node.fdb_add("br0", "02:00:00:00:02:02")


# ------------------------------------------------------------------------------------------------------------- tunnels


def tunnelled() -> Network:
    network, a, b = pair()
    b.neighbour_add("eth0", "10.0.0.1", "02:00:00:00:00:0a")
    for space, number, other in ((a, 1, 2), (b, 2, 1)):
        space.vxlan.add(
            "flannel.1", vni=1, local=f"10.0.0.{number}", link="eth0", learning=False, mac=f"02:00:00:00:03:0{number}"
        )
        space.address_add("flannel.1", f"10.244.{number}.0/32")
        space.route_add(f"10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink")
        space.neighbour_add("flannel.1", f"10.244.{other}.0", f"02:00:00:00:03:0{other}")
        space.vxlan.fdb_add("flannel.1", f"02:00:00:00:03:0{other}", f"10.0.0.{other}")
    return network


def test_tunnel_carries_a_packet_inside_udp() -> None:
    network = tunnelled()
    network["a"].send_ip(udp_packet("10.244.1.0", "10.244.2.0"))
    network.run(seconds=0.000_01)
    assert seen(network)[:4] == ["a/flannel.1 out", "a/eth0 out", "b/eth0 in", "b/flannel.1 in"]
    inner, outer, _, received = network.capture.frames[:4]
    assert inner.frame == received.frame
    view = FrameView(outer.frame)
    assert (view.saddr, view.daddr, view.dport, view.ttl) == (ip("10.0.0.1"), ip("10.0.0.2"), 8472, 64)
    assert 32768 <= view.sport <= 60999
    assert not view.dont_fragment
    assert view.bad_checksums() == ()
    assert view.inner is not None
    assert view.inner.daddr == ip("10.244.2.0")


def test_tunnel_device_is_smaller_than_its_link() -> None:
    assert tunnelled()["a"].devices.named("flannel.1").mtu == 1450


def test_unknown_station_is_sent_nowhere_without_a_default() -> None:
    network = tunnelled()
    a = network["a"]
    a.vxlan.fdb_delete("flannel.1", "02:00:00:00:03:02")
    a.send_ip(udp_packet("10.244.1.0", "10.244.2.0"))
    network.run(seconds=0.000_01)
    assert seen(network) == ["a/flannel.1 out"]
    a.vxlan.fdb_add("flannel.1", "00:00:00:00:00:00", "10.0.0.2")
    a.send_ip(udp_packet("10.244.1.0", "10.244.2.0"))
    network.run(seconds=0.000_01)
    assert "b/flannel.1 in" in seen(network)


def test_learning_tunnel_remembers_where_a_station_is() -> None:
    network = tunnelled()
    b = network["b"]
    b.link_delete("flannel.1")
    tunnel = b.vxlan.add("flannel.1", vni=1, local="10.0.0.2", link="eth0", mac="02:00:00:00:03:02")
    network["a"].send_ip(udp_packet("10.244.1.0", "10.244.2.0"))
    network.run(seconds=0.000_01)
    assert tunnel.fdb == {mac("02:00:00:00:03:01"): [ip("10.0.0.1")]}


def test_other_network_identifier_is_dropped() -> None:
    network = tunnelled()
    b = network["b"]
    b.link_delete("flannel.1")
    b.vxlan.add("flannel.2", vni=2, local="10.0.0.2", link="eth0")
    network["a"].send_ip(udp_packet("10.244.1.0", "10.244.2.0"))
    network.run(seconds=0.000_01)
    assert seen(network) == ["a/flannel.1 out", "a/eth0 out", "b/eth0 in"]


def test_deleted_tunnel_gives_its_port_back() -> None:
    network = tunnelled()
    b = network["b"]
    b.link_delete("flannel.1")
    network["a"].send_ip(udp_packet("10.244.1.0", "10.244.2.0"))
    network.run(seconds=0.001)
    assert summary(network.capture.frames[-1].frame).endswith("udp port 8472 unreachable, length 91")


def test_two_tunnels_cannot_share_identifier_and_port() -> None:
    with pytest.raises(TopologyError, match="already"):
        tunnelled()["a"].vxlan.add("flannel.2", vni=1)


# ------------------------------------------------------------------------------------------------------------- capture


def test_capture_can_be_narrowed_paused_and_cleared() -> None:
    network, a, _ = pair()
    network.capture.on = False
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.run(seconds=0.000_01)
    assert len(network.capture) == 0
    network.capture.on = True
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.run(seconds=0.000_01)
    assert [frame.space for frame in network.capture.select(space="a", interface="eth0")][:1] == ["a"]
    assert [frame.serial for frame in network.capture] == sorted(frame.serial for frame in network.capture)
    network.capture.clear()
    assert len(network.capture) == 0


def test_written_capture_has_interfaces_directions_and_comments(tmp_path: Path) -> None:
    network, a, _ = pair()

    def comment(frame: CapturedFrame) -> tuple[str, ...]:
        return (f"seen by {frame.where}",)

    network.capture.commenter = comment
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    network.run(seconds=0.000_001)
    path = tmp_path / "pair.pcapng"
    network.capture.write(path)
    capture = read_capture(path)
    assert [interface.name for interface in capture.interfaces][:2] == ["a/eth0", "b/eth0"]
    assert [frame.frame for frame in capture.frames][:2] == [frame.frame for frame in network.capture.frames][:2]
    assert capture.frames[0].comments == ("seen by a/eth0",)


def test_plain_pcap_is_written_by_its_name(tmp_path: Path) -> None:
    network, a, _ = pair()
    a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
    path = tmp_path / "pair.pcap"
    network.capture.write(path)
    assert [frame.frame for frame in read_capture(path).frames] == [frame.frame for frame in network.capture]


def test_same_seed_gives_the_same_capture() -> None:
    def run(seed: int) -> list[CapturedFrame]:
        network, a, b = pair(seed)
        b.link_add("dummy0", LinkKind.DUMMY)
        a.neighbours_flush(permanent=True)
        a.send_ip(udp_packet("10.0.0.1", "10.0.0.2"))
        network.run(seconds=60)
        return network.capture.frames

    assert run(1) == run(1)


@pytest.mark.parametrize("used", [False, True])
def test_translated_packet_is_seen_on_the_bridge_only_before_its_target_was_used(used: bool) -> None:
    network = switched()
    node = network["node"]
    rules = "*nat\n-A PREROUTING -d 10.96.0.1/32 -p udp -j DNAT --to-destination 10.0.0.3:53\nCOMMIT\n"
    node.load_ruleset(restore(Ruleset(Family.IPV4), rules))
    node.sysctl_set("net.ipv4.ip_forward", 1)
    node.neighbour_add("br0", "10.0.0.3", "02:00:00:00:02:02", used=used)
    network["x"].route_add("default via 10.0.0.254")
    network["x"].neighbour_add("eth0", "10.0.0.254", "02:00:00:00:00:01")
    for _ in range(2):
        network["x"].send_ip(udp_packet("10.0.0.1", "10.96.0.1"))
        network.run(seconds=0.000_01)
    on_bridge = [frame for frame in network.capture.select(space="node", interface="br0") if frame.direction == "out"]
    assert len(on_bridge) == (0 if used else 1)
    received = [frame for frame in network.capture.select(space="z") if frame.direction == "in"]
    reached = [frame for frame in received if frame.frame[12:14] == b"\x08\x00"]
    assert {FrameView(frame.frame).src_mac for frame in reached} == {mac("02:00:00:00:02:00")}


@pytest.mark.parametrize(
    ("forwarding", "route", "codes"), [(0, "", []), (1, "", [3]), (1, "unreachable 10.0.0.3", [1])]
)
def test_bridged_packet_that_is_translated_needs_a_route(forwarding: int, route: str, codes: list[int]) -> None:
    """To IPv4 a host that does not forward has a route too, one that leads to an error (ip_route_input_slow)."""
    network = switched()
    node = network["node"]
    rules = "*nat\n-A PREROUTING -d 10.96.0.1/32 -p udp -j DNAT --to-destination 10.0.0.3:53\nCOMMIT\n"
    node.load_ruleset(restore(Ruleset(Family.IPV4), rules))
    node.sysctl_set("net.ipv4.ip_forward", forwarding)
    node.neighbour_add("br0", "10.0.0.3", "02:00:00:00:02:02")
    if route:
        node.route_add(route)
    network["x"].route_add("default via 10.0.0.254")
    network["x"].neighbour_add("eth0", "10.0.0.254", "02:00:00:00:00:01")
    node.neighbour_add("br0", "10.0.0.1", "02:00:00:00:02:00")
    network["x"].send_ip(udp_packet("10.0.0.1", "10.96.0.1"))
    network.run(seconds=0.000_01)

    def received(space: str) -> list[FrameView]:
        frames = network.capture.select(space=space)
        return [FrameView(one.frame) for one in frames if one.direction == "in" and one.frame[12:14] == b"\x08\x00"]

    assert len(received("z")) == (1 if forwarding and not route else 0)
    assert [view.icmp_code for view in received("x")] == codes, "its port is closed; there is no way"


def test_a_syn_that_still_waits_for_a_neighbour_is_not_sent_again() -> None:
    """``skb_still_in_host_queue``: so there is one error about it when nobody answers, as on the running kernel."""
    network, a, _ = pair()
    socket = a.sockets.tcp(AF_INET)

    async def connect() -> None:
        with pytest.raises(OSError, match="113"):
            await socket.connect("10.0.0.99", 80)

    done = spawn(network.clock, connect(), "client")
    network.run(seconds=3.5)
    assert done.done
    frames = [FrameView(frame.frame) for frame in network.capture.select(space="a")]
    assert [view.icmp_type for view in frames if view.protocol == 1] == [3]
    assert not [view for view in frames if view.protocol == 6]
