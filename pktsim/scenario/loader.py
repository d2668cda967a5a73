"""Reading scenarios: YAML with a ``kind: Scenario`` document at the end, or a Python script."""

from __future__ import annotations

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
    if path.suffix == ".py" or path.name.endswith(".py.txt"):
        if not path.is_file():
            raise ScenarioError("no such file", file=str(path))
        return Scenario(path.name.removesuffix(".txt").removesuffix(".py"), file=path, script=path)
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
