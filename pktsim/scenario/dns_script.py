"""What scripts about DNS are written with, besides :mod:`pktsim.scenario.script`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pktsim.clock import NS_PER_S
from pktsim.cluster.cluster import Cluster
from pktsim.cluster.exchanges import DnsExchange, dns_exchanges
from pktsim.cluster.kubedns.upstream import Upstream
from pktsim.cluster.machines import NodeMachine
from pktsim.netfilter.opcodes import Hook, Step

_HERE = Path(__file__).parent


def dns_world(seed: int = 0, *more: str, upstream: Upstream | Iterable[str] = ()) -> Cluster:
    """As :func:`~pktsim.scenario.script.world`, with kube-dns in pods ``coredns-1`` and ``coredns-2`` on ``node2``.

    Args:
        seed: Where all chance comes from.
        more: Further objects, as YAML.
        upstream: What the name server beyond the cluster knows.
    """
    return Cluster.load(_HERE / "world.yaml", _HERE / "dns-world.yaml", *more, seed=seed, upstream=upstream)


def asks(cluster: Cluster, pod: str, name: str) -> list[DnsExchange]:
    """Let a program in a pod look a name up; what it sent, and what it heard, whatever came of it."""
    first = len(cluster.capture.frames)
    with suppress(OSError):
        cluster.pod(pod).resolve(name)
    return dns_exchanges(cluster.capture.frames[first:], f"default/{pod}")


def told(exchanges: Iterable[DnsExchange]) -> list[str]:
    """Question, protocol and outcome of each, in a line."""
    return [f"{one.question} {'tcp' if one.tcp else 'udp'} {one.outcome}" for one in exchanges]


def hold_new_connections(cluster: Cluster, node: NodeMachine, seconds: float) -> None:
    """For so long, keep packets of new connections from being confirmed on a node; then they go on in their order.

    It is what happens by chance on a node with several CPUs: a packet is past the nat table and not yet in the
    connection tracking table when the next one of its flow comes by.
    """
    netns = node.netns
    netns.hold(Hook.POSTROUTING, Step.CONFIRM)

    def let_go() -> None:
        netns.hold(Hook.POSTROUTING, Step.CONFIRM, on=False)
        while netns.held:
            netns.release(netns.held[0])

    cluster.clock.after(round(seconds * NS_PER_S), let_go)
