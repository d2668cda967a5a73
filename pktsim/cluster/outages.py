"""What a control plane makes of nodes that lose power, and of nodes that are emptied.

A node without power sends nothing more. The control plane only sees that its heartbeats stop: after the node monitor's
grace period the node is NotReady and the pods on it count as not ready, so that Services lose these endpoints; after
the pods' toleration they are deleted, which on a node that does not answer means that they stay objects, terminating,
while a Deployment already starts others elsewhere.

Source: pkg/controller/nodelifecycle/node_lifecycle_controller.go, pkg/controller/tainteviction of Kubernetes 1.30.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pktsim.clock import NS_PER_S, Clock, Timer
from pktsim.errors import ObjectError, TopologyError
from pktsim.fidelity import approximated

from .objects import Node, Pod
from .objects_nodes import NodeCondition, Taint
from .store import ObjectStore

approximated(
    "cluster.outages",
    "heartbeats are not sent: a node that loses power is NotReady when the grace period is over to the nanosecond, its "
    "pods are evicted when their toleration is; a node that starts again is Ready at once, with the pods it had",
    source="pkg/controller/nodelifecycle/node_lifecycle_controller.go",
)

#: ``--node-monitor-grace-period`` (1.30), and the ``tolerationSeconds`` that DefaultTolerationSeconds gives pods.
GRACE_S, TOLERATION_S = 40.0, 300.0
#: Taints that keep pods from being placed on a node.
UNREACHABLE, UNSCHEDULABLE = "node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Outages:
    """Which nodes are down, and what becomes of their objects.

    Args:
        store: The objects.
        clock: Simulated time.
        settle: Brings everything in line with the objects.
    """

    def __init__(self, store: ObjectStore, clock: Clock, settle: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._settle = settle
        self._timers: dict[str, list[Timer]] = {}

    @property
    def down(self) -> frozenset[str]:
        """Nodes without power."""
        return frozenset(self._timers)

    def begin(self, name: str, grace_s: float, toleration_s: float) -> None:
        """A node has lost its power now."""
        after = self._clock.after
        grace_ns = round(grace_s * NS_PER_S)
        self._timers[name] = [
            after(grace_ns, lambda: self._not_ready(name)),
            after(grace_ns + round(toleration_s * NS_PER_S), lambda: self._evict(name)),
        ]

    def end(self, name: str) -> None:
        """It has power again: its kubelet reports, and removes what was deleted meanwhile.

        Raises:
            TopologyError: It had power all the time.
        """
        if name not in self._timers:
            down = ", ".join(sorted(self._timers))
            raise TopologyError(f"node {name!r} is not down", mend=f"down are {down}" if down else "no node is")
        self.forget(name)
        node = self._store.get(Node, name)
        if node is not None:
            conditions = [one for one in node.status.conditions if one.type != "Ready"]
            conditions.append(NodeCondition(type="Ready", status="True"))
            status = node.status.model_copy(update={"conditions": tuple(conditions)})
            self._store.apply(_without_taint(node.model_copy(update={"status": status}), UNREACHABLE))
        for pod in self._pods_on(name):
            if pod.terminating:
                self._store.delete("Pod", pod.name, pod.namespace)
            elif not pod.ready:
                self._store.apply(pod.with_ready(ready=True))

    def forget(self, name: str) -> None:
        """It is no concern any more: it has power again, or was deleted."""
        for timer in self._timers.pop(name, ()):
            timer.cancel()

    def cordon(self, name: str, *, on: bool = True) -> None:
        """``kubectl cordon``: no pod is placed there, or they may be again.

        Raises:
            ObjectError: There is no such node.
        """
        node = self._store.get(Node, name)
        if node is None:
            known = ", ".join(other.name for other in self._store.list(Node))
            raise ObjectError(f"there is no node {name!r}", mend=f"there are {known}")
        self._store.apply(_with_taint(node, UNSCHEDULABLE, "NoSchedule") if on else _without_taint(node, UNSCHEDULABLE))

    def to_drain(self, name: str, *, force: bool) -> list[Pod]:
        """The pods that ``kubectl drain --ignore-daemonsets`` deletes.

        Raises:
            ObjectError: One has no controller that would replace it.
        """
        pods = [pod for pod in self._pods_on(name) if not _is_daemon(pod)]
        for pod in pods:
            if not force and not any(owner.controller for owner in pod.metadata.owner_references):
                raise ObjectError(
                    "nothing would replace it", place=str(pod), mend="drain with force=True to delete it all the same"
                )
        return pods

    def _pods_on(self, name: str) -> list[Pod]:
        return [pod for pod in self._store.list(Pod) if pod.spec.node_name == name and not pod.terminated]

    def _not_ready(self, name: str) -> None:
        node = self._store.get(Node, name)
        if node is None:
            return
        conditions = [one for one in node.status.conditions if one.type != "Ready"]
        conditions.append(NodeCondition(type="Ready", status="Unknown"))
        status = node.status.model_copy(update={"conditions": tuple(conditions)})
        self._store.apply(_with_taint(node.model_copy(update={"status": status}), UNREACHABLE, "NoExecute"))
        for pod in self._pods_on(name):
            self._store.apply(pod.with_ready(ready=False))
        self._settle()

    def _evict(self, name: str) -> None:
        seconds = self._clock.now_ns // NS_PER_S
        stamp = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for pod in self._pods_on(name):
            if not pod.terminating and not _is_daemon(pod):
                metadata = pod.metadata.model_copy(update={"deletion_timestamp": stamp})
                self._store.apply(pod.model_copy(update={"metadata": metadata}))
        self._settle()


def _is_daemon(pod: Pod) -> bool:
    return any(owner.kind == "DaemonSet" for owner in pod.metadata.owner_references)


def _without_taint(node: Node, key: str) -> Node:
    taints = tuple(taint for taint in node.spec.taints if taint.key != key)
    return node.model_copy(update={"spec": node.spec.model_copy(update={"taints": taints})})


def _with_taint(node: Node, key: str, effect: str) -> Node:
    node = _without_taint(node, key)
    taints = (*node.spec.taints, Taint(key=key, effect=effect))
    return node.model_copy(update={"spec": node.spec.model_copy(update={"taints": taints})})
