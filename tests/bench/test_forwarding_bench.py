"""Forwarding with kube-proxy's rules, in one call: right at any size, and fast where timing is asked for.

Without ``--benchmark-enable`` few frames are forwarded, once. With it, the sizes are those of
:mod:`tests.bench.forwarding`, and the running kernel forwards the same frames for comparison.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from pktsim.netfilter.opcodes import TableId
from pktsim.netfilter.ruleset import Family
from pktsim.wire.frame import FrameView
from tests import tools
from tests.bench import forwarding, forwarding_kernel
from tests.bench import forwarding_world as world

FEW_SERVICES, FEW_FLOWS, FEW_FRAMES = 24, 48, 480


def timing(benchmark: Any) -> bool:
    return not benchmark.disabled


@pytest.fixture(scope="module")
def few_rules() -> world.Rules:
    return world.rules(FEW_SERVICES)


@pytest.fixture
def kernel_node(few_rules: world.Rules) -> Iterator[forwarding_kernel.KernelNode]:
    if reason := forwarding_kernel.why_not():
        tools.missing(reason)
    forwarding_kernel.remove_stale()
    with forwarding_kernel.KernelNode(few_rules) as node:
        yield node


@pytest.mark.slow
def test_established_flows(benchmark: Any) -> None:
    """All data frames of established flows come out, at one endpoint each, by the rule for established connections."""
    services, flows, frames = (1_000, 1_000, 100_000) if timing(benchmark) else (FEW_SERVICES, FEW_FLOWS, FEW_FRAMES)
    rules = world.rules(services)
    node = world.EmulatedNode(rules)
    connections = world.flows(flows, services)
    node.establish(connections)
    data = world.data_frames(connections, frames)
    run = forwarding.Run(node, data)
    assert benchmark.pedantic(run, rounds=5 if timing(benchmark) else 1) == frames
    benchmark.extra_info.update(rules=rules.count, packets=frames)
    if timing(benchmark):
        benchmark.extra_info["ns_per_packet"] = benchmark.stats.stats.median * 1e9 / frames

    endpoints: dict[bytes, set[bytes]] = {}
    for sent, seen in zip(data, node.batch("pods", data), strict=True):
        before, after = FrameView(sent), FrameView(seen)
        assert not after.bad_checksums()
        assert (after.saddr, after.sport, after.payload) == (before.saddr, before.sport, before.payload)
        assert (after.dport, after.ttl) == (world.ENDPOINT_PORT, before.ttl - 1)
        endpoints.setdefault(before.saddr + before.sport.to_bytes(2, "big"), set()).add(after.daddr)
    assert len(endpoints) == flows
    assert all(len(chosen) == 1 for chosen in endpoints.values())
    # nat is asked for a connection's first packet only
    prerouting = node.netns.lowered[Family.IPV4, TableId.NAT].sources
    counted = node.netns.counters(Family.IPV4, TableId.NAT)
    policy = next(number for number, rule in enumerate(prerouting) if (rule.chain, rule.number) == ("POSTROUTING", 0))
    assert counted[policy][0] == flows + len(world.CLIENTS)  # and those that the node was warmed up with


@pytest.mark.parametrize("services", [10, 1_000, 10_000])
def test_new_flows(benchmark: Any, services: int) -> None:
    """A SYN of a new connection each: however many Services, it goes to an endpoint of its own Service."""
    if not timing(benchmark):
        services = min(services, FEW_SERVICES)
    flows = 10_000 if timing(benchmark) else FEW_FLOWS
    rules = world.rules(services)
    node = world.EmulatedNode(rules)
    numbers = itertools.count()

    def unused() -> tuple[tuple[forwarding.Run], dict[str, Any]]:
        part = world.flows(flows, services, first=next(numbers) * flows)
        return (forwarding.Run(node, [flow.syn() for flow in part]),), {}

    came_out = benchmark.pedantic(forwarding.Run.__call__, setup=unused, rounds=5 if timing(benchmark) else 1)
    assert came_out == flows
    benchmark.extra_info.update(rules=rules.count, packets=flows)
    if timing(benchmark):
        benchmark.extra_info["ns_per_packet"] = benchmark.stats.stats.median * 1e9 / flows

    of_service = {
        ip_address(address).packed: number for number in range(services) for address in world.endpoint_addresses(number)
    }
    known = len(node.netns.datapath.conntrack_list(0))
    more = world.flows(FEW_FLOWS, services, first=next(numbers) * flows)
    seen = [FrameView(frame) for frame in node.batch("pods", [flow.syn() for flow in more])]
    assert [of_service[view.daddr] for view in seen] == [flow.service for flow in more]
    assert len(node.netns.datapath.conntrack_list(0)) == known + len(more)


@pytest.mark.live
@pytest.mark.slow
def test_frames_are_the_kernels(few_rules: world.Rules, kernel_node: forwarding_kernel.KernelNode) -> None:
    """What the benchmark compares is the same work: byte for byte, the frames that the running kernel forwards."""
    connections = world.flows(FEW_FLOWS, FEW_SERVICES)
    chosen = kernel_node.establish(connections)
    node = world.EmulatedNode(few_rules)
    node.establish(connections, like=chosen.__getitem__)
    data = world.data_frames(connections, FEW_FRAMES)
    assert node.batch("pods", data) == kernel_node.batch("pods", data)


@pytest.mark.live
@pytest.mark.slow
def test_share_of_the_kernels_cpu_time(benchmark: Any) -> None:
    """CPU time per frame of established flows is at most half of the running kernel's."""
    if reason := forwarding_kernel.why_not():
        tools.missing(reason)
    forwarding_kernel.remove_stale()
    sizes = {"services": 1_000, "flows": 1_000, "frames": 100_000, "rounds": 5}
    if not timing(benchmark):
        sizes = {"services": FEW_SERVICES, "flows": FEW_FLOWS, "frames": FEW_FRAMES, "rounds": 2}
    compared = benchmark.pedantic(forwarding.established, kwargs=sizes, rounds=1)
    report = compared.report("Established flows")
    measured = compared.kernel
    for runs in (measured.forwarded, measured.dropped, measured.void):
        assert sum(run.frames for run in runs) == sizes["frames"] * sizes["rounds"]
        assert all(run.process > 0 for run in runs), report
    if timing(benchmark):
        print(report)
        benchmark.extra_info["report"] = report
        assert compared.ratio <= forwarding.LIMIT, report
