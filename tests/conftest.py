"""Settings that every test runs under: reproducible, and slow machines are no failure.

What a test directory shares is in the conftest.py of that directory; other programs are asked through ``tests.tools``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.internal.constants_ast import Constants

from tests import tools


class _NoLocalConstants(HypothesisProvider):
    """What is drawn does not depend on which modules have been imported so far.

    Hypothesis also draws numbers and texts that stand in the modules under test, of those that are imported: others in
    each worker and after each test that was left out.
    """

    _local_constants = Constants()


AVAILABLE_PROVIDERS["hypothesis"] = _NoLocalConstants

# Derandomised and without an example database: a run tells about the change under test, not about its luck.
# To search further: pytest --hypothesis-profile=search --hypothesis-seed=N
_COMMON = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", _COMMON, derandomize=True, database=None, max_examples=100)
settings.register_profile("ci", _COMMON, derandomize=True, database=None, max_examples=200)
settings.register_profile("search", _COMMON, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if tools.STRICT else "default"))

#: What takes longest, in this order. Files are shared out among workers: whoever began one of these last would work on
#: alone. ``.ci/run`` ends with what took how long.
_LONGEST_FIRST = (
    "property/test_cluster_walks.py",
    "live/test_random_cases.py",
    "live/test_cluster_recordings.py",
    "recorded/test_cluster.py",
    "property/test_nat.py",
    "property/test_engine_fuzz.py",
    "property/test_iptables_round_trip.py",
    "live/test_iptables_text.py",
    "live/test_kube_proxy_outcomes.py",
    "golden/test_goldens.py",
    "test_readme.py",
    "live/test_selftest_cases.py",
    "live/test_random_flows.py",
    "live/test_tcp_scripts.py",
    "netfilter/test_relower.py",
    "test_fidelity.py",
    "property/test_wire.py",
    "fuzz/test_leaks.py",
    "live/test_policy_outcomes.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        here = Path(__file__).parent
        ranks = {here / name: rank for rank, name in enumerate(_LONGEST_FIRST)}
        items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
