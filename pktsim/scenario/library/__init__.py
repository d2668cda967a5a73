"""The shipped experiments, one file each."""

from __future__ import annotations

from pathlib import Path

from pktsim.errors import ScenarioError

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of all shipped scenarios."""
    return sorted(path.stem for path in _files())


def shipped(name: str) -> Path:
    """The file of a shipped scenario.

    Raises:
        ScenarioError: There is none of that name.
    """
    for path in _files():
        if path.stem == name:
            return path
    raise ScenarioError(f"no scenario {name!r} is shipped", mend="there are " + ", ".join(names()))


def _files() -> list[Path]:
    return sorted(path for path in _HERE.iterdir() if path.suffix in (".yaml", ".py") and path.stem != "__init__")
