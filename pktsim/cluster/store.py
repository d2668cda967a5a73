"""The API server's memory: objects by kind, resource versions, and watchers told of every change in order.

Controllers (endpoint slices, kube-proxy, kube-dns) subscribe here. Delivery is synchronous and in the order of the
changes: a change that a watcher makes while it is told of another one waits until all watchers have heard of the first,
as with one API server and one etcd revision after the other.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from pktsim.fidelity import approximated

from ..errors import ObjectError
from .objects import KubeObject

approximated(
    "cluster.watch_latency",
    "controllers hear of a change in the instant in which it is made, in the order of the changes; a real "
    "watch takes milliseconds",
    source="staging/src/k8s.io/apiserver/pkg/storage/cacher",
)

_Object = TypeVar("_Object", bound=KubeObject)


class EventType(enum.StrEnum):
    """``watch.EventType`` (apimachinery pkg/watch)."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change.

    Attributes:
        type: What happened.
        object: The object after it, or the last state of a deleted one.
        old: The object before it, ``None`` if it was added.
    """

    type: EventType
    object: KubeObject
    old: KubeObject | None


Watcher = Callable[[WatchEvent], None]


class Subscription:
    """A watcher's place in the store; ``cancel`` ends it."""

    __slots__ = ("_kinds", "_store", "_watcher")

    def __init__(self, store: ObjectStore, kinds: frozenset[str], watcher: Watcher) -> None:
        self._store = store
        self._kinds = kinds
        self._watcher: Watcher | None = watcher

    def cancel(self) -> None:
        """Hear no more; also from within the watcher."""
        self._watcher = None
        self._store._forget(self)

    def _tell(self, event: WatchEvent) -> None:
        if self._watcher is not None and (not self._kinds or event.object.kind in self._kinds):
            self._watcher(event)


