"""The kernel's TCP and ours over time: retransmission, recovery, probes, keep-alive, opening, closing.

All scripts are played to the kernel at once, so that they take no longer than the longest of them; then each is played
to ours, and compared. What a busy machine has played too late is played again.
"""

from __future__ import annotations

import json
import random

import pytest

from pktsim.kernel.tcp_segment import ACK
from tests.live import tcp_scripts
from tests.live.tcp_conversation import SYSCTLS, Options, Say
from tests.live.tcp_kernel import PUNCTUAL_NS, lateness_ns, play, play_punctually
from tests.live.tcp_random import random_script
from tests.live.tcp_script import Event, Script, differences, outcomes, replay, transcript

SCRIPTS: dict[str, Script] = {
    f"{group}: {name}": script
    for group, scripts in {
        "retransmission": tcp_scripts.RETRANSMISSION,
        "timers": tcp_scripts.TIMERS,
        "acknowledging": tcp_scripts.ACKNOWLEDGING,
        "opening": tcp_scripts.OPENING_SCRIPTS,
        "closing": tcp_scripts.CLOSING,
    }.items()
    for name, script in scripts.items()
}


@pytest.fixture(scope="module")
def kernel(_live_machine: None) -> dict[str, list[Event]]:
    """What came of each script in the kernel, when it was played most punctually."""
    by_sysctls: dict[str, dict[str, Script]] = {}
    for name, script in SCRIPTS.items():
        by_sysctls.setdefault(json.dumps(script.sysctls), {})[name] = script
    return {name: events for scripts in by_sysctls.values() for name, events in play_punctually(scripts).items()}


def _compare(name: str, script: Script, theirs: list[Event]) -> None:
    ours = replay(script, theirs, {**SYSCTLS, **script.sysctls})
    found = differences(script, theirs, ours)
    assert not found, "\n".join([name, *found, "kernel:", transcript(theirs), "here:", transcript(ours)])


@pytest.mark.parametrize("name", SCRIPTS)
def test_alike(kernel: dict[str, list[Event]], name: str) -> None:
    _compare(name, SCRIPTS[name], kernel[name])


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_hangs_on_a_moment(name: str) -> None:
    script = SCRIPTS[name]
    sysctls = {**SYSCTLS, **script.sysctls}
    assert len(outcomes(script, sysctls, random.Random(name), within_ns=PUNCTUAL_NS)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("_live_machine")
def test_random_conversations_are_alike() -> None:
    """A machine that is busy plays some too late, which says nothing; what differs must do so each time to count."""
    drawn = {f"seed {seed}": random_script(seed) for seed in range(300, 345)}
    waiting = {
        name: script
        for name, script in drawn.items()
        if len(outcomes(script, SYSCTLS, random.Random(name), within_ns=PUNCTUAL_NS)) == 1
    }
    assert len(waiting) > 35
    compared = 0
    complaints: dict[str, str] = {}
    for _ in range(4):
        for name, theirs in play(waiting).items():
            if lateness_ns(waiting[name], theirs) > PUNCTUAL_NS:
                continue
            ours = replay(waiting[name], theirs, SYSCTLS)
            found = differences(waiting[name], theirs, ours)
            if found:
                complaints[name] = "\n".join([name, *found, "kernel:", transcript(theirs), "here:", transcript(ours)])
                continue
            compared += 1
            complaints.pop(name, None)
            del waiting[name]
        if not waiting:
            break
    assert not complaints, "\n\n".join(complaints.values())
    assert compared > 10, "the machine is too busy"


def test_the_harness_sees_another_segment_and_another_time() -> None:
    """It must be able to fail."""
    script = tcp_scripts.script((10, "write 100"), end_ms=400)
    theirs = replay(script, [Event(number * 10_000_000, "did", "") for number in range(5)], SYSCTLS)
    assert not differences(script, theirs, theirs)
    other = [*theirs]
    other[-1] = Event(other[-1].at_ns, "seen", other[-1].text.replace("P.", "."))
    assert differences(script, theirs, other)
    assert differences(script, theirs, theirs[:-1])
    late = [*theirs]
    late[-1] = Event(late[-1].at_ns + 120_000_000, "seen", late[-1].text)
    assert "120" in differences(script, late, theirs)[0] or "after" in differences(script, late, theirs)[0]


def test_scripts_survive_being_written_down() -> None:
    script = Script([(1.5, Say(ACK, 1, 2, sack=((3, 4),))), (0, "read")], 20, Options(mss=500), sysctls={"a": 1})
    assert Script.from_json(json.loads(json.dumps(script.to_json()))) == script
