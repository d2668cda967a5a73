"""Imports go down only, Scapy stays at the edges, and nothing reads the machine's clock or dice.

Reads the imports with ``ast``, also those inside functions and under ``TYPE_CHECKING``: a layer that needs a name from
above is no lower layer, however late it asks.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pktsim

PACKAGE = Path(pktsim.__file__).parent

#: Room -> rooms it may import from, besides itself. The leaves import nothing of ours.
LEAVES = frozenset({"errors", "clock", "rng", "fidelity"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "clock": frozenset(),
    "rng": frozenset(),
    "fidelity": frozenset(),
    "_fastpath": frozenset(),
    "wire": LEAVES,
    "netfilter": LEAVES | {"wire", "_fastpath"},
    "kernel": LEAVES | {"wire", "_fastpath", "netfilter"},
    "cluster": LEAVES | {"wire", "_fastpath", "netfilter", "kernel"},
    "scenario": LEAVES | {"wire", "_fastpath", "netfilter", "kernel", "cluster"},
    # beside scenario: it reads the tables of every layer
    "fidelity_report": LEAVES | {"wire", "_fastpath", "netfilter", "kernel", "cluster"},
    "cli": LEAVES | {"wire", "_fastpath", "netfilter", "kernel", "cluster", "scenario", "fidelity_report"},
    "__main__": frozenset({"cli"}),
    "__init__": LEAVES | {"wire", "netfilter", "kernel", "cluster", "scenario"},
}

#: Where Scapy may be imported, and only inside functions or for type checking: it takes most of a second.
SCAPY_EDGES = frozenset(
    {
        "pktsim.wire.scapy_io",
        "pktsim.cluster.machines",  # pods send and hear Scapy packets: the name of the type
    }
)
#: Shipped scripts craft packets as users do.
SCRIPTS = "pktsim.scenario.library."
#: Modules that would bring in the machine's time or chance, and who may have them.
NOT_DETERMINISTIC: dict[str, frozenset[str]] = {
    # kube-dns shuffles as Go does, by generators that Choices seed.
    "random": frozenset({"pktsim.rng", "pktsim.cluster.kubedns.forward", "pktsim.cluster.kubedns.plugin"}),
    "secrets": frozenset(),
    "time": frozenset(),
    "uuid": frozenset(),
}
#: For tests only.
TEST_ONLY = frozenset({"pytest", "hypothesis", "_pytest"})


def module_name(path: Path) -> str:
    """``pktsim.wire.frame`` for its path."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The layer that a module of ours belongs to; the package itself is ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Absolute name, line and whether it runs at import, of every import in a module.

    ``from pktsim.wire import frame`` counts as ``pktsim.wire.frame`` where that is a module.
    """
    tree = ast.parse(source)
    late: set[int] = set()
    for node in ast.walk(tree):
        is_guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if is_guard or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            late.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        at_import = id(node) not in late
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, at_import
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".") if is_package else module.split(".")[:-1]
                kept = above[: len(above) - (node.level - 1)]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                known = inner in MODULES or inner == "pktsim._fastpath"
                yield (inner if known else base), node.lineno, at_import


@functools.cache
def all_imports(module: str) -> list[tuple[str, int, bool]]:
    path = MODULES[module]
    return list(imports_of(path.read_text(), module, is_package=path.name == "__init__.py"))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    room = room_of(module)
    assert room in MAY_IMPORT, f"{module}: {room} is no layer that STYLE knows; say here what it may import"
    wrong = [
        f"{MODULES[module].name}:{line} imports {name}"
        for name, line, _ in all_imports(module)
        if name.split(".")[0] == "pktsim" and room_of(name) != room and room_of(name) not in MAY_IMPORT[room]
    ]
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_scapy_stays_at_the_edges(module: str) -> None:
    found = [(line, at_import) for name, line, at_import in all_imports(module) if name.split(".")[0] == "scapy"]
    if module.startswith(SCRIPTS):
        return
    assert not found or module in SCAPY_EDGES
    assert not [line for line, at_import in found if at_import], "import Scapy in the function that needs it"


@pytest.mark.parametrize("module", MODULES)
def test_time_and_chance_are_arguments(module: str) -> None:
    wrong = [
        f"{MODULES[module].name}:{line} imports {name}"
        for name, line, _ in all_imports(module)
        if module not in NOT_DETERMINISTIC.get(name.split(".")[0], frozenset({module}))
    ]
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_the_package_does_not_need_the_test_tools(module: str) -> None:
    assert not TEST_ONLY & {name.split(".")[0] for name, _, _ in all_imports(module)}


def test_the_engine_imports_nothing_of_ours() -> None:
    sources = [*PACKAGE.glob("*.pyx"), *PACKAGE.glob("*.pxd"), *PACKAGE.glob("includes/*.pxi")]
    assert sources
    for path in sources:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = line.split()
            if words[:1] in (["import"], ["from"], ["cimport"]):
                assert not words[1].startswith("pktsim"), f"{path.name}:{number}: {line}"


def test_importing_the_package_does_not_import_scapy() -> None:
    code = "import sys, pktsim; print('scapy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pktsim.kernel.ip as ip", [("pktsim.kernel.ip", 1, True)]),
        ("from pktsim.wire import frame", [("pktsim.wire.frame", 1, True)]),
        ("from pktsim.wire.frame import udp", [("pktsim.wire.frame", 1, True)]),
        ("from . import frame", [("pktsim.wire.frame", 1, True)]),
        ("from .frame import udp", [("pktsim.wire.frame", 1, True)]),
        ("from ..errors import FrameError", [("pktsim.errors", 1, True)]),
        ("def f():\n    import scapy.all", [("scapy.all", 2, False)]),
        ("if TYPE_CHECKING:\n    from scapy.packet import Packet", [("scapy.packet", 2, False)]),
        ("try:\n    import scapy.all\nexcept ImportError:\n    pass", [("scapy.all", 2, True)]),
    ],
)
def test_the_reader_sees_every_form_of_import(source: str, expected: list[tuple[str, int, bool]]) -> None:
    assert list(imports_of(source, "pktsim.wire.summary")) == expected
