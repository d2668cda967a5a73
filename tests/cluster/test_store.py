"""The object store: versions, events and their order."""

from __future__ import annotations

import pytest

from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import ConfigMap, KubeObject, ObjectMeta
from pktsim.cluster.store import EventType, ObjectStore, WatchEvent
from pktsim.errors import ObjectError


def config(name: str, text: str = "x") -> ConfigMap:
    found = load_objects(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: {text}}}\n")[0]
    assert isinstance(found, ConfigMap)
    return found


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: WatchEvent) -> None:
        self.lines.append(f"{event.type} {event.object.name} {event.object.metadata.resource_version}")


def test_every_change_has_its_own_version_and_event() -> None:
    store, log = ObjectStore(), Log()
    store.watch(log)
    store.apply(config("a"))
    store.apply(config("a", "y"))
    store.delete("ConfigMap", "a", "default")
    assert log.lines == ["ADDED a 1", "MODIFIED a 2", "DELETED a 2"]
    assert store.revision == 3
    assert store.get(ConfigMap, "a", "default") is None


def test_applying_the_same_again_tells_nobody() -> None:
    store, log = ObjectStore(), Log()
    first = store.apply(config("a"))
    store.watch(log, replay=False)
    assert store.apply(config("a")) == first
    assert log.lines == []


def test_an_object_keeps_its_uid_for_life_and_no_longer() -> None:
    store = ObjectStore()
    uid = store.apply(config("a")).metadata.uid
    assert store.apply(config("a", "y")).metadata.uid == uid
    store.delete("ConfigMap", "a", "default")
    assert store.apply(config("a")).metadata.uid != uid


def test_an_object_made_in_python_knows_its_kind() -> None:
    made = ConfigMap(metadata=ObjectMeta(name="a", namespace="default"))
    assert (made.api_version, made.kind, made.key) == ("v1", "ConfigMap", ("ConfigMap", "default", "a"))


def test_list_is_in_key_order() -> None:
    store = ObjectStore()
    for name in ("b", "a", "c"):
        store.apply(config(name))
    assert [found.name for found in store.list(ConfigMap)] == ["a", "b", "c"]
    assert [found.name for found in store] == ["a", "b", "c"]
    assert len(store) == 3


def test_a_late_watcher_first_hears_what_is_there() -> None:
    store, log = ObjectStore(), Log()
    store.apply(config("a"))
    store.watch(log, ["ConfigMap"])
    store.watch(lambda event: pytest.fail("not this kind"), ["Pod"])
    assert log.lines == ["ADDED a 1"]


def test_changes_made_by_watchers_come_after_the_change_they_heard_of() -> None:
    store, log = ObjectStore(), Log()

    def react(event: WatchEvent) -> None:
        if event.object.name == "a":
            store.apply(config("b"))

    store.watch(react)
    store.watch(log)
    store.apply(config("a"))
    assert log.lines == ["ADDED a 1", "ADDED b 2"]


def test_cancelled_watchers_hear_no_more() -> None:
    store, log = ObjectStore(), Log()
    subscription = store.watch(log)
    store.apply(config("a"))
    subscription.cancel()
    store.apply(config("b"))
    assert log.lines == ["ADDED a 1"]


def test_apply_all_shows_watchers_the_whole() -> None:
    store = ObjectStore()
    seen: list[list[KubeObject]] = []
    store.watch(lambda event: seen.append(list(store)))
    store.apply_all([config("a"), config("b")])
    assert [len(one) for one in seen] == [2, 2]


def test_replace_deletes_what_is_gone() -> None:
    store, log = ObjectStore(), Log()
    store.apply_all([config("a"), config("b")])
    store.watch(log, replay=False)
    store.replace([config("b", "y"), config("c")])
    assert log.lines == ["DELETED a 1", "MODIFIED b 4", "ADDED c 5"]
    assert log.lines[0].startswith(EventType.DELETED)


def test_deleting_what_is_not_there_says_what_is() -> None:
    store = ObjectStore()
    store.apply(config("a"))
    with pytest.raises(ObjectError, match=r"there is no ConfigMap default/b \(there are: default/a\)"):
        store.delete("ConfigMap", "b", "default")
