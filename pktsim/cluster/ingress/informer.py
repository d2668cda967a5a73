"""A controller's own view of the objects: the API server's, some time later."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

from pktsim.clock import Clock
from pktsim.cluster.objects import KubeObject
from pktsim.cluster.store import EventType, ObjectStore, WatchEvent

_Object = TypeVar("_Object", bound=KubeObject)


class Informer:
    """Watches some kinds of objects.

    Args:
        store: Where they live; what is there already is known at once.
        kinds: Which ones.
        clock: The time.
        delay_ns: How long the news of a change takes.
        changed: Called after each change that has become known.
    """

    def __init__(
        self,
        store: ObjectStore,
        kinds: tuple[type[KubeObject], ...],
        clock: Clock,
        delay_ns: int,
        changed: Callable[[WatchEvent], None],
    ) -> None:
        self._objects: dict[str, dict[tuple[str, str], KubeObject]] = {
            kind.__name__: {(found.namespace, found.name): found for found in store.list(kind)} for kind in kinds
        }
        self._changed = changed
        self._clock = clock
        self._delay_ns = delay_ns
        self._stopped = False
        self._subscription = store.watch(self._hear, kinds, replay=False)

    def stop(self) -> None:
        """Hear no more."""
        self._stopped = True
        self._subscription.cancel()

    def all(self, kind: type[_Object]) -> dict[tuple[str, str], _Object]:
        """The objects of a kind by namespace and name."""
        return cast("dict[tuple[str, str], _Object]", self._objects[kind.__name__])

    def _hear(self, event: WatchEvent) -> None:
        if self._delay_ns:
            self._clock.after(self._delay_ns, partial(self._know, event))
        else:
            self._know(event)

    def _know(self, event: WatchEvent) -> None:
        if self._stopped:
            return
        found = event.object
        objects = self._objects[found.kind]
        if event.type is EventType.DELETED:
            objects.pop((found.namespace, found.name), None)
        else:
            objects[found.namespace, found.name] = found
        self._changed(event)
