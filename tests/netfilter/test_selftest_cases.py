"""The behaviours of Linux's own conntrack and NAT tests, here; ``tests/live`` runs the same cases on the kernel."""

from __future__ import annotations

import pytest

from pktsim.kernel.case import CaseRun
from tests.netfilter import selftest_cases, selftest_more_cases
from tests.netfilter.case_script import SERVER, Conversation, Expected, Script, last_outcome, problem_of, run
from tests.netfilter.selftest_cases import INVALID, handshake

SCRIPTS = selftest_cases.SCRIPTS | selftest_more_cases.SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_selftest(name: str) -> None:
    run(SCRIPTS[name]())


def test_names_are_unique_and_say_what_they_prove() -> None:
    scripts = [make() for make in SCRIPTS.values()]
    assert len({script.name for script in scripts}) == len(scripts)
    assert all(script.proves.endswith(".") for script in scripts)


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        (Expected(out=()), "left:"),
        (Expected(out=("out 10.1.0.9:1000 > 10.2.0.9:8080 tcp S",)), "left:"),
        (Expected(state="CLOSE"), "state ESTABLISHED"),
        (Expected(lacks=frozenset({"ASSURED"})), "status"),
        (Expected(has=frozenset({"DYING"})), "status"),
        (Expected(entries=2), "1 entries"),
        (Expected(rules={"filter/FORWARD/policy": 2}), "counted 1 packets, not 2"),
        (Expected(datagrams=("10.1.0.9:1000",)), "sockets heard"),
        (Expected(state="ESTABLISHED", out=("out 10.1.0.9:* > 10.2.0.9:8080 tcp .",)), ""),
    ],
)
def test_wrong_expectations_are_noticed(expected: Expected, problem: str) -> None:
    script = Script("handshake", "Nothing.", INVALID)
    handshake(script, Conversation(server=SERVER))
    case = CaseRun(script.case)
    case.run()
    found = problem_of(last_outcome(case), expected)
    assert problem in found if problem else not found


def test_a_script_that_is_wrong_fails() -> None:
    script = Script("wrong", "Nothing.", INVALID)
    script.dropped("in", Conversation().c("S", 0))
    with pytest.raises(AssertionError, match=r"wrong, step 0 \(in 10\.1\.0\.9:1000 > .* tcp S\): left:"):
        run(script)
    script = Script("miscounted", "Nothing.", INVALID)
    script.passes("in", Conversation().c("S", 0))
    script.counted(filter_FORWARD_1=1)
    with pytest.raises(AssertionError, match="filter/FORWARD/1 counted 0 packets, not 1"):
        run(script)
