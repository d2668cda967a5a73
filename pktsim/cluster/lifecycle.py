"""How pods end, and what becomes of the pods of a node that is gone: kubelet's part and the garbage collector's.

A pod that is deleted with a grace period is terminating while it lasts: its programs go on, as those do that wait for
their last clients, and its readiness counts as ``serving``. At the end its programs are killed, so its kernel closes
their connections; a moment later its namespace and the object go.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pktsim.clock import NS_PER_MS, NS_PER_S, Clock
from pktsim.errors import UnsupportedFeature
from pktsim.fidelity import approximated

from .kubedns.install import is_dns_pod
from .machines import PodMachine
from .objects import Pod
from .store import ObjectStore

approximated(
    "cluster.pod_termination",
    "programs of a pod that ends go on until its grace period is over, as with a preStop hook that sleeps; then they "
    "are killed, and 100 ms later the pod's network namespace and the object are gone",
    source="pkg/kubelet/kuberuntime/kuberuntime_container.go (killContainersWithSyncResult)",
)
approximated(
    "cluster.pod_gc",
    "pods of a deleted node stay objects for 40 s, the garbage collector's quarantine, without its check period",
    source="pkg/controller/podgc/gc_controller.go (quarantineTime)",
)

#: From the end of its programs until a pod's network namespace is gone.
TEARDOWN_NS = 100 * NS_PER_MS
#: How long a deleted node's pods are left alone.
QUARANTINE_NS = 40 * NS_PER_S

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PodLifecycle:
    """Ends pods in time.

    Args:
        store: The objects.
        clock: Simulated time.
        machine_of: Where a pod runs, if it does.
        settle: Brings everything in line with the objects.
    """

    def __init__(
        self,
        store: ObjectStore,
        clock: Clock,
        machine_of: Callable[[Pod], PodMachine | None],
        settle: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._machine_of = machine_of
        self._settle = settle

    def terminate(self, pod: Pod, grace_s: float) -> None:
        """Delete a pod, at once or after a grace period; one that is terminating already is left to its end."""
        if grace_s <= 0:
            self._store.delete("Pod", pod.name, pod.namespace)
        elif not pod.terminating:
            until_ns = self._clock.now_ns + round(grace_s * NS_PER_S)
            metadata = pod.metadata.model_copy(
                update={
                    "deletion_timestamp": _timestamp(until_ns),
                    "deletion_grace_period_seconds": round(grace_s),
                }
            )
            stored = self._store.apply(pod.model_copy(update={"metadata": metadata}))
            self._clock.after(until_ns - self._clock.now_ns, lambda: self._end(stored))

    def _end(self, pod: Pod) -> None:
        if self._same(pod):
            machine = self._machine_of(pod)
            if machine is not None:
                machine.stop()
            self._clock.after(TEARDOWN_NS, lambda: self._remove(pod))

    def _remove(self, pod: Pod) -> None:
        if self._same(pod):
            self._store.delete("Pod", pod.name, pod.namespace)
            self._settle()

    def _same(self, pod: Pod) -> bool:
        found = self._store.get(Pod, pod.name, pod.namespace)
        return found is not None and found.metadata.uid == pod.metadata.uid

    def crash(self, machine: PodMachine, restart_s: float | None) -> None:
        """A pod's programs are killed, and start again after so many seconds, or never.

        Raises:
            UnsupportedFeature: It is one of kube-dns or an ingress controller, whose programs cannot start again.
        """
        if machine.ingress is not None or is_dns_pod(self._store, machine.pod):
            raise UnsupportedFeature("killing the program of kube-dns or an ingress controller", place=machine.name)
        machine.stop()
        self._set_ready(machine.pod, ready=False)
        if restart_s is not None:
            self._clock.after(round(restart_s * NS_PER_S), lambda: self._restart(machine))

    def _restart(self, machine: PodMachine) -> None:
        if self._machine_of(machine.pod) is machine:
            machine.stopped = False
            self._set_ready(machine.pod, ready=True)

    def _set_ready(self, pod: Pod, *, ready: bool) -> None:
        found = self._store.get(Pod, pod.name, pod.namespace)
        assert found is not None
        self._store.apply(found.with_ready(ready=ready))
        self._settle()

    def node_gone(self, name: str) -> None:
        """A node is deleted: its pods are collected after a while, unless it comes back."""
        self._clock.after(QUARANTINE_NS, lambda: self._collect(name))

    def _collect(self, name: str) -> None:
        if self._store.get("Node", name) is not None:
            return
        for pod in self._store.list(Pod):
            if pod.spec.node_name == name:
                self._store.delete("Pod", pod.name, pod.namespace)
        self._settle()


def _timestamp(at_ns: int) -> str:
    """Simulated time as the API writes a time, counted from the epoch."""
    return (_EPOCH + timedelta(seconds=at_ns // NS_PER_S)).strftime("%Y-%m-%dT%H:%M:%SZ")
