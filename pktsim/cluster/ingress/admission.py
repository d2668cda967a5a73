"""What is looked at when objects are applied: what no controller here could do is refused before anything changes."""

from __future__ import annotations

from collections.abc import Sequence

from pktsim.cluster.admission_ingress import with_default_class
from pktsim.cluster.objects import (
    ConfigMap,
    DaemonSet,
    Deployment,
    Ingress,
    IngressClass,
    KubeObject,
    Pod,
    ReplicaSet,
    StatefulSet,
    Workload,
)
from pktsim.cluster.store import ObjectStore

from .settings import check_ingress, check_pods

_RUNNING = (Pod, Deployment, ReplicaSet, StatefulSet, DaemonSet)


def admit(store: ObjectStore, objects: Sequence[KubeObject]) -> list[KubeObject]:
    """Check objects that are about to be applied, and give Ingresses without a class the default one.

    IngressClasses that come with an Ingress count as there before it.

    Raises:
        UnsupportedFeature: A controller's options or settings, or an Ingress, would change what happens, and that is
            not modelled.
        ObjectError: One of them has a value that cannot be read.
    """
    known = (*store.list(IngressClass), *objects)
    classes = {found.name: found for found in known if isinstance(found, IngressClass)}
    admitted: list[KubeObject] = []
    for one in objects:
        if isinstance(one, Ingress):
            check_ingress(one)
            admitted.append(with_default_class(one, classes.values()))
        else:
            admitted.append(one)
    _check_controllers(store, objects)
    return admitted


def _check_controllers(store: ObjectStore, objects: Sequence[KubeObject]) -> None:
    new = {found.key: found for found in objects if isinstance(found, (ConfigMap, *_RUNNING))}
    settings = any(isinstance(found, ConfigMap) for found in new.values())
    old = [found for kind in _RUNNING for found in store.list(kind) if found.key not in new] if settings else []
    pods = [_pod_of(found) for found in (*new.values(), *old) if isinstance(found, _RUNNING)]

    def config(namespace: str, name: str) -> ConfigMap | None:
        found = new.get(("ConfigMap", namespace, name))
        return found if isinstance(found, ConfigMap) else store.get(ConfigMap, name, namespace)

    check_pods(pods, config)


def _pod_of(found: Pod | Workload) -> Pod:
    """A pod itself, or the one that a workload's template describes, under the workload's own name."""
    if isinstance(found, Pod):
        return found
    template = found.spec.template
    metadata = template.metadata.model_copy(update={"name": found.name, "namespace": found.namespace})
    return Pod(metadata=metadata, spec=template.spec)
