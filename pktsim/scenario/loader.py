"""Reading scenarios: YAML with a ``kind: Scenario`` document at the end, or a Python script."""

from __future__ import annotations

import ast
from pathlib import Path

from pktsim.cluster.loader import parse_objects, read_documents
from pktsim.errors import ScenarioError
from pktsim.scenario.model import Scenario, ScenarioDocument

KIND = "Scenario"


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario file.

    Args:
        path: A ``.yaml`` file, or a ``.py`` script with a function ``run(seed)`` that returns a
            :class:`~pktsim.cluster.cluster.Cluster`.

    Raises:
        ScenarioError: It is neither, or has no scenario in it.
        ObjectError: An object or a field of the scenario is wrong.
    """
    path = Path(path)
    if path.suffix == ".py":
        if not path.is_file():
            raise ScenarioError("no such file", file=str(path))
        return Scenario(path.stem, file=path, script=path)
    if path.suffix not in (".yaml", ".yml"):
        raise ScenarioError("not a scenario", file=str(path), mend="give a .yaml file or a .py script")
    documents = read_documents(path)
    scenarios = [document for document in documents if document.kind == KIND]
    if not scenarios:
        raise ScenarioError(
            "has no document of kind Scenario", file=str(path), mend="add one behind the objects; see pktsim run --help"
        )
    if len(scenarios) > 1:
        raise ScenarioError("has a second scenario", file=str(path), line=scenarios[1].line, mend="one to a file")
    found = scenarios[0].parse(ScenarioDocument)
    objects = parse_objects(document for document in documents if document.kind != KIND)
    name = found.metadata.name or path.stem
    return Scenario(name, tuple(objects), found.spec, file=path)


def about(path: Path) -> str:
    """What a scenario shows, in a line: what its document says, or the first line of a script's docstring."""
    scenario = load_scenario(path)
    if scenario.script is None:
        return scenario.spec.about
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ScenarioError(f"{error.msg}", file=str(path), line=error.lineno) from None
    return (ast.get_docstring(tree) or "").partition("\n")[0]
