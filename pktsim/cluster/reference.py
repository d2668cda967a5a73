"""Names of objects as kubectl takes them: ``pod/web-1``, ``service/shop/web``, ``node/node-b``."""

from __future__ import annotations

from pktsim.cluster.objects import KINDS
from pktsim.errors import ObjectError

#: Short forms that kubectl takes, and the kinds.
_KINDS = {
    "po": "Pod", "pod": "Pod", "pods": "Pod",
    "svc": "Service", "service": "Service", "services": "Service",
    "deploy": "Deployment", "deployment": "Deployment", "deployments": "Deployment",
    "rs": "ReplicaSet", "replicaset": "ReplicaSet",
    "sts": "StatefulSet", "statefulset": "StatefulSet",
    "ds": "DaemonSet", "daemonset": "DaemonSet",
    "no": "Node", "node": "Node", "nodes": "Node",
    "endpointslice": "EndpointSlice", "endpoints": "Endpoints", "configmap": "ConfigMap",
    "ing": "Ingress", "ingress": "Ingress", "ingresses": "Ingress", "secret": "Secret", "secrets": "Secret",
    "ingressclass": "IngressClass", "ingressclasses": "IngressClass",
}  # fmt: skip


def parse_reference(text: str) -> tuple[str, str, str]:
    """Read ``kind/name`` or ``kind/namespace/name``.

    Returns:
        Kind, namespace (``default`` if none is said, empty for kinds without), and name.

    Raises:
        ObjectError: It is neither, or no such kind is known.
    """
    kind, *rest = text.split("/")
    if kind.lower() not in _KINDS or not 1 <= len(rest) <= 2 or not all(rest):
        raise ObjectError(f"{text!r} names no object", mend="write kind/name or kind/namespace/name, as in pod/web-1")
    full = _KINDS[kind.lower()]
    if not KINDS[full].namespaced:
        return full, "", rest[-1]
    return full, rest[0] if len(rest) == 2 else "default", rest[-1]


def split_pod_name(name: str) -> tuple[str, str]:
    """``namespace/name``, or ``name`` in ``default``, to namespace and name; also for Services."""
    namespace, _, short = name.rpartition("/")
    return namespace or "default", short
