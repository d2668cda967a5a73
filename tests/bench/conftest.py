"""What the benchmarks share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def services(request: pytest.FixtureRequest) -> int:
    """How many Services a large cluster has: 10,000 if somebody looks at the time that they take."""
    return 1000 if request.config.getoption("benchmark_disable") else 10_000
