"""Whole clusters, recorded: the same frames on every interface, the same conntrack entries and counters, again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktsim.cluster import replay
from pktsim.cluster.comparison import compare_frames
from pktsim.cluster.recording import ACTION_FILE, find_actions, load_action
from pktsim.cluster.rule_check import verify_rules
from tests.recorded import archives

CLUSTERS = ("book", "host-gw", "host-gw-ipv6", "host-gw-no-brnf", "point-to-point", "vxlan")


def _names(cluster: str) -> list[str]:
    return [name for name in archives.names(f"cluster-{cluster}") if not name.endswith((".txt", ".yaml"))]


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clusters")
    for cluster in CLUSTERS:
        archives.unpack(f"cluster-{cluster}", root / cluster)
    return root


@pytest.mark.parametrize(("cluster", "name"), [(cluster, name) for cluster in CLUSTERS for name in _names(cluster)])
def test_action(clusters: Path, cluster: str, name: str) -> None:
    difference = replay.verify(clusters / cluster / name)
    assert difference is None, str(difference)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_rules_of_nodes(clusters: Path, cluster: str) -> None:
    paths = sorted((clusters / cluster).glob("iptables-save-*.txt"))
    assert paths
    for path in paths:
        assert verify_rules(path) is None


def test_every_recording_agrees_with_itself_and_no_other(clusters: Path) -> None:
    """The comparison on real data: equal to itself, and different from every other action of its cluster."""
    actions = [load_action(path) for path in find_actions(clusters / "book")]
    assert len(actions) == 9
    for one in actions:
        for other in actions:
            difference, _ = compare_frames(one.frames, other.frames, one.fixed)
            assert (difference is None) == (one.name == other.name)
    assert all((clusters / "book" / one.name / ACTION_FILE).exists() for one in actions)
