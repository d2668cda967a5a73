"""Random actions in recorded clusters, rebuilt on the running kernel and on pktsim, and all that differ.

    python -m tests.live.cluster_long_run --cluster vxlan --examples 300 --seed 1
    python -m tests.live.cluster_long_run --cluster book --sysctl everywhere:net.ipv4.conf.all.rp_filter=1
    python -m tests.live.cluster_long_run --cluster host-gw --sysctl node:net.ipv4.ip_forward=0

Needs root. What differs twice is kept as a recording, which ``pktsim verify`` reads; the exit status is 1 if there is
any. A run that is repeated with the same seed has the same actions.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import yaml

from pktsim.cluster import replay
from pktsim.cluster.comparison_types import Difference
from pktsim.cluster.recording import TOPOLOGY_FILE
from pktsim.errors import PktsimError
from tests.live import netns
from tests.live.cluster_actions import Plan
from tests.live.cluster_recorder import Recorder
from tests.recorded import archives

CLUSTERS: Final = ("book", "host-gw", "host-gw-no-brnf", "host-gw-ipv6", "vxlan", "point-to-point")
_FIRST_PORT, _LAST_PORT = 33000, 60000


class Comparison:
    """A cluster on both kernels.

    Args:
        cluster: Its name among the recordings.
        directory: An empty one, where its files and actions go.
        settings: Sysctls that shall be other than recorded, ``ROLE:KEY=VALUE`` or ``everywhere:KEY=VALUE``.
    """

    def __init__(self, cluster: str, directory: Path, settings: Sequence[str] = ()) -> None:
        archives.unpack(f"cluster-{cluster}", directory)
        for path in directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        _change_settings(directory / TOPOLOGY_FILE, settings)
        self.directory = directory
        self.plan = Plan(directory)
        scratch = directory / "sent"
        scratch.mkdir()
        self.recorder = Recorder(directory, scratch)
        self._ports = self._fresh_ports()

    @staticmethod
    def _fresh_ports() -> Iterator[Sequence[int]]:
        """Ports that no connection of the last minute had."""
        while True:
            for first in range(_FIRST_PORT, _LAST_PORT, 3):
                yield range(first, first + 3)

    def difference(self, seed: str, number: int) -> tuple[Difference | str | None, Path]:
        """Run an action on both; what differs, and where the recording is."""
        script = self.plan.script(seed, number, next(self._ports))
        target = self.directory / script.name
        if target.exists():
            shutil.rmtree(target)
        self.recorder.record(script, target)
        try:
            return replay.verify(target), target
        except PktsimError as error:
            return f"{type(error).__name__}: {error}", target

    def twice(self, seed: str, number: int) -> tuple[Difference | str | None, Path]:
        """The same, but what a loaded machine's timing has done is given a second chance."""
        found, target = self.difference(seed, number)
        if found is not None:
            found, target = self.difference(seed, number)
        return found, target

    def close(self) -> None:
        self.recorder.close()


def _change_settings(path: Path, settings: Sequence[str]) -> None:
    topology = yaml.safe_load(path.read_text())
    for setting in settings:
        role, _, rest = setting.partition(":")
        key, _, value = rest.partition("=")
        if role == "everywhere":
            topology["sysctls_everywhere"][key] = value
        for space in topology["spaces"].values():
            if space["role"] == role:
                space["sysctls"][key] = value
    path.write_text(yaml.safe_dump(topology, sort_keys=False))


def main() -> int:
    """Run and report; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", choices=CLUSTERS, action="append", help="all, if none is named")
    parser.add_argument("--examples", type=int, default=300, help="of each cluster")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--sysctl", action="append", default=[], metavar="ROLE:KEY=VALUE", help="other than recorded")
    parser.add_argument("--keep", type=Path, default=Path("differences"), help="where differing recordings go")
    options = parser.parse_args()
    if reason := netns.why_not():
        print(reason, file=sys.stderr)
        return 2
    netns.remove_stale()
    differing = 0
    for cluster in options.cluster or CLUSTERS:
        began, here = time.monotonic(), 0
        with tempfile.TemporaryDirectory(prefix="cluster-") as scratch:
            comparison = Comparison(cluster, Path(scratch), options.sysctl)
            try:
                for number in range(options.first, options.first + options.examples):
                    found, target = comparison.twice(options.seed, number)
                    if found is not None:
                        here += 1
                        kept = _keep(comparison, target, options.keep / f"{cluster}-{options.seed}")
                        print(f"{kept}: {found}", flush=True)
                    shutil.rmtree(target)
            finally:
                comparison.close()
        seconds = time.monotonic() - began
        print(f"{cluster}: {options.examples} actions in {seconds:.0f} s, {here} differ", flush=True)
        differing += here
    return 1 if differing else 0


def _keep(comparison: Comparison, target: Path, directory: Path) -> Path:
    """Copy a recording, with its cluster's files."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in comparison.directory.iterdir():
        if path.is_file():
            shutil.copy(path, directory)
    kept = directory / target.name
    shutil.copytree(target, kept, dirs_exist_ok=True)
    return kept


if __name__ == "__main__":
    sys.exit(main())
