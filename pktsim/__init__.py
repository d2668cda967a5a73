"""pktsim: Kubernetes service networking, packet by packet, on simulated wires.

import pktsim

cluster = pktsim.Cluster.load("shop.yaml", seed=7)
print(cluster.pod("default/client").http_get("http://web/").text)
cluster.capture.write("walk.pcapng")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pktsim.clock import Clock
    from pktsim.cluster.cluster import Cluster
    from pktsim.errors import PktsimError, UnsupportedFeature
    from pktsim.kernel.kernel import Kernel
    from pktsim.rng import Choices, ScriptedChoices, SeededChoices, explore

__version__ = "0.1.0"

#: Public names and where they are defined; imported when they are first asked for, so that ``pktsim --help`` is quick.
_PUBLIC = {
    "Choices": "pktsim.rng",
    "Clock": "pktsim.clock",
    "Cluster": "pktsim.cluster.cluster",
    "Kernel": "pktsim.kernel.kernel",
    "PktsimError": "pktsim.errors",
    "ScriptedChoices": "pktsim.rng",
    "SeededChoices": "pktsim.rng",
    "UnsupportedFeature": "pktsim.errors",
    "explore": "pktsim.rng",
}

__all__ = [
    "Choices",
    "Clock",
    "Cluster",
    "Kernel",
    "PktsimError",
    "ScriptedChoices",
    "SeededChoices",
    "UnsupportedFeature",
    "explore",
]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'pktsim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
