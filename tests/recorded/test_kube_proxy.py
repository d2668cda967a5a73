"""The emulated kube-proxy does what a real one was seen doing, at its start and under change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pktsim.cluster.kubeproxy import recording, recording_updates
from pktsim.errors import RecordingError, UnsupportedFeature
from tests.recorded import archives

STARTS = "kube-proxy-iptables"
UPDATES = "kube-proxy-iptables-updates"


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(STARTS, tmp_path_factory.mktemp("starts"))


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(UPDATES, tmp_path_factory.mktemp("updates"))


@pytest.mark.parametrize("case", archives.names(STARTS))
def test_start(starts: Path, case: str) -> None:
    assert recording.verify(starts / case) is None


@pytest.mark.parametrize("case", archives.names(UPDATES))
def test_updates(updates: Path, case: str) -> None:
    assert recording_updates.verify(updates / case) is None


#: What is changed in a copy of a recording -> what must be said of it.
BROKEN_STARTS = {
    "a rule": ("iptables-save.txt", "--dport 30097 ", "--dport 30098 ", "iptables-save.txt, line "),
    "a rule of IPv6": ("ip6tables-save.txt", "! -d ::1/128", "! -d ::2/128", "ip6tables-save.txt, line "),
    "a setting": ("sysctls.txt", "route_localnet = 1", "route_localnet = 0", "sysctls.txt, line 1"),
    "a source range": ("objects.yaml", "198.51.100.0/24", "198.51.101.0/24", "iptables-save.txt, line "),
    "the configuration": ("config.yaml", "10.244.0.0/16", "10.245.0.0/16", "iptables-save.txt, line "),
}


@pytest.mark.parametrize("what", BROKEN_STARTS)
def test_start_that_differs_is_told(starts: Path, tmp_path: Path, what: str) -> None:
    name, old, new, told = BROKEN_STARTS[what]
    case = shutil.copytree(starts / "load-balancer-source-ranges", tmp_path / "case")
    text = (case / name).read_text()
    assert old in text
    (case / name).write_text(text.replace(old, new))
    difference = recording.verify(case)
    assert difference is not None
    assert difference.startswith(told)
    assert "recorded: " in difference
    assert "emulated: " in difference


BROKEN_UPDATES = {
    "a chain not rewritten": ("rewritten.txt", "ip nat KUBE-MARK-MASQ rewritten\n", ""),
    "an entry that is gone": ("conntrack-after.txt", "", "udp src=1.1.1.1 dst=1.1.1.2 sport=1 dport=2\n"),
    "a command": ("conntrack-commands.txt", "--dst-nat 10.244.2.9", "--dst-nat 10.244.2.8"),
    "a rule": ("iptables-save.txt", "-j KUBE-MARK-MASQ", "-j KUBE-MARK-DROP"),
}


@pytest.mark.parametrize("what", BROKEN_UPDATES)
def test_update_that_differs_is_told(updates: Path, tmp_path: Path, what: str) -> None:
    name, old, new = BROKEN_UPDATES[what]
    case = shutil.copytree(updates / "first-endpoint-udp-every-address", tmp_path / "case")
    path = case / "step-3" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else new + text)
    difference = recording_updates.verify(case)
    assert difference is not None
    assert difference.startswith(f"step-3/{name}, line ")


def test_affinity_list_that_differs_is_told(updates: Path, tmp_path: Path) -> None:
    case = shutil.copytree(updates / "session-affinity-on-timeout-off", tmp_path / "case")
    path = case / "step-2" / "affinity.txt"
    path.write_text(path.read_text().replace("kept", "gone"))
    assert (recording_updates.verify(case) or "").startswith("step-2/affinity.txt, line 1")


def test_health_check_that_differs_is_told(updates: Path, tmp_path: Path) -> None:
    case = shutil.copytree(updates / "external-local-pod-terminates", tmp_path / "case")
    path = case / "step-1" / "healthchecks.txt"
    path.write_text(path.read_text().replace("503", "200"))
    assert (recording_updates.verify(case) or "").startswith("step-1/healthchecks.txt, line 1")


def test_nftables_is_refused_by_name(starts: Path, tmp_path: Path) -> None:
    case = shutil.copytree(starts / "cluster-ip-one-endpoint", tmp_path / "case")
    config = case / "config.yaml"
    config.write_text(config.read_text().replace("mode: iptables", "mode: nftables"))
    with pytest.raises(UnsupportedFeature, match="kube-proxy mode nftables is not modelled"):
        recording.verify(case)


def test_recording_that_is_not_whole_is_an_error(starts: Path, tmp_path: Path) -> None:
    case = shutil.copytree(starts / "cluster-ip-one-endpoint", tmp_path / "case")
    (case / "ip6tables-save.txt").unlink()
    with pytest.raises(RecordingError, match=r"ip6tables-save\.txt: cannot be read"):
        recording.verify(case)
