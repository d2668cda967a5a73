"""What the scripts of the ``…_cases`` beside this say, here; ``tests/live`` runs them on the kernel."""

from __future__ import annotations

import pytest

from tests.kernel.case_scripts import SCRIPTS
from tests.netfilter.case_script import run


@pytest.mark.parametrize("name", SCRIPTS)
def test_node_case(name: str) -> None:
    run(SCRIPTS[name]())
