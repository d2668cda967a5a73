"""Scripts played to the running kernel: all at the same time, and again where the machine was late."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import tests
from pktsim.clock import NS_PER_MS
from tests.live import netns
from tests.live.tcp_conversation import FAR_MAC, NEAR_MAC, SYSCTLS
from tests.live.tcp_script import Event, Script, until_the_end

#: A step that comes later than this may meet what it was to keep away from.
PUNCTUAL_NS: Final = 4 * NS_PER_MS
_ROUNDS: Final = 5


def play(scripts: Mapping[str, Script]) -> dict[str, list[Event]]:
    """Play scripts, all with the same settings, to the kernel."""
    sysctls = {**SYSCTLS, **next(iter(scripts.values())).sysctls}
    link = netns.Link("eth0", NEAR_MAC, ("10.77.0.1/24",), far_mac=FAR_MAC)
    with netns.Namespace([link], neighbours=[("10.77.0.2", FAR_MAC, "eth0")], sysctls=sysctls) as node:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.live.tcp_script_process", node.far, node.name],
            input=json.dumps({name: script.to_json() for name, script in scripts.items()}),
            cwd=Path(tests.__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    return {
        name: until_the_end(scripts[name], [Event(*event) for event in events])
        for name, events in json.loads(ran.stdout).items()
    }


def play_punctually(scripts: Mapping[str, Script]) -> dict[str, list[Event]]:
    """Play scripts until each has been played in time, or often enough; what came of each when it was least late."""
    best: dict[str, tuple[int, list[Event]]] = {}
    late = scripts
    for _ in range(_ROUNDS):
        for name, events in play(late).items():
            lateness = lateness_ns(scripts[name], events)
            if name not in best or lateness < best[name][0]:
                best[name] = (lateness, events)
        late = {name: scripts[name] for name, (lateness, _) in best.items() if lateness > PUNCTUAL_NS}
        if not late:
            break
    return {name: events for name, (_, events) in best.items()}


def lateness_ns(script: Script, events: list[Event]) -> int:
    """By how much the latest step came late: beyond :data:`PUNCTUAL_NS`, all may be otherwise."""
    moments = [event.at_ns for event in events if event.kind == "did"]
    planned_ns = 0
    late: list[int] = []
    for (delay_ms, _), at_ns in zip(script.steps, moments, strict=True):
        planned_ns += round(delay_ms * NS_PER_MS)
        late.append(at_ns - planned_ns)
    return max(late) - min(late)
