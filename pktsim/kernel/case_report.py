"""What came of a case: as the format's ``result``, and as lines for people, explained rule by rule if wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pktsim.kernel.case import CaseRun, StepResult
from pktsim.kernel.case_recording import describe_step, entry_text
from pktsim.kernel.explain import Explainer, walk_lines
from pktsim.netfilter.ruleset import Family
from pktsim.rng import Choices
from pktsim.wire.summary import summary

_RULE_TEXTS = (("iptables", Family.IPV4), ("ip6tables", Family.IPV6))


class ExplainedCase:
    """A case that has been run, with what its node did to each packet.

    Args:
        case: The case, as parsed JSON.
        choices: Its chance.

    Raises:
        ObjectError: The case is not of the format.
        UnsupportedFeature: It needs something that is not modelled.
    """

    def __init__(self, case: Mapping[str, Any], choices: Choices | None = None) -> None:
        self.run = CaseRun(case, choices)
        self.walks: list[list[str]] = []
        explainer = Explainer()
        explainer.attach(self.run.node)
        for step in case["steps"]:
            self.run.take(step)
            self.walks.append(walk_lines(explainer.visits))
            explainer.clear()

    def result(self) -> dict[str, Any]:
        """The format's ``result``."""
        run = self.run
        final: dict[str, Any] = {"conntrack": run.final_conntrack()}
        for key, family in _RULE_TEXTS:
            if run.case.get(key):
                final[key] = run.final_rules(family)
        if run.case.get("ipsets"):
            final["ipsets"] = "\n".join(run.final_sets())
        return {"steps": [_step_result(step) for step in run.steps], "final": final}

    def lines(self, *, trace: bool = False) -> Iterator[str]:
        """Step by step: what was given, what came of it, and with ``trace`` why."""
        for index, (step, came) in enumerate(zip(self.run.case["steps"], self.run.steps, strict=True)):
            yield f"{index}: {describe_step(step)}"
            if trace:
                yield from (f"    {line}" for line in self.walks[index])
            yield from (f"    {line}" for line in _came_of(came))
        yield "in the end:"
        yield from (f"    {_entry_line(entry)}" for entry in self.run.final_conntrack())


def _step_result(step: StepResult) -> dict[str, Any]:
    result: dict[str, Any] = {
        "emitted": [{"interface": name, "frame": frame.hex(), "text": summary(frame)} for name, frame in step.emitted]
    }
    named = {
        "delivered": step.delivered,
        "sockets": step.sockets,
        "error": step.error,
        "rules": {name: list(pair) for name, pair in sorted(step.rules.items())},
        "conntrack": step.conntrack,
    }
    return result | {key: value for key, value in named.items() if value}


def _came_of(step: StepResult) -> Iterable[str]:
    for name, frame in step.emitted:
        yield f"{name} < {summary(frame)}"
    if step.delivered:
        yield f"{step.delivered} delivered on the node"
    for datagram in step.sockets:
        yield f"socket {datagram['socket']} received {len(datagram['data']) // 2} bytes"
    if step.error:
        yield f"the sender is told {step.error}"
    for entry in step.conntrack:
        yield _entry_line(entry)
    if not (step.emitted or step.delivered or step.error):
        yield "nothing leaves"


def _entry_line(entry: Mapping[str, Any]) -> str:
    if "gone" in entry:
        return f"connection {entry_text(entry)}"
    state = f" {entry['state']}" if "state" in entry else ""
    reply = entry_text({"orig": entry["reply"]})
    return f"connection {entry_text(entry)}, answered by {reply},{state} {' '.join(entry['status'])}"
