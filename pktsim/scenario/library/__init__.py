"""The shipped experiments, one file each."""

from __future__ import annotations

from pathlib import Path

from pktsim.errors import ScenarioError

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of all shipped scenarios."""
    return sorted(path.name.removesuffix(".yaml").removesuffix(".py.txt") for path in _files())


def shipped(name: str) -> Path:
    """The file of a shipped scenario.

    Raises:
        ScenarioError: There is none of that name.
    """
    for path in _files():
        if path.name in (f"{name}.yaml", f"{name}.py.txt"):
            return path
    raise ScenarioError(f"no scenario {name!r} is shipped", mend="there are " + ", ".join(names()))


def _files() -> list[Path]:
    return sorted(path for path in _HERE.iterdir() if path.name.endswith((".yaml", ".py.txt")))
