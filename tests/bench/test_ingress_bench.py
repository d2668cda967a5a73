"""What a request through an Ingress costs, beside one to the Service that is behind it."""

from __future__ import annotations

from typing import Any

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.machines import Machine
from tests.cluster.ingress.world import ingress, rule, service, world


def shop() -> Cluster:
    only = ingress("shop", rule("shop.example.com", ("/", "Prefix", "web")))
    cluster = world(*service("web", replicas=3, app="whoami"), only)
    assert cluster.ingress_address
    return cluster


def ask(machine: Machine, url: str, place: str, requests: int) -> int:
    return sum(machine.http_get(url, connect_to=place).status == 200 for _ in range(requests))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ingress", "service"])
def test_small_requests(benchmark: Any, way: str) -> None:
    """Each over a connection of its own; compare the two with ``--benchmark-enable``."""
    requests = 20 if benchmark.disabled else 500
    cluster = shop()
    node_port = cluster.ingress_address
    if way == "ingress":
        machine, place = cluster.outside, node_port
    else:
        found: Any = cluster.store.get("Service", "web", "default")
        machine, place = cluster.pod("ingress-nginx/ingress-nginx-controller-1"), f"{found.spec.cluster_ip}:8080"
    with cluster.unrecorded():
        answered = benchmark.pedantic(ask, (machine, "http://shop.example.com/", place, requests))
    assert answered == requests
    benchmark.extra_info.update(requests=requests)


@pytest.mark.slow
def test_requests_over_kept_connections(benchmark: Any) -> None:
    requests = 20 if benchmark.disabled else 500
    cluster = shop()
    with cluster.unrecorded(), cluster.outside.http_session(connect_to=cluster.ingress_address) as session:

        def run() -> int:
            return sum(session.get("http://shop.example.com/").status == 200 for _ in range(requests))

        assert benchmark.pedantic(run) == requests
    benchmark.extra_info.update(requests=requests)
