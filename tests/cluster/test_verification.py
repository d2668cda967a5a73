from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pktsim.cluster import verification
from pktsim.errors import RecordingError


def touch(root: Path, *names: str, text: str = "") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    touch(tmp_path, "c/topology.yaml", "c/objects.yaml", "c/iptables-save-node-a.txt")
    touch(tmp_path, "c/act/action.yaml", "c/act/frames.jsonl.gz", "c/act/conntrack.txt")
    touch(tmp_path, "p/one/objects.yaml", "p/one/config.yaml", "p/one/host.yaml")
    touch(tmp_path, "p/two/objects.yaml", "p/two/config.yaml", "p/two/host.yaml", "p/two/ruleset.nft")
    touch(tmp_path, "u/objects-0.yaml", "u/flows.yaml", "u/config.yaml", "u/host.yaml")
    touch(tmp_path, "d/Corefile", "d/queries.yaml", "d/answers.jsonl", "d/objects.yaml")
    touch(tmp_path, "d/resolver/x--glibc.json", text='{"scenario": "x", "libc": "glibc"}')
    touch(tmp_path, "n/case.json", text='{"name": "case", "interfaces": [], "steps": []}')
    touch(tmp_path, "n/cases.jsonl.gz")
    touch(tmp_path, "n/distributions.json", text='{"samples": []}')
    return tmp_path


def test_each_kind_is_found_by_its_layout(recordings: Path) -> None:
    found = [(kind.name, str(path.relative_to(recordings))) for kind, path in verification.find([recordings])]
    assert found == [
        ("cluster rules", "c/iptables-save-node-a.txt"),
        ("cluster", "c/act"),
        ("DNS", "d"),
        ("resolver", "d/resolver/x--glibc.json"),
        ("kernel case", "n/case.json"),
        ("kernel case", "n/cases.jsonl.gz"),
        ("kube-proxy", "p/one"),
        ("kube-proxy in nftables mode", "p/two"),
        ("kube-proxy updates", "u"),
    ]


def test_one_recording_can_be_named(recordings: Path) -> None:
    assert [path.name for _, path in verification.find([recordings / "c" / "act"])] == ["act"]
    assert [path.name for _, path in verification.find([recordings / "n" / "case.json"])] == ["case.json"]


def test_what_is_not_modelled_does_not_agree(recordings: Path) -> None:
    (outcome,) = verification.verify([recordings / "p" / "two"])
    assert not outcome.agrees
    assert not outcome.modelled
    assert outcome.difference == "kube-proxy in nftables mode recordings are not modelled yet"


def test_a_recording_that_cannot_be_read_does_not_agree(recordings: Path) -> None:
    (outcome,) = verification.verify([recordings / "c" / "act"])
    assert not outcome.agrees
    assert "topology.yaml" in outcome.difference


@pytest.mark.parametrize("name", ["missing", "c/act/nothing-here"])
def test_a_path_without_recordings(recordings: Path, name: str) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        list(verification.verify([recordings / name]))
    (recordings / "empty").mkdir()
    with pytest.raises(RecordingError, match="no recording here"):
        list(verification.verify([recordings / "empty"]))
