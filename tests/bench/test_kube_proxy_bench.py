"""How long kube-proxy's rules take for 10,000 Services of 5 endpoints: all of them, and after one endpoint changed."""

from __future__ import annotations

import itertools
from ipaddress import ip_address
from typing import Any

import pytest

from pktsim.clock import NS_PER_S, Clock
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.proxier import KubeProxy
from pktsim.cluster.kubeproxy.recording import RecordedHost
from pktsim.cluster.objects import EndpointSlice, KubeObject, Service
from pktsim.cluster.store import ObjectStore
from pktsim.netfilter.ruleset import Family

SERVICES = 10_000
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
def objects() -> list[KubeObject]:
    return [make(number) for number in range(SERVICES) for make in (service, endpoint_slice)]


def start(objects: list[KubeObject]) -> tuple[RecordedHost, ObjectStore, Clock]:
    clock, store = Clock(), ObjectStore()
    store.apply_all(objects)
    host = RecordedHost((ip_address("192.0.2.1"),))
    config = {"clusterCIDR": "10.0.0.0/8", "iptables": {"minSyncPeriod": "1ns"}}
    KubeProxy(KubeProxyConfiguration.model_validate(config), "n0", host, clock, store).start()
    return host, store, clock


@pytest.mark.slow
def test_first_sync(benchmark: Any, objects: list[KubeObject]) -> None:
    host, _, _ = benchmark.pedantic(start, args=(objects,), rounds=1)
    nat = host.ruleset(Family.IPV4).table("nat")
    assert nat is not None
    # a cluster IP rule, a masquerade rule, and one rule and a chain of two for each endpoint
    assert sum(len(chain.rules) for chain in nat.chains) >= SERVICES * (2 + 3 * ENDPOINTS)
    benchmark.extra_info["rules"] = sum(len(chain.rules) for chain in nat.chains)


@pytest.mark.slow
def test_one_endpoint_changes(benchmark: Any, objects: list[KubeObject]) -> None:
    host, store, clock = start(objects)
    sizes = itertools.cycle((ENDPOINTS - 1, ENDPOINTS))

    def change() -> int:
        size = next(sizes)
        store.apply(endpoint_slice(SERVICES // 2, size))
        clock.run_for(NS_PER_S)
        return size

    assert benchmark(change) in (ENDPOINTS - 1, ENDPOINTS)
    assert host.ruleset(Family.IPV4).table("nat") is not None
