"""The emulated DNS pod answers, and the emulated resolvers ask, as real ones were seen doing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pktsim.cluster.kubedns import recording
from pktsim.cluster.resolver import recording as resolver_recording
from pktsim.errors import RecordingError, UnsupportedFeature
from tests.recorded import archives

ARCHIVE = "dns"
CASES = tuple(name for name in archives.names(ARCHIVE) if name != "resolver" and "." not in name)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(ARCHIVE, tmp_path_factory.mktemp("dns"))


@pytest.mark.parametrize("case", CASES)
def test_answers(recordings: Path, case: str) -> None:
    assert recording.verify(recordings / case) is None


#: What is changed in a copy of a recording -> what must be said of it.
BROKEN = {
    "an address": ("ttl-0", "objects.yaml", "10.96.10.1", "10.96.10.99", "q000: "),
    "a TTL": ("ttl-0", "Corefile", "ttl 0", "ttl 1", "q000: "),
    "an address among many": ("kubeadm", "objects.yaml", "10.244.1.51", "10.244.1.99", "q016: "),
    "what is asked of others": ("plain", "Corefile", "forward . /etc/resolv.conf", "forward . 192.0.2.99", "q138: "),
    "how long a connection lives": (
        "malformed",
        "answers.jsonl",
        '"closed_after_s":10',
        '"closed_after_s":8',
        "q119: ",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_answer_that_differs_is_told(recordings: Path, tmp_path: Path, what: str) -> None:
    name, file, old, new, told = BROKEN[what]
    case = shutil.copytree(recordings / name, tmp_path / "case")
    text = (case / file).read_text()
    assert old in text
    (case / file).write_text(text.replace(old, new))
    difference = recording.verify(case)
    assert difference is not None
    assert told in difference


def test_a_plugin_that_is_not_modelled_is_refused(recordings: Path, tmp_path: Path) -> None:
    case = shutil.copytree(recordings / "ttl-0", tmp_path / "case")
    (case / "Corefile").write_text(".:53 {\n    errors\n    dnssec\n}\n")
    with pytest.raises(UnsupportedFeature, match=r"Corefile:3: plugin dnssec is not modelled"):
        recording.verify(case)


def test_a_recording_without_answers_is_an_error(recordings: Path, tmp_path: Path) -> None:
    case = shutil.copytree(recordings / "ttl-0", tmp_path / "case")
    (case / "answers.jsonl").write_text("")
    with pytest.raises(RecordingError, match="different queries"):
        recording.verify(case)


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_resolvers(recordings: Path, libc: str) -> None:
    paths = sorted((recordings / "resolver").glob(f"*--{libc}.json"))
    assert len(paths) > 100
    differences = {path.stem: resolver_recording.verify(path) for path in paths}
    assert {stem: text for stem, text in differences.items() if text is not None} == {}


#: What is changed in a recording of a resolver -> what must be said of it.
BROKEN_RESOLVERS = {
    "the search list": ("name-web.default--glibc", "svc.cluster.local cluster", "cluster", "packet "),
    "who answers": (
        "server-servfail--glibc",
        '"server": "servfail"',
        '"server": "nxdomain"',
        "packets sent instead of",
    ),
    "the result": ("name-db--musl", "10.244.2.52", "10.244.2.53", "output "),
    "a time": ("server-silent--glibc", '"t": 5.0', '"t": 4.0', "packet 3 sent"),
}


@pytest.mark.parametrize("what", BROKEN_RESOLVERS)
def test_a_resolver_that_differs_is_told(recordings: Path, tmp_path: Path, what: str) -> None:
    name, old, new, told = BROKEN_RESOLVERS[what]
    shutil.copytree(recordings / "plain", tmp_path / "plain")
    (tmp_path / "resolver").mkdir()
    text = (recordings / "resolver" / f"{name}.json").read_text()
    assert old in text
    path = tmp_path / "resolver" / f"{name}.json"
    path.write_text(text.replace(old, new, 1))
    difference = resolver_recording.verify(path)
    assert difference is not None
    assert told in difference