class ObjectStore:
    """All objects of one cluster.

    An object that is applied without any change keeps its resource version and tells nobody. Objects that never went
    through an API server may come with resource versions of their own; the store gives new ones.
    """

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], KubeObject]] = {}
        self._revision = 0
        self._subscriptions: list[Subscription] = []
        self._pending: deque[tuple[WatchEvent, tuple[Subscription, ...]]] = deque()
        self._delivering = False

    @property
    def revision(self) -> int:
        """The resource version of the latest change."""
        return self._revision

    def apply(self, found: _Object) -> _Object:
        """Add an object, or replace the one of the same kind, namespace and name.

        Returns:
            The object as stored: with its resource version, and with the uid and creation time of the one it replaces.

        Raises:
            ObjectError: It has no name (``generateName`` is resolved by whoever makes the object).
        """
        return self._apply(found, deliver=True)

    def apply_all(self, objects: Iterable[KubeObject]) -> None:
        """Apply several, and only then tell the watchers: all have the whole of it when they look around."""
        for found in objects:
            self._apply(found, deliver=False)
        self._deliver()

    def _apply(self, found: _Object, *, deliver: bool) -> _Object:
        metadata = found.metadata
        if not metadata.name:
            raise ObjectError("metadata.name is missing", place=found.kind, mend="give it a name")
        of_kind = self._objects.setdefault(found.kind, {})
        key = (metadata.namespace, metadata.name)
        old = of_kind.get(key)
        update: dict[str, Any] = {}
        if old is not None:
            update["uid"] = old.metadata.uid
            update["creation_timestamp"] = old.metadata.creation_timestamp
            update["resource_version"] = old.metadata.resource_version
            if not any(update[name] != getattr(metadata, name) for name in update):
                same = found
            else:
                same = _with_metadata(found, update)
            if same == old:
                return same
        else:
            update["uid"] = metadata.uid or _uid(self._revision + 1)
        self._revision += 1
        update["resource_version"] = str(self._revision)
        stored = _with_metadata(found, update)
        of_kind[key] = stored
        self._queue(WatchEvent(EventType.ADDED if old is None else EventType.MODIFIED, stored, old))
        if deliver:
            self._deliver()
        return stored

    def delete(self, kind: str, name: str, namespace: str = "") -> KubeObject:
        """Take an object away at once; a pod's grace period is its controller's affair.

        Raises:
            ObjectError: There is none.
        """
        found = self._objects.get(kind, {}).pop((namespace, name), None)
        if found is None:
            raise self._absent(kind, name, namespace)
        self._revision += 1
        self._queue(WatchEvent(EventType.DELETED, found, found))
        self._deliver()
        return found

    def replace(self, objects: Iterable[KubeObject]) -> None:
        """Make the store hold exactly these: what is gone is deleted first, then the rest is applied."""
        wanted = list(objects)
        keys = {found.key for found in wanted}
        for found in list(self):
            if found.key not in keys:
                del self._objects[found.kind][(found.namespace, found.name)]
                self._revision += 1
                self._queue(WatchEvent(EventType.DELETED, found, found))
        self.apply_all(wanted)

    @overload
    def get(self, kind: type[_Object], name: str, namespace: str = "") -> _Object | None: ...

    @overload
    def get(self, kind: str, name: str, namespace: str = "") -> KubeObject | None: ...

    def get(self, kind: str | type[KubeObject], name: str, namespace: str = "") -> KubeObject | None:
        """Return an object, or ``None``."""
        return self._objects.get(_kind_name(kind), {}).get((namespace, name))

    @overload
    def list(self, kind: type[_Object], namespace: str | None = None) -> list[_Object]: ...

    @overload
    def list(self, kind: str, namespace: str | None = None) -> list[KubeObject]: ...

    def list(self, kind: str | type[KubeObject], namespace: str | None = None) -> Any:
        """Return the objects of a kind, in the order of namespace and name, as etcd keeps its keys."""
        of_kind = self._objects.get(_kind_name(kind), {})
        return [of_kind[key] for key in sorted(of_kind) if namespace is None or key[0] == namespace]

    def __iter__(self) -> Iterator[KubeObject]:
        """Go through all objects, by kind, namespace and name."""
        for kind in sorted(self._objects):
            yield from self.list(kind)

    def __len__(self) -> int:
        return sum(len(of_kind) for of_kind in self._objects.values())

    def watch(
        self, watcher: Watcher, kinds: Iterable[str | type[KubeObject]] = (), *, replay: bool = True
    ) -> Subscription:
        """Tell ``watcher`` of every change from now on.

        Args:
            watcher: Called for each change, in order.
            kinds: Which kinds; none means all.
            replay: Whether it first hears of every object that is there, as added (list, then watch).
        """
        names = frozenset(_kind_name(kind) for kind in kinds)
        subscription = Subscription(self, names, watcher)
        if replay:
            for found in list(self):
                subscription._tell(WatchEvent(EventType.ADDED, found, None))
        self._subscriptions.append(subscription)
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def _queue(self, event: WatchEvent) -> None:
        self._pending.append((event, tuple(self._subscriptions)))

    def _deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._pending:
                event, subscriptions = self._pending.popleft()
                for subscription in subscriptions:
                    subscription._tell(event)
        finally:
            self._delivering = False

    def _absent(self, kind: str, name: str, namespace: str) -> ObjectError:
        full = f"{namespace}/{name}" if namespace else name
        there = ", ".join(found.full_name for found in self.list(kind)[:8])
        return ObjectError(f"there is no {kind} {full}", mend=f"there are: {there}" if there else "")


def _kind_name(kind: str | type[KubeObject]) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _uid(revision: int) -> str:
    """A uid that is the same in every run."""
    return f"00000000-0000-4000-8000-{revision:012x}"


def _with_metadata(found: _Object, update: dict[str, Any]) -> _Object:
    return found.model_copy(update={"metadata": found.metadata.model_copy(update=update)})
