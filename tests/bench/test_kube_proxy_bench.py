"""How long 10,000 Services of 5 endpoints take, from objects to the engine: all of them, and one changed endpoint.

Where nothing is timed there are fewer.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pktsim.clock import NS_PER_MS
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.proxier import KubeProxy
from pktsim.cluster.node_host import NodeHost
from pktsim.cluster.objects import EndpointSlice, KubeObject, Service
from pktsim.cluster.store import ObjectStore
from pktsim.kernel.kernel import Kernel
from pktsim.netfilter.iptables_text import rule_text
from pktsim.netfilter.ruleset import Family, Table

ENDPOINTS = 5


def service(number: int) -> Service:
    return Service.model_validate(
        {
            "metadata": {"name": f"s{number}", "namespace": "default"},
            "spec": {"clusterIP": f"172.16.{number >> 8}.{number & 255}", "ports": [{"name": "http", "port": 80}]},
        }
    )


def endpoint_slice(number: int, endpoints: int = ENDPOINTS) -> EndpointSlice:
    return EndpointSlice.model_validate(
        {
            "metadata": {
                "name": f"s{number}-x",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": f"s{number}"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": [f"10.{one}.{number >> 8}.{number & 255}"], "nodeName": f"n{one}"}
                for one in range(endpoints)
            ],
        }
    )


@pytest.fixture(scope="module")
def objects(services: int) -> list[KubeObject]:
    return [make(number) for number in range(services) for make in (service, endpoint_slice)]


def changed_slice(number: int, change: int) -> EndpointSlice:
    """The slice of a Service after the ``change``-th change of an endpoint: each gives an address of its own."""
    found = endpoint_slice(number)
    first = found.endpoints[0].model_copy(update={"addresses": (f"10.77.{change >> 8}.{change & 255}",)})
    return found.model_copy(update={"endpoints": (first, *found.endpoints[1:])})


class Node:
    """A node's kernel with kube-proxy on it: from objects to what the engine runs."""

    def __init__(self, objects: list[KubeObject]) -> None:
        self.kernel = Kernel()
        self.store = ObjectStore()
        self.store.apply_all(objects)
        config = {"clusterCIDR": "10.0.0.0/8", "iptables": {"minSyncPeriod": "1ns"}}
        self.host = NodeHost(self.kernel.netns)
        self.clock = self.kernel.netns.clock
        settings = KubeProxyConfiguration.model_validate(config)
        self.proxy = KubeProxy(settings, "n0", self.host, self.clock, self.store)
        self.proxy.start()
        self.host.flush()

    def apply(self, found: KubeObject) -> None:
        """An object changes, kube-proxy syncs, and the engine gets the rules."""
        self.store.apply(found)
        self.clock.run_for(NS_PER_MS)

    @property
    def nat(self) -> Table:
        """The nat table that is in force."""
        found = self.kernel.netns.ruleset(Family.IPV4).table("nat")
        assert found is not None
        return found


@pytest.mark.slow
def test_first_sync(benchmark: Any, objects: list[KubeObject], services: int) -> None:
    node = benchmark.pedantic(Node, args=(objects,), rounds=1)
    rules = sum(len(chain.rules) for chain in node.nat.chains)
    # a cluster IP rule, a masquerade rule, and one rule and a chain of two for each endpoint
    assert rules >= services * (2 + 3 * ENDPOINTS)
    benchmark.extra_info["rules"] = rules


@pytest.mark.slow
def test_one_endpoint_changes(benchmark: Any, objects: list[KubeObject], services: int) -> None:
    node = Node(objects)
    changes = itertools.count()

    def change() -> str:
        number = next(changes)
        node.apply(changed_slice(number * 677 % services, number))
        return f"10.77.{number >> 8}.{number & 255}:8080"

    address = benchmark(change)
    assert any(
        f"--to-destination {address}" in rule_text(rule, chain.name)
        for chain in node.nat.chains
        for rule in chain.rules
    )
