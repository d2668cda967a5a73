"""Finding recordings of the real thing and replaying them: kernel cases, kube-proxy, DNS, resolvers, whole clusters.

Recordings are found by their file layout, anywhere below a path. Each kind's own module replays it; what no module
replays yet is named and counts as not agreeing, because silence would look like agreement.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pktsim.errors import PktsimError, RecordingError, UnsupportedFeature

#: Replays one recording; returns its first difference as text, or ``None`` if it agrees.
Replay = Callable[[Path], "object | None"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of recording.

    Attributes:
        name: As people see it.
        replay: ``module:function``, imported when the first recording of the kind is found; empty: not modelled yet.
    """

    name: str
    replay: str = ""


CLUSTER = Kind("cluster", "pktsim.cluster.replay:verify")
CLUSTER_RULES = Kind("cluster rules", "pktsim.cluster.rule_check:verify_rules")
KUBE_PROXY = Kind("kube-proxy", "pktsim.cluster.kubeproxy.recording:verify")
KUBE_PROXY_NFTABLES = Kind("kube-proxy in nftables mode")
KUBE_PROXY_UPDATES = Kind("kube-proxy updates", "pktsim.cluster.kubeproxy.recording_updates:verify")
KUBE_PROXY_UPDATES_NFTABLES = Kind("kube-proxy updates in nftables mode")
DNS = Kind("DNS", "pktsim.cluster.kubedns.recording:verify")
RESOLVER = Kind("resolver", "pktsim.cluster.resolver.recording:verify")
KERNEL = Kind("kernel case")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one recording.

    Attributes:
        place: Where in ``path``, for files that hold several cases.
        difference: The first one, as text; empty if it agrees.
        modelled: Whether it could be replayed at all.
    """

    path: Path
    kind: str
    difference: str = ""
    place: str = ""
    modelled: bool = True

    @property
    def agrees(self) -> bool:
        return not self.difference


def find(paths: Iterable[Path]) -> Iterator[tuple[Kind, Path]]:
    """All recordings at or below ``paths``, in order of path.

    Raises:
        RecordingError: A path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise RecordingError("no such file or directory", file=str(path))
        if path.is_file():
            yield from _of_file(path)
            continue
        for directory, below, files in os.walk(path):
            below.sort()
            yield from _of_directory(Path(directory), frozenset(files))


def _of_directory(directory: Path, files: frozenset[str]) -> Iterator[tuple[Kind, Path]]:
    if "topology.yaml" in files:
        for name in sorted(files):
            if name.startswith("iptables-save-") and name.endswith(".txt"):
                yield CLUSTER_RULES, directory / name
    if {"action.yaml", "frames.jsonl.gz"} <= files:
        yield CLUSTER, directory
    elif {"objects.yaml", "config.yaml", "host.yaml"} <= files:
        yield (KUBE_PROXY_NFTABLES if "ruleset.nft" in files else KUBE_PROXY), directory
    elif {"objects-0.yaml", "config.yaml", "host.yaml"} <= files:
        nftables = (directory / "step-0" / "ruleset.nft").exists()
        yield (KUBE_PROXY_UPDATES_NFTABLES if nftables else KUBE_PROXY_UPDATES), directory
    elif {"Corefile", "queries.yaml", "answers.jsonl"} <= files:
        yield DNS, directory
    for name in sorted(files):
        yield from _of_file(directory / name)


def _of_file(path: Path) -> Iterator[tuple[Kind, Path]]:
    if path.name == "cases.jsonl.gz":
        yield KERNEL, path
    elif path.suffix == ".json":
        head = _head(path)
        if '"steps"' in head and '"interfaces"' in head:
            yield KERNEL, path
        elif '"scenario"' in head and '"libc"' in head:
            yield RESOLVER, path


def _head(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"cannot be read: {error}", file=str(path)) from None


def replay(kind: Kind, path: Path) -> Outcome:
    """Replay one recording. Input that cannot be used is an outcome too, not an exception."""
    if not kind.replay:
        return Outcome(path, kind.name, f"{kind.name} recordings are not modelled yet", modelled=False)
    module, _, function = kind.replay.partition(":")
    if importlib.util.find_spec(module) is None:
        return Outcome(path, kind.name, f"{kind.name} recordings are not modelled yet", modelled=False)
    try:
        verify: Replay = getattr(importlib.import_module(module), function)
        difference = verify(path)
    except UnsupportedFeature as error:
        return Outcome(path, kind.name, str(error), modelled=False)
    except PktsimError as error:
        return Outcome(path, kind.name, str(error))
    return Outcome(path, kind.name, "" if difference is None else str(difference))


def _kernel_cases(path: Path) -> Iterator[Outcome]:
    """All cases of one file."""
    from pktsim.kernel.case_recording import read_cases, verify_case

    try:
        for number, case in enumerate(read_cases(path), 1):
            place = str(case.get("name", number)) if ".jsonl" in path.name else ""
            difference = verify_case(case)
            yield Outcome(path, KERNEL.name, difference, place, modelled="not modelled" not in difference)
    except PktsimError as error:
        yield Outcome(path, KERNEL.name, str(error))


def verify(paths: Iterable[Path]) -> Iterator[Outcome]:
    """Replay everything at or below ``paths``.

    Raises:
        RecordingError: A path does not exist, or nothing below them is a recording.
    """
    paths = list(paths)
    found = False
    for kind, path in find(paths):
        found = True
        if kind is KERNEL:
            yield from _kernel_cases(path)
        else:
            yield replay(kind, path)
    if not found:
        where = ", ".join(str(path) for path in paths)
        raise RecordingError("no recording here", file=where, mend="give a directory of recordings, or one above them")
