"""Prints results: rich on a terminal, plain text when piped, data for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pktsim.clock import NS_PER_S
from pktsim.cluster.walk import Walk
from pktsim.scenario.runner import Result


def _console() -> Console:
    # Lines are as long as rules are: wrapping them would break them for whoever greps.
    return Console(soft_wrap=True, highlight=False)


def print_result(result: Result, written: list[Path], *, console: Console | None = None) -> None:
    """Tell what came of a scenario, step by step."""
    console = _console() if console is None else console
    console.print(Text(f"{result.name}: {result.about}" if result.about else result.name, style="bold"))
    for step in result.steps:
        console.print()
        console.print(Text(step.title, style="bold cyan"))
        _print_walk_lines(step.walk, console)
        style = "green" if not step.unmet else "red"
        console.print(Text(f"-> {step.outcome}", style=style))
        for text in step.unmet:
            console.print(Text(f"   not as expected: {text}", style="red"))
    console.print()
    frames = len(result.cluster.capture)
    took_s = result.cluster.clock.now_ns / NS_PER_S
    console.print(f"{frames} frames in {took_s:.3f} simulated seconds")
    for path in written[:1]:
        console.print(f"written: {path}, and {len(written) - 1} files of single interfaces beside it")
    if not result.met:
        number = sum(bool(step.unmet) for step in result.steps)
        console.print(Text(f"{number} of {len(result.steps)} steps did not go as expected", style="red"))


def print_trace(walk: Walk, *, console: Console | None = None) -> None:
    """Tell one walk."""
    console = _console() if console is None else console
    if walk.title:
        console.print(Text(walk.title, style="bold cyan"))
    _print_walk_lines(walk, console)
    console.print(Text(f"-> {walk.outcome}", style="green" if walk.delivered else "red"))


def _print_walk_lines(walk: Walk, console: Console) -> None:
    for line in Walk("", "", walk.delivered, walk.passages, walk.notes).lines():
        stripped = line.strip()
        if line[:1] not in ("", " "):
            style = "bold" if "  [" not in line else ""
        elif stripped.startswith("NAT:") or "becomes" in stripped:
            style = "yellow"
        elif stripped.startswith(("dropped", "rejected")):
            style = "red"
        elif stripped.startswith(("-A", "end of chain")):
            style = "dim" if stripped.startswith("end") else ""
        else:
            style = ""
        console.print(Text(line, style=style))


def result_as_data(result: Result) -> dict[str, Any]:
    """A result for machines."""
    return {
        "name": result.name,
        "about": result.about,
        "met": result.met,
        "frames": len(result.cluster.capture),
        "simulated_s": result.cluster.clock.now_ns / NS_PER_S,
        "steps": [
            {
                "title": step.title,
                "outcome": step.outcome,
                "unmet": list(step.unmet),
                "began_ns": step.began_ns,
                "ended_ns": step.ended_ns,
                "walk": step.walk.as_data(),
            }
            for step in result.steps
        ],
    }


def trace_as_data(walk: Walk) -> dict[str, Any]:
    """A walk for machines."""
    return walk.as_data()
