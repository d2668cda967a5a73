"""Recorded clusters, built on the running kernel: the same action again is the same recording, and so is pktsim's.

More of the random ones: ``python -m tests.live.cluster_long_run``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pktsim.cluster import replay
from pktsim.cluster.comparison import compare_frames
from pktsim.cluster.recording import ACTION_FILE, load_action
from tests.live.cluster_long_run import CLUSTERS, Comparison
from tests.live.cluster_recorder import Command, Recorder, Script
from tests.recorded import archives

#: Actions in which nothing is left to chance, as they were recorded.
SAME = (
    "big-ping",
    "closed-port-udp",
    "cold-ping-other-node",
    "no-endpoints-nodeport",
    "no-endpoints-pod",
    "reset",
    "ttl-1-service",
    "ttl-2",
    "udp-service-three-datagrams",
)
SEED = "1"
EXAMPLES = 7

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_live_machine")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack("cluster-vxlan", tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def recorder(directory: Path, _live_machine: None) -> Iterator[Recorder]:
    scratch = directory / "scratch"
    scratch.mkdir()
    with Recorder(directory, scratch) as made:
        yield made


@pytest.mark.parametrize("name", SAME)
def test_recorded_again(recorder: Recorder, directory: Path, name: str) -> None:
    """The recorder builds the clusters that were recorded: the same frames come out."""
    action = load_action(directory / name)
    commands = tuple(Command(run.space, tuple(run.line.split())) for run in action.runs)
    again = directory / f"{name}-again"
    recorder.record(Script(name, commands, action.warm, action.before), again)
    assert (again / ACTION_FILE).exists()
    difference, _ = compare_frames(action.frames, load_action(again).frames, action.fixed)
    assert difference is None, str(difference)
    found = replay.verify(again)
    assert found is None, str(found)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_random_actions(cluster: str, tmp_path: Path) -> None:
    comparison = Comparison(cluster, tmp_path)
    try:
        for number in range(EXAMPLES):
            found, target = comparison.twice(SEED, number)
            assert found is None, f"{(target / ACTION_FILE).read_text()}\n{found}"
    finally:
        comparison.close()
