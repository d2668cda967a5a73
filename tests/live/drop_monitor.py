"""Why the running kernel drops what one process has set off: the tracepoint ``skb:kfree_skb``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import tools

_REASON = re.compile(r"kfree_skb: .* reason: (\w+)")


class DropMonitor:
    """The drops in softirqs that run when a process has sent a frame; other processes' are not seen.

    Args:
        instance: A tracing instance's directory.
        pid: Of the process.
    """

    def __init__(self, instance: Path, pid: int) -> None:
        self._instance = instance
        event = instance / "events/skb/kfree_skb"
        (event / "filter").write_text(f"common_pid == {pid}")
        (event / "enable").write_text("1")

    def take(self) -> list[str]:
        """The reasons since the last call, in order."""
        trace = self._instance / "trace"
        found = _REASON.findall(trace.read_text())
        trace.write_text("")
        return found


@contextmanager
def monitored(pid: int, directory: Path) -> Iterator[DropMonitor]:
    """Watch a process; ``directory`` is an empty one that tracefs can be mounted at."""
    tools.need("mount", "umount")
    mounted = directory / "tracing"
    mounted.mkdir()
    try:
        tools.run("mount", "-t", "tracefs", "none", str(mounted))
    except AssertionError as error:
        tools.missing(f"tracefs cannot be mounted ({error})")
    instance = mounted / "instances" / f"pktsim-test-{os.getpid()}"
    try:
        instance.mkdir()
        try:
            yield DropMonitor(instance, pid)
        finally:
            (instance / "events/enable").write_text("0")
            for _ in range(20):  # a reader that is still there keeps it
                try:
                    instance.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)
    finally:
        tools.run("umount", str(mounted))
