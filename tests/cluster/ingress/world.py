"""Clusters with an ingress controller, and services for it to lead to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.programs import HttpAnswer


def service(
    name: str, *, replicas: int = 1, app: str = "http-echo", http: str = "1.1", port_name: str = "http"
) -> list[dict[str, Any]]:
    """A Deployment whose pods tell their requests, and its Service on port 8080."""
    annotations = {"pktsim.io/app": app, "pktsim.io/http": http}
    template = {
        "metadata": {"labels": {"app": name}, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 3000}]}]},
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": port_name, "port": 8080, "targetPort": 3000}]},
        },
    ]


def backend(name: str, port: int | str = 8080) -> dict[str, Any]:
    return {"service": {"name": name, "port": {"name": port} if isinstance(port, str) else {"number": port}}}


def rule(host: str, *paths: tuple[str, str, str]) -> dict[str, Any]:
    """A rule; paths are path, type and service."""
    listed = [{"path": path, "pathType": kind, "backend": backend(name)} for path, kind, name in paths]
    return {**({"host": host} if host else {}), "http": {"paths": listed}}


def ingress(name: str, *rules: dict[str, Any], annotations: Mapping[str, str] = {}, **spec: Any) -> dict[str, Any]:
    """An Ingress."""
    prefixed = {f"nginx.ingress.kubernetes.io/{key}": value for key, value in annotations.items()}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "annotations": prefixed},
        "spec": {**({"rules": list(rules)} if rules else {}), **spec},
    }


def text(objects: Iterable[dict[str, Any]]) -> str:
    """Objects as YAML."""
    return yaml.safe_dump_all(list(objects), sort_keys=False)


def world(*objects: dict[str, Any], nodes: int = 2, seed: int = 7, **options: Any) -> Cluster:
    """A cluster with an ingress controller and these objects."""
    cluster = Cluster(nodes, seed=seed)
    cluster.install_ingress(node_ports=(30080, 30443), **options)
    cluster.apply(text(objects))
    return cluster


def get(cluster: Cluster, url: str, method: str = "GET", *, at: str = "", **options: Any) -> HttpAnswer:
    """Ask from outside, by way of the controller's service."""
    return cluster.outside.http_request(method, url, connect_to=at or cluster.ingress_address, **options)


def told(answer: HttpAnswer) -> dict[str, Any]:
    """What the pod says that it was asked; header names are lower case, and the last of several values counts."""
    said: dict[str, Any] = json.loads(answer.body)
    said["headers"] = dict(said["headers"])
    said["service"] = said["pod"].rpartition("-")[0]
    return said


def log(cluster: Cluster, pod: str = "ingress-nginx-controller-1") -> Sequence[str]:
    """The access log."""
    return cluster.logs(f"pod/ingress-nginx/{pod}").splitlines()
