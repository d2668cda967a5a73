"""The objects that make an ingress controller, as ``kubectl apply -f deploy.yaml`` of ingress-nginx would bring them.

Source: ingress-nginx deploy/static/provider/{cloud,baremetal}/deploy.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from .settings import APP, APP_ANNOTATION, WATCH_DELAY_ANNOTATION

NAMESPACE, NAME = "ingress-nginx", "ingress-nginx-controller"
CONTROLLER_CLASS = "k8s.io/ingress-nginx"
_LABELS = {"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"}


@dataclass(frozen=True, slots=True)
class Installation:
    """How an ingress controller is to be installed.

    Attributes:
        service: Type of the service in front.
        replicas: Pods; with ``kind`` DaemonSet there is one on each node.
        node_ports: Of HTTP and HTTPS; free ones if they are 0.
        traffic_policy: ``externalTrafficPolicy`` of the service.
        external_ips: ``externalIPs`` of the service.
        load_balancer_ip: ``loadBalancerIP`` of the service, empty for any.
        class_name: Of the IngressClass.
        default_class: Whether Ingresses that name no class are its own: later ones get its class, and those that were
            there before are served as they are (``--watch-ingress-without-class``).
        config: The controller's ConfigMap.
        arguments: More for its command line: ``--enable-ssl-passthrough``.
        watch_delay: Seconds from a change of an object until it is in force.
        annotations: Of the service.
    """

    service: Literal["LoadBalancer", "NodePort", "ClusterIP"] = "LoadBalancer"
    kind: Literal["Deployment", "DaemonSet"] = "Deployment"
    replicas: int = 1
    node_ports: tuple[int, int] = (0, 0)
    traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    external_ips: Sequence[str] = ()
    load_balancer_ip: str = ""
    class_name: str = "nginx"
    default_class: bool = True
    config: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    watch_delay: float = 0.0
    annotations: Mapping[str, str] = field(default_factory=dict)

    def objects(self) -> str:
        """The objects as YAML."""
        documents = (self._class(), self._config(), self._workload(), self._service())
        return yaml.safe_dump_all(documents, sort_keys=False)

    def _class(self) -> dict[str, Any]:
        default = {"ingressclass.kubernetes.io/is-default-class": "true"} if self.default_class else {}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": self.class_name, "annotations": default},
            "spec": {"controller": CONTROLLER_CLASS},
        }

    def _config(self) -> dict[str, Any]:
        metadata = {"name": NAME, "namespace": NAMESPACE}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(self.config)}

    def _workload(self) -> dict[str, Any]:
        annotations = {APP_ANNOTATION: APP}
        if self.watch_delay:
            annotations[WATCH_DELAY_ANNOTATION] = f"{self.watch_delay}s"
        container = {
            "name": "controller",
            "args": [
                "/nginx-ingress-controller",
                f"--publish-service=$(POD_NAMESPACE)/{NAME}",
                f"--controller-class={CONTROLLER_CLASS}",
                f"--ingress-class={self.class_name}",
                f"--configmap=$(POD_NAMESPACE)/{NAME}",
                f"--watch-ingress-without-class={str(self.default_class).lower()}",
                *self.arguments,
            ],
            "ports": [
                {"name": "http", "containerPort": 80},
                {"name": "https", "containerPort": 443},
            ],
        }
        return {
            "apiVersion": "apps/v1",
            "kind": self.kind,
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": _LABELS},
            "spec": {
                **({"replicas": self.replicas} if self.kind == "Deployment" else {}),
                "selector": {"matchLabels": _LABELS},
                "template": {
                    "metadata": {"labels": _LABELS, "annotations": annotations},
                    "spec": {"containers": [container]},
                },
            },
        }

    def _service(self) -> dict[str, Any]:
        ports: list[dict[str, Any]] = []
        for name, port, node_port in (("http", 80, self.node_ports[0]), ("https", 443, self.node_ports[1])):
            ports.append({"name": name, "port": port, "targetPort": name, "appProtocol": name})
            if node_port:
                ports[-1]["nodePort"] = node_port
        spec: dict[str, Any] = {"type": self.service, "selector": _LABELS, "ports": ports}
        if self.service != "ClusterIP":
            spec["externalTrafficPolicy"] = self.traffic_policy
        if self.external_ips:
            spec["externalIPs"] = list(self.external_ips)
        if self.load_balancer_ip:
            spec["loadBalancerIP"] = self.load_balancer_ip
        metadata = {"name": NAME, "namespace": NAMESPACE, "annotations": dict(self.annotations)}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
