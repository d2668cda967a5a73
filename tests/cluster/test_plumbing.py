"""Building a wiring: tunnels and what is put into their tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pktsim.clock import Clock
from pktsim.cluster.plumbing import realise
from pktsim.cluster.wiring import Interface, Space, Vxlan, Wiring
from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.kernel.network import Network
from pktsim.rng import SeededChoices

LOOPBACK = Interface("lo", "loopback", mtu=65536, addresses=("127.0.0.1/8",))


def node(number: int, other: int) -> Space:
    """One of two nodes on one wire, as flannel sets them up."""
    return Space(
        f"node-{number}",
        "node",
        interfaces=(
            LOOPBACK,
            Interface(
                "eth0",
                "veth",
                mac=f"02:00:00:00:00:0{number}",
                addresses=(f"192.168.0.1{number}/24",),
                peer=f"node-{other}/eth0",
            ),
            Interface(
                "flannel.1",
                "vxlan",
                mac=f"02:00:00:00:01:0{number}",
                mtu=1450,
                addresses=(f"10.244.{number}.0/32",),
                vxlan=Vxlan(id=1, local=f"192.168.0.1{number}", link="eth0", port=8472),
            ),
        ),
        routes=(
            f"10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink",
            f"192.168.0.0/24 dev eth0 proto kernel scope link src 192.168.0.1{number}",
        ),
        permanent_neighbours=(f"10.244.{other}.0 lladdr 02:00:00:00:01:0{other} PERMANENT",),
        vxlan_fdb=(f"02:00:00:00:01:0{other} dst 192.168.0.1{other} self permanent",),
    )


def build(*spaces: Space) -> Network:
    network = Network(Clock(), SeededChoices(1))
    realise(Wiring(spaces), network)
    return network


def test_tunnel_between_two_nodes_carries_a_ping() -> None:
    network = build(node(1, 2), node(2, 1))
    network["node-1"].sockets.ping().echo("10.244.2.0", 1, b"hello")
    network.clock.run_until(network.clock.now_ns + 10_000_000)
    crossed = [
        f"{seen.space}/{seen.interface} {seen.direction}"
        for seen in network.capture
        if seen.frame[12:14] == b"\x08\x00"
    ]
    assert crossed == [
        "node-1/flannel.1 out",
        "node-1/eth0 out",
        "node-2/eth0 in",
        "node-2/flannel.1 in",
        "node-2/flannel.1 out",
        "node-2/eth0 out",
        "node-1/eth0 in",
        "node-1/flannel.1 in",
    ]


WITHOUT_TUNNEL = (LOOPBACK, Interface("eth0", "veth", peer="node-2/eth0"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"permanent_neighbours": ("10.244.2.0 lladdr 02:00:00:00:01:02 STALE",)}, "not a permanent neighbour"),
        ({"vxlan_fdb": ("02:00:00:00:01:02 dev eth0 master br0",)}, "not an entry of a tunnel's table"),
        ({"interfaces": WITHOUT_TUNNEL, "routes": ()}, "no interface of kind vxlan"),
    ],
)
def test_entries_that_cannot_be_made_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TopologyError, match=complaint):
        build(replace(node(1, 2), **change), node(2, 1))


def test_what_a_tunnel_cannot_do_is_refused() -> None:
    first = node(1, 2)
    tunnel = first.interfaces[2]
    assert tunnel.vxlan is not None
    copying = replace(tunnel, vxlan=replace(tunnel.vxlan, df="inherit"))
    with pytest.raises(UnsupportedFeature, match="vxlan df inherit"):
        build(replace(first, interfaces=(*first.interfaces[:2], copying)), node(2, 1))
    second = replace(tunnel, name="flannel.2", vxlan=replace(tunnel.vxlan, id=2))
    with pytest.raises(UnsupportedFeature, match="several vxlan interfaces"):
        build(replace(first, interfaces=(*first.interfaces, second)), node(2, 1))
