"""What is sent, and how it is told."""

from __future__ import annotations

import pytest

from pktsim.cluster.tracer import split_target
from pktsim.errors import TopologyError


@pytest.mark.parametrize(
    ("target", "found"), [("web", ("web", 80)), ("web:8080", ("web", 8080)), ("10.0.0.1:1", ("10.0.0.1", 1))]
)
def test_targets(target: str, found: tuple[str, int]) -> None:
    assert split_target(target) == found
    with pytest.raises(TopologyError):
        split_target("web:http")
