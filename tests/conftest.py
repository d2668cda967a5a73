"""Settings that every test runs under: reproducible, and slow machines are no failure.

What a test directory shares is in the conftest.py of that directory; other programs are asked through ``tests.tools``.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests import tools

# Derandomised and without an example database: a run tells about the change under test, not about its luck.
# To search further: pytest --hypothesis-profile=search --hypothesis-seed=N
_COMMON = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", _COMMON, derandomize=True, database=None, max_examples=100)
settings.register_profile("ci", _COMMON, derandomize=True, database=None, max_examples=200)
settings.register_profile("search", _COMMON, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if tools.STRICT else "default"))
