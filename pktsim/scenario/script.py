"""What scripts are written with.

A script is a Python file whose function ``run(seed)`` either returns the cluster it used, or tells a story: it yields
the cluster first, and then the title of each step before it takes it. What it asserts are its expectations::

    def run(seed: int) -> Story:
        cluster = world(seed)
        yield cluster
        yield "the client reaches the service"
        assert cluster.pod("client").http_get("http://web/").status == 200
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.versions import DEFAULT_RELEASE
from pktsim.kernel.capture import CapturedFrame
from pktsim.scenario.frames import frame_fits
from pktsim.scenario.model import FrameExpectation
from pktsim.wire.frame import FrameView

Story: TypeAlias = Iterator[Cluster | str]

_WORLD = Path(__file__).with_name("world.yaml")


def world(
    seed: int = 0,
    *more: str,
    kube_proxy: dict[str, Any] | None = None,
    kube_proxy_version: str = str(DEFAULT_RELEASE),
    load_balancer: str = "l2",
    wiring: str = "host-gw",
) -> Cluster:
    """Two nodes, ``node1`` and ``node2``, Service ``web`` with pods ``a`` and ``b``, pods ``client`` and ``neighbour``.

    Args:
        seed: Where all chance comes from.
        more: Further objects, as YAML.
        kube_proxy: What is to be said in kube-proxy's configuration.
        kube_proxy_version: Which kube-proxy.
        load_balancer: What gives Services of type LoadBalancer their addresses.
        wiring: How pods and nodes are joined.
    """
    config = None
    if kube_proxy is not None:
        config = KubeProxyConfiguration.model_validate({"clusterCIDR": "10.244.0.0/16", **kube_proxy})
    return Cluster.load(
        _WORLD,
        *more,
        seed=seed,
        kube_proxy=config,
        kube_proxy_version=kube_proxy_version,
        load_balancer=load_balancer,
        wiring=wiring,
    )


def seen(cluster: Cluster, **wanted: Any) -> list[CapturedFrame]:
    """Frames that fit, in order of time; see :class:`~pktsim.scenario.model.FrameExpectation` for what to ask for."""
    expectation = FrameExpectation.model_validate(wanted)
    return [frame for frame in cluster.capture if frame_fits(expectation, frame)]


def views(cluster: Cluster, **wanted: Any) -> list[FrameView]:
    """As :func:`seen`, with the fields of each frame."""
    return [FrameView(frame.frame) for frame in seen(cluster, **wanted)]


def front(kind: str = "NodePort", policy: str = "Cluster", **more: Any) -> str:
    """Service ``front``, cluster IP 10.96.0.30, before the pods of ``web``: node port 30080, balancer at 198.51.100.20.

    Args:
        kind: ``NodePort`` or ``LoadBalancer``.
        policy: ``externalTrafficPolicy``.
        more: Further fields of its spec.
    """
    spec: dict[str, Any] = {
        "type": kind,
        "clusterIP": "10.96.0.30",
        "externalTrafficPolicy": policy,
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
    }
    if kind == "LoadBalancer":
        spec["loadBalancerIP"] = "198.51.100.20"
        if policy == "Local":
            spec["healthCheckNodePort"] = 30999
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}, "spec": spec | more}
    return yaml.safe_dump(document, sort_keys=False)
