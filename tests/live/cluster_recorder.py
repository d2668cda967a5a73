"""Records actions of a cluster on the running kernel, in the form of the recordings that ``pktsim verify`` reads."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from pktsim.cluster.recording import ACTION_FILE, CONNTRACK_FILE, COUNTERS_FILE, FRAMES_FILE
from pktsim.wire.fields import dissect
from tests import tools
from tests.live import cluster_process
from tests.live.cluster_spaces import ClusterSpaces

#: Without a frame for so long an action is over: longer than what a replay waits for after the last one.
QUIET_S: Final = 0.4
_POLL_S: Final = 0.02
_LISTENER_REPORTS: Final = (131, 132, 143)
_HAIRPIN = re.compile(r"(?P<node>\S+): (?P<command>bridge link set dev \S+ hairpin) (?P<value>on|off)")
_SAYS_WHO = re.compile(r"^(?:reply \d+ )?(\S+) saw ", re.MULTILINE)
#: Where curl finds what it uploads.
_UPLOAD = re.compile(r"@(\d+)-bytes")


@dataclass(frozen=True, slots=True)
class Command:
    """A command and who runs it. ``line`` is what ``action.yaml`` says; arguments may have blanks in them."""

    space: str
    arguments: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join(self.arguments)


@dataclass(frozen=True, slots=True)
class Script:
    """An action to record.

    Attributes:
        before: Settings that are changed first, as the recordings say them.
        linger_s: How long to look on after the last command.
    """

    name: str
    commands: tuple[Command, ...]
    warm: bool = True
    before: tuple[str, ...] = ()
    linger_s: float = 0.0


@dataclass(slots=True)
class _Frames:
    """What the rings hold, since the action began."""

    spaces: ClusterSpaces
    seen: list[tuple[int, str, str, str, bytes]] = field(default_factory=list)
    last: float = field(default_factory=time.monotonic)

    def take(self) -> int:
        """Take what has come; how many frames that were."""
        before = len(self.seen)
        for space, interface, ring in self.spaces.rings:
            for one in ring.take():
                if (interface == "lo" and one.outgoing) or _is_listener_report(one.frame):
                    continue
                self.seen.append((one.at_ns, space, interface, "out" if one.outgoing else "in", one.frame))
                self.last = time.monotonic()
        return len(self.seen) - before

    def wait(self, quiet_s: float, until: float = 0.0) -> None:
        """Take until nothing has come for a while, and not less long than ``until``."""
        self.last = time.monotonic()
        while time.monotonic() < max(self.last + quiet_s, until):
            self.take()
            time.sleep(_POLL_S)


def _is_listener_report(frame: bytes) -> bool:
    found = dissect(frame) if frame[12:14] == b"\x86\xdd" else None
    return found is not None and any(
        found.value(part) in _LISTENER_REPORTS for part in found.named("icmpv6.type") if not part.path
    )


class Recorder:
    """A cluster on the running kernel, and the programs in it.

    Args:
        directory: A recorded cluster's.
        scratch: A directory of this recorder's own, for files that curl sends.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        tools.need("curl")
        self.scratch = scratch
        self.spaces = ClusterSpaces(directory)
        self._programs = subprocess.Popen(
            [sys.executable, cluster_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=scratch,
        )

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        process = self._programs
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the programs' process has died"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, f"{command}: {answer['error']}"
        return answer

    def record(self, script: Script, target: Path) -> None:
        """Run an action, and write what happened into a new directory below a cluster's."""
        servers = [[space.name, self.spaces.namespace(space.name)] for space in self.spaces.topology.servers]
        self._ask({"serve": servers, "family": self.spaces.version})
        self.spaces.reset(warm=script.warm)
        frames = _Frames(self.spaces)
        frames.wait(2 * _POLL_S)
        frames.seen.clear()
        earlier = {node: self.spaces.counters(node) for node in self.spaces.nodes}
        self._set(script.before)
        try:
            runs = [(command, self._run(command)) for command in script.commands]
            until = time.monotonic() + script.linger_s
            while True:
                frames.wait(QUIET_S, until)
                tables = {node: self.spaces.conntrack(node) for node in self.spaces.nodes}
                counters = {node: self.spaces.counters(node) for node in self.spaces.nodes}
                if not frames.take():
                    break  # else something was sent while the tables were read
        finally:
            self._set([_opposite(change) for change in script.before])
        target.mkdir()
        frames.seen.sort(key=lambda seen: seen[0])
        _write_frames(target / FRAMES_FILE, frames.seen)
        _write_action(target / ACTION_FILE, script, runs, frames.seen)
        lines = [text for node, table in tables.items() for text in (f"== {node} ==", *table)]
        (target / CONNTRACK_FILE).write_text("".join(f"{line}\n" for line in lines))
        (target / COUNTERS_FILE).write_text(_moved(earlier, counters))

    def _run(self, command: Command) -> dict[str, Any]:
        for size in _UPLOAD.findall(command.line):
            (self.scratch / f"{size}-bytes").write_bytes(cluster_process.filled(int(size)))
        return self._ask({"run": command.arguments, "namespace": self.spaces.namespace(command.space)})

    def _set(self, changes: Sequence[str]) -> None:
        for change in changes:
            found = _HAIRPIN.fullmatch(change)
            assert found is not None, change
            with self.spaces.inside(found["node"]):
                tools.run(*found["command"].split(), found["value"])

    def close(self) -> None:
        for stream in (self._programs.stdin, self._programs.stdout):
            if stream is not None:
                stream.close()
        self._programs.wait(timeout=10)
        self.spaces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _opposite(change: str) -> str:
    return change.removesuffix("off") + "on" if change.endswith("off") else change.removesuffix("on") + "off"


def _write_frames(path: Path, seen: Sequence[tuple[int, str, str, str, bytes]]) -> None:
    with gzip.open(path, "wt", compresslevel=1) as lines:
        for at_ns, space, interface, direction, frame in seen:
            t = (at_ns - seen[0][0]) / 1e9
            one = {"t": t, "ns": space, "if": interface, "dir": direction, "text": "", "hex": frame.hex()}
            lines.write(json.dumps(one) + "\n")


def _write_action(
    path: Path,
    script: Script,
    runs: Sequence[tuple[Command, dict[str, Any]]],
    seen: Sequence[tuple[int, str, str, str, bytes]],
) -> None:
    first_s = seen[0][0] / 1e9 if seen else runs[0][1]["start"]
    document: dict[str, Any] = {
        "name": script.name,
        "about": "recorded here",
        "neighbours": "warm" if script.warm else "cold",
        "runs": [
            {
                "from": command.space,
                "command": command.line,
                "exit": done["exit"],
                "start": round(done["start"] - first_s, 6),
                "output": done["output"],
            }
            for command, done in runs
        ],
        "endpoints_drawn": [name for _, done in runs for name in _SAYS_WHO.findall(done["output"])],
        "frames": len(seen),
    }
    if script.before:
        document["before"] = list(script.before)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def _moved(earlier: dict[str, dict[str, tuple[int, int]]], later: dict[str, dict[str, tuple[int, int]]]) -> str:
    lines = []
    for node, counters in later.items():
        for key, (packets, octets) in counters.items():
            before = earlier[node].get(key, (0, 0))
            if (packets, octets) != before:
                lines.append(f"{node} {key} {packets - before[0]} {octets - before[1]}\n")
    return "".join(lines)
